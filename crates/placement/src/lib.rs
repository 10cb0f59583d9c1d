//! Members, zones, weights and the previous layout in; the next layout and its moves out; pure.
//!
//! Whenever a node joins, leaves or changes, somebody must say which node holds
//! which shard from now on. [`fn@plan`] says it, from its arguments alone: no
//! clock, no chance, no float, and nothing is read in the order of a hash map,
//! so every node that asks the same question gets the same bytes.
//!
//! What is wanted, the more important first:
//!
//! 1. a shard's replicas are on distinct nodes, min(replication factor, largest
//!    odd number ≤ members) of them;
//! 2. they lie in as many zones as can be, and as evenly in them as can be;
//! 3. every node holds its weighted share of all replicas, rounded up or down;
//! 4. as few replicas as possible are anywhere but in the previous layout;
//! 5. every node is the preferred leader of as many shards as any other, give
//!    or take one where the replicas allow it; and as few leaders change as
//!    possible;
//! 6. what is still open is decided by a fixed hash, which mixes the nodes well.
//!
//! How. (1) to (3) become bounds on an integral flow from shards over zones to
//! nodes (`share`), a previous replica costs nothing and a new one costs one,
//! and the cheapest flow is the fewest moves: (4) is therefore not a heuristic,
//! it is proven by the optimality of min-cost flow (`flow`; Ahuja, Magnanti,
//! Orlin, *Network Flows*, 1993, chapters 9 and 10). That such a flow exists
//! follows from the shares themselves: spread each node's share evenly over all
//! shards, and every bound holds in fractions, hence also in whole numbers.
//! Garage, an object store, computes its layout by flow as well; CRUSH and
//! consistent hashing are simpler but balance only on average. (5) is an optimal
//! semi-matching (Harvey, Ladner, Lovász, Tamir, 2003), with the changes as
//! second cost (`leaders`).
//!
//! The plan is the goal. The way there is `steps`: [`advance`] lets as much of it begin as may be
//! under way at once, [`next_step`] brings one group to its layout.
//!
//! Left out, with the cost: shards count alike whatever their size, so a node
//! may hold more bytes than its share.
//!
//! | file | idea |
//! |---|---|
//! | `plan` | the question, the answer, and what changed between two layouts |
//! | `share` | how many replicas each zone and each node should hold |
//! | `flow` | min-cost flow |
//! | `replicas` | which node holds which shard, as a flow |
//! | `leaders` | which replica leads |
//! | `steps` | from one layout to the next, and from a group's members to its layout |
//! | `tie` | the fixed hash |

mod flow;
mod leaders;
mod plan;
mod replicas;
mod share;
mod steps;
mod tie;

pub use plan::{Error, Member, Move, Plan, Request, plan};
pub use share::voters;
pub use steps::{Goal, Progress, Standing, Step, advance, next_step};
