//! Keys, values and pages of them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Base64;

/// One key and its value: a row of a scan, and the JSON form of a get.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeyValue {
    /// The key's bytes.
    pub key: Base64,
    /// The key again, where it is UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_text: Option<String>,
    /// The value's bytes; absent with `keys_only`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Base64>,
    /// The revision that made the key (since it was last absent).
    pub create_revision: u64,
    /// The revision of this value: its ETag.
    pub mod_revision: u64,
    /// 1 for the value that made the key, then one more with each put.
    pub version: u64,
    /// When it expires, RFC 3339. Keys do not expire yet: always absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
}

/// A page of a scan, in the order asked for. All pages of one scan show one revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ScanPage {
    /// The revision that the page shows.
    pub revision: u64,
    /// The keys. Perhaps fewer than asked for, or none, though there are more.
    pub kvs: Vec<KeyValue>,
    /// Where to go on; absent on the last page. A page with a cursor may be empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_page_has_the_names_of_the_contract() {
        let row = KeyValue {
            key: Base64(b"k".as_slice().into()),
            key_text: Some("k".into()),
            value: None,
            create_revision: 1,
            mod_revision: 2,
            version: 2,
            expires_at: None,
        };
        let page = ScanPage { revision: 7, kvs: vec![row], cursor: Some("c".into()) };
        let body = json!({"revision": 7, "cursor": "c", "kvs": [{
            "key": "aw==", "key_text": "k", "create_revision": 1, "mod_revision": 2, "version": 2,
        }]});
        assert_eq!(serde_json::to_value(&page).unwrap(), body);
        assert_eq!(serde_json::from_value::<ScanPage>(body).unwrap(), page);
    }
}
