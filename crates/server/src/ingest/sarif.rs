//! SARIF 2.1.0: findings of static analysis.
//!
//! A finding is a rule and a place. `level` is the result's own, else
//! `warning`, which is SARIF's default. A result that its tool marks as
//! suppressed, or as `pass` and the like, is no finding.

use serde::Deserialize;
use serde_json::{Value, json};

use super::fact::{Fact, excerpt};
use super::json::{self as json_report, Name};
use super::{Broken, Report, fact};

#[derive(Deserialize)]
struct Log {
    #[allow(dead_code)] // Read only to be there: it tells SARIF from other JSON.
    version: Version,
    runs: Vec<Run>,
}

#[derive(Deserialize)]
enum Version {
    #[serde(rename = "2.1.0")]
    V2_1_0,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Run {
    tool: Tool,
    #[serde(default)]
    results: Option<Vec<Finding>>,
    #[serde(default)]
    invocations: Vec<Invocation>,
}

#[derive(Deserialize)]
struct Tool {
    driver: Driver,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Driver {
    name: Name,
    version: Option<String>,
    semantic_version: Option<String>,
    #[serde(default)]
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
struct Rule {
    id: Name,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Invocation {
    end_time_utc: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Finding {
    rule_id: Option<Name>,
    rule_index: Option<usize>,
    rule: Option<RuleReference>,
    level: Option<Level>,
    kind: Option<String>,
    message: Message,
    #[serde(default)]
    locations: Vec<Location>,
    #[serde(default)]
    suppressions: Vec<Value>,
}

#[derive(Deserialize)]
struct RuleReference {
    id: Option<Name>,
    index: Option<usize>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    None,
    Note,
    Warning,
    Error,
}

#[derive(Deserialize)]
struct Message {
    text: Option<String>,
    markdown: Option<String>,
    id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Location {
    physical_location: Option<PhysicalLocation>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PhysicalLocation {
    artifact_location: Option<Artifact>,
    region: Option<Region>,
}

#[derive(Deserialize)]
struct Artifact {
    uri: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Region {
    start_line: Option<u64>,
    start_column: Option<u64>,
}

pub(super) fn read(bytes: &[u8]) -> Result<Report, Broken> {
    let log: Log = json_report::read(bytes)?;
    let tool = log.runs.first().map(|run| run.tool.driver.title());
    let facts = log.runs.iter().flat_map(Run::facts).collect();
    Ok(Report { tool, facts })
}

impl Driver {
    fn title(&self) -> String {
        match self.semantic_version.as_ref().or(self.version.as_ref()) {
            Some(version) => format!("{} {version}", self.name.0),
            None => self.name.0.clone(),
        }
    }
}

impl Run {
    fn facts(&self) -> Vec<Fact> {
        let at = self.invocations.iter().find_map(|run| run.end_time_utc.as_deref());
        let at = at.and_then(fact::instant);
        let results = self.results.iter().flatten().filter(|finding| finding.counts());
        results.flat_map(|finding| self.facts_of(finding, at.as_ref())).collect()
    }

    fn facts_of(&self, finding: &Finding, at: Option<&String>) -> [Fact; 2] {
        let rule = self.rule_of(finding).unwrap_or(&self.tool.driver.name.0);
        let place = finding.locations.iter().find_map(|l| l.physical_location.as_ref());
        let place = place.map(PhysicalLocation::name).unwrap_or_default();
        let fact = |predicate, object| Fact {
            subject: subject(rule, &place),
            predicate,
            object,
            valid_from: at.cloned(),
            // The parser checked everything already; what it passed has no line any more.
            line: 1,
        };
        [
            fact("level", json!(finding.level_name())),
            fact("message", json!(excerpt(finding.message.best()))),
        ]
    }

    fn rule_of<'a>(&'a self, finding: &'a Finding) -> Option<&'a str> {
        let reference = finding.rule.as_ref();
        let id = finding.rule_id.as_ref().or_else(|| reference.and_then(|r| r.id.as_ref()));
        let index = finding.rule_index.or_else(|| reference.and_then(|r| r.index));
        let listed = || index.and_then(|i| self.tool.driver.rules.get(i)).map(|rule| &rule.id);
        id.or_else(listed).map(|name| name.0.as_str())
    }
}

impl Finding {
    fn counts(&self) -> bool {
        let fails = self.kind.as_deref().is_none_or(|kind| kind == "fail");
        fails && self.suppressions.is_empty()
    }

    fn level_name(&self) -> &'static str {
        match self.level {
            Some(Level::None) => "none",
            Some(Level::Note) => "note",
            Some(Level::Warning) | None => "warning",
            Some(Level::Error) => "error",
        }
    }
}

impl Message {
    fn best(&self) -> &str {
        let texts = [&self.text, &self.markdown, &self.id];
        texts.into_iter().flatten().map(String::as_str).next().unwrap_or_default()
    }
}

impl PhysicalLocation {
    /// As much of `file:line:column` as is there.
    fn name(&self) -> String {
        let file = self.artifact_location.as_ref().and_then(|a| a.uri.as_deref());
        let line = self.region.as_ref().and_then(|r| r.start_line);
        let column = self.region.as_ref().and_then(|r| r.start_column).filter(|_| line.is_some());
        let numbers = line.into_iter().chain(column).map(|number| format!(":{number}"));
        file.unwrap_or_default().to_owned() + &numbers.collect::<String>()
    }
}

/// `finding:<rule>@<place>`, or the rule alone where a finding has no place.
pub(super) fn subject(rule: &str, place: &str) -> String {
    let at = if place.is_empty() { "" } else { "@" };
    fact::fit(&format!("finding:{rule}{at}{place}"))
}
