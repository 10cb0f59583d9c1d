//! Hard-linked copies of a store's directory, taken behind a flush: where a crash may go back to.

use std::fs;
use std::path::{Path, PathBuf};

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
        link(store, &dir);
        self.all.push(Copy { dir, durable });
    }

    /// Forgets all copies but those from `index` on.
    pub(super) fn forget_before(&mut self, index: usize) {
        for gone in self.all.drain(..index) {
            fs::remove_dir_all(gone.dir).unwrap();
        }
    }
}

/// Tables never change, so they are linked; the rest is short and copied. RocksDB may be at work
/// beside: only a copy during which the list of tables stayed the same is one moment of it.
pub(super) fn link(store: &Path, to: &Path) {
    let (from, rocks) = (store.join("rocks"), to.join("rocks"));
    fs::create_dir_all(&rocks).unwrap();
    fs::copy(store.join("FORMAT"), to.join("FORMAT")).unwrap();
    loop {
        link_tables(&from, &rocks);
        let before = lists(&from);
        link_tables(&from, &rocks);
        if lists(&from) == before {
            for (name, bytes) in before {
                fs::write(rocks.join(name), bytes).unwrap();
            }
            return;
        }
    }
}

fn link_tables(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let name = entry.unwrap().file_name();
        if name.to_string_lossy().ends_with(".sst") {
            // Deleted meanwhile, or linked before: both are fine.
            let _ = fs::hard_link(from.join(&name), to.join(&name));
        }
    }
}

/// What says which tables count.
fn lists(from: &Path) -> Vec<(String, Vec<u8>)> {
    let mut lists = Vec::new();
    for entry in fs::read_dir(from).unwrap() {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        let counts = ["MANIFEST", "CURRENT", "IDENTITY", "OPTIONS"];
        if counts.iter().any(|begin| name.starts_with(begin))
            && let Ok(bytes) = fs::read(from.join(&name))
        {
            lists.push((name, bytes));
        }
    }
    lists.sort();
    lists
}
