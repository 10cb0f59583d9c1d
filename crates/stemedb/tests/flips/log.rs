//! The log's half: opened in memory with one bit flipped, and read to the end.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::sync::Arc;

use bytes::Bytes;
use stemedb_raft::wal::disk::Disk;
use stemedb_raft::wal::disk::sim::SimDisk;
use stemedb_raft::wal::{Bounds, OnDamage, Options, Recovery, StreamId, Wal};

use crate::Outcome;
use crate::place::{Place, Target};

const MARKS: std::ops::Range<u8> = 0..8;

/// One stream, as the log serves it.
#[derive(Clone, Debug, Default, PartialEq)]
struct Stream {
    bounds: Bounds,
    marks: BTreeMap<u8, Bytes>,
    entries: Vec<Bytes>,
}

/// The log without a flip.
pub(crate) struct Truth {
    disk: SimDisk,
    streams: BTreeMap<StreamId, Stream>,
}

impl fmt::Display for Truth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries: usize = self.streams.values().map(|stream| stream.entries.len()).sum();
        write!(f, "a log of {} KiB with {entries} entries", self.disk.used_bytes() >> 10)
    }
}

fn options(on_damage: OnDamage) -> Options {
    Options {
        on_damage,
        segment_bytes: 64 << 10,
        tail_cache_bytes: 0,
        spare_segments: 0,
        ..Options::default()
    }
}

impl Truth {
    pub(crate) fn read(place: &Place) -> Self {
        let disk = SimDisk::new(1);
        for entry in fs::read_dir(place.log()).unwrap() {
            let entry = entry.unwrap();
            let file = disk.create(&entry.file_name().to_string_lossy()).unwrap();
            file.write_at(&fs::read(entry.path()).unwrap(), 0).unwrap();
            file.sync_data().unwrap();
        }
        disk.sync_dir().unwrap();
        let (wal, _) = Wal::open_on(Arc::new(disk.copy()), options(OnDamage::Refuse)).unwrap();
        let streams = wal.streams().into_iter();
        let streams = streams.map(|id| (id, read(&wal, id).expect("an undamaged log"))).collect();
        Self { disk: disk.copy(), streams }
    }

    /// How many entries at its front a stream has purged.
    pub(crate) fn purged(&self, stream: StreamId) -> u64 {
        let purged = self.streams.get(&stream).and_then(|stream| stream.bounds.purged.as_ref());
        purged.map_or(0, |(to, _)| to + 1)
    }

    /// Opened both ways: what serves the good streams decides, but neither may serve wrong bytes.
    pub(crate) fn try_flip(&self, target: &Target) -> Outcome {
        let disk = self.disk.copy();
        disk.flip(&target.file.to_string_lossy(), target.byte as usize, target.bit);
        let strict = Wal::open_on(Arc::new(disk.copy()), options(OnDamage::Refuse));
        if let Ok((wal, recovery)) = strict
            && let wrong @ Outcome::Wrong(_) = self.compare(&wal, &recovery)
        {
            return wrong;
        }
        match Wal::open_on(Arc::new(disk), options(OnDamage::Quarantine)) {
            Err(_) => Outcome::Refused,
            Ok((wal, recovery)) => self.compare(&wal, &recovery),
        }
    }

    fn compare(&self, wal: &Wal, recovery: &Recovery) -> Outcome {
        let set_aside: BTreeSet<StreamId> =
            wal.quarantined().into_iter().map(|(id, _)| id).collect();
        let good = |id: &StreamId| !set_aside.contains(id);
        if let Some(id) = wal.streams().iter().find(|id| good(id) && !self.streams.contains_key(id))
        {
            return Outcome::Wrong(format!("{id:?} was never there"));
        }
        let mut missing = None;
        let mut unread = false;
        for (id, truth) in &self.streams {
            let Ok(found) = read(wal, *id) else {
                unread |= good(id);
                continue;
            };
            if found == *truth {
                continue;
            }
            if let Err(why) = is_earlier(&found, truth) {
                return Outcome::Wrong(format!("{id:?}: {why}"));
            }
            if good(id) {
                missing = Some(*id);
            }
        }
        match missing {
            Some(id) if recovery.torn.is_none() => {
                Outcome::Wrong(format!("{id:?} misses something and nobody says so"))
            }
            _ if unread => Outcome::ReadError,
            _ if !set_aside.is_empty() => Outcome::Quarantined,
            Some(_) => Outcome::Cut,
            None if recovery.torn.is_some() => Outcome::Cut,
            None if !recovery.damage.is_empty() => Outcome::Told,
            None => Outcome::NoEffect,
        }
    }
}

fn read(wal: &Wal, id: StreamId) -> Result<Stream, stemedb_raft::wal::Error> {
    let bounds = wal.bounds(id);
    let entries = match (bounds.first, bounds.last) {
        (Some(first), Some(last)) => wal.entries(id, first..last + 1, usize::MAX)?,
        _ => Vec::new(),
    };
    let marks = MARKS.filter_map(|tag| Some((tag, wal.mark_value(id, tag)?))).collect();
    Ok(Stream { bounds, marks, entries })
}

/// Whether a stream is one that lacks only what came last: of what it has, each byte must be true.
fn is_earlier(found: &Stream, truth: &Stream) -> Result<(), String> {
    let first = |stream: &Stream| stream.bounds.first.unwrap_or(0);
    for (index, entry) in (first(found)..).zip(&found.entries) {
        // Entries that were purged since may be back.
        let Some(at) = index.checked_sub(first(truth)) else { continue };
        if truth.entries.get(at as usize) != Some(entry) {
            return Err(format!("entry {index} is not what was written"));
        }
    }
    Ok(())
}
