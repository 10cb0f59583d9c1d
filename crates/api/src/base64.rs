//! Bytes in JSON, and cursors in queries.
//!
//! Keys and values are any bytes, JSON is text: they go as base64 of the
//! standard alphabet with padding, which every language reads. Cursors go into
//! URLs, so they are base64url without padding. Neither reader forgives
//! anything: one sequence of bytes has one text.

use std::borrow::Cow;

use ::base64::Engine;
use ::base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use utoipa::openapi::schema::Type;
use utoipa::openapi::{ObjectBuilder, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

/// Any bytes, as base64 in JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Base64(pub Bytes);

impl From<Bytes> for Base64 {
    fn from(bytes: Bytes) -> Self {
        Self(bytes)
    }
}

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(from)?;
        let bytes = STANDARD.decode(text.as_bytes());
        bytes.map(|bytes| Self(bytes.into())).map_err(|_| de::Error::custom("this is not base64"))
    }
}

impl PartialSchema for Base64 {
    fn schema() -> RefOr<Schema> {
        let text = ObjectBuilder::new().schema_type(Type::String).content_encoding("base64");
        text.description(Some("Bytes, as base64 with padding.")).into()
    }
}

impl ToSchema for Base64 {}

/// A cursor's bytes as the text that goes into a URL.
pub fn encode_cursor(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The bytes of a cursor; `None` for text that [`encode_cursor`] does not write.
pub fn decode_cursor(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn loose_bits_other_alphabets_and_missing_padding_are_refused() {
        for bad in ["\"AB\"", "\"AB==\"", "\"A-==\"", "\" AA==\"", "7"] {
            assert!(serde_json::from_str::<Base64>(bad).is_err(), "{bad}");
        }
        for bad in ["AA==", "A+", "AB", "A", "ü"] {
            assert_eq!(decode_cursor(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn bytes_come_back(bytes in any::<Vec<u8>>()) {
            let value = Base64(bytes.clone().into());
            let json = serde_json::to_string(&value).unwrap();
            prop_assert_eq!(serde_json::from_str::<Base64>(&json).unwrap(), value);
            prop_assert_eq!(decode_cursor(&encode_cursor(&bytes)), Some(bytes));
        }
    }
}
