//! Hard-linked copies of a store's directory, taken behind a flush: where a crash may go back to.

use std::fs;
use std::path::{Path, PathBuf};

use stemedb_engine::crash_copy::crash_copy;
use tempfile::TempDir;

/// A folder for stores, in memory if there is such a place: what a crash takes is decided by the
/// copies, not by the disk, and a store syncs often.
pub(super) fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let there = memory.is_dir().then(|| TempDir::new_in(memory).ok()).flatten();
    there.unwrap_or_else(|| TempDir::new().unwrap())
}

/// A copy, and how far each group's durable mark had come when it was taken.
pub(super) struct Copy {
    pub(super) dir: PathBuf,
    pub(super) durable: Vec<u64>,
}

/// Where the copies of one seed are.
pub(super) struct Copies {
    root: TempDir,
    made: u64,
    pub(super) all: Vec<Copy>,
}

impl Copies {
    pub(super) fn new() -> Self {
        Self { root: folder(), made: 0, all: Vec::new() }
    }

    /// A directory that is not there yet.
    pub(super) fn fresh(&mut self) -> PathBuf {
        self.made += 1;
        self.root.path().join(format!("{:05}", self.made))
    }

    /// Copies `store` as a crash right now would leave it.
    pub(super) fn take(&mut self, store: &Path, durable: Vec<u64>) {
        let dir = self.fresh();
        crash_copy(store, &dir).unwrap();
        self.all.push(Copy { dir, durable });
    }

    /// Forgets all copies but those from `index` on.
    pub(super) fn forget_before(&mut self, index: usize) {
        for gone in self.all.drain(..index) {
            fs::remove_dir_all(gone.dir).unwrap();
        }
    }
}
