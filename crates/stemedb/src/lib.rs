//! The façade: a node of StemeDB inside your program.

mod error;
mod front;

pub use error::{Error, Unavailable};
pub use front::{
    AdminAnswer, AdminCall, Admission, Answered, Call, Caller, ClusterStatus, Credential, Door,
    Front, Member, MemberState, Need, Op, OpAnswer, Readiness, Startup,
};

/// The words of the state machines that calls and answers are made of.
pub mod shard {
    pub use stemedb_machine::shard::{
        Answer, AssertItem, AssertStatus, Attestation, ClaimAnswer, Condition, Cursor, Head,
        KeyRange, Pattern, Read, ReadAnswer, ScanRow, TextMatch, Version, Write,
    };
}

/// The words of the meta group.
pub mod meta {
    pub use stemedb_machine::meta::{ApiKey, KeyHash, Node, NodeAddresses, Project, Role};
}
