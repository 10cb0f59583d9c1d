//! Numbers as large as they may be.

use bytes::Bytes;
use stemedb_wal::Wal;
use stemedb_wal::disk::sim::SimDisk;

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
