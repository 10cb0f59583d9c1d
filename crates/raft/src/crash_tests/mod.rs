//! Crashes at random points, over the log *and* the store: what comes back is what was there.
//!
//! One replica each of a few groups, on the node's real parts: `log_store` over a real WAL, whose
//! disk is the simulated one; `applier` over a real `engine` on a real RocksDB directory. In place
//! of openraft a seeded hand does what openraft does, in the order it does it: votes, appends,
//! commits, truncations of what was never committed, flushes, purges behind them, and a snapshot
//! from a peer now and then.
//!
//! Then the power goes, at any write or sync of the log, or between two; or only the process dies.
//!
//! - The log's half loses any of what was not synced: sectors, names, fronts of writes.
//! - The store's half goes back to a hard-linked copy of its directory that was taken behind a
//!   flush: any copy that the log which came back still reaches down to, and no older than the
//!   last snapshot that was installed. What was only in memory is gone.
//!
//! Both are opened again the way the node does it, openraft's own start included: it applies from
//! the store's durable mark to the committed index, through the real applier. The verdict:
//!
//! | what | holds |
//! |---|---|
//! | log, votes, marks, purge notes | one moment of the run, the same for all groups, and none before the last acknowledgement (I4, I6, I11, I12) |
//! | `purged ≤ flushed ≤ applied ≤ last`, and no gap between store and log | after each step and each crash (I5) |
//! | the state | that of the machine on plain maps after exactly as many commands (I7, I8) |
//! | acknowledged commands | all of them are in the log or in the store |
//! | the replica's own marks | never say that the log lost something: no crash quarantines anybody |
//!
//! `STEMEDB_CRASH_POINTS` asks for more or fewer (2,000 by default),
//! `STEMEDB_SEED` replays one seed. Completions come on the log's own thread, so a seed repeats as
//! far as that thread's batches do.

mod copies;
mod history;
mod life;
mod state;

use life::Tally;

/// Crash points of one seed before everything begins anew: states must stay small.
const POINTS_PER_SEED: u64 = 24;

fn asked(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn whatever_a_crash_takes_nothing_acknowledged_is_lost_and_the_state_is_that_of_its_commands() {
    let points = asked("STEMEDB_CRASH_POINTS").unwrap_or(2000);
    let one = asked("STEMEDB_SEED");
    let first = one.unwrap_or(1);
    let mut tally = Tally::default();
    let mut seed = first;
    while tally.points < points && (one.is_none() || seed == first) {
        life::run(seed, POINTS_PER_SEED.min(points - tally.points), &mut tally);
        seed += 1;
    }
    println!("crash test: seeds {first} to {}, {tally}, lost 0", seed - 1);
    assert!(one.is_some() || tally.is_telling(), "too little happened to prove anything: {tally}");
}
