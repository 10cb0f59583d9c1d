//! What an operator asks of the cluster: a look before a change, drain, remove, pause, resume.
//!
//! Every command may be sent again: it says what is to be, not what is to change.

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use hyper::body::Body;
use stemedb::{AdminAnswer, AdminCall, Change, Drain, DrainState, NewMember, Progress, ShardMove};
use stemedb_api::operate::{self as api, CHANGE_MEMBERS_MAX};
use stemedb_types::NodeId;
use stemedb_types::limits::BODY_BYTES_MAX;

use crate::failure::{Failure, Repeat};
use crate::query::instant;
use crate::request::Admitted;
use crate::{body, respond};

type Answer = Result<Response<Full<Bytes>>, Failure>;

/// What a node may be called at most, in bytes.
const NAME_BYTES_MAX: usize = 255;

/// `POST /v1/cluster/layout/plan`: what a change would move; nothing is changed.
pub(crate) async fn plan<B>(request: Admitted<'_>, body: B) -> Answer
where
    B: Body<Data = Bytes> + Unpin,
{
    request.params(&[], &[])?;
    body::expect_json(&request.head.headers)?;
    let patience = request.gateway.options.deadline;
    let bytes = body::read(body, "the body", BODY_BYTES_MAX, patience).await?;
    let asked: api::PlanRequest = match bytes.trim_ascii_start().first() {
        None => api::PlanRequest::default(),
        Some(b'{') => serde_json::from_slice(&bytes)
            .map_err(|cause| Failure::malformed(format!("the body: {cause}")))?,
        // An array would be read as the fields in their order.
        Some(_) => return Err(Failure::malformed("the body must be a JSON object")),
    };
    let preview = request.gateway.front.preview(change(asked)?).await?;
    let moves = preview.moves.iter().map(|planned| api::PlannedMove {
        shard: planned.shard.0,
        add: planned.add.iter().map(ToString::to_string).collect(),
        remove: ids(&planned.remove),
        bytes: planned.bytes,
    });
    let plan = api::Plan {
        epoch: preview.epoch,
        moves: moves.collect(),
        bytes_total: preview.bytes_total,
        leaders_moved: preview.leaders_moved,
        blocked: preview.blocked,
    };
    respond::json(StatusCode::OK, &plan)
}

fn change(asked: api::PlanRequest) -> Result<Change, Failure> {
    let api::PlanRequest { drain, remove, add } = asked;
    if drain.len() + remove.len() + add.len() > CHANGE_MEMBERS_MAX {
        let detail = format!("a change names {CHANGE_MEMBERS_MAX} members at most");
        return Err(Failure::malformed(detail));
    }
    let mut new = Vec::with_capacity(add.len());
    for api::NewMember { name, zone, weight } in add {
        if name.is_empty() || name.len() > NAME_BYTES_MAX || zone.len() > NAME_BYTES_MAX {
            let detail = format!("`name` must be 1 to {NAME_BYTES_MAX} bytes, `zone` at most that");
            return Err(Failure::malformed(detail));
        }
        if !(1..=100).contains(&weight) {
            return Err(Failure::malformed("`weight` must be 1 to 100"));
        }
        new.push(NewMember { name, zone, weight });
    }
    Ok(Change { drain, remove, add: new })
}

/// `POST /v1/cluster/members/{id}/drain`, and with `?off` the end of it.
pub(crate) async fn drain(request: Admitted<'_>) -> Answer {
    let off = request.params(&["off"], &[])?.flag("off")?;
    let member = path_member(&request)?;
    change_member(request, AdminCall::Drain { member, on: !off }, false).await
}

/// `POST /v1/cluster/members/{id}/remove`.
pub(crate) async fn remove(request: Admitted<'_>) -> Answer {
    request.params(&[], &[])?;
    let member = path_member(&request)?;
    change_member(request, AdminCall::Remove { member }, true).await
}

async fn change_member(request: Admitted<'_>, call: AdminCall, removed: bool) -> Answer {
    let front = &request.gateway.front;
    let answered = front.admin(request.admission, call).await;
    let AdminAnswer::Member { node, name } =
        answered.map_err(|error| Failure::from(error).with_repeat(Repeat::Harmless))?
    else {
        return Err(Failure::internal("a member was changed, but not given back"));
    };
    let drains = drains(request.gateway, &progress(request.gateway).await);
    let drain = drains.iter().find(|drain| drain.node == node).map(shown);
    let body = api::MemberChange { id: node.to_string(), name, removed, drain };
    respond::json(StatusCode::OK, &body)
}

/// `POST /v1/cluster/rebalance/pause` and `/resume`.
pub(crate) async fn pause(request: Admitted<'_>, on: bool) -> Answer {
    request.params(&[], &[])?;
    let call = AdminCall::Pause { on };
    let answered = request.gateway.front.admin(request.admission, call).await;
    answered.map_err(|error| Failure::from(error).with_repeat(Repeat::Harmless))?;
    respond::json(StatusCode::OK, &api::Paused { paused: on })
}

/// The member as the path names it, by id or name.
fn path_member(request: &Admitted<'_>) -> Result<String, Failure> {
    let decoded = stemedb_api::path::decode_key(request.target.rest);
    let name = decoded.ok().and_then(|name| String::from_utf8(name.into_owned()).ok());
    name.ok_or_else(|| Failure::malformed("the member's name is not percent-encoded UTF-8"))
}

/// How far what moves has come; `None` where nobody can say.
pub(crate) async fn progress(gateway: &crate::gateway::Inner) -> Option<Progress> {
    gateway.front.progress().await.ok()
}

/// The members that are drained. Where nobody can say how far they are, what this node knows.
pub(crate) fn drains(gateway: &crate::gateway::Inner, progress: &Option<Progress>) -> Vec<Drain> {
    if let Some(progress) = progress {
        return progress.drains.clone();
    }
    let status = gateway.front.status();
    let known = status.members.iter().filter_map(|member| {
        let node = member.node.id;
        let held = status.layout.shards.iter().filter(|shard| shard.on(node).is_some()).count();
        Some(Drain {
            node,
            since_ms: member.node.draining_since_ms?,
            state: DrainState::Draining,
            replicas: u32::try_from(held).unwrap_or(u32::MAX),
            leaders: member.leaders,
            reason: "how far it is can't be told: no quorum of the meta group answers".to_owned(),
        })
    });
    known.collect()
}

/// A drain as it is shown.
pub(crate) fn shown(drain: &Drain) -> api::Drain {
    api::Drain {
        since: instant(drain.since_ms),
        state: match drain.state {
            DrainState::Draining => api::DrainState::Draining,
            DrainState::Drained => api::DrainState::Drained,
            DrainState::Blocked => api::DrainState::Blocked,
        },
        replicas: drain.replicas,
        leaders: drain.leaders,
        reason: drain.reason.clone(),
    }
}

/// What moves, as it is shown.
pub(crate) fn rebalance(progress: &Progress) -> api::Rebalance {
    let moves = progress.moves.iter().map(|shown: &ShardMove| api::ShardMove {
        shard: shown.shard.0,
        step: shown.step.as_str().to_owned(),
        add: ids(&shown.add),
        remove: ids(&shown.remove),
        entries_behind: shown.entries_behind,
        sent_bytes: shown.sent_bytes,
        bytes: shown.bytes,
    });
    api::Rebalance {
        paused: progress.paused_since_ms.is_some(),
        paused_since: progress.paused_since_ms.map(instant),
        moves: moves.collect(),
    }
}

fn ids(nodes: &[NodeId]) -> Vec<String> {
    nodes.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_has_the_same_words_in_the_node_and_in_the_api() {
        for state in [DrainState::Draining, DrainState::Drained, DrainState::Blocked] {
            let (node, reason) = (NodeId(1), String::new());
            let drain = Drain { node, since_ms: 0, state, replicas: 1, leaders: 2, reason };
            assert_eq!(shown(&drain).state.as_str(), state.as_str());
        }
    }
}
