//! The trait over an ordered map that forgets what is not flushed: for simulation, and as the
//! plain twin that RocksDB is compared with.
//!
//! A process may run thousands of these. A crash ([`MapStore::after_crash`]) is decided by chance:
//! what was flushed is there, and of the batches behind it some number from the front, as RocksDB
//! may have flushed by itself. Files of rows, which a snapshot travels as, lie in a folder that the
//! owner gives; they are of a plain format of its own, with one checksum.
//!
//! Left out: old versions stay for ever (nothing compacts), and a crash in the middle of
//! [`Store::take_in`] is before or behind it. Frozen views copy their range.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::bloom;
use crate::files::FileReader;
use crate::filter::Floors;
use crate::rows::{Range, Row};
use crate::store::{Cursor, Fill, Health, Pace, RowRef, Rows, Seeker, Store, Visit};
use crate::{Error, io};

type Map = BTreeMap<Vec<u8>, Bytes>;

/// An ordered map that forgets.
pub struct MapStore {
    dir: PathBuf,
    staged: AtomicU64,
    floors: Floors,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    rows: Arc<Map>,
    /// What a crash can't take.
    durable: Arc<Map>,
    /// What it can: the batches since, oldest first.
    unflushed: Vec<Batch>,
}

impl State {
    /// Writes the batches a second time, rather than share one map that the next write would copy.
    fn flush(&mut self) {
        let durable = Arc::make_mut(&mut self.durable);
        self.unflushed.drain(..).for_each(|batch| batch.apply(durable));
    }
}

/// A batch as it was written.
#[derive(Clone)]
struct Batch {
    range_deletes: Vec<Range>,
    deletes: Vec<Vec<u8>>,
    puts: Vec<(Vec<u8>, Bytes)>,
}

impl Batch {
    fn apply(&self, rows: &mut Map) {
        for range in &self.range_deletes {
            let gone: Vec<Vec<u8>> = within(rows, range).map(|(row, _)| row.clone()).collect();
            gone.iter().for_each(|row| drop(rows.remove(row)));
        }
        for row in &self.deletes {
            rows.remove(row);
        }
        for (row, value) in &self.puts {
            rows.insert(row.clone(), value.clone());
        }
    }

    /// Whether it says anything of a row between these two.
    fn touches(&self, first: &[u8], last: &[u8]) -> bool {
        let between = |row: &[u8]| first <= row && row <= last;
        self.range_deletes
            .iter()
            .any(|range| range.start.as_slice() <= last && range.end.as_slice() > first)
            || self.deletes.iter().any(|row| between(row))
            || self.puts.iter().any(|(row, _)| between(row))
    }
}

fn within<'m>(
    rows: &'m Map,
    range: &Range,
) -> impl DoubleEndedIterator<Item = (&'m Vec<u8>, &'m Bytes)> {
    // An empty range of a map is one that panics if it ends before it starts.
    let end = if range.is_empty() { &range.start } else { &range.end };
    rows.range::<[u8], _>((
        Bound::Included(range.start.as_slice()),
        Bound::Excluded(end.as_slice()),
    ))
}

impl MapStore {
    /// An empty store that keeps files of rows in `dir`, which must be there.
    pub fn new(dir: &Path) -> Self {
        Self::of(dir, Arc::default())
    }

    fn of(dir: &Path, rows: Arc<Map>) -> Self {
        let durable = Arc::new(Map::clone(&rows));
        let state = State { durable, rows, unflushed: Vec::new() };
        Self {
            dir: dir.to_owned(),
            staged: AtomicU64::new(0),
            floors: Floors::default(),
            state: Mutex::new(state),
        }
    }

    /// The store as a crash right now may leave it. `chance` returns a number below its argument,
    /// and is asked once if there is anything to lose. This one stays as it is; nobody should go on
    /// with it.
    pub fn after_crash(&self, chance: &mut dyn FnMut(u64) -> u64) -> Self {
        let state = self.state();
        let mut rows = state.durable.clone();
        if !state.unflushed.is_empty() {
            let kept = chance(state.unflushed.len() as u64 + 1) as usize;
            let map = Arc::make_mut(&mut rows);
            state.unflushed[..kept].iter().for_each(|batch| batch.apply(map));
        }
        Self::of(&self.dir, rows)
    }

    /// How many batches a crash could take.
    pub fn unflushed(&self) -> usize {
        self.state().unflushed.len()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for MapStore {
    fn get(&self, row: &Row) -> Result<Option<Bytes>, Error> {
        Ok(self.state().rows.get(row.as_slice()).cloned())
    }

    fn scan(&self, range: &Range, reverse: bool, visit: Visit<'_>) -> Result<(), Error> {
        let rows = self.state().rows.clone();
        let mut visit = |(row, value): (&Vec<u8>, &Bytes)| visit(row, value);
        let _ = if reverse {
            within(&rows, range).rev().try_for_each(&mut visit)
        } else {
            within(&rows, range).try_for_each(&mut visit)
        };
        Ok(())
    }

    fn seeker(&self, range: &Range) -> Box<dyn Seeker + '_> {
        Box::new(MapSeeker { rows: self.state().rows.clone(), range: range.clone(), found: None })
    }

    fn write(&self, rows: Rows) -> Result<(), Error> {
        let batch = Batch {
            range_deletes: rows.range_deletes,
            deletes: rows.deletes.into_iter().map(|row| row.0).collect(),
            puts: rows.puts.into_iter().map(|(row, value)| (row.0, value.into())).collect(),
        };
        let mut state = self.state();
        batch.apply(Arc::make_mut(&mut state.rows));
        state.unflushed.push(batch);
        Ok(())
    }

    fn durable(&self, row: &Row) -> Result<Option<Bytes>, Error> {
        Ok(self.state().durable.get(row.as_slice()).cloned())
    }

    fn flush(&self) -> Result<(), Error> {
        self.state().flush();
        Ok(())
    }

    fn frozen(&self, range: &Range) -> Box<dyn Cursor + '_> {
        let rows = self.state().rows.clone();
        let rows = within(&rows, range).map(|(row, value)| (row.clone(), value.clone())).collect();
        Box::new(MapCursor { rows, at: 0 })
    }

    fn staging(&self) -> Result<PathBuf, Error> {
        loop {
            let number = self.staged.fetch_add(1, Ordering::Relaxed);
            let dir = self.dir.join(format!("{number:08}"));
            match fs::create_dir(&dir) {
                Ok(()) => return Ok(dir),
                // What a crash left, or another store's of the same folder.
                Err(cause) if cause.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(cause) => return Err(io("stage", cause)),
            }
        }
    }

    fn write_file(&self, path: &Path, fill: Fill<'_>) -> Result<(), Error> {
        let mut bytes = Vec::new();
        fill(&mut |row, value| {
            for part in [row, value] {
                let length = u32::try_from(part.len()).map_err(|cause| io("stage", cause))?;
                bytes.extend_from_slice(&length.to_be_bytes());
                bytes.extend_from_slice(part);
            }
            Ok(())
        })?;
        let sum = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&sum.to_be_bytes());
        fs::write(path, bytes).map_err(|cause| io("stage", cause))
    }

    fn read_file(
        &self,
        path: &Path,
        _reader: &mut FileReader,
        visit: Visit<'_>,
    ) -> Result<(), Error> {
        for (row, value) in rows_of(path)? {
            if visit(&row, &value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn take_in(&self, files: &[PathBuf]) -> Result<(), Error> {
        let mut taken = Vec::new();
        for file in files {
            taken.extend(rows_of(file)?);
        }
        let mut state = self.state();
        if let (Some((first, _)), Some((last, _))) = (taken.first(), taken.last())
            && state.unflushed.iter().any(|batch| batch.touches(first, last))
        {
            // What was written there before must not come behind it.
            state.flush();
        }
        Arc::make_mut(&mut state.rows).extend(taken.iter().cloned());
        Arc::make_mut(&mut state.durable).extend(taken);
        drop(state);
        for file in files {
            fs::remove_file(file).map_err(|cause| io("ingest into", cause))?;
        }
        Ok(())
    }

    fn give_up(&self, range: &Range) -> Result<(), Error> {
        let mut rows = Rows::new();
        rows.delete_range(range.clone());
        self.write(rows)
    }

    fn disk_bytes(&self) -> u64 {
        self.state().durable.iter().map(|(row, value)| (row.len() + value.len()) as u64).sum()
    }

    fn approximate_bytes(&self, range: &Range) -> u64 {
        let durable = self.state().durable.clone();
        within(&durable, range).map(|(row, value)| (row.len() + value.len()) as u64).sum()
    }

    fn floors(&self) -> &Floors {
        &self.floors
    }

    fn free_bytes(&self) -> Result<u64, Error> {
        Ok(u64::MAX)
    }

    fn health(&self) -> Health {
        Health::Well
    }

    fn reopen(&self) -> Result<(), Error> {
        let mut state = self.state();
        state.rows = state.durable.clone();
        state.unflushed.clear();
        Ok(())
    }

    fn scrub(&self, range: &Range, pace: Pace<'_>) -> Result<u64, Error> {
        let durable = self.state().durable.clone();
        let bytes = within(&durable, range).map(|(row, value)| (row.len() + value.len()) as u64);
        let bytes = bytes.sum();
        let _ = pace(bytes);
        Ok(bytes)
    }
}

fn rows_of(path: &Path) -> Result<Vec<(Vec<u8>, Bytes)>, Error> {
    let bytes = fs::read(path).map_err(|cause| io("stage", cause))?;
    let refuse = |cause: &str| Error::Transfer { cause: cause.to_owned() };
    let (mut left, sum) = bytes.split_last_chunk::<4>().ok_or_else(|| refuse("too short"))?;
    if crc32fast::hash(left) != u32::from_be_bytes(*sum) {
        return Err(refuse("a file does not match its checksum"));
    }
    let mut part = || {
        let (length, rest) = left.split_first_chunk::<4>()?;
        let (part, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        left = rest;
        Some(part)
    };
    let mut rows: Vec<(Vec<u8>, Bytes)> = Vec::new();
    while let Some(row) = part() {
        let value = part().ok_or_else(|| refuse("a row has no value"))?;
        rows.push((row.to_vec(), Bytes::copy_from_slice(value)));
    }
    if !left.is_empty() {
        return Err(refuse("a file ends within a row"));
    }
    Ok(rows)
}

struct MapSeeker {
    rows: Arc<Map>,
    range: Range,
    found: Option<(Vec<u8>, Bytes)>,
}

impl Seeker for MapSeeker {
    fn seek(&mut self, name: &[u8]) -> Result<Option<RowRef<'_>>, Error> {
        let range = Range::between(name.max(self.range.start.as_slice()), &self.range.end);
        let first = within(&self.rows, &range).next();
        let first = first.filter(|(row, _)| bloom::finds(name, row));
        self.found = first.map(|(row, value)| (row.clone(), value.clone()));
        Ok(self.found.as_ref().map(|(row, value)| (row.as_slice(), value.as_ref())))
    }
}

struct MapCursor {
    rows: Vec<(Vec<u8>, Bytes)>,
    at: usize,
}

impl Cursor for MapCursor {
    fn seek(&mut self, name: &[u8]) -> Result<(), Error> {
        self.at = self.rows.partition_point(|(row, _)| row.as_slice() < name);
        Ok(())
    }

    fn row(&self) -> Option<RowRef<'_>> {
        self.rows.get(self.at).map(|(row, value)| (row.as_slice(), value.as_ref()))
    }

    fn next(&mut self) -> Result<(), Error> {
        self.at += 1;
        Ok(())
    }
}
