//! From blank to founded or joined: the half of [`crate::founding`] that asks and writes.
//!
//! Each step is decided from what gossip shows and from what this node has
//! accepted, taken, and taken again until it leads somewhere. A node that was told to join only is
//! no founder: it says so when it is asked, and founders leave it out of their count for as
//! long as it lives that life.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::RngExt;
use stemedb_membership::{Member, Members, Refused};
use stemedb_rpc::{Envelope, Refusal};
use stemedb_types::{ClusterId, GroupId, NodeId, ReplicaId};
use tokio::time::{Instant, timeout};

use crate::aside::remember_removed;
use crate::core::{Core, Phase, now_ms};
use crate::founding::{Description, Heard, Proposal, Step, step};
use crate::life::{QUESTION_TIMEOUT, STEP_INTERVAL};
use crate::options::Fatal;
use crate::peers::{REFUSED_GONE, REFUSED_JOINS};
use crate::wire::{DESCRIBE, FOUNDED, JOIN, PROPOSE, Welcome};

/// How long a blank node waits for a packet that it can open, and in how many seconds packets must
/// have come that it can't, from where it looks for others, until it holds its secret for wrong.
const SECRET_DOUBTED_AFTER: Duration = Duration::from_secs(10);
const SECRET_DOUBTED_SECONDS: u64 = 5;

/// Walks the steps until this node has a cluster.
pub(crate) async fn enter_a_cluster(core: &Arc<Core>) -> Result<(), Fatal> {
    let begun = Instant::now();
    let mut joiners = Joiners::new();
    loop {
        let accepted = match core.identity().get().proposal.clone() {
            None => None,
            Some(bytes) => {
                Some(Proposal::decode(&bytes).map_err(|cause| Fatal::Disk(cause.to_string()))?)
            }
        };
        let members = core.gossip.as_ref().map(|gossip| gossip.members().borrow().clone());
        let heard = heard(core.node, members.as_deref(), &joiners);
        let alone = members.as_ref().is_none_or(|members| members.active().count() == 1);
        if accepted.is_none() && alone && begun.elapsed() >= SECRET_DOUBTED_AFTER {
            doubt_the_secret(core)?;
        }
        let expect = core.description.expect;
        let entered = match step(core.node, &heard, accepted.as_ref(), expect, core.joins_only) {
            Step::Wait(reason) => Err(reason),
            Step::Sort(nodes) => sort_out(core, &nodes, &mut joiners).await,
            Step::Join(hosts) => join(core, &hosts).await,
            Step::Propose(nodes) => match propose(core, &nodes, &mut joiners).await {
                Ok(proposal) => complete(core, &proposal).await,
                Err(reason) => Err(reason),
            },
            Step::Complete => match &accepted {
                Some(proposal) => complete(core, proposal).await,
                None => Err("for its own proposal".to_owned()),
            },
            Step::Founded => match &accepted {
                Some(proposal) => found(core, proposal).await,
                None => Err("for its own proposal".to_owned()),
            },
        };
        match entered {
            Ok(()) => return Ok(()),
            Err(reason) => {
                let waiting = Phase::Blank(reason);
                if core.turn(waiting.clone()) {
                    tracing::info!(phase = ?waiting, "waiting");
                }
            }
        }
        wait_for_news(core).await;
    }
}

/// A node that nobody talks to, while those whom it looks for send what it can't open, has another
/// secret than they. Only a node that never had a cluster gives up on it: one that has may only be
/// the first of many to come back.
fn doubt_the_secret(core: &Core) -> Result<(), Fatal> {
    let Some(gossip) = &core.gossip else { return Ok(()) };
    let refused = *gossip.refused().borrow();
    if !is_wrong_secret(&refused) {
        return Ok(());
    }
    Err(Fatal::Setting(format!(
        "wrong cluster secret: {} packets of other nodes can't be opened with it, and none could be",
        refused.unsealed
    )))
}

/// Junk from anywhere says nothing of the secret, and where newer builds talk what can't be opened
/// may be theirs.
fn is_wrong_secret(refused: &Refused) -> bool {
    refused.newer == 0 && refused.unreadable >= SECRET_DOUBTED_SECONDS
}

fn heard(me: NodeId, members: Option<&Members>, joiners: &Joiners) -> Vec<Heard> {
    match members {
        None => vec![Heard { node: me, cluster: None }],
        Some(members) => members
            .active()
            .filter(|m| m.cluster.is_some() || joiners.get(&m.node) != Some(&m.incarnation))
            .map(|member| Heard { node: member.node, cluster: member.cluster })
            .collect(),
    }
}

/// Waits until gossip or a peer has news, or long enough to try again.
async fn wait_for_news(core: &Core) {
    let gossip = async {
        match &core.gossip {
            Some(gossip) => {
                let mut members = gossip.members();
                members.borrow_and_update();
                let _ = members.changed().await;
            }
            None => std::future::pending().await,
        }
    };
    let news = async {
        tokio::select! {
            () = gossip => {}
            () = core.founded.notified() => {}
        }
    };
    let _ = timeout(STEP_INTERVAL, news).await;
}

/// Where a node's peer plane is, as far as this node knows. `registered` is what the registry says.
pub(crate) fn address_of(
    core: &Core,
    node: NodeId,
    registered: Option<&str>,
) -> Option<SocketAddr> {
    let members = core.gossip.as_ref().map(|gossip| gossip.members().borrow().clone());
    pick_address(members.as_ref().and_then(|members| members.get(node)), registered)
}

/// Gossip knows first where a living node is. Of one that is down it tells where it was, for an
/// hour: a node that came back elsewhere is registered there, while gossip may not have met it yet.
/// (Names in the registry are for gossip, which resolves them again and again.)
fn pick_address(heard: Option<&Member>, registered: Option<&str>) -> Option<SocketAddr> {
    let living = heard.filter(|member| member.is_active()).map(|member| member.grpc);
    let registered = registered.and_then(|address| address.parse().ok());
    living.or(registered).or(heard.map(|member| member.grpc))
}

/// Why a question of founding or joining has no answer.
#[derive(Debug, thiserror::Error)]
enum Unasked {
    #[error("{}", .0.text)]
    Refused(Refusal),
    #[error("{0}")]
    Failed(String),
}

impl Unasked {
    fn of(self, node: NodeId) -> String {
        match self {
            Self::Refused(refusal) => format!("node {node}: {}", refusal.text),
            Self::Failed(why) => why,
        }
    }
}

async fn ask_once(
    core: &Core,
    node: NodeId,
    kind: stemedb_raft::Kind,
    payload: Vec<u8>,
) -> Result<Bytes, Unasked> {
    let failed = |why: String| Unasked::Failed(why);
    let state = core.meta.load();
    let registered = state.nodes.get(&node).map(|node| node.addresses.grpc.as_str());
    let address = address_of(core, node, registered)
        .ok_or_else(|| failed(format!("for node {node} to be heard")))?;
    let nobody = ReplicaId(0);
    let payload = Bytes::from(payload);
    let message = Envelope { group: GroupId::META, from: nobody, to: nobody, kind, payload };
    let plane = core.plane().map_err(|cause| failed(cause.to_string()))?;
    let deadline = Instant::now() + QUESTION_TIMEOUT;
    match plane.call_once(address, Some(node), message, deadline).await {
        Ok((_, payload)) => Ok(payload),
        Err(stemedb_rpc::Error::Refused(refusal)) => Err(Unasked::Refused(refusal)),
        Err(cause) => Err(failed(format!("node {node} at {address}: {cause}"))),
    }
}

async fn question(
    core: &Core,
    node: NodeId,
    kind: stemedb_raft::Kind,
    payload: Vec<u8>,
) -> Result<Bytes, String> {
    ask_once(core, node, kind, payload).await.map_err(|unasked| unasked.of(node))
}

async fn join(core: &Arc<Core>, hosts: &[NodeId]) -> Result<(), String> {
    let mut reason = "for a member of the cluster to answer".to_owned();
    for host in hosts {
        let welcome = match ask_once(core, *host, JOIN, core.description.encode()).await {
            Ok(bytes) => Welcome::decode(&bytes).map_err(|cause| cause.to_string())?,
            // Let in once, it was away before it knew, and for too long.
            Err(Unasked::Refused(refusal)) if refusal.code == REFUSED_GONE => {
                core.end_as_removed(refusal.text.clone());
                return Err(refusal.text);
            }
            Err(unasked) => {
                reason = unasked.of(*host);
                continue;
            }
        };
        let plane = core.plane().map_err(|cause| cause.to_string())?;
        for (node, addresses) in &welcome.members {
            if let (true, Ok(address)) = (*node != core.node, addresses.grpc.parse()) {
                plane.set_address(*node, address);
            }
        }
        return become_member(core, welcome.cluster, welcome.meta_replica).await;
    }
    Err(reason)
}

/// Asks the members whether this node is one of them still: a member that nobody talks to may have
/// been away for so long that others took its place. What they say if it is none.
pub(crate) async fn is_removed(core: &Core) -> Option<String> {
    let state = core.meta.load_full();
    for node in state.nodes.keys().filter(|node| **node != core.node) {
        match ask_once(core, *node, JOIN, core.description.encode()).await {
            Err(Unasked::Refused(refusal)) if refusal.code == REFUSED_GONE => {
                return Some(refusal.text);
            }
            _ => {}
        }
    }
    None
}

impl Core {
    /// Ends this node, for it is no member any more: the next start sets its data aside.
    pub(crate) fn end_as_removed(&self, why: String) {
        self.fail(match remember_removed(&self.wal_dir, self.node) {
            Ok(()) => Fatal::Removed(why),
            Err(cause) => Fatal::Disk(format!("write down that this node was removed: {cause}")),
        });
    }
}

/// Nodes that said they only join, in the life in which they said so.
type Joiners = BTreeMap<NodeId, u64>;

/// Asks a blank node who it is, and notes it if it only joins.
async fn describe(core: &Core, node: NodeId, joiners: &mut Joiners) -> Result<Description, String> {
    let life = core
        .gossip
        .as_ref()
        .and_then(|gossip| gossip.members().borrow().get(node).map(|member| member.incarnation));
    match ask_once(core, node, DESCRIBE, Vec::new()).await {
        Ok(bytes) => Description::decode(&bytes).map_err(|cause| cause.to_string()),
        Err(Unasked::Refused(refusal)) if refusal.code == REFUSED_JOINS => {
            joiners.extend(life.map(|life| (node, life)));
            Err(format!("for node {node}: {}", refusal.text))
        }
        Err(other) => Err(other.to_string()),
    }
}

/// More blank nodes are here than found the cluster: asks which of them only join.
async fn sort_out(core: &Core, nodes: &[NodeId], joiners: &mut Joiners) -> Result<(), String> {
    for node in nodes.iter().filter(|node| **node != core.node) {
        // What it says is in the joiners; who does not answer is asked again.
        let _ = describe(core, *node, joiners).await;
    }
    let count = nodes.len();
    Err(format!("for fewer blank nodes: {count} are here, {} found", core.description.expect))
}

/// Asks everyone who they are, and accepts the proposal made of it as the first.
async fn propose(
    core: &Arc<Core>,
    nodes: &[NodeId],
    joiners: &mut Joiners,
) -> Result<Proposal, String> {
    let mut members = Vec::with_capacity(nodes.len());
    for node in nodes {
        members.push(if *node == core.node {
            core.description.clone()
        } else {
            describe(core, *node, joiners).await?
        });
    }
    let cluster = ClusterId(rand::rng().random());
    let (shards, factor) = (core.shards, core.replication_factor);
    let proposal = Proposal::make(core.node, cluster, now_ms(), &members, shards, factor)
        .map_err(|cause| cause.to_string())?;
    let bytes = proposal.encode();
    let mut identity = core.identity();
    if identity.get().proposal.is_some() {
        return Err("for the proposal it has accepted meanwhile".to_owned());
    }
    identity.update(|id| id.proposal = Some(bytes)).map_err(|cause| cause.to_string())?;
    Ok(proposal)
}

/// Asks all members to accept; when all have, the cluster is founded.
async fn complete(core: &Arc<Core>, proposal: &Proposal) -> Result<(), String> {
    let others: Vec<NodeId> =
        proposal.nodes.iter().map(|node| node.id).filter(|node| *node != core.node).collect();
    for node in &others {
        question(core, *node, PROPOSE, proposal.encode()).await?;
    }
    found(core, proposal).await?;
    for node in others {
        // Only to be quick: gossip tells them as well.
        if let Err(missed) = question(core, node, FOUNDED, Vec::new()).await {
            tracing::debug!(%missed, "a member will learn of the founding by gossip");
        }
    }
    Ok(())
}

async fn found(core: &Arc<Core>, proposal: &Proposal) -> Result<(), String> {
    let own = proposal.nodes.iter().find(|node| node.id == core.node);
    let own = own.ok_or_else(|| "its own proposal leaves it out".to_owned())?;
    tracing::info!(cluster = %proposal.founding.cluster, "the cluster is founded");
    become_member(core, proposal.founding.cluster, own.meta_replica).await
}

async fn become_member(
    core: &Arc<Core>,
    cluster: ClusterId,
    meta_replica: ReplicaId,
) -> Result<(), String> {
    core.identity()
        .update(|id| {
            id.cluster = Some(cluster);
            id.meta_replica = Some(meta_replica);
        })
        .map_err(|cause| cause.to_string())?;
    core.plane().map_err(|cause| cause.to_string())?.set_cluster(cluster);
    if let Some(gossip) = &core.gossip {
        gossip.set_cluster(cluster).await.map_err(|cause| cause.to_string())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use stemedb_membership::MemberState;

    use super::*;

    #[test]
    fn neither_junk_nor_a_newer_build_makes_a_secret_wrong() {
        let of = |unsealed, unreadable, newer| Refused {
            unsealed,
            unreadable,
            newer,
            ..Refused::default()
        };
        let table = [
            (of(1000, 0, 0), false),
            (of(1000, 4, 0), false),
            (of(5, 5, 0), true),
            (of(5, 5, 1), false),
            (of(0, 0, 1000), false),
        ];
        for (refused, wrong) in table {
            assert_eq!(is_wrong_secret(&refused), wrong, "{refused:?}");
        }
    }

    #[test]
    fn gossip_says_where_a_living_node_is_and_the_registry_where_one_that_is_down_has_gone() {
        let member = |state| Member {
            node: NodeId(7),
            incarnation: 1,
            cluster: None,
            gossip: "10.0.0.1:18183".parse().unwrap(),
            grpc: "10.0.0.1:18182".parse().unwrap(),
            state,
        };
        let (heard, registered) = ("10.0.0.1:18182", "10.0.0.2:18182");
        let table = [
            // heard as, registered at, dialled
            (Some(MemberState::Alive), Some(registered), Some(heard)),
            (Some(MemberState::Suspect), Some(registered), Some(heard)),
            (Some(MemberState::Down), Some(registered), Some(registered)),
            (Some(MemberState::Down), Some("a-name:18182"), Some(heard)),
            (Some(MemberState::Down), None, Some(heard)),
            (None, Some(registered), Some(registered)),
            (None, Some("a-name:18182"), None),
            (None, None, None),
        ];
        for (state, registered, dialled) in table {
            let picked = pick_address(state.map(member).as_ref(), registered);
            let dialled = dialled.map(|address| address.parse().unwrap());
            assert_eq!(picked, dialled, "{state:?} {registered:?}");
        }
    }
}
