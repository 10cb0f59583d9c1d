//! Who is a member of a group, and how that changes.
//!
//! Every change goes through the group's own log, so only its leader can make one, and it holds
//! once it is committed. A replica becomes a voter by way of a learner: it first listens until it
//! has what the others have ([`Members::caught_up`]), then a joint change lets it vote. What is
//! to change, and when, is decided above this room.

use std::collections::{BTreeMap, BTreeSet};

use openraft::ChangeMembers;
use openraft::errors::{ClientWriteError, InitializeError, RaftError};
use openraft::rt::WatchReceiver;
use stemedb_types::{NodeId, Replica, ReplicaId};

use crate::Error;
use crate::group::Group;
use crate::types::{Config, Holder, LogId};

/// A learner that lacks at most so many entries has caught up: it gets them within a heartbeat or
/// two, and a change of voters that waits for it waits no longer than that.
const CAUGHT_UP_ENTRIES: u64 = 1_000;

/// The members of a group, as a replica knows them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// Every member, and the node that holds it.
    pub holders: BTreeMap<ReplicaId, NodeId>,
    /// Those that vote; within a joint change, before or after it.
    pub voters: BTreeSet<ReplicaId>,
    /// Those that only listen.
    pub learners: BTreeSet<ReplicaId>,
    /// Members that have, as far as the leader has heard, all but the newest entries of its log;
    /// empty at a follower.
    pub caught_up: BTreeSet<ReplicaId>,
    /// A joint change of voters has begun and not ended.
    pub is_joint: bool,
    /// These members are committed as far as this replica knows, and no joint change is under way.
    pub settled: bool,
}

impl Group {
    /// Makes the first membership of a new group: every founding replica does, with the same list.
    /// A group that has one already is left alone.
    pub async fn found(&self, replicas: &[Replica]) -> Result<(), Error> {
        let members: BTreeMap<u64, Holder> =
            replicas.iter().map(|replica| (replica.id.0, Holder(replica.node))).collect();
        match self.raft.initialize(members).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(other) => Err(Error::Stopped(other.to_string())),
        }
    }

    /// The members, as this replica knows them.
    pub fn members(&self) -> Members {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let stored = &metrics.membership_config;
        let membership = stored.membership();
        let ids = |ids: &mut dyn Iterator<Item = u64>| ids.map(ReplicaId).collect();
        let enough = metrics.last_log_index.unwrap_or(0).saturating_sub(CAUGHT_UP_ENTRIES);
        let matched = metrics.replication.iter().flatten();
        let has_enough =
            |has: &Option<LogId>| has.as_ref().is_some_and(|has| has.index() >= enough);
        let committed = stored.log_id() <= &metrics.cluster_committed;
        let is_joint = membership.get_joint_config().len() > 1;
        Members {
            holders: membership.nodes().map(|(id, holder)| (ReplicaId(*id), holder.0)).collect(),
            voters: ids(&mut membership.voter_ids()),
            learners: ids(&mut membership.learner_ids()),
            caught_up: matched
                .filter(|(_, has)| has_enough(has))
                .map(|(id, _)| ReplicaId(*id))
                .collect(),
            is_joint,
            settled: committed && !is_joint,
        }
    }

    /// How many entries of its log each member lacks, as far as this leader has heard; who has not
    /// said is not among them. Empty at a follower.
    pub fn entries_behind(&self) -> BTreeMap<ReplicaId, u64> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let last = metrics.last_log_index.unwrap_or(0);
        let lacks = |(id, has): (&u64, &Option<LogId>)| {
            Some((ReplicaId(*id), last.saturating_sub(has.as_ref()?.index())))
        };
        metrics.replication.iter().flatten().filter_map(lacks).collect()
    }

    /// Bytes of the snapshot on its way to a member that were sent so far; `None` if there is none
    /// on its way.
    pub fn snapshot_bytes_sent(&self, to: ReplicaId) -> Option<u64> {
        self.views.sent_bytes(to)
    }

    /// Adds a replica that only listens. Only the leader can.
    pub async fn add_learner(&self, replica: Replica) -> Result<(), Error> {
        let added = self.raft.add_learner(replica.id.0, Holder(replica.node), false).await;
        added.map(|_| ()).map_err(changed)
    }

    /// Makes these replicas the voters, through joint consensus; the others become learners. Only
    /// the leader can.
    pub async fn set_voters(&self, voters: BTreeSet<ReplicaId>) -> Result<(), Error> {
        let voters: BTreeSet<u64> = voters.into_iter().map(|replica| replica.0).collect();
        let set = self.raft.change_membership(ChangeMembers::ReplaceAllVoters(voters), true).await;
        set.map(|_| ()).map_err(changed)
    }

    /// Drops replicas that only listen; a voter stays. Only the leader can.
    pub async fn drop_learners(&self, learners: BTreeSet<ReplicaId>) -> Result<(), Error> {
        let learners = learners.into_iter().map(|replica| replica.0).collect();
        let gone = self.raft.change_membership(ChangeMembers::RemoveNodes(learners), true).await;
        gone.map(|_| ()).map_err(changed)
    }

    /// From now on this replica does not stand for election because its leader is silent, for as
    /// long as it runs. It votes, and leads if it leads or is asked to take over.
    pub fn stand_aside(&self) {
        self.raft.runtime_config().elect(false);
    }

    /// Asks another replica to take over. Returns once it was asked.
    pub async fn transfer_leadership(&self, to: ReplicaId) -> Result<(), Error> {
        let stopped = |fatal: &dyn std::fmt::Display| Error::Stopped(fatal.to_string());
        if !self.leases.are_on() {
            let asked = self.raft.trigger().transfer_leader(to.0).await;
            return asked.map_err(|fatal| stopped(&fatal));
        }
        // The voters will let the heir past the lease, so it ends first; and as the heir may be late,
        // there is none in this term any more, whichever that is when openraft comes to the transfer.
        self.leases.give_up(u64::MAX);
        let asked = self.raft.trigger().transfer_leader(to.0).await;
        asked.map_err(|fatal| stopped(&fatal))?;
        let term = self.raft.with_raft_state(|state| state.vote_ref().leader_id.term).await;
        self.leases.give_up_only(term.map_err(|fatal| stopped(&fatal))?);
        Ok(())
    }
}

fn changed(error: RaftError<Config, ClientWriteError<Config>>) -> Error {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => {
            Error::NotLeader { leader: forward.leader_node.map(|holder| holder.0) }
        }
        RaftError::APIError(_) => Error::Unknown,
        RaftError::Fatal(fatal) => Error::Stopped(fatal.to_string()),
    }
}
