//! The wake-ups foca has asked for.
//!
//! Every one must come back to it, late or not, and those due together in foca's own order (a
//! probe's second stage before the next probe), or it takes our stall for a broken peer. So this
//! is a heap by time, then by foca's order, then by arrival, and nothing is ever dropped from it.
//!
//! Its size is bounded by what foca schedules: a handful per probe period, and one per member
//! that went down, kept for `DOWN_KEPT`.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::time::Instant;

use foca::Timer;

use crate::identity::Identity;

/// Wake-ups by time.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<Due>>,
    pushed: u64,
}

#[derive(Debug)]
struct Due {
    at: Instant,
    timer: Timer<Identity>,
    arrival: u64,
}

impl Timers {
    /// Keeps `timer` until `at`.
    pub(crate) fn push(&mut self, at: Instant, timer: Timer<Identity>) {
        self.pushed += 1;
        self.heap.push(Reverse(Due { at, timer, arrival: self.pushed }));
    }

    /// When the next one is due.
    pub(crate) fn next_at(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse(due)| due.at)
    }

    /// The next one, if it is due.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<Timer<Identity>> {
        if self.next_at()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse(due)| due.timer)
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at.cmp(&other.at))
            .then_with(|| self.timer.cmp(&other.timer))
            .then_with(|| self.arrival.cmp(&other.arrival))
    }
}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Due {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;
    use std::time::Duration;
    use stemedb_types::NodeId;

    #[test]
    fn those_due_come_by_time_then_in_the_order_foca_wants_and_the_rest_stay() {
        let start = Instant::now();
        let later = start + Duration::from_secs(1);
        let gossip = SocketAddr::from(([127, 0, 0, 1], 1));
        let id = Identity { node: NodeId(1), incarnation: 1, cluster: None, gossip, grpc_port: 1 };
        let second_stage = Timer::SendIndirectProbe { probed_id: id, token: 0 };

        let mut timers = Timers::default();
        timers.push(later, Timer::PeriodicGossip(0));
        timers.push(start, Timer::ProbeRandomMember(1));
        timers.push(start, second_stage.clone());
        timers.push(start, Timer::ProbeRandomMember(2));

        assert_eq!(timers.next_at(), Some(start));
        let due: Vec<_> = std::iter::from_fn(|| timers.pop_due(start)).collect();
        let wanted = [second_stage, Timer::ProbeRandomMember(1), Timer::ProbeRandomMember(2)];
        assert_eq!(due, wanted);
        assert_eq!(timers.next_at(), Some(later));
        assert_eq!(timers.pop_due(later), Some(Timer::PeriodicGossip(0)));
        assert_eq!(timers.next_at(), None);
    }
}
