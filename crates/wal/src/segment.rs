//! Segments and batches: names, headers, and the scan that reads a segment back. Pure.
//!
//! A segment is a header and batches, each batch a header and whole records. Behind the last
//! batch stands a terminator, a batch header of zeros, written together with it: so the end of
//! a segment that was written to the end looks different from one that was torn off, though the
//! file goes on with zeros or with what it held in an earlier life.
//!
//! The scan does not decide what is forgiven. It says where the whole batches end, whether the
//! end is clean, and whether a later batch proves that the bytes at the end had been synced.

use crate::codec::Reader;
use crate::record::{Binding, Record};

/// The format's version, in the identity and in each segment.
pub(crate) const FORMAT_VERSION: u32 = 1;
/// Bytes of a segment in front of its first batch.
pub(crate) const SEGMENT_HEADER_BYTES: usize = 48;
/// Bytes of a batch in front of its first record.
pub(crate) const BATCH_HEADER_BYTES: usize = 28;
/// Bytes of the identity file.
pub(crate) const IDENTITY_BYTES: usize = 24;

const SEGMENT_MAGIC: [u8; 8] = *b"StemeWAL";
const IDENTITY_MAGIC: [u8; 8] = *b"StemeWID";
const BATCH_MAGIC: [u8; 4] = [0xb7, 0x57, 0xa1, 0x6e];

/// The name of the file that says which log this is.
pub(crate) const IDENTITY_FILE: &str = "identity";

/// The file name of a segment.
pub(crate) fn segment_file(segment: u64) -> String {
    format!("{segment:016x}.wal")
}

/// The file name of a spare.
pub(crate) fn spare_file(number: u64) -> String {
    format!("{number:016x}.spare")
}

/// The number in a name with the given ending, if it is one we would write.
pub(crate) fn file_number(name: &str, ending: &str) -> Option<u64> {
    let digits = name.strip_suffix(ending)?;
    let number = u64::from_str_radix(digits, 16).ok()?;
    (format!("{number:016x}") == digits).then_some(number)
}

/// Why a header was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderError {
    /// It is short, not ours, or fails its checksum.
    Bad,
    /// It is whole, and newer than this build.
    Version(u32),
}

/// What a segment says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) binding: Binding,
    /// Where the batches of the segment before end; 0 in the first.
    pub(crate) previous_end: u64,
}

impl SegmentHeader {
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(SEGMENT_HEADER_BYTES);
        out.extend_from_slice(&SEGMENT_MAGIC);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 8]);
        out.extend_from_slice(&self.binding.wal_id.to_le_bytes());
        out.extend_from_slice(&self.binding.segment.to_le_bytes());
        out.extend_from_slice(&self.previous_end.to_le_bytes());
        seal(out)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let body = unseal(bytes, SEGMENT_HEADER_BYTES, SEGMENT_MAGIC)?;
        let mut from = Reader::new(&body[8..]);
        let mut word = || from.u64().ok_or(HeaderError::Bad);
        let binding = Binding { wal_id: word()?, segment: word()? };
        Ok(Self { binding, previous_end: word()? })
    }
}

/// The identity file's bytes.
pub(crate) fn encode_identity(wal_id: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(IDENTITY_BYTES);
    out.extend_from_slice(&IDENTITY_MAGIC);
    out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    out.extend_from_slice(&wal_id.to_le_bytes());
    seal(out)
}

/// The log's id.
pub(crate) fn decode_identity(bytes: &[u8]) -> Result<u64, HeaderError> {
    let body = unseal(bytes, IDENTITY_BYTES, IDENTITY_MAGIC)?;
    Reader::new(body).u64().ok_or(HeaderError::Bad)
}

fn seal(mut out: Vec<u8>) -> Vec<u8> {
    let checksum = crc32fast::hash(&out);
    out.extend_from_slice(&checksum.to_le_bytes());
    out
}

/// Checks magic, checksum and version, in this order; returns what stands behind the version.
fn unseal(bytes: &[u8], length: usize, magic: [u8; 8]) -> Result<&[u8], HeaderError> {
    let bytes = bytes.get(..length).ok_or(HeaderError::Bad)?;
    let (sealed, checksum) = bytes.split_at(length - 4);
    if sealed[..8] != magic || crc32fast::hash(sealed).to_le_bytes() != checksum {
        return Err(HeaderError::Bad);
    }
    let version = Reader::new(&sealed[8..]).u32().ok_or(HeaderError::Bad)?;
    if version == 0 || version > FORMAT_VERSION {
        return Err(HeaderError::Version(version));
    }
    Ok(&sealed[12..])
}

/// A batch in the making: its bytes, as they will stand at `offset` of the segment.
#[derive(Debug)]
pub(crate) struct BatchBuilder {
    binding: Binding,
    offset: u64,
    bytes: Vec<u8>,
    records: u32,
    record_checksums: crc32fast::Hasher,
}

/// Where a frame stands in the segment being built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) offset: u64,
    pub(crate) bytes: usize,
}

impl BatchBuilder {
    /// An empty batch that begins at `offset`. `bytes` is a buffer to use again.
    pub(crate) fn new(binding: Binding, offset: u64, mut bytes: Vec<u8>) -> Self {
        bytes.clear();
        bytes.resize(BATCH_HEADER_BYTES, 0);
        Self { binding, offset, bytes, records: 0, record_checksums: crc32fast::Hasher::new() }
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

    /// Where the batch would end now.
    pub(crate) fn end(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }

    /// Where the segment's file would have to end if `record` were added, at most.
    pub(crate) fn end_with(&self, record: &Record<'_>) -> u64 {
        self.end() + (record.frame_bytes_max() + BATCH_HEADER_BYTES) as u64
    }

    pub(crate) fn put(&mut self, record: &Record<'_>) -> Frame {
        let offset = self.end();
        let checksum = record.put_frame(&mut self.bytes, self.binding, offset);
        self.record_checksums.update(&checksum.to_le_bytes());
        self.records += 1;
        Frame { offset, bytes: (self.end() - offset) as usize }
    }

    /// Fills in the header and adds the terminator. Everything in front of `synced` in this
    /// segment, and everything in the segments before, must have been synced.
    pub(crate) fn seal(mut self, synced: u64) -> Vec<u8> {
        let body_bytes = (self.bytes.len() - BATCH_HEADER_BYTES) as u32;
        let mut head = Vec::with_capacity(BATCH_HEADER_BYTES);
        head.extend_from_slice(&BATCH_MAGIC);
        head.extend_from_slice(&body_bytes.to_le_bytes());
        head.extend_from_slice(&self.records.to_le_bytes());
        head.extend_from_slice(&synced.to_le_bytes());
        head.extend_from_slice(&self.record_checksums.finalize().to_le_bytes());
        let checksum = self.binding.checksum(self.offset, &head);
        head.extend_from_slice(&checksum.to_le_bytes());
        self.bytes[..BATCH_HEADER_BYTES].copy_from_slice(&head);
        self.bytes.extend_from_slice(&[0; BATCH_HEADER_BYTES]);
        self.bytes
    }
}

#[derive(Clone, Copy)]
struct BatchHeader {
    body_bytes: usize,
    records: u32,
    synced: u64,
    record_checksums: u32,
}

impl BatchHeader {
    fn decode(bytes: &[u8], binding: Binding, offset: u64) -> Option<Self> {
        let bytes = bytes.get(..BATCH_HEADER_BYTES)?;
        let mut from = Reader::new(bytes);
        if from.raw(4)? != BATCH_MAGIC {
            return None;
        }
        let (body_bytes, records) = (from.u32()? as usize, from.u32()?);
        let (synced, record_checksums) = (from.u64()?, from.u32()?);
        let whole = from.u32()? == binding.checksum(offset, &bytes[..BATCH_HEADER_BYTES - 4]);
        whole.then_some(Self { body_bytes, records, synced, record_checksums })
    }
}

/// How the whole batches of a segment end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ending {
    /// Where the last whole batch ends (or the segment's header, or 0 if that is bad).
    pub(crate) end: u64,
    /// Where the last whole batch begins; `end` if there is none.
    pub(crate) last_batch: u64,
    /// How many whole batches.
    pub(crate) batches: u64,
    /// A terminator stands at `end`: nothing was torn off.
    pub(crate) clean: bool,
    /// A later batch says that more than `end` had been synced.
    pub(crate) proven: bool,
}

/// Reads the batches of one segment, front to back.
pub(crate) struct Scan<'a> {
    bytes: &'a [u8],
    binding: Binding,
    end: usize,
    last_batch: usize,
    batches: u64,
}

impl<'a> Scan<'a> {
    /// Begins behind the header, or at 0 (where no batch is) if the header is bad.
    pub(crate) fn new(bytes: &'a [u8], binding: Binding, header_good: bool) -> Self {
        let end = if header_good { SEGMENT_HEADER_BYTES } else { 0 };
        Self { bytes, binding, end, last_batch: end, batches: 0 }
    }

    /// The records of the next whole batch, or nothing at the end of the whole batches.
    pub(crate) fn next_batch(&mut self) -> Option<Vec<(Record<'a>, Frame)>> {
        let header = BatchHeader::decode(self.left(), self.binding, self.end as u64)?;
        let end = self.end + BATCH_HEADER_BYTES + header.body_bytes;
        let mut at = self.end + BATCH_HEADER_BYTES;
        let mut checksums = crc32fast::Hasher::new();
        let mut records = Vec::new();
        while at < end {
            let body = self.bytes.get(at..end)?;
            let (record, checksum, bytes) = Record::take_frame(body, self.binding, at as u64)?;
            checksums.update(&checksum.to_le_bytes());
            records.push((record, Frame { offset: at as u64, bytes }));
            at += bytes;
        }
        let whole = records.len() == header.records as usize
            && checksums.finalize() == header.record_checksums;
        if whole {
            (self.last_batch, self.end) = (self.end, end);
            self.batches += 1;
        }
        whole.then_some(records)
    }

    /// What the end looks like. Call it once `next_batch` has nothing more.
    pub(crate) fn ending(&self) -> Ending {
        let clean = self.left().get(..BATCH_HEADER_BYTES) == Some(&[0; BATCH_HEADER_BYTES]);
        Ending {
            end: self.end as u64,
            last_batch: self.last_batch as u64,
            batches: self.batches,
            clean: clean && self.end > 0,
            proven: self.proven(),
        }
    }

    fn left(&self) -> &'a [u8] {
        self.bytes.get(self.end..).unwrap_or_default()
    }

    /// Looks behind the end for a batch header that names a synced offset beyond it. Such a
    /// header is bound to its place, so nothing but a later batch of this segment passes.
    fn proven(&self) -> bool {
        let left = self.left();
        (1..left.len()).any(|skipped| {
            left[skipped] == BATCH_MAGIC[0]
                && BatchHeader::decode(&left[skipped..], self.binding, (self.end + skipped) as u64)
                    .is_some_and(|header| header.synced > self.end as u64)
        })
    }
}
