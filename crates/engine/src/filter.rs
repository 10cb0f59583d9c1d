//! History let go of: which old versions RocksDB may drop while it compacts.
//!
//! A bucket has a floor (`BucketState::compacted`), moved up by a replicated command. Of each key only
//! the newest version at or below it can still be seen, and whatever is above it. The rest is dead: it
//! goes when a compaction comes by, or never; nothing may depend on when.
//!
//! **What makes it safe.** A filter sees the rows of one compaction, in order, one key's versions from
//! the newest to the oldest. It drops a version if it has passed one of the same key that is newer and
//! also at or below the floor. The rows of a group are of one committed history: that newer version was
//! written, and no read at or above the floor can look behind it. The newest at or below the floor has
//! none that is newer, so no filter ever drops it, wherever the others lie. A version above the
//! floor, so the head of any key that was written since, is never dropped either.
//!
//! **Only floors that a crash can't take back count.** A crash goes back to the last flush; were
//! history gone by a floor that was applied but not flushed, the state that is left would have holes
//! above its own floor. So a floor is first announced (reads that began before it look again whether it
//! is written by now, and if so begin again; one whose write failed is taken back), and settled, which is
//! when filters use it, once the bucket's row is read back from what is durable.
//!
//! **Snapshots.** Filters pay no heed to RocksDB's snapshots. One iterator is safe, it holds on to
//! the files it began with; a second one made later under the same snapshot might miss rows. Rows
//! are sent and compared over one iterator only.
//!
//! **Deletions.** A key that is gone leaves one version that says so, and that may be dropped only
//! after everything older. A filter can't know that (its files are not all files; the crate tells it
//! no more than whether they happen to be). So it keeps them, and they are deleted by a write when
//! the floor passes them: the thin log names them (`shard::floor`). Rows written that way obey
//! snapshots and crashes like any others.

use std::collections::HashMap;
use std::ffi::CStr;
use std::sync::{Arc, PoisonError, RwLock};

use rocksdb::CompactionDecision;
use rocksdb::compaction_filter::CompactionFilter;
use rocksdb::compaction_filter_factory::{CompactionFilterContext, CompactionFilterFactory};
use stemedb_machine::shard::BucketNumber;
use stemedb_types::{GroupId, Revision};

use crate::rows::{Kind, Row, SCOPE_BYTES, Scope};

/// The floors of all buckets that have one. Shared by a store, its filters and its groups.
#[derive(Default)]
pub struct Floors {
    buckets: RwLock<HashMap<Place, Floor>>,
}

/// A bucket of a group of a generation: the bytes its rows have around their kind.
type Place = [u8; SCOPE_BYTES + 4];

struct Floor {
    /// Where it can be read what is durable.
    row: Row,
    /// Reads below it may miss something.
    announced: Revision,
    /// Filters may drop below it. Never above `announced`.
    settled: Revision,
}

fn place(scope: Scope, bucket: BucketNumber) -> Place {
    let mut place = [0; SCOPE_BYTES + 4];
    place[..SCOPE_BYTES].copy_from_slice(&scope.bytes());
    place[SCOPE_BYTES..].copy_from_slice(&bucket.0.to_be_bytes());
    place
}

impl Floors {
    /// A floor that is about to be written: said before it is, so that no reader misses it. Returns
    /// the one that was announced before.
    pub(crate) fn announce(
        &self,
        scope: Scope,
        bucket: BucketNumber,
        row: &Row,
        floor: Revision,
    ) -> Revision {
        let mut buckets = self.buckets.write().unwrap_or_else(PoisonError::into_inner);
        let fresh = || Floor { row: row.clone(), announced: Revision(0), settled: Revision(0) };
        let known = buckets.entry(place(scope, bucket)).or_insert_with(fresh);
        let before = known.announced;
        known.announced = before.max(floor);
        before
    }

    /// The floor that was announced last was not written: the one before it stands.
    pub(crate) fn retract(&self, scope: Scope, bucket: BucketNumber, before: Revision) {
        let mut buckets = self.buckets.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = buckets.get_mut(&place(scope, bucket)) {
            known.announced = before.max(known.settled);
        }
    }

    /// A floor that was read back from what is durable.
    pub(crate) fn settle(&self, scope: Scope, bucket: BucketNumber, durable: Revision) {
        let mut buckets = self.buckets.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = buckets.get_mut(&place(scope, bucket)) {
            known.settled = known.settled.max(durable).min(known.announced);
        }
    }

    /// The rows of a group's buckets whose floor is not known to be durable.
    pub(crate) fn unsettled(&self, scope: Scope) -> Vec<Row> {
        let buckets = self.buckets.read().unwrap_or_else(PoisonError::into_inner);
        let own = buckets.iter().filter(|(place, _)| place.starts_with(&scope.bytes()));
        own.filter(|(_, floor)| floor.settled < floor.announced)
            .map(|(_, floor)| floor.row.clone())
            .collect()
    }

    /// Below this, what was looked up so far may have missed something.
    pub(crate) fn announced(&self, scope: Scope, bucket: BucketNumber) -> Revision {
        let buckets = self.buckets.read().unwrap_or_else(PoisonError::into_inner);
        buckets.get(&place(scope, bucket)).map_or(Revision(0), |floor| floor.announced)
    }

    /// Forgets a group, all generations of it: its rows are about to be looked at anew.
    pub(crate) fn forget(&self, group: GroupId) {
        let mut buckets = self.buckets.write().unwrap_or_else(PoisonError::into_inner);
        buckets.retain(|place, _| !place.starts_with(&group.0.to_be_bytes()));
    }

    /// Forgets a generation whose rows go: its number may come again, over other rows.
    pub(crate) fn forget_generation(&self, scope: Scope) {
        let mut buckets = self.buckets.write().unwrap_or_else(PoisonError::into_inner);
        buckets.retain(|place, _| !place.starts_with(&scope.bytes()));
    }

    fn settled(&self, place: &Place) -> Revision {
        let buckets = self.buckets.read().unwrap_or_else(PoisonError::into_inner);
        buckets.get(place).map_or(Revision(0), |floor| floor.settled)
    }
}

/// Decides row by row, in order, which versions are dead. Begin a new one for each walk.
#[derive(Default)]
pub(crate) struct Trim {
    /// The bucket going by, and its floor.
    bucket: Option<(Place, Revision)>,
    /// The name, without its revision, of the last version at or below the floor that was passed.
    passed: Vec<u8>,
}

/// A version at or below its bucket's floor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Below {
    /// The newest of its key in this walk: the one that reads still see.
    Newest,
    /// One that no read sees.
    Dead,
}

impl Trim {
    /// What is to be said of a row; `None` of one that is no version, or above the floor.
    pub(crate) fn row(
        &mut self,
        row: &[u8],
        floor: impl FnOnce(&Place) -> Revision,
    ) -> Option<Below> {
        let (name, inverted) = row.split_last_chunk::<8>()?;
        if *name.get(SCOPE_BYTES)? != Kind::Version as u8 {
            return None;
        }
        let mut place = [0; SCOPE_BYTES + 4];
        place[..SCOPE_BYTES].copy_from_slice(name.get(..SCOPE_BYTES)?);
        place[SCOPE_BYTES..].copy_from_slice(name.get(SCOPE_BYTES + 1..SCOPE_BYTES + 5)?);
        let floor = match self.bucket {
            Some((known, floor)) if known == place => floor,
            _ => {
                let floor = floor(&place);
                self.bucket = Some((place, floor));
                floor
            }
        };
        if Revision(!u64::from_be_bytes(*inverted)) > floor {
            return None;
        }
        if name == self.passed {
            return Some(Below::Dead);
        }
        self.passed.clear();
        self.passed.extend_from_slice(name);
        Some(Below::Newest)
    }
}

/// Makes a filter for each compaction.
///
/// Needs compactions to run unsplit (`max_subcompactions` 1, RocksDB's default) for nothing but its
/// thoroughness: at the seam of two parts a dead version may stay.
pub(crate) struct Filters(pub(crate) Arc<Floors>);

/// One compaction's filter.
pub(crate) struct Filter {
    floors: Arc<Floors>,
    trim: Trim,
    dropped: u64,
}

const NAME: &CStr = c"stemedb-history";

impl CompactionFilterFactory for Filters {
    type Filter = Filter;

    fn create(&mut self, _context: CompactionFilterContext) -> Filter {
        Filter { floors: self.0.clone(), trim: Trim::default(), dropped: 0 }
    }

    fn name(&self) -> &CStr {
        NAME
    }
}

impl CompactionFilter for Filter {
    fn filter(&mut self, _level: u32, row: &[u8], _value: &[u8]) -> CompactionDecision {
        match self.trim.row(row, |place| self.floors.settled(place)) {
            Some(Below::Dead) => {
                self.dropped += 1;
                CompactionDecision::Remove
            }
            Some(Below::Newest) | None => CompactionDecision::Keep,
        }
    }

    fn name(&self) -> &CStr {
        NAME
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        metrics::counter!("stemedb_storage_versions_dropped_total").increment(self.dropped);
    }
}
