//! A fault, done to the cluster.

use stemedb_types::{NodeId, ReplicaId};
use stemedb_wal::disk::Disk;
use stemedb_wal::planted::{self, Bug};

use super::{Act, Cluster, NODES_MAX, zone};
use crate::net::Weather;
use crate::node::Node;
use crate::schedule::Fault;

impl Cluster {
    /// Lets a fault happen; whether it could.
    pub(super) async fn strike(&mut self, fault: &Fault) -> bool {
        let net = self.world.net.clone();
        let id = |number: usize| self.nodes[number].id;
        match *fault {
            Fault::Crash { node, power, down_ms } => {
                if !self.nodes[node].is_up() {
                    return false;
                }
                self.crash(node, power);
                self.after(down_ms, Act::Start(node));
            }
            Fault::CrashInWrite { node, changes, .. } => self.nodes[node].log.crash_after(changes),
            Fault::PowerCut { down_ms } => {
                for node in 0..self.nodes.len() {
                    if self.nodes[node].is_up() {
                        self.crash(node, true);
                        let more_ms = self.draw.below(500);
                        self.after(down_ms + more_ms, Act::Start(node));
                    }
                }
            }
            Fault::Pause { node, for_ms } => {
                let Some(life) = &self.nodes[node].life else { return false };
                life.process.pause();
                self.after(for_ms, Act::Resume(node));
            }
            Fault::Isolate { node, for_ms } => {
                for other in (0..self.nodes.len()).filter(|other| *other != node) {
                    net.cut(id(node), id(other));
                    net.cut(id(other), id(node));
                }
                self.after(for_ms, Act::Heal);
            }
            Fault::CutPair { one, other, for_ms } => {
                net.cut(id(one), id(other));
                net.cut(id(other), id(one));
                self.after(for_ms, Act::Heal);
            }
            Fault::CutOneWay { from, to, for_ms } => {
                net.cut(id(from), id(to));
                self.after(for_ms, Act::Heal);
            }
            Fault::Bridge { node, for_ms } => {
                let others: Vec<usize> = (0..self.nodes.len()).filter(|o| *o != node).collect();
                let (left, right) = others.split_at(others.len() / 2);
                for (one, other) in left.iter().flat_map(|l| right.iter().map(move |r| (*l, *r))) {
                    net.cut(id(one), id(other));
                    net.cut(id(other), id(one));
                }
                self.after(for_ms, Act::Heal);
            }
            Fault::Storm { loss_per_mille, twice_per_mille, delay_us, for_ms } => {
                let delay_us = (50, delay_us);
                net.set_weather(Weather { delay_us, loss_per_mille, twice_per_mille });
                self.after(for_ms, Act::Clear);
            }
            Fault::SlowDisk { node, sync_us, for_ms } => {
                self.nodes[node].set_sync_us(sync_us / 4..=sync_us);
                self.after(for_ms, Act::Quicken(node));
            }
            Fault::FailSync { node, after } => self.nodes[node].log.fail_syncs_after(after),
            Fault::FlipBit { node, place } => return self.flip(node, place),
            Fault::Wipe { node, down_ms } => return self.wipe(node, down_ms),
            Fault::ClockJump { node, by_ms } => {
                let node = &mut self.nodes[node];
                node.clock_ms += by_ms;
                if let Some(known) = self.shared.directory().nodes.get_mut(&node.id) {
                    known.1 = node.clock_ms;
                }
            }
            Fault::HandOver { group } => {
                let group = self.groups[group % self.groups.len()];
                let replicas = self.open_replicas(group);
                let Some((_, leader)) = replicas.iter().find(|(_, r)| r.leading_term().is_some())
                else {
                    return false;
                };
                let (to, _) = leader.members();
                let to: Vec<ReplicaId> =
                    to.into_iter().filter(|id| *id != leader.replica()).collect();
                if to.is_empty() {
                    return false;
                }
                let to = to[self.draw.below(to.len() as u64) as usize];
                let _ = leader.transfer_leadership(to).await;
            }
            Fault::JoinOrLeave => return self.join_or_leave().await,
        }
        true
    }

    /// Whether this node may lose something for good: no other has.
    fn may_hurt(&self, node: usize) -> bool {
        self.hurt.iter().all(|hurt| *hurt == node)
    }

    async fn join_or_leave(&mut self) -> bool {
        let joined = self.nodes.iter().filter(|node| !node.leaving).count();
        let newcomer = self.nodes.iter().rposition(|node| !node.leaving && node.joined);
        match newcomer {
            Some(number) if self.draw.one_in(2) => {
                self.nodes[number].leaving = true;
                let id = self.nodes[number].id;
                self.tell("world", format_args!("node {id} is to leave"));
            }
            _ if joined < NODES_MAX && self.nodes.len() < 2 * NODES_MAX => {
                let id = NodeId(self.next_node);
                self.next_node += 1;
                let (staging, draw) = (self.nodes[0].staging().to_owned(), self.draw.fork());
                let mut node = Node::new(id, &zone(id), staging, draw);
                node.joined = true;
                self.nodes.push(node);
                self.tell("world", format_args!("node {id} joins"));
                self.start(self.nodes.len() - 1).await;
            }
            _ => return false,
        }
        true
    }

    fn flip(&mut self, number: usize, place: u64) -> bool {
        if !self.may_hurt(number) {
            return false;
        }
        let was_up = self.nodes[number].is_up();
        if was_up {
            self.crash(number, false);
        }
        let log = &self.nodes[number].log;
        let names = log.list().unwrap_or_default();
        let segments: Vec<String> =
            names.into_iter().filter(|name| name.ends_with(".wal")).collect();
        if let Some(name) = segments.get(place as usize % segments.len().max(1)) {
            let bytes = log.bytes(name).unwrap_or_default().len().max(1);
            let byte = (place >> 8) as usize % bytes;
            if bytes > 1 {
                log.flip(name, byte, (place & 7) as u8);
            }
            let name = name.clone();
            self.tell("world", format_args!("bit {byte} of {name} flips"));
        }
        // Who can tell what it costs: no other is damaged from here on.
        self.hurt.insert(number);
        if was_up {
            self.after(place % 1000, Act::Start(number));
        }
        true
    }

    fn wipe(&mut self, number: usize, down_ms: u64) -> bool {
        if !self.may_hurt(number) {
            return false;
        }
        let was_up = self.nodes[number].is_up();
        if planted::has(Bug::ReplicaIdReused) {
            // As if an empty disk under a known name were the node it was.
            let (id, held) = (self.nodes[number].id, self.nodes[number].held.clone());
            let world = self.world.clone();
            self.shared.directory().nodes.remove(&id);
            self.nodes[number].wipe(&world, id);
            self.nodes[number].held = held;
            self.after(down_ms, Act::Start(number));
            return true;
        }
        let (id, new) = (self.nodes[number].id, NodeId(self.next_node));
        self.next_node += 1;
        self.shared.directory().nodes.remove(&id);
        for held in self.nodes[number].held.values() {
            self.world.net.give_up(id, held.replica);
        }
        let world = self.world.clone();
        self.nodes[number].wipe(&world, new);
        self.hurt.insert(number);
        if was_up {
            self.after(down_ms, Act::Start(number));
        }
        true
    }
}
