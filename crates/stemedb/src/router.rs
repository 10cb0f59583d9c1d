//! Which shard, and who leads it. Pure.
//!
//! A bucket's shard is a stable hash of (the project's internal id, the
//! bucket's name): the same on every node and for the life of the cluster. Who
//! leads the shard is known from the replica here, if there is one, and
//! otherwise guessed from the layout and corrected by whoever was asked.

use sha2::{Digest, Sha256};
use stemedb_raft::Leadership;
use stemedb_types::{BucketName, Layout, NodeId, ProjectId, ShardId};

/// The shard of a bucket. `shards` is the cluster's number of shards, at least 1.
pub(crate) fn shard_of(project: ProjectId, bucket: &BucketName, shards: u16) -> ShardId {
    let mut hash = Sha256::new();
    hash.update(project.0.to_be_bytes());
    hash.update(bucket.as_str().as_bytes());
    let [a, b, c, d, e, f, g, h, ..] = <[u8; 32]>::from(hash.finalize());
    let number = u64::from_be_bytes([a, b, c, d, e, f, g, h]) % u64::from(shards.max(1));
    ShardId(number as u16)
}

/// Where a request for a shard goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// This node leads it.
    Here,
    /// That node leads it, as far as is known.
    To(NodeId),
    /// Nobody is known to.
    Nowhere,
}

/// Where a request goes, from what the local replica sees (`None`: there is none here), what the
/// layout prefers and what the last node asked has said.
pub(crate) fn route(
    here: NodeId,
    shard: ShardId,
    seen: Option<Leadership>,
    hint: Option<NodeId>,
    layout: &Layout,
) -> Route {
    match seen {
        Some(Leadership::Here) => return Route::Here,
        Some(Leadership::There(node)) if node != here => return Route::To(node),
        // A replica that knows of no leader knows better than the layout.
        Some(_) => return hint.filter(|node| *node != here).map_or(Route::Nowhere, Route::To),
        None => {}
    }
    let preferred = layout
        .shards
        .get(usize::from(shard.0))
        .and_then(|shard| shard.replicas.iter().find(|replica| replica.node != here))
        .map(|replica| replica.node);
    let hint = hint.filter(|node| *node != here);
    hint.or(preferred).map_or(Route::Nowhere, Route::To)
}

#[cfg(test)]
mod tests {
    use super::*;
    use stemedb_types::{Replica, ReplicaId, ShardLayout};

    fn bucket(name: &str) -> BucketName {
        name.parse().expect("a bucket name")
    }

    #[test]
    fn the_hash_of_a_bucket_never_changes() {
        // Frozen: a cluster's data stands where these numbers say.
        let shards: Vec<u16> = ["default", "a", "b", "ci-results"]
            .into_iter()
            .map(|name| shard_of(ProjectId(1), &bucket(name), 1024).0)
            .collect();
        assert_eq!(shards, FROZEN);
        assert_ne!(
            shard_of(ProjectId(1), &bucket("default"), 1024),
            shard_of(ProjectId(2), &bucket("default"), 1024)
        );
    }

    const FROZEN: [u16; 4] = [28, 501, 662, 316];

    #[test]
    fn buckets_spread_over_the_shards() {
        let mut counts = [0; 4];
        for number in 0..4000 {
            let shard = shard_of(ProjectId(7), &bucket(&format!("bucket-{number}")), 4);
            counts[usize::from(shard.0)] += 1;
        }
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    }

    #[test]
    fn the_replica_here_knows_best_then_the_last_hint_then_the_layout() {
        let (me, other, third) = (NodeId(1), NodeId(2), NodeId(3));
        let replica = Replica { node: other, id: ReplicaId(9) };
        let layout =
            Layout { shards: vec![ShardLayout { replicas: vec![replica] }], ..Layout::default() };
        let to = |seen, hint| route(me, ShardId(0), seen, hint, &layout);
        assert_eq!(to(Some(Leadership::Here), Some(third)), Route::Here);
        assert_eq!(to(Some(Leadership::There(third)), None), Route::To(third));
        assert_eq!(to(Some(Leadership::Unknown), None), Route::Nowhere);
        assert_eq!(to(Some(Leadership::Unknown), Some(third)), Route::To(third));
        assert_eq!(to(None, None), Route::To(other));
        assert_eq!(to(None, Some(third)), Route::To(third));
        // Its own replica here is set aside: whoever said that it leads, it does not any more.
        assert_eq!(to(None, Some(me)), Route::To(other));
        let own = Replica { node: me, id: ReplicaId(8) };
        let both = ShardLayout { replicas: vec![own, replica] };
        let both = Layout { shards: vec![both], ..Layout::default() };
        assert_eq!(route(me, ShardId(0), None, None, &both), Route::To(other));
        let alone = Layout { shards: vec![ShardLayout { replicas: vec![own] }], ..both };
        assert_eq!(route(me, ShardId(0), None, None, &alone), Route::Nowhere);
    }
}
