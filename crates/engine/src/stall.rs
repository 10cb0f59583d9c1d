//! Writes that RocksDB is behind for, waited for outside of it.
//!
//! A write that RocksDB holds up waits at the head of its queue of writers. Should the flush that it waits for
//! find the volume full, the recovery from that queues up behind it, and both wait for ever (seen with 11.8.1).
//! So every write is refused instead, and asked again here.
//!
//! RocksDB is behind in two ways. *Stopped*, it takes nothing until a flush or a compaction has ended.
//! *Slowed*, it takes so many bytes a second; each try that is refused moves the time of the next one on by as
//! long as the last write's bytes take at that rate. So only waits that grow come to an end, and only one
//! writer tries at a time: the others wait for its turn to end.
//!
//! RocksDB could tell its listeners when either ends, but the crate has none: so it is asked, every few
//! milliseconds, which costs far less than a try.

use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use rocksdb::properties::{ACTUAL_DELAYED_WRITE_RATE, IS_WRITE_STOPPED, PropName};
use rocksdb::{ErrorKind, WriteOptions};

use crate::rocks::{Open, batch_of};
use crate::store::Rows;
use crate::{Error, io};

/// Between two looks whether RocksDB is still behind.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// The first wait of a write that is slowed down; doubled for each try.
const SLOWED_WAIT_MIN: Duration = Duration::from_millis(1);

/// How rows are written: not logged, and refused rather than held up.
pub(crate) fn write_options() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.disable_wal(true);
    options.set_memtable_insert_hint_per_batch(true);
    options.set_no_slowdown(true);
    options
}

/// Whether RocksDB refused a write for being behind, and for no error.
pub(crate) fn stalled(cause: &rocksdb::Error) -> bool {
    cause.kind() == ErrorKind::Incomplete && cause.as_ref().contains("Write stall")
}

/// The turn of the one writer that tries again.
#[derive(Default)]
pub(crate) struct Turn(Mutex<()>);

impl Turn {
    fn is_taken(&self) -> bool {
        matches!(self.0.try_lock(), Err(TryLockError::WouldBlock))
    }

    fn take(&self) -> MutexGuard<'_, ()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    /// See [`crate::Store::write`].
    pub(crate) fn write(&self, rows: &Rows) -> Result<(), Error> {
        match self.write_now(rows) {
            Err(Error::Behind) => {}
            written => return written,
        }
        let _turn = self.turn.take();
        let mut wait = SLOWED_WAIT_MIN;
        loop {
            self.wait_while_stopped()?;
            match self.try_write(rows) {
                Err(Error::Behind) => self.wait_while_slowed(wait),
                written => return written,
            }
            wait = wait.saturating_mul(2);
        }
    }

    /// See [`crate::Store::write_now`].
    pub(crate) fn write_now(&self, rows: &Rows) -> Result<(), Error> {
        if self.turn.is_taken() { Err(Error::Behind) } else { self.try_write(rows) }
    }

    fn try_write(&self, rows: &Rows) -> Result<(), Error> {
        let written = self.db.write_opt(batch_of(rows), &self.write_options);
        written.map_err(|cause| if stalled(&cause) { Error::Behind } else { io("write", cause) })
    }

    /// Fails with what stopped it for good: a full volume, a broken disk.
    fn wait_while_stopped(&self) -> Result<(), Error> {
        while self.says(IS_WRITE_STOPPED) {
            if let Some(cause) = self.stopped() {
                return Err(io("write", cause));
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
        Ok(())
    }

    fn wait_while_slowed(&self, wait: Duration) {
        let begun = Instant::now();
        loop {
            let left = wait.saturating_sub(begun.elapsed());
            std::thread::sleep(left.clamp(SLOWED_WAIT_MIN, LOOK_INTERVAL));
            if left <= LOOK_INTERVAL || !self.says(ACTUAL_DELAYED_WRITE_RATE) {
                return;
            }
        }
    }

    fn says(&self, property: &PropName) -> bool {
        matches!(self.db.property_int_value(property), Ok(Some(1..)))
    }
}
