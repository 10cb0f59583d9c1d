//! One member of the protocol, without a socket and without a clock.
//!
//! Opened packets and the time go in, frames to send and the picture of the cluster come out; the
//! driver does the rest. SWIM itself is foca's; what is decided here is what foca leaves to its
//! host:
//!
//! - *Whom to let in.* Packets from another cluster are refused, and members of another cluster
//!   are taken out of packets from a blank node, which may know several. News of our own node id
//!   in another life never reaches foca: it would declare that life down, even a newer one.
//! - *How to join.* Knock, learn an identity, announce to it (see `wire`).
//! - *When to say what we are.* An announcement is passed on for a while and then forgotten, so it
//!   is made again: under a new identity; when a member comes or begins a new life, for it has
//!   heard nothing yet; and in any case every `reannounce`, for what was lost. Where many come at
//!   once it is made once per probe period.
//! - *When to renew.* Told that it is down, a node takes a higher incarnation and announces
//!   itself again, once per probe period at most. Two living processes under one id do this to
//!   each other for as long as both live, the newer life shown, the older told that it is down;
//!   so from the first sight of a double the pace is that of joining.
//!
//! Invariants: the incarnation only grows; after each call foca's outputs are drained, so no
//! wake-up it asked for is lost.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Instant;

use foca::{AccumulatingRuntime, Foca, OwnedNotification, State};
use rand::rngs::StdRng;
use stemedb_types::{ClusterId, DecodeError};

use crate::Error;
use crate::identity::Identity;
use crate::members::{Member, MemberState, Members, picture};
use crate::news::{Board, News};
use crate::profile::Profile;
use crate::timers::Timers;
use crate::timing::{Timing, planned_size};
use crate::wire::{Codec, Frame, Packet};

/// How many members a node with a new identity announces itself to.
const ANNOUNCED_MAX: usize = 3;

/// How often the farewell is sent, each time to three members chosen by chance: nobody confirms
/// it, and one lost packet should not cost the cluster a suspicion.
const FAREWELLS: usize = 3;

/// Why an opened packet was not acted on. A `Double` is noted, and where only an item of news makes
/// no sense, all that stands before it was taken; else nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Junk, or a message or item of news that makes no sense.
    Malformed,
    /// Of a newer format.
    Newer,
    /// From another cluster.
    Foreign,
    /// No packet for us: whom we knocked at belongs to this other cluster, and says so.
    OtherCluster(ClusterId),
    /// From another process under our own node id.
    Double,
}

/// A frame on its way out, not sealed yet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outgoing {
    pub to: SocketAddr,
    pub frame: Vec<u8>,
}

/// See the module's story.
pub(crate) struct Agent {
    foca: Foca<Identity, Codec, StdRng, Board>,
    asked: AccumulatingRuntime<Identity>,
    timers: Timers,
    timing: Timing,
    sized_for: NonZeroU32,
    /// The highest incarnation of ours that others have spoken of.
    floor: u64,
    renewed_at: Option<Instant>,
    renew_at: Option<Instant>,
    double: Option<Member>,
    /// What is known of everyone's profile; foca writes on it.
    board: Board,
    profile: Arc<Profile>,
    /// Of our newest announcement.
    number: u64,
    announced_at: Option<Instant>,
    /// Never while we are alone.
    announce_at: Option<Instant>,
    out: Vec<Outgoing>,
}

impl Agent {
    pub(crate) fn new(identity: Identity, profile: Profile, timing: Timing, rng: StdRng) -> Self {
        let sized_for = planned_size(1);
        let (board, config) = (Board::new(&identity), timing.config(sized_for));
        let mut agent = Self {
            foca: Foca::with_custom_broadcast(identity, config, rng, Codec, board.clone()),
            asked: AccumulatingRuntime::new(),
            timers: Timers::default(),
            timing,
            sized_for,
            floor: 0,
            renewed_at: None,
            renew_at: None,
            double: None,
            board,
            profile: Arc::new(profile),
            number: 0,
            announced_at: None,
            announce_at: None,
            out: Vec::new(),
        };
        agent.tell();
        agent
    }

    pub(crate) fn identity(&self) -> &Identity {
        self.foca.identity()
    }

    /// No other member is known to be alive.
    pub(crate) fn is_alone(&self) -> bool {
        self.foca.num_members() == 0
    }

    pub(crate) fn members(&self) -> Members {
        let profiles = self.board.profiles();
        picture(self.identity(), self.foca.iter_membership_state(), self.double, profiles)
    }

    /// How many items of news came in a later format since the last call.
    pub(crate) fn take_unread(&mut self) -> u64 {
        self.board.take_unread()
    }

    /// The frames to send since the last call.
    pub(crate) fn take_out(&mut self) -> Vec<Outgoing> {
        std::mem::take(&mut self.out)
    }

    /// When `tick` has something to do.
    pub(crate) fn next_at(&self) -> Option<Instant> {
        [self.timers.next_at(), self.renew_at, self.announce_at].into_iter().flatten().min()
    }

    /// Does what is due.
    pub(crate) fn tick(&mut self, now: Instant) {
        while let Some(timer) = self.timers.pop_due(now) {
            match self.foca.handle_timer(timer, &mut self.asked) {
                Ok(()) => {}
                Err(foca::Error::IncompleteProbeCycle) => {
                    tracing::warn!("gossip stalled on this node: a probe was not finished in time");
                }
                Err(error) => tracing::warn!(%error, "gossip timer failed"),
            }
            self.settle(now);
        }
        if self.renew_at.is_some_and(|at| at <= now) {
            self.renew(now);
        }
        if self.announce_at.is_some_and(|at| at <= now) {
            self.announce_profile(now);
        }
    }

    /// Asks who lives at `target`.
    pub(crate) fn knock(&mut self, target: SocketAddr) {
        let frame = Frame::Knock { from: *self.identity() };
        self.send(target, &frame);
    }

    /// Acts on one opened packet that came from the socket address `source`.
    pub(crate) fn receive(
        &mut self,
        plain: &[u8],
        source: SocketAddr,
        now: Instant,
    ) -> Result<(), Refusal> {
        let frame = Frame::decode(plain).map_err(|error| match error {
            DecodeError::Version { got, known, .. } if got > known => Refusal::Newer,
            _ => Refusal::Malformed,
        });
        match frame? {
            Frame::Swim(packet) => self.swim(packet, now),
            Frame::Knock { from } => self.knocked(from, source),
            Frame::Answer { from, known } => self.answered(from, known, now),
            // What was true of an earlier knock may not be any more: we may have entered it since.
            Frame::Foreign { cluster } => match self.identity().cluster {
                Some(ours) if ours != cluster => Err(Refusal::OtherCluster(cluster)),
                _ => Ok(()),
            },
        }
    }

    /// Enters `cluster`, for good: under a higher incarnation, and without whomever a blank node
    /// may have met of other clusters. Already in it: nothing happens.
    pub(crate) fn set_cluster(&mut self, cluster: ClusterId, now: Instant) -> Result<(), Error> {
        match self.identity().cluster {
            Some(ours) if ours == cluster => return Ok(()),
            Some(ours) => return Err(Error::OtherCluster { ours }),
            None => {}
        }
        let renewed = self.identity().renewed(self.floor).ok_or(Error::IncarnationsUsedUp)?;
        let foreign: Vec<Identity> = (self.foca.iter_members().map(foca::Member::id))
            .filter(|id| id.is_foreign_to(Some(cluster)))
            .copied()
            .collect();
        let down = foreign.into_iter().map(foca::Member::down);
        let forgotten = self.foca.apply_many(down, false, &mut self.asked);
        log_failure(forgotten, "forget foreign members");
        self.become_identity(Identity { cluster: Some(cluster), ..renewed }, now);
        Ok(())
    }

    /// Says farewell. Feed it nothing more after this: it would rise again.
    pub(crate) fn leave(&mut self, now: Instant) {
        log_failure(self.foca.leave_cluster(&mut self.asked), "leave");
        for _ in 1..FAREWELLS {
            log_failure(self.foca.gossip(&mut self.asked), "say farewell");
        }
        self.settle(now);
        self.renew_at = None;
        self.announce_at = None;
    }

    fn swim(&mut self, bytes: &[u8], now: Instant) -> Result<(), Refusal> {
        let mut packet = Packet::decode(bytes).map_err(|_| Refusal::Malformed)?;
        if self.is_echo(&packet.header.src) {
            return Ok(());
        }
        self.admit(&packet.header.src)?;
        let handled = if self.strain(&mut packet) {
            self.foca.handle_data(&packet.encode(), &mut self.asked)
        } else {
            self.foca.handle_data(bytes, &mut self.asked)
        };
        self.settle(now);
        handled.map_err(|error| {
            tracing::debug!(%error, "gossip packet refused");
            Refusal::Malformed
        })
    }

    fn knocked(&mut self, asker: Identity, source: SocketAddr) -> Result<(), Refusal> {
        if self.is_echo(&asker) {
            return Ok(());
        }
        let admitted = self.admit(&asker);
        if admitted == Err(Refusal::Foreign) {
            // Only to a knock, and never an answer to this answer.
            if let Some(cluster) = self.identity().cluster {
                self.send(source, &Frame::Foreign { cluster });
            }
            return admitted;
        }
        // A double is answered too: it has to learn that it is one.
        let known = (self.foca.iter_membership_state().map(foca::Member::id))
            .find(|id| id.node == asker.node)
            .copied();
        let frame = Frame::Answer { from: *self.identity(), known };
        self.send(source, &frame);
        admitted
    }

    fn answered(
        &mut self,
        peer: Identity,
        known: Option<Identity>,
        now: Instant,
    ) -> Result<(), Refusal> {
        if self.is_echo(&peer) {
            return Ok(());
        }
        self.admit(&peer)?;
        let own = *self.identity();
        if let Some(ghost) = known.filter(|known| known.node == own.node && *known != own) {
            self.floor = self.floor.max(ghost.incarnation);
        }
        if self.floor >= own.incarnation {
            self.plan_renewal(now);
            self.tick(now);
        }
        if !self.foca.iter_members().any(|member| *member.id() == peer) {
            log_failure(self.foca.announce(peer, &mut self.asked), "announce");
            self.settle(now);
        }
        Ok(())
    }

    /// Our own packet come back: the join list may name ourselves.
    fn is_echo(&self, from: &Identity) -> bool {
        from.node == self.identity().node && from.gossip == self.identity().gossip
    }

    fn admit(&mut self, from: &Identity) -> Result<(), Refusal> {
        if from.node == self.identity().node {
            self.note_double(from);
            return Err(Refusal::Double);
        }
        if from.is_foreign_to(self.identity().cluster) {
            return Err(Refusal::Foreign);
        }
        Ok(())
    }

    /// Takes out what foca must not see; says whether anything was.
    fn strain(&mut self, packet: &mut Packet) -> bool {
        let own = *self.identity();
        for member in packet.members.iter().filter(|member| member.id().is_double_of(&own)) {
            self.floor = self.floor.max(member.id().incarnation);
            if member.state() != State::Down {
                self.note_double(member.id());
            }
        }
        let count = packet.members.len();
        packet.members.retain(|member| {
            let id = member.id();
            (id.node != own.node || *id == own) && !id.is_foreign_to(own.cluster)
        });
        packet.members.len() != count
    }

    /// Remembers another process under our id, and the number that beats it: when it has ended,
    /// this one must be able to come back.
    fn note_double(&mut self, other: &Identity) {
        self.floor = self.floor.max(other.incarnation);
        let seen = Member::new(other, MemberState::Alive);
        if self.double.is_none_or(|known| known.gossip != seen.gossip) {
            tracing::warn!(node = %seen.node, other = %seen.gossip, "another process uses our node id");
        }
        self.double = Some(seen);
    }

    fn plan_renewal(&mut self, now: Instant) {
        let pause =
            if self.double.is_some() { self.timing.join_joined } else { self.timing.probe_period };
        let at = self.renewed_at.map_or(now, |last| now.max(last + pause));
        self.renew_at = Some(self.renew_at.map_or(at, |planned| planned.min(at)));
    }

    fn renew(&mut self, now: Instant) {
        self.renew_at = None;
        self.renewed_at = Some(now);
        match self.identity().renewed(self.floor) {
            Some(identity) => {
                tracing::info!(incarnation = identity.incarnation, "gossip incarnation renewed");
                self.become_identity(identity, now);
            }
            None => tracing::error!("no incarnation is left: this node stays out of gossip"),
        }
    }

    /// Puts what we are among the news, under a number that was not used yet: as before it would be
    /// no news, and passed on by nobody.
    fn tell(&mut self) {
        self.number += 1;
        let own = self.foca.identity();
        let news = News {
            node: own.node,
            incarnation: own.incarnation,
            number: self.number,
            cluster: own.cluster,
            profile: self.profile.clone(),
        };
        log_failure(self.foca.add_broadcast(&news.encode()).map(drop), "tell what we are");
    }

    /// Tells a few members at once what we are; they pass it on.
    fn announce_profile(&mut self, now: Instant) {
        self.tell();
        log_failure(self.foca.broadcast(&mut self.asked), "announce what we are");
        self.announced_at = Some(now);
        // Alone there is nobody to tell, and who comes makes us plan anew.
        self.announce_at = (!self.is_alone()).then(|| now + self.timing.reannounce);
        let known = self.foca.iter_membership_state().map(|member| member.id().node);
        self.board.sweep(&known.collect());
        self.settle(now);
    }

    /// Somebody has not heard what we are: soon, and once for all who come within a probe period.
    fn plan_announcement(&mut self, now: Instant) {
        let pause = self.timing.probe_period;
        let at = self.announced_at.map_or(now, |last| now.max(last + pause));
        self.announce_at = Some(self.announce_at.map_or(at, |planned| planned.min(at)));
    }

    /// Changes foca's identity and asks a few members to take note: a bare change is gossiped
    /// without an answer, and a node that nobody answers does not probe.
    fn become_identity(&mut self, identity: Identity, now: Instant) {
        self.board.enter(identity.cluster);
        log_failure(self.foca.change_identity(identity, &mut self.asked), "change identity");
        let peers: Vec<Identity> =
            (self.foca.iter_members().map(foca::Member::id)).take(ANNOUNCED_MAX).copied().collect();
        for peer in peers {
            log_failure(self.foca.announce(peer, &mut self.asked), "announce");
        }
        self.announce_profile(now);
    }

    /// Drains what foca asked for.
    fn settle(&mut self, now: Instant) {
        while let Some((to, packet)) = self.asked.to_send() {
            self.send(to.gossip, &Frame::Swim(&packet));
        }
        while let Some((after, timer)) = self.asked.to_schedule() {
            self.timers.push(now + after, timer);
        }
        while let Some(notification) = self.asked.to_notify() {
            self.notified(notification, now);
        }
        self.resize();
    }

    fn notified(&mut self, notification: OwnedNotification<Identity>, now: Instant) {
        match notification {
            OwnedNotification::MemberUp(id) => {
                tracing::info!(node = %id.node, gossip = %id.gossip, "gossip: member up");
                self.plan_announcement(now);
            }
            // Another life of a member that never seemed down: it may have forgotten all it heard.
            OwnedNotification::Rename(_, id) => {
                tracing::debug!(node = %id.node, life = id.incarnation, "gossip: another life");
                self.plan_announcement(now);
            }
            OwnedNotification::MemberDown(id) => {
                tracing::info!(node = %id.node, gossip = %id.gossip, "gossip: member down");
            }
            OwnedNotification::Defunct => self.plan_renewal(now),
            other => tracing::debug!(?other, "gossip"),
        }
    }

    fn resize(&mut self) {
        let size = planned_size(self.foca.num_members() + 1);
        if size != self.sized_for {
            log_failure(self.foca.set_config(self.timing.config(size)), "resize");
            self.sized_for = size;
        }
    }

    fn send(&mut self, to: SocketAddr, frame: &Frame<'_>) {
        self.out.push(Outgoing { to, frame: frame.encode() });
    }
}

/// For calls that only a fault of ours can make fail; gossip goes on and repairs itself.
fn log_failure(outcome: Result<(), foca::Error>, what: &str) {
    if let Err(error) = outcome {
        tracing::warn!(%error, what, "gossip step failed");
    }
}

#[cfg(test)]
mod tests;
