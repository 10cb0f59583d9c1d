//! A write that is done once, however often it is asked for.
//!
//! Whoever gets no answer to a write can't know whether it was applied. So a caller may give a
//! write a name of its own, the idempotency key. The answer to the first command of a name is kept
//! in the state, beside what the command did and in the same batch; a second command of that name
//! is given the kept answer and changes nothing. As it is state, it goes where the state goes:
//! through a change of leaders, into snapshots, with a shard that moves.
//!
//! What a name stands for is pinned by a fingerprint of what was asked. The same name for something
//! else is a mistake of the caller's, and is answered as one. Every answer is kept, a failed
//! condition and a missing key too: the write was judged, and a second judgement at a later state
//! could be another one.
//!
//! **How long.** An answer counts for [`ANSWERS_KEPT_MS`] by the stamps of the two commands,
//! nothing else: no replica looks at a clock. It is dropped later, by the named writes that follow
//! in its bucket: each adds one and drops up to [`DROPPED_MAX`] from the old end. So that this
//! needs no scan, the answers of a bucket are numbered, and its [`KeptRange`] says which numbers
//! stand. A compaction of history drops more of them, for a bucket in which nobody names writes any
//! more.
//!
//! **How many.** At most [`ANSWERS_MAX`] in a bucket. Beyond them the oldest goes before its time,
//! so that a busy bucket remembers for less long, and no write is refused for it: at 10,000 named
//! writes a second that is 104 s.
//!
//! Left out. Stamps are of leaders' clocks: one that is ahead of the last by more than the time an
//! answer is kept forgets too early, and a retry behind it is a new write. A bucket is the scope:
//! two callers of one project that use the same name in one bucket meet.

use bytes::Bytes;
use stemedb_types::limits::IDEMPOTENCY_KEY_BYTES_MAX;

use super::answer::Answer;
use super::apply::COMPACT_REVISIONS_MAX;
use super::change::Change;
use super::command::{Command, Write};
use super::view::View;
use crate::{Error, Outcome};

/// How long an answer counts, in ms. Part of what a named command means: it can't change once a log
/// holds one. So are the other two.
pub const ANSWERS_KEPT_MS: u64 = 600_000;
/// Most answers kept of one bucket.
pub const ANSWERS_MAX: u64 = 1 << 20;
/// Most old answers that one named write drops: more than it adds, so that they do go.
pub const DROPPED_MAX: u64 = 2;

/// What a caller calls a write: 1 to 64 visible ASCII characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdempotencyKey(Bytes);

impl IdempotencyKey {
    /// `None` if it is empty, too long, or holds anything but visible ASCII.
    pub fn new(key: impl Into<Bytes>) -> Option<Self> {
        let key = key.into();
        let fits = (1..=IDEMPOTENCY_KEY_BYTES_MAX).contains(&key.len());
        (fits && key.iter().all(u8::is_ascii_graphic)).then_some(Self(key))
    }

    /// Its characters.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }
}

/// A hash of what was asked: equal for a retry, another for anything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; 32]);

/// What makes a command one that is applied once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Once {
    /// The write's name, in its bucket.
    pub key: IdempotencyKey,
    /// What the name stands for.
    pub fingerprint: Fingerprint,
}

/// An answer that was given, with what it takes to give it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptAnswer {
    /// Its number among those of its bucket.
    pub sequence: u64,
    /// The stamp of the command that was answered, in ms since 1970.
    pub at_ms: u64,
    /// What was asked.
    pub fingerprint: Fingerprint,
    /// What was answered.
    pub answer: Answer,
}

/// Whose a number is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptName {
    /// The write's name.
    pub key: IdempotencyKey,
    /// The stamp of its command, in ms since 1970.
    pub at_ms: u64,
}

/// Which answers of a bucket stand: the numbers from `first` up to, not including, `next`, without
/// those whose name was used again after its time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeptRange {
    /// The oldest.
    pub first: u64,
    /// The number that the next answer gets.
    pub next: u64,
    /// A stamp: before it is over, the oldest is not looked at.
    pub oldest_ms: u64,
}

/// What the state knows of a command's name.
pub(super) enum Recalled {
    /// It was answered: this is the answer now.
    Answered(Answer),
    /// Nothing that counts. The number of an answer whose time is over, if one still stands.
    New(Option<u64>),
}

/// Whether what was stamped `made_ms` counts no more for a command stamped `at_ms`.
fn is_over(made_ms: u64, at_ms: u64) -> bool {
    at_ms.saturating_sub(made_ms) >= ANSWERS_KEPT_MS
}

/// Looks up what was answered to a command of this name.
pub(super) fn recall(view: &impl View, command: &Command) -> Result<Recalled, Error> {
    let Some(once) = &command.once else { return Ok(Recalled::New(None)) };
    let kept = view.kept_answer(command.project, &command.bucket, &once.key)?;
    Ok(match kept {
        None => Recalled::New(None),
        Some(kept) if is_over(kept.at_ms, command.at_ms) => Recalled::New(Some(kept.sequence)),
        Some(kept) if kept.fingerprint == once.fingerprint => {
            Recalled::Answered(Answer::Replayed(Box::new(kept.answer)))
        }
        Some(kept) => Recalled::Answered(Answer::Mismatch { revision: kept.answer.revision() }),
    })
}

/// Adds to an outcome that its answer is kept, if the command has a name, and that old ones are
/// dropped. `over`: what [`recall`] found under the name. `answers_max` is [`ANSWERS_MAX`].
pub(super) fn keep(
    view: &impl View,
    command: &Command,
    over: Option<u64>,
    answers_max: u64,
    outcome: &mut Outcome<Change, Answer>,
) -> Result<(), Error> {
    let dropped_max = match (&command.once, &command.write) {
        (Some(_), _) => DROPPED_MAX,
        (None, Write::Compact { .. }) => COMPACT_REVISIONS_MAX,
        (None, _) => return Ok(()),
    };
    let (project, name) = (command.project, &command.bucket);
    let known = view.kept_range(project, name)?;
    let mut range = known;
    let dropped = |key, sequence| Change::DropAnswer { project, name: name.clone(), key, sequence };
    if let (Some(once), Some(sequence)) = (&command.once, over) {
        outcome.changes.push(dropped(once.key.clone(), sequence));
    }
    for _ in 0..dropped_max {
        let is_full = command.once.is_some() && range.next - range.first >= answers_max;
        let looks = is_full || is_over(range.oldest_ms, command.at_ms);
        if range.first == range.next || !looks {
            break;
        }
        // A number without a name: the name was used again since, or is now.
        let oldest = match over == Some(range.first) {
            true => None,
            false => view.kept_name(project, name, range.first)?,
        };
        if let Some(oldest) = oldest {
            if !is_full && !is_over(oldest.at_ms, command.at_ms) {
                range.oldest_ms = oldest.at_ms;
                break;
            }
            outcome.changes.push(dropped(oldest.key, range.first));
        }
        range.first += 1;
    }
    if let Some(Once { key, fingerprint }) = command.once.clone() {
        let (sequence, at_ms, answer) = (range.next, command.at_ms, outcome.answer.clone());
        if range.first == range.next {
            range.oldest_ms = at_ms;
        }
        range.next += 1;
        let answer = KeptAnswer { sequence, at_ms, fingerprint, answer };
        outcome.changes.push(Change::KeepAnswer { project, name: name.clone(), key, answer });
    }
    if range != known {
        outcome.changes.push(Change::Kept { project, name: name.clone(), range });
    }
    Ok(())
}
