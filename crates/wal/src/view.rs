//! One stream as its callers see it: everything queued counts at once, durable or not. Pure.
//!
//! An entry is first only cached (its payload waits for the disk), then cached and located, and
//! at last only located, when the cache has let it go. So the cached entries are the stream's
//! newest, the located ones its oldest, and the two runs together leave no gap. The writer
//! reports places of what it wrote some time ago; an entry's ticket (the number of the call
//! that appended it) tells whether the entry at an index is still that one.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use bytes::Bytes;

use crate::ledger::{Location, Stream};
use crate::{Error, StreamId};

/// The ends of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// The last purged index and the note given with it. It outlives every entry.
    pub purged: Option<(u64, Bytes)>,
    /// The index of the oldest entry.
    pub first: Option<u64>,
    /// The index of the newest entry.
    pub last: Option<u64>,
}

/// Where to find the payload of one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Cached(Bytes),
    Disk(Location),
}

#[derive(Debug)]
struct Cached {
    ticket: u64,
    payload: Bytes,
}

#[derive(Debug, Default)]
pub(crate) struct View {
    purged: Option<(u64, Bytes)>,
    marks: BTreeMap<u8, Bytes>,
    first: u64,
    /// One beyond the last index; `first` if there is no entry.
    end: u64,
    located: VecDeque<Location>,
    cached: VecDeque<Cached>,
}

impl View {
    /// The view of a stream as recovery found it. Where the places of one are sparse it has lost
    /// entries, and nobody may read the others.
    pub(crate) fn recovered(stream: &Stream) -> Self {
        Self {
            purged: stream.purged.clone(),
            marks: stream.marks.clone(),
            first: stream.places.first(),
            end: stream.places.end(),
            located: stream.places.all(),
            cached: VecDeque::new(),
        }
    }

    fn is_empty(&self) -> bool {
        self.first == self.end
    }

    fn cached_from(&self) -> u64 {
        self.end - self.cached.len() as u64
    }

    pub(crate) fn bounds(&self) -> Bounds {
        let some = |index| (!self.is_empty()).then_some(index);
        Bounds {
            purged: self.purged.clone(),
            first: some(self.first),
            last: some(self.end.wrapping_sub(1)),
        }
    }

    pub(crate) fn mark(&self, tag: u8) -> Option<&Bytes> {
        self.marks.get(&tag)
    }

    pub(crate) fn set_mark(&mut self, tag: u8, value: Bytes) {
        self.marks.insert(tag, value);
    }

    /// Whether `count` entries may be appended at `first`. `stream` is for the error.
    pub(crate) fn admits(&self, stream: StreamId, first: u64, count: u64) -> Result<(), Error> {
        let lowest = self.purged.as_ref().map_or(0, |(to, _)| to.saturating_add(1));
        let (wanted, fits) =
            if self.is_empty() { (lowest, first >= lowest) } else { (self.end, first == self.end) };
        if fits && first.checked_add(count).is_some() {
            Ok(())
        } else {
            Err(Error::OutOfOrder { stream, wanted, got: first })
        }
    }

    /// Fails if `index` is purged.
    pub(crate) fn not_purged(&self, stream: StreamId, index: u64) -> Result<(), Error> {
        match self.purged {
            Some((purged, _)) if index <= purged => Err(Error::Purged { stream, purged }),
            _ => Ok(()),
        }
    }

    /// Appends what [`View::admits`] let pass.
    pub(crate) fn append(&mut self, first: u64, payloads: &[Bytes], ticket: u64) {
        if self.is_empty() {
            (self.first, self.end) = (first, first);
        }
        debug_assert_eq!(self.end, first, "an append follows the last entry");
        let cached = payloads.iter().map(|payload| Cached { ticket, payload: payload.clone() });
        self.cached.extend(cached);
        self.end += payloads.len() as u64;
    }

    /// Drops the entries from `from` on. Returns the payload bytes let go of.
    pub(crate) fn truncate(&mut self, from: u64) -> usize {
        if from >= self.end {
            return 0;
        }
        let kept_cached = from.saturating_sub(self.cached_from()) as usize;
        self.end = from.max(self.first);
        self.located.truncate((self.end - self.first) as usize);
        payload_bytes(self.cached.drain(kept_cached..))
    }

    /// Drops the entries up to and with `to`. Returns the payload bytes let go of.
    pub(crate) fn purge(&mut self, to: u64, note: Bytes) -> usize {
        if self.purged.as_ref().is_some_and(|(purged, _)| to <= *purged) {
            return 0;
        }
        self.purged = Some((to, note));
        let first = (to + 1).clamp(self.first, self.end);
        let gone_cached = first.saturating_sub(self.cached_from()) as usize;
        let gone_located = ((first - self.first) as usize).min(self.located.len());
        self.first = first;
        self.located.drain(..gone_located);
        payload_bytes(self.cached.drain(..gone_cached))
    }

    /// Payload bytes in the cache.
    pub(crate) fn cached_bytes(&self) -> usize {
        self.cached.iter().map(|cached| cached.payload.len()).sum()
    }

    /// Notes where the entries of one append stand, now that they are durable.
    pub(crate) fn locate(&mut self, ticket: u64, first: u64, places: &[Location]) {
        for (place, index) in places.iter().zip(first..) {
            if index < self.first {
                continue;
            }
            let ours = index.checked_sub(self.cached_from());
            let ours = ours.and_then(|position| self.cached.get(position as usize));
            let next = index - self.first == self.located.len() as u64;
            if !next || ours.is_none_or(|cached| cached.ticket != ticket) {
                break;
            }
            self.located.push_back(*place);
        }
    }

    /// Notes that an entry stands elsewhere, if it is still the one that stood at `from`.
    pub(crate) fn relocate(&mut self, index: u64, from: Location, to: Location) {
        let position = index.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
        if let Some(place) = position.and_then(|position| self.located.get_mut(position))
            && *place == from
        {
            *place = to;
        }
    }

    /// Whether an entry stands there.
    pub(crate) fn is_at(&self, index: u64, at: Location) -> bool {
        let position = index.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
        position.and_then(|position| self.located.get(position)) == Some(&at)
    }

    /// Lets go of the durable payloads with this ticket or an older one. Returns their bytes.
    pub(crate) fn evict(&mut self, ticket: u64) -> usize {
        let durable_end = self.first + self.located.len() as u64;
        let durable = durable_end.saturating_sub(self.cached_from()) as usize;
        let old = self.cached.iter().take_while(|cached| cached.ticket <= ticket).count();
        payload_bytes(self.cached.drain(..old.min(durable)))
    }

    /// Whether a payload of this ticket may be in the cache.
    pub(crate) fn may_hold(&self, ticket: u64) -> bool {
        self.cached.front().is_some_and(|cached| cached.ticket <= ticket)
            && self.cached.back().is_some_and(|cached| cached.ticket >= ticket)
    }

    /// Whether an entry's newest copy stands in these bytes of the segment.
    pub(crate) fn has_in(&self, segment: u64, range: &Range<u64>) -> bool {
        let overlaps = |at: &&Location| {
            let from = u64::from(at.offset);
            let to = from + u64::from(at.frame_bytes);
            at.segment == segment && from < range.end && range.start < to
        };
        self.located.iter().any(|at| overlaps(&at))
    }

    /// Where the entries of `range` are, from its start to the first one that is missing or
    /// would pass `bytes_max`; the first is always among them.
    pub(crate) fn sources(&self, range: Range<u64>, bytes_max: usize) -> Vec<Source> {
        let mut bytes = 0usize;
        let mut sources = Vec::new();
        for index in range.start..range.end.min(self.end) {
            let Some(source) = self.source(index) else { break };
            bytes = bytes.saturating_add(match &source {
                Source::Cached(payload) => payload.len(),
                Source::Disk(at) => at.frame_bytes as usize,
            });
            if !sources.is_empty() && bytes > bytes_max {
                break;
            }
            sources.push(source);
        }
        sources
    }

    fn source(&self, index: u64) -> Option<Source> {
        if let Some(position) = index.checked_sub(self.cached_from()) {
            let cached = self.cached.get(position as usize)?;
            return Some(Source::Cached(cached.payload.clone()));
        }
        let position = index.checked_sub(self.first)?;
        self.located.get(position as usize).copied().map(Source::Disk)
    }
}

fn payload_bytes(gone: impl Iterator<Item = Cached>) -> usize {
    gone.map(|cached| cached.payload.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: StreamId = StreamId(1);

    fn payloads(texts: &[&'static str]) -> Vec<Bytes> {
        texts.iter().map(|text| Bytes::from_static(text.as_bytes())).collect()
    }

    fn places(offsets: Range<u32>) -> Vec<Location> {
        offsets.map(|offset| Location { segment: 1, offset, frame_bytes: 9 }).collect()
    }

    #[test]
    fn an_entry_is_cached_then_durable_and_cached_then_only_on_disk() {
        let mut view = View::default();
        view.append(5, &payloads(&["a", "b"]), 1);
        assert_eq!(view.evict(9), 0, "nothing goes before it is durable");
        view.locate(1, 5, &places(0..2));
        assert_eq!(
            view.sources(5..7, 99),
            payloads(&["a", "b"]).into_iter().map(Source::Cached).collect::<Vec<_>>()
        );
        assert_eq!(view.evict(1), 2);
        assert_eq!(
            view.sources(5..7, 99),
            places(0..2).into_iter().map(Source::Disk).collect::<Vec<_>>()
        );
    }

    #[test]
    fn a_late_report_does_not_give_a_new_entry_an_old_place() {
        let mut view = View::default();
        view.append(5, &payloads(&["a", "b", "c"]), 1);
        view.truncate(6);
        view.append(6, &payloads(&["B"]), 2);
        view.locate(1, 5, &places(0..3));
        assert_eq!(view.located, places(0..1));
        view.locate(2, 6, &places(7..8));
        assert_eq!(view.located, [places(0..1), places(7..8)].concat());
    }

    #[test]
    fn a_late_report_skips_what_was_purged_since() {
        let mut view = View::default();
        view.append(5, &payloads(&["a", "b", "c"]), 1);
        view.purge(6, Bytes::new());
        view.locate(1, 5, &places(0..3));
        assert_eq!(view.located, places(2..3));
    }

    #[test]
    fn the_byte_bound_ends_a_read_but_never_before_its_first_entry() {
        let mut view = View::default();
        view.append(1, &payloads(&["long", "x", "y"]), 1);
        assert_eq!(view.sources(1..9, 0).len(), 1);
        assert_eq!(view.sources(2..9, 1).len(), 1);
        assert_eq!(view.sources(1..9, 99).len(), 3);
        assert_eq!(view.sources(4..9, 99).len(), 0);
    }

    #[test]
    fn an_append_must_follow_the_last_entry_or_the_purged_index() {
        let mut view = View::default();
        assert!(view.admits(A, 7, 1).is_ok());
        view.append(7, &payloads(&["a"]), 1);
        assert!(view.admits(A, 9, 1).is_err());
        view.purge(20, Bytes::new());
        assert!(view.admits(A, 20, 1).is_err());
        assert!(view.admits(A, 21, 1).is_ok());
        assert!(view.admits(A, u64::MAX, 1).is_err(), "no index can follow the last number");
    }
}
