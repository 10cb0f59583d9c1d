//! The writer: what turns the queue into synced bytes, on one thread at a time: its own, the
//! owner's of a driven log, or a caller's that has the turn.
//!
//! A round takes everything queued for all streams, puts it into one batch, writes it, syncs
//! once, shows callers the places, and only then calls back, in order. A segment that fills up
//! ends the batch early: it is synced, and the next segment is begun, before the round goes on.
//! So there is never more than one batch that is not synced, and a batch on disk proves that
//! all before it is.
//!
//! Old segments go when nothing in them is live. A stream that keeps a few old entries would
//! pin the oldest one, and with it all behind it; so while the files hold more than twice what
//! is live, each round also writes some of the oldest segment's live entries again, at the end
//! of the log. The rounds do no more of this than a fixed multiple of what callers write, so a
//! log that can't get smaller does not spin.
//!
//! A failed write, sync or renaming ends the log: what the disk holds is unknown from then on.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::batch::BatchBuilder;
use crate::ledger::{Broken, Ledger, Location};
use crate::planted::{self, Bug};
use crate::record::{Binding, Record};
use crate::recover::{Recovered, SegmentFile};
use crate::segment::{self, SegmentHeader};
use crate::shared::{Figures, Op, Queued, Report, RoomCall, Round, Shared, Work};
use crate::supply::begin_segment;
use crate::{Completion, Error, StreamId, read};

/// A buffer longer than this is not kept for the next batch.
const BUFFER_KEPT_BYTES: usize = 4 << 20;
/// Entries are moved in a round up to this many bytes, or twice what callers wrote in it. Callers wait for
/// the round: to read and write so much takes far less than to sync it.
const MOVED_BYTES_PER_ROUND: u64 = 64 << 10;
/// The same for a round in which callers wrote next to nothing: votes and marks come seldom, and a log that
/// shrinks for them alone must not take for ever.
const MOVED_BYTES_PER_QUIET_ROUND: u64 = 256 << 10;
/// A round with fewer bytes from callers is a quiet one.
const QUIET_ROUND_BYTES: u64 = 256;
/// Over the log's life, entries are moved for at most this many bytes per byte written.
const MOVED_PER_WRITTEN: u64 = 4;
/// How often in a segment a batch names all streams: damage before it is then known to have cost
/// a stream records or not. Each time takes some 5 bytes a stream.
const ROLL_CALLS_PER_SEGMENT: u64 = 16;
/// Files may hold twice what is live and this many segments before entries are moved. The
/// segment begun meanwhile and the spare make it three.
const SEGMENTS_SPARED: u64 = 1;
/// The bound of all files, spares among them: twice what is live and so many segments.
const SEGMENTS_BEYOND: u64 = 3;
/// More files than this are never kept to be recycled.
const SPARES_MAX: usize = 16;

/// The live entries of the oldest segment that are still to be moved.
#[derive(Debug, Default)]
struct Moving {
    segment: u64,
    entries: VecDeque<(StreamId, u64)>,
}

/// The life of the writer's thread: one turn after another until the log is closed or fails.
pub(crate) fn run(shared: &Shared, writer: &Mutex<Writer>) {
    while let Some(work) = shared.wait_for_work() {
        call_room(turn(shared, writer, work));
    }
}

/// One turn on the caller's thread, of a driven log, if there is anything to do and nobody else
/// does it. Says whether there was. It never lingers: time is the owner's.
pub(crate) fn step(shared: &Shared, writer: &Mutex<Writer>) -> bool {
    let Some(work) = shared.take_work() else { return false };
    call_room(turn(shared, writer, work));
    shared.end_turn();
    true
}

/// What there is to do, by whoever has the turn. Returns the calls that waited for room.
pub(crate) fn turn(shared: &Shared, writer: &Mutex<Writer>, work: Work) -> Vec<RoomCall> {
    match work {
        // Segments that were needed no more when the process ended.
        Work::Begin => attempt(shared, writer, Writer::release),
        Work::Round(next) => return round(shared, writer, next),
        Work::End => attempt(shared, writer, Writer::close),
    };
    Vec::new()
}

/// One round, for whoever has the turn. Returns the calls that waited for room.
fn round(shared: &Shared, writer: &Mutex<Writer>, round: Round) -> Vec<RoomCall> {
    let Round { number, mut queue } = round;
    let done = queue.iter_mut().filter_map(|queued| queued.done.take()).collect();
    // Out here a panic can't drop them uncalled.
    let mut waiting = Waiting { done, room_calls: Vec::new() };
    if let Err(reason) = try_to(writer, |writer| writer.round(number, &queue, &mut waiting)) {
        fail(shared, std::mem::take(&mut waiting.done), &reason);
    }
    waiting.room_calls
}

/// Who waits for a round, and was not told yet.
struct Waiting {
    done: Vec<Completion>,
    room_calls: Vec<RoomCall>,
}

/// Does something with the writer. A failure, or a panic, ends the log.
fn attempt<T>(
    shared: &Shared,
    writer: &Mutex<Writer>,
    action: impl FnOnce(&mut Writer) -> io::Result<T>,
) -> Option<T> {
    let tried = try_to(writer, action);
    tried.map_err(|reason| fail(shared, Vec::new(), &reason)).ok()
}

/// Does something with the writer. Why not, if it fails or panics.
fn try_to<T>(
    writer: &Mutex<Writer>,
    action: impl FnOnce(&mut Writer) -> io::Result<T>,
) -> Result<T, Arc<str>> {
    let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
    match catch_unwind(AssertUnwindSafe(|| action(&mut writer))) {
        Ok(result) => result.map_err(|error| Arc::from(error.to_string())),
        Err(_) => Err(Arc::from("the writer panicked")),
    }
}

pub(crate) struct Writer {
    shared: Arc<Shared>,
    ledger: Ledger,
    segments: BTreeMap<u64, SegmentFile>,
    current: u64,
    /// The current segment holds nothing but its checkpoint.
    fresh: bool,
    batch: BatchBuilder,
    /// Where the last batch that named all streams begins.
    roll_called: u64,
    moving: Moving,
    /// How many more bytes may be moved.
    moves_allowed: u64,
    /// A live entry that can't be read: its segment stays, and so do those behind it.
    unreadable: Option<(StreamId, u64, Location)>,
}

/// The files and what in them is live.
pub(crate) fn figures(segments: &BTreeMap<u64, SegmentFile>, ledger: &Ledger) -> Figures {
    Figures {
        segments: segments.len() as u64,
        bytes: segments.values().map(|segment| segment.bytes).sum(),
        live_bytes: ledger.live_bytes(),
    }
}

/// What recovery leaves for the writer.
pub(crate) struct Start {
    ledger: Ledger,
    segments: BTreeMap<u64, SegmentFile>,
    current: u64,
    end: u64,
    fresh: bool,
}

impl Start {
    pub(crate) fn split(recovered: Recovered) -> (Self, crate::supply::Supply) {
        let Recovered { ledger, segments, current, end, fresh, supply, .. } = recovered;
        (Self { ledger, segments, current, end, fresh }, supply)
    }
}

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>, start: Start) -> Self {
        let Start { ledger, segments, current, end, fresh } = start;
        let binding = Binding { wal_id: shared.wal_id, segment: current };
        let batch = BatchBuilder::new(binding, end, Vec::new());
        let moves_allowed = segments.values().map(|segment| segment.bytes).sum();
        let (moving, unreadable) = (Moving::default(), None);
        let roll_called = 0;
        Self {
            shared,
            ledger,
            segments,
            current,
            fresh,
            batch,
            roll_called,
            moving,
            moves_allowed,
            unreadable,
        }
    }

    /// One round. On an error it has told nobody of it.
    fn round(&mut self, number: u64, queue: &[Queued], waiting: &mut Waiting) -> io::Result<()> {
        let mut report = Report::default();
        self.write_round(queue, &mut report)?;
        waiting.room_calls = self.shared.publish(report, figures(&self.segments, &self.ledger));
        self.shared.gates.open(number);
        call_back(std::mem::take(&mut waiting.done), &Ok(()));
        self.release()
    }

    fn write_round(&mut self, queue: &[Queued], report: &mut Report) -> io::Result<()> {
        for queued in queue {
            self.write_op(&queued.op, queued.ticket, report)?;
            report.ticket = queued.ticket;
            report.bytes += queued.bytes;
        }
        self.move_forward(report)?;
        report.sync = self.commit()?;
        report.rest_bytes = self.shared.options.segment_bytes.saturating_sub(self.batch.start());
        Ok(())
    }

    fn write_op(&mut self, op: &Op, ticket: u64, report: &mut Report) -> io::Result<()> {
        let record = match op {
            Op::Append { stream, first, payloads } => {
                let mut places = Vec::with_capacity(payloads.len());
                for (payload, index) in payloads.iter().zip(*first..) {
                    places.push(self.put(&Record::Entry { stream: *stream, index, payload })?);
                }
                report.located.push((*stream, ticket, *first, places));
                return Ok(());
            }
            Op::Mark { stream, tag, value } => Record::Mark { stream: *stream, tag: *tag, value },
            Op::Truncate { stream, from } => Record::Truncate { stream: *stream, from: *from },
            Op::Purge { stream, to, note } => Record::Purge { stream: *stream, to: *to, note },
            Op::Forget { stream } => Record::Forget { stream: *stream },
        };
        if matches!(op, Op::Truncate { .. }) && planted::has(Bug::LostTruncation) {
            return self
                .ledger
                .apply(&record, Location::default())
                .map_err(|Broken(reason)| io::Error::other(reason));
        }
        self.put(&record).map(|_| ())
    }

    /// Puts a record into the batch, in the next segment if this one is full.
    fn put(&mut self, record: &Record<'_>) -> io::Result<Location> {
        let fits = self.batch.end_with(record) <= self.shared.options.segment_bytes;
        let alone = self.fresh && self.batch.records() == 0;
        if !fits && !alone {
            self.next_segment()?;
        }
        let number = record.stream().map_or(0, |stream| self.ledger.number(stream));
        let at = Location::of(self.current, self.batch.put(record, number));
        self.ledger.apply(record, at).map_err(|Broken(reason)| io::Error::other(reason))?;
        Ok(at)
    }

    /// Writes and syncs the batch, if there is anything in it. Returns how long the sync took.
    fn commit(&mut self) -> io::Result<Duration> {
        if self.batch.records() == 0 {
            return Ok(Duration::ZERO);
        }
        metrics::histogram!("stemedb_wal_batch_records").record(f64::from(self.batch.records()));
        let since = self.batch.start() - self.roll_called;
        let due = since >= self.shared.options.segment_bytes / ROLL_CALLS_PER_SEGMENT;
        self.write_batch(due)
    }

    /// Writes and syncs the batch. With `roll_call` it names all streams, if there is room.
    fn write_batch(&mut self, roll_call: bool) -> io::Result<Duration> {
        let (start, binding) = (self.batch.start(), self.batch.binding());
        let fits = self.batch.end_with_roll_call(&self.ledger) <= self.shared.options.segment_bytes;
        let roll_call = (roll_call && fits).then_some(&self.ledger);
        if roll_call.is_some() {
            self.roll_called = start;
        }
        let next = BatchBuilder::new(binding, start, Vec::new());
        let (bytes, end) = std::mem::replace(&mut self.batch, next).seal(start, roll_call);
        let name = || segment::segment_file(self.current);
        let Some(segment) = self.segments.get_mut(&self.current) else {
            return Err(io::Error::other("the current segment is not open"));
        };
        let bytes_end = start + bytes.len() as u64;
        if bytes_end > segment.bytes {
            let longer = self.shared.supply.lengthen(segment.file.as_ref(), bytes_end);
            longer.map_err(|error| tell("lengthen", &name(), &error))?;
        }
        segment.file.write_at(&bytes, start).map_err(|error| tell("write", &name(), &error))?;
        // For the metrics, and for the lingering of the writer's thread. Nothing that a driven
        // log does depends on it.
        let asked = Instant::now();
        if !planted::has(Bug::CallbackBeforeSync) {
            segment.file.sync_data().map_err(|error| tell("sync", &name(), &error))?;
        }
        let took = asked.elapsed();
        metrics::histogram!("stemedb_wal_fsync_latency_seconds").record(took);
        metrics::counter!("stemedb_wal_bytes_total").increment(bytes.len() as u64);
        segment.bytes = segment.bytes.max(bytes_end);
        self.fresh = false;
        let buffer = if bytes.capacity() <= BUFFER_KEPT_BYTES { bytes } else { Vec::new() };
        self.batch = BatchBuilder::new(binding, end, buffer);
        Ok(took)
    }

    /// Ends the current segment and begins the next, with a checkpoint of all streams.
    fn next_segment(&mut self) -> io::Result<()> {
        self.commit()?;
        let number = self.current + 1;
        let name = segment::segment_file(number);
        let binding = Binding { wal_id: self.shared.wal_id, segment: number };
        let header = SegmentHeader::new(binding, self.batch.start());
        let spare = self.shared.supply.take().map_err(|error| tell("make", &name, &error))?;
        let (disk, supply) = (self.shared.disk.as_ref(), &self.shared.supply);
        let end = begin_segment(disk, supply, &spare, header, &self.ledger)
            .map_err(|error| tell("begin", &name, &error))?;
        let bytes = spare.file.length().map_err(|error| tell("measure", &name, &error))?;
        self.shared.state().files.insert(number, spare.file.clone());
        self.segments.insert(number, SegmentFile { file: spare.file, bytes });
        (self.current, self.fresh, self.roll_called) = (number, true, end);
        self.batch = BatchBuilder::new(binding, end, Vec::new());
        metrics::gauge!("stemedb_wal_segments").set(self.segments.len() as f64);
        // Once a segment is often enough to try again what the disk refused to read.
        if let Some((stream, index, _)) = self.unreadable.take() {
            self.moving.entries.push_front((stream, index));
        }
        Ok(())
    }

    /// Writes live entries of the oldest segment again, as many as this round may.
    fn move_forward(&mut self, report: &mut Report) -> io::Result<()> {
        let written = report.bytes as u64;
        self.moves_allowed = self.moves_allowed.saturating_add(MOVED_PER_WRITTEN * written);
        if !self.is_too_big() {
            return Ok(());
        }
        let quarantined = self.shared.state().quarantine.ids();
        let at_least = match written {
            ..QUIET_ROUND_BYTES => MOVED_BYTES_PER_QUIET_ROUND,
            _ => MOVED_BYTES_PER_ROUND,
        };
        let mut left = at_least.max(2 * written).min(self.moves_allowed);
        while left > 0 && self.is_too_big() {
            let Some((stream, index, from)) = self.next_to_move(&quarantined) else { break };
            if !self.may_move(from) {
                self.moving.entries.push_front((stream, index));
                break;
            }
            let Some(payload) = self.read(stream, index, from) else { continue };
            let to = self.put(&Record::Moved { stream, index, payload: &payload })?;
            report.moved.push((stream, index, from, to));
            let bytes = u64::from(from.frame_bytes);
            left = left.saturating_sub(bytes);
            self.moves_allowed = self.moves_allowed.saturating_sub(bytes);
        }
        Ok(())
    }

    /// Moving is no hurry: it never waits for a spare, nor for a file that must grow, while votes
    /// and purges would wait behind it. Whether an entry can be moved without.
    fn may_move(&self, from: Location) -> bool {
        let frame_bytes = u64::from(from.frame_bytes);
        let fits = self.batch.end_with_moved(frame_bytes) <= self.shared.options.segment_bytes;
        let supply = &self.shared.supply;
        let next = self.shared.options.spare_segments == 0 || supply.ready() > 0;
        fits || (next && frame_bytes <= self.shared.free_for(from.frame_bytes as usize))
    }

    /// The files hold more than the bound, and moving could help. Segments that this round has
    /// emptied count as gone: they are let go of when it is over.
    fn is_too_big(&self) -> bool {
        let spared = SEGMENTS_SPARED * self.shared.options.segment_bytes;
        let needed = self.segments.iter().skip_while(|(number, _)| self.is_empty(**number));
        let bytes: u64 = needed.map(|(_, segment)| segment.bytes).sum();
        let blocked = self.unreadable.is_some() || self.shared.supply.is_out();
        bytes > 2 * self.ledger.live_bytes() + spared && !blocked
    }

    /// How many files may wait to be segments again. A log is cut in one go for each flush of what
    /// stands above it, and grows again by as much: files that were removed would be filled with
    /// zeros once more, which is as many bytes as the log itself writes. Together with the segments
    /// they stay within the bound of the log's disk use: twice what is live, and three segments.
    fn spares_max(&self) -> usize {
        let segment_bytes = self.shared.options.segment_bytes;
        let used: u64 = self.segments.values().map(|segment| segment.bytes).sum();
        let bound = 2 * self.ledger.live_bytes() + SEGMENTS_BEYOND * segment_bytes;
        let room = bound.saturating_sub(used) / segment_bytes;
        usize::try_from(room).map_or(SPARES_MAX, |room| room.min(SPARES_MAX))
    }

    /// Nothing in the segment is live, and it is not the current one.
    fn is_empty(&self, number: u64) -> bool {
        number != self.current && self.ledger.live(number).entries == 0
    }

    /// The next entry of the oldest segment. Those of quarantined streams stay where they are.
    fn next_to_move(
        &mut self,
        quarantined: &BTreeSet<StreamId>,
    ) -> Option<(StreamId, u64, Location)> {
        let mut numbers = self.segments.keys().copied();
        let oldest = numbers.find(|number| !self.is_empty(*number))?;
        if oldest == self.current {
            return None;
        }
        if self.moving.segment != oldest {
            let entries = self.ledger.entries_in(oldest);
            self.moving = Moving { segment: oldest, entries };
        }
        while let Some((stream, index)) = self.moving.entries.pop_front() {
            // It may have been truncated or purged since the list was made.
            let at = self.ledger.location(stream, index).filter(|at| at.segment == oldest);
            if let Some(at) = at.filter(|_| !quarantined.contains(&stream)) {
                return Some((stream, index, at));
            }
        }
        None
    }

    /// The payload of an entry to be moved. A damaged one is never written again: its stream is
    /// quarantined. While the disk refuses to read one, its segment stays.
    fn read(&mut self, stream: StreamId, index: u64, at: Location) -> Option<Bytes> {
        let file = &self.segments.get(&at.segment)?.file;
        let binding = Binding { wal_id: self.shared.wal_id, segment: at.segment };
        let error = match read::entry(file.as_ref(), binding, stream, index, at) {
            Ok(payload) => return Some(payload),
            Err(error) => error,
        };
        let mut state = self.shared.state();
        if !state.is_at(stream, index, at) {
            // It was forgotten or purged since: what the writer knows is older.
        } else if matches!(error, Error::Damaged { .. }) {
            state.quarantine.add(stream, &error.to_string());
        } else {
            tracing::error!(%error, "an entry can't be moved; its segment stays");
            drop(state);
            self.unreadable = Some((stream, index, at));
        }
        None
    }

    /// Lets go of the oldest segments while nothing in them is live.
    fn release(&mut self) -> io::Result<()> {
        while let Some(entry) = self.segments.first_entry()
            && *entry.key() != self.current
            && self.ledger.live(*entry.key()).entries == 0
        {
            let (number, segment) = entry.remove_entry();
            self.shared.state().files.remove(&number);
            let name = segment::segment_file(number);
            let recycled = self.shared.supply.recycle(&name, segment.file, self.spares_max());
            recycled.map_err(|error| tell("recycle", &name, &error))?;
        }
        let shed = self.shared.supply.shed(self.spares_max());
        shed.map_err(|error| tell("remove", "a spare", &error))?;
        self.unreadable = self.unreadable.filter(|stuck| self.is_stuck(*stuck));
        self.set_aside()?;
        let figures = figures(&self.segments, &self.ledger);
        metrics::gauge!("stemedb_wal_segments").set(figures.segments as f64);
        self.shared.state().figures = figures;
        Ok(())
    }

    /// Whether an entry is still needed where it stands. Those of quarantined streams never move.
    fn is_stuck(&self, (stream, index, at): (StreamId, u64, Location)) -> bool {
        self.ledger.location(stream, index) == Some(at)
            && !self.shared.state().quarantine.has(stream)
    }

    /// Takes the oldest segment out of the log if nothing but entries of quarantined streams keep
    /// it there, and with it all behind it. Its bytes stay, under another name.
    fn set_aside(&mut self) -> io::Result<()> {
        let Some(oldest) = self.segments.keys().next().copied() else { return Ok(()) };
        let moved = self.moving.segment == oldest && self.moving.entries.is_empty();
        if !moved || oldest == self.current || !self.is_too_big() {
            return Ok(());
        }
        let quarantined = self.shared.state().quarantine.ids();
        let left = self.ledger.entries_in(oldest);
        if left.iter().any(|(stream, _)| !quarantined.contains(stream)) {
            return Ok(());
        }
        let (name, aside) = (segment::segment_file(oldest), segment::aside_file(oldest));
        let disk = &self.shared.disk;
        let renamed = disk.rename(&name, &aside).and_then(|()| disk.sync_dir());
        renamed.map_err(|error| tell("set aside", &name, &error))?;
        tracing::warn!(name, aside, "a segment that only quarantined streams need is set aside");
        for stream in quarantined {
            self.ledger.lose_places_in(stream, oldest);
        }
        self.segments.remove(&oldest);
        self.shared.state().files.remove(&oldest);
        Ok(())
    }

    /// Writes an empty batch, to prove that the last one was synced and to name all streams.
    fn close(&mut self) -> io::Result<()> {
        if self.batch.end_max() > self.shared.options.segment_bytes {
            return Ok(());
        }
        self.write_batch(true).map(drop)
    }
}

fn tell(action: &str, file: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{action} {file}: {error}"))
}

/// Ends the log: everybody who waits is told why, in order.
pub(crate) fn fail(shared: &Shared, mut done: Vec<Completion>, reason: &Arc<str>) {
    let (queued, room_calls) = shared.poison(reason);
    done.extend(queued.into_iter().filter_map(|queued| queued.done));
    shared.gates.fail(reason);
    call_back(done, &Err(Error::Poisoned { reason: reason.clone() }));
    call_room(room_calls);
}

/// Calls back in order. A callback that panics is the caller's fault and must not keep the
/// others from theirs.
fn call_back(done: Vec<Completion>, result: &Result<(), Error>) {
    for done in done {
        let result = result.clone();
        if catch_unwind(AssertUnwindSafe(|| done(result))).is_err() {
            tracing::error!("a completion panicked");
        }
    }
}

pub(crate) fn call_room(room_calls: Vec<RoomCall>) {
    for call in room_calls {
        if catch_unwind(AssertUnwindSafe(call)).is_err() {
            tracing::error!("a call that waited for room panicked");
        }
    }
}
