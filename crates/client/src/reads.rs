//! How new what is read must be, and what a session has seen.
//!
//! A [`Client`] reads linearizably. [`Client::session`] and [`Client::stale`] give clients of the same
//! cluster whose reads ask for less: any replica may then answer them, also while a leader changes. A session sees what
//! it wrote, and never anything older than it has seen: for each bucket it keeps the greatest
//! revision that an answer gave, and sends it with the next read.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use reqwest::header::{HeaderName, HeaderValue};
use stemedb_api::header;
use stemedb_types::BucketName;

use crate::Client;
use crate::send::{Ask, Reply};

/// Most buckets that a session remembers. One more, and it forgets all: the next read of each is
/// linearizable, which is more than it asked for.
const SESSION_BUCKETS_MAX: usize = 10_000;

/// What reads of a client ask for.
#[derive(Clone, Debug, Default)]
pub(crate) enum Reads {
    /// The newest.
    #[default]
    Linearizable,
    /// Nothing older than was seen.
    Session(Seen),
    /// Whatever is at hand.
    Stale,
}

/// The greatest revision that was seen of each bucket.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen(Arc<Mutex<BTreeMap<BucketName, u64>>>);

impl Seen {
    fn of(&self, bucket: &BucketName) -> Option<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(bucket).copied()
    }

    fn note(&self, bucket: &BucketName, revision: u64) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= SESSION_BUCKETS_MAX && !seen.contains_key(bucket) {
            seen.clear();
        }
        let known = seen.entry(bucket.clone()).or_default();
        *known = revision.max(*known);
    }
}

impl Client {
    /// A session of its own over the same connections: it sees what it wrote, and what it has
    /// seen, and any replica that has come so far may answer it. Clones of it are one session. It begins with a
    /// linearizable read of each bucket.
    pub fn session(&self) -> Client {
        Client { reads: Reads::Session(Seen::default()), ..self.clone() }
    }

    /// A session that has seen a bucket at a revision, in another process perhaps.
    pub fn session_from(&self, bucket: &BucketName, revision: u64) -> Client {
        let seen = Seen::default();
        seen.note(bucket, revision);
        Client { reads: Reads::Session(seen), ..self.clone() }
    }

    /// The same cluster, read at whichever replica is at hand and however old it is: an answer
    /// says how old.
    pub fn stale(&self) -> Client {
        Client { reads: Reads::Stale, ..self.clone() }
    }

    /// What this session has seen of a bucket; `None` outside of a session, and before.
    pub fn seen(&self, bucket: &BucketName) -> Option<u64> {
        match &self.reads {
            Reads::Session(seen) => seen.of(bucket),
            Reads::Linearizable | Reads::Stale => None,
        }
    }

    /// Puts on a read of a bucket what this client asks for.
    pub(crate) fn mark(&self, ask: Ask) -> Ask {
        let Some(bucket) = ask.reads_of().cloned() else { return ask };
        match &self.reads {
            Reads::Linearizable => ask,
            Reads::Stale => ask.query("consistency=stale"),
            Reads::Session(seen) => {
                let ask = ask.query("consistency=session");
                match seen.of(&bucket) {
                    Some(seen) => ask
                        .header(HeaderName::from_static(header::REVISION), HeaderValue::from(seen)),
                    None => ask,
                }
            }
        }
    }

    /// Remembers what an answer showed, whatever its status.
    pub(crate) fn note(&self, bucket: Option<&BucketName>, reply: &Reply) {
        if let (Reads::Session(seen), Some(bucket)) = (&self.reads, bucket)
            && let Some(revision) = reply.number(header::REVISION)
        {
            seen.note(bucket, revision);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_goes_forward_and_forgets_all_before_it_grows_without_bound() {
        let seen = Seen::default();
        let bucket = |number: usize| format!("b{number}").parse::<BucketName>().unwrap();
        seen.note(&bucket(0), 7);
        seen.note(&bucket(0), 5);
        assert_eq!(seen.of(&bucket(0)), Some(7));
        (0..SESSION_BUCKETS_MAX).for_each(|number| seen.note(&bucket(number), 1));
        assert_eq!(seen.of(&bucket(0)), Some(7), "as many as there may be");
        seen.note(&bucket(SESSION_BUCKETS_MAX), 1);
        assert_eq!(seen.of(&bucket(0)), None);
        assert_eq!(seen.of(&bucket(SESSION_BUCKETS_MAX)), Some(1));
    }
}
