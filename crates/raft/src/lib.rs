//! Raft groups: openraft over our log, our machines and our peer plane.
//!
//! A node runs many groups: the meta group and its shards. openraft decides;
//! this crate gives each group what it stands on and keeps the groups from paying
//! for each other:
//!
//! ```text
//!  propose ─► queue ─► openraft ─► log_store ─► wal        one sync for all groups
//!                         │  └───► network ───► rpc        one stream per pair of peers
//!                         └──────► applier ───► machine ─► engine   one batch per run
//!  read ────► queue ─► read index, one quorum round for all that wait; or the lease
//!  read elsewhere ─► the leader's read index ─► applied here
//! ```
//!
//! | file | idea |
//! |---|---|
//! | `types` | the type configuration: what openraft is told our types are |
//! | `codec` | our bytes of openraft's words: on disk and between peers |
//! | `log_store` | a group's log is a stream of the node's WAL |
//! | `replay` | what the log has beyond the store, applied before openraft starts |
//! | `space` | whether the disks take more |
//! | `synced` | which entries the own disk holds: nothing is applied before |
//! | `closing` | whether the replica stops: heard by all that waits |
//! | `applier` | entries → machine → one batch with the applied mark in it |
//! | `snapshot` | what a snapshot is here: nothing, until it is sent |
//! | `sending` | a snapshot to a follower: offered, sent, resumed |
//! | `taking` | a snapshot from the leader: taken in beside what goes on |
//! | `network` | what a group sends to a peer |
//! | `inbound` | what a peer sends to a group |
//! | `group` | one replica of one group: propose, read, watch |
//! | `members` | who is a member of a group, and how that changes |
//! | `queue` | commands and reads that wait together travel together |
//! | `grid` | timers that need not be exact ring together |
//! | `ticks` | what a node does each interval, at moments it shares |
//! | `pulse` | heartbeats of all groups, together |
//! | `evidence` | what lets a vote past the lease of a leader that is gone |
//! | `reading` | reads at any replica, and how old what it has may be |
//! | `lease`, `clock` | reads without a round, and the time that takes |
//! | `damage` | what a replica found damaged of its own, and what its marks say it lost |
//! | `survivor` | offline: a replica that goes on as the only member of its group |
//! | `groups` | all replicas of a node, by group |
//! | `runtime`, `transport` | the seams: tasks, threads and chance; the network |
//!
//! No type of openraft stands in this crate's public API or in bytes on disk: the library
//! is an alpha release, pinned, and may be replaced.
//!
//! What a group knows its members by is a replica id, never a node (decision
//! 9a): every message names the replica it is from and the one it is for, and
//! a replica that is not the one meant does not answer for it.
//!
//! Each log is cut by whoever runs the node ([`Group::shorten_log`]), not by openraft: a leader keeps
//! what a follower still lacks until the node's log is too long, so that one that is being sent a
//! snapshot finds the entries behind it. A log that grows by several times its bound during
//! one snapshot makes that follower need another.
//!
//! A leader whose node is gone is given up on evidence (`evidence`); where there is none, by timers: 1.5 s
//! of lease and 1 to 1.5 s of patience.

mod applier;
pub mod clock;
mod closing;
mod codec;
mod damage;
mod evidence;
mod grid;
mod group;
mod groups;
mod inbound;
mod lease;
mod log_store;
mod members;
mod network;
mod pulse;
mod queue;
mod reading;
mod replay;
pub mod runtime;
mod sending;
mod snapshot;
mod space;
mod survivor;
mod synced;
mod taking;
mod ticks;
mod transport;
mod types;

#[cfg(test)]
mod alone_tests;
#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod storage_tests;
#[cfg(test)]
mod suite_tests;

pub use applier::Applied;
pub use damage::{Damage, Part, applied_entry};
pub use evidence::{Evidence, NoEvidence};
pub use group::{Group, GroupOptions, Leadership, LogEnd, Position, ReadView, Standing};
pub use groups::{Groups, GroupsOptions};
pub use inbound::{Kind, kinds};
pub use lease::Permit;
pub use members::Members;
pub use queue::{Done, Propose, ReadDone};
pub use reading::PermitDone;
pub use replay::Replay;
pub use space::{Level, Space};
/// The node's log, which the façade opens and the groups share.
pub use stemedb_wal as wal;
pub use survivor::{Remains, Survivor};
pub use ticks::Ticks;
pub use transport::Transport;

/// What a replicated command gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Of a shard's command.
    Shard(stemedb_machine::shard::Answer),
    /// Of a meta command.
    Meta(stemedb_machine::meta::MetaAnswer),
    /// Of an entry that carries no command.
    Nothing,
}

/// A command that was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// What it gave.
    pub outcome: Outcome,
    /// The index of its log entry: whoever has applied this one has applied the command.
    pub index: u64,
}

/// Why a command or a read did not get through.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// This replica does not lead. Not applied; ask the leader.
    #[error("this replica does not lead its group")]
    NotLeader {
        /// The node that leads, if one is known.
        leader: Option<stemedb_types::NodeId>,
    },
    /// No majority confirms this leader. Not applied; try again.
    #[error("no quorum of replicas answers")]
    NoQuorum,
    /// The queue in front of the group is full. Not applied; try again later.
    #[error("too many commands wait for this group")]
    Overloaded,
    /// The command stands in a log, and whether it will be applied can't be known.
    #[error("the command may or may not be applied")]
    Unknown,
    /// The group has stopped: its log or its store failed, or the node goes down. A command not
    /// yet taken is not applied.
    #[error("the group has stopped: {0}")]
    Stopped(String),
    /// Bytes of this replica are damaged. It does not run; other replicas are not concerned.
    #[error("the replica is damaged: {}", .0.cause)]
    Damaged(Damage),
}
