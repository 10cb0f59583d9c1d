//! How a cluster comes to be, exactly once: the pure half (decision 10).
//!
//! Nodes start blank and hear of each other by gossip. Exactly one may propose:
//! the one with the lowest id among exactly `expect` blank nodes. A node
//! accepts one proposal in its life, on disk before it answers, and never
//! another; the cluster is founded only when all have accepted. So two
//! proposals can't both be accepted by all, and gossip that shows different nodes
//! different crowds costs time, never a second cluster.
//!
//! ```text
//! blank ─► accepted ─► founded        by proposal
//! blank ─► joined                     where a cluster is there already
//! ```
//!
//! After a crash an accepted proposal is still there: its proposer asks all
//! again (they say yes to the same bytes), so a half-founded set is completed.
//! If the proposer's disk is lost before that, the others wait for a person:
//! blank their volumes and start again. Nothing can have been acknowledged yet.

use stemedb_machine::meta::{Founding, MetaCommand, Node, NodeAddresses, WEIGHT_DEFAULT};
use stemedb_placement::{Member, Request, plan};
use stemedb_types::{ClusterId, DecodeError, Decoder, Encoder, Layout, NodeId, Replica, ReplicaId};

/// How a node describes itself to those who would found a cluster with it, or let it join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Description {
    pub(crate) id: NodeId,
    pub(crate) name: String,
    pub(crate) zone: String,
    pub(crate) addresses: NodeAddresses,
    /// How many blank nodes it waits for.
    pub(crate) expect: u32,
    /// How much of the data it should hold, relative to the others.
    pub(crate) weight: u8,
}

/// What gossip shows of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) node: NodeId,
    pub(crate) cluster: Option<ClusterId>,
}

/// What a blank node should do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Ask one of these to let it join their cluster.
    Join(Vec<NodeId>),
    /// Propose a cluster of exactly these.
    Propose(Vec<NodeId>),
    /// More blank nodes are here than expected: ask which of them only join.
    Sort(Vec<NodeId>),
    /// Ask the members of its own accepted proposal again.
    Complete,
    /// Its accepted proposal was accepted by all: some member is founded by it.
    Founded,
    /// Wait, and why.
    Wait(String),
}

/// Decides the next step of a node without a cluster. `heard` are the living nodes, this one
/// among them and those known to only join left out; `joins` says that it only ever joins (it was told whom, and not to found).
pub(crate) fn step(
    me: NodeId,
    heard: &[Heard],
    accepted: Option<&Proposal>,
    expect: u32,
    joins: bool,
) -> Step {
    let founded: Vec<NodeId> =
        heard.iter().filter(|h| h.cluster.is_some()).map(|h| h.node).collect();
    if let Some(proposal) = accepted {
        // Accepted: this node can only be founded by that proposal, whoever else is about.
        let cluster = Some(proposal.founding.cluster);
        return if heard.iter().any(|h| h.cluster == cluster) {
            Step::Founded
        } else if proposal.proposer == me {
            Step::Complete
        } else {
            Step::Wait(format!("for node {} to complete the founding", proposal.proposer))
        };
    }
    if !founded.is_empty() {
        return Step::Join(founded);
    }
    if joins {
        return Step::Wait("for a member of the cluster to join".to_owned());
    }
    let mut blank: Vec<NodeId> = heard.iter().map(|h| h.node).collect();
    blank.sort_unstable();
    blank.dedup();
    let (found, wanted) = (blank.len(), expect as usize);
    if found > wanted {
        return Step::Sort(blank);
    }
    if found < wanted {
        return Step::Wait(format!(
            "for exactly {wanted} nodes to found a cluster, {found} are here"
        ));
    }
    match blank.first() {
        Some(lowest) if *lowest == me => Step::Propose(blank),
        Some(lowest) => Step::Wait(format!("for node {lowest} to propose the cluster")),
        None => Step::Wait("for any node".to_owned()),
    }
}

/// A cluster to be: everything its first log entry will say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Proposal {
    pub(crate) proposer: NodeId,
    pub(crate) founding: Founding,
    pub(crate) nodes: Vec<Node>,
    pub(crate) layout: Layout,
    pub(crate) next_replica: ReplicaId,
}

/// Why nodes can't found a cluster together. Nothing was proposed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProposalError {
    #[error("node {one} waits for {one_expects} nodes, node {other} for {other_expects}")]
    Expect { one: NodeId, one_expects: u32, other: NodeId, other_expects: u32 },
    #[error("nodes {one} and {other} share the name {name}")]
    Name { one: NodeId, other: NodeId, name: String },
    #[error("no layout: {0}")]
    Placement(String),
}

impl Proposal {
    /// Puts a proposal together from what the members said of themselves.
    pub(crate) fn make(
        proposer: NodeId,
        cluster: ClusterId,
        at_ms: u64,
        members: &[Description],
        shards: u16,
        replication_factor: u8,
    ) -> Result<Self, ProposalError> {
        check(members)?;
        let mut members = members.to_vec();
        members.sort_by_key(|member| member.id);
        let placed: Vec<Member> = members
            .iter()
            .map(|member| Member {
                node: member.id,
                zone: Some(member.zone.clone()).filter(|zone| !zone.is_empty()),
                weight: member.weight.into(),
            })
            .collect();
        let request = Request {
            members: &placed,
            replication_factor,
            shards,
            previous: &Layout::default(),
            next_replica_id: 1,
        };
        let plan = plan(&request).map_err(|cause| ProposalError::Placement(cause.to_string()))?;
        let nodes = members.into_iter().map(|member| {
            let meta = plan.layout.meta.iter().find(|replica| replica.node == member.id);
            Node {
                id: member.id,
                name: member.name,
                zone: member.zone,
                addresses: member.addresses,
                meta_replica: meta.map_or(ReplicaId(0), |replica: &Replica| replica.id),
                weight: member.weight,
                draining_since_ms: None,
            }
        });
        Ok(Self {
            proposer,
            founding: Founding { cluster, replication_factor, at_ms },
            nodes: nodes.collect(),
            next_replica: ReplicaId(plan.next_replica_id),
            layout: plan.layout,
        })
    }

    /// The first entry of the meta group's log.
    pub(crate) fn to_command(&self) -> MetaCommand {
        MetaCommand::Found {
            founding: self.founding,
            nodes: self.nodes.clone(),
            layout: self.layout.clone(),
            next_replica: self.next_replica,
        }
    }

    /// The bytes that are accepted: the same proposal is the same bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        out.u64(self.proposer.0);
        out.bytes(&self.to_command().encode());
        out.into_vec()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut from = Decoder::new(bytes);
        let proposer = NodeId(from.u64()?);
        let command = MetaCommand::decode(from.bytes()?)?;
        from.finish()?;
        let MetaCommand::Found { founding, nodes, layout, next_replica } = command else {
            return Err(DecodeError::Value { what: "a proposal", got: 0 });
        };
        Ok(Self { proposer, founding, nodes, layout, next_replica })
    }
}

fn check(members: &[Description]) -> Result<(), ProposalError> {
    for (at, one) in members.iter().enumerate() {
        for other in &members[at + 1..] {
            if one.expect != other.expect {
                return Err(ProposalError::Expect {
                    one: one.id,
                    one_expects: one.expect,
                    other: other.id,
                    other_expects: other.expect,
                });
            }
            if one.name == other.name {
                let name = one.name.clone();
                return Err(ProposalError::Name { one: one.id, other: other.id, name });
            }
        }
    }
    Ok(())
}

/// What a node says to a proposal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Yes; if `store` then these bytes must be on disk before the answer leaves.
    Accept { store: bool },
    /// No, and why.
    Refuse(String),
}

/// Decides what to say to a proposal, given what was accepted before and the cluster one is in.
pub(crate) fn judge(
    accepted: Option<&[u8]>,
    cluster: Option<ClusterId>,
    proposed: &[u8],
) -> Verdict {
    match (cluster, accepted) {
        (_, Some(before)) if before == proposed => Verdict::Accept { store: false },
        (Some(cluster), _) => Verdict::Refuse(format!("it belongs to cluster {cluster}")),
        (None, Some(_)) => Verdict::Refuse("it has accepted another proposal".to_owned()),
        (None, None) => Verdict::Accept { store: true },
    }
}

impl Description {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        out.u64(self.id.0);
        out.text(&self.name);
        out.text(&self.zone);
        let NodeAddresses { http, gateway, grpc, gossip } = &self.addresses;
        for address in [http, gateway, grpc, gossip] {
            out.text(address);
        }
        out.u32(self.expect);
        // The first version ended here, and is still what a node without a weight of its own says.
        if self.weight != WEIGHT_DEFAULT {
            out.u8(self.weight);
        }
        out.into_vec()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut from = Decoder::new(bytes);
        let id = NodeId(from.u64()?);
        let mut text = || from.text("a description").map(str::to_owned);
        let (name, zone) = (text()?, text()?);
        let addresses =
            NodeAddresses { http: text()?, gateway: text()?, grpc: text()?, gossip: text()? };
        let expect = from.u32()?;
        let weight = if from.left().is_empty() { WEIGHT_DEFAULT } else { from.u8()? };
        from.finish()?;
        Ok(Self { id, name, zone, addresses, expect, weight })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blank(nodes: &[u64]) -> Vec<Heard> {
        nodes.iter().map(|n| Heard { node: NodeId(*n), cluster: None }).collect()
    }

    fn description(id: u64) -> Description {
        Description {
            id: NodeId(id),
            name: format!("n{id}"),
            zone: String::new(),
            addresses: NodeAddresses::default(),
            expect: 3,
            weight: 1,
        }
    }

    fn proposal(proposer: u64) -> Proposal {
        let members = [3, 1, 2].map(description);
        Proposal::make(NodeId(proposer), ClusterId(9), 5, &members, 4, 3).expect("a proposal")
    }

    #[test]
    fn exactly_one_of_exactly_the_expected_number_proposes() {
        let three = blank(&[3, 1, 2]);
        let all = vec![NodeId(1), NodeId(2), NodeId(3)];
        assert_eq!(step(NodeId(1), &three, None, 3, false), Step::Propose(all));
        for me in [2, 3] {
            assert!(matches!(step(NodeId(me), &three, None, 3, false), Step::Wait(_)), "{me}");
        }
        assert!(matches!(step(NodeId(1), &blank(&[1, 2]), None, 3, false), Step::Wait(_)));
        // Four may be three and one that only joins: whoever founds asks, whoever joins waits.
        let crowd = blank(&[4, 2, 3, 1]);
        let four = vec![NodeId(1), NodeId(2), NodeId(3), NodeId(4)];
        assert_eq!(step(NodeId(2), &crowd, None, 3, false), Step::Sort(four));
        assert!(matches!(step(NodeId(2), &crowd, None, 3, true), Step::Wait(_)));
        assert_eq!(step(NodeId(1), &blank(&[1]), None, 1, false), Step::Propose(vec![NodeId(1)]));
    }

    #[test]
    fn a_blank_node_joins_a_cluster_that_is_there_and_a_joiner_never_founds() {
        let mut heard = blank(&[1, 2, 3]);
        heard[2].cluster = Some(ClusterId(9));
        assert_eq!(step(NodeId(1), &heard, None, 3, false), Step::Join(vec![NodeId(3)]));
        assert!(matches!(step(NodeId(1), &blank(&[1]), None, 1, true), Step::Wait(_)));
    }

    #[test]
    fn who_has_accepted_waits_for_the_proposer_and_the_proposer_asks_again() {
        let mut heard = blank(&[1, 2, 3]);
        // Another cluster near by is not for us any more.
        heard[2].cluster = Some(ClusterId(8));
        let accepted = proposal(1);
        assert_eq!(step(NodeId(1), &heard, Some(&accepted), 3, false), Step::Complete);
        assert!(matches!(step(NodeId(2), &heard, Some(&accepted), 3, false), Step::Wait(_)));
        // A member founded by that very proposal: all have accepted it, so we are founded too.
        heard[2].cluster = Some(accepted.founding.cluster);
        for me in [1, 2] {
            assert_eq!(step(NodeId(me), &heard, Some(&accepted), 3, false), Step::Founded);
        }
    }

    #[test]
    fn a_node_accepts_one_proposal_in_its_life() {
        let (one, two) = (proposal(1).encode(), proposal(2).encode());
        assert_ne!(one, two);
        assert_eq!(judge(None, None, &one), Verdict::Accept { store: true });
        assert_eq!(judge(Some(&one), None, &one), Verdict::Accept { store: false });
        assert!(matches!(judge(Some(&one), None, &two), Verdict::Refuse(_)));
        let founded = Some(ClusterId(9));
        assert_eq!(judge(Some(&one), founded, &one), Verdict::Accept { store: false });
        assert!(matches!(judge(Some(&one), founded, &two), Verdict::Refuse(_)));
        assert!(matches!(judge(None, founded, &one), Verdict::Refuse(_)));
    }

    #[test]
    fn a_proposal_places_every_shard_and_reads_back() {
        let proposal = proposal(1);
        assert_eq!(Proposal::decode(&proposal.encode()), Ok(proposal.clone()));
        assert_eq!(proposal.layout.epoch, 1);
        assert_eq!(proposal.layout.shards.len(), 4);
        assert!(proposal.layout.shards.iter().all(|shard| shard.replicas.len() == 3));
        let mut ids: Vec<u64> = proposal
            .layout
            .groups()
            .flat_map(|group| proposal.layout.replicas(group).unwrap_or_default())
            .map(|replica| replica.id.0)
            .collect();
        ids.sort_unstable();
        assert_eq!(ids, (1..=15).collect::<Vec<_>>(), "every replica has an id of its own");
        assert_eq!(proposal.next_replica, ReplicaId(16));
        assert!(proposal.nodes.iter().all(|node| node.meta_replica.0 != 0));
    }

    #[test]
    fn members_that_disagree_found_nothing() {
        let mut members = [1, 2, 3].map(description);
        members[2].expect = 5;
        let refused = Proposal::make(NodeId(1), ClusterId(1), 0, &members, 4, 3);
        assert!(matches!(refused, Err(ProposalError::Expect { .. })), "{refused:?}");
        members[2] = Description { name: "n1".to_owned(), ..description(3) };
        let refused = Proposal::make(NodeId(1), ClusterId(1), 0, &members, 4, 3);
        assert!(matches!(refused, Err(ProposalError::Name { .. })), "{refused:?}");
    }

    #[test]
    fn a_description_reads_back() {
        let description = description(4);
        let heavy = Description { weight: 7, ..description.clone() };
        assert_eq!(heavy.encode().len(), description.encode().len() + 1);
        for description in [description, heavy] {
            assert_eq!(Description::decode(&description.encode()), Ok(description));
        }
    }
}
