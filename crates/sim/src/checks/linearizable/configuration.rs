//! One way the past may have gone, and which ways are no loss.
//!
//! A configuration says what the key holds and what may still happen; of what
//! has happened before it knows nothing else. One *covers* another if whatever
//! the other may still do, it may do as well and ends up no worse. The covered
//! one is forgotten. That is more than remembering configurations met: of a
//! hundred writes of unknown outcome, the way that used none of them covers all
//! the ways that used some and came to the same.

use std::collections::BTreeMap;

use super::history::{Held, NOTHING};
use super::search::{Exhausted, Work};

/// A set of the operations under way, by slot.
pub(super) type Slots = u128;

/// One way the past may have gone.
///
/// Each operation under way is in one of three states. It may still have to happen. It may be
/// *taken*: it has happened. Or it may be *settled*: its answer is explained, and nothing more is
/// asked of it. A look is settled when it has seen what it saw. A write is settled when it could
/// have happened unseen, right before another that wrote over it; it may still be taken in earnest.
#[derive(Clone, Debug)]
pub(super) struct Configuration {
    pub(super) held: Held,
    pub(super) taken: Slots,
    pub(super) settled: Slots,
    /// The writes of unknown outcome that have happened.
    pub(super) spent: Box<[u64]>,
    /// The last step was of use only if the next one looks at what it left (see `search`).
    pub(super) owing: bool,
}

impl Configuration {
    /// The beginning, where this many writes are of unknown outcome.
    pub(super) fn new(unknown: usize) -> Self {
        let spent = vec![0; unknown.div_ceil(64)].into();
        Self { held: NOTHING, taken: 0, settled: 0, spent, owing: false }
    }

    /// Whether the operation in this slot has its answer explained.
    pub(super) fn answered(&self, slot: u32) -> bool {
        (self.taken | self.settled) >> slot & 1 == 1
    }

    /// The operation in this slot has returned; the slot is free for another.
    pub(super) fn forget(&mut self, slot: u32) {
        self.taken &= !(1 << slot);
        self.settled &= !(1 << slot);
    }

    pub(super) fn is_taken(&self, slot: u32) -> bool {
        self.taken >> slot & 1 == 1
    }

    pub(super) fn is_settled(&self, slot: u32) -> bool {
        self.settled >> slot & 1 == 1
    }

    /// It has happened.
    pub(super) fn take(&mut self, slot: u32) {
        self.taken |= 1 << slot;
        self.settled &= !(1 << slot);
    }

    /// Nothing more is asked of it.
    pub(super) fn settle(&mut self, slot: u32) {
        self.settled |= 1 << slot;
    }

    pub(super) fn is_spent(&self, unknown: usize) -> bool {
        self.spent[unknown / 64] >> (unknown % 64) & 1 == 1
    }

    pub(super) fn spend(&mut self, unknown: usize) {
        self.spent[unknown / 64] |= 1 << (unknown % 64);
    }

    /// Whether the other is no loss.
    ///
    /// What is settled here may be in any state there, because a settled operation may do as either
    /// of the others; what is not must be in the same state. What is spent here must be spent there;
    /// of those that are alike, no more than there.
    fn covers(&self, other: &Self, alike: &[Alike]) -> bool {
        self.held == other.held
            && (!self.owing || other.owing)
            && other.settled & !self.settled == 0
            && (self.taken ^ other.taken) & !self.settled == 0
            && (0..self.spent.len()).all(|n| {
                let known = alike.iter().fold(0, |known, alike| known | alike.members[n]);
                self.spent[n] & !other.spent[n] & !known == 0
            })
            && alike.iter().all(|alike| alike.spent(self) <= alike.spent(other))
    }
}

/// Writes of unknown outcome of which it does not matter which one happens.
#[derive(Clone, Debug)]
pub(super) struct Alike {
    members: Box<[u64]>,
}

impl Alike {
    /// None so far, of this many of unknown outcome.
    pub(super) fn new(unknown: usize) -> Self {
        Self { members: vec![0; unknown.div_ceil(64)].into() }
    }

    /// From now on this one is like the others.
    pub(super) fn add(&mut self, unknown: usize) {
        self.members[unknown / 64] |= 1 << (unknown % 64);
    }

    /// How many of them have happened.
    fn spent(&self, way: &Configuration) -> u32 {
        self.members.iter().zip(&way.spent).map(|(own, spent)| (own & spent).count_ones()).sum()
    }
}

/// Configurations of which none covers another.
#[derive(Debug, Default)]
pub(super) struct Frontier {
    by_held: BTreeMap<Held, Vec<Configuration>>,
}

impl Frontier {
    /// Takes it in, and forgets all that it covers; false if it is covered itself.
    pub(super) fn insert(
        &mut self,
        configuration: Configuration,
        alike: &[Alike],
        work: &mut Work,
    ) -> Result<bool, Exhausted> {
        let peers = self.by_held.entry(configuration.held).or_default();
        work.spend(1 + peers.len() as u64)?;
        if peers.iter().any(|peer| peer.covers(&configuration, alike)) {
            return Ok(false);
        }
        peers.retain(|peer| !configuration.covers(peer, alike));
        peers.push(configuration);
        Ok(true)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_held.is_empty()
    }

    /// Those in which the key holds what passes.
    pub(super) fn holding(
        &mut self,
        passes: impl Fn(Held) -> bool,
    ) -> impl Iterator<Item = &mut Configuration> {
        self.by_held.iter_mut().filter(move |(held, _)| passes(**held)).flat_map(|(_, all)| all)
    }

    pub(super) fn into_configurations(self) -> impl Iterator<Item = Configuration> {
        self.by_held.into_values().flatten()
    }
}
