//! What to do so that the groups open here are those the layout gives this node. Pure.
//!
//! A replica that is set aside is not opened, and closed if it is open; what is set aside for a
//! replica that is not this node's any more is let go. (Otherwise only what founding needs: a
//! group that left this node stays open until the part that moves shards closes it with care.)

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
    /// Close this group's replica: it is set aside.
    Close {
        /// The group.
        group: GroupId,
    },
    /// Let go of what is remembered of this replica: the layout gives this node another, or none.
    Lift {
        /// The group.
        group: GroupId,
        /// The replica that was set aside.
        replica: ReplicaId,
    },
}

/// Compares the layout with what is open on this node and what is set aside there: what is let go,
/// what is closed, then what is opened, each by group. The meta group is opened elsewhere.
pub(crate) fn reconcile(
    node: NodeId,
    layout: &Layout,
    open: &BTreeSet<(GroupId, ReplicaId)>,
    aside: &BTreeSet<(GroupId, ReplicaId)>,
) -> Vec<Action> {
    let mut actions = Vec::new();
    for &(group, replica) in aside {
        if open.contains(&(group, replica)) {
            actions.push(Action::Close { group });
        } else if is_given_up(node, layout, group, replica) {
            actions.push(Action::Lift { group, replica });
        }
    }
    for group in layout.groups().filter(|group| *group != GroupId::META) {
        let members = layout.replicas(group).unwrap_or_default();
        let own = members.iter().find(|replica| replica.node == node);
        let runs =
            |own: &&Replica| open.contains(&(group, own.id)) || aside.contains(&(group, own.id));
        if let Some(own) = own.filter(|own| !runs(own)) {
            actions.push(Action::Open { group, replica: own.id, members: members.to_vec() });
        }
    }
    actions
}

/// Whether the layout knows the group, and this replica is not this node's in it.
fn is_given_up(node: NodeId, layout: &Layout, group: GroupId, replica: ReplicaId) -> bool {
    let members = layout.replicas(group).unwrap_or_default();
    let own = Replica { node, id: replica };
    !members.is_empty() && !members.contains(&own)
}

#[cfg(test)]
mod tests {
    use super::*;
    use stemedb_types::ShardLayout;

    fn replica(node: u64, id: u64) -> Replica {
        Replica { node: NodeId(node), id: ReplicaId(id) }
    }

    fn layout() -> Layout {
        let shard = |replicas: &[Replica]| ShardLayout { replicas: replicas.to_vec() };
        Layout {
            epoch: 1,
            meta: vec![replica(1, 1), replica(2, 2)],
            shards: vec![
                shard(&[replica(1, 3), replica(2, 4)]),
                shard(&[replica(2, 5)]),
                shard(&[replica(2, 6), replica(1, 7)]),
            ],
        }
    }

    fn set(pairs: &[(u32, u64)]) -> BTreeSet<(GroupId, ReplicaId)> {
        pairs.iter().map(|(group, id)| (GroupId(*group), ReplicaId(*id))).collect()
    }

    fn open(group: u32, id: u64, members: &[Replica]) -> Action {
        let (group, replica) = (GroupId(group), ReplicaId(id));
        Action::Open { group, replica, members: members.to_vec() }
    }

    #[test]
    fn what_the_layout_gives_and_is_not_open_is_opened() {
        let third = open(3, 7, &[replica(2, 6), replica(1, 7)]);
        let now = set(&[(0, 1), (1, 3)]);
        assert_eq!(reconcile(NodeId(1), &layout(), &now, &set(&[])), vec![third]);
        assert_eq!(reconcile(NodeId(9), &layout(), &now, &set(&[])), vec![]);
    }

    #[test]
    fn what_is_set_aside_is_closed_and_not_opened_until_another_replica_takes_its_place() {
        let first = open(1, 3, &[replica(1, 3), replica(2, 4)]);
        let third = open(3, 7, &[replica(2, 6), replica(1, 7)]);
        let close = |group| Action::Close { group: GroupId(group) };
        let lift = |group, id| Action::Lift { group: GroupId(group), replica: ReplicaId(id) };
        for (now, aside, wanted) in [
            // Open when it was found damaged.
            (&[(1, 3), (3, 7)][..], &[(1, 3)][..], vec![close(1)]),
            // Closed since, or never opened.
            (&[(3, 7)], &[(1, 3)], vec![]),
            (&[], &[(1, 3)], vec![third.clone()]),
            (&[], &[(1, 3), (3, 7)], vec![]),
            // The meta group is no exception.
            (&[(0, 1), (1, 3), (3, 7)], &[(0, 1)], vec![close(0)]),
            // The layout gave this node another replica in its place, or none.
            (&[(3, 7)], &[(1, 2)], vec![lift(1, 2), first.clone()]),
            (&[(1, 3), (3, 7)], &[(2, 9)], vec![lift(2, 9)]),
            // No such group in the layout: nothing is known of it.
            (&[(1, 3), (3, 7)], &[(8, 9)], vec![]),
        ] {
            let actions = reconcile(NodeId(1), &layout(), &set(now), &set(aside));
            assert_eq!(actions, wanted, "open {now:?}, aside {aside:?}");
        }
    }
}
