//! A group's log is a stream of the node's WAL.
//!
//! Entries are the stream's records, by their index. The vote and the
//! committed id are marks of the stream and ride the same queue, so that
//! vote and log are never reordered. What was purged is the stream's purge note,
//! and so outlives the entries it speaks of.
//!
//! `append` returns once the entries are readable; openraft's callback is fired by
//! the WAL's writer, in order, behind the sync. The stream's number is the
//! replica's id, which is never used twice: a replica that returns to a node
//! finds none of its old records.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, RaftLogReader};
use stemedb_types::{DecodeError, ReplicaId};
use stemedb_wal::planted::{self, Bug};
use stemedb_wal::{Completion, StreamId, Wal};
use tokio::sync::oneshot;

use crate::closing::Closing;
use crate::codec::{
    decode_log_id, decode_record, decode_record_term, decode_vote, encode_generation,
    encode_log_id, encode_record, encode_vote,
};
use crate::damage::Damages;
use crate::space::Space;
use crate::synced::Synced;
use crate::types::{Config, Entry, LogId, Vote, log_id};

pub(crate) const MARK_VOTE: u8 = 1;
pub(crate) const MARK_COMMITTED: u8 = 2;
/// Which generation of the store's rows the log goes with.
pub(crate) const MARK_GENERATION: u8 = 3;

/// Most bytes of entries read in one go.
const READ_BYTES_MAX: usize = 4 << 20;
/// Entries sent to a follower in one message, once they are so many bytes. They are read, and there decoded
/// and applied, on the one thread that also serves callers.
const SENT_BYTES_MAX: usize = 256 << 10;

/// The log of one replica.
#[derive(Clone)]
pub(crate) struct LogStore {
    wal: Wal,
    stream: StreamId,
    damages: Damages,
    space: Space,
    /// A vote that is written too late, where that mistake is planted.
    late_vote: Option<Bytes>,
    closing: Closing,
    installed: Installed,
    synced: Synced,
}

/// The snapshot that was installed last, until the log is purged behind it: the index it ends at,
/// and the generation of its rows. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Installed(Arc<Mutex<Option<(u64, u32)>>>);

impl Installed {
    pub(crate) fn set(&self, last: u64, generation: u32) {
        *self.lock() = Some((last, generation));
    }

    /// The generation of a snapshot that a log purged up to `upto` begins behind.
    fn covered(&self, upto: u64) -> Option<u32> {
        self.lock().take_if(|(last, _)| *last <= upto).map(|(_, generation)| generation)
    }

    fn lock(&self) -> MutexGuard<'_, Option<(u64, u32)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogStore {
    /// The log of this replica, as the WAL holds it.
    pub(crate) fn new(wal: Wal, replica: ReplicaId, space: Space, damages: Damages) -> Self {
        let (closing, installed, synced) = Default::default();
        let stream = StreamId(replica.0);
        Self { wal, stream, space, damages, late_vote: None, closing, installed, synced }
    }

    /// The same, which waits for nothing any more once the replica stops.
    pub(crate) fn until(self, closing: Closing) -> Self {
        Self { closing, ..self }
    }

    /// Where the state machine says which snapshot it has installed.
    pub(crate) fn installed(&self) -> Installed {
        self.installed.clone()
    }

    /// Where the state machine finds out what is synced.
    pub(crate) fn synced(&self) -> Synced {
        self.synced.clone()
    }

    /// An error on its way to openraft, which knows no kinds of them.
    fn told(&self, error: stemedb_wal::Error) -> io::Error {
        let error = io::Error::other(error);
        self.damages.note(&error);
        error
    }

    /// The last entry this replica knew to be committed.
    pub(crate) fn committed(&self) -> io::Result<Option<LogId>> {
        self.mark(MARK_COMMITTED).map(|bytes| decode_log_id(&bytes).map_err(corrupt)).transpose()
    }

    /// The indexes of the entries that are there.
    pub(crate) fn held(&self) -> Range<u64> {
        let bounds = self.wal.bounds(self.stream);
        match (bounds.first, bounds.last) {
            (Some(first), Some(last)) => first..last.saturating_add(1),
            _ => 0..0,
        }
    }

    fn mark(&self, tag: u8) -> Option<Bytes> {
        self.wal.mark_value(self.stream, tag)
    }

    /// The entries that are there from `start` on, up to `end` and about `bytes_max`; at least one
    /// if there is one.
    pub(crate) fn read(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let held = self.held();
        let range = start.max(held.start)..end.min(held.end);
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let from = range.start;
        let records = self.wal.entries(self.stream, range, bytes_max);
        let records = records.map_err(|error| self.told(error))?;
        let entry = |(index, record): (u64, Bytes)| decode_record(index, &record).map_err(corrupt);
        (from..).zip(records).map(entry).collect()
    }
}

fn corrupt(cause: DecodeError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, cause)
}

type Finished = Result<(), stemedb_wal::Error>;

impl LogStore {
    /// Queues an operation, waiting for room if the WAL has none, until the replica stops: an
    /// error would end the group, and a full queue or disk is no reason for that. `then` is told
    /// when it is durable.
    async fn queue(
        &self,
        then: impl FnOnce(Finished) + Send + 'static,
        operation: impl Fn(&Wal, Completion) -> Finished + Sync,
    ) -> io::Result<()> {
        // A refused operation drops its completion uncalled, so what it would call is kept here.
        let then = Arc::new(Mutex::new(Some(then)));
        loop {
            let once = then.clone();
            let completion = Box::new(move |finished: Finished| {
                let then = once.lock().unwrap_or_else(PoisonError::into_inner).take();
                if let Some(then) = then {
                    then(finished);
                }
            });
            match operation(&self.wal, completion) {
                Err(stemedb_wal::Error::Busy) => {
                    let (call, room) = oneshot::channel();
                    self.wal.when_room(Box::new(move || {
                        let _ = call.send(());
                    }));
                    let _ = self.closing.unless(room).await?;
                }
                Err(stemedb_wal::Error::Full) => self.closing.unless(self.space.wait()).await?,
                result => return result.map_err(|error| self.told(error)),
            }
        }
    }

    /// Queues an operation and waits until it is durable, or the replica stops.
    async fn durably(
        &self,
        operation: impl Fn(&Wal, Completion) -> Finished + Sync,
    ) -> io::Result<()> {
        let (done, wait) = oneshot::channel();
        self.queue(move |finished| drop(done.send(finished)), operation).await?;
        // On a full disk the log's writer itself may wait.
        match self.closing.unless(wait).await? {
            Ok(finished) => finished.map_err(io::Error::other),
            Err(_) => Err(io::Error::other("the log's writer is gone")),
        }
    }
}

fn bounds_of(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

impl RaftLogReader<Config> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        let (start, end) = bounds_of(&range);
        let mut entries: Vec<Entry> = Vec::new();
        let mut next = start;
        loop {
            let more = self.read(next, end, READ_BYTES_MAX)?;
            let Some(last) = more.last() else { return Ok(entries) };
            next = last.log_id.index() + 1;
            entries.extend(more);
        }
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        self.mark(MARK_VOTE).map(|bytes| decode_vote(&bytes).map_err(corrupt)).transpose()
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        // Purged meanwhile: to begin further on would send a follower a log with a hole in it.
        // Nothing makes openraft look again, and then it sends the snapshot.
        if self.wal.bounds(self.stream).first.is_some_and(|first| start < first) {
            return Ok(Vec::new());
        }
        self.read(start, end, SENT_BYTES_MAX)
    }
}

impl RaftLogStorage<Config> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Config>> {
        let bounds = self.wal.bounds(self.stream);
        let purged = match bounds.purged {
            None => None,
            Some((_, note)) => Some(decode_log_id(&note).map_err(corrupt)?),
        };
        let last = match bounds.last {
            None => purged,
            Some(index) => {
                let records = self
                    .wal
                    .entries(self.stream, index..index + 1, usize::MAX)
                    .map_err(|error| self.told(error))?;
                let record = records.first();
                let term = record.map(|record| decode_record_term(record).map_err(corrupt));
                term.transpose()?.map(|term| log_id(term, index))
            }
        };
        Ok(LogState { last_purged_log_id: purged, last_log_id: last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let (stream, vote) = (self.stream, encode_vote(vote));
        if planted::has(Bug::VoteNotPersisted) {
            return Ok(());
        }
        if planted::has(Bug::VoteReordered) {
            self.late_vote = Some(vote);
            return Ok(());
        }
        self.durably(|wal, done| wal.mark(stream, MARK_VOTE, vote.clone(), Some(done))).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        // Not worth a sync of its own: it travels with the next one.
        let Some(committed) = committed else { return Ok(()) };
        match self.wal.mark(self.stream, MARK_COMMITTED, encode_log_id(&committed), None) {
            // Losing one costs a restart a little replay that waits for the leader.
            Ok(()) | Err(stemedb_wal::Error::Busy) => Ok(()),
            Err(error) => Err(self.told(error)),
        }
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        self.committed()
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Config>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let mut first = None;
        let mut records = Vec::new();
        for entry in entries {
            first.get_or_insert(entry.log_id().index());
            records.push(encode_record(&entry));
        }
        let Some(first) = first else {
            callback.io_completed(Ok(()));
            return Ok(());
        };
        let (stream, synced, number) = (self.stream, self.synced.clone(), self.synced.begin(first));
        let then = move |finished: Finished| {
            synced.end(number, finished.clone().map_err(|error| error.to_string()));
            callback.io_completed(finished.map_err(io::Error::other));
        };
        self.queue(then, |wal, done| wal.append(stream, first, records.clone(), done)).await?;
        if let Some(vote) = self.late_vote.take() {
            let _ = self.wal.mark(stream, MARK_VOTE, vote, None);
        }
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let from = last.map_or(0, |last| last.index() + 1);
        let stream = self.stream;
        self.durably(|wal, done| wal.truncate_from(stream, from, done)).await
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        // Losing it in a crash only means purging again. But it must take place in this life:
        // behind an installed snapshot the next entry follows what was purged, and nothing else.
        // It asks for a sync, or a log gone quiet would keep its segments until the next write.
        let (stream, note) = (self.stream, encode_log_id(&upto));
        let ignored = |_: Finished| {};
        self.queue(ignored, |wal, done| {
            wal.purge_to(stream, upto.index(), note.clone(), Some(done))
        })
        .await?;
        // Behind the purge, never before it: whoever finds the mark finds the log cut as well, and
        // may take a log that ends before its store for one that lost something.
        let Some(generation) = self.installed.covered(upto.index()) else { return Ok(()) };
        let mark = encode_generation(generation);
        self.queue(ignored, |wal, done| wal.mark(stream, MARK_GENERATION, mark.clone(), Some(done)))
            .await
    }
}
