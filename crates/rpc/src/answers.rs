//! The answering side of one connection: replies that are owed, answers that
//! wait to leave.
//!
//! A [`Reply`] can be answered from anywhere, once; letting go of it is an
//! answer too ([`crate::Error::Dropped`]), so no caller waits for a handler
//! that forgot. Answers leave as requests do: each pull of the connection
//! takes what is there, urgent first.
//!
//! The number of replies owed and the bytes waiting are bounded by not reading
//! on ([`Answers::room`]); HTTP/2 then stops the peer.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::Notify;
use tonic::Status;

use crate::error::Error;
use crate::frame::{Answer, FrameBuilder};
use crate::lanes::Lanes;
use crate::limits::{FRAME_BYTES, Limits, PAYLOAD_BYTES_MAX};
use crate::message::{Lane, Refusal};
use crate::pending::OnAnswer;
use crate::session::locked;
use crate::wire::Frame;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Requests come in.
    Open,
    /// No more requests; the stream ends with the last answer owed.
    Draining,
    /// The stream has ended; answers go nowhere.
    Closed,
}

struct State {
    phase: Phase,
    lanes: Lanes<(u64, Answer)>,
    /// Requests taken whose answers have not left.
    owed: usize,
    waker: Option<Waker>,
}

/// One connection's answers.
pub(crate) struct Answers {
    state: Mutex<State>,
    /// Answers left, or the stream ended.
    moved: Notify,
    owed_max: usize,
    bytes_max: usize,
}

impl Answers {
    /// Nothing owed yet.
    pub(crate) fn new(limits: &Limits) -> Arc<Self> {
        let state = State { phase: Phase::Open, lanes: Lanes::new(), owed: 0, waker: None };
        Arc::new(Self {
            state: Mutex::new(state),
            moved: Notify::new(),
            owed_max: limits.unanswered_max,
            bytes_max: limits.queued_bytes_max,
        })
    }

    /// A request was taken; its reply must come back.
    pub(crate) fn owe(self: &Arc<Self>, id: u64, lane: Lane) -> Reply {
        locked(&self.state).owed += 1;
        Reply { to: Some(To::Stream { answers: self.clone(), id, lane }) }
    }

    /// Resolves when another frame of requests may be taken. For one waiter at a time.
    pub(crate) async fn room(&self) {
        self.until(|state| {
            let full = state.owed >= self.owed_max || state.lanes.bytes() >= self.bytes_max;
            !full || state.phase == Phase::Closed
        })
        .await;
    }

    /// No more requests: ends the stream behind the last answer owed, and resolves then.
    pub(crate) async fn drain(&self) {
        self.turn(Phase::Draining);
        self.until(|state| state.phase == Phase::Closed).await;
    }

    /// Ends the stream now.
    pub(crate) fn close(&self) {
        self.turn(Phase::Closed);
    }

    async fn until(&self, holds: impl Fn(&State) -> bool) {
        while !holds(&locked(&self.state)) {
            self.moved.notified().await;
        }
    }

    fn turn(&self, phase: Phase) {
        let mut state = locked(&self.state);
        if state.phase == Phase::Closed {
            return;
        }
        state.phase = phase;
        if phase == Phase::Closed {
            state.lanes.clear();
        }
        let waker = state.waker.take();
        drop(state);
        self.moved.notify_one();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn push(&self, id: u64, lane: Lane, answer: Answer) {
        let mut state = locked(&self.state);
        if state.phase == Phase::Closed {
            return;
        }
        let bytes = answer.bytes();
        state.lanes.push(lane, bytes, (id, answer));
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn poll_frame(&self, context: &mut Context<'_>) -> Poll<Option<Frame>> {
        let mut state = locked(&self.state);
        if state.lanes.is_empty() && state.phase == Phase::Draining && state.owed == 0 {
            state.phase = Phase::Closed;
            self.moved.notify_one();
        }
        if state.phase == Phase::Closed {
            return Poll::Ready(None);
        }
        if state.lanes.is_empty() {
            state.waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        let frame = take_frame(&mut state);
        drop(state);
        self.moved.notify_one();
        Poll::Ready(Some(frame))
    }
}

fn take_frame(state: &mut State) -> Frame {
    let mut frame = FrameBuilder::new();
    let mut gathered_bytes = 0;
    while gathered_bytes < FRAME_BYTES
        && let Some((bytes, (id, answer))) = state.lanes.pop()
    {
        gathered_bytes += bytes;
        state.owed -= 1;
        frame.answer(id, answer);
    }
    frame.finish()
}

/// The answers of a connection, as the body of a gRPC response.
pub(crate) struct Answering(pub(crate) Arc<Answers>);

impl Stream for Answering {
    type Item = Result<Frame, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_frame(context).map(|frame| frame.map(Ok))
    }
}

impl Drop for Answering {
    /// The connection is gone: whoever waits for room or for the end need not.
    fn drop(&mut self) {
        self.0.close();
    }
}

enum To {
    Stream { answers: Arc<Answers>, id: u64, lane: Lane },
    Call(OnAnswer),
}

/// What is owed to the sender of a request. Answer it once, from anywhere, in any order; letting
/// go of it tells the sender [`Error::Dropped`] at once. If the sender's connection is gone the
/// answer goes nowhere.
pub struct Reply {
    to: Option<To>,
}

impl Reply {
    /// A reply that ends in a callback: for a network without sockets, and for tests of handlers.
    pub fn to_callback(on_answer: OnAnswer) -> Self {
        Self { to: Some(To::Call(on_answer)) }
    }

    /// The answer. Beyond [`PAYLOAD_BYTES_MAX`] it can't travel and counts as dropped.
    pub fn ok(mut self, payload: Bytes) {
        if payload.len() <= PAYLOAD_BYTES_MAX {
            self.settle(Answer::Ok(payload));
        } else {
            tracing::error!(bytes = payload.len(), "an answer is too large to travel");
        }
    }

    /// No, and why.
    pub fn refuse(mut self, refusal: Refusal) {
        self.settle(Answer::Refused(refusal));
    }

    fn settle(&mut self, answer: Answer) {
        match self.to.take() {
            Some(To::Stream { answers, id, lane }) => answers.push(id, lane, answer),
            Some(To::Call(on_answer)) => on_answer(match answer {
                Answer::Ok(payload) => Ok(payload),
                Answer::Refused(refusal) => Err(Error::Refused(refusal)),
                Answer::Dropped => Err(Error::Dropped),
            }),
            None => {}
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.settle(Answer::Dropped);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, StreamExt};

    use super::*;
    use crate::frame::{Content, Message, read};

    /// The ids of the next frame's answers; an empty list if nothing leaves yet.
    fn pull(stream: &mut Answering) -> Vec<u64> {
        let Some(frame) = stream.next().now_or_never() else { return Vec::new() };
        let Content::Messages(messages) = read(frame.unwrap().unwrap()).unwrap() else {
            panic!("not messages")
        };
        let id = |message: &Message| match message {
            Message::Answer { id, .. } => *id,
            Message::Request { .. } => panic!("a request among answers"),
        };
        messages.iter().map(id).collect()
    }

    #[test]
    fn answers_leave_in_the_order_they_were_given_urgent_first() {
        let answers = Answers::new(&Limits::default());
        let mut stream = Answering(answers.clone());
        let [one, two] = [1, 2].map(|id| answers.owe(id, Lane::Normal));
        let vote = answers.owe(3, Lane::Urgent);
        assert_eq!(pull(&mut stream), []);
        two.ok(Bytes::new());
        drop(one);
        vote.refuse(Refusal::new(1, "no"));
        assert_eq!(pull(&mut stream), [3, 2, 1]);
    }

    #[test]
    fn reading_pauses_while_too_much_is_owed() {
        let answers = Answers::new(&Limits { unanswered_max: 1, ..Limits::default() });
        let mut stream = Answering(answers.clone());
        assert!(answers.room().now_or_never().is_some());
        let reply = answers.owe(1, Lane::Normal);
        assert!(answers.room().now_or_never().is_none());
        reply.ok(Bytes::new());
        assert!(answers.room().now_or_never().is_none(), "answered, and not yet taken by the peer");
        assert_eq!(pull(&mut stream), [1]);
        assert!(answers.room().now_or_never().is_some());
    }

    #[test]
    fn a_draining_stream_ends_behind_the_last_answer_owed() {
        let answers = Answers::new(&Limits::default());
        let mut stream = Answering(answers.clone());
        let reply = answers.owe(1, Lane::Normal);
        assert!(answers.drain().now_or_never().is_none());
        assert_eq!(pull(&mut stream), []);
        reply.ok(Bytes::new());
        assert_eq!(pull(&mut stream), [1]);
        assert!(stream.next().now_or_never().unwrap().is_none());
        assert!(answers.drain().now_or_never().is_some());
    }

    #[test]
    fn a_reply_outlives_its_connection_harmlessly() {
        let answers = Answers::new(&Limits::default());
        let reply = answers.owe(1, Lane::Normal);
        drop(Answering(answers.clone()));
        reply.ok(Bytes::new());
        assert!(answers.room().now_or_never().is_some());
    }
}
