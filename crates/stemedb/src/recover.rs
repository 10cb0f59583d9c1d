//! The last resort: a node goes on alone after the disks of a majority were lost.
//!
//! A group without its majority never goes on by itself: what the others had acknowledged may be more
//! than what is left. A person who has looked ([`look`]) may decide to go on with what one node
//! has ([`recover`]), the one whose logs reach furthest. On it, offline:
//!
//! 1. `RECOVERING` is written, with the cluster's new id. From here on the node does not start until
//!    it is done, and doing it again goes on from wherever it broke off.
//! 2. The new id is written to both volumes. The old cluster's nodes, should one ever come back, are
//!    strangers from now on, so what follows can't make a second leader for them.
//! 3. The meta group's replica becomes its group's only member with all its log has
//!    ([`stemedb_raft::Survivor`]). It tells how many recoveries there were before.
//! 4. Each shard's replica likewise. The revision of each bucket jumps by 2^32, with what was before
//!    compacted and the numbers of all versions raised to it: revisions that were lost are not given out again,
//!    and no old ETag holds. Buckets that are made later begin at 2^32 times the number of recoveries, for
//!    one of their name may have been lost.
//! 5. The meta group gets the new id, a layout of this node alone, no other member, and a record of
//!    it all that stays.
//! 6. A shard of which nothing is here begins anew, empty, with that same beginning for its buckets.
//! 7. The identity tells a founding by this node alone: nobody else has what is here.
//!
//! Then the node starts, and blank nodes join it as they join any other.
//!
//! Left out: an entry in the audit log, which comes with its own part (the record is there).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::iter;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use rand::RngExt;
use stemedb_engine::{Budget, RocksStore, Store};
use stemedb_machine::meta::{MetaCommand, MetaState, Recovery};
use stemedb_machine::shard::{Command, Write};
use stemedb_raft::wal::{self, OnDamage, OpenError, StreamId, Wal};
use stemedb_raft::{Remains, Survivor};
use stemedb_types::{
    BucketName, ClusterId, GroupId, Layout, NodeId, ProjectId, Replica, ReplicaId, Revision,
    ShardLayout,
};

use crate::core::now_ms;
use crate::damage::repair_command;
use crate::founding::Proposal;
use crate::framed::Frame;
use crate::held::{Held, Replicas};
use crate::identity::IdentityFiles;
use crate::quarantine::Quarantine;
use crate::replace_file::replace_file;

/// The file in the log's directory that says that a recovery has begun and not ended.
const RECOVERING: &str = "RECOVERING";
const FRAME: Frame = Frame { magic: b"StemeDB recovering\n", version: 1, name: "recovery" };
/// By how much revisions jump: more than a bucket writes between two recoveries.
const JUMP: u64 = 1 << 32;
/// Buckets whose jumps are written at once.
const JUMPS_AT_ONCE: usize = 1000;

/// Why a node can't go on alone.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// A process has one of the directories open.
    #[error("{dir} is in use by a running process: stop the node first")]
    InUse {
        /// Which directory.
        dir: String,
    },
    /// Not the directories of a member of a cluster, or damaged ones. Nothing was changed.
    #[error("{0}")]
    Refused(String),
    /// A disk failed. What was begun goes on with the next try.
    #[error("{0}")]
    Disk(String),
}

/// What this node has of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoverGroup {
    /// Which group.
    pub group: GroupId,
    /// This node's replica and what it has; `None`: nothing that can be gone on with.
    pub replica: Option<(ReplicaId, Remains)>,
    /// Why what is here can't be gone on with, if that is so.
    pub set_aside: Option<String>,
}

/// What there is to go on with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoverReport {
    /// The node.
    pub node: NodeId,
    /// Its cluster; after a recovery the new one.
    pub cluster: ClusterId,
    /// The names of all members, as far as the store has applied them.
    pub members: BTreeMap<NodeId, String>,
    /// Every group it knows of, the meta group first.
    pub groups: Vec<RecoverGroup>,
    /// A recovery was begun, and broke off.
    pub begun: bool,
}

/// Looks at what a stopped node has. Opens both directories as a start does, and changes nothing else.
pub fn look(wal_dir: &Path, db_dir: &Path) -> Result<RecoverReport, RecoverError> {
    let begun = read_mark(wal_dir)?.is_some();
    let mut disks = Disks::open(wal_dir, db_dir)?;
    let report = disks.report(begun);
    disks.close()?;
    report
}

/// Makes a stopped node go on alone. When it returns, the node can be started.
pub fn recover(wal_dir: &Path, db_dir: &Path) -> Result<RecoverReport, RecoverError> {
    recover_by(wal_dir, db_dir, &mut || Ok(()))
}

/// [`recover`]; `then` is called behind each step that is durable, and breaks it off by an error.
fn recover_by(
    wal_dir: &Path,
    db_dir: &Path,
    then: &mut dyn FnMut() -> Result<(), RecoverError>,
) -> Result<RecoverReport, RecoverError> {
    let mut disks = Disks::open(wal_dir, db_dir)?;
    let recovery = match read_mark(wal_dir)? {
        Some(begun) => begun,
        None => {
            // All that may be refused comes before the first change.
            disks.report(false)?;
            let recovery = Recovery {
                by: disks.node,
                before: disks.cluster,
                after: ClusterId(rand::rng().random()),
                at_ms: now_ms(),
            };
            write_mark(wal_dir, &recovery).map_err(|cause| failed("write", cause))?;
            then()?;
            recovery
        }
    };
    let Recovery { before, after, .. } = recovery;
    tracing::warn!(node = %disks.node, %before, %after, "this node goes on alone");
    let named = disks.identity.update(|id| id.cluster = Some(after));
    named.map_err(|cause| RecoverError::Disk(cause.to_string()))?;
    then()?;
    let base = disks.base(&recovery)?;
    then()?;
    for (group, replica) in disks.sound() {
        disks.recover_shard(group, replica, base, recovery.at_ms)?;
        then()?;
    }
    let state = disks.recover_meta(&recovery)?;
    then()?;
    for (group, replica) in disks.blank(&state) {
        disks.begin_anew(group, replica, then)?;
        disks.recover_shard(group, replica, base, recovery.at_ms)?;
        then()?;
    }
    disks.found_anew(&state)?;
    then()?;
    disks.cluster = after;
    let report = disks.report(false);
    disks.close()?;
    // The last of it: from here on the node starts.
    fs::remove_file(wal_dir.join(RECOVERING))
        .and_then(|()| fs::File::open(wal_dir)?.sync_all())
        .map_err(|cause| failed("remove", cause))?;
    report
}

/// Whether a recovery has begun here and not ended: then the node must not start.
pub(crate) fn is_under_way(wal_dir: &Path) -> bool {
    wal_dir.join(RECOVERING).exists()
}

fn failed(what: &str, cause: impl std::fmt::Display) -> RecoverError {
    RecoverError::Disk(format!("{what} {RECOVERING}: {cause}"))
}

fn write_mark(wal_dir: &Path, recovery: &Recovery) -> io::Result<()> {
    let bytes = FRAME.seal(|out| {
        out.u64(recovery.by.0);
        out.u128(recovery.before.0);
        out.u128(recovery.after.0);
        out.u64(recovery.at_ms);
    });
    replace_file(&wal_dir.join(RECOVERING), &bytes)
}

fn read_mark(wal_dir: &Path) -> Result<Option<Recovery>, RecoverError> {
    let bytes = match fs::read(wal_dir.join(RECOVERING)) {
        Ok(bytes) => bytes,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(failed("read", cause)),
    };
    let mark = FRAME.open(&bytes, |from| {
        Ok(Recovery {
            by: NodeId(from.u64()?),
            before: ClusterId(from.u128()?),
            after: ClusterId(from.u128()?),
            at_ms: from.u64()?,
        })
    });
    mark.map(Some).map_err(|cause| RecoverError::Refused(format!("{RECOVERING}: {cause}")))
}

/// A stopped node, opened.
struct Disks {
    dirs: [PathBuf; 2],
    node: NodeId,
    cluster: ClusterId,
    meta_replica: ReplicaId,
    identity: IdentityFiles,
    held: Held,
    quarantine: Quarantine,
    wal: Wal,
    store: Arc<dyn Store>,
}

impl Disks {
    fn open(wal_dir: &Path, db_dir: &Path) -> Result<Self, RecoverError> {
        let refused = |why: String| RecoverError::Refused(why);
        let known = IdentityFiles::peek(wal_dir, db_dir).map_err(|c| refused(c.to_string()))?;
        let member = known.and_then(|id| Some((id.node, id.cluster?, id.meta_replica?)));
        let Some((node, cluster, meta_replica)) = member else {
            let dirs = [wal_dir, db_dir].map(|dir| dir.display().to_string()).join(" and ");
            return Err(refused(format!("{dirs} are not those of a member of a cluster")));
        };
        let options = wal::Options { on_damage: OnDamage::Refuse, ..wal::Options::default() };
        let (wal, _) = Wal::open(wal_dir, options).map_err(|cause| match cause {
            OpenError::InUse => RecoverError::InUse { dir: wal_dir.display().to_string() },
            cause => {
                let command = repair_command(wal_dir, db_dir);
                refused(format!("the log is damaged: {cause}; nothing was changed: run {command}"))
            }
        })?;
        let store = RocksStore::open(db_dir, Budget::default()).map_err(|cause| match cause {
            stemedb_engine::Error::InUse { dir } => RecoverError::InUse { dir },
            cause => refused(cause.to_string()),
        })?;
        // Both are there: only read.
        let identity = IdentityFiles::open(wal_dir, db_dir, node);
        let identity = identity.map_err(|cause| refused(cause.to_string()))?;
        let quarantine = Quarantine::open(db_dir).map_err(refused)?;
        for entry in quarantine.entries().values() {
            wal.quarantine(StreamId(entry.replica.0), &entry.damage.cause);
        }
        let held = Held::open(db_dir, identity.get().founded()).map_err(refused)?;
        let dirs = [wal_dir.to_owned(), db_dir.to_owned()];
        let store: Arc<dyn Store> = Arc::new(store);
        Ok(Self { dirs, node, cluster, meta_replica, identity, held, quarantine, wal, store })
    }

    /// The replicas of shards that can be gone on with.
    fn sound(&self) -> Replicas {
        let aside = self.quarantine.replicas();
        let held = self.held.stock().held;
        held.into_iter().filter(|replica| !aside.contains(replica)).collect()
    }

    /// The replicas that the layout gives this node and that are not here.
    fn blank(&self, state: &MetaState) -> Replicas {
        let sound = self.sound();
        let given = (0..state.layout.shards.len()).filter_map(|number| {
            let group = GroupId(number as u32 + 1);
            let replica = state.layout.replicas(group)?.iter().find(|own| own.node == self.node)?;
            Some((group, replica.id))
        });
        given.filter(|(group, _)| !sound.contains_key(group)).collect()
    }

    fn replica(&self, group: GroupId, replica: ReplicaId) -> Result<Survivor, RecoverError> {
        Survivor::open(self.store.clone(), self.wal.clone(), group, replica).map_err(|cause| {
            let [wal, db] = &self.dirs;
            let command = repair_command(wal, db);
            RecoverError::Refused(format!("group {group}: {cause}; look at it with {command}"))
        })
    }

    fn report(&mut self, begun: bool) -> Result<RecoverReport, RecoverError> {
        let remains = |group: GroupId, replica: &Survivor| {
            let refused = |cause| RecoverError::Refused(format!("group {group}: {cause}"));
            replica.remains().map_err(refused)
        };
        let aside = self.quarantine.entries();
        if let Some(entry) = aside.get(&GroupId::META) {
            return Err(RecoverError::Refused(format!(
                "the meta group is set aside as damaged here: {}; this node knows neither members nor \
                 keys: choose another",
                entry.damage.cause
            )));
        }
        let meta = self.replica(GroupId::META, self.meta_replica)?;
        let state = meta.applied().meta().borrow().clone();
        let of_meta = remains(GroupId::META, &meta)?;
        let one = |group, replica| RecoverGroup { group, replica, set_aside: None };
        let mut groups = vec![one(GroupId::META, Some((self.meta_replica, of_meta)))];
        let sound = self.sound();
        let shards = state.layout.groups().filter(|group| *group != GroupId::META);
        let mut known: Vec<GroupId> = shards.chain(self.held.stock().held.into_keys()).collect();
        known.sort_unstable();
        known.dedup();
        for group in known {
            let replica = match sound.get(&group) {
                None => None,
                Some(id) => Some((*id, remains(group, &self.replica(group, *id)?)?)),
            };
            let set_aside = aside.get(&group).map(|entry| entry.damage.cause.clone());
            groups.push(RecoverGroup { set_aside, ..one(group, replica) });
        }
        let members = state.nodes.values().map(|node| (node.id, node.name.clone())).collect();
        Ok(RecoverReport { node: self.node, cluster: self.cluster, members, groups, begun })
    }

    /// Has the meta group go on alone, and says behind which revision buckets begin from now on: what
    /// was lost may be a bucket that had begun at the base of the recovery before. The store alone
    /// might not know of that one yet.
    fn base(&self, recovery: &Recovery) -> Result<Revision, RecoverError> {
        let disk = |cause: stemedb_raft::Error| RecoverError::Disk(format!("meta group: {cause}"));
        let mut survivor = self.replica(GroupId::META, self.meta_replica)?;
        survivor.go_on_alone(self.node).map_err(disk)?;
        let state = survivor.applied().meta().borrow().clone();
        let before = state.recoveries.keys().filter(|after| **after != recovery.after).count();
        Ok(Revision(JUMP.saturating_mul(before as u64 + 1)))
    }

    /// Makes room for a replica that has nothing yet, and holds it. What is here of its group is damaged, or
    /// was on its way out.
    fn begin_anew(
        &self,
        group: GroupId,
        replica: ReplicaId,
        then: &mut dyn FnMut() -> Result<(), RecoverError>,
    ) -> Result<(), RecoverError> {
        let disk =
            |cause: &dyn std::fmt::Display| RecoverError::Disk(format!("group {group}: {cause}"));
        let stock = self.held.stock();
        if let Some(old) = stock.held.get(&group) {
            self.held.leave(group, *old).map_err(|cause| disk(&cause))?;
            then()?;
        }
        let old = stock.held.get(&group).into_iter().chain(stock.leaving.get(&group));
        for old in old {
            let (tell, told) = sync_channel(1);
            let asked =
                self.wal.forget(StreamId(old.0), Box::new(move |done| drop(tell.send(done))));
            asked.map_err(|cause| disk(&cause))?;
            let done = told.recv().map_err(|cause| disk(&cause))?;
            done.map_err(|cause| disk(&cause))?;
        }
        stemedb_engine::wipe(&self.store, group).map_err(|cause| disk(&cause))?;
        then()?;
        if let Some(entry) = self.quarantine.entries().get(&group) {
            self.quarantine.lift(group, entry.replica);
            self.quarantine.save().map_err(|cause| disk(&cause))?;
            then()?;
        }
        self.held.has_left(group).map_err(|cause| disk(&cause))?;
        then()?;
        self.held.hold(&[(group, replica)]).map_err(|cause| disk(&cause))
    }

    fn recover_shard(
        &self,
        group: GroupId,
        replica: ReplicaId,
        base: Revision,
        at_ms: u64,
    ) -> Result<(), RecoverError> {
        let disk =
            |cause: &dyn std::fmt::Display| RecoverError::Disk(format!("group {group}: {cause}"));
        let mut survivor = self.replica(group, replica)?;
        survivor.go_on_alone(self.node).map_err(|cause| disk(&cause))?;
        let buckets = survivor.applied().store().buckets().map_err(|cause| disk(&cause))?;
        let command =
            |project, bucket, write| Command { project, bucket, at_ms, write, once: None }.encode();
        // Which bucket the command names does not matter: there may be none.
        let any: BucketName = "default".parse().map_err(|cause| disk(&cause))?;
        let first = command(ProjectId(0), any, Write::Base { to: base });
        let jumps = buckets.into_iter().map(|(project, bucket, state)| {
            let to = Revision(state.revision.0.saturating_add(JUMP)).max(base);
            command(project, bucket, Write::Jump { to })
        });
        let jumps: Vec<bytes::Bytes> = iter::once(first).chain(jumps).collect();
        for some in jumps.chunks(JUMPS_AT_ONCE) {
            survivor.write(some.to_vec()).map_err(|cause| disk(&cause))?;
        }
        Ok(())
    }

    fn recover_meta(&self, recovery: &Recovery) -> Result<Arc<MetaState>, RecoverError> {
        let disk = |cause: stemedb_raft::Error| RecoverError::Disk(format!("meta group: {cause}"));
        let mut survivor = self.replica(GroupId::META, self.meta_replica)?;
        survivor.go_on_alone(self.node).map_err(disk)?;
        let state = survivor.applied().meta().borrow().clone();
        let (layout, next_replica) = self.layout_alone(&state);
        let command = MetaCommand::Recover { recovery: *recovery, layout, next_replica };
        survivor.write(vec![command.encode()]).map_err(disk)?;
        let state = survivor.applied().meta().borrow().clone();
        match state.founding {
            Some(founding) if founding.cluster == recovery.after => Ok(state),
            founding => Err(RecoverError::Refused(format!(
                "the meta group does not go on from {founding:?}: node {} is no member by its own log",
                self.node
            ))),
        }
    }

    /// The next layout, with this node alone in it: under the replicas that are sound, and new ones
    /// where there is none.
    fn layout_alone(&self, state: &MetaState) -> (Layout, ReplicaId) {
        let (node, sound, mut next) = (self.node, self.sound(), state.next_replica);
        let mut shard = |number: usize| {
            let group = GroupId(number as u32 + 1);
            let id = sound.get(&group).copied().unwrap_or_else(|| {
                next = ReplicaId(next.0 + 1);
                ReplicaId(next.0 - 1)
            });
            ShardLayout { replicas: vec![Replica { node, id }] }
        };
        let shards = (0..state.layout.shards.len()).map(&mut shard).collect();
        let meta = vec![Replica { node, id: self.meta_replica }];
        (Layout { epoch: state.layout.epoch + 1, shards, meta }, next)
    }

    /// Has the identity tell that this node founded its cluster alone.
    fn found_anew(&mut self, state: &MetaState) -> Result<(), RecoverError> {
        let missing = || RecoverError::Refused("the meta group has no founding".to_owned());
        let proposal = Proposal {
            proposer: self.node,
            founding: state.founding.ok_or_else(missing)?,
            nodes: state.nodes.values().cloned().collect(),
            layout: state.layout.clone(),
            next_replica: state.next_replica,
        };
        let written = self.identity.update(|id| id.proposal = Some(proposal.encode()));
        written.map_err(|cause| RecoverError::Disk(cause.to_string()))
    }

    fn close(self) -> Result<(), RecoverError> {
        let flushed = self.store.flush();
        let closed = self.wal.close();
        flushed.map_err(|cause| RecoverError::Disk(cause.to_string()))?;
        closed.map_err(|cause| RecoverError::Disk(cause.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Front, Node, NodeOptions, StartError};
    use std::time::Duration;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
            let to = to.join(entry.file_name());
            if entry.path().is_dir() {
                copy(&entry.path(), &to);
            } else {
                fs::copy(entry.path(), to).unwrap();
            }
        }
    }

    async fn started(dir: &Path) -> Node {
        let node = Node::start(NodeOptions::alone(dir)).await.unwrap();
        node.wait_ready(PATIENCE).await.unwrap();
        node
    }

    const BUCKETS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

    /// Of the four shards one is damaged here, and one was never here.
    fn lose_two_shards(dir: &Path) {
        let (wal, db) = (dir.join("wal"), dir.join("db"));
        let founded = IdentityFiles::peek(&wal, &db).unwrap().unwrap().founded();
        let (damaged, other) = (GroupId(2), GroupId(3));
        let quarantine = Quarantine::open(&db).unwrap();
        let cause = "a bad block".to_owned();
        let damage = stemedb_raft::Damage { part: stemedb_raft::Part::Store, cause };
        let entry = crate::quarantine::Entry { replica: founded[&damaged], damage, since_ms: 1 };
        quarantine.set_aside(damaged, entry);
        quarantine.save().unwrap();
        let held = Held::open(&db, founded.clone()).unwrap();
        held.leave(other, founded[&other]).unwrap();
        held.has_left(other).unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn wherever_it_breaks_off_the_node_does_not_start_and_the_next_try_ends_it() {
        let steps = "the mark, the id, the meta group, four shards, the meta group, the founding";
        breaks_off(|_| {}, 0, 9, steps).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn shards_that_are_not_here_begin_anew_behind_all_that_was_lost_wherever_it_breaks_off() {
        let steps = "as above with two shards, and for one five steps, for the other three";
        breaks_off(lose_two_shards, 2, 15, steps).await;
    }

    /// Breaks a recovery off behind each of its steps.
    async fn breaks_off(happens: fn(&Path), lost_shards: usize, steps: i32, which: &str) {
        let origin = tempfile::tempdir().unwrap();
        let node = started(origin.path()).await;
        for bucket in BUCKETS {
            node.bucket("demo", bucket).await.unwrap().put("k", "v").await.unwrap();
        }
        // As a crash leaves it: all in the log, nothing in the store.
        let crashed = tempfile::tempdir().unwrap();
        copy(origin.path(), crashed.path());
        let before = node.status().cluster;
        node.shutdown().await;
        happens(crashed.path());

        for cut in 0.. {
            let dir = tempfile::tempdir().unwrap();
            copy(crashed.path(), dir.path());
            let (wal, db) = (dir.path().join("wal"), dir.path().join("db"));
            let mut left = cut;
            let first = recover_by(&wal, &db, &mut || {
                left -= 1;
                if left < 0 { Err(RecoverError::Disk("the power went".to_owned())) } else { Ok(()) }
            });
            let ended = first.is_ok();
            let report = match first {
                Ok(report) => report,
                Err(_) => {
                    let refused = Node::start(NodeOptions::alone(dir.path())).await.err();
                    let told = matches!(&refused, Some(StartError::Identity(why)) if why.contains("again"));
                    assert!(told, "after {cut} steps: {refused:?}");
                    assert!(look(&wal, &db).unwrap().begun);
                    recover(&wal, &db).unwrap()
                }
            };
            let node = started(dir.path()).await;
            let status = node.status();
            assert_eq!(status.cluster, Some(report.cluster));
            assert_ne!(status.cluster, before);
            assert!(report.groups.iter().all(|group| group.replica.is_some()), "{report:?}");
            let mut lost = 0;
            for bucket in BUCKETS.into_iter().chain(["new"]) {
                let handle = node.bucket("demo", bucket).await.unwrap();
                match handle.get("k").await.unwrap() {
                    Some(version) => assert_eq!(version.value, "v", "after {cut} steps"),
                    None => lost += usize::from(bucket != "new"),
                }
                let put = handle.put("k", "w").await.unwrap();
                assert!(put.0 > JUMP, "{bucket}, after {cut} steps: {put:?}");
            }
            assert_eq!(lost > 0, lost_shards > 0, "after {cut} steps");
            assert!(lost < BUCKETS.len());
            node.shutdown().await;
            if ended {
                assert_eq!(cut, steps, "{which}");
                break;
            }
        }
    }

    #[test]
    fn the_mark_stands_as_it_was_first_written_and_junk_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read_mark(dir.path()).unwrap(), None);
        let recovery =
            Recovery { by: NodeId(1), before: ClusterId(2), after: ClusterId(3), at_ms: 4 };
        write_mark(dir.path(), &recovery).unwrap();
        assert!(is_under_way(dir.path()));
        assert_eq!(read_mark(dir.path()).unwrap(), Some(recovery));
        let bytes = fs::read(dir.path().join(RECOVERING)).unwrap();
        let mut body = b"StemeDB recovering\n\x01".to_vec();
        body.extend_from_slice(&1u64.to_le_bytes());
        body.extend_from_slice(&2u128.to_le_bytes());
        body.extend_from_slice(&3u128.to_le_bytes());
        body.extend_from_slice(&4u64.to_le_bytes());
        assert_eq!(bytes[..bytes.len() - 4], body);
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x10;
            fs::write(dir.path().join(RECOVERING), flipped).unwrap();
            assert!(read_mark(dir.path()).is_err(), "byte {at}");
        }
    }
}
