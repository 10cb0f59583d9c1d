//! From texts to settings a node can start with, or the reason why it must not.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use stemedb::{Budget, JoinTarget};
use stemedb_types::limits::CLUSTER_SECRET_BYTES_MIN;
use zeroize::Zeroizing;

use super::effective::{Effective, Refused, Row};
use super::table::{Kind, Setting};

/// The gRPC port that needs no mention in a node's name.
const GRPC_PORT: u16 = 18182;
/// Longest file of a secret, in bytes.
const SECRET_BYTES_MAX: usize = 4096;
/// How a root key begins, and how many hex digits follow.
const KEY_PREFIX: &str = "steme_live_";
const KEY_DIGITS: usize = 48;

/// A secret's bytes, wiped when dropped.
pub(crate) type SecretBytes = Zeroizing<Vec<u8>>;

/// What a node is started with. Secrets are wiped when dropped and never printed.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) bind_addr: SocketAddr,
    pub(crate) gateway_addr: SocketAddr,
    pub(crate) grpc_addr: SocketAddr,
    pub(crate) gossip_addr: SocketAddr,
    /// What peers and clients dial.
    pub(crate) advertise_host: String,
    pub(crate) node_name: String,
    pub(crate) wal_dir: PathBuf,
    pub(crate) db_dir: PathBuf,
    /// Free bytes of each volume below which writes are refused; `None`: it depends on the volume.
    pub(crate) disk_reserve_bytes: Option<u64>,
    /// Size of one file of the log.
    pub(crate) wal_segment_bytes: u64,
    /// Peers' gossip addresses, without this node's own literal one.
    pub(crate) join: Vec<JoinTarget>,
    /// How many nodes found a cluster together; `None`: this node only ever joins.
    pub(crate) bootstrap_expect: Option<u32>,
    pub(crate) shards: u16,
    /// Threads that run the node.
    pub(crate) worker_threads: usize,
    /// Bytes of snapshots sent to peers in a second; 0: no limit.
    pub(crate) snapshot_bytes_per_second: u64,
    pub(crate) replication_factor: u8,
    /// Empty where none is named.
    pub(crate) zone: String,
    /// How much of the data it should hold, relative to the others.
    pub(crate) weight: u8,
    /// Shards that change their replicas at once.
    pub(crate) rebalance_moves_max: usize,
    pub(crate) auth_enabled: bool,
    pub(crate) root_api_key: Option<Zeroizing<String>>,
    pub(crate) cluster_secret: Option<SecretBytes>,
    pub(crate) cluster_secret_previous: Option<SecretBytes>,
    pub(crate) insecure: bool,
    /// What the store may use.
    pub(crate) budget: Budget,
    /// Log beyond which the store is flushed, bytes.
    pub(crate) live_log_bytes_max: u64,
    /// Zero: never.
    pub(crate) scrub_period: Duration,
    /// How long a member may be away.
    pub(crate) replace_after: Duration,
    /// Leaders may read by their lease.
    pub(crate) lease_reads: bool,
    pub(crate) drain_grace: Duration,
    pub(crate) log: String,
}

/// `host:port`, with brackets around an IPv6 address.
pub(crate) fn host_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// What the machine knows and the settings don't say.
pub(crate) trait Machine {
    /// A secret's file, whole.
    fn read(&self, path: &str) -> Result<SecretBytes, String>;
    /// The first address that is not loopback; `None` if there is none.
    fn outward_address(&self) -> Option<IpAddr>;
}

/// Reads every text and applies the start-up rules.
pub(crate) fn check(effective: &Effective, machine: &impl Machine) -> Result<Settings, Refused> {
    let from = Reader { effective, machine };
    let bind_addr = from.address("bind-addr")?;
    let grpc_addr = from.address("grpc-addr")?;
    let gossip_addr = from.address("gossip-addr")?;
    let advertise_host =
        from.text("advertise-host")?.map_or_else(|| from.outward(bind_addr), Ok)?;
    let join = from.peers(&advertise_host, gossip_addr)?;
    let settings = Settings {
        bind_addr,
        gateway_addr: from.address("gateway-addr")?,
        grpc_addr,
        gossip_addr,
        node_name: match from.text("node-name")? {
            Some(name) => name,
            None if grpc_addr.port() == GRPC_PORT => advertise_host.clone(),
            None => host_port(&advertise_host, grpc_addr.port()),
        },
        advertise_host,
        wal_dir: from.path("wal-dir")?,
        db_dir: from.path("db-dir")?,
        disk_reserve_bytes: Some(from.bytes("disk-reserve-bytes")?).filter(|bytes| *bytes > 0),
        wal_segment_bytes: from.bytes("wal-segment-bytes")?,
        bootstrap_expect: match from.number("bootstrap-expect")? {
            Some(expect) => Some(expect),
            None if join.is_empty() => Some(1),
            None => None,
        },
        join,
        worker_threads: match from.number("worker-threads")? {
            Some(number) => number as usize,
            None => worker_threads_default(),
        },
        snapshot_bytes_per_second: from.bytes("snapshot-bytes-per-second")?,
        shards: from.number("shards")?.map_or(Ok(0), u16::try_from).unwrap_or(u16::MAX),
        replication_factor: from
            .number("replication-factor")?
            .map_or(Ok(0), u8::try_from)
            .unwrap_or(u8::MAX),
        zone: from.text("zone")?.unwrap_or_default(),
        weight: from.number("weight")?.map_or(Ok(1), u8::try_from).unwrap_or(u8::MAX),
        rebalance_moves_max: from.number("rebalance-moves-max")?.unwrap_or(2) as usize,
        auth_enabled: from.switch("auth-enabled")?,
        root_api_key: from.root_key()?,
        cluster_secret: from.cluster_secret("cluster-secret")?,
        cluster_secret_previous: from.cluster_secret("cluster-secret-previous")?,
        insecure: from.switch("insecure")?,
        budget: from.budget()?,
        live_log_bytes_max: from.bytes("live-log-bytes-max")?,
        scrub_period: from.period("scrub-period")?,
        replace_after: from.replace_after()?,
        lease_reads: from.lease_reads()?,
        drain_grace: from.period("drain-grace")?,
        log: from.text("log")?.unwrap_or_default(),
    };
    from.switch("unsafe-skip-signatures").and_then(|skip| rules(&settings, skip))?;
    Ok(settings)
}

/// The start-up rules of the contract.
fn rules(settings: &Settings, skip_signatures: bool) -> Result<(), Refused> {
    if settings.wal_dir == settings.db_dir {
        return Err(Refused::forbidden(
            "the log and the store need a folder each: --wal-dir and --db-dir are the same",
        ));
    }
    if skip_signatures && settings.auth_enabled {
        return Err(Refused::forbidden(
            "STEMEDB_UNSAFE_SKIP_SIGNATURES=true needs STEMEDB_AUTH_ENABLED=false: with auth on, agents are told apart by their signatures",
        ));
    }
    let open =
        [settings.bind_addr, settings.gateway_addr].into_iter().find(|a| !a.ip().is_loopback());
    if let Some(address) = open.filter(|_| !settings.auth_enabled && !settings.insecure) {
        return Err(Refused::forbidden(format!(
            "auth is off and {address} is not a loopback address: anybody could be root; bind to 127.0.0.1 or say --insecure",
        )));
    }
    let many = !settings.join.is_empty() || settings.bootstrap_expect.is_some_and(|n| n > 1);
    if many && settings.cluster_secret.is_none() && !settings.insecure {
        return Err(Refused::forbidden(
            "more than one node needs a cluster secret: set STEMEDB_CLUSTER_SECRET (or _FILE) to the same 16 bytes or more on each, or say --insecure",
        ));
    }
    Ok(())
}

/// Reads texts as what they must be.
struct Reader<'a, M> {
    effective: &'a Effective,
    machine: &'a M,
}

impl<M: Machine> Reader<'_, M> {
    /// A row with a text. The table has every flag asked for, which a test makes sure of.
    fn given(&self, flag: &str) -> Option<(&Row, &str)> {
        let row = self.effective.row(flag)?;
        row.text.as_deref().map(|text| (row, text))
    }

    fn refuse<T>(row: &Row, why: impl fmt::Display) -> Result<T, Refused> {
        Err(Refused::unreadable(format!("{}: {why}", row.name())))
    }

    fn address(&self, flag: &str) -> Result<SocketAddr, Refused> {
        let Some((row, text)) = self.given(flag) else {
            return Err(Refused::unreadable(format!("--{flag} has no address")));
        };
        match text.parse() {
            Ok(address) => Ok(address),
            Err(_) => Self::refuse(row, format!("{text:?} is not ip:port")),
        }
    }

    fn text(&self, flag: &str) -> Result<Option<String>, Refused> {
        match self.given(flag) {
            None => Ok(None),
            Some((row, text)) if text.trim() != text || text.is_empty() => {
                Self::refuse(row, format!("{text:?} is empty or has white space around it"))
            }
            Some((_, text)) => Ok(Some(text.to_owned())),
        }
    }

    fn path(&self, flag: &str) -> Result<PathBuf, Refused> {
        match self.given(flag) {
            Some((_, text)) if !text.is_empty() => Ok(PathBuf::from(text)),
            _ => Err(Refused::unreadable(format!("--{flag} has no path"))),
        }
    }

    fn number(&self, flag: &str) -> Result<Option<u32>, Refused> {
        let Some((row, text)) = self.given(flag) else { return Ok(None) };
        let Setting { kind: Kind::Number(least, most), .. } = row.setting else {
            return Self::refuse(row, "is no number");
        };
        match text.parse() {
            Ok(number) if (*least..=*most).contains(&number) => Ok(Some(number)),
            _ => Self::refuse(row, format!("{text:?} is not a number from {least} to {most}")),
        }
    }

    fn bytes(&self, flag: &str) -> Result<u64, Refused> {
        let Some((row, text)) = self.given(flag) else { return Ok(0) };
        let Setting { kind: Kind::Bytes(least, most), .. } = row.setting else {
            return Self::refuse(row, "is no number of bytes");
        };
        match bytes(text) {
            Some(number) if (*least..=*most).contains(&number) => Ok(number),
            _ => Self::refuse(
                row,
                format!("{text:?} is not a number of bytes from {least} to {most} (64MiB, say)"),
            ),
        }
    }

    fn budget(&self) -> Result<Budget, Refused> {
        let size = |flag| self.bytes(flag).map(|b| usize::try_from(b).unwrap_or(usize::MAX));
        Ok(Budget {
            block_cache_bytes: size("block-cache-bytes")?,
            write_buffer_bytes: size("write-buffer-bytes")?,
            compaction_bytes_per_second: self.bytes("compaction-bytes-per-second")?,
        })
    }

    fn period(&self, flag: &str) -> Result<Duration, Refused> {
        let Some((row, text)) = self.given(flag) else { return Ok(Duration::ZERO) };
        match period(text) {
            Some(period) => Ok(period),
            None => Self::refuse(row, format!("{text:?} is not a time like 90s, 15m, 24h or 7d")),
        }
    }

    /// Shorter than a restart it would move data at every rollout.
    fn replace_after(&self) -> Result<Duration, Refused> {
        let after = self.period("replace-after")?;
        match self.given("replace-after") {
            Some((row, text)) if after < REPLACE_AFTER_MIN => {
                Self::refuse(row, format!("{text} is less than {}s", REPLACE_AFTER_MIN.as_secs()))
            }
            _ => Ok(after),
        }
    }

    fn lease_reads(&self) -> Result<bool, Refused> {
        match self.given("read-mode") {
            None | Some((_, "quorum")) => Ok(false),
            Some((_, "lease")) => Ok(true),
            Some((row, text)) => Self::refuse(row, format!("{text:?} is not quorum or lease")),
        }
    }

    fn switch(&self, flag: &str) -> Result<bool, Refused> {
        match self.given(flag) {
            None | Some((_, "false" | "0")) => Ok(false),
            Some((_, "true" | "1")) => Ok(true),
            Some((row, text)) => {
                Self::refuse(row, format!("{text:?} is not one of true, false, 1, 0"))
            }
        }
    }

    /// The bind host, if it can be dialled; else the machine's.
    ///
    /// A node alone on a machine without a network is fine with loopback; with others it would
    /// tell them an address that leads back to themselves.
    fn outward(&self, bind: SocketAddr) -> Result<String, Refused> {
        if !bind.ip().is_unspecified() {
            return Ok(bind.ip().to_string());
        }
        let alone = self.given("join").is_none() && self.number("bootstrap-expect")? <= Some(1);
        match self.machine.outward_address() {
            Some(address) => Ok(address.to_string()),
            None if alone => Ok(Ipv4Addr::LOCALHOST.to_string()),
            None => Err(Refused::unreadable(
                "this machine has no address that others can dial: set STEMEDB_ADVERTISE_HOST",
            )),
        }
    }

    fn peers(&self, own_host: &str, gossip: SocketAddr) -> Result<Vec<JoinTarget>, Refused> {
        let Some((row, text)) = self.given("join") else { return Ok(Vec::new()) };
        let mut peers = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            match part.parse() {
                Ok(peer) => peers.push(peer),
                Err(_) => return Self::refuse(row, format!("{part:?} is not host[:port]")),
            }
        }
        let own = |peer: &JoinTarget| peer.port == gossip.port() && peer.host == own_host;
        peers.retain(|peer| !own(peer));
        Ok(peers)
    }

    /// A secret's text, from the setting itself or from the file that `<flag>-file` names.
    fn secret(&self, flag: &str) -> Result<Option<(&Row, SecretBytes)>, Refused> {
        let file = format!("{flag}-file");
        match (self.given(flag), self.given(&file)) {
            (None, None) => Ok(None),
            (Some((row, text)), None) => {
                Ok(Some((row, Zeroizing::new(text.trim().as_bytes().to_vec()))))
            }
            (None, Some((row, path))) => match self.machine.read(path) {
                Err(why) => Self::refuse(row, format!("{path}: {why}")),
                Ok(bytes) if bytes.len() > SECRET_BYTES_MAX => {
                    Self::refuse(row, format!("{path} is longer than {SECRET_BYTES_MAX} bytes"))
                }
                // Editors end files with a line break, which is no part of a secret.
                Ok(bytes) => Ok(Some((row, Zeroizing::new(bytes.trim_ascii().to_vec())))),
            },
            (Some((row, _)), Some((other, _))) => {
                Self::refuse(row, format!("give it or {}, not both", other.name()))
            }
        }
    }

    fn root_key(&self) -> Result<Option<Zeroizing<String>>, Refused> {
        let Some((row, bytes)) = self.secret("root-api-key")? else { return Ok(None) };
        let digits = bytes.strip_prefix(KEY_PREFIX.as_bytes());
        let sound = digits.is_some_and(|digits| {
            let hex = |b: &u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
            digits.len() == KEY_DIGITS && digits.iter().all(hex)
        });
        match std::str::from_utf8(&bytes) {
            Ok(key) if sound => Ok(Some(Zeroizing::new(key.to_owned()))),
            _ => Self::refuse(
                row,
                format!("a root key is {KEY_PREFIX} and {KEY_DIGITS} lowercase hex digits"),
            ),
        }
    }

    fn cluster_secret(&self, flag: &str) -> Result<Option<SecretBytes>, Refused> {
        match self.secret(flag)? {
            Some((row, bytes)) if bytes.len() < CLUSTER_SECRET_BYTES_MIN => Self::refuse(
                row,
                format!(
                    "a cluster secret is {CLUSTER_SECRET_BYTES_MIN} bytes or more, this one has {}",
                    bytes.len()
                ),
            ),
            found => Ok(found.map(|(_, bytes)| bytes)),
        }
    }
}

/// Longest period that can be set.
const PERIOD_MAX: Duration = Duration::from_secs(366 * 24 * 3600);
/// The least that a node may be away before it is given up.
const REPLACE_AFTER_MIN: Duration = Duration::from_secs(10);

/// Reads a time like `90`, `90s`, `15m`, `24h` or `7d`.
fn period(text: &str) -> Option<Duration> {
    let (number, unit_s) = match text.strip_suffix(['s', 'm', 'h', 'd']) {
        None => (text, 1),
        Some(number) if text.ends_with('s') => (number, 1),
        Some(number) if text.ends_with('m') => (number, 60),
        Some(number) if text.ends_with('h') => (number, 3600),
        Some(number) => (number, 24 * 3600),
    };
    // `parse` would take a sign.
    if !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let period = Duration::from_secs(number.parse::<u64>().ok()?.checked_mul(unit_s)?);
    (period <= PERIOD_MAX).then_some(period)
}

/// A number of bytes, with its unit or without.
fn bytes(text: &str) -> Option<u64> {
    let units = [("KiB", 10), ("MiB", 20), ("GiB", 30)];
    let unit = units.iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)));
    let (number, shift) = unit.unwrap_or((text, 0));
    number.trim_end().parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// One thread on two cores or fewer, where work stealing costs more than it gives (measured:
/// `docs/adr/0005-one-thread.md`); half of the cores where there are more.
fn worker_threads_default() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (cores / 2).max(1)
}
