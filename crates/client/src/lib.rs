//! A typed client of the HTTP API with retries; what the command line uses.
//!
//! One method for each call of the API. What a caller may rely on is the
//! meaning of an error: [`Error`] says what is true now, and for a write that
//! is one of three things: it was refused, it was not applied, or nobody here
//! can know.
//!
//! A pipeline must not fail while a node restarts, so a request that found
//! nobody is sent again after 2, 4 and 8 seconds (longer if the server asks
//! for it), to the next address if several are known. A read is repeated
//! whenever no answer came. So is a write to a bucket: it carries an
//! `Idempotency-Key`, the same on every try, and is applied once however many
//! of them arrive. If one of them may have and no later one settles it, the
//! error says so. A change of the cluster is repeated only on 503, which always
//! means "not applied": no key is kept of it.
//!
//! Left out, with the cost. A 421 is an error:
//! the owner it names is not followed, so point this client at a gateway. The
//! key is wiped when the client is dropped, but HTTP libraries copy headers,
//! and those copies are not.
//!
//! | file | idea |
//! |---|---|
//! | `client` | who is asked, and as whom |
//! | `retry` | when a request is sent again: a table, and nothing else |
//! | `send` | one request, through its tries, to an answer |
//! | `error` | what is true when it failed |
//! | `key` | an API key that is never printed |
//! | `kv`, `claims`, `keys`, `cluster` | the calls |
//! | `reads` | how new what is read must be, and what a session has seen |

mod claims;
mod client;
mod cluster;
mod error;
mod key;
mod keys;
mod kv;
mod query;
mod reads;
mod retry;
mod send;
#[cfg(test)]
mod tests;

pub use claims::{Asserted, QueryOptions, batches};
pub use client::{Client, ClientBuilder, Sleep};
pub use error::{Error, Refusal};
pub use key::ApiKey;
pub use kv::{Condition, ScanOptions, Value, Written};
pub use stemedb_api as api;
