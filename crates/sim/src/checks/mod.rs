//! What must hold of a run, one file per property.
//!
//! | file | property |
//! |---|---|
//! | `linearizable` | each key behaves as one register (Herlihy, Wing 1990) |
//! | `acknowledged` | no acknowledged write is lost; revisions go up and are given once |
//! | `leaders` | one leader per term |
//! | `replicas` | equal entries applied, equal rows |
//! | `order` | purged ≤ flushed ≤ applied; nothing goes back |
//! | `logs` | an applied index holds the same entry everywhere |
//! | `layouts` | one layout per epoch |
//! | `voters` | between moves a group has the voters it should have |
//! | `forgotten` | a replica that was given up never speaks again |
//! | `damage` | damage is found only where it was done |

pub mod acknowledged;
pub mod damage;
pub mod forgotten;
pub mod layouts;
pub mod leaders;
pub mod linearizable;
pub mod logs;
pub mod order;
pub mod replicas;
pub mod voters;

/// What is watched from the first look to the last.
#[derive(Debug, Default)]
pub struct Checks {
    /// One leader per term.
    pub leaders: leaders::Leaders,
    /// The order of a replica's marks.
    pub order: order::Order,
    /// Equal entries, equal rows.
    pub replicas: replicas::Replicas,
    /// Equal entries.
    pub logs: logs::Logs,
    /// One layout per epoch.
    pub layouts: layouts::Layouts,
}
