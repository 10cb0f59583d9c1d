//! The few shapes of success, and header values made cheaply.

use std::fmt::Write;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;
use stemedb::Served;
use stemedb_api::header;
use stemedb_types::Revision;

use crate::failure::Failure;

pub(crate) type Body = Full<Bytes>;

pub(crate) const REVISION: HeaderName = HeaderName::from_static(header::REVISION);
pub(crate) const REPLAYED: HeaderName = HeaderName::from_static(header::REPLAYED);
pub(crate) const SERVED_BY: HeaderName = HeaderName::from_static(header::SERVED_BY);
const CONSISTENCY: HeaderName = HeaderName::from_static(header::CONSISTENCY);
const STALE_MS: HeaderName = HeaderName::from_static(header::STALE_MS);
const SESSION: HeaderValue = HeaderValue::from_static("session");
const STALE: HeaderValue = HeaderValue::from_static("stale");
pub(crate) const JSON: HeaderValue = HeaderValue::from_static(header::JSON);
/// Answers are the newest and mostly secret: a cache must ask again, and only the caller's own.
pub(crate) const ASK_AGAIN: HeaderValue = HeaderValue::from_static("private, no-cache");

/// Most characters of a quoted u64.
const ETAG_BYTES_MAX: usize = 22;

/// A status without a body.
pub(crate) fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

/// A structured body.
pub(crate) fn json(status: StatusCode, body: &impl Serialize) -> Result<Response<Body>, Failure> {
    let bytes = serde_json::to_vec(body);
    let bytes = bytes.map_err(|cause| Failure::internal(format!("write JSON: {cause}")))?;
    Ok(typed(status, JSON, bytes.into()))
}

/// A body of this type.
pub(crate) fn typed(status: StatusCode, content_type: HeaderValue, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// Puts the two headers of every answer about a bucket.
pub(crate) fn origin(headers: &mut HeaderMap, revision: Revision, served_by: HeaderValue) {
    headers.insert(REVISION, revision.0.into());
    headers.insert(SERVED_BY, served_by);
}

/// Puts how a read was served, if that was not linearizably.
pub(crate) fn served(headers: &mut HeaderMap, served: Option<&Served>) {
    match served {
        None => {}
        Some(Served::Session) => {
            headers.insert(CONSISTENCY, SESSION);
        }
        Some(Served::Stale { age_ms }) => {
            headers.insert(CONSISTENCY, STALE);
            headers.insert(STALE_MS, (*age_ms).into());
        }
    }
}

/// Says of an answer that it was given before.
pub(crate) fn replayed(headers: &mut HeaderMap, replayed: bool) {
    if replayed {
        headers.insert(REPLAYED, HeaderValue::from_static("1"));
    }
}

/// A revision as an ETag: its digits in quotes.
pub(crate) fn etag(revision: Revision) -> HeaderValue {
    let mut text = BytesMut::with_capacity(ETAG_BYTES_MAX);
    let _ = write!(text, "\"{revision}\"");
    // Digits and quotes are always a header value.
    HeaderValue::from_maybe_shared(text.freeze()).unwrap_or(HeaderValue::from_static("\"0\""))
}

/// A wait as `Retry-After` says it: whole seconds, at least one.
pub(crate) fn whole_seconds(wait: Duration) -> HeaderValue {
    let up = u64::from(wait.subsec_nanos() > 0);
    HeaderValue::from(wait.as_secs().saturating_add(up).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_etag_is_the_revision_in_quotes() {
        assert_eq!(etag(Revision(0)), "\"0\"");
        assert_eq!(etag(Revision(u64::MAX)), "\"18446744073709551615\"");
    }

    #[test]
    fn a_wait_is_rounded_up_and_never_zero() {
        for (wait_ms, seconds) in [(0, "1"), (1, "1"), (1000, "1"), (1001, "2")] {
            assert_eq!(whole_seconds(Duration::from_millis(wait_ms)), seconds);
        }
    }
}
