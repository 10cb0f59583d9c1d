//! The view for a run of entries: many look-ups, one iterator.
//!
//! Every put asks for its key's newest version. Beginning a scan for each costs more than the
//! look-up itself (an iterator over every level, made and thrown away): measured, a
//! fifth of a put's CPU. A run keeps one. What it sees is frozen at its beginning, which
//! is right: what the run itself does is laid over it
//! ([`stemedb_machine::shard::Overlay`]), and nobody else writes the group.

use std::cell::RefCell;
use std::ops::ControlFlow;

use stemedb_machine::Error as MachineError;
use stemedb_machine::shard::{
    AgentId, BucketNumber, BucketState, ClaimKey, ClaimOrder, ClaimRow, ClaimStart, Due, Head,
    IdempotencyKey, KeptAnswer, KeptName, KeptRange, KeyWalk, PassedKey, StatementId, Version,
    View,
};
use stemedb_types::{BucketName, Key, ProjectId, Revision};

use crate::Group;
use crate::store::Seeker;

/// A group as it stands at the beginning of a run. Made by [`Group::run`].
pub struct Run<'g> {
    group: &'g Group,
    rows: RefCell<Box<dyn Seeker + 'g>>,
}

impl Group {
    /// The view for a run of entries.
    pub fn run(&self) -> Run<'_> {
        Run { group: self, rows: RefCell::new(self.store.seeker(&self.scope.all())) }
    }
}

impl View for Run<'_> {
    fn bucket(
        &self,
        project: ProjectId,
        name: &BucketName,
    ) -> Result<Option<BucketState>, MachineError> {
        self.group.bucket(project, name)
    }

    fn next_bucket(&self) -> Result<BucketNumber, MachineError> {
        self.group.next_bucket()
    }

    fn base(&self) -> Result<Revision, MachineError> {
        self.group.base()
    }

    fn head(&self, bucket: BucketNumber, key: &Key) -> Result<Option<Head>, MachineError> {
        let mut rows = self.rows.borrow_mut();
        Ok(self.group.newest_head(rows.as_mut(), bucket, key)?)
    }

    fn version(
        &self,
        bucket: BucketNumber,
        key: &Key,
        as_of: Revision,
    ) -> Result<Option<Version>, MachineError> {
        self.group.version(bucket, key, as_of)
    }

    fn trimmed(&self, bucket: BucketNumber) -> Result<Revision, MachineError> {
        self.group.trimmed(bucket)
    }

    fn due(&self, until_ms: u64, limit: usize) -> Result<Vec<Due>, MachineError> {
        self.group.due(until_ms, limit)
    }

    fn kept_answer(
        &self,
        project: ProjectId,
        name: &BucketName,
        key: &IdempotencyKey,
    ) -> Result<Option<KeptAnswer>, MachineError> {
        self.group.kept_answer(project, name, key)
    }

    fn kept_name(
        &self,
        project: ProjectId,
        name: &BucketName,
        sequence: u64,
    ) -> Result<Option<KeptName>, MachineError> {
        self.group.kept_name(project, name, sequence)
    }

    fn kept_range(&self, project: ProjectId, name: &BucketName) -> Result<KeptRange, MachineError> {
        self.group.kept_range(project, name)
    }

    fn walk_keys(
        &self,
        bucket: BucketNumber,
        walk: &KeyWalk,
        visit: &mut dyn FnMut(PassedKey) -> ControlFlow<()>,
    ) -> Result<(), MachineError> {
        self.group.walk_keys(bucket, walk, visit)
    }

    fn claim_key(
        &self,
        bucket: BucketNumber,
        id: StatementId,
    ) -> Result<Option<ClaimKey>, MachineError> {
        self.group.claim_key(bucket, id)
    }

    fn claim(
        &self,
        bucket: BucketNumber,
        key: &ClaimKey,
    ) -> Result<Option<ClaimRow>, MachineError> {
        self.group.claim(bucket, key)
    }

    fn attested(
        &self,
        bucket: BucketNumber,
        key: &ClaimKey,
        agent: &AgentId,
    ) -> Result<bool, MachineError> {
        self.group.attested(bucket, key, agent)
    }

    fn scan_claims(
        &self,
        bucket: BucketNumber,
        order: &ClaimOrder,
        start: &ClaimStart,
        visit: &mut dyn FnMut(ClaimRow) -> ControlFlow<()>,
    ) -> Result<(), MachineError> {
        self.group.scan_claims(bucket, order, start, visit)
    }
}
