//! The two replicated state machines: what a log entry means.
//!
//! A machine is a pure function. It is handed a command (bytes out of the
//! Raft log), a view of the state before it, and gives back the changes to
//! write and the answer for whoever asked. It reads no clock, draws no
//! lots and does no IO: whatever is not determined (the time, a random id)
//! was decided before the log and stands in the command, so that every replica
//! that applies the same entries holds the same state (decision 6).
//!
//! | module | idea |
//! |---|---|
//! | `shard` | the buckets of many projects: keys with their versions, and claims |
//! | `meta` | the cluster itself: nodes, layout, projects, API keys |
//!
//! A bad request is not an error here: it has an answer, the same on every
//! replica, and changes nothing. Errors are only two: bytes that are no
//! command (a broken log, or a newer peer), and a view that can't be read (a
//! broken disk). After either the replica must stop applying.
//!
//! Left out, until their parts come: transactions, batches, range
//! delete, watches, retraction, quotas. Each is a new command
//! tag or a new change; the encodings carry a version.

pub mod meta;
pub mod shard;

use stemedb_types::DecodeError;

/// Why an entry could not be applied. Nothing of it was; the replica must stop here.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The entry's bytes are no command of this build.
    #[error("read a command from the log: {0}")]
    Decode(#[from] DecodeError),
    /// The state could not be read.
    #[error("read the state: {0}")]
    View(String),
    /// Bytes of the state fail their checksum, or do not read back: they are lost here.
    #[error("read the state: {0}")]
    Damaged(String),
    /// The state contradicts itself: an invariant was broken before this entry.
    #[error("the state contradicts itself: {0}")]
    Contradiction(String),
}

/// What applying one entry gave.
#[derive(Debug)]
#[must_use = "a replica that answers without writing the changes has diverged"]
pub struct Outcome<C, A> {
    /// To be written in one batch with the applied index, in this order.
    pub changes: Vec<C>,
    /// For whoever proposed the entry.
    pub answer: A,
}
