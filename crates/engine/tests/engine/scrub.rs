//! Damage on disk is found where it is, though a cache still holds the block as it was, and nothing
//! ever writes it on.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use stemedb_engine::{Error, Group};
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
