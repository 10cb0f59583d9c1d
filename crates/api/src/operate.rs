//! What an operator asks: drain, remove, pause, and what a change would move.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Most members that one change may name.
pub const CHANGE_MEMBERS_MAX: usize = 64;

/// What `POST /v1/cluster/layout/plan` takes. All empty, or no body at all: what is still to come as
/// things are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PlanRequest {
    /// Members to drain, by id or name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drain: Vec<String>,
    /// Members to remove, by id or name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<String>,
    /// Nodes that would join.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<NewMember>,
}

/// A node that would join.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewMember {
    /// What it would be called.
    pub name: String,
    /// Its failure domain; empty if it names none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub zone: String,
    /// How much of the data it should hold, relative to the others: 1 to 100.
    #[serde(default = "one")]
    #[schema(minimum = 1, maximum = 100, default = 1)]
    pub weight: u8,
}

fn one() -> u8 {
    1
}

/// What `POST /v1/cluster/layout/plan` gives back. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Plan {
    /// The layout it was made from.
    pub epoch: u64,
    /// Shards that would get or lose replicas, by number.
    pub moves: Vec<PlannedMove>,
    /// Bytes to copy in all, as they stand on disk.
    pub bytes_total: u64,
    /// Shards that would be led by another node than now.
    pub leaders_moved: u32,
    /// What stands in the way, a sentence each.
    pub blocked: Vec<String>,
}

/// A shard that would get or lose replicas.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlannedMove {
    /// Its number, from 0.
    pub shard: u16,
    /// Who gets it: ids of members, and names of nodes that would join.
    pub add: Vec<String>,
    /// Who loses it, by id.
    pub remove: Vec<String>,
    /// Bytes to copy, as they stand on disk; what was not flushed yet does not count.
    pub bytes: u64,
}

/// What moves, in the full `GET /v1/cluster/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Rebalance {
    /// Whether nothing begins to move.
    pub paused: bool,
    /// Since when, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused_since: Option<String>,
    /// Shards that move, and those that wait for their turn, by number.
    pub moves: Vec<ShardMove>,
}

/// A shard on its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ShardMove {
    /// Its number, from 0.
    pub shard: u16,
    /// What its leader does next: `waiting` (for its turn, or for the end of a pause), `adding`,
    /// `catching-up`, `handing-over`, `voting`, `dropping`, or `leaderless`.
    pub step: String,
    /// Who gets it, by id.
    pub add: Vec<String>,
    /// Who loses it, by id.
    pub remove: Vec<String>,
    /// Entries of the log that those who get it lack at most; absent where nobody says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entries_behind: Option<u64>,
    /// Bytes of the snapshot on its way that were sent; absent where none is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_bytes: Option<u64>,
    /// Bytes that the shard takes on its leader's disk; absent where nobody says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

/// How far a member is that is being drained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Drain {
    /// Since when, RFC 3339.
    pub since: String,
    /// Where it stands.
    pub state: DrainState,
    /// Shards that it still holds.
    pub replicas: u32,
    /// Shards that it still leads.
    pub leaders: u32,
    /// What it waits for; empty once it is drained.
    pub reason: String,
}

/// Where a drain stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DrainState {
    /// It gives away what it has.
    Draining,
    /// It holds nothing and leads nothing: it can be removed.
    Drained,
    /// The others are too few to take what it holds: it leads nothing any more, or soon, and keeps
    /// the rest.
    Blocked,
}

impl DrainState {
    /// The word in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            DrainState::Draining => "draining",
            DrainState::Drained => "drained",
            DrainState::Blocked => "blocked",
        }
    }
}

/// What draining and removing a member give back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MemberChange {
    /// 16 lowercase hex digits.
    pub id: String,
    /// What a person calls it.
    pub name: String,
    /// Whether it is no member any more.
    pub removed: bool,
    /// How far the drain is; absent if it is not being drained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<Drain>,
}

/// What pausing and resuming give back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Paused {
    /// Whether nothing begins to move.
    pub paused: bool,
}
