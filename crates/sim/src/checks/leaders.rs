//! At most one leader in a term of a group (Ongaro, Ousterhout 2014: election safety).

use std::collections::BTreeMap;

use stemedb_types::{GroupId, ReplicaId};

/// Who was seen leading in which term.
#[derive(Debug, Default)]
pub struct Leaders {
    seen: BTreeMap<(GroupId, u64), ReplicaId>,
}

impl Leaders {
    /// A replica leads. An error: so did another, in the same term.
    pub fn see(&mut self, group: GroupId, term: u64, replica: ReplicaId) -> Result<(), String> {
        let first = *self.seen.entry((group, term)).or_insert(replica);
        if first == replica {
            return Ok(());
        }
        Err(format!("group {group} has two leaders in term {term}: replicas {first} and {replica}"))
    }

    /// In how many terms somebody led.
    pub fn terms(&self) -> usize {
        self.seen.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_leader_for_each_term_and_a_second_one_is_told_of() {
        let mut leaders = Leaders::default();
        assert_eq!(leaders.see(GroupId(1), 1, ReplicaId(1)), Ok(()));
        assert_eq!(leaders.see(GroupId(1), 1, ReplicaId(1)), Ok(()));
        assert_eq!(leaders.see(GroupId(1), 2, ReplicaId(2)), Ok(()));
        assert_eq!(leaders.see(GroupId(2), 1, ReplicaId(9)), Ok(()));
        assert!(leaders.see(GroupId(1), 1, ReplicaId(2)).is_err());
    }
}
