//! Who this node is: a small file on each of its two volumes.
//!
//! ```text
//! IDENTITY = "StemeDB\n" | version u8 | node u64 | cluster u128? | incarnation | proposal?
//!          | meta replica? | CRC-32
//! ```
//!
//! The node's id is drawn once, when both volumes are blank. The cluster's id
//! is written when the node is founded or has joined. Between the two stands the one
//! proposal this node has accepted (decision 10): it is on disk before
//! the node says yes, and it never says yes to another.
//!
//! The file is replaced by rename, so a crash leaves the old one or the new.
//! Volumes that disagree are not started on: which of the two to believe is not a guess to make. One
//! that is blank while the other is part of something is either set aside with it ([`crate::aside`])
//! or, where nobody else has what was there, refused.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use stemedb_types::{ClusterId, DecodeError, GroupId, NodeId, ReplicaId};

use crate::founding::Proposal;
use crate::framed::Frame;
use crate::held::Replicas;
use crate::quarantine::goes_on_without;
use crate::replace_file::replace_file;

/// The file's name on both volumes.
pub(crate) const FILE: &str = "IDENTITY";
const FRAME: Frame = Frame { magic: b"StemeDB\n", version: 1, name: "identity" };

/// Why a node can't tell who it is. Nothing was changed on disk.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    /// The file can't be read or written.
    #[error("{path}: {cause}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// The file is damaged, or of a newer version.
    #[error("{path}: {cause}")]
    Format {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// The volumes are not a pair.
    #[error("{wal} and {db} do not belong together: {cause}")]
    Mismatch {
        /// The log's directory.
        wal: PathBuf,
        /// The store's directory.
        db: PathBuf,
        /// How they differ.
        cause: String,
    },
}

impl IdentityError {
    /// Whether it is only that the disk is full.
    pub(crate) fn is_full(&self) -> bool {
        matches!(self, Self::Io { cause, .. } if cause.kind() == io::ErrorKind::StorageFull)
    }
}

/// Who this node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The node's id.
    pub(crate) node: NodeId,
    /// Its cluster, once it has one.
    pub(crate) cluster: Option<ClusterId>,
    /// The highest incarnation it has gossiped under.
    pub(crate) incarnation: u64,
    /// The founding proposal it has accepted.
    pub(crate) proposal: Option<Vec<u8>>,
    /// Its replica of the meta group, once it has one.
    pub(crate) meta_replica: Option<ReplicaId>,
}

impl Identity {
    /// Whether nobody else was ever given a replica of what this node holds: it has no cluster
    /// yet, or founded it with itself as the only member.
    pub(crate) fn is_alone(&self) -> bool {
        match (self.cluster, self.founding()) {
            (None, _) => true,
            // It was let in by others.
            (Some(_), None) => false,
            (Some(_), Some(Ok(proposal))) => proposal.nodes.len() == 1,
            // It can't be told, so nothing is risked.
            (Some(_), Some(Err(_))) => true,
        }
    }

    /// Whether a group goes on without this node, as far as its founding tells.
    pub(crate) fn goes_on_elsewhere(&self, group: GroupId) -> bool {
        match (self.cluster, self.founding()) {
            // It was let in by others.
            (Some(_), None) => true,
            (Some(_), Some(Ok(founding))) => goes_on_without(&founding.layout, group, self.node),
            // It has no cluster yet; or it can't be told, so nothing is risked.
            (None, _) | (Some(_), Some(Err(_))) => false,
        }
    }

    /// Whether a group that this node holds does not go on without it.
    pub(crate) fn is_needed(&self) -> bool {
        let Some(Ok(founding)) = self.founding() else {
            return !self.goes_on_elsewhere(GroupId::META);
        };
        let held = |group: &GroupId| {
            let replicas = founding.layout.replicas(*group).unwrap_or_default();
            replicas.iter().any(|replica| replica.node == self.node)
        };
        founding.layout.groups().filter(held).any(|group| !self.goes_on_elsewhere(group))
    }

    /// This node's replicas of groups that go on without it, as far as its founding tells.
    pub(crate) fn spared_replicas(&self) -> Vec<ReplicaId> {
        let Some(Ok(founding)) = self.founding() else { return Vec::new() };
        let layout = &founding.layout;
        let spared = layout.groups().filter(|group| self.goes_on_elsewhere(*group));
        let replicas = spared.flat_map(|group| layout.replicas(group).unwrap_or_default());
        replicas.filter(|own| own.node == self.node).map(|own| own.id).collect()
    }

    /// This node's replicas of shards by its founding, if that is over.
    pub(crate) fn founded(&self) -> Replicas {
        let (Some(_), Some(Ok(founding))) = (self.cluster, self.founding()) else {
            return Replicas::new();
        };
        let layout = &founding.layout;
        let shards = layout.groups().filter(|group| *group != GroupId::META);
        let own = shards.filter_map(|group| {
            let replicas = layout.replicas(group)?;
            let own = replicas.iter().find(|replica| replica.node == self.node)?;
            Some((group, own.id))
        });
        own.collect()
    }

    fn founding(&self) -> Option<Result<Proposal, DecodeError>> {
        self.proposal.as_deref().map(Proposal::decode)
    }

    /// It is part of nothing and has promised nothing.
    fn is_unheard_of(&self) -> bool {
        self.cluster.is_none() && self.proposal.is_none() && self.meta_replica.is_none()
    }
}

/// The identity and where it is kept.
#[derive(Debug)]
pub(crate) struct IdentityFiles {
    dirs: [PathBuf; 2],
    identity: Identity,
}

impl IdentityFiles {
    /// Reads the identity of two volumes, or gives blank ones the id `fresh`.
    pub(crate) fn open(wal: &Path, db: &Path, fresh: NodeId) -> Result<Self, IdentityError> {
        let dirs = [wal.to_owned(), db.to_owned()];
        let blank = || Identity {
            node: fresh,
            cluster: None,
            incarnation: 0,
            proposal: None,
            meta_replica: None,
        };
        let (identity, stands) = match read_both(wal, db)? {
            None => (blank(), false),
            Some(found) => found,
        };
        let files = Self { dirs, identity };
        if !stands {
            files.write()?;
        }
        Ok(files)
    }

    /// Who the node of two volumes is, if both say the same; nothing is written.
    pub(crate) fn peek(wal: &Path, db: &Path) -> Result<Option<Identity>, IdentityError> {
        Ok(read_both(wal, db)?.map(|(identity, _)| identity))
    }

    /// Who this node is.
    pub(crate) fn get(&self) -> &Identity {
        &self.identity
    }

    /// Changes the identity; durable on both volumes when it returns.
    pub(crate) fn update(
        &mut self,
        change: impl FnOnce(&mut Identity),
    ) -> Result<(), IdentityError> {
        let before = self.identity.clone();
        change(&mut self.identity);
        if self.identity == before {
            return Ok(());
        }
        self.write().inspect_err(|_| self.identity = before)
    }

    fn write(&self) -> Result<(), IdentityError> {
        let bytes = encode(&self.identity);
        for dir in &self.dirs {
            let path = dir.join(FILE);
            replace_file(&path, &bytes).map_err(|cause| IdentityError::Io { path, cause })?;
        }
        Ok(())
    }
}

/// Who the node of two volumes is, and whether that stands on both; nothing if both are blank.
fn read_both(wal: &Path, db: &Path) -> Result<Option<(Identity, bool)>, IdentityError> {
    let mismatch = |cause: String| {
        let (wal, db) = (wal.to_owned(), db.to_owned());
        Err(IdentityError::Mismatch { wal, db, cause })
    };
    match (read(wal)?, read(db)?) {
        (None, None) => Ok(None),
        (Some(one), Some(two)) if one.node != two.node => {
            mismatch(format!("one is node {}, the other {}", one.node, two.node))
        }
        (Some(one), Some(two)) => Ok(Some((newer(one, two), true))),
        // The power went between the two first files: nobody has heard of this id yet.
        (Some(one), None) | (None, Some(one)) if one.is_unheard_of() => Ok(Some((one, false))),
        (Some(one), None) => {
            mismatch(format!("the store's is blank, the log's is node {}", one.node))
        }
        (None, Some(two)) => {
            mismatch(format!("the log's is blank, the store's is node {}", two.node))
        }
    }
}

/// A crash may come between the two files: the one that has gone further is right, for what it
/// says more was decided before it was written anywhere.
fn newer(one: Identity, two: Identity) -> Identity {
    let progress = |id: &Identity| (id.cluster.is_some(), id.proposal.is_some(), id.incarnation);
    if progress(&two) > progress(&one) { two } else { one }
}

/// Reads the identity of one volume; `None` where there is none.
pub(crate) fn read(dir: &Path) -> Result<Option<Identity>, IdentityError> {
    let path = dir.join(FILE);
    match fs::read(&path) {
        Ok(bytes) => {
            decode(&bytes).map(Some).map_err(|cause| IdentityError::Format { path, cause })
        }
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(IdentityError::Io { path, cause }),
    }
}

fn encode(identity: &Identity) -> Vec<u8> {
    FRAME.seal(|out| {
        out.u64(identity.node.0);
        out.option(identity.cluster, |out, cluster| out.u128(cluster.0));
        out.varint(identity.incarnation);
        out.option(identity.proposal.as_ref(), |out, proposal| out.bytes(proposal));
        out.option(identity.meta_replica, |out, replica| out.varint(replica.0));
    })
}

fn decode(bytes: &[u8]) -> Result<Identity, String> {
    FRAME.open(bytes, |from| {
        Ok(Identity {
            node: NodeId(from.u64()?),
            cluster: from.option(|from| from.u128().map(ClusterId))?,
            incarnation: from.varint()?,
            proposal: from.option(|from| from.bytes().map(<[u8]>::to_vec))?,
            meta_replica: from.option(|from| from.varint().map(ReplicaId))?,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blank_volumes_get_an_id_and_keep_it() {
        let (wal, db) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut files = IdentityFiles::open(wal.path(), db.path(), NodeId(7)).unwrap();
        files.update(|id| id.cluster = Some(ClusterId(9))).unwrap();
        files.update(|id| id.incarnation = 3).unwrap();
        let again = IdentityFiles::open(wal.path(), db.path(), NodeId(8)).unwrap();
        assert_eq!(again.get(), files.get());
        assert_eq!((again.get().node, again.get().cluster), (NodeId(7), Some(ClusterId(9))));
    }

    #[test]
    fn volumes_that_are_no_pair_are_refused_and_left_alone() {
        let (wal, db, other) = (
            tempfile::tempdir().unwrap(),
            tempfile::tempdir().unwrap(),
            tempfile::tempdir().unwrap(),
        );
        let mut files = IdentityFiles::open(wal.path(), db.path(), NodeId(1)).unwrap();
        files.update(|id| id.proposal = Some(vec![1])).unwrap();
        let blank = tempfile::tempdir().unwrap();
        for (a, b) in [(wal.path(), blank.path()), (blank.path(), db.path())] {
            let refused = IdentityFiles::open(a, b, NodeId(2)).unwrap_err();
            assert!(matches!(refused, IdentityError::Mismatch { .. }), "{refused}");
        }
        assert_eq!(fs::read_dir(blank.path()).unwrap().count(), 0);
        IdentityFiles::open(other.path(), blank.path(), NodeId(3)).unwrap();
        let refused = IdentityFiles::open(wal.path(), other.path(), NodeId(2)).unwrap_err();
        assert!(matches!(refused, IdentityError::Mismatch { .. }), "{refused}");
    }

    #[test]
    fn a_crash_between_the_two_first_files_leaves_a_node_that_starts() {
        for lost in [0, 1] {
            let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
            let [wal, db] = [dirs[0].path(), dirs[1].path()];
            IdentityFiles::open(wal, db, NodeId(1)).unwrap();
            fs::remove_file(dirs[lost].path().join(FILE)).unwrap();
            let seen = IdentityFiles::peek(wal, db).unwrap().unwrap();
            assert_eq!(seen.node, NodeId(1));
            assert!(!dirs[lost].path().join(FILE).exists(), "a look changes nothing");
            let again = IdentityFiles::open(wal, db, NodeId(2)).unwrap();
            assert_eq!(again.get().node, NodeId(1));
            assert!(dirs[lost].path().join(FILE).exists());
        }
    }

    #[test]
    fn a_crash_between_the_two_files_keeps_what_was_accepted() {
        let (wal, db) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut files = IdentityFiles::open(wal.path(), db.path(), NodeId(1)).unwrap();
        let before = fs::read(db.path().join(FILE)).unwrap();
        files.update(|id| id.proposal = Some(vec![1, 2])).unwrap();
        fs::write(db.path().join(FILE), before).unwrap();
        let again = IdentityFiles::open(wal.path(), db.path(), NodeId(1)).unwrap();
        assert_eq!(again.get().proposal, Some(vec![1, 2]));
    }

    #[test]
    fn a_newer_version_is_refused_with_both_numbers_and_every_flipped_byte_is_noticed() {
        let identity = Identity {
            node: NodeId(1),
            cluster: Some(ClusterId(2)),
            incarnation: 300,
            proposal: Some(vec![9; 20]),
            meta_replica: Some(ReplicaId(4)),
        };
        let bytes = encode(&identity);
        assert_eq!(decode(&bytes), Ok(identity));
        let mut newer = bytes.clone();
        newer[FRAME.magic.len()] = 2;
        let refused = decode(&newer).unwrap_err();
        assert_eq!(refused, "identity has format version 2, this build reads 1");
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x10;
            assert!(decode(&flipped).is_err(), "byte {at}");
        }
    }
}
