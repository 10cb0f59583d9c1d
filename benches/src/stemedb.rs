//! StemeDB: three nodes on loopback, driven over HTTP through their gateways.
//!
//! Nodes are set up by environment alone, as in a deployment, with API keys
//! checked. Every client keeps one HTTP/1.1 connection to one gateway; clients
//! are spread over the gateways, so two of three requests reach a node that
//! does not lead the bucket's shard and are forwarded. All keys are in one
//! bucket, so one Raft group does all the work, as in etcd.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode};
use http_body_util::Full;
use rand::Rng;

use crate::cli::Servers;
use crate::fleet::{Fleet, Launch};
use crate::http::{Connection, get};
use crate::load;
use crate::place::free_addresses;

const BUCKET: &str = "bench";
const KEY_HEADER: &str = "x-api-key";
/// Random bytes of an API key, written in hex.
const KEY_BYTES: usize = 24;

/// A running cluster.
pub(crate) struct Cluster {
    /// Its processes.
    pub(crate) fleet: Fleet,
    /// Where each node's own API listens.
    pub(crate) nodes: Vec<SocketAddr>,
    gateways: Vec<SocketAddr>,
    root_key: String,
}

/// Where clients connect, and with which key.
pub(crate) struct Store {
    gateways: Vec<SocketAddr>,
    api_key: HeaderValue,
    buckets: u64,
}

/// One client's connection to one gateway.
pub(crate) struct Session {
    gateway: SocketAddr,
    api_key: HeaderValue,
    buckets: u64,
    connection: Connection,
}

/// Starts so many nodes with data below `dir` and waits until each one is ready.
///
/// # Errors
/// A node did not start or was not ready in time.
pub(crate) async fn start(servers: &Servers, nodes: usize, dir: &Path) -> Result<Cluster> {
    let plan = Plan::new(free_addresses(nodes * NodeAddresses::COUNT)?, servers);
    let fleet = Fleet::start((0..nodes).map(|node| plan.launch(node, dir)).collect())?;
    let gateways = plan.nodes.iter().map(|node| node.gateway).collect();
    let own = plan.nodes.iter().map(|node| node.http).collect();
    let mut cluster = Cluster { fleet, nodes: own, gateways, root_key: plan.root_key };
    for node in &plan.nodes {
        for address in [node.http, node.gateway] {
            let ready = async || get(address, "/readyz").await?.success();
            cluster.fleet.wait_until(&format!("{address} is ready"), ready).await?;
        }
    }
    Ok(cluster)
}

impl Cluster {
    /// Makes a key that may write to a project of its own, and gives the way in with it.
    ///
    /// # Errors
    /// The cluster made none in time.
    pub(crate) async fn store(&mut self) -> Result<Store> {
        let (gateway, root_key) = (self.gateways[0], HeaderValue::try_from(&self.root_key)?);
        let make = async || make_project_key(gateway, &root_key).await;
        let api_key = self.fleet.wait_until("a project key", make).await?;
        Ok(Store { gateways: self.gateways.clone(), api_key, buckets: 1 })
    }
}

impl Store {
    /// Through these gateways, into so many buckets.
    pub(crate) fn spread(gateways: Vec<SocketAddr>, api_key: HeaderValue, buckets: u64) -> Self {
        Store { gateways, api_key, buckets }
    }

    /// The same, through the first so many gateways alone.
    pub(crate) fn through(mut self, gateways: usize) -> Self {
        self.gateways.truncate(gateways);
        self
    }
}

/// The bucket of a key, where there are so many: by its hash, so that neighbours are apart.
pub(crate) fn bucket_of(key: &str, buckets: u64) -> String {
    if buckets == 1 {
        return BUCKET.to_owned();
    }
    let mixed = key.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    // FNV alone leaves names that differ in one digit near each other.
    let mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    format!("{BUCKET}-{}", (mixed >> 33) % buckets)
}

pub(crate) async fn make_project_key(
    gateway: SocketAddr,
    root_key: &HeaderValue,
) -> Result<HeaderValue> {
    // A label is taken once; a try whose answer was lost must not block the next one.
    let label = format!("project-bench-{}", random_hex(4));
    let body = serde_json::json!({ "label": label, "role": "write_agent", "project": "bench" });
    let request = Request::post("/v1/admin/api-keys")
        .header(KEY_HEADER, root_key)
        .header("content-type", "application/json")
        .body(Full::from(body.to_string()))?;
    let answer = Connection::open(gateway).await?.send(request).await?.success()?;
    let created: serde_json::Value = serde_json::from_slice(&answer)?;
    let key = created["key"].as_str().context("no key in the answer")?;
    Ok(HeaderValue::try_from(key)?)
}

impl load::Store for Store {
    type Session = Session;

    async fn session(&self, client: usize) -> Result<Session> {
        let gateway = self.gateways[client % self.gateways.len()];
        let connection = Connection::open(gateway).await?;
        let (api_key, buckets) = (self.api_key.clone(), self.buckets);
        Ok(Session { gateway, api_key, buckets, connection })
    }
}

impl Session {
    async fn send(&mut self, method: http::Method, key: &str, body: Bytes) -> Result<Bytes> {
        if self.connection.is_closed() {
            self.connection = Connection::open(self.gateway).await?;
        }
        let request = Request::builder()
            .method(method)
            .uri(format!("/v1/kv/{}/{key}", bucket_of(key, self.buckets)))
            .header(KEY_HEADER, &self.api_key)
            .body(Full::new(body))?;
        let answer = self.connection.send(request).await?;
        ensure!(answer.status != StatusCode::ACCEPTED, "accepted only, not done");
        answer.success()
    }
}

impl load::Session for Session {
    async fn put(&mut self, key: &str, value: Bytes) -> Result<()> {
        self.send(http::Method::PUT, key, value).await.map(drop)
    }

    async fn get(&mut self, key: &str) -> Result<Bytes> {
        self.send(http::Method::GET, key, Bytes::new()).await
    }
}

/// The settings of all nodes, before any of them runs.
pub(crate) struct Plan {
    /// Where each node listens, those that come later included.
    pub(crate) nodes: Vec<NodeAddresses>,
    /// The first so many found the cluster; the others join it.
    pub(crate) founding: usize,
    /// A key that may do anything.
    pub(crate) root_key: String,
    cluster_secret: String,
    servers: Servers,
}

/// The four addresses of a node, and the one under which others reach it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NodeAddresses {
    /// Its own API.
    pub(crate) http: SocketAddr,
    /// Its gateway.
    pub(crate) gateway: SocketAddr,
    /// What peers dial.
    pub(crate) grpc: SocketAddr,
    /// Where gossip arrives.
    pub(crate) gossip: SocketAddr,
    /// Peers find the ports above at this address.
    pub(crate) advertise: IpAddr,
}

impl NodeAddresses {
    /// Ports a node takes.
    pub(crate) const COUNT: usize = 4;
}

impl Plan {
    /// All nodes found the cluster, and are reached where they listen.
    pub(crate) fn new(addresses: Vec<SocketAddr>, servers: &Servers) -> Self {
        let nodes = addresses.as_chunks().0.iter();
        let nodes = nodes.map(|&[http, gateway, grpc, gossip]| NodeAddresses {
            http,
            gateway,
            grpc,
            gossip,
            advertise: http.ip(),
        });
        let nodes: Vec<NodeAddresses> = nodes.collect();
        Plan {
            founding: nodes.len(),
            nodes,
            root_key: format!("steme_live_{}", random_hex(KEY_BYTES)),
            cluster_secret: random_hex(KEY_BYTES),
            servers: servers.clone(),
        }
    }

    /// How to start a node with its data below `dir`.
    pub(crate) fn launch(&self, node: usize, dir: &Path) -> Launch {
        let dir = dir.join(format!("node-{node}"));
        Launch {
            name: format!("stemedb node {node}"),
            program: self.servers.stemedb_binary.clone(),
            arguments: vec!["serve".to_owned()],
            environment: self.environment(node, &dir),
            prefix: "STEMEDB_",
            dir,
        }
    }

    /// What was asked for on the command line comes last and wins.
    fn environment(&self, node: usize, dir: &Path) -> Vec<(String, String)> {
        let own = &self.nodes[node];
        let mut settings = vec![
            ("BIND_ADDR", own.http.to_string()),
            ("GATEWAY_ADDR", own.gateway.to_string()),
            ("GRPC_ADDR", own.grpc.to_string()),
            ("GOSSIP_ADDR", own.gossip.to_string()),
            ("ADVERTISE_HOST", own.advertise.to_string()),
            ("NODE_NAME", format!("bench-{node}")),
            ("WAL_DIR", dir.join("wal").display().to_string()),
            ("DB_DIR", dir.join("db").display().to_string()),
            ("AUTH_ENABLED", "true".to_owned()),
            ("ROOT_API_KEY", self.root_key.clone()),
            ("CLUSTER_SECRET", self.cluster_secret.clone()),
        ];
        // One that came later was told nothing of founding, so it only ever joins.
        if node < self.founding {
            settings.push(("BOOTSTRAP_EXPECT", self.founding.to_string()));
        }
        if self.nodes.len() > 1 {
            let founders = self.nodes.iter().take(self.founding);
            let peers = founders.map(|n| SocketAddr::new(n.advertise, n.gossip.port()).to_string());
            settings.push(("JOIN", peers.collect::<Vec<_>>().join(",")));
        }
        let settings = settings.into_iter().map(|(name, value)| (format!("STEMEDB_{name}"), value));
        settings.chain(self.servers.stemedb_env.iter().cloned()).collect()
    }
}

fn random_hex(bytes: usize) -> String {
    let mut random = vec![0_u8; bytes];
    rand::rng().fill_bytes(&mut random);
    random.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
#[path = "stemedb_tests.rs"]
mod tests;
