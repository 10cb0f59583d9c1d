//! A group's rows, all of them, in chunks that say where they belong: what two replicas that have
//! applied the same entries have alike, byte for byte.
//!
//! ```text
//! chunk = version u8 | last? u8 | rows before u64 | (row, value)* | CRC-32 of all before it
//! ```
//!
//! Rows stand without their scope. It is for comparing; a snapshot travels as files.

use std::ops::ControlFlow;

use bytes::Bytes;
use stemedb_types::Encoder;

use crate::Error;
use crate::group::Group;
use crate::rows::SCOPE_BYTES;
use crate::shard::Living;

const CHUNK_VERSION: u8 = 1;
/// A chunk is closed once it holds this much.
const CHUNK_BYTES: usize = 256 * 1024;

/// Gives the group's rows, as they stand now, in chunks of about 256 KiB, until `take` breaks off.
/// Blocks.
pub fn export(group: &Group, take: &mut dyn FnMut(Bytes) -> ControlFlow<()>) -> Result<(), Error> {
    let mut chunk = Chunk::begin(0);
    let mut cursor = group.store.frozen(&group.scope.all());
    cursor.seek(&group.scope.bytes())?;
    let mut living = Living::default();
    while let Some((row, value)) = cursor.row() {
        if living.keeps(row, value) {
            chunk.put(&row[SCOPE_BYTES..], value);
        }
        if chunk.out.as_slice().len() >= CHUNK_BYTES {
            let rows = chunk.rows;
            let full = std::mem::replace(&mut chunk, Chunk::begin(rows));
            if take(full.close(false)).is_break() {
                return Ok(());
            }
        }
        cursor.next()?;
    }
    let _ = take(chunk.close(true));
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
