//! Which text each setting has, and who gave it.

use std::collections::BTreeMap;
use std::fmt;

use toml::Value;

use super::table::{Kind, SETTINGS, Setting};

/// What people and programs say, before anything is believed.
#[derive(Debug, Default)]
pub(crate) struct Inputs {
    /// Texts of flags.
    pub(crate) flags: BTreeMap<&'static str, String>,
    /// The process's environment.
    pub(crate) env: Vec<(String, String)>,
    /// The TOML file's name and text, if there is one.
    pub(crate) file: Option<(String, String)>,
}

/// Who gave a setting its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Given {
    /// A flag of the command line.
    Flag,
    /// The environment, under this name.
    Env(String),
    /// The TOML file of this name.
    File(String),
    /// Nobody.
    Default,
}

impl fmt::Display for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Given::Flag => f.write_str("flag"),
            Given::Env(name) => write!(f, "env {name}"),
            Given::File(file) => write!(f, "file {file}"),
            Given::Default => f.write_str("default"),
        }
    }
}

/// Why the settings can't be taken, in one line. The process ends with `code`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    /// Which setting, given where, and what is wrong with it.
    pub(crate) line: String,
    /// 2: it could not be read. 1: it could, but such a node must not start.
    pub(crate) code: u8,
}

impl Refused {
    pub(super) fn unreadable(line: impl Into<String>) -> Self {
        Self { line: line.into(), code: 2 }
    }

    pub(super) fn forbidden(line: impl Into<String>) -> Self {
        Self { line: line.into(), code: 1 }
    }
}

/// One row: a setting, its text and its source.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) setting: &'static Setting,
    pub(crate) text: Option<String>,
    pub(crate) given: Given,
}

/// Every setting with its text, in the order of the table.
#[derive(Clone, Debug)]
pub(crate) struct Effective(pub(crate) Vec<Row>);

impl Effective {
    /// The row of a flag of the table.
    pub(super) fn row(&self, flag: &str) -> Option<&Row> {
        self.0.iter().find(|row| row.setting.flag == flag)
    }
}

impl Row {
    /// The text for people: secrets are masked, nothing is a dash.
    pub(crate) fn shown(&self) -> String {
        match (&self.text, self.setting.kind) {
            (None, _) => "-".to_owned(),
            (Some(_), Kind::Secret) => "********".to_owned(),
            (Some(text), _) => text.clone(),
        }
    }

    /// The setting's name where it was given.
    pub(super) fn name(&self) -> String {
        match &self.given {
            Given::Flag | Given::Default => format!("--{}", self.setting.flag),
            Given::Env(name) => name.clone(),
            Given::File(file) => format!("{file}: {}", self.setting.key()),
        }
    }
}

/// Decides each setting's text. Refuses a file that is no TOML or has an unknown key.
///
/// An empty text in the environment counts as not given: manifests set such.
pub(crate) fn effective(inputs: &Inputs) -> Result<Effective, Refused> {
    let file = inputs.file.as_ref().map(|(name, text)| read_toml(name, text)).transpose()?;
    let row = |setting: &'static Setting| {
        let flag = inputs.flags.get(setting.flag).map(|text| (text.clone(), Given::Flag));
        let env = || {
            let name = setting.env();
            let found = inputs.env.iter().find(|(key, text)| *key == name && !text.is_empty());
            found.map(|(_, text)| (text.clone(), Given::Env(name)))
        };
        let file = || {
            let (name, keys) = file.as_ref()?;
            keys.get(&setting.key()).map(|text| (text.clone(), Given::File(name.clone())))
        };
        let default = || (setting.default.map(str::to_owned), Given::Default);
        let given = flag.or_else(env).or_else(file).map(|(text, given)| (Some(text), given));
        let (text, given) = given.unwrap_or_else(default);
        Row { setting, text, given }
    };
    Ok(Effective(SETTINGS.iter().map(row).collect()))
}

/// The file's name, and its values as texts by key.
fn read_toml(name: &str, text: &str) -> Result<(String, BTreeMap<String, String>), Refused> {
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let line = error.span().map_or(1, |span| line_at(text, span.start));
        Refused::unreadable(format!("{name}:{line}: {}", error.message()))
    })?;
    let mut keys = BTreeMap::new();
    for (key, value) in table {
        if !SETTINGS.iter().any(|setting| setting.key() == key) {
            return Err(Refused::unreadable(format!("{name}: there is no setting {key:?}")));
        }
        let value = plain(&value).ok_or_else(|| {
            Refused::unreadable(format!(
                "{name}: {key} must be a text, a number, a truth value or a list of texts"
            ))
        })?;
        keys.insert(key, value);
    }
    Ok((name.to_owned(), keys))
}

fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Boolean(truth) => Some(truth.to_string()),
        Value::Array(items) => {
            let texts: Option<Vec<&str>> = items.iter().map(Value::as_str).collect();
            texts.map(|texts| texts.join(","))
        }
        _ => None,
    }
}

fn line_at(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|b| *b == b'\n').count() + 1
}

/// Names of the client side, and the name of the file.
const OTHER_NAMES: &[&str] =
    &["STEMEDB_CONFIG", "STEMEDB_URL", "STEMEDB_API_KEY", "STEMEDB_ADMIN_KEY", "STEMEDB_PROJECT"];

/// Names in the environment that begin with `STEMEDB_` and that nobody reads: mistakes mostly.
///
/// Kubernetes puts the addresses of a Service called `stemedb…` into every container of its
/// namespace, under names of the same beginning: these are nobody's mistake.
pub(crate) fn unknown_names(env: &[(String, String)]) -> Vec<String> {
    let known = |name: &str| {
        OTHER_NAMES.contains(&name) || SETTINGS.iter().any(|setting| setting.env() == name)
    };
    let ours = env.iter().map(|(name, _)| name).filter(|name| name.starts_with("STEMEDB_"));
    let mut unknown: Vec<_> =
        ours.filter(|name| !known(name) && !is_service_link(name)).cloned().collect();
    unknown.sort();
    unknown
}

/// `…_SERVICE_HOST`, `…_SERVICE_PORT[_NAME]`, `…_PORT`, `…_PORT_<n>_TCP[_PROTO|_PORT|_ADDR]`.
fn is_service_link(name: &str) -> bool {
    let numbered = name.split_once("_PORT_").is_some_and(|(_, rest)| {
        let (number, protocol) = rest.split_once('_').unwrap_or((rest, ""));
        let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
        digits && (protocol.starts_with("TCP") || protocol.starts_with("UDP"))
    });
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.ends_with("_PORT")
        || numbered
}
