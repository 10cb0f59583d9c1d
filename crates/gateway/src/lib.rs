//! The HTTP API over the façade: routes, problems, OpenAPI.
//!
//! A gateway knows a node by one trait, [`stemedb::Front`], and nothing of
//! Raft, logs or disks. It turns requests into calls and answers into
//! responses, and it turns bad requests away. One request goes through these
//! steps, in this order, all in `gateway::Gateway::handle`:
//!
//! ```text
//! raw path ─► route ─► method ─► who is it ─► path, query, headers ─► body ─► call ─► response
//!              404      405      401, 403        400, 414           413, 422
//! ```
//!
//! Nobody without a key gets a byte of a body read. The raw path decides: it is
//! matched here and not by a router library, because keys are bytes, `%2F` and
//! `/` are the same key, and nothing may be normalised on the way; and one
//! table ([`route`]) then gives the routes, `Allow`, the metric labels and
//! the OpenAPI document, so they can't disagree.
//!
//! The same gateway serves both doors of a node, 18180 and 18181; which one a
//! request came in by is passed on, and the façade does the rest.
//!
//! Left out, with the cost. Keys do not expire and
//! `ttl` is refused. Envelopes are refused, as no agent can be registered.
//! Errors that hyper finds while it parses (a line that is no HTTP, headers
//! over its limit: 400, 431) have no body, as there is no request to answer.
//!
//! | file | idea |
//! |---|---|
//! | `route` | the table: path and method → operation |
//! | `gateway` | the steps of a request |
//! | `request` | what handlers share: one request let in |
//! | `params` | query parameters, strictly |
//! | `condition` | `If-Match` and `If-None-Match` |
//! | `body` | bodies up to a limit, without a copy where possible |
//! | `failure` | everything that goes wrong → status, slug, headers |
//! | `respond` | the few shapes of success |
//! | `kv`, `scan`, `assert`, `query`, `keys`, `cluster`, `health` | the operations |
//! | `openapi` | the document, from the table and the bodies |
//! | `meter` | what is counted |
//! | `serve` | sockets: connections, limits, draining |

mod assert;
mod body;
mod cluster;
mod condition;
mod failure;
mod gateway;
mod health;
mod keys;
mod kv;
mod meter;
mod openapi;
mod operate;
mod options;
mod params;
mod query;
mod request;
mod respond;
pub mod route;
mod scan;
mod serve;

pub use gateway::Gateway;
pub use meter::describe_metrics;
pub use openapi::document as openapi;
pub use options::{Options, RenderMetrics};
