//! All that can be read of a shard's state, as one value: two states are equal if these are.

use std::ops::ControlFlow;

use bytes::Bytes;
use stemedb_machine::shard::suite::Replica;
use stemedb_machine::shard::suite::map::MapView;
use stemedb_machine::shard::{
    BucketState, ClaimOrder, ClaimRow, ClaimStart, Command, KeyRange, KeyRow, Version, View, apply,
};
use stemedb_types::Key;

/// What was read.
#[derive(Debug, PartialEq)]
pub(super) struct Whole {
    buckets: Vec<Option<BucketState>>,
    next_bucket: u32,
    newest: Vec<Vec<KeyRow>>,
    versions: Vec<(Key, Vec<Option<Version>>)>,
    claims: Vec<Vec<ClaimRow>>,
}

/// Reads everything that `plain` knows of out of `view`, and all newest keys and all claims.
pub(super) fn whole(view: &impl View, plain: &MapView) -> Whole {
    let mut whole = Whole {
        buckets: Vec::new(),
        next_bucket: view.next_bucket().unwrap().0,
        newest: Vec::new(),
        versions: Vec::new(),
        claims: Vec::new(),
    };
    for ((project, name), state) in &plain.buckets {
        whole.buckets.push(view.bucket(*project, name).unwrap());
        let mut keys = Vec::new();
        let range = KeyRange::default();
        view.scan_keys(state.number, &range, state.revision, false, &mut |row| {
            keys.push(row);
            ControlFlow::Continue(())
        })
        .unwrap();
        whole.newest.push(keys);
        let mut claims = Vec::new();
        let all = ClaimStart::default();
        view.scan_claims(state.number, &ClaimOrder::Subject, &all, &mut |row| {
            claims.push(row);
            ControlFlow::Continue(())
        })
        .unwrap();
        whole.claims.push(claims);
    }
    for ((bucket, key), versions) in &plain.versions {
        let at = versions.keys().map(|revision| view.version(*bucket, key, *revision).unwrap());
        whole.versions.push((key.clone(), at.collect()));
    }
    whole
}

/// Applies a command to the maps, as a replica would.
pub(super) fn apply_plainly(plain: &mut MapView, command: &Bytes) {
    let command = Command::decode(command).unwrap();
    let done = apply(plain, &command).unwrap();
    plain.write(&done.changes);
}
