//! The crash, and what comes back.

use std::io;
use std::sync::Arc;

use openraft::storage::{RaftLogStorage, RaftStateMachine};
use openraft::{RaftLogReader, StorageHelper};
use stemedb_engine::crash_copy::crash_copy;
use stemedb_machine::shard::suite::map::MapView;
use stemedb_types::ReplicaId;
use stemedb_wal::disk::sim::SimDisk;
use stemedb_wal::{OpenError, Wal};

use super::super::copies;
use super::super::history::{History, Logged, Stream};
use super::super::state::{apply_plainly, whole};
use super::{Bench, GROUPS, LOG_ONLY, Parts, Tally, count_of, log_of};
use crate::damage::{check_standing, note_generation};
use crate::log_store::LogStore;
use crate::types::{Config, Payload, log_id};

impl Bench {
    pub(super) async fn crash_and_recover(&mut self, tally: &mut Tally) {
        let dies = self.draw.below(5) == 0;
        self.disk.crash();
        let dir = self.parts.take().map(|parts| parts.dir);
        // The log's thread is gone now, and nothing is called back any more.
        for (change, wait) in std::mem::take(&mut self.waiting) {
            if matches!(wait.await, Ok(Ok(()))) {
                self.acknowledged = self.acknowledged.max(change);
            }
        }
        for _ in 0..LOG_ONLY {
            let disk = self.cut();
            let wal = self.open_log(disk);
            if let Some(wal) = wal {
                self.check_log(&wal).await;
                tally.points += 1;
            }
        }
        self.disk = if dies { self.disk.restart_process() } else { self.cut() };
        while let Err(error) = self.try_recover(tally).await {
            // The power went again, during the start.
            self.expect_crash(&error);
            self.parts = None;
            self.disk = self.cut();
        }
        if let Some(dir) = dir {
            let _ = std::fs::remove_dir_all(dir);
        }
    }

    fn cut(&mut self) -> SimDisk {
        let draw = &mut self.draw;
        self.disk.restart(&mut |bound| draw.below(bound))
    }

    /// `None` if the disk failed meanwhile.
    fn open_log(&self, disk: SimDisk) -> Option<Wal> {
        match Wal::open_on(Arc::new(disk), self.options.clone()) {
            Ok((wal, _)) => Some(wal),
            Err(OpenError::Io { .. }) => None,
            Err(error) => panic!("seed {}: the log does not open: {error}", self.seed),
        }
    }

    /// The log is what it was at one moment, and nothing that was called durable is missing.
    async fn check_log(&self, wal: &Wal) -> Vec<Stream> {
        let mut found = Vec::new();
        for group in 0..GROUPS {
            found.push(read_stream(&mut log_of(wal, group)).await);
        }
        let had = self.history.had(&found, self.acknowledged);
        assert!(
            had,
            "seed {}: the log was never like this, or not since it called change {} durable: {}",
            self.seed,
            self.acknowledged,
            self.history.describe(&found, self.acknowledged),
        );
        found
    }

    async fn try_recover(&mut self, tally: &mut Tally) -> io::Result<()> {
        if self.draw.below(4) == 0 {
            self.disk.crash_after(self.draw.below(16));
        }
        let gone = || io::Error::other("crashed");
        let wal = self.open_log(self.disk.clone()).ok_or_else(gone)?;
        // A disk that is about to fail may not be read to the end: look at a copy.
        let twin = self.open_log(self.disk.copy()).ok_or_else(gone)?;
        let found = self.check_log(&twin).await;
        drop(twin);
        let chosen = self.choose_copy(&found, tally);
        let dir = self.copies.fresh();
        crash_copy(&self.copies.all[chosen].dir, &dir).unwrap();
        self.parts = Some(Parts::open(&wal, dir));
        // All that was found is durable.
        self.history = History::new(found.clone());
        self.acknowledged = 0;
        for (group, stream) in found.into_iter().enumerate() {
            self.start_group(&wal, group, &stream, tally).await?;
        }
        // As good as acknowledged: what the start has done is waited for.
        for group in 0..GROUPS {
            let end = self.history.now(group).end();
            if end > 0 && !self.history.now(group).entries.is_empty() {
                let last = log_id(self.models[group].entries[end as usize - 1].term, end - 1);
                self.replica(group).log.truncate_after(Some(last)).await?;
            }
        }
        tally.points += 1;
        tally.with_store += 1;
        self.copies.forget_before(self.copies.all.len());
        self.take_copy();
        self.check_order();
        Ok(())
    }

    /// Where the store goes back to: any copy that the log reaches down to.
    fn choose_copy(&mut self, found: &[Stream], tally: &mut Tally) -> usize {
        let reached = |copy: &copies::Copy| {
            found.iter().zip(&copy.durable).all(|(stream, durable)| {
                stream.purged.is_none_or(|purged| purged.index() < *durable)
            })
        };
        let copies = &self.copies.all;
        let newest = copies.len() - 1;
        assert!(
            reached(&copies[newest]),
            "seed {}: the log was cut beyond what the store has: {:?}",
            self.seed,
            copies[newest].durable,
        );
        let eligible: Vec<usize> = (0..copies.len()).filter(|at| reached(&copies[*at])).collect();
        let chosen = eligible[self.draw.below(eligible.len() as u64) as usize];
        tally.older_copies += u64::from(chosen != newest);
        chosen
    }

    /// A group starts the way openraft starts it, and is then compared with its model.
    async fn start_group(
        &mut self,
        wal: &Wal,
        group: usize,
        found: &Stream,
        tally: &mut Tally,
    ) -> io::Result<()> {
        let seed = self.seed;
        let replica = &mut self.parts.as_mut().unwrap().replicas[group];
        let (store, id) = (replica.applied.store(), ReplicaId(group as u64 + 1));
        let mark = count_of(store.applied().unwrap());
        // No crash makes a replica look like one that lost what it had synced.
        check_standing(&store, id, wal).unwrap_or_else(|error| {
            panic!("seed {seed}: group {group} is held for damaged: {error}");
        });
        if !found.entries.is_empty() {
            assert!(found.first <= mark, "seed {seed}: a gap between store {mark} and log");
        }
        let model = &mut self.models[group];
        let answered = model.answered;
        assert!(
            answered <= found.end().max(mark),
            "seed {seed}: group {group}: {answered} commands were answered, the log ends at {} and \
             the store at {mark}",
            found.end(),
        );
        // Behind what the store has, the log says what there is.
        for (index, logged) in (found.first..).zip(&found.entries) {
            if index >= answered.max(mark) {
                model.entries.truncate(index as usize);
                model.entries.push(logged.clone());
            } else {
                assert_eq!(model.entries[index as usize], *logged, "seed {seed}: entry {index}");
            }
        }
        model.entries.truncate(found.end().max(mark) as usize);
        let committed = found.committed.map_or(0, |id| id.index() + 1).max(mark);
        if found.end() < mark {
            let upto = log_id(model.entries[mark as usize - 1].term, mark - 1);
            self.history.change(group, |stream| stream.purge(upto));
        }
        let mut helper: StorageHelper<'_, Config, _, _> =
            StorageHelper::new(&mut replica.log, &mut replica.applier).with_id(1);
        helper.get_initial_state().await.map_err(io::Error::other)?;
        note_generation(&store, id, wal).map_err(io::Error::other)?;
        let applied = replica.applier.applied_state().await?.0.map_or(0, |id| id.index() + 1);
        assert_eq!(applied, committed, "seed {seed}: what was committed is applied");
        model.applied = applied;
        model.announced = None;
        tally.replayed += applied - mark;
        self.compare(group, mark);
        if self.draw.below(2) == 0 {
            // Alone, it leads again and commits what its log holds.
            let end = self.models[group].entries.len() as u64;
            tally.replayed += end - applied;
            self.apply(group, end).await?;
            self.models[group].answered = end;
            self.compare(group, mark);
        }
        Ok(())
    }

    /// The state is that of the maps after as many commands. `mark`: how many the store had.
    fn compare(&mut self, group: usize, mark: u64) {
        let model = &mut self.models[group];
        let advance = |plain: &mut MapView, range: std::ops::Range<u64>| {
            let run = &model.entries[range.start as usize..range.end as usize];
            run.iter().filter_map(|l| l.command.as_ref()).for_each(|c| apply_plainly(plain, c));
        };
        if mark < model.plain_at {
            // The power went during the last start, and this one begins with an older copy.
            (model.plain, model.plain_at) = (MapView::default(), 0);
        }
        advance(&mut model.plain, model.plain_at..mark);
        model.plain_at = mark;
        let mut plain = model.plain.clone();
        advance(&mut plain, mark..model.applied);
        let store = self.parts.as_ref().unwrap().replicas[group].applied.store();
        let (seed, applied) = (self.seed, model.applied);
        assert!(
            whole(&store, &plain) == whole(&plain, &plain),
            "seed {seed}: group {group}: the state is not that after {applied} entries",
        );
    }
}

async fn read_stream(log: &mut LogStore) -> Stream {
    let state = log.get_log_state().await.unwrap();
    let purged = state.last_purged_log_id;
    let start = purged.map_or(0, |id| id.index() + 1);
    let end = state.last_log_id.map_or(0, |id| id.index() + 1);
    let entries = log.try_get_log_entries(start..end).await.unwrap();
    let logged = entries.iter().map(|entry| Logged {
        term: entry.log_id.committed_leader_id().term,
        command: match &entry.payload {
            Payload::Normal(command) => Some(command.0.clone()),
            Payload::Blank | Payload::Membership(_) => None,
        },
    });
    assert_eq!(entries.len() as u64, end.max(start) - start, "every entry of the log is there");
    let vote = log.read_vote().await.unwrap();
    Stream {
        vote: vote.map(|vote| (vote.leader_id.term, vote.committed)),
        committed: log.read_committed().await.unwrap(),
        purged,
        first: if entries.is_empty() { 0 } else { start },
        entries: logged.collect(),
    }
}
