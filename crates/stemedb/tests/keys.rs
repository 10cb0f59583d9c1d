//! Keys in a cluster: valid everywhere at once, gone everywhere at once.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::{cluster, places, stop};
use stemedb::meta::{ApiKey, Role};
use stemedb::shard::{Condition, Write};
use stemedb::{
    AdminAnswer, AdminCall, Auth, Call, Consistency, Credential, Door, Error, Front, Need, Node,
    NodeOptions, Op,
};

const ROOT: &str = "steme_live_0123456789abcdef0123456789abcdef0123456789abcdef";
const ESCROWED: &str = "steme_live_fedcba9876543210fedcba9876543210fedcba9876543210";

fn with_keys(options: &mut NodeOptions) {
    options.auth = Auth::On { root_key: Some(Credential::new(ROOT)) };
}

async fn admin(node: &Node, key: &str, call: AdminCall) -> Result<AdminAnswer, Error> {
    let admission = node.admit(Some(Credential::new(key)), None, Need::Administer).await?;
    node.admin(admission, call).await
}

fn new_key(label: &str, role: Role, project: Option<&str>) -> AdminCall {
    AdminCall::CreateKey {
        label: label.to_owned(),
        role,
        project: project.map(|name| name.parse().unwrap()),
        key: None,
        return_existing: false,
    }
}

async fn made(node: &Node, by: &str, call: AdminCall) -> (ApiKey, String) {
    match admin(node, by, call).await.expect("is made") {
        AdminAnswer::Key { record, secret: Some(secret), created: true, .. } => {
            (record, secret.expose().to_owned())
        }
        other => panic!("{other:?}"),
    }
}

async fn put(node: &Node, key: &str) -> Result<(), Error> {
    let admission = node.admit(Some(Credential::new(key)), None, Need::Write).await?;
    let write = Write::Put {
        key: stemedb_types::Key::new("k").unwrap(),
        value: Bytes::from_static(b"v"),
        condition: Condition::Always,
        expires_at_ms: None,
    };
    let deadline = Duration::from_secs(10);
    let bucket = "b".parse().unwrap();
    let (door, op, consistency) = (Door::Gateway, Op::Write(write), Consistency::Linearizable);
    let call = Call { admission, door, deadline, bucket, op, consistency, once: None };
    node.call(call).await.map(|_| ())
}

#[tokio::test]
async fn a_key_is_valid_on_every_node_when_it_was_made_and_on_none_when_it_was_revoked() {
    let places = places(3);
    let nodes = cluster(&places, with_keys).await;

    for round in 0..9 {
        let (at, other) = (&nodes[round % 3], &nodes[(round + 1) % 3]);
        let call = new_key(&format!("ci-{round}"), Role::WriteAgent, Some("alpha"));
        let (record, key) = made(at, ROOT, call).await;
        // Known by every node without asking anybody: the list is what the node itself knows.
        for node in &nodes {
            let known = node.keys().iter().any(|(key, _)| key.hash == record.hash);
            assert!(known, "round {round}: a node was left out");
            put(node, &key).await.expect("is let in");
        }
        let revoked = admin(other, ROOT, AdminCall::RevokeKey { hash: record.hash }).await;
        assert!(matches!(revoked, Ok(AdminAnswer::Done)), "{revoked:?}");
        for node in &nodes {
            assert_eq!(put(node, &key).await, Err(Error::Unauthenticated), "round {round}");
        }
    }
    stop(nodes).await;
}

#[tokio::test]
async fn labels_imports_and_roles_are_judged_where_the_meta_group_is_led() {
    let places = places(3);
    let nodes = cluster(&places, with_keys).await;

    // No key, a foreign one, one of no form at all.
    for bad in [None, Some(ESCROWED), Some("hello")] {
        let refused = nodes[1].admit(bad.map(Credential::new), None, Need::Read).await;
        assert_eq!(refused.err(), Some(Error::Unauthenticated), "{bad:?}");
    }

    // An escrowed key is imported under a label; that it was refused a moment ago is forgotten.
    let import = AdminCall::CreateKey {
        label: "project-alpha".to_owned(),
        role: Role::WriteAgent,
        project: Some("alpha".parse().unwrap()),
        key: Some(Credential::new(ESCROWED)),
        return_existing: false,
    };
    let (record, key) = made(&nodes[0], ROOT, import).await;
    assert_eq!(key, ESCROWED);
    for node in &nodes {
        put(node, ESCROWED).await.expect("is let in");
    }

    // The label again: refused, or returned without the key.
    let again = admin(&nodes[2], ROOT, new_key("project-alpha", Role::ReadAgent, Some("alpha")));
    assert!(matches!(again.await, Err(Error::AlreadyExists(_))));
    let returned = AdminCall::CreateKey {
        label: "project-alpha".to_owned(),
        role: Role::WriteAgent,
        project: Some("alpha".parse().unwrap()),
        key: None,
        return_existing: true,
    };
    match admin(&nodes[1], ROOT, returned).await.expect("is returned") {
        AdminAnswer::Key { record: same, secret: None, created: false, .. } => {
            assert_eq!(same.hash, record.hash);
        }
        other => panic!("{other:?}"),
    }

    // An admin makes agents, and neither makes nor ends who stands above it.
    let (_, boss) = made(&nodes[0], ROOT, new_key("boss", Role::Admin, None)).await;
    let (reader, agent) =
        made(&nodes[1], &boss, new_key("reader", Role::ReadAgent, Some("alpha"))).await;
    let refused = admin(&nodes[2], &boss, new_key("second", Role::Root, None)).await;
    assert!(matches!(refused, Err(Error::Forbidden(_))), "{refused:?}");
    let root = nodes[0].keys().iter().find(|(key, _)| key.role == Role::Root).unwrap().0.hash;
    let refused = admin(&nodes[2], &boss, AdminCall::RevokeKey { hash: root }).await;
    assert!(matches!(refused, Err(Error::Forbidden(_))), "{refused:?}");
    assert!(matches!(put(&nodes[1], &agent).await, Err(Error::Forbidden(_))));
    let project = Some("beta".parse().unwrap());
    let foreign = nodes[1].admit(Some(Credential::new(&*agent)), project, Need::Read).await;
    assert!(matches!(foreign, Err(Error::Forbidden(_))));

    // A key that is not there can't be ended; one that is ended stays so.
    let gone = stemedb::meta::KeyHash([9; 32]);
    let missing = admin(&nodes[0], ROOT, AdminCall::RevokeKey { hash: gone }).await;
    assert!(matches!(missing, Err(Error::NotFound(_))));
    for node in &nodes {
        let ended = admin(node, &boss, AdminCall::RevokeKey { hash: reader.hash }).await;
        assert!(matches!(ended, Ok(AdminAnswer::Done)));
    }
    stop(nodes).await;
}

#[tokio::test]
async fn a_node_that_hears_of_no_quorum_answers_no_quorum_and_never_unauthenticated() {
    let places = places(3);
    let mut nodes = cluster(&places, with_keys).await;
    let last = nodes.remove(0);
    stop(nodes).await;
    common::until("the last one has waited long enough", || {
        let asked = last.admit(Some(Credential::new(ROOT)), None, Need::Administer);
        let answer = futures_util::FutureExt::now_or_never(asked);
        matches!(
            answer,
            Some(Err(Error::Unavailable { reason: stemedb::Unavailable::NoQuorum, .. }))
        )
    })
    .await;
    // A key it never heard of as well, and it is ready all the same.
    let asked = last.admit(Some(Credential::new(ESCROWED)), None, Need::Read).await;
    assert!(matches!(asked, Err(Error::Unavailable { .. })), "{asked:?}");
    assert!(last.readiness().ready, "{:?}", last.readiness());
    last.shutdown().await;
}
