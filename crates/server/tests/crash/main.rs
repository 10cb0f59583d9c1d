//! Real processes that are killed, and real processes whose power is cut, again and again on the
//! same folders: nothing acknowledged may be missing afterwards.
//!
//! | file | idea |
//! |---|---|
//! | `node` | a `stemedb serve` that is alone: its place stays, its process comes and goes |
//! | `load` | clients that write, and note what became of each write |
//! | `ledger` | what must be there and what may be; compared with what the node shows |
//! | `kill` | rounds of SIGKILL |
//! | `power` | rounds of power cuts, by a library that forgets what was not synced |
//!
//! A few rounds run with the tests; `scripts/crash` asks for many by `STEMEDB_CRASH_ROUNDS` and
//! `STEMEDB_POWER_ROUNDS`. `STEMEDB_SEED` sets the seed of the first round; it decides what is
//! written, when the power goes and what is lost, but not how fast the node was.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../../../stemedb/tests/common/ports.rs"]
mod ports;

#[path = "../faults/mod.rs"]
mod faults;
mod kill;
mod ledger;
mod load;
mod node;
mod power;

/// SplitMix64: the same draws from the same seed.
pub(crate) struct Draw(pub(crate) u64);

impl Draw {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// A number out of the environment.
pub(crate) fn asked(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
}
