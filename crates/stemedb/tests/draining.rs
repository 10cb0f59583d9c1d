//! What an operator does to a cluster: members are drained and removed, moves are paused, leaderships
//! go where the layout wants them; and nothing acknowledged is lost.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::damage::{noise, one_bucket_a_shard};
use common::{PATIENCE, cluster, places, ready, start, start_again, start_with, stop, until};
use stemedb::{
    AdminAnswer, AdminCall, Change, Drain, DrainState, Error, Front, MoveStep, Need, NewMember,
    Node, NodeOptions,
};
use stemedb_types::NodeId;

async fn ask(node: &Node, call: AdminCall) -> Result<AdminAnswer, Error> {
    let admission = node.admit(None, None, Need::Administer).await?;
    node.admin(admission, call).await
}

async fn drain(node: &Node, member: &str, on: bool) -> Result<AdminAnswer, Error> {
    ask(node, AdminCall::Drain { member: member.to_owned(), on }).await
}

async fn remove(node: &Node, member: &str) -> Result<AdminAnswer, Error> {
    ask(node, AdminCall::Remove { member: member.to_owned() }).await
}

async fn pause(node: &Node, on: bool) {
    ask(node, AdminCall::Pause { on }).await.expect("is done");
}

/// Waits until the drain of a member is at rest, and says how.
async fn drained(at: &Node, member: NodeId) -> Drain {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let progress = at.progress().await.expect("is told");
        let drain = progress.drains.into_iter().find(|drain| drain.node == member);
        let drain = drain.expect("is being drained");
        if drain.state != DrainState::Draining && drain.leaders == 0 {
            return drain;
        }
        assert!(std::time::Instant::now() < deadline, "in vain: {drain:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The last value acknowledged of each key.
type Acknowledged = BTreeMap<(String, String), u64>;

async fn put(node: &Node, bucket: &str, key: &str, number: u64) -> Result<(), Error> {
    let bucket = node.bucket("demo", bucket).await?;
    bucket.put(key.to_owned(), number.to_string()).await.map(drop)
}

/// Writes through a node, to all shards in turn, until it is told to stop. A write whose outcome is
/// unknown is written over before the next.
async fn write_on(node: Node, over: Arc<AtomicBool>) -> Acknowledged {
    let (buckets, mut acknowledged) = (one_bucket_a_shard(), Acknowledged::new());
    for number in 0u64.. {
        if over.load(Ordering::Relaxed) {
            break;
        }
        let bucket = &buckets[number as usize % buckets.len()];
        let key = format!("k{}", number / 7 % 50);
        while let Err(error) = put(&node, bucket, &key, number).await {
            let again = matches!(error, Error::Unavailable { .. } | Error::OutcomeUnknown);
            assert!(again, "{error}");
        }
        acknowledged.insert((bucket.clone(), key), number);
    }
    acknowledged
}

async fn check(nodes: &[Node], acknowledged: &Acknowledged) {
    for node in nodes {
        for ((bucket, key), number) in acknowledged {
            let bucket = node.bucket("demo", bucket).await.unwrap();
            let version = bucket.get(key.clone()).await.unwrap().expect("is there");
            assert_eq!(version.value, number.to_string());
        }
    }
}

/// How many shards the layout gives each of these nodes, as the first of them knows it.
fn held(nodes: &[Node]) -> Vec<usize> {
    let layout = nodes[0].status().layout;
    let count = |node: &Node| layout.shards.iter().filter(|s| s.on(node.id()).is_some()).count();
    nodes.iter().map(count).collect()
}

/// Waits until these nodes hold so many shards each, and no group is on its way.
async fn settled(nodes: &[Node], each: &[usize]) {
    until("the shards are where they should be, and at rest", || {
        let still = nodes.iter().all(|node| node.status().shards_moving == 0);
        let epoch = |node: &Node| node.status().layout.epoch;
        let agree = nodes.iter().all(|node| epoch(node) == epoch(&nodes[0]));
        still && agree && held(nodes) == each
    })
    .await;
}

/// How many shards each node leads, as a node sees it; and how many it should, by the layout.
fn leaderships(at: &Node) -> (BTreeMap<NodeId, u32>, BTreeMap<NodeId, u32>) {
    let status = at.status();
    let leads = status.members.iter().map(|member| (member.node.id, member.leaders)).collect();
    let mut should: BTreeMap<NodeId, u32> =
        status.members.iter().map(|member| (member.node.id, 0)).collect();
    for shard in &status.layout.shards {
        *should.entry(shard.replicas[0].node).or_default() += 1;
    }
    (leads, should)
}

#[tokio::test]
async fn a_drained_member_gives_everything_away_under_load_stays_and_can_be_removed() {
    let places = places(4);
    let mut nodes = cluster(&places[..3], |_| {}).await;
    nodes.push(start(&places[3], &places).await);
    ready(&nodes).await;
    settled(&nodes, &[3; 4]).await;
    let leaving = nodes[1].id();

    // While it holds something and answers it is not removed, whoever is asked.
    for at in [&nodes[0], &nodes[1]] {
        let refused = remove(at, "node-1").await;
        assert!(matches!(refused, Err(Error::Conflict(_))), "{refused:?}");
    }
    let over = Arc::new(AtomicBool::new(false));
    let writing = tokio::spawn(write_on(nodes[2].clone(), over.clone()));
    drain(&nodes[0], "node-1", true).await.expect("is decided");
    let seen = drained(&nodes[3], leaving).await;
    assert_eq!((seen.state, seen.replicas, seen.leaders), (DrainState::Drained, 0, 0), "{seen:?}");
    let others = [nodes[0].clone(), nodes[2].clone(), nodes[3].clone()];
    settled(&others, &[4; 3]).await;
    over.store(true, Ordering::Relaxed);
    let acknowledged = writing.await.unwrap();
    assert!(acknowledged.len() > 50, "{}", acknowledged.len());

    // It stays and serves what others hold; nobody should send it more.
    put(&nodes[1], &one_bucket_a_shard()[0], "after", 7).await.expect("is served");
    check(&nodes, &acknowledged).await;
    let readiness = nodes[1].readiness();
    assert!(!readiness.ready && readiness.reasons[0].starts_with("draining"), "{readiness:?}");

    let removed = remove(&nodes[3], &leaving.to_string()).await.expect("is removed");
    assert!(matches!(removed, AdminAnswer::Member { node, .. } if node == leaving));
    let again = remove(&nodes[3], "node-1").await;
    assert!(matches!(again, Ok(AdminAnswer::Member { .. })), "a retry: {again:?}");
    until("all know it", || others.iter().all(|node| node.status().members.len() == 3)).await;
    check(&others, &acknowledged).await;
    let unknown = drain(&nodes[0], "node-1", true).await;
    assert!(matches!(unknown, Err(Error::NotFound(_))), "{unknown:?}");
    stop(nodes).await;
}

#[tokio::test]
async fn a_drain_without_room_hands_its_leaderships_over_and_says_that_it_is_blocked() {
    let places = places(3);
    let nodes = cluster(&places, |_| {}).await;
    let before = held(&nodes);
    let leads = |node: &Node| leaderships(&nodes[0]).0[&node.id()];
    until("every shard is led", || nodes.iter().map(&leads).sum::<u32>() == 4).await;
    let busiest = (0..3).max_by_key(|number| leads(&nodes[*number])).unwrap();
    let name = format!("node-{busiest}");

    drain(&nodes[busiest], &name, true).await.expect("is decided");
    let seen = drained(&nodes[(busiest + 1) % 3], nodes[busiest].id()).await;
    assert_eq!((seen.state, seen.replicas), (DrainState::Blocked, 4), "{seen:?}");
    assert!(seen.reason.starts_with("no room: each shard has 3 replicas"), "{seen:?}");
    assert_eq!(held(&nodes), before, "nothing moved");
    for (number, bucket) in one_bucket_a_shard().iter().enumerate() {
        put(&nodes[busiest], bucket, "k", number as u64).await.expect("goes on");
    }

    // Somebody must be left to lead.
    let second = format!("node-{}", (busiest + 1) % 3);
    let third = format!("node-{}", (busiest + 2) % 3);
    drain(&nodes[0], &second, true).await.expect("is decided");
    let last = drain(&nodes[0], &third, true).await;
    assert!(matches!(last, Err(Error::Conflict(_))), "{last:?}");
    let leader = nodes[(busiest + 2) % 3].id();
    until("one leads everything", || leaderships(&nodes[0]).0[&leader] == 4).await;

    // Let again, it leads again, once there is no hurry.
    for name in [&name, &second] {
        drain(&nodes[0], name, false).await.expect("is decided");
    }
    ready(&nodes).await;
    assert!(nodes[0].progress().await.unwrap().drains.is_empty());
    until("leaderships are even again", || {
        let (leads, should) = leaderships(&nodes[0]);
        leads == should && leads.values().all(|count| *count > 0)
    })
    .await;
    stop(nodes).await;
}

/// Flushed soon, so that what a shard takes on disk shows.
fn flushes(options: &mut NodeOptions) {
    options.live_log_bytes_max = 1 << 20;
}

#[tokio::test]
async fn a_pause_holds_moves_back_and_what_was_planned_is_what_moves() {
    let places = places(4);
    let mut nodes = cluster(&places[..3], flushes).await;
    for bucket in one_bucket_a_shard() {
        let bucket = nodes[0].bucket("demo", &bucket).await.unwrap();
        for number in 0..64u64 {
            bucket.put(format!("pad{number}"), noise(number, 20_000)).await.unwrap();
        }
    }
    pause(&nodes[1], true).await;

    // A heavy fourth would hold a copy of everything.
    let heavy = NewMember { name: "node-3".to_owned(), zone: String::new(), weight: 100 };
    let change = Change { add: vec![heavy], ..Change::default() };
    let planned = nodes[2].preview(change).await.expect("is planned");
    assert_eq!(planned.moves.len(), 4, "{planned:?}");
    assert!(planned.blocked.iter().any(|why| why.contains("paused")), "{planned:?}");
    let weighty = |options: &mut NodeOptions| {
        flushes(options);
        options.weight = 100;
    };
    nodes.push(start_with(&places[3], &places, weighty).await);
    ready(&nodes).await;
    until("it is a member everywhere", || {
        nodes.iter().all(|node| node.status().members.len() == 4)
    })
    .await;
    // Longer than the meta leader takes between two looks.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(held(&nodes), [4, 4, 4, 0]);
    let progress = nodes[3].progress().await.expect("is told");
    assert!(progress.paused_since_ms.is_some());
    assert_eq!(progress.moves.len(), 4, "{progress:?}");
    let fourth = vec![nodes[3].id()];
    let waits = |step: MoveStep| step == MoveStep::Waiting;
    assert!(progress.moves.iter().all(|shown| waits(shown.step) && shown.add == fourth));

    // What is asked for now is what was planned before, and what it costs is known.
    let pending = nodes[0].preview(Change::default()).await.expect("is planned");
    assert_eq!(pending.moves.len(), planned.moves.len());
    let bytes = 64 * 20_000;
    let about = |size: u64| size > bytes / 2 && size < bytes * 2;
    assert!(pending.moves.iter().all(|one| about(one.bytes)), "{pending:?}");
    assert_eq!(pending.bytes_total, pending.moves.iter().map(|one| one.bytes).sum::<u64>());

    pause(&nodes[3], false).await;
    until("the heavy one holds everything", || held(&nodes)[3] == 4).await;
    assert_eq!(held(&nodes).iter().sum::<usize>(), 12);
    let shares = held(&nodes);
    settled(&nodes, &shares).await;
    let rest = nodes[1].preview(Change::default()).await.expect("is planned");
    assert!(rest.moves.is_empty() && rest.blocked.is_empty(), "{rest:?}");
    stop(nodes).await;
}

#[tokio::test]
async fn leaderships_come_to_be_where_the_layout_wants_them_and_come_back_after_a_restart() {
    let places = places(3);
    let mut nodes = cluster(&places, |_| {}).await;
    let even = |nodes: &[Node]| {
        nodes.iter().all(|node| {
            let (leads, should) = leaderships(node);
            leads == should
        })
    };
    until("every shard is led by the one preferred", || even(&nodes)).await;
    let (leads, _) = leaderships(&nodes[0]);
    assert!(leads.values().all(|count| (1..=2).contains(count)), "{leads:?}");
    // Whoever restarts gives its leaderships away, and gets them again.
    nodes.remove(0).shutdown().await;
    nodes.insert(0, start_again(&places[0], &places, |_| {}).await);
    ready(&nodes).await;
    until("every shard is led by the one preferred", || even(&nodes)).await;
    stop(nodes).await;
}
