//! Where callers sleep that wait for a sync.
//!
//! What waits in the queue becomes durable together, in one round. So there are two gates, one
//! for the round that is being written and one for the next, and each opens for everybody
//! behind it with one call to the kernel; a call for each sleeper would cost the writer more
//! than a sync does when there are many. Gates are used by turns: nobody can be behind a gate
//! for the round after next, since that one begins to gather when this one is over.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Both gates.
#[derive(Debug, Default)]
pub(crate) struct Gates([Gate; 2]);

#[derive(Debug, Default)]
struct Gate {
    seen: Mutex<Seen>,
    opened: Condvar,
}

/// What those behind a gate look at.
#[derive(Debug, Default)]
struct Seen {
    /// The last round through this gate that is durable.
    durable: u64,
    /// Why no further one will be.
    failed: Option<Arc<str>>,
}

impl Gates {
    /// Sleeps until the round is durable.
    ///
    /// # Errors
    /// The log failed before it was.
    pub(crate) fn wait(&self, round: u64) -> Result<(), Arc<str>> {
        let gate = self.of(round);
        let mut seen = gate.seen();
        while seen.durable < round {
            if let Some(reason) = &seen.failed {
                return Err(reason.clone());
            }
            seen = gate.opened.wait(seen).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }

    /// Lets those through who wait for this round, which is durable.
    pub(crate) fn open(&self, round: u64) {
        let gate = self.of(round);
        gate.seen().durable = round;
        gate.opened.notify_all();
    }

    /// Sends everybody away who waits for a round that is not durable, now or later.
    pub(crate) fn fail(&self, reason: &Arc<str>) {
        for gate in &self.0 {
            gate.seen().failed.get_or_insert_with(|| reason.clone());
            gate.opened.notify_all();
        }
    }

    fn of(&self, round: u64) -> &Gate {
        &self.0[(round % 2) as usize]
    }
}

impl Gate {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
