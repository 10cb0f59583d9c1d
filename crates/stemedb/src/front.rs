//! What a front door may ask of a node: the one trait the gateway knows.
//!
//! A request comes in two steps, so that a caller without a key is turned away
//! before a byte of the body is read: [`Front::admit`] says who it is, then
//! [`Front::call`] or [`Front::admin`] does what was asked. Where the data
//! lives is the node's business; a door only says whether the request may be
//! sent on ([`Door`]).

use std::time::Duration;

use futures_util::future::BoxFuture;
use stemedb_claims::AgentId;
use stemedb_machine::meta::{ApiKey, KeyHash, Node, Project, Role};
use stemedb_machine::shard::{Answer, Once, Read, ReadAnswer, Write};
use stemedb_types::{
    BucketName, ClusterId, GroupId, Layout, NodeId, ProjectId, ProjectName, ReplicaId, Revision,
};
use zeroize::Zeroizing;

use crate::Error;
use crate::operator::{Change, Preview, Progress};

/// Where a request came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// The node's own port: served if this node leads it, or holds it and a read is asked for; else
    /// [`Error::NotOwner`].
    Own,
    /// The gateway: sent on to the owner, at most once.
    Gateway,
}

/// An API key as presented. Wiped from memory when dropped, never printed.
#[derive(Clone)]
pub struct Credential(Zeroizing<String>);

impl Credential {
    /// Takes a key as it came.
    pub fn new(key: impl Into<String>) -> Self {
        Self(Zeroizing::new(key.into()))
    }

    /// The key. Only for hashing it and for passing it to the owner.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credential(…)")
    }
}

/// What a request wants to do, as far as roles go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Read a project's data: every role but `backup`.
    Read,
    /// Write a project's data: `root`, `admin`, `write_agent`.
    Write,
    /// Read what admins read: `root`, `admin`, `auditor`.
    Inspect,
    /// Change the cluster: `root`, `admin`.
    Administer,
}

/// Who a request comes from.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The label of the key; `anonymous` with auth off.
    pub label: String,
    /// What the key may do.
    pub role: Role,
    /// The project the request is about: the key's own, or the one the `StemeDB-Project` header
    /// names for a role of the cluster. `None` for [`Need::Inspect`] and [`Need::Administer`].
    pub project: Option<(ProjectId, ProjectName)>,
}

/// A request that was let in. Given out by [`Front::admit`] only.
#[derive(Clone, Debug)]
pub struct Admission {
    /// Who it is.
    pub caller: Caller,
    /// What it presented; the owner checks it again. `None` with auth off.
    pub credential: Option<Credential>,
}

impl Admission {
    /// The agent in whose name plain statements of this caller stand: `key:<label>`.
    pub fn agent(&self) -> Result<AgentId, Error> {
        AgentId::key(&self.caller.label)
            .map_err(|cause| Error::Internal(format!("a label that is no agent: {cause}")))
    }
}

/// What to do in a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Change it.
    Write(Write),
    /// Read it.
    Read(Read),
}

/// How new what a read shows must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// As new as anything that anybody was told before the read began.
    #[default]
    Linearizable,
    /// No older than a revision of the bucket that the caller has seen. It may be served by any replica
    /// that has come so far; where none has, as [`Consistency::Linearizable`].
    Session {
        /// The newest revision the caller has seen.
        seen: Revision,
    },
    /// Whatever a replica has, at once, and how old it may be.
    Stale,
}

/// How a read was served that may show less than the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// It shows what the caller has seen, and perhaps more.
    Session,
    /// It shows everything that was acknowledged so long ago, and perhaps more.
    Stale {
        /// At most so long ago, in ms.
        age_ms: u64,
    },
}

/// A request about one bucket.
#[derive(Clone, Debug)]
pub struct Call {
    /// Who asks.
    pub admission: Admission,
    /// Where it came in.
    pub door: Door,
    /// How long the caller waits, from now.
    pub deadline: Duration,
    /// Which bucket.
    pub bucket: BucketName,
    /// What to do.
    pub op: Op,
    /// How new what it reads must be; writes don't ask.
    pub consistency: Consistency,
    /// The name of a write that is to be done once, however often it is asked for; no read has one.
    pub once: Option<Once>,
}

/// What came of a [`Call`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpAnswer {
    /// Of a write. A failed condition is an answer too: see [`Answer`].
    Write(Answer),
    /// Of a read.
    Read(ReadAnswer),
    /// Of a read that is not linearizable.
    Weaker(ReadAnswer, Served),
}

/// An answer, and who gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The answer.
    pub answer: OpAnswer,
    /// The name of the node that served it.
    pub served_by: String,
}

/// A request about the cluster. Sent on to the meta leader, whatever the door.
#[derive(Clone, Debug)]
pub enum AdminCall {
    /// Make an API key.
    CreateKey {
        /// What a person calls it.
        label: String,
        /// What it may do.
        role: Role,
        /// Its project, for the roles of a project; made if new.
        project: Option<ProjectName>,
        /// The key itself, if an escrowed one is imported; else one is made.
        key: Option<Credential>,
        /// Give back the record of a living key of this label instead of refusing.
        return_existing: bool,
    },
    /// End an API key. Returns when every member that is alive has applied it.
    RevokeKey {
        /// Which key.
        hash: KeyHash,
    },
    /// Has a member hold and lead nothing from now on, where the others suffice; or lets it again.
    /// Returns once every member that is alive knows it: how far it is tells [`Front::progress`].
    Drain {
        /// The member's id or name.
        member: String,
        /// Whether it is to be drained.
        on: bool,
    },
    /// Does without a member for good. [`Error::Conflict`] unless it holds nothing, or is silent and
    /// every shard goes on without it.
    Remove {
        /// The member's id or name.
        member: String,
    },
    /// Lets nothing begin to move; or lets it again. What is under way ends.
    Pause {
        /// Whether nothing is to begin.
        on: bool,
    },
}

/// What came of an [`AdminCall`].
#[derive(Clone, Debug)]
pub enum AdminAnswer {
    /// The key's record.
    Key {
        /// Without the key.
        record: ApiKey,
        /// Its project, for the roles of a project.
        project: Option<Project>,
        /// The key, if it was made now: the only time it is shown.
        secret: Option<Credential>,
        /// Whether it was made now.
        created: bool,
    },
    /// Done.
    Done,
    /// Done to a member.
    Member {
        /// Its id.
        node: NodeId,
        /// Its name.
        name: String,
    },
}

/// Whether this node can serve, and if not, why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readiness {
    /// It can.
    pub ready: bool,
    /// What is in the way, or worth knowing although it is not.
    pub reasons: Vec<String>,
}

/// How far the start has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Startup {
    /// The logs were replayed.
    pub done: bool,
    /// Log entries applied again so far.
    pub replayed_entries: u64,
    /// Log entries to apply again in all.
    pub total_entries: u64,
}

/// Whether a member answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberState {
    /// Gossip hears it.
    Alive,
    /// Gossip says it is down.
    Down,
    /// Registered, but gossip has not heard of it since this node started.
    Unknown,
}

/// A member and how it is.
#[derive(Clone, Debug)]
pub struct Member {
    /// What it registered.
    pub node: Node,
    /// Whether it answers.
    pub state: MemberState,
    /// How many shards it leads, as far as this node knows.
    pub leaders: u32,
    /// The version of its software, once it was heard to tell it.
    pub version: Option<String>,
}

/// The cluster at a glance, as this node sees it.
#[derive(Clone, Debug)]
pub struct ClusterStatus {
    /// The cluster's id; `None` before it is founded or joined.
    pub cluster: Option<ClusterId>,
    /// This node.
    pub node: NodeId,
    /// This node's name.
    pub node_name: String,
    /// The layout this node acts on.
    pub layout: Layout,
    /// Members by id.
    pub members: Vec<Member>,
    /// Shards without a known leader.
    pub shards_leaderless: u32,
    /// Shards with fewer living replicas than voters.
    pub shards_under_replicated: u32,
    /// Shards whose group has not come to the layout yet, as far as this node holds them.
    pub shards_moving: u32,
    /// Replicas of this node that are set aside, by group.
    pub quarantined: Vec<Quarantined>,
}

/// A replica that is damaged: it neither votes nor acknowledges, and its group goes on without it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    /// Its group.
    pub group: GroupId,
    /// What the group calls it.
    pub replica: ReplicaId,
    /// What is damaged: `log` or `store`.
    pub part: &'static str,
    /// What was read, and what is wrong with it.
    pub cause: String,
    /// Since when, in ms since 1970.
    pub since_ms: u64,
}

/// What a front door may ask of a node.
pub trait Front: Send + Sync + 'static {
    /// Says who the caller is and whether it may do what it wants.
    ///
    /// `project` is the `StemeDB-Project` header, for roles of the cluster. Errors:
    /// [`Error::Unauthenticated`], [`Error::Forbidden`], [`Error::Malformed`] (a role of the
    /// cluster named no project), [`Error::Unavailable`] (no meta quorum was heard of for 5 s).
    fn admit(
        &self,
        credential: Option<Credential>,
        project: Option<ProjectName>,
        need: Need,
    ) -> BoxFuture<'_, Result<Admission, Error>>;

    /// Reads or writes one bucket.
    fn call(&self, call: Call) -> BoxFuture<'_, Result<Answered, Error>>;

    /// Changes the cluster.
    fn admin(
        &self,
        admission: Admission,
        call: AdminCall,
    ) -> BoxFuture<'_, Result<AdminAnswer, Error>>;

    /// API keys without the keys, by hash, living ones first; and their projects.
    fn keys(&self) -> Vec<(ApiKey, Option<Project>)>;

    /// The cluster at a glance.
    fn status(&self) -> ClusterStatus;

    /// How far what moves has come. [`Error::Unavailable`] without a meta quorum.
    fn progress(&self) -> BoxFuture<'_, Result<Progress, Error>>;

    /// What a change of members would move; nothing is changed. [`Error::NotFound`] and
    /// [`Error::Malformed`] if it makes no sense, [`Error::Unavailable`] without a meta quorum.
    fn preview(&self, change: Change) -> BoxFuture<'_, Result<Preview, Error>>;

    /// Whether this node can serve.
    fn readiness(&self) -> Readiness;

    /// How far the start has come.
    fn startup(&self) -> Startup;
}
