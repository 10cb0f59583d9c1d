//! Brings the groups that are led here to their layout, and lets go of replicas that have left.
//!
//! Nobody conducts a move: the layout is committed, each group's leader compares it with the
//! group's members and takes the next step ([`stemedb_placement::next_step`]), and a node asks the
//! leader of a group that is to do without it whether it has been forgotten. All that a move needs
//! to go on from stands in the layout and in the groups themselves, so whoever dies in the middle
//! of it, the next leader goes on.
//!
//! Two rules came out of the simulation (ADR 16). A leader acts only on the newest epoch: before a
//! step it has a quorum of the meta group confirm what it knows. And a replica leaves only once the
//! members without it are committed, confirmed by a leader that still leads: until then the
//! group may need its vote.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use stemedb_placement::{Goal, Standing, Step, next_step};
use stemedb_raft::{Error as RaftError, Group, Leadership, Members};
use stemedb_types::{GroupId, Layout, Replica, ReplicaId};
use tokio::time::{Instant, timeout, timeout_at};

use crate::core::{Core, locked};
use crate::heal::are_whole;
use crate::life::{QUESTION_TIMEOUT, STEP_INTERVAL};
use crate::reconcile::leaving;
use crate::wire::{FORGOTTEN, decode_bool, encode_replica};

/// A step that takes longer is taken again.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two looks while every group is as the layout says and nothing wakes us.
const IDLE_INTERVAL: Duration = Duration::from_secs(2);

/// Takes steps until the node stops.
pub(crate) async fn move_members(core: Arc<Core>) {
    let mut changed = core.meta_changed.subscribe();
    loop {
        changed.borrow_and_update();
        let busy = tokio::select! {
            () = core.stop.cancelled() => return,
            busy = look(&core) => busy,
        };
        let pause = if busy { STEP_INTERVAL } else { IDLE_INTERVAL };
        tokio::select! {
            () = core.stop.cancelled() => return,
            // Members, leaderships and what a learner lacks change without a word to us.
            _ = timeout(pause, changed.changed()) => {}
        }
    }
}

/// Whether anything is still to be done.
async fn look(core: &Core) -> bool {
    let (stepped, left) = tokio::join!(take_steps(core), ask_who_forgot(core));
    stepped || left
}

/// Takes the next step of every group that is led here and not as the layout says.
async fn take_steps(core: &Core) -> bool {
    let shards = |group: &Group| group.id() != GroupId::META;
    let leads = |group: &Group| *group.leadership().borrow() == Leadership::Here;
    let groups = core.groups.all().into_iter().filter(|group| shards(group) && leads(group));
    let layout = core.meta.load().layout.clone();
    let astray: Vec<Group> = groups.filter(|group| step_of(group, &layout).is_some()).collect();
    if astray.is_empty() {
        return false;
    }
    let Ok(meta) = core.meta_group() else { return true };
    // Who leads a shard may itself be cut off from the meta group, and know an old layout.
    if core.meta_index(&meta, Instant::now() + QUESTION_TIMEOUT).await.is_none() {
        return true;
    }
    let layout = &core.meta.load().layout;
    let steps = astray.iter().filter_map(|group| Some((group, step_of(group, layout)?)));
    join_all(steps.map(|(group, step)| take(core, group, step))).await;
    true
}

/// What a group led here does next, if it is not as the layout says.
pub(crate) fn step_of(group: &Group, layout: &Layout) -> Option<Step> {
    let replicas = layout.replicas(group.id())?;
    if replicas.is_empty() {
        return None;
    }
    let voters = replicas.iter().map(|replica| replica.id).collect();
    step_to(group, &Goal { replicas, voters: &voters })
}

/// What the leader of a group does next to have these members.
pub(crate) fn step_to(group: &Group, goal: &Goal<'_>) -> Option<Step> {
    let Members { voters, learners, caught_up, is_joint, .. } = group.members();
    next_step(&Standing { leader: group.replica(), voters, learners, caught_up, is_joint }, goal)
}

/// Takes one step, or gives up on it; the next look finds out what came of it.
pub(crate) async fn take(core: &Core, group: &Group, step: Step) {
    if let Step::Await(behind) = step {
        tracing::debug!(group = %group.id(), %behind, "a learner has not caught up yet");
        return;
    }
    let taken = timeout(STEP_TIMEOUT, step_on(core, group, step.clone())).await;
    match taken {
        Ok(Ok(())) => tracing::info!(group = %group.id(), ?step, "a group's members changed"),
        Ok(Err(error)) => {
            tracing::warn!(group = %group.id(), ?step, %error, "a group's members did not change");
        }
        Err(_) => tracing::warn!(group = %group.id(), ?step, "a change of members takes long"),
    }
}

async fn step_on(core: &Core, group: &Group, step: Step) -> Result<(), RaftError> {
    match step {
        Step::Await(_) => Ok(()),
        Step::Learn(replica) => group.add_learner(replica).await,
        Step::Vote(voters) => {
            // One that does not answer would only make the majority larger: it listens until it does. And
            // those who are to vote must be a living majority, or this would be the last change.
            let Members { voters: before, holders, .. } = group.members();
            let holder = |id: &ReplicaId| Some(Replica { node: *holders.get(id)?, id: *id });
            let new: Option<Vec<Replica>> = voters.difference(&before).map(holder).collect();
            let new = new.ok_or(RaftError::NoQuorum)?;
            let living = voters.iter().filter(|id| answers(core, group, **id)).count();
            let all_answer = new.iter().all(|replica| core.is_up(replica.node));
            // Nor may a sound one be given away for one that is damaged: it comes back under another id.
            if all_answer && living * 2 > voters.len() && are_whole(core, group.id(), &new).await {
                group.set_voters(voters).await
            } else {
                Err(RaftError::NoQuorum)
            }
        }
        Step::Drop(over) => group.drop_learners(over).await,
        Step::HandOver(heirs) => {
            let heirs: Vec<ReplicaId> =
                heirs.into_iter().filter(|id| may_lead(core, group, *id)).collect();
            match heirs.first() {
                Some(heir) => group.transfer_leadership(*heir).await,
                None => Err(RaftError::NoQuorum),
            }
        }
    }
}

/// Whether the node of a member can take a leadership over.
fn may_lead(core: &Core, group: &Group, replica: ReplicaId) -> bool {
    group.members().holders.get(&replica).is_some_and(|node| core.may_lead(*node))
}

/// Whether the node of a member answers.
fn answers(core: &Core, group: &Group, replica: ReplicaId) -> bool {
    group.members().holders.get(&replica).is_some_and(|node| core.is_up(*node))
}

/// Asks the groups that are to do without a replica of this node whether they do. Whether some
/// still don't.
async fn ask_who_forgot(core: &Core) -> bool {
    let layout = core.meta.load().layout.clone();
    let leaving = leaving(core.node, &layout, &core.held.stock().held);
    let known = {
        // An entry is of use until the replica leaves.
        let mut known = locked(&core.forgotten);
        known.retain(|(group, replica)| leaving.get(group) == Some(replica));
        known.clone()
    };
    let unknown = leaving.into_iter().filter(|own| !known.contains(own));
    let asked = unknown.map(|(group, replica)| {
        let layout = &layout;
        async move { ((group, replica), is_forgotten(core, layout, group, replica).await) }
    });
    let answers = join_all(asked).await;
    let open = answers.iter().any(|(_, forgotten)| !forgotten);
    let said: Vec<_> = answers.into_iter().filter(|(_, said)| *said).map(|(own, _)| own).collect();
    if !said.is_empty() {
        locked(&core.forgotten).extend(said);
        // Whoever keeps the node in line acts on it.
        core.has_forgotten_one.notify_one();
    }
    open
}

/// Whether a group's leader says that a replica is not a member any more.
async fn is_forgotten(core: &Core, layout: &Layout, group: GroupId, replica: ReplicaId) -> bool {
    let deadline = Instant::now() + QUESTION_TIMEOUT;
    for holder in layout.replicas(group).unwrap_or_default() {
        if holder.node == core.node || !core.is_up(holder.node) {
            continue;
        }
        let answer = core.ask(holder.node, FORGOTTEN, encode_replica(group, replica), deadline);
        if let Ok(answer) = answer.await
            && decode_bool(&answer) == Ok(true)
        {
            return true;
        }
    }
    false
}

impl Core {
    /// Answers [`FORGOTTEN`]: whether a replica is not a member of a group led here, for good. Only
    /// a leader that a quorum confirms knows.
    pub(crate) async fn has_forgotten(
        &self,
        group: GroupId,
        replica: ReplicaId,
        deadline: Instant,
    ) -> bool {
        let Some(group) = self.groups.get(group) else { return false };
        let confirmed = timeout_at(deadline, group.confirm_read()).await;
        let members = group.members();
        matches!(confirmed, Ok(Ok(_))) && members.settled && !members.holders.contains_key(&replica)
    }
}
