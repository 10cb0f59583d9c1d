//! The records, and the bytes of each: pure.
//!
//! A record is one change of one stream's state (or one piece of a checkpoint). On disk it is
//! framed as `checksum u32 · length u32 · body`; the checksum covers the log's id, the
//! segment's number and the frame's offset too, so that bytes which once were a record
//! elsewhere, or in an earlier life of the file, are none here.

use crate::StreamId;
use crate::codec::{Reader, put_bytes, put_varint};

/// Bytes of a frame in front of the body.
pub(crate) const FRAME_BYTES: usize = 8;

/// The kind, the stream and an index take no more.
pub(crate) const KIND_STREAM_INDEX: usize = 1 + 10 + 10;

pub(crate) const ENTRY: u8 = 1;
pub(crate) const MARK: u8 = 2;
pub(crate) const TRUNCATE: u8 = 3;
pub(crate) const PURGE: u8 = 4;
pub(crate) const FORGET: u8 = 5;
pub(crate) const MOVED: u8 = 6;
/// Version 1 wrote these two; they are read for ever and written no more.
const OLD_CHECKPOINT: u8 = 7;
const OLD_STATE: u8 = 8;
pub(crate) const CHECKPOINT: u8 = 9;
pub(crate) const STATE: u8 = 10;

/// Bits of a checkpoint's flags.
const UNKNOWN: u8 = 1;
/// Bits of a state's flags.
const QUARANTINED: u8 = 1;

/// One change of state, borrowed from wherever its bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record<'a> {
    /// The stream's next entry.
    Entry { stream: StreamId, index: u64, payload: &'a [u8] },
    /// The newest value under a tag.
    Mark { stream: StreamId, tag: u8, value: &'a [u8] },
    /// The entries from `from` on are gone.
    Truncate { stream: StreamId, from: u64 },
    /// The entries up to and with `to` are gone; `note` says what to remember about it.
    Purge { stream: StreamId, to: u64, note: &'a [u8] },
    /// The stream is gone, with its marks and its note.
    Forget { stream: StreamId },
    /// An entry that is already there, written again so that its old segment may go.
    Moved { stream: StreamId, index: u64, payload: &'a [u8] },
    /// A segment begins with this; as many `State`s follow.
    Checkpoint { streams: u64, numbering: Option<Numbering> },
    /// All there is to know of a stream but its payloads.
    State(StreamState<'a>),
}

/// What a checkpoint says of the numbers of the streams' records. Version 1 had no numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Numbering {
    /// The number of the first record of a stream that begins now.
    pub(crate) floor: u64,
    /// Streams that are not listed may have been lost to damage.
    pub(crate) unknown: bool,
}

/// A stream as a checkpoint tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StreamState<'a> {
    pub(crate) stream: StreamId,
    /// The number its next record has; 0 in version 1.
    pub(crate) number: u64,
    /// It has lost records, which ones is not known.
    pub(crate) quarantined: bool,
    pub(crate) purged: Option<(u64, &'a [u8])>,
    /// The first live entry; 0 if there is none.
    pub(crate) first: u64,
    /// How many live entries.
    pub(crate) count: u64,
    /// Tag and value, by ascending tag.
    pub(crate) marks: Vec<(u8, &'a [u8])>,
}

/// What a checksum is bound to besides the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Binding {
    pub(crate) wal_id: u64,
    pub(crate) segment: u64,
}

impl Binding {
    /// CRC-32 of `bytes` as they stand at `offset` of this segment of this log.
    pub(crate) fn checksum(self, offset: u64, bytes: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&self.wal_id.to_le_bytes());
        hasher.update(&self.segment.to_le_bytes());
        hasher.update(&offset.to_le_bytes());
        hasher.update(bytes);
        hasher.finalize()
    }
}

impl Record<'_> {
    /// The stream it changes; none for a checkpoint.
    pub(crate) fn stream(&self) -> Option<StreamId> {
        match self {
            Self::Entry { stream, .. }
            | Self::Mark { stream, .. }
            | Self::Truncate { stream, .. }
            | Self::Purge { stream, .. }
            | Self::Forget { stream }
            | Self::Moved { stream, .. } => Some(*stream),
            Self::Checkpoint { .. } => None,
            Self::State(state) => Some(state.stream),
        }
    }

    /// The byte that stands for its kind.
    pub(crate) fn kind(&self) -> u8 {
        match self {
            Self::Entry { .. } => ENTRY,
            Self::Mark { .. } => MARK,
            Self::Truncate { .. } => TRUNCATE,
            Self::Purge { .. } => PURGE,
            Self::Forget { .. } => FORGET,
            Self::Moved { .. } => MOVED,
            Self::Checkpoint { .. } => CHECKPOINT,
            Self::State(_) => STATE,
        }
    }

    /// No more bytes than this frame the record: exact but for the varints.
    pub(crate) fn frame_bytes_max(&self) -> usize {
        let body = match self {
            Self::Entry { payload, .. } | Self::Moved { payload, .. } => payload.len(),
            Self::Mark { value, .. } => value.len(),
            Self::Purge { note, .. } => note.len(),
            Self::Truncate { .. } | Self::Forget { .. } => 0,
            Self::Checkpoint { .. } => 11,
            Self::State(state) => {
                let note = state.purged.map_or(0, |(_, note)| note.len());
                let marks: usize = state.marks.iter().map(|(_, value)| value.len() + 11).sum();
                52 + note + marks
            }
        };
        FRAME_BYTES + KIND_STREAM_INDEX + body
    }

    fn put_body(&self, out: &mut Vec<u8>) {
        let mut head = |kind: u8, number: u64| {
            out.push(kind);
            put_varint(out, number);
        };
        match self {
            Self::Entry { stream, index, payload } => {
                head(ENTRY, stream.0);
                put_varint(out, *index);
                out.extend_from_slice(payload);
            }
            Self::Moved { stream, index, payload } => {
                head(MOVED, stream.0);
                put_varint(out, *index);
                out.extend_from_slice(payload);
            }
            Self::Mark { stream, tag, value } => {
                head(MARK, stream.0);
                out.push(*tag);
                out.extend_from_slice(value);
            }
            Self::Truncate { stream, from } => {
                head(TRUNCATE, stream.0);
                put_varint(out, *from);
            }
            Self::Purge { stream, to, note } => {
                head(PURGE, stream.0);
                put_varint(out, *to);
                out.extend_from_slice(note);
            }
            Self::Forget { stream } => head(FORGET, stream.0),
            Self::Checkpoint { streams, numbering } => {
                head(CHECKPOINT, *streams);
                let Numbering { floor, unknown } = numbering.unwrap_or_default();
                out.push(if unknown { UNKNOWN } else { 0 });
                put_varint(out, floor);
            }
            Self::State(state) => {
                head(STATE, state.stream.0);
                state.put(out);
            }
        }
    }

    /// Frames the record behind `out`; the frame will stand at `offset` of the segment. Returns
    /// the checksum.
    pub(crate) fn put_frame(&self, out: &mut Vec<u8>, binding: Binding, offset: u64) -> u32 {
        let frame = out.len();
        out.extend_from_slice(&[0; FRAME_BYTES]);
        self.put_body(out);
        let body_bytes = (out.len() - frame - FRAME_BYTES) as u32;
        out[frame + 4..frame + FRAME_BYTES].copy_from_slice(&body_bytes.to_le_bytes());
        let checksum = binding.checksum(offset, &out[frame + 4..]);
        out[frame..frame + 4].copy_from_slice(&checksum.to_le_bytes());
        checksum
    }
}

impl<'a> Record<'a> {
    /// Takes the frame that begins at the front of `bytes`, which stand at `offset`. Returns the
    /// record, its checksum and the frame's length; nothing if anything is wrong with it.
    pub(crate) fn take_frame(
        bytes: &'a [u8],
        binding: Binding,
        offset: u64,
    ) -> Option<(Self, u32, usize)> {
        let mut reader = Reader::new(bytes);
        let checksum = reader.u32()?;
        let body_bytes = reader.u32()? as usize;
        let body = reader.raw(body_bytes)?;
        let frame_bytes = FRAME_BYTES + body_bytes;
        if binding.checksum(offset, &bytes[4..frame_bytes]) != checksum {
            return None;
        }
        Some((Self::take_body(body)?, checksum, frame_bytes))
    }

    pub(crate) fn take_body(body: &'a [u8]) -> Option<Self> {
        let mut from = Reader::new(body);
        let kind = from.u8()?;
        let number = from.varint()?;
        let stream = StreamId(number);
        let record = match kind {
            ENTRY => Self::Entry { stream, index: from.varint()?, payload: from.rest() },
            MOVED => Self::Moved { stream, index: from.varint()?, payload: from.rest() },
            MARK => Self::Mark { stream, tag: from.u8()?, value: from.rest() },
            TRUNCATE => Self::Truncate { stream, from: from.varint()? },
            PURGE => Self::Purge { stream, to: from.varint()?, note: from.rest() },
            FORGET => Self::Forget { stream },
            OLD_CHECKPOINT => Self::Checkpoint { streams: number, numbering: None },
            OLD_STATE => Self::State(StreamState::take(stream, 0, 0, &mut from)?),
            CHECKPOINT => {
                let flags = from.u8().filter(|flags| flags & !UNKNOWN == 0)?;
                let numbering = Numbering { floor: from.varint()?, unknown: flags & UNKNOWN != 0 };
                Self::Checkpoint { streams: number, numbering: Some(numbering) }
            }
            STATE => {
                let flags = from.u8().filter(|flags| flags & !QUARANTINED == 0)?;
                let number = from.varint()?;
                Self::State(StreamState::take(stream, flags, number, &mut from)?)
            }
            _ => return None,
        };
        from.finish(record)
    }
}

impl<'a> StreamState<'a> {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(if self.quarantined { QUARANTINED } else { 0 });
        put_varint(out, self.number);
        match self.purged {
            None => out.push(0),
            Some((to, note)) => {
                out.push(1);
                put_varint(out, to);
                put_bytes(out, note);
            }
        }
        put_varint(out, self.first);
        put_varint(out, self.count);
        put_varint(out, self.marks.len() as u64);
        for (tag, value) in &self.marks {
            out.push(*tag);
            put_bytes(out, value);
        }
    }

    fn take(stream: StreamId, flags: u8, number: u64, from: &mut Reader<'a>) -> Option<Self> {
        let quarantined = flags & QUARANTINED != 0;
        let purged = match from.u8()? {
            0 => None,
            1 => Some((from.varint()?, from.bytes()?)),
            _ => return None,
        };
        let (first, count) = (from.varint()?, from.varint()?);
        let mut marks = Vec::new();
        for _ in 0..from.varint()? {
            marks.push((from.u8()?, from.bytes()?));
        }
        Some(Self { stream, number, quarantined, purged, first, count, marks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HERE: Binding = Binding { wal_id: 7, segment: 3 };

    fn all_kinds(number: u64, blob: &[u8]) -> Vec<Record<'_>> {
        let stream = StreamId(number);
        let purged = Some((number, blob));
        let marks = vec![(1, blob), (9, blob)];
        let quarantined = number.is_multiple_of(2);
        let numbering = Some(Numbering { floor: number, unknown: quarantined });
        vec![
            Record::Entry { stream, index: number, payload: blob },
            Record::Mark { stream, tag: 200, value: blob },
            Record::Truncate { stream, from: number },
            Record::Purge { stream, to: number, note: blob },
            Record::Forget { stream },
            Record::Moved { stream, index: number, payload: blob },
            Record::Checkpoint { streams: number, numbering },
            Record::State(StreamState {
                stream,
                number,
                quarantined,
                purged,
                first: number,
                count: number,
                marks,
            }),
        ]
    }

    proptest! {
        #[test]
        fn every_kind_comes_back_as_it_went_in(number in any::<u64>(), blob in any::<Vec<u8>>()) {
            for record in all_kinds(number, &blob) {
                let mut out = Vec::new();
                let checksum = record.put_frame(&mut out, HERE, 64);
                prop_assert!(out.len() <= record.frame_bytes_max());
                let taken = Record::take_frame(&out, HERE, 64);
                prop_assert_eq!(taken, Some((record, checksum, out.len())));
            }
        }

        #[test]
        fn no_body_makes_the_reader_panic(body in any::<Vec<u8>>()) {
            let _ = Record::take_body(&body);
        }
    }

    #[test]
    fn a_frame_is_good_only_where_it_was_written() {
        let record = Record::Entry { stream: StreamId(1), index: 2, payload: b"three" };
        let mut out = Vec::new();
        record.put_frame(&mut out, HERE, 64);
        assert!(Record::take_frame(&out, HERE, 64).is_some());
        assert!(Record::take_frame(&out, HERE, 65).is_none());
        assert!(Record::take_frame(&out, Binding { segment: 4, ..HERE }, 64).is_none());
        assert!(Record::take_frame(&out, Binding { wal_id: 8, ..HERE }, 64).is_none());
    }

    #[test]
    fn the_bodies_of_a_checkpoint_and_of_a_moved_entry_are_these() {
        let body = |record: Record<'_>| {
            let mut out = Vec::new();
            record.put_body(&mut out);
            out
        };
        let (stream, purged) = (StreamId(5), Some((3, b"n".as_slice())));
        let marks = vec![(9, b"mm".as_slice())];
        let (number, quarantined) = (300, true);
        let state =
            StreamState { stream, number, quarantined, purged, first: 4, count: 300, marks };
        let numbering = Some(Numbering { floor: 300, unknown: true });
        let checkpoint = Record::Checkpoint { streams: 1, numbering };
        assert_eq!(body(checkpoint), b"\x09\x01\x01\xac\x02");
        assert_eq!(
            body(Record::State(state)),
            b"\x0a\x05\x01\xac\x02\x01\x03\x01n\x04\xac\x02\x01\x09\x02mm"
        );
        let moved = Record::Moved { stream, index: 4, payload: b"p" };
        assert_eq!(body(moved), b"\x06\x05\x04p");
    }
}
