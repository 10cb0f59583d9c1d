//! Sockets: connections, their limits, and how a door closes.
//!
//! A door serves HTTP/1.1 with keep-alive and HTTP/2 without TLS on one port,
//! told apart by their first bytes. It holds a bounded number of connections;
//! more wait in the kernel's queue.
//!
//! A door closes in two steps, so that a rolling restart costs no caller a
//! failed call. First, for [`crate::Options::drain`], everything is still served,
//! new connections too, but each HTTP/1.1 answer says `Connection: close` and
//! each HTTP/2 connection is told to go away after the request it brings. An
//! idle connection is left alone: to close it could meet a request on its way.
//! Then nothing more is accepted, idle connections are closed, and requests
//! still under way have one [`crate::Options::deadline`] to end before they are
//! cut off. Who is in a hurry ([`Gateway::hurry`]) has it all at once.
//!
//! Left out, with the cost: a caller that does not read its answer is not timed
//! out, so it holds one connection and at most one page of memory until it goes.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use stemedb::Door;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::{Gateway, Options};

/// Most requests of one HTTP/2 connection at a time.
const STREAMS_MAX: u32 = 256;
/// Longest head of an HTTP/2 request, in bytes: room for the longest URI.
const HTTP2_HEAD_BYTES_MAX: u32 = 64 * 1024;
/// How often a quiet HTTP/2 connection is asked whether it is still there.
const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(60);
/// How long to wait after an accept that failed for want of file descriptors or memory.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// What a connection hears of its door.
#[derive(Clone, Default)]
struct Phases {
    /// End after the requests under way.
    closed: CancellationToken,
    /// End now.
    cut_off: CancellationToken,
}

impl Gateway {
    /// Serves a door until `shutdown` is cancelled and the door has closed. All doors of a gateway
    /// drain together: the first to be shut down makes every answer say `Connection: close`.
    pub async fn serve(&self, listener: TcpListener, door: Door, shutdown: CancellationToken) {
        let options = self.options();
        let slots = Arc::new(Semaphore::new(options.connections_max));
        let connections = TaskTracker::new();
        let phases = Phases::default();
        let builder = Arc::new(builder(options));
        let mut drained = pin!(self.drained(&shutdown));
        loop {
            let next = tokio::select! {
                () = &mut drained => break,
                next = accept(&listener, &slots) => next,
            };
            let Some((stream, slot)) = next else { break };
            let served = self.clone().connection(builder.clone(), stream, door, phases.clone());
            connections.spawn(async move {
                served.await;
                drop(slot);
            });
        }
        drop(listener);
        phases.closed.cancel();
        connections.close();
        let ended = tokio::select! {
            ended = tokio::time::timeout(options.deadline, connections.wait()) => ended.is_ok(),
            () = self.hurried() => false,
        };
        if !ended {
            tracing::warn!(left = connections.len(), "requests are cut off at shutdown");
            phases.cut_off.cancel();
            connections.wait().await;
        }
    }

    /// Ends when the door should close.
    async fn drained(&self, shutdown: &CancellationToken) {
        shutdown.cancelled().await;
        self.drain();
        tokio::select! {
            () = tokio::time::sleep(self.options().drain) => {}
            () = self.hurried() => {}
        }
    }

    /// One connection, to its end.
    async fn connection(
        self,
        builder: Arc<Builder<TokioExecutor>>,
        stream: TcpStream,
        door: Door,
        phases: Phases,
    ) {
        // Answers are small and written whole: waiting to fill a packet only costs time.
        if let Err(cause) = stream.set_nodelay(true) {
            tracing::debug!(%cause, "a connection ended before it began");
            return;
        }
        let go_away = Arc::new(Notify::new());
        let service = service_fn({
            let go_away = go_away.clone();
            move |request: Request<Incoming>| {
                if self.is_draining() && request.version() == Version::HTTP_2 {
                    go_away.notify_one();
                }
                let gateway = self.clone();
                async move { Ok::<_, Infallible>(gateway.handle(door, request).await) }
            }
        });
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = either(phases.closed.cancelled(), go_away.notified()) => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = connection => ended,
                    () = phases.cut_off.cancelled() => return,
                }
            }
        };
        if let Err(cause) = ended {
            tracing::debug!(%cause, "a connection ended early");
        }
    }
}

async fn either(one: impl Future<Output = ()>, other: impl Future<Output = ()>) {
    tokio::select! {
        () = one => (),
        () = other => (),
    }
}

/// The next connection, once there is a slot for it; `None` if there will be none.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let slot = slots.clone().acquire_owned().await.ok()?;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return Some((stream, slot)),
            Err(cause) => {
                // One that was gone again is no trouble; for want of descriptors only time helps.
                tracing::warn!(%cause, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

fn builder(options: &Options) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(options.header_read_timeout);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HTTP2_HEAD_BYTES_MAX)
        .keep_alive_interval(HTTP2_PING_INTERVAL);
    builder
}
