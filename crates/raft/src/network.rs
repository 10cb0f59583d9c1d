//! What a group sends to a peer: openraft's calls as messages of the peer plane.
//!
//! Votes and messages without entries (heartbeats, read-index rounds, commit
//! notices) take the urgent lane. Appends go one at a time to a follower, with
//! everything that piled up meanwhile in the next one: measured to be as fast
//! as a pipeline on short links, and it makes the longer batches
//! (openraft's own sequential `stream_append` does just this).

use std::future::Future;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{Either, select};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use stemedb_rpc::{Envelope, Lane};
use stemedb_types::{DecodeError, GroupId, NodeId, ReplicaId};
use tokio::time::Instant;

use crate::codec::{
    decode_append_response, decode_vote_response, encode_append, encode_transfer,
    encode_vote_request,
};
use crate::inbound::kinds;
use crate::lease::{Leases, take_promise};
use crate::sending::Sending;
use crate::snapshot::SnapshotData;
use crate::transport::Transport;
use crate::types::{Config, Holder, Snapshot, Vote};

/// Makes the links of one replica to its peers.
#[derive(Clone)]
pub(crate) struct Network {
    pub(crate) plane: Arc<dyn Transport>,
    pub(crate) group: GroupId,
    pub(crate) me: ReplicaId,
    /// Snapshots on their way.
    pub(crate) sending: Sending,
    /// Told of each voter's promise.
    pub(crate) leases: Leases,
}

/// From one replica to another.
pub(crate) struct Link {
    pub(crate) network: Network,
    pub(crate) node: NodeId,
    pub(crate) target: ReplicaId,
}

pub(crate) type RpcResult<T> = Result<T, RPCError<Config>>;

impl Link {
    pub(crate) fn envelope(&self, kind: u8, payload: Bytes) -> Envelope {
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
pub(crate) fn failed(error: stemedb_rpc::Error) -> RPCError<Config> {
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
        let (leases, target) = (self.network.leases.clone(), self.target);
        let decode = |answer: &[u8]| {
            let (answer, promised) = take_promise(answer);
            // Before openraft counts the answer.
            leases.answered(target, promised);
            decode_append_response(&answer)
        };
        self.ask(lane, kinds::APPEND, payload, &option, decode).await
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
        let sending = self.send_snapshot(vote, store, snapshot.meta.last_log_id).boxed();
        match select(sending, Box::pin(cancel)).await {
            Either::Left((Ok(answer), _)) => Ok(answer),
            Either::Left((Err(RPCError::Unreachable(error)), _)) => {
                Err(StreamingError::Unreachable(error))
            }
            Either::Left((Err(RPCError::Network(error)), _)) => Err(StreamingError::Network(error)),
            Either::Left((Err(other), _)) => {
                Err(StreamingError::Network(NetworkError::new(&other)))
            }
            Either::Right((closed, _)) => Err(StreamingError::Closed(closed)),
        }
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
