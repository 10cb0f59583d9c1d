//! Opening: what the directory holds becomes a ledger and a place to go on.
//!
//! What may be cut is what was being written when the power went: the last batch of the last
//! segment, as long as nothing proves that it had been synced; and a last segment that had not
//! got its checkpoint yet, for records come only after that was synced. Proofs are a later batch
//! in the same segment, and the next segment: its file gets its name after the last sync of the
//! one before, and its header says where that one ends. Anything else that is wrong refuses to
//! open and changes nothing.
//!
//! The last batch is written again and synced before anything is built on it: a process that
//! died may have left it in the system's memory only, and a sync that failed may have left it
//! there for good, looking clean.
//!
//! Left out: telling which streams a damaged stretch belongs to. The whole log is refused, so
//! one bad sector costs a node all its groups until a person or a peer repairs it. Nor can a
//! last segment that was taken away be noticed from here; only peers know.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use crate::batch::{Batch, Item, TERMINATOR_BYTES};
use crate::disk::{Disk, File};
use crate::ledger::{Broken, Ledger, Location};
use crate::record::Binding;
use crate::scan::{Scan, Sealed, Step};
use crate::segment::{self, HeaderError, IDENTITY_FILE, SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::supply::{Spare, Supply, begin_segment};
use crate::{OpenError, Options};

const IDENTITY_DRAFT: &str = "identity.new";
const FIRST_SEGMENT: u64 = 1;

/// What opening found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// The log's random id.
    pub wal_id: u64,
    /// The directory held no log: this one is new.
    pub created: bool,
    /// Segments read.
    pub segments: u64,
    /// Records read, checkpoints not counted.
    pub records: u64,
    /// A batch that had never been acknowledged was cut off here.
    pub torn: Option<Torn>,
}

/// A torn tail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Torn {
    /// The segment's file name.
    pub file: String,
    /// Where the whole batches end, bytes.
    pub offset: u64,
}

/// An open segment file and its length.
#[derive(Clone, Debug)]
pub(crate) struct SegmentFile {
    pub(crate) file: Arc<dyn File>,
    pub(crate) bytes: u64,
}

/// A log that is ready to be written on.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) wal_id: u64,
    pub(crate) ledger: Ledger,
    pub(crate) segments: BTreeMap<u64, SegmentFile>,
    /// The segment to go on with.
    pub(crate) current: u64,
    /// Where its next batch goes.
    pub(crate) end: u64,
    /// It holds nothing but its checkpoint.
    pub(crate) fresh: bool,
    pub(crate) supply: Supply,
    pub(crate) recovery: Recovery,
}

/// Reads (or makes) the log of a locked directory.
pub(crate) fn recover(disk: &Arc<dyn Disk>, options: &Options) -> Result<Recovered, OpenError> {
    let names = disk.list().map_err(OpenError::io("list", "the directory"))?;
    let mut numbers = numbers(&names, ".wal");
    let supply = supply(disk, options, &names)?;
    if !names.iter().any(|name| name == IDENTITY_FILE) {
        refuse_without_identity(disk.as_ref(), &numbers)?;
        return create(disk.as_ref(), supply, &names);
    }
    let wal_id = read_identity(disk.as_ref())?;
    check_sequence(&numbers)?;
    let mut reading = Reading::new(disk.as_ref(), wal_id);
    let unborn = reading.read_all(&numbers)?;
    if let Some((stream, index)) = reading.ledger.hole() {
        return Err(OpenError::Missing { stream, index });
    }
    if let Some(unborn) = unborn {
        numbers.pop();
        remove(disk.as_ref(), &segment::segment_file(unborn))?;
    }
    disk.sync_dir().map_err(OpenError::io("sync", "the directory"))?;
    reading.finish(supply)
}

/// The numbers of the files with this ending, ascending.
fn numbers(names: &[String], ending: &str) -> Vec<u64> {
    let number = |name: &String| segment::file_number(name, ending);
    let mut numbers: Vec<u64> = names.iter().filter_map(number).collect();
    numbers.sort_unstable();
    numbers
}

/// Keeps the spares that are of use, removes the others.
fn supply(disk: &Arc<dyn Disk>, options: &Options, names: &[String]) -> Result<Supply, OpenError> {
    let numbers = numbers(names, ".spare");
    let (ahead, segment_bytes) = (options.spare_segments, options.segment_bytes);
    let mut ready = Vec::new();
    for name in numbers.iter().map(|&number| segment::spare_file(number)) {
        let file = open(disk.as_ref(), &name)?;
        let length = file.length().map_err(OpenError::io("measure", &name))?;
        if length == segment_bytes && ready.len() < ahead.max(1) {
            ready.push(Spare { name, file });
        } else {
            remove(disk.as_ref(), &name)?;
        }
    }
    let next = numbers.last().map_or(1, |last| last.saturating_add(1));
    Ok(Supply::new(disk.clone(), segment_bytes, ahead, ready, next))
}

/// A log whose first segment was begun but which had no identity yet holds no record. Anything
/// more without an identity is not ours to touch.
fn refuse_without_identity(disk: &dyn Disk, numbers: &[u64]) -> Result<(), OpenError> {
    let gone = |reason| OpenError::Corrupt { file: IDENTITY_FILE.to_owned(), offset: 0, reason };
    match numbers {
        [] => Ok(()),
        [FIRST_SEGMENT] => {
            let (_, bytes) = read_file(disk, &segment::segment_file(FIRST_SEGMENT))?;
            let Ok(header) = SegmentHeader::decode(&bytes) else { return Ok(()) };
            let mut scan = Scan::new(&bytes, header.binding, Sealed::No);
            let mut steps = 0;
            while let Some(step) = scan.next_step() {
                steps += match step {
                    Step::Batch(batch) if batch.is_whole() => 1,
                    _ => 2,
                };
            }
            if steps > 1 {
                return Err(gone("the identity is missing beside a log with records"));
            }
            Ok(())
        }
        _ => Err(gone("the identity is missing beside a log with records")),
    }
}

/// Makes a new log: the first segment, then the identity that says it is there.
fn create(disk: &dyn Disk, supply: Supply, names: &[String]) -> Result<Recovered, OpenError> {
    let first = segment::segment_file(FIRST_SEGMENT);
    for leftover in [first.as_str(), IDENTITY_DRAFT] {
        if names.iter().any(|name| name == leftover) {
            remove(disk, leftover)?;
        }
    }
    let wal_id = disk.random();
    let ledger = Ledger::default();
    let binding = Binding { wal_id, segment: FIRST_SEGMENT };
    let header = SegmentHeader::new(binding, 0);
    let spare = supply.take_at_once().map_err(OpenError::io("make", &first))?;
    let end = begin_segment(disk, &spare, header, &ledger);
    let end = end.map_err(OpenError::io("begin", &first))?;
    write_identity(disk, wal_id).map_err(OpenError::io("write", IDENTITY_FILE))?;
    let bytes = spare.file.length().map_err(OpenError::io("measure", &first))?;
    let segments = BTreeMap::from([(FIRST_SEGMENT, SegmentFile { file: spare.file, bytes })]);
    let recovery = Recovery { wal_id, created: true, segments: 1, ..Recovery::default() };
    let (current, fresh) = (FIRST_SEGMENT, true);
    Ok(Recovered { wal_id, ledger, segments, current, end, fresh, supply, recovery })
}

fn write_identity(disk: &dyn Disk, wal_id: u64) -> io::Result<()> {
    let file = disk.create(IDENTITY_DRAFT)?;
    file.write_at(&segment::encode_identity(wal_id), 0)?;
    file.sync_data()?;
    disk.rename(IDENTITY_DRAFT, IDENTITY_FILE)?;
    disk.sync_dir()
}

fn read_identity(disk: &dyn Disk) -> Result<u64, OpenError> {
    let (_, bytes) = read_file(disk, IDENTITY_FILE)?;
    segment::decode_identity(&bytes).map_err(|error| refused(error, IDENTITY_FILE))
}

fn refused(error: HeaderError, file: &str) -> OpenError {
    match error {
        HeaderError::Bad => corrupt(file, 0, "its header fails its checksum"),
        HeaderError::Version(got) => {
            OpenError::Version { file: file.to_owned(), got, known: segment::FORMAT_VERSION }
        }
    }
}

fn corrupt(file: &str, offset: u64, reason: &'static str) -> OpenError {
    OpenError::Corrupt { file: file.to_owned(), offset, reason }
}

/// Segments go oldest first, so what is left has no gap, and never nothing.
fn check_sequence(numbers: &[u64]) -> Result<(), OpenError> {
    if numbers.is_empty() {
        return Err(corrupt(IDENTITY_FILE, 0, "no segment stands beside it"));
    }
    match numbers.windows(2).find(|pair| pair[0] + 1 != pair[1]) {
        Some(pair) => {
            Err(corrupt(&segment::segment_file(pair[0] + 1), 0, "the segment is missing"))
        }
        None => Ok(()),
    }
}

/// Where the log ends.
struct Last {
    number: u64,
    version: u32,
    end: u64,
    last_batch: u64,
    batches: u64,
    clean: bool,
    /// The last batch and what stands where the terminator belongs.
    tail: Vec<u8>,
}

/// The fold over all segments, oldest first.
struct Reading<'d> {
    disk: &'d dyn Disk,
    wal_id: u64,
    ledger: Ledger,
    segments: BTreeMap<u64, SegmentFile>,
    records: u64,
    last: Option<Last>,
}

impl<'d> Reading<'d> {
    fn new(disk: &'d dyn Disk, wal_id: u64) -> Self {
        let (ledger, segments) = (Ledger::default(), BTreeMap::new());
        Self { disk, wal_id, ledger, segments, records: 0, last: None }
    }

    /// Reads all segments. Returns the last one if it was never born.
    fn read_all(&mut self, numbers: &[u64]) -> Result<Option<u64>, OpenError> {
        let headers = numbers.iter().map(|&number| self.header(number));
        let headers = headers.collect::<Result<Vec<_>, _>>()?;
        for (at, (&number, header)) in numbers.iter().zip(&headers).enumerate() {
            let name = segment::segment_file(number);
            let (file, bytes) = read_file(self.disk, &name)?;
            let sealed = match headers.get(at + 1) {
                None => Sealed::No,
                Some(None) => Sealed::Somewhere,
                Some(Some(next)) => Sealed::At(next.previous_end),
            };
            let length = bytes.len() as u64;
            let Some(last) = self.read_segment(&bytes, *header, number, sealed)? else {
                return Ok(Some(number));
            };
            self.last = Some(last);
            self.segments.insert(number, SegmentFile { file, bytes: length });
        }
        Ok(None)
    }

    /// The segment's header; nothing if it is damaged or was never written.
    fn header(&self, number: u64) -> Result<Option<SegmentHeader>, OpenError> {
        let name = segment::segment_file(number);
        match SegmentHeader::decode(&read_head(self.disk, &name)?) {
            Err(HeaderError::Bad) => Ok(None),
            Err(newer) => Err(refused(newer, &name)),
            Ok(header) if header.binding.wal_id != self.wal_id => {
                Err(corrupt(&name, 0, "the segment belongs to another log"))
            }
            // The file's earlier life: its new header never reached the disk.
            Ok(header) if header.binding.segment != number => Ok(None),
            Ok(header) => Ok(Some(header)),
        }
    }

    /// Folds in one segment. Nothing if it is the last one and was never born: it has not even
    /// a whole checkpoint.
    fn read_segment(
        &mut self,
        bytes: &[u8],
        header: Option<SegmentHeader>,
        number: u64,
        sealed: Sealed,
    ) -> Result<Option<Last>, OpenError> {
        let name = segment::segment_file(number);
        let binding = Binding { wal_id: self.wal_id, segment: number };
        let mut scan = Scan::new(bytes, binding, sealed);
        let mut batches = 0;
        while let Some(step) = scan.next_step() {
            if header.is_none() {
                return Err(corrupt(&name, 0, "the segment's head is damaged"));
            }
            let batch = whole(step).map_err(|offset| {
                corrupt(&name, offset, "a batch that had been synced is damaged")
            })?;
            self.fold(batch, batches == 0, number)?;
            batches += 1;
        }
        match header {
            Some(header) if batches > 0 => {
                let (end, last_batch) = (scan.end(), scan.last_batch());
                let tail = bytes[last_batch as usize..end as usize].to_vec();
                let (version, clean) = (header.version, scan.is_clean());
                Ok(Some(Last { number, version, end, last_batch, batches, clean, tail }))
            }
            _ if sealed == Sealed::No && self.last.is_some() => Ok(None),
            _ => Err(corrupt(&name, 0, "the segment's head is damaged")),
        }
    }

    fn fold(&mut self, batch: Batch<'_>, first: bool, number: u64) -> Result<(), OpenError> {
        let broken = |offset: u64| {
            move |Broken(reason): Broken| corrupt(&segment::segment_file(number), offset, reason)
        };
        let mut records = batch.items.into_iter().filter_map(|item| match item {
            Item::Record(record, frame) => Some((record, frame)),
            Item::Lost(..) => None,
        });
        if first {
            let checkpoint: Vec<_> = records.map(|(record, _)| record).collect();
            let fits = match self.last {
                None => self.ledger.restore(&checkpoint),
                Some(_) => self.ledger.compare(&checkpoint),
            };
            return fits.map_err(broken(SEGMENT_HEADER_BYTES as u64));
        }
        records.try_for_each(|(record, frame)| {
            self.records += 1;
            let at = Location::of(number, frame);
            self.ledger.apply(&record, at).map_err(broken(frame.offset))
        })
    }

    /// Makes the end durable and ready to be written on.
    fn finish(mut self, supply: Supply) -> Result<Recovered, OpenError> {
        let Some(mut last) = self.last else {
            return Err(corrupt(IDENTITY_FILE, 0, "no segment stands beside it"));
        };
        let mut segments = self.segments;
        let name = segment::segment_file(last.number);
        let file = segments.get(&last.number).map(|segment| segment.file.clone());
        let file = file.ok_or_else(|| corrupt(&name, 0, "the segment is missing"))?;
        last.tail.extend_from_slice(&[0; TERMINATOR_BYTES]);
        file.write_at(&last.tail, last.last_batch).map_err(OpenError::io("write", &name))?;
        file.sync_data().map_err(OpenError::io("sync", &name))?;
        let torn = (!last.clean).then(|| Torn { file: name.clone(), offset: last.end });
        if let Some(Torn { file, offset }) = &torn {
            tracing::warn!(file, offset, "a torn tail was cut off the log");
        }
        let recovery = Recovery {
            wal_id: self.wal_id,
            created: false,
            segments: segments.len() as u64,
            records: self.records,
            torn,
        };
        let (mut current, mut end, mut fresh) = (last.number, last.end, last.batches == 1);
        if last.version < segment::FORMAT_VERSION {
            // An older version is not written on.
            let binding = Binding { wal_id: self.wal_id, segment: current + 1 };
            let header = SegmentHeader::new(binding, end);
            let name = segment::segment_file(current + 1);
            let spare = supply.take_at_once().map_err(OpenError::io("make", &name))?;
            self.ledger.begin_numbers();
            end = begin_segment(self.disk, &spare, header, &self.ledger)
                .map_err(OpenError::io("begin", &name))?;
            let bytes = spare.file.length().map_err(OpenError::io("measure", &name))?;
            segments.insert(current + 1, SegmentFile { file: spare.file, bytes });
            (current, fresh) = (current + 1, true);
        }
        Ok(Recovered {
            wal_id: self.wal_id,
            ledger: self.ledger,
            segments,
            current,
            end,
            fresh,
            supply,
            recovery,
        })
    }
}

/// The batch of a step, or where the damage begins.
fn whole(step: Step<'_>) -> Result<Batch<'_>, u64> {
    match step {
        Step::Gap(range) => Err(range.start as u64),
        Step::Batch(batch) if batch.is_whole() => Ok(batch),
        Step::Batch(batch) => {
            let bad = batch.bad.iter().map(|(from, ..)| *from).chain(batch.gap);
            Err(bad.min().unwrap_or(batch.start) as u64)
        }
    }
}

/// The first bytes of a segment.
fn read_head(disk: &dyn Disk, name: &str) -> Result<Vec<u8>, OpenError> {
    let file = open(disk, name)?;
    let length = file.length().map_err(OpenError::io("measure", name))?;
    let mut bytes = vec![0; (length as usize).min(SEGMENT_HEADER_BYTES)];
    file.read_at(&mut bytes, 0).map_err(OpenError::io("read", name))?;
    Ok(bytes)
}

fn open(disk: &dyn Disk, name: &str) -> Result<Arc<dyn File>, OpenError> {
    disk.open(name).map_err(OpenError::io("open", name))
}

fn remove(disk: &dyn Disk, name: &str) -> Result<(), OpenError> {
    disk.remove(name).map_err(OpenError::io("remove", name))
}

fn read_file(disk: &dyn Disk, name: &str) -> Result<(Arc<dyn File>, Vec<u8>), OpenError> {
    let file = open(disk, name)?;
    let length = file.length().map_err(OpenError::io("measure", name))?;
    let mut bytes = vec![0; length as usize];
    file.read_at(&mut bytes, 0).map_err(OpenError::io("read", name))?;
    Ok((file, bytes))
}
