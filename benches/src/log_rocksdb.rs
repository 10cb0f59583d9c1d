//! RocksDB as a log: a put of a new key, with `sync` set.
//!
//! Its options are its defaults. Keys are the writer's number and a count, so each writer's are
//! in order, as a log's would be.

use std::path::Path;

use anyhow::Result;
use rocksdb::{DB, Options, WriteOptions};

use crate::durable::{Log, Writer};

/// An open database.
pub(crate) struct RocksdbLog(DB);

impl RocksdbLog {
    /// Opens one with its defaults.
    ///
    /// # Errors
    /// The disk refused.
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let mut options = Options::default();
        options.create_if_missing(true);
        Ok(RocksdbLog(DB::open(&options, dir)?))
    }
}

struct KeyWriter<'a> {
    db: &'a DB,
    options: WriteOptions,
    number: u64,
    count: u64,
}

impl Log for RocksdbLog {
    fn writer(&self, number: u64) -> Result<Box<dyn Writer + '_>> {
        let mut options = WriteOptions::default();
        options.set_sync(true);
        Ok(Box::new(KeyWriter { db: &self.0, options, number, count: 0 }))
    }
}

impl Writer for KeyWriter<'_> {
    fn append(&mut self, record: &[u8]) -> Result<()> {
        self.count += 1;
        let mut key = [0; 16];
        key[..8].copy_from_slice(&self.number.to_be_bytes());
        key[8..].copy_from_slice(&self.count.to_be_bytes());
        Ok(self.db.put_opt(key, record, &self.options)?)
    }
}
