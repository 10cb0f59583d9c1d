//! The ledger: what the records written so far add up to. Pure.
//!
//! The writer folds each record in as it puts it into a batch; recovery folds the same records
//! in as it reads them back. So a checkpoint can be compared with what the segments before it
//! add up to, and the two must agree to the byte.
//!
//! Each stream's records are numbered (all but `Moved`), in a row as long as the stream lives and
//! always higher when its id is used anew. A batch and a checkpoint say the numbers too, so after
//! a stretch that can't be read they tell whether a stream lost any records in it.
//!
//! Invariants: a stream's entries are a contiguous run, all above its purged index; a segment's
//! `live` is exactly the entries that have their location in it. Only recovery knows entries
//! without a location: those a first checkpoint counts, until the segment with their newest copy
//! is read, or a record says that they are gone.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::StreamId;
use crate::batch::Frame;
use crate::places::Places;
use crate::record::{Numbering, Record, StreamState};

/// Where the frame of an entry stands. Segment 0 is none: the place is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) segment: u64,
    pub(crate) offset: u32,
    pub(crate) frame_bytes: u32,
}

impl Location {
    pub(crate) fn of(segment: u64, frame: Frame) -> Self {
        Self { segment, offset: frame.offset as u32, frame_bytes: frame.bytes as u32 }
    }

    pub(crate) fn is_known(self) -> bool {
        self.segment != 0
    }
}

/// A record that can't follow those before it: a log of ours never holds one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broken(pub(crate) &'static str);

/// One stream, as written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stream {
    /// The number of its next record.
    pub(crate) number: u64,
    /// It has lost records, which ones is not known: nothing of it may be used.
    pub(crate) quarantined: bool,
    pub(crate) purged: Option<(u64, Bytes)>,
    pub(crate) places: Places,
    pub(crate) marks: BTreeMap<u8, Bytes>,
}

/// What of a segment is still needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Live {
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
}

/// All streams, as written.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) streams: BTreeMap<StreamId, Stream>,
    pub(crate) numbering: Numbering,
    /// The records are of version 1, which had no numbers: all of them are 0.
    pub(crate) unnumbered: bool,
    live: BTreeMap<u64, Live>,
}

impl Ledger {
    /// Folds in one record that stands at `at`. On an error nothing has changed.
    pub(crate) fn apply(&mut self, record: &Record<'_>, at: Location) -> Result<(), Broken> {
        match record {
            Record::Entry { stream, index, .. } => self.entry(*stream, *index, at)?,
            Record::Moved { stream, index, .. } => self.moved(*stream, *index, at),
            Record::Mark { stream, tag, value } => {
                let value = Bytes::copy_from_slice(value);
                self.known(*stream).marks.insert(*tag, value);
            }
            Record::Truncate { stream, from } => self.truncate(*stream, *from),
            Record::Purge { stream, to, note } => self.purge(*stream, *to, note),
            Record::Forget { stream } => return self.forget(*stream),
            Record::Checkpoint { .. } | Record::State(_) => {
                return Err(Broken("a checkpoint in the middle of a segment"));
            }
        }
        if !self.unnumbered
            && !matches!(record, Record::Moved { .. })
            && let Some(known) = record.stream().and_then(|stream| self.streams.get_mut(&stream))
        {
            known.number += 1;
        }
        Ok(())
    }

    /// The number of the stream's next record.
    pub(crate) fn number(&self, stream: StreamId) -> u64 {
        self.streams.get(&stream).map_or(self.numbering.floor, |known| known.number)
    }

    /// The stream, made if it is new.
    fn known(&mut self, stream: StreamId) -> &mut Stream {
        let number = self.numbering.floor;
        self.streams.entry(stream).or_insert_with(|| Stream { number, ..Stream::default() })
    }

    fn forget(&mut self, stream: StreamId) -> Result<(), Broken> {
        if let Some(gone) = self.streams.remove(&stream) {
            if !self.unnumbered {
                self.numbering.floor = self.numbering.floor.max(gone.number + 1);
            }
            gone.places.known().for_each(|(_, at)| release(&mut self.live, at));
        }
        if self.numbering.unknown {
            // It was given up knowingly, so it is no more among those that may have been lost.
            self.known(stream);
        }
        Ok(())
    }

    fn entry(&mut self, stream: StreamId, index: u64, at: Location) -> Result<(), Broken> {
        let known = self.known(stream);
        if known.places.is_empty() {
            if known.purged.as_ref().is_some_and(|(to, _)| index <= *to) {
                return Err(Broken("an entry at a purged index"));
            }
            known.places.begin(index);
        } else if known.places.end() != index {
            return Err(Broken("an entry that does not follow its stream's last"));
        }
        if !known.places.push(at) {
            return Err(Broken("an entry that nothing could follow"));
        }
        claim(&mut self.live, at);
        Ok(())
    }

    fn moved(&mut self, stream: StreamId, index: u64, at: Location) {
        let known = self.streams.get_mut(&stream);
        if let Some(before) = known.and_then(|known| known.places.set(index, at)) {
            release(&mut self.live, before);
            claim(&mut self.live, at);
        }
    }

    fn truncate(&mut self, stream: StreamId, from: u64) {
        let Some(known) = self.streams.get_mut(&stream) else { return };
        known.places.truncate(from, |at| release(&mut self.live, at));
    }

    fn purge(&mut self, stream: StreamId, to: u64, note: &[u8]) {
        let number = self.numbering.floor;
        let known =
            self.streams.entry(stream).or_insert_with(|| Stream { number, ..Stream::default() });
        if known.purged.as_ref().is_some_and(|(purged, _)| to <= *purged) {
            return;
        }
        known.purged = Some((to, Bytes::copy_from_slice(note)));
        known.places.purge(to.saturating_add(1), |at| release(&mut self.live, at));
    }

    /// What of `segment` is still needed.
    pub(crate) fn live(&self, segment: u64) -> Live {
        self.live.get(&segment).copied().unwrap_or_default()
    }

    /// Bytes of frames of all live entries.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.live.values().map(|live| live.bytes).sum()
    }

    /// The live entries that stand in `segment`, by stream and index.
    pub(crate) fn entries_in(&self, segment: u64) -> VecDeque<(StreamId, u64)> {
        let here = |(&id, stream): (&StreamId, &Stream)| {
            let here = stream.places.known().filter(move |(_, at)| at.segment == segment);
            here.map(move |(index, _)| (id, index)).collect::<Vec<_>>()
        };
        self.streams.iter().flat_map(here).collect()
    }

    /// Where an entry stands, if it is live.
    pub(crate) fn location(&self, stream: StreamId, index: u64) -> Option<Location> {
        self.streams.get(&stream)?.places.get(index)
    }

    /// From here on records have numbers: a segment of this version begins.
    pub(crate) fn begin_numbers(&mut self) {
        self.unnumbered = false;
    }

    /// The records a segment that begins now begins with.
    pub(crate) fn checkpoint(&self) -> Vec<Record<'_>> {
        self.validate();
        let states = self.streams.iter().map(|(id, stream)| Record::State(stream.state(*id)));
        let (streams, numbering) = (self.streams.len() as u64, Some(self.numbering));
        let count = Record::Checkpoint { streams, numbering };
        std::iter::once(count).chain(states).collect()
    }

    /// Whether a checkpoint says of a stream what its records add up to.
    pub(crate) fn agrees(&self, state: &StreamState<'_>) -> bool {
        self.streams.get(&state.stream).is_some_and(|known| {
            StreamState { quarantined: state.quarantined, ..known.state(state.stream) } == *state
        })
    }

    /// Takes over what a checkpoint says of a stream, and keeps the places of its entries as far
    /// as they are known. However many the others are, they take no memory. False if there are
    /// no numbers for so many: it has none then.
    pub(crate) fn adopt(&mut self, state: &StreamState<'_>) -> bool {
        let mut places = self.streams.remove(&state.stream).unwrap_or_default().places;
        let end = state.first.checked_add(state.count);
        let run = end.map_or(0..0, |end| state.first..end);
        places.reshape(run, |at| release(&mut self.live, at));
        let purged = state.purged.map(|(to, note)| (to, Bytes::copy_from_slice(note)));
        let own = |&(tag, value): &(u8, &[u8])| (tag, Bytes::copy_from_slice(value));
        let marks = state.marks.iter().map(own).collect();
        let StreamState { number, quarantined, .. } = *state;
        let adopted = Stream { number, quarantined, purged, places, marks };
        self.streams.insert(state.stream, adopted);
        end.is_some()
    }

    /// The number of the stream's next record is this. The stream is made if it is new.
    pub(crate) fn set_number(&mut self, stream: StreamId, number: u64) {
        self.known(stream).number = number;
    }

    /// One more record of the stream is past, though nothing of it is known.
    pub(crate) fn count(&mut self, stream: StreamId) {
        if !self.unnumbered
            && let Some(known) = self.streams.get_mut(&stream)
        {
            known.number += 1;
        }
    }

    /// Where the stream's entries are is not known any more. It is made if it is new.
    pub(crate) fn lose_places(&mut self, stream: StreamId) {
        self.known(stream);
        if let Some(known) = self.streams.get_mut(&stream) {
            known.places.lose(|at| release(&mut self.live, at));
        }
    }

    /// Where those of the stream's entries are that stand in `segment` is not known any more.
    pub(crate) fn lose_places_in(&mut self, stream: StreamId, segment: u64) {
        let Some(known) = self.streams.get_mut(&stream) else { return };
        known.places.lose_in(segment, |at| release(&mut self.live, at));
    }

    /// The stream's next entry is lost. False if it can't be told which one that is; the stream
    /// is made if it is new.
    pub(crate) fn push_hole(&mut self, stream: StreamId) -> bool {
        let known = self.known(stream);
        !known.places.is_empty() && known.places.push(Location::default())
    }

    /// Takes an entry as the stream's last one, whatever was thought to stand there.
    pub(crate) fn force_entry(&mut self, stream: StreamId, index: u64, at: Location) {
        let number = self.numbering.floor;
        let known =
            self.streams.entry(stream).or_insert_with(|| Stream { number, ..Stream::default() });
        let follows = (known.places.first()..=known.places.end()).contains(&index);
        known.places.truncate(if follows { index } else { 0 }, |at| release(&mut self.live, at));
        if known.places.is_empty() {
            known.places.begin(index);
        }
        if known.places.push(at) {
            claim(&mut self.live, at);
        }
        self.count(stream);
    }

    /// Forgets a stream without a record of it.
    pub(crate) fn remove(&mut self, stream: StreamId) {
        let gone = self.streams.remove(&stream).unwrap_or_default();
        gone.places.known().for_each(|(_, at)| release(&mut self.live, at));
    }

    /// Notes that the stream has lost records. False if that was known.
    pub(crate) fn quarantine(&mut self, stream: StreamId) -> bool {
        let known = self.known(stream);
        !std::mem::replace(&mut known.quarantined, true)
    }

    /// Whether there is an entry of the stream that no segment holds.
    pub(crate) fn has_hole(&self, stream: StreamId) -> bool {
        self.holes(stream).next().is_some()
    }

    /// The indexes of the stream's entries that no segment holds, ascending.
    pub(crate) fn holes(&self, stream: StreamId) -> impl DoubleEndedIterator<Item = u64> {
        self.streams.get(&stream).into_iter().flat_map(|known| known.places.holes())
    }

    /// Recovery has read all there is.
    pub(crate) fn settle(&mut self) {
        self.streams.values_mut().for_each(|known| known.places.settle());
        self.validate();
    }

    /// What is live is what has a place. Looked at when a checkpoint is written and when a log
    /// has been read, where debug assertions are on.
    fn validate(&self) {
        if cfg!(debug_assertions) {
            let mut live = BTreeMap::new();
            let known = self.streams.values().flat_map(|stream| stream.places.known());
            known.for_each(|(_, at)| claim(&mut live, at));
            assert_eq!(live, self.live, "a segment's live entries are those that stand in it");
        }
    }
}

impl Stream {
    fn state(&self, stream: StreamId) -> StreamState<'_> {
        let count = self.places.count();
        StreamState {
            stream,
            number: self.number,
            quarantined: self.quarantined,
            purged: self.purged.as_ref().map(|(to, note)| (*to, note.as_ref())),
            first: if count == 0 { 0 } else { self.places.first() },
            count,
            marks: self.marks.iter().map(|(tag, value)| (*tag, value.as_ref())).collect(),
        }
    }
}

fn claim(live: &mut BTreeMap<u64, Live>, at: Location) {
    let live = live.entry(at.segment).or_default();
    live.entries += 1;
    live.bytes += u64::from(at.frame_bytes);
}

fn release(live: &mut BTreeMap<u64, Live>, at: Location) {
    if let Some(left) = live.get_mut(&at.segment) {
        left.entries -= 1;
        left.bytes -= u64::from(at.frame_bytes);
        if left.entries == 0 {
            live.remove(&at.segment);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: StreamId = StreamId(1);

    fn at(segment: u64, offset: u32) -> Location {
        Location { segment, offset, frame_bytes: 10 }
    }

    fn entry(index: u64) -> Record<'static> {
        Record::Entry { stream: A, index, payload: b"" }
    }

    fn with_entries(indexes: std::ops::Range<u64>) -> Ledger {
        let mut ledger = Ledger::default();
        for index in indexes {
            ledger.apply(&entry(index), at(1, index as u32)).unwrap();
        }
        ledger
    }

    #[test]
    fn what_is_live_is_what_is_neither_truncated_nor_purged_nor_moved_away() {
        let mut ledger = with_entries(1..9);
        ledger.apply(&Record::Truncate { stream: A, from: 7 }, at(2, 0)).unwrap();
        ledger.apply(&Record::Purge { stream: A, to: 2, note: b"n" }, at(2, 1)).unwrap();
        let moved = Record::Moved { stream: A, index: 3, payload: b"" };
        ledger.apply(&moved, at(2, 2)).unwrap();
        assert_eq!(ledger.live(1), Live { entries: 3, bytes: 30 });
        assert_eq!(ledger.live(2), Live { entries: 1, bytes: 10 });
        assert_eq!(ledger.entries_in(1), [(A, 4), (A, 5), (A, 6)]);
        ledger.apply(&Record::Forget { stream: A }, at(2, 3)).unwrap();
        assert_eq!((ledger.live(1), ledger.live(2)), (Live::default(), Live::default()));
    }

    #[test]
    fn an_entry_out_of_order_or_at_a_purged_index_is_refused() {
        let mut ledger = with_entries(1..4);
        assert!(ledger.apply(&entry(3), at(1, 9)).is_err());
        assert!(ledger.apply(&entry(5), at(1, 9)).is_err());
        ledger.apply(&Record::Purge { stream: A, to: 10, note: b"" }, at(1, 9)).unwrap();
        assert!(ledger.apply(&entry(10), at(1, 9)).is_err());
        assert!(ledger.apply(&entry(12), at(1, 9)).is_ok());
    }

    #[test]
    fn numbers_at_the_end_are_refused_and_forged_ones_do_no_harm() {
        let mut ledger = Ledger::default();
        assert!(ledger.apply(&entry(u64::MAX), at(1, 0)).is_err(), "nothing could follow");
        ledger.apply(&entry(u64::MAX - 1), at(1, 0)).unwrap();
        assert!(ledger.apply(&entry(u64::MAX), at(1, 1)).is_err());
        assert!(!ledger.push_hole(A));
        ledger.force_entry(A, u64::MAX, at(1, 2));
        assert_eq!(ledger.live(1), Live { entries: 1, bytes: 10 });
        let forged = StreamState { first: u64::MAX, count: 1, ..state(&ledger) };
        assert!(!Ledger::default().adopt(&forged), "there are no numbers for so many");
        let other = with_entries(5..6);
        let forged = StreamState { first: 7, count: u64::MAX - 7, ..state(&other) };
        assert!(ledger.adopt(&forged) && ledger.has_hole(A));
        ledger.apply(&Record::Purge { stream: A, to: u64::MAX, note: b"" }, at(1, 3)).unwrap();
        assert_eq!((ledger.live(1), ledger.has_hole(A)), (Live::default(), false));
        assert!(ledger.apply(&entry(9), at(1, 4)).is_err());
    }

    fn state(ledger: &Ledger) -> StreamState<'_> {
        ledger.streams[&A].state(A)
    }

    #[test]
    fn an_adopted_state_has_holes_until_they_are_moved_or_purged() {
        let ledger = with_entries(5..8);
        let mut restored = Ledger::default();
        assert!(restored.adopt(&state(&ledger)) && restored.agrees(&state(&ledger)));
        assert_eq!(restored.holes(A).collect::<Vec<_>>(), [5, 6, 7]);
        let moved = Record::Moved { stream: A, index: 5, payload: b"" };
        restored.apply(&moved, at(3, 0)).unwrap();
        assert_eq!(restored.holes(A).collect::<Vec<_>>(), [6, 7]);
        restored.apply(&Record::Purge { stream: A, to: 7, note: b"" }, at(3, 1)).unwrap();
        assert!(!restored.has_hole(A) && !restored.agrees(&state(&ledger)));
    }

    #[test]
    fn places_that_are_known_survive_what_a_checkpoint_says_and_the_others_are_released() {
        let mut ledger = with_entries(5..9);
        let shorter = StreamState { first: 4, count: 3, ..state(&ledger) };
        let mut other = Ledger::default();
        other.adopt(&shorter);
        assert!(ledger.adopt(&state(&other)));
        assert_eq!(ledger.holes(A).collect::<Vec<_>>(), [4]);
        assert_eq!(ledger.live(1), Live { entries: 2, bytes: 20 });
        ledger.lose_places(A);
        assert_eq!(ledger.live(1), Live::default());
    }

    #[test]
    fn a_doubtful_streams_entries_replace_what_was_thought_to_stand_there() {
        let mut ledger = with_entries(5..9);
        ledger.force_entry(A, 7, at(2, 0));
        assert_eq!((ledger.live(1).entries, ledger.location(A, 7)), (2, Some(at(2, 0))));
        ledger.force_entry(A, 20, at(2, 1));
        assert_eq!((ledger.live(1).entries, ledger.location(A, 7)), (0, None));
        assert_eq!((ledger.live(2).entries, ledger.location(A, 20)), (1, Some(at(2, 1))));
    }
}
