//! The log store and the applier on a real WAL and a real RocksDB, one replica: what they say of
//! damage, and that whatever waits for a disk hears that the replica stops.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use openraft::StorageHelper;
use openraft::storage::{IOFlushed, RaftLogStorage, RaftStateMachine};
use openraft::type_config::TypeConfigExt;
use stemedb_engine::{Budget, Group as EngineGroup, RocksStore, Store};
use stemedb_types::{GroupId, NodeId, ReplicaId};
use stemedb_wal::disk::sim::SimDisk;
use stemedb_wal::{Options, StreamId, Wal};
use tempfile::TempDir;

use crate::Error;
use crate::applier::{Applied, Applier};
use crate::closing::Closing;
use crate::damage::{Damages, Part, check_standing, note_generation};
use crate::log_store::LogStore;
use crate::snapshot::SnapshotData;
use crate::space::Space;
use crate::survivor::Survivor;
use crate::types::{Config, Entry, Payload, SnapshotMeta, Vote, log_id};

const REPLICA: ReplicaId = ReplicaId(7);
/// Longer than any wait that hears of the end, shorter than a test may hang.
const PATIENCE: Duration = Duration::from_secs(10);

/// A replica's halves.
struct Halves {
    wal: Wal,
    log: LogStore,
    applier: Applier,
    applied: Applied,
    damages: Damages,
}

fn store(dir: &Path) -> EngineGroup {
    let budget =
        Budget { block_cache_bytes: 1 << 20, write_buffer_bytes: 1 << 20, ..Budget::default() };
    let store: Arc<dyn Store> = Arc::new(RocksStore::open(&dir.join("db"), budget).unwrap());
    EngineGroup::open(store, GroupId(1)).unwrap()
}

fn open(dir: &Path) -> Halves {
    let options = Options { segment_bytes: 64 << 10, ..Options::default() };
    let (wal, _) = Wal::open(&dir.join("wal"), options).unwrap();
    let damages = Damages::default();
    let log = LogStore::new(wal.clone(), REPLICA, Space::default(), damages.clone());
    let applied = Applied::open(store(dir)).unwrap();
    let applier = Applier::open(applied.clone(), damages.clone()).unwrap();
    let applier = applier.with_log(&log);
    Halves { wal, log, applier, applied, damages }
}

fn blank(index: u64) -> Entry {
    Entry { log_id: log_id(1, index), payload: Payload::Blank }
}

impl Halves {
    fn standing(&self) -> Result<(), Error> {
        check_standing(&self.applied.store(), REPLICA, &self.wal)
    }

    async fn append(&mut self, indexes: std::ops::Range<u64>) {
        let (done, wait) = <Config as TypeConfigExt>::oneshot();
        self.log.append(indexes.map(blank), IOFlushed::signal(done)).await.unwrap();
        wait.await.unwrap().unwrap();
    }

    async fn apply(&mut self, indexes: std::ops::Range<u64>) {
        let run = indexes.map(|index| Ok((blank(index), None)));
        self.applier.apply(futures_util::stream::iter(run)).await.unwrap();
    }

    fn flush(&self) {
        self.applied.store().store().flush().unwrap();
    }

    /// What openraft does when it starts.
    async fn start(&mut self) {
        let mut helper: StorageHelper<'_, Config, _, _> =
            StorageHelper::new(&mut self.log, &mut self.applier).with_id(REPLICA.0);
        helper.get_initial_state().await.unwrap();
        note_generation(&self.applied.store(), REPLICA, &self.wal).unwrap();
    }

    /// Takes in the state of a peer that has applied so many entries.
    async fn install(&mut self, entries: u64) {
        let dir = TempDir::new().unwrap();
        let applied = Applied::open(store(dir.path())).unwrap();
        let mut peer = Applier::open(applied.clone(), Damages::default()).unwrap();
        let run = (0..entries).map(|index| Ok((blank(index), None)));
        peer.apply(futures_util::stream::iter(run)).await.unwrap();
        let meta = SnapshotMeta::default();
        let installed = self.applier.install_snapshot(&meta, SnapshotData::Here(applied.store()));
        installed.await.unwrap();
    }

    fn close(self) {
        self.wal.close().unwrap();
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

pub(crate) async fn in_time<T>(what: &str, awaited: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(PATIENCE, awaited).await;
    waited.unwrap_or_else(|_| panic!("{what}: it waits for ever"))
}

#[tokio::test]
async fn a_log_that_lost_its_end_behind_an_installed_snapshot_is_noticed_at_the_next_start() {
    let dir = TempDir::new().unwrap();
    let mut halves = open(dir.path());
    halves.start().await;
    halves.append(0..5).await;
    halves.install(20).await;
    halves.log.purge(log_id(1, 19)).await.unwrap();
    halves.append(20..25).await;
    let (wal, old) = (dir.path().join("wal"), TempDir::new().unwrap());
    copy(&wal, old.path());
    // Acknowledged, in the log and in the store.
    halves.append(25..30).await;
    halves.apply(20..30).await;
    halves.flush();
    halves.close();

    std::fs::remove_dir_all(&wal).unwrap();
    copy(old.path(), &wal);
    let standing = open(dir.path()).standing();
    let Err(Error::Damaged(damage)) = standing else { panic!("{standing:?}") };
    assert_eq!(damage.cause, "the log ends at entry 24, and the store holds entry 29");
}

#[tokio::test]
async fn crashes_between_an_install_and_the_purge_behind_it_quarantine_nobody() {
    let dir = TempDir::new().unwrap();
    let mut halves = open(dir.path());
    halves.start().await;
    halves.append(0..5).await;
    halves.install(20).await;
    halves.close();
    // Starts that come as far as looking, and die with what they wrote on disk.
    for _ in 0..3 {
        let halves = open(dir.path());
        halves.standing().expect("nothing is lost");
        halves.close();
    }
    let mut halves = open(dir.path());
    halves.start().await;
    halves.append(20..25).await;
    halves.close();
    let halves = open(dir.path());
    halves.standing().expect("nothing is lost");
    halves.close();
}

#[tokio::test]
async fn a_replica_that_crashed_between_an_install_and_the_purge_goes_on_alone() {
    for entries in [0, 5] {
        let dir = TempDir::new().unwrap();
        let mut halves = open(dir.path());
        halves.start().await;
        halves.append(0..entries).await;
        halves.install(20).await;
        halves.close();

        // Again and again, as after a crash of the recovery itself.
        for _ in 0..2 {
            let Halves { wal, applied, .. } = open(dir.path());
            let store = applied.store().store().clone();
            drop(applied);
            let mut survivor = Survivor::open(store, wal.clone(), GroupId(1), REPLICA).unwrap();
            survivor.remains().expect("can be gone on with");
            survivor.go_on_alone(NodeId(3)).unwrap();
            let remains = survivor.remains().unwrap();
            assert_eq!(remains.members, [(REPLICA, NodeId(3))].into());
            assert_eq!((remains.last, remains.committed), (Some((2, 20)), Some(20)));
            assert_eq!(remains.applied, Some(20));
            drop(survivor);
            wal.close().unwrap();
        }
        let mut halves = open(dir.path());
        halves.standing().expect("nothing is lost");
        halves.start().await;
        halves.close();
    }
}

#[tokio::test]
async fn a_survivor_whose_log_begins_behind_its_store_is_refused_before_anything_is_written() {
    let dir = TempDir::new().unwrap();
    let mut halves = open(dir.path());
    halves.start().await;
    halves.append(0..9).await;
    halves.apply(0..3).await;
    halves.flush();
    halves.log.purge(log_id(1, 5)).await.unwrap();
    let Halves { wal, applied, .. } = halves;
    let mut survivor =
        Survivor::open(applied.store().store().clone(), wal.clone(), GroupId(1), REPLICA).unwrap();
    for refused in [survivor.remains().map(drop), survivor.go_on_alone(NodeId(3))] {
        let Err(Error::Stopped(why)) = refused else { panic!("{refused:?}") };
        assert_eq!(why, "the log begins at entry 6, and the store wants entry 3");
    }
    assert_eq!(wal.bounds(StreamId(REPLICA.0)).last, Some(8));
}

#[tokio::test]
async fn whatever_meets_a_quarantined_stream_says_that_the_replica_is_damaged() {
    let dir = TempDir::new().unwrap();
    let mut halves = open(dir.path());
    halves.start().await;
    halves.append(0..5).await;
    halves.wal.quarantine(StreamId(REPLICA.0), "a bad record");
    assert_eq!(halves.damages.first(), None);
    halves.log.save_committed(Some(log_id(1, 4))).await.unwrap_err();
    assert_eq!(halves.damages.first().map(|damage| damage.part), Some(Part::Log));
    halves.close();
}

#[tokio::test]
async fn an_append_that_waits_for_room_hears_that_the_replica_stops() {
    let disk = SimDisk::new(1);
    let options = Options { segment_bytes: 4096, spare_segments: 1, ..Options::default() };
    let (wal, _) = Wal::open_on(Arc::new(disk.clone()), options).unwrap();
    let (space, closing) = (Space::default(), Closing::default());
    let log = LogStore::new(wal.clone(), REPLICA, space.clone(), Damages::default());
    let mut log = log.until(closing.clone());
    disk.limit_space(Some(5 * 4096));
    let filling = crate::runtime::spawn(async move {
        let mut index = 0;
        loop {
            let (done, wait) = <Config as TypeConfigExt>::oneshot();
            if let Err(error) = log.append([blank(index)], IOFlushed::signal(done)).await {
                return error.to_string();
            }
            wait.await.unwrap().unwrap();
            index += 1;
        }
    });
    in_time("the log fills", space.asked_to_look()).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!filling.is_finished(), "it waits for room");
    closing.say();
    assert_eq!(in_time("the append", filling).await.unwrap(), "the replica stops");
}

#[tokio::test]
async fn a_vote_that_waits_behind_a_full_disk_hears_that_the_replica_stops() {
    let disk = SimDisk::new(1);
    let options = Options { segment_bytes: 4096, spare_segments: 1, ..Options::default() };
    let (wal, _) = Wal::open_on(Arc::new(disk.clone()), options).unwrap();
    while wal.stats().spares == 0 {
        tokio::task::yield_now().await;
    }
    disk.limit_space(Some(disk.used_bytes()));
    let closing = Closing::default();
    let log = LogStore::new(wal.clone(), REPLICA, Space::default(), Damages::default());
    let mut log = log.until(closing.clone());
    // Accepted before the disk is known to be full; the log's writer waits with it.
    let value = bytes::Bytes::from(vec![7; 2000]);
    wal.append(StreamId(9), 0, vec![value; 8], Box::new(|_| {})).unwrap();
    while !wal.stats().full {
        tokio::task::yield_now().await;
    }
    let voting = crate::runtime::spawn(async move {
        let vote = Vote { leader_id: openraft::vote::RaftLeaderId::new(1, 1), committed: true };
        log.save_vote(&vote).await.map_err(|error| error.to_string())
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!voting.is_finished(), "it waits for the disk");
    closing.say();
    let voted = in_time("the vote", voting).await.unwrap();
    assert_eq!(voted, Err("the replica stops".to_owned()));
}
