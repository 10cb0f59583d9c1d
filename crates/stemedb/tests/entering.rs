//! How nodes come to a cluster, and who is kept out.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::damage::copy;
use common::{
    PATIENCE, cluster, one_cluster, places, ready, start, start_again, start_with, stop, until,
};
use futures_util::future::BoxFuture;
use stemedb::{Fatal, Front, NodeOptions};
use stemedb_rpc::{
    Envelope, Handler, Limits, PeerIdentity, Plane, PlaneOptions, Refusal, Reply, SnapshotChunks,
};
use zeroize::Zeroizing;

fn joiner(options: &mut NodeOptions) {
    if let Some(gossip) = &mut options.gossip {
        gossip.joins_only = true;
    }
    options.expect = 1;
}

#[tokio::test]
async fn a_node_told_to_join_waits_for_a_cluster_and_never_keeps_one_from_being_founded() {
    let places = places(4);
    // It is there first, and with the others there are four blank nodes where three found.
    let joining = start_with(&places[3], &places, joiner).await;
    let mut nodes = Vec::new();
    for place in &places[..3] {
        nodes.push(start(place, &places).await);
    }
    ready(&nodes).await;
    joining.wait_ready(PATIENCE).await.expect("is let in");
    nodes.push(joining);
    assert!(one_cluster(&nodes));

    // A listener to the meta group, it comes back as what it was.
    let listener = nodes.pop().unwrap();
    let id = listener.id();
    listener.shutdown().await;
    drop(listener);
    let back = start_with(&places[3], &places, joiner).await;
    back.wait_ready(PATIENCE).await.expect("gets ready again");
    assert_eq!(back.id(), id);
    nodes.push(back);
    let bucket = nodes[3].bucket("demo", "b").await.unwrap();
    bucket.put("k", "v").await.unwrap();
    stop(nodes).await;
}

#[tokio::test]
async fn another_secret_keeps_a_node_out_and_it_says_why() {
    let places = places(4);
    let nodes = cluster(&places[..3], |_| {}).await;
    let stranger = start_with(&places[3], &places, |options| {
        options.secrets = vec![Zeroizing::new(b"quite another secret".to_vec())];
    })
    .await;
    let mut fatal = stranger.fatal();
    let found = tokio::time::timeout(PATIENCE, fatal.wait_for(Option::is_some)).await;
    let why = found.expect("in time").unwrap().clone();
    assert!(
        matches!(&why, Some(Fatal::Setting(text)) if text.contains("wrong cluster secret")),
        "{why:?}"
    );
    assert!(!stranger.readiness().ready);
    assert_eq!(stranger.status().cluster, None);
    assert_eq!(nodes[0].status().members.len(), 3);
    stranger.shutdown().await;
    stop(nodes).await;
}

#[tokio::test]
async fn a_second_node_of_a_name_is_told_so_and_waits() {
    let places = places(4);
    let nodes = cluster(&places[..3], |_| {}).await;
    let double = start_with(&places[3], &places, |options| {
        options.name = "node-1".to_owned();
    })
    .await;
    until("the newcomer says name-in-use", || {
        double.readiness().reasons.iter().any(|reason| reason.contains("name-in-use"))
    })
    .await;
    assert_eq!(nodes[0].status().members.len(), 3);
    double.shutdown().await;
    stop(nodes).await;
}

#[tokio::test]
async fn a_copy_of_a_living_node_ends_and_says_why_and_the_others_serve_on() {
    let places = places(4);
    let mut nodes = cluster(&places[..3], |_| {}).await;
    nodes.remove(2).shutdown().await;
    copy(places[2].dir.path(), places[3].dir.path());
    nodes.push(start_again(&places[2], &places, |_| {}).await);
    ready(&nodes).await;

    let double =
        start_with(&places[3], &places, |options| options.name = "node-2".to_owned()).await;
    assert_eq!(double.id(), nodes[2].id());
    let mut fatal = double.fatal();
    let found = tokio::time::timeout(PATIENCE, fatal.wait_for(Option::is_some)).await;
    let why = found.expect("in time").unwrap().clone();
    let told = |text: &str| {
        text.starts_with("duplicate-id: ") && text.contains(&places[2].gossip.to_string())
    };
    assert!(matches!(&why, Some(Fatal::Setting(text)) if told(text)), "{why:?}");
    assert!(double.readiness().reasons.iter().any(|reason| told(reason)));
    // The other side has heard of it as well.
    let other = places[3].gossip.to_string();
    until("the first one names the copy", || {
        let reasons = nodes[2].readiness().reasons;
        reasons.iter().any(|reason| reason.starts_with("duplicate-id: ") && reason.contains(&other))
    })
    .await;
    double.shutdown().await;
    let bucket = nodes[0].bucket("demo", "b").await.unwrap();
    bucket.put("k", "v").await.unwrap();
    assert_eq!(nodes[0].status().members.len(), 3);
    stop(nodes).await;
}

/// A process under this node's id that gossip never shows: only the peers can tell.
#[tokio::test]
async fn an_older_life_that_peers_turn_away_ends_whatever_its_age() {
    let places = places(3);
    let nodes = cluster(&places, |_| {}).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let cluster = nodes[2].status().cluster;
    let newer = Plane::start(PlaneOptions {
        node: nodes[2].id(),
        incarnation: u64::MAX,
        doors_open: true,
        cluster,
        secrets: vec![Zeroizing::new(common::SECRET.to_vec())],
        listener: TcpListener::bind("127.0.0.1:0").unwrap(),
        handler: Arc::new(Deaf),
        limits: Limits::default(),
        seed: [7; 32],
    })
    .unwrap();
    for number in 0..2 {
        newer.set_address(nodes[number].id(), places[number].grpc);
    }
    let mut fatal = nodes[2].fatal();
    let found = tokio::time::timeout(PATIENCE, fatal.wait_for(Option::is_some)).await;
    let why = found.expect("in time").unwrap().clone();
    assert!(
        matches!(&why, Some(Fatal::Setting(text)) if text.starts_with("duplicate-id: node ")),
        "{why:?}"
    );
    assert!(nodes[0].fatal().borrow().is_none() && nodes[1].fatal().borrow().is_none());
    let bucket = nodes[0].bucket("demo", "b").await.unwrap();
    bucket.put("k", "v").await.unwrap();
    newer.shutdown().await;
    stop(nodes).await;
}

/// Answers nobody, and is part of nothing.
struct Deaf;

impl Handler for Deaf {
    fn handle(&self, _: PeerIdentity, _: Envelope, reply: Reply) {
        drop(reply);
    }

    fn handle_snapshot(
        &self,
        _: PeerIdentity,
        _: Envelope,
        _: SnapshotChunks,
    ) -> BoxFuture<'static, Result<Bytes, Refusal>> {
        Box::pin(async { Err(Refusal::new(1, "deaf")) })
    }
}

#[tokio::test]
async fn whenever_the_proposer_goes_down_one_cluster_is_founded() {
    for delay_ms in [0, 120, 400, 700] {
        let places = places(3);
        let mut nodes = Vec::new();
        for place in &places {
            nodes.push(start(place, &places).await);
        }
        tokio::time::sleep(Duration::from_millis(delay_ms)).await;
        // The lowest id proposes. It goes without a word and comes back.
        let proposer = (0..3).min_by_key(|number| nodes[*number].id()).unwrap();
        drop(nodes.remove(proposer));
        nodes.insert(proposer, start_again(&places[proposer], &places, |_| {}).await);
        ready(&nodes).await;
        assert!(one_cluster(&nodes), "after {delay_ms} ms");
        stop(nodes).await;
    }
}
