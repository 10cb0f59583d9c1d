//! The cluster as this node sees it: status, members, layout.

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use stemedb::{ClusterStatus, Drain, Member, MemberState, Quarantined};
use stemedb_api::cluster as api;
use stemedb_api::operate::Drain as DrainShown;
use stemedb_types::Replica;

use crate::failure::Failure;
use crate::gateway::Inner;
use crate::query::instant;
use crate::{operate, respond};

/// `GET /v1/cluster/status`: counts for everyone; `full` names the members too.
pub(crate) async fn status(gateway: &Inner, full: bool) -> Result<Response<Full<Bytes>>, Failure> {
    let status = gateway.front.status();
    let progress = if full { operate::progress(gateway).await } else { None };
    let drains = if full { operate::drains(gateway, &progress) } else { Vec::new() };
    let alive = status.members.iter().filter(|m| m.state == MemberState::Alive).count();
    let body = api::Status {
        cluster_id: status.cluster.map(|id| id.to_string()),
        epoch: status.layout.epoch,
        members: api::Members { total: count(status.members.len()), alive: count(alive) },
        shards: shards(&status),
        nodes: full.then(|| status.members.iter().map(|m| node(m, &drains)).collect()),
        quarantined: full.then(|| status.quarantined.iter().map(quarantined).collect()),
        rebalance: progress.as_ref().map(operate::rebalance),
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

fn node(member: &Member, drains: &[Drain]) -> api::NodeStatus {
    api::NodeStatus {
        id: member.node.id.to_string(),
        name: member.node.name.clone(),
        state: state(member.state),
        leaders: member.leaders,
        drain: drain(member, drains),
    }
}

fn drain(member: &Member, drains: &[Drain]) -> Option<DrainShown> {
    drains.iter().find(|drain| drain.node == member.node.id).map(operate::shown)
}

/// `GET /v1/cluster/members`.
pub(crate) async fn members(gateway: &Inner) -> Result<Response<Full<Bytes>>, Failure> {
    let drains = operate::drains(gateway, &operate::progress(gateway).await);
    let status = gateway.front.status();
    let held = |node| status.layout.shards.iter().filter(|shard| shard.on(node).is_some()).count();
    let items = status.members.iter().map(|member| {
        let Member { node, state: s, leaders, version } = member.clone();
        api::Member {
            id: node.id.to_string(),
            name: node.name,
            zone: node.zone,
            state: state(s),
            leaders,
            replicas: count(held(node.id)),
            weight: node.weight,
            drain: drain(member, &drains),
            version,
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
