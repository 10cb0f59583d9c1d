//! Messages between planes that are up: order, lanes, sizes, and every way a question ends.

mod common;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use common::*;
use stemedb_rpc::{
    BULK_PAYLOAD_BYTES, Down, Envelope, Error, Lane, Limits, Link, NotSent, PAYLOAD_BYTES_MAX,
    PeerIdentity, REFUSAL_TEXT_BYTES_MAX, Refusal, Reply, Unknown,
};
use stemedb_types::NodeId;
use tokio::sync::mpsc;
use tokio::time::Instant;

const B: NodeId = NodeId(2);

#[tokio::test]
async fn a_message_arrives_whole_from_a_proven_sender() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let handler = Script(move |from, message: Envelope, reply: Reply| {
        tell.send((from, message)).unwrap();
        reply.ok(Bytes::from_static(b"yes"));
    });
    let (a, b) = (Setup::new(1).start(), Setup::new(2).handler(Arc::new(handler)).start());
    connect(&a, &b, 2).await;
    let answer = a.request(B, Lane::Normal, letter("hello"), later()).await;
    assert_eq!(answer, Ok(Bytes::from_static(b"yes")));
    let from = PeerIdentity { node: NodeId(1), cluster: CLUSTER };
    assert_eq!(told.recv().await, Some((from, letter("hello"))));
}

#[tokio::test]
async fn three_planes_talk_in_every_direction() {
    let planes = [1, 2, 3].map(|node| Setup::new(node).start());
    for (from, a) in planes.iter().enumerate() {
        for (to, b) in planes.iter().enumerate().filter(|(to, _)| *to != from) {
            connect(a, b, to as u64 + 1).await;
            let to = NodeId(to as u64 + 1);
            assert_eq!(a.request(to, Lane::Urgent, letter("x"), later()).await, Ok("x".into()));
        }
    }
}

/// The handler takes ten thousand questions and answers them backwards.
#[tokio::test]
async fn answers_come_in_the_order_of_completion() {
    const COUNT: u32 = 10_000;
    let (held, handler) = hold();
    let (a, b) = (Setup::new(1).start(), Setup::new(2).handler(handler).start());
    connect(&a, &b, 2).await;
    let (tell, mut told) = mpsc::unbounded_channel();
    for n in 0..COUNT {
        let tell = tell.clone();
        let on_answer = Box::new(move |answer: Result<Bytes, Error>| tell.send(answer).unwrap());
        a.send(B, Lane::Normal, letter(n.to_le_bytes().to_vec()), later(), on_answer);
    }
    until_held(&held, COUNT as usize).await;
    let taken = std::mem::take(&mut *held.lock().unwrap());
    let asked: Vec<Bytes> = taken.iter().map(|(message, _)| message.payload.clone()).collect();
    for (message, reply) in taken.into_iter().rev() {
        reply.ok(message.payload);
    }
    let mut answered = Vec::new();
    for _ in 0..COUNT {
        answered.push(told.recv().await.unwrap().unwrap());
    }
    answered.reverse();
    assert_eq!(answered, asked);
    assert!(asked.iter().enumerate().all(|(n, m)| m[..] == (n as u32).to_le_bytes()));
}

#[tokio::test]
async fn an_urgent_message_overtakes_a_queue_of_normal_ones() {
    let order = Arc::new(Mutex::new(Vec::new()));
    let seen = order.clone();
    let handler = Script(move |_, message: Envelope, reply: Reply| {
        seen.lock().unwrap().push(message.payload);
        reply.ok(Bytes::new());
    });
    let (a, b) = (Setup::new(1).start(), Setup::new(2).handler(Arc::new(handler)).start());
    // Nothing is awaited from here on, so all of it is queued before the first dial.
    a.set_address(B, b.address());
    let normal: Vec<_> =
        (0..1000).map(|_| a.request(B, Lane::Normal, letter("normal"), later())).collect();
    let urgent = a.request(B, Lane::Urgent, letter("urgent"), later());
    urgent.await.unwrap();
    for answer in normal {
        answer.await.unwrap();
    }
    let order = order.lock().unwrap();
    assert_eq!((order.len(), &order[0][..]), (1001, &b"urgent"[..]));
}

#[tokio::test]
async fn large_messages_take_a_second_connection_made_for_the_first_of_them() {
    let (a, b) = (Setup::new(1).start(), Setup::new(2).start());
    let (wire, made) = counting_wire(b.address()).await;
    a.set_address(B, wire);
    until(&mut a.link(B), Link::is_up).await;
    for (lane, bytes, connections) in [
        (Lane::Normal, BULK_PAYLOAD_BYTES, 1),
        (Lane::Urgent, BULK_PAYLOAD_BYTES + 1, 1),
        (Lane::Normal, BULK_PAYLOAD_BYTES + 1, 2),
        (Lane::Normal, PAYLOAD_BYTES_MAX, 2),
        (Lane::Normal, 0, 2),
    ] {
        let payload = Bytes::from(vec![7; bytes]);
        let answer = a.request(B, lane, letter(payload.clone()), later()).await;
        assert_eq!(answer.map(|a| a == payload), Ok(true), "{bytes} bytes");
        assert_eq!(made.load(Ordering::Relaxed), connections, "{lane:?}, {bytes} bytes");
    }
}

#[tokio::test]
async fn what_can_not_travel_is_not_sent() {
    let (a, b) = (Setup::new(1).start(), Setup::new(2).start());
    let stranger = a.request(B, Lane::Normal, letter("x"), later()).await;
    assert_eq!(stranger, Err(Error::NotSent(NotSent::Down(Down::NoAddress))));
    connect(&a, &b, 2).await;
    let (got_bytes, max_bytes) = (PAYLOAD_BYTES_MAX + 1, PAYLOAD_BYTES_MAX);
    let large = a.request(B, Lane::Normal, letter(vec![0; got_bytes]), later()).await;
    assert_eq!(large, Err(Error::NotSent(NotSent::TooLarge { got_bytes, max_bytes })));
}

#[tokio::test]
async fn the_handler_may_refuse_or_let_go_of_the_reply() {
    let handler = Script(|_, message: Envelope, reply: Reply| match &message.payload[..] {
        b"refuse" => reply.refuse(Refusal::new(4, "no".repeat(REFUSAL_TEXT_BYTES_MAX))),
        _ => drop(reply),
    });
    let (a, b) = (Setup::new(1).start(), Setup::new(2).handler(Arc::new(handler)).start());
    connect(&a, &b, 2).await;
    let refused = a.request(B, Lane::Normal, letter("refuse"), later()).await;
    let text = "no".repeat(REFUSAL_TEXT_BYTES_MAX / 2);
    assert_eq!(refused, Err(Error::Refused(Refusal { code: 4, text })));
    assert_eq!(a.request(B, Lane::Normal, letter("drop"), later()).await, Err(Error::Dropped));
}

#[tokio::test]
async fn after_its_deadline_a_question_is_unknown_and_a_late_answer_is_nobodys() {
    let (held, handler) = hold();
    let (a, b) = (Setup::new(1).start(), Setup::new(2).handler(handler).start());
    connect(&a, &b, 2).await;
    let soon = Instant::now() + Duration::from_millis(20);
    let late = a.request(B, Lane::Normal, letter("late"), soon);
    let patient = a.request(B, Lane::Normal, letter("patient"), later());
    until_held(&held, 2).await;
    assert_eq!(late.await, Err(Error::Unknown(Unknown::Deadline)));
    for (message, reply) in held.lock().unwrap().drain(..) {
        reply.ok(message.payload);
    }
    assert_eq!(patient.await, Ok("patient".into()));
}

/// One reply owed is all the peer may leave open; its later questions wait in flow control.
#[tokio::test]
async fn a_peer_with_too_many_questions_open_is_not_read_further() {
    let (held, handler) = hold();
    let mut b = Setup::new(2).handler(handler);
    b.limits = Limits { unanswered_max: 1, ..Limits::default() };
    let (a, b) = (Setup::new(1).start(), b.start());
    connect(&a, &b, 2).await;
    let first = a.request(B, Lane::Normal, letter("first"), later());
    until_held(&held, 1).await;
    let second = a.request(B, Lane::Normal, letter("second"), later());
    // A question on another call goes through meanwhile and shows that time has passed.
    let other = Setup::new(3).start();
    connect(&other, &b, 2).await;
    let third = other.request(B, Lane::Normal, letter("third"), later());
    until_held(&held, 2).await;
    let taken = |n: usize| held.lock().unwrap()[n].0.payload.clone();
    assert_eq!((taken(0), taken(1)), ("first".into(), "third".into()));
    for (message, reply) in held.lock().unwrap().drain(..) {
        reply.ok(message.payload);
    }
    assert_eq!((first.await, third.await), (Ok("first".into()), Ok("third".into())));
    until_held(&held, 1).await;
    held.lock().unwrap().drain(..).for_each(|(message, reply)| reply.ok(message.payload));
    assert_eq!(second.await, Ok("second".into()));
}
