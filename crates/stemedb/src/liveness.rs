//! Which members are there, as this node sees for itself: the evidence that failover acts on.
//!
//! Two things say that a node is gone. Its link breaks or can't be made: then the kernel of the other
//! side has spoken, or the keepalive, and it is known within a moment of a process's death.
//! Or it answers no ping: each member is asked every [`PING_INTERVAL`], and after [`MISSES_MAX`] in
//! a row without an answer it is taken for gone (a paused process, a network that drops packets
//! without a word). One ping per pair of nodes carries this for all groups.
//!
//! It is one node's view, and it may be wrong: whoever acts on it asks others first
//! ([`crate::failover`]). Gossip (SWIM) is slower and serves another end: who is a member in
//! the long run.
//!
//! What it leaves out: a peer that we can't reach and that reaches us counts as gone. What it costs:
//! four small messages a second for each pair of nodes and direction.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use stemedb_raft::{Evidence, Ticks};
use stemedb_rpc::{Down, Envelope, Error as RpcError, Lane, Link, NotSent, Plane};
use stemedb_types::{GroupId, NodeId, ReplicaId};
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use crate::core::Core;
use crate::wire::PING;

/// Between two pings of one peer.
pub(crate) const PING_INTERVAL: Duration = Duration::from_millis(250);
/// So many pings in a row without an answer, and the peer is gone.
const MISSES_MAX: u32 = 3;

/// The members that are gone, as this node sees it. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Liveness(Arc<watch::Sender<BTreeSet<NodeId>>>);

impl Liveness {
    /// The members that are gone, as they change.
    pub(crate) fn gone(&self) -> watch::Receiver<BTreeSet<NodeId>> {
        self.0.subscribe()
    }

    /// Ends once a node is gone.
    pub(crate) async fn lost(&self, node: NodeId) {
        let mut gone = self.0.subscribe();
        if gone.wait_for(|gone| gone.contains(&node)).await.is_err() {
            std::future::pending().await
        }
    }

    fn set(&self, node: NodeId, gone: bool) {
        self.0.send_if_modified(|all| {
            let news = if gone { all.insert(node) } else { all.remove(&node) };
            if news {
                tracing::info!(peer = %node, gone, "whether a peer is there has changed");
            }
            news
        });
    }
}

impl Evidence for Liveness {
    fn is_gone(&self, node: NodeId) -> bool {
        self.0.borrow().contains(&node)
    }
}

/// Looks after every member until the node stops.
pub(crate) async fn watch_peers(core: Arc<Core>) {
    let mut changed = core.meta_changed.subscribe();
    let mut watched: BTreeMap<NodeId, AbortHandle> = BTreeMap::new();
    let mut tasks = JoinSet::new();
    loop {
        changed.borrow_and_update();
        let state = core.meta.load_full();
        watched.retain(|node, task| {
            let stays = state.nodes.contains_key(node);
            if !stays {
                task.abort();
                core.liveness.set(*node, false);
            }
            stays
        });
        if let Ok(plane) = core.plane() {
            for node in state.nodes.keys().filter(|node| **node != core.node) {
                watched.entry(*node).or_insert_with(|| {
                    tasks.spawn(watch_peer(plane.clone(), core.liveness.clone(), *node))
                });
            }
        }
        tokio::select! {
            () = core.stop.cancelled() => return,
            // Those whose peer is a member no more.
            Some(_) = tasks.join_next() => {}
            _ = changed.changed() => {}
        }
    }
}

/// Pings that were answered, or not.
#[derive(Debug)]
struct Silence {
    misses: u32,
    /// A ping went out.
    has_asked: bool,
}

impl Silence {
    fn new() -> Self {
        Self { misses: 0, has_asked: false }
    }

    /// Notes whether the last ping was answered, as the next one goes out, which was `late`.
    fn ask(&mut self, answered: bool, late: Duration) {
        // A node that stood still itself finds answers it has not read yet: that proves nothing.
        let stalled = late >= PING_INTERVAL;
        if answered {
            self.misses = 0;
        } else if self.has_asked && !stalled {
            self.misses += 1;
        }
        self.has_asked = true;
    }

    fn is_long(&self) -> bool {
        self.misses >= MISSES_MAX
    }
}

/// Whether the state of a link says that the node behind it is gone.
fn is_broken(link: &Link) -> bool {
    match link {
        Link::Up { .. } => false,
        Link::Down { why, .. } => match why {
            Down::ConnectionRefused
            | Down::Lost(_)
            | Down::Unreachable(_)
            // Somebody else is there now.
            | Down::Handshake(_) => true,
            // Our own doing, or too early to say.
            Down::Superseded
            | Down::NoAddress
            | Down::Dialling
            | Down::Removed
            | Down::Shutdown => false,
        },
    }
}

/// Keeps one member's entry true for as long as it is one.
async fn watch_peer(plane: Arc<Plane>, liveness: Liveness, node: NodeId) {
    let mut link = plane.link(node);
    let answer = Arc::new((AtomicBool::new(false), Notify::new()));
    let mut silence = Silence::new();
    let mut ticks = Ticks::new(PING_INTERVAL);
    loop {
        let broken = is_broken(&link.borrow_and_update());
        if broken {
            // A new link begins anew.
            silence = Silence::new();
        }
        liveness.set(node, broken || silence.is_long());
        tokio::select! {
            changed = link.changed() => if changed.is_err() {
                // Struck from the address book, and perhaps entered again.
                link = plane.link(node);
            },
            () = answer.1.notified() => silence.misses = 0,
            due = ticks.tick() => {
                let now = Instant::now();
                silence.ask(answer.0.swap(false, Ordering::Relaxed), now - due);
                ping(&plane, node, now, &answer);
            }
        }
    }
}

fn ping(plane: &Plane, node: NodeId, now: Instant, answer: &Arc<(AtomicBool, Notify)>) {
    let nobody = ReplicaId(0);
    let (group, payload) = (GroupId::META, Bytes::new());
    let message = Envelope { group, from: nobody, to: nobody, kind: PING, payload };
    let answer = answer.clone();
    let heard = move |said| {
        // One that does not know what a ping is has answered, too; and that our own queue is full says
        // nothing of the peer.
        if matches!(said, Ok(_) | Err(RpcError::Refused(_) | RpcError::NotSent(NotSent::QueueFull)))
        {
            answer.0.store(true, Ordering::Relaxed);
            answer.1.notify_one();
        }
    };
    plane.send(node, Lane::Urgent, message, now + PING_INTERVAL * MISSES_MAX, Box::new(heard));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_pings_in_a_row_without_an_answer_are_a_silence_and_one_answer_ends_it() {
        let mut silence = Silence::new();
        let mut ask = |answered| {
            silence.ask(answered, Duration::from_millis(1));
            silence.is_long()
        };
        // The first has none before it.
        let answers = [false, false, false, true, false, false, false, false, true, false];
        let long = answers.map(&mut ask);
        assert_eq!(
            long,
            [false, false, false, false, false, false, true, true, false, false],
            "after each tick"
        );
    }

    #[test]
    fn a_node_that_stood_still_itself_counts_nothing_against_its_peer() {
        let mut silence = Silence::new();
        silence.ask(false, Duration::ZERO);
        for _ in 0..10 {
            silence.ask(false, PING_INTERVAL);
        }
        assert_eq!(silence.misses, 0);
        // One that is always a little late does.
        for _ in 0..3 {
            silence.ask(false, PING_INTERVAL * 9 / 10);
        }
        assert!(silence.is_long());
    }

    #[test]
    fn only_what_the_other_side_or_the_network_did_is_evidence() {
        let down = |why| Link::Down { since: Instant::now(), why };
        let broken = [
            Down::ConnectionRefused,
            Down::Lost("reset".to_owned()),
            Down::Unreachable("no route".to_owned()),
        ];
        let not =
            [Down::Superseded, Down::NoAddress, Down::Dialling, Down::Removed, Down::Shutdown];
        assert!(broken.into_iter().all(|why| is_broken(&down(why))));
        assert!(!not.into_iter().any(|why| is_broken(&down(why))));
        assert!(!is_broken(&Link::Up { since: Instant::now() }));
    }
}
