//! What a cluster says about itself, read as any operator's script would read it.
//!
//! Answers are taken as JSON, not as our own types: the drivers stand outside, and a field that
//! changes its name is to be noticed here too.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::Full;
use serde_json::Value;

use crate::http::{Answer, call};

/// How long a node may take to say something about the cluster.
const ANSWER_LIMIT: Duration = Duration::from_secs(7);
/// A key nobody writes; asking to delete it tells who leads its bucket and changes nothing.
const ABSENT_KEY: &str = "nobody-writes-this";

/// Asks with a key that may see everything.
#[derive(Clone, Debug)]
pub(crate) struct Admin {
    key: HeaderValue,
}

/// How a node sees the shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shards {
    /// Without a known leader.
    pub(crate) leaderless: u64,
    /// With fewer living replicas than voters.
    pub(crate) under_replicated: u64,
    /// On their way to other nodes.
    pub(crate) moving: u64,
}

/// Who holds what: for each shard the nodes, by id, and the numbers of their replicas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Grows with every change.
    pub(crate) epoch: u64,
    /// One for each shard.
    pub(crate) shards: Vec<BTreeMap<String, u64>>,
}

/// Who leads a bucket, as the node asked says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The node asked.
    Here,
    /// The node whose own API has this address.
    At(String),
}

impl Admin {
    /// Asks with this key.
    ///
    /// # Errors
    /// It can't be a header.
    pub(crate) fn new(key: &str) -> Result<Self> {
        Ok(Admin { key: HeaderValue::try_from(key)? })
    }

    /// Sends one request with the key.
    ///
    /// # Errors
    /// No answer in time; another status than 2xx is none.
    pub(crate) async fn ask(&self, node: SocketAddr, method: Method, path: &str) -> Result<Answer> {
        let request = Request::builder().method(method).uri(path).header("x-api-key", &self.key);
        call(node, request.body(Full::<Bytes>::default())?, ANSWER_LIMIT).await
    }

    async fn json(&self, node: SocketAddr, path: &str) -> Result<Value> {
        let answer = self.ask(node, Method::GET, path).await?.success();
        Ok(serde_json::from_slice(&answer.with_context(|| format!("GET {path}"))?)?)
    }

    /// How this node sees the shards.
    ///
    /// # Errors
    /// No answer, or one without these counts.
    pub(crate) async fn shards(&self, node: SocketAddr) -> Result<Shards> {
        shards(&self.json(node, "/v1/cluster/status").await?)
    }

    /// The ids of the members and whether each is alive, by name.
    ///
    /// # Errors
    /// No answer, or not a list of members.
    pub(crate) async fn members(&self, node: SocketAddr) -> Result<Vec<(String, String, bool)>> {
        members(&self.json(node, "/v1/cluster/members").await?)
    }

    /// Who holds what.
    ///
    /// # Errors
    /// No answer, or not a layout.
    pub(crate) async fn layout(&self, node: SocketAddr) -> Result<Layout> {
        layout(&self.json(node, "/v1/cluster/layout").await?)
    }
}

/// Who leads the shard of a bucket: asked at a node's own API with a key of the project.
///
/// # Errors
/// Nobody at the moment, or no answer in time.
pub(crate) async fn owner(node: SocketAddr, key: &HeaderValue, bucket: &str) -> Result<Owner> {
    let request = Request::delete(format!("/v1/kv/{bucket}/{ABSENT_KEY}"));
    let request = request.header("x-api-key", key).body(Full::<Bytes>::default())?;
    let answer = call(node, request, ANSWER_LIMIT).await?;
    match answer.status {
        StatusCode::NOT_FOUND => Ok(Owner::Here),
        StatusCode::MISDIRECTED_REQUEST => {
            let owner = answer.header("stemedb-owner").context("a 421 that names no owner")?;
            Ok(Owner::At(owner.to_owned()))
        }
        _ => bail!("who leads {bucket}: {:#}", answer.success().err().context("it was there")?),
    }
}

fn shards(status: &Value) -> Result<Shards> {
    let count = |name: &str| {
        status["shards"][name].as_u64().with_context(|| format!("no shards.{name} in {status}"))
    };
    Ok(Shards {
        leaderless: count("leaderless")?,
        under_replicated: count("under_replicated")?,
        moving: count("moving")?,
    })
}

fn members(list: &Value) -> Result<Vec<(String, String, bool)>> {
    let items = list["items"].as_array().context("no list of members")?;
    let text = |item: &Value, name: &str| {
        item[name].as_str().map(str::to_owned).with_context(|| format!("no {name} in {item}"))
    };
    let each = items
        .iter()
        .map(|item| Ok((text(item, "name")?, text(item, "id")?, text(item, "state")? == "alive")));
    each.collect()
}

fn layout(body: &Value) -> Result<Layout> {
    let epoch = body["epoch"].as_u64().context("a layout without an epoch")?;
    let shards = body["shards"].as_array().context("a layout without shards")?;
    let replica = |replica: &Value| {
        let node = replica["node"].as_str().context("a replica without a node")?;
        Ok((node.to_owned(), replica["replica"].as_u64().context("a replica without an id")?))
    };
    let replicas = |list: &Value| {
        let replicas = list.as_array().context("a group without replicas")?;
        replicas.iter().map(replica).collect::<Result<BTreeMap<_, _>>>()
    };
    let each = shards.iter().map(|shard| replicas(&shard["replicas"]));
    Ok(Layout { epoch, shards: each.collect::<Result<_>>()? })
}

impl Layout {
    /// Every node that holds something.
    pub(crate) fn nodes(&self) -> BTreeSet<&str> {
        self.shards.iter().flat_map(BTreeMap::keys).map(String::as_str).collect()
    }

    /// How many replicas each node holds.
    pub(crate) fn counts(&self) -> BTreeMap<&str, u64> {
        let mut counts = BTreeMap::new();
        for node in self.shards.iter().flat_map(BTreeMap::keys) {
            *counts.entry(node.as_str()).or_default() += 1;
        }
        counts
    }

    /// What the shards call their replicas. A number is given once, so one that is new is a replica that
    /// was made. The cluster gives out numbers for all that it is about to do and uses some of them: those
    /// between two of these say nothing.
    pub(crate) fn replicas(&self) -> BTreeSet<u64> {
        self.shards.iter().flat_map(BTreeMap::values).copied().collect()
    }

    /// The fewest replicas that must be made when nodes without any join, so many that there are
    /// `nodes` in all, and each is to hold the same but for one. By counting alone: what one node
    /// has too much another must take, and a node with too little must be given.
    pub(crate) fn fewest_for(&self, nodes: u64) -> u64 {
        let counts = self.counts();
        let all: u64 = counts.values().sum();
        let (least, most) = (all / nodes.max(1), all.div_ceil(nodes.max(1)));
        let too_much: u64 = counts.values().map(|&held| held.saturating_sub(most)).sum();
        let joined = nodes.saturating_sub(counts.len() as u64);
        let too_little: u64 = counts.values().map(|&held| least.saturating_sub(held)).sum();
        too_much.max(too_little + joined * least)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn laid(shards: &[&[(&str, u64)]]) -> Layout {
        let shard = |replicas: &&[(&str, u64)]| {
            replicas.iter().map(|(node, id)| ((*node).to_owned(), *id)).collect()
        };
        Layout { epoch: 1, shards: shards.iter().map(shard).collect() }
    }

    #[test]
    fn the_documented_answers_are_read_and_others_are_errors() {
        let status = json!({"epoch": 3, "shards":
            {"total": 4, "leaderless": 1, "under_replicated": 2, "quarantined": 0, "moving": 3}});
        let counted = Shards { leaderless: 1, under_replicated: 2, moving: 3 };
        assert_eq!(shards(&status).unwrap(), counted);
        assert!(shards(&json!({"shards": {"leaderless": 1}})).is_err());

        let list = json!({"items": [{"id": "0a", "name": "n", "state": "alive", "zone": ""}]});
        assert_eq!(members(&list).unwrap(), [("n".to_owned(), "0a".to_owned(), true)]);
        assert!(members(&json!({"items": [{"id": 1}]})).is_err());

        let body = json!({"epoch": 2, "meta": [{"node": "a", "replica": 1}], "shards":
            [{"shard": 0, "replicas": [{"node": "a", "replica": 1}, {"node": "b", "replica": 4}]}]});
        let read = layout(&body).unwrap();
        assert_eq!(read, Layout { epoch: 2, ..laid(&[&[("a", 1), ("b", 4)]]) });
        assert!(layout(&json!({"epoch": 2})).is_err());
    }

    #[test]
    fn replicas_are_those_of_shards_and_not_the_numbers_between() {
        let before = laid(&[&[("a", 2), ("b", 3)], &[("a", 4), ("b", 5)]]);
        // Number 6 went to the meta group, 7 was given out and never used.
        let after = laid(&[&[("a", 2), ("c", 8)], &[("a", 4), ("b", 5)]]);
        assert_eq!(before.replicas(), [2, 3, 4, 5].into());
        assert_eq!(&after.replicas() - &before.replicas(), [8].into());
        assert_eq!(after.nodes().into_iter().collect::<Vec<_>>(), ["a", "b", "c"]);
    }

    #[test]
    fn the_fewest_moves_are_those_of_the_share() {
        let on = |nodes: &[&'static str]| -> Layout {
            // Each shard on three nodes, taken by turns.
            let shard = |s: usize| -> Vec<(&str, u64)> {
                (0..3).map(|r| (nodes[(3 * s + r) % nodes.len()], r as u64)).collect()
            };
            let shards: Vec<Vec<(&str, u64)>> = (0..16).map(shard).collect();
            laid(&shards.iter().map(Vec::as_slice).collect::<Vec<_>>())
        };
        // 48 replicas: 16 each, then 12 each, then 9 or 10 each.
        assert_eq!(on(&["a", "b", "c"]).fewest_for(4), 12);
        assert_eq!(on(&["a", "b", "c", "d"]).fewest_for(5), 9);
        assert_eq!(on(&["a", "b", "c"]).fewest_for(3), 0);
    }
}
