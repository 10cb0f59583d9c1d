//! A view with changes laid over it: how a run of entries is applied and
//! written as one batch.
//!
//! The second entry of a run must see what the first did, though nothing has
//! been written yet. Only what `apply` looks up is laid over (buckets, newest
//! versions, claim places, attestations, kept answers). A scan or a look into the past would miss the
//! run, so it is refused.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

use stemedb_claims::{AgentId, StatementId};
use stemedb_types::{BucketName, Key, ProjectId, Revision};

use super::change::Change;
use super::once::{IdempotencyKey, KeptAnswer, KeptName, KeptRange};
use super::view::{
    BucketNumber, BucketState, ClaimKey, ClaimOrder, ClaimRow, ClaimStart, Due, Head, KeyWalk,
    PassedKey, Version, View,
};
use crate::Error;

/// The state below, and the changes of a run that are not in it yet.
pub struct Overlay<'v, V: View> {
    below: &'v V,
    buckets: HashMap<(ProjectId, BucketName), BucketState>,
    next_bucket: Option<BucketNumber>,
    base: Option<Revision>,
    versions: HashMap<(BucketNumber, Key), Version>,
    claims: HashMap<(BucketNumber, StatementId), ClaimKey>,
    attested: HashSet<(BucketNumber, StatementId, AgentId)>,
    kept: HashMap<(ProjectId, BucketName), Kept>,
}

/// The answers of one bucket as the run leaves them; `None`: dropped.
#[derive(Default)]
struct Kept {
    answers: HashMap<IdempotencyKey, Option<KeptAnswer>>,
    names: HashMap<u64, Option<KeptName>>,
    range: Option<KeptRange>,
}

impl<'v, V: View> Overlay<'v, V> {
    /// Nothing laid over yet.
    pub fn new(below: &'v V) -> Self {
        Self {
            below,
            buckets: HashMap::new(),
            next_bucket: None,
            base: None,
            versions: HashMap::new(),
            claims: HashMap::new(),
            attested: HashSet::new(),
            kept: HashMap::new(),
        }
    }

    /// Lays the changes of one entry over what is there.
    pub fn absorb(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::NextBucket { number } => self.next_bucket = Some(*number),
                Change::Base { to } => self.base = Some(*to),
                Change::Bucket { project, name, state } => {
                    self.buckets.insert((*project, name.clone()), *state);
                }
                Change::Floor { project, name, state } => {
                    self.buckets.insert((*project, name.clone()), *state);
                }
                Change::Version { bucket, key, head, value } => {
                    let version = Version { head: *head, value: value.clone() };
                    self.versions.insert((*bucket, key.clone()), version);
                }
                Change::Claim { bucket, key, .. } => {
                    self.claims.insert((*bucket, key.id), key.clone());
                }
                Change::Attest { bucket, key, attestation } => {
                    self.attested.insert((*bucket, key.id, attestation.agent.clone()));
                }
                Change::KeepAnswer { project, name, key, answer } => {
                    let kept = self.kept_of(*project, name);
                    let named = KeptName { key: key.clone(), at_ms: answer.at_ms };
                    kept.names.insert(answer.sequence, Some(named));
                    kept.answers.insert(key.clone(), Some(answer.clone()));
                }
                Change::DropAnswer { project, name, key, sequence } => {
                    let kept = self.kept_of(*project, name);
                    kept.names.insert(*sequence, None);
                    kept.answers.insert(key.clone(), None);
                }
                Change::Kept { project, name, range } => {
                    self.kept_of(*project, name).range = Some(*range);
                }
                Change::Log { .. } | Change::Expiry { .. } => {}
            }
        }
    }

    fn kept_of(&mut self, project: ProjectId, name: &BucketName) -> &mut Kept {
        self.kept.entry((project, name.clone())).or_default()
    }
}

const SCANNED: &str = "an entry scanned a half-applied run";

impl<V: View> View for Overlay<'_, V> {
    fn bucket(&self, project: ProjectId, name: &BucketName) -> Result<Option<BucketState>, Error> {
        if let Some(state) = self.buckets.get(&(project, name.clone())) {
            return Ok(Some(*state));
        }
        self.below.bucket(project, name)
    }

    fn base(&self) -> Result<Revision, Error> {
        self.base.map_or_else(|| self.below.base(), Ok)
    }

    fn next_bucket(&self) -> Result<BucketNumber, Error> {
        self.next_bucket.map_or_else(|| self.below.next_bucket(), Ok)
    }

    fn head(&self, bucket: BucketNumber, key: &Key) -> Result<Option<Head>, Error> {
        if let Some(version) = self.versions.get(&(bucket, key.clone())) {
            return Ok(Some(version.head));
        }
        self.below.head(bucket, key)
    }

    fn current(&self, bucket: BucketNumber, key: &Key) -> Result<Option<Version>, Error> {
        if let Some(version) = self.versions.get(&(bucket, key.clone())) {
            return Ok(Some(version.clone()));
        }
        self.below.current(bucket, key)
    }

    fn trimmed(&self, _bucket: BucketNumber) -> Result<Revision, Error> {
        Err(Error::Contradiction(SCANNED.to_owned()))
    }

    fn due(&self, _until_ms: u64, _limit: usize) -> Result<Vec<Due>, Error> {
        Err(Error::Contradiction(SCANNED.to_owned()))
    }

    fn kept_answer(
        &self,
        project: ProjectId,
        name: &BucketName,
        key: &IdempotencyKey,
    ) -> Result<Option<KeptAnswer>, Error> {
        let laid = self.kept.get(&(project, name.clone())).and_then(|kept| kept.answers.get(key));
        laid.map_or_else(|| self.below.kept_answer(project, name, key), |kept| Ok(kept.clone()))
    }

    fn kept_name(
        &self,
        project: ProjectId,
        name: &BucketName,
        sequence: u64,
    ) -> Result<Option<KeptName>, Error> {
        let laid = self.kept.get(&(project, name.clone()));
        let laid = laid.and_then(|kept| kept.names.get(&sequence));
        laid.map_or_else(|| self.below.kept_name(project, name, sequence), |kept| Ok(kept.clone()))
    }

    fn kept_range(&self, project: ProjectId, name: &BucketName) -> Result<KeptRange, Error> {
        let laid = self.kept.get(&(project, name.clone())).and_then(|kept| kept.range);
        laid.map_or_else(|| self.below.kept_range(project, name), Ok)
    }

    fn version(
        &self,
        _bucket: BucketNumber,
        _key: &Key,
        _as_of: Revision,
    ) -> Result<Option<Version>, Error> {
        Err(Error::Contradiction(SCANNED.to_owned()))
    }

    fn walk_keys(
        &self,
        _bucket: BucketNumber,
        _walk: &KeyWalk,
        _visit: &mut dyn FnMut(PassedKey) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        Err(Error::Contradiction(SCANNED.to_owned()))
    }

    fn claim_key(&self, bucket: BucketNumber, id: StatementId) -> Result<Option<ClaimKey>, Error> {
        if let Some(key) = self.claims.get(&(bucket, id)) {
            return Ok(Some(key.clone()));
        }
        self.below.claim_key(bucket, id)
    }

    fn claim(&self, _bucket: BucketNumber, _key: &ClaimKey) -> Result<Option<ClaimRow>, Error> {
        Err(Error::Contradiction(SCANNED.to_owned()))
    }

    fn attested(
        &self,
        bucket: BucketNumber,
        key: &ClaimKey,
        agent: &AgentId,
    ) -> Result<bool, Error> {
        if self.attested.contains(&(bucket, key.id, agent.clone())) {
            return Ok(true);
        }
        self.below.attested(bucket, key, agent)
    }

    fn scan_claims(
        &self,
        _bucket: BucketNumber,
        _order: &ClaimOrder,
        _start: &ClaimStart,
        _visit: &mut dyn FnMut(ClaimRow) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        Err(Error::Contradiction(SCANNED.to_owned()))
    }
}
