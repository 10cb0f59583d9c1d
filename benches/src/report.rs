//! The figures, for a person and for a program.

use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use crate::cli::{CompareArgs, Output, System};
use crate::load::{Operation, WARM_UP};
use crate::place;
use crate::table;
use crate::tally::{Run, Summary, summarize};

/// The floor is about so many clients.
const FLOOR_CLIENTS: u32 = 64;
/// The rate of StemeDB over that of etcd must be at least so much.
const FLOOR: [(Operation, f64); 2] = [(Operation::Put, 1.5), (Operation::Get, 2.0)];

/// A machine on which others take more of a core than this is not quiet. The kernel's own threads
/// that write to the disk for the servers count among the others.
const NOISE_PERCENT: f64 = 20.0;

const MIB: f64 = 1_048_576.0;

/// One cell, measured in one round.
pub(crate) struct Measured {
    /// Which system.
    pub(crate) system: System,
    /// What its clients did.
    pub(crate) operation: Operation,
    /// How many there were.
    pub(crate) clients: u32,
    /// What came out.
    pub(crate) run: Run,
}

/// Everything that was measured, as it came.
pub(crate) struct Report {
    /// Every cell of every round.
    pub(crate) measured: Vec<Measured>,
    /// What each system calls itself.
    pub(crate) versions: Vec<(System, String)>,
    /// Memory of each node at the end of each round.
    pub(crate) rss_bytes: Vec<(System, Vec<u64>)>,
    conditions: Value,
}

/// One cell over all rounds.
struct Cell {
    system: System,
    operation: Operation,
    clients: u32,
    summary: Summary,
}

/// Every cell over all rounds, in the order of the table.
pub(crate) struct Summaries(Vec<Cell>);

/// StemeDB over etcd in one cell: rates above 1 and all else below 1 are in StemeDB's favour.
struct Ratio {
    operation: Operation,
    clients: u32,
    ops: f64,
    p50: f64,
    p99: f64,
    server_cpu: f64,
}

/// What became of one line of the floor.
struct FloorLine {
    operation: Operation,
    at_least: f64,
    ratio: f64,
}

/// The command line and the build, for whoever reads the figures later.
pub(crate) fn built() -> String {
    let command = std::env::args().collect::<Vec<_>>().join(" ");
    let profile = if cfg!(debug_assertions) { "DEBUG BUILD" } else { "release" };
    let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let version = env!("CARGO_PKG_VERSION");
    format!("command: {command}\nbuild: stemedb-benches {version}, {profile}; {cpus} cpus\n")
}

impl Report {
    /// An empty report on what was asked for, to be measured with data in `dir`.
    ///
    /// # Errors
    /// The directory can't be looked at.
    pub(crate) fn new(arguments: &CompareArgs, dir: &Path) -> Result<Self> {
        let settings: Vec<String> =
            arguments.servers.stemedb_env.iter().map(|(n, v)| format!("{n}={v}")).collect();
        let conditions = json!({
            "cpus": std::thread::available_parallelism()?.get(),
            "data_in_memory": place::in_memory(dir)?,
            "keys": arguments.keys,
            "value_bytes": arguments.value_bytes,
            "warm_up_s": WARM_UP.as_secs(),
            "measured_s": arguments.seconds,
            "rounds": arguments.rounds,
            "stemedb_settings": settings,
        });
        let (measured, versions, rss_bytes) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Report { measured, versions, rss_bytes, conditions })
    }

    /// Puts the rounds of each cell together.
    ///
    /// # Errors
    /// As [`summarize`].
    pub(crate) fn summarize(&self) -> Result<Summaries> {
        let mut names: Vec<_> = Vec::new();
        for Measured { system, operation, clients, .. } in &self.measured {
            let name = (*operation as u8, *clients, *system as u8, *operation, *system);
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names.sort_by_key(|&(operation, clients, system, ..)| (operation, clients, system));
        let cells = names.into_iter().map(|(_, clients, _, operation, system)| {
            let same =
                |m: &&Measured| (m.system, m.operation, m.clients) == (system, operation, clients);
            let runs: Vec<Run> = self.measured.iter().filter(same).map(|m| m.run.clone()).collect();
            Ok(Cell { system, operation, clients, summary: summarize(&runs)? })
        });
        Ok(Summaries(cells.collect::<Result<_>>()?))
    }

    /// Writes the report to standard output.
    pub(crate) fn print(&self, summaries: &Summaries, output: Output) {
        match output {
            Output::Table => print!("{}", self.text(summaries)),
            Output::Json => println!("{:#}", self.json(summaries)),
        }
    }

    fn text(&self, summaries: &Summaries) -> String {
        let mut text = summaries.table();
        text.push('\n');
        text.push_str(&summaries.floor_text());
        text.push_str(&summaries.errors_text());
        text.push_str(&summaries.noise_text());
        for (system, version) in &self.versions {
            text.push_str(&format!("{system}: {version}\n"));
        }
        for (system, nodes) in &self.rss_bytes {
            let nodes: Vec<String> =
                nodes.iter().map(|&bytes| format!("{:.0}", bytes as f64 / MIB)).collect();
            text.push_str(&format!("{system}: memory at the end, MiB: {}\n", nodes.join(" ")));
        }
        text.push_str(&format!("conditions: {}\n", self.conditions));
        text
    }

    fn json(&self, summaries: &Summaries) -> Value {
        let versions = self.versions.iter();
        let rss = self.rss_bytes.iter();
        json!({
            "conditions": self.conditions,
            "versions": versions
                .map(|(system, version)| json!({"system": system.to_string(), "version": version}))
                .collect::<Vec<_>>(),
            "rss": rss
                .map(|(system, bytes)| json!({"system": system.to_string(), "bytes": bytes}))
                .collect::<Vec<_>>(),
            "cells": summaries.0.iter().map(Cell::json).collect::<Vec<_>>(),
            "ratios": summaries.ratios().iter().map(Ratio::json).collect::<Vec<_>>(),
            "floor": summaries.floor().iter().map(FloorLine::json).collect::<Vec<_>>(),
        })
    }
}

impl Summaries {
    /// Whether every operation of every cell gave the right answer.
    pub(crate) fn without_errors(&self) -> bool {
        self.0.iter().all(|cell| cell.summary.errors == 0)
    }

    /// Whether StemeDB is as much faster than etcd as it must be. Not, if that was not measured.
    pub(crate) fn floor_held(&self) -> bool {
        let lines = self.floor();
        lines.len() == FLOOR.len() && lines.iter().all(FloorLine::held)
    }

    fn ratios(&self) -> Vec<Ratio> {
        let ours = self.0.iter().filter(|cell| cell.system == System::Stemedb);
        ours.filter_map(|cell| self.ratio(cell)).collect()
    }

    fn ratio(&self, ours: &Cell) -> Option<Ratio> {
        let (operation, clients) = (ours.operation, ours.clients);
        let theirs = self.0.iter().find(|cell| {
            (cell.system, cell.operation, cell.clients) == (System::Etcd, operation, clients)
        })?;
        let over = |part: fn(&Summary) -> f64| part(&ours.summary) / part(&theirs.summary);
        Some(Ratio {
            operation,
            clients,
            ops: over(|summary| summary.ops_per_s),
            p50: over(|summary| summary.p50_ms),
            p99: over(|summary| summary.p99_ms),
            server_cpu: over(|summary| summary.server_us_per_op),
        })
    }

    fn floor(&self) -> Vec<FloorLine> {
        let ratios = self.ratios();
        let lines = FLOOR.iter().filter_map(|&(operation, at_least)| {
            let at_floor = |r: &&Ratio| r.operation == operation && r.clients == FLOOR_CLIENTS;
            let ratio = ratios.iter().find(at_floor)?.ops;
            Some(FloorLine { operation, at_least, ratio })
        });
        lines.collect()
    }

    fn table(&self) -> String {
        let headers = [
            "operation",
            "system",
            "clients",
            "ops/s",
            "p50 ms",
            "p99 ms",
            "server us/op",
            "client us/op",
            "others %",
            "errors",
            "ops x etcd",
            "p50 x etcd",
            "p99 x etcd",
            "cpu x etcd",
        ];
        let rows: Vec<_> = self.0.iter().map(|cell| self.row(cell)).collect();
        table::render(&headers, &rows, 2)
    }

    fn row(&self, cell: &Cell) -> Vec<String> {
        let summary = &cell.summary;
        let mut row = vec![
            cell.operation.to_string(),
            cell.system.to_string(),
            cell.clients.to_string(),
            format!("{:.0}", summary.ops_per_s),
            format!("{:.2}", summary.p50_ms),
            format!("{:.2}", summary.p99_ms),
            format!("{:.1}", summary.server_us_per_op),
            format!("{:.1}", summary.client_us_per_op),
            format!("{:.0}", summary.other_percent),
            summary.errors.to_string(),
        ];
        let ratio = if cell.system == System::Stemedb { self.ratio(cell) } else { None };
        if let Some(ratio) = ratio {
            let ratios = [ratio.ops, ratio.p50, ratio.p99, ratio.server_cpu];
            row.extend(ratios.map(|ratio| format!("{ratio:.2}")));
        }
        row
    }

    fn floor_text(&self) -> String {
        let lines = self.floor();
        if lines.is_empty() {
            return format!("floor: needs both systems and {FLOOR_CLIENTS} clients\n");
        }
        lines.iter().map(FloorLine::text).collect()
    }

    fn errors_text(&self) -> String {
        let failed = self.0.iter().filter(|cell| cell.summary.errors > 0);
        let line = |cell: &Cell| {
            let Cell { system, operation, clients, summary } = cell;
            let (count, reason) = (summary.errors, summary.first_error.as_deref());
            let reason = reason.unwrap_or("no reason given");
            format!("ERRORS: {system} {operation} {clients} clients: {count}, first: {reason}\n")
        };
        failed.map(line).collect()
    }

    fn noise_text(&self) -> String {
        let noisy = self.0.iter().filter(|cell| cell.summary.other_percent > NOISE_PERCENT).count();
        match noisy {
            0 => String::new(),
            _ => format!(
                "NOISE: in {noisy} cells other programs took over {NOISE_PERCENT} % of a core\n"
            ),
        }
    }
}

impl FloorLine {
    fn held(&self) -> bool {
        self.ratio >= self.at_least
    }

    fn text(&self) -> String {
        let FloorLine { operation, at_least, ratio } = self;
        let verdict = if self.held() { "held" } else { "NOT HELD" };
        format!(
            "floor: {operation} at {FLOOR_CLIENTS} clients {ratio:.2} x etcd, at least {at_least}: {verdict}\n"
        )
    }

    fn json(&self) -> Value {
        json!({
            "operation": self.operation.to_string(),
            "clients": FLOOR_CLIENTS,
            "at_least": self.at_least,
            "ratio": self.ratio,
            "held": self.held(),
        })
    }
}

impl Ratio {
    fn json(&self) -> Value {
        json!({
            "operation": self.operation.to_string(),
            "clients": self.clients,
            "ops": self.ops,
            "p50": self.p50,
            "p99": self.p99,
            "server_cpu": self.server_cpu,
        })
    }
}

impl Cell {
    fn json(&self) -> Value {
        let summary = &self.summary;
        json!({
            "operation": self.operation.to_string(),
            "system": self.system.to_string(),
            "clients": self.clients,
            "ops_per_s": summary.ops_per_s,
            "ops_per_s_by_round": summary.ops_per_s_by_round,
            "p50_ms": summary.p50_ms,
            "p99_ms": summary.p99_ms,
            "server_us_per_op": summary.server_us_per_op,
            "client_us_per_op": summary.client_us_per_op,
            "other_percent": summary.other_percent,
            "errors": summary.errors,
            "first_error": summary.first_error,
        })
    }
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
