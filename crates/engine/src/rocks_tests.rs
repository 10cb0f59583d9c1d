//! RocksDB under the trait: what its filters, its compactions and its opening again may do.

use std::ops::ControlFlow;
use std::sync::Arc;

use stemedb_machine::shard::BucketNumber;
use stemedb_types::{GroupId, Revision};
use tempfile::TempDir;

use crate::rows::{Range, Scope};
use crate::store::{Health, Rows};
use crate::{Budget, Error, Group, RocksStore, Store, copy, wipe};

const SCOPES: [Scope; 2] =
    [Scope { group: GroupId(1), generation: 0 }, Scope { group: GroupId(1), generation: 1 }];

/// What the filters are for: a look-up of a key that is not there asks no file for a block.
#[test]
fn a_look_up_of_an_absent_key_reads_no_block_and_a_scan_across_keys_reads_all() {
    let dir = TempDir::new().unwrap();
    let store = RocksStore::open(dir.path(), Budget::default()).unwrap();
    let row = |key: &str, n| SCOPES[0].version(BucketNumber(0), key.as_bytes(), Revision(n));
    for file in 0..3 {
        let mut rows = Rows::new();
        for n in 0..200 {
            rows.put(row(&format!("key/{n}"), file), vec![1; 200]);
        }
        store.write(rows).unwrap();
        store.flush().unwrap();
    }
    let blocks = |read: &dyn Fn()| {
        let mut context = rocksdb::perf::PerfContext::default();
        context.reset();
        rocksdb::perf::set_perf_stats(rocksdb::perf::PerfStatsLevel::EnableCount);
        read();
        rocksdb::perf::set_perf_stats(rocksdb::perf::PerfStatsLevel::Disable);
        context.metric(rocksdb::PerfMetric::BlockCacheHitCount)
            + context.metric(rocksdb::PerfMetric::BlockReadCount)
    };
    let look_up = |key: &str| {
        let name = SCOPES[0].versions(BucketNumber(0), key.as_bytes()).into_bytes();
        let range = Range::prefix(&name);
        let mut found = 0;
        store
            .scan(&range, false, &mut |_, _| {
                found += 1;
                ControlFlow::Continue(())
            })
            .unwrap();
        found
    };
    let there = blocks(&|| assert_eq!(look_up("key/77"), 3));
    // Absent keys between those that are there; one in a hundred may pass a filter.
    let absent = blocks(&|| {
        (0..20).for_each(|n| assert_eq!(look_up(&format!("key/{n}/none")), 0));
    });
    // One block of each file, and none: without filters it would be 60.
    assert!(there >= 3 && absent <= 12, "{there} {absent}");
}

fn names(dir: &TempDir) -> Vec<String> {
    let tables = std::fs::read_dir(dir.path().join("rocks")).unwrap();
    let names = tables.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name.ends_with(".sst")).collect();
    names.sort();
    names
}

/// The rule that matters most: bytes that do not check are never written into a new file, where
/// they would check again.
#[test]
fn a_compaction_that_meets_damage_writes_none_of_it_on_and_ends_writing() {
    let dir = TempDir::new().unwrap();
    let store = RocksStore::open(dir.path(), Budget::default()).unwrap();
    // A version of a key, as the check wants to see it.
    let version = |value: u8| [&[1, 0, 1, 1][..], &[value; 100]].concat();
    let file = |value: u8| {
        let mut rows = Rows::new();
        for n in 0..200 {
            let row = SCOPES[0].version(BucketNumber(0), &[n], Revision(1));
            rows.put(row, version(value));
        }
        store.write(rows).unwrap();
        store.flush().unwrap();
    };
    file(1);
    let damaged = names(&dir).pop().unwrap();
    file(2);
    let path = dir.path().join("rocks").join(&damaged);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[150] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    // Nothing of it is in a cache from here on.
    store.reopen().unwrap();
    assert_eq!(store.health(), Health::Well);
    let open = store.share("compact").unwrap();
    open.db.compact_range(None::<&[u8]>, None::<&[u8]>);
    drop(open);
    let Health::Broken(cause) = store.health() else { panic!("{:?}", store.health()) };
    assert!(cause.contains("Corruption") && cause.contains(&damaged), "{cause}");
    let mut rows = Rows::new();
    rows.put(SCOPES[0].applied(), vec![]);
    assert!(store.write(rows).is_err());
    // Rows of the other file are read, those of the damaged one refused: they are under the others.
    let newest = store.get(&SCOPES[0].version(BucketNumber(0), &[0], Revision(1)));
    assert_eq!(newest.unwrap().unwrap(), version(2));
    drop(store);
    let report = crate::check::check(dir.path(), &mut |_, _| {}).unwrap();
    let files: Vec<_> = report.faults.iter().map(|fault| fault.file.clone()).collect();
    assert_eq!(files, [format!("rocks/{damaged}")]);
    // Opened again it takes writes, until it meets the damage again.
    let store = RocksStore::open(dir.path(), Budget::default()).unwrap();
    assert_eq!(store.health(), Health::Well);
    assert!(store.scrub(&SCOPES[0].all(), &mut |_| ControlFlow::Continue(())).is_err());
}

#[test]
fn a_store_that_is_opened_again_has_what_was_flushed_and_waits_for_its_readers() {
    let dir = TempDir::new().unwrap();
    let store = RocksStore::open(dir.path(), Budget::default()).unwrap();
    let mut rows = Rows::new();
    rows.put(SCOPES[0].applied(), b"flushed".to_vec());
    store.write(rows).unwrap();
    store.flush().unwrap();
    let (store, all) = (&store, &SCOPES[0].all());
    std::thread::scope(|threads| {
        let (held, seeks) = std::sync::mpsc::channel();
        let reader = threads.spawn(move || {
            let mut seeker = store.seeker(all);
            held.send(()).unwrap();
            // The reader goes on reading, whole, while the store waits to be closed.
            while store.open_now() {
                assert!(seeker.seek(&SCOPES[0].applied().0).unwrap().is_some());
            }
            assert!(seeker.seek(&SCOPES[0].applied().0).unwrap().is_some());
            // Meanwhile everything that begins anew is told so.
            assert!(store.get(&SCOPES[0].applied()).is_err());
            assert!(matches!(store.health(), Health::Broken(_)));
        });
        seeks.recv().unwrap();
        store.reopen().unwrap();
        reader.join().unwrap();
    });
    assert_eq!(store.get(&SCOPES[0].applied()).unwrap().unwrap(), &b"flushed"[..]);
    assert_eq!(store.health(), Health::Well);
    assert!(store.free_bytes().unwrap() > 0);
}

/// A scrub is paced, and may take hours: nobody waits for it.
#[test]
fn a_store_is_opened_again_under_a_scrub_that_is_under_way() {
    let dir = TempDir::new().unwrap();
    let store = RocksStore::open(dir.path(), Budget::default()).unwrap();
    let mut rows = Rows::new();
    rows.put(SCOPES[0].applied(), b"flushed".to_vec());
    store.write(rows).unwrap();
    store.flush().unwrap();
    let mut opened = 0;
    let read = store.scrub(&SCOPES[0].all(), &mut |_| {
        store.reopen_within(std::time::Duration::ZERO).unwrap();
        opened += 1;
        ControlFlow::Continue(())
    });
    assert!(read.unwrap() > 0 && opened > 1);
    assert_eq!(store.health(), Health::Well);
}

#[test]
fn a_frozen_view_that_is_not_dropped_keeps_the_store_open_as_it_was() {
    let dir = TempDir::new().unwrap();
    let store = RocksStore::open(dir.path(), Budget::default()).unwrap();
    let view = store.frozen(&SCOPES[0].all());
    let refused = store.reopen_within(std::time::Duration::ZERO).unwrap_err();
    assert!(refused.to_string().contains("still being read"), "{refused}");
    assert_eq!(store.health(), Health::Well);
    drop(view);
    store.reopen().unwrap();
    assert_eq!(store.health(), Health::Well);
}

#[test]
fn a_store_that_is_behind_refuses_a_hasty_write_and_lets_the_others_wait() {
    let dir = TempDir::new().unwrap();
    // Flushes that crawl.
    let budget = Budget {
        block_cache_bytes: 1 << 20,
        write_buffer_bytes: 64 << 10,
        compaction_bytes_per_second: 128 << 10,
    };
    let store = RocksStore::open(dir.path(), budget).unwrap();
    let row = |number: u64| {
        let mut rows = Rows::new();
        // Not compressible.
        let mut state = number + 1;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as u8
        };
        let value: Vec<u8> = (0..32 << 10).map(|_| next()).collect();
        rows.put(SCOPES[0].log(BucketNumber(0), Revision(number)), value);
        rows
    };
    let mut behind = None;
    for number in 0..200 {
        if let Err(error) = store.write_now(row(number)) {
            behind = Some((number, error));
            break;
        }
    }
    let Some((number, Error::Behind)) = behind else { panic!("{behind:?}") };
    assert_eq!(store.health(), Health::Well, "slow is not ill");
    let refused = SCOPES[0].log(BucketNumber(0), Revision(number));
    assert_eq!(store.get(&refused).unwrap(), None, "nothing was written");
    store.write(row(number)).unwrap();
    assert!(store.get(&refused).unwrap().is_some());
}

/// On the first level, each file would be written once more, and so many of them hold up writes.
#[test]
fn files_of_a_snapshot_go_below_the_first_level_whatever_was_wiped_before() {
    let [here, there] = [(); 2].map(|()| TempDir::new().unwrap());
    let open = |dir: &TempDir| Arc::new(RocksStore::open(dir.path(), Budget::default()).unwrap());
    let commit = |group: &Group, mark: &str| {
        group.commit(group.batch(), mark.as_bytes().to_vec()).unwrap();
    };
    let sent = Group::open(open(&there), GroupId(1)).unwrap();
    commit(&sent, "sent");
    let store = open(&here);
    let wiped: Arc<dyn Store> = store.clone();
    let group = |number| Group::open(wiped.clone(), GroupId(number)).unwrap();
    let rows_above = |number, generation| {
        let mut rows = Rows::new();
        rows.put(Scope { group: GroupId(number), generation }.applied(), b"staged".to_vec());
        store.write(rows).unwrap();
    };
    // Others on both sides, in one file of the first level that spans them all.
    let others = [group(1), group(9)];
    others.iter().for_each(|other| commit(other, "other"));
    // One that was never here, one that was, one that had a snapshot staged, one that was wiped twice.
    commit(&group(3), "before");
    commit(&group(4), "before");
    rows_above(4, 1);
    commit(&group(5), "before");
    store.flush().unwrap();
    wipe(&wiped, GroupId(5)).unwrap();
    for (number, generation) in [(2, 0), (3, 1), (4, 2), (5, 2)] {
        // Below the first level, files of others must not lie across either.
        if number == 4 {
            store.compact().unwrap();
        }
        wipe(&wiped, GroupId(number)).unwrap();
        let next = group(number);
        assert_eq!((next.applied().unwrap(), next.generation()), (None, generation), "{number}");
        let installed = copy(&sent, &next, 1).unwrap().install().unwrap();
        assert_eq!(installed.applied().unwrap().unwrap(), &b"sent"[..]);
        let scope = installed.scope.bytes();
        let files = store.share("test").unwrap().db.live_files().unwrap();
        let own = files
            .iter()
            .filter(|file| file.start_key.as_ref().is_some_and(|start| start.starts_with(&scope)));
        let levels: Vec<_> = own.map(|file| file.level).collect();
        assert!(
            levels.iter().all(|level| *level > 0) && !levels.is_empty(),
            "{number}: {levels:?}"
        );
    }
    let others = others.map(|other| other.applied().unwrap().unwrap());
    assert_eq!(others, [&b"other"[..]; 2]);
}

/// It must be flushed for that, but not while every writer waits.
#[test]
fn files_are_taken_in_around_a_row_that_is_only_in_memory() {
    let dir = TempDir::new().unwrap();
    let store = RocksStore::open(dir.path(), Budget::default()).unwrap();
    let row = |number| SCOPES[0].log(BucketNumber(0), Revision(number));
    let mut rows = Rows::new();
    rows.put(row(2), b"in memory".to_vec());
    store.write(rows).unwrap();
    let file = store.staging().unwrap().join("file");
    let filled = store.write_file(&file, &mut |put| {
        put(row(1).as_slice(), b"taken in")?;
        put(row(3).as_slice(), b"taken in")
    });
    filled.unwrap();
    assert_eq!(store.durable(&row(2)).unwrap(), None);
    store.take_in(&[file]).unwrap();
    let found = [1, 2, 3].map(|number| store.durable(&row(number)).unwrap().unwrap());
    assert_eq!(found, [&b"taken in"[..], b"in memory", b"taken in"]);
    assert_eq!(store.health(), Health::Well);
}

/// A node has one thread for everything that must not wait: an ingest stops all writers, whatever
/// their options say.
#[test]
fn while_files_are_taken_in_a_hasty_write_is_refused_and_the_store_is_well() {
    let dir = TempDir::new().unwrap();
    let store = RocksStore::open(dir.path(), Budget::default()).unwrap();
    let row = |scope: Scope| {
        let mut rows = Rows::new();
        rows.put(scope.applied(), b"mark".to_vec());
        rows
    };
    store.held_up(|| {
        assert!(matches!(store.write_now(row(SCOPES[0])), Err(Error::Behind)));
        assert_eq!(store.health(), Health::Well);
        store.write(row(SCOPES[0])).unwrap();
    });
    store.write_now(row(SCOPES[0])).unwrap();
    // And taking in is such work: sooner or later a write meets it.
    let over = std::sync::atomic::AtomicBool::new(false);
    let ordering = std::sync::atomic::Ordering::Relaxed;
    std::thread::scope(|threads| {
        let writer = threads.spawn(|| {
            while !over.load(ordering) {
                match store.write_now(row(SCOPES[0])) {
                    Ok(()) => {}
                    Err(Error::Behind) => return true,
                    Err(error) => panic!("{error}"),
                }
            }
            false
        });
        for generation in 1..2000 {
            let file = store.staging().unwrap().join("file");
            let name = Scope { generation, ..SCOPES[0] }.applied();
            store.write_file(&file, &mut |put| put(name.as_slice(), b"staged")).unwrap();
            store.take_in(&[file]).unwrap();
            if writer.is_finished() {
                break;
            }
        }
        over.store(true, ordering);
        assert!(writer.join().unwrap());
    });
}

/// RocksDB refuses what it is behind for; whoever can wait does, outside of it, and gets through.
#[test]
fn writes_that_are_slowed_or_stopped_wait_take_turns_and_are_all_there() {
    const WRITERS: u64 = 4;
    const ROWS: u64 = 32;
    let dir = TempDir::new().unwrap();
    let store = RocksStore::open(dir.path(), Budget::default()).unwrap();
    let row = |writer: u64, number| SCOPES[0].log(BucketNumber(writer as u32), Revision(number));
    let one = |writer, number| {
        let mut rows = Rows::new();
        rows.put(row(writer, number), vec![7; 64 << 10]);
        rows
    };
    for number in 0..2 {
        store.write(one(9, number)).unwrap();
        store.flush().unwrap();
    }
    let set = |slowed_at: &str, stopped_at: &str| {
        let options = [
            ("level0_file_num_compaction_trigger", "1000"),
            ("level0_slowdown_writes_trigger", slowed_at),
            ("level0_stop_writes_trigger", stopped_at),
        ];
        store.share("test").unwrap().db.set_options(&options).unwrap();
    };
    let write_all = |writer| (0..ROWS).for_each(|n| store.write(one(writer, n)).unwrap());

    // Two files slow it down: a hasty write is refused sooner or later, and others get through.
    set("2", "1000");
    std::thread::scope(|threads| {
        (0..WRITERS).for_each(|writer| drop(threads.spawn(move || write_all(writer))));
        let refused = (0..100_000).any(|n| match store.write_now(one(8, n % ROWS)) {
            Ok(()) => false,
            Err(Error::Behind) => true,
            Err(error) => panic!("{error}"),
        });
        assert!(refused, "never slowed");
    });
    // They stop it: one that waits gets through when it goes on.
    set("2", "2");
    std::thread::scope(|threads| {
        let waits = threads.spawn(|| store.write(one(7, 0)));
        assert!(matches!(store.write_now(one(8, 0)), Err(Error::Behind)));
        assert!(store.get(&row(7, 0)).unwrap().is_none() && !waits.is_finished());
        set("1000", "1000");
        waits.join().unwrap().unwrap();
    });
    store.write_now(one(8, 0)).unwrap();
    let written = (0..WRITERS).flat_map(|writer| (0..ROWS).map(move |number| (writer, number)));
    for (writer, number) in written.chain([(7, 0)]) {
        assert!(store.get(&row(writer, number)).unwrap().is_some(), "{writer} {number}");
    }
    assert_eq!(store.health(), Health::Well);
}
