//! Statements, their canonical form, ids, signatures and the lenses that resolve them; pure.
//!
//! A *statement* is one immutable sentence: subject, predicate, object, how
//! sure its maker is and when it holds. This crate decides three things about
//! it, and every one of them is the same on every machine for ever:
//!
//! 1. whether bytes are a statement at all ([`Statement::parse`]);
//! 2. what it is called ([`StatementId`]: SHA-256 over the DSSE encoding of its
//!    RFC 8785 canonical form), so that a retry names the same thing;
//! 3. which of many claims about one (subject, predicate) is the answer
//!    ([`Lens`]), whatever order they are read in.
//!
//! ```text
//! bytes ─► strict::parse_json ─► Statement::from_value ─► canonical bytes ─► id
//!                                                              │
//! envelope ─► Envelope::verify ─► agents ─► Attestation ─► Claim ─► Lens
//! ```
//!
//! No IO, no clock, no chance: the instant a question is asked at is a
//! parameter, and keys come in through a function.
//!
//! Left out, with the cost. Retraction and supersession are not applied here:
//! a caller hands a lens only claims that stand, and a reference is data until
//! then. The lenses that need a table of trust (`confidence`, `weighted`,
//! `consensus`, `authority`) do not exist yet and their names are refused, so
//! nobody gets the answer of another lens by mistake. In-toto payloads are not
//! read: an envelope of that type is refused by its payload type.
//!
//! | file | idea |
//! |---|---|
//! | `strict` | JSON that means one thing: no key twice, no number a double would change |
//! | `instant` | RFC 3339 as exact nanoseconds |
//! | `statement` | the shape of a statement, field by field |
//! | `canonical` | RFC 8785, and the order of a statement's own fields |
//! | `id` | the DSSE encoding and the id over it |
//! | `agent` | who says it: key ids, public keys, assurance |
//! | `envelope` | DSSE envelopes and strict Ed25519 |
//! | `claim` | a statement with those who made it |
//! | `lens` | from many claims to an answer |

mod agent;
mod canonical;
mod claim;
mod envelope;
mod error;
mod id;
mod instant;
mod lens;
mod statement;
mod strict;

pub use agent::{AgentError, AgentId, Assurance, PublicKey};
pub use claim::{Attestation, Claim};
pub use envelope::{ENVELOPE_BYTES_MAX, Envelope, EnvelopeError, SIGNATURES_MAX, Signature};
pub use error::Error;
pub use id::{PAYLOAD_TYPE, StatementId, pae};
pub use instant::InstantNs;
pub use lens::{Asked, Decision, Lens, Resolution, UnknownLens};
pub use statement::{Reference, Relation, Source, Statement};
pub use strict::parse_json;
