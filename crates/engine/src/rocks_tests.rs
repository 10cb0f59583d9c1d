//! The store against a model: every read is what an ordered map would say, whatever was flushed,
//! compacted, deleted by ranges or opened again in between, and whatever filters the files carry.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use stemedb_machine::shard::{AgentId, BucketNumber, ClaimKey, StatementId};
use stemedb_types::{GroupId, Revision};
use tempfile::TempDir;

use crate::rows::{Kind, Range, Row, Scope, generation_row};
use crate::store::{Health, Rows, Visit};
use crate::{Budget, RocksStore, Store};

const SCOPES: [Scope; 2] =
    [Scope { group: GroupId(1), generation: 0 }, Scope { group: GroupId(1), generation: 1 }];

/// Rows of every kind whose names meet: few buckets, short keys of few bytes, few revisions.
fn row() -> impl Strategy<Value = Row> {
    let text = "[\0\x01a]{0,2}";
    (0..12u8, 0..2usize, 0..2u32, text, text, 0..5u64).prop_map(|(kind, scope, b, one, two, n)| {
        let (scope, bucket) = (SCOPES[scope], BucketNumber(b));
        let id = StatementId([u8::try_from(n).unwrap(); 32]);
        let claim = ClaimKey { subject: one.clone(), predicate: two.clone(), id };
        match kind {
            0..=3 => scope.version(bucket, one.as_bytes(), Revision(n)),
            4 => scope.log(bucket, Revision(n)),
            5 => scope.claim(bucket, &claim).u8(0).finish(),
            6 => scope.claim(bucket, &claim).u8(1).raw(two.as_bytes()).finish(),
            7 => scope.claim_id(bucket, id),
            8 => scope.claim_by_predicate(bucket, &claim),
            9 => scope.claim_by_agent(bucket, &AgentId::key("a").unwrap(), &claim),
            10 => scope.row(Kind::Meta).raw(one.as_bytes()).finish(),
            _ => generation_row(GroupId(u32::try_from(n).unwrap())),
        }
    })
}

/// A range as callers make them: between two rows, from a row to the end of its key, or all that
/// begins as a row does.
fn range() -> impl Strategy<Value = Range> {
    (row(), row(), any::<Index>(), 0..4u8).prop_map(|(a, b, cut, kind)| {
        let bytes = a.as_slice();
        match kind {
            0 => Range::between(bytes, b.as_slice()),
            1 => {
                let name = &bytes[..bytes.len().saturating_sub(8).max(9)];
                Range { start: a.0.clone(), end: Range::prefix(name).end }
            }
            2 => Range::prefix(bytes),
            _ => Range::prefix(&bytes[..1 + cut.index(bytes.len() - 1)]),
        }
    })
}

#[derive(Clone, Debug)]
enum Step {
    Put(Row),
    Delete(Row),
    DeleteRange(Range),
    Flush,
    Compact,
    Reopen,
    Get(Row),
    Scan(Range),
    Seek(Vec<Row>),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => row().prop_map(Step::Put),
        2 => row().prop_map(Step::Delete),
        1 => range().prop_map(Step::DeleteRange),
        3 => Just(Step::Flush),
        1 => Just(Step::Compact),
        1 => Just(Step::Reopen),
        4 => row().prop_map(Step::Get),
        8 => range().prop_map(Step::Scan),
        4 => vec(row(), 1..6).prop_map(Step::Seek),
    ]
}

type Model = BTreeMap<Vec<u8>, Vec<u8>>;
type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

fn within(model: &Model, range: &Range) -> Pairs {
    if range.is_empty() {
        return Vec::new();
    }
    let rows =
        model.range::<Vec<u8>, _>((Bound::Included(&range.start), Bound::Excluded(&range.end)));
    rows.map(|(row, value)| (row.clone(), value.clone())).collect()
}

fn scanned(scan: impl FnOnce(Visit<'_>)) -> Pairs {
    let mut found = Vec::new();
    scan(&mut |row, value| {
        found.push((row.to_vec(), value.to_vec()));
        ControlFlow::Continue(())
    });
    found
}

/// The part of a name that a seeker keeps to, found by hand: up to the second-last text's end.
fn seeks_within(row: &Row) -> Option<Vec<u8>> {
    let bytes = row.as_slice();
    match bytes[8] {
        0x20 => Some(bytes[..bytes.len() - 8].to_vec()),
        _ => None,
    }
}

fn run(store: &RocksStore, steps: Vec<Step>) {
    let mut model = Model::new();
    for (n, step) in steps.into_iter().enumerate() {
        let value = n.to_be_bytes().to_vec();
        let mut rows = Rows::new();
        match step {
            Step::Put(row) => {
                model.insert(row.0.clone(), value.clone());
                rows.put(row, value);
                store.write(rows).unwrap();
            }
            Step::Delete(row) => {
                model.remove(&row.0);
                rows.delete(row);
                store.write(rows).unwrap();
            }
            Step::DeleteRange(range) if !range.is_empty() => {
                within(&model, &range).iter().for_each(|(row, _)| drop(model.remove(row)));
                rows.delete_range(range);
                store.write(rows).unwrap();
            }
            Step::DeleteRange(_) => {}
            Step::Flush => store.flush().unwrap(),
            Step::Compact => {
                store.share("compact").unwrap().db.compact_range(None::<&[u8]>, None::<&[u8]>);
            }
            Step::Reopen => {
                store.flush().unwrap();
                store.reopen().unwrap();
            }
            Step::Get(row) => {
                let found = store.get(&row).unwrap();
                assert_eq!(found.as_deref(), model.get(&row.0).map(Vec::as_slice), "{row:?}");
            }
            Step::Scan(range) => {
                let mut wanted = within(&model, &range);
                let found = scanned(|visit| store.scan(&range, false, visit).unwrap());
                assert_eq!(found, wanted, "{range:?}");
                if !range.is_empty() {
                    let found = scanned(|visit| walk_frozen(store, &range, visit));
                    assert_eq!(found, wanted, "frozen {range:?}");
                }
                wanted.reverse();
                let found = scanned(|visit| store.scan(&range, true, visit).unwrap());
                assert_eq!(found, wanted, "back {range:?}");
            }
            Step::Seek(names) => {
                let all = SCOPES[0].all();
                let mut seeker = store.seeker(&all);
                for name in names.iter().filter(|row| all.start <= row.0 && row.0 < all.end) {
                    let Some(part) = seeks_within(name) else { continue };
                    let found = seeker.seek(&name.0).unwrap();
                    let found = found.map(|(row, value)| (row.to_vec(), value.to_vec()));
                    let range = Range { start: name.0.clone(), end: Range::prefix(&part).end };
                    assert_eq!(found, within(&model, &range).into_iter().next(), "{name:?}");
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_read_is_what_an_ordered_map_says(steps in vec(step(), 1..120)) {
        let dir = TempDir::new().unwrap();
        let budget = Budget { block_cache_bytes: 1 << 20, write_buffer_bytes: 1 << 20, ..Budget::default() };
        run(&RocksStore::open(dir.path(), budget).unwrap(), steps);
    }
}

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

fn walk_frozen(store: &RocksStore, range: &Range, visit: Visit<'_>) {
    let mut cursor = store.frozen(range);
    cursor.seek(&range.start).unwrap();
    while let Some((row, value)) = cursor.row() {
        if visit(row, value).is_break() {
            return;
        }
        cursor.next().unwrap();
    }
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
