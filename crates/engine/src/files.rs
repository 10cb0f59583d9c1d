//! Files of rows over RocksDB: SST files, written, checked and taken in.
//!
//! A file from elsewhere must not be trusted to hold rows only: a range
//! deletion in it would take rows of other groups away. RocksDB opens such a
//! file only inside a database, so it is checked in one that holds nothing
//! else ([`FileReader`]). That reads the file once more, every block's checksum included.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rocksdb::{
    BlockBasedOptions, DB, DBRawIterator, Error as RocksError, ErrorKind,
    IngestExternalFileOptions, Options, ReadOptions, SstFileWriter,
};

use crate::rocks::{Open, unread};
use crate::rows::Range;
use crate::store::{Cursor, Fill, RowRef, Visit};
use crate::{Error, io};

/// Read ahead in a pass over many rows.
const READ_AHEAD_BYTES: usize = 1 << 20;
/// So long an ingest waits for compactions.
const COMPACTIONS_END_MAX: Duration = Duration::from_secs(5);
/// Between two looks whether they have ended.
const COMPACTIONS_LOOK_INTERVAL: Duration = Duration::from_millis(10);

type Iterating<'d> = DBRawIterator<'d>;

self_cell::self_cell!(
    /// One iterator over what stood when it was made, and its share of what it reads.
    struct Frozen {
        owner: Arc<Open>,
        #[not_covariant]
        dependent: Iterating,
    }
);

/// Rows as they stand now, read without filling the cache.
pub(crate) fn frozen(open: Arc<Open>, mut how: ReadOptions) -> Box<dyn Cursor> {
    how.fill_cache(false);
    how.set_readahead_size(READ_AHEAD_BYTES);
    Box::new(Frozen::new(open, |open| open.db.raw_iterator_opt(how)))
}

/// The end of the range, or a block that does not check.
fn checked(rows: &DBRawIterator<'_>) -> Result<(), Error> {
    if rows.valid() { Ok(()) } else { rows.status().map_err(|cause| unread("a range", cause)) }
}

impl Cursor for Frozen {
    fn seek(&mut self, name: &[u8]) -> Result<(), Error> {
        self.with_dependent_mut(|_, rows| {
            rows.seek(name);
            checked(rows)
        })
    }

    fn row(&self) -> Option<RowRef<'_>> {
        self.with_dependent(|_, rows| rows.item())
    }

    fn next(&mut self) -> Result<(), Error> {
        self.with_dependent_mut(|_, rows| {
            rows.next();
            checked(rows)
        })
    }
}

/// In place of a cursor of a store that is closed.
struct Nothing;

pub(crate) fn nothing() -> Box<dyn Cursor> {
    Box::new(Nothing)
}

impl Cursor for Nothing {
    fn seek(&mut self, _name: &[u8]) -> Result<(), Error> {
        Err(io("read", "it is closed, to be opened again"))
    }

    fn row(&self) -> Option<RowRef<'_>> {
        None
    }

    fn next(&mut self) -> Result<(), Error> {
        self.seek(&[])
    }
}

/// Writes a file with the store's own filters and compression.
pub(crate) fn write(options: &Options, path: &Path, fill: Fill<'_>) -> Result<(), Error> {
    let mut writer = SstFileWriter::create(options);
    writer.open(path).map_err(|cause| io("stage", cause))?;
    fill(&mut |row, value| writer.put(row, value).map_err(|cause| io("stage", cause)))?;
    writer.finish().map_err(|cause| io("stage", cause))
}

/// Reads files from elsewhere, one after another, each in a database that holds nothing else.
///
/// The database is kept between files of one folder: to make one takes a dozen syncs, to take a file
/// in and out of it three.
#[derive(Default)]
pub struct FileReader(Option<Empty>);

/// A database that holds nothing, and its folder.
struct Empty {
    db: DB,
    dir: Folder,
}

/// Gone when it is dropped; what a crash leaves goes at the next start.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl FileReader {
    /// See [`crate::Store::read_file`].
    pub(crate) fn read(&mut self, path: &Path, visit: Visit<'_>) -> Result<(), Error> {
        let dir = path.with_file_name("check");
        let empty = match self.0.take() {
            Some(empty) if empty.dir.0 == dir => empty,
            _ => Empty::make(dir)?,
        };
        // After an error, and where something stays in it, it is not used again.
        read_in(&empty, path, visit)?;
        if empty.db.live_files().is_ok_and(|files| files.is_empty()) {
            self.0 = Some(empty);
        }
        Ok(())
    }
}

impl Empty {
    fn make(dir: PathBuf) -> Result<Self, Error> {
        let dir = Folder(dir);
        let db = DB::open(&check_options(), &dir.0).map_err(|cause| io("stage", cause))?;
        Ok(Self { db, dir })
    }
}

fn read_in(Empty { db, dir }: &Empty, path: &Path, visit: Visit<'_>) -> Result<(), Error> {
    let link = dir.0.join("file");
    fs::hard_link(path, &link).map_err(|cause| io("stage", cause))?;
    let mut moving = IngestExternalFileOptions::default();
    moving.set_move_files(true);
    db.ingest_external_file_opts(&moving, vec![link]).map_err(unfit)?;
    let mut options = ReadOptions::default();
    options.fill_cache(false);
    options.set_readahead_size(READ_AHEAD_BYTES);
    let mut cursor = db.raw_iterator_opt(options);
    let mut rows = 0;
    cursor.seek_to_first();
    while let Some((row, value)) = cursor.item() {
        if visit(row, value).is_break() {
            return Ok(());
        }
        rows += 1;
        cursor.next();
    }
    cursor.status().map_err(unfit)?;
    drop(cursor);
    only_rows(db, rows)?;
    let all = Range::all();
    db.delete_file_in_range(&all.start, &all.end).map_err(|cause| io("stage", cause))
}

/// A deletion is an entry that no visit shows.
fn only_rows(db: &DB, rows: u64) -> Result<(), Error> {
    let files = db.live_files().map_err(unfit)?;
    let entries: u64 = files.iter().map(|file| file.num_entries).sum();
    let deletions: u64 = files.iter().map(|file| file.num_deletions).sum();
    if entries == rows && deletions == 0 {
        return Ok(());
    }
    Err(Error::Transfer {
        cause: format!(
            "a file has {entries} entries, {deletions} of them deletions, and {rows} rows"
        ),
    })
}

fn check_options() -> Options {
    let mut table = BlockBasedOptions::default();
    table.disable_cache();
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_error_if_exists(true);
    options.set_block_based_table_factory(&table);
    options.set_write_buffer_size(64 << 10);
    options.set_disable_auto_compactions(true);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options
}

/// What RocksDB says of a file from elsewhere: that it is none, or that the disk failed.
fn unfit(cause: RocksError) -> Error {
    match cause.kind() {
        ErrorKind::Corruption | ErrorKind::InvalidArgument | ErrorKind::NotSupported => {
            Error::Transfer { cause: cause.into_string() }
        }
        _ => io("stage", cause),
    }
}

/// Takes all files in with one edit of RocksDB's manifest: a crash leaves all or none.
///
/// Where a memtable holds something between their rows it is flushed before. RocksDB would do that itself,
/// but while every writer waits; if the volume is full then, its recovery waits for those writers, and they for it.
pub(crate) fn take_in(db: &DB, files: &[PathBuf]) -> Result<(), Error> {
    if files.is_empty() {
        return Ok(());
    }
    let mut options = IngestExternalFileOptions::default();
    options.set_move_files(true);
    options.set_allow_blocking_flush(false);
    let ingest = || db.ingest_external_file_opts(&options, files.to_vec());
    let taken = ingest().or_else(|cause| match cause.as_ref() {
        text if text.contains("External file requires flush") => db.flush().and_then(|()| ingest()),
        _ => Err(cause),
    });
    taken.map_err(|cause| io("ingest into", cause))
}

/// Waits for a moment in which no compaction runs, but not for ever. One whose rows lie on both sides of
/// a file would hold it on the first level, as if it had rows of the same names.
pub(crate) fn let_compactions_end(db: &DB) {
    let begun = Instant::now();
    while begun.elapsed() < COMPACTIONS_END_MAX {
        let running = db.property_int_value("rocksdb.num-running-compactions");
        if !matches!(running, Ok(Some(1..))) {
            return;
        }
        std::thread::sleep(COMPACTIONS_LOOK_INTERVAL);
    }
}

/// Drops the files that hold nothing but rows of a range.
pub(crate) fn drop_whole(db: &DB, range: &Range) -> Result<(), Error> {
    // RocksDB counts the end in; no row bears the bare end of a range of whole scopes.
    db.delete_file_in_range(&range.start, &range.end).map_err(|cause| io("sweep", cause))
}
