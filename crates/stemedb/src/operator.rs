//! What an operator may ask of a cluster, and what comes back: words only.
//!
//! Commands (drain, remove, pause) go through [`crate::AdminCall`], as everything that changes the
//! cluster does. What stands here is asked without changing anything: what a change would move
//! ([`crate::Front::preview`]), and how far what moves has come ([`crate::Front::progress`]). Any node
//! answers, from the committed state and from what the shards' leaders say.

use std::fmt;

use stemedb_types::{NodeId, ShardId};

/// A change of members to look at before it is made. All empty: what is still to come as things are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Members to drain, by id or name.
    pub drain: Vec<String>,
    /// Members to do without, by id or name.
    pub remove: Vec<String>,
    /// Nodes that would join.
    pub add: Vec<NewMember>,
}

/// A node that would join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewMember {
    /// What it would be called.
    pub name: String,
    /// Its failure domain; empty if it names none.
    pub zone: String,
    /// How much of the data it should hold, relative to the others.
    pub weight: u8,
}

/// What a change would move.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preview {
    /// The epoch it was made from.
    pub epoch: u64,
    /// Shards that get or lose replicas, by number.
    pub moves: Vec<PlannedMove>,
    /// What is to be copied in all, in bytes on disk.
    pub bytes_total: u64,
    /// Shards that are to be led by another node than now.
    pub leaders_moved: u32,
    /// What stands in the way, a sentence each.
    pub blocked: Vec<String>,
}

/// A shard that gets or loses replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedMove {
    /// Which.
    pub shard: ShardId,
    /// Who gets it.
    pub add: Vec<Place>,
    /// Who loses it.
    pub remove: Vec<NodeId>,
    /// What is to be copied, in bytes on disk; what its leader has only in memory does not count.
    pub bytes: u64,
}

/// Where a replica would go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// To a member.
    Member(NodeId),
    /// To a node that would join under this name.
    New(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Member(node) => node.fmt(f),
            Place::New(name) => name.fmt(f),
        }
    }
}

/// How far what moves has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The epoch it was seen at.
    pub epoch: u64,
    /// Since when nothing new begins to move, in ms since 1970; `None`: it may.
    pub paused_since_ms: Option<u64>,
    /// Shards that move, and those that wait for their turn, by number.
    pub moves: Vec<ShardMove>,
    /// Members that are being drained, by id.
    pub drains: Vec<Drain>,
}

/// A shard on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardMove {
    /// Which.
    pub shard: ShardId,
    /// What its leader does next.
    pub step: MoveStep,
    /// Who gets it.
    pub add: Vec<NodeId>,
    /// Who loses it.
    pub remove: Vec<NodeId>,
    /// How many entries of its log those who get it lack at most; `None`: nobody says.
    pub entries_behind: Option<u64>,
    /// Bytes of the snapshot that runs that were sent; `None`: none runs.
    pub sent_bytes: Option<u64>,
    /// What the shard takes on disk, in bytes, at its leader; `None`: nobody says.
    pub bytes: Option<u64>,
}

/// What a move does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MoveStep {
    /// It waits for its turn, or for the end of a pause.
    Waiting,
    /// A replica is added that only listens.
    Adding,
    /// That one gets what it lacks.
    CatchingUp,
    /// The lead is handed to a replica that stays.
    HandingOver,
    /// The voters change.
    Voting,
    /// Replicas that only listen are dropped.
    Dropping,
    /// Nobody leads the shard.
    Leaderless,
}

impl MoveStep {
    /// Every step, in the order of its byte.
    pub const ALL: [MoveStep; 7] = [
        MoveStep::Waiting,
        MoveStep::Adding,
        MoveStep::CatchingUp,
        MoveStep::HandingOver,
        MoveStep::Voting,
        MoveStep::Dropping,
        MoveStep::Leaderless,
    ];

    /// Its word in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            MoveStep::Waiting => "waiting",
            MoveStep::Adding => "adding",
            MoveStep::CatchingUp => "catching-up",
            MoveStep::HandingOver => "handing-over",
            MoveStep::Voting => "voting",
            MoveStep::Dropping => "dropping",
            MoveStep::Leaderless => "leaderless",
        }
    }
}

/// A member that is being drained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drain {
    /// Who.
    pub node: NodeId,
    /// Since when, in ms since 1970.
    pub since_ms: u64,
    /// How far it is.
    pub state: DrainState,
    /// Shards that it still holds.
    pub replicas: u32,
    /// Shards that it still leads.
    pub leaders: u32,
    /// What it waits for, in a sentence; empty once it is drained.
    pub reason: String,
}

/// How far a drain is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrainState {
    /// It gives away what it has.
    Draining,
    /// It holds nothing and leads nothing: it can be removed.
    Drained,
    /// The others are too few to take what it holds: it leads nothing any more, or soon, and keeps the
    /// rest.
    Blocked,
}

impl DrainState {
    /// Its word in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            DrainState::Draining => "draining",
            DrainState::Drained => "drained",
            DrainState::Blocked => "blocked",
        }
    }
}
