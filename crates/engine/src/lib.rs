//! The durable store under the state machines.
//!
//! One RocksDB per node holds the state of every group. It runs without a log
//! of its own: the Raft log (`wal`) is the only log, and what RocksDB has not
//! flushed is applied again from there at start. That is safe because a run of
//! entries is written as one batch, its changes and the group's applied mark
//! together, in one column family: whatever a flush makes durable, the mark
//! in it tells exactly how far it goes (decisions 1 and 2).
//!
//! | file | idea |
//! |---|---|
//! | `store` | the trait: ordered rows, atomic batches, what is durable |
//! | `rocks` | the trait over RocksDB, which can be closed and opened again under it |
//! | `map` | the trait over an ordered map that forgets, for simulation |
//! | `options` | how RocksDB is set up: budgets, checksums, filters |
//! | `stall` | writes that RocksDB is behind for, waited for outside of it |
//! | `trash` | tables that RocksDB lets go, given back to the volume slowly |
//! | `background` | threads beside those that callers wait for |
//! | `bloom` | which part of a row's name its filter knows |
//! | `sst` | RocksDB's table files, read block by block without RocksDB |
//! | `manifest` | whether RocksDB's list of its files reads, before RocksDB reads it |
//! | `scrub` | the files of an open store, checked as they stand on disk |
//! | `check` | a store that nobody has open: every fault in it, and what can be mended |
//! | `format`, `lock` | which format a directory has and the steps to this one; who has it |
//! | `rows` | how a row's name becomes bytes that sort right |
//! | `group` | one group's part of the store: its marks, its generation |
//! | `shard` | machine changes → rows, and the machine's view of them (`keys`, `claims`, `expiry`, `floor`, `values`) |
//! | `meta` | meta records → rows and back |
//! | `filter` | which old versions RocksDB may drop, and when that is safe |
//! | `files` | files of rows over RocksDB: written, checked, taken in |
//! | `crash_copy` | a store's directory as a crash would leave it, for tests |
//! | `transfer` | a group's rows as files for another node: sent, resumed, checked, installed |
//!
//! A group's rows carry its generation. A snapshot from a peer is written
//! under a new generation beside the old one, then one write flips the pointer; a
//! half-installed one never becomes visible and is swept at the next start. The
//! old rows go with the last handle that reads them.
//!
//! Left out here: mending a damaged table file. One node has no second copy of its rows: the group is
//! given up and comes back from a peer.

mod background;
mod bloom;
pub mod check;
pub mod crash_copy;
mod files;
mod filter;
mod format;
mod group;
mod lock;
mod manifest;
mod map;
mod meta;
mod options;
mod rocks;
#[cfg(test)]
mod rocks_tests;
mod rows;
mod scrub;
mod shard;
mod sst;
#[cfg(test)]
mod sst_tests;
mod stall;
mod store;
#[cfg(test)]
mod store_tests;
mod transfer;
mod trash;
#[cfg(test)]
mod trash_tests;

pub use files::FileReader;
pub use filter::Floors;
pub use group::{Batch, Group, scrub_rest, wipe};
pub use map::MapStore;
pub use options::Budget;
pub use rocks::RocksStore;
pub use rows::{Range, Row};
pub use shard::Run;
pub use store::{Cursor, Fill, Health, Pace, Put, RowRef, Rows, Seeker, Store, Visit};
pub use transfer::{
    Incoming, Outgoing, SNAPSHOT_FILE_BYTES_MAX, Sink, SnapshotId, Terms, Throttle, copy, export,
};

use stemedb_types::GroupId;

/// Why the store refused. The batch in question is not written, what was written before stands.
///
/// After [`Error::Corrupt`] nothing more may be applied. After [`Error::Io`] either, unless the
/// store says that it is only full ([`Health::Full`]): then the same batch may be written once
/// there is room.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk or RocksDB failed; the node must stop writing.
    #[error("{verb} the store: {cause}")]
    Io {
        /// What was being done.
        verb: &'static str,
        /// What the store said.
        cause: String,
    },
    /// The store is behind with what it writes to disk, and takes nothing just now. Nothing was
    /// written; what waits for it ([`Group::commit`]) gets through.
    #[error("the store is behind with what it writes to disk")]
    Behind,
    /// Bytes of the store do not read back; they are not served.
    #[error("read {what} from the store: {cause}")]
    Corrupt {
        /// Which row.
        what: &'static str,
        /// Why not.
        cause: String,
    },
    /// Another process has the directory open.
    #[error("the store in {dir} is in use by another process")]
    InUse {
        /// The directory.
        dir: String,
    },
    /// The directory was written by a newer build; nothing of it was touched.
    #[error("the store in {dir} has format {found:?}, this build reads {known:?}")]
    Format {
        /// The directory.
        dir: String,
        /// What its format file says.
        found: String,
        /// The newest format this build reads.
        known: &'static str,
    },
    /// The handle is on a generation that a snapshot has replaced; nothing was written.
    #[error("group {group} was replaced by a snapshot")]
    Replaced {
        /// Which group.
        group: GroupId,
    },
    /// A transferred stream that does not check; nothing of it became visible.
    #[error("take in a snapshot: {cause}")]
    Transfer {
        /// Why not.
        cause: String,
    },
}

impl Error {
    /// Whether it is only that the volume is full: what failed may be tried again.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Io { cause, .. } if rocks::says_full(cause))
    }
}

/// The disk or RocksDB failed, while something was done.
pub(crate) fn io(verb: &'static str, cause: impl ToString) -> Error {
    Error::Io { verb, cause: cause.to_string() }
}

impl From<Error> for stemedb_machine::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Corrupt { .. } => stemedb_machine::Error::Damaged(error.to_string()),
            error => stemedb_machine::Error::View(error.to_string()),
        }
    }
}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        std::io::Error::other(error)
    }
}
