//! Nodes join, and shards move to them under load: nothing acknowledged is lost.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::damage::{noise, one_bucket_a_shard};
use common::{PATIENCE, cluster, places, ready, start, start_again, start_with, stop, until};
use stemedb::{Error, Front, Node, NodeOptions};
use stemedb_types::{Layout, NodeId};

/// The last value acknowledged of each key.
type Acknowledged = BTreeMap<(String, String), u64>;

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
        while let Err(error) = put(&node, bucket, &key, &number.to_string()).await {
            let again = matches!(error, Error::Unavailable { .. } | Error::OutcomeUnknown);
            assert!(again, "{error}");
        }
        acknowledged.insert((bucket.clone(), key), number);
    }
    acknowledged
}

async fn put(node: &Node, bucket: &str, key: &str, value: &str) -> Result<(), Error> {
    let bucket = node.bucket("demo", bucket).await?;
    bucket.put(key.to_owned(), value.to_owned()).await.map(drop)
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

/// How many replicas of shards each node holds by the layout.
fn shares(layout: &Layout) -> BTreeMap<NodeId, usize> {
    let mut shares = BTreeMap::new();
    for replica in layout.shards.iter().flat_map(|shard| &shard.replicas) {
        *shares.entry(replica.node).or_default() += 1;
    }
    shares
}

/// Waits until each of these nodes holds so many shards, and no group is on its way.
async fn settled(nodes: &[Node], each: usize) {
    until("the shards are spread and at rest", || {
        nodes.iter().all(|node| {
            let status = node.status();
            let shares = shares(&status.layout);
            status.shards_moving == 0
                && nodes.iter().all(|node| shares.get(&node.id()) == Some(&each))
        })
    })
    .await;
}

async fn down(nodes: &mut Vec<Node>, number: usize) {
    nodes.remove(number).shutdown().await;
}

#[tokio::test]
async fn a_fourth_node_takes_its_share_under_load_and_any_two_nodes_can_then_be_restarted() {
    let places = places(4);
    let mut nodes = cluster(&places[..3], |_| {}).await;
    let over = Arc::new(AtomicBool::new(false));
    let writing = tokio::spawn(write_on(nodes[1].clone(), over.clone()));
    let before = nodes[0].status().layout;
    nodes.push(start(&places[3], &places).await);
    ready(&nodes).await;

    // Twelve replicas: three each, with three moves and no more.
    settled(&nodes, 3).await;
    let after = nodes[0].status().layout;
    let moved = before.shards.iter().zip(&after.shards).flat_map(|(was, is)| {
        is.replicas.iter().filter(|replica| !was.replicas.contains(replica)).collect::<Vec<_>>()
    });
    let moved: Vec<NodeId> = moved.map(|replica| replica.node).collect();
    assert_eq!(moved, [nodes[3].id(); 3]);
    over.store(true, Ordering::Relaxed);
    let acknowledged = writing.await.unwrap();
    assert!(acknowledged.len() > 50, "{}", acknowledged.len());
    check(&nodes, &acknowledged).await;

    // Each node in turn: what it holds it finds again, and what has left does not come back.
    for number in 0..4 {
        down(&mut nodes, number).await;
        nodes.insert(number, start_again(&places[number], &places, |_| {}).await);
        nodes[number].wait_ready(PATIENCE).await.expect("gets ready");
    }
    settled(&nodes, 3).await;
    check(&nodes, &acknowledged).await;
    stop(nodes).await;
}

/// A node that founds a cluster alone.
fn alone(options: &mut NodeOptions) {
    options.expect = 1;
}

#[tokio::test]
async fn one_node_grows_to_three_with_all_it_has_and_the_first_can_go() {
    let places = places(3);
    let first = start_with(&places[0], &places[..1], alone).await;
    first.wait_ready(PATIENCE).await.expect("gets ready");
    let buckets = one_bucket_a_shard();
    for bucket in &buckets {
        for number in 0..200u32 {
            put(&first, bucket, &format!("k{number}"), &"v".repeat(1000)).await.unwrap();
        }
    }
    let mut nodes = vec![first];
    for place in &places[1..] {
        nodes.push(start_with(place, &places, |options| options.expect = 3).await);
    }
    ready(&nodes).await;
    settled(&nodes, 4).await;

    // Whatever the first one held, the others have.
    down(&mut nodes, 0).await;
    for bucket in &buckets {
        let bucket = nodes[0].bucket("demo", bucket).await.unwrap();
        assert_eq!(bucket.scan(b"k").await.unwrap().len(), 200);
        bucket.put("after", "v").await.unwrap();
    }
    stop(nodes).await;
}

/// Fills a bucket of each shard with a MiB or so that does not compress, and some keys to check.
async fn fill(node: &Node) -> Acknowledged {
    let mut acknowledged = Acknowledged::new();
    for bucket in one_bucket_a_shard() {
        for number in 0..64u64 {
            let held = node.bucket("demo", &bucket).await.unwrap();
            held.put(format!("pad{number}"), noise(number, 20_000)).await.unwrap();
            put(node, &bucket, &format!("n{number}"), &number.to_string()).await.unwrap();
            acknowledged.insert((bucket.clone(), format!("n{number}")), number);
        }
    }
    acknowledged
}

/// The log is soon cut, so that a new replica needs a snapshot; and a snapshot takes its time.
fn slow(options: &mut NodeOptions) {
    options.groups.snapshot_entries = 40;
    options.groups.kept_entries = 5;
    options.groups.snapshot_bytes_per_second = 500_000;
    options.groups.snapshot_file_bytes = 100_000;
}

#[tokio::test]
async fn a_move_goes_on_whoever_restarts_in_the_middle_of_it() {
    let places = places(4);
    let mut nodes = cluster(&places[..3], slow).await;
    let acknowledged = fill(&nodes[0]).await;
    nodes.push(start_with(&places[3], &places, slow).await);
    ready(&nodes).await;
    let begun = |nodes: &[Node]| nodes.iter().any(|node| node.status().shards_moving > 0);
    until("a move begins", || begun(&nodes)).await;
    for number in [3, 0, 1, 2] {
        down(&mut nodes, number).await;
        nodes.insert(number, start_again(&places[number], &places, slow).await);
        nodes[number].wait_ready(PATIENCE).await.expect("gets ready");
    }
    settled(&nodes, 3).await;
    check(&nodes, &acknowledged).await;
    stop(nodes).await;
}

#[tokio::test]
async fn a_node_that_dies_while_shards_move_to_it_is_done_without_and_the_next_one_gets_them() {
    let impatient = |options: &mut NodeOptions| {
        slow(options);
        options.replace_after = Duration::from_secs(2);
    };
    let places = places(5);
    let mut nodes = cluster(&places[..3], impatient).await;
    let acknowledged = fill(&nodes[0]).await;
    nodes.push(start_with(&places[3], &places, impatient).await);
    let named =
        |nodes: &[Node], node: NodeId| shares(&nodes[0].status().layout).contains_key(&node);
    let dying = nodes[3].id();
    until("a shard is to move", || named(&nodes, dying)).await;
    down(&mut nodes, 3).await;
    // Removed, and every shard is where it was.
    settled(&nodes, 4).await;
    assert!(nodes[0].status().members.iter().all(|member| member.node.id != dying));
    nodes.push(start_with(&places[4], &places, impatient).await);
    ready(&nodes).await;
    settled(&nodes, 3).await;
    check(&nodes, &acknowledged).await;
    stop(nodes).await;
}

#[tokio::test]
async fn a_node_that_lost_its_disk_comes_back_as_a_new_one_and_gets_everything_again() {
    let places = places(3);
    let mut nodes = cluster(&places, |_| {}).await;
    let acknowledged = fill(&nodes[0]).await;
    let before = nodes[2].id();
    down(&mut nodes, 2).await;
    let dir = places[2].dir.path();
    for volume in ["wal", "db"] {
        std::fs::remove_dir_all(dir.join(volume)).unwrap();
    }
    nodes.push(start_again(&places[2], &places, |_| {}).await);
    let after = nodes[2].id();
    assert_ne!(after, before);
    ready(&nodes).await;
    settled(&nodes, 4).await;
    let status = nodes[0].status();
    let mut members: Vec<NodeId> = status.members.iter().map(|member| member.node.id).collect();
    let mut there: Vec<NodeId> = nodes.iter().map(Node::id).collect();
    members.sort_unstable();
    there.sort_unstable();
    assert_eq!(members, there, "the old id is no member any more");

    // It counts: with another one gone, it is half of the majority, and has all there was.
    down(&mut nodes, 0).await;
    check(&nodes, &acknowledged).await;
    put(&nodes[1], "b", "after", "v").await.unwrap();
    stop(nodes).await;
}

#[tokio::test]
async fn while_a_node_answers_nobody_takes_its_name() {
    let places = places(4);
    let nodes = cluster(&places[..3], |_| {}).await;
    let members = nodes[0].status().members;
    let double =
        start_with(&places[3], &places, |options| options.name = "node-1".to_owned()).await;
    // Longer than a silent one would be waited for.
    let refused = double.wait_ready(Duration::from_secs(13)).await.expect_err("is not let in");
    assert!(refused.reasons.iter().any(|why| why.contains("name-in-use")), "{refused:?}");
    assert_eq!(nodes[0].status().members.len(), members.len());
    double.shutdown().await;
    stop(nodes).await;
}

#[tokio::test]
async fn a_node_away_for_too_long_is_replaced_if_there_is_a_spare_one() {
    let impatient = |options: &mut NodeOptions| options.replace_after = Duration::from_secs(2);
    let places = places(4);
    let mut nodes = cluster(&places[..3], impatient).await;
    let acknowledged = fill(&nodes[0]).await;
    nodes.push(start_with(&places[3], &places, impatient).await);
    ready(&nodes).await;
    settled(&nodes, 3).await;
    let gone = nodes[1].id();
    down(&mut nodes, 1).await;
    settled(&nodes, 4).await;
    assert!(nodes[0].status().members.iter().all(|member| member.node.id != gone));
    check(&nodes, &acknowledged).await;

    // Of three, one more away: there is no spare, and nothing moves.
    let layout = nodes[0].status().layout;
    down(&mut nodes, 2).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(nodes[0].status().layout, layout);
    check(&nodes, &acknowledged).await;
    stop(nodes).await;
}
