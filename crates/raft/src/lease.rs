//! A leader's lease: reads without a quorum round, for as long as nobody else can lead.
//!
//! A follower that hears its leader refuses every vote for the longest election timeout
//! (openraft's rule). So when a quorum answered messages that were sent after a moment `t`, nobody can be elected
//! before `t` plus that time, by the followers' clocks. The leader counts from `t`, before its messages left, and
//! holds its lease for nine tenths of the time only: clocks may drift apart by a tenth. A reading of
//! its clocks that contradicts an earlier one ends the lease at once ([`crate::clock`]).
//!
//! A read under a lease is served by index and applied state like any other, and the lease is
//! looked at again *after* the value was read ([`Permit::holds`]): a process may be frozen
//! anywhere in between.
//!
//! What breaks the followers' promise breaks the lease, so each is met here:
//!
//! | what | met by |
//! |---|---|
//! | a leader hands over: voters let its heir past the lease | [`Leases::give_up`]: no lease in that term any more |
//! | a leader hears of a higher term, steps down and votes itself | the same, before its vote leaves |
//! | a voter restarts, and has forgotten whom it heard | it neither votes nor stands for one such time ([`Leases::holds_votes`]) |
//! | a voter of another read mode: it may vote early | it does not mark its answers ([`promise`]), and one such voter ends leases |
//!
//! Everything here is off unless [`crate::GroupOptions::lease_reads`] is on.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use stemedb_types::ReplicaId;

use crate::clock::{Clock, Reading};

/// Of the followers' time, a leader leaves this part (a tenth) unused: as much may two clocks drift
/// apart, and more.
const DRIFT_PART: u32 = 10;
/// Marks the version byte of an answer to an append: the voter keeps to leases.
const PROMISE: u8 = 0x80;

/// What a quorum promised a leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    /// The term it leads in.
    pub(crate) term: u64,
    /// Before the first message was sent that the quorum answered.
    pub(crate) since: Reading,
    /// How long it holds.
    pub(crate) length: Duration,
}

impl Lease {
    /// What voters that keep still for `patience` have promised by answering what was sent after
    /// `since`.
    pub(crate) fn of(term: u64, since: Reading, patience: Duration) -> Self {
        Self { term, since, length: patience - patience / DRIFT_PART }
    }

    /// Whether nobody else can lead yet.
    pub(crate) fn holds(&self, now: &Reading) -> bool {
        now.agrees_with(&self.since) && now.since(&self.since) < self.length
    }

    /// Whether it is time for another.
    pub(crate) fn is_half_over(&self, now: &Reading) -> bool {
        now.since(&self.since) >= self.length / 2
    }
}

#[derive(Default)]
struct State {
    lease: Option<Lease>,
    /// No lease in this term, nor in one before.
    given_up: Option<u64>,
    /// Voters that answered without a promise.
    unpromised: BTreeSet<ReplicaId>,
    /// Somebody is asking for the next lease.
    renewing: bool,
}

/// The leases of one replica. Cheap to clone, clones are the same.
#[derive(Clone)]
pub(crate) struct Leases(Arc<Inner>);

struct Inner {
    on: bool,
    patience: Duration,
    clock: Arc<dyn Clock>,
    opened: Reading,
    /// It may have promised something in an earlier life.
    may_have_promised: AtomicBool,
    state: Mutex<State>,
}

impl Leases {
    /// None yet. `patience` is how long a voter that hears its leader lets nobody else lead.
    /// With `votes_late` the replica may have promised something in an earlier life.
    pub(crate) fn new(
        on: bool,
        votes_late: bool,
        patience: Duration,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let opened = clock.now();
        let may_have_promised = AtomicBool::new(votes_late);
        let state = Mutex::default();
        Self(Arc::new(Inner { on, patience, clock, opened, may_have_promised, state }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether reads by lease are on.
    pub(crate) fn are_on(&self) -> bool {
        self.0.on
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.0.clock
    }

    /// The lease, if there is one that holds.
    pub(crate) fn current(&self) -> Option<Lease> {
        let lease = self.state().lease?;
        lease.holds(&self.0.clock.now()).then_some(lease)
    }

    /// Whether a lease that was taken from here holds still.
    fn still_holds(&self, lease: &Lease) -> bool {
        let given_up = self.state().given_up.is_some_and(|term| lease.term <= term);
        !given_up && lease.holds(&self.0.clock.now())
    }

    /// A quorum answered in `term` what was sent after `since`. It is a lease if all `voters` are
    /// known to keep to it.
    pub(crate) fn renew(
        &self,
        term: u64,
        since: Reading,
        mut voters: impl Iterator<Item = ReplicaId>,
    ) {
        if !self.0.on {
            return;
        }
        let mut state = self.state();
        if state.given_up.is_some_and(|given_up| term <= given_up)
            || voters.any(|voter| state.unpromised.contains(&voter))
        {
            state.lease = None;
            return;
        }
        // Two rounds may end in another order than they began.
        let newer = state.lease.is_none_or(|known| {
            (known.term, known.since.steady, known.since.boot) < (term, since.steady, since.boot)
        });
        if newer {
            state.lease = Some(Lease::of(term, since, self.0.patience));
        }
    }

    /// Whether the lease should be renewed now, by whoever asks; [`Leases::has_renewed`] ends that.
    pub(crate) fn begins_to_renew(&self) -> bool {
        let now = self.0.clock.now();
        let mut state = self.state();
        let due = !state.renewing && state.lease.is_some_and(|lease| lease.is_half_over(&now));
        state.renewing |= due;
        due
    }

    /// See [`Leases::begins_to_renew`].
    pub(crate) fn has_renewed(&self) {
        self.state().renewing = false;
    }

    /// From now on there is no lease in this term, nor in one before: another may be asked to lead.
    pub(crate) fn give_up(&self, term: u64) {
        let mut state = self.state();
        state.lease = None;
        state.given_up = state.given_up.max(Some(term));
    }

    /// No more than what [`Leases::give_up`] said of `term`, after all terms were given up.
    pub(crate) fn give_up_only(&self, term: u64) {
        self.state().given_up = Some(term);
    }

    /// A voter answered, with a promise or without.
    pub(crate) fn answered(&self, voter: ReplicaId, promised: bool) {
        if !self.0.on {
            return;
        }
        let mut state = self.state();
        if promised {
            state.unpromised.remove(&voter);
        } else if state.unpromised.insert(voter) {
            state.lease = None;
        }
    }

    /// The replica never promised anything: it has no leader yet, or no other voter.
    pub(crate) fn nothing_was_promised(&self) {
        self.0.may_have_promised.store(false, Ordering::Relaxed);
    }

    /// How much longer this replica neither votes nor stands: in an earlier life it may have heard
    /// a leader that holds a lease. `None`: it may.
    pub(crate) fn holds_votes(&self) -> Option<Duration> {
        if !self.0.may_have_promised.load(Ordering::Relaxed) {
            return None;
        }
        // By the clock that the promise is kept by: it stops in a sleep, which makes it longer.
        let passed = self.0.clock.now().steady.saturating_sub(self.0.opened.steady);
        self.0.patience.checked_sub(passed).filter(|left| !left.is_zero())
    }
}

/// Leave to serve one read from what this replica has applied.
pub struct Permit {
    pub(crate) index: u64,
    pub(crate) lease: Option<(Lease, Leases)>,
}

impl Permit {
    /// The index that was confirmed, and is applied.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Whether what was read is still the newest there was when the read began: asked *after* the
    /// value was read. If not, the value is thrown away, and a quorum is asked.
    pub fn holds(&self) -> bool {
        let Some((lease, leases)) = &self.lease else { return true };
        leases.still_holds(lease)
    }
}

/// An answer to an append, with the promise of a voter that keeps to leases.
pub(crate) fn promise(answer: Bytes) -> Bytes {
    let mut marked = BytesMut::from(answer.as_ref());
    if let Some(version) = marked.first_mut() {
        *version |= PROMISE;
    }
    marked.freeze()
}

/// An answer to an append without its promise, and whether there was one.
pub(crate) fn take_promise(answer: &[u8]) -> (Cow<'_, [u8]>, bool) {
    match answer {
        [version, rest @ ..] if version & PROMISE != 0 => {
            let mut plain = vec![version & !PROMISE];
            plain.extend_from_slice(rest);
            (Cow::Owned(plain), true)
        }
        _ => (Cow::Borrowed(answer), false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_millis(1000);

    /// Clocks that a test turns.
    #[derive(Default)]
    struct Turned(Mutex<Reading>);

    impl Turned {
        fn turn(&self, steady_ms: u64, boot_ms: u64) {
            let mut reading = self.0.lock().unwrap();
            reading.steady += Duration::from_millis(steady_ms);
            reading.boot += Duration::from_millis(boot_ms);
        }
    }

    impl Clock for Turned {
        fn now(&self) -> Reading {
            *self.0.lock().unwrap()
        }
    }

    fn leases() -> (Leases, Arc<Turned>) {
        let clock = Arc::new(Turned::default());
        clock.turn(50, 9_000);
        (Leases::new(true, true, PATIENCE, clock.clone()), clock)
    }

    fn voters() -> impl Iterator<Item = ReplicaId> {
        [ReplicaId(2), ReplicaId(3)].into_iter()
    }

    fn permit(leases: &Leases) -> Option<Permit> {
        let lease = leases.current()?;
        Some(Permit { index: 1, lease: Some((lease, leases.clone())) })
    }

    #[test]
    fn a_lease_counts_from_before_the_messages_and_ends_a_tenth_early() {
        let (leases, clock) = leases();
        assert!(leases.current().is_none());
        let sent = clock.now();
        clock.turn(300, 300);
        leases.renew(4, sent, voters());
        // What was answered after 300 ms holds for 600 more, not for 900.
        clock.turn(599, 599);
        assert!(leases.current().is_some());
        clock.turn(1, 1);
        assert!(leases.current().is_none());
    }

    #[test]
    fn a_lease_that_ended_while_the_value_was_read_permits_nothing() {
        let (leases, clock) = leases();
        leases.renew(4, clock.now(), voters());
        let permit = permit(&leases).expect("it holds");
        assert!(permit.holds());
        // The process was frozen between the look at the lease and the read.
        clock.turn(900, 900);
        assert!(!permit.holds());
    }

    #[test]
    fn a_sleep_and_a_jump_of_either_clock_end_a_lease_and_a_new_round_begins_another() {
        for (steady_ms, boot_ms) in [(100, 60_000), (60_000, 100), (100, 300), (300, 100)] {
            let (leases, clock) = leases();
            leases.renew(4, clock.now(), voters());
            let permit = permit(&leases).expect("it holds");
            clock.turn(steady_ms, boot_ms);
            assert!(leases.current().is_none() && !permit.holds(), "{steady_ms} {boot_ms}");
            leases.renew(4, clock.now(), voters());
            assert!(leases.current().is_some());
        }
    }

    #[test]
    fn who_hands_over_has_no_lease_in_that_term_any_more() {
        let (leases, clock) = leases();
        leases.renew(4, clock.now(), voters());
        let permit = permit(&leases).expect("it holds");
        leases.give_up(u64::MAX);
        assert!(!permit.holds());
        leases.give_up_only(4);
        leases.renew(4, clock.now(), voters());
        assert!(leases.current().is_none(), "the heir may still be on its way");
        leases.renew(5, clock.now(), voters());
        assert!(leases.current().is_some());
    }

    #[test]
    fn a_leader_that_votes_for_another_has_no_lease_whatever_its_clocks_say() {
        let (leases, clock) = leases();
        leases.renew(4, clock.now(), voters());
        let permit = permit(&leases).expect("it holds");
        // It was told of term 6 and stepped down; it grants a vote in that term.
        leases.give_up(5);
        assert!(!permit.holds() && leases.current().is_none());
        leases.renew(6, clock.now(), voters());
        assert!(leases.current().is_some(), "it was elected itself, later");
    }

    #[test]
    fn a_voter_without_a_promise_ends_leases_until_it_promises() {
        let (leases, clock) = leases();
        leases.renew(4, clock.now(), voters());
        leases.answered(ReplicaId(3), false);
        assert!(leases.current().is_none());
        leases.renew(4, clock.now(), voters());
        assert!(leases.current().is_none());
        // One that votes no more is not asked.
        leases.renew(4, clock.now(), [ReplicaId(2)].into_iter());
        assert!(leases.current().is_some());
        leases.answered(ReplicaId(3), true);
        leases.renew(4, clock.now(), voters());
        assert!(leases.current().is_some());
    }

    #[test]
    fn the_later_question_counts_in_whatever_order_the_answers_come() {
        let (leases, clock) = leases();
        let first = clock.now();
        clock.turn(100, 100);
        let second = clock.now();
        leases.renew(4, second, voters());
        leases.renew(4, first, voters());
        assert_eq!(leases.current().map(|lease| lease.since), Some(second));
    }

    #[test]
    fn a_voter_that_may_have_promised_keeps_still_for_one_time_after_its_start() {
        let (leases, clock) = leases();
        assert_eq!(leases.holds_votes(), Some(PATIENCE));
        clock.turn(999, 999);
        assert_eq!(leases.holds_votes(), Some(Duration::from_millis(1)));
        clock.turn(1, 1);
        assert_eq!(leases.holds_votes(), None);
        let fresh = Leases::new(true, true, PATIENCE, clock.clone());
        fresh.nothing_was_promised();
        assert_eq!(fresh.holds_votes(), None);
        let ceased = Leases::new(false, true, PATIENCE, clock.clone());
        assert_eq!(ceased.holds_votes(), Some(PATIENCE), "leases were on");
        assert_eq!(Leases::new(false, false, PATIENCE, clock).holds_votes(), None);
    }

    #[test]
    fn one_at_a_time_renews_a_lease_that_is_half_over() {
        let (leases, clock) = leases();
        assert!(!leases.begins_to_renew(), "there is none to renew");
        leases.renew(4, clock.now(), voters());
        clock.turn(449, 449);
        assert!(!leases.begins_to_renew());
        clock.turn(1, 1);
        assert!(leases.begins_to_renew() && !leases.begins_to_renew());
        leases.has_renewed();
        assert!(leases.begins_to_renew());
    }

    #[test]
    fn a_promise_travels_on_an_answer_and_comes_off_again() {
        let answer = Bytes::from_static(&[1, 0, 7]);
        let marked = promise(answer.clone());
        assert_eq!(take_promise(&marked), (Cow::Borrowed(&answer[..]), true));
        assert_eq!(take_promise(&answer), (Cow::Borrowed(&answer[..]), false));
        assert_eq!(take_promise(&promise(Bytes::new())), (Cow::Borrowed(&[][..]), false));
    }
}
