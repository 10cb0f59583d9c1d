//! The seam to the disk: one directory, its files, and what makes them durable.
//!
//! The log asks for little: positioned reads and writes, `fdatasync`, and names that become
//! durable by a sync of the directory. [`real`] is the file system; [`sim`] is a directory in
//! memory that keeps *written* and *synced* apart, tears and loses what was not synced, and
//! fails on demand. The log's directory is flat and its own.

use std::any::Any;
use std::fmt;
use std::io;
use std::sync::Arc;

pub mod real;
pub mod sim;

/// Holding it keeps every other opener out; dropping it lets the next one in.
pub type Lock = Box<dyn Any + Send + Sync>;

/// One open file. All calls may come from several threads at once.
pub trait File: Send + Sync + fmt::Debug {
    /// The file's length, bytes.
    fn length(&self) -> io::Result<u64>;
    /// Fills `out` from `offset` on. `UnexpectedEof` if the file is shorter.
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of `bytes` at `offset`, growing the file if need be. Durable only after
    /// [`File::sync_data`]; a failure leaves any part of it written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Everything written before, and the length it needs, is on disk once this returns Ok.
    /// After a failure nothing is known and a retry proves nothing.
    fn sync_data(&self) -> io::Result<()>;
}

/// One directory. Names become durable by [`Disk::sync_dir`] only.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Takes the directory for this opener. `None`: somebody else has it.
    fn lock(&self) -> io::Result<Option<Lock>>;
    /// The names of all files, in any order.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Opens a file that must exist, to read and write.
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>>;
    /// Makes a file that must not exist yet, empty.
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>>;
    /// Gives a file another name, taking the place of one that had it. Open handles live on.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Takes a file away. Open handles live on.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Every creation, renaming and removal before this call is on disk once it returns Ok.
    fn sync_dir(&self) -> io::Result<()>;
    /// Bytes still free for us on the volume.
    fn free_bytes(&self) -> io::Result<u64>;
    /// A number nobody can foresee, for a new log's id.
    fn random(&self) -> u64;
}
