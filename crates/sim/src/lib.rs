//! A cluster in one thread, from one seed.
//!
//! A fault that needs three nodes, a slow disk and a lost packet at one moment
//! will not come twice by itself. Where chance, time, disk and network are all
//! drawn from one seed, it comes as often as it is asked for, and again when it is looked into.
//! FoundationDB and TigerBeetle are tested this way.
//!
//! What runs is the real thing: openraft, our log store over the real log, the applier, the
//! machines, snapshots, placement. What is simulated are the clock (tokio's, paused), the network
//! (`net`), the log's disk (`wal::disk::sim`), the store's disk (`engine::MapStore`), and
//! processes (`process`), which can be killed and paused wherever their tasks stand.
//!
//! Nothing here reads a clock, an environment or the order of a hash map: the
//! same seed gives the same run, and [`trace::Trace::hash`] is how that is checked.
//!
//! | file | idea |
//! |---|---|
//! | `draw` | chance from a seed |
//! | `schedule` | what goes wrong when; pure |
//! | `run` | one seed: safety phase, liveness phase, verdict |
//! | `node`, `process` | a node: what survives it, what runs, and how that dies |
//! | `rows` | a node's store: a map, or RocksDB; and what a crash leaves of it |
//! | `net` | messages that are late, lost, repeated, cut off |
//! | `mover` | layouts and the moves they ask for, until the node's own rebalancer joins |
//! | `client`, `history` | what clients ask and hear |
//! | `clock` | the time that leases are measured by |
//! | `checks` | what must hold of a run, one file per property |
//! | `trace` | what happened, as text and as one hash |
//! | `minimise` | the few faults of many that make a run fail |
//!
//! Left out: the gateway, gossip and whatever else stands in `stemedb`; the real rebalancer, which
//! is to come; and RocksDB's own crashes, which `crates/raft` tests on real files.

pub mod checks;
pub mod client;
pub mod clock;
pub mod draw;
pub mod history;
pub mod minimise;
pub mod mover;
pub mod net;
pub mod node;
pub mod process;
pub mod rows;
pub mod run;
pub mod schedule;
pub mod trace;
