//! The lines of `cargo clippy --message-format=json`: lints and where they strike.
//!
//! Each line is one JSON object with a `reason`. Of these only
//! `compiler-message` holds a finding, and only if its message has a code (the
//! closing "3 warnings emitted" has none). The place is the primary span;
//! inside a macro that is the macro's call, where cargo points people to.
//! These lines carry no time.

use serde::Deserialize;
use serde_json::json;

use super::fact::{Fact, excerpt};
use super::sarif::subject;
use super::{Broken, Report, json as json_report};

#[derive(Deserialize)]
struct Line {
    reason: String,
    message: Option<Message>,
}

#[derive(Deserialize)]
struct Message {
    message: String,
    level: String,
    code: Option<Code>,
    #[serde(default)]
    spans: Vec<Span>,
}

#[derive(Deserialize)]
struct Code {
    code: String,
}

#[derive(Deserialize)]
struct Span {
    file_name: String,
    line_start: u64,
    column_start: u64,
    is_primary: bool,
}

pub(super) fn read(bytes: &[u8]) -> Result<Report, Broken> {
    let mut report = Report { tool: Some("clippy".to_owned()), facts: Vec::new() };
    let mut lines = 0;
    for (index, text) in bytes.split(|b| *b == b'\n').enumerate() {
        if text.trim_ascii().is_empty() {
            continue;
        }
        lines += 1;
        // `message` is an object for findings and a plain word for other reasons of cargo's.
        let reason: Reason = parse(text, index)?;
        if reason.reason == "compiler-message" {
            let line: Line = parse(text, index)?;
            report.facts.extend(facts(&line, index + 1)?);
        }
    }
    if lines == 0 {
        return Err(Broken::new(1, "the file is empty; cargo writes at least one line"));
    }
    Ok(report)
}

#[derive(Deserialize)]
struct Reason {
    reason: String,
}

fn parse<'a, T: Deserialize<'a>>(text: &'a [u8], index: usize) -> Result<T, Broken> {
    serde_json::from_slice(text).map_err(|error| json_report::broken(&error, index))
}

fn facts(line: &Line, number: usize) -> Result<Vec<Fact>, Broken> {
    let Some(message) = &line.message else {
        return Err(Broken::new(number, format!("a {} has no message", line.reason)));
    };
    let Some(code) = &message.code else { return Ok(Vec::new()) };
    let place = message.spans.iter().find(|span| span.is_primary).map(Span::name);
    let subject = subject(&code.code, &place.unwrap_or_default());
    let fact = |predicate, object| Fact {
        subject: subject.clone(),
        predicate,
        object,
        valid_from: None,
        line: number,
    };
    Ok(vec![fact("level", json!(message.level)), fact("message", json!(excerpt(&message.message)))])
}

impl Span {
    fn name(&self) -> String {
        format!("{}:{}:{}", self.file_name, self.line_start, self.column_start)
    }
}
