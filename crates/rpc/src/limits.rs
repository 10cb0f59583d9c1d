//! Every bound of the plane, by name. What a deployment may want to change is
//! a field of [`Limits`]; what both ends must agree on is a constant.

use std::time::Duration;

/// A normal message with a longer payload travels on the bulk connection.
pub const BULK_PAYLOAD_BYTES: usize = 64 * 1024;
/// Longest payload of one message: an append of several full HTTP bodies, with room.
pub const PAYLOAD_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Longest text of a refusal, in bytes.
pub const REFUSAL_TEXT_BYTES_MAX: usize = 1024;
/// A longer chunk of a snapshot is sent in pieces of this.
/// (Hashing one holds the thread for well under a millisecond.)
pub const CHUNK_BYTES_MAX: usize = 256 * 1024;
/// What the sender gathers into one frame before it lets it go.
pub(crate) const FRAME_BYTES: usize = 256 * 1024;
/// Longest frame either side accepts: the longest payload, and a frame's worth around it.
pub(crate) const FRAME_BYTES_MAX: usize = PAYLOAD_BYTES_MAX + 2 * 1024 * 1024;
/// HTTP/2 window of a stream: what may be under way without waiting for the reader.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 8 * 1024 * 1024;
/// HTTP/2 window of a connection; each connection carries one stream, so a little more.
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;
/// HTTP/2 frame size: fewer of them per large message.
pub(crate) const HTTP2_FRAME_BYTES: u32 = 128 * 1024;
/// Streams a peer may open on one connection; we open one.
pub(crate) const STREAMS_PER_CONNECTION_MAX: u32 = 4;

/// Bounds and times of one plane.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Requests to one peer that wait for their answer, on one connection, sent or not. One more
    /// is [`crate::NotSent::QueueFull`]. Urgent ones have as much room again, here and in
    /// `queued_bytes_max`.
    pub requests_in_flight_max: usize,
    /// Bytes queued to one peer on one connection and not yet sent. One message is always let in,
    /// however long; after that, one more byte is [`crate::NotSent::QueueFull`].
    pub queued_bytes_max: usize,
    /// Requests of one peer that the handler has not answered, or whose answers the peer has not
    /// taken. Beyond it, and beyond `queued_bytes_max` of waiting answers, reading pauses.
    pub unanswered_max: usize,
    /// Accepted connections that have not finished a handshake. One more is closed at once.
    pub strangers_max: usize,
    /// One dial: TCP connect.
    pub dial_timeout: Duration,
    /// The handshake behind it; on the listening side, from accept to proof.
    pub handshake_timeout: Duration,
    /// First wait after a link broke or a dial failed; doubles up to `redial_max`. A peer that comes in
    /// meanwhile is dialled at once.
    pub redial_min: Duration,
    /// Longest wait between two dials.
    pub redial_max: Duration,
    /// How often a quiet connection is pinged.
    pub keepalive_interval: Duration,
    /// How long the ping may go unanswered before the link counts as broken.
    pub keepalive_timeout: Duration,
    /// How long a stream that ends by our doing may go on flushing answers.
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            requests_in_flight_max: 32 * 1024,
            queued_bytes_max: 64 * 1024 * 1024,
            unanswered_max: 64 * 1024,
            strangers_max: 256,
            dial_timeout: Duration::from_secs(1),
            handshake_timeout: Duration::from_secs(2),
            redial_min: Duration::from_millis(50),
            redial_max: Duration::from_secs(1),
            keepalive_interval: Duration::from_secs(2),
            keepalive_timeout: Duration::from_secs(2),
            drain_timeout: Duration::from_secs(1),
        }
    }
}
