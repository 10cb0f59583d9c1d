//! A damaged replica comes back from its peers as a new one.
//!
//! A replica that is set aside ([`crate::quarantine`]) never runs again under its id. Every member
//! tells the meta leader which of its replicas are; the leader commits an epoch in which that node holds
//! the shard under another id, and all else follows as with any move: the node lets go of the old
//! rows and the old stream and begins the new replica ([`crate::reconcile`]), the group's leader
//! takes it in as a learner, lets it vote once it has caught up, and drops the old one
//! ([`crate::moving`]). Nothing else moves: the node keeps the shard.
//!
//! That is done only where the group has a living majority without the damaged replica, and counts
//! as a move under way. A disk that goes on damaging what it is given costs a copy of the shard
//! each time, so it gets one only so often.
//!
//! Left out: the meta group's own replica, without which a node knows no layout (a person renames
//! the node's folders, and it joins as a new one); and the damaged block itself, where it stands in a
//! table file that other groups' rows keep alive: nobody reads it any more but a compaction, which
//! stops at it (ADR 13).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use stemedb_machine::meta::{MetaAnswer, MetaCommand, MetaState};
use stemedb_placement::Progress;
use stemedb_raft::{Group, Outcome, Part, Written};
use stemedb_types::{GroupId, Layout, NodeId, Replica, ReplicaId, ShardId};
use tokio::time::Instant;

use crate::core::{Core, locked};
use crate::damage::part_name;
use crate::rebalance::{LedShards, progress};
use crate::wire::{SET_ASIDE, decode_replicas};

/// How long a member has to say what it has set aside.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// A shard is copied to the same node for damage only once in so long.
const AGAIN_AFTER: Duration = Duration::from_secs(10 * 60);

/// What the meta leader has had replaced, and what this node has begun again and not counted yet.
#[derive(Debug, Default)]
pub(crate) struct Repairs {
    /// When, by node and group.
    begun: Mutex<BTreeMap<(NodeId, GroupId), Instant>>,
    /// Groups of this node that are on their way back, and which part was damaged.
    coming_back: Mutex<BTreeMap<GroupId, Part>>,
}

/// A replica that its node has set aside.
pub(crate) type Aside = (NodeId, GroupId, ReplicaId);

/// Commits the next epoch if a damaged replica can be replaced; whether it tried to.
pub(crate) async fn heal(
    core: &Core,
    meta: &Group,
    state: &MetaState,
    led: &LedShards,
    aside: Vec<Aside>,
) -> bool {
    if !core.replaces_damaged {
        return false;
    }
    let lately: BTreeSet<(NodeId, GroupId)> = {
        let mut begun = locked(&core.repairs.begun);
        begun.retain(|_, at| at.elapsed() < AGAIN_AFTER);
        begun.keys().copied().collect()
    };
    let may = |node: NodeId, group| core.is_up(node) && !lately.contains(&(node, group));
    let is_up = |node| core.is_up(node);
    let Some((layout, (node, group, old))) =
        renewed(&state.layout, state.next_replica, led, &aside, core.moves_max, may, is_up)
    else {
        return false;
    };
    let (epoch, next_replica) = (layout.epoch, ReplicaId(state.next_replica.0 + 1));
    let command = MetaCommand::SetLayout { layout, next_replica };
    let committed = meta.write(command.encode()).await;
    tracing::warn!(epoch, %node, %group, %old, new = %state.next_replica, ?committed,
        "a damaged replica is replaced by a new one");
    if let Ok(Written { outcome: Outcome::Meta(MetaAnswer::Done), .. }) = committed {
        locked(&core.repairs.begun).insert((node, group), Instant::now());
    }
    true
}

/// The next epoch, in which one of the damaged replicas has another id, and which one it is; `None`
/// if none can be replaced now. `may` says whether a node may be given a new one of a group. Pure.
fn renewed(
    layout: &Layout,
    next_replica: ReplicaId,
    led: &LedShards,
    aside: &[Aside],
    moves_max: usize,
    may: impl Fn(NodeId, GroupId) -> bool,
    is_up: impl Fn(NodeId) -> bool,
) -> Option<(Layout, Aside)> {
    let numbers = (0..layout.shards.len()).map(|number| ShardId(number as u16));
    let moves = |shard: &ShardId| progress(layout, *shard, led.get(shard)) == Progress::Moving;
    let moving = numbers.filter(moves).count();
    let sound = |id: &ReplicaId| !aside.iter().any(|(_, _, damaged)| damaged == id);
    let can_be_replaced = |&&(node, group, damaged): &&Aside| {
        let Some((shard, led)) = group.shard().and_then(|s| Some((s, led.get(&s)?))) else {
            return false;
        };
        let held = layout.replicas(group).unwrap_or_default();
        let is_given = held.contains(&Replica { node, id: damaged });
        let lives =
            |id: &&ReplicaId| sound(id) && led.holders.get(id).is_some_and(|holder| is_up(*holder));
        let majority = led.voters.iter().filter(lives).count() * 2 > led.voters.len();
        // One that is on its way already waits for this very replica.
        let has_place = moves(&shard) || moving < moves_max;
        is_given && led.settled && majority && has_place && may(node, group)
    };
    let chosen = *aside.iter().find(can_be_replaced)?;
    let (node, group, damaged) = chosen;
    let mut next = Layout { epoch: layout.epoch + 1, ..layout.clone() };
    let shard = next.shards.get_mut(usize::from(group.shard()?.0))?;
    let old = shard.replicas.iter_mut().find(|own| own.node == node && own.id == damaged)?;
    old.id = next_replica;
    Some((next, chosen))
}

/// What each member has set aside.
pub(crate) async fn ask_who_set_aside(core: &Core, state: &MetaState) -> Vec<Aside> {
    let deadline = Instant::now() + ASK_TIMEOUT;
    let asked = state.nodes.keys().map(|node| async move {
        let replicas = ask_one(core, *node, deadline).await.unwrap_or_default();
        replicas.into_iter().map(|(group, replica)| (*node, group, replica)).collect::<Vec<_>>()
    });
    join_all(asked).await.into_iter().flatten().collect()
}

/// What one member has set aside; `None` if it does not say.
async fn ask_one(
    core: &Core,
    node: NodeId,
    deadline: Instant,
) -> Option<BTreeSet<(GroupId, ReplicaId)>> {
    if node == core.node {
        return Some(core.quarantine.replicas());
    }
    let answer = core.ask(node, SET_ASIDE, Bytes::new(), deadline).await.ok()?;
    Some(decode_replicas(&answer).ok()?.into_iter().collect())
}

/// Whether these replicas, of these nodes, are whole, as the nodes say now. One that was set aside may have caught
/// up before, and its leader can't tell.
pub(crate) async fn are_whole(core: &Core, group: GroupId, replicas: &[Replica]) -> bool {
    let deadline = Instant::now() + ASK_TIMEOUT;
    let asked = replicas.iter().map(|replica| async move {
        is_whole(ask_one(core, replica.node, deadline).await.as_ref(), group, replica.id)
    });
    join_all(asked).await.into_iter().all(|whole| whole)
}

/// Whether a replica is whole, by what its node has set aside. One whose node does not say is not
/// known to be. Pure.
fn is_whole(
    aside: Option<&BTreeSet<(GroupId, ReplicaId)>>,
    group: GroupId,
    replica: ReplicaId,
) -> bool {
    aside.is_some_and(|aside| !aside.contains(&(group, replica)))
}

impl Core {
    /// A replica here that was set aside makes room for a new one.
    pub(crate) fn comes_back(&self, group: GroupId) {
        if let Some(entry) = self.quarantine.entries().get(&group) {
            locked(&self.repairs.coming_back).insert(group, entry.damage.part);
        }
    }

    /// A replica has caught up: what was damaged here is repaired, if anything was.
    pub(crate) fn came_back(&self, group: GroupId) {
        let repaired = locked(&self.repairs.coming_back).remove(&group);
        if let Some(part) = repaired {
            tracing::warn!(%group, "what was damaged here is whole again, from its peers");
            let kind = part_name(part);
            metrics::counter!("stemedb_corruption_repaired_total", "kind" => kind).increment(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Led;
    use stemedb_types::ShardLayout;

    fn replica(node: u64, id: u64) -> Replica {
        Replica { node: NodeId(node), id: ReplicaId(id) }
    }

    /// Three nodes; shard `n` has the replicas `10 n + node`.
    fn layout(shards: u64) -> Layout {
        let shard = |n| ShardLayout { replicas: (1..4).map(|k| replica(k, 10 * n + k)).collect() };
        Layout { epoch: 5, meta: Vec::new(), shards: (0..shards).map(shard).collect() }
    }

    fn led(group: u32, members: &[Replica], voters: &[u64]) -> Led {
        Led {
            group: GroupId(group),
            holders: members.iter().map(|replica| (replica.id, replica.node)).collect(),
            voters: voters.iter().copied().map(ReplicaId).collect(),
            settled: true,
        }
    }

    /// Every shard as the layout says.
    fn in_place(layout: &Layout) -> LedShards {
        let led = |(number, shard): (usize, &ShardLayout)| {
            let voters: Vec<u64> = shard.replicas.iter().map(|replica| replica.id.0).collect();
            (ShardId(number as u16), led(number as u32 + 1, &shard.replicas, &voters))
        };
        layout.shards.iter().enumerate().map(led).collect()
    }

    fn aside(node: u64, group: u32, id: u64) -> Aside {
        (NodeId(node), GroupId(group), ReplicaId(id))
    }

    /// The new id of the damaged replica, if it gets one.
    fn renew(
        layout: &Layout,
        led: &LedShards,
        aside: &[Aside],
        down: &[u64],
    ) -> Option<(u64, Vec<u64>)> {
        let is_up = |node: NodeId| !down.contains(&node.0);
        let may = |node, _| is_up(node);
        let (next, (_, group, _)) = renewed(layout, ReplicaId(900), led, aside, 2, may, is_up)?;
        let ids = next.replicas(group)?.iter().map(|replica| replica.id.0).collect();
        Some((next.epoch, ids))
    }

    #[test]
    fn a_damaged_replica_gets_another_id_on_its_node_and_all_else_stays() {
        let layout = layout(2);
        let led = in_place(&layout);
        assert_eq!(renew(&layout, &led, &[aside(2, 1, 2)], &[]), Some((6, vec![1, 900, 3])));
        assert_eq!(renew(&layout, &led, &[aside(2, 0, 2)], &[]), None, "the meta group");
        assert_eq!(renew(&layout, &led, &[aside(2, 1, 99)], &[]), None, "an older one");
        assert_eq!(renew(&layout, &led, &[aside(2, 9, 2)], &[]), None, "no such shard");
        assert_eq!(renew(&layout, &led, &[aside(2, 1, 2)], &[2]), None, "its node is down");
    }

    #[test]
    fn it_needs_a_living_majority_of_sound_replicas_without_it() {
        let layout = layout(1);
        let led = in_place(&layout);
        assert_eq!(renew(&layout, &led, &[aside(2, 1, 2)], &[3]), None, "one of two is down");
        let both = [aside(2, 1, 2), aside(3, 1, 3)];
        assert_eq!(renew(&layout, &led, &both, &[]), None, "two of three are damaged");
        assert_eq!(renew(&layout, &LedShards::new(), &[aside(2, 1, 2)], &[]), None, "no leader");
        let mut joint = led.clone();
        joint.get_mut(&ShardId(0)).unwrap().settled = false;
        assert_eq!(renew(&layout, &joint, &[aside(2, 1, 2)], &[]), None, "its voters change");
    }

    #[test]
    fn one_that_is_set_aside_or_of_a_silent_node_is_not_known_to_be_whole() {
        let aside = BTreeSet::from([(GroupId(1), ReplicaId(7))]);
        let is_whole = |group, id| is_whole(Some(&aside), GroupId(group), ReplicaId(id));
        assert!(!is_whole(1, 7));
        assert!(is_whole(1, 8), "the one that came in its place");
        assert!(is_whole(2, 7));
        assert!(!super::is_whole(None, GroupId(1), ReplicaId(8)), "its node does not say");
    }

    #[test]
    fn it_takes_a_place_among_the_moves_unless_its_shard_has_one() {
        let layout = layout(3);
        let mut led = in_place(&layout);
        // Shards 0 and 1 are on their way: the layout's replica on node 3 is a learner yet.
        for number in 0..2u64 {
            let voters = [10 * number + 1, 10 * number + 2, 70 + number];
            let before = replica(4, 70 + number);
            let members: Vec<Replica> =
                layout.shards[number as usize].replicas.iter().copied().chain([before]).collect();
            led.insert(ShardId(number as u16), self::led(number as u32 + 1, &members, &voters));
        }
        assert_eq!(renew(&layout, &led, &[aside(2, 3, 22)], &[]), None, "two move already");
        let learner = [aside(2, 3, 22), aside(3, 2, 13)];
        assert_eq!(renew(&layout, &led, &learner, &[]), Some((6, vec![11, 12, 900])));
    }
}
