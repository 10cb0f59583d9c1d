//! Whether the writer waits a moment for those it has just let go. Pure.
//!
//! Threads that sleep until their record is durable come back with the next one when they are
//! let go. A writer that takes what it finds at once finds the first of them, and the others
//! wait for two syncs instead of one. So it waits until as many are back as are on their way,
//! but for a part of a sync at most. Where they don't come back, it soon tries that rarely.
//!
//! Only sleepers count: nobody waits for the caller of a completion, who may never come back.

use std::time::Duration;

/// It is waited for no longer than this, whatever a sync takes.
const WAIT_MAX: Duration = Duration::from_micros(500);
/// Most rounds without another try, as a power of two.
const BACK_OFF_MAX: u32 = 8;

/// What the last rounds taught.
#[derive(Debug, Default)]
pub(crate) struct Linger {
    /// How long a sync takes, a moving average.
    sync: Duration,
    /// Waits in a row that were in vain.
    vain: u32,
    /// Rounds until the next try.
    skipped: u32,
}

/// How long to wait, and for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wait {
    /// Over when so many sleepers are in the queue.
    pub(crate) sleepers: usize,
    /// Over after this time in any case.
    pub(crate) at_most: Duration,
}

impl Linger {
    /// Takes note of how long a sync took; zero if there was none.
    pub(crate) fn synced(&mut self, took: Duration) {
        if took.is_zero() {
            return;
        }
        self.sync = if self.sync.is_zero() { took } else { (self.sync * 7 + took) / 8 };
    }

    /// Whether to wait, with so many sleepers just let go and so many in the queue. One in
    /// eight may be late: they are in time for the round after.
    pub(crate) fn plan(&mut self, released: usize, queued: usize) -> Option<Wait> {
        let expected = released + queued;
        let sleepers = expected - expected / 8;
        if released < 2 || queued >= sleepers {
            return None;
        }
        if self.skipped > 0 {
            self.skipped -= 1;
            return None;
        }
        Some(Wait { sleepers, at_most: (self.sync / 2).min(WAIT_MAX) })
    }

    /// Takes note of how a wait ended: with this many of the sleepers it was for.
    pub(crate) fn ended(&mut self, wait: Wait, queued: usize) {
        if queued * 2 >= wait.sleepers {
            self.vain = 0;
            return;
        }
        self.vain = (self.vain + 1).min(BACK_OFF_MAX);
        self.skipped = 1 << self.vain;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taught(sync: Duration) -> Linger {
        let mut linger = Linger::default();
        linger.synced(sync);
        linger
    }

    #[test]
    fn it_waits_for_most_of_those_on_their_way_and_for_half_a_sync_at_most() {
        let mut linger = taught(Duration::from_micros(200));
        let at_most = Duration::from_micros(100);
        assert_eq!(linger.plan(16, 0), Some(Wait { sleepers: 14, at_most }));
        assert_eq!(linger.plan(4, 12), Some(Wait { sleepers: 14, at_most }));
        assert_eq!(linger.plan(2, 14), None, "they are back already");
        let slow = taught(Duration::from_secs(1)).plan(16, 0).unwrap();
        assert_eq!(slow.at_most, WAIT_MAX);
    }

    #[test]
    fn it_does_not_wait_for_one_or_nobody() {
        let mut linger = taught(Duration::from_micros(200));
        assert_eq!((linger.plan(0, 0), linger.plan(1, 0), linger.plan(0, 9)), (None, None, None));
    }

    #[test]
    fn where_nobody_comes_back_it_tries_ever_more_rarely_and_one_good_try_mends_it() {
        let mut linger = taught(Duration::from_micros(200));
        let mut tries = 0;
        for _ in 0..1000 {
            if let Some(wait) = linger.plan(16, 0) {
                linger.ended(wait, 3);
                tries += 1;
            }
        }
        assert_eq!(tries, 10);
        let wait = (0..1000).find_map(|_| linger.plan(16, 0)).unwrap();
        linger.ended(wait, 7);
        assert!((0..3).all(|_| linger.plan(16, 0).is_some()));
    }
}
