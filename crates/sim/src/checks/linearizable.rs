//! Each key behaves as one register, whoever asks whichever node.
//!
//! Linearizability (Herlihy and Wing, 1990): every operation seems to happen at
//! one moment between its call and its return, and the answers are those of one
//! register to which they happened in that order. Keys are independent, so a
//! history is linearizable exactly if its part of each key is (they proved it;
//! Horn and Kroening, *Faster linearizability checking via P-compositionality*,
//! 2015, made it the reason such checks end in time). So each key is judged
//! alone.
//!
//! One key is searched as by Wing and Gong (*Testing and verifying concurrent
//! objects*, 1993): try every order that time allows. Lowe (*Testing for
//! linearizability*, 2017) added the two things that make it fast: remember the
//! configurations met (which operations have happened, and what the register
//! holds), and let an operation happen only just in time, when something that
//! returns needs it. Ours walks all configurations side by side, from return to
//! return, and adds a third: forget a configuration as soon as another can do
//! all that it can (`configuration`); and do not try what cannot be of use
//! (`steps` says what that is, and why). That, too, is what keeps writes of
//! unknown outcome from doubling the work each.
//!
//! A violation names the operations that contradict each other (`explain`).
//!
//! Left out: deciding at any cost. The question is NP-complete (Gibbons and
//! Korach, 1997), so the work for a key is bounded ([`WORK_MAX`]), and so is
//! how many of its operations may be under way at once ([`PENDING_MAX`]). Past
//! either, the verdict is [`Verdict::Undecided`], which is no pass.
//!
//! | file | idea |
//! |---|---|
//! | `history` | one key's operations in the search's own words |
//! | `configuration` | one way the past may have gone, and which ways are no loss |
//! | `search` | from return to return with all ways that are left |
//! | `steps` | what may happen next, and what is not worth trying |
//! | `explain` | the shortest failing prefix, and the few operations that make it fail |

mod configuration;
mod explain;
mod history;
mod search;
mod steps;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use history::History;
use search::Work;

/// How much work is spent on one key, in configurations made, steps tried from them, and comparisons
/// of two of them. It is some seconds' worth. Five thousand operations by ten clients take less than
/// a hundredth of it, and two hundredths where every third outcome is unknown.
pub const WORK_MAX: u64 = 200_000_000;

/// How many operations of one key may be under way at once, those of unknown outcome apart, of which
/// there may be any number.
pub const PENDING_MAX: usize = 128;

/// What a client asked of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// What does it hold?
    Get,
    /// Hold this from now on.
    Put {
        /// Which write this is: no other writes the same value.
        value: u64,
    },
    /// Hold nothing from now on.
    Delete,
    /// Hold this from now on, provided that.
    Swap {
        /// What the key must hold for it to happen.
        expect: Option<u64>,
        /// Which write this is.
        value: u64,
    },
}

/// What the client was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A get: what it found.
    Found(Option<u64>),
    /// A put or a swap: it happened. A delete: it happened, and whether something was there was
    /// not told.
    Done,
    /// A delete: it happened, and this says whether something was there.
    Deleted(bool),
    /// A swap: the key held something else, and still does.
    Refused,
    /// Anything: it may have happened at any time after its call, however late, or never.
    Unknown,
}

/// One operation of a history. What is known not to have happened does not belong into one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// On which key.
    pub key: u32,
    /// By which client; for the reader of an explanation only.
    pub client: u32,
    /// The place of the call in the order of all calls and returns, each of which has its own.
    pub called: u64,
    /// The place of the return, which is after the call. Of an unknown outcome it means nothing.
    pub returned: u64,
    /// What was asked.
    pub action: Action,
    /// What was told.
    pub outcome: Outcome,
}

/// What came out of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// There is an order that explains all answers, for each key.
    Linearizable,
    /// There is none, for this key at least.
    Violated(Violation),
    /// No key was found to be violated, but this one took more than the work allowed: nothing is
    /// known about it, and it must not count as passed.
    Undecided {
        /// The first such key.
        key: u32,
    },
}

/// Why no order explains all answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Of which key.
    pub key: u32,
    /// The return that ends the shortest failing prefix: up to the return before it all was well, or
    /// too much work to tell.
    pub until: u64,
    /// The operations that contradict each other, and those that wrote what these saw, in the order
    /// of their calls. The contradiction stands whatever the others did, or whether they did it.
    pub operations: Vec<Operation>,
    /// How many others on this key were called before `until`.
    pub others: usize,
}

/// Does each key behave as one register?
///
/// Panics where an operation returns before it is called, where two events have one place, or where
/// an outcome is none that its action can have: whoever wrote the history made a mistake.
pub fn check(operations: &[Operation]) -> Verdict {
    check_within(operations, WORK_MAX)
}

/// As [`check`], with a bound of one's own on the work for a key, in place of [`WORK_MAX`].
pub fn check_within(operations: &[Operation], work_max: u64) -> Verdict {
    let mut keys: BTreeMap<u32, Vec<Operation>> = BTreeMap::new();
    for operation in operations {
        keys.entry(operation.key).or_default().push(*operation);
    }
    let mut verdict = Verdict::Linearizable;
    for (key, operations) in keys {
        match search::dead_end(&History::new(&operations), &mut Work::new(work_max)) {
            Ok(None) => {}
            Ok(Some(place)) => {
                return Verdict::Violated(explain::explain(key, &operations, place, work_max));
            }
            Err(search::Exhausted) if verdict == Verdict::Linearizable => {
                verdict = Verdict::Undecided { key };
            }
            Err(search::Exhausted) => {}
        }
    }
    verdict
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, until, operations, others } = self;
        writeln!(f, "key {key}: no order of its operations explains their answers up to {until}:")?;
        for operation in operations {
            writeln!(f, "  {operation}")?;
        }
        match others {
            0 => write!(f, "there was no other operation"),
            1 => write!(f, "whatever the 1 other operation did"),
            _ => write!(f, "whatever the {others} other operations did"),
        }
    }
}

impl std::error::Error for Violation {}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client, called, returned, action, outcome, .. } = self;
        match outcome {
            Outcome::Unknown => write!(f, "[{called}, …) ")?,
            _ => write!(f, "[{called}, {returned}] ")?,
        }
        write!(f, "client {client}: {action} → {outcome}")
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Get => write!(f, "get"),
            Self::Put { value } => write!(f, "put {value}"),
            Self::Delete => write!(f, "delete"),
            Self::Swap { expect: Some(expect), value } => write!(f, "swap {expect} for {value}"),
            Self::Swap { expect: None, value } => write!(f, "swap nothing for {value}"),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Found(Some(value)) => write!(f, "found {value}"),
            Self::Found(None) => write!(f, "found nothing"),
            Self::Done => write!(f, "done"),
            Self::Deleted(true) => write!(f, "deleted"),
            Self::Deleted(false) => write!(f, "nothing was there"),
            Self::Refused => write!(f, "refused"),
            Self::Unknown => write!(f, "unknown"),
        }
    }
}
