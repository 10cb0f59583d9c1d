//! Puts, deletes, conditions; gets and scans.

use std::ops::ControlFlow;

use bytes::Bytes;
use stemedb_types::Revision;
use stemedb_types::limits::{PAGE_BYTES_MAX, PAGE_ROWS_MAX, VALUE_BYTES_MAX};

use super::{Replica, Run, all_keys, key};
use crate::shard::{
    Answer, Condition, Cursor, Head, KeyRange, KeyWalk, Read, ReadAnswer, ScanRow, Version, View,
};

pub(super) fn put(revision: u64, created: bool) -> Answer {
    Answer::Put { revision: Revision(revision), created }
}

pub(super) fn deleted(revision: u64) -> Answer {
    Answer::Deleted { revision: Revision(revision) }
}

pub(super) fn not_found(revision: u64) -> Answer {
    Answer::NotFound { revision: Revision(revision) }
}

pub(super) fn refused(revision: u64, current: Option<u64>) -> Answer {
    Answer::PreconditionFailed { revision: Revision(revision), current: current.map(Revision) }
}

fn at(revisions: &[u64]) -> Vec<Revision> {
    revisions.iter().copied().map(Revision).collect()
}

/// A version as (created at, of, version number, value).
pub(super) fn version(create: u64, modified: u64, version: u64, value: &[u8]) -> Version {
    let head = Head {
        create_revision: Revision(create),
        mod_revision: Revision(modified),
        version,
        deleted: false,
        expiry: None,
    };
    Version { head, value: Bytes::copy_from_slice(value) }
}

pub(super) fn value(revision: u64, version: Option<Version>) -> ReadAnswer {
    ReadAnswer::Value { revision: Revision(revision), version }
}

/// A scan of everything, for `..` to fill in from.
pub(super) struct Scan {
    pub(super) range: KeyRange,
    pub(super) reverse: bool,
    pub(super) keys_only: bool,
    pub(super) limit: usize,
    pub(super) as_of: Option<u64>,
}

impl Default for Scan {
    fn default() -> Self {
        let (reverse, keys_only) = (false, false);
        Self { range: all_keys(), reverse, keys_only, limit: PAGE_ROWS_MAX, as_of: None }
    }
}

pub(super) type Page = (Revision, Vec<ScanRow>, Option<Cursor>);

impl<R: Replica> Run<R> {
    pub(super) fn page(&self, scan: &Scan, cursor: Option<Cursor>) -> Page {
        let &Scan { ref range, reverse, keys_only, limit, as_of } = scan;
        let (range, as_of) = (range.clone(), as_of.map(Revision));
        match self.read(&Read::Scan { range, reverse, keys_only, limit, as_of, cursor }) {
            ReadAnswer::Page { revision, rows, cursor } => (revision, rows, cursor),
            other => panic!("{other:?}"),
        }
    }

    /// The keys of one page that must be the last one.
    fn keys(&self, scan: &Scan) -> Vec<Bytes> {
        let (_, rows, cursor) = self.page(scan, None);
        assert_eq!(cursor, None);
        rows.into_iter().map(|row| row.key.as_bytes().clone()).collect()
    }
}

pub fn a_write_takes_the_next_revision_and_a_refused_one_takes_none<R: Replica>(run: &mut Run<R>) {
    use Condition::{Absent, Exists, RevisionIn, RevisionNotIn};
    // Nothing is there: a delete makes no bucket, a condition on the key does not hold.
    assert_eq!(run.delete(b"a"), not_found(0));
    assert_eq!(run.put_if(b"a", b"", Exists), refused(0, None));
    assert_eq!(run.put_if(b"a", b"", RevisionIn(at(&[0, 1]))), refused(0, None));
    assert_eq!(run.replica.view().bucket(run.project, &run.bucket).unwrap(), None);
    // Each write that changes something takes one.
    assert_eq!(run.put_if(b"a", b"1", Absent), put(1, true));
    assert_eq!(run.put(b"a", b"2"), put(2, false));
    assert_eq!(run.put_if(b"a", b"x", Absent), refused(2, Some(2)));
    assert_eq!(run.put_if(b"a", b"x", RevisionIn(at(&[1]))), refused(2, Some(2)));
    assert_eq!(run.put_if(b"a", b"x", RevisionIn(vec![])), refused(2, Some(2)));
    assert_eq!(run.put_if(b"a", b"x", RevisionNotIn(at(&[7, 2]))), refused(2, Some(2)));
    assert_eq!(run.put_if(b"a", b"3", RevisionIn(at(&[1, 2]))), put(3, false));
    assert_eq!(run.put_if(b"a", b"4", RevisionNotIn(at(&[2]))), put(4, false));
    assert_eq!(run.put_if(b"a", b"5", Exists), put(5, false));
    assert_eq!(run.put_if(b"b", b"", RevisionNotIn(at(&[5]))), put(6, true));
    // The same value again is a write too.
    assert_eq!(run.put(b"b", b""), put(7, false));
    // Deletes.
    assert_eq!(run.delete(b"c"), not_found(7));
    assert_eq!(run.delete_if(b"c", Exists), refused(7, None));
    assert_eq!(run.delete_if(b"a", RevisionIn(at(&[4]))), refused(7, Some(5)));
    assert_eq!(run.delete_if(b"a", Absent), refused(7, Some(5)));
    assert_eq!(run.delete_if(b"a", RevisionIn(at(&[5]))), deleted(8));
    assert_eq!(run.delete(b"a"), not_found(8));
    assert_eq!(run.delete_if(b"a", RevisionIn(at(&[8]))), refused(8, None));
    assert_eq!(run.get(b"a", None), value(8, None));
    assert_eq!(run.get(b"b", None), value(8, Some(version(6, 7, 2, b""))));
}

pub fn a_key_made_again_begins_anew<R: Replica>(run: &mut Run<R>) {
    run.put(b"k", b"one");
    run.put(b"other", b"");
    run.put(b"k", b"two");
    run.delete(b"k");
    assert_eq!(run.put_if(b"k", b"three", Condition::Absent), put(5, true));
    run.put(b"k", b"four");
    let history = [
        (0, None),
        (1, Some(version(1, 1, 1, b"one"))),
        (2, Some(version(1, 1, 1, b"one"))),
        (3, Some(version(1, 3, 2, b"two"))),
        (4, None),
        (5, Some(version(5, 5, 1, b"three"))),
        (6, Some(version(5, 6, 2, b"four"))),
    ];
    for (as_of, then) in history {
        assert_eq!(run.get(b"k", Some(as_of)), value(as_of, then), "as of {as_of}");
    }
}

pub fn buckets_count_their_own_revisions<R: Replica>(run: &mut Run<R>) {
    let buckets = [(1, "default"), (1, "default2"), (1, "d"), (2, "default"), (257, "default")];
    for (n, (project, bucket)) in buckets.into_iter().enumerate() {
        let value = n.to_be_bytes();
        assert_eq!(run.in_bucket(project, bucket).put(b"k", &value), put(1, true), "{bucket}");
    }
    for (n, (project, bucket)) in buckets.into_iter().enumerate() {
        let found = value(1, Some(version(1, 1, 1, &n.to_be_bytes())));
        assert_eq!(run.in_bucket(project, bucket).get(b"k", None), found, "{bucket}");
    }
    assert_eq!(run.in_bucket(2, "default").delete(b"k"), deleted(2));
    let kept = value(1, Some(version(1, 1, 1, &0usize.to_be_bytes())));
    assert_eq!(run.in_bucket(1, "default").get(b"k", None), kept);
    assert_eq!(run.in_bucket(3, "default").get(b"k", None), value(0, None));
}

pub fn the_past_reads_as_it_was_and_the_future_is_refused<R: Replica>(run: &mut Run<R>) {
    let compacted = |newest| ReadAnswer::Compacted { revision: Revision(newest) };
    assert_eq!(run.get(b"k", Some(0)), value(0, None));
    assert_eq!(run.get(b"k", Some(1)), compacted(0));
    run.put(b"k", b"1");
    run.put(b"l", b"2");
    assert_eq!(run.get(b"l", Some(1)), value(1, None));
    assert_eq!(run.get(b"k", Some(3)), compacted(2));
    let as_of = Some(Revision(u64::MAX));
    let (range, cursor) = (all_keys(), None);
    let asked = Read::Scan { range, reverse: false, keys_only: false, limit: 1, as_of, cursor };
    assert_eq!(run.read(&asked), compacted(2));
    let past = Scan { as_of: Some(1), ..Scan::default() };
    assert_eq!(run.keys(&past), [&b"k"[..]]);
}

/// Keys that a careless order would mix up, in the right one.
const ODD_KEYS: [&[u8]; 12] = [
    b"\0",
    b"\0\0",
    b"\0\x01",
    b"\0\xff",
    b"\x01",
    b"a",
    b"a\0",
    b"a\0\x01",
    b"a\0\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    b"a\x01",
    b"b",
    b"\xff\xff",
];

pub fn a_scan_goes_in_the_order_of_the_bytes<R: Replica>(run: &mut Run<R>) {
    for key in ODD_KEYS.iter().rev() {
        run.put(key, key);
    }
    run.in_bucket(1, "next-bucket").put(b"a", b"elsewhere");
    run.in_bucket(1, "default");
    let more: [Option<&[u8]>; 3] = [None, Some(b""), Some(b"a\0\0")];
    let ends: Vec<Option<&[u8]>> = ODD_KEYS.iter().copied().map(Some).chain(more).collect();
    let starts = ODD_KEYS.iter().copied().chain([&b""[..], b"a\0\0", b"\xff\xff\xff"]);
    for start in starts {
        for end in &ends {
            let range = KeyRange { start: start.to_vec(), end: end.map(<[u8]>::to_vec) };
            let inside = |k: &&&[u8]| **k >= start && end.is_none_or(|end| **k < end);
            let mut wanted: Vec<&[u8]> = ODD_KEYS.iter().filter(inside).copied().collect();
            let scan = Scan { range: range.clone(), ..Scan::default() };
            assert_eq!(run.keys(&scan), wanted, "{start:?} to {end:?}");
            wanted.reverse();
            let scan = Scan { range, reverse: true, ..Scan::default() };
            assert_eq!(run.keys(&scan), wanted, "{end:?} back to {start:?}");
        }
    }
    for prefix in [&b""[..], b"\0", b"a", b"a\0", b"\xff", b"c"] {
        let wanted: Vec<&[u8]> =
            ODD_KEYS.iter().filter(|key| key.starts_with(prefix)).copied().collect();
        let scan = Scan { range: KeyRange::prefix(prefix), ..Scan::default() };
        assert_eq!(run.keys(&scan), wanted, "{prefix:?}");
    }
}

pub fn the_pages_of_a_scan_show_one_revision_while_writes_go_on<R: Replica>(run: &mut Run<R>) {
    for reverse in [false, true] {
        for name in b'a'..=b'k' {
            run.put(&[name], b"old");
        }
        run.delete(b"d");
        let whole = Scan { reverse, ..Scan::default() };
        let (pinned, wanted, _) = run.page(&whole, None);
        let paged = Scan { limit: 3, ..whole };
        let mut rows = Vec::new();
        let mut cursor = None;
        loop {
            let (revision, page, next) = run.page(&paged, cursor);
            assert_eq!(revision, pinned);
            rows.extend(page);
            // Behind the cursor and before it: overwritten, taken away, new.
            run.put(b"a", b"new");
            run.put(b"k", b"new");
            run.put(b"b\0", b"new");
            run.put(b"j\0", b"new");
            run.put(b"d", b"new");
            run.delete(b"c");
            run.delete(b"i");
            let Some(next) = next else { break };
            cursor = Some(next);
        }
        assert_eq!(rows, wanted);
        assert_eq!(rows.len(), 10);
        run.delete(b"b\0");
        run.delete(b"j\0");
    }
}

pub fn a_page_is_full_by_rows_or_by_bytes_and_the_last_one_has_no_cursor<R: Replica>(
    run: &mut Run<R>,
) {
    let large = vec![7; VALUE_BYTES_MAX];
    for name in b'a'..=b'f' {
        run.put(&[name], &large);
    }
    for (limit, rows) in [(0, 1), (1, 1), (5, PAGE_BYTES_MAX / VALUE_BYTES_MAX)] {
        let (_, page, cursor) = run.page(&Scan { limit, ..Scan::default() }, None);
        assert_eq!(page.len(), rows, "limit {limit}");
        let last = page.last().map(|row| row.key.as_bytes().clone()).unwrap();
        assert_eq!(cursor, Some(Cursor::Key { as_of: Revision(6), last }), "limit {limit}");
    }
    for limit in [6, 7] {
        let scan = Scan { limit, keys_only: true, ..Scan::default() };
        let (_, page, cursor) = run.page(&scan, None);
        assert_eq!((page.len(), cursor), (6, None), "limit {limit}");
    }
    let last = Bytes::from_static(b"f");
    let behind = Cursor::Key { as_of: Revision(6), last };
    assert_eq!(run.page(&Scan::default(), Some(behind)), (Revision(6), vec![], None));
}

pub fn a_key_of_many_versions_is_one_row_at_every_revision<R: Replica>(run: &mut Run<R>) {
    run.put(b"a", b"");
    run.put(b"c", b"");
    // Revisions 3 to 82, every seventh of them a deletion.
    let mut history = vec![(b"".to_vec(), false); 3];
    for revision in 3..83u64 {
        let there = revision % 7 != 0;
        let value = revision.to_be_bytes().to_vec();
        if there {
            assert_eq!(run.put(b"b", &value).revision(), Revision(revision));
        } else {
            assert_eq!(run.delete(b"b"), deleted(revision));
        }
        history.push((value, there));
    }
    for (as_of, (value, there)) in history.iter().enumerate().skip(2) {
        for reverse in [false, true] {
            let scan = Scan { as_of: Some(as_of as u64), reverse, ..Scan::default() };
            let (_, rows, _) = run.page(&scan, None);
            let mut wanted = vec![&b"a"[..], b"c"];
            if *there {
                wanted.insert(1, b"b");
            }
            if reverse {
                wanted.reverse();
            }
            let keys: Vec<_> = rows.iter().map(|row| row.key.as_bytes().clone()).collect();
            assert_eq!(keys, wanted, "as of {as_of}");
            let row = rows.iter().find(|row| row.key == key(b"b"));
            assert!(row.is_none_or(|row| row.version.value == *value), "as of {as_of}");
        }
    }
}

pub fn keys_only_leaves_out_values_and_nothing_else<R: Replica>(run: &mut Run<R>) {
    run.put(b"a", b"1");
    run.put(b"b", b"2");
    run.put(b"a", b"3");
    let (revision, rows, cursor) = run.page(&Scan { keys_only: true, ..Scan::default() }, None);
    let row = |name, version| ScanRow { key: key(name), version };
    let wanted = vec![row(b"a", version(1, 3, 2, b"")), row(b"b", version(2, 2, 1, b""))];
    assert_eq!((revision, rows, cursor), (Revision(3), wanted, None));
}

pub fn a_walk_tells_of_every_key_whether_it_is_there_or_not<R: Replica>(run: &mut Run<R>) {
    run.put(b"a", b"one");
    // Before and behind the revision asked for, more versions than are stepped over one by one.
    (0..50u8).for_each(|n| drop(run.put(b"b", &[n; 100])));
    run.put(b"gone", b"here");
    run.delete(b"gone");
    let as_of = Revision(40);
    let later = Revision(53);
    let view = run.replica.view();
    let bucket = view.bucket(run.project, &run.bucket).unwrap().unwrap().number;
    for reverse in [false, true] {
        for keys_only in [false, true] {
            let told = |as_of| {
                let walk = KeyWalk { range: all_keys(), as_of, reverse, keys_only };
                let mut told = Vec::new();
                view.walk_keys(bucket, &walk, &mut |passed| {
                    assert!(passed.rows > 0 && passed.rows < 60, "{passed:?}");
                    told.push((passed.key, passed.version));
                    ControlFlow::Continue(())
                })
                .unwrap();
                told
            };
            let of = |revision, number, value: &[u8]| {
                let value = if keys_only { &[] } else { value };
                let created = if number == 1 { revision } else { 2 };
                Some(version(created, revision, number, value))
            };
            let in_order = |mut wanted: Vec<_>| {
                if reverse {
                    wanted.reverse();
                }
                wanted
            };
            let wanted = [
                (key(b"a"), of(1, 1, b"one")),
                (key(b"b"), of(40, 39, &[38; 100])),
                // Not there yet.
                (key(b"gone"), None),
            ];
            // The last key of a walk in order is told of only if there is something to tell.
            let found: Vec<_> = told(as_of);
            let known = in_order(wanted.to_vec());
            assert!(found == known || !reverse && found == known[..2], "{found:?}");
            let wanted = [
                (key(b"a"), of(1, 1, b"one")),
                (key(b"b"), of(51, 50, &[49; 100])),
                (key(b"gone"), None),
            ];
            assert_eq!(told(later), in_order(wanted.to_vec()));
        }
    }
}
