//! Status, members, layout, health, limits, metrics.

use stemedb::{Readiness, Startup};

use crate::support::Bench;

const NOBODY: &[(&str, &str)] = &[("x-api-key", "")];
const ROOT: &[(&str, &str)] = &[("x-api-key", "root")];

fn ok(body: &str) -> String {
    format!("200\ncontent-type: application/json\nstemedb-served-by: n1\n\n{body}\n")
}

#[tokio::test]
async fn the_status_is_short_for_everyone_and_names_members_to_those_who_may_inspect() {
    let bench = Bench::new();
    let counts = "\"cluster_id\":\"00000000000000000000000000000abc\",\"epoch\":5,\
        \"members\":{\"alive\":1,\"total\":1}";
    let shards = "\"shards\":{\"leaderless\":0,\"moving\":2,\"quarantined\":1,\
        \"total\":1,\"under_replicated\":1}";
    let short = ok(&format!("{{{counts},{shards}}}"));
    assert_eq!(bench.ask("GET /v1/cluster/status", NOBODY).await, short);
    assert_eq!(bench.ask("GET /v1/cluster/status", &[]).await, short, "a writer");
    let node = "\"nodes\":[{\"id\":\"0000000000000001\",\"leaders\":1,\"name\":\"n1\",\
        \"state\":\"alive\"}]";
    let aside = "\"quarantined\":[{\"cause\":\"1.wal at 7\",\"part\":\"log\",\"replica\":2,\
        \"shard\":0,\"since\":\"1970-01-01T00:00:01Z\"}]";
    let moves = "\"rebalance\":{\"moves\":[],\"paused\":false}";
    let full = ok(&format!("{{{counts},{node},{aside},{moves},{shards}}}"));
    assert_eq!(bench.ask("GET /v1/cluster/status", ROOT).await, full);
    let stale = bench.ask("GET /v1/cluster/status", &[("x-api-key", "gone")]).await;
    assert!(stale.starts_with("401\n"), "{stale}");
}

#[tokio::test]
async fn members_and_layout_are_for_those_who_may_inspect() {
    let bench = Bench::new();
    assert_eq!(
        bench.ask("GET /v1/cluster/members", ROOT).await,
        ok("{\"items\":[{\"gateway\":\"n1:18181\",\"gossip\":\"n1:18183\",\"grpc\":\"n1:18182\",\
            \"http\":\"n1:18180\",\"id\":\"0000000000000001\",\"leaders\":1,\"name\":\"n1\",\
            \"replicas\":1,\"state\":\"alive\",\"version\":\"0.1.0\",\"weight\":3,\
            \"zone\":\"a\"}]}")
    );
    let layout = bench.ask("GET /v1/cluster/layout", ROOT).await;
    let expected = "\"meta\":[{\"node\":\"0000000000000001\",\"replica\":1}],\
        \"shards\":[{\"replicas\":[{\"node\":\"0000000000000001\",\"replica\":2}],\"shard\":0}]}\n";
    assert!(layout.starts_with("200\n") && layout.ends_with(expected), "{layout}");
    for path in ["members", "layout"] {
        let writer = bench.ask(&format!("GET /v1/cluster/{path}"), &[]).await;
        assert!(writer.starts_with("403\n"), "{writer}");
    }
}

#[tokio::test]
async fn probes_need_no_key() {
    let bench = Bench::new();
    assert_eq!(bench.ask("GET /livez", NOBODY).await, ok("{\"status\":\"alive\"}"));
    let head = bench.ask("HEAD /livez", NOBODY).await;
    let head_only =
        "200\ncontent-length: 18\ncontent-type: application/json\nstemedb-served-by: n1\n";
    assert_eq!(head, head_only);
    assert_eq!(bench.ask("GET /readyz", NOBODY).await, ok("{\"ready\":true,\"reasons\":[]}"));
    let started = ok("{\"done\":true,\"replayed_entries\":9,\"total_entries\":9}");
    assert_eq!(bench.ask("GET /startupz?verbose", NOBODY).await, started);
    assert_eq!(
        bench.ask("GET /v1/health", NOBODY).await,
        ok("{\"node\":\"n1\",\"reasons\":[],\"status\":\"ok\",\"version\":\"0.1.0\"}")
    );
}

#[tokio::test]
async fn a_node_that_is_not_ready_says_why_not() {
    let bench = Bench::new();
    let not = |reasons: &[&str]| {
        let reasons = reasons.iter().map(|reason| (*reason).to_owned()).collect();
        *bench.script.readiness.lock().unwrap() = Readiness { ready: false, reasons };
    };
    not(&["shard 2 has not caught up"]);
    assert_eq!(
        bench.ask("GET /readyz", NOBODY).await,
        "503\nretry-after: 1\nstemedb-served-by: n1\n\n\
         {\"detail\":\"not ready: shard 2 has not caught up\",\"ready\":false,\
         \"reasons\":[\"shard 2 has not caught up\"],\"retryable\":true,\"type\":\"starting\"}\n"
    );
    not(&["draining: leaderships are handed over"]);
    let draining = bench.ask("GET /readyz", NOBODY).await;
    assert!(draining.contains("\"type\":\"draining\""), "{draining}");
    let health = bench.ask("GET /v1/health", NOBODY).await;
    assert!(health.starts_with("200\n") && health.contains("\"unready\""), "{health}");

    *bench.script.startup.lock().unwrap() =
        Startup { done: false, replayed_entries: 3, total_entries: 9 };
    assert_eq!(
        bench.ask("GET /startupz", NOBODY).await,
        "503\nretry-after: 1\nstemedb-served-by: n1\n\n\
         {\"detail\":\"3 of 9 log entries are replayed\",\"done\":false,\"replayed_entries\":3,\
         \"retryable\":true,\"total_entries\":9,\"type\":\"starting\"}\n"
    );
}

#[tokio::test]
async fn limits_metrics_and_the_document_are_open() {
    let bench = Bench::new();
    assert_eq!(
        bench.ask("GET /v1/limits", NOBODY).await,
        ok("{\"body_bytes_max\":8388608,\"deadline_ms\":10000,\"items_max\":1000,\
            \"key_bytes_max\":4096,\"name_bytes_max\":64,\"page_bytes_max\":4194304,\
            \"page_rows_default\":100,\"page_rows_max\":1000,\"statement_bytes_max\":65536,\
            \"term_bytes_max\":1024,\"uri_bytes_max\":49152,\"value_bytes_max\":1048576}")
    );
    assert_eq!(
        bench.ask("GET /metrics", NOBODY).await,
        "200\ncontent-type: text/plain; version=0.0.4\nstemedb-served-by: n1\n\nup 1\\n\n"
    );
    let document = bench.ask("GET /openapi.json", NOBODY).await;
    assert!(document.starts_with("200\ncontent-type: application/json\n"), "{document}");
}
