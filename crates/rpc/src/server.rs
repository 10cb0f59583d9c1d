//! The listening side: proves who called, then hands messages to the handler.
//!
//! Each call is one task that reads frames and gives their requests to the
//! handler in order. It pauses while the peer owes us the taking of too many
//! answers, and ends when the peer hangs up, breaks the protocol, or when we
//! become somebody else (a blank node that joined a cluster) or stop; in the
//! last two cases the answers still owed may leave first.
//!
//! A large answer travels where its request came in: a short question with a
//! long answer holds up what is behind it on the main connection.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{Stream, StreamExt};
use stemedb_types::ClusterId;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming, async_trait};

use crate::answers::{Answering, Answers, Reply};
use crate::dial::{step, text};
use crate::door::{Admission, guests};
use crate::frame::{Content, Message, read};
use crate::handshake::{Ended, Listener, Role, duplicate};
use crate::limits::{
    CONNECTION_WINDOW_BYTES, FRAME_BYTES_MAX, HTTP2_FRAME_BYTES, STREAM_WINDOW_BYTES,
    STREAMS_PER_CONNECTION_MAX,
};
use crate::lives::Lease;
use crate::local::Local;
use crate::message::{Envelope, PeerIdentity, Refusal};
use crate::mismatch::{Mismatch, refusal};
use crate::snapshot::SnapshotChunks;
use crate::wire::{Frame, Peer, PeerServer};

/// What a node does with what its peers send. Called on the runtime's threads.
pub trait Handler: Send + Sync + 'static {
    /// A message came. Must not block: hand it on and return. `from` is proven; whether a blank
    /// node may ask this, and whether the replica ids are right, is for the handler to decide.
    /// The reply may be answered later and from anywhere.
    fn handle(&self, from: PeerIdentity, message: Envelope, reply: Reply);

    /// A snapshot comes. The returned future takes the chunks at its own pace and answers the
    /// sender; it is dropped if this plane stops first. The chunks count only after their clean
    /// end.
    fn handle_snapshot(
        &self,
        from: PeerIdentity,
        header: Envelope,
        chunks: SnapshotChunks,
    ) -> BoxFuture<'static, Result<Bytes, Refusal>>;
}

/// Counts handshakes that failed, by reason.
const REFUSED_TOTAL: &str = "stemedb_rpc_handshakes_refused_total";

/// A step of the handshake and a refusal behind it.
const STEPS_QUEUED_MAX: usize = 2;

/// Accepts peers until the plane stops, and a drain longer.
pub(crate) async fn serve(local: Arc<Local>, handler: Arc<dyn Handler>, listener: TcpListener) {
    metrics::describe_counter!(REFUSED_TOTAL, "Peer handshakes refused or given up, by reason");
    let limits = &local.limits;
    let guests = guests(listener, limits);
    let service = PeerServer::new(Service { local: local.clone(), handler })
        .max_decoding_message_size(FRAME_BYTES_MAX);
    let serving = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .max_frame_size(HTTP2_FRAME_BYTES)
        .http2_keepalive_interval(Some(limits.keepalive_interval))
        .http2_keepalive_timeout(Some(limits.keepalive_timeout))
        .serve_with_incoming_shutdown(service, guests, local.stop.cancelled());
    // A peer that does not close its end may not keep us from stopping.
    let stopped = async {
        local.stop.cancelled().await;
        tokio::time::sleep(limits.drain_timeout * 2).await;
    };
    tokio::select! {
        served = serving => if let Err(error) = served {
            tracing::error!(%error, "the peer listener failed");
        },
        () = stopped => {}
    }
}

struct Service {
    local: Arc<Local>,
    handler: Arc<dyn Handler>,
}

#[async_trait]
impl Peer for Service {
    type ConverseStream = Pin<Box<dyn Stream<Item = Result<Frame, Status>> + Send>>;

    async fn converse(
        &self,
        request: Request<Streaming<Frame>>,
    ) -> Result<Response<Self::ConverseStream>, Status> {
        let admission = request.extensions().get::<Admission>().cloned();
        let answers = Answers::new(&self.local.limits);
        let (steps, queued) = mpsc::channel(STEPS_QUEUED_MAX);
        let inbound = Inbound {
            local: self.local.clone(),
            handler: self.handler.clone(),
            answers: answers.clone(),
        };
        self.local.tasks.spawn(inbound.run(request.into_inner(), steps, admission));
        let outgoing = ReceiverStream::new(queued).map(Ok).chain(Answering(answers));
        Ok(Response::new(Box::pin(outgoing)))
    }
}

/// One call of a peer.
struct Inbound {
    local: Arc<Local>,
    handler: Arc<dyn Handler>,
    answers: Arc<Answers>,
}

impl Drop for Inbound {
    /// However the call ends, a panic of the handler included, the peer hears of it.
    fn drop(&mut self) {
        self.answers.close();
    }
}

/// Why reading ended.
enum Over {
    /// The answers owed may still leave.
    Drain,
    /// They have nowhere to go.
    Broken(String),
}

impl Inbound {
    async fn run(
        self,
        mut incoming: Streaming<Frame>,
        steps: mpsc::Sender<Frame>,
        admission: Option<Admission>,
    ) {
        let patience = self.local.limits.handshake_timeout;
        let shaking = async {
            self.local.doors_open().await;
            let me = self.local.identity();
            shake(&self.local, me, &mut incoming, &steps).await.map(|guest| (me, guest))
        };
        let shaken = timeout(patience, shaking).await;
        let ended = match shaken.unwrap_or(Err(Ended::Found(Mismatch::Timeout))) {
            Ok((me, guest)) => {
                // The response's stream goes on to the answers when the steps are over.
                drop(steps);
                admission.iter().for_each(Admission::grant);
                if guest.role == Role::Main {
                    // Nobody may listen: no peer is in our book yet.
                    let _ = self.local.came_in.send((guest.peer.node, Instant::now()));
                }
                return self.serve(me.cluster, guest, incoming).await;
            }
            Err(ended) => ended,
        };
        let mismatch = ended.mismatch();
        tracing::warn!(reason = %mismatch, "a peer's connection was refused");
        metrics::counter!(REFUSED_TOTAL, "reason" => mismatch.word()).increment(1);
        if let Ended::Found(mismatch) = &ended {
            let _ = steps.try_send(step(refusal(mismatch)));
        }
    }

    async fn serve(self, made_as: Option<ClusterId>, guest: Guest, mut incoming: Streaming<Frame>) {
        let Guest { peer, role, lease } = guest;
        let work = async {
            match role {
                Role::Main | Role::Bulk | Role::Once => {
                    self.take_messages(peer, &mut incoming).await
                }
                Role::Snapshot => self.take_snapshot(peer, incoming).await,
            }
        };
        let over = tokio::select! {
            biased;
            () = self.local.outlived(made_as) => Over::Drain,
            () = lease.outlived() => Over::Broken("a newer life of that node has come".to_owned()),
            over = work => over,
        };
        match over {
            Over::Drain => {
                let _ = timeout(self.local.limits.drain_timeout, self.answers.drain()).await;
            }
            Over::Broken(why) => tracing::debug!(peer = %peer.node, why, "a peer's call broke"),
        }
    }

    async fn take_messages(&self, peer: PeerIdentity, incoming: &mut Streaming<Frame>) -> Over {
        loop {
            self.answers.room().await;
            let messages = match next_content(incoming).await {
                Ok(Some(Content::Messages(messages))) => messages,
                Ok(Some(_)) => return Over::Broken("a snapshot among messages".to_owned()),
                Ok(None) => return Over::Drain,
                Err(why) => return Over::Broken(why),
            };
            for message in messages {
                let Message::Request { id, lane, envelope } = message else {
                    return Over::Broken("an answer among requests".to_owned());
                };
                let reply = self.answers.owe(id, lane);
                self.handler.handle(peer, envelope, reply);
            }
        }
    }

    async fn take_snapshot(&self, peer: PeerIdentity, mut incoming: Streaming<Frame>) -> Over {
        let patience = self.local.limits.handshake_timeout;
        let first = match timeout(patience, next_content(&mut incoming)).await {
            Ok(Ok(Some(Content::Messages(messages)))) => messages.into_iter().next(),
            _ => None,
        };
        let Some(Message::Request { id, lane, envelope }) = first else {
            return Over::Broken("a snapshot without a header".to_owned());
        };
        let reply = self.answers.owe(id, lane);
        let chunks = SnapshotChunks::received(incoming);
        match self.handler.handle_snapshot(peer, envelope, chunks).await {
            Ok(payload) => reply.ok(payload),
            Err(refusal) => reply.refuse(refusal),
        }
        Over::Drain
    }
}

/// A peer that was let in.
struct Guest {
    peer: PeerIdentity,
    role: Role,
    lease: Lease,
}

/// The listener's side of the handshake, frame by frame.
async fn shake(
    local: &Local,
    me: PeerIdentity,
    incoming: &mut Streaming<Frame>,
    steps: &mpsc::Sender<Frame>,
) -> Result<Guest, Ended> {
    let hello = next_step(incoming).await?;
    let listener = Listener::new(me, local.life, local.chance.nonce());
    let (challenge, await_proof) = listener.greeted(&hello.head)?;
    let _ = steps.send(step(challenge)).await;
    let proof = next_step(incoming).await?;
    let proven = await_proof.proven(&local.keys, &proof.head)?;
    let (peer, life) = proven.peer();
    match local.lives.admit(peer.node, life) {
        Ok(lease) => {
            let _ = steps.send(step(proven.welcome())).await;
            Ok(Guest { peer, role: proven.role(), lease })
        }
        Err(newer) => {
            let _ = steps.send(step(proven.double(newer))).await;
            Err(Ended::Proven(duplicate(peer.node, newer)))
        }
    }
}

async fn next_step(incoming: &mut Streaming<Frame>) -> Result<Frame, Ended> {
    match incoming.message().await {
        Ok(Some(frame)) => Ok(frame),
        Ok(None) => Err(Ended::Told(Mismatch::Malformed("the peer hung up".to_owned()))),
        Err(status) => Err(Ended::Told(Mismatch::Malformed(text(&status)))),
    }
}

/// The next frame behind the handshake; `None` when the peer is done.
async fn next_content(incoming: &mut Streaming<Frame>) -> Result<Option<Content>, String> {
    match incoming.message().await {
        Ok(Some(frame)) => read(frame).map(Some).map_err(|e| e.to_string()),
        Ok(None) => Ok(None),
        Err(status) => Err(text(&status)),
    }
}
