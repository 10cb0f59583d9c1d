//! Answers out: a page of claims, and one assertion.

use bytes::Bytes;
use http::header::CACHE_CONTROL;
use http::{Response, StatusCode};
use http_body_util::Full;
use serde_json::Value;
use stemedb::shard::{Attestation, ClaimAnswer, Cursor, Pattern, Read, ReadAnswer, TextMatch};
use stemedb_api::{Slug, claims as api, path};
use stemedb_claims::{AgentId, Assurance, InstantNs, Lens, StatementId};
use stemedb_types::limits::TERM_BYTES_MAX;

use crate::failure::Failure;
use crate::params::{Params, not_supported_yet};
use crate::request::{Admitted, Reply};
use crate::respond::{self, ASK_AGAIN};
use crate::scan::{cursor, cursor_text};

const KNOWN: &[&str] = &[
    "bucket",
    "subject",
    "subject_prefix",
    "predicate",
    "predicate_prefix",
    "agent",
    "lens",
    "limit",
    "cursor",
    "as_of",
    "consistency",
];
/// Parameters of the contract that this version refuses.
const LATER: &[&str] = &["object", "source", "min_confidence", "valid_at", "explain"];
/// Lenses of the contract that this version refuses.
const LENSES_LATER: &[&str] = &["confidence", "weighted", "consensus", "authority"];

/// `GET /v1/query`: claims that match, each (subject, predicate) resolved by a lens.
pub(crate) async fn page(request: Admitted<'_>) -> Result<Response<Full<Bytes>>, Failure> {
    let params = request.params(KNOWN, LATER)?;
    let consistency = request.consistency(&params)?;
    let bucket = params.bucket()?;
    let as_of = params.as_of()?;
    let cursor = cursor(&params, as_of)?;
    if matches!(cursor, Some(Cursor::Key { .. })) {
        return Err(Failure::malformed("`cursor` is one of a scan, not of a query"));
    }
    let pattern = Pattern {
        subject: text_match(&params, "subject", "subject_prefix")?,
        predicate: text_match(&params, "predicate", "predicate_prefix")?,
        agent: params.parsed::<AgentId>("agent")?,
    };
    let (lens, limit) = (lens(&params)?, params.limit()?);
    let now_ms = (request.gateway.options.clock_ms)();
    let read = Read::Query { pattern, lens, limit, as_of, cursor, now_ms };
    let Reply { answer, served_by } = request.read(bucket, read, consistency).await?;
    let ReadAnswer::Claims { revision, answers, cursor } = answer else {
        return Err(Failure::internal("a query was answered with something else"));
    };
    let answers = answers.into_iter().map(row).collect::<Result<_, _>>()?;
    let cursor = cursor.as_ref().map(cursor_text);
    let page = api::QueryAnswer { revision: revision.0, answers, cursor };
    let mut response = respond::json(StatusCode::OK, &page)?;
    response.headers_mut().insert(CACHE_CONTROL, ASK_AGAIN);
    respond::origin(response.headers_mut(), revision, served_by);
    Ok(response)
}

/// `GET /v1/assertions/{id}`: one statement and who made it.
pub(crate) async fn assertion(request: Admitted<'_>) -> Result<Response<Full<Bytes>>, Failure> {
    let params = request.params(&["bucket", "consistency"], &[])?;
    let consistency = request.consistency(&params)?;
    let bucket = params.bucket()?;
    let id = path_id(request.target.rest)?;
    let Reply { answer, served_by } = request.read(bucket, Read::Claim { id }, consistency).await?;
    let ReadAnswer::Claims { revision, answers, .. } = answer else {
        return Err(Failure::internal("an assertion was answered with something else"));
    };
    let Some(claim) = answers.into_iter().next() else {
        let failure = Failure::new(Slug::NotFound, "there is no such assertion in this bucket");
        return Err(failure.with_origin(revision, served_by));
    };
    let mut response = respond::json(StatusCode::OK, &whole(claim)?)?;
    response.headers_mut().insert(CACHE_CONTROL, ASK_AGAIN);
    respond::origin(response.headers_mut(), revision, served_by);
    Ok(response)
}

/// `name` is the whole term, `name_prefix` its beginning; an empty prefix is any term.
fn text_match(params: &Params, name: &str, name_prefix: &str) -> Result<TextMatch, Failure> {
    let (exact, prefix) = (params.text(name)?, params.text(name_prefix)?);
    for (name, text) in [(name, exact), (name_prefix, prefix)] {
        if text.is_some_and(|text| text.len() > TERM_BYTES_MAX) {
            let detail = format!("`{name}` is longer than {TERM_BYTES_MAX} bytes");
            return Err(Failure::malformed(detail));
        }
    }
    match (exact, prefix) {
        (Some(_), Some(_)) => {
            Err(Failure::malformed(format!("`{name}` and `{name_prefix}` can't both be given")))
        }
        (Some(""), None) => Err(Failure::malformed(format!("`{name}` is empty"))),
        (Some(exact), None) => Ok(TextMatch::Exact(exact.to_owned())),
        (None, Some("") | None) => Ok(TextMatch::Any),
        (None, Some(prefix)) => Ok(TextMatch::Prefix(prefix.to_owned())),
    }
}

fn lens(params: &Params) -> Result<Lens, Failure> {
    let name = params.text("lens")?.unwrap_or(Lens::default().as_str());
    if LENSES_LATER.contains(&name) {
        return Err(not_supported_yet(&format!("lens={name}")));
    }
    name.parse().map_err(|cause| Failure::malformed(format!("`lens`: {cause}")))
}

/// The id of the path; its colon may be escaped.
fn path_id(raw: &str) -> Result<StatementId, Failure> {
    let bytes = path::decode_key(raw).map_err(|cause| Failure::malformed(cause.to_string()))?;
    let id = std::str::from_utf8(&bytes).ok().and_then(|text| text.parse().ok());
    id.ok_or_else(|| Failure::malformed("an id is `sha256:` and 64 lowercase hex digits"))
}

/// One claim as a row of an answer.
fn row(claim: ClaimAnswer) -> Result<api::QueryRow, Failure> {
    let statement: api::Statement = stored(&claim)?;
    let newest = newest(&claim)?;
    let surest = claim.attestations.iter().map(|made| made.agent.assurance()).max();
    Ok(api::QueryRow {
        id: claim.id.to_string(),
        subject: statement.subject,
        predicate: statement.predicate,
        object: statement.object,
        confidence: statement.confidence.unwrap_or(1.0),
        valid_from: statement.valid_from,
        valid_to: statement.valid_to,
        agents: claim.attestations.iter().map(|made| made.agent.to_string()).collect(),
        assurance: assurance(surest.unwrap_or(Assurance::Key)),
        source: statement.source,
        refs: statement.refs,
        revision: newest.revision.0,
        asserted_at: instant(newest.at_ms),
    })
}

/// One claim with all that is known of it.
fn whole(claim: ClaimAnswer) -> Result<api::Assertion, Failure> {
    let statement: Value = stored(&claim)?;
    let first = claim.attestations.iter().map(|made| made.revision).min().unwrap_or_default();
    let attestations = claim.attestations.iter().map(|made| api::Attestation {
        agent: made.agent.to_string(),
        assurance: assurance(made.agent.assurance()),
        revision: made.revision.0,
        asserted_at: instant(made.at_ms),
    });
    Ok(api::Assertion {
        id: claim.id.to_string(),
        statement,
        revision: first.0,
        attestations: attestations.collect(),
    })
}

fn stored<T: serde::de::DeserializeOwned>(claim: &ClaimAnswer) -> Result<T, Failure> {
    let statement = serde_json::from_slice(&claim.statement);
    statement.map_err(|cause| Failure::internal(format!("read the stored {}: {cause}", claim.id)))
}

fn newest(claim: &ClaimAnswer) -> Result<&Attestation, Failure> {
    let newest = claim.attestations.iter().max_by_key(|made| made.revision);
    newest.ok_or_else(|| Failure::internal(format!("nobody made {}", claim.id)))
}

fn assurance(of: Assurance) -> api::Assurance {
    match of {
        Assurance::Key => api::Assurance::Key,
        Assurance::Signed => api::Assurance::Signed,
    }
}

/// Milliseconds since 1970 as RFC 3339.
pub(crate) fn instant(at_ms: u64) -> String {
    InstantNs::from_ms(i64::try_from(at_ms).unwrap_or(i64::MAX)).to_string()
}
