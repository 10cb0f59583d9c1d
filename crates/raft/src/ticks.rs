//! What a node does again and again by itself, at moments it shares.
//!
//! A node beats, pings and looks around. With a clock of its own for each, an idle node would be woken for each.
//! So whatever comes once an interval comes at whole numbers of intervals from one moment on, the same for the
//! whole process ([`crate::grid`]): ticks of one interval come together, and those of twice that with every other.
//!
//! A tick that comes late has been missed: the next is the first of the moments that leaves nearly an interval
//! behind it, so that nobody is asked twice in a row, and none is made up for.
//!
//! What it costs: after a late tick the next may be nearly two intervals away. A simulated process goes by
//! intervals alone, as tokio's own do.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::grid::origin;
use crate::runtime::is_hosted;

/// A tick this late has been missed.
const LATE: Duration = Duration::from_millis(5);
/// The shortest interval there is.
const EVERY_MIN: Duration = Duration::from_millis(1);

/// Ticks at moments which all share that tick as often, in the whole process.
#[derive(Debug)]
pub struct Ticks {
    every: Duration,
    next: Instant,
}

impl Ticks {
    /// One each interval, the first at once.
    pub fn new(every: Duration) -> Self {
        Self { every: every.max(EVERY_MIN), next: Instant::now() }
    }

    /// One each interval, and none at once.
    pub fn after(every: Duration) -> Self {
        let (now, every) = (Instant::now(), every.max(EVERY_MIN));
        Self { every, next: following(now, now, every) }
    }

    /// Ticks by another interval, the first nearly one from now. The same one changes nothing.
    pub fn set_every(&mut self, every: Duration) {
        if self.every != every {
            *self = Self::after(every);
        }
    }

    /// Waits for the next one, and says when it was due: it may come late. Given up, it is still to come.
    pub async fn tick(&mut self) -> Instant {
        let due = self.next;
        sleep_until(due).await;
        self.next = following(due, Instant::now(), self.every);
        due
    }
}

fn following(due: Instant, now: Instant, every: Duration) -> Instant {
    if is_hosted() { alone(due, now, every) } else { shared(due, now, every, origin(now)) }
}

/// When a tick is due that follows one that was due at `due`, and came at `now`. Pure.
fn alone(due: Instant, now: Instant, every: Duration) -> Instant {
    let is_late = now.saturating_duration_since(due) > LATE;
    if is_late { now + every } else { due + every }
}

/// The same, of the moments that are `every` apart from `origin` on: the first behind five sixths of an
/// interval. Pure.
fn shared(due: Instant, now: Instant, every: Duration, origin: Instant) -> Instant {
    let least = alone(due, now, every) - every / 6;
    if least < origin {
        return least;
    }
    let since_ns = (least - origin).as_nanos();
    let intervals = u32::try_from(since_ns.div_ceil(every.as_nanos())).ok();
    let moment = intervals.and_then(|n| every.checked_mul(n)).and_then(|n| origin.checked_add(n));
    moment.unwrap_or(least)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_millis(250);

    #[test]
    fn ticks_come_at_shared_moments_however_they_began_and_were_held_up() {
        let origin = Instant::now();
        let at = |ms: u64| origin + Duration::from_millis(ms);
        let next = |due, now| (shared(at(due), at(now), EVERY, origin) - origin).as_millis();
        for (due, now, then) in [
            (1000, 1001, 1250),
            (1000, 1005, 1250),
            (1000, 1041, 1250),
            // 208 ms are nearly an interval, less is not.
            (1000, 1042, 1500),
            (1000, 1120, 1500),
            (1000, 1249, 1500),
            (1000, 9999, 10_250),
            // The first, which came at once.
            (1060, 1060, 1500),
            (1041, 1041, 1250),
        ] {
            assert_eq!(next(due, now), then, "due {due}, came {now}");
        }
        let later = shared(at(0), at(0), EVERY, at(9000));
        assert!(later >= at(208) && later <= at(250), "before the first of the moments");
    }

    #[tokio::test(start_paused = true)]
    async fn two_that_began_apart_tick_together_and_what_is_given_up_is_still_to_come() {
        let mut one = Ticks::new(EVERY);
        one.tick().await;
        tokio::time::advance(Duration::from_millis(60)).await;
        let mut other = Ticks::after(EVERY);
        let (first, second) = (one.tick().await, other.tick().await);
        assert_eq!((second - first).as_millis(), EVERY.as_millis(), "nearly one after it began");
        assert_eq!(one.tick().await, second);
        assert!(tokio::time::timeout(EVERY / 3, other.tick()).await.is_err(), "given up");
        assert_eq!(other.tick().await, one.tick().await);
    }

    #[tokio::test(start_paused = true)]
    async fn another_interval_counts_from_when_it_is_set() {
        let begun = Instant::now();
        let mut ticks = Ticks::new(EVERY * 2);
        ticks.tick().await;
        ticks.set_every(EVERY / 5);
        ticks.tick().await;
        assert!(begun.elapsed() < EVERY / 2);
        ticks.set_every(EVERY / 5);
        ticks.tick().await;
        assert!(begun.elapsed() < EVERY / 2);
    }
}
