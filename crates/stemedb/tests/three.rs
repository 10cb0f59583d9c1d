//! Three nodes in one process, over real sockets and disks.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{PATIENCE, cluster, places, ready, start, start_again, stop, until};
use stemedb::{Error, Front};

/// Puts of one value that a test tries, each bounded by its own deadline.
const TRIES_MAX: u32 = 5;

#[tokio::test]
async fn three_blank_nodes_found_one_cluster_and_any_of_them_serves_any_bucket() {
    let places = places(3);
    let mut nodes = Vec::new();
    for place in &places {
        nodes.push(start(place, &places).await);
    }
    ready(&nodes).await;

    // One cluster, one layout, four shards on three nodes each.
    let status: Vec<_> = nodes.iter().map(|node| node.status()).collect();
    assert!(status.iter().all(|s| s.cluster.is_some() && s.cluster == status[0].cluster));
    assert!(status.iter().all(|s| s.layout == status[0].layout));
    assert_eq!(status[0].layout.shards.len(), 4);
    assert!(status[0].layout.shards.iter().all(|shard| shard.replicas.len() == 3));
    assert_eq!(status[0].members.len(), 3);

    // Each hears by gossip what the others run.
    until("the versions of all are known to all", || {
        let mut members = nodes.iter().flat_map(|node| node.status().members);
        members.all(|member| member.version.as_deref() == Some(env!("CARGO_PKG_VERSION")))
    })
    .await;

    // Every node takes a write for every bucket and reads what the others wrote.
    for (number, node) in nodes.iter().enumerate() {
        for bucket in 0..8 {
            let bucket = node.bucket("demo", &format!("bucket-{bucket}")).await.unwrap();
            bucket.put(format!("from-{number}"), "x").await.unwrap();
        }
    }
    for node in &nodes {
        for bucket in 0..8 {
            let bucket = node.bucket("demo", &format!("bucket-{bucket}")).await.unwrap();
            let keys: Vec<_> = bucket.scan(b"from-").await.unwrap();
            assert_eq!(keys.len(), 3);
            assert_eq!(keys[2].version.head.mod_revision.0, 3);
        }
    }

    // All stop, all come back with what they had, without being told anything again.
    for node in &nodes {
        node.shutdown().await;
    }
    drop(nodes);
    let mut nodes = Vec::new();
    for place in &places {
        nodes.push(start(place, &places).await);
    }
    ready(&nodes).await;
    for node in &nodes {
        assert_eq!(node.status().cluster, status[0].cluster);
        let bucket = node.bucket("demo", "bucket-3").await.unwrap();
        assert_eq!(bucket.scan(b"").await.unwrap().len(), 3);
    }
    for node in &nodes {
        node.shutdown().await;
    }
}

#[tokio::test]
async fn a_fourth_node_joins_and_serves_every_bucket_at_once() {
    let places = places(4);
    let mut nodes = Vec::new();
    for place in &places[..3] {
        nodes.push(start(place, &places[..3]).await);
    }
    ready(&nodes).await;
    let bucket = nodes[0].bucket("demo", "b").await.unwrap();
    bucket.put("k", "v").await.unwrap();

    let fourth = start(&places[3], &places).await;
    fourth.wait_ready(PATIENCE).await.expect("gets ready");
    assert_eq!(fourth.status().cluster, nodes[0].status().cluster);
    let bucket = fourth.bucket("demo", "b").await.unwrap();
    assert_eq!(bucket.get("k").await.unwrap().expect("is there").value, "v");
    assert_eq!(bucket.put("k", "w").await.unwrap().0, 2);
    nodes.push(fourth);
    for node in &nodes {
        node.shutdown().await;
    }
}

#[tokio::test]
async fn one_of_three_goes_and_comes_back_and_no_write_waits_for_it() {
    let places = places(3);
    let mut nodes = Vec::new();
    for place in &places {
        nodes.push(start(place, &places).await);
    }
    ready(&nodes).await;
    let gone = nodes.remove(2);
    gone.shutdown().await;
    drop(gone);
    for number in 0..50u32 {
        let node = &nodes[number as usize % 2];
        let bucket = node.bucket("demo", &format!("b{}", number % 4)).await.unwrap();
        bucket.put(format!("k{number}"), "v").await.unwrap();
    }
    let back = start(&places[2], &places).await;
    back.wait_ready(PATIENCE).await.expect("gets ready");
    let mut found = 0;
    for bucket in 0..4 {
        let bucket = back.bucket("demo", &format!("b{bucket}")).await.unwrap();
        found += bucket.scan(b"k").await.unwrap().len();
    }
    assert_eq!(found, 50);
    nodes.push(back);
    for node in &nodes {
        node.shutdown().await;
    }
}

#[tokio::test]
async fn sixteen_shards_serve_from_three_nodes_and_come_back() {
    let places = places(3);
    let nodes = cluster(&places, |options| options.shards = 16).await;
    let status = nodes[1].status();
    assert_eq!(status.layout.shards.len(), 16);
    assert_eq!(status.shards_under_replicated, 0);

    // 48 buckets hit every shard or nearly; each has a key of each node.
    for (number, node) in nodes.iter().enumerate() {
        for bucket in 0..48 {
            let bucket = node.bucket("demo", &format!("b{bucket}")).await.unwrap();
            bucket.put(format!("k{number}"), "v").await.unwrap();
        }
    }
    stop(nodes).await;
    let nodes = cluster(&places, |options| options.shards = 16).await;
    for bucket in 0..48 {
        let bucket = nodes[bucket % 3].bucket("demo", &format!("b{bucket}")).await.unwrap();
        assert_eq!(bucket.scan(b"k").await.unwrap().len(), 3);
    }
    stop(nodes).await;
}

#[tokio::test]
async fn a_node_that_is_dropped_leaves_its_groups_and_its_place() {
    let places = places(3);
    let mut nodes = cluster(&places, |_| {}).await;
    for node in &nodes {
        node.bucket("demo", "b").await.unwrap().put("k", "1").await.unwrap();
    }

    // Whoever leads, each is dropped in turn, without a goodbye. A life that went on behind it
    // would keep the leaderships without anybody answering for them.
    for number in 0..3 {
        drop(nodes.remove(number));
        let next = nodes[0].bucket("demo", "b").await.unwrap();
        // What was on its way to the one that went may be there or not: as often as that is said
        // until another leads, it is put again.
        let mut done = next.put("k", "2").await;
        for _ in 0..TRIES_MAX {
            if !matches!(done, Err(Error::OutcomeUnknown)) {
                break;
            }
            done = next.put("k", "2").await;
        }
        done.expect("the other two serve");
        nodes.insert(number, start_again(&places[number], &places, |_| {}).await);
        ready(&nodes).await;
    }
    stop(nodes).await;
}
