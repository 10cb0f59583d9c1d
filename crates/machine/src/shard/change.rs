//! What a machine may do to the state, in its own words.
//!
//! Changes are idempotent puts: writing a run of them twice gives the state
//! that writing it once gives. `engine` turns each into rows.

use bytes::Bytes;
use stemedb_types::{BucketName, Key, ProjectId, Revision};

use super::once::{IdempotencyKey, KeptAnswer, KeptRange};
use super::view::{Attestation, BucketNumber, BucketState, ClaimKey, Expiry, Head};

/// One change to the state of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A number was used up by a new bucket.
    NextBucket {
        /// What the next new one gets.
        number: BucketNumber,
    },
    /// New buckets begin behind another revision.
    Base {
        /// Which one.
        to: Revision,
    },
    /// A bucket's state, new or moved on.
    Bucket {
        /// Whose bucket.
        project: ProjectId,
        /// Which one.
        name: BucketName,
        /// Its state from now on.
        state: BucketState,
    },
    /// A new version of a key.
    Version {
        /// In which bucket.
        bucket: BucketNumber,
        /// Of which key.
        key: Key,
        /// Its numbers; [`Head::revision`] is the write's revision.
        head: Head,
        /// Its value; empty for a deletion.
        value: Bytes,
    },
    /// A statement made for the first time in this bucket.
    Claim {
        /// In which bucket.
        bucket: BucketNumber,
        /// Where it stands.
        key: ClaimKey,
        /// Its canonical JSON.
        statement: Bytes,
    },
    /// An agent's making of a statement that stands in this bucket.
    Attest {
        /// In which bucket.
        bucket: BucketNumber,
        /// Which claim.
        key: ClaimKey,
        /// Who, when, how sure.
        attestation: Attestation,
    },
    /// The time at which a key goes by itself was set, moved or taken away.
    Expiry {
        /// Whose bucket.
        project: ProjectId,
        /// Which one.
        name: BucketName,
        /// Its number.
        bucket: BucketNumber,
        /// Which key.
        key: Key,
        /// What held until now.
        was: Option<Expiry>,
        /// What holds from now on.
        now: Option<Expiry>,
    },
    /// A bucket's floor went up: the thin log at and below it goes, and so does every version that
    /// no read at or above it can see. When a replica gets rid of the latter is its own affair.
    Floor {
        /// Whose bucket.
        project: ProjectId,
        /// Which one.
        name: BucketName,
        /// Its state from now on: `compacted` is new, and `revision` where it jumped.
        state: BucketState,
    },
    /// An answer is kept, for whoever asks the same again.
    KeepAnswer {
        /// Whose bucket.
        project: ProjectId,
        /// Which one; it need not be there.
        name: BucketName,
        /// What the write was called.
        key: IdempotencyKey,
        /// The answer.
        answer: KeptAnswer,
    },
    /// An answer is kept no more.
    DropAnswer {
        /// Whose bucket.
        project: ProjectId,
        /// Which one.
        name: BucketName,
        /// What the write was called.
        key: IdempotencyKey,
        /// Its number.
        sequence: u64,
    },
    /// Which answers of a bucket stand.
    Kept {
        /// Whose bucket.
        project: ProjectId,
        /// Which one.
        name: BucketName,
        /// Their numbers, from now on.
        range: KeptRange,
    },
    /// The thin log: what one revision touched.
    Log {
        /// In which bucket.
        bucket: BucketNumber,
        /// Which revision.
        revision: Revision,
        /// What it touched, in the order of the write.
        touched: Vec<Touched>,
    },
}

/// One line of the thin log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Touched {
    /// What happened.
    pub kind: TouchKind,
    /// To what: a key's bytes, or a statement's 32-byte id.
    pub what: Bytes,
}

/// What a revision did to one key or statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TouchKind {
    /// A key got a value.
    Put,
    /// A key went.
    Delete,
    /// A statement was made.
    Assert,
    /// A key went because its time had come.
    Expire,
    /// A key's time was moved: no event for a watch.
    Touch,
}
