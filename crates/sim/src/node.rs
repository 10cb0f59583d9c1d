//! A simulated node: what of it survives a crash, and what runs.
//!
//! It is the real log, over a disk in memory; the real groups, over the store's forgetful map (or
//! over RocksDB); and a task that does what the node's monitor does, more often: it flushes,
//! announces, cuts the log, sets aside what is damaged, and notices a log that has failed.
//!
//! A node that dies is killed as a process is, wherever its tasks stand. What its disks hold then
//! is decided by chance, each in its own way.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use stemedb_engine::Store;
use stemedb_raft::{Error, GroupOptions, Groups, GroupsOptions, Replay, Space, runtime};
use stemedb_types::{GroupId, NodeId, Replica, ReplicaId};
use stemedb_wal::disk::sim::SimDisk;
use stemedb_wal::{Driver, OnDamage, OpenError, Options, StreamId, Wal};
use tokio::sync::{Notify, mpsc};
use tokio::time::sleep;

use crate::clock::DriftingClock;
use crate::draw::Draw;
use crate::net::{Endpoint, Net};
use crate::process::Process;
use crate::rows::{Kind, Rows};

/// Low, so that what is rare in a data centre is common here.
pub const GROUP_OPTIONS: GroupOptions = GroupOptions {
    heartbeat_interval_ms: 100,
    election_timeout_min_ms: 300,
    election_timeout_max_ms: 600,
    snapshot_entries: 100,
    kept_entries: 20,
    snapshot_bytes_per_second: 0,
    snapshot_file_bytes: 4 << 10,
    lease_reads: false,
    votes_late: false,
};

const SEGMENT_BYTES: u64 = 64 << 10;

/// A replica that a node is to hold.
#[derive(Clone, Debug)]
pub struct Held {
    /// Which.
    pub replica: ReplicaId,
    /// All members, if it is one of those the group begins with.
    pub founders: Option<Vec<Replica>>,
}

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// A replica found its own bytes damaged: it was closed, and must not return.
    SetAside {
        /// On which node.
        node: NodeId,
        /// Of which group.
        group: GroupId,
        /// Which.
        replica: ReplicaId,
        /// Why.
        cause: String,
    },
    /// The node can't go on: its log failed, or a group did.
    Ends {
        /// Which node.
        node: NodeId,
        /// In which of its lives.
        life: u64,
        /// Why.
        cause: String,
    },
}

/// How long the disk takes to sync, in microseconds, until it is changed.
pub type SyncUs = Arc<(AtomicU64, AtomicU64)>;

/// One node.
pub struct Node {
    /// Its id; a wiped disk gets another.
    pub id: NodeId,
    /// Its failure domain.
    pub zone: String,
    /// The log's disk.
    pub log: SimDisk,
    /// The rows.
    pub rows: Rows,
    /// The replicas it is to hold. Durable.
    pub held: BTreeMap<GroupId, Held>,
    /// The replicas it has set aside. Durable.
    pub aside: BTreeSet<ReplicaId>,
    /// How far its clock is from the true one, in ms.
    pub clock_ms: i64,
    /// How long its disk takes.
    pub sync_us: SyncUs,
    /// Its process.
    pub life: Option<Life>,
    /// How often it was started.
    pub lives: u64,
    /// It was not there from the beginning.
    pub joined: bool,
    /// It is to hold nothing, and then to go.
    pub leaving: bool,
    /// It has left.
    pub gone: bool,
    /// Where nodes have their folders, and on what their rows stand.
    place: Place,
    draw: Draw,
}

/// Where the nodes of a run keep what is not simulated.
#[derive(Clone, Debug)]
pub struct Place {
    /// A folder, of this run alone.
    pub folder: PathBuf,
    /// What rows stand on.
    pub kind: Kind,
}

/// What of a node runs.
#[derive(Clone)]
pub struct Life {
    /// Its tasks.
    pub process: Arc<Process>,
    /// Its log.
    pub wal: Wal,
    /// Its replicas.
    pub groups: Groups,
    options: GroupsOptions,
}

/// What a start needs besides the node.
#[derive(Clone)]
pub struct World {
    /// The network.
    pub net: Net,
    /// Where nodes tell their news.
    pub news: mpsc::Sender<News>,
    /// Leaders may read by their lease.
    pub lease_reads: bool,
}

impl Node {
    /// A node with empty disks. An error: it has no folder, and why.
    pub fn new(id: NodeId, zone: &str, place: Place, mut draw: Draw) -> Result<Self, String> {
        let log = SimDisk::new(draw.word());
        // Of its own even if another node had this id before.
        let folder = place.folder.join(format!("{id}-{:x}", draw.word()));
        let rows = Rows::new(place.kind, &folder)?;
        let sync_us = Arc::new((AtomicU64::new(100), AtomicU64::new(400)));
        Ok(Self {
            id,
            zone: zone.to_owned(),
            log,
            rows,
            held: BTreeMap::new(),
            aside: BTreeSet::new(),
            clock_ms: 0,
            sync_us,
            life: None,
            lives: 0,
            joined: false,
            leaving: false,
            gone: false,
            place,
            draw,
        })
    }

    /// Whether it has a process.
    pub fn is_up(&self) -> bool {
        self.life.is_some()
    }

    /// Where it keeps what is not simulated.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// How long the disk takes from now on.
    pub fn set_sync_us(&self, range: RangeInclusive<u64>) {
        self.sync_us.0.store(*range.start(), Ordering::Relaxed);
        self.sync_us.1.store(*range.end(), Ordering::Relaxed);
    }

    /// Kills the process, if there is one, and takes from the disks what a crash takes: nothing of
    /// the log if only the process died, any of what was not synced if the power went. An error: the
    /// simulation could not do it.
    pub fn crash(&mut self, world: &World, power: bool) -> Result<(), String> {
        world.net.leave(self.id);
        if let Some(life) = self.life.take() {
            life.process.kill();
        }
        self.log.crash();
        let draw = &mut self.draw;
        self.log = if !power {
            self.log.restart_process()
        } else if draw.one_in(3) {
            self.log.restart_pages(4096, &mut |bound| draw.below(bound))
        } else {
            self.log.restart(&mut |bound| draw.below(bound))
        };
        self.rows.crash(draw)
    }

    /// Takes the disks away and puts empty ones in their place: whoever starts there is another
    /// node.
    pub fn wipe(&mut self, world: &World, id: NodeId) -> Result<(), String> {
        self.crash(world, true)?;
        let place = self.place.clone();
        *self = Self::new(id, &self.zone, place, self.draw.fork())?;
        Ok(())
    }

    /// Starts the process. An error: it did not start, and why.
    pub async fn start(&mut self, world: &World) -> Result<(), String> {
        self.lives += 1;
        let process = Process::new(self.draw.fork());
        let rows = self.rows.store()?;
        let opening = self.open(rows, world.clone(), process.clone());
        let starting = runtime::on(process.clone(), opening);
        let opened = starting.await.map_err(|_| "it was killed".to_owned()).flatten();
        match opened {
            Ok(life) => {
                let endpoint = Endpoint { process: process.clone(), groups: life.groups.clone() };
                world.net.arrive(self.id, endpoint);
                self.life = Some(life);
                Ok(())
            }
            Err(cause) => {
                process.kill();
                Err(cause)
            }
        }
    }

    /// What a start does, as a task of the process.
    fn open(
        &mut self,
        rows: Arc<dyn Store>,
        world: World,
        process: Arc<Process>,
    ) -> impl Future<Output = Result<Life, String>> + Send + 'static {
        let (id, lives, log) = (self.id, self.lives, self.log.clone());
        let (held, aside) = (self.held.clone(), self.aside.clone());
        let (sync_us, mut draw) = (self.sync_us.clone(), self.draw.fork());
        async move {
            let wanted = Arc::new(Notify::new());
            let options = Options {
                segment_bytes: SEGMENT_BYTES,
                tail_cache_bytes: [0, 4 << 10, 1 << 20][draw.below(3) as usize],
                spare_segments: 0,
                on_damage: OnDamage::Quarantine,
                ..Options::default()
            };
            let wake = wanted.clone();
            let opened =
                Wal::open_driven(Arc::new(log), options, Box::new(move || wake.notify_one()));
            let (wal, driver, _) = opened.map_err(|error: OpenError| error.to_string())?;
            for replica in &aside {
                wal.quarantine(StreamId(replica.0), "it was set aside");
            }
            runtime::on(process.clone(), drive(driver, wanted, sync_us, draw.fork()));
            let groups = Groups::new();
            let wire = world.net.wire(id, process.clone());
            let options = GroupsOptions {
                wal: wal.clone(),
                store: rows.clone(),
                plane: Arc::new(wire),
                group: GroupOptions { lease_reads: world.lease_reads, ..GROUP_OPTIONS },
                replay: Replay::default(),
                space: Space::default(),
                evidence: Arc::new(world.net.belief(id)),
                clock: Arc::new(DriftingClock::of(id)),
            };
            let life = Life { process: process.clone(), wal: wal.clone(), groups, options };
            // From here on peers may ask: what is not open yet is not here.
            for (group, held) in held {
                if aside.contains(&held.replica) {
                    continue;
                }
                match life.open(group, &held).await {
                    Ok(()) => {}
                    Err(Error::Damaged(damage)) => {
                        let news = News::SetAside {
                            node: id,
                            group,
                            replica: held.replica,
                            cause: damage.cause,
                        };
                        let _ = world.news.send(news).await;
                    }
                    Err(error) => return Err(format!("group {group}: {error}")),
                }
            }
            let keeper = Keeper { node: id, life: lives, wal, rows, groups: life.groups.clone() };
            runtime::on(process, keeper.keep(world.news, draw));
            Ok(life)
        }
    }
}

impl Life {
    /// Opens a replica, and founds its group if it is one of the first.
    pub async fn open(&self, group: GroupId, held: &Held) -> Result<(), Error> {
        let opened = self.groups.open(group, held.replica, &self.options).await?;
        match &held.founders {
            Some(members) => opened.found(members).await,
            None => Ok(()),
        }
    }
}

/// The log's writer: a task that takes as long as a disk does.
async fn drive(driver: Driver, wanted: Arc<Notify>, sync_us: SyncUs, mut draw: Draw) {
    loop {
        let us = sync_us.0.load(Ordering::Relaxed)..=sync_us.1.load(Ordering::Relaxed);
        sleep(Duration::from_micros(draw.range(us))).await;
        if !driver.step() {
            wanted.notified().await;
        }
    }
}

/// Does what the node's monitor does.
struct Keeper {
    node: NodeId,
    life: u64,
    wal: Wal,
    rows: Arc<dyn Store>,
    groups: Groups,
}

impl Keeper {
    async fn keep(self, news: mpsc::Sender<News>, mut draw: Draw) {
        loop {
            sleep(Duration::from_millis(draw.range(10..=150))).await;
            if let Some(cause) = self.wal.poisoned() {
                let _ = news.send(News::Ends { node: self.node, life: self.life, cause }).await;
                return;
            }
            for group in self.groups.all() {
                let damage = group.damage();
                let stopped = group.stopped();
                let (id, replica) = (group.id(), group.replica());
                if let Some(damage) = damage {
                    self.wal.quarantine(StreamId(replica.0), &damage.cause);
                    self.groups.close_one(id).await;
                    let (node, cause) = (self.node, damage.cause);
                    let _ = news.send(News::SetAside { node, group: id, replica, cause }).await;
                } else if let Some(cause) = stopped {
                    let _ = news.send(News::Ends { node: self.node, life: self.life, cause }).await;
                    return;
                }
            }
            if draw.one_in(3) {
                let _ = self.rows.flush();
            }
            for group in self.groups.all() {
                let _ = group.announce_flushed().await;
                if draw.one_in(2) {
                    let _ = group.shorten_log(draw.one_in(4)).await;
                }
            }
        }
    }
}
