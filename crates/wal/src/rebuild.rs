//! The fold of what a scan finds into a ledger, over what it can't read. Pure.
//!
//! A stream is *doubtful* once a record of it was lost that may have changed more than one
//! entry's payload; from then on its records are taken as far as they tell something, until a
//! checkpoint says what became of it. What only that record knew stays unknown: an entry without
//! a place is a *hole*. A lost entry alone is just a hole; a lost move is nothing as long as the
//! older copy is there.
//!
//! A stretch of which nobody knows what stood there is a *gap*. Behind it every stream is
//! unproven, until a table or a checkpoint tells the number of its next record: the one we have
//! counted up to, and it lost nothing; another, and it is doubtful. A roll call also tells of
//! the streams we do not know. What is unproven, doubtful or has a hole at the end is
//! quarantined; so damage in records that were purged or cut off since costs nobody anything.

use std::collections::{BTreeMap, BTreeSet};

use crate::StreamId;
use crate::batch::{Batch, Frame, Item, Slot, Table};
use crate::damage::{self, Damage};
use crate::ledger::{Broken, Ledger, Location};
use crate::record::{self, Numbering, Record, StreamState};
use crate::segment::{SEGMENT_HEADER_BYTES, segment_file};

/// The fold.
#[derive(Debug, Default)]
pub(crate) struct Rebuild {
    pub(crate) ledger: Ledger,
    /// Records read, checkpoints not counted.
    pub(crate) records: u64,
    pub(crate) damage: Vec<Damage>,
    doubtful: BTreeSet<StreamId>,
    /// What the log says of them contradicts itself.
    broken: BTreeSet<StreamId>,
    /// Damage of which nobody knows yet whose records stood there.
    gaps: Vec<usize>,
    /// How many of the gaps a stream is known to have lost nothing in.
    proven: BTreeMap<StreamId, usize>,
    /// A checkpoint or part of one was read.
    begun: bool,
}

/// What the fold came to.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) damage: Vec<Damage>,
    /// The streams that lost something, and why.
    pub(crate) quarantined: BTreeMap<StreamId, String>,
    /// The next checkpoint must say so: the records alone would not show it again.
    pub(crate) to_be_written: bool,
}

impl Rebuild {
    /// A segment begins. Version 1 has no numbers.
    pub(crate) fn segment(&mut self, version: Option<u32>) {
        if version == Some(1) && !self.begun {
            self.ledger.unnumbered = true;
        }
    }

    /// Bytes that can't be read, and nobody knows what stood there.
    pub(crate) fn gap(&mut self, segment: u64, from: u64, bytes: u64, reason: &'static str) {
        self.gaps.push(self.damage.len());
        self.harmless(segment, from, bytes, reason);
    }

    /// Bytes that can't be read, in which no record stood.
    pub(crate) fn harmless(&mut self, segment: u64, offset: u64, bytes: u64, reason: &'static str) {
        let file = segment_file(segment);
        self.damage.push(Damage { file, offset, bytes, reason, ..Damage::default() });
    }

    /// Folds in a batch.
    pub(crate) fn batch(&mut self, segment: u64, batch: Batch<'_>) {
        if let Some(table) = &batch.table {
            self.numbers(table, segment, batch.start as u64);
        }
        let gap = batch.gap.map(|from| (from as u64, (batch.end - from) as u64));
        for (from, to, streams) in &batch.bad {
            let reason = if streams.is_empty() { damage::HEAD } else { damage::UNREADABLE };
            self.harmless(segment, *from as u64, (to - from) as u64, reason);
            if let Some(damage) = self.damage.last_mut() {
                damage.streams.clone_from(streams);
            }
        }
        if batch.start == SEGMENT_HEADER_BYTES {
            self.checkpoint(segment, batch.table, batch.items, gap.is_some());
        } else {
            for item in batch.items {
                match item {
                    Item::Record(record, frame) => self.record(&record, segment, frame),
                    Item::Lost(slot, _) => self.lost(slot),
                }
            }
            if let Some(table) = batch.table
                && let Some(numbering) = table.complete
            {
                let named = table.streams.into_iter().map(|(stream, _)| stream).collect();
                self.roll_call(&named, Some(numbering), segment, batch.start as u64);
            }
        }
        if let Some((from, bytes)) = gap {
            self.gap(segment, from, bytes, damage::GAP);
        }
    }

    fn is_unproven(&self, stream: StreamId) -> bool {
        self.proven.get(&stream).copied().unwrap_or(0) < self.gaps.len()
    }

    /// Looks at the numbers a table gives: they show who lost records in the gaps before.
    fn numbers(&mut self, table: &Table, segment: u64, offset: u64) {
        let counted = !self.ledger.unnumbered;
        self.ledger.begin_numbers();
        for &(stream, number) in &table.streams {
            let known = self.ledger.streams.contains_key(&stream);
            let same = counted && number == self.ledger.number(stream);
            let unproven = self.is_unproven(stream);
            if same || !(known || unproven) || (!counted && !unproven) {
                // It lost nothing, or begins here.
            } else if unproven {
                self.blame_gaps(stream);
                self.doubt(stream);
            } else if !self.doubtful.contains(&stream) {
                self.contradiction(Some(stream), segment, offset, damage::SKIPPED);
            }
            if self.doubtful.contains(&stream) {
                self.ledger.set_number(stream, number);
            }
            self.proven.insert(stream, self.gaps.len());
        }
    }

    /// The gaps it may have lost records in are damage of this stream.
    fn blame_gaps(&mut self, stream: StreamId) {
        let proven = self.proven.get(&stream).copied().unwrap_or(0);
        for &gap in &self.gaps[proven..] {
            self.damage[gap].streams.push(stream);
        }
        self.proven.insert(stream, self.gaps.len());
    }

    /// Nothing known of the stream so far can be relied on.
    fn doubt(&mut self, stream: StreamId) {
        self.ledger.lose_places(stream);
        self.doubtful.insert(stream);
    }

    /// Something that a log of ours never holds, though every checksum is right.
    fn contradiction(
        &mut self,
        stream: Option<StreamId>,
        segment: u64,
        offset: u64,
        reason: &'static str,
    ) {
        let Some(stream) = stream else { return self.gap(segment, offset, 0, reason) };
        self.harmless(segment, offset, 0, reason);
        if let Some(damage) = self.damage.last_mut() {
            damage.streams.push(stream);
        }
        self.doubt(stream);
        self.broken.insert(stream);
    }

    fn record(&mut self, record: &Record<'_>, segment: u64, frame: Frame) {
        self.records += 1;
        let at = Location::of(segment, frame);
        let certain = self.doubtful.is_empty() && self.gaps.is_empty();
        if let Some(stream) = record.stream()
            && !certain
        {
            if self.is_unproven(stream) {
                self.blame_gaps(stream);
                self.doubt(stream);
            }
            if self.doubtful.contains(&stream) {
                return self.doubtful_record(stream, record, at);
            }
        }
        if let Err(Broken(reason)) = self.ledger.apply(record, at) {
            self.contradiction(record.stream(), segment, frame.offset, reason);
        }
    }

    fn doubtful_record(&mut self, stream: StreamId, record: &Record<'_>, at: Location) {
        if let Record::Entry { index, .. } = record {
            return self.ledger.force_entry(stream, *index, at);
        }
        // The other kinds fit any state.
        let _ = self.ledger.apply(record, at);
        if matches!(record, Record::Forget { .. }) {
            self.doubtful.remove(&stream);
            self.broken.remove(&stream);
        }
    }

    /// A record that can't be read, though it is known what it was.
    fn lost(&mut self, slot: Slot) {
        let Slot { kind, stream, .. } = slot;
        match kind {
            record::MOVED => return,
            // Of a stream that is not there: it changed nothing.
            record::TRUNCATE | record::FORGET if !self.ledger.streams.contains_key(&stream) => {
                return;
            }
            record::ENTRY if !self.doubtful.contains(&stream) => {
                if !self.ledger.push_hole(stream) {
                    self.doubtful.insert(stream);
                }
            }
            record::ENTRY | record::MARK | record::PURGE => {
                self.doubtful.insert(stream);
            }
            _ => self.doubt(stream),
        }
        self.ledger.count(stream);
    }

    /// Compares what a segment begins with to what those before it add up to, or takes it over.
    fn checkpoint(
        &mut self,
        segment: u64,
        table: Option<Table>,
        items: Vec<Item<'_>>,
        has_gap: bool,
    ) {
        let oldest = !std::mem::replace(&mut self.begun, true);
        let at = SEGMENT_HEADER_BYTES as u64;
        let mut numbering = table.as_ref().and_then(|table| table.complete);
        let mut named: Option<BTreeSet<_>> =
            table.map(|table| table.streams.into_iter().map(|(stream, _)| stream).collect());
        let mut told = BTreeSet::new();
        for item in items {
            match item {
                Item::Record(Record::Checkpoint { numbering: says, .. }, _) => {
                    numbering = numbering.or(says);
                    if says.is_none() {
                        self.ledger.unnumbered = true;
                    }
                    if !has_gap && named.is_none() {
                        named = Some(BTreeSet::new());
                    }
                }
                Item::Record(Record::State(state), _) => {
                    told.insert(state.stream);
                    self.state(&state, segment, oldest);
                }
                Item::Record(_, frame) => {
                    let reason = "a segment that does not begin with a checkpoint";
                    self.contradiction(None, segment, frame.offset, reason);
                }
                Item::Lost(slot, _) if oldest && slot.kind == record::STATE => {
                    self.doubt(slot.stream);
                }
                Item::Lost(..) => {}
            }
        }
        if let Some(mut named) = named.filter(|_| !has_gap) {
            named.extend(told);
            self.roll_call(&named, numbering, segment, at);
        }
    }

    fn state(&mut self, state: &StreamState<'_>, segment: u64, oldest: bool) {
        let stream = state.stream;
        if self.is_unproven(stream) {
            self.blame_gaps(stream);
            self.doubt(stream);
        }
        let doubtful = self.doubtful.contains(&stream);
        if !oldest && !doubtful && !self.ledger.agrees(state) {
            let at = SEGMENT_HEADER_BYTES as u64;
            self.contradiction(Some(stream), segment, at, damage::DISAGREES);
        }
        let adopted = self.ledger.adopt(state);
        if state.quarantined || !adopted || self.broken.contains(&stream) {
            self.doubtful.insert(stream);
        } else {
            self.doubtful.remove(&stream);
        }
    }

    /// All streams there are have been named: the others are gone, and the gaps are accounted
    /// for.
    fn roll_call(
        &mut self,
        named: &BTreeSet<StreamId>,
        numbering: Option<Numbering>,
        segment: u64,
        offset: u64,
    ) {
        let known: Vec<_> = self.ledger.streams.keys().copied().collect();
        for stream in known.into_iter().filter(|stream| !named.contains(stream)) {
            if self.is_unproven(stream) || self.doubtful.contains(&stream) {
                self.ledger.remove(stream);
                self.doubtful.remove(&stream);
                self.broken.remove(&stream);
            } else {
                self.contradiction(Some(stream), segment, offset, damage::DISAGREES);
            }
        }
        let Numbering { floor, unknown } = numbering.unwrap_or_default();
        self.ledger.numbering.floor = self.ledger.numbering.floor.max(floor);
        self.ledger.numbering.unknown = unknown;
        self.gaps.clear();
        self.proven.clear();
    }

    /// Says who is quarantined. `oldest` is the number of the oldest segment.
    pub(crate) fn finish(&mut self, oldest: u64) -> Verdict {
        let mut verdict = Verdict::default();
        self.ledger.settle();
        let streams: Vec<_> = self.ledger.streams.keys().copied().collect();
        for stream in streams {
            if self.is_unproven(stream) {
                self.blame_gaps(stream);
                self.doubtful.insert(stream);
            }
            let unsure = self.doubtful.contains(&stream);
            if unsure {
                verdict.to_be_written |= self.ledger.quarantine(stream);
            }
            if unsure || self.ledger.has_hole(stream) {
                verdict.quarantined.insert(stream, String::new());
            }
        }
        if !self.gaps.is_empty() {
            let known_before = std::mem::replace(&mut self.ledger.numbering.unknown, true);
            verdict.to_be_written |= !known_before;
            for &gap in &self.gaps {
                self.damage[gap].unknown = true;
            }
        }
        verdict.damage = std::mem::take(&mut self.damage);
        for damage in &mut verdict.damage {
            damage.streams.retain(|stream| verdict.quarantined.contains_key(stream));
            damage.streams.sort_unstable();
            damage.streams.dedup();
            for stream in &damage.streams {
                if let Some(why) = verdict.quarantined.get_mut(stream).filter(|w| w.is_empty()) {
                    *why = damage.why();
                }
            }
        }
        self.explain_the_rest(&mut verdict, oldest);
        verdict
    }

    /// Streams whose damage lies before the oldest segment.
    fn explain_the_rest(&self, verdict: &mut Verdict, oldest: u64) {
        let mut before =
            Damage { file: segment_file(oldest), reason: damage::BEFORE, ..Damage::default() };
        let mut gone = Damage {
            file: segment_file(oldest.saturating_sub(1)),
            reason: damage::OLDER_MISSING,
            ..Damage::default()
        };
        for (stream, why) in verdict.quarantined.iter_mut().filter(|(_, why)| why.is_empty()) {
            let doubtful = self.doubtful.contains(stream);
            let damage = if doubtful { &mut before } else { &mut gone };
            damage.streams.push(*stream);
            *why = damage.why();
        }
        before.unknown =
            self.ledger.numbering.unknown && !verdict.damage.iter().any(|damage| damage.unknown);
        let told = [before, gone].into_iter();
        verdict.damage.extend(told.filter(|told| !told.streams.is_empty() || told.unknown));
    }
}
