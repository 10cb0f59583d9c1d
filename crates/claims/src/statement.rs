//! The shape of a statement, field by field.
//!
//! | field | type | |
//! |---|---|---|
//! | `subject`, `predicate` | text of 1 to `TERM_BYTES_MAX` bytes | required |
//! | `object` | any JSON, `null` included | required |
//! | `confidence` | number from 0 to 1 | absent reads as 1 |
//! | `valid_from`, `valid_to` | RFC 3339; holds from the first, up to but without the second | absent is unbounded |
//! | `source` | object of `uri`, `digest`, `tool`, each a text as above | each may be absent |
//! | `refs` | list of `{"rel": "supersedes" or "endorses", "id"}` | |
//!
//! Strict on purpose: a field that is misspelled, empty or `null` is refused
//! rather than passed over, because a statement can never be corrected in
//! place. Nothing absent is filled in before hashing: the canonical form has
//! exactly the fields given, with texts as given, so `confidence` absent and
//! `"confidence": 1` read alike and are two statements with two ids. Likewise
//! two spellings of one instant.
//!
//! The text is not normalised (Unicode or otherwise) and may hold any
//! character, U+0000 included; index keys must escape it.

use std::ops::Range;

use serde::Serialize;
use serde_json::{Map, Value};
use stemedb_types::limits::{STATEMENT_BYTES_MAX, TERM_BYTES_MAX};

use crate::canonical::{self, ObjectWriter};
use crate::error::{Error, quoted};
use crate::id::StatementId;
use crate::instant::InstantNs;
use crate::strict::parse_json;

const FIELDS: &[&str] =
    &["confidence", "object", "predicate", "refs", "source", "subject", "valid_from", "valid_to"];
const SOURCE_FIELDS: &[&str] = &["digest", "tool", "uri"];
const REF_FIELDS: &[&str] = &["id", "rel"];

/// Bytes of a statement besides its texts, for a first allocation that mostly suffices.
const FRAME_BYTES: usize = 256;

/// One immutable sentence, checked, with its canonical bytes and its id.
///
/// What always holds: the canonical bytes are the RFC 8785 form of exactly the fields given, at
/// most `STATEMENT_BYTES_MAX` long; the id is theirs; every field is inside its bounds; and
/// `valid_from` is before `valid_to` where both are given. Two statements are equal if their
/// canonical bytes are.
#[derive(Clone, Debug)]
pub struct Statement {
    fields: Given,
    canonical: Vec<u8>,
    /// Where the object's canonical form stands in `canonical`.
    object_at: Range<usize>,
    id: StatementId,
}

/// The fields as given.
#[derive(Clone, Debug)]
struct Given {
    subject: String,
    predicate: String,
    object: Value,
    confidence: Option<f64>,
    valid_from: Option<Dated>,
    valid_to: Option<Dated>,
    source: Option<Source>,
    refs: Option<Vec<Reference>>,
}

/// An instant with the text it was given as, which is what the canonical form keeps.
#[derive(Clone, Debug)]
struct Dated {
    text: String,
    at: InstantNs,
}

/// Where a statement comes from. Keys in the order of the canonical form.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Source {
    /// A digest of the source, in its maker's own notation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// What produced the statement.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// Where the source is found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
}

/// A statement that this one speaks of. It need not be stored, here or anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The other statement.
    pub id: StatementId,
    /// What this one does to it.
    pub rel: Relation,
}

/// What a reference does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// Stands in the other's place.
    Supersedes,
    /// Agrees with the other.
    Endorses,
}

impl Relation {
    /// The word in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Relation::Supersedes => "supersedes",
            Relation::Endorses => "endorses",
        }
    }
}

impl Statement {
    /// Reads a statement from the bytes of one JSON object.
    ///
    /// Every [`Error`] but `Damaged` is possible; the sentence of each names the field.
    pub fn parse(json: &[u8]) -> Result<Self, Error> {
        Self::from_value(parse_json(json)?)
    }

    /// Reads a statement from a value that [`parse_json`] made, as for one item of a batch.
    ///
    /// A value from another parser is checked as well as it still can be: that parser has already
    /// dropped keys given twice and rounded long numbers.
    pub fn from_value(value: Value) -> Result<Self, Error> {
        let Value::Object(map) = value else { return Err(Error::NotAnObject) };
        let fields = Given::read(map)?;
        let (canonical, object_at) = fields.write()?;
        let id = StatementId::of(&canonical);
        Ok(Self { fields, canonical, object_at, id })
    }

    /// Reads canonical bytes back from where they were stored under `id`.
    ///
    /// The bytes are hashed again, so damage can't pass: anything but the statement of that id is
    /// [`Error::Damaged`].
    pub fn from_stored(canonical: &[u8], id: StatementId) -> Result<Self, Error> {
        match Self::parse(canonical) {
            Ok(statement) if statement.id == id => Ok(statement),
            _ => Err(Error::Damaged { id: id.to_string() }),
        }
    }

    /// The statement's name.
    pub fn id(&self) -> StatementId {
        self.id
    }

    /// The canonical form: the bytes that are hashed, signed and stored.
    pub fn canonical(&self) -> &[u8] {
        &self.canonical
    }

    /// The canonical form, without a copy.
    pub fn into_canonical(self) -> Vec<u8> {
        self.canonical
    }

    /// What it is about.
    pub fn subject(&self) -> &str {
        &self.fields.subject
    }

    /// What it says of the subject.
    pub fn predicate(&self) -> &str {
        &self.fields.predicate
    }

    /// What the predicate says, as a JSON value.
    pub fn object(&self) -> &Value {
        &self.fields.object
    }

    /// The canonical form of the object: equal bytes are equal objects.
    pub fn object_canonical(&self) -> &[u8] {
        self.canonical.get(self.object_at.clone()).unwrap_or_default()
    }

    /// How sure its maker is, 0 to 1; 1 where nothing was given.
    pub fn confidence(&self) -> f64 {
        self.fields.confidence.unwrap_or(1.0)
    }

    /// The first instant it holds at; `None` if it has no beginning.
    pub fn valid_from(&self) -> Option<InstantNs> {
        self.fields.valid_from.as_ref().map(|dated| dated.at)
    }

    /// `valid_from` as its maker wrote it.
    pub fn valid_from_text(&self) -> Option<&str> {
        text_of(&self.fields.valid_from)
    }

    /// The first instant it holds no more; `None` if it has no end.
    pub fn valid_to(&self) -> Option<InstantNs> {
        self.fields.valid_to.as_ref().map(|dated| dated.at)
    }

    /// `valid_to` as its maker wrote it.
    pub fn valid_to_text(&self) -> Option<&str> {
        text_of(&self.fields.valid_to)
    }

    /// Whether it holds at `at`. An absent bound bounds nothing: above all, a statement without
    /// `valid_from` holds at once, on a reader whose clock is behind its writer's as well.
    pub fn is_valid_at(&self, at: InstantNs) -> bool {
        self.valid_from().is_none_or(|from| from <= at) && self.valid_to().is_none_or(|to| at < to)
    }

    /// Where it comes from, if it says.
    pub fn source(&self) -> Option<&Source> {
        self.fields.source.as_ref()
    }

    /// The statements it speaks of, in the order given.
    pub fn refs(&self) -> &[Reference] {
        self.fields.refs.as_deref().unwrap_or_default()
    }
}

impl PartialEq for Statement {
    fn eq(&self, other: &Self) -> bool {
        self.canonical == other.canonical
    }
}

impl Eq for Statement {}

fn text_of(dated: &Option<Dated>) -> Option<&str> {
    dated.as_ref().map(|dated| dated.text.as_str())
}

impl Given {
    fn read(map: Map<String, Value>) -> Result<Self, Error> {
        let mut from = Reader::open(map, String::new(), FIELDS)?;
        let given = Self {
            subject: from.required_text("subject")?,
            predicate: from.required_text("predicate")?,
            object: from.take("object").ok_or_else(|| from.missing("object"))?,
            confidence: from.take("confidence").map(read_confidence).transpose()?,
            valid_from: from.dated("valid_from")?,
            valid_to: from.dated("valid_to")?,
            source: from.take("source").map(read_source).transpose()?,
            refs: from.take("refs").map(read_refs).transpose()?,
        };
        canonical::check(&given.object)?;
        match (&given.valid_from, &given.valid_to) {
            (Some(from), Some(to)) if from.at >= to.at => Err(Error::Interval),
            _ => Ok(given),
        }
    }

    /// The canonical bytes, and where the object stands in them. Fields in the order of [`FIELDS`].
    fn write(&self) -> Result<(Vec<u8>, Range<usize>), Error> {
        let mut out = Vec::with_capacity(FRAME_BYTES + self.subject.len() + self.predicate.len());
        let mut object = ObjectWriter::open(&mut out);
        object.optional("confidence", self.confidence.as_ref())?;
        let object_at = object.field("object", &self.object)?;
        object.field("predicate", &self.predicate)?;
        if let Some(refs) = &self.refs {
            write_refs(object.key("refs"), refs)?;
        }
        object.optional("source", self.source.as_ref())?;
        object.field("subject", &self.subject)?;
        object.optional("valid_from", text_of(&self.valid_from))?;
        object.optional("valid_to", text_of(&self.valid_to))?;
        object.close();
        if out.len() > STATEMENT_BYTES_MAX {
            return Err(Error::StatementTooLong);
        }
        Ok((out, object_at))
    }
}

fn write_refs(out: &mut Vec<u8>, refs: &[Reference]) -> Result<(), Error> {
    out.push(b'[');
    for (n, reference) in refs.iter().enumerate() {
        if n > 0 {
            out.push(b',');
        }
        let mut object = ObjectWriter::open(out);
        object.field("id", &reference.id.to_string())?;
        object.field("rel", reference.rel.as_str())?;
        object.close();
    }
    out.push(b']');
    Ok(())
}

fn read_confidence(value: Value) -> Result<f64, Error> {
    let refused = || Error::Confidence { got: quoted(&value.to_string()) };
    let confidence = value.as_f64().ok_or_else(refused)?;
    if (0.0..=1.0).contains(&confidence) { Ok(confidence) } else { Err(refused()) }
}

fn read_source(value: Value) -> Result<Source, Error> {
    let Value::Object(map) = value else { return Err(wrong("source", "an object")) };
    let mut from = Reader::open(map, "source.".into(), SOURCE_FIELDS)?;
    Ok(Source { digest: from.text("digest")?, tool: from.text("tool")?, uri: from.text("uri")? })
}

fn read_refs(value: Value) -> Result<Vec<Reference>, Error> {
    let Value::Array(items) = value else { return Err(wrong("refs", "a list")) };
    items.into_iter().enumerate().map(|(n, item)| read_ref(n, item)).collect()
}

fn read_ref(n: usize, value: Value) -> Result<Reference, Error> {
    let Value::Object(map) = value else { return Err(wrong(format!("refs[{n}]"), "an object")) };
    let mut from = Reader::open(map, format!("refs[{n}]."), REF_FIELDS)?;
    let rel = match from.required_text("rel")?.as_str() {
        "supersedes" => Relation::Supersedes,
        "endorses" => Relation::Endorses,
        _ => return Err(wrong(from.path("rel"), "`supersedes` or `endorses`")),
    };
    let id = from.required_text("id")?;
    let id = id.parse().map_err(|_| Error::Id { field: from.path("id") })?;
    Ok(Reference { id, rel })
}

fn wrong(field: impl Into<String>, wanted: &'static str) -> Error {
    Error::Type { field: field.into(), wanted }
}

/// Takes the fields of one object, each at most once.
struct Reader {
    map: Map<String, Value>,
    /// What stands before a field's name in a sentence, as `source.`
    prefix: String,
}

impl Reader {
    /// Refuses a field that is not `known` first, so that a misspelled one is named as it was
    /// written and not as missing.
    fn open(map: Map<String, Value>, prefix: String, known: &[&str]) -> Result<Self, Error> {
        match map.keys().find(|key| !known.contains(&key.as_str())) {
            Some(key) => Err(Error::UnknownField { field: format!("{prefix}{}", quoted(key)) }),
            None => Ok(Self { map, prefix }),
        }
    }

    fn path(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn missing(&self, name: &str) -> Error {
        Error::Missing { field: self.path(name) }
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        self.map.remove(name)
    }

    fn text(&mut self, name: &str) -> Result<Option<String>, Error> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) if text.is_empty() => {
                Err(Error::Empty { field: self.path(name) })
            }
            Some(Value::String(text)) if text.len() > TERM_BYTES_MAX => Err(Error::TooLong {
                field: self.path(name),
                got_bytes: text.len(),
                max_bytes: TERM_BYTES_MAX,
            }),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(wrong(self.path(name), "a string")),
        }
    }

    fn required_text(&mut self, name: &str) -> Result<String, Error> {
        self.text(name)?.ok_or_else(|| self.missing(name))
    }

    fn dated(&mut self, name: &str) -> Result<Option<Dated>, Error> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        match InstantNs::parse(&text) {
            Some(at) => Ok(Some(Dated { text, at })),
            None => Err(Error::Timestamp { field: self.path(name), got: quoted(&text) }),
        }
    }
}

#[cfg(test)]
#[path = "statement_tests.rs"]
mod tests;
