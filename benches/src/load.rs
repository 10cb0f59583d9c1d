//! The closed loop.
//!
//! A number of clients each do one operation after the other, as fast as the
//! answers come; so the number of clients is the number of operations in
//! flight. A cell warms up first, then counts for a fixed time: an operation
//! counts if its answer came while the clock was running. The servers' CPU is
//! read at both ends of that time.
//!
//! A closed loop slows down with the server, so its latencies are those of a
//! client that waits its turn, not those of requests that arrive on their own
//! schedule (the coordinated omission problem).
//!
//! A value begins with the number of its key, and a get checks it as well as
//! the length: the right answer to another question is an error.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::procfs;
use crate::tally::{Run, Tally};

/// Before anything is counted.
pub(crate) const WARM_UP: Duration = Duration::from_secs(1);
/// After the end of a cell, how long the last answers may take.
pub(crate) const DRAIN_LIMIT: Duration = Duration::from_secs(10);
/// After a failure, so that a dead server does not make the generator spin.
const ERROR_PAUSE: Duration = Duration::from_millis(10);
/// Clients that write the keys before the measurement.
const PRELOAD_CLIENTS: usize = 64;
/// Tries of one put of the preload; a young cluster may still be choosing leaders.
const PRELOAD_TRIES: u32 = 50;
/// Between two tries.
const PRELOAD_PAUSE: Duration = Duration::from_millis(200);
/// How long the preload may take.
const PRELOAD_LIMIT: Duration = Duration::from_secs(1800);
/// Progress is told each time so many keys more are written.
const PROGRESS_KEYS: u64 = 100_000;

/// A cluster that clients can be connected to.
pub(crate) trait Store {
    /// What one client holds.
    type Session: Session + 'static;

    /// Connects the client of this number; numbers are spread over the servers.
    async fn session(&self, client: usize) -> Result<Self::Session>;
}

/// One client's way to the store. It connects again by itself after a failure.
pub(crate) trait Session {
    /// Writes a value. `Ok` means the store said it is durable.
    async fn put(&mut self, key: &str, value: Bytes) -> Result<()>;

    /// Reads a value, linearizably. A key that is not there is an error.
    async fn get(&mut self, key: &str) -> Result<Bytes>;
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// One key written.
    Put,
    /// One key read.
    Get,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Operation::Put => "put",
            Operation::Get => "get",
        })
    }
}

/// The keys and values.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Workload {
    /// How many keys; each operation takes one at random.
    pub(crate) keys: u64,
    /// Length of every value.
    pub(crate) value_bytes: usize,
    /// Where chance begins.
    pub(crate) seed: u64,
}

impl Workload {
    /// The name of a key.
    pub(crate) fn key(index: u64) -> String {
        format!("key-{index:09}")
    }

    /// A value for a key: its number, then chance.
    pub(crate) fn value(&self, index: u64, chance: &mut SmallRng) -> Bytes {
        let mut value = vec![0; self.value_bytes];
        chance.fill_bytes(&mut value);
        let mark = index.to_be_bytes();
        let length = mark.len().min(value.len());
        value[..length].copy_from_slice(&mark[..length]);
        value.into()
    }

    /// Whether a value is that of a key.
    pub(crate) fn check(&self, index: u64, value: &[u8]) -> Result<()> {
        let length = value.len();
        ensure!(length == self.value_bytes, "a value of {length} bytes, not {}", self.value_bytes);
        let mark = index.to_be_bytes();
        let common = mark.len().min(length);
        ensure!(value[..common] == mark[..common], "the value of another key");
        Ok(())
    }

    /// Chance for one client.
    pub(crate) fn chance(&self, client: usize) -> SmallRng {
        SmallRng::seed_from_u64(self.seed ^ (client as u64 + 1).rotate_left(32))
    }
}

/// One cell of the table: an operation by so many clients for so long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CellPlan {
    /// What every client does.
    pub(crate) operation: Operation,
    /// How many clients.
    pub(crate) clients: usize,
    /// Before counting.
    pub(crate) warm_up: Duration,
    /// While counting.
    pub(crate) measured: Duration,
    /// Afterwards, for the last answers.
    pub(crate) drain_limit: Duration,
}

/// Writes every key once.
///
/// # Errors
/// A put failed on every try, or it took too long.
pub(crate) async fn preload<S: Store>(store: &S, workload: Workload) -> Result<()> {
    write_keys(store, workload, 0..workload.keys).await
}

/// Writes a value under each of these keys once, as fast as clients in a closed loop can.
///
/// # Errors
/// As [`preload`].
pub(crate) async fn write_keys<S: Store>(
    store: &S,
    workload: Workload,
    keys: Range<u64>,
) -> Result<()> {
    let left = Rc::new(RefCell::new(keys.clone()));
    let mut clients = JoinSet::new();
    for client in 0..PRELOAD_CLIENTS.min(usize::try_from(keys.end - keys.start)?) {
        let session = store.session(client).await?;
        clients.spawn_local(write_some(session, workload, client, left.clone()));
    }
    let all = async {
        while let Some(written) = clients.join_next().await {
            written??;
        }
        Ok(())
    };
    timeout(PRELOAD_LIMIT, all).await.context("the keys were not written in time")?
}

async fn write_some(
    mut session: impl Session,
    workload: Workload,
    client: usize,
    left: Rc<RefCell<Range<u64>>>,
) -> Result<()> {
    let mut chance = workload.chance(client);
    loop {
        let Some(index) = left.borrow_mut().next() else { return Ok(()) };
        if index > 0 && index.is_multiple_of(PROGRESS_KEYS) {
            eprintln!("  {index} keys written");
        }
        let value = workload.value(index, &mut chance);
        write_key(&mut session, &Workload::key(index), value).await?;
    }
}

async fn write_key(session: &mut impl Session, key: &str, value: Bytes) -> Result<()> {
    let mut tries = 1;
    while let Err(error) = session.put(key, value.clone()).await {
        if tries == PRELOAD_TRIES {
            return Err(error.context(format!("put {key} before the measurement")));
        }
        tries += 1;
        sleep(PRELOAD_PAUSE).await;
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    WarmUp,
    Measured,
    Over,
}

/// Runs one cell; `server_cpu` reads the CPU time of the servers.
///
/// # Errors
/// A client could not connect, a server has ended, or no client finished. A failed operation
/// is not an error here: it is counted.
pub(crate) async fn run_cell<S: Store>(
    store: &S,
    workload: Workload,
    plan: CellPlan,
    server_cpu: impl Fn() -> Result<Duration>,
) -> Result<Run> {
    let phase = Rc::new(Cell::new(Phase::WarmUp));
    let mut clients = JoinSet::new();
    for client in 0..plan.clients {
        let session = store.session(client).await?;
        clients.spawn_local(drive(session, workload, plan.operation, client, phase.clone()));
    }

    sleep(plan.warm_up).await;
    let before = Clocks::read(&server_cpu)?;
    phase.set(Phase::Measured);
    sleep(plan.measured).await;
    phase.set(Phase::Over);
    let after = Clocks::read(&server_cpu)?;

    let server_cpu = after.server_cpu.saturating_sub(before.server_cpu);
    let client_cpu = after.client_cpu.saturating_sub(before.client_cpu);
    let machine_cpu = after.machine_cpu.saturating_sub(before.machine_cpu);
    Ok(Run {
        tally: collect(clients, plan.drain_limit).await?,
        elapsed: after.now - before.now,
        server_cpu,
        client_cpu,
        other_cpu: machine_cpu.saturating_sub(server_cpu + client_cpu),
    })
}

/// What is read at both ends of the measured time.
struct Clocks {
    now: Instant,
    server_cpu: Duration,
    client_cpu: Duration,
    machine_cpu: Duration,
}

impl Clocks {
    fn read(server_cpu: impl Fn() -> Result<Duration>) -> Result<Self> {
        let (server_cpu, client_cpu) = (server_cpu()?, procfs::own_cpu());
        let machine_cpu = procfs::machine_cpu()?;
        Ok(Clocks { now: Instant::now(), server_cpu, client_cpu, machine_cpu })
    }
}

async fn drive(
    mut session: impl Session,
    workload: Workload,
    operation: Operation,
    client: usize,
    phase: Rc<Cell<Phase>>,
) -> Result<Tally> {
    let mut tally = Tally::new()?;
    let mut chance = workload.chance(client);
    while phase.get() != Phase::Over {
        let index = chance.random_range(0..workload.keys);
        let key = Workload::key(index);
        let value = match operation {
            Operation::Put => workload.value(index, &mut chance),
            Operation::Get => Bytes::new(),
        };
        let begun = Instant::now();
        let outcome = match operation {
            Operation::Put => session.put(&key, value).await,
            Operation::Get => match session.get(&key).await {
                Ok(value) => workload.check(index, &value),
                Err(error) => Err(error),
            },
        };
        let counted = phase.get() == Phase::Measured;
        match outcome {
            Ok(()) if counted => tally.succeeded(begun.elapsed())?,
            Ok(()) => {}
            Err(error) => {
                if counted {
                    tally.failed(format!("{error:#}"));
                }
                sleep(ERROR_PAUSE).await;
            }
        }
    }
    Ok(tally)
}

/// Waits for every client's last answer. A client still without one at the limit is given up:
/// its count is lost and stands as one error.
async fn collect(mut clients: JoinSet<Result<Tally>>, limit: Duration) -> Result<Tally> {
    let mut all = Tally::new()?;
    let drained = timeout(limit, async {
        while let Some(tally) = clients.join_next().await {
            all.merge(&tally??)?;
        }
        anyhow::Ok(())
    });
    match drained.await {
        Ok(merged) => merged?,
        Err(_) if all.operations() == 0 => bail!("no client got an answer within {limit:?}"),
        Err(_) => (0..clients.len()).for_each(|_| all.failed("a client got no answer any more")),
    }
    Ok(all)
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
