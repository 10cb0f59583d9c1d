//! Everybody who waits is told, whatever becomes of the writer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use stemedb_wal::disk::sim::SimDisk;
use stemedb_wal::{Error, Options, Wal};

use crate::common::*;

const SOON: Duration = Duration::from_secs(5);

fn flag() -> (Arc<AtomicBool>, Arc<AtomicBool>) {
    let flag = Arc::new(AtomicBool::new(false));
    (flag.clone(), flag)
}

#[test]
fn a_panic_in_a_round_is_told_to_all_who_wait_for_it() {
    let disk = SimDisk::new(1);
    let (armed, seen) = flag();
    let hook = move |what: &str, _: &str| {
        assert!(what != "write" || !seen.load(Ordering::SeqCst), "a panic on demand");
        Ok(())
    };
    let (wal, _) = Wal::open_on(Hooked::on(&disk, hook), small()).unwrap();
    append(&wal, A, 1, &["durable"]);
    armed.store(true, Ordering::SeqCst);
    let (completion, result) = done();
    wal.append(A, 2, payloads(&["lost"]), completion).unwrap();
    let told = result.recv_timeout(SOON);
    assert!(matches!(told, Ok(Err(Error::Poisoned { .. }))), "{told:?}");
}

#[test]
fn who_waits_for_room_is_called_though_a_segment_could_not_be_let_go() {
    let disk = SimDisk::new(1);
    let (armed, seen) = flag();
    let hook = move |what: &str, name: &str| {
        let goes = what == "remove" || (what == "rename" && name.ends_with(".wal"));
        match goes && seen.load(Ordering::SeqCst) {
            true => Err(std::io::Error::other("it stays")),
            false => Ok(()),
        }
    };
    let options = Options { queue_bytes_max: 1000, ..small() };
    let (wal, _) = Wal::open_on(Hooked::on(&disk, hook), options).unwrap();
    for index in 1..30 {
        append(&wal, A, index, &[&"x".repeat(400)]);
    }
    armed.store(true, Ordering::SeqCst);
    let (go, gate) = channel::<()>();
    let (called, is_called) = channel();
    let held = move |_| {
        called.send(()).unwrap();
        gate.recv().unwrap_or(())
    };
    wal.append(B, 1, payloads(&["held"]), Box::new(held)).unwrap();
    assert_eq!(is_called.recv_timeout(SOON), Ok(()), "what follows is a batch of its own");
    wal.purge_to(A, 29, Bytes::new(), None).unwrap();
    let (completion, big) = done();
    wal.append(B, 2, payloads(&[&"x".repeat(2000)]), completion).unwrap();
    let (room, has_room) = channel();
    wal.when_room(Box::new(move || room.send(()).unwrap()));
    drop(go);
    assert_eq!(big.recv_timeout(SOON), Ok(Ok(())));
    assert_eq!(has_room.recv_timeout(SOON), Ok(()));
    while wal.poisoned().is_none() {
        std::thread::yield_now();
    }
}

#[test]
fn a_stream_that_was_forgotten_is_not_quarantined_for_an_entry_it_had() {
    // Intent: the writer reads a damaged entry of B to move it just when B is forgotten.
    let disk = SimDisk::new(1);
    drop(open(&disk));
    let waiting: Arc<Mutex<Option<Wal>>> = Arc::default();
    let hook = {
        let waiting = waiting.clone();
        move |what: &str, name: &str| {
            if what == "read"
                && name == "0000000000000001.wal"
                && let Some(wal) = waiting.lock().unwrap().take()
            {
                wal.forget(B, Box::new(|_| {})).unwrap();
            }
            Ok(())
        }
    };
    let (wal, _) = Wal::open_on(Hooked::on(&disk, hook), small()).unwrap();
    append(&wal, B, 1, &["quiet one"]);
    let bytes = disk.bytes("0000000000000001.wal").unwrap();
    let at = bytes.windows(9).position(|window| window == b"quiet one").unwrap();
    disk.flip("0000000000000001.wal", at, 3);
    *waiting.lock().unwrap() = Some(wal.clone());
    for index in 1..100 {
        append(&wal, A, index, &[&"x".repeat(200)]);
        purge(&wal, A, index, "");
    }
    assert!(waiting.lock().unwrap().is_none(), "it was read");
    assert_eq!((wal.quarantined(), wal.streams()), (vec![], vec![A]));
    append(&wal, B, 1, &["new"]);
    assert_eq!(texts(&wal, B), ["new"]);
}
