//! The log and the metrics of the process.

use std::io::IsTerminal;
use std::time::Duration;

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder};
use stemedb_gateway::RenderMetrics;
use tracing_subscriber::EnvFilter;

use crate::exit::{Failure, USAGE};
use crate::metrics_help;

/// Bucket edges for a sync of the log, in seconds: from a good disk's to a sick one's. The alert on
/// slow syncs stands at 0.05, so that must be an edge.
const SYNC_EDGES_S: &[f64] = &[
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 2.5,
];
/// Bucket edges for a request, in seconds: 100 µs to 10 s.
const REQUEST_EDGES_S: &[f64] = &[
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];
/// Bucket edges for a flush of the store, in seconds.
const FLUSH_EDGES_S: &[f64] = &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// Bucket edges for records of one batch of the log.
const BATCH_EDGES: &[f64] =
    &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0];

/// What is said before the operator's own filter, which may say otherwise: the Raft library tells
/// every vote at `info`.
const QUIET: &str = "openraft=warn";

/// How often samples of histograms are folded into their buckets when nobody scrapes: without it
/// they would pile up in memory.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Sends the log to stderr, at the levels of `filter`.
pub(crate) fn log_to_stderr(filter: &str) -> Result<(), Failure> {
    let filter = EnvFilter::builder()
        .parse(format!("{QUIET},{filter}"))
        .map_err(|error| Failure::new(USAGE, format!("STEMEDB_LOG: {error}")))?;
    // Who installed one before, as a test does, keeps it.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init();
    Ok(())
}

/// Collects metrics from here on. Gives back what renders them and what folds them; call the
/// latter every [`UPKEEP_INTERVAL`].
pub(crate) fn collect_metrics() -> Result<(RenderMetrics, impl Future<Output = ()>), Failure> {
    let recorder = builder().map_err(Failure::error)?.install_recorder().map_err(Failure::error)?;
    stemedb_gateway::describe_metrics();
    metrics_help::describe();
    let render = recorder.clone();
    let upkeep = async move {
        let mut ticks = tokio::time::interval(UPKEEP_INTERVAL);
        loop {
            ticks.tick().await;
            recorder.run_upkeep();
        }
    };
    Ok((std::sync::Arc::new(move || render.render()), upkeep))
}

fn builder() -> Result<PrometheusBuilder, BuildError> {
    let full = |name: &str| Matcher::Full(name.to_owned());
    PrometheusBuilder::new()
        .set_buckets_for_metric(full("stemedb_wal_fsync_latency_seconds"), SYNC_EDGES_S)?
        .set_buckets_for_metric(full("stemedb_wal_batch_records"), BATCH_EDGES)?
        .set_buckets_for_metric(full("stemedb_storage_flush_seconds"), FLUSH_EDGES_S)?
        .set_buckets_for_metric(full("stemedb_http_request_duration_seconds"), REQUEST_EDGES_S)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syncs_have_an_edge_at_fifty_milliseconds_and_every_metric_its_help() {
        let recorder = builder().unwrap().build_recorder();
        let handle = recorder.handle();
        let text = metrics::with_local_recorder(&recorder, || {
            metrics_help::describe();
            metrics::histogram!("stemedb_wal_fsync_latency_seconds").record(0.04);
            metrics_help::build_info();
            handle.render()
        });
        let has = |line: &str| assert!(text.contains(line), "no {line:?} in\n{text}");
        has("# TYPE stemedb_wal_fsync_latency_seconds histogram");
        has("# HELP stemedb_wal_fsync_latency_seconds ");
        has("stemedb_wal_fsync_latency_seconds_bucket{le=\"0.025\"} 0");
        has("stemedb_wal_fsync_latency_seconds_bucket{le=\"0.05\"} 1");
        has("# HELP stemedb_build_info ");
        has(&format!("stemedb_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION")));
    }
}
