//! A session without a network: frames are pulled out by hand.

use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::StreamExt;
use stemedb_types::{GroupId, ReplicaId};

use super::*;
use crate::error::Unknown;
use crate::frame::{Content, Message, read};
use crate::limits::FRAME_BYTES;

type Told = mpsc::Receiver<Result<Bytes, Error>>;

fn letter(payload: impl Into<Bytes>) -> Envelope {
    let payload = payload.into();
    Envelope { group: GroupId(1), from: ReplicaId(2), to: ReplicaId(3), kind: 4, payload }
}

fn ask(session: &Session, lane: Lane, payload: impl Into<Bytes>, deadline: Instant) -> Told {
    let (tell, told) = mpsc::channel();
    session.submit(
        lane,
        letter(payload),
        deadline,
        Box::new(move |result| {
            tell.send(result).unwrap();
        }),
    );
    told
}

fn later() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// What leaves if the connection pulls now: the payloads of one frame, or nothing yet.
fn pull(session: &Arc<Session>) -> Option<Vec<Bytes>> {
    let frame = Outgoing(session.clone()).next().now_or_never()?.unwrap();
    let Content::Messages(messages) = read(frame).unwrap() else { panic!("not messages") };
    let payload = |message| match message {
        Message::Request { envelope, .. } => envelope.payload,
        Message::Answer { .. } => panic!("an answer among requests"),
    };
    Some(messages.into_iter().map(payload).collect())
}

#[test]
fn one_pull_takes_all_that_is_queued_urgent_first() {
    let session = Session::new(&Limits::default(), FRAME_BYTES);
    let _told: Vec<Told> = [(Lane::Normal, "a"), (Lane::Normal, "b"), (Lane::Urgent, "vote")]
        .map(|(lane, payload)| ask(&session, lane, payload, later()))
        .into();
    assert_eq!(pull(&session), Some(vec!["vote".into(), "a".into(), "b".into()]));
    assert_eq!(pull(&session), None);
}

#[test]
fn a_frame_ends_at_its_bound_and_the_rest_waits_for_the_next_pull() {
    let session = Session::new(&Limits::default(), 100);
    let _told: Vec<Told> =
        ["a", "b"].map(|payload| ask(&session, Lane::Normal, payload.repeat(90), later())).into();
    let _vote = ask(&session, Lane::Urgent, "vote", later());
    assert_eq!(pull(&session), Some(vec!["vote".into(), "a".repeat(90).into()]));
    assert_eq!(pull(&session), Some(vec!["b".repeat(90).into()]));
}

#[test]
fn a_full_queue_refuses_and_says_that_nothing_was_sent() {
    let full = Err(Error::NotSent(NotSent::QueueFull));
    let limits = Limits { requests_in_flight_max: 1, ..Limits::default() };
    let session = Session::new(&limits, FRAME_BYTES);
    let first = ask(&session, Lane::Normal, "a", later());
    assert_eq!(ask(&session, Lane::Normal, "b", later()).try_recv(), Ok(full.clone()));
    let ping = ask(&session, Lane::Urgent, "ping", later());
    assert!(ping.try_recv().is_err(), "what tells whether the peer is there gets in");
    assert_eq!(ask(&session, Lane::Urgent, "ping", later()).try_recv(), Ok(full.clone()), "once");
    pull(&session);
    session.answered(2, Answer::Ok("yes".into()));
    session.answered(1, Answer::Ok("yes".into()));
    assert_eq!(first.try_recv(), Ok(Ok("yes".into())));
    assert!(ask(&session, Lane::Normal, "c", later()).try_recv().is_err(), "there is room again");

    let session = Session::new(&Limits { queued_bytes_max: 50, ..Limits::default() }, FRAME_BYTES);
    let _large = ask(&session, Lane::Normal, "x".repeat(100), later());
    assert_eq!(ask(&session, Lane::Normal, "y", later()).try_recv(), Ok(full));
    let max_bytes = PAYLOAD_BYTES_MAX;
    let got_bytes = max_bytes + 1;
    let told = ask(&session, Lane::Normal, vec![0; got_bytes], later());
    assert_eq!(
        told.try_recv(),
        Ok(Err(Error::NotSent(NotSent::TooLarge { got_bytes, max_bytes })))
    );
}

#[test]
fn what_is_due_in_the_queue_never_leaves_it() {
    let session = Session::new(&Limits::default(), FRAME_BYTES);
    let now = Instant::now();
    let sent = ask(&session, Lane::Normal, "sent", now);
    pull(&session);
    let queued = ask(&session, Lane::Normal, "queued", now);
    let patient = ask(&session, Lane::Normal, "patient", now + Duration::from_secs(9));
    assert_eq!(session.sweep(now), Some(now + Duration::from_secs(9)));
    assert_eq!(sent.try_recv(), Ok(Err(Error::Unknown(Unknown::Deadline))));
    assert_eq!(queued.try_recv(), Ok(Err(Error::NotSent(NotSent::Deadline))));
    assert_eq!(pull(&session), Some(vec!["patient".into()]));
    session.answered(1, Answer::Ok("too late".into()));
    session.answered(3, Answer::Dropped);
    assert_eq!(patient.try_recv(), Ok(Err(Error::Dropped)));
}

#[test]
fn an_earlier_deadline_than_the_armed_one_is_announced() {
    let session = Session::new(&Limits::default(), FRAME_BYTES);
    let now = Instant::now();
    let _late = ask(&session, Lane::Normal, "late", now + Duration::from_secs(9));
    assert!(session.rearmed().now_or_never().is_some());
    session.sweep(now);
    let _later = ask(&session, Lane::Normal, "later", now + Duration::from_secs(10));
    assert!(session.rearmed().now_or_never().is_none());
    let _soon = ask(&session, Lane::Normal, "soon", now + Duration::from_secs(1));
    assert!(session.rearmed().now_or_never().is_some());
}

#[test]
fn a_closed_session_tells_everybody_at_once() {
    let session = Session::new(&Limits::default(), FRAME_BYTES);
    let sent = ask(&session, Lane::Normal, "sent", later());
    pull(&session);
    let queued = ask(&session, Lane::Normal, "queued", later());
    session.close(&Down::Removed);
    let not_sent = Ok(Err(Error::NotSent(NotSent::Down(Down::Removed))));
    assert_eq!(sent.try_recv(), Ok(Err(Error::Unknown(Unknown::Down(Down::Removed)))));
    assert_eq!(queued.try_recv(), not_sent);
    assert_eq!(ask(&session, Lane::Normal, "after", later()).try_recv(), not_sent);
    assert!(Outgoing(session).next().now_or_never().unwrap().is_none(), "the stream has ended");
}
