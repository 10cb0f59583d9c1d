//! What RocksDB, opened for reading, says there is.
//!
//! Its manifest is read and verified by that, and nothing is written: not even its diary, which goes
//! to nobody.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use bytes::Bytes;
use rocksdb::{DB, InfoLogger, LiveFile, LogLevel, Options};
use stemedb_types::GroupId;

use super::{Report, names};
use crate::options::{self, Budget};
use crate::rocks::{ROCKS, unread};
use crate::rows::{Scope, generation_row};
use crate::{Error, format, group, io, manifest};

/// What there is to read.
pub(super) struct Inventory {
    pub(super) tables: Vec<Table>,
    live: Vec<LiveFile>,
    /// `None` if RocksDB does not open it.
    db: Option<DB>,
}

/// A table file.
pub(super) struct Table {
    pub(super) name: String,
    pub(super) bytes: u64,
}

impl Inventory {
    /// Opens the store for reading; what is wrong with that goes into the report.
    pub(super) fn take(dir: &Path, report: &mut Report) -> Result<Self, Error> {
        let rocks = dir.join(ROCKS);
        if !rocks.is_dir() {
            // Marked, and never opened: nothing is in it. Or opened, and lost.
            if let Err(gone) = format::check_rocks(dir) {
                report.fault(ROCKS, None, gone.to_string());
            }
            return Ok(Self { tables: Vec::new(), live: Vec::new(), db: None });
        }
        read_options_file(&rocks, report)?;
        let mut found = Self { tables: all_tables(&rocks)?, live: Vec::new(), db: None };
        if let Err(fault) = manifest::check(&rocks) {
            report.fault(&format!("{ROCKS}/{}", fault.file), fault.offset, fault.cause);
            return Ok(found);
        }
        if let Err(gone) = format::check_rocks(dir) {
            report.fault(ROCKS, None, gone.to_string());
            return Ok(found);
        }
        let opened = DB::open_for_read_only(&reading(), &rocks, false);
        let db = match opened {
            Ok(db) => db,
            Err(cause) => {
                report.fault(ROCKS, None, format!("RocksDB does not open it: {cause}"));
                return Ok(found);
            }
        };
        found.live = db.live_files().map_err(|cause| unread("its files", cause))?;
        found.tables = found.live.iter().map(Table::of).collect();
        found.tables.sort_by(|a, b| a.name.cmp(&b.name));
        found.db = Some(db);
        Ok(found)
    }

    /// Of groups that have rows, each one's mark in its living generation.
    pub(super) fn marks(&self, groups: &BTreeSet<GroupId>, report: &mut Report) {
        let Some(db) = &self.db else { return };
        for group in groups.iter().copied() {
            match mark(db, group) {
                Ok((_, Some(mark))) => report.marks.push((group, Some(mark))),
                // Rows of a replica that was given up stay in files until they are compacted.
                Ok((scope, None)) => match has_rows(db, scope) {
                    Ok(false) => {}
                    Ok(true) if scope.generation > 0 => {
                        let to = scope.generation;
                        let cause =
                            format!("group {group} points to generation {to}, without a mark");
                        report.fault(ROCKS, None, cause);
                        report.marks.push((group, None));
                    }
                    Ok(true) | Err(_) => report.marks.push((group, None)),
                },
                Err(error) => {
                    report.fault(ROCKS, None, format!("the mark of group {group}: {error}"));
                    report.marks.push((group, None));
                }
            }
        }
    }

    /// The first and last row of a file, as RocksDB tells.
    pub(super) fn rows_of(&self, name: &str) -> Option<(Vec<u8>, Vec<u8>)> {
        let file = self.live.iter().find(|file| Table::of(file).name == name)?;
        Some((file.start_key.clone()?, file.end_key.clone()?))
    }
}

impl Table {
    fn of(file: &LiveFile) -> Self {
        Self { name: file.name.trim_start_matches('/').to_owned(), bytes: file.size as u64 }
    }
}

/// Options of a RocksDB that leaves no trace.
fn reading() -> Options {
    let budget = Budget { block_cache_bytes: 8 << 20, ..Budget::default() };
    let mut options = options::options(budget);
    options.create_if_missing(false);
    options.set_info_logger(InfoLogger::new_callback_logger(LogLevel::Fatal, |_, _| {}));
    options
}

fn all_tables(rocks: &Path) -> Result<Vec<Table>, Error> {
    let tables = names(rocks, |name| name.ends_with(".sst"))?.into_iter().map(|name| {
        let bytes = fs::metadata(rocks.join(&name)).map_err(|cause| io("read", cause))?.len();
        Ok(Table { name, bytes })
    });
    tables.collect()
}

/// RocksDB writes its settings down and never needs them; a file that is none is a sign all the same.
fn read_options_file(rocks: &Path, report: &mut Report) -> Result<(), Error> {
    for name in names(rocks, |name| name.starts_with("OPTIONS-") && !name.ends_with(".dbtmp"))? {
        let text = fs::read(rocks.join(&name)).map_err(|cause| io("read", cause))?;
        let text = String::from_utf8_lossy(&text);
        let parts = ["[Version]", "[DBOptions]", "[CFOptions \"default\"]"];
        if !parts.iter().all(|part| text.contains(part)) {
            let file = format!("{ROCKS}/{name}");
            report.fault(&file, None, "it is no file of options (which are not read back)".into());
        }
    }
    Ok(())
}

/// Whether any row of a scope is there.
fn has_rows(db: &DB, scope: Scope) -> Result<bool, Error> {
    let mut rows = db.raw_iterator_opt(options::walk_options(&scope.all()));
    rows.seek_to_first();
    rows.status().map_err(|cause| unread("a group", cause))?;
    Ok(rows.valid())
}

fn mark(db: &DB, group: GroupId) -> Result<(Scope, Option<Bytes>), Error> {
    let get = |row: &[u8]| db.get(row).map_err(|cause| unread("a mark", cause));
    let generation = match get(generation_row(group).as_slice())? {
        None => 0,
        Some(bytes) => group::decode_generation(&bytes)?,
    };
    let scope = Scope { group, generation };
    Ok((scope, get(scope.applied().as_slice())?.map(Bytes::from)))
}
