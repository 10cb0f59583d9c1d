//! The plane: what the rooms above hold in their hands.
//!
//! An address book of peers with two connections to each, and the server that
//! answers theirs. Nothing here waits on the network: it opens queues, and the
//! links' tasks do the rest. All tasks are spawned on the runtime that
//! [`Plane::start`] is called on; one thread is enough.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::Stream;
use futures_util::future::BoxFuture;
use stemedb_types::{ClusterId, NodeId};
use tokio::net::TcpListener;
use tokio::sync::{broadcast, oneshot, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use zeroize::Zeroizing;

use crate::chance::Chance;
use crate::dial::{Call, open};
use crate::error::{Down, Error, Link, NotSent, StartError, Unknown};
use crate::handshake::{Keys, Role, SECRETS_MAX};
use crate::limits::{BULK_PAYLOAD_BYTES, FRAME_BYTES, Limits};
use crate::link::{Keeper, Target, hear, sweep_deadlines};
use crate::lives::{Life, Lives, TurnedAway};
use crate::local::Local;
use crate::message::{Envelope, Lane, PeerIdentity};
use crate::outlet::Outlet;
use crate::pending::OnAnswer;
use crate::server::{Handler, serve};
use crate::session::{Outgoing, Session, locked};
use crate::snapshot;

/// Large messages share no frame: each is on its way as soon as the window allows.
const BULK_FRAME_BYTES: usize = 1;

/// Where more peers than so many come in at once, some are dialled at their time instead of at once.
const CAME_IN_REMEMBERED: usize = 64;

/// What a plane is made of.
pub struct PlaneOptions {
    /// This node.
    pub node: NodeId,
    /// What this process started with: above every earlier start of this node, or peers turn it
    /// away for as long as an earlier one's connections live.
    pub incarnation: u64,
    /// Its cluster, `None` while blank; see [`Plane::set_cluster`].
    pub cluster: Option<ClusterId>,
    /// The cluster secret, and during a rotation the other valid ones, at most
    /// [`SECRETS_MAX`]. None at all is insecure mode: everybody is let in.
    pub secrets: Vec<Zeroizing<Vec<u8>>>,
    /// Where peers connect. Bound by the caller, so that its port is known before.
    pub listener: std::net::TcpListener,
    /// Whether peers are answered from the start, or wait in front until [`Plane::open_doors`].
    pub doors_open: bool,
    /// Who answers peers.
    pub handler: Arc<dyn Handler>,
    /// Bounds and times.
    pub limits: Limits,
    /// Fresh, secret and random on every start: nonces and jitter are drawn from it.
    pub seed: [u8; 32],
}

/// The peer plane of one node. Dropping it stops it without waiting.
pub struct Plane {
    local: Arc<Local>,
    peers: Mutex<HashMap<NodeId, Arc<Peer>>>,
    address: SocketAddr,
}

struct Peer {
    main: Arc<Outlet>,
    bulk: Arc<Outlet>,
    target: watch::Sender<Target>,
    link: watch::Receiver<Link>,
    gone: CancellationToken,
}

impl Plane {
    /// Starts to listen. Must be called on a tokio runtime with time and IO.
    pub fn start(options: PlaneOptions) -> Result<Plane, StartError> {
        let got = options.secrets.len();
        if got > SECRETS_MAX {
            return Err(StartError::Secrets { got, max: SECRETS_MAX });
        }
        options.listener.set_nonblocking(true)?;
        let address = options.listener.local_addr()?;
        let listener = TcpListener::from_std(options.listener)?;
        let chance = Chance::new(options.seed);
        let life = Life { incarnation: options.incarnation, instance: chance.draw() };
        let local = Arc::new(Local {
            node: options.node,
            life,
            lives: Lives::default(),
            turned_away: watch::Sender::new(None),
            doors: watch::Sender::new(options.doors_open),
            keys: Keys::new(&options.secrets),
            limits: options.limits,
            chance,
            cluster: watch::Sender::new(options.cluster),
            came_in: broadcast::Sender::new(CAME_IN_REMEMBERED),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        local.tasks.spawn(serve(local.clone(), options.handler, listener));
        Ok(Plane { local, peers: Mutex::default(), address })
    }

    /// Where this plane listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers peers from now on. Before that whoever dials waits for the handshake.
    pub fn open_doors(&self) {
        self.local.doors.send_replace(true);
    }

    /// That peers turn this process away for another one under its id, with whom it would vote as
    /// one: proven, and never the word of a stranger. The last time stays.
    pub fn turned_away(&self) -> Option<TurnedAway> {
        *self.local.turned_away.borrow()
    }

    /// This node belongs to a cluster now. Every connection made as something else, either way,
    /// is closed and made anew: what was sent on ours is [`Error::Unknown`], what peers asked is
    /// still answered if it is within the drain time.
    pub fn set_cluster(&self, cluster: ClusterId) {
        let peers = locked(&self.peers);
        self.local.cluster.send_if_modified(|now| now.replace(cluster) != Some(cluster));
        for peer in peers.values() {
            peer.retarget(|target| target.cluster = Some(cluster));
        }
    }

    /// Enters a peer into the address book, or moves it: a changed address closes its connections
    /// and dials the new one at once; the same address changes nothing.
    pub fn set_address(&self, node: NodeId, address: SocketAddr) {
        let mut peers = locked(&self.peers);
        match peers.get(&node) {
            Some(peer) => peer.retarget(|target| target.address = Some(address)),
            None => {
                let peer = self.keep(node, Some(address));
                peers.insert(node, peer);
            }
        }
    }

    /// Strikes a peer from the address book; its connections close. What it asks of us is still
    /// answered: that is for the handler to refuse.
    pub fn remove(&self, node: NodeId) {
        if let Some(peer) = locked(&self.peers).remove(&node) {
            peer.gone.cancel();
        }
    }

    /// The state of the main link to a peer, as it changes. After [`Plane::remove`] it ends with
    /// [`Down::Removed`], and a new entry has a new one. A peer not in the book is entered
    /// without an address.
    pub fn link(&self, node: NodeId) -> watch::Receiver<Link> {
        let mut peers = locked(&self.peers);
        peers.entry(node).or_insert_with(|| self.keep(node, None)).link.clone()
    }

    fn keep(&self, node: NodeId, address: Option<SocketAddr>) -> Arc<Peer> {
        let why = if address.is_some() { Down::Dialling } else { Down::NoAddress };
        let (link, seen) = watch::channel(Link::Down { since: Instant::now(), why });
        let target = Target { address, cluster: *self.local.cluster.borrow() };
        let peer = Arc::new(Peer {
            main: Outlet::new(&self.local.limits, FRAME_BYTES),
            bulk: Outlet::new(&self.local.limits, BULK_FRAME_BYTES),
            target: watch::Sender::new(target),
            link: seen,
            gone: CancellationToken::new(),
        });
        peer.main.hope();
        let lines = [(Role::Main, &peer.main, Some(link)), (Role::Bulk, &peer.bulk, None)];
        for (role, outlet, link) in lines {
            let keeper = Keeper {
                local: self.local.clone(),
                peer: node,
                role,
                outlet: outlet.clone(),
                link,
                gone: peer.gone.clone(),
            };
            self.local.tasks.spawn(keeper.run(peer.target.subscribe()));
        }
        peer
    }

    /// Sends a message and calls back, exactly once, with what became of it. The callback runs on
    /// whatever finds out, perhaps before this returns, and must neither block nor panic; no task
    /// is spawned.
    ///
    /// A normal message of more than [`BULK_PAYLOAD_BYTES`] takes the bulk connection. While the
    /// link is down the answer is [`Error::NotSent`] at once; only before the first dial of a new
    /// address is known to have failed do messages wait for it.
    pub fn send(
        &self,
        to: NodeId,
        lane: Lane,
        message: Envelope,
        deadline: Instant,
        on_answer: OnAnswer,
    ) {
        let Some(peer) = locked(&self.peers).get(&to).cloned() else {
            return on_answer(Err(not_sent(Down::NoAddress)));
        };
        if lane == Lane::Urgent || message.payload.len() <= BULK_PAYLOAD_BYTES {
            return peer.main.submit(lane, message, deadline, on_answer);
        }
        // The main link knows sooner: a large message need not wait for a dial to fail.
        match peer.main.failing() {
            Some(why) => on_answer(Err(not_sent(why))),
            None => peer.bulk.submit(lane, message, deadline, on_answer),
        }
    }

    /// [`Plane::send`], awaited. The message is sent by the call, not by the first poll; dropping
    /// the future gives up on the answer and recalls nothing.
    pub fn request(
        &self,
        to: NodeId,
        lane: Lane,
        message: Envelope,
        deadline: Instant,
    ) -> impl Future<Output = Result<Bytes, Error>> + Send + use<> {
        let (on_answer, answer) = awaited();
        self.send(to, lane, message, deadline, on_answer);
        answer
    }

    /// Streams a snapshot to a peer on a connection of its own and returns its handler's answer.
    /// There is no deadline: a dead peer is found by the keepalive, and dropping the future
    /// interrupts the snapshot, as an error from `chunks` does.
    pub async fn send_snapshot(
        &self,
        to: NodeId,
        header: Envelope,
        chunks: impl Stream<Item = io::Result<Bytes>> + Send,
    ) -> Result<Bytes, Error> {
        let target = locked(&self.peers).get(&to).map(|peer| *peer.target.borrow());
        let Some(Target { address: Some(address), cluster }) = target else {
            return Err(not_sent(Down::NoAddress));
        };
        let call = Call { address, wanted: Some(to), cluster, role: Role::Snapshot };
        snapshot::send(&self.local, call, header, chunks).await
    }

    /// Asks whoever listens at an address, on a connection for this one question: for bootstrap
    /// and join, before the address book knows the node. Returns who answered, too. With `expect`
    /// anybody else is refused. Dialling our own address is refused as
    /// [`crate::Mismatch::SelfDial`].
    pub async fn call_once(
        &self,
        address: SocketAddr,
        expect: Option<NodeId>,
        message: Envelope,
        deadline: Instant,
    ) -> Result<(PeerIdentity, Bytes), Error> {
        let cluster = *self.local.cluster.borrow();
        let call = Call { address, wanted: expect, cluster, role: Role::Once };
        let session = Session::new(&self.local.limits, FRAME_BYTES);
        let talk = async {
            let opening = timeout_at(deadline, open(&self.local, call, Outgoing(session.clone())));
            let mut opened = match opening.await {
                Ok(opened) => opened.map_err(not_sent)?,
                Err(_) => return Err(Error::NotSent(NotSent::Deadline)),
            };
            let (on_answer, mut answer) = awaited();
            session.submit(Lane::Normal, message, deadline, on_answer);
            let payload = tokio::select! {
                biased;
                answer = &mut answer => answer,
                why = hear(&session, &mut opened.incoming) => {
                    session.close(&why);
                    answer.await
                }
                never = sweep_deadlines(&session) => match never {},
            };
            payload.map(|payload| (opened.peer, payload))
        };
        tokio::select! {
            biased;
            answered = talk => answered,
            () = self.local.stop.cancelled() => {
                Err(Error::Unknown(Unknown::Down(Down::Shutdown)))
            }
        }
    }

    /// A number by chance that nobody can guess and no other call gets: to name something in the
    /// cluster.
    pub fn draw(&self) -> u128 {
        self.local.chance.draw()
    }

    /// Stops: no more connections either way, answers owed may still leave for the drain time,
    /// everything else that waits is told [`Down::Shutdown`]. Resolves when all tasks have ended.
    pub async fn shutdown(&self) {
        self.local.stop.cancel();
        self.local.tasks.close();
        self.local.tasks.wait().await;
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.local.stop.cancel();
    }
}

impl Peer {
    fn retarget(&self, change: impl FnOnce(&mut Target)) {
        self.target.send_if_modified(|target| {
            let before = *target;
            change(target);
            *target != before
        });
    }
}

fn not_sent(why: Down) -> Error {
    Error::NotSent(NotSent::Down(why))
}

/// A callback and the future of what it is told.
fn awaited() -> (OnAnswer, BoxFuture<'static, Result<Bytes, Error>>) {
    let (tell, told) = oneshot::channel();
    // Nobody listens any more if the future was dropped; that is the caller's choice.
    let on_answer: OnAnswer = Box::new(move |result| drop(tell.send(result)));
    let answer = async {
        // The callback is dropped uncalled only when the runtime ends under our tasks.
        told.await.unwrap_or(Err(Error::Unknown(Unknown::Down(Down::Shutdown))))
    };
    (on_answer, Box::pin(answer))
}
