//! The rows that a state is made of: all but those its floors let go of.
//!
//! Two replicas that applied the same entries may hold different dead rows: one's compactions came
//! by, the other's did not. Whatever compares states, or sends one, walks its rows through this.

use std::collections::HashMap;

use stemedb_machine::shard::BucketNumber;
use stemedb_types::Revision;

use super::values::{decode_bucket, decode_version};
use crate::filter::{Below, Trim};
use crate::rows::{Kind, SCOPE_BYTES};

/// Tells living rows from dead ones. Asked of every row of one group of one generation, in order.
#[derive(Default)]
pub(crate) struct Living {
    floors: HashMap<BucketNumber, Revision>,
    trim: Trim,
}

impl Living {
    /// Whether the row is part of the state. One that does not parse is: whoever reads it will say.
    pub(crate) fn keeps(&mut self, row: &[u8], value: &[u8]) -> bool {
        const BUCKET: u8 = Kind::Bucket as u8;
        const VERSION: u8 = Kind::Version as u8;
        const LOG: u8 = Kind::Log as u8;
        let Some((kind, name)) = row.get(SCOPE_BYTES..).and_then(<[u8]>::split_first) else {
            return true;
        };
        match *kind {
            // Buckets come before whatever is in them.
            BUCKET => {
                if let Ok(state) = decode_bucket(value) {
                    self.floors.insert(state.number, state.compacted);
                }
                true
            }
            VERSION => self.keeps_version(row, name, value),
            LOG => name
                .last_chunk::<8>()
                .is_none_or(|revision| Revision(u64::from_be_bytes(*revision)) > self.floor(name)),
            _ => true,
        }
    }

    /// Unlike a filter, this sees everything of a key: a deletion with nothing above the floor that
    /// it hides is dead too.
    fn keeps_version(&mut self, row: &[u8], name: &[u8], value: &[u8]) -> bool {
        let floor = self.floor(name);
        match self.trim.row(row, |_| floor) {
            None => true,
            Some(Below::Dead) => false,
            Some(Below::Newest) => {
                decode_version(value, Revision(0)).is_ok_and(|(head, _)| !head.deleted)
            }
        }
    }

    fn floor(&self, name: &[u8]) -> Revision {
        let number = name.first_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes));
        let floor = number.and_then(|number| self.floors.get(&BucketNumber(number)));
        floor.copied().unwrap_or(Revision(0))
    }
}
