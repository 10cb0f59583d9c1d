//! A bucket of very many rows, in order, that counts how many of them are come by.

use std::cell::Cell;
use std::ops::ControlFlow;

use bytes::Bytes;
use stemedb_claims::StatementId;
use stemedb_types::{BucketName, Key, ProjectId, Revision};

use crate::Error;
use crate::shard::suite::{agent, key};
use crate::shard::{
    AgentId, Attestation, BucketNumber, BucketState, ClaimKey, ClaimOrder, ClaimRow, ClaimStart,
    Due, Head, IdempotencyKey, KeptAnswer, KeptName, KeptRange, KeyWalk, PassedKey, Version, View,
};

#[derive(Default)]
pub(super) struct Rows {
    /// In order of subject, predicate, id.
    pub(super) claims: Vec<ClaimRow>,
    /// So many keys, counted up, each of one row of so many bytes.
    pub(super) keys: usize,
    pub(super) row_bytes: usize,
    /// Which of them are there; the others are gone.
    pub(super) there: Vec<usize>,
    /// How many rows were come by.
    pub(super) stepped: Cell<usize>,
}

/// The key of a number.
pub(super) fn numbered(n: usize) -> Key {
    key(format!("{n:08}").as_bytes())
}

/// A claim that one agent has made at a revision.
pub(super) fn made(key: ClaimKey, statement: Bytes, revision: u64) -> ClaimRow {
    let made = Attestation { agent: agent("a"), revision: Revision(revision), at_ms: 0 };
    ClaimRow { key, statement, attestations: vec![made] }
}

impl Rows {
    /// How many rows were come by since the last time.
    pub(super) fn stepped(&self) -> usize {
        self.stepped.take()
    }

    fn step(&self) {
        self.stepped.set(self.stepped.get() + 1);
    }
}

impl View for Rows {
    fn bucket(&self, _: ProjectId, _: &BucketName) -> Result<Option<BucketState>, Error> {
        let (number, revision) = (BucketNumber(0), Revision(1_000_000));
        let (compacted, jumped) = (Revision(0), Revision(0));
        Ok(Some(BucketState { number, revision, compacted, jumped }))
    }

    fn base(&self) -> Result<Revision, Error> {
        Ok(Revision(0))
    }

    fn next_bucket(&self) -> Result<BucketNumber, Error> {
        Ok(BucketNumber(1))
    }

    fn head(&self, _: BucketNumber, _: &Key) -> Result<Option<Head>, Error> {
        Ok(None)
    }

    fn version(&self, _: BucketNumber, _: &Key, _: Revision) -> Result<Option<Version>, Error> {
        Ok(None)
    }

    fn trimmed(&self, _: BucketNumber) -> Result<Revision, Error> {
        Ok(Revision(0))
    }

    fn due(&self, _: u64, _: usize) -> Result<Vec<Due>, Error> {
        Ok(Vec::new())
    }

    fn kept_answer(
        &self,
        _: ProjectId,
        _: &BucketName,
        _: &IdempotencyKey,
    ) -> Result<Option<KeptAnswer>, Error> {
        Ok(None)
    }

    fn kept_name(&self, _: ProjectId, _: &BucketName, _: u64) -> Result<Option<KeptName>, Error> {
        Ok(None)
    }

    fn kept_range(&self, _: ProjectId, _: &BucketName) -> Result<KeptRange, Error> {
        Ok(KeptRange::default())
    }

    fn walk_keys(
        &self,
        _: BucketNumber,
        walk: &KeyWalk,
        visit: &mut dyn FnMut(PassedKey) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let version = |n: usize| {
            let head = Head {
                create_revision: Revision(1),
                mod_revision: Revision(1),
                version: 1,
                deleted: false,
                expiry: None,
            };
            self.there.contains(&n).then(|| Version { head, value: Bytes::new() })
        };
        for step in 0..self.keys {
            let n = if walk.reverse { self.keys - 1 - step } else { step };
            let (key, bytes) = (numbered(n), self.row_bytes);
            let inside = *key.as_bytes() >= walk.range.start
                && walk.range.end.as_ref().is_none_or(|end| key.as_bytes() < end);
            if !inside {
                continue;
            }
            self.step();
            if visit(PassedKey { key, version: version(n), rows: 1, bytes }).is_break() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn claim_key(&self, _: BucketNumber, _: StatementId) -> Result<Option<ClaimKey>, Error> {
        Ok(None)
    }

    fn claim(&self, _: BucketNumber, key: &ClaimKey) -> Result<Option<ClaimRow>, Error> {
        Ok(self.claims.iter().find(|row| row.key == *key).cloned())
    }

    fn attested(&self, _: BucketNumber, _: &ClaimKey, _: &AgentId) -> Result<bool, Error> {
        Ok(false)
    }

    fn scan_claims(
        &self,
        _: BucketNumber,
        _: &ClaimOrder,
        start: &ClaimStart,
        visit: &mut dyn FnMut(ClaimRow) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let passed = |key: &ClaimKey| {
            let Some((subject, predicate)) = &start.after else { return false };
            let order = (&key.subject, &key.predicate).cmp(&(subject, predicate));
            order.is_lt() || order.is_eq() && start.after_id.is_none_or(|id| key.id <= id)
        };
        for row in self.claims.iter().skip_while(|row| passed(&row.key)) {
            self.step();
            if visit(row.clone()).is_break() {
                return Ok(());
            }
        }
        Ok(())
    }
}
