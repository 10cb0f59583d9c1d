//! What the meta state is made of. Each record has a name and a value; writing
//! a record again replaces it.

use std::fmt;

use stemedb_types::{
    ClusterId, DecodeError, Decoder, Encoder, Layout, NodeId, ProjectId, ProjectName, ReplicaId,
};

/// The SHA-256 of an API key: all of a key that is ever kept.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyHash(pub [u8; 32]);

impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyHash({self})")
    }
}

/// What a key may do. The first four belong to the cluster, the others to one project.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Everything, and the only one that makes root and admin keys.
    Root,
    /// Everything but that.
    Admin,
    /// Reads what admins read.
    Auditor,
    /// Takes and restores backups.
    Backup,
    /// Reads and writes one project.
    WriteAgent,
    /// Reads one project.
    ReadAgent,
}

impl Role {
    /// Every role, in the order of its byte.
    pub const ALL: [Role; 6] =
        [Role::Root, Role::Admin, Role::Auditor, Role::Backup, Role::WriteAgent, Role::ReadAgent];

    /// The role's name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Root => "root",
            Role::Admin => "admin",
            Role::Auditor => "auditor",
            Role::Backup => "backup",
            Role::WriteAgent => "write_agent",
            Role::ReadAgent => "read_agent",
        }
    }

    /// The role of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == name)
    }

    /// Whether keys of this role belong to one project.
    pub fn of_project(self) -> bool {
        matches!(self, Role::WriteAgent | Role::ReadAgent)
    }

    fn decode(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let got = from.u8()?;
        let role = Self::ALL.get(usize::from(got)).copied();
        role.ok_or(DecodeError::Value { what: "a role", got: got.into() })
    }
}

/// What was fixed when the cluster was founded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Founding {
    /// The cluster's id.
    pub cluster: ClusterId,
    /// Replicas of each shard.
    pub replication_factor: u8,
    /// The founder's clock, in ms since 1970.
    pub at_ms: u64,
}

/// Where a node can be reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeAddresses {
    /// Its own HTTP API, `host:port`.
    pub http: String,
    /// Its gateway, `host:port`.
    pub gateway: String,
    /// The peer plane, `host:port`.
    pub grpc: String,
    /// SWIM gossip, `host:port`.
    pub gossip: String,
}

/// A member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its id, for ever.
    pub id: NodeId,
    /// Its label; a person chose it, or it is the advertised host.
    pub name: String,
    /// Its failure domain; empty if none was named.
    pub zone: String,
    /// Where it can be reached, as it last said.
    pub addresses: NodeAddresses,
    /// Its replica of the meta group.
    pub meta_replica: ReplicaId,
    /// How much of the data it should hold, relative to the others.
    pub weight: u8,
    /// Since when it is to hold and lead nothing, in ms since 1970, if others can; a person said so.
    pub draining_since_ms: Option<u64>,
}

/// The weight of a node that names none.
pub const WEIGHT_DEFAULT: u8 = 1;

/// A node that is no member any more: its id is not taken in again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoneNode {
    /// Its id, for ever.
    pub id: NodeId,
    /// What its label was.
    pub name: String,
    /// Who has its label now, if another node came for it.
    pub successor: Option<NodeId>,
    /// When it went, in ms since 1970.
    pub at_ms: u64,
}

/// That one member went on alone, after the disks of a majority were lost: what only the others
/// had is lost with them. Kept for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// The member that went on.
    pub by: NodeId,
    /// The cluster it was a member of.
    pub before: ClusterId,
    /// The cluster's id from then on.
    pub after: ClusterId,
    /// When, in ms since 1970.
    pub at_ms: u64,
}

/// A tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Project {
    /// Its id, never used twice.
    pub id: ProjectId,
    /// Its name.
    pub name: ProjectName,
    /// When it was made, in ms since 1970.
    pub created_at_ms: u64,
}

/// An API key, without the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    /// SHA-256 of the key.
    pub hash: KeyHash,
    /// What a person calls it; one living key a label.
    pub label: String,
    /// What it may do.
    pub role: Role,
    /// Its project, for the roles of a project.
    pub project: Option<ProjectId>,
    /// When it was made, in ms since 1970.
    pub created_at_ms: u64,
    /// Who made it: the label of their key, or `start` for the seeded root key.
    pub created_by: String,
    /// When it was revoked, in ms since 1970.
    pub revoked_at_ms: Option<u64>,
}

/// One record of the meta state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetaRecord {
    /// What was fixed when the cluster was founded. One.
    Founding(Founding),
    /// The layout of the newest epoch. One.
    Layout(Layout),
    /// The next replica id. One.
    NextReplica(ReplicaId),
    /// The next project id. One.
    NextProject(ProjectId),
    /// A member.
    Node(Node),
    /// A tenant.
    Project(Project),
    /// A key.
    ApiKey(ApiKey),
    /// A node that was a member. Its [`MetaRecord::Node`] may stand beside it, and counts no more.
    GoneNode(GoneNode),
    /// Since when nothing is to move, in ms since 1970; `None`: it may. One.
    Paused(Option<u64>),
    /// A recovery.
    Recovery(Recovery),
}

/// A record's name: what it replaces.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RecordName(pub Vec<u8>);

/// Version 2: a node has a weight and may be draining; a pause. What has nothing of this is written
/// as version 1, which every member reads.
const RECORD_VERSION: u8 = 2;

impl MetaRecord {
    /// The record's name: a tag, and the id where there is more than one.
    pub fn name(&self) -> RecordName {
        let mut name = vec![self.tag()];
        match self {
            MetaRecord::Node(node) => name.extend_from_slice(&node.id.0.to_be_bytes()),
            MetaRecord::Project(project) => name.extend_from_slice(&project.id.0.to_be_bytes()),
            MetaRecord::ApiKey(key) => name.extend_from_slice(&key.hash.0),
            MetaRecord::GoneNode(gone) => name.extend_from_slice(&gone.id.0.to_be_bytes()),
            MetaRecord::Recovery(one) => name.extend_from_slice(&one.after.0.to_be_bytes()),
            _ => {}
        }
        RecordName(name)
    }

    fn tag(&self) -> u8 {
        match self {
            MetaRecord::Founding(_) => 1,
            MetaRecord::Layout(_) => 2,
            MetaRecord::NextReplica(_) => 3,
            MetaRecord::NextProject(_) => 4,
            MetaRecord::Node(_) => 5,
            MetaRecord::Project(_) => 6,
            MetaRecord::ApiKey(_) => 7,
            MetaRecord::GoneNode(_) => 8,
            MetaRecord::Paused(_) => 9,
            MetaRecord::Recovery(_) => 16,
        }
    }

    fn version(&self) -> u8 {
        match self {
            MetaRecord::Node(node) => node.version(),
            MetaRecord::Paused(_) => 2,
            _ => 1,
        }
    }

    /// Writes the bytes that [`MetaRecord::decode`] reads.
    pub fn encode(&self, out: &mut Encoder) {
        out.u8(self.version());
        out.u8(self.tag());
        match self {
            MetaRecord::Founding(founding) => {
                out.u128(founding.cluster.0);
                out.u8(founding.replication_factor);
                out.varint(founding.at_ms);
            }
            MetaRecord::Layout(layout) => layout.encode(out),
            MetaRecord::NextReplica(id) => out.varint(id.0),
            MetaRecord::NextProject(id) => out.varint(id.0),
            MetaRecord::Node(node) => node.encode(out, self.version()),
            MetaRecord::Project(project) => {
                out.varint(project.id.0);
                out.text(project.name.as_str());
                out.varint(project.created_at_ms);
            }
            MetaRecord::ApiKey(key) => key.encode(out),
            MetaRecord::GoneNode(gone) => gone.encode(out),
            MetaRecord::Paused(since_ms) => out.option(*since_ms, Encoder::varint),
            MetaRecord::Recovery(recovery) => recovery.encode(out),
        }
    }

    /// Reads what [`MetaRecord::encode`] wrote.
    pub fn decode(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let version = from.version("meta record", RECORD_VERSION)?;
        Ok(match from.u8()? {
            1 => MetaRecord::Founding(Founding {
                cluster: ClusterId(from.u128()?),
                replication_factor: from.u8()?,
                at_ms: from.varint()?,
            }),
            2 => MetaRecord::Layout(Layout::decode(from)?),
            3 => MetaRecord::NextReplica(ReplicaId(from.varint()?)),
            4 => MetaRecord::NextProject(ProjectId(from.varint()?)),
            5 => MetaRecord::Node(Node::decode(from, version)?),
            6 => MetaRecord::Project(Project {
                id: ProjectId(from.varint()?),
                name: decode_project_name(from)?,
                created_at_ms: from.varint()?,
            }),
            7 => MetaRecord::ApiKey(ApiKey::decode(from)?),
            8 => MetaRecord::GoneNode(GoneNode::decode(from)?),
            9 => MetaRecord::Paused(from.option(Decoder::varint)?),
            16 => MetaRecord::Recovery(Recovery::decode(from)?),
            got => return Err(DecodeError::Value { what: "a meta record", got: got.into() }),
        })
    }
}

impl NodeAddresses {
    pub(super) fn encode(&self, out: &mut Encoder) {
        for address in [&self.http, &self.gateway, &self.grpc, &self.gossip] {
            out.text(address);
        }
    }

    pub(super) fn decode(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let mut next = || from.text("an address").map(str::to_owned);
        Ok(Self { http: next()?, gateway: next()?, grpc: next()?, gossip: next()? })
    }
}

impl Node {
    /// The first version that has room for it.
    pub(super) fn version(&self) -> u8 {
        let plain = self.weight == WEIGHT_DEFAULT && self.draining_since_ms.is_none();
        if plain { 1 } else { 2 }
    }

    pub(super) fn encode(&self, out: &mut Encoder, version: u8) {
        out.u64(self.id.0);
        out.text(&self.name);
        out.text(&self.zone);
        self.addresses.encode(out);
        out.varint(self.meta_replica.0);
        if version >= 2 {
            out.u8(self.weight);
            out.option(self.draining_since_ms, Encoder::varint);
        }
    }

    pub(super) fn decode(from: &mut Decoder<'_>, version: u8) -> Result<Self, DecodeError> {
        let mut node = Self {
            id: NodeId(from.u64()?),
            name: from.text("a node name")?.to_owned(),
            zone: from.text("a zone")?.to_owned(),
            addresses: NodeAddresses::decode(from)?,
            meta_replica: ReplicaId(from.varint()?),
            weight: WEIGHT_DEFAULT,
            draining_since_ms: None,
        };
        if version >= 2 {
            node.weight = from.u8()?;
            node.draining_since_ms = from.option(Decoder::varint)?;
        }
        Ok(node)
    }
}

impl GoneNode {
    fn encode(&self, out: &mut Encoder) {
        out.u64(self.id.0);
        out.text(&self.name);
        out.option(self.successor, |out, node| out.u64(node.0));
        out.varint(self.at_ms);
    }

    fn decode(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            id: NodeId(from.u64()?),
            name: from.text("a node name")?.to_owned(),
            successor: from.option(|from| from.u64().map(NodeId))?,
            at_ms: from.varint()?,
        })
    }
}

impl Recovery {
    pub(super) fn encode(&self, out: &mut Encoder) {
        out.u64(self.by.0);
        out.u128(self.before.0);
        out.u128(self.after.0);
        out.varint(self.at_ms);
    }

    pub(super) fn decode(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            by: NodeId(from.u64()?),
            before: ClusterId(from.u128()?),
            after: ClusterId(from.u128()?),
            at_ms: from.varint()?,
        })
    }
}

impl ApiKey {
    pub(super) fn encode(&self, out: &mut Encoder) {
        out.raw(&self.hash.0);
        out.text(&self.label);
        out.u8(self.role as u8);
        out.option(self.project, |out, project| out.varint(project.0));
        out.varint(self.created_at_ms);
        out.text(&self.created_by);
        out.option(self.revoked_at_ms, |out, at_ms| out.varint(at_ms));
    }

    pub(super) fn decode(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            hash: decode_hash(from)?,
            label: from.text("a label")?.to_owned(),
            role: Role::decode(from)?,
            project: from.option(|from| from.varint().map(ProjectId))?,
            created_at_ms: from.varint()?,
            created_by: from.text("a label")?.to_owned(),
            revoked_at_ms: from.option(Decoder::varint)?,
        })
    }
}

pub(super) fn decode_hash(from: &mut Decoder<'_>) -> Result<KeyHash, DecodeError> {
    let mut hash = [0; 32];
    hash.copy_from_slice(from.raw(32)?);
    Ok(KeyHash(hash))
}

pub(super) fn decode_project_name(from: &mut Decoder<'_>) -> Result<ProjectName, DecodeError> {
    let refused = DecodeError::Value { what: "a project name", got: 0 };
    from.text("a project name")?.parse().map_err(|_| refused)
}

pub(super) fn decode_role(from: &mut Decoder<'_>) -> Result<Role, DecodeError> {
    Role::decode(from)
}
