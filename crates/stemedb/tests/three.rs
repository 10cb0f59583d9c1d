//! Three nodes in one process, over real sockets and disks.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use stemedb::meta::NodeAddresses;
use stemedb::{Auth, Front, Gossip, Node, NodeOptions, bind_gossip};
use zeroize::Zeroizing;

const PATIENCE: Duration = Duration::from_secs(30);
const SECRET: &[u8] = b"a secret of the tests";

/// Where one node of a test lives: its ports stay the same over its restarts.
struct Place {
    name: String,
    grpc: SocketAddr,
    gossip: SocketAddr,
    dir: tempfile::TempDir,
}

fn places(count: usize) -> Vec<Place> {
    (0..count)
        .map(|number| {
            // The listeners are closed again; the ports stay free for this process in practice.
            let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
            let udp = bind_gossip("127.0.0.1:0".parse().unwrap()).unwrap();
            Place {
                name: format!("node-{number}"),
                grpc: tcp.local_addr().unwrap(),
                gossip: udp.local_addr().unwrap(),
                dir: tempfile::tempdir().unwrap(),
            }
        })
        .collect()
}

fn options(place: &Place, all: &[Place], dir: &Path) -> NodeOptions {
    let join = all.iter().map(|p| p.gossip.to_string().parse().unwrap()).collect();
    NodeOptions {
        name: place.name.clone(),
        peers: Some(TcpListener::bind(place.grpc).unwrap()),
        gossip: Some(Gossip {
            socket: bind_gossip(place.gossip).unwrap(),
            advertise: place.gossip,
            join,
            joins_only: false,
        }),
        addresses: NodeAddresses {
            http: format!("{}-http", place.name),
            gateway: format!("{}-gateway", place.name),
            grpc: place.grpc.to_string(),
            gossip: place.gossip.to_string(),
        },
        expect: 3,
        auth: Auth::Off,
        secrets: vec![Zeroizing::new(SECRET.to_vec())],
        segment_bytes: 1 << 20,
        ..NodeOptions::alone(dir)
    }
}

async fn start(place: &Place, all: &[Place]) -> Node {
    Node::start(options(place, all, place.dir.path())).await.expect("starts")
}

async fn ready(nodes: &[Node]) {
    for node in nodes {
        node.wait_ready(PATIENCE).await.expect("gets ready");
    }
}

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
async fn a_fourth_node_joins_and_serves_though_it_holds_no_shard() {
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
