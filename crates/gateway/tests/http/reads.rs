//! How new what is read must be: what is asked for, and what the answer says.

use stemedb::shard::ReadAnswer;
use stemedb::{Consistency, Error, OpAnswer, Served, Unavailable};
use stemedb_types::Revision;

use crate::support::{Bench, version};

const SEEN_7: &[(&str, &str)] = &[("stemedb-revision", "7")];
const READS: [&str; 5] = [
    "GET /v1/kv/b/k",
    "HEAD /v1/kv/b/k",
    "GET /v1/kv/b",
    "GET /v1/query",
    "GET /v1/assertions/sha256:0000000000000000000000000000000000000000000000000000000000000000",
];

fn value(served: Served) -> OpAnswer {
    let answer = ReadAnswer::Value { revision: Revision(9), version: Some(version(8, b"v")) };
    OpAnswer::Weaker(answer, served)
}

#[tokio::test]
async fn every_read_route_passes_on_what_is_asked_for() {
    let bench = Bench::new();
    for read in READS {
        let cases = [
            ("", Consistency::Linearizable),
            ("?consistency=linearizable", Consistency::Linearizable),
            ("?consistency=session", Consistency::Session { seen: Revision(7) }),
            ("?consistency=stale", Consistency::Stale),
        ];
        for (query, asked_for) in cases {
            bench.ask(&format!("{read}{query}"), SEEN_7).await;
            assert_eq!(bench.asked_for(), asked_for, "{read}{query}");
        }
        // A session that has seen nothing yet.
        bench.ask(&format!("{read}?consistency=session"), &[]).await;
        assert_eq!(bench.asked_for(), Consistency::Linearizable, "{read}");
    }
}

#[tokio::test]
async fn an_answer_that_may_not_be_the_newest_says_so() {
    let bench = Bench::new();
    bench.answer(value(Served::Session));
    assert_eq!(
        bench.ask("GET /v1/kv/b/k?consistency=session", SEEN_7).await,
        "200\n\
         cache-control: private, no-cache\n\
         content-type: application/octet-stream\n\
         etag: \"8\"\n\
         stemedb-consistency: session\n\
         stemedb-create-revision: 2\n\
         stemedb-revision: 9\n\
         stemedb-served-by: n2\n\
         stemedb-version: 4\n\
         vary: accept\n\
         x-content-type-options: nosniff\n\
         \nv\n"
    );
    bench.answer(value(Served::Stale { age_ms: 1234 }));
    let stale = bench.ask("HEAD /v1/kv/b/k?consistency=stale", &[]).await;
    assert!(stale.contains("\nstemedb-consistency: stale\n"), "{stale}");
    assert!(stale.contains("\nstemedb-stale-ms: 1234\n"), "{stale}");
    // What was asked for is no promise of how it is served: this one is the newest.
    let newest = bench.ask("GET /v1/kv/b?consistency=stale", &[]).await;
    assert!(newest.starts_with("200\n"), "{newest}");
    assert!(!newest.contains("stemedb-consistency") && !newest.contains("stale-ms"), "{newest}");
}

#[tokio::test]
async fn no_such_key_and_not_modified_say_it_too() {
    let bench = Bench::new();
    let served = Served::Stale { age_ms: 3 };
    let absent = ReadAnswer::Value { revision: Revision(9), version: None };
    bench.answer(OpAnswer::Weaker(absent, served));
    assert_eq!(
        bench.ask("GET /v1/kv/b/k?consistency=stale", &[]).await,
        "404\n\
         stemedb-consistency: stale\n\
         stemedb-revision: 9\n\
         stemedb-served-by: n2\n\
         stemedb-stale-ms: 3\n\
         \n{\"detail\":\"there is no such key in this bucket\",\"retryable\":false,\"type\":\"not-found\"}\n"
    );
    for (header, status) in [("if-none-match", "304"), ("if-match", "412")] {
        bench.answer(value(served));
        let etag = if header == "if-match" { "\"7\"" } else { "\"8\"" };
        let seen = bench.ask("GET /v1/kv/b/k?consistency=stale", &[(header, etag)]).await;
        assert!(seen.starts_with(status) && seen.contains("stemedb-stale-ms: 3"), "{seen}");
    }
}

#[tokio::test]
async fn a_read_without_a_quorum_is_503_and_one_of_another_node_421() {
    let bench = Bench::new();
    for consistency in ["linearizable", "session", "stale"] {
        let line = format!("GET /v1/kv/b/k?consistency={consistency}");
        bench.fail(Error::unavailable(Unavailable::NoQuorum));
        let seen = bench.ask(&line, SEEN_7).await;
        assert!(seen.starts_with("503\n") && seen.contains("\"no-quorum\""), "{seen}");
        bench.fail(Error::NotOwner { owner: Some("n3:18180".to_owned()) });
        let seen = bench.ask(&line, SEEN_7).await;
        assert!(seen.starts_with("421\n") && seen.contains("stemedb-owner: n3:18180"), "{seen}");
    }
}
