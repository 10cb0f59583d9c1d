//! A statement with those who made it.
//!
//! The id names the sentence, not who says it: when two agents make the same
//! statement there is one claim with two attestations. Only attestations that
//! stand belong here; one that was retracted is left out by whoever reads the
//! store, and a statement made again after that stands by its new attestation.

use std::cmp::Ordering;

use stemedb_types::Revision;

use crate::agent::AgentId;
use crate::instant::InstantNs;
use crate::statement::Statement;

/// One agent's making of a statement. (What it rests on is [`AgentId::assurance`].)
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attestation {
    /// Who.
    pub agent: AgentId,
    /// The revision of the assert call, shared by all items of that call.
    pub revision: Revision,
    /// The leader's stamp of that call, milliseconds since 1970.
    pub at_ms: i64,
}

/// A stored statement with its standing attestations, as lenses see it.
///
/// What always holds: at least one attestation, and no agent twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    statement: Statement,
    attestations: Vec<Attestation>,
    newest: usize,
}

impl Claim {
    /// Joins a statement and those who made it. `None` if nobody did: then nothing stands. Of two
    /// attestations by one agent the newer is kept.
    pub fn new(statement: Statement, mut attestations: Vec<Attestation>) -> Option<Self> {
        attestations.sort_by(|a, b| a.agent.cmp(&b.agent).then(b.revision.cmp(&a.revision)));
        attestations.dedup_by(|later, kept| later.agent == kept.agent);
        let newest =
            (0..attestations.len()).max_by(|a, b| by_age(&attestations[*a], &attestations[*b]))?;
        Some(Self { statement, attestations, newest })
    }

    /// What is claimed.
    pub fn statement(&self) -> &Statement {
        &self.statement
    }

    /// Who claims it, ordered by agent.
    pub fn attestations(&self) -> &[Attestation] {
        &self.attestations
    }

    /// The latest making of it: this is what dates the claim, for when an agent says again what
    /// another said before, that is the latest word.
    pub fn newest(&self) -> &Attestation {
        &self.attestations[self.newest]
    }

    /// The revision it was first made at, by an agent whose attestation still stands.
    pub fn revision_first(&self) -> Revision {
        self.attestations.iter().map(|a| a.revision).min().unwrap_or_default()
    }

    /// The instant that places it among its rivals: `valid_from`, else the leader's stamp.
    pub fn effective_from(&self) -> InstantNs {
        let stamp = || InstantNs::from_ms(self.newest().at_ms);
        self.statement.valid_from().unwrap_or_else(stamp)
    }
}

/// Older first. Revisions grow and clocks may not, so the revision decides; two agents of one
/// envelope share it, and their stamp with it.
fn by_age(a: &Attestation, b: &Attestation) -> Ordering {
    a.revision.cmp(&b.revision).then(a.at_ms.cmp(&b.at_ms)).then(a.agent.cmp(&b.agent))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(agent: &str, revision: u64, at_ms: i64) -> Attestation {
        let agent = AgentId::key(agent).unwrap();
        Attestation { agent, revision: Revision(revision), at_ms }
    }

    fn statement() -> Statement {
        Statement::parse(br#"{"subject":"s","predicate":"p","object":1}"#).unwrap()
    }

    #[test]
    fn a_claim_is_dated_by_its_newest_revision_even_if_a_clock_went_back() {
        let claim = Claim::new(statement(), vec![by("b", 5, 900), by("a", 9, 100)]).unwrap();
        assert_eq!(claim.newest(), &by("a", 9, 100));
        assert_eq!(claim.effective_from(), InstantNs::from_ms(100));
        assert_eq!(claim.revision_first(), Revision(5));
    }

    #[test]
    fn an_agent_counts_once_and_a_statement_nobody_makes_is_no_claim() {
        let claim = Claim::new(statement(), vec![by("a", 1, 1), by("b", 2, 2), by("a", 3, 3)]);
        assert_eq!(claim.unwrap().attestations(), [by("a", 3, 3), by("b", 2, 2)]);
        assert_eq!(Claim::new(statement(), vec![]), None);
    }
}
