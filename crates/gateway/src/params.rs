//! Query parameters, strictly.
//!
//! A parameter that is not known is refused by name, as is one given twice: a
//! misspelled `prefx=` that lists a whole bucket would be worse. Values are
//! bytes until a reader wants text (a scan's prefix may be any bytes); `+` is a
//! space, as forms write it.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use http::HeaderValue;
use stemedb::Consistency;
use stemedb_api::path::decode_key;
use stemedb_types::limits::{PAGE_ROWS_DEFAULT, PAGE_ROWS_MAX};
use stemedb_types::{BucketName, Revision};

use crate::failure::Failure;

/// The bucket of a call that names none.
const BUCKET_DEFAULT: &str = "default";
/// Most characters of a caller's text that a detail quotes.
const QUOTE_CHARS_MAX: usize = 64;

/// The parameters of one request: known, each at most once.
#[derive(Debug, Default)]
pub(crate) struct Params(Vec<(String, Vec<u8>)>);

impl Params {
    /// Reads a raw query. `later` are parameters of the contract that this version refuses.
    pub(crate) fn read(
        query: Option<&str>,
        known: &[&str],
        later: &[&str],
    ) -> Result<Self, Failure> {
        let mut params: Vec<(String, Vec<u8>)> = Vec::new();
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = String::from_utf8_lossy(&decode(name)?).into_owned();
            if later.contains(&name.as_str()) {
                return Err(not_supported_yet(&name));
            }
            if !known.contains(&name.as_str()) {
                let name = quoted(&name);
                return Err(Failure::malformed(format!("there is no parameter {name} here")));
            }
            if params.iter().any(|(earlier, _)| *earlier == name) {
                return Err(Failure::malformed(format!("`{name}` is given twice")));
            }
            let value = decode(value)?;
            params.push((name, value));
        }
        Ok(Self(params))
    }

    /// A value as it is.
    pub(crate) fn bytes(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_slice())
    }

    /// A value that must be text.
    pub(crate) fn text(&self, name: &str) -> Result<Option<&str>, Failure> {
        let text = self.bytes(name).map(std::str::from_utf8).transpose();
        text.map_err(|_| Failure::malformed(format!("`{name}` is not UTF-8")))
    }

    /// A value that must be a text which `T` reads.
    pub(crate) fn parsed<T: FromStr<Err: fmt::Display>>(
        &self,
        name: &str,
    ) -> Result<Option<T>, Failure> {
        let parsed = self.text(name)?.map(str::parse).transpose();
        parsed.map_err(|cause| Failure::malformed(format!("`{name}`: {cause}")))
    }

    /// `true`, `false`, `1`, `0`; a bare name is true, an absent one false.
    pub(crate) fn flag(&self, name: &str) -> Result<bool, Failure> {
        match self.bytes(name) {
            None | Some(b"false" | b"0") => Ok(false),
            Some(b"" | b"true" | b"1") => Ok(true),
            Some(_) => Err(Failure::malformed(format!("`{name}` must be true, false, 1 or 0"))),
        }
    }

    /// `limit`: rows of a page.
    pub(crate) fn limit(&self) -> Result<usize, Failure> {
        let refused = || Failure::malformed(format!("`limit` must be 1 to {PAGE_ROWS_MAX}"));
        match self.digits("limit").ok_or_else(refused)? {
            None => Ok(PAGE_ROWS_DEFAULT),
            Some(limit) => usize::try_from(limit)
                .ok()
                .filter(|limit| (1..=PAGE_ROWS_MAX).contains(limit))
                .ok_or_else(refused),
        }
    }

    /// `as_of`: a revision of the past.
    pub(crate) fn as_of(&self) -> Result<Option<Revision>, Failure> {
        let refused = || Failure::malformed("`as_of` must be a revision, a whole number");
        Ok(self.digits("as_of").ok_or_else(refused)?.map(Revision))
    }

    /// The outer `None`: it is there and no number.
    fn digits(&self, name: &str) -> Option<Option<u64>> {
        let Some(value) = self.bytes(name) else { return Some(None) };
        let text = std::str::from_utf8(value).ok()?;
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        text.parse().ok().filter(|_| digits).map(Some)
    }

    /// `consistency`, and for a session what its `StemeDB-Revision` says was seen. A session that has
    /// seen nothing begins with the newest.
    pub(crate) fn consistency(&self, seen: Option<&HeaderValue>) -> Result<Consistency, Failure> {
        match self.bytes("consistency") {
            None | Some(b"linearizable") => Ok(Consistency::Linearizable),
            Some(b"stale") => Ok(Consistency::Stale),
            Some(b"session") => match seen {
                None => Ok(Consistency::Linearizable),
                Some(seen) => revision(seen).map(|seen| Consistency::Session { seen }),
            },
            Some(_) => {
                Err(Failure::malformed("`consistency` must be linearizable, session or stale"))
            }
        }
    }

    /// `bucket`, or the default one.
    pub(crate) fn bucket(&self) -> Result<BucketName, Failure> {
        let name = self.text("bucket")?.unwrap_or(BUCKET_DEFAULT);
        name.parse().map_err(|cause| Failure::malformed(format!("`bucket`: {cause}")))
    }
}

/// `StemeDB-Revision` as a caller sends it back.
fn revision(value: &HeaderValue) -> Result<Revision, Failure> {
    let digits = value.to_str().ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    let revision = digits.and_then(|digits| digits.parse().ok()).map(Revision);
    revision
        .ok_or_else(|| Failure::malformed("StemeDB-Revision must be a revision, a whole number"))
}

/// The refusal of what a later version brings.
pub(crate) fn not_supported_yet(what: &str) -> Failure {
    Failure::malformed(format!("`{what}` is not supported yet"))
}

/// A caller's text, cut to what a detail may quote.
pub(crate) fn quoted(text: &str) -> String {
    let mut cut: String = text.chars().take(QUOTE_CHARS_MAX).collect();
    if cut.len() < text.len() {
        cut.push('…');
    }
    format!("{cut:?}")
}

fn decode(raw: &str) -> Result<Vec<u8>, Failure> {
    let spaced =
        if raw.contains('+') { Cow::Owned(raw.replace('+', " ")) } else { Cow::Borrowed(raw) };
    let decoded = decode_key(&spaced).map(Cow::into_owned);
    decoded.map_err(|_| Failure::malformed("a '%' of the query is not followed by two hex digits"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(query: &str) -> Result<Params, Failure> {
        Params::read(Some(query), &["prefix", "limit", "keys_only", "as_of"], &["ttl"])
    }

    #[test]
    fn values_are_bytes_and_a_plus_is_a_space() {
        let params = read("prefix=a+b%2B%ff&&keys_only&limit=7").unwrap();
        assert_eq!(params.bytes("prefix"), Some(b"a b+\xff".as_slice()));
        assert!(params.flag("keys_only").unwrap());
        assert_eq!(params.limit().unwrap(), 7);
        assert!(params.text("prefix").is_err());
        assert_eq!(params.as_of().unwrap(), None);
        assert_eq!(read("").unwrap().limit().unwrap(), PAGE_ROWS_DEFAULT);
    }

    #[test]
    fn a_misspelled_a_doubled_and_a_future_parameter_are_named() {
        let refused = |query| read(query).unwrap_err().detail().to_owned();
        assert_eq!(refused("prefx=a"), "there is no parameter \"prefx\" here");
        assert_eq!(refused("limit=1&limit=1"), "`limit` is given twice");
        assert_eq!(refused("ttl=60s"), "`ttl` is not supported yet");
        assert_eq!(refused("prefix=%"), "a '%' of the query is not followed by two hex digits");
        assert!(refused(&"ü".repeat(100)).ends_with("…\" here"));
    }

    #[test]
    fn a_session_begins_with_the_newest_and_goes_on_from_what_it_has_seen() {
        let read = |query, seen: Option<&str>| {
            let params = Params::read(Some(query), &["consistency"], &[]).unwrap();
            let seen = seen.map(|seen| HeaderValue::from_str(seen).unwrap());
            params.consistency(seen.as_ref()).ok()
        };
        let session = |seen| Some(Consistency::Session { seen: Revision(seen) });
        for none in ["", "consistency=linearizable", "consistency=session"] {
            assert_eq!(read(none, None), Some(Consistency::Linearizable), "{none}");
        }
        assert_eq!(read("consistency=session", Some("7")), session(7));
        assert_eq!(read("consistency=session", Some("0")), session(0));
        for bad in ["", "-1", "7 ", "x", "\"7\"", "99999999999999999999"] {
            assert_eq!(read("consistency=session", Some(bad)), None, "{bad}");
        }
        // Only a session asks for it: a client may send it always.
        assert_eq!(read("consistency=stale", Some("x")), Some(Consistency::Stale));
        assert_eq!(read("", Some("x")), Some(Consistency::Linearizable));
        assert_eq!(read("consistency=strong", None), None);
    }

    #[test]
    fn a_number_is_digits_and_in_its_range() {
        for bad in ["0", "1001", "+1", "-1", "1e2", "", "99999999999999999999", "%31%zz"] {
            let limit = read(&format!("limit={bad}")).and_then(|params| params.limit());
            assert!(limit.is_err(), "{bad}");
        }
        assert_eq!(read("as_of=0").unwrap().as_of().unwrap(), Some(Revision(0)));
    }

    proptest! {
        #[test]
        fn no_query_makes_it_panic(query in ".*") {
            let _ = read(&query).map(|p| (p.limit().is_ok(), p.as_of().is_ok()));
        }
    }
}
