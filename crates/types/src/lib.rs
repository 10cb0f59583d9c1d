//! The words every room shares.
//!
//! Ids, names with their bounds, the layout, and the byte codec that every
//! on-disk and on-wire format of ours is written with. No IO, no async, no
//! clock. A type moves here only when two crates need it; everything else
//! stays in the room that owns it.
//!
//! | file | idea |
//! |---|---|
//! | `ids` | who and what: node, cluster, replica, group, shard, project |
//! | `names` | bucket and project names, keys: checked once, then trusted |
//! | `limits` | every size bound of the contract, by name |
//! | `layout` | which nodes hold which shard, at one epoch |
//! | `codec` | how bytes are put together and taken apart without a panic |

pub mod codec;
mod ids;
mod layout;
pub mod limits;
mod names;

pub use codec::{DecodeError, Decoder, Encoder};
pub use ids::{ClusterId, GroupId, NodeId, ProjectId, ReplicaId, Revision, ShardId};
pub use layout::{Layout, Replica, ShardLayout};
pub use names::{BucketName, Key, NameError, ProjectName};
