//! Min-cost flow.
//!
//! The primal-dual method: shortest distances by reduced cost (Dijkstra with
//! potentials), then a blocking flow over the edges on shortest paths (Dinic),
//! until the sink can't be reached. Every flow on the way is the cheapest of
//! its size, so the last one is the cheapest of the largest (Ahuja, Magnanti,
//! Orlin, *Network Flows*, 1993, section 9.8). There are as many rounds as
//! there are distinct path costs, which for a plan is a handful.
//!
//! Ties are broken by the order in which edges were added, and by nothing else.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// "Not reached" as a distance.
const FAR: i64 = i64::MAX;
/// "Not reached" as a level.
const UNSEEN: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Edge {
    to: usize,
    left: u64,
    cost: i64,
}

/// A network whose edges all go from a lower vertex to a higher one. Vertex 0 is the source, the
/// last one the sink.
#[derive(Debug)]
pub(crate) struct Network {
    /// Each edge is followed by its reverse.
    edges: Vec<Edge>,
    /// By vertex: its edges, reverse ones included, in the order they were added.
    out: Vec<Vec<usize>>,
    potential: Vec<i64>,
    level: Vec<u32>,
    next: Vec<usize>,
}

impl Network {
    /// A network without edges.
    pub(crate) fn new(vertices: usize) -> Self {
        Self {
            edges: Vec::new(),
            out: vec![Vec::new(); vertices],
            potential: vec![0; vertices],
            level: vec![UNSEEN; vertices],
            next: vec![0; vertices],
        }
    }

    /// Adds an edge from a lower vertex to a higher one and gives back its name.
    pub(crate) fn edge(&mut self, from: usize, to: usize, capacity: u64, cost: i64) -> usize {
        debug_assert!(from < to, "edges go up");
        let name = self.edges.len();
        self.edges.push(Edge { to, left: capacity, cost });
        self.edges.push(Edge { to: from, left: 0, cost: -cost });
        self.out[from].push(name);
        self.out[to].push(name + 1);
        name
    }

    /// Units that flow through an edge.
    pub(crate) fn flow(&self, edge: usize) -> u64 {
        self.edges[edge + 1].left
    }

    /// Sends as much as can be sent from source to sink at the least cost. Returns how much.
    pub(crate) fn solve(&mut self) -> u64 {
        let sink = self.out.len() - 1;
        let mut total = 0;
        self.first_potentials();
        while self.raise_potentials(sink) {
            while self.set_levels(sink) {
                self.next.fill(0);
                loop {
                    let sent = self.push(0, sink, u64::MAX);
                    if sent == 0 {
                        break;
                    }
                    total += sent;
                }
            }
        }
        total
    }

    /// Shortest distances in the empty flow, where costs may be negative: since edges go up, one
    /// pass in vertex order finds them all.
    fn first_potentials(&mut self) {
        let mut distance = vec![FAR; self.out.len()];
        distance[0] = 0;
        for vertex in 0..self.out.len() {
            if distance[vertex] == FAR {
                continue;
            }
            for edge in self.out[vertex].iter().map(|name| self.edges[*name]) {
                if edge.left > 0 {
                    distance[edge.to] = distance[edge.to].min(distance[vertex] + edge.cost);
                }
            }
        }
        self.potential = distance.into_iter().map(|d| if d == FAR { 0 } else { d }).collect();
    }

    /// Cost of an edge as seen from the potentials: never negative where there is capacity.
    fn reduced(&self, from: usize, edge: Edge) -> i64 {
        edge.cost + self.potential[from] - self.potential[edge.to]
    }

    /// Raises the potentials by the shortest distances; `false` if the sink is out of reach.
    fn raise_potentials(&mut self, sink: usize) -> bool {
        let mut distance = vec![FAR; self.out.len()];
        let mut queue = BinaryHeap::from([Reverse((0, 0))]);
        distance[0] = 0;
        while let Some(Reverse((near, vertex))) = queue.pop() {
            if near > distance[vertex] {
                continue;
            }
            for edge in self.out[vertex].iter().map(|name| self.edges[*name]) {
                if edge.left == 0 {
                    continue;
                }
                let far = near + self.reduced(vertex, edge);
                debug_assert!(far >= near, "reduced costs are never negative");
                if far < distance[edge.to] {
                    distance[edge.to] = far;
                    queue.push(Reverse((far, edge.to)));
                }
            }
        }
        let reach = distance[sink];
        if reach == FAR {
            return false;
        }
        for (potential, distance) in self.potential.iter_mut().zip(distance) {
            *potential += distance.min(reach);
        }
        true
    }

    /// Counts steps from the source over edges of no reduced cost; `false` if the sink has none.
    fn set_levels(&mut self, sink: usize) -> bool {
        self.level.fill(UNSEEN);
        self.level[0] = 0;
        let mut queue = VecDeque::from([0]);
        while let Some(vertex) = queue.pop_front() {
            for edge in self.out[vertex].iter().map(|name| self.edges[*name]) {
                let open = edge.left > 0 && self.level[edge.to] == UNSEEN;
                if open && self.reduced(vertex, edge) == 0 {
                    self.level[edge.to] = self.level[vertex] + 1;
                    queue.push_back(edge.to);
                }
            }
        }
        self.level[sink] != UNSEEN
    }

    /// Sends up to `limit` from `vertex` along one path of rising levels; 0 if there is none left.
    /// The depth is the number of levels, at most twice the nodes of a cluster and a few.
    fn push(&mut self, vertex: usize, sink: usize, limit: u64) -> u64 {
        if vertex == sink {
            return limit;
        }
        while let Some(&name) = self.out[vertex].get(self.next[vertex]) {
            let edge = self.edges[name];
            let onward = edge.left > 0 && self.level[edge.to] == self.level[vertex] + 1;
            if onward && self.reduced(vertex, edge) == 0 {
                let sent = self.push(edge.to, sink, limit.min(edge.left));
                if sent > 0 {
                    self.edges[name].left -= sent;
                    self.edges[name ^ 1].left += sent;
                    return sent;
                }
            }
            self.next[vertex] += 1;
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cheapest_of_the_largest_flows_is_found_even_if_it_undoes_the_first_path() {
        // Cheapest first path 0-1-2-3 blocks the only way to send two units.
        let mut network = Network::new(4);
        let up = network.edge(0, 1, 1, 0);
        let straight = network.edge(0, 2, 1, 5);
        let across = network.edge(1, 2, 1, 0);
        let down = network.edge(1, 3, 1, 5);
        let end = network.edge(2, 3, 1, 0);
        assert_eq!(network.solve(), 2);
        assert_eq!([up, straight, across, down, end].map(|e| network.flow(e)), [1, 1, 0, 1, 1]);
    }

    #[test]
    fn a_reward_on_an_edge_makes_it_mandatory_where_that_is_possible() {
        let mut network = Network::new(4);
        network.edge(0, 1, 3, 0);
        network.edge(0, 2, 3, 0);
        let mandatory = network.edge(1, 3, 1, -100);
        let cheap = network.edge(2, 3, 2, 0);
        let dear = network.edge(1, 3, 3, 1);
        assert_eq!(network.solve(), 5);
        assert_eq!([mandatory, cheap, dear].map(|e| network.flow(e)), [1, 2, 2]);
    }

    #[test]
    fn a_sink_out_of_reach_gets_nothing() {
        let mut network = Network::new(3);
        network.edge(0, 1, 7, 0);
        assert_eq!(network.solve(), 0);
    }
}
