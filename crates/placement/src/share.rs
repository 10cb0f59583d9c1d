//! How many replicas each zone and each node should hold.
//!
//! Zones come first. For one shard, zones fill level by level like vessels
//! under water: with level L, a zone of `size` nodes holds min(`size`, L)
//! replicas. The greatest level that needs no more than the replicas there are
//! is the fewest each zone holds; one level more is the most. With as many
//! zones as replicas that means one per zone, with fewer it means all zones,
//! and in between the loss of one zone costs as few replicas as possible.
//!
//! Nodes come next, by weighted max-min fairness (water-filling; Bertsekas and
//! Gallager, *Data Networks*, 1992, chapter 6): all nodes rise together in
//! proportion to their weights until one is full (it holds every shard) or its
//! zone is at its bound. The level reached is an exact fraction, and each node
//! may hold its share rounded down or up, whichever moves less.
//!
//! A weight of zero says "rather not": such nodes (draining ones) hold nothing
//! as long as the others suffice, whatever that does to zones. When the others
//! do not, each of those holds every shard and the rest is shared by the
//! unwilling in equal parts.

use std::cmp::Ordering;

/// A node that may hold replicas. Order is the caller's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Holder {
    /// Index of its zone.
    pub(crate) zone: usize,
    /// Its share of what is shared out.
    pub(crate) weight: u64,
    /// It holds every shard, whatever its weight.
    pub(crate) full: bool,
}

/// Fewest and most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) min: u64,
    pub(crate) max: u64,
}

/// The bounds that every plan keeps.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Shares {
    /// By zone: replicas of any one shard.
    pub(crate) zones: Vec<Bounds>,
    /// By holder: replicas of all shards.
    pub(crate) holders: Vec<Bounds>,
}

/// A non-negative fraction; the denominator is never zero.
#[derive(Clone, Copy, Debug)]
struct Ratio {
    num: u128,
    den: u128,
}

impl Ratio {
    const ZERO: Ratio = Ratio { num: 0, den: 1 };

    fn cmp(self, other: Ratio) -> Ordering {
        (self.num * other.den).cmp(&(other.num * self.den))
    }
}

/// Voters of every shard: min(replication factor, largest odd number ≤ members).
pub fn voters(members: usize, replication_factor: u8) -> usize {
    let odd_max = if members % 2 == 1 { members } else { members.saturating_sub(1) };
    odd_max.min(usize::from(replication_factor))
}

/// Shares `shards` × `voters` replicas out among the holders, of whom there are at least `voters`.
pub(crate) fn shares(holders: &[Holder], zone_count: usize, voters: usize, shards: u64) -> Shares {
    let per_shard = zone_bounds(holders, zone_count, voters);
    let vessels: Vec<Vessel> = per_shard
        .iter()
        .enumerate()
        .map(|(zone, bounds)| Vessel::new(holders, zone, *bounds, shards))
        .collect();
    let level = common_level(&vessels, voters as u64 * shards, shards);
    let levels: Vec<Ratio> = vessels.iter().map(|vessel| vessel.own_level(level)).collect();
    let holders = holders.iter().map(|h| h.bounds(levels[h.zone], shards)).collect();
    Shares { zones: per_shard, holders }
}

/// The fewest and most replicas of one shard in each zone.
fn zone_bounds(holders: &[Holder], zone_count: usize, voters: usize) -> Vec<Bounds> {
    let count = |zone: usize, full_only: bool| {
        holders.iter().filter(|h| h.zone == zone && (h.full || !full_only)).count() as u64
    };
    let sizes: Vec<(u64, u64)> =
        (0..zone_count).map(|z| (count(z, true), count(z, false))).collect();
    let at = |level: u64, (full, size): (u64, u64)| level.clamp(full, size);
    let total = |level: u64| sizes.iter().map(|s| at(level, *s)).sum::<u64>();
    let voters = voters as u64;
    let level = (0..=voters).rev().find(|level| total(*level) <= voters).unwrap_or(0);
    sizes.iter().map(|s| Bounds { min: at(level, *s), max: at(level + 1, *s) }).collect()
}

impl Holder {
    /// Its load at a level, times the level's denominator.
    fn load(&self, level: Ratio, shards: u64) -> u128 {
        let full = u128::from(shards) * level.den;
        if self.full { full } else { (level.num * u128::from(self.weight)).min(full) }
    }

    fn bounds(&self, level: Ratio, shards: u64) -> Bounds {
        let load = self.load(level, shards);
        Bounds { min: (load / level.den) as u64, max: load.div_ceil(level.den) as u64 }
    }
}

/// A zone as it fills up.
struct Vessel {
    holders: Vec<Holder>,
    load: Bounds,
    /// Below this level it is held up to its fewest.
    level_min: Ratio,
    /// From this level on it is held down to its most.
    level_max: Ratio,
}

impl Vessel {
    fn new(holders: &[Holder], zone: usize, per_shard: Bounds, shards: u64) -> Self {
        let holders: Vec<Holder> = holders.iter().copied().filter(|h| h.zone == zone).collect();
        let load = Bounds { min: per_shard.min * shards, max: per_shard.max * shards };
        let level_min = fill(&holders, load.min, shards);
        let level_max = fill(&holders, load.max, shards);
        Self { holders, load, level_min, level_max }
    }

    /// Its load when all rise to a level, inside its bounds, times the level's denominator.
    fn load(&self, level: Ratio, shards: u64) -> u128 {
        let bound = |load: u64| u128::from(load) * level.den;
        let load: u128 = self.holders.iter().map(|h| h.load(level, shards)).sum();
        load.clamp(bound(self.load.min), bound(self.load.max))
    }

    /// The level its nodes stop at when all others rise to `level`.
    fn own_level(&self, level: Ratio) -> Ratio {
        let raised = if level.cmp(self.level_min).is_lt() { self.level_min } else { level };
        if raised.cmp(self.level_max).is_gt() { self.level_max } else { raised }
    }
}

/// The level at which all zones together hold `total`.
///
/// Zones meet their bounds at levels of their own. The last such level that is not too high says
/// which zones are at a bound; the others share what is left.
fn common_level(vessels: &[Vessel], total: u64, shards: u64) -> Ratio {
    let holds = |level: Ratio| vessels.iter().map(|v| v.load(level, shards)).sum::<u128>();
    let last = vessels
        .iter()
        .flat_map(|vessel| [vessel.level_min, vessel.level_max])
        .filter(|level| holds(*level) <= u128::from(total) * level.den)
        .fold(Ratio::ZERO, |last, level| if level.cmp(last).is_gt() { level } else { last });
    let (mut free, mut left) = (Vec::new(), total);
    for vessel in vessels {
        if last.cmp(vessel.level_min).is_lt() {
            left = left.saturating_sub(vessel.load.min);
        } else if last.cmp(vessel.level_max).is_ge() {
            left = left.saturating_sub(vessel.load.max);
        } else {
            free.extend_from_slice(&vessel.holders);
        }
    }
    if free.is_empty() { last } else { fill(&free, left, shards) }
}

/// The level at which these holders together hold `target`; the level that fills them all if that
/// is less.
fn fill(holders: &[Holder], target: u64, shards: u64) -> Ratio {
    let full = holders.iter().filter(|h| h.full).count() as u64;
    let mut weights: Vec<u64> =
        holders.iter().filter(|h| !h.full && h.weight > 0).map(|h| h.weight).collect();
    weights.sort_unstable_by(|a, b| b.cmp(a));
    let mut left = u128::from(target.saturating_sub(full * shards));
    let mut weight_left: u128 = weights.iter().map(|w| u128::from(*w)).sum();
    for weight in &weights {
        // The heaviest of those left is the first to be full.
        if left * u128::from(*weight) <= u128::from(shards) * weight_left {
            return Ratio { num: left, den: weight_left };
        }
        left = left.saturating_sub(u128::from(shards));
        weight_left -= u128::from(*weight);
    }
    match weights.last() {
        Some(lightest) => Ratio { num: u128::from(shards), den: u128::from(*lightest) },
        None => Ratio::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holders(given: &[(usize, u64)]) -> Vec<Holder> {
        given
            .iter()
            .map(|(zone, weight)| Holder { zone: *zone, weight: *weight, full: false })
            .collect()
    }

    fn pairs(bounds: &[Bounds]) -> Vec<(u64, u64)> {
        bounds.iter().map(|b| (b.min, b.max)).collect()
    }

    #[test]
    fn voters_are_odd_up_to_the_replication_factor() {
        let counts = [1, 2, 3, 4, 5, 6, 7].map(|members| voters(members, 5));
        assert_eq!(counts, [1, 1, 3, 3, 5, 5, 5]);
        assert_eq!([voters(4, 3), voters(4, 2), voters(4, 1)], [3, 2, 1]);
    }

    #[test]
    fn equal_nodes_share_evenly_and_only_the_remainder_is_open() {
        let four = shares(&holders(&[(0, 1); 4]), 1, 3, 4);
        assert_eq!(pairs(&four.holders), [(3, 3); 4]);
        let five = shares(&holders(&[(0, 7); 5]), 1, 3, 4);
        assert_eq!(pairs(&five.holders), [(2, 3); 5]);
    }

    #[test]
    fn weights_divide_until_a_node_is_full_and_what_it_can_not_take_goes_on() {
        let plain = shares(&holders(&[(0, 2), (0, 1), (0, 1)]), 1, 1, 8);
        assert_eq!(pairs(&plain.holders), [(4, 4), (2, 2), (2, 2)]);
        let capped = shares(&holders(&[(0, 100), (0, 1), (0, 1), (0, 2)]), 1, 2, 8);
        assert_eq!(pairs(&capped.holders), [(8, 8), (2, 2), (2, 2), (4, 4)]);
        let huge = u64::from(u32::MAX);
        let extreme = shares(&holders(&[(0, huge), (0, huge), (0, 1)]), 1, 1, 1024);
        assert_eq!(pairs(&extreme.holders), [(511, 512), (511, 512), (0, 1)]);
    }

    #[test]
    fn a_zone_level_is_as_even_as_the_zones_are_large() {
        let zones = |sizes: &[usize], voters| {
            let given: Vec<_> = (0..).zip(sizes).flat_map(|(z, n)| vec![(z, 1); *n]).collect();
            pairs(&zone_bounds(&holders(&given), sizes.len(), voters))
        };
        assert_eq!(zones(&[2, 2, 2], 3), [(1, 1), (1, 1), (1, 1)].map(|(a, _)| (a, 2)));
        assert_eq!(zones(&[1, 1, 1, 1], 3), [(0, 1); 4]);
        assert_eq!(zones(&[3, 3], 3), [(1, 2); 2]);
        assert_eq!(zones(&[1, 1, 5], 5), [(1, 1), (1, 1), (3, 4)]);
        assert_eq!(zones(&[4, 4, 4], 5), [(1, 2); 3]);
        assert_eq!(zones(&[1, 2], 3), [(1, 1), (2, 2)]);
    }

    #[test]
    fn a_lone_node_of_a_zone_carries_every_shard_when_its_zone_is_needed() {
        let given = holders(&[(0, 1), (1, 1), (2, 1), (2, 1), (2, 1), (2, 1), (2, 1)]);
        let shares = shares(&given, 3, 3, 10);
        assert_eq!(pairs(&shares.zones), [(1, 1), (1, 1), (1, 2)]);
        assert_eq!(pairs(&shares.holders), [[(10, 10); 2].as_slice(), &[(2, 2); 5]].concat());
    }

    #[test]
    fn a_zone_that_may_not_take_its_share_leaves_it_to_the_others() {
        // Four zones, one replica at most in each: two nodes of one zone share one part.
        let given = holders(&[(0, 1), (0, 1), (0, 1), (1, 1), (2, 1), (3, 1)]);
        let shares = shares(&given, 4, 3, 8);
        assert_eq!(pairs(&shares.zones), [(0, 1); 4]);
        assert_eq!(pairs(&shares.holders), [[(2, 3); 3], [(5, 6); 3]].concat());
    }
}
