//! Query strings, any bytes in them.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

/// Everything but the unreserved characters of RFC 3986.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// One segment of a path.
pub(crate) fn segment(text: &str) -> String {
    percent_encode(text.as_bytes(), PLAIN).to_string()
}

/// Puts a query string together behind a path.
pub(crate) struct Query(String);

impl Query {
    /// Begins behind `path`.
    pub(crate) fn of(path: &str) -> Self {
        Self(path.to_owned())
    }

    /// `name=value`, if there is a value.
    pub(crate) fn with(mut self, name: &str, value: Option<impl AsRef<[u8]>>) -> Self {
        if let Some(value) = value {
            self.0.push(if self.0.contains('?') { '&' } else { '?' });
            self.0.push_str(name);
            self.0.push('=');
            self.0.extend(percent_encode(value.as_ref(), PLAIN));
        }
        self
    }

    /// `name=number`, if there is one.
    pub(crate) fn number(self, name: &str, number: Option<u64>) -> Self {
        self.with(name, number.map(|number| number.to_string()))
    }

    /// `name=true`, if it is.
    pub(crate) fn flag(self, name: &str, set: bool) -> Self {
        self.with(name, set.then_some("true"))
    }

    /// Path and query.
    pub(crate) fn finish(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_go_into_a_query_and_absent_ones_stay_out() {
        let query = Query::of("/v1/kv/b").with("prefix", Some(&b"a b&\xff/\0"[..]));
        let query = query.with("end", None::<&str>).number("limit", Some(7)).flag("reverse", true);
        let text = query.flag("keys_only", false).finish();
        assert_eq!(text, "/v1/kv/b?prefix=a%20b%26%FF%2F%00&limit=7&reverse=true");
        assert_eq!(segment("[::1]:18182/.."), "%5B%3A%3A1%5D%3A18182%2F..");
    }
}
