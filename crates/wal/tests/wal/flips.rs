//! Bits of a small log, flipped, one at a time: nobody is ever given a wrong byte, each flip
//! is reported or without effect, and whom it did not hit has everything.
//!
//! A merge takes one bit of each byte and opens the log for each eighth byte. With
//! `STEMEDB_EXHAUSTIVE` set it is every bit, and an opening for each byte: 98,304 flips.

use std::collections::BTreeMap;

use bytes::Bytes;
use stemedb_wal::check::check_on;
use stemedb_wal::disk::Disk;
use stemedb_wal::disk::sim::SimDisk;
use stemedb_wal::fuzzing::{record_decode, segment_open, with_checksums};
use stemedb_wal::{Bounds, Error, OpenError, StreamId, Wal};

use crate::common::*;

const C: StreamId = StreamId(3);

/// All that a reader can see of one stream.
type Seen = (Bounds, Option<Bytes>, Vec<Bytes>);

fn see(wal: &Wal, stream: StreamId) -> Result<Seen, Error> {
    let bounds = wal.bounds(stream);
    let (first, last) = (bounds.first.unwrap_or(0), bounds.last.map_or(0, |last| last + 1));
    let entries = wal.entries(stream, first..last.max(first), usize::MAX)?;
    Ok((bounds, wal.mark_value(stream, 1), entries))
}

/// Three segments, three streams, every kind of record; closed.
fn small_log() -> SimDisk {
    let disk = SimDisk::new(1);
    let wal = open(&disk);
    synced(|done| wal.mark(C, 1, Bytes::from_static(b"c votes"), Some(done))).unwrap();
    for index in 1..=14u64 {
        append(&wal, A, index, &[&format!("a{index} {}", "x".repeat(250))]);
        append(&wal, B, 2 * index, &[&format!("b{}", 2 * index), &format!("b{}", 2 * index + 1)]);
        if index == 7 {
            truncate(&wal, A, 7);
            append(&wal, A, 7, &["a7 again"]);
            append(&wal, C, 1, &["c1", "c2"]);
        }
    }
    purge(&wal, A, 2, "two");
    synced(|done| wal.mark(B, 1, Bytes::from_static(b"b votes"), Some(done))).unwrap();
    append(&wal, StreamId(4), 1, &["of no worth"]);
    synced(|done| wal.forget(StreamId(4), done)).unwrap();
    append(&wal, A, 15, &[&"y".repeat(1500)]);
    append(&wal, A, 16, &["a16"]);
    wal.close().unwrap();
    assert_eq!(segments(&disk).len(), 3);
    disk.copy()
}

#[derive(Default)]
struct Outcomes(BTreeMap<&'static str, [u64; 3]>);

impl Outcomes {
    fn count(&mut self, what: &'static str, column: usize) {
        self.0.entry(what).or_default()[column] += 1;
    }
}

#[test]
fn a_bit_flipped_anywhere_is_without_effect_or_costs_those_it_hit_and_says_so() {
    let disk = small_log();
    let streams = [A, B, C];
    let good = open(&disk.copy());
    let expected = streams.map(|stream| see(&good, stream).unwrap());
    let mut outcomes = Outcomes::default();
    let all = std::env::var_os("STEMEDB_EXHAUSTIVE").is_some();
    for (column, name) in segments(&disk).iter().enumerate() {
        let length = disk.bytes(name).unwrap().len();
        for byte in 0..length {
            // Each byte with another bit than its neighbours.
            let chosen = (byte % 8) as u8;
            for bit in (0..8).filter(|bit| all || *bit == chosen) {
                disk.flip(name, byte, bit);
                let report = check_on(&disk).unwrap();
                let hit: Vec<_> = report.streams.iter().filter(|told| told.damaged).collect();
                let what = match (report.damage.is_empty(), hit.len()) {
                    (true, _) if report.torn.is_some() => "a torn tail, nothing lost",
                    (true, _) => "no effect",
                    (false, 0) => "reported, nothing lost",
                    (false, 1) => "reported, one stream quarantined",
                    (false, _) => "reported, several quarantined",
                };
                outcomes.count(what, column);
                // Opening for real takes threads.
                if bit == chosen && (all || byte % 8 == column) {
                    let hit: Vec<_> = hit.iter().map(|told| told.stream).collect();
                    open_and_compare(&disk, &hit, &streams, &expected);
                }
                disk.flip(name, byte, bit);
            }
        }
    }
    println!("outcome of one flipped bit           segment 1  segment 2  segment 3");
    for (what, [one, two, three]) in &outcomes.0 {
        println!("{what:<36} {one:>9} {two:>10} {three:>10}");
    }
    assert!(!outcomes.0.contains_key("reported, several quarantined"));
    assert!(outcomes.0["reported, one stream quarantined"].iter().all(|&count| count > 50));
}

fn open_and_compare(disk: &SimDisk, hit: &[StreamId], all: &[StreamId], expected: &[Seen]) {
    let copy = disk.copy();
    assert_eq!(try_open(&copy).is_err(), !hit.is_empty(), "it is refused if it cost anything");
    let (wal, recovery) = quarantining(&copy).unwrap();
    assert_eq!(recovery.quarantined, hit);
    for (stream, expected) in all.iter().zip(expected) {
        match see(&wal, *stream) {
            Ok(seen) => assert_eq!((&seen, hit.contains(stream)), (expected, false)),
            Err(Error::Quarantined { .. }) => assert!(hit.contains(stream)),
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn an_identity_with_a_flipped_bit_is_refused() {
    let disk = small_log();
    for byte in 0..24 {
        for bit in 0..8 {
            let flipped = disk.copy();
            flipped.flip("identity", byte, bit);
            assert!(matches!(quarantining(&flipped), Err(OpenError::Corrupt { .. })));
        }
    }
}

#[test]
fn sectors_wiped_together_never_yield_a_wrong_byte_nor_a_healthy_stream_with_a_hole() {
    let disk = small_log();
    let expected = [A, B, C].map(|stream| see(&open(&disk.copy()), stream).unwrap());
    for seed in seeds(150) {
        let mut dice = Dice(seed);
        let damaged = disk.copy();
        for _ in 0..=dice.below(3) {
            let names = segments(&damaged);
            let name = &names[dice.below(names.len() as u64) as usize];
            let (from, bytes) = (dice.below(4096) as usize, 1 + dice.below(700) as usize);
            let filler = dice.below(256) as u8;
            match dice.below(8) {
                0 => damaged.remove(name).unwrap(),
                1 => damaged.edit(name, |file| file.truncate(from)),
                _ => damaged.edit(name, |file| {
                    let to = (from + bytes).min(file.len());
                    file[from.min(to)..to].fill(filler);
                }),
            }
        }
        let opened = quarantining(&damaged);
        let Ok((wal, recovery)) = opened else {
            assert!(matches!(opened, Err(OpenError::Corrupt { .. })), "seed {seed}: {opened:?}");
            continue;
        };
        // The last segments may be gone without a trace: what is there is a prefix then.
        let whole = recovery.damage.iter().any(|damage| damage.unknown);
        for (stream, (bounds, mark, entries)) in [A, B, C].into_iter().zip(&expected) {
            let Ok((seen, seen_mark, found)) = see(&wal, stream) else { continue };
            let first = seen.first.unwrap_or(0) as usize;
            let skip = first.saturating_sub(bounds.first.unwrap() as usize);
            for (got, wanted) in found.iter().skip(3).zip(entries.iter().skip(skip + 3)) {
                // Up to three entries may be of a past state of a log that lost its end.
                assert!(got == wanted || got.starts_with(&wanted[..1]), "seed {seed} {whole}");
            }
            assert!(seen_mark.is_none() || seen_mark == *mark, "seed {seed}");
        }
        drop(wal);
        // What was quarantined stays so.
        let (_, again) = quarantining(&damaged).unwrap();
        assert_eq!(again.quarantined, recovery.quarantined, "seed {seed}");
    }
}

#[test]
fn no_bytes_make_the_reader_panic() {
    let disk = small_log();
    let segment = disk.bytes(&segments(&disk)[1]).unwrap();
    for seed in seeds(1000) {
        let mut dice = Dice(seed);
        let mut bytes = match dice.below(3) {
            0 => vec![0; dice.below(600) as usize],
            _ => segment[..dice.below(segment.len() as u64) as usize].to_vec(),
        };
        for _ in 0..dice.below(40) {
            let at = dice.below(bytes.len().max(1) as u64) as usize;
            if let Some(byte) = bytes.get_mut(at) {
                *byte = [dice.below(256) as u8, 0, 1, 0x7f, 0xff][dice.below(5) as usize];
            }
        }
        record_decode(&bytes);
        segment_open(&bytes);
        segment_open(&with_checksums(bytes));
    }
}
