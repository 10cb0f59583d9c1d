//! From many claims to an answer.
//!
//! A lens looks at the claims of one (subject, predicate) and says which of
//! them are the answer. It is a pure function of the claims as a *set*: it
//! ranks them by a total order that ends in the id, so two replicas that read
//! the same claims in different orders give the same answer.
//!
//! ```text
//! claims ─► keep those valid then ─► rank, newest first ─► the lens takes the first n
//! ```
//!
//! A new lens is a variant that carries its own parameters (a table of trust,
//! an order of agents), a name in [`Lens::from_str`], and an arm in
//! [`Lens::resolve`] that ranks and takes; the rest stays as it is.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use crate::claim::Claim;
use crate::instant::InstantNs;

/// A lens of another name than those there are. Another name may be tried.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no lens of this name; the lenses are `all` and `latest`")]
pub struct UnknownLens;

/// How the claims of one (subject, predicate) become an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Lens {
    /// Every claim, newest first. Claims that hold no longer or not yet are among them, unless
    /// the question names an instant.
    All,
    /// Of the claims valid at the instant asked about (now, if the question names none), the one
    /// with the greatest `valid_from`, else the leader's stamp of the write; then the greatest
    /// revision; then the greatest id.
    #[default]
    Latest,
}

/// When a question is asked, and about when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The asker's present.
    pub now: InstantNs,
    /// The instant asked about, if the question names one.
    pub valid_at: Option<InstantNs>,
}

/// What a lens made of the claims: all that were in the running, ranked, answers first.
#[derive(Clone, Debug)]
pub struct Resolution<'a> {
    ranked: Vec<&'a Claim>,
    answers: usize,
}

/// What put one claim before another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It holds from a later instant.
    EffectiveFrom,
    /// They hold from the same instant, and it was made at a later revision.
    Revision,
    /// They were made in one call, and its id is greater.
    Id,
}

impl Lens {
    /// Resolves the claims of one (subject, predicate), each id given once and in any order.
    pub fn resolve<'a>(
        self,
        claims: impl IntoIterator<Item = &'a Claim>,
        asked: Asked,
    ) -> Resolution<'a> {
        match self {
            Lens::All => {
                let ranked = rank(claims, asked.valid_at);
                Resolution { answers: ranked.len(), ranked }
            }
            Lens::Latest => {
                let ranked = rank(claims, asked.valid_at.or(Some(asked.now)));
                Resolution { answers: ranked.len().min(1), ranked }
            }
        }
    }

    /// The name in a query.
    pub fn as_str(self) -> &'static str {
        match self {
            Lens::All => "all",
            Lens::Latest => "latest",
        }
    }
}

impl FromStr for Lens {
    type Err = UnknownLens;

    fn from_str(name: &str) -> Result<Self, UnknownLens> {
        match name {
            "all" => Ok(Lens::All),
            "latest" => Ok(Lens::Latest),
            _ => Err(UnknownLens),
        }
    }
}

impl fmt::Display for Lens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl<'a> Resolution<'a> {
    /// The claims that are the answer, best first.
    pub fn answers(&self) -> &[&'a Claim] {
        self.ranked.get(..self.answers).unwrap_or_default()
    }

    /// The claims that were in the running and lost, best first.
    pub fn contenders(&self) -> &[&'a Claim] {
        self.ranked.get(self.answers..).unwrap_or_default()
    }
}

impl Decision {
    /// What tells two claims of different ids apart, whichever of them is newer.
    pub fn between(a: &Claim, b: &Claim) -> Self {
        if a.effective_from() != b.effective_from() {
            Decision::EffectiveFrom
        } else if a.newest().revision != b.newest().revision {
            Decision::Revision
        } else {
            Decision::Id
        }
    }

    /// A clause that completes "it won because …".
    pub fn as_str(self) -> &'static str {
        match self {
            Decision::EffectiveFrom => "it holds from a later instant",
            Decision::Revision => "it was made at a later revision",
            Decision::Id => "its id is greater, all else being equal",
        }
    }
}

/// The claims valid at the instant, if there is one, newest first.
fn rank<'a>(
    claims: impl IntoIterator<Item = &'a Claim>,
    valid_at: Option<InstantNs>,
) -> Vec<&'a Claim> {
    let counts = |claim: &&Claim| valid_at.is_none_or(|at| claim.statement().is_valid_at(at));
    let mut ranked: Vec<_> = claims.into_iter().filter(counts).collect();
    ranked.sort_unstable_by(|a, b| by_age(a, b).reverse());
    ranked
}

/// Older first; equal only for equal ids.
fn by_age(a: &Claim, b: &Claim) -> Ordering {
    let key =
        |claim: &Claim| (claim.effective_from(), claim.newest().revision, claim.statement().id());
    key(a).cmp(&key(b))
}

#[cfg(test)]
#[path = "lens_tests.rs"]
mod tests;
