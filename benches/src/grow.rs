//! What callers feel while nodes join, and how much is moved for it.
//!
//! Three nodes are filled. Puts on a schedule measure the latency, then a fourth node is started
//! and they go on until nothing moves and each node holds its share; then the same with a fifth.
//! How many replicas were made on the way is held against the fewest by which the shares can be
//! reached: the layout is looked at all the time, and every replica that was ever in it counts. One that
//! came and went between two looks is not seen. Each run has a cluster of its own; the ratio of the two p99 is told for each join, and
//! the median over the runs.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::admin::{Admin, Layout};
use crate::cli::{FillArgs, GrowArgs, Output, Servers};
use crate::compare::NODES;
use crate::faults::{Network, Site};
use crate::load::{self, Workload};
use crate::open_loop::{self, Schedule};
use crate::report::built;
use crate::tally::{Tally, median};
use crate::{place, stemedb, table};

/// Buckets for each shard, so that none is without.
const BUCKETS_PER_SHARD: u64 = 8;
/// Nodes at the end.
const NODES_MAX: usize = 5;
/// How long a node may take to be given its share.
const SHARE_LIMIT: Duration = Duration::from_secs(900);
/// Between two looks at the shares.
const LOOK: Duration = Duration::from_millis(500);
/// Between two looks at which replicas there are.
const LAYOUT_LOOK: Duration = Duration::from_millis(250);
/// The p99 while shards move may be so many times that before.
const TARGET: f64 = 1.5;

/// One node that joined.
struct Join {
    nodes: usize,
    took: Duration,
    made: u64,
    fewest: u64,
    before: Tally,
    during: Tally,
}

impl Join {
    fn ratio(&self) -> f64 {
        self.during.percentile_ms(0.99) / self.before.percentile_ms(0.99)
    }

    fn errors(&self) -> u64 {
        self.before.errors().0 + self.during.errors().0
    }
}

/// Measures all runs and prints them.
///
/// # Errors
/// A node did not start or ended, or was not given its share in time.
pub(crate) async fn run(arguments: &GrowArgs) -> Result<ExitCode> {
    let scratch = place::scratch(&arguments.servers.data_dir)?;
    let mut all = Vec::new();
    for number in 1..=arguments.runs {
        eprintln!("run {number} of {}", arguments.runs);
        let dir = scratch.path().join(number.to_string());
        let joins = measure(arguments, dir.clone()).await;
        all.push(joins.with_context(|| format!("run {number}"))?);
        std::fs::remove_dir_all(&dir)?;
    }
    print(arguments, &all);
    let held = (NODES + 1..=NODES_MAX).all(|nodes| held(&all, nodes));
    Ok(if arguments.check && !held { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// A cluster of three that holds what was asked for, and may grow to `nodes`.
///
/// # Errors
/// A node did not start, or a put failed on every try.
pub(crate) async fn filled(
    fill: &FillArgs,
    servers: &Servers,
    nodes: usize,
    dir: PathBuf,
) -> Result<(Site, stemedb::Store, Workload)> {
    let mut servers = servers.clone();
    servers.stemedb_env.insert(0, ("STEMEDB_SHARDS".to_owned(), fill.shards.to_string()));
    let mut site = Site::new(&servers, Network::Plain, nodes, NODES, dir).await?;
    site.found().await?;
    let key = site.project_key().await?;
    let gateways = (0..NODES).map(|node| site.gateway(node)).collect();
    let buckets = u64::from(fill.shards) * BUCKETS_PER_SHARD;
    let store = stemedb::Store::spread(gateways, key, buckets);
    let workload = workload(fill);
    eprintln!("  {} keys of {} bytes", workload.keys, workload.value_bytes);
    load::preload(&store, workload).await?;
    site.settle().await?;
    site.whole().await?;
    Ok((site, store, workload))
}

/// As many keys as make up so much.
fn workload(fill: &FillArgs) -> Workload {
    let bytes = fill.gib * (1_u64 << 30) as f64;
    let keys = (bytes / f64::from(fill.value_bytes)).ceil().max(1.0) as u64;
    Workload { keys, value_bytes: fill.value_bytes as usize, seed: fill.seed }
}

async fn measure(arguments: &GrowArgs, dir: PathBuf) -> Result<Vec<Join>> {
    let filled = filled(&arguments.fill, &arguments.servers, NODES_MAX, dir).await?;
    let (mut site, store, workload) = filled;
    let schedule = Schedule { workload, rate: arguments.rate };
    let mut joins = Vec::new();
    for node in NODES..NODES_MAX {
        // The node before is there, but nodes go on compacting what they were sent and let go.
        site.settle().await?;
        site.whole().await?;
        let (time, begun) = (Duration::from_secs(arguments.seconds), Instant::now());
        let before = open_loop::run(&store, schedule, move || begun.elapsed() >= time).await?;
        eprintln!("  p99 before: {:.2} ms", before.percentile_ms(0.99));
        joins.push(join(&mut site, &store, schedule, node, before).await?);
    }
    site.stop().await?;
    Ok(joins)
}

async fn join(
    site: &mut Site,
    store: &stemedb::Store,
    schedule: Schedule,
    node: usize,
    before: Tally,
) -> Result<Join> {
    let (nodes, old) = (node + 1, site.admin().layout(site.own(0)).await?);
    let (begun, over) = (Instant::now(), Rc::new(Cell::new(false)));
    let (own, admin, seen) = (site.own(0), site.admin().clone(), RefCell::new(old.replicas()));
    site.start(node)?;
    let ended = over.clone();
    let puts = open_loop::run(store, schedule, move || ended.get());
    let shared = async {
        let shared = tokio::select! {
            shared = shared_out(site, nodes) => shared,
            never = look_on(&admin, own, &seen) => match never {},
        };
        over.set(true);
        shared.map(|layout| (layout, begun.elapsed()))
    };
    let (during, shared) = tokio::join!(puts, shared);
    let ((new, took), during) = (shared?, during?);
    let all: BTreeSet<u64> = &seen.into_inner() | &new.replicas();
    let made = all.difference(&old.replicas()).count() as u64;
    let fewest = old.fewest_for(nodes as u64);
    let join = Join { nodes, took, made, fewest, before, during };
    eprintln!(
        "  {nodes} nodes: p99 {:.2} ms, {:.1} s, {made} replicas made, fewest {fewest}",
        join.during.percentile_ms(0.99),
        join.took.as_secs_f64()
    );
    Ok(join)
}

/// Puts down every replica that is ever in the layout.
async fn look_on(admin: &Admin, node: SocketAddr, seen: &RefCell<BTreeSet<u64>>) -> Infallible {
    loop {
        // A look that fails is made up for by the next one.
        if let Ok(layout) = admin.layout(node).await {
            seen.borrow_mut().extend(layout.replicas());
        }
        sleep(LAYOUT_LOOK).await;
    }
}

/// Waits until nothing moves and so many nodes hold the same, but for one.
async fn shared_out(site: &mut Site, nodes: usize) -> Result<Layout> {
    let deadline = Instant::now() + SHARE_LIMIT;
    site.ready().await?;
    loop {
        site.whole().await?;
        let layout = site.admin().layout(site.own(0)).await?;
        if is_shared_out(&layout, nodes) {
            return Ok(layout);
        }
        let counts = layout.counts();
        ensure!(Instant::now() < deadline, "not shared out within {SHARE_LIMIT:?}: {counts:?}");
        sleep(LOOK).await;
    }
}

fn is_shared_out(layout: &Layout, nodes: usize) -> bool {
    let counts = layout.counts();
    let (least, most) = (counts.values().min(), counts.values().max());
    let apart = most.zip(least).map_or(0, |(most, least)| most - least);
    counts.len() == nodes && apart <= 1
}

/// The median over the runs of the ratio at the join that led to so many nodes.
fn median_ratio(all: &[Vec<Join>], nodes: usize) -> f64 {
    let joins = all.iter().flatten().filter(|join| join.nodes == nodes);
    median(&joins.map(Join::ratio).collect::<Vec<_>>())
}

/// Whether the target was held at the join that led to so many nodes. A put that failed has no latency, so
/// none may.
fn held(all: &[Vec<Join>], nodes: usize) -> bool {
    let joins = all.iter().flatten().filter(|join| join.nodes == nodes);
    median_ratio(all, nodes) <= TARGET && joins.map(Join::errors).sum::<u64>() == 0
}

fn print(arguments: &GrowArgs, all: &[Vec<Join>]) {
    if arguments.servers.output == Output::Json {
        let join = |j: &Join| {
            json!({
                "nodes": j.nodes,
                "took_s": j.took.as_secs_f64(),
                "replicas_made": j.made,
                "fewest": j.fewest,
                "p50_before_ms": j.before.percentile_ms(0.5),
                "p99_before_ms": j.before.percentile_ms(0.99),
                "p50_during_ms": j.during.percentile_ms(0.5),
                "p99_during_ms": j.during.percentile_ms(0.99),
                "ratio": j.ratio(),
                "errors": j.errors(),
            })
        };
        let runs: Vec<Vec<_>> = all.iter().map(|run| run.iter().map(join).collect()).collect();
        let medians = [4, 5].map(|nodes| median_ratio(all, nodes));
        let held = [4, 5].map(|nodes| held(all, nodes));
        let figures = json!({
            "built": built(), "gib": arguments.fill.gib, "shards": arguments.fill.shards,
            "rate": arguments.rate, "runs": runs, "median_ratios": medians, "held": held,
        });
        println!("{figures:#}");
        return;
    }
    let headers = [
        "nodes",
        "took s",
        "replicas made",
        "fewest",
        "p50 before ms",
        "p99 before ms",
        "p50 during ms",
        "p99 during ms",
        "p99 x",
        "errors",
    ];
    let rows: Vec<_> = all.iter().flatten().map(Join::row).collect();
    println!("{}", table::markdown(&headers, &rows, 0));
    for nodes in NODES + 1..=NODES_MAX {
        let ratio = median_ratio(all, nodes);
        let verdict = if held(all, nodes) { "held" } else { "NOT HELD" };
        println!(
            "target: to {nodes} nodes, median p99 {ratio:.2}, at most {TARGET}, no put failed: {verdict}"
        );
    }
    for reason in all.iter().flatten().filter_map(|j| j.before.errors().1.or(j.during.errors().1)) {
        println!("ERROR, the first of a join: {reason}");
    }
    let FillArgs { gib, value_bytes, shards, .. } = arguments.fill;
    println!(
        "{} puts/s on a schedule; {gib} GiB in values of {value_bytes} bytes, {shards} shards",
        arguments.rate
    );
    print!("{}", built());
}

impl Join {
    fn row(&self) -> Vec<String> {
        let ms = |tally: &Tally, part| format!("{:.2}", tally.percentile_ms(part));
        vec![
            format!("{} to {}", self.nodes - 1, self.nodes),
            format!("{:.1}", self.took.as_secs_f64()),
            self.made.to_string(),
            self.fewest.to_string(),
            ms(&self.before, 0.5),
            ms(&self.before, 0.99),
            ms(&self.during, 0.5),
            ms(&self.during, 0.99),
            format!("{:.2}", self.ratio()),
            self.errors().to_string(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn join(nodes: usize, before_ms: u64, during_ms: u64) -> Join {
        let tally = |ms| {
            let mut tally = Tally::new().unwrap();
            tally.succeeded(Duration::from_millis(ms)).unwrap();
            tally
        };
        let (before, during) = (tally(before_ms), tally(during_ms));
        Join { nodes, took: Duration::ZERO, made: 12, fewest: 12, before, during }
    }

    #[test]
    fn each_join_has_a_median_of_its_own() {
        let all = [[(10, 11), (10, 40)], [(10, 90), (10, 20)], [(10, 15), (10, 30)]]
            .map(|[four, five]| vec![join(4, four.0, four.1), join(5, five.0, five.1)]);
        let near = |value: f64, wanted: f64| (value - wanted).abs() < 0.02;
        assert!(near(median_ratio(&all, 4), 1.5), "{}", median_ratio(&all, 4));
        assert!(near(median_ratio(&all, 5), 3.0), "{}", median_ratio(&all, 5));
    }

    #[test]
    fn a_put_that_failed_is_no_latency_and_no_success_either() {
        let mut all = vec![vec![join(4, 10, 14), join(5, 10, 40)]];
        assert_eq!([4, 5].map(|nodes| held(&all, nodes)), [true, false]);
        all[0][0].during.failed("refused");
        assert!(!held(&all, 4));
    }

    #[test]
    fn shared_out_is_the_same_for_all_but_for_one() {
        let laid = |counts: &[(&str, u16)]| {
            let held = counts.iter().flat_map(|&(node, count)| (0..count).map(move |_| node));
            let shard = |node: &str| BTreeMap::from([(node.to_owned(), 1)]);
            let shards = held.map(shard).collect();
            Layout { epoch: 1, shards }
        };
        assert!(is_shared_out(&laid(&[("a", 3), ("b", 2), ("c", 2)]), 3));
        assert!(!is_shared_out(&laid(&[("a", 3), ("b", 1), ("c", 2)]), 3));
        assert!(!is_shared_out(&laid(&[("a", 3), ("b", 3)]), 3));
    }

    #[test]
    fn a_part_of_a_gib_is_so_many_keys() {
        let fill = FillArgs { gib: 0.5, value_bytes: 1024, shards: 16, seed: 1 };
        assert_eq!(workload(&fill).keys, 1 << 19);
    }
}
