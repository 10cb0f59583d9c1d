//! A node: started, asked, stopped.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rand::RngExt;
use stemedb_engine::{Budget, Health, RocksStore, SNAPSHOT_FILE_BYTES_MAX, Store};
use stemedb_machine::meta::{ApiKey, IfExists, MetaAnswer, MetaCommand, NewKey, Project};
use stemedb_membership::{self as membership, Membership, PROFILE_TEXT_BYTES_MAX, Secret, Timing};
use stemedb_raft::wal::{self, OnDamage, OpenError, Recovery, StreamId, Wal};
use stemedb_rpc::{Limits, Plane, PlaneOptions};
use stemedb_types::{NodeId, ProjectName, ReplicaId};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::Error;
use crate::aside::{has_aside, set_aside};
use crate::auth::{hash_of, is_key, make_key, may_make};
use crate::core::{Core, Parts, Phase, now_ms};
use crate::damage::{Findings, act_on_findings, repair_command};
use crate::failover::succeed_leaders;
use crate::founding::Description;
use crate::front::{
    AdminAnswer, AdminCall, Admission, Answered, Call, ClusterStatus, Credential, Front, Need,
    Readiness, Startup,
};
use crate::held::Held;
use crate::identity::{Identity, IdentityFiles};
use crate::life::live;
use crate::liveness::watch_peers;
use crate::monitor::monitor;
use crate::moving::move_members;
use crate::operator::{Change, Preview, Progress};
use crate::options::{Fatal, NodeOptions, StartError};
use crate::peers::Peers;
use crate::preference::prefer_leaders;
use crate::profile::own_profile;
use crate::promises::{self, Promises};
use crate::quarantine::{self, Entry, Quarantine};
use crate::recover;
use crate::scrub;
use crate::volumes::{Disks, LOG, STORE, Volume, watch_disks};

/// How long a command for the cluster may take.
pub(crate) const ADMIN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a node that went down waits until nothing but itself holds its store.
const RELEASE_MAX: Duration = Duration::from_secs(2);
/// Between two looks whether the start is over, for what wakes nobody.
const STARTED_INTERVAL: Duration = Duration::from_millis(500);
/// The log's own file in its directory that is there as long as the log is.
const LOG_IDENTITY: &str = "identity";
/// Memtables that the store may hold, and flush one behind another.
const MEMTABLES_MAX: u64 = 3;
/// The most that is kept free for them, whatever the budget says, in bytes.
const MEMTABLES_RESERVE_MAX: u64 = 1 << 30;

/// A running node. Cheap to clone; [`Node::shutdown`] stops it, dropping the last clone does too,
/// without handing its leaderships over.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

struct Inner {
    core: Arc<Core>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.core.stop.cancel();
    }
}

impl Node {
    /// Starts a node on the current tokio runtime. It returns once its disks are open and its
    /// ports are served; whether it has found its cluster is told by [`Front::readiness`].
    pub async fn start(options: NodeOptions) -> Result<Self, StartError> {
        check(&options)?;
        let (wal, recovery, store) = open_disks(&options).await?;
        for damage in &recovery.damage {
            tracing::error!(
                file = damage.file,
                offset = damage.offset,
                bytes = damage.bytes,
                reason = damage.reason,
                "the log is damaged"
            );
        }
        let volumes = volumes(&options);
        let quarantine = Quarantine::open(&options.db_dir).map_err(StartError::Disk)?;
        for Entry { replica, damage, .. } in quarantine.entries().values() {
            // Damage of the store left the stream of the log whole: nobody needs it any more.
            wal.quarantine(StreamId(replica.0), &damage.cause);
        }
        let fresh = NodeId(rand::rng().random_range(1..=u64::MAX));
        let mut identity = IdentityFiles::open(&options.wal_dir, &options.db_dir, fresh)
            .map_err(|cause| StartError::Identity(cause.to_string()))?;
        let known = identity.get().clone();
        let held = Held::open(&options.db_dir, known.founded()).map_err(StartError::Disk)?;
        let incarnation = membership::first_incarnation(Some(known.incarnation), now_ms());
        match identity.update(|id| id.incarnation = incarnation) {
            Err(cause) if !cause.is_full() => return Err(StartError::Identity(cause.to_string())),
            // A node must come back on a full disk, to delete. The monitor writes it once it can.
            _ => {}
        }
        let promises = promises::open(&options.db_dir, options.groups.lease_reads);
        let promises = promises
            .map_err(|cause| StartError::Disk(format!("note that leases are on: {cause}")))?;
        let mut groups = options.groups;
        groups.votes_late = promises != Promises::None;
        let listener = match options.peers {
            Some(listener) => listener,
            None => TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
                .map_err(|cause| StartError::Network(cause.to_string()))?,
        };
        let grpc = listener.local_addr().map_err(|cause| StartError::Network(cause.to_string()))?;
        let mut joins_only = false;
        let gossip = match options.gossip {
            None => None,
            Some(gossip) => {
                // A node that had a cluster once founds no other.
                joins_only = gossip.joins_only || has_aside(&options.wal_dir, &options.db_dir);
                let started = Membership::start(membership::Options {
                    node: known.node,
                    incarnation,
                    cluster: known.cluster,
                    socket: gossip.socket,
                    advertise: gossip.advertise,
                    grpc_port: grpc.port(),
                    secrets: gossip_secrets(&options.secrets)?,
                    join: gossip.join,
                    profile: own_profile(&options.zone, options.weight, &options.addresses),
                    timing: Timing::default(),
                });
                Some(started.map_err(|cause| StartError::Network(cause.to_string()))?)
            }
        };
        let description = Description {
            id: known.node,
            name: options.name,
            zone: options.zone,
            addresses: options.addresses,
            expect: options.expect,
            weight: options.weight,
        };
        let (findings, found) = Findings::channel();
        let core = Arc::new(Core::new(Parts {
            description,
            joins_only,
            auth: options.auth,
            shards: options.shards,
            replication_factor: options.replication_factor,
            group_options: groups,
            live_log_bytes_max: options.live_log_bytes_max,
            // A log that may be longer before it is cut must be let grow so far.
            log_stop_bytes: options.log_stop_bytes.max(options.live_log_bytes_max / 2 * 7),
            replace_after: options.replace_after,
            moves_max: options.rebalance_moves_max,
            replaces_damaged: options.replaces_damaged,
            disks: Disks::new(volumes),
            wal,
            store,
            wal_dir: options.wal_dir,
            db_dir: options.db_dir,
            quarantine,
            held,
            findings,
            identity,
            gossip,
        }));
        let plane = Plane::start(PlaneOptions {
            node: known.node,
            incarnation,
            // A member listens for a copy of itself first: met by peers, one of the two would end.
            doors_open: known.cluster.is_none(),
            cluster: known.cluster,
            secrets: options.secrets,
            listener,
            handler: Arc::new(Peers(Arc::downgrade(&core))),
            limits: Limits::default(),
            seed: rand::rng().random(),
        });
        core.set_plane(Arc::new(plane.map_err(|cause| StartError::Network(cause.to_string()))?));
        core.tasks.spawn(live(core.clone()));
        if promises == Promises::Left {
            core.tasks.spawn(forget_promises(core.clone()));
        }
        core.tasks.spawn(move_members(core.clone()));
        core.tasks.spawn(watch_peers(core.clone()));
        core.tasks.spawn(succeed_leaders(core.clone()));
        core.tasks.spawn(prefer_leaders(core.clone()));
        core.tasks.spawn(monitor(core.clone()));
        core.tasks.spawn(act_on_findings(core.clone(), found));
        scrub::start(&core, options.scrub_period);
        core.tasks.spawn(watch_disks(core.clone()));
        Ok(Self { inner: Arc::new(Inner { core }) })
    }

    fn core(&self) -> &Arc<Core> {
        &self.inner.core
    }

    /// This node's id.
    pub fn id(&self) -> NodeId {
        self.core().node
    }

    /// Why the node can't go on, once it can't: it writes nothing more, and should end.
    pub fn fatal(&self) -> watch::Receiver<Option<Fatal>> {
        self.core().fatal.subscribe()
    }

    /// Waits until the node is ready, or says why it is not.
    pub async fn wait_ready(&self, timeout: Duration) -> Result<(), Readiness> {
        let deadline = Instant::now() + timeout;
        loop {
            let readiness = self.core().readiness();
            if readiness.ready {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(readiness);
            }
            // Readiness is made of many things; looking again is cheaper than waking for each.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Makes the node unready and hands its leaderships to others; returns once they have them, or
    /// after 2 s. It serves on until [`Node::shutdown`], by sending requests on to who leads now,
    /// and takes no leadership back. There is no way back.
    pub async fn drain(&self) {
        self.core().drain().await;
    }

    /// Stops the node: leaderships go to others first, then the groups stop, then the disks are
    /// closed. What was acknowledged is on disk; [`Node::fatal`] says if a disk failed meanwhile. The directories are free for another start once
    /// the last clone of the node, and of its buckets, is dropped.
    pub async fn shutdown(&self) {
        let core = self.core();
        core.phase.send_replace(Phase::Draining);
        core.hand_over().await;
        core.stop.cancel();
        core.tasks.close();
        // The life's own task closes groups, plane and gossip.
        core.tasks.wait().await;
        // openraft's workers end a moment after their groups, and nothing tells when.
        let patience = Instant::now() + RELEASE_MAX;
        while Arc::strong_count(&core.store) > 1 && Instant::now() < patience {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // Whoever looked at the disks has ended before: what failed since is found here.
        if let Health::Broken(cause) = core.store.health() {
            core.fail(Fatal::Disk(format!("the store failed: {cause}")));
        }
        if let Err(error) = core.wal.close() {
            core.fail(Fatal::Disk(format!("the log did not close: {error}")));
        }
    }

    async fn create_key(
        &self,
        admission: Admission,
        call: AdminCall,
    ) -> Result<AdminAnswer, Error> {
        let AdminCall::CreateKey { label, role, project, key, return_existing } = call else {
            return Err(Error::Internal("not a key to make".to_owned()));
        };
        may_make(admission.caller.role, role)?;
        let secret = match key {
            Some(key) if !is_key(key.expose()) => {
                let why = "a key is steme_live_ or steme_test_ and 48 lowercase hex digits";
                return Err(Error::Malformed(why.to_owned()));
            }
            Some(key) => key,
            None => {
                let mut random = [0; 24];
                rand::rng().fill(&mut random);
                make_key(random)
            }
        };
        let command = MetaCommand::CreateKey(NewKey {
            hash: hash_of(secret.expose()),
            label: label.clone(),
            role,
            project: project.filter(|_| role.of_project()),
            at_ms: now_ms(),
            by: admission.caller.label.clone(),
            if_exists: if return_existing { IfExists::Return } else { IfExists::Conflict },
        });
        let deadline = Instant::now() + ADMIN_TIMEOUT;
        let (answer, index) =
            self.core().meta_write(admission.credential, command, deadline).await?;
        self.core().meta_applied_everywhere(index).await;
        match answer {
            MetaAnswer::Key { key: record, created } => {
                let state = self.core().meta.load();
                let project = record.project.and_then(|id| state.projects.get(&id).cloned());
                let secret = created.then_some(secret);
                Ok(AdminAnswer::Key { record, project, secret, created })
            }
            MetaAnswer::LabelTaken => {
                Err(Error::AlreadyExists(format!("a key with the label {label} exists")))
            }
            other => Err(Error::Internal(format!("a key was not made: {other:?}"))),
        }
    }

    async fn revoke_key(
        &self,
        admission: Admission,
        hash: stemedb_machine::meta::KeyHash,
    ) -> Result<AdminAnswer, Error> {
        let known = self.core().meta.load().keys.get(&hash).map(|key| key.role);
        if let Some(role) = known {
            may_make(admission.caller.role, role)?;
        }
        let command = MetaCommand::RevokeKey { hash, at_ms: now_ms() };
        let deadline = Instant::now() + ADMIN_TIMEOUT;
        let (answer, index) =
            self.core().meta_write(admission.credential, command, deadline).await?;
        match answer {
            MetaAnswer::Done => {
                self.core().meta_applied_everywhere(index).await;
                Ok(AdminAnswer::Done)
            }
            MetaAnswer::NotFound => Err(Error::NotFound(format!("there is no key {hash}"))),
            other => Err(Error::Internal(format!("a key was not revoked: {other:?}"))),
        }
    }
}

impl Front for Node {
    fn admit(
        &self,
        credential: Option<Credential>,
        project: Option<ProjectName>,
        need: Need,
    ) -> BoxFuture<'_, Result<Admission, Error>> {
        self.core().admission(credential, project, need).boxed()
    }

    fn call(&self, call: Call) -> BoxFuture<'_, Result<Answered, Error>> {
        self.core().call(call).boxed()
    }

    fn admin(
        &self,
        admission: Admission,
        call: AdminCall,
    ) -> BoxFuture<'_, Result<AdminAnswer, Error>> {
        async move {
            match call {
                AdminCall::RevokeKey { hash } => self.revoke_key(admission, hash).await,
                AdminCall::Drain { .. } | AdminCall::Remove { .. } | AdminCall::Pause { .. } => {
                    self.core().operate(admission, call).await
                }
                create => self.create_key(admission, create).await,
            }
        }
        .boxed()
    }

    fn keys(&self) -> Vec<(ApiKey, Option<Project>)> {
        let state = self.core().meta.load();
        let mut keys: Vec<_> = state
            .keys
            .values()
            .map(|key| {
                let project = key.project.and_then(|id| state.projects.get(&id).cloned());
                (key.clone(), project)
            })
            .collect();
        keys.sort_by_key(|(key, _)| (key.revoked_at_ms.is_some(), key.hash));
        keys
    }

    fn status(&self) -> ClusterStatus {
        self.core().status()
    }

    fn progress(&self) -> BoxFuture<'_, Result<Progress, Error>> {
        self.core().progress().boxed()
    }

    fn preview(&self, change: Change) -> BoxFuture<'_, Result<Preview, Error>> {
        self.core().preview(change).boxed()
    }

    fn readiness(&self) -> Readiness {
        self.core().readiness()
    }

    fn startup(&self) -> Startup {
        self.core().startup()
    }
}

/// Once every promise of an earlier life is over, the next life need not keep still for it.
async fn forget_promises(core: Arc<Core>) {
    // Replicas are opened a while after the node, and each keeps still from then on.
    let mut changed = core.meta_changed.subscribe();
    while !core.startup().done {
        tokio::select! {
            () = core.stop.cancelled() => return,
            _ = changed.changed() => {}
            () = tokio::time::sleep(STARTED_INTERVAL) => {}
        }
    }
    let over = Duration::from_millis(core.group_options.election_timeout_max_ms);
    tokio::select! {
        () = core.stop.cancelled() => return,
        () = tokio::time::sleep(over) => {}
    }
    if let Err(error) = promises::forget(&core.db_dir) {
        tracing::warn!(%error, "the note that leases were on stays: the next start keeps still again");
    }
}

fn check(options: &NodeOptions) -> Result<(), StartError> {
    let setting = |why: &str| Err(StartError::Setting(why.to_owned()));
    if options.expect == 0 {
        return setting("a cluster is founded by at least one node");
    }
    if options.expect > 1 && options.gossip.is_none() {
        return setting("a node without gossip is alone: it can't wait for others");
    }
    if options.shards == 0 || options.shards > stemedb_types::limits::SHARDS_MAX {
        return setting("a cluster has 1 to 1024 shards");
    }
    if options.replication_factor == 0 || options.replication_factor.is_multiple_of(2) {
        return setting("the replication factor is an odd number");
    }
    if !(1..=100).contains(&options.weight) {
        return setting("a node's weight is 1 to 100");
    }
    if !(1..=64).contains(&options.rebalance_moves_max) {
        return setting("1 to 64 shards move at once");
    }
    if options.name.is_empty() || options.name.len() > 255 {
        return setting("a node's name is 1 to 255 bytes long");
    }
    if options.zone.len() > PROFILE_TEXT_BYTES_MAX {
        return setting("a node's zone is at most 64 bytes long");
    }
    if !(1..=SNAPSHOT_FILE_BYTES_MAX).contains(&options.groups.snapshot_file_bytes) {
        return setting("a file of a snapshot holds 1 byte to 64 MiB of rows");
    }
    Ok(())
}

/// Opens log and store on another thread: both read much, and whoever asks meanwhile how far the
/// start is should be answered.
async fn open_disks(options: &NodeOptions) -> Result<(Wal, Recovery, Arc<dyn Store>), StartError> {
    let (wal_dir, db_dir) = (options.wal_dir.clone(), options.db_dir.clone());
    let (segment_bytes, budget) = (options.segment_bytes, options.budget);
    let opening = tokio::task::spawn_blocking(move || {
        if recover::is_under_way(&wal_dir) {
            let (wal, db) = (wal_dir.display(), db_dir.display());
            return Err(StartError::Identity(format!(
                "a recovery was begun here and not ended: run stemedb recover --wal-dir {wal} \
                 --db-dir {db} --accept-data-loss again"
            )));
        }
        set_aside(&wal_dir, &db_dir, now_ms())?;
        let (wal, recovery) = open_wal(&wal_dir, &db_dir, segment_bytes)?;
        Ok((wal, recovery, open_store(&db_dir, budget)?))
    });
    opening.await.map_err(|cause| StartError::Disk(cause.to_string()))?
}

fn open_wal(
    wal_dir: &Path,
    db_dir: &Path,
    segment_bytes: u64,
) -> Result<(Wal, Recovery), StartError> {
    // Who the node is decides before its layout is known: where nobody else has what is here,
    // nothing of a damaged log is gone on with. What is wrong with the identity is said later.
    let identity = IdentityFiles::peek(wal_dir, db_dir).ok().flatten();
    if let Some(member) = identity.as_ref().filter(|identity| identity.cluster.is_some()) {
        refuse_without_a_log(wal_dir, member)?;
    }
    let needed = identity.as_ref().is_none_or(Identity::is_needed);
    let open = |on_damage| {
        let options = wal::Options { segment_bytes, on_damage, ..wal::Options::default() };
        Wal::open(wal_dir, options)
    };
    let opened = match open(if needed { OnDamage::Refuse } else { OnDamage::Quarantine }) {
        Err(OpenError::Corrupt { .. } | OpenError::Missing { .. })
            if identity.as_ref().is_some_and(|own| spares_what_is_needed(wal_dir, db_dir, own)) =>
        {
            open(OnDamage::Quarantine)
        }
        opened => opened,
    };
    opened.map_err(|cause| match cause {
        OpenError::InUse => StartError::InUse { dir: wal_dir.display().to_string() },
        cause => StartError::Disk(log_refused(wal_dir, db_dir, &cause)),
    })
}

/// A member's log was there before the node was a member. Where there is none, a new one would be
/// begun, and every replica would have forgotten what it had promised.
fn refuse_without_a_log(wal_dir: &Path, member: &Identity) -> Result<(), StartError> {
    if wal_dir.join(LOG_IDENTITY).exists() {
        return Ok(());
    }
    let dir = wal_dir.display();
    let then = if member.is_needed() {
        "no other node has all that was here: restore a backup"
    } else {
        "rename both directories and start it: it joins its cluster as a new node"
    };
    Err(StartError::Identity(format!(
        "there is no log in {dir}, and node {} is a member of a cluster: the log is lost, and with it \
         what the node has promised; nothing was changed; {then}",
        member.node
    )))
}

/// Whether the damage of a log hits only replicas that are set aside already, or whose groups go on
/// at other nodes.
fn spares_what_is_needed(wal_dir: &Path, db_dir: &Path, own: &Identity) -> bool {
    let (Ok(found), Ok(aside)) =
        (wal::check::check(wal_dir), quarantine::read(&db_dir.join(quarantine::FILE)))
    else {
        return false;
    };
    let spared: BTreeSet<ReplicaId> =
        aside.values().map(|entry| entry.replica).chain(own.spared_replicas()).collect();
    let mut hit = found.damage.iter().flat_map(|damage| &damage.streams);
    let unknown = found.damage.iter().any(|damage| damage.unknown);
    !unknown && hit.all(|stream| spared.contains(&ReplicaId(stream.0)))
}

/// One line that names the damaged file and what to do about it.
fn log_refused(wal_dir: &Path, db_dir: &Path, cause: &OpenError) -> String {
    let dir = wal_dir.display();
    match cause {
        OpenError::Corrupt { .. } | OpenError::Missing { .. } => {
            let command = repair_command(wal_dir, db_dir);
            format!("the log in {dir} is damaged: {cause}; nothing was changed: run {command}")
        }
        other => format!("the log in {dir}: {other}"),
    }
}

/// The two volumes. At one stroke the log may begin two segments, and the store flush all memtables.
fn volumes(options: &NodeOptions) -> [Volume; 2] {
    let reserve = options.disk_reserve_bytes;
    let segments = options.segment_bytes.saturating_mul(2);
    let memtables = (options.budget.write_buffer_bytes as u64).saturating_mul(MEMTABLES_MAX);
    // A budget beyond all volumes is for a store that is never meant to flush.
    let memtables = memtables.min(MEMTABLES_RESERVE_MAX);
    [
        Volume::new(LOG, &options.wal_dir, reserve, segments),
        Volume::new(STORE, &options.db_dir, reserve, memtables),
    ]
}

fn open_store(dir: &Path, budget: Budget) -> Result<Arc<dyn Store>, StartError> {
    match RocksStore::open(dir, budget) {
        Ok(store) => Ok(Arc::new(store)),
        Err(stemedb_engine::Error::InUse { dir }) => Err(StartError::InUse { dir }),
        Err(cause) => Err(StartError::Disk(cause.to_string())),
    }
}

fn gossip_secrets(secrets: &[zeroize::Zeroizing<Vec<u8>>]) -> Result<Vec<Secret>, StartError> {
    secrets
        .iter()
        .map(|secret| Secret::new(secret.to_vec()))
        .collect::<Result<_, _>>()
        .map_err(|cause| StartError::Setting(cause.to_string()))
}
