//! Which replicas this node holds: in memory, and on disk.
//!
//! The layout says which replicas a node should hold. Between two layouts that is not what it
//! does hold: one that the newer layout gives to another node is a member of its group until the
//! group has changed its voters, and must come back after a restart, for the group may need its
//! vote. And one that the layout gives this node anew may follow an earlier one of the same group,
//! whose rows and log are not its own. So what is held is written down: before a new replica
//! opens, and when an old one has gone. One that goes is written down as leaving before anything of
//! it is taken away, and is never opened again: without its rows and its log it would be a blank
//! voter under an id that its group may still count.
//!
//! ```text
//! REPLICAS = "StemeDB replicas\n" | version u8 | count | (group u32, replica, leaving u8) … | CRC-32
//! ```
//!
//! The file stands in the store's directory and is replaced by rename. Without one (a blank node, or
//! a store of an earlier version) a node holds what it founded, if it did. The meta group's
//! replica is not in it: the identity names it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use stemedb_types::{GroupId, ReplicaId};

use crate::core::locked;
use crate::framed::Frame;
use crate::replace_file::replace_file;

/// The file's name in the store's directory.
pub(crate) const FILE: &str = "REPLICAS";
const FRAME: Frame = Frame { magic: b"StemeDB replicas\n", version: 1, name: "replicas" };

/// Replicas by group: a node never holds two of one group.
pub(crate) type Replicas = BTreeMap<GroupId, ReplicaId>;

/// What the file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stock {
    /// Replicas that run here, or would if they were sound.
    pub(crate) held: Replicas,
    /// Replicas that are being taken away: they must not run any more.
    pub(crate) leaving: Replicas,
}

/// The replicas of this node, kept on disk.
#[derive(Debug)]
pub(crate) struct Held {
    path: PathBuf,
    stock: Mutex<Stock>,
}

impl Held {
    /// Reads the file in the store's directory. Without one the node holds `founded`: what its
    /// founding gave it.
    pub(crate) fn open(db_dir: &Path, founded: Replicas) -> Result<Self, String> {
        let path = db_dir.join(FILE);
        let stock = read(&path)?.unwrap_or(Stock { held: founded, leaving: Replicas::new() });
        Ok(Self { path, stock: Mutex::new(stock) })
    }

    /// All replicas of this node.
    pub(crate) fn stock(&self) -> Stock {
        locked(&self.stock).clone()
    }

    /// Holds these replicas from now on; durable when it returns. Blocks on the disk. After an error
    /// what is held is what it was.
    pub(crate) fn hold(&self, new: &[(GroupId, ReplicaId)]) -> io::Result<()> {
        self.change(|stock| stock.held.extend(new.iter().copied()))
    }

    /// Runs this replica no more: it is being taken away. As [`Held::hold`].
    pub(crate) fn leave(&self, group: GroupId, replica: ReplicaId) -> io::Result<()> {
        self.change(|stock| {
            stock.held.retain(|id, held| *id != group || *held != replica);
            stock.leaving.insert(group, replica);
        })
    }

    /// Nothing is left of a replica that was leaving. As [`Held::hold`].
    pub(crate) fn has_left(&self, group: GroupId) -> io::Result<()> {
        self.change(|stock| {
            stock.leaving.remove(&group);
        })
    }

    fn change(&self, change: impl FnOnce(&mut Stock)) -> io::Result<()> {
        // Written under the lock: an older list must not overtake a newer one.
        let mut stock = locked(&self.stock);
        let mut next = stock.clone();
        change(&mut next);
        if next != *stock {
            replace_file(&self.path, &encode(&next))?;
            *stock = next;
        }
        Ok(())
    }
}

/// Reads a file of replicas; `None` where there is none. The error names the file.
pub(crate) fn read(path: &Path) -> Result<Option<Stock>, String> {
    match std::fs::read(path) {
        Ok(bytes) => {
            decode(&bytes).map(Some).map_err(|cause| format!("{}: {cause}", path.display()))
        }
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(format!("{}: {cause}", path.display())),
    }
}

fn encode(stock: &Stock) -> Vec<u8> {
    FRAME.seal(|out| {
        out.varint((stock.held.len() + stock.leaving.len()) as u64);
        for (replicas, leaving) in [(&stock.held, false), (&stock.leaving, true)] {
            for (group, replica) in replicas {
                out.u32(group.0);
                out.varint(replica.0);
                out.bool(leaving);
            }
        }
    })
}

fn decode(bytes: &[u8]) -> Result<Stock, String> {
    FRAME.open(bytes, |from| {
        let count = from.length(6)?;
        let mut stock = Stock::default();
        for _ in 0..count {
            let (group, replica) = (GroupId(from.u32()?), ReplicaId(from.varint()?));
            let replicas = if from.bool()? { &mut stock.leaving } else { &mut stock.held };
            replicas.insert(group, replica);
        }
        Ok(stock)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn replicas(pairs: &[(u32, u64)]) -> Replicas {
        pairs.iter().map(|(group, id)| (GroupId(*group), ReplicaId(*id))).collect()
    }

    #[test]
    fn what_is_held_is_there_after_a_restart_and_what_leaves_is_never_held_again() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Held::open(dir.path(), replicas(&[(9, 1)])).unwrap();
        let held = open();
        assert_eq!(held.stock().held, replicas(&[(9, 1)]), "what it founded, without a file");
        held.hold(&[(GroupId(1), ReplicaId(7)), (GroupId(2), ReplicaId(300))]).unwrap();
        held.leave(GroupId(1), ReplicaId(7)).unwrap();
        let stock = Stock { held: replicas(&[(2, 300), (9, 1)]), leaving: replicas(&[(1, 7)]) };
        assert_eq!(open().stock(), stock);
        held.has_left(GroupId(1)).unwrap();
        held.leave(GroupId(9), ReplicaId(1)).unwrap();
        held.has_left(GroupId(9)).unwrap();
        let stock = Stock { held: replicas(&[(2, 300)]), leaving: Replicas::new() };
        assert_eq!(open().stock(), stock);
    }

    #[test]
    fn the_bytes_of_version_1_are_read_for_ever() {
        let stock = Stock { held: replicas(&[(2, 300)]), leaving: replicas(&[(5, 7)]) };
        let bytes = encode(&stock);
        assert_eq!(bytes, FROZEN);
        let mut newer = bytes.clone();
        newer[FRAME.magic.len()] = 9;
        let refused = "replicas has format version 9, this build reads 1".to_owned();
        assert_eq!(decode(&newer), Err(refused));
    }

    const FROZEN: &[u8] = b"StemeDB replicas\n\x01\x02\x02\x00\x00\x00\xac\x02\x00\x05\x00\x00\x00\x07\x01\x83\xbcs\x0c";

    proptest! {
        #[test]
        fn a_list_reads_back_and_no_cut_or_flip_of_it_does(
            held in prop::collection::btree_map(any::<u32>(), any::<u64>(), 0..9),
            leaving in prop::collection::btree_map(any::<u32>(), any::<u64>(), 0..3),
            at in any::<prop::sample::Index>(),
            bit in 0..8u8,
        ) {
            let replicas = |map: BTreeMap<u32, u64>| -> Replicas {
                map.into_iter().map(|(group, id)| (GroupId(group), ReplicaId(id))).collect()
            };
            let stock = Stock { held: replicas(held), leaving: replicas(leaving) };
            let bytes = encode(&stock);
            prop_assert_eq!(decode(&bytes), Ok(stock));
            let place = at.index(bytes.len());
            prop_assert!(decode(&bytes[..place]).is_err());
            let mut flipped = bytes;
            flipped[place] ^= 1 << bit;
            prop_assert!(decode(&flipped).is_err());
        }
    }
}
