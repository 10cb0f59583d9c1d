//! The store over RocksDB.
//!
//! One column family, no log, LZ4; how it is set up is `options`' matter. What is durable is asked of
//! RocksDB itself: with its log off, a read of the persisted tier skips the memtables and so shows
//! what a crash would leave. The directory holds `rocks/`, which is RocksDB's,
//! `staging/`, where snapshots are put together and which is emptied at start,
//! `trash/`, through which RocksDB's files leave,
//! `FORMAT`, one line: a build that does not know it touches nothing, and `OPENED`, which says that there
//! must be a `rocks/`. The directory itself is locked
//! (`lock`) before anything in it is looked at, and RocksDB locks its own folder behind that.
//!
//! RocksDB can be closed and opened again under a store that lives on ([`Store::reopen`]): everything
//! that reads or writes takes a share of the open one, and the close waits for the last share to
//! be given back. Meanwhile, and after a reopening that failed, everything answers an error.

use std::convert::Infallible;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use rocksdb::{
    BottommostLevelCompaction, CompactOptions, DB, DBRawIterator, ErrorKind, Options, ReadOptions,
    ReadTier, WriteBatch, WriteOptions,
};

use crate::files::FileReader;
use crate::filter::{Filters, Floors};
use crate::lock::Lock;
use crate::options::{self, Budget};
use crate::rows::{Range, Row};
use crate::stall::{Turn, stalled, write_options};
use crate::store::{Cursor, Fill, Health, Pace, RowRef, Rows, Seeker, Store, Visit};
use crate::trash::{TRASH, Trash};
use crate::{Error, files, format, io, manifest, scrub};

/// RocksDB's folder in a store's.
pub(crate) const ROCKS: &str = "rocks";
/// Where snapshots are put together.
pub(crate) const STAGING: &str = "staging";

/// So long a reopening waits for those who still read.
const READERS_LEAVE_MAX: Duration = Duration::from_secs(10);

/// RocksDB as the store of a node.
pub struct RocksStore {
    /// `None` while it is opened again, and when that has failed.
    open: ArcSwapOption<Open>,
    /// Held while RocksDB is closed and opened.
    reopening: Mutex<Reopening>,
    dir: PathBuf,
    budget: Budget,
    staged: AtomicU64,
    /// How many of those are under way that hold up every write, which no option refuses.
    holds_up: AtomicUsize,
    floors: Arc<Floors>,
    /// `None` where its folder could not be made.
    _trash: Option<Trash>,
    /// Last: nobody gets in before RocksDB is closed.
    _lock: Lock,
}

/// What a reopening needs to know of the time before it.
struct Reopening {
    /// Ends when the open RocksDB has been closed.
    closed: Receiver<Infallible>,
    /// Why there is none open.
    failed: Option<String>,
}

/// An open RocksDB, closed when the last share of it is given back.
pub(crate) struct Open {
    pub(crate) db: DB,
    pub(crate) write_options: WriteOptions,
    pub(crate) turn: Turn,
    /// What it was opened with: files made for it have its filters and compression.
    pub(crate) options: Options,
    /// Gone when `db` is, and so tells of it.
    _closed: Sender<Infallible>,
}

/// What RocksDB says of a read: that its bytes are damaged, or that it could not.
pub(crate) fn unread(what: &'static str, cause: rocksdb::Error) -> Error {
    match cause.kind() {
        ErrorKind::Corruption => Error::Corrupt { what, cause: cause.into_string() },
        _ => io("read", cause.into_string()),
    }
}

/// Makes a folder and its parents if they are not there. Its name is synced even if it is there: an
/// earlier start may have made it and died, and a power cut would take the whole store with the name.
fn make_folder(dir: &Path) -> std::io::Result<()> {
    let parents = || dir.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty());
    if !dir.is_dir() {
        fs::create_dir_all(dir)?;
        return parents().try_for_each(|parent| fs::File::open(parent)?.sync_all());
    }
    // A parent that we may not open is not one that we have made this in.
    match parents().next().map(fs::File::open) {
        Some(Ok(parent)) => parent.sync_all(),
        _ => Ok(()),
    }
}

impl RocksStore {
    /// Opens the store in `dir`, making it if it is not there, and brings an older format up.
    ///
    /// Fails with [`Error::InUse`] if another process has it open, and with [`Error::Format`] if a
    /// newer build wrote it; nothing was changed then.
    pub fn open(dir: &Path, budget: Budget) -> Result<Self, Error> {
        let staging = dir.join(STAGING);
        make_folder(dir).map_err(|cause| io("open", cause))?;
        let lock = Lock::take(dir)?;
        format::bring_up(dir)?;
        let floors = Arc::new(Floors::default());
        let (open, closed) = Open::begin(dir, budget, &floors)?;
        format::has_opened(dir)?;
        // Only behind RocksDB's lock: nobody else's staging is emptied.
        if staging.exists() {
            fs::remove_dir_all(&staging).map_err(|cause| io("clean", cause))?;
        }
        fs::create_dir(&staging).map_err(|cause| io("open", cause))?;
        let trash = Trash::begin(dir.join(ROCKS), dir.join(TRASH));
        let trash = trash
            .inspect_err(|error| tracing::warn!(%error, "files that go are removed in one go"))
            .ok();
        Ok(Self {
            open: ArcSwapOption::from_pointee(open),
            reopening: Mutex::new(Reopening { closed, failed: None }),
            dir: dir.to_owned(),
            budget,
            staged: AtomicU64::new(0),
            holds_up: AtomicUsize::new(0),
            floors,
            _trash: trash,
            _lock: lock,
        })
    }

    /// Compacts everything, which gives back at once what compactions would give back in time.
    /// Blocks; meant for when the disk is idle.
    pub fn compact(&self) -> Result<(), Error> {
        let mut how = CompactOptions::default();
        how.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
        let open = self.share("compact")?;
        open.db.compact_range_opt(None::<&[u8]>, None::<&[u8]>, &how);
        Ok(())
    }

    /// Does what holds up writes meanwhile: those that must not wait are refused from its beginning on.
    pub(crate) fn held_up<T>(&self, work: impl FnOnce() -> T) -> T {
        /// However the work ends.
        struct Under<'a>(&'a AtomicUsize);
        impl Drop for Under<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::AcqRel);
            }
        }
        self.holds_up.fetch_add(1, Ordering::AcqRel);
        let _under = Under(&self.holds_up);
        work()
    }

    /// A share of the open RocksDB.
    pub(crate) fn share(&self, verb: &'static str) -> Result<Arc<Open>, Error> {
        self.open.load_full().ok_or_else(|| io(verb, "it is closed, to be opened again"))
    }

    /// Waits until the RocksDB that was open is closed; on an error it is open as before.
    fn close(&self, closed: &Receiver<Infallible>, wait: Duration) -> Result<(), Error> {
        let Some(open) = self.open.swap(None) else { return Ok(()) };
        let still = Arc::downgrade(&open);
        drop(open);
        if closed.recv_timeout(wait) == Err(RecvTimeoutError::Timeout)
            && let Some(open) = still.upgrade()
        {
            self.open.store(Some(open));
            return Err(io("reopen", format!("it is still being read after {wait:?}")));
        }
        Ok(())
    }

    /// [`Store::reopen`], waiting so long for readers.
    pub(crate) fn reopen_within(&self, wait: Duration) -> Result<(), Error> {
        let mut reopening = self.reopening.lock().unwrap_or_else(PoisonError::into_inner);
        self.close(&reopening.closed, wait)?;
        match Open::begin(&self.dir, self.budget, &self.floors) {
            Ok((open, closed)) => {
                *reopening = Reopening { closed, failed: None };
                self.open.store(Some(Arc::new(open)));
                Ok(())
            }
            Err(error) => {
                reopening.failed = Some(error.to_string());
                Err(error)
            }
        }
    }

    /// Whether nothing waits for it to be closed.
    #[cfg(test)]
    pub(crate) fn open_now(&self) -> bool {
        self.open.load().is_some()
    }
}

pub(crate) fn batch_of(rows: &Rows) -> WriteBatch {
    let mut batch = WriteBatch::default();
    for range in &rows.range_deletes {
        batch.delete_range(&range.start, &range.end);
    }
    for row in &rows.deletes {
        batch.delete(&row.0);
    }
    for (row, value) in &rows.puts {
        batch.put(&row.0, value);
    }
    batch
}

impl Open {
    /// Opens RocksDB in a store's directory. What is returned beside it ends when it is closed.
    fn begin(
        dir: &Path,
        budget: Budget,
        floors: &Arc<Floors>,
    ) -> Result<(Self, Receiver<Infallible>), Error> {
        manifest::check(&dir.join(ROCKS)).map_err(|fault| {
            let at = fault.offset.map(|offset| format!(" at {offset}")).unwrap_or_default();
            let cause = format!("{}{at}: {}", fault.file, fault.cause);
            Error::Corrupt { what: "the list of files", cause }
        })?;
        format::check_rocks(dir)?;
        let mut options = options::options(budget);
        options.set_compaction_filter_factory(Filters(floors.clone()));
        let db = DB::open(&options, dir.join(ROCKS)).map_err(|cause| {
            let text = cause.to_string();
            if text.contains("While lock file") || text.contains("lock hold by current process") {
                Error::InUse { dir: dir.display().to_string() }
            } else {
                unread("its files", cause)
            }
        })?;
        let (tells, closed) = channel();
        let (write_options, turn) = (write_options(), Turn::default());
        Ok((Self { db, write_options, turn, options, _closed: tells }, closed))
    }

    /// What a write would meet: RocksDB's sticky error, if it has one. Changes nothing.
    pub(crate) fn stopped(&self) -> Option<String> {
        match self.db.write_opt(WriteBatch::default(), &self.write_options) {
            Ok(()) => None,
            // A store that is behind with compaction is slow, not ill.
            Err(cause) if stalled(&cause) => None,
            Err(cause) => Some(cause.into_string()),
        }
    }
}

/// Whether an error says that a volume is full.
pub(crate) fn says_full(cause: &str) -> bool {
    let full = ["No space left on device", "Max allowed space was reached", "Disk quota exceeded"];
    full.iter().any(|text| cause.contains(text))
}

/// What an error says of the store's health.
fn classify(cause: String) -> Health {
    if says_full(&cause) { Health::Full(cause) } else { Health::Broken(cause) }
}

fn walk(mut rows: DBRawIterator<'_>, reverse: bool, visit: Visit<'_>) -> Result<(), Error> {
    if reverse {
        rows.seek_to_last();
    } else {
        rows.seek_to_first();
    }
    while let Some((row, value)) = rows.item() {
        if visit(row, value).is_break() {
            return Ok(());
        }
        if reverse {
            rows.prev();
        } else {
            rows.next();
        }
    }
    // The end of the range, or a block that does not check: only the status tells them apart.
    rows.status().map_err(|cause| unread("a range", cause))
}

type Iterating<'d> = DBRawIterator<'d>;

self_cell::self_cell!(
    /// One iterator, moved about, and its share of what it reads: what it sees was frozen when it
    /// was made.
    struct RocksSeeker {
        owner: Arc<Open>,
        #[not_covariant]
        dependent: Iterating,
    }
);

impl Seeker for RocksSeeker {
    fn seek(&mut self, name: &[u8]) -> Result<Option<RowRef<'_>>, Error> {
        self.with_dependent_mut(|_, rows| {
            rows.seek(name);
            if !rows.valid() {
                // The end of the range, or a block that does not check.
                rows.status().map_err(|cause| unread("a row", cause))?;
            }
            Ok(rows.item())
        })
    }
}

/// In place of a seeker of a store that is closed.
struct NoSeeker;

impl Seeker for NoSeeker {
    fn seek(&mut self, _name: &[u8]) -> Result<Option<RowRef<'_>>, Error> {
        Err(io("read", "it is closed, to be opened again"))
    }
}

impl Store for RocksStore {
    fn get(&self, row: &Row) -> Result<Option<Bytes>, Error> {
        let value = self.share("read")?.db.get(&row.0).map_err(|cause| unread("a row", cause))?;
        Ok(value.map(Bytes::from))
    }

    fn scan(&self, range: &Range, reverse: bool, visit: Visit<'_>) -> Result<(), Error> {
        if range.is_empty() {
            return Ok(());
        }
        let how =
            if reverse { options::walk_options(range) } else { options::look_up_options(range) };
        let open = self.share("read")?;
        walk(open.db.raw_iterator_opt(how), reverse, visit)
    }

    fn seeker(&self, range: &Range) -> Box<dyn Seeker + '_> {
        let Ok(open) = self.share("read") else { return Box::new(NoSeeker) };
        let how = options::seeker_options(range);
        Box::new(RocksSeeker::new(open, |open| open.db.raw_iterator_opt(how)))
    }

    fn write(&self, rows: Rows) -> Result<(), Error> {
        self.share("write")?.write(&rows)
    }

    fn write_now(&self, rows: Rows) -> Result<(), Error> {
        if self.holds_up.load(Ordering::Acquire) > 0 {
            return Err(Error::Behind);
        }
        self.share("write")?.write_now(&rows)
    }

    fn durable(&self, row: &Row) -> Result<Option<Bytes>, Error> {
        let mut how = ReadOptions::default();
        how.set_read_tier(ReadTier::Persisted);
        let value = self.share("read")?.db.get_opt(&row.0, &how);
        Ok(value.map_err(|cause| unread("a row", cause))?.map(Bytes::from))
    }

    fn flush(&self) -> Result<(), Error> {
        let begun = Instant::now();
        self.share("flush")?.db.flush().map_err(|cause| io("flush", cause))?;
        metrics::histogram!("stemedb_storage_flush_seconds").record(begun.elapsed());
        Ok(())
    }

    fn frozen(&self, range: &Range) -> Box<dyn Cursor + '_> {
        match self.share("read") {
            Ok(open) => files::frozen(open, options::walk_options(range)),
            Err(_) => files::nothing(),
        }
    }

    fn staging(&self) -> Result<PathBuf, Error> {
        let number = self.staged.fetch_add(1, Ordering::Relaxed);
        let dir = self.dir.join(STAGING).join(format!("{number:08}"));
        fs::create_dir(&dir).map_err(|cause| io("stage", cause))?;
        Ok(dir)
    }

    fn write_file(&self, path: &Path, fill: Fill<'_>) -> Result<(), Error> {
        files::write(&self.share("stage")?.options, path, fill)
    }

    fn read_file(
        &self,
        path: &Path,
        reader: &mut FileReader,
        visit: Visit<'_>,
    ) -> Result<(), Error> {
        reader.read(path, visit)
    }

    fn take_in(&self, files: &[PathBuf]) -> Result<(), Error> {
        let open = self.share("ingest into")?;
        files::let_compactions_end(&open.db);
        self.held_up(|| files::take_in(&open.db, files))
    }

    fn give_up(&self, range: &Range) -> Result<(), Error> {
        if range.is_empty() {
            return Ok(());
        }
        files::drop_whole(&self.share("sweep")?.db, range)?;
        let mut rows = Rows::new();
        rows.delete_range(range.clone());
        self.write(rows)
    }

    fn disk_bytes(&self) -> u64 {
        let Ok(open) = self.share("measure") else { return 0 };
        let live = open.db.property_int_value("rocksdb.total-sst-files-size");
        live.ok().flatten().unwrap_or(0)
    }

    fn approximate_bytes(&self, range: &Range) -> u64 {
        let Some(open) = self.share("measure").ok().filter(|_| !range.is_empty()) else { return 0 };
        let asked = [rocksdb::Range::new(&range.start, &range.end)];
        open.db.get_approximate_sizes(&asked).into_iter().sum()
    }

    fn floors(&self) -> &Floors {
        &self.floors
    }

    fn free_bytes(&self) -> Result<u64, Error> {
        let volume = rustix::fs::statvfs(&self.dir).map_err(|cause| io("measure", cause))?;
        Ok(volume.f_bavail.saturating_mul(volume.f_frsize))
    }

    fn health(&self) -> Health {
        match self.open.load_full() {
            // It would wait as long as the others; who holds them up hears of an error first.
            Some(_) if self.holds_up.load(Ordering::Acquire) > 0 => Health::Well,
            Some(open) => open.stopped().map_or(Health::Well, classify),
            None => {
                let Ok(reopening) = self.reopening.try_lock() else {
                    return Health::Broken("it is being opened again".to_owned());
                };
                reopening.failed.clone().map_or(Health::Well, classify)
            }
        }
    }

    fn reopen(&self) -> Result<(), Error> {
        self.reopen_within(READERS_LEAVE_MAX)
    }

    fn scrub(&self, range: &Range, pace: Pace<'_>) -> Result<u64, Error> {
        self.scrub_ranges(std::slice::from_ref(range), pace)
    }

    fn scrub_ranges(&self, ranges: &[Range], pace: Pace<'_>) -> Result<u64, Error> {
        let live = || {
            let files = self.share("scrub")?.db.live_files();
            files.map_err(|cause| unread("its files", cause))
        };
        scrub::scrub(&self.dir.join(ROCKS), &live, ranges, pace)
    }
}
