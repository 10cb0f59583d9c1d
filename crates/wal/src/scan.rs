//! The scan that reads a segment back, front to back, and over what can't be read. Pure.
//!
//! Behind the last batch stands a terminator of zeros, written together with it: so the end of a
//! segment that was written to the end looks different from one that was torn off, though the
//! file goes on with zeros or with what it held in an earlier life.
//!
//! Whether bytes that are no whole batch are damage or the torn end of the log depends on what
//! is proven: a batch's head names an offset up to which everything had been synced before, and
//! a segment with a successor had been synced to its end. Up to there the scan reports what is
//! wrong and goes on at the next head or tail whose checksum holds; behind, it stops.

use std::ops::Range;

use crate::StreamId;
use crate::batch::{self, Batch, HEAD_BYTES, Head, MAGIC_FIRST, TERMINATOR_BYTES};
use crate::planted::{self, Bug};
use crate::record::Binding;
use crate::segment::SEGMENT_HEADER_BYTES;
use crate::v1;

/// What a scan finds next.
#[derive(Debug)]
pub(crate) enum Step<'a> {
    Batch(Batch<'a>),
    /// Bytes that had been synced, of which nothing can be read.
    Gap(Range<usize>),
}

/// How a segment ends, if it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sealed {
    /// It is the last one: its end is where nothing proves more.
    No,
    /// It has a successor, whose header can't say where this one ends.
    Somewhere,
    /// Its successor says that it ends here.
    At(u64),
}

/// Reads one segment.
pub(crate) struct Scan<'a> {
    bytes: &'a [u8],
    binding: Binding,
    sealed: Sealed,
    at: usize,
    last_batch: usize,
    /// The last step was a batch, and nothing is wrong with it.
    whole: bool,
    /// The heads and tails that hold behind where they were first asked for, with the synced
    /// offset of each.
    beyond: Option<Vec<(usize, u64)>>,
}

impl<'a> Scan<'a> {
    pub(crate) fn new(bytes: &'a [u8], binding: Binding, sealed: Sealed) -> Self {
        let at = SEGMENT_HEADER_BYTES;
        Self { bytes, binding, sealed, at, last_batch: at, whole: false, beyond: None }
    }

    /// The next step, or nothing at the end.
    pub(crate) fn next_step(&mut self) -> Option<Step<'a>> {
        if self.is_over_limit() {
            return None;
        }
        let batch = batch::read(self.bytes, self.binding, self.at, None);
        if let Some(batch) = batch
            && (batch.is_whole() || self.had_been_synced())
            && batch.end <= self.limit()
        {
            return Some(self.take(batch));
        }
        if !self.had_been_synced() {
            return None;
        }
        Some(self.step_over())
    }

    fn take(&mut self, batch: Batch<'a>) -> Step<'a> {
        (self.last_batch, self.at) = (batch.start, batch.end);
        self.whole = batch.is_whole();
        Step::Batch(batch)
    }

    /// Where the batches can't go beyond.
    fn limit(&self) -> usize {
        match self.sealed {
            Sealed::At(end) => usize::try_from(end).unwrap_or(usize::MAX).min(self.bytes.len()),
            Sealed::No | Sealed::Somewhere => self.bytes.len(),
        }
    }

    fn is_over_limit(&self) -> bool {
        self.at >= self.limit()
    }

    /// Whether something proves that what stands here had been synced.
    fn had_been_synced(&mut self) -> bool {
        if planted::has(Bug::CutAtBadChecksum) {
            return false;
        }
        match self.sealed {
            Sealed::At(_) => true,
            Sealed::Somewhere => !self.is_clean() || self.synced() > self.at as u64,
            Sealed::No => self.synced() > self.at as u64,
        }
    }

    /// The head here can't be read: goes on at the next one, or at a tail that tells.
    fn step_over(&mut self) -> Step<'a> {
        let (from, limit) = (self.at, self.limit());
        for at in from..limit {
            if self.bytes[at] != MAGIC_FIRST {
                continue;
            }
            if at > from && is_head(self.bytes, self.binding, at) {
                return self.gap(at);
            }
            if let Some((_, start)) = Head::tail_at(self.bytes, self.binding, at)
                && start >= from
            {
                if start > from {
                    return self.gap(start);
                }
                if let Some(batch) = batch::read(self.bytes, self.binding, start, Some(at))
                    && batch.end <= limit
                {
                    return self.take(batch);
                }
            }
        }
        self.gap(limit)
    }

    fn gap(&mut self, to: usize) -> Step<'a> {
        let from = std::mem::replace(&mut self.at, to);
        (self.last_batch, self.whole) = (to, false);
        Step::Gap(from..to)
    }

    /// The highest offset that a head from here on proves. A head is bound to its place, so
    /// nothing but a later batch of this segment passes for one.
    fn synced(&mut self) -> u64 {
        self.beyond().iter().map(|(_, synced)| *synced).max().unwrap_or(0)
    }

    /// All heads and tails from here on, or from where this was first asked.
    fn beyond(&mut self) -> &[(usize, u64)] {
        let (bytes, binding, from) = (self.bytes, self.binding, self.at);
        self.beyond.get_or_insert_with(|| {
            let places = (from..used(bytes, from)).filter(|&at| bytes[at] == MAGIC_FIRST);
            let holds = |at: usize| {
                let head = Head::at(bytes, binding, at).map(|head| head.synced);
                let head = head.or_else(|| v1::Head::at(bytes, binding, at).map(|h| h.synced));
                let tail = || Head::tail_at(bytes, binding, at).map(|(tail, _)| tail.synced);
                Some((at, head.or_else(tail)?))
            };
            places.filter_map(holds).collect()
        })
    }

    /// Where the batches end. Call it once there is no next step.
    pub(crate) fn end(&self) -> u64 {
        self.at as u64
    }

    /// Where the last batch begins; the end if there is none.
    pub(crate) fn last_batch(&self) -> u64 {
        self.last_batch as u64
    }

    /// Whether the last step was a whole batch.
    pub(crate) fn is_at_whole_batch(&self) -> bool {
        self.whole
    }

    /// Where behind the end heads and tails stand that hold: those of a batch that was cut off.
    /// They must go before something else is written, or they might be taken for part of it.
    pub(crate) fn stale(&mut self) -> Vec<usize> {
        let end = self.at;
        self.beyond().iter().map(|(at, _)| *at).filter(|at| *at >= end).collect()
    }

    /// How far behind the end a batch reaches whose head stands there, or would stand.
    pub(crate) fn torn_end(&self) -> usize {
        let head = Head::at(self.bytes, self.binding, self.at);
        let bytes = head.map_or(HEAD_BYTES, |head| {
            (2 * HEAD_BYTES).saturating_add(head.records_bytes).saturating_add(head.table_bytes)
        });
        self.at.saturating_add(bytes)
    }

    /// The streams of the batch at the end, if its table can be read.
    pub(crate) fn torn_streams(&self) -> Option<Vec<StreamId>> {
        let batch = batch::read(self.bytes, self.binding, self.at, None)?;
        let mut streams: Vec<_> = batch.table?.records.iter().map(|slot| slot.stream).collect();
        streams.sort_unstable();
        streams.dedup();
        Some(streams)
    }

    /// A terminator stands here: nothing was torn off.
    pub(crate) fn is_clean(&self) -> bool {
        let here = self.bytes.get(self.at..).unwrap_or_default();
        here.get(..TERMINATOR_BYTES) == Some(&[0; TERMINATOR_BYTES])
    }
}

fn is_head(bytes: &[u8], binding: Binding, at: usize) -> bool {
    Head::at(bytes, binding, at).is_some() || v1::Head::at(bytes, binding, at).is_some()
}

/// Where the zeros begin that fill the file to its end, about: what is not yet used is skipped
/// fast.
fn used(bytes: &[u8], from: usize) -> usize {
    const CHUNK: [u8; 4096] = [0; 4096];
    let rest = bytes.get(from..).unwrap_or_default();
    let zeros = rest.rchunks(CHUNK.len()).take_while(|chunk| *chunk == &CHUNK[..chunk.len()]);
    from.max(bytes.len() - zeros.map(<[u8]>::len).sum::<usize>())
}
