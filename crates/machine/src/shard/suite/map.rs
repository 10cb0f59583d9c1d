//! The plain twin of the engine: everything in ordered maps, found by looking at all of it.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;
use stemedb_claims::{AgentId, StatementId};
use stemedb_types::{BucketName, Key, ProjectId, Revision};

use super::Replica;
use crate::Error;
use crate::shard::{
    Attestation, BucketNumber, BucketState, Change, ClaimKey, ClaimOrder, ClaimRow, ClaimStart,
    Due, Head, IdempotencyKey, KeptAnswer, KeptName, KeptRange, KeyWalk, PassedKey, Touched,
    Version, View,
};

/// The state of a shard, whole and in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MapView {
    pub next_bucket: BucketNumber,
    pub base: Revision,
    pub buckets: BTreeMap<(ProjectId, BucketName), BucketState>,
    pub versions: BTreeMap<(BucketNumber, Key), BTreeMap<Revision, Version>>,
    pub claims: BTreeMap<(BucketNumber, ClaimKey), Bytes>,
    pub attestations: BTreeMap<(BucketNumber, ClaimKey, AgentId), Attestation>,
    pub log: BTreeMap<(BucketNumber, Revision), Vec<Touched>>,
    /// By time: which key, in whose bucket, under which lease.
    pub expiries: BTreeMap<(u64, BucketNumber, Key), (ProjectId, BucketName, Revision)>,
    pub kept: BTreeMap<(ProjectId, BucketName, IdempotencyKey), KeptAnswer>,
    pub kept_names: BTreeMap<(ProjectId, BucketName, u64), KeptName>,
    pub kept_ranges: BTreeMap<(ProjectId, BucketName), KeptRange>,
}

impl Replica for MapView {
    type View = Self;

    fn write(&mut self, changes: &[Change]) {
        for change in changes.iter().cloned() {
            match change {
                Change::NextBucket { number } => self.next_bucket = number,
                Change::Base { to } => self.base = to,
                Change::Bucket { project, name, state } => {
                    self.buckets.insert((project, name), state);
                }
                Change::Version { bucket, key, head, value } => {
                    let versions = self.versions.entry((bucket, key)).or_default();
                    versions.insert(head.revision(), Version { head, value });
                }
                Change::Expiry { project, name, bucket, key, was, now } => {
                    if let Some(was) = was {
                        self.expiries.remove(&(was.at_ms, bucket, key.clone()));
                    }
                    if let Some(now) = now {
                        let due = (project, name, now.lease);
                        self.expiries.insert((now.at_ms, bucket, key), due);
                    }
                }
                Change::Floor { project, name, state } => {
                    self.trim(state.number, state.compacted);
                    self.buckets.insert((project, name), state);
                }
                Change::Claim { bucket, key, statement } => {
                    self.claims.insert((bucket, key), statement);
                }
                Change::Attest { bucket, key, attestation } => {
                    let name = (bucket, key, attestation.agent.clone());
                    self.attestations.insert(name, attestation);
                }
                Change::KeepAnswer { project, name, key, answer } => {
                    let named = KeptName { key: key.clone(), at_ms: answer.at_ms };
                    self.kept_names.insert((project, name.clone(), answer.sequence), named);
                    self.kept.insert((project, name, key), answer);
                }
                Change::DropAnswer { project, name, key, sequence } => {
                    self.kept_names.remove(&(project, name.clone(), sequence));
                    self.kept.remove(&(project, name, key));
                }
                Change::Kept { project, name, range } => {
                    self.kept_ranges.insert((project, name), range);
                }
                Change::Log { bucket, revision, touched } => {
                    self.log.insert((bucket, revision), touched);
                }
            }
        }
    }

    fn view(&self) -> &Self {
        self
    }
}

impl MapView {
    /// Lets go of all that no read at or above the floor can see.
    fn trim(&mut self, bucket: BucketNumber, floor: Revision) {
        self.log.retain(|(b, revision), _| *b != bucket || *revision > floor);
        for (_, versions) in self.versions.iter_mut().filter(|((b, _), _)| *b == bucket) {
            let newest = versions.range(..=floor).next_back();
            let kept = newest.filter(|(_, version)| !version.head.deleted).map(|(r, _)| *r);
            versions.retain(|revision, _| *revision > floor || Some(*revision) == kept);
        }
        self.versions.retain(|_, versions| !versions.is_empty());
    }

    fn row(&self, bucket: BucketNumber, key: &ClaimKey) -> Option<ClaimRow> {
        let statement = self.claims.get(&(bucket, key.clone()))?.clone();
        let own = self.attestations.iter().filter(|((b, k, _), _)| *b == bucket && k == key);
        let mut attestations: Vec<_> = own.map(|(_, attestation)| attestation.clone()).collect();
        attestations.sort_by(|a, b| (a.revision, &a.agent).cmp(&(b.revision, &b.agent)));
        Some(ClaimRow { key: key.clone(), statement, attestations })
    }
}

impl View for MapView {
    fn bucket(&self, project: ProjectId, name: &BucketName) -> Result<Option<BucketState>, Error> {
        Ok(self.buckets.get(&(project, name.clone())).copied())
    }

    fn base(&self) -> Result<Revision, Error> {
        Ok(self.base)
    }

    fn next_bucket(&self) -> Result<BucketNumber, Error> {
        Ok(self.next_bucket)
    }

    fn head(&self, bucket: BucketNumber, key: &Key) -> Result<Option<Head>, Error> {
        let version = self.version(bucket, key, Revision(u64::MAX))?;
        Ok(version.map(|version| version.head))
    }

    fn version(
        &self,
        bucket: BucketNumber,
        key: &Key,
        as_of: Revision,
    ) -> Result<Option<Version>, Error> {
        let versions = self.versions.get(&(bucket, key.clone()));
        Ok(versions.and_then(|all| all.range(..=as_of).next_back()).map(|(_, v)| v.clone()))
    }

    fn trimmed(&self, bucket: BucketNumber) -> Result<Revision, Error> {
        let state = self.buckets.values().find(|state| state.number == bucket);
        Ok(state.map_or(Revision(0), |state| state.compacted))
    }

    fn kept_answer(
        &self,
        project: ProjectId,
        name: &BucketName,
        key: &IdempotencyKey,
    ) -> Result<Option<KeptAnswer>, Error> {
        Ok(self.kept.get(&(project, name.clone(), key.clone())).cloned())
    }

    fn kept_name(
        &self,
        project: ProjectId,
        name: &BucketName,
        sequence: u64,
    ) -> Result<Option<KeptName>, Error> {
        Ok(self.kept_names.get(&(project, name.clone(), sequence)).cloned())
    }

    fn kept_range(&self, project: ProjectId, name: &BucketName) -> Result<KeptRange, Error> {
        Ok(self.kept_ranges.get(&(project, name.clone())).copied().unwrap_or_default())
    }

    fn due(&self, until_ms: u64, limit: usize) -> Result<Vec<Due>, Error> {
        let due = self.expiries.iter().take_while(|((at_ms, ..), _)| *at_ms <= until_ms);
        let due = due.map(|((at_ms, _, key), (project, bucket, lease))| Due {
            at_ms: *at_ms,
            project: *project,
            bucket: bucket.clone(),
            key: key.clone(),
            lease: *lease,
        });
        Ok(due.take(limit).collect())
    }

    fn walk_keys(
        &self,
        bucket: BucketNumber,
        walk: &KeyWalk,
        visit: &mut dyn FnMut(PassedKey) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let KeyWalk { range, as_of, reverse, keys_only } = walk;
        let inside = |key: &Key| {
            let key = key.as_bytes();
            *key >= range.start && range.end.as_ref().is_none_or(|end| key < end)
        };
        let mut keys: Vec<&Key> =
            self.versions.keys().filter(|(b, k)| *b == bucket && inside(k)).map(|n| &n.1).collect();
        if *reverse {
            keys.reverse();
        }
        for key in keys {
            let mut version = self.version(bucket, key, *as_of)?.filter(|v| !v.head.deleted);
            let bytes = version.as_ref().map_or(0, |version| version.value.len());
            if let Some(version) = version.as_mut().filter(|_| *keys_only) {
                version.value = Bytes::new();
            }
            if visit(PassedKey { key: key.clone(), version, rows: 1, bytes }).is_break() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn claim_key(&self, bucket: BucketNumber, id: StatementId) -> Result<Option<ClaimKey>, Error> {
        let found = self.claims.keys().find(|(b, key)| *b == bucket && key.id == id);
        Ok(found.map(|(_, key)| key.clone()))
    }

    fn claim(&self, bucket: BucketNumber, key: &ClaimKey) -> Result<Option<ClaimRow>, Error> {
        Ok(self.row(bucket, key))
    }

    fn attested(
        &self,
        bucket: BucketNumber,
        key: &ClaimKey,
        agent: &AgentId,
    ) -> Result<bool, Error> {
        Ok(self.attestations.contains_key(&(bucket, key.clone(), agent.clone())))
    }

    fn scan_claims(
        &self,
        bucket: BucketNumber,
        order: &ClaimOrder,
        start: &ClaimStart,
        visit: &mut dyn FnMut(ClaimRow) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let terms = |key: &ClaimKey| match order {
            ClaimOrder::Predicate => (key.predicate.clone(), key.subject.clone()),
            _ => (key.subject.clone(), key.predicate.clone()),
        };
        let after = start.after.as_ref().map(|(subject, predicate)| match order {
            ClaimOrder::Predicate => (predicate.clone(), subject.clone()),
            _ => (subject.clone(), predicate.clone()),
        });
        let wanted = |key: &ClaimKey| {
            let (first, second) = terms(key);
            let begins = match start.first_exact {
                true => first == start.first_prefix,
                false => first.starts_with(&start.first_prefix),
            };
            let made = match order {
                ClaimOrder::Agent(agent) => {
                    self.attestations.contains_key(&(bucket, key.clone(), agent.clone()))
                }
                _ => true,
            };
            let behind = after.as_ref().is_none_or(|after| {
                let pair = (first, second);
                pair > *after || pair == *after && start.after_id.is_some_and(|id| key.id > id)
            });
            begins && made && behind
        };
        let mut keys: Vec<&ClaimKey> =
            self.claims.keys().filter(|(b, k)| *b == bucket && wanted(k)).map(|n| &n.1).collect();
        keys.sort_by_key(|key| (terms(key), key.id));
        for row in keys.into_iter().filter_map(|key| self.row(bucket, key)) {
            if visit(row).is_break() {
                return Ok(());
            }
        }
        Ok(())
    }
}
