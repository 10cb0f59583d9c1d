//! Reads: from the leader, from a replica that asks the leader, and from one that asks nobody.
//!
//! ```text
//! newest    the leader: a quorum round (or its lease) ─► its rows
//!           another replica: the leader's read index ─► applied here ─► its rows
//! session   a replica that has come as far as the caller has seen ─► its rows; else as newest
//! stale     any replica ─► its rows, and how old they may be
//! ```
//!
//! A node that holds a replica and does not lead it serves reads itself. What crosses is then one small
//! question for all reads that wait, instead of every key in one direction and every value in the
//! other, and the leader neither looks up nor sends anything (ADR 23). If its replica does not come to the
//! index soon, the gateway sends the read on to the leader as before; the node's own port has nowhere
//! to send it and waits as long as the caller does.
//!
//! What a read found under a lease is looked at twice: the lease must hold after it. Else the value
//! is thrown away, and a quorum is asked.

use std::time::Duration;

use stemedb_machine::Error as MachineError;
use stemedb_machine::shard::{Read, ReadAnswer, View, read};
use stemedb_raft::{Damage, Group, Leadership, Part, Permit};
use stemedb_types::{BucketName, NodeId, ProjectId, Revision, ShardId};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::call::{Tried, left_ms};
use crate::core::{Core, locked};
use crate::damage::{Finding, Findings};
use crate::execute::{Sink, failed};
use crate::front::{Admission, Answered, Consistency, Door, Op, OpAnswer, Served};
use crate::router::Route;
use crate::wire::WireCall;
use crate::{Error, Unavailable};

/// How long a read at the gateway waits for the replica here before it is sent on to the leader.
const HERE_MAX: Duration = Duration::from_millis(250);
/// How long a session read waits for the replica here to come to what the caller has seen. What is
/// missing is mostly on its way; if not, asking the leader takes no longer.
const SESSION_WAIT_MAX: Duration = Duration::from_millis(50);
/// A stale answer older than this has the replica prove itself anew, behind the answer.
const REFRESHED_AFTER: Duration = Duration::from_millis(500);

/// A read and the replica that is to answer it.
#[derive(Clone)]
pub(crate) struct Question {
    pub(crate) group: Group,
    pub(crate) project: ProjectId,
    pub(crate) bucket: BucketName,
    pub(crate) read: Read,
}

/// Where the newest may be read.
#[derive(Clone, Copy)]
pub(crate) enum Asker {
    /// Where the group is led, and nowhere else.
    Led,
    /// At any replica, which waits until then.
    Any(Instant),
}

/// A read as it came to this node.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) admission: &'a Admission,
    pub(crate) door: Door,
    pub(crate) deadline: Instant,
    pub(crate) shard: ShardId,
    pub(crate) bucket: &'a BucketName,
}

impl Question {
    /// What the replica has, whatever it is.
    fn look(&self, findings: &Findings) -> Result<ReadAnswer, Error> {
        let Self { group, project, bucket, read: question } = self;
        let found = read(&group.applied().store(), *project, bucket, question);
        let found = found.map_err(|error| self.not_read(error, findings));
        self.unless_closing(found)
    }

    /// How far the bucket is here.
    fn revision(&self, findings: &Findings) -> Result<Revision, Error> {
        let found = self.group.applied().store().bucket(self.project, &self.bucket);
        let state = found.map_err(|error| self.not_read(error, findings))?;
        self.unless_closing(Ok(state.map_or(Revision(0), |state| state.revision)))
    }

    /// A replica that leaves is closed, then its rows go: what was read meanwhile may be a part of them.
    fn unless_closing<T>(&self, found: Result<T, Error>) -> Result<T, Error> {
        if self.group.is_closing() { Err(Error::NotOwner { owner: None }) } else { found }
    }

    fn not_read(&self, error: MachineError, findings: &Findings) -> Error {
        match error {
            // Not served from here again: another replica has it.
            MachineError::Damaged(cause) => {
                let damage = Damage { part: Part::Store, cause };
                let (group, replica) = (self.group.id(), self.group.replica());
                findings.report(Finding { group, replica, damage });
                Error::NotOwner { owner: None }
            }
            error => Error::Internal(error.to_string()),
        }
    }
}

impl Core {
    /// Reads what is newest, once that is confirmed; `sink` is called once.
    pub(crate) fn read_newest(&self, question: Question, asker: Asker, sink: Sink) {
        let (nodes, findings) = (self.meta.load_full(), self.findings.clone());
        let group = question.group.clone();
        let done = move |permitted: Result<Permit, stemedb_raft::Error>| {
            let permit = match permitted {
                Ok(permit) => permit,
                Err(error) => return sink(Err(failed(error, &nodes))),
            };
            let found = question.look(&findings);
            if permit.holds() {
                return sink(found.map(OpAnswer::Read));
            }
            metrics::counter!("stemedb_lease_reads_discarded_total").increment(1);
            let group = question.group.clone();
            group.confirm_read_then(Box::new(move |confirmed| match confirmed {
                Ok(_) => sink(question.look(&findings).map(OpAnswer::Read)),
                Err(error) => sink(Err(failed(error, &nodes))),
            }));
        };
        match asker {
            Asker::Led => group.permit_led_read_then(Box::new(done)),
            Asker::Any(until) => group.permit_read_then(until, Box::new(done)),
        }
    }

    /// Answers a weaker read from the replica here, if that has what is asked for.
    pub(crate) fn read_as_it_is(
        &self,
        question: &Question,
        consistency: Consistency,
    ) -> Option<Result<OpAnswer, Error>> {
        let served = match consistency {
            Consistency::Linearizable => return None,
            Consistency::Session { seen } => match question.revision(&self.findings) {
                Ok(revision) if revision >= seen => Served::Session,
                Ok(_) => return None,
                Err(error) => return Some(Err(error)),
            },
            // What this node knows of itself is too old to say anything by.
            Consistency::Stale if self.meta_is_silent() => {
                return Some(Err(Error::unavailable(Unavailable::NoQuorum)));
            }
            Consistency::Stale => {
                // Taken before the rows are: these can only be newer.
                let age = question.group.age()?;
                if age > REFRESHED_AFTER {
                    question.group.refresh();
                }
                Served::Stale { age_ms: whole_ms(age) }
            }
        };
        match question.look(&self.findings) {
            // A revision that is not here may be elsewhere: only who has the newest can say.
            Ok(ReadAnswer::Compacted { .. }) => None,
            found => Some(found.map(|answer| OpAnswer::Weaker(answer, served))),
        }
    }

    /// A weaker read at its origin: from the replica here, or from any other. `None`: it has to be
    /// as strong as any.
    pub(crate) async fn read_weaker(
        &self,
        asked: &Asked<'_>,
        read: &Read,
        consistency: Consistency,
    ) -> Option<Result<Answered, Error>> {
        let Some(group) = self.groups.get(asked.shard.group()) else {
            return match asked.door {
                Door::Own => None,
                Door::Gateway => self.read_weaker_there(asked, read, consistency).await,
            };
        };
        let project = asked.admission.caller.project.as_ref().map(|(project, _)| *project)?;
        let (bucket, read) = (asked.bucket.clone(), read.clone());
        let question = Question { group, project, bucket, read };
        let answered = match consistency {
            Consistency::Session { .. } => {
                let until = asked.deadline.min(Instant::now() + SESSION_WAIT_MAX);
                self.wait_for_session(&question, consistency, until).await
            }
            _ => self.read_as_it_is(&question, consistency),
        };
        match self.settle(answered?, self.node) {
            Tried::Done(answer, node) => {
                let served_by = self.name_of(node);
                Some(answer.map(|answer| Answered { answer, served_by }))
            }
            Tried::Elsewhere(_) => None,
        }
    }

    /// Looks again whenever something was applied.
    async fn wait_for_session(
        &self,
        question: &Question,
        consistency: Consistency,
        until: Instant,
    ) -> Option<Result<OpAnswer, Error>> {
        let mut seen = 0;
        loop {
            // Before the look: what is applied during it is looked at again.
            seen = match timeout_at(until, question.group.applied_beyond(seen)).await {
                Ok(Ok(seen)) => seen,
                Ok(Err(_)) | Err(_) => return self.read_as_it_is(question, consistency),
            };
            if let Some(answered) = self.read_as_it_is(question, consistency) {
                return Some(answered);
            }
        }
    }

    /// Sends a weaker read to the nodes that hold the shard, one after another.
    async fn read_weaker_there(
        &self,
        asked: &Asked<'_>,
        read: &Read,
        consistency: Consistency,
    ) -> Option<Result<Answered, Error>> {
        for node in self.nodes_that_hold(asked.shard) {
            let wire = WireCall {
                credential: asked.admission.credential.clone(),
                project: asked.admission.caller.project.as_ref().map(|(_, name)| name.clone()),
                deadline_ms: left_ms(asked.deadline),
                bucket: asked.bucket.clone(),
                op: Op::Read(read.clone()),
                consistency,
                once: None,
            };
            let sent = Instant::now();
            let until = asked.deadline.min(sent + HERE_MAX);
            if let Tried::Done(Ok(answer), node) = self.try_there(node, wire, until).await {
                let (answer, served_by) = (older(answer, sent.elapsed()), self.name_of(node));
                return Some(Ok(Answered { answer, served_by }));
            }
        }
        None
    }

    /// The nodes that hold a shard, whoever is thought to lead it first.
    fn nodes_that_hold(&self, shard: ShardId) -> Vec<NodeId> {
        let state = self.meta.load();
        let replicas = state.layout.replicas(shard.group()).unwrap_or_default();
        let mut holders: Vec<NodeId> = replicas.iter().map(|replica| replica.node).collect();
        holders.retain(|node| *node != self.node);
        if let Route::To(leader) = self.route(shard) {
            holders.sort_by_key(|node| *node != leader);
        }
        holders
    }

    /// Reads what is newest from a replica here that does not lead. `None`: there is none, or it
    /// did not come so far and the door sends on.
    pub(crate) async fn try_as_a_follower(&self, asked: &Asked<'_>, read: &Read) -> Option<Tried> {
        let group = self.groups.get(asked.shard.group())?;
        // One that has far to go would only keep the caller waiting.
        if asked.door == Door::Gateway && !locked(&self.caught_up).contains(&group.id()) {
            return None;
        }
        let leads = match *group.leadership().borrow() {
            Leadership::Here => return None,
            Leadership::There(_) => true,
            Leadership::Unknown => false,
        };
        if !leads {
            return match asked.door {
                Door::Own => Some(Tried::Elsewhere(None)),
                Door::Gateway => None,
            };
        }
        let project = asked.admission.caller.project.as_ref().map(|(project, _)| *project)?;
        let until = match asked.door {
            Door::Own => asked.deadline,
            Door::Gateway => asked.deadline.min(Instant::now() + HERE_MAX),
        };
        let (bucket, read) = (asked.bucket.clone(), read.clone());
        let question = Question { group, project, bucket, read };
        let (tell, told) = oneshot::channel();
        let sink: Sink = Box::new(move |result| drop(tell.send(result)));
        self.read_newest(question, Asker::Any(until), sink);
        let told = timeout_at(until, told).await;
        let result = match (told, asked.door) {
            (Ok(Ok(result)), _) => result,
            (Ok(Err(_)), _) => Err(Error::NotOwner { owner: None }),
            (Err(_), Door::Own) => Err(Error::unavailable(Unavailable::NoQuorum)),
            (Err(_), Door::Gateway) => return None,
        };
        match self.settle(result, self.node) {
            // The leader may do better.
            Tried::Done(Err(Error::Unavailable { .. }), _) | Tried::Elsewhere(_)
                if asked.door == Door::Gateway =>
            {
                None
            }
            tried => Some(tried),
        }
    }
}

/// An answer that took so long to come here.
fn older(answer: OpAnswer, by: Duration) -> OpAnswer {
    match answer {
        OpAnswer::Weaker(answer, Served::Stale { age_ms }) => {
            let age_ms = age_ms.saturating_add(whole_ms(by));
            OpAnswer::Weaker(answer, Served::Stale { age_ms })
        }
        answer => answer,
    }
}

/// A bound in ms: rounded up.
fn whole_ms(age: Duration) -> u64 {
    u64::try_from(age.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_rounded_up_and_the_way_of_an_answer_is_added() {
        assert_eq!(whole_ms(Duration::ZERO), 0);
        assert_eq!(whole_ms(Duration::from_nanos(1)), 1);
        assert_eq!(whole_ms(Duration::from_millis(7)), 7);
        let found = ReadAnswer::Value { revision: Revision(1), version: None };
        let stale = |age_ms| OpAnswer::Weaker(found.clone(), Served::Stale { age_ms });
        assert_eq!(older(stale(5), Duration::from_micros(1500)), stale(7));
        let session = OpAnswer::Weaker(found.clone(), Served::Session);
        assert_eq!(older(session.clone(), Duration::from_secs(1)), session);
    }
}
