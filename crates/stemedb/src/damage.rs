//! What becomes of damage that is found while the node runs.
//!
//! Whoever reads a replica's bytes and finds them damaged (a read, the applier, the scrub) reports
//! it here, from any thread and without waiting. One task judges each finding
//! ([`crate::quarantine`]) and acts: the replica is set aside, closed, remembered on disk and
//! named, and its group goes on without it; or, where nobody else has the group, the node
//! ends and says how to look at what is left.

use std::path::Path;
use std::sync::Arc;

use stemedb_raft::wal::StreamId;
use stemedb_raft::{Damage, Part};
use stemedb_types::{GroupId, ReplicaId};
use tokio::sync::mpsc;

use crate::core::{Core, locked, now_ms};
use crate::options::Fatal;
use crate::quarantine::{Entry, Verdict, goes_on_without, judge};

/// Most findings that wait to be judged; one more is dropped, for what is damaged is found again.
const FINDINGS_MAX: usize = 256;

/// A replica that does not read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) group: GroupId,
    pub(crate) replica: ReplicaId,
    pub(crate) damage: Damage,
}

/// Takes findings, from anywhere.
#[derive(Clone, Debug)]
pub(crate) struct Findings(mpsc::Sender<Finding>);

impl Findings {
    pub(crate) fn channel() -> (Self, mpsc::Receiver<Finding>) {
        let (report, findings) = mpsc::channel(FINDINGS_MAX);
        (Self(report), findings)
    }

    /// Whether it will be judged; if not, it is to be reported again.
    pub(crate) fn report(&self, finding: Finding) -> bool {
        self.0.try_send(finding).is_ok()
    }
}

/// The label of a part in metrics and answers.
pub(crate) fn part_name(part: Part) -> &'static str {
    match part {
        Part::Log => "log",
        Part::Store => "store",
    }
}

/// What a person calls a group.
pub(crate) fn group_name(group: GroupId) -> String {
    match group.shard() {
        None => "the meta group".to_owned(),
        Some(shard) => format!("shard {shard}"),
    }
}

/// How to look at a node's disks, and save what can be saved.
pub(crate) fn repair_command(wal_dir: &Path, db_dir: &Path) -> String {
    let (wal, db) = (wal_dir.display(), db_dir.display());
    format!("stemedb check --repair --wal-dir {wal} --db-dir {db}")
}

/// Judges findings until the node stops, or one of them ends it.
pub(crate) async fn act_on_findings(core: Arc<Core>, mut findings: mpsc::Receiver<Finding>) {
    loop {
        let finding = tokio::select! {
            () = core.stop.cancelled() => return,
            finding = findings.recv() => finding,
        };
        let Some(finding) = finding else { return };
        if let Err(fatal) = core.settle_damage(finding).await {
            return core.fail(fatal);
        }
    }
}

impl Core {
    /// Sets a damaged replica aside, or says why the node must end. When it returns, the replica
    /// is closed and that is remembered on disk.
    pub(crate) async fn settle_damage(&self, finding: Finding) -> Result<(), Fatal> {
        let Finding { group, replica, damage } = finding;
        let (own, others) = self.holders(group);
        match judge((group, replica), own, others, &self.quarantine.entries()) {
            Verdict::Known => return Ok(()),
            Verdict::Refuse => {
                count(damage.part);
                let command = repair_command(&self.wal_dir, &self.db_dir);
                return Err(Fatal::Disk(format!(
                    "{} is damaged and no other node {}: {}; nothing was changed: stop the node and run {command}",
                    group_name(group),
                    if group == GroupId::META { "votes in it" } else { "has it" },
                    damage.cause
                )));
            }
            Verdict::SetAside => {}
        }
        count(damage.part);
        tracing::error!(%group, %replica, part = part_name(damage.part), cause = damage.cause,
            "a replica is damaged: it is set aside, and the group goes on without it");
        // It promises nothing more, and the log keeps nothing for it.
        self.wal.quarantine(StreamId(replica.0), &damage.cause);
        let entry = Entry { replica, damage, since_ms: now_ms() };
        self.quarantine.set_aside(group, entry);
        let (saved, ()) = tokio::join!(self.save_quarantine(), self.close_group(group));
        saved
    }

    /// Which replica of a group is this node's, and whether the group goes on without it.
    fn holders(&self, group: GroupId) -> (Option<ReplicaId>, bool) {
        let state = self.meta.load();
        let replicas = state.layout.replicas(group).unwrap_or_default();
        if replicas.is_empty() && group == GroupId::META {
            // Its rows can't be read or have no layout yet: the identity knows.
            let identity = self.identity();
            return (identity.get().meta_replica, identity.get().goes_on_elsewhere(group));
        }
        let own = replicas.iter().find(|own| own.node == self.node).map(|own| own.id);
        (own, goes_on_without(&state.layout, group, self.node))
    }

    /// Ends this node's replica of a group; what waited for it is not waited for any more.
    pub(crate) async fn close_group(&self, group: GroupId) {
        self.groups.close_one(group).await;
        locked(&self.caught_up).remove(&group);
    }

    /// Makes what is set aside last over a restart; on a full disk, once there is room.
    pub(crate) async fn save_quarantine(&self) -> Result<(), Fatal> {
        let quarantine = self.quarantine.clone();
        let saved = tokio::task::spawn_blocking(move || quarantine.save_if_there_is_room()).await;
        let failed = |cause: String| Fatal::Disk(format!("write the quarantine file: {cause}"));
        match saved {
            Ok(Ok(())) => Ok(()),
            Ok(Err(cause)) => Err(failed(cause.to_string())),
            Err(cause) => Err(failed(cause.to_string())),
        }
    }
}

fn count(part: Part) {
    metrics::counter!("stemedb_corruption_detected_total", "kind" => part_name(part)).increment(1);
}

/// Shows the counters before anything is damaged: an alert on their growth needs a zero first.
pub(crate) fn show_counters() {
    for part in [Part::Log, Part::Store] {
        let kind = part_name(part);
        metrics::counter!("stemedb_corruption_detected_total", "kind" => kind).increment(0);
        metrics::counter!("stemedb_corruption_repaired_total", "kind" => kind).increment(0);
    }
}
