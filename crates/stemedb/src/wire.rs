//! What nodes say to each other above Raft, and its bytes.
//!
//! | kind | question | answer |
//! |---|---|---|
//! | `CALL` | a caller's request, with the caller's key | an [`OpAnswer`], or an error |
//! | `META` | a meta command, with the caller's key | a [`MetaAnswer`], or an error |
//! | `KEY` | does the meta leader know this hash? | the index at which it does, or "no" |
//! | `APPLIED` | wait until this meta index is applied here | done |
//! | `DISK` | my disks can take this much | heard |
//! | `GOES_DOWN` | I go down: give me no leadership | heard |
//! | `SET_ASIDE` | which replicas do you have set aside? | a list of groups and replicas |
//! | `LED` | which groups do you lead, with which members? | a list of [`Led`] |
//! | `MEASURE` | how are the groups that you lead? ([`crate::measured`]) | a list |
//! | `FORGOTTEN` | is this replica no member of its group any more? | yes or no |
//! | `PING` | are you there? | yes |
//! | `LOST` | have you lost this node, too? | a [`crate::failover::Lost`] |
//! | `DESCRIBE` | who are you? (to a blank node) | a description |
//! | `PROPOSE` | will you found this cluster? | yes, or an error |
//! | `FOUNDED` | all have said yes | done |
//! | `JOIN` | let me in, or: I moved | cluster, meta replica, members |
//!
//! An error crosses as what it says is true: an answer of "not applied" stays
//! one, and everything that is not known to be so becomes "unknown".

use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use stemedb_machine::meta::{KeyHash, MetaAnswer, MetaCommand, NodeAddresses};
use stemedb_machine::shard::{Answer, Once, Read, ReadAnswer, Write};
use stemedb_raft::{Kind, Level};
use stemedb_types::{
    BucketName, ClusterId, DecodeError, Decoder, Encoder, GroupId, NodeId, ProjectName, ReplicaId,
    Revision,
};

use crate::Error;
use crate::error::Unavailable;
use crate::front::{Consistency, Credential, Op, OpAnswer, Served};

pub(crate) const CALL: Kind = 32;
pub(crate) const META: Kind = 33;
pub(crate) const KEY: Kind = 34;
pub(crate) const APPLIED: Kind = 35;
pub(crate) const DISK: Kind = 37;
pub(crate) const LED: Kind = 38;
pub(crate) const FORGOTTEN: Kind = 39;
pub(crate) const DESCRIBE: Kind = 40;
pub(crate) const PROPOSE: Kind = 41;
pub(crate) const FOUNDED: Kind = 42;
pub(crate) const JOIN: Kind = 43;
pub(crate) const PING: Kind = 50;
pub(crate) const LOST: Kind = 51;
pub(crate) const MEASURE: Kind = 52;
pub(crate) const GOES_DOWN: Kind = 45;
pub(crate) const SET_ASIDE: Kind = 46;

const VERSION: u8 = 1;

/// A caller's request on its way to the owner.
#[derive(Clone, Debug)]
pub(crate) struct WireCall {
    pub(crate) credential: Option<Credential>,
    pub(crate) project: Option<ProjectName>,
    pub(crate) deadline_ms: u64,
    pub(crate) bucket: BucketName,
    pub(crate) op: Op,
    /// How new what it reads must be.
    pub(crate) consistency: Consistency,
    /// The name of a write that is to be done once.
    pub(crate) once: Option<Once>,
}

fn bad(what: &'static str) -> DecodeError {
    DecodeError::Value { what, got: 0 }
}

fn put_credential(out: &mut Encoder, credential: &Option<Credential>) {
    out.option(credential.as_ref(), |out, key| out.text(key.expose()));
}

fn take_credential(from: &mut Decoder<'_>) -> Result<Option<Credential>, DecodeError> {
    from.option(|from| from.text("a key").map(Credential::new))
}

impl WireCall {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Encoder::with_capacity(512);
        out.u8(VERSION);
        put_credential(&mut out, &self.credential);
        out.option(self.project.as_ref(), |out, name| out.text(name.as_str()));
        out.varint(self.deadline_ms);
        out.text(self.bucket.as_str());
        match &self.op {
            Op::Write(write) => {
                out.u8(if self.once.is_some() { 5 } else { 1 });
                if let Some(once) = &self.once {
                    once.encode(&mut out);
                }
                write.encode(&mut out);
            }
            Op::Read(read) => {
                match self.consistency {
                    Consistency::Linearizable => out.u8(2),
                    Consistency::Session { seen } => {
                        out.u8(3);
                        out.varint(seen.0);
                    }
                    Consistency::Stale => out.u8(4),
                }
                read.encode(&mut out);
            }
        }
        out.finish()
    }

    pub(crate) fn decode(input: &Bytes) -> Result<Self, DecodeError> {
        let mut from = Decoder::new(input);
        from.version("call", VERSION)?;
        let credential = take_credential(&mut from)?;
        let project =
            from.option(|from| from.text("a project")?.parse().map_err(|_| bad("a project name")))?;
        let deadline_ms = from.varint()?;
        let bucket = from.text("a bucket")?.parse().map_err(|_| bad("a bucket name"))?;
        let tag = from.u8()?;
        let mut consistency = Consistency::Linearizable;
        let mut once = None;
        match tag {
            1 | 2 => {}
            3 => consistency = Consistency::Session { seen: Revision(from.varint()?) },
            4 => consistency = Consistency::Stale,
            5 => once = Some(Once::decode(&mut from, input)?),
            got => return Err(DecodeError::Value { what: "a call", got: got.into() }),
        };
        let op = match matches!(tag, 1 | 5) {
            true => Op::Write(Write::decode(&mut from, input)?),
            false => Op::Read(Read::decode(&mut from, input)?),
        };
        from.finish()?;
        Ok(Self { credential, project, deadline_ms, bucket, op, consistency, once })
    }
}

/// The result of a call as it crosses back.
pub(crate) fn encode_op_result(result: &Result<OpAnswer, Error>) -> Bytes {
    let mut out = Encoder::with_capacity(128);
    match result {
        Ok(OpAnswer::Write(answer)) => {
            out.u8(1);
            answer.encode(&mut out);
        }
        Ok(OpAnswer::Read(answer)) => {
            out.u8(2);
            answer.encode(&mut out);
        }
        Ok(OpAnswer::Weaker(answer, served)) => {
            match served {
                Served::Session => out.u8(3),
                Served::Stale { age_ms } => {
                    out.u8(4);
                    out.varint(*age_ms);
                }
            }
            answer.encode(&mut out);
        }
        Err(error) => {
            out.u8(0);
            put_error(&mut out, error);
        }
    }
    out.finish()
}

pub(crate) fn decode_op_result(input: &Bytes) -> Result<Result<OpAnswer, Error>, DecodeError> {
    let mut from = Decoder::new(input);
    Ok(match from.u8()? {
        0 => Err(take_error(&mut from)?),
        1 => Ok(OpAnswer::Write(Answer::decode(&mut from)?)),
        2 => Ok(OpAnswer::Read(ReadAnswer::decode(&mut from, input)?)),
        3 => Ok(OpAnswer::Weaker(ReadAnswer::decode(&mut from, input)?, Served::Session)),
        4 => {
            let served = Served::Stale { age_ms: from.varint()? };
            Ok(OpAnswer::Weaker(ReadAnswer::decode(&mut from, input)?, served))
        }
        got => return Err(DecodeError::Value { what: "a call's answer", got: got.into() }),
    })
}

/// A change to the cluster on its way to the meta leader.
pub(crate) struct WireMeta {
    /// `None`: the node itself asks (it registers, seeds its root key).
    pub(crate) credential: Option<Credential>,
    pub(crate) command: MetaCommand,
}

impl WireMeta {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Encoder::new();
        out.u8(VERSION);
        put_credential(&mut out, &self.credential);
        out.bytes(&self.command.encode());
        out.finish()
    }

    pub(crate) fn decode(input: &[u8]) -> Result<Self, DecodeError> {
        let mut from = Decoder::new(input);
        from.version("meta call", VERSION)?;
        let credential = take_credential(&mut from)?;
        let command = MetaCommand::decode(from.bytes()?)?;
        from.finish()?;
        Ok(Self { credential, command })
    }
}

/// What became of a meta command, and the log index by which it is applied.
pub(crate) type MetaResult = Result<(MetaAnswer, u64), Error>;

pub(crate) fn encode_meta_result(result: &MetaResult) -> Bytes {
    let mut out = Encoder::new();
    match result {
        Ok((answer, index)) => {
            out.u8(1);
            out.varint(*index);
            answer.encode(&mut out);
        }
        Err(error) => {
            out.u8(0);
            put_error(&mut out, error);
        }
    }
    out.finish()
}

pub(crate) fn decode_meta_result(input: &[u8]) -> Result<MetaResult, DecodeError> {
    let mut from = Decoder::new(input);
    Ok(match from.u8()? {
        0 => Err(take_error(&mut from)?),
        1 => {
            let index = from.varint()?;
            Ok((MetaAnswer::decode(&mut from)?, index))
        }
        got => return Err(DecodeError::Value { what: "a meta answer", got: got.into() }),
    })
}

/// A question about a key's hash; the answer is the index at which it is known, if it is.
pub(crate) fn encode_key_question(hash: &KeyHash) -> Bytes {
    Bytes::copy_from_slice(&hash.0)
}

pub(crate) fn decode_key_question(input: &[u8]) -> Result<KeyHash, DecodeError> {
    let hash = input.try_into().map_err(|_| bad("a hash"))?;
    Ok(KeyHash(hash))
}

pub(crate) fn encode_index_option(index: Option<u64>) -> Bytes {
    let mut out = Encoder::new();
    out.option(index, Encoder::varint);
    out.finish()
}

pub(crate) fn decode_index_option(input: &[u8]) -> Result<Option<u64>, DecodeError> {
    Decoder::new(input).option(Decoder::varint)
}

/// "Wait until this index is applied", and for how long at most.
pub(crate) fn encode_wait(index: u64, timeout: Duration) -> Bytes {
    let mut out = Encoder::new();
    out.varint(index);
    out.varint(timeout.as_millis() as u64);
    out.finish()
}

pub(crate) fn decode_wait(input: &[u8]) -> Result<(u64, Duration), DecodeError> {
    let mut from = Decoder::new(input);
    Ok((from.varint()?, Duration::from_millis(from.varint()?)))
}

/// What a node's disks can take.
pub(crate) fn encode_level(level: Level) -> Bytes {
    let mut out = Encoder::new();
    out.u8(VERSION);
    out.u8(match level {
        Level::Open => 0,
        Level::Full => 1,
        Level::Spent => 2,
    });
    out.finish()
}

pub(crate) fn decode_level(input: &[u8]) -> Result<Level, DecodeError> {
    let mut from = Decoder::new(input);
    from.version("disk level", VERSION)?;
    let level = match from.u8()? {
        0 => Level::Open,
        1 => Level::Full,
        2 => Level::Spent,
        got => return Err(DecodeError::Value { what: "a disk level", got: got.into() }),
    };
    from.finish()?;
    Ok(level)
}

/// A group as its leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Led {
    pub(crate) group: GroupId,
    /// Every member, and the node that holds it.
    pub(crate) holders: BTreeMap<ReplicaId, NodeId>,
    pub(crate) voters: BTreeSet<ReplicaId>,
    /// These members are committed, and no change of them is under way.
    pub(crate) settled: bool,
}

pub(crate) fn encode_led(led: &[Led]) -> Bytes {
    let mut out = Encoder::new();
    out.u8(VERSION);
    out.varint(led.len() as u64);
    for Led { group, holders, voters, settled } in led {
        out.u32(group.0);
        out.varint(holders.len() as u64);
        for (replica, node) in holders {
            out.varint(replica.0);
            out.u64(node.0);
        }
        out.varint(voters.len() as u64);
        voters.iter().for_each(|id| out.varint(id.0));
        out.bool(*settled);
    }
    out.finish()
}

pub(crate) fn decode_led(input: &[u8]) -> Result<Vec<Led>, DecodeError> {
    let mut from = Decoder::new(input);
    let from = &mut from;
    from.version("led groups", VERSION)?;
    let count = from.length(7)?;
    let mut led = Vec::with_capacity(count);
    for _ in 0..count {
        let group = GroupId(from.u32()?);
        let members = from.length(9)?;
        let holder = |_| Ok((ReplicaId(from.varint()?), NodeId(from.u64()?)));
        let holders = (0..members).map(holder).collect::<Result<_, DecodeError>>()?;
        let voting = from.length(1)?;
        let voters = (0..voting).map(|_| from.varint().map(ReplicaId)).collect::<Result<_, _>>()?;
        led.push(Led { group, holders, voters, settled: from.bool()? });
    }
    Ok(led)
}

/// One replica of a group.
pub(crate) fn encode_replica(group: GroupId, replica: ReplicaId) -> Bytes {
    let mut out = Encoder::new();
    out.u32(group.0);
    out.varint(replica.0);
    out.finish()
}

pub(crate) fn decode_replica(input: &[u8]) -> Result<(GroupId, ReplicaId), DecodeError> {
    let mut from = Decoder::new(input);
    let replica = (GroupId(from.u32()?), ReplicaId(from.varint()?));
    from.finish()?;
    Ok(replica)
}

/// Replicas of several groups.
pub(crate) fn encode_replicas(replicas: &BTreeSet<(GroupId, ReplicaId)>) -> Bytes {
    let mut out = Encoder::new();
    out.u8(VERSION);
    out.varint(replicas.len() as u64);
    for (group, replica) in replicas {
        out.u32(group.0);
        out.varint(replica.0);
    }
    out.finish()
}

pub(crate) fn decode_replicas(input: &[u8]) -> Result<Vec<(GroupId, ReplicaId)>, DecodeError> {
    let mut from = Decoder::new(input);
    from.version("replicas", VERSION)?;
    let count = from.length(5)?;
    let one = |_| Ok((GroupId(from.u32()?), ReplicaId(from.varint()?)));
    let replicas = (0..count).map(one).collect::<Result<_, DecodeError>>()?;
    from.finish()?;
    Ok(replicas)
}

pub(crate) fn encode_bool(said: bool) -> Bytes {
    let mut out = Encoder::new();
    out.bool(said);
    out.finish()
}

pub(crate) fn decode_bool(input: &[u8]) -> Result<bool, DecodeError> {
    let mut from = Decoder::new(input);
    let said = from.bool()?;
    from.finish()?;
    Ok(said)
}

/// What a node that was let in needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Welcome {
    pub(crate) cluster: ClusterId,
    pub(crate) meta_replica: ReplicaId,
    pub(crate) members: Vec<(NodeId, NodeAddresses)>,
}

impl Welcome {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Encoder::new();
        out.u8(VERSION);
        out.u128(self.cluster.0);
        out.varint(self.meta_replica.0);
        out.varint(self.members.len() as u64);
        for (node, addresses) in &self.members {
            out.u64(node.0);
            for address in [&addresses.http, &addresses.gateway, &addresses.grpc, &addresses.gossip]
            {
                out.text(address);
            }
        }
        out.finish()
    }

    pub(crate) fn decode(input: &[u8]) -> Result<Self, DecodeError> {
        let mut from = Decoder::new(input);
        let from = &mut from;
        from.version("welcome", VERSION)?;
        let cluster = ClusterId(from.u128()?);
        let meta_replica = ReplicaId(from.varint()?);
        let count = from.length(12)?;
        let mut members = Vec::with_capacity(count);
        for _ in 0..count {
            let node = NodeId(from.u64()?);
            let mut text = || from.text("an address").map(str::to_owned);
            let addresses =
                NodeAddresses { http: text()?, gateway: text()?, grpc: text()?, gossip: text()? };
            members.push((node, addresses));
        }
        Ok(Self { cluster, meta_replica, members })
    }
}

fn put_error(out: &mut Encoder, error: &Error) {
    let text = |out: &mut Encoder, tag, text: &str| {
        out.u8(tag);
        out.text(text);
    };
    match error {
        Error::Unauthenticated => out.u8(1),
        Error::Forbidden(why) => text(out, 2, why),
        Error::Malformed(why) => text(out, 3, why),
        Error::NotOwner { owner } => {
            out.u8(4);
            out.option(owner.as_ref(), |out, owner| out.text(owner));
        }
        Error::AlreadyExists(why) => text(out, 5, why),
        Error::NotFound(why) => text(out, 6, why),
        Error::Unavailable { reason, .. } => {
            out.u8(7);
            out.u8(*reason as u8);
        }
        Error::OutcomeUnknown => out.u8(8),
        Error::DiskFull => out.u8(9),
        Error::Internal(why) => text(out, 10, why),
        Error::Conflict(why) => text(out, 15, why),
    }
}

fn take_error(from: &mut Decoder<'_>) -> Result<Error, DecodeError> {
    let text = |from: &mut Decoder<'_>| from.text("an error").map(str::to_owned);
    Ok(match from.u8()? {
        1 => Error::Unauthenticated,
        2 => Error::Forbidden(text(from)?),
        3 => Error::Malformed(text(from)?),
        4 => Error::NotOwner { owner: from.option(text)? },
        5 => Error::AlreadyExists(text(from)?),
        6 => Error::NotFound(text(from)?),
        7 => Error::unavailable(match from.u8()? {
            0 => Unavailable::Starting,
            1 => Unavailable::NoQuorum,
            2 => Unavailable::Overloaded,
            3 => Unavailable::Moving,
            _ => Unavailable::Draining,
        }),
        8 => Error::OutcomeUnknown,
        9 => Error::DiskFull,
        10 => Error::Internal(text(from)?),
        15 => Error::Conflict(text(from)?),
        got => return Err(DecodeError::Value { what: "an error", got: got.into() }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use stemedb_machine::shard::{Condition, Fingerprint, IdempotencyKey};
    use stemedb_types::Key;

    #[test]
    fn no_two_questions_are_of_one_kind_and_none_is_of_rafts() {
        let kinds = [
            CALL, META, KEY, APPLIED, DISK, LED, FORGOTTEN, DESCRIBE, PROPOSE, FOUNDED, JOIN,
            GOES_DOWN, SET_ASIDE, PING, LOST, MEASURE,
        ];
        let distinct: BTreeSet<Kind> = kinds.into();
        assert_eq!(distinct.len(), kinds.len());
        assert!(distinct.iter().all(|kind| *kind >= stemedb_raft::kinds::FIRST_OTHER));
    }

    #[test]
    fn a_call_reads_back_with_its_key() {
        let call = WireCall {
            credential: Some(Credential::new("secret")),
            project: "alpha".parse().ok(),
            deadline_ms: 1500,
            bucket: "default".parse().unwrap(),
            op: Op::Write(Write::Put {
                key: Key::new("k").unwrap(),
                value: Bytes::from_static(b"v"),
                condition: Condition::Absent,
                expires_at_ms: None,
            }),
            consistency: Consistency::Linearizable,
            once: None,
        };
        let key = IdempotencyKey::new("n").unwrap();
        let once = Some(Once { key, fingerprint: Fingerprint([7; 32]) });
        let named = WireCall { once: once.clone(), ..call.clone() };
        let read_named = WireCall::decode(&named.encode()).unwrap();
        assert_eq!((read_named.op, read_named.once), (named.op, once));
        let read = WireCall::decode(&call.encode()).unwrap();
        assert_eq!(read.credential.as_ref().map(Credential::expose), Some("secret"));
        assert_eq!((read.project, read.deadline_ms), (call.project, 1500));
        assert_eq!((read.bucket, read.op, read.once), (call.bucket, call.op, None));
    }

    #[test]
    fn a_read_crosses_with_how_new_it_must_be_and_its_answer_with_how_it_was_served() {
        let get = Read::Get { key: Key::new("k").unwrap(), as_of: None };
        let seen = Revision(u64::MAX);
        for consistency in
            [Consistency::Linearizable, Consistency::Session { seen }, Consistency::Stale]
        {
            let call = WireCall {
                credential: None,
                project: None,
                deadline_ms: 7,
                bucket: "b".parse().unwrap(),
                op: Op::Read(get.clone()),
                consistency,
                once: None,
            };
            let bytes = call.encode();
            let read = WireCall::decode(&bytes).unwrap();
            assert_eq!((read.op, read.consistency), (call.op, consistency));
            for cut in 0..bytes.len() {
                assert!(WireCall::decode(&bytes.slice(..cut)).is_err(), "cut at {cut}");
            }
        }
        let found = ReadAnswer::Value { revision: seen, version: None };
        for answer in [
            OpAnswer::Read(found.clone()),
            OpAnswer::Weaker(found.clone(), Served::Session),
            OpAnswer::Weaker(found.clone(), Served::Stale { age_ms: u64::MAX }),
        ] {
            let result = Ok(answer);
            let bytes = encode_op_result(&result);
            for cut in 0..bytes.len() {
                assert!(decode_op_result(&bytes.slice(..cut)).is_err(), "cut at {cut}");
            }
            assert_eq!(decode_op_result(&bytes), Ok(result));
        }
    }

    #[test]
    fn every_error_crosses_as_itself() {
        let errors = [
            Error::Unauthenticated,
            Error::Forbidden("a".to_owned()),
            Error::Malformed("b".to_owned()),
            Error::NotOwner { owner: Some("h:1".to_owned()) },
            Error::NotOwner { owner: None },
            Error::AlreadyExists("c".to_owned()),
            Error::NotFound("d".to_owned()),
            Error::unavailable(Unavailable::Starting),
            Error::unavailable(Unavailable::NoQuorum),
            Error::unavailable(Unavailable::Overloaded),
            Error::unavailable(Unavailable::Moving),
            Error::unavailable(Unavailable::Draining),
            Error::OutcomeUnknown,
            Error::DiskFull,
            Error::Internal("e".to_owned()),
            Error::Conflict("f".to_owned()),
        ];
        for error in errors {
            let result = Err(error.clone());
            assert_eq!(decode_op_result(&encode_op_result(&result)), Ok(result));
            let result = Err(error);
            assert_eq!(decode_meta_result(&encode_meta_result(&result)), Ok(result));
        }
        let done = Ok((MetaAnswer::Done, 17));
        assert_eq!(decode_meta_result(&encode_meta_result(&done)), Ok(done));
        let put = Ok(OpAnswer::Write(Answer::Put { revision: Revision(3), created: true }));
        assert_eq!(decode_op_result(&encode_op_result(&put)), Ok(put));
    }

    #[test]
    fn a_disk_level_reads_back_and_an_unknown_one_is_refused() {
        for level in [Level::Open, Level::Full, Level::Spent] {
            assert_eq!(decode_level(&encode_level(level)), Ok(level));
        }
        assert!(decode_level(&[VERSION, 3]).is_err());
        assert!(decode_level(&[VERSION, 1, 0]).is_err());
    }

    #[test]
    fn what_a_node_leads_reads_back_and_no_cut_of_it_does() {
        let led = |group, holders: &[(u64, u64)], voters: &[u64], settled| Led {
            group: GroupId(group),
            holders: holders.iter().map(|(id, node)| (ReplicaId(*id), NodeId(*node))).collect(),
            voters: voters.iter().copied().map(ReplicaId).collect(),
            settled,
        };
        let led = vec![
            led(1, &[(1, 5), (300, 6)], &[1, 300], true),
            led(9, &[(7, 5), (8, 6)], &[7], false),
        ];
        let bytes = encode_led(&led);
        assert_eq!(decode_led(&bytes), Ok(led));
        for cut in 0..bytes.len() {
            assert!(decode_led(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        let replica = (GroupId(3), ReplicaId(700));
        assert_eq!(decode_replica(&encode_replica(replica.0, replica.1)), Ok(replica));
        assert_eq!(decode_bool(&encode_bool(true)), Ok(true));
        assert!(decode_bool(&[2]).is_err() && decode_bool(&[1, 1]).is_err());
    }

    #[test]
    fn what_is_set_aside_reads_back_and_no_cut_of_it_does() {
        let aside = [(1, 7), (3, 700)].map(|(group, id)| (GroupId(group), ReplicaId(id)));
        let bytes = encode_replicas(&BTreeSet::from(aside));
        assert_eq!(decode_replicas(&bytes), Ok(aside.to_vec()));
        for cut in 0..bytes.len() {
            assert!(decode_replicas(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        assert!(decode_replicas(&[&bytes[..], b"x"].concat()).is_err());
    }

    #[test]
    fn a_welcome_reads_back() {
        let welcome = Welcome {
            cluster: ClusterId(5),
            meta_replica: ReplicaId(9),
            members: vec![(NodeId(1), NodeAddresses { http: "h:1".into(), ..Default::default() })],
        };
        assert_eq!(Welcome::decode(&welcome.encode()), Ok(welcome));
    }
}
