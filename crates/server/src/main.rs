//! The binary `stemedb`: a node, a cluster to try, and the command line.
//!
//! ```text
//! main ─► cli ─┬─► serve    a node of a cluster, or alone
//!              ├─► dev      three nodes on this machine, fed with real reports
//!              └─► commands kv, assert, query, ingest, cluster, keys, config
//! ```
//!
//! Everything a person can type stands in `cli`; everything a node can be told
//! stands in the one table of `settings`. Commands talk to a cluster through
//! the `client` crate only, as any other program would. What comes back goes
//! to stdout, as tables for people or JSON for programs (`-o json`); all else
//! (progress, the log, the one line that says why) goes to stderr. The exit
//! code says what happened: see `exit`.

mod cli;
mod commands;
mod dev;
mod doorstep;
mod ending;
mod endpoint;
mod exit;
mod ingest;
mod metrics_help;
mod output;
mod serve;
mod settings;
mod telemetry;

use std::process::ExitCode;

use clap::Parser;

/// For RocksDB's memory too: 6 % more puts at 64 clients and a fifth less resident memory than
/// with glibc's allocator (`docs/adr/0006-allocator.md`).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    match cli::run(cli::Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.line.is_empty() {
                eprintln!("stemedb: {}", failure.line);
            }
            ExitCode::from(failure.code)
        }
    }
}
