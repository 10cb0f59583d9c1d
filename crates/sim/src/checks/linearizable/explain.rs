//! The shortest failing prefix, and the few operations that make it fail.
//!
//! A prefix of a linearizable history is linearizable, so the return that ends
//! the shortest failing one is found by ever longer steps, then by halving. In the prefix, what has not
//! returned yet is of unknown outcome.
//!
//! Of its operations most have nothing to do with the failure. One may not just
//! be left out, a read of its value would then be the failure; but it may be
//! known less well: a look says nothing, anything else may have happened at any
//! time after its call, or never. Every order that explained the history still
//! explains such a weaker one. So if the weaker one fails, it fails for the
//! same reason, and what cannot be weakened is the reason.

use super::history::History;
use super::search::{self, Work};
use super::{Action, Operation, Outcome, Violation};
use crate::minimise::minimise;

/// How many weaker histories are tried, each with a small part of the work for all.
const ATTEMPTS_MAX: usize = 1000;
const ATTEMPT_SHARE: u64 = 100;

/// Why this key's operations, which were found to fail at this dead end, do.
///
/// Looking for the prefix may take as much work as the check, and so may looking for the reason. If
/// that is not enough they fail all the same, but are longer than need be.
pub(super) fn explain(
    key: u32,
    operations: &[Operation],
    dead_end: u64,
    work_max: u64,
) -> Violation {
    let until = shortest(operations, dead_end, work_max);
    let mut called: Vec<Operation> =
        operations.iter().filter(|operation| operation.called < until).copied().collect();
    called.sort_unstable_by_key(|operation| operation.called);
    let prefix = prefix(&called, until);

    let known: Vec<usize> =
        (0..prefix.len()).filter(|n| prefix[*n].outcome != Outcome::Unknown).collect();
    let mut work = Work::new(work_max);
    let reason = minimise(&known, ATTEMPTS_MAX, |known| {
        let mut left = known.iter().peekable();
        let weaker = prefix.iter().enumerate().filter_map(|(n, operation)| {
            if left.next_if_eq(&&n).is_some() { Some(*operation) } else { weakened(operation) }
        });
        let weaker: Vec<Operation> = weaker.collect();
        work.part(work_max / ATTEMPT_SHARE, |work| fails(&weaker, work))
    });

    // Whoever reads of a value wants to know where it came from.
    let seen: Vec<u64> = reason.iter().filter_map(|n| saw(&prefix[*n])).collect();
    let wrote_it = |n: &usize| wrote(&prefix[*n]).is_some_and(|value| seen.contains(&value));
    let operations: Vec<Operation> = (0..prefix.len())
        .filter(|n| reason.binary_search(n).is_ok() || wrote_it(n))
        .map(|n| called[n])
        .collect();
    Violation { key, until, others: called.len() - operations.len(), operations }
}

/// The return that ends the shortest failing prefix.
///
/// All is well before the dead end, and most often not right after it: the search looks no further
/// ahead than to who still needs a value. So the steps from there are short at first.
fn shortest(operations: &[Operation], dead_end: u64, work_max: u64) -> u64 {
    let known = operations.iter().filter(|operation| operation.outcome != Outcome::Unknown);
    let mut returns: Vec<u64> =
        known.map(|operation| operation.returned).filter(|place| *place >= dead_end).collect();
    returns.sort_unstable();
    let mut work = Work::new(work_max);
    let mut fails = |n: usize| fails(&prefix(operations, returns[n]), &mut work);
    let last = returns.len().saturating_sub(1);
    let (mut passing, mut failing) = (0, 0);
    while failing < last && !fails(failing) {
        (passing, failing) = (failing + 1, (2 * failing + 1).min(last));
    }
    while passing < failing {
        let middle = passing.midpoint(failing);
        if fails(middle) {
            failing = middle;
        } else {
            passing = middle + 1;
        }
    }
    returns.get(failing).copied().unwrap_or(dead_end)
}

/// What was known right after this event.
fn prefix(operations: &[Operation], until: u64) -> Vec<Operation> {
    let called = operations.iter().filter(|operation| operation.called < until);
    let known = |operation: &Operation| {
        let open = operation.returned > until;
        Operation { outcome: if open { Outcome::Unknown } else { operation.outcome }, ..*operation }
    };
    called.map(known).collect()
}

/// The operation as if it had never been answered; none if it did nothing that is known of.
pub(super) fn weakened(operation: &Operation) -> Option<Operation> {
    let looked =
        matches!(operation.outcome, Outcome::Found(_) | Outcome::Refused | Outcome::Deleted(false));
    let action = match (operation.action, operation.outcome) {
        (Action::Swap { value, .. }, Outcome::Done) => Action::Put { value },
        (action, _) => action,
    };
    (!looked).then_some(Operation { action, outcome: Outcome::Unknown, ..*operation })
}

fn fails(operations: &[Operation], work: &mut Work) -> bool {
    matches!(search::dead_end(&History::new(operations), work), Ok(Some(_)))
}

/// The value that the operation found or expected.
fn saw(operation: &Operation) -> Option<u64> {
    match (operation.action, operation.outcome) {
        (Action::Get, Outcome::Found(value)) => value,
        (Action::Swap { expect, .. }, Outcome::Done | Outcome::Refused) => expect,
        _ => None,
    }
}

fn wrote(operation: &Operation) -> Option<u64> {
    match (operation.action, operation.outcome) {
        (Action::Put { value }, _) => Some(value),
        (Action::Swap { .. }, Outcome::Refused) => None,
        (Action::Swap { value, .. }, _) => Some(value),
        (Action::Get | Action::Delete, _) => None,
    }
}
