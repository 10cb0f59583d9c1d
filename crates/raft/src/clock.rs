//! How much time has passed, by two clocks that fail differently.
//!
//! A lease and the age of an answer are promises about time. The steady clock (tokio's, which a test can
//! pause) stands still while the machine sleeps or its guest is frozen; the boot clock goes on there. Either may be
//! told to jump, by a broken hypervisor or on purpose. So both are read together
//! ([`Reading`]), the larger difference counts, and two that disagree prove that neither can be
//! trusted over that stretch (`Reading::agrees_with`). The wall clock is not asked.
//!
//! Where the boot clock can't be read (it is Linux's), the steady one stands for it, and a sleep of the
//! machine is not seen.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

/// The two clocks may come apart by this much between two readings, beside a thousandth of the
/// time in between: they are read one after another, and one may be slewed.
const APART_MAX: Duration = Duration::from_millis(20);

/// Both clocks at one moment, each since some moment of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Stands still while the machine sleeps.
    pub steady: Duration,
    /// Goes on.
    pub boot: Duration,
}

impl Reading {
    /// The most time that either clock saw pass since an earlier reading.
    pub(crate) fn since(&self, earlier: &Reading) -> Duration {
        let steady = self.steady.saturating_sub(earlier.steady);
        steady.max(self.boot.saturating_sub(earlier.boot))
    }

    /// Whether neither clock went back, and both saw the same time pass.
    pub(crate) fn agrees_with(&self, earlier: &Reading) -> bool {
        let steady = self.steady.checked_sub(earlier.steady);
        let boot = self.boot.checked_sub(earlier.boot);
        match (steady, boot) {
            (Some(steady), Some(boot)) => steady.abs_diff(boot) <= APART_MAX + steady / 1000,
            _ => false,
        }
    }

    /// The most time that may have passed by now since the steady clock showed `steady_ago` less,
    /// if that was no earlier than `base`. What the boot clock ran ahead since `base` may all
    /// have been after it.
    pub(crate) fn since_steady(&self, steady_ago: Duration, base: &Reading) -> Option<Duration> {
        let then = self.steady.checked_sub(steady_ago)?;
        let behind_base = then.checked_sub(base.steady)?;
        Some(self.since(&Reading { steady: then, boot: base.boot + behind_base }))
    }
}

/// Where a replica reads its clocks.
pub trait Clock: Send + Sync {
    /// Both of them, now.
    fn now(&self) -> Reading;
}

/// The clocks of the machine.
pub struct SystemClock {
    begun: Instant,
}

impl SystemClock {
    /// Begins to count.
    pub fn new() -> Self {
        Self { begun: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for SystemClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SystemClock")
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Reading {
        let steady = self.begun.elapsed();
        Reading { steady, boot: since_boot().unwrap_or(steady) }
    }
}

#[cfg(target_os = "linux")]
fn since_boot() -> Option<Duration> {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Some(Duration::new(u64::try_from(now.tv_sec).ok()?, u32::try_from(now.tv_nsec).ok()?))
}

#[cfg(not(target_os = "linux"))]
fn since_boot() -> Option<Duration> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(steady_ms: u64, boot_ms: u64) -> Reading {
        Reading { steady: ms(steady_ms), boot: ms(boot_ms) }
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_larger_difference_counts_and_two_that_disagree_are_found() {
        let begun = at(100, 5_000);
        assert_eq!(at(400, 5_300).since(&begun), ms(300));
        assert!(at(400, 5_300).agrees_with(&begun));
        assert!(at(400, 5_310).agrees_with(&begun), "read one after another");
        // The machine slept for a minute.
        assert_eq!(at(400, 65_300).since(&begun), ms(60_300));
        assert!(!at(400, 65_300).agrees_with(&begun));
        // A clock was told to jump, ahead and back.
        assert!(!at(10_400, 5_300).agrees_with(&begun));
        assert!(!at(400, 4_999).agrees_with(&begun));
        assert_eq!(at(400, 4_999).since(&begun), ms(300));
    }

    #[test]
    fn what_a_sleep_may_have_hidden_is_added_to_an_age() {
        let base = at(1_000, 50_000);
        // 200 ms ago by the steady clock, and no sleep since the base.
        assert_eq!(at(3_000, 52_000).since_steady(ms(200), &base), Some(ms(200)));
        // A sleep of a minute since the base: it may have come after that moment.
        assert_eq!(at(3_000, 112_000).since_steady(ms(200), &base), Some(ms(60_200)));
        assert_eq!(at(3_000, 52_000).since_steady(ms(2_500), &base), None, "before the base");
        assert_eq!(at(3_000, 52_000).since_steady(ms(4_000), &base), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_clocks_of_this_machine_go_on() {
        let clock = SystemClock::new();
        let begun = clock.now();
        tokio::time::advance(ms(250)).await;
        assert_eq!(clock.now().steady - begun.steady, ms(250));
        assert!(clock.now().boot >= begun.boot);
    }
}
