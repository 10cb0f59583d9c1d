//! Failing writes and syncs, full disks, and the disk's use over time.

use std::sync::Arc;

use bytes::Bytes;
use stemedb_wal::disk::Disk;
use stemedb_wal::disk::sim::SimDisk;
use stemedb_wal::{Error, OpenError, Options, Wal};

use crate::common::*;

fn poisoned<T>(result: &Result<T, Error>) -> bool {
    matches!(result, Err(Error::Poisoned { .. }))
}

#[test]
fn a_failed_sync_fails_everything_queued_and_everything_later_and_is_not_retried() {
    let disk = SimDisk::new(1);
    let wal = open(&disk);
    append(&wal, A, 1, &["durable"]);
    disk.fail_syncs_after(0);
    let (first, second) = (done(), done());
    wal.append(A, 2, payloads(&["lost"]), first.0).unwrap();
    // Queued behind it, or refused because it has failed already.
    let queued = wal.append(B, 1, payloads(&["lost too"]), second.0);
    assert!(poisoned(&first.1.recv().unwrap()));
    assert!(poisoned(&queued) || poisoned(&second.1.recv().unwrap()));

    disk.fail_syncs_after(u64::MAX);
    assert!(poisoned(&synced(|done| wal.append(A, 3, payloads(&["x"]), done))));
    assert!(poisoned(&wal.mark(A, 1, Bytes::new(), None)));
    assert!(wal.poisoned().unwrap().contains("sync 0000000000000001.wal"));
    assert_eq!(texts(&wal, A), ["durable", "lost"], "reads go on");
    assert!(poisoned(&wal.close()));
}

#[test]
fn a_failed_write_poisons_the_log_and_what_was_durable_is_there_after_a_restart() {
    let disk = SimDisk::new(1);
    let wal = open(&disk);
    append(&wal, A, 1, &["durable"]);
    disk.fail_writes_after(0);
    assert!(poisoned(&synced(|done| wal.append(A, 2, payloads(&["lost"]), done))));
    assert!(poisoned(&synced(|done| wal.truncate_from(A, 1, done))));
    drop(wal);
    assert_eq!(texts(&open(&disk.copy()), A), ["durable"]);
}

#[test]
fn what_a_failed_sync_left_in_memory_is_synced_before_it_is_built_on() {
    let disk = SimDisk::new(1);
    let wal = open(&disk);
    disk.fail_syncs_after(0);
    assert!(poisoned(&synced(|done| wal.append(A, 1, payloads(&["unsynced"]), done))));
    // The process alone dies: the batch is read back, and from then on a power cut keeps it.
    drop(wal);
    disk.fail_syncs_after(u64::MAX);
    let found = texts(&open(&disk), A);
    let after_power_cut = open(&disk.restart(&mut |_| 0));
    assert_eq!(
        (found, texts(&after_power_cut, A)),
        (vec!["unsynced".into()], vec!["unsynced".into()])
    );
}

#[test]
fn without_room_for_a_spare_appends_are_refused_until_purging_makes_room() {
    let disk = SimDisk::new(1);
    let options = Options { spare_segments: 1, ..small() };
    let (wal, _) = Wal::open_on(Arc::new(disk.clone()), options).unwrap();
    disk.limit_space(Some(5 * 4096));
    let mut next = 1;
    let refused = loop {
        match synced(|done| wal.append(A, next, payloads(&[&"x".repeat(200)]), done)) {
            Ok(()) => next += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(refused, Error::Full);
    assert_eq!(wal.poisoned(), None);
    // Purging still finds room in the current segment, and frees the others.
    purge(&wal, A, next - 1, "");
    let appended = || synced(|done| wal.append(A, next, payloads(&["goes on"]), done));
    while let Err(error) = appended() {
        assert_eq!(error, Error::Full);
        std::thread::yield_now();
    }
    assert_eq!(texts(&wal, A), ["goes on"]);
}

#[test]
fn a_quiet_stream_does_not_pin_the_disk() {
    let disk = SimDisk::new(1);
    let wal = open(&disk);
    append(&wal, B, 1, &["quiet 1", "quiet 2", "quiet 3"]);
    purge(&wal, B, 1, "note");
    synced(|done| wal.mark(B, 9, Bytes::from_static(b"vote"), Some(done))).unwrap();
    for index in 1..2000u64 {
        append(&wal, A, index, &[&"x".repeat(100)]);
        if index > 10 {
            wal.purge_to(A, index - 10, Bytes::new(), None).unwrap();
        }
        let (stats, identity_bytes) = (wal.stats(), 24);
        let bound = 2 * stats.live_bytes + 3 * 4096 + identity_bytes;
        assert!(disk.used_bytes() <= bound, "{stats:?} at {index}");
    }
    let disk = disk.restart(&mut |_| 0);
    drop(wal);
    assert!(!segments(&disk).contains(&"0000000000000001.wal".to_owned()));
    let wal = open(&disk);
    assert_eq!(texts(&wal, B), ["quiet 2", "quiet 3"]);
    assert_eq!(wal.bounds(B).purged, Some((1, Bytes::from_static(b"note"))));
    assert_eq!(wal.mark_value(B, 9), Some(Bytes::from_static(b"vote")));
}

#[test]
fn a_stream_all_of_which_is_live_is_not_written_again_and_again() {
    let disk = SimDisk::new(1);
    let wal = open(&disk);
    for index in 1..500u64 {
        append(&wal, A, index, &[&"x".repeat(100)]);
    }
    // 499 batches of some 190 bytes take 26 segments: none was written twice, none freed.
    let begun = segments(&disk);
    assert_eq!((begun[0].as_str(), begun.len()), ("0000000000000001.wal", 26));
    assert_eq!(texts(&wal, A).len(), 499);
}

#[test]
fn a_recycled_segment_does_not_bring_old_records_back() {
    let disk = SimDisk::new(1);
    let wal = open(&disk);
    for index in 1..200u64 {
        append(&wal, A, index, &[&"old".repeat(30)]);
        purge(&wal, A, index, "");
    }
    append(&wal, B, 1, &["new"]);
    let current = segments(&disk).pop().unwrap();
    let bytes = disk.bytes(&current).unwrap();
    assert!(bytes.windows(9).rev().any(|window| window == b"oldoldold"), "it is recycled");
    let disk = disk.restart(&mut |_| 0);
    drop(wal);
    let (wal, recovery) = try_open(&disk).unwrap();
    assert_eq!((texts(&wal, A), texts(&wal, B)), (vec![], vec!["new".into()]));
    assert_eq!(recovery.torn, None);
}

#[test]
fn a_segment_that_was_never_born_is_taken_away() {
    let disk = SimDisk::new(1);
    let wal = open(&disk);
    append(&wal, A, 1, &["one"]);
    let disk = disk.restart(&mut |_| 0);
    drop(wal);
    disk.create("0000000000000002.wal").unwrap().write_at(b"half a header", 0).unwrap();
    let wal = open(&disk);
    assert_eq!(segments(&disk), ["0000000000000001.wal"]);
    assert_eq!(texts(&wal, A), ["one"]);
}

#[test]
fn a_new_log_that_crashed_at_any_point_of_its_making_is_made_again() {
    for changes in 0..20 {
        let disk = SimDisk::new(1);
        disk.crash_after(changes);
        let made = try_open(&disk).map(|(wal, _)| drop(wal));
        assert!(matches!(made, Ok(()) | Err(OpenError::Io { .. })), "{made:?}");
        let mut dice = Dice(changes);
        let disk = disk.restart(&mut |bound| dice.below(bound));
        append(&open(&disk), A, 1, &["one"]);
    }
}
