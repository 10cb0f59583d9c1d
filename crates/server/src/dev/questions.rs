//! From claims to three answers.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde_json::Value;
use stemedb_api::claims::QueryRow;
use stemedb_claims::InstantNs;

use crate::output::table;

/// Rows of an answer: a person reads them.
const ROWS_MAX: usize = 10;

/// When a claim holds from: what it says, else when it was made.
fn since(row: &QueryRow) -> (Option<InstantNs>, &str) {
    let text = row.valid_from.as_deref().unwrap_or(&row.asserted_at);
    (InstantNs::parse(text), text)
}

/// A test without what all of them begin with.
fn test_name(subject: &str) -> String {
    subject.strip_prefix("test:").unwrap_or(subject).to_owned()
}

/// Of every `result` ever claimed: the tests that failed, latest failure first, since when they
/// had been failing then, and since when they pass again.
pub(crate) fn failed_last(rows: &[QueryRow]) -> String {
    let mut histories: BTreeMap<&str, Vec<&QueryRow>> = BTreeMap::new();
    for row in rows {
        histories.entry(&row.subject).or_default().push(row);
    }
    let tests = histories.len();
    let mut failed: Vec<_> = histories.into_values().filter_map(History::of).collect();
    if failed.is_empty() {
        return format!("none of {tests} tests ever failed");
    }
    failed.sort_by_key(|history| Reverse(since(history.last)));
    let cells = failed.iter().take(ROWS_MAX).map(|history| {
        let passing = history.passing.map_or("still failing", |row| since(row).1);
        [
            test_name(&history.last.subject),
            since(history.last).1.to_owned(),
            since(history.first).1.to_owned(),
            passing.to_owned(),
        ]
    });
    let shown = table(["TEST", "LAST FAILED", "FAILING SINCE", "PASSES AGAIN SINCE"], cells);
    format!("{shown}\n\n{} of {tests} tests failed at some time", failed.len())
}

/// The last run of failures of one test.
struct History<'a> {
    first: &'a QueryRow,
    last: &'a QueryRow,
    passing: Option<&'a QueryRow>,
}

impl<'a> History<'a> {
    /// `None` for a test that never failed.
    fn of(mut rows: Vec<&'a QueryRow>) -> Option<Self> {
        // A skipped test says nothing.
        rows.retain(|row| row.object == "fail" || row.object == "pass");
        rows.sort_by(|a, b| (since(a), a.revision).cmp(&(since(b), b.revision)));
        let last_at = rows.iter().rposition(|row| row.object == "fail")?;
        let before = rows.get(..last_at).unwrap_or_default();
        let first_at = before.iter().rposition(|row| row.object == "pass").map_or(0, |at| at + 1);
        Some(Self {
            first: rows.get(first_at)?,
            last: rows.get(last_at)?,
            passing: rows.get(last_at + 1).copied(),
        })
    }
}

/// Of the latest `duration_seconds`: the slowest tests.
pub(crate) fn slowest(rows: &[QueryRow]) -> String {
    let timed = rows.iter().filter_map(|row| row.object.as_f64().map(|seconds| (seconds, row)));
    let mut timed: Vec<_> = timed.collect();
    timed.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.subject.cmp(&b.1.subject)));
    let total: f64 = timed.iter().map(|(seconds, _)| seconds).sum();
    let cells = timed.iter().take(ROWS_MAX);
    let cells = cells.map(|(seconds, row)| [test_name(&row.subject), format!("{seconds:.3}")]);
    let shown = table(["TEST", "SECONDS"], cells);
    format!("{shown}\n\n{} tests, {total:.3} s together", timed.len())
}

/// Of the latest `version` of each package URL: packages by name with all their versions, those
/// with several first.
pub(crate) fn packages(rows: &[QueryRow]) -> String {
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for row in rows {
        let name = row.subject.rsplit_once('@').map_or(row.subject.as_str(), |(name, _)| name);
        versions.entry(name).or_default().extend(Value::as_str(&row.object));
    }
    let mut packages: Vec<_> = versions.into_iter().collect();
    packages.sort_by_key(|(_, versions)| Reverse(versions.len()));
    let cells = packages.iter().take(ROWS_MAX);
    let cells = cells.map(|(name, versions)| [(*name).to_owned(), versions.join(", ")]);
    let shown = table(["PACKAGE", "VERSIONS"], cells);
    let left = packages.len().saturating_sub(ROWS_MAX);
    format!("{shown}\n\n{} packages ({left} not shown)", packages.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use stemedb_api::claims::Assurance;

    fn row(subject: &str, object: Value, valid_from: Option<&str>) -> QueryRow {
        QueryRow {
            id: String::new(),
            subject: subject.to_owned(),
            predicate: "p".to_owned(),
            object,
            confidence: 1.0,
            valid_from: valid_from.map(str::to_owned),
            valid_to: None,
            agents: vec!["key:l".to_owned()],
            assurance: Assurance::Key,
            source: None,
            refs: None,
            revision: 1,
            asserted_at: "2026-01-09T00:00:00Z".to_owned(),
        }
    }

    fn on(day: u8) -> String {
        format!("2026-01-{day:02}T00:00:00Z")
    }

    fn result(test: &str, object: &str, day: u8) -> QueryRow {
        row(&format!("test:{test}"), json!(object), Some(&on(day)))
    }

    /// The first line's cells, whatever the padding.
    fn cells(answer: &str, line: usize) -> Vec<&str> {
        answer
            .lines()
            .nth(line)
            .unwrap()
            .split("  ")
            .map(str::trim)
            .filter(|c| !c.is_empty())
            .collect()
    }

    #[test]
    fn failures_are_told_from_the_first_of_the_last_run_of_them() {
        let rows = [
            result("a", "pass", 4),
            result("a", "fail", 1),
            result("a", "fail", 3),
            result("a", "skip", 5),
            result("b", "fail", 7),
            result("b", "fail", 6),
            result("b", "pass", 5),
            result("b", "fail", 2),
            result("c", "pass", 1),
        ];
        let answer = failed_last(&rows);
        assert_eq!(cells(&answer, 1), ["b", &on(7), &on(6), "still failing"]);
        assert_eq!(cells(&answer, 2), ["a", &on(3), &on(1), &on(4)]);
        assert!(answer.ends_with("2 of 3 tests failed at some time"), "{answer}");
        assert_eq!(failed_last(&rows[8..]), "none of 1 tests ever failed");
    }

    #[test]
    fn the_slowest_test_comes_first_and_only_ten_are_shown() {
        let rows: Vec<_> =
            (0..12).map(|n| row(&format!("test:t{n}"), json!(f64::from(n) / 4.0), None)).collect();
        let answer = slowest(&rows);
        assert_eq!(cells(&answer, 1), ["t11", "2.750"]);
        assert_eq!(answer.lines().count(), 1 + ROWS_MAX + 2);
        assert!(answer.ends_with("12 tests, 16.500 s together"), "{answer}");
    }

    #[test]
    fn versions_of_one_package_stand_together() {
        let rows = [
            row("pkg:cargo/a@1.0", json!("1.0"), None),
            row("pkg:cargo/b@1.0", json!("1.0"), None),
            row("pkg:cargo/b@2.0", json!("2.0"), None),
        ];
        let answer = packages(&rows);
        assert_eq!(cells(&answer, 1), ["pkg:cargo/b", "1.0, 2.0"]);
        assert_eq!(cells(&answer, 2), ["pkg:cargo/a", "1.0"]);
        assert!(answer.ends_with("2 packages (0 not shown)"), "{answer}");
    }
}
