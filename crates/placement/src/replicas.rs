//! Which node holds which shard, as a flow.
//!
//! ```text
//!            replicas         per zone           0 if held before, else 1     share
//! source ───────────► shard ───────────► hub ───────────────────────► node ─────────► sink
//! ```
//!
//! One unit is one replica. A lower bound is a part of the edge's capacity with
//! a reward greater than all moves together could cost, so it is filled first.
//! A zone gets a hub in front of its nodes only where its bounds say more than
//! the nodes' own edges can.

use crate::flow::Network;
use crate::share::{Bounds, Holder, Shares};

/// What the flow is made from.
pub(crate) struct Task<'a> {
    /// Who may hold replicas.
    pub(crate) holders: &'a [Holder],
    /// By shard: holders in the order in which they are tried.
    pub(crate) tries: &'a [Vec<usize>],
    /// By shard: whether a holder holds it already.
    pub(crate) held: &'a [Vec<bool>],
    /// Shards in the order in which they are served.
    pub(crate) order: &'a [usize],
    /// The bounds to keep.
    pub(crate) shares: &'a Shares,
    /// Replicas of each shard.
    pub(crate) voters: usize,
}

/// Chooses the holders of every shard, as few of them new as the bounds allow. Sorted by holder.
pub(crate) fn assign(task: &Task<'_>) -> Vec<Vec<usize>> {
    let mut build = Build::new(task);
    for &shard in task.order {
        build.shard(shard);
    }
    for (holder, share) in task.shares.holders.iter().enumerate() {
        build.bounded(build.node(holder), build.sink, *share);
    }
    let sent = build.network.solve();
    debug_assert_eq!(sent, (task.voters * task.order.len()) as u64, "the shares can be kept");
    build.chosen(task.order.len())
}

struct Build<'a> {
    task: &'a Task<'a>,
    network: Network,
    /// By zone: its number among the zones that have a hub.
    hubs: Vec<Option<usize>>,
    hub_count: usize,
    sink: usize,
    /// More than all moves together cost.
    reward: i64,
    /// Edge, shard and holder of each possible replica.
    candidates: Vec<(usize, usize, usize)>,
}

impl<'a> Build<'a> {
    fn new(task: &'a Task<'a>) -> Self {
        let mut hub_count = 0;
        let hub = |(zone, bounds): (usize, &Bounds)| {
            let size = task.holders.iter().filter(|h| h.zone == zone).count() as u64;
            let needed = needs_hub(*bounds, size);
            hub_count += usize::from(needed);
            needed.then(|| hub_count - 1)
        };
        let hubs: Vec<_> = task.shares.zones.iter().enumerate().map(hub).collect();
        let shards = task.order.len();
        let sink = 1 + shards + shards * hub_count + task.holders.len();
        Self {
            task,
            network: Network::new(sink + 1),
            hubs,
            hub_count,
            sink,
            reward: (task.voters * shards + 1) as i64,
            candidates: Vec::with_capacity(shards * task.holders.len()),
        }
    }

    fn node(&self, holder: usize) -> usize {
        self.sink - self.task.holders.len() + holder
    }

    /// One shard: from the source, over its hubs, to the nodes.
    fn shard(&mut self, shard: usize) {
        let vertex = 1 + shard;
        self.network.edge(0, vertex, self.task.voters as u64, 0);
        let first_hub = 1 + self.task.order.len() + shard * self.hub_count;
        for (zone, bounds) in self.task.shares.zones.iter().enumerate() {
            if let Some(hub) = self.hubs[zone] {
                self.bounded(vertex, first_hub + hub, *bounds);
            }
        }
        for &holder in &self.task.tries[shard] {
            let zone = self.task.holders[holder].zone;
            let from = self.hubs[zone].map_or(vertex, |hub| first_hub + hub);
            // Without a hub a zone's lower bound is nothing or all of its nodes.
            let wanted = self.hubs[zone].is_none() && self.task.shares.zones[zone].min > 0;
            let moved = i64::from(!self.task.held[shard][holder]);
            let cost = if wanted { moved - self.reward } else { moved };
            let edge = self.network.edge(from, self.node(holder), 1, cost);
            self.candidates.push((edge, shard, holder));
        }
    }

    fn bounded(&mut self, from: usize, to: usize, bounds: Bounds) {
        if bounds.min > 0 {
            self.network.edge(from, to, bounds.min, -self.reward);
        }
        if bounds.max > bounds.min {
            self.network.edge(from, to, bounds.max - bounds.min, 0);
        }
    }

    fn chosen(&self, shards: usize) -> Vec<Vec<usize>> {
        let mut chosen = vec![Vec::with_capacity(self.task.voters); shards];
        for &(edge, shard, holder) in &self.candidates {
            if self.network.flow(edge) > 0 {
                chosen[shard].push(holder);
            }
        }
        chosen.iter_mut().for_each(|holders| holders.sort_unstable());
        chosen
    }
}

/// Whether a zone's bounds say more than "none or all of its nodes at least, all at most".
fn needs_hub(bounds: Bounds, size: u64) -> bool {
    let floor_says_more = bounds.min != 0 && bounds.min != size;
    floor_says_more || bounds.max < size
}
