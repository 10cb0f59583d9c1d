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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use stemedb_wal::Options;
    use stemedb_wal::disk::sim::SimDisk;

    use super::*;

    const GROUP: GroupId = GroupId(1);

    fn log(replica: ReplicaId, entries: &[&'static str]) -> Wal {
        let (wal, _) = Wal::open_on(Arc::new(SimDisk::new(1)), Options::default()).unwrap();
        let entries = entries.iter().map(|entry| Bytes::from_static(entry.as_bytes())).collect();
        wal.append(StreamId(replica.0), 0, entries, Box::new(|_| {})).unwrap();
        wal
    }

    #[test]
    fn what_is_applied_is_the_same_everywhere_and_what_is_not_may_differ() {
        let (one, other) = (ReplicaId(1), ReplicaId(2));
        let (first, second) = (log(one, &["a", "b"]), log(other, &["a", "c"]));
        let mut logs = Logs::default();
        assert_eq!(logs.see(GROUP, one, &first, 2), Ok(()));
        assert_eq!(logs.see(GROUP, other, &second, 1), Ok(()));
        assert!(logs.see(GROUP, other, &second, 2).is_err());
    }
}
