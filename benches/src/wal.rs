//! Our log beside its peers: small records made durable by few and by many writers.
//!
//! All logs are open at once, in directories of one file system, and take turns: in each round,
//! each number of writers, one log after the other, in an order that changes with the round. So
//! what the machine does besides hits all of them. Segments fill, files are recycled and
//! memtables are flushed as the writing goes on, and count.
//!
//! raft-engine and RocksDB block who writes, so each of their writers is a thread. Ours calls back,
//! so a writer may be a task, as a Raft group is: that is the row the targets are about. The rows
//! with threads show what of it is the log's and what is the cost of waking threads.
//!
//! raft-engine is there if the driver was built with its feature; it is the peer with the same
//! task, many Raft logs over one sync. RocksDB stands for a store with a log of its own.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::cli::{Output, WalArgs};
use crate::durable::{self, Log, Plan};
use crate::log_rocksdb::RocksdbLog;
use crate::log_wal::{OurLog, Wait};
use crate::report::built;
use crate::tally::{Run, Summary, summarize};
use crate::{place, table};

/// Before anything is counted.
const WARM_UP: Duration = Duration::from_millis(500);

/// Which log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Ours, writers blocked in `append_durable`.
    Ours,
    /// Ours, writers asleep until their completion is called.
    OursCompletion,
    /// Ours, writers that are tasks.
    OursTask,
    #[cfg(feature = "raft-engine")]
    RaftEngine,
    Rocksdb,
}

impl Kind {
    const ALL: &[Kind] = &[
        Kind::Ours,
        Kind::OursCompletion,
        Kind::OursTask,
        #[cfg(feature = "raft-engine")]
        Kind::RaftEngine,
        Kind::Rocksdb,
    ];

    fn name(self) -> &'static str {
        match self {
            Kind::Ours => "stemedb-wal",
            Kind::OursCompletion => "stemedb-wal, completions",
            Kind::OursTask => "stemedb-wal, tasks",
            #[cfg(feature = "raft-engine")]
            Kind::RaftEngine => "raft-engine",
            Kind::Rocksdb => "rocksdb",
        }
    }

    fn open(self, dir: &Path) -> Result<Opened> {
        Ok(match self {
            Kind::Ours => Opened::Threads(Box::new(OurLog::open(dir, Wait::Blocked)?)),
            Kind::OursCompletion => Opened::Threads(Box::new(OurLog::open(dir, Wait::Completion)?)),
            Kind::OursTask => Opened::Tasks(OurLog::open(dir, Wait::Completion)?),
            #[cfg(feature = "raft-engine")]
            Kind::RaftEngine => {
                Opened::Threads(Box::new(crate::log_raft_engine::RaftEngineLog::open(dir)?))
            }
            Kind::Rocksdb => Opened::Threads(Box::new(RocksdbLog::open(dir)?)),
        })
    }
}

/// An open log, and what its writers are.
enum Opened {
    Threads(Box<dyn Log>),
    Tasks(OurLog),
}

impl Opened {
    fn run(&self, plan: Plan, stop: &AtomicBool) -> Result<Run> {
        match self {
            Opened::Threads(log) => durable::run(log.as_ref(), plan, stop),
            Opened::Tasks(log) => durable::run_tasks(plan, stop, |number| log.task_writer(number)),
        }
    }
}

/// The rate of our log over that of a peer must be at least so much with so many writers. A writer
/// that is alone may write itself.
const TARGETS: [(Kind, &str, u64, f64); 6] = [
    (Kind::Ours, "raft-engine", 1, 0.9),
    (Kind::OursTask, "raft-engine", 1, 0.75),
    (Kind::OursTask, "raft-engine", 16, 1.3),
    (Kind::OursTask, "raft-engine", 64, 1.3),
    (Kind::OursTask, "raft-engine", 256, 1.3),
    (Kind::OursTask, "rocksdb", 64, 1.5),
];

/// Measures all cells and prints them.
///
/// # Errors
/// A log could not be opened or failed.
pub(crate) async fn run(arguments: &WalArgs) -> Result<ExitCode> {
    let stop = Stop::default();
    let (given_up, arguments) = (stop.0.clone(), arguments.clone());
    // The writers block; the thread that listens for signals must not.
    let measured = tokio::task::spawn_blocking(move || measure(&arguments, &given_up));
    measured.await.context("the measurement panicked")?
}

/// Tells the measurement that nobody waits for it any more.
#[derive(Default)]
struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn measure(arguments: &WalArgs, stop: &AtomicBool) -> Result<ExitCode> {
    let scratch = place::scratch(&arguments.data_dir)?;
    let open = |kind: &Kind| {
        let log = kind.open(&scratch.path().join(kind.name().replace(", ", "-")));
        log.with_context(|| format!("open {}", kind.name())).map(|log| (*kind, log))
    };
    let logs: Vec<_> = Kind::ALL.iter().map(open).collect::<Result<_>>()?;
    let mut cells: Vec<Cell> = Vec::new();
    let mut first_writer = 0;
    for round in 0..arguments.rounds {
        for &writers in &arguments.writers {
            for turn in 0..logs.len() {
                let (kind, log) = &logs[(turn + round as usize) % logs.len()];
                let plan = plan(arguments, writers, first_writer);
                first_writer += writers;
                let run = log.run(plan, stop);
                let run = run.with_context(|| format!("{}, {writers} writers", kind.name()))?;
                show_progress(round, arguments.rounds, *kind, writers, &run);
                keep(&mut cells, *kind, writers, run);
            }
        }
    }
    let rows = Rows::new(arguments, &cells)?;
    match arguments.output {
        Output::Table => print!("{}", rows.text(arguments)),
        Output::Json => println!("{:#}", rows.json(arguments)),
    }
    let held = rows.targets().iter().all(|target| target.held());
    Ok(if arguments.check && !held { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn plan(arguments: &WalArgs, writers: u64, first_writer: u64) -> Plan {
    Plan {
        writers,
        first_writer,
        record_bytes: arguments.record_bytes as usize,
        warm_up: WARM_UP,
        measured: Duration::from_millis(arguments.milliseconds),
        seed: arguments.seed,
    }
}

fn show_progress(round: u32, rounds: u32, kind: Kind, writers: u64, run: &Run) {
    let rate = run.tally.operations() as f64 / run.elapsed.as_secs_f64();
    let (round, name) = (round + 1, kind.name());
    eprintln!("round {round} of {rounds}: {writers:>4} writers, {name}: {rate:.0}/s");
}

/// All runs of one log with one number of writers.
struct Cell {
    kind: Kind,
    writers: u64,
    runs: Vec<Run>,
}

fn keep(cells: &mut Vec<Cell>, kind: Kind, writers: u64, run: Run) {
    match cells.iter_mut().find(|cell| cell.kind == kind && cell.writers == writers) {
        Some(cell) => cell.runs.push(run),
        None => cells.push(Cell { kind, writers, runs: vec![run] }),
    }
}

/// One line of the table.
struct Row {
    name: &'static str,
    writers: u64,
    summary: Summary,
}

struct Rows(Vec<Row>);

/// What became of one target.
struct Target {
    peer: &'static str,
    writers: u64,
    at_least: f64,
    ratio: f64,
}

impl Target {
    fn held(&self) -> bool {
        self.ratio >= self.at_least
    }

    fn text(&self) -> String {
        let Target { peer, writers, at_least, ratio } = self;
        let verdict = if self.held() { "held" } else { "NOT HELD" };
        format!("target: {writers} writers {ratio:.2} x {peer}, at least {at_least}: {verdict}\n")
    }
}

impl Rows {
    fn new(arguments: &WalArgs, cells: &[Cell]) -> Result<Self> {
        let mut rows = Vec::new();
        for &writers in &arguments.writers {
            for kind in Kind::ALL {
                let same = |cell: &&Cell| cell.kind == *kind && cell.writers == writers;
                let cell = cells.iter().find(same).context("a cell was not measured")?;
                let summary = summarize(&cell.runs)?;
                ensure!(summary.ops_per_s > 0.0, "{} made nothing durable", kind.name());
                rows.push(Row { name: kind.name(), writers, summary });
            }
        }
        Ok(Rows(rows))
    }

    fn rate(&self, name: &str, writers: u64) -> Option<f64> {
        let same = |row: &&Row| row.name == name && row.writers == writers;
        self.0.iter().find(same).map(|row| row.summary.ops_per_s)
    }

    /// The targets whose cells were measured.
    fn targets(&self) -> Vec<Target> {
        let target = |&(ours, peer, writers, at_least): &(Kind, &'static str, u64, f64)| {
            let ours = self.rate(ours.name(), writers)?;
            let ratio = ours / self.rate(peer, writers)?;
            Some(Target { peer, writers, at_least, ratio })
        };
        TARGETS.iter().filter_map(target).collect()
    }

    fn text(&self, arguments: &WalArgs) -> String {
        let headers = [
            "writers",
            "log",
            "records/s",
            "p50 ms",
            "p99 ms",
            "cpu us/record",
            "others %",
            "x raft-engine",
            "x rocksdb",
        ];
        let rows: Vec<_> = self.0.iter().map(|row| self.cells(row)).collect();
        let mut text = table::markdown(&headers, &rows, 2);
        text.push('\n');
        text.extend(self.targets().iter().map(Target::text));
        if !cfg!(feature = "raft-engine") {
            text.push_str(
                "raft-engine: not in this build (--features stemedb-benches/raft-engine)\n",
            );
        }
        let WalArgs { record_bytes, rounds, milliseconds, .. } = arguments;
        text.push_str(&format!(
            "{record_bytes} bytes a record, {rounds} rounds of {milliseconds} ms, a stream (group, \
             key prefix) for each writer\n{}",
            built()
        ));
        text
    }

    fn cells(&self, row: &Row) -> Vec<String> {
        let summary = &row.summary;
        let over = |peer: &str| match self.rate(peer, row.writers) {
            Some(rate) if peer != row.name => format!("{:.2}", summary.ops_per_s / rate),
            _ => String::new(),
        };
        vec![
            row.writers.to_string(),
            row.name.to_owned(),
            format!("{:.0}", summary.ops_per_s),
            format!("{:.3}", summary.p50_ms),
            format!("{:.3}", summary.p99_ms),
            format!("{:.1}", summary.client_us_per_op),
            format!("{:.0}", summary.other_percent),
            over("raft-engine"),
            over("rocksdb"),
        ]
    }

    fn json(&self, arguments: &WalArgs) -> serde_json::Value {
        let row = |row: &Row| {
            json!({
                "log": row.name,
                "writers": row.writers,
                "records_per_s": row.summary.ops_per_s,
                "records_per_s_by_round": row.summary.ops_per_s_by_round,
                "p50_ms": row.summary.p50_ms,
                "p99_ms": row.summary.p99_ms,
                "cpu_us_per_record": row.summary.client_us_per_op,
                "other_percent": row.summary.other_percent,
            })
        };
        let target = |target: &Target| {
            json!({
                "peer": target.peer,
                "writers": target.writers,
                "at_least": target.at_least,
                "ratio": target.ratio,
                "held": target.held(),
            })
        };
        json!({
            "built": built(),
            "record_bytes": arguments.record_bytes,
            "rounds": arguments.rounds,
            "milliseconds": arguments.milliseconds,
            "cells": self.0.iter().map(row).collect::<Vec<_>>(),
            "targets": self.targets().iter().map(target).collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &'static str, writers: u64, ops_per_s: f64) -> Row {
        let summary = Summary {
            ops_per_s,
            ops_per_s_by_round: vec![ops_per_s],
            p50_ms: 0.1,
            p99_ms: 0.2,
            server_us_per_op: 0.0,
            client_us_per_op: 10.0,
            other_percent: 0.0,
            errors: 0,
            first_error: None,
        };
        Row { name, writers, summary }
    }

    #[test]
    fn a_target_is_the_rate_of_our_log_over_its_peers() {
        let rows = Rows(vec![
            row("stemedb-wal, tasks", 64, 140.0),
            row("stemedb-wal", 64, 1.0),
            row("raft-engine", 64, 100.0),
            row("rocksdb", 64, 100.0),
        ]);
        let texts: Vec<_> = rows.targets().iter().map(Target::text).collect();
        assert_eq!(
            texts,
            [
                "target: 64 writers 1.40 x raft-engine, at least 1.3: held\n",
                "target: 64 writers 1.40 x rocksdb, at least 1.5: NOT HELD\n",
            ]
        );
    }

    #[test]
    fn every_log_takes_records_of_several_writers() {
        // Intent: each log opens, appends and is measured; what it takes is not looked at here.
        let dir = tempfile::tempdir().unwrap();
        for kind in Kind::ALL {
            let log = kind.open(&dir.path().join(kind.name())).unwrap();
            let (warm_up, measured) = (Duration::ZERO, Duration::from_millis(50));
            let plan =
                Plan { writers: 3, first_writer: 0, record_bytes: 256, warm_up, measured, seed: 1 };
            let run = log.run(plan, &AtomicBool::new(false)).unwrap();
            assert!(run.elapsed >= measured, "{}", kind.name());
        }
    }
}
