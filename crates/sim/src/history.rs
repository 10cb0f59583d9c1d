//! What clients asked and heard, in the order in which it happened.

use std::collections::BTreeSet;

use stemedb_types::{GroupId, Revision};

use crate::checks::linearizable::{Action, Operation, Outcome};

/// A key of a shard.
pub type Place = (GroupId, u8);

/// A write that was answered: it must never be missing from now on.
#[derive(Clone, Copy, Debug)]
pub struct Acknowledged {
    /// Where.
    pub place: Place,
    /// Under which revision.
    pub revision: Revision,
    /// What; nothing: it was deleted.
    pub value: Option<u64>,
    /// Asked and answered, as event numbers.
    pub span: (u64, u64),
}

/// Everything that clients did.
#[derive(Debug, Default)]
pub struct History {
    /// Event numbers count calls and answers.
    events: u64,
    values: u64,
    operations: Vec<Operation>,
    /// Operations that were certainly not done.
    undone: BTreeSet<usize>,
    /// Answered writes.
    pub acknowledged: Vec<Acknowledged>,
    /// What was answered, by kind.
    pub counts: Counts,
}

/// How many operations ended how.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Answered reads.
    pub reads: u64,
    /// Answered writes.
    pub writes: u64,
    /// Writes whose condition did not hold.
    pub refused: u64,
    /// Writes of which nobody knows.
    pub unknown: u64,
    /// What was certainly not done.
    pub not_applied: u64,
}

/// An operation that was begun.
#[derive(Clone, Copy, Debug)]
pub struct Begun(usize);

impl History {
    /// A value that no other write has.
    pub fn fresh_value(&mut self) -> u64 {
        self.values += 1;
        self.values
    }

    fn event(&mut self) -> u64 {
        self.events += 1;
        self.events
    }

    /// A client asks.
    pub fn begin(&mut self, client: u32, place: Place, action: Action) -> Begun {
        let called = self.event();
        let key = place.0.0 * 256 + u32::from(place.1);
        let outcome = Outcome::Unknown;
        let returned = u64::MAX;
        self.operations.push(Operation { key, client, called, returned, action, outcome });
        Begun(self.operations.len() - 1)
    }

    /// It hears an answer. Returns when it asked and heard.
    pub fn end(&mut self, begun: Begun, outcome: Outcome) -> (u64, u64) {
        let event = self.event();
        let operation = &mut self.operations[begun.0];
        (operation.returned, operation.outcome) = (event, outcome);
        match (operation.action, outcome) {
            (_, Outcome::Unknown) => self.counts.unknown += 1,
            (_, Outcome::Refused) => self.counts.refused += 1,
            (Action::Get, _) => self.counts.reads += 1,
            _ => self.counts.writes += 1,
        }
        (operation.called, event)
    }

    /// It hears that nothing was done: as if it had never asked.
    pub fn forget(&mut self, begun: Begun) {
        self.undone.insert(begun.0);
        self.counts.not_applied += 1;
    }

    /// All operations that may have been done.
    pub fn operations(&self) -> Vec<Operation> {
        let all = self.operations.iter().enumerate();
        all.filter(|(at, _)| !self.undone.contains(at)).map(|(_, operation)| *operation).collect()
    }
}
