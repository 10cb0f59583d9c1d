//! One replica of one group: propose, read, watch.
//!
//! A [`Group`] is a cheap handle. What it stands for owns two queues (commands, reads), each
//! drained by a task that ends when the last handle is gone, and a third task
//! that turns openraft's metrics into a [`Leadership`] to route by.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use openraft::rt::WatchReceiver;
use openraft::{Instant as _, ServerState, SnapshotPolicy};
use stemedb_engine::Group as EngineGroup;
use stemedb_rpc::Envelope;
use stemedb_types::{GroupId, NodeId, ReplicaId};
use stemedb_wal::StreamId;
use stemedb_wal::planted::{self, Bug};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use crate::applier::{Applied, Applier};
use crate::clock::Reading;
use crate::closing::Closing;
use crate::damage::{Damage, Damages, check_standing, note_generation, refused};
use crate::evidence::Evidence;
use crate::groups::GroupsOptions;
use crate::inbound::Kind;
use crate::lease::Leases;
use crate::log_store::LogStore;
use crate::network::Network;
use crate::queue::{
    Done, PROPOSALS_MAX, Propose, Proposed, READS_MAX, ReadDone, Reader, Room, Rounds, closed,
    confirm_reads, propose_runs,
};
use crate::reading::{Asking, Freshness};
use crate::replay::{missing, replay};
use crate::runtime::{Home, blocking, spawn};
use crate::sending::{Sending, Transfers, Views};
use crate::space::Space;
use crate::synced::Synced;
use crate::taking::Staged;
use crate::transport::Transport;
use crate::types::{LogId, Raft};
use crate::{Error, Written};

/// Timers and thresholds of a group. The defaults are for a cluster in one place.
#[derive(Clone, Copy, Debug)]
pub struct GroupOptions {
    /// Between two heartbeats of a leader, in ms.
    pub heartbeat_interval_ms: u64,
    /// The least a follower waits for its leader, in ms.
    pub election_timeout_min_ms: u64,
    /// The most, and the length of the leader's lease, in ms.
    pub election_timeout_max_ms: u64,
    /// A snapshot is announced after this many entries.
    pub snapshot_entries: u64,
    /// Entries kept behind an announced snapshot, for followers that lag a little.
    pub kept_entries: u64,
    /// Bytes of snapshots sent in a second, at most, by all groups of the node; 0: no limit.
    pub snapshot_bytes_per_second: u64,
    /// A file of a snapshot is closed once it holds rows of so many bytes.
    pub snapshot_file_bytes: usize,
    /// A leader may serve reads by a lease instead of a quorum round, and replicas keep to what they
    /// promise for it: no vote reaches past the lease of a leader that was heard, but in its own
    /// handover. The same on all nodes, or there is no lease.
    pub lease_reads: bool,
    /// A replica that is opened neither votes nor stands for one longest election timeout: in an
    /// earlier life it may have promised not to. Always so with `lease_reads`.
    pub votes_late: bool,
}

impl Default for GroupOptions {
    fn default() -> Self {
        Self {
            heartbeat_interval_ms: 300,
            election_timeout_min_ms: 1000,
            election_timeout_max_ms: 1500,
            snapshot_entries: 10_000,
            kept_entries: 2_000,
            snapshot_bytes_per_second: 16 << 20,
            snapshot_file_bytes: 32 << 20,
            lease_reads: false,
            votes_late: false,
        }
    }
}

impl GroupOptions {
    fn to_config(self, group: GroupId) -> Result<Arc<openraft::Config>, Error> {
        let config = openraft::Config {
            cluster_name: format!("group-{group}"),
            // We give the beat (`pulse`). This is how long one may go unanswered, and its thirteen
            // 64ths are openraft's grain of time, but for what `grid` makes of it.
            enable_heartbeat: false,
            heartbeat_interval: (self.heartbeat_interval_ms * 2)
                .min(self.election_timeout_min_ms.saturating_sub(1)),
            heartbeat_min_interval: Some(suppression_ms(self)),
            election_timeout_min: self.election_timeout_min_ms,
            election_timeout_max: self.election_timeout_max_ms,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_entries),
            // We cut the log ourselves: openraft would cut it while a follower is on its way.
            max_in_snapshot_log_to_keep: u64::MAX,
            replication_lag_threshold: self.snapshot_entries + self.kept_entries,
            max_payload_entries: 1024,
            install_snapshot_timeout: 600_000,
            enable_pre_vote: Some(true),
            // A leader may have lost entries in a power cut that it had sent and not yet synced, and that
            // are committed without it. In a new term it finds them at the others; going on in the
            // old one it would give their places to other entries.
            enable_leader_restore: Some(planted::has(Bug::LeaderRestored)),
            ..Default::default()
        };
        let config = config.validate().map_err(|cause| Error::Stopped(cause.to_string()))?;
        Ok(Arc::new(config))
    }
}

/// How long after entries a follower is sent no heartbeat: as long as openraft allows with its own
/// beat, which we don't use, and at most a beat of ours.
fn suppression_ms(options: GroupOptions) -> u64 {
    let beat_ms = options.heartbeat_interval_ms * 2;
    let bound_ms = options.election_timeout_min_ms.saturating_sub(beat_ms + beat_ms / 4 + 1);
    bound_ms.min(options.heartbeat_interval_ms)
}

/// Who leads a group, as this replica sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leadership {
    /// This replica does.
    Here,
    /// Another node's replica does.
    There(NodeId),
    /// Nobody, as far as is known.
    Unknown,
}

/// How far a replica has come; indexes of log entries, `None` before the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Its term.
    pub term: u64,
    /// The last entry of its log.
    pub last_log: Option<u64>,
    /// The last entry it knows to be committed by the group.
    pub committed: Option<u64>,
    /// The last entry it has applied.
    pub applied: Option<u64>,
}

/// Where a replica stands in an election; by this two are compared (Raft, section 5.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The newest term it has voted in, or stood in.
    pub vote_term: u64,
    /// The last entry of its log, if it has one.
    pub last: Option<LogEnd>,
}

/// The last entry of a log. The greater one is the one that a voter with the other votes for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogEnd {
    /// The term it was made in.
    pub term: u64,
    /// Its place in the log.
    pub index: u64,
}

/// What a confirmed read sees.
pub type ReadView = EngineGroup;

/// One replica of one group. Clones are the same.
#[derive(Clone)]
pub struct Group(Arc<Shared>);

/// What all handles of a replica share: each message and each tick takes one, so a handle must
/// cost one count and not twenty.
pub struct Shared {
    id: GroupId,
    replica: ReplicaId,
    pub(crate) raft: Raft,
    pub(crate) applied: Applied,
    pub(crate) space: Space,
    proposals: mpsc::Sender<Proposed>,
    /// Bytes of commands that are not answered yet.
    proposed_bytes: Arc<AtomicUsize>,
    pub(crate) reads: mpsc::Sender<Reader>,
    leadership: watch::Receiver<Leadership>,
    /// Said once no command is handed over any more, and nothing is waited for.
    pub(crate) closing: Closing,
    /// Snapshots on their way to followers.
    pub(crate) views: Arc<Views>,
    /// A snapshot on its way from the leader.
    pub(crate) staged: Arc<Staged>,
    damages: Damages,
    /// To the replicas on other nodes.
    pub(crate) plane: Arc<dyn Transport>,
    /// Reads of a replica that does not lead.
    pub(crate) asking: Arc<Asking>,
    /// Since when it is known to have had everything.
    pub(crate) freshness: Arc<Freshness>,
    pub(crate) leases: Leases,
    /// When it was opened.
    pub(crate) opened: Reading,
    pub(crate) home: Home,
    /// What the own disk holds of the log.
    pub(crate) synced: Synced,
    evidence: Arc<dyn Evidence>,
    kept_entries: u64,
}

impl Deref for Group {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl Group {
    /// Opens a replica where its log and its store left it, and lets it run.
    /// [`Error::Damaged`] if either is damaged, or if its own marks show that the log lost entries
    /// that had been synced: such a replica may have promised what it can't know of any more.
    ///
    /// A replica that was never part of anything waits: for [`Group::found`], or for a leader
    /// that adds it.
    ///
    /// What the log has beyond the store is applied first, on threads of its own, when `turns` has
    /// a place for it.
    pub(crate) async fn open(
        id: GroupId,
        replica: ReplicaId,
        options: &GroupsOptions,
        turns: &Semaphore,
        transfers: Transfers,
    ) -> Result<Self, Error> {
        let damages = Damages::default();
        let closing = Closing::default();
        // Whoever waits for this may give up: then nothing of it may go on.
        let given_up = closing.when_dropped();
        let (wal, stream) = (options.wal.clone(), StreamId(replica.0));
        let log = LogStore::new(wal.clone(), replica, options.space.clone(), damages.clone());
        let log = log.until(closing.clone());
        let (log, applied, applier) =
            open_disks(id, replica, log, options, turns, &damages, &closing).await?;
        let synced = log.synced();
        let views = Arc::new(Views::new(Box::new(move || {
            wal.bounds(stream).purged.map(|(index, _)| index)
        })));
        let applier = applier.with_views(views.clone());
        let sending = Sending::new(views.clone(), transfers, &options.group);
        let patience = Duration::from_millis(options.group.election_timeout_max_ms);
        let (group_options, clock) = (&options.group, options.clock.clone());
        let opened = clock.now();
        let votes_late = group_options.votes_late || group_options.lease_reads;
        let leases = Leases::new(group_options.lease_reads, votes_late, patience, clock);
        let plane = options.plane.clone();
        let (to_peers, promises) = (plane.clone(), leases.clone());
        let network =
            Network { plane: to_peers, group: id, me: replica, sending, leases: promises };
        let config = options.group.to_config(id)?;
        let raft = Raft::new(replica.0, config, network, log, applier).await;
        let raft = raft.map_err(|fatal| damages.or_stopped(&fatal))?;
        if let Err(error) = note_generation(&applied.store(), replica, &options.wal) {
            closing.say();
            let _ = raft.shutdown().await;
            return Err(error);
        }
        given_up.never();
        let members = raft.metrics();
        views.tell_learners(Box::new(move |follower| {
            let metrics = members.borrow_watched();
            metrics.membership_config.membership().learner_ids().any(|id| id == follower.0)
        }));
        lead_alone(&raft, replica).await;
        if leases.holds_votes().is_some() {
            keep_promises(&raft, replica, &leases).await?;
        }
        let (proposals, proposed) = mpsc::channel(PROPOSALS_MAX);
        let (reads, waiting) = mpsc::channel(READS_MAX);
        let (seen, leadership) = watch::channel(Leadership::Unknown);
        let space = options.space.clone();
        spawn(propose_runs(id, raft.clone(), proposed, closing.clone(), space.clone()));
        let freshness = Arc::<Freshness>::default();
        let rounds = Rounds { leases: leases.clone(), freshness: freshness.clone() };
        spawn(confirm_reads(raft.clone(), waiting, rounds));
        spawn(watch_leadership(raft.server_metrics(), seen, space.clone()));
        let kept_entries = options.group.kept_entries;
        Ok(Self(Arc::new(Shared {
            id,
            replica,
            raft,
            applied,
            space,
            proposals,
            proposed_bytes: Arc::default(),
            reads,
            leadership,
            closing,
            views,
            staged: Arc::default(),
            damages,
            plane,
            asking: Arc::default(),
            freshness,
            leases,
            opened,
            home: Home::here(),
            synced,
            evidence: options.evidence.clone(),
            kept_entries,
        })))
    }

    /// Which group.
    pub fn id(&self) -> GroupId {
        self.id
    }

    /// Whether it stops: what is read of its rows from here on may be no more than what is left of them.
    pub fn is_closing(&self) -> bool {
        self.closing.is_said()
    }

    /// Which replica of it.
    pub fn replica(&self) -> ReplicaId {
        self.replica
    }

    /// Who leads, from now on.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    /// What this replica has applied, without asking anybody: possibly old.
    pub fn applied(&self) -> &Applied {
        &self.applied
    }

    /// Whether the node of this replica's leader is gone, as far as this node can tell. Never where
    /// reads trust leases: a lease outlives its leader's connections.
    pub(crate) fn lost_its_leader(&self) -> bool {
        if self.leases.are_on() {
            return false;
        }
        let leader = *self.leadership.borrow();
        matches!(leader, Leadership::There(node) if self.evidence.is_gone(node))
    }

    /// Tells the followers that this leader is there, but those that heard of it just now.
    pub(crate) async fn beat(&self) {
        // A group that has stopped is found by whoever looks for it.
        let _ = self.raft.trigger().heartbeat().await;
    }

    /// Stands for election now, whatever lease runs: those vote for it whose evidence says that the
    /// leader is gone ([`crate::Evidence`]), or whose lease is over. Returns once it was asked for;
    /// a leader, or a replica that only listens, does not stand, and nobody does where reads trust leases.
    pub async fn stand(&self) -> Result<(), Error> {
        if self.leases.are_on() {
            return Ok(());
        }
        let asked = self.raft.trigger().elect(false).await;
        asked.map_err(|fatal| Error::Stopped(fatal.to_string()))
    }

    /// Hands a command to the group; `done` is called once, with its outcome. Only the leader
    /// takes commands.
    pub fn propose(&self, command: bytes::Bytes, done: Done) {
        let Some(room) = Room::take(&self.proposed_bytes, command.len()) else {
            return done(Err(Error::Overloaded));
        };
        if let Err(refused) = self.proposals.try_send((Propose { command, done }, room)) {
            let ((propose, _), error) = match refused {
                mpsc::error::TrySendError::Full(proposed) => (proposed, Error::Overloaded),
                mpsc::error::TrySendError::Closed(proposed) => (proposed, closed()),
            };
            (propose.done)(Err(error));
        }
    }

    /// Hands a command to the group and waits for its outcome. Dropping the future does not take
    /// the command back.
    pub async fn write(&self, command: bytes::Bytes) -> Result<Written, Error> {
        let (done, wait) = oneshot::channel();
        let answer = Box::new(move |result| {
            let _ = done.send(result);
        });
        self.propose(command, answer);
        wait.await.unwrap_or(Err(Error::Unknown))
    }

    /// Confirms with a quorum that this replica leads, and waits until it has applied everything
    /// that was committed when the question came. Returns the confirmed index; a read of
    /// [`Applied::store`] after it is linearizable. Only the leader confirms.
    pub async fn confirm_read(&self) -> Result<u64, Error> {
        let (done, wait) = oneshot::channel();
        self.confirm_read_then(Box::new(move |result| {
            let _ = done.send(result);
        }));
        wait.await.unwrap_or_else(|_| Err(closed()))
    }

    /// [`Group::confirm_read`] with a callback, which runs among others of its round: it must be
    /// quick. It is dropped uncalled only if the group is closed meanwhile.
    pub fn confirm_read_then(&self, done: ReadDone) {
        self.queue_read(Reader::Confirmed(done));
    }

    pub(crate) fn envelope(&self, to: ReplicaId, kind: Kind, payload: bytes::Bytes) -> Envelope {
        Envelope { group: self.id, from: self.replica, to, kind, payload }
    }

    /// Whether a majority has acknowledged this leader within the last `age`; false for others.
    pub fn quorum_heard_within(&self, age: Duration) -> bool {
        let acked = self.raft.data_metrics().borrow_watched().last_quorum_acked;
        acked.is_some_and(|acked| acked.elapsed() <= age)
    }

    /// Waits until this replica has applied the entry of this index.
    pub async fn wait_applied(&self, index: u64, timeout: Duration) -> Result<(), Error> {
        let wait = self.raft.wait(Some(timeout));
        let reached = wait.applied_index_at_least(Some(index), "catch up").await;
        reached.map(|_| ()).map_err(|_| Error::NoQuorum)
    }

    /// How far this replica has come.
    pub fn position(&self) -> Position {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        Position {
            term: metrics.current_term,
            last_log: metrics.last_log_index,
            committed: metrics.cluster_committed.as_ref().map(|id| id.index()),
            applied: metrics.last_applied.as_ref().map(|id| id.index()),
        }
    }

    /// Where this replica stands in an election. Asked of the replica itself, behind all it is at: a vote
    /// that it is about to give is given by then. `None` if the group has stopped.
    pub async fn standing(&self) -> Option<Standing> {
        let asked = self.raft.with_raft_state(|state| Standing {
            vote_term: state.vote_ref().leader_id.term,
            last: state
                .log_ids
                .last()
                .map(|last| LogEnd { term: last.committed_leader_id().term, index: last.index() }),
        });
        asked.await.ok()
    }

    /// The term this replica leads in, if it leads as far as it knows.
    pub fn leading_term(&self) -> Option<u64> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        (metrics.state == ServerState::Leader).then_some(metrics.current_term)
    }

    /// Why the group has stopped, if it has.
    pub fn stopped(&self) -> Option<String> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.running_state.as_ref().err().map(|fatal| fatal.to_string())
    }

    /// What this replica found damaged of its own, if anything: it has stopped, or will.
    pub fn damage(&self) -> Option<Damage> {
        self.damages.first()
    }

    /// Announces what the store has flushed, so that the log before it can go. Returns once it was
    /// asked for.
    pub async fn announce_flushed(&self) -> Result<(), Error> {
        let asked = self.raft.trigger().snapshot().await;
        asked.map_err(|fatal| Error::Stopped(fatal.to_string()))
    }

    /// Cuts off the log what is announced and nobody needs: [`GroupOptions::kept_entries`] stay,
    /// and at a leader what a follower does not have yet. With `all` these go as well, and a
    /// follower that needs them gets a snapshot. Returns once it was asked for.
    pub async fn shorten_log(&self, all: bool) -> Result<(), Error> {
        let upto = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            let index = |id: &Option<LogId>| id.as_ref().map(|id| id.index());
            let kept = if all { None } else { Some(self.kept_entries) };
            let followers = metrics.replication.iter().flat_map(|map| map.values()).map(index);
            let upto = cut(index(&metrics.snapshot), kept, followers);
            upto.filter(|upto| index(&metrics.purged).is_none_or(|purged| purged < *upto))
        };
        let Some(upto) = upto else { return Ok(()) };
        let asked = self.raft.trigger().purge_log(upto).await;
        asked.map_err(|fatal| Error::Stopped(fatal.to_string()))
    }

    /// Whether a follower is being sent a snapshot: it will need the log from there on.
    pub fn sends_a_snapshot(&self) -> bool {
        self.views.any()
    }

    /// Stops the replica; what it has is on disk or in the log. Commands that still wait in front
    /// of it are not applied, those it has taken may be.
    pub async fn close(&self) {
        self.closing.say();
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(group = %self.id, %error, "a group did not stop cleanly");
        }
        // Snapshots under way hold on to the store.
        self.staged.close().await;
        self.views.close().await;
    }
}

/// Has the only voter of a group elected at once: nobody else will ask for it, and timers are for
/// waiting for others.
async fn lead_alone(raft: &Raft, replica: ReplicaId) {
    let alone = {
        let metrics = raft.metrics();
        let metrics = metrics.borrow_watched();
        let mut voters = metrics.membership_config.membership().voter_ids();
        voters.next() == Some(replica.0) && voters.next().is_none()
    };
    if alone && let Err(fatal) = raft.trigger().elect(false).await {
        tracing::debug!(%fatal, "a group stopped before it began");
    }
}

/// Keeps a replica that heard a leader in an earlier life from standing against it while that may
/// hold a lease. One that never knew a leader, or votes alone, has promised nobody anything.
async fn keep_promises(raft: &Raft, replica: ReplicaId, leases: &Leases) -> Result<(), Error> {
    let free = raft.with_raft_state(move |state| {
        let mut voters = state.membership_state.effective().voter_ids();
        state.vote_ref().leader_id.term == 0 || voters.all(|voter| voter == replica.0)
    });
    if free.await.map_err(|fatal| Error::Stopped(fatal.to_string()))? {
        leases.nothing_was_promised();
    }
    let Some(left) = leases.holds_votes() else { return Ok(()) };
    raft.runtime_config().elect(false);
    let raft = raft.clone();
    spawn(async move {
        tokio::time::sleep(left).await;
        raft.runtime_config().elect(true);
    });
    Ok(())
}

/// Opens the group's part of the store and applies what the log has beyond it. Blocks other threads
/// than the one that runs the node.
async fn open_disks(
    id: GroupId,
    replica: ReplicaId,
    log: LogStore,
    options: &GroupsOptions,
    turns: &Semaphore,
    damages: &Damages,
    closing: &Closing,
) -> Result<(LogStore, Applied, Applier), Error> {
    let stopped = |cause: &dyn std::fmt::Display| damages.or_stopped(cause);
    let (store, wal, progress) =
        (options.store.clone(), options.wal.clone(), options.replay.clone());
    let (noted, closing) = (damages.clone(), closing.clone());
    let opening = blocking(move || {
        let store = EngineGroup::open(store, id).map_err(|error| refused(&error))?;
        check_standing(&store, replica, &wal)?;
        let applied = Applied::open(store).map_err(|error| refused(&error))?;
        let applier = Applier::open(applied.clone(), noted.clone());
        let applier = applier.map_err(|error| noted.told(&error))?;
        let applier = applier.until(closing).with_log(&log);
        let entries = missing(&log, &applier).map_err(|error| noted.told(&error))?;
        progress.begin(id, entries.end - entries.start);
        Ok((log, applied, applier, entries))
    });
    let opened = opening.await.map_err(|cause| stopped(&cause))?;
    let (log, applied, mut applier, entries) = opened?;
    let _turn = turns.acquire().await.map_err(|cause| stopped(&cause))?;
    let (progress, noted) = (options.replay.clone(), damages.clone());
    let replaying = blocking(move || {
        let replayed = replay(&log, &mut applier, entries, &progress);
        replayed.map_err(|error| noted.told(&error))?;
        Ok((log, applier))
    });
    let (log, applier) = replaying.await.map_err(|cause| stopped(&cause))??;
    Ok((log, applied, applier))
}

/// Up to where a log is cut, from where its announced part ends and what each follower has. `kept`
/// entries stay (`None`: none, whoever needs them).
fn cut(
    announced: Option<u64>,
    kept: Option<u64>,
    followers: impl Iterator<Item = Option<u64>>,
) -> Option<u64> {
    let Some(kept) = kept else { return announced };
    let mut upto = announced?.checked_sub(kept)?;
    for has in followers {
        // One that has nothing yet, or has not said, needs it all.
        upto = upto.min(has?);
    }
    Some(upto)
}

type ServerMetrics = openraft::type_config::alias::WatchReceiverOf<
    crate::types::Config,
    openraft::metrics::RaftServerMetrics<crate::types::Config>,
>;

/// Holds no handle on the group: it must end with the last one, and openraft with it.
async fn watch_leadership(
    mut metrics: ServerMetrics,
    seen: watch::Sender<Leadership>,
    space: Space,
) {
    loop {
        let now = {
            let metrics = metrics.borrow_watched();
            match metrics.current_leader {
                _ if metrics.state == ServerState::Leader => Leadership::Here,
                Some(leader) => {
                    let holder = metrics.membership_config.membership().get_node(&leader);
                    holder.map_or(Leadership::Unknown, |holder| Leadership::There(holder.0))
                }
                None => Leadership::Unknown,
            }
        };
        let changed = seen.send_if_modified(|known| {
            let changed = *known != now;
            *known = now;
            changed
        });
        if changed {
            metrics::counter!("stemedb_raft_leader_changes_total").increment(1);
        }
        let ended = tokio::select! {
            changed = metrics.changed() => changed.is_err(),
            () = seen.closed() => true,
        };
        if ended {
            // A replica that has stopped leads nothing and knows of nobody who does.
            seen.send_replace(Leadership::Unknown);
            space.ask_to_look();
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::cut;

    #[test]
    fn a_log_is_cut_behind_what_is_announced_and_what_every_follower_has() {
        let none: [Option<u64>; 0] = [];
        let cut = |announced, kept, has: &[Option<u64>]| cut(announced, kept, has.iter().copied());
        assert_eq!(cut(None, Some(10), &none), None, "nothing is announced");
        assert_eq!(cut(Some(9), Some(10), &none), None, "less than is kept");
        assert_eq!(cut(Some(100), Some(10), &none), Some(90));
        assert_eq!(cut(Some(100), Some(10), &[Some(120), Some(95)]), Some(90));
        assert_eq!(cut(Some(100), Some(10), &[Some(120), Some(40)]), Some(40), "one lags");
        assert_eq!(cut(Some(100), Some(10), &[Some(120), None]), None, "one has said nothing");
        assert_eq!(cut(Some(100), None, &[Some(40), None]), Some(100), "it is too long to wait");
    }
}
