//! The index of keys that go by themselves, by time.
//!
//! A row for each key that has a time, and none for others: whoever writes
//! the key's version moves it along in the same batch. So what is due is a walk from
//! the front, and costs what it finds.

use std::ops::ControlFlow;

use stemedb_machine::shard::Due;

use super::corrupt;
use super::values::decode_expiry;
use crate::rows::SCOPE_BYTES;
use crate::{Error, Group};

impl Group {
    /// The keys whose time is at or before `until_ms`, the earliest first, at most `limit`.
    pub(super) fn due_until(&self, until_ms: u64, limit: usize) -> Result<Vec<Due>, Error> {
        let mut due = Vec::new();
        let mut fault = None;
        if limit == 0 {
            return Ok(due);
        }
        self.scan(&self.scope.expiries_until(until_ms), false, &mut |row, value| {
            let name = row.get(SCOPE_BYTES + 1..).unwrap_or_default();
            match decode_expiry(name, value) {
                Ok(next) => due.push(next),
                Err(cause) => {
                    fault = Some(corrupt("an expiry", cause));
                    return ControlFlow::Break(());
                }
            }
            if due.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        fault.map_or(Ok(due), Err)
    }
}
