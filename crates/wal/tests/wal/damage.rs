//! Torn, flipped, truncated, missing: what was synced is refused when its damage costs a stream
//! anything, never cut; what was not is cut and nothing else.

use std::collections::BTreeSet;

use bytes::Bytes;
use stemedb_wal::disk::Disk;
use stemedb_wal::disk::sim::SimDisk;
use stemedb_wal::{Error, OpenError, StreamId, Wal};

use crate::common::*;

const SEGMENT_1: &str = "0000000000000001.wal";

type Contents = (StreamId, Option<(u64, Bytes)>, Vec<String>, Option<Bytes>);

/// Everything a reader can see.
fn contents(wal: &Wal) -> Vec<Contents> {
    let stream = |id| (id, wal.bounds(id).purged, texts(wal, id), wal.mark_value(id, 1));
    wal.streams().into_iter().map(stream).collect()
}

/// A small log of four batches, not closed, and its contents after each of them.
fn four_batches() -> (SimDisk, Vec<Vec<u8>>, Vec<Vec<String>>) {
    let disk = SimDisk::new(1);
    let wal = open(&disk);
    let (mut images, mut states) = (Vec::new(), Vec::new());
    for index in 1..5 {
        append(&wal, A, index, &[&format!("entry {index}")]);
        images.push(disk.bytes(SEGMENT_1).unwrap());
        states.push(texts(&wal, A));
    }
    let copy = disk.copy();
    disk.crash();
    (copy, images, states)
}

#[test]
fn a_write_torn_at_any_byte_leaves_all_of_it_or_nothing_of_it() {
    let (disk, images, states) = four_batches();
    let (before, after) = (&images[2], &images[3]);
    let changed = |&at: &usize| before[at] != after[at];
    let first = (0..after.len()).find(changed).unwrap();
    let last = (0..after.len()).rfind(changed).unwrap();
    for cut in first..=last + 1 {
        let torn = disk.copy();
        torn.edit(SEGMENT_1, |bytes| {
            bytes[..cut].copy_from_slice(&after[..cut]);
            bytes[cut..].copy_from_slice(&before[cut..]);
        });
        let (wal, recovery) = try_open(&torn).unwrap();
        let whole = cut == last + 1;
        assert_eq!(texts(&wal, A), states[if whole { 3 } else { 2 }], "cut at {cut}");
        assert_eq!(recovery.torn.is_some(), !whole && cut > first, "cut at {cut}");
        // The log goes on over the torn bytes, and the next opening finds nothing torn.
        let next = if whole { 5 } else { 4 };
        append(&wal, A, next, &["next"]);
        let again = torn.copy();
        drop(wal);
        let (wal, recovery) = try_open(&again).unwrap();
        assert_eq!((texts(&wal, A).len() as u64, recovery.torn), (next, None));
    }
}

#[test]
fn what_a_cut_batch_left_behind_is_wiped_before_anything_is_written_over_it() {
    let (disk, images, states) = four_batches();
    let (before, after) = (&images[2], &images[3]);
    let start = (0..after.len()).find(|&at| before[at] != after[at]).unwrap();
    let tail = [0xb7, 0x7a, 0x11, 0x6e];
    let at = (start..after.len()).find(|&at| after[at..].starts_with(&tail)).unwrap();
    // The sector with the head never reached the disk, the one with the tail did.
    disk.edit(SEGMENT_1, |bytes| bytes[start..start + 36].fill(0));
    let (wal, recovery) = try_open(&disk).unwrap();
    assert_eq!((texts(&wal, A), recovery.torn), (states[2].clone(), None));
    assert_eq!(disk.bytes(SEGMENT_1).unwrap()[at..at + 36], [0; 36]);
}

#[test]
fn a_bit_flipped_in_a_synced_record_is_refused_and_in_the_last_batch_cuts_just_that() {
    let (disk, images, states) = four_batches();
    let end = images[3].iter().rposition(|&byte| byte != 0).unwrap() + 1;
    let last_batch = images[2].iter().rposition(|&byte| byte != 0).unwrap() + 1;
    for byte in 0..end + 64 {
        let flipped = disk.copy();
        flipped.flip(SEGMENT_1, byte, (byte % 8) as u8);
        match try_open(&flipped) {
            Err(OpenError::Corrupt { file, offset, .. }) => {
                assert!(byte < last_batch, "byte {byte} is not proven synced");
                assert!(file == SEGMENT_1 && offset <= byte as u64);
            }
            Err(error) => panic!("byte {byte}: {error}"),
            Ok((wal, recovery)) if byte < last_batch => {
                assert!(recovery.damage.len() == 1, "byte {byte}: its damage was not seen");
                assert_eq!(texts(&wal, A), states[3], "byte {byte} cost a record unseen");
            }
            Ok((wal, recovery)) => {
                let cut = byte < end;
                assert_eq!(texts(&wal, A), states[if cut { 2 } else { 3 }], "byte {byte}");
                assert!(recovery.torn.is_some() || !cut, "byte {byte} is cut without a word");
            }
        }
    }
}

/// A log of several segments with every kind of record in it, closed.
fn closed_log() -> SimDisk {
    let disk = SimDisk::new(1);
    let wal = open(&disk);
    for index in 1..40 {
        append(&wal, A, index, &[&"a".repeat(150)]);
        append(&wal, B, index, &[&"b".repeat(20)]);
    }
    truncate(&wal, A, 35);
    purge(&wal, B, 30, "thirty");
    synced(|done| wal.mark(B, 1, Bytes::from_static(b"mark"), Some(done))).unwrap();
    wal.close().unwrap();
    assert!(segments(&disk).len() >= 3, "{:?}", segments(&disk));
    disk.copy()
}

#[test]
fn no_bit_of_a_closed_log_flips_unseen_with_any_effect() {
    let disk = closed_log();
    let expected = contents(&open(&disk.copy()));
    let mut refused = BTreeSet::new();
    for file in disk.list().unwrap() {
        let length = disk.bytes(&file).unwrap().len();
        // Every byte of the heads and each seventh of the rest; each opening reads 16 KiB.
        for byte in (0..length).filter(|&byte| byte < 200 || byte % 7 == 0) {
            let flipped = disk.copy();
            flipped.flip(&file, byte, (byte % 8) as u8);
            match try_open(&flipped) {
                Ok((wal, _)) => assert_eq!(contents(&wal), expected, "{file} byte {byte}"),
                Err(OpenError::Corrupt { .. }) => {
                    refused.insert(file.clone());
                }
                Err(error) => panic!("{file} byte {byte}: {error}"),
            }
        }
    }
    let spare = |name: &String| name.ends_with(".spare");
    let files: BTreeSet<_> = disk.list().unwrap().into_iter().filter(|f| !spare(f)).collect();
    assert_eq!(refused, files, "each file was checked");
}

#[test]
fn a_segment_cut_short_or_taken_away_is_refused() {
    let disk = closed_log();
    let names = segments(&disk);
    for name in &names[..names.len() - 1] {
        for kept in [0, 47, 48, 100, 2000] {
            let cut = disk.copy();
            cut.edit(name, |bytes| bytes.truncate(kept));
            assert!(matches!(try_open(&cut), Err(OpenError::Corrupt { .. })), "{name} {kept}");
        }
    }
    let without = |name: &str| {
        let less = disk.copy();
        less.remove(name).unwrap();
        try_open(&less).map(|_| ())
    };
    let gone = without(&names[0]);
    assert!(matches!(gone, Err(OpenError::Missing { stream: A, .. })), "{gone:?}");
    assert!(matches!(without(&names[1]), Err(OpenError::Corrupt { .. })));
    assert!(matches!(without("identity"), Err(OpenError::Corrupt { .. })));
}

#[test]
fn a_segment_of_another_log_is_refused() {
    let (ours, theirs) = (closed_log(), SimDisk::new(2));
    open(&theirs);
    let name = segments(&ours).pop().unwrap();
    let bytes = theirs.bytes(SEGMENT_1).unwrap();
    ours.edit(&name, |ours| *ours = bytes);
    let reason = "the segment belongs to another log";
    assert!(matches!(try_open(&ours), Err(OpenError::Corrupt { reason: r, .. }) if r == reason));
}

#[test]
fn a_refused_log_is_left_as_it_is() {
    let files = |disk: &SimDisk| {
        let names = disk.list().unwrap().into_iter();
        names.map(|name| (disk.bytes(&name), name)).collect::<Vec<_>>()
    };
    let mut refused = 0;
    for byte in (0..4096).step_by(64) {
        let disk = closed_log();
        disk.flip(&segments(&disk)[1], byte, 0);
        let before = files(&disk);
        if try_open(&disk).is_err() {
            refused += 1;
            assert_eq!(files(&disk), before, "byte {byte}");
        }
    }
    assert!(refused > 10, "{refused}");
}

#[test]
fn an_entry_damaged_while_the_log_is_open_is_not_returned() {
    let disk = SimDisk::new(1);
    let wal = open(&disk);
    append(&wal, A, 1, &["first", "second", "third"]);
    let bytes = disk.bytes(SEGMENT_1).unwrap();
    let at = bytes.windows(6).position(|window| window == b"second").unwrap();
    disk.flip(SEGMENT_1, at, 3);
    assert_eq!(wal.entries(A, 1..2, 99).unwrap(), payloads(&["first"]));
    let read = wal.entries(A, 1..4, 99);
    assert!(matches!(read, Err(Error::Damaged { .. })), "{read:?}");
}

#[test]
fn a_damaged_entry_is_never_written_again_and_costs_its_stream_alone() {
    let disk = SimDisk::new(1);
    let wal = open(&disk);
    append(&wal, B, 1, &["quiet one", "quiet two"]);
    let bytes = disk.bytes(SEGMENT_1).unwrap();
    let at = bytes.windows(9).position(|window| window == b"quiet two").unwrap();
    disk.flip(SEGMENT_1, at, 3);
    for index in 1..300u64 {
        append(&wal, A, index, &[&"x".repeat(100)]);
        purge(&wal, A, index, "");
        let stats = wal.stats();
        assert!(stats.bytes <= 2 * stats.live_bytes + 3 * 4096, "{stats:?} at {index}");
    }
    assert_eq!(wal.poisoned(), None);
    let read = wal.entries(B, 1..2, 99);
    assert!(matches!(read, Err(Error::Quarantined { stream: B, .. })), "{read:?}");
    // Moving found it; nothing else needed the segment, so it made way for the log.
    let aside = "0000000000000001.aside";
    assert_eq!(disk.bytes(aside).unwrap()[..bytes.len()].len(), bytes.len());
    drop(wal);
    assert!(matches!(try_open(&disk), Err(OpenError::Missing { stream: B, .. })));
    let (wal, recovery) = quarantining(&disk).unwrap();
    assert_eq!(recovery.quarantined, [B]);
    assert_eq!(wal.bounds(B).last, Some(2), "what it had is known");
    synced(|done| wal.forget(B, done)).unwrap();
    append(&wal, B, 7, &["new"]);
    drop(wal);
    let wal = open(&disk);
    assert_eq!((texts(&wal, B), disk.bytes(aside)), (vec!["new".into()], None));
}

#[test]
fn the_next_segment_proves_the_end_of_the_one_before_even_where_no_state_hangs_on_it() {
    let disk = SimDisk::new(1);
    let wal = open(&disk);
    append(&wal, A, 1, &["one"]);
    let before = disk.bytes(SEGMENT_1).unwrap();
    // The last batch of segment 1 changes nothing; the append behind it fits no segment.
    synced(|done| wal.forget(B, done)).unwrap();
    append(&wal, A, 2, &[&"x".repeat(5000)]);
    assert_eq!(segments(&disk).len(), 2);
    let lost = disk.copy();
    lost.edit(SEGMENT_1, |bytes| *bytes = before);
    let (wal, recovery) = try_open(&lost).unwrap();
    assert_eq!((recovery.damage.len(), recovery.quarantined, texts(&wal, A).len()), (1, vec![], 2));
}

#[test]
fn the_mere_name_of_a_next_segment_proves_that_the_one_before_was_not_torn() {
    let (disk, images, _) = four_batches();
    let last = images[3].windows(7).position(|bytes| bytes == b"entry 4").unwrap();
    disk.flip(SEGMENT_1, last, 0);
    assert!(try_open(&disk.copy()).is_ok(), "alone it is taken for torn");
    disk.create("0000000000000002.wal").unwrap();
    assert!(matches!(try_open(&disk), Err(OpenError::Corrupt { .. })));
}
