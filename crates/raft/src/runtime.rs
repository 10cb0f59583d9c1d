//! The seam to what runs us: tasks, work that blocks, and chance.
//!
//! openraft asks its runtime for tasks, timers and random numbers, and this crate asks for
//! threads besides, for what blocks. All of that comes through here. As a rule it is tokio's, with
//! its own threads and the operating system's chance.
//!
//! A simulation runs many nodes on one thread, from one seed. To do so it makes each node a
//! [`Host`] and starts the node's first task by [`on`]: whatever that task spawns belongs to the
//! same host, and so on. The host can hold all its tasks back (a paused process), end them (a dead
//! one), and it is where their random numbers come from. What blocks runs where it is asked for, so
//! that nothing happens beside the one thread. Time is tokio's in both cases, and can be
//! paused there.
//!
//! What it costs where there is no host: one look at an `Option` for each poll of a task.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use openraft::{AsyncRuntime, OptionalSend};
use openraft_rt_tokio::TokioRuntime;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::Instant;

use crate::grid::ring_at;

/// A process that is simulated: it owns the tasks that were spawned on it.
pub trait Host: Send + Sync {
    /// Whether its tasks may run now. If not, it wakes the waker once they may.
    fn runs(&self, waker: &Waker) -> bool;

    /// Takes a task of its own, to end it when the process dies.
    fn adopt(&self, task: AbortHandle);

    /// The next random number of the process.
    fn draw(&self) -> u64;
}

thread_local! {
    /// Whose task is being polled on this thread.
    static CURRENT: RefCell<Option<Arc<dyn Host>>> = const { RefCell::new(None) };
}

fn current() -> Option<Arc<dyn Host>> {
    CURRENT.with_borrow(Clone::clone)
}

/// Puts back who was current before, however the poll ends.
struct Before(Option<Arc<dyn Host>>);

impl Drop for Before {
    fn drop(&mut self) {
        let before = self.0.take();
        CURRENT.with_borrow_mut(|current| *current = before);
    }
}

pin_project_lite::pin_project! {
    /// A task and whose it is.
    struct Hosted<F> {
        host: Option<Arc<dyn Host>>,
        #[pin]
        task: F,
    }
}

impl<F: Future> Future for Hosted<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let Some(host) = this.host else { return this.task.poll(cx) };
        if !host.runs(cx.waker()) {
            return Poll::Pending;
        }
        let _before = Before(CURRENT.replace(Some(host.clone())));
        this.task.poll(cx)
    }
}

/// Spawns a task of a simulated process.
pub fn on<T: Send + 'static>(
    host: Arc<dyn Host>,
    task: impl Future<Output = T> + Send + 'static,
) -> JoinHandle<T> {
    spawn_for(Some(host), task)
}

/// Whose a replica is: what it does for a caller, it does there, wherever the caller lives.
#[derive(Clone)]
pub(crate) struct Home(Option<Arc<dyn Host>>);

impl Home {
    /// That of the task which asks.
    pub(crate) fn here() -> Self {
        Self(current())
    }

    /// Spawns a task there.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        spawn_for(self.0.clone(), task);
    }
}

/// Spawns a task, on the host of the one that asks if that has one.
pub(crate) fn spawn<T: Send + 'static>(
    task: impl Future<Output = T> + Send + 'static,
) -> JoinHandle<T> {
    spawn_for(current(), task)
}

#[expect(clippy::disallowed_methods, reason = "this is the seam")]
fn spawn_for<T: Send + 'static>(
    host: Option<Arc<dyn Host>>,
    task: impl Future<Output = T> + Send + 'static,
) -> JoinHandle<T> {
    let handle = tokio::spawn(Hosted { host: host.clone(), task });
    if let Some(host) = host {
        host.adopt(handle.abort_handle());
    }
    handle
}

/// Does work that blocks, on a thread for such work; here and now on a host.
#[expect(clippy::disallowed_methods, reason = "this is the seam")]
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    if is_hosted() {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)
}

/// When a timer for `deadline` rings: with the others of this process, if it is far off.
pub(crate) fn coarse(deadline: Instant) -> Instant {
    if is_hosted() { deadline } else { ring_at(deadline) }
}

/// Whether there is but one thread, and nothing may happen beside it.
pub(crate) fn is_hosted() -> bool {
    CURRENT.with_borrow(Option::is_some)
}

/// tokio, behind the seam.
pub(crate) struct Runtime(TokioRuntime);

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Runtime")
    }
}

impl AsyncRuntime for Runtime {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = JoinHandle<T>;
    type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
    type Instant = <TokioRuntime as AsyncRuntime>::Instant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> =
        <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = SmallRng;

    fn spawn<T>(task: T) -> JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        spawn(task)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        // openraft's instants don't tell what they are: only how far apart.
        let (now, now_there) = (Instant::now(), <Self::Instant as openraft::Instant>::now());
        let left = if deadline > now_there { deadline - now_there } else { Duration::ZERO };
        TokioRuntime::sleep_until(deadline + (coarse(now + left) - (now + left)))
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(join_error)
    }

    #[expect(clippy::disallowed_methods, reason = "this is the seam")]
    fn thread_rng() -> SmallRng {
        SmallRng::seed_from_u64(current().map_or_else(rand::random, |host| host.draw()))
    }

    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    type Watch = <TokioRuntime as AsyncRuntime>::Watch;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

    fn new(threads: usize) -> Self {
        Self(TokioRuntime::new(threads))
    }

    fn block_on<F: Future<Output = T>, T>(&mut self, future: F) -> T {
        self.0.block_on(future)
    }

    async fn spawn_blocking<F, T>(work: F) -> Result<T, io::Error>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        blocking(work).await
    }
}
