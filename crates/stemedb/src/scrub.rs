//! Reads everything this node keeps, again and again, before somebody needs it.
//!
//! A byte that went bad on a disk is noticed when it is read, and what nobody reads for months is
//! noticed when the other copies are gone too. So within each period every sealed segment of the
//! log and every row of every group is read from the disk once and checked. What
//! does not check is reported like damage found by a read ([`crate::damage`]): the group is set
//! aside, the others go on.
//!
//! One pass is a list of units: the log, then each group that is open, then what else the store holds
//! (which generations live, and rows of groups and generations that nobody has open). They are spread evenly over
//! the period, from a random one on, so that a node that never lives for a whole period covers all
//! of them in time. Within a unit the rate is bounded: fast enough not to hold a unit open for
//! hours, slow enough to leave the disk to others. A pass that can't keep up with both takes longer than its period.
//!
//! Left out: what RocksDB holds in memory, the segment being written, and replicas that are set
//! aside already.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use rand::RngExt;
use stemedb_engine::{Error as StoreError, scrub_rest};
use stemedb_raft::wal::{Damage as LogDamage, StreamId};
use stemedb_raft::{Damage, Group, Part};
use stemedb_types::{GroupId, ReplicaId};
use tokio::time::Instant;

use crate::core::{Core, now_ms};
use crate::damage::{Finding, part_name};

/// A unit is read no slower than this: its files stay open for so long.
const RATE_MIN_BYTES_PER_S: u64 = 1 << 20;
/// Nor faster than this.
const RATE_MAX_BYTES_PER_S: u64 = 32 << 20;
/// The longest a node that just started waits before its first pass.
const START_DELAY_MAX: Duration = Duration::from_secs(60);
/// A rest shorter than this is taken together with the next.
const REST_MIN: Duration = Duration::from_millis(5);

/// When the units of a pass begin, and how fast each is read. Pure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Plan {
    period: Duration,
    units: u32,
    rate_bytes_per_s: u64,
}

impl Plan {
    /// The plan for so many units that hold `bytes` together.
    fn new(period: Duration, units: usize, bytes: u64) -> Self {
        let units = u32::try_from(units).unwrap_or(u32::MAX).max(1);
        // Half of the period for reading: the other half is slack for a busy disk.
        let even = u128::from(bytes) * 2000 / period.as_millis().max(1);
        let rate = u64::try_from(even).unwrap_or(u64::MAX);
        let rate_bytes_per_s = rate.clamp(RATE_MIN_BYTES_PER_S, RATE_MAX_BYTES_PER_S);
        Self { period, units, rate_bytes_per_s }
    }

    /// When a unit is due, since the pass began. The one behind the last is the next pass.
    fn due(&self, unit: usize) -> Duration {
        let unit = u32::try_from(unit).unwrap_or(u32::MAX).min(self.units);
        Duration::from_millis(
            u64::try_from(self.period.as_millis() * u128::from(unit) / u128::from(self.units))
                .unwrap_or(u64::MAX),
        )
    }

    /// How long to rest, once so many bytes of a unit are read in so long.
    fn rest(&self, bytes: u64, elapsed: Duration) -> Duration {
        let wanted_ms = u128::from(bytes) * 1000 / u128::from(self.rate_bytes_per_s);
        let wanted = Duration::from_millis(u64::try_from(wanted_ms).unwrap_or(u64::MAX));
        let rest = wanted.saturating_sub(elapsed);
        if rest < REST_MIN { Duration::ZERO } else { rest }
    }
}

/// Something to read.
#[derive(Clone, Copy, Debug)]
enum Unit {
    Log,
    Group(GroupId),
    /// What is in the store and none of the open groups'.
    Rest,
}

/// Damage that was reported already, so that each pass does not count it anew.
type Seen = BTreeSet<(String, u64)>;

/// Scrubs, on a thread of its own, until the node stops. A period of zero: never.
pub(crate) fn start(core: &Arc<Core>, period: Duration) {
    if period.is_zero() {
        return;
    }
    let (alive, ended) = channel();
    let stop = core.stop.clone();
    core.tasks.spawn(async move {
        stop.cancelled().await;
        // Wakes the thread, wherever it rests.
        drop::<Sender<()>>(alive);
    });
    let scrubbed = core.clone();
    core.tasks.spawn_blocking(move || scrub(&scrubbed, &ended, period));
}

fn scrub(core: &Arc<Core>, ended: &Receiver<()>, period: Duration) {
    let mut walk = Walk { core, ended, seen: Seen::new() };
    if walk.wait((period / 10).min(START_DELAY_MAX)).is_break() {
        return;
    }
    while walk.pass(period).is_continue() {}
}

struct Walk<'c> {
    core: &'c Arc<Core>,
    /// Hears when the node stops.
    ended: &'c Receiver<()>,
    seen: Seen,
}

impl Walk<'_> {
    /// Reads everything once, and waits for the next time.
    fn pass(&mut self, period: Duration) -> ControlFlow<()> {
        let core = self.core;
        let groups = core.groups.all().into_iter().map(|group| Unit::Group(group.id()));
        let mut units: Vec<Unit> = [Unit::Log, Unit::Rest].into_iter().chain(groups).collect();
        let first = rand::rng().random_range(0..units.len());
        units.rotate_left(first);
        let bytes = core.store.disk_bytes().saturating_add(core.wal.stats().bytes);
        let (plan, begun) = (Plan::new(period, units.len(), bytes), Instant::now());
        let count = units.len();
        for (number, unit) in units.into_iter().enumerate() {
            self.wait(plan.due(number).saturating_sub(begun.elapsed()))?;
            match unit {
                Unit::Log => self.log(plan)?,
                Unit::Rest => self.rest(plan)?,
                // One that was closed meanwhile is not read.
                Unit::Group(id) => {
                    if let Some(group) = core.groups.get(id) {
                        self.group(plan, &group)?;
                    }
                }
            }
        }
        metrics::gauge!("stemedb_scrub_last_pass_timestamp_seconds").set(now_ms() as f64 / 1000.0);
        tracing::info!(seconds = begun.elapsed().as_secs(), "everything on disk was read once");
        self.wait(plan.due(count).saturating_sub(begun.elapsed()))
    }

    /// Waits, unless the node stops.
    fn wait(&self, rest: Duration) -> ControlFlow<()> {
        match self.ended.recv_timeout(rest) {
            Err(RecvTimeoutError::Timeout) => ControlFlow::Continue(()),
            Ok(()) | Err(RecvTimeoutError::Disconnected) => ControlFlow::Break(()),
        }
    }

    /// Reads something at the plan's pace; what is read is counted.
    fn paced<T>(
        &self,
        plan: Plan,
        part: &'static str,
        read: impl FnOnce(&mut dyn FnMut(u64) -> ControlFlow<()>) -> T,
    ) -> T {
        let (begun, mut done) = (Instant::now(), 0u64);
        let counter = metrics::counter!("stemedb_scrub_bytes_total", "kind" => part);
        read(&mut |bytes| {
            counter.increment(bytes);
            done = done.saturating_add(bytes);
            self.wait(plan.rest(done, begun.elapsed()))
        })
    }

    fn log(&mut self, plan: Plan) -> ControlFlow<()> {
        let wal = self.core.wal.clone();
        match self.paced(plan, "log", |pace| wal.scrub(pace)) {
            Ok(damage) => damage.iter().for_each(|damage| self.log_damage(damage)),
            Err(error) => tracing::warn!(%error, "the log can't be scrubbed now"),
        }
        self.wait(Duration::ZERO)
    }

    fn log_damage(&mut self, damage: &LogDamage) {
        let place = (damage.file.clone(), damage.offset);
        if self.seen.contains(&place) {
            return;
        }
        let LogDamage { file, offset, reason, streams, .. } = damage;
        let cause = format!("{file} at offset {offset}: {reason}");
        let held: Vec<Group> = self.core.groups.all();
        let hit = |stream: &StreamId| {
            held.iter().find(|group| group.replica() == ReplicaId(stream.0)).cloned()
        };
        let hit: Vec<Group> = streams.iter().filter_map(hit).collect();
        if hit.is_empty() {
            // It held nothing that a replica of this node still needs.
            tracing::warn!(cause, "damaged bytes in the log that nobody needs any more");
        }
        // Judged before anything is done about it. What nobody took is said again by the next pass.
        let mut taken = true;
        for group in hit {
            taken &= self.report(&group, Part::Log, cause.clone());
        }
        if taken {
            self.seen.insert(place);
        }
    }

    fn group(&mut self, plan: Plan, group: &Group) -> ControlFlow<()> {
        let rows = group.applied().store();
        match self.paced(plan, "store", |pace| rows.scrub(pace)) {
            Ok(_) => {}
            Err(error @ StoreError::Corrupt { .. }) => {
                self.report(group, Part::Store, error.to_string());
            }
            Err(error) => {
                tracing::warn!(group = %group.id(), %error, "a group can't be scrubbed now");
            }
        }
        self.wait(Duration::ZERO)
    }

    fn rest(&mut self, plan: Plan) -> ControlFlow<()> {
        let open = self.core.groups.all();
        let open: Vec<_> = open.iter().map(|group| group.applied().store()).collect();
        let store = self.core.store.as_ref();
        match self.paced(plan, "store", |pace| scrub_rest(store, open, pace)) {
            Ok(_) => {}
            Err(error @ StoreError::Corrupt { .. }) => {
                let cause = error.to_string();
                // No replica loses a row by it now: nobody is set aside. But what the next start
                // needs may be among it, and a compaction stops at it.
                tracing::error!(cause, "bytes of the store that no open group holds are damaged");
                if self.seen.insert((cause, 0)) {
                    let part = part_name(Part::Store);
                    metrics::counter!("stemedb_corruption_detected_total", "kind" => part)
                        .increment(1);
                }
            }
            Err(error) => tracing::warn!(%error, "the rest of the store can't be scrubbed now"),
        }
        self.wait(Duration::ZERO)
    }

    fn report(&self, group: &Group, part: Part, cause: String) -> bool {
        let damage = Damage { part, cause };
        let (group, replica) = (group.id(), group.replica());
        self.core.findings.report(Finding { group, replica, damage })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn units_are_due_evenly_over_the_period_and_the_next_pass_is_due_at_its_end() {
        let plan = Plan::new(24 * HOUR, 6, 0);
        let due: Vec<_> = (0..8).map(|unit| plan.due(unit).as_secs() / 3600).collect();
        assert_eq!(due, [0, 4, 8, 12, 16, 20, 24, 24]);
        assert_eq!(Plan::new(HOUR, 0, 0).due(0), Duration::ZERO);
    }

    #[test]
    fn the_rate_fits_the_period_within_its_bounds() {
        let rate = |period, bytes| Plan::new(period, 4, bytes).rate_bytes_per_s;
        assert_eq!(rate(24 * HOUR, 10 << 30), RATE_MIN_BYTES_PER_S, "a little is read in bursts");
        assert_eq!(rate(HOUR, 3600 * (4 << 20)), 8 << 20, "half of the period for it all");
        assert_eq!(rate(HOUR, 1 << 50), RATE_MAX_BYTES_PER_S, "more than the period can hold");
        assert_eq!(rate(Duration::from_millis(1), u64::MAX), RATE_MAX_BYTES_PER_S);
    }

    #[test]
    fn a_reader_rests_as_long_as_its_bytes_should_have_taken() {
        let plan = Plan::new(HOUR, 1, 0);
        let second = Duration::from_secs(1);
        assert_eq!(plan.rest(RATE_MIN_BYTES_PER_S, Duration::ZERO), second);
        assert_eq!(plan.rest(RATE_MIN_BYTES_PER_S, second / 4), second * 3 / 4);
        assert_eq!(plan.rest(RATE_MIN_BYTES_PER_S, 2 * second), Duration::ZERO, "it is slow");
        assert_eq!(plan.rest(1024, Duration::ZERO), Duration::ZERO, "too short to lie down");
    }
}
