//! What a group needs of the network. The peer plane is one; a simulated network is another.

use std::io;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use stemedb_rpc::{Envelope, Error, Lane, Plane};
use stemedb_types::NodeId;
use tokio::time::Instant;

/// Carries messages to the replicas on other nodes. No retry: a message may be lost, and what was
/// lost is said ([`Error`]) as well as it is known.
pub trait Transport: Send + Sync + 'static {
    /// Sends a message and waits for its answer. The message is on its way once this returns;
    /// dropping the future recalls nothing.
    fn request(
        &self,
        to: NodeId,
        lane: Lane,
        message: Envelope,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<Bytes, Error>>;

    /// Streams a snapshot and returns what its receiver answers. Dropping the future, or an error
    /// among the chunks, interrupts it.
    fn send_snapshot<'s>(
        &'s self,
        to: NodeId,
        header: Envelope,
        chunks: BoxStream<'s, io::Result<Bytes>>,
    ) -> BoxFuture<'s, Result<Bytes, Error>>;

    /// A number that no other call gets: the name of something in the cluster.
    fn draw(&self) -> u128;
}

impl Transport for Plane {
    fn request(
        &self,
        to: NodeId,
        lane: Lane,
        message: Envelope,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<Bytes, Error>> {
        Box::pin(Plane::request(self, to, lane, message, deadline))
    }

    fn send_snapshot<'s>(
        &'s self,
        to: NodeId,
        header: Envelope,
        chunks: BoxStream<'s, io::Result<Bytes>>,
    ) -> BoxFuture<'s, Result<Bytes, Error>> {
        Box::pin(Plane::send_snapshot(self, to, header, chunks))
    }

    fn draw(&self) -> u128 {
        Plane::draw(self)
    }
}
