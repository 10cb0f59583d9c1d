//! All replicas of a node, by group.

use std::collections::BTreeMap;
use std::sync::{Arc, Once, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use stemedb_engine::Store;
use stemedb_rpc::{Envelope, Refusal, Reply, SnapshotChunks};
use stemedb_types::{GroupId, ReplicaId};
use stemedb_wal::Wal;
use tokio::sync::Semaphore;

use crate::Error;
use crate::clock::Clock;
use crate::evidence::Evidence;
use crate::group::{Group, GroupOptions};
use crate::inbound::{kinds, not_here};
use crate::pulse::beat;
use crate::replay::Replay;
use crate::runtime::spawn;
use crate::sending::Transfers;
use crate::space::Space;
use crate::transport::Transport;

/// What the replicas of a node share.
#[derive(Clone)]
pub struct GroupsOptions {
    /// The node's log.
    pub wal: Wal,
    /// The node's store.
    pub store: Arc<dyn Store>,
    /// The plane to the peers.
    pub plane: Arc<dyn Transport>,
    /// Timers and thresholds.
    pub group: GroupOptions,
    /// Where the replay of the log shows how far it is.
    pub replay: Replay,
    /// What the disks can still take.
    pub space: Space,
    /// What the node knows of leaders that are gone.
    pub evidence: Arc<dyn Evidence>,
    /// Where time is read that leases and ages are measured by.
    pub clock: Arc<dyn Clock>,
}

/// Open replicas, by group.
pub(crate) type Open = RwLock<BTreeMap<GroupId, Group>>;

/// The replicas of a node. Cheap to clone.
#[derive(Clone)]
pub struct Groups {
    open: Arc<Open>,
    /// Their heart beats.
    beats: Arc<Once>,
    transfers: Transfers,
    /// Replays that may run at a time: one for each core.
    turns: Arc<Semaphore>,
}

impl Default for Groups {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let turns = Arc::new(Semaphore::new(cores));
        let beats = Arc::new(Once::new());
        Self { open: Arc::default(), beats, transfers: Transfers::default(), turns }
    }
}

impl Groups {
    /// No replicas yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Opens a replica of a group and lets it run. What its log has beyond its store is applied
    /// first; several groups opened at once do that side by side. A replica of the group that is
    /// open is closed before.
    pub async fn open(
        &self,
        group: GroupId,
        replica: ReplicaId,
        options: &GroupsOptions,
    ) -> Result<Group, Error> {
        // One that is open already would go on beside it, out of everybody's reach.
        self.close_one(group).await;
        self.beats.call_once(|| {
            let every = Duration::from_millis(options.group.heartbeat_interval_ms);
            spawn(beat(Arc::downgrade(&self.open), every));
        });
        let transfers = self.transfers.clone();
        let opened = Group::open(group, replica, options, &self.turns, transfers).await?;
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        open.insert(group, opened.clone());
        Ok(opened)
    }

    /// The replica of a group, if this node holds one.
    pub fn get(&self, group: GroupId) -> Option<Group> {
        self.open.read().unwrap_or_else(PoisonError::into_inner).get(&group).cloned()
    }

    /// All replicas of this node, by group.
    pub fn all(&self) -> Vec<Group> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        open.values().cloned().collect()
    }

    /// Takes a message of a peer if its kind is a Raft message; gives it back if it is not.
    pub fn take(&self, message: Envelope, reply: Reply) -> Option<(Envelope, Reply)> {
        if message.kind >= kinds::FIRST_OTHER {
            return Some((message, reply));
        }
        match self.meant(&message) {
            Some(group) => group.take(message, reply),
            None => reply.refuse(not_here(&message)),
        }
        None
    }

    /// Takes a snapshot from a peer.
    pub async fn take_snapshot(
        &self,
        header: Envelope,
        chunks: SnapshotChunks,
    ) -> Result<Bytes, Refusal> {
        match self.meant(&header) {
            Some(group) => group.take_snapshot(header, chunks).await,
            None => Err(not_here(&header)),
        }
    }

    /// The replica a message is for, if that very replica is here.
    fn meant(&self, message: &Envelope) -> Option<Group> {
        self.get(message.group).filter(|group| group.replica() == message.to)
    }

    /// Stops one replica, and answers for it no more; the others go on.
    pub async fn close_one(&self, group: GroupId) {
        // Out of reach first: nothing may be taken by a replica on its way out.
        let closed = self.open.write().unwrap_or_else(PoisonError::into_inner).remove(&group);
        if let Some(closed) = closed {
            closed.close().await;
        }
    }

    /// Stops every replica, all at once: one that takes long holds up no other.
    pub async fn close(&self) {
        let groups = self.all();
        join_all(groups.iter().map(Group::close)).await;
        self.open.write().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
