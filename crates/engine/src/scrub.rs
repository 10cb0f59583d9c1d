//! The files of an open store, checked as they stand on disk.
//!
//! RocksDB says which files live; they are read beside it (`sst`), so that neither its cache nor the
//! kernel's hides what the disk holds. A file that compaction takes away meanwhile is no loss: its
//! rows were read, verified and written anew. Rows not flushed yet are not on disk and not looked at.
//!
//! RocksDB is only ever asked in passing: a walk may take hours, and the store can be opened again meanwhile.

use std::fs::File;
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::path::Path;

use rocksdb::LiveFile;

use crate::rows::Range;
use crate::sst::{self, Damaged, Found};
use crate::store::Pace;
use crate::{Error, io};

/// Which files live now.
pub(crate) type Live<'l> = &'l dyn Fn() -> Result<Vec<LiveFile>, Error>;

/// See [`crate::Store::scrub_ranges`]. `rocks` is RocksDB's folder.
pub(crate) fn scrub(
    rocks: &Path,
    live: Live<'_>,
    ranges: &[Range],
    pace: Pace<'_>,
) -> Result<u64, Error> {
    let mut read_bytes = 0;
    let mut pace = |bytes| {
        read_bytes += bytes;
        pace(bytes)
    };
    for file in live()?.iter().filter(|file| ranges.iter().any(|r| holds_any_of(file, r))) {
        let Some(table) = open_table(rocks, live, file)? else { continue };
        let size = table.metadata().map_err(|cause| io("scrub", cause))?.len();
        if size != file.size as u64 {
            if !lives(live, file)? {
                continue;
            }
            let cause = format!("it is {size} bytes long, not {}", file.size);
            return Err(damaged(file, Damaged { offset: None, rows: None, cause }));
        }
        let mut fault = None;
        let walked = sst::walk(&table, Some(ranges), &mut |found| match found {
            Found::Rows(rows) => pace(rows.bytes),
            Found::Meta(bytes) => pace(bytes),
            Found::Damaged(found) => {
                fault = Some(damaged(file, found));
                ControlFlow::Break(())
            }
        });
        if let Some(fault) = fault {
            if !lives(live, file)? {
                continue;
            }
            return Err(fault);
        }
        if walked.is_break() {
            break;
        }
    }
    Ok(read_bytes)
}

fn holds_any_of(file: &LiveFile, range: &Range) -> bool {
    let (first, last) = (file.start_key.as_deref(), file.end_key.as_deref());
    first.is_none_or(|first| first < range.end.as_slice())
        && last.is_none_or(|last| last >= range.start.as_slice())
}

/// `None` if the file was taken away since, and nothing of it lives.
fn open_table(rocks: &Path, live: Live<'_>, file: &LiveFile) -> Result<Option<File>, Error> {
    match File::open(rocks.join(file.name.trim_start_matches('/'))) {
        Ok(table) => Ok(Some(table)),
        Err(cause) if cause.kind() == ErrorKind::NotFound => {
            if lives(live, file)? {
                let cause = "it is not there".to_owned();
                return Err(damaged(file, Damaged { offset: None, rows: None, cause }));
            }
            Ok(None)
        }
        Err(cause) => Err(io("scrub", cause)),
    }
}

/// Whether a file still counts. One that does not is shrunk under whoever reads it (`trash`).
fn lives(live: Live<'_>, file: &LiveFile) -> Result<bool, Error> {
    Ok(live()?.iter().any(|live| live.name == file.name))
}

fn damaged(file: &LiveFile, found: Damaged) -> Error {
    let name = file.name.trim_start_matches('/');
    let at = found.offset.map(|offset| format!(" at {offset}")).unwrap_or_default();
    Error::Corrupt { what: "a table file", cause: format!("{name}{at}: {}", found.cause) }
}
