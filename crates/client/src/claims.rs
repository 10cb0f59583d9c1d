//! Statements in, answers out.

use futures_util::Stream;
use reqwest::Method;
use stemedb_api::claims::{
    AssertAnswer, AssertItems, AssertedItem, Assertion, QueryAnswer, QueryRow, Statement,
};
use stemedb_types::BucketName;
use stemedb_types::limits::{BODY_BYTES_MAX, ITEMS_MAX};

use crate::kv::pages;
use crate::query::Query;
use crate::retry::Kind;
use crate::send::Ask;
use crate::{Client, Error};

/// Room in a body for what stands around the statements.
const FRAME_BYTES: usize = 1024;

/// What became of statements.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asserted {
    /// The newest revision of the bucket that any of the calls gave back.
    pub revision: u64,
    /// One for each statement, in order.
    pub items: Vec<AssertedItem>,
}

/// What to ask.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueryOptions {
    /// The subject, whole.
    pub subject: Option<String>,
    /// How the subject begins.
    pub subject_prefix: Option<String>,
    /// The predicate, whole.
    pub predicate: Option<String>,
    /// How the predicate begins.
    pub predicate_prefix: Option<String>,
    /// Only what this agent said.
    pub agent: Option<String>,
    /// Among claims that hold at this instant, RFC 3339; now unless told.
    pub valid_at: Option<String>,
    /// The past, at this revision.
    pub as_of: Option<u64>,
    /// How claims are resolved: `latest` unless told, or `all`.
    pub lens: Option<String>,
    /// Most rows of a page; the server's default unless told.
    pub page_rows: Option<u64>,
}

/// Statements in groups that one call can take, by number and by length.
pub fn batches(statements: &[Statement]) -> Result<Vec<&[Statement]>, Error> {
    let mut batches = Vec::new();
    let (mut start, mut bytes) = (0, FRAME_BYTES);
    for (index, statement) in statements.iter().enumerate() {
        let json = serde_json::to_vec(statement);
        let own = json.map_err(|error| Error::Invalid(error.to_string()))?.len() + 1;
        if index - start == ITEMS_MAX || (bytes + own > BODY_BYTES_MAX && index > start) {
            batches.extend(statements.get(start..index));
            (start, bytes) = (index, FRAME_BYTES);
        }
        bytes += own;
    }
    batches.extend(statements.get(start..).filter(|rest| !rest.is_empty()));
    Ok(batches)
}

impl Client {
    /// Makes statements, in as many calls as [`batches`] says.
    ///
    /// Each call is stored whole or not at all. When one fails the calls before it stay, and the
    /// same again is safe: what is known already is not made twice.
    pub async fn assert(
        &self,
        bucket: &BucketName,
        statements: &[Statement],
    ) -> Result<Asserted, Error> {
        let mut all = Asserted::default();
        for batch in batches(statements)? {
            let answer = self.assert_batch(bucket, batch).await?;
            all.revision = all.revision.max(answer.revision);
            all.items.extend(answer.items);
        }
        Ok(all)
    }

    /// Makes statements in one call: at most 1000.
    pub async fn assert_batch(
        &self,
        bucket: &BucketName,
        statements: &[Statement],
    ) -> Result<AssertAnswer, Error> {
        let path = Query::of("/v1/assert").with("bucket", Some(bucket.as_str())).finish();
        let ask = Ask::new(Kind::Write, Method::POST, path).about(bucket);
        self.send_json(ask.json(&AssertItems { items: statements.to_vec() })?).await
    }

    /// One page of answers.
    pub async fn query_page(
        &self,
        bucket: &BucketName,
        options: &QueryOptions,
        cursor: Option<&str>,
    ) -> Result<QueryAnswer, Error> {
        self.send_json(Ask::get(options.path(bucket, cursor)).about(bucket)).await
    }

    /// All answers, page after page, at one revision. Ends after the first error.
    pub fn query(
        &self,
        bucket: &BucketName,
        options: QueryOptions,
    ) -> impl Stream<Item = Result<QueryRow, Error>> + '_ {
        let bucket = bucket.clone();
        pages(move |cursor: Option<String>| {
            let (bucket, options) = (bucket.clone(), options.clone());
            async move {
                let page = self.query_page(&bucket, &options, cursor.as_deref()).await?;
                Ok((page.answers, page.cursor))
            }
        })
    }

    /// One statement by its id, `sha256:` and 64 hex digits; `None` if it is not stored.
    pub async fn assertion(
        &self,
        bucket: &BucketName,
        id: &str,
    ) -> Result<Option<Assertion>, Error> {
        let path = Query::of(&format!("/v1/assertions/{id}")).with("bucket", Some(bucket.as_str()));
        match self.send_json(Ask::get(path.finish()).about(bucket)).await {
            Ok(assertion) => Ok(Some(assertion)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl QueryOptions {
    /// Path and query of the call that asks this: what a person would give to `curl`.
    pub fn path(&self, bucket: &BucketName, cursor: Option<&str>) -> String {
        let named = Some(bucket.as_str()).filter(|name| *name != "default");
        Query::of("/v1/query")
            .with("bucket", named)
            .with("subject", self.subject.as_ref())
            .with("subject_prefix", self.subject_prefix.as_ref())
            .with("predicate", self.predicate.as_ref())
            .with("predicate_prefix", self.predicate_prefix.as_ref())
            .with("agent", self.agent.as_ref())
            .with("valid_at", self.valid_at.as_ref())
            .number("as_of", self.as_of)
            .with("lens", self.lens.as_ref())
            .number("limit", self.page_rows)
            .with("cursor", cursor)
            .finish()
    }
}
