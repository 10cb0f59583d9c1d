//! The engine over a real RocksDB: the machine's contract suite, what a crash leaves, snapshots.

// The helpers of tests may unwrap like the tests themselves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod check;
mod common;
mod crash;
mod faulty;
mod fixture;
mod full;
mod history;
mod meta;
mod scrub;
mod snapshot;
mod store;
mod streams;
mod tampered;
mod view;
mod watched;
