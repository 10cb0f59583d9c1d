//! Who may do what: pure, from the meta state.
//!
//! Only the SHA-256 of a key is kept, so a key is checked by looking its hash
//! up. The roles of a project may only touch their project; the roles of the
//! cluster name one by header. The node that owns the data runs the same
//! check on the same key again: a node in between can lend nobody its rights.

use sha2::{Digest, Sha256};
use stemedb_machine::meta::{ApiKey, KeyHash, MetaState, Role};
use stemedb_types::{ProjectId, ProjectName};

use crate::front::{Caller, Need};
use crate::{Credential, Error};

/// What a node knows of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known<'s> {
    /// It lives.
    Living(&'s ApiKey),
    /// It was revoked.
    Revoked,
    /// Never heard of: another node may have.
    Unknown,
}

/// The hash under which a key is known.
pub(crate) fn hash_of(key: &str) -> KeyHash {
    KeyHash(Sha256::digest(key.as_bytes()).into())
}

/// `steme_live_` or `steme_test_` and 48 lowercase hex digits.
pub(crate) fn is_key(text: &str) -> bool {
    let hex = text.strip_prefix("steme_live_").or_else(|| text.strip_prefix("steme_test_"));
    hex.is_some_and(|hex| {
        hex.len() == 48 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// A new live key from 24 random bytes.
pub(crate) fn make_key(random: [u8; 24]) -> Credential {
    Credential::new(format!("steme_live_{}", hex::encode(random)))
}

/// What the meta state knows of a key's hash.
pub(crate) fn look_up<'s>(state: &'s MetaState, hash: &KeyHash) -> Known<'s> {
    match state.keys.get(hash) {
        Some(key) if key.revoked_at_ms.is_none() => Known::Living(key),
        Some(_) => Known::Revoked,
        None => Known::Unknown,
    }
}

/// Whether a role is enough for a need.
fn allows(role: Role, need: Need) -> bool {
    match need {
        Need::Read => role != Role::Backup,
        Need::Write => matches!(role, Role::Root | Role::Admin | Role::WriteAgent),
        Need::Inspect => matches!(role, Role::Root | Role::Admin | Role::Auditor),
        Need::Administer => matches!(role, Role::Root | Role::Admin),
    }
}

/// Says who the owner of a living key is and whether that is enough.
pub(crate) fn admit(
    state: &MetaState,
    key: &ApiKey,
    named: Option<&ProjectName>,
    need: Need,
) -> Result<Caller, Error> {
    if !allows(key.role, need) {
        let role = key.role.as_str();
        return Err(Error::Forbidden(format!("a key of role {role} may not do this")));
    }
    let project = match need {
        Need::Inspect | Need::Administer => None,
        Need::Read | Need::Write => Some(project_of(state, key, named)?),
    };
    Ok(Caller { label: key.label.clone(), role: key.role, project })
}

fn project_of(
    state: &MetaState,
    key: &ApiKey,
    named: Option<&ProjectName>,
) -> Result<(ProjectId, ProjectName), Error> {
    let own = key.project.and_then(|id| state.projects.get(&id));
    match (own, named) {
        (Some(own), Some(named)) if own.name != *named => Err(Error::Forbidden(format!(
            "this key belongs to project {}, not to {named}",
            own.name
        ))),
        (Some(own), _) => Ok((own.id, own.name.clone())),
        (None, _) if key.role.of_project() => {
            Err(Error::Internal(format!("key {} has no project", key.hash)))
        }
        (None, None) => Err(Error::Malformed(format!(
            "a key of role {} must name a project in the header StemeDB-Project",
            key.role.as_str()
        ))),
        (None, Some(named)) => match state.project(named) {
            Some(project) => Ok((project.id, project.name.clone())),
            None => Err(Error::NotFound(format!("there is no project {named}"))),
        },
    }
}

/// Whether a caller may make a key of a role: only root makes root and admin.
pub(crate) fn may_make(by: Role, wanted: Role) -> Result<(), Error> {
    if matches!(wanted, Role::Root | Role::Admin) && by != Role::Root {
        let wanted = wanted.as_str();
        return Err(Error::Forbidden(format!("only root makes a key of role {wanted}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use stemedb_machine::meta::{MetaRecord, Project};

    fn state() -> MetaState {
        let mut state = MetaState::default();
        for (id, name) in [(1, "alpha"), (2, "beta")] {
            let name = name.parse().expect("a project name");
            let project = Project { id: ProjectId(id), name, created_at_ms: 0 };
            state.absorb(MetaRecord::Project(project));
        }
        state
    }

    fn key(role: Role, project: Option<u64>) -> ApiKey {
        ApiKey {
            hash: hash_of("k"),
            label: "l".to_owned(),
            role,
            project: project.map(ProjectId),
            created_at_ms: 0,
            created_by: "start".to_owned(),
            revoked_at_ms: None,
        }
    }

    #[test]
    fn every_role_may_do_exactly_what_the_contract_says() {
        let may = |role| {
            let needs = [Need::Read, Need::Write, Need::Inspect, Need::Administer];
            needs.map(|need| allows(role, need))
        };
        assert_eq!(may(Role::Root), [true, true, true, true]);
        assert_eq!(may(Role::Admin), [true, true, true, true]);
        assert_eq!(may(Role::Auditor), [true, false, true, false]);
        assert_eq!(may(Role::Backup), [false, false, false, false]);
        assert_eq!(may(Role::WriteAgent), [true, true, false, false]);
        assert_eq!(may(Role::ReadAgent), [true, false, false, false]);
    }

    #[test]
    fn a_project_key_touches_its_own_project_only() {
        let (state, key) = (state(), key(Role::WriteAgent, Some(1)));
        let alpha: ProjectName = "alpha".parse().expect("a name");
        let beta: ProjectName = "beta".parse().expect("a name");
        let project = |named| admit(&state, &key, named, Need::Write).map(|caller| caller.project);
        let own = Ok(Some((ProjectId(1), alpha.clone())));
        assert_eq!(project(None), own);
        assert_eq!(project(Some(&alpha)), own);
        assert!(matches!(project(Some(&beta)), Err(Error::Forbidden(_))));
    }

    #[test]
    fn a_cluster_key_must_name_a_project_that_is_there() {
        let (state, key) = (state(), key(Role::Root, None));
        let beta: ProjectName = "beta".parse().expect("a name");
        let gone: ProjectName = "gone".parse().expect("a name");
        let project = |named| admit(&state, &key, named, Need::Read).map(|caller| caller.project);
        assert_eq!(project(Some(&beta)), Ok(Some((ProjectId(2), beta.clone()))));
        assert!(matches!(project(None), Err(Error::Malformed(_))));
        assert!(matches!(project(Some(&gone)), Err(Error::NotFound(_))));
    }

    #[test]
    fn only_the_contracts_form_is_a_key() {
        let made = make_key([0xab; 24]);
        assert!(is_key(made.expose()));
        assert_eq!(made.expose().len(), "steme_live_".len() + 48);
        assert!(is_key(&made.expose().replace("live", "test")));
        for bad in ["", "steme_live_", &made.expose().to_uppercase(), &made.expose()[1..]] {
            assert!(!is_key(bad), "{bad}");
        }
    }
}
