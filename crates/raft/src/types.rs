//! The type configuration: what openraft is told our types are.
//!
//! A log entry's command is opaque bytes, encoded once by whoever proposed it
//! and decoded only when it is applied. A responder is a boxed closure, so that
//! an answer goes from the applier straight to where it is wanted (a waiting
//! request, a peer's out-buffer) without a task in between.

use std::fmt;

use bytes::Bytes;
use openraft::RaftTypeConfig;
use openraft::impls::{BoxedErrorSource, InlineBatch, leader_id_std};
use openraft::raft::ClientWriteResult;
use openraft::raft::responder::Responder;
use stemedb_types::NodeId;

use crate::Outcome;

/// The configuration of every group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Config;

/// The bytes of a command.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct CommandBytes(pub(crate) Bytes);

impl fmt::Debug for CommandBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CommandBytes({} bytes)", self.0.len())
    }
}

impl fmt::Display for CommandBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// What membership says of a replica: which node holds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Holder(pub(crate) NodeId);

/// A closure that takes the result of a write; called once, or dropped with its group.
pub(crate) struct Answer<T>(Box<dyn FnOnce(T) + Send>);

impl<T> Answer<T> {
    pub(crate) fn new(then: impl FnOnce(T) + Send + 'static) -> Self {
        Self(Box::new(then))
    }
}

impl<T: Send + 'static> Responder<Config, T> for Answer<T> {
    fn on_complete(self, result: T) {
        (self.0)(result);
    }
}

impl RaftTypeConfig for Config {
    type D = CommandBytes;
    type R = Outcome;
    type NodeId = u64;
    type Node = Holder;
    type Term = u64;
    type LeaderId = leader_id_std::LeaderId<u64, u64>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = openraft::EntryPayload<CommandBytes, u64, Holder>;
    type Entry = openraft::Entry<CommittedLeader, Self::Payload>;
    type AsyncRuntime = crate::runtime::Runtime;
    type Responder<T>
        = Answer<T>
    where
        T: Send + 'static;
    type Batch<T>
        = InlineBatch<T>
    where
        T: Send + 'static;
    type ErrorSource = BoxedErrorSource;
}

pub(crate) type CommittedLeader =
    <leader_id_std::LeaderId<u64, u64> as openraft::vote::RaftLeaderId>::Committed;
pub(crate) type LogId = openraft::LogId<CommittedLeader>;
pub(crate) type Vote = openraft::impls::Vote<leader_id_std::LeaderId<u64, u64>>;
pub(crate) type Entry = <Config as RaftTypeConfig>::Entry;
pub(crate) type Payload = <Config as RaftTypeConfig>::Payload;
pub(crate) type Membership = openraft::Membership<u64, Holder>;
pub(crate) type StoredMembership = openraft::StoredMembership<CommittedLeader, u64, Holder>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<CommittedLeader, u64, Holder>;
pub(crate) type Snapshot =
    openraft::type_config::alias::SnapshotOf<Config, crate::snapshot::SnapshotData>;
pub(crate) type Raft = openraft::Raft<Config, crate::applier::Applier>;
pub(crate) type WriteResult = ClientWriteResult<Config>;

/// The log id of a term and an index.
pub(crate) fn log_id(term: u64, index: u64) -> LogId {
    LogId::new_term_index(term, index)
}
