//! Watches what sends no events: the log's length, the meta quorum, the gauges.

use std::sync::Arc;
use std::time::Duration;

use stemedb_engine::Health;
use stemedb_raft::wal::StreamId;
use stemedb_raft::{Damage, Leadership, Part, Ticks};
use stemedb_rpc::TurnedAway;
use stemedb_types::{GroupId, NodeId};
use tokio::time::Instant;

use crate::core::{Core, locked};
use crate::damage::{Finding, show_counters};
use crate::entering::is_removed;
use crate::options::Fatal;

/// Between two looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// A log may grow to this many times its bound while a snapshot is on its way.
const PATIENCE_FACTOR: u64 = 3;
/// While a snapshot is being sent, a long log is flushed each time it has grown by so much,
const FLUSH_BYTES: u64 = 16 << 20;
/// or for so long.
const FLUSH_INTERVAL_MAX: Duration = Duration::from_secs(10);
/// Of two living processes under one id the one that is younger than this ends: it is the copy.
const NEWCOMER_FOR: Duration = Duration::from_secs(10);
/// A node that peers turn away for this long, because of a newer life of it, ends. Longer than a copy
/// that has just started takes to end by itself: then this one goes on.
const TURNED_AWAY_MAX: Duration = Duration::from_secs(12);
/// How long the meta quorum has for one answer.
const HEAR_TIMEOUT: Duration = Duration::from_secs(2);

/// Looks around until the node stops.
pub(crate) async fn monitor(core: Arc<Core>) {
    let listening = core.clone();
    core.tasks.spawn(async move {
        tokio::select! {
            () = listening.stop.cancelled() => {}
            () = listen_for_the_meta_quorum(&listening) => {}
        }
    });
    show_counters();
    metrics::gauge!("stemedb_failed").set(0.0);
    let (begun, mut still_long, mut flushed) = (Instant::now(), false, None);
    let mut ticks = Ticks::new(LOOK_INTERVAL);
    loop {
        tokio::select! {
            () = core.stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        show_gauges(&core);
        if begun.elapsed() < NEWCOMER_FOR
            && let Some(why) = core.double_heard()
        {
            core.fail(Fatal::Setting(why));
        }
        if let Some(away) = core.turned_away()
            && away.last - away.since >= TURNED_AWAY_MAX
        {
            core.fail(Fatal::Setting(turned_away_by(core.node, away)));
        }
        save_incarnation(&core);
        if core.quarantine.is_unsaved()
            && let Err(fatal) = core.save_quarantine().await
        {
            core.fail(fatal);
        }
        still_long = shorten_the_log(&core, still_long, &mut flushed).await;
    }
}

/// Looks whether the log has failed, or a group has stopped: neither says so by itself, and what
/// waits for a disk must not keep anybody from hearing it.
pub(crate) fn look_at_the_disk(core: &Core) {
    if let Some(cause) = core.wal.poisoned() {
        core.fail(Fatal::Disk(format!("the log's disk failed: {cause}")));
    }
    let lost = core.wal.quarantined();
    for group in core.groups.all() {
        let stream = StreamId(group.replica().0);
        if let Some((_, cause)) = lost.iter().find(|(lost, _)| *lost == stream) {
            let damage = Damage { part: Part::Log, cause: cause.clone() };
            let (group, replica) = (group.id(), group.replica());
            core.findings.report(Finding { group, replica, damage });
        } else if let Some(damage) = group.damage() {
            let (group, replica) = (group.id(), group.replica());
            core.findings.report(Finding { group, replica, damage });
        } else if let Some(cause) = group.stopped()
            && !core.stop.is_cancelled()
            // One that left or was set aside meanwhile has stopped as it should.
            && core.groups.get(group.id()).is_some_and(|open| open.replica() == group.replica())
        {
            core.fail(Fatal::Disk(format!("group {} has stopped: {cause}", group.id())));
        }
    }
}

/// Asks the meta leader, once in a while, for an index that a quorum confirms, and waits until it
/// is applied here: only then was the quorum heard, and what it has decided is known. (A leader
/// that answers may itself be cut off from the majority.)
async fn listen_for_the_meta_quorum(core: &Core) {
    let mut ticks = Ticks::new(LOOK_INTERVAL);
    loop {
        ticks.tick().await;
        let Some(meta) = core.groups.get(GroupId::META) else { continue };
        // What is confirmed was true when it was asked for, not when the answer came.
        let asked = Instant::now();
        if core.meta_index(&meta, asked + HEAR_TIMEOUT).await.is_some() {
            *locked(&core.meta_heard) = asked;
        } else if core.meta_is_silent()
            && let Some(why) = is_removed(core).await
        {
            return core.end_as_removed(why);
        }
    }
}

/// What a node says that peers turn away.
fn turned_away_by(node: NodeId, away: TurnedAway) -> String {
    format!(
        "duplicate-id: node {} turns this node away, for another process goes by its id, {node}, that \
         started later: its directories are copies of this one's, or the other way round; one of the \
         two has to be stopped",
        away.by
    )
}

impl Core {
    /// That peers turn this node away as the older one of two, if they do now.
    fn turned_away(&self) -> Option<TurnedAway> {
        self.plane().ok()?.turned_away().filter(TurnedAway::is_fresh)
    }

    /// That another process was seen alive under this node's id, if so.
    pub(crate) fn double(&self) -> Option<String> {
        self.double_heard().or_else(|| Some(turned_away_by(self.node, self.turned_away()?)))
    }

    /// That gossip shows one.
    fn double_heard(&self) -> Option<String> {
        let double = self.gossip.as_ref()?.members().borrow().double?;
        Some(format!(
            "duplicate-id: another process goes by the id of this node, {}, at {}: its directories are \
             copies of this one's, or the other way round; one of the two has to be stopped",
            self.node, double.gossip
        ))
    }
}

fn show_gauges(core: &Core) {
    let layout = core.meta.load().layout.clone();
    let mut leaders = 0u32;
    let mut lag = 0;
    for group in core.groups.all() {
        leaders += u32::from(
            group.id() != GroupId::META && *group.leadership().borrow() == Leadership::Here,
        );
        let position = group.position();
        lag += position.committed.unwrap_or(0).saturating_sub(position.applied.unwrap_or(0));
    }
    let status = core.status();
    let leaderless = f64::from(status.shards_leaderless);
    metrics::gauge!("stemedb_shard_leaders").set(leaders);
    metrics::gauge!("stemedb_shards", "state" => "leaderless").set(leaderless);
    metrics::gauge!("stemedb_shards", "state" => "under_replicated")
        .set(f64::from(status.shards_under_replicated));
    metrics::gauge!("stemedb_shards", "state" => "moving").set(f64::from(status.shards_moving));
    metrics::gauge!("stemedb_shards", "state" => "quarantined")
        .set(status.quarantined.iter().filter(|aside| aside.group != GroupId::META).count() as f64);
    metrics::gauge!("stemedb_shards", "state" => "total").set(layout.shards.len() as f64);
    metrics::gauge!("stemedb_layout_epoch").set(layout.epoch as f64);
    metrics::gauge!("stemedb_raft_apply_lag_entries").set(lag as f64);
    metrics::gauge!("stemedb_storage_bytes", "kind" => "store").set(core.store.disk_bytes() as f64);
    metrics::gauge!("stemedb_storage_bytes", "kind" => "log").set(core.wal.stats().bytes as f64);
}

fn save_incarnation(core: &Core) {
    let Some(gossip) = &core.gossip else { return };
    let newest = *gossip.incarnation().borrow();
    let mut identity = core.identity();
    if identity.get().incarnation < newest
        && let Err(error) = identity.update(|id| id.incarnation = newest)
        && !error.is_full()
    {
        drop(identity);
        core.fail(Fatal::Disk(error.to_string()));
    }
}

/// The last flush for a log that is long still.
#[derive(Clone, Copy)]
struct Flushed {
    at: Instant,
    live_bytes: u64,
}

impl Flushed {
    /// Whether another one is worth it while a snapshot that is being sent keeps the log from being
    /// cut: a flush each second would only make small files, to be compacted beside the snapshot.
    fn is_old(self, live_bytes: u64, now: Instant) -> bool {
        let grown_bytes = live_bytes.saturating_sub(self.live_bytes);
        grown_bytes >= FLUSH_BYTES || now.duration_since(self.at) >= FLUSH_INTERVAL_MAX
    }
}

/// Cuts the log behind what the store has. A long log is flushed first, and if it is `still_long`
/// a moment later it gives up what it keeps for followers as well; one that is being sent a
/// snapshot is waited for longer, or it would need the next one when it has this. Returns
/// whether the log is long.
async fn shorten_the_log(
    core: &Arc<Core>,
    still_long: bool,
    flushed: &mut Option<Flushed>,
) -> bool {
    let live_bytes = core.living_log_bytes();
    let long = live_bytes >= core.live_log_bytes_max;
    let groups = core.groups.all();
    if !long {
        *flushed = None;
    }
    let pinned = groups.iter().any(|group| group.sends_a_snapshot());
    let due = !pinned || flushed.is_none_or(|last| last.is_old(live_bytes, Instant::now()));
    // A flush for which there is no space would only fail, and while the log is replayed nothing
    // can be cut behind one yet.
    if long && due && core.disks.lets_the_store_flush() && core.startup().done {
        let store = core.store.clone();
        match tokio::task::spawn_blocking(move || store.flush()).await {
            Ok(Ok(())) => *flushed = Some(Flushed { at: Instant::now(), live_bytes }),
            Ok(Err(error)) if matches!(core.store.health(), Health::Full(_)) => {
                tracing::warn!(%error, "the store has no room for a flush; the log stays long");
            }
            Ok(Err(error)) => core.fail(Fatal::Disk(error.to_string())),
            Err(error) => core.fail(Fatal::Disk(error.to_string())),
        }
    }
    let patient = live_bytes < core.live_log_bytes_max.saturating_mul(PATIENCE_FACTOR);
    for group in groups {
        let all = long && still_long && !(patient && group.sends_a_snapshot());
        // A group that has stopped is found by the look at the disk.
        if long {
            let _ = group.announce_flushed().await;
        }
        let _ = group.shorten_log(all).await;
    }
    long
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_a_snapshot_keeps_long_is_flushed_when_it_grew_or_much_later() {
        let at = Instant::now();
        let last = Flushed { at, live_bytes: 300 << 20 };
        let later = |ms| at + Duration::from_millis(ms);
        assert!(!last.is_old(300 << 20, later(1000)));
        assert!(!last.is_old((316 << 20) - 1, later(9999)));
        assert!(last.is_old(316 << 20, later(1)));
        assert!(last.is_old(0, later(10_000)));
    }
}
