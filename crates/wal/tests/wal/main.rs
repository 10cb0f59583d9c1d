//! The log from outside: what callers rely on, what crashes and damage do to it, and its bytes.

// The helpers of tests may unwrap like the tests themselves.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod behaviour;
mod callbacks;
mod common;
mod damage;
mod driven;
mod durable;
mod failure;
mod far;
mod flips;
mod format;
mod model;
mod proof;
mod quarantine;
mod space;
