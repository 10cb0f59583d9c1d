//! Between moves a group has the voters that the layout names, no learners, and as many voters as it
//! should: min(replication factor, the largest odd number of members).

use std::collections::BTreeSet;

use stemedb_raft::{Group, Members};
use stemedb_types::{Layout, ReplicaId};

/// Whether a group that nothing is to be done about any more is as the layout says; `leader` leads
/// it. An error: what is different.
pub fn settled(
    leader: &Group,
    layout: Option<&Layout>,
    replication_factor: u8,
    members: usize,
) -> Result<(), String> {
    let group = leader.id();
    let named = layout.and_then(|layout| layout.replicas(group)).unwrap_or_default();
    let named: BTreeSet<ReplicaId> = named.iter().map(|replica| replica.id).collect();
    let Members { voters, learners, .. } = leader.members();
    let wrong = |what: &str| {
        Err(format!("group {group} {what}: voters {voters:?}, learners {learners:?}, {named:?}"))
    };
    if voters != named {
        return wrong("has other voters than the layout names");
    }
    if !learners.is_empty() {
        return wrong("has learners between moves");
    }
    if voters.len() != due(replication_factor, members) {
        return wrong(&format!("has not the right number of voters for {members} members"));
    }
    Ok(())
}

/// How many voters a group is to have.
fn due(replication_factor: u8, members: usize) -> usize {
    let odd = if members.is_multiple_of(2) { members.saturating_sub(1) } else { members };
    odd.min(usize::from(replication_factor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn voters_are_odd_and_no_more_than_asked_for() {
        let due: Vec<usize> = (0..=7).map(|members| due(3, members)).collect();
        assert_eq!(due, [0, 1, 1, 3, 3, 3, 3, 3]);
    }
}
