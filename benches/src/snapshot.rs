//! What callers feel while a snapshot is sent.
//!
//! Three nodes hold one shard. One of them is ended, the shard is filled, and the log is cut, so
//! that the absent node can only be brought up by a snapshot. Puts on a schedule measure the
//! latency before it is started again and while it catches up: until its store has stopped
//! growing and holds most of what the others hold. Each run has a cluster of its own; the ratio
//! of the two p99 is told for each, and the median.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use tokio::time::sleep;

use crate::cli::{Output, Servers, SnapshotArgs};
use crate::compare::NODES;
use crate::fleet::Fleet;
use crate::load::{self, Workload};
use crate::open_loop::{self, Schedule};
use crate::report::built;
use crate::tally::Tally;
use crate::{place, stemedb, table};

const MIB: f64 = 1_048_576.0;
/// The node that is away while the shard is filled.
const ABSENT: usize = 2;
/// Between two looks at what the absent node has.
const LOOK: Duration = Duration::from_millis(500);
/// So many looks without growth mean that it has everything.
const STILL_LOOKS: u32 = 8;
/// It has everything only with this part of what another node has.
const WHOLE_PART: f64 = 0.5;
/// How long a snapshot may take.
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(900);
/// How long the others may go on writing after the fill.
const SETTLE_LIMIT: Duration = Duration::from_secs(300);
/// The p99 while a snapshot is sent may be so many times that before.
const TARGET: f64 = 2.0;

/// What came of one run.
struct Figures {
    shard_bytes: u64,
    sent: Duration,
    before: Tally,
    during: Tally,
}

impl Figures {
    fn ratio(&self) -> f64 {
        self.during.percentile_ms(0.99) / self.before.percentile_ms(0.99)
    }
}

/// Measures all runs and prints them.
///
/// # Errors
/// A node did not start or ended, or the absent one was not brought up.
pub(crate) async fn run(arguments: &SnapshotArgs) -> Result<ExitCode> {
    let mut servers = arguments.servers.clone();
    servers.stemedb_env.insert(0, ("STEMEDB_SHARDS".to_owned(), "1".to_owned()));
    let scratch = place::scratch(&servers.data_dir)?;
    let mut all = Vec::new();
    for number in 0..arguments.runs {
        eprintln!("run {} of {}", number + 1, arguments.runs);
        let dir = scratch.path().join(number.to_string());
        let figures = measure(arguments, &servers, &dir).await;
        all.push(figures.with_context(|| format!("run {}", number + 1))?);
        std::fs::remove_dir_all(&dir)?;
    }
    print(arguments, &all);
    Ok(ExitCode::SUCCESS)
}

async fn measure(arguments: &SnapshotArgs, servers: &Servers, dir: &Path) -> Result<Figures> {
    let mut cluster = stemedb::start(servers, NODES, dir).await?;
    let store = cluster.store().await?.through(ABSENT);
    let fleet = &mut cluster.fleet;
    fleet.end(ABSENT).await?;
    let value_bytes = arguments.value_bytes as usize;
    let keys = arguments.shard_mib * (1 << 20) / u64::from(arguments.value_bytes.max(1)) + 1;
    let workload = Workload { keys, value_bytes, seed: arguments.seed };
    load::preload(&store, workload).await?;
    settle(fleet).await?;
    let stores: Vec<PathBuf> =
        (0..NODES).map(|node| dir.join(format!("node-{node}")).join("db")).collect();
    let shard_bytes = place::allocated_bytes(&stores[0]);
    eprintln!("  a node's store holds {:.0} MiB", shard_bytes as f64 / MIB);

    let schedule = Schedule { workload, rate: arguments.rate };
    let (time, begun) = (Duration::from_secs(arguments.seconds), Instant::now());
    let before = open_loop::run(&store, schedule, move || begun.elapsed() >= time).await?;
    eprintln!("  p99 before: {:.2} ms", before.percentile_ms(0.99));

    fleet.start_again(ABSENT)?;
    let (begun, caught_up) = (Instant::now(), Rc::new(Cell::new(false)));
    let over = caught_up.clone();
    let puts = open_loop::run(&store, schedule, move || over.get());
    let watched = async {
        let watched = watch(fleet, &stores[ABSENT], shard_bytes).await;
        caught_up.set(true);
        watched
    };
    let (during, watched) = tokio::join!(puts, watched);
    watched?;
    let sent = begun.elapsed();
    let during = during?;
    eprintln!("  p99 during: {:.2} ms, {:.1} s", during.percentile_ms(0.99), sent.as_secs_f64());
    cluster.fleet.stop().await?;
    Ok(Figures { shard_bytes, sent, before, during })
}

/// Waits until the nodes that are there write little.
async fn settle(fleet: &Fleet) -> Result<()> {
    let begun = Instant::now();
    let written = || fleet.written_bytes(0);
    let mut last = written()?;
    loop {
        sleep(Duration::from_secs(5)).await;
        let now = written()?;
        if now - last < 1 << 20 {
            return Ok(());
        }
        last = now;
        ensure!(begun.elapsed() < SETTLE_LIMIT, "not settled after {SETTLE_LIMIT:?}");
    }
}

/// Waits until the absent node has the shard.
async fn watch(fleet: &mut Fleet, store: &Path, shard_bytes: u64) -> Result<()> {
    let (begun, mut last, mut still) = (Instant::now(), 0, 0);
    while begun.elapsed() < SNAPSHOT_LIMIT {
        sleep(LOOK).await;
        fleet.check_running()?;
        let now = place::allocated_bytes(store);
        let grew = now > last + (1 << 20);
        let whole = now as f64 >= shard_bytes as f64 * WHOLE_PART;
        still = if grew || !whole { 0 } else { still + 1 };
        if grew {
            eprintln!("  {:5.1} s: {:.0} MiB", begun.elapsed().as_secs_f64(), now as f64 / MIB);
        }
        if still == STILL_LOOKS {
            return Ok(());
        }
        last = last.max(now);
    }
    bail!("the node has {:.0} MiB after {SNAPSHOT_LIMIT:?}", last as f64 / MIB)
}

fn median(all: &[Figures]) -> f64 {
    let mut ratios: Vec<f64> = all.iter().map(Figures::ratio).collect();
    ratios.sort_by(f64::total_cmp);
    ratios.get(ratios.len() / 2).copied().unwrap_or(f64::NAN)
}

fn print(arguments: &SnapshotArgs, all: &[Figures]) {
    let (rate, ratio) = (arguments.rate, median(all));
    if arguments.servers.output == Output::Json {
        let run = |f: &Figures| {
            json!({
                "store_bytes": f.shard_bytes,
                "sent_s": f.sent.as_secs_f64(),
                "p50_before_ms": f.before.percentile_ms(0.5),
                "p99_before_ms": f.before.percentile_ms(0.99),
                "p50_during_ms": f.during.percentile_ms(0.5),
                "p99_during_ms": f.during.percentile_ms(0.99),
                "errors": f.before.errors().0 + f.during.errors().0,
            })
        };
        let runs = all.iter().map(run).collect::<Vec<_>>();
        let figures =
            json!({ "built": built(), "rate": rate, "runs": runs, "median_ratio": ratio });
        println!("{figures:#}");
        return;
    }
    let headers = [
        "store MiB",
        "caught up s",
        "puts before",
        "p50 ms",
        "p99 ms",
        "puts during",
        "p50 ms",
        "p99 ms",
        "p99 x",
        "errors",
    ];
    let row = |f: &Figures| {
        let ms = |tally: &Tally, part| format!("{:.2}", tally.percentile_ms(part));
        vec![
            format!("{:.0}", f.shard_bytes as f64 / MIB),
            format!("{:.1}", f.sent.as_secs_f64()),
            f.before.operations().to_string(),
            ms(&f.before, 0.5),
            ms(&f.before, 0.99),
            f.during.operations().to_string(),
            ms(&f.during, 0.5),
            ms(&f.during, 0.99),
            format!("{:.2}", f.ratio()),
            (f.before.errors().0 + f.during.errors().0).to_string(),
        ]
    };
    let rows: Vec<_> = all.iter().map(row).collect();
    print!("{}", table::markdown(&headers, &rows, 0));
    let verdict = if ratio <= TARGET { "held" } else { "NOT HELD" };
    println!("\ntarget: median p99 during over before {ratio:.2}, at most {TARGET}: {verdict}");
    for (_, reason) in all.iter().flat_map(|f| [f.before.errors(), f.during.errors()]) {
        reason.into_iter().for_each(|reason| println!("ERROR, the first of a run: {reason}"));
    }
    println!("{rate} puts/s on a schedule, values of {} bytes", arguments.value_bytes);
    print!("{}", built());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(before_ms: u64, during_ms: u64) -> Figures {
        let tally = |ms| {
            let mut tally = Tally::new().unwrap();
            tally.succeeded(Duration::from_millis(ms)).unwrap();
            tally
        };
        let (before, during) = (tally(before_ms), tally(during_ms));
        Figures { shard_bytes: 0, sent: Duration::ZERO, before, during }
    }

    #[test]
    fn the_median_of_three_is_the_one_in_the_middle() {
        let median = median(&[figures(10, 90), figures(10, 15), figures(10, 10)]);
        assert!((1.49..1.51).contains(&median), "{median}");
    }
}
