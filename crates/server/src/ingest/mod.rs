//! What a CI run leaves behind, as statements.
//!
//! A report is read whole, as one of five formats, into *facts*: a subject, a
//! predicate, an object and, where the report says so, since when. Only then
//! is anything sent: a report that is broken anywhere is sent nowhere, and the
//! error names file and line. Facts become statements with one source for the
//! whole file: the commit and the file's name, its SHA-256, and the tool. A
//! statement's id is a hash of all that, so the same file twice says nothing
//! new, however often a pipeline repeats its step.
//!
//! | format | subject | predicates |
//! |---|---|---|
//! | `junit` | `test:<suite>/<name>` | `result` (`pass`, `fail`, `skip`), `duration_seconds`, `failure` |
//! | `sarif`, `clippy` | `finding:<rule>@<file>:<line>:<column>` | `level`, `message` |
//! | `cyclonedx`, `packages` | the package URL, version included | `version`, `license` |
//!
//! So three questions are one query each: predicate `result` for the tests,
//! `duration_seconds` for the slow ones, `version` for what a build is made of.
//!
//! Left out, with the cost. A finding that was mended and a package that was
//! dropped are not in the next report, and nothing here says so: their claims
//! stand, and only the commit in their source tells their age. A finding is
//! known by its line, so code that moves makes a new one. CycloneDX is read as
//! JSON, not as XML.
//!
//! Pure: bytes in, facts or a line number out.

mod clippy;
mod cyclonedx;
mod fact;
mod json;
mod junit;
mod packages;
mod purl;
mod sarif;
#[cfg(test)]
mod tests;

use std::fmt;

pub(crate) use fact::{Fact, Origin, statements};

/// Longest report that is read, in bytes: reports are held whole.
pub(crate) const REPORT_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What kind of file a report is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Format {
    /// JUnit XML, as nextest, pytest, Gradle and most others write it.
    Junit,
    /// SARIF 2.1.0.
    Sarif,
    /// The lines of `cargo clippy --message-format=json`.
    Clippy,
    /// A CycloneDX bill of materials in JSON.
    Cyclonedx,
    /// The packages of `cargo metadata --format-version 1`.
    Packages,
}

/// A report that was read to its end.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Report {
    /// What made it, as `name` or `name version`.
    pub(crate) tool: Option<String>,
    /// What it says, in its order; no (subject, predicate) twice.
    pub(crate) facts: Vec<Fact>,
}

/// Why a report was not read. Nothing of it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Broken {
    /// Where, counted from 1.
    pub(crate) line: usize,
    /// What is wrong there.
    pub(crate) reason: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.reason)
    }
}

impl Broken {
    fn new(line: usize, reason: impl Into<String>) -> Self {
        Self { line, reason: reason.into() }
    }
}

/// Reads a report of a known format.
pub(crate) fn read(format: Format, bytes: &[u8]) -> Result<Report, Broken> {
    let mut report = match format {
        Format::Junit => junit::read(bytes),
        Format::Sarif => sarif::read(bytes),
        Format::Clippy => clippy::read(bytes),
        Format::Cyclonedx => cyclonedx::read(bytes),
        Format::Packages => packages::read(bytes),
    }?;
    fact::keep_first(&mut report.facts);
    Ok(report)
}
