//! Why a statement was refused, in a sentence its author can act on.

use stemedb_types::limits::STATEMENT_BYTES_MAX;

/// Most bytes of a caller's own text that a sentence quotes back.
const QUOTE_BYTES_MAX: usize = 64;

/// Why bytes are not a statement. Nothing was stored, and the same bytes will be refused again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not JSON: bad syntax, bad UTF-8, a lone surrogate, nested too deep, or more behind the end.
    #[error("this is not JSON: {detail}")]
    Json {
        /// What the parser met, with line and column.
        detail: String,
    },
    /// One object gives one key twice, so that readers could differ on what was said.
    #[error("{detail}")]
    DuplicateKey {
        /// Which key, with line and column.
        detail: String,
    },
    /// A number that an IEEE 754 double would silently turn into another one.
    #[error(
        "the number {literal} does not fit a 64-bit float and would be stored as another; send it as a string"
    )]
    Number {
        /// The number as written.
        literal: String,
    },
    /// Arrays and objects nested too deep.
    #[error("the object is nested more than {depth_max} levels deep")]
    Depth {
        /// The deepest nesting taken.
        depth_max: usize,
    },
    /// Anything but a JSON object at the top.
    #[error("a statement is a JSON object")]
    NotAnObject,
    /// A field that statements do not have.
    #[error("a statement has no field `{field}`")]
    UnknownField {
        /// The field's path.
        field: String,
    },
    /// A field that every statement has is absent.
    #[error("`{field}` is missing")]
    Missing {
        /// The field's path.
        field: String,
    },
    /// A field of another JSON type, or a word outside its list.
    #[error("`{field}` must be {wanted}")]
    Type {
        /// The field's path.
        field: String,
        /// What would have been taken.
        wanted: &'static str,
    },
    /// A text of no characters.
    #[error("`{field}` is empty")]
    Empty {
        /// The field's path.
        field: String,
    },
    /// A text longer than its bound.
    #[error("`{field}` has {got_bytes} bytes, the most is {max_bytes}")]
    TooLong {
        /// The field's path.
        field: String,
        /// Its length.
        got_bytes: usize,
        /// The bound.
        max_bytes: usize,
    },
    /// A confidence outside 0 to 1.
    #[error("`confidence` is {got}, it must be a number from 0 to 1")]
    Confidence {
        /// The value given.
        got: String,
    },
    /// A text that is not an RFC 3339 date and time.
    #[error(
        "`{field}` is {got:?}, it must be RFC 3339 like 2026-01-31T12:00:00Z, at most 9 fraction digits"
    )]
    Timestamp {
        /// The field's path.
        field: String,
        /// The text given.
        got: String,
    },
    /// An interval that no instant lies in.
    #[error("`valid_from` must be before `valid_to`")]
    Interval,
    /// The whole statement is too long.
    #[error("the canonical form is longer than {STATEMENT_BYTES_MAX} bytes")]
    StatementTooLong,
    /// Not `sha256:` and 64 lowercase hex digits.
    #[error("`{field}` must be `sha256:` and 64 lowercase hex digits")]
    Id {
        /// The field's path, or `id`.
        field: String,
    },
    /// Stored bytes are not the canonical form of the id they stand under: the store is damaged.
    #[error("the stored bytes are not the canonical form of {id}")]
    Damaged {
        /// The id they were stored under.
        id: String,
    },
}

/// A caller's text, cut to what a sentence may quote.
pub(crate) fn quoted(text: &str) -> String {
    let end = text.floor_char_boundary(QUOTE_BYTES_MAX);
    let more = if end < text.len() { "…" } else { "" };
    format!("{}{more}", &text[..end])
}
