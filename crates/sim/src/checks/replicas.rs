//! Replicas that have applied the same entries hold the same rows (state machine safety).

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use stemedb_engine::Group as Rows;
use stemedb_raft::applied_entry;
use stemedb_types::{GroupId, ReplicaId};

/// What the rows of a group are after each entry, and who had them first.
#[derive(Debug, Default)]
pub struct Replicas {
    seen: BTreeMap<(GroupId, u64), ([u8; 32], ReplicaId)>,
    /// How far a replica had come when it was looked at last.
    last: BTreeMap<(GroupId, ReplicaId), Bytes>,
    looks: u64,
}

/// How far a replica's rows have come, and their checksum; `None` before the first entry.
pub fn checksum(rows: &Rows) -> Result<Option<(u64, [u8; 32])>, String> {
    let mark = rows.applied().map_err(|error| error.to_string())?;
    let Some(mark) = mark else { return Ok(None) };
    let entry = applied_entry(&mark).map_err(|error| error.to_string())?;
    let Some((index, _)) = entry else { return Ok(None) };
    let mut sum = Sha256::new();
    stemedb_engine::export(rows, &mut |chunk| {
        sum.update(&chunk);
        ControlFlow::Continue(())
    })
    .map_err(|error| error.to_string())?;
    Ok(Some((index, sum.finalize().into())))
}

impl Replicas {
    /// Looks at a replica's rows, if they have changed. An error: another's differ, after the same entries.
    pub fn see(&mut self, group: GroupId, replica: ReplicaId, rows: &Rows) -> Result<(), String> {
        let mark = rows.applied().map_err(|error| error.to_string())?.unwrap_or_default();
        if self.last.get(&(group, replica)) == Some(&mark) {
            return Ok(());
        }
        self.last.insert((group, replica), mark);
        let Some((index, sum)) = checksum(rows)? else { return Ok(()) };
        self.looks += 1;
        let (first, who) = *self.seen.entry((group, index)).or_insert((sum, replica));
        if first == sum {
            return Ok(());
        }
        Err(format!("group {group}: replicas {who} and {replica} differ after entry {index}"))
    }

    /// How often somebody looked.
    pub fn looks(&self) -> u64 {
        self.looks
    }
}
