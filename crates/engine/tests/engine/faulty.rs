//! A store that fails where it is told to, and counts the rows that are read: what a group makes of
//! both.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use stemedb_engine::{
    Error, FileReader, Fill, Group, Range, RocksStore, Row, Rows, Store, Visit, copy as copy_group,
    wipe,
};
use stemedb_machine::shard::suite::{Run, all_keys, key};
use stemedb_machine::shard::{
    BucketNumber, BucketState, Change, Command, Cursor as PageCursor, Head, Read, ReadAnswer,
    SCAN_ROWS_MAX, TouchKind, Touched, View, Write, apply, read,
};
use stemedb_types::{GroupId, ProjectId, Revision};
use tempfile::TempDir;

use crate::common::{Counted, as_its_store_does, chunks, copy, group, mark, open, rows};

struct Faulty {
    store: Arc<RocksStore>,
    /// Of each step: how many are let through, and how many fail then.
    failing: Mutex<BTreeMap<&'static str, (usize, usize)>>,
    scanned: AtomicUsize,
}

impl Faulty {
    fn over(store: Arc<RocksStore>) -> Arc<Self> {
        Arc::new(Self { store, failing: Mutex::default(), scanned: AtomicUsize::new(0) })
    }

    /// Lets so many steps through, then fails once.
    fn fail(&self, step: &'static str, behind: usize) {
        self.failing.lock().unwrap().insert(step, (behind, 1));
    }

    fn meet(&self, step: &'static str) -> Result<(), Error> {
        match self.failing.lock().unwrap().get_mut(step) {
            None | Some((0, 0)) => Ok(()),
            Some((0, times)) => {
                *times -= 1;
                Err(Error::Io { verb: step, cause: "told to fail".to_owned() })
            }
            Some((behind, _)) => {
                *behind -= 1;
                Ok(())
            }
        }
    }

    /// Rows read by scans since the last time.
    fn scanned(&self) -> usize {
        self.scanned.swap(0, Ordering::Relaxed)
    }
}

impl Store for Faulty {
    as_its_store_does!();

    fn scan(&self, range: &Range, reverse: bool, visit: Visit<'_>) -> Result<(), Error> {
        self.meet("scan")?;
        self.store.scan(range, reverse, &mut |row, value| {
            self.scanned.fetch_add(1, Ordering::Relaxed);
            visit(row, value)
        })
    }
    fn write(&self, rows: Rows) -> Result<(), Error> {
        self.meet("write")?;
        self.store.write(rows)
    }
    fn durable(&self, row: &Row) -> Result<Option<Bytes>, Error> {
        self.meet("durable")?;
        self.store.durable(row)
    }
    fn flush(&self) -> Result<(), Error> {
        self.meet("flush")?;
        self.store.flush()
    }
    fn staging(&self) -> Result<PathBuf, Error> {
        self.store.staging()
    }
    fn write_file(&self, path: &Path, fill: Fill<'_>) -> Result<(), Error> {
        self.store.write_file(path, fill)
    }
    fn read_file(
        &self,
        path: &Path,
        reader: &mut FileReader,
        visit: Visit<'_>,
    ) -> Result<(), Error> {
        self.store.read_file(path, reader, visit)
    }
    fn take_in(&self, files: &[PathBuf]) -> Result<(), Error> {
        self.store.take_in(files)
    }
    fn give_up(&self, range: &Range) -> Result<(), Error> {
        self.meet("give up")?;
        self.store.give_up(range)
    }
}

fn faulty(dir: &TempDir) -> (Arc<Faulty>, Run<Counted>) {
    let store = Faulty::over(open(dir.path()));
    let group = Group::open(store.clone(), GroupId(1)).unwrap();
    (store, Run::new(Counted::over(group)))
}

fn number(run: &Run<Counted>) -> BucketNumber {
    run.replica.group.bucket(run.project, &run.bucket).unwrap().unwrap().number
}

#[test]
fn a_batch_that_is_written_is_committed_whatever_fails_behind_it() {
    let dir = TempDir::new().unwrap();
    let (store, mut run) = faulty(&dir);
    (0..3).for_each(|_| drop(run.put(b"k", b"v")));
    store.flush().unwrap();
    // Whether earlier floors are durable yet can't be found out.
    store.fail("durable", 0);
    run.compact(2);
    let state = run.replica.group.bucket(run.project, &run.bucket).unwrap().unwrap();
    assert_eq!(state.compacted, Revision(2));
    // The next floor asks again.
    store.flush().unwrap();
    run.compact(3);
    assert_eq!(rows(&run.replica.group), 3 + 3);
    store.flush().unwrap();
    run.replica.group.durable_applied().unwrap();
    store.store.compact().unwrap();
    assert_eq!(rows(&run.replica.group), 1 + 3, "the filter knows the floor");
}

#[test]
fn a_floor_whose_batch_failed_is_not_announced_any_more_and_the_batch_goes_in_again() {
    let dir = TempDir::new().unwrap();
    let (store, mut run) = faulty(&dir);
    (0..5).for_each(|_| drop(run.put(b"k", b"v")));
    run.compact(1);
    let group = run.replica.group.clone();
    let write = Write::Compact { to: Revision(4) };
    let (project, bucket) = (run.project, run.bucket.clone());
    let done = apply(&group, &Command { project, bucket, at_ms: 0, write, once: None }).unwrap();
    let commit = || {
        let mut batch = group.batch();
        done.changes.iter().for_each(|change| batch.put_change(change));
        group.commit(batch, mark(9))
    };
    store.fail("write", 0);
    commit().unwrap_err();
    assert_eq!(group.trimmed(number(&run)).unwrap(), Revision(1));
    assert!(matches!(run.get(b"k", Some(2)), ReadAnswer::Value { .. }));
    commit().unwrap();
    assert_eq!(group.trimmed(number(&run)).unwrap(), Revision(4));
    assert!(matches!(run.get(b"k", Some(2)), ReadAnswer::Compacted { .. }));
}

/// A group with rows below the first level, where files can go at once, and another's to take in.
fn installing(dir: &TempDir, other: &TempDir) -> (Arc<Faulty>, Group, Group) {
    let mut sent = Run::new(Counted::over(group(other.path(), 1)));
    (0..3).for_each(|_| drop(sent.put(b"k", b"sent")));
    sent.compact(2);
    let (store, mut run) = faulty(dir);
    for n in 0..100u8 {
        run.put(&[n], b"standing");
    }
    store.store.compact().unwrap();
    (store, sent.replica.group, run.replica.group)
}

/// What a crash now leaves of the group.
fn crashed(dir: &TempDir) -> Vec<Bytes> {
    let left = TempDir::new().unwrap();
    copy(dir.path(), left.path());
    chunks(&group(left.path(), 1))
}

#[test]
fn an_install_whose_pointer_was_not_flushed_never_costs_the_standing_rows() {
    // The disk fails at the flush; and again as the pointer is put back.
    for put_back in [true, false] {
        let (dir, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let (store, sent, standing) = installing(&dir, &other);
        let (before, after) = (chunks(&standing), chunks(&sent));
        let incoming = copy_group(&sent, &standing, 1).unwrap();
        store.fail("flush", 0);
        if !put_back {
            store.fail("write", 1);
        }
        assert!(incoming.install().is_err());
        assert_eq!(chunks(&standing), before, "nothing was installed");
        assert_eq!(crashed(&dir), before);
        drop(standing);
        // Opened anew beside the same store: what is swept now must not be needed after a crash.
        let again = Group::open(store.clone(), GroupId(1)).unwrap();
        let wanted = if put_back { before } else { after };
        assert_eq!(chunks(&again), wanted, "put back: {put_back}");
        assert_eq!(crashed(&dir), wanted, "put back: {put_back}");
    }
}

#[test]
fn an_install_that_can_not_read_its_rows_leaves_the_pointer_where_it_is() {
    let (dir, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (store, sent, standing) = installing(&dir, &other);
    let before = chunks(&standing);
    let incoming = copy_group(&sent, &standing, 1).unwrap();
    store.fail("scan", 0);
    assert!(incoming.install().is_err());
    assert_eq!(chunks(&standing), before);
    store.flush().unwrap();
    assert_eq!(crashed(&dir), before);
    // And tried anew, it goes in.
    let incoming = copy_group(&sent, &standing, 2).unwrap();
    assert_eq!(chunks(&incoming.install().unwrap()), chunks(&sent));
    assert_eq!(crashed(&dir), chunks(&sent));
}

#[test]
fn a_wipe_of_a_group_that_was_never_here_writes_nothing() {
    let dir = TempDir::new().unwrap();
    let (store, mut run) = faulty(&dir);
    run.put(b"k", b"v");
    let other: Arc<dyn Store> = store.clone();
    for step in ["write", "give up", "flush"] {
        store.fail(step, 0);
    }
    wipe(&other, GroupId(2)).unwrap();
}

/// Wherever it breaks off, and if what it deleted was never flushed: tried again it leaves nothing
/// that a crash brings back, and the next replica begins in another generation.
#[test]
fn a_wipe_that_broke_off_is_not_taken_for_one_with_nothing_to_do() {
    for step in ["write", "give up", "flush", "none", "unflushed"] {
        let dir = TempDir::new().unwrap();
        let (store, mut run) = faulty(&dir);
        run.put(b"k", b"v");
        store.flush().unwrap();
        drop(run);
        let wiped: Arc<dyn Store> = store.clone();
        match step {
            "none" => {}
            "unflushed" => wiped.give_up(&Range::between(&[0, 0, 0, 1], &[0, 0, 0, 2])).unwrap(),
            step => {
                store.fail(step, 0);
                wipe(&wiped, GroupId(1)).unwrap_err();
            }
        }
        wipe(&wiped, GroupId(1)).unwrap();
        let left = TempDir::new().unwrap();
        copy(dir.path(), left.path());
        let crashed = group(left.path(), 1);
        let here = Group::open(wiped, GroupId(1)).unwrap();
        for (what, next) in [("after a crash", crashed), ("here", here)] {
            assert_eq!(next.applied().unwrap(), None, "{step}, {what}");
            assert!(next.generation() > 0, "{step}, {what}");
        }
    }
}

const BUCKET: BucketNumber = BucketNumber(0);

fn named() -> (ProjectId, stemedb_types::BucketName) {
    (ProjectId(1), "b".parse().unwrap())
}

/// So many keys of one row each, all of them gone, in batches.
fn graves(group: &Group, keys: u64) {
    let (project, name) = named();
    for first in (0..keys).step_by(10_000) {
        let mut batch = group.batch();
        for n in first..(first + 10_000).min(keys) {
            let revision = Revision(n + 1);
            let head = Head {
                create_revision: revision,
                mod_revision: revision,
                version: 1,
                deleted: true,
                expiry: None,
            };
            let key = key(format!("{n:08}").as_bytes());
            let touched = vec![Touched { kind: TouchKind::Delete, what: key.as_bytes().clone() }];
            batch.put_change(&Change::Log { bucket: BUCKET, revision, touched });
            batch.put_change(&Change::Version { bucket: BUCKET, key, head, value: Bytes::new() });
        }
        let state = BucketState {
            number: BUCKET,
            revision: Revision(keys),
            compacted: Revision(0),
            jumped: Revision(0),
        };
        batch.put_change(&Change::Bucket { project, name: name.clone(), state });
        group.commit(batch, mark(1)).unwrap();
    }
    group.store().flush().unwrap();
}

#[test]
fn a_page_of_a_scan_over_deleted_keys_reads_so_many_rows_and_no_more() {
    const KEYS: u64 = 100_000;
    let dir = TempDir::new().unwrap();
    let (store, run) = faulty(&dir);
    let group = run.replica.group.clone();
    graves(&group, KEYS);
    let (project, name) = named();
    for (reverse, keys_only) in [(false, false), (false, true), (true, false), (true, true)] {
        let (mut cursor, mut pages): (Option<PageCursor>, _) = (None, 0);
        store.scanned();
        loop {
            let (range, as_of) = (all_keys(), None);
            let asked = Read::Scan { range, reverse, keys_only, limit: 1, as_of, cursor };
            let answer = read(&group, project, &name, &asked).unwrap();
            let ReadAnswer::Page { rows, cursor: next, .. } = answer else { panic!() };
            let scanned = store.scanned();
            assert!(scanned <= SCAN_ROWS_MAX + 2, "{scanned} rows for one page");
            assert_eq!(rows, []);
            pages += 1;
            cursor = next;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(pages, KEYS as usize / SCAN_ROWS_MAX + 1);
    }
}

#[test]
fn a_floor_that_passes_much_at_once_lets_go_of_it_in_portions() {
    const REVISIONS: u64 = 30_000;
    let dir = TempDir::new().unwrap();
    let (store, run) = faulty(&dir);
    let group = run.replica.group.clone();
    graves(&group, REVISIONS);
    let (project, name) = named();
    let compact = |to: u64| {
        let state = BucketState {
            number: BUCKET,
            revision: Revision(REVISIONS),
            compacted: Revision(to),
            jumped: Revision(0),
        };
        let mut batch = group.batch();
        batch.put_change(&Change::Floor { project, name: name.clone(), state });
        store.scanned();
        group.commit(batch, mark(2)).unwrap();
        store.scanned()
    };
    let before = rows(&group);
    // As a run of very many commands would: one floor, far away.
    let mut scanned = vec![compact(REVISIONS - 100)];
    assert!(rows(&group) > before / 2);
    // Floors that move a little take the rest along.
    scanned.extend((1..=10).map(|n| compact(REVISIONS - 100 + 10 * n)));
    assert!(scanned.iter().all(|rows| *rows <= 10_000), "{scanned:?}");
    // What is left is the bucket and the mark.
    assert_eq!(rows(&group), 2);
}

#[test]
fn a_number_that_a_bucket_has_is_never_given_out_again() {
    let dir = TempDir::new().unwrap();
    let (_store, mut run) = faulty(&dir);
    // A first batch in which the bucket has come further than its first revision.
    let (project, name) = named();
    let put = |key_of: &[u8]| Command {
        project,
        bucket: name.clone(),
        at_ms: 0,
        write: Write::Put {
            key: key(key_of),
            value: Bytes::new(),
            condition: stemedb_machine::shard::Condition::Always,
            expires_at_ms: None,
        },
        once: None,
    };
    let group = run.replica.group.clone();
    let mut overlay = stemedb_machine::shard::Overlay::new(&group);
    let mut batch = group.batch();
    let mut last = None;
    for command in [put(b"a"), put(b"b")] {
        let done = apply(&overlay, &command).unwrap();
        overlay.absorb(&done.changes);
        for change in done.changes {
            match change {
                // Only where a run leaves a bucket counts.
                Change::Bucket { .. } => last = Some(change),
                change => batch.put_change(&change),
            }
        }
    }
    batch.put_change(&last.unwrap());
    group.commit(batch, mark(1)).unwrap();
    assert_eq!(group.next_bucket().unwrap(), BucketNumber(1));
    run.in_bucket(1, "another").put(b"k", b"");
    assert_eq!(number(&run), BucketNumber(1));
}

#[test]
fn a_pace_that_breaks_off_ends_the_walk_over_all_ranges() {
    let dir = TempDir::new().unwrap();
    let (store, mut run) = faulty(&dir);
    run.put(b"k", b"v");
    store.flush().unwrap();
    // A store that takes one range at a time.
    let mut calls = 0;
    let read = stemedb_engine::scrub_rest(store.as_ref(), Vec::new(), &mut |_| {
        calls += 1;
        ControlFlow::Break(())
    });
    assert!(read.unwrap() > 0);
    assert_eq!(calls, 1);
}
