//! Agents among themselves: a clock that jumps from event to event, a network that delivers
//! after a millisecond or not at all, and every chance from a seed.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use rand::SeedableRng;
use stemedb_types::NodeId;

use super::*;
use crate::seal::SEAL_BYTES;
use crate::wire::DATAGRAM_BYTES_MAX;

const LATENCY: Duration = Duration::from_millis(1);
const A: Option<ClusterId> = Some(ClusterId(0xa));
const B: Option<ClusterId> = Some(ClusterId(0xb));

/// Processes by the port they listen on.
struct World {
    now: Instant,
    agents: BTreeMap<u16, Agent>,
    /// Alive, but no packet comes or goes.
    cut_off: Vec<u16>,
    /// News is lost on its way, and nothing else.
    loses_news: bool,
    began: Instant,
    /// By arrival, then by sending.
    flying: BTreeMap<(Instant, u64), (u16, Outgoing)>,
    sent: u64,
    refusals: Vec<(u16, Refusal)>,
}

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn life(node: u64, incarnation: u64, cluster: Option<ClusterId>, port: u16) -> Identity {
    Identity { node: NodeId(node), incarnation, cluster, gossip: at(port), grpc_port: 18182 }
}

fn in_zone(zone: &str) -> Profile {
    Profile { zone: zone.to_owned(), version: "0.1.0".to_owned(), ..Profile::default() }
}

/// The frame without its news.
fn without_news(frame: &[u8]) -> Vec<u8> {
    match Frame::decode(frame) {
        Ok(Frame::Swim(bytes)) => {
            let packet = Packet { news: Vec::new(), ..Packet::decode(bytes).unwrap() };
            Frame::Swim(&packet.encode()).encode()
        }
        _ => frame.to_vec(),
    }
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            now,
            agents: BTreeMap::new(),
            cut_off: Vec::new(),
            loses_news: false,
            began: now,
            flying: BTreeMap::new(),
            sent: 0,
            refusals: Vec::new(),
        }
    }

    /// Nodes 1 to `count` on ports of the same number, all knocking at node 1, until they agree and
    /// each has heard what the others are.
    fn joined(count: u16) -> Self {
        let mut world = Self::new();
        for port in 1..=count {
            world.start(life(u64::from(port), 100, None, port));
            world.knock(port, 1);
        }
        world.run_until("all have joined", 60, |world| {
            (1..=count).all(|port| world.count(port, MemberState::Alive) == usize::from(count))
        });
        world.run_until_all_is_told(100);
        world
    }

    /// A node in the zone that is named after its port.
    fn start(&mut self, identity: Identity) {
        self.start_in(identity, &format!("zone-{}", identity.gossip.port()));
    }

    fn start_in(&mut self, identity: Identity, zone: &str) {
        let port = identity.gossip.port();
        let rng = StdRng::seed_from_u64(u64::from(port));
        let agent = Agent::new(identity, in_zone(zone), Timing::default(), rng);
        self.agents.insert(port, agent);
    }

    fn agent(&mut self, port: u16) -> &mut Agent {
        self.agents.get_mut(&port).unwrap()
    }

    fn knock(&mut self, port: u16, target: u16) {
        self.agent(port).knock(at(target));
    }

    fn list(&self, port: u16) -> Members {
        self.agents[&port].members()
    }

    fn count(&self, port: u16, state: MemberState) -> usize {
        self.list(port).count(state)
    }

    fn state(&self, port: u16, node: u64) -> Option<MemberState> {
        self.list(port).get(NodeId(node)).map(|member| member.state)
    }

    /// The zone of `node`, as the process on `port` has heard it.
    fn zone(&self, port: u16, node: u64) -> Option<String> {
        self.list(port).profile(NodeId(node)).map(|profile| profile.zone.clone())
    }

    /// Whether the process on `port` has heard what each member of its picture is.
    fn is_told_all(&self, port: u16) -> bool {
        let members = self.list(port);
        members.list.iter().all(|member| members.profile(member.node).is_some())
    }

    /// Items of news that wait to be passed on.
    fn backlog(&self) -> usize {
        self.agents.values().map(|agent| agent.foca.custom_broadcast_backlog()).sum()
    }

    /// Puts what the agents have said into the air.
    fn collect(&mut self) {
        for (&port, agent) in &mut self.agents {
            for outgoing in agent.take_out() {
                assert!(outgoing.frame.len() + SEAL_BYTES <= DATAGRAM_BYTES_MAX);
                self.sent += 1;
                if !self.cut_off.contains(&port) {
                    self.flying.insert((self.now + LATENCY, self.sent), (port, outgoing));
                }
            }
        }
    }

    /// Goes to the next event before `end` and does it.
    fn step(&mut self, end: Instant) -> bool {
        self.collect();
        let arrival = self.flying.keys().next().map(|&(at, _)| at);
        let due = self.agents.values().filter_map(Agent::next_at).min();
        let Some(next) = arrival.into_iter().chain(due).min().filter(|&next| next <= end) else {
            self.now = end;
            return false;
        };
        self.now = self.now.max(next);
        if arrival == Some(next) {
            let (_, (source, outgoing)) = self.flying.pop_first().unwrap();
            self.deliver(source, &outgoing);
        } else {
            self.agents.values_mut().for_each(|agent| agent.tick(next));
        }
        true
    }

    fn deliver(&mut self, source: u16, outgoing: &Outgoing) {
        let port = outgoing.to.port();
        let frame =
            if self.loses_news { without_news(&outgoing.frame) } else { outgoing.frame.clone() };
        if let Some(agent) = self.agents.get_mut(&port).filter(|_| !self.cut_off.contains(&port))
            && let Err(refusal) = agent.receive(&frame, at(source), self.now)
        {
            self.refusals.push((port, refusal));
        }
    }

    fn run(&mut self, seconds: u64) {
        let end = self.now + Duration::from_secs(seconds);
        while self.step(end) {}
    }

    fn run_until(&mut self, what: &str, seconds: u64, done: impl Fn(&World) -> bool) {
        let end = self.now + Duration::from_secs(seconds);
        while !done(self) {
            assert!(self.step(end), "{what}: not within {seconds} s");
        }
    }

    /// Looks once a second: with fifty nodes a look costs more than a step.
    fn run_until_all_is_told(&mut self, seconds: u64) {
        for _ in 0..seconds {
            if self.agents.keys().all(|&port| self.is_told_all(port)) {
                return;
            }
            self.run(1);
        }
        panic!("somebody has not heard of somebody after {seconds} s");
    }
}

#[test]
fn three_nodes_find_each_other_through_one_of_them() {
    let mut world = World::joined(3);
    assert!(!world.agent(2).is_alone());
    let seen: Vec<_> = world.list(3).list.iter().map(|m| (m.node.0, m.gossip.port())).collect();
    assert_eq!(seen, [(1, 1), (2, 2), (3, 3)]);

    // A quiet minute later nothing has changed and nobody has been suspected into a new life.
    let before = world.list(1);
    world.run(60);
    assert_eq!(world.list(1), before);
    assert_eq!(world.refusals, []);
}

#[test]
fn a_silent_node_is_suspected_then_down_and_returns_under_another_address() {
    let mut world = World::joined(3);
    world.agents.remove(&3);
    world.run_until("suspected", 30, |world| world.state(1, 3) == Some(MemberState::Suspect));
    assert!(world.list(1).get(NodeId(3)).unwrap().is_active());
    world.run_until("down", 30, |world| {
        [1, 2].iter().all(|&port| world.state(port, 3) == Some(MemberState::Down))
    });

    world.start(life(3, 101, None, 33));
    world.knock(33, 1);
    world.run_until("back", 10, |world| {
        [1, 2, 33].iter().all(|&port| world.state(port, 3) == Some(MemberState::Alive))
    });
    assert_eq!(world.list(2).get(NodeId(3)).unwrap().gossip, at(33));
    assert_eq!(world.list(2).list.len(), 3);
    assert_eq!(world.refusals, []);
}

#[test]
fn a_node_taken_for_dead_takes_a_higher_incarnation_and_is_back_by_itself() {
    let mut world = World::joined(3);
    world.cut_off = vec![3];
    world.run_until("down", 60, |world| {
        [1, 2].iter().all(|&port| world.state(port, 3) == Some(MemberState::Down))
            && world.agents[&3].is_alone()
    });
    world.cut_off.clear();
    // Nobody knocks: the others announce themselves to members that went down.
    world.run_until("back", 200, |world| {
        [1, 2, 3].iter().all(|&port| world.count(port, MemberState::Alive) == 3)
    });
    assert!(world.agents[&3].identity().incarnation > 100);
    assert_eq!(world.agents[&3].identity().gossip, at(3));
}

#[test]
fn a_node_that_lost_its_saved_incarnation_passes_its_ghost_in_one_step() {
    // The clock went back: the new life starts 99 below the ghost that the others still see.
    let mut world = World::joined(3);
    world.agents.remove(&3);
    world.start(life(3, 1, None, 33));
    world.knock(33, 1);
    world.run_until("back", 10, |world| {
        [1, 2].iter().all(|&port| {
            world.list(port).get(NodeId(3)).is_some_and(|m| m.gossip == at(33) && m.is_active())
        })
    });
    assert_eq!(world.agents[&33].identity().incarnation, 101);
    assert_eq!(world.list(33).double, None, "a ghost is no double");
}

#[test]
fn two_halves_that_never_met_are_one_cluster_after_one_knock() {
    let mut world = World::new();
    for (port, seed) in [(1, 2), (2, 1), (3, 4), (4, 3)] {
        world.start(life(u64::from(port), 1, None, port));
        world.knock(port, seed);
    }
    world.run_until("two pairs", 10, |world| {
        (1..=4).all(|port| world.count(port, MemberState::Alive) == 2)
    });
    world.knock(1, 3);
    world.run_until("one cluster", 120, |world| {
        (1..=4).all(|port| world.count(port, MemberState::Alive) == 4)
    });
}

#[test]
fn news_of_our_own_id_in_a_newer_life_is_noted_and_not_fought() {
    let (own, peer, newer) = (life(1, 5, A, 1), life(2, 1, A, 2), life(1, 9, A, 11));
    let rng = StdRng::seed_from_u64(1);
    let mut agent = Agent::new(own, in_zone("ours"), Timing::default(), rng);
    let members = vec![foca::Member::alive(newer)];
    let profile = Arc::new(in_zone("theirs"));
    let told = News { node: NodeId(2), incarnation: 1, number: 1, cluster: A, profile };
    let of_us = News { node: NodeId(1), incarnation: 9, ..told.clone() };
    let news = [of_us, told].iter().flat_map(|news| framed(&news.encode())).collect();
    let header =
        foca::Header { src: peer, src_incarnation: 0, dst: own, message: foca::Message::Gossip };
    let packet = Packet { header, members, news }.encode();
    let taken = agent.receive(&Frame::Swim(&packet).encode(), at(2), Instant::now());

    assert_eq!(taken, Ok(()));
    assert_eq!(agent.members().double, Some(Member::new(&newer, MemberState::Alive)));
    assert_eq!(agent.floor, 9);
    let known: Vec<_> = agent.foca.iter_membership_state().map(|member| *member.id()).collect();
    assert_eq!(known, [peer], "foca would have declared the newer life down");
    // The member was taken out of the packet, and the news behind it stayed.
    let zones: Vec<_> =
        agent.members().profiles.into_values().map(|profile| profile.zone.clone()).collect();
    assert_eq!(zones, ["ours", "theirs"]);
}

/// An item as it stands in a packet.
fn framed(item: &[u8]) -> Vec<u8> {
    let length = u16::try_from(item.len()).unwrap();
    [&length.to_be_bytes()[..], item].concat()
}

#[test]
fn everyone_hears_what_everyone_is() {
    let world = World::joined(5);
    for port in 1..=5 {
        for node in 1..=5 {
            assert_eq!(world.zone(port, node), Some(format!("zone-{node}")), "{port} of {node}");
        }
    }
    assert_eq!(world.refusals, []);
}

#[test]
fn who_joins_after_all_was_passed_on_hears_it_all_the_same_and_soon() {
    let mut world = World::joined(3);
    world.run(20);
    assert_eq!(world.backlog(), 0, "what was said by then is said by nobody any more");

    world.start(life(4, 100, None, 4));
    world.knock(4, 1);
    world.run_until("told", 10, |world| {
        (1..=4).all(|port| world.list(port).list.len() == 4 && world.is_told_all(port))
    });
    assert_eq!(world.zone(4, 2).as_deref(), Some("zone-2"));
}

#[test]
fn a_node_that_restarts_in_another_zone_is_seen_there_by_all_and_hears_of_all_again() {
    let mut world = World::joined(3);
    world.run(20);
    // At once, under its old address: nobody has taken it for dead.
    world.agents.remove(&3);
    world.start_in(life(3, 200, None, 3), "elsewhere");
    world.knock(3, 1);
    world.run_until("told", 10, |world| {
        [1, 2].iter().all(|&port| world.zone(port, 3).as_deref() == Some("elsewhere"))
            && world.list(3).list.len() == 3
            && world.is_told_all(3)
    });
    world.run(100);
    assert_eq!(world.zone(2, 3).as_deref(), Some("elsewhere"), "nothing old comes back");
    assert_eq!(world.refusals, []);
}

#[test]
fn news_that_was_lost_is_made_good_by_the_next_announcement() {
    let mut world = World::joined(2);
    world.loses_news = true;
    world.start(life(3, 100, None, 3));
    world.knock(3, 1);
    world.run_until("joined", 10, |world| {
        (1..=3).all(|port| world.count(port, MemberState::Alive) == 3)
    });
    world.run(20);
    let heard = |world: &World| [(1, 3), (2, 3), (3, 1)].map(|(port, node)| world.zone(port, node));
    assert_eq!(heard(&world), [None, None, None]);
    assert_eq!(world.backlog(), 0);

    world.loses_news = false;
    world.run_until_all_is_told(Timing::default().reannounce.as_secs() + 1);
    assert_eq!(world.zone(3, 2).as_deref(), Some("zone-2"));
}

#[test]
fn two_processes_under_one_id_notice_it_and_do_not_fight_at_the_speed_of_the_network() {
    let mut world = World::joined(3);
    world.start(life(3, 200, None, 33));
    world.knock(33, 1);
    world.run_until("the newer is seen", 10, |world| {
        world.list(1).get(NodeId(3)).is_some_and(|member| member.gossip == at(33))
    });
    world.knock(33, 3);
    world.run(1);
    for (port, other) in [(3, 33), (33, 3)] {
        let double = world.list(port).double.unwrap();
        assert_eq!((double.node, double.gossip), (NodeId(3), at(other)));
    }
    assert!(world.refusals.contains(&(3, Refusal::Double)));

    let lives = |world: &World| [3, 33].map(|port: u16| world.agents[&port].identity().incarnation);
    let before = lives(&world);
    world.run(300);
    let [older, newer] = lives(&world);
    let renewals_max = 2 * 300 / Timing::default().join_joined.as_secs() + 2;
    let highest = before.into_iter().max().unwrap();
    assert!(older.max(newer) <= highest + renewals_max, "{before:?} to {older} and {newer}");

    // One of the two is stopped; the other is a quiet member again, whichever it is.
    world.agents.remove(&33);
    world.run_until("one remains", 120, |world| {
        world.list(1).get(NodeId(3)).is_some_and(|m| m.gossip == at(3) && m.is_active())
    });
}

#[test]
fn clusters_do_not_mix_not_even_through_a_blank_node_that_knows_both() {
    let mut world = World::new();
    world.start(life(1, 1, A, 1));
    world.start(life(2, 1, B, 2));
    world.start(life(3, 1, None, 3));
    world.knock(3, 1);
    world.knock(3, 2);
    world.run_until("the blank one sees both", 10, |world| world.count(3, MemberState::Alive) == 3);
    world.knock(1, 2);
    world.run(120);
    assert_eq!(world.state(1, 3), Some(MemberState::Alive));
    assert_eq!(world.state(1, 2), None);
    assert_eq!(world.state(2, 1), None);
    assert_eq!(world.agents[&1].board.profiles().get(&NodeId(2)), None, "nor what it is");
    // The one knock was refused, its asker told of whose cluster, and nothing followed it: 1 never
    // learnt enough to probe 2.
    let told = Refusal::OtherCluster(ClusterId(0xb));
    assert_eq!(world.refusals, [(2, Refusal::Foreign), (1, told)]);

    // It enters A: B's node vanishes from its picture at once, and it from B's in time.
    let now = world.now;
    world.agent(3).set_cluster(ClusterId(0xa), now).unwrap();
    assert_eq!(world.state(3, 2), None);
    assert!(world.agents[&3].foca.iter_members().all(|member| member.id().cluster == A));
    world.run_until("A sees the new member", 10, |world| {
        world.list(1).get(NodeId(3)).is_some_and(|m| m.cluster == A && m.incarnation == 2)
    });
    world.run_until("B has lost it", 60, |world| world.count(2, MemberState::Alive) == 1);
}

#[test]
fn a_node_enters_one_cluster_and_only_one() {
    let mut world = World::joined(2);
    let now = world.now;
    world.agent(1).set_cluster(ClusterId(7), now).unwrap();
    assert_eq!(world.agents[&1].identity().incarnation, 101);
    world.agent(1).set_cluster(ClusterId(7), now).unwrap();
    assert_eq!(world.agents[&1].identity().incarnation, 101, "again is nothing");
    let refused = world.agent(1).set_cluster(ClusterId(8), now);
    assert!(matches!(refused, Err(Error::OtherCluster { ours: ClusterId(7) })));
    world.run_until("told to the blank one, and never taken for down", 10, |world| {
        assert_eq!(world.state(2, 1), Some(MemberState::Alive));
        world.list(2).get(NodeId(1)).is_some_and(|m| m.cluster == Some(ClusterId(7)))
    });
}

#[test]
fn a_farewell_takes_a_node_down_without_a_suspicion() {
    let mut world = World::joined(3);
    let now = world.now;
    world.agent(3).leave(now);
    world.collect();
    world.agents.remove(&3);
    world.run_until("gone", 2, |world| {
        assert_eq!(world.count(1, MemberState::Suspect), 0);
        [1, 2].iter().all(|&port| world.state(port, 3) == Some(MemberState::Down))
    });
}

#[test]
fn a_node_that_knocks_at_itself_takes_no_notice() {
    let mut world = World::new();
    world.start(life(1, 5, A, 1));
    world.knock(1, 1);
    world.run(5);
    assert!(world.agent(1).is_alone());
    assert_eq!(world.list(1).list.len(), 1);
    assert_eq!(world.list(1).double, None);
    assert_eq!((world.sent, world.refusals.len()), (1, 0));
}

#[test]
fn fifty_nodes_find_each_other_in_packets_that_stay_small() {
    // `collect` checks the size of each packet.
    let mut world = World::joined(50);
    assert_eq!(world.agent(50).sized_for.get(), 64);
    assert_eq!(world.refusals, []);

    // However many came at once: one announcement a second, and the one of the start.
    let seconds = world.now.duration_since(world.began).as_secs();
    let most = world.agents.values().map(|agent| agent.number).max();
    assert!(most <= Some(seconds + 2), "{most:?} announcements in {seconds} s");
}

#[test]
fn a_newer_format_is_told_from_junk() {
    let mut agent =
        Agent::new(life(1, 5, A, 1), in_zone("ours"), Timing::default(), StdRng::seed_from_u64(1));
    let table =
        [(&[2, 1][..], Refusal::Newer), (&[0, 1], Refusal::Malformed), (&[], Refusal::Malformed)];
    for (plain, refusal) in table {
        assert_eq!(agent.receive(plain, at(9), Instant::now()), Err(refusal));
    }
}

proptest! {
    #[test]
    fn no_opened_bytes_make_an_agent_panic_or_know_anybody(
        kind in 0..5u8, junk in prop::collection::vec(any::<u8>(), 0..120),
    ) {
        let rng = StdRng::seed_from_u64(1);
        let mut agent = Agent::new(life(1, 5, A, 1), in_zone("ours"), Timing::default(), rng);
        let bytes = [vec![1, kind], junk].concat();
        let refused = agent.receive(&bytes, at(9), Instant::now());
        // Sixteen bytes of any content may be another cluster's name: no more than a remark.
        let harmless = matches!(refused, Err(Refusal::Malformed | Refusal::OtherCluster(_)));
        prop_assert!(harmless, "{refused:?}");
        prop_assert!(agent.is_alone());
    }
}
