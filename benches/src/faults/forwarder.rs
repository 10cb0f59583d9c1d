//! Wires between nodes of one machine, in user space.
//!
//! A node listens on one loopback address and advertises another, where a forwarder stands in for
//! it: peers dial the forwarder, which passes bytes on. So the wire from one node to another can be
//! cut in one direction alone, or made slow and lossy, without privilege and without anything in
//! the kernel. It works for the peer plane (TCP) and for gossip (UDP).
//!
//! What it is not: a packet network. A TCP wire that is cut takes what is sent and keeps it until
//! the wire is whole again, as a kernel would that sends again and again; but a connection that is
//! begun meanwhile stands at once, and only its first answer never comes. Nobody is refused: a
//! node that is gone closes what the forwarder took. A lost packet of TCP is a stall of one
//! retransmission timeout for each try that is lost, since a stream loses nothing else. (A kernel
//! doubles its timeout only while nothing at all gets through, and what follows a lost packet has it sent
//! again sooner.) A lost packet of UDP is lost. When wires are whole again, what was late is there.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::{Bytes, BytesMut};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Notify, mpsc};
use tokio::task::{JoinSet, spawn_local};
use tokio::time::{Instant, sleep, sleep_until};

use super::dialer;
use crate::stemedb::NodeAddresses;

/// What a bad wire adds to each packet.
pub(crate) const DELAY: Duration = Duration::from_millis(200);
/// The part of its packets that a bad wire loses.
pub(crate) const LOSS: f64 = 0.2;
/// After this time a sender tries again: the way there and back, and Linux's least timeout.
const RETRANSMIT: Duration = Duration::from_millis(600);
/// A packet is not lost more often than this.
const RETRANSMITS_MAX: u32 = 5;
/// Most bytes taken as one packet.
const CHUNK_BYTES: usize = 16 * 1024;
/// Chunks of one direction of one connection that are under way; beyond it the sender waits.
const CHUNKS_MAX: usize = 256;
/// Late datagrams under way; beyond it they are lost.
const DATAGRAMS_MAX: usize = 1024;
/// The longest datagram.
const DATAGRAM_BYTES_MAX: usize = 65_536;

/// One direction between two nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Wire {
    #[default]
    Whole,
    Cut,
    Bad,
}

/// All wires, and who stands at their ends.
pub(crate) struct Forwarder {
    wires: Rc<Wires>,
    /// The tasks of each node's stand-in; gone, they end.
    doors: BTreeMap<usize, JoinSet<()>>,
}

struct Wires {
    state: RefCell<BTreeMap<(usize, usize), Wire>>,
    changed: Notify,
    /// Packets that met a wire that was not whole.
    met: Cell<u64>,
    late: Cell<usize>,
    processes: RefCell<Vec<Option<u32>>>,
    ends: RefCell<BTreeMap<usize, End>>,
    /// Whose address this is or was.
    owners: RefCell<BTreeMap<IpAddr, usize>>,
    chance: RefCell<SmallRng>,
}

/// Where a node listens to gossip, and the socket of its stand-in, from which others hear it.
#[derive(Clone)]
struct End {
    gossip: SocketAddr,
    socket: Rc<UdpSocket>,
}

impl Forwarder {
    /// Whole wires between so many nodes, none of which has an address yet.
    pub(crate) fn new(nodes: usize, seed: u64) -> Self {
        let wires = Wires {
            state: RefCell::default(),
            changed: Notify::new(),
            met: Cell::new(0),
            late: Cell::new(0),
            processes: RefCell::new(vec![None; nodes]),
            ends: RefCell::default(),
            owners: RefCell::default(),
            chance: RefCell::new(SmallRng::seed_from_u64(seed)),
        };
        Forwarder { wires: Rc::new(wires), doors: BTreeMap::new() }
    }

    /// Stands in for a node at the address it advertises; where it stood before it is gone.
    ///
    /// # Errors
    /// The address is taken.
    pub(crate) async fn place(&mut self, node: usize, at: &NodeAddresses) -> Result<()> {
        self.doors.remove(&node);
        let dialled = SocketAddr::new(at.advertise, at.grpc.port());
        let listener = TcpListener::bind(dialled);
        let listener = listener.await.with_context(|| format!("stand in at {dialled}"))?;
        let heard = SocketAddr::new(at.advertise, at.gossip.port());
        let socket = UdpSocket::bind(heard).await;
        let socket = Rc::new(socket.with_context(|| format!("stand in at {heard}"))?);
        let end = End { gossip: at.gossip, socket: socket.clone() };
        self.wires.ends.borrow_mut().insert(node, end);
        self.wires.owners.borrow_mut().insert(at.gossip.ip(), node);
        let mut tasks = JoinSet::new();
        tasks.spawn_local(accept(self.wires.clone(), node, listener, at.grpc));
        tasks.spawn_local(hear(self.wires.clone(), node, socket));
        self.doors.insert(node, tasks);
        Ok(())
    }

    /// From now on connections of this process are that node's.
    pub(crate) fn belongs(&self, node: usize, process: Option<u32>) {
        if let Some(known) = self.wires.processes.borrow_mut().get_mut(node) {
            *known = process;
        }
    }

    /// What the first sends does not reach the second any more.
    pub(crate) fn cut(&self, from: usize, to: usize) {
        self.wires.state.borrow_mut().insert((from, to), Wire::Cut);
    }

    /// All wires are slow and lossy.
    pub(crate) fn worsen(&self, nodes: usize) {
        let mut state = self.wires.state.borrow_mut();
        let pairs = (0..nodes).flat_map(|from| (0..nodes).map(move |to| (from, to)));
        state.extend(pairs.map(|pair| (pair, Wire::Bad)));
    }

    /// All wires are whole.
    pub(crate) fn heal(&self) {
        self.wires.state.borrow_mut().clear();
        self.wires.changed.notify_waiters();
    }

    /// How many packets have met a wire that was not whole.
    pub(crate) fn met(&self) -> u64 {
        self.wires.met.get()
    }
}

impl Wires {
    fn wire(&self, from: usize, to: usize) -> Wire {
        self.state.borrow().get(&(from, to)).copied().unwrap_or_default()
    }

    fn meet(&self) {
        self.met.set(self.met.get() + 1);
    }

    /// Waits until the wire is not cut.
    async fn passable(&self, from: usize, to: usize) {
        loop {
            let changed = self.changed.notified();
            if self.wire(from, to) != Wire::Cut {
                return;
            }
            self.meet();
            changed.await;
        }
    }

    /// Waits until a chunk of a stream that is due then has come over the wire: over a whole one at once.
    async fn arrival(&self, from: usize, to: usize, due: Instant) {
        loop {
            // Before the look at the wire, so that no change is missed.
            let changed = self.changed.notified();
            match self.wire(from, to) {
                Wire::Whole => return,
                Wire::Cut => {
                    self.meet();
                    changed.await;
                }
                Wire::Bad => tokio::select! {
                    () = sleep_until(due) => return,
                    () = changed => {}
                },
            }
        }
    }

    /// How long a packet of a stream takes.
    fn lateness(&self, from: usize, to: usize) -> Duration {
        if self.wire(from, to) != Wire::Bad {
            return Duration::ZERO;
        }
        self.meet();
        let mut chance = self.chance.borrow_mut();
        let lost = (0..RETRANSMITS_MAX).take_while(|_| chance.random_bool(LOSS));
        DELAY + lost.map(|_| RETRANSMIT).sum::<Duration>()
    }

    async fn tell(&self, from: usize, to: usize, packet: &[u8]) {
        let way = {
            let ends = self.ends.borrow();
            let both = ends.get(&from).zip(ends.get(&to));
            both.map(|(from, to)| (from.socket.clone(), to.gossip))
        };
        let Some((socket, target)) = way else { return };
        // Whether anybody listens there is nothing a network knows.
        let _ = socket.send_to(packet, target).await;
    }
}

/// Takes connections for a node and passes each on.
async fn accept(wires: Rc<Wires>, to: usize, listener: TcpListener, target: SocketAddr) {
    let mut connections = JoinSet::new();
    let Ok(own) = listener.local_addr() else { return };
    while let Ok((near, source)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let from = dialer::dialer(&wires.processes.borrow(), source, own);
        // It is closed again already, or none of ours.
        let Some(from) = from else { continue };
        connections.spawn_local(pass_on(wires.clone(), from, to, near, target));
    }
}

/// Passes one connection on until either side ends it.
async fn pass_on(wires: Rc<Wires>, from: usize, to: usize, near: TcpStream, target: SocketAddr) {
    wires.passable(from, to).await;
    let Ok(far) = TcpStream::connect(target).await else { return };
    if near.set_nodelay(true).is_err() || far.set_nodelay(true).is_err() {
        return;
    }
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    tokio::select! {
        () = pump(&wires, from, to, near_in, far_out) => {}
        () = pump(&wires, to, from, far_in, near_out) => {}
    }
}

/// Passes one direction on until its end has arrived, which travels over the wire as well.
async fn pump(
    wires: &Wires,
    from: usize,
    to: usize,
    mut read: OwnedReadHalf,
    mut write: OwnedWriteHalf,
) {
    let (sender, mut queue) = mpsc::channel::<(Instant, Bytes)>(CHUNKS_MAX);
    let reading = async move {
        let mut due = Instant::now();
        loop {
            let mut chunk = BytesMut::with_capacity(CHUNK_BYTES);
            match read.read_buf(&mut chunk).await {
                Ok(length) if length > 0 => {}
                _ => return,
            }
            // A stream keeps its order: what comes behind a late packet is late as well, until the wire
            // is whole again and all of it has come.
            let now = Instant::now();
            due = match wires.wire(from, to) {
                Wire::Whole => now,
                _ => due.max(now + wires.lateness(from, to)),
            };
            if sender.send((due, chunk.freeze())).await.is_err() {
                return;
            }
        }
    };
    let writing = async move {
        while let Some((due, chunk)) = queue.recv().await {
            wires.arrival(from, to, due).await;
            if write.write_all(&chunk).await.is_err() {
                return;
            }
        }
        wires.passable(from, to).await;
    };
    tokio::join!(reading, writing);
}

/// Hears gossip in a node's stead and passes it on.
async fn hear(wires: Rc<Wires>, to: usize, socket: Rc<UdpSocket>) {
    let mut packet = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        // What comes back from a closed port is an error here, and nothing to end for.
        let Ok((length, source)) = socket.recv_from(&mut packet).await else { continue };
        let from = wires.owners.borrow().get(&source.ip()).copied();
        let Some((from, packet)) = from.zip(packet.get(..length)) else { continue };
        match wires.wire(from, to) {
            Wire::Whole => wires.tell(from, to, packet).await,
            Wire::Cut => wires.meet(),
            Wire::Bad => tell_late(&wires, from, to, packet),
        }
    }
}

fn tell_late(wires: &Rc<Wires>, from: usize, to: usize, packet: &[u8]) {
    wires.meet();
    let lost = wires.chance.borrow_mut().random_bool(LOSS);
    if lost || wires.late.get() >= DATAGRAMS_MAX {
        return;
    }
    wires.late.set(wires.late.get() + 1);
    let (wires, packet) = (wires.clone(), Bytes::copy_from_slice(packet));
    spawn_local(async move {
        sleep(DELAY).await;
        wires.tell(from, to, &packet).await;
        wires.late.set(wires.late.get() - 1);
    });
}

#[cfg(test)]
#[path = "forwarder_tests.rs"]
mod tests;
