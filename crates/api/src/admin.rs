//! API keys: made, listed, revoked.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A key in clear. It goes over the wire once and is never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What a key may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Everything, and the only one that makes root and admin keys.
    Root,
    /// Everything but that.
    Admin,
    /// Reads what admins read.
    Auditor,
    /// Takes and restores backups.
    Backup,
    /// Reads and writes one project.
    WriteAgent,
    /// Reads one project.
    ReadAgent,
}

impl Role {
    /// Every role.
    pub const ALL: [Role; 6] =
        [Role::Root, Role::Admin, Role::Auditor, Role::Backup, Role::WriteAgent, Role::ReadAgent];

    /// The name in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Root => "root",
            Role::Admin => "admin",
            Role::Auditor => "auditor",
            Role::Backup => "backup",
            Role::WriteAgent => "write_agent",
            Role::ReadAgent => "read_agent",
        }
    }

    /// The role of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == name)
    }

    /// Whether keys of this role belong to one project.
    pub fn of_project(self) -> bool {
        matches!(self, Role::WriteAgent | Role::ReadAgent)
    }
}

/// What to do if a living key of the label is there already. Absent: 409.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum IfExists {
    /// Give back its record, without the key.
    Return,
    /// Make a new key and let the old one run out. Not supported yet: 400.
    Rotate,
}

/// The body of `POST /v1/admin/api-keys`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateKey {
    /// What a person calls it, 1 to 128 bytes; one living key a label.
    #[schema(min_length = 1, max_length = 128)]
    pub label: String,
    /// What it may do.
    pub role: Role,
    /// Its project, for the roles of a project; made if new. Absent: the label without `project-`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// The key itself, if an escrowed one is imported; else one is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Secret>,
    /// What to do if the label is taken; the query parameter of this name says the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_exists: Option<IfExists>,
}

/// Longest label of a key, in bytes.
pub const LABEL_BYTES_MAX: usize = 128;

/// A key's record: everything but the key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeyRecord {
    /// SHA-256 of the key, 64 lowercase hex digits: its name in paths.
    pub hash: String,
    /// What a person calls it.
    pub label: String,
    /// What it may do.
    pub role: Role,
    /// Its project, for the roles of a project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// When it was made, RFC 3339.
    pub created_at: String,
    /// Who made it: the label of their key.
    pub created_by: String,
    /// When it was revoked, RFC 3339; absent while it lives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<String>,
}

/// What `POST /v1/admin/api-keys` gives back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CreatedKey {
    /// The key, shown once; absent if it stood already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Secret>,
    /// Its record.
    #[serde(flatten)]
    pub record: KeyRecord,
}

/// A page of keys, by hash, living ones first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeyList {
    /// The records.
    pub items: Vec<KeyRecord>,
    /// Where to go on; absent on the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_request_takes_known_fields_only_and_never_prints_the_key() {
        let body = json!({"label": "project-x", "role": "write_agent", "key": "steme_live_1"});
        let request: CreateKey = serde_json::from_value(body.clone()).unwrap();
        assert!(!format!("{request:?}").contains("steme_live_1"));
        assert_eq!(serde_json::to_value(&request).unwrap(), body);
        let misspelled = json!({"label": "x", "role": "root", "projekt": "p"});
        assert!(serde_json::from_value::<CreateKey>(misspelled).is_err());
    }

    #[test]
    fn a_created_key_is_flat() {
        let created = CreatedKey {
            key: Some(Secret("steme_live_1".into())),
            record: KeyRecord {
                hash: "00".repeat(32),
                label: "project-x".into(),
                role: Role::WriteAgent,
                project: Some("x".into()),
                created_at: "2026-01-01T00:00:00Z".into(),
                created_by: "root".into(),
                revoked_at: None,
            },
        };
        let body = serde_json::to_value(&created).unwrap();
        assert_eq!((&body["key"], &body["role"]), (&json!("steme_live_1"), &json!("write_agent")));
        assert_eq!(serde_json::from_value::<CreatedKey>(body).unwrap(), created);
    }

    #[test]
    fn a_role_has_one_name_everywhere() {
        for role in Role::ALL {
            assert_eq!(serde_json::to_value(role).unwrap(), json!(role.as_str()));
            assert_eq!(Role::parse(role.as_str()), Some(role));
        }
    }
}
