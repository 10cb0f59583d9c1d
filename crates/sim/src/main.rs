//! Runs seeds and says what came of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{PoisonError, mpsc};
use std::time::Instant;

use clap::Parser;
use stemedb_sim::minimise::minimise;
use stemedb_sim::rows::Kind;
use stemedb_sim::run::{Report, note_panics, run};
use stemedb_sim::schedule::{Reads, Schedule};
use stemedb_sim::trace::Trace;
use stemedb_wal::planted::{Bug, plant};

/// Tasks and messages are small and many.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Most runs that shortening a failing schedule may take.
const ATTEMPTS_MAX: usize = 400;

/// A cluster in one thread, from one seed: runs seeds and says what came of them.
#[derive(Parser)]
#[command(name = "stemedb-sim")]
struct Arguments {
    /// How many seeds to run.
    #[arg(long, default_value_t = 100, conflicts_with = "seed")]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 1, conflicts_with = "seed")]
    from: u64,
    /// One seed only.
    #[arg(long)]
    seed: Option<u64>,
    /// Print what happened.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Print each seed's hash.
    #[arg(long)]
    hashes: bool,
    /// Threads, each with a seed of its own.
    #[arg(long, default_value_t = 2)]
    threads: u64,
    /// Plant each known mistake, and say after how many seeds it is found.
    #[arg(long, conflicts_with = "seed")]
    planted: bool,
    /// On RocksDB instead of the map; such a run gives another hash each time.
    #[arg(long, conflicts_with = "planted")]
    rocksdb: bool,
    /// Plant this mistake; with --planted, look for no other.
    #[arg(long, value_parser = bug)]
    plant: Option<Bug>,
    /// Clients read at any replica.
    #[arg(long)]
    reads_anywhere: bool,
    /// Clients read by the leader's lease.
    #[arg(long, conflicts_with = "reads_anywhere")]
    reads_leased: bool,
    /// Go on after a seed that failed.
    #[arg(long)]
    keep_going: bool,
}

/// A mistake by its name.
fn bug(name: &str) -> Result<Bug, String> {
    let found = Bug::ALL.into_iter().find(|bug| format!("{bug:?}") == name);
    found.ok_or_else(|| format!("one of {:?}", Bug::ALL))
}

impl Arguments {
    fn kind(&self) -> Kind {
        if self.rocksdb { Kind::Rocks } else { Kind::Map }
    }

    fn reads(&self) -> Reads {
        match (self.reads_anywhere, self.reads_leased) {
            (true, _) => Reads::Anywhere,
            (_, true) => Reads::Leased,
            _ => self.plant.map_or(Reads::Led, Reads::that_meet),
        }
    }
}

/// Of so many seeds one runs again on RocksDB.
const ROCKS_EVERY: u64 = 20;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    note_panics();
    if arguments.plant.is_some() && !cfg!(debug_assertions) {
        eprintln!("a release build has no mistakes to plant");
        return ExitCode::FAILURE;
    }
    plant(arguments.plant);
    match arguments.seed {
        Some(seed) => one(&arguments, seed),
        None if arguments.planted => planted(&arguments),
        None => many(&arguments),
    }
}

/// How often each mistake is looked for, from different seeds.
const HUNTS: u64 = 5;

/// Plants each mistake and counts the seeds until it is found.
fn planted(arguments: &Arguments) -> ExitCode {
    if !cfg!(debug_assertions) {
        eprintln!("a release build has no mistakes to plant");
        return ExitCode::FAILURE;
    }
    println!("| mistake | seeds until it was found | median |\n| :-- | :-- | --: |");
    let named = |bug: &Bug| arguments.plant.is_none_or(|only| only == *bug);
    let next = std::sync::Mutex::new(Bug::ALL.into_iter().filter(named));
    let missed = AtomicBool::new(false);
    std::thread::scope(|threads| {
        for _ in 0..arguments.threads.max(1) {
            threads.spawn(|| {
                let Some((_dir, staging)) = folder() else { return };
                loop {
                    let bug = next.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some(bug) = bug else { return };
                    let found: Vec<_> = (0..HUNTS)
                        .map(|hunt| hunt_for(bug, hunt, arguments.seeds, &staging))
                        .collect();
                    missed.fetch_or(found.contains(&None), Ordering::Relaxed);
                    println!("{}", row(bug, found));
                }
            });
        }
    });
    if missed.load(Ordering::Relaxed) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// How many seeds it took, if they were enough.
fn hunt_for(bug: Bug, hunt: u64, seeds_max: u64, staging: &Path) -> Option<u64> {
    let first = 1 + hunt * 1_000_000;
    (1..=seeds_max).find(|count| {
        plant(Some(bug));
        let (report, _) = run(
            &Schedule::of(first + count).read(Reads::that_meet(bug)),
            Kind::Map,
            staging,
            Trace::new(),
        );
        plant(None);
        report.failure.is_some()
    })
}

fn row(bug: Bug, mut found: Vec<Option<u64>>) -> String {
    let told: Vec<String> =
        found.iter().map(|seeds| seeds.map_or("not found".to_owned(), |n| n.to_string())).collect();
    found.sort_by_key(|seeds| seeds.unwrap_or(u64::MAX));
    let median = found[found.len() / 2].map_or("–".to_owned(), |n| n.to_string());
    format!("| {bug:?} | {} | {median} |", told.join(", "))
}

/// A folder in memory if there is such a place: nothing in it has to outlive anything.
fn staging() -> std::io::Result<tempfile::TempDir> {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }
}

fn folder() -> Option<(tempfile::TempDir, PathBuf)> {
    match staging() {
        Ok(dir) => {
            let path = dir.path().to_owned();
            Some((dir, path))
        }
        Err(cause) => {
            eprintln!("no folder for snapshots: {cause}");
            None
        }
    }
}

fn one(arguments: &Arguments, seed: u64) -> ExitCode {
    let (kind, trace) = (arguments.kind(), arguments.trace);
    let Some((_dir, staging)) = folder() else { return ExitCode::FAILURE };
    let schedule = Schedule::of(seed).read(arguments.reads());
    let kept = if trace { Trace::keeping() } else { Trace::new() };
    let (report, kept) = run(&schedule, kind, &staging, kept);
    if trace {
        print!("{}", kept.text().unwrap_or_default());
    }
    println!("seed {seed}: {} simulated ms, {:?}", report.simulated_ms, report.counts);
    println!("hash: {}", report.hash);
    let Some(failure) = report.failure else { return ExitCode::SUCCESS };
    println!("FAILED: {failure}");
    shorten(&schedule, kind, &staging);
    ExitCode::FAILURE
}

/// Prints the fewest faults that still make the seed fail.
fn shorten(schedule: &Schedule, kind: Kind, staging: &Path) {
    let mut runs = 0;
    let fewest = minimise(&schedule.events, ATTEMPTS_MAX, |events| {
        runs += 1;
        let shorter = Schedule { events: events.to_vec(), ..schedule.clone() };
        run(&shorter, kind, staging, Trace::new()).0.failure.is_some()
    });
    println!(
        "of its {} faults these are enough ({runs} runs): {} nodes, {} shards, {} clients",
        schedule.events.len(),
        schedule.nodes,
        schedule.shards,
        schedule.clients,
    );
    fewest.iter().for_each(|event| println!("  {event}"));
}

/// All seeds together.
#[derive(Default)]
struct Sum {
    seeds: u64,
    /// Runs on RocksDB.
    on_rocks: u64,
    failed: Vec<(u64, Kind, String)>,
    undecided: u64,
    simulated_ms: u64,
    faults: BTreeMap<&'static str, u64>,
    reads: u64,
    writes: u64,
    refused: u64,
    unknown: u64,
    not_applied: u64,
    messages: u64,
    pieces: u64,
    terms: u64,
    looks: u64,
    set_aside: u64,
}

impl Sum {
    fn add(&mut self, kind: Kind, report: &Report) {
        match kind {
            Kind::Map => self.seeds += 1,
            Kind::Rocks => self.on_rocks += 1,
        }
        self.simulated_ms += report.simulated_ms;
        for (kind, count) in &report.faults {
            *self.faults.entry(kind).or_default() += count;
        }
        self.reads += report.counts.reads;
        self.writes += report.counts.writes;
        self.refused += report.counts.refused;
        self.unknown += report.counts.unknown;
        self.not_applied += report.counts.not_applied;
        self.messages += report.traffic.sent;
        self.pieces += report.traffic.pieces;
        self.terms += report.terms as u64;
        self.looks += report.looks;
        self.set_aside += report.set_aside;
        self.undecided += u64::from(report.undecided);
        if let Some(failure) = &report.failure {
            self.failed.push((report.seed, kind, failure.clone()));
        }
    }

    fn print(&self, seconds: f64) {
        println!(
            "{} seeds and {} on RocksDB in {seconds:.0} s ({:.1} a second), {:.1} simulated hours, {} \
             failed, {} undecided",
            self.seeds,
            self.on_rocks,
            self.seeds as f64 / seconds,
            self.simulated_ms as f64 / 3.6e6,
            self.failed.len(),
            self.undecided,
        );
        println!(
            "clients: {} reads, {} writes, {} refused, {} unknown, {} not applied",
            self.reads, self.writes, self.refused, self.unknown, self.not_applied,
        );
        println!(
            "cluster: {} messages, {} pieces of snapshots, {} terms with a leader, {} replicas \
             set aside, {} comparisons of replicas",
            self.messages, self.pieces, self.terms, self.set_aside, self.looks,
        );
        for (kind, count) in &self.faults {
            println!("  {count:>8} {kind}");
        }
        for (seed, kind, failure) in &self.failed {
            println!("FAILED seed {seed} on {kind:?}: {failure}");
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "for the progress; no run sees it")]
fn many(arguments: &Arguments) -> ExitCode {
    let begun = Instant::now();
    let (next, stop) = (AtomicU64::new(arguments.from), AtomicBool::new(false));
    let end = arguments.from.saturating_add(arguments.seeds);
    let (tell, reports) = mpsc::sync_channel::<(Kind, Report)>(64);
    let (kind, rocksdb) = (arguments.kind(), arguments.rocksdb);
    let reads = arguments.reads();
    let mut sum = Sum::default();
    std::thread::scope(|threads| {
        for _ in 0..arguments.threads.max(1) {
            let (tell, next, stop) = (tell.clone(), &next, &stop);
            threads.spawn(move || {
                let Some((_dir, staging)) = folder() else { return };
                plant(arguments.plant);
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end || stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let schedule = Schedule::of(seed).read(reads);
                    let again = seed.is_multiple_of(ROCKS_EVERY) && !rocksdb;
                    for kind in [(kind, true), (Kind::Rocks, again)] {
                        let (kind, runs) = kind;
                        if !runs {
                            continue;
                        }
                        let (report, _) = run(&schedule, kind, &staging, Trace::new());
                        if tell.send((kind, report)).is_err() {
                            return;
                        }
                    }
                }
            });
        }
        drop(tell);
        let mut told = Instant::now();
        for (kind, report) in reports {
            sum.add(kind, &report);
            if arguments.hashes && kind == Kind::Map {
                println!("seed {} hash: {}", report.seed, report.hash);
            }
            if let Some(failure) = &report.failure {
                eprintln!("seed {} failed on {kind:?}: {failure}", report.seed);
                stop.fetch_or(!arguments.keep_going, Ordering::Relaxed);
            }
            if told.elapsed().as_secs() >= 5 {
                told = Instant::now();
                eprintln!(
                    "{} of {} seeds, {:.1} a second, {:.1} simulated hours, {} failed",
                    sum.seeds,
                    arguments.seeds,
                    sum.seeds as f64 / begun.elapsed().as_secs_f64(),
                    sum.simulated_ms as f64 / 3.6e6,
                    sum.failed.len(),
                );
            }
        }
    });
    sum.print(begun.elapsed().as_secs_f64());
    if sum.failed.is_empty() && sum.undecided == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
