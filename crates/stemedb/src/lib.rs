//! The façade: a node of StemeDB inside your program.
//!
//! [`Node::start`] opens two directories and gives you a running node: alone,
//! with [`NodeOptions::alone`], or as a member of a cluster. Inside your
//! program you use it through [`Node::bucket`]; a front door (the HTTP gateway)
//! sees only the trait [`Front`].
//!
//! ```text
//!  Front ─► admit ─► call ─┬─► execute ─► raft          this node leads the shard
//!                          └─► wire ─► another node's execute
//!  life ─► founding, reconcile ─► groups                which groups are open here
//! ```
//!
//! | file | idea |
//! |---|---|
//! | `front`, `error` | what may be asked, what may come back |
//! | `options`, `node`, `bucket` | start it, stop it, use it from inside |
//! | `identity` | who the node is, on both volumes |
//! | `founding` | how a cluster comes to be, exactly once (pure) |
//! | `entering` | blank → founded or joined |
//! | `aside` | a lost volume, a removed node: the old data out of the way, and a new node |
//! | `life` | what a member does, from its start to its end |
//! | `moving`, `rebalance` | brings groups to the layout; has the layout follow the members |
//! | `handover`, `preference` | gives leaderships away: when the node goes down, and to whom the layout prefers |
//! | `liveness`, `failover` | which members are there; another leads where the leader is gone |
//! | `operator`, `draining`, `preview`, `progress` | what an operator asks: words; leaving by command; what a change would move; how far it is |
//! | `measured` | how the shards are, from their leaders |
//! | `heal` | damaged replicas come back from their peers |
//! | `reconcile` | layout, what is held and what is set aside → which groups to open and close (pure) |
//! | `replicas` | opens, begins and leaves the replicas of this node |
//! | `held` | which replicas this node holds, on disk |
//! | `promises` | whether it has promised leaders leases |
//! | `framed`, `replace_file` | the small files: how each is known to be whole, and replaced |
//! | `quarantine`, `damage` | replicas whose bytes are damaged: judged, set aside, remembered |
//! | `router` | bucket → shard → leader (pure) |
//! | `auth` | key → role → allowed? (pure) |
//! | `admit` | lets a caller in, asking the meta leader if it must |
//! | `call`, `execute` | a data call at its origin, and where it is led |
//! | `reading` | reads at a replica that does not lead, and reads that may be older |
//! | `fingerprint` | what a write means, for names that stand for one (pure) |
//! | `meta_call` | commands for the cluster |
//! | `peers`, `wire` | what nodes ask each other, and its bytes |
//! | `scrub` | reads everything on disk once in a while, and checks it |
//! | `lost`, `recover` | the disks of a majority are gone: said, and gone on from by a person |
//! | `check` | the directories of a node that does not run: faults, and what can be mended |
//! | `disk` | free bytes → what a volume can still take (pure) |
//! | `volumes` | looks at the volumes, tells peers, keeps out what there is no room for |
//! | `status`, `monitor` | what a node says of itself |
//! | `profile` | what nodes tell of themselves by gossip, and what becomes of it |
//!
//! Left out until their parts: quotas and limits.

mod admit;
mod aside;
mod auth;
mod bucket;
mod call;
pub mod check;
mod core;
mod damage;
mod disk;
mod draining;
mod entering;
mod error;
mod execute;
mod failover;
mod fingerprint;
mod founding;
mod framed;
mod front;
mod handover;
mod heal;
mod held;
mod identity;
mod life;
mod liveness;
mod lost;
mod measured;
mod meta_call;
mod monitor;
mod moving;
mod node;
mod operator;
mod options;
mod peers;
mod preference;
mod preview;
mod profile;
mod progress;
mod promises;
mod quarantine;
mod reading;
mod rebalance;
mod reconcile;
pub mod recover;
mod replace_file;
mod replicas;
mod router;
mod scrub;
mod status;
mod volumes;
mod wire;

pub use bucket::Bucket;
pub use error::{Error, Unavailable};
pub use fingerprint::fingerprint;
pub use front::{
    AdminAnswer, AdminCall, Admission, Answered, Call, Caller, ClusterStatus, Consistency,
    Credential, Door, Front, Member, MemberState, Need, Op, OpAnswer, Quarantined, Readiness,
    Served, Startup,
};
pub use node::Node;
pub use operator::{
    Change, Drain, DrainState, MoveStep, NewMember, Place, PlannedMove, Preview, Progress,
    ShardMove,
};
pub use options::{Auth, Fatal, Gossip, NodeOptions, StartError};
pub use stemedb_engine::Budget;
pub use stemedb_membership::{JoinTarget, bind as bind_gossip};
pub use stemedb_raft::GroupOptions;

/// The words of the state machines that calls and answers are made of.
pub mod shard {
    pub use stemedb_machine::shard::{
        Answer, AssertItem, AssertStatus, Attestation, ClaimAnswer, Condition, Cursor, Fingerprint,
        Head, IdempotencyKey, KeyRange, Once, Pattern, Read, ReadAnswer, ScanRow, TextMatch,
        Version, Write,
    };
}

/// The words of the meta group.
pub mod meta {
    pub use stemedb_machine::meta::{ApiKey, KeyHash, Node, NodeAddresses, Project, Role};
}
