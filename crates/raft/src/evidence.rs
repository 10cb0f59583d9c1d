//! Failover by evidence: what lets a vote past a leader that is known to be gone.
//!
//! A follower that has heard its leader refuses to vote for anybody else until the leader's lease is
//! over: so a replica that was cut off can't disturb a group that does well. But when the
//! leader's process dies every follower knows it at once, for its connection breaks, and waiting
//! for the lease is a second or more in which nobody can write.
//!
//! So whoever runs the node is asked ([`Evidence`]): if the node's own link to the leader is gone, its
//! replicas vote as if the lease were over. It says nothing about whom they vote for: that the
//! candidate's log has all they have is checked as ever. That is why evidence may be wrong without
//! harm (ADR 19): false evidence costs a change of leaders, never a write or a read.
//!
//! What it costs: a leader's lease protects nothing any more. Reads that trust a lease
//! ([`crate::GroupOptions::lease_reads`]) would be answered by a leader that lives and has lost its connections,
//! while another one writes; with those, no evidence is heard.

use stemedb_types::NodeId;

/// What a node knows about whether others are there.
pub trait Evidence: Send + Sync + 'static {
    /// Whether this node's own link to that node is gone: broken, refused, or silent for long.
    fn is_gone(&self, node: NodeId) -> bool;
}

/// Knows nothing: leaders are given up by timers alone.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoEvidence;

impl Evidence for NoEvidence {
    fn is_gone(&self, _: NodeId) -> bool {
        false
    }
}
