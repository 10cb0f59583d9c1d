//! `stemedb serve`: a node, from its settings to its end.
//!
//! Ports are bound before a disk is touched, so a second node on this machine
//! fails with the port's name. Then the two doors open, to show how far the start is
//! ([`crate::doorstep`]), and the node starts behind them.
//! How it ends is in [`crate::ending`]; a door that can't open never lets it begin.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use stemedb::meta::NodeAddresses;
use stemedb::{Auth, Credential, Door, Fatal, Gossip, Node, NodeOptions, StartError, bind_gossip};
use stemedb_gateway::{Gateway, Options, RenderMetrics};
use tokio::net::lookup_host;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use crate::cli::ServeArgs;
use crate::commands::config::gather;
use crate::doorstep::Doorstep;
use crate::ending::{self, Asked, Reason};
use crate::exit::{DISK, ERROR, Failure};
use crate::settings::{Settings, SystemFiles, check, host_port};
use crate::{metrics_help, telemetry};

/// Bytes of chance in a key.
const KEY_BYTES: usize = 24;

/// Reads the settings, runs the node, comes back when it has ended.
pub(crate) fn run(args: ServeArgs) -> Result<(), Failure> {
    let settings = check(&gather(args.settings)?, &SystemFiles)?;
    telemetry::log_to_stderr(&settings.log)?;
    let mut runtime = match settings.worker_threads {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    runtime.worker_threads(settings.worker_threads.max(1)).enable_all();
    let runtime = runtime.build().map_err(Failure::error)?;
    let result = runtime.block_on(serve(settings, args.until_stdin_ends));
    // A read of standard input can't be called off: it must not keep the process.
    runtime.shutdown_background();
    result
}

async fn serve(settings: Settings, until_stdin_ends: bool) -> Result<(), Failure> {
    let (render, upkeep) = telemetry::collect_metrics()?;
    metrics_help::build_info();
    let upkeep = tokio::spawn(upkeep);
    // Before a disk is touched: as the first process of a container it would not even end by a signal
    // that nobody listens for.
    let mut asked = Asked::listen(until_stdin_ends)?;
    let ended = loop {
        match live(&settings, &render, until_stdin_ends, &mut asked).await {
            Ok(Reason::Removed) => tracing::warn!("starting again, as a new node"),
            Ok(Reason::Asked) => break Ok(()),
            Ok(Reason::Failed(failure)) | Err(failure) => break Err(failure),
        }
    };
    upkeep.abort();
    ended
}

/// One node, from its start to its end.
async fn live(
    settings: &Settings,
    render: &RenderMetrics,
    until_stdin_ends: bool,
    asked: &mut Asked,
) -> Result<Reason, Failure> {
    let doors = Doors::bind(settings)?;
    let doorstep = Doorstep::new(&settings.node_name);
    let closing = CancellationToken::new();
    // No load balancer stands before a node of `dev`.
    let grace = if until_stdin_ends { Duration::ZERO } else { settings.drain_grace };
    let (gateway, served) = doors.open(doorstep.clone(), render.clone(), grace, &closing);
    let mut starting = pin!(start_node(settings));
    let node = tokio::select! {
        node = &mut starting => node?,
        () = asked.next() => {
            gateway.hurry();
            closing.cancel();
            served.await;
            return ending::unstarted(starting, asked).await.map(|()| Reason::Asked);
        }
    };
    doorstep.fill(node.clone());
    tracing::info!(node = %node.id(), name = %settings.node_name, http = %settings.bind_addr,
        gateway = %settings.gateway_addr, "serving");
    let reason = ending::reason(&node, asked).await;
    let hands_over = matches!(reason, Reason::Asked);
    let doors = ending::Doors { gateway: &gateway, closing: &closing, grace };
    ending::close(&node, doors, served, hands_over, asked).await;
    // A disk that failed on the way down: a supervisor that hears of success would not look.
    let failed = node.fatal().borrow().clone();
    match (reason, failed) {
        (Reason::Asked, Some(Fatal::Setting(cause))) => Err(Failure::new(ERROR, cause)),
        (Reason::Asked, Some(Fatal::Disk(cause))) => Err(Failure::new(DISK, cause)),
        (reason, _) => Ok(reason),
    }
}

/// The two HTTP ports, bound.
struct Doors {
    own: tokio::net::TcpListener,
    gateway: tokio::net::TcpListener,
}

impl Doors {
    fn bind(settings: &Settings) -> Result<Self, Failure> {
        let open = |address: SocketAddr, what: &str| {
            let listener = bind(address, what)?;
            tokio::net::TcpListener::from_std(listener).map_err(Failure::error)
        };
        Ok(Self {
            own: open(settings.bind_addr, "HTTP")?,
            gateway: open(settings.gateway_addr, "gateway")?,
        })
    }

    /// Serves both until `closing`, and then for `grace`; what comes back ends when both have closed.
    fn open(
        self,
        front: Doorstep,
        metrics: RenderMetrics,
        grace: Duration,
        closing: &CancellationToken,
    ) -> (Gateway, impl Future<Output = ()> + use<>) {
        let options = Options {
            metrics,
            drain: grace,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Options::default()
        };
        let gateway = Gateway::new(Arc::new(front), options);
        let door = |listener, door| {
            let (gateway, closing) = (gateway.clone(), closing.clone());
            tokio::spawn(async move { gateway.serve(listener, door, closing).await })
        };
        let (own, public) = (door(self.own, Door::Own), door(self.gateway, Door::Gateway));
        let served = async move {
            for served in [own, public] {
                if let Err(error) = served.await {
                    tracing::error!(%error, "a door ended by itself");
                }
            }
        };
        (gateway, served)
    }
}

/// Binds a TCP port, or says which one can't be.
fn bind(address: SocketAddr, what: &str) -> Result<TcpListener, Failure> {
    let bound = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    bound.map_err(|error| Failure::new(ERROR, format!("the {what} port {address}: {error}")))
}

/// Starts the node that the settings describe.
async fn start_node(settings: &Settings) -> Result<Node, Failure> {
    let mut options = NodeOptions::alone("");
    options.groups.snapshot_bytes_per_second = settings.snapshot_bytes_per_second;
    options.wal_dir = settings.wal_dir.clone();
    options.db_dir = settings.db_dir.clone();
    options.segment_bytes = settings.wal_segment_bytes;
    options.name = settings.node_name.clone();
    options.zone = settings.zone.clone();
    options.addresses = addresses(settings);
    options.expect = settings.bootstrap_expect.unwrap_or(1);
    options.shards = settings.shards;
    options.replication_factor = settings.replication_factor;
    options.budget = settings.budget;
    options.live_log_bytes_max = settings.live_log_bytes_max;
    options.disk_reserve_bytes = settings.disk_reserve_bytes;
    options.auth = auth(settings);
    options.scrub_period = settings.scrub_period;
    options.replace_after = settings.replace_after;
    options.groups.lease_reads = settings.lease_reads;
    options.weight = settings.weight;
    options.rebalance_moves_max = settings.rebalance_moves_max;
    let secrets = [&settings.cluster_secret, &settings.cluster_secret_previous];
    options.secrets = secrets.into_iter().flatten().cloned().collect();
    // Without a secret a node that is alone opens no door to peers at all.
    if settings.cluster_secret.is_some() || settings.insecure {
        options.peers = Some(bind(settings.grpc_addr, "gRPC")?);
        options.gossip = Some(gossip(settings).await?);
    }
    Node::start(options).await.map_err(|error| {
        let code = if matches!(error, StartError::Disk(_)) { DISK } else { ERROR };
        Failure::new(code, error.to_string())
    })
}

async fn gossip(settings: &Settings) -> Result<Gossip, Failure> {
    let port = settings.gossip_addr.port();
    let socket = bind_gossip(settings.gossip_addr)
        .map_err(|error| Failure::new(ERROR, format!("the gossip port: {error}")))?;
    let host = settings.advertise_host.as_str();
    let advertise = lookup_host((host, port)).await.ok().and_then(|mut found| found.next());
    let advertise = advertise.ok_or_else(|| {
        Failure::new(ERROR, format!("STEMEDB_ADVERTISE_HOST: {host:?} has no address"))
    })?;
    let joins_only = settings.bootstrap_expect.is_none();
    Ok(Gossip { socket, advertise, join: settings.join.clone(), joins_only })
}

fn addresses(settings: &Settings) -> NodeAddresses {
    let at = |address: SocketAddr| host_port(&settings.advertise_host, address.port());
    NodeAddresses {
        http: at(settings.bind_addr),
        gateway: at(settings.gateway_addr),
        grpc: at(settings.grpc_addr),
        gossip: at(settings.gossip_addr),
    }
}

fn auth(settings: &Settings) -> Auth {
    if !settings.auth_enabled {
        return Auth::Off;
    }
    let given = settings.root_api_key.as_ref().map(|key| Credential::new(key.as_str()));
    let founds_alone = settings.bootstrap_expect == Some(1) && is_blank(&settings.wal_dir);
    if given.is_some() || !founds_alone {
        return Auth::On { root_key: given };
    }
    let key = new_root_key();
    eprintln!("stemedb: this new cluster has one root key, which is not shown again: {}", *key);
    Auth::On { root_key: Some(Credential::new(key.as_str())) }
}

/// Whether a node has never run here.
fn is_blank(folder: &Path) -> bool {
    std::fs::read_dir(folder).map_or(true, |mut entries| entries.next().is_none())
}

/// A key nobody has.
pub(crate) fn new_root_key() -> Zeroizing<String> {
    let chance = Zeroizing::new(rand::random::<[u8; KEY_BYTES]>());
    let digits = Zeroizing::new(hex::encode(*chance));
    Zeroizing::new(format!("steme_live_{}", *digits))
}
