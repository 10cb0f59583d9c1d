//! A read while the floor goes up.

use std::cell::{Cell, RefCell};
use std::ops::ControlFlow;

use stemedb_claims::StatementId;
use stemedb_types::{BucketName, Key, ProjectId, Revision};

use crate::Error;
use crate::shard::suite::map::MapView;
use crate::shard::suite::{Run, key};
use crate::shard::{
    AgentId, BucketNumber, BucketState, ClaimKey, ClaimOrder, ClaimRow, ClaimStart, Due, Head,
    IdempotencyKey, KeptAnswer, KeptName, KeptRange, KeyWalk, PassedKey, Read, ReadAnswer, Version,
    View, read,
};

/// A state in which something is written and let go of between a reader's look at the bucket and its
/// look at the key, once.
struct Passing {
    before: MapView,
    after: MapView,
    passed: RefCell<bool>,
    /// What is announced as the floor, whatever the bucket's row says.
    announced: Option<Revision>,
    looks: Cell<usize>,
}

impl Passing {
    fn now(&self) -> &MapView {
        if *self.passed.borrow() { &self.after } else { &self.before }
    }
}

impl View for Passing {
    fn bucket(&self, project: ProjectId, name: &BucketName) -> Result<Option<BucketState>, Error> {
        self.looks.set(self.looks.get() + 1);
        if self.looks.get() > 100 {
            return Err(Error::View("a read that does not come to an end".to_owned()));
        }
        self.now().bucket(project, name)
    }

    fn version(
        &self,
        bucket: BucketNumber,
        key: &Key,
        as_of: Revision,
    ) -> Result<Option<Version>, Error> {
        *self.passed.borrow_mut() = true;
        self.now().version(bucket, key, as_of)
    }

    fn trimmed(&self, bucket: BucketNumber) -> Result<Revision, Error> {
        self.announced.map_or_else(|| self.now().trimmed(bucket), Ok)
    }

    fn base(&self) -> Result<Revision, Error> {
        self.now().base()
    }

    fn next_bucket(&self) -> Result<BucketNumber, Error> {
        self.now().next_bucket()
    }

    fn head(&self, bucket: BucketNumber, key: &Key) -> Result<Option<Head>, Error> {
        self.now().head(bucket, key)
    }

    fn due(&self, until_ms: u64, limit: usize) -> Result<Vec<Due>, Error> {
        self.now().due(until_ms, limit)
    }

    fn kept_answer(
        &self,
        project: ProjectId,
        name: &BucketName,
        key: &IdempotencyKey,
    ) -> Result<Option<KeptAnswer>, Error> {
        self.now().kept_answer(project, name, key)
    }

    fn kept_name(
        &self,
        project: ProjectId,
        name: &BucketName,
        sequence: u64,
    ) -> Result<Option<KeptName>, Error> {
        self.now().kept_name(project, name, sequence)
    }

    fn kept_range(&self, project: ProjectId, name: &BucketName) -> Result<KeptRange, Error> {
        self.now().kept_range(project, name)
    }

    fn walk_keys(
        &self,
        bucket: BucketNumber,
        walk: &KeyWalk,
        visit: &mut dyn FnMut(PassedKey) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        self.now().walk_keys(bucket, walk, visit)
    }

    fn claim_key(&self, bucket: BucketNumber, id: StatementId) -> Result<Option<ClaimKey>, Error> {
        self.now().claim_key(bucket, id)
    }

    fn claim(&self, bucket: BucketNumber, key: &ClaimKey) -> Result<Option<ClaimRow>, Error> {
        self.now().claim(bucket, key)
    }

    fn attested(
        &self,
        bucket: BucketNumber,
        key: &ClaimKey,
        agent: &AgentId,
    ) -> Result<bool, Error> {
        self.now().attested(bucket, key, agent)
    }

    fn scan_claims(
        &self,
        bucket: BucketNumber,
        order: &ClaimOrder,
        start: &ClaimStart,
        visit: &mut dyn FnMut(ClaimRow) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        self.now().scan_claims(bucket, order, start, visit)
    }
}

#[test]
fn a_read_that_a_floor_passes_by_is_asked_again_or_refused_and_never_misses_a_version() {
    let mut run = Run::new(MapView::default());
    run.put(b"k", b"1");
    run.put(b"other", b"2");
    let before = run.replica.clone();
    run.put(b"k", b"3");
    run.compact(3);
    let view = || Passing {
        before: before.clone(),
        after: run.replica.clone(),
        passed: RefCell::new(false),
        announced: None,
        looks: Cell::new(0),
    };
    // What was the newest revision is below the floor by now: the state is looked at anew.
    let ask = |as_of| read(&view(), run.project, &run.bucket, &Read::Get { key: key(b"k"), as_of });
    let ReadAnswer::Value { revision, version } = ask(None).unwrap() else { panic!() };
    assert_eq!((revision, &version.unwrap().value[..]), (Revision(3), &b"3"[..]));
    // Who wants that very revision is told that it is gone, and not that there was no such key.
    let gone = ReadAnswer::Compacted { revision: Revision(3) };
    assert_eq!(ask(Some(Revision(2))).unwrap(), gone);
}

#[test]
fn a_floor_that_is_announced_and_not_written_neither_holds_a_read_up_nor_changes_its_answer() {
    let mut run = Run::new(MapView::default());
    run.put(b"k", b"1");
    run.put(b"k", b"2");
    run.compact(1);
    let (before, after) = (run.replica.clone(), run.replica.clone());
    let (passed, looks) = (RefCell::new(false), Cell::new(0));
    let mut view = Passing { before, after, passed, announced: Some(Revision(9)), looks };
    for as_of in [None, Some(Revision(1)), Some(Revision(2))] {
        let read = read(&view, run.project, &run.bucket, &Read::Get { key: key(b"k"), as_of });
        let ReadAnswer::Value { revision, version } = read.unwrap() else { panic!("{as_of:?}") };
        let wanted = as_of.unwrap_or(Revision(2));
        assert_eq!(revision, wanted);
        assert_eq!(version.unwrap().value, wanted.0.to_string().into_bytes());
    }
    // A row that contradicts itself is told of, and not asked for ever.
    for state in view.after.buckets.values_mut().chain(view.before.buckets.values_mut()) {
        state.compacted = Revision(9);
    }
    let read = read(&view, run.project, &run.bucket, &Read::Get { key: key(b"k"), as_of: None });
    assert!(matches!(read, Err(Error::Contradiction(_))), "{read:?}");
}
