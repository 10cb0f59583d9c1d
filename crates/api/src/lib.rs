//! HTTP bodies, headers and problem slugs: what gateway and client share.
//!
//! One word, one place: the gateway writes these types and the client reads
//! them (or the other way round), so the two can't drift apart, and the OpenAPI
//! document is generated from the same definitions. Pure: no IO, no async, no
//! clock, and nothing here knows HTTP beyond names and numbers.
//!
//! Requests refuse fields they do not know, so that a misspelled one is an
//! error and not a surprise. Answers do not: a newer server may say more than
//! an older client understands. Absent and `null` mean the same in an answer.
//!
//! Left out, with the cost. A statement is checked by `claims`, not by
//! `Statement` here: the type only carries its JSON. Bodies of routes that
//! later parts bring (transactions, watches, usage) come with those parts.
//!
//! | file | idea |
//! |---|---|
//! | `slug` | every kind of problem: its status, title and whether to retry |
//! | `problem` | the one shape of every error (RFC 9457) |
//! | `header` | header names and media types |
//! | `path` | keys in paths, byte for byte |
//! | `base64` | bytes in JSON |
//! | `kv` | keys, values and pages of them |
//! | `claims` | statements in, answers out |
//! | `admin` | API keys |
//! | `cluster` | status, members, layout |
//! | `operate` | drain, remove, pause; what a change would move |
//! | `health` | alive, ready, started; limits |

pub mod admin;
mod base64;
pub mod claims;
pub mod cluster;
pub mod header;
pub mod health;
pub mod kv;
pub mod operate;
pub mod path;
mod problem;
mod slug;

pub use base64::{Base64, decode_cursor, encode_cursor};
pub use problem::{PROBLEM_TYPE_PREFIX, Problem};
pub use slug::Slug;
