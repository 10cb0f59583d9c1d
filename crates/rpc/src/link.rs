//! Keeps one connection to one peer: dials, serves, mourns, waits, dials again.
//!
//! The main connection is kept up at all times, because its state is evidence
//! (`Link`). The bulk connection is dialled when a large message comes and
//! not again until the next one. Both drop what they have and start over at
//! once when the peer's address or our cluster id changes. A peer that comes in while we wait for
//! the next dial is there: it is dialled at once. So a node that was started again has its links in
//! both directions as soon as it has them in one.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use stemedb_types::{ClusterId, NodeId};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use crate::backoff::Backoff;
use crate::dial::{Call, open, text};
use crate::error::{Down, Link};
use crate::frame::{Content, Message, read};
use crate::handshake::Role;
use crate::local::Local;
use crate::outlet::Outlet;
use crate::session::{Outgoing, Session};
use crate::wire::Frame;

/// A peer that came in so long ago says nothing of now: its connection may have gone with ours.
const CAME_JUST_NOW: Duration = Duration::from_millis(500);

/// Where a peer is and as whom we dial it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) address: Option<SocketAddr>,
    pub(crate) cluster: Option<ClusterId>,
}

/// The keeper of one connection.
pub(crate) struct Keeper {
    pub(crate) local: Arc<Local>,
    pub(crate) peer: NodeId,
    pub(crate) role: Role,
    pub(crate) outlet: Arc<Outlet>,
    /// Of the main connection.
    pub(crate) link: Option<watch::Sender<Link>>,
    pub(crate) gone: CancellationToken,
}

impl Keeper {
    /// Runs until the peer is removed or the plane stops.
    pub(crate) async fn run(self, mut target: watch::Receiver<Target>) {
        let limits = &self.local.limits;
        let mut backoff = Backoff::new(limits.redial_min, limits.redial_max);
        let mut came_in = self.local.came_in.subscribe();
        let mut cut_short = None;
        loop {
            let why = match self.demand().await {
                Some(end) => end,
                None => self.once(&mut target, &mut backoff).await,
            };
            self.outlet.fail(&why);
            self.fall(&why);
            let pause = match why {
                Down::Removed | Down::Shutdown => return,
                Down::Superseded => Duration::ZERO,
                Down::NoAddress => Duration::MAX,
                _ => backoff.wait(self.local.chance.roll()),
            };
            // Two that break each other's connections must not send each other dialling without a pause.
            let calm = cut_short.map(|cut: Instant| cut + limits.redial_max);
            if self.pause(pause, &mut target, self.peer_came(&mut came_in, calm)).await {
                cut_short = Some(Instant::now());
            }
        }
    }

    /// The bulk connection waits for a message; `Some` if the end comes first.
    async fn demand(&self) -> Option<Down> {
        if self.role == Role::Main {
            return None;
        }
        self.outlet.rest();
        tokio::select! {
            end = self.ended() => Some(end),
            () = self.outlet.demanded() => None,
        }
    }

    async fn ended(&self) -> Down {
        tokio::select! {
            () = self.local.stop.cancelled() => Down::Shutdown,
            () = self.gone.cancelled() => Down::Removed,
        }
    }

    /// One connection, from the dial to its end.
    async fn once(&self, target: &mut watch::Receiver<Target>, backoff: &mut Backoff) -> Down {
        let to = *target.borrow_and_update();
        tokio::select! {
            biased;
            end = self.ended() => end,
            changed = target.changed() => changed.map_or(Down::Removed, |()| Down::Superseded),
            why = self.live(to, backoff) => why,
        }
    }

    async fn live(&self, to: Target, backoff: &mut Backoff) -> Down {
        let Some(address) = to.address else { return Down::NoAddress };
        let wanted = Some(self.peer);
        let call = Call { address, wanted, cluster: to.cluster, role: self.role };
        let session = self.outlet.session();
        let talk = async {
            let mut opened = match open(&self.local, call, Outgoing(session.clone())).await {
                Ok(opened) => opened,
                Err(why) => return why,
            };
            backoff.reset();
            self.outlet.opened(session.clone());
            self.rise();
            tokio::select! {
                why = hear(&session, &mut opened.incoming) => why,
                () = opened.lease.outlived() => outlived(),
            }
        };
        tokio::select! {
            why = talk => why,
            never = sweep_deadlines(&session) => match never {},
        }
    }

    /// Waits for the next dial; a new address or identity, the peer's coming, or the end, cuts it
    /// short. Whether it was the peer.
    async fn pause(
        &self,
        pause: Duration,
        target: &mut watch::Receiver<Target>,
        peer_came: impl Future<Output = ()>,
    ) -> bool {
        let (changed, came) = match pause.is_zero() {
            true => (true, false),
            false => tokio::select! {
                _ = self.ended() => (false, false),
                _ = target.changed() => (true, false),
                () = peer_came => (false, true),
                () = sleep(pause) => (false, false),
            },
        };
        if (changed || came) && self.role == Role::Main {
            self.outlet.hope();
        }
        came
    }

    /// Resolves when the peer comes in, or has just done so, but not before `calm`.
    async fn peer_came(
        &self,
        came_in: &mut broadcast::Receiver<(NodeId, Instant)>,
        calm: Option<Instant>,
    ) {
        loop {
            match came_in.recv().await {
                Ok((node, at)) if node == self.peer && at.elapsed() < CAME_JUST_NOW => break,
                // Of those that were missed none may be ours: then the dial comes at its time.
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                // The sender is as long-lived as this task.
                Err(RecvError::Closed) => std::future::pending().await,
            }
        }
        if let Some(calm) = calm {
            sleep_until(calm).await;
        }
    }

    fn rise(&self) {
        let Some(link) = &self.link else { return };
        tracing::info!(peer = %self.peer, "peer link is up");
        link.send_replace(Link::Up { since: Instant::now() });
    }

    fn fall(&self, why: &Down) {
        let Some(link) = &self.link else { return };
        link.send_modify(|link| {
            let since = match link {
                Link::Down { why: known, .. } if known == why => return,
                Link::Down { since, .. } => *since,
                Link::Up { .. } => Instant::now(),
            };
            tracing::warn!(peer = %self.peer, reason = %why, "peer link is down");
            *link = Link::Down { since, why: why.clone() };
        });
    }
}

/// Why a connection to a peer ends of which another process is here now.
pub(crate) fn outlived() -> Down {
    Down::Lost("a newer life of that node has come".to_owned())
}

/// Brings answers to their callers until the connection ends; returns why it did.
pub(crate) async fn hear(session: &Session, incoming: &mut Streaming<Frame>) -> Down {
    loop {
        let frame = match incoming.message().await {
            Ok(Some(frame)) => frame,
            Ok(None) => return Down::Lost("the peer closed it".to_owned()),
            Err(status) => return Down::Lost(text(&status)),
        };
        let messages = match read(frame) {
            Ok(Content::Messages(messages)) => messages,
            Ok(_) => return Down::Lost("a piece of a snapshot among answers".to_owned()),
            Err(error) => return Down::Lost(error.to_string()),
        };
        for message in messages {
            match message {
                Message::Answer { id, answer } => session.answered(id, answer),
                Message::Request { .. } => {
                    return Down::Lost("a request among answers".to_owned());
                }
            }
        }
    }
}

/// Ends requests at their deadlines, with one timer for all of them.
pub(crate) async fn sweep_deadlines(session: &Session) -> Infallible {
    loop {
        match session.sweep(Instant::now()) {
            Some(next) => tokio::select! {
                () = sleep_until(next) => {}
                () = session.rearmed() => {}
            },
            None => session.rearmed().await,
        }
    }
}
