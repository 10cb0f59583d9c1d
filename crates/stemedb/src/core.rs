//! What the parts of a node share.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use stemedb_engine::Store;
use stemedb_machine::meta::{KeyHash, MetaState};
use stemedb_membership as membership;
use stemedb_raft::clock::SystemClock;
use stemedb_raft::wal::Wal;
use stemedb_raft::{Group, GroupOptions, Groups, GroupsOptions, Leadership, Replay};
use stemedb_rpc::Plane;
use stemedb_types::{GroupId, NodeId, ReplicaId};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admit::Lookups;
use crate::damage::Findings;
use crate::disk::Living;
use crate::founding::Description;
use crate::handover::GoingDown;
use crate::heal::Repairs;
use crate::held::Held;
use crate::identity::IdentityFiles;
use crate::liveness::Liveness;
use crate::lost::LostDisks;
use crate::options::{Auth, Fatal};
use crate::quarantine::Quarantine;
use crate::router::Owners;
use crate::volumes::Disks;
use crate::{Error, Unavailable};

/// A node that has not heard of a meta quorum for this long answers no call that needs a key.
pub(crate) const META_SILENCE_MAX: Duration = Duration::from_secs(5);

/// What a node is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It has no cluster yet, and waits for this.
    Blank(String),
    /// It has one.
    Member,
    /// It goes down.
    Draining,
}

/// What the parts of a node share. Held by the node and, weakly, by its tasks' inputs.
pub(crate) struct Core {
    pub(crate) node: NodeId,
    pub(crate) description: Description,
    pub(crate) joins_only: bool,
    pub(crate) auth: Auth,
    pub(crate) shards: u16,
    pub(crate) replication_factor: u8,
    pub(crate) group_options: GroupOptions,
    pub(crate) live_log_bytes_max: u64,
    pub(crate) log_stop_bytes: u64,
    /// How long a member may be away until another takes its place.
    pub(crate) replace_after: Duration,
    /// Shards that change their replicas at once.
    pub(crate) moves_max: usize,
    pub(crate) wal: Wal,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) groups: Groups,
    pub(crate) wal_dir: PathBuf,
    pub(crate) db_dir: PathBuf,
    /// Replicas that are not to be trusted.
    pub(crate) quarantine: Arc<Quarantine>,
    /// Replicas whose files are here.
    pub(crate) held: Arc<Held>,
    /// Replicas held here of which their group's leader said that they are no members any more.
    pub(crate) forgotten: Mutex<BTreeSet<(GroupId, ReplicaId)>>,
    /// Takes what is found damaged.
    pub(crate) findings: Findings,
    /// Whether the meta leader has damaged replicas replaced.
    pub(crate) replaces_damaged: bool,
    pub(crate) repairs: Repairs,
    /// Members whose disks seem to be lost.
    pub(crate) lost_disks: LostDisks,
    /// Peers that are to be given no leadership.
    pub(crate) going_down: GoingDown,
    /// How far the replay of the log is.
    pub(crate) replay: Replay,
    /// What the disks can take, here and at peers.
    pub(crate) disks: Disks,
    /// Which members are there, as this node sees.
    pub(crate) liveness: Liveness,
    identity: Mutex<IdentityFiles>,
    living_log: Mutex<Living>,
    plane: OnceLock<Arc<Plane>>,
    pub(crate) gossip: Option<membership::Handle>,
    /// The newest meta state applied here: read on every request, replaced whole.
    pub(crate) meta: ArcSwap<MetaState>,
    /// Wakes whoever waits for the meta state to change.
    pub(crate) meta_changed: watch::Sender<u64>,
    pub(crate) phase: watch::Sender<Phase>,
    /// Who is asked for a shard when no replica here knows its leader: read on every request,
    /// replaced whole.
    pub(crate) owners: ArcSwap<Owners>,
    /// Groups that have caught up with their leader once since the start.
    pub(crate) caught_up: Mutex<BTreeSet<GroupId>>,
    /// All that the layout gave this node had, once: a replica that comes later takes nothing back.
    pub(crate) all_caught_up: AtomicBool,
    /// When a meta quorum was last heard of.
    pub(crate) meta_heard: Mutex<Instant>,
    /// Hashes that the meta leader did not know, until when that is believed.
    pub(crate) refused_keys: Mutex<HashMap<KeyHash, Instant>>,
    pub(crate) key_lookup: tokio::sync::Mutex<Lookups>,
    /// Held from the verdict on who may cease to be a member to the entry that says so: two verdicts at
    /// once would each count on the other's node.
    pub(crate) judging: tokio::sync::Mutex<()>,
    /// Something that ends the node was found, by the first who found it.
    pub(crate) fatal: watch::Sender<Option<Fatal>>,
    /// Woken when a group has forgotten a replica that is held here.
    pub(crate) has_forgotten_one: Notify,
    /// Woken when a message says that the founding is complete.
    pub(crate) founded: Notify,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

/// What [`Core`] is put together from.
pub(crate) struct Parts {
    pub(crate) description: Description,
    pub(crate) joins_only: bool,
    pub(crate) auth: Auth,
    pub(crate) shards: u16,
    pub(crate) replication_factor: u8,
    pub(crate) group_options: GroupOptions,
    pub(crate) live_log_bytes_max: u64,
    pub(crate) log_stop_bytes: u64,
    pub(crate) replace_after: Duration,
    pub(crate) moves_max: usize,
    pub(crate) replaces_damaged: bool,
    pub(crate) wal: Wal,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) wal_dir: PathBuf,
    pub(crate) db_dir: PathBuf,
    pub(crate) quarantine: Quarantine,
    pub(crate) held: Held,
    pub(crate) findings: Findings,
    pub(crate) disks: Disks,
    pub(crate) identity: IdentityFiles,
    pub(crate) gossip: Option<membership::Handle>,
}

impl Core {
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            node: parts.description.id,
            description: parts.description,
            joins_only: parts.joins_only,
            auth: parts.auth,
            shards: parts.shards,
            replication_factor: parts.replication_factor,
            group_options: parts.group_options,
            live_log_bytes_max: parts.live_log_bytes_max,
            log_stop_bytes: parts.log_stop_bytes,
            replace_after: parts.replace_after,
            moves_max: parts.moves_max,
            wal: parts.wal,
            store: parts.store,
            groups: Groups::new(),
            wal_dir: parts.wal_dir,
            db_dir: parts.db_dir,
            quarantine: Arc::new(parts.quarantine),
            held: Arc::new(parts.held),
            forgotten: Mutex::default(),
            findings: parts.findings,
            replaces_damaged: parts.replaces_damaged,
            repairs: Repairs::default(),
            lost_disks: LostDisks::default(),
            going_down: GoingDown::default(),
            replay: Replay::default(),
            disks: parts.disks,
            liveness: Liveness::default(),
            identity: Mutex::new(parts.identity),
            living_log: Mutex::default(),
            plane: OnceLock::new(),
            gossip: parts.gossip,
            meta: ArcSwap::default(),
            meta_changed: watch::Sender::new(0),
            phase: watch::Sender::new(Phase::Blank("starting".to_owned())),
            owners: ArcSwap::default(),
            caught_up: Mutex::default(),
            all_caught_up: AtomicBool::new(false),
            meta_heard: Mutex::new(Instant::now()),
            refused_keys: Mutex::default(),
            key_lookup: tokio::sync::Mutex::new(Lookups::new(Instant::now())),
            judging: tokio::sync::Mutex::new(()),
            fatal: watch::Sender::new(None),
            has_forgotten_one: Notify::new(),
            founded: Notify::new(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }
    }

    pub(crate) fn set_plane(&self, plane: Arc<Plane>) {
        // Set once, right after the plane was started with this core as its handler.
        let _ = self.plane.set(plane);
    }

    /// The plane to the peers; there is none only in the instant before the start ends.
    pub(crate) fn plane(&self) -> Result<&Arc<Plane>, Error> {
        self.plane.get().ok_or_else(|| Error::unavailable(Unavailable::Starting))
    }

    pub(crate) fn identity(&self) -> MutexGuard<'_, IdentityFiles> {
        locked(&self.identity)
    }

    /// What the replicas of this node share.
    pub(crate) fn groups_options(&self) -> Result<GroupsOptions, Error> {
        Ok(GroupsOptions {
            wal: self.wal.clone(),
            store: self.store.clone(),
            plane: self.plane()?.clone(),
            group: self.group_options,
            replay: self.replay.clone(),
            space: self.disks.space.clone(),
            evidence: Arc::new(self.liveness.clone()),
            clock: Arc::new(SystemClock::new()),
        })
    }

    /// Who leads a group, as the replica here sees it; `None` if there is none here.
    pub(crate) fn leadership(&self, group: GroupId) -> Option<Leadership> {
        self.groups.get(group).map(|group| *group.leadership().borrow())
    }

    /// The meta group's replica.
    pub(crate) fn meta_group(&self) -> Result<Group, Error> {
        self.groups.get(GroupId::META).ok_or_else(|| Error::unavailable(Unavailable::Starting))
    }

    /// The member that registered this as its own HTTP address.
    pub(crate) fn node_at(&self, http: &str) -> Option<NodeId> {
        let state = self.meta.load();
        state.nodes.values().find(|node| node.addresses.http == http).map(|node| node.id)
    }

    /// Bytes of the log that a start would replay, and a cut behind a flush makes fewer.
    pub(crate) fn living_log_bytes(&self) -> u64 {
        let (live_bytes, quarantined) = (self.wal.stats().live_bytes, self.wal.quarantined().len());
        locked(&self.living_log).bytes(live_bytes, quarantined)
    }

    /// Whether a meta quorum was heard of lately.
    pub(crate) fn meta_is_silent(&self) -> bool {
        locked(&self.meta_heard).elapsed() > META_SILENCE_MAX
    }

    /// Says what the node is doing now; a node that goes down does nothing else any more. Returns
    /// whether that is news.
    pub(crate) fn turn(&self, phase: Phase) -> bool {
        self.phase.send_if_modified(|now| {
            let news = *now != phase && *now != Phase::Draining;
            if news {
                *now = phase;
            }
            news
        })
    }

    /// Waits until this node can't go on.
    pub(crate) async fn failed(&self) {
        let mut fatal = self.fatal.subscribe();
        let _ = fatal.wait_for(Option::is_some).await;
    }

    /// Ends the node's writing for good; the first cause stays.
    pub(crate) fn fail(&self, cause: Fatal) {
        self.fatal.send_if_modified(|fatal| {
            let first = fatal.is_none();
            if first {
                tracing::error!(%cause, "this node can't go on");
                metrics::gauge!("stemedb_failed").set(1.0);
                *fatal = Some(cause);
            }
            first
        });
    }
}

/// A lock whose holder panicked is still a lock: what it guards is replaced whole.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The wall clock, in ms since 1970: only ever stamped into commands.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
