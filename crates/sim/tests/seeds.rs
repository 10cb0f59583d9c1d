//! A few seeds in every test run; the many are `scripts/sim`'s.

#![allow(clippy::unwrap_used, clippy::expect_used)]
use std::process::Command;

use stemedb_sim::rows::Kind;
use stemedb_sim::run::run;
use stemedb_sim::schedule::{Reads, Schedule};
use stemedb_sim::trace::Trace;
use stemedb_wal::planted::{Bug, plant};

/// The verdict on a seed.
fn verdict(seed: u64) -> Option<String> {
    verdict_on(Kind::Map, seed)
}

fn verdict_on(kind: Kind, seed: u64) -> Option<String> {
    verdict_of(kind, &Schedule::of(seed))
}

fn verdict_of(kind: Kind, schedule: &Schedule) -> Option<String> {
    let staging = tempfile::tempdir().unwrap();
    let seed = schedule.seed;
    let (report, _) = run(schedule, kind, staging.path(), Trace::new());
    assert!(!report.undecided, "seed {seed}: the checker gave up");
    println!(
        "seed {seed}: {} simulated ms, {:?}, hash {}",
        report.simulated_ms, report.counts, report.hash
    );
    report.failure
}

fn hold(seeds: impl IntoIterator<Item = u64>) {
    for seed in seeds {
        assert_eq!(verdict(seed), None, "seed {seed}");
    }
}

#[test]
fn some_seeds_hold() {
    hold(100..130);
}

#[test]
fn and_some_more() {
    hold(200..230);
}

#[test]
fn some_seeds_hold_on_rocksdb() {
    for seed in [100, 120, 140] {
        assert_eq!(verdict_on(Kind::Rocks, seed), None, "seed {seed}");
    }
}

#[test]
fn some_seeds_hold_wherever_clients_read_and_by_leases() {
    for reads in [Reads::Anywhere, Reads::Leased] {
        for seed in 300..315 {
            let schedule = Schedule::of(seed).read(reads);
            assert_eq!(verdict_of(Kind::Map, &schedule), None, "seed {seed} {reads:?}");
        }
    }
}

/// Clients name their writes and ask again wherever they heard nothing: what was asked once is done
/// once, or the history is not linearizable.
#[test]
fn some_seeds_hold_with_writes_that_are_asked_for_again() {
    for seed in 300..330 {
        let schedule = Schedule { named: true, ..Schedule::of(seed) };
        assert_eq!(verdict_of(Kind::Map, &schedule), None, "seed {seed}");
    }
}

/// Mistakes of ours that the simulation found, each planted again on seeds that find it: so the seeds
/// are worth something, and without the mistake they hold.
const FOUND: &[(Bug, u64)] = &[
    // ADR 15: after a power cut a leader went on in its old term.
    (Bug::LeaderRestored, 21),
    (Bug::LeaderRestored, 2_000_007),
    // ADR 17: a power cut left a store that was ahead of its log.
    (Bug::AppliedBeforeSync, 2_000_025),
];

#[test]
fn what_was_found_once_is_found_again_and_holds_now() {
    for &(bug, seed) in FOUND {
        plant(Some(bug));
        let found = verdict(seed);
        plant(None);
        assert!(found.is_some(), "seed {seed} does not find {bug:?} any more");
        assert_eq!(verdict(seed), None, "seed {seed}");
    }
}

/// Mistakes of the simulation itself.
#[test]
fn a_seed_that_was_judged_wrongly_holds() {
    // A layout was committed between the last look at what is in place and the verdict.
    hold([53_143]);
    // The world waited for a process that had been killed, for ever.
    hold([600, 628]);
    // A client read a replica whose rows were on their way out, which the node refuses to.
    let leased = Schedule::of(20_159).read(Reads::Leased);
    assert_eq!(verdict_of(Kind::Map, &leased), None);
}

#[test]
fn a_follower_that_reads_before_it_has_applied_is_found() {
    plant(Some(Bug::ReadUnapplied));
    let found = (1..40).find_map(|s| verdict_of(Kind::Map, &Schedule::of(s).read(Reads::Anywhere)));
    plant(None);
    println!("{}", found.expect("no seed finds it"));
}

/// The hash of a seed, from a process of its own.
fn hash(seed: u64) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_stemedb-sim"))
        .args(["--seed", &seed.to_string()])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let hash = text.lines().find_map(|line| line.strip_prefix("hash: "));
    hash.unwrap_or_else(|| panic!("no hash in {text:?}")).to_owned()
}

#[test]
fn one_seed_gives_one_trace_in_two_processes() {
    assert_eq!(hash(42), hash(42));
    assert_ne!(hash(42), hash(43));
}

/// A simulation that has never failed proves nothing. (`scripts/sim --planted` looks for all.)
#[test]
fn a_log_that_calls_back_before_it_has_synced_is_found() {
    plant(Some(Bug::CallbackBeforeSync));
    let found = (1..40).find_map(verdict);
    plant(None);
    println!("{}", found.expect("no seed finds it"));
}
