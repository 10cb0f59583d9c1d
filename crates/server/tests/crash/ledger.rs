//! What must be there and what may be, by the answers that clients got; and the comparison.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use base64::Engine;
use serde_json::Value;

use crate::node::Node;

/// A change that a client asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Give the key this value.
    Put(String),
    /// Take the key away.
    Delete,
    /// State that `key` has been seen; the name stands for subject and predicate.
    Assert,
}

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was acknowledged, perhaps with its revision.
    Done(Option<u64>),
    /// Nobody knows.
    Unknown,
    /// It was not made.
    Refused,
}

/// One change of one client.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub(crate) bucket: String,
    pub(crate) key: String,
    pub(crate) change: Change,
    pub(crate) outcome: Outcome,
}

/// What is known of one key. No value: it is not there.
#[derive(Clone, Debug, Default)]
struct Known {
    value: Option<String>,
    revision: Option<u64>,
    /// What it may be instead: its last change was not answered.
    maybe: Option<Option<String>>,
}

/// Everything that was written.
#[derive(Default)]
pub(crate) struct Ledger {
    keys: BTreeMap<String, BTreeMap<String, Known>>,
    claims: BTreeMap<String, BTreeMap<String, bool>>,
    revisions: BTreeMap<String, u64>,
    pub(crate) acknowledged: u64,
    pub(crate) unknown: u64,
    pub(crate) refused: u64,
}

/// How what a node shows differs from what it must.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// Acknowledged changes that are not there.
    pub(crate) lost: Vec<String>,
    /// Things that nobody wrote, or not like that.
    pub(crate) wrong: Vec<String>,
}

impl Verdict {
    pub(crate) fn is_good(&self) -> bool {
        self.lost.is_empty() && self.wrong.is_empty()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let few = |all: &[String]| all.iter().take(10).cloned().collect::<Vec<_>>().join("\n  ");
        write!(f, "lost {}: {}", self.lost.len(), few(&self.lost))?;
        write!(f, "\nwrong {}: {}", self.wrong.len(), few(&self.wrong))
    }
}

impl Ledger {
    /// Notes what one client did, in its order. No two clients write one key.
    pub(crate) fn note(&mut self, written: Vec<Written>) {
        for one in written {
            match one.outcome {
                Outcome::Done(revision) => {
                    self.acknowledged += 1;
                    let newest = self.revisions.entry(one.bucket.clone()).or_default();
                    *newest = (*newest).max(revision.unwrap_or(0));
                }
                Outcome::Unknown => self.unknown += 1,
                Outcome::Refused => {
                    self.refused += 1;
                    continue;
                }
            }
            let target = match &one.change {
                Change::Put(value) => Some(value.clone()),
                Change::Delete => None,
                Change::Assert => {
                    let sure = matches!(one.outcome, Outcome::Done(_));
                    let bucket = self.claims.entry(one.bucket).or_default();
                    *bucket.entry(one.key).or_default() |= sure;
                    continue;
                }
            };
            let known = self.keys.entry(one.bucket).or_default().entry(one.key).or_default();
            match one.outcome {
                Outcome::Done(revision) => {
                    *known = Known { value: target, revision, maybe: None };
                }
                _ => known.maybe = Some(target),
            }
        }
    }

    /// All buckets, oldest first.
    pub(crate) fn buckets(&self) -> BTreeSet<String> {
        self.keys.keys().chain(self.claims.keys()).cloned().collect()
    }

    /// Compares some buckets with what the node shows. What was unknown is known afterwards.
    pub(crate) async fn compare(&mut self, node: &mut Node, buckets: &[String]) -> Verdict {
        let mut verdict = Verdict::default();
        let key = node.key().await;
        for bucket in buckets {
            let (revision, found) = scan(node, &key, bucket).await;
            let least = self.revisions.get(bucket).copied().unwrap_or(0);
            if revision < least {
                verdict.lost.push(format!("{bucket} was at revision {least}, is at {revision}"));
            }
            self.compare_keys(bucket, found, &mut verdict);
            let found = if self.claims.contains_key(bucket) {
                query(node, &key, bucket).await
            } else {
                BTreeSet::new()
            };
            self.compare_claims(bucket, &found, &mut verdict);
        }
        verdict
    }

    fn compare_keys(
        &mut self,
        bucket: &str,
        mut found: BTreeMap<String, (String, u64)>,
        verdict: &mut Verdict,
    ) {
        for (key, known) in self.keys.entry(bucket.to_owned()).or_default() {
            let (value, revision) = match found.remove(key) {
                Some((value, revision)) => (Some(value), Some(revision)),
                None => (None, None),
            };
            let as_known = value == known.value
                && (known.value.is_none()
                    || known.revision.is_none()
                    || revision == known.revision);
            if !as_known && Some(&value) != known.maybe.as_ref() {
                let shown = |value: &Option<String>| {
                    value.as_ref().map_or("nothing".to_owned(), |v| v.chars().take(40).collect())
                };
                let text = format!(
                    "{bucket}/{key}: {} at {:?}, there is {} at {revision:?}",
                    shown(&known.value),
                    known.revision,
                    shown(&value),
                );
                // Something of another time, or something that was never written at all.
                verdict.lost.push(text);
            }
            *known = Known { value, revision, maybe: None };
        }
        verdict.wrong.extend(found.keys().map(|key| format!("{bucket}/{key}: nobody wrote it")));
    }

    fn compare_claims(&mut self, bucket: &str, found: &BTreeSet<String>, verdict: &mut Verdict) {
        let Some(claims) = self.claims.get_mut(bucket) else { return };
        for (claim, sure) in claims.iter_mut() {
            let there = found.contains(claim);
            if *sure && !there {
                verdict.lost.push(format!("{bucket}: claim {claim}"));
            }
            *sure = there;
        }
        let strange = found.iter().filter(|claim| !claims.contains_key(*claim));
        verdict.wrong.extend(strange.map(|claim| format!("{bucket}: nobody claimed {claim}")));
    }
}

async fn page(node: &Node, key: &str, path: &str) -> Value {
    let answer = node.client.get(node.url(path)).header("X-API-Key", key).send().await.unwrap();
    let status = answer.status();
    let text = answer.text().await.unwrap();
    assert_eq!(status, 200, "{path}: {text}");
    serde_json::from_str(&text).unwrap()
}

/// All keys of a bucket with values and revisions, and the bucket's revision.
async fn scan(node: &Node, key: &str, bucket: &str) -> (u64, BTreeMap<String, (String, u64)>) {
    let mut found = BTreeMap::new();
    let mut cursor = String::new();
    loop {
        let page = page(node, key, &format!("/v1/kv/{bucket}?limit=1000{cursor}")).await;
        for row in page["kvs"].as_array().expect("rows") {
            let value = row["value"].as_str().expect("a value");
            let value = base64::engine::general_purpose::STANDARD.decode(value).unwrap();
            let value = String::from_utf8_lossy(&value).into_owned();
            let revision = row["mod_revision"].as_u64().expect("a revision");
            found.insert(row["key_text"].as_str().expect("a key").to_owned(), (value, revision));
        }
        match page["cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return (page["revision"].as_u64().expect("a revision"), found),
        }
    }
}

/// All claims of a bucket, as `subject predicate`.
async fn query(node: &Node, key: &str, bucket: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut cursor = String::new();
    loop {
        let path = format!("/v1/query?bucket={bucket}&lens=all&limit=1000{cursor}");
        let page = page(node, key, &path).await;
        for row in page["answers"].as_array().expect("answers") {
            let term = |name: &str| row[name].as_str().expect("a term").to_owned();
            found.insert(format!("{} {}", term("subject"), term("predicate")));
        }
        match page["cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return found,
        }
    }
}
