//! Doors as sockets: keep-alive, both protocols, draining.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::Empty;
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use stemedb::Door;
use stemedb_gateway::{Gateway, Options};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::Bench;

struct Served {
    address: std::net::SocketAddr,
    shutdown: CancellationToken,
    door: JoinHandle<()>,
}

async fn serve(options: Options) -> Served {
    let bench = Bench::new();
    let gateway = Gateway::new(bench.script, options);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let token = shutdown.clone();
    let door = tokio::spawn(async move { gateway.serve(listener, Door::Own, token).await });
    Served { address, shutdown, door }
}

/// Sends a request by hand and reads until its short body is complete.
async fn talk(stream: &mut TcpStream, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).ends_with("{\"status\":\"alive\"}") {
        let mut part = [0; 1024];
        let count = stream.read(&mut part).await.unwrap();
        assert!(count > 0, "closed after {}", seen.escape_ascii());
        seen.extend_from_slice(&part[..count]);
    }
    String::from_utf8(seen).unwrap()
}

const ALIVE: &str = "GET /livez HTTP/1.1\r\nhost: x\r\n\r\n";

#[tokio::test]
async fn a_door_keeps_connections_and_says_close_once_it_drains() {
    let served = serve(Options { drain: Duration::from_secs(3600), ..Options::default() }).await;
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    for _ in 0..2 {
        let seen = talk(&mut stream, ALIVE).await;
        assert!(seen.starts_with("HTTP/1.1 200 OK\r\n") && !seen.contains("connection"), "{seen}");
    }

    served.shutdown.cancel();
    tokio::task::yield_now().await;
    let mut closing = TcpStream::connect(served.address).await.unwrap();
    let seen = talk(&mut closing, ALIVE).await;
    assert!(seen.contains("connection: close\r\n"), "new connections are still served: {seen}");
    let seen = talk(&mut stream, ALIVE).await;
    assert!(seen.contains("connection: close\r\n"), "idle ones were left alone: {seen}");
    let mut rest = Vec::new();
    assert_eq!(stream.read_to_end(&mut rest).await.unwrap(), 0, "it was closed after its answer");
    served.door.abort();
}

#[tokio::test]
async fn a_drained_door_ends_with_its_idle_connections() {
    let served = serve(Options { drain: Duration::ZERO, ..Options::default() }).await;
    let mut idle = TcpStream::connect(served.address).await.unwrap();
    talk(&mut idle, ALIVE).await;
    served.shutdown.cancel();
    served.door.await.unwrap();
    let mut rest = Vec::new();
    assert_eq!(idle.read_to_end(&mut rest).await.unwrap(), 0);
    assert!(TcpStream::connect(served.address).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn a_request_that_does_not_end_is_cut_off_at_last() {
    let deadline = Duration::from_millis(20);
    let served = serve(Options { drain: Duration::ZERO, deadline, ..Options::default() }).await;
    let mut stuck = TcpStream::connect(served.address).await.unwrap();
    let request = "GET /v1/kv/hang/k HTTP/1.1\r\nhost: x\r\nx-api-key: writer\r\n\r\n";
    let both = format!("{ALIVE}{request}");
    stuck.write_all(both.as_bytes()).await.unwrap();
    stuck.read_exact(&mut [0; 12]).await.unwrap();
    served.shutdown.cancel();
    served.door.await.unwrap();
    let mut rest = Vec::new();
    stuck.read_to_end(&mut rest).await.unwrap();
    assert!(rest.ends_with(b"{\"status\":\"alive\"}"), "{}", rest.escape_ascii());
}

#[tokio::test]
async fn http_2_is_spoken_on_the_same_port_and_told_to_go_away() {
    let served = serve(Options { drain: Duration::from_secs(3600), ..Options::default() }).await;
    let stream = TcpStream::connect(served.address).await.unwrap();
    let handshake =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.unwrap();
    let connection = tokio::spawn(connection);
    let request = || {
        let uri = "http://x/livez";
        http::Request::get(uri).body(Empty::<Bytes>::new()).unwrap()
    };
    let before = sender.send_request(request()).await.unwrap();
    assert_eq!(before.status(), 200);
    served.shutdown.cancel();
    tokio::task::yield_now().await;
    let last = sender.send_request(request()).await.unwrap();
    assert_eq!(last.status(), 200);
    assert!(!last.headers().contains_key("connection"));
    connection.await.unwrap().unwrap();
    served.door.abort();
}

#[tokio::test]
async fn no_more_connections_than_allowed_are_served_at_a_time() {
    let served = serve(Options { connections_max: 1, ..Options::default() }).await;
    let mut first = TcpStream::connect(served.address).await.unwrap();
    talk(&mut first, ALIVE).await;
    let mut second = TcpStream::connect(served.address).await.unwrap();
    second.write_all(ALIVE.as_bytes()).await.unwrap();
    let mut byte = [0; 1];
    let waits = tokio::time::timeout(Duration::from_millis(50), second.read(&mut byte)).await;
    assert!(waits.is_err(), "the second waits for a slot");
    drop(first);
    assert_eq!(second.read(&mut byte).await.unwrap(), 1);
    served.door.abort();
}

#[tokio::test]
async fn a_head_that_does_not_end_is_not_waited_for() {
    let options = Options { header_read_timeout: Duration::from_millis(20), ..Options::default() };
    let served = serve(options).await;
    let mut slow = TcpStream::connect(served.address).await.unwrap();
    slow.write_all(b"GET /livez HT").await.unwrap();
    let mut rest = Vec::new();
    let _ = slow.read_to_end(&mut rest).await;
    assert!(!rest.starts_with(b"HTTP/1.1 200"), "{}", rest.escape_ascii());
    served.door.abort();
}

#[tokio::test]
async fn an_answer_does_not_wait_for_a_body_that_is_not_wanted() {
    let served = serve(Options::default()).await;
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    let head = "PUT /v1/kv/b/k HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\
                expect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut start = [0; 12];
    stream.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 401");
    served.door.abort();
}

/// All clones are one gateway: the doors of a node drain together.
#[test]
fn clones_are_one_gateway() {
    let bench = Bench::new();
    let other = bench.gateway.clone();
    bench.gateway.drain();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let request = crate::support::request("GET /livez", &[], Empty::<Bytes>::new());
    let response = runtime.block_on(other.handle(Door::Own, request));
    assert_eq!(response.headers()["connection"], "close");
    assert!(Arc::strong_count(&bench.script) > 1);
}
