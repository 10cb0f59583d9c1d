//! Three real processes of the real binary, on loopback, each with its own ports and folders.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

#[path = "../../../stemedb/tests/common/ports.rs"]
mod ports;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub const ROOT_KEY: &str = "steme_live_0123456789abcdef0123456789abcdef0123456789abcdef";
pub const SECRET: &str = "a secret of the end-to-end tests";

/// One node: its place stays, its process comes and goes.
pub struct Node {
    pub name: String,
    pub http: u16,
    pub gateway: u16,
    grpc: u16,
    gossip: u16,
    dir: TempDir,
    process: Option<Child>,
}

pub struct Cluster {
    pub nodes: Vec<Node>,
    pub client: reqwest::Client,
}

impl Node {
    fn place(number: usize) -> Self {
        Self {
            name: format!("node-{number}"),
            http: ports::free(),
            gateway: ports::free(),
            grpc: ports::free(),
            gossip: ports::free(),
            dir: tempfile::tempdir().unwrap(),
            process: None,
        }
    }

    /// The binary with this node's settings.
    pub fn command(&self, peers: &[u16]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stemedb"));
        let join: Vec<String> = peers.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let dir = |name| self.dir.path().join(name);
        command
            .arg("serve")
            .env_clear()
            .env("STEMEDB_BIND_ADDR", format!("127.0.0.1:{}", self.http))
            .env("STEMEDB_GATEWAY_ADDR", format!("127.0.0.1:{}", self.gateway))
            .env("STEMEDB_GRPC_ADDR", format!("127.0.0.1:{}", self.grpc))
            .env("STEMEDB_GOSSIP_ADDR", format!("127.0.0.1:{}", self.gossip))
            .env("STEMEDB_ADVERTISE_HOST", "127.0.0.1")
            .env("STEMEDB_NODE_NAME", &self.name)
            .env("STEMEDB_WAL_DIR", dir("wal"))
            .env("STEMEDB_DB_DIR", dir("db"))
            .env("STEMEDB_JOIN", join.join(","))
            .env("STEMEDB_BOOTSTRAP_EXPECT", "3")
            .env("STEMEDB_ROOT_API_KEY", ROOT_KEY)
            .env("STEMEDB_CLUSTER_SECRET", SECRET)
            .env("STEMEDB_LOG", "warn")
            .stdin(Stdio::null());
        command
    }

    pub fn start(&mut self, peers: &[u16]) {
        self.start_with(peers, |_| {});
    }

    /// Starts it with more in its environment.
    pub fn start_with(&mut self, peers: &[u16], set: impl FnOnce(&mut Command)) {
        assert!(self.process.is_none(), "{} runs already", self.name);
        let log = self.dir.path().join("stderr.log");
        let log = std::fs::File::options().append(true).create(true).open(log).unwrap();
        let mut command = self.command(peers);
        set(&mut command);
        let process = command.stdout(Stdio::null()).stderr(log).spawn();
        self.process = Some(process.expect("starts"));
    }

    /// SIGKILL, by pid; returns when the process is gone.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// SIGTERM, by pid; returns the exit code when the process is gone.
    pub fn terminate(&mut self) -> Option<i32> {
        self.ask_to_end();
        self.wait_for_end()
    }

    /// Sends SIGTERM.
    pub fn ask_to_end(&self) {
        let process = self.process.as_ref().expect("it runs");
        let pid = rustix::process::Pid::from_child(process);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    /// Whether it has not ended yet.
    pub fn runs(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.try_wait().unwrap().is_none())
    }

    /// Waits for its end; its exit code.
    pub fn wait_for_end(&mut self) -> Option<i32> {
        self.process.take()?.wait().unwrap().code()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("stderr.log")).unwrap_or_default()
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Cluster {
    /// Three nodes, started together, ready.
    pub async fn start() -> Self {
        let mut cluster = Self::placed();
        for number in 0..3 {
            cluster.start_node(number);
        }
        cluster.wait_ready().await;
        cluster
    }

    pub fn placed() -> Self {
        // Once per process; a second try changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .timeout(Duration::from_secs(12))
            .pool_max_idle_per_host(64)
            .build()
            .unwrap();
        Self { nodes: (0..3).map(Node::place).collect(), client }
    }

    pub fn peers(&self) -> Vec<u16> {
        self.nodes.iter().map(|node| node.gossip).collect()
    }

    pub fn start_node(&mut self, number: usize) {
        let peers = self.peers();
        self.nodes[number].start(&peers);
    }

    pub fn gateway(&self, number: usize, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.nodes[number].gateway)
    }

    pub fn own(&self, number: usize, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.nodes[number].http)
    }

    /// Waits until every running node says that it is ready.
    pub async fn wait_ready(&self) {
        let deadline = Instant::now() + Duration::from_secs(40);
        for (number, node) in self.nodes.iter().enumerate() {
            if node.process.is_none() {
                continue;
            }
            loop {
                let answer = self.client.get(self.own(number, "/readyz")).send().await;
                let said = match answer {
                    Ok(answer) if answer.status() == 200 => break,
                    Ok(answer) => answer.text().await.unwrap_or_default(),
                    Err(error) => error.to_string(),
                };
                let log = node.log();
                assert!(Instant::now() < deadline, "{} is not ready: {said}\n{log}", node.name);
                // Readiness has no event to wait for from outside the process.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    /// A key of a project, made by the root key.
    pub async fn project_key(&self, project: &str) -> String {
        let answer = self
            .client
            .post(self.gateway(0, "/v1/admin/api-keys"))
            .header("X-API-Key", ROOT_KEY)
            .json(
                &serde_json::json!({"label": format!("project-{project}"), "role": "write_agent"}),
            )
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 201);
        let body: serde_json::Value = answer.json().await.unwrap();
        body["key"].as_str().expect("a key").to_owned()
    }

    /// Which node leads most shards.
    pub async fn busiest_leader(&self) -> usize {
        let answer = self.client.get(self.own(0, "/v1/cluster/status"));
        let answer = answer.header("X-API-Key", ROOT_KEY).send().await.unwrap();
        let body: serde_json::Value = answer.json().await.unwrap();
        let leaders = |name: &str| {
            let nodes = body["nodes"].as_array().expect("nodes");
            let node = nodes.iter().find(|node| node["name"] == name);
            node.and_then(|node| node["leaders"].as_u64()).unwrap_or(0)
        };
        let count = |number: &usize| leaders(&self.nodes[*number].name);
        (0..self.nodes.len()).max_by_key(count).unwrap()
    }
}
