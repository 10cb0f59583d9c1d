//! What a node says of itself and of the cluster, from what it knows without asking.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use stemedb_machine::meta::MetaState;
use stemedb_membership::MemberState as Heard;
use stemedb_raft::{Leadership, Members};
use stemedb_types::{GroupId, Layout, NodeId, Replica, ReplicaId, ShardId};

use crate::core::{Core, Phase, locked};
use crate::damage::{group_name, part_name};
use crate::front::{ClusterStatus, Member, MemberState, Quarantined, Readiness, Startup};
use crate::quarantine::Entry;
use crate::router::Route;

/// How long a node of another cluster is told of: three rounds of knocking.
const OTHER_CLUSTER_TOLD_FOR: Duration = Duration::from_secs(90);

impl Core {
    pub(crate) fn status(&self) -> ClusterStatus {
        let state = self.meta.load();
        let shards = state.layout.shards.len();
        let mut leaders = BTreeMap::<NodeId, u32>::new();
        let mut shards_leaderless = 0;
        for number in 0..shards {
            match self.leader_of(ShardId(number as u16)) {
                Some(node) => *leaders.entry(node).or_default() += 1,
                None => shards_leaderless += 1,
            }
        }
        let members: Vec<Member> = state
            .nodes
            .values()
            .map(|node| Member {
                node: node.clone(),
                state: self.heard_state(node.id),
                leaders: leaders.get(&node.id).copied().unwrap_or(0),
                version: self.version_of(node.id),
            })
            .collect();
        let alive = |node: NodeId| {
            members.iter().any(|m| m.node.id == node && m.state == MemberState::Alive)
        };
        let wanted = usize::from(state.founding.map_or(1, |f| f.replication_factor));
        let wanted = wanted.min(odd(members.len()));
        let aside = self.quarantine.replicas();
        let aside = |id: ReplicaId| aside.iter().any(|(_, replica)| *replica == id);
        let serves = |replica: &&Replica| alive(replica.node) && !aside(replica.id);
        let short = |shard: &&stemedb_types::ShardLayout| {
            shard.replicas.iter().filter(serves).count() < wanted
        };
        let shards_under_replicated = state.layout.shards.iter().filter(short).count() as u32;
        ClusterStatus {
            cluster: self.identity().get().cluster,
            node: self.node,
            node_name: self.description.name.clone(),
            layout: state.layout.clone(),
            members,
            shards_leaderless,
            shards_under_replicated,
            shards_moving: self.moving(&state.layout),
            quarantined: self.quarantined(),
        }
    }

    /// How many shards with a replica here are not where the layout says, as far as is known here.
    fn moving(&self, layout: &Layout) -> u32 {
        let held = self.held.stock().held;
        let moves = |group: &GroupId| {
            let given = layout.replicas(*group).unwrap_or_default();
            let own = given.iter().find(|own| own.node == self.node).map(|own| own.id);
            let given: BTreeSet<ReplicaId> = given.iter().map(|replica| replica.id).collect();
            let differ = |group: stemedb_raft::Group| {
                let Members { voters, learners, settled, .. } = group.members();
                !settled || voters != given || !learners.is_empty()
            };
            held.get(group).copied() != own || self.groups.get(*group).is_some_and(differ)
        };
        let shards = layout.groups().filter(|group| *group != GroupId::META);
        shards.filter(moves).count() as u32
    }

    fn quarantined(&self) -> Vec<Quarantined> {
        let entries = self.quarantine.entries().into_iter();
        let shown = |(group, Entry { replica, damage, since_ms })| Quarantined {
            group,
            replica,
            part: part_name(damage.part),
            cause: damage.cause,
            since_ms,
        };
        entries.map(shown).collect()
    }

    fn leader_of(&self, shard: ShardId) -> Option<NodeId> {
        match self.leadership(shard.group()) {
            Some(Leadership::Here) => Some(self.node),
            Some(Leadership::There(node)) => Some(node),
            Some(Leadership::Unknown) => None,
            None => match self.route(shard) {
                Route::To(node) => Some(node),
                Route::Here => Some(self.node),
                Route::Nowhere => None,
            },
        }
    }

    pub(crate) fn heard_state(&self, node: NodeId) -> MemberState {
        if node == self.node {
            return MemberState::Alive;
        }
        let Some(gossip) = &self.gossip else { return MemberState::Unknown };
        match gossip.members().borrow().get(node).map(|member| member.state) {
            Some(Heard::Alive | Heard::Suspect) => MemberState::Alive,
            Some(Heard::Down) => MemberState::Down,
            None => MemberState::Unknown,
        }
    }

    /// Ready: joined, disks sound, not draining (on its way down or by command), and each replica here has once caught up; one that
    /// moves here later is served by others until it has. A quorum lost later does not take it back, nor does a full disk: reads and deletes go on,
    /// so traffic should come. It is among the reasons all the same. A shard that is set aside
    /// here is named, and served by others; without the meta group this node lets nobody in, so it
    /// is not ready.
    pub(crate) fn readiness(&self) -> Readiness {
        let mut reasons = Vec::new();
        match &*self.phase.borrow() {
            Phase::Blank(waiting) => reasons.push(format!("no cluster yet, waits {waiting}")),
            Phase::Draining => reasons.push("draining".to_owned()),
            Phase::Member => {
                reasons.extend(self.behind());
                if self.meta.load().is_draining(self.node) {
                    reasons
                        .push("draining: by command; it serves on until it is removed".to_owned());
                }
            }
        }
        if let Some(cause) = &*self.fatal.borrow() {
            reasons.push(cause.to_string());
        }
        let ready = reasons.is_empty() && !self.quarantine.holds(GroupId::META);
        reasons.extend(self.quorum_lost().map(|(_, why)| why));
        reasons.extend(self.double());
        reasons.extend(self.other_cluster());
        reasons.extend(self.quarantined().iter().map(named));
        reasons.extend(self.disks.remarks());
        Readiness { ready, reasons }
    }

    /// That this node looks for members where another cluster is.
    fn other_cluster(&self) -> Option<String> {
        let other = self.gossip.as_ref()?.refused().borrow().other_cluster?;
        let ours = self.identity().get().cluster?;
        (other.heard.elapsed() < OTHER_CLUSTER_TOLD_FOR).then(|| {
            format!(
                "other-cluster: the node at {} belongs to cluster {}, this one to {ours}: it should \
                 not stand in `join` here",
                other.at, other.cluster
            )
        })
    }

    fn behind(&self) -> Vec<String> {
        let state = self.meta.load();
        if self.quarantine.holds(GroupId::META) {
            return Vec::new();
        }
        if state.founding.is_none() {
            return vec!["the cluster's first entry is not applied yet".to_owned()];
        }
        if self.all_caught_up.load(Ordering::Relaxed) {
            return Vec::new();
        }
        let caught_up = locked(&self.caught_up);
        let behind: Vec<String> = self
            .groups_here(&state)
            .filter(|group| !caught_up.contains(group))
            .map(|group| {
                let name = group_name(group);
                match self.leadership(group) {
                    Some(Leadership::Unknown) => format!("no-quorum: {name} has no leader"),
                    _ => format!("{name} has not caught up with its leader yet"),
                }
            })
            .collect();
        if behind.is_empty() {
            self.all_caught_up.store(true, Ordering::Relaxed);
        }
        behind
    }

    /// The groups of which the layout gives this node a replica, but for what is set aside.
    fn groups_here<'s>(&self, state: &'s MetaState) -> impl Iterator<Item = GroupId> + use<'s> {
        let (node, aside) = (self.node, self.quarantine.replicas());
        state.layout.groups().filter(move |group| {
            let replicas = state.layout.replicas(*group).unwrap_or_default();
            let runs = |own: &Replica| own.node == node && !aside.contains(&(*group, own.id));
            replicas.iter().any(runs)
        })
    }

    /// Replay is over once every group of this node is open: a group opens behind it.
    pub(crate) fn startup(&self) -> Startup {
        let (replayed_entries, total_entries) = self.replay.entries();
        // A node without a cluster has nothing to replay.
        let cluster = self.identity().get().cluster;
        let open = |group: GroupId| self.groups.get(group).is_some();
        let done = cluster.is_none()
            || self.quarantine.holds(GroupId::META)
            || (open(GroupId::META) && self.groups_here(&self.meta.load()).all(open));
        Startup { done, replayed_entries, total_entries }
    }
}

/// A replica that is set aside, in one line.
fn named(aside: &Quarantined) -> String {
    let Quarantined { group, replica, part, cause, .. } = aside;
    format!(
        "quarantined: {} (replica {replica}), its {part} is damaged: {cause}",
        group_name(*group)
    )
}

/// The largest odd number not above this.
fn odd(count: usize) -> usize {
    if count.is_multiple_of(2) { count.saturating_sub(1) } else { count }
}
