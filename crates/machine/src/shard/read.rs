//! Gets and scans over a view; what may be asked, and what is found.
//!
//! A read names a revision or means the newest; a page's cursor carries the revision
//! of its first page, so that all pages show one state. Reads are pure
//! functions of the view, like writes: the same question at the same revision gets
//! the same answer from every replica.

use std::ops::ControlFlow;

use bytes::Bytes;
use stemedb_claims::{AgentId, Lens, StatementId};
use stemedb_types::limits::{PAGE_BYTES_MAX, PAGE_ROWS_MAX};
use stemedb_types::{BucketName, Key, ProjectId, Revision};

use super::query::Query;
use super::view::{Attestation, BucketNumber, BucketState, ClaimStart, KeyRange, Version, View};
use crate::Error;

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

    pub(super) fn start(&self) -> ClaimStart {
        let (first_prefix, first_exact) = match self {
            TextMatch::Any => (String::new(), false),
            TextMatch::Prefix(prefix) => (prefix.clone(), false),
            TextMatch::Exact(exact) => (exact.clone(), true),
        };
        ClaimStart { first_prefix, first_exact, after: None }
    }
}

/// Where a page ended: the revision all its pages show, and the last thing on it.
///
/// A cursor of the other kind than the read pins the revision and nothing else: the page is a
/// first one. Whoever takes cursors from outside refuses that.
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
    loop {
        let Some(state) = view.bucket(project, bucket)? else { return Ok(empty(read)) };
        let revision = match pinned(read) {
            None => state.revision,
            Some(asked) if asked > state.revision || asked < state.compacted => {
                return Ok(ReadAnswer::Compacted { revision: state.revision });
            }
            Some(asked) => asked,
        };
        let answer = read_at(view, &state, revision, read)?;
        // The floor may have passed by while rows were looked up one after another. Each such round
        // needs a floor that went up meanwhile, so there are few.
        if view.trimmed(state.number)? <= revision {
            return Ok(answer);
        }
    }
}

/// Answers a read at one revision, which the view still shows.
fn read_at(
    view: &impl View,
    state: &BucketState,
    revision: Revision,
    read: &Read,
) -> Result<ReadAnswer, Error> {
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
            let query = Query { pattern, lens: *lens, limit: *limit, revision, now_ms: *now_ms };
            query.page(view, state.number, after)
        }
        Read::Claim { id } => claim(view, state, *id),
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
    let answers = row.into_iter().filter_map(|row| {
        // A write may have come in since the bucket was looked at: it is not of this revision.
        let known = |a: &Attestation| a.revision <= state.revision;
        let attestations: Vec<_> = row.attestations.into_iter().filter(known).collect();
        let stands = !attestations.is_empty();
        stands.then_some(ClaimAnswer { id: row.key.id, statement: row.statement, attestations })
    });
    Ok(ReadAnswer::Claims { revision: state.revision, answers: answers.collect(), cursor: None })
}
