//! One HTTP/1.1 connection, kept alive, one request at a time.
//!
//! No pool, no redirects, no retries: the generator shares the cores with the
//! servers it measures, so it does only what a request needs.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::header::HOST;
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How much of a refusal's body is shown.
const REFUSAL_BYTES_MAX: usize = 300;

/// An open connection to one server.
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    host: HeaderValue,
}

/// What came back, whole.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// The status.
    pub(crate) status: StatusCode,
    /// The headers.
    pub(crate) headers: HeaderMap,
    /// The body.
    pub(crate) body: Bytes,
}

impl Connection {
    /// Connects. A task drives the connection until this handle is dropped or the peer ends it.
    ///
    /// # Errors
    /// Nobody listens there.
    pub(crate) async fn open(address: SocketAddr) -> Result<Self> {
        let stream =
            TcpStream::connect(address).await.with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true)?;
        let (sender, driver) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            // How it ended is told to whoever waits for an answer on it.
            let _ = driver.await;
        });
        Ok(Connection { sender, host: HeaderValue::try_from(address.to_string())? })
    }

    /// Whether no further request can be sent.
    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Sends a request, whose URI is a path, and reads the whole answer.
    ///
    /// # Errors
    /// The connection broke; whether the server saw the request is not known.
    pub(crate) async fn send(&mut self, mut request: Request<Full<Bytes>>) -> Result<Answer> {
        request.headers_mut().insert(HOST, self.host.clone());
        self.sender.ready().await?;
        let (head, body) = self.sender.send_request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Answer { status: head.status, headers: head.headers, body })
    }
}

/// One GET of a path over a connection of its own.
///
/// # Errors
/// As [`Connection::open`] and [`Connection::send`].
pub(crate) async fn get(address: SocketAddr, path: &str) -> Result<Answer> {
    let request = Request::get(path).body(Full::default())?;
    Connection::open(address).await?.send(request).await
}

/// One request over a connection of its own, answered within `limit`.
///
/// # Errors
/// As [`Connection::open`] and [`Connection::send`], or the time is over.
pub(crate) async fn call(
    address: SocketAddr,
    request: Request<Full<Bytes>>,
    limit: Duration,
) -> Result<Answer> {
    let answer = async { Connection::open(address).await?.send(request).await };
    timeout(limit, answer).await.with_context(|| format!("{address}: no answer in {limit:?}"))?
}

impl Answer {
    /// The text of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body of a 2xx.
    ///
    /// # Errors
    /// The status is another; the error shows it and the start of the body.
    pub(crate) fn success(self) -> Result<Bytes> {
        if self.status.is_success() {
            return Ok(self.body);
        }
        let shown = self.body.get(..REFUSAL_BYTES_MAX).unwrap_or(&self.body);
        anyhow::bail!("status {}: {}", self.status.as_u16(), String::from_utf8_lossy(shown))
    }
}
