//! The cluster as this node sees it: status, members, layout.

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use stemedb::{ClusterStatus, Member, MemberState, Quarantined};
use stemedb_api::cluster as api;
use stemedb_types::Replica;

use crate::failure::Failure;
use crate::gateway::Inner;
use crate::query::instant;
use crate::respond;

/// `GET /v1/cluster/status`: counts for everyone; `full` names the members too.
pub(crate) fn status(gateway: &Inner, full: bool) -> Result<Response<Full<Bytes>>, Failure> {
    let status = gateway.front.status();
    let alive = status.members.iter().filter(|m| m.state == MemberState::Alive).count();
    let body = api::Status {
        cluster_id: status.cluster.map(|id| id.to_string()),
        epoch: status.layout.epoch,
        members: api::Members { total: count(status.members.len()), alive: count(alive) },
        shards: shards(&status),
        nodes: full.then(|| status.members.iter().map(node).collect()),
        quarantined: full.then(|| status.quarantined.iter().map(quarantined).collect()),
    };
    respond::json(StatusCode::OK, &body)
}

fn shards(status: &ClusterStatus) -> api::Shards {
    api::Shards {
        total: count(status.layout.shards.len()),
        leaderless: status.shards_leaderless,
        under_replicated: status.shards_under_replicated,
        quarantined: count(status.quarantined.iter().filter_map(|q| q.group.shard()).count()),
        moving: status.shards_moving,
    }
}

fn quarantined(aside: &Quarantined) -> api::Quarantined {
    api::Quarantined {
        shard: aside.group.shard().map(|shard| shard.0),
        replica: aside.replica.0,
        part: aside.part.to_owned(),
        cause: aside.cause.clone(),
        since: instant(aside.since_ms),
    }
}

fn node(member: &Member) -> api::NodeStatus {
    api::NodeStatus {
        id: member.node.id.to_string(),
        name: member.node.name.clone(),
        state: state(member.state),
        leaders: member.leaders,
    }
}

/// `GET /v1/cluster/members`.
pub(crate) fn members(gateway: &Inner) -> Result<Response<Full<Bytes>>, Failure> {
    let items =
        gateway.front.status().members.into_iter().map(|Member { node, state: s, leaders }| {
            api::Member {
                id: node.id.to_string(),
                name: node.name,
                zone: node.zone,
                state: state(s),
                leaders,
                http: node.addresses.http,
                gateway: node.addresses.gateway,
                grpc: node.addresses.grpc,
                gossip: node.addresses.gossip,
            }
        });
    respond::json(StatusCode::OK, &api::MemberList { items: items.collect() })
}

/// `GET /v1/cluster/layout`.
pub(crate) fn layout(gateway: &Inner) -> Result<Response<Full<Bytes>>, Failure> {
    let layout = gateway.front.status().layout;
    let fingerprint = layout.fingerprint().iter().map(|byte| format!("{byte:02x}")).collect();
    let shards = (0..)
        .zip(&layout.shards)
        .map(|(shard, placed)| api::Shard { shard, replicas: replicas(&placed.replicas) });
    let body = api::Layout {
        epoch: layout.epoch,
        fingerprint,
        meta: replicas(&layout.meta),
        shards: shards.collect(),
    };
    respond::json(StatusCode::OK, &body)
}

fn replicas(replicas: &[Replica]) -> Vec<api::Replica> {
    let shown = |r: &Replica| api::Replica { node: r.node.to_string(), replica: r.id.0 };
    replicas.iter().map(shown).collect()
}

fn state(state: MemberState) -> api::MemberState {
    match state {
        MemberState::Alive => api::MemberState::Alive,
        MemberState::Down => api::MemberState::Down,
        MemberState::Unknown => api::MemberState::Unknown,
    }
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
