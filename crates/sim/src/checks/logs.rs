//! An index that is applied holds the same entry on every replica, and never another (log matching,
//! of what is committed).

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};
use stemedb_types::{GroupId, ReplicaId};
use stemedb_wal::{StreamId, Wal};

/// What was seen at each index, and where first.
#[derive(Debug, Default)]
pub struct Logs {
    seen: BTreeMap<(GroupId, u64), ([u8; 32], ReplicaId)>,
    /// Where to go on with a replica.
    next: BTreeMap<(GroupId, ReplicaId), u64>,
}

impl Logs {
    /// Reads what a replica's log holds of its first `applied` entries and was not read yet. An
    /// error: another's log holds something else there. What the log can't read is not looked at.
    pub fn see(
        &mut self,
        group: GroupId,
        replica: ReplicaId,
        wal: &Wal,
        applied: u64,
    ) -> Result<(), String> {
        let stream = StreamId(replica.0);
        let purged = wal.bounds(stream).purged.map_or(0, |(index, _)| index + 1);
        let next = self.next.entry((group, replica)).or_default();
        let from = purged.max(*next);
        if from >= applied {
            return Ok(());
        }
        let Ok(records) = wal.entries(stream, from..applied, usize::MAX) else { return Ok(()) };
        *next = from + records.len() as u64;
        for (index, record) in (from..).zip(records) {
            let sum: [u8; 32] = Sha256::digest(&record).into();
            let (first, who) = *self.seen.entry((group, index)).or_insert((sum, replica));
            if first != sum {
                return Err(format!(
                    "group {group}: replicas {who} and {replica} have applied different entries \
                     at {index}"
                ));
            }
        }
        Ok(())
    }
}
