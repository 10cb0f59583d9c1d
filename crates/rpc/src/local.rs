//! What every task of a plane shares: who we are, our keys, limits, chance and
//! the word to stop.

use stemedb_types::{ClusterId, NodeId};
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::chance::Chance;
use crate::handshake::Keys;
use crate::limits::Limits;
use crate::lives::{Life, Lives, TurnedAway};
use crate::message::PeerIdentity;

/// One per plane.
pub(crate) struct Local {
    pub(crate) node: NodeId,
    /// Which process under that id this is.
    pub(crate) life: Life,
    /// Which processes peers are.
    pub(crate) lives: Lives,
    pub(crate) turned_away: watch::Sender<Option<TurnedAway>>,
    /// Whether peers are answered yet.
    pub(crate) doors: watch::Sender<bool>,
    pub(crate) keys: Keys,
    pub(crate) limits: Limits,
    pub(crate) chance: Chance,
    pub(crate) cluster: watch::Sender<Option<ClusterId>>,
    /// Who has come in with a main connection, and when.
    pub(crate) came_in: broadcast::Sender<(NodeId, Instant)>,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

impl Local {
    /// Who we are right now.
    pub(crate) fn identity(&self) -> PeerIdentity {
        PeerIdentity { node: self.node, cluster: *self.cluster.borrow() }
    }

    /// A peer knows a newer life of this node, and has proven that it may say so.
    pub(crate) fn note_turned_away(&self, by: NodeId) {
        self.turned_away.send_modify(|away| {
            *away = Some(TurnedAway::again(*away, by, Instant::now()));
        });
    }

    /// Resolves when peers may be answered.
    pub(crate) async fn doors_open(&self) {
        // The sender is ours: it can't be gone.
        let _ = self.doors.subscribe().wait_for(|open| *open).await;
    }

    /// Resolves when a connection made as a member of `cluster` must end: we are something else
    /// now, or nothing any more.
    pub(crate) async fn outlived(&self, cluster: Option<ClusterId>) {
        let mut now = self.cluster.subscribe();
        tokio::select! {
            () = self.stop.cancelled() => {}
            _ = now.wait_for(|now| *now != cluster) => {}
        }
    }
}
