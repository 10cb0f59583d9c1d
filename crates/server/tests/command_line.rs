//! The binary as a shell sees it: what is printed, and the code it ends with.

// A test's helpers may panic like the test itself.
#![allow(clippy::unwrap_used)]

use std::net::TcpListener;
use std::process::{Command, Output};

/// Runs the binary with only these names of ours in its environment.
fn stemedb(args: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stemedb"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("STEMEDB_")) {
        command.env_remove(name);
    }
    let folder = tempfile::tempdir().unwrap();
    command.args(args).envs(env.iter().copied()).current_dir(folder.path()).output().unwrap()
}

/// The exit code and what stderr says.
fn refusal(args: &[&str], env: &[(&str, &str)]) -> (i32, String) {
    let output = stemedb(args, env);
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_setting_that_cannot_be_read_ends_with_2_and_one_that_must_not_be_with_1() {
    for (args, env, code, line) in [
        (
            &["serve", "--shards", "x"][..],
            &[][..],
            2,
            "--shards: \"x\" is not a number from 1 to 1024",
        ),
        (
            &["serve"],
            &[("STEMEDB_CLUSTER_SECRET", "short")],
            2,
            "STEMEDB_CLUSTER_SECRET: a cluster secret is 16 bytes or more, this one has 5",
        ),
        (
            &["serve", "--config", "/no/such.toml"],
            &[],
            2,
            "/no/such.toml: No such file or directory (os error 2)",
        ),
        (
            &["serve", "--auth-enabled", "false"],
            &[],
            1,
            "auth is off and 0.0.0.0:18180 is not a loopback address: anybody could be root; bind \
             to 127.0.0.1 or say --insecure",
        ),
        (
            &["config", "check"],
            &[("STEMEDB_SHRADS", "4")],
            1,
            "no setting has this name: STEMEDB_SHRADS",
        ),
        (
            &["kv", "get", "k", "--url", "nowhere"],
            &[],
            2,
            "\"nowhere\" is no address: relative URL without a base",
        ),
    ] {
        assert_eq!(refusal(args, env), (code, format!("stemedb: {line}\n")), "{args:?}");
    }
}

#[test]
fn a_taken_port_is_named_and_no_folder_is_touched() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (wal, db) = (path("wal"), path("db"));
    let args =
        ["serve", "--bind-addr", &address, "--wal-dir", &wal, "--db-dir", &db, "--log", "error"];
    let line = format!("stemedb: the HTTP port {address}: Address already in use (os error 98)\n");
    assert_eq!(refusal(&args, &[]), (1, line));
    assert_eq!(folder.path().read_dir().unwrap().count(), 0);
}

#[test]
fn config_show_prints_every_value_with_its_source_and_no_secret() {
    let secret = "a secret of twenty-two";
    let env = [("STEMEDB_CLUSTER_SECRET", secret), ("STEMEDB_ZONE", "z")];
    let output = stemedb(&["config", "show", "--shards", "8"], &env);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && !text.contains(secret), "{text}");
    let row = |name: &str| -> Vec<&str> {
        let mut lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        lines.find(|cells| cells.first() == Some(&name)).unwrap()
    };
    assert_eq!(row("shards"), ["shards", "8", "flag"]);
    assert_eq!(row("zone"), ["zone", "z", "env", "STEMEDB_ZONE"]);
    assert_eq!(
        row("cluster-secret"),
        ["cluster-secret", "********", "env", "STEMEDB_CLUSTER_SECRET"]
    );
    assert_eq!(row("log"), ["log", "info", "default"]);
}

#[test]
fn a_broken_report_is_named_with_its_line_before_anybody_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.xml").display().to_string();
    std::fs::write(&path, "<testsuite>\n<testcase time='1'/></testsuite>").unwrap();
    // Nobody listens there: only a report that was read would find out.
    let args = ["ingest", "junit", &path, "--url", "http://127.0.0.1:9"];
    let line = "a <testcase> has no name; nothing of it was sent";
    assert_eq!(refusal(&args, &[]), (1, format!("stemedb: {path}:2: {line}\n")));
}
