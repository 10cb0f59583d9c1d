//! All nodes restarted, one after the other, while callers call.
//!
//! Callers know one address (`balancer`), keep their connections, come on a schedule, and are the
//! client that others use (`crates/client`) with its own rules for trying again. Each node gets a
//! SIGTERM, is started when it is gone, and the next one follows when it is ready, as a StatefulSet
//! does it. A call failed if it failed after the client's retries, or read another value than was written
//! under that key; how many needed one is told, and
//! how long the slowest took.

use std::cell::{Cell, RefCell};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use stemedb_client::{ApiKey, Client, Condition, Value};
use stemedb_types::{BucketName, Key};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::balancer::{Backend, Balancer};
use crate::cli::{Output, RollingArgs};
use crate::compare::NODES;
use crate::faults::{Network, Site};
use crate::load::Workload;
use crate::report::built;
use crate::tally::Tally;
use crate::{place, table};

/// Clients, each with connections of its own.
const CLIENTS: usize = 16;
/// Buckets, so that all shards are at work.
const BUCKETS: u64 = 16;
/// Keys that are written and read.
const KEYS: u64 = 2_000;
/// Size of a value.
const VALUE_BYTES: usize = 256;
/// Load before the first node ends and after the last is back.
const CALM: Duration = Duration::from_secs(5);

tokio::task_local! {
    /// How often the call that this task makes was sent again.
    static RETRIES: Cell<u32>;
}

/// What came of one run.
struct Figures {
    calls: Calls,
    restarts: Vec<Duration>,
    took: Duration,
}

/// What came of the calls.
struct Calls {
    tally: Tally,
    /// Calls that were sent more than once.
    retried: u64,
    /// How often that was.
    retries: u64,
    longest: Duration,
}

/// One call that is over.
struct Call {
    outcome: Result<()>,
    took: Duration,
    retries: u32,
}

/// Measures all runs and prints them.
///
/// # Errors
/// A node did not start, did not end, or was not ready in time.
pub(crate) async fn run(arguments: &RollingArgs) -> Result<ExitCode> {
    let scratch = place::scratch(&arguments.servers.data_dir)?;
    let dir = scratch.path().to_owned();
    let mut site = Site::new(&arguments.servers, Network::Plain, NODES, NODES, dir).await?;
    site.found().await?;
    let key = site.project_key().await?;
    let backend = |node: usize| Backend { target: site.gateway(node), probe: site.own(node) };
    let balancer = Balancer::start(&(0..NODES).map(backend).collect::<Vec<_>>()).await?;
    let url = format!("http://{}", balancer.address);
    let mut all = Vec::new();
    for number in 1..=arguments.runs {
        eprintln!("run {number} of {}", arguments.runs);
        let clients = clients(&url, key.to_str()?)?;
        let figures = measure(arguments, &mut site, clients).await;
        all.push(figures.with_context(|| format!("run {number}"))?);
    }
    drop(balancer);
    site.stop().await?;
    print(arguments, &all);
    let held = failed(&all) == 0;
    Ok(if arguments.check && !held { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn clients(url: &str, key: &str) -> Result<Vec<Client>> {
    let client = || {
        let builder = Client::builder(url).key(ApiKey::new(key)).sleep(Arc::new(|wait| {
            // The client waits only before it sends something again.
            RETRIES.with(|retries| retries.set(retries.get() + 1));
            Box::pin(sleep(wait))
        }));
        Ok(builder.build()?)
    };
    (0..CLIENTS).map(|_| client()).collect()
}

async fn measure(
    arguments: &RollingArgs,
    site: &mut Site,
    clients: Vec<Client>,
) -> Result<Figures> {
    let over = Rc::new(Cell::new(false));
    let calls = call_on_schedule(arguments, clients, over.clone());
    let restarts = async {
        let restarted = restart_all(site).await;
        over.set(true);
        restarted
    };
    let (calls, restarts) = tokio::join!(calls, restarts);
    let (restarts, took) = restarts?;
    Ok(Figures { calls: calls?, restarts, took })
}

/// How long each took, and all of them.
async fn restart_all(site: &mut Site) -> Result<(Vec<Duration>, Duration)> {
    sleep(CALM).await;
    let (begun, mut restarts) = (Instant::now(), Vec::new());
    for node in 0..NODES {
        let begun = Instant::now();
        site.terminate(node).await?;
        let ended = begun.elapsed();
        site.start(node)?;
        site.ready().await?;
        let took = begun.elapsed();
        eprintln!(
            "  node {node}: ended after {:.1} s, ready after {:.1} s",
            ended.as_secs_f64(),
            took.as_secs_f64()
        );
        restarts.push(took);
    }
    let took = begun.elapsed();
    sleep(CALM).await;
    Ok((restarts, took))
}

async fn call_on_schedule(
    arguments: &RollingArgs,
    clients: Vec<Client>,
    over: Rc<Cell<bool>>,
) -> Result<Calls> {
    let workload = Workload { keys: KEYS, value_bytes: VALUE_BYTES, seed: arguments.seed };
    let (begun, mut chance) = (Instant::now(), workload.chance(0));
    let (mut calls, mut waiting) = (Calls::new()?, JoinSet::new());
    // The greatest revision that was acknowledged of each key; 0: none.
    let acknowledged = Rc::new(RefCell::new(vec![0; KEYS as usize]));
    for turn in 0_u64.. {
        let due = begun + Duration::from_secs_f64(turn as f64 / f64::from(arguments.rate));
        sleep_until(due).await;
        if over.get() {
            break;
        }
        while let Some(call) = waiting.try_join_next() {
            calls.count(call?)?;
        }
        let client = clients[turn as usize % CLIENTS].clone();
        // A key is read after it was written.
        let (index, put) = (turn / 2 % KEYS, turn % 2 == 0);
        let bucket: BucketName = format!("rolling-{}", index % BUCKETS).parse()?;
        let key = Key::new(Workload::key(index))?;
        let value = workload.value(index, &mut chance);
        let acknowledged = acknowledged.clone();
        waiting.spawn_local(RETRIES.scope(Cell::new(0), async move {
            let at = index as usize;
            let outcome = if put {
                let written = client.put(&bucket, &key, value, Condition::Always).await;
                written.map_err(anyhow::Error::from).map(|written| {
                    let newest = &mut acknowledged.borrow_mut()[at];
                    *newest = written.revision.max(*newest);
                })
            } else {
                let since = acknowledged.borrow()[at];
                let read = client.get(&bucket, &key).await.map_err(anyhow::Error::from);
                read.and_then(|found| checked(workload, index, since, found))
            };
            Call { outcome, took: due.elapsed(), retries: RETRIES.with(Cell::get) }
        }));
    }
    while let Some(call) = waiting.join_next().await {
        calls.count(call?)?;
    }
    Ok(calls)
}

/// Whether a get found what it must: what had been acknowledged when it began, or something newer.
fn checked(workload: Workload, index: u64, since: u64, found: Option<Value>) -> Result<()> {
    match found {
        Some(value) => {
            let revision = value.mod_revision;
            ensure!(revision >= since, "revision {revision}, {since} was acknowledged before");
            workload.check(index, &value.bytes)
        }
        None => {
            ensure!(since == 0, "not found, revision {since} was acknowledged before");
            Ok(())
        }
    }
}

impl Calls {
    fn new() -> Result<Self> {
        Ok(Calls { tally: Tally::new()?, retried: 0, retries: 0, longest: Duration::ZERO })
    }

    fn count(&mut self, call: Call) -> Result<()> {
        self.longest = self.longest.max(call.took);
        self.retried += u64::from(call.retries > 0);
        self.retries += u64::from(call.retries);
        match call.outcome {
            Ok(()) => self.tally.succeeded(call.took),
            Err(error) => {
                self.tally.failed(format!("{error:#}"));
                Ok(())
            }
        }
    }
}

fn failed(all: &[Figures]) -> u64 {
    all.iter().map(|figures| figures.calls.tally.errors().0).sum()
}

fn print(arguments: &RollingArgs, all: &[Figures]) {
    if arguments.servers.output == Output::Json {
        let run = |f: &Figures| {
            let (failed, first) = f.calls.tally.errors();
            json!({
                "calls": f.calls.tally.operations() + failed,
                "failed": failed,
                "first_error": first,
                "retried": f.calls.retried,
                "retries": f.calls.retries,
                "p50_ms": f.calls.tally.percentile_ms(0.5),
                "p99_ms": f.calls.tally.percentile_ms(0.99),
                "longest_ms": f.calls.longest.as_secs_f64() * 1e3,
                "restarts_s": f.restarts.iter().map(Duration::as_secs_f64).collect::<Vec<_>>(),
                "all_s": f.took.as_secs_f64(),
            })
        };
        let runs = all.iter().map(run).collect::<Vec<_>>();
        println!("{:#}", json!({ "built": built(), "rate": arguments.rate, "runs": runs }));
        return;
    }
    let headers =
        ["calls", "failed", "retried", "retries", "p50 ms", "p99 ms", "longest ms", "restarts s"];
    let rows: Vec<_> = all.iter().map(Figures::row).collect();
    println!("{}", table::markdown(&headers, &rows, 0));
    let verdict = if failed(all) == 0 { "held" } else { "NOT HELD" };
    println!(
        "target: no call failed after its retries or read less than was acknowledged: {verdict}"
    );
    for reason in all.iter().filter_map(|f| f.calls.tally.errors().1) {
        println!("FAILED, the first of a run: {reason}");
    }
    println!("{} calls/s on a schedule, half of them puts", arguments.rate);
    print!("{}", built());
}

impl Figures {
    fn row(&self) -> Vec<String> {
        let (failed, tally) = (self.calls.tally.errors().0, &self.calls.tally);
        vec![
            (tally.operations() + failed).to_string(),
            failed.to_string(),
            self.calls.retried.to_string(),
            self.calls.retries.to_string(),
            format!("{:.2}", tally.percentile_ms(0.5)),
            format!("{:.2}", tally.percentile_ms(0.99)),
            format!("{:.0}", self.calls.longest.as_secs_f64() * 1e3),
            format!("{:.1}", self.took.as_secs_f64()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_was_sent_again_is_one_call_however_often() {
        let mut calls = Calls::new().unwrap();
        let ms = Duration::from_millis;
        let call = |outcome, took, retries| Call { outcome, took: ms(took), retries };
        calls.count(call(Ok(()), 3, 0)).unwrap();
        calls.count(call(Ok(()), 6_003, 2)).unwrap();
        calls.count(call(Err(anyhow::anyhow!("nobody took it")), 14_000, 3)).unwrap();
        assert_eq!((calls.tally.operations(), calls.tally.errors().0), (2, 1));
        assert_eq!((calls.retried, calls.retries, calls.longest), (2, 5, ms(14_000)));
        let restarts = vec![ms(1_000)];
        let figures = Figures { calls, restarts, took: ms(4_000) };
        assert_eq!(figures.row()[..4], ["3", "1", "2", "5"]);
    }

    #[test]
    fn a_get_that_finds_less_than_was_acknowledged_is_a_failure() {
        let workload = Workload { keys: KEYS, value_bytes: VALUE_BYTES, seed: 1 };
        let found = |index, mod_revision| {
            let bytes = workload.value(index, &mut workload.chance(0));
            Some(Value { bytes, mod_revision, create_revision: 1, version: 1, stale_ms: None })
        };
        assert!(checked(workload, 3, 0, None).is_ok(), "nothing was acknowledged");
        assert!(checked(workload, 3, 7, None).is_err());
        assert!(checked(workload, 3, 7, found(3, 6)).is_err());
        assert!(checked(workload, 3, 7, found(4, 7)).is_err());
        assert!(checked(workload, 3, 7, found(3, 7)).is_ok());
        assert!(checked(workload, 3, 7, found(3, 9)).is_ok());
    }

    #[tokio::test]
    async fn what_the_client_waits_for_is_counted_for_its_own_call() {
        // Nobody listens: the first try and each after it fail at once.
        let nowhere = place::free_addresses(1).unwrap()[0];
        tokio::time::pause();
        let client = clients(&format!("http://{nowhere}"), "k").unwrap().remove(0);
        let counted = |client: Client| {
            RETRIES.scope(Cell::new(0), async move {
                let (bucket, key) = ("b".parse().unwrap(), Key::new("k").unwrap());
                assert!(client.get(&bucket, &key).await.is_err());
                RETRIES.with(Cell::get)
            })
        };
        let (one, other) = tokio::join!(counted(client.clone()), counted(client));
        assert_eq!((one, other), (3, 3));
    }
}
