//! A closed log, looked at and repaired by a person's tool.
//!
//! [`check`] reads everything and changes nothing, on a read-only volume too. [`repair`] does what
//! is safe: it purges damaged entries that the owner of the log needs no more, forgets the streams
//! it is told to give up, and touches nothing else. Both take the log's lock.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;

use bytes::Bytes;

use crate::disk::real::RealDisk;
use crate::disk::{Disk, Lock};
use crate::reading::{Found, Unreadable, corrupt, read_log};
use crate::recover::{go_on, numbers, read_identity, supply};
use crate::segment::{self, IDENTITY_FILE};
use crate::{Damage, Error, OnDamage, OpenError, Options, StreamId, Torn, Wal};

/// What a log holds, and what is wrong with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Segments read.
    pub segments: u64,
    /// Records that can be read, checkpoints not counted.
    pub records: u64,
    /// The segments' length together.
    pub bytes: u64,
    /// A batch at the end that had never been acknowledged: the next opening cuts it off.
    pub torn: Option<Torn>,
    /// What can't be read of that which had been synced.
    pub damage: Vec<Damage>,
    /// All streams, ascending.
    pub streams: Vec<StreamSummary>,
    /// Anything else worth a look, in words.
    pub faults: Vec<String>,
}

/// One stream of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamSummary {
    /// The stream.
    pub stream: StreamId,
    /// The last purged index.
    pub purged: Option<u64>,
    /// The index of the oldest entry.
    pub first: Option<u64>,
    /// The index of the newest entry.
    pub last: Option<u64>,
    /// It lost records. What is said of it is the best that is known.
    pub damaged: bool,
}

/// What a repair gave up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GivenUp {
    /// The entries up to this index, of which some are damaged. The owner had said that it
    /// needs none of them.
    Entries {
        /// The stream.
        stream: StreamId,
        /// The last purged index.
        to: u64,
    },
    /// The whole stream.
    Stream(StreamId),
    /// The search for streams that the log knows nothing of any more.
    Unknown,
}

impl fmt::Display for GivenUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entries { stream, to } => write!(
                f,
                "the entries of stream {stream} up to {to}, some of them damaged, all of them \
                 flushed elsewhere"
            ),
            Self::Stream(stream) => write!(f, "stream {stream}, all of it"),
            Self::Unknown => write!(f, "streams that the log knows nothing of any more"),
        }
    }
}

/// Reads the log in `dir` to its end and says what it finds.
///
/// # Errors
/// `InUse` while a process has it open; `Corrupt` if the identity can't be read or there is no
/// log; `Version`; `Io`.
pub fn check(dir: &Path) -> Result<Report, OpenError> {
    let disk = there(dir, RealDisk::to_read)?;
    let _lock = lock(disk.as_ref())?;
    check_on(disk.as_ref())
}

/// As [`check`], on any disk. The caller has its lock.
///
/// # Errors
/// As [`check`].
pub fn check_on(disk: &dyn Disk) -> Result<Report, OpenError> {
    let names = list(disk)?;
    let found = read(disk, &names)?;
    let mut faults = Vec::new();
    for name in names.iter().filter(|name| name.ends_with(segment::ASIDE)) {
        faults.push(format!("{name} was set aside with entries of a quarantined stream"));
    }
    if let Some(unborn) = found.unborn {
        let name = segment::segment_file(unborn);
        faults.push(format!("{name} was begun and holds nothing: the next opening removes it"));
    }
    let quarantined = &found.verdict.quarantined;
    let streams = found.ledger.streams.iter().map(|(&stream, known)| {
        let some = |index| (!known.places.is_empty()).then_some(index);
        StreamSummary {
            stream,
            purged: known.purged.as_ref().map(|(to, _)| *to),
            first: some(known.places.first()),
            last: some(known.places.end().wrapping_sub(1)),
            damaged: quarantined.contains_key(&stream),
        }
    });
    Ok(Report {
        segments: found.segments.len() as u64,
        records: found.records,
        bytes: found.segments.values().map(|segment| segment.bytes).sum(),
        streams: streams.collect(),
        torn: found.torn,
        damage: found.verdict.damage,
        faults,
    })
}

/// Repairs the log in `dir` as far as that is safe, and says what it gave up.
///
/// `flushed` tells of a stream up to which index its owner needs no entries any more, and what
/// to note when they are purged: a stream is purged to there if all that it lost are entries up
/// to there. The streams of `give_up` are forgotten if they are damaged. All others stay as they
/// are, quarantined. Once none is left, what may have been lost of streams that the log does not
/// know is given up, too.
///
/// # Errors
/// As [`check`]. After `Io` a part may be done; a retry does the rest.
pub fn repair(
    dir: &Path,
    flushed: &dyn Fn(StreamId) -> Option<(u64, Bytes)>,
    give_up: &[StreamId],
) -> Result<Vec<GivenUp>, OpenError> {
    let disk = there(dir, RealDisk::open)?;
    repair_on(&disk, flushed, give_up)
}

/// As [`repair`], on any disk. It takes the lock.
///
/// # Errors
/// As [`repair`].
pub fn repair_on(
    disk: &Arc<dyn Disk>,
    flushed: &dyn Fn(StreamId) -> Option<(u64, Bytes)>,
    give_up: &[StreamId],
) -> Result<Vec<GivenUp>, OpenError> {
    let found = {
        let _lock = lock(disk.as_ref())?;
        read(disk.as_ref(), &list(disk.as_ref())?)?
    };
    let plan = plan(&found, flushed, give_up);
    let left = found.verdict.quarantined.len() - plan.len();
    let mut given_up = apply(disk, plan)?;
    if left == 0 && found.ledger.numbering.unknown {
        forgive_unknown(disk)?;
        given_up.push(GivenUp::Unknown);
    }
    Ok(given_up)
}

/// What to do, with the note of each purge. Pure.
fn plan(
    found: &Found,
    flushed: &dyn Fn(StreamId) -> Option<(u64, Bytes)>,
    give_up: &[StreamId],
) -> Vec<(GivenUp, Bytes)> {
    let give_up: BTreeSet<_> = give_up.iter().collect();
    let decide = |stream: &StreamId| {
        if give_up.contains(stream) {
            return Some((GivenUp::Stream(*stream), Bytes::new()));
        }
        let known = found.ledger.streams.get(stream).filter(|known| !known.quarantined)?;
        let (to, note) = flushed(*stream)?;
        let lost = found.ledger.holes(*stream).next_back()?;
        let new = known.purged.as_ref().is_none_or(|(purged, _)| to > *purged);
        (lost <= to && new).then_some((GivenUp::Entries { stream: *stream, to }, note))
    };
    found.verdict.quarantined.keys().filter_map(decide).collect()
}

fn apply(disk: &Arc<dyn Disk>, plan: Vec<(GivenUp, Bytes)>) -> Result<Vec<GivenUp>, OpenError> {
    if plan.is_empty() {
        return Ok(Vec::new());
    }
    let (wal, _) = Wal::open_on(disk.clone(), options())?;
    let mut given_up = Vec::new();
    for (what, note) in plan {
        let (send, receive) = channel();
        let done = Box::new(move |result| drop(send.send(result)));
        let asked = match what {
            GivenUp::Entries { stream, to } => {
                wal.shared().state().quarantine.release(stream);
                wal.purge_to(stream, to, note, Some(done))
            }
            GivenUp::Stream(stream) => wal.forget(stream, done),
            GivenUp::Unknown => continue,
        };
        let done = asked.and_then(|()| receive.recv().unwrap_or(Err(Error::Closed)));
        done.map_err(|error| OpenError::io("repair", "the log")(std::io::Error::other(error)))?;
        given_up.push(what);
    }
    wal.close().map_err(|error| OpenError::io("close", "the log")(std::io::Error::other(error)))?;
    Ok(given_up)
}

/// Begins a segment that says that there are no streams but those it names.
fn forgive_unknown(disk: &Arc<dyn Disk>) -> Result<(), OpenError> {
    let _lock = lock(disk.as_ref())?;
    let names = list(disk.as_ref())?;
    let mut found = read(disk.as_ref(), &names)?;
    found.ledger.numbering.unknown = false;
    found.verdict.to_be_written = true;
    go_on(disk.as_ref(), found, supply(disk, &options(), &names)?).map(drop)
}

fn options() -> Options {
    Options { on_damage: OnDamage::Quarantine, spare_segments: 0, ..Options::default() }
}

fn there(
    dir: &Path,
    open: impl FnOnce(&Path) -> std::io::Result<RealDisk>,
) -> Result<Arc<dyn Disk>, OpenError> {
    let shown = dir.to_string_lossy();
    if !dir.is_dir() {
        return Err(OpenError::io("open", &shown)(std::io::ErrorKind::NotFound.into()));
    }
    Ok(Arc::new(open(dir).map_err(OpenError::io("open", &shown))?))
}

fn lock(disk: &dyn Disk) -> Result<Lock, OpenError> {
    let lock = disk.lock().map_err(OpenError::io("lock", "the directory"))?;
    lock.ok_or(OpenError::InUse)
}

fn list(disk: &dyn Disk) -> Result<Vec<String>, OpenError> {
    disk.list().map_err(OpenError::io("list", "the directory"))
}

fn read(disk: &dyn Disk, names: &[String]) -> Result<Found, OpenError> {
    if !names.iter().any(|name| name == IDENTITY_FILE) {
        return Err(corrupt(IDENTITY_FILE, 0, "there is no log here, or its identity is gone"));
    }
    let wal_id = read_identity(disk)?;
    read_log(disk, wal_id, &numbers(names, ".wal"), Unreadable::Damage)
}
