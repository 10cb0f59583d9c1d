//! Reads, at whichever replica they are asked for.
//!
//! | asked for | at the leader | at any other replica |
//! |---|---|---|
//! | the newest ([`Group::permit_read_then`]) | a quorum round, or the lease | the leader is asked for an index it has a quorum round for |
//! | whatever there is ([`Group::age`]) | at once | at once |
//!
//! A replica that does not lead shares its questions as a leader shares its rounds: while one is on its way,
//! reads that come wait for the next, which takes all of them. So a read never uses an index whose
//! question left before the read came (etcd lost reads that way, its issue 20418), and however many
//! readers there are, the leader is asked one thing at a time. The index comes back with the answer
//! to that very question, so an answer of an earlier leader can't be taken for another's. The
//! leader's own round carries what is committed to this replica as well, so the wait until the
//! index is applied here is short.
//!
//! No task runs while nobody reads.
//!
//! How old a replica is ([`Group::age`]) is what it can prove, and no less: it knew everything that
//! was acknowledged when a question of its own left that the leader answered with a quorum behind
//! it; a leader, when it sent what a quorum has acknowledged. A heartbeat alone proves
//! nothing: the leader that sent it may have lost its quorum. So a replica that nobody asks gets old
//! although it follows, and [`Group::refresh`] is for whoever sees that.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use openraft::rt::WatchReceiver;
use openraft::{Instant as _, ServerState};
use stemedb_rpc::Lane;
use stemedb_types::{NodeId, ReplicaId};
use stemedb_wal::planted::{self, Bug};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::Error;
use crate::clock::Reading;
use crate::codec::decode_read_index;
use crate::group::{Group, Leadership};
use crate::inbound::kinds;
use crate::lease::Permit;
use crate::queue::{READS_MAX, ROUND_TIMEOUT, Reader, closed};

/// How long at most a read waits until the index it was given is applied here.
const APPLY_WAIT_MAX: Duration = Duration::from_secs(30);

/// Takes leave to read, or why there is none, once.
pub type PermitDone = Box<dyn FnOnce(Result<Permit, Error>) + Send>;

/// A place among the reads that may wait, given back when it is dropped.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A read that waits for the leader's word.
struct Waiting {
    done: PermitDone,
    until: Instant,
    _place: Place,
}

/// The reads of a replica that does not lead.
#[derive(Default)]
pub(crate) struct Asking {
    queue: Mutex<Queue>,
    taken: Arc<AtomicUsize>,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<Waiting>,
    /// A task asks, and will look here again before it ends.
    asked: bool,
}

impl Asking {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place, if there is one.
    fn place(&self) -> Option<Place> {
        let before = self.taken.fetch_add(1, Ordering::Relaxed);
        let place = Place(self.taken.clone());
        (before < READS_MAX).then_some(place)
    }

    /// Whether the one that waits now has to ask.
    fn wait(&self, waiting: Waiting) -> bool {
        let mut queue = self.queue();
        queue.waiting.push(waiting);
        !std::mem::replace(&mut queue.asked, true)
    }

    /// All that wait now: the question that is asked next is theirs. With none, nobody asks any more.
    fn take(&self) -> Option<Vec<Waiting>> {
        let mut queue = self.queue();
        queue.asked = !queue.waiting.is_empty();
        queue.asked.then(|| std::mem::take(&mut queue.waiting))
    }
}

/// Since when a replica is known to have had everything.
#[derive(Default)]
pub(crate) struct Freshness {
    known: Mutex<Option<Reading>>,
    refreshing: AtomicBool,
}

impl Freshness {
    fn known(&self) -> Option<Reading> {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything that was acknowledged at that moment is applied here.
    pub(crate) fn note(&self, had_all_at: Reading) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_none_or(|known| known.steady < had_all_at.steady) {
            *known = Some(had_all_at);
        }
    }
}

impl Group {
    /// Leave to read what is here as the newest there is, from the leader's quorum round or its lease, wherever it
    /// is; `done` is called once, among others, and must be quick. It is dropped uncalled only if the
    /// group is closed meanwhile. A read that begins after `done` was called with a permit, and
    /// whose permit holds when it has ended ([`Permit::holds`]), is linearizable.
    ///
    /// Errors: [`Error::NotLeader`] (nobody is known to lead, or that has just changed: ask again),
    /// [`Error::NoQuorum`] (the leader has none, or did not answer in time, or this replica did not
    /// get that far before `until`), [`Error::Overloaded`], [`Error::Stopped`].
    pub fn permit_read_then(&self, until: Instant, done: PermitDone) {
        if *self.leadership().borrow() == Leadership::Here {
            return self.queue_read(Reader::Permitted(done));
        }
        let Some(place) = self.asking.place() else { return done(Err(Error::Overloaded)) };
        if self.asking.wait(Waiting { done, until, _place: place }) {
            self.home.spawn(ask_on(self.clone()));
        }
    }

    /// [`Group::permit_read_then`] where only the leader will do: [`Error::NotLeader`] says who leads, if
    /// that is known.
    pub fn permit_led_read_then(&self, done: PermitDone) {
        self.queue_read(Reader::Permitted(done));
    }

    /// [`Group::permit_read_then`] for one who waits.
    pub async fn permit_read(&self, until: Instant) -> Result<Permit, Error> {
        let (done, wait) = oneshot::channel();
        self.permit_read_then(until, Box::new(move |result| drop(done.send(result))));
        match timeout_at(until, wait).await {
            Ok(permitted) => permitted.unwrap_or_else(|_| Err(closed())),
            Err(_) => Err(Error::NoQuorum),
        }
    }

    /// Waits until everything is applied here that was committed when the question came, as a quorum
    /// confirms to the leader, never a lease. Returns the index.
    pub async fn reach_quorum_index(&self, until: Instant) -> Result<u64, Error> {
        if *self.leadership().borrow() == Leadership::Here {
            let confirmed = timeout_at(until, self.confirm_read()).await;
            return confirmed.unwrap_or(Err(Error::NoQuorum));
        }
        // Asked of the leader, and for others that one always asks a quorum.
        self.permit_read(until).await.map(|permit| permit.index())
    }

    /// How long ago, at most, this replica had everything that was acknowledged then; `None`: it was
    /// never known to since it was opened.
    pub fn age(&self) -> Option<Duration> {
        let now = self.leases.clock().now();
        let known = self.freshness.known();
        let proven = known.map(|known| now.since(&known));
        let led = self.acknowledged_ago().and_then(|ago| {
            let base = known.unwrap_or(self.opened);
            now.since_steady(ago, &base)
        });
        match (proven, led) {
            (Some(proven), Some(led)) => Some(proven.min(led)),
            (proven, led) => proven.or(led),
        }
    }

    /// How long ago a leader that has applied all it knows to be committed sent what a quorum has
    /// acknowledged. `None` at others, and at one that has not committed anything itself: it does
    /// not know yet what others had committed.
    fn acknowledged_ago(&self) -> Option<Duration> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let committed = metrics.cluster_committed?;
        let own = committed.committed_leader_id().term == metrics.current_term;
        let all = metrics.last_applied.is_some_and(|applied| applied.index() >= committed.index());
        if metrics.state != ServerState::Leader || !own || !all {
            return None;
        }
        let mut voters = metrics.membership_config.membership().voter_ids();
        if voters.next() == Some(self.replica().0) && voters.next().is_none() {
            // Nobody else acknowledges anything.
            return Some(Duration::ZERO);
        }
        metrics.last_quorum_acked.map(|acked| acked.elapsed())
    }

    /// Has this replica prove anew that it has everything, behind whoever asks; one at a time.
    pub fn refresh(&self) {
        if self.freshness.refreshing.swap(true, Ordering::Relaxed) {
            return;
        }
        let freshness = self.freshness.clone();
        let ended = Refreshing(freshness);
        let until = Instant::now() + ROUND_TIMEOUT;
        // What is proven is noted where the index is applied.
        self.permit_read_then(until, Box::new(move |_| drop(ended)));
    }

    /// Waits until something more is applied here than there was at `seen`, which is what the last
    /// call returned, 0 at first.
    pub async fn applied_beyond(&self, seen: u64) -> Result<u64, Error> {
        let beyond = self.applied().reach(seen.saturating_add(1));
        match self.closing.unless(beyond).await {
            Ok(Some(index)) => Ok(index),
            Ok(None) | Err(_) => Err(closed()),
        }
    }

    /// The read index of this replica, if it leads, for one that reads at another.
    pub(crate) async fn read_index_for_another(&self) -> Result<u64, Error> {
        let (done, wait) = oneshot::channel();
        self.queue_read(Reader::Elsewhere(Box::new(move |result| drop(done.send(result)))));
        wait.await.unwrap_or_else(|_| Err(closed()))
    }

    pub(crate) fn queue_read(&self, reader: Reader) {
        match self.reads.try_send(reader) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(reader)) => reader.refuse(Error::Overloaded),
            Err(mpsc::error::TrySendError::Closed(reader)) => reader.refuse(closed()),
        }
    }

    /// Who leads: its node and its replica.
    fn leader(&self) -> Option<(NodeId, ReplicaId)> {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let leader = metrics.current_leader?;
        let holder = metrics.membership_config.membership().get_node(&leader)?;
        Some((holder.0, ReplicaId(leader)))
    }

    /// A read index that the leader has a quorum for, asked for now.
    async fn ask_leader(&self, until: Instant) -> Result<u64, Error> {
        let Some((node, leader)) = self.leader() else {
            return Err(Error::NotLeader { leader: None });
        };
        let deadline = until.min(Instant::now() + ROUND_TIMEOUT);
        if leader == self.replica() {
            // It has become the leader since the read came.
            let asked = timeout_at(deadline, self.read_index_for_another()).await;
            return asked.unwrap_or(Err(Error::NoQuorum));
        }
        let message = self.envelope(leader, kinds::READ_INDEX, Bytes::new());
        let mut leadership = self.leadership();
        let before = *leadership.borrow_and_update();
        let other = leadership.wait_for(|now| *now != before && *now != Leadership::There(node));
        let answer = tokio::select! {
            biased;
            answer = self.plane.request(node, Lane::Urgent, message, deadline) => answer,
            // Its connection may stand for seconds although nobody is there; all reads wait behind this one.
            _ = other => return Err(Error::NotLeader { leader: None }),
        };
        match answer {
            Ok(answer) => decode_read_index(&answer)
                .map_err(|cause| Error::Stopped(format!("the leader's answer: {cause}")))?,
            // It is gone, or it went on to lead nothing: another will be known soon.
            Err(stemedb_rpc::Error::NotSent(stemedb_rpc::NotSent::Down(_)))
            | Err(stemedb_rpc::Error::Unknown(stemedb_rpc::Unknown::Down(_)))
            | Err(stemedb_rpc::Error::Refused(_) | stemedb_rpc::Error::Dropped) => {
                Err(Error::NotLeader { leader: None })
            }
            Err(stemedb_rpc::Error::NotSent(stemedb_rpc::NotSent::QueueFull)) => {
                Err(Error::Overloaded)
            }
            Err(_) => Err(Error::NoQuorum),
        }
    }
}

/// Ends a refresh, however it ends.
struct Refreshing(Arc<Freshness>);

impl Drop for Refreshing {
    fn drop(&mut self) {
        self.0.refreshing.store(false, Ordering::Relaxed);
    }
}

/// Asks for everybody who waits, again and again until nobody does.
async fn ask_on(group: Group) {
    loop {
        // Whoever is about to ask gets in.
        tokio::task::yield_now().await;
        let Some(round) = group.asking.take() else { return };
        metrics::counter!("stemedb_read_index_questions_total").increment(1);
        let until = round.iter().map(|waiting| waiting.until).max().unwrap_or_else(Instant::now);
        // Before the question leaves: what its answer proves, it proves of this moment.
        let begun = group.leases.clock().now();
        let asked = group.closing.unless(group.ask_leader(until)).await;
        match asked.unwrap_or_else(|_| Err(closed())) {
            Ok(index) if group.applied().index() >= index || planted::has(Bug::ReadUnapplied) => {
                group.serve(round, index, begun);
            }
            Ok(index) => {
                let group = group.clone();
                let home = group.home.clone();
                home.spawn(async move {
                    group.serve_once_applied(round, index, begun, until).await;
                });
            }
            Err(error) => refuse(round, &error),
        }
    }
}

fn refuse(round: Vec<Waiting>, error: &Error) {
    for waiting in round {
        (waiting.done)(Err(error.clone()));
    }
}

impl Group {
    fn serve(&self, round: Vec<Waiting>, index: u64, begun: Reading) {
        self.freshness.note(begun);
        for waiting in round {
            (waiting.done)(Ok(Permit { index, lease: None }));
        }
    }

    async fn serve_once_applied(
        &self,
        round: Vec<Waiting>,
        index: u64,
        begun: Reading,
        until: Instant,
    ) {
        let until = until.min(Instant::now() + APPLY_WAIT_MAX);
        let reached = timeout_at(until, self.applied().reach(index));
        match self.closing.unless(reached).await {
            Ok(Ok(Some(_))) => self.serve(round, index, begun),
            Ok(Err(_)) => refuse(round, &Error::NoQuorum),
            Ok(Ok(None)) | Err(_) => refuse(round, &closed()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(asking: &Asking, number: u32, seen: &Arc<Mutex<Vec<u32>>>) -> Waiting {
        let seen = seen.clone();
        let done: PermitDone = Box::new(move |_| seen.lock().unwrap().push(number));
        Waiting { done, until: Instant::now(), _place: asking.place().expect("a place") }
    }

    #[tokio::test]
    async fn a_read_that_comes_while_a_question_is_on_its_way_waits_for_the_next() {
        let (asking, seen) = (Asking::default(), Arc::default());
        assert!(asking.wait(waiting(&asking, 1, &seen)), "the first asks");
        assert!(!asking.wait(waiting(&asking, 2, &seen)), "the second need not");
        let first = asking.take().expect("two wait");
        // The question is on its way: the third can't be of it.
        assert!(!asking.wait(waiting(&asking, 3, &seen)));
        refuse(first, &Error::NoQuorum);
        assert_eq!(*seen.lock().unwrap(), [1, 2]);
        let second = asking.take().expect("one waits");
        refuse(second, &Error::NoQuorum);
        assert_eq!(*seen.lock().unwrap(), [1, 2, 3]);
        assert!(asking.take().is_none());
        assert!(asking.wait(waiting(&asking, 4, &seen)), "nobody asks any more: the next does");
    }

    #[tokio::test]
    async fn reads_beyond_the_bound_find_no_place_until_others_are_answered() {
        let asking = Asking::default();
        let mut places: Vec<_> = (0..READS_MAX).map(|_| asking.place().unwrap()).collect();
        assert!(asking.place().is_none() && asking.place().is_none());
        places.pop();
        assert!(asking.place().is_some());
        drop(places);
        assert_eq!(asking.taken.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_is_known_of_freshness_never_goes_back() {
        let at =
            |ms| Reading { steady: Duration::from_millis(ms), boot: Duration::from_millis(ms) };
        let freshness = Freshness::default();
        assert_eq!(freshness.known(), None);
        freshness.note(at(70));
        freshness.note(at(60));
        assert_eq!(freshness.known(), Some(at(70)));
    }
}
