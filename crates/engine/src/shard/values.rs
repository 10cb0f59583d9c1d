//! The values of a shard's rows: a version byte, then the fields.

use bytes::Bytes;
use stemedb_machine::shard::{
    Attestation, BucketNumber, BucketState, ClaimKey, Due, Expiry, Head, StatementId, TouchKind,
    Touched,
};
use stemedb_types::{BucketName, DecodeError, Decoder, Encoder, Key, ProjectId, Revision};

/// First byte of every value here.
const VALUE_VERSION: u8 = 1;

/// A bucket whose revision has jumped; all others stay as they were.
const JUMPED_BUCKET: u8 = 2;

pub(super) fn encode_bucket(state: &BucketState) -> Vec<u8> {
    let mut out = Encoder::with_capacity(32);
    let has_jumped = state.jumped > Revision(0);
    out.u8(if has_jumped { JUMPED_BUCKET } else { VALUE_VERSION });
    out.u32(state.number.0);
    out.varint(state.revision.0);
    out.varint(state.compacted.0);
    if has_jumped {
        out.varint(state.jumped.0);
    }
    out.into_vec()
}

pub(super) fn decode_bucket(value: &[u8]) -> Result<BucketState, DecodeError> {
    let mut from = Decoder::new(value);
    let version = from.version("bucket", JUMPED_BUCKET)?;
    let state = BucketState {
        number: BucketNumber(from.u32()?),
        revision: Revision(from.varint()?),
        compacted: Revision(from.varint()?),
        jumped: match version {
            JUMPED_BUCKET => Revision(from.varint()?),
            _ => Revision(0),
        },
    };
    from.finish()?;
    Ok(state)
}

/// A version that goes by itself. Since format 2 of the store; all others stay as they were.
const EXPIRING_VERSION: u8 = 2;

pub(super) fn encode_version(head: &Head, value: &[u8]) -> Vec<u8> {
    let mut out = Encoder::with_capacity(value.len() + 40);
    out.u8(if head.expiry.is_some() { EXPIRING_VERSION } else { VALUE_VERSION });
    out.bool(head.deleted);
    out.varint(head.create_revision.0);
    out.varint(head.version);
    if let Some(expiry) = head.expiry {
        out.varint(head.mod_revision.0);
        out.varint(expiry.at_ms);
    }
    out.raw(value);
    out.into_vec()
}

/// Reads a version that stands under a revision: its own, or its last touch's.
pub(super) fn decode_version(
    value: &[u8],
    revision: Revision,
) -> Result<(Head, &[u8]), DecodeError> {
    let mut from = Decoder::new(value);
    let format = from.version("version", EXPIRING_VERSION)?;
    let deleted = from.bool()?;
    let create_revision = Revision(from.varint()?);
    let version = from.varint()?;
    let (mod_revision, expiry) = match format {
        EXPIRING_VERSION => {
            let modified = Revision(from.varint()?);
            (modified, Some(Expiry { at_ms: from.varint()?, lease: revision }))
        }
        _ => (revision, None),
    };
    Ok((Head { create_revision, mod_revision, version, deleted, expiry }, from.left()))
}

/// What an index row by time holds: the rest of what an expire needs.
pub(super) fn encode_expiry(project: ProjectId, name: &BucketName, lease: Revision) -> Vec<u8> {
    let mut out = Encoder::with_capacity(name.as_str().len() + 16);
    out.u8(VALUE_VERSION);
    out.varint(lease.0);
    out.varint(project.0);
    out.text(name.as_str());
    out.into_vec()
}

/// Reads an index row: the name behind its kind, and its value.
pub(crate) fn decode_expiry(name: &[u8], value: &[u8]) -> Result<Due, DecodeError> {
    let short = DecodeError::Short { missing_bytes: 12usize.saturating_sub(name.len()) };
    let (at_ms, rest) = name.split_first_chunk::<8>().ok_or(short.clone())?;
    let (_, key) = rest.split_first_chunk::<4>().ok_or(short)?;
    let got = key.len() as u64;
    let key = Key::new(key.to_vec());
    let mut from = Decoder::new(value);
    from.version("expiry", VALUE_VERSION)?;
    let lease = Revision(from.varint()?);
    let project = ProjectId(from.varint()?);
    let refused = DecodeError::Value { what: "a bucket name", got: 0 };
    let due = Due {
        at_ms: u64::from_be_bytes(*at_ms),
        project,
        bucket: from.text("a bucket name")?.parse().map_err(|_| refused)?,
        key: key.map_err(|_| DecodeError::Value { what: "a key's length", got })?,
        lease,
    };
    from.finish()?;
    Ok(due)
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
            TouchKind::Expire => 4,
            TouchKind::Touch => 5,
        });
        out.bytes(&line.what);
    }
    out.into_vec()
}

pub(crate) fn decode_log(value: &[u8]) -> Result<Vec<Touched>, DecodeError> {
    let mut from = Decoder::new(value);
    from.version("log", VALUE_VERSION)?;
    let count = from.length(2)?;
    let line = |from: &mut Decoder<'_>| {
        let kind = match from.u8()? {
            1 => TouchKind::Put,
            2 => TouchKind::Delete,
            3 => TouchKind::Assert,
            4 => TouchKind::Expire,
            5 => TouchKind::Touch,
            got => return Err(DecodeError::Value { what: "a kind of change", got: got.into() }),
        };
        Ok(Touched { kind, what: Bytes::copy_from_slice(from.bytes()?) })
    };
    let touched = (0..count).map(|_| line(&mut from)).collect::<Result<_, _>>()?;
    from.finish()?;
    Ok(touched)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buckets_row_stands_as_it_was_first_written_unless_it_has_jumped() {
        let plain = BucketState {
            number: BucketNumber(3),
            revision: Revision(300),
            compacted: Revision(7),
            jumped: Revision(0),
        };
        let jumped = BucketState { jumped: Revision(5), ..plain };
        for (state, bytes) in
            [(plain, &[1, 3, 0, 0, 0, 0xac, 2, 7][..]), (jumped, &[2, 3, 0, 0, 0, 0xac, 2, 7, 5])]
        {
            assert_eq!(encode_bucket(&state), bytes);
            assert_eq!(decode_bucket(bytes), Ok(state));
        }
        assert!(decode_bucket(&[3, 3, 0, 0, 0, 0xac, 2, 7, 5, 1]).is_err());
    }
}
