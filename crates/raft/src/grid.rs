//! When timers ring that need not be exact: all at the same moments.
//!
//! Each group has a timer of its own by which openraft looks at its clock, some eight times a second, at a
//! phase drawn by chance. With many groups a node would be woken for each of them apart, and an
//! idle one would do nothing else. So whatever is to happen in [`FAR`] or later happens at the next
//! of the moments that are [`STEP`] apart, on the whole process: it wakes once and looks at all
//! its groups.
//!
//! What it costs: a timer rings up to a step late, and a group that goes by timers notices as much later
//! that its leader is silent (it waits 2.5 to 3 s for one; evidence is what is quick, ADR 19). Elections of
//! one group stay apart by their drawn time-outs, and because the nodes' steps are not in step.
//!
//! What is nearer than [`FAR`] stays exact: openraft gathers what its disk has done for a microsecond.
//! A tick is never that near but by chance. Were more left exact (50 ms once were), the many groups whose phase
//! falls there would each wake the node.
//!
//! [`Ticks`] are for what a node does again and again by itself: they come at moments of that kind, too, so
//! that beats, pings and looks wake it together.
//!
//! A simulated process keeps its own moments: it has few groups, and there every order that might
//! happen shall happen.

use std::sync::OnceLock;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::runtime::is_hosted;

/// Between two moments at which far timers ring.
const STEP: Duration = Duration::from_millis(300);
/// What is nearer is exact.
const FAR: Duration = Duration::from_millis(1);

/// A tick this late has been missed: the next one comes an interval after it, and not before.
const LATE: Duration = Duration::from_millis(5);

/// The first of the moments: when the process first asked.
fn origin(now: Instant) -> Instant {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    *ORIGIN.get_or_init(|| now)
}

/// When a timer that was set for `deadline` rings.
pub(crate) fn ring_at(deadline: Instant) -> Instant {
    let now = Instant::now();
    ring(deadline, now, origin(now))
}

/// The first moment of the grid that starts at `origin` and is not before `deadline`, if that is far.
/// Pure.
fn ring(deadline: Instant, now: Instant, origin: Instant) -> Instant {
    if deadline.saturating_duration_since(now) < FAR {
        return deadline;
    }
    // One before the origin is not far: `now` is never before it.
    let since_us = deadline.saturating_duration_since(origin).as_micros();
    let steps = since_us.div_ceil(STEP.as_micros());
    let rounded = u32::try_from(steps).ok().and_then(|steps| STEP.checked_mul(steps));
    rounded.and_then(|after| origin.checked_add(after)).unwrap_or(deadline).max(deadline)
}

/// Ticks at moments which all share that tick as often, in the whole process.
#[derive(Debug)]
pub struct Ticks {
    every: Duration,
    next: Instant,
}

impl Ticks {
    /// One each interval, the first at once.
    pub fn new(every: Duration) -> Self {
        Self { every, next: Instant::now() }
    }

    /// One each interval, the first after about one.
    pub fn after(every: Duration) -> Self {
        let now = Instant::now();
        Self { every, next: shared(now + every, every) }
    }

    /// Another interval, from the last tick on.
    pub fn set_every(&mut self, every: Duration) {
        if self.every != every {
            *self = Self::after(every);
        }
    }

    /// Waits for the next one. Given up, it is still to come.
    pub async fn tick(&mut self) {
        sleep_until(self.next).await;
        self.next = shared(following(self.next, Instant::now(), self.every), self.every);
    }
}

/// When a tick is due that follows one that was due at `due`, and came at `now`. Pure.
fn following(due: Instant, now: Instant, every: Duration) -> Instant {
    let is_late = now.saturating_duration_since(due) > LATE;
    if is_late { now + every } else { due + every }
}

fn shared(due: Instant, every: Duration) -> Instant {
    if is_hosted() { due } else { nearest(due, every, origin(due)) }
}

/// The moment nearest to `due` of those that are `every` apart, from `origin` on. Pure.
fn nearest(due: Instant, every: Duration, origin: Instant) -> Instant {
    let (since_us, every_us) =
        (due.saturating_duration_since(origin).as_micros(), every.as_micros());
    let intervals = (since_us + every_us / 2).checked_div(every_us).unwrap_or(0);
    let after = u32::try_from(intervals).ok().and_then(|intervals| every.checked_mul(intervals));
    match after.and_then(|after| origin.checked_add(after)) {
        Some(moment) if due > origin => moment,
        _ => due,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_of_one_interval_come_at_the_same_moments_however_they_began_and_were_held_up() {
        let origin = Instant::now();
        let at = |ms: u64| origin + Duration::from_millis(ms);
        let every = Duration::from_millis(250);
        let next = |due: u64, now: u64| nearest(following(at(due), at(now), every), every, origin);
        assert_eq!(next(1000, 1001), at(1250));
        assert_eq!(next(1000, 1005), at(1250), "a little late");
        assert_eq!(next(1000, 1006), at(1250), "missed, and not soon again: 244 ms");
        assert_eq!(next(1000, 1130), at(1500), "370 ms later, not 120");
        assert_eq!(next(1000, 9999), at(10_250), "none is made up for");
        assert_eq!(next(1060, 1060), at(1250), "the first, which came at once");
        assert_eq!(next(1130, 1130), at(1500));
        assert_eq!(nearest(at(0), every, at(10)), at(0), "before the first moment");
        assert_eq!(nearest(at(70), Duration::ZERO, origin), origin, "no interval at all");
    }

    #[tokio::test(start_paused = true)]
    async fn two_that_began_apart_tick_together() {
        let every = Duration::from_millis(250);
        let mut one = Ticks::new(every);
        one.tick().await;
        tokio::time::advance(Duration::from_millis(60)).await;
        let mut other = Ticks::after(every);
        let mut came = Vec::new();
        for _ in 0..3 {
            one.tick().await;
            let at = Instant::now();
            other.tick().await;
            came.push(at.elapsed() < Duration::from_millis(2));
        }
        assert_eq!(came, [true; 3]);
    }

    #[test]
    fn far_timers_ring_together_and_near_ones_when_they_were_set_for() {
        let origin = Instant::now();
        let at = |us: u64| origin + Duration::from_micros(us);
        let now = at(1_230_000);
        let rings = |us| ring(at(us), now, origin);
        assert_eq!(rings(1_230_001), at(1_230_001), "near");
        assert_eq!(rings(1_230_999), at(1_230_999), "just not far");
        assert_eq!(rings(1_231_000), at(1_500_000));
        assert_eq!(rings(1_500_000), at(1_500_000), "one of the moments");
        assert_eq!(rings(1_500_001), at(1_800_000));
        assert_eq!(rings(1_352_000), rings(1_499_000), "two groups, one wake-up");
        assert_eq!(rings(900_000), at(900_000), "over: at once");
    }

    #[test]
    fn a_timer_for_ever_is_left_as_it_is() {
        let origin = Instant::now();
        let never = origin + Duration::from_secs(60 * 60 * 24 * 365 * 30);
        let rings = ring(never, origin, origin);
        assert!(rings >= never && rings < never + STEP);
    }
}
