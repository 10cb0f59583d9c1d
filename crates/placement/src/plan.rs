//! The question, the answer, and what changed between two layouts.

use std::collections::BTreeMap;

use stemedb_types::{Layout, NodeId, Replica, ReplicaId, ShardId, ShardLayout};

use crate::leaders::{self, Past, Seat};
use crate::replicas::{self, Task};
use crate::share::{self, Holder};
use crate::tie::{shard_tie, tie};

/// A node as placement sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Who.
    pub node: NodeId,
    /// What it would fail together with. Nodes that name none are taken to share one.
    pub zone: Option<String>,
    /// How much of the data it should hold, relative to the others. Zero says "rather nothing", as
    /// for a node that is drained: it holds shards only where the others are too few, leads none
    /// that another could, and is a member until it is left out.
    pub weight: u32,
}

/// Everything a plan depends on.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// All members, in any order.
    pub members: &'a [Member],
    /// Replicas wanted of each shard, if there are members enough.
    pub replication_factor: u8,
    /// How many shards the cluster has: the same for ever.
    pub shards: u16,
    /// The layout to depart from; [`Layout::default`] to found a cluster.
    pub previous: &'a Layout,
    /// The next replica id to give out, greater than any that ever was.
    pub next_replica_id: u64,
}

/// The next layout and what it takes to get there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The layout: the previous one, epoch and all, if nothing changes.
    pub layout: Layout,
    /// Replicas to make, by shard. Those of the meta group are not among them.
    pub moves: Vec<Move>,
    /// Replicas to drop with none in their place, by shard: only when shards get fewer voters.
    pub removals: Vec<Removal>,
    /// What the next request gives as its `next_replica_id`.
    pub next_replica_id: u64,
}

/// A shard gets a replica on a node that had none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// Which shard.
    pub shard: ShardId,
    /// The node whose replica goes in return, once the new one votes; one that is no member any
    /// more is named first. `None` where the shard gets more voters.
    pub from: Option<NodeId>,
    /// The node that gets it.
    pub to: NodeId,
}

/// A shard loses a replica and gets none for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removal {
    /// Which shard.
    pub shard: ShardId,
    /// The node that loses it.
    pub node: NodeId,
}

/// Why there is no plan. Nothing is changed; the same request will be refused again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nobody to hold anything.
    #[error("a layout needs at least one member")]
    NoMembers,
    /// No replicas asked for.
    #[error("the replication factor must be at least 1")]
    NoReplicas,
    /// No shards asked for.
    #[error("a cluster has at least one shard")]
    NoShards,
    /// One node given as two members.
    #[error("node {node} is given twice")]
    DuplicateNode {
        /// Which.
        node: NodeId,
    },
    /// The number of shards is fixed when a cluster is founded.
    #[error("the cluster has {has} shards, a layout of {asked} was asked for")]
    ShardCount {
        /// Shards of the previous layout.
        has: usize,
        /// Shards asked for.
        asked: u16,
    },
    /// The counter would give a replica an id that another has, or none.
    #[error("the next replica id is {next}, it must be greater than {given}")]
    ReplicaIdUsed {
        /// The counter.
        next: u64,
        /// The greatest id in use.
        given: u64,
    },
}

/// Decides the next layout. See the crate's page for what is wanted in which order.
///
/// A replica that stays keeps its id; a new one gets the next of the counter, those of the meta
/// group first, then by shard. The replicas of a shard stand with the preferred leader first and
/// the others in the order in which they should take over.
pub fn plan(request: &Request<'_>) -> Result<Plan, Error> {
    let members = checked(request)?;
    let voters = share::voters(members.len(), request.replication_factor);
    let cast = Cast::new(&members, voters);
    let past: Vec<Vec<Past>> =
        (0..usize::from(request.shards)).map(|s| cast.past(request.previous, s)).collect();
    let chosen = choose_replicas(&cast, &past, voters);
    let leaders = choose_leaders(&cast, &past, &chosen);

    let mut ids = Ids { next: request.next_replica_id };
    let meta = meta_replicas(&members, request.previous, &mut ids);
    let shards = chosen.iter().zip(leaders).enumerate().map(|(shard, (chosen, leader))| {
        let before = request.previous.shards.get(shard);
        let id_on = |node| before.and_then(|layout| layout.on(node)).map(|replica| replica.id);
        let nodes = cast.in_order(shard, chosen, leader).into_iter();
        ShardLayout { replicas: nodes.map(|node| ids.replica(node, id_on(node))).collect() }
    });
    let shards = shards.collect();
    Ok(conclude(request.previous, shards, meta, ids.next))
}

/// The members by id, or what is wrong with the request.
fn checked<'a>(request: &Request<'a>) -> Result<Vec<&'a Member>, Error> {
    if request.members.is_empty() {
        return Err(Error::NoMembers);
    }
    if request.replication_factor == 0 {
        return Err(Error::NoReplicas);
    }
    if request.shards == 0 {
        return Err(Error::NoShards);
    }
    let has = request.previous.shards.len();
    if has != 0 && has != usize::from(request.shards) {
        return Err(Error::ShardCount { has, asked: request.shards });
    }
    let shards = request.previous.shards.iter().flat_map(|shard| &shard.replicas);
    let given = shards.chain(&request.previous.meta).map(|r| r.id.0).max().unwrap_or(0);
    if request.next_replica_id <= given {
        return Err(Error::ReplicaIdUsed { next: request.next_replica_id, given });
    }
    let mut members: Vec<&Member> = request.members.iter().collect();
    members.sort_unstable_by_key(|member| member.node);
    match members.windows(2).find(|pair| pair[0].node == pair[1].node) {
        Some(pair) => Err(Error::DuplicateNode { node: pair[0].node }),
        None => Ok(members),
    }
}

/// The members that may hold shards, by id. All indexes of nodes are into this.
struct Cast {
    nodes: Vec<NodeId>,
    holders: Vec<Holder>,
    /// Those with a weight.
    willing: Vec<bool>,
    zone_count: usize,
}

impl Cast {
    /// Those with a weight if they are enough; else all, and those with a weight hold everything.
    fn new(members: &[&Member], voters: usize) -> Self {
        let willing = members.iter().filter(|member| member.weight > 0).count();
        let enough = willing >= voters;
        let members: Vec<&Member> =
            members.iter().copied().filter(|member| member.weight > 0 || !enough).collect();
        let names: BTreeMap<Option<&str>, ()> =
            members.iter().map(|member| (member.zone.as_deref(), ())).collect();
        let zone_of =
            |member: &Member| names.keys().position(|name| *name == member.zone.as_deref());
        let holder = |member: &&Member| Holder {
            zone: zone_of(member).unwrap_or_default(),
            weight: u64::from(member.weight.max(1)),
            full: !enough && member.weight > 0,
        };
        Self {
            nodes: members.iter().map(|member| member.node).collect(),
            holders: members.iter().map(holder).collect(),
            willing: members.iter().map(|member| member.weight > 0).collect(),
            zone_count: names.len(),
        }
    }

    /// What each node had to do with a shard.
    fn past(&self, previous: &Layout, shard: usize) -> Vec<Past> {
        let replicas = previous.shards.get(shard).map_or(&[][..], |layout| &layout.replicas);
        let past = |node: &NodeId| match replicas.iter().position(|r| r.node == *node) {
            Some(0) => Past::Led,
            Some(_) => Past::Held,
            None => Past::New,
        };
        self.nodes.iter().map(past).collect()
    }

    /// All nodes, in the order in which a shard tries them.
    fn tries(&self, shard: usize) -> Vec<usize> {
        let mut tries: Vec<usize> = (0..self.nodes.len()).collect();
        tries.sort_by_cached_key(|node| (tie(shard, self.nodes[*node]), *node));
        tries
    }

    /// The leader first, then the others as the shard tries them.
    fn in_order(&self, shard: usize, chosen: &[usize], leader: usize) -> Vec<NodeId> {
        let mut order = chosen.to_vec();
        order.sort_by_cached_key(|node| (*node != leader, tie(shard, self.nodes[*node]), *node));
        order.into_iter().map(|node| self.nodes[node]).collect()
    }
}

fn choose_replicas(cast: &Cast, past: &[Vec<Past>], voters: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..past.len()).collect();
    order.sort_by_cached_key(|shard| (shard_tie(*shard), *shard));
    let held: Vec<Vec<bool>> =
        past.iter().map(|nodes| nodes.iter().map(|past| *past != Past::New).collect()).collect();
    let tries: Vec<Vec<usize>> = (0..past.len()).map(|shard| cast.tries(shard)).collect();
    let shares = share::shares(&cast.holders, cast.zone_count, voters, past.len() as u64);
    replicas::assign(&Task {
        holders: &cast.holders,
        tries: &tries,
        held: &held,
        order: &order,
        shares: &shares,
        voters,
    })
}

/// The leader of each shard, as an index of a node.
fn choose_leaders(cast: &Cast, past: &[Vec<Past>], chosen: &[Vec<usize>]) -> Vec<usize> {
    let seats = |(shard, chosen): (usize, &Vec<usize>)| -> Vec<Seat> {
        let mut nodes = chosen.clone();
        // One without a weight leads nothing, where any other could.
        if nodes.iter().any(|node| cast.willing[*node]) {
            nodes.retain(|node| cast.willing[*node]);
        }
        nodes.sort_by_cached_key(|node| (tie(shard, cast.nodes[*node]), *node));
        nodes.into_iter().map(|node| Seat { node, past: past[shard][node] }).collect()
    };
    let seats: Vec<Vec<Seat>> = chosen.iter().enumerate().map(seats).collect();
    let leaders = leaders::choose(&seats, cast.nodes.len());
    seats.iter().zip(leaders).map(|(seats, leader)| seats[leader].node).collect()
}

/// One replica per member: those that stay as they stood, then the new ones by node id.
fn meta_replicas(members: &[&Member], previous: &Layout, ids: &mut Ids) -> Vec<Replica> {
    let is_member = |node| members.binary_search_by_key(&node, |member| member.node).is_ok();
    let mut meta: Vec<Replica> =
        previous.meta.iter().copied().filter(|replica| is_member(replica.node)).collect();
    for member in members {
        if !meta.iter().any(|replica| replica.node == member.node) {
            meta.push(ids.replica(member.node, None));
        }
    }
    meta
}

/// Gives out replica ids.
struct Ids {
    next: u64,
}

impl Ids {
    /// A replica under the id it has, or under a new one.
    fn replica(&mut self, node: NodeId, id: Option<ReplicaId>) -> Replica {
        let id = id.unwrap_or_else(|| {
            self.next += 1;
            ReplicaId(self.next - 1)
        });
        Replica { node, id }
    }
}

/// Numbers the layout and says what it changes.
fn conclude(
    previous: &Layout,
    shards: Vec<ShardLayout>,
    meta: Vec<Replica>,
    next_replica_id: u64,
) -> Plan {
    let changed = shards != previous.shards || meta != previous.meta;
    let layout = Layout { epoch: previous.epoch + u64::from(changed), shards, meta };
    let (mut moves, mut removals) = (Vec::new(), Vec::new());
    for (number, after) in layout.shards.iter().enumerate() {
        let shard = ShardId(number as u16);
        let before = previous.shards.get(number).map_or(&[][..], |before| &before.replicas);
        let mut gone: Vec<NodeId> =
            before.iter().map(|r| r.node).filter(|node| after.on(*node).is_none()).collect();
        gone.sort_by_key(|node| (layout.meta.iter().any(|r| r.node == *node), *node));
        let mut gone = gone.into_iter();
        let is_new = |to: &NodeId| !before.iter().any(|replica| replica.node == *to);
        let new = after.replicas.iter().map(|replica| replica.node).filter(is_new);
        moves.extend(new.map(|to| Move { shard, from: gone.next(), to }));
        removals.extend(gone.map(|node| Removal { shard, node }));
    }
    Plan { layout, moves, removals, next_replica_id }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
