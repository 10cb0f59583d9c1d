//! Machine changes → rows, and the machine's view of them.
//!
//! | file | idea |
//! |---|---|
//! | `keys` | the versions of keys, looked up and scanned |
//! | `expiry` | the index of keys that go by themselves |
//! | `kept` | answers that are kept, for writes that come again |
//! | `floor` | what goes when a bucket's floor goes up |
//! | `living` | the rows that a state is made of |
//! | `run` | the view for a run of entries: many look-ups, one iterator |
//! | `claims` | statements with their attestations, and the indexes over them |
//! | `values` | what the rows hold, as bytes |
//! | `whole` | whether a row is one of ours, for the offline check |

mod claims;
mod expiry;
mod floor;
mod kept;
mod keys;
mod living;
mod run;
mod values;
pub(crate) mod whole;

use std::ops::ControlFlow;

use stemedb_machine::Error as MachineError;
use stemedb_machine::shard::{
    AgentId, BucketNumber, BucketState, Change, ClaimKey, ClaimOrder, ClaimRow, ClaimStart, Due,
    Expiry, Head, IdempotencyKey, KeptAnswer, KeptName, KeptRange, KeyWalk, PassedKey, StatementId,
    Version, View,
};
use stemedb_types::{BucketName, Key, ProjectId, Revision};

use crate::{Batch, Error, Group};
pub(crate) use living::Living;
pub use run::Run;
use values::{
    decode_bucket, decode_claim_key, encode_attestation, encode_bucket, encode_claim_key,
    encode_expiry, encode_log, encode_statement, encode_version,
};

fn corrupt(what: &'static str, cause: impl ToString) -> Error {
    Error::Corrupt { what, cause: cause.to_string() }
}

impl Batch {
    /// Writes one change of a shard.
    pub fn put_change(&mut self, change: &Change) {
        let scope = self.scope;
        match change {
            Change::NextBucket { number } => {
                self.last.insert(scope.next_bucket(), Some(number.0.to_be_bytes().to_vec()));
            }
            Change::Base { to } => {
                self.last.insert(scope.base(), Some(to.0.to_be_bytes().to_vec()));
            }
            Change::Bucket { project, name, state } => {
                self.last.insert(scope.bucket(*project, name), Some(encode_bucket(state)));
            }
            Change::Floor { project, name, state } => {
                let row = scope.bucket(*project, name);
                self.floors.insert(state.number, (row.clone(), state.compacted));
                self.last.insert(row, Some(encode_bucket(state)));
            }
            Change::Expiry { project, name, bucket, key, was, now } => {
                let row = |expiry: &Expiry| scope.expiry(expiry.at_ms, *bucket, key.as_bytes());
                if let Some(was) = was {
                    self.last.insert(row(was), None);
                }
                if let Some(now) = now {
                    let value = encode_expiry(*project, name, now.lease);
                    self.last.insert(row(now), Some(value));
                }
            }
            Change::KeepAnswer { project, name, key, answer } => {
                let row = scope.kept_name(*project, name, answer.sequence);
                self.last.insert(row, Some(kept::encode_name(key, answer.at_ms)));
                let row = scope.kept_answer(*project, name, key);
                self.last.insert(row, Some(kept::encode_answer(answer)));
            }
            Change::DropAnswer { project, name, key, sequence } => {
                self.last.insert(scope.kept_name(*project, name, *sequence), None);
                self.last.insert(scope.kept_answer(*project, name, key), None);
            }
            Change::Kept { project, name, range } => {
                let row = scope.kept_range(*project, name);
                self.last.insert(row, Some(kept::encode_range(range)));
            }
            Change::Version { bucket, key, head, value } => {
                let row = scope.version(*bucket, key.as_bytes(), head.revision());
                self.rows.put(row, encode_version(head, value));
            }
            Change::Claim { bucket, key, statement } => {
                let row = claims::statement_row(scope, *bucket, key);
                self.rows.put(row, encode_statement(statement));
                self.rows.put(scope.claim_id(*bucket, key.id), encode_claim_key(key));
                self.rows.put(scope.claim_by_predicate(*bucket, key), Vec::new());
            }
            Change::Attest { bucket, key, attestation } => {
                let agent = &attestation.agent;
                let row = claims::attestation_row(scope, *bucket, key, agent);
                self.rows.put(row, encode_attestation(attestation));
                self.rows.put(scope.claim_by_agent(*bucket, agent, key), Vec::new());
            }
            Change::Log { bucket, revision, touched } => {
                self.rows.put(scope.log(*bucket, *revision), encode_log(touched));
            }
        }
    }
}

impl View for Group {
    fn bucket(
        &self,
        project: ProjectId,
        name: &BucketName,
    ) -> Result<Option<BucketState>, MachineError> {
        let Some(value) = self.get(&self.scope.bucket(project, name))? else { return Ok(None) };
        Ok(Some(decode_bucket(&value).map_err(|cause| corrupt("a bucket", cause))?))
    }

    fn next_bucket(&self) -> Result<BucketNumber, MachineError> {
        let Some(value) = self.get(&self.scope.next_bucket())? else {
            return Ok(BucketNumber(0));
        };
        let bytes = value.as_ref().try_into();
        let bytes = bytes.map_err(|_| corrupt("the next bucket", "not 4 bytes long"))?;
        Ok(BucketNumber(u32::from_be_bytes(bytes)))
    }

    fn base(&self) -> Result<Revision, MachineError> {
        let Some(value) = self.get(&self.scope.base())? else { return Ok(Revision(0)) };
        let bytes = value.as_ref().try_into();
        let bytes = bytes.map_err(|_| corrupt("the base of revisions", "not 8 bytes long"))?;
        Ok(Revision(u64::from_be_bytes(bytes)))
    }

    fn head(&self, bucket: BucketNumber, key: &Key) -> Result<Option<Head>, MachineError> {
        Ok(self.newest(bucket, key, Revision(u64::MAX), |head, _| head)?)
    }

    fn version(
        &self,
        bucket: BucketNumber,
        key: &Key,
        as_of: Revision,
    ) -> Result<Option<Version>, MachineError> {
        Ok(self.newest(bucket, key, as_of, keys::version)?)
    }

    fn trimmed(&self, bucket: BucketNumber) -> Result<Revision, MachineError> {
        Ok(self.store.floors().announced(self.scope, bucket))
    }

    fn due(&self, until_ms: u64, limit: usize) -> Result<Vec<Due>, MachineError> {
        Ok(self.due_until(until_ms, limit)?)
    }

    fn kept_answer(
        &self,
        project: ProjectId,
        name: &BucketName,
        key: &IdempotencyKey,
    ) -> Result<Option<KeptAnswer>, MachineError> {
        Ok(self.answer_kept(project, name, key)?)
    }

    fn kept_name(
        &self,
        project: ProjectId,
        name: &BucketName,
        sequence: u64,
    ) -> Result<Option<KeptName>, MachineError> {
        Ok(self.name_kept(project, name, sequence)?)
    }

    fn kept_range(&self, project: ProjectId, name: &BucketName) -> Result<KeptRange, MachineError> {
        Ok(self.range_kept(project, name)?)
    }

    fn walk_keys(
        &self,
        bucket: BucketNumber,
        walk: &KeyWalk,
        visit: &mut dyn FnMut(PassedKey) -> ControlFlow<()>,
    ) -> Result<(), MachineError> {
        Ok(self.walk_versions(bucket, walk, visit)?)
    }

    fn claim_key(
        &self,
        bucket: BucketNumber,
        id: StatementId,
    ) -> Result<Option<ClaimKey>, MachineError> {
        let Some(value) = self.get(&self.scope.claim_id(bucket, id))? else { return Ok(None) };
        Ok(Some(decode_claim_key(&value, id).map_err(|cause| corrupt("a claim's place", cause))?))
    }

    fn claim(
        &self,
        bucket: BucketNumber,
        key: &ClaimKey,
    ) -> Result<Option<ClaimRow>, MachineError> {
        Ok(self.gather_claim(bucket, key.clone())?)
    }

    fn attested(
        &self,
        bucket: BucketNumber,
        key: &ClaimKey,
        agent: &AgentId,
    ) -> Result<bool, MachineError> {
        Ok(self.get(&claims::attestation_row(self.scope, bucket, key, agent))?.is_some())
    }

    fn scan_claims(
        &self,
        bucket: BucketNumber,
        order: &ClaimOrder,
        start: &ClaimStart,
        visit: &mut dyn FnMut(ClaimRow) -> ControlFlow<()>,
    ) -> Result<(), MachineError> {
        let walked = match order {
            ClaimOrder::Subject => self.walk_claims(bucket, start, visit),
            ClaimOrder::Predicate | ClaimOrder::Agent(_) => {
                self.walk_claim_index(bucket, order, start, visit)
            }
        };
        Ok(walked?)
    }
}
