//! The contract of the trait: every read is what an ordered map would say, whatever was flushed,
//! compacted, deleted by ranges or opened again in between, and whatever filters the files carry.
//! Files of rows are taken in whole or refused, and a crash goes back to a batch behind the last
//! flush.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use stemedb_machine::shard::{AgentId, BucketNumber, ClaimKey, StatementId};
use stemedb_types::{GroupId, Revision};
use tempfile::TempDir;

use crate::rows::{Kind, Range, Row, Scope, generation_row};
use crate::store::{Rows, Visit};
use crate::{Budget, Error, FileReader, MapStore, RocksStore, Store};

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

/// Takes the steps, and compares every answer with the model's. `compact`: what the store may do to
/// its files by itself.
fn run(store: &dyn Store, compact: &dyn Fn(), steps: Vec<Step>) {
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
            Step::Compact => compact(),
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
    fn every_read_of_rocksdb_is_what_an_ordered_map_says(steps in vec(step(), 1..120)) {
        let dir = TempDir::new().unwrap();
        let budget = Budget { block_cache_bytes: 1 << 20, write_buffer_bytes: 1 << 20, ..Budget::default() };
        let store = RocksStore::open(dir.path(), budget).unwrap();
        let compact = || {
            store.share("compact").unwrap().db.compact_range(None::<&[u8]>, None::<&[u8]>);
        };
        run(&store, &compact, steps);
    }

    #[test]
    fn the_map_that_forgets_keeps_the_same_contract(steps in vec(step(), 1..120)) {
        let dir = TempDir::new().unwrap();
        run(&MapStore::new(dir.path()), &|| {}, steps);
    }
}

fn walk_frozen(store: &dyn Store, range: &Range, visit: Visit<'_>) {
    let mut cursor = store.frozen(range);
    cursor.seek(&range.start).unwrap();
    while let Some((row, value)) = cursor.row() {
        if visit(row, value).is_break() {
            return;
        }
        cursor.next().unwrap();
    }
}

fn put(store: &dyn Store, key: &str, value: &str) {
    let mut rows = Rows::new();
    rows.put(version(key), value.as_bytes().to_vec());
    store.write(rows).unwrap();
}

fn version(key: &str) -> Row {
    SCOPES[0].version(BucketNumber(0), key.as_bytes(), Revision(1))
}

fn value(store: &dyn Store, key: &str) -> Option<String> {
    let found = store.get(&version(key)).unwrap();
    found.map(|value| String::from_utf8(value.to_vec()).unwrap())
}

/// Both stores, each on a folder of its own.
fn each(check: impl Fn(&dyn Store)) {
    let dir = TempDir::new().unwrap();
    check(&RocksStore::open(dir.path(), Budget::default()).unwrap());
    let dir = TempDir::new().unwrap();
    check(&MapStore::new(dir.path()));
}

#[test]
fn a_row_is_durable_with_the_next_flush_and_not_before() {
    each(|store| {
        put(store, "a", "1");
        assert_eq!(store.durable(&version("a")).unwrap(), None);
        store.flush().unwrap();
        put(store, "a", "2");
        assert_eq!(value(store, "a").as_deref(), Some("2"));
        assert_eq!(store.durable(&version("a")).unwrap().as_deref(), Some(&b"1"[..]));
    });
}

/// Bytes that nothing makes fewer.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

#[test]
fn a_range_is_measured_by_what_of_it_is_flushed() {
    each(|store| {
        let value_bytes = 4096;
        for number in 0..200u64 {
            let mut rows = Rows::new();
            let scope = SCOPES[usize::from(number >= 50)];
            let row = scope.version(BucketNumber(0), &number.to_be_bytes(), Revision(1));
            rows.put(row, noise(number + 1, value_bytes));
            store.write(rows).unwrap();
        }
        assert_eq!(store.approximate_bytes(&Range::all()), 0, "nothing is on disk");
        store.flush().unwrap();
        let [few, many] = SCOPES.map(|scope| store.approximate_bytes(&scope.all()) as usize);
        // To a tenth, or a few blocks.
        assert!(few.abs_diff(50 * value_bytes) < 100_000, "{few}");
        assert!(many.abs_diff(150 * value_bytes) < 100_000, "{many}");
        let none = Scope { group: GroupId(9), generation: 0 }.all();
        assert!(store.approximate_bytes(&none) < 10_000);
        assert_eq!(store.approximate_bytes(&Range::between(b"b", b"a")), 0);
    });
}

#[test]
fn files_of_rows_are_taken_in_durably_and_a_damaged_one_is_refused() {
    each(|store| {
        let staging = store.staging().unwrap();
        let write = |path: &Path| {
            store.write_file(path, &mut |put| {
                put(version("a").as_slice(), b"1")?;
                put(version("b").as_slice(), b"2")
            })
        };
        let (whole, damaged) = (staging.join("1.sst"), staging.join("2.sst"));
        write(&whole).unwrap();
        write(&damaged).unwrap();
        let mut bytes = std::fs::read(&damaged).unwrap();
        bytes[12] ^= 1;
        std::fs::write(&damaged, bytes).unwrap();
        let mut seen = 0;
        let refused = store.read_file(&damaged, &mut FileReader::default(), &mut |_, _| {
            seen += 1;
            ControlFlow::Continue(())
        });
        assert!(matches!(refused, Err(Error::Transfer { .. })), "{refused:?} after {seen} rows");
        let read =
            scanned(|visit| store.read_file(&whole, &mut FileReader::default(), visit).unwrap());
        assert_eq!(read.len(), 2);
        store.take_in(std::slice::from_ref(&whole)).unwrap();
        assert!(!whole.exists());
        assert_eq!(value(store, "b").as_deref(), Some("2"));
        assert_eq!(store.durable(&version("a")).unwrap().as_deref(), Some(&b"1"[..]));
    });
}

/// What makes the map worth simulating with. (RocksDB's crashes are tested where its files are.)
#[test]
fn a_crash_takes_batches_from_the_end_and_nothing_that_was_flushed_or_taken_in() {
    let dir = TempDir::new().unwrap();
    let store = MapStore::new(dir.path());
    put(&store, "a", "1");
    store.flush().unwrap();
    put(&store, "a", "2");
    put(&store, "b", "1");
    let survivors = |kept: u64| {
        let after = store.after_crash(&mut |bound| {
            assert_eq!(bound, 3, "two batches may go, or one, or none");
            kept
        });
        (value(&after, "a").unwrap(), value(&after, "b"))
    };
    assert_eq!(survivors(0), ("1".to_owned(), None));
    assert_eq!(survivors(1), ("2".to_owned(), None));
    assert_eq!(survivors(2), ("2".to_owned(), Some("1".to_owned())));
    // What is taken in is not taken away again by what was deleted there before.
    let mut rows = Rows::new();
    rows.delete_range(SCOPES[1].all());
    store.write(rows).unwrap();
    let file = store.staging().unwrap().join("1.sst");
    let row = SCOPES[1].version(BucketNumber(0), b"c", Revision(1));
    store.write_file(&file, &mut |put| put(row.as_slice(), b"3")).unwrap();
    store.take_in(&[file]).unwrap();
    let after = store.after_crash(&mut |_| 0);
    assert_eq!(after.get(&row).unwrap().as_deref(), Some(&b"3"[..]));
}
