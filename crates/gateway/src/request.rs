//! What handlers share: one request, let in.

use std::future::Future;
use std::sync::OnceLock;

use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue};
use stemedb::shard::{Answer, Condition, IdempotencyKey, Once, Read, ReadAnswer, Write};
use stemedb::{
    Admission, Answered, Call, Consistency, Credential, Door, Op, OpAnswer, Served, fingerprint,
};
use stemedb_api::{Slug, header};
use stemedb_types::BucketName;
use ulid::Ulid;

use crate::failure::{Failure, Repeat};
use crate::gateway::Inner;
use crate::params::Params;
use crate::respond;
use crate::route::Target;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static(header::IDEMPOTENCY_KEY);
const REQUEST_ID: HeaderName = HeaderName::from_static(header::REQUEST_ID);
const API_KEY: HeaderName = HeaderName::from_static(header::API_KEY);

/// A request on a route that needs a key, after its key was found good.
pub(crate) struct Admitted<'r> {
    pub(crate) gateway: &'r Inner,
    pub(crate) head: &'r Parts,
    pub(crate) target: Target<'r>,
    pub(crate) door: Door,
    pub(crate) admission: Admission,
    /// Takes how a read was served that is not linearizable: whatever the answer is, it says so.
    pub(crate) served: &'r OnceLock<Served>,
}

/// The answer to a read, with the headers that say where it comes from.
pub(crate) struct Reply<A> {
    pub(crate) answer: A,
    pub(crate) served_by: HeaderValue,
}

/// The answer to a write.
pub(crate) struct Written {
    pub(crate) answer: Answer,
    pub(crate) served_by: HeaderValue,
    /// A write with this `Idempotency-Key` was given this answer before.
    pub(crate) replayed: bool,
}

impl Admitted<'_> {
    /// The parameters, read strictly.
    pub(crate) fn params(&self, known: &[&str], later: &[&str]) -> Result<Params, Failure> {
        Params::read(self.head.uri.query(), known, later)
    }

    /// How new what is read must be: `consistency`, and what a session has seen.
    pub(crate) fn consistency(&self, params: &Params) -> Result<Consistency, Failure> {
        params.consistency(self.head.headers.get(respond::REVISION))
    }

    /// The bucket of the path.
    pub(crate) fn path_bucket(&self) -> Result<BucketName, Failure> {
        self.target.bucket.parse().map_err(|cause| Failure::malformed(format!("{cause}")))
    }

    /// `Idempotency-Key`, if the request has one. A handler that reads a body asks for it before, so that
    /// a bad one costs nobody a body.
    pub(crate) fn idempotency_key(&self) -> Result<Option<IdempotencyKey>, Failure> {
        let mut lines = self.head.headers.get_all(IDEMPOTENCY_KEY).iter();
        let Some(line) = lines.next() else { return Ok(None) };
        let key = IdempotencyKey::new(line.as_bytes().to_vec()).filter(|_| lines.next().is_none());
        key.map(Some).ok_or_else(|| {
            Failure::malformed(format!(
                "Idempotency-Key must be 1 to {} visible ASCII characters",
                header::IDEMPOTENCY_KEY_BYTES_MAX
            ))
        })
    }

    /// Changes a bucket: once, if the request has an `Idempotency-Key`. `repeatable`: to do it twice
    /// is to do it once anyway.
    pub(crate) async fn write(
        self,
        bucket: BucketName,
        write: Write,
        repeatable: bool,
    ) -> Result<Written, Failure> {
        let query = self.head.uri.query().unwrap_or_default();
        let once = self.idempotency_key()?.map(|key| {
            let fingerprint = fingerprint(&write, query);
            Once { key, fingerprint }
        });
        let repeat = match &once {
            Some(_) => Repeat::Named,
            None if repeatable => Repeat::Harmless,
            None if holds_once(&write) => Repeat::Conditional,
            None => Repeat::Unsafe,
        };
        let answered = self.call(bucket, Op::Write(write), Consistency::Linearizable, once).await;
        let (answer, served_by) = answered.map_err(|failure| failure.with_repeat(repeat))?;
        match answer {
            OpAnswer::Write(Answer::Mismatch { revision }) => {
                let why =
                    "this Idempotency-Key came before, with another request; nothing was done";
                let failure = Failure::new(Slug::IdempotencyMismatch, why);
                Err(failure.with_origin(revision, served_by))
            }
            OpAnswer::Write(Answer::Replayed(answer)) => {
                Ok(Written { answer: *answer, served_by, replayed: true })
            }
            OpAnswer::Write(answer) => Ok(Written { answer, served_by, replayed: false }),
            OpAnswer::Read(_) | OpAnswer::Weaker(..) => {
                Err(Failure::internal("a write was answered as a read"))
            }
        }
    }

    /// Reads a bucket. A revision that can't be read is a failure already.
    pub(crate) async fn read(
        self,
        bucket: BucketName,
        read: Read,
        consistency: Consistency,
    ) -> Result<Reply<ReadAnswer>, Failure> {
        let told = self.served;
        let answered = self.call(bucket, Op::Read(read), consistency, None).await;
        let (answer, served_by) = answered.map_err(|f| f.with_repeat(Repeat::Harmless))?;
        let answer = match answer {
            OpAnswer::Weaker(answer, served) => {
                let _ = told.set(served);
                OpAnswer::Read(answer)
            }
            answer => answer,
        };
        match answer {
            OpAnswer::Read(ReadAnswer::Compacted { revision }) => Err(Failure::new(
                Slug::Compacted,
                format!("that revision is gone or not there yet; the newest is {revision}"),
            )
            .with_origin(revision, served_by)),
            OpAnswer::Read(answer) => Ok(Reply { answer, served_by }),
            OpAnswer::Write(_) | OpAnswer::Weaker(..) => {
                Err(Failure::internal("a read was answered as a write"))
            }
        }
    }

    fn call(
        self,
        bucket: BucketName,
        op: Op,
        consistency: Consistency,
        once: Option<Once>,
    ) -> impl Future<Output = Result<(OpAnswer, HeaderValue), Failure>> {
        let Self { gateway, admission, door, .. } = self;
        let deadline = gateway.options.deadline;
        let call = Call { admission, door, deadline, bucket, op, consistency, once };
        let answered = gateway.front.call(call);
        async move {
            let Answered { answer, served_by } = answered.await?;
            Ok((answer, gateway.served_by(served_by)))
        }
    }
}

/// Whether a write can be applied at one revision of its key only, and so never twice: doing it makes
/// another.
fn holds_once(write: &Write) -> bool {
    match write {
        Write::Put { condition, .. } | Write::Delete { condition, .. } => {
            matches!(condition, Condition::RevisionIn(revisions) if revisions.len() == 1)
        }
        _ => false,
    }
}

/// The key a request presents: `X-API-Key`, else `Authorization: Bearer`.
pub(crate) fn credential(headers: &HeaderMap) -> Option<Credential> {
    if let Some(key) = headers.get(API_KEY) {
        return Some(Credential::new(String::from_utf8_lossy(key.as_bytes())));
    }
    let authorization = headers.get(http::header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, key) = authorization.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| Credential::new(key.trim()))
}

/// The request's id: the caller's own if it is sane, else a new one.
pub(crate) fn id(headers: &HeaderMap) -> HeaderValue {
    let sane = |id: &&HeaderValue| {
        let plain = |b: &u8| b.is_ascii_alphanumeric() || b"._:-".contains(b);
        (1..=header::REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.as_bytes().iter().all(plain)
    };
    if let Some(id) = headers.get(REQUEST_ID).filter(sane) {
        return id.clone();
    }
    let fresh = format!("req_{}", Ulid::generate());
    HeaderValue::from_maybe_shared(bytes::Bytes::from(fresh))
        .unwrap_or(HeaderValue::from_static("req_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &'static str, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        headers
    }

    #[test]
    fn a_key_comes_in_either_header() {
        let shown = |headers| credential(&headers).map(|key| key.expose().to_owned());
        assert_eq!(shown(HeaderMap::new()), None);
        assert_eq!(shown(with("x-api-key", "k")), Some("k".into()));
        assert_eq!(shown(with("authorization", "bearer  k ")), Some("k".into()));
        assert_eq!(shown(with("authorization", "Basic k")), None);
        assert_eq!(shown(with("authorization", "Bearer")), None);
        assert_eq!(shown(with("x-api-key", "\u{e4}")), Some("\u{e4}".into()));
    }

    #[test]
    fn a_sane_request_id_is_kept_and_any_other_replaced() {
        assert_eq!(id(&with("x-request-id", "ci:42.a_b-C")), "ci:42.a_b-C");
        let long = "x".repeat(65);
        for bad in ["", "a b", "a\"b", "ü", long.as_str()] {
            let fresh = id(&with("x-request-id", bad));
            let fresh = fresh.to_str().unwrap();
            assert!(fresh.starts_with("req_") && fresh.len() == 30, "{fresh}");
        }
    }
}
