//! A leader whose node is gone is succeeded on evidence.
//!
//! The timers of these nodes would take minutes, so whoever leads here was elected without them.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use common::{Place, cluster, places, ready, start_with, stop, until};
use stemedb::{Front, GroupOptions, Node, NodeOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

const SHARDS: u16 = 8;

fn eight(options: &mut NodeOptions) {
    options.shards = SHARDS;
}

/// A lease of ten minutes.
fn patient(options: &mut NodeOptions) {
    eight(options);
    options.groups = GroupOptions {
        election_timeout_min_ms: 500_000,
        election_timeout_max_ms: 600_000,
        ..options.groups
    };
}

/// Three nodes whose groups have leaders, and whose timers take minutes: founded in haste, then
/// restarted one after the other, so that leaderships are handed over and never elected.
async fn patient_cluster(places: &[Place]) -> Vec<Node> {
    let mut nodes = cluster(places, eight).await;
    for (number, place) in places.iter().enumerate() {
        let node = nodes.remove(number);
        node.shutdown().await;
        drop(node);
        nodes.insert(number, start_with(place, places, patient).await);
        ready(&nodes).await;
    }
    nodes
}

fn leads(node: &Node) -> u32 {
    let status = node.status();
    status.members.iter().find(|m| m.node.id == status.node).map_or(0, |m| m.leaders)
}

/// Which node leads most.
fn first_of(nodes: &[Node]) -> usize {
    (0..nodes.len()).max_by_key(|number| leads(&nodes[*number])).unwrap()
}

async fn write(node: &Node, round: &str) {
    for number in 0..u32::from(SHARDS) * 4 {
        let bucket = node.bucket("demo", &format!("b{number}")).await.unwrap();
        bucket.put(round.to_owned(), "v").await.unwrap();
    }
}

async fn read_back(node: &Node, rounds: &[&str]) {
    for number in 0..u32::from(SHARDS) * 4 {
        let bucket = node.bucket("demo", &format!("b{number}")).await.unwrap();
        let found = bucket.scan(b"").await.unwrap().len();
        assert_eq!(found, rounds.len(), "bucket b{number}");
    }
}

#[tokio::test]
async fn a_leader_that_ends_without_a_word_is_succeeded_long_before_its_lease_is_over() {
    let places = places(3);
    let mut nodes = patient_cluster(&places).await;
    write(&nodes[0], "before").await;

    let gone = nodes.remove(first_of(&nodes));
    assert!(leads(&gone) > 0);
    // No farewell, no hand-over: its connections break.
    drop(gone);
    until("the others lead everything", || {
        nodes.iter().map(leads).sum::<u32>() == u32::from(SHARDS)
    })
    .await;
    write(&nodes[0], "after").await;
    for node in &nodes {
        read_back(node, &["before", "after"]).await;
    }
    stop(nodes).await;
}

/// A line to a node that can be stopped: connections stay, and nothing is carried to the node.
async fn lay_a_line(at: SocketAddr, to: SocketAddr) -> watch::Sender<bool> {
    let flows = watch::Sender::new(true);
    let listener = TcpListener::bind(at).await.unwrap();
    let seen = flows.subscribe();
    tokio::spawn(async move {
        while let Ok((from, _)) = listener.accept().await {
            tokio::spawn(carry(from, to, seen.clone()));
        }
    });
    flows
}

async fn carry(from: TcpStream, to: SocketAddr, mut flows: watch::Receiver<bool>) {
    let Ok(to) = TcpStream::connect(to).await else { return };
    let (mut caller, mut back) = from.into_split();
    let (mut answers, mut node) = to.into_split();
    let there = async {
        let mut buffer = vec![0; 16 << 10];
        loop {
            let Ok(count @ 1..) = caller.read(&mut buffer).await else { return };
            if flows.wait_for(|flows| *flows).await.is_err()
                || node.write_all(&buffer[..count]).await.is_err()
            {
                return;
            }
        }
    };
    tokio::select! {
        () = there => {}
        _ = tokio::io::copy(&mut answers, &mut back) => {}
    }
}

#[tokio::test]
async fn a_leader_that_answers_nobody_is_succeeded_though_its_connections_stand() {
    let mut places = places(3);
    let mut lines = Vec::new();
    for (place, last) in places.iter_mut().zip(2..) {
        // Peers dial a node where its gossip comes from: there stands its line.
        place.gossip.set_ip(IpAddr::V4(Ipv4Addr::new(127, 0, 0, last)));
        let at = (place.gossip.ip(), place.grpc.port()).into();
        lines.push(lay_a_line(at, place.grpc).await);
    }
    let nodes = patient_cluster(&places).await;
    write(&nodes[0], "before").await;

    let silent = first_of(&nodes);
    lines[silent].send_replace(false);
    let others: Vec<&Node> = (0..3).filter(|n| *n != silent).map(|n| &nodes[n]).collect();
    until("the others lead everything", || {
        others.iter().map(|node| leads(node)).sum::<u32>() == u32::from(SHARDS)
    })
    .await;
    write(others[0], "without it").await;

    // It was there all the time; it hears again, and follows.
    lines[silent].send_replace(true);
    until("it leads nothing", || leads(&nodes[silent]) == 0).await;
    ready(&nodes).await;
    for node in &nodes {
        read_back(node, &["before", "without it"]).await;
    }
    stop(nodes).await;
}
