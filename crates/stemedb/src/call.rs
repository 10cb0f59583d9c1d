//! A data call at its origin: finds the owner, and tries again where that is safe.
//!
//! ```text
//! here ─► execute            there ─► one message with the caller's key ─► execute
//! a read, and a replica is here ─► read it here, as the leader confirms
//! ```
//!
//! Only the origin retries, inside the caller's deadline. Between two tries it waits for what it
//! lacks: another leader. A write is asked for again after an answer that says "not applied"; after
//! a lost answer only if it has a name ([`Once`]), because then whoever applies it knows whether it
//! was applied before. So the death of a leader costs such a caller nothing but time.
//!
//! A node that has gone silent ([`crate::liveness`]) is not asked, and an answer of it is not waited for
//! where the call may be made again: its connection may stand for seconds yet.
//!
//! What is not known to have failed is unknown, and stays so: once an answer was lost, a later "not
//! applied" speaks of the later try alone, and only an answer out of the state settles it.

use std::time::Duration;

use stemedb_machine::shard::Once;
use stemedb_raft::Evidence;
use stemedb_rpc::{Envelope, Lane};
use stemedb_types::{NodeId, ReplicaId, ShardId};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::core::{Core, Phase};
use crate::execute::Sink;
use crate::front::{Admission, Answered, Call, Consistency, Door, Op, OpAnswer};
use crate::reading::Asked;
use crate::router::{Route, route};
use crate::wire::{CALL, WireCall, decode_op_result};
use crate::{Error, Unavailable};

/// How long a call waits for a shard to get a leader before it is told that there is none.
const LEADERLESS_WAIT_MAX: Duration = Duration::from_secs(5);
/// How long at most until the route is looked at again, for changes that wake nobody: at first, doubled
/// each time, and in the end.
const REROUTE_MIN: Duration = Duration::from_millis(5);
const REROUTE_MAX: Duration = Duration::from_millis(50);
/// So often in a call another node is asked at once, because somebody named it or the layout does. Beyond it
/// they may send us round in circles.
const HOPS_MAX: u32 = 4;

/// For how long at most a named write is asked for again after its first lost answer: far less than
/// the answer of a first try is kept.
const REPEAT_MAX: Duration = Duration::from_secs(30);

/// No caller waits longer, whatever it says.
const DEADLINE_MAX: Duration = Duration::from_secs(3600);

/// What one try gave.
pub(crate) enum Tried {
    /// The caller's answer.
    Done(Result<OpAnswer, Error>, NodeId),
    /// Certainly not applied: another node may take it, the one that was named if any was.
    Elsewhere(Option<NodeId>),
}

impl Core {
    pub(crate) async fn call(&self, call: Call) -> Result<Answered, Error> {
        let Call { admission, door, deadline, bucket, op, consistency, once } = call;
        let begun = Instant::now();
        let deadline = begun + deadline.min(DEADLINE_MAX);
        let mut patience = deadline.min(begun + LEADERLESS_WAIT_MAX);
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
        // Until when it may be asked for again, from the first lost answer on.
        let mut doubtful: Option<Instant> = None;
        let (mut hops, mut reroute) = (0, REROUTE_MIN);
        loop {
            let route = self.live_route(shard, door);
            let as_a_follower = match &op {
                Op::Read(read) if route != Route::Here => {
                    self.try_as_a_follower(&asked, read).await
                }
                _ => None,
            };
            let tried = match (as_a_follower, route) {
                (Some(tried), _) => tried,
                (None, Route::Here) => {
                    let (bucket, op, once) = (bucket.clone(), op.clone(), once.clone());
                    self.try_here(&admission, bucket, op, once, deadline).await
                }
                // Without an address there is nobody to send the caller to.
                (None, Route::To(node)) if door == Door::Own => {
                    let error = match self.http_address(node) {
                        Some(owner) => Error::NotOwner { owner: Some(owner) },
                        None => Error::unavailable(Unavailable::NoQuorum),
                    };
                    Tried::Done(Err(error), self.node)
                }
                (None, Route::To(node)) => {
                    let wire = WireCall {
                        credential: admission.credential.clone(),
                        project: admission.caller.project.as_ref().map(|(_, name)| name.clone()),
                        deadline_ms: left_ms(deadline),
                        bucket: bucket.clone(),
                        op: op.clone(),
                        consistency: Consistency::Linearizable,
                        once: once.clone(),
                    };
                    self.try_there(node, wire, deadline).await
                }
                (None, Route::Nowhere) => Tried::Elsewhere(None),
            };
            let said = match tried {
                Tried::Done(Ok(answer), node) => {
                    return Ok(Answered { answer, served_by: self.name_of(node) });
                }
                Tried::Done(Err(Error::OutcomeUnknown), _) if once.is_some() => {
                    // Worth a longer wait than a call that may simply be made again.
                    let until = || deadline.min(Instant::now() + REPEAT_MAX);
                    patience = *doubtful.get_or_insert_with(until);
                    None
                }
                // Who is overloaded now may not be in a moment, and others are waited for anyway.
                Tried::Done(Err(Error::Unavailable { .. }), _) if doubtful.is_some() => None,
                // Another node led and was heard by no majority: whoever is heard leads in a moment. It was not
                // applied.
                Tried::Done(
                    Err(Error::Unavailable { reason: Unavailable::NoQuorum, .. }),
                    node,
                ) if node != self.node => None,
                Tried::Done(Err(error), _) => return Err(settled(error, doubtful)),
                Tried::Elsewhere(said) => said,
            };
            match route {
                Route::Here => self.learn(shard, self.node, said),
                Route::To(asked) => self.learn(shard, asked, said),
                Route::Nowhere => {}
            }
            if Instant::now() >= patience {
                return Err(settled(Error::unavailable(Unavailable::NoQuorum), doubtful));
            }
            // Where the one that did not serve it, or the replica here, knows of another by now.
            let next = self.live_route(shard, door);
            if hops < HOPS_MAX && next != route && next != Route::Nowhere {
                hops += 1;
                continue;
            }
            self.wait_for_leader(shard, patience.min(Instant::now() + reroute)).await;
            reroute = REROUTE_MAX.min(reroute * 2);
        }
    }

    /// The route, but not to a node that has gone silent. At its own door the caller is told of the owner,
    /// which it may reach.
    fn live_route(&self, shard: ShardId, door: Door) -> Route {
        match self.route(shard) {
            Route::To(node) if door != Door::Own && self.liveness.is_gone(node) => {
                self.learn(shard, node, None);
                Route::Nowhere
            }
            route => route,
        }
    }

    pub(crate) fn route(&self, shard: ShardId) -> Route {
        let seen = self.leadership(shard.group());
        let meta = self.meta.load();
        let owners = self.owners.load();
        if owners.is_of(&meta.layout) {
            return route(self.node, shard, seen, &owners);
        }
        self.owners.rcu(|owners| owners.at(self.node, &meta.layout));
        route(self.node, shard, seen, &self.owners.load())
    }

    /// Remembers that `asked` did not serve a shard, and whom it named.
    fn learn(&self, shard: ShardId, asked: NodeId, said: Option<NodeId>) {
        let meta = self.meta.load();
        self.owners.rcu(|owners| owners.after(self.node, &meta.layout, shard, asked, said));
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
        once: Option<Once>,
        deadline: Instant,
    ) -> Tried {
        let writes = matches!(op, Op::Write(_));
        let (tell, told) = oneshot::channel();
        let sink: Sink = Box::new(move |result| drop(tell.send(result)));
        self.execute(&admission.caller, bucket, op, Consistency::Linearizable, once, sink);
        let result = match timeout_at(deadline, told).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) | Err(_) => Err(unanswered(writes)),
        };
        self.settle(result, self.node)
    }

    pub(crate) async fn try_there(&self, node: NodeId, call: WireCall, deadline: Instant) -> Tried {
        let writes = matches!(call.op, Op::Write(_));
        let may_be_repeated = !writes || call.once.is_some();
        let plane = match self.plane() {
            Ok(plane) => plane,
            Err(error) => return Tried::Done(Err(error), self.node),
        };
        let nobody = ReplicaId(0);
        let group = stemedb_types::GroupId::META;
        let message =
            Envelope { group, from: nobody, to: nobody, kind: CALL, payload: call.encode() };
        let answer = tokio::select! {
            biased;
            answer = plane.request(node, Lane::Normal, message, deadline) => answer,
            () = self.liveness.lost(node), if may_be_repeated => {
                return match writes {
                    true => Tried::Done(Err(Error::OutcomeUnknown), node),
                    false => Tried::Elsewhere(None),
                };
            }
        };
        let result = match answer {
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

    /// Waits until the shard's leadership changes here, or until it is to be looked at again.
    async fn wait_for_leader(&self, shard: ShardId, until: Instant) {
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

/// What is true of a call that ends in an error: after a lost answer nobody knows, whatever the last
/// try says of itself.
fn settled(error: Error, doubtful: Option<Instant>) -> Error {
    if doubtful.is_some() { Error::OutcomeUnknown } else { error }
}

pub(crate) fn left_ms(deadline: Instant) -> u64 {
    let left = deadline.saturating_duration_since(Instant::now());
    u64::try_from(left.as_millis()).unwrap_or(u64::MAX)
}
