//! How a process ends: 0 ok, 1 error, 2 usage, 3 not found, 4 unavailable, 5 conflict, 74 the
//! disk failed.

use std::fmt;

use stemedb_api::Slug;
use stemedb_client::Error;

use crate::settings::Refused;

/// It did not work, and trying again does not help.
pub(crate) const ERROR: u8 = 1;
/// The command or a setting can't be read.
pub(crate) const USAGE: u8 = 2;
/// There is no such thing.
pub(crate) const NOT_FOUND: u8 = 3;
/// Nobody answered in time: try again later. After a write, the line says whether it may stand.
pub(crate) const UNAVAILABLE: u8 = 4;
/// It stands already, or is not as the condition wants it.
pub(crate) const CONFLICT: u8 = 5;
/// The disk failed (`EX_IOERR`): the supervisor should start the node again.
pub(crate) const DISK: u8 = 74;

/// Why a command did not do what it should, in one line, and the code it ends with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    /// Empty if everything was said before.
    pub(crate) line: String,
}

impl Failure {
    pub(crate) fn new(code: u8, line: impl Into<String>) -> Self {
        Self { code, line: line.into() }
    }

    /// An error that says nothing about its kind.
    pub(crate) fn error(line: impl fmt::Display) -> Self {
        Self::new(ERROR, line.to_string())
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        Self::new(refused.code, refused.line)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::Refused(refusal) => match refusal.problem.slug() {
                Some(Slug::AlreadyExists | Slug::PreconditionFailed) => CONFLICT,
                Some(Slug::NotFound) => NOT_FOUND,
                Some(Slug::RateLimited | Slug::NotOwner) => UNAVAILABLE,
                _ => ERROR,
            },
            Error::Unavailable { .. } | Error::Unknown { .. } => UNAVAILABLE,
            Error::NotAnAnswer { .. } => ERROR,
            Error::Invalid(_) => USAGE,
        };
        Self::new(code, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stemedb_api::Problem;
    use stemedb_client::Refusal;

    #[test]
    fn every_way_to_fail_has_its_exit_code() {
        let refused =
            |slug| Error::Refused(Box::new(Refusal { problem: Problem::new(slug, "because") }));
        let detail = || "d".to_owned();
        for (error, code) in [
            (refused(Slug::NotFound), 3),
            (refused(Slug::AlreadyExists), 5),
            (refused(Slug::PreconditionFailed), 5),
            (refused(Slug::Unauthenticated), 1),
            (refused(Slug::InvalidStatement), 1),
            (refused(Slug::RateLimited), 4),
            (Error::Unavailable { detail: detail(), tries: 4 }, 4),
            (Error::Unknown { detail: detail() }, 4),
            (Error::NotAnAnswer { detail: detail() }, 1),
            (Error::Invalid(detail()), 2),
        ] {
            let failure = Failure::from(error.clone());
            assert_eq!((failure.code, failure.line), (code, error.to_string()));
        }
    }
}
