//! From one layout to the next, shard by shard, and from a group's members to its layout.
//!
//! A plan is the goal; this is the way there. [`advance`] turns as much of a plan into the next
//! epoch as may be under way at once: a shard only gets other replicas once those of the epoch
//! before are its members, so a replica's node is never asked to hold two of one group, and how
//! far a change has come can be read off the layout alone. [`next_step`] is what a group's leader
//! does: add who is missing as learners, wait until they have caught up, hand the lead over if it is
//! to leave itself, change the voters in one joint step, drop who is left over. Each step may be lost or done twice; asking again leads on
//! from wherever the group is, so nothing need be remembered over a crash.

use std::collections::BTreeSet;

use stemedb_types::{Layout, NodeId, Replica, ReplicaId, ShardId};

use crate::plan::Plan;

/// Who is a member of a group, as its leader knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The leader itself.
    pub leader: ReplicaId,
    /// Those who vote.
    pub voters: BTreeSet<ReplicaId>,
    /// Those who only listen.
    pub learners: BTreeSet<ReplicaId>,
    /// Members that have what the leader has, or are about to.
    pub caught_up: BTreeSet<ReplicaId>,
    /// A joint change of voters has begun and not ended: `voters` are those before and after it.
    pub is_joint: bool,
}

/// Who is to be a member of a group.
#[derive(Clone, Copy, Debug)]
pub struct Goal<'a> {
    /// All replicas of it.
    pub replicas: &'a [Replica],
    /// Those of them that vote.
    pub voters: &'a BTreeSet<ReplicaId>,
}

/// What a group's leader does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Adds a replica that only listens.
    Learn(Replica),
    /// Nothing: this learner is to vote and lacks too much of the log.
    Await(ReplicaId),
    /// Hands the lead to one of these, the first that answers: the leader is to vote no more, and a
    /// group whose leader leaves waits for an election.
    HandOver(Vec<ReplicaId>),
    /// Makes these the voters, jointly with those before; who votes no more listens.
    Vote(BTreeSet<ReplicaId>),
    /// Drops these, who only listen.
    Drop(BTreeSet<ReplicaId>),
}

/// The next step of a group towards its goal; `None` once it is there.
///
/// The voters are never fewer than before while one that replaces them lacks the log: a majority of
/// those with the data stands at every step.
pub fn next_step(standing: &Standing, goal: &Goal<'_>) -> Option<Step> {
    let Standing { leader, voters, learners, caught_up, is_joint } = standing;
    let stays = |id: &ReplicaId| goal.replicas.iter().any(|replica| replica.id == *id);
    // First: its node may be given another replica, and can't begin it while it holds this one.
    let over: BTreeSet<_> = learners.iter().copied().filter(|id| !stays(id)).collect();
    if !over.is_empty() && !is_joint {
        return Some(Step::Drop(over));
    }
    let is_member = |id: &ReplicaId| voters.contains(id) || learners.contains(id);
    if let Some(missing) = goal.replicas.iter().find(|replica| !is_member(&replica.id)) {
        return Some(Step::Learn(*missing));
    }
    if voters == goal.voters && !is_joint {
        return None;
    }
    if let Some(behind) = goal.voters.difference(voters).find(|id| !caught_up.contains(id)) {
        return Some(Step::Await(*behind));
    }
    // In the order of the layout: the first is the one that is to lead. One that lags comes last: while it
    // gets what it lacks nobody takes writes.
    let heir = |id: &ReplicaId| voters.contains(id) && goal.voters.contains(id);
    let mut heirs: Vec<_> = goal.replicas.iter().map(|r| r.id).filter(heir).collect();
    heirs.sort_by_key(|id| !caught_up.contains(id));
    let leaves = !goal.voters.contains(leader) && !heirs.is_empty() && !is_joint;
    Some(if leaves { Step::HandOver(heirs) } else { Step::Vote(goal.voters.clone()) })
}

/// How far a shard's group has come to the layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Its committed members are those of the layout.
    InPlace,
    /// It is on its way.
    Moving,
    /// Nobody says.
    Unknown,
}

/// As much of a plan as may begin now, as the epoch after `current`; `None` if nothing may.
///
/// A shard that is moving keeps what it has, and counts against `moving_max`, as does each one that
/// gets a replica elsewhere; it gets none on a node that does not answer (`is_up`). One of which
/// nothing is known keeps what it has as well, and takes nobody's place. An order of the same replicas
/// (who is to lead) is taken on wherever a shard is in place, for it moves no data. Shards begin in
/// their order.
pub fn advance(
    current: &Layout,
    plan: &Plan,
    moving_max: usize,
    progress: impl Fn(ShardId) -> Progress,
    is_up: impl Fn(NodeId) -> bool,
) -> Option<Layout> {
    let mut shards = current.shards.clone();
    let numbers = || (0..shards.len()).map(|number| ShardId(number as u16));
    let progress: Vec<Progress> = numbers().map(progress).collect();
    let mut moving = progress.iter().filter(|progress| **progress == Progress::Moving).count();
    for ((shard, planned), progress) in shards.iter_mut().zip(&plan.layout.shards).zip(progress) {
        if progress != Progress::InPlace || shard == planned {
            continue;
        }
        let new = planned.replicas.iter().filter(|replica| !shard.replicas.contains(replica));
        let answer = new.map(|replica| replica.node).all(&is_up);
        let moves = ids(&shard.replicas) != ids(&planned.replicas);
        if moves && (moving >= moving_max || !answer) {
            continue;
        }
        moving += usize::from(moves);
        *shard = planned.clone();
    }
    let meta = plan.layout.meta.clone();
    let same = shards == current.shards && meta == current.meta;
    (!same).then(|| Layout { epoch: current.epoch + 1, shards, meta })
}

fn ids(replicas: &[Replica]) -> BTreeSet<ReplicaId> {
    replicas.iter().map(|replica| replica.id).collect()
}

#[cfg(test)]
#[path = "steps_tests.rs"]
mod tests;
