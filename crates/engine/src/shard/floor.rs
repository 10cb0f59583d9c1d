//! What goes when a bucket's floor goes up: the thin log below it, and keys that were gone by then.
//!
//! Old versions are left to the filter ([`crate::filter`]); it can't drop a deletion, because it never
//! knows whether something older lies in another file. But the thin log names what was deleted, so
//! the walk over the part of it that goes anyway finds those keys, and what is left of them is deleted
//! row by row. Then the log goes by one range. All of it is in the batch that moves the floor, and
//! bounded by how far one command moves it.
//!
//! The walk sees what is in the store, not the run that is about to be written. What a run both
//! writes and passes with its floor stays until the floor moves again: dead rows, which nothing reads.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use stemedb_machine::shard::{BucketNumber, TouchKind};
use stemedb_types::Revision;

use super::corrupt;
use super::values::{decode_bucket, decode_log, decode_version};
use crate::rows::{Kind, Range, Row};
use crate::store::Rows;
use crate::{Error, Group};

/// A key with more dead versions than this goes by range: a range costs later reads more than a few
/// rows do.
const ROWS_ONE_BY_ONE_MAX: usize = 64;

impl Group {
    /// Adds to `rows` what goes with a bucket's history at and below `floor`.
    pub(crate) fn let_go(
        &self,
        rows: &mut Rows,
        bucket: BucketNumber,
        floor: Revision,
    ) -> Result<(), Error> {
        let log = self.scope.log_until(bucket, floor);
        let mut first = None;
        let mut gone = BTreeSet::new();
        let mut fault = None;
        self.scan(&log, false, &mut |row, value| {
            first.get_or_insert_with(|| row.to_vec());
            match decode_log(value) {
                Ok(touched) => {
                    let ended = |kind| matches!(kind, TouchKind::Delete | TouchKind::Expire);
                    gone.extend(touched.into_iter().filter(|t| ended(t.kind)).map(|t| t.what));
                    ControlFlow::Continue(())
                }
                Err(cause) => {
                    fault = Some(corrupt("the thin log", cause));
                    ControlFlow::Break(())
                }
            }
        })?;
        if let Some(fault) = fault {
            return Err(fault);
        }
        if let Some(start) = first {
            rows.delete_range(Range { start, end: log.end });
        }
        gone.iter().try_for_each(|key| self.bury(rows, bucket, key, floor))
    }

    /// Deletes a key's versions at and below the floor, if the newest of them says it is gone.
    fn bury(
        &self,
        rows: &mut Rows,
        bucket: BucketNumber,
        key: &[u8],
        floor: Revision,
    ) -> Result<(), Error> {
        let start = self.scope.version(bucket, key, floor).0;
        let all = Range { start, end: self.scope.versions(bucket, key).into_prefix().end };
        let mut found: Vec<Row> = Vec::new();
        let mut fault = None;
        self.scan(&all, false, &mut |row, value| {
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
            if found.len() > ROWS_ONE_BY_ONE_MAX {
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
        if let Some(fault) = fault {
            return Err(fault);
        }
        if found.len() > ROWS_ONE_BY_ONE_MAX {
            rows.delete_range(all);
        } else {
            found.into_iter().for_each(|row| rows.delete(row));
        }
        Ok(())
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
