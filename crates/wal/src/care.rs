//! Looking after an open log: who is quarantined, and a walk over what is on disk.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use crate::disk::File;
use crate::reading::read_pieces;
use crate::record::Binding;
use crate::scan::{Scan, Sealed, Step};
use crate::segment::{SEGMENT_HEADER_BYTES, SegmentHeader, segment_file};
use crate::{Damage, Error, StreamId, Wal, damage};

/// Bytes read between two looks at the pace.
const SCRUB_BYTES: usize = 256 << 10;

impl Wal {
    /// The quarantined streams, ascending, each with the file, the offset and what is wrong
    /// there (or what [`Wal::quarantine`] was told).
    pub fn quarantined(&self) -> Vec<(StreamId, String)> {
        self.shared().state().quarantine.list()
    }

    /// Whether the stream is quarantined. After damage that may have taken whole streams this
    /// is so for those that the log does not know, too.
    pub fn is_quarantined(&self, stream: StreamId) -> bool {
        let state = self.shared().state();
        state.quarantine.check(stream, &state.streams).is_err()
    }

    /// Sets a stream aside: its calls answer `Quarantined` from now on, until it is forgotten or
    /// the log is opened again. Nothing is written, and what was queued before still is.
    pub fn quarantine(&self, stream: StreamId, why: &str) {
        self.shared().state().quarantine.add(stream, why);
    }

    /// Reads every record of the segments that are written to their end, and checks it. `pace`
    /// is told the bytes of each read (up to 256 KiB) and may wait, or end the walk. Nobody is
    /// quarantined by it: that is the caller's to decide. Keeps one segment in memory.
    ///
    /// Returns what is damaged, with the streams that have a live entry there; damage of none
    /// costs nothing as long as the log is open.
    ///
    /// # Errors
    /// None as yet: what the disk refuses to read is damage.
    pub fn scrub(
        &self,
        pace: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<Vec<Damage>, Error> {
        let mut numbers: Vec<_> = self.shared().state().files.keys().copied().collect();
        numbers.pop();
        let mut found = Vec::new();
        for number in numbers.into_iter().rev() {
            let Some(damage) = self.scrub_segment(number, pace) else { break };
            found.extend(damage);
        }
        Ok(found)
    }

    /// The file of a segment, as long as it is needed. Held for one read only: what is held can't
    /// be recycled, and has its space still when it is removed.
    fn segment(&self, number: u64) -> Option<Arc<dyn File>> {
        self.shared().state().files.get(&number).cloned()
    }

    /// Nothing: the pace ended the walk.
    fn scrub_segment(
        &self,
        number: u64,
        pace: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Option<Vec<Damage>> {
        let length = self.segment(number).and_then(|file| file.length().ok());
        let mut bytes = vec![0; length.unwrap_or_default() as usize];
        for (at, piece) in bytes.chunks_mut(SCRUB_BYTES).enumerate() {
            let Some(file) = self.segment(number) else { return Some(Vec::new()) };
            let offset = (at * SCRUB_BYTES) as u64;
            if file.read_at(piece, offset).is_err() {
                read_pieces(file.as_ref(), piece, offset);
            }
            drop(file);
            if pace(piece.len() as u64).is_break() {
                return None;
            }
        }
        let Some(next) = self.segment(number + 1) else { return Some(Vec::new()) };
        let sealed = previous_end(next.as_ref());
        drop(next);
        let binding = Binding { wal_id: self.shared().wal_id, segment: number };
        let bad = unreadable(&bytes, binding, sealed);
        let state = self.shared().state();
        if !state.files.contains_key(&number) {
            // It was let go of meanwhile: nobody needs it.
            return Some(Vec::new());
        }
        let damage = bad.into_iter().map(|(range, reason)| {
            let here = |(_, view): &(&StreamId, &crate::view::View)| view.has_in(number, &range);
            let streams = state.streams.iter().filter(here).map(|(id, _)| *id).collect();
            let (file, bytes) = (segment_file(number), range.end - range.start);
            Damage { file, offset: range.start, bytes, reason, streams, unknown: false }
        });
        Some(damage.collect())
    }
}

/// Where the segment before `next` ends, if its header says.
fn previous_end(next: &dyn File) -> Sealed {
    let mut header = [0; SEGMENT_HEADER_BYTES];
    let read = next.read_at(&mut header, 0).ok();
    let header = read.and_then(|()| SegmentHeader::decode(&header).ok());
    header.map_or(Sealed::Somewhere, |header| Sealed::At(header.previous_end))
}

/// All that is wrong with a segment that was written to its end.
fn unreadable(bytes: &[u8], binding: Binding, sealed: Sealed) -> Vec<(Range<u64>, &'static str)> {
    let mut bad = Vec::new();
    let header = SegmentHeader::decode(bytes).ok().filter(|header| header.binding == binding);
    if header.is_none() {
        bad.push((0..SEGMENT_HEADER_BYTES as u64, damage::HEADER));
    }
    let mut scan = Scan::new(bytes, binding, sealed);
    while let Some(step) = scan.next_step() {
        match step {
            Step::Gap(range) => bad.push((range.start as u64..range.end as u64, damage::GAP)),
            Step::Batch(batch) => {
                bad.extend(batch.bad.iter().map(|(from, to, streams)| {
                    let reason = if streams.is_empty() { damage::HEAD } else { damage::UNREADABLE };
                    (*from as u64..*to as u64, reason)
                }));
                bad.extend(batch.gap.map(|at| (at as u64..batch.end as u64, damage::GAP)));
            }
        }
    }
    if let Sealed::At(end) = sealed
        && scan.end() < end
    {
        bad.push((scan.end()..end, damage::GAP));
    }
    bad
}
