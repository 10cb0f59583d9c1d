//! Why a request was not done, said so that the caller knows what is true now.

use std::time::Duration;

/// Why a request was not done.
///
/// Every variant but [`Error::OutcomeUnknown`] means: not applied, now or later.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No key, or one that is not known. Present another.
    #[error("an API key is needed: X-API-Key: K, or Authorization: Bearer K")]
    Unauthenticated,
    /// The key may not do this.
    #[error("{0}")]
    Forbidden(String),
    /// The request contradicts itself; the same again gets the same.
    #[error("{0}")]
    Malformed(String),
    /// This node does not lead the bucket's shard and the door does not send on.
    #[error("another node owns this bucket")]
    NotOwner {
        /// The owner's own HTTP address, `host:port`, if it is known.
        owner: Option<String>,
    },
    /// It stands already.
    #[error("{0}")]
    AlreadyExists(String),
    /// There is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// As things are it must not be done; once they have changed as it says, it may.
    #[error("{0}")]
    Conflict(String),
    /// It can't be done right now; not applied, try again.
    #[error("{reason}")]
    Unavailable {
        /// What is in the way.
        reason: Unavailable,
        /// When trying again makes sense.
        retry_after: Duration,
    },
    /// The write stands in a log and may be applied, or not: ask before writing again.
    #[error("the write may or may not have been applied")]
    OutcomeUnknown,
    /// The disk is full; reads and deletes go on.
    #[error("the disk is full; reads and deletes go on")]
    DiskFull,
    /// A fault of ours.
    #[error("{0}")]
    Internal(String),
}

/// What is in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// The node is still starting, or is in no cluster yet.
    #[error("this node is starting")]
    Starting,
    /// No leader, or no majority behind it.
    #[error("no quorum of replicas answers")]
    NoQuorum,
    /// A queue is full.
    #[error("too much is waiting already")]
    Overloaded,
    /// The shard is on its way to other nodes.
    #[error("the shard is moving")]
    Moving,
    /// The node is going down.
    #[error("this node is draining")]
    Draining,
}

impl Error {
    /// Not now, and when again.
    pub fn unavailable(reason: Unavailable) -> Self {
        let retry_after = match reason {
            Unavailable::Overloaded => Duration::from_secs(2),
            _ => Duration::from_secs(1),
        };
        Error::Unavailable { reason, retry_after }
    }
}
