//! The client against a small real HTTP server that answers from a script.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::TryStreamExt;
use serde_json::json;
use stemedb_api::Slug;
use stemedb_api::admin::{CreateKey, IfExists, Role};
use stemedb_api::claims::{AssertStatus, Statement};
use stemedb_types::{BucketName, Key};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::*;

/// A request as it arrived: its first line, its headers in lowercase, its body.
#[derive(Clone, Debug)]
struct Seen {
    line: String,
    headers: Vec<(String, String)>,
    body: String,
}

impl Seen {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// A server that gives one scripted answer to each request, in order.
struct Server {
    url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    async fn answering(script: Vec<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let log = Arc::clone(&seen);
        tokio::spawn(async move {
            for answer in script {
                let (mut stream, _) = listener.accept().await.unwrap();
                let request = read_request(&mut stream).await;
                log.lock().unwrap().push(request);
                stream.write_all(answer.as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
            }
        });
        Self { url, seen }
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    fn lines(&self) -> Vec<String> {
        self.seen().into_iter().map(|seen| seen.line).collect()
    }
}

async fn read_request(stream: &mut TcpStream) -> Seen {
    let mut bytes = Vec::new();
    let head_end = loop {
        let mut chunk = [0; 4096];
        let count = stream.read(&mut chunk).await.unwrap();
        assert!(count > 0, "the request ends in its head");
        bytes.extend_from_slice(&chunk[..count]);
        if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break at;
        }
    };
    let head = String::from_utf8(bytes[..head_end].to_vec()).unwrap();
    let mut lines = head.split("\r\n");
    let line = lines.next().unwrap().trim_end_matches(" HTTP/1.1").to_owned();
    let headers = lines.map(|l| l.split_once(": ").unwrap());
    let headers = headers.map(|(k, v)| (k.to_lowercase(), v.to_owned())).collect();
    let mut seen = Seen { line, headers, body: String::new() };
    let length: usize = seen.header("content-length").map_or(0, |text| text.parse().unwrap());
    let mut body = bytes.split_off(head_end + 4);
    let have = body.len();
    body.resize(length, 0);
    stream.read_exact(&mut body[have..]).await.unwrap();
    seen.body = String::from_utf8(body).unwrap();
    seen
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n{body}"
    )
}

fn problem(slug: Slug, detail: &str, headers: &str) -> String {
    let mut problem = stemedb_api::Problem::new(slug, detail);
    problem.instance = "req_1".into();
    let body = serde_json::to_string(&problem).unwrap();
    answer(&format!("{} X", slug.status()), headers, &body)
}

/// A client that notes its pauses instead of waiting.
fn client(url: &str) -> (Client, Arc<Mutex<Vec<Duration>>>) {
    let pauses: Arc<Mutex<Vec<Duration>>> = Arc::default();
    let log = Arc::clone(&pauses);
    let sleep: Sleep = Arc::new(move |wait| {
        log.lock().unwrap().push(wait);
        Box::pin(async {})
    });
    let client = Client::builder(url).key(ApiKey::new("steme_live_1")).sleep(sleep);
    (client.build().unwrap(), pauses)
}

fn bucket() -> BucketName {
    "b".parse().unwrap()
}

fn key(bytes: &[u8]) -> Key {
    Key::new(bytes.to_vec()).unwrap()
}

fn seconds(pauses: &Mutex<Vec<Duration>>) -> Vec<u64> {
    pauses.lock().unwrap().iter().map(Duration::as_secs).collect()
}

#[tokio::test]
async fn a_write_meets_503_twice_and_is_the_same_write_every_time() {
    let not_now = |headers| problem(Slug::NoQuorum, "no quorum", headers);
    let done = answer("201 Created", "etag: \"7\"\r\n", "");
    let server =
        Server::answering(vec![not_now("retry-after: 1\r\n"), not_now("retry-after: 9\r\n"), done]);
    let server = server.await;
    let (client, pauses) = client(&server.url);
    let written = client.put(&bucket(), &key(b"a/b c"), "v".into(), Condition::At(3)).await;
    assert_eq!(written, Ok(Written { revision: 7, created: true }));
    assert_eq!(seconds(&pauses), [2, 9]);
    let seen = server.seen();
    assert_eq!(seen.len(), 3);
    for request in &seen {
        assert_eq!(request.line, "PUT /v1/kv/b/a/b%20c");
        assert_eq!(request.header("x-api-key"), Some("steme_live_1"));
        assert_eq!(request.header("if-match"), Some("\"3\""));
        assert_eq!(request.header("idempotency-key"), seen[0].header("idempotency-key"));
        assert_eq!(request.body, "v");
    }
    assert_eq!(seen[0].header("idempotency-key").unwrap().len(), 26);
}

#[tokio::test]
async fn a_write_that_is_never_taken_was_not_applied() {
    let server = Server::answering(vec![problem(Slug::Starting, "not yet", ""); 4]).await;
    let (client, pauses) = client(&server.url);
    let error = client.put(&bucket(), &key(b"k"), "v".into(), Condition::Always).await.unwrap_err();
    let detail = "starting: not yet (req_1)".to_owned();
    assert_eq!(error, Error::Unavailable { detail, tries: 4 });
    assert_eq!(seconds(&pauses), [2, 4, 8]);
}

/// Answers that leave a write in doubt.
fn doubts() -> [String; 4] {
    [
        answer("502 Bad Gateway", "", "<html>"),
        problem(Slug::OutcomeUnknown, "who knows", ""),
        String::new(),
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\ncut".to_owned(),
    ]
}

#[tokio::test]
async fn a_write_in_doubt_is_the_same_write_again_and_its_answer_settles_it() {
    let gone = answer("204 No Content", "stemedb-revision: 7\r\n", "");
    for doubt in doubts() {
        let server = Server::answering(vec![doubt.clone(), doubt.clone(), gone.clone()]).await;
        let (client, pauses) = client(&server.url);
        let result = client.delete(&bucket(), &key(b"k"), Condition::Always).await;
        assert_eq!(result, Ok(Some(7)), "{doubt}");
        assert_eq!(seconds(&pauses), [2, 4], "{doubt}");
        let seen = server.seen();
        let names: Vec<_> = seen.iter().map(|seen| seen.header("idempotency-key")).collect();
        assert_eq!(names, [names[0]; 3]);
        assert!(names[0].is_some());
    }
    // A refusal out of the state settles it as well.
    let failed = problem(Slug::PreconditionFailed, "the key is at 9", "");
    let server = Server::answering(vec![String::new(), failed]).await;
    let (client, _) = client(&server.url);
    let put = client.put(&bucket(), &key(b"k"), "v".into(), Condition::Absent).await.unwrap_err();
    assert_eq!(put.slug(), Some(Slug::PreconditionFailed));
}

#[tokio::test]
async fn a_write_in_doubt_stays_so_whatever_a_later_try_says_of_itself() {
    let not_now = problem(Slug::NoQuorum, "no quorum", "");
    let lost = problem(Slug::OutcomeUnknown, "who knows", "");
    for (rest, detail) in [
        (vec![not_now; 3], "outcome-unknown: who knows (req_1)"),
        (vec![lost.clone(); 3], "outcome-unknown: who knows (req_1)"),
        (
            vec![problem(Slug::Unauthenticated, "who?", "")],
            "outcome-unknown: who knows (req_1); sent again: unauthenticated: who? (req_1)",
        ),
    ] {
        let server = Server::answering([vec![lost.clone()], rest].concat()).await;
        let (client, _) = client(&server.url);
        let result = client.delete(&bucket(), &key(b"k"), Condition::Always).await;
        assert_eq!(result, Err(Error::Unknown { detail: detail.to_owned() }));
    }
}

#[tokio::test]
async fn a_page_that_nobody_understands_leaves_a_write_in_doubt() {
    let server = Server::answering(vec![answer("500 Oops", "", "a proxy's page")]).await;
    let (client, pauses) = client(&server.url);
    let result = client.delete(&bucket(), &key(b"k"), Condition::Always).await;
    assert!(matches!(result, Err(Error::Unknown { .. })), "{result:?}");
    assert_eq!((server.seen().len(), seconds(&pauses).len()), (1, 0));
}

#[tokio::test]
async fn a_change_of_the_cluster_in_doubt_is_not_sent_again() {
    for doubt in doubts() {
        let server = Server::answering(vec![doubt.clone()]).await;
        let (client, pauses) = client(&server.url);
        let result = client.revoke_key(&"0".repeat(64)).await;
        assert!(matches!(result, Err(Error::Unknown { .. })), "{doubt}: {result:?}");
        let seen = server.seen();
        assert_eq!((seen.len(), seconds(&pauses).len()), (1, 0), "{doubt}");
        assert_eq!(seen[0].header("idempotency-key"), None);
    }
}

#[tokio::test]
async fn a_write_to_nobody_was_not_applied_and_a_read_goes_on_to_the_next_address() {
    // A port that was free a moment ago and that nobody listens on.
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let nobody = format!("http://{nobody}");
    let (alone, pauses) = client(&nobody);
    let error = alone.put(&bucket(), &key(b"k"), "v".into(), Condition::Always).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { tries: 4, .. }), "{error:?}");
    assert_eq!(seconds(&pauses), [2, 4, 8]);

    let found = "etag: \"5\"\r\nstemedb-create-revision: 4\r\nstemedb-version: 2\r\n";
    let server = Server::answering(vec![answer("200 OK", found, "v")]).await;
    let none: Sleep = Arc::new(|_| Box::pin(async {}));
    let both = Client::builder(nobody).also(&server.url).sleep(none).build().unwrap();
    let value = both.get(&bucket(), &key(b"k")).await.unwrap().unwrap();
    let (bytes, mod_revision, create_revision) = ("v".into(), 5, 4);
    let wanted = Value { bytes, mod_revision, create_revision, version: 2, stale_ms: None };
    assert_eq!(value, wanted);
    assert_eq!(server.seen()[0].header("x-api-key"), None);
}

#[tokio::test]
async fn a_read_outlives_a_proxy_that_finds_nobody() {
    let server = Server::answering(vec![
        answer("502 Bad Gateway", "", "<html>"),
        problem(Slug::OutcomeUnknown, "late", ""),
        String::new(),
        answer("404 Not Found", "", &problem_body(Slug::NotFound)),
    ]);
    let server = server.await;
    let (client, pauses) = client(&server.url);
    assert_eq!(client.get(&bucket(), &key(b"k")).await, Ok(None));
    assert_eq!(seconds(&pauses), [2, 4, 8]);
}

fn problem_body(slug: Slug) -> String {
    serde_json::to_string(&stemedb_api::Problem::new(slug, "")).unwrap()
}

#[tokio::test]
async fn a_refusal_says_which_and_is_not_tried_again() {
    let failed = problem(Slug::PreconditionFailed, "the key is at 9", "etag: \"9\"\r\n");
    let server = Server::answering(vec![failed, answer("404 Not Found", "", "<html>")]).await;
    let (client, _) = client(&server.url);
    let put = client.put(&bucket(), &key(b"k"), "v".into(), Condition::Absent).await.unwrap_err();
    assert_eq!(put.slug(), Some(Slug::PreconditionFailed));
    assert_eq!(put.to_string(), "precondition-failed: the key is at 9 (req_1)");
    // A page of another program is not taken for an absent key.
    let get = client.get(&bucket(), &key(b"k")).await;
    assert!(matches!(get, Err(Error::NotAnAnswer { .. })), "{get:?}");
    assert_eq!(server.seen()[0].header("if-none-match"), Some("*"));
}

#[tokio::test]
async fn a_scan_follows_its_cursor_to_the_end() {
    let row =
        |key: &str| json!({"key": key, "create_revision": 1, "mod_revision": 1, "version": 1});
    let page = |rows: &[&str], cursor: Option<&str>| {
        let kvs: Vec<_> = rows.iter().map(|key| row(key)).collect();
        answer("200 OK", "", &json!({"revision": 3, "kvs": kvs, "cursor": cursor}).to_string())
    };
    // A page in the middle may be empty.
    let script = vec![page(&["YQ=="], Some("c1")), page(&[], Some("c2")), page(&["Yg=="], None)];
    let server = Server::answering(script).await;
    let (client, _) = client(&server.url);
    let options = ScanOptions {
        prefix: Some(b"\xff&".to_vec()),
        page_rows: Some(1),
        keys_only: true,
        ..ScanOptions::default()
    };
    let rows: Vec<_> = client.scan(&bucket(), options).try_collect().await.unwrap();
    let keys: Vec<_> = rows.iter().map(|row| row.key.0.clone()).collect();
    assert_eq!(keys, ["a", "b"]);
    let path = "GET /v1/kv/b?prefix=%FF%26&limit=1&keys_only=true";
    assert_eq!(server.lines(), [path, &format!("{path}&cursor=c1"), &format!("{path}&cursor=c2")]);
}

#[tokio::test]
async fn statements_go_in_calls_of_at_most_a_thousand() {
    let known = |count: usize, revision: u64| {
        let item = |n: usize| json!({"id": n.to_string(), "status": "known"});
        let items: Vec<_> = (0..count).map(item).collect();
        let body = json!({"revision": revision, "items": items});
        answer("200 OK", "", &body.to_string())
    };
    let server = Server::answering(vec![known(1000, 4), known(1, 5)]).await;
    let (client, _) = client(&server.url);
    let statement = |n: u32| Statement {
        subject: format!("s{n}"),
        predicate: "p".into(),
        object: json!(n),
        ..Statement::default()
    };
    let statements: Vec<_> = (0..1001).map(statement).collect();
    let asserted = client.assert(&bucket(), &statements).await.unwrap();
    assert_eq!((asserted.revision, asserted.items.len()), (5, 1001));
    assert_eq!(asserted.items[0].status, AssertStatus::Known);
    assert_eq!(server.lines(), ["POST /v1/assert?bucket=b"; 2]);
    assert_eq!(
        server.seen()[1].body,
        r#"{"items":[{"subject":"s1000","predicate":"p","object":1000}]}"#
    );
}

#[test]
fn long_statements_go_in_calls_of_at_most_eight_mebibytes() {
    let long =
        |bytes: usize| Statement { object: json!("x".repeat(bytes)), ..Statement::default() };
    let statements: Vec<_> = (0..150).map(|_| long(60_000)).collect();
    let sizes: Vec<_> = batches(&statements).unwrap().iter().map(|b| b.len()).collect();
    assert_eq!(sizes, [139, 11]);
    assert!(batches(&[]).unwrap().is_empty());
}

#[tokio::test]
async fn a_key_is_made_listed_and_revoked() {
    let record = json!({
        "hash": "ab".repeat(32), "label": "project-p", "role": "write_agent", "project": "p",
        "created_at": "2026-01-01T00:00:00Z", "created_by": "root",
    });
    let mut created = record.clone();
    created["key"] = json!("steme_live_2");
    let server = Server::answering(vec![
        answer("201 Created", "", &created.to_string()),
        answer("200 OK", "", &json!({"items": [record], "cursor": "c"}).to_string()),
        answer("200 OK", "", &json!({"items": []}).to_string()),
        answer("204 No Content", "", ""),
    ]);
    let server = server.await;
    let (client, _) = client(&server.url);
    let request = CreateKey {
        label: "project-p".into(),
        role: Role::WriteAgent,
        project: None,
        key: None,
        if_exists: Some(IfExists::Return),
    };
    let made = client.create_key(&request).await.unwrap();
    assert_eq!(made.key.unwrap().0, "steme_live_2");
    assert_eq!(client.keys().await.unwrap(), std::slice::from_ref(&made.record));
    client.revoke_key(&made.record.hash).await.unwrap();
    assert!(matches!(client.revoke_key("../x").await, Err(Error::Invalid(_))));
    assert_eq!(
        server.lines(),
        [
            "POST /v1/admin/api-keys".to_owned(),
            "GET /v1/admin/api-keys".to_owned(),
            "GET /v1/admin/api-keys?cursor=c".to_owned(),
            format!("DELETE /v1/admin/api-keys/{}", "ab".repeat(32)),
        ]
    );
}

#[tokio::test]
async fn a_probe_is_asked_once_and_an_unready_node_says_why() {
    let mut body = stemedb_api::Problem::new(Slug::Starting, "replaying");
    body = body.with("ready", false).with("reasons", json!(["replaying the log"]));
    let body = serde_json::to_string(&body).unwrap();
    let server = Server::answering(vec![answer("503 X", "", &body)]).await;
    let (client, pauses) = client(&server.url);
    let readiness = client.readyz().await.unwrap();
    assert_eq!((readiness.ready, readiness.reasons), (false, vec!["replaying the log".to_owned()]));
    assert!(seconds(&pauses).is_empty());
}

#[test]
fn addresses_and_keys_that_cannot_be_are_refused_before_anything_is_sent() {
    for bad in ["", "host:18181", "ftp://host", "http://user:pw@host", "http://host/?a"] {
        let refused = Client::builder(bad).build();
        assert!(matches!(refused, Err(Error::Invalid(_))), "{bad}");
    }
    for bad in ["", "two words", "new\nline", "ü"] {
        let refused = Client::builder("http://h").key(ApiKey::new(bad)).build();
        assert!(matches!(refused, Err(Error::Invalid(_))), "{bad:?}");
    }
    assert!(!format!("{:?}", client("http://h").0).contains("steme_live"));
}

#[tokio::test]
async fn a_key_that_no_url_can_carry_is_refused_here() {
    let (client, _) = client("http://127.0.0.1:1");
    let refused = client.get(&bucket(), &key(b"..")).await;
    assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
}

#[tokio::test]
async fn a_session_sends_what_it_has_seen_and_a_stale_client_says_how_old_an_answer_is() {
    let value = |revision: u64, more: &str| {
        let headers = format!(
            "etag: \"{revision}\"\r\nstemedb-revision: {revision}\r\n\
             stemedb-create-revision: 1\r\nstemedb-version: 1\r\n{more}"
        );
        answer("200 OK", &headers, "v")
    };
    let gone = problem(Slug::NotFound, "no such key", "stemedb-revision: 12\r\n");
    let script = vec![
        value(7, ""),
        value(9, "stemedb-consistency: session\r\n"),
        gone,
        value(3, "stemedb-consistency: stale\r\nstemedb-stale-ms: 40\r\n"),
        value(13, ""),
        value(13, ""),
    ];
    let server = Server::answering(script).await;
    let (client, _) = client(&server.url);
    let (bucket, key) = (bucket(), key(b"k"));
    let session = client.session();
    assert_eq!(session.seen(&bucket), None);
    let value = session.get(&bucket, &key).await.unwrap().unwrap();
    assert_eq!(value.stale_ms, None);
    session.put(&bucket, &key, "w".into(), Condition::Always).await.unwrap();
    assert_eq!(session.get(&bucket, &key).await.unwrap(), None);
    assert_eq!(session.seen(&bucket), Some(12), "an absence was seen as well");
    let stale = client.stale().get(&bucket, &key).await.unwrap().unwrap();
    assert_eq!(stale.stale_ms, Some(40));
    client.session_from(&bucket, 13).get(&bucket, &key).await.unwrap();
    client.get(&bucket, &key).await.unwrap();

    let asked: Vec<_> = server
        .seen()
        .iter()
        .map(|seen| (seen.line.clone(), seen.header("stemedb-revision").map(str::to_owned)))
        .collect();
    let path = "/v1/kv/b/k";
    let line =
        |line: &str, seen: Option<&str>| (line.replace("PATH", path), seen.map(str::to_owned));
    assert_eq!(
        asked,
        [
            line("GET PATH?consistency=session", None),
            line("PUT PATH", None),
            line("GET PATH?consistency=session", Some("9")),
            line("GET PATH?consistency=stale", None),
            line("GET PATH?consistency=session", Some("13")),
            line("GET PATH", None),
        ]
    );
}
