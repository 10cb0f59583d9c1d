//! The promise that matters: what was acknowledged is there, whatever is killed.
//!
//! 32 clients write through all three gateways. The node that leads most of
//! their shards is killed with SIGKILL and restarted, then all three are killed
//! at once and restarted. At the end every acknowledged write must be read back
//! through every gateway. A write without an answer is unknown: it may be there
//! or not, but if it is, then with the value that was sent.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::Cluster;

const CLIENTS: usize = 32;
const BUCKETS: usize = 8;

/// What one client did.
#[derive(Default)]
struct Record {
    acknowledged: Vec<String>,
    unknown: Vec<String>,
    refused: u64,
    longest_gap: Duration,
}

fn bucket_of(key: &str) -> usize {
    key.bytes().map(usize::from).sum::<usize>() % BUCKETS
}

fn value_of(key: &str) -> String {
    format!("value of {key} ").repeat(10)
}

async fn write_until(
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    client: reqwest::Client,
    gateways: Vec<String>,
    api_key: String,
    number: usize,
) -> Record {
    let mut record = Record::default();
    let mut last_success = Instant::now();
    let mut sequence = 0u64;
    while !stop.load(Ordering::Relaxed) {
        let key = format!("c{number:02}-{sequence:06}");
        let gateway = &gateways[(number + sequence as usize) % gateways.len()];
        let url = format!("{gateway}/v1/kv/kill-{}/{key}", bucket_of(&key));
        sequence += 1;
        let answer =
            client.put(url).header("X-API-Key", &api_key).body(value_of(&key)).send().await;
        match answer.map(|answer| answer.status().as_u16()) {
            Ok(200 | 201) => {
                record.acknowledged.push(key);
                record.longest_gap = record.longest_gap.max(last_success.elapsed());
                last_success = Instant::now();
                done.fetch_add(1, Ordering::Relaxed);
            }
            // 503 always means: not applied. (So does 421, which a gateway never answers.)
            Ok(503) => record.refused += 1,
            Ok(504) => record.unknown.push(key),
            Ok(other) => panic!("a put was answered {other}"),
            Err(error) if error.is_connect() => {
                record.refused += 1;
                // The gateway is gone: its port answers at once, so don't spin on it.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(_) => record.unknown.push(key),
        }
    }
    record
}

/// Waits until the clients have got this many more writes through.
async fn more(done: &AtomicU64, count: u64) {
    let wanted = done.load(Ordering::Relaxed) + count;
    let deadline = Instant::now() + Duration::from_secs(30);
    while done.load(Ordering::Relaxed) < wanted {
        assert!(
            Instant::now() < deadline,
            "the cluster did not come back: writes don't go through"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Everything a gateway shows of the buckets.
async fn read_all(cluster: &Cluster, number: usize, api_key: &str) -> HashMap<String, String> {
    let mut found = HashMap::new();
    for bucket in 0..BUCKETS {
        let mut cursor = String::new();
        loop {
            let path = format!("/v1/kv/kill-{bucket}?limit=1000{cursor}");
            let answer = cluster.client.get(cluster.gateway(number, &path));
            let answer = answer.header("X-API-Key", api_key).send().await.unwrap();
            assert_eq!(answer.status(), 200);
            let page: serde_json::Value = answer.json().await.unwrap();
            for row in page["kvs"].as_array().expect("rows") {
                let key = row["key_text"].as_str().expect("a key").to_owned();
                let value = row["value"].as_str().expect("a value").to_owned();
                found.insert(key, value);
            }
            match page["cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
    }
    found
}

fn base64(text: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(text)
}

#[tokio::test(flavor = "current_thread")]
async fn nothing_acknowledged_is_lost_when_the_leader_and_then_all_three_are_killed() {
    let mut cluster = Cluster::start().await;
    let api_key = cluster.project_key("kill").await;
    let stop = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicU64::new(0));
    let gateways: Vec<String> = (0..3).map(|number| cluster.gateway(number, "")).collect();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            tokio::spawn(write_until(
                stop.clone(),
                done.clone(),
                cluster.client.clone(),
                gateways.clone(),
                api_key.clone(),
                number,
            ))
        })
        .collect();

    // The leader of most shards dies under load, and comes back.
    more(&done, 500).await;
    let leader = cluster.busiest_leader().await;
    cluster.nodes[leader].kill();
    more(&done, 500).await;
    cluster.start_node(leader);
    cluster.wait_ready().await;
    more(&done, 500).await;

    // All three die at once, and come back.
    for node in &mut cluster.nodes {
        node.kill();
    }
    for number in 0..3 {
        cluster.start_node(number);
    }
    cluster.wait_ready().await;
    more(&done, 500).await;

    stop.store(true, Ordering::Relaxed);
    let mut records = Vec::new();
    for client in clients {
        records.push(client.await.unwrap());
    }
    let acknowledged: Vec<&String> = records.iter().flat_map(|r| &r.acknowledged).collect();
    let unknown: usize = records.iter().map(|r| r.unknown.len()).sum();
    let refused: u64 = records.iter().map(|r| r.refused).sum();
    let gap = records.iter().map(|r| r.longest_gap).max().unwrap_or_default();
    let mut lost = Vec::new();
    for number in 0..3 {
        let found = read_all(&cluster, number, &api_key).await;
        lost.extend(acknowledged.iter().filter(|key| !found.contains_key(**key)).copied());
        for (key, value) in &found {
            assert_eq!(*value, base64(&value_of(key)), "{key} came back changed");
        }
    }
    println!(
        "kill test: acknowledged {}, lost {}, unknown {unknown}, refused {refused}, longest gap {} ms",
        acknowledged.len(),
        lost.len(),
        gap.as_millis()
    );
    assert!(acknowledged.len() >= 2000, "too few writes to prove anything");
    assert_eq!(lost, Vec::<&String>::new(), "acknowledged writes are gone");
}
