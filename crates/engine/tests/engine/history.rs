//! Old versions that go below a floor, and what stays whatever goes.

use proptest::prelude::*;
use stemedb_engine::Group;
use stemedb_machine::shard::suite::random::Draw;
use stemedb_machine::shard::suite::{Run, key};
use stemedb_machine::shard::{Command, Overlay, ReadAnswer, View, Write, apply};
use stemedb_types::{GroupId, Revision};
use tempfile::TempDir;

use crate::common::{Counted, chunks, commits, copy, group, mark, open, rows};

/// Key `k` at revisions 1 to `versions`.
fn written(versions: u64) -> Run<Counted> {
    let mut run = Run::new(Counted { flush_every: u64::MAX, ..Counted::fresh() });
    (1..=versions).for_each(|n| drop(run.put(b"k", &n.to_be_bytes())));
    run
}

fn value(run: &Run<Counted>, as_of: u64) -> u64 {
    let ReadAnswer::Value { version, .. } = run.get(b"k", Some(as_of)) else { panic!() };
    u64::from_be_bytes(version.unwrap().value.as_ref().try_into().unwrap())
}

#[test]
fn a_compaction_drops_what_lies_below_the_floor_and_keeps_what_is_seen_at_it() {
    let mut run = written(20);
    run.replica.compact();
    // Beside versions and log: the bucket, the number of the next one, the applied mark.
    assert_eq!(rows(&run.replica.group), 20 + 20 + 3);
    run.compact(15);
    // The log goes at once, the versions with a compaction.
    assert_eq!(rows(&run.replica.group), 20 + 5 + 3);
    run.replica.compact();
    assert_eq!(rows(&run.replica.group), 6 + 5 + 3);
    (15..=20).for_each(|as_of| assert_eq!(value(&run, as_of), as_of));
    // A floor at the head leaves the head.
    run.compact(20);
    run.replica.compact();
    assert_eq!(rows(&run.replica.group), 1 + 3);
    assert_eq!(value(&run, 20), 20);
}

#[test]
fn versions_in_different_files_go_no_sooner_than_a_newer_one_comes_by() {
    let mut run = written(3);
    // The newest stays in memory while the files below are compacted.
    run.replica.compact();
    run.put(b"k", &4u64.to_be_bytes());
    run.compact(4);
    run.replica.group.store().flush().unwrap();
    run.put(b"k", &5u64.to_be_bytes());
    run.replica.compact();
    assert_eq!(rows(&run.replica.group), 2 + 1 + 3);
    assert_eq!((value(&run, 4), value(&run, 5)), (4, 5));
}

#[test]
fn a_floor_that_a_crash_could_take_back_lets_go_of_nothing() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    let mut run = Run::new(Counted::over(Group::open(store.clone(), GroupId(3)).unwrap()));
    (1..=9u64).for_each(|n| drop(run.put(b"k", &n.to_be_bytes())));
    store_flush(&run);
    let before = chunks(&run.replica.group);
    // Applied, and asked for twice, but not flushed: the files hold no floor yet.
    run.compact(5);
    run.compact(8);
    run.replica.group.durable_applied().unwrap();
    let left = TempDir::new().unwrap();
    copy(dir.path(), left.path());
    let crashed = Run::new(Counted::over(group(left.path(), 3)));
    assert_eq!(commits(crashed.replica.group.applied().unwrap()), Some(9));
    assert_eq!(chunks(&crashed.replica.group), before);
    (1..=9).for_each(|as_of| assert_eq!(value(&crashed, as_of), as_of));
    assert_eq!(crashed.replica.group.trimmed(number(&crashed)).unwrap(), Revision(0));
    // A store that is opened again knows its floor from its rows.
    store_flush(&run);
    drop((run, store));
    let store = open(dir.path());
    let again = Group::open(store.clone(), GroupId(3)).unwrap();
    let again = Run::new(Counted::over(again));
    assert_eq!(again.replica.group.trimmed(number(&again)).unwrap(), Revision(8));
    store.compact().unwrap();
    assert_eq!(rows(&again.replica.group), 2 + 1 + 3);
    assert_eq!((value(&again, 8), value(&again, 9)), (8, 9));
}

#[test]
fn a_filter_waits_for_the_flush_of_its_floor() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    let mut run = Run::new(Counted::over(Group::open(store.clone(), GroupId(3)).unwrap()));
    (1..=9u64).for_each(|n| drop(run.put(b"k", &n.to_be_bytes())));
    store_flush(&run);
    run.compact(9);
    // RocksDB flushes before it compacts everything: by then the filter was asked for nothing.
    store.compact().unwrap();
    assert_eq!(rows(&run.replica.group), 9 + 3);
    run.replica.group.durable_applied().unwrap();
    store.compact().unwrap();
    assert_eq!(rows(&run.replica.group), 1 + 3);
}

fn store_flush(run: &Run<Counted>) {
    run.replica.group.store().flush().unwrap();
}

fn number(run: &Run<Counted>) -> stemedb_machine::shard::BucketNumber {
    run.replica.group.bucket(run.project, &run.bucket).unwrap().unwrap().number
}

#[test]
fn a_deleted_key_leaves_nothing_once_the_floor_has_passed() {
    let mut run = Run::new(Counted::fresh());
    for n in 0..100u64 {
        run.put(b"many", &n.to_be_bytes());
    }
    run.put_until(b"t", b"", 7);
    run.delete(b"many");
    run.expire(b"t", 101);
    run.put(b"stays", b"");
    run.delete(b"stays");
    run.put(b"stays", b"");
    run.compact(105);
    // `stays` was deleted and is there again; only its head is left, and the log's last line.
    run.replica.compact();
    assert_eq!(rows(&run.replica.group), 1 + 1 + 3);
    run.compact(106);
    run.replica.compact();
    assert_eq!(rows(&run.replica.group), 1 + 3);
    assert_eq!(run.put(b"many", b"").revision(), Revision(107));
}

#[test]
fn a_run_that_writes_and_passes_its_own_floor_leaves_the_state_of_its_entries_one_by_one() {
    let mut run = Run::new(Counted::fresh());
    run.put(b"k", b"1");
    run.delete(b"k");
    let mut one_by_one = Run::new(Counted::fresh());
    one_by_one.put(b"k", b"1");
    one_by_one.delete(b"k");
    let command = |write| Command {
        project: run.project,
        bucket: run.bucket.clone(),
        at_ms: 1,
        write,
        once: None,
    };
    let commands = [
        Write::Touch { key: key(b"k"), expires_at_ms: 4 },
        put_until(b"k", 5),
        Write::Touch { key: key(b"k"), expires_at_ms: 5 },
        put_until(b"l", 5),
        Write::Expire { key: key(b"k"), lease: Revision(4) },
        Write::Touch { key: key(b"l"), expires_at_ms: 9 },
        Write::Compact { to: Revision(7) },
        put_until(b"m", 5),
    ]
    .map(command);
    commands.iter().for_each(|command| drop(one_by_one.command(command)));
    in_one_batch(&mut run.replica, &commands);
    run.replica.commits = one_by_one.replica.commits;
    same(&run, &one_by_one);
    // What the run left dead goes when the floor moves again.
    run.compact(8);
    run.replica.compact();
    assert_eq!(rows(&run.replica.group), 2 + 2 + 3);
}

fn put_until(name: &[u8], at_ms: u64) -> Write {
    let (key, value) = (key(name), bytes::Bytes::from_static(b"v"));
    Write::Put { key, value, condition: Default::default(), expires_at_ms: Some(at_ms) }
}

/// Applies commands as one run of entries.
fn in_one_batch(replica: &mut Counted, commands: &[Command]) {
    let group = replica.group.clone();
    let mut batch = group.batch();
    {
        let view = group.run();
        let mut overlay = Overlay::new(&view);
        for command in commands {
            let done = apply(&overlay, command).unwrap();
            overlay.absorb(&done.changes);
            done.changes.iter().for_each(|change| batch.put_change(change));
        }
    }
    replica.commits += commands.len() as u64;
    group.commit(batch, mark(replica.commits)).unwrap();
}

/// The same state, whatever lies dead beside it. (The marks count commits, so they are put alike.)
fn same(a: &Run<Counted>, b: &Run<Counted>) {
    for run in [a, b] {
        run.replica.group.commit(run.replica.group.batch(), mark(0)).unwrap();
    }
    assert_eq!(chunks(&a.replica.group), chunks(&b.replica.group));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn replicas_are_alike_whatever_their_compactions_did_and_however_entries_came(
        seed in any::<u64>(),
    ) {
        let mut draw = Draw(seed);
        let commands: Vec<Command> = (0..150).map(|_| draw.command()).collect();
        let mut eager = Run::new(Counted { compact_every: 9, ..Counted::fresh() });
        let mut lazy = Run::new(Counted { flush_every: u64::MAX, ..Counted::fresh() });
        commands.iter().for_each(|command| drop(eager.command(command)));
        let mut left = &commands[..];
        while !left.is_empty() {
            let (run, rest) = left.split_at((1 + draw.below(20) as usize).min(left.len()));
            in_one_batch(&mut lazy.replica, run);
            left = rest;
        }
        same(&eager, &lazy);
        let due = |run: &Run<Counted>| run.replica.group.due(u64::MAX, 99).unwrap();
        prop_assert_eq!(due(&eager), due(&lazy));
    }
}

#[test]
fn a_snapshot_carries_floors_and_expiries_and_its_receiver_lets_go_of_the_dead() {
    let mut run = Run::new(Counted { flush_every: u64::MAX, ..Counted::fresh() });
    (1..=9u64).for_each(|n| drop(run.put(b"k", &n.to_be_bytes())));
    run.put_until(b"t", b"", 70);
    run.touch(b"t", 80);
    run.compact(8);
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    let receiver = Group::open(store.clone(), GroupId(5)).unwrap();
    let incoming = stemedb_engine::copy(&run.replica.group, &receiver, 1).unwrap();
    let received = Run::new(Counted::over(incoming.install().unwrap()));
    assert_eq!(chunks(&received.replica.group), chunks(&run.replica.group));
    assert_eq!(received.replica.group.trimmed(number(&received)).unwrap(), Revision(8));
    let due = received.replica.group.due(80, 9).unwrap();
    assert_eq!(due, run.replica.group.due(80, 9).unwrap());
    assert_eq!((due[0].at_ms, due[0].lease), (80, Revision(11)));
    // `k` and `t`, the log from 9 to 11, one expiry, bucket, next bucket, mark; and the pointer.
    assert_eq!(rows(&received.replica.group), 9 + 2 + 3 + 1 + 3 + 1);
    store.compact().unwrap();
    assert_eq!(rows(&received.replica.group), 2 + 2 + 3 + 1 + 3 + 1);
    assert_eq!((value(&received, 8), value(&received, 9)), (8, 9));
}
