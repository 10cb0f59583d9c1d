//! Segments: their names and headers. Pure.

use crate::codec::Reader;
use crate::record::Binding;

/// The format's version, in the identity and in each segment. All older ones are read.
pub(crate) const FORMAT_VERSION: u32 = 2;
/// Bytes of a segment in front of its first batch.
pub(crate) const SEGMENT_HEADER_BYTES: usize = 48;
/// Bytes of the identity file.
pub(crate) const IDENTITY_BYTES: usize = 24;

const SEGMENT_MAGIC: [u8; 8] = *b"StemeWAL";
const IDENTITY_MAGIC: [u8; 8] = *b"StemeWID";

/// The name of the file that says which log this is.
pub(crate) const IDENTITY_FILE: &str = "identity";

/// No file of ours has a higher number: there is always a next one.
const NUMBER_MAX: u64 = u64::MAX >> 1;

/// The file name of a segment.
pub(crate) fn segment_file(segment: u64) -> String {
    format!("{segment:016x}.wal")
}

/// The ending of a segment that only quarantined streams still had entries in, and that is no
/// part of the log any more.
pub(crate) const ASIDE: &str = ".aside";

/// The file name of a segment that was set aside.
pub(crate) fn aside_file(segment: u64) -> String {
    format!("{segment:016x}{ASIDE}")
}

/// The file name of a spare.
pub(crate) fn spare_file(number: u64) -> String {
    format!("{number:016x}.spare")
}

/// The number in a name with the given ending, if it is one we would write.
pub(crate) fn file_number(name: &str, ending: &str) -> Option<u64> {
    let digits = name.strip_suffix(ending)?;
    let number = u64::from_str_radix(digits, 16).ok().filter(|number| *number <= NUMBER_MAX)?;
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
    /// The format of its batches.
    pub(crate) version: u32,
}

impl SegmentHeader {
    /// The header of a segment that begins now.
    pub(crate) fn new(binding: Binding, previous_end: u64) -> Self {
        Self { binding, previous_end, version: FORMAT_VERSION }
    }

    pub(crate) fn encode(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(SEGMENT_HEADER_BYTES);
        out.extend_from_slice(&SEGMENT_MAGIC);
        out.extend_from_slice(&self.version.to_le_bytes());
        out.extend_from_slice(&[0; 8]);
        out.extend_from_slice(&self.binding.wal_id.to_le_bytes());
        out.extend_from_slice(&self.binding.segment.to_le_bytes());
        out.extend_from_slice(&self.previous_end.to_le_bytes());
        seal(out)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let (version, body) = unseal(bytes, SEGMENT_HEADER_BYTES, SEGMENT_MAGIC)?;
        let mut from = Reader::new(&body[8..]);
        let mut word = || from.u64().ok_or(HeaderError::Bad);
        let binding = Binding { wal_id: word()?, segment: word()? };
        Ok(Self { binding, previous_end: word()?, version })
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
    let (_, body) = unseal(bytes, IDENTITY_BYTES, IDENTITY_MAGIC)?;
    Reader::new(body).u64().ok_or(HeaderError::Bad)
}

fn seal(mut out: Vec<u8>) -> Vec<u8> {
    let checksum = crc32fast::hash(&out);
    out.extend_from_slice(&checksum.to_le_bytes());
    out
}

/// Checks magic, checksum and version, in this order; returns the version and what follows it.
fn unseal(bytes: &[u8], length: usize, magic: [u8; 8]) -> Result<(u32, &[u8]), HeaderError> {
    let bytes = bytes.get(..length).ok_or(HeaderError::Bad)?;
    let (sealed, checksum) = bytes.split_at(length - 4);
    if sealed[..8] != magic || crc32fast::hash(sealed).to_le_bytes() != checksum {
        return Err(HeaderError::Bad);
    }
    let version = Reader::new(&sealed[8..]).u32().ok_or(HeaderError::Bad)?;
    if version == 0 || version > FORMAT_VERSION {
        return Err(HeaderError::Version(version));
    }
    Ok((version, &sealed[12..]))
}
