//! A fault, done to the cluster.

use std::time::Duration;

use stemedb_raft::Group;
use stemedb_types::{GroupId, NodeId, ReplicaId};
use stemedb_wal::disk::Disk;
use stemedb_wal::planted::{self, Bug};
use tokio::time::{Instant, timeout};

use super::{Act, Cluster, NODES_MAX, zone};
use crate::net::Weather;
use crate::node::Node;
use crate::schedule::Fault;

/// What of a log counts as its newest records.
const NEWEST_BYTES: usize = 4 << 10;
const SECTOR_BYTES: u64 = 512;
/// How long the world waits for a process that it asks something.
const ASKED_MAX: Duration = Duration::from_millis(100);

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
                self.isolate(node);
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
            Fault::FlipBit { node, place } => return self.flip(node, place, false),
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
                let to = leader.members().voters;
                let to: Vec<ReplicaId> =
                    to.into_iter().filter(|id| *id != leader.replica()).collect();
                if to.is_empty() {
                    return false;
                }
                let to = to[self.draw.below(to.len() as u64) as usize];
                // Its process may stand still.
                let _ = timeout(ASKED_MAX, leader.transfer_leadership(to)).await;
            }
            Fault::JoinOrLeave => return self.join_or_leave().await,
            Fault::Coup { group, sync_us, for_ms } => return self.coup(group, sync_us, for_ms),
            Fault::Relay { group, behind_ms, place, down_ms } => {
                return self.relay(group, behind_ms, place, down_ms);
            }
            Fault::Rival { for_ms } => {
                let Some((leader, _)) = self.voters(GroupId::META) else { return false };
                self.isolate(leader);
                self.after(for_ms, Act::Heal);
                return self.join_or_leave().await;
            }
            Fault::BadSector { node, place } => return self.spoil(node, place),
            Fault::Rumour { group, for_ms } => return self.rumour(group, for_ms).await,
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
                let (place, draw) = (self.nodes[0].place().clone(), self.draw.fork());
                let mut node = match Node::new(id, &zone(id), place, draw) {
                    Ok(node) => node,
                    Err(cause) => return self.cannot_go_on(cause),
                };
                node.joined = true;
                self.nodes.push(node);
                self.tell("world", format_args!("node {id} joins"));
                self.start(self.nodes.len() - 1).await;
            }
            _ => return false,
        }
        true
    }

    /// What the simulation itself could not do ends the run.
    fn cannot_go_on(&mut self, cause: String) -> bool {
        self.wrong.get_or_insert(cause);
        false
    }

    /// Turns a bit of a node's log while it is down.
    fn flip(&mut self, number: usize, place: u64, newest: bool) -> bool {
        if !self.may_hurt(number) {
            return false;
        }
        let was_up = self.nodes[number].is_up();
        if was_up {
            self.crash(number, false);
        }
        if let Some((name, byte)) = self.somewhere(number, place, newest) {
            self.nodes[number].log.flip(&name, byte, (place & 7) as u8);
            self.damaged.insert(self.nodes[number].id);
            self.tell("world", format_args!("bit {byte} of {name} flips"));
        }
        // Who can tell what it costs: no other is damaged from here on.
        self.hurt.insert(number);
        if was_up {
            self.after(place % 1000, Act::Start(number));
        }
        true
    }

    /// A byte of a node's log; `newest`: of what was written last. Not of the newest segment's last
    /// two writes: the last batch that a crash leaves looks torn when it is damaged, for nothing
    /// behind it proves that it was synced (ADR 14), and no log can tell the two apart.
    fn somewhere(&self, number: usize, place: u64, newest: bool) -> Option<(String, usize)> {
        let log = &self.nodes[number].log;
        let mut segments = log.list().unwrap_or_default();
        segments.retain(|name| name.ends_with(".wal"));
        let last = segments.iter().max()?.clone();
        let name = if newest {
            last.clone()
        } else {
            segments.swap_remove(place as usize % segments.len())
        };
        let bytes = log.bytes(&name)?;
        let mut end = bytes.iter().rposition(|byte| *byte != 0)? + 1;
        if name == last {
            let [before_last, _] = log.last_writes(&name)[..] else { return None };
            end = end.min(before_last);
        }
        let from = if newest { end.saturating_sub(NEWEST_BYTES) } else { 0 };
        let among = (end - from).max(1);
        (end > 0).then(|| (name, from + (place >> 8) as usize % among))
    }

    /// A sector of a running node's log can't be read from now on.
    fn spoil(&mut self, number: usize, place: u64) -> bool {
        if !self.may_hurt(number) {
            return false;
        }
        let Some((name, byte)) = self.somewhere(number, place, false) else { return false };
        let first = byte as u64 / SECTOR_BYTES * SECTOR_BYTES;
        self.nodes[number].log.fail_reads_of(&name, first..first + SECTOR_BYTES);
        self.damaged.insert(self.nodes[number].id);
        self.hurt.insert(number);
        self.latent.insert(number);
        self.tell("world", format_args!("the sector at {first} of {name} can't be read"));
        true
    }

    /// Where the voters of a group are, and which of them leads.
    fn voters(&self, group: GroupId) -> Option<(usize, Vec<usize>)> {
        let replicas = self.open_replicas(group);
        let leads = |(number, replica): &(usize, Group)| Some((replica.leading_term()?, *number));
        let (_, leader) = replicas.iter().filter_map(leads).max()?;
        let (_, replica) = replicas.iter().find(|(number, _)| *number == leader)?;
        let voters = replica.members().voters;
        let held = |node: &Node| node.held.get(&group).is_some_and(|h| voters.contains(&h.replica));
        let places = (0..self.nodes.len()).filter(|number| held(&self.nodes[*number]));
        Some((leader, places.collect()))
    }

    fn coup(&mut self, group: usize, sync_us: u64, for_ms: u64) -> bool {
        let group = self.groups[group % self.groups.len()];
        let Some((leader, voters)) = self.voters(group) else { return false };
        let replica = self.nodes[leader].life.as_ref().and_then(|life| life.groups.get(group));
        let Some(term) = replica.and_then(|replica| replica.leading_term()) else { return false };
        for voter in voters {
            self.nodes[voter].set_sync_us(sync_us / 2..=sync_us);
            self.after(for_ms, Act::Quicken(voter));
        }
        self.crash(leader, true);
        self.after(for_ms / 2, Act::Start(leader));
        let until = Instant::now() + Duration::from_millis(for_ms);
        self.after(1, Act::Coup { group, term, until, for_ms });
        true
    }

    /// Waits for the successor of a leader that died, and strikes then.
    pub(super) fn strike_voters(&mut self, group: GroupId, term: u64, until: Instant, for_ms: u64) {
        let leads = |(leader, _): &(usize, Vec<usize>)| {
            let replica = self.nodes[*leader].life.as_ref()?.groups.get(group)?;
            replica.leading_term().filter(|now| *now > term)
        };
        let Some((leader, voters)) = self.voters(group).filter(|found| leads(found).is_some())
        else {
            if Instant::now() < until {
                self.after(1, Act::Coup { group, term, until, for_ms });
            }
            return;
        };
        self.tell("world", format_args!("a coup in group {group}"));
        self.isolate(leader);
        self.after(for_ms, Act::Heal);
        for voter in voters.into_iter().filter(|voter| *voter != leader) {
            if self.nodes[voter].is_up() {
                self.crash(voter, true);
                let soon_ms = self.draw.range(1..=60);
                self.after(soon_ms, Act::Start(voter));
            }
        }
    }

    fn relay(&mut self, group: usize, behind_ms: u64, place: u64, down_ms: u64) -> bool {
        let group = self.groups[group % self.groups.len()];
        let Some((leader, voters)) = self.voters(group) else { return false };
        let others: Vec<usize> = voters.into_iter().filter(|voter| *voter != leader).collect();
        if others.is_empty() {
            return false;
        }
        let behind = others[self.draw.below(others.len() as u64) as usize];
        self.isolate(behind);
        self.after(behind_ms, Act::Relay { group, behind, place, down_ms });
        true
    }

    /// The second half of [`Fault::Relay`].
    pub(super) fn pass_on(&mut self, group: GroupId, behind: usize, place: u64, down_ms: u64) {
        self.world.net.heal();
        let Some((_, voters)) = self.voters(group) else { return };
        let up = |number: &usize| *number != behind && self.nodes[*number].is_up();
        let knowing: Vec<usize> = voters.into_iter().filter(up).collect();
        if knowing.len() < 2 {
            return;
        }
        let first = knowing[self.draw.below(knowing.len() as u64) as usize];
        for number in knowing {
            self.crash(number, true);
            if number != first {
                self.after(down_ms, Act::Start(number));
            }
        }
        if place & 0x80 == 0 {
            self.flip(first, place, true);
        }
        let soon_ms = self.draw.range(1..=30);
        self.after(soon_ms, Act::Start(first));
    }

    /// Some of a group's voters believe that its leader is gone, and one of them stands.
    async fn rumour(&mut self, group: usize, for_ms: u64) -> bool {
        let group = self.groups[group % self.groups.len()];
        let Some((leader, voters)) = self.voters(group) else { return false };
        let others: Vec<usize> = voters.into_iter().filter(|voter| *voter != leader).collect();
        let (net, about) = (self.world.net.clone(), self.nodes[leader].id);
        for other in &others {
            if !self.draw.one_in(8) {
                net.spread(self.nodes[*other].id, about);
            }
        }
        self.after(for_ms, Act::Hush(about));
        let candidates = self.open_replicas(group);
        let candidates: Vec<_> = candidates.iter().filter(|(n, _)| others.contains(n)).collect();
        if candidates.is_empty() {
            return false;
        }
        let (_, candidate) = candidates[self.draw.below(candidates.len() as u64) as usize];
        let _ = timeout(ASKED_MAX, candidate.stand()).await;
        true
    }

    fn isolate(&self, node: usize) {
        let (net, id) = (&self.world.net, |number: usize| self.nodes[number].id);
        for other in (0..self.nodes.len()).filter(|other| *other != node) {
            net.cut(id(node), id(other));
            net.cut(id(other), id(node));
        }
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
            if let Err(cause) = self.nodes[number].wipe(&world, id) {
                return self.cannot_go_on(cause);
            }
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
        if let Err(cause) = self.nodes[number].wipe(&world, new) {
            return self.cannot_go_on(cause);
        }
        self.hurt.insert(number);
        if was_up {
            self.after(down_ms, Act::Start(number));
        }
        true
    }
}
