//! The asking side of one connection: what is queued, what is awaited.
//!
//! A session lives as long as its connection and no longer: ids start anew
//! with it, and a stream that outlives it in some buffer finds it closed. It
//! is the meeting point of three parties. Callers [`Session::submit`]; the
//! HTTP/2 machinery pulls frames out of [`Outgoing`] whenever there is room in
//! the window, and each pull takes whatever is queued by then, urgent first
//! (that is the whole cork: it costs no timer and no latency); the link's task
//! brings answers and deadlines ([`Session::answered`], [`Session::sweep`]).
//!
//! Callbacks are called outside of the lock, on whichever of these found out.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use futures_util::Stream;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::error::{Down, Error, NotSent};
use crate::frame::{Answer, FrameBuilder, HEADER_BYTES};
use crate::lanes::Lanes;
use crate::limits::{Limits, PAYLOAD_BYTES_MAX};
use crate::message::{Envelope, Lane};
use crate::pending::{OnAnswer, Pending};
use crate::wire::Frame;

/// Urgent messages are let in until so many times the bounds are reached.
const URGENT_SHARE: usize = 2;

/// A lock that is never held where a panic could happen, or over an await.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Queued {
    id: u64,
    lane: Lane,
    envelope: Envelope,
}

struct State {
    closed: Option<Down>,
    lanes: Lanes<Queued>,
    pending: Pending,
    last_id: u64,
    /// When the link's task will look at the deadlines next.
    armed: Option<Instant>,
    waker: Option<Waker>,
}

/// One connection's requests.
pub(crate) struct Session {
    state: Mutex<State>,
    rearm: Notify,
    in_flight_max: usize,
    queued_bytes_max: usize,
    frame_bytes: usize,
}

impl Session {
    /// A session whose frames are let go at `frame_bytes`; 1 gives each message its own.
    pub(crate) fn new(limits: &Limits, frame_bytes: usize) -> Arc<Self> {
        let state = State {
            closed: None,
            lanes: Lanes::new(),
            pending: Pending::default(),
            last_id: 0,
            armed: None,
            waker: None,
        };
        Arc::new(Self {
            state: Mutex::new(state),
            rearm: Notify::new(),
            in_flight_max: limits.requests_in_flight_max,
            queued_bytes_max: limits.queued_bytes_max,
            frame_bytes,
        })
    }

    /// Queues a request. `on_answer` is called exactly once, perhaps before this returns.
    pub(crate) fn submit(
        &self,
        lane: Lane,
        envelope: Envelope,
        deadline: Instant,
        on_answer: OnAnswer,
    ) {
        let mut state = locked(&self.state);
        if let Err(why) = self.admit(&state, lane, &envelope) {
            drop(state);
            return on_answer(Err(Error::NotSent(why)));
        }
        state.last_id += 1;
        let id = state.last_id;
        state.pending.insert(id, deadline, on_answer);
        let bytes = HEADER_BYTES + envelope.payload.len();
        state.lanes.push(lane, bytes, Queued { id, lane, envelope });
        let earlier = state.armed.is_none_or(|armed| deadline < armed);
        let waker = state.waker.take();
        drop(state);
        if earlier {
            self.rearm.notify_one();
        }
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn admit(&self, state: &State, lane: Lane, envelope: &Envelope) -> Result<(), NotSent> {
        let got_bytes = envelope.payload.len();
        if let Some(why) = &state.closed {
            return Err(NotSent::Down(why.clone()));
        }
        if got_bytes > PAYLOAD_BYTES_MAX {
            return Err(NotSent::TooLarge { got_bytes, max_bytes: PAYLOAD_BYTES_MAX });
        }
        let queued_bytes = state.lanes.bytes();
        // Pings, votes and heartbeats get in where bulk does not: whether the peer is there must not be
        // a question of how much it was sent.
        let share = if lane == Lane::Urgent { URGENT_SHARE } else { 1 };
        let (bytes_max, in_flight_max) = (self.queued_bytes_max, self.in_flight_max);
        let bytes_full = queued_bytes > 0
            && queued_bytes.saturating_add(got_bytes) > bytes_max.saturating_mul(share);
        if bytes_full || state.pending.len() >= in_flight_max.saturating_mul(share) {
            return Err(NotSent::QueueFull);
        }
        Ok(())
    }

    /// Brings an answer to its caller. One that nobody awaits any more is thrown away.
    pub(crate) fn answered(&self, id: u64, answer: Answer) {
        let on_answer = locked(&self.state).pending.answered(id);
        if let Some(on_answer) = on_answer {
            on_answer(match answer {
                Answer::Ok(payload) => Ok(payload),
                Answer::Refused(refusal) => Err(Error::Refused(refusal)),
                Answer::Dropped => Err(Error::Dropped),
            });
        }
    }

    /// Ends what is due at `now`; returns when to look again.
    pub(crate) fn sweep(&self, now: Instant) -> Option<Instant> {
        let mut state = locked(&self.state);
        let due = state.pending.due(now);
        state.armed = state.pending.next_deadline();
        let next = state.armed;
        drop(state);
        for failed in due {
            failed.by_deadline();
        }
        next
    }

    /// Resolves when a deadline came in that is earlier than what `sweep` returned last.
    pub(crate) async fn rearmed(&self) {
        self.rearm.notified().await;
    }

    /// Ends the session: what waited is told why, what comes is refused for the same reason.
    pub(crate) fn close(&self, why: &Down) {
        let mut state = locked(&self.state);
        if state.closed.is_some() {
            return;
        }
        state.closed = Some(why.clone());
        state.lanes.clear();
        let failed = state.pending.take_all();
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        for failed in failed {
            failed.by_link(why.clone());
        }
    }

    fn poll_frame(&self, context: &mut Context<'_>) -> Poll<Option<Frame>> {
        let mut state = locked(&self.state);
        if state.closed.is_some() {
            return Poll::Ready(None);
        }
        match take_frame(&mut state, self.frame_bytes) {
            Some(frame) => Poll::Ready(Some(frame)),
            None => {
                state.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// Whatever is queued, up to a frame; `None` if nothing of it is still wanted.
fn take_frame(state: &mut State, frame_bytes: usize) -> Option<Frame> {
    let mut frame = None;
    let mut gathered_bytes = 0;
    while gathered_bytes < frame_bytes
        && let Some((bytes, queued)) = state.lanes.pop()
    {
        if state.pending.sending(queued.id) {
            gathered_bytes += bytes;
            let frame = frame.get_or_insert_with(FrameBuilder::new);
            frame.request(queued.id, queued.lane, queued.envelope);
        }
    }
    frame.map(FrameBuilder::finish)
}

/// The frames of a session, as the body of a gRPC request. Ends when the session does.
pub(crate) struct Outgoing(pub(crate) Arc<Session>);

impl Stream for Outgoing {
    type Item = Frame;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Frame>> {
        self.0.poll_frame(context)
    }
}

#[cfg(test)]
mod tests;
