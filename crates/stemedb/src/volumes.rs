//! Looks at the volumes, tells the peers, and keeps out what there is no room for.
//!
//! ```text
//!  statvfs, now and then ┐
//!  the log found no room ┼─► level ─► execute: 507          (decided in [`crate::disk`])
//!  the log is too long ──┘     ├────► groups: take no entries
//!                              ├────► peers: `DISK`, on a change and each second while not open
//!                              └────► leaderships go to a node with room
//! ```
//!
//! Only a leader refuses, and before a command is proposed: what was refused
//! stands in no log. A leader without room of its own goes on, like any follower,
//! while a majority has some; until then its leaderships go elsewhere.
//!
//! A level is told again and again rather than once: a message lost, or a node
//! started anew, costs a second. Nothing is sent while all is well.
//!
//! Left out: which project fills the disk (quotas), and a volume that answers no `statvfs`, which
//! counts as it did before.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use stemedb_engine::Health;
use stemedb_machine::shard::Write;
use stemedb_raft::{Group, Leadership, Level, Space, Ticks};
use stemedb_types::NodeId;
use tokio::time::Instant;

use crate::core::{Core, locked};
use crate::disk::{
    BELIEVED_FOR, LOOK_INTERVAL_NEAR, Marks, TELL_INTERVAL, holds_up, lets_in, next_look,
    of_a_majority,
};
use crate::monitor::look_at_the_disk;
use crate::options::Fatal;
use crate::wire::{DISK, encode_level};
use crate::{Error, Unavailable};

/// What the volumes are called.
pub(crate) const LOG: &str = "log";
pub(crate) const STORE: &str = "store";
/// How long a peer may take to hear of a level.
const TELL_TIMEOUT: Duration = Duration::from_secs(1);

/// One of the two volumes.
#[derive(Debug)]
pub(crate) struct Volume {
    /// [`LOG`] or [`STORE`].
    name: &'static str,
    dir: PathBuf,
    setting_bytes: Option<u64>,
    least_bytes: u64,
}

/// One look at a volume.
#[derive(Clone, Copy, Debug)]
struct Look {
    name: &'static str,
    level: Level,
    free_bytes: u64,
    marks: Marks,
}

/// What a node knows of disks: its own, and those of peers that are not open.
#[derive(Debug)]
pub(crate) struct Disks {
    /// What the groups are told.
    pub(crate) space: Space,
    volumes: [Volume; 2],
    looks: Mutex<Vec<Look>>,
    peers: Mutex<HashMap<NodeId, (Level, Instant)>>,
    /// Something is to be looked at before each write.
    alert: AtomicBool,
}

impl Volume {
    /// A folder on a volume, of which `setting_bytes` are kept back, and `least_bytes` in any case.
    pub(crate) fn new(
        name: &'static str,
        dir: &Path,
        setting_bytes: Option<u64>,
        least_bytes: u64,
    ) -> Self {
        Self { name, dir: dir.to_path_buf(), setting_bytes, least_bytes }
    }

    fn look(&self, before: Level) -> std::io::Result<Look> {
        let stat = rustix::fs::statvfs(&self.dir)?;
        let free_bytes = stat.f_bavail.saturating_mul(stat.f_frsize);
        let volume_bytes = stat.f_blocks.saturating_mul(stat.f_frsize);
        let marks = Marks::new(volume_bytes, self.setting_bytes, self.least_bytes);
        let level = marks.level(before, free_bytes);
        Ok(Look { name: self.name, level, free_bytes, marks })
    }
}

impl Disks {
    /// Looks at both volumes at once, so that a node that starts on a full disk knows it.
    pub(crate) fn new(volumes: [Volume; 2]) -> Self {
        let disks = Self {
            space: Space::default(),
            volumes,
            looks: Mutex::default(),
            peers: Mutex::default(),
            alert: AtomicBool::new(false),
        };
        disks.look();
        disks
    }

    /// Looks at the volumes. Returns whether the level is another than before.
    fn look(&self) -> bool {
        let mut looks = locked(&self.looks);
        for volume in &self.volumes {
            let before = looks.iter().position(|look| look.name == volume.name);
            let level = before.and_then(|at| looks.get(at)).map_or(Level::Open, |look| look.level);
            match (volume.look(level), before) {
                (Ok(look), Some(at)) => looks[at] = look,
                (Ok(look), None) => looks.push(look),
                (Err(error), _) => {
                    tracing::warn!(volume = volume.name, %error, "a volume does not say what is free");
                }
            }
        }
        looks.iter().for_each(show);
        let worst = looks.iter().map(|look| look.level).max().unwrap_or_default();
        let worst = if self.space.is_stuck() { Level::Spent } else { worst };
        let news = self.space.set(worst);
        if news {
            let free = |at: usize| looks.get(at).map(|look| look.free_bytes);
            tracing::warn!(level = ?worst, log_free_bytes = free(0), store_free_bytes = free(1),
                "what the disks can take has changed");
        }
        drop(looks);
        self.weigh();
        news
    }

    /// What may be written to either volume before there is anything to say; nothing where one has never
    /// said what is free.
    fn room_bytes(&self) -> u64 {
        let looks = locked(&self.looks);
        if looks.len() < self.volumes.len() {
            return 0;
        }
        looks
            .iter()
            .map(|look| look.marks.room_bytes(look.level, look.free_bytes))
            .min()
            .unwrap_or(0)
    }

    /// Whether writes need a closer look.
    fn weigh(&self) {
        let mut peers = locked(&self.peers);
        peers.retain(|_, (_, heard)| heard.elapsed() < BELIEVED_FOR);
        let calm =
            peers.is_empty() && self.space.level() == Level::Open && !self.space.is_held_up();
        self.alert.store(!calm, Ordering::Relaxed);
    }

    /// Takes in what a peer says of its disks.
    pub(crate) fn hear(&self, from: NodeId, level: Level) {
        match level {
            Level::Open => locked(&self.peers).remove(&from),
            level => locked(&self.peers).insert(from, (level, Instant::now())),
        };
        self.weigh();
    }

    pub(crate) fn level_of(&self, peer: NodeId) -> Level {
        let peers = locked(&self.peers);
        let believed = peers.get(&peer).filter(|(_, heard)| heard.elapsed() < BELIEVED_FOR);
        believed.map_or(Level::Open, |(level, _)| *level)
    }

    /// Whether the store's volume has room for what is in memory.
    pub(crate) fn lets_the_store_flush(&self) -> bool {
        let looks = locked(&self.looks);
        looks.iter().all(|look| look.name != STORE || look.level < Level::Spent)
    }

    /// What is worth knowing of the volumes, for people; nothing while all is well.
    pub(crate) fn remarks(&self) -> Vec<String> {
        let remark = |look: &Look| {
            let goes_on = match look.level {
                Level::Open => return None,
                Level::Full => "reads and deletes go on",
                Level::Spent => "reads go on",
            };
            Some(format!(
                "disk-full: the volume of the {} has {} MiB free, below its reserve of {} MiB; {goes_on}",
                look.name,
                look.free_bytes >> 20,
                look.marks.reserve_bytes >> 20,
            ))
        };
        let mut remarks: Vec<String> = locked(&self.looks).iter().filter_map(remark).collect();
        if self.space.is_held_up() {
            remarks.push("the log is too long; writes wait until it is cut".to_owned());
        }
        remarks
    }
}

fn show(look: &Look) {
    let Look { name, level, free_bytes, marks } = *look;
    metrics::gauge!("stemedb_disk_free_bytes", "volume" => name).set(free_bytes as f64);
    metrics::gauge!("stemedb_disk_reserve_bytes", "volume" => name).set(marks.reserve_bytes as f64);
    metrics::gauge!("stemedb_disk_level", "volume" => name).set(f64::from(level as u8));
}

impl Core {
    /// Whether the group that is led here has room for a write; counts and says it if not.
    pub(crate) fn has_room_for(&self, group: &Group, write: &Write) -> Result<(), Error> {
        let disks = &self.disks;
        if !disks.alert.load(Ordering::Relaxed) || *group.leadership().borrow() != Leadership::Here
        {
            return Ok(());
        }
        if disks.space.is_held_up() {
            return Err(Error::unavailable(Unavailable::Overloaded));
        }
        if lets_in(self.level_of_group(group), write) {
            return Ok(());
        }
        metrics::counter!("stemedb_disk_refused_writes_total").increment(1);
        Err(Error::DiskFull)
    }

    /// [`Core::has_room_for`], for the meta group: what grows it is refused, nothing else.
    pub(crate) fn has_room_for_keys(&self, group: &Group) -> Result<(), Error> {
        let calm = !self.disks.alert.load(Ordering::Relaxed);
        if calm || self.level_of_group(group) == Level::Open {
            return Ok(());
        }
        metrics::counter!("stemedb_disk_refused_writes_total").increment(1);
        Err(Error::DiskFull)
    }

    fn level_of_group(&self, group: &Group) -> Level {
        let own = self.disks.space.level();
        // It appends before anybody else does.
        if own == Level::Spent {
            return own;
        }
        let voters = self.voters(group);
        let level = |node: &NodeId| match *node == self.node {
            true => own,
            false => self.disks.level_of(*node),
        };
        of_a_majority(voters.iter().map(|(_, node)| level(node)))
    }

    /// Hands leaderships to nodes with room.
    async fn shed_leaderships(&self) {
        for group in self.groups.all() {
            if *group.leadership().borrow() != Leadership::Here {
                continue;
            }
            let heir = self.heir(&group, |node| self.disks.level_of(node) == Level::Open);
            if let Some(heir) = heir {
                tracing::info!(group = %group.id(), "a replica with more room is asked to lead");
                // Lost, it is asked again.
                let _ = group.transfer_leadership(heir).await;
            }
        }
    }

    /// Tells every member what the disks here can take.
    async fn tell_level(&self, level: Level) {
        let members: Vec<NodeId> = self.meta.load().nodes.keys().copied().collect();
        let others = members.into_iter().filter(|node| *node != self.node);
        let deadline = Instant::now() + TELL_TIMEOUT;
        join_all(others.map(|node| self.ask(node, DISK, encode_level(level), deadline))).await;
    }

    /// Holds up the log where it is too long. Returns what it may grow by until then.
    fn hold_up_a_long_log(&self) -> u64 {
        let live_bytes = self.living_log_bytes();
        let before = self.disks.space.is_held_up();
        let now = holds_up(before, live_bytes, self.log_stop_bytes);
        if before != now {
            tracing::warn!(live_bytes, held_up = now, "whether the log may grow has changed");
            self.disks.space.hold_up(now);
        }
        if now { 0 } else { self.log_stop_bytes.saturating_sub(live_bytes) }
    }
}

/// Looks at the disks until the node stops.
pub(crate) async fn watch_disks(core: Arc<Core>) {
    let mut tell_again = Instant::now();
    let mut ticks = Ticks::new(LOOK_INTERVAL_NEAR);
    loop {
        tokio::select! {
            () = core.stop.cancelled() => return,
            () = core.disks.space.asked_to_look() => {}
            _ = ticks.tick() => {}
        }
        look_at_the_disk(&core);
        if let Health::Broken(cause) = core.store.health() {
            core.fail(Fatal::Disk(format!("the store failed: {cause}")));
        }
        let log_room_bytes = core.hold_up_a_long_log();
        let news = core.disks.look();
        let level = core.disks.space.level();
        let is_open = level == Level::Open;
        let room_bytes = if is_open { core.disks.room_bytes().min(log_room_bytes) } else { 0 };
        ticks.set_every(next_look(room_bytes));
        let due = !is_open && Instant::now() >= tell_again;
        if news || due {
            tell_again = Instant::now() + TELL_INTERVAL;
            let telling = core.clone();
            core.tasks.spawn(async move {
                tokio::select! {
                    () = telling.stop.cancelled() => {}
                    () = telling.tell_level(level) => {}
                }
            });
            if !is_open {
                core.shed_leaderships().await;
            }
        }
    }
}
