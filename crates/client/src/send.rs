//! One request, through its tries, to an answer.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::{
    CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH, RETRY_AFTER,
};
use reqwest::{Method, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use stemedb_api::{Problem, header};
use stemedb_types::BucketName;
use ulid::Ulid;

use crate::error::Refusal;
use crate::retry::{Kind, Try, Verdict, is_doubtful, judge, pause, settles};
use crate::{Client, Condition, Error};

/// Longest answer that is read: a page of values, in base64, with room for its frame.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Most bytes of a foreign answer that an error quotes.
const QUOTE_BYTES_MAX: usize = 200;

/// A request before it is sent.
pub(crate) struct Ask {
    kind: Kind,
    method: Method,
    path_and_query: String,
    headers: HeaderMap,
    body: Bytes,
    bucket: Option<BucketName>,
}

/// An answer that came whole.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Ask {
    pub(crate) fn new(kind: Kind, method: Method, path_and_query: impl Into<String>) -> Self {
        let mut headers = HeaderMap::new();
        if kind == Kind::Write
            && let Ok(name) = HeaderValue::from_str(&Ulid::generate().to_string())
        {
            headers.insert(HeaderName::from_static(header::IDEMPOTENCY_KEY), name);
        }
        let path_and_query = path_and_query.into();
        Self { kind, method, path_and_query, headers, body: Bytes::new(), bucket: None }
    }

    pub(crate) fn get(path_and_query: impl Into<String>) -> Self {
        Self::new(Kind::Read, Method::GET, path_and_query)
    }

    /// Which bucket it is about.
    pub(crate) fn about(self, bucket: &BucketName) -> Self {
        Self { bucket: Some(bucket.clone()), ..self }
    }

    /// The bucket it reads, if it reads one.
    pub(crate) fn reads_of(&self) -> Option<&BucketName> {
        self.bucket.as_ref().filter(|_| self.kind == Kind::Read)
    }

    /// With one more parameter, as it stands.
    pub(crate) fn query(mut self, parameter: &str) -> Self {
        self.path_and_query.push(if self.path_and_query.contains('?') { '&' } else { '?' });
        self.path_and_query.push_str(parameter);
        self
    }

    pub(crate) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    pub(crate) fn body(mut self, content_type: &'static str, body: Bytes) -> Self {
        self.headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        self.body = body;
        self
    }

    pub(crate) fn json(self, body: &impl Serialize) -> Result<Self, Error> {
        let bytes = serde_json::to_vec(body).map_err(|error| Error::Invalid(error.to_string()))?;
        Ok(self.body(header::JSON, bytes.into()))
    }

    pub(crate) fn condition(mut self, condition: Condition) -> Result<Self, Error> {
        let (name, value) = match condition {
            Condition::Always => return Ok(self),
            Condition::At(revision) => (IF_MATCH, format!("\"{revision}\"")),
            Condition::Absent => (IF_NONE_MATCH, "*".to_owned()),
        };
        let value = HeaderValue::from_str(&value);
        self.headers.insert(name, value.map_err(|error| Error::Invalid(error.to_string()))?);
        Ok(self)
    }
}

/// One try that did not give an answer to take.
struct Missed {
    outcome: Try,
    detail: String,
    retry_after: Option<Duration>,
}

impl Client {
    /// Sends a request until it is answered or there is no try left. A status of 400 and above is
    /// an error.
    pub(crate) async fn send(&self, ask: Ask) -> Result<Reply, Error> {
        let ask = self.mark(ask);
        let mut tries = 0;
        // What became of the first try of a write that may have been applied.
        let mut doubt: Option<String> = None;
        loop {
            tries += 1;
            let missed = match self.send_once(&ask).await {
                Ok(reply) => match (judge(ask.kind, Try::Answered(reply.status)), doubt) {
                    // Only our own words settle a doubt: a page of something in between knows nothing.
                    (Verdict::Take, Some(detail))
                        if !settles(reply.status)
                            || (reply.status >= 300 && reply.problem().is_none()) =>
                    {
                        let last = Missed::by(&reply).detail;
                        let detail = format!("{detail}; sent again: {last}");
                        return Err(Error::Unknown { detail });
                    }
                    (Verdict::Take, _) => {
                        self.note(ask.bucket.as_ref(), &reply);
                        return take(ask.kind, reply);
                    }
                    (_, known) => {
                        // As does one that is in between, and says 503 of what it had sent on.
                        let foreign = ask.kind == Kind::Write && reply.problem().is_none();
                        let missed = Missed::by(&reply);
                        doubt = known.or_else(|| foreign.then(|| missed.detail.clone()));
                        missed
                    }
                },
                Err(missed) => missed,
            };
            if ask.kind == Kind::Write && is_doubtful(missed.outcome) {
                doubt.get_or_insert_with(|| missed.detail.clone());
            }
            match judge(ask.kind, missed.outcome) {
                Verdict::Unknown => return Err(Error::Unknown { detail: missed.detail }),
                Verdict::Again => {
                    if let Some(wait) = pause(tries, missed.retry_after) {
                        self.next_base();
                        (self.inner.sleep)(wait).await;
                        continue;
                    }
                }
                Verdict::Take | Verdict::NotApplied => {}
            }
            if let Some(detail) = doubt {
                return Err(Error::Unknown { detail });
            }
            return Err(Error::Unavailable { detail: missed.detail, tries });
        }
    }

    /// Sends a request and reads JSON from a successful answer.
    pub(crate) async fn send_json<T: DeserializeOwned>(&self, ask: Ask) -> Result<T, Error> {
        read_json(&self.send(ask).await?)
    }

    /// Sends a probe and gives back whatever answered.
    pub(crate) async fn probe(&self, path: &str) -> Result<Reply, Error> {
        let ask = Ask::new(Kind::Probe, Method::GET, path);
        let missed = match self.send_once(&ask).await {
            Ok(reply) => return Ok(reply),
            Err(missed) => missed,
        };
        Err(Error::Unavailable { detail: missed.detail, tries: 1 })
    }

    async fn send_once(&self, ask: &Ask) -> Result<Reply, Missed> {
        let base = self.inner.base.load(Ordering::Relaxed) % self.inner.bases.len().max(1);
        let base = self.inner.bases.get(base).map(String::as_str).unwrap_or_default();
        let url = format!("{base}{}", ask.path_and_query);
        let mut request = self.inner.http.request(ask.method.clone(), url);
        request = request.headers(ask.headers.clone()).body(ask.body.clone());
        if let Some(key) = self.key_header() {
            request = request.header(header::API_KEY, key);
        }
        if let Some(project) = &self.inner.project {
            request = request.header(header::PROJECT, project.clone());
        }
        let response = request.send().await.map_err(|error| Missed::on_the_way(&error, base))?;
        read_whole(response).await.map_err(|detail| Missed {
            outcome: Try::Lost,
            detail: format!("{base}: {detail}"),
            retry_after: None,
        })
    }

    fn key_header(&self) -> Option<HeaderValue> {
        let key = self.inner.key.as_ref()?;
        let mut value = HeaderValue::from_bytes(key.as_bytes()).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    fn next_base(&self) {
        self.inner.base.fetch_add(1, Ordering::Relaxed);
    }
}

impl Missed {
    /// An answer that means "not now".
    fn by(reply: &Reply) -> Self {
        let detail = match reply.problem() {
            Some(problem) => Refusal { problem }.to_string(),
            None => reply.quote(),
        };
        let seconds = reply.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let seconds = seconds.and_then(|text| text.trim().parse().ok());
        let retry_after = seconds.map(Duration::from_secs);
        Self { outcome: Try::Answered(reply.status), detail, retry_after }
    }

    fn on_the_way(error: &reqwest::Error, base: &str) -> Self {
        let outcome =
            if error.is_connect() || error.is_builder() { Try::NotSent } else { Try::Lost };
        Self { outcome, detail: format!("{base}: {}", innermost(error)), retry_after: None }
    }
}

/// The reason at the bottom: the layers above it only repeat that something failed.
fn innermost(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

async fn read_whole(mut response: Response) -> Result<Reply, String> {
    let status = response.status().as_u16();
    let headers = response.headers().clone();
    let mut body = BytesMut::new();
    loop {
        let chunk = response.chunk().await.map_err(|error| {
            format!("the answer, of status {status}, was cut short: {}", innermost(&error))
        })?;
        let Some(chunk) = chunk else { break };
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err(format!("the answer is longer than {ANSWER_BYTES_MAX} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Reply { status, headers, body: body.freeze() })
}

/// An answer that is one: success as it is, anything else as an error.
fn take(kind: Kind, reply: Reply) -> Result<Reply, Error> {
    if reply.status < 300 {
        return Ok(reply);
    }
    match reply.problem() {
        Some(problem) => Err(Error::Refused(Box::new(Refusal { problem }))),
        // Something between here and there answered. Nobody knows what it did before.
        None if matches!(kind, Kind::Write | Kind::Admin) && reply.status >= 500 => {
            Err(Error::Unknown { detail: reply.quote() })
        }
        None => Err(Error::NotAnAnswer { detail: reply.quote() }),
    }
}

impl Reply {
    /// The problem that the body is, if it is one.
    pub(crate) fn problem(&self) -> Option<Problem> {
        let problem: Option<Problem> = serde_json::from_slice(&self.body).ok();
        problem.filter(|_| self.status >= 400)
    }

    /// A header's text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// A header's number.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.header(name).and_then(|text| text.trim().trim_matches('"').parse().ok())
    }

    fn quote(&self) -> String {
        let start = self.body.get(..QUOTE_BYTES_MAX).unwrap_or(&self.body);
        format!("status {}, {:?}", self.status, String::from_utf8_lossy(start))
    }
}

pub(crate) fn read_json<T: DeserializeOwned>(reply: &Reply) -> Result<T, Error> {
    serde_json::from_slice(&reply.body)
        .map_err(|error| Error::NotAnAnswer { detail: format!("{error} in {}", reply.quote()) })
}
