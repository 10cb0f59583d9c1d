//! Three processes: started, watched, stopped.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use stemedb_client::Client;
use tokio::process::{ChildStdin, Command};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, timeout_at};

use super::files::DevFiles;
use crate::cli::DevArgs;
use crate::commands::ingest::progress;
use crate::exit::Failure;

/// How many nodes.
const NODES: u16 = 3;
/// Between the ports of one node and the next.
const PORT_STEP: u16 = 10;
/// How long the nodes may take to become ready.
const START_MAX: Duration = Duration::from_secs(60);
/// How often they are asked: there is no event that crosses processes.
const ASK_INTERVAL: Duration = Duration::from_millis(100);
/// How long one of them may take to answer.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// How long nodes may take to stop before they are killed.
const STOP_MAX: Duration = Duration::from_secs(15);
/// How many lines of its log a dead node is remembered by.
const LAST_LINES: usize = 12;
/// How much of the end of a log is read for them, in bytes.
const LAST_BYTES: usize = 16 * 1024;

/// Where one node listens and keeps its data.
#[derive(Clone, Debug)]
struct Seat {
    name: String,
    /// The first of its four ports: HTTP, gateway, gRPC, gossip.
    port: u16,
    folder: PathBuf,
}

/// The running nodes.
pub(crate) struct Nodes {
    seats: Vec<Seat>,
    /// One task for each process, which ends with it.
    running: JoinSet<(usize, std::io::Result<ExitStatus>)>,
    /// Those that have not been seen to end.
    pids: BTreeMap<usize, Pid>,
    /// Closing these stops the nodes: held for as long as they should run.
    _leashes: Vec<Option<ChildStdin>>,
}

impl Seat {
    fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// The command of this node, with nothing of our own settings in its environment.
    fn command(&self, join: &str, files: &DevFiles) -> std::io::Result<Command> {
        fs::create_dir_all(&self.folder)?;
        let mut command = Command::new(std::env::current_exe()?);
        for (name, _) in std::env::vars_os() {
            let ours =
                name.to_str().is_some_and(|n| n.starts_with("STEMEDB_") && n != "STEMEDB_LOG");
            if ours {
                command.env_remove(name);
            }
        }
        let addresses = ["BIND", "GATEWAY", "GRPC", "GOSSIP"];
        for (offset, what) in (0..).zip(addresses) {
            command
                .env(format!("STEMEDB_{what}_ADDR"), format!("127.0.0.1:{}", self.port + offset));
        }
        command
            .env("STEMEDB_ADVERTISE_HOST", "127.0.0.1")
            .env("STEMEDB_NODE_NAME", &self.name)
            .env("STEMEDB_WAL_DIR", self.folder.join("wal"))
            .env("STEMEDB_DB_DIR", self.folder.join("db"))
            .env("STEMEDB_JOIN", join)
            .env("STEMEDB_BOOTSTRAP_EXPECT", NODES.to_string())
            .env("STEMEDB_ROOT_API_KEY_FILE", &files.root_key)
            .env("STEMEDB_CLUSTER_SECRET_FILE", &files.cluster_secret)
            .args(["serve", "--until-stdin-ends"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(File::create(self.log())?)
            // A Ctrl-C at the terminal is for us alone.
            .process_group(0)
            .kill_on_drop(true);
        Ok(command)
    }
}

impl Nodes {
    /// Starts the processes.
    pub(crate) fn start(args: &DevArgs, files: &DevFiles) -> Result<Self, Failure> {
        let seat = |n: u16| Seat {
            name: format!("dev-{}", n + 1),
            port: args.port_base + n * PORT_STEP,
            folder: files.folder.join(format!("dev-{}", n + 1)),
        };
        let seats: Vec<Seat> = (0..NODES).map(seat).collect();
        let gossip = seats.iter().map(|seat| format!("127.0.0.1:{}", seat.port + 3));
        let join = gossip.collect::<Vec<_>>().join(",");
        let mut nodes =
            Self { seats, running: JoinSet::new(), pids: BTreeMap::new(), _leashes: Vec::new() };
        for (index, seat) in nodes.seats.clone().iter().enumerate() {
            let spawned = seat.command(&join, files).and_then(|mut command| command.spawn());
            let mut child =
                spawned.map_err(|error| Failure::error(format!("{}: {error}", seat.name)))?;
            nodes._leashes.push(child.stdin.take());
            let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
            nodes.pids.extend(pid.map(|pid| (index, pid)));
            nodes.running.spawn(async move { (index, child.wait().await) });
        }
        Ok(nodes)
    }

    /// The gateway of the first node.
    pub(crate) fn gateway(&self) -> String {
        let port = self.seats.first().map_or(0, |seat| seat.port + 1);
        format!("http://127.0.0.1:{port}")
    }

    /// Waits until each node says that it is ready. Fails as soon as one ends.
    pub(crate) async fn wait_ready(&mut self) -> Result<(), Failure> {
        let clients: Vec<Client> = self.seats.iter().map(probe).collect::<Result<_, _>>()?;
        let bar = progress(u64::from(NODES), "nodes ready".to_owned());
        let deadline = Instant::now() + START_MAX;
        let mut ticks = interval(ASK_INTERVAL);
        loop {
            tokio::select! {
                failure = self.death() => return Err(failure),
                _ = ticks.tick() => {}
            }
            let mut waiting = Vec::new();
            for (client, seat) in clients.iter().zip(&self.seats) {
                match client.readyz().await {
                    Ok(readiness) if readiness.ready => {}
                    Ok(readiness) => {
                        waiting.push(format!("{}: {}", seat.name, readiness.reasons.join("; ")));
                    }
                    Err(error) => waiting.push(format!("{}: {error}", seat.name)),
                }
            }
            bar.set_position((clients.len() - waiting.len()) as u64);
            if waiting.is_empty() {
                bar.finish_and_clear();
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(Failure::error(format!("not ready in time: {}", waiting.join(", "))));
            }
        }
    }

    /// Waits until a node ends, which none should, and tells its last words.
    pub(crate) async fn death(&mut self) -> Failure {
        let Some(joined) = self.running.join_next().await else {
            return Failure::error("no node is running");
        };
        let (index, status) = match joined {
            Ok((index, Ok(status))) => (index, status.to_string()),
            Ok((index, Err(error))) => (index, error.to_string()),
            Err(error) => return Failure::error(error),
        };
        self.pids.remove(&index);
        let Some(seat) = self.seats.get(index) else { return Failure::error(status) };
        let words = last_lines(&seat.log());
        Failure::error(format!("node {} ended ({status}); its last words:\n{words}", seat.name))
    }

    /// Stops every node that still runs: asked first, killed if it takes too long.
    pub(crate) async fn stop(mut self) {
        self.signal(Signal::TERM);
        let deadline = Instant::now() + STOP_MAX;
        while let Ok(Some(joined)) = timeout_at(deadline, self.running.join_next()).await {
            if let Ok((index, _)) = joined {
                self.pids.remove(&index);
            }
        }
        self.signal(Signal::KILL);
        while self.running.join_next().await.is_some() {}
    }

    fn signal(&self, signal: Signal) {
        for pid in self.pids.values() {
            // One that has just ended by itself can't be signalled, and need not be.
            let _ = kill_process(*pid, signal);
        }
    }
}

fn probe(seat: &Seat) -> Result<Client, Failure> {
    let url = format!("http://127.0.0.1:{}", seat.port);
    Ok(Client::builder(url).timeout(ASK_TIMEOUT).build()?)
}

/// The end of a log, a line at a time.
fn last_lines(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    let tail = bytes.get(bytes.len().saturating_sub(LAST_BYTES)..).unwrap_or_default();
    let text = String::from_utf8_lossy(tail);
    let lines: Vec<_> = text.lines().collect();
    let last = lines.get(lines.len().saturating_sub(LAST_LINES)..).unwrap_or_default();
    last.iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_node_is_remembered_by_the_end_of_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let text: String = (0..100).map(|n| format!("line {n}\n")).collect();
        fs::write(&path, text).unwrap();
        let words = last_lines(&path);
        assert!(words.starts_with("  line 88\n") && words.ends_with("  line 99"), "{words}");
        assert_eq!(last_lines(&folder.path().join("none")), "");
    }
}
