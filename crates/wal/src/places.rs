//! Where the entries of one stream stand: a place for each index of a contiguous run. Pure.
//!
//! Nearly always every place is known, and they stand in one queue. A checkpoint, though, says
//! how many entries a stream has and not where, and nothing bounds the number: the segments they
//! stood in may be gone, since all of them may have been purged or moved behind it. So in front
//! of the queue a part of the run may be sparse: only the places that are known take memory, and
//! the others are holes that nothing but the ends of the part count.
//!
//! Invariants: `first <= queue_first`; the sparse places are known and have an index of
//! `first..queue_first`; the end of the run is a number that fits.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use crate::ledger::Location;

/// The places.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Places {
    first: u64,
    sparse: BTreeMap<u64, Location>,
    queue_first: u64,
    queue: VecDeque<Location>,
}

impl Places {
    /// The index of the first entry, if there is one.
    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    /// One beyond the last index.
    pub(crate) fn end(&self) -> u64 {
        self.queue_first + self.queue.len() as u64
    }

    pub(crate) fn count(&self) -> u64 {
        self.end() - self.first
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.first == self.end()
    }

    /// An empty run goes on at `index`.
    pub(crate) fn begin(&mut self, index: u64) {
        debug_assert!(self.is_empty(), "only an empty run begins anew");
        (self.first, self.queue_first) = (index, index);
    }

    /// The place of the next entry; a hole if it is not known. False if no number is left for
    /// it, and nothing has changed.
    pub(crate) fn push(&mut self, at: Location) -> bool {
        let fits = self.end() != u64::MAX;
        if fits {
            self.queue.push_back(at);
        }
        fits
    }

    /// The place of an entry, if there is such an entry.
    pub(crate) fn get(&self, index: u64) -> Option<Location> {
        if !(self.first..self.end()).contains(&index) {
            return None;
        }
        match index.checked_sub(self.queue_first) {
            Some(position) => self.queue.get(usize::try_from(position).ok()?).copied(),
            None => Some(self.sparse.get(&index).copied().unwrap_or_default()),
        }
    }

    /// Says where an entry stands now. Returns where it stood, if there is such an entry.
    pub(crate) fn set(&mut self, index: u64, at: Location) -> Option<Location> {
        let before = self.get(index)?;
        match index.checked_sub(self.queue_first) {
            Some(position) => *self.queue.get_mut(usize::try_from(position).ok()?)? = at,
            None if at.is_known() => drop(self.sparse.insert(index, at)),
            None => drop(self.sparse.remove(&index)),
        }
        Some(before)
    }

    /// The entries from `from` on go. `gone` is told the places that were known.
    pub(crate) fn truncate(&mut self, from: u64, mut gone: impl FnMut(Location)) {
        if from >= self.end() {
            return;
        }
        let from = from.max(self.first);
        let kept = usize::try_from(from.saturating_sub(self.queue_first)).unwrap_or(usize::MAX);
        self.queue.drain(kept..).filter(|at| at.is_known()).for_each(&mut gone);
        while let Some(last) = self.sparse.last_entry().filter(|last| *last.key() >= from) {
            gone(last.remove());
        }
        self.queue_first = self.queue_first.min(from);
    }

    /// The entries before `first` go. `gone` is told the places that were known.
    pub(crate) fn purge(&mut self, first: u64, mut gone: impl FnMut(Location)) {
        if first <= self.first {
            return;
        }
        self.first = first.min(self.end());
        while let Some(oldest) = self.sparse.first_entry().filter(|at| *at.key() < self.first) {
            gone(oldest.remove());
        }
        if let Some(count) = self.first.checked_sub(self.queue_first) {
            let count = usize::try_from(count).unwrap_or(usize::MAX);
            self.queue.drain(..count).filter(|at| at.is_known()).for_each(gone);
            self.queue_first = self.first;
        }
    }

    /// The run is this one from now on. The places that are known stay as far as they are in it;
    /// `gone` is told the others.
    pub(crate) fn reshape(&mut self, run: Range<u64>, mut gone: impl FnMut(Location)) {
        debug_assert!(run.start <= run.end, "a run has a beginning and an end");
        self.truncate(run.end, &mut gone);
        self.purge(run.start, &mut gone);
        if self.queue.is_empty() || self.end() != run.end {
            let indexed = self.queue.drain(..).zip(self.queue_first..);
            self.sparse.extend(indexed.filter(|(at, _)| at.is_known()).map(|(at, i)| (i, at)));
            self.queue_first = run.end;
        }
        self.first = run.start;
        self.validate();
    }

    /// Every place is a hole from now on. `gone` is told those that were known.
    pub(crate) fn lose(&mut self, gone: impl FnMut(Location)) {
        let end = self.end();
        let (sparse, queue) = (std::mem::take(&mut self.sparse), std::mem::take(&mut self.queue));
        self.queue_first = end;
        sparse.into_values().chain(queue).filter(|at| at.is_known()).for_each(gone);
    }

    /// Every place in this segment is a hole from now on. `gone` is told them.
    pub(crate) fn lose_in(&mut self, segment: u64, mut gone: impl FnMut(Location)) {
        let here = |at: &Location| at.segment == segment && at.is_known();
        self.sparse.extract_if(.., |_, at| here(at)).for_each(|(_, at)| gone(at));
        for at in self.queue.iter_mut().filter(|at| here(at)) {
            gone(std::mem::take(at));
        }
    }

    /// The places that are known, by index, ascending.
    pub(crate) fn known(&self) -> impl Iterator<Item = (u64, Location)> {
        let sparse = self.sparse.iter().map(|(index, at)| (*index, *at));
        let queue = self.queue.iter().copied().zip(self.queue_first..);
        sparse.chain(queue.filter(|(at, _)| at.is_known()).map(|(at, index)| (index, at)))
    }

    /// The indexes without a place, ascending.
    pub(crate) fn holes(&self) -> impl DoubleEndedIterator<Item = u64> {
        let sparse = self.first..self.queue_first;
        let sparse = sparse.filter(|index| !self.sparse.contains_key(index));
        let queue = self.queue.iter().enumerate().filter(|(_, at)| !at.is_known());
        sparse.chain(queue.map(|(position, _)| self.queue_first + position as u64))
    }

    /// If the sparse part has no holes it becomes part of the queue.
    pub(crate) fn settle(&mut self) {
        if self.sparse.len() as u64 == self.queue_first - self.first {
            let sparse = std::mem::take(&mut self.sparse);
            sparse.into_values().rev().for_each(|at| self.queue.push_front(at));
            self.queue_first = self.first;
        }
        self.validate();
    }

    /// All places in a row; none if a part is sparse.
    pub(crate) fn all(&self) -> VecDeque<Location> {
        if self.first == self.queue_first { self.queue.clone() } else { VecDeque::new() }
    }

    fn validate(&self) {
        debug_assert!(self.first <= self.queue_first, "the queue is the end of the run");
        let mut ends = [self.sparse.first_key_value(), self.sparse.last_key_value()].into_iter();
        let sparse = self.first..self.queue_first;
        debug_assert!(
            ends.all(|end| end.is_none_or(|(index, _)| sparse.contains(index))),
            "the sparse places are in front of the queue"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(segment: u64) -> Location {
        Location { segment, offset: 1, frame_bytes: 10 }
    }

    #[test]
    fn a_run_of_any_length_takes_no_memory_but_for_the_places_that_are_known() {
        let mut places = Places::default();
        places.reshape(5..u64::MAX, |_| panic!("nothing was known"));
        assert_eq!(
            (places.count(), places.holes().next_back()),
            (u64::MAX - 5, Some(u64::MAX - 1))
        );
        assert!(!places.push(at(1)), "no number is left");
        assert_eq!(places.set(1 << 40, at(1)), Some(Location::default()));
        assert_eq!((places.set(4, at(1)), places.set(u64::MAX, at(1))), (None, None));
        assert_eq!(places.known().collect::<Vec<_>>(), [(1 << 40, at(1))]);
        let mut gone = Vec::new();
        places.purge(u64::MAX - 1, |at| gone.push(at));
        assert_eq!((gone, places.count()), (vec![at(1)], 1));
        places.truncate(0, |_| panic!("it had no place"));
        assert!(places.is_empty());
    }

    #[derive(Clone, Debug)]
    enum Change {
        Push(u64),
        Set(u64, u64),
        Truncate(u64),
        Purge(u64),
        Reshape(u64, u64),
        Lose,
        LoseIn(u64),
        Settle,
    }

    fn change() -> impl Strategy<Value = Change> {
        prop_oneof![
            6 => (0u64..4).prop_map(Change::Push),
            6 => (0u64..40, 0u64..4).prop_map(|(index, at)| Change::Set(index, at)),
            2 => (0u64..40).prop_map(Change::Truncate),
            2 => (0u64..40).prop_map(Change::Purge),
            3 => (0u64..20, 0u64..20).prop_map(|(first, count)| Change::Reshape(first, count)),
            1 => Just(Change::Lose),
            1 => (1u64..4).prop_map(Change::LoseIn),
            3 => Just(Change::Settle),
        ]
    }

    proptest! {
        /// Intent: as a plain row of places, holes among them, would do it.
        #[test]
        fn sparse_or_not_it_is_one_row_of_places(
            changes in prop::collection::vec(change(), 0..60),
        ) {
            let (mut places, mut first, mut row) = (Places::default(), 0u64, VecDeque::new());
            let place = |segment| if segment == 0 { Location::default() } else { at(segment) };
            for change in changes {
                let mut gone = Vec::new();
                let known = |row: &VecDeque<Location>| {
                    let known = row.iter().filter(|at| at.is_known());
                    let mut known: Vec<_> = known.map(|at| at.segment).collect();
                    known.sort_unstable();
                    known
                };
                let before = known(&row);
                let mut added = 0;
                match change {
                    Change::Push(segment) => {
                        prop_assert!(places.push(place(segment)));
                        row.push_back(place(segment));
                        added = segment;
                    }
                    Change::Set(index, segment) => {
                        let slot = index.checked_sub(first).and_then(|at| row.get_mut(at as usize));
                        let was = slot.map(|slot| std::mem::replace(slot, place(segment)));
                        let had = places.set(index, place(segment));
                        prop_assert_eq!(had, was);
                        gone.extend(had.filter(|at| at.is_known()));
                        added = had.map_or(0, |_| segment);
                    }
                    Change::Truncate(from) => {
                        places.truncate(from, |at| gone.push(at));
                        row.truncate(from.saturating_sub(first) as usize);
                    }
                    Change::Purge(to) => {
                        places.purge(to, |at| gone.push(at));
                        let count = to.saturating_sub(first).min(row.len() as u64);
                        row.drain(..count as usize);
                        first += count;
                    }
                    Change::Reshape(to, count) => {
                        places.reshape(to..to + count, |at| gone.push(at));
                        let at = |index: u64| row.get(index.checked_sub(first)? as usize).copied();
                        row = (to..to + count).map(|index| at(index).unwrap_or_default()).collect();
                        first = to;
                    }
                    Change::Lose => {
                        places.lose(|at| gone.push(at));
                        row.iter_mut().for_each(|at| *at = Location::default());
                    }
                    Change::LoseIn(segment) => {
                        places.lose_in(segment, |at| gone.push(at));
                        let here = row.iter_mut().filter(|at| at.segment == segment);
                        here.for_each(|at| *at = Location::default());
                    }
                    Change::Settle => places.settle(),
                }
                let gone = gone.iter().map(|at| at.segment);
                let mut accounted: Vec<_> = gone.chain(known(&row)).collect();
                if added != 0 {
                    let at = accounted.iter().position(|&segment| segment == added);
                    accounted.remove(at.unwrap());
                }
                accounted.sort_unstable();
                prop_assert_eq!(accounted, before, "each place that goes is told once");
                let end = first + row.len() as u64;
                prop_assert_eq!((places.count(), places.is_empty()), (end - first, end == first));
                let got: Vec<_> = (first..end).filter_map(|index| places.get(index)).collect();
                prop_assert_eq!(&got, &Vec::from(row.clone()));
                let is_hole = |index: &u64| !row[(index - first) as usize].is_known();
                let holes: Vec<_> = (first..end).filter(is_hole).collect();
                prop_assert_eq!(places.holes().collect::<Vec<_>>(), holes);
                let left: Vec<_> = row.iter().copied().filter(|at| at.is_known()).collect();
                prop_assert_eq!(places.known().map(|(_, at)| at).collect::<Vec<_>>(), left);
            }
        }
    }
}
