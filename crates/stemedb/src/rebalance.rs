//! Has the layout follow the members: the meta leader's part.
//!
//! When a node has joined or is gone, `placement` says where everything should be, and this commits as much
//! of it as may be under way at once as the next epoch ([`stemedb_placement::advance`]). The
//! groups do the rest ([`crate::moving`]). How far they are is asked of their leaders each time: a
//! shard gets other replicas only when the last change of it is over. Nothing is remembered here,
//! so a new meta leader goes on where the old one was.
//!
//! A member that has been away for `replace-after` is removed, if another one can take its place:
//! every shard goes on without it ([`can_go`]), and none gets fewer voters. With no spare node
//! nothing moves, and it is waited for. While any shard is led by nobody no member goes: who votes in
//! that shard can't be told.
//!
//! A member that is drained by command weighs nothing: the plan gives it nothing where the others
//! suffice ([`crate::draining`]). While rebalancing is paused no further epoch is committed, and nobody is removed
//! for being away; what is under way ends.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use stemedb_machine::meta::{MetaCommand, MetaState, Node, WEIGHT_DEFAULT};
use stemedb_placement::{Member, Plan, Progress, Request, advance, plan, voters};
use stemedb_raft::{Group, Leadership, Members};
use stemedb_rpc::Link;
use stemedb_types::{Layout, NodeId, Replica, ReplicaId, ShardId};
use tokio::time::Instant;

use crate::core::{Core, now_ms};
use crate::front::MemberState;
use crate::heal::{Aside, ask_who_set_aside, heal};
use crate::wire::{LED, Led, decode_led};

/// How long a node has to say what it leads.
pub(crate) const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// Commits the next epoch if there is to be one.
pub(crate) async fn rebalance(core: &Core, meta: &Group, state: &MetaState) {
    let (led, aside) = tokio::join!(ask_leaders(core, state), ask_who_set_aside(core, state));
    let paused = state.paused_since_ms.is_some();
    metrics::gauge!("stemedb_rebalance_paused").set(f64::from(u8::from(paused)));
    if !paused && long_gone(core, state, &led, &aside).is_some() {
        // Judged again, alone, and by what is known by then.
        let _alone = core.judging.lock().await;
        if core.meta_index(meta, Instant::now() + ASK_TIMEOUT).await.is_none() {
            return;
        }
        if let Some(id) = long_gone(core, &core.meta.load_full(), &led, &aside) {
            let removed = meta.write(MetaCommand::Remove { id, at_ms: now_ms() }.encode()).await;
            tracing::warn!(node = %id, ?removed, "a member was away for too long: others take its place");
        }
        return;
    }
    // Before anything moves: it is a copy of what a shard lacks.
    if heal(core, meta, state, &led, aside).await {
        return;
    }
    // From where the groups are, where they can't get to the layout any more.
    let layout = reachable(state, &led);
    let Some(goal) = goal_of(state, &layout, &placed(state)) else { return };
    let progress = |shard| progress(&layout, shard, led.get(&shard));
    let shards = || (0..layout.shards.len()).map(|number| progress(ShardId(number as u16)));
    let (waiting, moving) = (goal.moves.len(), shards().filter(|p| *p == Progress::Moving).count());
    metrics::gauge!("stemedb_rebalance_moves_pending").set((waiting + moving) as f64);
    metrics::gauge!("stemedb_rebalance_moves_running").set(moving as f64);
    if paused {
        return;
    }
    let next = advance(&layout, &goal, core.moves_max, progress, |node| core.is_up(node));
    let next = next.or_else(|| (layout != state.layout).then_some(layout));
    if let Some(layout) = next {
        let layout = Layout { epoch: state.layout.epoch + 1, ..layout };
        let epoch = layout.epoch;
        let next_replica = ReplicaId(goal.next_replica_id);
        let command = MetaCommand::SetLayout { layout, next_replica };
        let committed = meta.write(command.encode()).await;
        tracing::info!(epoch, moving, waiting, ?committed, "the layout follows the members");
    }
}

/// A node that does not lead the meta group says nothing of moves: who does, does.
pub(crate) fn show_none() {
    metrics::gauge!("stemedb_rebalance_moves_pending").set(0.0);
    metrics::gauge!("stemedb_rebalance_moves_running").set(0.0);
    metrics::gauge!("stemedb_rebalance_paused").set(0.0);
}

/// What the leaders of shards said, by shard.
pub(crate) type LedShards = BTreeMap<ShardId, Led>;

/// A member that has been away for too long, and can be done without.
fn long_gone(core: &Core, state: &MetaState, led: &LedShards, aside: &[Aside]) -> Option<NodeId> {
    let gone = state.nodes.keys().filter(|node| core.is_away(**node, core.replace_after));
    let members = state.nodes.len();
    let factor = state.founding?.replication_factor;
    // No shard may get fewer voters for it.
    let spare = voters(members.saturating_sub(1), factor) == voters(members, factor);
    let can_go = |node: &NodeId| {
        can_go(&state.layout, led, aside, *node, |other| core.is_up(other))
            && core.meta_goes_on_without(*node).is_ok()
    };
    gone.copied().find(|node| spare && can_go(node))
}

/// Whether every shard goes on without a member: each one is led, and those that count on that
/// member, by the layout or by their real voters, have a living majority without it, of replicas that
/// are not set aside. (Of a shard that nobody leads it can't be told who its voters are.) Pure.
pub(crate) fn can_go(
    layout: &Layout,
    led: &LedShards,
    aside: &[Aside],
    node: NodeId,
    is_up: impl Fn(NodeId) -> bool,
) -> bool {
    layout.shards.iter().enumerate().all(|(number, shard)| {
        let Some(led) = led.get(&ShardId(number as u16)) else { return false };
        let counts_on = shard.on(node).is_some() || led.holders.values().any(|held| *held == node);
        let lives = |replica: &&ReplicaId| {
            let sound = aside.iter().all(|(_, _, damaged)| damaged != *replica);
            sound && led.holders.get(replica).is_some_and(|other| *other != node && is_up(*other))
        };
        !counts_on || led.voters.iter().filter(lives).count() * 2 > led.voters.len()
    })
}

/// The layout, but for shards on their way to a node that is no member any more and holds nothing of
/// them that votes: they would wait for it for ever. Of such a one the members it has count, as far as
/// they vote or the layout names them. Pure.
pub(crate) fn reachable(state: &MetaState, led: &LedShards) -> Layout {
    let mut layout = state.layout.clone();
    for (number, shard) in layout.shards.iter_mut().enumerate() {
        let Some(led) = led.get(&ShardId(number as u16)) else { continue };
        let lost = |replica: &Replica| {
            !state.nodes.contains_key(&replica.node) && !led.voters.contains(&replica.id)
        };
        if !shard.replicas.iter().any(lost) {
            continue;
        }
        shard.replicas.retain(|replica| !lost(replica));
        for id in &led.voters {
            let Some(node) = led.holders.get(id) else { continue };
            if shard.on(*node).is_none() && shard.replicas.iter().all(|own| own.id != *id) {
                shard.replicas.push(Replica { node: *node, id: *id });
            }
        }
    }
    layout
}

/// A member as placement sees it.
pub(crate) fn member(node: &Node) -> Member {
    let is_draining = node.draining_since_ms.is_some();
    Member {
        node: node.id,
        zone: (!node.zone.is_empty()).then(|| node.zone.clone()),
        weight: if is_draining { 0 } else { node.weight.max(WEIGHT_DEFAULT).into() },
    }
}

/// The members as placement sees them.
pub(crate) fn placed(state: &MetaState) -> Vec<Member> {
    state.nodes.values().map(member).collect()
}

/// Where everything should be, from where it is.
pub(crate) fn goal_of(state: &MetaState, layout: &Layout, members: &[Member]) -> Option<Plan> {
    let founding = state.founding?;
    let request = Request {
        members,
        replication_factor: founding.replication_factor,
        shards: u16::try_from(layout.shards.len()).unwrap_or(u16::MAX),
        previous: layout,
        next_replica_id: state.next_replica.0,
    };
    let planned = plan(&request);
    planned.inspect_err(|error| tracing::error!(%error, "there is no plan for these members")).ok()
}

/// How far a shard's group has come to a layout, by what its leader said.
pub(crate) fn progress(layout: &Layout, shard: ShardId, led: Option<&Led>) -> Progress {
    let Some(led) = led else { return Progress::Unknown };
    let given = layout.shards.get(usize::from(shard.0)).map(|shard| &shard.replicas);
    let given: BTreeSet<ReplicaId> =
        given.into_iter().flatten().map(|replica| replica.id).collect();
    let learners = led.holders.len() > led.voters.len();
    if led.settled && led.voters == given && !learners {
        Progress::InPlace
    } else {
        Progress::Moving
    }
}

/// Asks every member which shards it leads, and who their members are. One that was cut off may
/// say what was: of a shard that two claim to lead nothing is known.
pub(crate) async fn ask_leaders(core: &Core, state: &MetaState) -> LedShards {
    let deadline = Instant::now() + ASK_TIMEOUT;
    let asked = state.nodes.keys().map(|node| async move {
        if *node == core.node {
            return core.led();
        }
        let answer = core.ask(*node, LED, Bytes::new(), deadline).await;
        answer.ok().and_then(|answer| decode_led(&answer).ok()).unwrap_or_default()
    });
    let answers = join_all(asked).await.into_iter().flatten();
    let (mut shards, mut claimed) = (LedShards::new(), BTreeSet::new());
    for led in answers {
        let Some(shard) = led.group.shard() else { continue };
        if !claimed.insert(shard) {
            shards.remove(&shard);
            continue;
        }
        shards.insert(shard, led);
    }
    shards
}

impl Core {
    /// Answers [`LED`]: the groups led here, as far as this node knows.
    pub(crate) fn led(&self) -> Vec<Led> {
        let leads = |group: &Group| *group.leadership().borrow() == Leadership::Here;
        let led = self.groups.all().into_iter().filter(leads).map(|group| {
            let Members { holders, voters, settled, .. } = group.members();
            Led { group: group.id(), holders, voters, settled }
        });
        led.collect()
    }

    /// Whether a node has answered neither this one for so long nor, by gossip, any other.
    pub(crate) fn is_away(&self, node: NodeId, after: Duration) -> bool {
        let Ok(plane) = self.plane() else { return false };
        let silent = matches!(&*plane.link(node).borrow(),
            Link::Down { since, .. } if since.elapsed() >= after);
        silent && node != self.node && self.heard_state(node) != MemberState::Alive
    }

    /// Whether another node may take a member's place under its name: it has been away for `after`, and
    /// every shard goes on without it. The error says why not.
    pub(crate) async fn may_be_replaced(
        &self,
        node: NodeId,
        after: Duration,
    ) -> Result<(), String> {
        if !self.is_away(node, after) {
            return Err("answers, or did a moment ago".to_owned());
        }
        let state = self.meta.load_full();
        let (led, aside) = tokio::join!(ask_leaders(self, &state), ask_who_set_aside(self, &state));
        if can_go(&state.layout, &led, &aside, node, |other| self.is_up(other)) {
            return self.meta_goes_on_without(node);
        }
        Err("has what a shard needs that has no majority without it (quorum-lost)".to_owned())
    }

    /// Whether the meta group has a living majority without a member. The error says that it has not.
    /// Only its leader can tell.
    pub(crate) fn meta_goes_on_without(&self, node: NodeId) -> Result<(), String> {
        let Ok(meta) = self.meta_group() else {
            return Err("the meta group is not here".to_owned());
        };
        let Members { holders, voters, .. } = meta.members();
        let lives = |id: &&ReplicaId| {
            holders.get(*id).is_some_and(|other| *other != node && self.is_up(*other))
        };
        let counts = voters.iter().any(|id| holders.get(id) == Some(&node));
        if !counts || voters.iter().filter(lives).count() * 2 > voters.len() {
            return Ok(());
        }
        Err("the meta group has no living majority without it".to_owned())
    }

    /// Whether a node answers, as far as the link to it tells; this one does.
    pub(crate) fn is_up(&self, node: NodeId) -> bool {
        node == self.node || self.plane().is_ok_and(|plane| plane.link(node).borrow().is_up())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use stemedb_machine::meta::{Founding, NodeAddresses};
    use stemedb_types::{ClusterId, ShardLayout};

    fn replicas(nodes: &[u64]) -> Vec<Replica> {
        nodes.iter().map(|n| Replica { node: NodeId(*n), id: ReplicaId(100 + n) }).collect()
    }

    pub(crate) fn layout(shards: &[&[u64]]) -> Layout {
        let shards = shards.iter().map(|nodes| ShardLayout { replicas: replicas(nodes) }).collect();
        Layout { epoch: 1, shards, meta: Vec::new() }
    }

    /// Members of these ids, called by them, of a cluster with three replicas.
    pub(crate) fn members(ids: &[u64], layout: Layout) -> MetaState {
        let node = |id: &u64| Node {
            id: NodeId(*id),
            name: id.to_string(),
            zone: String::new(),
            addresses: NodeAddresses::default(),
            meta_replica: ReplicaId(*id),
            weight: 1,
            draining_since_ms: None,
        };
        MetaState {
            founding: Some(Founding { cluster: ClusterId(1), replication_factor: 3, at_ms: 0 }),
            layout,
            next_replica: ReplicaId(1000),
            nodes: ids.iter().map(|id| (NodeId(*id), node(id))).collect(),
            ..MetaState::default()
        }
    }

    pub(crate) fn led(voters: &[u64], learners: &[u64]) -> Led {
        let members = [voters, learners].concat();
        Led {
            group: stemedb_types::GroupId(1),
            holders: replicas(&members).iter().map(|r| (r.id, r.node)).collect(),
            voters: replicas(voters).iter().map(|r| r.id).collect(),
            settled: true,
        }
    }

    fn shards(led: impl IntoIterator<Item = Option<Led>>) -> LedShards {
        let numbered = led.into_iter().enumerate();
        numbered.filter_map(|(number, led)| Some((ShardId(number as u16), led?))).collect()
    }

    #[test]
    fn a_member_goes_only_where_every_shard_goes_on_without_it() {
        let given = layout(&[&[1, 2, 3], &[2, 3, 4], &[1, 2, 4]]);
        let in_place = || [&[1, 2, 3][..], &[2, 3, 4], &[1, 2, 4]].map(|v| Some(led(v, &[])));
        let can_go = |led: &LedShards, node: u64, down: &[u64]| {
            can_go(&given, led, &[], NodeId(node), |other| !down.contains(&other.0))
        };
        let aside = [(NodeId(2), stemedb_types::GroupId(2), ReplicaId(102))];
        let all_up = |_| true;
        assert!(self::can_go(&given, &shards(in_place()), &aside, NodeId(9), all_up));
        assert!(
            !self::can_go(&given, &shards(in_place()), &aside, NodeId(4), all_up),
            "of a shard's three voters one is damaged, and it would be the other that goes"
        );
        assert!(can_go(&shards(in_place()), 4, &[4]));
        assert!(!can_go(&shards(in_place()), 4, &[4, 2]), "a shard has one living voter of three");
        let [first, second, _] = in_place();
        assert!(!can_go(&shards([first, second, None]), 4, &[4]), "a shard that nobody leads");
        // By the layout it holds nothing of the first shard, and it is its only voter.
        let [_, second, third] = in_place();
        assert!(!can_go(&shards([Some(led(&[5], &[1])), second, third]), 5, &[5]));
    }

    #[test]
    fn a_shard_on_its_way_to_a_node_that_is_gone_is_planned_from_the_members_it_has() {
        let given = layout(&[&[1, 2, 4], &[1, 2, 4], &[1, 2, 4], &[1, 2, 5]]);
        let state = members(&[1, 2, 3, 5], given);
        let said = [
            // It never came to vote.
            Some(led(&[1, 2, 3], &[4])),
            // It did: the plan finds another place for it.
            Some(led(&[1, 2, 4], &[])),
            // Nobody says.
            None,
            // On its way to a member.
            Some(led(&[1, 2, 3], &[5])),
        ];
        let now = reachable(&state, &shards(said));
        let expected = layout(&[&[1, 2, 3], &[1, 2, 4], &[1, 2, 4], &[1, 2, 5]]);
        assert_eq!(now, expected);
    }

    #[test]
    fn a_node_whose_damaged_replica_is_on_its_way_back_is_given_one_place_only() {
        // 1, 2, 3 moves to 1, 4, 3; 3 is damaged and begun again as 300; 4 is removed.
        let healed = Replica { node: NodeId(3), id: ReplicaId(300) };
        let mut given = layout(&[&[1, 4, 3]]);
        given.shards[0].replicas[2] = healed;
        let state = members(&[1, 2, 3], given);
        let now = reachable(&state, &shards([Some(led(&[1, 2, 3], &[]))]));
        let [first, second] = replicas(&[1, 2])[..] else { unreachable!() };
        assert_eq!(now.shards[0].replicas, [first, healed, second]);
    }

    #[test]
    fn a_shard_is_in_place_when_its_leader_says_that_its_members_are_those_of_the_layout() {
        let given = layout(&[&[1, 2, 3]]);
        let progress = |led: Option<&Led>| progress(&given, ShardId(0), led);
        assert_eq!(progress(Some(&led(&[1, 2, 3], &[]))), Progress::InPlace);
        assert_eq!(progress(Some(&led(&[1, 2, 3], &[4]))), Progress::Moving);
        assert_eq!(progress(Some(&led(&[1, 2], &[3]))), Progress::Moving);
        let joint = Led { settled: false, ..led(&[1, 2, 3], &[]) };
        assert_eq!(progress(Some(&joint)), Progress::Moving);
        assert_eq!(progress(None), Progress::Unknown);
    }

    #[test]
    fn a_drained_member_is_given_nothing_and_gives_all_away_where_there_is_room() {
        let mut state = members(&[1, 2, 3, 4], layout(&[&[1, 2, 3], &[4, 2, 3], &[1, 2, 4]]));
        state.nodes.get_mut(&NodeId(4)).unwrap().draining_since_ms = Some(1);
        let goal = goal_of(&state, &state.layout, &placed(&state)).unwrap();
        assert_eq!(goal.moves.len(), 2);
        let on =
            |goal: &Plan, node| goal.layout.shards.iter().any(|s| s.on(NodeId(node)).is_some());
        assert!(!on(&goal, 4) && goal.layout.shards.iter().all(|s| s.replicas.len() == 3));
        // Without the fourth there is no room: it keeps what it has, and leads nothing.
        let mut full = members(&[1, 2, 3], layout(&[&[3, 1, 2], &[3, 2, 1]]));
        full.nodes.get_mut(&NodeId(3)).unwrap().draining_since_ms = Some(1);
        let goal = goal_of(&full, &full.layout, &placed(&full)).unwrap();
        assert!(goal.moves.is_empty() && on(&goal, 3), "{goal:?}");
        assert!(goal.layout.shards.iter().all(|s| s.replicas[0].node != NodeId(3)), "{goal:?}");
    }

    #[test]
    fn a_heavier_member_gets_more() {
        let mut state = members(&[1, 2, 3, 4, 5], layout(&[&[1, 2, 3][..]; 10]));
        state.nodes.get_mut(&NodeId(5)).unwrap().weight = 3;
        let goal = goal_of(&state, &state.layout, &placed(&state)).unwrap();
        let held =
            |node| goal.layout.shards.iter().filter(|s| s.on(NodeId(node)).is_some()).count();
        assert_eq!([1, 2, 3, 4, 5].map(held).iter().sum::<usize>(), 30);
        assert_eq!(held(5), 10, "three sevenths of thirty are more than a copy of each");
        assert!([1, 2, 3, 4].map(held).iter().all(|held| *held == 5), "the rest, evenly");
    }
}
