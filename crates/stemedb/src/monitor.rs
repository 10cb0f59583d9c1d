//! Watches what sends no events: the log's health, the meta quorum, the gauges.

use std::sync::Arc;
use std::time::Duration;

use stemedb_raft::Leadership;
use stemedb_types::GroupId;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::core::{Core, locked};
use crate::options::Fatal;

/// Between two looks. A failed disk stops the log's writer at once; this only says so.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// The store is flushed once the log holds this much that only a replay would bring back.
const LIVE_LOG_BYTES_MAX: u64 = 256 << 20;

/// Looks around until the node stops.
pub(crate) async fn monitor(core: Arc<Core>) {
    let mut ticks = interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = core.stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        look_at_the_disk(&core);
        listen_for_the_meta_quorum(&core);
        show_gauges(&core);
        save_incarnation(&core);
        flush_if_the_log_grows(&core).await;
    }
}

fn look_at_the_disk(core: &Core) {
    if let Some(cause) = core.wal.poisoned() {
        core.fail(Fatal::Disk(format!("the log's disk failed: {cause}")));
    }
    for group in core.groups.all() {
        if let Some(cause) = group.stopped()
            && !core.stop.is_cancelled()
        {
            core.fail(Fatal::Disk(format!("group {} has stopped: {cause}", group.id())));
        }
    }
}

fn listen_for_the_meta_quorum(core: &Core) {
    let Some(meta) = core.groups.get(GroupId::META) else { return };
    let seen = *meta.leadership().borrow();
    let heard = match seen {
        Leadership::Here => meta.quorum_heard_within(LOOK_INTERVAL * 3),
        Leadership::There(node) => {
            core.plane().is_ok_and(|plane| plane.link(node).borrow().is_up())
        }
        Leadership::Unknown => false,
    };
    if heard {
        *locked(&core.meta_heard) = Instant::now();
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
    {
        drop(identity);
        core.fail(Fatal::Disk(error.to_string()));
    }
}

async fn flush_if_the_log_grows(core: &Arc<Core>) {
    if core.wal.stats().live_bytes < LIVE_LOG_BYTES_MAX {
        return;
    }
    let store = core.store.clone();
    match tokio::task::spawn_blocking(move || store.flush()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => core.fail(Fatal::Disk(error.to_string())),
        Err(error) => core.fail(Fatal::Disk(error.to_string())),
    }
}
