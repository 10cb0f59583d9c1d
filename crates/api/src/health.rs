//! Alive, ready, started; limits.
//!
//! A probe that fails is a [`crate::Problem`] like any other error; what these
//! bodies say stands in it as further members.

use serde::{Deserialize, Serialize};
use stemedb_types::limits;
use utoipa::ToSchema;

/// Longest path and query together, in bytes: room for three keys and a cursor, all escaped.
pub const URI_BYTES_MAX: usize = 48 * 1024;

/// What `GET /livez` gives back: the process answers. Nothing else was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Alive {
    /// Always `alive`.
    pub status: String,
}

/// What `GET /v1/health` gives back, always with 200: who answers, and how it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// `ok` where `/readyz` would say 200, else `unready`.
    pub status: String,
    /// The version of the program.
    pub version: String,
    /// The node's name.
    pub node: String,
    /// What is in the way, or worth knowing although it is not.
    pub reasons: Vec<String>,
}

/// What `GET /readyz` gives back; a 503 problem carries the same members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Readiness {
    /// It can serve.
    pub ready: bool,
    /// What is in the way, or worth knowing although it is not.
    pub reasons: Vec<String>,
}

/// What `GET /startupz` gives back; a 503 problem carries the same members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Startup {
    /// The logs were replayed.
    pub done: bool,
    /// Log entries applied again so far.
    pub replayed_entries: u64,
    /// Log entries to apply again in all.
    pub total_entries: u64,
}

/// What `GET /v1/limits` gives back. More than this is refused with 400, 413 or 414.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Limits {
    /// Longest key; the shortest is one byte.
    pub key_bytes_max: u64,
    /// Longest value.
    pub value_bytes_max: u64,
    /// Longest bucket or project name.
    pub name_bytes_max: u64,
    /// Longest JSON body.
    pub body_bytes_max: u64,
    /// Longest path and query together.
    pub uri_bytes_max: u64,
    /// Most statements in one call.
    pub items_max: u64,
    /// Longest canonical form of one statement.
    pub statement_bytes_max: u64,
    /// Longest subject, predicate, agent or source text.
    pub term_bytes_max: u64,
    /// Most rows of a page.
    pub page_rows_max: u64,
    /// Rows of a page where no `limit` is given.
    pub page_rows_default: u64,
    /// A page ends early once its values add up to this.
    pub page_bytes_max: u64,
    /// How long the node works on one request before it gives up on it.
    pub deadline_ms: u64,
}

impl Limits {
    /// The bounds of the contract, on a node that works this long on one request.
    pub fn new(deadline_ms: u64) -> Self {
        Self {
            key_bytes_max: limits::KEY_BYTES_MAX as u64,
            value_bytes_max: limits::VALUE_BYTES_MAX as u64,
            name_bytes_max: limits::NAME_BYTES_MAX as u64,
            body_bytes_max: limits::BODY_BYTES_MAX as u64,
            uri_bytes_max: URI_BYTES_MAX as u64,
            items_max: limits::ITEMS_MAX as u64,
            statement_bytes_max: limits::STATEMENT_BYTES_MAX as u64,
            term_bytes_max: limits::TERM_BYTES_MAX as u64,
            page_rows_max: limits::PAGE_ROWS_MAX as u64,
            page_rows_default: limits::PAGE_ROWS_DEFAULT as u64,
            page_bytes_max: limits::PAGE_BYTES_MAX as u64,
            deadline_ms,
        }
    }
}
