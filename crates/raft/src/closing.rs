//! Whether a replica stops.
//!
//! A replica may wait for long: for room in the log, for room in the store, for the end of a
//! replay. Whoever stops it can't wait for that, so everything that waits hears of it here.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

/// Says that a replica stops. Cheap to clone, clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Closing(Arc<Said>);

#[derive(Debug, Default)]
struct Said {
    flag: AtomicBool,
    bell: Notify,
}

impl Closing {
    /// Says it, for good.
    pub(crate) fn say(&self) {
        self.0.flag.store(true, Ordering::Release);
        self.0.bell.notify_waiters();
    }

    /// Whether it was said.
    pub(crate) fn is_said(&self) -> bool {
        self.0.flag.load(Ordering::Acquire)
    }

    /// Waits until it is said.
    async fn said(&self) {
        let rings = self.0.bell.notified();
        if !self.is_said() {
            rings.await;
        }
    }

    /// Waits for something, or fails because the replica stops.
    pub(crate) async fn unless<T>(&self, awaited: impl Future<Output = T>) -> io::Result<T> {
        tokio::select! {
            biased;
            () = self.said() => Err(Self::error()),
            got = awaited => Ok(got),
        }
    }

    /// Blocks for so long, or fails because the replica stops.
    #[expect(clippy::disallowed_methods, reason = "for threads that may block; none on a host")]
    pub(crate) fn sleep(&self, rest: Duration) -> io::Result<()> {
        self.check()?;
        std::thread::sleep(rest);
        self.check()
    }

    /// Fails if the replica stops.
    pub(crate) fn check(&self) -> io::Result<()> {
        if self.is_said() { Err(Self::error()) } else { Ok(()) }
    }

    /// Says it when what is returned is dropped, unless that is told not to.
    pub(crate) fn when_dropped(&self) -> WhenDropped {
        WhenDropped(Some(self.clone()))
    }

    fn error() -> io::Error {
        io::Error::other("the replica stops")
    }
}

/// See [`Closing::when_dropped`].
#[must_use = "dropped, it says that the replica stops"]
pub(crate) struct WhenDropped(Option<Closing>);

impl WhenDropped {
    /// The replica goes on.
    pub(crate) fn never(mut self) {
        self.0 = None;
    }
}

impl Drop for WhenDropped {
    fn drop(&mut self) {
        if let Some(closing) = self.0.take() {
            closing.say();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_waits_hears_it_before_and_after_it_was_said() {
        let closing = Closing::default();
        assert_eq!(closing.unless(async { 7 }).await.unwrap(), 7);
        let waiting = crate::runtime::spawn({
            let closing = closing.clone();
            async move { closing.unless(std::future::pending::<()>()).await }
        });
        tokio::task::yield_now().await;
        closing.when_dropped().never();
        assert!(closing.check().is_ok());
        drop(closing.when_dropped());
        assert!(waiting.await.unwrap().is_err());
        assert!(closing.unless(std::future::pending::<()>()).await.is_err());
        assert!(closing.sleep(Duration::from_secs(60)).is_err());
    }
}
