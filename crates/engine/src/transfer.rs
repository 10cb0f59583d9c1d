//! A group's rows as a checked stream, and back into the store.
//!
//! ```text
//! chunk = version u8 | last? u8 | rows before u64 | (row, value)* | CRC-32 of all before it
//! ```
//!
//! Rows travel without their scope, so that the receiver files them under its
//! own next generation. The stream is one frozen view of the sender's store, its
//! applied mark among the rows; the last chunk says so. A chunk that is
//! missing, doubled or damaged ends the intake and leaves nothing behind.

use std::ops::ControlFlow;

use bytes::Bytes;
use stemedb_types::{DecodeError, Decoder, Encoder};

use crate::Error;
use crate::group::Group;
use crate::rows::{SCOPE_BYTES, Scope};
use crate::store::Intake;

const CHUNK_VERSION: u8 = 1;
/// A chunk is closed once it holds this much.
const CHUNK_BYTES: usize = 256 * 1024;

/// Sends the group's rows, as they stand now, in chunks of about 256 KiB.
///
/// `send` may break off; the stream is then simply unfinished, and no receiver takes it. Blocks:
/// call it where blocking is fine.
pub fn export(group: &Group, send: &mut dyn FnMut(Bytes) -> ControlFlow<()>) -> Result<(), Error> {
    let mut chunk = Chunk::begin(0);
    let mut broken_off = false;
    group.store.scan_frozen(&group.scope.all(), &mut |row, value| {
        chunk.put(&row[SCOPE_BYTES..], value);
        if chunk.out.as_slice().len() < CHUNK_BYTES {
            return ControlFlow::Continue(());
        }
        let rows = chunk.rows;
        let full = std::mem::replace(&mut chunk, Chunk::begin(rows));
        let sent = send(full.close(false));
        broken_off = sent.is_break();
        sent
    })?;
    if !broken_off {
        let _ = send(chunk.close(true));
    }
    Ok(())
}

struct Chunk {
    out: Encoder,
    rows: u64,
    before: u64,
}

impl Chunk {
    fn begin(before: u64) -> Self {
        Self { out: Encoder::with_capacity(CHUNK_BYTES + 1024), rows: before, before }
    }

    fn put(&mut self, row: &[u8], value: &[u8]) {
        self.out.bytes(row);
        self.out.bytes(value);
        self.rows += 1;
    }

    fn close(self, last: bool) -> Bytes {
        let mut out = Encoder::with_capacity(self.out.as_slice().len() + 32);
        out.u8(CHUNK_VERSION);
        out.bool(last);
        out.u64(self.before);
        out.raw(self.out.as_slice());
        let crc = crc32fast::hash(out.as_slice());
        out.u32(crc);
        out.finish()
    }
}

/// A group's rows on their way in, beside the living ones.
pub struct Import {
    group: Group,
    scope: Scope,
    intake: Box<dyn Intake>,
    rows: u64,
    whole: bool,
    applied: Option<Bytes>,
}

impl Import {
    /// Begins to take in rows for `group`, under its next generation.
    pub fn begin(group: &Group) -> Result<Self, Error> {
        let scope = group.next_generation();
        group.sweep(scope)?;
        let intake = group.store.intake()?;
        Ok(Self { group: group.clone(), scope, intake, rows: 0, whole: false, applied: None })
    }

    /// Takes the next chunk. On an error the import is over; nothing became visible.
    pub fn chunk(&mut self, chunk: &[u8]) -> Result<(), Error> {
        let refuse = |cause: DecodeError| Error::Transfer { cause: cause.to_string() };
        let Some((body, crc)) = chunk.split_last_chunk::<4>() else {
            return Err(Error::Transfer { cause: "a chunk is too short".to_owned() });
        };
        if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
            return Err(Error::Transfer {
                cause: "a chunk does not match its checksum".to_owned(),
            });
        }
        let mut from = Decoder::new(body);
        from.version("snapshot chunk", CHUNK_VERSION).map_err(refuse)?;
        let last = from.bool().map_err(refuse)?;
        let before = from.u64().map_err(refuse)?;
        if self.whole || before != self.rows {
            let rows = self.rows;
            return Err(Error::Transfer {
                cause: format!("a chunk starts at row {before}, not {rows}"),
            });
        }
        let mut row = self.scope.bytes().to_vec();
        while !from.left().is_empty() {
            row.truncate(SCOPE_BYTES);
            row.extend_from_slice(from.bytes().map_err(refuse)?);
            let value = from.bytes().map_err(refuse)?;
            if row == self.scope.applied().0 {
                self.applied = Some(Bytes::copy_from_slice(value));
            }
            self.intake.put(&row, value)?;
            self.rows += 1;
        }
        self.whole = last;
        Ok(())
    }

    /// The applied mark among the rows taken in so far: it comes in the first chunk.
    pub fn applied(&self) -> Option<Bytes> {
        self.applied.clone()
    }

    /// Makes the rows the group's own, durably, in place of what it held. Returns the group as it
    /// is from now on; its applied mark is the sender's.
    pub fn install(self) -> Result<Group, Error> {
        if !self.whole {
            return Err(Error::Transfer {
                cause: "the stream ended before its last chunk".to_owned(),
            });
        }
        self.intake.finish()?;
        self.group.flip(self.scope)
    }
}
