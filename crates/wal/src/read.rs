//! Reading entries back from segments. Every frame's checksum is checked every time.

use std::io;

use bytes::Bytes;

use crate::disk::File;
use crate::ledger::Location;
use crate::record::{Binding, Record};
use crate::segment::segment_file;
use crate::{Error, StreamId};

/// Frames this close together are read at once.
const GAP_BYTES_MAX: u64 = 4 << 10;
/// No single read is longer than this, unless one frame is.
const READ_BYTES_MAX: u64 = 1 << 20;

/// Reads one entry.
pub(crate) fn entry(
    file: &dyn File,
    binding: Binding,
    stream: StreamId,
    index: u64,
    at: Location,
) -> Result<Bytes, Error> {
    let read = run(file, binding, stream, &[(index, at)])?;
    read.into_iter().next().ok_or_else(|| damaged(at))
}

/// How many of `entries`, from the front, one read may fetch: those of one segment that stand
/// close behind one another.
pub(crate) fn run_length(entries: &[(u64, Location)]) -> usize {
    let Some((_, first)) = entries.first() else { return 0 };
    let start = u64::from(first.offset);
    let mut end = start + u64::from(first.frame_bytes);
    let follows = |(_, at): &&(u64, Location)| {
        let (from, to) = (u64::from(at.offset), u64::from(at.offset) + u64::from(at.frame_bytes));
        let near = at.segment == first.segment && from >= end && from - end <= GAP_BYTES_MAX;
        let fits = near && to - start <= READ_BYTES_MAX;
        end = if fits { to } else { end };
        fits
    };
    1 + entries[1..].iter().take_while(follows).count()
}

/// Reads entries that [`run_length`] put together, with one read; the payloads share its buffer.
pub(crate) fn run(
    file: &dyn File,
    binding: Binding,
    stream: StreamId,
    entries: &[(u64, Location)],
) -> Result<Vec<Bytes>, Error> {
    let (Some((_, first)), Some((_, last))) = (entries.first(), entries.last()) else {
        return Ok(Vec::new());
    };
    let start = first.offset as usize;
    let mut bytes = vec![0; last.offset as usize + last.frame_bytes as usize - start];
    if let Err(error) = file.read_at(&mut bytes, start as u64) {
        if entries.len() == 1 {
            return Err(refused(*first, &error));
        }
        // What the disk refuses may lie between them, and be another stream's.
        let alone = |entry| run(file, binding, stream, std::slice::from_ref(entry));
        return entries.iter().map(alone).collect::<Result<Vec<_>, _>>().map(|all| all.concat());
    }
    let bytes = Bytes::from(bytes);
    let payload = |&(index, at): &(u64, Location)| {
        let from = at.offset as usize - start;
        let frame = bytes.slice(from..from + at.frame_bytes as usize);
        match Record::take_frame(&frame, binding, u64::from(at.offset)) {
            Some((Record::Entry { stream: s, index: i, payload }, ..))
            | Some((Record::Moved { stream: s, index: i, payload }, ..))
                if s == stream && i == index =>
            {
                Ok(frame.slice_ref(payload))
            }
            _ => Err(damaged(at)),
        }
    };
    entries.iter().map(payload).collect()
}

pub(crate) fn damaged(at: Location) -> Error {
    Error::Damaged { file: segment_file(at.segment), offset: u64::from(at.offset) }
}

fn refused(at: Location, error: &io::Error) -> Error {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return damaged(at);
    }
    Error::Read { file: segment_file(at.segment), reason: error.to_string() }
}
