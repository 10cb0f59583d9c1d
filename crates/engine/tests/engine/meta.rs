//! Meta records are kept, replaced by name, and gathered as they were absorbed.

use stemedb_engine::{Error, Group};
use stemedb_machine::meta::{
    ApiKey, Founding, KeyHash, MetaRecord, MetaState, Node, NodeAddresses, Project, Role,
};
use stemedb_types::{
    ClusterId, GroupId, Layout, NodeId, ProjectId, Replica, ReplicaId, ShardLayout,
};
use tempfile::TempDir;

use crate::common::{copy, group, open};

fn node(id: u64, name: &str) -> MetaRecord {
    MetaRecord::Node(Node {
        id: NodeId(id),
        name: name.to_owned(),
        zone: "z".to_owned(),
        addresses: NodeAddresses { http: format!("{name}:18180"), ..NodeAddresses::default() },
        meta_replica: ReplicaId(id),
        weight: 1,
        draining_since_ms: None,
    })
}

fn key(byte: u8, revoked_at_ms: Option<u64>) -> MetaRecord {
    MetaRecord::ApiKey(ApiKey {
        hash: KeyHash([byte; 32]),
        label: format!("label {byte}"),
        role: Role::WriteAgent,
        project: Some(ProjectId(1)),
        created_at_ms: 5,
        created_by: "root".to_owned(),
        revoked_at_ms,
    })
}

fn layout(epoch: u64) -> MetaRecord {
    let replicas = vec![Replica { node: NodeId(1), id: ReplicaId(epoch) }];
    MetaRecord::Layout(Layout { epoch, shards: vec![ShardLayout { replicas }], meta: vec![] })
}

/// Several records of every kind, some replaced in a later batch.
fn batches() -> [Vec<MetaRecord>; 2] {
    let founding = Founding { cluster: ClusterId(9), replication_factor: 3, at_ms: 5 };
    let project = Project { id: ProjectId(1), name: "alpha".parse().unwrap(), created_at_ms: 7 };
    [
        vec![
            MetaRecord::Founding(founding),
            layout(1),
            MetaRecord::NextReplica(ReplicaId(4)),
            MetaRecord::NextProject(ProjectId(1)),
            node(1, "one"),
            node(256, "two"),
            key(1, None),
        ],
        vec![
            layout(2),
            node(256, "renamed"),
            MetaRecord::NextProject(ProjectId(2)),
            MetaRecord::Project(project),
            key(0xff, None),
            key(1, Some(8)),
        ],
    ]
}

fn write(group: &Group, records: &[MetaRecord], mark: &[u8]) {
    let mut batch = group.batch();
    records.iter().for_each(|record| batch.put_meta(record));
    group.commit(batch, mark.to_vec()).unwrap();
}

#[test]
fn the_records_on_disk_are_the_state_that_took_them_in() {
    let dir = TempDir::new().unwrap();
    let meta = group(dir.path(), 0);
    assert_eq!(meta.meta_state().unwrap(), MetaState::default());
    let mut state = MetaState::default();
    for (n, records) in batches().into_iter().enumerate() {
        write(&meta, &records, &[n as u8]);
        records.into_iter().for_each(|record| state.absorb(record));
        assert_eq!(meta.meta_state().unwrap(), state, "batch {n}");
        meta.store().flush().unwrap();
    }
    // A shard beside it has none of it, and a later start all.
    let shard = Group::open(meta.store().clone(), GroupId(1)).unwrap();
    assert_eq!(shard.meta_state().unwrap(), MetaState::default());
    let left = TempDir::new().unwrap();
    copy(dir.path(), left.path());
    assert_eq!(group(left.path(), 0).meta_state().unwrap(), state);
}

#[test]
fn a_batch_goes_to_the_group_it_was_begun_for() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    let [one, two] = [1, 2].map(|n| Group::open(store.clone(), GroupId(n)).unwrap());
    let refused = one.commit(two.batch(), vec![]);
    assert!(matches!(refused, Err(Error::Replaced { group: GroupId(1) })), "{refused:?}");
    assert_eq!((one.applied().unwrap(), two.applied().unwrap()), (None, None));
}
