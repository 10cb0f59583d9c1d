//! A start that has much to replay: it is counted while it goes on, and nothing of it is missing.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::path::Path;

use common::PATIENCE;
use futures_util::future::join_all;
use stemedb::{Front, Node, NodeOptions, Startup};

const BUCKETS: usize = 8;
const KEYS: usize = 400;

#[tokio::test]
async fn a_replay_is_counted_over_all_shards_and_the_start_is_done_when_it_is_through() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(NodeOptions::alone(dir.path())).await.expect("starts");
    node.wait_ready(PATIENCE).await.expect("gets ready");
    let mut buckets = Vec::new();
    for number in 0..BUCKETS {
        buckets.push(node.bucket("demo", &format!("b{number}")).await.unwrap());
    }
    for key in 0..KEYS {
        let puts = buckets.iter().map(|bucket| bucket.put(format!("k{key:04}"), vec![7; 300]));
        for put in join_all(puts).await {
            put.expect("is put");
        }
    }
    // What a crash would leave: nothing was flushed, and the log holds it all.
    let crashed = tempfile::tempdir().unwrap();
    copy(dir.path(), crashed.path());
    node.shutdown().await;
    drop((buckets, node));

    let node = Node::start(NodeOptions::alone(crashed.path())).await.expect("starts");
    let mut before = Startup { done: false, replayed_entries: 0, total_entries: 0 };
    while !before.done {
        let now = node.startup();
        assert!(now.replayed_entries >= before.replayed_entries, "{before:?}, then {now:?}");
        assert!(now.total_entries >= before.total_entries, "{before:?}, then {now:?}");
        assert!(now.replayed_entries <= now.total_entries, "{now:?}");
        before = now;
        tokio::task::yield_now().await;
    }
    assert_eq!(before.replayed_entries, before.total_entries);
    assert!(before.total_entries >= (BUCKETS * KEYS) as u64, "{before:?}");
    node.wait_ready(PATIENCE).await.expect("gets ready");
    for number in 0..BUCKETS {
        let bucket = node.bucket("demo", &format!("b{number}")).await.unwrap();
        let rows = bucket.scan(b"k").await.unwrap();
        assert_eq!(rows.len(), KEYS);
        let revisions: Vec<u64> = rows.iter().map(|r| r.version.head.mod_revision.0).collect();
        assert_eq!(revisions, (1..=KEYS as u64).collect::<Vec<_>>());
    }
    node.shutdown().await;
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir_all(&target).unwrap();
            copy(&entry.path(), &target);
        } else if entry.file_name() != "LOCK" {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
