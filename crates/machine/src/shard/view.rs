//! What a machine can see of the state.
//!
//! `engine` implements [`View`] over RocksDB, the tests over ordered maps. The
//! trait speaks the machine's words; how rows become bytes is the engine's
//! business. Scans hand rows to a visitor one at a time and stop when it says so,
//! so no scan ever holds more than its reader wants.

use std::ops::ControlFlow;

use bytes::Bytes;
use stemedb_claims::{AgentId, StatementId};
use stemedb_types::{BucketName, Key, ProjectId, Revision};

use super::once::{IdempotencyKey, KeptAnswer, KeptName, KeptRange};
use crate::Error;

/// A bucket inside its group: counted up, never used twice in the group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BucketNumber(pub u32);

/// What is known of a bucket as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BucketState {
    /// The bucket's number in its group.
    pub number: BucketNumber,
    /// The newest revision; 0 before the first write.
    pub revision: Revision,
    /// History at and below this revision is gone, except each key's newest version.
    pub compacted: Revision,
    /// What the revision jumped to last, when the newest ones were lost; 0: it never did.
    pub jumped: Revision,
}

impl BucketState {
    /// A version's numbers as they are shown and compared. Those from before a jump are the jump's:
    /// whoever saw one of them may have seen a later version that was lost, so none of them may
    /// hold any more.
    pub fn shown(&self, head: Head) -> Head {
        Head {
            create_revision: head.create_revision.max(self.jumped),
            mod_revision: head.mod_revision.max(self.jumped),
            ..head
        }
    }
}

/// One version of a key, without its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The revision that made the key (since it was last absent).
    pub create_revision: Revision,
    /// The revision of this version.
    pub mod_revision: Revision,
    /// 1 for the version that made the key, then one more with each put.
    pub version: u64,
    /// This version says that the key is gone.
    pub deleted: bool,
    /// When the key goes by itself; `None`: it stays. Never of a deletion.
    pub expiry: Option<Expiry>,
}

impl Head {
    /// The revision that wrote this version: its last touch's, or its own. A touched version stands
    /// once more, under the touch's revision, so that nothing written is ever changed.
    pub fn revision(&self) -> Revision {
        self.expiry.map_or(self.mod_revision, |expiry| expiry.lease)
    }
}

/// When a key goes by itself, and which of its leases on life says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// From this time on an [`Expire`](super::Write::Expire) may be proposed, in ms since 1970.
    /// Until one is applied the key is there.
    pub at_ms: u64,
    /// The revision of the put or touch that set this. Never used twice, so that whoever saw it can
    /// tell whether it still holds.
    pub lease: Revision,
}

/// A key whose time has come: all that an [`Expire`](super::Write::Expire) of it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// Since when, in ms since 1970.
    pub at_ms: u64,
    /// Whose bucket.
    pub project: ProjectId,
    /// Which one.
    pub bucket: BucketName,
    /// Which key.
    pub key: Key,
    /// The lease that ran out.
    pub lease: Revision,
}

/// One version of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Its numbers.
    pub head: Head,
    /// Its value; empty for a deletion.
    pub value: Bytes,
}

/// Keys from `start` (inclusive) up to `end` (exclusive; `None`: to the last).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyRange {
    /// The first key that belongs to the range; empty: from the first key.
    pub start: Vec<u8>,
    /// The first key that does not, if there is one.
    pub end: Option<Vec<u8>>,
}

impl KeyRange {
    /// All keys that begin with `prefix`.
    pub fn prefix(prefix: &[u8]) -> Self {
        Self { start: prefix.to_vec(), end: prefix_end(prefix) }
    }

    /// The part of this range that `other` covers too.
    pub fn within(self, other: &KeyRange) -> Self {
        let start = self.start.max(other.start.clone());
        let end = match (self.end, other.end.clone()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        Self { start, end }
    }
}

/// The least byte string greater than every string that begins with `prefix`; `None` if there is
/// none (the prefix is empty or all 0xff).
fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return Some(end);
        }
    }
    None
}

/// A walk over keys, as they stand at a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyWalk {
    /// Which keys.
    pub range: KeyRange,
    /// As of this revision.
    pub as_of: Revision,
    /// From the last to the first.
    pub reverse: bool,
    /// Without values: [`Version::value`] is empty.
    pub keys_only: bool,
}

/// A key that a walk has behind it, whether it is there at the revision or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassedKey {
    /// The key.
    pub key: Key,
    /// Its version; `None` if the key is gone, or not there yet. Never a deletion.
    pub version: Option<Version>,
    /// How many stored rows the walk came by since the key before.
    pub rows: usize,
    /// How many bytes these have, values included.
    pub bytes: usize,
}

/// A key and the version of it that a scan sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRow {
    /// The key.
    pub key: Key,
    /// Its version: never a deletion.
    pub version: Version,
}

/// Where a claim stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClaimKey {
    /// The statement's subject.
    pub subject: String,
    /// The statement's predicate.
    pub predicate: String,
    /// The statement's id.
    pub id: StatementId,
}

/// One agent's making of a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attestation {
    /// Who; the name says how surely that is known.
    pub agent: AgentId,
    /// The revision of the assert call.
    pub revision: Revision,
    /// The leader's stamp of that call, in ms since 1970.
    pub at_ms: u64,
}

/// A claim as stored: an immutable statement and who made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimRow {
    /// Where it stands.
    pub key: ClaimKey,
    /// The canonical JSON the id was made from.
    pub statement: Bytes,
    /// In order of their revisions, at least one; each agent once.
    pub attestations: Vec<Attestation>,
}

/// In which order a claim scan goes; each keeps the claims of one (subject, predicate) together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimOrder {
    /// By subject, predicate, id.
    Subject,
    /// By predicate, subject, id.
    Predicate,
    /// By subject, predicate, id, among the claims this agent made.
    Agent(AgentId),
}

/// Where a claim scan begins and what it may skip for lack of a match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClaimStart {
    /// Only terms that begin with this: the subject's, or the predicate's in predicate order.
    pub first_prefix: String,
    /// Whether `first_prefix` is the whole term.
    pub first_exact: bool,
    /// Begin behind every claim of this (subject, predicate).
    pub after: Option<(String, String)>,
    /// Of the claims of `after`, leave out only those up to and with this one.
    pub after_id: Option<StatementId>,
}

/// The state of one group, as its machine sees it.
pub trait View {
    /// What is known of a bucket; `None` if nothing was ever written to it.
    fn bucket(&self, project: ProjectId, name: &BucketName) -> Result<Option<BucketState>, Error>;

    /// The revision behind which a new bucket of the group begins: 0, unless revisions were lost.
    fn base(&self) -> Result<Revision, Error>;

    /// The number the next new bucket gets.
    fn next_bucket(&self) -> Result<BucketNumber, Error>;

    /// The newest version of a key, without its value.
    fn head(&self, bucket: BucketNumber, key: &Key) -> Result<Option<Head>, Error>;

    /// The newest version of a key at or below a revision.
    fn version(
        &self,
        bucket: BucketNumber,
        key: &Key,
        as_of: Revision,
    ) -> Result<Option<Version>, Error>;

    /// The newest version of a key, with its value.
    fn current(&self, bucket: BucketNumber, key: &Key) -> Result<Option<Version>, Error> {
        self.version(bucket, key, Revision(u64::MAX))
    }

    /// The bucket's floor at this moment, never behind what is gone already. Look-ups made before at
    /// a revision below it may have missed something, so a reader asks this last.
    fn trimmed(&self, bucket: BucketNumber) -> Result<Revision, Error>;

    /// The keys whose expiry is at or before a time, the earliest first, at most `limit` of them.
    fn due(&self, until_ms: u64, limit: usize) -> Result<Vec<Due>, Error>;

    /// The answer kept of a write of this name.
    fn kept_answer(
        &self,
        project: ProjectId,
        name: &BucketName,
        key: &IdempotencyKey,
    ) -> Result<Option<KeptAnswer>, Error>;

    /// Whose answer has this number.
    fn kept_name(
        &self,
        project: ProjectId,
        name: &BucketName,
        sequence: u64,
    ) -> Result<Option<KeptName>, Error>;

    /// Which answers of a bucket stand; none if none was ever kept.
    fn kept_range(&self, project: ProjectId, name: &BucketName) -> Result<KeptRange, Error>;

    /// Visits every key of a range that has a version, in key order or against it, and tells what
    /// each took; with nothing there behind it, the last may be left out. What is done between two
    /// visits is bounded, however many versions a key has and however many keys are gone.
    fn walk_keys(
        &self,
        bucket: BucketNumber,
        walk: &KeyWalk,
        visit: &mut dyn FnMut(PassedKey) -> ControlFlow<()>,
    ) -> Result<(), Error>;

    /// Visits the keys of a range that are there at a revision, in key order or against it, however
    /// much there is to pass by.
    fn scan_keys(
        &self,
        bucket: BucketNumber,
        range: &KeyRange,
        as_of: Revision,
        reverse: bool,
        visit: &mut dyn FnMut(KeyRow) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let walk = KeyWalk { range: range.clone(), as_of, reverse, keys_only: false };
        self.walk_keys(bucket, &walk, &mut |PassedKey { key, version, .. }| match version {
            Some(version) => visit(KeyRow { key, version }),
            None => ControlFlow::Continue(()),
        })
    }

    /// Where the statement of this id stands.
    fn claim_key(&self, bucket: BucketNumber, id: StatementId) -> Result<Option<ClaimKey>, Error>;

    /// A claim with all its attestations.
    fn claim(&self, bucket: BucketNumber, key: &ClaimKey) -> Result<Option<ClaimRow>, Error>;

    /// Whether this agent made this statement.
    fn attested(
        &self,
        bucket: BucketNumber,
        key: &ClaimKey,
        agent: &AgentId,
    ) -> Result<bool, Error>;

    /// Visits claims in an order that keeps those of one (subject, predicate) together.
    fn scan_claims(
        &self,
        bucket: BucketNumber,
        order: &ClaimOrder,
        start: &ClaimStart,
        visit: &mut dyn FnMut(ClaimRow) -> ControlFlow<()>,
    ) -> Result<(), Error>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_the_next_string_that_does_not_begin_with_it() {
        assert_eq!(prefix_end(b""), None);
        assert_eq!(prefix_end(b"\xff\xff"), None);
        assert_eq!(prefix_end(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(prefix_end(b"a\xff"), Some(b"b".to_vec()));
    }

    #[test]
    fn two_ranges_share_their_overlap() {
        let prefix = KeyRange::prefix(b"b");
        let from = KeyRange { start: b"bc".to_vec(), end: None };
        let both = KeyRange { start: b"bc".to_vec(), end: Some(b"c".to_vec()) };
        assert_eq!(from.within(&prefix), both);
    }
}
