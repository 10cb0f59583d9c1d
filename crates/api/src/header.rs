//! Header names (lowercase, as HTTP/2 sends them) and media types.

/// The API key. `Authorization: Bearer K` says the same.
pub const API_KEY: &str = "x-api-key";
/// Which project a key of the cluster (root, admin, auditor) means; required of those for data.
pub const PROJECT: &str = "stemedb-project";
/// The revision an answer shows, or a write took. On a request with `consistency=session`: what the
/// caller has seen.
pub const REVISION: &str = "stemedb-revision";
/// How a read was served that may show less than the newest: `session` or `stale`. A linearizable
/// answer does not carry it.
pub const CONSISTENCY: &str = "stemedb-consistency";
/// Of a stale read: the answer shows everything that was acknowledged so many ms before it was
/// given, and perhaps more.
pub const STALE_MS: &str = "stemedb-stale-ms";
/// The name of the node that served the answer.
pub const SERVED_BY: &str = "stemedb-served-by";
/// On 421: the own HTTP address, `host:port`, of the node to ask instead.
pub const OWNER: &str = "stemedb-owner";
/// The revision that made the key (since it was last absent).
pub const CREATE_REVISION: &str = "stemedb-create-revision";
/// How many times the key was put since it was made, 1 for the first.
pub const VERSION: &str = "stemedb-version";
/// When the key expires, RFC 3339. Keys do not expire yet: never sent.
pub const EXPIRES_AT: &str = "stemedb-expires-at";
/// `1`: the answer is the one given before to the same `Idempotency-Key`; nothing was applied again.
/// The try before may have been the caller's, or one that the node asked made itself.
pub const REPLAYED: &str = "stemedb-replayed";
/// The id of a request: the caller's own if it is sane, else `req_` and a ULID. On every answer.
pub const REQUEST_ID: &str = "x-request-id";
/// Names a write, so that a retry is known again: 1 to 64 visible ASCII characters.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Most characters of an `X-Request-Id` that is taken over.
pub const REQUEST_ID_BYTES_MAX: usize = 64;
/// Most characters of an `Idempotency-Key`.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = stemedb_types::limits::IDEMPOTENCY_KEY_BYTES_MAX;

/// Of every error.
pub const PROBLEM_JSON: &str = "application/problem+json";
/// Of every other structured body.
pub const JSON: &str = "application/json";
/// Of a value.
pub const OCTET_STREAM: &str = "application/octet-stream";
