//! API keys: made, listed, revoked.
//!
//! A key in clear passes through here twice at most: in, when an escrowed one
//! is imported, and out, when one was made. Neither is logged.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, LOCATION};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Body;
use stemedb::meta::{ApiKey, KeyHash, Project, Role};
use stemedb::{AdminAnswer, AdminCall, Credential};
use stemedb_api::admin::{
    CreateKey, CreatedKey, IfExists, KeyList, KeyRecord, LABEL_BYTES_MAX, Role as RoleName, Secret,
};
use stemedb_api::{Slug, decode_cursor, encode_cursor};
use stemedb_types::ProjectName;
use stemedb_types::limits::BODY_BYTES_MAX;

use crate::failure::{Failure, Repeat};
use crate::params::{Params, not_supported_yet};
use crate::query::instant;
use crate::request::Admitted;
use crate::route::Place;
use crate::{body, respond};

/// What stands before a project's name in the label of its key.
const LABEL_PREFIX: &str = "project-";
const LIVE_PREFIX: &str = "steme_live_";
const TEST_PREFIX: &str = "steme_test_";
/// Lowercase hex digits behind the prefix of a key.
const KEY_DIGITS: usize = 48;
/// Answers with a key in clear must not stay anywhere.
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// `POST /v1/admin/api-keys`: 201 with the key, shown once; 200 with the record of a living key of
/// that label if that was asked for.
pub(crate) async fn create<B>(
    request: Admitted<'_>,
    body: B,
) -> Result<Response<Full<Bytes>>, Failure>
where
    B: Body<Data = Bytes> + Unpin,
{
    let params = request.params(&["if_exists"], &[])?;
    body::expect_json(&request.head.headers)?;
    let patience = request.gateway.options.deadline;
    let bytes = body::read(body, "the body", BODY_BYTES_MAX, patience).await?;
    let asked: CreateKey = serde_json::from_slice(&bytes)
        .map_err(|cause| Failure::malformed(format!("the body: {cause}")))?;
    let call = create_call(asked, &params)?;
    match request.gateway.front.admin(request.admission, call).await? {
        AdminAnswer::Key { record, project, secret, created } => {
            let created_key = CreatedKey {
                key: secret.map(|key| Secret(key.expose().to_owned())),
                record: shown(&record, project.as_ref()),
            };
            created_response(&created_key, created)
        }
        _ => Err(Failure::internal("a key was made, but not given back")),
    }
}

fn created_response(key: &CreatedKey, created: bool) -> Result<Response<Full<Bytes>>, Failure> {
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    let mut response = respond::json(status, key)?;
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, NO_STORE);
    let location = format!("{}/{}", Place::ApiKeys.template(), key.record.hash);
    if let Ok(location) = HeaderValue::try_from(location) {
        headers.insert(LOCATION, location);
    }
    Ok(response)
}

/// The checked call.
fn create_call(asked: CreateKey, params: &Params) -> Result<AdminCall, Failure> {
    let in_query = params.text("if_exists")?.map(if_exists).transpose()?;
    let if_exists = match (asked.if_exists, in_query) {
        (Some(a), Some(b)) if a != b => {
            return Err(Failure::malformed("`if_exists` differs between body and query"));
        }
        (a, b) => a.or(b),
    };
    if if_exists == Some(IfExists::Rotate) {
        return Err(not_supported_yet("if_exists=rotate"));
    }
    check_label(&asked.label)?;
    let project = project_of(&asked)?;
    let key = asked.key.map(|Secret(key)| import(key)).transpose()?;
    Ok(AdminCall::CreateKey {
        label: asked.label,
        role: role(asked.role),
        project,
        key,
        return_existing: if_exists == Some(IfExists::Return),
    })
}

fn if_exists(text: &str) -> Result<IfExists, Failure> {
    match text {
        "return" => Ok(IfExists::Return),
        "rotate" => Ok(IfExists::Rotate),
        _ => Err(Failure::malformed("`if_exists` must be return or rotate")),
    }
}

fn check_label(label: &str) -> Result<(), Failure> {
    let length = 1..=LABEL_BYTES_MAX;
    if length.contains(&label.len()) && !label.chars().any(char::is_control) {
        return Ok(());
    }
    let detail = format!("`label` must be 1 to {LABEL_BYTES_MAX} bytes without control characters");
    Err(Failure::malformed(detail))
}

/// For the roles of a project: the one named, else the one in the label. For others: none.
fn project_of(asked: &CreateKey) -> Result<Option<ProjectName>, Failure> {
    let named = match (asked.role.of_project(), asked.project.as_deref()) {
        (false, None) => return Ok(None),
        (false, Some(_)) => {
            let role = asked.role.as_str();
            let detail = format!("a key of role {role} belongs to the cluster, not to a project");
            return Err(Failure::malformed(detail));
        }
        (true, Some(project)) => project,
        (true, None) => asked.label.strip_prefix(LABEL_PREFIX).ok_or_else(|| {
            Failure::malformed("`project` is missing, and the label is not `project-` and its name")
        })?,
    };
    let name = named.parse();
    name.map(Some).map_err(|cause| Failure::malformed(format!("`project`: {cause}")))
}

/// A key that comes from outside must look like one of ours.
fn import(key: String) -> Result<Credential, Failure> {
    let digits = key.strip_prefix(LIVE_PREFIX).or_else(|| key.strip_prefix(TEST_PREFIX));
    let hex = |digits: &str| digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if !digits.is_some_and(|digits| digits.len() == KEY_DIGITS && hex(digits)) {
        return Err(Failure::malformed(format!(
            "`key` must be `{LIVE_PREFIX}` and {KEY_DIGITS} lowercase hex digits"
        )));
    }
    if key.starts_with(TEST_PREFIX) {
        return Err(not_supported_yet(TEST_PREFIX));
    }
    Ok(Credential::new(key))
}

/// `GET /v1/admin/api-keys`: living keys first, each group by hash.
pub(crate) fn list(request: &Admitted<'_>) -> Result<Response<Full<Bytes>>, Failure> {
    let params = request.params(&["limit", "cursor"], &[])?;
    let limit = params.limit()?;
    let after = params.bytes("cursor").map(place_of_cursor).transpose()?;
    let mut keys = request.gateway.front.keys();
    keys.sort_by_key(|(key, _)| place_in_list(key));
    let mut left = keys.iter().filter(|(key, _)| after.is_none_or(|a| place_in_list(key) > a));
    let page: Vec<_> = left.by_ref().take(limit).collect();
    let more = left.next().is_some();
    let last = page.last().filter(|_| more);
    let list = KeyList {
        cursor: last.map(|(key, _)| cursor_of_place(place_in_list(key))),
        items: page.into_iter().map(|(key, project)| shown(key, project.as_ref())).collect(),
    };
    respond::json(StatusCode::OK, &list)
}

/// What the list is ordered by: revoked or not, then the hash.
fn place_in_list(key: &ApiKey) -> (bool, KeyHash) {
    (key.revoked_at_ms.is_some(), key.hash)
}

fn cursor_of_place((revoked, hash): (bool, KeyHash)) -> String {
    let mut bytes = vec![u8::from(revoked)];
    bytes.extend_from_slice(&hash.0);
    encode_cursor(&bytes)
}

fn place_of_cursor(text: &[u8]) -> Result<(bool, KeyHash), Failure> {
    let bytes = std::str::from_utf8(text).ok().and_then(decode_cursor);
    let place = bytes.as_deref().and_then(|bytes| match bytes.split_first()? {
        (revoked @ (0 | 1), hash) => Some((*revoked == 1, KeyHash(hash.try_into().ok()?))),
        _ => None,
    });
    place.ok_or_else(|| Failure::malformed("`cursor` is not one that a page gave"))
}

/// `GET /v1/admin/api-keys/{hash}`.
pub(crate) fn get(request: &Admitted<'_>) -> Result<Response<Full<Bytes>>, Failure> {
    request.params(&[], &[])?;
    let hash = path_hash(request.target.rest)?;
    let keys = request.gateway.front.keys();
    match keys.iter().find(|(key, _)| key.hash == hash) {
        Some((key, project)) => respond::json(StatusCode::OK, &shown(key, project.as_ref())),
        None => Err(Failure::new(Slug::NotFound, "there is no key of this hash")),
    }
}

/// `DELETE /v1/admin/api-keys/{hash}`: 204 once every living member has applied it.
pub(crate) async fn revoke(request: Admitted<'_>) -> Result<Response<Full<Bytes>>, Failure> {
    request.params(&[], &[])?;
    let call = AdminCall::RevokeKey { hash: path_hash(request.target.rest)? };
    let answered = request.gateway.front.admin(request.admission, call).await;
    answered.map_err(|error| Failure::from(error).with_repeat(Repeat::Harmless))?;
    Ok(respond::empty(StatusCode::NO_CONTENT))
}

/// The hash of the path: 64 lowercase hex digits.
fn path_hash(raw: &str) -> Result<KeyHash, Failure> {
    let refused = || Failure::malformed("a key's hash is 64 lowercase hex digits");
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Ok(byte - b'0'),
        b'a'..=b'f' => Ok(byte - b'a' + 10),
        _ => Err(refused()),
    };
    let digits = raw.as_bytes();
    let mut hash = [0; 32];
    if digits.len() != 2 * hash.len() {
        return Err(refused());
    }
    for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Ok(KeyHash(hash))
}

fn shown(key: &ApiKey, project: Option<&Project>) -> KeyRecord {
    KeyRecord {
        hash: key.hash.to_string(),
        label: key.label.clone(),
        role: role_name(key.role),
        project: project.map(|project| project.name.to_string()),
        created_at: instant(key.created_at_ms),
        created_by: key.created_by.clone(),
        revoked_at: key.revoked_at_ms.map(instant),
    }
}

fn role(name: RoleName) -> Role {
    match name {
        RoleName::Root => Role::Root,
        RoleName::Admin => Role::Admin,
        RoleName::Auditor => Role::Auditor,
        RoleName::Backup => Role::Backup,
        RoleName::WriteAgent => Role::WriteAgent,
        RoleName::ReadAgent => Role::ReadAgent,
    }
}

fn role_name(role: Role) -> RoleName {
    match role {
        Role::Root => RoleName::Root,
        Role::Admin => RoleName::Admin,
        Role::Auditor => RoleName::Auditor,
        Role::Backup => RoleName::Backup,
        Role::WriteAgent => RoleName::WriteAgent,
        Role::ReadAgent => RoleName::ReadAgent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_have_the_same_names_in_both_words() {
        for name in RoleName::ALL {
            assert_eq!(role(name).as_str(), name.as_str());
            assert_eq!(role_name(role(name)), name);
        }
    }

    #[test]
    fn a_place_in_the_list_survives_its_cursor() {
        for place in [(false, KeyHash([0; 32])), (true, KeyHash([0xff; 32]))] {
            assert_eq!(place_of_cursor(cursor_of_place(place).as_bytes()).unwrap(), place);
        }
        for bad in ["", "AA", "Ag", "!"] {
            assert!(place_of_cursor(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
