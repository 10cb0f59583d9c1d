//! A disk that fills up, and what must not keep it full.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::TryRecvError;
use std::thread::sleep;
use std::time::{Duration, Instant};

use bytes::Bytes;
use stemedb_wal::disk::Disk;
use stemedb_wal::disk::sim::SimDisk;
use stemedb_wal::{Error, Options, StreamId, Wal};

use crate::common::*;

const C: StreamId = StreamId(3);

fn with_spares(disk: &SimDisk, spare_segments: usize) -> Wal {
    let options = Options { spare_segments, ..small() };
    Wal::open_on(Arc::new(disk.clone()), options).unwrap().0
}

fn wait_for_spares(wal: &Wal, spares: u64) {
    while wal.stats().spares < spares {
        std::thread::yield_now();
    }
}

/// Files go behind the completion; the next round begins behind that.
fn settle(wal: &Wal) {
    synced(|done| wal.append(StreamId(99), 1, Vec::new(), done)).unwrap();
}

#[test]
fn an_entry_that_can_not_be_read_keeps_nothing_once_nobody_needs_it() {
    for forgotten in [true, false] {
        let disk = SimDisk::new(1);
        let wal = open(&disk);
        append(&wal, C, 1, &["unreadable"]);
        append(&wal, B, 1, &["quiet 1", "quiet 2"]);
        let bytes = disk.bytes("0000000000000001.wal").unwrap();
        let at = bytes.windows(10).position(|window| window == b"unreadable").unwrap() as u64;
        disk.fail_reads_of("0000000000000001.wal", at..at + 1);
        let written = |index: u64| {
            append(&wal, A, index, &[&"x".repeat(100)]);
            if index > 10 {
                wal.purge_to(A, index - 10, Bytes::new(), None).unwrap();
            }
        };
        (1..300).for_each(written);
        assert!(wal.stats().bytes > 8 * 4096, "it keeps its segment: {:?}", wal.stats());
        if forgotten {
            synced(|done| wal.forget(C, done)).unwrap();
        } else {
            wal.quarantine(C, "its owner knows");
        }
        (300..400).for_each(written);
        for index in 400..900 {
            written(index);
            let stats = wal.stats();
            assert!(stats.bytes <= 2 * stats.live_bytes + 3 * 4096, "{stats:?} at {index}");
        }
        assert_eq!(texts(&wal, B), ["quiet 1", "quiet 2"]);
    }
}

#[test]
fn an_entry_that_can_be_read_again_is_moved_after_all() {
    let disk = SimDisk::new(1);
    let wal = open(&disk);
    append(&wal, B, 1, &["quiet 1", "quiet 2"]);
    let failing = Arc::new(AtomicBool::new(true));
    drop(wal);
    let hook = {
        let failing = failing.clone();
        move |what: &str, _: &str| match what == "read" && failing.load(Ordering::SeqCst) {
            true => Err(std::io::Error::other("not now")),
            false => Ok(()),
        }
    };
    failing.store(false, Ordering::SeqCst);
    let (wal, _) = Wal::open_on(Hooked::on(&disk, hook), small()).unwrap();
    failing.store(true, Ordering::SeqCst);
    let written = |index: u64| {
        append(&wal, A, index, &[&"x".repeat(100)]);
        purge(&wal, A, index, "");
    };
    (1..200).for_each(written);
    assert!(wal.stats().bytes > 8 * 4096);
    failing.store(false, Ordering::SeqCst);
    (200..300).for_each(written);
    let stats = wal.stats();
    assert!(stats.bytes <= 2 * stats.live_bytes + 3 * 4096, "{stats:?}");
    assert_eq!(texts(&wal, B), ["quiet 1", "quiet 2"]);
}

#[test]
fn a_scrub_that_waits_keeps_no_file_that_nobody_needs() {
    let disk = SimDisk::new(1);
    let wal = open(&disk);
    for index in 1..100 {
        append(&wal, A, index, &[&"x".repeat(200)]);
    }
    assert!(segments(&disk).len() > 6);
    let mut used = 0;
    let mut purge_all = |_| {
        if used == 0 {
            purge(&wal, A, 99, "all");
            settle(&wal);
            used = disk.used_bytes();
            let names = disk.list().unwrap();
            let spares = names.iter().filter(|name| name.ends_with(".spare")).count();
            assert!((1..=2).contains(&spares), "{names:?}");
        }
        ControlFlow::Continue(())
    };
    assert_eq!(wal.scrub(&mut purge_all), Ok(vec![]));
    assert!(used <= 3 * 4096 + 24, "{used} bytes are in use");
}

#[test]
fn a_log_that_is_cut_in_bursts_writes_into_the_same_files_again_and_stays_within_its_bound() {
    let disk = SimDisk::new(1);
    let wal = with_spares(&disk, 1);
    let mut index = 1;
    let mut made = 0;
    for round in 0..30 {
        for _ in 0..80 {
            append(&wal, A, index, &[&"x".repeat(200)]);
            index += 1;
            let stats = wal.stats();
            let bound = 2 * stats.live_bytes + 3 * 4096;
            let used = stats.bytes + 4096 * stats.spares;
            assert!(used <= bound, "{used} of {bound} bytes at {index}: {stats:?}");
        }
        // A third of what is there goes at once, as behind a flush.
        purge(&wal, A, index.saturating_sub(160), "");
        settle(&wal);
        if round == 9 {
            made = disk.creations();
        }
    }
    // 1600 entries of 200 bytes fill more than 120 segments.
    let more = disk.creations() - made;
    assert!(more < 40, "{more} files were made anew");
}

#[test]
fn a_helper_that_finds_no_space_for_a_second_spare_rests() {
    let disk = SimDisk::new(1);
    disk.limit_space(Some(24 + 4096 + 3 * 4096 / 2));
    let wal = with_spares(&disk, 2);
    wait_for_spares(&wal, 1);
    sleep(Duration::from_millis(100));
    // The identity, the first segment, a spare, and a try or two.
    assert!(disk.creations() <= 6, "{} files were made", disk.creations());
    disk.limit_space(None);
    for index in 1..100 {
        let appended = || synced(|done| wal.append(A, index, payloads(&[&"x".repeat(200)]), done));
        // Each try that is refused makes it look again.
        while let Err(error) = appended() {
            assert_eq!(error, Error::Full);
            std::thread::yield_now();
        }
    }
    wait_for_spares(&wal, 2);
}

#[test]
fn a_record_that_takes_more_than_a_segment_is_refused_where_its_file_could_not_grow() {
    for spares in [0, 1] {
        let disk = SimDisk::new(1);
        let wal = with_spares(&disk, spares);
        wait_for_spares(&wal, spares as u64);
        let big = "b".repeat(20 << 10);
        disk.limit_space(Some(disk.used_bytes() + (18 << 10)));
        append(&wal, A, 1, &["small"]);
        let refused = synced(|done| wal.append(A, 2, payloads(&[&big]), done));
        assert_eq!((refused, wal.poisoned()), (Err(Error::Full), None));
        append(&wal, A, 2, &["small"]);
        disk.limit_space(None);
        append(&wal, A, 3, &[&big, "small"]);
        assert_eq!(texts(&wal, A).len(), 4);
    }
}

#[test]
fn big_records_that_wait_count_against_the_space_for_the_next_one() {
    let disk = SimDisk::new(1);
    let wal = with_spares(&disk, 1);
    wait_for_spares(&wal, 1);
    disk.limit_space(Some(disk.used_bytes() + (45 << 10)));
    let big = "b".repeat(20 << 10);
    let (go, gate) = std::sync::mpsc::channel::<()>();
    let held = Box::new(move |_| {
        let _ = gate.recv();
    });
    wal.append(B, 1, payloads(&["held"]), held).unwrap();
    let (first, second) = (done(), done());
    wal.append(A, 1, payloads(&[&big]), first.0).unwrap();
    let refused = wal.append(A, 2, payloads(&[&big]), second.0);
    assert_eq!(refused, Err(Error::Full));
    drop(go);
    assert_eq!((first.1.recv().unwrap(), wal.poisoned()), (Ok(()), None));
}

#[test]
fn a_checkpoint_that_takes_more_than_a_segment_waits_for_space() {
    let disk = SimDisk::new(1);
    let wal = with_spares(&disk, 1);
    for tag in 0..3 {
        let value = Bytes::from(vec![b'm'; 2000]);
        synced(|done| wal.mark(A, tag, value, Some(done))).unwrap();
    }
    append(&wal, A, 1, &[&"x".repeat(2000)]);
    wait_for_spares(&wal, 1);
    // What the last round let go of goes behind its completion.
    let mut used_bytes = 0;
    while used_bytes != disk.used_bytes() {
        used_bytes = disk.used_bytes();
        sleep(Duration::from_millis(100));
    }
    disk.limit_space(Some(used_bytes));
    let (completion, result) = done();
    wal.append(A, 2, payloads(&[&"x".repeat(2000)]), completion).unwrap();
    sleep(Duration::from_millis(100));
    assert_eq!((result.try_recv(), wal.poisoned()), (Err(TryRecvError::Empty), None));
    disk.limit_space(None);
    assert_eq!(result.recv().unwrap(), Ok(()));
    drop(wal);
    let wal = open(&disk);
    assert_eq!((texts(&wal, A).len(), wal.mark_value(A, 2).unwrap().len()), (2, 2000));
}

#[test]
fn a_move_never_waits_for_a_spare() {
    // Intent: half of the log is B's, which is quiet, and the helper hangs in a slow disk. What
    // callers write fits; only what would be moved does not.
    let disk = SimDisk::new(1);
    let slow = Arc::new(AtomicBool::new(false));
    let hook = {
        let slow = slow.clone();
        move |what: &str, name: &str| {
            let began = Instant::now();
            let hangs = what == "create" && name.ends_with(".spare");
            while hangs && slow.load(Ordering::SeqCst) && began.elapsed().as_secs() < 10 {
                sleep(Duration::from_millis(1));
            }
            Ok(())
        }
    };
    let options = Options { spare_segments: 1, ..small() };
    let (wal, _) = Wal::open_on(Hooked::on(&disk, hook), options).unwrap();
    for first in [1, 6] {
        append(&wal, B, first, &["q".repeat(720).as_str(); 5]);
    }
    for index in 1.. {
        let before = segments(&disk).len();
        if before == 4 {
            wait_for_spares(&wal, 1);
            slow.store(true, Ordering::SeqCst);
        }
        let (appended, written) = done();
        wal.append(A, index, payloads(&[&"x".repeat(400)]), appended).unwrap();
        let written = written.recv_timeout(Duration::from_secs(3));
        assert_eq!(written, Ok(Ok(())), "with {before} segments");
        if segments(&disk).contains(&"0000000000000005.wal".to_owned()) {
            break;
        }
        purge(&wal, A, index, "");
    }
    for tag in 0..3 {
        let (voted, written) = done();
        wal.mark(A, tag, Bytes::from_static(b"vote"), Some(voted)).unwrap();
        assert_eq!(written.recv_timeout(Duration::from_secs(3)), Ok(Ok(())));
    }
    slow.store(false, Ordering::SeqCst);
}
