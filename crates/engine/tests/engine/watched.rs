//! A store that shows what a kill would leave at each step.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use stemedb_engine::{
    Cursor, Error, FileReader, Fill, Health, Pace, Range, RocksStore, Row, Rows, Seeker, Store,
    Visit,
};
use tempfile::TempDir;

use crate::common::copy;

/// A store whose directory is copied, as a kill would leave it, before and after each step.
pub(crate) struct Watched {
    pub(crate) store: Arc<RocksStore>,
    pub(crate) dir: PathBuf,
    pub(crate) watching: AtomicBool,
    /// The next flush finds no room.
    pub(crate) full_once: AtomicBool,
    pub(crate) copies: std::sync::Mutex<Vec<(String, TempDir)>>,
    /// Files of rows that were written for it.
    pub(crate) made: std::sync::Mutex<Vec<PathBuf>>,
}

impl Watched {
    pub(crate) fn step<T>(&self, what: &str, step: impl FnOnce() -> T) -> T {
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
    fn get(&self, row: &Row) -> Result<Option<Bytes>, Error> {
        self.store.get(row)
    }
    fn scan(&self, range: &Range, reverse: bool, visit: Visit<'_>) -> Result<(), Error> {
        self.store.scan(range, reverse, visit)
    }
    fn seeker(&self, range: &Range) -> Box<dyn Seeker + '_> {
        self.store.seeker(range)
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
    fn frozen(&self, range: &Range) -> Box<dyn Cursor + '_> {
        self.store.frozen(range)
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
    fn health(&self) -> Health {
        self.store.health()
    }
    fn reopen(&self) -> Result<(), Error> {
        self.store.reopen()
    }
    fn scrub(&self, range: &Range, pace: Pace<'_>) -> Result<u64, Error> {
        self.store.scrub(range, pace)
    }
}
