//! A snapshot on its way out: a thread with one frozen view.

use std::fs::{self, File};
use std::io::Read;
use std::ops::ControlFlow;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use stemedb_types::GroupId;

use super::format::{Head, ROWS_BYTES_MAX};
use super::{SnapshotId, Throttle, refuse};
use crate::background::{Stop, be_nice};
use crate::group::Group;
use crate::rows::{SCOPE_BYTES, Scope};
use crate::store::{Cursor, Put, Store};
use crate::{Error, Row};

/// What is sent in one go.
const PIECE_BYTES: usize = 256 << 10;
/// Rows read before the thread rests.
const SLICE_BYTES: usize = 32 << 10;

/// On what terms a snapshot is sent.
#[derive(Clone, Debug)]
pub struct Terms {
    /// A file is closed once it holds rows of so many bytes, 1 to
    /// [`crate::SNAPSHOT_FILE_BYTES_MAX`].
    pub file_bytes: usize,
    /// Bytes sent in a second, at most, by all who share the throttle; 0: as fast as it goes.
    pub bytes_per_second: u64,
    /// Shared by all snapshots of a node.
    pub throttle: Arc<Throttle>,
    /// How long the view is kept while nobody asks for it.
    pub kept: Duration,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            file_bytes: 32 << 20,
            bytes_per_second: 0,
            throttle: Arc::default(),
            kept: Duration::from_secs(60),
        }
    }
}

/// Takes the pieces of a stream, or why there are no more; says whether it goes on. It may block.
/// It is dropped when the stream is over.
pub type Sink = Box<dyn FnMut(Result<Bytes, Error>) -> ControlFlow<()> + Send>;

/// A group's rows as they stood when it began. Dropped, the view goes and nothing stays.
pub struct Outgoing {
    group: GroupId,
    id: SnapshotId,
    applied: Bytes,
    orders: Mutex<Option<mpsc::SyncSender<Order>>>,
    stop: Arc<Stop>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// From which file on to send, and under which scope.
struct Order {
    scope: Scope,
    from: u32,
    sink: Sink,
}

impl Outgoing {
    /// Freezes the group's rows as they stand now. Blocks for as long as that takes.
    ///
    /// [`Error::Transfer`] if nothing was ever applied: there is nothing to send; or if nobody would
    /// take files of the size that `terms` ask for.
    pub fn begin(group: &Group, id: SnapshotId, terms: Terms) -> Result<Self, Error> {
        if !(1..=ROWS_BYTES_MAX).contains(&terms.file_bytes) {
            return Err(refuse(format!("files of {} bytes are asked for", terms.file_bytes)));
        }
        let (orders, ordered) = mpsc::sync_channel(1);
        let (ready, begun) = mpsc::sync_channel(1);
        let stop = Arc::new(Stop::default());
        let (id_of_group, group, stopped) = (group.id(), group.clone(), stop.clone());
        let thread = thread::Builder::new()
            .name("snapshot-out".to_owned())
            .spawn(move || run(&group, terms, &stopped, &ready, &ordered))
            .map_err(|cause| Error::Io { verb: "send", cause: cause.to_string() })?;
        let applied = begun.recv().map_err(|_| refuse("the sending thread ended"))??;
        let thread = Mutex::new(Some(thread));
        Ok(Self { group: id_of_group, id, applied, orders: Mutex::new(Some(orders)), stop, thread })
    }

    /// Which snapshot it is.
    pub fn id(&self) -> SnapshotId {
        self.id
    }

    /// The applied mark among its rows.
    pub fn applied(&self) -> &Bytes {
        &self.applied
    }

    /// Whether the view is still there.
    pub fn is_kept(&self) -> bool {
        locked(&self.thread).as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Sends the files from number `from` on, for a receiver that files rows under `generation`,
    /// one stream at a time. Returns at once.
    ///
    /// [`Error::Transfer`] if the view is gone, or another stream has not ended yet.
    pub fn send(&self, generation: u32, from: u32, sink: Sink) -> Result<(), Error> {
        self.send_as(Scope { group: self.group, generation }, from, sink)
    }

    /// [`Outgoing::send`], for any group.
    pub(super) fn send_as(&self, scope: Scope, from: u32, sink: Sink) -> Result<(), Error> {
        let order = Order { scope, from, sink };
        let orders = locked(&self.orders);
        let orders = orders.as_ref().ok_or_else(|| refuse("the view is gone"))?;
        orders.try_send(order).map_err(|_| refuse("the view is gone, or busy"))
    }

    /// Ends the view and waits until it is gone, and with it every hold on the store. Blocks: a
    /// sink that takes nothing any more must be gone.
    pub fn close(&self) {
        self.end();
        let thread = locked(&self.thread).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }

    fn end(&self) {
        self.stop.say();
        locked(&self.orders).take();
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.end();
    }
}

/// The thread: freezes, then takes orders until there are none for a while.
fn run(
    group: &Group,
    terms: Terms,
    stop: &Stop,
    ready: &mpsc::SyncSender<Result<Bytes, Error>>,
    orders: &mpsc::Receiver<Order>,
) {
    be_nice();
    let begun = View::begin(group, &terms, stop).and_then(|mut view| {
        let applied = view.applied()?;
        Ok((view, applied))
    });
    let mut view = match begun {
        Ok((view, applied)) => {
            let _ = ready.send(Ok(applied));
            view
        }
        Err(error) => return drop(ready.send(Err(error))),
    };
    while let Ok(mut order) = orders.recv_timeout(terms.kept) {
        if let Err(error) = view.send(&mut order) {
            let _ = (order.sink)(Err(error));
        }
    }
}

/// One frozen view of a group's rows, and where its files begin.
struct View<'v> {
    group: &'v Group,
    terms: &'v Terms,
    stop: &'v Stop,
    cursor: Box<dyn Cursor + 'v>,
    /// The first row of each file that was made, and of the next.
    starts: Vec<Vec<u8>>,
}

/// A file that was made, to be read from its beginning. It has no name any more, and goes when it is dropped.
struct Made {
    head: Head,
    file: File,
}

/// Where a file is made that lives until it was sent. It needs to outlive nothing, but whoever writes
/// files of rows syncs them: on the store's volume that would hold up the log's syncs.
enum Place {
    /// In memory, for as long as this is open.
    Memory(File),
    /// In a folder of the store, where there is no such file to be had.
    Staged(PathBuf),
}

impl Place {
    fn find(store: &dyn Store) -> Result<Self, Error> {
        Self::memory().map_or_else(|| Ok(Self::Staged(store.staging()?)), Ok)
    }

    fn memory() -> Option<Self> {
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        let file = File::from(rustix::fs::memfd_create("snapshot-out", flags).ok()?);
        let place = Self::Memory(file);
        // Without a /proc there is no way to it.
        place.path().exists().then_some(place)
    }

    fn path(&self) -> PathBuf {
        match self {
            Self::Memory(file) => PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd())),
            Self::Staged(dir) => dir.join("file.sst"),
        }
    }

    /// What was written there.
    fn open(&self) -> Result<File, Error> {
        File::open(self.path()).map_err(stage)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Self::Staged(dir) = self {
            let _ = fs::remove_dir_all(dir);
        }
    }
}

/// A stream that nobody takes any more, or why it can't go on.
enum Ended {
    Unwanted,
    Failed(Error),
}

impl From<Error> for Ended {
    fn from(error: Error) -> Self {
        Ended::Failed(error)
    }
}

fn stage(cause: std::io::Error) -> Error {
    Error::Io { verb: "stage", cause: cause.to_string() }
}

impl<'v> View<'v> {
    fn begin(group: &'v Group, terms: &'v Terms, stop: &'v Stop) -> Result<Self, Error> {
        let cursor = group.store.frozen(&group.scope.all());
        let starts = vec![group.scope.bytes().to_vec()];
        Ok(Self { group, terms, stop, cursor, starts })
    }

    /// The applied mark is the first of a group's rows.
    fn applied(&mut self) -> Result<Bytes, Error> {
        self.cursor.seek(&self.group.scope.bytes())?;
        match self.cursor.row() {
            Some((row, value)) if row == Row::as_slice(&self.group.scope.applied()) => {
                Ok(Bytes::copy_from_slice(value))
            }
            _ => Err(refuse("nothing was ever applied")),
        }
    }

    /// Makes and sends file after file, until the last or until nobody takes them.
    fn send(&mut self, order: &mut Order) -> Result<(), Error> {
        let mut number = order.from;
        loop {
            let sent = self.make(number, order.scope).map_err(Ended::from).and_then(|made| {
                let last = made.head.last;
                self.send_file(made, &mut order.sink).map(|()| last)
            });
            match sent {
                Ok(true) | Err(Ended::Unwanted) => return Ok(()),
                Ok(false) => number += 1,
                Err(Ended::Failed(error)) => return Err(error),
            }
        }
    }

    /// Makes the file of a number: again the same rows, if it was made before.
    fn make(&mut self, number: u32, scope: Scope) -> Result<Made, Error> {
        let Some(start) = self.starts.get(number as usize).cloned() else {
            return Err(refuse(format!("the receiver has {number} files, which were never sent")));
        };
        self.cursor.seek(&start)?;
        let mut rows = 0;
        let store = self.group.store.clone();
        let place = Place::find(store.as_ref())?;
        store.write_file(&place.path(), &mut |put| {
            rows = self.fill(scope, put)?;
            Ok(())
        })?;
        let next = self.cursor.row().map(|(row, _)| row.to_vec());
        let last = next.is_none();
        if let Some(next) = next
            && self.starts.len() == number as usize + 1
        {
            self.starts.push(next);
        }
        let file = place.open()?;
        let length = file.metadata().map_err(stage)?.len();
        Ok(Made { head: Head { last, number, rows, length }, file })
    }

    /// Puts rows from where the cursor stands until they fill a file. Returns how many.
    fn fill(&mut self, scope: Scope, put: Put<'_>) -> Result<u64, Error> {
        let mut name = scope.bytes().to_vec();
        let (mut rows, mut bytes, mut slice) = (0, 0, 0);
        let mut begun = Instant::now();
        while bytes < self.terms.file_bytes {
            let Some((row, value)) = self.cursor.row() else { break };
            name.truncate(SCOPE_BYTES);
            name.extend_from_slice(&row[SCOPE_BYTES..]);
            put(&name, value)?;
            rows += 1;
            let took = row.len() + value.len();
            bytes += took;
            slice += took;
            self.cursor.next()?;
            if slice >= SLICE_BYTES {
                self.rest(begun)?;
                (slice, begun) = (0, Instant::now());
            }
        }
        Ok(rows)
    }

    /// Rests for as long as it has worked: half of one core is the most it takes.
    fn rest(&self, since: Instant) -> Result<(), Error> {
        let limited = self.terms.bytes_per_second > 0;
        if self.stop.rest(if limited { since.elapsed() } else { Duration::ZERO }) {
            return Err(refuse("the view is given up"));
        }
        Ok(())
    }

    fn send_file(&self, mut made: Made, sink: &mut Sink) -> Result<(), Ended> {
        let head = made.head.encode();
        let mut sum = Sha256::new().chain_update(&head);
        self.give(sink, head.into())?;
        let mut left = made.head.length;
        while left > 0 {
            let piece = read_piece(&mut made.file, left)?;
            left -= piece.len() as u64;
            sum.update(&piece);
            self.give(sink, piece)?;
        }
        self.give(sink, Bytes::copy_from_slice(&sum.finalize()))
    }

    /// Gives a piece on, then waits until the next may come.
    fn give(&self, sink: &mut Sink, piece: Bytes) -> Result<(), Ended> {
        let Terms { throttle, bytes_per_second, .. } = self.terms;
        let wait = throttle.take(Instant::now(), piece.len(), *bytes_per_second);
        let ended = sink(Ok(piece)).is_break() || self.stop.is_said() || self.stop.rest(wait);
        if ended { Err(Ended::Unwanted) } else { Ok(()) }
    }
}

fn read_piece(file: &mut File, left: u64) -> Result<Bytes, Error> {
    let length = usize::try_from(left).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
    let mut piece = vec![0; length];
    file.read_exact(&mut piece).map_err(stage)?;
    Ok(piece.into())
}
