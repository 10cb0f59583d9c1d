//! Two nodes that are sockets of this process, and the wires between them.

use std::net::Ipv4Addr;

use tokio::task::LocalSet;
use tokio::time::timeout;

use super::*;
use crate::place::free_addresses;

/// Long enough that what can come has come.
const QUIET: Duration = Duration::from_millis(300);
/// No test waits longer for what must come.
const LIMIT: Duration = Duration::from_secs(20);

struct Pair {
    forwarder: Forwarder,
    at: [NodeAddresses; 2],
    listeners: [TcpListener; 2],
    gossip: [UdpSocket; 2],
}

/// Both belong to this process; so whoever dials counts as node 0, unless that is told otherwise.
async fn pair(octet: u8) -> Pair {
    let ports = free_addresses(4).unwrap();
    let at = [0, 1].map(|node: u8| {
        let bound = |port: usize| {
            SocketAddr::from((Ipv4Addr::new(127, 3, octet, 10 + node), ports[port].port()))
        };
        let advertise = IpAddr::from([127, 4, octet, 10 + node]);
        let (http, gateway, grpc, gossip) = (bound(0), bound(1), bound(2), bound(3));
        NodeAddresses { http, gateway, grpc, gossip, advertise }
    });
    let mut forwarder = Forwarder::new(2, 1);
    for node in [0, 1] {
        forwarder.place(node, &at[node]).await.unwrap();
    }
    forwarder.belongs(0, Some(std::process::id()));
    let listeners = [TcpListener::bind(at[0].grpc), TcpListener::bind(at[1].grpc)];
    let [a, b] = listeners;
    let listeners = [a.await.unwrap(), b.await.unwrap()];
    let [a, b] = [UdpSocket::bind(at[0].gossip), UdpSocket::bind(at[1].gossip)];
    let gossip = [a.await.unwrap(), b.await.unwrap()];
    Pair { forwarder, at, listeners, gossip }
}

impl Pair {
    async fn connected(&self) -> (TcpStream, TcpStream) {
        let target = SocketAddr::new(self.at[1].advertise, self.at[1].grpc.port());
        let near = TcpStream::connect(target).await.unwrap();
        let (far, _) = timeout(LIMIT, self.listeners[1].accept()).await.unwrap().unwrap();
        (near, far)
    }

    async fn gossips(&self, from: usize) -> bool {
        let to = 1 - from;
        let target = SocketAddr::new(self.at[to].advertise, self.at[to].gossip.port());
        self.gossip[from].send_to(b"alive", target).await.unwrap();
        let mut packet = [0; 9];
        let heard = timeout(QUIET, self.gossip[to].recv_from(&mut packet)).await;
        let Ok(Ok((length, source))) = heard else { return false };
        assert_eq!((&packet[..length], source.ip()), (&b"alive"[..], self.at[from].advertise));
        true
    }
}

async fn says(from: &mut TcpStream, to: &mut TcpStream, word: &[u8; 3]) -> bool {
    from.write_all(word).await.unwrap();
    let mut heard = [0; 3];
    let came = timeout(QUIET, to.read_exact(&mut heard)).await.is_ok();
    assert!(!came || heard == *word, "{heard:?}");
    came
}

#[tokio::test]
async fn a_wire_cut_one_way_keeps_what_is_sent_that_way_and_gives_it_when_it_is_whole() {
    let transcript = async {
        let pair = pair(1).await;
        let (mut near, mut far) = pair.connected().await;
        assert!(says(&mut near, &mut far, b"one").await);
        assert!(says(&mut far, &mut near, b"two").await);
        assert!(pair.gossips(0).await && pair.gossips(1).await);
        assert_eq!(pair.forwarder.met(), 0);

        pair.forwarder.cut(0, 1);
        assert!(!says(&mut near, &mut far, b"thr").await);
        assert!(says(&mut far, &mut near, b"fou").await);
        assert!(!pair.gossips(0).await && pair.gossips(1).await);
        assert_eq!(pair.forwarder.met(), 2);

        pair.forwarder.heal();
        let mut heard = [0; 3];
        timeout(LIMIT, far.read_exact(&mut heard)).await.unwrap().unwrap();
        assert_eq!(heard, *b"thr");
        // A datagram does not wait.
        assert!(pair.gossips(0).await);
    };
    LocalSet::new().run_until(transcript).await;
}

#[tokio::test]
async fn the_end_of_a_connection_is_told_and_not_through_a_cut() {
    let transcript = async {
        let pair = pair(2).await;
        let (mut near, far) = pair.connected().await;
        drop(far);
        assert_eq!(timeout(LIMIT, near.read_u8()).await.unwrap().ok(), None);

        let (near, mut far) = pair.connected().await;
        pair.forwarder.cut(0, 1);
        drop(near);
        assert!(timeout(QUIET, far.read_u8()).await.is_err());
        pair.forwarder.heal();
        assert_eq!(timeout(LIMIT, far.read_u8()).await.unwrap().ok(), None);
    };
    LocalSet::new().run_until(transcript).await;
}

#[tokio::test]
async fn a_bad_wire_is_slow_keeps_the_order_of_a_stream_and_loses_datagrams() {
    let transcript = async {
        let pair = pair(3).await;
        let (mut near, mut far) = pair.connected().await;
        pair.forwarder.worsen(2);
        let begun = Instant::now();
        for word in [b"one", b"two", b"thr"] {
            near.write_all(word).await.unwrap();
            tokio::task::yield_now().await;
        }
        let mut heard = [0; 9];
        timeout(LIMIT, far.read_exact(&mut heard)).await.unwrap().unwrap();
        assert_eq!((heard, begun.elapsed() >= DELAY), (*b"onetwothr", true));

        let mut came = 0;
        for _ in 0..40 {
            let target = SocketAddr::new(pair.at[1].advertise, pair.at[1].gossip.port());
            pair.gossip[0].send_to(b"x", target).await.unwrap();
        }
        let mut packet = [0; 1];
        while timeout(QUIET, pair.gossip[1].recv_from(&mut packet)).await.is_ok() {
            came += 1;
        }
        assert!((1..40).contains(&came), "{came} of 40 came");
    };
    LocalSet::new().run_until(transcript).await;
}

#[tokio::test]
async fn what_is_late_when_the_wire_becomes_whole_is_there() {
    let transcript = async {
        let pair = pair(5).await;
        let (mut near, mut far) = pair.connected().await;
        pair.forwarder.worsen(2);
        near.write_all(b"one").await.unwrap();
        // It is on its way.
        while pair.forwarder.met() == 0 {
            tokio::task::yield_now().await;
        }
        let (begun, mut heard) = (Instant::now(), [0; 3]);
        pair.forwarder.heal();
        timeout(LIMIT, far.read_exact(&mut heard)).await.unwrap().unwrap();
        assert!(begun.elapsed() < DELAY / 2, "{:?}", begun.elapsed());
    };
    LocalSet::new().run_until(transcript).await;
}

#[tokio::test]
async fn a_connection_of_a_stranger_is_closed() {
    let transcript = async {
        let pair = pair(4).await;
        pair.forwarder.belongs(0, None);
        let target = SocketAddr::new(pair.at[1].advertise, pair.at[1].grpc.port());
        let mut near = TcpStream::connect(target).await.unwrap();
        assert_eq!(timeout(LIMIT, near.read_u8()).await.unwrap().ok(), None);
    };
    LocalSet::new().run_until(transcript).await;
}
