//! Does what a caller asked in a bucket, where the shard is led.
//!
//! No task and no wait here: a write goes into the group's queue with a
//! closure that takes its outcome, a read waits for its round the same way ([`crate::reading`]). The closure
//! wakes the request, or puts the answer straight into a peer's out-buffer.

use stemedb_claims::AgentId;
use stemedb_machine::shard::{Answer, Command, Once, Write};
use stemedb_raft::{Group, Outcome, Written};
use stemedb_types::{BucketName, ProjectId};

use crate::core::{Core, now_ms};
use crate::front::{Caller, Consistency, Op, OpAnswer};
use crate::reading::{Asker, Question};
use crate::router::shard_of;
use crate::{Error, Unavailable};

/// Takes the result of a call, once.
pub(crate) type Sink = Box<dyn FnOnce(Result<OpAnswer, Error>) + Send>;

impl Core {
    /// The group that holds a bucket.
    pub(crate) fn group_of(
        &self,
        project: ProjectId,
        bucket: &BucketName,
    ) -> Result<stemedb_types::ShardId, Error> {
        let shards = self.meta.load().layout.shards.len();
        match u16::try_from(shards) {
            Ok(shards) if shards > 0 => Ok(shard_of(project, bucket, shards)),
            _ => Err(Error::unavailable(Unavailable::Starting)),
        }
    }

    /// Does what `caller` asked, if this node leads the bucket's shard, or holds it and has what a
    /// weaker read wants; `sink` is called once.
    pub(crate) fn execute(
        &self,
        caller: &Caller,
        bucket: BucketName,
        op: Op,
        consistency: Consistency,
        once: Option<Once>,
        sink: Sink,
    ) {
        match self.begin(caller, &bucket, &op) {
            Err(error) => sink(Err(error)),
            Ok((project, group)) => match op {
                Op::Write(write) => match self.has_room_for(&group, &write) {
                    Ok(()) => {
                        let at_ms = now_ms();
                        let command = Command { project, bucket, at_ms, write, once };
                        self.write(&group, &command, sink);
                    }
                    Err(error) => sink(Err(error)),
                },
                Op::Read(read) => {
                    let question = Question { group, project, bucket, read };
                    match self.read_as_it_is(&question, consistency) {
                        Some(result) => sink(result),
                        None => self.read_newest(question, Asker::Led, sink),
                    }
                }
            },
        }
    }

    fn begin(
        &self,
        caller: &Caller,
        bucket: &BucketName,
        op: &Op,
    ) -> Result<(ProjectId, Group), Error> {
        let Some((project, _)) = &caller.project else {
            return Err(Error::Internal("a data call without a project".to_owned()));
        };
        if let Op::Write(Write::Assert { items }) = op {
            let agent = AgentId::key(&caller.label).map_err(|e| Error::Malformed(e.to_string()))?;
            if items.iter().any(|item| item.agent != agent) {
                let why = "a statement can only be made in the caller's own name";
                return Err(Error::Forbidden(why.to_owned()));
            }
        }
        let shard = self.group_of(*project, bucket)?;
        match self.groups.get(shard.group()) {
            Some(group) => Ok((*project, group)),
            None => Err(Error::NotOwner { owner: None }),
        }
    }

    fn write(&self, group: &Group, command: &Command, sink: Sink) {
        let nodes = self.meta.load_full();
        let done = move |result| match result {
            Ok(Written { outcome: Outcome::Shard(answer), .. }) => {
                if matches!(answer, Answer::Replayed(_)) {
                    metrics::counter!("stemedb_idempotency_replays_total").increment(1);
                }
                sink(Ok(OpAnswer::Write(answer)));
            }
            // Not an answer we know, and applied all the same.
            Ok(_) => sink(Err(Error::OutcomeUnknown)),
            Err(error) => sink(Err(failed(error, &nodes))),
        };
        group.propose(command.encode(), Box::new(done));
    }
}

/// What a group's refusal means to a caller.
pub(crate) fn failed(
    error: stemedb_raft::Error,
    state: &stemedb_machine::meta::MetaState,
) -> Error {
    match error {
        stemedb_raft::Error::NotLeader { leader } => {
            let node = leader.and_then(|leader| state.nodes.get(&leader));
            Error::NotOwner { owner: node.map(|node| node.addresses.http.clone()) }
        }
        stemedb_raft::Error::NoQuorum => Error::unavailable(Unavailable::NoQuorum),
        stemedb_raft::Error::Overloaded => Error::unavailable(Unavailable::Overloaded),
        stemedb_raft::Error::Unknown => Error::OutcomeUnknown,
        stemedb_raft::Error::Stopped(_) => Error::unavailable(Unavailable::Draining),
        stemedb_raft::Error::Damaged(_) => Error::NotOwner { owner: None },
    }
}
