//! When a request is sent again: a table, and nothing else.

use std::time::Duration;

/// How long to wait before the second, third and fourth try.
pub(crate) const BACKOFF: [Duration; 3] =
    [Duration::from_secs(2), Duration::from_secs(4), Duration::from_secs(8)];
/// Longest wait that a server may ask for.
pub(crate) const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// What a request does, as far as sending it twice goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Changes nothing: may be sent as often as one likes.
    Read,
    /// Changes a bucket, under an idempotency key: however often it is sent, it is applied once.
    Write,
    /// Changes the cluster: no key is kept of it.
    Admin,
    /// Asks how a node is now: sent once.
    Probe,
}

/// What became of one try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Try {
    /// An answer came whole.
    Answered(u16),
    /// No connection: the request never left.
    NotSent,
    /// It was sent, and the connection broke or the time ran out.
    Lost,
}

/// What to make of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The answer is the answer.
    Take,
    /// Send it again; if there is no try left, it was not applied.
    Again,
    /// No more tries; it was not applied.
    NotApplied,
    /// No more tries; it may have been applied.
    Unknown,
}

/// What to make of a try.
pub(crate) fn judge(kind: Kind, outcome: Try) -> Verdict {
    match (kind, outcome) {
        (Kind::Probe, Try::Answered(_)) => Verdict::Take,
        (Kind::Probe, _) => Verdict::NotApplied,
        // Of our own servers this always means: not applied.
        (_, Try::Answered(503)) => Verdict::Again,
        (Kind::Read | Kind::Write, Try::Answered(502 | 504) | Try::NotSent | Try::Lost) => {
            Verdict::Again
        }
        (Kind::Admin, Try::Answered(502 | 504) | Try::Lost) => Verdict::Unknown,
        (Kind::Admin, Try::NotSent) => Verdict::NotApplied,
        (_, Try::Answered(_)) => Verdict::Take,
    }
}

/// Whether a write that met this may have been applied.
pub(crate) fn is_doubtful(outcome: Try) -> bool {
    matches!(outcome, Try::Answered(502 | 504) | Try::Lost)
}

/// Whether an answer of this status to a write settles what became of the tries before it. It does if
/// it comes out of the bucket's state, or says what any try would have been told; not if it is about
/// who asks, or about this moment.
pub(crate) fn settles(status: u16) -> bool {
    status < 500 && !matches!(status, 401 | 403 | 408 | 421 | 429)
}

/// How long to wait before try number `tries + 1`, after `tries` were made; `None`: give up.
///
/// A server that asks for more than the back-off gets it, up to [`RETRY_AFTER_MAX`].
pub(crate) fn pause(tries: u32, retry_after: Option<Duration>) -> Option<Duration> {
    let step = BACKOFF.get(tries.checked_sub(1)? as usize)?;
    let asked = retry_after.unwrap_or_default().min(RETRY_AFTER_MAX);
    Some(asked.max(*step))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_has_one_verdict() {
        use Kind::{Admin, Probe, Read, Write};
        use Try::{Answered, Lost, NotSent};
        use Verdict::{Again, NotApplied, Take, Unknown};
        for (outcome, read_or_write, admin, probe) in [
            (Answered(200), Take, Take, Take),
            (Answered(404), Take, Take, Take),
            (Answered(429), Take, Take, Take),
            (Answered(500), Take, Take, Take),
            (Answered(502), Again, Unknown, Take),
            (Answered(503), Again, Again, Take),
            (Answered(504), Again, Unknown, Take),
            (NotSent, Again, NotApplied, NotApplied),
            (Lost, Again, Unknown, NotApplied),
        ] {
            let verdicts = [Read, Write, Admin, Probe].map(|kind| judge(kind, outcome));
            assert_eq!(verdicts, [read_or_write, read_or_write, admin, probe], "{outcome:?}");
        }
    }

    #[test]
    fn what_leaves_a_write_in_doubt_and_what_settles_it() {
        use Try::{Answered, Lost, NotSent};
        for doubtful in [Lost, Answered(502), Answered(504)] {
            assert!(is_doubtful(doubtful), "{doubtful:?}");
        }
        for certain in [NotSent, Answered(503), Answered(200), Answered(429)] {
            assert!(!is_doubtful(certain), "{certain:?}");
        }
        let settled = [200, 201, 204, 400, 404, 412, 413, 422];
        assert!(settled.into_iter().all(settles));
        let unsettled = [401, 403, 421, 429, 500, 502, 503, 504, 507];
        assert!(!unsettled.into_iter().any(settles));
    }

    #[test]
    fn three_pauses_of_2_4_8_and_a_server_may_ask_for_longer_ones_within_reason() {
        let s = Duration::from_secs;
        let pauses = [1, 2, 3, 4].map(|tries| pause(tries, None));
        assert_eq!(pauses, [Some(s(2)), Some(s(4)), Some(s(8)), None]);
        assert_eq!(pause(1, Some(s(1))), Some(s(2)));
        assert_eq!(pause(1, Some(s(7))), Some(s(7)));
        assert_eq!(pause(3, Some(s(100_000))), Some(RETRY_AFTER_MAX));
        assert_eq!(pause(0, None), None);
    }
}
