//! What can go wrong, and what is true afterwards.

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::StreamId;

/// Why a call or a completion failed. Every variant says whether anything was applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Too many bytes wait for the disk. Nothing was applied; [`crate::Wal::when_room`] says
    /// when to try again.
    #[error("the log's queue is full")]
    Busy,
    /// No next segment could be prepared, for want of space most likely, or an entry takes more
    /// than a segment and the disk has no room for it. Nothing was applied; each refused append
    /// makes the log try again to prepare one.
    #[error("the disk has no room for another segment")]
    Full,
    /// The log was closed. Nothing was applied.
    #[error("the log is closed")]
    Closed,
    /// A write or sync failed once, so the log takes nothing more. From a completion: the
    /// records may or may not be on disk; only opening the log again tells.
    #[error("the log is poisoned: {reason}")]
    Poisoned {
        /// What failed first.
        reason: Arc<str>,
    },
    /// The index does not follow the stream's last (or stands at the end of the numbers).
    /// Nothing was applied; a retry fails the same way.
    #[error("stream {stream} goes on at index {wanted}, not at {got}")]
    OutOfOrder {
        /// The stream.
        stream: StreamId,
        /// The only index (or, for an empty stream, the lowest) it takes.
        wanted: u64,
        /// The index given.
        got: u64,
    },
    /// The index was purged. Nothing was applied or read.
    #[error("stream {stream} is purged up to index {purged}")]
    Purged {
        /// The stream.
        stream: StreamId,
        /// The last purged index.
        purged: u64,
    },
    /// A payload, note or mark over its bound. Nothing was applied.
    #[error("{bytes} bytes are more than the {max_bytes} a record may have")]
    TooLarge {
        /// What was given.
        bytes: usize,
        /// The bound.
        max_bytes: usize,
    },
    /// Records of the stream were lost to damage, or it was set aside by its owner. Nothing was
    /// applied or read; only [`crate::Wal::forget`] ends it.
    #[error("stream {stream} is quarantined: {why}")]
    Quarantined {
        /// The stream.
        stream: StreamId,
        /// The file, the offset and what is wrong there, or what the owner said.
        why: Arc<str>,
    },
    /// A record on disk fails its checksum. Nothing was returned; the record is lost here.
    #[error("a record of {file} at offset {offset} fails its checksum")]
    Damaged {
        /// The segment's file name.
        file: String,
        /// Where the record begins, bytes.
        offset: u64,
    },
    /// The disk refused a read. Nothing was returned; a retry may succeed.
    #[error("{file} can't be read: {reason}")]
    Read {
        /// The segment's file name.
        file: String,
        /// What the disk said.
        reason: String,
    },
}

/// Why a log was not opened. After `Corrupt`, `Missing` and `Version` the directory is as it
/// was found. After `Io` a retry may succeed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The options contradict themselves.
    #[error("option out of range: {0}")]
    Options(&'static str),
    /// Another process (or another handle) holds this log.
    #[error("the log is in use by another process")]
    InUse,
    /// The disk refused.
    #[error("{action}: {source}")]
    Io {
        /// What was tried, as a verb and a file.
        action: String,
        /// What the disk said.
        source: io::Error,
    },
    /// The file is of a newer format.
    #[error("{file} has format version {got}, this build reads {known}")]
    Version {
        /// The file.
        file: String,
        /// The version found.
        got: u32,
        /// The newest version this build reads.
        known: u32,
    },
    /// Bytes that had been synced are damaged or gone. Nothing was cut: acknowledged records
    /// stood there.
    #[error("{file} is damaged at offset {offset}: {reason}")]
    Corrupt {
        /// The file.
        file: String,
        /// Where the damage begins, bytes.
        offset: u64,
        /// What is wrong there.
        reason: &'static str,
    },
    /// An entry that the stream must have is in no segment: a segment was taken away.
    #[error("stream {stream} lacks its entry {index}: an older segment is gone")]
    Missing {
        /// The stream.
        stream: StreamId,
        /// The lowest missing index.
        index: u64,
    },
}

impl OpenError {
    pub(crate) fn io(action: &str, file: &str) -> impl FnOnce(io::Error) -> Self {
        let action = format!("{action} {file}");
        move |source| Self::Io { action, source }
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
