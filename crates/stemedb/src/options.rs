//! What a node is started with.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use stemedb_engine::Budget;
use stemedb_machine::meta::{NodeAddresses, WEIGHT_DEFAULT};
use stemedb_membership::JoinTarget;
use stemedb_raft::GroupOptions;
use stemedb_types::limits::{REPLICATION_FACTOR_DEFAULT, SHARDS_DEFAULT};
use zeroize::Zeroizing;

use crate::Credential;

/// Shards that move at once where nobody says otherwise.
const REBALANCE_MOVES_DEFAULT: usize = 2;

/// Whether callers need keys.
#[derive(Clone, Debug)]
pub enum Auth {
    /// Every caller needs a key.
    On {
        /// The root key to seed; a cluster without any key needs one.
        root_key: Option<Credential>,
    },
    /// Every caller is root: for a program that is its own only caller, and for trying out.
    Off,
}

/// How a node meets others.
#[derive(Debug)]
pub struct Gossip {
    /// A bound UDP socket, from [`crate::bind_gossip`].
    pub socket: UdpSocket,
    /// Where others reach it.
    pub advertise: SocketAddr,
    /// Whom to knock at.
    pub join: Vec<JoinTarget>,
    /// Only join a cluster, never found one.
    pub joins_only: bool,
}

/// Everything a node is started with.
#[derive(Debug)]
pub struct NodeOptions {
    /// The directory of the log, on a volume of its own if there are two.
    pub wal_dir: PathBuf,
    /// The directory of the store.
    pub db_dir: PathBuf,
    /// The node's label; unique in its cluster.
    pub name: String,
    /// Its failure domain, of at most 64 bytes; empty if it names none.
    pub zone: String,
    /// A bound listener for peers; `None`: a port of the system's choice on loopback.
    pub peers: Option<TcpListener>,
    /// How it meets others; `None`: it is alone.
    pub gossip: Option<Gossip>,
    /// Where clients and peers reach it, as registered in the cluster.
    pub addresses: NodeAddresses,
    /// How many blank nodes found a cluster together.
    pub expect: u32,
    /// Shards of a cluster founded by this node.
    pub shards: u16,
    /// Replicas of each shard of a cluster founded by this node.
    pub replication_factor: u8,
    /// Whether callers need keys.
    pub auth: Auth,
    /// The cluster secret, then a previous one that is still valid.
    pub secrets: Vec<Zeroizing<Vec<u8>>>,
    /// Timers and thresholds of the Raft groups.
    pub groups: GroupOptions,
    /// Memory of the store.
    pub budget: Budget,
    /// Size of a segment of the log, in bytes.
    pub segment_bytes: u64,
    /// The store is flushed, and the log cut behind it, once the log holds this many bytes that
    /// only a replay would bring back.
    pub live_log_bytes_max: u64,
    /// Within this time everything on disk is read once and checked. Zero: never.
    pub scrub_period: Duration,
    /// How long a member may be away until it is removed and another takes its place, if one can.
    pub replace_after: Duration,
    /// How much of the data it should hold, relative to the other members: 1 to 100.
    pub weight: u8,
    /// Shards that change their replicas at once, as long as this node leads the meta group: 1 to 64.
    pub rebalance_moves_max: usize,
    /// Whether this node, while it is the meta leader, has damaged replicas replaced by new ones from
    /// their peers. Off: they stay set aside, for a person to look at first.
    pub replaces_damaged: bool,
    /// No write is taken, and no entry of a leader, while the log holds this many such bytes: what
    /// a start has to replay stays below 1 GiB. Never less than 3.5 times `live_log_bytes_max`.
    pub log_stop_bytes: u64,
    /// Free bytes of each volume below which writes are refused. `None`: a twentieth of the
    /// volume, at most 1 GiB. Never less than the node may write at one stroke (see
    /// [`NodeOptions::segment_bytes`] and [`NodeOptions::budget`]).
    pub disk_reserve_bytes: Option<u64>,
}

impl NodeOptions {
    /// A node alone, in two folders under `dir`, without keys: the way to embed one.
    pub fn alone(dir: impl AsRef<Path>) -> Self {
        let dir = dir.as_ref();
        Self {
            wal_dir: dir.join("wal"),
            db_dir: dir.join("db"),
            name: "alone".to_owned(),
            zone: String::new(),
            peers: None,
            gossip: None,
            addresses: NodeAddresses::default(),
            expect: 1,
            shards: SHARDS_DEFAULT,
            replication_factor: REPLICATION_FACTOR_DEFAULT,
            auth: Auth::Off,
            secrets: Vec::new(),
            groups: GroupOptions::default(),
            budget: Budget::default(),
            segment_bytes: 64 << 20,
            live_log_bytes_max: 256 << 20,
            scrub_period: Duration::from_secs(24 * 3600),
            replace_after: Duration::from_secs(5 * 60),
            weight: WEIGHT_DEFAULT,
            rebalance_moves_max: REBALANCE_MOVES_DEFAULT,
            replaces_damaged: true,
            log_stop_bytes: 896 << 20,
            disk_reserve_bytes: None,
        }
    }
}

/// Why a running node can't go on. It writes nothing more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fatal {
    /// A disk failed, or what it holds does not check: another start reads it anew.
    #[error("{0}")]
    Disk(String),
    /// Its cluster gave its place to others while it was away. Another start sets its data aside and
    /// joins as a new node.
    #[error("{0}")]
    Removed(String),
    /// It was told something that can't be: another start with the same settings ends the same.
    #[error("{0}")]
    Setting(String),
}

/// Why a node did not start. Nothing of it runs.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A directory is open in another process.
    #[error("{dir} is in use by another process")]
    InUse {
        /// Which directory.
        dir: String,
    },
    /// A setting that can't be.
    #[error("{0}")]
    Setting(String),
    /// A disk that can't be read or written, or whose content does not check.
    #[error("{0}")]
    Disk(String),
    /// The identity of the volumes.
    #[error("{0}")]
    Identity(String),
    /// A port or socket.
    #[error("{0}")]
    Network(String),
}
