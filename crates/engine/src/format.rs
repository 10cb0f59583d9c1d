//! The store's format: which one a directory has, and the steps to this build's.
//!
//! `FORMAT` holds one line, `stemedb-store N`. A store of an older format is brought up step by
//! step when it is opened: each step is a function, run with the directory locked and RocksDB not
//! yet open, and `FORMAT` is written anew behind each, last. A crash in a step leaves the older number, so
//! the step runs again: every step must stand being run twice, or broken off and run
//! again. A newer format is refused and nothing touched. There is no way back: an older build refuses.
//!
//! | format | since | what is different |
//! |---|---|---|
//! | 1 | part 1 | |
//! | 2 | part 2 | rows of expiries beside the versions; filters hold parts of names (`bloom`) |
//! | 3 | part 4 | rows of kept answers; of a shard that `recover` went on with, the base of revisions and buckets that jumped |
//!
//! `OPENED` stands beside it once RocksDB's own folder was made and synced. From then on a store without that
//! folder is one that lost its rows, and never a new one. Stores from before this file have
//! a `staging/` that says the same.
//!
//! `testdata/vN` holds a directory of every format, which tests open for ever.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use crate::rocks::{ROCKS, STAGING};
use crate::{Error, io};

/// What this build writes, and the newest it reads.
pub(crate) const CURRENT: u32 = 3;
/// [`CURRENT`] as `FORMAT` holds it.
pub(crate) const CURRENT_LINE: &str = "stemedb-store 3";
const LINE_FRONT: &str = "stemedb-store ";
/// There was a RocksDB here.
const OPENED: &str = "OPENED";
const OPENED_LINE: &str = "stemedb-opened 1\n";
const FILE: &str = "FORMAT";
/// Where the next `FORMAT` is put together.
pub(crate) const FILE_NEW: &str = "FORMAT.new";

/// A way from one format to the next.
struct Step {
    from: u32,
    to: u32,
    /// Changes the directory; may find that it was broken off before.
    run: fn(&Path) -> Result<(), Error>,
}

/// In order, without a gap.
const STEPS: &[Step] = &[
    // Rows of format 1 are rows of format 2, and expiries begin to be written: nothing to change.
    Step { from: 1, to: 2, run: |_| Ok(()) },
    // The same once more, for kept answers.
    Step { from: 2, to: 3, run: |_| Ok(()) },
];

/// Brings a directory to this build's format; marks a new one. The caller holds its lock.
pub(crate) fn bring_up(dir: &Path) -> Result<(), Error> {
    bring_up_by(dir, STEPS)
}

fn bring_up_by(dir: &Path, steps: &[Step]) -> Result<(), Error> {
    let Some(mut now) = read(dir)? else { return mark(dir, CURRENT) };
    for step in steps.iter().filter(|step| step.to <= CURRENT) {
        if step.from != now {
            continue;
        }
        tracing::info!(from = step.from, to = step.to, "bring the store to a newer format");
        (step.run)(dir)?;
        mark(dir, step.to)?;
        now = step.to;
    }
    if now == CURRENT { Ok(()) } else { Err(unknown(dir, &format!("{LINE_FRONT}{now}"))) }
}

/// The format of a directory; `None` if nothing is in it yet.
///
/// [`Error::Format`] if it is none that this build knows, [`Error::Corrupt`] if there is a store
/// and nothing says of which format.
pub(crate) fn read(dir: &Path) -> Result<Option<u32>, Error> {
    let line = match fs::read(dir.join(FILE)) {
        Ok(line) => line,
        Err(cause) if cause.kind() == ErrorKind::NotFound => return absent(dir),
        Err(cause) => return Err(io("open", cause)),
    };
    let line = String::from_utf8_lossy(&line);
    let line = line.trim_end();
    let number = line.strip_prefix(LINE_FRONT).and_then(|number| number.parse().ok());
    match number {
        Some(number @ 1..=CURRENT) => Ok(Some(number)),
        _ => Err(unknown(dir, line)),
    }
}

fn absent(dir: &Path) -> Result<Option<u32>, Error> {
    // `FORMAT` is written before RocksDB makes anything.
    if dir.join(ROCKS).join("CURRENT").exists() || dir.join(OPENED).exists() {
        let cause = "the file is missing beside a store".to_owned();
        return Err(Error::Corrupt { what: FILE, cause });
    }
    Ok(None)
}

/// Whether RocksDB's folder is there if it ever was. [`Error::Corrupt`]: it is gone.
pub(crate) fn check_rocks(dir: &Path) -> Result<(), Error> {
    let was_there = dir.join(OPENED).exists() || dir.join(STAGING).exists();
    if !was_there || dir.join(ROCKS).join("CURRENT").exists() {
        return Ok(());
    }
    let cause = "it is not there any more, or empty, and with it every row; to begin anew, take \
        the whole directory away";
    Err(Error::Corrupt { what: "the folder `rocks`", cause: cause.to_owned() })
}

/// RocksDB's folder is there: makes its name last, and remembers it. The caller holds the lock.
pub(crate) fn has_opened(dir: &Path) -> Result<(), Error> {
    let sync = || fs::File::open(dir).and_then(|dir| dir.sync_all());
    sync().map_err(|cause| io("open", cause))?;
    let marker = dir.join(OPENED);
    if marker.exists() {
        return Ok(());
    }
    let written = fs::write(&marker, OPENED_LINE)
        .and_then(|()| fs::File::open(&marker)?.sync_all())
        .and_then(|()| sync());
    if let Err(error) = written {
        // Even an empty one says it. A store on a full volume opens all the same.
        tracing::warn!(%error, "can't write down that the store was opened");
    }
    Ok(())
}

fn unknown(dir: &Path, found: &str) -> Error {
    let found = found.chars().take(80).collect();
    Error::Format { dir: dir.display().to_string(), found, known: CURRENT_LINE }
}

/// Writes `FORMAT` so that a crash leaves the old line or the new one.
fn mark(dir: &Path, number: u32) -> Result<(), Error> {
    let open = |cause: std::io::Error| io("open", cause);
    let new = dir.join(FILE_NEW);
    fs::write(&new, format!("{LINE_FRONT}{number}\n")).map_err(open)?;
    fs::File::open(&new).and_then(|file| file.sync_all()).map_err(open)?;
    fs::rename(&new, dir.join(FILE)).map_err(open)?;
    fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(open)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    fn directory(line: &str) -> TempDir {
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join(FILE), line).unwrap();
        dir
    }

    fn line(dir: &TempDir) -> String {
        fs::read_to_string(dir.path().join(FILE)).unwrap()
    }

    #[test]
    fn the_steps_lead_from_the_first_format_to_this_builds_without_a_gap() {
        let ways: Vec<_> = STEPS.iter().map(|step| (step.from, step.to)).collect();
        let wanted: Vec<_> = (1..CURRENT).map(|from| (from, from + 1)).collect();
        assert_eq!(ways, wanted);
        assert_eq!(CURRENT_LINE, format!("{LINE_FRONT}{CURRENT}"));
    }

    #[test]
    fn a_step_that_is_broken_off_runs_again_at_the_next_start_and_the_number_comes_last() {
        fn write_twice(dir: &Path) -> Result<(), Error> {
            let runs = fs::read(dir.join("runs")).unwrap_or_default().len();
            fs::write(dir.join("runs"), vec![b'x'; runs + 1]).unwrap();
            // The crash, in the first run.
            if runs == 0 { Err(io("open", "power cut")) } else { Ok(()) }
        }
        let dir = directory("stemedb-store 1\n");
        let last = Step { from: 2, to: 3, run: |_| Ok(()) };
        let steps = [Step { from: 1, to: 2, run: write_twice }, last];
        assert!(bring_up_by(dir.path(), &steps).is_err());
        assert_eq!(line(&dir), "stemedb-store 1\n");
        bring_up_by(dir.path(), &steps).unwrap();
        assert_eq!(line(&dir), "stemedb-store 3\n");
        // And never again.
        bring_up_by(dir.path(), &steps).unwrap();
        assert_eq!(fs::read(dir.path().join("runs")).unwrap(), b"xx");
    }

    #[test]
    fn a_format_that_no_step_leads_from_is_refused() {
        let dir = directory("stemedb-store 1\n");
        let refused = bring_up_by(dir.path(), &[]).unwrap_err();
        assert!(matches!(&refused, Error::Format { found, .. } if found == "stemedb-store 1"));
        assert_eq!(line(&dir), "stemedb-store 1\n");
    }

    #[test]
    fn lines_that_are_no_format_of_ours_are_refused_with_what_they_say() {
        for bad in ["stemedb-store 4", "stemedb-store 0", "stemedb-store", "", "stemedb-wal 1"] {
            let dir = directory(bad);
            let refused = bring_up(dir.path()).unwrap_err();
            assert!(matches!(&refused, Error::Format { found, .. } if found == bad), "{refused:?}");
            assert_eq!(line(&dir), bad);
        }
    }

    #[test]
    fn a_store_whose_format_file_is_gone_is_not_taken_for_a_new_one() {
        let dir = TempDir::new().unwrap();
        fs::create_dir(dir.path().join("rocks")).unwrap();
        fs::write(dir.path().join("rocks/CURRENT"), "MANIFEST-000005\n").unwrap();
        let refused = bring_up(dir.path()).unwrap_err();
        assert!(matches!(&refused, Error::Corrupt { what: "FORMAT", .. }), "{refused:?}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
