//! What an operator asks: plan, drain, remove, pause, resume; and how far it is.

use stemedb::{
    AdminAnswer, AdminCall, Drain, DrainState, Error, MoveStep, Place, PlannedMove, Preview,
    Progress, ShardMove, Unavailable,
};
use stemedb_types::{NodeId, ShardId};

use crate::support::Bench;

const ROOT: (&str, &str) = ("x-api-key", "root");
/// A request, its headers, its body, and the `status slug` it gets.
type Line<'l> = (&'l str, &'l [(&'l str, &'l str)], &'l str, &'l str);

fn ok(body: &str) -> String {
    format!("200\ncontent-type: application/json\nstemedb-served-by: n1\n\n{body}\n")
}

fn member(bench: &Bench) {
    let done = AdminAnswer::Member { node: NodeId(1), name: "n1".into() };
    bench.answer_admin(Ok(done));
}

fn draining(state: DrainState, reason: &str) -> Progress {
    let (node, reason) = (NodeId(1), reason.to_owned());
    let drain = Drain { node, since_ms: 1000, state, replicas: 2, leaders: 1, reason };
    Progress { epoch: 5, drains: vec![drain], ..Progress::default() }
}

const DRAIN: &str = "\"drain\":{\"leaders\":1,\"reason\":\"no room: …\",\"replicas\":2,\
    \"since\":\"1970-01-01T00:00:01Z\",\"state\":\"blocked\"}";

#[tokio::test]
async fn a_member_is_drained_by_id_or_name_and_the_answer_says_how_far_it_is() {
    let bench = Bench::new();
    *bench.script.progress.lock().unwrap() = Ok(draining(DrainState::Blocked, "no room: …"));
    let id = "\"id\":\"0000000000000001\",\"name\":\"n1\",\"removed\"";
    for (path, named, on) in [
        ("POST /v1/cluster/members/0000000000000001/drain", "0000000000000001", true),
        ("POST /v1/cluster/members/h:18182/drain?off=0", "h:18182", true),
        ("POST /v1/cluster/members/a%2Fb%20c/drain?off", "a/b c", false),
    ] {
        member(&bench);
        let seen = bench.ask(path, &[ROOT]).await;
        assert_eq!(seen, ok(&format!("{{{DRAIN},{id}:false}}")), "{path}");
        let asked = bench.script.admin_calls.lock().unwrap().pop().unwrap();
        let AdminCall::Drain { member, on: asked } = asked else { panic!("{asked:?}") };
        assert_eq!((member.as_str(), asked), (named, on));
    }
    // Removed: nobody drains it any more.
    *bench.script.progress.lock().unwrap() = Ok(Progress::default());
    member(&bench);
    let seen = bench.ask("POST /v1/cluster/members/n1/remove", &[ROOT]).await;
    assert_eq!(seen, ok(&format!("{{{id}:true}}")));
    let asked = bench.script.admin_calls.lock().unwrap().pop().unwrap();
    assert!(matches!(asked, AdminCall::Remove { member } if member == "n1"));
}

#[tokio::test]
async fn a_drain_shows_in_status_and_members_even_where_nobody_says_how_far_it_is() {
    let bench = Bench::new();
    *bench.script.draining_since_ms.lock().unwrap() = Some(1000);
    *bench.script.progress.lock().unwrap() = Ok(draining(DrainState::Blocked, "no room: …"));
    for path in ["status", "members"] {
        let seen = bench.ask(&format!("GET /v1/cluster/{path}"), &[ROOT]).await;
        assert!(seen.contains(DRAIN), "{seen}");
    }
    let none = Error::unavailable(Unavailable::NoQuorum);
    *bench.script.progress.lock().unwrap() = Err(none);
    for path in ["status", "members"] {
        let seen = bench.ask(&format!("GET /v1/cluster/{path}"), &[ROOT]).await;
        assert!(seen.contains("can't be told: no quorum"), "{seen}");
        assert!(!seen.contains("rebalance"), "{seen}");
    }
    let short = bench.ask("GET /v1/cluster/status", &[]).await;
    assert!(!short.contains("drain"), "{short}");
}

#[tokio::test]
async fn the_full_status_says_what_moves_and_how_far_it_is() {
    let bench = Bench::new();
    let running = ShardMove {
        shard: ShardId(3),
        step: MoveStep::CatchingUp,
        add: vec![NodeId(4)],
        remove: vec![NodeId(2)],
        entries_behind: Some(77),
        sent_bytes: Some(5),
        bytes: Some(900),
    };
    let unknown = ShardMove {
        shard: ShardId(4),
        step: MoveStep::Leaderless,
        entries_behind: None,
        sent_bytes: None,
        bytes: None,
        ..running.clone()
    };
    let moves = vec![running, unknown];
    let paused_since_ms = Some(1000);
    *bench.script.progress.lock().unwrap() =
        Ok(Progress { epoch: 5, paused_since_ms, moves, drains: vec![] });
    let seen = bench.ask("GET /v1/cluster/status", &[ROOT]).await;
    let (four, two) = ("\"0000000000000004\"", "\"0000000000000002\"");
    let expected = format!(
        "\"rebalance\":{{\"moves\":[{{\"add\":[{four}],\"bytes\":900,\"entries_behind\":77,\
         \"remove\":[{two}],\"sent_bytes\":5,\"shard\":3,\"step\":\"catching-up\"}},\
         {{\"add\":[{four}],\"remove\":[{two}],\"shard\":4,\"step\":\"leaderless\"}}],\
         \"paused\":true,\"paused_since\":\"1970-01-01T00:00:01Z\"}}"
    );
    assert!(seen.contains(&expected), "{seen}");
}

#[tokio::test]
async fn a_plan_is_what_a_change_would_move_and_no_body_is_no_change() {
    let bench = Bench::new();
    *bench.script.preview.lock().unwrap() = Ok(Preview {
        epoch: 5,
        moves: vec![PlannedMove {
            shard: ShardId(0),
            add: vec![Place::New("n9".into()), Place::Member(NodeId(4))],
            remove: vec![NodeId(2)],
            bytes: 200,
        }],
        bytes_total: 200,
        leaders_moved: 1,
        blocked: vec!["rebalancing is paused".into()],
    });
    let body = "{\"blocked\":[\"rebalancing is paused\"],\"bytes_total\":200,\"epoch\":5,\
        \"leaders_moved\":1,\"moves\":[{\"add\":[\"n9\",\"0000000000000004\"],\"bytes\":200,\
        \"remove\":[\"0000000000000002\"],\"shard\":0}]}";
    assert_eq!(bench.ask("POST /v1/cluster/layout/plan", &[ROOT]).await, ok(body));
    let asked = r#"{"drain":["a"],"remove":["b"],"add":[{"name":"n9"},{"name":"x","zone":"z","weight":7}]}"#;
    bench.call("POST /v1/cluster/layout/plan", &[ROOT], asked).await;
    let changes = bench.script.changes.lock().unwrap().clone();
    assert_eq!(changes[0], stemedb::Change::default());
    assert_eq!(
        (&changes[1].drain[..], &changes[1].remove[..]),
        (&["a".into()][..], &["b".into()][..])
    );
    let added: Vec<_> =
        changes[1].add.iter().map(|n| (n.name.as_str(), n.zone.as_str(), n.weight)).collect();
    assert_eq!(added, [("n9", "", 1), ("x", "z", 7)]);
}

#[tokio::test]
async fn rebalancing_is_paused_and_resumed() {
    let bench = Bench::new();
    for (word, on) in [("pause", true), ("resume", false)] {
        let seen = bench.ask(&format!("POST /v1/cluster/rebalance/{word}"), &[ROOT]).await;
        assert_eq!(seen, ok(&format!("{{\"paused\":{on}}}")));
        let asked = bench.script.admin_calls.lock().unwrap().pop().unwrap();
        assert!(matches!(asked, AdminCall::Pause { on: asked } if asked == on));
    }
}

/// `status slug` of a problem.
fn verdict(seen: &str) -> String {
    let status = seen.lines().next().unwrap_or_default().to_owned();
    let body = seen.split_once("\n\n").map(|(_, body)| body).unwrap_or_default();
    let problem: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    format!("{status} {}", problem["type"].as_str().unwrap_or_default())
}

#[tokio::test]
async fn bad_requests_of_operators_never_reach_the_front() {
    let bench = Bench::new();
    let many = format!("{{\"drain\":[{}]}}", vec!["\"a\""; 1001].join(","));
    let plan = "POST /v1/cluster/layout/plan";
    let table: &[Line<'_>] = &[
        (plan, &[ROOT], "{", "400 malformed"),
        (plan, &[ROOT], "[]", "400 malformed"),
        (plan, &[ROOT], "{\"drian\":[]}", "400 malformed"),
        (plan, &[ROOT], "{\"drain\":\"n1\"}", "400 malformed"),
        (plan, &[ROOT], "{\"add\":[{}]}", "400 malformed"),
        (plan, &[ROOT], "{\"add\":[{\"name\":\"\"}]}", "400 malformed"),
        (plan, &[ROOT], "{\"add\":[{\"name\":\"a\",\"weight\":0}]}", "400 malformed"),
        (plan, &[ROOT], "{\"add\":[{\"name\":\"a\",\"weight\":101}]}", "400 malformed"),
        (plan, &[ROOT], &many, "400 malformed"),
        ("POST /v1/cluster/layout/plan?x", &[ROOT], "", "400 malformed"),
        (plan, &[ROOT, ("content-type", "text/plain")], "{}", "415 unsupported-media-type"),
        (plan, &[ROOT, ("x-api-key", "")], "{", "401 unauthenticated"),
        (plan, &[], "", "403 forbidden"),
        ("GET /v1/cluster/layout/plan", &[ROOT], "", "405 method-not-allowed"),
        ("POST /v1/cluster/members/n1/drain?off=yes", &[ROOT], "", "400 malformed"),
        ("POST /v1/cluster/members/n1/drain?on", &[ROOT], "", "400 malformed"),
        ("POST /v1/cluster/members/%ff/drain", &[ROOT], "", "400 malformed"),
        ("POST /v1/cluster/members/%/remove", &[ROOT], "", "400 malformed"),
        ("POST /v1/cluster/members/n1/drain", &[("x-api-key", "")], "", "401 unauthenticated"),
        ("POST /v1/cluster/members/n1/drain", &[], "", "403 forbidden"),
        ("DELETE /v1/cluster/members/n1/drain", &[ROOT], "", "405 method-not-allowed"),
        ("POST /v1/cluster/members/n1/remove?force", &[ROOT], "", "400 malformed"),
        ("POST /v1/cluster/members/n1/remove", &[("x-api-key", "")], "", "401 unauthenticated"),
        ("POST /v1/cluster/members/n1/remove", &[], "", "403 forbidden"),
        ("GET /v1/cluster/members/n1/remove", &[ROOT], "", "405 method-not-allowed"),
        ("POST /v1/cluster/members/n1", &[ROOT], "", "404 not-found"),
        ("POST /v1/cluster/members//drain", &[ROOT], "", "404 not-found"),
        ("POST /v1/cluster/rebalance/pause?x", &[ROOT], "", "400 malformed"),
        ("POST /v1/cluster/rebalance/pause", &[("x-api-key", "")], "", "401 unauthenticated"),
        ("POST /v1/cluster/rebalance/resume", &[], "", "403 forbidden"),
        ("PUT /v1/cluster/rebalance/resume", &[ROOT], "", "405 method-not-allowed"),
        ("POST /v1/cluster/rebalance", &[ROOT], "", "404 not-found"),
    ];
    for (line, headers, body, expected) in table {
        let seen = bench.call(line, headers, (*body).to_owned()).await;
        assert_eq!(verdict(&seen), *expected, "{line} {body}");
    }
    assert_eq!(bench.reached(), 0);
}

#[tokio::test]
async fn what_a_command_meets_is_told_with_its_slug() {
    let bench = Bench::new();
    let holds = || Error::Conflict("node 1 is not removed: it holds 3 shards".into());
    for (error, expected) in [
        (holds(), "412 precondition-failed"),
        (Error::NotFound("there is no member \"n7\"".into()), "404 not-found"),
        (Error::unavailable(Unavailable::NoQuorum), "503 no-quorum"),
        (Error::OutcomeUnknown, "504 outcome-unknown"),
        (Error::DiskFull, "507 disk-full"),
    ] {
        for path in ["members/n7/drain", "members/n7/remove"] {
            bench.answer_admin(Err(error.clone()));
            let seen = bench.ask(&format!("POST /v1/cluster/{path}"), &[ROOT]).await;
            assert_eq!(verdict(&seen), expected, "{path}");
        }
    }
    bench.answer_admin(Err(holds()));
    let seen = bench.ask("POST /v1/cluster/members/n7/remove", &[ROOT]).await;
    assert!(seen.contains("it holds 3 shards"), "{seen}");
    bench.answer_admin(Err(Error::OutcomeUnknown));
    let seen = bench.ask("POST /v1/cluster/rebalance/pause", &[ROOT]).await;
    assert!(seen.starts_with("504\n") && seen.contains("\"retryable\":true"), "{seen}");
    for (error, expected) in [
        (Error::NotFound("there is no member \"n7\"".into()), "404 not-found"),
        (Error::Malformed("nobody would be left".into()), "400 malformed"),
        (Error::unavailable(Unavailable::NoQuorum), "503 no-quorum"),
    ] {
        *bench.script.preview.lock().unwrap() = Err(error);
        let seen = bench.ask("POST /v1/cluster/layout/plan", &[ROOT]).await;
        assert_eq!(verdict(&seen), expected);
    }
}
