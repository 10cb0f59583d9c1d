//! A log without threads: its owner takes the writer's part, step by step.

use std::fmt;
use std::sync::{Arc, Mutex};

#[cfg(doc)]
use crate::Wal;
use crate::shared::Shared;
use crate::writer::{self, Writer};

/// The writer of a driven log, opened by [`Wal::open_driven`].
///
/// Who runs a whole cluster on one thread, with a clock of their own, can't have a log that writes
/// when its thread happens to run. So they take the writer's part: [`Driver::step`] is one turn of
/// the writer, where and when the owner wants it. Between two steps nothing reaches the disk and
/// nobody is called back (but by [`Wal::append_durable`], which is a step itself). What a turn
/// does is the same as in a log with threads.
///
/// As long as one thread calls the log and steps it, the bytes on disk, the calls of the disk and
/// the order of completions are a function of the calls and of what the disk answers. The clock
/// is read for metrics only, and no map is walked in the order of its hashes. With more threads
/// they depend on who came first, and on whether one of them still reads a segment that is let go
/// of: such a file is removed and not recycled.
///
/// What it costs: nobody makes segments ahead, so `spare_segments` must be 0. A new segment is a
/// recycled one or is filled on the spot, inside a step; and any disk error met in doing so ends
/// the log, want of space too (appends are never refused with `Full`). Nobody lingers for callers
/// that block. So it is not for a node in earnest.
///
/// It must not get lost while the log is in use: once it is dropped nothing is written any more,
/// what was queued is dropped without being called, as if the process had died, and changes answer
/// `Poisoned`. To let go of the log in peace: close it, step until nothing is left, drop the driver.
pub struct Driver {
    shared: Arc<Shared>,
    writer: Arc<Mutex<Writer>>,
}

impl Driver {
    pub(crate) fn new(shared: Arc<Shared>, writer: Arc<Mutex<Writer>>) -> Self {
        Self { shared, writer }
    }

    /// One turn of the writer, on this thread. The first lets go of segments that were needed no
    /// more when the log was opened. Each later one writes all that is queued, if somebody waits
    /// for it, syncs it, and calls the completions and those that wait for room. Once the log is
    /// closed and its queue empty, the last one writes the batch that ends it.
    ///
    /// False: there was nothing to do, or a step is under way, on another thread or around this
    /// call.
    pub fn step(&self) -> bool {
        writer::step(&self.shared, &self.writer)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.shared.abandon();
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").field("wal_id", &self.shared.wal_id).finish_non_exhaustive()
    }
}
