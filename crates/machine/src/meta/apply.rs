//! Command + state → records + answer.

use stemedb_types::{
    DecodeError, Decoder, Encoder, Layout, NodeId, ProjectId, ProjectName, Replica, ReplicaId,
};

use super::command::{IfExists, MetaCommand, NewKey};
use super::record::{ApiKey, Founding, GoneNode, MetaRecord, Node, Project, Recovery};
use super::state::MetaState;
use crate::{Error, Outcome};

/// What became of a change to the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetaAnswer {
    /// It was done, or was so already.
    Done,
    /// Refused: the state has moved on (founded already, or not yet; a layout of another epoch).
    Stale,
    /// The node is a member, with this replica of the meta group.
    Registered {
        /// Its meta replica.
        meta_replica: ReplicaId,
    },
    /// The key was made, or stood already and was asked for by `if_exists=return`.
    Key {
        /// Its record.
        key: ApiKey,
        /// Whether this command made it.
        created: bool,
    },
    /// A living key has the label; nothing was made.
    LabelTaken,
    /// No such key.
    NotFound,
    /// The project's id.
    Project(ProjectId),
    /// The node was a member once, and is not taken in under its old id.
    Gone,
}

type Applied = Result<Outcome<MetaRecord, MetaAnswer>, Error>;

fn done(changes: Vec<MetaRecord>) -> Applied {
    Ok(Outcome { changes, answer: MetaAnswer::Done })
}

fn answer(answer: MetaAnswer) -> Applied {
    Ok(Outcome { changes: Vec::new(), answer })
}

/// Applies one command. The same command on the same state gives the same outcome everywhere.
pub fn apply(state: &MetaState, command: MetaCommand) -> Applied {
    let founds = matches!(command, MetaCommand::Found { .. });
    if founds == state.founding.is_some() {
        return answer(MetaAnswer::Stale);
    }
    match command {
        MetaCommand::Found { founding, nodes, layout, next_replica } => {
            let mut changes = vec![
                MetaRecord::Founding(founding),
                MetaRecord::Layout(layout),
                MetaRecord::NextReplica(next_replica),
                MetaRecord::NextProject(ProjectId(1)),
            ];
            changes.extend(nodes.into_iter().map(MetaRecord::Node));
            done(changes)
        }
        MetaCommand::Register { id, name, zone, addresses, weight } => {
            // Whatever a node says of itself, a person's word on it stands.
            let draining_since_ms = state.nodes.get(&id).and_then(|node| node.draining_since_ms);
            register(state, id, |meta_replica| Node {
                id,
                name,
                zone,
                addresses,
                meta_replica,
                weight,
                draining_since_ms,
            })
        }
        MetaCommand::Remove { id, at_ms } => remove(state, id, at_ms),
        MetaCommand::Replace { gone, id, name, zone, addresses, weight, at_ms } => {
            let draining_since_ms = None;
            let node = |meta_replica| Node {
                id,
                name,
                zone,
                addresses,
                meta_replica,
                weight,
                draining_since_ms,
            };
            replace(state, gone, id, at_ms, node)
        }
        MetaCommand::Drain { id, on, at_ms } => drain(state, id, on, at_ms),
        MetaCommand::Pause { on, at_ms } => match (on, state.paused_since_ms) {
            (true, None) => done(vec![MetaRecord::Paused(Some(at_ms))]),
            (false, Some(_)) => done(vec![MetaRecord::Paused(None)]),
            _ => answer(MetaAnswer::Done),
        },
        MetaCommand::SetLayout { layout, next_replica } => {
            let follows = layout.epoch == state.layout.epoch + 1;
            let kept = layout.shards.len() == state.layout.shards.len();
            if !follows || !kept || next_replica < state.next_replica {
                return answer(MetaAnswer::Stale);
            }
            done(vec![MetaRecord::Layout(layout), MetaRecord::NextReplica(next_replica)])
        }
        MetaCommand::Recover { recovery, layout, next_replica } => {
            recover(state, recovery, layout, next_replica)
        }
        MetaCommand::CreateKey(key) => create_key(state, key),
        MetaCommand::RevokeKey { hash, at_ms } => match state.keys.get(&hash) {
            None => answer(MetaAnswer::NotFound),
            Some(key) if key.revoked_at_ms.is_some() => answer(MetaAnswer::Done),
            Some(key) => {
                let key = ApiKey { revoked_at_ms: Some(at_ms), ..key.clone() };
                done(vec![MetaRecord::ApiKey(key)])
            }
        },
        MetaCommand::EnsureProject { name, at_ms } => {
            let mut changes = Vec::new();
            let id = ensure_project(state, name, at_ms, &mut changes);
            Ok(Outcome { changes, answer: MetaAnswer::Project(id) })
        }
    }
}

/// A known node keeps its replica; a new one gets the next id and a place in the meta group. One
/// that was a member once is none by itself: it may hold what others have taken over.
fn register(state: &MetaState, id: NodeId, node: impl FnOnce(ReplicaId) -> Node) -> Applied {
    if state.gone.contains_key(&id) {
        return answer(MetaAnswer::Gone);
    }
    if let Some(known) = state.nodes.get(&id) {
        let node = node(known.meta_replica);
        let registered = MetaAnswer::Registered { meta_replica: known.meta_replica };
        let changes = if node == *known { vec![] } else { vec![MetaRecord::Node(node)] };
        return Ok(Outcome { changes, answer: registered });
    }
    let meta_replica = state.next_replica;
    let mut layout = state.layout.clone();
    layout.epoch += 1;
    layout.meta.push(Replica { node: id, id: meta_replica });
    let changes = vec![
        MetaRecord::Node(node(meta_replica)),
        MetaRecord::Layout(layout),
        MetaRecord::NextReplica(ReplicaId(meta_replica.0 + 1)),
    ];
    Ok(Outcome { changes, answer: MetaAnswer::Registered { meta_replica } })
}

/// Takes a node out of the members and of the meta group. Shards keep its replicas until the
/// layout gives them to others.
fn remove(state: &MetaState, id: NodeId, at_ms: u64) -> Applied {
    let Some(node) = state.nodes.get(&id) else {
        let known = state.gone.contains_key(&id);
        return answer(if known { MetaAnswer::Done } else { MetaAnswer::NotFound });
    };
    if state.nodes.len() == 1 {
        // Nobody would be left to hold anything.
        return answer(MetaAnswer::Stale);
    }
    let mut layout = state.layout.clone();
    layout.epoch += 1;
    layout.meta.retain(|replica| replica.node != id);
    let gone = GoneNode { id, name: node.name.clone(), successor: None, at_ms };
    done(vec![MetaRecord::GoneNode(gone), MetaRecord::Layout(layout)])
}

/// Marks a member, or takes the mark from it. One at least stays without: somebody must hold what
/// the others give away.
fn drain(state: &MetaState, id: NodeId, on: bool, at_ms: u64) -> Applied {
    let Some(node) = state.nodes.get(&id) else { return answer(MetaAnswer::NotFound) };
    if on == node.draining_since_ms.is_some() {
        return answer(MetaAnswer::Done);
    }
    let mut others = state.nodes.values().filter(|other| other.id != id);
    if on && others.all(|other| other.draining_since_ms.is_some()) {
        return answer(MetaAnswer::Stale);
    }
    let node = Node { draining_since_ms: on.then_some(at_ms), ..node.clone() };
    done(vec![MetaRecord::Node(node)])
}

/// The new node takes the old one's place in the meta group, under a replica id of its own: it votes
/// where the old one did.
fn replace(
    state: &MetaState,
    old: NodeId,
    id: NodeId,
    at_ms: u64,
    node: impl FnOnce(ReplicaId) -> Node,
) -> Applied {
    let Some(before) = state.nodes.get(&old).filter(|_| !state.nodes.contains_key(&id)) else {
        // A retry: it stands in the old one's place already. Or somebody else does.
        let replaced = state.gone.get(&old).is_some_and(|gone| gone.successor == Some(id));
        return if replaced { register(state, id, node) } else { answer(MetaAnswer::Stale) };
    };
    if state.gone.contains_key(&id) {
        return answer(MetaAnswer::Gone);
    }
    let meta_replica = state.next_replica;
    let mut layout = state.layout.clone();
    layout.epoch += 1;
    let new = Replica { node: id, id: meta_replica };
    match layout.meta.iter_mut().find(|replica| replica.node == old) {
        Some(replica) => *replica = new,
        None => layout.meta.push(new),
    }
    let gone = GoneNode { id: old, name: before.name.clone(), successor: Some(id), at_ms };
    let changes = vec![
        MetaRecord::GoneNode(gone),
        MetaRecord::Node(node(meta_replica)),
        MetaRecord::Layout(layout),
        MetaRecord::NextReplica(ReplicaId(meta_replica.0 + 1)),
    ];
    Ok(Outcome { changes, answer: MetaAnswer::Registered { meta_replica } })
}

/// All other members are none any more. What the cluster knows of keys and projects stays.
fn recover(
    state: &MetaState,
    recovery: Recovery,
    layout: Layout,
    next_replica: ReplicaId,
) -> Applied {
    let Some(founding) = state.founding else { return answer(MetaAnswer::Stale) };
    if founding.cluster == recovery.after {
        return answer(MetaAnswer::Done);
    }
    let follows = layout.epoch > state.layout.epoch
        && layout.shards.len() == state.layout.shards.len()
        && next_replica >= state.next_replica;
    if founding.cluster != recovery.before || !state.nodes.contains_key(&recovery.by) || !follows {
        return answer(MetaAnswer::Stale);
    }
    let mut changes = vec![
        MetaRecord::Founding(Founding { cluster: recovery.after, ..founding }),
        MetaRecord::Layout(layout),
        MetaRecord::NextReplica(next_replica),
        MetaRecord::Recovery(recovery),
    ];
    let others = state.nodes.values().filter(|node| node.id != recovery.by);
    changes.extend(others.map(|node| {
        MetaRecord::GoneNode(GoneNode {
            id: node.id,
            name: node.name.clone(),
            successor: None,
            at_ms: recovery.at_ms,
        })
    }));
    done(changes)
}

fn create_key(state: &MetaState, key: NewKey) -> Applied {
    if let Some(known) = state.living_key(&key.hash) {
        // The very key again: a retry, or the root key seeded at every start.
        let answer = MetaAnswer::Key { key: known.clone(), created: false };
        return Ok(Outcome { changes: Vec::new(), answer });
    }
    if state.keys.contains_key(&key.hash) {
        // A revoked key stays revoked, whoever imports it again.
        return answer(MetaAnswer::LabelTaken);
    }
    if let Some(known) = state.key_by_label(&key.label) {
        match key.if_exists {
            IfExists::Conflict => return answer(MetaAnswer::LabelTaken),
            IfExists::Return => {
                return answer(MetaAnswer::Key { key: known.clone(), created: false });
            }
            IfExists::Add => {}
        }
    }
    let mut changes = Vec::new();
    let project =
        key.project.clone().map(|name| ensure_project(state, name, key.at_ms, &mut changes));
    let key = key.into_record(project);
    changes.push(MetaRecord::ApiKey(key.clone()));
    Ok(Outcome { changes, answer: MetaAnswer::Key { key, created: true } })
}

fn ensure_project(
    state: &MetaState,
    name: ProjectName,
    at_ms: u64,
    changes: &mut Vec<MetaRecord>,
) -> ProjectId {
    if let Some(known) = state.project(&name) {
        return known.id;
    }
    let id = state.next_project;
    changes.push(MetaRecord::NextProject(ProjectId(id.0 + 1)));
    changes.push(MetaRecord::Project(Project { id, name, created_at_ms: at_ms }));
    id
}

impl MetaAnswer {
    /// Writes the bytes that [`MetaAnswer::decode`] reads.
    pub fn encode(&self, out: &mut Encoder) {
        match self {
            MetaAnswer::Done => out.u8(1),
            MetaAnswer::Stale => out.u8(2),
            MetaAnswer::Registered { meta_replica } => {
                out.u8(3);
                out.varint(meta_replica.0);
            }
            MetaAnswer::Key { key, created } => {
                out.u8(4);
                MetaRecord::ApiKey(key.clone()).encode(out);
                out.bool(*created);
            }
            MetaAnswer::LabelTaken => out.u8(5),
            MetaAnswer::NotFound => out.u8(6),
            MetaAnswer::Project(id) => {
                out.u8(7);
                out.varint(id.0);
            }
            MetaAnswer::Gone => out.u8(8),
        }
    }

    /// Reads what [`MetaAnswer::encode`] wrote.
    pub fn decode(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(match from.u8()? {
            1 => MetaAnswer::Done,
            2 => MetaAnswer::Stale,
            3 => MetaAnswer::Registered { meta_replica: ReplicaId(from.varint()?) },
            4 => match MetaRecord::decode(from)? {
                MetaRecord::ApiKey(key) => MetaAnswer::Key { key, created: from.bool()? },
                _ => return Err(DecodeError::Value { what: "a key record", got: 0 }),
            },
            5 => MetaAnswer::LabelTaken,
            6 => MetaAnswer::NotFound,
            7 => MetaAnswer::Project(ProjectId(from.varint()?)),
            8 => MetaAnswer::Gone,
            got => return Err(DecodeError::Value { what: "a meta answer", got: got.into() }),
        })
    }
}
