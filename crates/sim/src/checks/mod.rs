//! What must hold of a run, one file per property.
//!
//! | file | property |
//! |---|---|
//! | `linearizable` | each key behaves as one register (Herlihy, Wing 1990) |
//! | `acknowledged` | no acknowledged write is lost; revisions go up and are given once |
//! | `leaders` | one leader per term |
//! | `replicas` | equal entries applied, equal rows |
//! | `order` | purged ≤ flushed ≤ applied; nothing goes back |
//!
//! That a replica which was given up never speaks again is watched by the network itself.

pub mod acknowledged;
pub mod leaders;
pub mod linearizable;
pub mod order;
pub mod replicas;
