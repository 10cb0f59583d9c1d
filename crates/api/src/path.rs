//! Keys in paths, byte for byte.
//!
//! A key may be any bytes; in a path each byte that is not plain is `%XX`. The
//! raw path decides: nothing is normalised, no `//` is merged, no `..` is
//! resolved, and `%2F` and `/` are the same byte of a key.
//!
//! What stands between client and server may be less careful. URL libraries
//! resolve the segments `.` and `..` (also when written `%2E`), proxies merge
//! empty segments, and some refuse `%2F`. So [`encode_key`] writes `/` plainly
//! where that is safe, and as `%2F` only in keys with a segment that would not
//! survive. The two keys `.` and `..` have no safe path at all
//! ([`is_addressable`]): they need a route that takes keys in a body.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

/// What stands before `{bucket}/{key}`.
pub const KV: &str = "/v1/kv/";

/// Everything but the unreserved characters of RFC 3986 and the slash.
const SEGMENTS: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');
/// Everything but the unreserved characters of RFC 3986.
const ONE_SEGMENT: &AsciiSet = &SEGMENTS.add(b'/');

/// Why the key part of a path was refused. Nothing was read or changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the '%' at byte {at} of the key is not followed by two hex digits")]
pub struct BadEscape {
    /// Where the `%` stands, counted from the first byte of the raw key.
    pub at: usize,
}

/// A key as it goes into a path. [`decode_key`] gives back exactly its bytes.
pub fn encode_key(key: &[u8]) -> String {
    let fragile = |segment: &[u8]| matches!(segment, b"" | b"." | b"..");
    let set = if key.split(|b| *b == b'/').any(fragile) { ONE_SEGMENT } else { SEGMENTS };
    percent_encode(key, set).to_string()
}

/// The path of a key: `/v1/kv/{bucket}/{key}`.
pub fn kv(bucket: &str, key: &[u8]) -> String {
    format!("{KV}{bucket}/{}", encode_key(key))
}

/// Whether a key keeps its bytes on the way through any URL library: all do but `.` and `..`.
pub fn is_addressable(key: &[u8]) -> bool {
    !matches!(key, b"." | b"..")
}

/// The bytes that a raw path means. Text without a `%` is not copied.
pub fn decode_key(raw: &str) -> Result<Cow<'_, [u8]>, BadEscape> {
    let bytes = raw.as_bytes();
    let Some(first) = bytes.iter().position(|b| *b == b'%') else {
        return Ok(Cow::Borrowed(bytes));
    };
    let mut key = Vec::with_capacity(bytes.len());
    key.extend_from_slice(&bytes[..first]);
    let mut at = first;
    while let Some(&byte) = bytes.get(at) {
        if byte == b'%' {
            let escape = bytes.get(at + 1).copied().zip(bytes.get(at + 2).copied());
            let value = escape.and_then(|(high, low)| Some(digit(high)? << 4 | digit(low)?));
            key.push(value.ok_or(BadEscape { at })?);
            at += 3;
        } else {
            key.push(byte);
            at += 1;
        }
    }
    Ok(Cow::Owned(key))
}

fn digit(hex: u8) -> Option<u8> {
    char::from(hex).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_key_is_written_plainly_where_it_survives() {
        let table: &[(&[u8], &str)] = &[
            (b"plain", "plain"),
            (b"a/b/c.json", "a/b/c.json"),
            (b"a b?c#d%", "a%20b%3Fc%23d%25"),
            ("ü".as_bytes(), "%C3%BC"),
            (b"\x00\xff", "%00%FF"),
            (b"/lead", "%2Flead"),
            (b"trail/", "trail%2F"),
            (b"a//b", "a%2F%2Fb"),
            (b"a/../b", "a%2F..%2Fb"),
            (b"a/./b", "a%2F.%2Fb"),
            (b"...", "..."),
        ];
        for (key, path) in table {
            assert_eq!(encode_key(key), *path);
            assert_eq!(decode_key(path).unwrap().as_ref(), *key, "{path}");
        }
        assert_eq!(kv("default", b"a/b"), "/v1/kv/default/a/b");
    }

    #[test]
    fn a_slash_and_its_escape_are_the_same_byte_and_case_does_not_matter() {
        for same in ["a/b", "a%2Fb", "a%2fb", "%61%2F%62"] {
            assert_eq!(decode_key(same).unwrap().as_ref(), b"a/b", "{same}");
        }
        assert_eq!(decode_key("a+b").unwrap().as_ref(), b"a+b");
        assert_eq!(decode_key("ü").unwrap().as_ref(), "ü".as_bytes());
    }

    #[test]
    fn a_bad_escape_is_refused_with_its_place() {
        for (bad, at) in [("%", 0), ("a%2", 1), ("%zz", 0), ("%20%2g", 3), ("%%41", 0), ("%+1", 0)]
        {
            assert_eq!(decode_key(bad), Err(BadEscape { at }), "{bad}");
        }
    }

    #[test]
    fn only_the_two_dot_keys_have_no_safe_path() {
        assert!(!is_addressable(b".") && !is_addressable(b".."));
        assert!(is_addressable(b"...") && is_addressable(b"a/..") && is_addressable(b"/"));
    }

    proptest! {
        #[test]
        fn every_key_comes_back_and_its_path_has_no_fragile_segment(
            key in prop_oneof![
                any::<Vec<u8>>(), "[./a%]{0,8}".prop_map(String::into_bytes),
            ],
        ) {
            let path = encode_key(&key);
            let decoded = decode_key(&path).unwrap();
            prop_assert_eq!(decoded.as_ref(), key.as_slice());
            let safe = |s: &str| !matches!(s, "" | "." | "..");
            prop_assert!(key.is_empty() || !is_addressable(&key) || path.split('/').all(safe));
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in ".*") {
            let _ = decode_key(&text);
        }
    }
}
