//! What a group sends to a peer: openraft's calls as messages of the peer plane.
//!
//! Votes and messages without entries (heartbeats, read-index rounds, commit
//! notices) take the urgent lane. Appends go one at a time to a follower, with
//! everything that piled up meanwhile in the next one: measured to be as fast
//! as a pipeline on short links, and it makes the longer batches
//! (openraft's own sequential `stream_append` does just this).

use std::future::Future;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{Either, select};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use stemedb_engine::export;
use stemedb_rpc::{Envelope, Lane, Plane};
use stemedb_types::{DecodeError, GroupId, NodeId, ReplicaId};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use crate::codec::{
    decode_append_response, decode_snapshot_response, decode_vote_response, encode_append,
    encode_snapshot_header, encode_transfer, encode_vote_request,
};
use crate::inbound::kinds;
use crate::snapshot::{SnapshotData, framed};
use crate::types::{Config, Holder, Snapshot, Vote};

/// Chunks of a snapshot read ahead of the network.
const SNAPSHOT_CHUNKS_AHEAD: usize = 4;

/// Makes the links of one replica to its peers.
#[derive(Clone)]
pub(crate) struct Network {
    pub(crate) plane: Arc<Plane>,
    pub(crate) group: GroupId,
    pub(crate) me: ReplicaId,
    /// Snapshots on their way.
    pub(crate) sending: Arc<AtomicUsize>,
}

/// From one replica to another.
pub(crate) struct Link {
    network: Network,
    node: NodeId,
    target: ReplicaId,
}

/// Counts a snapshot for as long as it is on its way.
struct Sending(Arc<AtomicUsize>);

impl Sending {
    fn begin(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

type RpcResult<T> = Result<T, RPCError<Config>>;

impl Link {
    fn envelope(&self, kind: u8, payload: Bytes) -> Envelope {
        let Network { group, me, .. } = &self.network;
        Envelope { group: *group, from: *me, to: self.target, kind, payload }
    }

    async fn ask<T>(
        &self,
        lane: Lane,
        kind: u8,
        payload: Bytes,
        option: &RPCOption,
        decode: impl FnOnce(&[u8]) -> Result<T, DecodeError>,
    ) -> RpcResult<T> {
        let deadline = Instant::now() + option.soft_ttl();
        let envelope = self.envelope(kind, payload);
        let answer = self.network.plane.request(self.node, lane, envelope, deadline).await;
        let answer = answer.map_err(failed)?;
        decode(&answer).map_err(|cause| RPCError::Network(NetworkError::new(&cause)))
    }
}

/// A peer that is not there is left alone for a while; anything else is tried again at once.
fn failed(error: stemedb_rpc::Error) -> RPCError<Config> {
    match &error {
        stemedb_rpc::Error::NotSent(stemedb_rpc::NotSent::Down(_))
        | stemedb_rpc::Error::Refused(_) => RPCError::Unreachable(Unreachable::new(&error)),
        _ => RPCError::Network(NetworkError::new(&error)),
    }
}

impl RaftNetworkFactory<Config> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: u64, node: &Holder) -> Link {
        Link { network: self.clone(), node: node.0, target: ReplicaId(target) }
    }
}

impl RaftNetworkV2<Config> for Link {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Config>,
        option: RPCOption,
    ) -> RpcResult<AppendEntriesResponse<Config>> {
        let lane = if rpc.entries.is_empty() { Lane::Urgent } else { Lane::Normal };
        let payload = encode_append(&rpc);
        self.ask(lane, kinds::APPEND, payload, &option, decode_append_response).await
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Config>,
        option: RPCOption,
    ) -> RpcResult<VoteResponse<Config>> {
        let payload = encode_vote_request(&rpc);
        self.ask(Lane::Urgent, kinds::VOTE, payload, &option, decode_vote_response).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Config>,
        option: RPCOption,
    ) -> RpcResult<VoteResponse<Config>> {
        let payload = encode_vote_request(&rpc);
        self.ask(Lane::Urgent, kinds::PRE_VOTE, payload, &option, decode_vote_response).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Config>, StreamingError<Config>> {
        let SnapshotData::Here(store) = snapshot.snapshot else {
            let cause = io::Error::other("a received snapshot is installed, not sent on");
            return Err(StreamingError::Network(NetworkError::new(&cause)));
        };
        let _sending = Sending::begin(&self.network.sending);
        let (chunks, stream) = mpsc::channel(SNAPSHOT_CHUNKS_AHEAD);
        tokio::task::spawn_blocking(move || {
            let read =
                export(&store, &mut |chunk| match chunks.blocking_send(Ok(framed(&chunk))) {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(_) => ControlFlow::Break(()),
                });
            if let Err(error) = read {
                let _ = chunks.blocking_send(Err(io::Error::other(error)));
            }
        });
        let header = self.envelope(kinds::SNAPSHOT, encode_snapshot_header(&vote));
        let plane = self.network.plane.clone();
        let sending = plane.send_snapshot(self.node, header, ReceiverStream::new(stream)).boxed();
        let answer = match select(sending, Box::pin(cancel)).await {
            Either::Left((answer, _)) => answer,
            Either::Right((closed, _)) => return Err(StreamingError::Closed(closed)),
        };
        let answer = answer.map_err(|error| {
            tracing::warn!(group = %self.network.group, to = %self.node, %error, "a snapshot was not taken");
            match failed(error) {
            RPCError::Unreachable(error) => StreamingError::Unreachable(error),
            RPCError::Network(error) => StreamingError::Network(error),
            other => StreamingError::Network(NetworkError::new(&other)),
        }})?;
        decode_snapshot_response(&answer)
            .map_err(|cause| StreamingError::Network(NetworkError::new(&cause)))
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<Config>,
        option: RPCOption,
    ) -> RpcResult<TransferLeaderResponse<Config>> {
        let payload = encode_transfer(&req);
        self.ask(Lane::Urgent, kinds::TRANSFER, payload, &option, |_| Ok(Ok(()))).await
    }
}
