//! Opening: what the directory holds becomes a ledger and a place to go on.
//!
//! What may be cut is what was being written when the power went: the last batch of the last
//! segment, as long as nothing proves that it had been synced; and a last segment that had not
//! got its checkpoint yet (older builds named it before), for records come only after that was
//! synced. Proofs are a later batch in the same segment, and the next segment: its file gets its
//! name after the last sync of the one before, and its header says where that one ends. Anything
//! else that is wrong is damage. `rebuild` tells which streams it cost records. If there are any
//! the log is refused as it is, or opened with these quarantined, as [`OnDamage`] says. Then it
//! goes on in a new segment, whose checkpoint says so, before anything else is written.
//!
//! The last batch is written again and synced before anything is built on it: a process that
//! died may have left it in the system's memory only, and a sync that failed may have left it
//! there for good, looking clean. A damaged one can't be written again, and perhaps what was torn
//! off behind it is all that proves it. So then, too, the log goes on in a new segment, whose
//! header proves it, and only when that is durable the torn bytes go.
//!
//! Bytes that the disk refuses to read refuse the log too, or count as zeros, that is, as damage.
//!
//! Left out: a last segment that was taken away, or whose last batches were all damaged, can't
//! be told from one that was never written; only an owner's own marks and peers know.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use crate::batch::{HEAD_BYTES, TERMINATOR_BYTES};
use crate::damage::{Damage, OnDamage};
use crate::disk::{Disk, File};
use crate::ledger::Ledger;
use crate::quarantine::Quarantine;
use crate::reading::{
    Found, Last, Unreadable, corrupt, open, read_file, read_log, refusal, refused,
};
use crate::record::Binding;
use crate::scan::{Scan, Sealed, Step};
use crate::segment::{self, IDENTITY_FILE, SegmentHeader};
use crate::supply::{Spare, Supply, begin_segment};
use crate::{OpenError, Options, StreamId};

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
    /// What can't be read of that which had been synced.
    pub damage: Vec<Damage>,
    /// The streams that lost records by it, ascending.
    pub quarantined: Vec<StreamId>,
}

/// A torn tail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Torn {
    /// The segment's file name.
    pub file: String,
    /// Where the whole batches end, bytes.
    pub offset: u64,
    /// The streams that may have had records there, ascending, if that can be told.
    pub streams: Option<Vec<StreamId>>,
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
    /// The streams that lost records, and why.
    pub(crate) quarantined: BTreeMap<StreamId, String>,
}

impl Recovered {
    /// Who may not be used.
    pub(crate) fn quarantine(&self) -> Quarantine {
        let unknown = self.recovery.damage.iter().find(|damage| damage.unknown);
        Quarantine::new(self.quarantined.clone(), unknown.map(Damage::why))
    }
}

/// Reads (or makes) the log of a locked directory.
pub(crate) fn recover(disk: &Arc<dyn Disk>, options: &Options) -> Result<Recovered, OpenError> {
    let names = disk.list().map_err(OpenError::io("list", "the directory"))?;
    let numbers = numbers(&names, ".wal");
    if !names.iter().any(|name| name == IDENTITY_FILE) {
        refuse_without_identity(disk.as_ref(), &numbers)?;
        return create(disk.as_ref(), supply(disk, options, &names)?, &names);
    }
    let wal_id = read_identity(disk.as_ref())?;
    let unreadable = match options.on_damage {
        OnDamage::Refuse => Unreadable::Fail,
        OnDamage::Quarantine => Unreadable::Damage,
    };
    let found = read_log(disk.as_ref(), wal_id, &numbers, unreadable)?;
    if options.on_damage == OnDamage::Refuse
        && let Some(error) = refusal(&found)
    {
        return Err(error);
    }
    let recovered = go_on(disk.as_ref(), found, supply(disk, options, &names)?)?;
    if recovered.quarantined.is_empty() {
        for name in names.iter().filter(|name| name.ends_with(segment::ASIDE)) {
            remove(disk.as_ref(), name)?;
        }
    }
    Ok(recovered)
}

/// The numbers of the files with this ending, ascending.
pub(crate) fn numbers(names: &[String], ending: &str) -> Vec<u64> {
    let number = |name: &String| segment::file_number(name, ending);
    let mut numbers: Vec<u64> = names.iter().filter_map(number).collect();
    numbers.sort_unstable();
    numbers
}

/// Keeps the spares that are of use, removes the others.
pub(crate) fn supply(
    disk: &Arc<dyn Disk>,
    options: &Options,
    names: &[String],
) -> Result<Supply, OpenError> {
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
            let name = segment::segment_file(FIRST_SEGMENT);
            let (_, bytes, _) = read_file(disk, &name, Unreadable::Fail)?;
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
    let (ledger, quarantined) = (Ledger::default(), BTreeMap::new());
    let binding = Binding { wal_id, segment: FIRST_SEGMENT };
    let header = SegmentHeader::new(binding, 0);
    let spare = supply.take_at_once().map_err(OpenError::io("make", &first))?;
    let end = begin_segment(disk, &supply, &spare, header, &ledger);
    let end = end.map_err(OpenError::io("begin", &first))?;
    write_identity(disk, wal_id).map_err(OpenError::io("write", IDENTITY_FILE))?;
    let bytes = spare.file.length().map_err(OpenError::io("measure", &first))?;
    let segments = BTreeMap::from([(FIRST_SEGMENT, SegmentFile { file: spare.file, bytes })]);
    let recovery = Recovery { wal_id, created: true, segments: 1, ..Recovery::default() };
    let (current, fresh) = (FIRST_SEGMENT, true);
    Ok(Recovered { wal_id, ledger, segments, current, end, fresh, supply, recovery, quarantined })
}

fn write_identity(disk: &dyn Disk, wal_id: u64) -> io::Result<()> {
    let file = disk.create(IDENTITY_DRAFT)?;
    file.write_at(&segment::encode_identity(wal_id), 0)?;
    file.sync_data()?;
    disk.rename(IDENTITY_DRAFT, IDENTITY_FILE)?;
    disk.sync_dir()
}

pub(crate) fn read_identity(disk: &dyn Disk) -> Result<u64, OpenError> {
    let (_, bytes, _) = read_file(disk, IDENTITY_FILE, Unreadable::Fail)?;
    segment::decode_identity(&bytes).map_err(|error| refused(error, IDENTITY_FILE))
}

/// Makes what was found durable and ready to be written on.
pub(crate) fn go_on(disk: &dyn Disk, found: Found, supply: Supply) -> Result<Recovered, OpenError> {
    let Found { wal_id, mut ledger, mut segments, records, last, unborn, torn, verdict } = found;
    for damage in &verdict.damage {
        let Damage { file, offset, bytes, reason, streams, .. } = damage;
        tracing::error!(file, offset, bytes, reason, ?streams, "the log is damaged");
    }
    if let Some(Torn { file, offset, .. }) = &torn {
        tracing::warn!(file, offset, "a torn tail was cut off the log");
    }
    let recovery = Recovery {
        wal_id,
        created: false,
        segments: segments.len() as u64,
        records,
        torn,
        damage: verdict.damage,
        quarantined: verdict.quarantined.keys().copied().collect(),
    };
    let whole = !last.tail.is_empty();
    if whole {
        secure_end(&last, &segments)?;
    }
    let (mut current, mut end, mut fresh) = (last.number, last.end, last.fresh);
    // An older version is not written on, nor a segment behind which nobody would see that the
    // streams are not what they seem, or that its last batch had been synced.
    if last.version != Some(segment::FORMAT_VERSION) || verdict.to_be_written || !whole {
        ledger.begin_numbers();
        (current, fresh) = (current + 1, true);
        let header = SegmentHeader::new(Binding { wal_id, segment: current }, end);
        let name = segment::segment_file(current);
        let spare = supply.take_at_once().map_err(OpenError::io("make", &name))?;
        let began = begin_segment(disk, &supply, &spare, header, &ledger);
        end = began.map_err(OpenError::io("begin", &name))?;
        let bytes = spare.file.length().map_err(OpenError::io("measure", &name))?;
        segments.insert(current, SegmentFile { file: spare.file, bytes });
    }
    if let Some(unborn) = unborn.filter(|unborn| *unborn != current) {
        remove(disk, &segment::segment_file(unborn))?;
    }
    disk.sync_dir().map_err(OpenError::io("sync", "the directory"))?;
    if !whole {
        secure_end(&last, &segments)?;
    }
    let quarantined = verdict.quarantined;
    Ok(Recovered { wal_id, ledger, segments, current, end, fresh, supply, recovery, quarantined })
}

/// Writes the last batch again, if it is whole, and syncs it, with nothing behind it that passes
/// for a batch.
fn secure_end(last: &Last, segments: &BTreeMap<u64, SegmentFile>) -> Result<(), OpenError> {
    let name = segment::segment_file(last.number);
    let Some(segment) = segments.get(&last.number) else {
        return Err(corrupt(&name, 0, "the segment is missing"));
    };
    if last.end >= segment.bytes && last.tail.is_empty() {
        return Ok(());
    }
    let write = |bytes: &[u8], offset: u64| {
        segment.file.write_at(bytes, offset).map_err(OpenError::io("write", &name))
    };
    for &stale in &last.stale {
        let bytes = (segment.bytes as usize).saturating_sub(stale).min(HEAD_BYTES);
        write(&vec![0; bytes], stale as u64)?;
    }
    let mut tail = last.tail.clone();
    tail.extend_from_slice(&[0; TERMINATOR_BYTES]);
    let at = if last.tail.is_empty() { last.end } else { last.last_batch };
    write(&tail, at)?;
    segment.file.sync_data().map_err(OpenError::io("sync", &name))
}

fn remove(disk: &dyn Disk, name: &str) -> Result<(), OpenError> {
    disk.remove(name).map_err(OpenError::io("remove", name))
}
