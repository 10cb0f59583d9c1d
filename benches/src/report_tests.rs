//! What a person and a program get to see.

use std::time::Duration;

use super::*;
use crate::tally::Tally;

/// A cell of one second with so many answers after one millisecond each.
fn measured(system: System, operation: Operation, clients: u32, answers: u32) -> Measured {
    let mut tally = Tally::new().unwrap();
    (0..answers).for_each(|_| tally.succeeded(Duration::from_millis(1)).unwrap());
    let server_cpu = Duration::from_millis(if system == System::Etcd { 40 } else { 20 });
    let client_cpu = Duration::from_millis(10);
    let (elapsed, other_cpu) = (Duration::from_secs(1), Duration::from_millis(50));
    let run = Run { tally, elapsed, server_cpu, client_cpu, other_cpu };
    Measured { system, operation, clients, run }
}

fn report(measured: Vec<Measured>) -> Report {
    Report {
        measured,
        versions: vec![(System::Etcd, "etcd Version: 3.4".to_owned())],
        rss_bytes: vec![(System::Etcd, vec![1 << 20, 2 << 20])],
        conditions: json!({ "cpus": 2 }),
    }
}

/// Two rounds in alternating order; put misses the floor and get holds it.
fn comparison() -> Report {
    let (ours, theirs) = (System::Stemedb, System::Etcd);
    let (put, get) = (Operation::Put, Operation::Get);
    report(vec![
        measured(ours, put, 64, 140),
        measured(ours, get, 64, 400),
        measured(theirs, put, 64, 100),
        measured(theirs, get, 64, 200),
        measured(theirs, put, 64, 100),
        measured(theirs, get, 64, 200),
        measured(ours, put, 64, 140),
        measured(ours, get, 64, 400),
    ])
}

#[test]
fn the_table_has_one_row_a_cell_and_ratios_where_both_were_measured() {
    let report = comparison();
    let text = report.text(&report.summarize().unwrap());
    let expected = "\
operation  system   clients  ops/s  p50 ms  p99 ms  server us/op  client us/op  others %  errors  ops x etcd  p50 x etcd  p99 x etcd  cpu x etcd
put        stemedb       64    140    1.00    1.00         142.9          71.4         5       0        1.40        1.00        1.00        0.36
put        etcd          64    100    1.00    1.00         400.0         100.0         5       0
get        stemedb       64    400    1.00    1.00          50.0          25.0         5       0        2.00        1.00        1.00        0.25
get        etcd          64    200    1.00    1.00         200.0          50.0         5       0

floor: put at 64 clients 1.40 x etcd, at least 1.5: NOT HELD
floor: get at 64 clients 2.00 x etcd, at least 2: held
etcd: etcd Version: 3.4
etcd: memory at the end, MiB: 1 2
conditions: {\"cpus\":2}
";
    assert_eq!(text, expected);
}

#[test]
fn one_system_alone_has_no_ratios_and_holds_no_floor() {
    let report = report(vec![measured(System::Etcd, Operation::Put, 64, 100)]);
    let summaries = report.summarize().unwrap();
    assert!(summaries.without_errors() && !summaries.floor_held());
    assert!(report.text(&summaries).contains("floor: needs both systems and 64 clients\n"));
    assert_eq!(report.json(&summaries)["ratios"], json!([]));
}

#[test]
fn the_floor_is_held_only_if_both_of_its_lines_are() {
    let mut report = comparison();
    assert!(!report.summarize().unwrap().floor_held());
    report.measured.push(measured(System::Stemedb, Operation::Put, 64, 170));
    assert!(report.summarize().unwrap().floor_held());
    report.measured.retain(|measured| measured.operation == Operation::Put);
    assert!(!report.summarize().unwrap().floor_held());
}

#[test]
fn a_cell_with_errors_says_so() {
    let mut report = comparison();
    report.measured[0].run.tally.failed("status 503: no leader");
    let summaries = report.summarize().unwrap();
    assert!(!summaries.without_errors());
    let line = "ERRORS: stemedb put 64 clients: 1, first: status 503: no leader\n";
    assert!(report.text(&summaries).contains(line));
}

#[test]
fn a_busy_machine_is_told() {
    let mut report = comparison();
    let quiet = report.text(&report.summarize().unwrap());
    assert!(!quiet.contains("NOISE"));
    report.measured[0].run.other_cpu = Duration::from_secs(1);
    let noisy = report.text(&report.summarize().unwrap());
    assert!(noisy.contains("NOISE: in 1 cells other programs took over 20 % of a core\n"));
}

#[test]
fn a_program_gets_every_round_and_every_ratio() {
    let report = comparison();
    let json = report.json(&report.summarize().unwrap());
    assert_eq!(json["cells"].as_array().unwrap().len(), 4);
    let first = &json["cells"][0];
    assert_eq!((&first["operation"], &first["system"]), (&json!("put"), &json!("stemedb")));
    assert_eq!(first["ops_per_s_by_round"], json!([140.0, 140.0]));
    assert_eq!((&first["errors"], &first["first_error"]), (&json!(0), &json!(null)));
    assert_eq!(json["ratios"][1]["ops"], json!(2.0));
    let floor = json!({ "operation": "put", "clients": 64, "at_least": 1.5, "ratio": 1.4,
                        "held": false });
    assert_eq!(json["floor"][0], floor);
    assert_eq!(json["rss"][0], json!({ "system": "etcd", "bytes": [1_048_576, 2_097_152] }));
}
