//! What can be mended without losing anything.

use std::fs;
use std::path::Path;

use super::{Report, check_locked, names};
use crate::lock::Lock;
use crate::options::Budget;
use crate::rocks::{RocksStore, STAGING};
use crate::store::Store;
use crate::{Error, Group, format, io};

/// What a person can do about damage that nothing can mend here.
const WAY_OUT: &str = "nothing was changed: this node's copy of these rows is gone, and no other is \
    on it. In a cluster, take both directories of this node away and start it: it joins anew and \
    is sent its groups. Alone, restore a backup";

/// Takes away what an install that never happened has left in `dir`: staged files, rows of
/// generations that were never pointed to, a format file half written. Says of each what it was. Rows that
/// are part of any group's state are never touched.
///
/// [`Error::Corrupt`] if the store has a fault: then nothing was changed, because nothing is safe.
pub fn repair(dir: &Path) -> Result<Vec<String>, Error> {
    let lock = Lock::take(dir)?;
    let report = check_locked(dir, &mut |_, _| {})?;
    refuse_damage(&report)?;
    let mut gone = Vec::new();
    let staging = dir.join(STAGING);
    if staging.is_dir() {
        for name in names(&staging, |_| true)? {
            let path = staging.join(&name);
            let removed =
                if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(|cause| io("clean", cause))?;
            gone.push(format!("{STAGING}/{name}: a snapshot that was never installed"));
        }
    }
    let half = dir.join(format::FILE_NEW);
    if half.exists() {
        fs::remove_file(&half).map_err(|cause| io("clean", cause))?;
        gone.push(format!("{}: never put in place", format::FILE_NEW));
    }
    drop(lock);
    gone.extend(sweep_generations(dir, &report)?);
    Ok(gone)
}

fn refuse_damage(report: &Report) -> Result<(), Error> {
    let Some(first) = report.faults.first() else { return Ok(()) };
    let at = first.offset.map(|offset| format!(" at {offset}")).unwrap_or_default();
    let count = report.faults.len();
    let cause = format!("{}{at}: {}; {count} faults in all; {WAY_OUT}", first.file, first.cause);
    Err(Error::Corrupt { what: "the store", cause })
}

/// Drops rows of generations that no group points to.
fn sweep_generations(dir: &Path, report: &Report) -> Result<Vec<String>, Error> {
    let store: std::sync::Arc<dyn Store> =
        std::sync::Arc::new(RocksStore::open(dir, Budget::default())?);
    let mut gone = Vec::new();
    for (group, _) in &report.marks {
        // Opening a group sweeps.
        let (_, swept) = Group::open_and_tell(store.clone(), *group)?;
        if swept > 0 {
            gone.push(format!("group {group}: {swept} ranges of rows that no pointer names"));
        }
    }
    store.flush()?;
    Ok(gone)
}
