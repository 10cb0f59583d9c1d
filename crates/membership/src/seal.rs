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
//! for that to be safe for ever. Every key opens.
//!
//! A secret is rotated node by node, so that for a while some hold `[old]`, some `[new, old]` and
//! some only `[new]`. A node with several keys therefore answers each peer under the key that
//! opened the peer's last packet, and sends a copy under each key to a peer it has not heard for
//! [`HEARD_FOR`]: of those at least one opens. The copies that don't are counted as `unsealed` there.
//! Nobody has to agree on when the new key begins, and it costs no packet once all have been heard.
//!
//! Without a secret the key is a well-known one. Then the envelope only keeps out noise and
//! other clusters that have a secret; whoever starts a node that way has said `insecure`.
//!
//! Left out, with the cost: no replay protection. An old packet played again can show a node
//! that is long gone as alive until it misses its probes (seconds), or delay the suspicion of a
//! dead one by a probe; it can't take an incarnation back, and gossip decides nothing. Keys are
//! wiped when the keyring is dropped, the cipher's copies on the stack are not.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

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
/// So many versions further on are taken for a newer build's; what begins with anything else is noise.
const VERSIONS_AHEAD_MAX: u8 = 15;
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

/// How long a peer is believed to hold the key that opened its last packet: it may be a process
/// that has another one by then. Above the pause between two rounds of probes in a small cluster.
const HEARD_FOR: Duration = Duration::from_secs(5);
/// How many peers' keys are remembered; those beyond are sent a copy under each key.
const HEARD_MAX: usize = 1024;

/// Why an envelope stays shut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shut {
    /// Sealed with a key we don't hold, damaged, or none of ours at all.
    Unsealed,
    /// Of a newer format, it seems.
    Newer,
}

/// Whether these bytes have the shape of an envelope that we would have opened with the right key.
pub(crate) fn is_envelope(packet: &[u8]) -> bool {
    packet.first() == Some(&VERSION) && packet.len() > SEAL_BYTES
}

/// The derived keys of a node, never empty, and under which of them peers were heard.
pub(crate) struct Keyring {
    keys: Vec<Key>,
    /// Empty with one key: there is nothing to choose.
    heard: HashMap<SocketAddr, Heard>,
}

type Key = Zeroizing<[u8; 32]>;

/// A peer's last packet that opened.
struct Heard {
    key: usize,
    at: Instant,
}

impl Keyring {
    /// Derives one key per secret; the well-known one if there is none.
    pub(crate) fn new(secrets: &[Secret]) -> Result<Self, Error> {
        let mut keys =
            secrets.iter().map(|secret| derive(&secret.0)).collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() {
            keys.push(derive(KEY_WITHOUT_SECRET)?);
        }
        Ok(Self { keys, heard: HashMap::new() })
    }

    /// The packets to send to a peer: one, or one under each key if nobody knows which it holds.
    /// None only for a plaintext beyond the cipher's bound of 256 GiB.
    pub(crate) fn seal(
        &self,
        plain: &[u8],
        to: SocketAddr,
        now: Instant,
        rng: &mut impl Rng,
    ) -> Vec<Vec<u8>> {
        let heard = self.heard.get(&to).filter(|heard| now < heard.at + HEARD_FOR);
        let known = heard.and_then(|heard| self.keys.get(heard.key..=heard.key));
        let keys = known.unwrap_or(&self.keys);
        keys.iter().filter_map(|key| seal(key, plain, rng)).collect()
    }

    /// The plaintext, if one of our keys sealed it and no bit changed on the way; its sender is
    /// answered under that key.
    pub(crate) fn open(
        &mut self,
        packet: &[u8],
        source: SocketAddr,
        now: Instant,
    ) -> Result<Vec<u8>, Shut> {
        let (&version, rest) = packet.split_first().ok_or(Shut::Unsealed)?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_BYTES>().ok_or(Shut::Unsealed)?;
        if version != VERSION {
            let ahead = version.saturating_sub(VERSION);
            let newer = (1..=VERSIONS_AHEAD_MAX).contains(&ahead) && packet.len() > SEAL_BYTES;
            return Err(if newer { Shut::Newer } else { Shut::Unsealed });
        }
        let nonce = XNonce::from(*nonce);
        let opened = self.keys.iter().enumerate().find_map(|(index, key)| {
            let payload = Payload { msg: sealed, aad: &[VERSION] };
            cipher(key).decrypt(&nonce, payload).ok().map(|plain| (index, plain))
        });
        let (key, plain) = opened.ok_or(Shut::Unsealed)?;
        self.remember(source, Heard { key, at: now });
        Ok(plain)
    }

    fn remember(&mut self, source: SocketAddr, heard: Heard) {
        if self.keys.len() < 2 {
            return;
        }
        if self.heard.len() >= HEARD_MAX && !self.heard.contains_key(&source) {
            self.heard.retain(|_, known| heard.at < known.at + HEARD_FOR);
        }
        if self.heard.len() < HEARD_MAX || self.heard.contains_key(&source) {
            self.heard.insert(source, heard);
        }
    }
}

fn seal(key: &Key, plain: &[u8], rng: &mut impl Rng) -> Option<Vec<u8>> {
    let mut nonce = [0; NONCE_BYTES];
    rng.fill_bytes(&mut nonce);
    let payload = Payload { msg: plain, aad: &[VERSION] };
    let sealed = cipher(key).encrypt(&XNonce::from(nonce), payload).ok()?;
    let mut packet = Vec::with_capacity(1 + NONCE_BYTES + sealed.len());
    packet.push(VERSION);
    packet.extend_from_slice(&nonce);
    packet.extend_from_slice(&sealed);
    Some(packet)
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

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    /// Which of the packets that `sealer` sends to port 2 the other one opens.
    fn opened(sealer: &Keyring, opener: &mut Keyring, now: Instant) -> Vec<bool> {
        let packets = sealer.seal(b"ping", at(2), now, &mut StdRng::seed_from_u64(1));
        packets.iter().map(|packet| opener.open(packet, at(1), now).is_ok()).collect()
    }

    #[test]
    fn whatever_keys_two_nodes_hold_in_a_rotation_one_copy_of_the_first_packet_opens() {
        let table = [
            // sealed with, opened with, which copies open
            (vec![OLD], vec![NEW, OLD], vec![true]),
            (vec![NEW, OLD], vec![OLD], vec![false, true]),
            (vec![NEW, OLD], vec![NEW, OLD], vec![true, true]),
            (vec![NEW, OLD], vec![NEW], vec![true, false]),
            (vec![NEW], vec![NEW, OLD], vec![true]),
            (vec![NEW], vec![OLD], vec![false]),
            (vec![], vec![OLD], vec![false]),
            (vec![], vec![], vec![true]),
        ];
        for (sealer, opener, opens) in table {
            let found = opened(&ring(&sealer), &mut ring(&opener), Instant::now());
            assert_eq!(found, opens, "{sealer:?} to {opener:?}");
        }
    }

    #[test]
    fn a_peer_is_answered_under_the_key_that_opened_its_last_packet_for_as_long_as_it_is_fresh() {
        let now = Instant::now();
        let mut both = ring(&[NEW, OLD]);
        for secret in [OLD, NEW] {
            let mut peer = ring(&[secret]);
            let packet = &peer.seal(b"ping", at(1), now, &mut StdRng::seed_from_u64(2))[0];
            assert!(both.open(packet, at(2), now).is_ok());
            assert_eq!(opened(&both, &mut peer, now), [true], "{secret}");
            // To another one nothing is known of.
            assert_eq!(both.seal(b"ping", at(3), now, &mut StdRng::seed_from_u64(3)).len(), 2);
        }
        let late = now + HEARD_FOR;
        assert_eq!(opened(&both, &mut ring(&[OLD]), late), [false, true]);
    }

    #[test]
    fn what_is_remembered_of_peers_is_bounded() {
        let now = Instant::now();
        let mut both = ring(&[NEW, OLD]);
        let mut packets = ring(&[OLD]).seal(b"ping", at(1), now, &mut StdRng::seed_from_u64(2));
        let packet = packets.pop().unwrap();
        for port in 0..HEARD_MAX as u16 + 9 {
            both.open(&packet, at(port), now).unwrap();
        }
        assert_eq!(both.heard.len(), HEARD_MAX);
        // What is stale gives its place to what is new.
        both.open(&packet, at(u16::MAX), now + HEARD_FOR).unwrap();
        assert_eq!(both.heard.len(), 1);
    }

    #[test]
    fn a_short_secret_is_refused_and_a_secret_is_never_printed() {
        let refused = Secret::new(b"fifteen bytes..".to_vec());
        assert!(matches!(refused, Err(Error::SecretTooShort { bytes: 15 })));
        assert_eq!(format!("{:?}", secret(NEW)), "Secret(…)");
    }

    #[test]
    fn an_envelope_of_a_newer_build_is_told_from_noise_and_from_another_secret() {
        let mut packet = sealed(b"ping", 1);
        assert_eq!(open(&[OLD], &packet), Err(Shut::Unsealed));
        for (version, shut) in
            [(2, Shut::Newer), (16, Shut::Newer), (17, Shut::Unsealed), (0, Shut::Unsealed)]
        {
            packet[0] = version;
            assert_eq!(open(&[NEW], &packet), Err(shut), "{version}");
            assert!(!is_envelope(&packet));
        }
        assert_eq!(open(&[NEW], &[2; SEAL_BYTES]), Err(Shut::Unsealed));
    }

    fn sealed(plain: &[u8], seed: u64) -> Vec<u8> {
        let mut rng = StdRng::seed_from_u64(seed);
        ring(&[NEW]).seal(plain, at(2), Instant::now(), &mut rng).pop().unwrap()
    }

    fn open(secrets: &[&str], packet: &[u8]) -> Result<Vec<u8>, Shut> {
        ring(secrets).open(packet, at(1), Instant::now())
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens_and_is_exactly_the_overhead_longer(
            plain in proptest::collection::vec(any::<u8>(), 0..1400), seed in any::<u64>(),
        ) {
            let packet = sealed(&plain, seed);
            prop_assert_eq!(packet.len(), plain.len() + SEAL_BYTES);
            prop_assert_eq!(open(&[NEW], &packet), Ok(plain));
        }

        #[test]
        fn any_flipped_bit_keeps_the_envelope_shut(
            plain in proptest::collection::vec(any::<u8>(), 0..64), at in any::<prop::sample::Index>(),
            bit in 0..8u32,
        ) {
            let mut packet = sealed(&plain, 2);
            let at = at.index(packet.len());
            packet[at] ^= 1 << bit;
            prop_assert!(open(&[NEW, OLD], &packet).is_err());
        }

        #[test]
        fn junk_never_opens(junk in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(open(&[NEW], &junk).is_err());
        }
    }
}
