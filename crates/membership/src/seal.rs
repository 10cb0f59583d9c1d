//! The envelope around every gossip packet.
//!
//! SWIM has no authentication: whoever can send a UDP packet could add nodes or declare them
//! dead. So nothing is read that was not sealed with the cluster's key:
//!
//! ```text
//! version (1) | nonce (24) | XChaCha20-Poly1305(key, nonce, aad = version, plaintext) + tag (16)
//! ```
//!
//! The key is HKDF-SHA-256 of the cluster secret; the nonce is random, and 24 bytes are enough
//! for that to be safe for ever. The first key seals, every key opens.
//!
//! Rotation without a split takes three rolling steps, because a node must be able to open the
//! new key before anyone seals with it: `[old, new]` on all, `[new, old]` on all, `[new]` on all.
//!
//! Without a secret the key is a well-known one. Then the envelope only keeps out noise and
//! other clusters that have a secret; whoever starts a node that way has said `insecure`.
//!
//! Left out, with the cost: no replay protection. An old packet played again can show a node
//! that is long gone as alive until it misses its probes (seconds), or delay the suspicion of a
//! dead one by a probe; it can't take an incarnation back, and gossip decides nothing. Keys are
//! wiped when the keyring is dropped, the cipher's copies on the stack are not.

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use hkdf::Hkdf;
use rand::Rng;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::Error;

/// The shortest cluster secret that is taken, in bytes.
pub const SECRET_BYTES_MIN: usize = 16;

/// What the envelope adds to a packet, in bytes.
pub(crate) const SEAL_BYTES: usize = 1 + NONCE_BYTES + TAG_BYTES;

const VERSION: u8 = 1;
const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;
const KEY_INFO: &[u8] = b"stemedb gossip v1";
const KEY_WITHOUT_SECRET: &[u8] = b"stemedb gossip without a secret";

/// A cluster secret: wiped when dropped, never printed.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes the bytes over. `SecretTooShort` below 16 bytes; the bytes are wiped then too.
    pub fn new(bytes: Vec<u8>) -> Result<Self, Error> {
        let bytes = Zeroizing::new(bytes);
        if bytes.len() < SECRET_BYTES_MIN {
            return Err(Error::SecretTooShort { bytes: bytes.len() });
        }
        Ok(Self(bytes))
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The derived keys of a node: never empty, the first one seals.
pub(crate) struct Keyring {
    first: Key,
    previous: Vec<Key>,
}

type Key = Zeroizing<[u8; 32]>;

impl Keyring {
    /// Derives one key per secret; the well-known one if there is none.
    pub(crate) fn new(secrets: &[Secret]) -> Result<Self, Error> {
        let Some((first, previous)) = secrets.split_first() else {
            return Ok(Self { first: derive(KEY_WITHOUT_SECRET)?, previous: Vec::new() });
        };
        let previous = previous.iter().map(|secret| derive(&secret.0)).collect::<Result<_, _>>()?;
        Ok(Self { first: derive(&first.0)?, previous })
    }

    /// The packet to send. `None` only for a plaintext beyond the cipher's bound of 256 GiB.
    pub(crate) fn seal(&self, plain: &[u8], rng: &mut impl Rng) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_BYTES];
        rng.fill_bytes(&mut nonce);
        let payload = Payload { msg: plain, aad: &[VERSION] };
        let sealed = cipher(&self.first).encrypt(&XNonce::from(nonce), payload).ok()?;
        let mut packet = Vec::with_capacity(1 + NONCE_BYTES + sealed.len());
        packet.push(VERSION);
        packet.extend_from_slice(&nonce);
        packet.extend_from_slice(&sealed);
        Some(packet)
    }

    /// The plaintext, if one of our keys sealed it and no bit changed on the way.
    pub(crate) fn open(&self, packet: &[u8]) -> Option<Vec<u8>> {
        let (&version, rest) = packet.split_first()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_BYTES>()?;
        if version != VERSION {
            return None;
        }
        let nonce = XNonce::from(*nonce);
        std::iter::once(&self.first).chain(&self.previous).find_map(|key| {
            cipher(key).decrypt(&nonce, Payload { msg: sealed, aad: &[VERSION] }).ok()
        })
    }
}

fn cipher(key: &Key) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new(&(**key).into())
}

fn derive(secret: &[u8]) -> Result<Key, Error> {
    let mut key = Zeroizing::new([0; 32]);
    Hkdf::<Sha256>::new(None, secret)
        .expand(KEY_INFO, key.as_mut_slice())
        .map_err(|_| Error::KeyDerivation)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    fn secret(text: &str) -> Secret {
        Secret::new(text.as_bytes().to_vec()).unwrap()
    }

    fn ring(secrets: &[&str]) -> Keyring {
        let secrets: Vec<Secret> = secrets.iter().map(|text| secret(text)).collect();
        Keyring::new(&secrets).unwrap()
    }

    const OLD: &str = "the old cluster secret";
    const NEW: &str = "the new cluster secret";

    #[test]
    fn in_a_rotation_both_keys_open_and_the_first_one_seals() {
        let mut rng = StdRng::seed_from_u64(1);
        let table = [
            // sealed with, opened with, opens
            (vec![OLD], vec![OLD, NEW], true),
            (vec![NEW, OLD], vec![OLD, NEW], true),
            (vec![NEW, OLD], vec![NEW], true),
            (vec![NEW, OLD], vec![OLD], false),
            (vec![], vec![OLD], false),
            (vec![], vec![], true),
        ];
        for (sealer, opener, opens) in table {
            let packet = ring(&sealer).seal(b"ping", &mut rng).unwrap();
            assert_eq!(ring(&opener).open(&packet).is_some(), opens, "{sealer:?} to {opener:?}");
        }
    }

    #[test]
    fn a_short_secret_is_refused_and_a_secret_is_never_printed() {
        let refused = Secret::new(b"fifteen bytes..".to_vec());
        assert!(matches!(refused, Err(Error::SecretTooShort { bytes: 15 })));
        assert_eq!(format!("{:?}", secret(NEW)), "Secret(…)");
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens_and_is_exactly_the_overhead_longer(
            plain in proptest::collection::vec(any::<u8>(), 0..1400), seed in any::<u64>(),
        ) {
            let packet = ring(&[NEW]).seal(&plain, &mut StdRng::seed_from_u64(seed)).unwrap();
            prop_assert_eq!(packet.len(), plain.len() + SEAL_BYTES);
            prop_assert_eq!(ring(&[NEW]).open(&packet), Some(plain));
        }

        #[test]
        fn any_flipped_bit_keeps_the_envelope_shut(
            plain in proptest::collection::vec(any::<u8>(), 0..64), at in any::<prop::sample::Index>(),
            bit in 0..8u32,
        ) {
            let mut packet = ring(&[NEW]).seal(&plain, &mut StdRng::seed_from_u64(2)).unwrap();
            let at = at.index(packet.len());
            packet[at] ^= 1 << bit;
            prop_assert_eq!(ring(&[NEW, OLD]).open(&packet), None);
        }

        #[test]
        fn junk_never_opens(junk in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(ring(&[NEW]).open(&junk), None);
        }
    }
}
