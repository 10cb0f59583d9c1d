//! Where callers hand messages to a connection that comes and goes.
//!
//! Invariant: a session is reachable from here only while a dial or a
//! connection will see to it, so nobody waits in a queue that nobody empties.

use std::sync::{Arc, Mutex};

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::error::{Down, Error, NotSent};
use crate::limits::Limits;
use crate::message::{Envelope, Lane};
use crate::pending::OnAnswer;
use crate::session::{Session, locked};

enum Current {
    /// Not dialled; a message makes it so. (Bulk only.)
    Idle,
    /// Connected, or in a first dial that may well succeed: messages queue.
    Open(Arc<Session>),
    /// The last dial failed or the connection broke: messages are refused at once.
    Failing(Down),
}

/// One of the two connections to a peer.
pub(crate) struct Outlet {
    current: Mutex<Current>,
    demand: Notify,
    limits: Limits,
    frame_bytes: usize,
}

impl Outlet {
    /// Not dialled yet.
    pub(crate) fn new(limits: &Limits, frame_bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            current: Mutex::new(Current::Idle),
            demand: Notify::new(),
            limits: limits.clone(),
            frame_bytes,
        })
    }

    /// Queues a message, or calls back at once with why not.
    pub(crate) fn submit(
        &self,
        lane: Lane,
        envelope: Envelope,
        deadline: Instant,
        on_answer: OnAnswer,
    ) {
        let mut current = locked(&self.current);
        let session = match &*current {
            Current::Open(session) => session.clone(),
            Current::Idle => {
                self.demand.notify_one();
                self.renew(&mut current)
            }
            Current::Failing(why) => {
                let why = why.clone();
                drop(current);
                return on_answer(Err(Error::NotSent(NotSent::Down(why))));
            }
        };
        drop(current);
        session.submit(lane, envelope, deadline, on_answer);
    }

    fn renew(&self, current: &mut Current) -> Arc<Session> {
        let session = Session::new(&self.limits, self.frame_bytes);
        *current = Current::Open(session.clone());
        session
    }

    /// Why messages are refused, if they are.
    pub(crate) fn failing(&self) -> Option<Down> {
        match &*locked(&self.current) {
            Current::Failing(why) => Some(why.clone()),
            Current::Idle | Current::Open(_) => None,
        }
    }

    /// Resolves when a message came in while idle.
    pub(crate) async fn demanded(&self) {
        self.demand.notified().await;
    }

    /// Lets messages queue for the dial that begins now.
    pub(crate) fn hope(&self) {
        self.renew(&mut locked(&self.current));
    }

    /// The session for the dial that begins now: the one messages queue in already, or one that
    /// stays unknown to callers until [`Outlet::opened`].
    pub(crate) fn session(&self) -> Arc<Session> {
        match &*locked(&self.current) {
            Current::Open(session) => session.clone(),
            Current::Idle | Current::Failing(_) => Session::new(&self.limits, self.frame_bytes),
        }
    }

    /// The dial succeeded.
    pub(crate) fn opened(&self, session: Arc<Session>) {
        *locked(&self.current) = Current::Open(session);
    }

    /// The dial failed or the connection broke: everybody who waits is told.
    pub(crate) fn fail(&self, why: &Down) {
        let before = std::mem::replace(&mut *locked(&self.current), Current::Failing(why.clone()));
        if let Current::Open(session) = before {
            session.close(why);
        }
    }

    /// After a failure, the next message may try again. (Bulk only.)
    pub(crate) fn rest(&self) {
        let mut current = locked(&self.current);
        if matches!(*current, Current::Failing(_)) {
            *current = Current::Idle;
        }
    }
}
