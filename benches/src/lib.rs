//! Load drivers that measure StemeDB beside its peers.
//!
//! `compare` starts a three-node cluster of StemeDB and one of etcd on this
//! machine, one after the other, drives both with the same closed loop and
//! prints what each did per second, how long an operation took and how much
//! CPU the servers spent on it. `idle` measures a cluster nobody talks to.
//!
//! Servers, disk and generator share one machine on purpose: what counts is the
//! ratio between two systems under the same conditions, not the figure of one.
//! The generator runs on one thread and its own CPU is reported, since it takes
//! from the same cores. What the numbers do not say is in the `README.md`.
//!
//! | file | idea |
//! |---|---|
//! | `cli` | what can be asked for |
//! | `compare`, `idle` | the two measurements, step by step |
//! | `wal` | our log beside its peers, without servers |
//! | `durable` | its closed loop of threads |
//! | `log_wal`, `log_raft_engine`, `log_rocksdb` | the logs, as one writer sees them |
//! | `writes`, `replay`, `snapshot` | what a put costs the disk; coming back; a snapshot's price |
//! | `open_loop` | puts on a schedule |
//! | `versions` | old versions of keys: our rows beside RocksDB's user-defined timestamps |
//! | `faults` | real processes under real faults, and whether anything was lost |
//! | `failover` | from the death of a leader to the next acknowledged write |
//! | `rolling`, `balancer` | a restart of all nodes one by one, behind one address |
//! | `grow`, `wiped` | nodes that join; a node that comes back empty |
//! | `lost` | most nodes, or all, come back empty |
//! | `admin` | what a cluster says about itself |
//! | `load` | the closed loop and what one cell of the table is |
//! | `tally` | what is counted, and how counts are put together |
//! | `stemedb`, `etcd` | how a cluster of each is started and talked to |
//! | `fleet` | server processes: started, watched, ended by id |
//! | `http` | one HTTP/1.1 connection |
//! | `procfs` | CPU time and memory of a process |
//! | `place` | the scratch directory and free ports |
//! | `report`, `table` | the figures for a person and for a program |

mod admin;
mod balancer;
mod cli;
mod compare;
mod durable;
mod etcd;
mod failover;
mod faults;
mod fleet;
mod grow;
mod http;
mod idle;
mod load;
#[cfg(feature = "raft-engine")]
mod log_raft_engine;
mod log_rocksdb;
mod log_wal;
mod lost;
mod open_loop;
mod place;
mod procfs;
mod replay;
mod report;
mod rolling;
mod snapshot;
mod stemedb;
mod table;
mod tally;
mod versions;
mod wal;
mod wiped;
mod writes;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;

use crate::cli::{Cli, Command};

/// Runs one command line, the name of the program first. What it prints goes to standard output,
/// progress to standard error.
///
/// # Errors
/// The measurement could not be made; the error says why.
pub fn run<T>(line: impl IntoIterator<Item = T>) -> Result<ExitCode>
where
    T: Into<OsString> + Clone,
{
    start(Cli::parse_from(line))
}

fn start(cli: Cli) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, carry_out(cli))
}

/// Runs the command. On a signal it is dropped where it stands, and with it every server it
/// started is killed.
async fn carry_out(cli: Cli) -> Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let command = async {
        match &cli.command {
            Command::Compare(arguments) => compare::run(arguments).await,
            Command::Wal(arguments) => wal::run(arguments).await,
            Command::Writes(arguments) => writes::run(arguments).await,
            Command::Replay(arguments) => replay::run(arguments).await,
            Command::Snapshot(arguments) => snapshot::run(arguments).await,
            Command::Idle(arguments) => idle::run(arguments).await,
            Command::Faults(arguments) => faults::run(arguments).await,
            Command::Failover(arguments) => failover::run(arguments).await,
            Command::Rolling(arguments) => rolling::run(arguments).await,
            Command::Grow(arguments) => grow::run(arguments).await,
            Command::Wiped(arguments) => wiped::run(arguments).await,
            Command::Lost(arguments) => lost::run(arguments).await,
            Command::Versions(arguments) => versions::run(arguments),
        }
    };
    tokio::select! {
        outcome = command => outcome,
        _ = interrupt.recv() => bail!("interrupted; the servers were killed"),
        _ = terminate.recv() => bail!("terminated; the servers were killed"),
    }
}
