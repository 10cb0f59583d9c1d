//! Statements with their attestations, and the indexes over them.
//!
//! Behind a claim's name (subject, predicate, id) stand its statement and one
//! row for each agent who made it. The indexes by predicate and by agent hold names
//! alone: a walk of one looks each claim up, a walk in subject order reads
//! the claims as they stand.

use std::ops::ControlFlow;

use bytes::Bytes;
use stemedb_machine::shard::{
    AgentId, Attestation, BucketNumber, ClaimKey, ClaimOrder, ClaimRow, ClaimStart, StatementId,
};

use super::corrupt;
use super::values::{decode_attestation, decode_statement};
use crate::rows::{Kind, Name, Range, Scope, take_text};
use crate::{Error, Group, Row};

/// Behind a claim's id: its statement, then its attestations by agent.
const STATEMENT: u8 = 0;
const ATTESTATION: u8 = 1;

type Visit<'v> = &'v mut dyn FnMut(ClaimRow) -> ControlFlow<()>;

pub(super) fn statement_row(scope: Scope, bucket: BucketNumber, key: &ClaimKey) -> Row {
    scope.claim(bucket, key).u8(STATEMENT).finish()
}

pub(super) fn attestation_row(
    scope: Scope,
    bucket: BucketNumber,
    key: &ClaimKey,
    agent: &AgentId,
) -> Row {
    scope.claim(bucket, key).u8(ATTESTATION).raw(agent.to_string().as_bytes()).finish()
}

/// A claim whose rows are going by.
struct Gather {
    key: ClaimKey,
    statement: Option<Bytes>,
    attestations: Vec<Attestation>,
}

impl Gather {
    fn begin(key: ClaimKey) -> Self {
        Self { key, statement: None, attestations: Vec::new() }
    }

    /// Takes one row of the claim: `rest` is what its name holds behind the id.
    fn row(&mut self, rest: &[u8], value: &[u8]) -> Result<(), Error> {
        let taken = match rest.split_first() {
            Some((&STATEMENT, [])) => decode_statement(value).map(|s| self.statement = Some(s)),
            Some((&ATTESTATION, agent)) => {
                decode_attestation(value, agent).map(|a| self.attestations.push(a))
            }
            _ => return Err(corrupt("a claim", "its name does not parse")),
        };
        taken.map_err(|cause| corrupt("a claim", cause))
    }

    fn finish(mut self) -> Result<ClaimRow, Error> {
        let Some(statement) = self.statement else {
            return Err(corrupt("a claim", "its statement is missing"));
        };
        self.attestations.sort_by(|a, b| (a.revision, &a.agent).cmp(&(b.revision, &b.agent)));
        Ok(ClaimRow { key: self.key, statement, attestations: self.attestations })
    }
}

impl Group {
    /// A claim from its rows; `None` if it has none.
    pub(super) fn gather_claim(
        &self,
        bucket: BucketNumber,
        key: ClaimKey,
    ) -> Result<Option<ClaimRow>, Error> {
        let prefix = self.scope.claim(bucket, &key).into_bytes();
        let mut gather = Gather::begin(key);
        let mut found = false;
        self.try_scan(&Range::prefix(&prefix), |row, value| {
            found = true;
            gather.row(row.get(prefix.len()..).unwrap_or_default(), value)?;
            Ok(ControlFlow::Continue(()))
        })?;
        if found { gather.finish().map(Some) } else { Ok(None) }
    }

    /// Visits claims in subject order: one walk over the claims themselves.
    pub(super) fn walk_claims(
        &self,
        bucket: BucketNumber,
        start: &ClaimStart,
        visit: Visit<'_>,
    ) -> Result<(), Error> {
        let order = ClaimOrder::Subject;
        let (range, prefix_bytes) = self.claim_index(bucket, &order, start);
        let mut open: Option<Gather> = None;
        self.try_scan(&range, |row, value| {
            let (key, rest) = claim_name(row, prefix_bytes, &order)?;
            let same = open.as_ref().is_some_and(|gather| gather.key == key);
            if !same
                && let Some(whole) = open.replace(Gather::begin(key))
                && visit(whole.finish()?).is_break()
            {
                open = None;
                return Ok(ControlFlow::Break(()));
            }
            if let Some(gather) = &mut open {
                gather.row(rest, value)?;
            }
            Ok(ControlFlow::Continue(()))
        })?;
        if let Some(last) = open {
            let _ = visit(last.finish()?);
        }
        Ok(())
    }

    /// Visits claims in the order of an index of names, looking each up.
    pub(super) fn walk_claim_index(
        &self,
        bucket: BucketNumber,
        order: &ClaimOrder,
        start: &ClaimStart,
        visit: Visit<'_>,
    ) -> Result<(), Error> {
        let (range, prefix_bytes) = self.claim_index(bucket, order, start);
        self.try_scan(&range, |row, _| {
            let (key, _) = claim_name(row, prefix_bytes, order)?;
            let claim = self.gather_claim(bucket, key)?;
            Ok(visit(
                claim.ok_or_else(|| corrupt("a claim", "an index names it, it is not there"))?,
            ))
        })
    }

    /// A scan whose visitor may fail.
    fn try_scan(
        &self,
        range: &Range,
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, Error>,
    ) -> Result<(), Error> {
        let mut fault = None;
        self.scan(range, false, &mut |row, value| {
            visit(row, value).unwrap_or_else(|error| {
                fault = Some(error);
                ControlFlow::Break(())
            })
        })?;
        fault.map_or(Ok(()), Err)
    }

    /// The rows of the index a claim scan walks, from where it starts, and how many bytes stand
    /// before the first term.
    fn claim_index(
        &self,
        bucket: BucketNumber,
        order: &ClaimOrder,
        start: &ClaimStart,
    ) -> (Range, usize) {
        let base = || -> Name {
            match order {
                ClaimOrder::Subject => self.scope.row(Kind::Claim).u32(bucket.0),
                ClaimOrder::Predicate => self.scope.row(Kind::ClaimByPredicate).u32(bucket.0),
                ClaimOrder::Agent(agent) => {
                    let by_agent = self.scope.row(Kind::ClaimByAgent).u32(bucket.0);
                    by_agent.text(agent.to_string().as_bytes())
                }
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
            let pair = base().text(one.as_bytes()).text(two.as_bytes());
            let passed = match &start.after_id {
                Some(id) => pair.raw(&id.0),
                None => pair,
            };
            range.start = range.start.max(passed.into_prefix().end);
        }
        (range, prefix_bytes)
    }
}

/// The claim that a row names, and what stands behind the id: nothing in an index.
fn claim_name<'r>(
    row: &'r [u8],
    prefix_bytes: usize,
    order: &ClaimOrder,
) -> Result<(ClaimKey, &'r [u8]), Error> {
    let parse = || {
        let (one, rest) = take_text(row.get(prefix_bytes..)?)?;
        let (two, rest) = take_text(rest)?;
        let (id, rest) = rest.split_first_chunk::<32>()?;
        let id = StatementId(*id);
        let (one, two) = (String::from_utf8(one).ok()?, String::from_utf8(two).ok()?);
        let (subject, predicate) = match order {
            ClaimOrder::Predicate => (two, one),
            ClaimOrder::Subject | ClaimOrder::Agent(_) => (one, two),
        };
        Some((ClaimKey { subject, predicate, id }, rest))
    };
    parse().ok_or_else(|| corrupt("a claim", "its name does not parse"))
}
