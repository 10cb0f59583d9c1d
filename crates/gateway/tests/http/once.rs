//! Writes with an `Idempotency-Key`: done once, and told so.

use http::HeaderValue;
use http_body_util::Full;
use stemedb::shard::{Answer, AssertStatus, IdempotencyKey, Once, ReadAnswer, Write};
use stemedb::{Door, Error, Op, OpAnswer, fingerprint};
use stemedb_types::Revision;

use crate::support::{Bench, Seen, request};

const NAMED: [(&str, &str); 1] = [("idempotency-key", "a-1~{}")];
const ONE: &str = r#"{"object":1,"predicate":"p","subject":"s"}"#;

fn replayed(answer: Answer) -> OpAnswer {
    OpAnswer::Write(Answer::Replayed(Box::new(answer)))
}

/// The name that the last call gave its write, and what the write was.
fn asked_once(bench: &Bench) -> (Option<Once>, Write) {
    let call = bench.script.calls.lock().unwrap().last().cloned().unwrap();
    let Op::Write(write) = call.op else { panic!("a read") };
    (call.once, write)
}

#[tokio::test]
async fn every_write_goes_to_the_node_with_its_name_and_what_the_name_stands_for() {
    for (line, body, query) in [
        ("PUT /v1/kv/b/k", "v", ""),
        ("DELETE /v1/kv/b/k", "", ""),
        ("POST /v1/assert?bucket=x", ONE, "bucket=x"),
    ] {
        let bench = Bench::new();
        let named = bench.call(line, &NAMED, body).await;
        assert!(named.starts_with('2') && !named.contains("stemedb-replayed"), "{named}");
        let (once, write) = asked_once(&bench);
        let key = IdempotencyKey::new("a-1~{}").unwrap();
        assert_eq!(once, Some(Once { key, fingerprint: fingerprint(&write, query) }), "{line}");
        // Without the header it has no name, and a read never has one.
        bench.call(line, &[], body).await;
        assert_eq!(asked_once(&bench).0, None, "{line}");
    }
    let bench = Bench::new();
    bench.ask("GET /v1/kv/b/k", &NAMED).await;
    let call = bench.script.calls.lock().unwrap().pop().unwrap();
    assert_eq!(call.once, None);
}

#[tokio::test]
async fn the_same_again_has_the_same_answer_and_a_header_that_says_so() {
    let bench = Bench::new();
    let revision = Revision(7);
    bench.answer(replayed(Answer::Put { revision, created: true }));
    assert_eq!(
        bench.call("PUT /v1/kv/b/k", &NAMED, "v").await,
        "201\netag: \"7\"\nstemedb-replayed: 1\nstemedb-revision: 7\nstemedb-served-by: n2\n"
    );
    bench.answer(replayed(Answer::Put { revision, created: false }));
    assert_eq!(
        bench.call("PUT /v1/kv/b/k", &NAMED, "v").await,
        "200\netag: \"7\"\nstemedb-replayed: 1\nstemedb-revision: 7\nstemedb-served-by: n2\n"
    );
    bench.answer(replayed(Answer::Deleted { revision }));
    assert_eq!(
        bench.ask("DELETE /v1/kv/b/k", &NAMED).await,
        "204\nstemedb-replayed: 1\nstemedb-revision: 7\nstemedb-served-by: n2\n"
    );
    let items = vec![AssertStatus::Created];
    bench.answer(replayed(Answer::Asserted { revision, items }));
    let asserted = bench.call("POST /v1/assert", &NAMED, ONE).await;
    assert!(asserted.starts_with("201\n"), "{asserted}");
    assert!(asserted.contains("stemedb-replayed: 1\n"), "{asserted}");
    assert!(asserted.contains(r#""status":"created""#), "{asserted}");
}

#[tokio::test]
async fn a_refusal_out_of_the_state_is_given_again_too() {
    let bench = Bench::new();
    let (revision, current) = (Revision(7), Some(Revision(5)));
    bench.answer(replayed(Answer::PreconditionFailed { revision, current }));
    assert_eq!(
        bench.call("PUT /v1/kv/b/k", &NAMED, "v").await,
        "412\netag: \"5\"\nstemedb-replayed: 1\nstemedb-revision: 7\nstemedb-served-by: n2\n\n\
         {\"detail\":\"the key is at 5\",\"etag\":\"\\\"5\\\"\",\"retryable\":false,\
         \"type\":\"precondition-failed\"}\n"
    );
    bench.answer(replayed(Answer::NotFound { revision }));
    let gone = bench.ask("DELETE /v1/kv/b/k", &NAMED).await;
    assert!(gone.starts_with("404\nstemedb-replayed: 1\n"), "{gone}");
}

#[tokio::test]
async fn a_key_that_stood_for_something_else_is_422_and_nothing_was_done() {
    for (line, body) in
        [("PUT /v1/kv/b/k", "v"), ("DELETE /v1/kv/b/k", ""), ("POST /v1/assert", ONE)]
    {
        let bench = Bench::new();
        bench.answer(OpAnswer::Write(Answer::Mismatch { revision: Revision(7) }));
        assert_eq!(
            bench.call(line, &NAMED, body).await,
            "422\nstemedb-revision: 7\nstemedb-served-by: n2\n\n\
             {\"detail\":\"this Idempotency-Key came before, with another request; nothing was \
             done\",\"retryable\":false,\"type\":\"idempotency-mismatch\"}\n",
            "{line}"
        );
    }
}

#[tokio::test]
async fn a_key_that_is_none_is_400_before_the_body_is_read() {
    let long = "x".repeat(65);
    for bad in ["a b", "\u{e9}", long.as_str()] {
        for (line, body) in
            [("PUT /v1/kv/b/k", "v"), ("DELETE /v1/kv/b/k", ""), ("POST /v1/assert", "no JSON")]
        {
            let bench = Bench::new();
            let seen = bench.call(line, &[("idempotency-key", bad)], body).await;
            assert!(seen.starts_with("400\n") && seen.contains("Idempotency-Key"), "{seen}");
            assert_eq!(bench.reached(), 0);
        }
    }
    // Two of them are none, and so is an empty one.
    let bench = Bench::new();
    for values in [&["a", "b"][..], &["a", "a"], &[""]] {
        let mut two = request("PUT /v1/kv/b/k", &[], Full::from("v"));
        for value in values {
            two.headers_mut().append("idempotency-key", HeaderValue::from_static(value));
        }
        let seen = Seen::of(bench.gateway.handle(Door::Gateway, two).await).await;
        assert_eq!(seen.status, 400, "{values:?}");
    }
    assert_eq!(bench.reached(), 0);
}

/// Advice and reason of a problem.
async fn doubtful(line: &str, headers: &[(&str, &str)], body: &'static str) -> (bool, String) {
    let bench = Bench::new();
    let seen = bench.fail(Error::OutcomeUnknown).call(line, headers, body).await;
    assert!(seen.starts_with("504\n"), "{seen}");
    let (_, body) = seen.split_once("\n\n").unwrap();
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    let safe_by = body.get("safe_by").and_then(|safe| safe.as_str()).unwrap_or_default();
    (body["retryable"].as_bool().unwrap(), safe_by.to_owned())
}

#[tokio::test]
async fn a_doubtful_write_says_whether_it_may_be_sent_again_and_by_what() {
    let put = "PUT /v1/kv/b/k";
    let safe = |by: &str| (true, by.to_owned());
    let unsafe_ = (false, String::new());
    assert_eq!(doubtful(put, &[], "v").await, unsafe_);
    assert_eq!(doubtful(put, &NAMED, "v").await, safe("idempotency-key"));
    assert_eq!(doubtful("DELETE /v1/kv/b/k", &NAMED, "").await, safe("idempotency-key"));
    // At one revision it holds once, and never after; all other conditions may hold again.
    let at = [("if-match", "\"7\"")];
    assert_eq!(doubtful(put, &at, "v").await, safe("condition"));
    assert_eq!(doubtful("DELETE /v1/kv/b/k", &at, "").await, safe("condition"));
    for (name, value) in [
        ("if-match", "\"7\", \"8\""),
        ("if-match", "*"),
        ("if-none-match", "*"),
        ("if-none-match", "\"7\""),
    ] {
        assert_eq!(doubtful(put, &[(name, value)], "v").await, unsafe_, "{name}: {value}");
    }
    assert_eq!(doubtful("POST /v1/assert", &[], ONE).await, safe(""));
    assert_eq!(doubtful("POST /v1/assert", &NAMED, ONE).await, safe("idempotency-key"));
}

#[tokio::test]
async fn a_kept_answer_that_is_no_write_of_this_kind_is_a_fault_and_not_an_answer() {
    let bench = Bench::new();
    bench.answer(OpAnswer::Read(ReadAnswer::Value { revision: Revision(7), version: None }));
    let seen = bench.call("PUT /v1/kv/b/k", &NAMED, "v").await;
    assert!(seen.starts_with("500\n"), "{seen}");
    let other = replayed(Answer::Touched { revision: Revision(7), current: Revision(1) });
    let seen = bench.answer(other).call("PUT /v1/kv/b/k", &NAMED, "v").await;
    assert!(seen.starts_with("500\n"), "{seen}");
}
