//! A store that shows what a kill would leave at each step.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use stemedb_engine::{Error, FileReader, Fill, Range, RocksStore, Row, Rows, Store, Visit};
use tempfile::TempDir;

use crate::common::{as_its_store_does, copy, open};

/// A store whose directory is copied, as a kill would leave it, before and after each step.
pub(crate) struct Watched {
    store: Arc<RocksStore>,
    dir: PathBuf,
    pub(crate) watching: AtomicBool,
    /// The next flush finds no room.
    pub(crate) full_once: AtomicBool,
    pub(crate) copies: Mutex<Vec<(String, TempDir)>>,
    /// Files of rows that were written for it.
    pub(crate) made: Mutex<Vec<PathBuf>>,
}

impl Watched {
    /// One in a folder, not watched yet.
    pub(crate) fn open(dir: &Path) -> Arc<Self> {
        Arc::new(Self {
            store: open(dir),
            dir: dir.to_owned(),
            watching: AtomicBool::new(false),
            full_once: AtomicBool::new(false),
            copies: Mutex::default(),
            made: Mutex::default(),
        })
    }

    fn step<T>(&self, what: &str, step: impl FnOnce() -> T) -> T {
        self.copy(&format!("before {what}"));
        let result = step();
        self.copy(&format!("after {what}"));
        result
    }

    pub(crate) fn copy(&self, what: &str) {
        if !self.watching.load(Ordering::Relaxed) {
            return;
        }
        let left = TempDir::new().unwrap();
        copy(&self.dir, left.path());
        self.copies.lock().unwrap().push((what.to_owned(), left));
    }
}

impl Store for Watched {
    as_its_store_does!();

    fn scan(&self, range: &Range, reverse: bool, visit: Visit<'_>) -> Result<(), Error> {
        self.store.scan(range, reverse, visit)
    }
    fn write(&self, rows: Rows) -> Result<(), Error> {
        self.step("writing", || self.store.write(rows))
    }
    fn durable(&self, row: &Row) -> Result<Option<Bytes>, Error> {
        self.store.durable(row)
    }
    fn flush(&self) -> Result<(), Error> {
        if self.full_once.swap(false, Ordering::Relaxed) {
            let cause = "IO error: No space left on device: While appending".to_owned();
            return Err(Error::Io { verb: "flush", cause });
        }
        self.step("flushing", || self.store.flush())
    }
    fn staging(&self) -> Result<PathBuf, Error> {
        self.step("staging", || self.store.staging())
    }
    fn write_file(&self, path: &Path, fill: Fill<'_>) -> Result<(), Error> {
        self.made.lock().unwrap().push(path.to_owned());
        self.store.write_file(path, fill)
    }
    fn read_file(
        &self,
        path: &Path,
        reader: &mut FileReader,
        visit: Visit<'_>,
    ) -> Result<(), Error> {
        self.step("checking a file", || self.store.read_file(path, reader, visit))
    }
    fn take_in(&self, files: &[PathBuf]) -> Result<(), Error> {
        self.step("taking in", || self.store.take_in(files))
    }
    fn give_up(&self, range: &Range) -> Result<(), Error> {
        self.step("sweeping", || self.store.give_up(range))
    }
}
