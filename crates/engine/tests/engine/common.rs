//! A store in a folder of its own, and a group in it as a replica of the suite.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use stemedb_engine::{Budget, Group, Range, RocksStore, export};
use stemedb_machine::shard::Change;
use stemedb_machine::shard::suite::Replica;
use stemedb_types::GroupId;
use tempfile::TempDir;

/// What a store of a test has in common with the one in its field `store`.
macro_rules! as_its_store_does {
    () => {
        fn get(&self, row: &stemedb_engine::Row) -> Result<Option<bytes::Bytes>, Error> {
            self.store.get(row)
        }
        fn seeker(&self, range: &Range) -> Box<dyn stemedb_engine::Seeker + '_> {
            self.store.seeker(range)
        }
        fn frozen(&self, range: &Range) -> Box<dyn stemedb_engine::Cursor + '_> {
            self.store.frozen(range)
        }
        fn disk_bytes(&self) -> u64 {
            self.store.disk_bytes()
        }
        fn approximate_bytes(&self, range: &Range) -> u64 {
            self.store.approximate_bytes(range)
        }
        fn floors(&self) -> &stemedb_engine::Floors {
            self.store.floors()
        }
        fn free_bytes(&self) -> Result<u64, Error> {
            self.store.free_bytes()
        }
        fn health(&self) -> stemedb_engine::Health {
            self.store.health()
        }
        fn reopen(&self) -> Result<(), Error> {
            self.store.reopen()
        }
        fn scrub(&self, range: &Range, pace: stemedb_engine::Pace<'_>) -> Result<u64, Error> {
            self.store.scrub(range, pace)
        }
    };
}
pub(crate) use as_its_store_does;

pub(crate) fn budget() -> Budget {
    Budget { block_cache_bytes: 1 << 20, write_buffer_bytes: 1 << 20, ..Budget::default() }
}

pub(crate) fn open(dir: &Path) -> Arc<RocksStore> {
    Arc::new(RocksStore::open(dir, budget()).unwrap())
}

pub(crate) fn group(dir: &Path, number: u32) -> Group {
    Group::open(open(dir), GroupId(number)).unwrap()
}

/// A group that counts its commits in the applied mark.
pub(crate) struct Counted {
    pub(crate) group: Group,
    pub(crate) commits: u64,
    /// Flush after each so many commits.
    pub(crate) flush_every: u64,
    /// Compact after each so many commits, flushed before.
    pub(crate) compact_every: u64,
    pub(crate) store: Option<Arc<RocksStore>>,
    /// Gone when the test is.
    pub(crate) _dir: Option<TempDir>,
}

impl Counted {
    pub(crate) fn over(group: Group) -> Self {
        Self {
            group,
            commits: 0,
            flush_every: u64::MAX,
            compact_every: u64::MAX,
            store: None,
            _dir: None,
        }
    }

    /// In a new folder, flushed now and then so that rows come from files and memory.
    pub(crate) fn fresh() -> Self {
        let dir = TempDir::new().unwrap();
        let store = open(dir.path());
        let group = Group::open(store.clone(), GroupId(3)).unwrap();
        Self { flush_every: 7, store: Some(store), _dir: Some(dir), ..Self::over(group) }
    }
}

impl Replica for Counted {
    type View = Group;

    fn write(&mut self, changes: &[Change]) {
        self.commits += 1;
        let mut batch = self.group.batch();
        changes.iter().for_each(|change| batch.put_change(change));
        self.group.commit(batch, mark(self.commits)).unwrap();
        if self.commits.is_multiple_of(self.flush_every) {
            self.group.store().flush().unwrap();
        }
        // Often in a short transcript, now and then in a long one.
        let often = self.commits < 200 || self.commits.is_multiple_of(500);
        if often && self.commits.is_multiple_of(self.compact_every) {
            self.compact();
        }
    }

    fn view(&self) -> &Group {
        &self.group
    }
}

impl Counted {
    /// Lets filters drop all they may: floors become durable, then everything is compacted.
    pub(crate) fn compact(&self) {
        self.group.store().flush().unwrap();
        self.group.durable_applied().unwrap();
        self.store.as_ref().unwrap().compact().unwrap();
    }
}

/// How many rows of every kind the whole store holds, dead ones too.
pub(crate) fn rows(group: &Group) -> usize {
    let mut rows = 0;
    let all = Range::between(&[], &[0xff; 16]);
    group
        .store()
        .scan(&all, false, &mut |_, _| {
            rows += 1;
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    rows
}

pub(crate) fn mark(commits: u64) -> Vec<u8> {
    commits.to_be_bytes().to_vec()
}

/// How many commits a mark tells of.
pub(crate) fn commits(mark: Option<bytes::Bytes>) -> Option<u64> {
    mark.map(|mark| u64::from_be_bytes(mark.as_ref().try_into().unwrap()))
}

/// All rows of a group, as it would send them.
pub(crate) fn chunks(group: &Group) -> Vec<bytes::Bytes> {
    let mut chunks = Vec::new();
    export(group, &mut |chunk| {
        chunks.push(chunk);
        std::ops::ControlFlow::Continue(())
    })
    .unwrap();
    chunks
}

/// What a process that was killed now would leave: the files as they stand.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_name() == "trash" {
            // Nothing of it is needed, and it goes on being emptied.
        } else if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}
