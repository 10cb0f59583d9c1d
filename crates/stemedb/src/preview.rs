//! What a change of members would move, before it is made; and what is still to come as things
//! are. Pure.
//!
//! The very plan that the meta leader would make (`stemedb_placement::plan`), from where the
//! groups really are. What it would cost is what the leaders say their shards take on disk.

use std::collections::BTreeSet;

use stemedb_machine::meta::{MetaState, Node, NodeAddresses, WEIGHT_DEFAULT};
use stemedb_placement::{Member, Plan, voters};
use stemedb_types::{Layout, NodeId, ReplicaId, ShardId};

use crate::Error;
use crate::draining::{find_member, may_go, no_room};
use crate::measured::Known;
use crate::operator::{Change, NewMember, Place, PlannedMove, Preview};
use crate::rebalance::{LedShards, goal_of, member, reachable};

/// What is seen of members from here.
pub(crate) struct Sight<'s> {
    /// Whether a node answers.
    pub(crate) is_up: &'s dyn Fn(NodeId) -> bool,
    /// Whether it has answered nobody for a while.
    pub(crate) is_silent: &'s dyn Fn(NodeId) -> bool,
}

/// What a change would move. [`Error::NotFound`] and [`Error::Malformed`] if it makes no sense.
pub(crate) fn preview(
    state: &MetaState,
    known: &Known,
    change: &Change,
    sight: &Sight<'_>,
) -> Result<Preview, Error> {
    let founding = state.founding;
    let factor = founding.map_or(1, |founding| founding.replication_factor);
    let led = led_of(known);
    let (after, removed, added) = changed(state, change)?;
    let members: Vec<Member> = after.nodes.values().map(member).collect();
    let layout = reachable(&after, &led);
    let Some(goal) = goal_of(&after, &layout, &members) else {
        return Err(Error::Malformed("there is no plan for these members".to_owned()));
    };
    let mut preview = Preview { epoch: state.layout.epoch, ..Preview::default() };
    let place = |node: NodeId| match added.iter().find(|(id, _)| *id == node) {
        Some((_, name)) => Place::New(name.clone()),
        None => Place::Member(node),
    };
    for (shard, add, remove) in differences(known, &layout, &goal) {
        let size = known.get(&shard).map_or(0, |(_, measured)| measured.bytes);
        let bytes = size.saturating_mul(add.len() as u64);
        preview.bytes_total = preview.bytes_total.saturating_add(bytes);
        let add = add.into_iter().map(place).collect();
        preview.moves.push(PlannedMove { shard, add, remove, bytes });
    }
    for (number, shard) in goal.layout.shards.iter().enumerate() {
        let leader = known.get(&ShardId(number as u16)).map(|(leader, _)| *leader);
        let first = shard.replicas.first().map(|replica| replica.node);
        preview.leaders_moved += u32::from(leader.is_some() && leader != first);
    }
    let blocked = &mut preview.blocked;
    blocked.extend(no_room(&members, factor));
    if state.paused_since_ms.is_some() {
        blocked.push("rebalancing is paused: nothing begins before it is resumed".to_owned());
    }
    for node in removed {
        let silent = (sight.is_silent)(node);
        if let Err(why) = may_go(state, &led, &[], node, silent, sight.is_up) {
            blocked.push(format!("node {node} would not be removed now: {why}"));
        }
    }
    let then = voters(members.len(), factor);
    if then < voters(state.nodes.len(), factor) {
        blocked.push(format!("with {} members each shard has {then} replicas", members.len()));
    }
    let new: BTreeSet<NodeId> = differences(known, &layout, &goal)
        .flat_map(|(_, add, _)| add)
        .filter(|node| !added.iter().any(|(id, _)| id == node) && !(sight.is_up)(*node))
        .collect();
    blocked.extend(
        new.iter().map(|node| format!("node {node} does not answer: what it is to get waits")),
    );
    let count = state.layout.shards.len();
    let unled = (0..count).filter(|number| !known.contains_key(&ShardId(*number as u16)));
    blocked.extend(unled.map(|number| {
        format!("nobody leads shard {number}: it waits, and what it takes is not known")
    }));
    Ok(preview)
}

pub(crate) fn led_of(known: &Known) -> LedShards {
    known.iter().map(|(shard, (_, measured))| (*shard, measured.led.clone())).collect()
}

/// The state as a change would leave it, who is gone from it, and who is new under which id.
type Changed = (MetaState, Vec<NodeId>, Vec<(NodeId, String)>);

fn changed(state: &MetaState, change: &Change) -> Result<Changed, Error> {
    let mut after = state.clone();
    let mut removed = Vec::new();
    for named in &change.drain {
        let node = find_member(state, named)?;
        if let Some(node) = after.nodes.get_mut(&node) {
            node.draining_since_ms = node.draining_since_ms.or(Some(0));
        }
    }
    for named in &change.remove {
        let node = find_member(state, named)?;
        after.nodes.remove(&node);
        after.layout.meta.retain(|replica| replica.node != node);
        removed.push(node);
    }
    let mut added = Vec::new();
    for NewMember { name, zone, weight } in &change.add {
        if after.nodes.values().any(|node| node.name == *name) {
            return Err(Error::Malformed(format!("a member is called {name:?} already")));
        }
        // No member has it, and the same question gets the same answer.
        let taken = |id: &NodeId| !after.nodes.contains_key(id) && !state.nodes.contains_key(id);
        let id = (0..).map(|back| NodeId(u64::MAX - back)).find(taken).unwrap_or_default();
        let node = Node {
            id,
            name: name.clone(),
            zone: zone.clone(),
            addresses: NodeAddresses::default(),
            meta_replica: ReplicaId::default(),
            weight: (*weight).max(WEIGHT_DEFAULT),
            draining_since_ms: None,
        };
        after.nodes.insert(id, node);
        added.push((id, name.clone()));
    }
    let stays = after.nodes.values().any(|node| node.draining_since_ms.is_none());
    if !stays {
        return Err(Error::Malformed("nobody would be left to hold anything".to_owned()));
    }
    Ok((after, removed, added))
}

/// By shard whose replicas are not where a plan wants them: who gets it, who loses it. Where a leader
/// says who votes, that is where they are; else the layout tells.
pub(crate) fn differences<'a>(
    known: &'a Known,
    layout: &'a Layout,
    goal: &'a Plan,
) -> impl Iterator<Item = (ShardId, Vec<NodeId>, Vec<NodeId>)> + 'a {
    let numbered = layout.shards.iter().zip(&goal.layout.shards).enumerate();
    numbered.filter_map(move |(number, (given, wanted))| {
        let shard = ShardId(number as u16);
        let given = || given.replicas.iter().map(|replica| replica.node).collect();
        let here: BTreeSet<NodeId> = known.get(&shard).map_or_else(given, |(_, said)| {
            said.led.voters.iter().filter_map(|id| said.led.holders.get(id).copied()).collect()
        });
        let wanted: BTreeSet<NodeId> = wanted.replicas.iter().map(|replica| replica.node).collect();
        let add: Vec<NodeId> = wanted.difference(&here).copied().collect();
        let remove: Vec<NodeId> = here.difference(&wanted).copied().collect();
        (!add.is_empty() || !remove.is_empty()).then_some((shard, add, remove))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measured::Measured;
    use crate::rebalance::tests::{layout, led, members};
    use std::collections::BTreeMap;

    /// Each shard led by its first voter, 100 bytes long.
    fn known(voters: &[&[u64]]) -> Known {
        let said = voters.iter().enumerate().map(|(number, voters)| {
            let measured =
                Measured { led: led(voters, &[]), bytes: 100, step: None, lags: BTreeMap::new() };
            (ShardId(number as u16), (NodeId(voters[0]), measured))
        });
        said.collect()
    }

    const HERE: [&[u64]; 4] = [&[1, 2, 3], &[2, 1, 3], &[3, 1, 2], &[1, 2, 3]];

    fn ask(state: &MetaState, change: &Change, down: &[u64]) -> Result<Preview, Error> {
        let is_up = |node: NodeId| !down.contains(&node.0);
        let sight = Sight { is_up: &is_up, is_silent: &|node| !is_up(node) };
        preview(state, &known(&HERE), change, &sight)
    }

    fn texts(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn nothing_is_pending_where_everything_is_in_place() {
        let state = members(&[1, 2, 3], layout(&HERE));
        let preview = ask(&state, &Change::default(), &[]).unwrap();
        assert_eq!((preview.moves, preview.blocked), (vec![], Vec::<String>::new()));
        assert_eq!((preview.epoch, preview.bytes_total), (1, 0));
    }

    #[test]
    fn a_node_that_would_join_gets_its_share_and_it_costs_what_that_is() {
        let state = members(&[1, 2, 3], layout(&HERE));
        let new = NewMember { name: "new".to_owned(), zone: String::new(), weight: 1 };
        let change = Change { add: vec![new.clone()], ..Change::default() };
        let preview = ask(&state, &change, &[]).unwrap();
        assert_eq!((preview.moves.len(), preview.bytes_total), (3, 300), "{preview:?}");
        assert!(preview.blocked.is_empty(), "{preview:?}");
        for planned in &preview.moves {
            assert_eq!(planned.add, [Place::New("new".to_owned())]);
            assert_eq!((planned.remove.len(), planned.bytes), (1, 100));
        }
        // Twice the weight, more of it; and the same again is the same.
        let heavy = NewMember { weight: 100, ..new };
        let change = Change { add: vec![heavy], ..Change::default() };
        let more = ask(&state, &change, &[]).unwrap();
        assert_eq!(more.moves.len(), 4);
        assert_eq!(ask(&state, &change, &[]).unwrap(), more);
    }

    #[test]
    fn what_stands_in_the_way_of_a_change_is_said() {
        let mut state = members(&[1, 2, 3], layout(&HERE));
        let drain = Change { drain: texts(&["2"]), ..Change::default() };
        let preview = ask(&state, &drain, &[]).unwrap();
        assert!(preview.moves.is_empty() && preview.leaders_moved > 0, "{preview:?}");
        assert!(preview.blocked[0].starts_with("no room"), "{preview:?}");

        state.paused_since_ms = Some(1);
        let remove = Change { remove: texts(&["3"]), ..Change::default() };
        let preview = ask(&state, &remove, &[]).unwrap();
        assert!(preview.blocked[0].contains("paused"), "{preview:?}");
        assert!(preview.blocked[1].contains("would not be removed now"), "{preview:?}");
        assert!(preview.blocked[2].contains("each shard has 1 replicas"), "{preview:?}");

        let four = members(&[1, 2, 3, 4], layout(&HERE));
        let preview = ask(&four, &Change::default(), &[4]).unwrap();
        assert_eq!(
            preview.blocked,
            ["node 0000000000000004 does not answer: what it is to get waits"]
        );
    }

    #[test]
    fn a_change_that_makes_no_sense_is_refused() {
        let state = members(&[1, 2, 3], layout(&HERE));
        let refused = |change: Change| ask(&state, &change, &[]).unwrap_err();
        let nobody = Change { drain: texts(&["9"]), ..Change::default() };
        assert!(matches!(refused(nobody), Error::NotFound(_)));
        let all = Change { drain: texts(&["1", "2"]), remove: texts(&["3"]), ..Change::default() };
        assert!(matches!(refused(all), Error::Malformed(_)));
        let double = NewMember { name: "2".to_owned(), zone: String::new(), weight: 1 };
        let double = Change { add: vec![double], ..Change::default() };
        assert!(matches!(refused(double), Error::Malformed(_)));
    }
}
