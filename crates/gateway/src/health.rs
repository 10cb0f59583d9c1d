//! Alive, ready, started, and what is counted. Open to everyone, and no secret in any.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use stemedb_api::{Slug, health as api};

use crate::failure::Failure;
use crate::gateway::Inner;
use crate::respond;

const PROMETHEUS_TEXT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4");
/// When a probe that failed should come again.
const PROBE_AGAIN_S: u64 = 1;

/// `GET /v1/health`: always 200, for people and for scripts that only want an answer.
pub(crate) fn health(gateway: &Inner) -> Result<Response<Full<Bytes>>, Failure> {
    let readiness = gateway.front.readiness();
    let body = api::Health {
        status: if readiness.ready { "ok" } else { "unready" }.to_owned(),
        version: gateway.options.version.clone(),
        node: gateway.node_name().to_owned(),
        reasons: readiness.reasons,
    };
    respond::json(StatusCode::OK, &body)
}

/// `GET /livez`: the process answers. Peers, disks and the start are none of its business.
pub(crate) fn alive() -> Result<Response<Full<Bytes>>, Failure> {
    respond::json(StatusCode::OK, &api::Alive { status: "alive".to_owned() })
}

/// `GET /readyz`: whether to send traffic here, and if not, why not.
pub(crate) fn ready(gateway: &Inner) -> Result<Response<Full<Bytes>>, Failure> {
    let readiness = gateway.front.readiness();
    if readiness.ready {
        let body = api::Readiness { ready: true, reasons: readiness.reasons };
        return respond::json(StatusCode::OK, &body);
    }
    let slug = slug_of(&readiness.reasons);
    let failure = Failure::new(slug, format!("not ready: {}", readiness.reasons.join("; ")));
    Err(failure
        .with("ready", false)
        .with("reasons", readiness.reasons)
        .with_header(RETRY_AFTER, PROBE_AGAIN_S.into()))
}

/// A reason that begins with the slug of a 503 says which it is; without one it is `starting`.
fn slug_of(reasons: &[String]) -> Slug {
    let named = [Slug::Draining, Slug::NoQuorum, Slug::Overloaded, Slug::Moving];
    let says = |slug: &Slug| reasons.iter().any(|reason| reason.starts_with(slug.as_str()));
    named.into_iter().find(says).unwrap_or(Slug::Starting)
}

/// `GET /startupz`: whether the logs were replayed, and how far it is.
pub(crate) fn started(gateway: &Inner) -> Result<Response<Full<Bytes>>, Failure> {
    let startup = gateway.front.startup();
    let stemedb::Startup { done, replayed_entries, total_entries } = startup;
    if done {
        let body = api::Startup { done, replayed_entries, total_entries };
        return respond::json(StatusCode::OK, &body);
    }
    let detail = format!("{replayed_entries} of {total_entries} log entries are replayed");
    Err(Failure::new(Slug::Starting, detail)
        .with("done", false)
        .with("replayed_entries", replayed_entries)
        .with("total_entries", total_entries)
        .with_header(RETRY_AFTER, PROBE_AGAIN_S.into()))
}

/// `GET /metrics`: the Prometheus text format.
pub(crate) fn metrics(gateway: &Inner) -> Response<Full<Bytes>> {
    let text = (gateway.options.metrics)();
    let mut response = Response::new(Full::new(Bytes::from(text)));
    response.headers_mut().insert(CONTENT_TYPE, PROMETHEUS_TEXT);
    response
}
