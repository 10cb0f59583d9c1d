//! What to do so that the groups open here are those this node holds, and that it holds those the
//! layout gives it. Pure.
//!
//! ```text
//! the layout gives a replica ─► Begin (wiped, written down, opened as a learner to be)
//! held                       ─► Open
//! held, not given any more   ─► runs on and votes, until its group has forgotten it ─► Leave
//! leaving                    ─► Leave again: something broke off
//! set aside                  ─► Close, and Lift once the layout gives this node another, or none
//! ```
//!
//! A node never holds two replicas of a group: a new one begins only when the earlier one has
//! left. A replica that is set aside counts for nobody and need not be forgotten first.

use std::collections::BTreeSet;

use stemedb_types::{GroupId, Layout, NodeId, ReplicaId};

use crate::held::Replicas;

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Open this replica, which this node holds.
    Open {
        /// The group.
        group: GroupId,
        /// The replica of it that is this node's.
        replica: ReplicaId,
    },
    /// Hold this replica from now on, in place of nothing, and open it.
    Begin {
        /// The group.
        group: GroupId,
        /// The replica of it that is to be this node's.
        replica: ReplicaId,
    },
    /// Close this replica for good and let go of its rows and its log.
    Leave {
        /// The group.
        group: GroupId,
        /// The replica that was this node's.
        replica: ReplicaId,
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

/// What stands on a node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Actual {
    /// Replicas that run.
    pub(crate) open: BTreeSet<(GroupId, ReplicaId)>,
    /// Replicas that are set aside.
    pub(crate) aside: BTreeSet<(GroupId, ReplicaId)>,
    /// Replicas whose files are here, run they or not.
    pub(crate) held: Replicas,
    /// Replicas that are being taken away.
    pub(crate) leaving: Replicas,
    /// Replicas of which their group's leader said that they are no members any more.
    pub(crate) forgotten: BTreeSet<(GroupId, ReplicaId)>,
}

/// Compares the layout with what stands on this node: what is let go, what is closed, then what
/// is opened, each by group. The meta group is opened elsewhere.
pub(crate) fn reconcile(node: NodeId, layout: &Layout, actual: &Actual) -> Vec<Action> {
    let Actual { open, aside, held, leaving, forgotten } = actual;
    let left = |(group, replica): (&GroupId, &ReplicaId)| Action::Leave {
        group: *group,
        replica: *replica,
    };
    let mut actions: Vec<Action> = leaving.iter().map(left).collect();
    for &(group, replica) in aside {
        if open.contains(&(group, replica)) {
            actions.push(Action::Close { group });
        } else if is_given_up(node, layout, group, replica) {
            if held.get(&group) == Some(&replica) {
                actions.push(Action::Leave { group, replica });
            }
            actions.push(Action::Lift { group, replica });
        }
    }
    let runs = |own: &(GroupId, ReplicaId)| open.contains(own) || aside.contains(own);
    let mut groups: BTreeSet<GroupId> = held.keys().copied().chain(layout.groups()).collect();
    groups.remove(&GroupId::META);
    let mut opening = Vec::new();
    for group in groups {
        let given = layout.replicas(group).unwrap_or_default();
        let given = given.iter().find(|replica| replica.node == node).map(|replica| replica.id);
        match held.get(&group).map(|replica| (group, *replica)) {
            Some(own) if Some(own.1) != given && forgotten.contains(&own) => {
                actions.push(Action::Leave { group, replica: own.1 });
            }
            Some(own) if !runs(&own) => {
                opening.push(Action::Open { group, replica: own.1 });
            }
            Some(_) => {}
            // What an earlier one left must be gone first.
            None if leaving.contains_key(&group) => {}
            None => {
                let new = given.filter(|replica| !runs(&(group, *replica)));
                opening.extend(new.map(|replica| Action::Begin { group, replica }));
            }
        }
    }
    actions.append(&mut opening);
    actions
}

/// The replicas held here that the layout gives this node no more: their groups are to be asked
/// whether they have forgotten them. Pure.
pub(crate) fn leaving(node: NodeId, layout: &Layout, held: &Replicas) -> Replicas {
    let gone = held.iter().filter(|(group, id)| is_given_up(node, layout, **group, **id));
    gone.map(|(group, id)| (*group, *id)).collect()
}

/// Whether the layout knows the group, and this replica is not this node's in it.
fn is_given_up(node: NodeId, layout: &Layout, group: GroupId, replica: ReplicaId) -> bool {
    let replicas = layout.replicas(group).unwrap_or_default();
    !replicas.is_empty() && !replicas.iter().any(|own| own.node == node && own.id == replica)
}

#[cfg(test)]
mod tests {
    use super::*;
    use stemedb_types::{Replica, ShardLayout};

    /// Node 1 holds replica 3 of group 1 and 7 of group 3; group 2 is on node 2 alone.
    fn layout() -> Layout {
        let replica = |node, id| Replica { node: NodeId(node), id: ReplicaId(id) };
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

    type Pairs<'a> = &'a [(u32, u64)];

    fn set(pairs: Pairs<'_>) -> BTreeSet<(GroupId, ReplicaId)> {
        pairs.iter().map(|(group, id)| (GroupId(*group), ReplicaId(*id))).collect()
    }

    fn actions(open: Pairs<'_>, aside: Pairs<'_>, held: Pairs<'_>, gone: Pairs<'_>) -> Vec<Action> {
        let held = set(held).into_iter().collect();
        let (open, aside, forgotten) = (set(open), set(aside), set(gone));
        let actual = Actual { open, aside, held, forgotten, ..Actual::default() };
        reconcile(NodeId(1), &layout(), &actual)
    }

    fn open(group: u32, id: u64) -> Action {
        Action::Open { group: GroupId(group), replica: ReplicaId(id) }
    }

    fn begin(group: u32, id: u64) -> Action {
        Action::Begin { group: GroupId(group), replica: ReplicaId(id) }
    }

    fn leave(group: u32, id: u64) -> Action {
        Action::Leave { group: GroupId(group), replica: ReplicaId(id) }
    }

    fn close(group: u32) -> Action {
        Action::Close { group: GroupId(group) }
    }

    fn lift(group: u32, id: u64) -> Action {
        Action::Lift { group: GroupId(group), replica: ReplicaId(id) }
    }

    #[test]
    fn what_the_layout_gives_is_begun_once_and_opened_after_every_start() {
        assert_eq!(actions(&[], &[], &[], &[]), [begin(1, 3), begin(3, 7)]);
        let held = &[(1, 3), (3, 7)];
        assert_eq!(actions(&[(0, 1)], &[], held, &[]), [open(1, 3), open(3, 7)]);
        assert_eq!(actions(&[(0, 1), (1, 3)], &[], held, &[]), [open(3, 7)]);
        let other = reconcile(NodeId(9), &layout(), &Actual::default());
        assert_eq!(other, []);
    }

    #[test]
    fn a_replica_given_to_another_node_runs_until_its_group_has_forgotten_it() {
        let held = &[(1, 3), (2, 9), (3, 7)];
        let all = &[(1, 3), (2, 9), (3, 7)];
        assert_eq!(actions(all, &[], held, &[]), []);
        assert_eq!(actions(&[(1, 3), (3, 7)], &[], held, &[]), [open(2, 9)], "after a restart");
        assert_eq!(actions(all, &[], held, &[(2, 9)]), [leave(2, 9)]);
        let never = leaving(NodeId(1), &layout(), &set(held).into_iter().collect());
        assert_eq!(never, Replicas::from([(GroupId(2), ReplicaId(9))]));
        // What is said of a replica that the layout gives this node is not believed.
        assert_eq!(actions(all, &[], held, &[(1, 3)]), []);
    }

    #[test]
    fn a_new_replica_begins_only_when_the_earlier_one_has_left() {
        let before = &[(1, 2), (3, 7)];
        assert_eq!(actions(before, &[], before, &[]), []);
        assert_eq!(actions(before, &[], before, &[(1, 2)]), [leave(1, 2)]);
        assert_eq!(actions(&[(3, 7)], &[], &[(3, 7)], &[]), [begin(1, 3)]);
    }

    #[test]
    fn a_replica_that_was_leaving_never_runs_again_and_goes_before_another_begins() {
        let held: Replicas = set(&[(3, 7)]).into_iter().collect();
        let leaving: Replicas = set(&[(1, 2)]).into_iter().collect();
        let actual = Actual { held, leaving, ..Actual::default() };
        let actions = reconcile(NodeId(1), &layout(), &actual);
        assert_eq!(actions, [leave(1, 2), open(3, 7)]);
    }

    #[test]
    fn what_is_set_aside_is_closed_and_not_opened_until_another_replica_takes_its_place() {
        let held = &[(1, 3), (3, 7)];
        // Open when it was found damaged; then closed, or never opened.
        assert_eq!(actions(&[(1, 3), (3, 7)], &[(1, 3)], held, &[]), [close(1)]);
        assert_eq!(actions(&[(3, 7)], &[(1, 3)], held, &[]), []);
        assert_eq!(actions(&[], &[(1, 3)], held, &[]), [open(3, 7)]);
        assert_eq!(actions(&[], &[(1, 3), (3, 7)], held, &[]), []);
        // The meta group is no exception.
        assert_eq!(actions(&[(0, 1), (1, 3), (3, 7)], &[(0, 1)], held, &[]), [close(0)]);
        // The layout gave this node another replica in its place, or none.
        let before = &[(1, 2), (3, 7)];
        assert_eq!(actions(&[(3, 7)], &[(1, 2)], before, &[]), [leave(1, 2), lift(1, 2)]);
        let over = &[(1, 3), (2, 9), (3, 7)];
        assert_eq!(actions(held, &[(2, 9)], over, &[]), [leave(2, 9), lift(2, 9)]);
        assert_eq!(actions(held, &[(2, 9)], held, &[]), [lift(2, 9)], "broken off before");
        // No such group in the layout: nothing is known of it.
        assert_eq!(actions(held, &[(8, 9)], held, &[]), []);
    }
}
