//! Our log as a writer sees it: a stream for each, and three ways to wait.
//!
//! A thread either blocks in `append_durable`, or appends with a completion and sleeps until
//! that is called. Or the writer is a task, which the completion wakes: that is the door that the
//! Raft log goes through, and what a node's groups are.
//!
//! Streams are purged as they grow, as a Raft log is behind its snapshots, so segments are
//! recycled. The purge travels with the next append and is not waited for.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Thread};

use anyhow::{Result, bail};
use bytes::Bytes;
use stemedb_wal::{Error, Options, StreamId, Wal};
use tokio::sync::oneshot;

use crate::durable::{Log, TaskWriter, Writer};

/// A stream is purged each time it has grown by so many records.
pub(crate) const PURGE_RECORDS: u64 = 1000;

/// How a writer waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// In `append_durable`.
    Blocked,
    /// For its completion.
    Completion,
}

/// An open log.
pub(crate) struct OurLog {
    wal: Wal,
    wait: Wait,
}

impl OurLog {
    /// Opens one with its defaults.
    ///
    /// # Errors
    /// The disk refused.
    pub(crate) fn open(dir: &Path, wait: Wait) -> Result<Self> {
        Ok(OurLog { wal: Wal::open(dir, Options::default())?.0, wait })
    }
}

impl OurLog {
    /// The hand of one writer that is a task.
    pub(crate) fn task_writer(&self, number: u64) -> OurTaskWriter {
        OurTaskWriter { wal: self.wal.clone(), stream: StreamId(number + 1), index: 0 }
    }
}

/// A task's hand on the log.
pub(crate) struct OurTaskWriter {
    wal: Wal,
    stream: StreamId,
    index: u64,
}

impl TaskWriter for OurTaskWriter {
    async fn append(&mut self, record: &[u8]) -> Result<()> {
        self.index += 1;
        if self.index.is_multiple_of(PURGE_RECORDS) {
            self.wal.purge_to(self.stream, self.index - 1, Bytes::new(), None)?;
        }
        let (payload, (tell, told)) = (Bytes::copy_from_slice(record), oneshot::channel());
        let done = Box::new(move |result| drop(tell.send(result)));
        // So few writers never fill the queue.
        self.wal.append(self.stream, self.index, vec![payload], done)?;
        Ok(told.await??)
    }
}

struct OurWriter<'a> {
    log: &'a OurLog,
    stream: StreamId,
    index: u64,
    slot: Arc<Slot>,
}

/// Where a writer sleeps.
struct Slot {
    thread: Thread,
    done: AtomicBool,
    failed: AtomicBool,
}

impl Log for OurLog {
    fn writer(&self, number: u64) -> Result<Box<dyn Writer + '_>> {
        let (done, failed) = (AtomicBool::new(false), AtomicBool::new(false));
        let slot = Arc::new(Slot { thread: thread::current(), done, failed });
        Ok(Box::new(OurWriter { log: self, stream: StreamId(number + 1), index: 0, slot }))
    }
}

impl Writer for OurWriter<'_> {
    fn append(&mut self, record: &[u8]) -> Result<()> {
        self.index += 1;
        let wal = &self.log.wal;
        if self.index.is_multiple_of(PURGE_RECORDS) {
            wal.purge_to(self.stream, self.index - 1, Bytes::new(), None)?;
        }
        let payload = Bytes::copy_from_slice(record);
        match self.log.wait {
            Wait::Blocked => wal.append_durable(self.stream, self.index, vec![payload])?,
            Wait::Completion => self.append_and_sleep(payload)?,
        }
        Ok(())
    }
}

impl OurWriter<'_> {
    fn append_and_sleep(&self, payload: Bytes) -> Result<()> {
        let wal = &self.log.wal;
        loop {
            let completion = Box::new(self.slot.completion());
            match wal.append(self.stream, self.index, vec![payload.clone()], completion) {
                Err(Error::Busy) => {
                    let room = self.slot.completion();
                    wal.when_room(Box::new(move || room(Ok(()))));
                    self.slot.sleep();
                }
                result => break result?,
            }
        }
        self.slot.sleep();
        if self.slot.failed.load(Ordering::Relaxed) {
            bail!("the log failed: {}", wal.poisoned().unwrap_or_default());
        }
        Ok(())
    }
}

impl Slot {
    /// What wakes the writer.
    fn completion(self: &Arc<Self>) -> impl FnOnce(Result<(), Error>) + Send + use<> {
        let slot = self.clone();
        move |result| {
            slot.failed.store(result.is_err(), Ordering::Relaxed);
            slot.done.store(true, Ordering::Release);
            slot.thread.unpark();
        }
    }

    fn sleep(&self) {
        while !self.done.swap(false, Ordering::Acquire) {
            thread::park();
        }
    }
}
