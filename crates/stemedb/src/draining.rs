//! Members that leave by command: how far a drain is, and whether one may be removed.
//!
//! A drained member is one of weight zero: the plan gives it nothing where the others suffice
//! ([`crate::rebalance`]), and it hands its leaderships to the others ([`crate::preference`]). Where they
//! don't suffice it keeps its replicas and leads nothing: the drain is blocked, and says so.
//!
//! A member is removed by command if it holds nothing, or if it is silent and every shard goes on
//! without it. Either way no shard may get fewer voters for it: a cluster that is to be smaller than
//! its replication factor is not made by leaving.

use std::time::Duration;

use stemedb_machine::meta::{MetaAnswer, MetaCommand, MetaState};
use stemedb_placement::{Member, voters};
use stemedb_types::{NodeId, ShardId};
use tokio::time::Instant;

use crate::Error;
use crate::core::{Core, now_ms};
use crate::front::{AdminAnswer, AdminCall, Admission};
use crate::heal::{Aside, ask_who_set_aside};
use crate::measured::Known;
use crate::node::ADMIN_TIMEOUT;
use crate::operator::{Drain, DrainState};
use crate::rebalance::{LedShards, ask_leaders, can_go, placed};

/// A member may be removed by command, whatever it holds, once it has been silent for so long.
pub(crate) const SILENT_FOR: Duration = Duration::from_secs(10);

/// The member of this id or name.
pub(crate) fn find_member(state: &MetaState, named: &str) -> Result<NodeId, Error> {
    if let Some(id) = named.parse::<NodeId>().ok().filter(|id| state.nodes.contains_key(id)) {
        return Ok(id);
    }
    let mut called_so = state.nodes.values().filter(|node| node.name == named).map(|node| node.id);
    match (called_so.next(), called_so.next()) {
        (Some(id), None) => Ok(id),
        (None, _) => Err(Error::NotFound(format!("there is no member {named:?}"))),
        (Some(_), Some(_)) => {
            Err(Error::Malformed(format!("{named:?} is the name of several members: give the id")))
        }
    }
}

/// The node of this id or name that was a member, if nobody took its place.
fn find_gone(state: &MetaState, named: &str) -> Option<(NodeId, String)> {
    let by_id = named.parse::<NodeId>().ok().and_then(|id| state.gone.get(&id));
    let by_name =
        || state.gone.values().find(|gone| gone.name == named && gone.successor.is_none());
    by_id.or_else(by_name).map(|gone| (gone.id, gone.name.clone()))
}

/// Why members that are drained keep what they hold, if they do: too few are not drained. Pure.
pub(crate) fn no_room(members: &[Member], replication_factor: u8) -> Option<String> {
    let voters = voters(members.len(), replication_factor);
    let willing = members.iter().filter(|member| member.weight > 0).count();
    let short = willing < voters && willing < members.len();
    short.then(|| {
        format!(
            "no room: each shard has {voters} replicas on as many members, and only {willing} are \
             not being drained"
        )
    })
}

/// How far the drain of a member is. `leads_meta` says whether it leads the meta group. Pure.
pub(crate) fn drain_of(
    state: &MetaState,
    known: &Known,
    node: NodeId,
    leads_meta: bool,
) -> Option<Drain> {
    let since_ms = state.nodes.get(&node)?.draining_since_ms?;
    let (mut replicas, mut leaders, mut unknown) = (0, 0, Vec::new());
    for (number, given) in state.layout.shards.iter().enumerate() {
        let shard = ShardId(number as u16);
        let said = known.get(&shard);
        let member = said.is_some_and(|(_, said)| said.led.holders.values().any(|n| *n == node));
        replicas += u32::from(member || given.on(node).is_some());
        leaders += u32::from(said.is_some_and(|(leader, _)| *leader == node));
        if said.is_none() {
            unknown.push(number.to_string());
        }
    }
    let factor = state.founding.map_or(1, |founding| founding.replication_factor);
    let (state, reason) = if let Some(why) = no_room(&placed(state), factor) {
        (DrainState::Blocked, why)
    } else if !unknown.is_empty() {
        let why = format!("who holds shard {} is not known: nobody leads it", unknown.join(", "));
        (DrainState::Draining, why)
    } else if replicas > 0 || leaders > 0 {
        let mut why = format!("{replicas} replicas are on their way to others");
        if state.paused_since_ms.is_some() {
            why.push_str(", once rebalancing is resumed");
        }
        (DrainState::Draining, why)
    } else if leads_meta {
        (DrainState::Draining, "it still leads the meta group".to_owned())
    } else {
        (DrainState::Drained, String::new())
    };
    Some(Drain { node, since_ms, state, replicas, leaders, reason })
}

/// Whether a member may be removed: the error says why not, and what to do. `silent`: it has answered
/// nobody for a while. Pure.
pub(crate) fn may_go(
    state: &MetaState,
    led: &LedShards,
    aside: &[Aside],
    node: NodeId,
    silent: bool,
    is_up: impl Fn(NodeId) -> bool,
) -> Result<(), String> {
    let left = state.nodes.len().saturating_sub(1);
    if left == 0 {
        return Err("it is the last member: nobody would be left".to_owned());
    }
    let leaderless = (0..state.layout.shards.len()).map(|number| ShardId(number as u16));
    let leaderless: Vec<String> = leaderless
        .filter(|shard| !led.contains_key(shard))
        .map(|shard| shard.to_string())
        .collect();
    if !leaderless.is_empty() {
        let which = leaderless.join(", ");
        return Err(format!("nobody leads shard {which}: who votes there can't be told"));
    }
    let holds = |number: usize| {
        let shard = ShardId(number as u16);
        let member = led.get(&shard).is_some_and(|led| led.holders.values().any(|n| *n == node));
        member || state.layout.shards.get(number).is_some_and(|given| given.on(node).is_some())
    };
    let held = (0..state.layout.shards.len()).filter(|number| holds(*number)).count();
    let factor = state.founding.map_or(1, |founding| founding.replication_factor);
    let now = state.layout.shards.iter().map(|shard| shard.replicas.len()).max().unwrap_or(0);
    let then = voters(left, factor);
    if then < now {
        return Err(format!(
            "with {left} members each shard would have {then} replicas instead of {now}: let another \
             node join first"
        ));
    }
    if held == 0 {
        return Ok(());
    }
    if !silent {
        return Err(format!(
            "it holds {held} shards and answers: drain it first, or stop it if it is gone for good"
        ));
    }
    if !can_go(&state.layout, led, aside, node, is_up) {
        return Err(
            "a shard that it holds has no living majority without it (quorum-lost)".to_owned()
        );
    }
    Ok(())
}

impl Core {
    /// Has an operator's command done, wherever the meta leader is, and known: by every member that is
    /// not silent, or, of a removal, here.
    pub(crate) async fn operate(
        &self,
        admission: Admission,
        call: AdminCall,
    ) -> Result<AdminAnswer, Error> {
        let deadline = Instant::now() + ADMIN_TIMEOUT;
        let at_ms = now_ms();
        let named = match &call {
            AdminCall::Drain { member, .. } => Some(self.named_member(member, deadline).await?),
            AdminCall::Remove { member } => match self.named_member(member, deadline).await {
                // The same again: it was done.
                Err(Error::NotFound(why)) => {
                    let gone = find_gone(&self.meta.load(), member);
                    let (node, name) = gone.ok_or(Error::NotFound(why))?;
                    return Ok(AdminAnswer::Member { node, name });
                }
                found => Some(found?),
            },
            _ => None,
        };
        let command = match (&call, &named) {
            (AdminCall::Drain { on, .. }, Some((id, _))) => {
                MetaCommand::Drain { id: *id, on: *on, at_ms }
            }
            (AdminCall::Remove { .. }, Some((id, _))) => MetaCommand::Remove { id: *id, at_ms },
            (AdminCall::Pause { on }, _) => MetaCommand::Pause { on: *on, at_ms },
            _ => return Err(Error::Internal("no command of an operator".to_owned())),
        };
        let (answer, index) = self.meta_write(admission.credential, command, deadline).await?;
        match &call {
            // Who is no member any more hears no more of the meta group.
            AdminCall::Remove { .. } => self.meta_applied(index, deadline).await?,
            _ => self.meta_applied_everywhere(index).await,
        }
        match (answer, named) {
            (MetaAnswer::Done, Some((node, name))) => {
                tracing::warn!(%node, name, ?call, by = admission.caller.label, "done by command");
                Ok(AdminAnswer::Member { node, name })
            }
            (MetaAnswer::Done, None) => Ok(AdminAnswer::Done),
            (MetaAnswer::NotFound, _) => Err(Error::NotFound("there is no such member".to_owned())),
            (MetaAnswer::Stale, _) => Err(Error::Conflict(
                "every other member is being drained already, or it is the last: somebody must hold \
                 the data"
                    .to_owned(),
            )),
            (other, _) => Err(Error::Internal(format!("a command was not done: {other:?}"))),
        }
    }

    /// The member of this id or name, and its name, by what the meta group knows by now: a name may
    /// have gone over to another node a moment ago.
    async fn named_member(
        &self,
        named: &str,
        deadline: Instant,
    ) -> Result<(NodeId, String), Error> {
        let name = |state: &MetaState, id: NodeId| {
            state.nodes.get(&id).map(|node| node.name.clone()).unwrap_or_default()
        };
        let state = self.newest_state(deadline).await?;
        find_member(&state, named).map(|id| (id, name(&state, id)))
    }

    /// Whether a member may be removed by command, as the meta leader judges it.
    pub(crate) async fn may_be_removed(&self, node: NodeId) -> Result<(), Error> {
        let state = self.meta.load_full();
        if !state.nodes.contains_key(&node) {
            // The machine knows whether it was one.
            return Ok(());
        }
        if node == self.node {
            let why = "it leads the meta group: drain it first, it hands that over within seconds";
            return Err(Error::Conflict(format!("node {node} is not removed: {why}")));
        }
        let (led, aside) = tokio::join!(ask_leaders(self, &state), ask_who_set_aside(self, &state));
        let silent = self.is_away(node, SILENT_FOR);
        may_go(&state, &led, &aside, node, silent, |other| self.is_up(other))
            .and_then(|()| self.meta_goes_on_without(node))
            .map_err(|why| Error::Conflict(format!("node {node} is not removed: {why}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measured::Measured;
    use crate::rebalance::tests::{layout, led, members};
    use std::collections::BTreeMap;
    use stemedb_machine::meta::GoneNode;
    use stemedb_types::Layout;

    /// Members 1 to `count`, these of them drained, and a layout.
    fn state(count: u64, drained: &[u64], layout: Layout) -> MetaState {
        let mut state = members(&(1..=count).collect::<Vec<_>>(), layout);
        for id in drained {
            state.nodes.get_mut(&NodeId(*id)).unwrap().draining_since_ms = Some(5);
        }
        state
    }

    /// Each shard led by its first voter, with these members.
    fn known(voters: &[&[u64]]) -> Known {
        let said = voters.iter().enumerate().map(|(number, voters)| {
            let measured =
                Measured { led: led(voters, &[]), bytes: 0, step: None, lags: BTreeMap::new() };
            (ShardId(number as u16), (NodeId(voters[0]), measured))
        });
        said.collect()
    }

    fn of(state: &MetaState, known: &Known, node: u64) -> (DrainState, u32, u32, String) {
        let drain = drain_of(state, known, NodeId(node), false).expect("is drained");
        (drain.state, drain.replicas, drain.leaders, drain.reason)
    }

    #[test]
    fn a_drain_is_over_when_the_leaders_say_so_and_blocked_without_room() {
        use DrainState::{Blocked, Drained, Draining};
        let given = layout(&[&[1, 2, 3], &[1, 2, 3]]);
        let draining = state(4, &[4], given.clone());
        // The layout gave shard 1 away, and its group has not let go yet.
        let seen = of(&draining, &known(&[&[1, 2, 3], &[4, 2, 3]]), 4);
        assert_eq!((seen.0, seen.1, seen.2), (Draining, 1, 1));
        let done = known(&[&[1, 2, 3], &[1, 2, 3]]);
        assert_eq!(of(&draining, &done, 4), (Drained, 0, 0, String::new()));
        let leads = drain_of(&draining, &done, NodeId(4), true).unwrap();
        assert_eq!(leads.state, Draining, "{}", leads.reason);
        assert_eq!(of(&draining, &known(&[&[1, 2, 3]]), 4).0, Draining, "nobody leads one");
        assert_eq!(drain_of(&draining, &done, NodeId(1), false), None, "nobody said so");

        let (outcome, replicas, leaders, why) = of(&state(3, &[3], given), &done, 3);
        assert_eq!((outcome, replicas, leaders), (Blocked, 2, 0));
        assert!(why.starts_with("no room: each shard has 3 replicas"), "{why}");
        assert!(why.contains("only 2"), "{why}");
    }

    fn judged(state: &MetaState, voters: &[&[u64]], node: u64, silent: bool) -> String {
        let led = known(voters).into_iter().map(|(shard, (_, said))| (shard, said.led)).collect();
        let is_up = |other: NodeId| !(silent && other == NodeId(node));
        may_go(state, &led, &[], NodeId(node), silent, is_up).err().unwrap_or_default()
    }

    #[test]
    fn who_holds_nothing_may_go_and_who_is_silent_if_every_shard_goes_on() {
        let given = || layout(&[&[1, 2, 3], &[1, 2, 4]]);
        let four = state(4, &[], given());
        let here: &[&[u64]] = &[&[1, 2, 3], &[1, 2, 4]];
        let why = judged(&four, here, 4, false);
        assert!(why.contains("holds 1 shards and answers: drain it first"), "{why}");
        assert_eq!(judged(&four, here, 4, true), "");
        let why = judged(&four, &[&[1, 2, 3]], 4, true);
        assert!(why.contains("nobody leads shard 1"), "{why}");
        let why = judged(&four, &[&[1, 2, 3], &[4]], 4, true);
        assert!(why.contains("quorum-lost"), "{why}");
        // It gave everything away.
        let drained = state(4, &[4], layout(&[&[1, 2, 3], &[1, 2, 3]]));
        assert_eq!(judged(&drained, &[&[1, 2, 3], &[1, 2, 3]], 4, false), "");
        // By the layout; the group has not let go of it yet.
        let why = judged(&drained, here, 4, false);
        assert!(why.contains("holds 1 shards"), "{why}");
    }

    #[test]
    fn nobody_goes_if_shards_would_have_fewer_replicas() {
        let three = state(3, &[3], layout(&[&[1, 2, 3]]));
        for silent in [false, true] {
            let why = judged(&three, &[&[1, 2, 3]], 3, silent);
            assert!(why.contains("1 replicas instead of 3: let another node join"), "{why}");
        }
        let one = state(1, &[], layout(&[&[1]]));
        assert!(judged(&one, &[&[1]], 1, true).contains("last member"));
        // A third that has got nothing yet takes nothing with it.
        let third = state(3, &[], layout(&[&[1], &[2]]));
        assert_eq!(judged(&third, &[&[1], &[2]], 3, false), "");
    }

    #[test]
    fn a_member_is_found_by_its_id_or_its_name() {
        let state = state(2, &[], layout(&[&[1]]));
        assert_eq!(find_member(&state, "0000000000000002"), Ok(NodeId(2)));
        assert_eq!(find_member(&state, "2"), Ok(NodeId(2)), "its name");
        for nobody in ["0000000000000009", "9", "", "0X2"] {
            assert!(matches!(find_member(&state, nobody), Err(Error::NotFound(_))), "{nobody}");
        }
        let mut state = state;
        let gone = |id: u64, successor| GoneNode {
            id: NodeId(id),
            name: format!("g{id}"),
            successor,
            at_ms: 0,
        };
        state.gone.insert(NodeId(7), gone(7, None));
        state.gone.insert(NodeId(8), gone(8, Some(NodeId(2))));
        assert_eq!(find_gone(&state, "g7"), Some((NodeId(7), "g7".to_owned())));
        assert_eq!(find_gone(&state, "g8"), None, "another one is called so");
        assert!(find_gone(&state, "0000000000000008").is_some());
    }
}
