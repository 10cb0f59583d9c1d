//! Streams that are damaged, out of order or forged: refused, and nothing of them stays.

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use stemedb_engine::{Group, Incoming};
use stemedb_types::{Encoder, GroupId};
use tempfile::TempDir;

use crate::common::{chunks, group};
use crate::streams::*;

/// What is done to the files of a stream.
type Damage = Box<dyn Fn(&mut Vec<Vec<u8>>)>;

#[test]
fn a_stream_that_is_damaged_or_out_of_order_is_refused_and_leaves_nothing() {
    let [here, there] = [(); 2].map(|()| TempDir::new().unwrap());
    let sent = sender(here.path(), 1).replica.group;
    let received = sender(there.path(), 2).replica.group;
    let before = chunks(&received);
    let outgoing = freeze(&sent, 1);
    let count = files(&pieces(&outgoing, 1, 0)).len();
    let mut damages: Vec<(String, Damage)> = vec![
        ("more behind the last".to_owned(), Box::new(|files| files.push(vec![1; 100]))),
        ("nothing at all".to_owned(), Box::new(Vec::clear)),
    ];
    for at in 0..count {
        damages.push((format!("{at} missing"), Box::new(move |files| drop(files.remove(at)))));
        damages.push((
            format!("{at} twice"),
            Box::new(move |files| files.insert(at, files[at].clone())),
        ));
        damages.push((format!("{at} short"), Box::new(move |files| _ = files[at].pop())));
        for byte in [3, 8, HEAD_BYTES + 5000] {
            let flip = move |files: &mut Vec<Vec<u8>>| {
                let byte = byte.min(files[at].len() * 2 / 3);
                files[at][byte] ^= 0x10;
            };
            damages.push((format!("{at} flipped at {byte}"), Box::new(flip)));
        }
        let sum = move |files: &mut Vec<Vec<u8>>| *files[at].last_mut().unwrap() ^= 1;
        damages.push((format!("the checksum of {at} flipped"), Box::new(sum)));
    }
    for (what, damage) in damages {
        let mut incoming = Incoming::begin(&received, 1).unwrap();
        let mut stream = files(&pieces(&outgoing, incoming.generation(), 0));
        damage(&mut stream);
        let taken = take(&mut incoming, &stream);
        if taken.is_err() {
            assert!(is_refused(&taken), "{what}: {taken:?}");
            let behind = incoming.take(&[]);
            assert!(is_refused(&behind), "{what}: what comes behind it is refused too");
        }
        assert!(taken.is_err() || !incoming.is_whole(), "{what}");
        if incoming.is_whole() {
            // Only what stood behind the last file was refused.
            let behind = [format!("{} twice", count - 1), "more behind the last".to_owned()];
            assert!(behind.contains(&what), "{what}");
            drop(incoming);
        } else {
            assert!(is_refused(&incoming.install()), "{what}");
        }
        assert_eq!(staged(there.path()), [] as [PathBuf; 0], "{what}");
    }
    assert_eq!(chunks(&received), before);
    for generation in 1..=255 - 1 {
        assert_eq!(rows_of_generation(received.store(), generation), 0);
    }
}

/// A file with a head and a checksum that fit, whatever is in it.
fn sealed(last: bool, number: u32, rows: u64, bytes: &[u8]) -> Vec<u8> {
    let mut out = Encoder::new();
    out.u8(1);
    out.bool(last);
    out.u32(number);
    out.u64(rows);
    out.u64(bytes.len() as u64);
    out.raw(bytes);
    let sum = Sha256::digest(out.as_slice());
    out.raw(&sum);
    out.into_vec()
}

/// What a sender that means ill may write into a file.
enum Entry<'e> {
    Row(&'e [u8], &'e [u8]),
    Delete(&'e [u8]),
    DeleteRange(&'e [u8], &'e [u8]),
}

fn forged(dir: &Path, scope: &[u8], entries: &[Entry<'_>]) -> Vec<u8> {
    let path = dir.join("forged.sst");
    let options = rocksdb::Options::default();
    let mut writer = rocksdb::SstFileWriter::create(&options);
    writer.open(&path).unwrap();
    let name = |name: &[u8]| [scope, name].concat();
    for entry in entries {
        match entry {
            Entry::Row(row, value) => writer.put(name(row), value).unwrap(),
            Entry::Delete(row) => writer.delete(name(row)).unwrap(),
            Entry::DeleteRange(from, to) => writer.delete_range(name(from), to.to_vec()).unwrap(),
        }
    }
    writer.finish().unwrap();
    fs::read(path).unwrap()
}

#[test]
fn files_that_hold_anything_but_rows_of_the_range_in_order_are_refused() {
    let dirs = [(); 2].map(|()| TempDir::new().unwrap());
    let received = group(dirs[0].path(), 1);
    let beside = Group::open(received.store().clone(), GroupId(2)).unwrap();
    beside.commit(beside.batch(), b"beside".to_vec()).unwrap();
    let mark = Entry::Row(b"\x01", b"mark");
    let row = Entry::Row(b"\x20row", b"value");
    let (all, above) = ([0xffu8; 4], [0u8, 0, 0, 3]);
    let cases: [(&str, Vec<Entry<'_>>, u64); 8] = [
        ("no mark", vec![row], 1),
        ("fewer rows than it says", vec![mark], 2),
        ("more rows than it says", vec![Entry::Row(b"\x01", b""), Entry::Row(b"\x02", b"")], 1),
        ("a deletion", vec![Entry::Row(b"\x01", b"mark"), Entry::Delete(b"\x20")], 1),
        (
            "a deletion that is counted as a row",
            vec![Entry::Row(b"\x01", b"mark"), Entry::Delete(b"\x20")],
            2,
        ),
        (
            "a range deletion over other groups",
            vec![Entry::Row(b"\x01", b"mark"), Entry::DeleteRange(b"\x20", &above)],
            1,
        ),
        (
            "a range deletion that is counted as a row",
            vec![Entry::Row(b"\x01", b"mark"), Entry::DeleteRange(b"\x20", &all)],
            2,
        ),
        ("a row without a name", vec![Entry::Row(b"", b"v"), Entry::Row(b"\x01", b"mark")], 2),
    ];
    for (what, entries, rows) in cases {
        let mut incoming = Incoming::begin(&received, 1).unwrap();
        let scope = scope(1, incoming.generation());
        let file = sealed(true, 0, rows, &forged(dirs[1].path(), &scope, &entries));
        let taken = incoming.take(&file);
        assert!(is_refused(&taken), "{what}: {taken:?}");
        assert!(is_refused(&incoming.install()), "{what}");
        assert_eq!(staged(dirs[0].path()), [] as [PathBuf; 0], "{what}");
    }
    // Rows of another group, of the living generation, and no file at all.
    let generation = Incoming::begin(&received, 1).unwrap().generation() + 1;
    for (what, scope) in [
        ("another group", scope(2, generation)),
        ("the living rows", scope(1, 0)),
        ("none", vec![]),
    ] {
        let mut incoming = Incoming::begin(&received, 1).unwrap();
        let entries = [Entry::Row(b"\x01", b"mark")];
        let mut file = forged(dirs[1].path(), &scope, &entries);
        if scope.is_empty() {
            file.fill(7);
        }
        let taken = incoming.take(&sealed(true, 0, 1, &file));
        assert!(is_refused(&taken), "{what}: {taken:?}");
    }
    // A second file must begin above the first one's end.
    let mut incoming = Incoming::begin(&received, 1).unwrap();
    let scope = scope(1, incoming.generation());
    let first = [Entry::Row(b"\x01", b"mark"), Entry::Row(b"\x30", b"")];
    let second = [Entry::Row(b"\x30", b"again")];
    incoming.take(&sealed(false, 0, 2, &forged(dirs[1].path(), &scope, &first))).unwrap();
    let taken = incoming.take(&sealed(true, 1, 1, &forged(dirs[1].path(), &scope, &second)));
    assert!(is_refused(&taken), "{taken:?}");
    assert_eq!(incoming.have(), 1);
    drop(incoming);
    assert_eq!(received.applied().unwrap(), None);
    assert_eq!(beside.applied().unwrap().as_deref(), Some(&b"beside"[..]));
    // And one that is as it should be goes in.
    let mut incoming = Incoming::begin(&received, 1).unwrap();
    let scope = self::scope(1, incoming.generation());
    let good = [Entry::Row(b"\x01", b"mark")];
    incoming.take(&sealed(true, 0, 1, &forged(dirs[1].path(), &scope, &good))).unwrap();
    assert_eq!(incoming.install().unwrap().applied().unwrap().as_deref(), Some(&b"mark"[..]));
}
