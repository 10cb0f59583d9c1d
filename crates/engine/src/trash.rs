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
//! A file is shrunk only if it is ours alone: a table by its name, with one name, which `rocks/` does not have.
//! RocksDB removes a table once its list of tables without it is synced and nobody reads it. A second name of
//! what somebody else has a name of (a copy, RocksDB under another number) is only taken away.
//!
//! Left out: a table that comes and goes between two looks (it is small, or the disk is busy with more than
//! that); a file system without second names, or that does not count them, where nothing is named. What a
//! stop or a crash leaves in `trash/` goes after the next start.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::background::{Stop, be_nice};

/// The folder in a store's.
pub(crate) const TRASH: &str = "trash";
/// What is given back in one go.
const STEP_BYTES: u64 = 1 << 20;
/// The rest behind each, at most: 32 MiB in a second.
const STEP_REST_MAX: Duration = Duration::from_millis(32);
/// However much there is, it is gone in about so long: else it would pile up beside busy compactions.
const BACKLOG_MAX: Duration = Duration::from_secs(8);
/// Between two looks at which files there are, while they come and go.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// The same, where the last look found nothing new: an idle store is woken by it.
const IDLE_INTERVAL: Duration = Duration::from_secs(1);
/// A volume of which less than this part is free has no room for what nobody needs.
const FREE_PART: u64 = 16;

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
            be_nice();
            let mut bin = Bin { rocks, trash, named: HashSet::new(), names: true };
            let mut told = false;
            loop {
                let rest = match bin.look(&stopped) {
                    Ok(true) => LOOK_INTERVAL,
                    Ok(false) => IDLE_INTERVAL,
                    // A folder that can't be read now may be read later, and nothing hangs on it.
                    Err(error) => {
                        if !told {
                            tracing::warn!(%error, "removed tables are not given back to the volume");
                        }
                        told = true;
                        IDLE_INTERVAL
                    }
                };
                if stopped.rest(rest) {
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
    /// Whether second names are given at all.
    names: bool,
}

impl Bin {
    /// Names, shrinks and takes away what is to be. Whether there was anything.
    fn look(&mut self, stop: &Stop) -> io::Result<bool> {
        let trash = tables(&self.trash)?;
        if self.is_tight() {
            self.named.clear();
            trash.iter().try_for_each(|name| fs::remove_file(self.trash.join(name)))?;
            return Ok(!trash.is_empty());
        }
        let living = tables(&self.rocks)?;
        let (mut gone, mut gone_bytes) = (Vec::new(), 0);
        let found = self.names && trash != living;
        for name in trash {
            if living.contains(&name) && (self.named.contains(&name) || self.is_same(&name)) {
                self.named.insert(name);
                continue;
            }
            self.named.remove(&name);
            let path = self.trash.join(&name);
            let file = fs::symlink_metadata(&path)?;
            if file.is_file() && file.nlink() == 1 {
                gone_bytes += file.len();
                gone.push(path);
            } else {
                fs::remove_file(path)?;
            }
        }
        self.name(living);
        let steps = u32::try_from(gone_bytes / STEP_BYTES + 1).unwrap_or(u32::MAX);
        let rest = STEP_REST_MAX.min(BACKLOG_MAX / steps);
        for path in gone {
            if self.shrink(&path, rest, stop)?.is_break() {
                break;
            }
        }
        Ok(found)
    }

    fn is_tight(&self) -> bool {
        rustix::fs::statvfs(&self.trash)
            .is_ok_and(|volume| volume.f_bavail < volume.f_blocks / FREE_PART)
    }

    /// Gives second names to those that have none.
    fn name(&mut self, living: HashSet<OsString>) {
        for name in living {
            if !self.names || self.named.contains(&name) {
                continue;
            }
            let second = self.trash.join(&name);
            match fs::hard_link(self.rocks.join(&name), &second) {
                Ok(()) if fs::symlink_metadata(&second).is_ok_and(|file| is_counted(&file)) => {
                    self.named.insert(name);
                }
                // Where names are not counted, nobody can tell when ours is the last.
                Ok(()) => {
                    let _ = fs::remove_file(&second);
                    self.names = !self.rocks.join(&name).exists();
                }
                // Removed meanwhile, or another file of that name is still being shrunk.
                Err(cause)
                    if matches!(
                        cause.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists
                    ) => {}
                Err(error) => {
                    tracing::warn!(%error, "tables that RocksDB removes are freed in one go");
                    self.names = false;
                }
            }
        }
    }

    fn is_same(&self, name: &OsStr) -> bool {
        let file = |dir: &Path| fs::symlink_metadata(dir.join(name)).ok();
        file(&self.rocks)
            .zip(file(&self.trash))
            .is_some_and(|(one, other)| (one.dev(), one.ino()) == (other.dev(), other.ino()))
    }

    /// Gives a file's space back, and then its name; breaks if it is to end before. Nobody else has the file:
    /// its only name is ours, and RocksDB closes what it removes.
    fn shrink(&self, path: &Path, rest: Duration, stop: &Stop) -> io::Result<ControlFlow<()>> {
        let no_follow = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
        let file = File::options().write(true).custom_flags(no_follow).open(path)?;
        let found = file.metadata()?;
        if found.nlink() == 1 {
            let mut left_bytes = found.len();
            while left_bytes > STEP_BYTES && !self.is_tight() {
                left_bytes = (left_bytes - 1) / STEP_BYTES * STEP_BYTES;
                file.set_len(left_bytes)?;
                if stop.rest(rest) {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
        fs::remove_file(path)?;
        Ok(ControlFlow::Continue(()))
    }
}

/// A plain file with a name beside ours.
fn is_counted(file: &fs::Metadata) -> bool {
    file.is_file() && file.nlink() > 1
}

/// The names of the tables in a folder.
fn tables(dir: &Path) -> io::Result<HashSet<OsString>> {
    let names = fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.file_name()));
    let is_table = |name: &OsString| Path::new(name).extension().is_some_and(|end| end == "sst");
    names.filter(|name| name.as_ref().map_or(true, is_table)).collect()
}
