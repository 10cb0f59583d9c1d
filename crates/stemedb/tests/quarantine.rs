//! Damaged replicas: set aside, named, remembered; the others go on.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs;
use std::time::Duration;

use common::damage::{copy, flip, noise, one_bucket_a_shard, put_back};
use common::{PATIENCE, Place, cluster, places, ready, start_again, stop, until};
use stemedb::{Error, Fatal, Front, Node, NodeOptions, StartError};

/// What is damaged stays set aside, to be looked at.
fn kept(options: &mut NodeOptions) {
    options.replaces_damaged = false;
    options.segment_bytes = 256 << 10;
}

async fn put(node: &Node, bucket: &str, key: &str, value: &[u8]) -> Result<(), Error> {
    let bucket = node.bucket("demo", bucket).await?;
    bucket.put(key.to_owned(), value.to_vec()).await.map(drop)
}

async fn get(node: &Node, bucket: &str, key: &str) -> Result<Option<Vec<u8>>, Error> {
    let version = node.bucket("demo", bucket).await?.get(key.to_owned()).await?;
    Ok(version.map(|version| version.value.to_vec()))
}

async fn down(nodes: &mut Vec<Node>, number: usize) {
    let node = nodes.remove(number);
    node.shutdown().await;
}

async fn up(nodes: &mut Vec<Node>, number: usize, places: &[Place]) {
    nodes.insert(number, start_again(&places[number], places, kept).await);
    nodes[number].wait_ready(PATIENCE).await.expect("gets ready");
}

/// Replicas that a node has set aside, by shard.
fn aside(node: &Node) -> Vec<Option<u16>> {
    let quarantined = node.status().quarantined;
    quarantined.iter().map(|aside| aside.group.shard().map(|shard| shard.0)).collect()
}

#[tokio::test]
async fn a_replica_whose_log_lost_what_its_store_had_is_set_aside_and_its_vote_does_not_count() {
    let places = places(3);
    let mut nodes = cluster(&places, kept).await;
    let buckets = one_bucket_a_shard();
    for bucket in &buckets {
        put(&nodes[0], bucket, "k", b"before").await.unwrap();
    }
    // A restart leaves the third node without any leadership: nothing happens in a group when it
    // goes the next time.
    down(&mut nodes, 2).await;
    up(&mut nodes, 2, &places).await;
    down(&mut nodes, 2).await;
    let wal_dir = places[2].dir.path().join("wal");
    let old = tempfile::tempdir().unwrap();
    copy(&wal_dir, old.path());

    // One shard goes on; its entries get into the log and into the store of the third node.
    up(&mut nodes, 2, &places).await;
    for number in 0..20 {
        put(&nodes[0], &buckets[1], &format!("k{number}"), b"after").await.unwrap();
    }
    let applied = || get(&nodes[2], &buckets[1], "k19");
    assert_eq!(applied().await.unwrap().as_deref(), Some(&b"after"[..]));
    settle(&nodes).await;
    down(&mut nodes, 2).await;

    // The log is an older one now: entries are gone that this replica had synced.
    let new = tempfile::tempdir().unwrap();
    copy(&wal_dir, new.path());
    put_back(old.path(), &wal_dir);
    up(&mut nodes, 2, &places).await;
    let readiness = nodes[2].readiness();
    assert_eq!(aside(&nodes[2]), [Some(1)], "{readiness:?}");
    assert!(readiness.ready, "others serve the shard");
    let [reason] = readiness.reasons.as_slice() else { panic!("{readiness:?}") };
    assert!(reason.starts_with("quarantined: shard 1 (replica "), "{reason}");
    assert!(reason.contains("its log is damaged: the log ends at entry "), "{reason}");
    assert_eq!(nodes[2].status().shards_under_replicated, 1);
    assert_eq!(aside(&nodes[0]), []);

    // Remembered, even where the damage itself is gone.
    down(&mut nodes, 2).await;
    put_back(new.path(), &wal_dir);
    up(&mut nodes, 2, &places).await;
    assert_eq!(aside(&nodes[2]), [Some(1)]);

    // Its door still serves every bucket.
    for bucket in &buckets {
        put(&nodes[2], bucket, "k", b"through").await.unwrap();
        assert_eq!(get(&nodes[2], bucket, "k").await.unwrap().as_deref(), Some(&b"through"[..]));
    }

    // With another node gone, two replicas of the other shards are a majority. Of this one there is
    // one left that counts.
    down(&mut nodes, 1).await;
    put(&nodes[0], &buckets[0], "k", b"two of three").await.unwrap();
    let refused = put(&nodes[0], &buckets[1], "k", b"one of three").await;
    assert!(
        matches!(refused, Err(Error::Unavailable { .. } | Error::OutcomeUnknown)),
        "{refused:?}"
    );
    up(&mut nodes, 1, &places).await;
    put(&nodes[2], &buckets[1], "k", b"two again").await.unwrap();
    stop(nodes).await;
}

/// Waits until every replica has applied what is committed.
async fn settle(nodes: &[Node]) {
    // A linearizable read of each shard was answered; the followers hear of the commit with the
    // next heartbeat.
    tokio::time::sleep(Duration::from_millis(700)).await;
    ready(nodes).await;
}

#[tokio::test]
async fn a_file_of_replicas_that_does_not_read_is_not_started_on() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(NodeOptions::alone(dir.path())).await.unwrap();
    node.wait_ready(PATIENCE).await.unwrap();
    node.shutdown().await;
    drop(node);
    let path = dir.path().join("db/REPLICAS");
    let whole = fs::read(&path).unwrap();
    let mut flipped = whole.clone();
    let last = flipped.len() - 5;
    flipped[last] ^= 1;
    for (bytes, why) in [
        (&b"StemeDB replicas\n\x07"[..], "format version 7, this build reads 1"),
        (&flipped, "does not match its checksum"),
    ] {
        fs::write(&path, bytes).unwrap();
        let refused = Node::start(NodeOptions::alone(dir.path())).await.err();
        let Some(StartError::Disk(line)) = refused else { panic!("{refused:?}") };
        assert!(line.contains("REPLICAS") && line.contains(why), "{line}");
    }
    // Without one, as a store of an earlier version is: it holds what it founded.
    fs::remove_file(&path).unwrap();
    let node = Node::start(NodeOptions::alone(dir.path())).await.unwrap();
    node.wait_ready(PATIENCE).await.unwrap();
    put(&node, "b", "k", b"v").await.unwrap();
    node.shutdown().await;
}

#[tokio::test]
async fn a_quarantine_file_that_does_not_read_is_not_started_on() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(NodeOptions::alone(dir.path())).await.unwrap();
    node.wait_ready(PATIENCE).await.unwrap();
    node.shutdown().await;
    drop(node);
    fs::write(dir.path().join("db/QUARANTINE"), b"StemeDB quarantine\n\x07").unwrap();
    let refused = Node::start(NodeOptions::alone(dir.path())).await.err();
    let Some(StartError::Disk(line)) = refused else { panic!("{refused:?}") };
    assert!(line.contains("QUARANTINE"), "{line}");
    assert!(line.contains("format version 7, this build reads 1"), "{line}");
}

/// Values of a bucket, large enough that each has a block of its own.
async fn fill(node: &Node, bucket: &str, count: u64) {
    for number in 0..count {
        put(node, bucket, &format!("n{number:03}"), &noise(number, 20_000)).await.unwrap();
    }
}

/// A node that scrubs all the time.
fn scrubbing(options: &mut NodeOptions) {
    kept(options);
    options.scrub_period = Duration::from_millis(200);
}

#[tokio::test]
async fn a_scrub_finds_a_flipped_bit_in_a_table_and_in_a_segment_and_the_others_serve() {
    let places = places(3);
    let mut nodes = cluster(&places, kept).await;
    let buckets = one_bucket_a_shard();
    fill(&nodes[0], &buckets[0], 40).await;
    // A node that goes down flushes what it has.
    down(&mut nodes, 2).await;
    nodes.insert(2, start_again(&places[2], &places, scrubbing).await);
    ready(&nodes).await;
    assert_eq!(aside(&nodes[2]), []);

    // In a table of the store.
    let dir = places[2].dir.path();
    let (file, _) = flip(&dir.join("db"), ".sst", &noise(20, 20_000));
    until("the store's damage is found", || aside(&nodes[2]) == [Some(0)]).await;
    let [found] = nodes[2].status().quarantined.try_into().unwrap();
    assert_eq!(found.part, "store");
    assert!(found.cause.contains(&file), "{} does not name {file}", found.cause);

    // In a segment of the log that is written to its end.
    for number in 100..140 {
        put(&nodes[0], &buckets[3], "k", &noise(number, 20_000)).await.unwrap();
    }
    settle(&nodes).await;
    let (file, _) = flip(&dir.join("wal"), ".wal", &noise(105, 20_000));
    until("the log's damage is found", || aside(&nodes[2]) == [Some(0), Some(3)]).await;
    let found = nodes[2].status().quarantined.pop().unwrap();
    assert_eq!(found.part, "log");
    assert!(found.cause.contains(&file), "{} does not name {file}", found.cause);

    assert!(nodes[2].readiness().ready);
    for bucket in &buckets {
        put(&nodes[2], bucket, "after", b"served").await.unwrap();
        let read = get(&nodes[2], bucket, "after").await.unwrap();
        assert_eq!(read.as_deref(), Some(&b"served"[..]));
    }
    assert_eq!(get(&nodes[2], &buckets[0], "n020").await.unwrap(), Some(noise(20, 20_000)));
    stop(nodes).await;
}

#[tokio::test]
async fn a_log_damaged_while_its_node_was_down_costs_it_one_group() {
    let places = places(3);
    let mut nodes = cluster(&places, kept).await;
    let buckets = one_bucket_a_shard();
    fill(&nodes[0], &buckets[2], 40).await;
    settle(&nodes).await;
    // As a crash leaves it: everything in the log, nothing in the store.
    let dir = places[2].dir.path();
    let crashed = tempfile::tempdir().unwrap();
    copy(dir, crashed.path());
    down(&mut nodes, 2).await;
    put_back(crashed.path(), dir);
    let (file, _) = flip(&dir.join("wal"), ".wal", &noise(10, 20_000));
    up(&mut nodes, 2, &places).await;
    let [found] = nodes[2].status().quarantined.try_into().unwrap();
    assert_eq!((found.group.shard().map(|shard| shard.0), found.part), (Some(2), "log"));
    assert!(found.cause.contains(&file), "{} does not name {file}", found.cause);
    for bucket in &buckets {
        put(&nodes[2], bucket, "after", b"served").await.unwrap();
    }
    stop(nodes).await;
}

#[tokio::test]
async fn the_log_keeps_nothing_for_a_replica_that_was_set_aside_by_its_marks() {
    let places = places(3);
    // Everybody's entries are cut soon, but for those of a replica that is set aside.
    let short = |options: &mut NodeOptions| {
        kept(options);
        options.live_log_bytes_max = 512 << 10;
        options.groups.kept_entries = 0;
    };
    let mut nodes = cluster(&places, kept).await;
    let buckets = one_bucket_a_shard();
    fill(&nodes[0], &buckets[1], 40).await;
    // A restart leaves the third node without any leadership. Then its log goes back to what it
    // was before the last entries.
    down(&mut nodes, 2).await;
    up(&mut nodes, 2, &places).await;
    down(&mut nodes, 2).await;
    let wal = places[2].dir.path().join("wal");
    let old = tempfile::tempdir().unwrap();
    copy(&wal, old.path());
    up(&mut nodes, 2, &places).await;
    fill(&nodes[0], &buckets[1], 10).await;
    assert!(get(&nodes[2], &buckets[1], "n009").await.unwrap().is_some());
    settle(&nodes).await;
    down(&mut nodes, 2).await;
    put_back(old.path(), &wal);
    nodes.insert(2, start_again(&places[2], &places, short).await);
    ready(&nodes).await;
    assert_eq!(aside(&nodes[2]), [Some(1)]);

    let set_aside = || !common::damage::files(&wal, ".aside").is_empty();
    for number in 0..600 {
        put(&nodes[0], &buckets[3], "k", &noise(number, 20_000)).await.unwrap();
        if set_aside() {
            break;
        }
    }
    until("its segments are set aside", set_aside).await;

    // A start takes that for what it is.
    down(&mut nodes, 2).await;
    up(&mut nodes, 2, &places).await;
    assert_eq!(aside(&nodes[2]), [Some(1)]);
    for bucket in &buckets {
        put(&nodes[2], bucket, "after", b"served").await.unwrap();
    }
    stop(nodes).await;
}

#[tokio::test]
async fn a_member_whose_log_is_gone_does_not_begin_another() {
    let places = places(3);
    let mut nodes = cluster(&places, kept).await;
    down(&mut nodes, 2).await;
    let wal = places[2].dir.path().join("wal");
    for path in common::damage::files(&wal, "") {
        if !path.ends_with("IDENTITY") {
            fs::remove_file(path).unwrap();
        }
    }
    for _ in 0..2 {
        let refused = Node::start(common::options(&places[2], &places)).await.err();
        let Some(StartError::Identity(line)) = refused else { panic!("{refused:?}") };
        assert!(
            line.starts_with("there is no log in ") && line.contains("as a new node"),
            "{line}"
        );
    }
    assert_eq!(common::damage::files(&wal, "").len(), 1, "nothing was made");
    stop(nodes).await;
}

#[tokio::test]
async fn a_node_alone_does_not_go_on_with_damage_and_says_where_it_is_and_what_to_run() {
    let dir = tempfile::tempdir().unwrap();
    let start = async || {
        let mut options = NodeOptions::alone(dir.path());
        scrubbing(&mut options);
        Node::start(options).await
    };
    let node = start().await.unwrap();
    node.wait_ready(PATIENCE).await.unwrap();
    let buckets = one_bucket_a_shard();
    fill(&node, &buckets[0], 40).await;
    // As a crash leaves it.
    let crashed = tempfile::tempdir().unwrap();
    copy(dir.path(), crashed.path());
    node.shutdown().await;
    drop(node);

    // Found while it runs.
    let node = start().await.unwrap();
    node.wait_ready(PATIENCE).await.unwrap();
    let (file, _) = flip(&dir.path().join("db"), ".sst", &noise(20, 20_000));
    let mut fatal = node.fatal();
    let found = fatal.wait_for(Option::is_some).await.unwrap().clone();
    let Some(Fatal::Disk(line)) = found else { panic!("{found:?}") };
    assert!(line.contains(&file) && line.contains("stemedb check --repair --wal-dir "), "{line}");
    assert!(line.starts_with("shard 0 is damaged and no other node has it: "), "{line}");
    assert!(!node.readiness().ready);
    node.shutdown().await;
    drop((fatal, node));

    // Found at a start: nothing is changed.
    put_back(crashed.path(), dir.path());
    let (file, _) = flip(&dir.path().join("wal"), ".wal", &noise(10, 20_000));
    let before = common::damage::fingerprint(&dir.path().join("wal"));
    let refused = start().await.err();
    let Some(StartError::Disk(line)) = refused else { panic!("{refused:?}") };
    assert!(line.contains(&file) && line.contains("at offset "), "{line}");
    assert!(line.contains("stemedb check --repair --wal-dir "), "{line}");
    assert_eq!(common::damage::fingerprint(&dir.path().join("wal")), before);
}
