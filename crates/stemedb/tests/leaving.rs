//! Nodes that are asked to end, one after the other: their leaderships go to those that stay.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::path::Path;
use std::time::Duration;

use common::damage::one_bucket_a_shard;
use common::{PATIENCE, Place, cluster, places, ready, start_again, start_with, stop, until};
use stemedb::{Fatal, Front, Node, NodeOptions};
use stemedb_types::NodeId;

/// How many of the four shards a node leads, as each of the others knows.
fn leads(nodes: &[Node], node: usize) -> Vec<u32> {
    let id = nodes[node].id();
    let count = |of: &Node| {
        let members = of.status().members;
        members.iter().find(|member| member.node.id == id).map_or(0, |member| member.leaders)
    };
    nodes.iter().map(count).collect()
}

#[tokio::test]
async fn a_node_that_drains_leads_nothing_takes_nothing_back_and_serves_on() {
    let places = places(3);
    let nodes = cluster(&places, |_| {}).await;
    let buckets = one_bucket_a_shard();
    for bucket in &buckets {
        nodes[0].bucket("demo", bucket).await.unwrap().put("k", "before").await.unwrap();
    }
    nodes[0].drain().await;
    let readiness = nodes[0].readiness();
    assert_eq!((readiness.ready, readiness.reasons), (false, vec!["draining".to_owned()]));
    until("it leads nothing", || leads(&nodes, 0) == [0; 3]).await;

    // The next one hands nothing to the first: the third leads all there is.
    nodes[1].drain().await;
    until("the third leads everything", || leads(&nodes, 2) == [4; 3]).await;
    for bucket in &buckets {
        for node in &nodes {
            let bucket = node.bucket("demo", bucket).await.unwrap();
            bucket.put("k", "while draining").await.unwrap();
            let read = bucket.get("k").await.unwrap().expect("is there");
            assert_eq!(read.value, "while draining");
        }
    }
    assert_eq!(leads(&nodes, 2), [4; 3]);

    // The last one finds nobody to hand over to, and leads on.
    nodes[2].drain().await;
    for bucket in &buckets {
        let bucket = nodes[2].bucket("demo", bucket).await.unwrap();
        bucket.put("k", "all draining").await.unwrap();
    }
    assert_eq!(leads(&nodes, 2), [4; 3]);
    stop(nodes).await;
}

/// Writes a key into every shard through a node, and reads it back through each.
async fn all_serve(nodes: &[Node], value: &str) {
    for bucket in one_bucket_a_shard() {
        let through = nodes[0].bucket("demo", &bucket).await.unwrap();
        through.put("k", value.to_owned()).await.unwrap();
        for node in nodes {
            let read = node.bucket("demo", &bucket).await.unwrap().get("k").await.unwrap();
            assert_eq!(read.expect("is there").value, value);
        }
    }
}

/// Waits until the members are these nodes, each with its share of twelve replicas, at rest.
async fn settled(nodes: &[Node]) {
    let mut here: Vec<NodeId> = nodes.iter().map(Node::id).collect();
    here.sort_unstable();
    until("the members are those that are here, with their shares", || {
        nodes.iter().all(|node| {
            let status = node.status();
            let members: Vec<NodeId> = status.members.iter().map(|m| m.node.id).collect();
            let share = |node: &NodeId| {
                let replicas = status.layout.shards.iter().flat_map(|shard| &shard.replicas);
                replicas.filter(|replica| replica.node == *node).count() * nodes.len() == 12
            };
            members == here && here.iter().all(share) && status.shards_moving == 0
        })
    })
    .await;
}

/// The folders of a node's earlier lives on a volume.
fn asides(place: &Place, volume: &str) -> Vec<String> {
    let names = std::fs::read_dir(place.dir.path().join(volume)).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("aside-")).collect()
}

#[tokio::test]
async fn a_node_removed_while_it_was_away_sets_its_data_aside_and_joins_as_a_new_one() {
    let impatient = |options: &mut NodeOptions| options.replace_after = Duration::from_secs(2);
    let places = places(4);
    let mut nodes = cluster(&places[..3], impatient).await;
    nodes.push(start_with(&places[3], &places, impatient).await);
    ready(&nodes).await;
    settled(&nodes).await;
    all_serve(&nodes, "with four").await;
    let gone = nodes.remove(1);
    let old = gone.id();
    gone.shutdown().await;
    drop(gone);
    settled(&nodes).await;
    all_serve(&nodes, "with three").await;

    // Back again it is told so, and ends.
    let back = start_with(&places[1], &places, impatient).await;
    assert_eq!(back.id(), old);
    let mut fatal = back.fatal();
    let told = tokio::time::timeout(PATIENCE, fatal.wait_for(Option::is_some)).await;
    let told = told.expect("in time").unwrap().clone();
    let Some(Fatal::Removed(why)) = told else { panic!("{told:?}") };
    assert!(why.contains("was a member once and is not any more"), "{why}");
    back.shutdown().await;
    drop((fatal, back));

    // Started again it is another node, under the same name.
    let back = start_again(&places[1], &places, impatient).await;
    assert_ne!(back.id(), old);
    for volume in ["wal", "db"] {
        let found = asides(&places[1], volume);
        assert!(
            matches!(found.as_slice(), [one] if one.starts_with(&format!("aside-{old}-"))),
            "{found:?}"
        );
        let folder = places[1].dir.path().join(volume).join(&found[0]);
        assert!(folder.join("IDENTITY").exists());
    }
    nodes.push(back);
    ready(&nodes).await;
    settled(&nodes).await;
    all_serve(&nodes, "with four again").await;
    stop(nodes).await;
}

fn lose(place: &Place, volume: &str) {
    let dir = place.dir.path().join(volume);
    std::fs::remove_dir_all(&dir).unwrap();
    // As a new volume is mounted.
    std::fs::create_dir_all(Path::new(&dir).join("lost+found")).unwrap();
}

#[tokio::test]
async fn a_node_that_lost_one_volume_sets_the_other_aside_and_comes_back_as_a_new_one() {
    let places = places(3);
    let mut nodes = cluster(&places, |_| {}).await;
    all_serve(&nodes, "before").await;
    for (number, lost, other) in [(2, "db", "wal"), (1, "wal", "db")] {
        let node = nodes.remove(number);
        let old = node.id();
        node.shutdown().await;
        drop(node);
        lose(&places[number], lost);
        nodes.insert(number, start_again(&places[number], &places, |_| {}).await);
        assert_ne!(nodes[number].id(), old);
        assert_eq!(asides(&places[number], lost), Vec::<String>::new());
        assert_eq!(asides(&places[number], other).len(), 1);
        ready(&nodes).await;
        settled(&nodes).await;
        all_serve(&nodes, lost).await;
    }
    stop(nodes).await;
}

#[tokio::test]
async fn three_nodes_that_lost_a_volume_each_do_not_found_an_empty_cluster() {
    let places = places(3);
    let nodes = cluster(&places, |_| {}).await;
    stop(nodes).await;
    for (place, lost) in places.iter().zip(["db", "wal", "db"]) {
        lose(place, lost);
    }
    let mut nodes = Vec::new();
    for place in &places {
        nodes.push(start_again(place, &places, |_| {}).await);
    }
    let waits = |node: &Node| {
        let Some(reason) = node.readiness().reasons.first().cloned() else { return false };
        reason.contains("for a member of the cluster to join")
    };
    until("they wait for the cluster that they had", || nodes.iter().all(waits)).await;
    assert!(nodes.iter().all(|node| node.status().cluster.is_none()));
    stop(nodes).await;
}
