//! How long to wait before the next dial; pure.

use std::time::Duration;

/// Doubles from `min` to `max`; each wait is somewhere in the upper half of its step, so that
/// peers that lost the same node don't come back in one wave.
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    step: Duration,
}

impl Backoff {
    /// At its first step.
    pub(crate) fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, step: min }
    }

    /// A dial succeeded.
    pub(crate) fn reset(&mut self) {
        self.step = self.min;
    }

    /// The next wait; `roll` is any number.
    pub(crate) fn wait(&mut self, roll: u16) -> Duration {
        let half = self.step / 2;
        self.step = (self.step * 2).min(self.max);
        half + half * u32::from(roll) / u32::from(u16::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_bound_and_start_again_after_success() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(50), ms(1000));
        let longest: Vec<Duration> = (0..7).map(|_| backoff.wait(u16::MAX)).collect();
        assert_eq!(longest, [50, 100, 200, 400, 800, 1000, 1000].map(ms));
        assert_eq!(backoff.wait(0), ms(500));
        backoff.reset();
        assert_eq!(backoff.wait(0), ms(25));
    }
}
