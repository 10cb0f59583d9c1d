//! How long a node with empty disks takes to be as good as before.
//!
//! Three nodes are filled. One is ended, both its directories are emptied, and it is started under
//! the same name, as a pod is whose volumes were lost. It is a new node now: its old self must be
//! silent for a while before the cluster puts the new one in its place, and then every shard is
//! sent to it, as fast as it goes. The time counts from its start until every node says that the
//! members are the three that run and no shard lacks a replica or is on its way.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;
use tokio::time::Instant;

use crate::cli::{Output, WipedArgs};
use crate::compare::NODES;
use crate::report::built;
use crate::{grow, place, table};

const MIB: f64 = 1_048_576.0;
/// No limit on what a node sends.
const UNLIMITED: (&str, &str) = ("STEMEDB_SNAPSHOT_BYTES_PER_SECOND", "0");
/// The target.
const TARGET: Duration = Duration::from_secs(60);

/// What came of one run.
struct Figures {
    node: usize,
    ready: Duration,
    whole: Duration,
    store_bytes: u64,
}

/// Measures all runs on one cluster, another node each time, and prints them.
///
/// # Errors
/// A node did not start, or was not as good as before in time.
pub(crate) async fn run(arguments: &WipedArgs) -> Result<ExitCode> {
    let mut servers = arguments.servers.clone();
    servers.stemedb_env.insert(0, (UNLIMITED.0.to_owned(), UNLIMITED.1.to_owned()));
    let scratch = place::scratch(&servers.data_dir)?;
    let dir = scratch.path().to_owned();
    let (mut site, store, _) = grow::filled(&arguments.fill, &servers, NODES, dir).await?;
    drop(store);
    let mut all = Vec::new();
    for number in 0..arguments.runs {
        let node = (NODES - 1 + number as usize) % NODES;
        let run = async {
            site.terminate(node).await?;
            site.wipe(node)?;
            let begun = Instant::now();
            site.start(node)?;
            site.ready().await?;
            let ready = begun.elapsed();
            site.whole().await?;
            let whole = begun.elapsed();
            let store_bytes = place::allocated_bytes(&site.folder(node).join("db"));
            anyhow::Ok(Figures { node, ready, whole, store_bytes })
        };
        let figures = run.await.with_context(|| format!("run {}", number + 1))?;
        eprintln!("  node {node}: whole after {:.1} s", figures.whole.as_secs_f64());
        all.push(figures);
    }
    site.stop().await?;
    print(arguments, &all);
    Ok(if arguments.check && !held(&all) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn held(all: &[Figures]) -> bool {
    all.iter().all(|figures| figures.whole <= TARGET)
}

fn print(arguments: &WipedArgs, all: &[Figures]) {
    let fill = arguments.fill;
    let held = held(all);
    if arguments.servers.output == Output::Json {
        let run = |f: &Figures| {
            json!({
                "node": f.node,
                "ready_s": f.ready.as_secs_f64(),
                "whole_s": f.whole.as_secs_f64(),
                "store_bytes": f.store_bytes,
            })
        };
        let runs = all.iter().map(run).collect::<Vec<_>>();
        let figures = json!({
            "built": built(), "gib": fill.gib, "shards": fill.shards, "runs": runs, "held": held,
        });
        println!("{figures:#}");
        return;
    }
    let headers = ["node", "ready s", "whole s", "its store MiB"];
    let rows: Vec<_> = all.iter().map(Figures::row).collect();
    println!("{}", table::markdown(&headers, &rows, 0));
    let verdict = if held { "held" } else { "NOT HELD" };
    println!("target: whole within {} s: {verdict}", TARGET.as_secs());
    println!("{} GiB in values of {} bytes, {} shards", fill.gib, fill.value_bytes, fill.shards);
    print!("{}", built());
}

impl Figures {
    fn row(&self) -> Vec<String> {
        vec![
            self.node.to_string(),
            format!("{:.1}", self.ready.as_secs_f64()),
            format!("{:.1}", self.whole.as_secs_f64()),
            format!("{:.0}", self.store_bytes as f64 / MIB),
        ]
    }
}
