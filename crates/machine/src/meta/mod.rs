//! The meta machine: the cluster itself.
//!
//! Nodes, the layout, projects and API keys: small, read on every request,
//! written seldom. Its whole state is a value in memory ([`MetaState`]), rebuilt
//! from its records at start, so its view is the state itself. A command gives
//! records to write; [`MetaState::absorb`] takes the same records in, so
//! that what is in memory and what is on disk can't differ.
//!
//! | file | idea |
//! |---|---|
//! | `record` | what the state is made of, and its bytes |
//! | `state` | the records, gathered for reading |
//! | `command` | what may be asked to change, and its bytes |
//! | `apply` | command + state → records + answer |

mod apply;
mod command;
mod record;
mod state;

#[cfg(test)]
mod tests;

pub use apply::{MetaAnswer, apply};
pub use command::{IfExists, MetaCommand, NewKey};
pub use record::{
    ApiKey, Founding, GoneNode, KeyHash, MetaRecord, Node, NodeAddresses, Project, RecordName,
    Recovery, Role, WEIGHT_DEFAULT,
};
pub use state::MetaState;
