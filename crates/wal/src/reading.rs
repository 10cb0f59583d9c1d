//! Reading the segments of a log, oldest first, into the fold. Changes nothing on disk.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::OpenError;
use crate::damage::{self, Damage};
use crate::disk::{Disk, File};
use crate::ledger::Ledger;
use crate::rebuild::{Rebuild, Verdict};
use crate::record::Binding;
use crate::recover::{SegmentFile, Torn};
use crate::scan::{Scan, Sealed, Step};
use crate::segment::{self, HeaderError, IDENTITY_FILE, SEGMENT_HEADER_BYTES, SegmentHeader};

/// Where reading as a whole fails, pieces of this size are read: what a disk loses at once.
const PIECE_BYTES: usize = 512;

/// What to do about bytes that the disk refuses to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unreadable {
    Fail,
    /// They count as damage.
    Damage,
}

/// Where the log ends.
#[derive(Debug)]
pub(crate) struct Last {
    pub(crate) number: u64,
    /// Nothing if its header is damaged.
    pub(crate) version: Option<u32>,
    pub(crate) end: u64,
    pub(crate) last_batch: u64,
    /// The bytes of the last batch, if it is whole.
    pub(crate) tail: Vec<u8>,
    /// It holds nothing but its checkpoint.
    pub(crate) fresh: bool,
    /// Heads and tails behind the end that must go.
    pub(crate) stale: Vec<usize>,
}

/// All that the segments say.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) wal_id: u64,
    pub(crate) ledger: Ledger,
    pub(crate) segments: BTreeMap<u64, SegmentFile>,
    pub(crate) records: u64,
    pub(crate) last: Last,
    /// The last segment has a name, and never got a whole checkpoint.
    pub(crate) unborn: Option<u64>,
    pub(crate) torn: Option<Torn>,
    pub(crate) verdict: Verdict,
}

/// Reads the log whose segments have these numbers, ascending.
pub(crate) fn read_log(
    disk: &dyn Disk,
    wal_id: u64,
    numbers: &[u64],
    unreadable: Unreadable,
) -> Result<Found, OpenError> {
    let (rebuild, segments) = (Rebuild::default(), BTreeMap::new());
    let mut reading = Reading {
        disk,
        wal_id,
        unreadable,
        rebuild,
        segments,
        last: None,
        unborn: None,
        torn: None,
    };
    reading.read_all(numbers)?;
    let Reading { mut rebuild, segments, last, unborn, torn, .. } = reading;
    let none = || corrupt(IDENTITY_FILE, 0, "no segment stands beside it");
    let last = last.ok_or_else(none)?;
    let verdict = rebuild.finish(numbers.first().copied().unwrap_or_default());
    let (ledger, records) = (rebuild.ledger, rebuild.records);
    Ok(Found { wal_id, ledger, segments, records, last, unborn, torn, verdict })
}

/// What the beginning of a segment's file says.
#[derive(Clone, Copy)]
enum Header {
    Good(SegmentHeader),
    /// It is damaged, or was never written.
    Bad,
    /// It belongs to another log.
    Foreign,
}

struct Reading<'d> {
    disk: &'d dyn Disk,
    wal_id: u64,
    unreadable: Unreadable,
    rebuild: Rebuild,
    segments: BTreeMap<u64, SegmentFile>,
    last: Option<Last>,
    unborn: Option<u64>,
    torn: Option<Torn>,
}

impl Reading<'_> {
    fn read_all(&mut self, numbers: &[u64]) -> Result<(), OpenError> {
        let headers = numbers.iter().map(|&number| self.header(number));
        let headers = headers.collect::<Result<Vec<_>, _>>()?;
        for (at, (&number, header)) in numbers.iter().zip(&headers).enumerate() {
            if at > 0 && numbers[at - 1] + 1 != number {
                self.rebuild.gap(numbers[at - 1] + 1, 0, 0, damage::MISSING);
            }
            let follows = numbers.get(at + 1).map(|next| number + 1 == *next);
            let sealed = match (follows, headers.get(at + 1)) {
                (None, _) => Sealed::No,
                (Some(true), Some(Header::Good(next))) => Sealed::At(next.previous_end),
                (Some(_), _) => Sealed::Somewhere,
            };
            self.read_segment(number, *header, sealed)?;
        }
        Ok(())
    }

    fn header(&self, number: u64) -> Result<Header, OpenError> {
        let name = segment::segment_file(number);
        let file = open(self.disk, &name)?;
        let length = file.length().map_err(OpenError::io("measure", &name))?;
        let mut bytes = vec![0; (length as usize).min(SEGMENT_HEADER_BYTES)];
        match file.read_at(&mut bytes, 0) {
            Err(_) if self.unreadable == Unreadable::Damage => return Ok(Header::Bad),
            read => read.map_err(OpenError::io("read", &name))?,
        }
        match SegmentHeader::decode(&bytes) {
            Err(HeaderError::Bad) => Ok(Header::Bad),
            Err(newer) => Err(refused(newer, &name)),
            Ok(header) if header.binding.wal_id != self.wal_id => Ok(Header::Foreign),
            // The file's earlier life: its new header never reached the disk.
            Ok(header) if header.binding.segment != number => Ok(Header::Bad),
            Ok(header) => Ok(Header::Good(header)),
        }
    }

    fn read_segment(
        &mut self,
        number: u64,
        header: Header,
        sealed: Sealed,
    ) -> Result<(), OpenError> {
        let name = segment::segment_file(number);
        let (file, bytes, unread) = read_file(self.disk, &name, self.unreadable)?;
        let length = bytes.len() as u64;
        let version = match header {
            Header::Good(header) => Some(header.version),
            Header::Bad | Header::Foreign => None,
        };
        let binding = Binding { wal_id: self.wal_id, segment: number };
        let mut scan = Scan::new(&bytes, binding, sealed);
        self.rebuild.segment(version);
        let steps = match header {
            Header::Foreign => 0,
            Header::Good(_) | Header::Bad => self.fold(&mut scan, number, version.is_none()),
        };
        let hidden = overlaps(&unread, scan.end()..scan.torn_end() as u64);
        if steps == 0 {
            let foreign = matches!(header, Header::Foreign);
            if sealed == Sealed::No && self.last.is_some() && !foreign && !hidden {
                self.unborn = Some(number);
                return Ok(());
            }
            let reason = if foreign { damage::FOREIGN } else { damage::BEGINNING };
            self.rebuild.gap(number, 0, length, reason);
        } else {
            self.check_end(&scan, number, sealed, hidden);
        }
        let whole = steps > 0 && scan.is_at_whole_batch();
        let (mut end, last_batch) = (scan.end(), scan.last_batch());
        let tail =
            if whole { bytes[last_batch as usize..end as usize].to_vec() } else { Vec::new() };
        if steps == 0 || hidden {
            end = length.max(SEGMENT_HEADER_BYTES as u64);
        }
        let stale = if sealed == Sealed::No { scan.stale() } else { Vec::new() };
        let fresh = steps == 1;
        self.last = Some(Last { number, version, end, last_batch, tail, fresh, stale });
        self.segments.insert(number, SegmentFile { file, bytes: length });
        Ok(())
    }

    /// Folds in what the scan finds. Returns how many steps that were.
    fn fold(&mut self, scan: &mut Scan<'_>, number: u64, header_bad: bool) -> u64 {
        let mut steps = 0;
        while let Some(step) = scan.next_step() {
            if steps == 0 && header_bad {
                let bytes = SEGMENT_HEADER_BYTES as u64;
                self.rebuild.harmless(number, 0, bytes, damage::HEADER);
            }
            steps += 1;
            match step {
                Step::Batch(batch) => self.rebuild.batch(number, batch),
                Step::Gap(range) => {
                    let (from, bytes) = (range.start as u64, range.len() as u64);
                    self.rebuild.gap(number, from, bytes, damage::GAP);
                }
            }
        }
        steps
    }

    /// Whether the segment goes as far as it must; if it is the last one, whether it is torn.
    fn check_end(&mut self, scan: &Scan<'_>, number: u64, sealed: Sealed, hidden: bool) {
        let end = scan.end();
        match sealed {
            Sealed::At(named) if end < named => {
                self.rebuild.gap(number, end, named - end, damage::GAP);
            }
            Sealed::Somewhere if !scan.is_clean() => {
                self.rebuild.gap(number, end, 0, damage::GAP);
            }
            Sealed::No if hidden => {
                let bytes = scan.torn_end() as u64 - end;
                self.rebuild.gap(number, end, bytes, damage::GAP);
            }
            Sealed::No if !scan.is_clean() => {
                let (file, streams) = (segment::segment_file(number), scan.torn_streams());
                self.torn = Some(Torn { file, offset: end, streams });
            }
            Sealed::At(_) | Sealed::Somewhere | Sealed::No => {}
        }
    }
}

/// Damage that costs a stream records, as an error: the first there is.
pub(crate) fn refusal(found: &Found) -> Option<OpenError> {
    let costly = |damage: &&Damage| !damage.streams.is_empty() || damage.unknown;
    let Damage { file, offset, reason, streams, .. } = found.verdict.damage.iter().find(costly)?;
    let missing = streams.first().filter(|_| *reason == damage::OLDER_MISSING);
    if let Some((&stream, index)) =
        missing.and_then(|stream| Some((stream, found.ledger.holes(*stream).next()?)))
    {
        return Some(OpenError::Missing { stream, index });
    }
    Some(corrupt(file, *offset, reason))
}

pub(crate) fn corrupt(file: &str, offset: u64, reason: &'static str) -> OpenError {
    OpenError::Corrupt { file: file.to_owned(), offset, reason }
}

pub(crate) fn refused(error: HeaderError, file: &str) -> OpenError {
    match error {
        HeaderError::Bad => corrupt(file, 0, "its header fails its checksum"),
        HeaderError::Version(got) => {
            OpenError::Version { file: file.to_owned(), got, known: segment::FORMAT_VERSION }
        }
    }
}

pub(crate) fn open(disk: &dyn Disk, name: &str) -> Result<Arc<dyn File>, OpenError> {
    disk.open(name).map_err(OpenError::io("open", name))
}

/// A file, its bytes, and which of them the disk refused to read: they are zeros.
pub(crate) type Contents = (Arc<dyn File>, Vec<u8>, Vec<Range<u64>>);

/// Reads a file.
pub(crate) fn read_file(
    disk: &dyn Disk,
    name: &str,
    unreadable: Unreadable,
) -> Result<Contents, OpenError> {
    let file = open(disk, name)?;
    let length = file.length().map_err(OpenError::io("measure", name))?;
    let mut bytes = vec![0; length as usize];
    match file.read_at(&mut bytes, 0) {
        Err(_) if unreadable == Unreadable::Damage => {
            let unread = read_pieces(file.as_ref(), &mut bytes, 0);
            Ok((file, bytes, unread))
        }
        read => {
            read.map_err(OpenError::io("read", name))?;
            Ok((file, bytes, Vec::new()))
        }
    }
}

/// Reads what can be read of `out`, which stands at `offset`. Returns what could not.
pub(crate) fn read_pieces(file: &dyn File, out: &mut [u8], offset: u64) -> Vec<Range<u64>> {
    let mut unread = Vec::new();
    for (number, piece) in out.chunks_mut(PIECE_BYTES).enumerate() {
        let from = offset + (number * PIECE_BYTES) as u64;
        let read: io::Result<()> = file.read_at(piece, from);
        if read.is_err() {
            piece.fill(0);
            unread.push(from..from + piece.len() as u64);
        }
    }
    unread
}

fn overlaps(unread: &[Range<u64>], place: Range<u64>) -> bool {
    unread.iter().any(|range| range.start < place.end && place.start < range.end)
}
