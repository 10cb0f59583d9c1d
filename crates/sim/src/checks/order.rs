//! What is purged is flushed, and what is flushed is applied; and no mark goes back while a process
//! lives.

use std::collections::BTreeMap;

use stemedb_types::{GroupId, ReplicaId};

/// The marks of one replica, as numbers of entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// Of its term.
    pub term: u64,
    /// Entries purged from the log.
    pub purged: u64,
    /// Entries whose effect a crash can't take.
    pub flushed: u64,
    /// Entries applied.
    pub applied: u64,
}

/// The marks that were seen last, by replica.
#[derive(Debug, Default)]
pub struct Order {
    seen: BTreeMap<(GroupId, ReplicaId, u64), Marks>,
}

impl Order {
    /// Looks at a replica in one of its node's lives. An error: what is wrong.
    pub fn see(
        &mut self,
        group: GroupId,
        replica: ReplicaId,
        life: u64,
        now: Marks,
    ) -> Result<(), String> {
        let wrong = |what: &str| Err(format!("group {group}, replica {replica}: {what}: {now:?}"));
        if now.purged > now.flushed {
            return wrong("entries are purged that a crash could take from the store");
        }
        if now.flushed > now.applied {
            return wrong("entries are flushed that are not applied");
        }
        let before = self.seen.insert((group, replica, life), now).unwrap_or_default();
        let back = now.purged < before.purged
            || now.flushed < before.flushed
            || now.applied < before.applied
            || now.term < before.term;
        if back {
            return wrong(&format!("a mark went back from {before:?}"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: GroupId = GroupId(1);
    const ME: ReplicaId = ReplicaId(7);

    #[test]
    fn marks_in_order_pass_and_each_way_of_being_out_of_it_is_told() {
        let mut order = Order::default();
        let marks = Marks { term: 2, purged: 1, flushed: 3, applied: 5 };
        assert_eq!(order.see(GROUP, ME, 1, marks), Ok(()));
        let wrong = [
            Marks { purged: 4, ..marks },
            Marks { flushed: 6, ..marks },
            Marks { applied: 4, ..marks },
            Marks { term: 1, ..marks },
        ];
        for marks in wrong {
            assert!(order.see(GROUP, ME, 1, marks).is_err(), "{marks:?}");
        }
        // Another life begins where the disks are.
        let after = Marks { term: 2, applied: 3, ..marks };
        assert_eq!(order.see(GROUP, ME, 2, after), Ok(()));
    }
}
