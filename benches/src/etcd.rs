//! etcd: three members on loopback, driven over its gRPC.
//!
//! Members run with their defaults: every write is synced, reads are
//! linearizable. Only the limit on the size of the store is raised, so that a
//! long run does not end in an alarm. Clients share eight gRPC connections
//! spread over the members, since HTTP/2 carries many calls at once. Eight was
//! chosen, not found: whether another number suits etcd better is not measured.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use tonic::transport::{Channel, Endpoint};

use crate::cli::Servers;
use crate::fleet::{Fleet, Launch};
use crate::http::get;
use crate::load;
use crate::place::free_addresses;

#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all)]
mod pb {
    tonic::include_proto!("etcdserverpb");
}

use pb::kv_client::KvClient;
use pb::{PutRequest, RangeRequest};

/// gRPC connections, spread over the members.
const CONNECTIONS: usize = 8;
/// The limit on the size of the store, 8 GiB; the default is 2.
const QUOTA_BYTES: u64 = 8 << 30;

/// A running cluster.
pub(crate) struct Cluster {
    /// Its processes.
    pub(crate) fleet: Fleet,
    /// Where each member talks to clients.
    pub(crate) members: Vec<SocketAddr>,
}

/// What a member says of itself when it leads.
const LEADS: &str = "etcd_server_is_leader 1";

/// The connections that clients share.
pub(crate) struct Store {
    channels: Vec<Channel>,
}

/// One client's handle on a shared connection.
pub(crate) struct Session {
    kv: KvClient<Channel>,
}

/// Starts so many members with data below `dir` and waits until each one says it is healthy,
/// which takes a leader.
///
/// # Errors
/// A member did not start or was not healthy in time.
pub(crate) async fn start(servers: &Servers, members: usize, dir: &Path) -> Result<Cluster> {
    let addresses = free_addresses(members * 2)?;
    let (clients, peers) = addresses.split_at(members);
    let launch = |member| launch(servers, member, clients[member], peers, dir);
    let fleet = Fleet::start((0..members).map(launch).collect())?;
    let mut cluster = Cluster { fleet, members: clients.to_vec() };
    cluster.healthy().await?;
    Ok(cluster)
}

async fn check_health(address: SocketAddr) -> Result<()> {
    let body = get(address, "/health").await?.success()?;
    let health: serde_json::Value = serde_json::from_slice(&body)?;
    ensure!(health["health"] == "true", "not healthy: {health}");
    Ok(())
}

fn launch(
    servers: &Servers,
    member: usize,
    client: SocketAddr,
    peers: &[SocketAddr],
    dir: &Path,
) -> Launch {
    let name = |member: usize| format!("member-{member}");
    let cluster = peers.iter().enumerate().map(|(i, peer)| format!("{}=http://{peer}", name(i)));
    let (client, peer) = (format!("http://{client}"), format!("http://{}", peers[member]));
    let arguments = [
        ("name", name(member)),
        ("data-dir", "data".to_owned()),
        ("listen-client-urls", client.clone()),
        ("advertise-client-urls", client),
        ("listen-peer-urls", peer.clone()),
        ("initial-advertise-peer-urls", peer),
        ("initial-cluster", cluster.collect::<Vec<_>>().join(",")),
        ("initial-cluster-state", "new".to_owned()),
        ("quota-backend-bytes", QUOTA_BYTES.to_string()),
    ];
    Launch {
        name: format!("etcd {}", name(member)),
        program: servers.etcd_binary.clone(),
        arguments: arguments.map(|(option, value)| format!("--{option}={value}")).into(),
        environment: Vec::new(),
        prefix: "ETCD_",
        dir: dir.join(name(member)),
    }
}

impl Cluster {
    /// Which member says that it leads.
    ///
    /// # Errors
    /// None does.
    pub(crate) async fn leader(&self) -> Result<usize> {
        for (member, &address) in self.members.iter().enumerate() {
            let text = get(address, "/metrics").await?.success()?;
            if String::from_utf8_lossy(&text).lines().any(|line| line == LEADS) {
                return Ok(member);
            }
        }
        bail!("no member leads")
    }

    /// Waits until each member says it is healthy.
    ///
    /// # Errors
    /// One ended, or was not healthy in time.
    pub(crate) async fn healthy(&mut self) -> Result<()> {
        for &address in &self.members {
            let healthy = async || check_health(address).await;
            self.fleet.wait_until(&format!("etcd at {address} is healthy"), healthy).await?;
        }
        Ok(())
    }

    /// Opens the connections.
    ///
    /// # Errors
    /// A member did not accept one.
    pub(crate) async fn store(&self) -> Result<Store> {
        let mut channels = Vec::with_capacity(CONNECTIONS);
        for address in self.members.iter().cycle().take(CONNECTIONS) {
            let endpoint = Endpoint::from_shared(format!("http://{address}"))?.tcp_nodelay(true);
            channels.push(endpoint.connect().await.with_context(|| format!("dial {address}"))?);
        }
        Ok(Store { channels })
    }
}

impl load::Store for Store {
    type Session = Session;

    async fn session(&self, client: usize) -> Result<Session> {
        let channel = self.channels[client % self.channels.len()].clone();
        Ok(Session { kv: KvClient::new(channel) })
    }
}

impl load::Session for Session {
    async fn put(&mut self, key: &str, value: Bytes) -> Result<()> {
        let key = Bytes::copy_from_slice(key.as_bytes());
        self.kv.put(PutRequest { key, value, lease: 0 }).await?;
        Ok(())
    }

    async fn get(&mut self, key: &str) -> Result<Bytes> {
        let key = Bytes::copy_from_slice(key.as_bytes());
        let request = RangeRequest { key, ..RangeRequest::default() };
        let answer = self.kv.range(request).await?.into_inner();
        answer.kvs.into_iter().next().map(|kv| kv.value).context("no such key")
    }
}
