//! How long a node takes to come back with a long log.
//!
//! One node alone is set up so that it flushes nothing, filled until its log is as long as was
//! asked for, and killed. Then it is started again with the same settings: all of the log has to
//! be read and applied anew. The time counts from the start of the process until it is ready;
//! what `/startupz` says meanwhile is shown.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::cli::{Output, ReplayArgs, Servers};
use crate::http::get;
use crate::load::{self, Workload};
use crate::report::built;
use crate::{place, stemedb};

const MIB: u64 = 1 << 20;
/// How long the replay may take before it is given up.
const REPLAY_LIMIT: Duration = Duration::from_secs(900);
/// How long a node may take to see how long its files are.
const FILES_SEEN_WITHIN: Duration = Duration::from_secs(5);
/// At most one byte in so many is written over.
const WRITTEN_OVER: u64 = 100;
/// Keys written between two looks at the log.
const CHUNK_KEYS: u64 = 50_000;
/// The target, seconds for each GiB of log.
const TARGET_S_PER_GIB: f64 = 25.0;

/// Measures once and prints the figures.
///
/// # Errors
/// The node did not start, flushed all the same, or was not ready in time.
pub(crate) async fn run(arguments: &ReplayArgs) -> Result<ExitCode> {
    let servers = without_flushes(arguments);
    let scratch = place::scratch(&servers.data_dir)?;
    let mut cluster = stemedb::start(&servers, 1, scratch.path()).await?;
    let store = cluster.store().await?;
    let keys = fill(arguments, &store, cluster.nodes[0]).await?;
    let log_bytes = log_bytes(cluster.nodes[0]).await?;
    drop(store);
    cluster.fleet.kill(0).await?;

    eprintln!("{} MiB of log, {keys} puts: killed, starting again", log_bytes / MIB);
    let begun = Instant::now();
    cluster.fleet.start_again(0)?;
    let address = cluster.nodes[0];
    let (mut shown, mut replayed) = (String::new(), 0);
    let ready = async || {
        replayed = show(begun, address, &mut shown).await.unwrap_or(replayed);
        Ok(get(address, "/readyz").await.is_ok_and(|answer| answer.success().is_ok()))
    };
    cluster.fleet.wait_long(REPLAY_LIMIT, &[0], ready).await.context("replayed")?;
    let took = begun.elapsed();
    // A few of the first ones are in the store since the node opened its groups.
    let all = keys - keys / 100;
    ensure!(replayed >= all, "only {replayed} entries were replayed for {keys} puts");
    let rss_bytes = cluster.fleet.usages()?[0].rss_bytes;
    cluster.fleet.stop().await?;
    print(arguments, keys, log_bytes, took, rss_bytes);
    Ok(ExitCode::SUCCESS)
}

/// The log and the memory of the store hold more than will be written.
fn without_flushes(arguments: &ReplayArgs) -> Servers {
    let mut servers = arguments.servers.clone();
    let log_bytes = arguments.log_mib * MIB * 4;
    let settings = [("LIVE_LOG_BYTES_MAX", log_bytes), ("WRITE_BUFFER_BYTES", 4 << 30)];
    let settings = settings.map(|(name, value)| (format!("STEMEDB_{name}"), value.to_string()));
    // What was asked for on the command line comes last and wins.
    servers.stemedb_env.splice(0..0, settings);
    servers
}

/// Writes keys until the log is long enough. Returns how many.
async fn fill(arguments: &ReplayArgs, store: &stemedb::Store, node: SocketAddr) -> Result<u64> {
    let value_bytes = arguments.value_bytes as usize;
    let workload = Workload { keys: u64::MAX, value_bytes, seed: arguments.seed };
    let wanted = arguments.log_mib * MIB;
    // What each put adds is learned from the first ones.
    let (mut keys, mut per_key) = (0, 2 * value_bytes as u64 + 500);
    loop {
        let long = log_bytes(node).await?;
        per_key = long.checked_div(keys).unwrap_or(per_key).max(1);
        if long >= wanted {
            return Ok(keys);
        }
        eprintln!("  {} of {} MiB of log", long / MIB, arguments.log_mib);
        let more = ((wanted - long) / per_key + 1).clamp(1000, CHUNK_KEYS);
        load::write_keys(store, workload, keys..keys + more).await?;
        keys += more;
    }
}

/// What the node has written to its log since it was made. All of it must still be there: the node
/// looks at its files once a second, so they may be a little behind; and the end of a batch is
/// written over by the next, so there is a little less in them than was written.
async fn log_bytes(node: SocketAddr) -> Result<u64> {
    let (written, mut kept) = log_figures(node).await?;
    let there = |kept: u64| kept >= written - written / WRITTEN_OVER;
    let begun = Instant::now();
    while !there(kept) && begun.elapsed() < FILES_SEEN_WITHIN {
        sleep(Duration::from_millis(200)).await;
        (_, kept) = log_figures(node).await?;
    }
    ensure!(there(kept), "the log was cut: {written} bytes written, files of {kept} bytes");
    Ok(written)
}

/// What was written to the log, and how long its files are.
async fn log_figures(node: SocketAddr) -> Result<(u64, u64)> {
    let text = get(node, "/metrics").await?.success()?;
    let text = String::from_utf8_lossy(&text);
    let written = gauge(&text, "stemedb_wal_bytes_total").context("no count of log bytes")?;
    let kept = gauge(&text, "stemedb_storage_bytes{kind=\"log\"}");
    Ok((written, kept.context("no gauge of the log's files")?))
}

/// The value of a metric in the Prometheus text format.
fn gauge(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().parse::<f64>().ok()? as u64)
}

/// Prints what `/startupz` says, if that is new. Returns how many entries it counts in all.
async fn show(begun: Instant, address: SocketAddr, shown: &mut String) -> Option<u64> {
    let answer = get(address, "/startupz").await.ok()?;
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let said = format!("{} of {} entries", body["replayed_entries"], body["total_entries"]);
    if *shown != said {
        eprintln!("  {:6.2} s: {said}", begun.elapsed().as_secs_f64());
        *shown = said;
    }
    body["total_entries"].as_u64()
}

fn print(arguments: &ReplayArgs, keys: u64, log_bytes: u64, took: Duration, rss_bytes: u64) {
    let (seconds, gib) = (took.as_secs_f64(), log_bytes as f64 / (1u64 << 30) as f64);
    if arguments.servers.output == Output::Json {
        let value_bytes = arguments.value_bytes;
        let figures = json!({
            "built": built(), "puts": keys, "value_bytes": value_bytes, "log_bytes": log_bytes,
            "ready_s": seconds, "rss_bytes": rss_bytes,
        });
        println!("{figures:#}");
        return;
    }
    let verdict = if seconds / gib <= TARGET_S_PER_GIB { "held" } else { "NOT HELD" };
    println!("| puts | value B | log MiB | ready s | s/GiB | MiB/s | RSS MiB |");
    println!("| --: | --: | --: | --: | --: | --: | --: |");
    println!(
        "| {keys} | {} | {} | {seconds:.2} | {:.2} | {:.1} | {} |",
        arguments.value_bytes,
        log_bytes / MIB,
        seconds / gib,
        log_bytes as f64 / MIB as f64 / seconds,
        rss_bytes / MIB,
    );
    println!("\ntarget: {:.2} s/GiB, at most {TARGET_S_PER_GIB}: {verdict}", seconds / gib);
    print!("{}", built());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gauge_is_read_by_its_whole_name() {
        let text = "# HELP x\nx{kind=\"store\"} 5\nx{kind=\"log\"} 1.5e3\n";
        assert_eq!(gauge(text, "x{kind=\"log\"}"), Some(1500));
        assert_eq!((gauge(text, "y"), gauge("x nothing", "x")), (None, None));
    }
}
