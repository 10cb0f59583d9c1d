//! Hands leaderships to those that the layout prefers, and away from members that are drained.
//!
//! A shard's preferred leader is the first replica of the layout that is not being drained: so
//! leaderships are as even as the plan made them. It is reached by transfer, without hurry: whoever leads
//! leads for a while first, since after a restart or a failover everything else comes before; and only to a node that answers,
//! has room on its disks and nearly all of the log. One transfer at a time per node, so that
//! clients never wait for several at once. A member that is drained waits for nothing: any other
//! voter that suits will do, for the meta group too.
//!
//! Nothing is owed here: a leadership that is elsewhere costs balance, never data.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use stemedb_raft::{Group, Leadership, Level, Members, Ticks};
use stemedb_types::{GroupId, NodeId, ReplicaId};
use tokio::time::{Instant, timeout};

use crate::core::{Core, Phase};

/// How long a leader leads before it hands over to the one preferred.
const LED_MIN: Duration = Duration::from_secs(10);
/// Who lacks more entries than this is not preferred: nobody takes writes while it gets them.
const LACKS_MAX_ENTRIES: u64 = 128;
/// Between two looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long a transfer is waited for; it is asked for again after [`LED_MIN`].
const TRANSFER_MAX: Duration = Duration::from_secs(2);

/// A voter of a group, in the order of the layout.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    replica: ReplicaId,
    node: NodeId,
    is_draining: bool,
    /// It answers, has room and nearly all of the log.
    suits: bool,
    /// It has all but a moment's entries.
    is_close: bool,
}

/// Who should lead instead, if this node should not. Pure.
fn heir(own: NodeId, led_for: Duration, is_meta: bool, order: &[Candidate]) -> Option<ReplicaId> {
    let mut willing = order.iter().filter(|candidate| !candidate.is_draining);
    let leaves = order.iter().any(|candidate| candidate.node == own && candidate.is_draining);
    if leaves {
        return willing.find(|candidate| candidate.suits).map(|candidate| candidate.replica);
    }
    // Nobody prefers a leader of the meta group.
    let preferred = willing.next().filter(|_| !is_meta && led_for >= LED_MIN)?;
    let fit = preferred.suits && preferred.is_close;
    (preferred.node != own && fit).then_some(preferred.replica)
}

/// Looks until the node stops.
pub(crate) async fn prefer_leaders(core: Arc<Core>) {
    let mut ticks = Ticks::new(LOOK_INTERVAL);
    let mut led = LedSince::new();
    loop {
        tokio::select! {
            () = core.stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        // One that goes down hands over by itself.
        let is_member = || *core.phase.borrow() == Phase::Member;
        while is_member()
            && let Some((group, heir)) = next(&core, &mut led)
        {
            let handed = tokio::select! {
                () = core.stop.cancelled() => return,
                handed = hand_to(&group, heir) => handed,
            };
            tracing::info!(group = %group.id(), to = %heir, handed, "another replica should lead");
            // In vain: not at once again.
            led.insert(group.id(), (None, Instant::now()));
            if !handed {
                break;
            }
        }
    }
}

/// In which term groups are led here, and since when; of one that was to be handed over in vain, `None`
/// and when that was.
type LedSince = BTreeMap<GroupId, (Option<u64>, Instant)>;

/// The first group that another replica should lead.
fn next(core: &Core, led: &mut LedSince) -> Option<(Group, ReplicaId)> {
    let state = core.meta.load_full();
    let mut led_now = BTreeMap::new();
    let mut found = None;
    for group in core.groups.all() {
        let Some(term) = group.leading_term() else { continue };
        let (known, since) = match led.get(&group.id()) {
            Some((known, since)) if known.is_none_or(|known| known == term) => (*known, *since),
            _ => (Some(term), Instant::now()),
        };
        led_now.insert(group.id(), (known, since));
        let tried = known.is_none() && since.elapsed() < LED_MIN;
        if tried || found.is_some() {
            continue;
        }
        let Members { holders, voters, caught_up, settled, .. } = group.members();
        let lacks = group.entries_behind();
        let replicas = state.layout.replicas(group.id()).unwrap_or_default();
        let candidate = |replica: ReplicaId| {
            let node = *holders.get(&replica)?;
            let room = core.disks.level_of(node) == Level::Open;
            let suits = room && core.is_up(node) && caught_up.contains(&replica);
            let suits = suits && node != core.node;
            let is_close = lacks.get(&replica).is_some_and(|lacks| *lacks <= LACKS_MAX_ENTRIES);
            Some(Candidate { replica, node, is_draining: state.is_draining(node), suits, is_close })
        };
        let order: Vec<Candidate> = replicas
            .iter()
            .filter(|replica| voters.contains(&replica.id))
            .filter_map(|replica| candidate(replica.id))
            .collect();
        let is_meta = group.id() == GroupId::META;
        let heir = heir(core.node, since.elapsed(), is_meta, &order).filter(|_| settled);
        found = heir.map(|heir| (group, heir));
    }
    *led = led_now;
    found
}

/// Asks a replica to lead; whether it does, or another one.
async fn hand_to(group: &Group, heir: ReplicaId) -> bool {
    let mut leadership = group.leadership();
    if group.transfer_leadership(heir).await.is_err() {
        return false;
    }
    let moved = leadership.wait_for(|now| matches!(now, Leadership::There(_)));
    matches!(timeout(TRANSFER_MAX, moved).await, Ok(Ok(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Voters 1, 2, …: `d` is drained, `x` does not suit, `-` is a little behind, `.` suits.
    fn order(voters: &str) -> Vec<Candidate> {
        let candidate = |(node, kind): (u64, char)| Candidate {
            replica: ReplicaId(100 + node),
            node: NodeId(node),
            is_draining: kind == 'd' || kind == 'D',
            suits: kind == '.' || kind == 'd' || kind == '-',
            is_close: kind != '-',
        };
        (1..).zip(voters.chars()).map(candidate).collect()
    }

    fn asked(own: u64, led_s: u64, voters: &str) -> Option<u64> {
        let led_for = Duration::from_secs(led_s);
        heir(NodeId(own), led_for, false, &order(voters)).map(|heir| heir.0 - 100)
    }

    #[test]
    fn the_first_of_the_layout_leads_once_it_suits_and_there_is_no_hurry() {
        assert_eq!(asked(2, 10, "..."), Some(1));
        assert_eq!(asked(2, 9, "..."), None, "it leads for a moment only");
        assert_eq!(asked(1, 60, "x.."), None, "it is preferred itself");
        assert_eq!(asked(2, 60, "x.."), None, "the one preferred has to catch up");
        assert_eq!(asked(2, 60, "-.."), None, "there is no hurry");
        assert_eq!(asked(3, 60, "d.."), Some(2), "the first is drained");
        assert_eq!(asked(2, 60, "d.."), None);
        assert_eq!(asked(2, 60, ""), None);
    }

    #[test]
    fn a_drained_one_hands_over_at_once_to_whoever_suits() {
        assert_eq!(asked(1, 0, "Dx."), Some(3));
        assert_eq!(asked(3, 0, ".dD"), Some(1));
        assert_eq!(asked(3, 0, "-.D"), Some(1), "it must go");
        assert_eq!(asked(1, 60, "Ddx"), None, "nobody suits");
        let meta = |own, voters| {
            heir(NodeId(own), Duration::from_secs(60), true, &order(voters)).map(|heir| heir.0)
        };
        assert_eq!(meta(2, "..."), None, "nobody is preferred");
        assert_eq!(meta(1, "D.."), Some(102));
    }
}
