//! A whole replica, alone in its group, on a disk that can be told to fail.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use stemedb_engine::{Budget, RocksStore};
use stemedb_rpc::{Envelope, Error as RpcError, Lane, NotSent};
use stemedb_types::{GroupId, NodeId, Replica, ReplicaId};
use stemedb_wal::disk::sim::SimDisk;
use stemedb_wal::{Options, Wal};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::clock::SystemClock;
use crate::storage_tests::in_time;
use crate::{
    GroupOptions, Groups, GroupsOptions, Leadership, NoEvidence, Replay, Space, Transport,
};

const OWN: Replica = Replica { node: NodeId(1), id: ReplicaId(7) };

/// There is nobody else.
struct Nobody;

impl Transport for Nobody {
    fn request(
        &self,
        _: NodeId,
        _: Lane,
        _: Envelope,
        _: Instant,
    ) -> BoxFuture<'static, Result<Bytes, RpcError>> {
        async { Err(RpcError::NotSent(NotSent::Deadline)) }.boxed()
    }

    fn send_snapshot<'s>(
        &'s self,
        _: NodeId,
        _: Envelope,
        _: BoxStream<'s, io::Result<Bytes>>,
    ) -> BoxFuture<'s, Result<Bytes, RpcError>> {
        async { Err(RpcError::NotSent(NotSent::Deadline)) }.boxed()
    }

    fn draw(&self) -> u128 {
        1
    }
}

#[tokio::test]
async fn a_replica_that_stops_for_a_failed_disk_has_the_disks_looked_at() {
    let (dir, disk, space) = (TempDir::new().unwrap(), SimDisk::new(1), Space::default());
    let (wal, _) = Wal::open_on(Arc::new(disk.clone()), Options::default()).unwrap();
    let options = GroupsOptions {
        wal: wal.clone(),
        store: Arc::new(RocksStore::open(dir.path(), Budget::default()).unwrap()),
        plane: Arc::new(Nobody),
        group: GroupOptions::default(),
        replay: Replay::default(),
        space: space.clone(),
        evidence: Arc::new(NoEvidence),
        clock: Arc::new(SystemClock::new()),
    };
    let group = Groups::new().open(GroupId(1), OWN.id, &options).await.unwrap();
    group.found(&[OWN]).await.unwrap();
    let mut leadership = group.leadership();
    let leads = leadership.wait_for(|now| *now == Leadership::Here);
    in_time("it leads", leads).await.unwrap();
    assert_eq!(space.asked_to_look().now_or_never(), None, "all is well");

    disk.fail_syncs_after(0);
    in_time("the write", group.write(Bytes::from_static(b"a command"))).await.unwrap_err();
    in_time("a look is asked for", space.asked_to_look()).await;
    // What whoever looks then finds.
    assert!(wal.poisoned().is_some() && group.stopped().is_some());
}
