//! Lets a caller in: by the meta state here, and once by the meta leader's.
//!
//! A key is looked up in memory. One that is not known here may have been made
//! a moment ago: then, and only then, the meta leader is asked, one question at a
//! time and a hundred a second at most, and its "no" is remembered for a while, so that
//! guessing keys costs the guesser more than the cluster.

use std::time::Duration;

use stemedb_machine::meta::{KeyHash, MetaAnswer, MetaCommand, MetaState, Role};
use stemedb_types::ProjectName;
use tokio::time::{Instant, timeout_at};

use crate::auth::{Known, admit, hash_of, is_key, look_up};
use crate::core::{Core, locked, now_ms};
use crate::front::{Admission, Caller, Credential, Need};
use crate::options::Auth;
use crate::{Error, Unavailable};

/// How long the meta leader's "no" is believed.
const REFUSAL_KEPT: Duration = Duration::from_secs(10);
/// Most refusals remembered; beyond it those that have run out go, and all if none has.
const REFUSALS_MAX: usize = 10_000;
/// How long the question for an unknown key may take.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);

/// Most questions for unknown keys in a second, per node; beyond it callers are told to wait.
const LOOKUPS_PER_SECOND_MAX: u32 = 100;
/// The second that is counted in.
const LOOKUP_WINDOW: Duration = Duration::from_secs(1);

/// Counts the questions of one second. Pure: time comes from the caller.
#[derive(Debug)]
pub(crate) struct Lookups {
    begun: Instant,
    asked: u32,
}

impl Lookups {
    /// None yet.
    pub(crate) fn new(now: Instant) -> Self {
        Self { begun: now, asked: 0 }
    }

    /// Whether one more question may be asked now; counts it if so.
    fn admits(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.begun) >= LOOKUP_WINDOW {
            *self = Self::new(now);
        }
        let admits = self.asked < LOOKUPS_PER_SECOND_MAX;
        self.asked += u32::from(admits);
        admits
    }
}

/// What a look at the local state gave.
pub(crate) enum Glance {
    /// The caller, or why not.
    Sure(Result<Caller, Error>),
    /// The key is not known here.
    Ask(KeyHash),
}

impl Core {
    /// Looks a caller up in what this node knows, without waiting.
    pub(crate) fn glance(
        &self,
        credential: Option<&Credential>,
        project: Option<&ProjectName>,
        need: Need,
    ) -> Glance {
        let state = self.meta.load();
        if state.founding.is_none() {
            return Glance::Sure(Err(Error::unavailable(Unavailable::Starting)));
        }
        if let Auth::Off = self.auth {
            return Glance::Sure(anybody(&state, project, need));
        }
        let Some(key) = credential.filter(|key| is_key(key.expose())) else {
            return Glance::Sure(Err(Error::Unauthenticated));
        };
        if self.meta_is_silent() {
            return Glance::Sure(Err(Error::unavailable(Unavailable::NoQuorum)));
        }
        let hash = hash_of(key.expose());
        match look_up(&state, &hash) {
            Known::Living(key) => Glance::Sure(admit(&state, key, project, need)),
            Known::Revoked => Glance::Sure(Err(Error::Unauthenticated)),
            Known::Unknown => Glance::Ask(hash),
        }
    }

    /// Lets a caller in, asking the meta leader if it must.
    pub(crate) async fn admit(
        &self,
        credential: Option<&Credential>,
        project: Option<&ProjectName>,
        need: Need,
    ) -> Result<Caller, Error> {
        match self.glance(credential, project, need) {
            Glance::Sure(Err(Error::NotFound(_))) if matches!(self.auth, Auth::Off) => {
                self.ensure_project(project).await?;
            }
            Glance::Sure(result) => return result,
            Glance::Ask(hash) => {
                if !self.ask_leader(hash).await? {
                    return Err(Error::Unauthenticated);
                }
            }
        }
        match self.glance(credential, project, need) {
            Glance::Sure(result) => result,
            Glance::Ask(_) => Err(Error::Unauthenticated),
        }
    }

    /// Whether the meta leader knows a hash; if it does, so does this node when this returns.
    async fn ask_leader(&self, hash: KeyHash) -> Result<bool, Error> {
        let refused = |core: &Core| {
            let refused = locked(&core.refused_keys);
            refused.get(&hash).is_some_and(|until| *until > Instant::now())
        };
        if refused(self) {
            return Ok(false);
        }
        // One question at a time; who waited may find it answered. Without a quorum each takes its
        // time, so waiting is bounded too.
        let deadline = Instant::now() + LOOKUP_TIMEOUT;
        let waiting = timeout_at(deadline, self.key_lookup.lock());
        let mut lookups = waiting.await.map_err(|_| Error::unavailable(Unavailable::Overloaded))?;
        if refused(self) {
            return Ok(false);
        }
        if !matches!(look_up(&self.meta.load(), &hash), Known::Unknown) {
            return Ok(true);
        }
        if !lookups.admits(Instant::now()) {
            return Err(Error::unavailable(Unavailable::Overloaded));
        }
        let deadline = Instant::now() + LOOKUP_TIMEOUT;
        match self.key_index(hash, deadline).await? {
            Some(index) => {
                self.meta_applied(index, deadline).await?;
                Ok(true)
            }
            None => {
                let mut refused = locked(&self.refused_keys);
                if refused.len() >= REFUSALS_MAX {
                    let now = Instant::now();
                    refused.retain(|_, until| *until > now);
                }
                if refused.len() >= REFUSALS_MAX {
                    refused.clear();
                }
                refused.insert(hash, Instant::now() + REFUSAL_KEPT);
                Ok(false)
            }
        }
    }

    /// With auth off a project is made when it is first named.
    async fn ensure_project(&self, named: Option<&ProjectName>) -> Result<(), Error> {
        let name = match named {
            Some(name) => name.clone(),
            None => default_project()?,
        };
        let command = MetaCommand::EnsureProject { name, at_ms: now_ms() };
        let deadline = Instant::now() + LOOKUP_TIMEOUT;
        // Boxed: a meta command may itself have to let a caller in.
        match Box::pin(self.meta_write(None, command, deadline)).await? {
            (MetaAnswer::Project(_), index) => self.meta_applied(index, deadline).await,
            (other, _) => Err(Error::Internal(format!("a project was not made: {other:?}"))),
        }
    }
}

fn default_project() -> Result<ProjectName, Error> {
    "default".parse().map_err(|_| Error::Internal("no default project".to_owned()))
}

/// With auth off everybody is root, in project `default` unless another is named.
fn anybody(state: &MetaState, named: Option<&ProjectName>, need: Need) -> Result<Caller, Error> {
    let project = match need {
        Need::Inspect | Need::Administer => None,
        Need::Read | Need::Write => {
            let name = named.cloned().map_or_else(default_project, Ok)?;
            let project = state.project(&name);
            let project =
                project.ok_or_else(|| Error::NotFound(format!("there is no project {name}")))?;
            Some((project.id, name))
        }
    };
    Ok(Caller { label: "anonymous".to_owned(), role: Role::Root, project })
}

impl Core {
    /// [`Core::admit`], with the key kept for the owner.
    pub(crate) async fn admission(
        &self,
        credential: Option<Credential>,
        project: Option<ProjectName>,
        need: Need,
    ) -> Result<Admission, Error> {
        let caller = self.admit(credential.as_ref(), project.as_ref(), need).await?;
        let credential = credential.filter(|_| matches!(self.auth, Auth::On { .. }));
        Ok(Admission { caller, credential })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_questions_a_second_and_not_one_more() {
        let begun = Instant::now();
        let mut lookups = Lookups::new(begun);
        let admitted =
            |lookups: &mut Lookups, now| (0..250).filter(|_| lookups.admits(now)).count();
        assert_eq!(admitted(&mut lookups, begun), 100);
        assert_eq!(admitted(&mut lookups, begun + Duration::from_millis(999)), 0);
        assert_eq!(admitted(&mut lookups, begun + Duration::from_secs(1)), 100);
        assert_eq!(admitted(&mut lookups, begun), 0, "a clock that reads older gives nothing");
    }
}
