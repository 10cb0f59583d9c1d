//! The steps of a request.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use axum::Router;
use axum::extract::Request as AxumRequest;
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::Full;
use hyper::body::Body;
use stemedb::{Admission, Door, Error, Front, Need};
use stemedb_api::header;
use stemedb_api::health::{Limits, URI_BYTES_MAX};
use stemedb_types::ProjectName;
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;
use crate::meter::Meter;
use crate::request::{self, Admitted};
use crate::respond::{self, SERVED_BY};
use crate::route::{self, Access, Operation, Target};
use crate::{Options, assert, cluster, health, keys, kv, openapi, operate, query, scan};

const PROJECT: HeaderName = HeaderName::from_static(header::PROJECT);
const REQUEST_ID: HeaderName = HeaderName::from_static(header::REQUEST_ID);
const CLOSE: HeaderValue = HeaderValue::from_static("close");

/// The HTTP API over one node. Cheap to clone: all clones are one gateway.
#[derive(Clone)]
pub struct Gateway(Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) front: Arc<dyn Front>,
    pub(crate) options: Options,
    pub(crate) openapi: Bytes,
    pub(crate) limits: Limits,
    node_name: HeaderValue,
    meter: Meter,
    draining: AtomicBool,
    hurried: CancellationToken,
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway").field("options", &self.0.options).finish_non_exhaustive()
    }
}

impl Gateway {
    /// A gateway over `front`. Install the metrics recorder before: the counters are taken here.
    pub fn new(front: Arc<dyn Front>, options: Options) -> Self {
        let name = front.status().node_name;
        let deadline_ms = u64::try_from(options.deadline.as_millis()).unwrap_or(u64::MAX);
        Self(Arc::new(Inner {
            node_name: HeaderValue::from_str(&name).unwrap_or(HeaderValue::from_static("")),
            openapi: openapi::json(&options.version),
            limits: Limits::new(deadline_ms),
            meter: Meter::new(),
            draining: AtomicBool::new(false),
            hurried: CancellationToken::new(),
            front,
            options,
        }))
    }

    /// The same API as a router, for programs that bring their own server and for tests.
    pub fn router(&self, door: Door) -> Router {
        let gateway = self.clone();
        Router::new().fallback(move |request: AxumRequest| {
            let gateway = gateway.clone();
            async move { gateway.handle(door, request).await.map(axum::body::Body::new) }
        })
    }

    /// From now on every HTTP/1.1 answer says `Connection: close`. There is no way back.
    pub fn drain(&self) {
        self.0.draining.store(true, Ordering::Relaxed);
    }

    /// No door waits for anything any more: once it is told to close, it is closed, and requests under
    /// way are cut off.
    pub fn hurry(&self) {
        self.0.hurried.cancel();
    }

    /// Ends once [`Gateway::hurry`] was called.
    pub async fn hurried(&self) {
        self.0.hurried.cancelled().await;
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.0.draining.load(Ordering::Relaxed)
    }

    pub(crate) fn options(&self) -> &Options {
        &self.0.options
    }

    /// One request, from its head to its response. Never fails and never panics: whatever goes
    /// wrong is a response.
    pub async fn handle<B>(&self, door: Door, request: Request<B>) -> Response<Full<Bytes>>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let began = Instant::now();
        let (head, body) = request.into_parts();
        let target = route::find(head.uri.path());
        let request_id = request::id(&head.headers);
        let done = self.0.answer(door, &head, target, body).await;
        let mut response = done.unwrap_or_else(|failure| failure.into_response(&request_id));
        if head.method == Method::HEAD {
            keep_head_only(&mut response);
        }
        self.0.stamp(&mut response, request_id);
        if head.version <= Version::HTTP_11 && self.is_draining() {
            response.headers_mut().insert(CONNECTION, CLOSE);
        }
        let place = target.map(|target| target.place);
        self.0.meter.record(place, &head.method, response.status(), began.elapsed());
        response
    }
}

impl Inner {
    /// The order of checks: route, method, who, then everything else.
    async fn answer<B>(
        &self,
        door: Door,
        head: &Parts,
        target: Option<Target<'_>>,
        body: B,
    ) -> Result<Response<Full<Bytes>>, Failure>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let target = target.ok_or_else(Failure::no_route)?;
        let row = target.place.row(&head.method).ok_or_else(|| Failure::method(target.place))?;
        let Access::Needs(need) = row.access else {
            return self.answer_open(row.operation, head).await;
        };
        let admission = self.admit(head, need).await?;
        let uri_bytes = head.uri.path_and_query().map_or(0, |uri| uri.as_str().len());
        if uri_bytes > URI_BYTES_MAX {
            return Err(Failure::too_large(StatusCode::URI_TOO_LONG, "the URI", URI_BYTES_MAX));
        }
        let served = OnceLock::new();
        let admitted = Admitted { gateway: self, head, target, door, admission, served: &served };
        let answered = self.answer_admitted(row.operation, admitted, body).await;
        match answered {
            Ok(mut response) => {
                respond::served(response.headers_mut(), served.get());
                Ok(response)
            }
            Err(failure) => Err(failure.with_served(served.get())),
        }
    }

    async fn answer_admitted<B>(
        &self,
        operation: Operation,
        admitted: Admitted<'_>,
        body: B,
    ) -> Result<Response<Full<Bytes>>, Failure>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        match operation {
            Operation::GetKey => kv::get(admitted).await,
            Operation::PutKey => kv::put(admitted, body).await,
            Operation::DeleteKey => kv::delete(admitted).await,
            Operation::Scan => scan::page(admitted).await,
            Operation::Assert => assert::assert(admitted, body).await,
            Operation::Query => query::page(admitted).await,
            Operation::GetAssertion => query::assertion(admitted).await,
            Operation::CreateApiKey => keys::create(admitted, body).await,
            Operation::ListApiKeys => keys::list(&admitted),
            Operation::GetApiKey => keys::get(&admitted),
            Operation::RevokeApiKey => keys::revoke(admitted).await,
            Operation::Members => cluster::members(self).await,
            Operation::Layout => cluster::layout(self),
            Operation::PlanLayout => operate::plan(admitted, body).await,
            Operation::DrainMember => operate::drain(admitted).await,
            Operation::RemoveMember => operate::remove(admitted).await,
            Operation::PauseRebalance => operate::pause(admitted, true).await,
            Operation::ResumeRebalance => operate::pause(admitted, false).await,
            other => Err(Failure::internal(format!("{other:?} is open, yet it wants a key"))),
        }
    }

    /// Routes that anyone may ask.
    async fn answer_open(
        &self,
        operation: Operation,
        head: &Parts,
    ) -> Result<Response<Full<Bytes>>, Failure> {
        match operation {
            Operation::Health => health::health(self),
            Operation::Alive => health::alive(),
            Operation::Ready => health::ready(self),
            Operation::Started => health::started(self),
            Operation::Metrics => Ok(health::metrics(self)),
            Operation::Limits => respond::json(StatusCode::OK, &self.limits),
            Operation::OpenApi => {
                Ok(respond::typed(StatusCode::OK, respond::JSON, self.openapi.clone()))
            }
            Operation::Status => {
                let full = self.may_inspect(head).await?;
                cluster::status(self, full).await
            }
            other => Err(Failure::internal(format!("{other:?} wants a key, yet it is open"))),
        }
    }

    /// Who it is. Whoever has no good key hears that before anything else.
    async fn admit(&self, head: &Parts, need: Need) -> Result<Admission, Failure> {
        let project = match head.headers.get(PROJECT).map(|name| name.to_str()) {
            None => Ok(None),
            Some(Ok(name)) => name.parse::<ProjectName>().map(Some).map_err(|c| c.to_string()),
            Some(Err(_)) => Err("it is not ASCII".to_owned()),
        };
        let named = project.as_ref().ok().cloned().flatten();
        let admitted = self.front.admit(request::credential(&head.headers), named, need).await;
        if let (Err(cause), false) = (&project, matches!(admitted, Err(Error::Unauthenticated))) {
            return Err(Failure::malformed(format!("{}: {cause}", header::PROJECT)));
        }
        Ok(admitted?)
    }

    /// Whether an open route may say more. A key that is presented and not known is refused, so
    /// that its owner hears of it; any other obstacle only shortens the answer.
    async fn may_inspect(&self, head: &Parts) -> Result<bool, Failure> {
        let credential = request::credential(&head.headers);
        let presented = credential.is_some();
        match self.front.admit(credential, None, Need::Inspect).await {
            Ok(_) => Ok(true),
            Err(Error::Unauthenticated) if presented => Err(Error::Unauthenticated.into()),
            Err(_) => Ok(false),
        }
    }

    /// The header for the node that served an answer; this node's own is made only once.
    pub(crate) fn served_by(&self, name: String) -> HeaderValue {
        if self.node_name == name.as_str() {
            return self.node_name.clone();
        }
        HeaderValue::try_from(name).unwrap_or_else(|_| self.node_name.clone())
    }

    /// This node's name.
    pub(crate) fn node_name(&self) -> &str {
        self.node_name.to_str().unwrap_or_default()
    }

    /// The headers that stand on every response.
    fn stamp(&self, response: &mut Response<Full<Bytes>>, request_id: HeaderValue) {
        let headers = response.headers_mut();
        headers.insert(REQUEST_ID, request_id);
        if !headers.contains_key(SERVED_BY) {
            headers.insert(SERVED_BY, self.node_name.clone());
        }
    }
}

/// Takes the body away and says how long it was. (A 304 has none: to say 0 would be wrong.)
fn keep_head_only(response: &mut Response<Full<Bytes>>) {
    let length = response.body().size_hint().exact().unwrap_or_default();
    if response.status() != StatusCode::NOT_MODIFIED {
        response.headers_mut().insert(CONTENT_LENGTH, length.into());
    }
    *response.body_mut() = Full::default();
}
