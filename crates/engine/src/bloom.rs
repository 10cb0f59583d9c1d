//! Which part of a row's name its filter knows.
//!
//! A table file's Bloom filter answers "is this name in here?" without reading a block. The names
//! that get asked for are not whole rows: the newest version of a key is looked up by the key, and a
//! claim by the claim, whatever stands behind. So the filter of a file holds
//!
//! | rows | what the filter holds of them | who asks |
//! |---|---|---|
//! | versions | the name up to and with the key | every put and get: a seek among a key's versions |
//! | claims and their attestations | the name up to and with the claim's id | assert and query |
//! | one row by its name (bucket, claim by id, kept answers, marks, meta) | the whole name | a point read |
//! | the log, the indexes of claims, the expiries | nothing | only walks, which no filter helps |
//!
//! The bucket alone (what one would first think of) would stand in nearly every file and rule out
//! none: there are few buckets and many keys. Cost: a row of a kind that is walked and also asked for by
//! its whole name needs a line here, else its point reads ask every file.
//!
//! A seek may only be led by the filter if everything it is to find shares one part:
//! [`within_one_part`]. The part never is the beginning of another part (text is closed by a pair that no
//! text holds, ids have one length), so rows that share one stand together.

use rocksdb::SliceTransform;

use crate::rows::{Kind, Range, SCOPE_BYTES};

/// Name of this rule in every file written under it. Change the rule, change the name: RocksDB
/// then leaves the filters of older files alone.
const RULE: &std::ffi::CStr = c"stemedb-part-1";

/// Between scope and name: kind and bucket number.
const FRONT_BYTES: usize = SCOPE_BYTES + 1 + 4;
const CLAIM_ID_BYTES: usize = 32;

/// What a filter holds of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part<'r> {
    /// A beginning that the rows looked up together share.
    Shared(&'r [u8]),
    /// The whole name.
    Whole(&'r [u8]),
    /// Nothing: the row is only ever walked over.
    Nothing,
}

fn part(row: &[u8]) -> Part<'_> {
    const VERSION: u8 = Kind::Version as u8;
    const CLAIM: u8 = Kind::Claim as u8;
    const LOG: u8 = Kind::Log as u8;
    const BY_PREDICATE: u8 = Kind::ClaimByPredicate as u8;
    const BY_AGENT: u8 = Kind::ClaimByAgent as u8;
    const EXPIRY: u8 = Kind::Expiry as u8;
    let end = match row.get(SCOPE_BYTES) {
        Some(&VERSION) => closed(row, FRONT_BYTES),
        Some(&CLAIM) => closed(row, FRONT_BYTES)
            .and_then(|subject| closed(row, subject))
            .map(|predicate| predicate + CLAIM_ID_BYTES)
            .filter(|end| *end <= row.len()),
        Some(&(LOG | BY_PREDICATE | BY_AGENT | EXPIRY)) | None => None,
        Some(_) => return Part::Whole(row),
    };
    end.map_or(Part::Nothing, |end| Part::Shared(&row[..end]))
}

/// Where the text that begins at `from` is closed.
fn closed(row: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        at += row.get(at..)?.iter().position(|byte| *byte == 0)? + 2;
        if *row.get(at - 1)? == 1 {
            return Some(at);
        }
    }
}

/// The rule, for RocksDB.
pub(crate) fn rule() -> SliceTransform {
    let transform = |row| match part(row) {
        Part::Shared(part) | Part::Whole(part) => part,
        Part::Nothing => row,
    };
    SliceTransform::create(RULE, transform, Some(|row| part(row) != Part::Nothing))
}

/// Whether a look-up of a name may find this row: it shares the name's part.
pub(crate) fn finds(name: &[u8], row: &[u8]) -> bool {
    match part(name) {
        Part::Shared(part) => row.starts_with(part),
        Part::Whole(_) | Part::Nothing => true,
    }
}

/// Whether every row that a walk of the range may find shares one part, so that a file whose filter
/// does not know it can be left out.
pub(crate) fn within_one_part(range: &Range) -> bool {
    match part(&range.start) {
        Part::Shared(part) => range.end <= Range::prefix(part).end,
        // Other rows, with a part of their own, may begin with this name.
        Part::Whole(_) | Part::Nothing => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::Scope;
    use proptest::prelude::*;
    use stemedb_machine::shard::{BucketNumber, ClaimKey, StatementId};
    use stemedb_types::{GroupId, Revision};

    const SCOPE: Scope = Scope { group: GroupId(1), generation: 0 };

    fn shared(row: &[u8]) -> Vec<u8> {
        match part(row) {
            Part::Shared(part) => part.to_vec(),
            other => panic!("{other:?}"),
        }
    }

    fn claim(subject: String, predicate: String) -> ClaimKey {
        ClaimKey { subject, predicate, id: StatementId([0; 32]) }
    }

    proptest! {
        #[test]
        fn the_versions_of_a_key_share_the_part_that_is_the_keys_and_no_other_keys(
            a in proptest::collection::vec(0u8..3, 0..5),
            b in proptest::collection::vec(0u8..3, 0..5),
            x: u64, y: u64,
        ) {
            let name = |key: &[u8]| SCOPE.versions(BucketNumber(0), key).into_bytes();
            let row = |key: &[u8], at| SCOPE.version(BucketNumber(0), key, Revision(at)).0;
            prop_assert_eq!(shared(&row(&a, x)), name(&a));
            prop_assert_eq!(shared(&row(&a, x)) == shared(&row(&b, y)), a == b);
            // A part is its own part, and parts sort as their rows do: RocksDB asks for both.
            prop_assert_eq!(shared(&name(&a)), name(&a));
            if row(&a, x) <= row(&b, y) {
                prop_assert!(name(&a) <= name(&b));
            }
            let one = Range { start: row(&a, x), end: Range::prefix(&name(&a)).end };
            prop_assert!(within_one_part(&one));
            let more = Range { start: row(&a, x), end: Range::prefix(&SCOPE.bytes()).end };
            prop_assert!(!within_one_part(&more));
        }

        #[test]
        fn a_claims_rows_share_the_part_that_ends_with_its_id(
            subject in "[\0a]{0,3}", predicate in "[\0a]{0,3}", behind in any::<Vec<u8>>(),
        ) {
            let key = claim(subject, predicate);
            let name = SCOPE.claim(BucketNumber(0), &key).into_bytes();
            let row = SCOPE.claim(BucketNumber(0), &key).raw(&behind).into_bytes();
            prop_assert_eq!(shared(&row), name.clone());
            prop_assert!(within_one_part(&Range::prefix(&name)));
            prop_assert_eq!(part(&name[..name.len() - 1]), Part::Nothing);
        }

        #[test]
        fn junk_has_a_part_that_begins_it_and_is_its_own_part(row: Vec<u8>) {
            if let Part::Shared(front) | Part::Whole(front) = part(&row) {
                prop_assert!(row.starts_with(front));
                prop_assert_eq!(part(&row), part(front));
            }
        }
    }

    #[test]
    fn rows_that_are_only_walked_are_in_no_filter_and_rows_asked_for_by_name_are_whole() {
        let log = SCOPE.log(BucketNumber(0), Revision(1)).0;
        let by_predicate =
            SCOPE.claim_by_predicate(BucketNumber(0), &claim("s".into(), "p".into()));
        assert_eq!((part(&log), part(&by_predicate.0)), (Part::Nothing, Part::Nothing));
        let applied = SCOPE.applied().0;
        assert_eq!(part(&applied), Part::Whole(&applied));
        // A walk from there is not led by a filter: longer rows begin with the same bytes.
        assert!(!within_one_part(&Range::prefix(&applied)));
    }
}
