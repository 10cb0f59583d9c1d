//! The values of a shard's rows: a version byte, then the fields.

use bytes::Bytes;
use stemedb_machine::shard::{
    Attestation, BucketNumber, BucketState, ClaimKey, Head, StatementId, TouchKind, Touched,
};
use stemedb_types::{DecodeError, Decoder, Encoder, Revision};

/// First byte of every value here.
const VALUE_VERSION: u8 = 1;

pub(super) fn encode_bucket(state: &BucketState) -> Vec<u8> {
    let mut out = Encoder::with_capacity(24);
    out.u8(VALUE_VERSION);
    out.u32(state.number.0);
    out.varint(state.revision.0);
    out.varint(state.compacted.0);
    out.into_vec()
}

pub(super) fn decode_bucket(value: &[u8]) -> Result<BucketState, DecodeError> {
    let mut from = Decoder::new(value);
    from.version("bucket", VALUE_VERSION)?;
    let state = BucketState {
        number: BucketNumber(from.u32()?),
        revision: Revision(from.varint()?),
        compacted: Revision(from.varint()?),
    };
    from.finish()?;
    Ok(state)
}

pub(super) fn encode_version(head: &Head, value: &[u8]) -> Vec<u8> {
    let mut out = Encoder::with_capacity(value.len() + 24);
    out.u8(VALUE_VERSION);
    out.bool(head.deleted);
    out.varint(head.create_revision.0);
    out.varint(head.version);
    out.raw(value);
    out.into_vec()
}

pub(super) fn decode_version(
    value: &[u8],
    mod_revision: Revision,
) -> Result<(Head, &[u8]), DecodeError> {
    let mut from = Decoder::new(value);
    from.version("version", VALUE_VERSION)?;
    let deleted = from.bool()?;
    let create_revision = Revision(from.varint()?);
    let version = from.varint()?;
    Ok((Head { create_revision, mod_revision, version, deleted }, from.left()))
}

pub(super) fn encode_statement(statement: &[u8]) -> Vec<u8> {
    let mut out = Encoder::with_capacity(statement.len() + 1);
    out.u8(VALUE_VERSION);
    out.raw(statement);
    out.into_vec()
}

pub(super) fn decode_statement(value: &[u8]) -> Result<Bytes, DecodeError> {
    let mut from = Decoder::new(value);
    from.version("statement", VALUE_VERSION)?;
    Ok(Bytes::copy_from_slice(from.left()))
}

pub(super) fn encode_claim_key(key: &ClaimKey) -> Vec<u8> {
    let mut out = Encoder::new();
    out.u8(VALUE_VERSION);
    out.text(&key.subject);
    out.text(&key.predicate);
    out.into_vec()
}

pub(super) fn decode_claim_key(value: &[u8], id: StatementId) -> Result<ClaimKey, DecodeError> {
    let mut from = Decoder::new(value);
    from.version("claim key", VALUE_VERSION)?;
    let key = ClaimKey {
        subject: from.text("a subject")?.to_owned(),
        predicate: from.text("a predicate")?.to_owned(),
        id,
    };
    from.finish()?;
    Ok(key)
}

pub(super) fn encode_attestation(attestation: &Attestation) -> Vec<u8> {
    let mut out = Encoder::new();
    out.u8(VALUE_VERSION);
    out.varint(attestation.revision.0);
    out.varint(attestation.at_ms);
    out.into_vec()
}

pub(super) fn decode_attestation(value: &[u8], agent: &[u8]) -> Result<Attestation, DecodeError> {
    let refused = DecodeError::Text { what: "an agent" };
    let agent =
        std::str::from_utf8(agent).ok().and_then(|text| text.parse().ok()).ok_or(refused)?;
    let mut from = Decoder::new(value);
    from.version("attestation", VALUE_VERSION)?;
    let attestation =
        Attestation { agent, revision: Revision(from.varint()?), at_ms: from.varint()? };
    from.finish()?;
    Ok(attestation)
}

pub(super) fn encode_log(touched: &[Touched]) -> Vec<u8> {
    let mut out = Encoder::new();
    out.u8(VALUE_VERSION);
    out.varint(touched.len() as u64);
    for line in touched {
        out.u8(match line.kind {
            TouchKind::Put => 1,
            TouchKind::Delete => 2,
            TouchKind::Assert => 3,
        });
        out.bytes(&line.what);
    }
    out.into_vec()
}
