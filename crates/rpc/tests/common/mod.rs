//! Planes on loopback, and the handlers and wires the tests put between them.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "this is test code")]

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use stemedb_rpc::{
    Envelope, Handler, Limits, Link, PeerIdentity, Plane, PlaneOptions, Refusal, Reply,
    SnapshotChunks,
};
use stemedb_types::{ClusterId, GroupId, NodeId, ReplicaId};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

pub const SECRET: &str = "a secret of the cluster under test";
pub const CLUSTER: Option<ClusterId> = Some(ClusterId(7));

/// A handler made of one closure; snapshots are summed up as "bytes, error".
pub struct Script<F>(pub F);

impl<F> Handler for Script<F>
where
    F: Fn(PeerIdentity, Envelope, Reply) + Send + Sync + 'static,
{
    fn handle(&self, from: PeerIdentity, message: Envelope, reply: Reply) {
        (self.0)(from, message, reply);
    }

    fn handle_snapshot(
        &self,
        _from: PeerIdentity,
        header: Envelope,
        mut chunks: SnapshotChunks,
    ) -> BoxFuture<'static, Result<Bytes, Refusal>> {
        Box::pin(async move {
            let mut whole = header.payload.to_vec();
            while let Some(chunk) = chunks.next().await {
                whole.extend_from_slice(&chunk.map_err(|e| Refusal::new(9, e.to_string()))?);
            }
            Ok(whole.into())
        })
    }
}

/// Answers with the payload it was sent.
pub fn echo() -> Arc<dyn Handler> {
    Arc::new(Script(|_, message: Envelope, reply: Reply| reply.ok(message.payload)))
}

/// Keeps every reply unanswered, for the test to answer or drop.
pub type Held = Arc<Mutex<Vec<(Envelope, Reply)>>>;

pub fn hold() -> (Held, Arc<dyn Handler>) {
    let held = Held::default();
    let keep = held.clone();
    let handler = Script(move |_, message, reply| keep.lock().unwrap().push((message, reply)));
    (held, Arc::new(handler))
}

/// Waits, without looking at the clock, until the handler has taken `count` messages.
pub async fn until_held(held: &Held, count: usize) {
    while held.lock().unwrap().len() < count {
        tokio::task::yield_now().await;
    }
}

pub fn local_listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

pub struct Setup {
    pub node: u64,
    /// `None`: above that of every plane started before.
    pub incarnation: Option<u64>,
    pub cluster: Option<ClusterId>,
    pub secrets: Vec<&'static str>,
    pub doors_open: bool,
    pub limits: Limits,
    pub listener: TcpListener,
    pub handler: Arc<dyn Handler>,
}

impl Setup {
    pub fn new(node: u64) -> Self {
        Setup {
            node,
            incarnation: None,
            cluster: CLUSTER,
            secrets: vec![SECRET],
            doors_open: true,
            limits: Limits::default(),
            listener: local_listener(),
            handler: echo(),
        }
    }

    pub fn handler(self, handler: Arc<dyn Handler>) -> Self {
        Self { handler, ..self }
    }

    pub fn start(self) -> Plane {
        static STARTS: AtomicU64 = AtomicU64::new(1);
        let mut seed = [0; 32];
        let starts = STARTS.fetch_add(1, Ordering::Relaxed);
        seed[..8].copy_from_slice(&starts.to_le_bytes());
        Plane::start(PlaneOptions {
            node: NodeId(self.node),
            incarnation: self.incarnation.unwrap_or(starts),
            doors_open: self.doors_open,
            cluster: self.cluster,
            secrets: self.secrets.iter().map(|s| Zeroizing::new(s.as_bytes().to_vec())).collect(),
            listener: self.listener,
            handler: self.handler,
            limits: self.limits,
            seed,
        })
        .unwrap()
    }
}

pub fn letter(payload: impl Into<Bytes>) -> Envelope {
    Envelope {
        group: GroupId(3),
        from: ReplicaId(11),
        to: ReplicaId(12),
        kind: 5,
        payload: payload.into(),
    }
}

/// A deadline no test is meant to reach.
pub fn later() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

pub async fn until(link: &mut watch::Receiver<Link>, holds: impl FnMut(&Link) -> bool) -> Link {
    let seen = tokio::time::timeout(Duration::from_secs(20), link.wait_for(holds));
    seen.await.expect("the link came to the state wanted").unwrap().clone()
}

/// Tells `a` where `b` is and waits for the link.
pub async fn connect(a: &Plane, b: &Plane, b_node: u64) -> watch::Receiver<Link> {
    a.set_address(NodeId(b_node), b.address());
    let mut link = a.link(NodeId(b_node));
    until(&mut link, Link::is_up).await;
    link
}

/// A wire to `to` that counts the connections made through it.
pub async fn counting_wire(to: SocketAddr) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let made = Arc::new(AtomicUsize::new(0));
    let count = made.clone();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                let mut far = tokio::net::TcpStream::connect(to).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    (address, made)
}

/// A wire to `to` that carries nothing more once it is cut, and closes nothing.
pub async fn cuttable_wire(to: SocketAddr) -> (SocketAddr, CancellationToken) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let cut = CancellationToken::new();
    let heard = cut.clone();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let heard = heard.clone();
            tokio::spawn(async move {
                let mut far = tokio::net::TcpStream::connect(to).await.unwrap();
                let carry = tokio::io::copy_bidirectional(&mut near, &mut far);
                let carried = heard.run_until_cancelled(carry).await;
                if carried.is_none() {
                    std::future::pending::<()>().await;
                }
            });
        }
    });
    (address, cut)
}
