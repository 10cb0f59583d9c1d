//! raft-engine as a writer sees it: a Raft group for each, `write` with `sync` set.
//!
//! Its options are its defaults. Groups are compacted as they grow, in the same batch as an
//! append. The first eight bytes of a record stand for the entry's index, which is no more than
//! what its other users have in their entries.

use std::path::Path;

use anyhow::Result;
use protobuf::well_known_types::BytesValue;
use raft_engine::{Command, Config, Engine, LogBatch, MessageExt};

use crate::durable::{Log, Writer};
use crate::log_wal::PURGE_RECORDS;

/// An open engine.
pub(crate) struct RaftEngineLog(Engine);

impl RaftEngineLog {
    /// Opens one with its defaults.
    ///
    /// # Errors
    /// The disk refused.
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let dir = dir.to_string_lossy().into_owned();
        Ok(RaftEngineLog(Engine::open(Config { dir, ..Config::default() })?))
    }
}

/// Entries that carry their index in front.
struct Indexed;

impl MessageExt for Indexed {
    type Entry = BytesValue;

    fn index(entry: &BytesValue) -> u64 {
        entry.value.first_chunk().map_or(0, |index| u64::from_le_bytes(*index))
    }
}

struct GroupWriter<'a> {
    engine: &'a Engine,
    group: u64,
    index: u64,
}

impl Log for RaftEngineLog {
    fn writer(&self, number: u64) -> Result<Box<dyn Writer + '_>> {
        Ok(Box::new(GroupWriter { engine: &self.0, group: number + 1, index: 0 }))
    }
}

impl Writer for GroupWriter<'_> {
    fn append(&mut self, record: &[u8]) -> Result<()> {
        self.index += 1;
        let mut entry = BytesValue { value: record.to_vec(), ..BytesValue::default() };
        if let Some(front) = entry.value.first_chunk_mut() {
            *front = self.index.to_le_bytes();
        }
        let mut batch = LogBatch::default();
        batch.add_entries::<Indexed>(self.group, &[entry])?;
        if self.index.is_multiple_of(PURGE_RECORDS) {
            batch.add_command(self.group, Command::Compact { index: self.index });
        }
        self.engine.write(&mut batch, true)?;
        Ok(())
    }
}
