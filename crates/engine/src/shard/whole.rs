//! Whether a row is whole: its name parses to its end, and so does its value.
//!
//! A block's checksum says that its bytes are those that were written; this says that they were a row
//! of a shard. The offline check asks it of every row.

use stemedb_types::{BucketName, Revision};

use super::kept;
use super::values::{
    decode_attestation, decode_bucket, decode_claim_key, decode_expiry, decode_log,
    decode_statement, decode_version,
};
use crate::rows::{Kind, take_text};
use stemedb_machine::shard::StatementId;

/// Checks a row of a shard: `name` is what stands behind its kind.
///
/// `Ok(false)` if shards have no rows of that kind.
pub(crate) fn check(kind: u8, name: &[u8], value: &[u8]) -> Result<bool, String> {
    const NEXT_BUCKET: u8 = Kind::NextBucket as u8;
    const BASE: u8 = Kind::Base as u8;
    const BUCKET: u8 = Kind::Bucket as u8;
    const VERSION: u8 = Kind::Version as u8;
    const LOG: u8 = Kind::Log as u8;
    const CLAIM: u8 = Kind::Claim as u8;
    const CLAIM_ID: u8 = Kind::ClaimId as u8;
    const BY_PREDICATE: u8 = Kind::ClaimByPredicate as u8;
    const BY_AGENT: u8 = Kind::ClaimByAgent as u8;
    const EXPIRY: u8 = Kind::Expiry as u8;
    const KEPT_RANGE: u8 = Kind::KeptRange as u8;
    const KEPT_NAME: u8 = Kind::KeptName as u8;
    const KEPT_ANSWER: u8 = Kind::KeptAnswer as u8;
    let checked = match kind {
        NEXT_BUCKET => (name.is_empty() && value.len() == 4).then_some(()),
        BASE => (name.is_empty() && value.len() == 8).then_some(()),
        BUCKET => bucket(name, value),
        VERSION => version(name, value),
        LOG => (name.len() == 12 && decode_log(value).is_ok()).then_some(()),
        CLAIM => claim(name, value),
        CLAIM_ID => claim_id(name, value),
        BY_PREDICATE => (index(name, 2) && value.is_empty()).then_some(()),
        BY_AGENT => (index(name, 3) && value.is_empty()).then_some(()),
        EXPIRY => decode_expiry(name, value).ok().map(|_| ()),
        KEPT_RANGE => kept::range_is_whole(name, value),
        KEPT_NAME => kept::name_is_whole(name, value),
        KEPT_ANSWER => kept::answer_is_whole(name, value),
        _ => return Ok(false),
    };
    checked.map(|()| true).ok_or_else(|| format!("a row of kind {kind:#04x} does not parse"))
}

fn bucket(name: &[u8], value: &[u8]) -> Option<()> {
    let (_, bucket) = name.split_first_chunk::<8>()?;
    std::str::from_utf8(bucket).ok()?.parse::<BucketName>().ok()?;
    decode_bucket(value).ok().map(|_| ())
}

fn version(name: &[u8], value: &[u8]) -> Option<()> {
    let (_, rest) = take_text(name.get(4..)?)?;
    let revision = Revision(!u64::from_be_bytes(rest.try_into().ok()?));
    decode_version(value, revision).ok().map(|_| ())
}

fn claim(name: &[u8], value: &[u8]) -> Option<()> {
    let (_, rest) = take_text(name.get(4..)?)?;
    let (_, rest) = take_text(rest)?;
    let (_, rest) = rest.split_first_chunk::<32>()?;
    match rest.split_first()? {
        (0, []) => decode_statement(value).ok().map(|_| ()),
        (1, agent) => decode_attestation(value, agent).ok().map(|_| ()),
        _ => None,
    }
}

fn claim_id(name: &[u8], value: &[u8]) -> Option<()> {
    let id = name.get(4..)?.try_into().ok()?;
    decode_claim_key(value, StatementId(id)).ok().map(|_| ())
}

/// A name of a bucket, so many texts and a claim's id.
fn index(name: &[u8], texts: usize) -> bool {
    let rest = (0..texts).try_fold(name.get(4..).unwrap_or_default(), |rest, _| {
        take_text(rest).map(|(_, rest)| rest)
    });
    rest.is_some_and(|id| id.len() == 32)
}
