//! The HTTP client against a gateway in this process, and the settings of the nodes.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::rc::Rc;

use clap::Parser;
use http::{Method, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::{LocalSet, spawn_local};

use super::*;
use crate::cli::{Cli, Command};
use crate::load::{Session as _, Store as _};

const PROJECT_KEY: &str = "steme_live_project";

/// A gateway with just the calls the driver makes. It closes the connection after the path
/// `/v1/kv/bench/last`.
#[derive(Default)]
struct Gateway {
    values: RefCell<BTreeMap<String, Bytes>>,
    connections: RefCell<u32>,
    key_requests: RefCell<Vec<String>>,
}

impl Gateway {
    async fn listen(self: Rc<Self>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                *self.connections.borrow_mut() += 1;
                let gateway = self.clone();
                let service = service_fn(move |request| gateway.clone().answer(request));
                spawn_local(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        address
    }

    async fn answer(self: Rc<Self>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>> {
        let (head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let key = head.headers.get(KEY_HEADER).map(HeaderValue::as_bytes).unwrap_or_default();
        let path = head.uri.path().to_owned();
        let (status, body) = match (head.method, path.strip_prefix("/v1/kv/bench/")) {
            (Method::POST, None) if path == "/v1/admin/api-keys" && key.starts_with(b"root") => {
                self.key_requests.borrow_mut().push(String::from_utf8(body.to_vec())?);
                (201, Bytes::from(format!(r#"{{"key":"{PROJECT_KEY}","hash":"00"}}"#)))
            }
            _ if key != PROJECT_KEY.as_bytes() => (401, Bytes::from("unauthenticated")),
            (Method::PUT, Some(name)) => {
                self.values.borrow_mut().insert(name.to_owned(), body);
                (201, Bytes::new())
            }
            (Method::GET, Some(name)) => match self.values.borrow().get(name) {
                Some(value) => (200, value.clone()),
                None => (404, Bytes::from("not-found")),
            },
            _ => (405, Bytes::new()),
        };
        let last = path.ends_with("/last");
        let connection = if last { "close" } else { "keep-alive" };
        let answer = Response::builder().status(status).header("connection", connection);
        Ok(answer.body(Full::new(body))?)
    }
}

async fn store(gateway: &Rc<Gateway>) -> Store {
    let address = gateway.clone().listen().await;
    let api_key = HeaderValue::from_static(PROJECT_KEY);
    Store::spread(vec![address], api_key, 1)
}

#[tokio::test]
async fn one_connection_carries_all_operations_of_a_client() {
    let transcript = async {
        let gateway = Rc::new(Gateway::default());
        let mut client = store(&gateway).await.session(0).await.unwrap();
        client.put("a", Bytes::from_static(b"one")).await.unwrap();
        client.put("a", Bytes::from_static(b"two")).await.unwrap();
        assert_eq!(client.get("a").await.unwrap(), "two");
        let missing = client.get("b").await.unwrap_err();
        assert_eq!(missing.to_string(), "status 404: not-found");
        assert_eq!(client.get("a").await.unwrap(), "two");
        assert_eq!(*gateway.connections.borrow(), 1);
    };
    LocalSet::new().run_until(transcript).await;
}

#[tokio::test]
async fn a_client_whose_connection_was_closed_makes_a_new_one() {
    let transcript = async {
        let gateway = Rc::new(Gateway::default());
        let mut client = store(&gateway).await.session(0).await.unwrap();
        client.put("last", Bytes::from_static(b"x")).await.unwrap();
        // The end of the driving task is the event; it needs a turn to see the answer's end.
        while !client.connection.is_closed() {
            tokio::task::yield_now().await;
        }
        assert_eq!(client.get("last").await.unwrap(), "x");
        assert_eq!(*gateway.connections.borrow(), 2);
    };
    LocalSet::new().run_until(transcript).await;
}

#[tokio::test]
async fn the_project_key_is_made_with_the_root_key() {
    let transcript = async {
        let gateway = Rc::new(Gateway::default());
        let address = gateway.clone().listen().await;
        let root_key = HeaderValue::from_static("root");
        assert_eq!(make_project_key(address, &root_key).await.unwrap(), PROJECT_KEY);
        let body = gateway.key_requests.borrow()[0].clone();
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!((&body["role"], &body["project"]), (&"write_agent".into(), &"bench".into()));

        let refused = make_project_key(address, &HeaderValue::from_static("other")).await;
        assert_eq!(refused.unwrap_err().to_string(), "status 401: unauthenticated");
    };
    LocalSet::new().run_until(transcript).await;
}

fn settings_of(nodes: usize, options: &[&str]) -> Vec<BTreeMap<String, String>> {
    let cli = Cli::parse_from([&["stemedb-benches", "idle"], options].concat());
    let Command::Idle(arguments) = cli.command else { panic!("{cli:?}") };
    let ports = 1..=u16::try_from(nodes * NodeAddresses::COUNT).unwrap();
    let addresses = ports.map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect();
    let plan = Plan::new(addresses, &arguments.servers);
    let launches = (0..nodes).map(|node| plan.launch(node, &PathBuf::from("/data")));
    launches.map(|launch| launch.environment.into_iter().collect()).collect()
}

#[test]
fn three_nodes_share_secrets_and_peers_and_nothing_else() {
    let nodes = settings_of(3, &[]);
    let first = &nodes[0];
    assert_eq!(first["STEMEDB_JOIN"], "127.0.0.1:4,127.0.0.1:8,127.0.0.1:12");
    assert_eq!(first["STEMEDB_BOOTSTRAP_EXPECT"], "3");
    assert_eq!(first["STEMEDB_WAL_DIR"], "/data/node-0/wal");
    assert_eq!(first["STEMEDB_ROOT_API_KEY"].len(), "steme_live_".len() + 48);
    let values = |name: &str| nodes.iter().map(|node| node[name].clone()).collect::<BTreeSet<_>>();
    for (name, expected) in [
        ("BIND_ADDR", 3),
        ("GATEWAY_ADDR", 3),
        ("GRPC_ADDR", 3),
        ("GOSSIP_ADDR", 3),
        ("NODE_NAME", 3),
        ("WAL_DIR", 3),
        ("DB_DIR", 3),
        ("ADVERTISE_HOST", 1),
        ("JOIN", 1),
        ("ROOT_API_KEY", 1),
        ("CLUSTER_SECRET", 1),
        ("AUTH_ENABLED", 1),
    ] {
        assert_eq!(values(&format!("STEMEDB_{name}")).len(), expected, "{name}");
    }
}

#[test]
fn a_lone_node_joins_nobody() {
    let node = &settings_of(1, &[])[0];
    assert_eq!(node["STEMEDB_BOOTSTRAP_EXPECT"], "1");
    assert!(!node.contains_key("STEMEDB_JOIN"));
}

#[test]
fn a_setting_from_the_command_line_wins() {
    let options = ["--stemedb-env", "STEMEDB_SHARDS=1", "--stemedb-env", "STEMEDB_AUTH_ENABLED=0"];
    let node = &settings_of(3, &options)[2];
    assert_eq!((&node["STEMEDB_SHARDS"][..], &node["STEMEDB_AUTH_ENABLED"][..]), ("1", "0"));
}
