//! The trait: ordered rows, atomic batches, and what of them is durable.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::Error;
use crate::files::FileReader;
use crate::filter::Floors;
use crate::rows::{Range, Row};

/// Rows to write together: all of them or none.
#[derive(Debug, Default)]
pub struct Rows {
    pub(crate) puts: Vec<(Row, Vec<u8>)>,
    pub(crate) deletes: Vec<Row>,
    pub(crate) range_deletes: Vec<Range>,
}

impl Rows {
    /// Nothing to write.
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes a row, in place of what it held. Deletes of the same batch come before puts.
    pub fn put(&mut self, row: Row, value: Vec<u8>) {
        self.puts.push((row, value));
    }

    /// Takes a row away.
    pub fn delete(&mut self, row: Row) {
        self.deletes.push(row);
    }

    /// Takes away every row of a range.
    pub fn delete_range(&mut self, range: Range) {
        self.range_deletes.push(range);
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.puts.is_empty() && self.deletes.is_empty() && self.range_deletes.is_empty()
    }
}

/// Takes a row's name and value; says whether the scan goes on.
pub type Visit<'v> = &'v mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

/// A durable, ordered map of rows.
///
/// What [`Store::write`] took is seen by every later read at once, and is durable no later than
/// the next [`Store::flush`]. A crash goes back to some earlier prefix of the writes, never to a
/// part of a batch and never to before the last flush.
pub trait Store: Send + Sync + 'static {
    /// The value of a row.
    fn get(&self, row: &Row) -> Result<Option<Bytes>, Error>;

    /// Visits rows of a range in order, or against it, until the visitor breaks off.
    fn scan(&self, range: &Range, reverse: bool, visit: Visit<'_>) -> Result<(), Error>;

    /// Looks rows of a range up by their order, many of them, as they stood when this was called:
    /// a [`Store::scan`] for each would pay for its beginning every time.
    fn seeker(&self, range: &Range) -> Box<dyn Seeker + '_>;

    /// Writes a batch: visible at once, durable with the next flush. Blocks while the store is
    /// behind with what it writes to disk.
    fn write(&self, rows: Rows) -> Result<(), Error>;

    /// [`Store::write`], but [`Error::Behind`] where that would block.
    fn write_now(&self, rows: Rows) -> Result<(), Error> {
        self.write(rows)
    }

    /// The value a row would have after a crash now.
    fn durable(&self, row: &Row) -> Result<Option<Bytes>, Error>;

    /// Makes everything written so far durable.
    fn flush(&self) -> Result<(), Error>;

    /// Rows of a range as they stood when this was called, for one long pass beside everything
    /// else: it fills no cache.
    fn frozen(&self, range: &Range) -> Box<dyn Cursor + '_>;

    /// A new, empty folder on the store's disk, for files of rows on their way in or out. Whoever
    /// asked for it removes it; what a crash leaves goes at the next start.
    fn staging(&self) -> Result<PathBuf, Error>;

    /// Writes a file of rows, in order, that [`Store::take_in`] takes. On an error it is not whole.
    fn write_file(&self, path: &Path, fill: Fill<'_>) -> Result<(), Error>;

    /// Visits the rows of such a file in order, every checksum in it verified. [`Error::Transfer`]
    /// if it does not check, or holds anything but rows; also if it is found behind the rows.
    /// `reader` is what reading several files of one folder keeps between them.
    fn read_file(
        &self,
        path: &Path,
        reader: &mut FileReader,
        visit: Visit<'_>,
    ) -> Result<(), Error>;

    /// Takes the rows of files in: durably, and all or none. The files are gone then. No row may
    /// be in a range that holds any.
    fn take_in(&self, files: &[PathBuf]) -> Result<(), Error>;

    /// Takes away every row of a range that nobody reads any more, and gives back its space where
    /// that costs no compaction.
    fn give_up(&self, range: &Range) -> Result<(), Error>;

    /// How many bytes the store holds on disk.
    fn disk_bytes(&self) -> u64;

    /// About how many bytes of a range the store holds on disk: what was not flushed yet, and rows
    /// that share a block with others, may be left out or counted with them.
    fn approximate_bytes(&self, range: &Range) -> u64;

    /// Which history it may drop by itself; its groups say.
    fn floors(&self) -> &Floors;

    /// How many bytes the volume it stands on has left.
    fn free_bytes(&self) -> Result<u64, Error>;

    /// Whether it still takes writes, and if not, why. Cheap; changes nothing.
    fn health(&self) -> Health;

    /// Closes the store and opens it again in place, which is the way out of an error that sticks.
    /// What was not flushed may be gone: every [`crate::Group`] on it is to be opened anew, and
    /// what the log has behind its durable mark applied again. Snapshots under way must be dropped
    /// before; reads that began before are waited for, up to 10 s.
    ///
    /// On an error the store is as it was, or closed: then [`Store::health`] says why, everything
    /// else fails, and this may be tried again.
    fn reopen(&self) -> Result<(), Error>;

    /// Reads everything of a range that is on disk, from the disk, and checks it. `pace` is told
    /// the bytes as they are read; it may wait, or break the walk off. Returns how many bytes were
    /// read.
    ///
    /// [`Error::Corrupt`] names the first file and place that is damaged. Bytes of other ranges that
    /// share a file's index and filter are read with it.
    fn scrub(&self, range: &Range, pace: Pace<'_>) -> Result<u64, Error>;

    /// [`Store::scrub`] of several ranges, which do not overlap, in one walk.
    fn scrub_ranges(&self, ranges: &[Range], pace: Pace<'_>) -> Result<u64, Error> {
        let (mut read_bytes, mut goes_on) = (0, true);
        for range in ranges {
            read_bytes += self.scrub(range, &mut |bytes| {
                let flow = pace(bytes);
                goes_on = flow.is_continue();
                flow
            })?;
            if !goes_on {
                break;
            }
        }
        Ok(read_bytes)
    }
}

/// Told how many bytes were read; may wait before it returns; says whether the walk goes on.
pub type Pace<'p> = &'p mut dyn FnMut(u64) -> ControlFlow<()>;

/// Whether a store still takes writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It does.
    Well,
    /// It met the end of its volume. It reads, and goes on by itself within seconds once there is
    /// room; [`Store::reopen`] is the way if it doesn't. Holds what the store said.
    Full(String),
    /// It failed, or met bytes that do not check, and will not take writes before
    /// [`Store::reopen`]. Holds what the store said.
    Broken(String),
}

/// A row's name and value, where they stand.
pub type RowRef<'r> = (&'r [u8], &'r [u8]);

/// Looks rows up by the part of their name that their file's filter knows (`bloom`).
pub trait Seeker {
    /// The first row of the range at or behind a name, if it shares the name's part: for versions of
    /// a key, the key; for rows of a claim, the claim. What comes behind those may be passed over.
    fn seek(&mut self, name: &[u8]) -> Result<Option<RowRef<'_>>, Error>;
}

/// Walks rows in order.
pub trait Cursor {
    /// Goes to the first row of the range at or behind a name.
    fn seek(&mut self, name: &[u8]) -> Result<(), Error>;

    /// The row it stands at; `None` behind the last.
    fn row(&self) -> Option<RowRef<'_>>;

    /// Goes to the next row.
    fn next(&mut self) -> Result<(), Error>;
}

/// Takes the next row of a file.
pub type Put<'p> = &'p mut dyn FnMut(&[u8], &[u8]) -> Result<(), Error>;

/// Puts the rows of a file, in order.
pub type Fill<'f> = &'f mut dyn FnMut(Put<'_>) -> Result<(), Error>;
