//! Another replica leads as soon as it is clear that the leader's node is gone.
//!
//! When this node finds that a node is gone ([`crate::liveness`]) that leads groups of which
//! replicas are here, it asks the other members whether they find so too, and how their logs
//! of these groups end: one question for all groups. Where a majority of a group's voters has lost that node,
//! the one whose log is the newest stands for election at once; the others wait, each a little longer ([`TURN`]), and
//! stand if nobody led or stood meanwhile. Those who lost the leader too vote past its lease
//! ([`stemedb_raft::Evidence`]). What comes of it is up to Raft: two candidates, or a
//! wrong order, cost time, not truth.
//!
//! An election takes two syncs of a log, one after the other. Whoever stands again before they are over
//! takes the votes of his own first try away, and on a slow disk nobody would ever win. So one who stood, or
//! saw another stand, waits for what comes of it ([`ELECTION_MAX`]).
//!
//! Where no majority has lost the leader nothing happens: this node was cut off, and waits.
//! An election that nobody won leaves its group without a leader, and without a lease: such a group stays an
//! orphan of the node that is gone for as long as that one is, and is looked at again and again ([`Orphans`]).
//! Should all attempts fail, the groups' timers are still there. ADR 19 says why a lease may be passed over.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use rand::RngExt;
use stemedb_raft::{Evidence, Group, Leadership, Level, LogEnd};
use stemedb_types::{DecodeError, Decoder, Encoder, GroupId, NodeId};
use tokio::time::{Instant, timeout};

use crate::core::{Core, Phase};
use crate::liveness::PING_INTERVAL;
use crate::wire::LOST;

/// How much longer each next candidate waits: longer than two syncs of a disk that is busy.
const TURN: Duration = Duration::from_millis(200);
/// How long an election may take. A bit more by chance, so that two who stood at once don't do so again.
const ELECTION_MAX: Duration = Duration::from_millis(400);
const ELECTION_JITTER_MS: u64 = 150;
/// How long a peer that has not noticed yet has to do so, before it says no.
const NOTICE_MAX: Duration = PING_INTERVAL;
/// How long a peer has to answer.
const ASK_MAX: Duration = Duration::from_millis(500);
/// How long a group has to say how its log ends. One whose disk hangs says nothing, and stands last.
const STANDING_MAX: Duration = Duration::from_millis(100);
/// After an attempt, how long until the next one.
const RETRY: Duration = Duration::from_millis(150);
/// After so many attempts the next ones come slowly: timers have had their turn by then.
const QUICK_ATTEMPTS_MAX: u32 = 8;
/// How slowly.
const SLOW_RETRY: Duration = Duration::from_secs(1);
/// While anybody is gone, how long until the groups are looked at again: a leader that was just chosen
/// may be deposed without anybody else being lost.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

const VERSION: u8 = 2;

/// What a node says when it is asked whether it has lost another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lost {
    /// Its own link to that node is gone.
    pub(crate) gone: bool,
    /// The groups that node led as far as it knows, and those it knows no leader of; each with the
    /// end of its own log.
    pub(crate) logs: BTreeMap<GroupId, LogEnd>,
}

impl Lost {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Encoder::new();
        out.u8(VERSION);
        out.bool(self.gone);
        out.varint(self.logs.len() as u64);
        for (group, last) in &self.logs {
            out.u32(group.0);
            out.varint(last.term);
            out.varint(last.index);
        }
        out.finish()
    }

    pub(crate) fn decode(input: &[u8]) -> Result<Self, DecodeError> {
        let mut from = Decoder::new(input);
        from.version("lost leaders", VERSION)?;
        let gone = from.bool()?;
        let count = from.length(6)?;
        let log = |_| {
            let group = GroupId(from.u32()?);
            Ok((group, LogEnd { term: from.varint()?, index: from.varint()? }))
        };
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
    /// The end of its log, if it said.
    last_log: Option<LogEnd>,
}

/// Whose turn it is: how many stand before `me`; `None` if too few have lost the leader, or `me` has
/// no vote. `preferred` is the layout's order. Pure.
///
/// Where every survivor's vote is needed, only the one with the newest log can win, whatever else is to be
/// said of it; it hands over what it can't keep. Else one whose disks are full, or that goes down, stands last.
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
    let all_needed = survivors.len() == voters / 2 + 1;
    let late = |s: &Survivor| !s.suits && !all_needed;
    order.sort_by_key(|s| (late(s), Reverse(s.last_log), !s.suits, place(s.node), s.node));
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
        let pause = if orphaned.is_empty() {
            attempts.reset();
            // Somebody who is gone may have led what is led by somebody else for this moment only.
            (!lost.is_empty()).then_some(LOOK_INTERVAL)
        } else {
            let pause = attempts.another(&lost);
            let tries = orphaned.into_iter().map(|(leader, groups)| succeed(&core, leader, groups));
            tokio::select! {
                () = core.stop.cancelled() => return,
                _ = join_all(tries) => {}
            }
            Some(pause)
        };
        let pause = async {
            match pause {
                Some(pause) => tokio::time::sleep(pause).await,
                None => std::future::pending().await,
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
    let standing = groups.iter().map(|group| timeout(STANDING_MAX, group.standing()));
    let (said, standing) = tokio::join!(ask_who_lost(core, leader), join_all(standing));
    let layout = core.meta.load().layout.clone();
    let stand = groups.into_iter().zip(standing).filter_map(|(group, standing)| {
        // Its own disk hangs: it could not vote for itself.
        let standing = standing.ok().flatten()?;
        let voters = core.voters(&group);
        let survivor = |node: NodeId| {
            let last_log = if node == core.node {
                standing.last
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
        Some(stand_in_turn(core, leader, group, turn, standing.vote_term))
    });
    join_all(stand).await;
}

/// Stands when its turn has come, and waits for what comes of it. `vote_term` is the newest term this replica had
/// voted in when it was asked.
async fn stand_in_turn(core: &Core, leader: NodeId, group: Group, turn: usize, vote_term: u64) {
    let mut leadership = group.leadership();
    if turn > 0 {
        let wait = TURN * u32::try_from(turn).unwrap_or(u32::MAX);
        let led = leadership.wait_for(|now| !is_orphan(*now, leader));
        if timeout(wait, led).await.is_ok() {
            return;
        }
    }
    // Back in time: let it lead. And one that leads by now is not stood against.
    if !core.liveness.is_gone(leader) || !is_orphan(*leadership.borrow(), leader) {
        return;
    }
    // Asked behind a vote that is just being given: another one stands then, and is given time.
    let now = timeout(STANDING_MAX, group.standing()).await;
    if now.ok().flatten().is_some_and(|now| now.vote_term == vote_term) {
        tracing::info!(group = %group.id(), %leader, turn, "the leader's node is gone: standing for election");
        metrics::counter!("stemedb_raft_evidence_elections_total").increment(1);
        // A group that has stopped is found by the look at the disk.
        let _ = group.stand().await;
    }
    let jitter = Duration::from_millis(rand::rng().random_range(0..ELECTION_JITTER_MS));
    let won = leadership.wait_for(|now| !is_orphan(*now, leader));
    let _ = timeout(ELECTION_MAX + jitter, won).await;
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
    /// Counts one more; how long until the next. [`QUICK_ATTEMPTS_MAX`] quick ones for each set of nodes that
    /// are gone: beyond them others see another truth, and asking them costs a message each.
    fn another(&mut self, lost: &BTreeSet<NodeId>) -> Duration {
        if self.lost != *lost {
            *self = Self { lost: lost.clone(), made: 0 };
        }
        self.made = self.made.saturating_add(1);
        if self.made < QUICK_ATTEMPTS_MAX { RETRY } else { SLOW_RETRY }
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

/// Groups whose leader's node is gone, and that node, for as long as it is. A group that has lost its
/// leader and whose election nobody won knows of no leader at all, and one whose new leader was deposed at once
/// does not either: what it lost is known here.
#[derive(Debug, Default)]
struct Orphans(BTreeMap<GroupId, NodeId>);

impl Orphans {
    /// Takes note of who leads a group as far as is seen here; the node whose orphan it is, if it is one.
    fn see(&mut self, group: GroupId, seen: Leadership, gone: &BTreeSet<NodeId>) -> Option<NodeId> {
        if let Leadership::There(leader) = seen
            && gone.contains(&leader)
        {
            self.0.insert(group, leader);
        }
        let lost = self.0.get(&group).copied()?;
        if !gone.contains(&lost) {
            self.0.remove(&group);
            return None;
        }
        is_orphan(seen, lost).then_some(lost)
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
        let noticed = async { gone.wait_for(|gone| gone.contains(&leader)).await.is_ok() };
        let noticed = timeout(NOTICE_MAX, noticed).await.unwrap_or(false);
        let lost = |group: &Group| is_orphan(*group.leadership().borrow(), leader);
        let groups = self.groups.all().into_iter().filter(lost);
        let ends = groups.map(|group| async move {
            let standing = timeout(STANDING_MAX, group.standing()).await.ok().flatten()?;
            Some((group.id(), standing.last?))
        });
        let logs = join_all(ends).await.into_iter().flatten().collect();
        Lost { gone: noticed, logs }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn survivor(node: u64, index: u64) -> Survivor {
        let last_log = Some(LogEnd { term: 4, index });
        Survivor { node: NodeId(node), suits: true, last_log }
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
    fn the_newest_log_stands_first_then_whom_the_layout_prefers() {
        let order = |survivors: &[Survivor], preferred: &[u64]| {
            [2, 3, 4].map(|me| turn(me, 5, survivors, preferred))
        };
        let equal = [survivor(2, 9), survivor(3, 9), survivor(4, 9)];
        assert_eq!(order(&equal, &[1, 4, 3, 2, 5]), [Some(2), Some(1), Some(0)]);
        assert_eq!(order(&equal, &[]), [Some(0), Some(1), Some(2)], "then by id");
        let longer = [survivor(2, 9), survivor(3, 10), survivor(4, 9)];
        assert_eq!(order(&longer, &[1, 4, 3, 2, 5]), [Some(2), Some(0), Some(1)]);
        // One that said nothing of its log comes last.
        let silent =
            [survivor(2, 9), Survivor { last_log: None, ..survivor(3, 0) }, survivor(4, 7)];
        assert_eq!(order(&silent, &[]), [Some(0), Some(2), Some(1)]);
    }

    #[test]
    fn an_entry_of_a_newer_term_is_newer_than_any_number_of_old_ones() {
        let deposed = Survivor { last_log: Some(LogEnd { term: 3, index: 900 }), ..survivor(2, 0) };
        let survivors = [deposed, survivor(3, 5)];
        assert_eq!(turn(2, 3, &survivors, &[2]), Some(1));
        assert_eq!(turn(3, 3, &survivors, &[2]), Some(0));
    }

    #[test]
    fn a_full_disk_stands_last_unless_nobody_else_can_win() {
        let full = Survivor { suits: false, ..survivor(2, 9) };
        assert_eq!(turn(2, 3, &[full, survivor(3, 8)], &[]), Some(0), "both votes are needed");
        assert_eq!(turn(2, 3, &[full, survivor(3, 9)], &[]), Some(1), "the other one can as well");
        let three = [full, survivor(3, 8), survivor(4, 8)];
        assert_eq!(turn(2, 4, &three, &[]), Some(0), "three of four are needed");
        let four = [full, survivor(3, 8), survivor(4, 8), survivor(5, 8)];
        assert_eq!(turn(2, 5, &four, &[]), Some(3));
    }

    #[test]
    fn attempts_slow_down_and_begin_again_with_each_loss() {
        let lost = |node| BTreeSet::from([NodeId(node)]);
        let mut attempts = Attempts::default();
        let mut quick =
            |lost: &BTreeSet<NodeId>| (0..20).filter(|_| attempts.another(lost) == RETRY).count();
        assert_eq!(quick(&lost(1)), 7);
        assert_eq!(quick(&lost(1)), 0);
        assert_eq!(quick(&lost(2)), 7, "another one");
        assert_eq!(quick(&lost(1)), 7, "the same, which had come back meanwhile");
        attempts.reset();
        assert_eq!(attempts.another(&lost(1)), RETRY, "its groups had a leader between");
    }

    #[test]
    fn a_group_stays_an_orphan_of_a_node_until_that_is_back() {
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
        assert_eq!(see(Leadership::Here, &gone), None, "we lead");
        assert_eq!(see(Leadership::Unknown, &gone), Some(NodeId(1)), "for a moment only");
        let both = BTreeSet::from([NodeId(1), NodeId(3)]);
        assert_eq!(see(Leadership::There(NodeId(3)), &both), Some(NodeId(3)), "that one, too");
    }

    #[test]
    fn what_was_lost_reads_back_and_no_cut_of_it_does() {
        let end = |term, index| LogEnd { term, index };
        let lost = Lost {
            gone: true,
            logs: [(GroupId(0), end(1, 0)), (GroupId(7), end(9, 1 << 40))].into(),
        };
        let bytes = lost.encode();
        assert_eq!(Lost::decode(&bytes), Ok(lost));
        for cut in 0..bytes.len() {
            assert!(Lost::decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        assert_eq!(decode_node(&encode_node(NodeId(5))), Ok(NodeId(5)));
        assert!(decode_node(&[VERSION]).is_err());
    }
}
