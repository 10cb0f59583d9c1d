//! The versions of keys, looked up and scanned.
//!
//! All versions of a key stand together, the newest first. A look-up is a seek
//! to (key, revision) and one row. A scan walks the rows and hands on one
//! version a key; where a key has many it does not care for, it stops
//! stepping and seeks behind them, so that a scan costs what it returns and
//! passes, and not what was ever written.

use std::ops::ControlFlow;

use bytes::Bytes;
use stemedb_machine::shard::{BucketNumber, Head, KeyRange, KeyRow, Version};
use stemedb_types::{Key, Revision};

use super::corrupt;
use super::values::decode_version;
use crate::rows::{Kind, Range, take_text};
use crate::store::Seeker;
use crate::{Error, Group};

/// So many rows in a run are stepped over before it is cheaper to seek behind them.
const STEPS_MAX: usize = 16;

type Visit<'v> = &'v mut dyn FnMut(KeyRow) -> ControlFlow<()>;

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

    /// Visits the keys of a range that are there at a revision, in key order or against it.
    pub(super) fn scan_versions(
        &self,
        bucket: BucketNumber,
        range: &KeyRange,
        as_of: Revision,
        reverse: bool,
        visit: Visit<'_>,
    ) -> Result<(), Error> {
        let base = || self.scope.row(Kind::Version).u32(bucket.0);
        let mut rows = Range {
            start: base().text_prefix(&range.start).into_bytes(),
            end: match &range.end {
                Some(end) => base().text_prefix(end).into_bytes(),
                None => base().into_prefix().end,
            },
        };
        let base_bytes = base().into_bytes().len();
        if !reverse {
            let mut scan = Forward { as_of, base_bytes, decided: Vec::new(), steps: 0, visit };
            while let Some(start) = self.steps(&rows, false, |row, value| scan.row(row, value))? {
                rows.start = start;
            }
            return Ok(());
        }
        let mut scan = Reverse { group: self, as_of, base_bytes, held: None, steps: 0, visit };
        while let Some(end) = self.steps(&rows, true, |row, value| scan.row(row, value))? {
            rows.end = end;
        }
        scan.emit().map(|_| ())
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

/// In key order: the first version at or below `as_of` is a key's.
struct Forward<'v> {
    as_of: Revision,
    base_bytes: usize,
    /// The name of the key that was decided last; its other versions are passed.
    decided: Vec<u8>,
    steps: usize,
    visit: Visit<'v>,
}

impl Forward<'_> {
    fn row(&mut self, row: &[u8], value: &[u8]) -> Result<Step, Error> {
        let (name, revision) = split_name(row)?;
        let older = name == self.decided;
        if older || revision > self.as_of {
            self.steps += 1;
            if self.steps < STEPS_MAX {
                return Ok(Step::Next);
            }
            self.steps = 0;
            let to = if older { Range::prefix(name).end } else { at(name, self.as_of) };
            return Ok(Step::Jump(to));
        }
        self.steps = 0;
        self.decided.clear();
        self.decided.extend_from_slice(name);
        emit(name, self.base_bytes, read(value, revision, version)?, self.visit).map(Step::from)
    }
}

/// Against key order: the oldest version comes first, and the last at or below `as_of` is a key's.
struct Reverse<'v> {
    group: &'v Group,
    as_of: Revision,
    base_bytes: usize,
    /// The key that is going by, and the best version of it so far.
    held: Option<(Vec<u8>, Option<Version>)>,
    steps: usize,
    visit: Visit<'v>,
}

impl Reverse<'_> {
    fn row(&mut self, row: &[u8], value: &[u8]) -> Result<Step, Error> {
        let (name, revision) = split_name(row)?;
        if self.held.as_ref().is_none_or(|(held, _)| held != name) {
            if self.emit()?.is_break() {
                return Ok(Step::Stop);
            }
            self.held = Some((name.to_vec(), None));
            self.steps = 0;
        }
        let Some((_, best)) = &mut self.held else { return Ok(Step::Next) };
        self.steps += 1;
        if self.steps >= STEPS_MAX {
            *best = self.group.newest_of(name, self.as_of, version)?;
            let name = name.to_vec();
            return Ok(if self.emit()?.is_break() { Step::Stop } else { Step::Jump(name) });
        }
        if revision <= self.as_of {
            *best = Some(read(value, revision, version)?);
        }
        Ok(Step::Next)
    }

    /// Hands the held version on; nothing is held after.
    fn emit(&mut self) -> Result<ControlFlow<()>, Error> {
        match self.held.take() {
            Some((name, Some(version))) => emit(&name, self.base_bytes, version, self.visit),
            _ => Ok(ControlFlow::Continue(())),
        }
    }
}

/// Hands a version on, unless it says that the key is gone.
fn emit(
    name: &[u8],
    base_bytes: usize,
    version: Version,
    visit: Visit<'_>,
) -> Result<ControlFlow<()>, Error> {
    if version.head.deleted {
        return Ok(ControlFlow::Continue(()));
    }
    let part = name.get(base_bytes..).and_then(take_text).filter(|(_, rest)| rest.is_empty());
    let (key, _) = part.ok_or_else(|| corrupt("a version", "its name does not parse"))?;
    let key = Key::new(key).map_err(|cause| corrupt("a key", cause))?;
    Ok(visit(KeyRow { key, version }))
}
