//! How far what moves has come, for people: from the committed state and the leaders' words.
//!
//! Nothing is kept: every look asks again. What is under way is where a group is not as the layout
//! says; what waits is where the layout is not as the plan wants it.

use std::sync::Arc;
use std::time::Duration;

use stemedb_machine::meta::MetaState;
use stemedb_raft::Leadership;
use stemedb_types::{GroupId, NodeId};
use tokio::time::{Instant, timeout_at};

use crate::core::Core;
use crate::draining::{SILENT_FOR, drain_of};
use crate::life::QUESTION_TIMEOUT;
use crate::measured::Known;
use crate::operator::{Change, MoveStep, Preview, Progress, ShardMove};
use crate::preview::{Sight, differences, led_of, preview};
use crate::rebalance::{goal_of, placed, reachable};
use crate::{Error, Unavailable};

/// How long at most until the meta group is asked again who confirms.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

impl Core {
    /// How far what moves has come.
    pub(crate) async fn progress(&self) -> Result<Progress, Error> {
        let (state, known) = self.look_around().await?;
        let leads_meta = match self.leadership(GroupId::META) {
            Some(Leadership::Here) => Some(self.node),
            Some(Leadership::There(node)) => Some(node),
            _ => None,
        };
        Ok(progress(&state, &known, leads_meta))
    }

    /// What a change would move.
    pub(crate) async fn preview(&self, change: Change) -> Result<Preview, Error> {
        let (state, known) = self.look_around().await?;
        let sight = Sight {
            is_up: &|node| self.is_up(node),
            is_silent: &|node| self.is_away(node, SILENT_FOR),
        };
        preview(&state, &known, &change, &sight)
    }

    /// The newest state that a quorum of the meta group confirms, and what the leaders say.
    async fn look_around(&self) -> Result<(Arc<MetaState>, Known), Error> {
        let state = self.newest_state(Instant::now() + QUESTION_TIMEOUT).await?;
        let known = self.measure_all(&state).await;
        Ok((state, known))
    }

    /// The state that a quorum of the meta group confirms. While the meta group changes its leader,
    /// as it does when that one is drained, it is asked again.
    pub(crate) async fn newest_state(&self, deadline: Instant) -> Result<Arc<MetaState>, Error> {
        let meta = self.meta_group()?;
        let mut leadership = meta.leadership();
        loop {
            leadership.borrow_and_update();
            if self.meta_index(&meta, deadline).await.is_some() {
                return Ok(self.meta.load_full());
            }
            if Instant::now() >= deadline {
                return Err(Error::unavailable(Unavailable::NoQuorum));
            }
            let until = deadline.min(Instant::now() + RETRY_INTERVAL);
            let _ = timeout_at(until, leadership.changed()).await;
        }
    }
}

/// Puts together what is under way, what waits, and how far drains are. Pure.
fn progress(state: &MetaState, known: &Known, leads_meta: Option<NodeId>) -> Progress {
    let layout = reachable(state, &led_of(known));
    let goal = goal_of(state, &layout, &placed(state));
    let mut moves = Vec::new();
    for (shard, add, remove) in goal.iter().flat_map(|goal| differences(known, &layout, goal)) {
        let said = known.get(&shard).map(|(_, said)| said);
        let step = match said {
            None => MoveStep::Leaderless,
            Some(said) => said.step.unwrap_or(MoveStep::Waiting),
        };
        let mut shown = ShardMove {
            shard,
            step,
            add,
            remove,
            entries_behind: None,
            sent_bytes: None,
            bytes: None,
        };
        if let Some(said) = said {
            shown.bytes = Some(said.bytes);
            let comes = |node: &NodeId| shown.add.contains(node);
            let holders = said.led.holders.iter().filter(|(_, node)| comes(node));
            for lag in holders.filter_map(|(replica, _)| said.lags.get(replica)) {
                shown.entries_behind = shown.entries_behind.max(lag.entries);
                shown.sent_bytes = shown.sent_bytes.max(lag.sent_bytes);
            }
        }
        moves.push(shown);
    }
    // The last steps: the voters are where they should be, and the group is not at rest yet.
    for (shard, (_, said)) in known {
        let shown = moves.iter().any(|shown: &ShardMove| shown.shard == *shard);
        if let Some(step) = said.step.filter(|_| !shown) {
            let voters = &said.led.voters;
            let over = said.led.holders.iter().filter(|(id, _)| !voters.contains(id));
            let remove = over.map(|(_, node)| *node).collect();
            let (add, bytes) = (Vec::new(), Some(said.bytes));
            let (shard, entries_behind, sent_bytes) = (*shard, None, None);
            moves.push(ShardMove { shard, step, add, remove, entries_behind, sent_bytes, bytes });
        }
    }
    moves.sort_by_key(|shown| shown.shard);
    let drains = state.nodes.keys();
    let drains = drains.filter_map(|node| drain_of(state, known, *node, leads_meta == Some(*node)));
    Progress {
        epoch: state.layout.epoch,
        paused_since_ms: state.paused_since_ms,
        moves,
        drains: drains.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measured::{Lag, Measured};
    use crate::rebalance::tests::{layout, led, members};
    use stemedb_types::{ReplicaId, ShardId};

    #[test]
    fn what_is_under_way_waits_or_ends_is_shown_with_its_step() {
        // Shard 0 gets node 4 in place of 3, shard 1 is dropping a learner, nobody leads shard 2.
        let state = members(&[1, 2, 3, 4], layout(&[&[1, 2, 4], &[1, 2, 3], &[1, 2, 3]]));
        let measured = |voters: &[u64], learners: &[u64], step| Measured {
            led: led(voters, learners),
            bytes: 70,
            step: Some(step),
            lags: [(ReplicaId(104), Lag { entries: Some(9), sent_bytes: Some(30) })].into(),
        };
        let known = Known::from([
            (ShardId(0), (NodeId(1), measured(&[1, 2, 3], &[4], MoveStep::CatchingUp))),
            (ShardId(1), (NodeId(1), measured(&[1, 2, 3], &[4], MoveStep::Dropping))),
        ]);
        let seen = progress(&state, &known, Some(NodeId(1)));
        let lines = seen.moves.iter().map(|shown| {
            let ids = |nodes: &[NodeId]| nodes.iter().map(|n| n.0).collect::<Vec<_>>();
            let behind = (shown.entries_behind, shown.sent_bytes, shown.bytes);
            (shown.shard.0, shown.step, ids(&shown.add), ids(&shown.remove), behind)
        });
        let lines: Vec<_> = lines.collect();
        assert_eq!(lines[0].1, MoveStep::CatchingUp);
        assert_eq!(
            (lines[0].0, &lines[0].2[..], lines[0].4),
            (0, &[4][..], (Some(9), Some(30), Some(70)))
        );
        assert!(lines.iter().any(|line| line.0 == 1 && line.1 == MoveStep::Dropping), "{lines:?}");
        assert_eq!((seen.epoch, seen.paused_since_ms, seen.drains), (1, None, vec![]));
    }
}
