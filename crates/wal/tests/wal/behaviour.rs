//! What callers rely on while nothing goes wrong.

use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;

use bytes::Bytes;
use stemedb_wal::disk::sim::SimDisk;
use stemedb_wal::{Bounds, Error, OpenError, Options, Wal};

use crate::common::*;

#[test]
fn what_was_written_is_there_after_a_power_cut_and_goes_on_where_it_ended() {
    let disk = SimDisk::new(1);
    let wal = open(&disk);
    append(&wal, A, 5, &["a5", "a6", "a7", "a8"]);
    append(&wal, B, 1, &["b1"]);
    truncate(&wal, A, 8);
    purge(&wal, A, 5, "five");
    synced(|done| wal.mark(B, 7, Bytes::from_static(b"vote"), Some(done))).unwrap();

    let disk = disk.restart(&mut |_| 0);
    drop(wal);
    let (wal, recovery) = try_open(&disk).unwrap();
    assert_eq!((recovery.created, recovery.records, recovery.torn), (false, 8, None));
    assert_eq!(wal.streams(), [A, B]);
    assert_eq!(texts(&wal, A), ["a6", "a7"]);
    let purged = Some((5, Bytes::from_static(b"five")));
    assert_eq!(wal.bounds(A), Bounds { purged, first: Some(6), last: Some(7) });
    assert_eq!(wal.mark_value(B, 7), Some(Bytes::from_static(b"vote")));
    append(&wal, A, 8, &["A8"]);
    assert_eq!(texts(&wal, A), ["a6", "a7", "A8"]);
}

#[test]
fn an_entry_is_readable_when_append_returns_and_not_called_back_before_its_sync() {
    let disk = SimDisk::new(1);
    let wal = open(&disk);
    let syncs = disk.syncs();
    let (completion, result) = done();
    wal.append(A, 1, payloads(&["one"]), completion).unwrap();
    assert_eq!(texts(&wal, A), ["one"]);
    assert_eq!(result.recv().unwrap(), Ok(()));
    assert!(disk.syncs() > syncs);
}

#[test]
fn completions_of_all_streams_come_in_the_order_of_the_calls() {
    let disk = SimDisk::new(1);
    let wal = open(&disk);
    let (send, receive) = channel();
    for call in 0..200u64 {
        let send = send.clone();
        let done = Box::new(move |result: Result<(), Error>| send.send((call, result)).unwrap());
        let stream = if call % 2 == 0 { A } else { B };
        match call % 8 {
            0 => wal.truncate_from(stream, 1, done).unwrap(),
            7 => wal.mark(stream, 1, Bytes::new(), Some(done)).unwrap(),
            _ => {
                let next = wal.bounds(stream).last.map_or(1, |last| last + 1);
                wal.append(stream, next, payloads(&["x"]), done).unwrap();
            }
        }
    }
    let order: Vec<_> = (0..200).map(|_| receive.recv().unwrap()).collect();
    assert_eq!(order, (0..200).map(|call| (call, Ok(()))).collect::<Vec<_>>());
}

#[test]
fn calls_that_wait_together_share_one_sync() {
    let disk = SimDisk::new(1);
    let wal = open(&disk);
    // The writer is kept inside this completion while the others queue up behind it.
    let (entered, inside) = channel();
    let (go, gate) = channel::<()>();
    let held = Box::new(move |_: Result<(), Error>| {
        entered.send(()).unwrap();
        gate.recv().unwrap();
    });
    wal.append(A, 1, payloads(&["first"]), held).unwrap();
    inside.recv().unwrap();
    let syncs = disk.syncs();
    let waiting: Vec<_> = (1..21)
        .map(|index| {
            let (completion, result) = done();
            wal.append(B, index, payloads(&["x"]), completion).unwrap();
            result
        })
        .collect();
    go.send(()).unwrap();
    for result in waiting {
        assert_eq!(result.recv().unwrap(), Ok(()));
    }
    assert_eq!(disk.syncs(), syncs + 1);
}

#[test]
fn a_mark_without_a_completion_waits_for_the_next_sync_or_the_close() {
    let disk = SimDisk::new(1);
    let wal = open(&disk);
    append(&wal, A, 1, &["one"]);
    let syncs = disk.syncs();
    wal.mark(A, 1, Bytes::from_static(b"alone"), None).unwrap();
    assert_eq!(wal.mark_value(A, 1), Some(Bytes::from_static(b"alone")));
    let without = open(&disk.copy());
    assert_eq!((without.mark_value(A, 1), disk.syncs()), (None, syncs));

    append(&wal, B, 1, &["carries it"]);
    let with = open(&disk.copy());
    assert_eq!(with.mark_value(A, 1), Some(Bytes::from_static(b"alone")));

    wal.mark(A, 1, Bytes::from_static(b"at the end"), None).unwrap();
    wal.close().unwrap();
    let closed = open(&disk.restart(&mut |_| 0));
    assert_eq!(closed.mark_value(A, 1), Some(Bytes::from_static(b"at the end")));
}

#[test]
fn indexes_must_follow_and_a_refused_call_changes_nothing() {
    let wal = open(&SimDisk::new(1));
    append(&wal, A, 3, &["a3"]);
    let refused = |first| synced(|done| wal.append(A, first, payloads(&["x"]), done));
    assert_eq!(refused(3), Err(Error::OutOfOrder { stream: A, wanted: 4, got: 3 }));
    assert_eq!(refused(5), Err(Error::OutOfOrder { stream: A, wanted: 4, got: 5 }));
    purge(&wal, A, 9, "beyond the last");
    let purged = Error::Purged { stream: A, purged: 9 };
    assert_eq!(refused(9), Err(purged.clone()));
    assert_eq!(wal.entries(A, 9..10, 99), Err(purged.clone()));
    assert_eq!(synced(|done| wal.truncate_from(A, 9, done)), Err(purged));
    let last = u64::MAX;
    assert!(synced(|done| wal.purge_to(A, last, Bytes::new(), Some(done))).is_err());
    assert_eq!(wal.bounds(A).last, None);
    append(&wal, A, 10, &["a10"]);
    assert_eq!(texts(&wal, A), ["a10"]);
}

#[test]
fn a_forgotten_stream_begins_anew() {
    let disk = SimDisk::new(1);
    let wal = open(&disk);
    append(&wal, A, 5, &["old"]);
    purge(&wal, A, 5, "old");
    synced(|done| wal.forget(A, done)).unwrap();
    assert_eq!((wal.streams(), wal.bounds(A)), (vec![], Bounds::default()));
    append(&wal, A, 1, &["new"]);
    drop(wal);
    assert_eq!(texts(&open(&disk), A), ["new"]);
}

#[test]
fn a_read_ends_at_its_byte_bound_from_memory_and_from_disk() {
    let disk = SimDisk::new(1);
    let cached = Options { tail_cache_bytes: 1 << 20, ..small() };
    let (wal, _) = Wal::open_on(Arc::new(disk.clone()), cached).unwrap();
    append(&wal, A, 1, &["aaaa", "bbbb", "cccc"]);
    assert_eq!(wal.stats().cached_bytes, 12);
    assert_eq!(wal.entries(A, 1..4, 8).unwrap(), payloads(&["aaaa", "bbbb"]));
    drop(wal);
    let wal = open(&disk);
    assert_eq!(wal.stats().cached_bytes, 0);
    assert_eq!(wal.entries(A, 2..4, 1).unwrap(), payloads(&["bbbb"]));
    assert_eq!(wal.entries(A, 2..9, 99).unwrap(), payloads(&["bbbb", "cccc"]));
    assert_eq!(wal.entries(A, 4..9, 99).unwrap(), payloads(&[]));
}

#[test]
fn the_cache_lets_go_of_the_oldest_durable_payloads_first() {
    let disk = SimDisk::new(1);
    let options = Options { tail_cache_bytes: 10, ..small() };
    let (wal, _) = Wal::open_on(Arc::new(disk), options).unwrap();
    for index in 1..100 {
        append(&wal, A, index, &["four"]);
        append(&wal, B, index, &["4444"]);
        assert!(wal.stats().cached_bytes <= 10);
    }
    assert_eq!(texts(&wal, A), ["four"; 99]);
    assert_eq!(texts(&wal, B), ["4444"; 99]);
}

#[test]
fn a_full_queue_refuses_appends_until_there_is_room_but_lets_votes_through() {
    let disk = SimDisk::new(1);
    let options = Options { queue_bytes_max: 1000, ..small() };
    let (wal, _) = Wal::open_on(Arc::new(disk), options).unwrap();
    let (go, gate) = channel::<()>();
    let held = Box::new(move |_: Result<(), Error>| gate.recv().unwrap());
    wal.append(A, 1, payloads(&["held"]), held).unwrap();
    let (completion, big) = done();
    wal.append(B, 1, payloads(&[&"x".repeat(2000)]), completion).unwrap();

    let refused = synced(|done| wal.append(B, 2, payloads(&["x"]), done));
    assert_eq!(refused, Err(Error::Busy));
    assert_eq!(wal.bounds(B).last, Some(1), "nothing was applied");
    let (room, has_room) = channel();
    wal.when_room(Box::new(move || room.send(()).unwrap()));
    assert!(has_room.try_recv().is_err());
    go.send(()).unwrap();
    has_room.recv().unwrap();
    assert_eq!(big.recv().unwrap(), Ok(()));
    append(&wal, B, 2, &["x"]);
}

#[test]
fn a_closed_log_takes_nothing_more_and_can_still_be_read() {
    let disk = SimDisk::new(1);
    let wal = open(&disk);
    append(&wal, A, 1, &["one"]);
    wal.close().unwrap();
    assert_eq!(synced(|done| wal.append(A, 2, payloads(&["x"]), done)), Err(Error::Closed));
    assert_eq!(texts(&wal, A), ["one"]);
    assert!(matches!(try_open(&disk), Err(OpenError::InUse)));
}

#[test]
fn the_last_handle_may_be_dropped_inside_a_completion() {
    let disk = SimDisk::new(1);
    let wal = open(&disk);
    let own = Mutex::new(Some(wal.clone()));
    let (completion, result) = done();
    let done = Box::new(move |_: Result<(), Error>| {
        own.lock().unwrap().take();
        completion(Ok(()));
    });
    wal.append(A, 1, payloads(&["one"]), done).unwrap();
    drop(wal);
    assert_eq!(result.recv().unwrap(), Ok(()));
}

#[test]
fn a_payload_larger_than_a_segment_gets_one_to_itself() {
    let disk = SimDisk::new(1);
    let wal = open(&disk);
    let big = "b".repeat(10_000);
    append(&wal, A, 1, &["small", &big, "small"]);
    assert_eq!(segments(&disk).len(), 3);
    drop(wal);
    let wal = open(&disk);
    assert_eq!(texts(&wal, A), ["small", &big, "small"]);
    purge(&wal, A, 2, "");
    append(&wal, A, 4, &["x"]);
    assert_eq!(texts(&wal, A), ["small", "x"]);
}

#[test]
fn many_threads_read_while_segments_come_and_go() {
    let disk = SimDisk::new(1);
    let options = Options { spare_segments: 1, ..small() };
    let (wal, _) = Wal::open_on(Arc::new(disk), options).unwrap();
    let reader = |wal: Wal| {
        move || {
            let mut last = 0;
            while last < 2000 {
                let bounds = wal.bounds(A);
                let Some(first) = bounds.first else { continue };
                match wal.entries(A, first..first + 5, 500) {
                    Ok(entries) => {
                        for (index, entry) in (first..).zip(entries) {
                            assert!(entry.starts_with(format!("{index}:").as_bytes()));
                        }
                    }
                    Err(error) => assert!(matches!(error, Error::Purged { .. }), "{error}"),
                }
                last = bounds.last.unwrap_or(0);
            }
        }
    };
    let readers: Vec<_> = (0..2).map(|_| thread::spawn(reader(wal.clone()))).collect();
    for index in 1..=2000u64 {
        let payload = format!("{index}:{}", "x".repeat(100));
        append(&wal, A, index, &[&payload]);
        if index % 50 == 0 {
            wal.purge_to(A, index - 20, Bytes::new(), None).unwrap();
        }
    }
    for reader in readers {
        reader.join().unwrap();
    }
}

#[test]
fn on_the_file_system_a_second_opener_is_refused_until_the_first_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("some/where");
    let (wal, recovery) = Wal::open(&path, small()).unwrap();
    assert!(recovery.created);
    assert!(matches!(Wal::open(&path, small()), Err(OpenError::InUse)));
    for index in 1..100 {
        append(&wal, A, index, &[&"x".repeat(300)]);
    }
    purge(&wal, A, 50, "fifty");
    drop(wal);
    let (wal, recovery) = Wal::open(&path, small()).unwrap();
    assert_eq!((recovery.created, recovery.torn), (false, None));
    assert_eq!(texts(&wal, A), vec!["x".repeat(300); 49]);
}

#[test]
fn options_that_contradict_themselves_are_refused() {
    let refused = [
        Options { segment_bytes: 100, ..small() },
        Options { segment_bytes: 1 << 40, ..small() },
        Options { queue_bytes_max: 0, ..small() },
        Options { spare_segments: 9, ..small() },
    ];
    for options in refused {
        let opened = Wal::open_on(Arc::new(SimDisk::new(1)), options);
        assert!(matches!(opened, Err(OpenError::Options(_))));
    }
}
