//! A snapshot on its way in.

use std::fs::{self, File};
use std::io::Write;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::format::{Head, Part, Reader, SUM_BYTES};
use super::{SnapshotId, refuse};
use crate::group::Group;
use crate::rows::Scope;
use crate::{Error, FileReader, Row};

/// The files of one snapshot, beside the living rows; none of them is seen before
/// [`Incoming::install`]. Dropped, nothing of it stays.
///
/// Invariants: `files` are whole, synced and checked, in order; `row` is the last row in them; a
/// file that is under way is not among them.
#[must_use = "a snapshot that is dropped leaves nothing"]
pub struct Incoming {
    group: Group,
    scope: Scope,
    id: SnapshotId,
    dir: PathBuf,
    files: Vec<PathBuf>,
    row: Vec<u8>,
    bytes: u64,
    applied: Option<Bytes>,
    whole: bool,
    /// The store has the files.
    taken_in: bool,
    refused: bool,
    reader: Reader,
    under_way: Option<UnderWay>,
    /// Reads what is whole.
    checker: FileReader,
    rest_max: Duration,
}

/// A file is synced each time it has grown by so much, and checked in portions of it. A sync of the log, which
/// is what puts wait for, stands behind such a portion at the disk: a larger one would be felt, and a much smaller one
/// costs a commit of the file system's journal for little.
const SYNC_BYTES: usize = 256 << 10;

/// A file of which not all has come.
struct UnderWay {
    head: Head,
    path: PathBuf,
    file: File,
    sum: Sha256,
    /// What was written to it since it was synced.
    unsynced_bytes: usize,
}

fn stage(cause: std::io::Error) -> Error {
    Error::Io { verb: "stage", cause: cause.to_string() }
}

impl Incoming {
    /// Begins to take in a snapshot for `group`, under a generation of its own.
    pub fn begin(group: &Group, id: SnapshotId) -> Result<Self, Error> {
        let scope = group.unused_generation();
        Ok(Self {
            group: group.clone(),
            scope,
            id,
            dir: group.store.staging()?,
            files: Vec::new(),
            row: scope.bytes().to_vec(),
            bytes: 0,
            applied: None,
            whole: false,
            taken_in: false,
            refused: false,
            reader: Reader::default(),
            under_way: None,
            checker: FileReader::default(),
            rest_max: Duration::ZERO,
        })
    }

    /// From now on rests for as long as it has worked, up to `max`, each time it has synced or checked
    /// so much: in between, others have disk and core for themselves. The thread sleeps.
    pub fn rest_between(&mut self, max: Duration) {
        self.rest_max = max;
    }

    /// Which snapshot it is.
    pub fn id(&self) -> SnapshotId {
        self.id
    }

    /// The generation its rows must come under.
    pub fn generation(&self) -> u32 {
        self.scope.generation
    }

    pub(super) fn scope(&self) -> Scope {
        self.scope
    }

    /// How many files it has: the next is the one of this number.
    pub fn have(&self) -> u32 {
        u32::try_from(self.files.len()).unwrap_or(u32::MAX)
    }

    /// How many bytes these files have.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The sender's applied mark: known once there is a file.
    pub fn applied(&self) -> Option<Bytes> {
        self.applied.clone()
    }

    /// Whether every file is there.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// Takes the next piece of the stream, cut anywhere. Blocks: it writes, and checks each file that is
    /// whole. After [`Error::Transfer`] nothing more of this stream is taken; the files before stay.
    pub fn take(&mut self, mut piece: &[u8]) -> Result<(), Error> {
        if self.refused {
            return Err(refuse("a piece came behind a refused one"));
        }
        // Until it is through: an error leaves it refused.
        self.refused = true;
        while let Some(part) = self.reader.next(&mut piece)? {
            match part {
                Part::Head(head) => self.begin_file(head)?,
                Part::Bytes(bytes) => self.write(bytes)?,
                Part::End(sum) => self.end_file(sum)?,
            }
        }
        self.refused = false;
        Ok(())
    }

    /// The stream is over, or broke; another may go on behind the files that are there.
    pub fn break_off(&mut self) {
        self.reader = Reader::default();
        self.refused = false;
        if let Some(under_way) = self.under_way.take() {
            // Left there, it would only be in the way until all of the folder goes.
            let _ = fs::remove_file(under_way.path);
        }
    }

    fn begin_file(&mut self, head: Head) -> Result<(), Error> {
        if self.whole {
            return Err(refuse("a file came behind the last one"));
        }
        if head.number != self.have() {
            let (got, want) = (head.number, self.have());
            return Err(refuse(format!("file {got} came, not {want}")));
        }
        let path = self.dir.join(format!("{:08}.sst", head.number));
        let file = File::create(&path).map_err(stage)?;
        let sum = Sha256::new().chain_update(head.encode());
        self.under_way = Some(UnderWay { head, path, file, sum, unsynced_bytes: 0 });
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let Some(under_way) = &mut self.under_way else {
            return Err(refuse("bytes of no file"));
        };
        under_way.sum.update(bytes);
        under_way.file.write_all(bytes).map_err(stage)?;
        under_way.unsynced_bytes += bytes.len();
        if under_way.unsynced_bytes >= SYNC_BYTES {
            under_way.unsynced_bytes = 0;
            let begun = Instant::now();
            under_way.file.sync_data().map_err(stage)?;
            rest(begun, self.rest_max);
        }
        Ok(())
    }

    fn end_file(&mut self, sum: [u8; SUM_BYTES]) -> Result<(), Error> {
        let Some(UnderWay { head, path, file, sum: found, .. }) = self.under_way.take() else {
            return Err(refuse("the end of no file"));
        };
        let checked = self.check(head, &path, &file, sum == <[u8; 32]>::from(found.finalize()));
        drop(file);
        match checked {
            Ok(row) => {
                self.row = row;
                self.bytes += head.length;
                self.whole = head.last;
                self.files.push(path);
                Ok(())
            }
            Err(error) => {
                let _ = fs::remove_file(path);
                Err(error)
            }
        }
    }

    /// Whether a file is what its head says: rows of this snapshot, behind those before. Returns the
    /// last of them.
    fn check(
        &mut self,
        head: Head,
        path: &std::path::Path,
        file: &File,
        matches: bool,
    ) -> Result<Vec<u8>, Error> {
        let number = head.number;
        if !matches {
            return Err(refuse(format!("file {number} does not match its checksum")));
        }
        file.sync_all().map_err(stage)?;
        let (scope, mark) = (self.scope.bytes(), self.scope.applied());
        let mut row = self.row.clone();
        let mut applied = None;
        let mut rows = 0;
        let mut fault = None;
        let (rest_max, mut checked_bytes, mut begun) = (self.rest_max, 0, Instant::now());
        self.group.store.read_file(path, &mut self.checker, &mut |next, value| {
            checked_bytes += next.len() + value.len();
            if checked_bytes >= SYNC_BYTES {
                rest(begun, rest_max);
                (checked_bytes, begun) = (0, Instant::now());
            }
            fault = unfit(&row, next, &scope);
            if fault.is_some() {
                return ControlFlow::Break(());
            }
            if next == Row::as_slice(&mark) {
                applied = Some(Bytes::copy_from_slice(value));
            }
            row.clear();
            row.extend_from_slice(next);
            rows += 1;
            ControlFlow::Continue(())
        })?;
        match fault {
            Some(fault) => return Err(refuse(format!("row {rows} of file {number} {fault}"))),
            None if rows != head.rows => {
                return Err(refuse(format!("file {number} has {rows} rows, not {}", head.rows)));
            }
            None if number == 0 && applied.is_none() => {
                return Err(refuse("the first file has no applied mark"));
            }
            None => {}
        }
        if number == 0 {
            self.applied = applied;
        }
        if head.last {
            self.checker = FileReader::default();
        }
        Ok(row)
    }

    /// Makes the rows the group's own, durably, in place of what it held. Returns the group as it
    /// is from now on; its applied mark is the sender's. Blocks.
    ///
    /// [`Error::Transfer`] if it is not whole: the group is as it was.
    pub fn install(mut self) -> Result<Group, Error> {
        self.try_install()
    }

    /// [`Incoming::install`], which may be tried again behind another error, a full volume say. Once
    /// it was installed it is of no more use.
    pub fn try_install(&mut self) -> Result<Group, Error> {
        if !self.whole || self.applied.is_none() {
            return Err(refuse("a snapshot is not whole"));
        }
        if !self.taken_in {
            self.group.store.take_in(&self.files)?;
            self.taken_in = true;
        }
        self.group.flip(self.scope)
    }
}

fn rest(since: Instant, max: Duration) {
    let rest = since.elapsed().min(max);
    if !rest.is_zero() {
        std::thread::sleep(rest);
    }
}

/// Why a row can't follow another in this scope, if it can't.
fn unfit(before: &[u8], row: &[u8], scope: &[u8]) -> Option<&'static str> {
    if !row.starts_with(scope) {
        return Some("is out of the snapshot's range");
    }
    (row <= before).then_some("is not above the one before it")
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.checker = FileReader::default();
        // Files that were taken in are gone from here; what is left is nobody's.
        let _ = fs::remove_dir_all(&self.dir);
    }
}
