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
//! Left out until their issue's next step: nodes that drain or leave by command, weights, a pause,
//! and what it all shows to people.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use stemedb_machine::meta::{MetaCommand, MetaState};
use stemedb_placement::{Member, Plan, Progress, Request, advance, plan, voters};
use stemedb_raft::{Group, Leadership, Members};
use stemedb_rpc::Link;
use stemedb_types::{Layout, NodeId, Replica, ReplicaId, ShardId};
use tokio::time::Instant;

use crate::core::{Core, now_ms};
use crate::front::MemberState;
use crate::heal::{Aside, ask_who_set_aside, heal};
use crate::wire::{LED, Led, decode_led};

/// Shards that change their replicas at once.
pub(crate) const MOVING_MAX: usize = 2;
/// How long a node has to say what it leads.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// Commits the next epoch if there is to be one.
pub(crate) async fn rebalance(core: &Core, meta: &Group, state: &MetaState) {
    let (led, aside) = tokio::join!(ask_leaders(core, state), ask_who_set_aside(core, state));
    if let Some(id) = long_gone(core, state, &led, &aside) {
        let removed = meta.write(MetaCommand::Remove { id, at_ms: now_ms() }.encode()).await;
        tracing::warn!(node = %id, ?removed, "a member was away for too long: others take its place");
        return;
    }
    // Before anything moves: it is a copy of what a shard lacks.
    if heal(core, meta, state, &led, aside).await {
        return;
    }
    // From where the groups are, where they can't get to the layout any more.
    let layout = reachable(state, &led);
    let Some(goal) = goal_of(state, &layout) else { return };
    let progress = |shard| progress(&layout, shard, led.get(&shard));
    let shards = || (0..layout.shards.len()).map(|number| progress(ShardId(number as u16)));
    let (waiting, moving) = (goal.moves.len(), shards().filter(|p| *p == Progress::Moving).count());
    metrics::gauge!("stemedb_rebalance_moves_pending").set((waiting + moving) as f64);
    let next = advance(&layout, &goal, MOVING_MAX, progress, |node| core.is_up(node));
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

/// What the leaders of shards said, by shard.
pub(crate) type LedShards = BTreeMap<ShardId, Led>;

/// A member that has been away for too long, and can be done without.
fn long_gone(core: &Core, state: &MetaState, led: &LedShards, aside: &[Aside]) -> Option<NodeId> {
    let gone = state.nodes.keys().filter(|node| core.is_away(**node, core.replace_after));
    let members = state.nodes.len();
    let factor = state.founding?.replication_factor;
    // No shard may get fewer voters for it.
    let spare = voters(members.saturating_sub(1), factor) == voters(members, factor);
    let can_go =
        |node: &NodeId| can_go(&state.layout, led, aside, *node, |other| core.is_up(other));
    gone.copied().find(|node| spare && can_go(node))
}

/// Whether every shard goes on without a member: each one is led, and those that count on that
/// member, by the layout or by their real voters, have a living majority without it, of replicas that
/// are not set aside. (Of a shard that nobody leads it can't be told who its voters are.) Pure.
fn can_go(
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
fn reachable(state: &MetaState, led: &LedShards) -> Layout {
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
            let known = shard.replicas.iter().any(|replica| replica.id == *id);
            if let Some(node) = led.holders.get(id).filter(|_| !known) {
                shard.replicas.push(Replica { node: *node, id: *id });
            }
        }
    }
    layout
}

/// Where everything should be, from where it is.
fn goal_of(state: &MetaState, layout: &Layout) -> Option<Plan> {
    let founding = state.founding?;
    let member = |node: &stemedb_machine::meta::Node| Member {
        node: node.id,
        zone: (!node.zone.is_empty()).then(|| node.zone.clone()),
        weight: 1,
    };
    let members: Vec<Member> = state.nodes.values().map(member).collect();
    let request = Request {
        members: &members,
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
/// say what was: a group that was as the layout says stays so until the layout changes.
async fn ask_leaders(core: &Core, state: &MetaState) -> LedShards {
    let deadline = Instant::now() + ASK_TIMEOUT;
    let asked = state.nodes.keys().map(|node| async move {
        if *node == core.node {
            return core.led();
        }
        let answer = core.ask(*node, LED, Bytes::new(), deadline).await;
        answer.ok().and_then(|answer| decode_led(&answer).ok()).unwrap_or_default()
    });
    let answers = join_all(asked).await.into_iter().flatten();
    answers.filter_map(|led| Some((led.group.shard()?, led))).collect()
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
    fn is_away(&self, node: NodeId, after: Duration) -> bool {
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
            return Ok(());
        }
        Err("has what a shard needs that has no majority without it (quorum-lost)".to_owned())
    }

    /// Whether a node answers, as far as the link to it tells; this one does.
    pub(crate) fn is_up(&self, node: NodeId) -> bool {
        node == self.node || self.plane().is_ok_and(|plane| plane.link(node).borrow().is_up())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stemedb_machine::meta::{Node, NodeAddresses};
    use stemedb_types::ShardLayout;

    fn replicas(nodes: &[u64]) -> Vec<Replica> {
        nodes.iter().map(|n| Replica { node: NodeId(*n), id: ReplicaId(100 + n) }).collect()
    }

    fn layout(shards: &[&[u64]]) -> Layout {
        let shards = shards.iter().map(|nodes| ShardLayout { replicas: replicas(nodes) }).collect();
        Layout { epoch: 1, shards, meta: Vec::new() }
    }

    fn led(voters: &[u64], learners: &[u64]) -> Led {
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
        let node = |id| Node {
            id: NodeId(id),
            name: id.to_string(),
            zone: String::new(),
            addresses: NodeAddresses::default(),
            meta_replica: ReplicaId(id),
        };
        let nodes = [1, 2, 3, 5].map(|id| (NodeId(id), node(id))).into();
        let given = layout(&[&[1, 2, 4], &[1, 2, 4], &[1, 2, 4], &[1, 2, 5]]);
        let state = MetaState { layout: given, nodes, ..MetaState::default() };
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
}
