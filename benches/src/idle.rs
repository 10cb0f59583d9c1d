//! What a cluster costs that nobody talks to.
//!
//! Three nodes are started and left alone: what they then use is heartbeats,
//! gossip and timers. One node alone shows what a small installation holds in
//! memory.

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
        Output::Table => print!("{}", text(&uses)),
        Output::Json => println!("{:#}", json(arguments, &uses)),
    }
    Ok(ExitCode::SUCCESS)
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
        "nodes": uses.iter().map(node).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
