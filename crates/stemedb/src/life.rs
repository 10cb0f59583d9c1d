//! The life of a node: blank, founded or joined, a member.
//!
//! One task walks to a cluster ([`crate::entering`]) until the node has a
//! cluster, then opens the meta group and keeps this node in line with the
//! layout: every group the layout gives it is open ([`crate::reconcile`]). On
//! the meta leader it also writes the cluster's first entry, makes registered nodes
//! members of the meta group and has the layout follow them ([`crate::rebalance`]). When the node stops, or is dropped, the same task
//! ends its groups and its ports.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::try_join_all;
use rand::RngExt;
use stemedb_engine::Health;
use stemedb_machine::meta::{IfExists, MetaAnswer, MetaCommand, MetaState, NewKey, Role};
use stemedb_placement::Goal;
use stemedb_raft::wal::{Error as LogError, StreamId};
use stemedb_raft::{Group, Leadership};
use stemedb_rpc::Envelope;
use stemedb_types::{GroupId, NodeId, Replica, ReplicaId};
use tokio::time::{Instant, timeout, timeout_at};

use crate::auth::{hash_of, is_key, make_key};
use crate::core::{Core, Phase, locked, now_ms};
use crate::damage::Finding;
use crate::entering::{enter_a_cluster, heard_at};
use crate::founding::Proposal;
use crate::held::Held;
use crate::moving::{step_to, take};
use crate::options::{Auth, Fatal};
use crate::rebalance::{rebalance, show_none};
use crate::reconcile::{Action, Actual, reconcile};
use crate::wire::{READ_INDEX, decode_index_option};
use crate::{Credential, Error};

/// How long one question of founding or joining may take.
pub(crate) const QUESTION_TIMEOUT: Duration = Duration::from_secs(3);
/// How long until a step that led nowhere is taken again, if nothing changes meanwhile.
pub(crate) const STEP_INTERVAL: Duration = Duration::from_millis(500);
/// How long one change to the meta group is waited for.
const LEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Most voters of the meta group; further members listen.
const META_VOTERS_MAX: usize = 5;
/// So many outlive the loss of one.
const META_VOTERS_MIN: usize = 3;

/// Lives until the node stops, and ends what would go on without it: a replica that still beats
/// and votes while nobody answers for it here would hold its group up.
pub(crate) async fn live(core: Arc<Core>) {
    tokio::select! {
        () = core.stop.cancelled() => {}
        () = core.failed() => {}
        () = live_until_failed(&core) => {}
    }
    if !core.stop.is_cancelled() {
        // It can't write any more: whoever waits for its groups should turn to others at once.
        core.hand_over().await;
        core.groups.close().await;
    }
    core.stop.cancelled().await;
    core.groups.close().await;
    if let Ok(plane) = core.plane() {
        plane.shutdown().await;
    }
    if let Some(gossip) = &core.gossip {
        // Had it ended before, so much the better.
        let _ = gossip.stop().await;
    }
}

/// Ends only if the node can't go on.
async fn live_until_failed(core: &Arc<Core>) {
    match live_on(core).await {
        Err(cause) => core.fail(cause),
        // Without its meta group; its shards live on.
        Ok(()) => std::future::pending().await,
    }
}

async fn live_on(core: &Arc<Core>) -> Result<(), Fatal> {
    if core.identity().get().cluster.is_none() {
        enter_a_cluster(core).await?;
    }
    let meta = open_meta(core).await?;
    core.turn(Phase::Member);
    // Without the meta group nobody knows which shards are this node's. It is unready and says why.
    let Some(meta) = meta else { return Ok(()) };
    let seeding = core.clone();
    core.tasks.spawn(async move {
        tokio::select! {
            () = seeding.stop.cancelled() => {}
            seeded = seed_root_key(&seeding) => {
                if let Err(cause) = seeded { seeding.fail(Fatal::Setting(cause)) }
            }
        }
    });
    tokio::select! {
        followed = follow_meta(core, &meta) => followed,
        // Its shards live on by what it knew last.
        () = is_set_aside(core, GroupId::META) => Ok(()),
    }
}

/// Waits until a replica here is set aside.
async fn is_set_aside(core: &Core, group: GroupId) {
    let mut changed = core.quarantine.changed();
    while !core.quarantine.holds(group) {
        if changed.changed().await.is_err() {
            return;
        }
    }
}

/// Opens this node's replica of the meta group and takes its state on; nothing if it is set aside.
async fn open_meta(core: &Arc<Core>) -> Result<Option<Group>, Fatal> {
    let disk = |cause: String| Fatal::Disk(cause);
    let identity = core.identity().get().clone();
    let replica = identity.meta_replica.ok_or("this node's identity has no meta replica");
    let replica = replica.map_err(|cause| disk(cause.to_owned()))?;
    let proposal = match &identity.proposal {
        None => None,
        Some(bytes) => Some(Proposal::decode(bytes).map_err(|cause| disk(cause.to_string()))?),
    };
    if let Some(proposal) = &proposal {
        know_addresses(core, proposal.nodes.iter());
    }
    if core.quarantine.replicas().contains(&(GroupId::META, replica)) {
        return Ok(None);
    }
    let Some(group) = open_group(core, GroupId::META, replica).await? else { return Ok(None) };
    if let Some(proposal) = &proposal {
        let founded = group.found(&proposal.layout.meta).await;
        founded.map_err(|cause| disk(cause.to_string()))?;
    }
    core.adopt(&group);
    Ok(Some(group))
}

/// Opens a replica, or sets it aside if its log or its rows are damaged.
async fn open_group(
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
        let index = core.confirmed_index(&group, Instant::now() + QUESTION_TIMEOUT).await;
        if let Some(index) = index
            && group.wait_applied(index, QUESTION_TIMEOUT * 10).await.is_ok()
        {
            locked(&core.caught_up).insert(group.id());
            return;
        }
        let _ = timeout(STEP_INTERVAL, leadership.changed()).await;
    }
}

impl Core {
    /// What a quorum confirms to be committed, asked of the group's leader; it was at the time of
    /// the call.
    async fn confirmed_index(&self, group: &Group, deadline: Instant) -> Option<u64> {
        let seen = *group.leadership().borrow();
        match seen {
            Leadership::Here => timeout_at(deadline, group.confirm_read()).await.ok()?.ok(),
            Leadership::There(node) => self.read_index(node, group.id(), deadline).await,
            Leadership::Unknown => None,
        }
    }

    /// [`Core::confirmed_index`] of the meta group, once it is applied here.
    pub(crate) async fn meta_index(&self, meta: &Group, deadline: Instant) -> Option<u64> {
        let index = self.confirmed_index(meta, deadline).await?;
        self.meta_applied(index, deadline).await.ok()?;
        Some(index)
    }

    async fn read_index(&self, node: NodeId, group: GroupId, deadline: Instant) -> Option<u64> {
        let nobody = ReplicaId(0);
        let payload = Bytes::new();
        let message = Envelope { group, from: nobody, to: nobody, kind: READ_INDEX, payload };
        let plane = self.plane().ok()?;
        let lane = stemedb_rpc::Lane::Urgent;
        let answer = plane.request(node, lane, message, deadline).await.ok()?;
        decode_index_option(&answer).ok().flatten()
    }

    /// Takes the newest meta state on that is applied here, and returns it.
    pub(crate) fn adopt(&self, group: &Group) -> Arc<MetaState> {
        let mut newest = None;
        // Under the watch's own lock, so that an older state never replaces a newer one.
        self.meta_changed.send_if_modified(|version| {
            let state = group.applied().meta().borrow().clone();
            let news = !Arc::ptr_eq(&state, &self.meta.load());
            self.meta.store(state.clone());
            newest = Some(state);
            *version += u64::from(news);
            news
        });
        let state = newest.unwrap_or_default();
        know_addresses(self, state.nodes.values());
        state
    }
}

fn know_addresses<'n>(core: &Core, nodes: impl Iterator<Item = &'n stemedb_machine::meta::Node>) {
    let Ok(plane) = core.plane() else { return };
    for node in nodes.filter(|node| node.id != core.node) {
        let heard = heard_at(core, node.id);
        match heard.or_else(|| resolve(&node.addresses.grpc)) {
            Some(address) => plane.set_address(node.id, address),
            None => tracing::warn!(node = %node.id, at = node.addresses.grpc, "no usable address"),
        }
    }
}

/// An address as it stands; names are for gossip, which resolves them again and again.
fn resolve(address: &str) -> Option<SocketAddr> {
    address.parse().ok()
}

/// Keeps the node in line with the meta state for as long as it lives.
async fn follow_meta(core: &Arc<Core>, group: &Group) -> Result<(), Fatal> {
    let mut aside = core.quarantine.changed();
    let mut states = group.applied().meta();
    let mut leadership = group.leadership();
    let mut members = core.gossip.as_ref().map(|gossip| gossip.members());
    loop {
        states.borrow_and_update();
        let leads = *leadership.borrow_and_update() == Leadership::Here;
        let state = core.adopt(group);
        keep_in_line(core, &state).await?;
        // A change that finds no quorum must not keep this node from following.
        if leads && timeout(LEAD_TIMEOUT, lead_meta(core, group, &state)).await.is_err() {
            tracing::warn!("a change to the meta group takes long; it is looked at again");
        }
        if !leads {
            show_none();
        }
        register_if_moved(core, &state).await;
        let gossip = async {
            match &mut members {
                Some(members) => members.changed().await.map_err(drop),
                None => std::future::pending().await,
            }
        };
        // The interval is for what wakes nobody: a membership change that failed, a lost message.
        tokio::select! {
            changed = states.changed() => {
                changed.map_err(|_| Fatal::Disk("the meta group is gone".to_owned()))?;
            }
            _ = aside.changed() => {}
            () = core.has_forgotten_one.notified() => {}
            _ = leadership.changed() => {}
            _ = gossip => {}
            () = tokio::time::sleep(STEP_INTERVAL * 4) => {}
        }
    }
}

/// Does what [`reconcile`] says. Groups are opened all at once, so that their logs are replayed side
/// by side, and it is known from the beginning how much there is.
async fn keep_in_line(core: &Arc<Core>, state: &MetaState) -> Result<(), Fatal> {
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
                tracing::info!(%group, %replica, "a damaged replica is this node's no more");
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

/// What the meta leader does beside leading: writes the first entry, takes in new members.
async fn lead_meta(core: &Arc<Core>, group: &Group, state: &MetaState) {
    if state.founding.is_none() {
        let proposal = core.identity().get().proposal.clone();
        if let Some(Ok(proposal)) = proposal.map(|bytes| Proposal::decode(&bytes)) {
            let written = group.write(proposal.to_command().encode()).await;
            tracing::info!(?written, "wrote the founding");
        }
        return;
    }
    let voters = meta_voters(&state.layout.meta, |node| state.is_draining(node));
    let goal = Goal { replicas: &state.layout.meta, voters: &voters };
    if let Some(step) = step_to(group, &goal) {
        take(core, group, step).await;
    }
    // Whatever became of it: a member that never catches up must not keep the others from moving.
    rebalance(core, group, state).await;
}

/// The first members vote: an odd number, at most [`META_VOTERS_MAX`]. Those that are being drained
/// come after the others, and vote only where the others alone would be fewer than three (or than there
/// can be).
pub(crate) fn meta_voters(
    replicas: &[Replica],
    is_draining: impl Fn(NodeId) -> bool,
) -> BTreeSet<ReplicaId> {
    let odd = |count: usize| {
        let count = count.min(META_VOTERS_MAX);
        if count.is_multiple_of(2) { count.saturating_sub(1) } else { count }
    };
    let (draining, willing): (Vec<&Replica>, Vec<&Replica>) =
        replicas.iter().partition(|replica| is_draining(replica.node));
    let enough = odd(willing.len()) >= odd(replicas.len()).min(META_VOTERS_MIN);
    let count = odd(if enough { willing.len() } else { replicas.len() }).max(1);
    willing.into_iter().chain(draining).take(count).map(|replica| replica.id).collect()
}

/// Tells the cluster where this node is now, if that is not what is registered.
async fn register_if_moved(core: &Arc<Core>, state: &MetaState) {
    let Some(known) = state.nodes.get(&core.node) else { return };
    let own = &core.description;
    let same = known.addresses == own.addresses && known.name == own.name;
    if same && known.zone == own.zone && known.weight == own.weight {
        return;
    }
    let command = MetaCommand::Register {
        id: own.id,
        name: own.name.clone(),
        zone: own.zone.clone(),
        addresses: own.addresses.clone(),
        weight: own.weight,
    };
    let deadline = Instant::now() + QUESTION_TIMEOUT;
    match core.meta_write(None, command, deadline).await {
        Ok((MetaAnswer::Registered { .. }, _)) => {
            tracing::info!(addresses = ?own.addresses, "registered where this node is now");
        }
        Ok((answer, _)) => tracing::warn!(?answer, "where this node is now was not registered"),
        Err(error) => tracing::warn!(%error, "could not register where this node is now"),
    }
}

/// Seeds the root key; a cluster without any key can't be used, so failing to is fatal.
async fn seed_root_key(core: &Arc<Core>) -> Result<(), String> {
    let Auth::On { root_key } = &core.auth else { return Ok(()) };
    let mut changed = core.meta_changed.subscribe();
    while core.meta.load().founding.is_none() {
        if changed.changed().await.is_err() {
            return Ok(());
        }
    }
    let state = core.meta.load_full();
    let made;
    let key = match root_key {
        Some(key) => key,
        None if !state.keys.is_empty() => return Ok(()),
        None if state.nodes.len() > 1 => {
            return Err("auth is on and the cluster has no key: give a root key".to_owned());
        }
        None => {
            let mut random = [0; 24];
            rand::rng().fill(&mut random);
            made = make_key(random);
            // Shown once, here, and kept nowhere: whoever started the node must see it.
            show_once(&made);
            &made
        }
    };
    if !is_key(key.expose()) {
        return Err("a root key is steme_live_ and 48 lowercase hex digits".to_owned());
    }
    loop {
        let command = MetaCommand::CreateKey(NewKey {
            hash: hash_of(key.expose()),
            label: "root".to_owned(),
            role: Role::Root,
            project: None,
            at_ms: now_ms(),
            by: "start".to_owned(),
            if_exists: IfExists::Add,
        });
        let deadline = Instant::now() + QUESTION_TIMEOUT;
        match core.meta_write(None, command, deadline).await {
            Ok((MetaAnswer::Key { .. }, _)) => return Ok(()),
            Ok((other, _)) => return Err(format!("the root key was refused: {other:?}")),
            // No quorum yet, or an answer lost: seeding again changes nothing.
            Err(Error::Unavailable { .. } | Error::OutcomeUnknown | Error::NotOwner { .. }) => {
                let _ = timeout(STEP_INTERVAL, changed.changed()).await;
            }
            Err(error) => return Err(format!("the root key was not seeded: {error}")),
        }
    }
}

#[allow(clippy::print_stderr)]
fn show_once(key: &Credential) {
    eprintln!("root key, shown this once: {}", key.expose());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who votes of so many replicas, the node ids drained being these.
    fn voting(count: u64, drained: &[u64]) -> Vec<u64> {
        let replica = |id| Replica { node: NodeId(id), id: ReplicaId(id) };
        let replicas: Vec<Replica> = (1..=count).map(replica).collect();
        let voters = meta_voters(&replicas, |node| drained.contains(&node.0));
        voters.into_iter().map(|id| id.0).collect()
    }

    #[test]
    fn an_odd_number_votes_in_the_meta_group_and_those_drained_only_for_want_of_others() {
        let counts = [1, 2, 3, 4, 5, 6, 7].map(|count| voting(count, &[]).len());
        assert_eq!(counts, [1, 1, 3, 3, 5, 5, 5]);
        assert_eq!(voting(4, &[1]), [2, 3, 4]);
        assert_eq!(voting(3, &[1]), [1, 2, 3], "no room: two would not outlive a loss");
        assert_eq!(voting(5, &[1]), [2, 3, 4]);
        assert_eq!(voting(6, &[1]), [2, 3, 4, 5, 6]);
        assert_eq!(voting(2, &[1]), [2]);
        assert_eq!(voting(4, &[1, 2]), [1, 3, 4]);
        assert_eq!(voting(1, &[1]), [1]);
    }
}
