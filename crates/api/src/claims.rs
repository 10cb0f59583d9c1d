//! Statements in, answers out.
//!
//! A statement's JSON is hashed as it was meant: nothing absent is filled in,
//! so every optional field here is left out when it is `None`.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// A statement as its maker writes it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// What it is about, 1 to 1024 bytes.
    #[schema(min_length = 1, max_length = 1024)]
    pub subject: String,
    /// What it says of the subject, 1 to 1024 bytes.
    #[schema(min_length = 1, max_length = 1024)]
    pub predicate: String,
    /// What the predicate says: any JSON whose numbers fit a 64-bit float.
    pub object: Value,
    /// How sure its maker is, 0 to 1; 1 where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 1, nullable = false)]
    pub confidence: Option<f64>,
    /// The first instant it holds at, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime, nullable = false)]
    pub valid_from: Option<String>,
    /// The first instant it holds no more, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime, nullable = false)]
    pub valid_to: Option<String>,
    /// Where it comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub source: Option<Source>,
    /// Statements it speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub refs: Option<Vec<Reference>>,
}

/// Where a statement comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Where the source is found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 1024, nullable = false)]
    pub uri: Option<String>,
    /// A digest of it, in its maker's own notation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 1024, nullable = false)]
    pub digest: Option<String>,
    /// What produced the statement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 1024, nullable = false)]
    pub tool: Option<String>,
}

/// A statement that another one speaks of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Reference {
    /// What this one does to it.
    pub rel: Relation,
    /// `sha256:` and 64 lowercase hex digits.
    #[schema(pattern = "^sha256:[0-9a-f]{64}$")]
    pub id: String,
}

/// What a reference does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Relation {
    /// Stands in the other's place.
    Supersedes,
    /// Agrees with the other.
    Endorses,
}

/// The body of `POST /v1/assert`: one statement, or up to 1000.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum AssertRequest {
    /// Many.
    Items(AssertItems),
    /// One.
    Statement(Box<Statement>),
}

/// Many statements in one call: stored together under one revision, or not at all.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AssertItems {
    /// 1 to 1000.
    #[schema(min_items = 1, max_items = 1000)]
    pub items: Vec<Statement>,
}

/// What `POST /v1/assert` gives back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AssertAnswer {
    /// The write's revision, or the bucket's newest if all were known.
    pub revision: u64,
    /// One for each statement, in the order of the call.
    pub items: Vec<AssertedItem>,
}

/// What became of one statement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AssertedItem {
    /// The statement's id: `sha256:` and 64 lowercase hex digits.
    pub id: String,
    /// What became of it.
    pub status: AssertStatus,
}

/// What became of one statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum AssertStatus {
    /// This agent had not made it before.
    Created,
    /// This agent had: nothing changed.
    Known,
    /// It was not stored. Not sent yet: one bad statement refuses the whole call (422).
    Error,
}

/// One statement that a 422 `invalid-statement` or `unknown-agent` refused: its member `errors` is
/// a list of these. Nothing of the call was stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ItemError {
    /// Which statement, from 0.
    pub index: usize,
    /// What is wrong with it.
    pub detail: String,
}

/// A page of `GET /v1/query`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct QueryAnswer {
    /// The revision that the page shows.
    pub revision: u64,
    /// The answers; those of one (subject, predicate) stand together, best first. Of one with very
    /// many claims, `all` answers with some of them on each of several pages.
    pub answers: Vec<QueryRow>,
    /// Where to go on; absent on the last page. A page with a cursor may be empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// One claim of an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct QueryRow {
    /// The statement's id.
    pub id: String,
    /// What it is about.
    pub subject: String,
    /// What it says of the subject.
    pub predicate: String,
    /// What the predicate says.
    pub object: Value,
    /// How sure its maker is, 0 to 1.
    pub confidence: f64,
    /// The first instant it holds at, if it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_from: Option<String>,
    /// The first instant it holds no more, if it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_to: Option<String>,
    /// Who made it, in the order of their revisions: `key:<label>` or `ed25519:<key id>`.
    pub agents: Vec<String>,
    /// What the surest of them rests on.
    pub assurance: Assurance,
    /// Where it comes from, if it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// Statements it speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refs: Option<Vec<Reference>>,
    /// The revision it was last made at.
    pub revision: u64,
    /// The leader's clock at that revision, RFC 3339.
    pub asserted_at: String,
}

/// What vouches that an agent said it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Assurance {
    /// The API key the statement came under.
    Key,
    /// The agent's own signature.
    Signed,
}

/// What `GET /v1/assertions/{id}` gives back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Assertion {
    /// The statement's id.
    pub id: String,
    /// The statement as stored: its RFC 8785 canonical form has this id.
    pub statement: Value,
    /// The revision it was first made at.
    pub revision: u64,
    /// Who made it, in the order of their revisions.
    pub attestations: Vec<Attestation>,
}

/// One agent's making of a statement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Attestation {
    /// `key:<label>` or `ed25519:<key id>`.
    pub agent: String,
    /// What it rests on.
    pub assurance: Assurance,
    /// The revision of the call.
    pub revision: u64,
    /// The leader's clock at that call, RFC 3339.
    pub asserted_at: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_absent_stays_absent_so_that_the_id_is_the_makers() {
        let statement = Statement {
            subject: "s".into(),
            predicate: "p".into(),
            object: json!([1, null]),
            ..Statement::default()
        };
        let body = serde_json::to_value(&statement).unwrap();
        assert_eq!(body, json!({"subject": "s", "predicate": "p", "object": [1, null]}));
        let checked = stemedb_claims::Statement::from_value(body).unwrap();
        let stored: Statement = serde_json::from_slice(checked.canonical()).unwrap();
        assert_eq!(stored, statement);
    }

    #[test]
    fn one_statement_and_many_are_told_apart_by_their_fields() {
        let one = json!({"subject": "s", "predicate": "p", "object": 1});
        let read = |body| serde_json::from_value::<AssertRequest>(body);
        assert!(matches!(read(one.clone()), Ok(AssertRequest::Statement(_))));
        let many = read(json!({"items": [one.clone(), one.clone()]}));
        assert!(matches!(many, Ok(AssertRequest::Items(items)) if items.items.len() == 2));
        assert!(read(json!({"items": [], "bucket": "b"})).is_err());
        assert!(read(json!({"subject": "s", "predicate": "p", "object": 1, "sure": 1})).is_err());
    }
}
