//! Queries: claims that match a pattern, each (subject, predicate) resolved by a lens.
//!
//! A query walks the index that its pattern narrows most. The claims of one
//! (subject, predicate), a pair, stand together in every index, so a page is a run of
//! whole pairs, and its cursor names the last pair looked at. For `latest` the losers are
//! dropped on the way.
//!
//! Work and memory of a page are bounded by the claims it looks at. So a pair that is too large for
//! one page goes over several: its cursor names the last claim looked at and, for `latest`, the
//! best so far, which is answered on the page where the pair ends. `all` answers on each page with
//! the claims that it looked at, best first among them. The rest of a pair that does not match is passed
//! over.

use std::collections::HashMap;
use std::ops::ControlFlow;

use stemedb_claims::{Asked, Claim, InstantNs, Lens, Statement, StatementId};
use stemedb_types::Revision;
use stemedb_types::limits::{PAGE_BYTES_MAX, PAGE_ROWS_MAX};

use super::read::{ClaimAnswer, Cursor, Pattern, ReadAnswer, TextMatch};
use super::view::{Attestation, BucketNumber, ClaimKey, ClaimOrder, ClaimRow, ClaimStart, View};
use crate::Error;

/// Most claims a query looks at for one page: what it costs is bounded even if nothing matches.
/// The page then ends early, at the end of a pair, with a cursor; after as many again in a pair that
/// has no end. A pair of no more claims than this is never split.
pub(super) const CLAIMS_VISITED_MAX: usize = 20_000;
/// The same for their bytes.
pub(super) const VISITED_BYTES_MAX: usize = 2 * PAGE_BYTES_MAX;

/// So many claims of a pair are gathered before `latest` drops the losers among them.
const CLAIMS_HELD_MAX: usize = 64;

/// What is asked, at which revision, and when.
pub(super) struct Query<'q> {
    pub(super) pattern: &'q Pattern,
    pub(super) lens: Lens,
    pub(super) limit: usize,
    pub(super) revision: Revision,
    pub(super) now_ms: u64,
}

/// Where the page before ended.
pub(super) enum Begin {
    /// There was none.
    First,
    /// With this pair.
    Behind(String, String),
    /// In the middle of this one.
    Within { subject: String, predicate: String, last: StatementId, best: Option<StatementId> },
}

impl Query<'_> {
    /// One page, behind where the page before ended.
    pub(super) fn page(
        &self,
        view: &impl View,
        bucket: BucketNumber,
        begin: Begin,
    ) -> Result<ReadAnswer, Error> {
        let mut page = Page::begin(self);
        let (after, after_id) = match begin {
            Begin::First => (None, None),
            Begin::Behind(subject, predicate) => (Some((subject, predicate)), None),
            Begin::Within { subject, predicate, last, best } => {
                page.resume(view, bucket, (&subject, &predicate), best)?;
                (Some((subject, predicate)), Some(last))
            }
        };
        let (order, start) = self.plan();
        let start = ClaimStart { after, after_id, ..start };
        let mut fault = None;
        view.scan_claims(bucket, &order, &start, &mut |row| {
            page.take(row).unwrap_or_else(|error| {
                fault = Some(error);
                ControlFlow::Break(())
            })
        })?;
        fault.map_or_else(|| Ok(page.finish()), Err)
    }

    /// Which index to walk: the one whose first term the pattern narrows most.
    fn plan(&self) -> (ClaimOrder, ClaimStart) {
        let Pattern { subject, predicate, agent } = self.pattern;
        match (subject, predicate, agent) {
            (TextMatch::Exact(_), _, _) => (ClaimOrder::Subject, subject.start()),
            (_, _, Some(agent)) => (ClaimOrder::Agent(agent.clone()), subject.start()),
            (TextMatch::Prefix(_), TextMatch::Any | TextMatch::Prefix(_), None) => {
                (ClaimOrder::Subject, subject.start())
            }
            (_, TextMatch::Exact(_) | TextMatch::Prefix(_), None) => {
                (ClaimOrder::Predicate, predicate.start())
            }
            (TextMatch::Any, TextMatch::Any, None) => (ClaimOrder::Subject, subject.start()),
        }
    }

    fn wants(&self, key: &ClaimKey) -> bool {
        self.pattern.subject.matches(&key.subject) && self.pattern.predicate.matches(&key.predicate)
    }

    fn counts(&self, attestation: &Attestation) -> bool {
        attestation.revision <= self.revision
            && self.pattern.agent.as_ref().is_none_or(|agent| attestation.agent == *agent)
    }
}

/// One page while it is put together.
struct Page<'q> {
    query: &'q Query<'q>,
    limit: usize,
    answers: Vec<ClaimAnswer>,
    pairs: usize,
    bytes: usize,
    visited: usize,
    visited_bytes: usize,
    /// The pair whose claims are going by.
    open: Option<Pair<'q>>,
    /// Where the page ends, if there may be more behind it.
    ended: Option<Cursor>,
}

impl<'q> Page<'q> {
    fn begin(query: &'q Query<'q>) -> Self {
        Self {
            query,
            limit: query.limit.clamp(1, PAGE_ROWS_MAX),
            answers: Vec::new(),
            pairs: 0,
            bytes: 0,
            visited: 0,
            visited_bytes: 0,
            open: None,
            ended: None,
        }
    }

    /// Goes on with a pair that the page before did not come to the end of.
    fn resume(
        &mut self,
        view: &impl View,
        bucket: BucketNumber,
        (subject, predicate): (&str, &str),
        best: Option<StatementId>,
    ) -> Result<(), Error> {
        let (subject, predicate) = (subject.to_owned(), predicate.to_owned());
        let mut key = ClaimKey { subject, predicate, id: StatementId([0; 32]) };
        let mut pair = Pair::begin(self.query, &key);
        if let Some(best) = best {
            key.id = best;
            if let Some(row) = view.claim(bucket, &key)? {
                pair.take(row)?;
            }
        }
        self.open = Some(pair);
        Ok(())
    }

    /// Takes the next claim, or breaks off: before it if the page is full, behind it if there is no
    /// end to its pair.
    fn take(&mut self, row: ClaimRow) -> Result<ControlFlow<()>, Error> {
        let mut pair = match self.open.take() {
            Some(pair) if pair.holds(&row.key) => pair,
            Some(pair) => {
                let ended = self.close(pair);
                if self.is_full() {
                    self.ended = Some(ended.behind());
                    return Ok(ControlFlow::Break(()));
                }
                Pair::begin(self.query, &row.key)
            }
            None => Pair::begin(self.query, &row.key),
        };
        self.visited += 1;
        self.visited_bytes = self.visited_bytes.saturating_add(bytes_of(&row));
        let last = row.key.id;
        pair.take(row)?;
        if !pair.wanted && self.has_looked_enough(1) {
            self.ended = Some(pair.behind());
            return Ok(ControlFlow::Break(()));
        }
        if self.has_looked_enough(2) {
            self.ended = Some(pair.within(last));
            if self.query.lens != Lens::Latest {
                self.close(pair);
            }
            return Ok(ControlFlow::Break(()));
        }
        self.open = Some(pair);
        Ok(ControlFlow::Continue(()))
    }

    /// Takes what the lens makes of a pair. Returns the pair, emptied.
    fn close(&mut self, mut pair: Pair<'q>) -> Pair<'q> {
        pair.resolve();
        self.pairs += usize::from(!pair.answers.is_empty());
        self.bytes += pair.answers.iter().map(|a| a.statement.len()).sum::<usize>();
        self.answers.append(&mut pair.answers);
        pair
    }

    fn is_full(&self) -> bool {
        let rows = match self.query.lens {
            Lens::All => self.answers.len(),
            _ => self.pairs,
        };
        rows >= self.limit || self.bytes >= PAGE_BYTES_MAX || self.has_looked_enough(1)
    }

    /// Whether the page has looked at so many times what a page may look at.
    fn has_looked_enough(&self, times: usize) -> bool {
        self.visited >= times * CLAIMS_VISITED_MAX
            || self.visited_bytes >= times * VISITED_BYTES_MAX
    }

    fn finish(mut self) -> ReadAnswer {
        if let Some(pair) = self.open.take() {
            self.close(pair);
        }
        let revision = self.query.revision;
        ReadAnswer::Claims { revision, answers: self.answers, cursor: self.ended }
    }
}

/// About what a claim takes in memory and on its way.
fn bytes_of(row: &ClaimRow) -> usize {
    /// A name of the usual length, and two numbers.
    const ATTESTATION_BYTES: usize = 64;
    row.statement.len() + row.attestations.len() * ATTESTATION_BYTES
}

/// The claims of one (subject, predicate) that count. Of a pair that does not match only the
/// names are kept: enough to know where a page ended.
struct Pair<'q> {
    query: &'q Query<'q>,
    subject: String,
    predicate: String,
    wanted: bool,
    claims: Vec<Claim>,
    /// One for each of `claims`, in the same order; once resolved, the answers.
    answers: Vec<ClaimAnswer>,
}

impl<'q> Pair<'q> {
    fn begin(query: &'q Query<'q>, key: &ClaimKey) -> Self {
        Self {
            query,
            subject: key.subject.clone(),
            predicate: key.predicate.clone(),
            wanted: query.wants(key),
            claims: Vec::new(),
            answers: Vec::new(),
        }
    }

    /// A page that ends with this pair.
    fn behind(&self) -> Cursor {
        let (subject, predicate) = (self.subject.clone(), self.predicate.clone());
        Cursor::Claim { as_of: self.query.revision, subject, predicate }
    }

    /// A page that ends with this claim of this pair.
    fn within(&mut self, last: StatementId) -> Cursor {
        let (subject, predicate) = (self.subject.clone(), self.predicate.clone());
        let best = match self.query.lens {
            Lens::Latest => {
                self.resolve();
                self.answers.first().map(|answer| answer.id)
            }
            _ => None,
        };
        Cursor::Within { as_of: self.query.revision, subject, predicate, last, best }
    }

    fn holds(&self, key: &ClaimKey) -> bool {
        self.subject == key.subject && self.predicate == key.predicate
    }

    fn take(&mut self, row: ClaimRow) -> Result<(), Error> {
        if !self.wanted {
            return Ok(());
        }
        let ClaimRow { key, statement, mut attestations } = row;
        attestations.retain(|attestation| self.query.counts(attestation));
        if attestations.is_empty() {
            return Ok(());
        }
        let read_back = Statement::from_stored(&statement, key.id)
            .map_err(|cause| Error::Contradiction(format!("a stored statement: {cause}")))?;
        let made = attestations.iter().map(|a| stemedb_claims::Attestation {
            agent: a.agent.clone(),
            revision: a.revision,
            at_ms: i64::try_from(a.at_ms).unwrap_or(i64::MAX),
        });
        if let Some(claim) = Claim::new(read_back, made.collect()) {
            self.claims.push(claim);
            self.answers.push(ClaimAnswer { id: key.id, statement, attestations });
        }
        // The latest of some claims and the rest is the latest of all: its order is total.
        if self.query.lens == Lens::Latest && self.claims.len() >= CLAIMS_HELD_MAX {
            self.resolve();
        }
        Ok(())
    }

    /// Keeps what the lens answers with, best first.
    fn resolve(&mut self) {
        let now = InstantNs::from_ms(i64::try_from(self.query.now_ms).unwrap_or(i64::MAX));
        let asked = Asked { now, valid_at: None };
        let resolution = self.query.lens.resolve(&self.claims, asked);
        let won: Vec<StatementId> =
            resolution.answers().iter().map(|claim| claim.statement().id()).collect();
        let pairs = self.claims.drain(..).zip(self.answers.drain(..));
        let mut held: HashMap<StatementId, (Claim, ClaimAnswer)> =
            pairs.map(|(claim, answer)| (answer.id, (claim, answer))).collect();
        let kept = won.iter().filter_map(|id| held.remove(id));
        (self.claims, self.answers) = kept.unzip();
    }
}
