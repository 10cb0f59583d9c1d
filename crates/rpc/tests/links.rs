//! Links that come and go, and what each end says of the messages on them.
#![allow(clippy::unwrap_used, reason = "helpers of tests are test code")]

mod common;

use std::net::TcpListener;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use common::*;
use stemedb_rpc::{Down, Error, Lane, Limits, Link, NotSent, Unknown};
use stemedb_types::{ClusterId, NodeId};
use tokio::net::TcpStream;

const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);

fn why(link: &Link) -> Option<Down> {
    match link {
        Link::Down { why, .. } => Some(why.clone()),
        Link::Up { .. } => None,
    }
}

/// A node that can be killed: its sockets close and none of its code runs any more.
struct Mortal(tokio::runtime::Runtime);

impl Mortal {
    fn new() -> Self {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        Mortal(runtime.worker_threads(1).enable_all().build().unwrap())
    }

    fn kill(self) {
        self.0.shutdown_background();
    }
}

#[tokio::test]
async fn a_killed_peer_leaves_what_was_sent_unknown_and_comes_back() {
    let a = Setup::new(1).start();
    let (held, handler) = hold();
    let listener = local_listener();
    let address = listener.local_addr().unwrap();
    let mortal = Mortal::new();
    let b = {
        let _inside = mortal.0.enter();
        Setup { listener, ..Setup::new(2).handler(handler) }.start()
    };
    let mut link = connect(&a, &b, 2).await;
    let sent = a.request(B, Lane::Normal, letter("sent"), later());
    let large = a.request(B, Lane::Normal, letter(vec![0; 100_000]), later());
    until_held(&held, 2).await;

    mortal.kill();
    assert!(matches!(sent.await, Err(Error::Unknown(Unknown::Down(Down::Lost(_))))));
    assert!(matches!(large.await, Err(Error::Unknown(Unknown::Down(Down::Lost(_))))));
    until(&mut link, |link| why(link) == Some(Down::ConnectionRefused)).await;
    for payload in [Bytes::from("after"), Bytes::from(vec![0; 100_000])] {
        let after = a.request(B, Lane::Normal, letter(payload), later()).await;
        assert_eq!(after, Err(Error::NotSent(NotSent::Down(Down::ConnectionRefused))));
    }

    let listener = TcpListener::bind(address).unwrap();
    let _b = Setup { listener, ..Setup::new(2) }.start();
    until(&mut link, Link::is_up).await;
    assert_eq!(a.request(B, Lane::Normal, letter("again"), later()).await, Ok("again".into()));
    let large = vec![1; 100_000];
    let answer = a.request(B, Lane::Normal, letter(large.clone()), later()).await;
    assert_eq!(answer, Ok(large.into()));
}

/// Nothing closes and nothing is refused: the wire just stops carrying.
#[tokio::test]
async fn a_silent_network_is_found_by_the_keepalive() {
    let short = Duration::from_millis(50);
    let mut a = Setup::new(1);
    a.limits = Limits { keepalive_interval: short, keepalive_timeout: short, ..Limits::default() };
    let (held, handler) = hold();
    let (a, b) = (a.start(), Setup::new(2).handler(handler).start());
    let (wire, cut) = cuttable_wire(b.address()).await;
    a.set_address(B, wire);
    let mut link = a.link(B);
    until(&mut link, Link::is_up).await;
    let sent = a.request(B, Lane::Normal, letter("sent"), later());
    until_held(&held, 1).await;
    cut.cancel();
    assert!(matches!(sent.await, Err(Error::Unknown(Unknown::Down(Down::Lost(_))))));
    // The next dial connects, and its handshake meets the same silence.
    until(&mut link, |link| matches!(why(link), Some(Down::Unreachable(_)))).await;
}

#[tokio::test]
async fn a_failed_redial_changes_the_reason_and_not_the_time() {
    let a = Setup::new(1).start();
    let b = Setup::new(2).start();
    let mut link = connect(&a, &b, 2).await;
    b.shutdown().await;
    let Link::Down { since: lost, .. } = until(&mut link, |link| !link.is_up()).await else {
        panic!("down has a time")
    };
    let refused = until(&mut link, |link| why(link) == Some(Down::ConnectionRefused)).await;
    assert_eq!(refused, Link::Down { since: lost, why: Down::ConnectionRefused });
}

#[tokio::test]
async fn a_peer_that_comes_in_while_the_next_dial_is_waited_for_is_dialled_at_once() {
    let mut a = Setup::new(1);
    let an_hour = Duration::from_secs(3600);
    (a.limits.redial_min, a.limits.redial_max) = (an_hour, an_hour);
    let a = a.start();
    // Not up yet when it is dialled.
    let address = local_listener().local_addr().unwrap();
    a.set_address(B, address);
    let mut link = a.link(B);
    until(&mut link, |link| why(link) == Some(Down::ConnectionRefused)).await;

    let mut b = Setup::new(2);
    b.listener = TcpListener::bind(address).unwrap();
    let b = b.start();
    connect(&b, &a, 1).await;
    until(&mut link, Link::is_up).await;
    assert_eq!(a.request(B, Lane::Normal, letter("x"), later()).await, Ok("x".into()));
}

#[tokio::test]
async fn what_waits_for_a_first_dial_is_told_when_it_fails() {
    let a = Setup::new(1).start();
    let nobody = local_listener().local_addr().unwrap();
    a.set_address(B, nobody);
    let hopeful = a.request(B, Lane::Normal, letter("x"), later());
    let refused = Err(Error::NotSent(NotSent::Down(Down::ConnectionRefused)));
    assert_eq!(hopeful.await, refused);
}

#[tokio::test]
async fn a_new_address_is_dialled_at_once_and_the_same_one_changes_nothing() {
    let (a, b) = (Setup::new(1).start(), Setup::new(2).start());
    let (wire, made) = counting_wire(b.address()).await;
    a.set_address(B, wire);
    let mut link = a.link(B);
    let up = until(&mut link, Link::is_up).await;
    a.set_address(B, wire);
    assert_eq!(a.request(B, Lane::Normal, letter("x"), later()).await, Ok("x".into()));
    assert_eq!((*link.borrow() == up, made.load(Ordering::Relaxed)), (true, 1));

    let (held, handler) = hold();
    let moved = Setup::new(2).handler(handler).start();
    a.set_address(B, moved.address());
    until(&mut link, |link| why(link) == Some(Down::Superseded)).await;
    until(&mut link, Link::is_up).await;
    let _answer = a.request(B, Lane::Normal, letter("y"), later());
    until_held(&held, 1).await;
}

#[tokio::test]
async fn an_address_that_comes_later_is_dialled_then() {
    let (a, b) = (Setup::new(1).start(), Setup::new(2).start());
    let mut link = a.link(B);
    assert_eq!(why(&link.borrow()), Some(Down::NoAddress));
    a.set_address(B, b.address());
    until(&mut link, Link::is_up).await;
}

#[tokio::test]
async fn a_removed_peer_is_forgotten() {
    let (held, handler) = hold();
    let (a, b) = (Setup::new(1).start(), Setup::new(2).handler(handler).start());
    let mut link = connect(&a, &b, 2).await;
    let sent = a.request(B, Lane::Normal, letter("sent"), later());
    until_held(&held, 1).await;
    a.remove(B);
    assert_eq!(sent.await, Err(Error::Unknown(Unknown::Down(Down::Removed))));
    until(&mut link, |link| why(link) == Some(Down::Removed)).await;
    let after = a.request(B, Lane::Normal, letter("after"), later()).await;
    assert_eq!(after, Err(Error::NotSent(NotSent::Down(Down::NoAddress))));
}

/// Both nodes are blank; each finds the other's cluster anew once it has one itself.
#[tokio::test]
async fn connections_made_as_blank_are_made_anew_with_the_cluster() {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let handler = Script(move |from: stemedb_rpc::PeerIdentity, _, reply: stemedb_rpc::Reply| {
        tell.send(from.cluster).unwrap();
        reply.ok(Bytes::new());
    });
    let blank = |node| Setup { cluster: None, ..Setup::new(node) };
    let a = blank(1).start();
    let b = blank(2).handler(std::sync::Arc::new(handler)).start();
    let mut a_to_b = connect(&a, &b, 2).await;
    let mut b_to_a = connect(&b, &a, 1).await;
    a.request(B, Lane::Normal, letter("x"), later()).await.unwrap();
    assert_eq!(told.recv().await, Some(None));

    a.set_cluster(ClusterId(7));
    until(&mut a_to_b, |link| !link.is_up()).await;
    until(&mut b_to_a, |link| !link.is_up()).await;
    until(&mut a_to_b, Link::is_up).await;
    until(&mut b_to_a, Link::is_up).await;
    a.request(B, Lane::Normal, letter("x"), later()).await.unwrap();
    assert_eq!(told.recv().await, Some(CLUSTER));

    a.set_cluster(ClusterId(7));
    b.set_cluster(ClusterId(8));
    let other = |link: &Link| matches!(why(link), Some(Down::Handshake(_)));
    until(&mut a_to_b, other).await;
    until(&mut b_to_a, other).await;
}

/// A question that makes the node join is still answered on the connection it came by.
#[tokio::test]
async fn joining_does_not_cut_off_the_answer_to_what_caused_it() {
    let (held, handler) = hold();
    let a = Setup::new(1).start();
    let b = Setup { cluster: None, ..Setup::new(2).handler(handler) }.start();
    let address = b.address();
    let asked = async { a.call_once(address, Some(B), letter("join us"), later()).await };
    let joins = async {
        until_held(&held, 1).await;
        b.set_cluster(ClusterId(7));
        // Whoever asks now meets the member; by then the first call has seen the change as well.
        let again = a.call_once(address, Some(B), letter("who?"), later());
        let answers = async {
            until_held(&held, 2).await;
            let (_, reply) = held.lock().unwrap().pop().unwrap();
            reply.ok("a member".into());
        };
        assert_eq!(tokio::join!(again, answers).0.unwrap().0.cluster, CLUSTER);
        held.lock().unwrap().drain(..).for_each(|(_, reply)| reply.ok("joined".into()));
    };
    let (answer, ()) = tokio::join!(asked, joins);
    assert_eq!(answer.map(|(_, payload)| payload), Ok("joined".into()));
}

#[tokio::test]
async fn shutdown_lets_answers_leave_and_tells_everybody_else() {
    let (held, handler) = hold();
    let (a, b) = (Setup::new(1).start(), Setup::new(2).handler(handler).start());
    let mut link = connect(&a, &b, 2).await;
    connect(&b, &a, 1).await;
    let asked = a.request(B, Lane::Normal, letter("asked"), later());
    until_held(&held, 1).await;
    let stops = b.shutdown();
    let answers = async {
        // The drain has begun once b's own link is down and its port is closed.
        until(&mut b.link(A), |link| why(link) == Some(Down::Shutdown)).await;
        while TcpStream::connect(b.address()).await.is_ok() {}
        held.lock().unwrap().drain(..).for_each(|(_, reply)| reply.ok("answered".into()));
    };
    let (answer, (), ()) = tokio::join!(asked, stops, answers);
    assert_eq!(answer, Ok("answered".into()));
    until(&mut link, |link| !link.is_up()).await;
    let after = b.request(A, Lane::Normal, letter("after"), later()).await;
    assert_eq!(after, Err(Error::NotSent(NotSent::Down(Down::Shutdown))));
}
