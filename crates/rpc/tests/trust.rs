//! Who is let in, who is not, and that both sides say the same reason.

mod common;

use std::time::Duration;

use common::*;
use stemedb_rpc::{Down, Error, Lane, Limits, Link, Mismatch, NotSent, StartError};
use stemedb_types::{ClusterId, NodeId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn refused(mismatch: Mismatch) -> impl Fn(&Link) -> bool {
    let wanted = Down::Handshake(mismatch);
    move |link| matches!(link, Link::Down { why, .. } if *why == wanted)
}

#[tokio::test]
async fn nodes_with_different_secrets_refuse_each_other_on_both_sides() {
    let a = Setup::new(1).start();
    for secrets in [vec!["another secret altogether"], vec![]] {
        let b = Setup { secrets, ..Setup::new(2) }.start();
        a.set_address(NodeId(2), b.address());
        b.set_address(NodeId(1), a.address());
        until(&mut a.link(NodeId(2)), refused(Mismatch::Secret)).await;
        until(&mut b.link(NodeId(1)), refused(Mismatch::Secret)).await;
        let message = a.request(NodeId(2), Lane::Urgent, letter("x"), later()).await;
        let why = Down::Handshake(Mismatch::Secret);
        assert_eq!(message, Err(Error::NotSent(NotSent::Down(why))));
        a.remove(NodeId(2));
    }
}

#[tokio::test]
async fn during_a_rotation_the_old_and_the_new_secret_are_good() {
    let new = "the secret of the next year";
    let rotating = Setup { secrets: vec![new, SECRET], ..Setup::new(1) }.start();
    for (node, secret) in [(2, SECRET), (3, new)] {
        let other = Setup { secrets: vec![secret], ..Setup::new(node) }.start();
        connect(&rotating, &other, node).await;
        connect(&other, &rotating, 1).await;
    }
}

#[tokio::test]
async fn without_any_secret_nodes_still_meet() {
    let open = |node| Setup { secrets: vec![], ..Setup::new(node) };
    let (a, b) = (open(1).start(), open(2).start());
    connect(&a, &b, 2).await;
}

#[tokio::test]
async fn another_cluster_is_refused_with_both_names() {
    let a = Setup::new(1).start();
    let b = Setup { cluster: Some(ClusterId(8)), ..Setup::new(2) }.start();
    a.set_address(NodeId(2), b.address());
    b.set_address(NodeId(1), a.address());
    let mismatch = |dialler, listener| Mismatch::Cluster {
        dialler: ClusterId(dialler),
        listener: ClusterId(listener),
    };
    until(&mut a.link(NodeId(2)), refused(mismatch(7, 8))).await;
    until(&mut b.link(NodeId(1)), refused(mismatch(8, 7))).await;
}

#[tokio::test]
async fn whoever_was_not_meant_is_refused() {
    let (a, b) = (Setup::new(1).start(), Setup::new(2).start());
    a.set_address(NodeId(3), b.address());
    let other = Mismatch::Node { wanted: NodeId(3), found: NodeId(2) };
    until(&mut a.link(NodeId(3)), refused(other.clone())).await;
    let asked = a.call_once(b.address(), Some(NodeId(3)), letter("x"), later()).await;
    assert_eq!(asked, Err(Error::NotSent(NotSent::Down(Down::Handshake(other)))));
}

#[tokio::test]
async fn a_node_that_dials_itself_finds_out() {
    let a = Setup::new(1).start();
    let asked = a.call_once(a.address(), None, letter("x"), later()).await;
    let itself = Down::Handshake(Mismatch::SelfDial);
    assert_eq!(asked, Err(Error::NotSent(NotSent::Down(itself))));
}

/// Two processes under one id, as from a copied data directory.
#[tokio::test]
async fn of_two_processes_under_one_id_the_older_life_is_turned_away_until_the_newer_is_gone() {
    let life = |incarnation| Setup { incarnation: Some(incarnation), ..Setup::new(1) }.start();
    let b = Setup::new(2).start();
    let first = life(5);
    let mut to_b = connect(&first, &b, 2).await;
    let mut to_one = connect(&b, &first, 1).await;
    assert_eq!(first.turned_away(), None);

    // It may be the same node, started again: what is left of its last life is closed.
    let second = life(6);
    connect(&second, &b, 2).await;
    let duplicate = || Mismatch::Duplicate { node: NodeId(1), newer: 6 };
    until(&mut to_b, refused(duplicate())).await;
    // Nor does anybody dial it any more.
    until(&mut to_one, refused(duplicate())).await;
    assert_eq!(first.turned_away().map(|away| away.by), Some(NodeId(2)));
    assert_eq!(second.turned_away(), None);
    connect(&b, &second, 1).await;

    // An even older one disturbs nobody.
    let third = life(4);
    third.set_address(NodeId(2), b.address());
    until(&mut third.link(NodeId(2)), refused(duplicate())).await;
    assert!(second.link(NodeId(2)).borrow().is_up());

    second.shutdown().await;
    until(&mut to_b, Link::is_up).await;
}

#[tokio::test]
async fn whoever_has_not_opened_its_doors_answers_nobody() {
    let limits = Limits { handshake_timeout: Duration::from_millis(100), ..Limits::default() };
    let a = Setup { limits, ..Setup::new(1) }.start();
    let b = Setup { doors_open: false, ..Setup::new(2) }.start();
    a.set_address(NodeId(2), b.address());
    until(&mut a.link(NodeId(2)), refused(Mismatch::Timeout)).await;
    b.open_doors();
    until(&mut a.link(NodeId(2)), Link::is_up).await;
}

#[tokio::test]
async fn one_question_needs_no_address_book() {
    let a = Setup { cluster: None, ..Setup::new(1) }.start();
    let b = Setup::new(2).start();
    let (who, answer) = a.call_once(b.address(), None, letter("who?"), later()).await.unwrap();
    assert_eq!((who.node, who.cluster, answer), (NodeId(2), CLUSTER, "who?".into()));
    let nobody = local_listener().local_addr().unwrap();
    let asked = a.call_once(nobody, None, letter("x"), later()).await;
    assert_eq!(asked, Err(Error::NotSent(NotSent::Down(Down::ConnectionRefused))));
}

#[tokio::test]
async fn more_secrets_than_a_rotation_needs_are_refused() {
    let started = stemedb_rpc::Plane::start(stemedb_rpc::PlaneOptions {
        node: NodeId(1),
        incarnation: 1,
        doors_open: true,
        cluster: None,
        secrets: vec![Default::default(); 5],
        listener: local_listener(),
        handler: echo(),
        limits: Limits::default(),
        seed: [0; 32],
    });
    assert!(matches!(started.err(), Some(StartError::Secrets { got: 5, max: 4 })));
}

/// A socket that says nothing is closed when the handshake's time is over, and so is one that
/// speaks another language; the node serves others all along.
#[tokio::test]
async fn strangers_are_shown_out() {
    let limits = Limits { handshake_timeout: Duration::from_millis(100), ..Limits::default() };
    let b = Setup { limits, ..Setup::new(2) }.start();
    let mut silent = TcpStream::connect(b.address()).await.unwrap();
    let mut babbling = TcpStream::connect(b.address()).await.unwrap();
    babbling.write_all(&[0x16; 4096]).await.unwrap();
    let mut rest = Vec::new();
    // Either is an end: closed, or reset over the bytes it did not read.
    let _ = silent.read_to_end(&mut rest).await;
    let _ = babbling.read_to_end(&mut rest).await;
    connect(&Setup::new(1).start(), &b, 2).await;
}

#[tokio::test]
async fn when_there_is_no_room_for_strangers_one_more_is_closed_at_once() {
    let limits = Limits {
        handshake_timeout: Duration::from_secs(3600),
        strangers_max: 1,
        ..Limits::default()
    };
    let b = Setup { limits, ..Setup::new(2) }.start();
    let first = TcpStream::connect(b.address()).await.unwrap();
    let mut second = TcpStream::connect(b.address()).await.unwrap();
    assert_eq!(second.read(&mut [0]).await.ok(), Some(0));
    drop(first);
    // A friend takes the place and gives it back; the next one finds it free.
    connect(&Setup::new(1).start(), &b, 2).await;
    connect(&Setup::new(3).start(), &b, 2).await;
}

/// Something that is not a peer at all answers the dial.
#[tokio::test]
async fn a_listener_that_never_answers_is_given_up() {
    let mute = local_listener();
    let limits = Limits { handshake_timeout: Duration::from_millis(50), ..Limits::default() };
    let a = Setup { limits, ..Setup::new(1) }.start();
    a.set_address(NodeId(2), mute.local_addr().unwrap());
    until(&mut a.link(NodeId(2)), refused(Mismatch::Timeout)).await;
}
