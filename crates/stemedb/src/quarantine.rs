//! Which groups this node has set aside, and why: in memory, and on disk.
//!
//! A group whose log or rows are damaged here neither votes nor acknowledges: it may have
//! promised what it can't know of any more, or hold what must not be served. Its other replicas
//! go on without it. It stays set aside over restarts, even where the damage would not be met
//! again (the damaged record may lie behind a cut by then), until the layout gives this
//! node another replica of the group: a replica id is never used twice, so an entry names
//! exactly the replica that is not to be trusted.
//!
//! ```text
//! QUARANTINE = "StemeDB quarantine\n" | version u8 | count | entry … | CRC-32
//! entry      = group u32 | replica | part u8 (1 log, 2 store) | since, ms u64 | cause
//! ```
//!
//! The file stands in the store's directory and is replaced by rename. One that does not read is
//! not started on: nobody could say which group must not vote.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use stemedb_raft::{Damage, Part};
use stemedb_types::{DecodeError, GroupId, Layout, NodeId, ReplicaId};
use tokio::sync::watch;

use crate::core::locked;
use crate::framed::Frame;
use crate::life::meta_voters;
use crate::replace_file::replace_file;

/// The file's name in the store's directory.
pub(crate) const FILE: &str = "QUARANTINE";
const FRAME: Frame = Frame { magic: b"StemeDB quarantine\n", version: 1, name: "quarantine" };
/// A longer cause is cut: it is for people.
const CAUSE_CHARS_MAX: usize = 400;
const LOG: u8 = 1;
const STORE: u8 = 2;

/// Why one replica is set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Which replica of the group.
    pub(crate) replica: ReplicaId,
    /// What is damaged.
    pub(crate) damage: Damage,
    /// Since when, in ms since 1970.
    pub(crate) since_ms: u64,
}

/// Groups that are set aside.
pub(crate) type Entries = BTreeMap<GroupId, Entry>;

/// What to do about a damaged replica. Pure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is set aside already, or is not this node's any more.
    Known,
    /// Others serve the group: this replica is set aside.
    SetAside,
    /// Nobody else has the group: the node must not go on, and a person has to look.
    Refuse,
}

/// Judges damage of a replica, from which replica of the group is this node's now (`None`: not
/// known) and whether other nodes hold the group too.
pub(crate) fn judge(
    (group, replica): (GroupId, ReplicaId),
    own: Option<ReplicaId>,
    others: bool,
    aside: &Entries,
) -> Verdict {
    let is_aside = aside.get(&group).is_some_and(|entry| entry.replica == replica);
    if is_aside || own.is_some_and(|own| own != replica) {
        return Verdict::Known;
    }
    if others { Verdict::SetAside } else { Verdict::Refuse }
}

/// Whether a group goes on without the replica of a node: another node votes in it. Those of the meta
/// group that only listen have what it decided, and can decide nothing. Pure.
pub(crate) fn goes_on_without(layout: &Layout, group: GroupId, node: NodeId) -> bool {
    let replicas = layout.replicas(group).unwrap_or_default();
    let voters = (group == GroupId::META).then(|| meta_voters(replicas, |_| false));
    let votes = |id: &ReplicaId| voters.as_ref().is_none_or(|voters| voters.contains(id));
    replicas.iter().any(|other| other.node != node && votes(&other.id))
}

/// The groups that are set aside, kept on disk. Readers see a change before it is durable: what
/// must not vote stops at once.
#[derive(Debug)]
pub(crate) struct Quarantine {
    path: PathBuf,
    entries: Mutex<Entries>,
    changed: watch::Sender<u64>,
    /// The disk was full when they were to be written.
    unsaved: AtomicBool,
}

impl Quarantine {
    /// Reads the file in the store's directory; there need not be one.
    pub(crate) fn open(db_dir: &Path) -> Result<Self, String> {
        let path = db_dir.join(FILE);
        let entries = read(&path)?;
        let (entries, changed) = (Mutex::new(entries), watch::Sender::new(0));
        Ok(Self { path, entries, changed, unsaved: AtomicBool::new(false) })
    }

    /// All that is set aside.
    pub(crate) fn entries(&self) -> Entries {
        locked(&self.entries).clone()
    }

    /// The replicas that must not run.
    pub(crate) fn replicas(&self) -> BTreeSet<(GroupId, ReplicaId)> {
        locked(&self.entries).iter().map(|(group, entry)| (*group, entry.replica)).collect()
    }

    /// Whether this node's replica of a group is set aside.
    pub(crate) fn holds(&self, group: GroupId) -> bool {
        locked(&self.entries).contains_key(&group)
    }

    /// Wakes whoever acts on it.
    pub(crate) fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Sets a replica aside, in memory: [`Quarantine::save`] makes it last.
    pub(crate) fn set_aside(&self, group: GroupId, entry: Entry) {
        locked(&self.entries).insert(group, entry);
        self.changed.send_modify(|version| *version += 1);
    }

    /// Drops the entry of a replica that is not this node's any more, in memory.
    pub(crate) fn lift(&self, group: GroupId, replica: ReplicaId) {
        locked(&self.entries).retain(|id, entry| *id != group || entry.replica != replica);
        self.changed.send_modify(|version| *version += 1);
    }

    /// Writes what is set aside; durable when it returns. Blocks on the disk.
    pub(crate) fn save(&self) -> io::Result<()> {
        // Written under the lock: an older list must not overtake a newer one.
        let entries = locked(&self.entries);
        replace_file(&self.path, &encode(&entries))
    }

    /// [`Quarantine::save`], but a full disk is no error: it is written once there is room, by
    /// whoever looks at [`Quarantine::is_unsaved`].
    pub(crate) fn save_if_there_is_room(&self) -> io::Result<()> {
        let saved = self.save();
        let full = |error: &io::Error| error.kind() == io::ErrorKind::StorageFull;
        let is_full = saved.as_ref().is_err_and(full);
        self.unsaved.store(is_full, Ordering::Relaxed);
        if is_full { Ok(()) } else { saved }
    }

    /// Whether what is set aside is not written down yet, for want of room.
    pub(crate) fn is_unsaved(&self) -> bool {
        self.unsaved.load(Ordering::Relaxed)
    }
}

/// Reads a quarantine file; an absent one is an empty one. The error names the file.
pub(crate) fn read(path: &Path) -> Result<Entries, String> {
    match std::fs::read(path) {
        Ok(bytes) => decode(&bytes).map_err(|cause| format!("{}: {cause}", path.display())),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(Entries::new()),
        Err(cause) => Err(format!("{}: {cause}", path.display())),
    }
}

fn encode(entries: &Entries) -> Vec<u8> {
    FRAME.seal(|out| {
        out.varint(entries.len() as u64);
        for (group, Entry { replica, damage, since_ms }) in entries {
            out.u32(group.0);
            out.varint(replica.0);
            out.u8(match damage.part {
                Part::Log => LOG,
                Part::Store => STORE,
            });
            out.u64(*since_ms);
            let cause: String = damage.cause.chars().take(CAUSE_CHARS_MAX).collect();
            out.text(&cause);
        }
    })
}

fn decode(bytes: &[u8]) -> Result<Entries, String> {
    FRAME.open(bytes, |from| {
        let count = from.length(4)?;
        let mut entries = Entries::new();
        for _ in 0..count {
            let group = GroupId(from.u32()?);
            let replica = ReplicaId(from.varint()?);
            let part = match from.u8()? {
                LOG => Part::Log,
                STORE => Part::Store,
                got => return Err(DecodeError::Value { what: "a damaged part", got: got.into() }),
            };
            let since_ms = from.u64()?;
            let cause = from.text("a cause")?.to_owned();
            entries.insert(group, Entry { replica, damage: Damage { part, cause }, since_ms });
        }
        Ok(entries)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use stemedb_types::{Replica, ShardLayout};

    fn entry(replica: u64, part: Part, cause: &str) -> Entry {
        let damage = Damage { part, cause: cause.to_owned() };
        Entry { replica: ReplicaId(replica), damage, since_ms: 1_700_000_000_000 }
    }

    #[test]
    fn damage_is_judged_by_who_else_holds_the_group() {
        let aside = Entries::from([(GroupId(4), entry(11, Part::Log, "x"))]);
        let judge = |group, replica, own: Option<u64>, others| {
            judge((GroupId(group), ReplicaId(replica)), own.map(ReplicaId), others, &aside)
        };
        assert_eq!(judge(3, 11, Some(11), true), Verdict::SetAside);
        assert_eq!(judge(3, 11, None, true), Verdict::SetAside);
        assert_eq!(judge(3, 11, Some(11), false), Verdict::Refuse, "there is no other copy");
        assert_eq!(judge(3, 11, None, false), Verdict::Refuse, "nobody knows of another copy");
        assert_eq!(judge(4, 11, Some(11), true), Verdict::Known, "it is set aside already");
        assert_eq!(judge(4, 10, Some(11), true), Verdict::Known, "it is an older replica");
        assert_eq!(judge(3, 10, Some(11), false), Verdict::Known, "it is an older replica");
    }

    #[test]
    fn a_group_goes_on_without_a_node_if_another_one_votes_in_it() {
        let replica = |node, id| Replica { node: NodeId(node), id: ReplicaId(id) };
        let shard = |nodes: &[u64]| ShardLayout {
            replicas: nodes.iter().map(|node| replica(*node, 100 + node)).collect(),
        };
        let layout = |nodes: u64| Layout {
            epoch: 1,
            shards: vec![shard(&[1]), shard(&[1, 2, 3])],
            meta: (1..=nodes).map(|node| replica(node, node)).collect(),
        };
        let (alone, three) = (GroupId(1), GroupId(2));
        assert!(!goes_on_without(&layout(3), alone, NodeId(1)), "it has the only copy");
        assert!(goes_on_without(&layout(3), alone, NodeId(2)));
        assert!(goes_on_without(&layout(3), three, NodeId(1)));
        assert!(!goes_on_without(&layout(3), GroupId(9), NodeId(1)), "nobody knows of it");
        assert!(!goes_on_without(&layout(1), GroupId::META, NodeId(1)));
        assert!(!goes_on_without(&layout(2), GroupId::META, NodeId(1)), "the other one listens");
        assert!(goes_on_without(&layout(2), GroupId::META, NodeId(2)));
        assert!(goes_on_without(&layout(3), GroupId::META, NodeId(1)));
    }

    #[test]
    fn what_is_set_aside_is_set_aside_after_a_restart_and_what_is_lifted_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let quarantine = Quarantine::open(dir.path()).unwrap();
        assert!(quarantine.entries().is_empty());
        let mut changed = quarantine.changed();
        quarantine.set_aside(GroupId(3), entry(7, Part::Log, "0001.wal at 77"));
        quarantine.set_aside(GroupId(0), entry(2, Part::Store, "a row"));
        quarantine.save().unwrap();
        assert!(changed.has_changed().unwrap());
        changed.borrow_and_update();

        let again = Quarantine::open(dir.path()).unwrap();
        assert_eq!(again.entries(), quarantine.entries());
        assert!(again.holds(GroupId::META) && again.holds(GroupId(3)) && !again.holds(GroupId(1)));
        again.lift(GroupId(3), ReplicaId(6));
        assert!(again.holds(GroupId(3)), "that was another replica");
        again.lift(GroupId(3), ReplicaId(7));
        again.save().unwrap();
        let left = Quarantine::open(dir.path()).unwrap();
        assert_eq!(left.replicas(), BTreeSet::from([(GroupId(0), ReplicaId(2))]));
    }

    #[test]
    fn a_newer_version_is_refused_with_both_numbers_and_every_flipped_byte_is_noticed() {
        let entries = Entries::from([(GroupId(3), entry(300, Part::Store, "gone"))]);
        let bytes = encode(&entries);
        let mut newer = bytes.clone();
        newer[FRAME.magic.len()] = 2;
        let refused = decode(&newer).unwrap_err();
        assert_eq!(refused, "quarantine has format version 2, this build reads 1");
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x10;
            assert!(decode(&flipped).is_err(), "byte {at}");
        }
    }

    #[test]
    fn the_file_stands_as_it_was_first_written() {
        let entries = Entries::from([(GroupId(3), entry(300, Part::Store, "gone"))]);
        let mut body = b"StemeDB quarantine\n\x01\x01".to_vec();
        body.extend_from_slice(&fixture_tail());
        let crc = crc32fast::hash(&body).to_le_bytes();
        assert_eq!(encode(&entries), [body, crc.to_vec()].concat());
    }

    /// One entry: group 3, replica 300, the store, since 1 700 000 000 000 ms, "gone".
    fn fixture_tail() -> Vec<u8> {
        let mut out = 3u32.to_le_bytes().to_vec();
        out.extend_from_slice(&[0xac, 0x02, STORE]);
        out.extend_from_slice(&1_700_000_000_000u64.to_le_bytes());
        out.extend_from_slice(b"\x04gone");
        out
    }

    proptest! {
        #[test]
        fn entries_read_back(
            list in proptest::collection::btree_map(
                any::<u32>(),
                (any::<u64>(), any::<bool>(), any::<u64>(), "[a-z ]{0,40}"),
                0..6,
            ),
        ) {
            let entries: Entries = list
                .into_iter()
                .map(|(group, (replica, log, since_ms, cause))| {
                    let part = if log { Part::Log } else { Part::Store };
                    let damage = Damage { part, cause };
                    (GroupId(group), Entry { replica: ReplicaId(replica), damage, since_ms })
                })
                .collect();
            prop_assert_eq!(decode(&encode(&entries)), Ok(entries));
        }

        #[test]
        fn junk_is_refused_without_a_panic(junk in any::<Vec<u8>>()) {
            let _ = decode(&junk);
            let _ = decode(&[FRAME.magic, &junk].concat());
        }
    }
}
