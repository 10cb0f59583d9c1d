//! Sets the data of an earlier life aside, so that this node joins as a new one.
//!
//! Two cases, both found at a start, before a log or a store is opened:
//!
//! - **A lost volume.** One of the two is blank. What the log had promised is gone, or what the store
//!   had applied: either counts as both, for a voter with half a memory breaks its groups.
//! - **A removed node.** Its cluster gave its place to others while it was away. The running node is
//!   told so by a quorum, writes [`REMOVED`] and ends; the next start finds the file.
//!
//! Nothing is deleted. On each volume everything goes into a folder `aside-<node id>-<ms since
//! 1970>`, for a person to look at and to remove. `IDENTITY` goes last, and of a removed node the
//! store goes before the log, with [`REMOVED`] as the very last: so wherever it breaks off, the next
//! start finds the same case and goes on, in the same folder.
//!
//! A node that has set data aside only ever joins. Where all nodes of a cluster lost a volume each,
//! they would else found an empty one in its place and nobody would notice.
//!
//! Left out: a node that founded its cluster alone and has lost a volume. Whether others have what
//! it had can't be told without what it lost, so it is refused, and a person has to rename its
//! folders. And room: what is set aside stays on the volume until a person removes it.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use stemedb_types::NodeId;

use crate::framed::Frame;
use crate::identity::{self, Identity, IdentityFiles};
use crate::options::StartError;
use crate::replace_file::replace_file;

/// The file in the log's directory that says that the node is no member of its cluster any more.
const REMOVED: &str = "REMOVED";
const REMOVED_FRAME: Frame = Frame { magic: b"StemeDB removed\n", version: 1, name: "removal" };
/// How the folders begin that data is set aside in.
const FOLDER: &str = "aside-";
/// The log's lock: it holds nothing, and who has it has the log.
const LOG_LOCK: &str = "lock";
/// What else is no data: a file system's own folder.
const LOST_AND_FOUND: &str = "lost+found";

/// Remembers that this node is no member any more: the next start sets its data aside. Durable
/// when it returns.
pub(crate) fn remember_removed(wal_dir: &Path, node: NodeId) -> io::Result<()> {
    replace_file(&wal_dir.join(REMOVED), &REMOVED_FRAME.seal(|out| out.u64(node.0)))
}

/// Sets the data of two volumes aside if it is of no use any more; whose it was, if so. Volumes that
/// can't be gone on with are refused, and then nothing is changed.
pub(crate) fn set_aside(
    wal_dir: &Path,
    db_dir: &Path,
    now_ms: u64,
) -> Result<Option<NodeId>, StartError> {
    set_aside_by(wal_dir, db_dir, now_ms, &mut |from, to| fs::rename(from, to))
}

/// How one thing is moved.
type Rename<'r> = &'r mut dyn FnMut(&Path, &Path) -> io::Result<()>;

fn set_aside_by(
    wal_dir: &Path,
    db_dir: &Path,
    now_ms: u64,
    rename: Rename<'_>,
) -> Result<Option<NodeId>, StartError> {
    let refused = |cause: identity::IdentityError| StartError::Identity(cause.to_string());
    let case = Case::of(wal_dir, db_dir).map_err(refused)?;
    let (node, of_log): (NodeId, &[&str]) = match case {
        // Before a log is begun in a folder that is blank by mistake.
        Case::None => return IdentityFiles::peek(wal_dir, db_dir).map(|_| None).map_err(refused),
        Case::Lost(node) => (node, &[identity::FILE]),
        Case::Removed(node) => (node, &[identity::FILE, REMOVED]),
    };
    let _locks = [lock(&wal_dir.join(LOG_LOCK), wal_dir)?, lock(db_dir, db_dir)?];
    let moved = move_into_folder(db_dir, node, now_ms, &[identity::FILE], rename)
        .and_then(|db| Ok((db, move_into_folder(wal_dir, node, now_ms, of_log, rename)?)));
    let (db, wal) = moved.map_err(|cause| StartError::Disk(format!("set data aside: {cause}")))?;
    let shown = |folder: &Option<PathBuf>| folder.as_ref().map(|path| path.display().to_string());
    let why = match case {
        Case::Removed(_) => "this node was removed from its cluster while it was away",
        _ => "one of this node's two volumes is blank, which counts as the loss of both",
    };
    tracing::warn!(%node, log = shown(&wal), store = shown(&db),
        "{why}: its data is set aside, nothing is deleted, and it joins as a new node");
    Ok(Some(node))
}

/// Whether data was set aside here once, and is still there.
pub(crate) fn has_aside(wal_dir: &Path, db_dir: &Path) -> bool {
    [wal_dir, db_dir].into_iter().any(|dir| {
        let names = names(dir).unwrap_or_default();
        names.iter().any(|name| name.starts_with(FOLDER))
    })
}

/// What is the matter with two volumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Case {
    /// Nothing that is for this file.
    None,
    /// One is blank, and others have what this node had.
    Lost(NodeId),
    /// The node is no member any more.
    Removed(NodeId),
}

impl Case {
    fn of(wal_dir: &Path, db_dir: &Path) -> Result<Self, identity::IdentityError> {
        let (wal, db) = (identity::read(wal_dir)?, identity::read(db_dir)?);
        if let Some(removed) = read_removed(wal_dir)? {
            // Of another node's life it says nothing.
            let same = |one: &Identity| one.node == removed;
            let its = wal.as_ref().is_none_or(same) && db.as_ref().is_none_or(same);
            return Ok(if its { Self::Removed(removed) } else { Self::None });
        }
        let one = match (wal, db) {
            (Some(one), None) if is_blank(db_dir) => one,
            (None, Some(one)) if is_blank(wal_dir) => one,
            _ => return Ok(Self::None),
        };
        let spared = one.cluster.is_some() && !one.is_needed();
        Ok(if spared { Self::Lost(one.node) } else { Self::None })
    }
}

fn read_removed(wal_dir: &Path) -> Result<Option<NodeId>, identity::IdentityError> {
    let path = wal_dir.join(REMOVED);
    match fs::read(&path) {
        Ok(bytes) => match REMOVED_FRAME.open(&bytes, |from| from.u64()) {
            Ok(node) => Ok(Some(NodeId(node))),
            Err(cause) => Err(identity::IdentityError::Format { path, cause }),
        },
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(identity::IdentityError::Io { path, cause }),
    }
}

/// Whether there is nothing of a node here.
fn is_blank(dir: &Path) -> bool {
    match names(dir) {
        Ok(names) => names.iter().all(|name| !is_data(name)),
        Err(cause) => cause.kind() == io::ErrorKind::NotFound,
    }
}

fn is_data(name: &str) -> bool {
    !name.starts_with(FOLDER) && name != LOG_LOCK && name != LOST_AND_FOUND
}

fn names(dir: &Path) -> io::Result<Vec<String>> {
    let name = |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into());
    let mut names = fs::read_dir(dir)?.map(name).collect::<io::Result<Vec<String>>>()?;
    names.sort_unstable();
    Ok(names)
}

/// Takes the lock that a running node would have; nothing where there is nothing to lock.
fn lock(path: &Path, dir: &Path) -> Result<Option<File>, StartError> {
    let failed = |cause: io::Error| StartError::Disk(format!("{}: {cause}", path.display()));
    let file = match File::open(path) {
        Ok(file) => file,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(failed(cause)),
    };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(StartError::InUse { dir: dir.display().to_string() }),
        Err(TryLockError::Error(cause)) => Err(failed(cause)),
    }
}

/// Moves all that is data into one folder of the directory, `last` behind everything else and in
/// this order; durable when it returns. Nothing if there is none.
fn move_into_folder(
    dir: &Path,
    node: NodeId,
    now_ms: u64,
    last: &[&str],
    rename: Rename<'_>,
) -> io::Result<Option<PathBuf>> {
    let names = match names(dir) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        names => names?,
    };
    let (late, early): (Vec<&str>, Vec<&str>) = names
        .iter()
        .map(String::as_str)
        .filter(|name| is_data(name))
        .partition(|name| last.contains(name));
    if late.is_empty() && early.is_empty() {
        return Ok(None);
    }
    let folder = unfinished(dir, &names, node, last)
        .unwrap_or_else(|| dir.join(format!("{FOLDER}{node}-{now_ms}")));
    fs::create_dir_all(&folder)?;
    sync(dir)?;
    for name in early {
        rename(&dir.join(name), &folder.join(name))?;
    }
    sync(&folder)?;
    sync(dir)?;
    for name in last.iter().filter(|name| late.contains(name)) {
        rename(&dir.join(name), &folder.join(name))?;
        sync(&folder)?;
        sync(dir)?;
    }
    Ok(Some(folder))
}

/// The folder of this node that a start before this one did not finish.
fn unfinished(dir: &Path, names: &[String], node: NodeId, last: &[&str]) -> Option<PathBuf> {
    let own = format!("{FOLDER}{node}-");
    let folders = names.iter().filter(|name| name.starts_with(&own)).map(|name| dir.join(name));
    let open = |folder: &PathBuf| last.iter().any(|name| !folder.join(name).exists());
    folders.into_iter().find(open)
}

fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use stemedb_types::ClusterId;

    struct Volumes {
        wal: tempfile::TempDir,
        db: tempfile::TempDir,
    }

    /// The volumes of a node that was let into a cluster, with something on each.
    fn volumes() -> Volumes {
        let volumes =
            Volumes { wal: tempfile::tempdir().unwrap(), db: tempfile::tempdir().unwrap() };
        let (wal, db) = (volumes.wal.path(), volumes.db.path());
        let mut files = IdentityFiles::open(wal, db, NodeId(7)).unwrap();
        files.update(|id| id.cluster = Some(ClusterId(9))).unwrap();
        fs::write(wal.join(LOG_LOCK), b"").unwrap();
        fs::write(wal.join("0001.wal"), b"records").unwrap();
        fs::write(wal.join("identity"), b"of the log").unwrap();
        fs::create_dir(wal.join(LOST_AND_FOUND)).unwrap();
        fs::create_dir(db.join("rocks")).unwrap();
        fs::write(db.join("rocks/CURRENT"), b"rows").unwrap();
        fs::write(db.join("REPLICAS"), b"replicas").unwrap();
        volumes
    }

    fn wipe(dir: &Path) {
        for name in names(dir).unwrap() {
            let path = dir.join(name);
            if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
        }
    }

    /// Every name below two volumes; when a folder was made does not matter.
    fn all(volumes: &Volumes) -> Vec<String> {
        let mut found = Vec::new();
        let mut open = vec![volumes.wal.path().to_owned(), volumes.db.path().to_owned()];
        while let Some(dir) = open.pop() {
            for name in names(&dir).unwrap() {
                let path = dir.join(&name);
                let root = [&volumes.wal, &volumes.db].map(|root| path.strip_prefix(root.path()));
                let short = root.into_iter().flatten().next().unwrap();
                found.push(short.display().to_string().replace("-2000", "-1000"));
                if path.is_dir() {
                    open.push(path);
                }
            }
        }
        found.sort();
        found
    }

    const ASIDE: &str = "aside-0000000000000007-1000";

    #[test]
    fn a_lost_volume_and_a_removal_set_everything_aside_wherever_it_breaks_off() {
        let of_wal = ["0001.wal", "IDENTITY", "identity"];
        let of_db = ["IDENTITY", "REPLICAS", "rocks", "rocks/CURRENT"];
        let lost_wal: fn(&Volumes) = |volumes| wipe(volumes.wal.path());
        let lost_db: fn(&Volumes) = |volumes| wipe(volumes.db.path());
        let removed: fn(&Volumes) =
            |volumes| remember_removed(volumes.wal.path(), NodeId(7)).unwrap();
        let set = |names: &[&str]| -> Vec<String> {
            let inside = names.iter().map(|name| format!("{ASIDE}/{name}"));
            inside.chain([ASIDE.to_owned()]).collect()
        };
        let left = vec![LOG_LOCK.to_owned(), LOST_AND_FOUND.to_owned()];
        for (what, happens, expected) in [
            ("the log's volume", lost_wal, set(&of_db)),
            ("the store's volume", lost_db, [set(&of_wal), left.clone()].concat()),
            (
                "a removal",
                removed,
                [set(&of_wal), set(&of_db), vec![format!("{ASIDE}/{REMOVED}")], left].concat(),
            ),
        ] {
            let mut expected = expected.clone();
            expected.sort();
            for cut in 0.. {
                let volumes = volumes();
                happens(&volumes);
                let (wal, db) = (volumes.wal.path(), volumes.db.path());
                assert!(!has_aside(wal, db));
                let mut left = cut;
                let first = set_aside_by(wal, db, 1000, &mut |from, to| {
                    if left == 0 {
                        return Err(io::Error::other("the power went"));
                    }
                    left -= 1;
                    fs::rename(from, to)
                });
                if let Err(cause) = &first {
                    assert!(cause.to_string().contains("the power went"), "{cause}");
                    // Later, as every start is.
                    assert_eq!(set_aside(wal, db, 2000).unwrap(), Some(NodeId(7)), "{what}, {cut}");
                }
                assert_eq!(all(&volumes), expected, "{what}, after {cut} moves");
                assert!(has_aside(wal, db));
                assert_eq!(set_aside(wal, db, 3000).unwrap(), None, "it is blank now");
                if first.is_ok() {
                    assert!(cut >= 3, "{what}: {cut} moves");
                    break;
                }
            }
        }
    }

    #[test]
    fn what_nobody_else_has_or_somebody_uses_is_left_alone() {
        // It has no cluster yet: what it has accepted, it has accepted for good.
        let volumes = volumes();
        let (wal, db) = (volumes.wal.path(), volumes.db.path());
        let mut files = IdentityFiles::open(wal, db, NodeId(1)).unwrap();
        files.update(|id| (id.cluster, id.proposal) = (None, Some(vec![1]))).unwrap();
        wipe(db);
        let before = all(&volumes);
        let refused = set_aside(wal, db, 1000).unwrap_err();
        assert!(
            matches!(&refused, StartError::Identity(why) if why.contains("is blank")),
            "{refused}"
        );
        assert_eq!(all(&volumes), before);

        // Not blank: somebody should look what it is.
        let volumes = self::volumes();
        let (wal, db) = (volumes.wal.path(), volumes.db.path());
        fs::remove_file(db.join("IDENTITY")).unwrap();
        let before = all(&volumes);
        assert!(matches!(set_aside(wal, db, 1000), Err(StartError::Identity(_))));
        assert_eq!(all(&volumes), before);

        // A running node has it, under another folder of the store.
        let (volumes, blank) = (self::volumes(), tempfile::tempdir().unwrap());
        let before = all(&volumes);
        let running = File::open(volumes.wal.path().join(LOG_LOCK)).unwrap();
        running.try_lock().unwrap();
        let refused = set_aside(volumes.wal.path(), blank.path(), 1000).unwrap_err();
        assert!(matches!(refused, StartError::InUse { .. }), "{refused}");
        assert_eq!(all(&volumes), before);

        // A removal of another node than the one that is here.
        remember_removed(volumes.wal.path(), NodeId(8)).unwrap();
        drop(running);
        assert_eq!(set_aside(volumes.wal.path(), volumes.db.path(), 1000).unwrap(), None);
    }

    #[test]
    fn the_file_of_a_removal_stands_as_it_was_first_written_and_junk_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        remember_removed(dir.path(), NodeId(0x0102)).unwrap();
        let bytes = fs::read(dir.path().join(REMOVED)).unwrap();
        assert_eq!(&bytes[..25], b"StemeDB removed\n\x01\x02\x01\0\0\0\0\0\0");
        assert_eq!(read_removed(dir.path()).unwrap(), Some(NodeId(0x0102)));
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x10;
            fs::write(dir.path().join(REMOVED), flipped).unwrap();
            assert!(read_removed(dir.path()).is_err(), "byte {at}");
        }
    }
}
