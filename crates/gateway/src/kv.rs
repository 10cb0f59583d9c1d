//! One key: put, get, delete.
//!
//! A write without an `Idempotency-Key` does not count as safe to repeat after a 504: it could undo
//! what another wrote in between. But for one that holds at a single revision: that one can't be
//! applied twice, although its second answer would be a 412.

use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, ETAG, VARY, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Body;
use stemedb::shard::{Answer, Read, ReadAnswer, Version, Write};
use stemedb_api::kv::KeyValue;
use stemedb_api::{Base64, Slug, header, path};
use stemedb_types::Key;
use stemedb_types::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};

use crate::body;
use crate::condition::{Conditions, Verdict};
use crate::failure::Failure;
use crate::request::{Admitted, Reply, Written};
use crate::respond::{self, ASK_AGAIN};

const CREATE_REVISION: HeaderName = HeaderName::from_static(header::CREATE_REVISION);
const VERSION: HeaderName = HeaderName::from_static(header::VERSION);
const OCTET_STREAM: HeaderValue = HeaderValue::from_static(header::OCTET_STREAM);
const NO_SNIFF: HeaderValue = HeaderValue::from_static("nosniff");
const ON_ACCEPT: HeaderValue = HeaderValue::from_static("accept");

/// `PUT /v1/kv/{bucket}/{key}`: the raw body is the value.
pub(crate) async fn put<B>(request: Admitted<'_>, body: B) -> Result<Response<Full<Bytes>>, Failure>
where
    B: Body<Data = Bytes> + Unpin,
{
    let (bucket, key) = (request.path_bucket()?, path_key(request.target.rest)?);
    request.params(&[], &["ttl"])?;
    request.idempotency_key()?;
    let condition = Conditions::of(&request.head.headers)?.for_write()?;
    let patience = request.gateway.options.deadline;
    let value = body::read(body, "the value", VALUE_BYTES_MAX, patience).await?;
    let write = Write::Put { key, value, condition, expires_at_ms: None };
    let Written { answer, served_by, replayed } = request.write(bucket, write, false).await?;
    match answer {
        Answer::Put { revision, created } => {
            let status = if created { StatusCode::CREATED } else { StatusCode::OK };
            let mut response = respond::empty(status);
            let headers = response.headers_mut();
            headers.insert(ETAG, respond::etag(revision));
            respond::origin(headers, revision, served_by);
            respond::replayed(headers, replayed);
            Ok(response)
        }
        other => Err(not_written(other, served_by).replayed(replayed)),
    }
}

/// `DELETE /v1/kv/{bucket}/{key}`.
pub(crate) async fn delete(request: Admitted<'_>) -> Result<Response<Full<Bytes>>, Failure> {
    let (bucket, key) = (request.path_bucket()?, path_key(request.target.rest)?);
    request.params(&[], &[])?;
    let condition = Conditions::of(&request.head.headers)?.for_write()?;
    let write = Write::Delete { key, condition };
    let Written { answer, served_by, replayed } = request.write(bucket, write, false).await?;
    match answer {
        Answer::Deleted { revision } => {
            let mut response = respond::empty(StatusCode::NO_CONTENT);
            respond::origin(response.headers_mut(), revision, served_by);
            respond::replayed(response.headers_mut(), replayed);
            Ok(response)
        }
        other => Err(not_written(other, served_by).replayed(replayed)),
    }
}

/// A write that changed nothing.
fn not_written(answer: Answer, served_by: HeaderValue) -> Failure {
    let revision = answer.revision();
    let failure = match answer {
        Answer::NotFound { .. } => no_key(),
        Answer::PreconditionFailed { current, .. } => Failure::precondition(current),
        other => Failure::internal(format!("a write of a key was answered with {other:?}")),
    };
    failure.with_origin(revision, served_by)
}

fn no_key() -> Failure {
    Failure::new(Slug::NotFound, "there is no such key in this bucket")
}

/// `GET /v1/kv/{bucket}/{key}`: the value, raw or in JSON.
pub(crate) async fn get(request: Admitted<'_>) -> Result<Response<Full<Bytes>>, Failure> {
    let (bucket, key) = (request.path_bucket()?, path_key(request.target.rest)?);
    let params = request.params(&["as_of", "consistency"], &[])?;
    let consistency = request.consistency(&params)?;
    let as_of = params.as_of()?;
    let conditions = Conditions::of(&request.head.headers)?;
    let wants_json = accepts_json(&request.head.headers);
    let read = Read::Get { key: key.clone(), as_of };
    let Reply { answer, served_by } = request.read(bucket, read, consistency).await?;
    let ReadAnswer::Value { revision, version } = answer else {
        return Err(Failure::internal("a get was answered with something else"));
    };
    let Some(version) = version else { return Err(no_key().with_origin(revision, served_by)) };
    let head = version.head;
    let current = head.mod_revision;
    let mut response = match conditions.for_read(current) {
        Verdict::Failed => {
            return Err(Failure::precondition(Some(current)).with_origin(revision, served_by));
        }
        Verdict::NotModified => respond::empty(StatusCode::NOT_MODIFIED),
        Verdict::Send if wants_json => {
            respond::json(StatusCode::OK, &key_value(key, version, false))?
        }
        Verdict::Send => raw(version.value),
    };
    let headers = response.headers_mut();
    headers.insert(ETAG, respond::etag(current));
    headers.insert(CREATE_REVISION, head.create_revision.0.into());
    headers.insert(VERSION, head.version.into());
    respond::origin(headers, revision, served_by);
    headers.insert(CACHE_CONTROL, ASK_AGAIN);
    headers.insert(VARY, ON_ACCEPT);
    Ok(response)
}

/// Whatever the bytes look like, a browser must not run them.
fn raw(value: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(value));
    response.headers_mut().insert(CONTENT_TYPE, OCTET_STREAM);
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, NO_SNIFF);
    response
}

/// The JSON of one key.
pub(crate) fn key_value(key: Key, version: Version, keys_only: bool) -> KeyValue {
    let key = key.as_bytes().clone();
    KeyValue {
        key_text: std::str::from_utf8(&key).ok().map(str::to_owned),
        key: Base64(key),
        value: (!keys_only).then_some(Base64(version.value)),
        create_revision: version.head.create_revision.0,
        mod_revision: version.head.mod_revision.0,
        version: version.head.version,
        expires_at: None,
    }
}

/// The key of the path, byte for byte.
fn path_key(raw: &str) -> Result<Key, Failure> {
    let bytes = path::decode_key(raw).map_err(|cause| Failure::malformed(cause.to_string()))?;
    if bytes.len() > KEY_BYTES_MAX {
        return Err(Failure::too_large(StatusCode::URI_TOO_LONG, "the key", KEY_BYTES_MAX));
    }
    let key = Key::new(Bytes::copy_from_slice(&bytes));
    key.map_err(|cause| Failure::malformed(cause.to_string()))
}

/// Whether JSON is asked for by name; `*/*` is not asking.
fn accepts_json(headers: &HeaderMap) -> bool {
    let asks = |range: &str| {
        let mut parts = range.split(';').map(str::trim);
        let named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(header::JSON));
        named && !parts.any(|part| matches!(part, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
    };
    let lines = headers.get_all(ACCEPT).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(asks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_must_be_asked_for_by_name() {
        let ask = |accept: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_static(accept));
            accepts_json(&headers)
        };
        for yes in ["application/json", "text/html, Application/JSON;q=0.5"] {
            assert!(ask(yes), "{yes}");
        }
        for no in ["", "*/*", "application/*", "application/json;q=0", "application/jsonl"] {
            assert!(!ask(no), "{no}");
        }
        assert!(!accepts_json(&HeaderMap::new()));
    }
}
