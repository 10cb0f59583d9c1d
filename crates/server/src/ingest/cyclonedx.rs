//! CycloneDX in JSON: the components of a bill of materials.
//!
//! A component without a package URL gets one of the kind `generic` from its
//! name and version. Components inside components are taken too. Several
//! licences of one component are joined by `AND`, as each of them binds.

use serde::Deserialize;

use super::fact::{Fact, fit, instant};
use super::json::Name;
use super::packages::facts_of;
use super::purl::purl;
use super::{Broken, Report, json as json_report};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bom {
    #[allow(dead_code)] // Read only to be there: it tells CycloneDX from other JSON.
    bom_format: BomFormat,
    metadata: Option<Metadata>,
    #[serde(default)]
    components: Vec<Component>,
}

#[derive(Deserialize)]
enum BomFormat {
    #[serde(rename = "CycloneDX")]
    CycloneDx,
}

#[derive(Deserialize)]
struct Metadata {
    timestamp: Option<String>,
    tools: Option<Tools>,
}

/// A list up to version 1.4, an object of lists since 1.5.
#[derive(Deserialize)]
#[serde(untagged)]
enum Tools {
    List(Vec<Tool>),
    Lists {
        #[serde(default)]
        components: Vec<Tool>,
    },
}

#[derive(Deserialize)]
struct Tool {
    name: Option<String>,
    version: Option<String>,
}

#[derive(Deserialize)]
struct Component {
    name: Name,
    version: Option<String>,
    purl: Option<Name>,
    #[serde(default)]
    licenses: Vec<LicenseChoice>,
    #[serde(default)]
    components: Vec<Component>,
}

#[derive(Deserialize)]
struct LicenseChoice {
    license: Option<License>,
    expression: Option<String>,
}

#[derive(Deserialize)]
struct License {
    id: Option<String>,
    name: Option<String>,
}

pub(super) fn read(bytes: &[u8]) -> Result<Report, Broken> {
    let bom: Bom = json_report::read(bytes)?;
    let metadata = bom.metadata.as_ref();
    let at = metadata.and_then(|m| m.timestamp.as_deref()).and_then(instant);
    let tool = metadata.and_then(|m| m.tools.as_ref()).and_then(Tools::title);
    let mut facts = Vec::new();
    collect(&bom.components, at.as_ref(), &mut facts);
    Ok(Report { tool, facts })
}

/// Nesting is bounded by the JSON parser's own limit of 128 levels.
fn collect(components: &[Component], at: Option<&String>, facts: &mut Vec<Fact>) {
    for component in components {
        let version = component.version.as_deref();
        let license = component.license();
        facts.extend(facts_of(component.subject(), version, license.as_deref(), at));
        collect(&component.components, at, facts);
    }
}

impl Component {
    fn subject(&self) -> String {
        let generic = || purl("generic", &self.name.0, self.version.as_deref());
        fit(&self.purl.as_ref().map_or_else(generic, |purl| purl.0.clone()))
    }

    fn license(&self) -> Option<String> {
        let names = self.licenses.iter().filter_map(LicenseChoice::title);
        let names: Vec<_> = names.collect();
        Some(names.join(" AND ")).filter(|joined| !joined.is_empty())
    }
}

impl LicenseChoice {
    fn title(&self) -> Option<&str> {
        let named = self.license.as_ref().and_then(|l| l.id.as_deref().or(l.name.as_deref()));
        self.expression.as_deref().or(named)
    }
}

impl Tools {
    fn title(&self) -> Option<String> {
        let (Tools::List(tools) | Tools::Lists { components: tools }) = self;
        let tool = tools.first()?;
        let name = tool.name.as_ref()?;
        Some(match &tool.version {
            Some(version) => format!("{name} {version}"),
            None => name.clone(),
        })
    }
}
