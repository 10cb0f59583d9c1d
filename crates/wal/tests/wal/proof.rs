//! What proves that a damaged last batch had been synced is not erased before something else
//! proves it.

use stemedb_wal::disk::sim::SimDisk;
use stemedb_wal::{Recovery, Wal};

use crate::common::*;

const SEGMENT_1: &str = "0000000000000001.wal";

/// Two acknowledged entries, a third of which the head alone reached the disk when the power
/// went; and a bit of the second one's batch is bad, in its head or in its record.
fn damaged_in_front_of_a_torn_batch(in_head: bool) -> SimDisk {
    let disk = SimDisk::new(1);
    let wal = open(&disk);
    append(&wal, A, 1, &["entry a"]);
    append(&wal, A, 2, &["entry b"]);
    disk.tear_next_write(40);
    assert!(synced(|done| wal.append(A, 3, payloads(&["entry c"]), done)).is_err());
    drop(wal);
    let disk = disk.copy();
    let bytes = disk.bytes(SEGMENT_1).unwrap();
    let record = bytes.windows(7).position(|window| window == b"entry b").unwrap();
    let head = (0..record).rfind(|&at| bytes[at..at + 4] == [0xb7, 0x57, 0xa2, 0x6e]).unwrap();
    disk.flip(SEGMENT_1, if in_head { head + 5 } else { record }, 2);
    disk
}

fn entry_b_is_there_or_missed(in_head: bool, wal: &Wal, recovery: &Recovery) {
    assert_eq!(wal.bounds(A).last, Some(2));
    if in_head {
        assert_eq!((texts(wal, A).len(), recovery.quarantined.len()), (2, 0));
    } else {
        assert_eq!(recovery.quarantined, [A]);
    }
}

#[test]
fn a_damaged_last_batch_is_not_taken_for_torn_at_the_second_opening() {
    for in_head in [true, false] {
        let mut disk = damaged_in_front_of_a_torn_batch(in_head);
        for _ in 0..3 {
            let (wal, recovery) = quarantining(&disk).unwrap();
            entry_b_is_there_or_missed(in_head, &wal, &recovery);
            // Killed before its first write.
            disk = disk.restart_process();
            drop(wal);
        }
        if in_head {
            assert_eq!(texts(&open(&disk), A).len(), 2, "it costs nothing, so it is not refused");
        }
    }
}

#[test]
fn nor_after_a_crash_at_any_point_of_the_first() {
    for case in 0..2 * 2 * 20 * 8 {
        let (in_head, killed) = (case & 1 == 0, case & 2 == 0);
        let (changes, seed) = (case / 4 % 20, case / 80);
        let disk = damaged_in_front_of_a_torn_batch(in_head);
        disk.crash_after(changes);
        drop(quarantining(&disk));
        let mut dice = Dice(case);
        let disk = match (killed, seed % 2) {
            (true, _) => disk.restart_process(),
            (false, 0) => disk.restart(&mut |bound| dice.below(bound)),
            (false, _) => disk.restart_pages(512, &mut |bound| dice.below(bound)),
        };
        let (wal, recovery) = quarantining(&disk).unwrap();
        entry_b_is_there_or_missed(in_head, &wal, &recovery);
        assert!(!recovery.damage.iter().any(|damage| damage.unknown), "case {case}");
    }
}
