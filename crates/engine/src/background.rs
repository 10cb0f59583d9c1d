//! Threads beside those that callers wait for: they are nicer, rest, and end when it is said.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How much nicer than others such a thread is.
const NICENESS: i32 = 10;

/// Makes this thread nicer.
pub(crate) fn be_nice() {
    // Where that is not allowed, it is only less nice.
    let _ = rustix::process::setpriority_process(None, NICENESS);
}

/// Says once that a thread is to end, and wakes it where it rests.
#[derive(Default)]
pub(crate) struct Stop {
    said: Mutex<bool>,
    heard: Condvar,
}

impl Stop {
    pub(crate) fn say(&self) {
        *self.said() = true;
        self.heard.notify_all();
    }

    pub(crate) fn is_said(&self) -> bool {
        *self.said()
    }

    /// Rests for so long, or until it is said; whether it is.
    pub(crate) fn rest(&self, rest: Duration) -> bool {
        let waited = self.heard.wait_timeout_while(self.said(), rest, |said| !*said);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn said(&self) -> MutexGuard<'_, bool> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
