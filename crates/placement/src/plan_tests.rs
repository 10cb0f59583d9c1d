//! Named situations, random histories, and every layout of small clusters.
//!
//! Every step of a history is held against what the plan promises, in its order: distinct nodes, zones,
//! shares, and then that no layout within these bounds moves less. The last is not found out by planning
//! again but by a certificate (Ahuja, Magnanti, Orlin, *Network Flows*, theorem 9.1): a choice is a
//! flow, and it is the cheapest one if and only if no cycle in its residual graph costs less than nothing.
//! The graph here is built from the layout and the bounds alone, another way than in `replicas`.

use std::collections::BTreeSet;

use super::*;
use proptest::prelude::*;

fn member(node: u64, zone: &str, weight: u32) -> Member {
    let zone = (!zone.is_empty()).then(|| zone.to_owned());
    Member { node: NodeId(node), zone, weight }
}

/// Nodes 1, 2, … in these zones, all of one weight.
fn cluster(zones: &[&str]) -> Vec<Member> {
    (1..).zip(zones).map(|(node, zone)| member(node, zone, 1)).collect()
}

struct World {
    factor: u8,
    shards: u16,
    layout: Layout,
    next_replica_id: u64,
}

impl World {
    fn new(factor: u8, shards: u16) -> Self {
        Self { factor, shards, layout: Layout::default(), next_replica_id: 1 }
    }

    fn ask(&self, members: &[Member]) -> Plan {
        plan(&Request {
            members,
            replication_factor: self.factor,
            shards: self.shards,
            previous: &self.layout,
            next_replica_id: self.next_replica_id,
        })
        .unwrap()
    }

    /// Plans, checks what every plan must keep, and acts on it.
    fn go(&mut self, members: &[Member]) -> Plan {
        let plan = self.ask(members);
        check(self, members, &plan);
        self.layout = plan.layout.clone();
        self.next_replica_id = plan.next_replica_id;
        let again = self.ask(members);
        assert_eq!(
            again,
            Plan { moves: vec![], removals: vec![], ..plan.clone() },
            "it is at rest"
        );
        plan
    }
}

/// What every plan keeps, whatever it was asked.
fn check(world: &World, members: &[Member], plan: &Plan) {
    let voters = share::voters(members.len(), world.factor);
    assert_eq!(plan.layout.shards.len(), usize::from(world.shards));
    let mut ids = BTreeSet::new();
    for shard in &plan.layout.shards {
        let nodes: BTreeSet<NodeId> = shard.replicas.iter().map(|r| r.node).collect();
        assert_eq!((nodes.len(), shard.replicas.len()), (voters, voters), "distinct nodes");
        assert!(nodes.iter().all(|node| members.iter().any(|m| m.node == *node)), "members");
        assert_eq!(zones_of(members, &nodes), zones_possible(members, voters), "zones");
    }
    let meta: BTreeSet<NodeId> = plan.layout.meta.iter().map(|r| r.node).collect();
    assert_eq!(meta, members.iter().map(|m| m.node).collect(), "meta is everywhere");

    // Ids: kept where a replica stays, new and unique where it does not.
    for group in plan.layout.groups() {
        for replica in plan.layout.replicas(group).unwrap() {
            assert!(ids.insert(replica.id), "no id twice");
            let before = world.layout.replicas(group).unwrap_or_default();
            match before.iter().find(|r| r.node == replica.node) {
                Some(stayed) => assert_eq!(stayed.id, replica.id),
                None => {
                    assert!((world.next_replica_id..plan.next_replica_id).contains(&replica.id.0))
                }
            }
        }
    }
    assert_eq!(plan.layout.epoch - world.layout.epoch, u64::from(plan.layout != world.layout));
    let willing: Vec<&Member> = members.iter().filter(|m| m.weight > 0).collect();
    if !willing.is_empty() {
        let leads = |shard: &ShardLayout| shard.replicas[0].node;
        let suits = |shard: &ShardLayout| willing.iter().any(|m| m.node == leads(shard));
        assert!(plan.layout.shards.iter().all(suits), "the willing lead");
    }
    if willing.len() < voters {
        let everything = |m: &&Member| plan.layout.shards.iter().all(|s| s.on(m.node).is_some());
        assert!(willing.iter().all(everything), "the willing do what they can");
    }
    check_moves(world, plan);
    check_shares_and_fewest(world, members, voters, plan);
    check_even(members, &loads(&plan.layout), &plan.layout);
}

/// Within the bounds of `share`, and with the fewest new replicas that they allow.
fn check_shares_and_fewest(world: &World, members: &[Member], voters: usize, plan: &Plan) {
    let mut members: Vec<&Member> = members.iter().collect();
    members.sort_by_key(|m| m.node);
    let cast = Cast::new(&members, voters);
    let shards = usize::from(world.shards);
    let shares = share::shares(&cast.holders, cast.zone_count, voters, shards as u64);
    let held_by = |layout: &Layout, shard: usize, node: NodeId| {
        layout.shards.get(shard).is_some_and(|shard| shard.on(node).is_some())
    };
    let chosen: Vec<Vec<bool>> = (0..shards)
        .map(|shard| cast.nodes.iter().map(|n| held_by(&plan.layout, shard, *n)).collect())
        .collect();
    for (holder, bounds) in shares.holders.iter().enumerate() {
        let load = chosen.iter().filter(|shard| shard[holder]).count() as u64;
        let within = (bounds.min..=bounds.max).contains(&load);
        assert!(within, "share of {}: {load} is not in {bounds:?}", cast.nodes[holder]);
    }
    for (number, shard) in chosen.iter().enumerate() {
        let whole = shard.iter().filter(|held| **held).count();
        assert_eq!(whole, voters, "nobody else holds shard {number}");
        for (zone, bounds) in shares.zones.iter().enumerate() {
            let inside = (0..shard.len()).filter(|n| shard[*n] && cast.holders[*n].zone == zone);
            let count = inside.count() as u64;
            let within = (bounds.min..=bounds.max).contains(&count);
            assert!(within, "shard {number} in zone {zone}: {count} is not in {bounds:?}");
        }
    }
    let is_new =
        |shard: usize, holder: usize| i64::from(!held_by(&world.layout, shard, cast.nodes[holder]));
    let cycle = cheaper_cycle(&cast.holders, &shares, &chosen, is_new);
    assert_eq!(cycle, None, "there is a layout within the bounds with fewer moves");
}

/// Where a flow of replicas may be changed, and at what cost.
struct Residual {
    vertices: usize,
    /// From, to, cost of one unit more that way.
    edges: Vec<(usize, usize, i64)>,
}

impl Residual {
    /// An edge with a flow within bounds: more can go forward below the most, back above the fewest.
    fn edge(&mut self, from: usize, to: usize, flow: u64, bounds: share::Bounds, cost: i64) {
        if flow < bounds.max {
            self.edges.push((from, to, cost));
        }
        if flow > bounds.min {
            self.edges.push((to, from, -cost));
        }
    }

    /// A vertex on a cycle that costs less than nothing, by Bellman and Ford: all distances begin at
    /// nothing, and if they still fall after as many rounds as there are vertices, they fall for ever.
    fn negative_cycle(&self) -> Option<usize> {
        let mut distance = vec![0_i64; self.vertices];
        let mut last = None;
        for _ in 0..=self.vertices {
            last = None;
            for &(from, to, cost) in &self.edges {
                if distance[from] + cost < distance[to] {
                    distance[to] = distance[from] + cost;
                    last = Some(to);
                }
            }
            last?;
        }
        last
    }
}

/// A change of a choice that keeps all bounds and makes fewer replicas new, if there is one. Every shard
/// has a vertex, one for each zone, and its replicas flow over these to the nodes and into the sink.
/// (The source is left out: what a shard sends is given.)
fn cheaper_cycle(
    holders: &[Holder],
    shares: &share::Shares,
    chosen: &[Vec<bool>],
    is_new: impl Fn(usize, usize) -> i64,
) -> Option<usize> {
    let (zones, nodes) = (shares.zones.len(), holders.len());
    let sink = nodes;
    let of_shard = |shard: usize| nodes + 1 + shard * (zones + 1);
    let mut residual = Residual { vertices: of_shard(chosen.len()), edges: Vec::new() };
    for (shard, chosen) in chosen.iter().enumerate() {
        let in_zone = |zone: usize| of_shard(shard) + 1 + zone;
        for (zone, bounds) in shares.zones.iter().enumerate() {
            let inside = (0..nodes).filter(|n| chosen[*n] && holders[*n].zone == zone).count();
            residual.edge(of_shard(shard), in_zone(zone), inside as u64, *bounds, 0);
        }
        for (node, holder) in holders.iter().enumerate() {
            let at_most_one = share::Bounds { min: 0, max: 1 };
            let flow = u64::from(chosen[node]);
            let cost = is_new(shard, node);
            residual.edge(in_zone(holder.zone), node, flow, at_most_one, cost);
        }
    }
    for (node, bounds) in shares.holders.iter().enumerate() {
        let load = chosen.iter().filter(|shard| shard[node]).count();
        residual.edge(node, sink, load as u64, *bounds, 0);
    }
    residual.negative_cycle()
}

fn check_moves(world: &World, plan: &Plan) {
    let nodes = |layout: &Layout| -> BTreeSet<(u16, NodeId)> {
        let shards = (0..).zip(&layout.shards);
        shards.flat_map(|(n, shard)| shard.replicas.iter().map(move |r| (n, r.node))).collect()
    };
    let (before, after) = (nodes(&world.layout), nodes(&plan.layout));
    let mut reached = before;
    for step in &plan.moves {
        assert!(step.from.is_none_or(|from| reached.remove(&(step.shard.0, from))));
        assert!(reached.insert((step.shard.0, step.to)));
    }
    for gone in &plan.removals {
        assert!(reached.remove(&(gone.shard.0, gone.node)));
    }
    assert_eq!(reached, after, "the moves lead there");
}

/// Nodes of no weight count only where the others are too few.
fn eligible(members: &[Member], voters: usize) -> Vec<&Member> {
    let willing: Vec<&Member> = members.iter().filter(|m| m.weight > 0).collect();
    if willing.len() >= voters { willing } else { members.iter().collect() }
}

fn zones_of(members: &[Member], nodes: &BTreeSet<NodeId>) -> usize {
    let zones: BTreeSet<_> =
        members.iter().filter(|m| nodes.contains(&m.node)).map(|m| &m.zone).collect();
    zones.len()
}

/// Most zones that the replicas of one shard can lie in.
fn zones_possible(members: &[Member], voters: usize) -> usize {
    let willing: BTreeSet<_> = members.iter().filter(|m| m.weight > 0).map(|m| &m.zone).collect();
    let all: BTreeSet<_> = eligible(members, voters).into_iter().map(|m| &m.zone).collect();
    let willing_nodes = members.iter().filter(|m| m.weight > 0).count();
    let spare = voters.saturating_sub(willing_nodes);
    if spare == 0 { voters.min(all.len()) } else { all.len().min(willing.len() + spare) }
}

fn loads(layout: &Layout) -> BTreeMap<NodeId, u64> {
    let mut loads = BTreeMap::new();
    for replica in layout.shards.iter().flat_map(|shard| &shard.replicas) {
        *loads.entry(replica.node).or_default() += 1;
    }
    loads
}

fn leads(layout: &Layout) -> BTreeMap<NodeId, u64> {
    let mut leads = BTreeMap::new();
    for shard in &layout.shards {
        *leads.entry(shard.replicas[0].node).or_default() += 1;
    }
    leads
}

/// By another way than `share`: where all weigh alike in one zone, counts differ by one at most; where
/// weights differ, each is within one of its share unless a node is full.
fn check_even(members: &[Member], loads: &BTreeMap<NodeId, u64>, layout: &Layout) {
    let zones: BTreeSet<_> = members.iter().map(|m| &m.zone).collect();
    if zones.len() > 1 || members.iter().any(|m| m.weight == 0) {
        return;
    }
    let of = |counts: &BTreeMap<NodeId, u64>, m: &Member| *counts.get(&m.node).unwrap_or(&0);
    let spread = |counts: &BTreeMap<NodeId, u64>| {
        let all = members.iter().map(|m| of(counts, m));
        all.clone().max().unwrap() - all.min().unwrap()
    };
    let (weight, total) =
        (members.iter().map(|m| u64::from(m.weight)).sum::<u64>(), loads.values().sum::<u64>());
    if members.iter().all(|m| m.weight == members[0].weight) {
        assert!(spread(loads) <= 1, "balanced: {loads:?}");
        assert!(spread(&leads(layout)) <= 1, "leaders balanced: {:?}", leads(layout));
    } else if members
        .iter()
        .all(|m| total * u64::from(m.weight) <= weight * layout.shards.len() as u64)
    {
        for m in members {
            let share = total * u64::from(m.weight);
            assert!(
                (of(loads, m) * weight).abs_diff(share) < weight,
                "share of {}: {loads:?}",
                m.node
            );
        }
    }
}

/// The certificate itself can fail: a layout that moved one replica too many is told from one that did not.
#[test]
fn a_move_that_was_not_needed_is_a_cheaper_cycle() {
    let holders = [Holder { zone: 0, weight: 1, full: false }; 4];
    let shares = share::shares(&holders, 1, 2, 2);
    let before = [[true, true, false, false], [false, false, true, true]];
    let cycle = |chosen: [[bool; 4]; 2]| {
        let is_new = |shard: usize, node: usize| i64::from(!before[shard][node]);
        cheaper_cycle(&holders, &shares, &chosen.map(Vec::from), is_new)
    };
    assert_eq!(cycle(before), None);
    // As even as before, and both shards hold one that is new.
    assert!(cycle([[true, false, true, false], [false, true, false, true]]).is_some());
}

#[test]
fn three_nodes_hold_everything_and_a_fourth_takes_a_quarter() {
    let mut world = World::new(3, 4);
    let founded = world.go(&cluster(&["", "", ""]));
    assert_eq!((founded.moves.len(), founded.layout.epoch, founded.next_replica_id), (12, 1, 16));
    assert!(founded.moves.iter().all(|step| step.from.is_none()));

    let joined = world.go(&cluster(&["", "", "", ""]));
    assert_eq!(joined.moves.len(), 3, "a quarter of twelve");
    assert!(joined.moves.iter().all(|step| step.to == NodeId(4) && step.from.is_some()));
    let left: BTreeSet<_> = joined.moves.iter().map(|step| step.from).collect();
    assert_eq!(left.len(), 3, "one from each");
    assert_eq!((joined.layout.epoch, joined.next_replica_id), (2, 20));
}

#[test]
fn a_cluster_grows_from_one_node_and_shrinks_back() {
    let mut world = World::new(3, 5);
    let all = cluster(&["", "", "", "", ""]);
    let steps = [1, 2, 3, 4, 5, 4, 3, 2, 1].map(|members| {
        let plan = world.go(&all[..members]);
        (plan.layout.shards[0].replicas.len(), plan.moves.len(), plan.removals.len())
    });
    let grown = [(1, 5, 0), (1, 2, 0), (3, 10, 0), (3, 3, 0), (3, 3, 0)];
    let shrunk = [(3, 3, 0), (3, 4, 0), (1, 0, 10), (1, 3, 0)];
    assert_eq!(steps.as_slice(), [grown.as_slice(), &shrunk].concat());
}

#[test]
fn a_lost_node_is_replaced_where_it_was_and_nothing_else_moves() {
    let mut world = World::new(3, 8);
    world.go(&cluster(&["", "", "", ""]));
    let held = loads(&world.layout)[&NodeId(2)];
    let members = [member(1, "", 1), member(3, "", 1), member(4, "", 1), member(9, "", 1)];
    let plan = world.go(&members);
    assert_eq!(plan.moves.len() as u64, held);
    let replaced = |m: &Move| (m.from, m.to) == (Some(NodeId(2)), NodeId(9));
    assert!(plan.moves.iter().all(replaced));
}

#[test]
fn every_zone_has_a_replica_even_if_its_only_node_must_carry_all_shards() {
    let mut world = World::new(3, 10);
    world.go(&cluster(&["a", "b", "c", "c", "c", "c", "c"]));
    let loads = loads(&world.layout);
    assert_eq!((loads[&NodeId(1)], loads[&NodeId(2)]), (10, 10));
    assert!((3..=7).all(|node| loads[&NodeId(node)] == 2));
    let leads = leads(&world.layout);
    assert!(leads.values().all(|count| (1..=2).contains(count)), "{leads:?}");
}

#[test]
fn five_replicas_in_three_zones_survive_the_loss_of_any() {
    let mut world = World::new(5, 6);
    let members = cluster(&["a", "a", "a", "b", "b", "b", "c", "c", "c"]);
    world.go(&members);
    for shard in &world.layout.shards {
        for zone in ["a", "b", "c"] {
            let inside = shard.replicas.iter().filter(|r| {
                members.iter().any(|m| m.node == r.node && m.zone.as_deref() == Some(zone))
            });
            assert!(inside.count() <= 2, "{shard:?}");
        }
    }
}

#[test]
fn a_drained_node_gives_up_all_it_can_and_stays_where_there_is_no_spare() {
    let mut world = World::new(3, 8);
    world.go(&cluster(&["a", "b", "c", "c"]));
    let mut draining = cluster(&["a", "b", "c", "c"]);
    draining[0].weight = 0;
    let plan = world.go(&draining);
    assert_eq!(loads(&plan.layout).get(&NodeId(1)), None, "even at the cost of a zone");
    assert_eq!(plan.layout.meta.len(), 4, "it is a member until it is removed");

    let mut full = World::new(3, 8);
    full.go(&cluster(&["", "", ""]));
    let mut draining = cluster(&["", "", ""]);
    draining[2].weight = 0;
    let plan = full.go(&draining);
    assert_eq!((plan.moves, plan.removals), (vec![], vec![]), "nobody could take its place");
    let led = leads(&plan.layout).into_iter().collect::<Vec<_>>();
    assert_eq!(led, [(NodeId(1), 4), (NodeId(2), 4)], "it leads nothing");

    // Two of four drain: the two others hold everything, the draining share the rest.
    let mut half = World::new(3, 8);
    let mut draining = cluster(&["", "", "", ""]);
    draining[0].weight = 0;
    draining[1].weight = 0;
    let plan = half.go(&draining);
    assert_eq!(loads(&plan.layout).into_values().collect::<Vec<_>>(), [4, 4, 8, 8]);
    let led = leads(&plan.layout).into_iter().collect::<Vec<_>>();
    assert_eq!(led, [(NodeId(3), 4), (NodeId(4), 4)]);
}

#[test]
fn weights_divide_the_replicas() {
    let mut world = World::new(1, 12);
    world.go(&[member(1, "", 3), member(2, "", 2), member(3, "", 1)]);
    let loads = loads(&world.layout);
    assert_eq!(loads, [(NodeId(1), 6), (NodeId(2), 4), (NodeId(3), 2)].into());
}

#[test]
fn the_shards_of_a_node_are_taken_over_by_all_the_others() {
    let mut world = World::new(3, 60);
    world.go(&cluster(&["", "", "", "", "", ""]));
    let led_by_first = world.layout.shards.iter().filter(|s| s.replicas[0].node == NodeId(1));
    let next: BTreeSet<NodeId> = led_by_first.map(|s| s.replicas[1].node).collect();
    assert!(next.len() >= 4, "{next:?}");
}

#[test]
fn a_request_that_makes_no_sense_is_refused() {
    let founded = World::new(3, 4).ask(&cluster(&["", ""]));
    let one = cluster(&[""]);
    let good = Request {
        members: &one,
        replication_factor: 3,
        shards: 4,
        previous: &founded.layout,
        next_replica_id: founded.next_replica_id,
    };
    assert!(plan(&good).is_ok());
    let twice = [member(7, "a", 1), member(7, "b", 1)];
    let table = [
        (Request { members: &[], ..good }, Error::NoMembers),
        (Request { replication_factor: 0, ..good }, Error::NoReplicas),
        (Request { shards: 0, ..good }, Error::NoShards),
        (Request { shards: 5, ..good }, Error::ShardCount { has: 4, asked: 5 }),
        (Request { members: &twice, ..good }, Error::DuplicateNode { node: NodeId(7) }),
        (Request { next_replica_id: 6, ..good }, Error::ReplicaIdUsed { next: 6, given: 6 }),
        (
            Request { next_replica_id: 0, previous: &Layout::default(), ..good },
            Error::ReplicaIdUsed { next: 0, given: 0 },
        ),
    ];
    for (request, error) in table {
        assert_eq!(plan(&request), Err(error));
    }
}

/// The bytes of a plan are part of what nodes agree on: a change here is a change of behaviour
/// that a rolling upgrade would feel.
#[test]
fn a_layout_is_the_same_bytes_as_ever() {
    let mut world = World::new(3, 16);
    world.go(&cluster(&["a", "b", "c"]));
    world.go(&cluster(&["a", "b", "c", "a", "b"]));
    let fingerprint = world.layout.fingerprint();
    let hex: String = fingerprint[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, "6e45452044b03ca3");
}

fn arbitrary_member() -> impl Strategy<Value = (u64, usize, u32)> {
    (1..12u64, 0..4usize, prop_oneof![6 => Just(1u32), 1 => 0..4u32])
}

/// One thing that happens to a cluster. A number draws one of its members.
#[derive(Clone, Debug)]
enum Event {
    Join(u64, usize, u32),
    Leave(usize),
    /// The node keeps what it holds and is in another zone from now on.
    Rezone(usize, usize),
    Reweigh(usize, u32),
    Drain(usize),
}

fn arbitrary_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => arbitrary_member().prop_map(|(node, zone, weight)| Event::Join(node, zone, weight)),
        2 => any::<usize>().prop_map(Event::Leave),
        2 => (any::<usize>(), 0..4usize).prop_map(|(who, zone)| Event::Rezone(who, zone)),
        2 => (any::<usize>(), 1..6u32).prop_map(|(who, weight)| Event::Reweigh(who, weight)),
        1 => any::<usize>().prop_map(Event::Drain),
    ]
}

/// The same cluster after an event; one that would leave nobody does nothing.
fn after(members: &mut Vec<Member>, event: &Event, zones: bool, weights: bool) {
    let who = |who: usize| who % members.len();
    match *event {
        Event::Join(node, zone, weight) => {
            let joined = members_of(&[(node, zone, weight)], zones, weights);
            members.retain(|m| m.node != NodeId(node));
            members.extend(joined);
        }
        Event::Leave(one) if members.len() > 1 => {
            members.remove(who(one));
        }
        Event::Rezone(one, zone) if zones => {
            let one = who(one);
            members[one].zone = member(1, ZONES[zone], 1).zone;
        }
        Event::Reweigh(one, weight) if weights => {
            let one = who(one);
            members[one].weight = weight;
        }
        Event::Drain(one) if weights => {
            let one = who(one);
            members[one].weight = 0;
        }
        _ => {}
    }
}

const ZONES: [&str; 4] = ["", "a", "b", "c"];

/// Members by node: a later mention of a node changes it.
fn members_of(drawn: &[(u64, usize, u32)], zones: bool, weights: bool) -> Vec<Member> {
    let mut members: BTreeMap<u64, Member> = BTreeMap::new();
    for (node, zone, weight) in drawn {
        let zone = if zones { ZONES[*zone] } else { "" };
        members.insert(*node, member(*node, zone, if weights { *weight } else { 1 }));
    }
    members.into_values().collect()
}

proptest! {
    /// `PROPTEST_CASES` sets how many histories are tried.
    #[test]
    fn through_any_history_every_plan_keeps_the_rules_and_rests(
        history in prop::collection::vec(prop::collection::vec(arbitrary_member(), 1..9), 1..6),
        factor in 1..6u8,
        shards in 1..20u16,
        zones in any::<bool>(),
        weights in any::<bool>(),
    ) {
        let mut world = World::new(factor, shards);
        for drawn in history {
            world.go(&members_of(&drawn, zones, weights));
        }
    }

    /// One thing at a time, as in a cluster that lives: nodes join and leave, and are given other zones and
    /// weights while they hold what they hold.
    #[test]
    fn through_the_life_of_a_cluster_every_plan_keeps_the_rules_and_rests(
        first in prop::collection::vec(arbitrary_member(), 1..9),
        life in prop::collection::vec(arbitrary_event(), 1..10),
        factor in 1..6u8,
        shards in 1..40u16,
        zones in any::<bool>(),
        weights in any::<bool>(),
    ) {
        let mut world = World::new(factor, shards);
        let mut members = members_of(&first, zones, weights);
        world.go(&members);
        for event in &life {
            after(&mut members, event, zones, weights);
            world.go(&members);
        }
    }

    #[test]
    fn the_order_in_which_members_are_named_does_not_matter(
        (drawn, shuffled) in prop::collection::vec(arbitrary_member(), 1..9).prop_flat_map(|drawn| {
            let members = members_of(&drawn, true, true);
            (Just(members.clone()), Just(members).prop_shuffle())
        }),
        first in prop::collection::vec(arbitrary_member(), 1..9),
        shards in 1..20u16,
    ) {
        let mut world = World::new(3, shards);
        world.go(&members_of(&first, true, true));
        prop_assert_eq!(world.ask(&drawn), world.ask(&shuffled));
    }

    #[test]
    fn no_layout_of_a_small_cluster_is_better(
        first in prop::collection::vec((1..5u64, 0..3usize, Just(1)), 1..5),
        second in prop::collection::vec((1..5u64, 0..3usize, Just(1)), 1..5),
        factor in 1..4u8,
        shards in 1..6u16,
    ) {
        let mut world = World::new(factor, shards);
        world.go(&members_of(&first, true, true));
        let members = members_of(&second, true, true);
        let plan = world.ask(&members);
        let chosen: Vec<Vec<NodeId>> = plan.layout.shards.iter()
            .map(|shard| shard.replicas.iter().map(|r| r.node).collect()).collect();
        let best = best_replicas(&members, &world);
        prop_assert_eq!(cost_of_replicas(&members, &world, &chosen), best);
        prop_assert_eq!(cost_of_leaders(&members, &world, &chosen), best_leaders(&members, &world, &chosen));
    }
}

/// Evenness and moves of a choice, less is better; the zones are given.
fn cost_of_replicas(members: &[Member], world: &World, chosen: &[Vec<NodeId>]) -> (u64, usize) {
    let load = |m: &Member| chosen.iter().filter(|nodes| nodes.contains(&m.node)).count() as u64;
    let uneven = members.iter().map(|m| load(m).pow(2)).sum();
    let is_new = |(shard, node): (usize, &NodeId)| {
        world.layout.shards.get(shard).is_none_or(|before| before.on(*node).is_none())
    };
    let all =
        chosen.iter().enumerate().flat_map(|(shard, nodes)| nodes.iter().map(move |n| (shard, n)));
    (uneven, all.filter(|one| is_new(*one)).count())
}

/// Tries every choice of nodes that reaches most zones, for every shard.
fn best_replicas(members: &[Member], world: &World) -> (u64, usize) {
    let voters = share::voters(members.len(), world.factor);
    let sets: Vec<Vec<NodeId>> = (0u32..1 << members.len())
        .filter(|bits| bits.count_ones() as usize == voters)
        .map(|bits| {
            (0..members.len()).filter(|n| bits >> n & 1 == 1).map(|n| members[n].node).collect()
        })
        .filter(|nodes: &Vec<NodeId>| {
            zones_of(members, &nodes.iter().copied().collect()) == zones_possible(members, voters)
        })
        .collect();
    every_choice(&vec![sets.len(); usize::from(world.shards)])
        .map(|choice| {
            let chosen: Vec<Vec<NodeId>> = choice.iter().map(|set| sets[*set].clone()).collect();
            cost_of_replicas(members, world, &chosen)
        })
        .min()
        .unwrap()
}

/// Evenness, changes and leaders without data, less is better; the first of each shard leads.
fn cost_of_leaders(
    members: &[Member],
    world: &World,
    chosen: &[Vec<NodeId>],
) -> (u64, usize, usize) {
    let leads = |m: &Member| chosen.iter().filter(|nodes| nodes[0] == m.node).count() as u64;
    let uneven = members.iter().map(|m| leads(m).pow(2)).sum();
    let count = |counts: &dyn Fn(&ShardLayout, NodeId) -> bool| {
        let pairs = world.layout.shards.iter().zip(chosen);
        pairs.filter(|(before, nodes)| counts(before, nodes[0])).count()
    };
    let changed = count(&|before, leader| before.replicas[0].node != leader);
    (uneven, changed, count(&|before, leader| before.on(leader).is_none()))
}

fn best_leaders(members: &[Member], world: &World, chosen: &[Vec<NodeId>]) -> (u64, usize, usize) {
    every_choice(&chosen.iter().map(Vec::len).collect::<Vec<_>>())
        .map(|choice| {
            let swapped = chosen.iter().zip(choice).map(|(nodes, leader)| {
                let mut nodes = nodes.clone();
                nodes.swap(0, leader);
                nodes
            });
            cost_of_leaders(members, world, &swapped.collect::<Vec<_>>())
        })
        .min()
        .unwrap()
}

/// Every way to pick one of `options[n]` for each `n`.
fn every_choice(options: &[usize]) -> impl Iterator<Item = Vec<usize>> {
    let total: usize = options.iter().product();
    (0..total).map(move |mut number| {
        let digit = |options: &usize| {
            let digit = number % options;
            number /= options;
            digit
        };
        options.iter().map(digit).collect()
    })
}
