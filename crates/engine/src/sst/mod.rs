//! RocksDB's table files, read block by block without RocksDB.
//!
//! Why not ask RocksDB: the crate offers no way to verify a file, and a read through it stops at
//! the block cache, where a block that has rotted on disk since still looks well. Here every
//! block is fetched from the file (past the page cache, where the kernel allows it), its checksum is
//! computed anew, and a damaged block is told with its offset and the keys that it may have held;
//! the walk then goes on behind it. It also is a second opinion: written from
//! the format's description, it shares no code with what wrote the file.
//!
//! | file | idea |
//! |---|---|
//! | `format` | footer, block trailers, checksums; pure |
//! | `block` | what an open block holds: entries, index entries; pure |
//! | `walk` | a file's blocks, one after another |
//!
//! Left out: everything this build does not write (partitioned indexes, separated values, checksums
//! other than XXH3, compression other than LZ4, format versions below 4). Such a file is told as
//! one that can't be checked, not as a good one.

mod block;
mod format;
mod walk;

pub(crate) use walk::{Damaged, Found, Rows, walk};

/// What the reader makes of bytes that may be anything: read or refused, in no block and as no footer
/// a panic. For fuzzers and tests: no checksum stands in their way here.
#[cfg_attr(not(test), allow(dead_code, reason = "the fuzz room takes this folder as it is"))]
pub(crate) fn take_apart(input: &[u8]) {
    let go_on = std::ops::ControlFlow::Continue(());
    let (offset, block) = input.split_first_chunk::<8>().unwrap_or((&[0xff; 8], input));
    let offset = u64::from_be_bytes(*offset);
    if let Some(footer) = block.last_chunk()
        && let Ok(footer) = format::Footer::read(footer, offset)
    {
        let _ = footer.check(offset, block);
    }
    let _ = block::entries(block, &mut |_, _| go_on);
    for (user_keys, deltas) in [(false, false), (false, true), (true, false), (true, true)] {
        let _ = block::index(block, block::IndexShape { user_keys, deltas });
    }
    if let Some((&compression, contents)) = block.split_first()
        && let Ok(open) = format::decompress(contents, compression)
    {
        let _ = block::entries(&open, &mut |_, _| go_on);
    }
}

/// RocksDB's kind of an entry that holds a value.
pub(crate) const VALUE: u8 = 1;
