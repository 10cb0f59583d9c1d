//! What a node that can't start says: one clear line, exit code 1 or 2, and nothing is left behind.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::Cluster;

/// Runs a command to its end, or kills it and fails.
fn ends(mut command: Command) -> Output {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(40);
    loop {
        match child.try_wait().unwrap() {
            Some(_) => return child.wait_with_output().unwrap(),
            None if Instant::now() > deadline => {
                child.kill().unwrap();
                panic!("it went on: {:?}", child.wait_with_output().unwrap());
            }
            // A process that ends has no event to await without an async runtime's reaper.
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// The exit code and the last line on stderr.
fn said(output: &Output) -> (Option<i32>, String) {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), text.lines().last().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn a_node_with_another_secret_is_told_so_and_ends_and_the_cluster_goes_on() {
    let cluster = Cluster::start().await;
    let stranger = Cluster::placed();
    let mut command = stranger.nodes[0].command(&cluster.peers());
    command.env("STEMEDB_CLUSTER_SECRET", "not the secret of the others");
    command.env_remove("STEMEDB_BOOTSTRAP_EXPECT");
    let output = tokio::task::spawn_blocking(move || ends(command)).await.unwrap();
    let (code, line) = said(&output);
    assert_eq!(code, Some(1), "{line}");
    assert!(line.contains("wrong cluster secret"), "{line}");
    cluster.wait_ready().await;
    cluster.project_key("after").await;
}

#[tokio::test]
async fn a_port_or_a_folder_in_use_and_bad_settings_are_one_line() {
    let mut cluster = Cluster::placed();
    let alone = |command: &mut Command| {
        command.env("STEMEDB_JOIN", "").env("STEMEDB_BOOTSTRAP_EXPECT", "1");
    };
    // A port that somebody has.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = port.local_addr().unwrap().to_string();
    for name in ["STEMEDB_BIND_ADDR", "STEMEDB_GATEWAY_ADDR", "STEMEDB_GRPC_ADDR"] {
        let mut command = cluster.nodes[1].command(&[]);
        alone(&mut command);
        command.env(name, &address);
        let (code, line) = said(&ends(command));
        assert_eq!(code, Some(1), "{name}: {line}");
        assert!(line.contains(&address) && line.contains("in use"), "{name}: {line}");
    }
    // A folder that a living node has.
    cluster.nodes.truncate(2);
    let mut first = cluster.nodes[0].command(&[]);
    alone(&mut first);
    let mut first = first.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    loop {
        let ready = cluster.client.get(cluster.own(0, "/readyz")).send().await;
        if ready.is_ok_and(|answer| answer.status() == 200) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut second = cluster.nodes[1].command(&[]);
    alone(&mut second);
    second.env("STEMEDB_WAL_DIR", cluster.nodes[0].dir().join("wal"));
    second.env("STEMEDB_DB_DIR", cluster.nodes[0].dir().join("db"));
    let (code, line) = said(&ends(second));
    first.kill().unwrap();
    first.wait().unwrap();
    assert_eq!(code, Some(1), "{line}");
    assert!(line.contains("in use by another process"), "{line}");
    // Settings that can't be.
    for (name, value) in [
        ("STEMEDB_SHARDS", "0"),
        ("STEMEDB_CLUSTER_SECRET", "short"),
        ("STEMEDB_ROOT_API_KEY", "no key"),
        ("STEMEDB_AUTH_ENABLED", "perhaps"),
        ("STEMEDB_UNSAFE_SKIP_SIGNATURES", "true"),
    ] {
        let mut command = cluster.nodes[1].command(&[]);
        alone(&mut command);
        command.env(name, value);
        let output = ends(command);
        let (code, line) = said(&output);
        assert!(matches!(code, Some(1 | 2)), "{name}: {code:?} {line}");
        assert!(line.contains(name), "{name}: {line}");
        assert_eq!(String::from_utf8_lossy(&output.stderr).lines().count(), 1, "{name}");
    }
    // Nothing was stored where nothing started.
    assert!(!cluster.nodes[1].dir().join("wal").exists());
}
