//! What the log knows to be committed and the store lacks is applied before openraft starts.
//!
//! openraft would do it itself, within its start: 64 entries at a time, on a
//! thread that others need, and without a word of how far it is. Here a thread
//! reads and decodes ahead, another one applies long runs (a batch and a view of
//! the store each, so few of them), and [`Replay`] counts. openraft then finds
//! nothing left to apply. Where the log does not have what the store lacks, nothing
//! is done: openraft looks again and says why it can't start.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use openraft::entry::RaftEntry;
use stemedb_types::GroupId;

use crate::applier::Applier;
use crate::log_store::LogStore;
use crate::types::Entry;

/// About how many bytes of entries are applied in one run: long enough that what a run costs does
/// not count, short enough that what it has read before stays in the processor's caches.
const RUN_BYTES: usize = 1 << 20;
/// Runs read ahead of the one that is applied.
const RUNS_AHEAD: usize = 3;

/// How far the replay of a node's groups has come. Cheap to clone, clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Replay {
    groups: Arc<Mutex<BTreeMap<GroupId, Count>>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    done: u64,
    total: u64,
}

impl Replay {
    /// Log entries applied again so far, and in all as far as is known: a group is counted once
    /// its opening has begun.
    pub fn entries(&self) -> (u64, u64) {
        let groups = self.groups();
        let sum = |of: fn(&Count) -> u64| groups.values().map(of).sum();
        (sum(|count| count.done), sum(|count| count.total))
    }

    pub(crate) fn begin(&self, group: GroupId, total: u64) {
        self.groups().insert(group, Count { done: 0, total });
    }

    fn advance(&self, group: GroupId, entries: u64) {
        if let Some(count) = self.groups().get_mut(&group) {
            count.done += entries;
        }
    }

    fn groups(&self) -> MutexGuard<'_, BTreeMap<GroupId, Count>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The entries that the log knows to be committed and the store lacks; empty if the log does not
/// have the first of them.
pub(crate) fn missing(log: &LogStore, applier: &Applier) -> io::Result<Range<u64>> {
    let start = applier.last_index().map_or(0, |last| last + 1);
    let committed = log.committed()?.map_or(0, |committed| committed.index() + 1);
    let held = log.held();
    if !held.contains(&start) {
        return Ok(0..0);
    }
    Ok(start..committed.min(held.end).max(start))
}

/// Applies a range of entries, from [`missing`]. Blocks for as long as that takes, or until the
/// replica stops.
pub(crate) fn replay(
    log: &LogStore,
    applier: &mut Applier,
    entries: Range<u64>,
    progress: &Replay,
) -> io::Result<()> {
    if entries.is_empty() {
        return Ok(());
    }
    let group = applier.group();
    thread::scope(|scope| {
        let (ahead, runs) = sync_channel(RUNS_AHEAD);
        scope.spawn(move || read_ahead(log, entries, &ahead));
        // A run that fails drops the receiver, and with it the reader's reason to go on.
        for run in runs {
            let run: Vec<Entry> = run?;
            applier.check_closing()?;
            apply_patiently(applier, &run)?;
            progress.advance(group, run.len() as u64);
        }
        Ok(())
    })
}

/// Applies a run; if the store is full, once there is room.
fn apply_patiently(applier: &mut Applier, run: &[Entry]) -> io::Result<()> {
    loop {
        match applier.apply_run(run) {
            Ok(_) => return Ok(()),
            Err(error) if applier.is_full() => {
                tracing::warn!(%error, "the store is full; the replay waits");
                applier.sleep_for_room()?;
            }
            Err(error) => return Err(error),
        }
    }
}

fn read_ahead(log: &LogStore, entries: Range<u64>, runs: &SyncSender<io::Result<Vec<Entry>>>) {
    let mut next = entries.start;
    while next < entries.end {
        let run = log.read(next, entries.end, RUN_BYTES);
        match run.as_ref().map(|run| run.last().map(|last| last.log_id().index())) {
            Ok(Some(last)) => next = last + 1,
            // The log ends early: openraft will say so.
            Ok(None) => return,
            Err(_) => next = entries.end,
        }
        if runs.send(run).is_err() {
            return;
        }
    }
}
