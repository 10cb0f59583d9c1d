//! Damage is found only where it was done: a log that calls itself damaged after a mere crash would
//! cost a group its voter, and a crash everywhere the whole group.

use stemedb_types::{GroupId, ReplicaId};

/// What is wrong when a replica is set aside on a disk that nobody damaged.
pub fn unexplained(group: GroupId, replica: ReplicaId, cause: &str) -> String {
    format!("group {group}, replica {replica} calls itself damaged, and nobody damaged it: {cause}")
}
