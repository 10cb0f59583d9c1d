//! Old versions of keys: our rows beside RocksDB's user-defined timestamps.
//!
//! Both get the same puts into the same RocksDB with the same options, log off as in the store:
//!
//! - `rows`: the revision stands inverted behind the key, as `engine` names its rows; history goes by a
//!   compaction filter that drops what lies behind a newer version at or below the floor.
//! - `udt`: the revision is the key's timestamp, eight bytes behind it, with a comparator that knows;
//!   history goes by `increase_full_history_ts_low`.
//!
//! Measured: puts in batches of 16; look-ups of the newest version, and of the newest at a revision
//! drawn anywhere in history; a scan of the newest version of every key; a compaction that has to
//! let go of nine tenths of history; bytes on disk before and after it. It also tries what the store
//! needs of RocksDB beside that, and prints whether each works. The README says how to read it.

use std::cmp::{Ordering, Reverse};
use std::ffi::CStr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering as Atomically};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rocksdb::compaction_filter::CompactionFilter;
use rocksdb::compaction_filter_factory::{CompactionFilterContext, CompactionFilterFactory};
use rocksdb::{
    BlockBasedOptions, BottommostLevelCompaction, Cache, ColumnFamilyDescriptor, CompactOptions,
    CompactionDecision, DB, DBCompressionType, IngestExternalFileOptions, Options, ReadOptions,
    ReadTier, SliceTransform, SstFileWriter, WriteBatch, WriteOptions,
};

/// The options of `versions`.
#[derive(Clone, Debug, Args)]
pub(crate) struct VersionsArgs {
    /// How many keys there are
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    keys: u64,
    /// How many versions each gets, on average
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(2..=10_000))]
    versions: u64,
    /// Size of a value
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(0..=1_048_576))]
    value_bytes: u32,
    /// How many look-ups of each kind
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    lookups: u64,
    /// How often each layout is measured, in alternating order
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Where the data lies while it runs; should be on a real disk
    #[arg(long, value_name = "DIR", default_value = "target/benches-data")]
    data_dir: std::path::PathBuf,
}

const BATCH: u64 = 16;
const TS_BYTES: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    Rows,
    Udt,
}

/// Runs the measurement and prints a row for each layout and round.
pub(crate) fn run(arguments: &VersionsArgs) -> Result<ExitCode> {
    std::fs::create_dir_all(&arguments.data_dir).context("make the data directory")?;
    println!(
        "{} keys, {} versions of {} bytes each, one thread\n",
        arguments.keys, arguments.versions, arguments.value_bytes
    );
    println!(
        "{:<6} {:>10} {:>10} {:>10} {:>10} {:>10} {:>12} {:>12}",
        "layout", "puts/s", "heads/s", "as-of/s", "scan/s", "trim s", "before MiB", "after MiB"
    );
    for _ in 0..arguments.rounds {
        for layout in [Layout::Rows, Layout::Udt] {
            let dir = tempfile::tempdir_in(&arguments.data_dir)?;
            measure(layout, arguments, dir.path())?;
        }
    }
    println!();
    for layout in [Layout::Rows, Layout::Udt] {
        let dir = tempfile::tempdir_in(&arguments.data_dir)?;
        for (what, works) in abilities(layout, dir.path())? {
            println!("{:<6} {what}: {works}", name(layout));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn name(layout: Layout) -> &'static str {
    match layout {
        Layout::Rows => "rows",
        Layout::Udt => "udt",
    }
}

fn measure(layout: Layout, arguments: &VersionsArgs, dir: &Path) -> Result<()> {
    let floor = Arc::new(AtomicU64::new(0));
    let store = Versions::open(layout, dir, floor)?;
    let mut draw = SmallRng::seed_from_u64(1);
    let puts = arguments.keys * arguments.versions;
    let mut value = vec![0; arguments.value_bytes as usize];
    let begun = Instant::now();
    for first in (1..=puts).step_by(BATCH as usize) {
        let mut batch = WriteBatch::default();
        for revision in first..(first + BATCH).min(puts + 1) {
            // The first round makes every key, in no order; later ones draw.
            let key = if revision <= arguments.keys {
                revision.wrapping_mul(0x9e37_79b9_7f4a_7c15) % arguments.keys
            } else {
                draw.random_range(0..arguments.keys)
            };
            draw.fill(&mut value[..]);
            store.put(&mut batch, &key_of(key), revision, &value)?;
        }
        store.write(batch)?;
    }
    let puts_per_s = per_second(puts, begun);
    store.db.flush()?;
    store.compact()?;
    let before = store.bytes();

    let begun = Instant::now();
    let mut found = 0u64;
    for _ in 0..arguments.lookups {
        let key = key_of(draw.random_range(0..arguments.keys));
        found += u64::from(store.newest(&key, u64::MAX)?.is_some());
    }
    let heads_per_s = per_second(arguments.lookups, begun);
    ensure!(found > 0, "no key was found");
    let begun = Instant::now();
    for _ in 0..arguments.lookups {
        let key = key_of(draw.random_range(0..arguments.keys));
        store.newest(&key, draw.random_range(1..=puts))?;
    }
    let as_of_per_s = per_second(arguments.lookups, begun);
    let begun = Instant::now();
    let scanned = store.scan(u64::MAX)?;
    let scan_per_s = per_second(scanned, begun);
    let trimmed = Instant::now();
    store.let_go(puts / 10 * 9)?;
    store.compact()?;
    let trim_s = trimmed.elapsed().as_secs_f64();
    ensure!(store.scan(u64::MAX)? == scanned, "letting go of history took a key");
    println!(
        "{:<6} {puts_per_s:>10.0} {heads_per_s:>10.0} {as_of_per_s:>10.0} {scan_per_s:>10.0} \
         {trim_s:>10.2} {:>12.1} {:>12.1}",
        name(layout),
        before as f64 / 1048576.0,
        store.bytes() as f64 / 1048576.0,
    );
    Ok(())
}

fn per_second(count: u64, begun: Instant) -> f64 {
    count as f64 / begun.elapsed().as_secs_f64()
}

/// Scope, kind and bucket as the engine has them, then the key, closed.
fn key_of(number: u64) -> Vec<u8> {
    let mut key = vec![0, 0, 0, 1, 0, 0, 0, 0, 0x20, 0, 0, 0, 0];
    key.extend_from_slice(format!("key-{number:012}").as_bytes());
    key.extend_from_slice(&[0, 1]);
    key
}

struct Versions {
    layout: Layout,
    db: DB,
    options: Options,
    floor: Arc<AtomicU64>,
    write: WriteOptions,
}

impl Versions {
    fn open(layout: Layout, dir: &Path, floor: Arc<AtomicU64>) -> Result<Self> {
        let options = options(layout, &floor);
        // Named, or there is no handle on it, which timestamps are written through.
        let family = ColumnFamilyDescriptor::new("default", options.clone());
        let db = DB::open_cf_descriptors(&options, dir.join("rocks"), [family])?;
        let mut write = WriteOptions::default();
        write.disable_wal(true);
        Ok(Self { layout, db, options, floor, write })
    }

    fn put(&self, batch: &mut WriteBatch, key: &[u8], revision: u64, value: &[u8]) -> Result<()> {
        match self.layout {
            Layout::Rows => batch.put(row(key, revision), value),
            Layout::Udt => {
                let family = self.db.cf_handle("default").context("the column family")?;
                batch.put_cf_with_ts(&family, key, revision.to_be_bytes(), value);
            }
        }
        Ok(())
    }

    fn write(&self, batch: WriteBatch) -> Result<()> {
        Ok(self.db.write_opt(batch, &self.write)?)
    }

    fn newest(&self, key: &[u8], as_of: u64) -> Result<Option<Vec<u8>>> {
        match self.layout {
            Layout::Rows => {
                let mut how = ReadOptions::default();
                how.set_iterate_upper_bound(end(key));
                how.set_prefix_same_as_start(true);
                let mut rows = self.db.raw_iterator_opt(how);
                rows.seek(row(key, as_of));
                rows.status()?;
                Ok(rows.value().map(<[u8]>::to_vec))
            }
            Layout::Udt => {
                let mut how = ReadOptions::default();
                how.set_timestamp(as_of.to_be_bytes());
                Ok(self.db.get_opt(key, &how)?)
            }
        }
    }

    /// How many keys are there, by a scan that sees each once.
    fn scan(&self, as_of: u64) -> Result<u64> {
        let mut keys = 0;
        let mut how = ReadOptions::default();
        how.set_total_order_seek(true);
        if self.layout == Layout::Udt {
            how.set_timestamp(as_of.to_be_bytes());
        }
        let mut rows = self.db.raw_iterator_opt(how);
        let mut last: Vec<u8> = Vec::new();
        rows.seek_to_first();
        while let Some((name, _)) = rows.item() {
            let key = match self.layout {
                Layout::Rows => &name[..name.len() - TS_BYTES],
                Layout::Udt => name,
            };
            if key != last {
                keys += 1;
                last.clear();
                last.extend_from_slice(key);
            }
            rows.next();
        }
        rows.status()?;
        Ok(keys)
    }

    fn let_go(&self, floor: u64) -> Result<()> {
        self.floor.store(floor, Atomically::Relaxed);
        if self.layout == Layout::Udt {
            let family = self.db.cf_handle("default").context("the column family")?;
            self.db.increase_full_history_ts_low(&family, floor.to_be_bytes())?;
        }
        Ok(())
    }

    fn compact(&self) -> Result<()> {
        let mut how = CompactOptions::default();
        how.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
        if self.layout == Layout::Udt {
            how.set_full_history_ts_low(self.floor.load(Atomically::Relaxed).to_be_bytes());
        }
        self.db.compact_range_opt(None::<&[u8]>, None::<&[u8]>, &how);
        Ok(())
    }

    fn bytes(&self) -> u64 {
        let files = self.db.property_int_value("rocksdb.total-sst-files-size");
        files.ok().flatten().unwrap_or(0)
    }
}

fn row(key: &[u8], revision: u64) -> Vec<u8> {
    [key, &(!revision).to_be_bytes()].concat()
}

fn end(key: &[u8]) -> Vec<u8> {
    let mut end = key.to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

fn options(layout: Layout, floor: &Arc<AtomicU64>) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&Cache::new_lru_cache(64 << 20));
    table.set_bloom_filter(10.0, false);
    table.set_cache_index_and_filter_blocks(true);
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_write_buffer_size(32 << 20);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_level_compaction_dynamic_level_bytes(true);
    match layout {
        Layout::Rows => {
            table.set_whole_key_filtering(false);
            options.set_prefix_extractor(SliceTransform::create(
                "key",
                |row| split(row).0,
                Some(|row| row.len() > TS_BYTES),
            ));
            options.set_compaction_filter_factory(Filters(floor.clone()));
        }
        Layout::Udt => options.set_comparator_with_ts(
            "key-and-revision",
            TS_BYTES,
            Box::new(|a, b| compare(split(a), split(b))),
            Box::new(|a, b| a.cmp(b)),
            Box::new(|a, a_has, b, b_has| {
                let key = |row, has| if has { split(row).0 } else { row };
                key(a, a_has).cmp(key(b, b_has))
            }),
        ),
    }
    options.set_block_based_table_factory(&table);
    options
}

fn split(row: &[u8]) -> (&[u8], &[u8]) {
    row.split_at(row.len().saturating_sub(TS_BYTES))
}

fn compare(a: (&[u8], &[u8]), b: (&[u8], &[u8])) -> Ordering {
    (a.0, Reverse(a.1)).cmp(&(b.0, Reverse(b.1)))
}

struct Filters(Arc<AtomicU64>);

struct Filter {
    floor: u64,
    passed: Vec<u8>,
}

impl CompactionFilterFactory for Filters {
    type Filter = Filter;

    fn create(&mut self, _: CompactionFilterContext) -> Filter {
        Filter { floor: self.0.load(Atomically::Relaxed), passed: Vec::new() }
    }

    fn name(&self) -> &CStr {
        c"versions"
    }
}

impl CompactionFilter for Filter {
    fn filter(&mut self, _: u32, row: &[u8], _: &[u8]) -> CompactionDecision {
        let Some((key, inverted)) = row.split_last_chunk::<TS_BYTES>() else {
            return CompactionDecision::Keep;
        };
        if !u64::from_be_bytes(*inverted) > self.floor {
            return CompactionDecision::Keep;
        }
        if key == self.passed {
            return CompactionDecision::Remove;
        }
        self.passed.clear();
        self.passed.extend_from_slice(key);
        CompactionDecision::Keep
    }

    fn name(&self) -> &CStr {
        c"versions"
    }
}

/// What the store needs beside versions, tried.
fn abilities(layout: Layout, dir: &Path) -> Result<Vec<(&'static str, String)>> {
    let store = Versions::open(layout, dir, Arc::default())?;
    let told = |outcome: Result<String>| match outcome {
        Ok(text) => text,
        Err(error) => format!("no: {error:#}"),
    };
    let put = |key: &str, revision| -> Result<()> {
        let mut batch = WriteBatch::default();
        store.put(&mut batch, key.as_bytes(), revision, b"v")?;
        store.write(batch)
    };
    let persisted = || -> Result<String> {
        put("persisted", 5)?;
        let seen = |tier| -> Result<bool> {
            let mut how = ReadOptions::default();
            how.set_read_tier(tier);
            if layout == Layout::Udt {
                how.set_timestamp(u64::MAX.to_be_bytes());
                return Ok(store.db.get_opt("persisted", &how)?.is_some());
            }
            Ok(store.db.get_opt(row(b"persisted", 5), &how)?.is_some())
        };
        let before = seen(ReadTier::Persisted)?;
        store.db.flush()?;
        Ok(format!("before the flush {before}, after it {}", seen(ReadTier::Persisted)?))
    };
    let ingest = || -> Result<String> {
        let path = dir.join("taken.sst");
        let mut writer = SstFileWriter::create(&store.options);
        writer.open(&path)?;
        match layout {
            Layout::Rows => writer.put(row(b"taken", 3), b"v")?,
            Layout::Udt => writer.put_with_ts(b"taken", 3u64.to_be_bytes(), b"v")?,
        }
        writer.finish()?;
        let how = IngestExternalFileOptions::default();
        store.db.ingest_external_file_opts(&how, vec![path])?;
        Ok(format!("taken in, found {}", store.newest(b"taken", 9)?.is_some()))
    };
    let batch_range = || -> Result<String> {
        put("ranged", 7)?;
        let mut batch = WriteBatch::default();
        batch.delete_range(b"ranged".to_vec(), b"rangee".to_vec());
        store.write(batch)?;
        Ok(format!(
            "taken, and the key is there after it: {}",
            store.newest(b"ranged", 9)?.is_some()
        ))
    };
    let below = || -> Result<String> {
        put("low", 1)?;
        put("low", 9)?;
        store.let_go(5)?;
        Ok(format!("a read below the floor finds {:?}", store.newest(b"low", 2)?.is_some()))
    };
    Ok(vec![
        ("a read of what is durable", told(persisted())),
        ("a file of rows taken in", told(ingest())),
        ("a range delete in a batch", told(batch_range())),
        ("a floor", told(below())),
    ])
}
