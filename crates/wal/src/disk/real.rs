//! The file system.

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Disk, File, Lock};

const LOCK_FILE: &str = "lock";

/// A directory of the file system, with an open handle to sync it by.
#[derive(Debug)]
pub struct RealDisk {
    path: PathBuf,
    dir: fs::File,
}

impl RealDisk {
    /// Opens `path`, making it and its parents if they are not there. Its name is synced even if
    /// it is there: an earlier start may have made it and died, and a power cut would take the
    /// whole log with the name.
    pub fn open(path: &Path) -> io::Result<Self> {
        let parents = || path.ancestors().skip(1).filter(|a| !a.as_os_str().is_empty());
        if !path.is_dir() {
            fs::create_dir_all(path)?;
            for made in parents() {
                fs::File::open(made)?.sync_all()?;
            }
        } else if let Some(Ok(parent)) = parents().next().map(fs::File::open) {
            // One that we may not open is not one that we have made this in.
            parent.sync_all()?;
        }
        Ok(Self { path: path.to_path_buf(), dir: fs::File::open(path)? })
    }

    fn at(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Disk for RealDisk {
    fn lock(&self) -> io::Result<Option<Lock>> {
        let path = self.at(LOCK_FILE);
        let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Box::new(file))),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let names =
            fs::read_dir(&self.path)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
        names.filter_map(Result::transpose).collect()
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let file = fs::OpenOptions::new().read(true).write(true).open(self.at(name))?;
        Ok(Arc::new(RealFile(file)))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let path = self.at(name);
        let file = fs::OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        Ok(Arc::new(RealFile(file)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.at(from), self.at(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.at(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.dir.sync_all()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::fstatvfs(&self.dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn random(&self) -> u64 {
        // The standard library seeds each `RandomState` from the system's randomness.
        RandomState::new().hash_one(std::process::id())
    }
}

#[derive(Debug)]
struct RealFile(fs::File);

impl File for RealFile {
    fn length(&self) -> io::Result<u64> {
        self.0.metadata().map(|data| data.len())
    }

    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}
