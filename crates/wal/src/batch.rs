//! A batch: what one sync makes durable, and the bytes that say what is in it. Pure.
//!
//! A batch begins with a head and ends with a tail that says the same under another magic, so
//! either tells where the batch begins and ends. Between the records and the tail stands the
//! table: for each stream the number of its first record here, for each record its kind, its
//! stream and its length. So a record that can't be read any more is still known for whose it
//! was, those behind it are found, and a later batch tells whether a stream lost any before.
//! A table is *complete* if it names every stream there is: a roll call, which proves those that
//! have no records in it too.

use std::collections::HashMap;

use crate::codec::{Reader, put_varint};
use crate::ledger::Ledger;
use crate::record::{Binding, CHECKPOINT, FRAME_BYTES, KIND_STREAM_INDEX, Numbering, Record};
use crate::{StreamId, v1};

/// Bytes of a batch in front of its first record.
pub(crate) const HEAD_BYTES: usize = 36;
/// Zeros behind the last batch, where the next one will be.
pub(crate) const TERMINATOR_BYTES: usize = 28;
/// A record adds no more than this to the table.
const TABLE_BYTES_PER_RECORD: usize = 10 + 10 + 1 + 5 + 5;

const HEAD_MAGIC: [u8; 4] = [0xb7, 0x57, 0xa2, 0x6e];
const TAIL_MAGIC: [u8; 4] = [0xb7, 0x7a, 0x11, 0x6e];
/// What every head and tail begins with, of either version.
pub(crate) const MAGIC_FIRST: u8 = 0xb7;
const _: () = assert!(HEAD_MAGIC[0] == MAGIC_FIRST && TAIL_MAGIC[0] == MAGIC_FIRST);

/// Bits of a table's flags.
const COMPLETE: u8 = 1;
const UNKNOWN: u8 = 2;

/// Where a frame stands in the segment being built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) offset: u64,
    pub(crate) bytes: usize,
}

/// What a batch's head says, and its tail again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) records_bytes: usize,
    pub(crate) table_bytes: usize,
    pub(crate) records: u32,
    /// Everything in front of this offset had been synced before the batch was written.
    pub(crate) synced: u64,
    pub(crate) record_checksums: u32,
    pub(crate) table_checksum: u32,
}

impl Head {
    fn encode(self, magic: [u8; 4], binding: Binding, offset: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD_BYTES);
        out.extend_from_slice(&magic);
        out.extend_from_slice(&(self.records_bytes as u32).to_le_bytes());
        out.extend_from_slice(&(self.table_bytes as u32).to_le_bytes());
        out.extend_from_slice(&self.records.to_le_bytes());
        out.extend_from_slice(&self.synced.to_le_bytes());
        out.extend_from_slice(&self.record_checksums.to_le_bytes());
        out.extend_from_slice(&self.table_checksum.to_le_bytes());
        let checksum = binding.checksum(offset, &out);
        out.extend_from_slice(&checksum.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8], magic: [u8; 4], binding: Binding, offset: u64) -> Option<Self> {
        let bytes = bytes.get(..HEAD_BYTES)?;
        let mut from = Reader::new(bytes);
        if from.raw(4)? != magic {
            return None;
        }
        let (records_bytes, table_bytes) = (from.u32()? as usize, from.u32()? as usize);
        let (records, synced) = (from.u32()?, from.u64()?);
        let (record_checksums, table_checksum) = (from.u32()?, from.u32()?);
        let whole = from.u32()? == binding.checksum(offset, &bytes[..HEAD_BYTES - 4]);
        let head =
            Self { records_bytes, table_bytes, records, synced, record_checksums, table_checksum };
        whole.then_some(head)
    }

    /// The head of the batch that begins at `offset` of `segment`.
    pub(crate) fn at(segment: &[u8], binding: Binding, offset: usize) -> Option<Self> {
        Self::decode(segment.get(offset..)?, HEAD_MAGIC, binding, offset as u64)
    }

    /// The tail that begins at `offset`, and where its batch begins.
    pub(crate) fn tail_at(
        segment: &[u8],
        binding: Binding,
        offset: usize,
    ) -> Option<(Self, usize)> {
        let head = Self::decode(segment.get(offset..)?, TAIL_MAGIC, binding, offset as u64)?;
        let before = HEAD_BYTES.checked_add(head.records_bytes)?.checked_add(head.table_bytes)?;
        Some((head, offset.checked_sub(before)?))
    }
}

/// What a table says of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) kind: u8,
    /// Means nothing for a checkpoint, which is of all streams.
    pub(crate) stream: StreamId,
    pub(crate) frame_bytes: usize,
}

/// What is in a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Table {
    /// It names every stream.
    pub(crate) complete: Option<Numbering>,
    /// The number of each stream's next record, as of the batch's beginning.
    pub(crate) streams: Vec<(StreamId, u64)>,
    pub(crate) records: Vec<Slot>,
}

impl Table {
    /// Takes a table apart whose frames must have `records_bytes` together.
    pub(crate) fn decode(bytes: &[u8], records_bytes: usize) -> Option<Self> {
        let mut from = Reader::new(bytes);
        let flags = from.u8().filter(|flags| flags & !(COMPLETE | UNKNOWN) == 0)?;
        let mut table = Self::default();
        if flags & COMPLETE != 0 {
            let numbering = Numbering { floor: from.varint()?, unknown: flags & UNKNOWN != 0 };
            table.complete = Some(numbering);
        }
        // No more is kept than is there: each item takes bytes.
        for _ in 0..from.varint()? {
            table.streams.push((StreamId(from.varint()?), from.varint()?));
        }
        let mut left = records_bytes;
        while left > 0 {
            let (kind, slot) = (from.u8()?, usize::try_from(from.varint()?).ok()?);
            let stream = match table.streams.get(slot) {
                Some((stream, _)) => *stream,
                None if kind == CHECKPOINT => StreamId::default(),
                None => return None,
            };
            let frame_bytes = usize::try_from(from.varint()?).ok()?;
            left = left.checked_sub(frame_bytes).filter(|_| frame_bytes >= FRAME_BYTES)?;
            table.records.push(Slot { kind, stream, frame_bytes });
        }
        from.finish(table)
    }
}

/// A batch in the making: its bytes, as they will stand at `offset` of the segment.
#[derive(Debug)]
pub(crate) struct BatchBuilder {
    binding: Binding,
    offset: u64,
    bytes: Vec<u8>,
    records: u32,
    record_checksums: crc32fast::Hasher,
    streams: Vec<(StreamId, u64)>,
    /// Only looked up in: the bytes must not depend on the order of its hashes.
    slots: HashMap<StreamId, u64>,
    /// The table's records.
    table: Vec<u8>,
}

impl BatchBuilder {
    /// An empty batch that begins at `offset`. `bytes` is a buffer to use again.
    pub(crate) fn new(binding: Binding, offset: u64, mut bytes: Vec<u8>) -> Self {
        bytes.clear();
        bytes.resize(HEAD_BYTES, 0);
        let (streams, slots, table) = (Vec::new(), HashMap::new(), Vec::new());
        let record_checksums = crc32fast::Hasher::new();
        Self { binding, offset, bytes, records: 0, record_checksums, streams, slots, table }
    }

    pub(crate) fn records(&self) -> u32 {
        self.records
    }

    pub(crate) fn binding(&self) -> Binding {
        self.binding
    }

    /// Where the batch begins.
    pub(crate) fn start(&self) -> u64 {
        self.offset
    }

    /// Where the next record goes.
    fn next_frame(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }

    /// Where the segment's file would have to end if the batch were sealed now, at most.
    pub(crate) fn end_max(&self) -> u64 {
        let table = 32 + self.streams.len() * 20 + self.table.len();
        self.next_frame() + (table + HEAD_BYTES + TERMINATOR_BYTES) as u64
    }

    /// The same, if `record` were added before.
    pub(crate) fn end_with(&self, record: &Record<'_>) -> u64 {
        self.end_max() + (record.frame_bytes_max() + TABLE_BYTES_PER_RECORD) as u64
    }

    /// The same, if an entry were moved whose frame takes so many bytes.
    pub(crate) fn end_with_moved(&self, frame_bytes: u64) -> u64 {
        self.end_max() + frame_bytes + (KIND_STREAM_INDEX + TABLE_BYTES_PER_RECORD) as u64
    }

    /// The same, if every stream of `ledger` were named.
    pub(crate) fn end_with_roll_call(&self, ledger: &Ledger) -> u64 {
        self.end_max() + ledger.streams.len() as u64 * 20
    }

    /// Adds a record. `number` is [`Ledger::number`] of its stream before the record.
    pub(crate) fn put(&mut self, record: &Record<'_>, number: u64) -> Frame {
        let offset = self.next_frame();
        let checksum = record.put_frame(&mut self.bytes, self.binding, offset);
        self.record_checksums.update(&checksum.to_le_bytes());
        self.records += 1;
        let frame = Frame { offset, bytes: (self.next_frame() - offset) as usize };
        let slot = record.stream().map_or(0, |stream| self.slot(stream, number));
        self.table.push(record.kind());
        put_varint(&mut self.table, slot);
        put_varint(&mut self.table, frame.bytes as u64);
        frame
    }

    fn slot(&mut self, stream: StreamId, number: u64) -> u64 {
        let next = self.streams.len() as u64;
        let slot = *self.slots.entry(stream).or_insert(next);
        if slot == next {
            self.streams.push((stream, number));
        }
        slot
    }

    /// Adds the table, the tail and the terminator, and fills in the head. Everything in front
    /// of `synced` in this segment, and everything in the segments before, must have been
    /// synced. `roll_call` is the ledger with these records folded in, for a complete table.
    /// Returns the bytes, and where the next batch begins.
    pub(crate) fn seal(mut self, synced: u64, roll_call: Option<&Ledger>) -> (Vec<u8>, u64) {
        let records_bytes = self.bytes.len() - HEAD_BYTES;
        let table_at = self.next_frame();
        self.put_table(roll_call);
        let table = &self.bytes[HEAD_BYTES + records_bytes..];
        let head = Head {
            records_bytes,
            table_bytes: table.len(),
            records: self.records,
            synced,
            record_checksums: self.record_checksums.finalize(),
            table_checksum: self.binding.checksum(table_at, table),
        };
        let tail_at = self.offset + self.bytes.len() as u64;
        let tail = head.encode(TAIL_MAGIC, self.binding, tail_at);
        self.bytes.extend_from_slice(&tail);
        let head = head.encode(HEAD_MAGIC, self.binding, self.offset);
        self.bytes[..HEAD_BYTES].copy_from_slice(&head);
        let end = self.offset + self.bytes.len() as u64;
        self.bytes.extend_from_slice(&[0; TERMINATOR_BYTES]);
        (self.bytes, end)
    }

    fn put_table(&mut self, roll_call: Option<&Ledger>) {
        match roll_call {
            None => self.bytes.push(0),
            Some(ledger) => {
                let Numbering { floor, unknown } = ledger.numbering;
                self.bytes.push(COMPLETE | if unknown { UNKNOWN } else { 0 });
                put_varint(&mut self.bytes, floor);
                for (&stream, known) in &ledger.streams {
                    if !self.slots.contains_key(&stream) {
                        self.streams.push((stream, known.number));
                    }
                }
            }
        }
        put_varint(&mut self.bytes, self.streams.len() as u64);
        for (stream, number) in &self.streams {
            put_varint(&mut self.bytes, stream.0);
            put_varint(&mut self.bytes, *number);
        }
        self.bytes.extend_from_slice(&self.table);
    }
}

/// A record of a batch, or what is known of one that can't be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Item<'a> {
    Record(Record<'a>, Frame),
    Lost(Slot, Frame),
}

/// A batch as it was read, damaged perhaps.
#[derive(Debug)]
pub(crate) struct Batch<'a> {
    pub(crate) start: usize,
    pub(crate) end: usize,
    /// Nothing if it can't be read, and in version 1.
    pub(crate) table: Option<Table>,
    pub(crate) items: Vec<Item<'a>>,
    /// Bytes that can't be read, from and to, and whose records stood there. No streams: it is
    /// known that nothing was lost.
    pub(crate) bad: Vec<(usize, usize, Vec<StreamId>)>,
    /// From here to the end nobody knows what stood there.
    pub(crate) gap: Option<usize>,
}

impl Batch<'_> {
    /// Not a byte of it is wrong.
    pub(crate) fn is_whole(&self) -> bool {
        self.bad.is_empty() && self.gap.is_none()
    }
}

/// Reads the batch that begins at `start`; nothing if neither its head nor its tail can be read.
/// `tail` is where its tail is, if the head can't say.
pub(crate) fn read(
    segment: &[u8],
    binding: Binding,
    start: usize,
    tail: Option<usize>,
) -> Option<Batch<'_>> {
    if let Some(batch) = v1::read(segment, binding, start) {
        return Some(batch);
    }
    let head = Head::at(segment, binding, start);
    let tail_at = match head {
        Some(head) => start
            .checked_add(HEAD_BYTES)?
            .checked_add(head.records_bytes)?
            .checked_add(head.table_bytes)?,
        None => tail?,
    };
    let tail = Head::tail_at(segment, binding, tail_at).map(|(tail, _)| tail);
    let told = head.or(tail)?;
    let table_at = start + HEAD_BYTES + told.records_bytes;
    let table_bytes = segment.get(table_at..tail_at).unwrap_or_default();
    let table = (binding.checksum(table_at as u64, table_bytes) == told.table_checksum)
        .then(|| Table::decode(table_bytes, told.records_bytes))
        .flatten()
        .filter(|table| table.records.len() == told.records as usize);
    let end = tail_at + HEAD_BYTES;
    let mut batch =
        Batch { start, end, table: None, items: Vec::new(), bad: Vec::new(), gap: None };
    if head.is_none() {
        batch.bad.push((start, start + HEAD_BYTES, Vec::new()));
    }
    match &table {
        Some(table) => take_by_table(&mut batch, segment, binding, table, told),
        None => take_by_length(&mut batch, segment, binding, told),
    }
    if table.is_none() {
        batch.bad.push((table_at, tail_at, Vec::new()));
    }
    if tail.is_none_or(|tail| tail != told) {
        batch.bad.push((tail_at, end, Vec::new()));
    }
    batch.table = table;
    Some(batch)
}

/// Takes the records that are where the table says, and notes those that are not.
fn take_by_table<'a>(
    batch: &mut Batch<'a>,
    segment: &'a [u8],
    binding: Binding,
    table: &Table,
    told: Head,
) {
    let mut at = batch.start + HEAD_BYTES;
    let mut checksums = crc32fast::Hasher::new();
    for slot in &table.records {
        let frame = Frame { offset: at as u64, bytes: slot.frame_bytes };
        let bytes = segment.get(at..at + slot.frame_bytes).unwrap_or_default();
        let taken = Record::take_frame(bytes, binding, at as u64);
        let item = match taken {
            Some((record, checksum, taken)) if taken == frame.bytes && slot.tells(&record) => {
                checksums.update(&checksum.to_le_bytes());
                Item::Record(record, frame)
            }
            _ => Item::Lost(*slot, frame),
        };
        batch.items.push(item);
        at += slot.frame_bytes;
    }
    // Records of another batch that once was begun at this place: none of them can be trusted.
    let all_there = !batch.items.iter().any(|item| matches!(item, Item::Lost(..)));
    if all_there && checksums.finalize() != told.record_checksums {
        for (item, slot) in batch.items.iter_mut().zip(&table.records) {
            if let Item::Record(_, frame) = item {
                *item = Item::Lost(*slot, *frame);
            }
        }
    }
    batch.bad.extend(lost_stretches(&batch.items));
}

/// The lost records that stand side by side, as one stretch each.
fn lost_stretches(items: &[Item<'_>]) -> Vec<(usize, usize, Vec<StreamId>)> {
    let mut stretches: Vec<(usize, usize, Vec<StreamId>)> = Vec::new();
    for item in items {
        let Item::Lost(slot, frame) = item else { continue };
        let (from, to) = (frame.offset as usize, frame.offset as usize + frame.bytes);
        let streams: Option<StreamId> = (slot.kind != CHECKPOINT).then_some(slot.stream);
        match stretches.last_mut() {
            Some((_, end, known)) if *end == from => {
                *end = to;
                known.extend(streams);
            }
            _ => stretches.push((from, to, streams.into_iter().collect())),
        }
    }
    for (_, _, streams) in &mut stretches {
        streams.sort_unstable();
        streams.dedup();
    }
    stretches
}

/// Without a table: takes records as long as one follows the other.
fn take_by_length<'a>(batch: &mut Batch<'a>, segment: &'a [u8], binding: Binding, told: Head) {
    let mut at = batch.start + HEAD_BYTES;
    let end = at + told.records_bytes;
    let mut checksums = crc32fast::Hasher::new();
    while at < end {
        let taken = segment.get(at..end);
        let taken = taken.and_then(|bytes| Record::take_frame(bytes, binding, at as u64));
        let Some((record, checksum, bytes)) = taken else {
            batch.gap = Some(at);
            return;
        };
        checksums.update(&checksum.to_le_bytes());
        batch.items.push(Item::Record(record, Frame { offset: at as u64, bytes }));
        at += bytes;
    }
    if batch.items.len() != told.records as usize || checksums.finalize() != told.record_checksums {
        batch.items.clear();
        batch.gap = Some(batch.start + HEAD_BYTES);
    }
}

impl Slot {
    fn tells(&self, record: &Record<'_>) -> bool {
        self.kind == record.kind() && record.stream().is_none_or(|stream| stream == self.stream)
    }
}

/// Gives what looks like batches, one behind the other from the segment's header on, the
/// checksums that make it batches: for fuzzing, which would never guess them.
pub(crate) fn seal_by_force(segment: &mut [u8], binding: Binding) {
    let mut start = crate::segment::SEGMENT_HEADER_BYTES;
    while let Some(head) = segment.get(start..start + HEAD_BYTES) {
        let word = |at: usize| {
            let bytes = head.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
            bytes.map_or(0, u32::from_le_bytes) as usize
        };
        let room = segment.len() - start;
        let records_bytes = word(4) % room.max(1);
        let table_bytes = word(8) % (room - records_bytes).max(1);
        let (records, synced) = (word(12) as u32 % 64, word(16) as u64);
        let table_at = start + HEAD_BYTES + records_bytes;
        let tail_at = table_at + table_bytes;
        if segment.len() < tail_at + HEAD_BYTES {
            return;
        }
        let mut checksums = crc32fast::Hasher::new();
        let mut at = start + HEAD_BYTES;
        while at + FRAME_BYTES <= table_at {
            let left = table_at - at - FRAME_BYTES;
            let length = usize::from(segment[at + 4]).min(left);
            segment[at + 4..at + 8].copy_from_slice(&(length as u32).to_le_bytes());
            let end = at + FRAME_BYTES + length;
            let checksum = binding.checksum(at as u64, &segment[at + 4..end]).to_le_bytes();
            segment[at..at + 4].copy_from_slice(&checksum);
            checksums.update(&checksum);
            at = end;
        }
        let table_checksum = binding.checksum(table_at as u64, &segment[table_at..tail_at]);
        let record_checksums = checksums.finalize();
        let head =
            Head { records_bytes, table_bytes, records, synced, record_checksums, table_checksum };
        let bytes = head.encode(HEAD_MAGIC, binding, start as u64);
        segment[start..start + HEAD_BYTES].copy_from_slice(&bytes);
        let bytes = head.encode(TAIL_MAGIC, binding, tail_at as u64);
        segment[tail_at..tail_at + HEAD_BYTES].copy_from_slice(&bytes);
        start = tail_at + HEAD_BYTES;
    }
}
