//! What the clients of one run asked and heard.
//!
//! Calls and returns get numbers in the order in which they happened: the driver is one thread, so
//! a number taken before a request is sent and one taken when its answer is there say truly which
//! operation was over before another began. The history goes to the checker of the simulation
//! ([`stemedb_sim::checks::linearizable`]), which was written for histories of any origin.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use stemedb_sim::checks::linearizable::{self, Action, Operation, Outcome, Verdict};

/// Everything that was asked and heard.
#[derive(Debug, Default)]
pub(crate) struct Record {
    events: u64,
    values: u64,
    operations: Vec<Option<Operation>>,
    /// The checker's numbers of registers, by bucket and key.
    registers: BTreeMap<(String, String), u32>,
    /// Keys written once each and acknowledged, by bucket.
    inserted: BTreeMap<String, BTreeSet<String>>,
    counts: Counts,
    /// When each client last heard of a success, and its longest time without one.
    gaps: BTreeMap<usize, (Duration, Duration)>,
    wrong: Option<String>,
}

/// How many operations ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Writes that were acknowledged.
    pub(crate) acknowledged: u64,
    /// Reads that were answered.
    pub(crate) reads: u64,
    /// Writes whose condition did not hold.
    pub(crate) refused: u64,
    /// Writes of which nobody knows.
    pub(crate) unknown: u64,
    /// What was certainly not done, and reads that were not answered.
    pub(crate) not_applied: u64,
}

/// An operation that was begun.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Begun(usize);

impl Record {
    /// A value that no other write has.
    pub(crate) fn fresh_value(&mut self) -> u64 {
        self.values += 1;
        self.values
    }

    /// A client asks something of a register.
    pub(crate) fn begin(
        &mut self,
        client: usize,
        bucket: &str,
        key: &str,
        action: Action,
    ) -> Begun {
        let known = u32::try_from(self.registers.len()).unwrap_or(u32::MAX);
        let place = (bucket.to_owned(), key.to_owned());
        let key = *self.registers.entry(place).or_insert(known);
        let client = u32::try_from(client).unwrap_or(u32::MAX);
        let (called, returned, outcome) = (self.event(), u64::MAX, Outcome::Unknown);
        self.operations.push(Some(Operation { key, client, called, returned, action, outcome }));
        Begun(self.operations.len() - 1)
    }

    /// It hears an answer; or, of a write, that nobody knows.
    pub(crate) fn end(&mut self, begun: Begun, outcome: Outcome) {
        let event = self.event();
        let Some(operation) = self.operations.get_mut(begun.0).and_then(Option::as_mut) else {
            return;
        };
        (operation.returned, operation.outcome) = (event, outcome);
        match outcome {
            Outcome::Unknown => self.counts.unknown += 1,
            Outcome::Refused => self.counts.refused += 1,
            Outcome::Found(_) => self.counts.reads += 1,
            Outcome::Done | Outcome::Deleted(_) => self.counts.acknowledged += 1,
        }
    }

    /// It was certainly not done, or was a read without an answer: as if it had never been asked.
    pub(crate) fn forget(&mut self, begun: Begun) {
        if let Some(operation) = self.operations.get_mut(begun.0) {
            *operation = None;
        }
        self.counts.not_applied += 1;
    }

    /// A key that is written once was acknowledged.
    pub(crate) fn inserted(&mut self, bucket: &str, key: String) {
        self.inserted.entry(bucket.to_owned()).or_default().insert(key);
        self.counts.acknowledged += 1;
    }

    /// A write of such a key did not get through; it may be there or not.
    pub(crate) fn not_inserted(&mut self, known: bool) {
        let count = if known { &mut self.counts.not_applied } else { &mut self.counts.unknown };
        *count += 1;
    }

    /// An answer that no server of this kind may give.
    pub(crate) fn wrong(&mut self, what: impl FnOnce() -> String) {
        self.wrong.get_or_insert_with(what);
    }

    /// A client heard of a success at this time, or begins or ends at it.
    pub(crate) fn success(&mut self, client: usize, at: Duration) {
        let (last, longest) = self.gaps.entry(client).or_insert((at, Duration::ZERO));
        *longest = (*longest).max(at.saturating_sub(*last));
        *last = at;
    }

    /// How many ended how.
    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    /// The longest time without a success of each client.
    pub(crate) fn gaps(&self) -> Vec<Duration> {
        self.gaps.values().map(|(_, longest)| *longest).collect()
    }

    /// The first wrong answer.
    pub(crate) fn first_wrong(&self) -> Option<&str> {
        self.wrong.as_deref()
    }

    /// Every register anybody asked for, by bucket and key.
    pub(crate) fn registers(&self) -> impl Iterator<Item = &(String, String)> {
        self.registers.keys()
    }

    /// The buckets with keys written once.
    pub(crate) fn buckets(&self) -> impl Iterator<Item = &String> {
        self.inserted.keys()
    }

    /// Acknowledged keys that are not among those found in a bucket.
    pub(crate) fn lost(&self, bucket: &str, found: &BTreeSet<String>) -> Vec<String> {
        let inserted = self.inserted.get(bucket).into_iter().flatten();
        inserted.filter(|key| !found.contains(*key)).cloned().collect()
    }

    /// Whether every register behaved as one.
    pub(crate) fn verdict(&self) -> Verdict {
        let history: Vec<Operation> = self.operations.iter().copied().flatten().collect();
        linearizable::check(&history)
    }

    fn event(&mut self) -> u64 {
        self.events += 1;
        self.events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn put(record: &mut Record, value: u64) -> Begun {
        record.begin(0, "b", "k", Action::Put { value })
    }

    fn get(record: &mut Record, found: Option<u64>) {
        let begun = record.begin(1, "b", "k", Action::Get);
        record.end(begun, Outcome::Found(found));
    }

    #[test]
    fn a_recorded_history_is_judged() {
        // Intent: the same answers are right or wrong by what was recorded of the writes alone.
        let mut record = Record::default();
        let first = put(&mut record, 1);
        record.end(first, Outcome::Done);
        let unknown = put(&mut record, 2);
        record.end(unknown, Outcome::Unknown);
        get(&mut record, Some(1));
        get(&mut record, Some(2));
        let refused = put(&mut record, 3);
        record.forget(refused);
        assert_eq!(record.verdict(), Verdict::Linearizable);
        let counts = Counts { acknowledged: 1, reads: 2, refused: 0, unknown: 1, not_applied: 1 };
        assert_eq!(record.counts(), counts);

        // A stale read: the unknown write was seen before.
        get(&mut record, Some(1));
        assert!(matches!(record.verdict(), Verdict::Violated(_)));
    }

    #[test]
    fn a_lost_write_and_one_that_happened_though_it_was_refused_are_seen() {
        let mut lost = Record::default();
        let write = put(&mut lost, 1);
        lost.end(write, Outcome::Done);
        get(&mut lost, None);
        assert!(matches!(lost.verdict(), Verdict::Violated(_)));

        let mut refused = Record::default();
        let write = put(&mut refused, 1);
        refused.forget(write);
        get(&mut refused, Some(1));
        assert!(matches!(refused.verdict(), Verdict::Violated(_)));
    }

    #[test]
    fn a_write_applied_twice_is_seen() {
        // The swap from 1 to 2 came in twice; between the two, 2 had been swapped for 1 again by
        // nobody: the register can't have gone back.
        let mut record = Record::default();
        let write = put(&mut record, 1);
        record.end(write, Outcome::Done);
        let swap = Action::Swap { expect: Some(1), value: 2 };
        for _ in 0..2 {
            let begun = record.begin(0, "b", "k", swap);
            record.end(begun, Outcome::Done);
        }
        assert!(matches!(record.verdict(), Verdict::Violated(_)));
        // And a put seen, overwritten and seen again.
        let mut record = Record::default();
        for value in [1, 2] {
            let begun = put(&mut record, value);
            record.end(begun, Outcome::Done);
            get(&mut record, Some(value));
        }
        get(&mut record, Some(1));
        assert!(matches!(record.verdict(), Verdict::Violated(_)));
    }

    #[test]
    fn what_was_acknowledged_and_is_not_found_is_lost() {
        let mut record = Record::default();
        record.inserted("b", "x".to_owned());
        record.inserted("b", "y".to_owned());
        record.not_inserted(false);
        let found = BTreeSet::from(["x".to_owned(), "z".to_owned()]);
        assert_eq!(record.lost("b", &found), ["y"]);
        assert_eq!(record.lost("other", &found), Vec::<String>::new());
        assert_eq!((record.counts().acknowledged, record.counts().unknown), (2, 1));
    }

    #[test]
    fn the_longest_gap_is_between_two_successes_of_one_client() {
        let mut record = Record::default();
        for (client, at) in [(0, 0), (1, 0), (0, 10), (1, 90), (0, 100), (0, 101)] {
            record.success(client, at * MS);
        }
        assert_eq!(record.gaps(), [90 * MS, 90 * MS]);
    }
}
