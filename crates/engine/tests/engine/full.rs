//! A volume that runs full: what RocksDB does then, and how the store comes back.
//!
//! A real, small file system (tmpfs) is mounted for it. Where that is not permitted the tests say so
//! and pass.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use stemedb_engine::{Budget, Group, Health, RocksStore, Store};
use stemedb_machine::shard::suite::key;
use stemedb_machine::shard::{BucketNumber, Change, Head, View};
use stemedb_types::{GroupId, Revision};
use tempfile::TempDir;

use crate::common::commits;

/// A volume of its own, taken away at the end.
struct Volume(TempDir);

impl Volume {
    fn mount(mib: u32) -> Option<Self> {
        let dir = TempDir::new().unwrap();
        let size = format!("size={mib}m");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(dir.path())
            .output();
        match mounted {
            Ok(done) if done.status.success() => Some(Self(dir)),
            refused => {
                println!("not run: mounting a tmpfs is not permitted here: {refused:?}");
                None
            }
        }
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

/// Bytes that no compression makes smaller.
fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..bytes)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[0]
        })
        .collect()
}

/// A store on a small volume with a file beside it that can be taken away, filled until it refuses.
struct Filled {
    store: Arc<RocksStore>,
    group: Group,
    /// Commits that were taken.
    taken: u64,
    /// Of these, durable when it refused.
    durable: u64,
    ballast: std::path::PathBuf,
}

fn fill(volume: &Volume) -> Filled {
    let ballast = volume.path().join("ballast");
    fs::write(&ballast, noise(1, 40 << 20)).unwrap();
    let budget =
        Budget { block_cache_bytes: 1 << 20, write_buffer_bytes: 1 << 20, ..Budget::default() };
    let store = Arc::new(RocksStore::open(&volume.path().join("db"), budget).unwrap());
    assert!(store.free_bytes().unwrap() > 1 << 20);
    let group = Group::open(store.clone(), GroupId(1)).unwrap();
    let mut taken = 0;
    // Written until a commit is refused; each is one command with its mark.
    for n in 0..2000u64 {
        let mut batch = group.batch();
        let revision = Revision(n + 1);
        let head = Head {
            create_revision: revision,
            mod_revision: revision,
            version: 1,
            deleted: false,
            expiry: None,
        };
        let (key, value) = (key(&n.to_be_bytes()), noise(n, 60_000).into());
        batch.put_change(&Change::Version { bucket: BucketNumber(0), key, head, value });
        if group.commit(batch, (n + 1).to_be_bytes().to_vec()).is_err() {
            break;
        }
        taken = n + 1;
    }
    let durable = commits(group.durable_applied().unwrap()).unwrap();
    assert!(taken > durable && durable > 0, "{taken} {durable}");
    Filled { store, group, taken, durable, ballast }
}

#[test]
fn a_full_store_says_so_reads_on_and_goes_on_by_itself_when_there_is_room() {
    let Some(volume) = Volume::mount(68) else { return };
    let filled = fill(&volume);
    let Health::Full(cause) = filled.store.health() else { panic!("{:?}", filled.store.health()) };
    assert!(cause.contains("No space left on device"), "{cause}");
    // Everything that was taken is read, flushed or not.
    assert_eq!(commits(filled.group.applied().unwrap()), Some(filled.taken));
    for n in [0, filled.taken - 1] {
        let version =
            filled.group.version(BucketNumber(0), &key(&n.to_be_bytes()), Revision(n + 1));
        assert_eq!(version.unwrap().unwrap().value, noise(n, 60_000), "{n}");
    }
    // A write is refused, and again, and reads stay.
    for _ in 0..2 {
        assert!(filled.group.commit(filled.group.batch(), b"mark".to_vec()).is_err());
    }
    fs::remove_file(&filled.ballast).unwrap();
    // RocksDB looks every 5 s whether there is room. It tells nobody: so it is asked.
    let begun = Instant::now();
    while filled.store.health() != Health::Well && begun.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(filled.store.health(), Health::Well);
    // Nothing that was taken is lost, and writing goes on.
    assert_eq!(commits(filled.group.applied().unwrap()), Some(filled.taken));
    filled.group.commit(filled.group.batch(), (filled.taken + 1).to_be_bytes().to_vec()).unwrap();
    filled.store.flush().unwrap();
    assert_eq!(commits(filled.group.durable_applied().unwrap()), Some(filled.taken + 1));
}

#[test]
fn a_full_store_that_is_opened_again_goes_back_to_what_was_durable_and_takes_writes_when_it_can() {
    let Some(volume) = Volume::mount(68) else { return };
    let filled = fill(&volume);
    // Opened while there is no room: what was not flushed is gone, and the store is in its senses.
    let opened = filled.store.reopen();
    match (&opened, filled.store.health()) {
        (Ok(()), Health::Well) | (Err(_), Health::Full(_)) => {}
        other => panic!("{other:?}"),
    }
    fs::remove_file(&filled.ballast).unwrap();
    filled.store.reopen().unwrap();
    assert_eq!(filled.store.health(), Health::Well);
    let group = Group::open(filled.store.clone(), GroupId(1)).unwrap();
    let found = commits(group.applied().unwrap()).unwrap();
    assert!((filled.durable..=filled.taken).contains(&found), "{found}");
    assert_eq!(commits(group.durable_applied().unwrap()), Some(found));
    let last = group.version(BucketNumber(0), &key(&(found - 1).to_be_bytes()), Revision(found));
    assert_eq!(last.unwrap().unwrap().value, noise(found - 1, 60_000));
    group.commit(group.batch(), (found + 1).to_be_bytes().to_vec()).unwrap();
    filled.store.flush().unwrap();
    assert_eq!(commits(group.durable_applied().unwrap()), Some(found + 1));
}
