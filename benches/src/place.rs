//! Where servers live for the time of a measurement: a directory and some ports.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

/// Ports are looked for from here, below the range that outgoing connections take theirs from.
const PORT_MIN: u16 = 21_000;
/// The last port looked at.
const PORT_MAX: u16 = 31_999;
/// The number of a file system held in memory, in `statfs`.
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// A new directory below `parent`, which is made if need be. It is removed when dropped.
///
/// # Errors
/// The directory can't be made.
pub(crate) fn scratch(parent: &Path) -> Result<TempDir> {
    let make = || -> Result<TempDir> {
        fs::create_dir_all(parent)?;
        let parent = parent.canonicalize()?;
        Ok(tempfile::Builder::new().prefix("run-").tempdir_in(parent)?)
    };
    let dir = make().with_context(|| format!("make a data directory in {}", parent.display()))?;
    if in_memory(dir.path())? {
        eprintln!("warning: {} is in memory: a sync costs nothing there", parent.display());
    }
    Ok(dir)
}

/// Whether a sync of this directory's files is no work at all.
pub(crate) fn in_memory(dir: &Path) -> Result<bool> {
    let file_system =
        rustix::fs::statfs(dir).with_context(|| format!("look at {}", dir.display()))?;
    Ok(file_system.f_type == TMPFS_MAGIC)
}

/// Bytes allocated for all files below a directory; one that goes away meanwhile counts nothing.
pub(crate) fn allocated_bytes(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let each = entries.flatten().map(|entry| match entry.metadata() {
        Ok(data) if data.is_dir() => allocated_bytes(&entry.path()),
        Ok(data) => data.blocks() * 512,
        Err(_) => 0,
    });
    each.sum()
}

/// Loopback addresses whose port is free for TCP and for UDP at this moment. Somebody else may
/// take one before the server does; then the server does not start, and the run ends.
///
/// # Errors
/// There are not so many.
pub(crate) fn free_addresses(count: usize) -> Result<Vec<SocketAddr>> {
    // Two runs at the same time start at different places.
    let offset = (std::process::id() % 100) as u16 * 100;
    let ports = (PORT_MIN + offset..=PORT_MAX).chain(PORT_MIN..PORT_MIN + offset);
    let free: Vec<SocketAddr> = ports
        .map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        .filter(|address| TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok())
        .take(count)
        .collect();
    if free.len() < count {
        bail!("only {} of {count} ports are free from {PORT_MIN} to {PORT_MAX}", free.len());
    }
    Ok(free)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_addresses_differ_and_can_be_bound() {
        let addresses = free_addresses(20).unwrap();
        let listeners: Vec<_> = addresses.iter().map(TcpListener::bind).collect();
        assert!(listeners.iter().all(Result::is_ok), "{listeners:?}");
    }

    #[test]
    fn files_of_folders_below_are_counted_as_they_are_allocated() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("below")).unwrap();
        fs::write(dir.path().join("below/file"), vec![1; 10_000]).unwrap();
        fs::File::create(dir.path().join("sparse")).unwrap().set_len(1 << 30).unwrap();
        fs::File::open(dir.path().join("below/file")).unwrap().sync_all().unwrap();
        let bytes = allocated_bytes(dir.path());
        assert!((10_000..100_000).contains(&bytes), "{bytes}");
        assert_eq!(allocated_bytes(&dir.path().join("none")), 0);
    }

    #[test]
    fn a_taken_port_is_passed_over() {
        let first = free_addresses(1).unwrap();
        let _taken = UdpSocket::bind(first[0]).unwrap();
        assert!(!free_addresses(5).unwrap().contains(&first[0]));
    }

    #[test]
    fn a_scratch_directory_goes_when_it_is_dropped() {
        let parent = tempfile::tempdir().unwrap();
        let dir = scratch(&parent.path().join("made/for/it")).unwrap();
        let path = dir.path().to_owned();
        assert!(path.is_absolute() && path.is_dir());
        drop(dir);
        assert!(!path.exists());
    }
}
