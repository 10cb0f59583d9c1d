//! A node's clocks for leases: the simulated time, a little too fast or too slow.
//!
//! Both of a node's clocks drift together, as those of a machine do, and less than the tenth that a lease
//! leaves unused. What its group promises as a follower runs on the true time.

use std::time::Duration;

use stemedb_raft::clock::{Clock, Reading};
use stemedb_types::NodeId;
use tokio::time::Instant;

/// Of a thousand ms a clock shows so many more, by node.
const DRIFTS_PER_MILLE: [i32; 3] = [-80, 0, 80];

/// The clocks of one life of a node.
pub struct DriftingClock {
    begun: Instant,
    per_mille: u32,
}

impl DriftingClock {
    /// The clocks of a node, from now on.
    pub fn of(node: NodeId) -> Self {
        let drift = DRIFTS_PER_MILLE[(node.0 % 3) as usize];
        Self { begun: Instant::now(), per_mille: 1000_u32.saturating_add_signed(drift) }
    }
}

impl Clock for DriftingClock {
    fn now(&self) -> Reading {
        let steady: Duration = self.begun.elapsed() * self.per_mille / 1000;
        Reading { steady, boot: steady }
    }
}
