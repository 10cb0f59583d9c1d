//! A replica that was given up never speaks again, and a replica's id is only ever on one disk
//! (decision 9a): who would vote twice could elect two leaders.

use std::collections::{BTreeMap, BTreeSet};

use stemedb_types::{NodeId, ReplicaId};

/// Who was given up, and who was heard where.
#[derive(Debug, Default)]
pub struct Forgotten {
    seen: BTreeMap<ReplicaId, NodeId>,
    given_up: BTreeSet<(NodeId, ReplicaId)>,
    violation: Option<String>,
}

impl Forgotten {
    /// This replica must never be heard of again.
    pub fn give_up(&mut self, node: NodeId, replica: ReplicaId) {
        self.given_up.insert((node, replica));
    }

    /// A replica speaks, on a node.
    pub fn hear(&mut self, node: NodeId, replica: ReplicaId) {
        let first = *self.seen.entry(replica).or_insert(node);
        let fault = if first != node {
            format!("replica {replica} speaks on node {node} and spoke on node {first}")
        } else if self.given_up.contains(&(node, replica)) {
            format!("replica {replica} on node {node} was given up, and speaks")
        } else {
            return;
        };
        self.violation.get_or_insert(fault);
    }

    /// The first one that spoke where it must not.
    pub fn violation(&self) -> Option<&str> {
        self.violation.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: NodeId = NodeId(1);
    const ME: ReplicaId = ReplicaId(7);

    #[test]
    fn who_is_given_up_and_who_has_moved_must_be_silent() {
        let mut forgotten = Forgotten::default();
        forgotten.hear(HERE, ME);
        forgotten.hear(HERE, ME);
        assert_eq!(forgotten.violation(), None);
        forgotten.give_up(HERE, ME);
        assert_eq!(forgotten.violation(), None);
        forgotten.hear(HERE, ME);
        assert!(forgotten.violation().is_some_and(|what| what.contains("given up")));
        let mut forgotten = Forgotten::default();
        forgotten.hear(HERE, ME);
        forgotten.hear(NodeId(2), ME);
        assert!(forgotten.violation().is_some_and(|what| what.contains("spoke on node")));
    }
}
