//! Writers that each wait until their record is durable before they write the next: threads, or
//! tasks where a log can be waited for without a thread.
//!
//! The number of writers is the number of records in flight, so what a log makes of many
//! writers is what it makes of one sync. A cell warms up first, then counts for a fixed time: a
//! record counts if it was durable while the clock was running.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::procfs;
use crate::tally::{Run, Tally};

/// How often it is looked whether the run was given up.
const STOP_LOOK: Duration = Duration::from_millis(50);

/// A log that several threads write to.
pub(crate) trait Log: Sync {
    /// The hand of one writer; numbers are given once.
    ///
    /// # Errors
    /// The log refused.
    fn writer(&self, number: u64) -> Result<Box<dyn Writer + '_>>;
}

/// One writer's hand on a log. It stays on its thread.
pub(crate) trait Writer {
    /// Appends a record and returns once it is durable.
    ///
    /// # Errors
    /// It is not.
    fn append(&mut self, record: &[u8]) -> Result<()>;
}

/// One cell.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Threads.
    pub(crate) writers: u64,
    /// The number of the first of them.
    pub(crate) first_writer: u64,
    /// Length of a record; at least eight.
    pub(crate) record_bytes: usize,
    /// Before anything is counted.
    pub(crate) warm_up: Duration,
    /// How long it is counted.
    pub(crate) measured: Duration,
    /// Where chance begins.
    pub(crate) seed: u64,
}

/// One writer's hand on a log that calls back.
pub(crate) trait TaskWriter: Send {
    /// Appends a record; ready once it is durable.
    ///
    /// # Errors
    /// It is not.
    fn append(&mut self, record: &[u8]) -> impl Future<Output = Result<()>> + Send;
}

const WARM_UP: u8 = 0;
const MEASURED: u8 = 1;
const OVER: u8 = 2;

/// Measures one cell. The CPU of the log and that of the writers are one figure.
///
/// # Errors
/// A record was refused, or `stop` was set.
pub(crate) fn run(log: &dyn Log, plan: Plan, stop: &AtomicBool) -> Result<Run> {
    let phase = &AtomicU8::new(WARM_UP);
    thread::scope(|scope| {
        let writers: Vec<_> = (plan.first_writer..plan.first_writer + plan.writers)
            .map(|number| scope.spawn(move || drive_to_the_end(log, plan, number, phase)))
            .collect();
        let waited = wait(plan.warm_up, phase, stop);
        let before = Clocks::read();
        phase.fetch_max(MEASURED, Ordering::Relaxed);
        let waited = waited.and_then(|()| wait(plan.measured, phase, stop));
        phase.store(OVER, Ordering::Relaxed);
        let after = Clocks::read();
        let mut tally = Tally::new()?;
        for writer in writers {
            tally.merge(&writer.join().map_err(|_| anyhow!("a writer panicked"))??)?;
        }
        waited?;
        after?.since(&before?, tally)
    })
}

/// As [`run`], with a task for each writer, on as many threads as there are cores.
///
/// # Errors
/// As [`run`].
pub(crate) fn run_tasks<W: TaskWriter + 'static>(
    plan: Plan,
    stop: &AtomicBool,
    writer: impl Fn(u64) -> W,
) -> Result<Run> {
    let runtime = tokio::runtime::Builder::new_multi_thread().build()?;
    let phase = Arc::new(AtomicU8::new(WARM_UP));
    let writers: Vec<_> = (plan.first_writer..plan.first_writer + plan.writers)
        .map(|number| {
            let (writer, phase) = (writer(number), phase.clone());
            runtime.spawn(async move {
                let outcome = drive_task(writer, plan, number, &phase).await;
                if outcome.is_err() {
                    phase.store(OVER, Ordering::Relaxed);
                }
                outcome
            })
        })
        .collect();
    let waited = wait(plan.warm_up, &phase, stop);
    let before = Clocks::read();
    phase.fetch_max(MEASURED, Ordering::Relaxed);
    let waited = waited.and_then(|()| wait(plan.measured, &phase, stop));
    phase.store(OVER, Ordering::Relaxed);
    let after = Clocks::read();
    let mut tally = Tally::new()?;
    for writer in writers {
        let told = runtime.block_on(writer).map_err(|_| anyhow!("a writer panicked"))??;
        tally.merge(&told)?;
    }
    waited?;
    after?.since(&before?, tally)
}

struct Clocks {
    now: Instant,
    own_cpu: Duration,
    machine_cpu: Duration,
}

impl Clocks {
    fn read() -> Result<Self> {
        let machine_cpu = procfs::machine_cpu()?;
        Ok(Clocks { now: Instant::now(), own_cpu: procfs::own_cpu(), machine_cpu })
    }

    fn since(&self, before: &Self, tally: Tally) -> Result<Run> {
        let client_cpu = self.own_cpu.saturating_sub(before.own_cpu);
        let machine_cpu = self.machine_cpu.saturating_sub(before.machine_cpu);
        Ok(Run {
            tally,
            elapsed: self.now - before.now,
            server_cpu: Duration::ZERO,
            client_cpu,
            other_cpu: machine_cpu.saturating_sub(client_cpu),
        })
    }
}

/// Sleeps, unless a writer fails or the run is given up.
fn wait(time: Duration, phase: &AtomicU8, stop: &AtomicBool) -> Result<()> {
    let end = Instant::now() + time;
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    {
        if stop.load(Ordering::Relaxed) {
            bail!("given up");
        }
        if phase.load(Ordering::Relaxed) == OVER {
            break;
        }
        thread::sleep(left.min(STOP_LOOK));
    }
    Ok(())
}

/// One writer's life. One that fails ends the cell for all.
fn drive_to_the_end(log: &dyn Log, plan: Plan, number: u64, phase: &AtomicU8) -> Result<Tally> {
    let outcome = log.writer(number).and_then(|writer| drive(writer, plan, number, phase));
    if outcome.is_err() {
        phase.store(OVER, Ordering::Relaxed);
    }
    outcome
}

fn drive(
    mut writer: Box<dyn Writer + '_>,
    plan: Plan,
    number: u64,
    phase: &AtomicU8,
) -> Result<Tally> {
    let mut tally = Tally::new()?;
    let mut chance = chance(plan, number);
    let mut record = vec![0; plan.record_bytes];
    while phase.load(Ordering::Relaxed) != OVER {
        chance.fill_bytes(&mut record);
        let begun = Instant::now();
        writer.append(&record)?;
        let took = begun.elapsed();
        if phase.load(Ordering::Relaxed) == MEASURED {
            tally.succeeded(took)?;
        }
    }
    Ok(tally)
}

fn chance(plan: Plan, number: u64) -> SmallRng {
    SmallRng::seed_from_u64(plan.seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

async fn drive_task(
    mut writer: impl TaskWriter,
    plan: Plan,
    number: u64,
    phase: &AtomicU8,
) -> Result<Tally> {
    let mut tally = Tally::new()?;
    let mut chance = chance(plan, number);
    let mut record = vec![0; plan.record_bytes];
    while phase.load(Ordering::Relaxed) != OVER {
        chance.fill_bytes(&mut record);
        let begun = Instant::now();
        writer.append(&record).await?;
        let took = begun.elapsed();
        if phase.load(Ordering::Relaxed) == MEASURED {
            tally.succeeded(took)?;
        }
    }
    Ok(tally)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    /// Counts; the writer of number 3 fails at its second record.
    struct Counting(AtomicU64);

    struct Counter<'a>(&'a Counting, u64, u64);

    impl Log for Counting {
        fn writer(&self, number: u64) -> Result<Box<dyn Writer + '_>> {
            Ok(Box::new(Counter(self, number, 0)))
        }
    }

    impl Writer for Counter<'_> {
        fn append(&mut self, record: &[u8]) -> Result<()> {
            self.2 += 1;
            self.0.0.fetch_add(record.len() as u64, Ordering::Relaxed);
            if self.1 == 3 && self.2 == 2 {
                bail!("no more");
            }
            Ok(())
        }
    }

    fn plan(writers: u64, first_writer: u64) -> Plan {
        let (warm_up, measured) = (Duration::ZERO, Duration::from_millis(20));
        Plan { writers, first_writer, record_bytes: 8, warm_up, measured, seed: 1 }
    }

    #[test]
    fn what_was_appended_in_the_measured_time_is_counted() {
        let log = Counting(AtomicU64::new(0));
        let run = run(&log, plan(2, 7), &AtomicBool::new(false)).unwrap();
        let counted = run.tally.operations();
        assert!(counted > 0 && counted <= log.0.load(Ordering::Relaxed) / 8, "{counted}");
    }

    #[test]
    fn a_record_that_is_refused_ends_the_cell() {
        let log = Counting(AtomicU64::new(0));
        let long = Plan { measured: Duration::from_secs(3600), ..plan(4, 0) };
        let outcome = run(&log, long, &AtomicBool::new(false));
        assert_eq!(outcome.unwrap_err().to_string(), "no more");
    }

    #[test]
    fn a_run_that_is_given_up_ends() {
        let log = Counting(AtomicU64::new(0));
        let long = Plan { measured: Duration::from_secs(3600), ..plan(1, 0) };
        let outcome = run(&log, long, &AtomicBool::new(true));
        assert_eq!(outcome.unwrap_err().to_string(), "given up");
    }
}
