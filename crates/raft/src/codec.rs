//! Our bytes of openraft's words: on disk and between peers.
//!
//! openraft's own encodings change with its releases; these do not. Everything
//! opens with a version byte where it stands alone (a log record, a vote, an
//! applied mark, a message's payload).

use bytes::Bytes;
use openraft::entry::RaftEntry;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    VoteRequest, VoteResponse,
};
use openraft::vote::RaftLeaderId;
use std::collections::{BTreeMap, BTreeSet};
use stemedb_engine::SnapshotId;
use stemedb_types::{DecodeError, Decoder, Encoder, NodeId};

use crate::Error;
use crate::types::{
    CommandBytes, Config, Entry, Holder, LogId, Membership, Payload, StoredMembership, Vote, log_id,
};

/// More entries than this are made room for as they come, not because a count says so.
const ENTRIES_EXPECTED: usize = 1024;

/// Version of every format in this file.
const VERSION: u8 = 1;

const BLANK: u8 = 0;
const NORMAL: u8 = 1;
const MEMBERSHIP: u8 = 2;

fn put_log_id(out: &mut Encoder, id: &LogId) {
    out.varint(id.committed_leader_id().term);
    out.varint(id.index());
}

fn take_log_id(from: &mut Decoder<'_>) -> Result<LogId, DecodeError> {
    Ok(log_id(from.varint()?, from.varint()?))
}

fn put_log_id_option(out: &mut Encoder, id: &Option<LogId>) {
    out.option(id.as_ref(), put_log_id);
}

fn take_log_id_option(from: &mut Decoder<'_>) -> Result<Option<LogId>, DecodeError> {
    from.option(take_log_id)
}

fn put_vote(out: &mut Encoder, vote: &Vote) {
    out.varint(vote.leader_id.term);
    out.varint(vote.leader_id.voted_for);
    out.bool(vote.committed);
}

fn take_vote(from: &mut Decoder<'_>) -> Result<Vote, DecodeError> {
    let term = from.varint()?;
    let voted_for = from.varint()?;
    let committed = from.bool()?;
    Ok(Vote { leader_id: RaftLeaderId::new(term, voted_for), committed })
}

fn put_membership(out: &mut Encoder, membership: &Membership) {
    let configs = membership.get_joint_config();
    out.varint(configs.len() as u64);
    for voters in configs {
        out.varint(voters.len() as u64);
        for voter in voters {
            out.varint(*voter);
        }
    }
    let holders: Vec<_> = membership.nodes().collect();
    out.varint(holders.len() as u64);
    for (replica, holder) in holders {
        out.varint(*replica);
        out.u64(holder.0.0);
    }
}

fn take_membership(from: &mut Decoder<'_>) -> Result<Membership, DecodeError> {
    let count = from.length(1)?;
    let mut configs = Vec::with_capacity(count);
    for _ in 0..count {
        let voters = from.length(1)?;
        configs.push((0..voters).map(|_| from.varint()).collect::<Result<BTreeSet<_>, _>>()?);
    }
    let count = from.length(9)?;
    let mut holders = BTreeMap::new();
    for _ in 0..count {
        holders.insert(from.varint()?, Holder(NodeId(from.u64()?)));
    }
    if configs.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(configs, holders)
        .map_err(|_| DecodeError::Value { what: "a membership", got: count as u64 })
}

fn put_payload(out: &mut Encoder, payload: &Payload) {
    match payload {
        Payload::Blank => out.u8(BLANK),
        Payload::Normal(command) => {
            out.u8(NORMAL);
            out.bytes(&command.0);
        }
        Payload::Membership(membership) => {
            out.u8(MEMBERSHIP);
            put_membership(out, membership);
        }
    }
}

fn take_payload(from: &mut Decoder<'_>, input: &Bytes) -> Result<Payload, DecodeError> {
    Ok(match from.u8()? {
        BLANK => Payload::Blank,
        NORMAL => Payload::Normal(CommandBytes(input.slice_ref(from.bytes()?))),
        MEMBERSHIP => Payload::Membership(take_membership(from)?),
        got => return Err(DecodeError::Value { what: "an entry", got: got.into() }),
    })
}

fn payload_bytes(payload: &Payload) -> usize {
    match payload {
        Payload::Normal(command) => command.0.len(),
        _ => 64,
    }
}

/// The WAL record of an entry; its index is the record's.
pub(crate) fn encode_record(entry: &Entry) -> Bytes {
    let mut out = Encoder::with_capacity(payload_bytes(&entry.payload) + 24);
    out.u8(VERSION);
    out.varint(entry.log_id.committed_leader_id().term);
    put_payload(&mut out, &entry.payload);
    out.finish()
}

/// Reads what [`encode_record`] wrote; the command shares the record's memory.
pub(crate) fn decode_record(index: u64, record: &Bytes) -> Result<Entry, DecodeError> {
    let mut from = Decoder::new(record);
    from.version("log record", VERSION)?;
    let term = from.varint()?;
    let payload = take_payload(&mut from, record)?;
    from.finish()?;
    Ok(Entry::new(log_id(term, index), payload))
}

/// The term of a record, without reading the rest.
pub(crate) fn decode_record_term(record: &[u8]) -> Result<u64, DecodeError> {
    let mut from = Decoder::new(record);
    from.version("log record", VERSION)?;
    from.varint()
}

fn alone(put: impl FnOnce(&mut Encoder)) -> Bytes {
    let mut out = Encoder::new();
    out.u8(VERSION);
    put(&mut out);
    out.finish()
}

fn whole<T>(
    what: &'static str,
    input: &[u8],
    take: impl FnOnce(&mut Decoder<'_>) -> Result<T, DecodeError>,
) -> Result<T, DecodeError> {
    let mut from = Decoder::new(input);
    from.version(what, VERSION)?;
    let value = take(&mut from)?;
    from.finish()?;
    Ok(value)
}

/// A vote, as the WAL marks it.
pub(crate) fn encode_vote(vote: &Vote) -> Bytes {
    alone(|out| put_vote(out, vote))
}

pub(crate) fn decode_vote(input: &[u8]) -> Result<Vote, DecodeError> {
    whole("vote", input, take_vote)
}

/// A log id, as the WAL marks it (committed, purged).
pub(crate) fn encode_log_id(id: &LogId) -> Bytes {
    alone(|out| put_log_id(out, id))
}

pub(crate) fn decode_log_id(input: &[u8]) -> Result<LogId, DecodeError> {
    whole("log id", input, take_log_id)
}

/// What stands in the store beside the data: how far it goes, and who the members were then.
/// The generation of a group's rows that its log goes with, as the WAL marks it.
pub(crate) fn encode_generation(generation: u32) -> Bytes {
    alone(|out| out.varint(u64::from(generation)))
}

pub(crate) fn decode_generation(input: &[u8]) -> Result<u32, DecodeError> {
    let number = whole("generation", input, |from| from.varint())?;
    u32::try_from(number).map_err(|_| DecodeError::Value { what: "a generation", got: number })
}

pub(crate) fn encode_applied(last: &Option<LogId>, membership: &StoredMembership) -> Vec<u8> {
    let mut out = Encoder::with_capacity(128);
    out.u8(VERSION);
    put_log_id_option(&mut out, last);
    put_log_id_option(&mut out, membership.log_id());
    put_membership(&mut out, membership.membership());
    out.into_vec()
}

pub(crate) fn decode_applied(
    input: &[u8],
) -> Result<(Option<LogId>, StoredMembership), DecodeError> {
    whole("applied mark", input, |from| {
        let last = take_log_id_option(from)?;
        let at = take_log_id_option(from)?;
        Ok((last, StoredMembership::new(at, take_membership(from)?)))
    })
}

pub(crate) fn encode_append(request: &AppendEntriesRequest<Config>) -> Bytes {
    let size: usize = request.entries.iter().map(|e| payload_bytes(&e.payload) + 24).sum();
    let mut out = Encoder::with_capacity(size + 64);
    out.u8(VERSION);
    put_vote(&mut out, &request.vote);
    put_log_id_option(&mut out, &request.prev_log_id);
    put_log_id_option(&mut out, &request.leader_commit);
    out.varint(request.entries.len() as u64);
    for entry in &request.entries {
        put_log_id(&mut out, &entry.log_id);
        put_payload(&mut out, &entry.payload);
    }
    out.finish()
}

/// Reads what [`encode_append`] wrote; commands are copied out of the frame they came in, since
/// they stay in the log's memory for long.
pub(crate) fn decode_append(input: &[u8]) -> Result<AppendEntriesRequest<Config>, DecodeError> {
    let input = Bytes::copy_from_slice(input);
    let mut from = Decoder::new(&input);
    from.version("append", VERSION)?;
    let vote = take_vote(&mut from)?;
    let prev_log_id = take_log_id_option(&mut from)?;
    let leader_commit = take_log_id_option(&mut from)?;
    let count = from.length(3)?;
    let mut entries = Vec::with_capacity(count.min(ENTRIES_EXPECTED));
    for _ in 0..count {
        let id = take_log_id(&mut from)?;
        entries.push(Entry::new(id, take_payload(&mut from, &input)?));
    }
    from.finish()?;
    Ok(AppendEntriesRequest { vote, prev_log_id, entries, leader_commit })
}

pub(crate) fn encode_append_response(response: &AppendEntriesResponse<Config>) -> Bytes {
    alone(|out| match response {
        AppendEntriesResponse::Success => out.u8(0),
        AppendEntriesResponse::PartialSuccess(last) => {
            out.u8(1);
            put_log_id_option(out, last);
        }
        AppendEntriesResponse::Conflict => out.u8(2),
        AppendEntriesResponse::HigherVote(vote) => {
            out.u8(3);
            put_vote(out, vote);
        }
    })
}

pub(crate) fn decode_append_response(
    input: &[u8],
) -> Result<AppendEntriesResponse<Config>, DecodeError> {
    whole("append answer", input, |from| {
        Ok(match from.u8()? {
            0 => AppendEntriesResponse::Success,
            1 => AppendEntriesResponse::PartialSuccess(take_log_id_option(from)?),
            2 => AppendEntriesResponse::Conflict,
            3 => AppendEntriesResponse::HigherVote(take_vote(from)?),
            got => return Err(DecodeError::Value { what: "an append answer", got: got.into() }),
        })
    })
}

pub(crate) fn encode_vote_request(request: &VoteRequest<Config>) -> Bytes {
    alone(|out| {
        put_vote(out, &request.vote);
        put_log_id_option(out, &request.last_log_id);
        out.bool(request.leadership_transfer);
    })
}

pub(crate) fn decode_vote_request(input: &[u8]) -> Result<VoteRequest<Config>, DecodeError> {
    whole("vote request", input, |from| {
        let mut request = VoteRequest::new(take_vote(from)?, take_log_id_option(from)?);
        request.leadership_transfer = from.bool()?;
        Ok(request)
    })
}

pub(crate) fn encode_vote_response(response: &VoteResponse<Config>) -> Bytes {
    alone(|out| {
        put_vote(out, &response.vote);
        out.bool(response.vote_granted);
        put_log_id_option(out, &response.last_log_id);
    })
}

pub(crate) fn decode_vote_response(input: &[u8]) -> Result<VoteResponse<Config>, DecodeError> {
    whole("vote answer", input, |from| {
        let vote = take_vote(from)?;
        let granted = from.bool()?;
        Ok(VoteResponse::new(vote, take_log_id_option(from)?, granted))
    })
}

pub(crate) fn encode_transfer(request: &TransferLeaderRequest<Config>) -> Bytes {
    alone(|out| {
        put_vote(out, request.from_leader());
        out.varint(*request.to_node_id());
        put_log_id_option(out, &request.last_log_id().copied());
    })
}

pub(crate) fn decode_transfer(input: &[u8]) -> Result<TransferLeaderRequest<Config>, DecodeError> {
    whole("transfer request", input, |from| {
        let vote = take_vote(from)?;
        let to = from.varint()?;
        Ok(TransferLeaderRequest::new(vote, to, take_log_id_option(from)?))
    })
}

/// What a leader has to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Offer {
    /// The leader's vote.
    pub(crate) vote: Vote,
    /// Which snapshot.
    pub(crate) id: SnapshotId,
    /// Where it ends.
    pub(crate) last: Option<LogId>,
}

/// What a follower says to an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OfferAnswer {
    /// It has `have` files already, and files their rows under `generation`.
    Send {
        /// The generation.
        generation: u32,
        /// The number of the file it wants next.
        have: u32,
    },
    /// It has all that is in it, or follows another leader: this is its vote.
    Needless(Vote),
}

pub(crate) fn encode_offer(offer: &Offer) -> Bytes {
    alone(|out| {
        put_vote(out, &offer.vote);
        out.u128(offer.id);
        put_log_id_option(out, &offer.last);
    })
}

pub(crate) fn decode_offer(input: &[u8]) -> Result<Offer, DecodeError> {
    whole("snapshot offer", input, |from| {
        let vote = take_vote(from)?;
        Ok(Offer { vote, id: from.u128()?, last: take_log_id_option(from)? })
    })
}

pub(crate) fn encode_offer_answer(answer: &OfferAnswer) -> Bytes {
    alone(|out| match answer {
        OfferAnswer::Send { generation, have } => {
            out.u8(0);
            out.u32(*generation);
            out.u32(*have);
        }
        OfferAnswer::Needless(vote) => {
            out.u8(1);
            put_vote(out, vote);
        }
    })
}

pub(crate) fn decode_offer_answer(input: &[u8]) -> Result<OfferAnswer, DecodeError> {
    whole("answer to an offer", input, |from| match from.u8()? {
        0 => Ok(OfferAnswer::Send { generation: from.u32()?, have: from.u32()? }),
        1 => Ok(OfferAnswer::Needless(take_vote(from)?)),
        got => Err(DecodeError::Value { what: "an answer to an offer", got: got.into() }),
    })
}

pub(crate) fn encode_snapshot_header(vote: &Vote, id: SnapshotId) -> Bytes {
    alone(|out| {
        put_vote(out, vote);
        out.u128(id);
    })
}

pub(crate) fn decode_snapshot_header(input: &[u8]) -> Result<(Vote, SnapshotId), DecodeError> {
    whole("snapshot header", input, |from| Ok((take_vote(from)?, from.u128()?)))
}

pub(crate) fn encode_snapshot_response(response: &SnapshotResponse<Config>) -> Bytes {
    encode_vote(&response.vote)
}

pub(crate) fn decode_snapshot_response(
    input: &[u8],
) -> Result<SnapshotResponse<Config>, DecodeError> {
    decode_vote(input).map(SnapshotResponse::new)
}

/// What a replica that may lead says to one that wants to read: an index, or why there is none.
pub(crate) fn encode_read_index(answer: &Result<u64, Error>) -> Bytes {
    alone(|out| match answer {
        Ok(index) => {
            out.u8(0);
            out.varint(*index);
        }
        Err(Error::NotLeader { leader }) => {
            out.u8(1);
            out.option(*leader, |out, leader| out.u64(leader.0));
        }
        Err(Error::NoQuorum) => out.u8(2),
        Err(Error::Overloaded) => out.u8(3),
        // It has stopped: another will lead.
        Err(_) => {
            out.u8(1);
            out.option(None::<NodeId>, |out, leader| out.u64(leader.0));
        }
    })
}

pub(crate) fn decode_read_index(input: &[u8]) -> Result<Result<u64, Error>, DecodeError> {
    whole("read index", input, |from| {
        Ok(match from.u8()? {
            0 => Ok(from.varint()?),
            1 => Err(Error::NotLeader { leader: from.option(|from| from.u64().map(NodeId))? }),
            2 => Err(Error::NoQuorum),
            3 => Err(Error::Overloaded),
            got => return Err(DecodeError::Value { what: "a read index", got: got.into() }),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use openraft::vote::RaftVote;
    use proptest::prelude::*;

    fn normal(bytes: Vec<u8>) -> Payload {
        Payload::Normal(CommandBytes(Bytes::from(bytes)))
    }

    fn membership() -> Membership {
        let voters = BTreeSet::from([1, 2]);
        let holders = BTreeMap::from([(1, Holder(NodeId(7))), (2, Holder(NodeId(8)))]);
        Membership::new(vec![voters], holders).expect("a sound membership")
    }

    proptest! {
        #[test]
        fn a_record_reads_back(term in any::<u64>(), index in any::<u64>(), bytes in any::<Vec<u8>>()) {
            for payload in [Payload::Blank, normal(bytes), Payload::Membership(membership())] {
                let entry = Entry::new(log_id(term, index), payload);
                let record = encode_record(&entry);
                prop_assert_eq!(decode_record(index, &record), Ok(entry));
                prop_assert_eq!(decode_record_term(&record), Ok(term));
            }
        }

        #[test]
        fn junk_is_refused_without_a_panic(junk in any::<Vec<u8>>()) {
            let bytes = Bytes::from(junk.clone());
            let _ = decode_record(1, &bytes);
            let _ = decode_append(&junk);
            let _ = decode_append_response(&junk);
            let _ = decode_vote_request(&junk);
            let _ = decode_vote_response(&junk);
            let _ = decode_transfer(&junk);
            let _ = decode_read_index(&junk);
            let _ = decode_applied(&junk);
        }
    }

    #[test]
    fn messages_read_back_and_every_cut_of_them_is_refused() {
        let vote = Vote::from_leader_id(RaftLeaderId::new(3, 9), true);
        let append = AppendEntriesRequest::<Config> {
            vote,
            prev_log_id: Some(log_id(2, 10)),
            entries: vec![
                Entry::new(log_id(3, 11), normal(vec![1, 2, 3])),
                Entry::new(log_id(3, 12), Payload::Membership(membership())),
            ],
            leader_commit: None,
        };
        let bytes = encode_append(&append);
        let read = decode_append(&bytes).expect("reads back");
        assert_eq!(read.entries, append.entries);
        assert_eq!((read.vote, read.prev_log_id), (append.vote, append.prev_log_id));
        for cut in 0..bytes.len() {
            assert!(decode_append(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        for response in [
            AppendEntriesResponse::Success,
            AppendEntriesResponse::PartialSuccess(Some(log_id(1, 2))),
            AppendEntriesResponse::Conflict,
            AppendEntriesResponse::HigherVote(vote),
        ] {
            let bytes = encode_append_response(&response);
            assert_eq!(decode_append_response(&bytes), Ok(response));
        }
        let mut request = VoteRequest::<Config>::new(vote, Some(log_id(1, 2)));
        request.leadership_transfer = true;
        assert_eq!(decode_vote_request(&encode_vote_request(&request)), Ok(request));
        let answer = VoteResponse::<Config>::new(vote, None, true);
        assert_eq!(decode_vote_response(&encode_vote_response(&answer)), Ok(answer));
        let offer = Offer { vote, id: 7 << 100, last: Some(log_id(3, 9)) };
        assert_eq!(decode_offer(&encode_offer(&offer)), Ok(offer));
        for answer in [OfferAnswer::Send { generation: 3, have: 9 }, OfferAnswer::Needless(vote)] {
            assert_eq!(decode_offer_answer(&encode_offer_answer(&answer)), Ok(answer));
        }
        for answer in [
            Ok(u64::MAX),
            Err(Error::NotLeader { leader: Some(NodeId(9)) }),
            Err(Error::NotLeader { leader: None }),
            Err(Error::NoQuorum),
            Err(Error::Overloaded),
        ] {
            let bytes = encode_read_index(&answer);
            for cut in 0..bytes.len() {
                assert!(decode_read_index(&bytes[..cut]).is_err(), "cut at {cut}");
            }
            assert_eq!(decode_read_index(&bytes), Ok(answer));
        }
        let header = encode_snapshot_header(&vote, u128::MAX);
        assert_eq!(decode_snapshot_header(&header), Ok((vote, u128::MAX)));
        let applied = StoredMembership::new(Some(log_id(1, 1)), membership());
        let bytes = encode_applied(&Some(log_id(4, 5)), &applied);
        assert_eq!(decode_applied(&bytes), Ok((Some(log_id(4, 5)), applied)));
    }
}
