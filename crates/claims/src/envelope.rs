//! DSSE envelopes and strict Ed25519.
//!
//! An envelope (Dead Simple Signing Envelope 1.0.2) is JSON with `payload` and
//! `payloadType` and one or more signatures over their pre-authentication
//! encoding. Fields it does not know are ignored, as its specification asks;
//! keys given twice are not, and base64 is taken in either alphabet, padded or
//! not, but never with loose bits behind the end.
//!
//! Ours are stricter than DSSE in three ways. Every signature must be good, not
//! only one: a bad one stores nothing. `keyid` must name the agent, because the
//! agent is what gets stored; the key is then the registered one, so a lying
//! `keyid` only fails. And the payload must be the canonical form already: then
//! the bytes signed are the bytes hashed and stored, and the id of a statement
//! can be checked from its envelope without a JSON parser.

use base64::Engine;
use base64::alphabet::{Alphabet, STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::{Map, Value};
use stemedb_types::limits::STATEMENT_BYTES_MAX;

use crate::agent::{AgentId, PublicKey};
use crate::error::{Error, quoted};
use crate::id::{PAYLOAD_TYPE, pae};
use crate::statement::Statement;
use crate::strict::parse_json;

/// Most signatures of one envelope: each costs a verification.
pub const SIGNATURES_MAX: usize = 16;
/// Longest envelope, in bytes of JSON: twice the longest payload leaves room for base64 and
/// signatures.
pub const ENVELOPE_BYTES_MAX: usize = 2 * STATEMENT_BYTES_MAX;

/// Why an envelope was refused. Nothing of it was stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Not the JSON shape of an envelope.
    #[error("the envelope can't be read: {detail}")]
    Shape {
        /// What is wrong, naming the field.
        detail: String,
    },
    /// A payload of another type than a statement.
    #[error("the payload type is {got:?}, statements are `{PAYLOAD_TYPE}`")]
    PayloadType {
        /// The type given.
        got: String,
    },
    /// The payload is no statement.
    #[error(transparent)]
    Statement(#[from] Error),
    /// The payload is a statement, but not written in its canonical form.
    #[error("the payload must be the RFC 8785 canonical form of the statement")]
    NotCanonical,
    /// No key is registered under this agent's name.
    #[error("signature {n} names {keyid:?}, which is no registered agent")]
    UnknownAgent {
        /// Which signature, from 0.
        n: usize,
        /// The `keyid` given.
        keyid: String,
    },
    /// The signature is not the agent's over this payload.
    #[error("signature {n} is not {agent}'s over this payload")]
    BadSignature {
        /// Which signature, from 0.
        n: usize,
        /// The agent named.
        agent: String,
    },
}

/// An envelope that has been read, with nothing verified yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// What the payload is.
    pub payload_type: String,
    /// The bytes signed, decoded.
    pub payload: Vec<u8>,
    /// 1 to [`SIGNATURES_MAX`] signatures.
    pub signatures: Vec<Signature>,
}

/// One signature of an envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Which agent claims to have signed; empty where absent.
    pub keyid: String,
    /// The Ed25519 signature.
    pub sig: [u8; 64],
}

impl Envelope {
    /// Reads the JSON form. Every refusal is [`EnvelopeError::Shape`].
    pub fn parse(json: &[u8]) -> Result<Self, EnvelopeError> {
        if json.len() > ENVELOPE_BYTES_MAX {
            return Err(shape(format!("it is longer than {ENVELOPE_BYTES_MAX} bytes")));
        }
        Self::from_value(&parse_json(json).map_err(|error| shape(error.to_string()))?)
    }

    /// Reads the JSON form from a value that [`parse_json`] made.
    pub fn from_value(value: &Value) -> Result<Self, EnvelopeError> {
        let map = value.as_object().ok_or_else(|| shape("it must be a JSON object"))?;
        let payload =
            base64(text(map, "payload")?).ok_or_else(|| shape("`payload` must be base64"))?;
        let payload_type = text(map, "payloadType")?.to_owned();
        let signatures = match map.get("signatures") {
            Some(Value::Array(items)) if (1..=SIGNATURES_MAX).contains(&items.len()) => items,
            _ => {
                return Err(shape(format!("`signatures` must be a list of 1 to {SIGNATURES_MAX}")));
            }
        };
        let signatures = signatures.iter().map(read_signature).collect::<Result<_, _>>()?;
        Ok(Self { payload_type, payload, signatures })
    }

    /// Checks everything and gives back the statement and the agents who signed it, in the order
    /// of their signatures and each once.
    ///
    /// `key_of` finds the key a project has registered under an agent's name. On any error nothing
    /// of the envelope may be stored.
    pub fn verify(
        &self,
        key_of: impl Fn(&AgentId) -> Option<PublicKey>,
    ) -> Result<(Statement, Vec<AgentId>), EnvelopeError> {
        if self.payload_type != PAYLOAD_TYPE {
            return Err(EnvelopeError::PayloadType { got: quoted(&self.payload_type) });
        }
        let statement = Statement::parse(&self.payload)?;
        if statement.canonical() != self.payload {
            return Err(EnvelopeError::NotCanonical);
        }
        let message = pae(&self.payload_type, &self.payload);
        let mut agents = Vec::with_capacity(self.signatures.len());
        for (n, signature) in self.signatures.iter().enumerate() {
            let agent = signature.verify(n, &message, &key_of)?;
            if !agents.contains(&agent) {
                agents.push(agent);
            }
        }
        Ok((statement, agents))
    }
}

impl Signature {
    fn verify(
        &self,
        n: usize,
        message: &[u8],
        key_of: impl Fn(&AgentId) -> Option<PublicKey>,
    ) -> Result<AgentId, EnvelopeError> {
        let unknown = || EnvelopeError::UnknownAgent { n, keyid: quoted(&self.keyid) };
        let agent: AgentId = self.keyid.parse().map_err(|_| unknown())?;
        let key = key_of(&agent).ok_or_else(unknown)?;
        // The name must be the key's own: a registry that mixes them up must not lend a name.
        if key.agent() != agent || !key.has_signed(message, &self.sig) {
            return Err(EnvelopeError::BadSignature { n, agent: agent.to_string() });
        }
        Ok(agent)
    }
}

fn read_signature(value: &Value) -> Result<Signature, EnvelopeError> {
    let map = value.as_object().ok_or_else(|| shape("a signature must be an object"))?;
    let keyid = match map.get("keyid") {
        None => "",
        Some(_) => text(map, "keyid")?,
    };
    let sig = base64(text(map, "sig")?).and_then(|bytes| bytes.try_into().ok());
    let sig = sig.ok_or_else(|| shape("`sig` must be base64 of 64 bytes"))?;
    Ok(Signature { keyid: keyid.to_owned(), sig })
}

fn text<'a>(map: &'a Map<String, Value>, field: &str) -> Result<&'a str, EnvelopeError> {
    let value = map.get(field).and_then(Value::as_str);
    value.ok_or_else(|| shape(format!("`{field}` must be a string")))
}

fn shape(detail: impl Into<String>) -> EnvelopeError {
    EnvelopeError::Shape { detail: detail.into() }
}

/// Decodes either alphabet of RFC 4648, padded or not; one text never mixes them.
fn base64(text: &str) -> Option<Vec<u8>> {
    let config =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let url_safe = text.bytes().any(|b| matches!(b, b'-' | b'_'));
    let alphabet: &Alphabet = if url_safe { &URL_SAFE } else { &STANDARD };
    GeneralPurpose::new(alphabet, config).decode(text).ok()
}

#[cfg(test)]
#[path = "envelope_tests.rs"]
mod tests;
