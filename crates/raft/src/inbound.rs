//! What a peer sends to a group.
//!
//! A message names the replica it is for. If this node holds another replica of the
//! group, or none, the message is refused by number and never answered in its
//! stead: a replica that left and came back has forgotten its vote (decision 9a).

use bytes::Bytes;
use stemedb_rpc::{Envelope, Refusal, Reply};

use crate::codec::{
    decode_append, decode_offer, decode_transfer, decode_vote_request, encode_append_response,
    encode_offer_answer, encode_read_index, encode_vote_response,
};
use crate::group::Group;
use crate::lease::promise;
use crate::runtime::spawn;

/// What a message's payload is.
pub type Kind = u8;

/// The kinds of this crate; the façade's begin at 32.
pub mod kinds {
    /// Append entries, or a heartbeat.
    pub const APPEND: super::Kind = 1;
    /// Ask for a vote.
    pub const VOTE: super::Kind = 2;
    /// Ask whether one would vote.
    pub const PRE_VOTE: super::Kind = 3;
    /// Take over the leadership.
    pub const TRANSFER: super::Kind = 4;
    /// A snapshot's header.
    pub const SNAPSHOT: super::Kind = 5;
    /// Ask what a replica wants of a snapshot.
    pub const OFFER: super::Kind = 6;
    /// Ask the leader for an index that a quorum confirms.
    pub const READ_INDEX: super::Kind = 7;
    /// The first kind that is not ours.
    pub const FIRST_OTHER: super::Kind = 32;
}

/// The replica the message is for is not here.
pub(crate) const REFUSED_REPLICA: u8 = 1;
/// The payload does not decode.
pub(crate) const REFUSED_PAYLOAD: u8 = 2;
/// The group has stopped.
pub(crate) const REFUSED_STOPPED: u8 = 3;

/// This node's disks have no room. As if the message had been lost: the leader sends it again.
pub(crate) const REFUSED_FULL: u8 = 4;
/// This replica does not vote yet: in an earlier life it may have promised not to.
pub(crate) const REFUSED_PROMISED: u8 = 5;

pub(crate) fn not_here(message: &Envelope) -> Refusal {
    let Envelope { group, to, .. } = message;
    Refusal::new(REFUSED_REPLICA, format!("replica {to} of group {group} is not here"))
}

pub(crate) fn broken(cause: impl ToString) -> Refusal {
    Refusal::new(REFUSED_PAYLOAD, cause.to_string())
}

pub(crate) fn full() -> Refusal {
    Refusal::new(REFUSED_FULL, "this node's disks are full")
}

fn promised() -> Refusal {
    Refusal::new(
        REFUSED_PROMISED,
        "this replica has just started, and may have promised not to vote",
    )
}

pub(crate) fn stopped(cause: impl ToString) -> Refusal {
    Refusal::new(REFUSED_STOPPED, cause.to_string())
}

impl Group {
    /// Takes a message for this replica; the reply goes out when openraft has answered.
    pub(crate) fn take(&self, message: Envelope, reply: Reply) {
        let group = self.clone();
        spawn(async move {
            match group.answer(message).await {
                Ok(answer) => reply.ok(answer),
                Err(refusal) => reply.refuse(refusal),
            }
        });
    }

    async fn answer(&self, message: Envelope) -> Result<Bytes, Refusal> {
        let payload = &message.payload;
        match message.kind {
            kinds::APPEND => {
                let request = decode_append(payload).map_err(broken)?;
                if !request.entries.is_empty() && !self.space.takes_entries() {
                    return Err(full());
                }
                let answer = self.raft.append_entries(request).await.map_err(stopped)?;
                let answer = encode_append_response(&answer);
                Ok(if self.leases.are_on() { promise(answer) } else { answer })
            }
            kinds::VOTE => {
                let mut request = decode_vote_request(payload).map_err(broken)?;
                if self.leases.holds_votes().is_some() {
                    return Err(promised());
                }
                // The word for "the leader itself wants this": that it is gone will do as well.
                request.leadership_transfer |= self.lost_its_leader();
                let answer = self.raft.vote(request).await.map_err(stopped)?;
                if answer.vote_granted {
                    // Whoever gets this vote may lead as soon as it hears of it: a leader that was
                    // deposed and votes has no lease any more, whatever its clocks say.
                    self.leases.give_up(answer.vote.leader_id.term.saturating_sub(1));
                }
                Ok(encode_vote_response(&answer))
            }
            kinds::PRE_VOTE => {
                let request = decode_vote_request(payload).map_err(broken)?;
                if self.leases.holds_votes().is_some() {
                    return Err(promised());
                }
                let answer = self.raft.pre_vote(request).await.map_err(stopped)?;
                Ok(encode_vote_response(&answer))
            }
            kinds::TRANSFER => {
                let request = decode_transfer(payload).map_err(broken)?;
                // A refused transfer is a lost opportunity, nothing more.
                let _ = self.raft.handle_transfer_leader(request).await.map_err(stopped)?;
                Ok(Bytes::new())
            }
            kinds::READ_INDEX => Ok(encode_read_index(&self.read_index_for_another().await)),
            kinds::OFFER => {
                let offer = decode_offer(payload).map_err(broken)?;
                Ok(encode_offer_answer(&self.take_offer(offer).await?))
            }
            kind => Err(broken(format!("no message is of kind {kind}"))),
        }
    }
}
