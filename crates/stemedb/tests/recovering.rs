//! The disks of a majority are lost: said, and gone on from by a person's decision.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::path::PathBuf;

use common::damage::one_bucket_a_shard;
use common::{PATIENCE, Place, cluster, places, start_again, stop, until};
use stemedb::recover::{RecoverError, look, recover};
use stemedb::shard::Condition;
use stemedb::{Error, Front, Node};

const KEYS: usize = 20;

async fn fill(node: &Node) {
    for bucket in one_bucket_a_shard() {
        let bucket = node.bucket("demo", &bucket).await.unwrap();
        for number in 0..KEYS {
            bucket.put(format!("k{number}"), format!("v{number}")).await.unwrap();
        }
    }
}

async fn reads_back(node: &Node) {
    for bucket in one_bucket_a_shard() {
        let bucket = node.bucket("demo", &bucket).await.unwrap();
        for number in 0..KEYS {
            let read = bucket.get(format!("k{number}")).await.unwrap().expect("is there");
            assert_eq!(read.value, format!("v{number}"));
        }
    }
}

fn dirs(place: &Place) -> [PathBuf; 2] {
    ["wal", "db"].map(|volume| place.dir.path().join(volume))
}

fn wipe(place: &Place) {
    for dir in dirs(place) {
        std::fs::remove_dir_all(dir).unwrap();
    }
}

fn says_quorum_lost(node: &Node) -> bool {
    node.readiness().reasons.iter().any(|reason| reason.contains("quorum-lost"))
}

#[tokio::test]
async fn a_survivor_of_three_goes_on_with_all_it_had_and_blank_nodes_join_it() {
    let places = places(3);
    let mut nodes = cluster(&places, |_| {}).await;
    fill(&nodes[0]).await;
    // The survivor has applied it all: it answered for it.
    reads_back(&nodes[0]).await;
    let (id, before) = (nodes[0].id(), nodes[0].status());
    let mut old = Vec::new();
    for bucket in one_bucket_a_shard() {
        let bucket = nodes[0].bucket("demo", &bucket).await.unwrap();
        old.push(bucket.get("k0").await.unwrap().expect("is there").head.mod_revision);
    }
    for number in [2, 1] {
        nodes.remove(number).shutdown().await;
        wipe(&places[number]);
    }

    // Blank nodes come under the names of the lost ones. Nobody founds or replaces anything; all say why.
    for place in &places[1..] {
        nodes.push(start_again(place, &places, |_| {}).await);
    }
    until("all three say quorum-lost", || nodes.iter().all(says_quorum_lost)).await;
    let ready: Vec<bool> = nodes.iter().map(|node| node.readiness().ready).collect();
    assert_eq!(ready, [true, false, false]);
    assert!(nodes[1..].iter().all(|node| node.status().cluster.is_none()));
    let bucket = one_bucket_a_shard().remove(0);
    let refused = nodes[0].bucket("demo", &bucket).await.unwrap().put("k", "v").await;
    assert!(
        matches!(refused, Err(Error::Unavailable { .. } | Error::OutcomeUnknown)),
        "{refused:?}"
    );
    assert_eq!(nodes[0].status().layout, before.layout);

    // Not while it runs; a look changes nothing that matters.
    let [wal, db] = dirs(&places[0]);
    assert!(matches!(look(&wal, &db), Err(RecoverError::InUse { .. })));
    nodes.remove(0).shutdown().await;
    let seen = look(&wal, &db).unwrap();
    assert_eq!((seen.node, Some(seen.cluster), seen.begun), (id, before.cluster, false));
    assert_eq!(seen.members.len(), 3);
    assert_eq!(seen.groups.len(), 5);
    for group in &seen.groups {
        let (replica, has) = group.replica.as_ref().expect("it held all four shards");
        assert!(has.voters.contains(replica) && has.voters.len() == 3, "{group:?}");
        assert!(
            has.last.is_some_and(|(term, last)| term > 0 && Some(last) >= has.applied),
            "{group:?}"
        );
    }

    let done = recover(&wal, &db).unwrap();
    assert_ne!(Some(done.cluster), before.cluster);
    for group in &done.groups {
        let (replica, has) = group.replica.as_ref().expect("is there");
        assert_eq!(has.voters.iter().collect::<Vec<_>>(), [replica]);
        assert_eq!(has.applied, has.last.map(|(_, last)| last));
    }
    nodes.insert(0, start_again(&places[0], &places, |_| {}).await);
    for node in &nodes {
        node.wait_ready(PATIENCE).await.expect("gets ready");
    }
    assert_eq!(nodes[0].id(), id);
    until("everybody holds every shard again", || {
        nodes.iter().all(|node| {
            let status = node.status();
            let full = |shard: &stemedb_types::ShardLayout| shard.replicas.len() == 3;
            status.cluster == Some(done.cluster)
                && status.members.len() == 3
                && status.shards_moving == 0
                && status.layout.shards.iter().all(full)
        })
    })
    .await;
    for node in &nodes {
        reads_back(node).await;
    }

    // Revisions that others may have seen are not given out again.
    for (bucket, old) in one_bucket_a_shard().iter().zip(old) {
        let bucket = nodes[1].bucket("demo", bucket).await.unwrap();
        let refused = bucket.put_if("k0", "new", Condition::RevisionIn(vec![old])).await.unwrap();
        assert_eq!(refused, None, "no old ETag holds");
        let shown = bucket.get("k0").await.unwrap().expect("is there").head.mod_revision;
        assert!(shown.0 > 1 << 32, "{shown}");
        let put = bucket.put_if("k0", "new", Condition::RevisionIn(vec![shown])).await.unwrap();
        assert!(put.is_some_and(|revision| revision > shown), "{put:?}");
    }
    for number in 0..8 {
        let bucket = nodes[1].bucket("demo", &format!("new{number}")).await.unwrap();
        let put = bucket.put("k", "v").await.unwrap();
        assert!(put.0 > 1 << 32, "one of that name may have been lost: {put}");
    }

    // The survivor can go: the others have it all.
    nodes.remove(0).shutdown().await;
    nodes[1]
        .bucket("demo", &one_bucket_a_shard()[2])
        .await
        .unwrap()
        .put("after", "v")
        .await
        .unwrap();
    stop(nodes).await;
}
