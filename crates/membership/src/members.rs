//! The picture of the cluster that SWIM suggests.
//!
//! It lists every node heard of, ourselves included, in the order of their ids. It is a hint for
//! whom to dial and whom to ask: ownership, votes and the removal of nodes are decided by the
//! quorum-committed layout, never by this list.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use stemedb_types::{ClusterId, NodeId};

use crate::identity::Identity;
use crate::profile::Profile;

/// How a member looks from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemberState {
    /// Answers probes, or is said to by somebody who does.
    Alive,
    /// Missed a probe and has not yet spoken up. Still a member to work with: it becomes `Alive`
    /// or `Down` within seconds.
    Suspect,
    /// Declared dead, or has left. Kept in the list for an hour.
    Down,
}

/// One node as gossip knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its stable id.
    pub node: NodeId,
    /// Which of its lives.
    pub incarnation: u64,
    /// Its cluster; `None` while it is blank. Two different clusters never see each other, but a
    /// blank node sees every one it knocks at.
    pub cluster: Option<ClusterId>,
    /// Where it hears gossip.
    pub gossip: SocketAddr,
    /// Where it serves peers.
    pub grpc: SocketAddr,
    /// How it looks from here.
    pub state: MemberState,
}

impl Member {
    /// Not declared dead: alive, or only suspected.
    pub fn is_active(&self) -> bool {
        self.state != MemberState::Down
    }

    pub(crate) fn new(id: &Identity, state: MemberState) -> Self {
        Self {
            node: id.node,
            incarnation: id.incarnation,
            cluster: id.cluster,
            gossip: id.gossip,
            grpc: SocketAddr::new(id.gossip.ip(), id.grpc_port),
            state,
        }
    }
}

/// Everyone known at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members {
    /// Our own id: its entry is always there, and always alive.
    pub own: NodeId,
    /// Sorted by node id, one entry per node.
    pub list: Vec<Member>,
    /// The last other process seen living under our own node id. A copied data directory does
    /// this. It stays set until this process ends: somebody has to stop one of the two.
    pub double: Option<Member>,
    /// What those in the list tell of themselves, as far as it was heard: a member may be listed
    /// some time before its profile is, and that of an earlier life stands until the new life's is
    /// heard. Ours is always there.
    pub profiles: BTreeMap<NodeId, Arc<Profile>>,
}

impl Members {
    /// The entry of `node`.
    pub fn get(&self, node: NodeId) -> Option<&Member> {
        let at = self.list.binary_search_by_key(&node, |member| member.node).ok()?;
        self.list.get(at)
    }

    /// What `node` tells of itself, if that was heard.
    pub fn profile(&self, node: NodeId) -> Option<&Profile> {
        self.profiles.get(&node).map(Arc::as_ref)
    }

    /// Everyone not declared dead, ourselves included.
    pub fn active(&self) -> impl Iterator<Item = &Member> {
        self.list.iter().filter(|member| member.is_active())
    }

    /// How many members look like `state`.
    pub fn count(&self, state: MemberState) -> usize {
        self.list.iter().filter(|member| member.state == state).count()
    }

    /// How many members are suspected here and were not in `before`: the same life counts once
    /// per suspicion.
    pub(crate) fn new_suspicions(&self, before: &Members) -> usize {
        let suspected = self.list.iter().filter(|member| member.state == MemberState::Suspect);
        suspected.filter(|member| before.get(member.node) != Some(member)).count()
    }
}

/// The picture made of foca's state and of the news: without our own old lives, without foreign
/// clusters, and without profiles of nodes that are not in the list.
pub(crate) fn picture<'a>(
    own: &Identity,
    known: impl Iterator<Item = &'a foca::Member<Identity>>,
    double: Option<Member>,
    mut profiles: BTreeMap<NodeId, Arc<Profile>>,
) -> Members {
    let others = known
        .filter(|member| member.id().node != own.node && !member.id().is_foreign_to(own.cluster))
        .map(|member| Member::new(member.id(), state(member.state())));
    let mut list: Vec<Member> = others.collect();
    list.push(Member::new(own, MemberState::Alive));
    list.sort_unstable_by_key(|member| member.node);
    profiles.retain(|node, _| list.binary_search_by_key(node, |member| member.node).is_ok());
    Members { own: own.node, list, double, profiles }
}

fn state(state: foca::State) -> MemberState {
    match state {
        foca::State::Alive => MemberState::Alive,
        foca::State::Suspect => MemberState::Suspect,
        foca::State::Down => MemberState::Down,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use foca::State;

    fn id(node: u64, cluster: Option<u128>) -> Identity {
        let gossip = SocketAddr::from(([127, 0, 0, 1], node as u16));
        Identity {
            node: NodeId(node),
            incarnation: 1,
            cluster: cluster.map(ClusterId),
            gossip,
            grpc_port: 9,
        }
    }

    fn seen(states: &[(u64, Option<u128>, State)]) -> Members {
        let known: Vec<_> = states
            .iter()
            .map(|&(node, cluster, state)| foca::Member::new(id(node, cluster), 0, state))
            .collect();
        let told = [2, 5, 77].map(|node| (NodeId(node), Arc::default()));
        picture(&id(5, Some(1)), known.iter(), None, BTreeMap::from(told))
    }

    #[test]
    fn the_picture_is_sorted_holds_us_once_and_nobody_of_another_cluster() {
        let members = seen(&[
            (9, Some(1), State::Down),
            (5, Some(1), State::Down),
            (7, Some(2), State::Alive),
            (2, None, State::Suspect),
        ]);
        let entries: Vec<_> = members.list.iter().map(|m| (m.node.0, m.state)).collect();
        let wanted = [(2, MemberState::Suspect), (5, MemberState::Alive), (9, MemberState::Down)];
        assert_eq!(entries, wanted);
        assert_eq!(members.active().count(), 2);
        assert_eq!(members.count(MemberState::Down), 1);
        assert_eq!(members.get(NodeId(2)).unwrap().grpc.to_string(), "127.0.0.1:9");
        assert_eq!(members.get(NodeId(7)), None);
        let told: Vec<_> = members.profiles.keys().map(|node| node.0).collect();
        assert_eq!(told, [2, 5], "of nobody who is not in the list");
        assert_eq!(members.profile(NodeId(2)), Some(&Profile::default()));
        assert_eq!(members.profile(NodeId(9)), None);
    }

    #[test]
    fn a_suspicion_counts_when_it_begins_and_not_while_it_lasts() {
        let alive = seen(&[(2, None, State::Alive)]);
        let suspect = seen(&[(2, None, State::Suspect), (3, None, State::Suspect)]);
        assert_eq!(suspect.new_suspicions(&alive), 2);
        assert_eq!(suspect.new_suspicions(&suspect), 0);
        assert_eq!(alive.new_suspicions(&suspect), 0);
    }
}
