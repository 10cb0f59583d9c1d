//! A store that an earlier build wrote opens for ever, and reads as it did.
//!
//! `testdata/vN` was written once, by the generator below as it was then, and never changes. A
//! build that can't read it has broken the format: give the format a new
//! version and a way from the old one, and keep these tests as they are.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use stemedb_engine::check::check;
use stemedb_engine::{Group, RocksStore};
use stemedb_machine::meta::{Founding, MetaRecord};
use stemedb_machine::shard::suite::once::put;
use stemedb_machine::shard::suite::{Run, all_keys, item, key, statement};
use stemedb_machine::shard::{Answer, Condition, KeptRange, Pattern, Read, ReadAnswer, View};
use stemedb_types::{ClusterId, GroupId, ReplicaId, Revision};
use tempfile::TempDir;

use crate::common::{Counted, commits, copy, group};

/// Set it to a folder that does not exist, and the generator writes a fixture there.
const GENERATE: &str = "STEMEDB_GENERATE_FIXTURE";

/// A copy of the store that format was frozen with, and the store opened in it.
fn frozen(format: &str) -> (TempDir, Arc<RocksStore>) {
    let dir = TempDir::new().unwrap();
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(format), dir.path());
    assert_eq!(check(dir.path(), &mut |_, _| {}).unwrap().faults, []);
    let store = crate::common::open(dir.path());
    // It was brought up to this build's format on the way.
    let line = fs::read_to_string(dir.path().join("FORMAT")).unwrap();
    assert_eq!(line, "stemedb-store 3\n");
    (dir, store)
}

/// Two buckets and claims in group 1, which took a snapshot once; founding records in group 0.
/// Since format 2: keys that go by themselves, and a floor, in group 2. Since format 3: named
/// writes, one of whose answers was dropped, in group 3.
fn write(dir: &Path) {
    let sent = TempDir::new().unwrap();
    let mut run = Run::new(Counted::over(group(sent.path(), 1)));
    run.put(b"k", b"first");
    run.put(b"k", b"second");
    run.put(b"a\0b", b"");
    run.delete(b"k");
    run.put(b"k", b"third");
    run.in_bucket(7, "other").put(b"k", b"elsewhere");
    run.in_bucket(1, "default");
    let store = crate::common::open(dir);
    let receiver = Group::open(store.clone(), GroupId(1)).unwrap();
    let incoming = stemedb_engine::copy(&run.replica.group, &receiver, 1).unwrap();
    let commits = run.replica.commits;
    run.replica = Counted::over(incoming.install().unwrap());
    run.replica.commits = commits;
    run.assert(vec![item("ci", &statement("s", "p", 1)), item("ci", &statement("s/1", "q", 2))]);
    run.assert(vec![item("else", &statement("s", "p", 1))]);
    let mut timed = Run::new(Counted::over(Group::open(store.clone(), GroupId(2)).unwrap()));
    timed.put(b"k", b"old");
    timed.put(b"k", b"new");
    timed.put_until(b"soon", b"here", 256);
    timed.touch(b"soon", 512);
    timed.put_until(b"gone", b"here", 128);
    timed.expire(b"gone", 5);
    timed.compact(2);
    let mut named = Run::new(Counted::over(Group::open(store.clone(), GroupId(3)).unwrap()));
    named.named("over", 1, 1000, put(b"k", b"v", Condition::Always));
    named.named("put", 1, 601_000, put(b"k", b"w", Condition::Always));
    named.named("failed", 1, 601_001, put(b"k", b"x", Condition::Absent));
    let meta = Group::open(store.clone(), GroupId::META).unwrap();
    let mut batch = meta.batch();
    let founding = Founding { cluster: ClusterId(9), replication_factor: 3, at_ms: 5 };
    batch.put_meta(&MetaRecord::Founding(founding));
    batch.put_meta(&MetaRecord::NextReplica(ReplicaId(4)));
    meta.commit(batch, b"meta mark".to_vec()).unwrap();
    meta.store().flush().unwrap();
}

#[test]
fn generate() {
    let Some(dir) = std::env::var_os(GENERATE).map(PathBuf::from) else { return };
    let made = TempDir::new().unwrap();
    write(made.path());
    copy(made.path(), &dir);
    // What RocksDB makes anew, or writes for people.
    for entry in fs::read_dir(dir.join("rocks")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if ["LOG", "LOCK", "OPTIONS"].iter().any(|made| name.starts_with(made))
            || name.ends_with(".log")
        {
            fs::remove_file(path).unwrap();
        }
    }
    fs::remove_dir_all(dir.join("staging")).unwrap();
}

#[test]
fn a_store_of_format_1_reads_as_it_was_written() {
    let (_dir, store) = frozen("v1");
    reads_as_format_1(store);
}

#[test]
fn a_store_of_format_2_reads_as_it_was_written() {
    let (_dir, store) = frozen("v2");
    reads_as_format_2(store.clone());
    reads_as_format_1(store);
}

#[test]
fn a_store_of_format_3_reads_as_it_was_written() {
    let (_dir, store) = frozen("v3");
    let mut run = Run::new(Counted::over(Group::open(store.clone(), GroupId(3)).unwrap()));
    let range = KeptRange { first: 1, next: 3, oldest_ms: 601_000 };
    assert_eq!(run.kept(), (range, vec!["put".to_owned(), "failed".to_owned()]));
    let put_again = run.named("put", 1, 601_002, put(b"k", b"w", Condition::Always));
    let first = Answer::Put { revision: Revision(2), created: false };
    assert_eq!(put_again, Answer::Replayed(Box::new(first)));
    let current = Some(Revision(2));
    let failed = Answer::PreconditionFailed { revision: Revision(2), current };
    let failed_again = run.named("failed", 1, 601_002, put(b"k", b"x", Condition::Absent));
    assert_eq!(failed_again, Answer::Replayed(Box::new(failed)));
    let over = run.named("over", 1, 601_002, put(b"k", b"v", Condition::Always));
    assert_eq!(over, Answer::Put { revision: Revision(3), created: false });
    reads_as_format_2(store.clone());
    reads_as_format_1(store);
}

/// What format 2 could hold, in the frozen stores of it and all later ones.
fn reads_as_format_2(store: Arc<RocksStore>) {
    let group = Group::open(store, GroupId(2)).unwrap();
    let due = group.due(1000, 9).unwrap();
    let due: Vec<_> = due.iter().map(|due| (due.at_ms, due.key.clone(), due.lease)).collect();
    assert_eq!(due, [(512, key(b"soon"), Revision(4))]);
    let mut run = Run::new(Counted::over(group));
    let read = |run: &Run<Counted>, key: &[u8], as_of| match run.get(key, as_of) {
        ReadAnswer::Value { version, .. } => Some(version.map(|version| version.value)),
        // Below the floor.
        _ => None,
    };
    let there = |value: &'static str| Some(Some(Bytes::from(value)));
    assert_eq!((read(&run, b"k", Some(2)), read(&run, b"k", Some(1))), (there("new"), None));
    assert_eq!(
        (read(&run, b"soon", None), read(&run, b"soon", Some(3))),
        (there("here"), there("here"))
    );
    assert_eq!(read(&run, b"gone", None), Some(None));
    // And the key that is due goes.
    run.expire(b"soon", 4);
    assert_eq!(read(&run, b"soon", None), Some(None));
    assert_eq!(run.replica.group.due(1000, 9).unwrap(), []);
}

/// What format 1 could hold, in the frozen stores of all formats.
fn reads_as_format_1(store: Arc<RocksStore>) {
    let meta = Group::open(store.clone(), GroupId::META).unwrap();
    assert_eq!(meta.applied().unwrap().as_deref(), Some(&b"meta mark"[..]));
    let state = meta.meta_state().unwrap();
    let founding = Founding { cluster: ClusterId(9), replication_factor: 3, at_ms: 5 };
    assert_eq!((state.founding, state.next_replica), (Some(founding), ReplicaId(4)));

    let shard = Group::open(store, GroupId(1)).unwrap();
    assert_eq!(commits(shard.applied().unwrap()), Some(8));
    assert_eq!(shard.next_bucket().unwrap().0, 2);
    let mut run = Run::new(Counted::over(shard));
    let values = [(1, "first"), (2, "second"), (3, "second"), (4, ""), (5, "third"), (7, "third")];
    for (as_of, value) in values {
        let ReadAnswer::Value { version, .. } = run.get(b"k", Some(as_of)) else { panic!() };
        let found = version.map_or(Bytes::new(), |version| version.value);
        assert_eq!(found, value, "as of {as_of}");
    }
    let (range, as_of, cursor) = (all_keys(), None, None);
    let scan = Read::Scan { range, reverse: true, keys_only: false, limit: 9, as_of, cursor };
    let ReadAnswer::Page { rows, cursor: None, .. } = run.read(&scan) else { panic!() };
    let keys: Vec<_> = rows.iter().map(|row| row.key.clone()).collect();
    assert_eq!(keys, [key(b"k"), key(b"a\0b")]);
    let numbers = (rows[0].version.head.create_revision, rows[0].version.head.version);
    assert_eq!(numbers, (Revision(5), 1));

    let (pattern, lens) = (Pattern::default(), Default::default());
    let query = Read::Query { pattern, lens, limit: 9, as_of: None, cursor: None, now_ms: 1 };
    let ReadAnswer::Claims { revision, answers, .. } = run.read(&query) else { panic!() };
    let told: Vec<_> = answers
        .iter()
        .map(|answer| {
            let by = answer.attestations.iter().map(|a| (a.agent.to_string(), a.revision.0));
            (answer.id, by.collect::<Vec<_>>())
        })
        .collect();
    let by = |agent: &str, revision| (agent.to_owned(), revision);
    let wanted = [
        (statement("s", "p", 1).id(), vec![by("key:ci", 6), by("key:else", 7)]),
        (statement("s/1", "q", 2).id(), vec![by("key:ci", 6)]),
    ];
    assert_eq!((revision, told), (Revision(7), wanted.to_vec()));
    // And it can be written to.
    let next = Answer::Put { revision: Revision(8), created: false };
    assert_eq!(run.put(b"k", b"fourth"), next);
    let elsewhere = run.in_bucket(7, "other").put(b"k", b"again");
    assert_eq!(elsewhere, Answer::Put { revision: Revision(2), created: false });
    assert_eq!(run.in_bucket(7, "new").put(b"k", b"").revision(), Revision(1));
}
