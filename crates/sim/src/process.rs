//! A simulated process: its tasks, which can be paused and killed together, and its chance.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use stemedb_raft::runtime::Host;
use tokio::task::AbortHandle;

use crate::draw::Draw;

/// One life of a node. It ends once and for all; the next life is another process.
pub struct Process {
    state: Mutex<State>,
}

struct State {
    draw: Draw,
    paused: bool,
    dead: bool,
    /// Tasks that wanted to run while it was paused.
    waiting: Vec<Waker>,
    tasks: Vec<AbortHandle>,
}

/// Ended tasks are forgotten once there are so many more.
const TASKS_SWEPT: usize = 256;

impl Process {
    /// A process that runs.
    pub fn new(draw: Draw) -> Arc<Self> {
        let (waiting, tasks) = (Vec::new(), Vec::new());
        let state = State { draw, paused: false, dead: false, waiting, tasks };
        Arc::new(Self { state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets none of its tasks run until [`Process::resume`], as SIGSTOP does.
    pub fn pause(&self) {
        self.state().paused = true;
    }

    /// Lets its tasks run again.
    pub fn resume(&self) {
        let mut state = self.state();
        state.paused = false;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Ends all its tasks where they stand.
    pub fn kill(&self) {
        let mut state = self.state();
        (state.dead, state.paused) = (true, false);
        let (tasks, waiting) =
            (std::mem::take(&mut state.tasks), std::mem::take(&mut state.waiting));
        drop(state);
        tasks.iter().for_each(AbortHandle::abort);
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Whether it has ended.
    pub fn is_dead(&self) -> bool {
        self.state().dead
    }
}

impl Host for Process {
    fn runs(&self, waker: &Waker) -> bool {
        let mut state = self.state();
        if state.dead {
            return false;
        }
        if state.paused && !state.waiting.iter().any(|waiting| waiting.will_wake(waker)) {
            state.waiting.push(waker.clone());
        }
        !state.paused
    }

    fn adopt(&self, task: AbortHandle) {
        let mut state = self.state();
        if state.dead {
            drop(state);
            return task.abort();
        }
        if state.tasks.len() >= TASKS_SWEPT && state.tasks.len().is_power_of_two() {
            state.tasks.retain(|task| !task.is_finished());
        }
        state.tasks.push(task);
    }

    fn draw(&self) -> u64 {
        self.state().draw.word()
    }
}
