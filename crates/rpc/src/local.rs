//! What every task of a plane shares: who we are, our keys, limits, chance and
//! the word to stop.

use stemedb_types::{ClusterId, NodeId};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::chance::Chance;
use crate::handshake::Keys;
use crate::limits::Limits;
use crate::message::PeerIdentity;

/// One per plane.
pub(crate) struct Local {
    pub(crate) node: NodeId,
    pub(crate) keys: Keys,
    pub(crate) limits: Limits,
    pub(crate) chance: Chance,
    pub(crate) cluster: watch::Sender<Option<ClusterId>>,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

impl Local {
    /// Who we are right now.
    pub(crate) fn identity(&self) -> PeerIdentity {
        PeerIdentity { node: self.node, cluster: *self.cluster.borrow() }
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
