//! The short form of the black-box runs: three processes of the real binary, clients that write
//! down what they hear, and the linearizability checker of the simulation as the judge.
//!
//! The long form, with more faults, is `stemedb-benches faults`; this one drives the same code.
//! It needs no privilege: the nodes stand on loopback addresses with a forwarder between them.
//! A run that proves nothing (too few writes, a fault that was never there, a cluster that did not
//! heal) is a failure here too.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::process::ExitCode;

/// Rounds of each fault follow each other for so long; start, healing and the look at everything
/// come on top.
const SECONDS: &str = "8";

fn run(fault: &str) {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().to_str().unwrap();
    let line = [
        "stemedb-benches",
        "faults",
        "--fault",
        fault,
        "--seconds",
        SECONDS,
        "--seed",
        "4",
        "--network",
        "forwarder",
        "--stemedb-binary",
        env!("CARGO_BIN_EXE_stemedb"),
        "--data-dir",
        data,
    ];
    assert_eq!(stemedb_benches::run(line).unwrap(), ExitCode::SUCCESS, "see the table above");
}

/// Small: what is shown does not grow with it.
#[test]
fn a_survivor_of_three_brings_back_all_that_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().to_str().unwrap();
    let binary = env!("CARGO_BIN_EXE_stemedb");
    let size = ["--gib", "0.001", "--shards", "4"];
    let servers = ["--stemedb-binary", binary, "--data-dir", data];
    let line = ["stemedb-benches", "lost"].into_iter().chain(size).chain(servers);
    assert_eq!(stemedb_benches::run(line).unwrap(), ExitCode::SUCCESS, "see the table above");
}

#[test]
fn killed_leaders_lose_nothing_and_answer_nothing_old() {
    run("kill-leader");
}

#[test]
fn paused_nodes_lose_nothing_and_answer_nothing_old() {
    run("pause");
}

#[test]
fn nodes_cut_off_lose_nothing_and_answer_nothing_old() {
    run("partition-symmetric");
}
