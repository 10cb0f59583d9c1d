//! Chance, from one seed: nonces nobody can guess, jitter nobody needs to.
//!
//! SHA-256 over (seed, counter) is as unpredictable as the seed is. The seed
//! comes from outside, so that a simulation replays; it must be fresh and
//! secret on every start, or a recorded handshake could be replayed.

use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::handshake::Nonce;

/// A counter behind a seed.
pub(crate) struct Chance {
    seed: Zeroizing<[u8; 32]>,
    drawn: AtomicU64,
}

impl Chance {
    /// Starts from the seed.
    pub(crate) fn new(seed: [u8; 32]) -> Self {
        Self { seed: Zeroizing::new(seed), drawn: AtomicU64::new(0) }
    }

    /// 32 bytes that were never given out before.
    pub(crate) fn nonce(&self) -> Nonce {
        let turn = self.drawn.fetch_add(1, Ordering::Relaxed);
        Sha256::new().chain_update(*self.seed).chain_update(turn.to_le_bytes()).finalize().into()
    }

    /// A number that nobody can guess.
    pub(crate) fn draw(&self) -> u128 {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&self.nonce()[..16]);
        u128::from_le_bytes(bytes)
    }

    /// Any number.
    pub(crate) fn roll(&self) -> u16 {
        let [low, high, ..] = self.nonce();
        u16::from_le_bytes([low, high])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_replays_and_never_repeats() {
        let draw = |seed: u8| {
            let chance = Chance::new([seed; 32]);
            [chance.nonce(), chance.nonce(), chance.nonce()]
        };
        let [first, second, third] = draw(1);
        assert!(first != second && second != third && first != third);
        assert_eq!(draw(1), [first, second, third]);
        assert_ne!(draw(2)[0], first);
    }
}
