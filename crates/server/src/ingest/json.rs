//! JSON reports: shapes checked while they are read, so that every refusal has a line.

use serde::de::{self, Deserialize, DeserializeOwned, Deserializer};

use super::Broken;

/// Reads one JSON value of a known shape.
pub(super) fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Broken> {
    serde_json::from_slice(bytes).map_err(|error| broken(&error, 0))
}

/// serde_json's error as ours; `lines_before` is what stands above the text it read.
pub(super) fn broken(error: &serde_json::Error, lines_before: usize) -> Broken {
    let sentence = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    let reason = sentence.strip_suffix(&place).unwrap_or(&sentence);
    Broken::new(lines_before + error.line().max(1), reason)
}

/// A text that names something, so it may not be empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name(pub(super) String);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        if text.trim().is_empty() {
            return Err(de::Error::custom("a name is empty"));
        }
        Ok(Self(text))
    }
}
