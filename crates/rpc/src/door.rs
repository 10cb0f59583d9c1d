//! The door for accepted connections: a stranger has little time and there is
//! little room for strangers.
//!
//! A connection counts as a stranger until its handshake is proven. Until then
//! it holds one of a fixed number of places, and reading from it fails once
//! the handshake's time is over; so sockets that say nothing, or the wrong
//! thing slowly, can't pile up. tonic carries the [`Admission`] to the call.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::server::Connected;

use crate::limits::Limits;
use crate::session::locked;

/// How long accepting rests after it failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The place a stranger holds; empty once it is one no more.
#[derive(Clone)]
pub(crate) struct Admission(Arc<Mutex<Option<OwnedSemaphorePermit>>>);

impl Admission {
    /// The handshake is proven.
    pub(crate) fn grant(&self) {
        locked(&self.0).take();
    }

    fn granted(&self) -> bool {
        locked(&self.0).is_none()
    }
}

/// An accepted connection.
pub(crate) struct Guest {
    tcp: TcpStream,
    admission: Admission,
    /// Runs out for a stranger; `None` once it was seen to be admitted.
    patience: Option<Pin<Box<Sleep>>>,
}

/// Accepts connections, as long as there is room for strangers.
pub(crate) fn guests(
    listener: TcpListener,
    limits: &Limits,
) -> impl Stream<Item = io::Result<Guest>> + Send + 'static {
    let room = Arc::new(Semaphore::new(limits.strangers_max));
    let patience = limits.handshake_timeout;
    TcpListenerStream::new(listener).filter_map(move |accepted| {
        let room = room.clone();
        async move {
            let Ok(tcp) = accepted.inspect_err(|e| tracing::warn!(%e, "a peer was not accepted"))
            else {
                // Most likely out of file descriptors, and no event says when there are more.
                sleep(ACCEPT_PAUSE).await;
                return None;
            };
            let Ok(place) = room.try_acquire_owned() else {
                tracing::debug!("a stranger was turned away: there are too many");
                return None;
            };
            tcp.set_nodelay(true).ok()?;
            let admission = Admission(Arc::new(Mutex::new(Some(place))));
            Some(Ok(Guest { tcp, admission, patience: Some(Box::pin(sleep(patience))) }))
        }
    })
}

impl Connected for Guest {
    type ConnectInfo = Admission;

    fn connect_info(&self) -> Admission {
        self.admission.clone()
    }
}

impl AsyncRead for Guest {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(patience) = &mut self.patience {
            let over = patience.as_mut().poll(context).is_ready();
            if self.admission.granted() {
                self.patience = None;
            } else if over {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        Pin::new(&mut self.tcp).poll_read(context, buffer)
    }
}

impl AsyncWrite for Guest {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(context)
    }
}
