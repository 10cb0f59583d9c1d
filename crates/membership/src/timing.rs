//! How fast the protocol runs, and foca's configuration made of it.
//!
//! One number sets the tempo: the probe period. Everything periodic in foca's LAN preset, which
//! is made for a period of one second, scales with it. What depends on the cluster's size (how
//! often a change is passed on, how long a suspect may defend itself) is computed for the size
//! rounded up to a power of two, so that it changes rarely and never flaps.

use std::num::{NonZeroU8, NonZeroU32, NonZeroUsize};
use std::time::Duration;

use foca::{Config, PeriodicParams};

use crate::Error;
use crate::join::Pace;
use crate::wire::SWIM_BYTES_MAX;

/// How long a member stays in the list after it went down. foca keeps a wake-up for each, so this
/// bounds memory too; no incarnation is ever used twice, so forgetting costs nothing.
const DOWN_KEPT: Duration = Duration::from_secs(3600);

/// The fewest times a change is passed on: the preset's formula gives 1 for a pair and 2 for a
/// trio, where one lost packet would be one lost piece of news.
const TRANSMISSIONS_MIN: NonZeroU8 = NonZeroU8::new(5).unwrap();

/// The smallest cluster the configuration is computed for.
const SIZE_MIN: u32 = 4;

/// The tempo. The default suits nodes of one data centre: a dead node is `Suspect` within a
/// probe period times the number of members, and `Down` four seconds later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// One member is probed in each period (1 s). Other periods scale with it.
    pub probe_period: Duration,
    /// How long a direct answer may take before others are asked to probe too (500 ms). Less than
    /// the period.
    pub probe_rtt: Duration,
    /// Between rounds through the join list while no other member is alive (1 s).
    pub join_alone: Duration,
    /// Between rounds for ever after (30 s).
    pub join_joined: Duration,
    /// Between two announcements of what this node is, if nothing calls for one (45 s): what was
    /// lost on the way is known then.
    pub reannounce: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            probe_period: Duration::from_secs(1),
            probe_rtt: Duration::from_millis(500),
            join_alone: Duration::from_secs(1),
            join_joined: Duration::from_secs(30),
            reannounce: Duration::from_secs(45),
        }
    }
}

impl Timing {
    /// Refuses what foca could not run with, and pauses that would spin.
    pub(crate) fn validate(&self) -> Result<(), Error> {
        let waits = [self.probe_rtt, self.join_alone, self.join_joined, self.reannounce];
        if self.probe_rtt >= self.probe_period || waits.iter().any(Duration::is_zero) {
            return Err(Error::Timing { timing: *self });
        }
        Ok(())
    }

    pub(crate) fn pace(&self) -> Pace {
        Pace { alone: self.join_alone, joined: self.join_joined }
    }

    /// foca's configuration for a cluster of `size`, which `planned_size` gave.
    pub(crate) fn config(&self, size: NonZeroU32) -> Config {
        let preset = Config::new_lan(size);
        let tempo = self.probe_period.as_secs_f64();
        let scaled = |params: Option<PeriodicParams>| {
            params.map(|params| PeriodicParams {
                frequency: params.frequency.mul_f64(tempo),
                ..params
            })
        };
        Config {
            probe_period: self.probe_period,
            probe_rtt: self.probe_rtt,
            max_transmissions: preset.max_transmissions.max(TRANSMISSIONS_MIN),
            suspect_to_down_after: preset.suspect_to_down_after.mul_f64(tempo),
            remove_down_after: Some(DOWN_KEPT),
            max_packet_size: NonZeroUsize::new(SWIM_BYTES_MAX).unwrap_or(preset.max_packet_size),
            periodic_announce: scaled(preset.periodic_announce),
            periodic_announce_to_down_members: scaled(preset.periodic_announce_to_down_members),
            periodic_gossip: scaled(preset.periodic_gossip),
            ..preset
        }
    }
}

/// The size to configure for when `active` members (ourselves included) are there.
pub(crate) fn planned_size(active: usize) -> NonZeroU32 {
    let active = u32::try_from(active).unwrap_or(u32::MAX).max(SIZE_MIN);
    let planned = active.checked_next_power_of_two().unwrap_or(active);
    NonZeroU32::new(planned).unwrap_or(NonZeroU32::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_planned_size_is_a_power_of_two_and_at_least_four() {
        for (active, planned) in [(0, 4), (1, 4), (4, 4), (5, 8), (8, 8), (9, 16), (1000, 1024)] {
            assert_eq!(planned_size(active).get(), planned);
        }
    }

    #[test]
    fn the_default_is_focas_lan_preset_but_for_packet_size_and_small_clusters() {
        let config = Timing::default().config(planned_size(100));
        let preset = Config::new_lan(planned_size(100));
        assert_eq!(config.probe_period, preset.probe_period);
        assert_eq!(config.probe_rtt, preset.probe_rtt);
        assert_eq!(config.suspect_to_down_after, preset.suspect_to_down_after);
        assert_eq!(config.max_transmissions, preset.max_transmissions);
        assert_eq!(config.max_packet_size.get(), 1357);
        assert_eq!(Timing::default().config(planned_size(3)).max_transmissions.get(), 5);
    }

    #[test]
    fn a_shorter_period_quickens_everything_that_is_periodic() {
        let probe_period = Duration::from_millis(100);
        let probe_rtt = Duration::from_millis(40);
        let config =
            Timing { probe_period, probe_rtt, ..Timing::default() }.config(planned_size(3));
        assert_eq!(config.suspect_to_down_after, Duration::from_millis(400));
        let gossip = config.periodic_gossip.map(|params| params.frequency);
        assert_eq!(gossip, Some(Duration::from_millis(20)));
    }

    #[test]
    fn a_probe_must_end_before_the_next_begins_and_no_wait_is_zero() {
        let fine = Timing::default();
        assert!(fine.validate().is_ok());
        let bad = [
            Timing { probe_rtt: fine.probe_period, ..fine },
            Timing { probe_rtt: Duration::ZERO, ..fine },
            Timing { join_alone: Duration::ZERO, ..fine },
            Timing { join_joined: Duration::ZERO, ..fine },
            Timing { reannounce: Duration::ZERO, ..fine },
        ];
        for timing in bad {
            assert!(matches!(timing.validate(), Err(Error::Timing { .. })), "{timing:?}");
        }
    }
}
