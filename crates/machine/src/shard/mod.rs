//! The shard machine: the buckets of many projects.
//!
//! A bucket is the unit of order. Each write that changes something takes the
//! bucket's next revision; a write that changes nothing (its condition failed,
//! its key was not there, its statements were all known) takes none.
//!
//! A value stands once, under (bucket, key, revision), and is never
//! overwritten: a delete is a version too. So a read of the past and the pages
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
//! | `overlay` | a view with changes laid over it, for a run of entries in one batch |
//! | `read` | what may be asked and found; gets and scans over a view |
//! | `query` | claims that match a pattern, resolved by a lens |
//! | `read_bytes` | the bytes of reads, cursors and their answers |
//!
//! `suite` holds the transcripts that every [`View`] must pass, under the feature of that name.
//!
//! Retention (compacting versions below a floor) is not here yet: history
//! grows until the data part brings it.

mod answer;
mod apply;
mod change;
mod command;
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
pub use apply::apply;
pub use change::{Change, TouchKind, Touched};
pub use command::{AssertItem, Command, Condition, Write};
pub use overlay::Overlay;
pub use read::{ClaimAnswer, Cursor, Pattern, Read, ReadAnswer, ScanRow, TextMatch, read};
pub use view::{
    Attestation, BucketNumber, BucketState, ClaimKey, ClaimOrder, ClaimRow, ClaimStart, Head,
    KeyRange, KeyRow, Version, View,
};
