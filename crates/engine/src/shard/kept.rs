//! The answers that are kept, for writes that come again: their rows.
//!
//! Three kinds, all found by their whole name and never walked: the answer by the write's name, the
//! write's name by its number, and the range of numbers that stand.

use stemedb_machine::shard::{
    Answer, Fingerprint, IdempotencyKey, KeptAnswer, KeptName, KeptRange,
};
use stemedb_types::{BucketName, DecodeError, Decoder, Encoder, ProjectId};

use super::corrupt;
use crate::rows::take_text;
use crate::{Error, Group};

/// First byte of every value here.
const VALUE_VERSION: u8 = 1;

pub(super) fn encode_answer(kept: &KeptAnswer) -> Vec<u8> {
    let mut out = Encoder::with_capacity(64);
    out.u8(VALUE_VERSION);
    out.varint(kept.sequence);
    out.varint(kept.at_ms);
    out.raw(&kept.fingerprint.0);
    kept.answer.encode(&mut out);
    out.into_vec()
}

fn decode_answer(value: &[u8]) -> Result<KeptAnswer, DecodeError> {
    let mut from = Decoder::new(value);
    from.version("kept answer", VALUE_VERSION)?;
    let kept = KeptAnswer {
        sequence: from.varint()?,
        at_ms: from.varint()?,
        fingerprint: Fingerprint::decode(&mut from)?,
        answer: Answer::decode(&mut from)?,
    };
    from.finish()?;
    Ok(kept)
}

pub(super) fn encode_name(key: &IdempotencyKey, at_ms: u64) -> Vec<u8> {
    let mut out = Encoder::with_capacity(key.as_bytes().len() + 8);
    out.u8(VALUE_VERSION);
    out.varint(at_ms);
    out.raw(key.as_bytes());
    out.into_vec()
}

fn decode_name(value: &[u8]) -> Result<KeptName, DecodeError> {
    let mut from = Decoder::new(value);
    from.version("kept name", VALUE_VERSION)?;
    let at_ms = from.varint()?;
    let key = IdempotencyKey::new(from.left().to_vec());
    let got = from.left().len() as u64;
    let key = key.ok_or(DecodeError::Value { what: "an idempotency key", got })?;
    Ok(KeptName { key, at_ms })
}

pub(super) fn encode_range(range: &KeptRange) -> Vec<u8> {
    let mut out = Encoder::with_capacity(24);
    out.u8(VALUE_VERSION);
    out.varint(range.first);
    out.varint(range.next);
    out.varint(range.oldest_ms);
    out.into_vec()
}

fn decode_range(value: &[u8]) -> Result<KeptRange, DecodeError> {
    let mut from = Decoder::new(value);
    from.version("kept range", VALUE_VERSION)?;
    let range =
        KeptRange { first: from.varint()?, next: from.varint()?, oldest_ms: from.varint()? };
    from.finish()?;
    if range.next < range.first {
        return Err(DecodeError::Value { what: "the end of a range", got: range.next });
    }
    Ok(range)
}

impl Group {
    pub(super) fn answer_kept(
        &self,
        project: ProjectId,
        name: &BucketName,
        key: &IdempotencyKey,
    ) -> Result<Option<KeptAnswer>, Error> {
        let value = self.get(&self.scope.kept_answer(project, name, key))?;
        let kept = value.map(|value| decode_answer(&value)).transpose();
        kept.map_err(|cause| corrupt("a kept answer", cause))
    }

    pub(super) fn name_kept(
        &self,
        project: ProjectId,
        name: &BucketName,
        sequence: u64,
    ) -> Result<Option<KeptName>, Error> {
        let value = self.get(&self.scope.kept_name(project, name, sequence))?;
        let kept = value.map(|value| decode_name(&value)).transpose();
        kept.map_err(|cause| corrupt("the name of a kept answer", cause))
    }

    pub(super) fn range_kept(
        &self,
        project: ProjectId,
        name: &BucketName,
    ) -> Result<KeptRange, Error> {
        let value = self.get(&self.scope.kept_range(project, name))?;
        let range = value.map(|value| decode_range(&value)).transpose();
        Ok(range.map_err(|cause| corrupt("a range of kept answers", cause))?.unwrap_or_default())
    }
}

/// Whether a range's row is whole: `name` is what stands behind its kind. So the other two.
pub(super) fn range_is_whole(name: &[u8], value: &[u8]) -> Option<()> {
    let (_, bucket) = name.split_first_chunk::<8>()?;
    is_bucket(bucket)?;
    decode_range(value).ok().map(|_| ())
}

pub(super) fn name_is_whole(name: &[u8], value: &[u8]) -> Option<()> {
    let sequence = behind_bucket(name)?;
    decode_name(value).ok().filter(|_| sequence.len() == 8).map(|_| ())
}

pub(super) fn answer_is_whole(name: &[u8], value: &[u8]) -> Option<()> {
    IdempotencyKey::new(behind_bucket(name)?)?;
    decode_answer(value).ok().map(|_| ())
}

fn behind_bucket(name: &[u8]) -> Option<Vec<u8>> {
    let (bucket, rest) = take_text(name.get(8..)?)?;
    is_bucket(&bucket)?;
    Some(rest.to_vec())
}

fn is_bucket(bucket: &[u8]) -> Option<()> {
    std::str::from_utf8(bucket).ok()?.parse::<BucketName>().ok().map(|_| ())
}
