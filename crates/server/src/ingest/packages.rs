//! The packages of `cargo metadata --format-version 1`: what a build is made of.
//!
//! The version stands in the subject and in the object: the subject names the
//! package as the rest of the world does, and the object answers "at which
//! version?" without taking names apart. Two versions of one package in one
//! build are two subjects, as they should be. cargo gives no time.

use serde::Deserialize;
use serde_json::json;

use super::fact::{Fact, fit};
use super::json::Name;
use super::purl::purl;
use super::{Broken, Report, json as json_report};

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: Name,
    version: Name,
    license: Option<String>,
}

pub(super) fn read(bytes: &[u8]) -> Result<Report, Broken> {
    let metadata: Metadata = json_report::read(bytes)?;
    let facts = metadata.packages.iter().flat_map(|package| {
        let subject = fit(&purl("cargo", &package.name.0, Some(&package.version.0)));
        facts_of(subject, Some(&package.version.0), package.license.as_deref(), None)
    });
    Ok(Report { tool: Some("cargo-metadata".to_owned()), facts: facts.collect() })
}

/// What is said of a package, by either kind of list.
pub(super) fn facts_of(
    subject: String,
    version: Option<&str>,
    license: Option<&str>,
    at: Option<&String>,
) -> Vec<Fact> {
    let objects = [("version", version), ("license", license)];
    let fact = |(predicate, object): (&'static str, Option<&str>)| {
        object.filter(|text| !text.is_empty()).map(|text| Fact {
            subject: subject.clone(),
            predicate,
            object: json!(text),
            valid_from: at.cloned(),
            line: 1,
        })
    };
    objects.into_iter().filter_map(fact).collect()
}
