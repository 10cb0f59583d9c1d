//! Questions and commands for the meta group, from any node to its leader.

use std::time::Duration;

use futures_util::future::join_all;
use stemedb_machine::meta::{IfExists, KeyHash, MetaCommand, Role};
use stemedb_raft::{Leadership, Outcome, Written};
use stemedb_rpc::{Envelope, Lane, Link};
use stemedb_types::{GroupId, NodeId, ReplicaId};
use tokio::time::{Instant, timeout_at};

use bytes::Bytes;

use crate::auth::{Known, look_up, may_make};
use crate::core::Core;
use crate::execute::failed;
use crate::front::{Credential, Need};
use crate::options::Auth;
use crate::wire::{
    APPLIED, KEY, META, MetaResult, WireMeta, decode_index_option, decode_meta_result,
    encode_key_question, encode_wait,
};
use crate::{Error, Unavailable};

/// A member under whose name a blank node comes is given up once the meta leader has had no answer
/// from it for so long (decision 9).
const REPLACED_AFTER: Duration = Duration::from_secs(10);
/// How long at most until the leader is looked for again.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// What a node may have done in its own name, without a caller's key: it lets another in, it moves,
/// and it seeds its root key. Anything else without a key comes from a node that was started without auth.
fn of_a_node(command: &MetaCommand) -> bool {
    match command {
        MetaCommand::Register { .. } | MetaCommand::Replace { .. } => true,
        MetaCommand::CreateKey(key) => key.role == Role::Root && key.if_exists == IfExists::Add,
        _ => false,
    }
}

/// A member that has not applied a change after this long is silent.
const SILENT_AFTER: Duration = Duration::from_secs(5);

impl Core {
    /// Has a meta command applied, wherever the meta leader is. With a key, the leader checks it
    /// again. Answers with the index at which it is applied.
    pub(crate) async fn meta_write(
        &self,
        credential: Option<Credential>,
        command: MetaCommand,
        deadline: Instant,
    ) -> MetaResult {
        loop {
            let group = self.meta_group()?;
            let seen = *group.leadership().borrow();
            let result = match seen {
                Leadership::Here => {
                    self.meta_write_here(credential.as_ref(), command.clone(), deadline).await
                }
                Leadership::There(node) => {
                    let wire =
                        WireMeta { credential: credential.clone(), command: command.clone() };
                    self.meta_write_there(node, wire, deadline).await
                }
                Leadership::Unknown => Err(Error::NotOwner { owner: None }),
            };
            match result {
                Err(Error::NotOwner { .. }) if Instant::now() < deadline => {
                    let mut leadership = group.leadership();
                    leadership.borrow_and_update();
                    let until = deadline.min(Instant::now() + RETRY_INTERVAL);
                    let _ = timeout_at(until, leadership.changed()).await;
                }
                Err(Error::NotOwner { .. }) => {
                    return Err(Error::unavailable(Unavailable::NoQuorum));
                }
                result => return result,
            }
        }
    }

    /// Has a meta command applied by the replica here; it must lead.
    pub(crate) async fn meta_write_here(
        &self,
        credential: Option<&Credential>,
        command: MetaCommand,
        deadline: Instant,
    ) -> MetaResult {
        let group = self.meta_group()?;
        match (credential, &self.auth) {
            (Some(_), _) => self.may_command(credential, &command).await?,
            (None, Auth::On { .. }) if !of_a_node(&command) => return Err(Error::Unauthenticated),
            (None, _) => {}
        }
        // Until the entry is applied: two verdicts at once would each count on the other's node.
        let ends_a_member =
            matches!(command, MetaCommand::Remove { .. } | MetaCommand::Replace { .. });
        let _alone = match ends_a_member {
            true => match timeout_at(deadline, self.judging.lock()).await {
                Ok(alone) => Some(alone),
                Err(_) => return Err(Error::unavailable(Unavailable::Overloaded)),
            },
            false => None,
        };
        if ends_a_member && self.meta_index(&group, deadline).await.is_none() {
            return Err(Error::unavailable(Unavailable::NoQuorum));
        }
        if let MetaCommand::Replace { gone, name, .. } = &command
            && self.meta.load().nodes.contains_key(gone)
            && let Err(why) = self.may_be_replaced(*gone, REPLACED_AFTER).await
        {
            let why = format!("name-in-use: node {gone} is called {name} already, and {why}");
            return Err(Error::AlreadyExists(why));
        }
        // By command; whoever has been away for long is removed by the meta leader itself.
        if let MetaCommand::Remove { id, .. } = &command {
            self.may_be_removed(*id).await?;
        }
        // Whoever ends a key, moves or seeds its root key needs little, and can't wait.
        if matches!(command, MetaCommand::CreateKey(_)) && !of_a_node(&command) {
            self.has_room_for_keys(&group)?;
        }
        let outcome = match timeout_at(deadline, group.write(command.encode())).await {
            Ok(outcome) => outcome.map_err(|error| failed(error, &self.meta.load()))?,
            Err(_) => return Err(Error::OutcomeUnknown),
        };
        match outcome {
            Written { outcome: Outcome::Meta(answer), index } => Ok((answer, index)),
            // Not an answer we know, and applied all the same.
            _ => Err(Error::OutcomeUnknown),
        }
    }

    /// Whether the owner of a key may have this done, by what the leader knows.
    async fn may_command(
        &self,
        credential: Option<&Credential>,
        command: &MetaCommand,
    ) -> Result<(), Error> {
        let caller = self.admit(credential, None, Need::Administer).await?;
        let role = match command {
            MetaCommand::CreateKey(key) => Some(key.role),
            MetaCommand::RevokeKey { hash, .. } => {
                self.meta.load().keys.get(hash).map(|key| key.role)
            }
            _ => None,
        };
        role.map_or(Ok(()), |role| may_make(caller.role, role))
    }

    async fn meta_write_there(
        &self,
        node: NodeId,
        wire: WireMeta,
        deadline: Instant,
    ) -> MetaResult {
        match self.ask(node, META, wire.encode(), deadline).await {
            // An answer that does not read says nothing, and the command may have been applied.
            Ok(payload) => decode_meta_result(&payload).unwrap_or(Err(Error::OutcomeUnknown)),
            Err(stemedb_rpc::Error::NotSent(_) | stemedb_rpc::Error::Refused(_)) => {
                Err(Error::NotOwner { owner: None })
            }
            Err(_) => Err(Error::OutcomeUnknown),
        }
    }

    /// Asks a peer something that no replica is meant by.
    pub(crate) async fn ask(
        &self,
        node: NodeId,
        kind: stemedb_raft::Kind,
        payload: Bytes,
        deadline: Instant,
    ) -> Result<Bytes, stemedb_rpc::Error> {
        let nobody = ReplicaId(0);
        let message = Envelope { group: GroupId::META, from: nobody, to: nobody, kind, payload };
        match self.plane() {
            Ok(plane) => plane.request(node, Lane::Normal, message, deadline).await,
            Err(_) => Err(stemedb_rpc::Error::NotSent(stemedb_rpc::NotSent::Deadline)),
        }
    }

    /// The meta index at which a key is known to the meta leader, if it is.
    pub(crate) async fn key_index(
        &self,
        hash: KeyHash,
        deadline: Instant,
    ) -> Result<Option<u64>, Error> {
        let group = self.meta_group()?;
        let seen = *group.leadership().borrow();
        let no_quorum = || Error::unavailable(Unavailable::NoQuorum);
        match seen {
            Leadership::Here => self.key_index_here(hash, deadline).await,
            Leadership::There(node) => {
                let answer = self.ask(node, KEY, encode_key_question(&hash), deadline).await;
                let answer = answer.map_err(|_| no_quorum())?;
                decode_index_option(&answer).map_err(|cause| Error::Internal(cause.to_string()))
            }
            Leadership::Unknown => Err(no_quorum()),
        }
    }

    pub(crate) async fn key_index_here(
        &self,
        hash: KeyHash,
        deadline: Instant,
    ) -> Result<Option<u64>, Error> {
        let group = self.meta_group()?;
        let index = match timeout_at(deadline, group.confirm_read()).await {
            Ok(confirmed) => confirmed.map_err(|error| failed(error, &self.meta.load()))?,
            Err(_) => return Err(Error::unavailable(Unavailable::NoQuorum)),
        };
        let state = group.applied().meta().borrow().clone();
        Ok(match look_up(&state, &hash) {
            Known::Unknown => None,
            Known::Living(_) | Known::Revoked => Some(index),
        })
    }

    /// Waits until this node acts on the meta state of an index.
    pub(crate) async fn meta_applied(&self, index: u64, deadline: Instant) -> Result<(), Error> {
        let group = self.meta_group()?;
        let left = deadline.saturating_duration_since(Instant::now());
        group.wait_applied(index, left).await.map_err(|error| failed(error, &self.meta.load()))?;
        self.adopt(&group);
        Ok(())
    }

    /// Waits until every member acts on the meta state of an index, or has been silent for 5 s: a
    /// member that hears nothing of the meta group for so long lets nobody in by key.
    pub(crate) async fn meta_applied_everywhere(&self, index: u64) {
        let deadline = Instant::now() + SILENT_AFTER;
        let members: Vec<NodeId> = self.meta.load().nodes.keys().copied().collect();
        let waits = members.into_iter().map(|node| async move {
            if node == self.node {
                let _ = self.meta_applied(index, deadline).await;
            } else {
                self.meta_applied_at(node, index, deadline).await;
            }
        });
        join_all(waits).await;
    }

    /// Asks a member until it has applied an index. A lost link or answer is no silence yet.
    async fn meta_applied_at(&self, node: NodeId, index: u64, deadline: Instant) {
        let Ok(plane) = self.plane() else { return };
        let mut link = plane.link(node);
        while Instant::now() < deadline {
            let question = encode_wait(index, SILENT_AFTER);
            if self.ask(node, APPLIED, question, deadline).await.is_ok() {
                return;
            }
            let silent = match &*link.borrow_and_update() {
                Link::Up { .. } => false,
                Link::Down { since, .. } => since.elapsed() >= SILENT_AFTER,
            };
            if silent {
                return;
            }
            let _ = timeout_at(deadline.min(Instant::now() + RETRY_INTERVAL), link.changed()).await;
        }
    }
}
