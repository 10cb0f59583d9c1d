//! Another replica leads as soon as it is clear that the leader's node is gone.
//!
//! When this node finds that a node is gone ([`crate::liveness`]) that leads groups of which
//! replicas are here, it asks the other members whether they find so too, and how long their logs
//! of these groups are: one question for all groups. Where a majority of a group's voters has lost that node,
//! the one with the longest log stands for election at once; the others wait, each a little longer ([`TURN`]), and
//! stand if nobody led meanwhile. Those who lost the leader too vote past its lease
//! ([`stemedb_raft::Evidence`]). What comes of it is up to Raft: two candidates, or a
//! wrong order, cost time, not truth.
//!
//! Where no majority has lost the leader nothing happens: this node was cut off, and waits.
//! An election that nobody won leaves its group without a leader, and without a lease: such a group stays an
//! orphan of the node that is gone, and the next attempt follows at once ([`Orphans`]).
//! Should all attempts fail, the groups' timers are still there. ADR 19 says why a lease may be passed over.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use stemedb_raft::{Evidence, Group, Leadership, Level};
use stemedb_types::{DecodeError, Decoder, Encoder, GroupId, NodeId};
use tokio::time::{Instant, timeout};

use crate::core::{Core, Phase};
use crate::liveness::PING_INTERVAL;
use crate::wire::LOST;

/// How much longer each next candidate waits.
const TURN: Duration = Duration::from_millis(60);
/// How long a peer that has not noticed yet has to do so, before it says no.
const NOTICE_MAX: Duration = PING_INTERVAL;
/// How long a peer has to answer.
const ASK_MAX: Duration = Duration::from_millis(500);
/// After an attempt, how long until the next one.
const RETRY: Duration = Duration::from_millis(150);
/// After so many attempts the timers go on.
const ATTEMPTS_MAX: u32 = 8;

const VERSION: u8 = 1;

/// What a node says when it is asked whether it has lost another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lost {
    /// Its own link to that node is gone.
    pub(crate) gone: bool,
    /// The groups that node led as far as it knows, and those it knows no leader of; each with the
    /// index of the last entry of its own log.
    pub(crate) logs: BTreeMap<GroupId, u64>,
}

impl Lost {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Encoder::new();
        out.u8(VERSION);
        out.bool(self.gone);
        out.varint(self.logs.len() as u64);
        for (group, last) in &self.logs {
            out.u32(group.0);
            out.varint(*last);
        }
        out.finish()
    }

    pub(crate) fn decode(input: &[u8]) -> Result<Self, DecodeError> {
        let mut from = Decoder::new(input);
        from.version("lost leaders", VERSION)?;
        let gone = from.bool()?;
        let count = from.length(5)?;
        let log = |_| Ok((GroupId(from.u32()?), from.varint()?));
        let logs = (0..count).map(log).collect::<Result<_, DecodeError>>()?;
        from.finish()?;
        Ok(Self { gone, logs })
    }
}

pub(crate) fn encode_node(node: NodeId) -> Bytes {
    let mut out = Encoder::new();
    out.u8(VERSION);
    out.u64(node.0);
    out.finish()
}

pub(crate) fn decode_node(input: &[u8]) -> Result<NodeId, DecodeError> {
    let mut from = Decoder::new(input);
    from.version("a node", VERSION)?;
    let node = NodeId(from.u64()?);
    from.finish()?;
    Ok(node)
}

/// A voter of a group that has lost its leader too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Survivor {
    node: NodeId,
    /// Its disks take more, and it does not go down.
    suits: bool,
    /// The index of the last entry of its log, if it said.
    last_log: Option<u64>,
}

/// Whose turn it is: how many stand before `me`; `None` if too few have lost the leader, or `me` has
/// no vote. `preferred` is the layout's order. Pure.
fn turn_of(
    me: NodeId,
    voters: usize,
    survivors: &[Survivor],
    preferred: &[NodeId],
) -> Option<usize> {
    if survivors.len() * 2 <= voters {
        return None;
    }
    let place = |node| preferred.iter().position(|p| *p == node).unwrap_or(preferred.len());
    let mut order: Vec<&Survivor> = survivors.iter().collect();
    order.sort_by_key(|s| (!s.suits, Reverse(s.last_log), place(s.node), s.node));
    order.iter().position(|survivor| survivor.node == me)
}

/// Stands for election where a leader is gone, until the node stops.
pub(crate) async fn succeed_leaders(core: Arc<Core>) {
    let mut gone = core.liveness.gone();
    let mut orphans = Orphans::default();
    let mut attempts = Attempts::default();
    loop {
        let lost = gone.borrow_and_update().clone();
        let orphaned = core.orphaned(&lost, &mut orphans);
        if orphaned.is_empty() {
            attempts.reset();
        }
        let idle = orphaned.is_empty() || !attempts.another(&lost);
        if !idle {
            let tries = orphaned.into_iter().map(|(leader, groups)| succeed(&core, leader, groups));
            tokio::select! {
                () = core.stop.cancelled() => return,
                _ = join_all(tries) => {}
            }
        }
        let pause = async {
            match idle {
                true => std::future::pending().await,
                false => tokio::time::sleep(RETRY).await,
            }
        };
        tokio::select! {
            () = core.stop.cancelled() => return,
            changed = gone.changed() => if changed.is_err() { return },
            () = pause => {}
        }
    }
}

/// One attempt to have another leader for groups that one node led.
async fn succeed(core: &Core, leader: NodeId, groups: Vec<Group>) {
    let said = ask_who_lost(core, leader).await;
    let layout = core.meta.load().layout.clone();
    let stand = groups.into_iter().filter_map(|group| {
        let voters = core.voters(&group);
        let survivor = |node: NodeId| {
            let last_log = if node == core.node {
                group.position().last_log
            } else {
                let lost = said.get(&node).filter(|lost| lost.gone)?;
                lost.logs.get(&group.id()).copied()
            };
            Some(Survivor { node, suits: core.suits(node), last_log })
        };
        let survivors: Vec<Survivor> =
            voters.iter().filter_map(|(_, node)| survivor(*node)).collect();
        let preferred: Vec<NodeId> =
            layout.replicas(group.id()).into_iter().flatten().map(|r| r.node).collect();
        let turn = turn_of(core.node, voters.len(), &survivors, &preferred)?;
        Some(stand_in_turn(core, leader, group, turn))
    });
    join_all(stand).await;
}

async fn stand_in_turn(core: &Core, leader: NodeId, group: Group, turn: usize) {
    let mut leadership = group.leadership();
    let before = *leadership.borrow_and_update();
    let wait = TURN * u32::try_from(turn).unwrap_or(u32::MAX);
    if turn > 0 {
        // Even a vote for another is a change: that one is given time until the next attempt.
        let other = leadership.wait_for(|now| *now != before);
        if timeout(wait, other).await.is_ok() {
            return;
        }
    }
    // Back in time: let it lead. And one that leads by now is not stood against.
    if !core.liveness.is_gone(leader) || !is_orphan(*leadership.borrow(), leader) {
        return;
    }
    tracing::info!(group = %group.id(), %leader, turn, "the leader's node is gone: standing for election");
    metrics::counter!("stemedb_raft_evidence_elections_total").increment(1);
    // A group that has stopped is found by the look at the disk.
    let _ = group.stand().await;
}

/// Asks the other members whether they have lost a node, too.
async fn ask_who_lost(core: &Core, leader: NodeId) -> BTreeMap<NodeId, Lost> {
    let state = core.meta.load_full();
    let others = state.nodes.keys().copied();
    let others = others.filter(|node| *node != core.node && !core.liveness.is_gone(*node));
    let deadline = Instant::now() + ASK_MAX;
    let asked = others.map(|node| async move {
        let answer = core.ask(node, LOST, encode_node(leader), deadline).await.ok()?;
        Some((node, Lost::decode(&answer).ok()?))
    });
    join_all(asked).await.into_iter().flatten().collect()
}

/// Attempts that were made since the last news of who is gone.
#[derive(Debug, Default)]
struct Attempts {
    lost: BTreeSet<NodeId>,
    made: u32,
}

impl Attempts {
    /// Counts one more, if there may be one: [`ATTEMPTS_MAX`] for each set of nodes that are gone.
    fn another(&mut self, lost: &BTreeSet<NodeId>) -> bool {
        if self.lost != *lost {
            *self = Self { lost: lost.clone(), made: 0 };
        }
        let may = self.made < ATTEMPTS_MAX;
        self.made += u32::from(may);
        may
    }

    /// Forgets them: nothing is lost that would be worth one.
    fn reset(&mut self) {
        *self = Self::default();
    }
}

/// Whether a group, as its replica here sees it, has no leader but the one that is gone.
fn is_orphan(seen: Leadership, gone: NodeId) -> bool {
    matches!(seen, Leadership::Unknown) || seen == Leadership::There(gone)
}

/// Groups whose leader's node is gone, and that node, until somebody else leads them. A group that has lost its
/// leader and whose election nobody won knows of no leader at all: what it lost is known here.
#[derive(Debug, Default)]
struct Orphans(BTreeMap<GroupId, NodeId>);

impl Orphans {
    /// Takes note of who leads a group as far as is seen here; the node whose orphan it is, if it is one.
    fn see(&mut self, group: GroupId, seen: Leadership, gone: &BTreeSet<NodeId>) -> Option<NodeId> {
        let lost = match seen {
            Leadership::There(leader) => Some(leader),
            Leadership::Unknown => self.0.get(&group).copied(),
            Leadership::Here => None,
        };
        let lost = lost.filter(|leader| gone.contains(leader));
        match lost {
            Some(leader) => self.0.insert(group, leader),
            None => self.0.remove(&group),
        };
        lost
    }
}

impl Core {
    /// The groups with a replica here whose leader's node is among those gone, by that node.
    fn orphaned(
        &self,
        gone: &BTreeSet<NodeId>,
        orphans: &mut Orphans,
    ) -> BTreeMap<NodeId, Vec<Group>> {
        let mut orphaned: BTreeMap<NodeId, Vec<Group>> = BTreeMap::new();
        if *self.phase.borrow() == Phase::Draining {
            return orphaned;
        }
        for group in self.groups.all() {
            let seen = *group.leadership().borrow();
            if let Some(leader) = orphans.see(group.id(), seen, gone) {
                orphaned.entry(leader).or_default().push(group);
            }
        }
        orphaned
    }

    /// Whether a node takes all that a leader must, and stays.
    fn suits(&self, node: NodeId) -> bool {
        if node == self.node {
            return self.disks.space.level() == Level::Open;
        }
        self.disks.level_of(node) == Level::Open && self.may_lead(node)
    }

    /// Answers [`LOST`], after a moment if this node has not lost that one yet.
    pub(crate) async fn lost(&self, leader: NodeId) -> Lost {
        let mut gone = self.liveness.gone();
        let noticed = timeout(NOTICE_MAX, gone.wait_for(|gone| gone.contains(&leader))).await;
        let lost = |group: &Group| is_orphan(*group.leadership().borrow(), leader);
        let groups = self.groups.all().into_iter().filter(lost);
        let last = |group: Group| Some((group.id(), group.position().last_log?));
        Lost { gone: matches!(noticed, Ok(Ok(_))), logs: groups.filter_map(last).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn survivor(node: u64, last_log: u64) -> Survivor {
        Survivor { node: NodeId(node), suits: true, last_log: Some(last_log) }
    }

    fn turn(me: u64, voters: usize, survivors: &[Survivor], preferred: &[u64]) -> Option<usize> {
        let preferred: Vec<NodeId> = preferred.iter().copied().map(NodeId).collect();
        turn_of(NodeId(me), voters, survivors, &preferred)
    }

    #[test]
    fn nobody_stands_where_no_majority_has_lost_the_leader() {
        assert_eq!(turn(2, 3, &[survivor(2, 9)], &[1, 2, 3]), None, "one of three was cut off");
        assert_eq!(turn(2, 5, &[survivor(2, 9), survivor(3, 9)], &[]), None);
        assert_eq!(turn(2, 4, &[survivor(2, 9), survivor(3, 9)], &[]), None, "half is none");
        assert_eq!(turn(2, 2, &[survivor(2, 9)], &[]), None, "two need both");
        assert_eq!(turn(2, 3, &[survivor(2, 9), survivor(3, 9)], &[1, 2, 3]), Some(0));
    }

    #[test]
    fn one_without_a_vote_never_stands() {
        assert_eq!(turn(4, 3, &[survivor(2, 9), survivor(3, 9)], &[1, 2, 3]), None);
    }

    #[test]
    fn the_longest_log_stands_first_then_whom_the_layout_prefers() {
        let order = |survivors: &[Survivor], preferred: &[u64]| {
            [2, 3, 4].map(|me| turn(me, 5, survivors, preferred))
        };
        let equal = [survivor(2, 9), survivor(3, 9), survivor(4, 9)];
        assert_eq!(order(&equal, &[1, 4, 3, 2, 5]), [Some(2), Some(1), Some(0)]);
        assert_eq!(order(&equal, &[]), [Some(0), Some(1), Some(2)], "then by id");
        let longer = [survivor(2, 9), survivor(3, 10), survivor(4, 9)];
        assert_eq!(order(&longer, &[1, 4, 3, 2, 5]), [Some(2), Some(0), Some(1)]);
        // One that said nothing of its log, and one whose disk is full, come last.
        let silent =
            [survivor(2, 9), Survivor { last_log: None, ..survivor(3, 0) }, survivor(4, 7)];
        assert_eq!(order(&silent, &[]), [Some(0), Some(2), Some(1)]);
        let full = [Survivor { suits: false, ..survivor(2, 9) }, survivor(3, 8), survivor(4, 7)];
        assert_eq!(order(&full, &[]), [Some(2), Some(0), Some(1)]);
    }

    #[test]
    fn attempts_end_and_begin_again_with_each_loss() {
        let lost = |node| BTreeSet::from([NodeId(node)]);
        let mut attempts = Attempts::default();
        let mut made = |lost: &BTreeSet<NodeId>| (0..20).filter(|_| attempts.another(lost)).count();
        assert_eq!(made(&lost(1)), 8, "then the timers decide");
        assert_eq!(made(&lost(1)), 0);
        assert_eq!(made(&lost(2)), 8, "another one");
        assert_eq!(made(&lost(1)), 8, "the same, which had come back meanwhile");
        attempts.reset();
        assert!(attempts.another(&lost(1)), "its groups had a leader between");
    }

    #[test]
    fn a_group_stays_an_orphan_after_an_election_that_nobody_won_until_another_leads() {
        let (group, gone) = (GroupId(7), BTreeSet::from([NodeId(1)]));
        let mut orphans = Orphans::default();
        let mut see = |seen, gone: &BTreeSet<NodeId>| orphans.see(group, seen, gone);
        assert_eq!(see(Leadership::Unknown, &gone), None, "it may never have had a leader");
        assert_eq!(see(Leadership::There(NodeId(2)), &gone), None);
        assert_eq!(see(Leadership::There(NodeId(1)), &gone), Some(NodeId(1)));
        assert_eq!(see(Leadership::Unknown, &gone), Some(NodeId(1)), "nobody won");
        assert_eq!(see(Leadership::Unknown, &BTreeSet::new()), None, "it is back");
        assert_eq!(see(Leadership::Unknown, &gone), None);
        assert_eq!(see(Leadership::There(NodeId(1)), &gone), Some(NodeId(1)));
        assert_eq!(see(Leadership::There(NodeId(3)), &gone), None, "another leads");
        assert_eq!(see(Leadership::Unknown, &gone), None);
        assert_eq!(see(Leadership::There(NodeId(1)), &gone), Some(NodeId(1)));
        assert_eq!(see(Leadership::Here, &gone), None, "we lead");
    }

    #[test]
    fn what_was_lost_reads_back_and_no_cut_of_it_does() {
        let lost = Lost { gone: true, logs: [(GroupId(0), 0), (GroupId(7), 1 << 40)].into() };
        let bytes = lost.encode();
        assert_eq!(Lost::decode(&bytes), Ok(lost));
        for cut in 0..bytes.len() {
            assert!(Lost::decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        assert_eq!(decode_node(&encode_node(NodeId(5))), Ok(NodeId(5)));
        assert!(decode_node(&[VERSION]).is_err());
    }
}
