//! The fixed hash that decides what nothing else does.
//!
//! Where several nodes would do, each shard tries them in an order of its own:
//! so the shards of one node have their other replicas, and whoever takes over
//! their leadership, all over the cluster. The mixing function is the finaliser
//! of SplitMix64 (Steele, Lea, Flood, 2014); it is part of what a plan *is* and
//! must never change, for a change would not move replicas (those stay where
//! they are) but would reorder every shard's followers.

use stemedb_types::NodeId;

/// A number that looks random and is the same everywhere.
pub(crate) fn tie(shard: usize, node: NodeId) -> u64 {
    mix(node.0 ^ mix(shard as u64))
}

/// A place for a shard among the others.
pub(crate) fn shard_tie(shard: usize) -> u64 {
    mix(!(shard as u64))
}

fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first two outputs of SplitMix64 seeded with 0.
    #[test]
    fn the_mixing_function_is_the_published_one() {
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf);
        assert_eq!(mix(0x9e37_79b9_7f4a_7c15), 0x6e78_9e6a_a1b9_65f4);
    }
}
