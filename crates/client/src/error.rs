//! What is true when a call failed.

use std::fmt;

use serde_json::Value;
use stemedb_api::{Problem, Slug};

/// Most further items of a refused call that a refusal shows.
const ITEMS_SHOWN_MAX: usize = 3;

/// Why a call gave no answer, and what is true now.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// The server refused it: nothing was applied, and the same again gets the same.
    #[error("{0}")]
    Refused(Box<Refusal>),
    /// Nobody could take it, for as long as it was tried: not applied. Try again later.
    #[error("nobody took it (tries: {tries}), nothing was applied: {detail}")]
    Unavailable {
        /// What the last try met.
        detail: String,
        /// How often it was sent, or tried to be.
        tries: u32,
    },
    /// A write that may or may not have been applied: look before writing again.
    #[error("the write may or may not have been applied: {detail}")]
    Unknown {
        /// What happened to it.
        detail: String,
    },
    /// An answer came that is not this API's, as from a proxy or another program. A read has no
    /// result; a write gets this only with a status that says it was not applied.
    #[error("this is no answer of StemeDB: {detail}")]
    NotAnAnswer {
        /// What came instead.
        detail: String,
    },
    /// It was never sent: an address, a key or an argument can't be what it is.
    #[error("{0}")]
    Invalid(String),
}

impl Error {
    /// The slug of a refusal that has one this build knows.
    pub fn slug(&self) -> Option<Slug> {
        match self {
            Error::Refused(refusal) => refusal.problem.slug(),
            _ => None,
        }
    }

    /// Whether the server said that there is no such thing.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::Refused(refusal) if refusal.problem.status == 404)
    }
}

/// What the server said when it refused.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// The whole problem.
    pub problem: Problem,
}

impl fmt::Display for Refusal {
    /// One line for a person: what kind, what happened, which items, which request.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let problem = &self.problem;
        let kind = problem.slug().map_or(problem.title.as_str(), |slug| slug.as_str());
        write!(f, "{kind}: {}", problem.detail)?;
        let items = problem.extra.get("errors").and_then(Value::as_array);
        // The detail speaks of the first one already.
        for item in items.into_iter().flatten().skip(1).take(ITEMS_SHOWN_MAX) {
            if let (Some(index), Some(detail)) = (item.get("index"), item.get("detail")) {
                write!(f, "; item {index}: {}", detail.as_str().unwrap_or_default())?;
            }
        }
        if !problem.instance.is_empty() {
            write!(f, " ({})", problem.instance)?;
        }
        Ok(())
    }
}
