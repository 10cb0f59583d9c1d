//! Command + view → changes + answer.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use stemedb_types::Revision;

use super::answer::{Answer, AssertStatus};
use super::change::{Change, TouchKind, Touched};
use super::command::{AssertItem, Command, Write};
use super::keys;
use super::once::{self, ANSWERS_MAX, Recalled};
use super::view::{Attestation, BucketNumber, BucketState, ClaimKey, View};
use crate::{Error, Outcome};

/// Applies one command to the state that `view` shows.
///
/// The same command on the same state gives the same outcome on every replica. An outcome without
/// changes took no revision. The work is bounded by the command: a look-up or three for each key or
/// statement it names and a few for its own name, no scan. What else a floor lets go of, each replica
/// does in portions of its own.
pub fn apply(view: &impl View, command: &Command) -> Result<Outcome<Change, Answer>, Error> {
    apply_keeping(view, command, ANSWERS_MAX)
}

/// [`apply`] with another bound on the answers kept of a bucket.
pub(super) fn apply_keeping(
    view: &impl View,
    command: &Command,
    answers_max: u64,
) -> Result<Outcome<Change, Answer>, Error> {
    let over = match once::recall(view, command)? {
        Recalled::Answered(answer) => return unchanged(answer),
        Recalled::New(over) => over,
    };
    let mut outcome = apply_anew(view, command)?;
    once::keep(view, command, over, answers_max, &mut outcome)?;
    Ok(outcome)
}

fn apply_anew(view: &impl View, command: &Command) -> Result<Outcome<Change, Answer>, Error> {
    if let Write::Base { to } = command.write {
        return rebase(view, to);
    }
    let known = view.bucket(command.project, &command.bucket)?;
    let mut bucket = match known {
        Some(state) => state,
        None => {
            let base = view.base()?;
            let number = view.next_bucket()?;
            BucketState { number, revision: base, compacted: base, jumped: base }
        }
    };
    let mut outcome = match &command.write {
        Write::Put { .. } | Write::Delete { .. } | Write::Touch { .. } | Write::Expire { .. } => {
            keys::apply(view, &bucket, command)?
        }
        Write::Assert { items } => assert(view, &bucket, items, command.at_ms)?,
        // Takes no revision: history gets shorter, nothing happens.
        Write::Compact { to } => return Ok(compact(command, bucket, *to)),
        Write::Jump { to } => return Ok(jump(command, bucket, known.is_some(), *to)),
        Write::Base { to } => return rebase(view, *to),
    };
    if !outcome.changes.is_empty() {
        if known.is_none() {
            outcome.changes.push(next_bucket(bucket.number)?);
        }
        bucket.revision = bucket.revision.next();
        outcome.changes.push(Change::Bucket {
            project: command.project,
            name: command.bucket.clone(),
            state: bucket,
        });
    }
    Ok(outcome)
}

fn next_bucket(used: BucketNumber) -> Result<Change, Error> {
    let next = used.0.checked_add(1).ok_or_else(|| {
        Error::Contradiction("every number that a bucket can have is used up".to_owned())
    })?;
    Ok(Change::NextBucket { number: BucketNumber(next) })
}

/// Most revisions by which one [`Write::Compact`] moves a floor: so small that what goes with them
/// is no more than a replica does for one entry. Part of what the command means: it can't change
/// once a log holds one.
pub const COMPACT_REVISIONS_MAX: u64 = 256;

fn compact(command: &Command, bucket: BucketState, to: Revision) -> Outcome<Change, Answer> {
    let reach = bucket.compacted.0.saturating_add(COMPACT_REVISIONS_MAX);
    let floor = Revision(to.0.min(reach)).min(bucket.revision).max(bucket.compacted);
    let answer = Answer::Compacted { revision: bucket.revision, floor };
    let mut changes = Vec::new();
    if floor > bucket.compacted {
        changes.push(Change::Floor {
            project: command.project,
            name: command.bucket.clone(),
            state: BucketState { compacted: floor, ..bucket },
        });
    }
    Outcome { changes, answer }
}

/// A bucket that is there goes on behind the given revision.
fn jump(
    command: &Command,
    bucket: BucketState,
    is_known: bool,
    to: Revision,
) -> Outcome<Change, Answer> {
    let jumps = is_known && to > bucket.revision;
    let jumped = BucketState { revision: to, compacted: to, jumped: to, ..bucket };
    let after = if jumps { jumped } else { bucket };
    let mut changes = Vec::new();
    if jumps {
        changes.push(Change::Floor {
            project: command.project,
            name: command.bucket.clone(),
            state: after,
        });
    }
    Outcome {
        changes,
        answer: Answer::Compacted { revision: after.revision, floor: after.compacted },
    }
}

/// From now on new buckets of the group begin behind the given revision.
fn rebase(view: &impl View, to: Revision) -> Result<Outcome<Change, Answer>, Error> {
    let before = view.base()?;
    let base = to.max(before);
    let changes = if base > before { vec![Change::Base { to: base }] } else { Vec::new() };
    Ok(Outcome { changes, answer: Answer::Compacted { revision: base, floor: base } })
}

pub(super) fn unchanged(answer: Answer) -> Result<Outcome<Change, Answer>, Error> {
    Ok(Outcome { changes: Vec::new(), answer })
}

fn assert(
    view: &impl View,
    bucket: &BucketState,
    items: &[AssertItem],
    at_ms: u64,
) -> Result<Outcome<Change, Answer>, Error> {
    let revision = bucket.revision.next();
    let mut changes = Vec::with_capacity(items.len() * 2 + 1);
    let mut statuses = Vec::with_capacity(items.len());
    let mut touches = Vec::new();
    // What this very call has done already: the view does not show it yet.
    let mut claimed = BTreeMap::new();
    let mut attested = BTreeSet::new();
    for item in items {
        let (key, stands) = match claimed.get(&item.id) {
            Some((key, stands)) => (key, *stands),
            None => {
                let place = place(view, bucket.number, item)?;
                let (key, stands) = claimed.entry(item.id).or_insert(place);
                if !*stands {
                    changes.push(Change::Claim {
                        bucket: bucket.number,
                        key: key.clone(),
                        statement: item.statement.clone(),
                    });
                }
                (&*key, *stands)
            }
        };
        let made_before = !attested.insert((item.id, &item.agent))
            || stands && view.attested(bucket.number, key, &item.agent)?;
        if made_before {
            statuses.push(AssertStatus::Known);
            continue;
        }
        let attestation = Attestation { agent: item.agent.clone(), revision, at_ms };
        changes.push(Change::Attest { bucket: bucket.number, key: key.clone(), attestation });
        touches.push(touched(TouchKind::Assert, &Bytes::copy_from_slice(&item.id.0)));
        statuses.push(AssertStatus::Created);
    }
    if touches.is_empty() {
        return unchanged(Answer::Asserted { revision: bucket.revision, items: statuses });
    }
    changes.push(log(bucket.number, revision, touches));
    Ok(Outcome { changes, answer: Answer::Asserted { revision, items: statuses } })
}

/// Where a statement stands, and whether it does already. Its id decides, not what the command
/// says of it: an attestation must never be filed where its statement is not.
fn place(
    view: &impl View,
    bucket: BucketNumber,
    item: &AssertItem,
) -> Result<(ClaimKey, bool), Error> {
    if let Some(key) = view.claim_key(bucket, item.id)? {
        return Ok((key, true));
    }
    let AssertItem { id, subject, predicate, .. } = item;
    Ok((ClaimKey { subject: subject.clone(), predicate: predicate.clone(), id: *id }, false))
}

pub(super) fn log(bucket: BucketNumber, revision: Revision, touched: Vec<Touched>) -> Change {
    Change::Log { bucket, revision, touched }
}

pub(super) fn touched(kind: TouchKind, what: &Bytes) -> Touched {
    Touched { kind, what: what.clone() }
}
