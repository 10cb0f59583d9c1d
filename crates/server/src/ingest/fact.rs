//! Facts, and the statements made of them.

use std::collections::HashSet;

use serde_json::Value;
use sha2::{Digest, Sha256};
use stemedb_api::claims::{Source, Statement};
use stemedb_claims::InstantNs;
use stemedb_types::limits::TERM_BYTES_MAX;

use super::{Broken, Report};

/// Longest text of an object, in bytes: a failure's first page, not its whole log.
pub(super) const TEXT_BYTES_MAX: usize = 4 * 1024;
/// What a text that was cut ends with.
const CUT: &str = "…";
/// Hex digits of the hash that keeps two cut subjects apart.
const CUT_HASH_DIGITS: usize = 16;

/// One thing a report says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Fact {
    /// What it is about.
    pub(crate) subject: String,
    /// What is said of it.
    pub(crate) predicate: &'static str,
    /// The saying itself.
    pub(crate) object: Value,
    /// Since when, RFC 3339; `None` where the report gives no time.
    pub(crate) valid_from: Option<String>,
    /// Where in the report it stands.
    pub(crate) line: usize,
}

/// Where a report comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    /// The report's file, as people of the project would name it.
    pub(crate) file: String,
    /// The commit the report is about, if it is known.
    pub(crate) commit: Option<String>,
}

impl Origin {
    /// `git:<commit>#<file>`, or `file:<file>` where no commit is known.
    pub(crate) fn uri(&self) -> String {
        fit(&match &self.commit {
            Some(commit) => format!("git:{commit}#{}", self.file),
            None => format!("file:{}", self.file),
        })
    }
}

/// The statements of a report.
///
/// Each is checked here as the server will check it, so that a refusal names a line of the report
/// and comes before anything was sent.
pub(crate) fn statements(
    report: &Report,
    origin: &Origin,
    bytes: &[u8],
) -> Result<Vec<Statement>, Broken> {
    let source = Source {
        uri: Some(origin.uri()),
        digest: Some(format!("sha256:{}", hex::encode(Sha256::digest(bytes)))),
        tool: report.tool.as_deref().map(fit),
    };
    report.facts.iter().map(|fact| statement(fact, &source)).collect()
}

fn statement(fact: &Fact, source: &Source) -> Result<Statement, Broken> {
    let statement = Statement {
        subject: fact.subject.clone(),
        predicate: fact.predicate.to_owned(),
        object: fact.object.clone(),
        valid_from: fact.valid_from.clone(),
        source: Some(source.clone()),
        ..Statement::default()
    };
    let broken = |reason: String| Broken::new(fact.line, reason);
    let value = serde_json::to_value(&statement).map_err(|error| broken(error.to_string()))?;
    stemedb_claims::Statement::from_value(value).map_err(|refusal| broken(refusal.to_string()))?;
    Ok(statement)
}

/// Drops what was said before of the same subject and predicate: cargo reports one finding for a
/// crate and again for its tests.
pub(super) fn keep_first(facts: &mut Vec<Fact>) {
    let mut seen = HashSet::new();
    facts.retain(|fact| seen.insert((fact.subject.clone(), fact.predicate)));
}

/// `text`, if it is short enough for an index key; else its beginning and a hash of the whole, so
/// that two long names stay two.
pub(super) fn fit(text: &str) -> String {
    if text.len() <= TERM_BYTES_MAX {
        return text.to_owned();
    }
    let hash = hex::encode(Sha256::digest(text.as_bytes()));
    let hash = hash.get(..CUT_HASH_DIGITS).unwrap_or(&hash);
    let room_bytes = TERM_BYTES_MAX - CUT.len() - CUT_HASH_DIGITS;
    format!("{}{CUT}{hash}", prefix(text, room_bytes))
}

/// `text`, or as much of it as an object should hold.
pub(super) fn excerpt(text: &str) -> String {
    let text = text.trim();
    if text.len() <= TEXT_BYTES_MAX {
        return text.to_owned();
    }
    format!("{}{CUT}", prefix(text, TEXT_BYTES_MAX - CUT.len()))
}

/// The longest beginning of whole characters within `bytes_max`.
fn prefix(text: &str, bytes_max: usize) -> &str {
    text.get(..text.floor_char_boundary(bytes_max)).unwrap_or(text)
}

/// A report's time as RFC 3339. Many tools leave the zone out, and then UTC is meant as often as
/// not: it is read as UTC. Anything else is no time, and the server's stamp will order the claim.
pub(super) fn instant(text: &str) -> Option<String> {
    let candidates = [text.to_owned(), format!("{text}Z")];
    candidates.into_iter().find(|text| InstantNs::parse(text).is_some())
}

/// The line of a byte, counted from 1.
pub(super) fn line_of(bytes: &[u8], offset: usize) -> usize {
    let before = bytes.get(..offset).unwrap_or(bytes);
    before.iter().filter(|b| **b == b'\n').count() + 1
}
