//! API keys.

use futures_util::TryStreamExt;
use reqwest::Method;
use stemedb_api::admin::{CreateKey, CreatedKey, KeyList, KeyRecord};

use crate::kv::pages;
use crate::query::Query;
use crate::retry::Kind;
use crate::send::Ask;
use crate::{Client, Error};

const KEYS: &str = "/v1/admin/api-keys";

impl Client {
    /// Makes an API key, or gives back the record of one of that label if the request says so.
    pub async fn create_key(&self, request: &CreateKey) -> Result<CreatedKey, Error> {
        let ask = Ask::new(Kind::Admin, Method::POST, KEYS);
        self.send_json(ask.json(request)?).await
    }

    /// Every key's record, living ones first.
    pub async fn keys(&self) -> Result<Vec<KeyRecord>, Error> {
        let rows = pages(|cursor: Option<String>| async move {
            let path = Query::of(KEYS).with("cursor", cursor).finish();
            let page: KeyList = self.send_json(Ask::get(path)).await?;
            Ok((page.items, page.cursor))
        });
        rows.try_collect().await
    }

    /// Ends a key, named by its hash. After this no living member takes it any more.
    pub async fn revoke_key(&self, hash: &str) -> Result<(), Error> {
        if hash.is_empty() || !hash.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(Error::Invalid("a key's hash is 64 hex digits".to_owned()));
        }
        let ask = Ask::new(Kind::Admin, Method::DELETE, format!("{KEYS}/{hash}"));
        self.send(ask).await.map(|_| ())
    }
}
