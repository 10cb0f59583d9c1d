//! The one shape of every error (RFC 9457).
//!
//! `type` is `urn:stemedb:problem:` and a [`Slug`]; `instance` is the id of the
//! request, which the log knows too. Members beyond the standard ones are facts
//! a program can act on, such as the current `etag` of a 412 or the `owner` of
//! a 421.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::Slug;

/// What stands before the slug in a problem's `type`.
pub const PROBLEM_TYPE_PREFIX: &str = "urn:stemedb:problem:";

/// An error as it goes over the wire, as `application/problem+json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `urn:stemedb:problem:<slug>`: what to branch on.
    #[serde(rename = "type")]
    pub kind: String,
    /// The same few words for every problem of this type.
    pub title: String,
    /// The HTTP status again, for those who only see the body.
    pub status: u16,
    /// What happened this time, for a person.
    pub detail: String,
    /// The request's id, as in `X-Request-Id`.
    pub instance: String,
    /// Whether the same request may succeed, and can't do harm, if it is sent again later.
    pub retryable: bool,
    /// Further members: `etag`, `owner`, `safe_by`, `errors`, `ready`, `reasons` and whatever comes.
    #[serde(flatten)]
    #[schema(value_type = std::collections::HashMap<String, Value>)]
    pub extra: Map<String, Value>,
}

impl Problem {
    /// A problem of this kind, with the status and the advice of its slug, and no `instance` yet.
    pub fn new(slug: Slug, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("{PROBLEM_TYPE_PREFIX}{slug}"),
            title: slug.title().to_owned(),
            status: slug.status(),
            detail: detail.into(),
            instance: String::new(),
            retryable: slug.retryable(),
            extra: Map::new(),
        }
    }

    /// The same with another status.
    pub fn with_status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// The same with other advice on sending it again.
    pub fn with_retryable(mut self, retryable: bool) -> Self {
        self.retryable = retryable;
        self
    }

    /// The same with one more member. `name` must not be one of the standard ones.
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.extra.insert(name.to_owned(), value.into());
        self
    }

    /// Its slug; `None` for a type this build does not know, as from a newer server or a proxy.
    pub fn slug(&self) -> Option<Slug> {
        self.kind.strip_prefix(PROBLEM_TYPE_PREFIX).and_then(Slug::parse)
    }

    /// The key's ETag now, with its quotes, as a 412 tells it.
    pub fn etag(&self) -> Option<&str> {
        self.extra.get("etag").and_then(Value::as_str)
    }

    /// The owner's own HTTP address, `host:port`, as a 421 tells it.
    pub fn owner(&self) -> Option<&str> {
        self.extra.get("owner").and_then(Value::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_problem_is_flat_json_and_reads_back() {
        let mut problem = Problem::new(Slug::PreconditionFailed, "the key is at 7");
        problem = problem.with("etag", "\"7\"");
        problem.instance = "req_1".into();
        let body = serde_json::to_value(&problem).unwrap();
        assert_eq!(
            body,
            json!({
                "type": "urn:stemedb:problem:precondition-failed",
                "title": "A condition did not hold",
                "status": 412,
                "detail": "the key is at 7",
                "instance": "req_1",
                "retryable": false,
                "etag": "\"7\"",
            })
        );
        let back: Problem = serde_json::from_value(body).unwrap();
        assert_eq!((back.slug(), back.etag()), (Some(Slug::PreconditionFailed), Some("\"7\"")));
        assert_eq!(back, problem);
    }

    #[test]
    fn a_type_of_another_maker_has_no_slug() {
        let mut problem = Problem::new(Slug::Internal, "");
        problem.kind = "about:blank".into();
        assert_eq!(problem.slug(), None);
    }
}
