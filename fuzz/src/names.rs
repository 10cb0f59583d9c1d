//! Names of the store's rows.

use stemedb_machine::shard::{AgentId, BucketNumber, ClaimKey, StatementId};
use stemedb_types::{GroupId, Revision};

use crate::rows::{Kind, Range, Row, SCOPE_BYTES, Scope, take_text};

/// Two rows out of the input: each reads back into the parts it was made of, and they sort as their
/// parts do. The input as it is, taken for a closed part, is refused or read back.
pub fn row_names(input: &[u8]) {
    if let Some((part, then)) = take_text(input) {
        let mut front = Scope { group: GroupId(0), generation: 0 }.row(Kind::Meta).text(&part);
        front = front.raw(then);
        assert_eq!(front.finish().as_slice().get(SCOPE_BYTES + 1..), Some(input));
    }
    let mut from = Take(input);
    let (a, b) = (Parts::take(&mut from), Parts::take(&mut from));
    for parts in [&a, &b] {
        parts.read_back();
    }
    assert_eq!(a.version().cmp(&b.version()), a.in_order().cmp(&b.in_order()));
    assert_eq!(a.expiry().cmp(&b.expiry()), a.by_time().cmp(&b.by_time()));
    assert_eq!(a.claim().cmp(&b.claim()), a.by_terms().cmp(&b.by_terms()));
    // A prefix covers exactly the keys that begin with it.
    let open = a.scope.row(Kind::Version).u32(a.bucket.0).text_prefix(&a.key);
    let covered = inside(&Range::prefix(&open.into_bytes()), &b.version());
    let same = (a.scope, a.bucket) == (b.scope, b.bucket);
    assert_eq!(covered, same && b.key.starts_with(&a.key));
    // All versions of a key and no other's.
    let one = a.scope.versions(a.bucket, &a.key).into_prefix();
    assert_eq!(inside(&one, &b.version()), same && a.key == b.key);
    // The log up to a revision.
    let log = a.scope.log_until(a.bucket, a.revision);
    let row = b.scope.log(b.bucket, b.revision);
    assert_eq!(inside(&log, &row), same && b.revision <= a.revision);
    // What is due.
    let due = a.scope.expiries_until(a.at_ms);
    assert_eq!(inside(&due, &b.expiry()), a.scope == b.scope && b.at_ms <= a.at_ms);
    // Another generation of the group is another range.
    for other in a.scope.other_generations() {
        assert!(!inside(&other, &a.version()));
    }
}

fn inside(range: &Range, row: &Row) -> bool {
    range.start.as_slice() <= row.as_slice() && row.as_slice() < range.end.as_slice()
}

/// What rows are named after.
struct Parts {
    scope: Scope,
    bucket: BucketNumber,
    key: Vec<u8>,
    other: Vec<u8>,
    revision: Revision,
    at_ms: u64,
}

impl Parts {
    fn take(from: &mut Take<'_>) -> Self {
        // Few groups and buckets, so that two rows meet. The last scope is the node's own.
        let group = GroupId(u32::from(from.u8() % 3));
        Self {
            scope: Scope { group, generation: u32::from(from.u8() % 3) },
            bucket: BucketNumber(u32::from(from.u8() % 3)),
            key: from.bytes(),
            other: from.bytes(),
            revision: Revision(from.u64()),
            at_ms: from.u64(),
        }
    }

    fn version(&self) -> Row {
        self.scope.version(self.bucket, &self.key, self.revision)
    }

    fn expiry(&self) -> Row {
        self.scope.expiry(self.at_ms, self.bucket, &self.key)
    }

    fn terms(&self) -> ClaimKey {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (subject, predicate) = (text(&self.key), text(&self.other));
        ClaimKey { subject, predicate, id: StatementId([self.at_ms as u8; 32]) }
    }

    fn claim(&self) -> Row {
        self.scope.claim(self.bucket, &self.terms()).finish()
    }

    fn in_order(&self) -> impl Ord {
        let newest_first = std::cmp::Reverse(self.revision.0);
        (self.scope.bytes(), self.bucket, self.key.clone(), newest_first)
    }

    fn by_time(&self) -> impl Ord {
        (self.scope.bytes(), self.at_ms, self.bucket, self.key.clone())
    }

    fn by_terms(&self) -> impl Ord {
        (self.scope.bytes(), self.bucket, self.terms())
    }

    /// The parts out of the bytes again.
    fn read_back(&self) {
        let row = self.version();
        let name = &row.as_slice()[SCOPE_BYTES + 1..];
        assert_eq!(row.as_slice()[..SCOPE_BYTES], self.scope.bytes());
        assert_eq!(name[..4], self.bucket.0.to_be_bytes());
        let inverted = (!self.revision.0).to_be_bytes();
        assert_eq!(take_text(&name[4..]), Some((self.key.clone(), &inverted[..])));
        let (terms, row) = (self.terms(), self.claim());
        let subject = take_text(&row.as_slice()[SCOPE_BYTES + 5..]);
        let predicate = subject.as_ref().and_then(|(_, rest)| take_text(rest));
        assert_eq!(subject.map(|(part, _)| part), Some(terms.subject.clone().into_bytes()));
        assert_eq!(predicate, Some((terms.predicate.clone().into_bytes(), &terms.id.0[..])));
        if let Ok(agent) = AgentId::key("a") {
            let row = self.scope.claim_by_agent(self.bucket, &agent, &terms);
            assert!(row.as_slice().ends_with(&terms.id.0));
        }
    }
}

/// Takes an input apart; behind its end there are zeros.
struct Take<'i>(&'i [u8]);

impl Take<'_> {
    fn u8(&mut self) -> u8 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        }
    }

    fn u64(&mut self) -> u64 {
        // One byte says how many follow, so that small numbers meet too.
        let count = self.u8() % 9;
        (0..count).fold(0, |number, _| number << 8 | u64::from(self.u8()))
    }

    fn bytes(&mut self) -> Vec<u8> {
        let count = usize::from(self.u8() % 24).min(self.0.len());
        let (bytes, rest) = self.0.split_at(count);
        self.0 = rest;
        bytes.to_vec()
    }
}
