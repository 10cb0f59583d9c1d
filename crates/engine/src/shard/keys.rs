//! The versions of keys, looked up and scanned.
//!
//! All versions of a key stand together, the newest first. A look-up is a seek
//! to (key, revision) and one row. A scan walks the rows and tells of one
//! version a key, or that there is none; where a key has many it does not care for, it stops
//! stepping and seeks behind them, so that a scan costs what it returns and
//! passes, and not what was ever written. It says what that was: whoever asked bounds it.
//!
//! Left out: rows that were deleted in RocksDB and not compacted away yet, which it passes
//! by itself and does not count.

use std::ops::ControlFlow;

use bytes::Bytes;
use stemedb_machine::shard::{BucketNumber, Head, KeyWalk, PassedKey, Version};
use stemedb_types::{Key, Revision};

use super::corrupt;
use super::values::decode_version;
use crate::rows::{Kind, Range, take_text};
use crate::store::Seeker;
use crate::{Error, Group};

/// So many rows in a run are stepped over before it is cheaper to seek behind them.
const STEPS_MAX: usize = 16;

type Visit<'v> = &'v mut dyn FnMut(PassedKey) -> ControlFlow<()>;

/// A version whose value outlives the row it stood in.
pub(super) fn version(head: Head, value: &[u8]) -> Version {
    Version { head, value: Bytes::copy_from_slice(value) }
}

/// What a version row's name says: the part that all versions of the key share, and which it is.
fn split_name(row: &[u8]) -> Result<(&[u8], Revision), Error> {
    let (name, inverted) =
        row.split_last_chunk::<8>().ok_or_else(|| corrupt("a version", "its name is too short"))?;
    Ok((name, Revision(!u64::from_be_bytes(*inverted))))
}

fn read<T>(
    value: &[u8],
    revision: Revision,
    read: impl FnOnce(Head, &[u8]) -> T,
) -> Result<T, Error> {
    let (head, value) =
        decode_version(value, revision).map_err(|cause| corrupt("a version", cause))?;
    Ok(read(head, value))
}

/// The name of the version of a revision: the first of those at or below it.
fn at(name: &[u8], as_of: Revision) -> Vec<u8> {
    [name, &(!as_of.0).to_be_bytes()].concat()
}

/// What a scan does after a row.
enum Step {
    /// Takes the next row.
    Next,
    /// Begins again from here, because the rows before it don't matter; against the order: up to here.
    Jump(Vec<u8>),
    /// The visitor has enough.
    Stop,
}

impl From<ControlFlow<()>> for Step {
    fn from(flow: ControlFlow<()>) -> Self {
        if flow.is_break() { Step::Stop } else { Step::Next }
    }
}

impl Group {
    /// The newest version of a key at or below a revision, handed to `read` where it stands.
    pub(super) fn newest<T>(
        &self,
        bucket: BucketNumber,
        key: &Key,
        as_of: Revision,
        read: impl FnOnce(Head, &[u8]) -> T,
    ) -> Result<Option<T>, Error> {
        self.newest_of(&self.scope.versions(bucket, key.as_bytes()).into_bytes(), as_of, read)
    }

    /// The same, by the part of the name that all versions of the key share.
    fn newest_of<T>(
        &self,
        name: &[u8],
        as_of: Revision,
        take: impl FnOnce(Head, &[u8]) -> T,
    ) -> Result<Option<T>, Error> {
        let range = Range { start: at(name, as_of), end: Range::prefix(name).end };
        let mut take = Some(take);
        let mut found = Ok(None);
        self.scan(&range, false, &mut |row, value| {
            if let Some(take) = take.take() {
                let name = split_name(row);
                found = name.and_then(|(_, revision)| read(value, revision, take)).map(Some);
            }
            ControlFlow::Break(())
        })?;
        found
    }

    /// [`Group::newest`] of now, looked up with a seeker of the group's rows.
    pub(super) fn newest_head(
        &self,
        rows: &mut dyn Seeker,
        bucket: BucketNumber,
        key: &Key,
    ) -> Result<Option<Head>, Error> {
        let name = self.scope.versions(bucket, key.as_bytes()).into_bytes();
        match rows.seek(&name)? {
            Some((row, value)) if row.starts_with(&name) => {
                let (_, revision) = split_name(row)?;
                read(value, revision, |head, _| head).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// See [`View::walk_keys`](stemedb_machine::shard::View::walk_keys).
    pub(super) fn walk_versions(
        &self,
        bucket: BucketNumber,
        walk: &KeyWalk,
        visit: Visit<'_>,
    ) -> Result<(), Error> {
        let base = || self.scope.row(Kind::Version).u32(bucket.0);
        let mut rows = Range {
            start: base().text_prefix(&walk.range.start).into_bytes(),
            end: match &walk.range.end {
                Some(end) => base().text_prefix(end).into_bytes(),
                None => base().into_prefix().end,
            },
        };
        let base_bytes = base().into_bytes().len();
        let teller = Teller { base_bytes, keys_only: walk.keys_only, rows: 0, bytes: 0, visit };
        if !walk.reverse {
            let going_by = Vec::new();
            let mut scan = Forward { as_of: walk.as_of, going_by, told: true, steps: 0, teller };
            while let Some(start) = self.steps(&rows, false, |row, value| scan.row(row, value))? {
                rows.start = start;
            }
            return Ok(());
        }
        let mut scan = Reverse { group: self, as_of: walk.as_of, held: None, steps: 0, teller };
        while let Some(end) = self.steps(&rows, true, |row, value| scan.row(row, value))? {
            rows.end = end;
        }
        scan.tell().map(|_| ())
    }

    /// Steps over rows until there are none left, or `step` stops. Returns where to begin again if
    /// it wants to jump.
    fn steps(
        &self,
        rows: &Range,
        reverse: bool,
        mut step: impl FnMut(&[u8], &[u8]) -> Result<Step, Error>,
    ) -> Result<Option<Vec<u8>>, Error> {
        let mut outcome = Ok(None);
        self.scan(rows, reverse, &mut |row, value| {
            outcome = match step(row, value) {
                Ok(Step::Next) => return ControlFlow::Continue(()),
                Ok(Step::Stop) => Ok(None),
                Ok(Step::Jump(to)) => Ok(Some(to)),
                Err(error) => Err(error),
            };
            ControlFlow::Break(())
        })?;
        outcome
    }
}

/// Tells of one key after another, and of what each took.
struct Teller<'v> {
    base_bytes: usize,
    keys_only: bool,
    /// Come by since the last key that was told of.
    rows: usize,
    bytes: usize,
    visit: Visit<'v>,
}

impl Teller<'_> {
    fn count(&mut self, row: &[u8], value: &[u8]) {
        self.rows += 1;
        self.bytes += row.len() + value.len();
    }

    /// A seek behind rows is made where it costs about as much as stepping over them.
    fn count_seek(&mut self) {
        self.rows += STEPS_MAX;
    }

    /// What is told of a version: nothing of one that says that the key is gone.
    fn found(&self, revision: Revision, value: &[u8]) -> Result<Option<Version>, Error> {
        read(value, revision, |head, value| {
            let value = if self.keys_only { &[] } else { value };
            (!head.deleted).then(|| version(head, value))
        })
    }

    fn tell(&mut self, name: &[u8], version: Option<Version>) -> Result<ControlFlow<()>, Error> {
        let part = name.get(self.base_bytes..).and_then(take_text);
        let (key, _) = part
            .filter(|(_, rest)| rest.is_empty())
            .ok_or_else(|| corrupt("a version", "its name does not parse"))?;
        let key = Key::new(key).map_err(|cause| corrupt("a key", cause))?;
        let (rows, bytes) = (std::mem::take(&mut self.rows), std::mem::take(&mut self.bytes));
        Ok((self.visit)(PassedKey { key, version, rows, bytes }))
    }
}

/// In key order: the first version at or below `as_of` is a key's.
struct Forward<'v> {
    as_of: Revision,
    /// The name of the key that is going by; empty before the first.
    going_by: Vec<u8>,
    /// Whether it was told of.
    told: bool,
    steps: usize,
    teller: Teller<'v>,
}

impl Forward<'_> {
    fn row(&mut self, row: &[u8], value: &[u8]) -> Result<Step, Error> {
        let (name, revision) = split_name(row)?;
        if name != self.going_by {
            // The key before has no version that is old enough.
            if !self.told && self.teller.tell(&self.going_by, None)?.is_break() {
                return Ok(Step::Stop);
            }
            self.going_by.clear();
            self.going_by.extend_from_slice(name);
            (self.told, self.steps) = (false, 0);
        }
        self.teller.count(row, value);
        if self.told || revision > self.as_of {
            self.steps += 1;
            if self.steps < STEPS_MAX {
                return Ok(Step::Next);
            }
            self.steps = 0;
            self.teller.count_seek();
            let to = if self.told { Range::prefix(name).end } else { at(name, self.as_of) };
            return Ok(Step::Jump(to));
        }
        (self.told, self.steps) = (true, 0);
        let found = self.teller.found(revision, value)?;
        self.teller.tell(name, found).map(Step::from)
    }
}

/// Against key order: the oldest version comes first, and the last at or below `as_of` is a key's.
struct Reverse<'v> {
    group: &'v Group,
    as_of: Revision,
    /// The key that is going by, and the best version of it so far.
    held: Option<(Vec<u8>, Option<Version>)>,
    steps: usize,
    teller: Teller<'v>,
}

impl Reverse<'_> {
    fn row(&mut self, row: &[u8], value: &[u8]) -> Result<Step, Error> {
        let (name, revision) = split_name(row)?;
        if self.held.as_ref().is_none_or(|(held, _)| held != name) {
            if self.tell()?.is_break() {
                return Ok(Step::Stop);
            }
            self.held = Some((name.to_vec(), None));
            self.steps = 0;
        }
        self.teller.count(row, value);
        let Some((_, best)) = &mut self.held else { return Ok(Step::Next) };
        self.steps += 1;
        if self.steps >= STEPS_MAX {
            self.teller.count_seek();
            let teller = &self.teller;
            let newest = self.group.newest_of(name, self.as_of, |head, value| {
                let value = if teller.keys_only { &[] } else { value };
                (!head.deleted).then(|| version(head, value))
            })?;
            *best = newest.flatten();
            let name = name.to_vec();
            return Ok(if self.tell()?.is_break() { Step::Stop } else { Step::Jump(name) });
        }
        if revision <= self.as_of {
            *best = self.teller.found(revision, value)?;
        }
        Ok(Step::Next)
    }

    /// Tells of the held key; nothing is held after.
    fn tell(&mut self) -> Result<ControlFlow<()>, Error> {
        match self.held.take() {
            Some((name, version)) => self.teller.tell(&name, version),
            None => Ok(ControlFlow::Continue(())),
        }
    }
}
