//! Whose connection is it?
//!
//! Every process on this machine dials loopback from 127.0.0.1, so a forwarder can't tell by the
//! address which node it serves. The kernel can: `/proc/net/tcp` names the inode of the socket at
//! the other end, and `/proc/<pid>/fd` says which process holds it. No privilege is needed for
//! one's own processes.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

/// Which of these processes holds the socket that is bound to `source` and connected to `target`.
/// Nothing, if it is closed again or belongs to none of them.
pub(crate) fn dialer(
    processes: &[Option<u32>],
    source: SocketAddr,
    target: SocketAddr,
) -> Option<usize> {
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    let link = format!("socket:[{}]", inode(&table, source, target)?);
    processes.iter().position(|process| process.is_some_and(|id| holds(id, &link)))
}

fn holds(process: u32, link: &str) -> bool {
    let Ok(open) = fs::read_dir(format!("/proc/{process}/fd")) else { return false };
    let mut links = open.flatten().filter_map(|file| fs::read_link(file.path()).ok());
    links.any(|file| file.as_os_str() == link)
}

/// The inode of a socket, by its two ends, in the text of `/proc/net/tcp`.
fn inode(table: &str, source: SocketAddr, target: SocketAddr) -> Option<u64> {
    let mut rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.find_map(|row| {
        let (local, remote) = (address(row.get(1)?)?, address(row.get(2)?)?);
        let found = (SocketAddr::V4(local), SocketAddr::V4(remote)) == (source, target);
        found.then(|| row.get(9)?.parse().ok()).flatten()
    })
}

/// An address as the kernel prints it: the four bytes in the order of this machine, then the port.
fn address(text: &str) -> Option<SocketAddrV4> {
    let (ip, port) = text.split_once(':')?;
    let ip = u32::from_str_radix(ip, 16).ok()?.to_ne_bytes();
    Some(SocketAddrV4::new(Ipv4Addr::from(ip), u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_connection_of_this_process_is_its_own_and_nobody_s_when_it_is_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = listener.local_addr().unwrap();
        let stream = TcpStream::connect(target).unwrap();
        let source = stream.local_addr().unwrap();
        let us = Some(std::process::id());
        assert_eq!(dialer(&[None, Some(1), us], source, target), Some(2));
        assert_eq!(dialer(&[None], source, target), None);
        drop((listener, stream));
        assert_eq!(dialer(&[us], source, target), None);
    }

    #[test]
    fn a_row_of_the_kernels_table_is_read() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
             0: 0100007F:C350 0A00027F:1F90 01 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0\n";
        let (source, target) =
            ("127.0.0.1:50000".parse().unwrap(), "127.2.0.10:8080".parse().unwrap());
        assert_eq!(inode(table, source, target), Some(4711));
        assert_eq!(inode(table, target, source), None);
        assert_eq!(inode("garbage\nx y", source, target), None);
    }
}
