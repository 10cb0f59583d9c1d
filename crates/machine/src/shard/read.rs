//! Gets, scans and queries over a view.
//!
//! A read names a revision or means the newest; a page's cursor carries the revision
//! of its first page, so that all pages show one state. Reads are pure
//! functions of the view, like writes: the same question at the same revision gets
//! the same answer from every replica.

use std::ops::ControlFlow;

use bytes::Bytes;
use stemedb_claims::{AgentId, Asked, Claim, InstantNs, Lens, Statement, StatementId};
use stemedb_types::limits::{PAGE_BYTES_MAX, PAGE_ROWS_MAX};
use stemedb_types::{BucketName, DecodeError, Decoder, Encoder, Key, ProjectId, Revision};

use super::command::{decode_agent, decode_id, decode_key};
use super::view::{
    Attestation, BucketNumber, BucketState, ClaimKey, ClaimOrder, ClaimRow, ClaimStart, Head,
    KeyRange, Version, View,
};
use crate::Error;

/// Most claims a query looks at for one page: what it costs is bounded even if nothing matches.
/// The page then ends early, with a cursor.
const CLAIMS_VISITED_MAX: usize = 20_000;

/// A question about one bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// One key.
    Get {
        /// Which key.
        key: Key,
        /// As of this revision; `None`: now.
        as_of: Option<Revision>,
    },
    /// A page of keys, in order.
    Scan {
        /// Which keys.
        range: KeyRange,
        /// From the last to the first.
        reverse: bool,
        /// Without values.
        keys_only: bool,
        /// Most rows, 1 to [`PAGE_ROWS_MAX`].
        limit: usize,
        /// As of this revision; `None`: now, or the cursor's.
        as_of: Option<Revision>,
        /// Where the page before ended.
        cursor: Option<Cursor>,
    },
    /// A page of claims that match a pattern, each (subject, predicate) resolved by a lens.
    Query {
        /// Which claims.
        pattern: Pattern,
        /// How to resolve them.
        lens: Lens,
        /// Most (subject, predicate) pairs for `latest`, most claims for `all`, 1 to
        /// [`PAGE_ROWS_MAX`]. The claims of one pair are never split, so `all` may go over.
        limit: usize,
        /// As of this revision; `None`: now, or the cursor's.
        as_of: Option<Revision>,
        /// Where the page before ended.
        cursor: Option<Cursor>,
        /// The asker's clock, in ms since 1970: what `latest` calls now.
        now_ms: u64,
    },
    /// One claim by its statement's id.
    Claim {
        /// The statement's id.
        id: StatementId,
    },
}

/// What claims must look like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pattern {
    /// The subject.
    pub subject: TextMatch,
    /// The predicate.
    pub predicate: TextMatch,
    /// Only attestations of this agent count.
    pub agent: Option<AgentId>,
}

/// What a text must look like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TextMatch {
    /// Any.
    #[default]
    Any,
    /// It begins with this.
    Prefix(String),
    /// It is this.
    Exact(String),
}

impl TextMatch {
    /// Whether `text` looks like it.
    pub fn matches(&self, text: &str) -> bool {
        match self {
            TextMatch::Any => true,
            TextMatch::Prefix(prefix) => text.starts_with(prefix.as_str()),
            TextMatch::Exact(exact) => text == exact,
        }
    }

    fn start(&self) -> ClaimStart {
        let (first_prefix, first_exact) = match self {
            TextMatch::Any => (String::new(), false),
            TextMatch::Prefix(prefix) => (prefix.clone(), false),
            TextMatch::Exact(exact) => (exact.clone(), true),
        };
        ClaimStart { first_prefix, first_exact, after: None }
    }

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

/// Where a page ended: the revision all its pages show, and the last thing on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cursor {
    /// Of a scan.
    Key {
        /// The revision of the pages.
        as_of: Revision,
        /// The last key of the page.
        last: Bytes,
    },
    /// Of a query.
    Claim {
        /// The revision of the pages.
        as_of: Revision,
        /// The subject of the last pair looked at.
        subject: String,
        /// The predicate of the last pair looked at.
        predicate: String,
    },
}

/// What a read found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadAnswer {
    /// The key's version, if it was there.
    Value {
        /// The revision that was read at.
        revision: Revision,
        /// The version; never a deletion.
        version: Option<Version>,
    },
    /// A page of keys.
    Page {
        /// The revision that was read at.
        revision: Revision,
        /// In the order asked for.
        rows: Vec<ScanRow>,
        /// Where to go on, if there is more.
        cursor: Option<Cursor>,
    },
    /// A page of claims.
    Claims {
        /// The revision that was read at.
        revision: Revision,
        /// The answers; those of one (subject, predicate) stand together, best first.
        answers: Vec<ClaimAnswer>,
        /// Where to go on, if there may be more.
        cursor: Option<Cursor>,
    },
    /// The revision asked for is gone, or not there yet.
    Compacted {
        /// The bucket's newest revision.
        revision: Revision,
    },
}

/// One key of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanRow {
    /// The key.
    pub key: Key,
    /// Its version; the value is empty if only keys were asked for.
    pub version: Version,
}

/// One claim of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimAnswer {
    /// The statement's id.
    pub id: StatementId,
    /// Its canonical JSON.
    pub statement: Bytes,
    /// Who made it, as of the revision read at and as far as the pattern counts them.
    pub attestations: Vec<Attestation>,
}

/// Answers one read from the state that `view` shows.
pub fn read(
    view: &impl View,
    project: ProjectId,
    bucket: &BucketName,
    read: &Read,
) -> Result<ReadAnswer, Error> {
    let Some(state) = view.bucket(project, bucket)? else { return Ok(empty(read)) };
    let revision = match pinned(read) {
        None => state.revision,
        Some(asked) if asked > state.revision || asked < state.compacted => {
            return Ok(ReadAnswer::Compacted { revision: state.revision });
        }
        Some(asked) => asked,
    };
    match read {
        Read::Get { key, .. } => {
            let version = view.version(state.number, key, revision)?;
            let version = version.filter(|version| !version.head.deleted);
            Ok(ReadAnswer::Value { revision, version })
        }
        Read::Scan { range, reverse, keys_only, limit, cursor, .. } => {
            let range = match cursor {
                Some(Cursor::Key { last, .. }) => behind(range, last, *reverse),
                _ => range.clone(),
            };
            scan(view, state.number, revision, &range, *reverse, *keys_only, *limit)
        }
        Read::Query { pattern, lens, limit, cursor, now_ms, .. } => {
            let after = match cursor {
                Some(Cursor::Claim { subject, predicate, .. }) => {
                    Some((subject.clone(), predicate.clone()))
                }
                _ => None,
            };
            let now = InstantNs::from_ms(i64::try_from(*now_ms).unwrap_or(i64::MAX));
            let asked = Asked { now, valid_at: None };
            Query { pattern, lens: *lens, limit: *limit, revision, asked, state }.run(view, after)
        }
        Read::Claim { id } => claim(view, &state, *id),
    }
}

/// What a bucket that nothing was ever written to answers.
fn empty(read: &Read) -> ReadAnswer {
    let revision = Revision(0);
    if pinned(read).is_some_and(|asked| asked > revision) {
        return ReadAnswer::Compacted { revision };
    }
    match read {
        Read::Get { .. } => ReadAnswer::Value { revision, version: None },
        Read::Scan { .. } => ReadAnswer::Page { revision, rows: Vec::new(), cursor: None },
        Read::Query { .. } | Read::Claim { .. } => {
            ReadAnswer::Claims { revision, answers: Vec::new(), cursor: None }
        }
    }
}

fn pinned(read: &Read) -> Option<Revision> {
    match read {
        Read::Get { as_of, .. } => *as_of,
        Read::Scan { as_of, cursor, .. } | Read::Query { as_of, cursor, .. } => match cursor {
            Some(Cursor::Key { as_of, .. } | Cursor::Claim { as_of, .. }) => Some(*as_of),
            None => *as_of,
        },
        Read::Claim { .. } => None,
    }
}

/// The part of a range that lies behind the last key of a page.
fn behind(range: &KeyRange, last: &[u8], reverse: bool) -> KeyRange {
    if reverse {
        return range.clone().within(&KeyRange { start: Vec::new(), end: Some(last.to_vec()) });
    }
    let mut start = last.to_vec();
    start.push(0);
    range.clone().within(&KeyRange { start, end: None })
}

fn scan(
    view: &impl View,
    bucket: BucketNumber,
    revision: Revision,
    range: &KeyRange,
    reverse: bool,
    keys_only: bool,
    limit: usize,
) -> Result<ReadAnswer, Error> {
    let limit = limit.clamp(1, PAGE_ROWS_MAX);
    let mut rows: Vec<ScanRow> = Vec::new();
    let mut bytes = 0;
    let mut more = false;
    view.scan_keys(bucket, range, revision, reverse, &mut |row| {
        if rows.len() == limit || bytes >= PAGE_BYTES_MAX {
            more = true;
            return ControlFlow::Break(());
        }
        let mut version = row.version;
        if keys_only {
            version.value = Bytes::new();
        }
        bytes += row.key.as_bytes().len() + version.value.len();
        rows.push(ScanRow { key: row.key, version });
        ControlFlow::Continue(())
    })?;
    let last = rows.last().filter(|_| more);
    let cursor = last.map(|row| Cursor::Key { as_of: revision, last: row.key.as_bytes().clone() });
    Ok(ReadAnswer::Page { revision, rows, cursor })
}

fn claim(view: &impl View, state: &BucketState, id: StatementId) -> Result<ReadAnswer, Error> {
    let row = match view.claim_key(state.number, id)? {
        None => None,
        Some(key) => view.claim(state.number, &key)?,
    };
    let answers = row.into_iter().map(ClaimAnswer::from).collect();
    Ok(ReadAnswer::Claims { revision: state.revision, answers, cursor: None })
}

impl From<ClaimRow> for ClaimAnswer {
    fn from(row: ClaimRow) -> Self {
        Self { id: row.key.id, statement: row.statement, attestations: row.attestations }
    }
}

/// One page of a query while it is put together.
struct Query<'q> {
    pattern: &'q Pattern,
    lens: Lens,
    limit: usize,
    revision: Revision,
    asked: Asked,
    state: BucketState,
}

impl Query<'_> {
    fn run(&self, view: &impl View, after: Option<(String, String)>) -> Result<ReadAnswer, Error> {
        let (order, start) = self.plan(after);
        let mut answers: Vec<ClaimAnswer> = Vec::new();
        let mut pairs = 0;
        let mut bytes = 0;
        let mut visited = 0;
        let mut pair: Vec<ClaimRow> = Vec::new();
        let mut cut_at = None;
        let mut fault = None;
        let limit = self.limit.clamp(1, PAGE_ROWS_MAX);
        view.scan_claims(self.state.number, &order, &start, &mut |row| {
            let ends_pair = pair.last().is_some_and(|last| !same_pair(&last.key, &row.key));
            if ends_pair {
                let ended = pair.last().map(|last| last.key.clone());
                match self.resolve(std::mem::take(&mut pair)) {
                    Ok(resolved) => {
                        pairs += usize::from(!resolved.is_empty());
                        bytes += resolved.iter().map(|a| a.statement.len()).sum::<usize>();
                        answers.extend(resolved);
                    }
                    Err(error) => {
                        fault = Some(error);
                        return ControlFlow::Break(());
                    }
                }
                let full = match self.lens {
                    Lens::All => answers.len() >= limit,
                    _ => pairs >= limit,
                };
                if full || bytes >= PAGE_BYTES_MAX || visited >= CLAIMS_VISITED_MAX {
                    cut_at = ended;
                    return ControlFlow::Break(());
                }
            }
            visited += 1;
            // Of pairs that don't match only the key is kept: enough to know where the page ended.
            pair.push(row);
            ControlFlow::Continue(())
        })?;
        if let Some(fault) = fault {
            return Err(fault);
        }
        if cut_at.is_none() {
            answers.extend(self.resolve(pair)?);
        }
        let cursor = cut_at.map(|key| Cursor::Claim {
            as_of: self.revision,
            subject: key.subject,
            predicate: key.predicate,
        });
        Ok(ReadAnswer::Claims { revision: self.revision, answers, cursor })
    }

    /// Which index to walk: the one whose first term the pattern narrows most.
    fn plan(&self, after: Option<(String, String)>) -> (ClaimOrder, ClaimStart) {
        let Pattern { subject, predicate, agent } = self.pattern;
        let (order, start) = match (subject, predicate, agent) {
            (TextMatch::Exact(_), _, _) => (ClaimOrder::Subject, subject.start()),
            (_, _, Some(agent)) => (ClaimOrder::Agent(agent.clone()), subject.start()),
            (TextMatch::Prefix(_), TextMatch::Any | TextMatch::Prefix(_), None) => {
                (ClaimOrder::Subject, subject.start())
            }
            (_, TextMatch::Exact(_) | TextMatch::Prefix(_), None) => {
                (ClaimOrder::Predicate, predicate.start())
            }
            (TextMatch::Any, TextMatch::Any, None) => (ClaimOrder::Subject, subject.start()),
        };
        (order, ClaimStart { after, ..start })
    }

    /// What the lens makes of the claims of one pair, as of the page's revision.
    fn resolve(&self, pair: Vec<ClaimRow>) -> Result<Vec<ClaimAnswer>, Error> {
        let Some(first) = pair.first() else { return Ok(Vec::new()) };
        let wanted = self.pattern.subject.matches(&first.key.subject)
            && self.pattern.predicate.matches(&first.key.predicate);
        if !wanted {
            return Ok(Vec::new());
        }
        let mut claims = Vec::with_capacity(pair.len());
        let mut counted = Vec::with_capacity(pair.len());
        for row in pair {
            let attestations: Vec<Attestation> =
                row.attestations.iter().filter(|a| self.counts(a)).cloned().collect();
            let statement = Statement::from_stored(&row.statement, row.key.id)
                .map_err(|cause| Error::Contradiction(format!("a stored statement: {cause}")))?;
            let made = attestations.iter().map(|a| stemedb_claims::Attestation {
                agent: a.agent.clone(),
                revision: a.revision,
                at_ms: i64::try_from(a.at_ms).unwrap_or(i64::MAX),
            });
            if let Some(claim) = Claim::new(statement, made.collect()) {
                claims.push(claim);
                counted.push(ClaimAnswer {
                    id: row.key.id,
                    statement: row.statement,
                    attestations,
                });
            }
        }
        let resolution = self.lens.resolve(&claims, self.asked);
        let ids = resolution.answers().iter().map(|claim| claim.statement().id());
        Ok(ids.filter_map(|id| counted.iter().find(|a| a.id == id).cloned()).collect())
    }

    fn counts(&self, attestation: &Attestation) -> bool {
        attestation.revision <= self.revision
            && self.pattern.agent.as_ref().is_none_or(|agent| attestation.agent == *agent)
    }
}

fn same_pair(a: &ClaimKey, b: &ClaimKey) -> bool {
    a.subject == b.subject && a.predicate == b.predicate
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
                out.option(version.as_ref(), |out, version| encode_version(out, version));
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

fn encode_version(out: &mut Encoder, version: &Version) {
    out.varint(version.head.create_revision.0);
    out.varint(version.head.mod_revision.0);
    out.varint(version.head.version);
    out.bool(version.head.deleted);
    out.bytes(&version.value);
}

fn decode_version(from: &mut Decoder<'_>, input: &Bytes) -> Result<Version, DecodeError> {
    let head = Head {
        create_revision: Revision(from.varint()?),
        mod_revision: Revision(from.varint()?),
        version: from.varint()?,
        deleted: from.bool()?,
    };
    Ok(Version { head, value: input.slice_ref(from.bytes()?) })
}
