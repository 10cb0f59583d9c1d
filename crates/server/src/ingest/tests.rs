//! Reports as tools write them, and reports cut, bent and mistaken for others.

use serde_json::{Value, json};
use stemedb_types::limits::TERM_BYTES_MAX;

use super::fact::TEXT_BYTES_MAX;
use super::*;

/// What a report says, without the lines.
fn said(format: Format, text: &str) -> Vec<(String, &'static str, Value, Option<String>)> {
    let report = read(format, text.as_bytes()).unwrap();
    let told = |fact: Fact| (fact.subject, fact.predicate, fact.object, fact.valid_from);
    report.facts.into_iter().map(told).collect()
}

/// Objects by subject for one predicate.
fn objects(format: Format, text: &str, predicate: &str) -> Vec<(String, Value)> {
    let all = said(format, text).into_iter();
    all.filter(|row| row.1 == predicate).map(|row| (row.0, row.2)).collect()
}

fn refusal(format: Format, text: &str) -> String {
    read(format, text.as_bytes()).unwrap_err().to_string()
}

const PYTEST: &str = r#"<?xml version="1.0" encoding="utf-8"?>
<testsuites name="pytest tests">
  <testsuite name="pytest" errors="0" failures="1" tests="3" timestamp="2026-03-01T10:00:00.123456">
    <testcase classname="tests.test_io" name="test_reads[a&amp;b]" time="0.010"/>
    <testcase classname="tests.test_io" name="test_writes" time="1,200.5">
      <failure message="assert 1 == 2">def test_writes():
&gt;       assert 1 == 2</failure>
    </testcase>
    <testcase classname="tests.test_io" name="test_later" time="0">
      <skipped type="pytest.skip" message="no disk">later</skipped>
    </testcase>
  </testsuite>
</testsuites>"#;

#[test]
fn junit_of_pytest_gives_results_durations_and_the_failure() {
    let at = || Some("2026-03-01T10:00:00.123456Z".to_owned());
    let case = |name: &str| format!("test:pytest/tests.test_io/{name}");
    assert_eq!(
        said(Format::Junit, PYTEST),
        [
            (case("test_reads[a&b]"), "result", json!("pass"), at()),
            (case("test_reads[a&b]"), "duration_seconds", json!(0.01), at()),
            (case("test_writes"), "result", json!("fail"), at()),
            (case("test_writes"), "duration_seconds", json!(1200.5), at()),
            (case("test_writes"), "failure", json!("assert 1 == 2"), at()),
            (case("test_later"), "result", json!("skip"), at()),
            (case("test_later"), "duration_seconds", json!(0.0), at()),
        ]
    );
}

#[test]
fn a_case_under_one_name_twice_is_one_fact_and_the_failure_wins() {
    let text = r#"<testsuite name="s">
      <testcase name="t" time="1"><error>it broke &lt;here&gt;<![CDATA[ & there]]></error></testcase>
      <testcase name="t" time="2"/>
      <testcase name="u" time="3"/><testcase name="u" time="4"><failure/></testcase>
    </testsuite>"#;
    let pass_or_fail = objects(Format::Junit, text, "result");
    let both = ["test:s/t", "test:s/u"].map(|name| (name.to_owned(), json!("fail")));
    assert_eq!(pass_or_fail, both);
    let failures = objects(Format::Junit, text, "failure");
    assert_eq!(failures, [("test:s/t".to_owned(), json!("it broke <here> & there"))]);
}

#[test]
fn the_committed_reports_read_and_every_statement_of_them_is_sound() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/reports");
    let origin = Origin { file: "f".into(), commit: None };
    for (format, file, tool, least) in [
        (Format::Junit, "junit-fault.xml", "cargo-nextest", 100),
        (Format::Junit, "junit.xml", "cargo-nextest", 100),
        (Format::Clippy, "clippy.jsonl", "clippy", 2),
        (Format::Packages, "packages.json", "cargo-metadata", 100),
    ] {
        let bytes = std::fs::read(format!("{folder}/{file}")).unwrap();
        let report = read(format, &bytes).unwrap();
        assert_eq!(report.tool.as_deref(), Some(tool), "{file}");
        let statements = statements(&report, &origin, &bytes).unwrap();
        assert!(statements.len() >= least, "{file} has {}", statements.len());
    }
}

#[test]
fn a_junit_report_that_is_cut_or_bent_names_the_line() {
    let suite = |inside: &str| format!("<testsuite name=\"s\">\n{inside}\n</testsuite>");
    let wrong_root = "a JUnit report begins with <testsuites>, not with <html>";
    for (text, wanted) in [
        (String::new(), "line 1: there is no <testsuites> in this file"),
        ("<html></html>".into(), &format!("line 1: {wrong_root}")),
        (
            PYTEST[..PYTEST.len() - 40].into(),
            "line 11: the report ends inside the <testcase> that line 9 opens",
        ),
        (suite("<testcase time=\"1\"/>"), "line 2: a <testcase> has no name"),
        (suite("\n<testcase name=\"\"/>"), "line 3: a <testcase> has no name"),
        (
            suite("<testcase name=\"t\" time=\"soon\"/>"),
            "line 2: time=\"soon\" is no number of seconds",
        ),
        (
            suite("<testcase name=\"t\" time=\"-1\"/>"),
            "line 2: time=\"-1\" is no number of seconds",
        ),
        (
            suite("<testcase name=\"t\">\n<testcase name=\"u\"/></testcase>"),
            "line 3: a <testcase> stands inside another",
        ),
        (
            suite("<testcase name=\"t\"><failure>&boom;</failure></testcase>"),
            "line 2: the entity &boom; is not defined",
        ),
        (suite("") + " and more", "line 3: text stands outside of the report"),
        (suite("") + "<testsuite/>", "line 3: <testsuite> stands behind the end of the report"),
    ] {
        assert_eq!(refusal(Format::Junit, &text), wanted, "{text}");
    }
    // The words of these are the XML parser's.
    assert!(refusal(Format::Junit, "<testsuite>\n<a></b></testsuite>").starts_with("line 2: "));
    assert!(refusal(Format::Junit, &suite("<testcase name=t/>")).starts_with("line 2: "));
    assert_eq!(read(Format::Junit, b"<a>\n\xff").unwrap_err(), Broken::new(2, "this is not UTF-8"));
    let deep = "<testsuite>".repeat(65);
    assert!(refusal(Format::Junit, &deep).contains("nested more than 64 deep"));
}

const SARIF: &str = r#"{
  "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
  "version": "2.1.0",
  "runs": [{
    "tool": {"driver": {"name": "Lint", "semanticVersion": "1.2.0", "rules": [{"id": "L1"}]}},
    "invocations": [{"executionSuccessful": true, "endTimeUtc": "2026-03-01T10:00:00Z"}],
    "results": [
      {"ruleId": "L2", "level": "error", "message": {"text": "bad"}, "locations": [
        {"physicalLocation": {"artifactLocation": {"uri": "src/a.rs"},
         "region": {"startLine": 7, "startColumn": 3}}}]},
      {"ruleIndex": 0, "message": {"markdown": "*odd*"}},
      {"ruleId": "L3", "kind": "pass", "message": {"text": "fine"}},
      {"ruleId": "L4", "message": {"text": "known"}, "suppressions": [{"kind": "inSource"}]}
    ]
  }]
}"#;

#[test]
fn sarif_gives_rule_and_place_with_level_and_message() {
    let at = || Some("2026-03-01T10:00:00Z".to_owned());
    assert_eq!(
        said(Format::Sarif, SARIF),
        [
            ("finding:L2@src/a.rs:7:3".to_owned(), "level", json!("error"), at()),
            ("finding:L2@src/a.rs:7:3".to_owned(), "message", json!("bad"), at()),
            ("finding:L1".to_owned(), "level", json!("warning"), at()),
            ("finding:L1".to_owned(), "message", json!("*odd*"), at()),
        ]
    );
    assert_eq!(read(Format::Sarif, SARIF.as_bytes()).unwrap().tool.as_deref(), Some("Lint 1.2.0"));
}

const CLIPPY: &str = r#"{"reason":"compiler-artifact","package_id":"x"}
{"reason":"compiler-message","message":{"message":"unused `x`","level":"warning","code":{"code":"clippy::unused"},"spans":[{"file_name":"src/b.rs","line_start":1,"column_start":1,"is_primary":false},{"file_name":"src/a.rs","line_start":9,"column_start":5,"is_primary":true}]}}
{"reason":"compiler-message","message":{"message":"unused `x`","level":"warning","code":{"code":"clippy::unused"},"spans":[{"file_name":"src/a.rs","line_start":9,"column_start":5,"is_primary":true}]}}
{"reason":"compiler-message","message":{"message":"1 warning emitted","level":"warning","code":null,"spans":[]}}
{"reason":"build-finished","success":true}
"#;

#[test]
fn clippy_gives_each_finding_once_at_its_primary_span() {
    let subject = || "finding:clippy::unused@src/a.rs:9:5".to_owned();
    assert_eq!(
        said(Format::Clippy, CLIPPY),
        [
            (subject(), "level", json!("warning"), None),
            (subject(), "message", json!("unused `x`"), None),
        ]
    );
}

const CYCLONEDX: &str = r#"{
  "bomFormat": "CycloneDX", "specVersion": "1.5",
  "metadata": {"timestamp": "2026-03-01T10:00:00Z",
    "tools": {"components": [{"type": "application", "name": "syft", "version": "1.0"}]}},
  "components": [
    {"type": "library", "name": "a", "version": "1.0", "purl": "pkg:npm/a@1.0",
     "licenses": [{"license": {"id": "MIT"}}, {"license": {"name": "Own"}}],
     "components": [{"type": "library", "name": "b c", "version": "2+x"}]},
    {"type": "file", "name": "d"}
  ]
}"#;

#[test]
fn cyclonedx_gives_versions_and_licences_by_package_url() {
    let at = || Some("2026-03-01T10:00:00Z".to_owned());
    assert_eq!(
        said(Format::Cyclonedx, CYCLONEDX),
        [
            ("pkg:npm/a@1.0".to_owned(), "version", json!("1.0"), at()),
            ("pkg:npm/a@1.0".to_owned(), "license", json!("MIT AND Own"), at()),
            ("pkg:generic/b%20c@2%2Bx".to_owned(), "version", json!("2+x"), at()),
        ]
    );
    let older = CYCLONEDX.replace("{\"components\": [{\"type\"", "[{\"type\"");
    let older = older.replace("\"1.0\"}]}}", "\"1.0\"}]}");
    let tool = read(Format::Cyclonedx, older.as_bytes()).unwrap().tool;
    assert_eq!(tool.as_deref(), Some("syft 1.0"));
}

#[test]
fn two_versions_of_one_package_are_two_subjects() {
    let text = r#"{"packages": [
        {"name": "rand", "version": "0.9.0", "license": "MIT", "id": "ignored"},
        {"name": "rand", "version": "0.10.3", "license": null}]}"#;
    let both = [
        ("pkg:cargo/rand@0.9.0".to_owned(), json!("0.9.0")),
        ("pkg:cargo/rand@0.10.3".to_owned(), json!("0.10.3")),
    ];
    assert_eq!(objects(Format::Packages, text, "version"), both);
}

#[test]
fn a_json_report_that_is_cut_or_bent_names_the_line() {
    let no_reason = format!("{CLIPPY}{{\"a\":1}}\n");
    let no_message = "{\"reason\":\"build-finished\"}\n{\"reason\":\"compiler-message\"}";
    for (format, text, wanted) in [
        (Format::Sarif, SARIF.replace("\"L1\"", "\" \""), "line 5: a name is empty"),
        (
            Format::Sarif,
            SARIF.replace("2.1.0\",", "2.0.0\","),
            "line 3: unknown variant `2.0.0`, expected `2.1.0`",
        ),
        (
            Format::Sarif,
            SARIF.replace("\"error\"", "\"awful\""),
            "line 8: unknown variant `awful`, expected one of `none`, `note`, `warning`, `error`",
        ),
        (Format::Sarif, SARIF[..342].into(), "line 8: EOF while parsing a value"),
        (Format::Clippy, no_reason, "line 6: missing field `reason`"),
        (Format::Clippy, format!("{CLIPPY}error: oops\n"), "line 6: expected value"),
        (Format::Clippy, no_message.into(), "line 2: a compiler-message has no message"),
        (Format::Clippy, "\n".into(), "line 1: the file is empty; cargo writes at least one line"),
        (
            Format::Cyclonedx,
            CYCLONEDX.replace("CycloneDX", "SPDX"),
            "line 2: unknown variant `SPDX`, expected `CycloneDX`",
        ),
        (
            Format::Cyclonedx,
            CYCLONEDX.replace("\"name\": \"d\"", "\"x\": 1"),
            "line 9: missing field `name`",
        ),
        (Format::Packages, "{}".into(), "line 1: missing field `packages`"),
        (
            Format::Packages,
            "{\"packages\": [\n{\"name\": \"a\"}]}".into(),
            "line 2: missing field `version`",
        ),
        (Format::Packages, "<xml/>".into(), "line 1: expected value"),
    ] {
        assert_eq!(refusal(format, &text), wanted, "{format:?}");
    }
}

#[test]
fn no_cut_of_a_report_is_taken_for_a_whole_one_and_none_panics() {
    for (format, text) in [
        (Format::Junit, PYTEST),
        (Format::Sarif, SARIF),
        (Format::Cyclonedx, CYCLONEDX),
        (Format::Packages, "{\"packages\": [{\"name\": \"a\", \"version\": \"1\"}]}"),
    ] {
        for end in 0..text.len() {
            assert!(read(format, &text.as_bytes()[..end]).is_err(), "{format:?} cut at {end}");
        }
    }
}

#[test]
fn long_names_and_failures_are_cut_to_what_a_statement_holds_and_stay_apart() {
    let case = |end: &str| {
        format!(
            "<testcase name=\"{}{end}\"><failure>{}</failure></testcase>",
            "é".repeat(600),
            "ü".repeat(5000)
        )
    };
    let text = format!("<testsuite>{}{}</testsuite>", case("1"), case("2"));
    let report = read(Format::Junit, text.as_bytes()).unwrap();
    let origin = Origin { file: "x".repeat(2000), commit: Some("c0ffee".into()) };
    let statements = statements(&report, &origin, text.as_bytes()).unwrap();
    let subjects: std::collections::HashSet<_> = statements.iter().map(|s| &s.subject).collect();
    assert_eq!(subjects.len(), 2);
    assert!(subjects.iter().all(|s| s.len() <= TERM_BYTES_MAX && s.len() > TERM_BYTES_MAX - 8));
    let failure = statements.iter().find(|s| s.predicate == "failure").unwrap();
    assert!(failure.object.as_str().unwrap().len() <= TEXT_BYTES_MAX);
}

#[test]
fn a_statement_carries_commit_file_digest_and_tool() {
    let text = b"{\"packages\": [{\"name\": \"a\", \"version\": \"1\"}]}";
    let report = read(Format::Packages, text).unwrap();
    let origin = Origin { file: "packages.json".into(), commit: Some("c0ffee".into()) };
    let [statement] = statements(&report, &origin, text).unwrap().try_into().unwrap();
    assert_eq!(
        serde_json::to_value(statement).unwrap(),
        json!({
            "subject": "pkg:cargo/a@1",
            "predicate": "version",
            "object": "1",
            "source": {
                "uri": "git:c0ffee#packages.json",
                "digest": "sha256:24b34fbe8c923bd0ba1a8764111c67b485c89b3921405a59a2c512fe78661ffb",
                "tool": "cargo-metadata",
            },
        })
    );
    assert_eq!(Origin { commit: None, ..origin }.uri(), "file:packages.json");
}
