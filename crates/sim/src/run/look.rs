//! What is looked at: every replica now and then, and all of them at the end.

use std::time::Duration;

use stemedb_raft::Group;
use stemedb_types::GroupId;
use stemedb_wal::StreamId;
use tokio::time::Instant;

use super::{Cluster, panicked};
use crate::checks::linearizable::{self, Verdict};
use crate::checks::order::Marks;
use crate::checks::{acknowledged, voters};
use crate::mover::REPLICATION_FACTOR;
use crate::schedule::Schedule;

impl Cluster {
    /// Waits until all replicas have applied the same.
    pub(super) async fn settle(
        &mut self,
        schedule: &Schedule,
        over: Instant,
    ) -> Result<(), String> {
        loop {
            let mut behind = self.behind();
            if !self.in_place {
                behind.push(self.mover.why.clone());
            }
            // An epoch that was on its way may be committed after all was in place by the one before.
            let (newest, by) = (self.checks.layouts.newest(), self.mover.epoch());
            if newest != by {
                behind.push(format!("all is in place by epoch {by}, and there is epoch {newest}"));
            }
            if behind.is_empty() {
                return Ok(());
            }
            if Instant::now() >= over {
                return Err(format!("replicas stay behind: {}", behind.join(", ")));
            }
            let soon = Instant::now() + Duration::from_millis(100);
            self.step(schedule, soon).await?;
        }
    }

    /// Replicas that have not applied what another has, or that don't run.
    pub(super) fn behind(&self) -> Vec<String> {
        let mut behind = Vec::new();
        for group in &self.groups {
            let replicas = self.open_replicas(*group);
            let most = replicas.iter().filter_map(|(_, replica)| replica.position().applied).max();
            for (node, replica) in replicas {
                let applied = replica.position().applied;
                if applied != most {
                    let id = self.nodes[node].id;
                    let position = replica.position();
                    behind.push(format!("group {group} on node {id}: {position:?}, of {most:?}"));
                }
            }
        }
        let missing = self.nodes.iter().filter(|node| !node.is_up() && !node.gone);
        behind.extend(missing.map(|node| format!("node {} is down", node.id)));
        behind
    }

    pub(super) fn open_replicas(&self, group: GroupId) -> Vec<(usize, Group)> {
        let open = self.nodes.iter().enumerate().filter_map(|(number, node)| {
            let life = node.life.as_ref()?;
            Some((number, life.groups.get(group)?))
        });
        open.collect()
    }

    /// Looks at every replica.
    pub(super) fn look(&mut self) -> Result<(), String> {
        if let Some(panic) = panicked() {
            return Err(format!("something panicked: {panic}"));
        }
        if let Some(wrong) = &self.wrong {
            return Err(wrong.clone());
        }
        if let Some(violation) = self.world.net.violation() {
            return Err(violation);
        }
        let compare = self.draw.one_in(8);
        for node in &self.nodes {
            let Some(life) = &node.life else { continue };
            if life.process.spins() {
                return Err(format!("node {} runs on and on while no time passes", node.id));
            }
            for group in life.groups.all() {
                let (id, replica) = (group.id(), group.replica());
                if let Some(term) = group.leading_term() {
                    self.checks.leaders.see(id, term, replica)?;
                }
                self.checks.order.see(id, replica, node.lives, marks(&group, life)?)?;
                if id == GroupId::META {
                    self.checks.layouts.see(&group.applied().meta().borrow().layout)?;
                }
                if compare {
                    let applied = group.position().applied.map_or(0, |applied| applied + 1);
                    self.checks.logs.see(id, replica, &life.wal, applied)?;
                    self.checks.replicas.see(id, replica, &group.applied().store())?;
                }
            }
        }
        Ok(())
    }

    /// The history as a whole, and every replica against it.
    pub(super) fn judge(&mut self) -> Result<(), String> {
        let layout = self.checks.layouts.last();
        let members = self.nodes.iter().filter(|node| !node.leaving).count();
        let history = self.shared.history();
        acknowledged::revisions(&history.acknowledged)?;
        for group in &self.groups {
            for (_, replica) in self.open_replicas(*group) {
                acknowledged::kept(&replica, &history.acknowledged)?;
                self.checks.replicas.see(*group, replica.replica(), &replica.applied().store())?;
                if *group != GroupId::META && replica.leading_term().is_some() {
                    voters::settled(&replica, layout, REPLICATION_FACTOR, members)?;
                }
            }
        }
        match linearizable::check(&history.operations()) {
            Verdict::Linearizable => Ok(()),
            Verdict::Violated(violation) => {
                let mut all = history.operations();
                drop(history);
                all.retain(|operation| operation.key == violation.key);
                for operation in all {
                    self.tell("history", operation);
                }
                Err(violation.to_string())
            }
            Verdict::Undecided { .. } => {
                self.undecided = true;
                Ok(())
            }
        }
    }
}

fn marks(group: &Group, life: &crate::node::Life) -> Result<Marks, String> {
    let count = |mark: Option<bytes::Bytes>| -> Result<u64, String> {
        let Some(mark) = mark else { return Ok(0) };
        let entry = stemedb_raft::applied_entry(&mark).map_err(|error| error.to_string())?;
        Ok(entry.map_or(0, |(index, _)| index + 1))
    };
    let rows = group.applied().store();
    let purged = life.wal.bounds(StreamId(group.replica().0)).purged;
    let position = group.position();
    Ok(Marks {
        term: position.term,
        purged: purged.map_or(0, |(index, _)| index + 1),
        flushed: count(rows.durable_applied().map_err(|error| error.to_string())?)?,
        applied: count(rows.applied().map_err(|error| error.to_string())?)?,
    })
}
