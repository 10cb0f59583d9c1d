//! What is counted: requests by method, route and status, and how long they took.
//!
//! The labels are bounded whatever callers send: a route is a template of the
//! table or `unmatched`, a method one of five or `OTHER`, a status one of those
//! we answer with. Each counter is looked up once and kept, so that a request
//! costs two atomic additions and no text.

use std::array;
use std::sync::OnceLock;
use std::time::Duration;

use http::{Method, StatusCode};
use metrics::{Counter, Histogram, Unit, counter, describe_counter, describe_histogram, histogram};

use crate::route::Place;

const REQUESTS: &str = "stemedb_http_requests_total";
const DURATION: &str = "stemedb_http_request_duration_seconds";

/// The route of a request that led nowhere.
const UNMATCHED: &str = "unmatched";
/// Every template, and `unmatched` last.
const ROUTES: usize = Place::ALL.len() + 1;

const METHODS: [&str; 6] = ["GET", "HEAD", "PUT", "POST", "DELETE", "OTHER"];

/// Every status we answer with, and `other` last, which no test has ever seen.
const STATUSES: [&str; 23] = [
    "200", "201", "204", "304", "400", "401", "403", "404", "405", "409", "410", "412", "413",
    "414", "415", "421", "422", "429", "500", "503", "504", "507", "other",
];

/// Puts the HELP texts. Call it after the recorder is installed.
pub fn describe_metrics() {
    describe_counter!(REQUESTS, "HTTP requests answered, by method, route template and status.");
    describe_histogram!(
        DURATION,
        Unit::Seconds,
        "Time from the head of a request to its response, by route template."
    );
}

/// The counters of one gateway.
pub(crate) struct Meter {
    routes: [Route; ROUTES],
}

struct Route {
    name: &'static str,
    requests: [[OnceLock<Counter>; STATUSES.len()]; METHODS.len()],
    duration: OnceLock<Histogram>,
}

impl Meter {
    pub(crate) fn new() -> Self {
        let name = |n: usize| Place::ALL.get(n).map_or(UNMATCHED, |place| place.template());
        Self {
            routes: array::from_fn(|n| Route {
                name: name(n),
                requests: array::from_fn(|_| array::from_fn(|_| OnceLock::new())),
                duration: OnceLock::new(),
            }),
        }
    }

    /// Counts one request.
    pub(crate) fn record(
        &self,
        place: Option<Place>,
        method: &Method,
        status: StatusCode,
        took: Duration,
    ) {
        let route = &self.routes[place.map_or(ROUTES - 1, |place| place as usize)];
        let method = position(&METHODS, method.as_str());
        let status = position(&STATUSES, status.as_str());
        let requests = route.requests[method][status].get_or_init(|| {
            let (method, status) = (METHODS[method], STATUSES[status]);
            counter!(REQUESTS, "method" => method, "route" => route.name, "status" => status)
        });
        requests.increment(1);
        let duration = route.duration.get_or_init(|| histogram!(DURATION, "route" => route.name));
        duration.record(took.as_secs_f64());
    }
}

/// Where a label stands; the last place if it is not there.
fn position(labels: &[&str], label: &str) -> usize {
    labels.iter().position(|l| *l == label).unwrap_or(labels.len() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use metrics_exporter_prometheus::PrometheusBuilder;

    #[test]
    fn labels_stay_bounded_whatever_is_sent() {
        let recorder = PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, || {
            describe_metrics();
            let meter = Meter::new();
            let (ok, took) = (StatusCode::OK, Duration::from_millis(2));
            meter.record(Some(Place::Key), &Method::GET, ok, took);
            meter.record(Some(Place::Key), &Method::GET, ok, took);
            meter.record(
                None,
                &Method::from_bytes(b"BREW").unwrap(),
                StatusCode::IM_A_TEAPOT,
                took,
            );
        });
        let text = recorder.handle().render();
        let seen = "stemedb_http_requests_total{method=\"GET\",\
            route=\"/v1/kv/{bucket}/{key}\",status=\"200\"} 2\n";
        assert!(text.contains(seen), "{text}");
        let other = "stemedb_http_requests_total{method=\"OTHER\",\
            route=\"unmatched\",status=\"other\"} 1\n";
        assert!(text.contains(other), "{text}");
        assert!(text.contains("# HELP stemedb_http_request_duration_seconds "), "{text}");
    }
}
