//! Machine changes → rows, and the machine's view of them.

use std::ops::ControlFlow;

use bytes::Bytes;
use stemedb_machine::Error as MachineError;
use stemedb_machine::shard::{
    AgentId, Attestation, BucketNumber, BucketState, Change, ClaimKey, ClaimOrder, ClaimRow,
    ClaimStart, Head, KeyRange, KeyRow, StatementId, TouchKind, Version, View,
};
use stemedb_types::{BucketName, DecodeError, Decoder, Encoder, Key, ProjectId, Revision};

use crate::rows::{Kind, Range, Scope, take_text};
use crate::{Batch, Error, Group};

/// First byte of every value below.
const VALUE_VERSION: u8 = 1;

/// Behind a claim's id: its statement, then its attestations by agent.
const CLAIM_STATEMENT: u8 = 0;
const CLAIM_ATTESTATION: u8 = 1;

impl Batch {
    /// Writes one change of a shard.
    pub fn put_change(&mut self, change: &Change) {
        let scope = self.scope;
        match change {
            Change::Bucket { project, name, state } => {
                if state.revision == Revision(1) {
                    let next = state.number.0 + 1;
                    self.rows.put(scope.next_bucket(), next.to_be_bytes().to_vec());
                }
                self.rows.put(scope.bucket(*project, name), encode_bucket(state));
            }
            Change::Version { bucket, key, head, value } => {
                let row = scope.version(*bucket, key.as_bytes(), head.mod_revision);
                self.rows.put(row, encode_version(head, value));
            }
            Change::Claim { bucket, key, statement } => {
                let row = scope.claim(*bucket, key).u8(CLAIM_STATEMENT).finish();
                self.rows.put(row, encode_statement(statement));
                self.rows.put(scope.claim_id(*bucket, key.id), encode_claim_key(key));
                self.rows.put(scope.claim_by_predicate(*bucket, key), Vec::new());
            }
            Change::Attest { bucket, key, attestation } => {
                let agent = &attestation.agent;
                let row = attestation_row(scope, *bucket, key, agent);
                self.rows.put(row, encode_attestation(attestation));
                self.rows.put(scope.claim_by_agent(*bucket, agent, key), Vec::new());
            }
            Change::Log { bucket, revision, touched } => {
                let mut out = Encoder::new();
                out.u8(VALUE_VERSION);
                out.varint(touched.len() as u64);
                for line in touched {
                    out.u8(match line.kind {
                        TouchKind::Put => 1,
                        TouchKind::Delete => 2,
                        TouchKind::Assert => 3,
                    });
                    out.bytes(&line.what);
                }
                self.rows.put(scope.log(*bucket, *revision), out.into_vec());
            }
        }
    }
}

fn attestation_row(
    scope: Scope,
    bucket: BucketNumber,
    key: &ClaimKey,
    agent: &AgentId,
) -> crate::Row {
    let agent = agent.to_string();
    scope.claim(bucket, key).u8(CLAIM_ATTESTATION).raw(agent.as_bytes()).finish()
}

fn encode_bucket(state: &BucketState) -> Vec<u8> {
    let mut out = Encoder::with_capacity(24);
    out.u8(VALUE_VERSION);
    out.u32(state.number.0);
    out.varint(state.revision.0);
    out.varint(state.compacted.0);
    out.into_vec()
}

fn decode_bucket(value: &[u8]) -> Result<BucketState, DecodeError> {
    let mut from = Decoder::new(value);
    from.version("bucket", VALUE_VERSION)?;
    Ok(BucketState {
        number: BucketNumber(from.u32()?),
        revision: Revision(from.varint()?),
        compacted: Revision(from.varint()?),
    })
}

fn encode_version(head: &Head, value: &[u8]) -> Vec<u8> {
    let mut out = Encoder::with_capacity(value.len() + 24);
    out.u8(VALUE_VERSION);
    out.bool(head.deleted);
    out.varint(head.create_revision.0);
    out.varint(head.version);
    out.raw(value);
    out.into_vec()
}

fn decode_version(value: &[u8], mod_revision: Revision) -> Result<(Head, &[u8]), DecodeError> {
    let mut from = Decoder::new(value);
    from.version("version", VALUE_VERSION)?;
    let deleted = from.bool()?;
    let create_revision = Revision(from.varint()?);
    let version = from.varint()?;
    Ok((Head { create_revision, mod_revision, version, deleted }, from.left()))
}

fn encode_statement(statement: &[u8]) -> Vec<u8> {
    let mut out = Encoder::with_capacity(statement.len() + 1);
    out.u8(VALUE_VERSION);
    out.raw(statement);
    out.into_vec()
}

fn decode_statement(value: &[u8]) -> Result<Bytes, DecodeError> {
    let mut from = Decoder::new(value);
    from.version("statement", VALUE_VERSION)?;
    Ok(Bytes::copy_from_slice(from.left()))
}

fn encode_claim_key(key: &ClaimKey) -> Vec<u8> {
    let mut out = Encoder::new();
    out.u8(VALUE_VERSION);
    out.text(&key.subject);
    out.text(&key.predicate);
    out.into_vec()
}

fn decode_claim_key(value: &[u8], id: StatementId) -> Result<ClaimKey, DecodeError> {
    let mut from = Decoder::new(value);
    from.version("claim key", VALUE_VERSION)?;
    Ok(ClaimKey {
        subject: from.text("a subject")?.to_owned(),
        predicate: from.text("a predicate")?.to_owned(),
        id,
    })
}

fn encode_attestation(attestation: &Attestation) -> Vec<u8> {
    let mut out = Encoder::new();
    out.u8(VALUE_VERSION);
    out.varint(attestation.revision.0);
    out.varint(attestation.at_ms);
    out.into_vec()
}

fn decode_attestation(value: &[u8], agent: &[u8]) -> Result<Attestation, DecodeError> {
    let refused = DecodeError::Text { what: "an agent" };
    let agent =
        std::str::from_utf8(agent).ok().and_then(|text| text.parse().ok()).ok_or(refused)?;
    let mut from = Decoder::new(value);
    from.version("attestation", VALUE_VERSION)?;
    Ok(Attestation { agent, revision: Revision(from.varint()?), at_ms: from.varint()? })
}

fn corrupt(what: &'static str, cause: impl ToString) -> Error {
    Error::Corrupt { what, cause: cause.to_string() }
}

/// The key and revision in the name of a version row, behind scope, kind and bucket.
fn version_name(row: &[u8], prefix_bytes: usize) -> Option<(Vec<u8>, Revision)> {
    let (key, revision) = take_text(row.get(prefix_bytes..)?)?;
    let inverted = u64::from_be_bytes(revision.try_into().ok()?);
    Some((key, Revision(!inverted)))
}

impl Group {
    /// The newest version of a key at or below a revision, handed to `read` where it stands.
    fn newest<T>(
        &self,
        bucket: BucketNumber,
        key: &Key,
        as_of: Revision,
        read: impl FnOnce(Head, &[u8]) -> T,
    ) -> Result<Option<T>, Error> {
        let all = Range::prefix(&self.scope.versions(bucket, key.as_bytes()).into_bytes());
        let first = self.scope.version(bucket, key.as_bytes(), as_of);
        let range = Range { start: first.0, end: all.end };
        let mut read = Some(read);
        let mut found = Ok(None);
        self.scan(&range, false, &mut |row, value| {
            found = row
                .last_chunk::<8>()
                .ok_or_else(|| corrupt("a version", "its name is too short"))
                .and_then(|inverted| {
                    let revision = Revision(!u64::from_be_bytes(*inverted));
                    decode_version(value, revision).map_err(|cause| corrupt("a version", cause))
                })
                .map(|(head, value)| read.take().map(|read| read(head, value)));
            ControlFlow::Break(())
        })?;
        found
    }

    /// A claim from its row range: the statement, then the attestations.
    fn gather_claim(&self, bucket: BucketNumber, key: ClaimKey) -> Result<Option<ClaimRow>, Error> {
        let prefix = self.scope.claim(bucket, &key).into_bytes();
        let mut statement = None;
        let mut attestations = Vec::new();
        let mut fault = None;
        self.scan(&Range::prefix(&prefix), false, &mut |row, value| {
            let step = match row.get(prefix.len()..).and_then(|rest| rest.split_first()) {
                Some((&CLAIM_STATEMENT, _)) => {
                    decode_statement(value).map(|bytes| statement = Some(bytes))
                }
                Some((&CLAIM_ATTESTATION, agent)) => {
                    decode_attestation(value, agent).map(|a| attestations.push(a))
                }
                _ => Err(DecodeError::Value { what: "a claim row", got: 0 }),
            };
            match step {
                Ok(()) => ControlFlow::Continue(()),
                Err(cause) => {
                    fault = Some(corrupt("a claim", cause));
                    ControlFlow::Break(())
                }
            }
        })?;
        if let Some(fault) = fault {
            return Err(fault);
        }
        attestations.sort_by(|a, b| (a.revision, &a.agent).cmp(&(b.revision, &b.agent)));
        Ok(statement.map(|statement| ClaimRow { key, statement, attestations }))
    }

    /// The rows of the index a claim scan walks, from where it starts.
    fn claim_index(
        &self,
        bucket: BucketNumber,
        order: &ClaimOrder,
        start: &ClaimStart,
    ) -> (Range, usize) {
        let base = || match order {
            ClaimOrder::Subject => self.scope.row(Kind::Claim).u32(bucket.0),
            ClaimOrder::Predicate => self.scope.row(Kind::ClaimByPredicate).u32(bucket.0),
            ClaimOrder::Agent(agent) => {
                self.scope.row(Kind::ClaimByAgent).u32(bucket.0).text(agent.to_string().as_bytes())
            }
        };
        let prefix_bytes = base().into_bytes().len();
        let first = start.first_prefix.as_bytes();
        let mut range = if start.first_exact {
            base().text(first).into_prefix()
        } else {
            base().text_prefix(first).into_prefix()
        };
        if let Some((subject, predicate)) = &start.after {
            let (one, two) = match order {
                ClaimOrder::Predicate => (predicate, subject),
                ClaimOrder::Subject | ClaimOrder::Agent(_) => (subject, predicate),
            };
            let behind = base().text(one.as_bytes()).text(two.as_bytes()).into_prefix().end;
            range.start = range.start.max(behind);
        }
        (range, prefix_bytes)
    }
}

/// The claim that a row names, and whether the row is an attestation of it (an index row ends
/// with the id, a row of the claims themselves goes on).
fn claim_name(row: &[u8], prefix_bytes: usize, order: &ClaimOrder) -> Option<(ClaimKey, bool)> {
    let (one, rest) = take_text(row.get(prefix_bytes..)?)?;
    let (two, rest) = take_text(rest)?;
    let (id, rest) = rest.split_first_chunk::<32>()?;
    let id = StatementId(*id);
    let (one, two) = (String::from_utf8(one).ok()?, String::from_utf8(two).ok()?);
    let key = match order {
        ClaimOrder::Predicate => ClaimKey { subject: two, predicate: one, id },
        ClaimOrder::Subject | ClaimOrder::Agent(_) => ClaimKey { subject: one, predicate: two, id },
    };
    Some((key, rest.first() == Some(&CLAIM_ATTESTATION)))
}

impl View for Group {
    fn bucket(
        &self,
        project: ProjectId,
        name: &BucketName,
    ) -> Result<Option<BucketState>, MachineError> {
        let Some(value) = self.get(&self.scope.bucket(project, name))? else { return Ok(None) };
        Ok(Some(decode_bucket(&value)?))
    }

    fn next_bucket(&self) -> Result<BucketNumber, MachineError> {
        let Some(value) = self.get(&self.scope.next_bucket())? else {
            return Ok(BucketNumber(0));
        };
        let bytes = value.as_ref().try_into();
        let bytes = bytes.map_err(|_| corrupt("the next bucket", "not 4 bytes long"))?;
        Ok(BucketNumber(u32::from_be_bytes(bytes)))
    }

    fn head(&self, bucket: BucketNumber, key: &Key) -> Result<Option<Head>, MachineError> {
        Ok(self.newest(bucket, key, Revision(u64::MAX), |head, _| head)?)
    }

    fn version(
        &self,
        bucket: BucketNumber,
        key: &Key,
        as_of: Revision,
    ) -> Result<Option<Version>, MachineError> {
        let read = |head, value: &[u8]| Version { head, value: Bytes::copy_from_slice(value) };
        Ok(self.newest(bucket, key, as_of, read)?)
    }

    fn scan_keys(
        &self,
        bucket: BucketNumber,
        range: &KeyRange,
        as_of: Revision,
        reverse: bool,
        visit: &mut dyn FnMut(KeyRow) -> ControlFlow<()>,
    ) -> Result<(), MachineError> {
        let base = || self.scope.row(Kind::Version).u32(bucket.0);
        let prefix_bytes = base().into_bytes().len();
        let rows = Range {
            start: base().text_prefix(&range.start).into_bytes(),
            end: match &range.end {
                Some(end) => base().text_prefix(end).into_bytes(),
                None => base().into_prefix().end,
            },
        };
        // Forward, the first version at or below `as_of` is a key's; against it, the last one is.
        let mut pick = VersionPick { as_of, reverse, held: None, visit };
        let mut fault = None;
        self.scan(&rows, reverse, &mut |row, value| {
            let step = version_name(row, prefix_bytes)
                .ok_or_else(|| corrupt("a version", "its name does not parse"))
                .and_then(|(key, revision)| pick.row(key, revision, value));
            step.unwrap_or_else(|error| {
                fault = Some(error);
                ControlFlow::Break(())
            })
        })?;
        if let Some(fault) = fault {
            return Err(fault.into());
        }
        pick.finish()?;
        Ok(())
    }

    fn claim_key(
        &self,
        bucket: BucketNumber,
        id: StatementId,
    ) -> Result<Option<ClaimKey>, MachineError> {
        let Some(value) = self.get(&self.scope.claim_id(bucket, id))? else { return Ok(None) };
        Ok(Some(decode_claim_key(&value, id)?))
    }

    fn claim(
        &self,
        bucket: BucketNumber,
        key: &ClaimKey,
    ) -> Result<Option<ClaimRow>, MachineError> {
        Ok(self.gather_claim(bucket, key.clone())?)
    }

    fn attested(
        &self,
        bucket: BucketNumber,
        key: &ClaimKey,
        agent: &AgentId,
    ) -> Result<bool, MachineError> {
        Ok(self.get(&attestation_row(self.scope, bucket, key, agent))?.is_some())
    }

    fn scan_claims(
        &self,
        bucket: BucketNumber,
        order: &ClaimOrder,
        start: &ClaimStart,
        visit: &mut dyn FnMut(ClaimRow) -> ControlFlow<()>,
    ) -> Result<(), MachineError> {
        let (range, prefix_bytes) = self.claim_index(bucket, order, start);
        let mut fault = None;
        self.scan(&range, false, &mut |row, _| {
            let key = match claim_name(row, prefix_bytes, order) {
                Some((_, true)) => return ControlFlow::Continue(()),
                Some((key, false)) => Ok(key),
                None => Err(corrupt("a claim", "its name does not parse")),
            };
            let gathered = key
                .and_then(|key| self.gather_claim(bucket, key))
                .and_then(|row| row.ok_or_else(|| corrupt("a claim", "its statement is missing")));
            match gathered {
                Ok(row) => visit(row),
                Err(error) => {
                    fault = Some(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        fault.map_or(Ok(()), |fault| Err(fault.into()))
    }
}

/// Picks each key's version out of all its versions as they go by, and hands on those that are
/// not deletions.
struct VersionPick<'v> {
    as_of: Revision,
    reverse: bool,
    /// Forward: the key already decided. Against the order: the best version seen so far.
    held: Option<(Vec<u8>, Option<Version>)>,
    visit: &'v mut dyn FnMut(KeyRow) -> ControlFlow<()>,
}

impl VersionPick<'_> {
    fn row(
        &mut self,
        key: Vec<u8>,
        revision: Revision,
        value: &[u8],
    ) -> Result<ControlFlow<()>, Error> {
        let same = self.held.as_ref().is_some_and(|(held, _)| *held == key);
        if !self.reverse && same {
            return Ok(ControlFlow::Continue(()));
        }
        if self.reverse && !same && self.emit()?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        if revision > self.as_of {
            return Ok(ControlFlow::Continue(()));
        }
        let (head, value) =
            decode_version(value, revision).map_err(|cause| corrupt("a version", cause))?;
        let version = Version { head, value: Bytes::copy_from_slice(value) };
        self.held = Some((key, Some(version)));
        if self.reverse { Ok(ControlFlow::Continue(())) } else { self.emit() }
    }

    /// Hands the held version on, keeping only its key.
    fn emit(&mut self) -> Result<ControlFlow<()>, Error> {
        let Some((key, version)) = &mut self.held else { return Ok(ControlFlow::Continue(())) };
        match version.take() {
            Some(version) if !version.head.deleted => {
                let key = Key::new(key.clone()).map_err(|cause| corrupt("a key", cause))?;
                Ok((self.visit)(KeyRow { key, version }))
            }
            _ => Ok(ControlFlow::Continue(())),
        }
    }

    fn finish(mut self) -> Result<(), Error> {
        if self.reverse {
            let _ = self.emit()?;
        }
        Ok(())
    }
}
