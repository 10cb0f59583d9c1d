//! The directories of a node that does not run: every fault is found, and a check changes nothing.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs;
use std::path::Path;

use common::damage::{copy, files, fingerprint, flip, noise, one_bucket_a_shard};
use common::{PATIENCE, cluster, places, start_again, stop};
use stemedb::check::{CheckError, CheckFault, CheckReport, Place, check, repair};
use stemedb::{Front, Node, NodeOptions};

fn options(dir: &Path) -> NodeOptions {
    let mut options = NodeOptions::alone(dir);
    options.segment_bytes = 256 << 10;
    options
}

/// What a check finds, after a look that it has changed nothing.
fn look(dir: &Path) -> CheckReport {
    let before = fingerprint(dir);
    let mut shown = 0;
    let report = check(&dir.join("wal"), &dir.join("db"), &mut |_, _, _| shown += 1);
    assert_eq!(fingerprint(dir), before, "a check changes nothing");
    assert!(shown > 0, "it says how far it is");
    report.expect("checks")
}

/// The one fault there is.
fn only(report: &CheckReport) -> &CheckFault {
    let [fault] = report.faults.as_slice() else { panic!("{:#?}", report.faults) };
    fault
}

async fn readable(dir: &Path) {
    let node = Node::start(options(dir)).await.expect("starts");
    node.wait_ready(PATIENCE).await.expect("gets ready");
    let bucket = node.bucket("demo", &one_bucket_a_shard()[0]).await.unwrap();
    assert_eq!(bucket.scan(b"n").await.unwrap().len(), 30);
    assert_eq!(bucket.get("n010").await.unwrap().unwrap().value, noise(10, 20_000));
    node.shutdown().await;
}

/// A node alone with 30 values in a shard: as it stopped, and as a crash would have left it.
async fn directories() -> [tempfile::TempDir; 2] {
    let [stopped, crashed] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let node = Node::start(options(stopped.path())).await.unwrap();
    node.wait_ready(PATIENCE).await.unwrap();
    let bucket = node.bucket("demo", &one_bucket_a_shard()[0]).await.unwrap();
    for number in 0..30 {
        bucket.put(format!("n{number:03}"), noise(number, 20_000)).await.unwrap();
    }
    let in_use = check(&stopped.path().join("wal"), &stopped.path().join("db"), &mut |_, _, _| {});
    assert!(matches!(in_use, Err(CheckError::InUse { .. })), "{in_use:?}");
    copy(stopped.path(), crashed.path());
    node.shutdown().await;
    [stopped, crashed]
}

#[tokio::test]
async fn every_fault_of_a_node_alone_is_found_with_its_place_and_what_to_do() {
    let [stopped, crashed] = directories().await;
    for dir in [stopped.path(), crashed.path()] {
        let report = look(dir);
        assert_eq!(report.faults, [], "{:?}", report.notes);
        assert!(report.alone && report.node.is_some() && report.cluster.is_some());
        assert_eq!(report.groups.len(), 5, "the meta group and four shards");
    }
    let to_replay = |dir: &Path| look(dir).groups.iter().map(|group| group.to_replay).sum::<u64>();
    assert_eq!(to_replay(stopped.path()), 0, "it flushed before it ended");
    assert!(to_replay(crashed.path()) >= 30);

    // Each on a copy of its own.
    let hurt = |from: &Path, hurt: &dyn Fn(&Path)| {
        let dir = tempfile::tempdir().unwrap();
        copy(from, dir.path());
        hurt(dir.path());
        look(dir.path())
    };
    let found = hurt(crashed.path(), &|dir| {
        flip(&dir.join("wal"), ".wal", &noise(10, 20_000));
    });
    let fault = only(&found);
    assert_eq!((fault.place, fault.groups.len()), (Place::Log, 1), "{fault:?}");
    assert!(fault.file.is_some() && fault.offset.is_some());
    assert!(fault.advice.contains("restore a backup"), "{}", fault.advice);

    let found = hurt(crashed.path(), &|dir| {
        fs::remove_file(&files(&dir.join("wal"), ".wal")[1]).unwrap();
    });
    assert!(!found.faults.is_empty());
    assert!(found.faults.iter().all(|fault| fault.place == Place::Log), "{:#?}", found.faults);

    let found = hurt(stopped.path(), &|dir| {
        flip(&dir.join("db"), ".sst", &noise(10, 20_000));
    });
    let fault = only(&found);
    assert_eq!(fault.place, Place::Store);
    assert!(fault.file.as_ref().is_some_and(|file| file.ends_with(".sst")), "{fault:?}");
    assert!(fault.offset.is_some());

    let found = hurt(stopped.path(), &|dir| {
        let path = files(&dir.join("db"), ".sst").pop().unwrap();
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    });
    assert!(found.faults.iter().any(|fault| fault.place == Place::Store), "{:#?}", found.faults);

    let found = hurt(stopped.path(), &|dir| {
        fs::remove_file(dir.join("wal/IDENTITY")).unwrap();
    });
    assert_eq!(only(&found).place, Place::Identity);
    assert!(only(&found).cause.contains("do not belong together"), "{}", only(&found).cause);

    let found = hurt(stopped.path(), &|dir| {
        fs::write(dir.join("db/FORMAT"), "stemedb-store 999\n").unwrap();
    });
    assert_eq!(only(&found).place, Place::Store);
    assert!(only(&found).advice.contains("newer build"), "{:?}", only(&found));

    let found = hurt(stopped.path(), &|dir| {
        fs::write(dir.join("db/QUARANTINE"), "rubbish").unwrap();
    });
    assert_eq!(only(&found).place, Place::Quarantine);

    // Torn by a crash: no fault, but worth a word.
    let found = hurt(crashed.path(), &|dir| {
        let path = files(&dir.join("wal"), ".wal").pop().unwrap();
        let mut bytes = fs::read(&path).unwrap();
        let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        bytes[end] ^= 1;
        fs::write(&path, bytes).unwrap();
    });
    assert_eq!(found.faults, []);
    assert!(
        found.notes.iter().any(|note| note.contains("was torn at offset")),
        "{:?}",
        found.notes
    );
}

#[tokio::test]
async fn a_repair_lets_go_of_what_the_store_has_and_of_nothing_else() {
    let [stopped, crashed] = directories().await;
    // All of it was flushed: the damaged record is not needed.
    flip(&stopped.path().join("wal"), ".wal", &noise(10, 20_000));
    let (wal, db) = (stopped.path().join("wal"), stopped.path().join("db"));
    assert!(Node::start(options(stopped.path())).await.is_err());
    let repaired = repair(&wal, &db, &mut |_, _, _| {}).unwrap();
    assert_eq!((&repaired.now.faults, &repaired.refused), (&vec![], &vec![]));
    assert!(!repaired.gave_up.is_empty());
    readable(stopped.path()).await;

    // Nothing was flushed: the only copy of an acknowledged write is damaged, and stays.
    flip(&crashed.path().join("wal"), ".wal", &noise(10, 20_000));
    let (wal, db) = (crashed.path().join("wal"), crashed.path().join("db"));
    let before = fingerprint(&wal);
    let repaired = repair(&wal, &db, &mut |_, _, _| {}).unwrap();
    assert_eq!(repaired.now.faults.len(), 1, "{:#?}", repaired.now.faults);
    assert_eq!(fingerprint(&wal), before);
    assert!(Node::start(options(crashed.path())).await.is_err());
}

#[tokio::test]
async fn a_repair_in_a_cluster_gives_a_damaged_replica_up_and_the_node_lives_without_it() {
    let places = places(3);
    // What is set aside stays so: nobody gives it back.
    let set = |options: &mut NodeOptions| {
        options.segment_bytes = 256 << 10;
        options.replaces_damaged = false;
    };
    let mut nodes = cluster(&places, set).await;
    let buckets = one_bucket_a_shard();
    let bucket = nodes[0].bucket("demo", &buckets[1]).await.unwrap();
    for number in 0..30 {
        bucket.put(format!("n{number:03}"), noise(number, 20_000)).await.unwrap();
    }
    drop(bucket);
    // The followers hear of the last commit with the next heartbeat.
    tokio::time::sleep(std::time::Duration::from_millis(700)).await;
    let dir = places[2].dir.path();
    let crashed = tempfile::tempdir().unwrap();
    copy(dir, crashed.path());
    let node = nodes.remove(2);
    node.shutdown().await;
    drop(node);
    common::damage::put_back(crashed.path(), dir);
    flip(&dir.join("wal"), ".wal", &noise(10, 20_000));

    let report = look(dir);
    assert_eq!(only(&report).groups, [stemedb_types::GroupId(2)]);
    assert!(!report.alone && only(&report).advice.contains("sets the group aside"));
    let repaired = repair(&dir.join("wal"), &dir.join("db"), &mut |_, _, _| {}).unwrap();
    assert_eq!(repaired.now.faults, [], "{:?}", repaired.refused);
    let said = repaired.gave_up.join("\n");
    assert!(said.contains("shard 1, replica ") && said.contains("set aside for good"), "{said}");

    // It starts without the replica, and does not take it for a new one.
    nodes.push(start_again(&places[2], &places, set).await);
    nodes[2].wait_ready(PATIENCE).await.expect("gets ready");
    let [aside] = nodes[2].status().quarantined.try_into().unwrap();
    assert_eq!(aside.group, stemedb_types::GroupId(2));
    let bucket = nodes[2].bucket("demo", &buckets[1]).await.unwrap();
    assert_eq!(bucket.scan(b"n").await.unwrap().len(), 30);
    drop(bucket);
    stop(nodes).await;
}

#[tokio::test]
async fn a_repair_never_gives_up_a_shard_that_no_other_node_has_and_a_start_leaves_it_alone() {
    let places = places(2);
    let two = |options: &mut NodeOptions| {
        options.expect = 2;
        options.segment_bytes = 256 << 10;
    };
    let nodes = cluster(&places, two).await;
    // One replica of each shard: with two nodes there is no majority to be had of more.
    let layout = nodes[0].status().layout;
    let shard = layout.shards.iter().position(|shard| {
        let [replica] = shard.replicas.as_slice() else { panic!("{shard:?}") };
        replica.node == nodes[1].id()
    });
    let shard = shard.expect("each node has some shards");
    let bucket = nodes[1].bucket("demo", &one_bucket_a_shard()[shard]).await.unwrap();
    for number in 0..30 {
        // The first may meet an election.
        while bucket.put(format!("n{number:03}"), noise(number, 20_000)).await.is_err() {}
    }
    drop(bucket);
    let dir = places[1].dir.path();
    let crashed = tempfile::tempdir().unwrap();
    copy(dir, crashed.path());
    stop(nodes).await;
    common::damage::put_back(crashed.path(), dir);
    flip(&dir.join("wal"), ".wal", &noise(10, 20_000));

    let report = look(dir);
    assert_eq!(only(&report).groups, [stemedb_types::GroupId(shard as u32 + 1)]);
    assert!(!report.alone && only(&report).advice.contains("restore a backup"), "{report:?}");
    let before = fingerprint(&dir.join("wal"));
    let mut again = common::options(&places[1], &places);
    two(&mut again);
    let refused = Node::start(again).await.err().map(|error| error.to_string());
    assert!(
        refused.as_ref().is_some_and(|line| line.contains("nothing was changed")),
        "{refused:?}"
    );
    assert_eq!(fingerprint(&dir.join("wal")), before, "a start changes nothing");
    let repaired = repair(&dir.join("wal"), &dir.join("db"), &mut |_, _, _| {}).unwrap();
    assert_eq!(repaired.gave_up, [] as [String; 0]);
    assert_eq!(repaired.now.faults.len(), 1, "it is still there, to be saved by hand");
    assert_eq!(fingerprint(&dir.join("wal")), before);
}

#[tokio::test]
async fn a_repair_keeps_the_logs_entries_of_a_group_whose_tables_are_damaged_too() {
    let [stopped, _] = directories().await;
    let (wal, db) = (stopped.path().join("wal"), stopped.path().join("db"));
    flip(&wal, ".wal", &noise(10, 20_000));
    flip(&db, ".sst", &noise(20, 20_000));
    assert_eq!(look(stopped.path()).faults.len(), 2);
    let before = fingerprint(&wal);
    let repaired = repair(&wal, &db, &mut |_, _, _| {}).unwrap();
    assert_eq!(repaired.gave_up, [] as [String; 0]);
    let kept = |line: &String| line.starts_with("the log's entries of shard 0 are kept");
    assert!(repaired.refused.iter().any(kept), "{:?}", repaired.refused);
    assert_eq!((repaired.now.faults.len(), fingerprint(&wal)), (2, before));
}
