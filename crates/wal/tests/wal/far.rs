//! Numbers as large as they may be, and larger.

use std::sync::Arc;

use bytes::Bytes;
use stemedb_wal::disk::Disk;
use stemedb_wal::disk::sim::SimDisk;
use stemedb_wal::{Options, Wal};

use crate::common::*;

/// 2,000 entries of A take some eight segments. `pinned` is an entry of B behind them, and more
/// of A, in segments that stay.
fn many_tiny_entries(disk: &SimDisk, pinned: bool) -> Wal {
    let wal = open(disk);
    synced(|done| wal.append(A, 1, vec![Bytes::new(); 2000], done)).unwrap();
    if pinned {
        append(&wal, B, 1, &[&"stays".repeat(450)]);
        let begun = segments(disk).len();
        while segments(disk).len() == begun {
            let next = wal.bounds(A).last.unwrap() + 1;
            synced(|done| wal.append(A, next, vec![Bytes::new(); 20], done)).unwrap();
        }
    }
    assert!(segments(disk).len() > 6);
    wal
}

#[test]
fn a_checkpoint_may_count_more_entries_than_the_segments_that_are_left_could_hold() {
    // Intent: the oldest segment left begins with a checkpoint that counts some 1,900 entries;
    // all of them were purged or truncated in it, and the segments they stood in are gone.
    for case in 0..8 {
        let (pinned, truncated, killed) = (case & 1 != 0, case & 2 != 0, case & 4 != 0);
        let disk = SimDisk::new(1);
        let wal = many_tiny_entries(&disk, pinned);
        if truncated {
            truncate(&wal, A, 1);
        } else {
            purge(&wal, A, 3000, "all");
        }
        let next = if truncated { 1 } else { 3001 };
        append(&wal, A, next, &["one"]);
        let disk = if killed {
            let disk = disk.restart_process();
            drop(wal);
            disk
        } else {
            wal.close().unwrap();
            drop(wal);
            disk
        };
        assert_eq!(segments(&disk).len(), if pinned { 2 } else { 1 }, "case {case}");
        let (wal, recovery) = try_open(&disk).unwrap();
        assert_eq!((recovery.damage, recovery.quarantined), (vec![], vec![]), "case {case}");
        assert_eq!((texts(&wal, A), wal.bounds(A).first), (vec!["one".into()], Some(next)));
        assert_eq!(texts(&wal, B).len(), usize::from(pinned));
    }
}

#[test]
fn the_last_index_there_is_can_be_appended_and_read() {
    let disk = SimDisk::new(1);
    let wal = open(&disk);
    let last = u64::MAX - 1;
    append(&wal, A, last, &["the last"]);
    assert_eq!(wal.entries(A, last..u64::MAX, 99).unwrap(), payloads(&["the last"]));
    assert!(synced(|done| wal.append(A, u64::MAX, payloads(&["x"]), done)).is_err());
    drop(wal);
    let wal = open(&disk);
    assert_eq!((texts(&wal, A), wal.poisoned()), (vec!["the last".into()], None));
    purge(&wal, A, last, "");
    drop(wal);
    let wal = open(&disk);
    assert!(synced(|done| wal.append(A, u64::MAX, payloads(&["x"]), done)).is_err());
}

#[test]
fn a_file_with_a_number_that_nothing_could_follow_is_not_ours() {
    let disk = SimDisk::new(1);
    disk.create("ffffffffffffffff.spare").unwrap().write_at(&[0; 4096], 0).unwrap();
    disk.create("ffffffffffffffff.wal").unwrap().write_at(&[0; 4096], 0).unwrap();
    let options = Options { spare_segments: 1, ..small() };
    let (wal, _) = Wal::open_on(Arc::new(disk.clone()), options).unwrap();
    for index in 1..50 {
        append(&wal, A, index, &[&"x".repeat(300)]);
    }
    drop(wal);
    assert_eq!(texts(&open(&disk), A).len(), 49);
}
