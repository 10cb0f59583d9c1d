//! Which replicas run on this node: opened, begun, left, as [`crate::reconcile`] says.
//!
//! A new replica begins with nothing: what an earlier one of its group left here is wiped, rows
//! and log, before it is written down as held ([`crate::held`]). One that leaves is written down
//! as leaving before anything of it goes. So whatever breaks off in between, a replica never runs on
//! a part of what it had.

use std::sync::Arc;

use futures_util::future::try_join_all;
use stemedb_engine::Health;
use stemedb_machine::meta::MetaState;
use stemedb_raft::Group;
use stemedb_raft::wal::{Error as LogError, StreamId};
use stemedb_types::{GroupId, Replica, ReplicaId};
use tokio::time::{Instant, timeout};

use crate::core::{Core, locked};
use crate::damage::Finding;
use crate::founding::Proposal;
use crate::held::Held;
use crate::life::{QUESTION_TIMEOUT, STEP_INTERVAL};
use crate::options::Fatal;
use crate::reconcile::{Action, Actual, reconcile};

/// Does what [`reconcile`] says. Groups are opened all at once, so that their logs are replayed side
/// by side, and it is known from the beginning how much there is.
pub(crate) async fn keep_in_line(core: &Arc<Core>, state: &MetaState) -> Result<(), Fatal> {
    let stock = core.held.stock();
    let actual = Actual {
        open: core.groups.all().iter().map(|group| (group.id(), group.replica())).collect(),
        aside: core.quarantine.replicas(),
        held: stock.held,
        leaving: stock.leaving,
        forgotten: locked(&core.forgotten).clone(),
    };
    let (mut opening, mut new) = (Vec::new(), Vec::new());
    for action in reconcile(core.node, &state.layout, &actual) {
        match action {
            Action::Open { group, replica } => opening.push((group, replica)),
            Action::Begin { group, replica } => new.push((group, replica)),
            Action::Leave { group, replica } => settle(leave(core, group, replica).await)?,
            Action::Close { group } => core.close_group(group).await,
            Action::Lift { group, replica } => {
                // What could not leave yet stays set aside: it would be opened again.
                if core.held.stock().held.get(&group) == Some(&replica) {
                    continue;
                }
                tracing::info!(%group, %replica, "a damaged replica is this node's no more");
                core.comes_back(group);
                core.quarantine.lift(group, replica);
                core.save_quarantine().await?;
            }
        }
    }
    match begin(core, &new).await {
        Ok(()) => opening.append(&mut new),
        later => settle(later)?,
    }
    let opened = opening.into_iter().map(|(group, replica)| open_shard(core, group, replica));
    try_join_all(opened).await.map(|_| ())
}

/// Why a replica did not begin, or did not leave.
enum Undone {
    /// There is no room, or too much waits. The next look tries again.
    Later(String),
    /// The disk.
    Never(Fatal),
}

impl Undone {
    fn of(what: &str, cause: impl std::fmt::Display, later: bool) -> Self {
        let cause = format!("{what}: {cause}");
        if later { Self::Later(cause) } else { Self::Never(Fatal::Disk(cause)) }
    }
}

fn settle(done: Result<(), Undone>) -> Result<(), Fatal> {
    match done {
        Ok(()) => Ok(()),
        Err(Undone::Later(cause)) => {
            tracing::warn!(cause, "it is tried again");
            Ok(())
        }
        Err(Undone::Never(fatal)) => Err(fatal),
    }
}

/// Opens a replica that this node holds.
async fn open_shard(core: &Arc<Core>, id: GroupId, replica: ReplicaId) -> Result<(), Fatal> {
    let Some(group) = open_group(core, id, replica).await? else { return Ok(()) };
    match founders(core, id, replica)? {
        Some(founders) => {
            let founded = group.found(&founders).await;
            founded.map_err(|cause| Fatal::Disk(cause.to_string()))
        }
        // Its group's leader adds it.
        None => Ok(()),
    }
}

/// The first members of a group, if this replica is one of them.
fn founders(
    core: &Core,
    group: GroupId,
    replica: ReplicaId,
) -> Result<Option<Vec<Replica>>, Fatal> {
    let Some(bytes) = core.identity().get().proposal.clone() else { return Ok(None) };
    let proposal = Proposal::decode(&bytes).map_err(|cause| Fatal::Disk(cause.to_string()))?;
    let founders = proposal.layout.replicas(group).unwrap_or_default();
    let is_one = founders.iter().any(|own| own.node == core.node && own.id == replica);
    Ok(is_one.then(|| founders.to_vec()))
}

/// Makes room for new replicas and holds them from then on. What an earlier replica of the group
/// left here, rows or log, is not theirs; a founding one has nothing before it, and may itself be
/// what is here (a store of an earlier version has no list of replicas).
async fn begin(core: &Arc<Core>, new: &[(GroupId, ReplicaId)]) -> Result<(), Undone> {
    for (group, replica) in new {
        if founders(core, *group, *replica).map_err(Undone::Never)?.is_none() {
            wipe(core, *group, *replica).await?;
        }
    }
    let new = new.to_vec();
    write_down(core, move |held| held.hold(&new)).await
}

/// Takes a replica away that its group has forgotten, or goes on with it. From its first step on
/// the replica never runs again, whatever breaks off.
async fn leave(core: &Arc<Core>, group: GroupId, replica: ReplicaId) -> Result<(), Undone> {
    write_down(core, move |held| held.leave(group, replica)).await?;
    core.close_group(group).await;
    wipe(core, group, replica).await?;
    write_down(core, move |held| held.has_left(group)).await?;
    locked(&core.forgotten).remove(&(group, replica));
    tracing::info!(%group, %replica, "a replica has left");
    Ok(())
}

async fn write_down(
    core: &Arc<Core>,
    change: impl FnOnce(&Held) -> std::io::Result<()> + Send + 'static,
) -> Result<(), Undone> {
    let held = core.held.clone();
    let what = "write down which replicas are here";
    match tokio::task::spawn_blocking(move || change(&held)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(cause)) => {
            let full = cause.kind() == std::io::ErrorKind::StorageFull;
            Err(Undone::of(what, cause, full))
        }
        Err(cause) => Err(Undone::of(what, cause, false)),
    }
}

/// Takes away what the log has of a replica and the store of its group.
async fn wipe(core: &Arc<Core>, group: GroupId, replica: ReplicaId) -> Result<(), Undone> {
    let what = format!("forget replica {replica} in the log");
    let (tell, told) = tokio::sync::oneshot::channel();
    let asked = core.wal.forget(StreamId(replica.0), Box::new(|done| drop(tell.send(done))));
    asked.map_err(|cause| Undone::of(&what, &cause, matches!(cause, LogError::Busy)))?;
    match timeout(QUESTION_TIMEOUT, told).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(cause))) => return Err(Undone::of(&what, cause, false)),
        Ok(Err(_)) => return Err(Undone::of(&what, "the log has stopped", false)),
        Err(_) => return Err(Undone::of(&what, "it takes long", true)),
    }
    let store = core.store.clone();
    let wiping = move || stemedb_engine::wipe(&store, group);
    match tokio::task::spawn_blocking(wiping).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(cause)) => {
            let full = matches!(core.store.health(), Health::Full(_));
            Err(Undone::of("wipe a group", cause, full))
        }
        Err(cause) => Err(Undone::of("wipe a group", cause, false)),
    }
}

/// Opens a replica, or sets it aside if its log or its rows are damaged.
pub(crate) async fn open_group(
    core: &Arc<Core>,
    id: GroupId,
    replica: ReplicaId,
) -> Result<Option<Group>, Fatal> {
    let disk = |cause: String| Fatal::Disk(format!("open group {id}: {cause}"));
    let options = core.groups_options().map_err(|cause| disk(cause.to_string()))?;
    let group = match core.groups.open(id, replica, &options).await {
        Ok(group) => group,
        Err(stemedb_raft::Error::Damaged(damage)) => {
            core.settle_damage(Finding { group: id, replica, damage }).await?;
            return Ok(None);
        }
        Err(cause) => return Err(disk(cause.to_string())),
    };
    let (watched, watcher) = (group.clone(), core.clone());
    core.tasks.spawn(async move {
        tokio::select! {
            () = watcher.stop.cancelled() => {}
            () = catch_up(&watcher, watched) => {}
        }
    });
    Ok(Some(group))
}

/// Waits until a replica has once applied all that its leader had committed, or is closed.
async fn catch_up(core: &Core, group: Group) {
    let mut leadership = group.leadership();
    while core.groups.get(group.id()).is_some_and(|open| open.replica() == group.replica()) {
        leadership.borrow_and_update();
        // What is to be caught up with may be much: the question is short, the rest is not.
        if group.reach_quorum_index(Instant::now() + QUESTION_TIMEOUT * 10).await.is_ok() {
            locked(&core.caught_up).insert(group.id());
            core.came_back(group.id());
            return;
        }
        let _ = timeout(STEP_INTERVAL, leadership.changed()).await;
    }
}
