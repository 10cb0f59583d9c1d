//! How a row's name becomes bytes that sort right.
//!
//! ```text
//! row     = group u32 | generation u32 | kind u8 | name        all big-endian
//! text    = the bytes, 0x00 written as 0x00 0xff, closed by 0x00 0x01
//! ```
//!
//! `text` keeps the order of the bytes it holds and lets another part follow:
//! the closing pair sorts below every continuation. The rows of one group of one
//! generation are one range; the newest version of a key comes first, because
//! revisions are written inverted. Names (not values) carry no version: their
//! layout is the version in the store's `FORMAT` file.

use stemedb_machine::shard::{AgentId, BucketNumber, ClaimKey, IdempotencyKey, StatementId};
use stemedb_types::{BucketName, GroupId, ProjectId, Revision};

/// The name of a row, as the bytes it sorts by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Row(pub(crate) Vec<u8>);

impl Row {
    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }
}

/// Rows from `start` up to, not including, `end`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    pub(crate) start: Vec<u8>,
    pub(crate) end: Vec<u8>,
}

impl Range {
    /// Rows from `start` up to, not including, `end`.
    pub fn between(start: &[u8], end: &[u8]) -> Self {
        Self { start: start.to_vec(), end: end.to_vec() }
    }

    /// Every row there can be: no group and no generation of the node's own has the last number.
    pub(crate) fn all() -> Self {
        Self { start: Vec::new(), end: vec![0xff; SCOPE_BYTES] }
    }

    /// Whether no row can be in it: it ends where it starts, or before.
    pub(crate) fn is_empty(&self) -> bool {
        self.start >= self.end
    }

    /// Every row whose name begins with `prefix`, which is never all 0xff here.
    pub(crate) fn prefix(prefix: &[u8]) -> Self {
        let mut end = prefix.to_vec();
        while let Some(last) = end.pop() {
            if last < 0xff {
                end.push(last + 1);
                break;
            }
        }
        Self { start: prefix.to_vec(), end }
    }
}

/// How many bytes of a row's name say which group's it is.
pub(crate) const GROUP_BYTES: usize = 4;
/// How many bytes group and generation take in front of every row.
pub(crate) const SCOPE_BYTES: usize = 8;

/// Pseudo group for rows of the node itself: above every real group.
pub(crate) const NODE_SCOPE: u32 = u32::MAX;

/// What kind of row it is; the order is the order on disk.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(crate) enum Kind {
    Applied = 0x01,
    NextBucket = 0x02,
    Base = 0x03,
    Meta = 0x08,
    Bucket = 0x10,
    Version = 0x20,
    Log = 0x30,
    Claim = 0x40,
    ClaimId = 0x41,
    ClaimByPredicate = 0x42,
    ClaimByAgent = 0x43,
    Expiry = 0x50,
    KeptRange = 0x60,
    KeptName = 0x61,
    KeptAnswer = 0x62,
}

/// Where the rows of one group of one generation live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scope {
    pub(crate) group: GroupId,
    pub(crate) generation: u32,
}

impl Scope {
    /// All rows of the scope.
    pub(crate) fn all(self) -> Range {
        Range::prefix(&self.bytes())
    }

    /// All rows of the group that are of another generation: those below, and those above.
    pub(crate) fn other_generations(self) -> [Range; 2] {
        let group = Range::prefix(&self.group.0.to_be_bytes());
        let own = self.all();
        [Range { start: group.start, end: own.start }, Range { start: own.end, end: group.end }]
    }

    pub(crate) fn bytes(self) -> [u8; SCOPE_BYTES] {
        let mut bytes = [0; SCOPE_BYTES];
        bytes[..4].copy_from_slice(&self.group.0.to_be_bytes());
        bytes[4..].copy_from_slice(&self.generation.to_be_bytes());
        bytes
    }

    /// Begins the name of a row of this scope.
    pub(crate) fn row(self, kind: Kind) -> Name {
        let mut name = Name(Vec::with_capacity(64));
        name.0.extend_from_slice(&self.bytes());
        name.0.push(kind as u8);
        name
    }
}

/// Which generation of a group is the living one.
pub(crate) fn generation_row(group: GroupId) -> Row {
    let mut name = Vec::with_capacity(9);
    name.extend_from_slice(&NODE_SCOPE.to_be_bytes());
    name.extend_from_slice(&[0; 4]);
    name.push(1);
    name.extend_from_slice(&group.0.to_be_bytes());
    Row(name)
}

/// A row's name while it is put together.
pub(crate) struct Name(Vec<u8>);

impl Name {
    pub(crate) fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    pub(crate) fn u32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(crate) fn u64(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// A part that others follow: closed, so that it ends where it ends.
    pub(crate) fn text(mut self, value: &[u8]) -> Self {
        escape(&mut self.0, value);
        self.0.extend_from_slice(&[0, 1]);
        self
    }

    /// The beginning of a part: sorts before every part that begins with it.
    pub(crate) fn text_prefix(mut self, value: &[u8]) -> Self {
        escape(&mut self.0, value);
        self
    }

    /// The last part, as it is.
    pub(crate) fn raw(mut self, value: &[u8]) -> Self {
        self.0.extend_from_slice(value);
        self
    }

    pub(crate) fn finish(self) -> Row {
        Row(self.0)
    }

    pub(crate) fn into_prefix(self) -> Range {
        Range::prefix(&self.0)
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

fn escape(out: &mut Vec<u8>, value: &[u8]) {
    for &byte in value {
        out.push(byte);
        if byte == 0 {
            out.push(0xff);
        }
    }
}

/// Takes one closed part off the front: the part, and what stands behind it.
pub(crate) fn take_text(mut from: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut part = Vec::with_capacity(from.len().saturating_sub(2));
    loop {
        let zero = from.iter().position(|byte| *byte == 0)?;
        part.extend_from_slice(&from[..zero]);
        match from.get(zero + 1)? {
            1 => return Some((part, &from[zero + 2..])),
            0xff => part.push(0),
            _ => return None,
        }
        from = &from[zero + 2..];
    }
}

impl Scope {
    pub(crate) fn applied(self) -> Row {
        self.row(Kind::Applied).finish()
    }

    pub(crate) fn next_bucket(self) -> Row {
        self.row(Kind::NextBucket).finish()
    }

    pub(crate) fn base(self) -> Row {
        self.row(Kind::Base).finish()
    }

    pub(crate) fn bucket(self, project: ProjectId, name: &BucketName) -> Row {
        self.row(Kind::Bucket).u64(project.0).raw(name.as_str().as_bytes()).finish()
    }

    /// All versions of one key, the newest first.
    pub(crate) fn versions(self, bucket: BucketNumber, key: &[u8]) -> Name {
        self.row(Kind::Version).u32(bucket.0).text(key)
    }

    pub(crate) fn version(self, bucket: BucketNumber, key: &[u8], revision: Revision) -> Row {
        self.versions(bucket, key).u64(!revision.0).finish()
    }

    pub(crate) fn log(self, bucket: BucketNumber, revision: Revision) -> Row {
        self.row(Kind::Log).u32(bucket.0).u64(revision.0).finish()
    }

    /// The thin log of a bucket from its beginning up to and with a revision.
    pub(crate) fn log_until(self, bucket: BucketNumber, revision: Revision) -> Range {
        let log = || self.row(Kind::Log).u32(bucket.0);
        let end = match revision.0.checked_add(1) {
            Some(next) => log().u64(next).into_bytes(),
            None => log().into_prefix().end,
        };
        Range { start: log().into_bytes(), end }
    }

    /// A key that goes by itself, by the time at which it does.
    pub(crate) fn expiry(self, at_ms: u64, bucket: BucketNumber, key: &[u8]) -> Row {
        self.row(Kind::Expiry).u64(at_ms).u32(bucket.0).raw(key).finish()
    }

    /// The keys that go by themselves at or before a time, the earliest first.
    pub(crate) fn expiries_until(self, until_ms: u64) -> Range {
        let all = self.row(Kind::Expiry).into_prefix();
        match until_ms.checked_add(1) {
            Some(next) => Range { end: self.row(Kind::Expiry).u64(next).into_bytes(), ..all },
            None => all,
        }
    }

    /// Which answers of a bucket stand. By the bucket's name: an answer may be of one that is not
    /// there.
    pub(crate) fn kept_range(self, project: ProjectId, name: &BucketName) -> Row {
        self.row(Kind::KeptRange).u64(project.0).raw(name.as_str().as_bytes()).finish()
    }

    /// Whose answer has a number.
    pub(crate) fn kept_name(self, project: ProjectId, name: &BucketName, sequence: u64) -> Row {
        let bucket = name.as_str().as_bytes();
        self.row(Kind::KeptName).u64(project.0).text(bucket).u64(sequence).finish()
    }

    /// The answer to a write of this name.
    pub(crate) fn kept_answer(
        self,
        project: ProjectId,
        name: &BucketName,
        key: &IdempotencyKey,
    ) -> Row {
        let bucket = name.as_str().as_bytes();
        self.row(Kind::KeptAnswer).u64(project.0).text(bucket).raw(key.as_bytes()).finish()
    }

    /// A claim's statement and, behind it, its attestations.
    pub(crate) fn claim(self, bucket: BucketNumber, key: &ClaimKey) -> Name {
        self.row(Kind::Claim)
            .u32(bucket.0)
            .text(key.subject.as_bytes())
            .text(key.predicate.as_bytes())
            .raw(&key.id.0)
    }

    pub(crate) fn claim_id(self, bucket: BucketNumber, id: StatementId) -> Row {
        self.row(Kind::ClaimId).u32(bucket.0).raw(&id.0).finish()
    }

    pub(crate) fn claim_by_predicate(self, bucket: BucketNumber, key: &ClaimKey) -> Row {
        self.row(Kind::ClaimByPredicate)
            .u32(bucket.0)
            .text(key.predicate.as_bytes())
            .text(key.subject.as_bytes())
            .raw(&key.id.0)
            .finish()
    }

    pub(crate) fn claim_by_agent(
        self,
        bucket: BucketNumber,
        agent: &AgentId,
        key: &ClaimKey,
    ) -> Row {
        self.row(Kind::ClaimByAgent)
            .u32(bucket.0)
            .text(agent.to_string().as_bytes())
            .text(key.subject.as_bytes())
            .text(key.predicate.as_bytes())
            .raw(&key.id.0)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn closed(part: &[u8], then: &[u8]) -> Vec<u8> {
        Name(Vec::new()).text(part).raw(then).into_bytes()
    }

    #[test]
    fn the_other_generations_are_all_of_the_group_but_the_living_one() {
        for generation in [0, 1, 255, u32::MAX] {
            let scope = Scope { group: GroupId(7), generation };
            let [below, above] = scope.other_generations();
            let covered = |group, generation| {
                let row = Scope { group: GroupId(group), generation }.applied().0;
                [&below, &above].iter().filter(|r| r.start <= row && row < r.end).count()
            };
            for other in [0, 1, 2, 254, 255, 256, u32::MAX] {
                assert_eq!(covered(7, other), usize::from(other != generation), "{other}");
                assert_eq!((covered(6, other), covered(8, other)), (0, 0), "{other}");
            }
        }
    }

    #[test]
    fn names_on_disk_stand_as_they_were_first_written() {
        let scope = Scope { group: GroupId(2), generation: 3 };
        let id = StatementId([0xaa; 32]);
        let key = ClaimKey { subject: "s".to_owned(), predicate: "p\0".to_owned(), id };
        let agent = AgentId::key("a").unwrap();
        let bucket = BucketNumber(5);
        let front = [0, 0, 0, 2, 0, 0, 0, 3];
        let row = |kind: u8, rest: &[&[u8]]| Row([&front, &[kind][..], &rest.concat()].concat());
        let five: &[u8] = &[0, 0, 0, 5];
        let (s, p): (&[u8], &[u8]) = (b"s\0\x01", b"p\0\xff\0\x01");
        assert_eq!(scope.applied(), row(1, &[]));
        assert_eq!(scope.next_bucket(), row(2, &[]));
        assert_eq!(scope.base(), row(3, &[]));
        let name = "b".parse().unwrap();
        assert_eq!(
            scope.bucket(ProjectId(9), &name),
            row(0x10, &[&[0, 0, 0, 0, 0, 0, 0, 9], b"b"])
        );
        let newest = scope.version(bucket, b"k", Revision(1));
        let inverted: &[u8] = &[255, 255, 255, 255, 255, 255, 255, 254];
        assert_eq!(newest, row(0x20, &[five, b"k\0\x01", inverted]));
        assert_eq!(scope.log(bucket, Revision(1)), row(0x30, &[five, &[0, 0, 0, 0, 0, 0, 0, 1]]));
        assert_eq!(scope.claim(bucket, &key).finish(), row(0x40, &[five, s, p, &id.0]));
        assert_eq!(scope.claim_id(bucket, id), row(0x41, &[five, &id.0]));
        assert_eq!(scope.claim_by_predicate(bucket, &key), row(0x42, &[five, p, s, &id.0]));
        let by_agent = scope.claim_by_agent(bucket, &agent, &key);
        assert_eq!(by_agent, row(0x43, &[five, b"key:a\0\x01", s, p, &id.0]));
        let expiry = scope.expiry(1, bucket, b"k\0");
        assert_eq!(expiry, row(0x50, &[&[0, 0, 0, 0, 0, 0, 0, 1], five, b"k\0"]));
        let key = IdempotencyKey::new("~!").unwrap();
        let project: &[u8] = &[0, 0, 0, 0, 0, 0, 0, 9];
        assert_eq!(scope.kept_range(ProjectId(9), &name), row(0x60, &[project, b"b"]));
        let named = scope.kept_name(ProjectId(9), &name, 1);
        assert_eq!(named, row(0x61, &[project, b"b\0\x01", &[0, 0, 0, 0, 0, 0, 0, 1]]));
        let answer = scope.kept_answer(ProjectId(9), &name, &key);
        assert_eq!(answer, row(0x62, &[project, b"b\0\x01", b"~!"]));
        let pointer =
            Row([[0xff; 4], [0; 4]].concat().into_iter().chain([1, 0, 0, 0, 2]).collect());
        assert_eq!(generation_row(GroupId(2)), pointer);
    }

    proptest! {
        #[test]
        fn a_part_reads_back_and_sorts_as_its_bytes_do(
            a in proptest::collection::vec(0u8..4, 0..6),
            b in proptest::collection::vec(0u8..4, 0..6),
            then_a in any::<u64>(), then_b in any::<u64>(),
        ) {
            let row_a = closed(&a, &then_a.to_be_bytes());
            let row_b = closed(&b, &then_b.to_be_bytes());
            prop_assert_eq!(take_text(&row_a), Some((a.clone(), &then_a.to_be_bytes()[..])));
            prop_assert_eq!(row_a.cmp(&row_b), (a, then_a).cmp(&(b, then_b)));
        }

        #[test]
        fn an_open_part_covers_exactly_what_begins_with_it(
            prefix in proptest::collection::vec(0u8..4, 0..4),
            part in proptest::collection::vec(0u8..4, 0..6),
        ) {
            let range = Range::prefix(&Name(vec![7]).text_prefix(&prefix).into_bytes());
            let row = Name(vec![7]).text(&part).raw(b"x").into_bytes();
            let covered = range.start <= row && row < range.end;
            prop_assert_eq!(covered, part.starts_with(&prefix));
        }

        #[test]
        fn junk_is_never_a_part_and_never_a_panic(junk in any::<Vec<u8>>()) {
            if let Some((part, then)) = take_text(&junk) {
                prop_assert_eq!(closed(&part, then), junk);
            }
        }
    }
}
