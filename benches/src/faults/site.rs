//! A cluster of real processes, and everything that can be done to it.
//!
//! Nodes have numbers that stay, whatever process, address and disk they have at the moment. All
//! processes are ended when the site is dropped, then its network is taken down.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use http::{HeaderValue, Method};
use rustix::process::Signal;
use tokio::time::{Instant, sleep, timeout};

use super::clock::Clocks;
use super::network::Network;
use crate::admin::{Admin, Owner, owner};
use crate::cli::Servers;
use crate::fleet::{Fleet, resolve};
use crate::http::get;
use crate::place::free_addresses;
use crate::stemedb::{NodeAddresses, Plan, make_project_key};

/// How long a cluster may take to be ready again.
const READY_LIMIT: Duration = Duration::from_secs(90);
/// How long it may take until no shard moves and none lacks a replica.
const WHOLE_LIMIT: Duration = Duration::from_secs(300);
/// How long a node may take to say whether it is ready.
const PROBE_LIMIT: Duration = Duration::from_secs(2);
/// Between two looks: nothing tells from outside when it is time.
const LOOK: Duration = Duration::from_millis(50);
/// So many looks in a row must show the same, since a move may be about to begin.
const WHOLE_LOOKS: u32 = 4;
/// Between two of these.
const WHOLE_LOOK: Duration = Duration::from_millis(250);
/// How long nodes may go on writing after they were filled.
const SETTLE_LIMIT: Duration = Duration::from_secs(300);
/// Between two looks at how much they write.
const SETTLE_LOOK: Duration = Duration::from_secs(5);
/// All nodes together write less than this between two looks when they are done.
const SETTLED_BYTES: u64 = 3 << 20;
/// How long a node may take to look at a clock that was moved.
const CLOCK_LIMIT: Duration = Duration::from_secs(5);
/// How long the cluster may take to do what an operator tells it.
const TELL_LIMIT: Duration = Duration::from_secs(60);
/// Between two times of telling it.
const TELL_AGAIN: Duration = Duration::from_millis(500);
/// What it answers when it can't do it now.
const NOT_NOW: [u16; 3] = [409, 412, 503];

/// A cluster and its network.
pub(crate) struct Site {
    // Dropped first: a namespace goes with the last process in it.
    fleet: Fleet,
    nodes: Vec<Node>,
    network: Network,
    plan: Plan,
    dir: PathBuf,
    admin: Admin,
    clocks: Option<Clocks>,
}

/// One node: its number stays, all else may change.
#[derive(Clone, Debug, Default)]
struct Node {
    /// Its number among the processes, once it was started.
    server: Option<usize>,
    running: bool,
    paused: bool,
    generation: u8,
    /// The cluster was told to do without it.
    leaving: bool,
}

/// What a node says of its readiness.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Said {
    /// The status; 0 if it did not answer.
    pub(crate) status: u16,
    /// Its reasons.
    pub(crate) text: String,
}

impl Site {
    /// Places so many nodes, the first `founding` of which found the cluster. None runs yet.
    ///
    /// # Errors
    /// An address is taken, or the network can't be had.
    pub(crate) async fn new(
        servers: &Servers,
        mut network: Network,
        nodes: usize,
        founding: usize,
        dir: PathBuf,
    ) -> Result<Self> {
        std::fs::create_dir_all(&dir)?;
        let mut plan = Plan::new(free_addresses(nodes * NodeAddresses::COUNT)?, servers);
        plan.founding = founding;
        for node in 0..nodes {
            let at = network.addresses(node, 0, ports(&plan.nodes[node]));
            network.place(node, &at).await?;
            plan.nodes[node] = at;
        }
        let admin = Admin::new(&plan.root_key)?;
        let nodes = vec![Node::default(); nodes];
        let fleet = Fleet::start(Vec::new())?;
        Ok(Site { fleet, nodes, network, plan, dir, admin, clocks: None })
    }

    /// From now on nodes are started with a clock that can be moved.
    ///
    /// # Errors
    /// There is no C compiler for the library it takes.
    pub(crate) fn with_clocks(&mut self) -> Result<()> {
        self.clocks = Some(Clocks::new(&self.dir)?);
        Ok(())
    }

    /// Starts the founding nodes and waits until they are ready.
    ///
    /// # Errors
    /// One did not start, or was not ready in time.
    pub(crate) async fn found(&mut self) -> Result<()> {
        (0..self.plan.founding).try_for_each(|node| self.start(node))?;
        self.ready().await
    }

    /// A key that may write to a project of its own.
    ///
    /// # Errors
    /// The cluster made none in time.
    pub(crate) async fn project_key(&mut self) -> Result<HeaderValue> {
        let root = HeaderValue::try_from(&self.plan.root_key)?;
        let gateway = self.gateway(0);
        let make = async || make_project_key(gateway, &root).await;
        self.fleet.wait_until("a project key", make).await
    }

    /// Asks with a key that may see everything.
    pub(crate) fn admin(&self) -> &Admin {
        &self.admin
    }

    /// The network, to be cut.
    pub(crate) fn network(&mut self) -> &mut Network {
        &mut self.network
    }

    /// Where the data of the nodes lies.
    pub(crate) fn folder(&self, node: usize) -> PathBuf {
        self.dir.join(format!("node-{node}"))
    }

    /// The gateway of a node, where it is now.
    pub(crate) fn gateway(&self, node: usize) -> SocketAddr {
        self.plan.nodes[node].gateway
    }

    /// A node's own API, where it is now.
    pub(crate) fn own(&self, node: usize) -> SocketAddr {
        self.plan.nodes[node].http
    }

    /// The nodes whose process runs, paused ones included.
    pub(crate) fn running(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|&node| self.nodes[node].running).collect()
    }

    /// Starts a node where it is now.
    ///
    /// # Errors
    /// It could not be started.
    pub(crate) fn start(&mut self, node: usize) -> Result<()> {
        let mut launch = self.plan.launch(node, &self.dir);
        if let Some(clocks) = &self.clocks {
            launch.environment.extend(clocks.wind(node)?);
        }
        let launch = self.network.launch(node, launch)?;
        let server = match self.nodes[node].server {
            Some(server) => {
                self.fleet.start_as(server, launch)?;
                server
            }
            None => self.fleet.add(launch)?,
        };
        let generation = self.nodes[node].generation;
        let (running, paused, leaving) = (true, false, false);
        self.nodes[node] = Node { server: Some(server), running, paused, generation, leaving };
        self.network.begun(node, self.fleet.id(server)?);
        Ok(())
    }

    /// SIGKILL; the node is gone when this returns.
    ///
    /// # Errors
    /// It never ran.
    pub(crate) async fn kill(&mut self, node: usize) -> Result<()> {
        let server = self.server(node)?;
        self.nodes[node].running = false;
        self.fleet.kill(server).await
    }

    /// SIGKILL of all of these before any is waited for; they are gone when this returns.
    ///
    /// # Errors
    /// One does not run.
    pub(crate) async fn kill_all(&mut self, nodes: &[usize]) -> Result<()> {
        for &node in nodes {
            self.fleet.signal(self.server(node)?, Signal::KILL)?;
        }
        for &node in nodes {
            self.kill(node).await?;
        }
        Ok(())
    }

    /// SIGTERM; the node is gone when this returns.
    ///
    /// # Errors
    /// It never ran, or did not end in time.
    pub(crate) async fn terminate(&mut self, node: usize) -> Result<()> {
        let server = self.server(node)?;
        self.nodes[node].running = false;
        self.fleet.end(server).await.map(drop)
    }

    /// SIGSTOP, or SIGCONT.
    ///
    /// # Errors
    /// It does not run.
    pub(crate) fn pause(&mut self, node: usize, paused: bool) -> Result<()> {
        let signal = if paused { Signal::STOP } else { Signal::CONT };
        self.fleet.signal(self.server(node)?, signal)?;
        self.nodes[node].paused = paused;
        Ok(())
    }

    /// Empties both directories of a node that does not run.
    ///
    /// # Errors
    /// The operating system refused.
    pub(crate) fn wipe(&self, node: usize) -> Result<()> {
        ensure!(!self.nodes[node].running, "node {node} runs");
        for volume in ["wal", "db"] {
            let volume = self.folder(node).join(volume);
            std::fs::remove_dir_all(&volume).with_context(|| format!("{}", volume.display()))?;
        }
        Ok(())
    }

    /// Gives a node that does not run another address.
    ///
    /// # Errors
    /// The network has no other, or the operating system refused.
    pub(crate) async fn relocate(&mut self, node: usize) -> Result<()> {
        let generation = self.nodes[node].generation + 1;
        let at = self.network.addresses(node, generation, ports(&self.plan.nodes[node]));
        ensure!(at.advertise != self.plan.nodes[node].advertise, "there is no other address");
        self.network.place(node, &at).await?;
        self.nodes[node].generation = generation;
        self.plan.nodes[node] = at;
        Ok(())
    }

    /// Puts the clock of a running node off by so many seconds, and waits until it has taken the time from
    /// it.
    ///
    /// # Errors
    /// The node did not look, or is given another time.
    pub(crate) async fn set_clock(&self, node: usize, seconds: i64) -> Result<()> {
        let clocks = self.clocks.as_ref().context("no clock here can be moved")?;
        clocks.set(node, seconds)?;
        let (looks, deadline) = (clocks.looks(node)?, Instant::now() + CLOCK_LIMIT);
        while clocks.looks(node)? == looks || !clocks.is_off_by(node, seconds)? {
            ensure!(Instant::now() < deadline, "the clock of node {node} is not {seconds} s off");
            // Any answer has a date, for which it looks at its clock; whether one comes does not matter.
            let _ = timeout(PROBE_LIMIT, get(self.own(node), "/readyz")).await;
            sleep(LOOK).await;
        }
        Ok(())
    }

    /// Tells the cluster to take everything away from a node, and waits until that is done.
    ///
    /// # Errors
    /// It refused, knows no such call, or did not do it in time.
    pub(crate) async fn drain(&mut self, node: usize) -> Result<()> {
        let id = self.tell(node, "drain").await?;
        self.nodes[node].leaving = true;
        let deadline = Instant::now() + WHOLE_LIMIT;
        while self.admin.layout(self.own(0)).await?.nodes().contains(id.as_str()) {
            ensure!(Instant::now() < deadline, "node {node} not drained within {WHOLE_LIMIT:?}");
            sleep(WHOLE_LOOK).await;
        }
        Ok(())
    }

    /// Tells the cluster that a node is a member no more.
    ///
    /// # Errors
    /// It refused, or knows no such call.
    pub(crate) async fn remove(&mut self, node: usize) -> Result<()> {
        self.tell(node, "remove").await.map(drop)
    }

    /// Waits until every node that runs says that it is ready, on both doors.
    ///
    /// # Errors
    /// One ended, or was not ready in time; the error says what it said last.
    pub(crate) async fn ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + READY_LIMIT;
        for node in self.running() {
            for door in [self.own(node), self.gateway(node)] {
                self.answers(node, door, deadline).await?;
            }
        }
        Ok(())
    }

    async fn answers(&mut self, node: usize, door: SocketAddr, deadline: Instant) -> Result<()> {
        loop {
            let asked = async { get(door, "/readyz").await?.success() };
            let said = match timeout(PROBE_LIMIT, asked).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(error)) => format!("{error:#}"),
                Err(_) => format!("no answer in {PROBE_LIMIT:?}"),
            };
            self.fleet.check(self.server(node)?)?;
            if Instant::now() >= deadline {
                bail!("node {node} is not ready after {READY_LIMIT:?}: {said}");
            }
            sleep(LOOK).await;
        }
    }

    /// Waits until a node answers that it is ready.
    ///
    /// # Errors
    /// As [`Site::ready`].
    pub(crate) async fn answering(&mut self, node: usize) -> Result<()> {
        self.answers(node, self.own(node), Instant::now() + READY_LIMIT).await
    }

    /// What a node says of its readiness.
    ///
    /// # Errors
    /// It does not answer.
    pub(crate) async fn said(&self, node: usize) -> Result<Said> {
        let answer = timeout(PROBE_LIMIT, get(self.own(node), "/readyz")).await??;
        let body: serde_json::Value = serde_json::from_slice(&answer.body)?;
        let reasons = body["reasons"].as_array().context("no reasons in the answer")?;
        let reasons: Vec<&str> = reasons.iter().filter_map(|reason| reason.as_str()).collect();
        Ok(Said { status: answer.status.as_u16(), text: reasons.join("; ") })
    }

    /// Makes a node that does not run the only voter of all it holds; what the command said.
    ///
    /// # Errors
    /// It refused.
    pub(crate) async fn recover(&self, node: usize) -> Result<String> {
        ensure!(!self.nodes[node].running, "node {node} runs");
        let folder = self.folder(node);
        let mut command =
            tokio::process::Command::new(resolve(&self.plan.launch(node, &self.dir).program)?);
        command.arg("recover").arg("--accept-data-loss").kill_on_drop(true);
        command.arg("--wal-dir").arg(folder.join("wal")).arg("--db-dir").arg(folder.join("db"));
        let output = timeout(READY_LIMIT, command.output()).await??;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        ensure!(output.status.success(), "{}: {said}", output.status);
        Ok(said)
    }

    /// Waits until the cluster is as it should be, as every running node sees it: its members are
    /// the nodes that run, no shard moves or lacks a leader or a replica, and each node holds some.
    ///
    /// # Errors
    /// Not in time; the error says what was missing last.
    pub(crate) async fn whole(&mut self) -> Result<()> {
        let (deadline, mut looks) = (Instant::now() + WHOLE_LIMIT, 0);
        while looks < WHOLE_LOOKS {
            let missing = self.missing().await;
            looks = if missing.is_none() { looks + 1 } else { 0 };
            if let Some(missing) = missing
                && Instant::now() >= deadline
            {
                bail!("not whole after {WHOLE_LIMIT:?}: {missing}");
            }
            sleep(WHOLE_LOOK).await;
        }
        Ok(())
    }

    /// What keeps the cluster from being whole.
    async fn missing(&self) -> Option<String> {
        for node in self.running() {
            if self.nodes[node].leaving {
                continue;
            }
            match self.missing_to(node).await {
                Ok(None) => {}
                Ok(missing) => return missing,
                Err(error) => return Some(format!("node {node}: {error:#}")),
            }
        }
        None
    }

    async fn missing_to(&self, node: usize) -> Result<Option<String>> {
        let shards = self.admin.shards(self.own(node)).await?;
        if shards != crate::admin::Shards::default() {
            return Ok(Some(format!("node {node} sees {shards:?}")));
        }
        let staying = self.running().into_iter().filter(|&node| !self.nodes[node].leaving);
        let names: BTreeSet<String> = staying.map(name).collect();
        let leaving = self.running().into_iter().filter(|&node| self.nodes[node].leaving);
        let leaving: BTreeSet<String> = leaving.map(name).collect();
        let mut members = self.admin.members(self.own(node)).await?;
        members.retain(|(name, ..)| !leaving.contains(name));
        let seen: Vec<&String> = members.iter().map(|(name, ..)| name).collect();
        if seen.len() != names.len() || !seen.iter().all(|name| names.contains(*name)) {
            return Ok(Some(format!("node {node} sees the members {seen:?}, not {names:?}")));
        }
        if let Some((name, ..)) = members.iter().find(|(_, _, alive)| !alive) {
            return Ok(Some(format!("node {node} does not hear {name}")));
        }
        let layout = self.admin.layout(self.own(node)).await?;
        let holders = layout.nodes();
        let idle = members.iter().find(|(_, id, _)| !holders.contains(id.as_str()));
        Ok(idle.map(|(name, ..)| format!("{name} holds nothing as node {node} sees it")))
    }

    /// Waits until the nodes write little.
    ///
    /// # Errors
    /// One has ended, or they went on writing.
    pub(crate) async fn settle(&self) -> Result<()> {
        let (deadline, mut last) = (Instant::now() + SETTLE_LIMIT, self.written_bytes()?);
        loop {
            sleep(SETTLE_LOOK).await;
            let now = self.written_bytes()?;
            if now - last < SETTLED_BYTES {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "not settled after {SETTLE_LIMIT:?}");
            last = now;
        }
    }

    fn written_bytes(&self) -> Result<u64> {
        let running = self.running().into_iter();
        running.map(|node| self.fleet.written_bytes(self.server(node)?)).sum()
    }

    /// Which node leads the shard of a bucket, as the others say; those that are paused are not
    /// asked.
    ///
    /// # Errors
    /// Nobody knows.
    pub(crate) async fn leader(&self, key: &HeaderValue, bucket: &str) -> Result<usize> {
        let mut last = None;
        for node in self.running() {
            if self.nodes[node].paused {
                continue;
            }
            match owner(self.own(node), key, bucket).await {
                Ok(Owner::Here) => return Ok(node),
                Ok(Owner::At(address)) => {
                    let is = |n: &NodeAddresses| {
                        SocketAddr::new(n.advertise, n.http.port()).to_string() == address
                    };
                    let found = self.plan.nodes.iter().position(is);
                    return found.with_context(|| format!("no node of ours is at {address}"));
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| anyhow::anyhow!("no node runs")))
    }

    /// Waits until a bucket's shard is led by a node that says so itself.
    ///
    /// # Errors
    /// Not in time.
    pub(crate) async fn led(&self, key: &HeaderValue, bucket: &str) -> Result<usize> {
        let deadline = Instant::now() + READY_LIMIT;
        loop {
            let leader = self.leader(key, bucket).await;
            if let Ok(node) = leader
                && matches!(owner(self.own(node), key, bucket).await, Ok(Owner::Here))
            {
                return Ok(node);
            }
            ensure!(Instant::now() < deadline, "nobody leads {bucket}: {leader:?}");
            sleep(LOOK).await;
        }
    }

    /// Ends all nodes in good order.
    ///
    /// # Errors
    /// The operating system refused.
    pub(crate) async fn stop(self) -> Result<()> {
        self.fleet.stop().await
    }

    /// Tells the cluster to do something with a member, again while it can't; the member's id. That it is
    /// told twice does no harm: one that is gone already is gone.
    async fn tell(&self, node: usize, what: &str) -> Result<String> {
        let (deadline, mut told) = (Instant::now() + TELL_LIMIT, None);
        loop {
            let refused = match self.tell_once(node, what, &mut told).await {
                Ok(Ok(id)) => return Ok(id),
                Ok(Err(refused)) => return Err(refused),
                Err(not_now) => not_now,
            };
            if Instant::now() >= deadline {
                return Err(refused.context(format!("{what} node {node}: not in {TELL_LIMIT:?}")));
            }
            sleep(TELL_AGAIN).await;
        }
    }

    /// An error may pass; an error inside does not. `told` is the member's id once it was told and no
    /// answer came.
    async fn tell_once(
        &self,
        node: usize,
        what: &str,
        told: &mut Option<String>,
    ) -> Result<Result<String>> {
        let members = self.admin.members(self.own(0)).await?;
        let Some((_, id, _)) = members.into_iter().find(|(member, ..)| *member == name(node))
        else {
            let gone = told.clone().with_context(|| format!("node {node} is no member"));
            return Ok(gone);
        };
        let path = format!("/v1/cluster/members/{id}/{what}");
        *told = Some(id.clone());
        let answer = self.admin.ask(self.gateway(0), Method::POST, &path).await?;
        let passes = NOT_NOW.contains(&answer.status.as_u16());
        let done = answer.success().map(|_| id).with_context(|| format!("POST {path}"));
        if passes { done.map(Ok) } else { Ok(done) }
    }

    fn server(&self, node: usize) -> Result<usize> {
        self.nodes[node].server.with_context(|| format!("node {node} never ran"))
    }
}

/// How a node is called in the cluster.
fn name(node: usize) -> String {
    format!("bench-{node}")
}

fn ports(at: &NodeAddresses) -> [u16; 4] {
    [at.http, at.gateway, at.grpc, at.gossip].map(|address| address.port())
}
