//! Snapshots: whole, interrupted, refused, and not in the way of anything else.
#![allow(clippy::unwrap_used, reason = "handlers of tests are test code")]

mod common;

use std::io;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use common::*;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{iter, once, repeat_with};
use stemedb_rpc::{
    CHUNK_BYTES_MAX, ChunkError, Down, Envelope, Error, Handler, Lane, NotSent, PeerIdentity,
    Refusal, Reply, SnapshotChunks, Unknown,
};
use stemedb_types::NodeId;
use tokio::sync::{mpsc, oneshot};

const B: NodeId = NodeId(2);

fn mebibytes(count: usize) -> Bytes {
    (0..count * 1024 * 1024).map(|n| (n % 251) as u8).collect::<Vec<u8>>().into()
}

/// Tells the test what came: chunk lengths, and how it ended.
struct Witness(mpsc::UnboundedSender<Result<usize, ChunkError>>);

impl Handler for Witness {
    fn handle(&self, _from: PeerIdentity, message: Envelope, reply: Reply) {
        reply.ok(message.payload);
    }

    fn handle_snapshot(
        &self,
        _from: PeerIdentity,
        _header: Envelope,
        mut chunks: SnapshotChunks,
    ) -> BoxFuture<'static, Result<Bytes, Refusal>> {
        let tell = self.0.clone();
        Box::pin(async move {
            while let Some(chunk) = chunks.next().await {
                tell.send(chunk.map(|bytes| bytes.len())).unwrap();
            }
            Ok(Bytes::new())
        })
    }
}

#[tokio::test]
async fn a_snapshot_of_several_mebibytes_arrives_whole_in_bounded_chunks() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let (a, b) = (Setup::new(1).start(), Setup::new(2).handler(Arc::new(Witness(tell))).start());
    a.set_address(B, b.address());
    let whole = mebibytes(5);
    let chunks = [whole.slice(..3), whole.slice(3..3), whole.slice(3..)].map(Ok);
    assert_eq!(a.send_snapshot(B, letter("header"), iter(chunks)).await, Ok(Bytes::new()));
    let mut lengths = Vec::new();
    while let Ok(chunk) = told.try_recv() {
        lengths.push(chunk.unwrap());
    }
    assert_eq!(lengths.iter().sum::<usize>(), whole.len());
    assert!(lengths.iter().all(|length| (1..=CHUNK_BYTES_MAX).contains(length)));
}

#[tokio::test]
async fn header_and_chunks_arrive_byte_for_byte() {
    let (a, b) = (Setup::new(1).start(), Setup::new(2).start());
    a.set_address(B, b.address());
    let whole = mebibytes(3);
    let chunks = iter([Ok(whole.clone())]);
    let answer = a.send_snapshot(B, letter("header"), chunks).await.unwrap();
    assert!(answer == [&b"header"[..], &whole[..]].concat());
}

#[tokio::test]
async fn a_source_that_fails_interrupts_the_snapshot_on_both_sides() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let (a, b) = (Setup::new(1).start(), Setup::new(2).handler(Arc::new(Witness(tell))).start());
    a.set_address(B, b.address());
    let (fail, failed) = oneshot::channel::<()>();
    let failure = once(async {
        failed.await.unwrap();
        Err(io::Error::other("the disk is gone"))
    });
    let chunks = once(async { Ok(Bytes::from("some")) }).chain(failure);
    let arrives = async {
        assert_eq!(told.recv().await, Some(Ok(4)));
        fail.send(()).unwrap();
        told.recv().await
    };
    let (sent, ended) = tokio::join!(a.send_snapshot(B, letter(""), chunks), arrives);
    assert_eq!(sent, Err(Error::Unknown(Unknown::Source("the disk is gone".to_owned()))));
    assert!(matches!(ended, Some(Err(ChunkError::Interrupted(_)))));
}

#[tokio::test]
async fn a_sender_that_gives_up_interrupts_the_snapshot() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let (a, b) = (Setup::new(1).start(), Setup::new(2).handler(Arc::new(Witness(tell))).start());
    a.set_address(B, b.address());
    let endless = repeat_with(|| Ok(Bytes::from_static(&[1; 1000])));
    tokio::select! {
        sent = a.send_snapshot(B, letter(""), endless) => panic!("it has no end: {sent:?}"),
        first = told.recv() => assert_eq!(first, Some(Ok(1000))),
    }
    let ended = loop {
        if let Err(error) = told.recv().await.unwrap() {
            break error;
        }
    };
    assert!(matches!(ended, ChunkError::Interrupted(_)));
}

/// The receiver refuses after the header; the sender hears it without sending the rest.
struct Refusing;

impl Handler for Refusing {
    fn handle(&self, _from: PeerIdentity, _message: Envelope, _reply: Reply) {}

    fn handle_snapshot(
        &self,
        _from: PeerIdentity,
        _header: Envelope,
        _chunks: SnapshotChunks,
    ) -> BoxFuture<'static, Result<Bytes, Refusal>> {
        Box::pin(async { Err(Refusal::new(3, "an old term")) })
    }
}

#[tokio::test]
async fn a_refusal_reaches_a_sender_that_is_still_sending() {
    let (a, b) = (Setup::new(1).start(), Setup::new(2).handler(Arc::new(Refusing)).start());
    a.set_address(B, b.address());
    let endless = repeat_with(|| Ok(Bytes::from_static(&[1; 100_000])));
    let sent = a.send_snapshot(B, letter(""), endless).await;
    assert_eq!(sent, Err(Error::Refused(Refusal::new(3, "an old term"))));
}

/// The receiver takes the chunks and never reads them.
struct Stuck(Mutex<Vec<SnapshotChunks>>);

impl Handler for Stuck {
    fn handle(&self, _from: PeerIdentity, message: Envelope, reply: Reply) {
        reply.ok(message.payload);
    }

    fn handle_snapshot(
        &self,
        _from: PeerIdentity,
        _header: Envelope,
        chunks: SnapshotChunks,
    ) -> BoxFuture<'static, Result<Bytes, Refusal>> {
        self.0.lock().unwrap().push(chunks);
        Box::pin(std::future::pending())
    }
}

#[tokio::test]
async fn a_receiver_that_does_not_read_holds_up_the_snapshot_and_nothing_else() {
    let handler = Arc::new(Stuck(Mutex::default()));
    let (a, b) = (Setup::new(1).start(), Setup::new(2).handler(handler).start());
    connect(&a, &b, 2).await;
    let sent = Mutex::new(0usize);
    let endless = repeat_with(|| {
        *sent.lock().unwrap() += 1;
        Ok(Bytes::from_static(&[1; CHUNK_BYTES_MAX]))
    });
    let snapshot = a.send_snapshot(B, letter(""), endless);
    let messages = async {
        // Until the source has stood still over many round trips of others.
        let mut before = usize::MAX;
        loop {
            let now = *sent.lock().unwrap();
            if now == before && now > 0 {
                return now;
            }
            before = now;
            for payload in [vec![0; 10], vec![0; 100_000]].into_iter().cycle().take(100) {
                a.request(B, Lane::Normal, letter(payload), later()).await.unwrap();
            }
        }
    };
    tokio::select! {
        sent = snapshot => panic!("nobody took it: {sent:?}"),
        sent = messages => assert!(sent * CHUNK_BYTES_MAX < 64 * 1024 * 1024, "{sent} chunks"),
    }
}

#[tokio::test]
async fn a_snapshot_to_nobody_is_not_sent() {
    let a = Setup::new(1).start();
    let chunks = || iter([Ok(Bytes::from("x"))]);
    let sent = a.send_snapshot(B, letter(""), chunks()).await;
    assert_eq!(sent, Err(Error::NotSent(NotSent::Down(Down::NoAddress))));
    a.set_address(B, local_listener().local_addr().unwrap());
    let sent = a.send_snapshot(B, letter(""), chunks()).await;
    assert_eq!(sent, Err(Error::NotSent(NotSent::Down(Down::ConnectionRefused))));
}
