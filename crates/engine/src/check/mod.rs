//! A store that nobody has open: every fault in it, and what can be mended.
//!
//! [`check`] takes the directory's lock, so that it never runs beside a node, and changes nothing. It
//! asks RocksDB, opened for reading, which files live and what the marks are; and reads every block of
//! every live file itself (`sst`): data, index, filter, properties. Every row must parse. Where RocksDB can't
//! say which files live, all that are there are read.
//!
//! [`fn@repair`] does what loses nothing: it takes away what an install that never happened has
//! left. For a damaged table file nothing is safe: the rows in it are this node's only copy, a
//! file without them would be served as if they had never been, and no replica may guess. It says so,
//! and what a person can do. What RocksDB offers under that name (`DB::repair`) drops damaged
//! files silently, and is never called.

mod inventory;
mod repair;
mod row;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::path::Path;

use bytes::Bytes;
use stemedb_types::GroupId;

use crate::lock::Lock;
use crate::rocks::ROCKS;
use crate::rows::NODE_SCOPE;
use crate::sst::{self, Damaged, Found};
use crate::{Error, format, io};
use inventory::Inventory;

pub use repair::repair;

/// What a check found.
#[derive(Debug, Default)]
pub struct Report {
    /// The store's format; 0 if that can't be read.
    pub format: u32,
    /// Table files read.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Rows in them, overwritten and deleted ones included.
    pub rows: u64,
    /// Everything that is not as it should be. Empty: the store is whole.
    pub faults: Vec<Fault>,
    /// Every group with its durable applied mark. Empty if RocksDB can't open the store even to
    /// read: a fault says why.
    pub marks: Vec<(GroupId, Option<Bytes>)>,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// In which file, below the store's directory.
    pub file: String,
    /// Where in it; `None` if it is the file as a whole.
    pub offset: Option<u64>,
    /// Which groups' rows may be hit. Empty: not known, it may be any.
    pub groups: Vec<GroupId>,
    /// What is wrong.
    pub cause: String,
}

/// Progress is told about so often.
const PROGRESS_BYTES: u64 = 1 << 20;

/// Reads the whole store in `dir` and reports every fault. Changes nothing. `progress` is told how
/// many bytes of how many are read.
///
/// [`Error::InUse`] if a process has the store open, [`Error::Format`] if a newer build wrote it,
/// [`Error::Io`] if there is none.
pub fn check(dir: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<Report, Error> {
    let _lock = Lock::take(dir)?;
    check_locked(dir, progress)
}

/// [`check`], by whom holds the lock.
fn check_locked(dir: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<Report, Error> {
    let mut report = Report::default();
    match format::read(dir) {
        Ok(Some(format)) => report.format = format,
        Ok(None) => return Err(io("open", format!("there is none in {}", dir.display()))),
        Err(error @ Error::Corrupt { .. }) => report.fault("FORMAT", None, error.to_string()),
        Err(error) => return Err(error),
    }
    let inventory = Inventory::take(dir, &mut report)?;
    let total_bytes = inventory.tables.iter().map(|table| table.bytes).sum();
    let (groups, hit) = (BTreeSet::new(), Vec::new());
    let mut walk =
        Walk { report, inventory: &inventory, progress, total_bytes, told_bytes: 0, groups, hit };
    for table in &inventory.tables {
        walk.table(dir, &table.name)?;
    }
    Ok(walk.finish())
}

impl Report {
    fn fault(&mut self, file: &str, offset: Option<u64>, cause: String) {
        self.faults.push(Fault { file: file.to_owned(), offset, groups: Vec::new(), cause });
    }
}

/// A walk over all table files.
struct Walk<'w> {
    report: Report,
    inventory: &'w Inventory,
    progress: &'w mut dyn FnMut(u64, u64),
    total_bytes: u64,
    told_bytes: u64,
    /// Whose rows were seen.
    groups: BTreeSet<GroupId>,
    /// Which faults may have hit the rows between two names.
    hit: Vec<(usize, Vec<u8>, Vec<u8>)>,
}

impl Walk<'_> {
    fn table(&mut self, dir: &Path, name: &str) -> Result<(), Error> {
        let below = format!("{ROCKS}/{name}");
        let file = match File::open(dir.join(&below)) {
            Ok(file) => file,
            Err(cause) if cause.kind() == ErrorKind::NotFound => {
                let damaged = Damaged { offset: None, rows: None, cause: "it is missing".into() };
                self.damaged(name, &below, damaged);
                return Ok(());
            }
            Err(cause) => return Err(io("read", cause)),
        };
        self.report.files += 1;
        let _ = sst::walk(&file, None, &mut |found| {
            match found {
                Found::Meta(bytes) => self.read(bytes),
                Found::Damaged(damaged) => self.damaged(name, &below, damaged),
                Found::Rows(rows) => {
                    self.read(rows.bytes);
                    self.rows(&below, &rows);
                }
            }
            ControlFlow::Continue(())
        });
        Ok(())
    }

    fn rows(&mut self, file: &str, rows: &sst::Rows<'_>) {
        let mut bad = Vec::new();
        let mut groups = BTreeSet::new();
        let parsed = rows.each(&mut |name, kind, value| {
            self.report.rows += 1;
            self.groups.extend(real_group_of(name));
            // A deletion has no value to be checked.
            if kind == sst::VALUE
                && let Err(cause) = row::check(name, value)
            {
                groups.extend(group_of(name));
                bad.push(cause);
            }
            ControlFlow::Continue(())
        });
        bad.extend(parsed.err());
        if let Some(first) = bad.first() {
            let cause = format!("{} rows are none that this build writes: {first}", bad.len());
            let groups = groups.into_iter().collect();
            let (file, offset) = (file.to_owned(), Some(rows.offset));
            self.report.faults.push(Fault { file, offset, groups, cause });
        }
    }

    fn damaged(&mut self, name: &str, below: &str, damaged: Damaged) {
        let of_file = self.inventory.rows_of(name);
        let within = match (damaged.rows, of_file) {
            // The first block: above nothing, and so from the file's first row.
            (Some((above, upto)), Some((first, _))) if above.is_empty() => Some((first, upto)),
            (within, of_file) => within.or(of_file),
        };
        if let Some((above, upto)) = within {
            let fault = self.report.faults.len();
            self.groups.extend([&above, &upto].into_iter().filter_map(|name| real_group_of(name)));
            self.hit.push((fault, above, upto));
        }
        self.report.fault(below, damaged.offset, damaged.cause);
    }

    /// Reads the marks of the groups that were seen, and says which groups each damage may have hit.
    fn finish(mut self) -> Report {
        for (fault, above, upto) in std::mem::take(&mut self.hit) {
            self.report.faults[fault].groups = self.between(&above, &upto);
        }
        self.inventory.marks(&self.groups, &mut self.report);
        self.report
    }

    /// The groups whose rows may stand between two names.
    fn between(&self, above: &[u8], upto: &[u8]) -> Vec<GroupId> {
        let first = group_of(above).unwrap_or(GroupId(0));
        let last = group_of(upto).unwrap_or(GroupId(NODE_SCOPE));
        if last.0 == NODE_SCOPE {
            // There stand the pointers to the generations of all groups.
            return self.groups.iter().copied().collect();
        }
        self.groups.range(first..=last).copied().collect()
    }

    fn read(&mut self, bytes: u64) {
        self.report.bytes += bytes;
        if self.report.bytes - self.told_bytes >= PROGRESS_BYTES {
            self.told_bytes = self.report.bytes;
            (self.progress)(self.report.bytes, self.total_bytes);
        }
    }
}

/// Whose row a name is.
fn group_of(name: &[u8]) -> Option<GroupId> {
    name.first_chunk().map(|group| GroupId(u32::from_be_bytes(*group)))
}

/// The same, if it is not the node's own.
fn real_group_of(name: &[u8]) -> Option<GroupId> {
    group_of(name).filter(|group| group.0 != NODE_SCOPE)
}

/// The names in a folder that match, sorted.
fn names(dir: &Path, matches: impl Fn(&str) -> bool) -> Result<Vec<String>, Error> {
    let entries = fs::read_dir(dir).map_err(|cause| io("read", cause))?;
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(|cause| io("read", cause))?.file_name();
        names.extend(name.into_string().ok().filter(|name| matches(name)));
    }
    names.sort();
    Ok(names)
}
