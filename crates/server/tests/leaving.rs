//! SIGTERM is a restart: nobody who calls notices, and nothing of the cluster changes.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::time::{Duration, Instant};

use common::{Cluster, ROOT_KEY};
use serde_json::Value;

/// Longer than any test: a node that was asked to end serves on until it is asked again.
const GRACE: (&str, &str) = ("STEMEDB_DRAIN_GRACE", "1h");

impl Cluster {
    /// What a node says of the cluster.
    async fn status(&self, number: usize) -> Value {
        let asked = self.client.get(self.own(number, "/v1/cluster/status"));
        asked.header("X-API-Key", ROOT_KEY).send().await.unwrap().json().await.unwrap()
    }

    /// How many shards a node leads, as another one knows.
    async fn leaders(&self, of: usize, by: usize) -> u64 {
        let status = self.status(by).await;
        let nodes = status["nodes"].as_array().expect("nodes");
        let node = nodes.iter().find(|node| node["name"] == self.nodes[of].name.as_str());
        node.and_then(|node| node["leaders"].as_u64()).expect("is a member")
    }

    async fn ids(&self, number: usize) -> Vec<String> {
        let status = self.status(number).await;
        let nodes = status["nodes"].as_array().expect("nodes");
        nodes.iter().map(|node| node["id"].as_str().unwrap().to_owned()).collect()
    }
}

#[tokio::test]
async fn a_node_asked_to_end_leads_nothing_serves_everything_and_ends_at_once_when_asked_again() {
    let mut cluster = Cluster::placed();
    let peers = cluster.peers();
    for node in &mut cluster.nodes {
        node.start_with(&peers, |command| {
            command.env(GRACE.0, GRACE.1);
        });
    }
    cluster.wait_ready().await;
    let key = cluster.project_key("alpha").await;
    let ids = cluster.ids(0).await;
    let leaving = cluster.busiest_leader().await;
    let other = (leaving + 1) % 3;
    assert!(cluster.leaders(leaving, other).await > 0);

    cluster.nodes[leaving].ask_to_end();
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let ready = cluster.client.get(cluster.own(leaving, "/readyz")).send().await.unwrap();
        let unready = ready.status() == 503;
        let said: Value = ready.json().await.unwrap();
        if unready && cluster.leaders(leaving, other).await == 0 {
            assert_eq!(said["type"], "urn:stemedb:problem:draining", "{said}");
            assert_eq!(said["reasons"][0], "draining", "{said}");
            break;
        }
        assert!(Instant::now() < deadline, "{said}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    // Its gateway serves whatever it is asked, through the others; each answer asks to come back
    // elsewhere.
    for bucket in ["a", "b", "c", "d", "e", "f"] {
        let url = cluster.gateway(leaving, &format!("/v1/kv/{bucket}/k"));
        let put =
            cluster.client.put(&url).header("X-API-Key", &key).body("v").send().await.unwrap();
        assert_eq!(
            (put.status().as_u16(), &put.headers()["connection"]),
            (201, &"close".parse().unwrap())
        );
        assert_ne!(put.headers()["stemedb-served-by"], cluster.nodes[leaving].name.as_str());
        let got = cluster.client.get(&url).header("X-API-Key", &key).send().await.unwrap();
        assert_eq!((got.status().as_u16(), got.text().await.unwrap()), (200, "v".to_owned()));
    }
    assert_eq!(cluster.leaders(leaving, other).await, 0, "it took nothing back");

    cluster.nodes[leaving].ask_to_end();
    assert_eq!(cluster.nodes[leaving].wait_for_end(), Some(0), "{}", cluster.nodes[leaving].log());

    // Back again it is who it was, with what it had.
    cluster.start_node(leaving);
    cluster.wait_ready().await;
    assert_eq!(cluster.ids(leaving).await, ids);
    let url = cluster.gateway(leaving, "/v1/kv/a/k");
    let got = cluster.client.get(&url).header("X-API-Key", &key).send().await.unwrap();
    assert_eq!(got.text().await.unwrap(), "v");
}

#[tokio::test]
async fn a_node_asked_to_end_while_it_starts_ends_cleanly() {
    let mut cluster = Cluster::placed();
    let node = &mut cluster.nodes[0];
    for wait in [0, 5, 20, 80] {
        node.start(&[]);
        has_opened(node.http);
        std::thread::sleep(Duration::from_millis(wait));
        assert_eq!(node.terminate(), Some(0), "after {wait} ms: {}", node.log());
    }

    // Its disk hangs: a file that nobody writes to is read for ever.
    let identity = node.dir().join("wal").join("IDENTITY");
    std::fs::remove_file(&identity).unwrap();
    let made = std::process::Command::new("mkfifo").arg(&identity).status().unwrap();
    assert!(made.success());
    node.start(&[]);
    has_opened(node.http);
    node.ask_to_end();
    // Two signals at once are one.
    std::thread::sleep(Duration::from_millis(300));
    assert!(node.runs(), "it waits for its disks");
    node.ask_to_end();
    assert_eq!(node.wait_for_end(), Some(0), "{}", node.log());
}

/// Waits until a port is listened at.
fn has_opened(port: u16) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < deadline, "port {port} does not open");
        std::thread::sleep(Duration::from_millis(1));
    }
}
