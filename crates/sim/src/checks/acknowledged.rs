//! No acknowledged write is lost, and revisions only go up: a write that was answered stands under
//! its revision on every replica, and one that was asked for later has a greater one.

use std::collections::BTreeMap;

use stemedb_machine::shard::{Read, ReadAnswer, View, read};
use stemedb_raft::Group;
use stemedb_types::{GroupId, Revision};

use crate::client::{PROJECT, bucket, decode, key};
use crate::history::Acknowledged;

/// Whether a replica has every acknowledged write of its group.
pub fn kept(replica: &Group, all: &[Acknowledged]) -> Result<(), String> {
    let rows = replica.applied().store();
    for write in all.iter().filter(|write| write.place.0 == replica.id()) {
        let Acknowledged { place, revision, value, .. } = *write;
        let question = Read::Get { key: key(place.1), as_of: Some(revision) };
        let found =
            read(&rows, PROJECT, &bucket(), &question).map_err(|error| error.to_string())?;
        let held = match found {
            ReadAnswer::Value { version, .. } => {
                version.map(|version| (decode(&version.value), version.head.revision()))
            }
            _ => None,
        };
        let kept = match value {
            Some(value) => held == Some((value, revision)),
            None => held.is_none() && reaches(&rows, revision),
        };
        if !kept {
            return Err(format!(
                "group {}, replica {}: {write:?} was acknowledged, and {held:?} is there",
                replica.id(),
                replica.replica(),
            ));
        }
    }
    Ok(())
}

fn reaches(rows: &impl View, revision: Revision) -> bool {
    let state = rows.bucket(PROJECT, &bucket());
    state.is_ok_and(|state| state.is_some_and(|state| state.revision >= revision))
}

/// Whether revisions are given once, and in the order of time.
pub fn revisions(all: &[Acknowledged]) -> Result<(), String> {
    let mut by_group: BTreeMap<GroupId, Vec<&Acknowledged>> = BTreeMap::new();
    for write in all {
        by_group.entry(write.place.0).or_default().push(write);
    }
    for (group, mut writes) in by_group {
        writes.sort_by_key(|write| write.revision);
        if let Some(twice) = writes.windows(2).find(|pair| pair[0].revision == pair[1].revision) {
            return Err(format!("group {group}: one revision for two writes: {twice:?}"));
        }
        // Behind a write that was asked for late, none may come that was answered before.
        let mut latest_call = (0, None);
        for write in writes {
            if write.span.1 < latest_call.0 {
                let earlier = latest_call.1;
                return Err(format!(
                    "group {group}: {write:?} was answered before {earlier:?} was asked for"
                ));
            }
            if write.span.0 > latest_call.0 {
                latest_call = (write.span.0, Some(write));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(revision: u64, span: (u64, u64)) -> Acknowledged {
        let place = (GroupId(1), 0);
        Acknowledged { place, revision: Revision(revision), value: Some(revision), span }
    }

    #[test]
    fn revisions_follow_time_and_are_given_once() {
        assert_eq!(revisions(&[write(1, (1, 4)), write(2, (2, 3)), write(3, (5, 6))]), Ok(()));
        assert!(revisions(&[write(1, (1, 2)), write(1, (3, 4))]).is_err(), "given twice");
        assert!(revisions(&[write(2, (1, 2)), write(1, (3, 4))]).is_err(), "went back");
    }
}
