//! Entries → machine → one batch with the applied mark in it.
//!
//! openraft hands over committed entries as a stream. Whatever of it is ready
//! is one run: its commands are applied one after another over an overlay, the
//! changes and the mark that says how far they go are written as one batch,
//! and only then are the answers given. A crash between two runs loses
//! nothing but the memtable, and the log brings that back.
//!
//! An entry that can't be applied (bytes that are no command, a store that
//! does not read) stops the group: going on would let replicas differ. Only a
//! store that has met the end of its volume is waited for: the group goes on voting and beating
//! meanwhile, and what it has committed is in the log.

use std::io;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use openraft::entry::RaftEntry;
use openraft::storage::{EntryResponder, RaftStateMachine};
use stemedb_engine::{Batch, Error as StoreError, Group as EngineGroup, Health, Incoming, copy};
use stemedb_machine::meta::{MetaCommand, MetaState};
use stemedb_machine::shard::{Command, Overlay};
use stemedb_machine::{meta, shard};
use stemedb_types::GroupId;
use stemedb_wal::planted::{self, Bug};
use tokio::sync::watch;

use crate::Outcome;
use crate::closing::Closing;
use crate::codec::{decode_applied, encode_applied};
use crate::damage::Damages;
use crate::log_store::{Installed, LogStore};
use crate::runtime::blocking;
use crate::sending::Views;
use crate::snapshot::{Builder, SnapshotData, current};
use crate::synced::Synced;
use crate::types::{
    Config, Entry, LogId, Payload, Snapshot, SnapshotMeta, StoredMembership, log_id,
};

/// Most entries applied in one run: bounds a batch, and how long the thread serves nobody else.
const RUN_ENTRIES_MAX: usize = 128;
/// Between two tries of a run that found the store full: it tells nobody when it has room again.
const FULL_RETRY_INTERVAL: Duration = Duration::from_millis(200);

/// What a group has applied, for those who read it. Cheap to clone.
#[derive(Clone)]
pub struct Applied {
    store: Arc<RwLock<EngineGroup>>,
    meta: watch::Sender<Arc<MetaState>>,
    /// The index of the last entry that is applied; 0: none.
    index: watch::Sender<u64>,
}

impl Applied {
    pub(crate) fn open(store: EngineGroup) -> Result<Self, stemedb_engine::Error> {
        let state = match store.id() {
            GroupId::META => store.meta_state()?,
            _ => MetaState::default(),
        };
        let meta = watch::Sender::new(Arc::new(state));
        let index = watch::Sender::new(0);
        Ok(Self { store: Arc::new(RwLock::new(store)), meta, index })
    }

    /// The group's rows. Taken anew for each read: a snapshot may replace them.
    pub fn store(&self) -> EngineGroup {
        self.store.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The meta state after each run that changed it; stays empty for a shard.
    pub fn meta(&self) -> watch::Receiver<Arc<MetaState>> {
        self.meta.subscribe()
    }

    /// The index of the last entry that is applied; 0: none.
    pub(crate) fn index(&self) -> u64 {
        *self.index.borrow()
    }

    /// Waits until the entry of this index is applied, and returns how far it is by then; `None`: it
    /// never will be.
    pub(crate) async fn reach(&self, index: u64) -> Option<u64> {
        let mut applied = self.index.subscribe();
        applied.wait_for(|applied| *applied >= index).await.ok().map(|applied| *applied)
    }

    fn has_reached(&self, last: &Option<LogId>) {
        if let Some(last) = last {
            self.index.send_replace(last.index());
        }
    }

    /// Returns what it replaced: with the last handle on it its rows go, which may block.
    fn replace(&self, store: EngineGroup) -> Result<EngineGroup, stemedb_engine::Error> {
        if store.id() == GroupId::META {
            self.meta.send_replace(Arc::new(store.meta_state()?));
        }
        let mut standing = self.store.write().unwrap_or_else(PoisonError::into_inner);
        Ok(std::mem::replace(&mut *standing, store))
    }
}

/// The state machine of one replica, as openraft drives it.
///
/// Invariant: `last` and `membership` are what the store's applied mark says.
pub(crate) struct Applier {
    applied: Applied,
    last: Option<LogId>,
    membership: StoredMembership,
    /// Where the newest snapshot that was announced ends.
    announced: Option<LogId>,
    /// What is being sent to followers.
    views: Arc<Views>,
    damages: Damages,
    closing: Closing,
    /// Where the log is told of a snapshot that was installed.
    installed: Installed,
    /// What the replica's own disk holds of its log: nothing is applied before.
    synced: Synced,
}

/// A run of entries on its way into the store.
struct Run {
    store: EngineGroup,
    batch: Batch,
    mark: Vec<u8>,
    last: Option<LogId>,
    membership: StoredMembership,
    meta: Option<MetaState>,
    outcomes: Vec<Outcome>,
}

impl Applier {
    /// Opens the state machine at its applied mark.
    pub(crate) fn open(applied: Applied, damages: Damages) -> io::Result<Self> {
        let (last, membership) = match applied.store().applied()? {
            None => (None, StoredMembership::default()),
            Some(mark) => decode_applied(&mark).map_err(invalid)?,
        };
        let last = match last {
            Some(last) if last.index() > 2 && planted::has(Bug::AppliedTwice) => {
                Some(log_id(last.committed_leader_id().term, last.index() - 1))
            }
            last => last,
        };
        applied.has_reached(&last);
        Ok(Self {
            applied,
            last,
            membership,
            announced: None,
            views: Arc::default(),
            damages,
            closing: Closing::default(),
            installed: Installed::default(),
            synced: Synced::default(),
        })
    }

    /// The same, which waits for nothing any more once the replica stops.
    pub(crate) fn until(self, closing: Closing) -> Self {
        Self { closing, ..self }
    }

    /// The same, beside a log: it is told of snapshots that were installed, and tells what it has
    /// synced.
    pub(crate) fn with_log(self, log: &LogStore) -> Self {
        Self { installed: log.installed(), synced: log.synced(), ..self }
    }

    /// With what is being sent to followers.
    pub(crate) fn with_views(self, views: Arc<Views>) -> Self {
        Self { views, ..self }
    }

    /// Which group's.
    pub(crate) fn group(&self) -> GroupId {
        self.applied.store().id()
    }

    /// The newest members among what is applied.
    pub(crate) fn membership(&self) -> &StoredMembership {
        &self.membership
    }

    /// The last entry that is applied.
    pub(crate) fn last(&self) -> Option<&LogId> {
        self.last.as_ref()
    }

    /// The index of the last entry that is applied.
    pub(crate) fn last_index(&self) -> Option<u64> {
        self.last.as_ref().map(|last| last.index())
    }

    /// Applies entries, which follow the last ones, as one batch. Blocks for as long as the store
    /// is behind. On an error nothing of it is written, and it may be tried again.
    pub(crate) fn apply_run(&mut self, run: &[Entry]) -> io::Result<Vec<Outcome>> {
        let Run { store, batch, mark, last, membership, meta, outcomes } = self.run(run)?;
        store.commit(batch, mark)?;
        self.has_applied(last, membership, meta);
        Ok(outcomes)
    }

    /// [`Applier::apply_run`], but a store that is behind is waited for elsewhere: this thread
    /// also runs what must not wait.
    async fn apply_run_beside(&mut self, run: &[Entry]) -> io::Result<Vec<Outcome>> {
        let Run { store, batch, mark, last, membership, meta, outcomes } = self.run(run)?;
        match store.commit_now(batch, mark) {
            Err(StoreError::Behind) => {
                let Run { store, batch, mark, .. } = self.run(run)?;
                blocking(move || store.commit(batch, mark)).await??;
            }
            committed => committed?,
        }
        self.has_applied(last, membership, meta);
        Ok(outcomes)
    }

    fn has_applied(
        &mut self,
        last: Option<LogId>,
        membership: StoredMembership,
        meta: Option<MetaState>,
    ) {
        (self.last, self.membership) = (last, membership);
        if let Some(state) = meta {
            self.applied.meta.send_replace(Arc::new(state));
        }
        self.applied.has_reached(&self.last);
    }

    /// What a run of entries does to the store and to this state machine. Nothing is done yet.
    fn run(&self, run: &[Entry]) -> io::Result<Run> {
        let store = self.applied.store();
        let mut batch = store.batch();
        let mut meta = None;
        let mut outcomes = Vec::with_capacity(run.len());
        let mut last = self.last;
        let mut membership = None;
        {
            let view = store.run();
            let mut overlay = Overlay::new(&view);
            for entry in run {
                follows(last, entry)?;
                last = Some(entry.log_id());
                let outcome = match &entry.payload {
                    Payload::Blank => Outcome::Nothing,
                    Payload::Membership(members) => {
                        membership = Some(StoredMembership::new(last, members.clone()));
                        Outcome::Nothing
                    }
                    Payload::Normal(command) if store.id() == GroupId::META => {
                        let state = meta
                            .get_or_insert_with(|| MetaState::clone(&self.applied.meta.borrow()));
                        apply_meta(state, &command.0, &mut batch)?
                    }
                    Payload::Normal(command) => {
                        let command = Command::decode(&command.0).map_err(invalid)?;
                        let done = shard::apply(&overlay, &command).map_err(io::Error::other)?;
                        overlay.absorb(&done.changes);
                        done.changes.iter().for_each(|change| batch.put_change(change));
                        Outcome::Shard(done.answer)
                    }
                };
                outcomes.push(outcome);
            }
        }
        let membership = membership.unwrap_or_else(|| self.membership.clone());
        let mark = encode_applied(&last, &membership);
        if planted::has(Bug::AppliedApart) {
            store.commit(store.batch(), mark.clone())?;
        }
        Ok(Run { store, batch, mark, last, membership, meta, outcomes })
    }

    /// Whether what failed may be tried again: the store met the end of its volume. It goes on by
    /// itself once there is room.
    pub(crate) fn is_full(&self) -> bool {
        matches!(self.applied.store().store().health(), Health::Full(_))
    }

    /// Waits until it makes sense to try again what found the store full; fails if the replica
    /// stops.
    async fn wait_for_room(&self) -> io::Result<()> {
        self.closing.unless(tokio::time::sleep(FULL_RETRY_INTERVAL)).await
    }

    /// The same for a thread that may be blocked.
    pub(crate) fn sleep_for_room(&self) -> io::Result<()> {
        self.closing.sleep(FULL_RETRY_INTERVAL)
    }

    /// Fails if the replica stops.
    pub(crate) fn check_closing(&self) -> io::Result<()> {
        self.closing.check()
    }

    /// Applies a run and answers whoever waits for it; waits if the store is full.
    async fn apply_and_answer(&mut self, run: Vec<EntryResponder<Config>>) -> io::Result<()> {
        let (entries, responders): (Vec<_>, Vec<_>) = run.into_iter().unzip();
        if let Some(last) = entries.last()
            && !planted::has(Bug::AppliedBeforeSync)
        {
            self.closing.unless(self.synced.reach(last.log_id().index())).await??;
        }
        let outcomes = loop {
            match self.apply_run_beside(&entries).await {
                Ok(outcomes) => break outcomes,
                Err(error) if self.is_full() => {
                    tracing::warn!(%error, group = %self.group(), "the store is full; what is committed waits");
                    self.wait_for_room().await?;
                }
                Err(error) => return Err(error),
            }
        };
        for (responder, outcome) in responders.into_iter().zip(outcomes) {
            if let Some(responder) = responder {
                responder.send(outcome);
            }
        }
        Ok(())
    }
}

fn apply_meta(state: &mut MetaState, command: &[u8], batch: &mut Batch) -> io::Result<Outcome> {
    let command = MetaCommand::decode(command).map_err(invalid)?;
    let done = meta::apply(state, command).map_err(io::Error::other)?;
    for record in done.changes {
        batch.put_meta(&record);
        state.absorb(record);
    }
    Ok(Outcome::Meta(done.answer))
}

/// An entry is applied once, behind all before it. (A gap is openraft's to prevent, and its own
/// suite applies with gaps.)
fn follows(last: Option<LogId>, entry: &Entry) -> io::Result<()> {
    let index = entry.log_id().index();
    match last {
        Some(last) if index <= last.index() => Err(io::Error::other(format!(
            "entry {index} was to be applied, and entry {} is already",
            last.index()
        ))),
        _ => Ok(()),
    }
}

fn invalid(cause: stemedb_types::DecodeError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, cause)
}

impl RaftStateMachine<Config> for Applier {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.last, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = Result<EntryResponder<Config>, io::Error>> + Unpin + Send,
    {
        let mut runs = entries.ready_chunks(RUN_ENTRIES_MAX);
        while let Some(run) = runs.next().await {
            let run = run.into_iter().collect::<io::Result<Vec<_>>>();
            let run = run.inspect_err(|error| self.damages.note(error))?;
            let is_full = run.len() == RUN_ENTRIES_MAX;
            let applied = self.apply_and_answer(run).await;
            applied.inspect_err(|error| self.damages.note(error))?;
            if is_full {
                // More stands ready, perhaps much more: this group is far behind.
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Builder> {
        if force {
            return Some(self.get_snapshot_builder().await);
        }
        // Only what is durable may be announced, and only if it is news.
        let store = self.applied.store();
        let durable = current(&store).inspect_err(|error| self.damages.note(error));
        let durable = durable.ok().flatten()?.meta.last_log_id;
        if durable <= self.announced {
            return None;
        }
        self.announced = durable;
        Some(Builder::of_durable(store, self.damages.clone()))
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder::of_applied(self.applied.store(), self.damages.clone())
    }

    async fn install_snapshot(
        &mut self,
        _meta: &SnapshotMeta,
        snapshot: SnapshotData,
    ) -> io::Result<()> {
        let installed = self.install(snapshot).await;
        installed.inspect_err(|error| self.damages.note(error))
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        let current = current(&self.applied.store());
        let current = current.inspect_err(|error| self.damages.note(error))?;
        let Some(mut snapshot) = current else { return Ok(None) };
        if let Some(kept) = self.views.oldest_kept()
            && kept.last_log_id < snapshot.meta.last_log_id
        {
            snapshot.meta = kept;
        }
        Ok(Some(snapshot))
    }
}

impl Applier {
    async fn install(&mut self, snapshot: SnapshotData) -> io::Result<()> {
        let store = self.install_once_there_is_room(snapshot).await?;
        let mark = store.applied()?.unwrap_or_default();
        let (last, membership) = decode_applied(&mark).map_err(invalid)?;
        if let Some(last) = &last {
            self.installed.set(last.index(), store.generation());
        }
        let replaced = self.applied.replace(store)?;
        self.last = last;
        self.applied.has_reached(&self.last);
        if !planted::has(Bug::SnapshotWithoutMembership) {
            self.membership = membership;
        }
        blocking(move || drop(replaced)).await
    }

    async fn install_once_there_is_room(
        &self,
        mut snapshot: SnapshotData,
    ) -> io::Result<EngineGroup> {
        loop {
            let own = self.applied.store();
            // Moving files into the store and flushing it takes long: not on a thread that others
            // need.
            let installing = blocking(move || {
                let installed = match &mut snapshot {
                    SnapshotData::Received(incoming) => incoming.try_install(),
                    // A snapshot that never left this process, taken in like one that did.
                    SnapshotData::Here(source) => copy(source, &own, 0).and_then(Incoming::install),
                };
                installed.map_err(|error| (error, snapshot))
            });
            match installing.await? {
                Ok(store) => return Ok(store),
                Err((error, again)) if error.is_full() || self.is_full() => {
                    tracing::warn!(%error, group = %self.group(), "the store is full; the snapshot waits");
                    self.wait_for_room().await?;
                    snapshot = again;
                }
                Err((error, _)) => return Err(error.into()),
            }
        }
    }
}
