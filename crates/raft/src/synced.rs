//! Which entries of a replica's log its own disk holds, for whoever must not be ahead of it.
//!
//! openraft applies an entry once the group has committed it, and others may have synced it before
//! this replica has. Were it applied then, a flush of the store could make its effect durable before
//! the entry is, and a power cut would leave a store that knows more than its log. That looks just
//! like a log that lost synced entries, which costs the replica its place (`damage`). So the applier
//! waits here: `flushed ≤ applied ≤ synced`.
//!
//! A log's entries are synced in the order in which they were appended. What is under way is a
//! queue of the first index of each append; an entry is on the disk once nothing under way begins
//! at it or before it. An index that was truncated and written again is waited for as the newest.

use std::collections::VecDeque;
use std::io;

use tokio::sync::watch;

/// The appends of one log that are not synced yet. Cheap to clone, clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Synced(watch::Sender<State>);

#[derive(Debug, Default)]
struct State {
    /// Of each append under way its number and its first index, oldest first.
    under_way: VecDeque<(u64, u64)>,
    begun: u64,
    /// Why nothing will be synced any more, if so.
    failed: Option<String>,
}

impl State {
    fn reaches(&self, last: u64) -> bool {
        self.under_way.iter().all(|(_, first)| *first > last)
    }
}

impl Synced {
    /// Entries from `first` on are given to the log now. Returns the append's number.
    pub(crate) fn begin(&self, first: u64) -> u64 {
        let mut number = 0;
        self.0.send_if_modified(|state| {
            state.begun += 1;
            number = state.begun;
            state.under_way.push_back((number, first));
            false
        });
        number
    }

    /// This append and those before it are synced, or never will be.
    pub(crate) fn end(&self, number: u64, finished: Result<(), String>) {
        self.0.send_modify(|state| {
            match finished {
                Ok(()) => state.under_way.retain(|(begun, _)| *begun > number),
                Err(cause) => drop(state.failed.get_or_insert(cause)),
            };
        });
    }

    /// Waits until all entries up to `last` are synced. An error: they never will be.
    pub(crate) async fn reach(&self, last: u64) -> io::Result<()> {
        if self.0.borrow().reaches(last) {
            return Ok(());
        }
        let mut told = self.0.subscribe();
        let state = told.wait_for(|state| state.failed.is_some() || state.reaches(last)).await;
        match state {
            Ok(state) if state.reaches(last) => Ok(()),
            Ok(state) => Err(io::Error::other(state.failed.clone().unwrap_or_default())),
            Err(gone) => Err(io::Error::other(gone)),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn an_entry_is_reached_once_all_appends_up_to_it_are_synced() {
        let synced = Synced::default();
        assert!(synced.reach(9).now_or_never().is_some(), "what was there at the start is synced");
        let (six, eight) = (synced.begin(6), synced.begin(8));
        assert!(synced.reach(5).now_or_never().is_some());
        assert!(synced.reach(6).now_or_never().is_none());
        synced.end(six, Ok(()));
        assert!(synced.reach(7).now_or_never().is_some());
        assert!(synced.reach(8).now_or_never().is_none());
        let (waits, ()) = tokio::join!(synced.reach(8), async { synced.end(eight, Ok(())) });
        assert!(waits.is_ok());
    }

    #[tokio::test]
    async fn what_is_written_again_is_waited_for_again() {
        let synced = Synced::default();
        let old = synced.begin(6);
        let new = synced.begin(6);
        synced.end(old, Ok(()));
        assert!(synced.reach(6).now_or_never().is_none(), "the old entry was synced, not the new");
        synced.end(new, Ok(()));
        assert!(synced.reach(6).now_or_never().is_some());
    }

    #[tokio::test]
    async fn a_log_that_fails_lets_nobody_wait_for_ever() {
        let synced = Synced::default();
        let (six, _) = (synced.begin(6), synced.begin(7));
        synced.end(six, Err("the disk".to_owned()));
        let error = synced.reach(7).await.unwrap_err();
        assert_eq!(error.to_string(), "the disk");
    }
}
