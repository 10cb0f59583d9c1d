//! Tables that RocksDB lets go, given back to the volume a little at a time.
//!
//! RocksDB removes a table's file in one go, and several at once: what a compaction has written anew, or what
//! a long view kept. A file system that tells the disk what is free (ext4's `discard`) then holds up the
//! disk's queue, some 12 ms for 64 MiB, and with it every sync of the log. RocksDB can remove files slowly
//! itself; the crate offers no way to ask for it.
//!
//! So every table has a second name, in `trash/`. When RocksDB removes its own, nothing is free yet. A thread
//! of low priority finds the files whose only name is there, takes [`STEP_BYTES`] off their end at a time, and
//! rests in between. RocksDB tells nobody which files it makes and removes: so it looks.
//!
//! While the volume has little room there are no second names, and RocksDB's removals free space at once.
//!
//! Left out: a table that comes and goes between two looks (it is small, or the disk is busy with more than
//! that); a file system without second names, where all is as if this were not here. What a stop or a crash
//! leaves in `trash/` goes after the next start.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::stop::Stop;

/// The folder in a store's.
pub(crate) const TRASH: &str = "trash";
/// What is given back in one go.
const STEP_BYTES: u64 = 1 << 20;
/// The rest behind each, at most: 32 MiB in a second.
const STEP_REST_MAX: Duration = Duration::from_millis(32);
/// However much there is, it is gone in about so long: else it would pile up beside busy compactions.
const BACKLOG_MAX: Duration = Duration::from_secs(8);
/// Between two looks at which files there are.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// A volume of which less than this part is free has no room for what nobody needs.
const FREE_PART: u64 = 16;
/// How much nicer than others the thread is.
const NICENESS: i32 = 10;

/// The thread that does it, ended when this is dropped.
pub(crate) struct Trash {
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

impl Trash {
    /// Gives tables in the folder `rocks` second names in `trash`, which is made if it is not there, on the
    /// same volume.
    pub(crate) fn begin(rocks: PathBuf, trash: PathBuf) -> io::Result<Self> {
        match fs::create_dir(&trash) {
            Err(cause) if cause.kind() != io::ErrorKind::AlreadyExists => return Err(cause),
            _ => {}
        }
        let stop = Arc::new(Stop::default());
        let stopped = stop.clone();
        let thread = thread::Builder::new().name("trash".to_owned()).spawn(move || {
            // Where that is not allowed, it is only less nice.
            let _ = rustix::process::setpriority_process(None, NICENESS);
            let mut bin = Bin { rocks, trash, named: HashSet::new() };
            loop {
                // A folder that can't be read now may be read later, and nothing hangs on it.
                if let Err(error) = bin.look(&stopped) {
                    tracing::debug!(%error, "the trash was not emptied");
                }
                if stopped.rest(LOOK_INTERVAL) {
                    return;
                }
            }
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Trash {
    fn drop(&mut self) {
        self.stop.say();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The two folders.
struct Bin {
    rocks: PathBuf,
    trash: PathBuf,
    /// Tables that have a second name.
    named: HashSet<OsString>,
}

impl Bin {
    fn look(&mut self, stop: &Stop) -> io::Result<()> {
        if self.is_tight() {
            return self.empty();
        }
        self.name_tables()?;
        let (mut gone, mut gone_bytes) = (Vec::new(), 0);
        for entry in fs::read_dir(&self.trash)? {
            let entry = entry?;
            let file = entry.metadata()?;
            if file.nlink() == 1 {
                gone_bytes += file.len();
                gone.push(entry.file_name());
            }
        }
        let steps = u32::try_from(gone_bytes / STEP_BYTES + 1).unwrap_or(u32::MAX);
        let rest = STEP_REST_MAX.min(BACKLOG_MAX / steps);
        for name in gone {
            if !self.shrink(&self.trash.join(&name), rest, stop)? {
                return Ok(());
            }
            self.named.remove(&name);
        }
        Ok(())
    }

    fn is_tight(&self) -> bool {
        rustix::fs::statvfs(&self.trash)
            .is_ok_and(|volume| volume.f_bavail < volume.f_blocks / FREE_PART)
    }

    /// Takes all second names away.
    fn empty(&mut self) -> io::Result<()> {
        self.named.clear();
        fs::read_dir(&self.trash)?.try_for_each(|entry| fs::remove_file(entry?.path()))
    }

    fn name_tables(&mut self) -> io::Result<()> {
        for entry in fs::read_dir(&self.rocks)? {
            let name = entry?.file_name();
            if !is_table(&name) || self.named.contains(&name) {
                continue;
            }
            match fs::hard_link(self.rocks.join(&name), self.trash.join(&name)) {
                Ok(()) => {}
                // Of an earlier start; or another file of that name, which goes first.
                Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => {
                    if !self.is_same(&name) {
                        continue;
                    }
                }
                Err(cause) if cause.kind() == io::ErrorKind::NotFound => continue,
                Err(cause) => return Err(cause),
            }
            self.named.insert(name);
        }
        Ok(())
    }

    fn is_same(&self, name: &OsString) -> bool {
        let number = |dir: &Path| fs::metadata(dir.join(name)).map(|file| file.ino()).ok();
        number(&self.rocks).is_some_and(|of| number(&self.trash) == Some(of))
    }

    /// Gives a file's space back, and then its name; whether it got to the end. Nobody else has the file: its
    /// only name is ours, and RocksDB closes what it removes.
    fn shrink(&self, path: &Path, rest: Duration, stop: &Stop) -> io::Result<bool> {
        let file = File::options().write(true).open(path)?;
        let mut left_bytes = file.metadata()?.len();
        while left_bytes > STEP_BYTES && !self.is_tight() {
            left_bytes = (left_bytes - 1) / STEP_BYTES * STEP_BYTES;
            file.set_len(left_bytes)?;
            if stop.rest(rest) {
                return Ok(false);
            }
        }
        fs::remove_file(path)?;
        Ok(true)
    }
}

fn is_table(name: &OsString) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension == "sst")
}
