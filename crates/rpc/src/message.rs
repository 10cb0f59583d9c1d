//! What travels: an opaque payload, addressed by group and replica.
//!
//! The plane reads the address only to carry it. That the replica ids are
//! still the right ones (decision 9a: a replica that left and came back has
//! another id) is checked by whoever handles the message, which is why they
//! stand in every one.

use bytes::Bytes;
use stemedb_types::{ClusterId, GroupId, NodeId, ReplicaId};

/// One message to one replica of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The Raft group it concerns.
    pub group: GroupId,
    /// The replica it comes from; zero where none speaks (a forwarded call, a join).
    pub from: ReplicaId,
    /// The replica it is meant for; zero where any may answer.
    pub to: ReplicaId,
    /// What the payload is: the handler's own numbering.
    pub kind: u8,
    /// The handler's own encoding. On arrival it is a slice of the received frame, which stays
    /// in memory as long as any slice of it does: copy what is kept for long.
    pub payload: Bytes,
}

/// Which queue a message waits in. Answers wait in the lane of their request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Votes, heartbeats, pings: in front of everything that is still queued.
    Urgent,
    /// Everything else. Above [`crate::BULK_PAYLOAD_BYTES`] it takes the bulk connection, and
    /// keeps no order with what does not.
    Normal,
}

/// Who is at the other end, as the handshake has proven it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// The node.
    pub node: NodeId,
    /// Its cluster; `None` while it is blank. Never another cluster than ours.
    pub cluster: Option<ClusterId>,
}

/// A handler's "no": carried to the caller as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("refused with code {code}: {text}")]
pub struct Refusal {
    /// The handler's own numbering.
    pub code: u8,
    /// For people; cut to [`crate::REFUSAL_TEXT_BYTES_MAX`] bytes on the way.
    pub text: String,
}

impl Refusal {
    /// A refusal with its reason.
    pub fn new(code: u8, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }
}
