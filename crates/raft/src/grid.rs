//! When timers ring that need not be exact: all at the same moments.
//!
//! Each group has a timer of its own by which openraft looks at its clock. Left to itself it does so some eight
//! times a second, at a phase drawn by chance. With many groups a node would be woken for each of them apart, and an
//! idle one would do nothing else. So whatever is to happen in [`FAR`] or later happens at the next
//! of the moments that are [`STEP`] apart, on the whole process: it wakes once and looks at all
//! its groups.
//!
//! What it costs: a timer rings up to a step late, and a group that goes by timers notices as much later
//! that its leader is silent (it waits 2.5 to 3 s for one; evidence is what is quick, ADR 19). Elections of
//! one group stay apart by their drawn time-outs, and because the nodes' steps are not in step (those of a
//! test that runs all its nodes in one process are: there such an election may need another turn).
//!
//! What is nearer than [`FAR`] stays exact: openraft gathers what its disk has done for a microsecond.
//! A tick is never that near but by chance. Were more left exact (50 ms once were), the many groups whose phase
//! falls there would each wake the node.
//!
//! A simulated process keeps its own moments: it has few groups, and there every order that might
//! happen shall happen.

use std::sync::OnceLock;
use std::time::Duration;

use tokio::time::Instant;

/// Between two moments at which far timers ring.
const STEP: Duration = Duration::from_millis(300);
/// What is nearer is exact.
const FAR: Duration = Duration::from_millis(1);

/// The first of the moments: when the process first asked.
pub(crate) fn origin(now: Instant) -> Instant {
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
    if deadline.saturating_duration_since(now) < FAR || deadline < origin {
        return deadline;
    }
    let since_us = deadline.saturating_duration_since(origin).as_micros();
    let steps = since_us.div_ceil(STEP.as_micros());
    let rounded = u32::try_from(steps).ok().and_then(|steps| STEP.checked_mul(steps));
    rounded.and_then(|after| origin.checked_add(after)).unwrap_or(deadline).max(deadline)
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(ring(at(5000), at(0), at(9000)), at(5000), "before there were moments");
    }

    #[test]
    fn a_timer_for_ever_is_left_as_it_is() {
        let origin = Instant::now();
        let never = origin + Duration::from_secs(60 * 60 * 24 * 365 * 30);
        let rings = ring(never, origin, origin);
        assert!(rings >= never && rings < never + STEP);
    }
}
