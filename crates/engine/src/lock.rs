//! Who has a store's directory.
//!
//! The directory itself is locked, with `flock`: that leaves no file, works where nothing can be
//! written, and goes with the process however it ends. RocksDB's own lock comes only when it opens,
//! after the format was looked at and perhaps brought up; and an offline check never opens it to
//! write.

use std::fs::{File, TryLockError};
use std::path::Path;

use crate::{Error, io};

/// The directory is ours until this is dropped.
pub(crate) struct Lock(#[allow(dead_code, reason = "held, not used")] File);

impl Lock {
    /// [`Error::InUse`] if it is somebody else's, in this process or another.
    pub(crate) fn take(dir: &Path) -> Result<Self, Error> {
        let file = File::open(dir).map_err(|cause| io("open", cause))?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(Error::InUse { dir: dir.display().to_string() }),
            Err(TryLockError::Error(cause)) => Err(io("lock", cause)),
        }
    }
}
