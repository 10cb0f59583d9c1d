//! `If-Match` and `If-None-Match` (RFC 9110, section 13).
//!
//! Our ETags are strong and are the decimal mod revision in quotes. A tag that
//! is well formed but not one of ours is no error: it matches nothing. One
//! without quotes is an error, because it is always a mistake, and a
//! conditional write that quietly became another one is the worst answer.

use http::HeaderMap;
use http::header::{HeaderName, IF_MATCH, IF_NONE_MATCH};
use stemedb::shard::Condition;
use stemedb_types::Revision;

/// Most tags of one header: the machine compares them one by one.
const TAGS_MAX: usize = 64;

/// Why conditions were refused; nothing was read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    #[error("{0} must be * or a list of quoted ETags, like \"7\", \"9\"")]
    Syntax(HeaderName),
    #[error("{0} lists more than {TAGS_MAX} ETags")]
    TooMany(HeaderName),
    #[error("If-Match and If-None-Match can't both stand on a write")]
    Both,
}

/// The tags of one header.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Tags {
    Any,
    Listed(Vec<Revision>),
}

/// The conditions of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Conditions {
    if_match: Option<Tags>,
    if_none_match: Option<Tags>,
}

/// What the conditions of a read make of a value that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Send,
    NotModified,
    Failed,
}

impl Conditions {
    /// Reads both headers.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, Error> {
        Ok(Self {
            if_match: tags(headers, IF_MATCH, true)?,
            if_none_match: tags(headers, IF_NONE_MATCH, false)?,
        })
    }

    /// As the machine checks it before a write.
    pub(crate) fn for_write(self) -> Result<Condition, Error> {
        match (self.if_match, self.if_none_match) {
            (None, None) => Ok(Condition::Always),
            (Some(Tags::Any), None) => Ok(Condition::Exists),
            (Some(Tags::Listed(revisions)), None) => Ok(Condition::RevisionIn(revisions)),
            (None, Some(Tags::Any)) => Ok(Condition::Absent),
            (None, Some(Tags::Listed(revisions))) => Ok(Condition::RevisionNotIn(revisions)),
            (Some(_), Some(_)) => Err(Error::Both),
        }
    }

    /// For a read that found a value at `current`. (Of what was not found, no condition is asked.)
    pub(crate) fn for_read(&self, current: Revision) -> Verdict {
        let names = |tags: &Tags| match tags {
            Tags::Any => true,
            Tags::Listed(revisions) => revisions.contains(&current),
        };
        if self.if_match.as_ref().is_some_and(|tags| !names(tags)) {
            Verdict::Failed
        } else if self.if_none_match.as_ref().is_some_and(names) {
            Verdict::NotModified
        } else {
            Verdict::Send
        }
    }
}

/// The tags of all headers of this name. `strong`: weak tags match nothing.
fn tags(headers: &HeaderMap, name: HeaderName, strong: bool) -> Result<Option<Tags>, Error> {
    if !headers.contains_key(&name) {
        return Ok(None);
    }
    let mut any = false;
    let mut count = 0;
    let mut listed = Vec::new();
    for value in headers.get_all(&name) {
        let mut left = value.as_bytes().trim_ascii();
        while !left.is_empty() {
            let (tag, rest) = next_tag(left).ok_or_else(|| Error::Syntax(name.clone()))?;
            count += 1;
            match tag {
                Tag::Any => any = true,
                Tag::Opaque { weak, text } => {
                    listed.extend(revision(text).filter(|_| !(weak && strong)));
                }
            }
            left = rest;
        }
    }
    match (any, count) {
        (_, 0) => Err(Error::Syntax(name)),
        (true, 1) => Ok(Some(Tags::Any)),
        (true, _) => Err(Error::Syntax(name)),
        (false, count) if count > TAGS_MAX => Err(Error::TooMany(name)),
        (false, _) => Ok(Some(Tags::Listed(listed))),
    }
}

enum Tag<'h> {
    Any,
    Opaque { weak: bool, text: &'h [u8] },
}

/// The tag at the front and what stands behind its comma.
fn next_tag(text: &[u8]) -> Option<(Tag<'_>, &[u8])> {
    let (tag, rest) = if let Some(rest) = text.strip_prefix(b"*") {
        (Tag::Any, rest)
    } else {
        let opaque = text.strip_prefix(b"W/");
        let weak = opaque.is_some();
        let inside = opaque.unwrap_or(text).strip_prefix(b"\"")?;
        let end = inside.iter().position(|b| *b == b'"')?;
        (Tag::Opaque { weak, text: &inside[..end] }, &inside[end + 1..])
    };
    let rest = rest.trim_ascii_start();
    if rest.is_empty() {
        return Some((tag, rest));
    }
    let rest = rest.strip_prefix(b",")?.trim_ascii_start();
    // A comma with nothing behind it is a list cut short.
    if rest.is_empty() { None } else { Some((tag, rest)) }
}

/// The revision whose ETag is exactly this.
fn revision(text: &[u8]) -> Option<Revision> {
    let text = std::str::from_utf8(text).ok()?;
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    let canonical = digits && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| canonical).map(Revision)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (n.clone(), HeaderValue::from_str(v).unwrap())).collect()
    }

    fn write(name: HeaderName, value: &str) -> Result<Condition, Error> {
        Conditions::of(&headers(&[(name, value)])).and_then(Conditions::for_write)
    }

    fn at(revisions: &[u64]) -> Vec<Revision> {
        revisions.iter().copied().map(Revision).collect()
    }

    #[test]
    fn each_header_becomes_the_condition_of_a_write() {
        assert_eq!(Conditions::default().for_write(), Ok(Condition::Always));
        assert_eq!(write(IF_MATCH, "*"), Ok(Condition::Exists));
        assert_eq!(write(IF_NONE_MATCH, " * "), Ok(Condition::Absent));
        assert_eq!(write(IF_MATCH, "\"7\""), Ok(Condition::RevisionIn(at(&[7]))));
        assert_eq!(write(IF_MATCH, "\"7\" ,\t\"9\""), Ok(Condition::RevisionIn(at(&[7, 9]))));
        assert_eq!(write(IF_NONE_MATCH, "\"7\""), Ok(Condition::RevisionNotIn(at(&[7]))));
    }

    #[test]
    fn a_tag_that_is_not_ours_matches_nothing_and_a_weak_one_only_where_weak_is_enough() {
        assert_eq!(write(IF_MATCH, "\"a,b\", \"07\""), Ok(Condition::RevisionIn(at(&[]))));
        assert_eq!(write(IF_MATCH, "W/\"7\""), Ok(Condition::RevisionIn(at(&[]))));
        assert_eq!(write(IF_NONE_MATCH, "W/\"7\""), Ok(Condition::RevisionNotIn(at(&[7]))));
        let beyond = "\"18446744073709551616\"";
        assert_eq!(write(IF_MATCH, beyond), Ok(Condition::RevisionIn(at(&[]))));
    }

    #[test]
    fn what_is_no_list_of_tags_is_refused() {
        for bad in ["", " ", "7", "\"7", "7\"", "\"7\" \"8\"", "\"7\",", ",", "*, \"7\"", "w/\"7\""]
        {
            assert_eq!(write(IF_MATCH, bad), Err(Error::Syntax(IF_MATCH)), "{bad:?}");
        }
        let many = vec!["\"1\""; TAGS_MAX + 1].join(",");
        assert_eq!(write(IF_MATCH, &many), Err(Error::TooMany(IF_MATCH)));
        let both = headers(&[(IF_MATCH, "*"), (IF_NONE_MATCH, "*")]);
        assert_eq!(Conditions::of(&both).and_then(Conditions::for_write), Err(Error::Both));
    }

    #[test]
    fn a_read_is_judged_by_if_match_first() {
        let judge = |pairs: &[(HeaderName, &str)]| {
            Conditions::of(&headers(pairs)).unwrap().for_read(Revision(7))
        };
        assert_eq!(judge(&[]), Verdict::Send);
        assert_eq!(judge(&[(IF_NONE_MATCH, "\"6\", \"7\"")]), Verdict::NotModified);
        assert_eq!(judge(&[(IF_NONE_MATCH, "*")]), Verdict::NotModified);
        assert_eq!(judge(&[(IF_NONE_MATCH, "\"6\"")]), Verdict::Send);
        assert_eq!(judge(&[(IF_MATCH, "\"6\"")]), Verdict::Failed);
        assert_eq!(judge(&[(IF_MATCH, "*")]), Verdict::Send);
        assert_eq!(judge(&[(IF_MATCH, "\"6\""), (IF_NONE_MATCH, "\"7\"")]), Verdict::Failed);
        let lines = headers(&[(IF_NONE_MATCH, "\"1\""), (IF_NONE_MATCH, "\"7\"")]);
        let mut two = HeaderMap::new();
        for (name, value) in &lines {
            two.append(name, value.clone());
        }
        two.append(IF_NONE_MATCH, HeaderValue::from_static("\"7\""));
        assert_eq!(Conditions::of(&two).unwrap().for_read(Revision(7)), Verdict::NotModified);
    }

    proptest! {
        #[test]
        fn no_value_makes_it_panic(text in "[\"W/*,0-9 a]{0,24}") {
            let _ = write(IF_MATCH, &text);
        }
    }
}
