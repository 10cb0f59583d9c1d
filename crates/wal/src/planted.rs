//! Mistakes that can be planted, to see whether the simulation finds them.
//!
//! A test that has never failed proves nothing. So each mistake that this log and those who stand
//! on it could make, and that would cost somebody's data, is written down once, behind a switch
//! that only a debug build has: in a release build [`has`] is `false` and nothing of it is left. The
//! switch is of a thread, as a simulated cluster is. It stands in this crate since it is the lowest
//! of those concerned.

/// A mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bug {
    /// The log calls back before it has synced.
    CallbackBeforeSync,
    /// A vote is answered and never written.
    VoteNotPersisted,
    /// A vote is written behind the entries that come after it.
    VoteReordered,
    /// A truncation happens in memory alone.
    LostTruncation,
    /// What is applied counts as flushed, and the log is purged up to there.
    PurgeAboveFlushed,
    /// A leader answers reads without asking a quorum.
    StaleReadIndex,
    /// The applied mark is written before the rows it speaks of.
    AppliedApart,
    /// After a restart the last entry is applied again.
    AppliedTwice,
    /// A snapshot is installed, and its membership is not.
    SnapshotWithoutMembership,
    /// A bad record in the middle of the log is taken for its end.
    CutAtBadChecksum,
    /// A node that lost its disks comes back as the replicas it was.
    ReplicaIdReused,
    /// Whoever moves replicas acts on a layout that is not the newest.
    OldEpoch,
    /// A leader that comes back goes on in its old term (openraft's `enable_leader_restore`).
    LeaderRestored,
    /// A replica applies what it has not synced yet.
    AppliedBeforeSync,
    /// A replica that does not lead reads before it has applied the index it was given.
    ReadUnapplied,
}

impl Bug {
    /// All of them.
    pub const ALL: [Bug; 15] = [
        Bug::CallbackBeforeSync,
        Bug::VoteNotPersisted,
        Bug::VoteReordered,
        Bug::LostTruncation,
        Bug::PurgeAboveFlushed,
        Bug::StaleReadIndex,
        Bug::AppliedApart,
        Bug::AppliedTwice,
        Bug::SnapshotWithoutMembership,
        Bug::CutAtBadChecksum,
        Bug::ReplicaIdReused,
        Bug::OldEpoch,
        Bug::LeaderRestored,
        Bug::AppliedBeforeSync,
        Bug::ReadUnapplied,
    ];
}

#[cfg(debug_assertions)]
mod switch {
    use std::cell::Cell;

    use super::Bug;

    thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Plants a mistake for whatever runs on this thread, or takes it away.
    pub fn plant(bug: Option<Bug>) {
        PLANTED.set(bug);
    }

    /// Whether this mistake is planted.
    pub fn has(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
    }
}

#[cfg(not(debug_assertions))]
mod switch {
    use super::Bug;

    /// Does nothing: a release build has no mistakes to plant.
    pub fn plant(_: Option<Bug>) {}

    /// No.
    #[inline(always)]
    pub const fn has(_: Bug) -> bool {
        false
    }
}

pub use switch::{has, plant};
