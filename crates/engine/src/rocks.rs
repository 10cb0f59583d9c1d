//! The store over RocksDB.
//!
//! One column family, no log, LZ4. Reads verify block checksums (RocksDB's
//! default, left on). What is durable is asked of RocksDB itself: with its log off, a
//! read of the persisted tier skips the memtables and so shows what a
//! crash would leave. The directory holds `rocks/`, which is RocksDB's,
//! `staging/`, where snapshots are put together and which is emptied at start, and
//! `FORMAT`, one line: a build that does not know it touches nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, DBRawIterator, ErrorKind,
    IngestExternalFileOptions, Options, ReadOptions, ReadTier, SstFileWriter, WriteBatch,
    WriteOptions,
};

use crate::Error;
use crate::rows::{Range, Row};
use crate::store::{Intake, RowRef, Rows, Seeker, Store, Visit};

/// Memory the store may use, per node.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Blocks read from disk, kept.
    pub block_cache_bytes: usize,
    /// One memtable; up to three are held.
    pub write_buffer_bytes: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self { block_cache_bytes: 64 << 20, write_buffer_bytes: 32 << 20 }
    }
}

/// RocksDB's own diary is begun anew at this size.
const INFO_LOG_BYTES_MAX: usize = 4 << 20;

/// RocksDB as the store of a node.
pub struct RocksStore {
    db: Arc<DB>,
    options: Options,
    staging: PathBuf,
    staged: AtomicU64,
    write_options: WriteOptions,
}

/// What `FORMAT` holds: the version of how rows are named and laid out.
const FORMAT: &str = "stemedb-store 1";

fn io(verb: &'static str, cause: impl ToString) -> Error {
    Error::Io { verb, cause: cause.to_string() }
}

/// What RocksDB says of a read: that its bytes are damaged, or that it could not.
fn unread(what: &'static str, cause: rocksdb::Error) -> Error {
    match cause.kind() {
        ErrorKind::Corruption => Error::Corrupt { what, cause: cause.into_string() },
        _ => io("read", cause.into_string()),
    }
}

impl RocksStore {
    /// Opens the store in `dir`, making it if it is not there.
    ///
    /// Fails with [`Error::InUse`] if another process has it open, and with [`Error::Format`] if a
    /// newer build wrote it; nothing was changed then.
    pub fn open(dir: &Path, budget: Budget) -> Result<Self, Error> {
        let staging = dir.join("staging");
        fs::create_dir_all(dir).map_err(|cause| io("open", cause))?;
        check_format(dir)?;
        let options = options(budget);
        let db = DB::open(&options, dir.join("rocks")).map_err(|cause| {
            let text = cause.to_string();
            if text.contains("While lock file") || text.contains("lock hold by current process") {
                Error::InUse { dir: dir.display().to_string() }
            } else {
                io("open", text)
            }
        })?;
        // Only behind RocksDB's lock: nobody else's staging is emptied.
        if staging.exists() {
            fs::remove_dir_all(&staging).map_err(|cause| io("clean", cause))?;
        }
        fs::create_dir(&staging).map_err(|cause| io("open", cause))?;
        let mut write_options = WriteOptions::default();
        write_options.disable_wal(true);
        write_options.set_memtable_insert_hint_per_batch(true);
        Ok(Self { db: Arc::new(db), options, staging, staged: AtomicU64::new(0), write_options })
    }
}

/// Refuses a directory of a newer build before anything in it is touched; marks a new one.
fn check_format(dir: &Path) -> Result<(), Error> {
    let path = dir.join("FORMAT");
    let found = match fs::read_to_string(&path) {
        Ok(found) => found,
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return mark_format(dir),
        Err(cause) => return Err(io("open", cause)),
    };
    if found.trim_end() == FORMAT {
        return Ok(());
    }
    let found = found.trim_end().chars().take(80).collect();
    Err(Error::Format { dir: dir.display().to_string(), found, known: FORMAT })
}

/// Writes `FORMAT` so that a crash leaves all of it or none.
fn mark_format(dir: &Path) -> Result<(), Error> {
    let open = |cause: std::io::Error| io("open", cause);
    let new = dir.join("FORMAT.new");
    fs::write(&new, format!("{FORMAT}\n")).map_err(open)?;
    fs::File::open(&new).and_then(|file| file.sync_all()).map_err(open)?;
    fs::rename(&new, dir.join("FORMAT")).map_err(open)?;
    fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(open)
}

fn options(budget: Budget) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&Cache::new_lru_cache(budget.block_cache_bytes));
    table.set_bloom_filter(10.0, false);
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_block_based_table_factory(&table);
    options.set_write_buffer_size(budget.write_buffer_bytes);
    options.set_max_write_buffer_number(3);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_level_compaction_dynamic_level_bytes(true);
    options.set_max_background_jobs(2);
    options.set_bytes_per_sync(1 << 20);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(INFO_LOG_BYTES_MAX);
    options.set_stats_dump_period_sec(0);
    options
}

fn read_options(range: &Range) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_iterate_lower_bound(range.start.clone());
    options.set_iterate_upper_bound(range.end.clone());
    options
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

/// One iterator, moved about: what it sees was frozen when it was made.
struct RocksSeeker<'s>(DBRawIterator<'s>);

impl Seeker for RocksSeeker<'_> {
    fn seek(&mut self, name: &[u8]) -> Result<Option<RowRef<'_>>, Error> {
        self.0.seek(name);
        if !self.0.valid() {
            // The end of the range, or a block that does not check.
            self.0.status().map_err(|cause| unread("a row", cause))?;
        }
        Ok(self.0.item())
    }
}

impl Store for RocksStore {
    fn get(&self, row: &Row) -> Result<Option<Bytes>, Error> {
        let value = self.db.get(&row.0).map_err(|cause| unread("a row", cause))?;
        Ok(value.map(Bytes::from))
    }

    fn scan(&self, range: &Range, reverse: bool, visit: Visit<'_>) -> Result<(), Error> {
        if range.is_empty() {
            return Ok(());
        }
        walk(self.db.raw_iterator_opt(read_options(range)), reverse, visit)
    }

    fn scan_frozen(&self, range: &Range, visit: Visit<'_>) -> Result<(), Error> {
        // An iterator is a frozen view already; it must not fill the cache on its way.
        let mut options = read_options(range);
        options.fill_cache(false);
        walk(self.db.raw_iterator_opt(options), false, visit)
    }

    fn seeker(&self, range: &Range) -> Box<dyn Seeker + '_> {
        Box::new(RocksSeeker(self.db.raw_iterator_opt(read_options(range))))
    }

    fn write(&self, rows: Rows) -> Result<(), Error> {
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
        self.db.write_opt(batch, &self.write_options).map_err(|cause| io("write", cause))
    }

    fn durable(&self, row: &Row) -> Result<Option<Bytes>, Error> {
        let mut options = ReadOptions::default();
        options.set_read_tier(ReadTier::Persisted);
        let value = self.db.get_opt(&row.0, &options).map_err(|cause| unread("a row", cause))?;
        Ok(value.map(Bytes::from))
    }

    fn flush(&self) -> Result<(), Error> {
        let begun = Instant::now();
        self.db.flush().map_err(|cause| io("flush", cause))?;
        metrics::histogram!("stemedb_storage_flush_seconds").record(begun.elapsed());
        Ok(())
    }

    fn intake(&self) -> Result<Box<dyn Intake>, Error> {
        let number = self.staged.fetch_add(1, Ordering::Relaxed);
        let dir = self.staging.join(format!("{number:08}"));
        fs::create_dir(&dir).map_err(|cause| io("stage", cause))?;
        Ok(Box::new(StagedRows {
            db: self.db.clone(),
            options: self.options.clone(),
            dir,
            files: Vec::new(),
            rows: Vec::new(),
            bytes: 0,
        }))
    }

    fn disk_bytes(&self) -> u64 {
        let live = self.db.property_int_value("rocksdb.total-sst-files-size");
        live.ok().flatten().unwrap_or(0)
    }
}

/// Staged rows are written to an SST file once they hold this much.
const STAGED_FILE_BYTES: usize = 32 << 20;

/// Sorted rows on their way in: those held, and the SST files of those before.
struct StagedRows {
    db: Arc<DB>,
    /// The store's own, so that the files have its filters and compression.
    options: Options,
    dir: PathBuf,
    files: Vec<PathBuf>,
    rows: Vec<(Vec<u8>, Vec<u8>)>,
    bytes: usize,
}

impl StagedRows {
    fn close_file(&mut self) -> Result<(), Error> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let path = self.dir.join(format!("{:08}.sst", self.files.len()));
        let mut writer = SstFileWriter::create(&self.options);
        writer.open(&path).map_err(|cause| io("stage", cause))?;
        for (row, value) in self.rows.drain(..) {
            writer.put(row, value).map_err(|cause| io("stage", cause))?;
        }
        writer.finish().map_err(|cause| io("stage", cause))?;
        self.files.push(path);
        self.bytes = 0;
        Ok(())
    }
}

impl Intake for StagedRows {
    fn put(&mut self, row: &[u8], value: &[u8]) -> Result<(), Error> {
        self.bytes += row.len() + value.len();
        self.rows.push((row.to_vec(), value.to_vec()));
        if self.bytes >= STAGED_FILE_BYTES { self.close_file() } else { Ok(()) }
    }

    fn finish(mut self: Box<Self>) -> Result<(), Error> {
        self.close_file()?;
        if self.files.is_empty() {
            return Ok(());
        }
        let mut options = IngestExternalFileOptions::default();
        options.set_move_files(true);
        self.db
            .ingest_external_file_opts(&options, self.files.clone())
            .map_err(|cause| io("ingest into", cause))
    }
}

impl Drop for StagedRows {
    fn drop(&mut self) {
        // Ingested files were moved away; what is left is nobody's.
        let _ = fs::remove_dir_all(&self.dir);
    }
}
