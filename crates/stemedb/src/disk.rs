//! Free bytes in, level out: what a node's volumes can still take. Pure.
//!
//! Each volume has two marks. Below its *reserve* it is full: what clients want
//! written is refused, deletes go on. Below its *floor*, half of the reserve, it
//! is spent: deletes are refused as well, and a follower takes no entries. What is
//! left then is for the votes, the purges and the flush that may give space back.
//! On the way up each mark counts only with a quarter of the reserve above it, so
//! that a volume at a mark does not flutter.
//!
//! A group can take what a majority of its voters can. One full follower stops
//! nothing; it takes entries until its floor, and is left behind then.
//!
//! How far the nearest mark is decides how soon the volumes are looked at again.

use std::time::Duration;

use stemedb_machine::shard::Write;
use stemedb_raft::Level;

/// A volume of 20 GiB or more keeps this much back, unless a setting says otherwise.
const RESERVE_BYTES_MAX: u64 = 1 << 30;
/// A smaller one keeps this part of itself back: a twentieth.
const RESERVE_PART: u64 = 20;

/// What a peer said of its disks is believed for this long. It says it again each
/// [`TELL_INTERVAL`] while there is anything to say, so silence means: all is well, or it is gone.
pub(crate) const BELIEVED_FOR: Duration = Duration::from_secs(3);
/// Between two messages of a node whose disks are not open.
pub(crate) const TELL_INTERVAL: Duration = Duration::from_secs(1);

/// Between two looks at a volume that is near a mark. The reserve is at least what this node writes
/// meanwhile: half of it, from the mark of a full volume to that of a spent one, is gone sooner than one
/// may think (8 MiB in 200 ms, seen).
pub(crate) const LOOK_INTERVAL_NEAR: Duration = Duration::from_millis(50);
/// The same, far from all marks. A disk that fails stops the log's writer and the replicas it hit at once; the
/// first of those to stop has the disks looked at, and does not wait for this.
const LOOK_INTERVAL_FAR: Duration = Duration::from_millis(500);
/// With more room than this a mark is far: this node does not write as much between two looks. Another
/// program may, at one stroke; that was too quick for any interval, and is what the reserve is for.
const NEAR_BYTES: u64 = 512 << 20;

/// Where a volume counts as full and as spent, in free bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Marks {
    pub(crate) reserve_bytes: u64,
    pub(crate) floor_bytes: u64,
}

impl Marks {
    /// The marks of a volume of this size. `least_bytes` is what the volume's user may write
    /// between two looks, and is never gone below.
    pub(crate) fn new(volume_bytes: u64, setting_bytes: Option<u64>, least_bytes: u64) -> Self {
        let usual = (volume_bytes / RESERVE_PART).min(RESERVE_BYTES_MAX);
        let reserve_bytes = setting_bytes.unwrap_or(usual).max(least_bytes);
        Self { reserve_bytes, floor_bytes: reserve_bytes / 2 }
    }

    /// The level of a volume that was at `before` and now has this much free.
    pub(crate) fn level(&self, before: Level, free_bytes: u64) -> Level {
        let slack = self.reserve_bytes / 4;
        let full_below = self.reserve_bytes + if before >= Level::Full { slack } else { 0 };
        let spent_below = self.floor_bytes + if before == Level::Spent { slack } else { 0 };
        match free_bytes {
            free if free < spent_below => Level::Spent,
            free if free < full_below => Level::Full,
            _ => Level::Open,
        }
    }

    /// What may be written to a volume at a level before that level changes for the worse; nothing
    /// where it is bad already: that it gets better is to be seen soon, too.
    pub(crate) fn room_bytes(&self, level: Level, free_bytes: u64) -> u64 {
        match level {
            Level::Open => free_bytes.saturating_sub(self.reserve_bytes),
            Level::Full | Level::Spent => 0,
        }
    }
}

/// How long until the next look where so much may be written before there is anything to see. An idle
/// node with room would otherwise do little else than look.
pub(crate) fn next_look(room_bytes: u64) -> Duration {
    if room_bytes < NEAR_BYTES { LOOK_INTERVAL_NEAR } else { LOOK_INTERVAL_FAR }
}

/// What a majority of voters can take; each is at the level given.
pub(crate) fn of_a_majority(levels: impl IntoIterator<Item = Level>) -> Level {
    let mut levels: Vec<Level> = levels.into_iter().collect();
    levels.sort_unstable();
    // The best levels first: the last of the first majority is what all of it can take.
    levels.get(levels.len() / 2).copied().unwrap_or_default()
}

/// Whether a write is let in at a level.
pub(crate) fn lets_in(level: Level, write: &Write) -> bool {
    let worst = match write {
        // What makes room, sooner or later.
        Write::Delete { .. }
        | Write::Expire { .. }
        | Write::Compact { .. }
        | Write::Jump { .. }
        | Write::Base { .. } => Level::Full,
        Write::Put { .. } | Write::Assert { .. } | Write::Touch { .. } => Level::Open,
    };
    level <= worst
}

/// The live bytes of a log but for those that nothing makes fewer: the entries of quarantined
/// streams. The log counts both together, so they are told apart by time: what has been there ever
/// since the same streams are quarantined counts as theirs. At first that is too much by what the
/// others had there, until the log is cut behind a flush.
#[derive(Debug, Default)]
pub(crate) struct Living {
    quarantined: usize,
    least_bytes: u64,
}

impl Living {
    /// The bytes, from what the log says of all and how many of its streams are quarantined.
    pub(crate) fn bytes(&mut self, live_bytes: u64, quarantined: usize) -> u64 {
        if quarantined == 0 {
            *self = Self::default();
            return live_bytes;
        }
        if self.quarantined != quarantined {
            *self = Self { quarantined, least_bytes: live_bytes };
        }
        self.least_bytes = self.least_bytes.min(live_bytes);
        live_bytes - self.least_bytes
    }
}

/// Whether a log of this many live bytes may not grow for now. It may again once a sixteenth of
/// `stop_bytes` has gone.
pub(crate) fn holds_up(before: bool, live_bytes: u64, stop_bytes: u64) -> bool {
    let slack = if before { stop_bytes / 16 } else { 0 };
    live_bytes >= stop_bytes - slack
}

#[cfg(test)]
mod tests {
    use super::*;
    use Level::{Full, Open, Spent};

    const GIB: u64 = 1 << 30;
    const MIB: u64 = 1 << 20;

    #[test]
    fn a_reserve_is_a_twentieth_at_most_a_gib_and_never_less_than_is_needed() {
        let reserve = |volume, setting, least| Marks::new(volume, setting, least).reserve_bytes;
        assert_eq!(reserve(20 * GIB, None, 128 * MIB), GIB);
        assert_eq!(reserve(50 * GIB, None, 128 * MIB), GIB);
        assert_eq!(reserve(4000 * GIB, None, 128 * MIB), GIB);
        assert_eq!(reserve(5 * GIB, None, 128 * MIB), 256 * MIB);
        assert_eq!(reserve(200 * MIB, None, 2 * MIB), 10 * MIB);
        assert_eq!(reserve(200 * MIB, None, 128 * MIB), 128 * MIB, "what is needed is needed");
        assert_eq!(reserve(50 * GIB, Some(5 * GIB), 128 * MIB), 5 * GIB);
        assert_eq!(reserve(50 * GIB, Some(1), 128 * MIB), 128 * MIB);
        assert_eq!(Marks::new(0, Some(100), 0), Marks { reserve_bytes: 100, floor_bytes: 50 });
    }

    #[test]
    fn a_volume_fills_at_its_marks_and_recovers_a_quarter_above_them() {
        let marks = Marks { reserve_bytes: 100, floor_bytes: 50 };
        for (before, free, after) in [
            (Open, 1000, Open),
            (Open, 100, Open),
            (Open, 99, Full),
            (Open, 50, Full),
            (Open, 49, Spent),
            (Open, 0, Spent),
            (Full, 99, Full),
            (Full, 124, Full),
            (Full, 125, Open),
            (Full, 50, Full),
            (Full, 49, Spent),
            (Spent, 50, Spent),
            (Spent, 74, Spent),
            (Spent, 75, Full),
            (Spent, 124, Full),
            (Spent, 125, Open),
        ] {
            assert_eq!(marks.level(before, free), after, "from {before:?} with {free} free");
        }
    }

    #[test]
    fn a_volume_is_looked_at_before_it_can_be_at_its_mark() {
        let marks = Marks { reserve_bytes: 100 * MIB, floor_bytes: 50 * MIB };
        let look_ms =
            |level, free_mib| next_look(marks.room_bytes(level, free_mib * MIB)).as_millis();
        for (free_mib, ms) in [(0, 50), (100, 50), (611, 50), (612, 500), (9999, 500)] {
            assert_eq!(look_ms(Open, free_mib), ms, "{free_mib} MiB free");
        }
        // Nearly two intervals may pass after one that came late: 500 MB in a second are no harm.
        assert!(u128::from(NEAR_BYTES / 500_000) >= 2 * LOOK_INTERVAL_FAR.as_millis());
        assert_eq!(look_ms(Full, 110), 50, "full: any file that goes may open it again");
        assert_eq!(look_ms(Spent, 9999), 50, "just freed");
    }

    #[test]
    fn what_a_quarantined_stream_keeps_does_not_make_a_log_long() {
        let mut living = Living::default();
        assert_eq!(living.bytes(300, 0), 300);
        assert_eq!(living.bytes(300, 1), 0, "at first all counts as its own");
        assert_eq!(living.bytes(450, 1), 150);
        assert_eq!(living.bytes(260, 1), 0, "the others were cut");
        assert_eq!(living.bytes(450, 1), 190);
        assert_eq!(living.bytes(450, 2), 0, "another one");
        assert_eq!(living.bytes(500, 2), 50);
        assert_eq!(living.bytes(500, 0), 500);
    }

    #[test]
    fn a_log_at_its_bound_stops_growing_until_some_of_it_has_gone() {
        for (before, live, held_up) in [
            (false, 1599, false),
            (false, 1600, true),
            (true, 1500, true),
            (true, 1499, false),
            (false, 1500, false),
        ] {
            assert_eq!(holds_up(before, live, 1600), held_up, "{before} {live}");
        }
    }

    #[test]
    fn a_group_takes_what_a_majority_of_its_voters_takes() {
        for (levels, together) in [
            (vec![], Open),
            (vec![Open], Open),
            (vec![Full], Full),
            (vec![Spent], Spent),
            (vec![Open, Full], Full),
            (vec![Open, Open, Spent], Open),
            (vec![Full, Open, Open], Open),
            (vec![Full, Open, Full], Full),
            (vec![Spent, Open, Full], Full),
            (vec![Spent, Open, Spent], Spent),
            (vec![Open, Open, Full, Spent], Full),
            (vec![Open, Spent, Open, Spent, Open], Open),
            (vec![Full, Spent, Open, Spent, Open], Full),
        ] {
            assert_eq!(of_a_majority(levels.clone()), together, "{levels:?}");
        }
    }
}
