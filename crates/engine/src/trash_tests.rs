//! Two folders of plain files, and a store over one.

#![allow(clippy::unwrap_used, reason = "this is test code")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use stemedb_types::GroupId;
use tempfile::TempDir;

use crate::rows::Scope;
use crate::store::{Rows, Store};
use crate::trash::{TRASH, Trash};
use crate::{Budget, RocksStore};

/// Longer than any of this takes.
const PATIENCE: Duration = Duration::from_secs(60);

fn until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn folders() -> (TempDir, PathBuf, PathBuf) {
    let dir = TempDir::new().unwrap();
    let (rocks, trash) = (dir.path().join("rocks"), dir.path().join(TRASH));
    fs::create_dir(&rocks).unwrap();
    (dir, rocks, trash)
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_table_that_is_removed_goes_and_what_stays_is_whole() {
    let (_dir, rocks, trash) = folders();
    let bytes = vec![7; (3 << 20) + 5];
    fs::write(rocks.join("000001.sst"), &bytes).unwrap();
    fs::write(rocks.join("000002.sst"), &bytes).unwrap();
    fs::write(rocks.join("MANIFEST-000003"), b"a list").unwrap();
    let running = Trash::begin(rocks.clone(), trash.clone()).unwrap();
    until("tables have second names", || names(&trash) == ["000001.sst", "000002.sst"]);
    fs::remove_file(rocks.join("000001.sst")).unwrap();
    until("the removed one is gone", || names(&trash) == ["000002.sst"]);
    // Its number may come again.
    fs::write(rocks.join("000001.sst"), b"another").unwrap();
    until("so is its name", || names(&trash).len() == 2);
    drop(running);
    assert_eq!(fs::read(rocks.join("000001.sst")).unwrap(), b"another");
    assert_eq!(fs::read(rocks.join("000002.sst")).unwrap(), bytes);
    assert_eq!(fs::read(rocks.join("MANIFEST-000003")).unwrap(), b"a list");
}

#[test]
fn what_a_crash_left_goes_after_the_next_start_also_where_its_number_is_in_use_again() {
    let (_dir, rocks, trash) = folders();
    fs::create_dir(&trash).unwrap();
    fs::write(trash.join("000001.sst"), vec![7; 2 << 20]).unwrap();
    fs::write(trash.join("000002.sst"), vec![7; 2 << 20]).unwrap();
    fs::write(rocks.join("000002.sst"), b"another").unwrap();
    let _running = Trash::begin(rocks.clone(), trash.clone()).unwrap();
    let is_linked = || fs::read(trash.join("000002.sst")).is_ok_and(|bytes| bytes == b"another");
    until("only what lives has a name", || names(&trash) == ["000002.sst"] && is_linked());
    assert_eq!(fs::read(rocks.join("000002.sst")).unwrap(), b"another");
}

#[test]
fn what_is_not_ours_alone_is_never_shrunk() {
    let (dir, rocks, trash) = folders();
    let elsewhere = dir.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::create_dir(&trash).unwrap();
    let bytes = vec![7; 2 << 20];
    for name in ["000001.sst", "000002.sst"] {
        fs::write(elsewhere.join(name), &bytes).unwrap();
    }
    // A copy that shares the file, a link that leads to one, and somebody's notes.
    fs::hard_link(elsewhere.join("000001.sst"), trash.join("000001.sst")).unwrap();
    std::os::unix::fs::symlink(elsewhere.join("000002.sst"), trash.join("000002.sst")).unwrap();
    fs::write(trash.join("notes"), &bytes).unwrap();
    // The same file under two names of ours, of which RocksDB has one.
    fs::write(rocks.join("000003.sst"), &bytes).unwrap();
    fs::hard_link(rocks.join("000003.sst"), trash.join("000003.sst")).unwrap();
    fs::hard_link(rocks.join("000003.sst"), trash.join("000004.sst")).unwrap();
    let _running = Trash::begin(rocks.clone(), trash.clone()).unwrap();
    until("only names went", || names(&trash) == ["000003.sst", "notes"]);
    let stay = [
        elsewhere.join("000001.sst"),
        elsewhere.join("000002.sst"),
        trash.join("notes"),
        rocks.join("000003.sst"),
    ];
    for file in stay {
        assert_eq!(fs::read(&file).unwrap(), bytes, "{}", file.display());
    }
}

/// So much takes seconds, and whoever closes a store does not wait for them.
#[test]
fn an_end_leaves_the_rest_to_the_next_start() {
    let (_dir, rocks, trash) = folders();
    fs::create_dir(&trash).unwrap();
    let file = trash.join("000001.sst");
    fs::File::create(&file).unwrap().set_len(1 << 30).unwrap();
    let running = Trash::begin(rocks.clone(), trash.clone()).unwrap();
    let len = || fs::metadata(&file).unwrap().len();
    until("it is being shrunk", || len() < 1 << 30);
    drop(running);
    assert!(len() > 0);
    fs::File::options().write(true).open(&file).unwrap().set_len(1 << 20).unwrap();
    let _running = Trash::begin(rocks, trash.clone()).unwrap();
    until("it is gone", || names(&trash).is_empty());
}

#[test]
fn what_a_store_compacts_away_goes_through_the_trash_and_its_rows_stay() {
    let dir = TempDir::new().unwrap();
    let store = RocksStore::open(dir.path(), Budget::default()).unwrap();
    let scope = Scope { group: GroupId(1), generation: 0 };
    let write = |value: u8| {
        let mut rows = Rows::new();
        rows.put(scope.applied(), vec![value; 100]);
        store.write(rows).unwrap();
        store.flush().unwrap();
    };
    let (rocks, trash) = (dir.path().join("rocks"), dir.path().join(TRASH));
    let tables = || -> Vec<String> {
        names(&rocks).into_iter().filter(|name| name.ends_with(".sst")).collect()
    };
    write(1);
    write(2);
    let before = tables();
    until("tables have second names", || names(&trash) == before);
    store.compact().unwrap();
    until("only what lives is there", || names(&trash) == tables() && tables() != before);
    assert_eq!(store.get(&scope.applied()).unwrap().unwrap(), vec![2; 100]);
    let mut pace = |_| std::ops::ControlFlow::Continue(());
    assert!(store.scrub(&scope.all(), &mut pace).unwrap() > 0);
}
