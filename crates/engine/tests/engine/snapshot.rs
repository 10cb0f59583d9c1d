//! Snapshots: whole or not at all, and nobody reads half of two states.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use bytes::Bytes;
use stemedb_engine::{Error, Group, Import, Range, export};
use stemedb_machine::shard::suite::random::Draw;
use stemedb_machine::shard::suite::{Run, key};
use stemedb_machine::shard::{Read, ReadAnswer};
use stemedb_types::GroupId;
use tempfile::TempDir;

use crate::common::{Counted, chunks, commits, copy, group};

/// A group with a megabyte or so in it: several chunks.
fn sender(dir: &Path, seed: u64) -> Run<Counted> {
    let mut run = Run::new(Counted::over(group(dir, 1)));
    let mut draw = Draw(seed);
    for n in 0..40u8 {
        run.command(&draw.command());
        if n.is_multiple_of(4) {
            run.put(&[b'l', n], &vec![n; 100_000]);
        }
    }
    run
}

fn import(group: &Group, chunks: &[Bytes]) -> Result<Group, Error> {
    let mut import = Import::begin(group)?;
    for chunk in chunks {
        import.chunk(chunk)?;
    }
    import.install()
}

fn sst_files(dir: &Path) -> usize {
    let staging = fs::read_dir(dir.join("staging")).unwrap();
    staging.flat_map(|dir| fs::read_dir(dir.unwrap().path()).unwrap()).count()
}

#[test]
fn a_snapshot_is_the_same_rows_at_the_other_end_whatever_was_there() {
    let [here, there] = [(); 2].map(|()| TempDir::new().unwrap());
    let sent = sender(here.path(), 1);
    let stream = chunks(&sent.replica.group);
    assert!(stream.len() > 3, "{} chunks", stream.len());
    // The receiver holds another state, and a group beside it that must not notice.
    let received = sender(there.path(), 2);
    let beside = Group::open(received.replica.group.store().clone(), GroupId(2)).unwrap();
    beside.commit(beside.batch(), b"beside".to_vec()).unwrap();
    let installed = import(&received.replica.group, &stream).unwrap();
    assert_eq!(chunks(&installed), stream);
    assert_eq!(commits(installed.applied().unwrap()), Some(sent.replica.commits));
    assert_eq!(installed.durable_applied().unwrap(), installed.applied().unwrap());
    assert_eq!(beside.applied().unwrap().as_deref(), Some(&b"beside"[..]));
    // It goes on from there as the sender does, and again over itself.
    let (mut ours, mut theirs) = (Run::new(Counted::over(installed)), sent);
    ours.replica.commits = theirs.replica.commits;
    let mut draw = Draw(3);
    for _ in 0..20 {
        let command = draw.command();
        assert_eq!(ours.command(&command), theirs.command(&command));
    }
    assert_eq!(chunks(&ours.replica.group), chunks(&theirs.replica.group));
    let stream = chunks(&theirs.replica.group);
    let again = import(&ours.replica.group, &stream).unwrap();
    assert_eq!(chunks(&again), stream);
}

#[test]
fn an_installed_snapshot_survives_a_kill_at_once_and_the_old_rows_are_gone() {
    let [here, there, left] = [(); 3].map(|()| TempDir::new().unwrap());
    let stream = chunks(&sender(here.path(), 1).replica.group);
    let installed = {
        let received = sender(there.path(), 2);
        let _ = received.replica.group.store().flush();
        import(&received.replica.group, &stream).unwrap()
    };
    copy(there.path(), left.path());
    let killed = group(left.path(), 1);
    assert_eq!(chunks(&killed), stream);
    // Rows of generation 0 in front of those of 1: none, here and there.
    for living in [&installed, &killed] {
        assert_eq!(rows_of_generation(living, 0), 0);
        assert!(rows_of_generation(living, 1) > 0);
    }
}

/// How many rows the store holds for a generation of group 1, whichever is the living one.
fn rows_of_generation(group: &Group, generation: u8) -> usize {
    let start = [0, 0, 0, 1, 0, 0, 0, generation];
    let end = [0, 0, 0, 1, 0, 0, 0, generation + 1];
    let mut rows = 0;
    let range = Range::between(&start, &end);
    let store = group.store();
    store
        .scan(&range, false, &mut |_, _| {
            rows += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
    rows
}

#[test]
fn a_stream_that_is_not_whole_is_refused_and_leaves_nothing() {
    let [here, there] = [(); 2].map(|()| TempDir::new().unwrap());
    let stream = chunks(&sender(here.path(), 1).replica.group);
    let count = stream.len();
    let received = sender(there.path(), 2).replica.group;
    let before = chunks(&received);
    let mut streams = Vec::new();
    for at in 0..count {
        let mut missing = stream.clone();
        missing.remove(at);
        streams.push(("missing", at, missing));
        let mut doubled = stream.clone();
        doubled.insert(at, stream[at].clone());
        streams.push(("doubled", at, doubled));
        for byte in [0, 1, 5, stream[at].len() / 2, stream[at].len() - 1] {
            let mut flipped = stream.clone();
            let mut bytes = flipped[at].to_vec();
            bytes[byte] ^= 0x10;
            flipped[at] = Bytes::from(bytes);
            streams.push(("flipped", at, flipped));
        }
        let mut short = stream.clone();
        short[at] = short[at].slice(..short[at].len() - 1);
        streams.push(("short", at, short));
    }
    let mut swapped = stream.clone();
    swapped.swap(0, 1);
    streams.push(("swapped", 0, swapped));
    streams.push(("empty", 0, vec![]));
    streams.push(("no bytes", 0, vec![Bytes::new()]));
    for (what, at, stream) in streams {
        let refused = import(&received, &stream).map(|_| ());
        assert!(matches!(refused, Err(Error::Transfer { .. })), "{what} at {at}: {refused:?}");
        // Even by a caller that goes on after the refusal.
        let mut import = Import::begin(&received).unwrap();
        let taken: Vec<bool> = stream.iter().map(|chunk| import.chunk(chunk).is_ok()).collect();
        let refused = import.install().map(|_| ());
        assert!(matches!(refused, Err(Error::Transfer { .. })), "{what} at {at}: {taken:?}");
        assert_eq!(sst_files(there.path()), 0);
    }
    assert_eq!(chunks(&received), before);
    assert_eq!(rows_of_generation(&received, 1), 0);
    // And the whole one still goes in.
    assert_eq!(chunks(&import(&received, &stream).unwrap()), stream);
}

/// A chunk with these rows, as a sender that means ill would make it.
fn forged(rows: &[(&[u8], &[u8])]) -> Bytes {
    let mut out = stemedb_types::Encoder::new();
    out.u8(1);
    out.bool(true);
    out.u64(0);
    for (row, value) in rows {
        out.bytes(row);
        out.bytes(value);
    }
    let crc = crc32fast::hash(out.as_slice());
    out.u32(crc);
    out.finish()
}

#[test]
fn rows_out_of_order_and_streams_without_a_mark_are_refused() {
    let dir = TempDir::new().unwrap();
    let received = group(dir.path(), 1);
    let mark: (&[u8], &[u8]) = (b"\x01", b"mark");
    for (what, rows) in [
        ("no rows", vec![]),
        ("no mark", vec![(&b"\x20row"[..], &b"value"[..])]),
        ("a row twice", vec![mark, mark]),
        ("out of order", vec![mark, (b"\x20b", b""), (b"\x20a", b"")]),
        ("a row without a name", vec![(b"", b""), mark]),
    ] {
        let refused = import(&received, &[forged(&rows)]).map(|_| ());
        assert!(matches!(refused, Err(Error::Transfer { .. })), "{what}: {refused:?}");
        assert_eq!(received.applied().unwrap(), None, "{what}");
    }
    let installed = import(&received, &[forged(&[mark])]).unwrap();
    assert_eq!(installed.applied().unwrap().as_deref(), Some(&b"mark"[..]));
}

#[test]
fn an_import_cut_short_leaves_nothing_visible_and_is_swept_at_the_next_open() {
    let [here, there, left] = [(); 3].map(|()| TempDir::new().unwrap());
    let stream = chunks(&sender(here.path(), 1).replica.group);
    let received = sender(there.path(), 2).replica.group;
    received.store().flush().unwrap();
    let before = chunks(&received);
    // More than one staged file's worth, so that some of it is on disk.
    let mut import = Import::begin(&received).unwrap();
    stream[..stream.len() - 1].iter().for_each(|chunk| import.chunk(chunk).unwrap());
    fs::write(there.path().join("staging/left-behind"), b"by a crash").unwrap();
    assert_eq!(chunks(&received), before);
    copy(there.path(), left.path());
    let killed = group(left.path(), 1);
    assert_eq!(chunks(&killed), before);
    assert_eq!(fs::read_dir(left.path().join("staging")).unwrap().count(), 0);
    drop(import);
    assert_eq!(chunks(&received), before);
}

#[test]
fn rows_of_a_generation_that_never_lived_are_swept_at_the_next_open() {
    let dir = TempDir::new().unwrap();
    let received = sender(dir.path(), 2).replica.group;
    let before = chunks(&received);
    // A crash between ingesting and flipping: the rows are there, the pointer is not.
    let mut intake = received.store().intake().unwrap();
    intake.put(&[0, 0, 0, 1, 0, 0, 0, 9, 1], b"mark").unwrap();
    intake.put(&[0, 0, 0, 1, 0, 0, 0, 9, 0x20], b"row").unwrap();
    intake.finish().unwrap();
    assert_eq!(rows_of_generation(&received, 9), 2);
    let store = received.store().clone();
    drop(received);
    let again = Group::open(store, GroupId(1)).unwrap();
    assert_eq!(rows_of_generation(&again, 9), 0);
    assert_eq!(chunks(&again), before);
}

#[test]
fn a_handle_from_before_reads_on_whole_and_writes_no_more() {
    let [here, there] = [(); 2].map(|()| TempDir::new().unwrap());
    let stream = chunks(&sender(here.path(), 1).replica.group);
    let mut received = sender(there.path(), 2);
    received.put(b"only-before", b"v");
    let before = chunks(&received.replica.group);
    let installed = import(&received.replica.group, &stream).unwrap();
    // The reader that was under way sees all of the old state; one that begins now the new.
    assert_eq!(chunks(&received.replica.group), before);
    let asked = Read::Get { key: key(b"only-before"), as_of: None };
    assert!(matches!(received.read(&asked), ReadAnswer::Value { version: Some(_), .. }));
    let old = received.replica.group;
    let refused = old.commit(old.batch(), vec![]);
    assert!(matches!(refused, Err(Error::Replaced { .. })), "{refused:?}");
    assert!(rows_of_generation(&installed, 0) > 0);
    drop(old);
    assert_eq!(rows_of_generation(&installed, 0), 0);
    assert_eq!(chunks(&installed), stream);
}

#[test]
fn two_imports_at_once_do_not_mix() {
    let dirs = [(); 3].map(|()| TempDir::new().unwrap());
    let streams =
        [1, 4].map(|seed| chunks(&sender(dirs[seed as usize % 2].path(), seed).replica.group));
    let received = sender(dirs[2].path(), 2).replica.group;
    let mut imports = [(); 2].map(|()| Import::begin(&received).unwrap());
    for (import, stream) in imports.iter_mut().zip(&streams) {
        stream.iter().for_each(|chunk| import.chunk(chunk).unwrap());
    }
    let [first, second] = imports;
    let installed = first.install().unwrap();
    installed.commit(installed.batch(), b"went on".to_vec()).unwrap();
    let installed_later = second.install().unwrap();
    assert_eq!(chunks(&installed_later), streams[1]);
    let refused = installed.commit(installed.batch(), vec![]);
    assert!(matches!(refused, Err(Error::Replaced { .. })), "{refused:?}");
    drop((received, installed));
    assert_eq!([0, 1].map(|n| rows_of_generation(&installed_later, n)), [0, 0]);
    assert_eq!(chunks(&installed_later), streams[1]);
}

#[test]
fn a_sender_is_one_frozen_view_while_writes_go_on() {
    let [here, there] = [(); 2].map(|()| TempDir::new().unwrap());
    let mut sent = sender(here.path(), 1);
    let whole = chunks(&sent.replica.group);
    let mut stream = Vec::new();
    let group = sent.replica.group.clone();
    export(&group, &mut |chunk| {
        stream.push(chunk);
        sent.put(b"between", b"chunks");
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(stream, whole);
    assert_ne!(chunks(&group), whole);
    // A receiver that hangs up ends it, and what it has is no snapshot.
    let mut first = Vec::new();
    export(&group, &mut |chunk| {
        first.push(chunk);
        ControlFlow::Break(())
    })
    .unwrap();
    assert_eq!(first.len(), 1);
    let received = self::group(there.path(), 1);
    let refused = import(&received, &first).map(|_| ());
    assert!(matches!(refused, Err(Error::Transfer { .. })), "{refused:?}");
}
