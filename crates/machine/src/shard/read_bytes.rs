//! The bytes of reads, cursors and answers, between peers; cursors also in a caller's hands.
//!
//! A call between peers carries its version in front (the façade's), so reads
//! and answers have none of their own; a cursor comes back from outside, long
//! after, and carries one.

use bytes::Bytes;
use stemedb_types::limits::PAGE_ROWS_MAX;
use stemedb_types::{DecodeError, Decoder, Encoder, Revision};

use super::command::{decode_agent, decode_id, decode_key};
use super::read::{ClaimAnswer, Cursor, Pattern, Read, ReadAnswer, ScanRow, TextMatch};
use super::view::{Attestation, Expiry, Head, KeyRange, Version};

impl TextMatch {
    fn encode(&self, out: &mut Encoder) {
        match self {
            TextMatch::Any => out.u8(0),
            TextMatch::Prefix(prefix) => {
                out.u8(1);
                out.text(prefix);
            }
            TextMatch::Exact(exact) => {
                out.u8(2);
                out.text(exact);
            }
        }
    }

    fn decode(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(match from.u8()? {
            0 => TextMatch::Any,
            1 => TextMatch::Prefix(from.text("a prefix")?.to_owned()),
            2 => TextMatch::Exact(from.text("a term")?.to_owned()),
            got => return Err(DecodeError::Value { what: "a text match", got: got.into() }),
        })
    }
}

impl Read {
    /// Writes the bytes that [`Read::decode`] reads.
    pub fn encode(&self, out: &mut Encoder) {
        let revision = |out: &mut Encoder, revision: &Option<Revision>| {
            out.option(*revision, |out, revision| out.varint(revision.0));
        };
        let cursor = |out: &mut Encoder, cursor: &Option<Cursor>| {
            out.option(cursor.as_ref(), |out, cursor| cursor.encode(out));
        };
        match self {
            Read::Get { key, as_of } => {
                out.u8(1);
                out.bytes(key.as_bytes());
                revision(out, as_of);
            }
            Read::Scan { range, reverse, keys_only, limit, as_of, cursor: from } => {
                out.u8(2);
                out.bytes(&range.start);
                out.option(range.end.as_ref(), |out, end| out.bytes(end));
                out.bool(*reverse);
                out.bool(*keys_only);
                out.varint(*limit as u64);
                revision(out, as_of);
                cursor(out, from);
            }
            Read::Query { pattern, lens, limit, as_of, cursor: from, now_ms } => {
                out.u8(3);
                pattern.subject.encode(out);
                pattern.predicate.encode(out);
                out.option(pattern.agent.as_ref(), |out, agent| out.text(&agent.to_string()));
                out.text(lens.as_str());
                out.varint(*limit as u64);
                revision(out, as_of);
                cursor(out, from);
                out.varint(*now_ms);
            }
            Read::Claim { id } => {
                out.u8(4);
                out.raw(&id.0);
            }
        }
    }

    /// Reads a read out of `from`, which reads `input`: the result shares its memory.
    pub fn decode(from: &mut Decoder<'_>, input: &Bytes) -> Result<Self, DecodeError> {
        let limit = |from: &mut Decoder<'_>| {
            from.varint().map(|limit| limit.min(PAGE_ROWS_MAX as u64) as usize)
        };
        Ok(match from.u8()? {
            1 => Read::Get { key: decode_key(from, input)?, as_of: decode_revision(from)? },
            2 => Read::Scan {
                range: KeyRange {
                    start: from.bytes()?.to_vec(),
                    end: from.option(|from| from.bytes().map(<[u8]>::to_vec))?,
                },
                reverse: from.bool()?,
                keys_only: from.bool()?,
                limit: limit(from)?,
                as_of: decode_revision(from)?,
                cursor: from.option(Cursor::decode)?,
            },
            3 => Read::Query {
                pattern: Pattern {
                    subject: TextMatch::decode(from)?,
                    predicate: TextMatch::decode(from)?,
                    agent: from.option(decode_agent)?,
                },
                lens: from
                    .text("a lens")?
                    .parse()
                    .map_err(|_| DecodeError::Value { what: "a lens", got: 0 })?,
                limit: limit(from)?,
                as_of: decode_revision(from)?,
                cursor: from.option(Cursor::decode)?,
                now_ms: from.varint()?,
            },
            4 => Read::Claim { id: decode_id(from)? },
            got => return Err(DecodeError::Value { what: "a read", got: got.into() }),
        })
    }
}

fn decode_revision(from: &mut Decoder<'_>) -> Result<Option<Revision>, DecodeError> {
    from.option(|from| from.varint().map(Revision))
}

const CURSOR_VERSION: u8 = 1;

impl Cursor {
    /// Writes the bytes that [`Cursor::decode`] reads: also what a caller is handed, in base64.
    pub fn encode(&self, out: &mut Encoder) {
        out.u8(CURSOR_VERSION);
        match self {
            Cursor::Key { as_of, last } => {
                out.u8(1);
                out.varint(as_of.0);
                out.bytes(last);
            }
            Cursor::Claim { as_of, subject, predicate } => {
                out.u8(2);
                out.varint(as_of.0);
                out.text(subject);
                out.text(predicate);
            }
            Cursor::Within { as_of, subject, predicate, last, best } => {
                out.u8(3);
                out.varint(as_of.0);
                out.text(subject);
                out.text(predicate);
                out.raw(&last.0);
                out.option(*best, |out, best| out.raw(&best.0));
            }
        }
    }

    /// Reads what [`Cursor::encode`] wrote.
    pub fn decode(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        from.version("cursor", CURSOR_VERSION)?;
        Ok(match from.u8()? {
            1 => Cursor::Key {
                as_of: Revision(from.varint()?),
                last: Bytes::copy_from_slice(from.bytes()?),
            },
            2 => Cursor::Claim {
                as_of: Revision(from.varint()?),
                subject: from.text("a subject")?.to_owned(),
                predicate: from.text("a predicate")?.to_owned(),
            },
            3 => Cursor::Within {
                as_of: Revision(from.varint()?),
                subject: from.text("a subject")?.to_owned(),
                predicate: from.text("a predicate")?.to_owned(),
                last: decode_id(from)?,
                best: from.option(decode_id)?,
            },
            got => return Err(DecodeError::Value { what: "a cursor", got: got.into() }),
        })
    }
}

impl ReadAnswer {
    /// The revision that was read at, or the newest one.
    pub fn revision(&self) -> Revision {
        match self {
            ReadAnswer::Value { revision, .. }
            | ReadAnswer::Page { revision, .. }
            | ReadAnswer::Claims { revision, .. }
            | ReadAnswer::Compacted { revision } => *revision,
        }
    }

    /// Writes the bytes that [`ReadAnswer::decode`] reads.
    pub fn encode(&self, out: &mut Encoder) {
        match self {
            ReadAnswer::Value { revision, version } => {
                out.u8(1);
                out.varint(revision.0);
                out.option(version.as_ref(), encode_version);
            }
            ReadAnswer::Page { revision, rows, cursor } => {
                out.u8(2);
                out.varint(revision.0);
                out.varint(rows.len() as u64);
                for row in rows {
                    out.bytes(row.key.as_bytes());
                    encode_version(out, &row.version);
                }
                out.option(cursor.as_ref(), |out, cursor| cursor.encode(out));
            }
            ReadAnswer::Claims { revision, answers, cursor } => {
                out.u8(3);
                out.varint(revision.0);
                out.varint(answers.len() as u64);
                for answer in answers {
                    out.raw(&answer.id.0);
                    out.bytes(&answer.statement);
                    out.varint(answer.attestations.len() as u64);
                    for attestation in &answer.attestations {
                        out.text(&attestation.agent.to_string());
                        out.varint(attestation.revision.0);
                        out.varint(attestation.at_ms);
                    }
                }
                out.option(cursor.as_ref(), |out, cursor| cursor.encode(out));
            }
            ReadAnswer::Compacted { revision } => {
                out.u8(4);
                out.varint(revision.0);
            }
        }
    }

    /// Reads an answer out of `from`, which reads `input`: values share its memory.
    pub fn decode(from: &mut Decoder<'_>, input: &Bytes) -> Result<Self, DecodeError> {
        let tag = from.u8()?;
        let revision = Revision(from.varint()?);
        Ok(match tag {
            1 => {
                let version = from.option(|from| decode_version(from, input))?;
                ReadAnswer::Value { revision, version }
            }
            2 => {
                let count = from.length(6)?;
                let row = |from: &mut Decoder<'_>| {
                    Ok(ScanRow {
                        key: decode_key(from, input)?,
                        version: decode_version(from, input)?,
                    })
                };
                let rows = (0..count).map(|_| row(from)).collect::<Result<_, DecodeError>>()?;
                ReadAnswer::Page { revision, rows, cursor: from.option(Cursor::decode)? }
            }
            3 => {
                let count = from.length(34)?;
                let answers = (0..count).map(|_| decode_claim_answer(from, input));
                let answers = answers.collect::<Result<_, _>>()?;
                ReadAnswer::Claims { revision, answers, cursor: from.option(Cursor::decode)? }
            }
            4 => ReadAnswer::Compacted { revision },
            got => return Err(DecodeError::Value { what: "a read's answer", got: got.into() }),
        })
    }
}

fn decode_claim_answer(from: &mut Decoder<'_>, input: &Bytes) -> Result<ClaimAnswer, DecodeError> {
    let id = decode_id(from)?;
    let statement = input.slice_ref(from.bytes()?);
    let count = from.length(3)?;
    let attestation = |from: &mut Decoder<'_>| {
        Ok(Attestation {
            agent: decode_agent(from)?,
            revision: Revision(from.varint()?),
            at_ms: from.varint()?,
        })
    };
    let attestations = (0..count).map(|_| attestation(from)).collect::<Result<_, DecodeError>>()?;
    Ok(ClaimAnswer { id, statement, attestations })
}

/// What the flags of a version say; a deletion has no expiry, so never both.
const DELETED: u8 = 1;
const EXPIRES: u8 = 2;

fn encode_version(out: &mut Encoder, version: &Version) {
    out.varint(version.head.create_revision.0);
    out.varint(version.head.mod_revision.0);
    out.varint(version.head.version);
    let expires = version.head.expiry.is_some();
    out.u8(u8::from(version.head.deleted) * DELETED + u8::from(expires) * EXPIRES);
    if let Some(expiry) = version.head.expiry {
        out.varint(expiry.at_ms);
        out.varint(expiry.lease.0);
    }
    out.bytes(&version.value);
}

fn decode_version(from: &mut Decoder<'_>, input: &Bytes) -> Result<Version, DecodeError> {
    let create_revision = Revision(from.varint()?);
    let mod_revision = Revision(from.varint()?);
    let version = from.varint()?;
    let flags = from.u8()?;
    if flags > EXPIRES {
        return Err(DecodeError::Value { what: "the flags of a version", got: flags.into() });
    }
    let expiry = match flags {
        EXPIRES => Some(Expiry { at_ms: from.varint()?, lease: Revision(from.varint()?) }),
        _ => None,
    };
    let deleted = flags == DELETED;
    let head = Head { create_revision, mod_revision, version, deleted, expiry };
    Ok(Version { head, value: input.slice_ref(from.bytes()?) })
}
