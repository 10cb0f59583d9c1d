//! What a gateway can be told.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Gives the text of `/metrics`.
pub type RenderMetrics = Arc<dyn Fn() -> String + Send + Sync>;

/// What a gateway can be told. The defaults are for a node in a cluster.
#[derive(Clone)]
pub struct Options {
    /// How long one request may take inside the node, and how long its body may take to arrive.
    pub deadline: Duration,
    /// How long a door stays open after it was told to close, so that clients and load balancers
    /// hear `Connection: close` instead of a refused connection.
    pub drain: Duration,
    /// How long a connection may take to send the next request's head, idle time included. Longer
    /// than the 90 s for which common proxies keep idle connections, so that they close first.
    pub header_read_timeout: Duration,
    /// Most connections of one door at a time; more wait in the kernel's queue.
    pub connections_max: usize,
    /// The text of `/metrics`.
    pub metrics: RenderMetrics,
    /// The version of the program, for `/v1/health` and the OpenAPI document.
    pub version: String,
    /// The clock that `latest` calls now, in ms since 1970.
    pub clock_ms: fn() -> u64,
}

/// How long one request may take inside the node.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long a door stays open after it was told to close.
const DRAIN: Duration = Duration::from_secs(5);
/// How long a connection may be idle or take to send a head.
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(120);
/// Most connections of one door.
const CONNECTIONS_MAX: usize = 10_000;

impl Default for Options {
    fn default() -> Self {
        Self {
            deadline: DEADLINE,
            drain: DRAIN,
            header_read_timeout: HEADER_READ_TIMEOUT,
            connections_max: CONNECTIONS_MAX,
            metrics: Arc::new(String::new),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            clock_ms: system_clock_ms,
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("deadline", &self.deadline)
            .field("drain", &self.drain)
            .field("header_read_timeout", &self.header_read_timeout)
            .field("connections_max", &self.connections_max)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

fn system_clock_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
