//! Damage costs the streams whose records it hit, and nobody else; and it is not forgotten.

use bytes::Bytes;
use std::ops::ControlFlow;
use std::sync::Arc;

use stemedb_wal::check::{GivenUp, check_on, repair_on};
use stemedb_wal::disk::Disk;
use stemedb_wal::disk::sim::SimDisk;
use stemedb_wal::{Error, OpenError, StreamId, Wal};

use crate::common::*;

const C: StreamId = StreamId(3);
const SEGMENT_1: &str = "0000000000000001.wal";

/// Flips a bit in the first place where `text` stands.
fn damage(disk: &SimDisk, text: &str) -> (String, u64) {
    for name in segments(disk) {
        let bytes = disk.bytes(&name).unwrap();
        let found = bytes.windows(text.len()).position(|window| window == text.as_bytes());
        if let Some(at) = found {
            disk.flip(&name, at, 2);
            return (name, at as u64);
        }
    }
    panic!("{text} is not on disk");
}

/// Overwrites the whole batch in which `text` stands, but for its last byte.
fn wipe_batch(disk: &SimDisk, name: &str, text: &str) {
    disk.edit(name, |bytes| {
        let at = bytes.windows(text.len()).position(|window| window == text.as_bytes()).unwrap();
        let head = [0xb7, 0x57, 0xa2, 0x6e];
        let from = (0..at).rfind(|&at| bytes[at..at + 4] == head).unwrap();
        let to = (at..bytes.len() - 4).find(|&at| bytes[at..at + 4] == head).unwrap();
        bytes[from..to].fill(0xee);
    });
}

fn is_quarantined<T: std::fmt::Debug>(result: Result<T, Error>) -> bool {
    matches!(result, Err(Error::Quarantined { .. }))
}

/// Three streams with a few entries each, one batch an entry.
fn three_streams(disk: &SimDisk) -> Wal {
    let wal = open(disk);
    for index in 1..6 {
        for (stream, letter) in [(A, "a"), (B, "b"), (C, "c")] {
            append(&wal, stream, index, &[&format!("{letter}{index} of {letter}")]);
        }
    }
    wal
}

#[test]
fn a_bad_record_quarantines_its_stream_and_the_others_go_on_over_restarts_and_segments() {
    let disk = SimDisk::new(1);
    drop(three_streams(&disk));
    let (file, at) = damage(&disk, "b3 of b");
    assert!(matches!(try_open(&disk), Err(OpenError::Corrupt { .. })));

    let (wal, recovery) = quarantining(&disk).unwrap();
    let found = &recovery.damage[0];
    assert_eq!((&found.file, &found.streams, found.unknown), (&file, &vec![B], false));
    assert!(found.offset <= at && at < found.offset + found.bytes && found.bytes < 30);
    assert_eq!(recovery.quarantined, [B]);
    assert!(is_quarantined(wal.entries(B, 1..2, 9)));
    assert!(is_quarantined(synced(|done| wal.append(B, 6, payloads(&["x"]), done))));
    assert!(is_quarantined(wal.mark(B, 1, Bytes::new(), None)));
    assert!(is_quarantined(synced(|done| wal.truncate_from(B, 1, done))));
    assert!(is_quarantined(wal.purge_to(B, 1, Bytes::new(), None)));
    assert_eq!(texts(&wal, C).len(), 5);
    // The others fill segments and free them, and what is known of B stays the same.
    for index in 6..200 {
        append(&wal, A, index, &[&"a".repeat(200)]);
        purge(&wal, A, index - 1, "");
        if index % 40 == 0 {
            assert_eq!(wal.poisoned(), None);
            let (again, recovery) = quarantining(&disk.copy()).unwrap();
            assert_eq!(recovery.quarantined, [B], "at {index}");
            assert_eq!((texts(&again, A).len(), texts(&again, C).len()), (1, 5));
        }
    }
    let bounds = wal.bounds(B);
    assert_eq!((bounds.first, bounds.last), (Some(1), Some(5)));
    assert!(!segments(&disk).contains(&SEGMENT_1.to_owned()), "it does not pin the log");
    synced(|done| wal.forget(B, done)).unwrap();
    assert_eq!(wal.quarantined(), []);
    append(&wal, B, 1, &["new"]);
    drop(wal);
    let wal = open(&disk);
    assert_eq!((texts(&wal, B), texts(&wal, C).len()), (vec!["new".into()], 5));
}

#[test]
fn a_lost_mark_or_truncation_is_no_secret_after_the_next_segment_either() {
    for (step, what) in [(0, "vote!"), (1, "note!")] {
        let disk = SimDisk::new(1);
        let wal = three_streams(&disk);
        if step == 0 {
            synced(|done| wal.mark(B, 1, Bytes::from_static(b"vote!"), Some(done))).unwrap();
        } else {
            purge(&wal, B, 2, "note!");
        }
        append(&wal, A, 6, &["last"]);
        drop(wal);
        damage(&disk, what);
        for _ in 0..3 {
            // Each opening goes on in the same segment or a new one, and remembers.
            let (wal, recovery) = quarantining(&disk).unwrap();
            assert_eq!(recovery.quarantined, [B], "{what}");
            assert_eq!(texts(&wal, A).len(), 6);
        }
        let (wal, _) = quarantining(&disk).unwrap();
        for index in 7..100 {
            append(&wal, A, index, &[&"a".repeat(200)]);
            purge(&wal, A, index - 1, "");
        }
        drop(wal);
        let (_, recovery) = quarantining(&disk).unwrap();
        assert_eq!(recovery.quarantined, [B], "{what}");
    }
}

#[test]
fn a_lost_mark_costs_nothing_once_a_checkpoint_has_said_it_again() {
    let disk = SimDisk::new(1);
    let wal = three_streams(&disk);
    synced(|done| wal.mark(B, 1, Bytes::from_static(b"vote!"), Some(done))).unwrap();
    append(&wal, A, 6, &[&"a".repeat(4000)]);
    drop(wal);
    damage(&disk, "vote!");
    let (wal, recovery) = try_open(&disk).unwrap();
    assert_eq!((recovery.damage.len(), recovery.quarantined), (1, vec![]));
    assert_eq!(wal.mark_value(B, 1), Some(Bytes::from_static(b"vote!")));
    assert_eq!(texts(&wal, B).len(), 5);
}

#[test]
fn damage_in_entries_that_were_purged_since_costs_nothing() {
    let disk = SimDisk::new(1);
    let wal = three_streams(&disk);
    purge(&wal, B, 3, "three");
    drop(wal);
    damage(&disk, "b3 of b");
    let (wal, recovery) = try_open(&disk).unwrap();
    assert_eq!((recovery.damage.len(), recovery.quarantined), (1, vec![]));
    assert_eq!(texts(&wal, B), ["b4 of b", "b5 of b"]);
}

#[test]
fn a_batch_that_is_gone_costs_those_who_can_not_be_shown_to_have_lost_nothing() {
    let disk = SimDisk::new(1);
    let wal = three_streams(&disk);
    append(&wal, A, 6, &["a6 of a"]);
    append(&wal, B, 6, &["b6 of b"]);
    let crashed = disk.copy();
    drop(wal);
    // C wrote nothing more, and a log that was not closed has no roll call behind.
    for (disk, expected) in [(disk, vec![A]), (crashed, vec![A, C])] {
        wipe_batch(&disk, SEGMENT_1, "a6 of a");
        let (wal, recovery) = quarantining(&disk).unwrap();
        let closed = expected.len() == 1;
        assert_eq!(recovery.quarantined, expected, "closed: {closed}");
        assert_eq!(texts(&wal, B).len(), 6);
        assert_eq!(recovery.damage[0].unknown, !closed);
        // A stream nobody knows may be one that was lost, until it is given up.
        let new = StreamId(77);
        let appended = synced(|done| wal.append(new, 1, payloads(&["new"]), done));
        assert_eq!(is_quarantined(appended), !closed);
        drop(wal);
        let (wal, recovery) = quarantining(&disk).unwrap();
        assert_eq!(recovery.quarantined, expected);
        synced(|done| wal.forget(new, done)).unwrap();
        append(&wal, new, 1, &["new"]);
        drop(wal);
        let (wal, recovery) = quarantining(&disk).unwrap();
        assert_eq!((texts(&wal, new), recovery.quarantined), (vec!["new".into()], expected));
    }
}

#[test]
fn a_missing_segment_costs_those_who_had_records_in_it() {
    let disk = SimDisk::new(1);
    let wal = three_streams(&disk);
    for index in 6..40 {
        append(&wal, A, index, &[&"a".repeat(200)]);
    }
    append(&wal, B, 6, &["at the end"]);
    drop(wal);
    let names = segments(&disk);
    assert!(names.len() > 3);
    disk.remove(&names[1]).unwrap();
    let (wal, recovery) = quarantining(&disk).unwrap();
    assert_eq!((recovery.quarantined, recovery.damage.len()), (vec![A], 1));
    assert_eq!((recovery.damage[0].file.as_str(), recovery.damage[0].unknown), (&*names[1], false));
    assert_eq!((texts(&wal, B).len(), texts(&wal, C).len()), (6, 5));
}

#[test]
fn bytes_that_the_disk_refuses_to_read_are_damage_and_no_torn_end() {
    let disk = SimDisk::new(1);
    let wal = three_streams(&disk);
    let end = disk.bytes(SEGMENT_1).unwrap().iter().rposition(|&byte| byte != 0).unwrap();
    let disk = disk.copy();
    drop(wal);
    disk.fail_reads_of(SEGMENT_1, end as u64 - 40..end as u64 + 1);
    assert!(matches!(try_open(&disk), Err(OpenError::Io { .. })));
    let (_, recovery) = quarantining(&disk).unwrap();
    assert_eq!((recovery.torn, recovery.quarantined), (None, vec![A, B, C]));
}

#[test]
fn a_sector_that_cannot_be_read_between_two_entries_stops_only_whom_it_held() {
    let disk = SimDisk::new(1);
    let wal = open(&disk);
    append(&wal, A, 1, &["a1"]);
    append(&wal, B, 1, &[&"b".repeat(1500)]);
    append(&wal, A, 2, &["a2"]);
    drop(wal);
    let bytes = disk.bytes(SEGMENT_1).unwrap();
    let begin = bytes.windows(4).position(|window| window == b"bbbb").unwrap() as u64;
    disk.fail_reads_of(SEGMENT_1, begin + 750..begin + 751);
    let (wal, recovery) = quarantining(&disk).unwrap();
    assert_eq!(recovery.quarantined, [B]);
    // One read would fetch both of A's, and what lies between.
    assert_eq!(texts(&wal, A), ["a1", "a2"]);
}

#[test]
fn what_an_owner_sets_aside_stays_so_until_it_is_forgotten() {
    let disk = SimDisk::new(1);
    let wal = three_streams(&disk);
    wal.quarantine(B, "its owner's reasons");
    assert!(wal.is_quarantined(B) && !wal.is_quarantined(StreamId(9)));
    assert_eq!(wal.quarantined(), [(B, "its owner's reasons".to_owned())]);
    assert!(is_quarantined(wal.entries(B, 1..2, 9)));
    synced(|done| wal.forget(B, done)).unwrap();
    append(&wal, B, 1, &["new"]);
}

#[test]
fn a_scrub_finds_what_was_damaged_since_and_whose_it_is() {
    let disk = SimDisk::new(1);
    let wal = three_streams(&disk);
    for index in 6..40 {
        append(&wal, A, index, &[&"a".repeat(200)]);
    }
    let mut read = 0;
    let mut all = |bytes| {
        read += bytes;
        ControlFlow::Continue(())
    };
    assert_eq!(wal.scrub(&mut all), Ok(vec![]));
    assert_eq!(read, (segments(&disk).len() as u64 - 1) * 4096);
    let (file, at) = damage(&disk, "c2 of c");
    disk.flip(&segments(&disk)[1], 3, 0);
    let found = wal.scrub(&mut |_| ControlFlow::Continue(())).unwrap();
    let hit = found.iter().find(|damage| damage.file == file).unwrap();
    assert!(hit.offset <= at && at < hit.offset + hit.bytes);
    assert_eq!((hit.streams.as_slice(), found.len()), ([C].as_slice(), 2));
    assert_eq!(found.iter().filter(|damage| damage.streams.is_empty()).count(), 1, "a header");
    assert_eq!(wal.scrub(&mut |_| ControlFlow::Break(())), Ok(vec![]));
}

#[test]
fn a_check_says_what_is_there_and_what_is_wrong_and_changes_nothing() {
    let disk = SimDisk::new(1);
    let wal = three_streams(&disk);
    purge(&wal, A, 2, "");
    drop(wal);
    let files = |disk: &SimDisk| {
        let names = disk.list().unwrap().into_iter();
        names.map(|name| (disk.bytes(&name), name)).collect::<Vec<_>>()
    };
    damage(&disk, "b3 of b");
    let before = files(&disk);
    let report = check_on(&disk).unwrap();
    assert_eq!(files(&disk), before);
    assert_eq!((report.segments, report.records, report.bytes), (1, 15, 4096));
    let told = |at: usize| {
        let told = &report.streams[at];
        (told.stream, told.purged, told.first, told.last, told.damaged)
    };
    assert_eq!(told(0), (A, Some(2), Some(3), Some(5), false));
    assert_eq!(told(1), (B, None, Some(1), Some(5), true));
    assert_eq!((report.damage.len(), report.torn), (1, None));
}

#[test]
fn a_repair_purges_what_is_flushed_gives_up_what_it_is_told_and_leaves_the_rest() {
    let disk = SimDisk::new(1);
    drop(three_streams(&disk));
    for text in ["a2 of a", "b3 of b", "c4 of c"] {
        damage(&disk, text);
    }
    let seam: Arc<dyn Disk> = Arc::new(disk.clone());
    // A's damage is flushed, B's is not, C is given up.
    let flushed = |stream| (stream == A).then(|| (3, Bytes::from_static(b"three")));
    let not_yet = |_| Some((1, Bytes::new()));
    assert_eq!(repair_on(&seam, &not_yet, &[]).unwrap(), []);
    let given_up = repair_on(&seam, &flushed, &[C]).unwrap();
    assert_eq!(given_up, [GivenUp::Entries { stream: A, to: 3 }, GivenUp::Stream(C)]);
    let (wal, recovery) = quarantining(&disk).unwrap();
    assert_eq!((recovery.quarantined, wal.streams()), (vec![B], vec![A, B]));
    assert_eq!(texts(&wal, A), ["a4 of a", "a5 of a"]);
    assert_eq!(wal.bounds(A).purged, Some((3, Bytes::from_static(b"three"))));
    drop(wal);
    assert!(try_open(&disk).is_err());
    assert_eq!(repair_on(&seam, &flushed, &[B]).unwrap(), [GivenUp::Stream(B)]);
    assert_eq!(open(&disk).streams(), [A]);
}

#[test]
fn a_repair_that_gives_up_every_damaged_stream_gives_up_the_unknown_ones_too() {
    let disk = SimDisk::new(1);
    let wal = three_streams(&disk);
    append(&wal, A, 6, &["a6 of a"]);
    append(&wal, B, 6, &["b6 of b"]);
    let disk = disk.copy();
    drop(wal);
    wipe_batch(&disk, SEGMENT_1, "a6 of a");
    let seam: Arc<dyn Disk> = Arc::new(disk.clone());
    let given_up = repair_on(&seam, &|_| None, &[A, C]).unwrap();
    assert_eq!(given_up, [GivenUp::Stream(A), GivenUp::Stream(C), GivenUp::Unknown]);
    let wal = open(&disk);
    assert_eq!(texts(&wal, B).len(), 6);
    append(&wal, StreamId(77), 1, &["new"]);
    drop(wal);
    assert_eq!(texts(&open(&disk), StreamId(77)), ["new"]);
}
