//! The offline check: a whole store has no fault, every damage is one, and nothing is changed.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use bytes::Bytes;
use stemedb_engine::check::{Report, check, repair};
use stemedb_engine::{Error, Group, RocksStore, Store, copy as copy_group};
use stemedb_machine::meta::MetaRecord;
use stemedb_machine::shard::suite::random::Draw;
use stemedb_machine::shard::suite::{Run, item, statement};
use stemedb_types::{GroupId, ReplicaId};
use tempfile::TempDir;

use crate::common::{Counted, budget, chunks, copy, mark, open};
use crate::scrub::{flip, tables};

/// Rows of every kind in two files, in the meta group and two shards, one of which took a snapshot.
fn store(dir: &Path) {
    let store = open(dir);
    let meta = Group::open(store.clone(), GroupId::META).unwrap();
    let mut batch = meta.batch();
    batch.put_meta(&MetaRecord::NextReplica(ReplicaId(4)));
    meta.commit(batch, b"meta".to_vec()).unwrap();
    let mut run = Run::new(Counted::over(Group::open(store.clone(), GroupId(1)).unwrap()));
    let mut draw = Draw(3);
    (0..150).for_each(|_| drop(run.command(&draw.command())));
    run.assert(vec![item("ci", &statement("s", "p", 1)), item("ci", &statement("s/1", "q", 2))]);
    store.flush().unwrap();
    let receiver = Group::open(store.clone(), GroupId(2)).unwrap();
    let received = copy_group(&run.replica.group, &receiver, 1).unwrap().install().unwrap();
    received.commit(received.batch(), mark(7)).unwrap();
    store.flush().unwrap();
    // Written, never flushed: a crash takes it, and so the check does not see it.
    meta.commit(meta.batch(), b"later".to_vec()).unwrap();
    let left = TempDir::new().unwrap();
    copy(dir, left.path());
    drop((run, receiver, received, meta, store));
    fs::remove_dir_all(dir).unwrap();
    copy(left.path(), dir);
}

/// Every file below a directory, with what is in it.
fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.insert(path.display().to_string(), fs::read(path).unwrap());
            }
        }
    }
    files
}

fn checked(dir: &Path) -> Report {
    check(dir, &mut |_, _| {}).unwrap()
}

#[test]
fn a_whole_store_has_no_fault_its_marks_are_those_that_are_durable_and_nothing_is_changed() {
    let dir = TempDir::new().unwrap();
    store(dir.path());
    let before = contents(dir.path());
    let mut told = Vec::new();
    let report = check(dir.path(), &mut |done, total| told.push((done, total))).unwrap();
    assert_eq!(report.faults, []);
    let mark = |mark: &[u8]| Some(Bytes::copy_from_slice(mark));
    let marks = [
        (GroupId::META, mark(b"meta")),
        (GroupId(1), mark(&151u64.to_be_bytes())),
        (GroupId(2), mark(&7u64.to_be_bytes())),
    ];
    assert_eq!(report.marks, marks);
    assert_eq!(report.files, tables(dir.path()).len() as u64);
    assert!(report.rows > 300 && report.bytes > 0, "{report:?}");
    assert!(told.iter().all(|(done, total)| done <= total));
    assert_eq!(contents(dir.path()), before);
}

#[test]
fn a_store_that_is_open_is_not_checked_and_no_store_is_none() {
    let dir = TempDir::new().unwrap();
    assert!(matches!(check(dir.path(), &mut |_, _| {}), Err(Error::Io { .. })));
    let _open = open(dir.path());
    assert!(matches!(check(dir.path(), &mut |_, _| {}), Err(Error::InUse { .. })));
    assert!(matches!(repair(dir.path()), Err(Error::InUse { .. })));
}

/// Bits all over every file that matters, one at a time: each is a fault in that file.
#[test]
fn every_bit_that_flips_in_a_table_is_a_fault_with_its_file() {
    let dir = TempDir::new().unwrap();
    store(dir.path());
    let mut flips = 0;
    for table in tables(dir.path()) {
        let name = format!("rocks/{}", table.file_name().unwrap().to_str().unwrap());
        let bits = fs::metadata(&table).unwrap().len() as usize * 8;
        for bit in (0..bits).step_by(bits / 60).chain(bits - 53 * 8..bits).step_by(7) {
            flip(&table, bit);
            let report = checked(dir.path());
            let here = report.faults.iter().any(|fault| fault.file == name);
            assert!(here, "bit {bit} of {name}: {:?}", report.faults);
            flip(&table, bit);
            flips += 1;
        }
    }
    assert!(flips > 100);
    assert_eq!(checked(dir.path()).faults, []);
}

/// RocksDB's list of its files: with some of these bits flipped RocksDB itself reads for ever, with
/// others it goes back in time, and without `CURRENT` it begins a new store over the old one.
#[test]
fn every_bit_that_flips_in_the_list_of_files_is_a_fault_and_the_store_does_not_open() {
    let dir = TempDir::new().unwrap();
    store(dir.path());
    let current = dir.path().join("rocks/CURRENT");
    let manifest = format!("rocks/{}", fs::read_to_string(&current).unwrap().trim_end());
    for (name, step) in [("rocks/CURRENT", 3), (manifest.as_str(), 101)] {
        let path = dir.path().join(name);
        let bits = fs::metadata(&path).unwrap().len() as usize * 8;
        for bit in (0..bits).step_by(step) {
            flip(&path, bit);
            assert_eq!(checked(dir.path()).faults.len(), 1, "bit {bit} of {name}");
            let opened = RocksStore::open(dir.path(), budget());
            assert!(matches!(opened.err(), Some(Error::Corrupt { .. })), "bit {bit} of {name}");
            flip(&path, bit);
        }
    }
    fs::remove_file(&current).unwrap();
    let files = contents(dir.path()).len();
    let opened = RocksStore::open(dir.path(), budget());
    assert!(matches!(opened.err(), Some(Error::Corrupt { .. })));
    assert_eq!(contents(dir.path()).len(), files);
    fs::write(&current, format!("{}\n", manifest.trim_start_matches("rocks/"))).unwrap();
    assert_eq!(checked(dir.path()).faults, []);
}

#[test]
fn damage_names_the_groups_whose_rows_it_may_hit_and_other_groups_keep_their_marks() {
    let dir = TempDir::new().unwrap();
    store(dir.path());
    // The first file's rows begin with the meta group's and group 1's.
    let table = tables(dir.path()).remove(0);
    flip(&table, 8 * 20);
    let report = checked(dir.path());
    let fault = &report.faults[0];
    let hit = [GroupId::META, GroupId(1)];
    assert_eq!((fault.offset, fault.groups.as_slice()), (Some(0), &hit[..]), "{fault:?}");
    assert!(fault.cause.contains("checksum"), "{fault:?}");
    let two = report.marks.iter().find(|(group, _)| *group == GroupId(2)).unwrap();
    assert!(two.1.is_some());
    // The meta group's mark stood in it: that it has one can't be said, and why is a fault.
    assert_eq!(report.marks[0], (GroupId::META, None));
    assert!(report.faults.iter().any(|fault| fault.cause.starts_with("the mark of group 0")));
}

#[test]
fn a_lost_table_manifest_or_format_is_a_fault_and_a_newer_format_is_refused() {
    let dir = TempDir::new().unwrap();
    store(dir.path());
    let lose = |name: &str, see: &dyn Fn(Report)| {
        let path = dir.path().join(name);
        let bytes = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        see(checked(dir.path()));
        fs::write(path, bytes).unwrap();
    };
    let table = tables(dir.path()).pop().unwrap();
    let table = format!("rocks/{}", table.file_name().unwrap().to_str().unwrap());
    let manifest = fs::read_to_string(dir.path().join("rocks/CURRENT")).unwrap();
    for name in [&table, "rocks/CURRENT", &format!("rocks/{}", manifest.trim_end())] {
        lose(name, &|report| assert!(!report.faults.is_empty(), "{name}"));
    }
    lose("FORMAT", &|report| {
        assert_eq!((report.format, report.faults[0].file.as_str()), (0, "FORMAT"));
    });
    fs::write(dir.path().join("FORMAT"), "stemedb-store 99\n").unwrap();
    assert!(matches!(check(dir.path(), &mut |_, _| {}), Err(Error::Format { .. })));
}

#[test]
fn a_repair_takes_only_what_no_state_holds_and_refuses_damage() {
    let dir = TempDir::new().unwrap();
    store(dir.path());
    let before = {
        let store = open(dir.path());
        chunks(&Group::open(store, GroupId(2)).unwrap())
    };
    fs::create_dir_all(dir.path().join("staging/00000007")).unwrap();
    fs::write(dir.path().join("staging/00000007/00000000.sst"), b"half").unwrap();
    fs::write(dir.path().join("FORMAT.new"), b"stem").unwrap();
    let gone = repair(dir.path()).unwrap();
    assert_eq!(gone.len(), 2, "{gone:?}");
    assert!(gone[0].starts_with("staging/00000007") && gone[1].starts_with("FORMAT.new"));
    assert_eq!(repair(dir.path()).unwrap(), Vec::<String>::new());
    assert_eq!(checked(dir.path()).faults, []);
    let store = open(dir.path());
    assert_eq!(chunks(&Group::open(store, GroupId(2)).unwrap()), before);

    let table = tables(dir.path()).pop().unwrap();
    flip(&table, 8 * 20);
    let left = contents(dir.path());
    let refused = repair(dir.path()).unwrap_err().to_string();
    assert!(refused.contains("nothing was changed") && refused.contains("restore"), "{refused}");
    assert_eq!(contents(dir.path()), left);
}
