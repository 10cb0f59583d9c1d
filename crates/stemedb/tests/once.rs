//! A named write is applied once, whatever becomes of its answer: leaders go, shards move.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use common::damage::{noise, one_bucket_a_shard};
use common::{PATIENCE, cluster, places, ready, start_with, stop, until};
use stemedb::shard::{Answer, Condition, IdempotencyKey, Once, Write};
use stemedb::{
    Call, Consistency, Door, Error, Front, Need, Node, NodeOptions, Op, OpAnswer, fingerprint,
};
use stemedb_types::{Key, Revision};

/// How many writers go on while the leader dies.
const WRITERS: usize = 16;

fn put(key: &str, value: &str) -> Write {
    let (key, value) = (Key::new(key.to_owned()).unwrap(), Bytes::from(value.to_owned()));
    Write::Put { key, value, condition: Condition::Always, expires_at_ms: None }
}

/// Asks a node for a write of this name, and waits so long. The answer, and who served it.
async fn named(
    node: &Node,
    bucket: &str,
    name: &str,
    write: Write,
    deadline: Duration,
) -> Result<(Answer, String), Error> {
    let admission = node.admit(None, Some("demo".parse().unwrap()), Need::Write).await?;
    let key = IdempotencyKey::new(name.to_owned()).unwrap();
    let once = Some(Once { key, fingerprint: fingerprint(&write, "") });
    let (bucket, op) = (bucket.parse().unwrap(), Op::Write(write));
    let (door, consistency) = (Door::Gateway, Consistency::Linearizable);
    let call = Call { admission, door, deadline, bucket, op, consistency, once };
    let answered = node.call(call).await?;
    let OpAnswer::Write(answer) = answered.answer else { panic!("no answer to a write") };
    Ok((answer, answered.served_by))
}

fn again(answer: &Answer) -> Answer {
    Answer::Replayed(Box::new(answer.clone()))
}

/// How often a key was put since it was made.
async fn puts(node: &Node, bucket: &str, key: &str) -> u64 {
    let bucket = node.bucket("demo", bucket).await.unwrap();
    bucket.get(key.to_owned()).await.unwrap().expect("is there").head.version
}

#[tokio::test]
async fn a_lost_answer_is_given_to_the_retry_at_any_node_and_by_the_next_leader() {
    let places = places(3);
    let mut nodes = cluster(&places, |_| {}).await;
    let (_, leader) = named(&nodes[0], "b", "before", put("j", "v"), PATIENCE).await.unwrap();
    let leads = nodes.iter().position(|node| node.status().node_name == leader).unwrap();

    // The caller is gone before the answer is: nobody waits, and the write is on its way.
    let lost = named(&nodes[leads], "b", "n", put("k", "v"), Duration::ZERO).await;
    assert_eq!(lost, Err(Error::OutcomeUnknown));
    let first = Answer::Put { revision: Revision(2), created: true };
    for node in &nodes {
        let (answer, _) = named(node, "b", "n", put("k", "v"), PATIENCE).await.unwrap();
        assert_eq!(answer, again(&first));
    }

    // Without a goodbye: the next leader has it from the log.
    drop(nodes.remove(leads));
    for node in &nodes {
        let (answer, by) = named(node, "b", "n", put("k", "v"), PATIENCE).await.unwrap();
        assert_eq!(answer, again(&first));
        assert_ne!(by, leader);
        assert_eq!(puts(node, "b", "k").await, 1);
    }
    let (other, _) = named(&nodes[0], "b", "n", put("k", "w"), PATIENCE).await.unwrap();
    assert_eq!(other, Answer::Mismatch { revision: Revision(2) });
    stop(nodes).await;
}

/// Puts one key again and again, each time under a name of its own, until it is told to stop. How
/// often.
async fn write_on(node: Node, key: String, over: Arc<AtomicBool>) -> u64 {
    let mut done = 0;
    while !over.load(Ordering::Relaxed) {
        let name = format!("{key}-{done}");
        match named(&node, "b", &name, put(&key, &name), PATIENCE).await {
            Ok(_) => done += 1,
            // Nobody led for long: not applied, and asked for again.
            Err(Error::Unavailable { .. }) => {}
            Err(error) => panic!("{name}: {error}"),
        }
    }
    done
}

#[tokio::test]
async fn the_death_of_a_leader_costs_named_writes_time_and_no_answer() {
    let places = places(3);
    let mut nodes = cluster(&places, |_| {}).await;
    let (_, leader) = named(&nodes[0], "b", "before", put("j", "v"), PATIENCE).await.unwrap();
    let leads = nodes.iter().position(|node| node.status().node_name == leader).unwrap();
    let dying = nodes.remove(leads);
    let over = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..WRITERS)
        .map(|number| {
            let node = nodes[number % 2].clone();
            tokio::spawn(write_on(node, format!("k{number}"), over.clone()))
        })
        .collect();
    for number in 0..WRITERS {
        let key = format!("k{number}");
        let bucket = nodes[0].bucket("demo", "b").await.unwrap();
        while bucket.get(key.clone()).await.unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    // Each writer has one on its way.
    drop(dying);
    let (_, by) = named(&nodes[0], "b", "after", put("j", "w"), PATIENCE).await.unwrap();
    assert_ne!(by, leader);
    over.store(true, Ordering::Relaxed);
    for (number, writer) in writers.into_iter().enumerate() {
        let done = writer.await.unwrap();
        assert_eq!(puts(&nodes[1], "b", &format!("k{number}")).await, done, "writer {number}");
    }
    stop(nodes).await;
}

/// A log that is soon cut, so that a new replica needs a snapshot.
fn cut(options: &mut NodeOptions) {
    options.groups.snapshot_entries = 40;
    options.groups.kept_entries = 5;
}

#[tokio::test]
async fn a_shard_takes_its_answers_along_to_nodes_that_never_saw_the_write() {
    let places = places(3);
    let alone = |options: &mut NodeOptions| {
        cut(options);
        options.expect = 1;
    };
    let first = start_with(&places[0], &places[..1], alone).await;
    first.wait_ready(PATIENCE).await.expect("gets ready");
    let buckets = one_bucket_a_shard();
    for bucket in &buckets {
        let (answer, _) = named(&first, bucket, "n", put("k", "v"), PATIENCE).await.unwrap();
        assert_eq!(answer, Answer::Put { revision: Revision(1), created: true });
        let held = first.bucket("demo", bucket).await.unwrap();
        for number in 0..64u64 {
            held.put(format!("pad{number}"), noise(number, 20_000)).await.unwrap();
        }
    }
    let mut nodes = vec![first];
    for place in &places[1..] {
        nodes.push(start_with(place, &places, cut).await);
    }
    ready(&nodes).await;
    until("every shard is on all three", || {
        nodes.iter().all(|node| {
            let status = node.status();
            let spread = status.layout.shards.iter().all(|shard| shard.replicas.len() == 3);
            spread && status.shards_moving == 0
        })
    })
    .await;

    nodes.remove(0).shutdown().await;
    for bucket in &buckets {
        for node in &nodes {
            let (answer, _) = named(node, bucket, "n", put("k", "v"), PATIENCE).await.unwrap();
            assert_eq!(answer, again(&Answer::Put { revision: Revision(1), created: true }));
            assert_eq!(puts(node, bucket, "k").await, 1);
        }
    }
    stop(nodes).await;
}
