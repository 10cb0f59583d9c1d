//! The document, from the table and the bodies.
//!
//! Paths and methods come from [`crate::route::TABLE`], bodies from the types
//! of `stemedb-api`; written here is only what neither can say: parameters,
//! statuses and a sentence each. Errors are one response per status, shared by
//! all operations. OpenAPI 3.1 has no way to say that `{key}` may contain `/`;
//! its description does.

use bytes::Bytes;
use stemedb::Need;
use stemedb_api::{Problem, Slug, admin, claims, cluster, header, health, kv, operate};
use stemedb_types::limits::{PAGE_ROWS_DEFAULT, PAGE_ROWS_MAX};
use utoipa::ToSchema;
use utoipa::openapi::header::Header;
use utoipa::openapi::path::{
    HttpMethod, Operation as OperationDoc, OperationBuilder, Parameter, ParameterBuilder,
    ParameterIn, PathItem, PathsBuilder,
};
use utoipa::openapi::request_body::{RequestBody, RequestBodyBuilder};
use utoipa::openapi::schema::{KnownFormat, SchemaFormat, Type};
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{
    ComponentsBuilder, ContentBuilder, InfoBuilder, Object, ObjectBuilder, OpenApi, OpenApiBuilder,
    Ref, RefOr, Required, Response, ResponseBuilder, Schema,
};

use crate::route::{Access, Operation, Place, Row};

/// Statuses of every operation that needs a key.
const KEYED: &[u16] = &[400, 401, 403, 414, 500, 503];
/// Further ones of an operation on a bucket: 404 also where the project named is not there.
const BUCKET: &[u16] = &[404, 421, 504];
/// Every error status, each described once.
const ERRORS: &[u16] =
    &[400, 401, 403, 404, 409, 410, 412, 413, 414, 415, 421, 422, 500, 503, 504, 507];

/// The OpenAPI 3.1 document of this version of the program.
pub fn document(version: &str) -> OpenApi {
    let info = InfoBuilder::new()
        .title("StemeDB")
        .version(version)
        .description(Some(
            "Keys, values and assertions. Every error is application/problem+json; programs branch \
             on its `type`. Every answer carries X-Request-Id and StemeDB-Served-By.",
        ))
        .build();
    let mut paths = PathsBuilder::new();
    for place in Place::ALL {
        let mut item = PathItem::default();
        for row in place.rows() {
            let path = PathItem::new(http_method(row.method), operation(row));
            item.merge_operations(path);
        }
        paths = paths.path(place.template(), item);
    }
    OpenApiBuilder::new().info(info).paths(paths).components(Some(components().build())).build()
}

/// The document as it is served.
pub(crate) fn json(version: &str) -> Bytes {
    serde_json::to_vec(&document(version)).unwrap_or_default().into()
}

fn components() -> ComponentsBuilder {
    let mut schemas = Vec::new();
    add::<Problem>(&mut schemas);
    add::<kv::KeyValue>(&mut schemas);
    add::<kv::ScanPage>(&mut schemas);
    add::<claims::AssertRequest>(&mut schemas);
    add::<claims::AssertAnswer>(&mut schemas);
    add::<claims::ItemError>(&mut schemas);
    add::<claims::QueryAnswer>(&mut schemas);
    add::<claims::Assertion>(&mut schemas);
    add::<admin::CreateKey>(&mut schemas);
    add::<admin::CreatedKey>(&mut schemas);
    add::<admin::KeyList>(&mut schemas);
    add::<cluster::Status>(&mut schemas);
    add::<cluster::MemberList>(&mut schemas);
    add::<cluster::Layout>(&mut schemas);
    add::<operate::PlanRequest>(&mut schemas);
    add::<operate::Plan>(&mut schemas);
    add::<operate::MemberChange>(&mut schemas);
    add::<operate::Paused>(&mut schemas);
    add::<health::Health>(&mut schemas);
    add::<health::Alive>(&mut schemas);
    add::<health::Readiness>(&mut schemas);
    add::<health::Startup>(&mut schemas);
    add::<health::Limits>(&mut schemas);
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
    let in_header = ApiKey::Header(ApiKeyValue::new("X-API-Key"));
    ComponentsBuilder::new()
        .schemas_from_iter(schemas)
        .responses_from_iter(ERRORS.iter().map(|status| (error_name(*status), error(*status))))
        .security_scheme("apiKey", SecurityScheme::ApiKey(in_header))
        .security_scheme("bearer", SecurityScheme::Http(bearer))
}

fn add<T: ToSchema>(schemas: &mut Vec<(String, RefOr<Schema>)>) {
    schemas.push((T::name().into_owned(), T::schema()));
    T::schemas(schemas);
}

fn error_name(status: u16) -> String {
    format!("Error{status}")
}

/// What an error status means: the slugs it comes with.
fn error(status: u16) -> Response {
    let further = |slug: Slug| match status {
        414 => slug == Slug::TooLarge,
        507 => slug == Slug::QuotaExceeded,
        _ => false,
    };
    let slugs = Slug::ALL.iter().filter(|slug| slug.status() == status || further(**slug));
    let slugs: Vec<&str> = slugs.map(|slug| slug.as_str()).collect();
    let problem = ContentBuilder::new().schema(Some(reference::<Problem>())).build();
    let mut response =
        ResponseBuilder::new().description(slugs.join(", ")).content(header::PROBLEM_JSON, problem);
    for (name, text) in error_headers(status) {
        response = response.header(*name, text_header(text));
    }
    response.build()
}

fn error_headers(status: u16) -> &'static [(&'static str, &'static str)] {
    match status {
        401 => &[("WWW-Authenticate", "Always Bearer.")],
        412 => &[("ETag", "Of a key: its ETag now, if it is there.")],
        421 => &[("StemeDB-Owner", "The own HTTP address, host:port, of the node to ask.")],
        503 => &[("Retry-After", "Seconds.")],
        _ => &[],
    }
}

fn http_method(method: &str) -> HttpMethod {
    match method {
        "PUT" => HttpMethod::Put,
        "POST" => HttpMethod::Post,
        "DELETE" => HttpMethod::Delete,
        _ => HttpMethod::Get,
    }
}

fn operation(row: &Row) -> OperationDoc {
    let Spec { summary, parameters, body, successes, errors } = spec(row.operation);
    let mut operation = OperationBuilder::new()
        .operation_id(Some(operation_id(row.operation)))
        .summary(Some(summary))
        .tag(tag(row.place))
        .request_body(body);
    for parameter in path_parameters(row.place).into_iter().chain(parameters) {
        operation = operation.parameter(parameter);
    }
    for (status, response) in successes {
        operation = operation.response(status.to_string(), response);
    }
    let open = row.access == Access::Open;
    let common: &[u16] = if open { &[] } else { KEYED };
    for status in common.iter().chain(&errors) {
        operation =
            operation.response(status.to_string(), Ref::from_response_name(error_name(*status)));
    }
    if let Access::Needs(need) = row.access {
        let anything: [&str; 0] = [];
        operation = operation
            .description(Some(roles(need)))
            .security(SecurityRequirement::new("apiKey", anything))
            .security(SecurityRequirement::new("bearer", anything));
        if matches!(need, Need::Read | Need::Write) {
            let name = "For keys of the cluster, which name the project they mean; required there.";
            operation = operation.parameter(header_parameter("StemeDB-Project", name));
        }
    }
    operation.build()
}

fn roles(need: Need) -> &'static str {
    match need {
        Need::Read => "Roles: read_agent, write_agent, auditor, admin, root.",
        Need::Write => "Roles: write_agent, admin, root.",
        Need::Inspect => "Roles: auditor, admin, root.",
        Need::Administer => "Roles: admin, root.",
    }
}

fn operation_id(operation: Operation) -> String {
    let name = format!("{operation:?}");
    let (first, rest) = name.split_at(1);
    format!("{}{rest}", first.to_ascii_lowercase())
}

fn tag(place: Place) -> &'static str {
    match place {
        Place::Key | Place::Bucket => "keys and values",
        Place::Assert | Place::Query | Place::Assertion => "assertions",
        Place::ApiKeys | Place::ApiKey => "admin",
        Place::Status | Place::Members | Place::Layout | Place::LayoutPlan => "cluster",
        Place::MemberDrain | Place::MemberRemove => "cluster",
        Place::RebalancePause | Place::RebalanceResume => "cluster",
        _ => "health",
    }
}

/// What the table and the bodies can't say of an operation.
struct Spec {
    summary: &'static str,
    parameters: Vec<Parameter>,
    body: Option<RequestBody>,
    successes: Vec<(u16, Response)>,
    /// Beyond those of every operation that needs a key.
    errors: Vec<u16>,
}

impl Spec {
    fn new(summary: &'static str) -> Self {
        Self { summary, parameters: Vec::new(), body: None, successes: Vec::new(), errors: vec![] }
    }

    fn parameters(mut self, parameters: impl IntoIterator<Item = Parameter>) -> Self {
        self.parameters.extend(parameters);
        self
    }

    fn body(mut self, body: RequestBody) -> Self {
        self.body = Some(body);
        self
    }

    fn success(mut self, status: u16, response: Response) -> Self {
        self.successes.push((status, response));
        self
    }

    fn errors(mut self, errors: &[u16]) -> Self {
        self.errors.extend_from_slice(errors);
        self
    }
}

fn spec(operation: Operation) -> Spec {
    match operation {
        Operation::GetKey => Spec::new("Read a key: its raw value, or JSON if that is asked for.")
            .parameters([consistency(), seen(), as_of(), if_match(), if_none_match()])
            .success(200, served(value("The value.")))
            .success(304, served(value_headers(plain("The value still has the ETag."))))
            .errors(BUCKET)
            .errors(&[410, 412]),
        Operation::PutKey => Spec::new("Give a key a value.")
            .parameters([if_match(), if_none_match(), idempotency_key()])
            .body(octets("The value, 0 bytes to 1 MiB."))
            .success(200, replayed(etag(revision(plain("The key has the value.")))))
            .success(201, replayed(etag(revision(plain("The key was made with the value.")))))
            .errors(BUCKET)
            .errors(&[412, 413, 422, 507]),
        Operation::DeleteKey => Spec::new("Take a key away.")
            .parameters([if_match(), if_none_match(), idempotency_key()])
            .success(204, replayed(revision(plain("The key is gone."))))
            .errors(BUCKET)
            .errors(&[412, 422, 507]),
        Operation::Scan => Spec::new("Read a page of keys, in order.")
            .parameters([
                query("prefix", "Only keys that begin with these bytes.", text()),
                query("start", "Only this key and those behind it.", text()),
                query("end", "Only keys before this one.", text()),
                query("keys_only", "Without values.", boolean()),
                query("reverse", "From the last key to the first.", boolean()),
                limit(),
                cursor(),
                as_of(),
                consistency(),
                seen(),
            ])
            .success(200, served(revision(json_of::<kv::ScanPage>("A page."))))
            .errors(BUCKET)
            .errors(&[410]),
        Operation::Assert => Spec::new("Make statements: all of them, or none.")
            .parameters([bucket(), idempotency_key()])
            .body(json_body::<claims::AssertRequest>())
            .success(200, replayed(revision(json_of::<claims::AssertAnswer>("All were known."))))
            .success(201, replayed(revision(json_of::<claims::AssertAnswer>("One is new."))))
            .errors(BUCKET)
            .errors(&[413, 415, 422, 507]),
        Operation::Query => Spec::new("Read a page of claims, resolved by a lens.")
            .parameters([
                bucket(),
                query("subject", "The subject.", text()),
                query("subject_prefix", "What the subject begins with.", text()),
                query("predicate", "The predicate.", text()),
                query("predicate_prefix", "What the predicate begins with.", text()),
                query("agent", "Only attestations of this agent count.", text()),
                query("lens", "How claims of one (subject, predicate) resolve.", lens()),
                limit(),
                cursor(),
                as_of(),
                consistency(),
                seen(),
            ])
            .success(200, served(revision(json_of::<claims::QueryAnswer>("A page."))))
            .errors(BUCKET)
            .errors(&[410]),
        Operation::GetAssertion => Spec::new("Read one assertion.")
            .parameters([bucket(), consistency(), seen()])
            .success(200, served(revision(json_of::<claims::Assertion>("The assertion."))))
            .errors(BUCKET)
            .errors(&[410]),
        Operation::CreateApiKey => Spec::new("Make an API key.")
            .parameters([query("if_exists", "As in the body.", words(&["return", "rotate"]))])
            .body(json_body::<admin::CreateKey>())
            .success(200, location(json_of::<admin::CreatedKey>("It stood already.")))
            .success(201, location(json_of::<admin::CreatedKey>("Made; the key is shown once.")))
            .errors(&[404, 409, 413, 415, 421, 504, 507]),
        Operation::ListApiKeys => Spec::new("List API keys, living ones first.")
            .parameters([limit(), cursor()])
            .success(200, json_of::<admin::KeyList>("A page.")),
        Operation::GetApiKey => Spec::new("Read an API key's record.")
            .success(200, json_of::<admin::KeyRecord>("The record."))
            .errors(&[404]),
        Operation::RevokeApiKey => {
            Spec::new("End an API key; returns once every living member has applied it.")
                .success(204, plain("No node takes the key any more."))
                .errors(&[404, 409, 421, 504, 507])
        }
        Operation::Status => {
            Spec::new("The cluster at a glance; members for those who may inspect.")
                .success(200, json_of::<cluster::Status>("The status."))
                .errors(&[401, 500])
        }
        Operation::Members => Spec::new("The members and where they can be reached.")
            .success(200, json_of::<cluster::MemberList>("The members.")),
        Operation::Layout => Spec::new("Which nodes hold which shard.")
            .success(200, json_of::<cluster::Layout>("The layout.")),
        Operation::PlanLayout => {
            Spec::new("What a change of members would move; nothing is changed.")
                .body(optional(json_body::<operate::PlanRequest>()))
                .success(200, json_of::<operate::Plan>("The moves, and what they cost."))
                .errors(&[404, 413, 415])
        }
        Operation::DrainMember => Spec::new(
            "Have a member hold and lead nothing, where the others suffice; its process stays.",
        )
        .parameters([query("off", "Let it hold and lead again.", boolean())])
        .success(200, json_of::<operate::MemberChange>("It is decided; this is how far it is."))
        .errors(&[404, 412, 504, 507]),
        Operation::RemoveMember => Spec::new(
            "Do without a member: one that holds nothing, or is silent and can be spared.",
        )
        .success(200, json_of::<operate::MemberChange>("It is no member any more."))
        .errors(&[404, 412, 504, 507]),
        Operation::PauseRebalance => Spec::new("Let no shard begin to move; what moves ends. Damaged replicas are replaced all the same.")
            .success(200, json_of::<operate::Paused>("Nothing begins to move."))
            .errors(&[504, 507]),
        Operation::ResumeRebalance => Spec::new("Let shards move again.")
            .success(200, json_of::<operate::Paused>("Shards move where they should."))
            .errors(&[504, 507]),
        Operation::Health => Spec::new("Who answers, and how it is; always 200.")
            .success(200, json_of::<health::Health>("It answers."))
            .errors(&[500]),
        Operation::Alive => Spec::new("Whether the process answers.")
            .success(200, json_of::<health::Alive>("It does."))
            .errors(&[500]),
        Operation::Ready => Spec::new("Whether the node can serve, and if not, why not.")
            .success(200, json_of::<health::Readiness>("It can."))
            .errors(&[500, 503]),
        Operation::Started => Spec::new("Whether the logs were replayed.")
            .success(200, json_of::<health::Startup>("They were."))
            .errors(&[500, 503]),
        Operation::Limits => Spec::new("Every bound of this API.")
            .success(200, json_of::<health::Limits>("The bounds."))
            .errors(&[500]),
        Operation::Metrics => Spec::new("What is counted, in the Prometheus text format.")
            .success(200, content("text/plain", text().into(), "The metrics.")),
        Operation::OpenApi => Spec::new("This document.").success(
            200,
            content(header::JSON, ObjectBuilder::new().schema_type(Type::Object).into(), "It."),
        ),
    }
}

fn path_parameters(place: Place) -> Vec<Parameter> {
    let bucket = || {
        let name = ObjectBuilder::new().schema_type(Type::String);
        let name = name.pattern(Some("^[a-z0-9][a-z0-9._-]{0,63}$")).build();
        path_parameter("bucket", "The bucket; made by its first write.", name)
    };
    match place {
        Place::Key => vec![
            bucket(),
            path_parameter(
                "key",
                "The key's bytes, percent-encoded; may contain `/`, is never normalised.",
                ObjectBuilder::new().schema_type(Type::String).min_length(Some(1)).build(),
            ),
        ],
        Place::Bucket => vec![bucket()],
        Place::Assertion => vec![path_parameter(
            "id",
            "The statement's id.",
            ObjectBuilder::new()
                .schema_type(Type::String)
                .pattern(Some("^sha256:[0-9a-f]{64}$"))
                .build(),
        )],
        Place::MemberDrain | Place::MemberRemove => {
            vec![path_parameter("id", "The member's id, or its name, percent-encoded.", text())]
        }
        Place::ApiKey => vec![path_parameter(
            "hash",
            "SHA-256 of the key.",
            ObjectBuilder::new().schema_type(Type::String).pattern(Some("^[0-9a-f]{64}$")).build(),
        )],
        _ => Vec::new(),
    }
}

fn parameter(name: &str, place: ParameterIn, description: &str, schema: Object) -> Parameter {
    let required = if place == ParameterIn::Path { Required::True } else { Required::False };
    ParameterBuilder::new()
        .name(name)
        .parameter_in(place)
        .required(required)
        .description(Some(description))
        .schema(Some(schema))
        .build()
}

fn path_parameter(name: &str, description: &str, schema: Object) -> Parameter {
    parameter(name, ParameterIn::Path, description, schema)
}

fn query(name: &str, description: &str, schema: Object) -> Parameter {
    parameter(name, ParameterIn::Query, description, schema)
}

fn header_parameter(name: &str, description: &str) -> Parameter {
    parameter(name, ParameterIn::Header, description, text())
}

fn bucket() -> Parameter {
    query("bucket", "The bucket; `default` where absent.", text())
}

fn limit() -> Parameter {
    let rows = ObjectBuilder::new()
        .schema_type(Type::Integer)
        .minimum(Some(1))
        .maximum(Some(PAGE_ROWS_MAX as f64))
        .default(Some(PAGE_ROWS_DEFAULT.into()))
        .build();
    query("limit", "Most rows of the page.", rows)
}

fn cursor() -> Parameter {
    query("cursor", "Where the page before ended, as it said.", text())
}

fn as_of() -> Parameter {
    let revision = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0)).build();
    query("as_of", "Read the past: the state at this revision.", revision)
}

fn consistency() -> Parameter {
    let text = "How new it must be: linearizable (where absent), session (nothing older than \
                StemeDB-Revision says), or stale (any replica, at once; the answer says how old).";
    query("consistency", text, words(&["linearizable", "session", "stale"]))
}

fn seen() -> Parameter {
    let text = "With consistency=session: the greatest StemeDB-Revision that an answer about this \
                bucket gave; absent, the read is linearizable.";
    header_parameter("StemeDB-Revision", text)
}

fn if_match() -> Parameter {
    header_parameter("If-Match", "Only if the key is at one of these ETags, or is there (`*`).")
}

fn if_none_match() -> Parameter {
    header_parameter("If-None-Match", "Only if the key is at none of these, or not there (`*`).")
}

fn idempotency_key() -> Parameter {
    let text = "1 to 64 visible characters that name this write in its bucket: sent again within ten \
                minutes it is not applied again and has the same answer, with StemeDB-Replayed.";
    header_parameter("Idempotency-Key", text)
}

fn text() -> Object {
    ObjectBuilder::new().schema_type(Type::String).build()
}

fn boolean() -> Object {
    ObjectBuilder::new().schema_type(Type::Boolean).build()
}

fn words(words: &[&str]) -> Object {
    let words: Vec<&str> = words.to_vec();
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words)).build()
}

fn lens() -> Object {
    words(&["latest", "all"])
}

fn reference<T: ToSchema>() -> Ref {
    Ref::from_schema_name(T::name())
}

fn json_body<T: ToSchema>() -> RequestBody {
    let content = ContentBuilder::new().schema(Some(reference::<T>())).build();
    RequestBodyBuilder::new().content(header::JSON, content).required(Some(Required::True)).build()
}

/// A body that may be left out.
fn optional(mut body: RequestBody) -> RequestBody {
    body.required = Some(Required::False);
    body
}

fn bytes() -> Object {
    let format = SchemaFormat::KnownFormat(KnownFormat::Binary);
    ObjectBuilder::new().schema_type(Type::String).format(Some(format)).build()
}

fn octets(description: &str) -> RequestBody {
    let content = ContentBuilder::new().schema(Some(bytes())).build();
    RequestBodyBuilder::new()
        .description(Some(description))
        .content(header::OCTET_STREAM, content)
        .required(Some(Required::True))
        .build()
}

fn plain(description: &str) -> Response {
    Response::new(description)
}

fn content(media_type: &str, schema: RefOr<Schema>, description: &str) -> Response {
    let content = ContentBuilder::new().schema(Some(schema)).build();
    ResponseBuilder::new().description(description).content(media_type, content).build()
}

fn json_of<T: ToSchema>(description: &str) -> Response {
    content(header::JSON, reference::<T>().into(), description)
}

/// The two forms of a value.
fn value(description: &str) -> Response {
    let mut response = value_headers(json_of::<kv::KeyValue>(description));
    let raw = ContentBuilder::new().schema(Some(bytes())).build();
    response.content.insert(header::OCTET_STREAM.to_owned(), raw.into());
    response
}

fn text_header(description: &str) -> Header {
    let mut header = Header::new(text());
    header.description = Some(description.to_owned());
    header
}

fn with_header(mut response: Response, name: &str, description: &str) -> Response {
    response.headers.insert(name.to_owned(), text_header(description).into());
    response
}

fn etag(response: Response) -> Response {
    with_header(response, "ETag", "The key's mod revision, in quotes.")
}

fn revision(response: Response) -> Response {
    with_header(response, "StemeDB-Revision", "The revision shown, or taken by the write.")
}

fn served(response: Response) -> Response {
    let how = "`session` or `stale`, where the answer may show less than the newest.";
    let response = with_header(response, "StemeDB-Consistency", how);
    let age = "Of a stale answer: it shows all that was acknowledged so many ms ago, or more.";
    with_header(response, "StemeDB-Stale-Ms", age)
}

fn replayed(response: Response) -> Response {
    let text = "`1` if a write of this Idempotency-Key was given this answer before.";
    with_header(response, "StemeDB-Replayed", text)
}

fn location(response: Response) -> Response {
    with_header(response, "Location", "The path of the key's record.")
}

fn value_headers(response: Response) -> Response {
    let response = etag(revision(response));
    let response =
        with_header(response, "StemeDB-Create-Revision", "The revision that made the key.");
    with_header(response, "StemeDB-Version", "How many times it was put since then.")
}
