//! Clusters in one process, over real sockets and disks.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

pub(crate) mod damage;
mod ports;

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use stemedb::meta::NodeAddresses;
use stemedb::{Auth, Front, Gossip, Node, NodeOptions, StartError, bind_gossip};
use zeroize::Zeroizing;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const SECRET: &[u8] = b"a secret of the tests";

/// Where one node of a test lives: its ports stay the same over its restarts.
pub(crate) struct Place {
    pub(crate) name: String,
    pub(crate) grpc: SocketAddr,
    pub(crate) gossip: SocketAddr,
    pub(crate) dir: tempfile::TempDir,
}

pub(crate) fn places(count: usize) -> Vec<Place> {
    (0..count)
        .map(|number| Place {
            name: format!("node-{number}"),
            grpc: SocketAddr::from(([127, 0, 0, 1], ports::free())),
            gossip: SocketAddr::from(([127, 0, 0, 1], ports::free())),
            dir: tempfile::tempdir().unwrap(),
        })
        .collect()
}

/// One of three founders, without keys.
pub(crate) fn options(place: &Place, all: &[Place]) -> NodeOptions {
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
        ..NodeOptions::alone(place.dir.path())
    }
}

pub(crate) async fn start(place: &Place, all: &[Place]) -> Node {
    start_with(place, all, |_| {}).await
}

pub(crate) async fn start_with(
    place: &Place,
    all: &[Place],
    set: impl Fn(&mut NodeOptions),
) -> Node {
    let mut options = options(place, all);
    set(&mut options);
    Node::start(options).await.expect("starts")
}

/// All nodes of a cluster, ready.
pub(crate) async fn cluster(places: &[Place], set: impl Fn(&mut NodeOptions)) -> Vec<Node> {
    let mut nodes = Vec::new();
    for place in places {
        nodes.push(start_with(place, places, &set).await);
    }
    ready(&nodes).await;
    nodes
}

pub(crate) async fn ready(nodes: &[Node]) {
    for node in nodes {
        node.wait_ready(PATIENCE).await.expect("gets ready");
    }
}

pub(crate) async fn stop(nodes: Vec<Node>) {
    for node in &nodes {
        node.shutdown().await;
    }
}

/// Starts a node again whose last life was dropped, and may hold its ports and disks a moment
/// longer.
pub(crate) async fn start_again(
    place: &Place,
    all: &[Place],
    set: impl Fn(&mut NodeOptions),
) -> Node {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let free = TcpListener::bind(place.grpc).is_ok() && bind_gossip(place.gossip).is_ok();
        if free {
            let mut options = options(place, all);
            set(&mut options);
            match Node::start(options).await {
                Ok(node) => return node,
                Err(StartError::InUse { .. }) => {}
                Err(other) => panic!("{other}"),
            }
        }
        assert!(std::time::Instant::now() < deadline, "the last life holds on to its place");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until something holds of a node, for what wakes nobody.
pub(crate) async fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !holds() {
        assert!(std::time::Instant::now() < deadline, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The ids of the cluster that nodes are in, if it is one.
pub(crate) fn one_cluster(nodes: &[Node]) -> bool {
    let first = nodes[0].status().cluster;
    first.is_some() && nodes.iter().all(|node| node.status().cluster == first)
}
