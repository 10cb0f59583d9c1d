//! Puts on a schedule.
//!
//! Each put has its time, and its latency counts from that time, not from when it could be
//! sent: callers who come at their own pace feel a stall in full, also those who came while it
//! lasted. The puts are spread over sessions by turns; a session that is still waiting sends
//! its next one late.

use std::rc::Rc;
use std::time::Duration;

use anyhow::Result;
use rand::RngExt;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::load::{Session, Store, Workload};
use crate::tally::Tally;

/// Sessions the puts are spread over.
const SESSIONS: usize = 64;

/// What is to be sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    /// Random keys of it are written anew.
    pub(crate) workload: Workload,
    /// Puts in a second, all sessions together.
    pub(crate) rate: u32,
}

/// Sends puts until `over` says so, and counts them all.
///
/// # Errors
/// A session could not be opened.
pub(crate) async fn run<S: Store>(
    store: &S,
    schedule: Schedule,
    over: impl Fn() -> bool + 'static,
) -> Result<Tally> {
    let (begun, over) = (Instant::now(), Rc::new(over));
    let mut sessions = JoinSet::new();
    for number in 0..SESSIONS {
        let session = store.session(number).await?;
        sessions.spawn_local(drive(session, schedule, number, begun, over.clone()));
    }
    let mut all = Tally::new()?;
    while let Some(tally) = sessions.join_next().await {
        all.merge(&tally??)?;
    }
    Ok(all)
}

async fn drive(
    mut session: impl Session,
    schedule: Schedule,
    number: usize,
    begun: Instant,
    over: Rc<impl Fn() -> bool>,
) -> Result<Tally> {
    let mut tally = Tally::new()?;
    let mut chance = schedule.workload.chance(number);
    for turn in (number as u64..).step_by(SESSIONS) {
        let due = due(begun, schedule.rate, turn);
        sleep_until(due).await;
        if over() {
            break;
        }
        let index = chance.random_range(0..schedule.workload.keys);
        let value = schedule.workload.value(index, &mut chance);
        match session.put(&Workload::key(index), value).await {
            Ok(()) => tally.succeeded(due.elapsed())?,
            Err(error) => tally.failed(format!("{error:#}")),
        }
    }
    Ok(tally)
}

/// The time of the put of this number.
fn due(begun: Instant, rate: u32, turn: u64) -> Instant {
    begun + Duration::from_secs_f64(turn as f64 / f64::from(rate))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use std::cell::Cell;
    use tokio::task::LocalSet;
    use tokio::time::sleep;

    /// How long an answer takes.
    const ANSWER: Duration = Duration::from_millis(20);

    struct Slow(Rc<Cell<u32>>);

    impl Store for Slow {
        type Session = Slow;

        async fn session(&self, _: usize) -> Result<Slow> {
            Ok(Slow(self.0.clone()))
        }
    }

    impl Session for Slow {
        async fn put(&mut self, _: &str, _: Bytes) -> Result<()> {
            self.0.set(self.0.get() + 1);
            sleep(ANSWER).await;
            Ok(())
        }

        async fn get(&mut self, _: &str) -> Result<Bytes> {
            Ok(Bytes::new())
        }
    }

    #[tokio::test]
    async fn who_comes_while_the_store_stalls_waits_from_their_own_time_on() {
        // Intent: all puts are due within a moment, and each session answers its own one after
        // the other, so the second put of each waits for the first as well.
        let workload = Workload { keys: 9, value_bytes: 8, seed: 1 };
        let schedule = Schedule { workload, rate: 100_000 };
        let sent = Rc::new(Cell::new(0));
        let counted = sent.clone();
        let over = move || counted.get() >= 2 * SESSIONS as u32;
        let store = Slow(sent.clone());
        let tally = LocalSet::new().run_until(run(&store, schedule, over)).await.unwrap();
        assert_eq!((sent.get(), tally.operations()), (128, 128));
        let second = 2.0 * ANSWER.as_secs_f64() * 1e3 - 2.0;
        assert!(tally.percentile_ms(0.75) >= second, "{} ms", tally.percentile_ms(0.75));
    }

    #[test]
    fn a_put_is_due_by_its_number() {
        let begun = Instant::now();
        assert_eq!(due(begun, 500, 1250), begun + Duration::from_millis(2500));
    }
}
