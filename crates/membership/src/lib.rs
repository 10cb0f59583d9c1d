//! Who is out there: SWIM membership over UDP.
//!
//! The protocol is foca's (SWIM with suspicion; Das, Gupta, Motivala, 2002). This crate is the
//! thin driver around it: sealed envelopes, a socket, wake-ups, a join list that is resolved
//! again and again, and a picture of the cluster that others watch.
//!
//! **Gossip suggests, the quorum-committed layout decides.** Nothing here gives or takes
//! ownership of anything. The picture says whom to dial, who looks dead and who waits to be let
//! in; it may be wrong on any node at any time, and two nodes' pictures may differ.
//!
//! | file | idea |
//! |---|---|
//! | `identity` | a node's lives: which of two wins, what is foreign, what is a double |
//! | `seal` | the envelope: nothing is read that was not sealed with the cluster's key |
//! | `wire` | the bytes inside: foca's packets, and the knock that finds out who lives where |
//! | `profile` | what a node tells of itself |
//! | `news` | profiles on their way: what is news, and what everyone has told |
//! | `agent` | one member without socket and clock: packets and time in, packets and picture out |
//! | `timers` | the wake-ups foca asked for, none lost, in its order |
//! | `timing` | the tempo, and foca's configuration made of it |
//! | `join` | whom to knock at, and when |
//! | `members` | the picture |
//! | `driver` | the one task that gives the agent a socket, a clock and ears |
//! | `meters` | what the scraper sees |
//!
//! Left out, with the cost: known peers are not stored, so a restarted node without a join list
//! waits until the others, who announce themselves to members that went down, find it (about a
//! minute). Replayed packets are not recognised (see `seal`). Whoever holds the secret is
//! trusted: one such node can declare others dead or use up their incarnations, which moves no
//! data. Beside membership only a few words of each node about itself travel in gossip (`profile`);
//! the rest goes over gRPC. Those words are told again and again, so one that was lost is late by
//! up to 45 seconds.

mod agent;
mod driver;
mod identity;
mod join;
mod members;
mod meters;
mod news;
mod profile;
mod seal;
mod timers;
mod timing;
mod wire;

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Instant;

use rand::SeedableRng;
use rand::rngs::StdRng;
use socket2::{Domain, Protocol, Socket, Type};
use stemedb_types::{ClusterId, NodeId};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::agent::Agent;
use crate::driver::{COMMANDS_MAX, Command, Driver, Outlets, Strangers};
use crate::identity::Identity;
use crate::seal::Keyring;

pub use identity::first_incarnation;
pub use join::{GOSSIP_PORT, JoinTarget, JoinTargetError};
pub use members::{Member, MemberState, Members};
pub use profile::{PROFILE_TEXT_BYTES_MAX, Profile};
pub use seal::{SECRET_BYTES_MIN, Secret};
pub use timing::Timing;

/// What can go wrong, all of it before the task runs or in answer to one call; nothing was
/// changed. Once it runs, bad packets and bad networks are counted, not returned.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The gossip port is taken or not ours to take. Nothing is bound.
    #[error("can't bind the gossip address {addr}: {source}")]
    Bind {
        /// The address asked for.
        addr: SocketAddr,
        /// The system's answer; `AddrInUse` is another process on the port.
        source: io::Error,
    },
    /// The bound socket can't be used from the runtime.
    #[error("can't use the gossip socket: {source}")]
    Socket {
        /// The system's answer.
        source: io::Error,
    },
    /// `Membership::start` was called outside a tokio runtime.
    #[error("gossip must be started inside a tokio runtime")]
    NoRuntime,
    /// Peers could not send to this address.
    #[error("{addr} can't be advertised to peers: it names no host")]
    Advertise {
        /// The address given.
        addr: SocketAddr,
    },
    /// Times that the protocol can't run with.
    #[error("gossip can't run with {timing:?}: probe_rtt must be below probe_period, nothing zero")]
    Timing {
        /// The times given.
        timing: Timing,
    },
    /// A text of the profile beyond [`PROFILE_TEXT_BYTES_MAX`].
    #[error("a node's {what} of {bytes} bytes is too long: at most 64 are told to others")]
    ProfileTooLong {
        /// Which text.
        what: &'static str,
        /// Its length.
        bytes: usize,
    },
    /// A secret below [`SECRET_BYTES_MIN`].
    #[error("a cluster secret of {bytes} bytes is too short: at least 16 are needed")]
    SecretTooShort {
        /// Its length.
        bytes: usize,
    },
    /// No key could be made of a secret. Can't happen with keys of 32 bytes.
    #[error("no key could be derived from the cluster secret")]
    KeyDerivation,
    /// The node belongs to a cluster already, and a node enters only one.
    #[error("this node already belongs to cluster {ours}")]
    OtherCluster {
        /// The cluster it stays in.
        ours: ClusterId,
    },
    /// The incarnation stands at the largest number: the identity can't change any more.
    #[error("no incarnation is left for this node id")]
    IncarnationsUsedUp,
    /// The task has ended, by a farewell before this call. The call did nothing.
    #[error("gossip has stopped")]
    Stopped,
}

/// Everything a member starts with.
#[derive(Debug)]
pub struct Options {
    /// Our stable id.
    pub node: NodeId,
    /// The first incarnation: above every earlier one, see [`first_incarnation`].
    pub incarnation: u64,
    /// Our cluster; `None` for a blank node, until [`Handle::set_cluster`].
    pub cluster: Option<ClusterId>,
    /// A bound socket, from [`bind`].
    pub socket: UdpSocket,
    /// Where peers reach that socket. Port 0 stands for the port it is bound to.
    pub advertise: SocketAddr,
    /// Our peer plane's port, on the advertised host.
    pub grpc_port: u16,
    /// The cluster secret, then those that are still valid: all open, and each peer is sent what
    /// it can open. None: a key that everybody knows, so the network must be trusted.
    pub secrets: Vec<Secret>,
    /// Whom to knock at. Our own address among them is fine; empty means: wait to be found.
    pub join: Vec<JoinTarget>,
    /// What the others are to know of us.
    pub profile: Profile,
    /// The tempo.
    pub timing: Timing,
}

/// Binds the gossip port, so that a taken one is reported before anything else has started.
/// An IPv6 address takes IPv4 too. `Bind` on failure.
pub fn bind(addr: SocketAddr) -> Result<UdpSocket, Error> {
    let bound = || {
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        if addr.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.bind(&addr.into())?;
        io::Result::Ok(socket.into())
    };
    bound().map_err(|source| Error::Bind { addr, source })
}

/// The entry to this crate.
#[derive(Debug)]
pub struct Membership;

impl Membership {
    /// Starts the task that is this node's part in the protocol, on the current runtime, and
    /// returns the handle that keeps it alive. It knocks at the join list at once.
    ///
    /// On an error nothing runs and the socket is closed.
    pub fn start(options: Options) -> Result<Handle, Error> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| Error::NoRuntime)?;
        options.timing.validate()?;
        options.profile.validate()?;
        let keyring = Keyring::new(&options.secrets)?;
        let (socket, local) = into_tokio(options.socket)?;
        let identity = Identity {
            node: options.node,
            incarnation: options.incarnation,
            cluster: options.cluster,
            gossip: advertised(options.advertise, local)?,
            grpc_port: options.grpc_port,
        };
        meters::describe();

        let agent = Agent::new(identity, options.profile, options.timing, rand::make_rng());
        let first = Arc::new(agent.members());
        meters::show(&first, &first);
        let (members_in, members) = watch::channel(first);
        let (incarnation_in, incarnation) = watch::channel(identity.incarnation);
        let (refused_in, refused) = watch::channel(Refused::default());
        let (commands_in, commands) = mpsc::channel(COMMANDS_MAX);
        let driver = Driver {
            agent,
            socket,
            local,
            keyring,
            rng: StdRng::from_rng(&mut rand::rng()),
            targets: options.join,
            pace: options.timing.pace(),
            commands,
            notice_last: None,
            strangers: Strangers::default(),
            outlets: Outlets {
                members: members_in,
                incarnation: incarnation_in,
                refused: refused_in,
            },
        };
        let task = runtime.spawn(driver.run());
        let advertise = identity.gossip;
        Ok(Handle { advertise, members, incarnation, refused, commands: commands_in, task })
    }
}

fn into_tokio(socket: UdpSocket) -> Result<(tokio::net::UdpSocket, SocketAddr), Error> {
    let usable = || {
        socket.set_nonblocking(true)?;
        let local = socket.local_addr()?;
        io::Result::Ok((tokio::net::UdpSocket::from_std(socket)?, local))
    };
    usable().map_err(|source| Error::Socket { source })
}

/// The address as peers will read it: without an IPv6 scope, which means nothing on another host.
fn advertised(addr: SocketAddr, local: SocketAddr) -> Result<SocketAddr, Error> {
    if addr.ip().is_unspecified() {
        return Err(Error::Advertise { addr });
    }
    let port = if addr.port() == 0 { local.port() } else { addr.port() };
    Ok(SocketAddr::new(addr.ip(), port))
}

/// Packets, and items of news, that were not acted on, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    /// Sealed with a key we don't hold, damaged, or not gossip at all.
    pub unsealed: u64,
    /// Of those, what speaks for another secret: it came from where we knocked and looks like
    /// gossip. Counted once a second at most.
    pub unreadable: u64,
    /// Properly sealed, and senseless.
    pub malformed: u64,
    /// Of a format that only newer builds know.
    pub newer: u64,
    /// From a node of another cluster.
    pub foreign: u64,
    /// From another process under our own node id.
    pub double: u64,
    /// Items of news in a format that this version can't read. The rest of their packets was taken.
    pub news: u64,
    /// Whom we last knocked at in vain, for it belongs to another cluster.
    pub other_cluster: Option<OtherCluster>,
}

/// A node of another cluster where our join list leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OtherCluster {
    /// Where it hears gossip.
    pub at: SocketAddr,
    /// The cluster it belongs to, as it says.
    pub cluster: ClusterId,
    /// When it last said so.
    pub heard: Instant,
}

impl Refused {
    fn count(&mut self, reason: &str) {
        match reason {
            "unsealed" => self.unsealed += 1,
            "newer" => self.newer += 1,
            // Not a packet refused, but one that says that ours was.
            "other-cluster" => {}
            "foreign" => self.foreign += 1,
            "double" => self.double += 1,
            "news" => self.news += 1,
            _ => self.malformed += 1,
        }
    }
}

/// The running member. Dropping it ends the task at once and without a farewell: to the others
/// that is a crash, which they notice by themselves. The watches then keep their last value and
/// say that they are closed.
#[derive(Debug)]
pub struct Handle {
    advertise: SocketAddr,
    members: watch::Receiver<Arc<Members>>,
    incarnation: watch::Receiver<u64>,
    refused: watch::Receiver<Refused>,
    commands: mpsc::Sender<Command>,
    task: JoinHandle<()>,
}

impl Handle {
    /// The picture of the cluster, ourselves included; changes wake the receiver.
    pub fn members(&self) -> watch::Receiver<Arc<Members>> {
        self.members.clone()
    }

    /// The current incarnation. It grows when the node was taken for dead and returned, and when
    /// it enters a cluster; keep the newest value for [`first_incarnation`].
    pub fn incarnation(&self) -> watch::Receiver<u64> {
        self.incarnation.clone()
    }

    /// How many packets were not acted on, and why.
    pub fn refused(&self) -> watch::Receiver<Refused> {
        self.refused.clone()
    }

    /// Where peers reach us, with the real port.
    pub fn advertise(&self) -> SocketAddr {
        self.advertise
    }

    /// Enters `cluster` under a higher incarnation; members of other clusters vanish from the
    /// picture. The watches show it when this returns. Already in it: nothing happens.
    ///
    /// `OtherCluster`: we belong to another one, and stay in it. `Stopped`: the task has ended.
    pub async fn set_cluster(&self, cluster: ClusterId) -> Result<(), Error> {
        let (reply, done) = oneshot::channel();
        self.ask(Command::SetCluster(cluster, reply)).await?;
        done.await.map_err(|_| Error::Stopped)?
    }

    /// Tells a few members that this node goes for good, and ends the task. Nobody confirms it:
    /// if every farewell is lost, the others notice the silence as they do after a crash.
    ///
    /// Not for restarts: a member that restarts stays a member. `Stopped`: it had ended before.
    pub async fn leave(&self) -> Result<(), Error> {
        let (reply, done) = oneshot::channel();
        self.ask(Command::Leave(reply)).await?;
        done.await.map_err(|_| Error::Stopped)
    }

    /// Ends the task without a farewell, for a restart: to the others the node is silent for a
    /// moment, and stays a member. The port is free when this returns. `Stopped`: it had ended
    /// before.
    pub async fn stop(&self) -> Result<(), Error> {
        let (reply, done) = oneshot::channel();
        self.ask(Command::Stop(reply)).await?;
        done.await.map_err(|_| Error::Stopped)
    }

    async fn ask(&self, command: Command) -> Result<(), Error> {
        self.commands.send(command).await.map_err(|_| Error::Stopped)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.task.abort();
    }
}
