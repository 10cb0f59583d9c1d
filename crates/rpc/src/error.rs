//! What became of a message, in words a caller can act on.
//!
//! The one question that matters after a failure is whether the other side
//! may have acted. [`Error::NotSent`] says certainly not; [`Error::Unknown`]
//! says perhaps; [`Error::Refused`] and [`Error::Dropped`] are the peer's own
//! words. [`Down`] is why a link is down, kept apart by what it proves: a
//! refused connection proves that no process listens there, silence proves
//! nothing.

use tokio::time::Instant;

use crate::message::Refusal;
use crate::mismatch::Mismatch;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It never left this node: retrying, here or elsewhere, is safe.
    #[error("not sent: {0}")]
    NotSent(NotSent),
    /// It may have left and may have been acted on: retry only what may happen twice.
    #[error("sent, and the outcome is unknown: {0}")]
    Unknown(Unknown),
    /// The peer's handler said no, and says what that means.
    #[error(transparent)]
    Refused(Refusal),
    /// The peer's handler let go of the reply without answering; whether it acted is its affair.
    #[error("the peer's handler gave no answer")]
    Dropped,
}

/// Why a message never left.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSent {
    /// The peer's queue is at its bound, in messages or in bytes: it is slower than its callers.
    #[error("the queue to the peer is full")]
    QueueFull,
    /// No retry helps: split it.
    #[error("the payload has {got_bytes} bytes, at most {max_bytes} travel")]
    TooLarge {
        /// Length of the payload.
        got_bytes: usize,
        /// The bound it broke.
        max_bytes: usize,
    },
    /// The deadline passed while it was still queued.
    #[error("its deadline passed in the queue")]
    Deadline,
    /// There is no link, and why.
    #[error("{0}")]
    Down(Down),
}

/// Why the outcome of a sent message is unknown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// No answer before the deadline. A later one is thrown away.
    #[error("no answer before the deadline")]
    Deadline,
    /// The link broke first.
    #[error("{0}")]
    Down(Down),
    /// The caller's own stream of snapshot chunks failed on the way; the peer saw an interrupted
    /// snapshot.
    #[error("the source of the snapshot failed: {0}")]
    Source(String),
}

/// Why a link is down. Evidence for failover, in falling order of worth.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Down {
    /// The peer's host answered that nothing listens there: that process is gone.
    #[error("the connection was refused")]
    ConnectionRefused,
    /// A link that was up broke: closed, reset, or silent past the keepalive.
    #[error("the link broke: {0}")]
    Lost(String),
    /// No answer to the dial, or no route: host or network, nobody knows which.
    #[error("the peer can't be reached: {0}")]
    Unreachable(String),
    /// The handshake failed: somebody is there, and it is not to be talked to.
    #[error("{0}")]
    Handshake(Mismatch),
    /// Our own doing: its address or our cluster id changed; the next dial is under way.
    #[error("the connection is being made anew")]
    Superseded,
    /// The address book has no address for it.
    #[error("its address is not known")]
    NoAddress,
    /// The first dial is under way.
    #[error("not connected yet")]
    Dialling,
    /// It was removed from the address book.
    #[error("the peer was removed")]
    Removed,
    /// This plane is shut down.
    #[error("this node is shutting down")]
    Shutdown,
}

/// State of the main link to one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// The handshake is done and nothing has broken since.
    Up {
        /// Since when.
        since: Instant,
    },
    /// No message can go there.
    Down {
        /// Since when it has been down; a failed redial changes the reason and not this.
        since: Instant,
        /// The newest reason.
        why: Down,
    },
}

impl Link {
    /// Whether messages can go there.
    pub fn is_up(&self) -> bool {
        matches!(self, Link::Up { .. })
    }
}

/// Why a plane could not start. Nothing runs, nothing is bound by it.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// More cluster secrets than a rotation needs.
    #[error("{got} cluster secrets given, at most {max} are accepted")]
    Secrets {
        /// How many were given.
        got: usize,
        /// How many are accepted.
        max: usize,
    },
    /// The listener was not usable.
    #[error("the listener for peers: {0}")]
    Listener(#[from] std::io::Error),
}
