//! Heartbeats of all groups of a node, together.
//!
//! A leader tells its followers every [`crate::GroupOptions::heartbeat_interval_ms`] that it is there. Left to
//! themselves, groups do so each at a moment of its own: with many idle groups a node then wakes,
//! writes to a socket and is woken by an answer all the time. So openraft's own beat is off, and
//! one task per node gives it, to all groups led here at once: what they say to one peer leaves in
//! one frame, is taken in at one wake-up, and is answered in one frame. A follower that was sent entries within
//! the last interval is not sent a heartbeat (openraft's `heartbeat_min_interval`).
//!
//! What it costs: a burst every interval, of one small message for each group and follower. Read-index
//! rounds are openraft's own and wait for no beat.

use std::sync::{PoisonError, Weak};
use std::time::Duration;

use futures_util::future::join_all;

use crate::groups::Open;
use crate::ticks::Ticks;

/// Beats for as long as the groups are there.
pub(crate) async fn beat(open: Weak<Open>, every: Duration) {
    // As a rule with the groups' own timers: one wake-up for both.
    let mut ticks = Ticks::after(every);
    loop {
        ticks.tick().await;
        let Some(open) = open.upgrade() else { return };
        let leading: Vec<_> = {
            let open = open.read().unwrap_or_else(PoisonError::into_inner);
            open.values().filter(|group| group.leading_term().is_some()).cloned().collect()
        };
        drop(open);
        join_all(leading.iter().map(|group| group.beat())).await;
    }
}
