//! What callers and the writer share: the streams as callers see them, and the queue between.
//!
//! One mutex guards all of it and is held for a few pushes at a time, never over a disk call or
//! a callback. A call that asks to hear of its sync wakes the writer, if it sleeps; one that
//! does not is left for the next that does, or for the close.
//!
//! Who writes has the *turn*: the writer's thread as a rule, but a caller that would sleep until
//! its record is durable, and finds that nobody writes or waits, takes the turn and writes it
//! itself. That saves waking the writer and being woken by it, which takes longer than a sync on
//! a quick disk. A driven log has no thread of its own: its owner takes the turn step by step, and
//! is told when the thread would have been woken.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::disk::{Disk, File, Lock};
use crate::gate::Gates;
use crate::ledger::Location;
use crate::linger::Linger;
use crate::quarantine::Quarantine;
use crate::supply::Supply;
use crate::view::{Source, View};
use crate::{Completion, Error, Options, StreamId};

/// What a batch is reckoned at, besides its calls.
const BATCH_BYTES: u64 = 256;
/// What a queued call is reckoned at, besides its payloads.
const CALL_BYTES: usize = 64;

/// This part of a segment is kept from appends while no next one is ready.
const RESERVED_PART: u64 = 8;

/// One change, as a caller asked for it.
#[derive(Debug)]
pub(crate) enum Op {
    Append { stream: StreamId, first: u64, payloads: Vec<Bytes> },
    Mark { stream: StreamId, tag: u8, value: Bytes },
    Truncate { stream: StreamId, from: u64 },
    Purge { stream: StreamId, to: u64, note: Bytes },
    Forget { stream: StreamId },
}

/// How much a caller wants its change to be durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// It may wait for the next change that is urgent.
    Later,
    /// A completion waits for it.
    Soon,
    /// The caller sleeps until it is.
    Sleeper,
}

/// What became of a change that was not refused.
pub(crate) enum Submitted {
    /// This round will make it durable.
    Queued(u64),
    /// The caller has the turn and writes this round.
    Turn(Round),
}

/// What there is to do for who has the turn.
pub(crate) enum Work {
    /// The first thing: what an earlier process left to be let go of.
    Begin,
    Round(Round),
    /// The last thing, once: the log is closing and nothing is queued.
    End,
}

/// A round's work.
pub(crate) struct Round {
    pub(crate) number: u64,
    pub(crate) queue: Vec<Queued>,
}

/// A change on its way to the disk.
pub(crate) struct Queued {
    pub(crate) op: Op,
    pub(crate) ticket: u64,
    pub(crate) bytes: usize,
    pub(crate) done: Option<Completion>,
}

/// What the writer has made durable in one round.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// The ticket of the last call that is durable.
    pub(crate) ticket: u64,
    /// What the calls of the round were reckoned at, bytes.
    pub(crate) bytes: usize,
    pub(crate) located: Vec<(StreamId, u64, u64, Vec<Location>)>,
    pub(crate) moved: Vec<(StreamId, u64, Location, Location)>,
    /// How long the last sync took.
    pub(crate) sync: Duration,
    /// What is left of the current segment.
    pub(crate) rest_bytes: u64,
}

/// What the writer knows of the files.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) segments: u64,
    pub(crate) bytes: u64,
    pub(crate) live_bytes: u64,
}

pub(crate) type RoomCall = Box<dyn FnOnce() + Send>;
/// Tells the owner of a driven log that a step is due.
pub(crate) type Wake = Box<dyn Fn() + Send + Sync>;

#[derive(Default)]
pub(crate) struct State {
    pub(crate) streams: BTreeMap<StreamId, View>,
    pub(crate) quarantine: Quarantine,
    pub(crate) files: BTreeMap<u64, Arc<dyn File>>,
    pub(crate) poisoned: Option<Arc<str>>,
    pub(crate) figures: Figures,
    pub(crate) cached_bytes: usize,
    pub(crate) waiting_bytes: usize,
    queue: Vec<Queued>,
    /// Somebody waits for a sync, or the queue is half full.
    urgent: bool,
    closing: bool,
    /// What was left of the current segment after the last round.
    rest_bytes: u64,
    /// An append was refused since the files there are might not hold it.
    starved: bool,
    /// The round that will take what is queued.
    round: u64,
    /// Who writes, if somebody does.
    turn: Option<ThreadId>,
    /// [`Work::Begin`] and [`Work::End`] were given out.
    begun: bool,
    ended: bool,
    /// Callers that sleep until the queue is durable.
    sleepers: usize,
    /// How many did so for the last round.
    released: usize,
    linger: Linger,
    /// The writer waits until so many sleepers are back; 0 if it does not.
    awaited: usize,
    last_ticket: u64,
    durable_ticket: u64,
    /// What may be evicted, oldest first: one item per append.
    evictable: VecDeque<(StreamId, u64)>,
    room_calls: Vec<RoomCall>,
}

pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) wal_id: u64,
    pub(crate) supply: Arc<Supply>,
    state: Mutex<State>,
    wake: Condvar,
    /// Of a driven log only.
    wake_owner: Option<Wake>,
    pub(crate) gates: Gates,
    _lock: Lock,
}

impl Shared {
    pub(crate) fn new(
        options: Options,
        disk: Arc<dyn Disk>,
        lock: Lock,
        wal_id: u64,
        supply: Supply,
        state: State,
        wake_owner: Option<Wake>,
    ) -> Self {
        let (state, wake, supply) = (Mutex::new(state), Condvar::new(), Arc::new(supply));
        let gates = Gates::default();
        Self { options, disk, wal_id, supply, state, wake, wake_owner, gates, _lock: lock }
    }

    /// No thread of the log's own writes: its owner steps.
    pub(crate) fn is_driven(&self) -> bool {
        self.wake_owner.is_some()
    }

    /// There is something to do for the writer. Not to be called with the state locked.
    fn wake(&self) {
        self.wake.notify_one();
        if let Some(wake_owner) = &self.wake_owner {
            wake_owner();
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies a change to what callers see and queues it, or refuses it whole and gives it back.
    pub(crate) fn submit(
        &self,
        op: Op,
        done: Option<Completion>,
        urgency: Urgency,
    ) -> Result<Submitted, (Error, Op)> {
        let bytes = op.bytes();
        let free = self.free_for(op.longest());
        let mut state = self.state();
        if let Err(error) = state.admit(&op, bytes, free, self) {
            self.refuse(state, &error);
            return Err((error, op));
        }
        state.last_ticket += 1;
        let ticket = state.last_ticket;
        state.show(&op, ticket);
        state.waiting_bytes += bytes;
        state.queue.push(Queued { op, ticket, bytes, done });
        // Who sleeps until the owner of a driven log steps may be that owner.
        let turn_is_free = state.writer_rests() || (self.is_driven() && state.turn.is_none());
        if urgency == Urgency::Sleeper && turn_is_free {
            return Ok(Submitted::Turn(state.begin_round()));
        }
        let half_full = state.waiting_bytes >= self.options.queue_bytes_max / 2;
        let wakes = state.press(urgency, half_full);
        let round = state.round;
        drop(state);
        if wakes {
            self.wake();
        }
        Ok(Submitted::Queued(round))
    }

    /// The space there is for a record of so many bytes, beyond what other segments will take: no
    /// spare can stand in for a file that must grow. Without bound for one that fits a segment.
    pub(crate) fn free_for(&self, bytes: usize) -> u64 {
        let segment_bytes = self.options.segment_bytes;
        if bytes as u64 + BATCH_BYTES <= segment_bytes {
            return u64::MAX;
        }
        let reserve = (self.options.spare_segments as u64 + 1) * segment_bytes;
        self.disk.free_bytes().unwrap_or(u64::MAX).saturating_sub(reserve)
    }

    /// Sees to it that what was refused for now can be tried again.
    fn refuse(&self, mut state: MutexGuard<'_, State>, error: &Error) {
        match error {
            Error::Full => {
                drop(state);
                self.supply.try_again();
            }
            // The room is told of when what waits has been written, so that must not rest.
            Error::Busy if state.starved && state.press(Urgency::Soon, false) => {
                drop(state);
                self.wake();
            }
            _ => {}
        }
    }

    /// Gives the turn back, waits for work and takes it, with the turn. Only for the writer's
    /// thread: callers don't take the turn before it has begun. Nothing: the log is over.
    pub(crate) fn wait_for_work(&self) -> Option<Work> {
        let mut state = self.linger(self.state());
        state.turn = None;
        loop {
            let work = state.take_work();
            if work.is_some() || (state.turn.is_none() && state.is_over()) {
                return work;
            }
            state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes what there is to do, with the turn, if nobody else has it.
    pub(crate) fn take_work(&self) -> Option<Work> {
        self.state().take_work()
    }

    /// Whether this thread has the turn.
    pub(crate) fn has_turn(&self) -> bool {
        self.state().turn == Some(thread::current().id())
    }

    /// Waits for the sleepers that were just let go, if that is worth it.
    fn linger<'s>(&'s self, mut state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
        let (released, queued) = (std::mem::take(&mut state.released), state.sleepers);
        let Some(wait) = state.linger.plan(released, queued) else { return state };
        state.awaited = wait.sleepers;
        let end = Instant::now() + wait.at_most;
        while state.awaited != 0 && !state.closing {
            let Some(left) = end.checked_duration_since(Instant::now()) else { break };
            let woken = self.wake.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.awaited = 0;
        let queued = state.sleepers;
        state.linger.ended(wait, queued);
        state
    }

    /// Gives the turn back that a caller or the owner took.
    pub(crate) fn end_turn(&self) {
        let mut state = self.state();
        state.turn = None;
        let wakes = state.wants_writer();
        drop(state);
        if wakes {
            self.wake();
        }
    }

    /// Takes nothing more; the writer ends once the queue is empty.
    pub(crate) fn close(&self) {
        self.state().closing = true;
        self.supply.close();
        self.wake();
    }

    /// Nobody will write any more. What waits is dropped without being called, as if the process
    /// had died; who sleeps is told.
    pub(crate) fn abandon(&self) {
        let reason: Arc<str> = Arc::from("nobody drives the log any more");
        let mut state = self.state();
        if !state.is_over() {
            state.poisoned = Some(reason.clone());
        }
        let waiting = (std::mem::take(&mut state.queue), std::mem::take(&mut state.room_calls));
        drop(state);
        self.gates.fail(&reason);
        // One of them may hold the last handle, whose end locks the state.
        drop(waiting);
    }

    /// Shows callers what a round made durable. Returns the calls that waited for room.
    pub(crate) fn publish(&self, report: Report, figures: Figures) -> Vec<RoomCall> {
        let mut state = self.state();
        for (stream, ticket, first, places) in &report.located {
            if let Some(view) = state.streams.get_mut(stream) {
                view.locate(*ticket, *first, places);
            }
        }
        for (stream, index, from, to) in &report.moved {
            if let Some(view) = state.streams.get_mut(stream) {
                view.relocate(*index, *from, *to);
            }
        }
        state.durable_ticket = state.durable_ticket.max(report.ticket);
        state.waiting_bytes -= report.bytes;
        state.linger.synced(report.sync);
        state.rest_bytes = report.rest_bytes;
        state.starved = false;
        state.figures = figures;
        state.evict(self.options.tail_cache_bytes);
        if state.waiting_bytes >= self.options.queue_bytes_max {
            return Vec::new();
        }
        std::mem::take(&mut state.room_calls)
    }

    /// Takes no more writes for ever. Returns what was queued and who waited for room; the
    /// first reason stands.
    pub(crate) fn poison(&self, reason: &Arc<str>) -> (Vec<Queued>, Vec<RoomCall>) {
        let mut state = self.state();
        if state.poisoned.is_none() {
            tracing::error!(%reason, "the log takes nothing more");
            state.poisoned = Some(reason.clone());
        }
        (std::mem::take(&mut state.queue), std::mem::take(&mut state.room_calls))
    }

    /// Calls back once an append may pass the bound again: at once if it may already.
    pub(crate) fn when_room(&self, call: RoomCall) {
        let mut state = self.state();
        let refused = state.poisoned.is_some() || state.closing;
        let room = state.waiting_bytes < self.options.queue_bytes_max && !state.starved;
        if room || refused {
            drop(state);
            call();
        } else {
            state.room_calls.push(call);
        }
    }
}

impl State {
    /// The state of an idle log with these streams and files.
    pub(crate) fn new(
        streams: BTreeMap<StreamId, View>,
        files: BTreeMap<u64, Arc<dyn File>>,
        figures: Figures,
        rest_bytes: u64,
    ) -> Self {
        Self { streams, files, figures, rest_bytes, round: 1, ..Self::default() }
    }

    /// Nothing will be written any more.
    fn is_over(&self) -> bool {
        self.poisoned.is_some() || self.ended
    }

    /// There is something to do for the writer's thread, be it to end.
    fn wants_writer(&self) -> bool {
        !self.begun || self.urgent || self.closing || self.is_over()
    }

    /// Nobody writes, nor waits for the writer, nor does the writer wait for anybody.
    fn writer_rests(&self) -> bool {
        self.turn.is_none() && !self.urgent && self.awaited == 0 && self.begun && !self.closing
    }

    /// Takes what there is to do, with the turn, if it is free.
    fn take_work(&mut self) -> Option<Work> {
        if self.turn.is_some() || self.is_over() || !self.wants_writer() {
            return None;
        }
        if !self.begun {
            (self.begun, self.turn) = (true, Some(thread::current().id()));
            return Some(Work::Begin);
        }
        if self.closing && self.queue.is_empty() {
            (self.ended, self.turn) = (true, Some(thread::current().id()));
            return Some(Work::End);
        }
        Some(Work::Round(self.begin_round()))
    }

    /// Takes the turn and all that is queued.
    fn begin_round(&mut self) -> Round {
        self.turn = Some(thread::current().id());
        self.urgent = false;
        self.released = std::mem::take(&mut self.sleepers);
        self.round += 1;
        Round { number: self.round - 1, queue: std::mem::take(&mut self.queue) }
    }

    /// Notes that a change in the queue is as urgent as this. Says whether to wake the writer.
    fn press(&mut self, urgency: Urgency, half_full: bool) -> bool {
        let first = !self.urgent;
        self.urgent |= half_full || urgency != Urgency::Later;
        if urgency == Urgency::Sleeper {
            self.sleepers += 1;
        }
        let awaited = self.awaited != 0;
        if awaited && (urgency == Urgency::Soon || half_full || self.sleepers >= self.awaited) {
            self.awaited = 0;
            return true;
        }
        !awaited && first && self.urgent
    }

    fn admit(&mut self, op: &Op, bytes: usize, free: u64, shared: &Shared) -> Result<(), Error> {
        if let Some(reason) = &self.poisoned {
            return Err(Error::Poisoned { reason: reason.clone() });
        }
        if self.closing {
            return Err(Error::Closed);
        }
        self.quarantine.admit(op, &self.streams)?;
        let is_append = matches!(op, Op::Append { .. });
        if is_append && shared.supply.is_full() {
            return Err(Error::Full);
        }
        // Votes and purges get through while appends wait, but not without end.
        let bytes_max =
            shared.options.queue_bytes_max.saturating_mul(if is_append { 1 } else { 2 });
        if self.waiting_bytes >= bytes_max {
            return Err(Error::Busy);
        }
        self.follows(op)?;
        if is_append && (self.waiting_bytes + bytes) as u64 > free {
            return Err(Error::Full);
        }
        if !is_append || self.fits(bytes, shared) {
            return Ok(());
        }
        // What waits may turn out smaller than it was reckoned at.
        self.starved = !self.queue.is_empty();
        Err(if self.starved { Error::Busy } else { Error::Full })
    }

    /// Whether, with little space left, the files there are hold so many bytes more and leave
    /// the reserve. Each call may become a batch of its own.
    fn fits(&self, bytes: usize, shared: &Shared) -> bool {
        let segment_bytes = shared.options.segment_bytes;
        let spares = shared.supply.ready() as u64 * segment_bytes;
        let room = (self.rest_bytes + spares).saturating_sub(segment_bytes / RESERVED_PART);
        let batches = (self.queue.len() as u64 + 1) * BATCH_BYTES;
        let wanted = (self.waiting_bytes + bytes) as u64 + batches;
        !shared.supply.is_tight() || wanted <= room
    }

    /// Whether the change fits the stream it is for.
    fn follows(&self, op: &Op) -> Result<(), Error> {
        let unknown = View::default();
        let view = |stream| self.streams.get(stream).unwrap_or(&unknown);
        match op {
            Op::Append { stream, first, payloads } => {
                view(stream).not_purged(*stream, *first)?;
                view(stream).admits(*stream, *first, payloads.len() as u64)
            }
            Op::Truncate { stream, from } => view(stream).not_purged(*stream, *from),
            Op::Purge { stream, to: u64::MAX, .. } => {
                Err(Error::OutOfOrder { stream: *stream, wanted: u64::MAX - 1, got: u64::MAX })
            }
            Op::Purge { .. } | Op::Mark { .. } | Op::Forget { .. } => Ok(()),
        }
    }

    fn show(&mut self, op: &Op, ticket: u64) {
        match op {
            Op::Append { payloads, .. } if payloads.is_empty() => {}
            Op::Append { stream, first, payloads } => {
                self.streams.entry(*stream).or_default().append(*first, payloads, ticket);
                self.cached_bytes += payloads.iter().map(Bytes::len).sum::<usize>();
                self.evictable.push_back((*stream, ticket));
            }
            Op::Mark { stream, tag, value } => {
                self.streams.entry(*stream).or_default().set_mark(*tag, value.clone());
            }
            Op::Truncate { stream, from } => {
                let gone = self.streams.get_mut(stream).map(|view| view.truncate(*from));
                self.cached_bytes -= gone.unwrap_or_default();
            }
            Op::Purge { stream, to, note } => {
                let view = self.streams.entry(*stream).or_default();
                self.cached_bytes -= view.purge(*to, note.clone());
            }
            Op::Forget { stream } => {
                let gone = self.streams.remove(stream).map(|view| view.cached_bytes());
                self.cached_bytes -= gone.unwrap_or_default();
                if self.quarantine.lift(*stream) {
                    self.streams.insert(*stream, View::default());
                }
            }
        }
    }

    fn evict(&mut self, tail_cache_bytes: usize) {
        while self.cached_bytes > tail_cache_bytes
            && let Some((stream, ticket)) = self.evictable.front().copied()
            && ticket <= self.durable_ticket
        {
            self.evictable.pop_front();
            if let Some(view) = self.streams.get_mut(&stream) {
                self.cached_bytes -= view.evict(ticket);
            }
        }
        self.drop_stale_evictables();
    }

    /// Truncated and purged appends leave their items behind; they go when they may be most.
    fn drop_stale_evictables(&mut self) {
        const KEPT: usize = 1024;
        if self.evictable.len() < KEPT || self.evictable.len() < self.evictable.capacity() {
            return;
        }
        let streams = &self.streams;
        self.evictable.retain(|(stream, ticket)| {
            streams.get(stream).is_some_and(|view| view.may_hold(*ticket))
        });
    }

    /// Whether callers know of an entry, and find it there.
    pub(crate) fn is_at(&self, stream: StreamId, index: u64, at: Location) -> bool {
        self.streams.get(&stream).is_some_and(|view| view.is_at(index, at))
    }

    /// Where to find the entries of a range, with the files that must stay open for it.
    pub(crate) fn find(
        &self,
        stream: StreamId,
        range: std::ops::Range<u64>,
        bytes_max: usize,
    ) -> Result<Vec<Found>, Error> {
        self.quarantine.check(stream, &self.streams)?;
        let Some(view) = self.streams.get(&stream) else { return Ok(Vec::new()) };
        if range.is_empty() {
            return Ok(Vec::new());
        }
        view.not_purged(stream, range.start)?;
        let (start, sources) = (range.start, view.sources(range, bytes_max));
        let found = sources.into_iter().zip(start..).map(|(source, index)| match source {
            Source::Cached(payload) => Found::Cached(payload),
            Source::Disk(at) => {
                Found::Disk { index, at, file: self.files.get(&at.segment).cloned() }
            }
        });
        Ok(found.collect())
    }
}

/// One entry, found.
#[derive(Debug)]
pub(crate) enum Found {
    Cached(Bytes),
    Disk { index: u64, at: Location, file: Option<Arc<dyn File>> },
}

impl Op {
    /// Payload bytes of its longest entry.
    fn longest(&self) -> usize {
        match self {
            Self::Append { payloads, .. } => payloads.iter().map(Bytes::len).max().unwrap_or(0),
            _ => 0,
        }
    }

    fn bytes(&self) -> usize {
        CALL_BYTES
            + match self {
                Self::Append { payloads, .. } => {
                    payloads.iter().map(|payload| payload.len() + CALL_BYTES).sum()
                }
                Self::Mark { value, .. } => value.len(),
                Self::Purge { note, .. } => note.len(),
                Self::Truncate { .. } | Self::Forget { .. } => 0,
            }
    }
}
