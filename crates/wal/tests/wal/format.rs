//! The bytes on disk, frozen: if this fails, old logs can't be read and the format's version
//! must rise. `testdata/v1` is a whole log as version 1 left it.

use bytes::Bytes;
use stemedb_wal::disk::Disk;
use stemedb_wal::disk::sim::SimDisk;
use stemedb_wal::{Bounds, OpenError, StreamId, Wal};

use crate::common::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A log with one record of each kind a caller can cause, one batch each.
fn tiny() -> SimDisk {
    let disk = SimDisk::new(0x0102_0304_0506_0708);
    let wal = open(&disk);
    append(&wal, A, 300, &["abc"]);
    synced(|done| wal.mark(A, 2, Bytes::from_static(b"m"), Some(done))).unwrap();
    truncate(&wal, A, 301);
    purge(&wal, A, 299, "n");
    synced(|done| wal.forget(B, done)).unwrap();
    wal.close().unwrap();
    disk
}

#[test]
fn the_bytes_of_a_tiny_log_are_these() {
    let disk = tiny();
    assert_eq!(hex(&disk.bytes("identity").unwrap()), IDENTITY);
    let segment = disk.bytes("0000000000000001.wal").unwrap();
    let expected = SEGMENT.concat();
    let (written, rest) = segment.split_at(expected.len() / 2);
    assert_eq!(hex(written), expected);
    assert!(segment.len() == 4096 && rest.iter().all(|&byte| byte == 0));
}

#[test]
fn a_log_of_these_bytes_is_read_for_ever() {
    let disk = SimDisk::new(2);
    let files = [("identity", unhex(IDENTITY)), ("0000000000000001.wal", unhex(&SEGMENT.concat()))];
    put(&disk, &files);
    let (wal, recovery) = try_open(&disk).unwrap();
    assert_eq!((recovery.wal_id, recovery.records), (0x0102_0304_0506_0708, 5));
    assert_eq!((wal.streams(), texts(&wal, A)), (vec![A], vec!["abc".into()]));
    assert_eq!(wal.mark_value(A, 2), Some(Bytes::from_static(b"m")));
    assert_eq!(wal.bounds(A).purged, Some((299, Bytes::from_static(b"n"))));
}

#[test]
fn a_log_of_version_1_is_read_for_ever_and_goes_on_in_version_2() {
    let disk = SimDisk::new(2);
    put(&disk, &V1.map(|(name, bytes)| (name, bytes.to_vec())));
    let c = StreamId(300);
    // Each opening after the first reads both versions.
    for opening in 0..3 {
        let (wal, recovery) = try_open(&disk).unwrap();
        assert_eq!((recovery.torn, wal.streams()), (None, vec![A, B, c]));
        let a: Vec<_> = (5..36).map(|index| format!("a{index} {}", "x".repeat(100))).collect();
        let again = ["a36 again".to_owned()];
        let added = (0..opening).map(|opening| format!("added {opening}"));
        assert_eq!(texts(&wal, A), a.into_iter().chain(again).chain(added).collect::<Vec<_>>());
        let b: Vec<_> = (31..46).map(|index| format!("b{index}")).collect();
        assert_eq!(texts(&wal, B), b);
        assert_eq!(wal.bounds(A).purged, Some((4, Bytes::from_static(b"four"))));
        assert_eq!(wal.bounds(B).purged, Some((30, Bytes::from_static(b"thirty"))));
        assert_eq!(wal.mark_value(B, 7), Some(Bytes::from_static(b"mark")));
        assert_eq!(wal.mark_value(c, 1), Some(Bytes::from_static(b"vote")));
        append(&wal, A, 37 + opening, &[&format!("added {opening}")]);
    }
    let newest = segments(&disk).pop().unwrap();
    assert_eq!(disk.bytes(&newest).unwrap()[8], 2);
}

#[test]
fn a_version_1_log_damaged_anywhere_is_refused_or_without_effect() {
    let disk = SimDisk::new(2);
    put(&disk, &V1.map(|(name, bytes)| (name, bytes.to_vec())));
    let expected = observe(&open(&disk.copy()));
    for (name, bytes) in V1 {
        for at in (0..bytes.len()).step_by(3) {
            let flipped = disk.copy();
            flipped.flip(name, at, (at % 8) as u8);
            match try_open(&flipped) {
                Ok((wal, _)) => assert_eq!(observe(&wal), expected, "{name} {at}"),
                Err(OpenError::Corrupt { .. }) => {}
                Err(error) => panic!("{name} {at}: {error}"),
            }
        }
    }
}

fn observe(wal: &Wal) -> Vec<(Vec<String>, Bounds, Option<Bytes>)> {
    let stream = |id| (texts(wal, id), wal.bounds(id), wal.mark_value(id, 7));
    wal.streams().into_iter().map(stream).collect()
}

#[test]
fn a_log_of_a_newer_version_is_refused_with_both_numbers() {
    let disk = SimDisk::new(2);
    let mut newer = unhex(IDENTITY);
    newer[8] = 3;
    let sealed = newer.len() - 4;
    let checksum = crc32fast::hash(&newer[..sealed]).to_le_bytes();
    newer[sealed..].copy_from_slice(&checksum);
    disk.create("identity").unwrap().write_at(&newer, 0).unwrap();
    let opened = try_open(&disk);
    assert!(matches!(opened, Err(OpenError::Version { got: 3, known: 2, .. })), "{opened:?}");
}

fn put(disk: &SimDisk, files: &[(&str, Vec<u8>)]) {
    for (name, bytes) in files {
        disk.create(name).unwrap().write_at(bytes, 0).unwrap();
    }
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = (0..text.len()).step_by(2).map(|at| &text[at..at + 2]);
    digits.map(|digits| u8::from_str_radix(digits, 16).unwrap()).collect()
}

const V1: [(&str, &[u8]); 3] = [
    ("identity", include_bytes!("../../testdata/v1/identity")),
    ("0000000000000001.wal", include_bytes!("../../testdata/v1/0000000000000001.wal")),
    ("0000000000000002.wal", include_bytes!("../../testdata/v1/0000000000000002.wal")),
];

const IDENTITY: &str = "5374656d65574944020000000807060504030201edc8006e";

const SEGMENT: &[&str] = &[
    // header of segment 1
    "5374656d6557414c02000000000000000000000008070605040302010100000000000000000000000000000020df5730",
    // batch 1, synced with the header
    "b757a26e0c00000006000000010000000000000000000000855a21d0fd1e9acb12f449bd",
    // checkpoint of no streams
    "69a80f0e0400000009000000",
    // table of batch 1
    "01000009000c",
    // tail of batch 1
    "b77a116e0c00000006000000010000000000000000000000855a21d0fd1e9acb760974d8",
    // batch 2
    "b757a26e0f00000007000000010000008a0000000000000078e6c246361b5e3d11173174",
    // stream 1, entry 300: "abc"
    "deb90665070000000101ac02616263",
    // table of batch 2
    "0001010001000f",
    // tail of batch 2
    "b77a116e0f00000007000000010000008a0000000000000078e6c246361b5e3d7468989f",
    // batch 3
    "b757a26e0c0000000700000001000000e8000000000000004902519868026776241927de",
    // stream 1, mark 2: "m"
    "fbb648db040000000201026d",
    // table of batch 3
    "0001010102000c",
    // tail of batch 3
    "b77a116e0c0000000700000001000000e8000000000000004902519868026776e77a94a2",
    // batch 4
    "b757a26e0c00000008000000010000004301000000000000152aa5ba8b711f3faacd97c2",
    // stream 1, truncate from 301
    "4babfcf4040000000301ad02",
    // table of batch 4
    "010001010203000c",
    // tail of batch 4
    "b77a116e0c00000008000000010000004301000000000000152aa5ba8b711f3fe6d261df",
    // batch 5
    "b757a26e0d00000007000000010000009f01000000000000d65ac2f486c111e45c40e3b0",
    // stream 1, purge to 299: "n"
    "5dad03df050000000401ab026e",
    // table of batch 5
    "0001010304000d",
    // tail of batch 5
    "b77a116e0d00000007000000010000009f01000000000000d65ac2f486c111e4295e330e",
    // batch 6
    "b757a26e0a0000000700000001000000fb01000000000000519791be8ff36a6c75aef8c7",
    // stream 2, forget
    "663cb704020000000502",
    // table of batch 6
    "0001020005000a",
    // tail of batch 6
    "b77a116e0a0000000700000001000000fb01000000000000519791be8ff36a6c871af34a",
    // batch 7, empty: the log was closed
    "b757a26e00000000050000000000000054020000000000000000000094ce8e381f74323d",
    // table of batch 7
    "0100010104",
    // tail of batch 7
    "b77a116e00000000050000000000000054020000000000000000000094ce8e38eafa677b",
];
