//! Who says it: key ids, public keys, assurance.
//!
//! An agent that signs is named by its key: `ed25519:` and the first 16 bytes
//! of SHA-256 over the 32 bytes of the public key, in hex. Sixteen bytes keep
//! the name short in index keys and tables; to pass for a registered agent one
//! would have to hit its 128 bits, and two keys of one owner made to collide
//! (2^64 tries) gain nothing, since a project registers one key per name and
//! signatures are checked against that key. An agent that comes plain is named
//! `key:` and the label of the API key it came under.

use std::fmt;
use std::str::FromStr;

use ed25519_dalek::VerifyingKey;
use sha2::{Digest, Sha256};
use stemedb_types::limits::TERM_BYTES_MAX;

use crate::id::lower_hex;

/// Bytes of the hash in a key id.
const KEY_ID_BYTES: usize = 16;
const ED25519_PREFIX: &str = "ed25519:";
const LABEL_PREFIX: &str = "key:";

/// Why a text or bytes are no agent. Nothing was stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AgentError {
    /// Neither form of an agent's name.
    #[error("an agent is `ed25519:` and 32 lowercase hex digits, or `key:` and a label")]
    Name,
    /// A label of no bytes, or one that makes the name longer than a term.
    #[error("an agent's label is 1 to {} bytes long", TERM_BYTES_MAX - LABEL_PREFIX.len())]
    Label,
    /// Not 32 bytes on the curve, or a key of small order, under which anybody can sign.
    #[error("this is not a sound Ed25519 public key of 32 bytes")]
    PublicKey,
}

/// The name of an agent, at most `TERM_BYTES_MAX` bytes as text; ordered as its text is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AgentId(Name);

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Name {
    Ed25519([u8; KEY_ID_BYTES]),
    Label(String),
}

impl AgentId {
    /// The agent that comes plain, under an API key of this label.
    pub fn key(label: &str) -> Result<Self, AgentError> {
        let longest = TERM_BYTES_MAX - LABEL_PREFIX.len();
        if label.is_empty() || label.len() > longest {
            return Err(AgentError::Label);
        }
        Ok(Self(Name::Label(label.to_owned())))
    }

    /// What an attestation by this agent rests on.
    pub fn assurance(&self) -> Assurance {
        match self.0 {
            Name::Ed25519(_) => Assurance::Signed,
            Name::Label(_) => Assurance::Key,
        }
    }
}

impl fmt::Display for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Name::Ed25519(hash) => write!(f, "{ED25519_PREFIX}{}", hex::encode(hash)),
            Name::Label(label) => write!(f, "{LABEL_PREFIX}{label}"),
        }
    }
}

impl fmt::Debug for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for AgentId {
    type Err = AgentError;

    /// Takes exactly what `Display` writes.
    fn from_str(text: &str) -> Result<Self, AgentError> {
        if let Some(label) = text.strip_prefix(LABEL_PREFIX) {
            return Self::key(label);
        }
        let hash = text.strip_prefix(ED25519_PREFIX).and_then(lower_hex);
        hash.map(|hash| Self(Name::Ed25519(hash))).ok_or(AgentError::Name)
    }
}

/// What vouches that an agent said it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Assurance {
    /// The API key the statement came under: the cluster's word for it.
    Key,
    /// The agent's own signature, which anyone can check.
    Signed,
}

impl Assurance {
    /// The word in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Assurance::Key => "key",
            Assurance::Signed => "signed",
        }
    }
}

/// An Ed25519 public key that is safe to check signatures with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// Takes the 32 bytes of RFC 8032.
    pub fn new(bytes: &[u8; 32]) -> Result<Self, AgentError> {
        match VerifyingKey::from_bytes(bytes) {
            Ok(key) if !key.is_weak() => Ok(Self(key)),
            _ => Err(AgentError::PublicKey),
        }
    }

    /// The 32 bytes of RFC 8032.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// The name of the agent whose key this is.
    pub fn agent(&self) -> AgentId {
        let hash = Sha256::digest(self.0.as_bytes());
        let mut id = [0; KEY_ID_BYTES];
        id.copy_from_slice(&hash[..KEY_ID_BYTES]);
        AgentId(Name::Ed25519(id))
    }

    /// Whether `signature` over `message` is this key's, strictly: no second encoding of a
    /// signature and no point of small order passes.
    pub(crate) fn has_signed(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        let signature = ed25519_dalek::Signature::from_bytes(signature);
        self.0.verify_strict(message, &signature).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_reads_back_only_what_it_prints() {
        let signer = format!("ed25519:{}", "0f".repeat(16));
        for good in ["key:project-x", "key:a b/ü", signer.as_str()] {
            assert_eq!(good.parse::<AgentId>().unwrap().to_string(), good);
        }
        let upper = signer.to_uppercase();
        for bad in ["", "key", "me", "ed25519:", "ed25519:0f", &upper, &format!("{signer}0f")] {
            assert_eq!(bad.parse::<AgentId>(), Err(AgentError::Name), "{bad}");
        }
        assert_eq!("key:".parse::<AgentId>(), Err(AgentError::Label));
        assert_eq!(AgentId::key(&"x".repeat(TERM_BYTES_MAX - 3)), Err(AgentError::Label));
        assert_eq!(AgentError::Label.to_string(), "an agent's label is 1 to 1020 bytes long");
    }

    #[test]
    fn an_agent_that_signs_is_told_from_one_that_only_held_an_api_key() {
        let signer: AgentId = format!("ed25519:{}", "00".repeat(16)).parse().unwrap();
        assert_eq!(signer.assurance().as_str(), "signed");
        assert_eq!(AgentId::key("ci").unwrap().assurance().as_str(), "key");
        assert!(signer < AgentId::key("ci").unwrap());
    }

    /// The public key of RFC 8032 section 7.1, test 1, and the first half of its SHA-256.
    #[test]
    fn a_key_id_is_the_first_half_of_the_hash_of_the_public_key() {
        let bytes = lower_hex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
        let key = PublicKey::new(&bytes.unwrap()).unwrap();
        assert_eq!(key.agent().to_string(), "ed25519:21fe31dfa154a261626bf854046fd227");
    }

    #[test]
    fn a_key_that_anybody_can_sign_under_is_refused() {
        let mut identity = [0; 32];
        identity[0] = 1;
        assert_eq!(PublicKey::new(&identity), Err(AgentError::PublicKey));
        assert_eq!(PublicKey::new(&[0; 32]), Err(AgentError::PublicKey));
        let mut off_curve = [0; 32];
        off_curve[0] = 2;
        assert_eq!(PublicKey::new(&off_curve), Err(AgentError::PublicKey));
    }
}
