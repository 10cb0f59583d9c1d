//! Gives leaderships away: to whom, and how long that is waited for.

use std::time::Duration;

use stemedb_raft::{Group, Leadership, Members};
use stemedb_types::{NodeId, ReplicaId};
use tokio::time::{Instant, timeout_at};

use crate::core::Core;

/// How long a node that goes down waits for others to take its leaderships over.
const HANDOVER_MAX: Duration = Duration::from_secs(2);

impl Core {
    /// Asks, for each group led here, another voter to take over, and waits a little for it.
    pub(crate) async fn hand_over(&self) {
        let deadline = Instant::now() + HANDOVER_MAX;
        for group in self.groups.all() {
            if *group.leadership().borrow() != Leadership::Here {
                continue;
            }
            let Some(heir) = self.heir(&group, |_| true) else { continue };
            if group.transfer_leadership(heir).await.is_err() {
                continue;
            }
            let mut leadership = group.leadership();
            while *leadership.borrow_and_update() == Leadership::Here {
                if !matches!(timeout_at(deadline, leadership.changed()).await, Ok(Ok(()))) {
                    break;
                }
            }
        }
    }

    /// A group's voters and who holds them.
    pub(crate) fn voters(&self, group: &Group) -> Vec<(ReplicaId, NodeId)> {
        let Members { holders, voters, .. } = group.members();
        holders.into_iter().filter(|(replica, _)| voters.contains(replica)).collect()
    }

    /// Another voter of a group that answers, and that suits.
    pub(crate) fn heir(&self, group: &Group, suits: impl Fn(NodeId) -> bool) -> Option<ReplicaId> {
        let voters = self.voters(group);
        let suits = |node: NodeId| node != self.node && self.is_up(node) && suits(node);
        let heir = voters.iter().find(|(_, node)| suits(*node));
        heir.map(|(replica, _)| *replica)
    }
}
