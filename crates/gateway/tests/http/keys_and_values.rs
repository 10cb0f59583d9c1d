//! Put, get and delete of one key.

use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use stemedb::shard::{Answer, Condition, Read, ReadAnswer, Write};
use stemedb::{Door, Error, Op, OpAnswer, Unavailable};
use stemedb_types::{Key, Revision};

use crate::support::{Bench, version};

fn key(bytes: &[u8]) -> Key {
    Key::new(Bytes::copy_from_slice(bytes)).unwrap()
}

fn value(revision: u64, bytes: &'static [u8]) -> OpAnswer {
    let version = Some(version(revision, bytes));
    OpAnswer::Read(ReadAnswer::Value { revision: Revision(9), version })
}

#[tokio::test]
async fn a_put_gives_the_raw_body_to_the_key_and_its_revision_back() {
    let bench = Bench::new();
    let made = bench.call("PUT /v1/kv/b/a/%2Fb%00", &[], "v\x01").await;
    assert_eq!(made, "201\netag: \"7\"\nstemedb-revision: 7\nstemedb-served-by: n2\n");
    let write = Write::Put {
        key: key(b"a//b\0"),
        value: "v\x01".into(),
        condition: Condition::Always,
        expires_at_ms: None,
    };
    assert_eq!(bench.asked(), ("b".into(), Op::Write(write)));
    let call = bench.script.calls.lock().unwrap().pop().unwrap();
    assert_eq!(call.door, Door::Gateway);
    assert_eq!(call.deadline, Duration::from_secs(10));

    let again = OpAnswer::Write(Answer::Put { revision: Revision(8), created: false });
    let kept = bench.answer(again).call("PUT /v1/kv/b/k", &[], "").await;
    assert_eq!(kept, "200\netag: \"8\"\nstemedb-revision: 8\nstemedb-served-by: n2\n");
}

#[tokio::test]
async fn conditions_go_to_the_machine_and_a_412_tells_the_etag_now() {
    let bench = Bench::new();
    let failed = |current| {
        let revision = Revision(9);
        OpAnswer::Write(Answer::PreconditionFailed { revision, current })
    };
    bench.answer(failed(Some(Revision(5))));
    assert_eq!(
        bench.call("PUT /v1/kv/b/k", &[("if-match", "\"3\", \"4\"")], "v").await,
        "412\netag: \"5\"\nstemedb-revision: 9\nstemedb-served-by: n2\n\n\
         {\"detail\":\"the key is at 5\",\"etag\":\"\\\"5\\\"\",\"retryable\":false,\
         \"type\":\"precondition-failed\"}\n"
    );
    let condition = Condition::RevisionIn(vec![Revision(3), Revision(4)]);
    let write = Write::Put { key: key(b"k"), value: "v".into(), condition, expires_at_ms: None };
    assert_eq!(bench.asked().1, Op::Write(write));

    bench.answer(failed(None));
    assert_eq!(
        bench.ask("DELETE /v1/kv/b/k", &[("if-match", "*")]).await,
        "412\nstemedb-revision: 9\nstemedb-served-by: n2\n\n\
         {\"detail\":\"the key is not there\",\"retryable\":false,\"type\":\"precondition-failed\"}\n"
    );
    let write = Write::Delete { key: key(b"k"), condition: Condition::Exists };
    assert_eq!(bench.asked().1, Op::Write(write));
}

#[tokio::test]
async fn a_delete_is_204_and_of_nothing_404() {
    let bench = Bench::new();
    let gone = bench.ask("DELETE /v1/kv/b/k", &[]).await;
    assert_eq!(gone, "204\nstemedb-revision: 7\nstemedb-served-by: n2\n");
    bench.answer(OpAnswer::Write(Answer::NotFound { revision: Revision(7) }));
    assert_eq!(
        bench.ask("DELETE /v1/kv/b/k", &[]).await,
        "404\nstemedb-revision: 7\nstemedb-served-by: n2\n\n\
         {\"detail\":\"there is no such key in this bucket\",\"retryable\":false,\
         \"type\":\"not-found\"}\n"
    );
}

const FOUND: &str = "cache-control: private, no-cache\netag: \"5\"\nstemedb-create-revision: 2\n\
    stemedb-revision: 9\nstemedb-served-by: n2\nstemedb-version: 4\nvary: accept\n";

/// `FOUND` with further header lines among its own.
fn found(status: u16, further: &[&str], body: &str) -> String {
    let mut lines: Vec<&str> = FOUND.lines().chain(further.iter().copied()).collect();
    lines.sort_unstable();
    format!("{status}\n{}\n{body}", lines.join("\n"))
}

#[tokio::test]
async fn a_get_is_the_raw_value_with_its_numbers_and_a_head_the_same_without_it() {
    let bench = Bench::new();
    let raw = ["content-type: application/octet-stream", "x-content-type-options: nosniff"];
    bench.answer(value(5, b"v\xff"));
    assert_eq!(bench.ask("GET /v1/kv/b/k", &[]).await, found(200, &raw, "\nv\\xff\n"));
    assert_eq!(bench.asked().1, Op::Read(Read::Get { key: key(b"k"), as_of: None }));

    bench.answer(value(5, b"v\xff"));
    let head = bench.ask("HEAD /v1/kv/b/k", &[]).await;
    assert_eq!(head, found(200, &[raw[0], raw[1], "content-length: 2"], ""));

    let past = bench.ask("GET /v1/kv/b/k?as_of=3&consistency=linearizable", &[]).await;
    assert!(past.starts_with("404\n"), "{past}");
    let read = Read::Get { key: key(b"k"), as_of: Some(Revision(3)) };
    assert_eq!(bench.asked().1, Op::Read(read));
}

#[tokio::test]
async fn json_is_given_to_those_who_ask_for_it() {
    let bench = Bench::new();
    bench.answer(value(5, b"v"));
    let json = [("accept", "application/json")];
    assert_eq!(
        bench.ask("GET /v1/kv/b/k%C3%BC", &json).await,
        found(
            200,
            &["content-type: application/json"],
            "\n{\"create_revision\":2,\"key\":\"a8O8\",\"key_text\":\"kü\",\"mod_revision\":5,\
             \"value\":\"dg==\",\"version\":4}\n"
        )
    );
    bench.answer(value(5, b""));
    let bytes = bench.ask("GET /v1/kv/b/%FF", &json).await;
    assert!(bytes.contains("\"key\":\"/w==\"") && !bytes.contains("key_text"), "{bytes}");
}

#[tokio::test]
async fn a_reader_who_has_the_value_gets_304_and_one_who_wants_another_412() {
    let bench = Bench::new();
    for same in ["\"5\"", "*", "W/\"5\", \"1\""] {
        bench.answer(value(5, b"v"));
        let seen = bench.ask("GET /v1/kv/b/k", &[("if-none-match", same)]).await;
        assert_eq!(seen, found(304, &[], ""), "{same}");
    }
    bench.answer(value(5, b"v"));
    let newer = bench.ask("GET /v1/kv/b/k", &[("if-none-match", "\"4\"")]).await;
    assert!(newer.starts_with("200\n"), "{newer}");
    bench.answer(value(5, b"v"));
    let other = bench.ask("GET /v1/kv/b/k", &[("if-match", "\"4\"")]).await;
    assert!(other.starts_with("412\netag: \"5\"\n"), "{other}");
    let absent = bench.ask("GET /v1/kv/b/k", &[("if-match", "*")]).await;
    assert!(absent.starts_with("404\n"), "{absent}");
}

#[tokio::test]
async fn a_revision_that_is_gone_is_410_with_the_newest() {
    let bench = Bench::new();
    bench.answer(OpAnswer::Read(ReadAnswer::Compacted { revision: Revision(9) }));
    assert_eq!(
        bench.ask("GET /v1/kv/b/k?as_of=1", &[]).await,
        "410\nstemedb-revision: 9\nstemedb-served-by: n2\n\n\
         {\"detail\":\"that revision is gone or not there yet; the newest is 9\",\
         \"retryable\":false,\"type\":\"compacted\"}\n"
    );
}

/// The one table from the façade's errors to problems, line by line.
#[tokio::test]
async fn every_error_of_the_facade_has_its_status_slug_and_headers() {
    let unavailable =
        |reason| Error::Unavailable { reason, retry_after: Duration::from_millis(1500) };
    let table = [
        (Error::Unauthenticated, "401 unauthenticated false", "www-authenticate: Bearer"),
        (Error::Forbidden("no".into()), "403 forbidden false", ""),
        (Error::Malformed("bad".into()), "400 malformed false", ""),
        (
            Error::NotOwner { owner: Some("n3:18180".into()) },
            "421 not-owner true",
            "stemedb-owner: n3:18180",
        ),
        (Error::NotOwner { owner: None }, "421 not-owner true", ""),
        (Error::NotFound("none".into()), "404 not-found false", ""),
        (unavailable(Unavailable::Starting), "503 starting true", "retry-after: 2"),
        (unavailable(Unavailable::NoQuorum), "503 no-quorum true", "retry-after: 2"),
        (unavailable(Unavailable::Overloaded), "503 overloaded true", "retry-after: 2"),
        (unavailable(Unavailable::Moving), "503 moving true", "retry-after: 2"),
        (unavailable(Unavailable::Draining), "503 draining true", "retry-after: 2"),
        (Error::OutcomeUnknown, "504 outcome-unknown false", ""),
        (Error::DiskFull, "507 disk-full false", ""),
        (Error::Internal("secret /path".into()), "500 internal false", ""),
    ];
    for (error, expected, header) in table {
        let bench = Bench::new();
        let seen = bench.fail(error).call("PUT /v1/kv/b/k", &[], "v").await;
        let (status, rest) = seen.split_once('\n').unwrap();
        let (headers, body) = rest.split_once("\n\n").unwrap();
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        let shown = format!("{status} {} {}", body["type"].as_str().unwrap(), body["retryable"]);
        assert_eq!(shown, expected);
        let further: Vec<&str> =
            headers.lines().filter(|l| *l != "stemedb-served-by: n1").collect();
        assert_eq!(further.join("\n"), header, "{expected}");
        assert!(!seen.contains("secret"), "{seen}");
    }
}

#[tokio::test]
async fn a_doubtful_read_may_be_repeated_and_a_doubtful_put_not() {
    let bench = Bench::new();
    let read = bench.fail(Error::OutcomeUnknown).ask("GET /v1/kv/b/k", &[]).await;
    assert!(read.contains("\"retryable\":true"), "{read}");
    let put = bench.fail(Error::OutcomeUnknown).call("PUT /v1/kv/b/k", &[], "v").await;
    assert!(put.contains("\"retryable\":false") && !put.contains("safe_by"), "{put}");
}

#[tokio::test]
async fn a_key_of_the_cluster_names_its_project() {
    let bench = Bench::new();
    let root = [("x-api-key", ""), ("authorization", "Bearer root"), ("stemedb-project", "q")];
    let made = bench.call("PUT /v1/kv/b/k", &root, "v").await;
    assert!(made.starts_with("201\n"), "{made}");
    let call = bench.script.calls.lock().unwrap().pop().unwrap();
    assert_eq!(call.admission.caller.project.unwrap().1.as_str(), "q");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever the path and query: a problem or an answer, never a fault.
    #[test]
    fn no_raw_path_is_a_fault_of_ours(
        root in prop_oneof![
            Just("/v1/kv/"), Just("/v1/kv/b/"), Just("/v1/assertions/"), Just("/v1/query?"),
            Just("/v1/admin/api-keys/"), Just("/v1/kv/b?"), Just("/"),
        ],
        rest in "[a-z0-9/.%~&=?+;:@_-]{0,40}",
        method in prop_oneof![
            Just("GET"), Just("HEAD"), Just("PUT"), Just("DELETE"), Just("POST"), Just("PATCH"),
        ],
    ) {
        let line = format!("{method} {root}{rest}");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let seen = runtime.block_on(Bench::new().ask(&line, &[]));
        prop_assert!(!seen.starts_with('5'), "{line} gave {seen}");
    }

    /// Every key of bytes reaches the front as it was meant.
    #[test]
    fn every_key_arrives_byte_for_byte(bytes in proptest::collection::vec(any::<u8>(), 1..64)) {
        let bench = Bench::new();
        let line = format!("GET {}", stemedb_api::path::kv("b", &bytes));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(bench.ask(&line, &[]));
        prop_assert_eq!(bench.asked().1, Op::Read(Read::Get { key: key(&bytes), as_of: None }));
    }
}
