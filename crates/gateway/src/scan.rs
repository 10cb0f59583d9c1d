//! A page of keys, in order.

use bytes::Bytes;
use http::header::CACHE_CONTROL;
use http::{Response, StatusCode};
use http_body_util::Full;
use stemedb::shard::{Cursor, KeyRange, Read, ReadAnswer};
use stemedb_api::kv::ScanPage;
use stemedb_api::{decode_cursor, encode_cursor};
use stemedb_types::limits::KEY_BYTES_MAX;
use stemedb_types::{Decoder, Encoder, Revision};

use crate::failure::Failure;
use crate::kv::key_value;
use crate::params::Params;
use crate::request::{Admitted, Reply};
use crate::respond::{self, ASK_AGAIN};

const KNOWN: &[&str] =
    &["prefix", "start", "end", "limit", "cursor", "keys_only", "reverse", "as_of", "consistency"];

/// `GET /v1/kv/{bucket}`: the keys of a range at one revision, which the cursor keeps.
pub(crate) async fn page(request: Admitted<'_>) -> Result<Response<Full<Bytes>>, Failure> {
    let bucket = request.path_bucket()?;
    let params = request.params(KNOWN, &[])?;
    let consistency = request.consistency(&params)?;
    let range = range(&params)?;
    let keys_only = params.flag("keys_only")?;
    let as_of = params.as_of()?;
    let cursor = cursor(&params, as_of)?;
    if let Some(cursor) = &cursor {
        check_belongs(cursor, &range)?;
    }
    let reverse = params.flag("reverse")?;
    let limit = params.limit()?;
    let read = Read::Scan { range, reverse, keys_only, limit, as_of, cursor };
    let Reply { answer, served_by } = request.read(bucket, read, consistency).await?;
    let ReadAnswer::Page { revision, rows, cursor } = answer else {
        return Err(Failure::internal("a scan was answered with something else"));
    };
    let kvs = rows.into_iter().map(|row| key_value(row.key, row.version, keys_only)).collect();
    let page = ScanPage { revision: revision.0, kvs, cursor: cursor.as_ref().map(cursor_text) };
    let mut response = respond::json(StatusCode::OK, &page)?;
    response.headers_mut().insert(CACHE_CONTROL, ASK_AGAIN);
    respond::origin(response.headers_mut(), revision, served_by);
    Ok(response)
}

/// `prefix`, `start` (inclusive) and `end` (exclusive) together: where they overlap. An empty
/// overlap is a range of no keys, never one that ends before it starts.
fn range(params: &Params) -> Result<KeyRange, Failure> {
    for name in ["prefix", "start", "end"] {
        if params.bytes(name).is_some_and(|bytes| bytes.len() > KEY_BYTES_MAX) {
            return Err(Failure::malformed(format!(
                "`{name}` is longer than a key, which has at most {KEY_BYTES_MAX} bytes"
            )));
        }
    }
    let start = params.bytes("start").unwrap_or_default().to_vec();
    let end = params.bytes("end").filter(|end| !end.is_empty()).map(<[u8]>::to_vec);
    let prefix = KeyRange::prefix(params.bytes("prefix").unwrap_or_default());
    let mut range = KeyRange { start, end }.within(&prefix);
    if range.end.as_ref().is_some_and(|end| *end < range.start) {
        range.end = Some(range.start.clone());
    }
    Ok(range)
}

/// A cursor of another scan would answer with the wrong keys, quietly.
fn check_belongs(cursor: &Cursor, range: &KeyRange) -> Result<(), Failure> {
    let inside = match cursor {
        Cursor::Key { last, .. } => {
            *last >= range.start && range.end.as_ref().is_none_or(|end| last < end)
        }
        Cursor::Claim { .. } | Cursor::Within { .. } => false,
    };
    if inside { Ok(()) } else { Err(Failure::malformed("`cursor` is not one of this scan")) }
}

/// `cursor`, as an earlier page gave it; it and `as_of` must not name two revisions.
pub(crate) fn cursor(params: &Params, as_of: Option<Revision>) -> Result<Option<Cursor>, Failure> {
    let Some(text) = params.bytes("cursor") else { return Ok(None) };
    let cursor = std::str::from_utf8(text).ok().and_then(decode_cursor).and_then(|bytes| {
        let mut from = Decoder::new(&bytes);
        let cursor = Cursor::decode(&mut from).ok()?;
        from.finish().ok().map(|()| cursor)
    });
    let cursor =
        cursor.ok_or_else(|| Failure::malformed("`cursor` is not one that a page gave"))?;
    if as_of.is_some_and(|asked| asked != cursor.as_of()) {
        return Err(Failure::malformed("`as_of` is not the revision of the `cursor`"));
    }
    Ok(Some(cursor))
}

/// A cursor as it goes into the next page's URL.
pub(crate) fn cursor_text(cursor: &Cursor) -> String {
    let mut out = Encoder::new();
    cursor.encode(&mut out);
    encode_cursor(out.as_slice())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Params {
        Params::read(Some(query), KNOWN, &[]).unwrap()
    }

    #[test]
    fn a_range_is_where_prefix_start_and_end_overlap_and_never_inverted() {
        let table = [
            ("", b"".as_slice(), None),
            ("prefix=b", b"b", Some(b"c".as_slice())),
            ("start=a&end=c", b"a", Some(b"c")),
            ("prefix=b&start=ba&end=bc", b"ba", Some(b"bc")),
            ("prefix=b&start=x", b"x", Some(b"x")),
            ("start=z&end=a", b"z", Some(b"z")),
            ("prefix=%ff&end=", b"\xff", None),
        ];
        for (query, start, end) in table {
            let range = range(&read(query)).unwrap();
            assert_eq!((range.start.as_slice(), range.end.as_deref()), (start, end), "{query}");
        }
    }

    #[test]
    fn a_cursor_comes_back_and_one_of_another_scan_is_refused() {
        let given = Cursor::Key { as_of: Revision(7), last: Bytes::from_static(b"bb") };
        let params = read(&format!("cursor={}", cursor_text(&given)));
        assert_eq!(cursor(&params, None).unwrap(), Some(given.clone()));
        assert!(cursor(&params, Some(Revision(7))).is_ok());
        assert!(cursor(&params, Some(Revision(8))).is_err());
        let refuses = |query| check_belongs(&given, &range(&read(query)).unwrap()).is_err();
        assert!(!refuses("prefix=b") && !refuses("") && !refuses("start=bb"));
        assert!(refuses("prefix=c") && refuses("end=bb") && refuses("start=bc"));
    }
}
