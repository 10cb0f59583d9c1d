//! A query over more claims than one page may look at.

use std::ops::ControlFlow;

use bytes::Bytes;
use stemedb_claims::{Lens, StatementId};
use stemedb_types::{BucketName, Key, ProjectId, Revision};

use crate::Error;
use crate::shard::query::CLAIMS_VISITED_MAX;
use crate::shard::suite::agent;
use crate::shard::{
    AgentId, Attestation, BucketNumber, BucketState, ClaimKey, ClaimOrder, ClaimRow, ClaimStart,
    Cursor, Due, Head, KeyRange, KeyRow, Pattern, Read, ReadAnswer, TextMatch, Version, View, read,
};

/// A bucket of so many claims, two on each subject, none of which can be read as a statement.
struct Many(usize);

impl View for Many {
    fn bucket(&self, _: ProjectId, _: &BucketName) -> Result<Option<BucketState>, Error> {
        let (number, revision) = (BucketNumber(0), Revision(1));
        Ok(Some(BucketState { number, revision, compacted: Revision(0) }))
    }

    fn next_bucket(&self) -> Result<BucketNumber, Error> {
        Ok(BucketNumber(1))
    }

    fn head(&self, _: BucketNumber, _: &Key) -> Result<Option<Head>, Error> {
        Ok(None)
    }

    fn version(&self, _: BucketNumber, _: &Key, _: Revision) -> Result<Option<Version>, Error> {
        Ok(None)
    }

    fn trimmed(&self, _: BucketNumber) -> Result<Revision, Error> {
        Ok(Revision(0))
    }

    fn due(&self, _: u64, _: usize) -> Result<Vec<Due>, Error> {
        Ok(Vec::new())
    }

    fn scan_keys(
        &self,
        _: BucketNumber,
        _: &KeyRange,
        _: Revision,
        _: bool,
        _: &mut dyn FnMut(KeyRow) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        Ok(())
    }

    fn claim_key(&self, _: BucketNumber, _: StatementId) -> Result<Option<ClaimKey>, Error> {
        Ok(None)
    }

    fn claim(&self, _: BucketNumber, _: &ClaimKey) -> Result<Option<ClaimRow>, Error> {
        Ok(None)
    }

    fn attested(&self, _: BucketNumber, _: &ClaimKey, _: &AgentId) -> Result<bool, Error> {
        Ok(false)
    }

    fn scan_claims(
        &self,
        _: BucketNumber,
        _: &ClaimOrder,
        start: &ClaimStart,
        visit: &mut dyn FnMut(ClaimRow) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        for n in 0..self.0 {
            let subject = format!("{:08}", n / 2);
            if start.after.as_ref().is_some_and(|(after, _)| subject <= *after) {
                continue;
            }
            let key = ClaimKey { subject, predicate: "p".to_owned(), id: StatementId([0; 32]) };
            let made = Attestation { agent: agent("a"), revision: Revision(1), at_ms: 0 };
            let row = ClaimRow { key, statement: Bytes::new(), attestations: vec![made] };
            if visit(row).is_break() {
                return Ok(());
            }
        }
        Ok(())
    }
}

fn ask(view: &Many, predicate: &str, cursor: Option<Cursor>) -> Result<ReadAnswer, Error> {
    let predicate = TextMatch::Exact(predicate.to_owned());
    let pattern = Pattern { predicate, ..Pattern::default() };
    let asked = Read::Query { pattern, lens: Lens::All, limit: 10, as_of: None, cursor, now_ms: 0 };
    read(view, ProjectId(1), &"b".parse().unwrap(), &asked)
}

#[test]
fn a_page_that_finds_nothing_ends_early_with_a_cursor_and_the_pages_come_to_an_end() {
    let view = Many(CLAIMS_VISITED_MAX * 2 + 100);
    let mut cursor = None;
    let mut lasts = Vec::new();
    loop {
        let ReadAnswer::Claims { answers, cursor: next, .. } = ask(&view, "other", cursor).unwrap()
        else {
            panic!("not claims")
        };
        assert_eq!(answers, []);
        let Some(Cursor::Claim { subject, .. }) = &next else { break };
        lasts.push(subject.clone());
        cursor = next;
    }
    let pairs = CLAIMS_VISITED_MAX / 2;
    assert_eq!(lasts, [format!("{:08}", pairs - 1), format!("{:08}", pairs * 2 - 1)]);
}

#[test]
fn a_stored_statement_that_does_not_read_back_stops_the_query() {
    let refused = ask(&Many(3), "p", None);
    assert!(matches!(refused, Err(Error::Contradiction(_))), "{refused:?}");
}
