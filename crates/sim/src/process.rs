//! A simulated process: its tasks, which can be paused and killed together, and its chance.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use stemedb_raft::runtime::Host;
use tokio::task::AbortHandle;
use tokio::time::Instant;

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
    /// How often its tasks ran at one moment of simulated time, and which.
    runs: (Instant, u64),
    spins: bool,
}

/// Tasks that run so often while no time passes would do so for ever.
const RUNS_MAX: u64 = 1_000_000;

/// Ended tasks are forgotten once there are so many more.
const TASKS_SWEPT: usize = 256;

impl Process {
    /// A process that runs.
    pub fn new(draw: Draw) -> Arc<Self> {
        let (waiting, tasks) = (Vec::new(), Vec::new());
        let runs = (Instant::now(), 0);
        let state = State { draw, paused: false, dead: false, waiting, tasks, runs, spins: false };
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

    /// Whether it was stopped because it ran on and on while no time passed.
    pub fn spins(&self) -> bool {
        self.state().spins
    }

    /// Whether it has ended.
    pub fn is_dead(&self) -> bool {
        self.state().dead
    }
}

impl Host for Process {
    fn runs(&self, waker: &Waker) -> bool {
        let mut state = self.state();
        if state.dead || state.spins {
            return false;
        }
        let now = Instant::now();
        state.runs = if state.runs.0 == now { (now, state.runs.1 + 1) } else { (now, 0) };
        state.spins = state.runs.1 > RUNS_MAX;
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
