//! Gives leaderships away: to whom, and how long that is waited for; and stays without them.
//!
//! A node that is asked to end hands over what it leads, at once for all groups, and from then on
//! is in nobody's way: it does not stand for election by its own timer, it tells its peers that it
//! goes, so that they hand it nothing, and what it is elected to all the same it hands over again.
//! It still votes, and takes entries, until it ends.
//!
//! Where nobody can take over (a node alone; the others are down, or go as well) it leads on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{join_all, select_all};
use stemedb_raft::{Group, Leadership, Members};
use stemedb_types::{NodeId, ReplicaId};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};

use crate::core::{Core, Phase, locked};
use crate::wire::GOES_DOWN;

/// How long a node that goes down waits for others to take its leaderships over.
const HANDOVER_MAX: Duration = Duration::from_secs(2);
/// How often a node that goes down says so, and looks what it leads although nothing woke it.
const TELL_INTERVAL: Duration = Duration::from_secs(1);
/// How long a peer's word that it goes down is believed.
const BELIEVED_FOR: Duration = Duration::from_secs(3);
/// How long a peer may take to hear it.
const TELL_TIMEOUT: Duration = Duration::from_secs(1);

/// Peers that said they go down.
#[derive(Default)]
pub(crate) struct GoingDown(Mutex<HashMap<NodeId, Instant>>);

impl GoingDown {
    /// Takes in what a peer said.
    pub(crate) fn hear(&self, from: NodeId) {
        let mut going = locked(&self.0);
        going.retain(|_, heard| heard.elapsed() < BELIEVED_FOR);
        going.insert(from, Instant::now());
    }

    /// Whether a peer said so lately.
    pub(crate) fn has(&self, node: NodeId) -> bool {
        locked(&self.0).get(&node).is_some_and(|heard| heard.elapsed() < BELIEVED_FOR)
    }
}

impl Core {
    /// Leads nothing from now on, if others can: returns once they do, or after
    /// [`HANDOVER_MAX`]. Until the node stops, what it is elected to is handed over again.
    pub(crate) async fn drain(self: &Arc<Self>) {
        self.phase.send_replace(Phase::Draining);
        self.stand_aside();
        tokio::join!(self.tell_that_it_goes(), self.hand_over());
        let core = self.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = core.stop.cancelled() => {}
                () = stay_without(&core) => {}
            }
        });
    }

    fn stand_aside(&self) {
        self.groups.all().iter().for_each(Group::stand_aside);
    }

    async fn tell_that_it_goes(&self) {
        let members: Vec<NodeId> = self.meta.load().nodes.keys().copied().collect();
        let others = members.into_iter().filter(|node| *node != self.node && self.is_up(*node));
        let deadline = Instant::now() + TELL_TIMEOUT;
        join_all(others.map(|node| self.ask(node, GOES_DOWN, Bytes::new(), deadline))).await;
    }

    /// Asks, for each group led here, another voter to take over, and waits a little for it.
    pub(crate) async fn hand_over(&self) {
        let deadline = Instant::now() + HANDOVER_MAX;
        let groups = self.groups.all();
        join_all(groups.iter().map(|group| self.hand_one_over(group, deadline))).await;
    }

    async fn hand_one_over(&self, group: &Group, deadline: Instant) {
        if *group.leadership().borrow() != Leadership::Here {
            return;
        }
        let Some(heir) = self.heir(group, |_| true) else { return };
        if group.transfer_leadership(heir).await.is_err() {
            return;
        }
        let mut leadership = group.leadership();
        while *leadership.borrow_and_update() == Leadership::Here {
            if !matches!(timeout_at(deadline, leadership.changed()).await, Ok(Ok(()))) {
                break;
            }
        }
    }

    /// A group's voters and who holds them.
    pub(crate) fn voters(&self, group: &Group) -> Vec<(ReplicaId, NodeId)> {
        let Members { holders, voters, .. } = group.members();
        holders.into_iter().filter(|(replica, _)| voters.contains(replica)).collect()
    }

    /// Another voter of a group that answers, does not go down, and suits; one that has nearly all
    /// entries, if there is one, for a leader that waits for its heir takes no writes.
    pub(crate) fn heir(&self, group: &Group, suits: impl Fn(NodeId) -> bool) -> Option<ReplicaId> {
        let caught_up = group.members().caught_up;
        let suits = |node: NodeId| node != self.node && self.may_lead(node) && suits(node);
        let voters = self.voters(group).into_iter().filter(|(_, node)| suits(*node));
        let (ready, behind): (Vec<ReplicaId>, Vec<ReplicaId>) =
            voters.map(|(replica, _)| replica).partition(|replica| caught_up.contains(replica));
        heir_of(group.id().0, if ready.is_empty() { &behind } else { &ready })
    }

    /// Whether a node answers and does not go down.
    pub(crate) fn may_lead(&self, node: NodeId) -> bool {
        self.is_up(node) && !self.going_down.has(node)
    }
}

/// One of these, another one for the next group: what one node led is not all led by one other. Pure.
fn heir_of(group: u32, suited: &[ReplicaId]) -> Option<ReplicaId> {
    let turn = (group as usize).checked_rem(suited.len())?;
    suited.get(turn).copied()
}

/// Hands over again whatever this node comes to lead.
async fn stay_without(core: &Core) {
    let mut ticks = interval(TELL_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let mut leaderships: Vec<_> = core.groups.all().iter().map(Group::leadership).collect();
        leaderships.iter_mut().for_each(|seen| drop(seen.borrow_and_update()));
        // A group opened meanwhile is one more.
        core.stand_aside();
        core.hand_over().await;
        // One that has ended never has news.
        let news = leaderships.iter_mut().map(|one| {
            async move {
                if one.changed().await.is_err() {
                    std::future::pending().await
                }
            }
            .boxed()
        });
        let news = async {
            match news.collect::<Vec<_>>() {
                none if none.is_empty() => std::future::pending().await,
                some => drop(select_all(some).await),
            }
        };
        tokio::select! {
            _ = ticks.tick() => core.tell_that_it_goes().await,
            () = news => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaderships_are_handed_to_all_that_suit_in_turn() {
        let suited = [ReplicaId(7), ReplicaId(9)];
        let heirs: Vec<u64> =
            (0..4).filter_map(|group| heir_of(group, &suited)).map(|r| r.0).collect();
        assert_eq!(heirs, [7, 9, 7, 9]);
        assert_eq!(heir_of(3, &[]), None);
    }
}
