//! Reads at nodes that do not lead, in clusters of one process, over real sockets and disks.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::time::{Duration, Instant};

use common::{PATIENCE, cluster, places, ready, start, stop};
use stemedb::shard::{Answer, Condition, KeyRange, Read, ReadAnswer, Write};
use stemedb::{
    Admission, Call, Consistency, Door, Error, Front, Need, Node, Op, OpAnswer, Served, Unavailable,
};
use stemedb_raft::wal::planted::{Bug, plant};
use stemedb_types::{Key, Revision};

/// Writes, each read back at both nodes that do not lead.
const ROUNDS: u32 = 1_000;
/// Rounds until a planted mistake must have shown.
const HUNT_ROUNDS: u32 = 3_000;

/// One caller of one bucket at one node's own port.
struct At<'n> {
    node: &'n Node,
    admission: Admission,
}

impl<'n> At<'n> {
    async fn node(node: &'n Node) -> Self {
        let project = Some("demo".parse().unwrap());
        let admission = node.admit(None, project, Need::Write).await.unwrap();
        Self { node, admission }
    }

    async fn all(nodes: &'n [Node]) -> Vec<Self> {
        let mut all = Vec::new();
        for node in nodes {
            all.push(Self::node(node).await);
        }
        all
    }

    async fn call(&self, door: Door, op: Op, consistency: Consistency) -> Result<OpAnswer, Error> {
        self.call_of("b", door, op, consistency).await
    }

    async fn call_of(
        &self,
        bucket: &str,
        door: Door,
        op: Op,
        consistency: Consistency,
    ) -> Result<OpAnswer, Error> {
        let call = Call {
            admission: self.admission.clone(),
            door,
            deadline: Duration::from_secs(10),
            bucket: bucket.parse().unwrap(),
            op,
            consistency,
            once: None,
        };
        Front::call(self.node, call).await.map(|answered| answered.answer)
    }

    /// Puts a number, and gives back its revision.
    async fn put(&self, door: Door, number: u32) -> Result<Revision, Error> {
        let value = number.to_string().into();
        let (key, condition) = (Key::new("k").unwrap(), Condition::Always);
        let write = Write::Put { key, value, condition, expires_at_ms: None };
        match self.call(door, Op::Write(write), Consistency::Linearizable).await? {
            OpAnswer::Write(Answer::Put { revision, .. }) => Ok(revision),
            other => panic!("{other:?}"),
        }
    }

    /// Reads the number, its revision, and how it was served if not linearizably.
    async fn get(
        &self,
        consistency: Consistency,
    ) -> Result<(u32, Revision, Option<Served>), Error> {
        let (answer, served) = match self.call(Door::Own, get(), consistency).await? {
            OpAnswer::Read(answer) => (answer, None),
            OpAnswer::Weaker(answer, served) => (answer, Some(served)),
            other => panic!("{other:?}"),
        };
        let ReadAnswer::Value { revision, version } = answer else { panic!("{answer:?}") };
        let value = version.map(|v| String::from_utf8(v.value.to_vec()).unwrap());
        Ok((value.map_or(0, |value| value.parse().unwrap()), revision, served))
    }

    /// Reads linearizably, waiting for a leader as long as it takes.
    async fn newest(&self) -> u32 {
        let patience = Instant::now() + PATIENCE;
        loop {
            match self.get(Consistency::Linearizable).await {
                Err(Error::Unavailable { .. }) if Instant::now() < patience => {}
                answer => {
                    let (number, _, served) = answer.unwrap();
                    assert_eq!(served, None);
                    return number;
                }
            }
        }
    }
}

fn get() -> Op {
    Op::Read(Read::Get { key: Key::new("k").unwrap(), as_of: None })
}

fn no_quorum<T>(result: &Result<T, Error>) -> bool {
    matches!(result, Err(Error::Unavailable { reason: Unavailable::NoQuorum, .. }))
}

/// The one that takes writes at its own port, and the two that do not.
async fn leader_first(all: &mut [At<'_>]) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        for number in 0..all.len() {
            if all[number].put(Door::Own, 0).await.is_ok() {
                all.swap(0, number);
                return;
            }
        }
        assert!(Instant::now() < deadline, "nobody leads");
    }
}

#[tokio::test]
async fn whoever_is_asked_next_has_what_the_leader_acknowledged() {
    let places = places(3);
    let nodes = cluster(&places, |_| {}).await;
    let mut all = At::all(&nodes).await;
    leader_first(&mut all).await;
    for number in 1..=ROUNDS {
        all[0].put(Door::Own, number).await.unwrap();
        // At their own ports: nothing is sent on, and nothing is a 421.
        let (one, other) = tokio::join!(all[1].newest(), all[2].newest());
        assert_eq!((one, other), (number, number));
    }
    drop(all);
    stop(nodes).await;
}

#[tokio::test]
async fn a_follower_that_reads_without_waiting_is_caught() {
    let places = places(3);
    let nodes = cluster(&places, |_| {}).await;
    let mut all = At::all(&nodes).await;
    leader_first(&mut all).await;
    plant(Some(Bug::ReadUnapplied));
    let mut caught = None;
    for number in 1..=HUNT_ROUNDS {
        all[0].put(Door::Own, number).await.unwrap();
        let (one, other) = tokio::join!(all[1].newest(), all[2].newest());
        if (one, other) != (number, number) {
            caught = Some(number);
            break;
        }
    }
    plant(None);
    println!("caught in round {}", caught.expect("it is never caught"));
    drop(all);
    stop(nodes).await;
}

#[tokio::test]
async fn many_readers_at_once_ask_their_leader_together() {
    let places = places(3);
    let nodes = cluster(&places, |_| {}).await;
    let mut all = At::all(&nodes).await;
    leader_first(&mut all).await;
    for number in 1..=20 {
        all[0].put(Door::Own, number).await.unwrap();
        let readers = (0..200).map(|reader| all[1 + reader % 2].newest());
        let read = futures_util::future::join_all(readers).await;
        assert!(read.iter().all(|seen| *seen == number), "{read:?}");
    }
    drop(all);
    stop(nodes).await;
}

#[tokio::test]
async fn a_node_that_hears_nobody_reads_nothing_linearizably_and_what_it_has_for_five_seconds() {
    let places = places(3);
    let mut nodes = cluster(&places, |_| {}).await;
    let revision = {
        let mut all = At::all(&nodes).await;
        leader_first(&mut all).await;
        let revision = all[0].put(Door::Own, 7).await.unwrap();
        // All of them have it, and know that they do.
        for at in &all {
            assert_eq!(at.newest().await, 7);
        }
        revision
    };
    let last = nodes.remove(0);
    drop(nodes);
    let alone = Instant::now();
    let at = At::node(&last).await;

    // What it has, and how old that is at least: nobody has told it anything since.
    let read = at.get(Consistency::Stale).await.unwrap();
    let silent_ms = alone.elapsed().as_millis();
    let (7, _, Some(Served::Stale { age_ms })) = read else { panic!("{read:?}") };
    assert!(u128::from(age_ms) >= silent_ms.saturating_sub(1), "{age_ms} of {silent_ms}");
    // What it has seen may be shown to one who has seen no more.
    let seen = Consistency::Session { seen: revision };
    assert_eq!(at.get(seen).await, Ok((7, revision, Some(Served::Session))));
    let beyond = Consistency::Session { seen: Revision(revision.0 + 1) };
    assert!(no_quorum(&at.get(beyond).await));
    assert!(no_quorum(&at.get(Consistency::Linearizable).await));

    // Then it says nothing more.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let before_ms = alone.elapsed().as_millis();
        match at.get(Consistency::Stale).await {
            Ok((7, _, Some(Served::Stale { age_ms }))) => {
                assert!(u128::from(age_ms) >= before_ms.saturating_sub(1));
            }
            read if no_quorum(&read) => break,
            other => panic!("{other:?}"),
        }
        assert!(Instant::now() < deadline, "stale reads go on for ever");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(at);
    last.shutdown().await;
}

#[tokio::test]
async fn a_session_sees_what_it_wrote_and_never_goes_back_wherever_it_asks() {
    let places = places(3);
    let nodes = cluster(&places, |_| {}).await;
    let mut all = At::all(&nodes).await;
    leader_first(&mut all).await;
    let (mut seen, mut served_here) = (Revision(0), 0);
    for number in 1..=600 {
        // It writes through any door now and then, others write in between.
        let wrote = number % 3 == 0;
        let through = if wrote { number as usize % 3 } else { 0 };
        let revision = all[through].put(Door::Gateway, number).await.unwrap();
        if wrote {
            seen = seen.max(revision);
        }
        let at = &all[1 + number as usize % 2];
        let (value, revision, served) = at.get(Consistency::Session { seen }).await.unwrap();
        assert!(revision >= seen, "went back from {seen} to {revision}");
        if wrote {
            assert_eq!(value, number);
        }
        seen = seen.max(revision);
        served_here += u32::from(served == Some(Served::Session));
    }
    assert!(served_here > 0, "no follower ever served it by itself");
    drop(all);
    stop(nodes).await;
}

#[tokio::test]
async fn a_page_of_a_scan_that_a_replica_does_not_have_yet_is_not_gone() {
    let places = places(3);
    let nodes = cluster(&places, |_| {}).await;
    let mut all = At::all(&nodes).await;
    leader_first(&mut all).await;
    let revision = all[0].put(Door::Own, 1).await.unwrap();
    for at in &all {
        // The past, at a revision that was acknowledged this moment.
        let past = Read::Scan {
            range: KeyRange::prefix(b""),
            reverse: false,
            keys_only: false,
            limit: 10,
            as_of: Some(revision),
            cursor: None,
        };
        match at.call(Door::Own, Op::Read(past), Consistency::Stale).await.unwrap() {
            OpAnswer::Read(ReadAnswer::Page { rows, .. })
            | OpAnswer::Weaker(ReadAnswer::Page { rows, .. }, _) => assert_eq!(rows.len(), 1),
            other => panic!("{other:?}"),
        }
    }
    drop(all);
    stop(nodes).await;
}

#[tokio::test]
async fn a_node_without_a_replica_sends_on_from_its_gateway_and_names_the_owner_at_its_own_port() {
    let places = places(4);
    let mut nodes = cluster(&places[..3], |_| {}).await;
    let fourth = start(&places[3], &places).await;
    fourth.wait_ready(PATIENCE).await.expect("gets ready");
    nodes.push(fourth);
    let settled = |nodes: &[Node]| {
        let status = nodes[3].status();
        let held = |shard: &stemedb_types::ShardLayout| {
            shard.replicas.iter().any(|replica| replica.node == nodes[3].id())
        };
        nodes.iter().all(|node| node.status().shards_moving == 0)
            && status.layout.shards.iter().any(held)
            && !status.layout.shards.iter().all(held)
    };
    common::until("the fourth holds some shards and not all", || settled(&nodes)).await;
    ready(&nodes).await;

    let at = At::node(&nodes[3]).await;
    let (mut sent_on, mut named) = (0, 0);
    for number in 0..16 {
        let bucket = format!("bucket-{number}");
        let write = Write::Put {
            key: Key::new("k").unwrap(),
            value: "1".into(),
            condition: Condition::Always,
            expires_at_ms: None,
        };
        let put = Op::Write(write);
        at.call_of(&bucket, Door::Gateway, put, Consistency::Linearizable).await.unwrap();
        for consistency in [Consistency::Stale, Consistency::Session { seen: Revision(1) }] {
            let read = at.call_of(&bucket, Door::Gateway, get(), consistency).await.unwrap();
            let (OpAnswer::Read(answer) | OpAnswer::Weaker(answer, _)) = read else {
                panic!("{read:?}")
            };
            assert!(matches!(answer, ReadAnswer::Value { .. }));
            sent_on += 1;
            match at.call_of(&bucket, Door::Own, get(), consistency).await {
                Ok(_) => {}
                Err(Error::NotOwner { owner }) => {
                    assert!(owner.is_some_and(|owner| owner.ends_with("-http")));
                    named += 1;
                }
                Err(other) => panic!("{other}"),
            }
        }
    }
    assert!(sent_on == 32 && (1..32).contains(&named), "{sent_on} {named}");
    drop(at);
    stop(nodes).await;
}

#[tokio::test]
async fn leaders_that_read_by_their_lease_hand_over_die_and_show_every_write() {
    let places = places(3);
    let lease = |options: &mut stemedb::NodeOptions| options.groups.lease_reads = true;
    let mut nodes = cluster(&places, lease).await;
    for round in 0..3 {
        let mut all = At::all(&nodes).await;
        leader_first(&mut all).await;
        for number in 1..=200 {
            let number = round * 1_000 + number;
            all[0].put(Door::Own, number).await.unwrap();
            assert_eq!(all[0].newest().await, number);
            assert_eq!(all[1].newest().await, number);
        }
        let led = nodes.iter().position(|node| node.id() == all[0].node.id()).unwrap();
        drop(all);
        // It goes, with a goodbye or without, and comes back: it has forgotten what it promised.
        let leader = nodes.remove(led);
        if round % 2 == 0 {
            leader.shutdown().await;
        }
        drop(leader);
        for node in &nodes {
            assert_eq!(At::node(node).await.newest().await, round * 1_000 + 200);
        }
        nodes.insert(led, common::start_again(&places[led], &places, lease).await);
        ready(&nodes).await;
    }
    // Alone, the last one has a lease for a moment, and then nothing.
    let last = nodes.remove(0);
    drop(nodes);
    let at = At::node(&last).await;
    let deadline = Instant::now() + PATIENCE;
    while !no_quorum(&at.get(Consistency::Linearizable).await) {
        assert!(Instant::now() < deadline, "it reads for ever");
    }
    drop(at);
    last.shutdown().await;
}
