//! What may be asked of the cluster, and its bytes in the log.

use bytes::Bytes;
use stemedb_types::{DecodeError, Decoder, Encoder, Layout, ProjectName, ReplicaId};

use super::record::{
    ApiKey, Founding, KeyHash, Node, NodeAddresses, Recovery, Role, WEIGHT_DEFAULT, decode_hash,
    decode_project_name, decode_role,
};
use stemedb_types::{ClusterId, NodeId};

/// A change to the cluster, as it stands in the meta group's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetaCommand {
    /// The first entry ever: members, layout and ids as the founder proposed them.
    Found {
        /// What is fixed from now on.
        founding: Founding,
        /// The founding members.
        nodes: Vec<Node>,
        /// The first layout, epoch 1.
        layout: Layout,
        /// The next replica id.
        next_replica: ReplicaId,
    },
    /// A node says who and where it is: a new member, or one that moved.
    Register {
        /// Its id.
        id: NodeId,
        /// Its label.
        name: String,
        /// Its failure domain.
        zone: String,
        /// Where it can be reached.
        addresses: NodeAddresses,
        /// How much of the data it should hold, relative to the others.
        weight: u8,
    },
    /// A node that is gone for good, or is to be done without: a member no more.
    Remove {
        /// Its id.
        id: NodeId,
        /// When, in ms since 1970.
        at_ms: u64,
    },
    /// A new node in the place of one that has its label: that one lost its disk.
    Replace {
        /// Who is a member no more.
        gone: NodeId,
        /// The new member's id.
        id: NodeId,
        /// The label of both.
        name: String,
        /// The new member's failure domain.
        zone: String,
        /// Where the new member can be reached.
        addresses: NodeAddresses,
        /// How much of the data the new member should hold, relative to the others.
        weight: u8,
        /// When, in ms since 1970.
        at_ms: u64,
    },
    /// A member is to hold and lead nothing from now on, if others can; or it may again.
    Drain {
        /// Its id.
        id: NodeId,
        /// Whether it is to.
        on: bool,
        /// When, in ms since 1970.
        at_ms: u64,
    },
    /// Nothing is to move from now on, but for what is under way; or it may again.
    Pause {
        /// Whether nothing is to.
        on: bool,
        /// When, in ms since 1970.
        at_ms: u64,
    },
    /// A layout one epoch on from the one it was made from.
    SetLayout {
        /// The layout.
        layout: Layout,
        /// The next replica id after it.
        next_replica: ReplicaId,
    },
    /// One member goes on alone, after a majority was lost: under a new cluster id, in this layout.
    Recover {
        /// Who, when, and under which id.
        recovery: Recovery,
        /// The layout, of that member alone.
        layout: Layout,
        /// The next replica id after it.
        next_replica: ReplicaId,
    },
    /// A new API key.
    CreateKey(NewKey),
    /// An end to a key.
    RevokeKey {
        /// Which key.
        hash: KeyHash,
        /// When, in ms since 1970.
        at_ms: u64,
    },
    /// A project for a caller that needs one.
    EnsureProject {
        /// Its name.
        name: ProjectName,
        /// When, in ms since 1970.
        at_ms: u64,
    },
}

/// An API key to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewKey {
    /// SHA-256 of the key.
    pub hash: KeyHash,
    /// What a person calls it.
    pub label: String,
    /// What it may do.
    pub role: Role,
    /// Its project's name, for the roles of a project; made if new.
    pub project: Option<ProjectName>,
    /// When, in ms since 1970.
    pub at_ms: u64,
    /// Who makes it.
    pub by: String,
    /// What to do if a living key has the label.
    pub if_exists: IfExists,
}

/// What to do if a living key has the label already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IfExists {
    /// Refuse.
    Conflict,
    /// Give the record back, without a key.
    Return,
    /// Add this key beside it (how a changed root key is seeded).
    Add,
}

/// Version 2: nodes have weights and may be draining; a pause. What has nothing of this is written
/// as version 1, which every member reads.
const COMMAND_VERSION: u8 = 2;

impl MetaCommand {
    /// The first version that has room for it.
    fn version(&self) -> u8 {
        match self {
            MetaCommand::Found { nodes, .. } => nodes.iter().map(Node::version).max().unwrap_or(1),
            MetaCommand::Register { weight, .. } | MetaCommand::Replace { weight, .. } => {
                if *weight == WEIGHT_DEFAULT { 1 } else { 2 }
            }
            MetaCommand::Drain { .. } | MetaCommand::Pause { .. } => 2,
            _ => 1,
        }
    }

    /// The bytes of the log entry.
    pub fn encode(&self) -> Bytes {
        let mut out = Encoder::new();
        let version = self.version();
        out.u8(version);
        match self {
            MetaCommand::Found { founding, nodes, layout, next_replica } => {
                out.u8(1);
                out.u128(founding.cluster.0);
                out.u8(founding.replication_factor);
                out.varint(founding.at_ms);
                out.varint(nodes.len() as u64);
                for node in nodes {
                    node.encode(&mut out, version);
                }
                layout.encode(&mut out);
                out.varint(next_replica.0);
            }
            MetaCommand::Register { id, name, zone, addresses, weight } => {
                out.u8(2);
                out.u64(id.0);
                out.text(name);
                out.text(zone);
                addresses.encode(&mut out);
                encode_weight(&mut out, *weight, version);
            }
            MetaCommand::SetLayout { layout, next_replica } => {
                out.u8(3);
                layout.encode(&mut out);
                out.varint(next_replica.0);
            }
            MetaCommand::CreateKey(key) => {
                out.u8(4);
                key.encode(&mut out);
            }
            MetaCommand::RevokeKey { hash, at_ms } => {
                out.u8(5);
                out.raw(&hash.0);
                out.varint(*at_ms);
            }
            MetaCommand::EnsureProject { name, at_ms } => {
                out.u8(6);
                out.text(name.as_str());
                out.varint(*at_ms);
            }
            MetaCommand::Remove { id, at_ms } => {
                out.u8(7);
                out.u64(id.0);
                out.varint(*at_ms);
            }
            MetaCommand::Recover { recovery, layout, next_replica } => {
                out.u8(16);
                recovery.encode(&mut out);
                layout.encode(&mut out);
                out.varint(next_replica.0);
            }
            MetaCommand::Replace { gone, id, name, zone, addresses, weight, at_ms } => {
                out.u8(8);
                out.u64(gone.0);
                out.u64(id.0);
                out.text(name);
                out.text(zone);
                addresses.encode(&mut out);
                out.varint(*at_ms);
                encode_weight(&mut out, *weight, version);
            }
            MetaCommand::Drain { id, on, at_ms } => {
                out.u8(9);
                out.u64(id.0);
                out.bool(*on);
                out.varint(*at_ms);
            }
            MetaCommand::Pause { on, at_ms } => {
                out.u8(10);
                out.bool(*on);
                out.varint(*at_ms);
            }
        }
        out.finish()
    }

    /// Reads what [`MetaCommand::encode`] wrote.
    pub fn decode(input: &[u8]) -> Result<Self, DecodeError> {
        let mut from = Decoder::new(input);
        let command = Self::read(&mut from)?;
        from.finish()?;
        Ok(command)
    }

    fn read(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let version = from.version("meta command", COMMAND_VERSION)?;
        Ok(match from.u8()? {
            1 => {
                let founding = Founding {
                    cluster: ClusterId(from.u128()?),
                    replication_factor: from.u8()?,
                    at_ms: from.varint()?,
                };
                let count = from.length(8)?;
                let nodes = (0..count).map(|_| Node::decode(from, version));
                let nodes = nodes.collect::<Result<_, _>>()?;
                let layout = Layout::decode(from)?;
                let next_replica = ReplicaId(from.varint()?);
                MetaCommand::Found { founding, nodes, layout, next_replica }
            }
            2 => MetaCommand::Register {
                id: NodeId(from.u64()?),
                name: from.text("a node name")?.to_owned(),
                zone: from.text("a zone")?.to_owned(),
                addresses: NodeAddresses::decode(from)?,
                weight: decode_weight(from, version)?,
            },
            3 => MetaCommand::SetLayout {
                layout: Layout::decode(from)?,
                next_replica: ReplicaId(from.varint()?),
            },
            4 => MetaCommand::CreateKey(NewKey::decode(from)?),
            5 => MetaCommand::RevokeKey { hash: decode_hash(from)?, at_ms: from.varint()? },
            6 => MetaCommand::EnsureProject {
                name: decode_project_name(from)?,
                at_ms: from.varint()?,
            },
            7 => MetaCommand::Remove { id: NodeId(from.u64()?), at_ms: from.varint()? },
            8 => MetaCommand::Replace {
                gone: NodeId(from.u64()?),
                id: NodeId(from.u64()?),
                name: from.text("a node name")?.to_owned(),
                zone: from.text("a zone")?.to_owned(),
                addresses: NodeAddresses::decode(from)?,
                at_ms: from.varint()?,
                weight: decode_weight(from, version)?,
            },
            9 => MetaCommand::Drain {
                id: NodeId(from.u64()?),
                on: from.bool()?,
                at_ms: from.varint()?,
            },
            10 => MetaCommand::Pause { on: from.bool()?, at_ms: from.varint()? },
            16 => MetaCommand::Recover {
                recovery: Recovery::decode(from)?,
                layout: Layout::decode(from)?,
                next_replica: ReplicaId(from.varint()?),
            },
            got => return Err(DecodeError::Value { what: "a meta command", got: got.into() }),
        })
    }
}

fn encode_weight(out: &mut Encoder, weight: u8, version: u8) {
    if version >= 2 {
        out.u8(weight);
    }
}

fn decode_weight(from: &mut Decoder<'_>, version: u8) -> Result<u8, DecodeError> {
    if version >= 2 { from.u8() } else { Ok(WEIGHT_DEFAULT) }
}

impl NewKey {
    fn encode(&self, out: &mut Encoder) {
        out.raw(&self.hash.0);
        out.text(&self.label);
        out.u8(self.role as u8);
        out.option(self.project.as_ref(), |out, name| out.text(name.as_str()));
        out.varint(self.at_ms);
        out.text(&self.by);
        out.u8(match self.if_exists {
            IfExists::Conflict => 0,
            IfExists::Return => 1,
            IfExists::Add => 2,
        });
    }

    fn decode(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            hash: decode_hash(from)?,
            label: from.text("a label")?.to_owned(),
            role: decode_role(from)?,
            project: from.option(decode_project_name)?,
            at_ms: from.varint()?,
            by: from.text("a label")?.to_owned(),
            if_exists: match from.u8()? {
                0 => IfExists::Conflict,
                1 => IfExists::Return,
                2 => IfExists::Add,
                got => return Err(DecodeError::Value { what: "if_exists", got: got.into() }),
            },
        })
    }

    pub(super) fn into_record(self, project: Option<stemedb_types::ProjectId>) -> ApiKey {
        ApiKey {
            hash: self.hash,
            label: self.label,
            role: self.role,
            project,
            created_at_ms: self.at_ms,
            created_by: self.by,
            revoked_at_ms: None,
        }
    }
}
