//! The requests of one connection that wait for an answer; pure.
//!
//! Each is in one of two states: queued, or sent. The state decides what a
//! failure is called, because only a queued request certainly did nothing.
//! A request whose deadline passes in the queue is forgotten here, and the
//! queue finds that out when its turn comes ([`Pending::sending`]).
//!
//! Invariant: `entries` and `deadlines` hold the same ids.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;
use tokio::time::Instant;

use crate::error::{Down, Error, NotSent, Unknown};

/// Called once with what became of a request, wherever that was found out; it must not block.
pub type OnAnswer = Box<dyn FnOnce(Result<Bytes, Error>) + Send>;

struct Entry {
    deadline: Instant,
    sent: bool,
    on_answer: OnAnswer,
}

/// A request that is over, for the caller to be told outside of any lock.
pub(crate) struct Failed {
    sent: bool,
    on_answer: OnAnswer,
}

impl Failed {
    /// Its deadline passed.
    pub(crate) fn by_deadline(self) {
        (self.on_answer)(Err(match self.sent {
            true => Error::Unknown(Unknown::Deadline),
            false => Error::NotSent(NotSent::Deadline),
        }));
    }

    /// Its connection is gone.
    pub(crate) fn by_link(self, why: Down) {
        (self.on_answer)(Err(match self.sent {
            true => Error::Unknown(Unknown::Down(why)),
            false => Error::NotSent(NotSent::Down(why)),
        }));
    }
}

/// The table.
#[derive(Default)]
pub(crate) struct Pending {
    entries: HashMap<u64, Entry>,
    deadlines: BTreeSet<(Instant, u64)>,
}

impl Pending {
    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Adds a queued request. The id is new.
    pub(crate) fn insert(&mut self, id: u64, deadline: Instant, on_answer: OnAnswer) {
        let before = self.entries.insert(id, Entry { deadline, sent: false, on_answer });
        debug_assert!(before.is_none(), "an id is given once");
        self.deadlines.insert((deadline, id));
    }

    /// A queued request's turn has come: whether it is still wanted. It counts as sent from here.
    pub(crate) fn sending(&mut self, id: u64) -> bool {
        self.entries.get_mut(&id).map(|entry| entry.sent = true).is_some()
    }

    /// Takes the caller of an answered request; `None` if its deadline came first.
    pub(crate) fn answered(&mut self, id: u64) -> Option<OnAnswer> {
        let entry = self.entries.remove(&id)?;
        self.deadlines.remove(&(entry.deadline, id));
        Some(entry.on_answer)
    }

    /// Takes all whose deadline has passed at `now`, the earliest first.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<Failed> {
        let mut due = Vec::new();
        while let Some(&(deadline, id)) = self.deadlines.first()
            && deadline <= now
        {
            self.deadlines.pop_first();
            due.extend(self.entries.remove(&id).map(Failed::from));
        }
        due
    }

    /// The next deadline.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Takes all, the oldest first.
    pub(crate) fn take_all(&mut self) -> Vec<Failed> {
        self.deadlines.clear();
        let mut all: Vec<(u64, Entry)> = self.entries.drain().collect();
        all.sort_unstable_by_key(|(id, _)| *id);
        all.into_iter().map(|(_, entry)| entry.into()).collect()
    }
}

impl From<Entry> for Failed {
    fn from(entry: Entry) -> Self {
        Self { sent: entry.sent, on_answer: entry.on_answer }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    type Told = mpsc::Receiver<(u64, Result<Bytes, Error>)>;

    /// Three requests, due after 10, 20 and 30 seconds; the first two were sent.
    fn three(start: Instant) -> (Pending, Told) {
        let mut pending = Pending::default();
        let (tell, told) = mpsc::channel();
        for id in 1..=3 {
            let tell = tell.clone();
            let on_answer: OnAnswer = Box::new(move |result| tell.send((id, result)).unwrap());
            pending.insert(id, start + Duration::from_secs(10 * id), on_answer);
        }
        assert!(pending.sending(1) && pending.sending(2));
        (pending, told)
    }

    #[test]
    fn a_deadline_says_whether_the_request_had_left() {
        let start = Instant::now();
        let (mut pending, told) = three(start);
        assert_eq!(pending.next_deadline(), Some(start + Duration::from_secs(10)));
        pending.due(start + Duration::from_secs(9)).into_iter().for_each(Failed::by_deadline);
        assert_eq!(told.try_recv().ok(), None);
        pending.due(start + Duration::from_secs(30)).into_iter().for_each(Failed::by_deadline);
        let told: Vec<_> = told.try_iter().collect();
        let unknown = Err(Error::Unknown(Unknown::Deadline));
        let not_sent = Err(Error::NotSent(NotSent::Deadline));
        assert_eq!(told, [(1, unknown.clone()), (2, unknown), (3, not_sent)]);
        assert_eq!((pending.len(), pending.next_deadline()), (0, None));
    }

    #[test]
    fn a_request_that_was_given_up_is_neither_sent_nor_answered() {
        let start = Instant::now();
        let (mut pending, _told) = three(start);
        assert_eq!(pending.due(start + Duration::from_secs(60)).len(), 3);
        assert!(!pending.sending(3));
        assert!(pending.answered(1).is_none());
    }

    #[test]
    fn a_broken_link_says_whether_the_request_had_left() {
        let (mut pending, told) = three(Instant::now());
        pending.answered(2).unwrap()(Ok(Bytes::from_static(b"yes")));
        for failed in pending.take_all() {
            failed.by_link(Down::Removed);
        }
        let told: Vec<_> = told.try_iter().collect();
        let unknown = Err(Error::Unknown(Unknown::Down(Down::Removed)));
        let not_sent = Err(Error::NotSent(NotSent::Down(Down::Removed)));
        assert_eq!(told, [(2, Ok(Bytes::from_static(b"yes"))), (1, unknown), (3, not_sent)]);
    }
}
