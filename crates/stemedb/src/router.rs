//! Which shard, and who leads it. Pure.
//!
//! A bucket's shard is a stable hash of (the project's internal id, the
//! bucket's name): the same on every node and for the life of the cluster. Who
//! leads the shard is known from the replica here, if there is one. Otherwise
//! a table says whom to ask: guessed from the layout, and corrected by whoever was
//! asked. The table is a value: readers see one or the next, never a half of each.

use sha2::{Digest, Sha256};
use stemedb_raft::Leadership;
use stemedb_types::{BucketName, Layout, NodeId, ProjectId, ShardId, ShardLayout};

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

/// Who is asked for a shard when the replica here can't say, or there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Owner {
    /// Nobody else holds it.
    #[default]
    None,
    /// It holds a replica by the layout.
    Guessed(NodeId),
    /// The last node that was asked named it.
    Said(NodeId),
}

/// Shard → who is asked for it. Never changed: what is learned makes another one.
///
/// Invariant: a guess is a node that holds a replica at `epoch`, and never this one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Owners {
    epoch: u64,
    shards: Vec<Owner>,
}

impl Owners {
    /// Whether this is of that layout.
    pub(crate) fn is_of(&self, layout: &Layout) -> bool {
        self.epoch == layout.epoch && self.shards.len() == layout.shards.len()
    }

    /// The table at a layout: what was learned stays where the layout still agrees.
    pub(crate) fn at(&self, here: NodeId, layout: &Layout) -> Self {
        let shards = layout.shards.iter().enumerate().map(|(number, shard)| {
            let known = self.shards.get(number).copied().unwrap_or_default();
            let holds = |node| shard.replicas.iter().any(|replica| replica.node == node);
            match known {
                Owner::Said(node) if holds(node) => known,
                _ => guess(here, shard, None),
            }
        });
        Self { epoch: layout.epoch, shards: shards.collect() }
    }

    /// The table after `asked` did not serve a shard and named `said`, or nobody: then the holder
    /// behind it in the layout is the next guess, so that one that is gone is not asked for ever.
    pub(crate) fn after(
        &self,
        here: NodeId,
        layout: &Layout,
        shard: ShardId,
        asked: NodeId,
        said: Option<NodeId>,
    ) -> Self {
        let mut after = if self.is_of(layout) { self.clone() } else { self.at(here, layout) };
        let number = usize::from(shard.0);
        if let (Some(owner), Some(shard)) =
            (after.shards.get_mut(number), layout.shards.get(number))
        {
            *owner = match said.filter(|node| *node != here) {
                Some(node) => Owner::Said(node),
                None => guess(here, shard, Some(asked)),
            };
        }
        after
    }

    fn owner(&self, shard: ShardId) -> Owner {
        self.shards.get(usize::from(shard.0)).copied().unwrap_or_default()
    }
}

/// The first holder of a shard that is not this node; with `behind`, the first one after that one.
fn guess(here: NodeId, shard: &ShardLayout, behind: Option<NodeId>) -> Owner {
    let holders = || shard.replicas.iter().map(|replica| replica.node);
    let skipped = behind.and_then(|node| holders().position(|holder| holder == node));
    let skipped = skipped.map_or(0, |at| at + 1);
    let mut around = holders().skip(skipped).chain(holders());
    around.find(|node| *node != here).map_or(Owner::None, Owner::Guessed)
}

/// Where a request goes, from what the local replica sees (`None`: there is none here) and the
/// table.
pub(crate) fn route(
    here: NodeId,
    shard: ShardId,
    seen: Option<Leadership>,
    owners: &Owners,
) -> Route {
    match (seen, owners.owner(shard)) {
        (Some(Leadership::Here), _) => Route::Here,
        (Some(Leadership::There(node)), _) if node != here => Route::To(node),
        (_, Owner::Said(node)) => Route::To(node),
        // A replica that knows of no leader knows better than the layout.
        (None, Owner::Guessed(node)) => Route::To(node),
        (Some(_), Owner::Guessed(_)) | (_, Owner::None) => Route::Nowhere,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stemedb_types::{Replica, ReplicaId};

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

    const ME: NodeId = NodeId(1);

    /// One shard, held by these nodes in this order.
    fn held_by(epoch: u64, nodes: &[u64]) -> Layout {
        let replica = |(id, node): (usize, &u64)| {
            let id = ReplicaId(epoch * 10 + id as u64);
            Replica { node: NodeId(*node), id }
        };
        let replicas = nodes.iter().enumerate().map(replica).collect();
        Layout { epoch, shards: vec![ShardLayout { replicas }], ..Layout::default() }
    }

    #[test]
    fn the_replica_here_knows_best_then_who_was_named_then_the_layout() {
        let layout = held_by(1, &[1, 2, 3]);
        let guessed = Owners::default().at(ME, &layout);
        let said = guessed.after(ME, &layout, ShardId(0), NodeId(2), Some(NodeId(3)));
        let to = |seen, owners: &Owners| route(ME, ShardId(0), seen, owners);
        let (other, third) = (Route::To(NodeId(2)), Route::To(NodeId(3)));
        assert_eq!(to(Some(Leadership::Here), &said), Route::Here);
        assert_eq!(to(Some(Leadership::There(NodeId(2))), &said), other);
        assert_eq!(to(Some(Leadership::Unknown), &guessed), Route::Nowhere);
        assert_eq!(to(Some(Leadership::Unknown), &said), third);
        assert_eq!((to(None, &guessed), to(None, &said)), (other, third));
        assert_eq!(to(Some(Leadership::There(ME)), &guessed), Route::Nowhere);
        // Its own replica here is set aside: whoever said that it leads, it does not any more.
        let own = guessed.after(ME, &layout, ShardId(0), NodeId(3), Some(ME));
        assert_eq!(to(None, &own), other);
        let alone = Owners::default().at(ME, &held_by(1, &[1]));
        assert_eq!(to(None, &alone), Route::Nowhere);
        assert_eq!(to(None, &Owners::default()), Route::Nowhere);
    }

    #[test]
    fn one_that_does_not_serve_is_not_asked_again_before_the_others() {
        let layout = held_by(1, &[2, 1, 3, 4]);
        let mut owners = Owners::default().at(ME, &layout);
        let mut asked = Vec::new();
        for _ in 0..5 {
            let Route::To(node) = route(ME, ShardId(0), None, &owners) else { panic!() };
            asked.push(node.0);
            owners = owners.after(ME, &layout, ShardId(0), node, None);
        }
        assert_eq!(asked, [2, 3, 4, 2, 3]);
        // One that holds it no more, or never did: from the front.
        let after = owners.after(ME, &layout, ShardId(0), NodeId(9), None);
        assert_eq!(route(ME, ShardId(0), None, &after), Route::To(NodeId(2)));
    }

    #[test]
    fn a_new_layout_keeps_what_was_said_of_nodes_that_still_hold_the_shard() {
        let before = held_by(1, &[2, 3]);
        let said = Owners::default().after(ME, &before, ShardId(0), NodeId(2), Some(NodeId(3)));
        assert!(said.is_of(&before) && !said.is_of(&held_by(2, &[2, 3])));
        let to = |layout: &Layout| route(ME, ShardId(0), None, &said.at(ME, layout));
        assert_eq!(to(&held_by(2, &[4, 3])), Route::To(NodeId(3)));
        assert_eq!(to(&held_by(2, &[4, 5])), Route::To(NodeId(4)));
        // A shard that the layout does not have has no owner, and there is nothing to learn of it.
        let none = said.after(ME, &before, ShardId(7), NodeId(2), Some(NodeId(3)));
        assert_eq!((route(ME, ShardId(7), None, &none), none == said), (Route::Nowhere, true));
    }
}
