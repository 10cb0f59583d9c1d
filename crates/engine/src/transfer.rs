//! A group's rows as a checked stream, and back into the store.
//!
//! ```text
//! chunk = version u8 | last? u8 | rows before u64 | (row, value)* | CRC-32 of all before it
//! ```
//!
//! Rows travel without their scope, in order, so that the receiver files them under
//! a generation of its own. The stream is one frozen view of the sender's store, its
//! applied mark among the rows; the last chunk says so. A chunk that is
//! missing, doubled or damaged ends the intake and leaves nothing behind.

use std::ops::ControlFlow;

use bytes::Bytes;
use stemedb_types::{Decoder, Encoder};

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
#[must_use = "an import that is dropped leaves nothing"]
pub struct Import {
    group: Group,
    scope: Scope,
    intake: Box<dyn Intake>,
    /// The newest row taken in: the next is above it.
    row: Vec<u8>,
    rows: u64,
    state: State,
    applied: Option<Bytes>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// More chunks are to come.
    Open,
    /// The last chunk was taken.
    Whole,
    /// A chunk was refused: nothing that comes after can make it good.
    Refused,
}

fn refuse(cause: impl ToString) -> Error {
    Error::Transfer { cause: cause.to_string() }
}

impl Import {
    /// Begins to take in rows for `group`, under a generation of their own. Several may be under
    /// way; each is whole by itself.
    pub fn begin(group: &Group) -> Result<Self, Error> {
        let scope = group.unused_generation();
        let intake = group.store.intake()?;
        Ok(Self {
            group: group.clone(),
            scope,
            intake,
            row: scope.bytes().to_vec(),
            rows: 0,
            state: State::Open,
            applied: None,
        })
    }

    /// Takes the next chunk. On an error the import is over: nothing became visible, and nothing
    /// will.
    pub fn chunk(&mut self, chunk: &[u8]) -> Result<(), Error> {
        let before = std::mem::replace(&mut self.state, State::Refused);
        if before != State::Open {
            return Err(refuse("a chunk came behind the last one, or behind a refused one"));
        }
        let last = self.take(chunk)?;
        self.state = if last { State::Whole } else { State::Open };
        Ok(())
    }

    /// Takes a chunk's rows. Returns whether it says it is the last one.
    fn take(&mut self, chunk: &[u8]) -> Result<bool, Error> {
        let (last, before, rows) = open_chunk(chunk)?;
        if before != self.rows {
            let rows = self.rows;
            return Err(refuse(format!("a chunk starts at row {before}, not {rows}")));
        }
        let mut from = Decoder::new(rows);
        let mut row = Vec::with_capacity(64);
        while !from.left().is_empty() {
            row.clear();
            row.extend_from_slice(&self.scope.bytes());
            row.extend_from_slice(from.bytes().map_err(refuse)?);
            let value = from.bytes().map_err(refuse)?;
            if row <= self.row {
                return Err(refuse(format!("row {} is not above the one before it", self.rows)));
            }
            if row == self.scope.applied().0 {
                self.applied = Some(Bytes::copy_from_slice(value));
            }
            self.intake.put(&row, value)?;
            std::mem::swap(&mut self.row, &mut row);
            self.rows += 1;
        }
        Ok(last)
    }

    /// The applied mark among the rows taken in so far: it comes in the first chunk.
    pub fn applied(&self) -> Option<Bytes> {
        self.applied.clone()
    }

    /// Makes the rows the group's own, durably, in place of what it held. Returns the group as it
    /// is from now on; its applied mark is the sender's.
    ///
    /// [`Error::Transfer`] if the stream is not whole or has no applied mark: the group is as it was.
    pub fn install(self) -> Result<Group, Error> {
        match self.state {
            State::Open => return Err(refuse("the stream ended before its last chunk")),
            State::Refused => return Err(refuse("a chunk of the stream was refused")),
            State::Whole => {}
        }
        if self.applied.is_none() {
            return Err(refuse("the stream has no applied mark"));
        }
        self.intake.finish()?;
        self.group.flip(self.scope)
    }
}

/// Checks a chunk: whether it is the last, how many rows came before it, and its rows.
fn open_chunk(chunk: &[u8]) -> Result<(bool, u64, &[u8]), Error> {
    let (body, crc) =
        chunk.split_last_chunk::<4>().ok_or_else(|| refuse("a chunk is too short"))?;
    if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
        return Err(refuse("a chunk does not match its checksum"));
    }
    let mut from = Decoder::new(body);
    from.version("snapshot chunk", CHUNK_VERSION).map_err(refuse)?;
    let last = from.bool().map_err(refuse)?;
    let before = from.u64().map_err(refuse)?;
    Ok((last, before, from.left()))
}
