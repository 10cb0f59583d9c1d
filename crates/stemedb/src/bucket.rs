//! A bucket in the hands of the program that embeds the node: no HTTP, no key.

use std::time::Duration;

use bytes::Bytes;
use stemedb_machine::shard::{
    Answer, Condition, KeyRange, Read, ReadAnswer, ScanRow, Version, Write,
};
use stemedb_types::limits::PAGE_ROWS_MAX;
use stemedb_types::{BucketName, Key, ProjectName, Revision};

use crate::front::{Admission, Call, Consistency, Door, Front, Need, Op, OpAnswer};
use crate::{Error, Node};

/// How long a call waits, leader changes included.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// One bucket of one project. Made by [`Node::bucket`], on a node without auth.
#[derive(Clone)]
pub struct Bucket {
    node: Node,
    admission: Admission,
    name: BucketName,
}

impl Node {
    /// A bucket, for the program that embeds this node; it is made by its first write, its
    /// project now. [`Error::Unauthenticated`] if the node was started with auth on.
    pub async fn bucket(&self, project: &str, bucket: &str) -> Result<Bucket, Error> {
        let project: ProjectName = project.parse().map_err(malformed)?;
        let name: BucketName = bucket.parse().map_err(malformed)?;
        let admission = self.admit(None, Some(project), Need::Write).await?;
        Ok(Bucket { node: self.clone(), admission, name })
    }
}

fn malformed(cause: impl ToString) -> Error {
    Error::Malformed(cause.to_string())
}

impl Bucket {
    /// Gives a key a value; durable on a majority when it returns its revision.
    pub async fn put(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
    ) -> Result<Revision, Error> {
        self.put_if(key, value, Condition::Always).await?.ok_or_else(unexpected)
    }

    /// Gives a key a value if a condition holds; `None`: it did not, and nothing changed.
    pub async fn put_if(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
        condition: Condition,
    ) -> Result<Option<Revision>, Error> {
        let key = Key::new(key).map_err(malformed)?;
        let value = value.into();
        match self.write(Write::Put { key, value, condition, expires_at_ms: None }).await? {
            Answer::Put { revision, .. } => Ok(Some(revision)),
            Answer::PreconditionFailed { .. } => Ok(None),
            _ => Err(unexpected()),
        }
    }

    /// Takes a key away; `None`: it was not there.
    pub async fn delete(&self, key: impl Into<Bytes>) -> Result<Option<Revision>, Error> {
        let key = Key::new(key).map_err(malformed)?;
        match self.write(Write::Delete { key, condition: Condition::Always }).await? {
            Answer::Deleted { revision } => Ok(Some(revision)),
            Answer::NotFound { .. } => Ok(None),
            _ => Err(unexpected()),
        }
    }

    /// The newest version of a key, linearizably.
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<Option<Version>, Error> {
        let key = Key::new(key).map_err(malformed)?;
        match self.read(Read::Get { key, as_of: None }).await? {
            ReadAnswer::Value { version, .. } => Ok(version),
            _ => Err(unexpected()),
        }
    }

    /// All keys with a prefix, in order, as of one revision; held in memory.
    pub async fn scan(&self, prefix: &[u8]) -> Result<Vec<ScanRow>, Error> {
        let mut all = Vec::new();
        let mut cursor = None;
        loop {
            let page = Read::Scan {
                range: KeyRange::prefix(prefix),
                reverse: false,
                keys_only: false,
                limit: PAGE_ROWS_MAX,
                as_of: None,
                cursor,
            };
            let ReadAnswer::Page { rows, cursor: next, .. } = self.read(page).await? else {
                return Err(unexpected());
            };
            all.extend(rows);
            if next.is_none() {
                return Ok(all);
            }
            cursor = next;
        }
    }

    async fn write(&self, write: Write) -> Result<Answer, Error> {
        match self.call(Op::Write(write)).await? {
            OpAnswer::Write(answer) => Ok(answer),
            OpAnswer::Read(_) | OpAnswer::Weaker(..) => Err(unexpected()),
        }
    }

    async fn read(&self, read: Read) -> Result<ReadAnswer, Error> {
        match self.call(Op::Read(read)).await? {
            OpAnswer::Read(answer) => Ok(answer),
            OpAnswer::Write(_) | OpAnswer::Weaker(..) => Err(unexpected()),
        }
    }

    async fn call(&self, op: Op) -> Result<OpAnswer, Error> {
        let call = Call {
            admission: self.admission.clone(),
            door: Door::Gateway,
            deadline: CALL_TIMEOUT,
            bucket: self.name.clone(),
            op,
            consistency: Consistency::Linearizable,
            once: None,
        };
        Ok(Front::call(&self.node, call).await?.answer)
    }
}

fn unexpected() -> Error {
    Error::Internal("an answer of another kind than the question".to_owned())
}
