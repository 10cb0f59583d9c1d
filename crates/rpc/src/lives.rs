//! Which process goes by a node's id: of two at once, one is a copy.
//!
//! Each process says in the handshake which life of its node it is: the incarnation it started
//! with, which grows with every start, and a number drawn by chance. Sessions of one life are kept
//! apart from those of another, and two lives never have sessions here at the same time:
//!
//! - *A newer life comes in, and the sessions of the older one are closed.* Nearly always the older
//!   one is dead: a process that was started again, whose first life's connections are only not
//!   closed yet because its host went away without a word. It must not wait for them.
//! - *An older life is refused while the newer one has a session.* Its process lives, for it dials
//!   (or was dialled): it is a copy, or was copied. Which of the two, nobody here can tell; that all
//!   members turn away the same one is what keeps both from voting. Once the newer one is gone, the
//!   older may come back.
//!
//! Of two that started with the same incarnation the number drawn decides, so that all agree.
//!
//! Only what a handshake has proven gets here. What is kept is one entry for each node with a
//! session.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use stemedb_types::NodeId;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::session::locked;

/// One process under a node id. The greater one is the newer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Life {
    /// What the process started with: above every earlier start of the node.
    pub(crate) incarnation: u64,
    /// Drawn by chance when it started.
    pub(crate) instance: u128,
}

/// Refusals further apart than this are two stories. Above the pause between two dials.
const STREAK_GAP: Duration = Duration::from_secs(5);

/// Peers turn this process away, because a newer life of its node is with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TurnedAway {
    /// Who said so last.
    pub by: NodeId,
    /// Since when it is said, without a pause.
    pub since: Instant,
    /// When it was said last.
    pub last: Instant,
}

impl TurnedAway {
    /// Once more.
    pub(crate) fn again(before: Option<Self>, by: NodeId, now: Instant) -> Self {
        let streak = before.filter(|before| now < before.last + STREAK_GAP);
        Self { by, since: streak.map_or(now, |streak| streak.since), last: now }
    }

    /// Whether it may still be so.
    pub fn is_fresh(&self) -> bool {
        self.last.elapsed() < STREAK_GAP
    }
}

/// The lives that have sessions here.
#[derive(Clone, Default)]
pub(crate) struct Lives(Arc<Mutex<HashMap<NodeId, Known>>>);

struct Known {
    life: Life,
    sessions: usize,
    outlived: CancellationToken,
}

impl Lives {
    /// Counts a session of this life; the newer life that is here if it is outlived.
    pub(crate) fn admit(&self, node: NodeId, life: Life) -> Result<Lease, Life> {
        let mut lives = locked(&self.0);
        let known = lives.entry(node).or_insert_with(|| Known::new(life));
        if life < known.life {
            return Err(known.life);
        }
        if life > known.life {
            let older = std::mem::replace(known, Known::new(life));
            older.outlived.cancel();
        }
        known.sessions += 1;
        let outlived = known.outlived.clone();
        Ok(Lease { lives: self.clone(), node, life, outlived })
    }
}

impl Known {
    fn new(life: Life) -> Self {
        Self { life, sessions: 0, outlived: CancellationToken::new() }
    }
}

/// One session of one life; it counts until dropped.
pub(crate) struct Lease {
    lives: Lives,
    node: NodeId,
    life: Life,
    outlived: CancellationToken,
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lease({}, {:?})", self.node, self.life)
    }
}

impl Lease {
    /// Resolves when a newer life of the node has come.
    pub(crate) async fn outlived(&self) {
        self.outlived.cancelled().await;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut lives = locked(&self.lives.0);
        // A newer life's sessions are not ours to count.
        let Some(known) = lives.get_mut(&self.node).filter(|known| known.life == self.life) else {
            return;
        };
        known.sessions -= 1;
        if known.sessions == 0 {
            lives.remove(&self.node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(7);

    fn life(incarnation: u64, instance: u128) -> Life {
        Life { incarnation, instance }
    }

    #[test]
    fn a_newer_life_closes_the_sessions_of_the_older_one_which_is_refused_as_long_as_it_is_there() {
        let lives = Lives::default();
        let (old, new) = (life(5, 9), life(6, 1));
        let first = lives.admit(NODE, old).unwrap();
        let second = lives.admit(NODE, old).unwrap();
        assert!(!first.outlived.is_cancelled());

        let newer = lives.admit(NODE, new).unwrap();
        assert!(first.outlived.is_cancelled() && second.outlived.is_cancelled());
        assert_eq!(lives.admit(NODE, old).unwrap_err(), new);
        // The end of what is closed counts for nothing.
        drop((first, second));
        assert_eq!(lives.admit(NODE, old).unwrap_err(), new);
        assert!(!newer.outlived.is_cancelled());
        // Another node's lives are another matter.
        assert!(lives.admit(NodeId(8), old).is_ok());

        drop(newer);
        assert!(lives.admit(NODE, old).is_ok());
        assert!(locked(&lives.0).is_empty());
    }

    #[test]
    fn what_peers_say_again_and_again_is_one_story_and_after_a_pause_another() {
        let now = Instant::now();
        let first = TurnedAway::again(None, NodeId(1), now);
        let second = TurnedAway::again(Some(first), NodeId(2), now + Duration::from_secs(4));
        assert_eq!((second.by, second.since), (NodeId(2), now));
        let later = now + Duration::from_secs(4) + STREAK_GAP;
        assert_eq!(TurnedAway::again(Some(second), NodeId(1), later).since, later);
    }

    #[test]
    fn of_two_that_started_with_the_same_number_everybody_turns_away_the_same_one() {
        let (one, other) = (life(5, 1), life(5, 2));
        let lives = Lives::default();
        let _kept = lives.admit(NODE, other).unwrap();
        assert_eq!(lives.admit(NODE, one).unwrap_err(), other);
        let elsewhere = Lives::default();
        let closed = elsewhere.admit(NODE, one).unwrap();
        let _kept = elsewhere.admit(NODE, other).unwrap();
        assert!(closed.outlived.is_cancelled());
    }
}
