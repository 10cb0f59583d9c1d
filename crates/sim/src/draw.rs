//! Chance from a seed.
//!
//! SplitMix64, from Steele, Lea and Flood, *Fast splittable pseudorandom number
//! generators* (OOPSLA 2014): a counter that grows by an odd constant, and a
//! mixing function over it. It is a dozen lines, so it stands here, where no
//! new version of a library can change what a seed means: a seed in a bug
//! report must give the same run next year.
//!
//! It splits: [`Draw::fork`] gives a stream of its own to a part of the world,
//! so that one more draw in the network does not move every draw of the disks.
//!
//! Left out: it is no secret, anyone can continue it from one word.

use std::ops::RangeInclusive;

/// 2^64 over the golden ratio, made odd: the step of every stream that is not forked.
const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// A stream of chance. Equal seeds give equal streams.
///
/// It is not `Clone`: two copies would draw the same chance twice. [`Draw::fork`] is what is meant.
#[derive(Debug)]
pub struct Draw {
    state: u64,
    /// Always odd, so that the counter meets every word before it repeats.
    gamma: u64,
}

impl Draw {
    /// The stream of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: seed, gamma: GOLDEN_GAMMA }
    }

    /// The next 64 bits.
    pub fn word(&mut self) -> u64 {
        mix(self.advance())
    }

    /// One of 0, 1, … `bound` - 1, each as likely as any other. `bound` must not be zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "there is nothing below zero to draw");
        // Lemire, *Fast random integer generation in an interval* (2019): the high half of the
        // product is the draw; the few words that would favour some results are drawn again.
        let favoured = bound.wrapping_neg() % bound;
        loop {
            let product = u128::from(self.word()) * u128::from(bound);
            if product as u64 >= favoured {
                return (product >> 64) as u64;
            }
        }
    }

    /// One of the numbers of a range, both ends included. The range must not be empty.
    pub fn range(&mut self, range: RangeInclusive<u64>) -> u64 {
        let (low, high) = range.into_inner();
        assert!(low <= high, "an empty range has nothing to draw");
        match (high - low).checked_add(1) {
            Some(bound) => low + self.below(bound),
            None => self.word(),
        }
    }

    /// True once in `n` times. `n` must not be zero; of one it is always true.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of the items. There must be one.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        assert!(!items.is_empty(), "there is no item to pick");
        &items[self.below(items.len() as u64) as usize]
    }

    /// A stream of its own, decided by this one but not moved by what is drawn from it later.
    #[must_use]
    pub fn fork(&mut self) -> Self {
        let state = mix(self.advance());
        Self { state, gamma: mix_gamma(self.advance()) }
    }

    fn advance(&mut self) -> u64 {
        self.state = self.state.wrapping_add(self.gamma);
        self.state
    }
}

/// Spreads what differs in two neighbouring words over all their bits ("variant 13" of the paper).
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The step of a forked stream: odd, and with bits that alternate often enough to step well.
fn mix_gamma(mut z: u64) -> u64 {
    z = (z ^ (z >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    z = (z ^ (z >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    z = (z ^ (z >> 33)) | 1;
    let alternations = (z ^ (z >> 1)).count_ones();
    if alternations < 24 { z ^ 0xaaaa_aaaa_aaaa_aaaa } else { z }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(draw: &mut Draw, count: usize) -> Vec<u64> {
        (0..count).map(|_| draw.word()).collect()
    }

    #[test]
    fn the_reference_implementation_draws_the_same() {
        // Seed 1234567 of Vigna's C, as it is quoted wherever the generator is ported to.
        let expected = [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
            4_593_380_528_125_082_431,
            16_408_922_859_458_223_821,
        ];
        assert_eq!(words(&mut Draw::new(1_234_567), 5), expected);
    }

    /// Every seed ever written down means what it meant: these numbers never change.
    #[test]
    fn seed_one_is_frozen() {
        let mut draw = Draw::new(1);
        assert_eq!(
            words(&mut draw, 4),
            [
                10_451_216_379_200_822_465,
                13_757_245_211_066_428_519,
                17_911_839_290_282_890_590,
                8_196_980_753_821_780_235,
            ]
        );
        let below: Vec<u64> = (0..12).map(|_| draw.below(10)).collect();
        assert_eq!(below, [4, 7, 8, 5, 2, 7, 4, 6, 4, 5, 4, 1]);
        let range: Vec<u64> = (0..8).map(|_| draw.range(100..=200)).collect();
        assert_eq!(range, [165, 182, 168, 189, 106, 108, 150, 112]);
        let coins: Vec<bool> = (0..8).map(|_| draw.one_in(2)).collect();
        assert_eq!(coins, [true, true, false, false, true, false, false, false]);
        let picks: String = (0..12).map(|_| *draw.pick(&['a', 'b', 'c', 'd'])).collect();
        assert_eq!(picks, "bbbcccdcdcac");
        let mut fork = draw.fork();
        let expected =
            [1_043_806_543_884_462_837, 12_800_439_570_009_179_125, 15_944_411_564_257_859_126];
        assert_eq!(words(&mut fork, 3), expected);
        let expected = [466_179_380_197_575_732, 75_477_870_950_190_321];
        assert_eq!(words(&mut fork.fork(), 2), expected);
        let expected = [5_984_736_765_014_534_238, 2_936_340_266_296_909_718];
        assert_eq!(words(&mut draw, 2), expected, "as if nothing had been drawn from the fork");
    }

    #[test]
    fn a_fork_goes_its_own_way() {
        let (mut one, mut two) = (Draw::new(7), Draw::new(7));
        let mut fork = one.fork();
        let _ = two.fork();
        words(&mut fork, 1000);
        assert_eq!(words(&mut one, 100), words(&mut two, 100), "its draws move nobody else's");
        let siblings = (one.fork(), one.fork());
        assert_ne!(siblings.0.state, siblings.1.state);
        assert_ne!(siblings.0.gamma, siblings.1.gamma);
        assert_eq!(siblings.0.gamma % 2, 1);
    }

    #[test]
    fn every_number_comes_about_as_often() {
        let mut draw = Draw::new(3);
        for bound in [1, 2, 3, 7, 10] {
            let mut counts = vec![0_u64; bound as usize];
            for _ in 0..bound * 10_000 {
                counts[draw.below(bound) as usize] += 1;
            }
            assert!(counts.iter().all(|count| (9_500..=10_500).contains(count)), "{counts:?}");
        }
        // Most of all where a plain remainder would favour the lower numbers two to one.
        let bound = u64::MAX / 3 * 2;
        let low = (0..30_000).filter(|_| draw.below(bound) < bound / 2).count();
        assert!((14_500..=15_500).contains(&low), "{low}");
    }

    #[test]
    fn the_ends_of_a_range_are_in_it() {
        let mut draw = Draw::new(5);
        let drawn: Vec<u64> = (0..200).map(|_| draw.range(3..=5)).collect();
        assert!([3, 4, 5].iter().all(|n| drawn.contains(n)));
        assert!(drawn.iter().all(|n| (3..=5).contains(n)));
        assert_eq!(draw.range(9..=9), 9);
        assert!((0..64).map(|_| draw.range(0..=u64::MAX)).any(|n| n > u64::MAX / 2));
        assert!((0..100).all(|_| draw.one_in(1)));
    }

    #[test]
    #[should_panic(expected = "nothing below zero")]
    fn below_zero_there_is_nothing() {
        Draw::new(1).below(0);
    }
}
