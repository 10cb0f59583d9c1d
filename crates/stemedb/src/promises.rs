//! Whether this node has promised its leaders leases, in this life or in the one before.
//!
//! A node that keeps to leases (`read-mode` is `lease`) may have told a leader a moment before it went
//! down that nobody else will lead for a while. Its next life must keep that, also if it was given
//! another read mode. So a file says that leases were on; a node that starts without them and finds it
//! keeps still once, and then takes it away.

use std::io;
use std::path::{Path, PathBuf};

use crate::replace_file::replace_file;

/// The file, in the store's directory.
const FILE: &str = "LEASES";
const TEXT: &[u8] = b"this node keeps to leases, or has just ceased to\n";

/// What a node has to keep to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Promises {
    /// None were made.
    None,
    /// Leases are on.
    Kept,
    /// They are off, and were on.
    Left,
}

/// Looks what this node has promised, and writes down what it will; durable when it returns.
pub(crate) fn open(db_dir: &Path, lease_reads: bool) -> io::Result<Promises> {
    let path = path(db_dir);
    let was_on = path.try_exists()?;
    match (lease_reads, was_on) {
        (true, true) => Ok(Promises::Kept),
        (true, false) => replace_file(&path, TEXT).map(|()| Promises::Kept),
        (false, true) => Ok(Promises::Left),
        (false, false) => Ok(Promises::None),
    }
}

/// Forgets what was promised, once the time is over. A crash may bring it back: then the next start
/// keeps still once more.
pub(crate) fn forget(db_dir: &Path) -> io::Result<()> {
    std::fs::remove_file(path(db_dir))
}

fn path(db_dir: &Path) -> PathBuf {
    db_dir.join(FILE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_promised_is_known_in_the_next_life_and_forgotten_once() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(open(dir.path(), false).unwrap(), Promises::None);
        assert_eq!(open(dir.path(), true).unwrap(), Promises::Kept);
        assert_eq!(open(dir.path(), true).unwrap(), Promises::Kept);
        assert_eq!(open(dir.path(), false).unwrap(), Promises::Left);
        // A crash before the time was over.
        assert_eq!(open(dir.path(), false).unwrap(), Promises::Left);
        forget(dir.path()).unwrap();
        assert_eq!(open(dir.path(), false).unwrap(), Promises::None);
    }
}
