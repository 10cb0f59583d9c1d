//! Failure is final: one sync that fails, and the node acknowledges nothing more until it was
//! started again and has read its disk anew.
//!
//! A small C library, compiled here and preloaded into one node of three, makes syncs
//! fail below one of its two folders from the moment a file appears.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use common::{Cluster, ROOT_KEY};

const PATIENCE: Duration = Duration::from_secs(40);

/// The library, compiled; `None`, and a line that says why, where there is no compiler.
fn library(dir: &Path) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/eio.c");
    let library = dir.join("eio.so");
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&library)
        .arg(source)
        .arg("-ldl")
        .output();
    match compiled {
        Ok(output) if output.status.success() => Some(library),
        Ok(output) => {
            println!("skipped: cc: {}", String::from_utf8_lossy(&output.stderr));
            None
        }
        Err(error) => {
            println!("skipped: cc: {error}");
            None
        }
    }
}

/// Long enough that the store, told to keep little in memory, syncs files of its own soon.
fn value(key: &str) -> String {
    key.repeat(4096)
}

/// What a GET gives: status and body; `None` if nobody answers.
async fn get(cluster: &Cluster, url: String) -> Option<(u16, String)> {
    let answer = cluster.client.get(url).header("X-API-Key", ROOT_KEY).send().await.ok()?;
    let status = answer.status().as_u16();
    Some((status, answer.text().await.ok()?))
}

/// Puts one key through a gateway, until it is taken; a refusal or an unknown is tried again.
async fn put(cluster: &Cluster, number: usize, api_key: &str, key: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let url = cluster.gateway(number, &format!("/v1/kv/b/{key}"));
        let put = cluster.client.put(url).header("X-API-Key", api_key).body(value(key));
        let said = match put.send().await {
            Ok(answer) if answer.status().is_success() => return,
            Ok(answer) => answer.text().await.unwrap_or_default(),
            Err(error) => error.to_string(),
        };
        assert!(Instant::now() < deadline, "{key} was not taken: {said}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn check(cluster: &Cluster, number: usize, api_key: &str, keys: &[String]) {
    for key in keys {
        let url = cluster.gateway(number, &format!("/v1/kv/b/{key}"));
        let answer = cluster.client.get(url).header("X-API-Key", api_key).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{key} is gone");
        assert_eq!(answer.text().await.unwrap(), value(key));
    }
}

/// Lets syncs below `folder` of a node's two fail, and follows the node to its end and back.
async fn a_sync_fails_below(folder: &str, reason: &str) {
    let scratch = tempfile::tempdir().unwrap();
    let Some(library) = library(scratch.path()) else { return };
    let trigger = scratch.path().join("now");
    let mut cluster = Cluster::placed();
    for number in [1, 2] {
        cluster.start_node(number);
    }
    let peers = cluster.peers();
    let dir = cluster.nodes[0].dir().join(folder);
    cluster.nodes[0].start_with(&peers, |command| {
        command
            .env("LD_PRELOAD", &library)
            .env("STEMEDB_WRITE_BUFFER_BYTES", "1MiB")
            .env("EIO_DIR", &dir)
            .env("EIO_WHEN", &trigger);
    });
    cluster.wait_ready().await;
    let api_key = cluster.project_key("failing").await;
    let mut keys = Vec::new();
    for number in 0..30 {
        let key = format!("before-{number}");
        put(&cluster, 0, &api_key, &key).await;
        keys.push(key);
    }

    // The disk of the first node fails while writes come in.
    std::fs::write(&trigger, "").unwrap();
    let begun = Instant::now();
    for number in 0..30 {
        let key = format!("during-{number}");
        put(&cluster, 1, &api_key, &key).await;
        keys.push(key);
    }
    // It says so, with the reason, and in its metrics; it leads nothing any more.
    let said = loop {
        match get(&cluster, cluster.own(0, "/readyz")).await {
            Some((503, body)) if body.contains(reason) => break body,
            other => assert!(begun.elapsed() < PATIENCE, "it says {other:?}"),
        }
        put(&cluster, 1, &api_key, "again").await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    println!("after {} ms: {said}", begun.elapsed().as_millis());
    let (_, metrics) = get(&cluster, cluster.own(0, "/metrics")).await.expect("it still answers");
    assert!(metrics.contains("\nstemedb_failed 1"), "{metrics}");
    let deadline = Instant::now() + PATIENCE;
    while leads(&cluster, 1, &cluster.nodes[0].name).await > 0 {
        assert!(Instant::now() < deadline, "it still leads");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    check(&cluster, 2, &api_key, &keys).await;

    // SIGTERM shortens the minute; the exit code tells a supervisor to start it again.
    assert_eq!(cluster.nodes[0].terminate(), Some(74));
    std::fs::remove_file(&trigger).unwrap();
    cluster.start_node(0);
    cluster.wait_ready().await;
    put(&cluster, 0, &api_key, "after").await;
    keys.push("after".to_owned());
    for number in 0..3 {
        check(&cluster, number, &api_key, &keys).await;
    }
}

/// How many shards a node leads, as another one sees it.
async fn leads(cluster: &Cluster, asked: usize, name: &str) -> u64 {
    let Some((200, body)) = get(cluster, cluster.own(asked, "/v1/cluster/status")).await else {
        return u64::MAX;
    };
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    let nodes = body["nodes"].as_array().expect("nodes");
    let node = nodes.iter().find(|node| node["name"] == name);
    node.and_then(|node| node["leaders"].as_u64()).unwrap_or(0)
}

#[tokio::test]
async fn a_sync_of_the_log_that_fails_ends_the_node_and_loses_nothing() {
    a_sync_fails_below("wal", "the log's disk failed").await;
}

#[tokio::test]
async fn a_sync_of_the_store_that_fails_ends_the_node_and_loses_nothing() {
    a_sync_fails_below("db", "Input/output error").await;
}

#[tokio::test]
async fn a_sync_of_the_log_that_fails_on_the_way_down_is_told_by_the_exit_code() {
    let scratch = tempfile::tempdir().unwrap();
    let Some(library) = library(scratch.path()) else { return };
    let trigger = scratch.path().join("now");
    let mut cluster = Cluster::placed();
    for number in [1, 2] {
        cluster.start_node(number);
    }
    let peers = cluster.peers();
    let dir = cluster.nodes[0].dir().join("wal");
    cluster.nodes[0].start_with(&peers, |command| {
        command.env("LD_PRELOAD", &library).env("EIO_DIR", &dir).env("EIO_WHEN", &trigger);
    });
    cluster.wait_ready().await;
    cluster.nodes[0].ask_to_end();
    // Its doors are still open, and the disk under them fails.
    tokio::time::sleep(Duration::from_secs(1)).await;
    std::fs::write(&trigger, "").unwrap();
    assert_eq!(cluster.nodes[0].wait_for_end(), Some(74));
}
