//! What peers may ask of this node.
//!
//! Raft's messages go to their replica. The others are questions of the façade
//! (see [`crate::wire`]). A peer of our cluster may ask all of them; a blank
//! one only what founding and joining need.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use stemedb_machine::meta::{MetaAnswer, MetaCommand};
use stemedb_rpc::{Envelope, Handler, PeerIdentity, Refusal, Reply, SnapshotChunks};
use stemedb_types::GroupId;
use tokio::time::Instant;

use crate::admit::Glance;
use crate::core::{Core, now_ms};
use crate::execute::Sink;
use crate::failover::decode_node;
use crate::founding::{Description, Proposal, Verdict, judge};
use crate::front::{Need, Op};
use crate::identity::Identity;
use crate::measured::encode_measured;
use crate::wire::{
    APPLIED, CALL, DESCRIBE, DISK, FORGOTTEN, FOUNDED, GOES_DOWN, JOIN, KEY, LED, LOST, MEASURE,
    META, PING, PROPOSE, SET_ASIDE, Welcome, WireCall, WireMeta, decode_key_question, decode_level,
    decode_replica, decode_wait, encode_bool, encode_index_option, encode_led, encode_meta_result,
    encode_op_result, encode_replicas,
};
use crate::{Error, Unavailable};

/// This node can't answer that, or not to this peer.
const REFUSED_STRANGER: u8 = 10;
/// The payload does not decode.
const REFUSED_PAYLOAD: u8 = 11;
/// The answer is no, and the text says why.
const REFUSED: u8 = 12;

/// This node never founds: the cluster has to be founded without it.
pub(crate) const REFUSED_JOINS: u8 = 13;
/// That node was a member, and others took its place.
pub(crate) const REFUSED_GONE: u8 = 14;

/// How long a peer's question for the meta leader may take here.
const PEER_QUESTION_TIMEOUT: Duration = Duration::from_secs(5);

/// Answers peers for as long as the node is there.
pub(crate) struct Peers(pub(crate) Weak<Core>);

impl Handler for Peers {
    fn handle(&self, from: PeerIdentity, message: Envelope, reply: Reply) {
        let Some(core) = self.0.upgrade() else {
            return reply.refuse(going_down());
        };
        let ours = core.identity().get().cluster;
        let member = from.cluster.is_some() && from.cluster == ours;
        if !member && !matches!(message.kind, DESCRIBE | PROPOSE | FOUNDED | JOIN) {
            let why = "only a member of the cluster may ask this";
            return reply.refuse(Refusal::new(REFUSED_STRANGER, why));
        }
        let Some((message, reply)) = core.groups.take(message, reply) else { return };
        if message.kind == CALL {
            return core.take_call(message.payload, reply);
        }
        if message.kind == PING {
            return reply.ok(Bytes::new());
        }
        // Ends with the node, which waits for it: a task that held on to the disks any longer would
        // keep a restart in the same process from opening them.
        core.clone().tasks.spawn(async move {
            let answered = tokio::select! {
                // No answer, and not a no: a command may stand in the log already.
                () = core.stop.cancelled() => return,
                answered = core.answer(from, message) => answered,
            };
            match answered {
                Ok(payload) => reply.ok(payload),
                Err(refusal) => reply.refuse(refusal),
            }
        });
    }

    fn handle_snapshot(
        &self,
        from: PeerIdentity,
        header: Envelope,
        chunks: SnapshotChunks,
    ) -> BoxFuture<'static, Result<Bytes, Refusal>> {
        let core = self.0.upgrade();
        async move {
            let Some(core) = core else {
                return Err(going_down());
            };
            let ours = core.identity().get().cluster;
            if from.cluster.is_none() || from.cluster != ours {
                let why = "only a member of the cluster may send snapshots";
                return Err(Refusal::new(REFUSED_STRANGER, why));
            }
            core.groups.take_snapshot(header, chunks).await
        }
        .boxed()
    }
}

/// Whether a node may still be part of any founding.
fn founds(identity: &Identity) -> Result<(), String> {
    match (identity.cluster, &identity.proposal) {
        (Some(cluster), _) => Err(format!("it belongs to cluster {cluster}")),
        (None, Some(_)) => Err("it has accepted another proposal".to_owned()),
        (None, None) => Ok(()),
    }
}

fn going_down() -> Refusal {
    Refusal::new(REFUSED_STRANGER, "this node is going down")
}

fn payload(cause: impl ToString) -> Refusal {
    Refusal::new(REFUSED_PAYLOAD, cause.to_string())
}

fn refused(cause: impl ToString) -> Refusal {
    Refusal::new(REFUSED, cause.to_string())
}

impl Core {
    /// Serves a call that another node sent on: the caller's key is checked here again, and the
    /// answer goes out from where it is made. Only a key not known here costs a task.
    fn take_call(self: Arc<Self>, bytes: Bytes, reply: Reply) {
        let call = match WireCall::decode(&bytes) {
            Ok(call) => call,
            Err(cause) => return reply.refuse(payload(cause)),
        };
        let need = match &call.op {
            Op::Write(_) => Need::Write,
            Op::Read(_) => Need::Read,
        };
        let sink: Sink = Box::new(move |result| reply.ok(encode_op_result(&result)));
        match self.glance(call.credential.as_ref(), call.project.as_ref(), need) {
            Glance::Sure(Ok(caller)) => {
                let WireCall { bucket, op, consistency, once, .. } = call;
                self.execute(&caller, bucket, op, consistency, once, sink);
            }
            // A project that is not here yet may be made, a key may be news: both take a question.
            Glance::Sure(Err(error)) if !matches!(error, Error::NotFound(_)) => sink(Err(error)),
            Glance::Sure(Err(_)) | Glance::Ask(_) => {
                self.clone().tasks.spawn(async move {
                    let admitted = tokio::select! {
                        () = self.stop.cancelled() => {
                            Err(Error::unavailable(Unavailable::Draining))
                        }
                        admitted =
                            self.admit(call.credential.as_ref(), call.project.as_ref(), need) => admitted,
                    };
                    match admitted {
                        Ok(caller) => {
                            let WireCall { bucket, op, consistency, once, .. } = call;
                            self.execute(&caller, bucket, op, consistency, once, sink);
                        }
                        Err(error) => sink(Err(error)),
                    }
                });
            }
        }
    }

    async fn answer(&self, from: PeerIdentity, message: Envelope) -> Result<Bytes, Refusal> {
        let deadline = Instant::now() + PEER_QUESTION_TIMEOUT;
        match message.kind {
            META => {
                let call = WireMeta::decode(&message.payload).map_err(payload)?;
                let credential = call.credential.as_ref();
                let result = self.meta_write_here(credential, call.command, deadline).await;
                Ok(encode_meta_result(&result))
            }
            KEY => {
                let hash = decode_key_question(&message.payload).map_err(payload)?;
                let index = self.key_index_here(hash, deadline).await.map_err(refused)?;
                Ok(encode_index_option(index))
            }
            APPLIED => {
                let (index, timeout) = decode_wait(&message.payload).map_err(payload)?;
                let until = Instant::now() + timeout.min(PEER_QUESTION_TIMEOUT);
                self.meta_applied(index, until).await.map_err(refused)?;
                Ok(Bytes::new())
            }
            DISK => {
                self.disks.hear(from.node, decode_level(&message.payload).map_err(payload)?);
                Ok(Bytes::new())
            }
            GOES_DOWN => {
                self.going_down.hear(from.node);
                Ok(Bytes::new())
            }
            SET_ASIDE => Ok(encode_replicas(&self.quarantine.replicas())),
            LED => Ok(encode_led(&self.led())),
            MEASURE => Ok(encode_measured(&self.measure().await)),
            FORGOTTEN => {
                let (group, replica) = decode_replica(&message.payload).map_err(payload)?;
                Ok(encode_bool(self.has_forgotten(group, replica, deadline).await))
            }
            LOST => {
                let leader = decode_node(&message.payload).map_err(payload)?;
                Ok(self.lost(leader).await.encode())
            }
            DESCRIBE => self.describe(),
            PROPOSE => self.hear_proposal(from, &message.payload),
            FOUNDED => {
                self.founded.notify_one();
                Ok(Bytes::new())
            }
            JOIN => self.let_in(from, &message.payload, deadline).await,
            kind => Err(payload(format!("no message is of kind {kind}"))),
        }
    }

    /// Says who this node is to one who would found a cluster with it, or why it would not: asked
    /// for before anybody has accepted anything, so that a proposal that can't succeed is not made.
    fn describe(&self) -> Result<Bytes, Refusal> {
        if self.joins_only {
            let why = "this node was told to join a cluster, not to found one";
            return Err(Refusal::new(REFUSED_JOINS, why));
        }
        match founds(self.identity().get()) {
            Ok(()) => Ok(Bytes::from(self.description.encode())),
            Err(why) => Err(refused(why)),
        }
    }

    /// Accepts a founding proposal, on disk before the answer, or says why not.
    fn hear_proposal(&self, from: PeerIdentity, bytes: &[u8]) -> Result<Bytes, Refusal> {
        let proposal = Proposal::decode(bytes).map_err(payload)?;
        if proposal.proposer != from.node {
            return Err(refused("only the proposer itself may ask for its proposal"));
        }
        if proposal.nodes.iter().all(|node| node.id != self.node) {
            return Err(refused("this node is not among the members proposed"));
        }
        if self.joins_only {
            return Err(refused("this node was told to join a cluster, not to found one"));
        }
        let mut identity = self.identity();
        let known = identity.get().clone();
        match judge(known.proposal.as_deref(), known.cluster, bytes) {
            Verdict::Refuse(why) => Err(refused(why)),
            Verdict::Accept { store: false } => Ok(Bytes::new()),
            Verdict::Accept { store: true } => {
                let stored = identity.update(|id| id.proposal = Some(bytes.to_vec()));
                stored.map_err(refused)?;
                Ok(Bytes::new())
            }
        }
    }

    /// Registers a node that asks to join, or a member that moved.
    async fn let_in(
        &self,
        from: PeerIdentity,
        bytes: &[u8],
        deadline: Instant,
    ) -> Result<Bytes, Refusal> {
        let guest = Description::decode(bytes).map_err(payload)?;
        if guest.id != from.node {
            return Err(refused("a node can only register itself"));
        }
        let state = self.meta.load_full();
        let Some(founding) = state.founding else {
            return Err(refused(Error::unavailable(Unavailable::Starting)));
        };
        let double = state.nodes.values().find(|n| n.name == guest.name && n.id != guest.id);
        if let Some(double) = double {
            self.lost_disks.hear(double.id);
        }
        // Nothing can be decided without that majority, and nobody should wait for it.
        if let Some((lost, why)) = self.quorum_lost()
            && lost.contains(&GroupId::META)
        {
            return Err(refused(why));
        }
        let Description { id, name, zone, addresses, weight, .. } = guest;
        let command = match double.map(|double| double.id) {
            // The meta leader refuses it while the other one answers.
            Some(gone) => {
                let at_ms = now_ms();
                MetaCommand::Replace { gone, id, name, zone, addresses, weight, at_ms }
            }
            None => MetaCommand::Register { id, name, zone, addresses, weight },
        };
        let (answer, index) = self.meta_write(None, command, deadline).await.map_err(refused)?;
        if answer == MetaAnswer::Gone {
            let why = format!(
                "node {id} was a member once and is not any more: others have what it had; started \
                 again, it sets its data aside and joins as a new node"
            );
            return Err(Refusal::new(REFUSED_GONE, why));
        }
        let MetaAnswer::Registered { meta_replica } = answer else {
            return Err(refused(format!("not registered: {answer:?}")));
        };
        let _ = self.meta_applied(index, deadline).await;
        let members = self.meta.load().nodes.values().cloned().collect::<Vec<_>>();
        let welcome = Welcome {
            cluster: founding.cluster,
            meta_replica,
            members: members.into_iter().map(|node| (node.id, node.addresses)).collect(),
        };
        Ok(welcome.encode())
    }
}
