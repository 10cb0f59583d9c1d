//! Statements in: one or many, all or none.
//!
//! Every statement of a call is read before any is stored. If one is bad the
//! call is a 422 that names each bad one by its place, and nothing of it
//! stands: bad input is never partly applied. To repeat a call is always safe,
//! as a statement that its agent made before is `known`.

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use hyper::body::Body;
use serde_json::Value;
use stemedb::shard::{Answer, AssertItem, AssertStatus, Write};
use stemedb_api::{Slug, claims as api};
use stemedb_claims::{AgentId, Error, Statement, parse_json};
use stemedb_types::limits::{BODY_BYTES_MAX, ITEMS_MAX};

use crate::failure::Failure;
use crate::request::{Admitted, Written};
use crate::{body, respond};

/// Most bad statements a problem describes: enough to mend a call by.
const ERRORS_MAX: usize = 100;

/// `POST /v1/assert`: 201 if any statement is new to this agent, else 200.
pub(crate) async fn assert<B>(
    request: Admitted<'_>,
    body: B,
) -> Result<Response<Full<Bytes>>, Failure>
where
    B: Body<Data = Bytes> + Unpin,
{
    let bucket = request.params(&["bucket"], &[])?.bucket()?;
    request.idempotency_key()?;
    body::expect_json(&request.head.headers)?;
    let agent = request.admission.agent()?;
    let patience = request.gateway.options.deadline;
    let bytes = body::read(body, "the body", BODY_BYTES_MAX, patience).await?;
    let items = read_items(&bytes, &agent)?;
    let ids: Vec<String> = items.iter().map(|item| item.id.to_string()).collect();
    let Written { answer, served_by, replayed } =
        request.write(bucket, Write::Assert { items }, true).await?;
    let Answer::Asserted { revision, items } = answer else {
        return Err(Failure::internal("statements were answered with something else"));
    };
    if items.len() != ids.len() {
        return Err(Failure::internal("there is not one answer for each statement"));
    }
    let created = items.contains(&AssertStatus::Created);
    let items = ids.into_iter().zip(items).map(|(id, status)| {
        let status = match status {
            AssertStatus::Created => api::AssertStatus::Created,
            AssertStatus::Known => api::AssertStatus::Known,
        };
        api::AssertedItem { id, status }
    });
    let answer = api::AssertAnswer { revision: revision.0, items: items.collect() };
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    let mut response = respond::json(status, &answer)?;
    respond::origin(response.headers_mut(), revision, served_by);
    respond::replayed(response.headers_mut(), replayed);
    Ok(response)
}

/// The statements of a body, each in the name of `agent`.
fn read_items(body: &[u8], agent: &AgentId) -> Result<Vec<AssertItem>, Failure> {
    let value = parse_json(body).map_err(|error| match error {
        Error::Json { .. } => Failure::malformed(error.to_string()),
        // Two readers could differ on what was said: then it is no statement.
        other => Failure::new(Slug::InvalidStatement, other.to_string()),
    })?;
    let values = split(value)?;
    refuse_envelopes(&values)?;
    let mut items = Vec::with_capacity(values.len());
    let mut errors = Vec::new();
    for (index, value) in values.into_iter().enumerate() {
        match Statement::from_value(value) {
            Ok(statement) => items.push(item(statement, agent)),
            Err(error) => errors.push(api::ItemError { index, detail: error.to_string() }),
        }
    }
    if errors.is_empty() { Ok(items) } else { Err(refuse(Slug::InvalidStatement, errors)) }
}

/// One statement, or the list under `items`.
fn split(value: Value) -> Result<Vec<Value>, Failure> {
    let Value::Object(mut map) = value else {
        return Err(Failure::malformed("the body must be a JSON object"));
    };
    let Some(items) = map.remove("items") else { return Ok(vec![Value::Object(map)]) };
    if let Some(other) = map.keys().next() {
        let other = crate::params::quoted(other);
        return Err(Failure::malformed(format!("beside `items` there can be no {other}")));
    }
    match items {
        Value::Array(items) if items.is_empty() => {
            Err(Failure::malformed("`items` has no statement"))
        }
        Value::Array(items) if items.len() > ITEMS_MAX => {
            let detail = format!("`items` has {} statements, the most is {ITEMS_MAX}", items.len());
            Err(Failure::new(Slug::TooLarge, detail))
        }
        Value::Array(items) => Ok(items),
        _ => Err(Failure::malformed("`items` must be a list")),
    }
}

/// No agent can be registered yet, so no envelope can be by a known one.
fn refuse_envelopes(values: &[Value]) -> Result<(), Failure> {
    let signed =
        |value: &Value| value.get("payload").is_some() && value.get("signatures").is_some();
    let errors: Vec<_> = values.iter().enumerate().filter(|(_, value)| signed(value)).collect();
    if errors.is_empty() {
        return Ok(());
    }
    let detail = "agents can't be registered in this version yet, so no signature can be checked; \
                  send the plain statement";
    let errors =
        errors.into_iter().map(|(index, _)| api::ItemError { index, detail: detail.into() });
    Err(refuse(Slug::UnknownAgent, errors.collect()))
}

/// A call of which nothing was stored, with what is wrong where.
fn refuse(slug: Slug, mut errors: Vec<api::ItemError>) -> Failure {
    let detail = match errors.as_slice() {
        [] => String::new(),
        [one] => format!("statement {}: {}; nothing was stored", one.index, one.detail),
        [first, rest @ ..] => format!(
            "statement {}: {}; and {} more; nothing was stored",
            first.index,
            first.detail,
            rest.len()
        ),
    };
    errors.truncate(ERRORS_MAX);
    let listed = serde_json::to_value(errors).unwrap_or_default();
    Failure::new(slug, detail).with("errors", listed)
}

fn item(statement: Statement, agent: &AgentId) -> AssertItem {
    AssertItem {
        id: statement.id(),
        subject: statement.subject().to_owned(),
        predicate: statement.predicate().to_owned(),
        agent: agent.clone(),
        statement: statement.into_canonical().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<Vec<AssertItem>, Failure> {
        read_items(body.as_bytes(), &AgentId::key("ci").unwrap())
    }

    #[test]
    fn one_statement_and_a_list_of_one_are_the_same() {
        let one = r#"{"object":1,"subject":"s","predicate":"p"}"#;
        let items = read(one).unwrap();
        assert_eq!(read(&format!("{{\"items\":[{one}]}}")).unwrap(), items);
        assert_eq!(items[0].statement, r#"{"object":1,"predicate":"p","subject":"s"}"#);
        assert_eq!(items[0].agent.to_string(), "key:ci");
    }

    #[test]
    fn every_bad_statement_is_named_by_its_place() {
        let body = r#"{"items":[{"subject":"s","predicate":"p","object":1},{"subject":""},7]}"#;
        let refused = read(body).unwrap_err();
        assert_eq!(
            refused.detail(),
            "statement 1: `subject` is empty; and 1 more; nothing was stored"
        );
    }
}
