//! Clients that write until the node is gone, and note what became of each write.

use std::time::Duration;

use tokio::task::JoinSet;

use crate::Draw;
use crate::ledger::{Change, Outcome, Written};
use crate::node::Node;

const CLIENTS: u64 = 12;
/// Keys of a client that are written over and taken away.
const SLOTS: u64 = 8;

/// Clients at work.
pub(crate) struct Load {
    clients: JoinSet<Vec<Written>>,
}

/// Sets clients to work. New keys go into a bucket of the round, old ones stand in `slots`.
pub(crate) async fn begin(node: &mut Node, seed: u64, round: u64) -> Load {
    let key = node.key().await;
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let client = Client {
            number,
            bucket: bucket(round),
            round,
            draw: Draw(seed.wrapping_mul(1000) + number),
            http: node.client.clone(),
            root: node.url(""),
            key: key.clone(),
        };
        clients.spawn(client.write_until_gone());
    }
    Load { clients }
}

/// The bucket of a round.
pub(crate) fn bucket(round: u64) -> String {
    format!("round-{round:05}")
}

impl Load {
    /// Waits for the clients of a node that is gone.
    pub(crate) async fn end(self) -> Vec<Vec<Written>> {
        self.clients.join_all().await
    }
}

struct Client {
    number: u64,
    bucket: String,
    round: u64,
    draw: Draw,
    http: reqwest::Client,
    root: String,
    key: String,
}

impl Client {
    async fn write_until_gone(mut self) -> Vec<Written> {
        let mut written = Vec::new();
        for sequence in 0u64.. {
            let (bucket, key, change) = self.next(sequence);
            let (outcome, gone) = self.write(&bucket, &key, &change).await;
            written.push(Written { bucket, key, change, outcome });
            if gone {
                break;
            }
        }
        written
    }

    fn next(&mut self, sequence: u64) -> (String, String, Change) {
        let mark = format!("{:05}-{:02}-{sequence:06}", self.round, self.number);
        // Long enough that segments and memtables fill up, and no two alike.
        let value = format!("{mark} ").repeat(1 + self.draw.below(100) as usize);
        let slot = format!("c{:02}-{}", self.number, self.draw.below(SLOTS));
        match self.draw.below(20) {
            0..=12 => (self.bucket.clone(), format!("k-{mark}"), Change::Put(value)),
            13..=16 => ("slots".to_owned(), slot, Change::Put(value)),
            17..=18 => ("slots".to_owned(), slot, Change::Delete),
            _ => (self.bucket.clone(), format!("run/{mark} seen"), Change::Assert),
        }
    }

    /// What became of a write, and whether the node is gone.
    async fn write(&self, bucket: &str, key: &str, change: &Change) -> (Outcome, bool) {
        let kv = format!("{}/v1/kv/{bucket}/{key}", self.root);
        let request = match change {
            Change::Put(value) => self.http.put(kv).body(value.clone()),
            Change::Delete => self.http.delete(kv),
            Change::Assert => {
                let (subject, predicate) = key.split_once(' ').expect("two terms");
                let body = serde_json::json!({
                    "subject": subject, "predicate": predicate, "object": true,
                });
                self.http.post(format!("{}/v1/assert?bucket={bucket}", self.root)).json(&body)
            }
        };
        let answer = match request.header("X-API-Key", &self.key).send().await {
            Ok(answer) => answer,
            Err(error) if error.is_connect() => return (Outcome::Refused, true),
            Err(_) => return (Outcome::Unknown, true),
        };
        let status = answer.status().as_u16();
        let tag = answer.headers().get("etag").and_then(|tag| tag.to_str().ok());
        let revision = tag.and_then(|tag| tag.trim_matches('"').parse().ok());
        match status {
            200 | 201 | 204 => (Outcome::Done(revision), false),
            // There was nothing to delete.
            404 => (Outcome::Refused, false),
            503 | 507 => {
                tokio::time::sleep(Duration::from_millis(20)).await;
                (Outcome::Refused, false)
            }
            504 => (Outcome::Unknown, true),
            other => panic!("a write was answered {other}: {:?}", answer.text().await),
        }
    }
}
