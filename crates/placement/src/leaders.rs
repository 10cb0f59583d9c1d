//! Which replica leads.
//!
//! Every shard has one preferred leader among its replicas. Counts of leaders
//! per node should be as even as the replicas allow (an optimal semi-matching:
//! the sum of their squares is least, which also makes the greatest least and
//! the least greatest); among all such choices the fewest shards change their
//! leader; and among those, a leader that must change is rather a replica that
//! has the data than one that is new.
//!
//! Shards are added one by one. Each takes the cheapest chain "I lead here, so
//! that one leads there instead", found over nodes by Bellman-Ford; successive
//! cheapest chains keep the whole choice the cheapest (Ahuja, Magnanti, Orlin,
//! section 9.7). Costs are one number, the more important part in front.

/// One shard's replicas as the leader's choice sees them.
pub(crate) struct Seat {
    /// The node.
    pub(crate) node: usize,
    /// What it has to do with the shard so far.
    pub(crate) past: Past,
}

/// What a node had to do with a shard in the previous layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Past {
    /// It led.
    Led,
    /// It followed.
    Held,
    /// Nothing.
    New,
}

/// The costs, by what matters more.
struct Costs {
    /// One more leader on a node than a square less would have.
    uneven: i64,
    /// One changed leader.
    changed: i64,
    /// One leader that has no data yet.
    empty: i64,
}

impl Costs {
    fn new(shards: usize) -> Self {
        let empty = 1;
        let changed = shards as i64 + 1;
        Self { empty, changed, uneven: (changed + empty) * (shards as i64 + 1) }
    }

    fn of(&self, past: Past) -> i64 {
        match past {
            Past::Led => 0,
            Past::Held => self.changed,
            Past::New => self.changed + self.empty,
        }
    }
}

/// Chooses, for each shard, the index of its leader's seat. Every shard has at least one seat.
pub(crate) fn choose(shards: &[Vec<Seat>], nodes: usize) -> Vec<usize> {
    let costs = Costs::new(shards.len());
    let mut choice = Choice { shards, costs, seat: Vec::new(), leads: vec![0; nodes] };
    for _ in shards {
        choice.add_next();
    }
    choice.seat
}

struct Choice<'a> {
    shards: &'a [Vec<Seat>],
    costs: Costs,
    /// By shard already added: the leader's seat.
    seat: Vec<usize>,
    /// By node: how many it leads.
    leads: Vec<i64>,
}

/// The cheapest known way to make a node lead one more.
#[derive(Clone, Copy)]
struct Way {
    cost: i64,
    /// The shard that would come to the node, and by which seat.
    shard: usize,
    seat: usize,
}

impl Choice<'_> {
    /// Adds the next shard by the cheapest chain of changes.
    fn add_next(&mut self) {
        let added = self.seat.len();
        let ways = self.ways(added);
        let price = |node: usize| {
            ways[node].map(|way| way.cost + self.costs.uneven * (2 * self.leads[node] + 1))
        };
        let open = (0..ways.len()).filter_map(|node| Some((price(node)?, node)));
        let Some((_, mut node)) = open.min_by_key(|(price, _)| *price) else { return };
        self.leads[node] += 1;
        self.seat.push(usize::MAX);
        while let Some(way) = ways[node] {
            let before = std::mem::replace(&mut self.seat[way.shard], way.seat);
            if way.shard == added {
                return;
            }
            node = self.shards[way.shard][before].node;
        }
    }

    /// The cheapest chain from the shard to be added to every node it can reach.
    fn ways(&self, added: usize) -> Vec<Option<Way>> {
        let mut ways: Vec<Option<Way>> = vec![None; self.leads.len()];
        for (seat, to) in self.shards[added].iter().enumerate() {
            ways[to.node] = Some(Way { cost: self.costs.of(to.past), shard: added, seat });
        }
        // No chain visits a node twice, so as many rounds as there are nodes always suffice.
        for _ in 0..ways.len() {
            let mut settled = true;
            for (shard, leader) in self.seat.iter().enumerate() {
                settled &= !self.relax(shard, *leader, &mut ways);
            }
            if settled {
                break;
            }
        }
        ways
    }

    /// Tries to pass a shard on from its leader to its other seats; `true` if that was cheaper.
    fn relax(&self, shard: usize, leader: usize, ways: &mut [Option<Way>]) -> bool {
        let seats = &self.shards[shard];
        let Some(here) = ways[seats[leader].node] else { return false };
        let without = here.cost - self.costs.of(seats[leader].past);
        let mut cheaper = false;
        for (seat, to) in seats.iter().enumerate() {
            let cost = without + self.costs.of(to.past);
            if seat != leader && ways[to.node].is_none_or(|way| cost < way.cost) {
                ways[to.node] = Some(Way { cost, shard, seat });
                cheaper = true;
            }
        }
        cheaper
    }
}
