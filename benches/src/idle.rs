//! What a cluster costs that nobody talks to.
//!
//! Three nodes are started and left alone: what they then use is heartbeats,
//! gossip and timers. One node alone shows what a small installation holds in
//! memory. Two numbers of shards have a bound, which the busiest of the three nodes must hold.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::json;
use tokio::time::sleep;

use crate::cli::{IdleArgs, Output, System};
use crate::compare::NODES;
use crate::fleet::Fleet;
use crate::{etcd, place, stemedb, table};

/// The setting that says how many shards there are, and what a node may use with so many of them, in
/// percent of one core.
const SHARDS: &str = "STEMEDB_SHARDS";
const BOUNDS: [(&str, f64); 2] = [("64", 2.0), ("256", 8.0)];

/// What one process used while it was watched.
#[derive(Clone, Copy, Debug, PartialEq)]
struct NodeUse {
    /// Nodes of its cluster.
    nodes: usize,
    /// Percent of one core.
    cpu_percent: f64,
    /// Resident memory at the end.
    rss_bytes: u64,
}

/// Watches three nodes, then one, and prints what they used.
///
/// # Errors
/// A node did not start, or ended.
pub(crate) async fn run(arguments: &IdleArgs) -> Result<ExitCode> {
    let scratch = place::scratch(&arguments.servers.data_dir)?;
    let mut uses = Vec::new();
    for nodes in [NODES, 1] {
        let dir = scratch.path().join(nodes.to_string());
        uses.extend(watch_cluster(arguments, nodes, &dir).await?);
    }
    match arguments.servers.output {
        Output::Table => {
            let (seconds, settle) = (arguments.seconds, arguments.settle);
            println!("{}", text(&uses));
            println!("watched for {seconds} s, {settle} s after all were ready");
            println!("{}", verdict(arguments.system, shards(arguments), &uses).1);
        }
        Output::Json => println!("{:#}", json(arguments, &uses)),
    }
    let held = verdict(arguments.system, shards(arguments), &uses).0;
    let failed = arguments.check && held != Some(true);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The number of shards that was asked for; the last word counts.
fn shards(arguments: &IdleArgs) -> Option<&str> {
    let mut settings = arguments.servers.stemedb_env.iter().rev();
    settings.find(|(name, _)| name == SHARDS).map(|(_, value)| value.as_str())
}

/// Whether the bound was held, if there is one, and the line that says so.
fn verdict(system: System, shards: Option<&str>, uses: &[NodeUse]) -> (Option<bool>, String) {
    let shards = shards.filter(|_| system == System::Stemedb);
    let Some(shards) = shards else {
        return (None, format!("no bound: {system} as it is, without {SHARDS}"));
    };
    let bound = BOUNDS.iter().find(|(number, _)| *number == shards);
    let Some((_, bound)) = bound else {
        return (None, format!("no bound for {SHARDS}={shards}"));
    };
    let clustered = uses.iter().filter(|one| one.nodes > 1);
    let busiest = clustered.map(|one| one.cpu_percent).fold(0.0, f64::max);
    let held = busiest <= *bound;
    let word = if held { "held" } else { "NOT HELD" };
    let text = format!(
        "target: {SHARDS}={shards}, busiest of {NODES} nodes {busiest:.2} % of a core, at most {bound}: {word}"
    );
    (Some(held), text)
}

async fn watch_cluster(arguments: &IdleArgs, nodes: usize, dir: &Path) -> Result<Vec<NodeUse>> {
    eprintln!("{}, {nodes} node(s): starting", arguments.system);
    let mut fleet = match arguments.system {
        System::Stemedb => stemedb::start(&arguments.servers, nodes, dir).await?.fleet,
        System::Etcd => etcd::start(&arguments.servers, nodes, dir).await?.fleet,
    };
    sleep(Duration::from_secs(arguments.settle)).await;
    fleet.check_running()?;
    let uses = watch(&fleet, Duration::from_secs(arguments.seconds)).await?;
    fleet.stop().await?;
    Ok(uses)
}

async fn watch(fleet: &Fleet, time: Duration) -> Result<Vec<NodeUse>> {
    let (before, begun) = (fleet.usages()?, Instant::now());
    sleep(time).await;
    let (after, elapsed) = (fleet.usages()?, begun.elapsed());
    let nodes = after.len();
    let uses = before.iter().zip(&after).map(|(before, after)| NodeUse {
        nodes,
        cpu_percent: after.cpu.saturating_sub(before.cpu).div_duration_f64(elapsed) * 100.0,
        rss_bytes: after.rss_bytes,
    });
    Ok(uses.collect())
}

fn text(uses: &[NodeUse]) -> String {
    let row = |one: &NodeUse| {
        let (cpu, rss_mib) = (one.cpu_percent, one.rss_bytes as f64 / 1_048_576.0);
        vec![one.nodes.to_string(), format!("{cpu:.2}"), format!("{rss_mib:.1}")]
    };
    let rows: Vec<_> = uses.iter().map(row).collect();
    let clustered = uses.iter().filter(|one| one.nodes > 1);
    let together: f64 = clustered.map(|one| one.cpu_percent).sum();
    let table = table::render(&["node of", "% of a core", "RSS MiB"], &rows, 0);
    format!("{table}\n{NODES} nodes together: {together:.2} % of a core\n")
}

fn json(arguments: &IdleArgs, uses: &[NodeUse]) -> serde_json::Value {
    let node = |one: &NodeUse| {
        let NodeUse { nodes, cpu_percent, rss_bytes } = *one;
        json!({ "cluster_nodes": nodes, "cpu_percent": cpu_percent, "rss_bytes": rss_bytes })
    };
    json!({
        "system": arguments.system.to_string(),
        "seconds": arguments.seconds,
        "settle": arguments.settle,
        "shards": shards(arguments),
        "held": verdict(arguments.system, shards(arguments), uses).0,
        "nodes": uses.iter().map(node).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_node_of_three_is_held_against_the_bound_of_its_shards() {
        let one = |nodes, cpu_percent| NodeUse { nodes, cpu_percent, rss_bytes: 0 };
        let uses = [one(3, 1.9), one(3, 2.1), one(3, 0.1), one(1, 9.0)];
        let held = |shards| verdict(System::Stemedb, shards, &uses).0;
        assert_eq!(
            [Some("64"), Some("256"), Some("16"), None].map(held),
            [Some(false), Some(true), None, None]
        );
        assert_eq!(verdict(System::Etcd, Some("256"), &uses).0, None);
    }

    #[test]
    fn the_sum_is_of_the_cluster_without_the_lone_node() {
        let one = |nodes, cpu_percent| NodeUse { nodes, cpu_percent, rss_bytes: 70 << 20 };
        let text = text(&[one(3, 0.5), one(3, 0.25), one(3, 0.25), one(1, 9.0)]);
        let expected = "\
node of  % of a core  RSS MiB
      3         0.50     70.0
      3         0.25     70.0
      3         0.25     70.0
      1         9.00     70.0

3 nodes together: 1.00 % of a core
";
        assert_eq!(text, expected);
    }
}
