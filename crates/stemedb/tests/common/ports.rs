//! Ports that stay free while their owner is down.
//!
//! A port from the system's own range (above 32767) may be taken by any
//! outgoing connection while a node of a test is killed, and the node could not come back. So
//! ports are taken from below it, beginning at a place that differs by process.

#![allow(clippy::unwrap_used)]

use std::net::{TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};

const FIRST: u32 = 10_000;
const COUNT: u32 = 22_000;

/// A port on loopback that is free for TCP and UDP, and given out once in this process.
pub(crate) fn free() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        // 61 apart by process: room for the ports of one test before the next one's begin.
        let port = FIRST + (std::process::id().wrapping_mul(61).wrapping_add(step)) % COUNT;
        let port = u16::try_from(port).unwrap();
        let free = TcpListener::bind(("127.0.0.1", port)).is_ok()
            && UdpSocket::bind(("127.0.0.1", port)).is_ok();
        if free {
            return port;
        }
    }
    panic!("no port is free");
}
