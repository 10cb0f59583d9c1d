//! A `stemedb serve` that is alone: its place stays, its process comes and goes.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::ports;

const ROOT_KEY: &str = "steme_live_0123456789abcdef0123456789abcdef0123456789abcdef";
const PATIENCE: Duration = Duration::from_secs(30);

/// One node, small enough that its log turns over and its store flushes within a round.
pub(crate) struct Node {
    http: u16,
    gateway: u16,
    place: TempDir,
    process: Option<Child>,
    pub(crate) client: reqwest::Client,
    /// A key of a project, once it was made.
    key: Option<String>,
}

impl Node {
    pub(crate) fn new() -> Self {
        // Once per process; a second try changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let place = tempfile::tempdir().unwrap();
        std::fs::create_dir(place.path().join("data")).unwrap();
        std::fs::create_dir(place.path().join("aside")).unwrap();
        let client = reqwest::Client::builder().timeout(Duration::from_secs(12)).build().unwrap();
        let (http, gateway) = (ports::free(), ports::free());
        Self { http, gateway, place, process: None, client, key: None }
    }

    /// The folder in which the node makes those of its log and its store.
    pub(crate) fn data(&self) -> PathBuf {
        self.place.path().join("data").canonicalize().unwrap()
    }

    /// A folder beside it.
    pub(crate) fn aside(&self) -> PathBuf {
        self.place.path().join("aside")
    }

    /// The binary with this node's settings.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stemedb"));
        let log = std::fs::File::options().append(true).create(true).open(self.log_path()).unwrap();
        command
            .arg("serve")
            .env_clear()
            .env("STEMEDB_BIND_ADDR", format!("127.0.0.1:{}", self.http))
            .env("STEMEDB_GATEWAY_ADDR", format!("127.0.0.1:{}", self.gateway))
            .env("STEMEDB_NODE_NAME", "alone")
            .env("STEMEDB_WAL_DIR", self.data().join("wal"))
            .env("STEMEDB_DB_DIR", self.data().join("db"))
            .env("STEMEDB_WAL_SEGMENT_BYTES", "256KiB")
            .env("STEMEDB_LIVE_LOG_BYTES_MAX", "512KiB")
            .env("STEMEDB_WRITE_BUFFER_BYTES", "1MiB")
            .env("STEMEDB_ROOT_API_KEY", ROOT_KEY)
            .env("STEMEDB_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        command
    }

    pub(crate) fn start(&mut self, mut command: Command) {
        assert!(self.process.is_none(), "it runs already");
        self.process = Some(command.spawn().expect("starts"));
    }

    /// SIGKILL, by pid; returns when the process is gone.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// SIGTERM; returns when the process has ended by itself.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        let mut process = self.process.take().expect("it runs");
        let pid = rustix::process::Pid::from_child(&process);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        process.wait().unwrap()
    }

    fn log_path(&self) -> PathBuf {
        self.place.path().join("stderr.log")
    }

    /// What the processes said.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Waits until the node is ready, or says why it will not be.
    pub(crate) async fn ready(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        let url = format!("http://127.0.0.1:{}/readyz", self.http);
        loop {
            let answer = self.client.get(&url).send().await;
            if answer.is_ok_and(|answer| answer.status() == 200) {
                return Ok(());
            }
            let ended = self.process.as_mut().and_then(|process| process.try_wait().unwrap());
            if let Some(status) = ended {
                self.process = None;
                return Err(format!("it ended with {status}: {}", self.log()));
            }
            if Instant::now() > deadline {
                return Err(format!("it does not get ready: {}", self.log()));
            }
            // Readiness has no event to wait for from outside the process.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.gateway)
    }

    /// A key of a project, which is made once and must live on.
    pub(crate) async fn key(&mut self) -> String {
        if self.key.is_none() {
            let body = serde_json::json!({"label": "project-crash", "role": "write_agent"});
            let asked = self.client.post(self.url("/v1/admin/api-keys")).json(&body);
            let answer = asked.header("X-API-Key", ROOT_KEY).send().await.unwrap();
            assert_eq!(answer.status(), 201);
            let body: serde_json::Value = answer.json().await.unwrap();
            self.key = body["key"].as_str().map(str::to_owned);
        }
        self.key.clone().expect("a key")
    }

    /// Keeps what the node left behind for a person to look at; says where.
    pub(crate) fn keep(&self) -> &Path {
        self.place.path()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            self.place.disable_cleanup(true);
            eprintln!("what the node left is in {}", self.keep().display());
        }
    }
}
