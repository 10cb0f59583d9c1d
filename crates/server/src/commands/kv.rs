//! `stemedb kv get|put|del|scan`.

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use serde_json::json;
use stemedb_api::Base64;
use stemedb_api::kv::KeyValue;
use stemedb_client::{Client, Condition, ScanOptions};
use stemedb_types::limits::{PAGE_ROWS_MAX, VALUE_BYTES_MAX};
use stemedb_types::{BucketName, Key};

use crate::cli::{BucketArgs, Consistency, KvCommand, ReadArgs};
use crate::endpoint::Who;
use crate::exit::{Failure, NOT_FOUND, USAGE};
use crate::output::{self, Output};

pub(crate) async fn run(command: KvCommand) -> Result<(), Failure> {
    match command {
        KvCommand::Get { target, reads, key } => get(target, reads, key).await,
        KvCommand::Put { target, key, value, file, if_match, if_absent } => {
            let condition = match if_match {
                Some(revision) => Condition::At(revision),
                None if if_absent => Condition::Absent,
                None => Condition::Always,
            };
            put(target, key, read_value(value, file)?, condition).await
        }
        KvCommand::Del { target, key, if_match } => {
            delete(target, key, if_match.map_or(Condition::Always, Condition::At)).await
        }
        KvCommand::Scan { target, reads, prefix, start, end, limit, keys_only, reverse, as_of } => {
            let bytes = |text: Option<OsString>| text.map(OsString::into_vec);
            let options = ScanOptions {
                prefix: bytes(prefix),
                start: bytes(start),
                end: bytes(end),
                page_rows: Some(
                    limit.map_or(PAGE_ROWS_MAX, |limit| limit.clamp(1, PAGE_ROWS_MAX)) as u64
                ),
                keys_only,
                reverse,
                as_of,
            };
            scan(target, reads, options, limit.unwrap_or(usize::MAX)).await
        }
    }
}

fn open(target: &BucketArgs) -> Result<Client, Failure> {
    target.client.client(Who::Project)
}

/// The client for reads.
fn open_to_read(target: &BucketArgs, reads: ReadArgs) -> Result<Client, Failure> {
    let client = open(target)?;
    Ok(match (reads.consistency, reads.seen) {
        (Consistency::Linearizable, None) => client,
        (Consistency::Session, None) => client.session(),
        (Consistency::Session, Some(seen)) => client.session_from(&target.bucket, seen),
        (Consistency::Stale, None) => client.stale(),
        (Consistency::Linearizable | Consistency::Stale, Some(_)) => {
            return Err(Failure::new(USAGE, "--seen is for --consistency session".to_owned()));
        }
    })
}

fn key(text: OsString) -> Result<Key, Failure> {
    Key::new(text.into_vec()).map_err(|error| Failure::new(USAGE, error.to_string()))
}

/// A value from the argument, a file or standard input; never more than a value may be.
fn read_value(value: Option<OsString>, file: Option<PathBuf>) -> Result<Vec<u8>, Failure> {
    let most = VALUE_BYTES_MAX as u64 + 1;
    let mut bytes = Vec::new();
    let read = match (value, file) {
        (Some(value), _) => {
            bytes = value.into_vec();
            Ok(bytes.len())
        }
        (None, Some(path)) => std::fs::File::open(&path)
            .and_then(|file| file.take(most).read_to_end(&mut bytes))
            .map_err(|error| Failure::new(USAGE, format!("{}: {error}", path.display()))),
        (None, None) => {
            std::io::stdin().lock().take(most).read_to_end(&mut bytes).map_err(Failure::error)
        }
    };
    read?;
    if bytes.len() > VALUE_BYTES_MAX {
        return Err(Failure::new(USAGE, format!("a value is {VALUE_BYTES_MAX} bytes at most")));
    }
    Ok(bytes)
}

fn not_there(bucket: &BucketName) -> Failure {
    Failure::new(NOT_FOUND, format!("there is no such key in bucket {bucket}"))
}

async fn get(target: BucketArgs, reads: ReadArgs, name: OsString) -> Result<(), Failure> {
    let key = key(name)?;
    let found = open_to_read(&target, reads)?.get(&target.bucket, &key).await?;
    let value = found.ok_or_else(|| not_there(&target.bucket))?;
    if let Some(stale_ms) = value.stale_ms {
        output::remark(&format!("at most {stale_ms} ms old"));
    }
    if target.client.output == Output::Table {
        return output::bytes(&value.bytes);
    }
    let bytes = key.as_bytes().clone();
    output::json(&KeyValue {
        key_text: std::str::from_utf8(&bytes).ok().map(str::to_owned),
        key: Base64(bytes),
        value: Some(Base64(value.bytes)),
        create_revision: value.create_revision,
        mod_revision: value.mod_revision,
        version: value.version,
        expires_at: None,
    })
}

async fn put(
    target: BucketArgs,
    name: OsString,
    value: Vec<u8>,
    condition: Condition,
) -> Result<(), Failure> {
    let client = open(&target)?;
    let written = client.put(&target.bucket, &key(name)?, value.into(), condition).await?;
    match target.client.output {
        Output::Table => output::line(&format!("revision {}", written.revision)),
        Output::Json => {
            output::json(&json!({ "revision": written.revision, "created": written.created }))
        }
    }
}

async fn delete(target: BucketArgs, name: OsString, condition: Condition) -> Result<(), Failure> {
    let deleted = open(&target)?.delete(&target.bucket, &key(name)?, condition).await?;
    let revision = deleted.ok_or_else(|| not_there(&target.bucket))?;
    match target.client.output {
        Output::Table => output::line(&format!("revision {revision}")),
        Output::Json => output::json(&json!({ "revision": revision })),
    }
}

/// Prints page by page, so that a long scan neither waits nor piles up. JSON is one row a line.
async fn scan(
    target: BucketArgs,
    reads: ReadArgs,
    options: ScanOptions,
    limit: usize,
) -> Result<(), Failure> {
    let client = open_to_read(&target, reads)?;
    let (mut cursor, mut left) = (None, limit);
    while left > 0 {
        let page = client.scan_page(&target.bucket, &options, cursor.as_deref()).await?;
        for row in page.kvs.iter().take(left) {
            match target.client.output {
                Output::Table => output::bytes(&row_line(row))?,
                Output::Json => output::line(&serde_json::to_string(row).map_err(Failure::error)?)?,
            }
        }
        left = left.saturating_sub(page.kvs.len());
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
    }
    Ok(())
}

/// Key, tab, value: bytes outside of printable ASCII are escaped, so that one row is one line.
fn row_line(row: &KeyValue) -> Vec<u8> {
    let mut line = row.key.0.escape_ascii().to_string();
    if let Some(value) = &row.value {
        line.push('\t');
        line.extend(value.0.escape_ascii().map(char::from));
    }
    line.push('\n');
    line.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_row_is_one_line_whatever_its_bytes() {
        let row = KeyValue {
            key: Base64(b"a\tb".as_slice().into()),
            key_text: None,
            value: Some(Base64(b"1\n\xff".as_slice().into())),
            create_revision: 1,
            mod_revision: 1,
            version: 1,
            expires_at: None,
        };
        assert_eq!(row_line(&row), b"a\\tb\t1\\n\\xff\n");
        let keys_only = KeyValue { value: None, ..row };
        assert_eq!(row_line(&keys_only), b"a\\tb\n");
    }

    #[test]
    fn a_value_over_the_limit_is_refused_before_it_is_sent() {
        let long = |bytes| OsString::from_vec(vec![b'x'; bytes]);
        assert_eq!(read_value(Some(long(3)), None).unwrap(), b"xxx");
        assert_eq!(read_value(Some(long(VALUE_BYTES_MAX + 1)), None).unwrap_err().code, USAGE);
        assert_eq!(read_value(None, Some("/no/such/file".into())).unwrap_err().code, USAGE);
    }
}
