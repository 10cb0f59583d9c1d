//! Why a node ends, and how.
//!
//! SIGTERM or Ctrl-C is a restart: membership and replicas stay. The node is unready at once and
//! hands its leaderships over; then it serves on for `drain-grace`, sending requests on to who leads
//! now, each answer saying `Connection: close`; then the doors close, then the node ends. Asked
//! once more, it does the rest without waiting for anybody. All of it together has one deadline, so that
//! nothing kills it while it still writes. A node that is asked while it opens its disks ends as soon
//! as they are open.
//!
//! A node that its cluster removed while it was away is started again in the same process, and joins as
//! a new one. A failed disk shows why for a minute and ends with 74, for a supervisor to start the node again.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use stemedb::{Fatal, Node};
use stemedb_gateway::Gateway;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::exit::{DISK, ERROR, Failure};

/// How long a node that can't write any more shows why, before it ends.
const FATAL_SHOWN: Duration = Duration::from_secs(60);
/// How long an end may take beside `drain-grace`: with the 5 s that this is by default, less than
/// the 30 s after which Kubernetes kills.
const ENDING_MAX: Duration = Duration::from_secs(20);
/// What of it the node has at least to come to rest. Handing over (2 s) and the requests under way when the
/// doors close (10 s) leave it that much, if all goes as it should; what takes longer is cut off.
const SHUTDOWN_KEPT: Duration = Duration::from_secs(8);

/// Hears who wants the process to end.
pub(crate) struct Asked {
    terminate: Signal,
    interrupt: Signal,
    stdin_ended: Arc<Notify>,
}

impl Asked {
    /// From now on a signal does not end the process by itself.
    pub(crate) fn listen(until_stdin_ends: bool) -> Result<Self, Failure> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).map_err(Failure::error)?,
            interrupt: signal(SignalKind::interrupt()).map_err(Failure::error)?,
            stdin_ended: stdin_ended(until_stdin_ends),
        })
    }

    /// Waits until it is asked for, the first time or once more.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            () = self.stdin_ended.notified() => {}
        }
    }
}

/// Rings once when standard input has ended; never, if that does not matter.
fn stdin_ended(matters: bool) -> Arc<Notify> {
    let ended = Arc::new(Notify::new());
    if matters {
        let bell = ended.clone();
        tokio::task::spawn_blocking(move || {
            let mut scrap = [0; 256];
            while matches!(std::io::stdin().lock().read(&mut scrap), Ok(count) if count > 0) {}
            bell.notify_one();
        });
    }
    ended
}

/// Why a node ends.
pub(crate) enum Reason {
    /// Someone wants it.
    Asked,
    /// It is no member of its cluster any more: started again, it joins as a new node.
    Removed,
    /// It must, and what the process says of it.
    Failed(Failure),
}

/// Waits for a reason to end.
pub(crate) async fn reason(node: &Node, asked: &mut Asked) -> Reason {
    let mut fatal = node.fatal();
    let reason = tokio::select! {
        () = asked.next() => return Reason::Asked,
        reason = fatal.wait_for(Option::is_some) => match reason {
            Ok(reason) => match reason.clone() {
                Some(Fatal::Setting(reason)) => return Reason::Failed(Failure::new(ERROR, reason)),
                Some(Fatal::Removed(_)) => return Reason::Removed,
                Some(Fatal::Disk(reason)) => reason,
                None => String::new(),
            },
            // The node is gone without a word, which only a bug does.
            Err(error) => error.to_string(),
        },
    };
    tracing::error!(%reason, "this node writes nothing more and ends in a minute");
    let _ = tokio::time::timeout(FATAL_SHOWN, asked.next()).await;
    Reason::Failed(Failure::new(DISK, reason))
}

/// The doors of a node, open.
pub(crate) struct Doors<'d> {
    /// What serves them.
    pub(crate) gateway: &'d Gateway,
    /// Has them close.
    pub(crate) closing: &'d CancellationToken,
    /// How long they go on serving from then.
    pub(crate) grace: Duration,
}

/// Closes the doors and then the node: one that is asked to end hands over first.
pub(crate) async fn close(
    node: &Node,
    doors: Doors<'_>,
    served: impl Future<Output = ()>,
    hands_over: bool,
    asked: &mut Asked,
) {
    let Doors { gateway, closing, grace } = doors;
    let end = Instant::now() + grace + ENDING_MAX;
    let in_order = async {
        if hands_over {
            gateway.drain();
            tokio::select! {
                () = node.drain() => tracing::info!("unready, and leads nothing that others can"),
                () = gateway.hurried() => {}
            }
        }
        closing.cancel();
        served.await;
    };
    let in_haste = async {
        tokio::select! {
            () = asked.next() => tracing::warn!("asked once more to end: nothing is waited for"),
            () = sleep_until(end - SHUTDOWN_KEPT) => {
                tracing::warn!("the end takes too long: what is under way is cut off");
            }
        }
        gateway.hurry();
        std::future::pending::<()>().await;
    };
    // Even cut off, a door may not close before the end.
    let closed = async {
        tokio::select! {
            () = in_order => {}
            () = in_haste => {}
        }
    };
    let _ = timeout_at(end - SHUTDOWN_KEPT / 2, closed).await;
    rest(node, end).await;
}

/// Ends a node that was asked to end before it was there. Threads open its disks and can't be called off, so
/// it is waited for and closed, unless that takes too long or someone asks once more.
pub(crate) async fn unstarted(
    starting: impl Future<Output = Result<Node, Failure>>,
    asked: &mut Asked,
) -> Result<(), Failure> {
    let end = Instant::now() + ENDING_MAX;
    tracing::info!("asked to end before the disks are open");
    tokio::select! {
        started = timeout_at(end - SHUTDOWN_KEPT, starting) => match started {
            Ok(node) => rest(&node?, end).await,
            // What it has done so far a crash at any time does not harm.
            Err(_) => tracing::warn!("the start takes too long: the process ends in the middle of it"),
        },
        () = asked.next() => tracing::warn!("asked once more to end: nothing is waited for"),
    }
    Ok(())
}

/// Brings a node to rest. Whatever ends it: a thread that still uses the store while the process ends
/// makes it end by a signal, and with another code. A disk that hangs is not waited for.
async fn rest(node: &Node, end: Instant) {
    if timeout_at(end, node.shutdown()).await.is_err() {
        tracing::warn!("the node did not come to rest");
    }
}
