//! Damage on disk is found where it is, though a cache still holds the block as it was, and nothing
//! ever writes it on.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use stemedb_engine::{Error, Group, Store, copy as copy_group, scrub_rest};
use stemedb_machine::shard::View;
use stemedb_machine::shard::suite::{Run, key};
use stemedb_types::GroupId;
use tempfile::TempDir;

use crate::common::{Counted, chunks, open};

/// Table files of a store, the oldest first.
pub(crate) fn tables(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir.join("rocks")).unwrap().map(|entry| entry.unwrap().path());
    let mut tables: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|end| end == "sst")).collect();
    tables.sort();
    tables
}

/// Turns one bit of a file over.
pub(crate) fn flip(path: &Path, bit: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[bit / 8] ^= 1 << (bit % 8);
    fs::write(path, bytes).unwrap();
}

fn on(&_: &u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Puts some rows of a size that fills blocks and flushes them into a file of their own.
fn file_of_rows(run: &mut Run<Counted>, from: u8) {
    for n in 0..100 {
        run.put(&[from, n], &[n; 300]);
    }
    run.replica.group.store().flush().unwrap();
}

#[test]
fn a_whole_store_scrubs_to_its_size_and_the_pace_can_break_it_off() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    let mut run = Run::new(Counted::over(Group::open(store.clone(), GroupId(1)).unwrap()));
    file_of_rows(&mut run, 0);
    file_of_rows(&mut run, 1);
    let group = run.replica.group.clone();
    let mut told = Vec::new();
    let read = group
        .scrub(&mut |bytes| {
            told.push(bytes);
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(read, told.iter().sum::<u64>());
    let size: u64 = tables(dir.path()).iter().map(|table| table.metadata().unwrap().len()).sum();
    // All but the index and the end of each file, which are read before anything is told.
    assert!(read > size * 9 / 10 && read <= size, "{read} of {size}");
    let mut calls = 0;
    let read = group
        .scrub(&mut |_| {
            calls += 1;
            ControlFlow::Break(())
        })
        .unwrap();
    assert_eq!((calls, read), (1, told[0]));
    // A group without rows has nothing to read.
    let other = Group::open(store, GroupId(9)).unwrap();
    assert_eq!(other.scrub(&mut |bytes| on(&bytes)).unwrap(), 0);
}

#[test]
fn a_block_that_rots_on_disk_is_found_though_the_cache_still_holds_it() {
    let dir = TempDir::new().unwrap();
    let mut run = Run::new(Counted::over(Group::open(open(dir.path()), GroupId(1)).unwrap()));
    file_of_rows(&mut run, 0);
    let group = run.replica.group.clone();
    let before = chunks(&group);
    let read = |group: &Group| group.head(stemedb_machine::shard::BucketNumber(0), &key(&[0, 0]));
    assert!(read(&group).unwrap().is_some());
    let table = tables(dir.path()).pop().unwrap();
    flip(&table, 8 * 100);
    // The cache answers still: this is what must not fool a scrub.
    assert!(read(&group).unwrap().is_some());
    let found = group.scrub(&mut |bytes| on(&bytes)).unwrap_err();
    let Error::Corrupt { what: "a table file", cause } = &found else { panic!("{found:?}") };
    let name = table.file_name().unwrap().to_str().unwrap();
    assert!(cause.starts_with(&format!("{name} at 0: ")), "{cause}");
    // Put right again, it reads as before.
    flip(&table, 8 * 100);
    group.scrub(&mut |bytes| on(&bytes)).unwrap();
    assert_eq!(chunks(&group), before);
}

#[test]
fn a_truncated_and_a_missing_file_are_found() {
    let dir = TempDir::new().unwrap();
    let mut run = Run::new(Counted::over(Group::open(open(dir.path()), GroupId(1)).unwrap()));
    file_of_rows(&mut run, 0);
    let group = run.replica.group.clone();
    let table = tables(dir.path()).pop().unwrap();
    let bytes = fs::read(&table).unwrap();
    fs::write(&table, &bytes[..bytes.len() - 1]).unwrap();
    let cut = group.scrub(&mut |bytes| on(&bytes)).unwrap_err().to_string();
    assert!(cut.contains("bytes long, not"), "{cut}");
    fs::remove_file(&table).unwrap();
    let missing = group.scrub(&mut |bytes| on(&bytes)).unwrap_err().to_string();
    assert!(missing.ends_with("it is not there"), "{missing}");
}

#[test]
fn what_no_open_group_holds_is_scrubbed_as_well() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    let mut run = Run::new(Counted::over(Group::open(store.clone(), GroupId(1)).unwrap()));
    file_of_rows(&mut run, 0);
    let receiver = Group::open(store.clone(), GroupId(2)).unwrap();
    let standing = tables(dir.path());
    let received = copy_group(&run.replica.group, &receiver, 1).unwrap().install().unwrap();
    drop(receiver);
    let groups = [run.replica.group.clone(), received];
    let rest =
        |groups: &[Group]| scrub_rest(store.as_ref(), groups.to_vec(), &mut |bytes| on(&bytes));
    assert!(rest(&groups).unwrap() > 0, "the pointer");
    // The pointer has come last, in a file of its own.
    let pointer = tables(dir.path()).pop().unwrap();
    assert!(!standing.contains(&pointer));
    flip(&pointer, 8 * 12);
    for group in &groups {
        group.scrub(&mut |bytes| on(&bytes)).unwrap();
    }
    let found = rest(&groups).unwrap_err();
    assert!(matches!(found, Error::Corrupt { what: "a table file", .. }), "{found:?}");
    flip(&pointer, 8 * 12);
    rest(&groups).unwrap();
    // Rows of a group that nobody has open.
    flip(&standing[0], 8 * 100);
    rest(&groups).unwrap();
    let found = rest(&groups[1..]).unwrap_err();
    assert!(matches!(found, Error::Corrupt { what: "a table file", .. }), "{found:?}");
    flip(&standing[0], 8 * 100);
    // Rows of a generation that nothing points to.
    let file = store.staging().unwrap().join("file");
    let name = [&2u32.to_be_bytes()[..], &9u32.to_be_bytes(), &[1]].concat();
    store.write_file(&file, &mut |put| put(&name, b"mark")).unwrap();
    store.take_in(&[file]).unwrap();
    rest(&groups).unwrap();
    flip(&tables(dir.path()).pop().unwrap(), 8 * 2);
    for group in &groups {
        group.scrub(&mut |bytes| on(&bytes)).unwrap();
    }
    assert!(rest(&groups).is_err());
}
