//! Status, members, layout: the cluster as the node asked sees it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::operate::{Drain, Rebalance};

/// What `GET /v1/cluster/status` gives back. Without an admin's key: no `nodes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// 32 lowercase hex digits; absent before the cluster is founded or joined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// The layout this node acts on.
    pub epoch: u64,
    /// How many members there are.
    pub members: Members,
    /// How the shards are.
    pub shards: Shards,
    /// Each member, by id. For keys that may inspect the cluster only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Vec<NodeStatus>>,
    /// Each replica that the node asked has set aside. For keys that may inspect the cluster only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantined: Option<Vec<Quarantined>>,
    /// What moves. For keys that may inspect the cluster only; absent also where no quorum of the meta
    /// group answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rebalance: Option<Rebalance>,
}

/// A replica that is damaged: it neither votes nor acknowledges, and its group goes on without it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Quarantined {
    /// Its shard; absent for the meta group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<u16>,
    /// What its group calls it.
    pub replica: u64,
    /// What is damaged: `log` or `store`.
    pub part: String,
    /// What was read, and what is wrong with it.
    pub cause: String,
    /// Since when, RFC 3339.
    pub since: String,
}

/// Members, counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Members {
    /// All that are registered.
    pub total: u32,
    /// Those that gossip hears.
    pub alive: u32,
}

/// Shards, counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Shards {
    /// All of them; fixed when the cluster was founded.
    pub total: u32,
    /// Those without a known leader.
    pub leaderless: u32,
    /// Those with fewer living replicas than voters.
    pub under_replicated: u32,
    /// Those whose replica on the node asked is damaged and set aside; others serve them.
    #[serde(default)]
    pub quarantined: u32,
    /// Those on their way to other nodes, as far as the node asked holds a replica of them.
    pub moving: u32,
}

/// A member at a glance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeStatus {
    /// 16 lowercase hex digits.
    pub id: String,
    /// What a person calls it.
    pub name: String,
    /// Whether it answers.
    pub state: MemberState,
    /// How many shards it leads, as far as the node asked knows.
    pub leaders: u32,
    /// How far it is drained; absent if it is not to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<Drain>,
}

/// Whether a member answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum MemberState {
    /// Gossip hears it.
    Alive,
    /// Gossip says it is down.
    Down,
    /// Registered, but not heard of since the node asked started.
    Unknown,
}

impl MemberState {
    /// The word in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            MemberState::Alive => "alive",
            MemberState::Down => "down",
            MemberState::Unknown => "unknown",
        }
    }
}

/// What `GET /v1/cluster/members` gives back, by id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MemberList {
    /// Every member.
    pub items: Vec<Member>,
}

/// A member and where it can be reached, each address as `host:port`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Member {
    /// 16 lowercase hex digits.
    pub id: String,
    /// What a person calls it.
    pub name: String,
    /// Its failure domain; empty if none was named.
    pub zone: String,
    /// Whether it answers.
    pub state: MemberState,
    /// How many shards it leads, as far as the node asked knows.
    pub leaders: u32,
    /// How many shards the layout gives it.
    #[serde(default)]
    pub replicas: u32,
    /// How much of the data it should hold, relative to the others.
    #[serde(default)]
    pub weight: u8,
    /// How far it is drained; absent if it is not to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<Drain>,
    /// The version of its software; absent until the node asked has heard it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Its own HTTP API.
    pub http: String,
    /// Its gateway.
    pub gateway: String,
    /// The peer plane.
    pub grpc: String,
    /// SWIM gossip.
    pub gossip: String,
}

/// What `GET /v1/cluster/layout` gives back: which nodes hold which shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Layout {
    /// Grows by one with every committed change; 0: no cluster yet.
    pub epoch: u64,
    /// SHA-256 of the layout, hex: equal on two nodes that agree.
    pub fingerprint: String,
    /// Replicas of the meta group.
    pub meta: Vec<Replica>,
    /// Every shard, by number.
    pub shards: Vec<Shard>,
}

/// Where one shard lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Shard {
    /// Its number, from 0.
    pub shard: u16,
    /// Its voters, the preferred leader first.
    pub replicas: Vec<Replica>,
}

/// One copy of one group on one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Replica {
    /// The node's id, 16 lowercase hex digits.
    pub node: String,
    /// What the group calls it; never used twice.
    pub replica: u64,
}
