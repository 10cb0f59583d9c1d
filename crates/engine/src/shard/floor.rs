//! What goes when a bucket's floor goes up: the thin log below it, and keys that were gone by then.
//!
//! Old versions are left to the filter ([`crate::filter`]); it can't drop a deletion, because it never
//! knows whether something older lies in another file. But the thin log names what was deleted, so
//! the walk over the part of it that goes anyway finds those keys, and what is left of them is deleted
//! row by row. Then the log goes by one range. All of it is in the batch that moves the floor.
//!
//! A batch does so much of this and no more, however far the floors in it go: what is left goes with
//! the batches of the next floors, from where this one stopped. Nothing reads it meanwhile, and no two replicas
//! need be alike in it.
//!
//! The walk sees what is in the store, not the run that is about to be written. What a run both
//! writes and passes with its floor stays until the floor moves again: dead rows, which nothing reads.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use bytes::Bytes;
use stemedb_machine::shard::{BucketNumber, BucketState, TouchKind};
use stemedb_types::{BucketName, ProjectId, Revision};

use super::corrupt;
use super::values::{decode_bucket, decode_log, decode_version};
use crate::rows::{Kind, Range, Row};
use crate::store::Rows;
use crate::{Error, Group};

/// A key with more dead versions than this, or larger ones, goes by range: a range costs later reads
/// more than a few rows do.
const ROWS_ONE_BY_ONE_MAX: usize = 64;
const BYTES_ONE_BY_ONE_MAX: usize = 64 << 10;
/// Most rows looked at for one batch, of the thin log and of keys that are gone, before the key that
/// is more.
const LET_GO_ROWS_MAX: usize = 8192;
/// Most of their bytes, likewise.
const LET_GO_BYTES_MAX: usize = 8 << 20;

/// What is left of a batch's share of work.
struct Share {
    rows: usize,
    bytes: usize,
}

impl Share {
    fn take(&mut self, row: &[u8], value: &[u8]) {
        self.rows = self.rows.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(row.len() + value.len());
    }

    fn is_used_up(&self) -> bool {
        self.rows == 0 || self.bytes == 0
    }
}

impl Group {
    /// Adds to `rows` what goes with the history of buckets at and below their floors, or some of it.
    pub(crate) fn let_go(
        &self,
        rows: &mut Rows,
        floors: &BTreeMap<BucketNumber, (Row, Revision)>,
    ) -> Result<(), Error> {
        let mut share = Share { rows: LET_GO_ROWS_MAX, bytes: LET_GO_BYTES_MAX };
        for (bucket, (_, floor)) in floors {
            if share.is_used_up() {
                break;
            }
            self.let_go_of(rows, *bucket, *floor, &mut share)?;
        }
        Ok(())
    }

    fn let_go_of(
        &self,
        rows: &mut Rows,
        bucket: BucketNumber,
        floor: Revision,
        share: &mut Share,
    ) -> Result<(), Error> {
        let log = self.scope.log_until(bucket, floor);
        let mut walked: Option<Range> = None;
        let mut buried = BTreeSet::new();
        let mut fault = None;
        self.scan(&log, false, &mut |row, value| {
            share.take(row, value);
            if let Err(error) = self.bury_all(rows, (bucket, floor), value, &mut buried, share) {
                fault = Some(error);
                return ControlFlow::Break(());
            }
            // Up to and with this row: nothing is behind it and before its name and a zero.
            let end = [row, &[0]].concat();
            walked.get_or_insert_with(|| Range { start: row.to_vec(), end: Vec::new() }).end = end;
            if share.is_used_up() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        if let Some(fault) = fault {
            return Err(fault);
        }
        if let Some(walked) = walked {
            rows.delete_range(walked);
        }
        Ok(())
    }

    /// Deletes what is left of the keys that went with one revision of the thin log.
    fn bury_all(
        &self,
        rows: &mut Rows,
        (bucket, floor): (BucketNumber, Revision),
        log: &[u8],
        buried: &mut BTreeSet<Bytes>,
        share: &mut Share,
    ) -> Result<(), Error> {
        let touched = decode_log(log).map_err(|cause| corrupt("the thin log", cause))?;
        for line in touched {
            let gone = matches!(line.kind, TouchKind::Delete | TouchKind::Expire);
            if gone && buried.insert(line.what.clone()) {
                self.bury(rows, bucket, &line.what, floor, share)?;
            }
        }
        Ok(())
    }

    /// Deletes a key's versions at and below the floor, if the newest of them says it is gone.
    fn bury(
        &self,
        rows: &mut Rows,
        bucket: BucketNumber,
        key: &[u8],
        floor: Revision,
        share: &mut Share,
    ) -> Result<(), Error> {
        let start = self.scope.version(bucket, key, floor).0;
        let all = Range { start, end: self.scope.versions(bucket, key).into_prefix().end };
        let mut found: Vec<Row> = Vec::new();
        let mut bytes = 0;
        let mut fault = None;
        self.scan(&all, false, &mut |row, value| {
            share.take(row, value);
            if found.is_empty() {
                match decode_version(value, floor) {
                    Ok((head, _)) if head.deleted => {}
                    Ok(_) => return ControlFlow::Break(()),
                    Err(cause) => {
                        fault = Some(corrupt("a version", cause));
                        return ControlFlow::Break(());
                    }
                }
            }
            found.push(Row(row.to_vec()));
            bytes += value.len();
            if found.len() > ROWS_ONE_BY_ONE_MAX || bytes > BYTES_ONE_BY_ONE_MAX {
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
        if let Some(fault) = fault {
            return Err(fault);
        }
        if found.len() > ROWS_ONE_BY_ONE_MAX || bytes > BYTES_ONE_BY_ONE_MAX {
            rows.delete_range(all);
        } else {
            found.into_iter().for_each(|row| rows.delete(row));
        }
        Ok(())
    }

    /// Every bucket of the group, and how far it has come.
    pub fn buckets(&self) -> Result<Vec<(ProjectId, BucketName, BucketState)>, Error> {
        let range = self.scope.row(Kind::Bucket).into_prefix();
        let named = range.start.len();
        let (mut found, mut fault) = (Vec::new(), None);
        self.scan(&range, false, &mut |row, value| match decode_named(&row[named..], value) {
            Ok(bucket) => {
                found.push(bucket);
                ControlFlow::Continue(())
            }
            Err(cause) => {
                fault = Some(corrupt("a bucket", cause));
                ControlFlow::Break(())
            }
        })?;
        fault.map_or(Ok(found), Err)
    }

    /// Learns the group's floors from its rows: those it has, and those a crash can't take back.
    pub(crate) fn learn_floors(&self) -> Result<(), Error> {
        let mut found = Vec::new();
        let mut fault = None;
        let buckets = self.scope.row(Kind::Bucket).into_prefix();
        self.scan(&buckets, false, &mut |row, value| match decode_bucket(value) {
            Ok(state) => {
                if state.compacted > Revision(0) {
                    found.push((Row(row.to_vec()), state));
                }
                ControlFlow::Continue(())
            }
            Err(cause) => {
                fault = Some(corrupt("a bucket", cause));
                ControlFlow::Break(())
            }
        })?;
        if let Some(fault) = fault {
            return Err(fault);
        }
        for (row, state) in found {
            self.store.floors().announce(self.scope, state.number, &row, state.compacted);
        }
        self.settle_floors()
    }

    /// Lets filters use the floors that have become durable.
    pub(crate) fn settle_floors(&self) -> Result<(), Error> {
        for row in self.store.floors().unsettled(self.scope) {
            let Some(value) = self.store.durable(&row)? else { continue };
            let state = decode_bucket(&value).map_err(|cause| corrupt("a bucket", cause))?;
            self.store.floors().settle(self.scope, state.number, state.compacted);
        }
        Ok(())
    }
}

/// A bucket from the end of its row's name, and its value.
fn decode_named(name: &[u8], value: &[u8]) -> Result<(ProjectId, BucketName, BucketState), String> {
    let named = || {
        let (project, name) = name.split_first_chunk::<8>()?;
        let name = std::str::from_utf8(name).ok()?.parse().ok()?;
        Some((ProjectId(u64::from_be_bytes(*project)), name))
    };
    let (project, name) = named().ok_or("its row's name does not parse")?;
    Ok((project, name, decode_bucket(value).map_err(|cause| cause.to_string())?))
}
