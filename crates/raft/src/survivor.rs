//! Offline: a replica that goes on as the only member of its group.
//!
//! A group that lost the disks of a majority elects nobody any more, and must not: what the lost ones
//! had acknowledged may be more than what is left. A person may decide to go on with what one
//! replica has. Then all entries of its log count as committed, whoever had acknowledged them, and a
//! membership that names it alone follows them, under a term of its own.
//!
//! That is written to the log alone: vote, entries and committed mark ride one queue, as they do
//! in a running group, and only when they are durable is anything applied. A crash before that
//! leaves the replica what it was; after it, the next start (or another try) finds a group of one.
//!
//! A crash may have come between the install of a snapshot and the purge of the log behind it. A start
//! ends that, and so do we: the node can't be started first, for it may have no majority to start with.
//!
//! What keeps the lost ones out, should they come back, is not decided here: the cluster's id.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use bytes::Bytes;
use openraft::entry::RaftEntry;
use openraft::vote::RaftLeaderId;
use stemedb_engine::{Group as EngineGroup, Store};
use stemedb_types::{GroupId, NodeId, ReplicaId};
use stemedb_wal::{Completion, StreamId, Wal};

use crate::Error;
use crate::applier::{Applied, Applier};
use crate::codec::{
    decode_log_id, decode_vote, encode_generation, encode_log_id, encode_record, encode_vote,
};
use crate::damage::{Damages, check_standing, refused};
use crate::log_store::{LogStore, MARK_COMMITTED, MARK_GENERATION, MARK_VOTE};
use crate::replay::{Replay, replay};
use crate::space::Space;
use crate::types::{
    CommandBytes, Entry, Holder, LogId, Membership, Payload, StoredMembership, Vote, log_id,
};

/// Entries read at once while looking for members.
const READ_BYTES_MAX: usize = 4 << 20;

/// What a replica has, and who its group's members are as far as it knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remains {
    /// The term and the index of its last entry.
    pub last: Option<(u64, u64)>,
    /// The last entry that it knew to be committed.
    pub committed: Option<u64>,
    /// The last entry that its store has applied.
    pub applied: Option<u64>,
    /// Every member, and the node that holds it.
    pub members: BTreeMap<ReplicaId, NodeId>,
    /// Those that vote.
    pub voters: BTreeSet<ReplicaId>,
}

/// A replica of a node that does not run.
pub struct Survivor {
    wal: Wal,
    replica: ReplicaId,
    damages: Damages,
    log: LogStore,
    applied: Applied,
    applier: Applier,
}

impl Survivor {
    /// Opens a replica as a start does, and applies nothing. [`Error::Damaged`] as of a start.
    pub fn open(
        store: Arc<dyn Store>,
        wal: Wal,
        group: GroupId,
        replica: ReplicaId,
    ) -> Result<Self, Error> {
        let damages = Damages::default();
        let store = EngineGroup::open(store, group).map_err(|error| refused(&error))?;
        check_standing(&store, replica, &wal)?;
        let log = LogStore::new(wal.clone(), replica, Space::default(), damages.clone());
        let applied = Applied::open(store).map_err(|error| refused(&error))?;
        let applier = Applier::open(applied.clone(), damages.clone());
        let applier = applier.map_err(|error| damages.told(&error))?;
        Ok(Self { wal, replica, damages, log, applied, applier })
    }

    /// What it has applied.
    pub fn applied(&self) -> &Applied {
        &self.applied
    }

    /// What it has. An error if [`Survivor::go_on_alone`] could not go on with it.
    pub fn remains(&self) -> Result<Remains, Error> {
        let told = |error: io::Error| self.damages.told(&error);
        self.reaches_the_store().map_err(told)?;
        let members = self.members().map_err(told)?;
        let last = self.last().map_err(told)?;
        let committed = self.log.committed().map_err(told)?;
        Ok(Remains {
            last: last.map(|last| (last.committed_leader_id().term, last.index())),
            committed: committed.map(|id| id.index()),
            applied: self.applier.last_index(),
            members: members.nodes().map(|(id, holder)| (ReplicaId(*id), holder.0)).collect(),
            voters: members.voter_ids().map(ReplicaId).collect(),
        })
    }

    /// Makes this replica the only member of its group, on this node, with all that its log has;
    /// durable when it returns, and applied. Again, it changes nothing.
    pub fn go_on_alone(&mut self, node: NodeId) -> Result<(), Error> {
        let done = self.stand_alone(node).and_then(|()| self.apply_all());
        done.map_err(|error| self.damages.told(&error))
    }

    /// Adds commands behind all there is, and applies them; durable in the log when it returns. Only
    /// for a replica that is alone.
    pub fn write(&mut self, commands: Vec<Bytes>) -> Result<(), Error> {
        let payloads = commands.into_iter().map(|bytes| Payload::Normal(CommandBytes(bytes)));
        let written = self.add(payloads.collect()).and_then(|()| self.apply_all());
        written.map_err(|error| self.damages.told(&error))
    }

    fn stream(&self) -> StreamId {
        StreamId(self.replica.0)
    }

    fn stand_alone(&self, node: NodeId) -> io::Result<()> {
        self.reaches_the_store()?;
        self.purge_behind_snapshot()?;
        let (id, members) = (self.replica.0, self.members()?);
        let is_alone = members.voter_ids().eq([id]) && members.nodes().count() == 1;
        if !is_alone {
            let alone =
                Membership::new(vec![BTreeSet::from([id])], BTreeMap::from([(id, Holder(node))]));
            let alone = alone.map_err(io::Error::other)?;
            return self.add(vec![Payload::Membership(alone)]);
        }
        // The entry may be there without the mark that a crash came before.
        match self.last()? {
            Some(last) => self.mark(MARK_COMMITTED, encode_log_id(&last)),
            None => Ok(()),
        }
    }

    /// Appends entries under a term that nobody ever led in, and says that they are committed.
    fn add(&self, payloads: Vec<Payload>) -> io::Result<()> {
        if payloads.is_empty() {
            return Ok(());
        }
        let last = self.last()?;
        let vote = self.wal.mark_value(self.stream(), MARK_VOTE);
        let vote = vote.map(|bytes| decode_vote(&bytes)).transpose().map_err(io::Error::other)?;
        let led = last.as_ref().map_or(0, |last| last.committed_leader_id().term);
        let term = vote.map_or(0, |vote| vote.leader_id.term).max(led) + 1;
        let own = Vote { leader_id: RaftLeaderId::new(term, self.replica.0), committed: false };
        let first = last.map_or(0, |last| last.index() + 1);
        let entries: Vec<Entry> = (first..)
            .zip(payloads)
            .map(|(index, payload)| Entry::new(log_id(term, index), payload))
            .collect();
        let end = log_id(term, first + entries.len() as u64 - 1);
        self.mark(MARK_VOTE, encode_vote(&own))?;
        let records = entries.iter().map(encode_record).collect();
        self.wal.append_durable(self.stream(), first, records).map_err(io::Error::other)?;
        self.mark(MARK_COMMITTED, encode_log_id(&end))
    }

    /// Durable when it returns.
    fn mark(&self, tag: u8, value: Bytes) -> io::Result<()> {
        self.durably(|done| self.wal.mark(self.stream(), tag, value, Some(done)))
    }

    fn durably(
        &self,
        submit: impl FnOnce(Completion) -> Result<(), stemedb_wal::Error>,
    ) -> io::Result<()> {
        let (tell, told) = sync_channel(1);
        submit(Box::new(move |done| drop(tell.send(done)))).map_err(io::Error::other)?;
        let gone = || io::Error::other("the log's writer is gone");
        told.recv().map_err(|_| gone())?.map_err(io::Error::other)
    }

    /// Cuts a log that ends before what the store has applied, as a start does. That it may end there
    /// was checked when this was opened: the rows came from a peer.
    fn purge_behind_snapshot(&self) -> io::Result<()> {
        let Some(applied) = self.applier.last() else { return Ok(()) };
        if self.last()?.as_ref() >= Some(applied) {
            return Ok(());
        }
        let (stream, note) = (self.stream(), encode_log_id(applied));
        self.durably(|done| self.wal.purge_to(stream, applied.index(), note, Some(done)))?;
        // Behind the purge, never before it: as of a running replica.
        let generation = self.applied.store().generation();
        self.mark(MARK_GENERATION, encode_generation(generation))
    }

    /// Fails if entries are missing between what the store has applied and the log.
    fn reaches_the_store(&self) -> io::Result<()> {
        let bounds = self.wal.bounds(self.stream());
        let first = bounds.first.max(bounds.purged.map(|(index, _)| index + 1)).unwrap_or(0);
        let next = self.next_to_apply();
        if next >= first {
            return Ok(());
        }
        let why = format!("the log begins at entry {first}, and the store wants entry {next}");
        Err(io::Error::other(why))
    }

    fn next_to_apply(&self) -> u64 {
        self.applier.last_index().map_or(0, |last| last + 1)
    }

    fn apply_all(&mut self) -> io::Result<()> {
        let start = self.next_to_apply();
        let end = self.log.held().end.max(start);
        replay(&self.log, &mut self.applier, start..end, &Replay::default())
    }

    /// The last entry, of the log or that was purged from it.
    fn last(&self) -> io::Result<Option<LogId>> {
        let bounds = self.wal.bounds(self.stream());
        if let Some(index) = bounds.last {
            let read = self.log.read(index, index + 1, usize::MAX)?;
            return Ok(read.last().map(|entry| entry.log_id()));
        }
        match bounds.purged {
            Some((_, note)) => decode_log_id(&note).map(Some).map_err(io::Error::other),
            None => Ok(None),
        }
    }

    /// The newest members: of the log's entries, or of what the store has applied.
    fn members(&self) -> io::Result<Membership> {
        let held = self.log.held();
        let mut next = self.next_to_apply().max(held.start);
        let mut newest: StoredMembership = self.applier.membership().clone();
        while next < held.end {
            let read = self.log.read(next, held.end, READ_BYTES_MAX)?;
            let Some(last) = read.last().map(|entry| entry.log_id().index()) else { break };
            next = last + 1;
            for entry in read {
                if let Payload::Membership(members) = entry.payload {
                    newest = StoredMembership::new(Some(entry.log_id), members);
                }
            }
        }
        Ok(newest.membership().clone())
    }
}
