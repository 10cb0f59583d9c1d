//! Damaged replicas come back from their peers, and nobody types a command.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::damage::{copy, files, flip, noise, one_bucket_a_shard, put_back};
use common::{PATIENCE, cluster, places, ready, start_again, stop, until};
use stemedb::{Front, Node, NodeOptions};
use stemedb_types::ReplicaId;

fn small(options: &mut NodeOptions) {
    options.segment_bytes = 256 << 10;
}

fn scrubbing(options: &mut NodeOptions) {
    small(options);
    options.scrub_period = Duration::from_millis(200);
}

/// Values of each shard, large enough that each has a block of its own; their seeds, by bucket.
async fn fill(node: &Node, count: u64) {
    for (shard, bucket) in (0..).zip(one_bucket_a_shard()) {
        let bucket = node.bucket("demo", &bucket).await.unwrap();
        for number in 0..count {
            bucket.put(format!("n{number:03}"), value(shard, number)).await.unwrap();
        }
    }
}

fn value(shard: u64, number: u64) -> Vec<u8> {
    noise(1000 * shard + number, 20_000)
}

async fn reads_back(node: &Node, count: u64) {
    for (shard, bucket) in (0..).zip(one_bucket_a_shard()) {
        let bucket = node.bucket("demo", &bucket).await.unwrap();
        for number in 0..count {
            let read = bucket.get(format!("n{number:03}")).await.unwrap().expect("is there");
            assert!(read.value == value(shard, number), "n{number:03} of shard {shard}");
        }
    }
}

/// The replicas that a node holds by the layout, by shard.
fn replicas(node: &Node) -> BTreeMap<usize, ReplicaId> {
    let layout = node.status().layout;
    let own = layout.shards.iter().map(|shard| shard.on(node.id())).enumerate();
    own.filter_map(|(shard, own)| Some((shard, own?.id))).collect()
}

/// Waits until a node has new replicas of exactly these shards, nothing set aside, and all is at rest.
async fn healed(
    nodes: &[Node],
    number: usize,
    before: &BTreeMap<usize, ReplicaId>,
    shards: &[usize],
) {
    until("the damaged replicas are new ones", || {
        let now = replicas(&nodes[number]);
        let changed: Vec<usize> =
            before.keys().copied().filter(|shard| before.get(shard) != now.get(shard)).collect();
        let rest = nodes.iter().map(Node::status).all(|status| {
            status.shards_moving == 0
                && status.quarantined.is_empty()
                && status.shards_under_replicated == 0
                && status.shards_leaderless == 0
        });
        changed == shards && rest
    })
    .await;
    assert_eq!(nodes[number].readiness().reasons, Vec::<String>::new());
}

/// Lets the third node serve all it holds: the first goes, the second gives its leaderships away.
async fn serves_from_the_third(mut nodes: Vec<Node>, count: u64) {
    nodes.remove(0).shutdown().await;
    nodes[0].drain().await;
    let third = nodes[1].id();
    until("the third leads everything", || {
        let members = nodes[1].status().members;
        members.iter().any(|member| member.node.id == third && member.leaders == 4)
    })
    .await;
    reads_back(&nodes[1], count).await;
    for bucket in one_bucket_a_shard() {
        nodes[1].bucket("demo", &bucket).await.unwrap().put("after", "v").await.unwrap();
    }
    stop(nodes).await;
}

#[tokio::test]
async fn a_shard_damaged_in_the_store_and_one_in_the_log_come_back_while_the_node_runs() {
    let places = places(3);
    let mut nodes = cluster(&places, small).await;
    fill(&nodes[0], 30).await;
    // A node that goes down flushes what it has.
    nodes.remove(2).shutdown().await;
    nodes.push(start_again(&places[2], &places, scrubbing).await);
    ready(&nodes).await;
    let (dir, before) = (places[2].dir.path(), replicas(&nodes[2]));
    flip(&dir.join("db"), ".sst", &value(0, 20));
    healed(&nodes, 2, &before, &[0]).await;

    // In a segment of the log that is written to its end.
    let bucket = nodes[0].bucket("demo", &one_bucket_a_shard()[3]).await.unwrap();
    for number in 100..140 {
        bucket.put("k", value(3, number)).await.unwrap();
    }
    let newest = value(3, 139);
    until("the third node has it all", || {
        files(&dir.join("wal"), ".wal").iter().any(|path| {
            let bytes = std::fs::read(path).unwrap_or_default();
            bytes.windows(32).any(|window| window == &newest[..32])
        })
    })
    .await;
    flip(&dir.join("wal"), ".wal", &value(3, 105));
    healed(&nodes, 2, &before, &[0, 3]).await;
    serves_from_the_third(nodes, 30).await;
}

#[tokio::test]
async fn a_log_damaged_while_its_node_was_down_comes_back_and_stays_so_over_restarts() {
    let places = places(3);
    let mut nodes = cluster(&places, small).await;
    fill(&nodes[0], 30).await;
    ready(&nodes).await;
    let before = replicas(&nodes[2]);
    // As a crash leaves it: everything in the log, nothing in the store.
    let dir = places[2].dir.path();
    let crashed = tempfile::tempdir().unwrap();
    copy(dir, crashed.path());
    nodes.remove(2).shutdown().await;
    put_back(crashed.path(), dir);
    flip(&dir.join("wal"), ".wal", &value(2, 10));
    nodes.push(start_again(&places[2], &places, small).await);
    healed(&nodes, 2, &before, &[2]).await;
    let healed_to = replicas(&nodes[2]);

    nodes.remove(2).shutdown().await;
    nodes.push(start_again(&places[2], &places, small).await);
    nodes[2].wait_ready(PATIENCE).await.expect("gets ready");
    assert_eq!(replicas(&nodes[2]), healed_to);
    serves_from_the_third(nodes, 30).await;
}
