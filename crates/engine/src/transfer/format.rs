//! Files on their way.
//!
//! ```text
//! stream = file*
//! file   = head | bytes | SHA-256 of both
//! head   = version u8 | last? u8 | number u32 | rows u64 | length u64
//! ```
//!
//! The stream is cut anywhere on its way, so what is read from it is given
//! as parts: a head, some of the bytes, the end.

use stemedb_types::{Decoder, Encoder};

use super::refuse;
use crate::Error;

const VERSION: u8 = 1;
pub(super) const HEAD_BYTES: usize = 22;
pub(super) const SUM_BYTES: usize = 32;

/// No file is longer, or it is not taken.
pub(super) const FILE_BYTES_MAX: u64 = 128 << 20;
/// The most that [`super::Terms::file_bytes`] may be: with one more row, an index and a filter, such a file
/// still is no longer than any receiver takes.
pub const ROWS_BYTES_MAX: usize = 64 << 20;

/// What comes before a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// Whether no file comes behind it.
    pub(super) last: bool,
    /// How many files of the snapshot come before it.
    pub(super) number: u32,
    /// How many rows it holds.
    pub(super) rows: u64,
    /// How many bytes it has.
    pub(super) length: u64,
}

impl Head {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::with_capacity(HEAD_BYTES);
        out.u8(VERSION);
        out.bool(self.last);
        out.u32(self.number);
        out.u64(self.rows);
        out.u64(self.length);
        out.into_vec()
    }

    fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let mut from = Decoder::new(bytes);
        from.version("snapshot file", VERSION).map_err(refuse)?;
        let last = from.bool().map_err(refuse)?;
        let number = from.u32().map_err(refuse)?;
        let rows = from.u64().map_err(refuse)?;
        let length = from.u64().map_err(refuse)?;
        from.finish().map_err(refuse)?;
        if length > FILE_BYTES_MAX {
            return Err(refuse(format!("a file of {length} bytes is too long")));
        }
        Ok(Self { last, number, rows, length })
    }
}

/// What a stream says next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part<'p> {
    /// A file begins.
    Head(Head),
    /// Bytes of it.
    Bytes(&'p [u8]),
    /// It is over, and this is its checksum.
    End([u8; SUM_BYTES]),
}

/// Reads a stream from pieces that were cut anywhere.
#[derive(Debug, Default)]
pub(super) struct Reader {
    /// The beginning of a head or a checksum.
    held: Vec<u8>,
    /// Bytes of the file that are still to come; `None` between files.
    left: Option<u64>,
}

impl Reader {
    /// The next part of `piece`, which shrinks by what was read; `None` once it is used up.
    pub(super) fn next<'p>(&mut self, piece: &mut &'p [u8]) -> Result<Option<Part<'p>>, Error> {
        match self.left {
            None => {
                let Some(head) = self.hold(HEAD_BYTES, piece) else { return Ok(None) };
                let head = Head::decode(&head)?;
                self.left = Some(head.length);
                Ok(Some(Part::Head(head)))
            }
            Some(0) => {
                let Some(sum) = self.hold(SUM_BYTES, piece) else { return Ok(None) };
                self.left = None;
                let sum = sum.try_into().map_err(|_| refuse("a checksum is too short"))?;
                Ok(Some(Part::End(sum)))
            }
            Some(_) if piece.is_empty() => Ok(None),
            Some(left) => {
                let take = usize::try_from(left).map_or(piece.len(), |left| left.min(piece.len()));
                let (bytes, behind) = piece.split_at(take);
                *piece = behind;
                self.left = Some(left - take as u64);
                Ok(Some(Part::Bytes(bytes)))
            }
        }
    }

    /// Gathers so many bytes.
    fn hold(&mut self, want: usize, piece: &mut &[u8]) -> Option<Vec<u8>> {
        let take = (want - self.held.len()).min(piece.len());
        let (more, behind) = piece.split_at(take);
        self.held.extend_from_slice(more);
        *piece = behind;
        (self.held.len() == want).then(|| std::mem::take(&mut self.held))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head(number: u32, length: u64) -> Head {
        Head { last: number == 3, number, rows: 7 * u64::from(number), length }
    }

    proptest! {
        #[test]
        fn files_come_whole_wherever_the_stream_was_cut(
            files in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 0..5),
            cut in 1..70usize,
        ) {
            let mut sent = Vec::new();
            for (number, bytes) in files.iter().enumerate() {
                sent.extend(head(number as u32, bytes.len() as u64).encode());
                sent.extend(bytes);
                sent.extend([number as u8; SUM_BYTES]);
            }
            let mut reader = Reader::default();
            let (mut heads, mut sums) = (vec![], vec![]);
            let mut come: Vec<Vec<u8>> = vec![];
            for mut piece in sent.chunks(cut) {
                while let Some(part) = reader.next(&mut piece).expect("a part") {
                    match part {
                        Part::Head(head) => {
                            heads.push(head);
                            come.push(vec![]);
                        }
                        Part::Bytes(bytes) => come.last_mut().expect("a head").extend_from_slice(bytes),
                        Part::End(sum) => sums.push(sum),
                    }
                }
            }
            let numbers = 0..files.len();
            prop_assert_eq!(heads, numbers.clone().map(|n| head(n as u32, files[n].len() as u64)).collect::<Vec<_>>());
            prop_assert_eq!(sums, numbers.map(|n| [n as u8; SUM_BYTES]).collect::<Vec<_>>());
            prop_assert_eq!(come, files);
        }

        #[test]
        fn junk_is_refused_or_waits_for_more_and_never_panics(junk in any::<Vec<u8>>()) {
            let mut reader = Reader::default();
            let mut piece = &junk[..];
            while let Ok(Some(_)) = reader.next(&mut piece) {}
        }
    }

    #[test]
    fn a_head_stands_as_it_was_first_written() {
        let head = Head { last: true, number: 0x0403_0201, rows: 5, length: 6 };
        let bytes = [1, 1, 1, 2, 3, 4, 5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(head.encode(), bytes);
        assert_eq!(Head::decode(&bytes).expect("decodes"), head);
        let long = Head { length: FILE_BYTES_MAX + 1, ..head };
        assert!(Head::decode(&long.encode()).is_err(), "too long");
        for byte in [0, 1] {
            let mut other = bytes;
            other[byte] = 9;
            assert!(Head::decode(&other).is_err(), "{byte}");
        }
    }
}
