//! Footer, block trailers and checksums of a table file.
//!
//! ```text
//! file    = block* | metaindex block | footer
//! block   = contents | compression u8 | checksum u32          little-endian
//! footer  = checksum kind u8 | 40 bytes | format version u32 | magic u64
//! 40 bytes, from version 6 on = magic u32 | checksum u32 | base u32 | metaindex bytes u32 | 24 × 0
//! 40 bytes, before            = metaindex handle | index handle | 0*
//! ```
//!
//! From version 6 on, a block's checksum also depends on where it stands and in which file
//! (`base`), so that a good block in the wrong place does not pass.

use std::borrow::Cow;

use xxhash_rust::xxh3::xxh3_64;

/// Every footer is this long.
pub(super) const FOOTER_BYTES: usize = 53;
/// Behind every block: its compression and its checksum.
pub(super) const TRAILER_BYTES: usize = 5;

const MAGIC: u64 = 0x88e2_41b7_85f4_cff7;
const EXTENDED_MAGIC: [u8; 4] = [0x3e, 0x00, 0x7a, 0x00];
const CHECKSUM_XXH3: u8 = 4;
const UNCOMPRESSED: u8 = 0;
const LZ4: u8 = 4;
/// A block that claims to be larger is damaged in a way its checksum has missed.
const BLOCK_BYTES_MAX: usize = 256 << 20;

/// Where a block stands; without its trailer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Handle {
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

/// What a file's last bytes say.
#[derive(Debug)]
pub(super) struct Footer {
    pub(super) metaindex: Handle,
    /// From version 6 on the metaindex names the index.
    pub(super) index: Option<Handle>,
    /// What mixes the place into every checksum; 0 before version 6.
    base: u32,
}

impl Footer {
    /// Reads the footer that stands at `offset`, and checks it where it has a checksum.
    pub(super) fn read(bytes: &[u8; FOOTER_BYTES], offset: u64) -> Result<Self, String> {
        if bytes[45..] != MAGIC.to_le_bytes() {
            return Err("not a table file: its last bytes are wrong".to_owned());
        }
        let version = u32_at(bytes, 41);
        if !(4..=7).contains(&version) {
            return Err(format!("table format {version} is none that this build reads (4 to 7)"));
        }
        if bytes[0] != CHECKSUM_XXH3 {
            return Err(format!(
                "checksums of kind {}, this build reads {CHECKSUM_XXH3}",
                bytes[0]
            ));
        }
        if version < 6 { Self::read_old(&bytes[1..41]) } else { Self::read_new(bytes, offset) }
    }

    fn read_old(mut handles: &[u8]) -> Result<Self, String> {
        let metaindex = take_handle(&mut handles)?;
        let index = take_handle(&mut handles)?;
        Ok(Self { metaindex, index: Some(index), base: 0 })
    }

    fn read_new(bytes: &[u8; FOOTER_BYTES], offset: u64) -> Result<Self, String> {
        let (stored, base, metaindex_bytes) =
            (u32_at(bytes, 5), u32_at(bytes, 9), u32_at(bytes, 13));
        let mut unsigned = *bytes;
        unsigned[5..9].fill(0);
        let (front, last) = unsigned.split_at(FOOTER_BYTES - 1);
        let computed = checksum(front, last[0]).wrapping_add(place(base, offset));
        if bytes[1..5] != EXTENDED_MAGIC || computed != stored {
            return Err("the footer does not match its checksum".to_owned());
        }
        let before = u64::from(metaindex_bytes) + TRAILER_BYTES as u64;
        let at = offset.checked_sub(before).ok_or("the metaindex is larger than the file")?;
        let metaindex = Handle { offset: at, bytes: metaindex_bytes.into() };
        Ok(Self { metaindex, index: None, base })
    }

    /// Checks a block with its trailer against the checksum in it. Returns the contents and how
    /// they are compressed.
    pub(super) fn check<'b>(&self, offset: u64, block: &'b [u8]) -> Result<(&'b [u8], u8), String> {
        let (contents, trailer) =
            block.split_last_chunk::<TRAILER_BYTES>().ok_or("a block shorter than its trailer")?;
        let computed = checksum(contents, trailer[0]).wrapping_add(place(self.base, offset));
        let stored = u32_at(trailer, 1);
        if computed != stored {
            return Err(format!("checksum {computed:08x}, stored is {stored:08x}"));
        }
        Ok((contents, trailer[0]))
    }
}

/// The checksum of contents and the byte that follows them.
fn checksum(contents: &[u8], last: u8) -> u32 {
    #[allow(clippy::cast_possible_truncation, reason = "the lower half is what is stored")]
    let hash = xxh3_64(contents) as u32;
    hash ^ u32::from(last).wrapping_mul(0x6b90_83d9)
}

/// What a place in a file adds to a checksum.
#[allow(clippy::cast_possible_truncation, reason = "both halves of the offset are taken")]
fn place(base: u32, offset: u64) -> u32 {
    if base == 0 {
        return 0;
    }
    base ^ (offset as u32).wrapping_add((offset >> 32) as u32)
}

/// A block's contents as they were before they were compressed.
pub(super) fn decompress(contents: &[u8], compression: u8) -> Result<Cow<'_, [u8]>, String> {
    match compression {
        UNCOMPRESSED => Ok(Cow::Borrowed(contents)),
        LZ4 => {
            let mut from = contents;
            let bytes = usize::try_from(take_varint(&mut from)?).unwrap_or(usize::MAX);
            if bytes > BLOCK_BYTES_MAX {
                return Err(format!("a block of {bytes} bytes"));
            }
            let block = lz4_flex::block::decompress(from, bytes).map_err(|e| e.to_string())?;
            Ok(Cow::Owned(block))
        }
        other => Err(format!("compression {other} is none that this build writes")),
    }
}

/// Takes an offset and a length off the front.
pub(super) fn take_handle(from: &mut &[u8]) -> Result<Handle, String> {
    Ok(Handle { offset: take_varint(from)?, bytes: take_varint(from)? })
}

/// Takes a number off the front, seven bits a byte, the lowest first.
pub(super) fn take_varint(from: &mut &[u8]) -> Result<u64, String> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = from.split_first().ok_or("a number ends in its middle")?;
        *from = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err("a number of more than 64 bits".to_owned())
}

/// The four bytes at a place, which the caller knows to be there.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..at + 4)
        .map_or(0, |four| four.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte)))
}
