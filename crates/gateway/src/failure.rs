//! Everything that goes wrong → status, slug, headers.
//!
//! A handler ends early with a [`Failure`]; it becomes a response in one place,
//! where the request's id is known. The table from [`stemedb::Error`] is here
//! and nowhere else. What a fault of ours says is for the log, never for the
//! caller.

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, ETAG, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::Full;
use stemedb::{Error, Served, Unavailable};
use stemedb_api::{Problem, Slug, header};
use stemedb_types::Revision;

use crate::respond;
use crate::route::Place;

const OWNER: HeaderName = HeaderName::from_static(header::OWNER);
const PROBLEM_JSON: HeaderValue = HeaderValue::from_static(header::PROBLEM_JSON);
const BEARER: HeaderValue = HeaderValue::from_static("Bearer");

/// What is sent if a problem itself can't be written.
const LAST_RESORT: &[u8] = br#"{"type":"urn:stemedb:problem:internal","status":500}"#;

/// A request that was not done, on its way to becoming a response. Boxed: it is rare, and results
/// that carry it should stay small.
#[derive(Debug)]
pub(crate) struct Failure(Box<Parts>);

#[derive(Debug)]
struct Parts {
    problem: Problem,
    headers: HeaderMap,
    /// What the log should know and the caller should not.
    log: Option<String>,
}

impl Failure {
    pub(crate) fn new(slug: Slug, detail: impl Into<String>) -> Self {
        let problem = Problem::new(slug, detail);
        Self(Box::new(Parts { problem, headers: HeaderMap::new(), log: None }))
    }

    pub(crate) fn malformed(detail: impl Into<String>) -> Self {
        Self::new(Slug::Malformed, detail)
    }

    pub(crate) fn no_route() -> Self {
        Self::new(Slug::NotFound, "there is no such route")
    }

    pub(crate) fn method(place: Place) -> Self {
        let allow = place.allow();
        let detail = format!("{} takes {allow}", place.template());
        let mut failure = Self::new(Slug::MethodNotAllowed, detail);
        if let Ok(allow) = HeaderValue::from_str(&allow) {
            failure.0.headers.insert(ALLOW, allow);
        }
        failure
    }

    /// `status` is 413 for bodies and 414 for paths.
    pub(crate) fn too_large(status: StatusCode, what: &str, bytes_max: usize) -> Self {
        let mut failure =
            Self::new(Slug::TooLarge, format!("{what} is longer than {bytes_max} bytes"));
        failure.0.problem = failure.0.problem.with_status(status.as_u16());
        failure.with("limit_bytes", bytes_max)
    }

    /// A condition of the request did not hold; `current` is the key's revision, if it is there.
    pub(crate) fn precondition(current: Option<Revision>) -> Self {
        let Some(current) = current else {
            return Self::new(Slug::PreconditionFailed, "the key is not there");
        };
        let failure = Self::new(Slug::PreconditionFailed, format!("the key is at {current}"));
        let mut failure = failure.with("etag", format!("\"{current}\""));
        failure.0.headers.insert(ETAG, respond::etag(current));
        failure
    }

    /// `cause` is for the log.
    pub(crate) fn internal(cause: impl Into<String>) -> Self {
        let mut failure =
            Self::new(Slug::Internal, "the server met a fault of its own; its log says more");
        failure.0.log = Some(cause.into());
        failure
    }

    /// The same with one more member of the problem.
    pub(crate) fn with(mut self, name: &str, value: impl Into<serde_json::Value>) -> Self {
        self.0.problem.extra.insert(name.to_owned(), value.into());
        self
    }

    /// The same with a header.
    pub(crate) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.insert(name, value);
        self
    }

    /// The same with the two headers of every answer about a bucket.
    pub(crate) fn with_origin(mut self, revision: Revision, served_by: HeaderValue) -> Self {
        respond::origin(&mut self.0.headers, revision, served_by);
        self
    }

    /// The same with how the read was served that met it.
    pub(crate) fn with_served(mut self, served: Option<&Served>) -> Self {
        respond::served(&mut self.0.headers, served);
        self
    }

    /// The same, knowing whether to send the request again can do harm. Only a doubtful outcome says
    /// so.
    pub(crate) fn with_repeat(mut self, repeat: Repeat) -> Self {
        if self.0.problem.slug() != Some(Slug::OutcomeUnknown) {
            return self;
        }
        let (retryable, advice, safe_by) = repeat.advice();
        self.0.problem.retryable = retryable;
        self.0.problem.detail = format!("it may or may not have been applied; {advice}");
        match safe_by {
            Some(what) => self.with("safe_by", what),
            None => self,
        }
    }

    /// The same, of an answer that was given before.
    pub(crate) fn replayed(mut self, replayed: bool) -> Self {
        respond::replayed(&mut self.0.headers, replayed);
        self
    }

    #[cfg(test)]
    pub(crate) fn detail(&self) -> &str {
        &self.0.problem.detail
    }

    /// Says so in the log where that is due, and becomes a response.
    pub(crate) fn into_response(self, request_id: &HeaderValue) -> Response<Full<Bytes>> {
        let Parts { mut problem, headers, log } = *self.0;
        problem.instance = request_id.to_str().unwrap_or_default().to_owned();
        if let Some(cause) = log {
            tracing::error!(request_id = %problem.instance, %cause, "a request met a fault");
        }
        let body = serde_json::to_vec(&problem).map_or(LAST_RESORT.into(), Bytes::from);
        let mut response = Response::new(Full::new(body));
        *response.status_mut() =
            StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        *response.headers_mut() = headers;
        response.headers_mut().insert(CONTENT_TYPE, PROBLEM_JSON);
        response
    }
}

/// What becomes of a request that is sent again although its first try may have been done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// It may be done twice.
    Unsafe,
    /// It has an idempotency key: it is done once.
    Named,
    /// It only holds at one revision, which the first try took away: the second is refused.
    Conditional,
    /// To do it twice is to do it once.
    Harmless,
}

impl Repeat {
    /// Whether to send it again, in words, and by what that is safe.
    fn advice(self) -> (bool, &'static str, Option<&'static str>) {
        match self {
            Repeat::Unsafe => {
                (false, "read before sending it again, or send it with an Idempotency-Key", None)
            }
            Repeat::Named => (
                true,
                "sent again with the same Idempotency-Key it is applied once",
                Some("idempotency-key"),
            ),
            Repeat::Conditional => (
                true,
                "sent again it is applied once, and a 412 may mean that it was the first time",
                Some("condition"),
            ),
            Repeat::Harmless => (true, "to send it again is safe", None),
        }
    }
}

impl From<Error> for Failure {
    /// The one table from the façade's errors to problems.
    fn from(error: Error) -> Self {
        let detail = error.to_string();
        match error {
            Error::Unauthenticated => {
                Failure::new(Slug::Unauthenticated, detail).with_header(WWW_AUTHENTICATE, BEARER)
            }
            Error::Forbidden(_) => Failure::new(Slug::Forbidden, detail),
            Error::Malformed(_) => Failure::malformed(detail),
            Error::NotOwner { owner } => not_owner(detail, owner),
            Error::AlreadyExists(_) => Failure::new(Slug::AlreadyExists, detail),
            Error::NotFound(_) => Failure::new(Slug::NotFound, detail),
            Error::Conflict(_) => Failure::new(Slug::PreconditionFailed, detail),
            Error::Unavailable { reason, retry_after } => {
                let slug = match reason {
                    Unavailable::Starting => Slug::Starting,
                    Unavailable::NoQuorum => Slug::NoQuorum,
                    Unavailable::Overloaded => Slug::Overloaded,
                    Unavailable::Moving => Slug::Moving,
                    Unavailable::Draining => Slug::Draining,
                };
                Failure::new(slug, detail)
                    .with_header(RETRY_AFTER, respond::whole_seconds(retry_after))
            }
            Error::OutcomeUnknown => Failure::new(
                Slug::OutcomeUnknown,
                "it may or may not have been applied; read before sending it again",
            ),
            Error::DiskFull => Failure::new(Slug::DiskFull, detail),
            Error::Internal(cause) => Failure::internal(cause),
        }
    }
}

fn not_owner(detail: String, owner: Option<String>) -> Failure {
    let failure = Failure::new(Slug::NotOwner, detail);
    let Some(owner) = owner else { return failure };
    let value = HeaderValue::from_str(&owner);
    let failure = failure.with("owner", owner);
    match value {
        Ok(value) => failure.with_header(OWNER, value),
        Err(_) => failure,
    }
}

impl From<crate::condition::Error> for Failure {
    fn from(error: crate::condition::Error) -> Self {
        Failure::malformed(error.to_string())
    }
}
