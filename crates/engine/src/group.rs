//! One group's part of the store: its generations and its applied mark.
//!
//! A group's rows carry a generation. A snapshot is staged under one that was
//! never used since the group was opened, and becomes the living one by one
//! pointer. The rows before it stay for as long as somebody reads them: they go with the last
//! handle on their generation, so that no read sees half of two states, or
//! nothing where there was something. What a crash leaves of other
//! generations goes at the next open.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use stemedb_machine::shard::BucketNumber;
use stemedb_types::{GroupId, Revision};

use crate::rows::{GROUP_BYTES, Range, SCOPE_BYTES, Scope, generation_row};
use crate::store::{Pace, Rows, Store, Visit};
use crate::{Error, Row};

/// One group's rows, of one generation. Cheap to clone; clones made before a snapshot was
/// installed go on reading the old generation, whole, and must be replaced to see the new one.
///
/// A group is opened once at a time: clones share what they know of generations, two opened apart
/// would sweep each other's snapshots.
#[derive(Clone)]
pub struct Group {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) scope: Scope,
    generation: Arc<Generation>,
    shared: Arc<Shared>,
}

/// The rows of one generation, while anyone holds a handle on them.
struct Generation {
    store: Arc<dyn Store>,
    scope: Scope,
    /// Another generation is the living one.
    replaced: AtomicBool,
}

/// What all handles on a group share.
struct Shared {
    /// The next generation that nothing was ever staged under.
    next: AtomicU32,
    living: Mutex<Arc<Generation>>,
}

/// The rows of one run of entries of one group.
#[derive(Debug)]
#[must_use = "nothing is written before the batch is committed"]
pub struct Batch {
    pub(crate) scope: Scope,
    pub(crate) rows: Rows,
    /// Rows of which only the run's last value counts: written once, whatever happened between.
    /// `None`: it goes.
    pub(crate) last: BTreeMap<Row, Option<Vec<u8>>>,
    /// The buckets whose floor goes up: their row, and how far.
    pub(crate) floors: BTreeMap<BucketNumber, (Row, Revision)>,
}

impl Group {
    /// Opens a group's part, empty if it was never written. Sweeps what a snapshot that was never
    /// installed, or one that was, left in other generations.
    pub fn open(store: Arc<dyn Store>, group: GroupId) -> Result<Self, Error> {
        Self::open_and_tell(store, group).map(|(group, _)| group)
    }

    /// [`Group::open`], and how many ranges of rows it swept.
    pub(crate) fn open_and_tell(
        store: Arc<dyn Store>,
        group: GroupId,
    ) -> Result<(Self, usize), Error> {
        let pointer = generation_row(group);
        let number = living_generation(store.get(&pointer)?)?;
        if living_generation(store.durable(&pointer)?)? != number {
            // An install that failed behind its pointer. What the sweep takes is gone at once; the
            // pointer must not go back to it with the next crash.
            store.flush()?;
        }
        let scope = Scope { group, generation: number };
        let mut swept = 0;
        for others in scope.other_generations() {
            swept += usize::from(sweep(store.as_ref(), &others)?);
        }
        let generation = Arc::new(Generation::living(store.clone(), scope));
        let shared = Shared {
            next: AtomicU32::new(number.wrapping_add(1)),
            living: Mutex::new(generation.clone()),
        };
        store.floors().forget(group);
        let opened = Self { store, scope, generation, shared: Arc::new(shared) };
        opened.learn_floors()?;
        Ok((opened, swept))
    }

    /// Which group this is.
    pub fn id(&self) -> GroupId {
        self.scope.group
    }

    /// Which generation of the group's rows this is. Each snapshot taken in from a peer makes
    /// another.
    pub fn generation(&self) -> u32 {
        self.scope.generation
    }

    /// About how many bytes of it are on disk: see [`Store::approximate_bytes`].
    pub fn approximate_bytes(&self) -> u64 {
        self.store.approximate_bytes(&self.scope.all())
    }

    /// Begins a batch.
    pub fn batch(&self) -> Batch {
        Batch {
            scope: self.scope,
            rows: Rows::new(),
            last: BTreeMap::new(),
            floors: BTreeMap::new(),
        }
    }

    /// Writes a batch and the mark that says how far it goes, together. Visible at once, durable
    /// with the next flush. On an error nothing of it is written, and the same batch may be
    /// committed again. Blocks while the store is behind with what it writes to disk.
    ///
    /// [`Error::Replaced`] if a snapshot has taken the place of this handle's generation.
    pub fn commit(&self, batch: Batch, applied: Vec<u8>) -> Result<(), Error> {
        self.commit_with(batch, applied, |store, rows| store.write(rows))
    }

    /// [`Group::commit`], but [`Error::Behind`] where that would block.
    pub fn commit_now(&self, batch: Batch, applied: Vec<u8>) -> Result<(), Error> {
        self.commit_with(batch, applied, |store, rows| store.write_now(rows))
    }

    fn commit_with(
        &self,
        mut batch: Batch,
        applied: Vec<u8>,
        write: impl FnOnce(&dyn Store, Rows) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if batch.scope != self.scope || self.generation.replaced.load(Ordering::Acquire) {
            return Err(Error::Replaced { group: self.scope.group });
        }
        for (row, value) in batch.last {
            match value {
                Some(value) => batch.rows.put(row, value),
                None => batch.rows.delete(row),
            }
        }
        self.let_go(&mut batch.rows, &batch.floors)?;
        batch.rows.put(self.scope.applied(), applied);
        let floors = self.store.floors();
        let announced = batch.floors.iter().map(|(bucket, (row, floor))| {
            let before = floors.announce(self.scope, *bucket, row, *floor);
            (*bucket, before)
        });
        let announced: Vec<(BucketNumber, Revision)> = announced.collect();
        if let Err(error) = write(self.store.as_ref(), batch.rows) {
            for (bucket, before) in announced {
                floors.retract(self.scope, bucket, before);
            }
            return Err(error);
        }
        // Those of earlier batches: this one is not durable yet. It is written all the same, and
        // whoever took an error for the contrary would apply it twice.
        if !batch.floors.is_empty()
            && let Err(error) = self.settle_floors()
        {
            tracing::warn!(group = %self.scope.group, %error, "old versions stay until the next floor");
        }
        Ok(())
    }

    /// The mark of the newest batch.
    pub fn applied(&self) -> Result<Option<Bytes>, Error> {
        self.store.get(&self.scope.applied())
    }

    /// The mark of the newest batch that a crash can't take back.
    pub fn durable_applied(&self) -> Result<Option<Bytes>, Error> {
        self.settle_floors()?;
        self.store.durable(&self.scope.applied())
    }

    /// Reads everything of the group's living generation that is on disk, from the disk, and checks
    /// it: [`Store::scrub`]. What is nobody's: [`scrub_rest`].
    pub fn scrub(&self, pace: Pace<'_>) -> Result<u64, Error> {
        self.store.scrub(&self.scope.all(), pace)
    }

    /// The store behind the group.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    pub(crate) fn get(&self, row: &Row) -> Result<Option<Bytes>, Error> {
        self.store.get(row)
    }

    pub(crate) fn scan(&self, range: &Range, reverse: bool, visit: Visit<'_>) -> Result<(), Error> {
        self.store.scan(range, reverse, visit)
    }

    /// A generation of this group that holds nothing: where a snapshot is staged.
    pub(crate) fn unused_generation(&self) -> Scope {
        let generation = self.shared.next.fetch_add(1, Ordering::Relaxed);
        Scope { generation, ..self.scope }
    }

    /// Makes a staged generation the living one, durably; the one before it goes with its last
    /// reader. On an error the one before is the living one still.
    pub(crate) fn flip(&self, to: Scope) -> Result<Group, Error> {
        let mut living = self.shared.living.lock().unwrap_or_else(PoisonError::into_inner);
        let generation = Arc::new(Generation::living(self.store.clone(), to));
        let store = self.store.clone();
        let group =
            Group { store, scope: to, generation: generation.clone(), shared: self.shared.clone() };
        // All that can fail for another reason than the disk comes before the pointer.
        group.learn_floors()?;
        if let Err(error) = self.point_to(to).and_then(|()| self.store.flush()) {
            self.store.floors().forget_generation(to);
            // The next flush, whoever asks for it, must not turn to rows that nobody keeps up to date.
            if let Err(error) = self.point_to(living.scope) {
                tracing::warn!(group = %to.group, %error, "the pointer to a failed install stays");
            }
            return Err(error);
        }
        let before = std::mem::replace(&mut *living, generation);
        before.replaced.store(true, Ordering::Release);
        // It may be the last handle, and sweeps.
        drop(living);
        drop(before);
        Ok(group)
    }

    /// Writes which generation is the living one.
    fn point_to(&self, to: Scope) -> Result<(), Error> {
        let mut rows = Rows::new();
        rows.put(generation_row(to.group), to.generation.to_be_bytes().to_vec());
        self.store.write(rows)
    }
}

/// Reads everything on disk that is none of these groups' rows, from the disk, and checks it: the
/// node's own rows, which say which generations live, and those of other generations and groups.
/// `pace` and what is returned: as of [`Store::scrub`].
pub fn scrub_rest(store: &dyn Store, groups: Vec<Group>, pace: Pace<'_>) -> Result<u64, Error> {
    // The handles are given back first: a walk may take hours, and rows go with the last of them.
    let rest = between(groups.into_iter().map(|group| group.scope));
    store.scrub_ranges(&rest, pace)
}

/// The ranges that hold every row but those of these scopes.
fn between(scopes: impl IntoIterator<Item = Scope>) -> Vec<Range> {
    let mut taken: Vec<Range> = scopes.into_iter().map(Scope::all).collect();
    taken.sort_by(|a, b| a.start.cmp(&b.start));
    let mut rest = Vec::with_capacity(taken.len() + 1);
    let mut start = Vec::new();
    for range in taken {
        rest.push(Range { start, end: range.start });
        start = range.end;
    }
    rest.push(Range { start, end: Range::all().end });
    rest.retain(|range| !range.is_empty());
    rest
}

impl Generation {
    fn living(store: Arc<dyn Store>, scope: Scope) -> Self {
        Self { store, scope, replaced: AtomicBool::new(false) }
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        if !self.replaced.load(Ordering::Acquire) {
            return;
        }
        self.store.floors().forget_generation(self.scope);
        if let Err(error) = sweep(self.store.as_ref(), &self.scope.all()) {
            tracing::warn!(%error, "a replaced generation stays until the next start");
        }
    }
}

/// Takes away everything that the store has of a group, durably: what a replica left behind is not
/// the next one's. The group must not be open.
///
/// The next one begins in another generation: a damaged block of this one may live on in a file
/// that other groups' rows keep, and must not be met among the rows of the next.
///
/// A range deletion lies above everything in its range until compactions have carried it down, and
/// holds files of a snapshot on the first level meanwhile, to be written once more. So none is written where
/// there is nothing, and none over the generations that come next.
pub fn wipe(store: &Arc<dyn Store>, group: GroupId) -> Result<(), Error> {
    store.floors().forget(group);
    let pointer = generation_row(group);
    let before = store.get(&pointer).and_then(living_generation);
    let Ok(living) = before else {
        // The pointer itself is damaged. It goes behind the rows: as long as it is there, a wipe that
        // failed is not taken for one that had nothing to do.
        store.give_up(&Range::prefix(&group.0.to_be_bytes()))?;
        let mut rows = Rows::new();
        rows.delete(pointer);
        store.write(rows)?;
        return store.flush();
    };
    let (last, gone) = match last_generation(store.as_ref(), group) {
        Ok(None) if is_unknown(store.as_ref(), group)? => return Ok(()),
        // All that ever was is gone, durably once this is flushed.
        Ok(None) => (living, None),
        Ok(Some(last)) => {
            let last = last.max(living);
            let upto = Scope { group, generation: last }.all().end;
            (last, Some(Range { start: group.0.to_be_bytes().to_vec(), end: upto }))
        }
        // Among rows that can't be read nobody knows which the last are.
        Err(_) => (living, Some(Range::prefix(&group.0.to_be_bytes()))),
    };
    // The pointer before the rows: whatever breaks off in between, it says that there was something,
    // and what a crash leaves of other generations goes at the next open.
    let mut rows = Rows::new();
    rows.put(pointer, last.wrapping_add(1).to_be_bytes().to_vec());
    store.write(rows)?;
    if let Some(gone) = gone {
        store.give_up(&gone)?;
    }
    store.flush()
}

/// The last generation that the store has rows of.
fn last_generation(store: &dyn Store, group: GroupId) -> Result<Option<u32>, Error> {
    let mut last = None;
    store.scan(&Range::prefix(&group.0.to_be_bytes()), true, &mut |row, _| {
        last = row.get(GROUP_BYTES..SCOPE_BYTES).map(decode_generation);
        ControlFlow::Break(())
    })?;
    last.transpose()
}

/// Whether there is no pointer, and a crash would bring back neither one nor rows of the first
/// generation, which lives without one: a wipe that failed may have deleted them without a flush.
fn is_unknown(store: &dyn Store, group: GroupId) -> Result<bool, Error> {
    let pointer = generation_row(group);
    let first = Scope { group, generation: 0 }.applied();
    // One that can't be read is none of an unknown group.
    let is_none = |row: Result<Option<Bytes>, Error>| row.is_ok_and(|row| row.is_none());
    Ok(store.get(&pointer)?.is_none()
        && is_none(store.durable(&pointer))
        && is_none(store.durable(&first)))
}

/// Drops every row of a range; whether there was one.
fn sweep(store: &dyn Store, range: &Range) -> Result<bool, Error> {
    let mut found = false;
    store.scan(range, false, &mut |_, _| {
        found = true;
        ControlFlow::Break(())
    })?;
    if found {
        store.give_up(range)?;
    }
    Ok(found)
}

/// What a pointer says; a group without one has never taken a snapshot in.
fn living_generation(pointer: Option<Bytes>) -> Result<u32, Error> {
    pointer.map_or(Ok(0), |bytes| decode_generation(&bytes))
}

pub(crate) fn decode_generation(bytes: &[u8]) -> Result<u32, Error> {
    let bytes = bytes.try_into().map_err(|_| Error::Corrupt {
        what: "a generation pointer",
        cause: format!("{} bytes long, not 4", bytes.len()),
    })?;
    Ok(u32::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_between_the_scopes_is_every_row_but_theirs() {
        let scope = |group, generation| Scope { group: GroupId(group), generation };
        let held = [scope(7, 3), scope(0, 0), scope(7, 4), scope(2, u32::MAX)];
        let rest = between(held);
        let rows = |scope: Scope| [scope.applied(), scope.next_bucket()];
        let within = |row: &Row| rest.iter().filter(|r| r.start <= row.0 && row.0 < r.end).count();
        for group in [0, 1, 2, 3, 6, 7, 8, u32::MAX - 1] {
            for generation in [0, 1, 2, 3, 4, 5, u32::MAX] {
                let one = scope(group, generation);
                let wanted = usize::from(!held.contains(&one));
                assert_eq!(rows(one).map(|row| within(&row)), [wanted; 2], "{one:?}");
            }
            assert_eq!(within(&generation_row(GroupId(group))), 1);
        }
        assert_eq!(between([]), [Range::all()]);
    }
}
