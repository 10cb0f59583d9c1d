//! A scripted front, and a bench that sends requests and writes down what comes back.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::future::{BoxFuture, pending, ready};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use serde_json::Value;
use stemedb::meta::{ApiKey, KeyHash, Node, NodeAddresses, Project, Role};
use stemedb::shard::{Answer, AssertStatus, Head, Read, ReadAnswer, Version, Write};
use stemedb::{
    AdminAnswer, AdminCall, Admission, Answered, Call, Caller, Change, ClusterStatus, Consistency,
    Credential, Door, Error, Front, Member, MemberState, Need, Op, OpAnswer, Preview, Progress,
    Quarantined, Readiness, Startup,
};
use stemedb_gateway::{Gateway, Options};
use stemedb_types::{
    ClusterId, GroupId, Layout, NodeId, ProjectId, ProjectName, Replica, ReplicaId, Revision,
    ShardLayout,
};

/// A front that answers from a script and remembers what it was asked. Without a line of script
/// it answers like an empty bucket at revision 7; a call of the bucket `hang` never ends.
pub(crate) struct Script {
    pub(crate) answers: Mutex<VecDeque<Result<Answered, Error>>>,
    pub(crate) admin_answers: Mutex<VecDeque<Result<AdminAnswer, Error>>>,
    pub(crate) calls: Mutex<Vec<Call>>,
    pub(crate) admin_calls: Mutex<Vec<AdminCall>>,
    pub(crate) keys: Mutex<Vec<(ApiKey, Option<Project>)>>,
    pub(crate) readiness: Mutex<Readiness>,
    pub(crate) startup: Mutex<Startup>,
    pub(crate) draining_since_ms: Mutex<Option<u64>>,
    pub(crate) progress: Mutex<Result<Progress, Error>>,
    pub(crate) preview: Mutex<Result<Preview, Error>>,
    pub(crate) changes: Mutex<Vec<Change>>,
}

pub(crate) fn project() -> Project {
    Project { id: ProjectId(3), name: "p".parse().unwrap(), created_at_ms: 0 }
}

pub(crate) fn api_key(digit: u8, label: &str, role: Role, revoked_at_ms: Option<u64>) -> ApiKey {
    ApiKey {
        hash: KeyHash([digit; 32]),
        label: label.to_owned(),
        role,
        project: role.of_project().then_some(ProjectId(3)),
        created_at_ms: 1_767_268_800_000,
        created_by: "start".to_owned(),
        revoked_at_ms,
    }
}

impl Front for Script {
    /// Keys: `root` of the cluster, `writer` and `reader` of project p; all else is unknown.
    fn admit(
        &self,
        credential: Option<Credential>,
        project_named: Option<ProjectName>,
        need: Need,
    ) -> BoxFuture<'_, Result<Admission, Error>> {
        let role = match credential.as_ref().map(Credential::expose) {
            Some("root") => Role::Root,
            Some("writer") => Role::WriteAgent,
            Some("reader") => Role::ReadAgent,
            _ => return Box::pin(ready(Err(Error::Unauthenticated))),
        };
        let of_data = matches!(need, Need::Read | Need::Write);
        let refused = match (role, need) {
            (Role::Root, _) if of_data && project_named.is_none() => {
                Some(Error::Malformed("name a project".into()))
            }
            (Role::Root, _) | (Role::WriteAgent, Need::Read | Need::Write) => None,
            (Role::ReadAgent, Need::Read) => None,
            _ => Some(Error::Forbidden("not with this key".into())),
        };
        let project = of_data.then(|| (ProjectId(3), project_named.unwrap_or(project().name)));
        let caller = Caller { label: "project-p".into(), role, project };
        let admission = Admission { caller, credential };
        Box::pin(ready(refused.map_or(Ok(admission), Err)))
    }

    fn call(&self, call: Call) -> BoxFuture<'_, Result<Answered, Error>> {
        let scripted = self.answers.lock().unwrap().pop_front();
        let answer = scripted.unwrap_or_else(|| Ok(answered(usual(&call.op))));
        let hangs = call.bucket.as_str() == "hang";
        self.calls.lock().unwrap().push(call);
        if hangs {
            return Box::pin(pending());
        }
        Box::pin(ready(answer))
    }

    fn admin(
        &self,
        _admission: Admission,
        call: AdminCall,
    ) -> BoxFuture<'_, Result<AdminAnswer, Error>> {
        self.admin_calls.lock().unwrap().push(call);
        let scripted = self.admin_answers.lock().unwrap().pop_front();
        Box::pin(ready(scripted.unwrap_or(Ok(AdminAnswer::Done))))
    }

    fn keys(&self) -> Vec<(ApiKey, Option<Project>)> {
        self.keys.lock().unwrap().clone()
    }

    fn status(&self) -> ClusterStatus {
        let addresses = NodeAddresses {
            http: "n1:18180".into(),
            gateway: "n1:18181".into(),
            grpc: "n1:18182".into(),
            gossip: "n1:18183".into(),
        };
        let meta_replica = ReplicaId(1);
        let node = Node {
            id: NodeId(1),
            name: "n1".into(),
            zone: "a".into(),
            addresses,
            meta_replica,
            weight: 3,
            draining_since_ms: *self.draining_since_ms.lock().unwrap(),
        };
        let replica = |id| Replica { node: NodeId(1), id: ReplicaId(id) };
        let shards = vec![ShardLayout { replicas: vec![replica(2)] }];
        let version = Some("0.1.0".into());
        ClusterStatus {
            cluster: Some(ClusterId(0xabc)),
            node: NodeId(1),
            node_name: "n1".into(),
            layout: Layout { epoch: 5, shards, meta: vec![replica(1)] },
            members: vec![Member { node, state: MemberState::Alive, leaders: 1, version }],
            shards_leaderless: 0,
            shards_under_replicated: 1,
            shards_moving: 2,
            quarantined: vec![Quarantined {
                group: GroupId(1),
                replica: ReplicaId(2),
                part: "log",
                cause: "1.wal at 7".into(),
                since_ms: 1000,
            }],
        }
    }

    fn progress(&self) -> BoxFuture<'_, Result<Progress, Error>> {
        Box::pin(ready(self.progress.lock().unwrap().clone()))
    }

    fn preview(&self, change: Change) -> BoxFuture<'_, Result<Preview, Error>> {
        self.changes.lock().unwrap().push(change);
        Box::pin(ready(self.preview.lock().unwrap().clone()))
    }

    fn readiness(&self) -> Readiness {
        self.readiness.lock().unwrap().clone()
    }

    fn startup(&self) -> Startup {
        *self.startup.lock().unwrap()
    }
}

/// An answer given by node `n2`.
pub(crate) fn answered(answer: OpAnswer) -> Answered {
    Answered { answer, served_by: "n2".into() }
}

pub(crate) fn version(revision: u64, value: &'static [u8]) -> Version {
    let head = Head {
        create_revision: Revision(2),
        mod_revision: Revision(revision),
        version: 4,
        deleted: false,
        expiry: None,
    };
    Version { head, value: Bytes::from_static(value) }
}

fn usual(op: &Op) -> OpAnswer {
    let revision = Revision(7);
    match op {
        Op::Write(Write::Put { .. }) => OpAnswer::Write(Answer::Put { revision, created: true }),
        Op::Write(Write::Delete { .. }) => OpAnswer::Write(Answer::Deleted { revision }),
        Op::Write(Write::Assert { items }) => {
            let items = vec![AssertStatus::Created; items.len()];
            OpAnswer::Write(Answer::Asserted { revision, items })
        }
        Op::Write(other) => panic!("no route asks for {other:?}"),
        Op::Read(Read::Get { .. }) => OpAnswer::Read(ReadAnswer::Value { revision, version: None }),
        Op::Read(Read::Scan { .. }) => {
            OpAnswer::Read(ReadAnswer::Page { revision, rows: vec![], cursor: None })
        }
        Op::Read(Read::Query { .. } | Read::Claim { .. }) => {
            OpAnswer::Read(ReadAnswer::Claims { revision, answers: vec![], cursor: None })
        }
    }
}

/// A gateway over a script.
pub(crate) struct Bench {
    pub(crate) script: Arc<Script>,
    pub(crate) gateway: Gateway,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let script = Arc::new(Script {
            answers: Mutex::default(),
            admin_answers: Mutex::default(),
            calls: Mutex::default(),
            admin_calls: Mutex::default(),
            keys: Mutex::default(),
            readiness: Mutex::new(Readiness { ready: true, reasons: vec![] }),
            startup: Mutex::new(Startup { done: true, replayed_entries: 9, total_entries: 9 }),
            draining_since_ms: Mutex::default(),
            progress: Mutex::new(Ok(Progress::default())),
            preview: Mutex::new(Ok(Preview::default())),
            changes: Mutex::default(),
        });
        let options = Options {
            metrics: Arc::new(|| "up 1\n".to_owned()),
            version: "0.1.0".to_owned(),
            clock_ms: || 1_000,
            ..Options::default()
        };
        Self { gateway: Gateway::new(script.clone(), options), script }
    }

    /// The next call is answered with this, by node `n2`.
    pub(crate) fn answer(&self, answer: OpAnswer) -> &Self {
        self.script.answers.lock().unwrap().push_back(Ok(answered(answer)));
        self
    }

    /// The next call meets this.
    pub(crate) fn fail(&self, error: Error) -> &Self {
        self.script.answers.lock().unwrap().push_back(Err(error));
        self
    }

    pub(crate) fn answer_admin(&self, answer: Result<AdminAnswer, Error>) -> &Self {
        self.script.admin_answers.lock().unwrap().push_back(answer);
        self
    }

    /// What the last call asked for, and of which bucket.
    pub(crate) fn asked(&self) -> (String, Op) {
        let call = self.script.calls.lock().unwrap().last().cloned().unwrap();
        (call.bucket.to_string(), call.op)
    }

    /// How new what the last call reads must be.
    pub(crate) fn asked_for(&self) -> Consistency {
        self.script.calls.lock().unwrap().last().unwrap().consistency
    }

    /// How often the front was asked to do anything.
    pub(crate) fn reached(&self) -> usize {
        self.script.calls.lock().unwrap().len()
            + self.script.admin_calls.lock().unwrap().len()
            + self.script.changes.lock().unwrap().len()
    }

    /// Sends `METHOD /path` with the key `writer` and the request id `t` unless `headers` say
    /// otherwise (an empty value takes a header away). Gives back the transcript.
    pub(crate) async fn call(
        &self,
        line: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> String {
        let request = request(line, headers, Full::new(body.into()));
        let method = request.method().clone();
        let path = request.uri().path().to_owned();
        let response = self.gateway.handle(Door::Gateway, request).await;
        let seen = Seen::of(response).await;
        seen.check(&method, &path);
        seen.transcript()
    }

    /// A request without a body.
    pub(crate) async fn ask(&self, line: &str, headers: &[(&str, &str)]) -> String {
        self.call(line, headers, "").await
    }
}

pub(crate) fn request<B>(line: &str, headers: &[(&str, &str)], body: B) -> Request<B> {
    let (method, uri) = line.split_once(' ').unwrap();
    let mut request = Request::builder().method(method).uri(uri).body(body).unwrap();
    let map = request.headers_mut();
    map.insert("x-api-key", "writer".parse().unwrap());
    map.insert("x-request-id", "t".parse().unwrap());
    for (name, value) in headers {
        let name: http::HeaderName = name.parse().unwrap();
        map.remove(&name);
        if !value.is_empty() {
            map.insert(name, value.parse().unwrap());
        }
    }
    request
}

/// A response, all of it.
pub(crate) struct Seen {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Seen {
    pub(crate) async fn of<B>(response: Response<B>) -> Self
    where
        B: hyper::body::Body<Data = Bytes>,
        B::Error: std::fmt::Debug,
    {
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Self { status: head.status.as_u16(), headers: head.headers, body }
    }

    /// What holds for every response: it has an id and a server, errors are problems that agree
    /// with their status line, and the OpenAPI document knows the status.
    pub(crate) fn check(&self, method: &http::Method, path: &str) {
        assert!(self.headers.contains_key("x-request-id"), "no request id");
        assert!(self.headers.contains_key("stemedb-served-by"), "nobody served it");
        if self.status >= 400 {
            assert_eq!(self.headers["content-type"], "application/problem+json");
            if method != http::Method::HEAD {
                let problem: stemedb_api::Problem = serde_json::from_slice(&self.body).unwrap();
                assert_eq!(problem.status, self.status);
                assert!(problem.slug().is_some(), "{}", problem.kind);
                assert_eq!(problem.instance, self.headers["x-request-id"]);
                assert!(!problem.detail.is_empty());
            }
        }
        if matches!(self.status, 429 | 503) {
            assert!(self.headers.contains_key("retry-after"), "{} without advice", self.status);
        }
        super::openapi::check_documented(method, path, self.status);
    }

    /// Status, headers in order (but for the request id `t`), a blank line, the body; of a problem
    /// only slug, detail, advice and further members.
    pub(crate) fn transcript(&self) -> String {
        let mut text = format!("{}\n", self.status);
        let mut lines: Vec<String> = self
            .headers
            .iter()
            .filter(|(name, value)| !(*name == "x-request-id" && *value == "t"))
            .map(|(name, value)| format!("{name}: {}\n", value.to_str().unwrap()))
            .collect();
        lines.sort();
        text.extend(lines.into_iter().filter(|l| !l.starts_with("content-type: application/prob")));
        if !self.body.is_empty() {
            let body = serde_json::from_slice::<Value>(&self.body).map_or_else(
                |_| self.body.escape_ascii().to_string(),
                |json| shortened(json, self.status).to_string(),
            );
            let _ = write!(text, "\n{body}\n");
        }
        text
    }
}

/// A problem without what follows from its slug.
fn shortened(mut body: Value, status: u16) -> Value {
    let Value::Object(map) = &mut body else { return body };
    if status >= 400 {
        for name in ["title", "status", "instance"] {
            map.remove(name);
        }
        if let Some(Value::String(kind)) = map.get_mut("type") {
            *kind = kind.replace(stemedb_api::PROBLEM_TYPE_PREFIX, "");
        }
    }
    body
}
