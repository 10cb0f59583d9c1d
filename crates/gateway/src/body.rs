//! Bodies up to a limit, without a copy where possible.
//!
//! A body that says it is too long is refused before a byte is read; one that
//! turns out to be is refused at the first byte too many. A body that came in
//! one frame, as small values do, is passed on as it came.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use http_body_util::BodyExt;
use hyper::body::Body;
use stemedb_api::{Slug, header};

use crate::failure::Failure;

/// Reads a body to its end. `what` names it in a refusal.
pub(crate) async fn read<B>(
    body: B,
    what: &str,
    bytes_max: usize,
    patience: Duration,
) -> Result<Bytes, Failure>
where
    B: Body<Data = Bytes> + Unpin,
{
    let too_large = || Failure::too_large(StatusCode::PAYLOAD_TOO_LARGE, what, bytes_max);
    if body.size_hint().lower() > bytes_max as u64 {
        return Err(too_large());
    }
    match tokio::time::timeout(patience, collect(body, bytes_max)).await {
        Ok(Ok(Some(bytes))) => Ok(bytes),
        Ok(Ok(None)) => Err(too_large()),
        Ok(Err(_)) => Err(Failure::malformed("the body ended before its end")),
        Err(_) => Err(Failure::malformed("the body did not arrive in time")),
    }
}

/// `None`: it is longer.
async fn collect<B>(mut body: B, bytes_max: usize) -> Result<Option<Bytes>, B::Error>
where
    B: Body<Data = Bytes> + Unpin,
{
    let expected = body.size_hint().lower().min(bytes_max as u64) as usize;
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        if first.len() + all.len() + data.len() > bytes_max {
            return Ok(None);
        }
        if first.is_empty() && all.is_empty() {
            first = data;
        } else {
            if all.is_empty() {
                all.reserve(expected.max(first.len() + data.len()));
                all.extend_from_slice(&std::mem::take(&mut first));
            }
            all.extend_from_slice(&data);
        }
    }
    Ok(Some(if all.is_empty() { first } else { all.freeze() }))
}

/// Refuses a body that says it is something else than JSON. One that says nothing is taken as JSON.
pub(crate) fn expect_json(headers: &HeaderMap) -> Result<(), Failure> {
    let Some(given) = headers.get(CONTENT_TYPE) else { return Ok(()) };
    let media_type = given.to_str().unwrap_or_default();
    let media_type = media_type.split(';').next().unwrap_or_default().trim();
    let is_json = media_type.eq_ignore_ascii_case(header::JSON)
        || media_type.to_ascii_lowercase().strip_suffix("+json").is_some_and(|m| m.contains('/'));
    if is_json {
        Ok(())
    } else {
        Err(Failure::new(Slug::UnsupportedMediaType, "this route reads application/json"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;
    use http_body_util::{Full, StreamBody};
    use hyper::body::Frame;
    use std::convert::Infallible;

    const PATIENCE: Duration = Duration::from_secs(60);

    async fn frames(parts: &[&'static [u8]], bytes_max: usize) -> Result<Bytes, Failure> {
        let parts = parts.iter().map(|part| Bytes::from_static(part));
        let frames = parts.map(|part| Ok::<_, Infallible>(Frame::data(part)));
        read(StreamBody::new(stream::iter(frames)), "the body", bytes_max, PATIENCE).await
    }

    #[tokio::test]
    async fn one_frame_is_passed_on_where_it_lies() {
        let sent = Bytes::from(vec![7; 1000]);
        let got = read(Full::new(sent.clone()), "the body", 1000, PATIENCE).await.unwrap();
        assert_eq!(got.as_ptr(), sent.as_ptr());
    }

    #[tokio::test]
    async fn many_frames_are_joined_and_the_first_byte_too_many_ends_it() {
        assert_eq!(frames(&[b"a", b"", b"bc", b"d"], 4).await.unwrap(), "abcd");
        assert_eq!(frames(&[], 4).await.unwrap(), "");
        for parts in [vec![b"abcde".as_slice()], vec![b"ab", b"cd", b"e"]] {
            let refused = frames(&parts, 4).await.unwrap_err();
            assert_eq!(refused.detail(), "the body is longer than 4 bytes");
        }
    }

    #[tokio::test]
    async fn a_body_that_never_ends_is_given_up() {
        let never = StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>());
        let refused = read(never, "the body", 4, Duration::ZERO).await.unwrap_err();
        assert_eq!(refused.detail(), "the body did not arrive in time");
    }

    #[test]
    fn json_is_named_in_many_ways_and_silence_is_one() {
        let check = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, http::HeaderValue::from_static(value));
            expect_json(&headers).is_ok()
        };
        assert!(expect_json(&HeaderMap::new()).is_ok());
        for good in ["application/json", "Application/JSON ; charset=utf-8", "application/x+json"] {
            assert!(check(good), "{good}");
        }
        for bad in
            ["", "text/plain", "application/jsonp", "+json", "application/x-www-form-urlencoded"]
        {
            assert!(!check(bad), "{bad}");
        }
    }
}
