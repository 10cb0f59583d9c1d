//! The batches of format version 1, which are read for ever and written no more. Pure.
//!
//! ```text
//! batch   b7 57 a1 6e · body bytes u32 · records u32 · synced u64
//!         · checksum of the records' checksums u32 · checksum* u32 · record · record · …
//! ```
//!
//! There is no table: once a record can't be read, nobody knows what stands behind it in its
//! batch.

use crate::batch::{Batch, Frame, Item};
use crate::codec::Reader;
use crate::record::{Binding, Record};

/// Bytes of a batch in front of its first record.
pub(crate) const HEAD_BYTES: usize = 28;
const MAGIC: [u8; 4] = [0xb7, 0x57, 0xa1, 0x6e];

#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    body_bytes: usize,
    records: u32,
    pub(crate) synced: u64,
    record_checksums: u32,
}

impl Head {
    /// The head of the batch that begins at `offset` of `segment`.
    pub(crate) fn at(segment: &[u8], binding: Binding, offset: usize) -> Option<Self> {
        let bytes = segment.get(offset..)?.get(..HEAD_BYTES)?;
        let mut from = Reader::new(bytes);
        if from.raw(4)? != MAGIC {
            return None;
        }
        let (body_bytes, records) = (from.u32()? as usize, from.u32()?);
        let (synced, record_checksums) = (from.u64()?, from.u32()?);
        let whole = from.u32()? == binding.checksum(offset as u64, &bytes[..HEAD_BYTES - 4]);
        whole.then_some(Self { body_bytes, records, synced, record_checksums })
    }
}

/// Reads the batch that begins at `start`; nothing if its head can't be read.
pub(crate) fn read(segment: &[u8], binding: Binding, start: usize) -> Option<Batch<'_>> {
    let head = Head::at(segment, binding, start)?;
    let mut at = start + HEAD_BYTES;
    let end = at.checked_add(head.body_bytes)?;
    let mut items = Vec::new();
    let mut gap = None;
    let mut checksums = crc32fast::Hasher::new();
    while at < end && gap.is_none() {
        let taken = segment.get(at..end);
        match taken.and_then(|bytes| Record::take_frame(bytes, binding, at as u64)) {
            Some((record, checksum, bytes)) => {
                checksums.update(&checksum.to_le_bytes());
                items.push(Item::Record(record, Frame { offset: at as u64, bytes }));
                at += bytes;
            }
            None => gap = Some(at),
        }
    }
    let adds_up =
        items.len() == head.records as usize && checksums.finalize() == head.record_checksums;
    if gap.is_none() && !adds_up {
        items.clear();
        gap = Some(start + HEAD_BYTES);
    }
    Some(Batch { start, end, table: None, items, bad: Vec::new(), gap })
}
