//! The task that gives the agent a socket, a clock and ears.
//!
//! One task owns everything: it waits for a packet, a due time, a command or a finished name
//! look-up, hands it to the agent, sends what came out and publishes the picture. There is no
//! queue but the kernel's receive buffer (a packet too many is lost, as on any network) and a
//! short one of commands (a caller beyond it waits).

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
use crate::seal::Keyring;
use crate::wire::DATAGRAM_BYTES_MAX;
use crate::{Error, Refused, meters};

/// How many commands may wait for the task.
pub(crate) const COMMANDS_MAX: usize = 16;

/// The wait after a failed receive: the socket's errors pass by themselves or stay, and no event
/// tells which.
const RECEIVE_PAUSE: Duration = Duration::from_millis(50);

/// What a stranger gets whose packet can't be opened: bytes that nobody's key opens.
const UNREADABLE_NOTICE: &[u8] = b"stemedb: sealed with another secret";
/// Between two notices.
const NOTICE_INTERVAL: Duration = Duration::from_secs(1);

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
                    addresses.into_iter().for_each(|address| self.agent.knock(address));
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
            None => Err("unsealed"),
            Some(plain) => {
                self.agent.receive(&plain, source, now).map_err(|refusal| match refusal {
                    Refusal::Malformed => "malformed",
                    Refusal::Foreign => "foreign",
                    Refusal::Double => "double",
                })
            }
        };
        if let Err(reason) = outcome {
            if reason == "unsealed" {
                self.say_unreadable(packet, source, now);
            }
            tracing::debug!(%source, reason, "gossip packet refused");
            self.count_refused(reason);
        }
        for _ in 0..self.agent.take_unread() {
            tracing::debug!(%source, "an item of news in a later format was passed over");
            self.count_refused("news");
        }
    }

    fn count_refused(&self, reason: &'static str) {
        meters::refused(reason);
        self.outlets.refused.send_modify(|refused| refused.count(reason));
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
