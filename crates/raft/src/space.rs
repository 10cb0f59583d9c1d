//! Whether this node's disks take more: what the façade sees and the groups obey.
//!
//! The façade looks at the volumes and says a [`Level`]; it refuses what clients
//! want written. What is left for the groups are their peers: a follower without
//! room must not take entries of a leader that has some. It leaves them
//! unanswered, as if they were lost, and Raft sends them again. Votes, heartbeats
//! and purges always pass.
//!
//! Should the log run out of room all the same (somebody else filled the volume at one stroke), an
//! append waits: an error would end its group. It tells the façade at once, and tries again whenever
//! the level changes, until the replica stops. A group that waits answers nobody, so if it leads,
//! another replica takes over.
//!
//! A replica that stops has the façade look as well: of a disk that failed, that is the first sign.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};

/// What a node's disks can still take; ordered, the worst last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Everything.
    #[default]
    Open,
    /// What keeps the node going, and deletes: the reserve is in use.
    Full,
    /// Only votes and purges: half of the reserve is gone, too.
    Spent,
}

/// Between two tries of an append that found the log full. The log says nothing when it has room
/// again, and makes some only when it is asked.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// The level of this node's disks. Cheap to clone, clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Space {
    level: watch::Sender<Level>,
    stuck: Arc<AtomicUsize>,
    /// The log is longer than a start may take to replay.
    held_up: Arc<AtomicBool>,
    news: Arc<Notify>,
}

/// Counts an append for as long as it waits for room.
struct Stuck<'s>(&'s Space);

impl Drop for Stuck<'_> {
    fn drop(&mut self) {
        self.0.stuck.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Space {
    /// Says what the disks can take from now on. Returns whether that is news.
    pub fn set(&self, level: Level) -> bool {
        self.level.send_if_modified(|now| std::mem::replace(now, level) != level)
    }

    /// What the disks can take.
    pub fn level(&self) -> Level {
        *self.level.borrow()
    }

    /// Whether entries may come from a leader.
    pub(crate) fn takes_entries(&self) -> bool {
        self.level() < Level::Spent && !self.is_stuck() && !self.is_held_up()
    }

    /// Stops the log from growing, or lets it grow again: a log over its bound is cut first.
    pub fn hold_up(&self, held_up: bool) {
        self.held_up.store(held_up, Ordering::Relaxed);
    }

    /// Whether the log may not grow for now.
    pub fn is_held_up(&self) -> bool {
        self.held_up.load(Ordering::Relaxed)
    }

    /// The level, from now on.
    pub fn watch(&self) -> watch::Receiver<Level> {
        self.level.subscribe()
    }

    /// Whether the log had no room for an append, which still waits.
    pub fn is_stuck(&self) -> bool {
        self.stuck.load(Ordering::Relaxed) > 0
    }

    /// Waits until the disks are to be looked at: an append found no room, or a replica has stopped, and
    /// it may be for a disk that failed.
    pub async fn asked_to_look(&self) {
        self.news.notified().await;
    }

    /// Says that a replica has stopped.
    pub(crate) fn ask_to_look(&self) {
        self.news.notify_one();
    }

    /// Waits until it makes sense to try an append again that found the log full.
    pub(crate) async fn wait(&self) {
        let mut level = self.level.subscribe();
        self.stuck.fetch_add(1, Ordering::Relaxed);
        let _stuck = Stuck(self);
        self.ask_to_look();
        let _ = tokio::time::timeout(RETRY_INTERVAL, level.changed()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_news_once() {
        let space = Space::default();
        assert_eq!(space.level(), Level::Open);
        assert!(space.set(Level::Full));
        assert!(!space.set(Level::Full));
        assert_eq!(space.level(), Level::Full);
    }

    #[tokio::test]
    async fn an_append_that_waits_is_seen_and_goes_on_when_the_level_changes() {
        let space = Space::default();
        let waiting = crate::runtime::spawn({
            let space = space.clone();
            async move { space.wait().await }
        });
        space.asked_to_look().await;
        assert!(space.is_stuck());
        space.set(Level::Spent);
        waiting.await.expect("goes on");
        assert!(!space.is_stuck());
    }
}
