//! Server processes: started, watched, ended by their id.
//!
//! Every process belongs to a [`Fleet`], which kills it when dropped, so
//! whatever ends a measurement also ends its servers. Two things escape: a
//! SIGKILL of the driver itself leaves the servers running, since asking the
//! kernel to end them with their parent would need unsafe code; and a server's
//! own children, but neither system has any.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::procfs::{self, Usage};

/// How long servers may take to be ready.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long a probe may take.
const PROBE_LIMIT: Duration = Duration::from_secs(5);
/// Between two probes: another process tells us nothing when it is ready.
const PROBE_PAUSE: Duration = Duration::from_millis(50);
/// How long servers may take to end on SIGTERM.
const STOP_LIMIT: Duration = Duration::from_secs(15);
/// How long one server may take to end that is to be started again.
const END_LIMIT: Duration = Duration::from_secs(120);
/// Between two looks at a server that is ending.
const END_PAUSE: Duration = Duration::from_millis(5);
/// Between two looks at something that takes long.
const LOOK_PAUSE: Duration = Duration::from_millis(100);
/// How much of the end of a server's log is shown when it did not start.
const LOG_LINES_SHOWN: usize = 15;

/// Servers that make one cluster.
pub(crate) struct Fleet {
    processes: Vec<Process>,
}

/// How to start one server.
#[derive(Clone)]
pub(crate) struct Launch {
    /// How it is called in messages.
    pub(crate) name: String,
    /// The program: a path, or a name found by `PATH`.
    pub(crate) program: PathBuf,
    /// Its arguments.
    pub(crate) arguments: Vec<String>,
    /// Settings by environment; the driver's own with the same prefix are not passed on.
    pub(crate) environment: Vec<(String, String)>,
    /// The prefix of the names of settings.
    pub(crate) prefix: &'static str,
    /// Its working directory, where its log is written too; made if need be.
    pub(crate) dir: PathBuf,
}

struct Process {
    launch: Launch,
    child: Child,
    log: PathBuf,
}

impl Fleet {
    /// Starts the servers, all at once.
    ///
    /// # Errors
    /// One could not be started; those that were are killed.
    pub(crate) fn start(launches: Vec<Launch>) -> Result<Self> {
        let mut fleet = Fleet { processes: Vec::with_capacity(launches.len()) };
        for launch in launches {
            fleet.processes.push(Process::start(launch)?);
        }
        Ok(fleet)
    }

    /// Waits until `probe` succeeds.
    ///
    /// # Errors
    /// A server ended, with the end of its log, or the time is over, with what the probe said
    /// last.
    pub(crate) async fn wait_until<T>(
        &mut self,
        what: &str,
        mut probe: impl AsyncFnMut() -> Result<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let outcome = timeout(PROBE_LIMIT, probe()).await;
            let last = match outcome {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(error)) => error,
                Err(_) => anyhow::anyhow!("no answer in {PROBE_LIMIT:?}"),
            };
            self.check_running()?;
            if Instant::now() >= deadline {
                return Err(last.context(format!("{what}: not within {START_LIMIT:?}")));
            }
            sleep(PROBE_PAUSE).await;
        }
    }

    /// # Errors
    /// One of the servers has ended.
    pub(crate) fn check_running(&mut self) -> Result<()> {
        self.processes.iter_mut().try_for_each(Process::check_running)
    }

    /// The usage of each server, in the order of their start.
    ///
    /// # Errors
    /// One of them has ended.
    pub(crate) fn usages(&self) -> Result<Vec<Usage>> {
        self.processes.iter().map(Process::usage).collect()
    }

    /// CPU time of all servers together.
    ///
    /// # Errors
    /// One of them has ended.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        Ok(self.usages()?.iter().map(|usage| usage.cpu).sum())
    }

    /// Bytes the server of this number has caused to be written to disk since its start.
    ///
    /// # Errors
    /// It has ended.
    pub(crate) fn written_bytes(&self, server: usize) -> Result<u64> {
        procfs::written_bytes(self.processes[server].id()?)
    }

    /// Ends one server with SIGTERM and gives what it had caused to be written at its end.
    ///
    /// # Errors
    /// It did not end in time.
    pub(crate) async fn end(&mut self, server: usize) -> Result<u64> {
        let process = &mut self.processes[server];
        let id = process.id()?;
        let mut written = procfs::written_bytes(id)?;
        process.terminate()?;
        let deadline = Instant::now() + END_LIMIT;
        // It can be read until the end is waited for, so it is looked at before each look.
        loop {
            written = procfs::written_bytes(id).unwrap_or(written);
            if process.child.try_wait()?.is_some() {
                return Ok(written);
            }
            if Instant::now() >= deadline {
                bail!("{} did not end within {END_LIMIT:?}", process.launch.name);
            }
            sleep(END_PAUSE).await;
        }
    }

    /// Ends one server with SIGKILL.
    ///
    /// # Errors
    /// The operating system refused.
    pub(crate) async fn kill(&mut self, server: usize) -> Result<()> {
        Ok(self.processes[server].child.kill().await?)
    }

    /// Starts one server more; its number is given back.
    ///
    /// # Errors
    /// It could not be started.
    pub(crate) fn add(&mut self, launch: Launch) -> Result<usize> {
        self.processes.push(Process::start(launch)?);
        Ok(self.processes.len() - 1)
    }

    /// Starts a server again that has ended, in another way than before.
    ///
    /// # Errors
    /// It could not be started.
    pub(crate) fn start_as(&mut self, server: usize, launch: Launch) -> Result<()> {
        self.processes[server] = Process::start(launch)?;
        Ok(())
    }

    /// Sends one server a signal.
    ///
    /// # Errors
    /// It has ended.
    pub(crate) fn signal(&self, server: usize, signal: Signal) -> Result<()> {
        self.processes[server].signal(signal)
    }

    /// The process id of one server.
    ///
    /// # Errors
    /// It has ended.
    pub(crate) fn id(&self, server: usize) -> Result<u32> {
        self.processes[server].id()
    }

    /// # Errors
    /// That server has ended; the error shows the end of its log.
    pub(crate) fn check(&mut self, server: usize) -> Result<()> {
        self.processes[server].check_running()
    }

    /// Starts a server again that has ended, as before.
    ///
    /// # Errors
    /// It could not be started.
    pub(crate) fn start_again(&mut self, server: usize) -> Result<()> {
        let launch = self.processes[server].launch.clone();
        self.processes[server] = Process::start(launch)?;
        Ok(())
    }

    /// Waits until `probe` succeeds, however long that takes up to `limit`, and looks whether the
    /// servers `running` still are.
    ///
    /// # Errors
    /// As [`Fleet::wait_until`].
    pub(crate) async fn wait_long(
        &mut self,
        limit: Duration,
        running: &[usize],
        mut probe: impl AsyncFnMut() -> Result<bool>,
    ) -> Result<()> {
        let deadline = Instant::now() + limit;
        while !probe().await? {
            for &server in running {
                self.processes[server].check_running()?;
            }
            if Instant::now() >= deadline {
                bail!("not within {limit:?}");
            }
            sleep(LOOK_PAUSE).await;
        }
        Ok(())
    }

    /// Ends the servers: SIGTERM to all, then SIGKILL to whoever is still there, and waits
    /// until each is gone.
    ///
    /// # Errors
    /// The operating system refused.
    pub(crate) async fn stop(mut self) -> Result<()> {
        for process in &self.processes {
            process.terminate()?;
        }
        let deadline = Instant::now() + STOP_LIMIT;
        for process in &mut self.processes {
            if timeout_at(deadline, process.child.wait()).await.is_err() {
                eprintln!("{} did not end on SIGTERM and is killed", process.launch.name);
                process.child.kill().await?;
            }
        }
        Ok(())
    }
}

impl Process {
    fn start(launch: Launch) -> Result<Self> {
        std::fs::create_dir_all(&launch.dir)?;
        let log = launch.dir.join("log");
        let output = File::options().create(true).append(true).open(&log)?;
        let mut command = Command::new(resolve(&launch.program)?);
        for (name, _) in std::env::vars_os().filter(|(name, _)| starts_with(name, launch.prefix)) {
            command.env_remove(name);
        }
        command
            .args(&launch.arguments)
            .envs(launch.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(&launch.dir)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .kill_on_drop(true);
        let child =
            command.spawn().with_context(|| format!("start {}", launch.program.display()))?;
        Ok(Process { launch, child, log })
    }

    /// The id, while the process is ours to signal: it is not given to another before we have
    /// waited for it.
    fn id(&self) -> Result<u32> {
        self.child.id().with_context(|| format!("{} has ended", self.launch.name))
    }

    fn usage(&self) -> Result<Usage> {
        procfs::usage(self.id()?)
    }

    fn check_running(&mut self) -> Result<()> {
        let Some(status) = self.child.try_wait()? else { return Ok(()) };
        bail!("{} ended: {status}; the end of its log:\n{}", self.launch.name, tail(&self.log))
    }

    fn terminate(&self) -> Result<()> {
        // One that ended by itself has no id left.
        if self.child.id().is_none() {
            return Ok(());
        }
        self.signal(Signal::TERM)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let id = Pid::from_raw(self.id()?.try_into()?).context("a process id is not 0")?;
        kill_process(id, signal).with_context(|| format!("send {signal:?} to {}", self.launch.name))
    }
}

/// The first line of what `program --version` prints; "unknown" if it prints nothing.
///
/// # Errors
/// There is no such program.
pub(crate) async fn version(program: &Path) -> Result<String> {
    let mut command = Command::new(resolve(program)?);
    command.arg("--version").stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(PROBE_LIMIT, command.output()).await.context("--version hangs")?;
    let output = output.with_context(|| format!("run {}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.lines().next().unwrap_or("unknown").to_owned())
}

/// A path is made absolute, because servers run in directories of their own; a bare name stays.
pub(crate) fn resolve(program: &Path) -> Result<PathBuf> {
    if program.components().count() == 1 {
        return Ok(program.to_owned());
    }
    program.canonicalize().with_context(|| format!("find {}", program.display()))
}

fn starts_with(name: &OsStr, prefix: &str) -> bool {
    name.as_encoded_bytes().starts_with(prefix.as_bytes())
}

fn tail(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, dir: &Path) -> Launch {
        Launch {
            name: "node 1".to_owned(),
            program: PathBuf::from("sh"),
            arguments: vec!["-c".to_owned(), script.to_owned()],
            environment: vec![("BENCHED_PORT".to_owned(), "7".to_owned())],
            prefix: "BENCHED_",
            dir: dir.to_owned(),
        }
    }

    #[tokio::test]
    async fn a_server_that_ends_at_once_is_reported_with_its_log() {
        let dir = tempfile::tempdir().unwrap();
        let launch = shell("echo no disk for port $BENCHED_PORT; exit 3", dir.path());
        let mut fleet = Fleet::start(vec![launch]).unwrap();
        let ready = fleet.wait_until("ready", async || -> Result<()> { bail!("refused") }).await;
        let message = format!("{:#}", ready.unwrap_err());
        assert!(message.starts_with("node 1 ended: exit status: 3"), "{message}");
        assert!(message.ends_with("no disk for port 7"), "{message}");
    }

    #[tokio::test]
    async fn a_stopped_server_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let mut fleet = Fleet::start(vec![shell("exec sleep 60", dir.path())]).unwrap();
        fleet.check_running().unwrap();
        let id = fleet.processes[0].id().unwrap();
        assert_eq!(fleet.usages().unwrap().len(), 1);
        fleet.stop().await.unwrap();
        assert!(procfs::usage(id).is_err());
    }

    #[tokio::test]
    async fn a_dropped_fleet_takes_its_servers_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let fleet = Fleet::start(vec![shell("exec sleep 60", dir.path())]).unwrap();
        let id = fleet.processes[0].id().unwrap();
        drop(fleet);
        let stat = || std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        let gone = async {
            while !stat().is_empty() && !stat().contains(") Z ") {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(10), gone).await.expect("killed");
    }

    #[test]
    fn only_a_path_is_looked_up() {
        assert_eq!(resolve(Path::new("etcd")).unwrap(), Path::new("etcd"));
        assert!(resolve(Path::new("no/such/binary")).is_err());
    }
}
