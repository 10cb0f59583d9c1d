//! The task that gives the agent a socket, a clock and ears.
//!
//! One task owns everything: it waits for a packet, a due time, a command or a finished name
//! look-up, hands it to the agent, sends what came out and publishes the picture. There is no
//! queue but the kernel's receive buffer (a packet too many is lost, as on any network) and a
//! short one of commands (a caller beyond it waits).

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::Rng;
use rand::rngs::StdRng;
use stemedb_types::ClusterId;
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, oneshot, watch};

use crate::agent::{Agent, Refusal};
use crate::join::{JoinTarget, Lookups, Pace, reachable};
use crate::members::Members;
use crate::seal::{Keyring, Shut, is_envelope};
use crate::wire::DATAGRAM_BYTES_MAX;
use crate::{Error, OtherCluster, Refused, meters};

/// How many commands may wait for the task.
pub(crate) const COMMANDS_MAX: usize = 16;

/// The wait after a failed receive: the socket's errors pass by themselves or stay, and no event
/// tells which.
const RECEIVE_PAUSE: Duration = Duration::from_millis(50);

/// What a stranger gets whose packet can't be opened: bytes that nobody's key opens.
const UNREADABLE_NOTICE: &[u8] = b"stemedb: sealed with another secret";
/// Between two notices.
const NOTICE_INTERVAL: Duration = Duration::from_secs(1);

/// How many addresses are remembered that were knocked at, and that were warned of; those beyond
/// are forgotten all at once.
const ADDRESSES_MAX: usize = 1024;

/// What a handle asks for.
#[derive(Debug)]
pub(crate) enum Command {
    /// Enter a cluster.
    SetCluster(ClusterId, oneshot::Sender<Result<(), Error>>),
    /// Say farewell and end.
    Leave(oneshot::Sender<()>),
    /// End without a farewell.
    Stop(oneshot::Sender<()>),
}

/// Where the task tells what it sees.
pub(crate) struct Outlets {
    pub members: watch::Sender<Arc<Members>>,
    pub incarnation: watch::Sender<u64>,
    pub refused: watch::Sender<Refused>,
}

/// The task's state.
pub(crate) struct Driver {
    pub agent: Agent,
    pub socket: UdpSocket,
    pub local: SocketAddr,
    pub keyring: Keyring,
    pub rng: StdRng,
    pub targets: Vec<JoinTarget>,
    pub pace: Pace,
    pub commands: mpsc::Receiver<Command>,
    pub outlets: Outlets,
    /// When a stranger was last told that it is not understood.
    pub notice_last: Option<Instant>,
    pub strangers: Strangers,
}

/// What is remembered of those who are not understood.
#[derive(Default)]
pub(crate) struct Strangers {
    /// Where we have knocked.
    knocked: HashSet<SocketAddr>,
    /// Who was warned of, and for what.
    warned: HashSet<(SocketAddr, &'static str)>,
    /// When one at whom we knocked was last counted as unreadable.
    unreadable_last: Option<Instant>,
}

impl Strangers {
    fn note_knock(&mut self, address: SocketAddr) {
        if self.knocked.len() >= ADDRESSES_MAX {
            self.knocked.clear();
        }
        self.knocked.insert(address);
    }

    /// Whether a shut packet speaks for a secret that is not ours: it comes from where we knocked, and
    /// is an envelope or the notice that ours was none. Counted once a second at most, so that a
    /// handful of packets is a handful of seconds.
    fn doubts_the_secret(&mut self, packet: &[u8], source: SocketAddr, now: Instant) -> bool {
        let due = self.unreadable_last.is_none_or(|last| now >= last + NOTICE_INTERVAL);
        let speaks = packet == UNREADABLE_NOTICE || is_envelope(packet);
        let counts = due && speaks && self.knocked.contains(&source);
        if counts {
            self.unreadable_last = Some(now);
        }
        counts
    }

    /// Whether this is the first time, as far as is remembered.
    fn is_news(&mut self, source: SocketAddr, reason: &'static str) -> bool {
        if self.warned.len() >= ADDRESSES_MAX {
            self.warned.clear();
        }
        self.warned.insert((source, reason))
    }
}

/// The rounds through the join list.
#[derive(Default)]
struct Rounds {
    lookups: Lookups,
    last: Option<Instant>,
    jitter: u32,
}

enum Event {
    Packet(io::Result<(usize, SocketAddr)>),
    Command(Option<Command>),
    Addresses(Vec<SocketAddr>),
    Due,
}

impl Driver {
    /// Runs until a farewell, or until the last handle is gone.
    pub(crate) async fn run(mut self) {
        let mut buffer = [0; DATAGRAM_BYTES_MAX + 1];
        let mut rounds = Rounds::default();
        loop {
            let event = self.next_event(&mut rounds, &mut buffer).await;
            let now = tokio::time::Instant::now().into_std();
            match event {
                Event::Packet(Ok((length, source))) => {
                    self.receive(buffer.get(..length).unwrap_or_default(), source, now);
                }
                Event::Packet(Err(error)) => {
                    tracing::debug!(%error, "gossip socket");
                    tokio::time::sleep(RECEIVE_PAUSE).await;
                }
                Event::Command(Some(Command::SetCluster(cluster, reply))) => {
                    let done = self.agent.set_cluster(cluster, now);
                    self.publish();
                    let _ = reply.send(done);
                }
                Event::Command(Some(Command::Leave(reply))) => {
                    self.agent.leave(now);
                    self.flush().await;
                    let _ = reply.send(());
                    return;
                }
                Event::Command(Some(Command::Stop(reply))) => {
                    // The socket first: who waits may want to bind its port.
                    drop(self);
                    let _ = reply.send(());
                    return;
                }
                Event::Command(None) => return,
                Event::Addresses(addresses) => {
                    for address in addresses {
                        self.agent.knock(address);
                        // As its answers will come from.
                        if let Some(address) = reachable(self.local, address) {
                            self.strangers.note_knock(address);
                        }
                    }
                }
                Event::Due => {}
            }
            self.agent.tick(now);
            self.start_round(&mut rounds, now);
            self.flush().await;
            self.publish();
        }
    }

    async fn next_event(&mut self, rounds: &mut Rounds, buffer: &mut [u8]) -> Event {
        let now = tokio::time::Instant::now().into_std();
        let due = [self.agent.next_at(), self.round_at(rounds, now)].into_iter().flatten().min();
        tokio::select! {
            received = self.socket.recv_from(buffer) => Event::Packet(received),
            command = self.commands.recv() => Event::Command(command),
            addresses = rounds.lookups.next() => Event::Addresses(addresses),
            () = sleep_until(due) => Event::Due,
        }
    }

    fn receive(&mut self, packet: &[u8], source: SocketAddr, now: Instant) {
        let outcome = match self.keyring.open(packet, source, now) {
            _ if packet.len() > DATAGRAM_BYTES_MAX => Err("malformed"),
            Err(Shut::Unsealed) => Err("unsealed"),
            Err(Shut::Newer) => Err("newer"),
            Ok(plain) => self.agent.receive(&plain, source, now).map_err(|refusal| match refusal {
                Refusal::Malformed => "malformed",
                Refusal::Newer => "newer",
                Refusal::Foreign => "foreign",
                Refusal::OtherCluster(cluster) => {
                    self.note_other_cluster(source, cluster, now);
                    "other-cluster"
                }
                Refusal::Double => "double",
            }),
        };
        if let Err(reason) = outcome {
            self.refuse(packet, source, reason, now);
        }
        for _ in 0..self.agent.take_unread() {
            tracing::debug!(%source, "an item of news in a later format was passed over");
            self.count_refused("news", false);
        }
    }

    fn refuse(&mut self, packet: &[u8], source: SocketAddr, reason: &'static str, now: Instant) {
        let mut doubts = false;
        match reason {
            "unsealed" => {
                doubts = self.strangers.doubts_the_secret(packet, source, now);
                self.say_unreadable(packet, source, now);
            }
            "newer" | "foreign" if self.strangers.is_news(source, reason) => {
                let what = if reason == "newer" { "a newer format" } else { "another cluster" };
                tracing::warn!(%source, "gossip packets of {what} are refused");
            }
            _ => {}
        }
        tracing::debug!(%source, reason, "gossip packet refused");
        self.count_refused(reason, doubts);
    }

    fn count_refused(&self, reason: &'static str, doubts: bool) {
        meters::refused(reason);
        self.outlets.refused.send_modify(|refused| {
            refused.count(reason);
            refused.unreadable += u64::from(doubts);
        });
    }

    /// We knocked at a node of another cluster, and it says so.
    fn note_other_cluster(&mut self, at: SocketAddr, cluster: ClusterId, now: Instant) {
        if self.strangers.is_news(at, "other-cluster") {
            tracing::warn!(%at, %cluster, "whom this node looks for there belongs to another cluster");
        }
        let other = OtherCluster { at, cluster, heard: now };
        self.outlets.refused.send_modify(|refused| refused.other_cluster = Some(other));
    }

    /// Lets a stranger know that it was not understood: with another secret it would otherwise
    /// knock in silence for ever. What it gets it can't open either, which is all it says. Never
    /// an answer to such a notice, at most one a second, and shorter than any packet of ours: no
    /// loop, no amplifier. A lost one does not matter.
    fn say_unreadable(&mut self, packet: &[u8], source: SocketAddr, now: Instant) {
        let due = self.notice_last.is_none_or(|last| now >= last + NOTICE_INTERVAL);
        if packet == UNREADABLE_NOTICE || packet.len() <= UNREADABLE_NOTICE.len() || !due {
            return;
        }
        self.notice_last = Some(now);
        let _ = self.socket.try_send_to(UNREADABLE_NOTICE, source);
    }

    /// When the next round through the join list is due; never without a list.
    fn round_at(&self, rounds: &Rounds, now: Instant) -> Option<Instant> {
        if self.targets.is_empty() {
            return None;
        }
        Some(self.pace.next(rounds.last, now, self.agent.is_alone(), rounds.jitter))
    }

    fn start_round(&mut self, rounds: &mut Rounds, now: Instant) {
        if self.round_at(rounds, now).is_some_and(|at| at <= now) {
            rounds.lookups.start(&self.targets);
            rounds.last = Some(now);
            rounds.jitter = self.rng.next_u32();
        }
    }

    /// Sends everything the agent has to say. A packet that can't be sent is a lost packet.
    async fn flush(&mut self) {
        let now = tokio::time::Instant::now().into_std();
        for outgoing in self.agent.take_out() {
            let Some(to) = reachable(self.local, outgoing.to) else { continue };
            // To where packets come from: the keyring knows peers by that address.
            for packet in self.keyring.seal(&outgoing.frame, to, now, &mut self.rng) {
                if let Err(error) = self.socket.send_to(&packet, to).await {
                    tracing::debug!(%to, %error, "gossip packet not sent");
                }
            }
        }
    }

    fn publish(&mut self) {
        let incarnation = self.agent.identity().incarnation;
        self.outlets.incarnation.send_if_modified(|shown| {
            let changed = *shown != incarnation;
            *shown = incarnation;
            changed
        });
        let members = self.agent.members();
        self.outlets.members.send_if_modified(|shown| {
            let changed = **shown != members;
            if changed {
                meters::show(shown, &members);
                *shown = Arc::new(members);
            }
            changed
        });
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
