//! One key's operations in the search's own words.
//!
//! Only what can be told apart is kept apart. A value that no answer depends on
//! is as good as any other such value: whichever of them the key holds, what
//! anybody was told is the same. So all of them become one, [`UNNAMED`], and
//! writes of it become interchangeable. Reads, refused swaps and deletes that
//! found nothing become one kind, because all they do is look.

use std::collections::{BTreeMap, BTreeSet};

use super::{Action, Operation, Outcome};

/// What the key holds, as far as answers can tell.
pub(super) type Held = usize;

/// The key holds nothing, as at the beginning.
pub(super) const NOTHING: Held = 0;
/// It holds one of the values that no answer tells apart. Named values come after it.
pub(super) const UNNAMED: Held = 1;

/// What an operation does, and what must be true for it to do that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// It looks, and the key holds this.
    Is(Held),
    /// It looks, and the key does not hold this.
    IsNot(Held),
    /// Whatever the key holds, it holds this afterwards.
    Write(Held),
    /// The key holds something, and nothing afterwards.
    Remove,
    /// The key holds the first, and the second afterwards.
    Swap(Held, Held),
}

impl Kind {
    /// Whether it is a look that sees what it should in a key that holds this.
    pub(super) fn sees(self, held: Held) -> bool {
        match self {
            Self::Is(what) => what == held,
            Self::IsNot(what) => what != held,
            Self::Write(_) | Self::Remove | Self::Swap(..) => false,
        }
    }

    /// Whether it looks only.
    pub(super) fn looks(self) -> bool {
        matches!(self, Self::Is(_) | Self::IsNot(_))
    }

    /// What the key must hold for it to happen, if that is one thing.
    pub(super) fn needs(self) -> Option<Held> {
        match self {
            Self::Is(held) | Self::Swap(held, _) => Some(held),
            Self::IsNot(_) | Self::Write(_) | Self::Remove => None,
        }
    }

    /// What the key holds afterwards, if it does anything.
    pub(super) fn leaves(self) -> Option<Held> {
        match self {
            Self::Is(_) | Self::IsNot(_) => None,
            Self::Write(held) | Self::Swap(_, held) => Some(held),
            Self::Remove => Some(NOTHING),
        }
    }
}

/// An operation that may matter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Op {
    pub(super) kind: Kind,
    pub(super) called: u64,
    /// None where the outcome is unknown: it need not happen, and may happen late.
    pub(super) returned: Option<u64>,
}

/// A call or a return, of the operation with this index.
#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    Called(usize),
    Returned(usize),
}

/// All that one key was asked and answered.
#[derive(Debug)]
pub(super) struct History {
    pub(super) ops: Vec<Op>,
    /// All calls and returns in their order, with their places.
    pub(super) events: Vec<(u64, Event)>,
    /// By what is held: how many operations can leave it.
    sources: Vec<usize>,
    /// By what is held: when the last that needs it is called.
    needed_until: Vec<u64>,
    /// By what is held: when the last returns that can tell it from other values.
    told_until: Vec<u64>,
}

impl History {
    pub(super) fn new(operations: &[Operation]) -> Self {
        let (needed, refused) = named(operations);
        let named: Vec<u64> = needed.union(&refused).copied().collect();
        let held = |value: Option<u64>| match value {
            None => NOTHING,
            Some(value) => named.binary_search(&value).map_or(UNNAMED, |n| UNNAMED + 1 + n),
        };
        let ops: Vec<Op> = operations.iter().filter_map(|operation| op(operation, held)).collect();

        let mut sources = vec![0; UNNAMED + 1 + named.len()];
        let mut needed_until = vec![0; sources.len()];
        let mut told_until = vec![0; sources.len()];
        told_until[NOTHING] = u64::MAX;
        needed.iter().for_each(|value| told_until[held(Some(*value))] = u64::MAX);
        for op in &ops {
            if let Some(held) = op.kind.leaves() {
                sources[held] += 1;
            }
            if let (Some(held), Some(_)) = (op.kind.needs(), op.returned) {
                needed_until[held] = needed_until[held].max(op.called);
            }
            if let (Kind::IsNot(held), Some(returned)) = (op.kind, op.returned) {
                told_until[held] = told_until[held].max(returned);
            }
        }
        sources[NOTHING] += 1; // The beginning.

        let calls = (0..).zip(&ops).map(|(n, op)| (op.called, Event::Called(n)));
        let returns =
            (0..).zip(&ops).filter_map(|(n, op)| Some((op.returned?, Event::Returned(n))));
        let mut events: Vec<(u64, Event)> = calls.chain(returns).collect();
        events.sort_unstable_by_key(|(place, _)| *place);
        assert!(events.windows(2).all(|two| two[0].0 < two[1].0), "each event has its own place");
        Self { ops, events, sources, needed_until, told_until }
    }

    /// Whether the key holds this once at most: it does so after one operation alone.
    pub(super) fn once(&self, held: Held) -> bool {
        self.sources[held] == 1
    }

    /// When the last operation of known outcome is called that needs the key to hold this; or zero.
    pub(super) fn needed_until(&self, held: Held) -> u64 {
        self.needed_until[held]
    }

    /// When the last operation returns that can tell this from any other value: once it has, the key
    /// might as well hold [`UNNAMED`].
    pub(super) fn told_until(&self, held: Held) -> u64 {
        self.told_until[held]
    }
}

/// The values that some answer depends on: those it needs, and those it needs to be absent.
///
/// That a swap of unknown outcome expected a value does not name it yet. If its own value is not
/// needed either, nor leads to one that is, then whatever order has the swap happen does as well
/// without: nobody could tell. So such a swap is dropped, unless others were refused for the sake
/// of what it expected, because it may be what took that away.
fn named(operations: &[Operation]) -> (BTreeSet<u64>, BTreeSet<u64>) {
    let mut needed = BTreeSet::new();
    let mut refused = BTreeSet::new();
    let mut leads_to: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for operation in operations {
        match (operation.action, operation.outcome) {
            (Action::Get, Outcome::Found(Some(found))) => drop(needed.insert(found)),
            (Action::Swap { expect: Some(expect), value }, outcome) => match outcome {
                Outcome::Unknown => leads_to.entry(value).or_default().push(expect),
                Outcome::Refused => drop(refused.insert(expect)),
                _ => drop(needed.insert(expect)),
            },
            _ => {}
        }
    }
    let mut follow: Vec<u64> = needed.iter().copied().collect();
    while let Some(value) = follow.pop() {
        let expected = leads_to.get(&value).into_iter().flatten();
        follow.extend(expected.filter(|expect| needed.insert(**expect)));
    }
    (needed, refused)
}

/// The operation in our words; none where nobody can tell whether it happened.
fn op(operation: &Operation, held: impl Fn(Option<u64>) -> Held) -> Option<Op> {
    let Operation { called, returned, action, outcome, .. } = *operation;
    let unknown = outcome == Outcome::Unknown;
    assert!(unknown || called < returned, "a return comes after its call: {operation}");
    let kind = match (action, outcome) {
        (Action::Get, Outcome::Unknown) => return None,
        (Action::Get, Outcome::Found(value)) => Kind::Is(held(value)),
        (Action::Put { value }, Outcome::Done | Outcome::Unknown) => Kind::Write(held(Some(value))),
        (Action::Delete, Outcome::Done | Outcome::Unknown) => Kind::Write(NOTHING),
        (Action::Delete, Outcome::Deleted(true)) => Kind::Remove,
        (Action::Delete, Outcome::Deleted(false)) => Kind::Is(NOTHING),
        (Action::Swap { expect: Some(expect), .. }, Outcome::Unknown)
            if held(Some(expect)) == UNNAMED =>
        {
            return None;
        }
        // One that was refused and does not know it did nothing, so that is no case of its own.
        (Action::Swap { expect, value }, Outcome::Done | Outcome::Unknown) => {
            Kind::Swap(held(expect), held(Some(value)))
        }
        (Action::Swap { expect, .. }, Outcome::Refused) => Kind::IsNot(held(expect)),
        _ => panic!("no such action has such an outcome: {operation}"),
    };
    Some(Op { kind, called, returned: (!unknown).then_some(returned) })
}
