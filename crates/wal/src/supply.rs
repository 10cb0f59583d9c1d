//! Where segments come from: spares, made ready by a helper thread or recycled.
//!
//! A file that is full of zeros (or of an earlier segment) needs no new blocks and no new
//! length when it is written, so `fdatasync` has no metadata to journal and takes about half as
//! long. What a spare holds does not matter: every checksum is bound to the segment's number,
//! which no file had before. So spares and their names need no sync of their own.
//!
//! A log is cut in bursts, a flush's worth at a time, and grows again by as much. So more files wait
//! to be written into again than are kept ready, as many as the bound of the log's disk use leaves
//! room for ([`Supply::recycle`]): filled with zeros anew they would cost as much as the log itself.
//!
//! When a spare can't be made and none is left the supply says it is out, and `append` refuses
//! until one was made: the helper rests until somebody asks it to try again. Appends that were
//! accepted while there is little space fit into the files there are, with a part of a segment to
//! spare, which is the reserve for what frees space: purges, truncations, marks. Should the writer
//! need a file all the same, it waits until there is one: nothing was written, so nothing is in
//! doubt, and want of space ends no log. (Other errors do, and with no helper every error does.) A
//! file that must be longer than a segment gets its length before anything is written there, and
//! waits for that, too.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::batch::BatchBuilder;
use crate::disk::{Disk, File};
use crate::ledger::Ledger;
use crate::segment::{self, SEGMENT_HEADER_BYTES, SegmentHeader};

/// Written in one go, a page: the kernel keeps what it gets at once together in its cache, and a
/// record written into a piece of a mebibyte later makes all of it dirty and is slower to sync.
const FILL_BYTES: usize = 4 << 10;
/// A sync of more at once would hold up the syncs of the log.
const FILL_SYNC_CHUNKS: u64 = (1 << 20) / FILL_BYTES as u64;

/// The rest behind each such sync: the disk and the CPU are others' in between.
const FILL_REST: Duration = Duration::from_millis(1);

/// Between two tries of a writer that waits for space: nothing tells when there is some.
const FULL_RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// A file that must be longer than a segment grows by so much at a time.
const LENGTHEN_BYTES: u64 = 1 << 20;

/// With room for fewer segments than this, appends are held to what the files there are hold.
const TIGHT_SEGMENTS: u64 = 4;

/// A file that waits to become a segment.
#[derive(Debug)]
pub(crate) struct Spare {
    pub(crate) name: String,
    pub(crate) file: Arc<dyn File>,
}

#[derive(Debug, Default)]
struct Shelf {
    ready: Vec<Spare>,
    next_number: u64,
    /// The helper is making one.
    making: bool,
    /// The last try to make one failed.
    failed: bool,
    /// Somebody asked for another try.
    retry: bool,
    /// What was missing at the last try was space.
    no_space: bool,
    closing: bool,
    stopped: bool,
}

/// The spares of one log.
#[derive(Debug)]
pub(crate) struct Supply {
    disk: Arc<dyn Disk>,
    segment_bytes: u64,
    ahead: usize,
    shelf: Mutex<Shelf>,
    changed: Condvar,
    /// Length of `ready`.
    ready_count: AtomicUsize,
    out: AtomicBool,
    /// It is out for want of space.
    full: AtomicBool,
    /// When it was looked last, there was room for few segments more.
    tight: AtomicBool,
}

impl Supply {
    /// `ahead` spares are kept ready; `next_number` is above that of any spare on disk.
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        segment_bytes: u64,
        ahead: usize,
        ready: Vec<Spare>,
        next_number: u64,
    ) -> Self {
        let ready_count = AtomicUsize::new(ready.len());
        let shelf = Mutex::new(Shelf { ready, next_number, ..Shelf::default() });
        let [out, full, tight] = [(); 3].map(|()| AtomicBool::new(false));
        let changed = Condvar::new();
        let supply =
            Self { disk, segment_bytes, ahead, shelf, changed, ready_count, out, full, tight };
        supply.look();
        supply
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the last spare could not be made and none is left.
    pub(crate) fn is_out(&self) -> bool {
        self.out.load(Ordering::Relaxed)
    }

    /// Whether it is out for want of space. Out for another reason it is no use to wait: appends are
    /// taken, and the writer meets the disk's error as soon as it needs a file.
    pub(crate) fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// Lets the helper try again. The supply stays out until that has worked: else an append
    /// would slip in at each try.
    pub(crate) fn try_again(&self) {
        self.shelf().retry = true;
        self.changed.notify_all();
    }

    /// How many spares are ready.
    pub(crate) fn ready(&self) -> usize {
        self.ready_count.load(Ordering::Relaxed)
    }

    /// Whether the next spare may be the last. Never without a helper: nothing is ahead then.
    pub(crate) fn is_tight(&self) -> bool {
        self.ahead > 0 && self.tight.load(Ordering::Relaxed)
    }

    /// Looks how much room there is.
    fn look(&self) {
        let free = self.disk.free_bytes().unwrap_or(u64::MAX);
        self.tight.store(free < TIGHT_SEGMENTS * self.segment_bytes, Ordering::Relaxed);
    }

    /// A spare: a ready one, or the one the helper is making, or one made here and now. Waits
    /// while there is no space for one, unless the log is closing.
    pub(crate) fn take(&self) -> io::Result<Spare> {
        let mut shelf = self.shelf();
        loop {
            if let Some(spare) = self.pop(&mut shelf) {
                return Ok(spare);
            }
            let given_up = self.is_out() && (shelf.closing || !shelf.no_space);
            if self.ahead == 0 || given_up || shelf.stopped {
                drop(shelf);
                return self.take_at_once();
            }
            if self.is_out() {
                shelf.retry = true;
                self.changed.notify_all();
                let waited = self.changed.wait_timeout(shelf, FULL_RETRY_INTERVAL);
                shelf = waited.unwrap_or_else(PoisonError::into_inner).0;
            } else {
                shelf = self.changed.wait(shelf).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    fn pop(&self, shelf: &mut Shelf) -> Option<Spare> {
        let spare = shelf.ready.pop()?;
        shelf.failed = false;
        self.ready_count.store(shelf.ready.len(), Ordering::Relaxed);
        self.changed.notify_all();
        Some(spare)
    }

    /// A ready spare, or one made here and now: for when no helper runs yet.
    pub(crate) fn take_at_once(&self) -> io::Result<Spare> {
        let mut shelf = self.shelf();
        if let Some(spare) = self.pop(&mut shelf) {
            return Ok(spare);
        }
        let number = shelf.number();
        drop(shelf);
        self.make(number, false)
    }

    /// Makes a file so long that nothing written into that length needs space. Waits while there
    /// is none, as [`Supply::take`] does: what is added are zeros, so nothing is in doubt.
    pub(crate) fn lengthen(&self, file: &dyn File, to: u64) -> io::Result<()> {
        let mut length = file.length()?;
        let zeros = vec![0; (to.saturating_sub(length)).min(LENGTHEN_BYTES) as usize];
        while length < to {
            let bytes = (to - length).min(LENGTHEN_BYTES);
            match file.write_at(&zeros[..bytes as usize], length) {
                Ok(()) => length += bytes,
                Err(error) if is_full(&error) && self.wait_for_space() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Waits a little. False if there is no use in it.
    fn wait_for_space(&self) -> bool {
        let shelf = self.shelf();
        if self.ahead == 0 || shelf.closing || shelf.stopped {
            return false;
        }
        drop(self.changed.wait_timeout(shelf, FULL_RETRY_INTERVAL));
        true
    }

    /// Takes the file of a segment nobody needs: as a spare if there are not `spares_max` yet and
    /// nobody reads it still, else it is removed. Either way its name is durably gone.
    pub(crate) fn recycle(
        &self,
        name: &str,
        file: Arc<dyn File>,
        spares_max: usize,
    ) -> io::Result<()> {
        self.look();
        let wanted = self.shelf().coming() < self.spares_max(spares_max);
        let unread = Arc::strong_count(&file) == 1;
        if wanted && unread && file.length()? == self.segment_bytes {
            let spare = segment::spare_file(self.shelf().number());
            self.disk.rename(name, &spare)?;
            self.disk.sync_dir()?;
            self.put(Spare { name: spare, file });
        } else {
            self.disk.remove(name)?;
            self.disk.sync_dir()?;
        }
        Ok(())
    }

    /// Removes spares that are more than `spares_max`: the space is worth more than the time it
    /// takes to fill a file again.
    pub(crate) fn shed(&self, spares_max: usize) -> io::Result<()> {
        let most = self.spares_max(spares_max);
        while self.ready() > most {
            let spare = self.shelf().ready.pop();
            let Some(Spare { name, .. }) = spare else { break };
            self.ready_count.fetch_sub(1, Ordering::Relaxed);
            self.disk.remove(&name)?;
        }
        Ok(())
    }

    /// How many spares are kept, if so many may be: those kept ready in any case, and on a disk that
    /// fills up no more.
    fn spares_max(&self, allowed: usize) -> usize {
        let ready = self.ahead.max(1);
        if self.tight.load(Ordering::Relaxed) { ready } else { ready.max(allowed) }
    }

    fn put(&self, spare: Spare) {
        let mut shelf = self.shelf();
        shelf.ready.push(spare);
        shelf.failed = false;
        self.ready_count.store(shelf.ready.len(), Ordering::Relaxed);
        self.out.store(false, Ordering::Relaxed);
        self.full.store(false, Ordering::Relaxed);
        self.changed.notify_all();
    }

    /// The helper's life: makes spares until [`Supply::stop`].
    pub(crate) fn run(&self) {
        loop {
            let number = {
                let mut shelf = self.shelf();
                while self.may_rest(&shelf) {
                    shelf = self.changed.wait(shelf).unwrap_or_else(PoisonError::into_inner);
                }
                if shelf.stopped {
                    return;
                }
                (shelf.retry, shelf.failed, shelf.making) = (false, false, true);
                shelf.number()
            };
            let made = self.make(number, true);
            self.shelf().making = false;
            match made {
                Ok(spare) => self.put(spare),
                Err(error) => self.ran_out(&error),
            }
        }
    }

    fn may_rest(&self, shelf: &Shelf) -> bool {
        let enough = shelf.ready.len() >= self.ahead;
        // Till somebody asks, or takes one, or brings one.
        let hopeless = (self.is_out() || shelf.failed) && !shelf.retry;
        (enough || hopeless) && !shelf.stopped
    }

    fn ran_out(&self, error: &io::Error) {
        let mut shelf = self.shelf();
        shelf.failed = true;
        // A segment may have been recycled meanwhile: then there is no need to complain.
        if !shelf.ready.is_empty() || shelf.stopped {
            return;
        }
        shelf.no_space = is_full(error);
        self.full.store(shelf.no_space, Ordering::Relaxed);
        if !self.out.swap(true, Ordering::Relaxed) {
            tracing::warn!(%error, "no spare segment could be made");
            self.changed.notify_all();
        }
    }

    /// The log is closing: who waits for space gives up.
    pub(crate) fn close(&self) {
        self.shelf().closing = true;
        self.changed.notify_all();
    }

    /// Ends the helper. A spare in the making is finished first.
    pub(crate) fn stop(&self) {
        self.shelf().stopped = true;
        self.changed.notify_all();
    }

    /// Makes a spare; the helper, which works ahead, with rests in between.
    fn make(&self, number: u64, rests: bool) -> io::Result<Spare> {
        self.look();
        let name = segment::spare_file(number);
        let file = self.disk.create(&name)?;
        let filled = self.fill(file.as_ref(), rests);
        if filled.is_err() {
            // Its blocks are worth more than its name; nothing depends on either.
            let _ = self.disk.remove(&name);
        }
        filled.map(|()| Spare { name, file })
    }

    fn fill(&self, file: &dyn File, rests: bool) -> io::Result<()> {
        let zeros = vec![0; FILL_BYTES.min(self.segment_bytes as usize)];
        for chunk in 0..self.segment_bytes.div_ceil(zeros.len() as u64) {
            let offset = chunk * zeros.len() as u64;
            let bytes = (self.segment_bytes - offset).min(zeros.len() as u64) as usize;
            file.write_at(&zeros[..bytes], offset)?;
            if chunk % FILL_SYNC_CHUNKS == FILL_SYNC_CHUNKS - 1 {
                file.sync_data()?;
                if rests {
                    self.rest();
                }
            }
        }
        file.sync_data()
    }

    /// The helper's rest, which an end cuts short.
    fn rest(&self) {
        let shelf = self.shelf();
        let _ = self.changed.wait_timeout_while(shelf, FILL_REST, |shelf| !shelf.stopped);
    }
}

impl Shelf {
    /// Spares that are ready or about to be.
    fn coming(&self) -> usize {
        self.ready.len() + usize::from(self.making)
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number - 1
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Makes a spare the segment that `header` says: its header, its checkpoint and its name are
/// on disk when this returns. Returns where the next batch goes.
///
/// The name comes last, so a segment is there with its checkpoint or not at all: from its header
/// on it proves where the one before ends.
pub(crate) fn begin_segment(
    disk: &dyn Disk,
    supply: &Supply,
    spare: &Spare,
    header: SegmentHeader,
    ledger: &Ledger,
) -> io::Result<u64> {
    let mut batch = BatchBuilder::new(header.binding, SEGMENT_HEADER_BYTES as u64, Vec::new());
    for record in ledger.checkpoint() {
        let number = record.stream().map_or(0, |stream| ledger.number(stream));
        batch.put(&record, number);
    }
    let (batch, end) = batch.seal(0, Some(ledger));
    let mut bytes = header.encode();
    bytes.extend_from_slice(&batch);
    supply.lengthen(spare.file.as_ref(), bytes.len() as u64)?;
    spare.file.write_at(&bytes, 0)?;
    spare.file.sync_data()?;
    disk.rename(&spare.name, &segment::segment_file(header.binding.segment))?;
    disk.sync_dir()?;
    Ok(end)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::disk::sim::SimDisk;

    /// Lets the helper of an empty shelf run until it is out, looks, and stops it.
    fn out_on(disk: &SimDisk, look: impl FnOnce(&Supply)) {
        let supply = Supply::new(Arc::new(disk.clone()), 4096, 1, Vec::new(), 1);
        thread::scope(|scope| {
            scope.spawn(|| supply.run());
            while !supply.is_out() {
                thread::yield_now();
            }
            look(&supply);
            supply.stop();
        });
    }

    #[test]
    fn want_of_space_is_waited_for_and_a_disk_that_fails_is_not() {
        let full = SimDisk::new(1);
        full.limit_space(Some(100));
        out_on(&full, |supply| assert!(supply.is_full()));
        let broken = SimDisk::new(1);
        broken.crash();
        out_on(&broken, |supply| {
            assert!(!supply.is_full(), "appends must pass, to meet the error");
            assert_eq!(supply.take().unwrap_err().to_string(), "crashed");
        });
    }
}
