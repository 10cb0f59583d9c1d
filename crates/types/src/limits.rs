//! Every size bound of the outside contract, in one place, units last.

/// Longest key, in bytes; the shortest is one byte.
pub const KEY_BYTES_MAX: usize = 4 * 1024;
/// Longest value, in bytes; the empty value is a value.
pub const VALUE_BYTES_MAX: usize = 1024 * 1024;
/// Longest bucket or project name, in bytes.
pub const NAME_BYTES_MAX: usize = 64;
/// Most items in one assert or batch call.
pub const ITEMS_MAX: usize = 1000;
/// Longest canonical form of one statement, in bytes.
pub const STATEMENT_BYTES_MAX: usize = 64 * 1024;
/// Longest subject, predicate, agent or source text, in bytes: these become index keys.
pub const TERM_BYTES_MAX: usize = 1024;
/// Longest idempotency key, in bytes; the shortest is one byte.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 64;
/// Longest HTTP body any route reads, in bytes.
pub const BODY_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Most rows one page of a scan or query returns; also the ceiling of `limit=`.
pub const PAGE_ROWS_MAX: usize = 1000;
/// Rows of a page when the caller names no `limit=`.
pub const PAGE_ROWS_DEFAULT: usize = 100;
/// A page ends early once its values add up to this many bytes.
pub const PAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Most shards of a cluster.
pub const SHARDS_MAX: u16 = 1024;
/// Shards of a new cluster unless told.
pub const SHARDS_DEFAULT: u16 = 4;
/// Replicas of each shard unless told.
pub const REPLICATION_FACTOR_DEFAULT: u8 = 3;
/// Shortest cluster secret, in bytes.
pub const CLUSTER_SECRET_BYTES_MIN: usize = 16;
