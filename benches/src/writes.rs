//! What a put costs the disk, and what is left of it there.
//!
//! One node alone of each system takes the same number of puts of random values under different
//! keys, by clients in a closed loop. Then it is left until it writes no more, ended by SIGTERM
//! (which makes ours flush what it holds in memory), started again, which is timed, and left
//! alone once more. Everything its processes wrote in all that time counts, and the space is
//! what its files are allocated at the end.
//!
//! The kernel counts for a process whole folios of the page cache as it makes them dirty. On
//! file systems with large folios (ext4 since Linux 6.16) a few bytes may count as a mebibyte.
//! The block device counts what was really sent to it, the file system's journal included, and
//! what others wrote too: on a quiet machine it is the better figure. Both are shown.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;
use tokio::time::sleep;

use crate::cli::{Output, System, WritesArgs};
use crate::fleet::Fleet;
use crate::load::{self, Workload};
use crate::report::built;
use crate::{etcd, place, procfs, stemedb, table};

const MIB: f64 = 1_048_576.0;
/// A server has settled once it wrote less than this ...
const QUIET_BYTES: u64 = 256 << 10;
/// ... in so long.
const QUIET_TIME: Duration = Duration::from_secs(10);
/// How long it may take to settle.
const SETTLE_LIMIT: Duration = Duration::from_secs(900);
/// How long it may take to be ready again.
const RESTART_LIMIT: Duration = Duration::from_secs(600);

/// What came of one system.
struct Figures {
    system: System,
    puts_per_s: f64,
    written_bytes: u64,
    device_bytes: u64,
    space_bytes: u64,
    rss_bytes: u64,
    restart: Duration,
    rss_after_restart_bytes: u64,
}

/// Measures each system and prints the figures.
///
/// # Errors
/// A server did not start, ended, or did not settle.
pub(crate) async fn run(arguments: &WritesArgs) -> Result<ExitCode> {
    let systems = match arguments.only {
        Some(system) => vec![system],
        None => vec![System::Stemedb, System::Etcd],
    };
    let scratch = place::scratch(&arguments.servers.data_dir)?;
    let mut all = Vec::new();
    for system in systems {
        let dir = scratch.path().join(system.to_string());
        eprintln!("{system}: {} puts of {} bytes", arguments.puts, arguments.value_bytes);
        let figures = match system {
            System::Stemedb => {
                let mut cluster = stemedb::start(&arguments.servers, 1, &dir).await?;
                let store = cluster.store().await?;
                let place = (dir.join("node-0"), cluster.nodes[0]);
                measure(arguments, system, cluster.fleet, &store, place).await
            }
            System::Etcd => {
                let cluster = etcd::start(&arguments.servers, 1, &dir).await?;
                let store = cluster.store().await?;
                let place = (dir.join("member-0"), cluster.members[0]);
                measure(arguments, system, cluster.fleet, &store, place).await
            }
        };
        all.push(figures.with_context(|| system.to_string())?);
        std::fs::remove_dir_all(&dir)?;
    }
    match arguments.servers.output {
        Output::Table => print!("{}", text(arguments, &all)),
        Output::Json => println!("{:#}", json(arguments, &all)),
    }
    Ok(ExitCode::SUCCESS)
}

async fn measure<S: load::Store>(
    arguments: &WritesArgs,
    system: System,
    mut fleet: Fleet,
    store: &S,
    (dir, address): (PathBuf, std::net::SocketAddr),
) -> Result<Figures> {
    let workload = Workload {
        keys: arguments.puts,
        value_bytes: arguments.value_bytes as usize,
        seed: arguments.seed,
    };
    let (device_before, before) = (procfs::device_written_bytes()?, fleet.written_bytes(0)?);
    let begun = Instant::now();
    load::preload(store, workload).await?;
    let puts_per_s = arguments.puts as f64 / begun.elapsed().as_secs_f64();
    settle(&mut fleet, "the puts").await?;
    let rss_bytes = fleet.usages()?[0].rss_bytes;
    let first = fleet.end(0).await?;
    let begun = Instant::now();
    fleet.start_again(0)?;
    let path = if system == System::Etcd { "/health" } else { "/readyz" };
    let ready =
        async || Ok(crate::http::get(address, path).await.is_ok_and(|a| a.success().is_ok()));
    fleet.wait_long(RESTART_LIMIT, &[0], ready).await.context("ready again")?;
    let restart = begun.elapsed();
    eprintln!("  ready again after {:.2} s", restart.as_secs_f64());
    settle(&mut fleet, "the restart").await?;
    let second = fleet.written_bytes(0)?;
    let figures = Figures {
        system,
        puts_per_s,
        written_bytes: first - before + second,
        device_bytes: procfs::device_written_bytes()? - device_before,
        space_bytes: space(&dir),
        rss_bytes,
        restart,
        rss_after_restart_bytes: fleet.usages()?[0].rss_bytes,
    };
    fleet.stop().await?;
    Ok(figures)
}

/// The server's files, without the log that the driver keeps of it.
fn space(dir: &Path) -> u64 {
    let log = std::fs::metadata(dir.join("log")).map_or(0, |log| log.len().next_multiple_of(4096));
    place::allocated_bytes(dir).saturating_sub(log)
}

/// Waits until the server writes no more.
async fn settle(fleet: &mut Fleet, after: &str) -> Result<()> {
    let begun = Instant::now();
    let mut last = fleet.written_bytes(0)?;
    loop {
        sleep(QUIET_TIME).await;
        fleet.check_running()?;
        let now = fleet.written_bytes(0)?;
        eprintln!("  after {after}: {:.1} MiB written", now as f64 / MIB);
        if now - last < QUIET_BYTES {
            return Ok(());
        }
        last = now;
        anyhow::ensure!(begun.elapsed() < SETTLE_LIMIT, "not settled after {SETTLE_LIMIT:?}");
    }
}

fn text(arguments: &WritesArgs, all: &[Figures]) -> String {
    let headers = [
        "system",
        "puts/s",
        "written B/put",
        "device B/put",
        "space MiB",
        "RSS MiB",
        "restart s",
        "RSS after MiB",
    ];
    let row = |f: &Figures| {
        let per_put = |bytes: u64| format!("{:.0}", bytes as f64 / arguments.puts as f64);
        let mib = |bytes: u64| format!("{:.1}", bytes as f64 / MIB);
        vec![
            f.system.to_string(),
            format!("{:.0}", f.puts_per_s),
            per_put(f.written_bytes),
            per_put(f.device_bytes),
            mib(f.space_bytes),
            mib(f.rss_bytes),
            format!("{:.2}", f.restart.as_secs_f64()),
            mib(f.rss_after_restart_bytes),
        ]
    };
    let rows: Vec<_> = all.iter().map(row).collect();
    let mut text = table::markdown(&headers, &rows, 1);
    text.push('\n');
    for (what, value, at_most) in targets(all) {
        let verdict = if value <= at_most { "held" } else { "NOT HELD" };
        text.push_str(&format!("target: {what} {value:.2}, at most {at_most}: {verdict}\n"));
    }
    let WritesArgs { puts, value_bytes, .. } = arguments;
    text.push_str(&format!("{puts} puts of {value_bytes} bytes\n{}", built()));
    text
}

/// What is asked of our figures: what, how much it is, how much it may be.
fn targets(all: &[Figures]) -> Vec<(&'static str, f64, f64)> {
    let of = |system| all.iter().find(|figures| figures.system == system);
    let Some(ours) = of(System::Stemedb) else { return Vec::new() };
    let mut targets = vec![("RSS MiB", ours.rss_bytes as f64 / MIB, 400.0)];
    if let Some(theirs) = of(System::Etcd) {
        let over = |ours: u64, theirs: u64| ours as f64 / theirs as f64;
        let (written, space) = ("written by the process x etcd", "space x etcd");
        targets.push((written, over(ours.written_bytes, theirs.written_bytes), 1.0));
        let device = "written to the device x etcd";
        targets.push((device, over(ours.device_bytes, theirs.device_bytes), 1.0));
        targets.push((space, over(ours.space_bytes, theirs.space_bytes), 0.5));
    }
    targets
}

fn json(arguments: &WritesArgs, all: &[Figures]) -> serde_json::Value {
    let figures = |f: &Figures| {
        json!({
            "system": f.system.to_string(),
            "puts_per_s": f.puts_per_s,
            "written_bytes": f.written_bytes,
            "device_bytes": f.device_bytes,
            "space_bytes": f.space_bytes,
            "rss_bytes": f.rss_bytes,
            "restart_s": f.restart.as_secs_f64(),
            "rss_after_restart_bytes": f.rss_after_restart_bytes,
        })
    };
    json!({
        "built": built(),
        "puts": arguments.puts,
        "value_bytes": arguments.value_bytes,
        "systems": all.iter().map(figures).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(system: System, written_bytes: u64, space_bytes: u64) -> Figures {
        Figures {
            system,
            puts_per_s: 1.0,
            written_bytes,
            device_bytes: 2 * written_bytes,
            space_bytes,
            rss_bytes: 500 << 20,
            restart: Duration::from_secs(1),
            rss_after_restart_bytes: 0,
        }
    }

    #[test]
    fn targets_are_about_our_figures_over_those_of_etcd() {
        let ours = figures(System::Stemedb, 80, 60);
        let theirs = figures(System::Etcd, 100, 100);
        let alone = [("RSS MiB", 500.0, 400.0)];
        assert_eq!(targets(std::slice::from_ref(&ours)), alone);
        let both = [
            alone[0],
            ("written by the process x etcd", 0.8, 1.0),
            ("written to the device x etcd", 0.8, 1.0),
            ("space x etcd", 0.6, 0.5),
        ];
        assert_eq!(targets(&[ours, theirs]), both);
    }
}
