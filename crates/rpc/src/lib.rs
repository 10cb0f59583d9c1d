//! The peer plane: how the nodes of a cluster talk to each other.
//!
//! It carries opaque payloads, addressed by group and replica, between nodes
//! that have proven to each other who they are. It knows nothing of Raft, keys
//! or values; whoever does implements [`Handler`] and calls [`Plane`].
//!
//! # How it works
//!
//! Between two nodes there is one connection per direction: A's requests to B
//! and B's answers travel on the one A dialled. On it runs a single gRPC call
//! that stays open. Whatever is queued when the connection has room leaves as
//! one frame, urgent messages first, so batches grow with the load and a lone
//! vote waits for nothing; there is no task, channel or timer per message.
//! Payloads are copied once on the way out, into the HTTP/2 buffer, and are
//! slices of the received buffer on the way in. Messages over 64 KiB take a
//! second connection, dialled when the first of them comes, and each snapshot
//! has one of its own, so that neither holds up a heartbeat.
//!
//! Each failure says what it proves ([`Error`], [`Down`]); the state of each
//! peer's main link is there to be watched ([`Plane::link`]), because failover
//! acts on it.
//!
//! # What it leaves out, and the cost
//!
//! - **No encryption.** The handshake proves both ends and is all the
//!   protection there is: on the path between peers everything can be read,
//!   and a connection can be altered or taken over. The peers' network must be
//!   trusted until TLS comes.
//! - **No order** between lanes, connections, or a message and its retry.
//! - **No retry.** Only the caller knows what may happen twice.
//! - **The head of the line.** An urgent message overtakes what is queued
//!   here, not what HTTP/2 and the kernel already hold (at most a frame of
//!   256 KiB or so, and the socket's buffers). Answers go where their request
//!   came in, so a large answer does hold up the main connection.
//! - **Two connections per pair of nodes**, not one: each side dials the other.
//! - **Received payloads pin their frame** (up to 256 KiB, for as long as any
//!   slice of it lives): who keeps small ones for long should copy them.
//! - **A silent network** is noticed by the keepalive, 2 to 4 s late. Whoever
//!   needs to know sooner sends urgent pings of its own.
//!
//! Time is tokio's (so it can be paused), chance comes from a seed; the
//! network is real TCP.
//!
//! | file | idea |
//! |---|---|
//! | `plane` | the address book and what callers call |
//! | `message`, `error`, `limits` | the words: what travels, what became of it, how much |
//! | `handshake`, `mismatch` | who is there, and why not; pure |
//! | `lives` | which process goes by a node's id: of two at once, one is a copy |
//! | `frame`, `lanes`, `pending`, `backoff` | encoding, queueing, waiting; pure |
//! | `wire` | the compiled proto and the bounds of its decoder |
//! | `session`, `outlet`, `link`, `dial` | the asking side: queue, connection, its keeper |
//! | `server`, `door`, `answers` | the answering side |
//! | `snapshot` | chunks with a checksum |
//! | `local`, `chance` | what all tasks share |

mod answers;
mod backoff;
mod chance;
mod dial;
mod door;
mod error;
mod frame;
mod handshake;
mod lanes;
mod limits;
mod link;
mod lives;
mod local;
mod message;
mod mismatch;
mod outlet;
mod pending;
mod plane;
mod server;
mod session;
mod snapshot;
mod wire;

pub use answers::Reply;
pub use error::{Down, Error, Link, NotSent, StartError, Unknown};
pub use handshake::{SECRETS_MAX, VERSIONS};
pub use limits::{
    BULK_PAYLOAD_BYTES, CHUNK_BYTES_MAX, Limits, PAYLOAD_BYTES_MAX, REFUSAL_TEXT_BYTES_MAX,
};
pub use lives::TurnedAway;
pub use message::{Envelope, Lane, PeerIdentity, Refusal};
pub use mismatch::{Mismatch, Versions};
pub use pending::OnAnswer;
pub use plane::{Plane, PlaneOptions};
pub use server::Handler;
pub use snapshot::{ChunkError, SnapshotChunks};
