//! One node, embedded: what a program that links it relies on.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use stemedb::shard::Condition;
use stemedb::{Error, Node, NodeOptions, StartError};

const PATIENCE: Duration = Duration::from_secs(30);

async fn start(dir: &std::path::Path) -> Node {
    let node = Node::start(NodeOptions::alone(dir)).await.expect("starts");
    node.wait_ready(PATIENCE).await.expect("gets ready");
    node
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}

#[tokio::test]
async fn what_was_put_is_there_after_a_restart_and_revisions_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    let bucket = node.bucket("demo", "b").await.unwrap();

    // Three writes, a delete, a failed condition: revisions count what was applied.
    assert_eq!(bucket.put("k", "one").await.unwrap().0, 1);
    assert_eq!(bucket.put("k", "two").await.unwrap().0, 2);
    assert_eq!(bucket.put("other", "x").await.unwrap().0, 3);
    assert_eq!(bucket.put_if("k", "no", Condition::Absent).await.unwrap(), None);
    assert_eq!(bucket.delete("other").await.unwrap().map(|r| r.0), Some(4));
    assert_eq!(bucket.delete("other").await.unwrap(), None);

    let version = bucket.get("k").await.unwrap().expect("is there");
    assert_eq!((text(&version.value).as_str(), version.head.version), ("two", 2));
    assert_eq!((version.head.create_revision.0, version.head.mod_revision.0), (1, 2));

    let id = node.id();
    node.shutdown().await;
    drop((node, bucket));

    let node = start(dir.path()).await;
    assert_eq!(node.id(), id);
    let bucket = node.bucket("demo", "b").await.unwrap();
    let rows = bucket.scan(b"").await.unwrap();
    let rows: Vec<_> =
        rows.iter().map(|r| (text(r.key.as_bytes()), text(&r.version.value))).collect();
    assert_eq!(rows, [("k".to_owned(), "two".to_owned())]);
    assert_eq!(bucket.put("k", "three").await.unwrap().0, 5);
    node.shutdown().await;
}

#[tokio::test]
async fn a_snapshot_in_files_that_nobody_would_take_is_refused_before_anything_is_made() {
    let dir = tempfile::tempdir().unwrap();
    for bytes in [0, (64 << 20) + 1, usize::MAX] {
        let mut options = NodeOptions::alone(dir.path());
        options.groups.snapshot_file_bytes = bytes;
        let refused = Node::start(options).await.map(|_| ());
        assert!(matches!(refused, Err(StartError::Setting(_))), "{bytes}: {refused:?}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_node_dropped_without_a_goodbye_replays_its_log() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    let bucket = node.bucket("demo", "b").await.unwrap();
    for number in 0..300u32 {
        bucket.put(format!("k{number:03}"), number.to_be_bytes().to_vec()).await.unwrap();
    }
    // A copy of the folders while the node runs is what a crash would leave, or less: RocksDB has
    // flushed nothing, and the log holds it all.
    let crashed = tempfile::tempdir().unwrap();
    copy(dir.path(), crashed.path());
    node.shutdown().await;

    let node = start(crashed.path()).await;
    let bucket = node.bucket("demo", "b").await.unwrap();
    let rows = bucket.scan(b"k").await.unwrap();
    assert_eq!(rows.len(), 300);
    for (number, row) in rows.iter().enumerate() {
        assert_eq!(row.version.value, (number as u32).to_be_bytes().to_vec());
        assert_eq!(row.version.head.mod_revision.0, number as u64 + 1);
    }
    node.shutdown().await;
}

#[tokio::test]
async fn a_directory_in_use_is_refused_and_bad_names_are_answered() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    let second = Node::start(NodeOptions::alone(dir.path())).await;
    assert!(matches!(second, Err(StartError::InUse { .. })), "{:?}", second.err());
    for (project, bucket) in [("", "b"), ("p", ""), ("P", "b"), ("p", "a/b")] {
        let refused = node.bucket(project, bucket).await.err();
        assert!(matches!(refused, Some(Error::Malformed(_))), "{project:?} {bucket:?} {refused:?}");
    }
    let bucket = node.bucket("p", "b").await.unwrap();
    assert!(matches!(bucket.put("", "v").await, Err(Error::Malformed(_))));
    node.shutdown().await;
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
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
