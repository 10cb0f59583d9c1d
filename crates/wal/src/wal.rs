//! The handle.

use std::ops::Range;
use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle, ThreadId};

use bytes::Bytes;

use crate::disk::Disk;
use crate::disk::real::RealDisk;
use crate::record::Binding;
use crate::recover::{Recovered, Recovery, recover};
use crate::shared::{Found, Op, Round, Shared, State, Submitted, Urgency, Wake, Work};
use crate::view::{Bounds, View};
use crate::writer::{self, Start, Writer, call_room, figures};
use crate::{Driver, Error, NOTE_BYTES_MAX, OpenError, Options, PAYLOAD_BYTES_MAX, read};

/// The number of a stream, chosen by its owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// Called once, on the writer's thread (for a driven log: inside a step), when a change is durable
/// or never will be. It must not block: every other stream waits for it. It may call the log.
pub type Completion = Box<dyn FnOnce(Result<(), Error>) + Send>;

/// The log as an operator may want to see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Segment files, spares not counted.
    pub segments: u64,
    /// Their length together, bytes.
    pub bytes: u64,
    /// Bytes of them that hold live entries, framing included.
    pub live_bytes: u64,
    /// Spare files ready.
    pub spares: u64,
    /// Bytes of calls that are not durable yet.
    pub waiting_bytes: u64,
    /// Payload bytes in memory.
    pub cached_bytes: u64,
    /// Bytes free for us on the volume, if it tells.
    pub free_bytes: Option<u64>,
    /// Appends are refused for want of space.
    pub full: bool,
    /// Why the log takes nothing more, if so.
    pub poisoned: Option<String>,
}

/// A handle to an open log; clones are the same log.
///
/// The last one dropped closes the log and waits for the writer, so completions may run during
/// the drop (dropped inside a completion, it does not wait; nor does that of a driven log, which
/// has no writer to wait for).
///
/// Unless said otherwise an error returned by a call means that nothing was applied and that
/// its completion will never be called. All changes answer `Poisoned` after a write or sync has
/// failed and `Closed` after [`Wal::close`]; reads go on in both cases. Of a stream that lost
/// records ([`Wal::quarantined`]) all changes but `forget`, and reads, answer `Quarantined`.
#[derive(Clone)]
pub struct Wal {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
    writer: Arc<Mutex<Writer>>,
    threads: Mutex<Threads>,
    /// Of the writer's thread. A driven log has none.
    writer_id: OnceLock<ThreadId>,
}

#[derive(Default)]
struct Threads {
    writer: Option<JoinHandle<()>>,
    helper: Option<JoinHandle<()>>,
}

impl Wal {
    /// Opens the log in `dir`, or makes one if there is none. Everything it finds is durable
    /// when this returns. Blocks on the disk: reads all segments.
    ///
    /// # Errors
    /// See [`OpenError`]; nothing is running after one.
    pub fn open(dir: &Path, options: Options) -> Result<(Self, Recovery), OpenError> {
        let disk = RealDisk::open(dir).map_err(OpenError::io("open", &dir.to_string_lossy()))?;
        Self::open_on(Arc::new(disk), options)
    }

    /// As [`Wal::open`], on any disk.
    ///
    /// # Errors
    /// As [`Wal::open`].
    pub fn open_on(disk: Arc<dyn Disk>, options: Options) -> Result<(Self, Recovery), OpenError> {
        let (handle, recovery) = Handle::open(disk, options, None)?;
        // From here on a failure drops the handle, which ends the threads there are.
        handle.spawn_helper()?;
        handle.spawn_writer()?;
        Ok((Self { handle: Arc::new(handle) }, recovery))
    }

    /// As [`Wal::open_on`], but no thread is started: nothing is written until the owner steps the
    /// [`Driver`], which tells what is different then.
    ///
    /// `wake` is called whenever a step is due: on any thread that calls the log or its driver,
    /// inside a step too, and sometimes for nothing. It must not block, should only take a note,
    /// and must hold neither a handle nor the driver: the log keeps it. The first step is due at
    /// once, without a call.
    ///
    /// # Errors
    /// As [`Wal::open`]; also `Options` if `spare_segments` is not 0.
    pub fn open_driven(
        disk: Arc<dyn Disk>,
        options: Options,
        wake: Box<dyn Fn() + Send + Sync>,
    ) -> Result<(Self, Driver, Recovery), OpenError> {
        options.validate_driven()?;
        let (handle, recovery) = Handle::open(disk, options, Some(wake))?;
        let driver = Driver::new(handle.shared.clone(), handle.writer.clone());
        Ok((Self { handle: Arc::new(handle) }, driver, recovery))
    }

    /// Appends `payloads` at `first_index` and on. Readable when this returns; `done` is called
    /// after the sync. `first_index` must be the last index + 1, or, in an empty stream, any
    /// above the purged one. The first append makes the stream. No payloads: `done` is called
    /// once everything before is durable.
    ///
    /// After a crash before `done` any number of the entries, from the front, may be there.
    ///
    /// # Errors
    /// `Busy`: [`Wal::when_room`] says when to try again. `Full`: nothing tells when space is
    /// back, so try again at your own pace; each try makes the log look. An openraft store,
    /// whose errors end the group, must not hand these two on: it waits for room, and keeps
    /// client writes away while the log is full. `OutOfOrder`, `Purged`, `TooLarge`: the
    /// caller's mistake.
    pub fn append(
        &self,
        stream: StreamId,
        first_index: u64,
        payloads: Vec<Bytes>,
        done: Completion,
    ) -> Result<(), Error> {
        payloads.iter().try_for_each(|payload| fits(payload, PAYLOAD_BYTES_MAX))?;
        self.submit(Op::Append { stream, first: first_index, payloads }, Some(done))
    }

    /// As [`Wal::append`], but blocks until the entries are durable, and before while there is
    /// no room in the queue. If nobody else writes or waits, this thread writes them itself;
    /// else it sleeps, and many that sleep at once cost less than as many completions. Not for
    /// async code.
    ///
    /// On a driven log this is a step too if none is under way: all that is queued is written,
    /// and called back for, on this thread. Else it sleeps until the owner steps again.
    ///
    /// # Errors
    /// As [`Wal::append`], but `Busy` only inside a completion, which would wait for itself.
    /// `Poisoned` may also mean that the entries are readable, and on disk or not.
    pub fn append_durable(
        &self,
        stream: StreamId,
        first_index: u64,
        payloads: Vec<Bytes>,
    ) -> Result<(), Error> {
        payloads.iter().try_for_each(|payload| fits(payload, PAYLOAD_BYTES_MAX))?;
        if self.handle.is_writer() {
            return Err(Error::Busy);
        }
        let mut op = Op::Append { stream, first: first_index, payloads };
        loop {
            match self.shared().submit(op, None, Urgency::Sleeper) {
                Ok(submitted) => return self.sleep(submitted),
                Err((Error::Busy, refused)) => {
                    op = refused;
                    self.wait_for_room();
                }
                Err((error, _)) => return Err(error),
            }
        }
    }

    /// Returns once the change is durable.
    fn sleep(&self, submitted: Submitted) -> Result<(), Error> {
        let number = match submitted {
            Submitted::Queued(number) => number,
            Submitted::Turn(round) => {
                let number = round.number;
                self.handle.take_turn(round);
                number
            }
        };
        self.shared().gates.wait(number).map_err(|reason| Error::Poisoned { reason })
    }

    fn wait_for_room(&self) {
        // Of a driven log this may be the thread that makes the room.
        if self.shared().is_driven() && writer::step(self.shared(), &self.handle.writer) {
            return;
        }
        let (send, room) = sync_channel(1);
        self.when_room(Box::new(move || {
            let _ = send.try_send(());
        }));
        // A call that is never made is dropped, which ends the wait too.
        let _ = room.recv();
    }

    /// Sets the stream's mark `tag`. Readable when this returns. With `done` it is synced like
    /// an append; without, it travels with the next change that is, and a crash before may
    /// lose it (but nothing after it survives then).
    ///
    /// # Errors
    /// `TooLarge` beyond [`NOTE_BYTES_MAX`]; `Busy` at twice the bound of appends.
    pub fn mark(
        &self,
        stream: StreamId,
        tag: u8,
        value: Bytes,
        done: Option<Completion>,
    ) -> Result<(), Error> {
        fits(&value, NOTE_BYTES_MAX)?;
        self.submit(Op::Mark { stream, tag, value }, done)
    }

    /// Drops the entries from `index` on; none at or beyond `index` is fine. What was dropped
    /// does not come back, whatever crashes in between and whatever is appended after.
    ///
    /// # Errors
    /// `Purged` if `index` is; `Busy` at twice the bound of appends.
    pub fn truncate_from(
        &self,
        stream: StreamId,
        index: u64,
        done: Completion,
    ) -> Result<(), Error> {
        self.submit(Op::Truncate { stream, from: index }, Some(done))
    }

    /// Drops the entries up to and with `index` and remembers it with `note`. `index` may lie
    /// beyond the last entry: the stream is empty then and goes on above it. An index that is
    /// purged already changes nothing, the note included. `done` is as in [`Wal::mark`].
    ///
    /// # Errors
    /// `TooLarge` beyond [`NOTE_BYTES_MAX`]; `OutOfOrder` for `u64::MAX`, which nothing could
    /// follow; `Busy` at twice the bound of appends.
    pub fn purge_to(
        &self,
        stream: StreamId,
        index: u64,
        note: Bytes,
        done: Option<Completion>,
    ) -> Result<(), Error> {
        fits(&note, NOTE_BYTES_MAX)?;
        self.submit(Op::Purge { stream, to: index, note }, done)
    }

    /// Drops the stream with its entries, marks and purge note. Its number may be used anew.
    ///
    /// # Errors
    /// `Busy` at twice the bound of appends.
    pub fn forget(&self, stream: StreamId, done: Completion) -> Result<(), Error> {
        self.submit(Op::Forget { stream }, Some(done))
    }

    /// The payloads from `range.start` on, as far as the stream has them, up to `range.end`
    /// (not included) and about `bytes_max`; at least one if there is one. Recent entries come
    /// from memory, others from disk, on the caller's thread. Empty for an unknown stream or a
    /// start above the last entry, or below the first one of a stream that was never purged.
    ///
    /// # Errors
    /// `Purged` if the start is; `Damaged` or `Read` if any of the entries can't be read;
    /// `Quarantined` if the stream is.
    pub fn entries(
        &self,
        stream: StreamId,
        range: Range<u64>,
        bytes_max: usize,
    ) -> Result<Vec<Bytes>, Error> {
        let found = self.shared().state().find(stream, range, bytes_max)?;
        let mut payloads = Vec::with_capacity(found.len());
        let mut left = found.as_slice();
        while let Some(first) = left.first() {
            match first {
                Found::Cached(payload) => {
                    payloads.push(payload.clone());
                    left = &left[1..];
                }
                Found::Disk { .. } => left = self.read_run(stream, left, &mut payloads)?,
            }
        }
        Ok(payloads)
    }

    /// Reads as many entries as one read can get; returns those behind them.
    fn read_run<'f>(
        &self,
        stream: StreamId,
        found: &'f [Found],
        payloads: &mut Vec<Bytes>,
    ) -> Result<&'f [Found], Error> {
        let on_disk = found.iter().map_while(|found| match found {
            Found::Disk { index, at, .. } => Some((*index, *at)),
            Found::Cached(_) => None,
        });
        let places: Vec<_> = on_disk.collect();
        let length = read::run_length(&places);
        if let Some(Found::Disk { at, file, .. }) = found.first() {
            let binding = Binding { wal_id: self.shared().wal_id, segment: at.segment };
            let file = file.as_deref().ok_or_else(|| read::damaged(*at))?;
            payloads.extend(read::run(file, binding, stream, &places[..length])?);
        }
        Ok(&found[length..])
    }

    /// The stream's ends. All empty for an unknown stream.
    pub fn bounds(&self, stream: StreamId) -> Bounds {
        self.shared().state().streams.get(&stream).map(View::bounds).unwrap_or_default()
    }

    /// The newest value of the stream's mark `tag`.
    pub fn mark_value(&self, stream: StreamId, tag: u8) -> Option<Bytes> {
        self.shared().state().streams.get(&stream)?.mark(tag).cloned()
    }

    /// All streams, ascending: those with an entry, a mark or a purge note, and those that had
    /// one and were not forgotten.
    pub fn streams(&self) -> Vec<StreamId> {
        self.shared().state().streams.keys().copied().collect()
    }

    /// Calls `call` once, when an append may pass the bound of the queue again (other callers
    /// may be quicker) or will be refused for another reason: perhaps at once, on this thread,
    /// else on the writer's. One per waiting caller is kept.
    pub fn when_room(&self, call: Box<dyn FnOnce() + Send>) {
        self.shared().when_room(call);
    }

    /// The log's figures, as of the last sync.
    pub fn stats(&self) -> Stats {
        let shared = self.shared();
        let free_bytes = shared.disk.free_bytes().ok();
        let spares = shared.supply.ready() as u64;
        let state = shared.state();
        Stats {
            segments: state.figures.segments,
            bytes: state.figures.bytes,
            live_bytes: state.figures.live_bytes,
            spares,
            waiting_bytes: state.waiting_bytes as u64,
            cached_bytes: state.cached_bytes as u64,
            free_bytes,
            full: shared.supply.is_full(),
            poisoned: state.poisoned.as_ref().map(ToString::to_string),
        }
    }

    /// Why the log takes nothing more, if a write or sync has failed.
    pub fn poisoned(&self) -> Option<String> {
        self.shared().state().poisoned.as_ref().map(ToString::to_string)
    }

    /// Takes nothing more, makes durable what was queued, marks without a completion included,
    /// and waits for it (not inside a completion). The directory stays locked until the last
    /// handle is dropped.
    ///
    /// A driven log has nothing to wait for: its owner steps until nothing is left, and may then
    /// ask again how it ended. It stays locked until the driver is dropped, too.
    ///
    /// # Errors
    /// `Poisoned` if the log is, now or before.
    pub fn close(&self) -> Result<(), Error> {
        self.handle.end();
        match &self.shared().state().poisoned {
            Some(reason) => Err(Error::Poisoned { reason: reason.clone() }),
            None => Ok(()),
        }
    }

    fn submit(&self, op: Op, done: Option<Completion>) -> Result<(), Error> {
        let urgency = if done.is_some() { Urgency::Soon } else { Urgency::Later };
        self.shared().submit(op, done, urgency).map(drop).map_err(|(error, _)| error)
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.handle.shared
    }
}

fn fits(bytes: &Bytes, max_bytes: usize) -> Result<(), Error> {
    if bytes.len() > max_bytes {
        return Err(Error::TooLarge { bytes: bytes.len(), max_bytes });
    }
    Ok(())
}

/// What callers see right after recovery.
fn state(recovered: &Recovered, segment_bytes: u64) -> State {
    let ledger = &recovered.ledger;
    let views = ledger.streams.iter().map(|(id, stream)| (*id, View::recovered(stream)));
    let files = recovered.segments.iter().map(|(number, segment)| (*number, segment.file.clone()));
    let figures = figures(&recovered.segments, ledger);
    State::new(
        views.collect(),
        files.collect(),
        figures,
        segment_bytes.saturating_sub(recovered.end),
    )
}

impl Handle {
    /// Recovers the log. Nothing is running yet.
    fn open(
        disk: Arc<dyn Disk>,
        options: Options,
        wake_owner: Option<Wake>,
    ) -> Result<(Self, Recovery), OpenError> {
        options.validate()?;
        let lock = disk.lock().map_err(OpenError::io("lock", "the directory"))?;
        let lock = lock.ok_or(OpenError::InUse)?;
        let recovered = recover(&disk, &options)?;
        let mut state = state(&recovered, options.segment_bytes);
        state.quarantine = recovered.quarantine();
        let (wal_id, recovery) = (recovered.wal_id, recovered.recovery.clone());
        let (start, supply) = Start::split(recovered);
        let shared = Arc::new(Shared::new(options, disk, lock, wal_id, supply, state, wake_owner));
        let writer = Arc::new(Mutex::new(Writer::new(shared.clone(), start)));
        let (threads, writer_id) = (Mutex::default(), OnceLock::new());
        Ok((Self { shared, writer, threads, writer_id }, recovery))
    }

    fn spawn_helper(&self) -> Result<(), OpenError> {
        if self.shared.options.spare_segments == 0 {
            return Ok(());
        }
        let supply = self.shared.supply.clone();
        self.threads().helper = Some(spawn("wal-supply", move || supply.run())?);
        Ok(())
    }

    fn spawn_writer(&self) -> Result<(), OpenError> {
        let (shared, writer) = (self.shared.clone(), self.writer.clone());
        let thread = spawn("wal-writer", move || {
            writer::run(&shared, &writer);
            shared.supply.stop();
        })?;
        // Nobody else has the handle yet, so it was not set before.
        let _ = self.writer_id.set(thread.thread().id());
        self.threads().writer = Some(thread);
        Ok(())
    }

    /// Writes a round on the caller's thread.
    fn take_turn(&self, round: Round) {
        let room_calls = writer::turn(&self.shared, &self.writer, Work::Round(round));
        self.shared.end_turn();
        call_room(room_calls);
    }

    /// Whether this is the writer's thread, inside a completion.
    fn is_writer(&self) -> bool {
        match self.writer_id.get() {
            Some(writer) => *writer == thread::current().id(),
            None => self.shared.has_turn(),
        }
    }

    fn threads(&self) -> MutexGuard<'_, Threads> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the threads and waits for them. Not inside a completion: the writer, which would wait
    /// for itself, ends when it has nothing more to do, and ends the helper. Nor where a caller
    /// that has the turn tells others that it failed: the writer waits for that one.
    fn end(&self) {
        self.shared.close();
        if self.is_writer() || self.shared.has_turn() {
            return;
        }
        let mut threads = self.threads();
        join(threads.writer.take());
        self.shared.supply.stop();
        join(threads.helper.take());
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, OpenError> {
    let thread = thread::Builder::new().name(name.to_owned()).spawn(run);
    thread.map_err(OpenError::io("start thread", name))
}

fn join(thread: Option<JoinHandle<()>>) {
    if thread.is_some_and(|thread| thread.join().is_err()) {
        tracing::error!("a thread of the log panicked");
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.end();
    }
}

impl std::fmt::Debug for Wal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wal").field("wal_id", &self.shared().wal_id).finish_non_exhaustive()
    }
}
