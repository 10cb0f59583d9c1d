//! A snapshot on the way: chunks under flow control, their length at the end.
//!
//! Each snapshot travels on a connection of its own: a receiver that ingests
//! slowly would otherwise fill the shared HTTP/2 window and hold up appends.
//! The call's frames are the header (an ordinary request), chunks of at most
//! [`CHUNK_BYTES_MAX`], and an end with their total length. At most a handful of chunks is in
//! memory on either side; the receiver's pace is the sender's.
//!
//! What the bytes are is not looked at here: TCP's own checksum is too weak for gigabytes, so each file
//! of a snapshot brings its SHA-256, which the engine checks on a thread for that. A second
//! digest here would take seconds of the thread that everything else runs on.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::stream::{BoxStream, unfold};
use futures_util::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::dial::{Call, open, text};
use crate::error::{Down, Error, NotSent, Unknown};
use crate::frame::{Answer, Content, FrameBuilder, Message, chunk, end, read};
use crate::limits::{CHUNK_BYTES_MAX, PAYLOAD_BYTES_MAX};
use crate::link::outlived;
use crate::local::Local;
use crate::message::{Envelope, Lane};
use crate::wire::Frame;

/// Chunks waiting for the connection's window.
const CHUNKS_QUEUED_MAX: usize = 2;
/// The id of the one request of such a call.
const REQUEST_ID: u64 = 1;

/// Why a snapshot's chunks ended early. What came before must not be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// The sender stopped, or the connection broke.
    #[error("the snapshot was interrupted: {0}")]
    Interrupted(String),
    /// Its length is not what the sender announced.
    #[error("the snapshot arrived damaged")]
    Damaged,
}

/// The chunks of an arriving snapshot, in order. Only its clean end (`None` after no error) says
/// that all of them came; that they are as they were sent is for the taker to check.
pub struct SnapshotChunks {
    chunks: BoxStream<'static, Result<Bytes, ChunkError>>,
}

impl SnapshotChunks {
    /// Chunks from anywhere: for a network without sockets, and for tests of handlers.
    pub fn from_stream(
        chunks: impl Stream<Item = Result<Bytes, ChunkError>> + Send + 'static,
    ) -> Self {
        Self { chunks: chunks.boxed() }
    }

    /// Chunks of a call whose header was taken.
    pub(crate) fn received(incoming: Streaming<Frame>) -> Self {
        let frames = incoming.map(|frame| match frame {
            Ok(frame) => read(frame).map_err(|e| e.to_string()),
            Err(status) => Err(text(&status)),
        });
        Self::from_stream(counted(frames))
    }
}

impl Stream for SnapshotChunks {
    type Item = Result<Bytes, ChunkError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.chunks.poll_next_unpin(context)
    }
}

struct Counting<S> {
    frames: S,
    total_bytes: u64,
}

/// Passes chunks on and checks the end. Nothing follows an error.
fn counted<S>(frames: S) -> impl Stream<Item = Result<Bytes, ChunkError>>
where
    S: Stream<Item = Result<Content, String>> + Unpin,
{
    let start = Counting { frames, total_bytes: 0 };
    unfold(Some(start), async |state| {
        let mut state = state?;
        let interrupted = |why: &str| Some((Err(ChunkError::Interrupted(why.to_owned())), None));
        match state.frames.next().await {
            Some(Ok(Content::Chunk(bytes))) => {
                state.total_bytes += bytes.len() as u64;
                Some((Ok(bytes), Some(state)))
            }
            Some(Ok(Content::End { total_bytes })) => {
                let whole = total_bytes == state.total_bytes;
                if whole { None } else { Some((Err(ChunkError::Damaged), None)) }
            }
            Some(Ok(Content::Messages(_))) => interrupted("a message among its chunks"),
            Some(Err(why)) => interrupted(&why),
            None => interrupted("it has no end"),
        }
    })
}

/// Sends a snapshot and returns what the peer's handler says to it.
pub(crate) async fn send(
    local: &Local,
    call: Call,
    header: Envelope,
    chunks: impl Stream<Item = io::Result<Bytes>> + Send,
) -> Result<Bytes, Error> {
    let got_bytes = header.payload.len();
    if got_bytes > PAYLOAD_BYTES_MAX {
        let max_bytes = PAYLOAD_BYTES_MAX;
        return Err(Error::NotSent(NotSent::TooLarge { got_bytes, max_bytes }));
    }
    let (frames, queued) = mpsc::channel(CHUNKS_QUEUED_MAX);
    let not_sent = |why| Error::NotSent(NotSent::Down(why));
    let mut opened = open(local, call, ReceiverStream::new(queued)).await.map_err(not_sent)?;
    tokio::select! {
        biased;
        () = local.outlived(call.cluster) => Err(Error::Unknown(Unknown::Down(Down::Superseded))),
        () = opened.lease.outlived() => Err(Error::Unknown(Unknown::Down(outlived()))),
        answer = hear(&mut opened.incoming) => answer,
        error = feed(&frames, header, chunks) => Err(Error::Unknown(Unknown::Source(error))),
    }
}

/// Sends header, chunks and end, then waits to be dropped; returns only if the source fails.
async fn feed(
    frames: &mpsc::Sender<Frame>,
    header: Envelope,
    chunks: impl Stream<Item = io::Result<Bytes>> + Send,
) -> String {
    match feed_all(frames, header, chunks).await {
        Err(Stopped::Source(error)) => error.to_string(),
        // The peer has what it wants, or is gone: its answer or the broken stream will say.
        Ok(()) | Err(Stopped::Peer) => std::future::pending().await,
    }
}

enum Stopped {
    Source(io::Error),
    Peer,
}

impl<T> From<mpsc::error::SendError<T>> for Stopped {
    fn from(_: mpsc::error::SendError<T>) -> Self {
        Stopped::Peer
    }
}

async fn feed_all(
    frames: &mpsc::Sender<Frame>,
    header: Envelope,
    chunks: impl Stream<Item = io::Result<Bytes>> + Send,
) -> Result<(), Stopped> {
    let mut first = FrameBuilder::new();
    first.request(REQUEST_ID, Lane::Normal, header);
    frames.send(first.finish()).await?;
    let mut total_bytes = 0;
    let mut chunks = pin!(chunks);
    while let Some(bytes) = chunks.next().await {
        let mut bytes = bytes.map_err(Stopped::Source)?;
        total_bytes += bytes.len() as u64;
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(CHUNK_BYTES_MAX));
            frames.send(chunk(piece)).await?;
        }
    }
    frames.send(end(total_bytes)).await?;
    Ok(())
}

async fn hear(incoming: &mut Streaming<Frame>) -> Result<Bytes, Error> {
    let lost = |why: String| Err(Error::Unknown(Unknown::Down(Down::Lost(why))));
    let frame = match incoming.message().await {
        Ok(Some(frame)) => frame,
        Ok(None) => return lost("the peer closed it".to_owned()),
        Err(status) => return lost(text(&status)),
    };
    match read(frame) {
        Ok(Content::Messages(messages)) => match messages.into_iter().next() {
            Some(Message::Answer { answer: Answer::Ok(payload), .. }) => Ok(payload),
            Some(Message::Answer { answer: Answer::Refused(refusal), .. }) => {
                Err(Error::Refused(refusal))
            }
            Some(Message::Answer { answer: Answer::Dropped, .. }) => Err(Error::Dropped),
            Some(Message::Request { .. }) | None => lost("not an answer".to_owned()),
        },
        Ok(_) => lost("not an answer".to_owned()),
        Err(error) => lost(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream::iter;
    use futures_util::{FutureExt, StreamExt};

    use super::*;

    fn arrive(frames: Vec<Result<Content, String>>) -> Vec<Result<Bytes, ChunkError>> {
        counted(iter(frames)).collect::<Vec<_>>().now_or_never().unwrap()
    }

    fn piece(bytes: &'static str) -> Result<Content, String> {
        Ok(Content::Chunk(Bytes::from_static(bytes.as_bytes())))
    }

    fn end_of(total_bytes: u64) -> Result<Content, String> {
        Ok(Content::End { total_bytes })
    }

    #[test]
    fn only_as_many_bytes_as_announced_end_cleanly() {
        let (a, b) = (Ok(Bytes::from("a")), Ok(Bytes::from("b")));
        let damaged = Err(ChunkError::Damaged);
        let whole = vec![piece("a"), piece("b"), end_of(2)];
        assert_eq!(arrive(whole), [a.clone(), b.clone()]);
        let more = vec![piece("a"), piece("b"), end_of(1)];
        assert_eq!(arrive(more), [a.clone(), b, damaged.clone()]);
        assert_eq!(arrive(vec![piece("a"), end_of(2)]), [a, damaged]);
        assert_eq!(arrive(vec![end_of(0)]), []);
    }

    #[test]
    fn without_an_end_it_was_interrupted() {
        let interrupted = |why: &str| Err(ChunkError::Interrupted(why.to_owned()));
        let a = Ok(Bytes::from("a"));
        assert_eq!(arrive(vec![piece("a")]), [a.clone(), interrupted("it has no end")]);
        let broken = vec![piece("a"), Err("reset".to_owned()), piece("b")];
        assert_eq!(arrive(broken), [a, interrupted("reset")]);
    }
}
