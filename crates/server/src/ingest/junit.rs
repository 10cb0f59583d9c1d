//! JUnit XML: test cases and how they ended.
//!
//! There is no one JUnit format, but all writers agree on `testsuites` or one
//! `testsuite` at the top, nested suites, and `testcase` with `name`, mostly
//! `classname` and `time`, and a child that says how it ended: `failure` or
//! `error`, `skipped`, or none. Whatever else stands there is passed over.
//!
//! A case run more than once under one name (a rerun, a parameter that the
//! name hides) is one fact, and the worst end wins: a failure must not hide
//! behind a pass. The time of a case is its own `timestamp`, else that of the
//! suite around it.

use quick_xml::XmlVersion;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::{BytesRef, BytesStart, Event};
use quick_xml::reader::Reader;
use serde_json::json;

use super::fact::{Fact, excerpt, fit, instant, line_of};
use super::{Broken, Report};

/// Deepest nesting of elements: real reports have five levels.
const DEPTH_MAX: usize = 64;

pub(super) fn read(bytes: &[u8]) -> Result<Report, Broken> {
    let text = std::str::from_utf8(bytes)
        .map_err(|error| Broken::new(line_of(bytes, error.valid_up_to()), "this is not UTF-8"))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = Reader::from_str(text);
    let mut walk = Walk::default();
    let mut lines = Lines { text: text.as_bytes(), offset: 0, line: 1 };
    loop {
        walk.line = lines.line(reader.buffer_position());
        match reader.read_event() {
            Ok(Event::Eof) => return walk.finish(),
            Ok(event) => walk.step(event).map_err(|reason| Broken::new(walk.line, reason))?,
            Err(error) => {
                let line = lines.line(reader.error_position());
                return Err(Broken::new(line, error.to_string()));
            }
        }
    }
}

/// Counts lines on the way forward, so that a long report is passed over once.
struct Lines<'a> {
    text: &'a [u8],
    offset: usize,
    line: usize,
}

impl Lines<'_> {
    /// The line of the byte at `offset`; never less than one asked for before.
    fn line(&mut self, offset: u64) -> usize {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX).min(self.text.len());
        let passed = self.text.get(self.offset..offset).unwrap_or_default();
        self.line += passed.iter().filter(|b| **b == b'\n').count();
        self.offset = self.offset.max(offset);
        self.line
    }
}

/// How a case ended, best first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Ending {
    Skip,
    #[default]
    Pass,
    Fail,
}

/// A case, while it is read and after.
#[derive(Clone, Debug, Default)]
struct Case {
    subject: String,
    ending: Ending,
    seconds: Option<f64>,
    failure: String,
    at: Option<String>,
    line: usize,
}

/// Where the walk through the elements stands.
#[derive(Debug, Default)]
struct Walk {
    /// Open elements, outermost first: name, own line, and the suite's name and time if it is one.
    open: Vec<Element>,
    seen_root: bool,
    /// Where the current event begins.
    line: usize,
    /// The case being read.
    case: Option<Case>,
    /// Whether text belongs to a failure.
    in_failure: bool,
    tool: Option<String>,
    cases: Vec<Case>,
}

#[derive(Debug)]
struct Element {
    tag: String,
    line: usize,
    suite: Option<String>,
    at: Option<String>,
}

impl Walk {
    fn step(&mut self, event: Event<'_>) -> Result<(), String> {
        match event {
            Event::Start(tag) => self.open(&tag),
            Event::Empty(tag) => self.open(&tag).map(|()| self.close()),
            Event::End(_) => {
                self.close();
                Ok(())
            }
            Event::Text(text) => self.text(&text.xml_content(XmlVersion::Implicit1_0)),
            Event::CData(text) => self.text(&text.xml_content(XmlVersion::Implicit1_0)),
            Event::GeneralRef(entity) => {
                let text = resolve(&entity)?;
                self.text(&text)
            }
            // Entities of a document type are never expanded, so it can be passed over.
            Event::DocType(_) | Event::Comment(_) | Event::Decl(_) | Event::PI(_) => Ok(()),
            Event::Eof => Ok(()),
        }
    }

    fn open(&mut self, tag: &BytesStart<'_>) -> Result<(), String> {
        let name = tag.name().as_ref().to_owned();
        self.check_place(&name)?;
        let attributes = Attributes::of(tag)?;
        let mut element = Element { tag: name, line: self.line, suite: None, at: None };
        match element.tag.as_str() {
            "testsuites" | "testsuite" => {
                element.suite = attributes.get("name").filter(|n| !n.is_empty()).map(str::to_owned);
                element.at = attributes.get("timestamp").and_then(instant);
            }
            "testcase" => self.case = Some(self.start_case(&attributes)?),
            _ => self.end_case_so(&element.tag, &attributes),
        }
        self.open.push(element);
        Ok(())
    }

    fn check_place(&mut self, name: &str) -> Result<(), String> {
        if self.open.is_empty() {
            if std::mem::replace(&mut self.seen_root, true) {
                return Err(format!("<{name}> stands behind the end of the report"));
            }
            if !matches!(name, "testsuites" | "testsuite") {
                return Err(format!("a JUnit report begins with <testsuites>, not with <{name}>"));
            }
        }
        if self.open.len() >= DEPTH_MAX {
            return Err(format!("elements are nested more than {DEPTH_MAX} deep"));
        }
        if name == "testcase" && self.case.is_some() {
            return Err("a <testcase> stands inside another".to_owned());
        }
        Ok(())
    }

    fn start_case(&self, attributes: &Attributes) -> Result<Case, String> {
        let name = attributes.get("name").filter(|name| !name.trim().is_empty());
        let name = name.ok_or("a <testcase> has no name")?;
        let class = attributes.get("classname").filter(|class| !class.is_empty());
        // `testsuites` names the run, only `testsuite` the suite.
        let around = self.open.iter().rev();
        let suite = around.clone().find(|e| e.tag == "testsuite").and_then(|e| e.suite.as_deref());
        let path: Vec<&str> = match (suite, class) {
            (Some(suite), Some(class)) if suite != class => vec![suite, class, name],
            (Some(suite), _) => vec![suite, name],
            (None, Some(class)) => vec![class, name],
            (None, None) => vec![name],
        };
        let own_time = attributes.get("timestamp").and_then(instant);
        Ok(Case {
            subject: fit(&format!("test:{}", path.join("/"))),
            seconds: attributes.get("time").map(seconds).transpose()?,
            at: own_time.or_else(|| around.clone().find_map(|e| e.at.clone())),
            line: self.line,
            ..Case::default()
        })
    }

    /// A child of a case may say how the case ended.
    fn end_case_so(&mut self, tag: &str, attributes: &Attributes) {
        let Some(case) = &mut self.case else { return };
        match tag {
            "failure" | "error" => {
                case.ending = Ending::Fail;
                case.failure.push_str(attributes.get("message").unwrap_or_default());
                self.in_failure = case.failure.is_empty();
            }
            "skipped" if case.ending == Ending::Pass => case.ending = Ending::Skip,
            _ => {}
        }
    }

    fn text(&mut self, text: &str) -> Result<(), String> {
        match &mut self.case {
            Some(case) if self.in_failure => case.failure.push_str(text),
            _ if self.open.is_empty() && !text.trim().is_empty() => {
                return Err("text stands outside of the report".to_owned());
            }
            _ => {}
        }
        Ok(())
    }

    fn close(&mut self) {
        let Some(element) = self.open.pop() else { return };
        match element.tag.as_str() {
            "failure" | "error" => self.in_failure = false,
            "testcase" => self.cases.extend(self.case.take()),
            "testsuites" => self.tool = element.suite,
            _ => {}
        }
    }

    fn finish(self) -> Result<Report, Broken> {
        let line = self.line;
        if let Some(element) = self.open.last() {
            let reason = format!(
                "the report ends inside the <{}> that line {} opens",
                element.tag, element.line
            );
            return Err(Broken::new(line, reason));
        }
        if !self.seen_root {
            return Err(Broken::new(line, "there is no <testsuites> in this file"));
        }
        // Only nextest gives itself away.
        let tool = self.tool.filter(|name| name == "nextest-run").map(|_| "cargo-nextest".into());
        let facts = merge(self.cases).into_iter().flat_map(Case::facts).collect();
        Ok(Report { tool, facts })
    }
}

/// One case for each subject, the worst of its kind, where the first stood.
fn merge(cases: Vec<Case>) -> Vec<Case> {
    let mut places = std::collections::HashMap::new();
    let mut merged: Vec<Case> = Vec::with_capacity(cases.len());
    for case in cases {
        let place = *places.entry(case.subject.clone()).or_insert(merged.len());
        match merged.get_mut(place) {
            Some(known) if case.ending > known.ending => *known = case,
            Some(_) => {}
            None => merged.push(case),
        }
    }
    merged
}

impl Case {
    fn facts(self) -> Vec<Fact> {
        let result = match self.ending {
            Ending::Pass => "pass",
            Ending::Fail => "fail",
            Ending::Skip => "skip",
        };
        let failure = excerpt(&self.failure);
        let objects = [
            ("result", Some(json!(result))),
            ("duration_seconds", self.seconds.map(|seconds| json!(seconds))),
            ("failure", Some(json!(failure)).filter(|_| !failure.is_empty())),
        ];
        let fact = |(predicate, object): (&'static str, Option<serde_json::Value>)| {
            object.map(|object| Fact {
                subject: self.subject.clone(),
                predicate,
                object,
                valid_from: self.at.clone(),
                line: self.line,
            })
        };
        objects.into_iter().filter_map(fact).collect()
    }
}

/// Seconds as writers write them: some group thousands with commas.
fn seconds(text: &str) -> Result<f64, String> {
    let plain = text.trim().replace(',', "");
    let number: Result<f64, _> = plain.parse();
    match number {
        Ok(seconds) if seconds.is_finite() && seconds >= 0.0 => Ok(seconds),
        _ => Err(format!("time={text:?} is no number of seconds")),
    }
}

fn resolve(entity: &BytesRef<'_>) -> Result<String, String> {
    let character = entity.resolve_char_ref().map_err(|error| error.to_string())?;
    let known = || resolve_predefined_entity(entity).map(str::to_owned);
    character
        .map(String::from)
        .or_else(known)
        .ok_or_else(|| format!("the entity &{}; is not defined", &**entity))
}

/// The attributes of one element, unescaped.
struct Attributes(Vec<(String, String)>);

impl Attributes {
    fn of(tag: &BytesStart<'_>) -> Result<Self, String> {
        let read = |attribute: Result<quick_xml::events::attributes::Attribute<'_>, _>| {
            let attribute = attribute
                .map_err(|error: quick_xml::events::attributes::AttrError| error.to_string())?;
            let value = attribute
                .normalized_value(XmlVersion::Implicit1_0)
                .map_err(|error| error.to_string())?;
            Ok((attribute.key.as_ref().to_owned(), value.into_owned()))
        };
        tag.attributes().map(read).collect::<Result<_, String>>().map(Self)
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}
