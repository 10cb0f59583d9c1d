//! From an address to a proven peer: TCP, HTTP/2, the call, the handshake.
//!
//! The TCP connection is made here and lent to tonic, for two reasons: a
//! refused connection is evidence and must not be lost in layers of errors,
//! and a tonic channel would redial behind our back. Ours is used once; when
//! it breaks, its owner hears of it and dials again.

use std::io;
use std::net::SocketAddr;

use futures_util::{Stream, StreamExt};
use hyper_util::rt::TokioIo;
use stemedb_types::{ClusterId, NodeId};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

use crate::error::Down;
use crate::handshake::{Dialler, Ended, Role, duplicate};
use crate::limits::{
    CONNECTION_WINDOW_BYTES, FRAME_BYTES_MAX, HTTP2_FRAME_BYTES, Limits, STREAM_WINDOW_BYTES,
};
use crate::lives::Lease;
use crate::local::Local;
use crate::message::PeerIdentity;
use crate::mismatch::{Mismatch, refusal};
use crate::wire::{Frame, PeerClient};

/// Whom to dial, as whom, and what for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    pub(crate) address: SocketAddr,
    pub(crate) wanted: Option<NodeId>,
    pub(crate) cluster: Option<ClusterId>,
    pub(crate) role: Role,
}

/// A proven peer and what it sends. Dropping it closes the connection.
pub(crate) struct Opened {
    pub(crate) peer: PeerIdentity,
    pub(crate) incoming: Streaming<Frame>,
    /// Ends when another process goes by the peer's id.
    pub(crate) lease: Lease,
    _client: PeerClient<Channel>,
}

/// Dials and shakes hands; behind the handshake the peer is sent what `rest` yields.
pub(crate) async fn open(
    local: &Local,
    call: Call,
    rest: impl Stream<Item = Frame> + Send + 'static,
) -> Result<Opened, Down> {
    let tcp = connect(call.address, &local.limits).await?;
    match timeout(local.limits.handshake_timeout, shake(local, call, tcp, rest)).await {
        Ok(opened) => opened,
        Err(_) => Err(Down::Handshake(Mismatch::Timeout)),
    }
}

async fn connect(address: SocketAddr, limits: &Limits) -> Result<TcpStream, Down> {
    let unreachable = |error: &dyn std::fmt::Display| Down::Unreachable(error.to_string());
    let tcp = match timeout(limits.dial_timeout, TcpStream::connect(address)).await {
        Ok(Ok(tcp)) => tcp,
        Ok(Err(e)) if e.kind() == io::ErrorKind::ConnectionRefused => {
            return Err(Down::ConnectionRefused);
        }
        Ok(Err(e)) => return Err(unreachable(&e)),
        Err(_) => return Err(unreachable(&"no answer to the dial")),
    };
    tcp.set_nodelay(true).map_err(|e| unreachable(&e))?;
    Ok(tcp)
}

async fn shake(
    local: &Local,
    call: Call,
    tcp: TcpStream,
    rest: impl Stream<Item = Frame> + Send + 'static,
) -> Result<Opened, Down> {
    let channel = channel(tcp, &local.limits).await.map_err(unreachable)?;
    let mut client = PeerClient::new(channel).max_decoding_message_size(FRAME_BYTES_MAX);
    let (steps, first) = mpsc::channel(1);
    let me = PeerIdentity { node: local.node, cluster: call.cluster };
    let dialler = Dialler::new(me, local.life, call.wanted, call.role, local.chance.nonce());
    // The channel holds one step, and this is the first: it can't be full.
    let _ = steps.try_send(step(dialler.hello()));
    let outgoing = ReceiverStream::new(first).chain(rest);
    let mut incoming =
        client.converse(outgoing).await.map_err(|e| Down::Unreachable(text(&e)))?.into_inner();
    match exchange(local, dialler, &steps, &mut incoming).await? {
        Ok((peer, lease)) => Ok(Opened { peer, incoming, lease, _client: client }),
        Err(ended) => {
            if let Ended::Found(mismatch) = &ended {
                // The peer hangs up once it has heard why; then nothing is lost by closing.
                let _ = steps.send(step(refusal(mismatch))).await;
                let _ = incoming.message().await;
            }
            Err(Down::Handshake(ended.mismatch().clone()))
        }
    }
}

/// The dialler's side, frame by frame. The outer error is a connection that broke.
async fn exchange(
    local: &Local,
    dialler: Dialler,
    steps: &mpsc::Sender<Frame>,
    incoming: &mut Streaming<Frame>,
) -> Result<Result<(PeerIdentity, Lease), Ended>, Down> {
    let challenge = next_step(incoming).await?;
    let (proof, await_welcome) = match dialler.challenged(&local.keys, &challenge.head) {
        Ok(next) => next,
        Err(ended) => return Ok(Err(ended)),
    };
    let _ = steps.send(step(proof)).await;
    let welcome = next_step(incoming).await?;
    let by = await_welcome.peer();
    let (peer, life) = match await_welcome.welcomed(&local.keys, &welcome.head) {
        Ok(welcomed) => welcomed,
        Err(ended) => {
            if matches!(ended, Ended::Proven(_)) {
                local.note_turned_away(by);
            }
            return Ok(Err(ended));
        }
    };
    let admitted = local.lives.admit(peer.node, life);
    Ok(admitted
        .map(|lease| (peer, lease))
        .map_err(|newer| Ended::Found(duplicate(peer.node, newer))))
}

async fn next_step(incoming: &mut Streaming<Frame>) -> Result<Frame, Down> {
    match incoming.message().await {
        Ok(Some(frame)) => Ok(frame),
        Ok(None) => Err(Down::Unreachable("it hung up during the handshake".to_owned())),
        Err(status) => Err(Down::Unreachable(text(&status))),
    }
}

/// A step of the handshake as a frame.
pub(crate) fn step(head: Vec<u8>) -> Frame {
    Frame { head: head.into(), payload: Vec::new() }
}

/// What a status says, for a link's reason.
pub(crate) fn text(status: &Status) -> String {
    format!("{}: {}", status.code(), status.message())
}

fn unreachable(error: tonic::transport::Error) -> Down {
    Down::Unreachable(error.to_string())
}

async fn channel(tcp: TcpStream, limits: &Limits) -> Result<Channel, tonic::transport::Error> {
    let mut lent = Some(TokioIo::new(tcp));
    let connector = tower::service_fn(move |_| {
        let tcp = lent.take().ok_or_else(|| io::Error::other("a connection is dialled once"));
        std::future::ready(tcp)
    });
    Endpoint::from_static("http://peer")
        .http2_keep_alive_interval(limits.keepalive_interval)
        .keep_alive_timeout(limits.keepalive_timeout)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(HTTP2_FRAME_BYTES)
        .connect_with_connector(connector)
        .await
}
