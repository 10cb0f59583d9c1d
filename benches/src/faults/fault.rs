//! The faults, and the steps that one round of each consists of.
//!
//! A round is drawn from a seed and from nothing else that chance has a hand in: who leads is
//! asked of the cluster, everything else comes out of [`round`], which touches nothing. `steer`
//! carries the steps out.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use clap::ValueEnum;
use rand::RngExt;
use rand::rngs::SmallRng;

/// Nodes that found the cluster.
pub(crate) const FOUNDING: usize = 3;
/// Nodes there are at most, at the top of `grow-shrink`.
pub(crate) const NODES_MAX: usize = 5;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Fault {
    /// SIGKILL of the leader of a shard, and its restart
    KillLeader,
    /// SIGKILL of all nodes at once
    KillAll,
    /// SIGSTOP of the leader or another for 0.1 to 10 s
    Pause,
    /// One node and the others hear nothing of each other
    PartitionSymmetric,
    /// One node is not heard by the others, or does not hear them
    PartitionAsymmetric,
    /// Two nodes hear nothing of each other, the third hears both
    PartitionPartial,
    /// 200 ms delay and 20 % loss between all nodes; in namespaces the loss alone, of real packets
    Lossy,
    /// The clock of one node jumps ahead and back by up to an hour
    ClockJump,
    /// A node comes back under its name with empty disks
    WipedDisk,
    /// SIGTERM of one node after the other
    RollingRestart,
    /// Two nodes join, are drained and removed
    GrowShrink,
    /// A node comes back with its disks under another address
    AddressChange,
}

/// What was asked for on the command line: one fault, or all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Every fault, each on a cluster of its own.
    All,
    /// This one.
    One(Fault),
}

/// One thing to do to a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// SIGKILL, and its end.
    Kill(usize),
    /// SIGKILL of all that found the cluster before the end of any is waited for.
    KillAll,
    /// SIGTERM, and its end.
    Terminate(usize),
    /// The process begins, under the address it has now.
    Start(usize),
    /// SIGSTOP.
    Pause(usize),
    /// SIGCONT.
    Resume(usize),
    /// Both its directories are emptied; it does not run.
    Wipe(usize),
    /// It has another address from its next start on; it does not run.
    Move(usize),
    /// What the first sends does not reach the second.
    Cut(usize, usize),
    /// Every link is slow and loses packets.
    Worsen,
    /// All links are as they were.
    Heal,
    /// Its clock is so many seconds off from now on.
    Clock(usize, i64),
    /// The cluster is told to take everything away from it.
    Drain(usize),
    /// The cluster is told that it is a member no more.
    Remove(usize),
    /// Milliseconds.
    Wait(u64),
    /// Until every running node says it is ready.
    Ready,
    /// Until no shard moves, and none has fewer living replicas than it should.
    Whole,
}

impl Fault {
    /// Whether the fault is one of the wires between nodes, so that these must be ours.
    pub(crate) fn needs_wires(self) -> bool {
        matches!(
            self,
            Self::PartitionSymmetric
                | Self::PartitionAsymmetric
                | Self::PartitionPartial
                | Self::Lossy
        )
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value();
        f.pad(value.as_ref().map_or("", |value| value.get_name()))
    }
}

impl FromStr for Asked {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" {
            return Ok(Self::All);
        }
        Fault::from_str(text, false).map(Self::One).map_err(|_| {
            let all = Fault::value_variants().iter().map(ToString::to_string);
            format!("one of: all, {}", all.collect::<Vec<_>>().join(", "))
        })
    }
}

/// Every fault asked for, once, in the order of the list.
pub(crate) fn chosen(asked: &[Asked]) -> Vec<Fault> {
    let all = Fault::value_variants().iter().copied();
    let wanted = |fault: &Fault| asked.contains(&Asked::All) || asked.contains(&Asked::One(*fault));
    all.filter(wanted).collect()
}

/// The steps of one round, which ends with the cluster as it was; `leader` leads the shard looked
/// at, and nothing is held for longer than `hold_ms_max`.
pub(crate) fn round(
    fault: Fault,
    leader: usize,
    hold_ms_max: u64,
    chance: &mut SmallRng,
) -> Vec<Step> {
    let mut ms = |range: RangeInclusive<u64>| {
        let (low, high) = (*range.start(), (*range.end()).min(hold_ms_max));
        chance.random_range(low.min(high)..=high)
    };
    let hold = match fault {
        Fault::KillLeader => ms(300..=2_500),
        Fault::KillAll => ms(0..=500),
        Fault::Pause => ms(100..=10_000),
        Fault::Lossy => ms(5_000..=20_000),
        _ => ms(500..=6_000),
    };
    let nodes = 0..FOUNDING;
    let other = (leader + chance.random_range(1..FOUNDING)) % FOUNDING;
    let victim = if chance.random_bool(2.0 / 3.0) { leader } else { other };
    let abrupt = chance.random_bool(0.5);
    let end = |node| if abrupt { Step::Kill(node) } else { Step::Terminate(node) };
    let rest = |victim: usize| nodes.clone().filter(move |&node| node != victim);
    match fault {
        Fault::KillLeader => {
            vec![Step::Kill(leader), Step::Wait(hold), Step::Start(leader), Step::Ready]
        }
        Fault::KillAll => {
            let (kill, start) = ([Step::KillAll, Step::Wait(hold)], nodes.clone().map(Step::Start));
            kill.into_iter().chain(start).chain([Step::Ready]).collect()
        }
        Fault::Pause => {
            vec![Step::Pause(victim), Step::Wait(hold), Step::Resume(victim), Step::Ready]
        }
        Fault::PartitionSymmetric => {
            let cut = rest(victim).flat_map(|n| [Step::Cut(victim, n), Step::Cut(n, victim)]);
            cut.chain([Step::Wait(hold), Step::Heal, Step::Ready]).collect()
        }
        Fault::PartitionAsymmetric => {
            let one_way = |n| if abrupt { Step::Cut(victim, n) } else { Step::Cut(n, victim) };
            rest(victim).map(one_way).chain([Step::Wait(hold), Step::Heal, Step::Ready]).collect()
        }
        Fault::PartitionPartial => vec![
            Step::Cut(leader, other),
            Step::Cut(other, leader),
            Step::Wait(hold),
            Step::Heal,
            Step::Ready,
        ],
        Fault::Lossy => vec![Step::Worsen, Step::Wait(hold), Step::Heal, Step::Ready],
        Fault::ClockJump => {
            let seconds = chance.random_range(2..=3_600) * if abrupt { 1 } else { -1 };
            // Both ways in each round, and then right again.
            let jump = |seconds| [Step::Clock(victim, seconds), Step::Wait(hold)];
            [jump(seconds), jump(-seconds), [Step::Clock(victim, 0), Step::Ready]].concat()
        }
        Fault::WipedDisk => {
            vec![end(victim), Step::Wipe(victim), Step::Start(victim), Step::Ready, Step::Whole]
        }
        Fault::RollingRestart => {
            let restart = |node| [Step::Terminate(node), Step::Start(node), Step::Ready];
            nodes.clone().flat_map(restart).collect()
        }
        Fault::GrowShrink => {
            let more = FOUNDING..NODES_MAX;
            let join = more.clone().map(Step::Start).chain([Step::Ready, Step::Whole]);
            let leave = |node| {
                // One that is removed and goes on running begins anew and joins again.
                let cluster = [Step::Drain(node), Step::Whole, Step::Remove(node)];
                let gone = [Step::Terminate(node), Step::Wipe(node), Step::Whole];
                cluster.into_iter().chain(gone)
            };
            join.chain(more.rev().flat_map(leave)).collect()
        }
        Fault::AddressChange => {
            vec![end(victim), Step::Move(victim), Step::Start(victim), Step::Ready]
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::SeedableRng;

    use super::*;

    fn rounds(fault: Fault) -> Vec<(usize, Vec<Step>)> {
        let mut chance = SmallRng::seed_from_u64(7);
        let each = (0..200).map(|n| n % FOUNDING);
        each.map(|leader| (leader, round(fault, leader, 4_000, &mut chance))).collect()
    }

    #[test]
    fn every_round_leaves_the_cluster_as_it_was() {
        for &fault in Fault::value_variants() {
            for (_, steps) in rounds(fault) {
                let mut running: BTreeSet<usize> = (0..FOUNDING).collect();
                let (mut paused, mut cuts, mut off) = (BTreeSet::new(), 0, BTreeSet::new());
                for &step in &steps {
                    let legal = match step {
                        Step::Kill(n) | Step::Terminate(n) => running.remove(&n),
                        Step::KillAll => std::mem::take(&mut running).len() == FOUNDING,
                        Step::Start(n) => running.insert(n),
                        Step::Pause(n) => running.contains(&n) && paused.insert(n),
                        Step::Resume(n) => paused.remove(&n),
                        Step::Wipe(n) | Step::Move(n) => !running.contains(&n),
                        Step::Drain(n) | Step::Remove(n) => running.contains(&n),
                        Step::Cut(from, to) => {
                            cuts += 1;
                            from != to
                        }
                        Step::Worsen => {
                            cuts += 1;
                            true
                        }
                        Step::Heal => {
                            cuts = 0;
                            true
                        }
                        Step::Clock(n, seconds) => {
                            if seconds == 0 {
                                off.remove(&n)
                            } else {
                                off.insert(n);
                                true
                            }
                        }
                        Step::Wait(ms) => ms <= 4_000,
                        Step::Ready | Step::Whole => paused.is_empty() && cuts == 0,
                    };
                    assert!(legal, "{fault}: {step:?} in {steps:?}");
                }
                assert_eq!(running, (0..FOUNDING).collect(), "{fault}: {steps:?}");
                assert!(paused.is_empty() && cuts == 0 && off.is_empty(), "{fault}: {steps:?}");
            }
        }
    }

    #[test]
    fn a_cut_of_one_way_is_one_and_a_partial_one_leaves_the_third_alone() {
        let cuts = |steps: &[Step]| -> BTreeSet<(usize, usize)> {
            let cut = steps.iter().filter_map(|step| match *step {
                Step::Cut(from, to) => Some((from, to)),
                _ => None,
            });
            cut.collect()
        };
        let mut shapes = BTreeSet::new();
        for (leader, steps) in rounds(Fault::PartitionAsymmetric) {
            let cuts = cuts(&steps);
            assert!(cuts.iter().all(|&(from, to)| !cuts.contains(&(to, from))), "{steps:?}");
            let speaks = cuts.iter().any(|&(from, _)| from == leader);
            let hears = cuts.iter().any(|&(_, to)| to == leader);
            shapes.insert((speaks, hears, cuts.len()));
        }
        // The leader is mute, or deaf, or one of those who do not hear or are not heard.
        assert!(shapes.contains(&(true, false, 2)) && shapes.contains(&(false, true, 2)));
        for (leader, steps) in rounds(Fault::PartitionPartial) {
            let cuts = cuts(&steps);
            assert_eq!(cuts.len(), 2);
            let third = (0..FOUNDING).find(|n| cuts.iter().all(|(from, to)| from != n && to != n));
            assert!(third.is_some_and(|third| third != leader), "{steps:?}");
        }
        for (_, steps) in rounds(Fault::PartitionSymmetric) {
            let cuts = cuts(&steps);
            assert!(cuts.len() == 4 && cuts.iter().all(|&(a, b)| cuts.contains(&(b, a))));
        }
    }

    #[test]
    fn a_seed_gives_the_same_rounds_and_another_others() {
        let from = |seed| {
            let mut chance = SmallRng::seed_from_u64(seed);
            let mut all = Vec::new();
            (0..20).for_each(|_| all.extend(round(Fault::Pause, 1, 10_000, &mut chance)));
            all
        };
        assert_eq!(from(5), from(5));
        assert_ne!(from(5), from(6));
    }

    #[test]
    fn all_means_each_once_and_a_name_is_what_the_list_shows() {
        let all: Asked = "all".parse().unwrap();
        let one: Asked = "wiped-disk".parse().unwrap();
        assert_eq!(chosen(&[one, all]), Fault::value_variants());
        assert_eq!(chosen(&[one, one]), [Fault::WipedDisk]);
        assert_eq!(Fault::PartitionSymmetric.to_string(), "partition-symmetric");
        assert!("meteor".parse::<Asked>().unwrap_err().contains("kill-leader"));
    }
}
