//! One seed: lives that end in a crash, and what comes back of each (`recovering`).

mod recovering;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use openraft::storage::{IOFlushed, RaftLogStorage, RaftStateMachine};
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::OneshotReceiverOf;
use openraft::vote::RaftLeaderId;
use openraft::{RaftLogReader, RaftSnapshotBuilder};
use stemedb_engine::{Budget, Group as EngineGroup, RocksStore, Store};
use stemedb_machine::shard::suite::map::MapView;
use stemedb_machine::shard::suite::random::Draw;
use stemedb_machine::shard::{Condition, Write};
use stemedb_types::{GroupId, NodeId, ReplicaId};
use stemedb_wal::disk::Disk;
use stemedb_wal::disk::sim::SimDisk;
use stemedb_wal::{Options, Wal};

use super::copies::{self, Copies};
use super::history::{History, Logged, Stream};
use crate::applier::{Applied, Applier};
use crate::codec::decode_applied;
use crate::damage::Damages;
use crate::log_store::LogStore;
use crate::snapshot::SnapshotData;
use crate::space::Space;
use crate::types::{
    CommandBytes, Config, Entry, Holder, LogId, Membership, Payload, SnapshotMeta, Vote, log_id,
};

const GROUPS: usize = 3;
/// Outcomes of one crash of which only the log is opened again, before the one that is lived on
/// with: a store takes ten times as long to open.
const LOG_ONLY: u64 = 3;

/// What happened, over all seeds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    /// Crashes and recoveries.
    pub(super) points: u64,
    /// Of them, those behind which the store was opened again too.
    pub(super) with_store: u64,
    /// Commands that were answered.
    pub(super) acknowledged: u64,
    votes: u64,
    truncations: u64,
    purges: u64,
    installs: u64,
    /// Entries that the store lacked and the log brought back.
    replayed: u64,
    /// Recoveries from a copy that was not the newest.
    older_copies: u64,
}

impl Tally {
    /// Whether everything that this is about took place, and often.
    pub(super) fn is_telling(&self) -> bool {
        let rare = [self.votes, self.truncations, self.purges, self.installs, self.older_copies];
        let often = self.points / 100;
        self.acknowledged > self.points
            && self.replayed > self.points
            && rare.iter().all(|count| *count > often)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "crash points {} (of them with the store {}, from an older copy {}), votes {}, \
             truncations {}, purges {}, snapshots installed {}, entries replayed {}, acknowledged {}",
            self.points,
            self.with_store,
            self.older_copies,
            self.votes,
            self.truncations,
            self.purges,
            self.installs,
            self.replayed,
            self.acknowledged,
        )
    }
}

/// Lives one seed until it has seen so many crash points.
pub(super) fn run(seed: u64, points: u64, tally: &mut Tally) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let enough = tally.points + points;
        let mut bench = Bench::new(seed);
        while tally.points < enough {
            bench.live(tally).await;
            bench.crash_and_recover(tally).await;
        }
    });
}

/// A group as it must be.
#[derive(Default)]
struct Model {
    /// Every entry from index 0 on: what is committed, and behind it what may be truncated.
    entries: Vec<Logged>,
    /// How many entries are applied.
    applied: u64,
    /// How many entries were applied and answered: none of them may go.
    answered: u64,
    announced: Option<LogId>,
    /// The state after `plain_at` entries.
    plain: MapView,
    plain_at: u64,
}

impl Model {
    /// Entries before this one are committed, even if a crash took the note that says so: no leader
    /// takes them away.
    fn floor(&self) -> u64 {
        self.applied.max(self.answered)
    }
}

struct Replica {
    log: LogStore,
    applied: Applied,
    applier: Applier,
}

struct Parts {
    store: Arc<dyn Store>,
    replicas: Vec<Replica>,
    /// Where the store is.
    dir: PathBuf,
}

type Waiting = OneshotReceiverOf<Config, Result<(), io::Error>>;

struct Bench {
    seed: u64,
    draw: Draw,
    options: Options,
    disk: SimDisk,
    copies: Copies,
    parts: Option<Parts>,
    models: Vec<Model>,
    history: History,
    /// The newest change that was called durable.
    acknowledged: u64,
    /// Appends whose callback is still to come, by their last change.
    waiting: Vec<(u64, Waiting)>,
    /// The replicas of a peer: as far as ours, or further.
    peers: Vec<(Applied, Applier, u64)>,
    _peer_dir: tempfile::TempDir,
}

fn budget() -> Budget {
    Budget { block_cache_bytes: 1 << 20, write_buffer_bytes: 1 << 20, ..Budget::default() }
}

fn group_id(number: usize) -> GroupId {
    GroupId(number as u32 + 1)
}

fn log_entry(index: u64, logged: &Logged) -> Entry {
    let payload = match &logged.command {
        Some(command) => Payload::Normal(CommandBytes(command.clone())),
        None if index == 0 => {
            let holders = BTreeMap::from([(1, Holder(NodeId(1)))]);
            Payload::Membership(Membership::new(vec![BTreeSet::from([1])], holders).unwrap())
        }
        None => Payload::Blank,
    };
    Entry { log_id: log_id(logged.term, index), payload }
}

/// How many entries an applied mark says are in.
fn count_of(mark: Option<Bytes>) -> u64 {
    mark.and_then(|mark| decode_applied(&mark).unwrap().0).map_or(0, |id| id.index() + 1)
}

impl Bench {
    fn new(seed: u64) -> Self {
        let mut draw = Draw(seed);
        let options = Options {
            segment_bytes: 4096 << draw.below(3),
            tail_cache_bytes: [0, 500, 1 << 20][draw.below(3) as usize],
            spare_segments: usize::from(draw.below(4) == 0),
            ..Options::default()
        };
        let peer_dir = copies::folder();
        let peer: Arc<dyn Store> = Arc::new(RocksStore::open(peer_dir.path(), budget()).unwrap());
        let peers = (0..GROUPS).map(|group| {
            let applied =
                Applied::open(EngineGroup::open(peer.clone(), group_id(group)).unwrap()).unwrap();
            let applier = Applier::open(applied.clone(), Damages::default()).unwrap();
            (applied, applier, 0)
        });
        let mut bench = Self {
            seed,
            draw,
            options,
            disk: SimDisk::new(seed),
            copies: Copies::new(),
            parts: None,
            models: (0..GROUPS).map(|_| Model::default()).collect(),
            history: History::new(vec![Stream::default(); GROUPS]),
            acknowledged: 0,
            waiting: Vec::new(),
            peers: peers.collect(),
            _peer_dir: peer_dir,
        };
        let dir = bench.copies.fresh();
        let (wal, _) = Wal::open_on(Arc::new(bench.disk.clone()), bench.options.clone()).unwrap();
        bench.parts = Some(Parts::open(&wal, dir));
        bench.take_copy();
        bench
    }

    fn parts(&mut self) -> &mut Parts {
        self.parts.as_mut().unwrap()
    }

    fn replica(&mut self, group: usize) -> &mut Replica {
        &mut self.parts().replicas[group]
    }

    fn durable(&mut self) -> Vec<u64> {
        let replicas = self.parts().replicas.iter();
        replicas.map(|r| count_of(r.applied.store().durable_applied().unwrap())).collect()
    }

    fn take_copy(&mut self) {
        let durable = self.durable();
        let dir = self.parts().dir.clone();
        self.copies.take(&dir, durable);
    }

    /// Steps until the disk fails, or until the life has been long enough.
    async fn live(&mut self, tally: &mut Tally) {
        let steps = 5 + self.draw.below(40);
        let armed_at = (self.draw.below(2) == 0).then(|| self.draw.below(steps));
        for step in 0..steps {
            if armed_at == Some(step) {
                self.disk.crash_after(self.draw.below(30));
            }
            if let Err(error) = self.step(tally).await {
                self.expect_crash(&error);
                return;
            }
            self.check_order();
        }
    }

    async fn step(&mut self, tally: &mut Tally) -> io::Result<()> {
        let group = self.draw.below(GROUPS as u64) as usize;
        if self.history.now(group).vote.is_none() {
            return self.vote(group, tally).await;
        }
        match self.draw.below(40) {
            0..=14 => self.append(group).await,
            15..=25 => self.commit(group, tally).await,
            26..=28 => self.vote(group, tally).await,
            29..=31 => self.truncate(group, tally).await,
            32..=34 => self.flush(),
            35..=38 => self.purge(group, tally).await,
            _ => self.install(group, tally).await,
        }
    }

    /// Nothing fails but by a crash.
    fn expect_crash(&self, error: &io::Error) {
        assert!(self.disk.list().is_err(), "seed {}: {error}", self.seed);
    }

    /// I5, after every step.
    fn check_order(&mut self) {
        for (group, flushed) in self.durable().into_iter().enumerate() {
            let purged = self.history.now(group).purged.map_or(0, |id| id.index() + 1);
            let end = self.history.now(group).end();
            let applied = self.models[group].applied;
            let in_order = purged <= flushed && flushed <= applied && applied <= end;
            assert!(
                in_order,
                "seed {}: group {group}: purged {purged}, flushed {flushed}, applied {applied}, \
                 last {end}",
                self.seed,
            );
        }
    }

    fn acknowledge(&mut self, change: u64) {
        self.acknowledged = self.acknowledged.max(change);
    }

    /// Waits for every append. An error: the disk has failed.
    async fn settle(&mut self) -> io::Result<()> {
        for (change, wait) in std::mem::take(&mut self.waiting) {
            wait.await.map_err(io::Error::other)??;
            self.acknowledge(change);
        }
        Ok(())
    }

    async fn vote(&mut self, group: usize, tally: &mut Tally) -> io::Result<()> {
        let (term, committed) = self.history.now(group).vote.unwrap_or((0, true));
        // A vote for a new term, or the one given is won.
        let next =
            if committed || self.draw.below(2) == 0 { (term + 1, false) } else { (term, true) };
        let change = self.history.change(group, |stream| stream.vote = Some(next));
        let vote = Vote { leader_id: RaftLeaderId::new(next.0, 1), committed: next.1 };
        self.replica(group).log.save_vote(&vote).await?;
        self.acknowledge(change);
        tally.votes += 1;
        Ok(())
    }

    async fn append(&mut self, group: usize) -> io::Result<()> {
        let count = if self.models[group].entries.is_empty() { 1 } else { 1 + self.draw.below(5) };
        let new: Vec<Logged> = (0..count).map(|_| self.entry(group)).collect();
        let first = self.models[group].entries.len() as u64;
        let entries: Vec<Entry> =
            (first..).zip(&new).map(|(index, logged)| log_entry(index, logged)).collect();
        let mut change = 0;
        for logged in &new {
            change = self.history.change(group, |stream| stream.append(logged.clone()));
        }
        self.models[group].entries.extend(new);
        let (done, wait) = <Config as TypeConfigExt>::oneshot();
        self.replica(group).log.append(entries, IOFlushed::signal(done)).await?;
        self.waiting.push((change, wait));
        if self.draw.below(3) == 0 { Ok(()) } else { self.settle().await }
    }

    fn entry(&mut self, group: usize) -> Logged {
        let term = self.history.now(group).vote.map_or(1, |(term, _)| term);
        let empty = self.models[group].entries.is_empty();
        if empty || self.draw.below(12) == 0 {
            return Logged { term, command: None };
        }
        let mut command = self.draw.command();
        if self.draw.below(6) == 0 {
            // What fills a segment.
            let key = stemedb_types::Key::new(vec![b'v', self.draw.below(4) as u8]).unwrap();
            let bytes = self.draw.below(3000) as usize;
            let value = vec![self.draw.below(256) as u8; bytes].into();
            command.write =
                Write::Put { key, value, condition: Condition::Always, expires_at_ms: None };
        }
        Logged { term, command: Some(command.encode()) }
    }

    /// What a quorum has is committed, applied, and answered.
    async fn commit(&mut self, group: usize, tally: &mut Tally) -> io::Result<()> {
        self.settle().await?;
        let (applied, end) = (self.models[group].applied, self.models[group].entries.len() as u64);
        if applied == end {
            return Ok(());
        }
        let upto = applied + 1 + self.draw.below(end - applied);
        self.save_committed(group, upto - 1).await?;
        self.apply(group, upto).await?;
        let model = &mut self.models[group];
        tally.acknowledged += upto.saturating_sub(model.answered);
        model.answered = model.answered.max(upto);
        Ok(())
    }

    async fn save_committed(&mut self, group: usize, index: u64) -> io::Result<()> {
        let id = log_id(self.models[group].entries[index as usize].term, index);
        self.history.change(group, |stream| stream.committed = Some(id));
        self.replica(group).log.save_committed(Some(id)).await
    }

    /// Applies up to, not including, `end`, as the log has it.
    async fn apply(&mut self, group: usize, end: u64) -> io::Result<()> {
        let from = self.models[group].applied;
        let replica = self.replica(group);
        // The log's own threads may have met the crash meanwhile.
        let entries = replica.log.try_get_log_entries(from..end).await?;
        assert_eq!(entries.len() as u64, end - from, "what is committed can be read");
        let run = entries.into_iter().map(|entry| Ok((entry, None)));
        replica.applier.apply(futures_util::stream::iter(run)).await.unwrap();
        self.models[group].applied = end;
        Ok(())
    }

    /// A new leader takes away what was never committed.
    async fn truncate(&mut self, group: usize, tally: &mut Tally) -> io::Result<()> {
        let (floor, end) = (self.models[group].floor(), self.models[group].entries.len() as u64);
        if floor == 0 || floor == end {
            return Ok(());
        }
        self.vote(group, tally).await?;
        let keep = floor + self.draw.below(end - floor);
        self.truncate_from(group, keep).await?;
        tally.truncations += 1;
        Ok(())
    }

    async fn truncate_from(&mut self, group: usize, keep: u64) -> io::Result<()> {
        let last = log_id(self.models[group].entries[keep as usize - 1].term, keep - 1);
        self.models[group].entries.truncate(keep as usize);
        let change = self.history.change(group, |stream| stream.truncate_from(keep));
        self.replica(group).log.truncate_after(Some(last)).await?;
        self.acknowledge(change);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.parts().store.flush().unwrap();
        self.take_copy();
        Ok(())
    }

    /// Announces what is durable and cuts the log behind it, as the node's monitor does.
    async fn purge(&mut self, group: usize, tally: &mut Tally) -> io::Result<()> {
        let builder = self.replica(group).applier.try_create_snapshot_builder(false).await;
        if let Some(mut builder) = builder {
            self.models[group].announced = builder.build_snapshot().await?.meta.last_log_id;
        }
        let Some(announced) = self.models[group].announced else { return Ok(()) };
        let back = self.draw.below(4).min(announced.index());
        let index = announced.index() - back;
        if self.history.now(group).purged.is_some_and(|purged| index <= purged.index()) {
            return Ok(());
        }
        // RocksDB may have flushed by itself since the last copy.
        if self.copies.all.last().map(|copy| copy.durable.clone()) != Some(self.durable()) {
            self.take_copy();
        }
        self.purge_to(group, index).await?;
        tally.purges += 1;
        Ok(())
    }

    async fn purge_to(&mut self, group: usize, index: u64) -> io::Result<()> {
        let upto = log_id(self.models[group].entries[index as usize].term, index);
        self.history.change(group, |stream| stream.purge(upto));
        self.replica(group).log.purge(upto).await
    }

    /// The others went on without us, and the leader has cut its log: a snapshot comes.
    async fn install(&mut self, group: usize, tally: &mut Tally) -> io::Result<()> {
        self.settle().await?;
        if self.models[group].applied == 0 {
            return Ok(());
        }
        self.vote(group, tally).await?;
        let (floor, end) = (self.models[group].floor(), self.models[group].entries.len() as u64);
        if floor < end {
            self.truncate_from(group, floor).await?;
        }
        let more = 1 + self.draw.below(12);
        let new: Vec<Logged> = (0..more).map(|_| self.entry(group)).collect();
        self.models[group].entries.extend(new);
        self.catch_up_peer(group).await;
        let from = SnapshotData::Here(self.peers[group].0.store());
        let meta = SnapshotMeta::default();
        self.replica(group).applier.install_snapshot(&meta, from).await?;
        let end = self.models[group].entries.len() as u64;
        self.models[group].applied = end;
        self.models[group].answered = end;
        // From here on it must not be lost: the leader counts on it.
        self.copies.forget_before(self.copies.all.len());
        self.take_copy();
        tally.installs += 1;
        // openraft says nothing more of what is committed before the log is cut.
        self.purge_to(group, end - 1).await?;
        self.save_committed(group, end - 1).await
    }

    async fn catch_up_peer(&mut self, group: usize) {
        let (_, applier, applied) = &mut self.peers[group];
        let entries = &self.models[group].entries[*applied as usize..];
        let run: Vec<_> = (*applied..)
            .zip(entries)
            .map(|(index, logged)| Ok((log_entry(index, logged), None)))
            .collect();
        *applied += run.len() as u64;
        applier.apply(futures_util::stream::iter(run)).await.unwrap();
    }
}

impl Parts {
    fn open(wal: &Wal, dir: PathBuf) -> Self {
        let store: Arc<dyn Store> = Arc::new(RocksStore::open(&dir, budget()).unwrap());
        let replicas = (0..GROUPS).map(|number| {
            let group = EngineGroup::open(store.clone(), group_id(number)).unwrap();
            let applied = Applied::open(group).unwrap();
            let applier = Applier::open(applied.clone(), Damages::default()).unwrap();
            let log = log_of(wal, number);
            let applier = applier.with_log(&log);
            Replica { log, applied, applier }
        });
        let replicas = replicas.collect();
        Self { store, replicas, dir }
    }
}

fn log_of(wal: &Wal, group: usize) -> LogStore {
    LogStore::new(wal.clone(), ReplicaId(group as u64 + 1), Space::default(), Damages::default())
}
