//! How fast snapshots may leave a node, all of them together.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A rate that several share: each takes its turn, and waits until it has come.
///
/// Nothing is saved up: whoever paused for a while sends no faster afterwards.
#[derive(Debug, Default)]
pub struct Throttle {
    /// When the next may begin.
    next: Mutex<Option<Instant>>,
}

impl Throttle {
    /// Takes the turn of so many bytes. Returns how long to wait before the next; zero without a
    /// limit (`bytes_per_second` 0).
    pub fn take(&self, now: Instant, bytes: usize, bytes_per_second: u64) -> Duration {
        if bytes_per_second == 0 {
            return Duration::ZERO;
        }
        let takes = Duration::from_secs_f64(bytes as f64 / bytes_per_second as f64);
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let over = next.map_or(now, |next| next.max(now)) + takes;
        *next = Some(over);
        over - now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_that_share_a_rate_get_half_of_it_each_and_nothing_is_saved_up() {
        let throttle = Throttle::default();
        let start = Instant::now();
        let ms = Duration::from_millis;
        assert_eq!(throttle.take(start, 100, 1000), ms(100));
        assert_eq!(throttle.take(start, 100, 1000), ms(200), "the other waits for both");
        assert_eq!(throttle.take(start + ms(150), 100, 1000), ms(150));
        assert_eq!(throttle.take(start + ms(9000), 100, 1000), ms(100), "the pause is forgotten");
        assert_eq!(throttle.take(start, 1 << 40, 0), Duration::ZERO, "no limit");
    }
}
