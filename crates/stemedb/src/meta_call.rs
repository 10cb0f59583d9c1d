//! Questions and commands for the meta group, from any node to its leader.

use std::time::Duration;

use futures_util::future::join_all;
use stemedb_machine::meta::{KeyHash, MetaCommand};
use stemedb_raft::{Leadership, Outcome};
use stemedb_rpc::{Envelope, Lane};
use stemedb_types::{GroupId, NodeId, ReplicaId};
use tokio::time::{Instant, timeout_at};

use bytes::Bytes;

use crate::auth::{Known, look_up, may_make};
use crate::core::Core;
use crate::execute::failed;
use crate::front::{Credential, Need};
use crate::wire::{
    APPLIED, KEY, META, MetaResult, WireMeta, decode_index_option, decode_meta_result,
    encode_key_question, encode_wait,
};
use crate::{Error, Unavailable};

/// How long at most until the leader is looked for again.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
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
        if credential.is_some() {
            let caller = self.admit(credential, None, Need::Administer).await?;
            if let MetaCommand::CreateKey(key) = &command {
                may_make(caller.role, key.role)?;
            }
        }
        let group = self.meta_group()?;
        let outcome = match timeout_at(deadline, group.write(command.encode())).await {
            Ok(outcome) => outcome.map_err(|error| failed(error, &self.meta.load()))?,
            Err(_) => return Err(Error::OutcomeUnknown),
        };
        match outcome {
            Outcome::Meta(answer) => Ok((answer, group.position().applied.unwrap_or(0))),
            _ => Err(Error::Internal("the meta group gave no meta answer".to_owned())),
        }
    }

    async fn meta_write_there(
        &self,
        node: NodeId,
        wire: WireMeta,
        deadline: Instant,
    ) -> MetaResult {
        match self.ask(node, META, wire.encode(), deadline).await {
            Ok(payload) => decode_meta_result(&payload)
                .unwrap_or_else(|cause| Err(Error::Internal(format!("a peer's answer: {cause}")))),
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

    /// Waits until every living member acts on the meta state of an index, or has been silent for
    /// 5 s.
    pub(crate) async fn meta_applied_everywhere(&self, index: u64) {
        let deadline = Instant::now() + SILENT_AFTER;
        let members: Vec<NodeId> = self.meta.load().nodes.keys().copied().collect();
        let waits = members.into_iter().map(|node| async move {
            if node == self.node {
                let _ = self.meta_applied(index, deadline).await;
            } else {
                let _ = self.ask(node, APPLIED, encode_wait(index, SILENT_AFTER), deadline).await;
            }
        });
        join_all(waits).await;
    }
}
