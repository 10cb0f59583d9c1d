//! The DSSE encoding, and the id over it.
//!
//! A statement is named by what an agent would sign: the pre-authentication
//! encoding (PAE) of the Dead Simple Signing Envelope, protocol 1.0.2,
//!
//! ```text
//! "DSSEv1" SP len(type) SP type SP len(body) SP body
//! ```
//!
//! over the canonical form. So an id and a signature vouch for the same bytes,
//! and a statement that comes plain today and signed tomorrow keeps its id.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

use crate::error::Error;

/// The payload type of a statement, part of what is hashed and signed.
pub const PAYLOAD_TYPE: &str = "application/vnd.stemedb.statement.v1+json";

/// What stands before the 64 hex digits.
const PREFIX: &str = "sha256:";

/// The name of a statement: SHA-256 of the PAE of its canonical form. Ordered bytewise; shown as
/// `sha256:` and 64 lowercase hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StatementId(pub [u8; 32]);

impl StatementId {
    /// The id of a statement whose canonical form is `canonical`.
    pub(crate) fn of(canonical: &[u8]) -> Self {
        let mut hash = Sha256::new();
        hash.update(pae_head(PAYLOAD_TYPE, canonical.len()));
        hash.update(canonical);
        Self(hash.finalize().into())
    }
}

/// The bytes that a DSSE signature signs.
pub fn pae(payload_type: &str, body: &[u8]) -> Vec<u8> {
    let mut out = pae_head(payload_type, body.len()).into_bytes();
    out.extend_from_slice(body);
    out
}

/// All of the encoding but the body, so that a body can be hashed where it stands.
fn pae_head(payload_type: &str, body_bytes: usize) -> String {
    format!("DSSEv1 {} {payload_type} {body_bytes} ", payload_type.len())
}

impl fmt::Display for StatementId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", hex::encode(self.0))
    }
}

impl fmt::Debug for StatementId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for StatementId {
    type Err = Error;

    /// Takes exactly what `Display` writes.
    fn from_str(text: &str) -> Result<Self, Error> {
        let bytes = text.strip_prefix(PREFIX).and_then(lower_hex);
        bytes.map(Self).ok_or(Error::Id { field: "id".into() })
    }
}

/// Exactly `N` bytes of lowercase hex.
pub(crate) fn lower_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let lower = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    (lower && hex::decode_to_slice(text, &mut bytes).is_ok()).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_encoding_is_the_one_printed_in_the_dsse_protocol() {
        let printed = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world";
        assert_eq!(pae("http://example.com/HelloWorld", b"hello world"), printed);
        assert_eq!(pae("", b""), b"DSSEv1 0  0 ");
    }

    #[test]
    fn an_id_is_the_hash_of_the_whole_encoding() {
        let whole = Sha256::digest(pae(PAYLOAD_TYPE, b"{}"));
        assert_eq!(StatementId::of(b"{}"), StatementId(whole.into()));
    }

    #[test]
    fn an_id_reads_back_only_what_it_prints() {
        let id = StatementId([0xab; 32]);
        assert_eq!(id.to_string().parse(), Ok(id));
        let hex = "ab".repeat(32);
        for bad in [
            String::new(),
            hex.clone(),
            format!("sha256:{}", hex.to_uppercase()),
            format!("SHA256:{hex}"),
            format!("sha256:{hex}a"),
            format!("sha256:{}", &hex[2..]),
            format!("sha256: {}", &hex[1..]),
            format!("sha512:{hex}"),
        ] {
            let refused = Err(Error::Id { field: "id".into() });
            assert_eq!(bad.parse::<StatementId>(), refused, "{bad}");
        }
    }
}
