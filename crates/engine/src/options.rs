//! How RocksDB is set up: one column family, one cache, one budget.
//!
//! - **One column family.** A batch and the mark in it become durable together because they are in
//!   one memtable. With several families that would take atomic flush; with one there is nothing to
//!   switch on.
//! - **Memory.** Blocks, indexes and filters live in one cache, and memtables are charged to it: the
//!   whole is `block_cache_bytes` + [`MEMTABLES`] × `write_buffer_bytes`, and what memtables leave
//!   free serves blocks. RocksDB stops writers before it holds a memtable more.
//! - **Disk bandwidth.** Flushes and compactions share `compaction_bytes_per_second`; a flush goes
//!   first. Reads and the log are not held back by it.
//! - **CPU.** Compactions run at the lowest priority: callers' threads need little, but at once, and a
//!   compaction that had the same claim kept one of them from a core for milliseconds. Where callers take
//!   all of the CPU for long, compactions fall behind until writes are slowed down for them, which makes
//!   room. Flushes have the usual priority: memory waits for them.
//! - **Checksums.** Blocks carry XXH3, mixed with their place and their file (format 7, RocksDB's
//!   newest); every read verifies, a compaction too, and a compaction that meets a damaged block
//!   fails for good rather than write it on (`paranoid_checks`).
//! - **Files of one group.** Below the first level no file holds rows of two groups: one that did would
//!   lie across the place of a group that comes to the node, and its snapshot's files could go in only
//!   above it, on the first level, to be written anew. The cost: a compaction makes at least one file, and
//!   syncs it, for each group that it meets.
//! - **Filters.** What they hold: `bloom`.
//!
//! Left out: partitioned indexes and filters (a file's index and filter are some 100 KiB and cached
//! like any block); reading each new file back after it was written (`paranoid_file_checks`: doubles the
//! CPU of compaction to guard against memory that lies; the scrub reads everything in time).

use rocksdb::{
    BlockBasedOptions, Cache, DBCompressionType, Env, Options, ReadOptions, WriteBufferManager,
};

use crate::bloom;
use crate::rows::{GROUP_BYTES, Range};

/// Memory and disk bandwidth the store may use, per node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Blocks read from disk, kept, with indexes and filters.
    pub block_cache_bytes: usize,
    /// One memtable; up to three are held.
    pub write_buffer_bytes: usize,
    /// What flushes and compactions may write in a second, together; 0: as fast as the disk.
    pub compaction_bytes_per_second: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            block_cache_bytes: 64 << 20,
            write_buffer_bytes: 64 << 20,
            compaction_bytes_per_second: 128 << 20,
        }
    }
}

/// Memtables held at most: one being written, two on their way to disk.
const MEMTABLES: u16 = 3;
/// RocksDB's newest table format.
const TABLE_FORMAT: i32 = 7;
const FILTER_BITS_PER_NAME: f64 = 10.0;
/// Flushed files that wait for a compaction. Each time all of the level below is written anew as
/// far as keys overlap, so half as many compactions are half as many bytes; a read asks the filters
/// of so many more files.
const LEVEL_ZERO_FILES: i32 = 8;
/// One flush and one compaction at a time: a node has few cores, and its log comes first.
const BACKGROUND_JOBS: i32 = 2;
/// RocksDB's list of its files is begun anew at this size.
const MANIFEST_BYTES_MAX: usize = 16 << 20;
/// RocksDB's own diary is begun anew at this size.
const INFO_LOG_BYTES_MAX: usize = 4 << 20;
/// Small portions, so that a flush never waits long behind a compaction.
const RATE_REFILL_MICROSECONDS: i64 = 100_000;
/// One in so many times a compaction goes first, so that flushes can't starve it.
const RATE_FAIRNESS: i32 = 10;

impl Budget {
    /// What cache and memtables take together.
    pub fn memory_bytes(&self) -> usize {
        self.block_cache_bytes.saturating_add(self.memtable_bytes())
    }

    fn memtable_bytes(&self) -> usize {
        self.write_buffer_bytes.saturating_mul(MEMTABLES.into())
    }
}

pub(crate) fn options(budget: Budget) -> Options {
    let cache = Cache::new_lru_cache(budget.memory_bytes());
    let mut options = cut_between_groups();
    match Env::new() {
        Ok(mut env) => {
            env.lower_thread_pool_cpu_priority();
            options.set_env(&env);
        }
        Err(error) => tracing::warn!(%error, "compactions run at the usual priority"),
    }
    options.create_if_missing(true);
    options.set_paranoid_checks(true);
    options.set_block_based_table_factory(&table(&cache));
    options.set_prefix_extractor(bloom::rule());
    options.set_write_buffer_manager(&WriteBufferManager::new_write_buffer_manager_with_cache(
        budget.memtable_bytes(),
        false,
        cache,
    ));
    options.set_write_buffer_size(budget.write_buffer_bytes);
    options.set_max_write_buffer_number(MEMTABLES.into());
    options.set_level_zero_file_num_compaction_trigger(LEVEL_ZERO_FILES);
    // Else the files' bytes bring a compaction before their number does.
    let base_bytes = (budget.write_buffer_bytes as u64).saturating_mul(LEVEL_ZERO_FILES as u64);
    options.set_max_bytes_for_level_base(base_bytes);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_level_compaction_dynamic_level_bytes(true);
    options.set_max_background_jobs(BACKGROUND_JOBS);
    options.set_bytes_per_sync(1 << 20);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(INFO_LOG_BYTES_MAX);
    options.set_max_manifest_file_size(MANIFEST_BYTES_MAX);
    options.set_stats_dump_period_sec(0);
    if let Some(rate) = rate(budget.compaction_bytes_per_second) {
        options.set_ratelimiter(rate, RATE_REFILL_MICROSECONDS, RATE_FAIRNESS);
    }
    options
}

/// A compaction ends a file where a group ends. The crate offers this only as text.
fn cut_between_groups() -> Options {
    let cut = format!(
        "sst_partitioner_factory={{id=SstPartitionerFixedPrefixFactory;length={GROUP_BYTES}}}"
    );
    Options::default().get_options_from_string(cut).unwrap_or_else(|error| {
        // Everything works without, only slower.
        tracing::warn!(%error, "files of the store will span groups");
        Options::default()
    })
}

/// The rate as RocksDB takes it; `None`: no limit.
fn rate(bytes_per_second: u64) -> Option<i64> {
    i64::try_from(bytes_per_second).ok().filter(|rate| *rate > 0)
}

fn table(cache: &Cache) -> BlockBasedOptions {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_format_version(TABLE_FORMAT);
    table.set_bloom_filter(FILTER_BITS_PER_NAME, false);
    // What a filter holds is `bloom`'s rule and nothing beside it.
    table.set_whole_key_filtering(false);
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table
}

/// For a walk over a range, forward or back.
pub(crate) fn walk_options(range: &Range) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_iterate_lower_bound(range.start.clone());
    options.set_iterate_upper_bound(range.end.clone());
    // Else a seek would leave out files whose filter does not know where the walk begins, and with
    // them the rows behind it.
    options.set_total_order_seek(true);
    options
}

/// For a walk forward: led by filters if all it may find shares one part of a name.
pub(crate) fn look_up_options(range: &Range) -> ReadOptions {
    let mut options = walk_options(range);
    if bloom::within_one_part(range) {
        options.set_total_order_seek(false);
        options.set_prefix_same_as_start(true);
    }
    options
}

/// For many seeks, each of which finds only rows that share a part with what it seeks.
pub(crate) fn seeker_options(range: &Range) -> ReadOptions {
    let mut options = walk_options(range);
    options.set_total_order_seek(false);
    options.set_prefix_same_as_start(true);
    options
}
