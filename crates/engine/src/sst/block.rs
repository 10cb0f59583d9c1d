//! What an open block holds: entries in key order, each with what it shares with the one before.
//!
//! ```text
//! block = entry* | restart u32 * n | n u32
//! entry = shared varint | own varint | value bytes varint | own key bytes | value
//! index entry = shared varint | own varint | own key bytes | handle, or how much larger the next is
//! ```

use std::ops::ControlFlow;

use super::format::{Handle, TRAILER_BYTES, take_handle, take_varint, u32_at};

/// Entries that nobody takes apart are of no use: what is handed on is (key, value).
pub(super) type Visit<'v> = &'v mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

/// Visits the entries of a data, metaindex or properties block.
pub(super) fn entries(block: &[u8], visit: Visit<'_>) -> Result<(), String> {
    let mut from = without_restarts(block)?;
    let mut key = Vec::new();
    while !from.is_empty() {
        let (shared, own) = (take_length(&mut from)?, take_length(&mut from)?);
        let value_bytes = take_length(&mut from)?;
        extend_key(&mut key, shared, take(&mut from, own)?)?;
        if visit(&key, take(&mut from, value_bytes)?).is_break() {
            return Ok(());
        }
    }
    Ok(())
}

/// One block as the index tells of it: it holds keys up to and including `upto`.
pub(super) struct IndexEntry {
    pub(super) upto: Vec<u8>,
    pub(super) block: Handle,
}

/// How a file's index is written.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct IndexShape {
    /// Keys stand without the sequence number behind them.
    pub(super) user_keys: bool,
    /// Handles behind the first of a run tell only how they differ.
    pub(super) deltas: bool,
}

/// Bytes behind a user key in a full one: sequence number and kind.
pub(crate) const SEQUENCE_BYTES: usize = 8;

/// All entries of an index block.
pub(super) fn index(block: &[u8], shape: IndexShape) -> Result<Vec<IndexEntry>, String> {
    let mut from = without_restarts(block)?;
    let mut key = Vec::new();
    let mut last: Option<Handle> = None;
    let mut found = Vec::new();
    while !from.is_empty() {
        let (shared, own) = (take_length(&mut from)?, take_length(&mut from)?);
        let value_bytes = if shape.deltas { None } else { Some(take_length(&mut from)?) };
        extend_key(&mut key, shared, take(&mut from, own)?)?;
        let block = match (value_bytes, last) {
            (Some(bytes), _) => take_handle(&mut take(&mut from, bytes)?)?,
            (None, Some(last)) if shared > 0 => next_handle(last, take_varint(&mut from)?)?,
            (None, _) => take_handle(&mut from)?,
        };
        last = Some(block);
        let user_bytes = if shape.user_keys { key.len() } else { user_key(&key)?.len() };
        found.push(IndexEntry { upto: key[..user_bytes].to_vec(), block });
    }
    Ok(found)
}

/// A key without its sequence number and kind.
pub(super) fn user_key(key: &[u8]) -> Result<&[u8], String> {
    let (user, _) = key.split_last_chunk::<SEQUENCE_BYTES>().ok_or("a key without a number")?;
    Ok(user)
}

/// The block behind `last`, whose size differs by a number that is positive if it is even.
fn next_handle(last: Handle, delta: u64) -> Result<Handle, String> {
    let half = delta >> 1;
    let bytes = if delta & 1 == 0 {
        last.bytes.checked_add(half)
    } else {
        last.bytes.checked_sub(half + 1)
    };
    let end = last.offset.checked_add(last.bytes);
    let offset = end.and_then(|end| end.checked_add(TRAILER_BYTES as u64));
    match (offset, bytes) {
        (Some(offset), Some(bytes)) => Ok(Handle { offset, bytes }),
        _ => Err("an index entry beyond every file".to_owned()),
    }
}

fn without_restarts(block: &[u8]) -> Result<&[u8], String> {
    /// Bits above the number of restarts tell of layouts that this build does not write.
    const FEATURES: u32 = 0xf000_0000;
    /// All but this one, a hint about how keys are spread.
    const UNIFORM: u32 = 0x2000_0000;
    let at = block.len().checked_sub(4).ok_or("a block without an end")?;
    let packed = u32_at(block, at);
    if packed & FEATURES & !UNIFORM != 0 {
        return Err("a block of a layout that this build does not write".to_owned());
    }
    let restarts = (packed & !FEATURES) as usize;
    let end = restarts.checked_mul(4).and_then(|bytes| at.checked_sub(bytes));
    end.map(|end| &block[..end]).ok_or_else(|| "more restarts than a block has room for".to_owned())
}

fn extend_key(key: &mut Vec<u8>, shared: usize, own: &[u8]) -> Result<(), String> {
    if shared > key.len() {
        return Err("a key shares more than there is".to_owned());
    }
    key.truncate(shared);
    key.extend_from_slice(own);
    Ok(())
}

fn take_length(from: &mut &[u8]) -> Result<usize, String> {
    take_varint(from).map(|length| usize::try_from(length).unwrap_or(usize::MAX))
}

fn take<'b>(from: &mut &'b [u8], bytes: usize) -> Result<&'b [u8], String> {
    let (front, rest) = from.split_at_checked(bytes).ok_or("an entry ends behind its block")?;
    *from = rest;
    Ok(front)
}
