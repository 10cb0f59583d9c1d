//! API keys: made, listed, revoked.

use stemedb::meta::{KeyHash, Role};
use stemedb::{AdminAnswer, AdminCall, Credential, Error};

use crate::support::{Bench, api_key, project};

const ROOT: &[(&str, &str)] = &[("x-api-key", "root")];
const KEY: &str = "steme_live_0123456789abcdef0123456789abcdef0123456789abcdef";

fn ones() -> String {
    "01".repeat(32)
}

fn made(created: bool) -> Result<AdminAnswer, Error> {
    Ok(AdminAnswer::Key {
        record: api_key(1, "project-p", Role::WriteAgent, None),
        project: Some(project()),
        secret: created.then(|| Credential::new(KEY)),
        created,
    })
}

#[tokio::test]
async fn a_key_is_made_for_the_project_in_its_label_and_shown_once() {
    let bench = Bench::new();
    let body = r#"{"label":"project-p","role":"write_agent"}"#;
    let seen = bench.answer_admin(made(true)).call("POST /v1/admin/api-keys", ROOT, body).await;
    assert_eq!(
        seen,
        format!(
            "201\ncache-control: no-store\ncontent-type: application/json\n\
             location: /v1/admin/api-keys/{0}\nstemedb-served-by: n1\n\n\
             {{\"created_at\":\"2026-01-01T12:00:00Z\",\"created_by\":\"start\",\"hash\":\"{0}\",\
             \"key\":\"{KEY}\",\"label\":\"project-p\",\"project\":\"p\",\
             \"role\":\"write_agent\"}}\n",
            ones()
        )
    );
    let call = bench.script.admin_calls.lock().unwrap().pop().unwrap();
    let AdminCall::CreateKey { label, role, project, key, return_existing } = call else {
        panic!("{call:?}")
    };
    assert_eq!((label.as_str(), role, return_existing), ("project-p", Role::WriteAgent, false));
    assert_eq!(project.unwrap().as_str(), "p");
    assert!(key.is_none());
}

#[tokio::test]
async fn a_label_that_is_taken_is_409_or_its_record_if_that_is_asked_for() {
    let bench = Bench::new();
    let taken = Err(Error::AlreadyExists("a key of this label is there".into()));
    let body = r#"{"label":"ci","role":"read_agent","project":"p"}"#;
    let seen = bench.answer_admin(taken).call("POST /v1/admin/api-keys", ROOT, body).await;
    assert!(seen.starts_with("409\n") && seen.contains("\"already-exists\""), "{seen}");

    let in_body = r#"{"label":"ci","role":"read_agent","project":"p","if_exists":"return"}"#;
    for (line, body) in [
        ("POST /v1/admin/api-keys?if_exists=return", body),
        ("POST /v1/admin/api-keys", in_body),
        ("POST /v1/admin/api-keys?if_exists=return", in_body),
    ] {
        let seen = bench.answer_admin(made(false)).call(line, ROOT, body).await;
        assert!(seen.starts_with("200\n") && !seen.contains("\"key\""), "{seen}");
        let call = bench.script.admin_calls.lock().unwrap().pop().unwrap();
        assert!(matches!(call, AdminCall::CreateKey { return_existing: true, .. }), "{call:?}");
    }
}

#[tokio::test]
async fn an_escrowed_key_is_imported_and_a_key_of_the_cluster_has_no_project() {
    let bench = Bench::new();
    let body = format!(r#"{{"label":"ops","role":"admin","key":"{KEY}"}}"#);
    bench.answer_admin(made(true)).call("POST /v1/admin/api-keys", ROOT, body).await;
    let call = bench.script.admin_calls.lock().unwrap().pop().unwrap();
    let AdminCall::CreateKey { project: None, key: Some(key), .. } = call else {
        panic!("{call:?}")
    };
    assert_eq!(key.expose(), KEY);
}

#[tokio::test]
async fn keys_are_listed_living_ones_first_page_by_page() {
    let bench = Bench::new();
    *bench.script.keys.lock().unwrap() = vec![
        (api_key(2, "old", Role::Admin, Some(1_767_268_801_000)), None),
        (api_key(3, "root", Role::Root, None), None),
        (api_key(1, "project-p", Role::WriteAgent, None), Some(project())),
    ];
    let first = bench.ask("GET /v1/admin/api-keys?limit=2", ROOT).await;
    let (_, body) = first.split_once("\n\n").unwrap();
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    let labels = |body: &serde_json::Value| {
        let items = body["items"].as_array().unwrap().iter();
        items.map(|item| item["label"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(labels(&body), ["project-p", "root"]);
    let cursor = body["cursor"].as_str().unwrap();
    let line = format!("GET /v1/admin/api-keys?limit=2&cursor={cursor}");
    assert_eq!(
        bench.ask(&line, ROOT).await,
        format!(
            "200\ncontent-type: application/json\nstemedb-served-by: n1\n\n\
             {{\"items\":[{{\"created_at\":\"2026-01-01T12:00:00Z\",\"created_by\":\"start\",\
             \"hash\":\"{}\",\"label\":\"old\",\"revoked_at\":\"2026-01-01T12:00:01Z\",\
             \"role\":\"admin\"}}]}}\n",
            "02".repeat(32)
        )
    );
}

#[tokio::test]
async fn one_key_is_read_and_revoked_by_its_hash() {
    let bench = Bench::new();
    *bench.script.keys.lock().unwrap() =
        vec![(api_key(1, "project-p", Role::WriteAgent, None), Some(project()))];
    let path = format!("/v1/admin/api-keys/{}", ones());
    let record = bench.ask(&format!("GET {path}"), ROOT).await;
    assert!(record.starts_with("200\n") && record.contains("\"label\":\"project-p\""), "{record}");
    let absent = format!("GET /v1/admin/api-keys/{}", "02".repeat(32));
    assert_eq!(
        bench.ask(&absent, ROOT).await,
        "404\nstemedb-served-by: n1\n\n{\"detail\":\"there is no key of this hash\",\
         \"retryable\":false,\"type\":\"not-found\"}\n"
    );
    let gone = bench.ask(&format!("DELETE {path}"), ROOT).await;
    assert_eq!(gone, "204\nstemedb-served-by: n1\n");
    let call = bench.script.admin_calls.lock().unwrap().pop().unwrap();
    assert!(matches!(call, AdminCall::RevokeKey { hash } if hash == KeyHash([1; 32])), "{call:?}");
    bench.answer_admin(Err(Error::OutcomeUnknown));
    let doubtful = bench.ask(&format!("DELETE {path}"), ROOT).await;
    assert!(doubtful.contains("\"retryable\":true"), "{doubtful}");
}
