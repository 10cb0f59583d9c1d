//! Gets and scans over a view; what may be asked, and what is found.
//!
//! A read names a revision or means the newest; a page's cursor carries the revision
//! of its first page, so that all pages show one state. Reads are pure
//! functions of the view, like writes: the same question at the same revision finds
//! the same on every replica.
//!
//! What a page costs is bounded, whatever it finds: a scan that comes by so many rows without
//! filling its page ends there, with a cursor. How many rows there are to come by is each replica's own affair (history
//! that nobody can see goes when it suits a replica), and so is where such a page ends; what all pages
//! show together is not.

use std::ops::ControlFlow;

use bytes::Bytes;
use stemedb_claims::{AgentId, Lens, StatementId};
use stemedb_types::limits::{PAGE_BYTES_MAX, PAGE_ROWS_MAX};
use stemedb_types::{BucketName, Key, ProjectId, Revision};

use super::query::{Begin, Query};
use super::view::{
    Attestation, BucketState, ClaimStart, KeyRange, KeyWalk, PassedKey, Version, View,
};
use crate::Error;

/// Most rows a scan comes by for one page: old versions, deletions, and what it returns.
pub const SCAN_ROWS_MAX: usize = 20_000;
/// Most bytes of these rows, before the one that is more.
pub const SCAN_BYTES_MAX: usize = 4 * PAGE_BYTES_MAX;

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
        /// [`PAGE_ROWS_MAX`]. The claims of one pair are not split for it, so `all` may go over;
        /// only a pair of more claims than a page may look at goes over several pages.
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
        ClaimStart { first_prefix, first_exact, after: None, after_id: None }
    }
}

/// Where a page ended: the revision all its pages show, and the last thing it came by.
///
/// A cursor of the other kind than the read pins the revision and nothing else: the page is a
/// first one. Whoever takes cursors from outside refuses that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cursor {
    /// Of a scan.
    Key {
        /// The revision of the pages.
        as_of: Revision,
        /// The last key of the page, or one behind it that is not there.
        last: Bytes,
    },
    /// Of a query, behind a pair.
    Claim {
        /// The revision of the pages.
        as_of: Revision,
        /// The subject of the last pair looked at.
        subject: String,
        /// The predicate of the last pair looked at.
        predicate: String,
    },
    /// Of a query, in the middle of a pair that is too large for a page.
    Within {
        /// The revision of the pages.
        as_of: Revision,
        /// The pair's subject.
        subject: String,
        /// The pair's predicate.
        predicate: String,
        /// The last claim of it that was looked at.
        last: StatementId,
        /// The claim that `latest` would have answered with, were there no more.
        best: Option<StatementId>,
    },
}

impl Cursor {
    /// The revision that all pages show.
    pub fn as_of(&self) -> Revision {
        match self {
            Cursor::Key { as_of, .. }
            | Cursor::Claim { as_of, .. }
            | Cursor::Within { as_of, .. } => *as_of,
        }
    }
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
        /// In the order asked for; perhaps fewer than there was room for, or none.
        rows: Vec<ScanRow>,
        /// Where to go on; `None`: this was the last page. With one, the next may be empty.
        cursor: Option<Cursor>,
    },
    /// A page of claims.
    Claims {
        /// The revision that was read at.
        revision: Revision,
        /// The answers; those of one (subject, predicate) stand together, best first. Perhaps none.
        answers: Vec<ClaimAnswer>,
        /// Where to go on; `None`: this was the last page. With one, the next may be empty.
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
    let Some(mut state) = view.bucket(project, bucket)? else { return Ok(empty(read)) };
    loop {
        let revision = match pinned(read) {
            None => state.revision,
            Some(asked) if asked > state.revision || asked < state.compacted => {
                return Ok(ReadAnswer::Compacted { revision: state.revision });
            }
            Some(asked) => asked,
        };
        let answer = read_at(view, &state, revision, read)?;
        if view.trimmed(state.number)? <= revision {
            return Ok(answer);
        }
        // A floor is about to pass by, or has while rows were looked up one after another. What goes
        // with it goes when the bucket's row moves and not before: as long as that row does not show
        // it, nothing was missed.
        let Some(now) = view.bucket(project, bucket)? else { return Ok(empty(read)) };
        if now.compacted <= revision {
            return Ok(answer);
        }
        // Each further round has seen the floor go up meanwhile.
        if now == state {
            let cause = format!("a floor at {}, above the newest revision", now.compacted);
            return Err(Error::Contradiction(cause));
        }
        state = now;
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
            let version = version.map(|version| shown(state, version));
            Ok(ReadAnswer::Value { revision, version })
        }
        Read::Scan { range, reverse, keys_only, limit, cursor, .. } => {
            let range = match cursor {
                Some(Cursor::Key { last, .. }) => behind(range, last, *reverse),
                _ => range.clone(),
            };
            let (reverse, keys_only) = (*reverse, *keys_only);
            let walk = KeyWalk { range, as_of: revision, reverse, keys_only };
            scan(view, state, &walk, *limit)
        }
        Read::Query { pattern, lens, limit, cursor, now_ms, .. } => {
            let begin = match cursor {
                Some(Cursor::Claim { subject, predicate, .. }) => {
                    Begin::Behind(subject.clone(), predicate.clone())
                }
                Some(Cursor::Within { subject, predicate, last, best, .. }) => {
                    let (subject, predicate) = (subject.clone(), predicate.clone());
                    Begin::Within { subject, predicate, last: *last, best: *best }
                }
                Some(Cursor::Key { .. }) | None => Begin::First,
            };
            let query = Query { pattern, lens: *lens, limit: *limit, revision, now_ms: *now_ms };
            query.page(view, state.number, begin)
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
        Read::Scan { as_of, cursor, .. } | Read::Query { as_of, cursor, .. } => {
            cursor.as_ref().map(Cursor::as_of).or(*as_of)
        }
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

fn shown(state: &BucketState, version: Version) -> Version {
    Version { head: state.shown(version.head), ..version }
}

fn scan(
    view: &impl View,
    state: &BucketState,
    walk: &KeyWalk,
    limit: usize,
) -> Result<ReadAnswer, Error> {
    let mut page = Page { limit: limit.clamp(1, PAGE_ROWS_MAX), ..Page::default() };
    view.walk_keys(state.number, walk, &mut |mut passed| {
        passed.version = passed.version.map(|version| shown(state, version));
        page.pass(passed)
    })?;
    let cursor = page.ended.map(|last| Cursor::Key { as_of: walk.as_of, last });
    Ok(ReadAnswer::Page { revision: walk.as_of, rows: page.rows, cursor })
}

/// One page of keys while it is put together.
#[derive(Default)]
struct Page {
    limit: usize,
    rows: Vec<ScanRow>,
    /// Of the rows on the page.
    bytes: usize,
    /// What the walk came by.
    passed_rows: usize,
    passed_bytes: usize,
    /// The key it ends with, if there may be more behind.
    ended: Option<Bytes>,
}

impl Page {
    /// Takes the next key, or breaks off: before it if the page is full, behind it if it has cost
    /// enough. A page that ends early always has a key behind it, so the pages come to an end.
    fn pass(&mut self, passed: PassedKey) -> ControlFlow<()> {
        let PassedKey { key, version, rows, bytes } = passed;
        let full = self.rows.len() == self.limit || self.bytes >= PAGE_BYTES_MAX;
        if full && version.is_some() {
            self.ended = self.rows.last().map(|row| row.key.as_bytes().clone());
            return ControlFlow::Break(());
        }
        let last = key.as_bytes().clone();
        if let Some(version) = version {
            self.bytes += last.len() + version.value.len();
            self.rows.push(ScanRow { key, version });
        }
        self.passed_rows = self.passed_rows.saturating_add(rows);
        self.passed_bytes = self.passed_bytes.saturating_add(bytes);
        if self.passed_rows < SCAN_ROWS_MAX && self.passed_bytes < SCAN_BYTES_MAX {
            return ControlFlow::Continue(());
        }
        self.ended = Some(last);
        ControlFlow::Break(())
    }
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
