//! What an operator types, against three real processes: what is printed, and the exit code.

// A test's helpers may panic like the test itself.
#![allow(clippy::unwrap_used)]

mod common;

use std::process::{Command, Output};

use common::{Cluster, ROOT_KEY};

/// Runs `stemedb cluster …` as root.
fn cluster(at: &Cluster, args: &[&str]) -> (i32, String, String) {
    let url = at.gateway(1, "");
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_stemedb"))
        .env_clear()
        .env("STEMEDB_ADMIN_KEY", ROOT_KEY)
        .current_dir(at.nodes[0].dir())
        .arg("cluster")
        .args(args)
        .args(["--url", &url])
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

fn json(at: &Cluster, args: &[&str]) -> serde_json::Value {
    let (code, out, err) = cluster(at, &[args, &["-o", "json"]].concat());
    assert_eq!(code, 0, "{args:?}: {err}");
    serde_json::from_str(&out).unwrap()
}

#[tokio::test]
async fn an_operator_looks_first_drains_in_vain_and_pauses() {
    let at = Cluster::start().await;

    // A look: nothing is to come; a fourth node would get its share, from each of the three.
    let (code, out, _) = cluster(&at, &["plan"]);
    assert!(code == 0 && out.contains("0 shards move, 0 B to copy"), "{out}");
    let plan = json(&at, &["plan", "--add", "node-3,weight=1"]);
    assert_eq!(plan["moves"].as_array().unwrap().len(), 3, "{plan}");
    assert_eq!(plan["moves"][0]["add"], serde_json::json!(["node-3"]));
    let (code, _, err) = cluster(&at, &["plan", "--drain", "nobody"]);
    assert!(code == 3 && err.contains("there is no member"), "{code} {err}");

    // Of three none can be spared: it leads nothing in the end, and that is said.
    let (code, out, err) = cluster(&at, &["drain", "node-2"]);
    assert!(code == 5 && err.contains("node-2 is not drained: no room"), "{code} {err}");
    assert!(out.contains("blocked; holds 4 shards, leads 0"), "{out}");
    let members = json(&at, &["members"]);
    let drained = members["items"].as_array().unwrap().iter().find(|m| m["name"] == "node-2");
    let drained = drained.unwrap();
    assert_eq!((&drained["drain"]["state"], &drained["leaders"]), (&"blocked".into(), &0.into()));
    assert_eq!((&drained["replicas"], &drained["weight"]), (&4.into(), &1.into()));
    let (_, out, _) = cluster(&at, &["status"]);
    assert!(out.contains("alive, blocked"), "{out}");
    let ready = at.client.get(at.own(2, "/readyz")).send().await.unwrap();
    assert_eq!(ready.status(), 503, "a drained member wants no more traffic");
    assert!(ready.text().await.unwrap().contains("draining"));

    // By id, and it is ready again at once.
    let id = drained["id"].as_str().unwrap();
    let (code, out, _) = cluster(&at, &["drain", id, "--off"]);
    assert!(code == 0 && out.contains("node-2") && out.contains("is not being drained"), "{out}");
    let ready = at.client.get(at.own(2, "/readyz")).send().await.unwrap();
    assert_eq!(ready.status(), 200);

    // Nobody is removed who is needed.
    let (code, _, err) = cluster(&at, &["remove", "node-2"]);
    assert!(code == 5 && err.contains("with 2 members each shard would have 1"), "{code} {err}");
    assert_eq!(cluster(&at, &["remove", "nobody"]).0, 3);

    // Paused, that stands in the plan; a watch ends.
    assert_eq!(cluster(&at, &["pause"]).0, 0);
    assert_eq!(json(&at, &["pause"])["paused"], true, "again, the same");
    let (_, out, _) = cluster(&at, &["plan"]);
    assert!(out.contains("blocked: rebalancing is paused"), "{out}");
    let (code, out, _) = cluster(&at, &["watch"]);
    assert!(code == 0 && out.contains("paused, 0 moves wait"), "{out}");
    assert_eq!(json(&at, &["status"])["rebalance"]["paused"], true);
    assert_eq!(json(&at, &["resume"])["paused"], false);
    let (code, out, _) = cluster(&at, &["watch"]);
    assert!(code == 0 && out.contains("nothing moves"), "{out}");
}
