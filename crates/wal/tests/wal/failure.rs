//! Failing writes and syncs, full disks, and the disk's use over time.

use std::sync::Arc;

use bytes::Bytes;
use stemedb_wal::disk::Disk;
use stemedb_wal::disk::sim::SimDisk;
use stemedb_wal::{Error, OpenError, Options, StreamId, Wal};

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
fn a_full_disk_never_ends_the_log_and_needs_no_restart() {
    // Intent: appends are queued without waiting, at every free length from none to some
    // segments. The purge at the end stands for whatever frees space, and finds room.
    for room in (0..=6 * 4096).step_by(1000) {
        let disk = SimDisk::new(1);
        disk.limit_space(Some(24 + 4096 + room));
        let options = Options { spare_segments: 1, queue_bytes_max: 4096, ..small() };
        let (wal, _) = Wal::open_on(Arc::new(disk.clone()), options).unwrap();
        let mut next = 1;
        loop {
            let durable = Box::new(|result| assert_eq!(result, Ok(())));
            let appended = wal.append(A, next, payloads(&[&"x".repeat(200)]), durable);
            match appended {
                Ok(()) => next += 1,
                Err(Error::Busy) => {
                    let (send, roomy) = std::sync::mpsc::channel();
                    wal.when_room(Box::new(move || send.send(()).unwrap()));
                    roomy.recv().unwrap();
                }
                Err(error) => {
                    assert_eq!(error, Error::Full);
                    break;
                }
            }
        }
        purge(&wal, A, next - 1, "");
        assert_eq!(wal.poisoned(), None, "with room for {room}");
        disk.limit_space(None);
        let appended = || synced(|done| wal.append(A, next, payloads(&["goes on"]), done));
        while let Err(error) = appended() {
            assert_eq!(error, Error::Full);
            std::thread::yield_now();
        }
        assert!(!wal.stats().full, "with room for {room}");
        assert_eq!(texts(&wal, A), ["goes on"]);
        assert_eq!(texts(&open_after_power_cut(&disk), A), ["goes on"]);
    }
}

fn open_after_power_cut(disk: &SimDisk) -> Wal {
    open(&disk.restart(&mut |_| 0))
}

#[test]
fn a_writer_that_needs_a_file_at_a_full_disk_waits_for_space() {
    // Intent: the disk fills up behind an append that was accepted.
    let disk = SimDisk::new(1);
    let options = Options { spare_segments: 1, ..small() };
    let (wal, _) = Wal::open_on(Arc::new(disk.clone()), options).unwrap();
    while wal.stats().spares == 0 {
        std::thread::yield_now();
    }
    disk.limit_space(Some(disk.used_bytes()));
    let (completion, result) = done();
    let long = (0..8).map(|_| "x".repeat(2000)).collect::<Vec<_>>();
    let long: Vec<_> = long.iter().map(String::as_str).collect();
    wal.append(A, 1, payloads(&long), completion).unwrap();
    while !wal.stats().full {
        std::thread::yield_now();
    }
    assert_eq!(result.try_recv(), Err(std::sync::mpsc::TryRecvError::Empty));
    disk.limit_space(None);
    assert_eq!(result.recv().unwrap(), Ok(()));
    assert_eq!((wal.poisoned(), texts(&wal, A).len()), (None, 8));
}

#[test]
fn a_log_that_waits_for_space_can_be_closed() {
    let disk = SimDisk::new(1);
    let options = Options { spare_segments: 1, ..small() };
    let (wal, _) = Wal::open_on(Arc::new(disk.clone()), options).unwrap();
    while wal.stats().spares == 0 {
        std::thread::yield_now();
    }
    disk.limit_space(Some(disk.used_bytes()));
    let (completion, result) = done();
    let long = (0..8).map(|_| "x".repeat(2000)).collect::<Vec<_>>();
    let long: Vec<_> = long.iter().map(String::as_str).collect();
    wal.append(A, 1, payloads(&long), completion).unwrap();
    assert!(poisoned(&wal.close()), "what could not be written is not called durable");
    assert!(poisoned(&result.recv().unwrap()));
}

#[test]
fn the_disk_use_stays_within_twice_the_live_log_and_three_segments() {
    // Intent: one segment being written, one being filled with zeros, one being emptied; looked
    // at in the directory itself after every sync, with the helper at work. Where it is behind,
    // nothing is moved until the next round that finds a spare. Streams are of all
    // habits: some grow and are purged late, some are left alone, some begin anew.
    const SEGMENT_BYTES: u64 = 16 << 10;
    for seed in 1..=3 {
        let mut dice = Dice(seed);
        let disk = SimDisk::new(seed);
        let options = Options { segment_bytes: SEGMENT_BYTES, spare_segments: 1, ..small() };
        let (wal, _) = Wal::open_on(Arc::new(disk.clone()), options).unwrap();
        let mut worst = 0.0f64;
        for step in 0..3000 {
            let stream = StreamId(1 + dice.below(12).min(dice.below(12)));
            let bounds = wal.bounds(stream);
            let after_purged = bounds.purged.map_or(1, |(purged, _)| purged + 1);
            let next = bounds.last.map_or(after_purged, |last| last + 1);
            let first = bounds.first.unwrap_or(next);
            let _ = match dice.below(100) {
                0..80 => {
                    let payload = Bytes::from(vec![b'x'; dice.below(600) as usize]);
                    synced(|done| wal.append(stream, next, vec![payload], done))
                }
                80..96 if stream.0 < 10 => {
                    let to = first + dice.below((next - first).max(1));
                    synced(|done| wal.purge_to(stream, to, Bytes::new(), Some(done)))
                }
                96..98 => synced(|done| {
                    wal.truncate_from(stream, next.saturating_sub(3).max(first), done)
                }),
                98 if dice.below(10) == 0 => synced(|done| wal.forget(stream, done)),
                _ => synced(|done| wal.mark(stream, 1, Bytes::from_static(b"m"), Some(done))),
            };
            // Files go behind the completion; the next round begins behind that.
            let beyond = || {
                synced(|done| wal.append(StreamId(99), 1, Vec::new(), done)).unwrap();
                disk.used_bytes().saturating_sub(2 * wal.stats().live_bytes + 24)
            };
            let mut left = beyond();
            for _ in 0..4 {
                assert!(left <= 4 * SEGMENT_BYTES, "seed {seed}, step {step}: {left} bytes");
                if left > 3 * SEGMENT_BYTES {
                    while wal.stats().spares == 0 {
                        std::thread::yield_now();
                    }
                    left = beyond();
                }
            }
            let (stats, used, beyond) = (wal.stats(), disk.used_bytes(), left);
            worst = worst.max(beyond as f64 / SEGMENT_BYTES as f64);
            assert!(worst <= 3.0, "seed {seed}, step {step}: {used} bytes, {worst:.2}, {stats:?}");
        }
        println!("seed {seed}: at most {worst:.2} segments beyond twice the live log");
    }
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
