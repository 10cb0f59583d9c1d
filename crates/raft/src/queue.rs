//! Commands and reads that wait together travel together.
//!
//! openraft merges only what is queued when its core wakes, and tokio wakes it
//! after the first message. So each group has a queue of its own in front: a
//! task takes the first command, yields once so that everything else that is
//! ready gets in, and hands the whole run over. Measured on a prototype: 7 to 14
//! times longer batches. Reads do the same: one quorum round for all that
//! wait, and a read never joins a round that began before it came.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use openraft::errors::{ClientWriteError, LinearizableReadError, RaftError};
use openraft::raft::linearizable_read::Linearizer;
use openraft::rt::WatchReceiver;
use openraft::{ReadPolicy, ServerState};
use stemedb_types::{GroupId, ReplicaId};
use stemedb_wal::planted::{self, Bug};
use tokio::sync::mpsc;

use crate::closing::Closing;
use crate::lease::{Leases, Permit};
use crate::reading::{Freshness, PermitDone};
use crate::runtime::spawn;
use crate::space::{Level, Space};
use crate::types::{Answer, CommandBytes, Config, Raft, WriteResult};
use crate::{Error, Written};

/// Most commands that wait for one group; one more is refused.
pub(crate) const PROPOSALS_MAX: usize = 4096;
/// Most bytes of commands that a group has taken and not answered; one that is too much is refused.
/// Each stands in memory until then, and there are many groups.
pub(crate) const PROPOSED_BYTES_MAX: usize = 64 << 20;
/// Most reads that wait for one group; one more is refused.
pub(crate) const READS_MAX: usize = 8192;
/// Most commands handed over in one run.
const RUN_MAX: usize = 1024;
/// How long a quorum round may take before its readers are told that there is no quorum.
pub(crate) const ROUND_TIMEOUT: Duration = Duration::from_secs(2);

/// Takes the outcome of a command, once, from any thread that runs the group.
pub type Done = Box<dyn FnOnce(Result<Written, Error>) + Send>;

/// A command and who waits for it.
pub struct Propose {
    /// The encoded command.
    pub command: Bytes,
    /// Who waits.
    pub done: Done,
}

/// A command that was taken, and its place.
pub(crate) type Proposed = (Propose, Room);

/// A place among the bytes that a group may have taken, given back when it is dropped.
pub(crate) struct Room {
    taken: Arc<AtomicUsize>,
    bytes: usize,
}

impl Room {
    /// A place for so many bytes, if there is one.
    pub(crate) fn take(taken: &Arc<AtomicUsize>, bytes: usize) -> Option<Self> {
        let before = taken.fetch_add(bytes, Ordering::Relaxed);
        let room = Self { taken: taken.clone(), bytes };
        (before + bytes <= PROPOSED_BYTES_MAX).then_some(room)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.taken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Takes the confirmed index of a read, once: this replica has applied it.
pub type ReadDone = Box<dyn FnOnce(Result<u64, Error>) + Send>;

/// Answers "unknown" if it is dropped unanswered: a command that was handed over and never came
/// back may still be in a log.
struct Handed {
    done: Option<Done>,
    _room: Room,
}

impl Handed {
    fn answer(mut self, result: Result<Written, Error>) {
        if let Some(done) = self.done.take() {
            done(result);
        }
    }
}

impl Drop for Handed {
    fn drop(&mut self) {
        if let Some(done) = self.done.take() {
            done(Err(Error::Unknown));
        }
    }
}

/// Hands commands over in runs until the group's handles are gone. Behind `closing`, or once
/// openraft has ended, or while the log may not grow, a command is not handed over: its caller
/// hears that it is not applied. What the façade let in may have waited here since.
pub(crate) async fn propose_runs(
    group: GroupId,
    raft: Raft,
    mut queue: mpsc::Receiver<Proposed>,
    closing: Closing,
    space: Space,
) {
    let mut run = Vec::with_capacity(RUN_MAX);
    while queue.recv_many(&mut run, RUN_MAX).await > 0 {
        tokio::task::yield_now().await;
        while run.len() < RUN_MAX {
            let Ok(more) = queue.try_recv() else { break };
            run.push(more);
        }
        metrics::counter!("stemedb_raft_proposals_total").increment(run.len() as u64);
        for (Propose { command, done }, room) in run.drain(..) {
            if closing.is_said() {
                done(Err(closed()));
                continue;
            }
            // The meta group's few commands are let in at any level.
            let spent = group != GroupId::META && space.level() == Level::Spent;
            if spent || space.is_held_up() {
                done(Err(Error::Overloaded));
                continue;
            }
            let handed = Handed { done: Some(done), _room: room };
            let answer = Answer::new(move |result: WriteResult| handed.answer(outcome(result)));
            if let Err(fatal) = raft.client_write_ff(CommandBytes(command), Some(answer)).await {
                tracing::debug!(%fatal, "a command found its group stopped");
                closing.say();
            }
        }
    }
}

pub(crate) fn closed() -> Error {
    Error::Stopped("the group is closed".to_owned())
}

fn outcome(result: WriteResult) -> Result<Written, Error> {
    match result {
        Ok(response) => Ok(Written { index: response.log_id.index(), outcome: response.data }),
        Err(ClientWriteError::ForwardToLeader(forward)) => {
            Err(Error::NotLeader { leader: forward.leader_node.map(|holder| holder.0) })
        }
        // It stood in our log and was cut off by another leader: some other replica may hold it. Of
        // anything else it is not known that it comes before the log.
        Err(_) => Err(Error::Unknown),
    }
}

/// A read that waits at the leader, and what it needs.
pub(crate) enum Reader {
    /// A quorum round, and all that was committed applied here.
    Confirmed(ReadDone),
    /// The same, or a lease.
    Permitted(PermitDone),
    /// A quorum round alone: the index is for another replica, which applies it itself.
    Elsewhere(ReadDone),
}

impl Reader {
    /// Tells it that it can't be.
    pub(crate) fn refuse(self, error: Error) {
        match self {
            Self::Confirmed(done) | Self::Elsewhere(done) => done(Err(error)),
            Self::Permitted(done) => done(Err(error)),
        }
    }

    fn permit(self, index: u64) {
        match self {
            Self::Confirmed(done) | Self::Elsewhere(done) => done(Ok(index)),
            Self::Permitted(done) => done(Ok(Permit { index, lease: None })),
        }
    }
}

/// What the rounds of a leader leave behind for others.
#[derive(Clone)]
pub(crate) struct Rounds {
    pub(crate) leases: Leases,
    pub(crate) freshness: Arc<Freshness>,
}

/// Confirms read indexes in rounds until the group's handles are gone.
pub(crate) async fn confirm_reads(raft: Raft, mut queue: mpsc::Receiver<Reader>, rounds: Rounds) {
    let mut round = Vec::new();
    while queue.recv_many(&mut round, READS_MAX).await > 0 {
        tokio::task::yield_now().await;
        while let Ok(more) = queue.try_recv() {
            round.push(more);
        }
        if rounds.leases.are_on() {
            // What is not served in time is still in the round.
            let serving = serve_by_lease(&raft, &rounds, &mut round);
            let _ = tokio::time::timeout(ROUND_TIMEOUT, serving).await;
        }
        if round.is_empty() {
            continue;
        }
        let confirming = confirm_round(&raft, &rounds, &mut round);
        let confirmed = match tokio::time::timeout(ROUND_TIMEOUT, confirming).await {
            Ok(confirmed) => confirmed,
            Err(_) => Err(Error::NoQuorum),
        };
        for reader in round.drain(..) {
            match &confirmed {
                Ok(index) => reader.permit(*index),
                Err(error) => reader.refuse(error.clone()),
            }
        }
    }
}

/// Waits for a quorum, and until what it confirms is applied here. Those who apply it elsewhere are
/// told before.
async fn confirm_round(
    raft: &Raft,
    rounds: &Rounds,
    round: &mut Vec<Reader>,
) -> Result<u64, Error> {
    let begun = rounds.leases.clock().now();
    let linearizer = match confirm(raft, rounds).await? {
        Confirmed::Stale(index) => return Ok(index),
        Confirmed::Index(linearizer) => linearizer,
    };
    let index = linearizer.read_log_id().index();
    for reader in round.extract_if(.., |reader| matches!(reader, Reader::Elsewhere(_))) {
        reader.permit(index);
    }
    match linearizer.await_ready(raft).await {
        Ok(_) => {
            rounds.freshness.note(begun);
            Ok(index)
        }
        Err(fatal) => Err(Error::Stopped(fatal.to_string())),
    }
}

/// Permits by the lease whatever of a round it will do for; the rest waits for a quorum.
async fn serve_by_lease(raft: &Raft, rounds: &Rounds, round: &mut Vec<Reader>) {
    if round.iter().all(|reader| !matches!(reader, Reader::Permitted(_))) {
        return;
    }
    let Some(lease) = rounds.leases.current() else { return };
    let Ok(linearizer) = raft.get_read_linearizer(ReadPolicy::LeaseRead).await else { return };
    let read = *linearizer.read_log_id().log_id();
    if read.committed_leader_id().term != lease.term || linearizer.await_ready(raft).await.is_err()
    {
        return;
    }
    let (index, leases) = (read.index(), &rounds.leases);
    for reader in round.extract_if(.., |reader| matches!(reader, Reader::Permitted(_))) {
        if let Reader::Permitted(done) = reader {
            done(Ok(Permit { index, lease: Some((lease, leases.clone())) }));
        }
    }
    if leases.begins_to_renew() {
        let (raft, rounds) = (raft.clone(), rounds.clone());
        spawn(async move {
            let _ = tokio::time::timeout(ROUND_TIMEOUT, confirm(&raft, &rounds)).await;
            rounds.leases.has_renewed();
        });
    }
}

enum Confirmed {
    Index(Linearizer<Config>),
    /// No quorum was asked: a planted mistake.
    Stale(u64),
}

/// One quorum round; if leases are on, it is the beginning of one.
async fn confirm(raft: &Raft, rounds: &Rounds) -> Result<Confirmed, Error> {
    if planted::has(Bug::StaleReadIndex) {
        let metrics = raft.metrics();
        let metrics = metrics.borrow_watched();
        if metrics.state == ServerState::Leader {
            let applied = metrics.last_applied.as_ref().map_or(0, |id| id.index());
            return Ok(Confirmed::Stale(applied));
        }
    }
    // Before the messages leave that the quorum will answer.
    let begun = rounds.leases.clock().now();
    match raft.get_read_linearizer(ReadPolicy::ReadIndex).await {
        Ok(linearizer) => {
            if rounds.leases.are_on() {
                let term = linearizer.read_log_id().log_id().committed_leader_id().term;
                rounds.leases.renew(term, begun, voters(raft).into_iter());
            }
            Ok(Confirmed::Index(linearizer))
        }
        Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
            Err(Error::NotLeader { leader: forward.leader_node.map(|holder| holder.0) })
        }
        Err(RaftError::APIError(_)) => Err(Error::NoQuorum),
        Err(RaftError::Fatal(fatal)) => Err(Error::Stopped(fatal.to_string())),
    }
}

/// Who votes, as this replica knows it.
fn voters(raft: &Raft) -> Vec<ReplicaId> {
    let metrics = raft.server_metrics();
    let metrics = metrics.borrow_watched();
    metrics.membership_config.membership().voter_ids().map(ReplicaId).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_beyond_the_bound_of_bytes_find_no_place_until_others_are_answered() {
        let taken = Arc::default();
        let first = Room::take(&taken, PROPOSED_BYTES_MAX - 10).expect("there is room");
        let second = Room::take(&taken, 10).expect("there is room");
        assert!(Room::take(&taken, 1).is_none());
        drop(second);
        assert!(Room::take(&taken, 11).is_none());
        let third = Room::take(&taken, 10).expect("there is room again");
        drop((first, third));
        assert_eq!(taken.load(Ordering::Relaxed), 0);
    }
}
