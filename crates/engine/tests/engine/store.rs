//! The store itself: who may open it, and in which format.

use std::fs;

use stemedb_engine::check::check;
use stemedb_engine::{Error, RocksStore, Store};
use tempfile::TempDir;

use crate::common::{budget, open};

fn refused(dir: &std::path::Path) -> Error {
    match RocksStore::open(dir, budget()) {
        Ok(_) => panic!("opened"),
        Err(error) => error,
    }
}

#[test]
fn a_second_handle_on_a_directory_is_refused_and_empties_nobodys_staging() {
    let dir = TempDir::new().unwrap();
    let first = open(dir.path());
    fs::write(dir.path().join("staging/under-way"), b"rows").unwrap();
    let again = refused(dir.path());
    assert!(matches!(&again, Error::InUse { .. }), "{again:?}");
    assert!(dir.path().join("staging/under-way").exists());
    drop(first);
    drop(open(dir.path()));
    assert!(!dir.path().join("staging/under-way").exists());
}

/// The other process: this test binary again, which holds the store until its input ends.
#[test]
fn a_second_process_on_a_directory_is_refused() {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    if let Some(dir) = std::env::var_os("STEMEDB_TEST_HOLD_STORE") {
        let _held = open(dir.as_ref());
        println!("holding");
        let _ = std::io::stdin().read_line(&mut String::new());
        return;
    }
    let dir = TempDir::new().unwrap();
    let mut other = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::a_second_process_on_a_directory_is_refused", "--nocapture"])
        .env("STEMEDB_TEST_HOLD_STORE", dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(other.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(said.any(|line| line.contains("holding")));
    let again = refused(dir.path());
    assert!(matches!(&again, Error::InUse { .. }), "{again:?}");
    drop(other.stdin.take());
    assert!(other.wait().unwrap().success());
    drop(open(dir.path()));
}

#[test]
fn a_directory_of_a_newer_format_is_refused_with_both_and_not_touched() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("FORMAT"), "stemedb-store 4\n").unwrap();
    let newer = refused(dir.path());
    assert_eq!(
        newer.to_string(),
        format!(
            "the store in {} has format \"stemedb-store 4\", this build reads \"stemedb-store 3\"",
            dir.path().display()
        )
    );
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    fs::remove_file(dir.path().join("FORMAT")).unwrap();
    drop(open(dir.path()));
    assert_eq!(fs::read_to_string(dir.path().join("FORMAT")).unwrap(), "stemedb-store 3\n");
}

#[test]
fn a_store_without_its_rocksdb_is_one_that_lost_it_and_not_a_new_one() {
    let dir = TempDir::new().unwrap();
    let (rocks, staging) = (dir.path().join("rocks"), dir.path().join("staging"));
    drop(open(dir.path()));
    assert_eq!(fs::read_to_string(dir.path().join("OPENED")).unwrap(), "stemedb-opened 1\n");
    let gone = |how: &str| {
        let gone = refused(dir.path());
        let what = matches!(&gone, Error::Corrupt { what: "the folder `rocks`", .. });
        assert!(what, "{how}: {gone:?}");
        let report = check(dir.path(), &mut |_, _| {}).unwrap();
        assert_eq!(report.faults.len(), 1, "{how}: {report:?}");
    };
    fs::remove_dir_all(&rocks).unwrap();
    gone("no folder");
    assert!(!rocks.exists(), "nothing was made in its place");
    fs::create_dir(&rocks).unwrap();
    gone("an empty folder");
    // Of a build that did not write it down: what it made behind RocksDB says the same.
    fs::remove_file(dir.path().join("OPENED")).unwrap();
    gone("no marker");
    // A start that came no further than the format is one of a new store.
    fs::remove_dir(&staging).unwrap();
    fs::remove_dir(&rocks).unwrap();
    assert_eq!(check(dir.path(), &mut |_, _| {}).unwrap().faults, []);
    drop(open(dir.path()));
    assert!(rocks.join("CURRENT").exists());
    // The format goes with the marker, too.
    fs::remove_file(dir.path().join("FORMAT")).unwrap();
    fs::remove_dir_all(&rocks).unwrap();
    assert!(matches!(refused(dir.path()), Error::Corrupt { what: "FORMAT", .. }));
}

#[test]
fn a_store_whose_rocksdb_goes_while_it_is_open_is_not_opened_again_as_a_new_one() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    fs::remove_dir_all(dir.path().join("rocks")).unwrap();
    let gone = store.reopen().unwrap_err();
    assert!(matches!(&gone, Error::Corrupt { what: "the folder `rocks`", .. }), "{gone:?}");
}
