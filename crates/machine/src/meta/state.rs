//! The meta records, gathered for reading.

use std::collections::BTreeMap;

use stemedb_types::{ClusterId, Layout, NodeId, ProjectId, ProjectName, ReplicaId};

use super::record::{ApiKey, Founding, GoneNode, KeyHash, MetaRecord, Node, Project, Recovery};

/// Everything the cluster knows of itself. Cloned and swapped, never shared for writing.
///
/// Invariants: ids handed out are below `next_replica` and `next_project`; a project of a key or a
/// name exists; nobody is in `nodes` and in `gone`; at most one living key has a label, but for those added beside it on purpose
/// ([`IfExists::Add`](super::IfExists::Add)).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetaState {
    /// What was fixed at the founding; `None` before it.
    pub founding: Option<Founding>,
    /// The layout of the newest epoch.
    pub layout: Layout,
    /// The next replica id.
    pub next_replica: ReplicaId,
    /// The next project id.
    pub next_project: ProjectId,
    /// Members by id.
    pub nodes: BTreeMap<NodeId, Node>,
    /// Those that were members, by id.
    pub gone: BTreeMap<NodeId, GoneNode>,
    /// Each time that one member went on alone, by the cluster's id from then on.
    pub recoveries: BTreeMap<ClusterId, Recovery>,
    /// Projects by id.
    pub projects: BTreeMap<ProjectId, Project>,
    /// Project ids by name.
    pub project_ids: BTreeMap<ProjectName, ProjectId>,
    /// Keys by hash, the revoked ones too.
    pub keys: BTreeMap<KeyHash, ApiKey>,
    /// Since when nothing is to move, in ms since 1970; `None`: it may.
    pub paused_since_ms: Option<u64>,
}

impl MetaState {
    /// Takes a record in, in place of the one of the same name.
    pub fn absorb(&mut self, record: MetaRecord) {
        match record {
            MetaRecord::Founding(founding) => self.founding = Some(founding),
            MetaRecord::Layout(layout) => self.layout = layout,
            MetaRecord::NextReplica(id) => self.next_replica = id,
            MetaRecord::NextProject(id) => self.next_project = id,
            // In whatever order the two records are read.
            MetaRecord::Node(node) if self.gone.contains_key(&node.id) => {}
            MetaRecord::Node(node) => {
                self.nodes.insert(node.id, node);
            }
            MetaRecord::GoneNode(gone) => {
                self.nodes.remove(&gone.id);
                self.gone.insert(gone.id, gone);
            }
            MetaRecord::Recovery(recovery) => {
                self.recoveries.insert(recovery.after, recovery);
            }
            MetaRecord::Project(project) => {
                self.project_ids.insert(project.name.clone(), project.id);
                self.projects.insert(project.id, project);
            }
            MetaRecord::ApiKey(key) => {
                self.keys.insert(key.hash, key);
            }
            MetaRecord::Paused(since_ms) => self.paused_since_ms = since_ms,
        }
    }

    /// Whether a node is a member that is to hold and lead nothing.
    pub fn is_draining(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|node| node.draining_since_ms.is_some())
    }

    /// The living key of this label.
    pub fn key_by_label(&self, label: &str) -> Option<&ApiKey> {
        self.keys.values().find(|key| key.label == label && key.revoked_at_ms.is_none())
    }

    /// The living key of this hash.
    pub fn living_key(&self, hash: &KeyHash) -> Option<&ApiKey> {
        self.keys.get(hash).filter(|key| key.revoked_at_ms.is_none())
    }

    /// The project of this name.
    pub fn project(&self, name: &ProjectName) -> Option<&Project> {
        self.projects.get(self.project_ids.get(name)?)
    }
}
