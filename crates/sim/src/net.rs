//! The network between simulated nodes.
//!
//! Each message is delayed by chance, and with it reordered; it may be lost, or come twice. A pair
//! of nodes can be cut apart, one way or both. A request that is lost, or its answer, fails when the
//! connection's keepalive does or at its deadline; to a process that is not there, it is refused. Snapshots travel piece
//! by piece and break when their pair is cut apart.
//!
//! Every request names the replica it is from; `checks::forgotten` hears who speaks.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use stemedb_raft::{Evidence, Groups, Transport, runtime};
use stemedb_rpc::{
    ChunkError, Down, Envelope, Error, Lane, NotSent, Reply, SnapshotChunks, Unknown,
};
use stemedb_types::{NodeId, ReplicaId};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_stream::wrappers::ReceiverStream;

use crate::checks::forgotten::Forgotten;
use crate::draw::Draw;
use crate::process::Process;

/// After how long a connection is taken for broken on which nothing comes through: as that of `rpc`.
const KEEPALIVE_MS: RangeInclusive<u64> = 2_000..=4_000;

/// How the network behaves now.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// Least and most a message takes, in microseconds.
    pub delay_us: (u64, u64),
    /// Of a thousand messages, so many are lost.
    pub loss_per_mille: u64,
    /// Of a thousand messages, so many come twice.
    pub twice_per_mille: u64,
}

impl Weather {
    /// As between machines in one place.
    pub const FAIR: Self = Self { delay_us: (50, 800), loss_per_mille: 0, twice_per_mille: 0 };
}

/// Where a node's messages go.
#[derive(Clone)]
pub struct Endpoint {
    /// Whose tasks take them.
    pub process: Arc<Process>,
    /// The replicas they are for.
    pub groups: Groups,
}

/// What the network did, for the report.
#[derive(Clone, Copy, Debug, Default)]
pub struct Traffic {
    /// Messages and answers handed over.
    pub sent: u64,
    /// Lost by chance.
    pub lost: u64,
    /// Delivered twice.
    pub twice: u64,
    /// Stopped by a cut.
    pub cut: u64,
    /// Pieces of snapshots.
    pub pieces: u64,
}

struct State {
    draw: Draw,
    weather: Weather,
    /// From, to.
    cut: BTreeSet<(NodeId, NodeId)>,
    /// Who believes of whom that it is gone.
    rumours: BTreeSet<(NodeId, NodeId)>,
    there: BTreeMap<NodeId, Endpoint>,
    traffic: Traffic,
    forgotten: Forgotten,
    /// Of everything that was sent, when, and what became of it.
    fingerprint: u64,
    begun: Instant,
}

/// The network. Clones are the same.
#[derive(Clone)]
pub struct Net(Arc<Mutex<State>>);

/// What happens to one message.
enum Fate {
    Arrives { after: Duration, again: Option<Duration> },
    IsLost,
}

impl Net {
    /// A network in fair weather.
    pub fn new(draw: Draw) -> Self {
        Self(Arc::new(Mutex::new(State {
            draw,
            weather: Weather::FAIR,
            cut: BTreeSet::new(),
            rumours: BTreeSet::new(),
            there: BTreeMap::new(),
            traffic: Traffic::default(),
            forgotten: Forgotten::default(),
            fingerprint: 0xcbf2_9ce4_8422_2325,
            begun: Instant::now(),
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the weather.
    pub fn set_weather(&self, weather: Weather) {
        self.state().weather = weather;
    }

    /// Lets nothing through from one node to another.
    pub fn cut(&self, from: NodeId, to: NodeId) {
        self.state().cut.insert((from, to));
    }

    /// Lets everything through again, and ends all rumours.
    pub fn heal(&self) {
        let mut state = self.state();
        state.cut.clear();
        state.rumours.clear();
    }

    /// One node believes of another that it is gone, from now on.
    pub fn spread(&self, who: NodeId, of: NodeId) {
        self.state().rumours.insert((who, of));
    }

    /// Nobody believes that of a node any more.
    pub fn hush(&self, of: NodeId) {
        self.state().rumours.retain(|(_, other)| *other != of);
    }

    /// What a node believes.
    pub fn belief(&self, who: NodeId) -> Belief {
        Belief { net: self.clone(), who }
    }

    /// A node is there from now on.
    pub fn arrive(&self, node: NodeId, endpoint: Endpoint) {
        self.state().there.insert(node, endpoint);
    }

    /// A node's process is gone.
    pub fn leave(&self, node: NodeId) {
        self.state().there.remove(&node);
    }

    /// A replica must never be heard of again.
    pub fn give_up(&self, node: NodeId, replica: ReplicaId) {
        self.state().forgotten.give_up(node, replica);
    }

    /// What it did so far.
    pub fn traffic(&self) -> Traffic {
        self.state().traffic
    }

    /// A number that two runs share only if the same messages went the same way at the same time
    /// (FNV-1a; Fowler, Noll, Vo 1991).
    pub fn fingerprint(&self) -> u64 {
        self.state().fingerprint
    }

    /// A replica that spoke where it must not.
    pub fn violation(&self) -> Option<String> {
        self.state().forgotten.violation().map(str::to_owned)
    }

    /// The way of one node into the network.
    pub fn wire(&self, from: NodeId, process: Arc<Process>) -> Wire {
        Wire { net: self.clone(), from, process }
    }

    fn fate(&self, from: NodeId, to: NodeId) -> Fate {
        let mut state = self.state();
        state.traffic.sent += 1;
        if state.cut.contains(&(from, to)) {
            state.traffic.cut += 1;
            return Fate::IsLost;
        }
        let Weather { delay_us: (least, most), loss_per_mille, twice_per_mille } = state.weather;
        let mut delay = || Duration::from_micros(state.draw.range(least..=most));
        let (after, other) = (delay(), delay());
        let now_us = state.begun.elapsed().as_micros() as u64;
        for word in [now_us, from.0, to.0, after.as_micros() as u64] {
            state.fingerprint = (state.fingerprint ^ word).wrapping_mul(0x0100_0000_01b3);
        }
        if state.draw.below(1000) < loss_per_mille {
            state.traffic.lost += 1;
            return Fate::IsLost;
        }
        let twice = state.draw.below(1000) < twice_per_mille;
        state.traffic.twice += u64::from(twice);
        Fate::Arrives { after, again: twice.then_some(other) }
    }

    /// How long it takes a connection to notice that nothing comes through.
    fn silence(&self) -> Duration {
        Duration::from_millis(self.state().draw.range(KEEPALIVE_MS))
    }

    fn endpoint(&self, to: NodeId) -> Option<Endpoint> {
        self.state().there.get(&to).filter(|there| !there.process.is_dead()).cloned()
    }

    /// Notes who speaks.
    fn hear(&self, from: NodeId, replica: ReplicaId) {
        self.state().forgotten.hear(from, replica);
    }

    /// Hands a message to the node it is for, whose tasks take it; the answer travels back.
    fn deliver(&self, to: NodeId, message: Envelope, reply: Reply) {
        let Some(there) = self.endpoint(to) else { return drop(reply) };
        let groups = there.groups;
        runtime::on(there.process, async move {
            if let Some((_, reply)) = groups.take(message, reply) {
                drop(reply);
            }
        });
    }
}

/// A node's evidence of who is gone: rumours, true or not.
pub struct Belief {
    net: Net,
    who: NodeId,
}

impl Evidence for Belief {
    fn is_gone(&self, node: NodeId) -> bool {
        self.net.state().rumours.contains(&(self.who, node))
    }
}

/// A node's way into the network.
pub struct Wire {
    net: Net,
    from: NodeId,
    process: Arc<Process>,
}

type Answer = Result<Bytes, Error>;

/// What a connection says that was silent past its keepalive.
fn silent() -> Error {
    Error::Unknown(Unknown::Down(Down::Lost("silent past the keepalive".to_owned())))
}

fn no_answer() -> Error {
    Error::Unknown(Unknown::Deadline)
}

/// Not of any process: the network goes on when they die.
fn in_the_air(task: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(task);
}

impl Wire {
    /// A reply whose answer, which `replica` gives, travels back to the asker.
    fn reply(&self, to: NodeId, replica: ReplicaId, answer: mpsc::Sender<Answer>) -> Reply {
        let (net, from) = (self.net.clone(), self.from);
        Reply::to_callback(Box::new(move |said| {
            if said.is_ok() {
                net.hear(to, replica);
            }
            let (after, said) = match net.fate(to, from) {
                Fate::Arrives { after, .. } => (after, said),
                Fate::IsLost => (net.silence(), Err(silent())),
            };
            in_the_air(async move {
                sleep(after).await;
                let _ = answer.try_send(said);
            });
        }))
    }
}

impl Transport for Wire {
    fn request(
        &self,
        to: NodeId,
        _lane: Lane,
        message: Envelope,
        deadline: Instant,
    ) -> BoxFuture<'static, Answer> {
        self.net.hear(self.from, message.from);
        let (answer, mut answered) = mpsc::channel(2);
        if self.net.endpoint(to).is_none() {
            // A connection that is refused takes a moment too, or callers would spin.
            return Box::pin(async {
                sleep(Duration::from_micros(300)).await;
                Err(Error::NotSent(NotSent::Down(Down::ConnectionRefused)))
            });
        }
        match self.net.fate(self.from, to) {
            Fate::Arrives { after, again } => {
                for after in [Some(after), again].into_iter().flatten() {
                    let (net, message) = (self.net.clone(), message.clone());
                    let reply = self.reply(to, message.to, answer.clone());
                    in_the_air(async move {
                        sleep(after).await;
                        net.deliver(to, message, reply);
                    });
                }
            }
            Fate::IsLost => {
                let (after, answer) = (self.net.silence(), answer.clone());
                in_the_air(async move {
                    sleep(after).await;
                    let _ = answer.try_send(Err(silent()));
                });
            }
        }
        Box::pin(async move {
            // Held, so that only the deadline ends the wait for an answer that was lost.
            let _answer = answer;
            match timeout_at(deadline, answered.recv()).await {
                Ok(Some(said)) => said,
                Ok(None) | Err(_) => Err(no_answer()),
            }
        })
    }

    fn send_snapshot<'s>(
        &'s self,
        to: NodeId,
        header: Envelope,
        mut chunks: BoxStream<'s, io::Result<Bytes>>,
    ) -> BoxFuture<'s, Answer> {
        Box::pin(async move {
            let lost = || Error::Unknown(Unknown::Down(Down::Lost("the wire broke".to_owned())));
            let Some(there) = self.net.endpoint(to) else {
                return Err(Error::NotSent(NotSent::Down(Down::ConnectionRefused)));
            };
            self.net.hear(self.from, header.from);
            let (pieces, stream) = mpsc::channel::<Result<Bytes, ChunkError>>(64);
            let (tell, told) = oneshot::channel();
            let groups = there.groups.clone();
            runtime::on(there.process.clone(), async move {
                let chunks = SnapshotChunks::from_stream(ReceiverStream::new(stream));
                let _ = tell.send(groups.take_snapshot(header, chunks).await);
            });
            while let Some(piece) = chunks.next().await {
                self.net.state().traffic.pieces += 1;
                let Fate::Arrives { after, .. } = self.net.fate(self.from, to) else {
                    let _ = pieces
                        .send(Err(ChunkError::Interrupted("the wire broke".to_owned())))
                        .await;
                    return Err(lost());
                };
                sleep(after).await;
                let piece =
                    piece.map_err(|cause| Error::Unknown(Unknown::Source(cause.to_string())))?;
                if pieces.send(Ok(piece)).await.is_err() {
                    break;
                }
            }
            drop(pieces);
            let said = told.await.map_err(|_| lost())?;
            match self.net.fate(to, self.from) {
                Fate::Arrives { after, .. } => sleep(after).await,
                Fate::IsLost => return Err(lost()),
            }
            said.map_err(Error::Refused)
        })
    }

    fn draw(&self) -> u128 {
        use stemedb_raft::runtime::Host;
        u128::from(self.process.draw()) << 64 | u128::from(self.process.draw())
    }
}
