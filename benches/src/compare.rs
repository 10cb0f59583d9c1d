//! Both systems under the same load, one after the other.
//!
//! A round starts each system on an empty directory, writes all keys, measures
//! every cell and stops it again; no process of the other system runs in that
//! time. Odd rounds take the systems in the opposite order, so that a machine
//! that grows slower or faster over time favours none of them.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::cli::{CompareArgs, System};
use crate::fleet::{self, Fleet};
use crate::load::{self, CellPlan, Operation, Workload};
use crate::report::{Measured, Report};
use crate::tally::Run;
use crate::{etcd, place, stemedb};

/// Nodes of each system.
pub(crate) const NODES: usize = 3;

/// Runs the whole comparison and prints it.
///
/// # Errors
/// A system did not start, ended while it was measured, or answered nothing.
pub(crate) async fn run(arguments: &CompareArgs) -> Result<ExitCode> {
    let systems = match arguments.only {
        Some(system) => vec![system],
        None => vec![System::Stemedb, System::Etcd],
    };
    let scratch = place::scratch(&arguments.servers.data_dir)?;
    let mut report = Report::new(arguments, scratch.path())?;
    for &system in &systems {
        report.versions.push((system, version(arguments, system).await?));
    }
    for round in 0..arguments.rounds {
        for system in order(&systems, round) {
            let dir = scratch.path().join(format!("{system}-{round}"));
            let outcome = measure_system(arguments, system, round, &dir, &mut report);
            outcome.await.with_context(|| format!("{system}, round {}", round + 1))?;
            std::fs::remove_dir_all(&dir)?;
        }
    }
    let summaries = report.summarize()?;
    report.print(&summaries, arguments.servers.output);
    let held = summaries.without_errors() && summaries.floor_held();
    Ok(if arguments.check && !held { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn version(arguments: &CompareArgs, system: System) -> Result<String> {
    let binary = match system {
        System::Stemedb => &arguments.servers.stemedb_binary,
        System::Etcd => &arguments.servers.etcd_binary,
    };
    fleet::version(binary).await.with_context(|| format!("{system} can't be run"))
}

fn order(systems: &[System], round: u32) -> Vec<System> {
    let mut systems = systems.to_vec();
    if round % 2 == 1 {
        systems.reverse();
    }
    systems
}

async fn measure_system(
    arguments: &CompareArgs,
    system: System,
    round: u32,
    dir: &Path,
    report: &mut Report,
) -> Result<()> {
    let servers = &arguments.servers;
    eprintln!("{system}, round {} of {}: starting", round + 1, arguments.rounds);
    match system {
        System::Stemedb => {
            let mut cluster = stemedb::start(servers, NODES, dir).await?;
            let store = cluster.store().await?;
            measure_cells(arguments, system, &mut cluster.fleet, &store, report).await?;
            cluster.fleet.stop().await
        }
        System::Etcd => {
            let mut cluster = etcd::start(servers, NODES, dir).await?;
            let store = cluster.store().await?;
            measure_cells(arguments, system, &mut cluster.fleet, &store, report).await?;
            cluster.fleet.stop().await
        }
    }
}

/// Writes the keys, then measures put and get for each number of clients.
async fn measure_cells<S: load::Store>(
    arguments: &CompareArgs,
    system: System,
    fleet: &mut Fleet,
    store: &S,
    report: &mut Report,
) -> Result<()> {
    let workload = Workload {
        keys: arguments.keys,
        value_bytes: arguments.value_bytes as usize,
        seed: arguments.seed,
    };
    load::preload(store, workload).await?;
    for &clients in &arguments.clients {
        for operation in [Operation::Put, Operation::Get] {
            let plan = CellPlan {
                operation,
                clients: clients as usize,
                warm_up: load::WARM_UP,
                measured: Duration::from_secs(arguments.seconds),
                drain_limit: load::DRAIN_LIMIT,
            };
            let outcome = load::run_cell(store, workload, plan, || fleet.cpu()).await;
            fleet.check_running()?;
            let run = outcome.with_context(|| format!("{operation} by {clients} clients"))?;
            show_progress(system, plan, &run);
            report.measured.push(Measured { system, operation, clients, run });
        }
    }
    let rss = fleet.usages()?.iter().map(|usage| usage.rss_bytes).collect();
    report.rss_bytes.push((system, rss));
    Ok(())
}

fn show_progress(system: System, plan: CellPlan, run: &Run) {
    let rate = run.tally.operations() as f64 / run.elapsed.as_secs_f64();
    eprintln!("  {system} {} {:>4} clients: {rate:.0}/s", plan.operation, plan.clients);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_alternate_who_comes_first() {
        let both = [System::Stemedb, System::Etcd];
        let rounds: Vec<_> = (0..3).map(|round| order(&both, round)).collect();
        let turned = vec![System::Etcd, System::Stemedb];
        assert_eq!(rounds, [both.to_vec(), turned, both.to_vec()]);
    }
}
