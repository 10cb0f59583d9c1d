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
    writes: bool,
}

impl RealDisk {
    /// Opens `path`, making it and its parents if they are not there. Its name and theirs are
    /// synced even if they are there: an earlier start may have made them and died, and a power
    /// cut would take the whole log with the name.
    pub fn open(path: &Path) -> io::Result<Self> {
        fs::create_dir_all(path)?;
        parents(path).try_for_each(sync_parent)?;
        let (path, writes) = (path.to_path_buf(), true);
        Ok(Self { dir: fs::File::open(&path)?, path, writes })
    }

    /// Opens `path`, which must be there, and changes nothing in it: it may be on a volume that
    /// can't be written.
    pub(crate) fn to_read(path: &Path) -> io::Result<Self> {
        let (path, writes) = (path.to_path_buf(), false);
        Ok(Self { dir: fs::File::open(&path)?, path, writes })
    }

    fn at(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Disk for RealDisk {
    fn lock(&self) -> io::Result<Option<Lock>> {
        let path = self.at(LOCK_FILE);
        let made = fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = match made {
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem && !self.writes => {
                match fs::File::open(path) {
                    // Nobody could make it, so nobody has it.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        return Ok(Some(Box::new(())));
                    }
                    opened => opened?,
                }
            }
            made => made?,
        };
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
        let file = fs::OpenOptions::new().read(true).write(self.writes).open(self.at(name))?;
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

/// The directories that hold the names a path goes through, from the last one up.
fn parents(path: &Path) -> impl Iterator<Item = &Path> {
    let here = |parent: &Path| parent.as_os_str().is_empty();
    path.ancestors().skip(1).map(move |parent| if here(parent) { Path::new(".") } else { parent })
}

/// Syncs a directory, unless we could not have made anything in it.
fn sync_parent(dir: &Path) -> io::Result<()> {
    use io::ErrorKind::{InvalidInput, PermissionDenied, ReadOnlyFilesystem, Unsupported};
    match fs::File::open(dir).and_then(|dir| dir.sync_all()) {
        Err(error)
            if matches!(
                error.kind(),
                PermissionDenied | ReadOnlyFilesystem | InvalidInput | Unsupported
            ) =>
        {
            Ok(())
        }
        synced => synced,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_on_the_way_is_synced_that_of_a_relative_path_too() {
        let of = |path| parents(Path::new(path)).map(|at| at.to_str().unwrap()).collect::<Vec<_>>();
        assert_eq!(of("wal"), ["."]);
        assert_eq!(of("some/where/wal"), ["some/where", "some", "."]);
        assert_eq!(of("/var/wal"), ["/var", "/"]);
        assert_eq!(of("../wal"), ["..", "."]);
    }
}
