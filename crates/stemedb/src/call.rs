//! A data call at its origin: finds the owner, and tries again where that is safe.
//!
//! ```text
//! here ─► execute            there ─► one message with the caller's key ─► execute
//! a read, and a replica is here ─► read it here, as the leader confirms
//! ```
//!
//! Only the origin retries, inside the caller's deadline, and a write only after an
//! answer that says "not applied". Between two tries it waits for what it
//! lacks: another leader. What is not known to have failed is unknown.

use std::time::Duration;

use stemedb_rpc::{Envelope, Lane};
use stemedb_types::{NodeId, ReplicaId, ShardId};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::core::{Core, Phase, locked};
use crate::execute::Sink;
use crate::front::{Admission, Answered, Call, Consistency, Door, Op, OpAnswer};
use crate::reading::Asked;
use crate::router::{Route, route};
use crate::wire::{CALL, WireCall, decode_op_result};
use crate::{Error, Unavailable};

/// How long a call waits for a shard to get a leader before it is told that there is none.
const LEADERLESS_WAIT_MAX: Duration = Duration::from_secs(5);
/// How long at most until the route is looked at again, for changes that wake nobody.
const REROUTE_INTERVAL: Duration = Duration::from_millis(50);

/// No caller waits longer, whatever it says.
const DEADLINE_MAX: Duration = Duration::from_secs(3600);

/// What one try gave.
pub(crate) enum Tried {
    /// The caller's answer.
    Done(Result<OpAnswer, Error>, NodeId),
    /// Certainly not applied: another node may take it.
    Elsewhere(Option<NodeId>),
}

impl Core {
    pub(crate) async fn call(&self, call: Call) -> Result<Answered, Error> {
        let Call { admission, door, deadline, bucket, op, consistency } = call;
        let begun = Instant::now();
        let deadline = begun + deadline.min(DEADLINE_MAX);
        let patience = deadline.min(begun + LEADERLESS_WAIT_MAX);
        let Some((project, _)) = &admission.caller.project else {
            return Err(Error::Internal("a data call without a project".to_owned()));
        };
        let shard = self.group_of(*project, &bucket)?;
        let asked = Asked { admission: &admission, door, deadline, shard, bucket: &bucket };
        if let Op::Read(read) = &op
            && consistency != Consistency::Linearizable
            && let Some(answered) = self.read_weaker(&asked, read, consistency).await
        {
            return answered;
        }
        loop {
            let route = self.route(shard);
            let as_a_follower = match &op {
                Op::Read(read) if route != Route::Here => {
                    self.try_as_a_follower(&asked, read).await
                }
                _ => None,
            };
            let tried = match (as_a_follower, route) {
                (Some(tried), _) => tried,
                (None, Route::Here) => {
                    self.try_here(&admission, bucket.clone(), op.clone(), deadline).await
                }
                // Without an address there is nobody to send the caller to.
                (None, Route::To(node)) if door == Door::Own => {
                    return Err(match self.http_address(node) {
                        Some(owner) => Error::NotOwner { owner: Some(owner) },
                        None => Error::unavailable(Unavailable::NoQuorum),
                    });
                }
                (None, Route::To(node)) => {
                    let wire = WireCall {
                        credential: admission.credential.clone(),
                        project: admission.caller.project.as_ref().map(|(_, name)| name.clone()),
                        deadline_ms: left_ms(deadline),
                        bucket: bucket.clone(),
                        op: op.clone(),
                        consistency: Consistency::Linearizable,
                    };
                    self.try_there(node, wire, deadline).await
                }
                (None, Route::Nowhere) => Tried::Elsewhere(None),
            };
            match tried {
                Tried::Done(answer, node) => {
                    let served_by = self.name_of(node);
                    return answer.map(|answer| Answered { answer, served_by });
                }
                Tried::Elsewhere(hint) => {
                    self.learn(shard, hint);
                    if Instant::now() >= patience {
                        return Err(Error::unavailable(Unavailable::NoQuorum));
                    }
                    self.wait_for_leader(shard, patience).await;
                }
            }
        }
    }

    pub(crate) fn route(&self, shard: ShardId) -> Route {
        let seen = self.leadership(shard.group());
        let hint = locked(&self.hints).get(&shard).copied();
        route(self.node, shard, seen, hint, &self.meta.load().layout)
    }

    fn learn(&self, shard: ShardId, hint: Option<NodeId>) {
        let mut hints = locked(&self.hints);
        match hint {
            Some(node) => hints.insert(shard, node),
            None => hints.remove(&shard),
        };
    }

    pub(crate) fn name_of(&self, node: NodeId) -> String {
        if node == self.node {
            return self.description.name.clone();
        }
        let state = self.meta.load();
        state.nodes.get(&node).map_or_else(|| node.to_string(), |node| node.name.clone())
    }

    async fn try_here(
        &self,
        admission: &Admission,
        bucket: stemedb_types::BucketName,
        op: Op,
        deadline: Instant,
    ) -> Tried {
        let writes = matches!(op, Op::Write(_));
        let (tell, told) = oneshot::channel();
        let sink: Sink = Box::new(move |result| drop(tell.send(result)));
        self.execute(&admission.caller, bucket, op, Consistency::Linearizable, sink);
        let result = match timeout_at(deadline, told).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) | Err(_) => Err(unanswered(writes)),
        };
        self.settle(result, self.node)
    }

    pub(crate) async fn try_there(&self, node: NodeId, call: WireCall, deadline: Instant) -> Tried {
        let writes = matches!(call.op, Op::Write(_));
        let plane = match self.plane() {
            Ok(plane) => plane,
            Err(error) => return Tried::Done(Err(error), self.node),
        };
        let nobody = ReplicaId(0);
        let group = stemedb_types::GroupId::META;
        let message =
            Envelope { group, from: nobody, to: nobody, kind: CALL, payload: call.encode() };
        let result = match plane.request(node, Lane::Normal, message, deadline).await {
            Ok(payload) => decode_op_result(&payload).unwrap_or_else(|cause| {
                tracing::warn!(%node, %cause, "a peer's answer does not read");
                // Whatever it says, the write may have been applied.
                Err(if writes { Error::OutcomeUnknown } else { Error::Internal(cause.to_string()) })
            }),
            Err(stemedb_rpc::Error::NotSent(cause @ stemedb_rpc::NotSent::TooLarge { .. })) => {
                Err(Error::Malformed(cause.to_string()))
            }
            Err(stemedb_rpc::Error::NotSent(stemedb_rpc::NotSent::QueueFull)) => {
                Err(Error::unavailable(Unavailable::Overloaded))
            }
            Err(stemedb_rpc::Error::NotSent(_)) => return Tried::Elsewhere(None),
            // A refusal comes before anything is done.
            Err(stemedb_rpc::Error::Refused(_)) => return Tried::Elsewhere(None),
            // A read may be asked again; a write may stand in a log.
            Err(_) if !writes && Instant::now() < deadline => return Tried::Elsewhere(None),
            Err(_) => Err(unanswered(writes)),
        };
        self.settle(result, node)
    }

    pub(crate) fn settle(&self, result: Result<OpAnswer, Error>, node: NodeId) -> Tried {
        match result {
            Err(Error::NotOwner { owner }) => {
                Tried::Elsewhere(owner.and_then(|owner| self.node_at(&owner)))
            }
            // It can't be done there: that node starts or goes down, or the replica here was just
            // closed. Not applied, so another may.
            Err(Error::Unavailable { reason, .. })
                if (node != self.node || *self.phase.borrow() != Phase::Draining)
                    && matches!(reason, Unavailable::Starting | Unavailable::Draining) =>
            {
                Tried::Elsewhere(None)
            }
            result => Tried::Done(result, node),
        }
    }

    /// Waits until the shard's leadership changes here, or long enough to look again.
    async fn wait_for_leader(&self, shard: ShardId, patience: Instant) {
        let until = patience.min(Instant::now() + REROUTE_INTERVAL);
        if let Some(group) = self.groups.get(shard.group()) {
            let mut leadership = group.leadership();
            leadership.borrow_and_update();
            let _ = timeout_at(until, leadership.changed()).await;
        } else {
            tokio::time::sleep_until(until).await;
        }
    }
}

/// No answer in time: a read has none, a write may have been applied.
fn unanswered(writes: bool) -> Error {
    if writes { Error::OutcomeUnknown } else { Error::unavailable(Unavailable::NoQuorum) }
}

pub(crate) fn left_ms(deadline: Instant) -> u64 {
    let left = deadline.saturating_duration_since(Instant::now());
    u64::try_from(left.as_millis()).unwrap_or(u64::MAX)
}
