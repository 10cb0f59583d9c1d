//! The shard machine: the buckets of many projects.
//!
//! A bucket is the unit of order. Each write that changes something takes the
//! bucket's next revision; a write that changes nothing (its condition failed,
//! its key was not there, its statements were all known) takes none.
//!
//! A value stands once, under (bucket, key, revision), and is never
//! overwritten: a delete is a version too, and so is a touch. So a read of the past and the pages
//! of a scan are reads at a revision, nothing more. Beside the versions runs
//! the thin log, (bucket, revision → keys touched), in commit order: what a
//! watch will follow.
//!
//! A claim is immutable and stands under (bucket, subject, predicate, id); who
//! made it, when and how sure, are its attestations, one per agent.
//!
//! | file | idea |
//! |---|---|
//! | `command` | what may be asked to change, and its bytes |
//! | `answer` | what comes back, and its bytes |
//! | `view` | what a machine can see of the state |
//! | `change` | what a machine may do to the state |
//! | `apply` | command + view → changes + answer |
//! | `once` | a write that is done once, however often it is asked for |
//! | `keys` | what happens to one key: put, delete, touch, expire |
//! | `overlay` | a view with changes laid over it, for a run of entries in one batch |
//! | `read` | what may be asked and found; gets and scans over a view |
//! | `query` | claims that match a pattern, resolved by a lens |
//! | `read_bytes` | the bytes of reads, cursors and their answers |
//!
//! `suite` holds the transcripts that every [`View`] must pass, under the feature of that name.
//!
//! History is let go of by a command that moves the bucket's floor: reads below
//! it are refused from then on, on every replica alike, and each replica drops what
//! only they could see when it suits it. Who proposes it, and when (retention),
//! is not here; nor is who proposes that a key expires.

mod answer;
mod apply;
mod change;
mod command;
mod keys;
mod once;
mod overlay;
mod query;
mod read;
mod read_bytes;
mod view;

#[cfg(any(test, feature = "suite"))]
#[doc(hidden)]
pub mod suite;
#[cfg(test)]
mod tests;

pub use stemedb_claims::{AgentId, StatementId};

pub use answer::{Answer, AssertStatus};
pub use apply::{COMPACT_REVISIONS_MAX, apply};
pub use change::{Change, TouchKind, Touched};
pub use command::{AssertItem, Command, Condition, Write};
pub use once::{
    ANSWERS_KEPT_MS, ANSWERS_MAX, DROPPED_MAX, Fingerprint, IdempotencyKey, KeptAnswer, KeptName,
    KeptRange, Once,
};
pub use overlay::Overlay;
pub use read::{
    ClaimAnswer, Cursor, Pattern, Read, ReadAnswer, SCAN_BYTES_MAX, SCAN_ROWS_MAX, ScanRow,
    TextMatch, read,
};
pub use view::{
    Attestation, BucketNumber, BucketState, ClaimKey, ClaimOrder, ClaimRow, ClaimStart, Due,
    Expiry, Head, KeyRange, KeyRow, KeyWalk, PassedKey, Version, View,
};
