//! One seed: a cluster, what goes wrong with it, and the verdict.
//!
//! First the safety phase: clients ask, faults come as the schedule says, and every few
//! milliseconds somebody looks at all replicas. Then the liveness phase: faults stop, everybody is
//! started again, and within a bounded time every key must take a write and all replicas must have
//! come to the same rows. At the end the history is judged as a whole.
//!
//! All of it runs on the thread that asks, in tokio's paused time: nothing waits for a clock, and
//! nothing happens beside it.

mod look;
mod strike;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use stemedb_placement::{Member, Request, plan};
use stemedb_types::{GroupId, Layout, NodeId};
use tokio::runtime::RngSeed;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use crate::checks::{Checks, damage};
use crate::client::{Client, KEYS, Shared};
use crate::draw::Draw;
use crate::history::Counts;
use crate::mover::{Mover, REPLICATION_FACTOR};
use crate::net::{Net, Traffic, Weather};
use crate::node::{Held, News, Node, Place, World};
use crate::rows::Kind;
use crate::schedule::{Reads, Schedule};
use crate::trace::Trace;

/// How long the cluster has to heal, in simulated time.
const HEALING: Duration = Duration::from_secs(60);
/// Least and most between two looks of the mover, in ms.
const MOVE_MS: std::ops::RangeInclusive<u64> = 40..=200;
/// News that wait to be heard: far more than all replicas have to tell at once, since nobody hears
/// them while a node starts.
const NEWS_MAX: usize = 1024;
/// Most nodes that may join.
const NODES_MAX: usize = 8;
/// Least and most between two looks at all replicas, in ms.
const LOOK_MS: std::ops::RangeInclusive<u64> = 5..=60;

/// What a run came to.
#[derive(Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// What is wrong, if anything is.
    pub failure: Option<String>,
    /// The hash of the trace.
    pub hash: String,
    /// How long it was, in simulated ms.
    pub simulated_ms: u64,
    /// Faults that came, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// What clients heard.
    pub counts: Counts,
    /// What the network did.
    pub traffic: Traffic,
    /// In how many terms somebody led.
    pub terms: usize,
    /// How often replicas were compared.
    pub looks: u64,
    /// Replicas that were set aside for damage.
    pub set_aside: u64,
    /// The history was too long to be judged.
    pub undecided: bool,
}

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Notes panics of this thread instead of printing them: in a simulation they are findings.
pub fn note_panics() {
    std::panic::set_hook(Box::new(|info| {
        PANIC.with_borrow_mut(|panic| {
            panic.get_or_insert_with(|| info.to_string());
        });
    }));
}

fn panicked() -> Option<String> {
    PANIC.with_borrow_mut(Option::take)
}

/// Runs a schedule on a kind of store. `staging` is a folder for what is not simulated; whoever runs
/// two at a time gives each another.
pub fn run(schedule: &Schedule, kind: Kind, staging: &Path, trace: Trace) -> (Report, Trace) {
    let _ = panicked();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        // Whom a watch channel wakes first, tokio leaves to chance.
        .rng_seed(RngSeed::from_bytes(&schedule.seed.to_be_bytes()))
        .build();
    let Ok(runtime) = runtime else { unreachable!("a runtime without IO needs nothing") };
    let place = Place { folder: staging.join("run"), kind };
    let ran = runtime.block_on(async {
        let mut cluster = Cluster::new(schedule, &place, trace.clone())?;
        let failure = cluster.live(schedule).await.err();
        Ok(cluster.end(failure))
    });
    drop(runtime);
    let _ = std::fs::remove_dir_all(&place.folder);
    ran.unwrap_or_else(|cause: String| (Report::not_begun(schedule.seed, cause), trace))
}

impl Report {
    /// Of a run that could not begin.
    fn not_begun(seed: u64, cause: String) -> Self {
        Self {
            seed,
            failure: Some(cause),
            hash: String::new(),
            simulated_ms: 0,
            faults: BTreeMap::new(),
            counts: Counts::default(),
            traffic: Traffic::default(),
            terms: 0,
            looks: 0,
            set_aside: 0,
            undecided: false,
        }
    }
}

/// What is to come.
enum Act {
    Fault(usize),
    Start(usize),
    Resume(usize),
    Heal,
    /// Nobody believes any more that this node is gone.
    Hush(NodeId),
    Clear,
    Quicken(usize),
    Move,
    /// Waits for the successor of a leader that died.
    Coup {
        group: GroupId,
        term: u64,
        until: Instant,
        for_ms: u64,
    },
    /// Those who know more than `behind` lose power.
    Relay {
        group: GroupId,
        behind: usize,
        place: u64,
        down_ms: u64,
    },
}

struct Cluster {
    seed: u64,
    draw: Draw,
    begun: Instant,
    world: World,
    news: mpsc::Receiver<News>,
    shared: Arc<Shared>,
    nodes: Vec<Node>,
    groups: Vec<GroupId>,
    layout: Layout,
    acts: BTreeMap<(Instant, u64), Act>,
    acts_made: u64,
    /// Nodes that hold less than they should: no other may be damaged meanwhile.
    hurt: BTreeSet<usize>,
    /// Those of them that have not noticed: a start reads all of a log.
    latent: BTreeSet<usize>,
    /// Nodes whose disk was damaged, ever: they may find it.
    damaged: BTreeSet<NodeId>,
    next_node: u64,
    checks: Checks,
    mover: Mover,
    /// What went wrong outside of a look.
    wrong: Option<String>,
    /// Everything is where the layout says, as of the mover's last look.
    in_place: bool,
    faults: BTreeMap<&'static str, u64>,
    set_aside: u64,
    undecided: bool,
    trace: Trace,
}

impl Cluster {
    fn new(schedule: &Schedule, place: &Place, trace: Trace) -> Result<Self, String> {
        let mut draw = Draw::new(schedule.seed ^ 0x5eed);
        let (tell, news) = mpsc::channel(NEWS_MAX);
        let lease_reads = schedule.reads == Reads::Leased;
        let world = World { net: Net::new(draw.fork()), news: tell, lease_reads };
        let ids: Vec<NodeId> = (1..=schedule.nodes as u64).map(NodeId).collect();
        let members: Vec<Member> = ids
            .iter()
            .map(|node| Member { node: *node, zone: Some(zone(*node)), weight: 1 })
            .collect();
        let request = Request {
            members: &members,
            replication_factor: REPLICATION_FACTOR,
            shards: schedule.shards,
            previous: &Layout::default(),
            next_replica_id: 1,
        };
        let Ok(plan) = plan(&request) else { unreachable!("members are distinct, shards given") };
        let mut nodes = Vec::new();
        for id in &ids {
            let mut node = Node::new(*id, &zone(*id), place.clone(), draw.fork())?;
            node.held = held_by(*id, &plan.layout);
            nodes.push(node);
        }
        Ok(Self {
            seed: schedule.seed,
            begun: Instant::now(),
            world,
            news,
            shared: Arc::new(Shared::read(schedule.reads)),
            next_node: nodes.len() as u64 + 1,
            nodes,
            groups: plan.layout.groups().collect(),
            layout: plan.layout,
            acts: BTreeMap::new(),
            acts_made: 0,
            hurt: BTreeSet::new(),
            latent: BTreeSet::new(),
            damaged: BTreeSet::new(),
            checks: Checks::default(),
            mover: Mover::new(draw.fork()),
            wrong: None,
            in_place: false,
            faults: BTreeMap::new(),
            set_aside: 0,
            undecided: false,
            trace,
            draw,
        })
    }

    fn tell(&mut self, who: &str, what: impl std::fmt::Display) {
        let at_us = self.begun.elapsed().as_micros() as u64;
        self.trace.line(at_us, who, what);
    }

    fn after(&mut self, ms: u64, act: Act) {
        self.acts_made += 1;
        self.acts.insert((Instant::now() + Duration::from_millis(ms), self.acts_made), act);
    }

    async fn live(&mut self, schedule: &Schedule) -> Result<(), String> {
        for (number, event) in schedule.events.iter().enumerate() {
            self.after(event.at_ms, Act::Fault(number));
        }
        for node in 0..self.nodes.len() {
            self.start(node).await;
        }
        self.after(500, Act::Move);
        let shards: Vec<GroupId> =
            self.groups.iter().copied().filter(|group| *group != GroupId::META).collect();
        let mut clients = tokio::task::JoinSet::new();
        for number in 0..schedule.clients {
            let draw = self.draw.fork();
            let client = Client::new(number, self.shared.clone(), shards.clone(), draw);
            clients.spawn(client.naming(schedule.named).run());
        }
        let over = self.begun + Duration::from_millis(schedule.chaos_ms);
        while Instant::now() < over {
            self.step(schedule, over).await?;
        }
        self.tell("world", "faults stop");
        self.calm_down().await;
        let over = Instant::now() + HEALING;
        let mut last =
            Client::new(schedule.clients, self.shared.clone(), shards.clone(), self.draw.fork());
        last = last.naming(schedule.named);
        // A task, and not waited for beside a step: a step is never broken off.
        let insisting = tokio::spawn(async move {
            // Whoever asks during the healing is answered as well, but not waited for.
            sleep(Duration::from_millis(500)).await;
            clients.shutdown().await;
            for shard in shards {
                for key in 0..KEYS {
                    last.insist((shard, key as u8)).await;
                    last.read((shard, key as u8)).await;
                }
            }
        });
        while !insisting.is_finished() {
            self.step(schedule, over).await?;
            if Instant::now() >= over {
                return Err(format!(
                    "not every key takes a write {HEALING:?} after the last fault: {}; {}",
                    self.mover.why,
                    self.behind().join(", ")
                ));
            }
        }
        self.settle(schedule, over).await?;
        self.judge()
    }

    /// Lets the world go on until something is to be done, does it, and looks.
    async fn step(&mut self, schedule: &Schedule, over: Instant) -> Result<(), String> {
        let look_ms = self.draw.range(LOOK_MS);
        let look = Instant::now() + Duration::from_millis(look_ms);
        let next = self.acts.keys().next().map_or(look, |(at, _)| (*at).min(look)).min(over);
        let news = tokio::select! {
            biased;
            news = self.news.recv() => news,
            () = sleep_until(next) => None,
        };
        if let Some(news) = news {
            self.hear(news).await;
        }
        while let Some(entry) = self.acts.first_entry()
            && entry.key().0 <= Instant::now()
        {
            let act = entry.remove();
            self.act(schedule, act).await;
        }
        self.look()
    }

    async fn hear(&mut self, news: News) {
        self.tell("news", format_args!("{news:?}"));
        match news {
            News::SetAside { node, group, replica, cause } => {
                let Some(number) = self.nodes.iter().position(|known| known.id == node) else {
                    return;
                };
                self.set_aside += 1;
                if !self.damaged.contains(&node) {
                    self.wrong.get_or_insert(damage::unexplained(group, replica, &cause));
                }
                self.hurt.insert(number);
                self.nodes[number].aside.insert(replica);
                self.world.net.give_up(node, replica);
                self.tell("world", format_args!("replica {replica} of group {group} is set aside"));
            }
            News::Ends { node, life, .. } => {
                let number = self.nodes.iter().position(|known| known.id == node);
                let Some(number) = number.filter(|number| self.nodes[*number].lives == life) else {
                    return;
                };
                self.crash(number, true);
                let down_ms = self.draw.range(1..=1500);
                self.after(down_ms, Act::Start(number));
            }
        }
    }

    fn crash(&mut self, number: usize, power: bool) {
        let id = self.nodes[number].id;
        self.shared.directory().nodes.remove(&id);
        let world = self.world.clone();
        if let Err(cause) = self.nodes[number].crash(&world, power) {
            self.wrong.get_or_insert(cause);
        }
        self.tell("world", format_args!("node {id} is down, power lost: {power}"));
    }

    async fn start(&mut self, number: usize) {
        if self.nodes[number].is_up() || self.nodes[number].gone {
            return;
        }
        let world = self.world.clone();
        let node = &mut self.nodes[number];
        let (id, started) = (node.id, node.start(&world).await);
        self.tell("world", format_args!("node {id} starts: {started:?}"));
        let node = &self.nodes[number];
        match started {
            Ok(()) => {
                self.latent.remove(&number);
                if let Some(life) = &node.life {
                    let known = (life.groups.clone(), node.clock_ms);
                    let mut directory = self.shared.directory();
                    directory.nodes.insert(id, known);
                    directory.lives.insert(id, node.lives);
                }
            }
            Err(_) => {
                self.crash(number, true);
                self.after(400, Act::Start(number));
            }
        }
    }

    async fn act(&mut self, schedule: &Schedule, act: Act) {
        match act {
            Act::Start(number) => self.start(number).await,
            Act::Resume(number) => {
                if let Some(life) = &self.nodes[number].life {
                    life.process.resume();
                }
            }
            Act::Heal => self.world.net.heal(),
            Act::Hush(node) => self.world.net.hush(node),
            Act::Clear => self.world.net.set_weather(Weather::FAIR),
            Act::Move => self.move_on().await,
            Act::Quicken(number) => self.nodes[number].set_sync_us(100..=400),
            Act::Coup { group, term, until, for_ms } => {
                self.strike_voters(group, term, until, for_ms);
            }
            Act::Relay { group, behind, place, down_ms } => {
                self.pass_on(group, behind, place, down_ms);
            }
            Act::Fault(number) => {
                let fault = schedule.events[number].fault.clone();
                self.tell("fault", format_args!("{fault:?}"));
                if self.strike(&fault).await {
                    *self.faults.entry(fault.kind()).or_default() += 1;
                }
            }
        }
    }

    /// Lets the mover take its steps.
    async fn move_on(&mut self) {
        let world = self.world.clone();
        let newest = self.checks.layouts.newest();
        let before = std::mem::take(&mut self.mover.why);
        self.in_place = self.mover.look(&world, &mut self.nodes, &self.layout, newest).await;
        if self.mover.why != before {
            let why = self.mover.why.clone();
            self.tell("mover", if why.is_empty() { "all is in place" } else { &why });
        }
        if self.in_place {
            // Whatever was lost is there again, but for what nobody has noticed yet.
            self.hurt.retain(|number| self.latent.contains(number));
            for number in 0..self.nodes.len() {
                let node = &self.nodes[number];
                if node.leaving && !node.gone && node.held.is_empty() {
                    self.crash(number, false);
                    self.nodes[number].gone = true;
                }
            }
        }
        let ms = self.draw.range(MOVE_MS);
        self.after(ms, Act::Move);
    }

    /// No more faults; whoever is down or paused comes back.
    async fn calm_down(&mut self) {
        self.acts.retain(|_, act| matches!(act, Act::Start(_) | Act::Move));
        self.world.net.heal();
        self.world.net.set_weather(Weather::FAIR);
        for number in 0..self.nodes.len() {
            let node = &self.nodes[number];
            node.set_sync_us(100..=400);
            node.log.fail_syncs_after(u64::MAX);
            node.log.crash_after(u64::MAX);
            match &node.life {
                Some(life) => life.process.resume(),
                None => self.start(number).await,
            }
        }
    }

    fn end(mut self, failure: Option<String>) -> (Report, Trace) {
        let simulated_ms = self.begun.elapsed().as_millis() as u64;
        let (counts, traffic) = (self.shared.counts(), self.world.net.traffic());
        if let Some(failure) = &failure {
            self.tell("verdict", failure);
        }
        let fingerprint = self.world.net.fingerprint();
        self.tell("end", format_args!("{counts:?} {traffic:?} messages {fingerprint:016x}"));
        for node in &mut self.nodes {
            if let Some(life) = node.life.take() {
                life.process.kill();
            }
        }
        let report = Report {
            seed: self.seed,
            failure,
            hash: self.trace.hash(),
            simulated_ms,
            faults: self.faults,
            counts,
            traffic,
            terms: self.checks.leaders.terms(),
            looks: self.checks.replicas.looks(),
            set_aside: self.set_aside,
            undecided: self.undecided,
        };
        (report, self.trace)
    }
}

fn zone(node: NodeId) -> String {
    format!("zone-{}", node.0 % 3)
}

fn held_by(node: NodeId, layout: &Layout) -> BTreeMap<GroupId, Held> {
    let held = layout.groups().filter_map(|group| {
        let replicas = layout.replicas(group)?;
        let own = replicas.iter().find(|replica| replica.node == node)?;
        Some((group, Held { replica: own.id, founders: Some(replicas.to_vec()) }))
    });
    held.collect()
}
