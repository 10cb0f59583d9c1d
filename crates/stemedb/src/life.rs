//! The life of a node: blank, founded or joined, a member.
//!
//! One task walks to a cluster ([`crate::entering`]) until the node has a
//! cluster, then opens the meta group and keeps this node in line with the
//! layout: every group the layout gives it is open ([`crate::replicas`]). On
//! the meta leader it also writes the cluster's first entry, makes registered nodes
//! members of the meta group and has the layout follow them ([`crate::rebalance`]). When the node stops, or is dropped, the same task
//! ends its groups and its ports.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use stemedb_machine::meta::{IfExists, MetaAnswer, MetaCommand, MetaState, NewKey, Role};
use stemedb_placement::Goal;
use stemedb_raft::{Group, Leadership};
use stemedb_types::{GroupId, NodeId, Replica, ReplicaId};
use tokio::time::{Instant, timeout};

use crate::auth::{hash_of, is_key, make_key};
use crate::core::{Core, Phase, now_ms};
use crate::entering::{address_of, enter_a_cluster};
use crate::founding::Proposal;
use crate::moving::{step_to, take};
use crate::options::{Auth, Fatal};
use crate::rebalance::{rebalance, show_none};
use crate::replicas::{keep_in_line, open_group};
use crate::{Credential, Error};

/// How long one question of founding or joining may take.
pub(crate) const QUESTION_TIMEOUT: Duration = Duration::from_secs(3);
/// How long until a step that led nowhere is taken again, if nothing changes meanwhile.
pub(crate) const STEP_INTERVAL: Duration = Duration::from_millis(500);
/// How long a member that starts listens for another process under its id: the nodes it knocks at
/// answer at once.
const DOUBLE_HEARD_MAX: Duration = Duration::from_millis(300);
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
    } else {
        refuse_a_double(core).await?;
    }
    // Before any address is known: nobody is dialled earlier either.
    if let Ok(plane) = core.plane() {
        plane.open_doors();
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

/// Waits a moment, before any group is open, for another process under this node's id to be heard
/// of: two that vote as one break their groups.
async fn refuse_a_double(core: &Core) -> Result<(), Fatal> {
    let Some(gossip) = &core.gossip else { return Ok(()) };
    let mut members = gossip.members();
    let heard = timeout(DOUBLE_HEARD_MAX, members.wait_for(|members| members.double.is_some()));
    let is_double = matches!(heard.await, Ok(Ok(_)));
    match core.double().filter(|_| is_double) {
        Some(why) => Err(Fatal::Setting(why)),
        None => Ok(()),
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

impl Core {
    /// Takes the meta state on that a quorum confirms to be the newest; it was at the time of the
    /// call. Returns its index.
    pub(crate) async fn meta_index(&self, meta: &Group, deadline: Instant) -> Option<u64> {
        // A quorum, and no lease: this is how a node knows that it is heard.
        let index = meta.reach_quorum_index(deadline).await.ok()?;
        self.adopt(meta);
        Some(index)
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
        match address_of(core, node.id, Some(&node.addresses.grpc)) {
            Some(address) => plane.set_address(node.id, address),
            None => tracing::warn!(node = %node.id, at = node.addresses.grpc, "no usable address"),
        }
    }
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
        core.compare_profiles(&state);
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
