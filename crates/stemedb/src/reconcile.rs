//! What to do so that the groups open here are those the layout gives this node. Pure.
//!
//! (Only what founding needs: a group that left this node stays open until the
//! part that moves shards closes it with care.)

use std::collections::BTreeSet;

use stemedb_types::{GroupId, Layout, NodeId, Replica, ReplicaId};

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Open this replica, whose group has these founding members.
    Open {
        /// The group.
        group: GroupId,
        /// The replica of it that is this node's.
        replica: ReplicaId,
        /// All replicas of the group.
        members: Vec<Replica>,
    },
}

/// Compares the layout with what is open on this node, shard groups in order.
pub(crate) fn reconcile(
    node: NodeId,
    layout: &Layout,
    open: &BTreeSet<(GroupId, ReplicaId)>,
) -> Vec<Action> {
    let mut actions = Vec::new();
    for group in layout.groups().filter(|group| *group != GroupId::META) {
        let members = layout.replicas(group).unwrap_or_default();
        let own = members.iter().find(|replica| replica.node == node);
        if let Some(own) = own.filter(|own| !open.contains(&(group, own.id))) {
            actions.push(Action::Open { group, replica: own.id, members: members.to_vec() });
        }
    }
    actions
}

#[cfg(test)]
mod tests {
    use super::*;
    use stemedb_types::ShardLayout;

    #[test]
    fn what_the_layout_gives_and_is_not_open_is_opened() {
        let replica = |node, id| Replica { node: NodeId(node), id: ReplicaId(id) };
        let shard = |replicas: &[Replica]| ShardLayout { replicas: replicas.to_vec() };
        let layout = Layout {
            epoch: 1,
            meta: vec![replica(1, 1), replica(2, 2)],
            shards: vec![
                shard(&[replica(1, 3), replica(2, 4)]),
                shard(&[replica(2, 5)]),
                shard(&[replica(2, 6), replica(1, 7)]),
            ],
        };
        let open = BTreeSet::from([(GroupId::META, ReplicaId(1)), (GroupId(1), ReplicaId(3))]);
        let wanted = Action::Open {
            group: GroupId(3),
            replica: ReplicaId(7),
            members: vec![replica(2, 6), replica(1, 7)],
        };
        assert_eq!(reconcile(NodeId(1), &layout, &open), vec![wanted]);
        assert_eq!(reconcile(NodeId(9), &layout, &open), vec![]);
    }
}
