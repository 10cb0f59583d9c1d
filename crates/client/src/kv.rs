//! Keys and values.

use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use reqwest::Method;
use stemedb_api::kv::{KeyValue, ScanPage};
use stemedb_api::{header, path};
use stemedb_types::{BucketName, Key};

use crate::query::Query;
use crate::retry::Kind;
use crate::send::{Ask, Reply};
use crate::{Client, Error};

/// When a put or delete may go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// Whatever is there.
    #[default]
    Always,
    /// The key is there, at this revision.
    At(u64),
    /// The key is not there.
    Absent,
}

/// A value and what is known of its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// The bytes.
    pub bytes: Bytes,
    /// The revision of this value: what [`Condition::At`] takes.
    pub mod_revision: u64,
    /// The revision that made the key.
    pub create_revision: u64,
    /// 1 for the value that made the key, then one more with each put.
    pub version: u64,
    /// Of a stale read: it shows everything that was acknowledged so many ms before the answer, or
    /// more. `None`: as new as was asked for.
    pub stale_ms: Option<u64>,
}

/// What a put did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// The revision of the write.
    pub revision: u64,
    /// Whether the key was not there before.
    pub created: bool,
}

/// Which keys to scan, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanOptions {
    /// Only keys that begin so.
    pub prefix: Option<Vec<u8>>,
    /// Only keys from this one on.
    pub start: Option<Vec<u8>>,
    /// Only keys before this one.
    pub end: Option<Vec<u8>>,
    /// Most rows of a page; the server's default unless told.
    pub page_rows: Option<u64>,
    /// Without the values.
    pub keys_only: bool,
    /// Last key first.
    pub reverse: bool,
    /// The past, at this revision.
    pub as_of: Option<u64>,
}

impl Client {
    /// The value of a key; `None` if it is not there.
    ///
    /// Every [`Error`] but `Unknown` is possible.
    pub async fn get(&self, bucket: &BucketName, key: &Key) -> Result<Option<Value>, Error> {
        match self.send(Ask::get(key_path(bucket, key)?).about(bucket)).await {
            Ok(reply) => value(reply).map(Some),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Gives a key a value. A condition that does not hold is refused with `precondition-failed`.
    pub async fn put(
        &self,
        bucket: &BucketName,
        key: &Key,
        value: Bytes,
        condition: Condition,
    ) -> Result<Written, Error> {
        let ask = Ask::new(Kind::Write, Method::PUT, key_path(bucket, key)?).about(bucket);
        let reply = self.send(ask.body(header::OCTET_STREAM, value).condition(condition)?).await?;
        let revision = required(&reply, "etag")?;
        Ok(Written { revision, created: reply.status == 201 })
    }

    /// Takes a key away, at the revision given back; `None` if it was not there.
    pub async fn delete(
        &self,
        bucket: &BucketName,
        key: &Key,
        condition: Condition,
    ) -> Result<Option<u64>, Error> {
        let ask = Ask::new(Kind::Write, Method::DELETE, key_path(bucket, key)?).about(bucket);
        match self.send(ask.condition(condition)?).await {
            Ok(reply) => required(&reply, header::REVISION).map(Some),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// One page of a scan. All pages that follow from its cursor show its revision.
    pub async fn scan_page(
        &self,
        bucket: &BucketName,
        options: &ScanOptions,
        cursor: Option<&str>,
    ) -> Result<ScanPage, Error> {
        let query = Query::of(&format!("/v1/kv/{bucket}"))
            .with("prefix", options.prefix.as_ref())
            .with("start", options.start.as_ref())
            .with("end", options.end.as_ref())
            .number("limit", options.page_rows)
            .flag("keys_only", options.keys_only)
            .flag("reverse", options.reverse)
            .number("as_of", options.as_of)
            .with("cursor", cursor);
        self.send_json(Ask::get(query.finish()).about(bucket)).await
    }

    /// All rows of a scan, page after page, at one revision. Ends after the first error.
    pub fn scan(
        &self,
        bucket: &BucketName,
        options: ScanOptions,
    ) -> impl Stream<Item = Result<KeyValue, Error>> + '_ {
        let bucket = bucket.clone();
        pages(move |cursor: Option<String>| {
            let (bucket, options) = (bucket.clone(), options.clone());
            async move {
                let page = self.scan_page(&bucket, &options, cursor.as_deref()).await?;
                Ok((page.kvs, page.cursor))
            }
        })
    }
}

/// The rows of page after page, as long as there is a cursor.
pub(crate) fn pages<T, F, P>(fetch: F) -> impl Stream<Item = Result<T, Error>>
where
    F: Fn(Option<String>) -> P,
    P: Future<Output = Result<(Vec<T>, Option<String>), Error>>,
{
    // `None`: the page before was the last one.
    let unfolded = stream::try_unfold(Some(None), move |next: Option<Option<String>>| {
        let page = next.map(&fetch);
        async move {
            let Some(page) = page else { return Ok(None) };
            let (rows, cursor) = page.await?;
            Ok(Some((rows, cursor.map(Some))))
        }
    });
    unfolded.map_ok(|rows| stream::iter(rows).map(Ok)).try_flatten()
}

fn key_path(bucket: &BucketName, key: &Key) -> Result<String, Error> {
    if !path::is_addressable(key.as_bytes()) {
        return Err(Error::Invalid("the keys `.` and `..` can't stand in a URL".to_owned()));
    }
    Ok(path::kv(bucket.as_str(), key.as_bytes()))
}

fn value(reply: Reply) -> Result<Value, Error> {
    Ok(Value {
        mod_revision: required(&reply, "etag")?,
        create_revision: required(&reply, header::CREATE_REVISION)?,
        version: required(&reply, header::VERSION)?,
        stale_ms: reply.number(header::STALE_MS),
        bytes: reply.body,
    })
}

/// A number that every such answer has in this header.
fn required(reply: &Reply, name: &str) -> Result<u64, Error> {
    let missing = || Error::NotAnAnswer { detail: format!("no number in the header {name}") };
    reply.number(name).ok_or_else(missing)
}
