//! Who moves replicas until the node's own rebalancer joins: the simulation itself, by the means the
//! real one will have.
//!
//! Every now and then it looks at the layout that the meta group holds, asks `placement` for the
//! next one (members joined, left or lost their disks; replicas were set aside) and has it
//! committed as the next epoch. Then it takes whatever step brings a group nearer to its layout:
//! open the new replica, add it as a learner, change the voters, close and wipe what is left over.
//! Each step may be lost, come late or meet another leader; the next look finds out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use stemedb_machine::meta::{Founding, MetaCommand, MetaState, Node as MetaNode, NodeAddresses};
use stemedb_placement::{Member, Request, plan};
use stemedb_raft::{Error, Group, Members};
use stemedb_types::{ClusterId, GroupId, Layout, NodeId, Replica, ReplicaId, ShardLayout};
use stemedb_wal::StreamId;
use stemedb_wal::planted::{self, Bug};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::draw::Draw;
use crate::node::{Held, Life, Node, World};

/// A step that takes longer is tried again.
const STEP: Duration = Duration::from_secs(3);
/// How long a leader has to show that it leads.
const CONFIRM: Duration = Duration::from_millis(400);
/// Replicas of a shard.
pub const REPLICATION_FACTOR: u8 = 3;

/// What it remembers between two looks.
pub struct Mover {
    draw: Draw,
    /// The last step of each group by whoever led it then; it ends in time. Two who believe to lead
    /// don't wait for each other.
    busy: BTreeMap<(GroupId, ReplicaId), JoinHandle<()>>,
    /// A replica of the layout whose node still holds an earlier one that never ceased to be a
    /// member: that one is the layout's from the next epoch on.
    take_back: Option<(GroupId, ReplicaId, ReplicaId)>,
    /// Everything was where the layout says when it was looked last.
    in_place: bool,
    /// What the last step of a group was.
    last: BTreeMap<GroupId, String>,
    /// What the last look found out of place.
    pub why: String,
    /// The members of the newest plan.
    members: BTreeSet<NodeId>,
    /// The layout it acted on last, and the one before.
    newest: Layout,
    older: Layout,
    /// Moves begun and replicas closed.
    pub moves: u64,
}

/// Of a group: who leads it, with which members.
struct Led {
    group: Group,
    voters: BTreeSet<ReplicaId>,
    learners: BTreeSet<ReplicaId>,
}

impl Mover {
    /// Who leads a group, or believes to: any of them, since nobody can tell from outside.
    fn claimant(&mut self, nodes: &[Node], group: GroupId) -> Option<Led> {
        let replicas = nodes.iter().filter_map(|node| node.life.as_ref()?.groups.get(group));
        let mut leads: Vec<Group> =
            replicas.filter(|replica| replica.leading_term().is_some()).collect();
        if leads.is_empty() {
            return None;
        }
        let group = leads.swap_remove(self.draw.below(leads.len() as u64) as usize);
        let Members { voters, learners, .. } = group.members();
        Some(Led { group, voters, learners })
    }

    /// The epoch it acted on last.
    pub fn epoch(&self) -> u64 {
        self.newest.epoch
    }

    /// One that has done nothing yet.
    pub fn new(draw: Draw) -> Self {
        Self {
            draw,
            busy: BTreeMap::new(),
            take_back: None,
            in_place: false,
            last: BTreeMap::new(),
            why: String::new(),
            members: BTreeSet::new(),
            newest: Layout::default(),
            older: Layout::default(),
            moves: 0,
        }
    }

    /// Takes a step in each group that needs one. `first`: the layout the cluster begins with.
    /// `newest`: the newest epoch that anybody holds. Returns whether everything is as the layout
    /// says.
    pub async fn look(
        &mut self,
        world: &World,
        nodes: &mut [Node],
        first: &Layout,
        newest: u64,
    ) -> bool {
        self.why.clear();
        let Some(meta) = self.claimant(nodes, GroupId::META) else {
            return self.not_yet("nobody leads the meta group".to_owned());
        };
        let state = meta.group.applied().meta().borrow().clone();
        if state.founding.is_none() {
            self.propose(&meta.group, found(nodes, first));
            return self.not_yet("nothing is founded".to_owned());
        }
        // Who leads may be one that was cut off, and knows an old layout only.
        if state.layout.epoch < newest && !planted::has(Bug::OldEpoch) {
            return self.not_yet("whoever leads the meta group knows an old layout".to_owned());
        }
        if let Some(layout) = self.next_layout(nodes, &state, first) {
            self.in_place = false;
            self.propose(&meta.group, layout);
            return self.not_yet("there is to be another layout".to_owned());
        }
        let layout = self.known(&state.layout);
        let mut done = true;
        for group in layout.groups() {
            let wanted = layout.replicas(group).unwrap_or_default();
            done &= self.bring(world, nodes, group, wanted).await;
        }
        if self.is_proposing() {
            done = self.not_yet("a layout is on its way".to_owned());
        }
        self.in_place = done;
        done
    }

    /// The layout to act on: the one of the state, if a mistake does not bring back an older one.
    fn known(&mut self, newest: &Layout) -> Layout {
        if self.newest.epoch != newest.epoch {
            self.older = std::mem::replace(&mut self.newest, newest.clone());
        }
        let old = planted::has(Bug::OldEpoch) && self.older.epoch > 0 && self.draw.one_in(8);
        if old { self.older.clone() } else { newest.clone() }
    }

    /// The layout to come, if there is to be another. Members come and go once everything is in
    /// place; what is lost is replaced at once.
    fn next_layout(
        &mut self,
        nodes: &[Node],
        state: &MetaState,
        first: &Layout,
    ) -> Option<MetaCommand> {
        if let Some((group, is, was)) = self.take_back.take() {
            let mut layout = state.layout.clone();
            let shards = layout.shards.iter_mut().map(|shard| &mut shard.replicas);
            let all = (0..).map(GroupId).zip(std::iter::once(&mut layout.meta).chain(shards));
            for (_, replicas) in all.filter(|(number, _)| *number == group) {
                replicas.iter_mut().filter(|r| r.id == is).for_each(|r| r.id = was);
            }
            layout.epoch += 1;
            let next_replica = state.next_replica;
            return Some(MetaCommand::SetLayout { layout, next_replica });
        }
        let previous = without_lost(&state.layout, nodes);
        let lost = previous != state.layout;
        if !lost && !self.in_place {
            return None;
        }
        if !lost || self.members.is_empty() {
            self.members = nodes.iter().filter(|node| !node.leaving).map(|node| node.id).collect();
        } else {
            // The disks of some were wiped: others stand in their places. A layout that was on its way
            // may name one that has left since.
            let known = |id: &NodeId| nodes.iter().any(|node| node.id == *id && !node.gone);
            let wiped = self.members.iter().any(|id| !known(id));
            self.members.retain(known);
            if wiped {
                let new = nodes.iter().filter(|node| !node.leaving).map(|node| node.id);
                self.members.extend(new);
            }
        }
        let members: Vec<Member> = nodes
            .iter()
            .filter(|node| self.members.contains(&node.id))
            .map(|node| Member { node: node.id, zone: Some(node.zone.clone()), weight: 1 })
            .collect();
        let request = Request {
            members: &members,
            replication_factor: REPLICATION_FACTOR,
            shards: u16::try_from(first.shards.len()).unwrap_or(u16::MAX),
            previous: &previous,
            next_replica_id: state.next_replica.0,
        };
        let plan = plan(&request).ok()?;
        let same =
            plan.layout.shards == state.layout.shards && plan.layout.meta == state.layout.meta;
        let layout = Layout { epoch: state.layout.epoch + 1, ..plan.layout };
        let next_replica = ReplicaId(plan.next_replica_id);
        (!same).then_some(MetaCommand::SetLayout { layout, next_replica })
    }

    fn not_yet(&mut self, why: String) -> bool {
        if self.why.is_empty() {
            self.why = why;
        }
        false
    }

    fn is_free(&self, leader: &Group) -> bool {
        let step = self.busy.get(&(leader.id(), leader.replica()));
        step.is_none_or(JoinHandle::is_finished)
    }

    /// Whether somebody's layout is on its way.
    fn is_proposing(&self) -> bool {
        let mut meta = self.busy.iter().filter(|((group, _), _)| *group == GroupId::META);
        meta.any(|(_, step)| !step.is_finished())
    }

    fn propose(&mut self, meta: &Group, command: MetaCommand) {
        if !self.is_free(meta) {
            return;
        }
        let (leader, meta) = (meta, meta.clone());
        self.step(leader, async move { meta.write(command.encode()).await.map(drop) });
    }

    /// Lets a step begin; nobody waits for it.
    fn step(
        &mut self,
        leader: &Group,
        step: impl Future<Output = Result<(), Error>> + Send + 'static,
    ) {
        let step = tokio::spawn(async move { drop(timeout(STEP, step).await) });
        self.busy.insert((leader.id(), leader.replica()), step);
    }

    /// Brings a group nearer to its layout; whether it is there.
    async fn bring(
        &mut self,
        world: &World,
        nodes: &mut [Node],
        group: GroupId,
        wanted: &[Replica],
    ) -> bool {
        let Some(led) = self.claimant(nodes, group) else {
            return self.not_yet(format!("nobody leads group {group}"));
        };
        let ids: BTreeSet<ReplicaId> = wanted.iter().map(|replica| replica.id).collect();
        let members = || led.voters.union(&led.learners).copied().collect::<BTreeSet<_>>();
        for replica in wanted {
            let Some(node) = nodes.iter_mut().find(|node| node.id == replica.node) else {
                return self.not_yet(format!("no node {} for group {group}", replica.node));
            };
            let before = node.held.get(&group).map(|held| held.replica);
            if let Some(before) = before.filter(|before| *before != replica.id)
                && members().contains(&before)
                && !node.aside.contains(&before)
            {
                self.take_back = Some((group, replica.id, before));
                return self
                    .not_yet(format!("replica {before} of group {group} is a member still"));
            }
            if !open(world, node, group, replica.id, &mut self.moves).await {
                return self.not_yet(format!("{replica:?} of group {group} does not run"));
            }
        }
        if !self.is_free(&led.group) {
            let last = self.last.get(&group).cloned().unwrap_or_default();
            return self.not_yet(format!("a step of group {group} is under way: {last}"));
        }
        if let Some(new) = wanted.iter().find(|replica| !members().contains(&replica.id)) {
            self.last.insert(group, format!("{new:?} learns; {:?} {:?}", led.voters, led.learners));
            let (leader, new) = (led.group.clone(), *new);
            self.step(&led.group, async move { leader.add_learner(new).await });
            return self.not_yet(format!("{new:?} is to learn in group {group}"));
        }
        if led.voters == ids && !led.learners.is_empty() {
            let (leader, learners) = (led.group.clone(), led.learners);
            self.step(&led.group, async move { leader.drop_learners(learners).await });
            return self.not_yet(format!("learners of group {group} are to go"));
        }
        if led.voters != ids {
            let why = format!(
                "group {group}: {:?} are to be {ids:?}, learners {:?}",
                led.voters, led.learners
            );
            self.last.insert(group, why.clone());
            let leader = led.group.clone();
            self.step(&led.group, async move { leader.set_voters(ids).await });
            return self.not_yet(why);
        }
        let over =
            |node: &Node| node.held.get(&group).is_some_and(|held| !ids.contains(&held.replica));
        if !nodes.iter().any(over) {
            return true;
        }
        // Only once these voters are committed, and by a leader that still is one.
        let confirmed = timeout(CONFIRM, led.group.confirm_read()).await;
        let sure = matches!(confirmed, Ok(Ok(_))) && led.group.members().settled;
        if !sure && !planted::has(Bug::OldEpoch) {
            return self.not_yet(format!("the voters of group {group} are not sure yet"));
        }
        let mut done = true;
        for node in nodes {
            let over = node.held.get(&group).filter(|held| !ids.contains(&held.replica));
            if let Some(over) = over.map(|held| held.replica) {
                done &= close(world, node, group, over).await;
            }
        }
        done
    }
}

/// Sees to it that a node holds this replica of a group; whether it runs.
async fn open(
    world: &World,
    node: &mut Node,
    group: GroupId,
    replica: ReplicaId,
    moves: &mut u64,
) -> bool {
    let held = node.held.get(&group).map(|held| held.replica);
    if held == Some(replica) {
        let life = node.life.as_ref();
        return life.is_some_and(|life| life.groups.get(group).is_some());
    }
    if node.life.is_none() {
        return false;
    }
    if let Some(before) = held
        && !close(world, node, group, before).await
    {
        return false;
    }
    let Some(life) = node.life.clone() else { return false };
    // What an earlier replica left is not this one's.
    let wiped = node.rows.store().map(|rows| stemedb_engine::wipe(&rows, group));
    if !matches!(wiped, Ok(Ok(()))) {
        return false;
    }
    *moves += 1;
    let held = Held { replica, founders: None };
    node.held.insert(group, held.clone());
    on(&life, async move |life| {
        // A log that has lost records can't tell a new stream from a lost one, unless it is told.
        let _ = life.wal.forget(StreamId(replica.0), Box::new(|_| {}));
        life.open(group, &held).await
    })
    .await
}

/// Runs something on a node's process; whether it was done.
async fn on<F, T>(life: &Life, what: F) -> bool
where
    F: FnOnce(Life) -> T,
    T: Future<Output = Result<(), Error>> + Send + 'static,
{
    let doing = stemedb_raft::runtime::on(life.process.clone(), what(life.clone()));
    // A process that is paused answers nobody.
    matches!(timeout(STEP, doing).await, Ok(Ok(Ok(()))))
}

/// Closes a replica for good and takes away its log; whether it did. A process that stands still
/// or is down has not done it.
async fn close(world: &World, node: &mut Node, group: GroupId, replica: ReplicaId) -> bool {
    let Some(life) = node.life.clone() else { return false };
    let closed = on(&life, async move |life: Life| {
        life.groups.close_one(group).await;
        let _ = life.wal.forget(StreamId(replica.0), Box::new(|_| {}));
        Ok(())
    });
    if !closed.await {
        return false;
    }
    world.net.give_up(node.id, replica);
    node.held.remove(&group);
    node.aside.remove(&replica);
    true
}

/// A layout without the replicas that can't come back: `placement` finds others for them.
fn without_lost(layout: &Layout, nodes: &[Node]) -> Layout {
    let keeps = |group: GroupId, replica: &Replica| {
        let Some(node) = nodes.iter().find(|node| node.id == replica.node) else { return false };
        !node.gone && !node.aside.contains(&replica.id) && group.0 < u32::MAX
    };
    let keep = |group: GroupId, replicas: &[Replica]| {
        replicas.iter().filter(|replica| keeps(group, replica)).copied().collect::<Vec<_>>()
    };
    let shards = layout.shards.iter().enumerate().map(|(number, shard)| {
        let group = GroupId(u32::try_from(number).unwrap_or(u32::MAX - 1) + 1);
        ShardLayout { replicas: keep(group, &shard.replicas) }
    });
    Layout {
        epoch: layout.epoch,
        shards: shards.collect(),
        meta: keep(GroupId::META, &layout.meta),
    }
}

fn found(nodes: &[Node], layout: &Layout) -> MetaCommand {
    let founding =
        Founding { cluster: ClusterId(1), replication_factor: REPLICATION_FACTOR, at_ms: 1 };
    let meta_nodes = nodes.iter().map(|node| MetaNode {
        id: node.id,
        name: format!("node-{}", node.id),
        zone: node.zone.clone(),
        addresses: NodeAddresses::default(),
        meta_replica: meta_replica(layout, node.id),
        weight: 1,
        draining_since_ms: None,
    });
    let ids = layout.groups().flat_map(|group| layout.replicas(group).unwrap_or_default());
    let last = ids.map(|replica| replica.id.0).max().unwrap_or(0);
    MetaCommand::Found {
        founding,
        nodes: meta_nodes.collect(),
        layout: layout.clone(),
        next_replica: ReplicaId(last + 1),
    }
}

fn meta_replica(layout: &Layout, node: NodeId) -> ReplicaId {
    let own = layout.meta.iter().find(|replica| replica.node == node);
    own.map_or(ReplicaId(0), |replica| replica.id)
}
