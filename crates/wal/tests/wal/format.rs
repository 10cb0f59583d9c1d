//! The bytes on disk, frozen: if this fails, old logs can't be read and the format's version
//! must rise.

use bytes::Bytes;
use stemedb_wal::OpenError;
use stemedb_wal::disk::Disk;
use stemedb_wal::disk::sim::SimDisk;

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
    for (name, bytes) in files {
        disk.create(name).unwrap().write_at(&bytes, 0).unwrap();
    }
    let (wal, recovery) = try_open(&disk).unwrap();
    assert_eq!((recovery.wal_id, recovery.records), (0x0102_0304_0506_0708, 5));
    assert_eq!((wal.streams(), texts(&wal, A)), (vec![A], vec!["abc".into()]));
    assert_eq!(wal.mark_value(A, 2), Some(Bytes::from_static(b"m")));
    assert_eq!(wal.bounds(A).purged, Some((299, Bytes::from_static(b"n"))));
}

#[test]
fn a_log_of_a_newer_version_is_refused_with_both_numbers() {
    let disk = SimDisk::new(2);
    let mut newer = unhex(IDENTITY);
    newer[8] = 2;
    let sealed = newer.len() - 4;
    let checksum = crc32fast::hash(&newer[..sealed]).to_le_bytes();
    newer[sealed..].copy_from_slice(&checksum);
    disk.create("identity").unwrap().write_at(&newer, 0).unwrap();
    let opened = try_open(&disk);
    assert!(matches!(opened, Err(OpenError::Version { got: 2, known: 1, .. })), "{opened:?}");
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = (0..text.len()).step_by(2).map(|at| &text[at..at + 2]);
    digits.map(|digits| u8::from_str_radix(digits, 16).unwrap()).collect()
}

const IDENTITY: &str = "5374656d655749440100000008070605040302011d1a9e19";

const SEGMENT: &[&str] = &[
    // header of segment 1
    "5374656d6557414c010000000000000000000000080706050403020101000000000000000000000000000000dea4b754",
    // batch 1, synced with the header
    "b757a16e0a000000010000000000000000000000e7040d230f056b4f",
    // checkpoint of no streams
    "c564b9e3020000000700",
    // batch 2
    "b757a16e0f000000010000005600000000000000d1a90b493b1de24e",
    // stream 1, entry 300: "abc"
    "cba69441070000000101ac02616263",
    // batch 3
    "b757a16e0c0000000100000081000000000000005e52e3a1f015d0c7",
    // stream 1, mark 2: "m"
    "e82f0176040000000201026d",
    // batch 4
    "b757a16e0c00000001000000a900000000000000e6cc84d600bbddcb",
    // stream 1, truncate from 301
    "49c36581040000000301ad02",
    // batch 5
    "b757a16e0d00000001000000d100000000000000f848a2d5e90a4b31",
    // stream 1, purge to 299: "n"
    "a0f6ec1e050000000401ab026e",
    // batch 6
    "b757a16e0a00000001000000fa0000000000000038d40815f40bdde4",
    // stream 2, forget
    "e8af2b17020000000502",
    // batch 7, empty: the log was closed
    "b757a16e0000000000000000200100000000000000000000c2687f27",
];
