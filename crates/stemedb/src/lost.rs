//! Whether the disks of a majority are lost: said, and nothing more.
//!
//! A blank node that asks to be let in under a member's name is evidence that this member's disks are
//! gone. While the others are a majority of every group the newcomer takes its place, and nobody
//! need hear of it. Where they are not, nothing is replaced by itself: the newcomer waits and says
//! `quorum-lost`, the members say so as well, and a person decides what is gone on with
//! ([`crate::recover`]).

use std::collections::{BTreeSet, HashMap};
use std::sync::Mutex;
use std::time::Duration;

use stemedb_types::{GroupId, Layout, NodeId, ReplicaId};
use tokio::time::Instant;

use crate::core::{Core, locked};
use crate::damage::group_name;
use crate::life::meta_voters;

/// How long a newcomer is believed: it asks again every few seconds.
const BELIEVED_FOR: Duration = Duration::from_secs(30);

/// Members under whose names blank nodes came.
#[derive(Debug, Default)]
pub(crate) struct LostDisks(Mutex<HashMap<NodeId, Instant>>);

impl LostDisks {
    /// A blank node came under the name of this member.
    pub(crate) fn hear(&self, member: NodeId) {
        let mut heard = locked(&self.0);
        heard.retain(|_, at| at.elapsed() < BELIEVED_FOR);
        heard.insert(member, Instant::now());
    }

    fn members(&self) -> BTreeSet<NodeId> {
        let heard = locked(&self.0);
        let lately = heard.iter().filter(|(_, at)| at.elapsed() < BELIEVED_FOR);
        lately.map(|(node, _)| *node).collect()
    }
}

/// The groups that have no majority without these nodes. Pure.
fn without_quorum(
    layout: &Layout,
    lost: &BTreeSet<NodeId>,
    is_draining: impl Fn(NodeId) -> bool,
) -> Vec<GroupId> {
    let is_lost = |group: &GroupId| {
        let replicas = layout.replicas(*group).unwrap_or_default();
        let voters: BTreeSet<ReplicaId> = match *group {
            GroupId::META => meta_voters(replicas, &is_draining),
            _ => replicas.iter().map(|replica| replica.id).collect(),
        };
        let left =
            replicas.iter().filter(|one| voters.contains(&one.id) && !lost.contains(&one.node));
        !replicas.is_empty() && left.count() * 2 <= voters.len()
    };
    layout.groups().filter(is_lost).collect()
}

impl Core {
    /// The groups that have lost the disks of a majority, and what to do, as far as this node knows.
    pub(crate) fn quorum_lost(&self) -> Option<(Vec<GroupId>, String)> {
        let state = self.meta.load();
        let mut lost = self.lost_disks.members();
        lost.retain(|node| state.nodes.contains_key(node) && !self.is_up(*node));
        if lost.is_empty() {
            return None;
        }
        let groups = without_quorum(&state.layout, &lost, |node| state.is_draining(node));
        let first = groups.first()?;
        let more = match groups.len() {
            1 => String::new(),
            many => format!(" and {} more groups", many - 1),
        };
        let names: Vec<&str> =
            lost.iter().filter_map(|id| Some(state.nodes.get(id)?.name.as_str())).collect();
        let why = format!(
            "quorum-lost: {} came back without their disks, and {}{more} have no majority without \
             them; nothing is replaced by itself: stop the node with the highest log and run stemedb \
             recover --wal-dir W --db-dir D there",
            names.join(", "),
            group_name(*first),
        );
        Some((groups, why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stemedb_types::{Replica, ShardLayout};

    #[test]
    fn a_group_is_lost_with_half_of_its_voters_and_those_that_listen_do_not_count() {
        let replicas = |nodes: &[u64]| -> Vec<Replica> {
            nodes.iter().map(|n| Replica { node: NodeId(*n), id: ReplicaId(100 + n) }).collect()
        };
        let shard = |nodes: &[u64]| ShardLayout { replicas: replicas(nodes) };
        let layout = Layout {
            epoch: 1,
            // The fourth listens.
            meta: replicas(&[1, 2, 3, 4]),
            shards: vec![shard(&[1, 2, 3]), shard(&[2, 3, 4]), shard(&[4])],
        };
        let lost = |nodes: &[u64]| -> Vec<u32> {
            let lost = nodes.iter().copied().map(NodeId).collect();
            without_quorum(&layout, &lost, |_| false).iter().map(|group| group.0).collect()
        };
        assert_eq!(lost(&[]), [0u32; 0]);
        assert_eq!(lost(&[1]), [0u32; 0]);
        assert_eq!(lost(&[4]), [3]);
        assert_eq!(lost(&[1, 2]), [0, 1]);
        assert_eq!(lost(&[3, 4]), [2, 3]);
        assert!(
            without_quorum(&Layout::default(), &BTreeSet::from([NodeId(1)]), |_| false).is_empty()
        );
    }
}
