//! Requests that are turned away: each with its status and slug, and nothing reaches the front.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::StreamBody;
use hyper::body::Frame;
use stemedb::Door;
use tower::ServiceExt;

use crate::support::{Bench, Seen, request};

const ROOT: (&str, &str) = ("x-api-key", "root");
/// A request, its headers, and the `status slug` it gets.
type Line<'l> = (&'l str, &'l [(&'l str, &'l str)], &'l str);

const IN_PROJECT: (&str, &str) = ("stemedb-project", "p");

/// Sends and gives back `status slug`.
async fn verdict(bench: &Bench, line: &str, headers: &[(&str, &str)], body: &[u8]) -> String {
    let seen = bench.call(line, headers, Bytes::copy_from_slice(body)).await;
    let status = seen.lines().next().unwrap_or_default().to_owned();
    let body = seen.split_once("\n\n").map(|(_, body)| body).unwrap_or_default();
    let problem: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    format!("{status} {}", problem["type"].as_str().unwrap_or_default())
}

#[tokio::test]
async fn bad_requests_on_keys_never_reach_the_front() {
    let bench = Bench::new();
    let key_too_long = format!("GET /v1/kv/b/{}", "k".repeat(4097));
    let uri_too_long = format!("GET /v1/kv/b?prefix={}", "k".repeat(48 * 1024));
    let prefix_too_long = format!("GET /v1/kv/b?prefix={}", "k".repeat(4097));
    let claim_cursor = "GET /v1/kv/b?cursor=AQIJAXMBcQ";
    let table: &[Line<'_>] = &[
        ("GET /v1/kv/B/k", &[], "400 malformed"),
        ("GET /v1/kv/b%2Fk", &[], "400 malformed"),
        ("GET /v1/kv//k", &[], "400 malformed"),
        ("GET /v1/kv/../k", &[], "400 malformed"),
        ("GET /v1/kv/", &[], "400 malformed"),
        ("PUT /v1/kv/b/", &[], "400 malformed"),
        ("GET /v1/kv/b/%", &[], "400 malformed"),
        ("GET /v1/kv/b/a%2", &[], "400 malformed"),
        ("GET /v1/kv/b/%zz", &[], "400 malformed"),
        (&key_too_long, &[], "414 too-large"),
        (&uri_too_long, &[], "414 too-large"),
        ("GET /v1/kv/b/k?as_of=x", &[], "400 malformed"),
        ("GET /v1/kv/b/k?as_of=-1", &[], "400 malformed"),
        ("GET /v1/kv/b/k?consistency=strong", &[], "400 malformed"),
        ("GET /v1/kv/b/k?consistency=", &[], "400 malformed"),
        ("GET /v1/kv/b/k?consistency=stale&consistency=stale", &[], "400 malformed"),
        ("GET /v1/kv/b/k?consistency=session", &[("stemedb-revision", "x")], "400 malformed"),
        ("GET /v1/kv/b?consistency=session", &[("stemedb-revision", "-1")], "400 malformed"),
        ("GET /v1/kv/b?consistency=STALE", &[], "400 malformed"),
        ("PUT /v1/kv/b/k?consistency=linearizable", &[], "400 malformed"),
        ("DELETE /v1/kv/b/k?consistency=stale", &[], "400 malformed"),
        ("GET /v1/kv/b/k?prefix=a", &[], "400 malformed"),
        ("PUT /v1/kv/b/k?ttl=60s", &[], "400 malformed"),
        ("DELETE /v1/kv/b/k?x", &[], "400 malformed"),
        ("PUT /v1/kv/b/k", &[("if-match", "7")], "400 malformed"),
        ("PUT /v1/kv/b/k", &[("if-match", "*"), ("if-none-match", "*")], "400 malformed"),
        ("DELETE /v1/kv/b/k", &[("if-match", "\"7")], "400 malformed"),
        ("GET /v1/kv/b/k", &[("if-none-match", "7")], "400 malformed"),
        ("PUT /v1/kv/b/k", &[("idempotency-key", "a b")], "400 malformed"),
        ("DELETE /v1/kv/b/k", &[("idempotency-key", &"x".repeat(65))], "400 malformed"),
        ("GET /v1/kv/b?limit=0", &[], "400 malformed"),
        ("GET /v1/kv/b?limit=1001", &[], "400 malformed"),
        ("GET /v1/kv/b?prefx=a", &[], "400 malformed"),
        ("GET /v1/kv/b?reverse=yes", &[], "400 malformed"),
        ("GET /v1/kv/b?prefix=%f", &[], "400 malformed"),
        (&prefix_too_long, &[], "400 malformed"),
        ("GET /v1/kv/b?cursor=x", &[], "400 malformed"),
        ("GET /v1/kv/b?cursor=", &[], "400 malformed"),
        ("GET /v1/kv/b?cursor=AQEJAmFiAA", &[], "400 malformed"),
        ("GET /v1/kv/b?cursor=AQEJAmFi&prefix=z", &[], "400 malformed"),
        ("GET /v1/kv/b?cursor=AQEJAmFi&as_of=8", &[], "400 malformed"),
        (claim_cursor, &[], "400 malformed"),
        ("GET /v1/kv/b/k", &[ROOT], "400 malformed"),
        ("GET /v1/kv/b/k", &[ROOT, ("stemedb-project", "P")], "400 malformed"),
        ("GET /v1/kv/b/k", &[("x-api-key", "")], "401 unauthenticated"),
        ("GET /v1/kv/b/k", &[("x-api-key", "unknown")], "401 unauthenticated"),
        (
            "GET /v1/kv/B/k?x",
            &[("x-api-key", "unknown"), ("stemedb-project", "P")],
            "401 unauthenticated",
        ),
        ("PUT /v1/kv/b/k", &[("x-api-key", "reader")], "403 forbidden"),
        ("GET /v2/kv/b/k", &[], "404 not-found"),
        ("GET /v1/kv", &[], "404 not-found"),
        ("GET /", &[("x-api-key", "")], "404 not-found"),
        ("POST /v1/kv/b/k", &[("x-api-key", "")], "405 method-not-allowed"),
        ("PATCH /v1/kv/b/k", &[], "405 method-not-allowed"),
        ("DELETE /v1/kv/b?prefix=a", &[], "405 method-not-allowed"),
    ];
    for (line, headers, expected) in table {
        assert_eq!(verdict(&bench, line, headers, b"v").await, *expected, "{line} {headers:?}");
    }
    assert_eq!(bench.reached(), 0);
}

#[tokio::test]
async fn bad_requests_on_assertions_never_reach_the_front() {
    let bench = Bench::new();
    let many = format!("{{\"items\":[{}]}}", vec!["1"; 1001].join(","));
    let twice = br#"{"subject":"s","subject":"t","predicate":"p","object":1}"#;
    let long_number = br#"{"subject":"s","predicate":"p","object":9007199254740993}"#;
    let bodies: &[(&[u8], &str)] = &[
        (b"", "400 malformed"),
        (b"{", "400 malformed"),
        (b"[]", "400 malformed"),
        (b"\"\xff\"", "400 malformed"),
        (b"{\"items\":[]}", "400 malformed"),
        (b"{\"items\":{}}", "400 malformed"),
        (b"{\"items\":[],\"bucket\":\"b\"}", "400 malformed"),
        (many.as_bytes(), "413 too-large"),
        (b"{}", "422 invalid-statement"),
        (twice, "422 invalid-statement"),
        (long_number, "422 invalid-statement"),
        (b"{\"payload\":\"\",\"signatures\":[]}", "422 unknown-agent"),
    ];
    for (body, expected) in bodies {
        let seen = verdict(&bench, "POST /v1/assert", &[], body).await;
        assert_eq!(seen, *expected, "{}", body.escape_ascii());
    }
    let text = [("content-type", "text/plain")];
    let one = br#"{"subject":"s","predicate":"p","object":1}"#;
    let seen = verdict(&bench, "POST /v1/assert", &text, one).await;
    assert_eq!(seen, "415 unsupported-media-type");
    let lines = [
        ("POST /v1/assert?bucket=B", "400 malformed"),
        ("POST /v1/assert?bucket=b&bucket=b", "400 malformed"),
        ("GET /v1/assert", "405 method-not-allowed"),
        ("POST /v1/query", "405 method-not-allowed"),
        ("GET /v1/query?sujbect=s", "400 malformed"),
        ("GET /v1/query?subject=", "400 malformed"),
        ("GET /v1/query?subject=%ff", "400 malformed"),
        ("GET /v1/query?subject=a&subject_prefix=a", "400 malformed"),
        ("GET /v1/query?agent=me", "400 malformed"),
        ("GET /v1/query?lens=newest", "400 malformed"),
        ("GET /v1/query?lens=consensus", "400 malformed"),
        ("GET /v1/query?explain=1", "400 malformed"),
        ("GET /v1/query?valid_at=now", "400 malformed"),
        ("GET /v1/query?cursor=AQEJAmFi", "400 malformed"),
        ("GET /v1/query?bucket=", "400 malformed"),
        ("GET /v1/query?consistency=weak", "400 malformed"),
        ("POST /v1/assert?consistency=session", "400 malformed"),
        ("GET /v1/assertions/sha256:00?consistency=weak", "400 malformed"),
        ("GET /v1/assertions/sha256:00", "400 malformed"),
        ("GET /v1/assertions/%ff", "400 malformed"),
        ("GET /v1/assertions/a/b", "404 not-found"),
        ("GET /v1/assertions/", "404 not-found"),
    ];
    for (line, expected) in lines {
        assert_eq!(verdict(&bench, line, &[], one).await, expected, "{line}");
    }
    let long = format!("GET /v1/query?subject={}", "s".repeat(1025));
    assert_eq!(verdict(&bench, &long, &[], b"").await, "400 malformed");
    assert_eq!(bench.reached(), 0);
}

#[tokio::test]
async fn bad_requests_on_api_keys_never_reach_the_front() {
    let bench = Bench::new();
    let create = "POST /v1/admin/api-keys";
    let upper = format!(r#"{{"label":"a","role":"admin","key":"steme_live_{}"}}"#, "A".repeat(48));
    let test = format!(r#"{{"label":"a","role":"admin","key":"steme_test_{}"}}"#, "a".repeat(48));
    let long = format!(r#"{{"label":"{}","role":"admin"}}"#, "a".repeat(129));
    let bodies = [
        "",
        "[]",
        r#"{"label":"project-p"}"#,
        r#"{"label":"project-p","role":"king"}"#,
        r#"{"label":"project-p","role":"write_agent","extra":1}"#,
        r#"{"label":"","role":"admin"}"#,
        r#"{"label":"a\u0007","role":"admin"}"#,
        r#"{"label":"ci","role":"write_agent"}"#,
        r#"{"label":"project-","role":"write_agent"}"#,
        r#"{"label":"project-P","role":"read_agent"}"#,
        r#"{"label":"ci","role":"read_agent","project":"P"}"#,
        r#"{"label":"ci","role":"admin","project":"p"}"#,
        r#"{"label":"project-p","role":"write_agent","if_exists":"rotate"}"#,
        r#"{"label":"ci","role":"admin","key":"secret"}"#,
        &upper,
        &test,
        &long,
    ];
    for body in bodies {
        let seen = bench.call(create, &[ROOT], body.to_owned()).await;
        assert!(seen.starts_with("400\n") && seen.contains("\"malformed\""), "{body}: {seen}");
        assert!(!seen.contains("secret"), "{seen}");
    }
    let good = br#"{"label":"project-p","role":"write_agent","if_exists":"return"}"#;
    let lines: [Line<'_>; 11] = [
        ("POST /v1/admin/api-keys?if_exists=rotate", &[ROOT], "400 malformed"),
        ("POST /v1/admin/api-keys?if_exists=x", &[ROOT], "400 malformed"),
        ("POST /v1/admin/api-keys?label=x", &[ROOT], "400 malformed"),
        (create, &[ROOT, ("content-type", "text/plain")], "415 unsupported-media-type"),
        (create, &[("x-api-key", "")], "401 unauthenticated"),
        (create, &[], "403 forbidden"),
        ("GET /v1/admin/api-keys", &[], "403 forbidden"),
        ("GET /v1/admin/api-keys?cursor=AA", &[ROOT], "400 malformed"),
        ("DELETE /v1/admin/api-keys/xyz", &[ROOT], "400 malformed"),
        ("PUT /v1/admin/api-keys", &[ROOT], "405 method-not-allowed"),
        ("POST /v1/admin/api-keys/x/rotate", &[ROOT], "404 not-found"),
    ];
    for (line, headers, expected) in lines {
        assert_eq!(verdict(&bench, line, headers, good).await, expected, "{line} {headers:?}");
    }
    assert_eq!(bench.reached(), 0);
}

#[tokio::test]
async fn a_405_lists_what_the_route_takes() {
    let bench = Bench::new();
    assert_eq!(
        bench.ask("PATCH /v1/kv/b/k", &[]).await,
        "405\nallow: GET, HEAD, PUT, DELETE\nstemedb-served-by: n1\n\n\
         {\"detail\":\"/v1/kv/{bucket}/{key} takes GET, HEAD, PUT, DELETE\",\
         \"retryable\":false,\"type\":\"method-not-allowed\"}\n"
    );
    for (line, allow) in [
        ("OPTIONS /v1/assert", "POST"),
        ("POST /metrics", "GET, HEAD"),
        ("PUT /v1/admin/api-keys", "POST, GET, HEAD"),
        ("HEAD /v1/assert", "POST"),
    ] {
        let seen = bench.ask(line, &[]).await;
        assert!(seen.starts_with("405\nallow: ") && seen.contains(&format!("{allow}\n")), "{seen}");
    }
}

#[tokio::test]
async fn bodies_are_taken_up_to_their_limit_and_not_a_byte_more() {
    let bench = Bench::new();
    let largest = vec![0; 1024 * 1024];
    let seen = bench.call("PUT /v1/kv/b/k", &[], largest).await;
    assert!(seen.starts_with("201\n"), "{seen}");
    assert_eq!(
        bench.call("PUT /v1/kv/b/k", &[], vec![0; 1024 * 1024 + 1]).await,
        "413\nstemedb-served-by: n1\n\n\
         {\"detail\":\"the value is longer than 1048576 bytes\",\"limit_bytes\":1048576,\
         \"retryable\":false,\"type\":\"too-large\"}\n"
    );
    let json = vec![b' '; 8 * 1024 * 1024 + 1];
    for (line, headers) in
        [("POST /v1/assert", [].as_slice()), ("POST /v1/admin/api-keys", &[ROOT])]
    {
        assert_eq!(verdict(&bench, line, headers, &json).await, "413 too-large", "{line}");
    }
    assert_eq!(bench.reached(), 1);
}

/// The body never comes: whoever waited for it would never answer.
#[tokio::test]
async fn without_a_good_key_no_body_is_waited_for() {
    let bench = Bench::new();
    for (line, key, status) in [
        ("PUT /v1/kv/b/k", "", 401),
        ("POST /v1/assert", "unknown", 401),
        ("PUT /v1/kv/b/k", "reader", 403),
        ("POST /v1/admin/api-keys", "", 401),
    ] {
        let never = StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>());
        let request = request(line, &[("x-api-key", key)], never);
        let response = bench.gateway.handle(Door::Own, request).await;
        assert_eq!(response.status(), status, "{line} {key}");
    }
    assert_eq!(bench.reached(), 0);
}

#[tokio::test]
async fn a_request_id_that_is_not_sane_is_replaced() {
    let bench = Bench::new();
    let seen = bench.ask("GET /livez", &[("x-request-id", "a b")]).await;
    assert!(seen.contains("\nx-request-id: req_"), "{seen}");
}

#[tokio::test]
async fn the_router_is_the_same_gateway() {
    let bench = Bench::new();
    let sent = request("PUT /v1/kv/b/a%2Fb", &[IN_PROJECT], axum::body::Body::from("v"));
    let response = bench.gateway.router(Door::Own).oneshot(sent).await.unwrap();
    let seen = Seen::of(response).await.transcript();
    assert_eq!(
        seen,
        "201\ncontent-length: 0\netag: \"7\"\nstemedb-revision: 7\nstemedb-served-by: n2\n"
    );
    assert_eq!(bench.script.calls.lock().unwrap()[0].door, Door::Own);
}
