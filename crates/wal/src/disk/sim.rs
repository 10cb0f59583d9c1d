//! A directory in memory that behaves as badly as a disk may.
//!
//! Each file keeps its synced bytes and the writes since its last sync; names likewise. A crash
//! ([`SimDisk::restart`]) keeps the synced bytes and, of each later write, any subset of its
//! 512-byte sectors, one of them possibly cut inside; and any subset of the creations, renamings
//! and removals since the directory was synced, as POSIX allows and journals mostly prevent.
//! Faults are set by counting calls, so a run from one seed repeats as far as the threads allow;
//! that of a driven log, which has none, to the byte.
//!
//! Damage to synced bytes ([`SimDisk::flip`], [`SimDisk::edit`], [`SimDisk::fail_reads_of`]) is
//! done by hand.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Disk, File, Lock};

const SECTOR_BYTES: usize = 512;
/// Writes of a file that are remembered.
const WRITES_TOLD: usize = 2;

/// Returns a number below its argument (which is not 0): the chance behind a crash.
pub type Chance<'a> = &'a mut dyn FnMut(u64) -> u64;

/// The directory. Clones are the same directory.
#[derive(Clone, Default)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    synced_names: BTreeMap<String, usize>,
    /// What was done to names since the last sync, oldest first.
    unsynced_names: Vec<NameChange>,
    locked: bool,
    crashed: bool,
    changes_left: Option<u64>,
    syncs_left: Option<u64>,
    writes_left: Option<u64>,
    reads_left: Option<u64>,
    /// The next write fails after so many bytes of it.
    short_write_bytes: Option<usize>,
    /// The next write is cut after so many bytes, on the disk itself, and the power goes.
    torn_write_bytes: Option<usize>,
    /// What the disk refuses to read.
    unreadable: Vec<(usize, Range<u64>)>,
    space_bytes: Option<u64>,
    id: u64,
    syncs: u64,
}

enum NameChange {
    Create(String, usize),
    Rename(String, String),
    Remove(String),
}

#[derive(Clone, Default)]
struct Inode {
    synced: Vec<u8>,
    current: Vec<u8>,
    unsynced: Vec<(usize, Vec<u8>)>,
    /// Where the last writes began, the newest last: as many as [`SimDisk::last_writes`] tells.
    writes: VecDeque<usize>,
    /// Open handles: a file without a name keeps its space as long as there is one.
    handles: usize,
}

impl SimDisk {
    /// An empty directory; `id` is what [`Disk::random`] answers.
    pub fn new(id: u64) -> Self {
        Self { state: Arc::new(Mutex::new(State { id, ..State::default() })) }
    }

    /// From now on every call fails, as if the process had died in the middle.
    pub fn crash(&self) {
        self.state().crashed = true;
    }

    /// Crashes at the change (write, sync, creation, renaming, removal) after `changes` more.
    /// The write that is cut short is among those that may survive in part.
    pub fn crash_after(&self, changes: u64) {
        self.state().changes_left = Some(changes);
    }

    /// Lets `syncs` more file syncs pass, and fails each one after.
    pub fn fail_syncs_after(&self, syncs: u64) {
        self.state().syncs_left = Some(syncs);
    }

    /// Lets `writes` more writes pass, and fails each one after.
    pub fn fail_writes_after(&self, writes: u64) {
        self.state().writes_left = Some(writes);
    }

    /// Lets `reads` more reads pass, and fails each one after.
    pub fn fail_reads_after(&self, reads: u64) {
        self.state().reads_left = Some(reads);
    }

    /// Fails every read of these bytes of a file until they are written again, like a sector
    /// that can't be read. No file of that name: no effect.
    pub fn fail_reads_of(&self, name: &str, bytes: Range<u64>) {
        let mut state = self.state();
        if let Some(&inode) = state.names.get(name) {
            state.unreadable.push((inode, bytes));
        }
    }

    /// The next write fails after the first `bytes` of it were written.
    pub fn shorten_next_write(&self, bytes: usize) {
        self.state().short_write_bytes = Some(bytes);
    }

    /// The power goes in the next write, and exactly its first `bytes` are on the disk, with all
    /// that was written to the file before.
    pub fn tear_next_write(&self, bytes: usize) {
        self.state().torn_write_bytes = Some(bytes);
    }

    /// How many bytes all files together may have, or no bound. Growth beyond fails with
    /// `StorageFull`.
    pub fn limit_space(&self, bytes: Option<u64>) {
        self.state().space_bytes = bytes;
    }

    /// How many file syncs have succeeded.
    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }

    /// How many files were made.
    pub fn creations(&self) -> u64 {
        self.state().inodes.len() as u64
    }

    /// The sum of the lengths of all files that have a name or are open still, bytes.
    pub fn used_bytes(&self) -> u64 {
        self.state().used_bytes()
    }

    /// The directory as it may look after a power cut now. The old one stays crashed.
    pub fn restart(&self, chance: Chance<'_>) -> Self {
        let mut state = self.state();
        state.crashed = true;
        let mut names = state.synced_names.clone();
        for change in &state.unsynced_names {
            if chance(2) == 1 {
                change.apply(&mut names);
            }
        }
        self.with_names(&state, names, |inode| inode.after_crash(chance))
    }

    /// As [`SimDisk::restart`], but what survives are whole pages of `page_bytes`, as they were at
    /// the end: of the pages written since a file's last sync any subset, in any order.
    pub fn restart_pages(&self, page_bytes: usize, chance: Chance<'_>) -> Self {
        let mut state = self.state();
        state.crashed = true;
        let mut names = state.synced_names.clone();
        for change in &state.unsynced_names {
            if chance(2) == 1 {
                change.apply(&mut names);
            }
        }
        self.with_names(&state, names, |inode| inode.after_lost_pages(page_bytes, chance))
    }

    /// The directory as it looks after the process alone died: every write is there.
    pub fn restart_process(&self) -> Self {
        let mut state = self.state();
        state.crashed = true;
        self.with_names(&state, state.names.clone(), |inode| Inode::of(inode.current.clone()))
    }

    /// An independent directory with the same bytes, all of them synced.
    pub fn copy(&self) -> Self {
        let state = self.state();
        self.with_names(&state, state.names.clone(), |inode| Inode::of(inode.current.clone()))
    }

    /// All of a file's bytes, or nothing if there is none of that name.
    pub fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.state();
        state.names.get(name).map(|&inode| state.inodes[inode].current.clone())
    }

    /// Where the last two writes to a file began, the newest last; a restart forgets none.
    pub fn last_writes(&self, name: &str) -> Vec<usize> {
        let state = self.state();
        let inode = state.names.get(name).map(|&inode| &state.inodes[inode]);
        inode.map(|inode| inode.writes.iter().copied().collect()).unwrap_or_default()
    }

    /// Changes a file's bytes behind the log's back, durably. No file of that name: no effect.
    pub fn edit(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state();
        if let Some(&inode) = state.names.get(name) {
            let inode = &mut state.inodes[inode];
            change(&mut inode.current);
            inode.settle();
        }
    }

    /// Flips one bit of a file, durably.
    pub fn flip(&self, name: &str, byte: usize, bit: u8) {
        self.edit(name, |bytes| bytes[byte] ^= 1 << (bit & 7));
    }

    /// A directory with these names, and what they name as `survivor` says: what has no name is
    /// gone. Sectors that can't be read stay so.
    fn with_names(
        &self,
        state: &State,
        names: BTreeMap<String, usize>,
        mut survivor: impl FnMut(&Inode) -> Inode,
    ) -> Self {
        let mut inodes = vec![Inode::default(); state.inodes.len()];
        for &inode in names.values() {
            let before = &state.inodes[inode];
            inodes[inode] = Inode { writes: before.writes.clone(), ..survivor(before) };
        }
        let (synced_names, unreadable) = (names.clone(), state.unreadable.clone());
        let state =
            State { inodes, names, synced_names, unreadable, id: state.id, ..State::default() };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NameChange {
    /// Does nothing if the name it starts from is not there.
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Create(name, inode) => {
                names.insert(name.clone(), *inode);
            }
            Self::Rename(from, to) => {
                if let Some(inode) = names.remove(from) {
                    names.insert(to.clone(), inode);
                }
            }
            Self::Remove(name) => {
                names.remove(name);
            }
        }
    }
}

impl Inode {
    fn of(bytes: Vec<u8>) -> Self {
        Self { synced: bytes.clone(), current: bytes, ..Self::default() }
    }

    /// All that was written is synced.
    fn settle(&mut self) {
        self.synced.clone_from(&self.current);
        self.unsynced.clear();
    }

    fn write(&mut self, bytes: &[u8], offset: usize) {
        if self.writes.len() == WRITES_TOLD {
            self.writes.pop_front();
        }
        self.writes.push_back(offset);
        put(&mut self.current, bytes, offset);
        self.unsynced.push((offset, bytes.to_vec()));
    }

    fn after_crash(&self, chance: Chance<'_>) -> Self {
        let mut bytes = self.synced.clone();
        for (offset, write) in &self.unsynced {
            match chance(4) {
                0 => {}
                1 => put(&mut bytes, write, *offset),
                2 => put(&mut bytes, &write[..chance(write.len() as u64 + 1) as usize], *offset),
                _ => put_some_sectors(&mut bytes, write, *offset, chance),
            }
        }
        Self::of(bytes)
    }
}

impl Inode {
    fn after_lost_pages(&self, page_bytes: usize, chance: Chance<'_>) -> Self {
        let mut bytes = self.synced.clone();
        let mut pages: BTreeMap<usize, bool> = BTreeMap::new();
        for (offset, write) in self.unsynced.iter().filter(|(_, write)| !write.is_empty()) {
            let last = (offset + write.len() - 1) / page_bytes;
            for page in offset / page_bytes..=last {
                pages.entry(page).or_insert_with(|| chance(2) == 1);
            }
        }
        for (page, _) in pages.into_iter().filter(|(_, survives)| *survives) {
            let from = page * page_bytes;
            let to = (from + page_bytes).min(self.current.len());
            put(&mut bytes, &self.current[from..to], from);
        }
        Self::of(bytes)
    }
}

fn put(into: &mut Vec<u8>, bytes: &[u8], offset: usize) {
    let end = offset + bytes.len();
    if into.len() < end {
        into.resize(end, 0);
    }
    into[offset..end].copy_from_slice(bytes);
}

fn put_some_sectors(into: &mut Vec<u8>, write: &[u8], offset: usize, chance: Chance<'_>) {
    let mut at = 0;
    while at < write.len() {
        let to_boundary = SECTOR_BYTES - (offset + at) % SECTOR_BYTES;
        let end = (at + to_boundary).min(write.len());
        if chance(2) == 0 {
            put(into, &write[at..end], offset + at);
        }
        at = end;
    }
}

impl State {
    fn used_bytes(&self) -> u64 {
        let named: BTreeSet<_> = self.names.values().copied().collect();
        let held = |(at, inode): &(usize, &Inode)| inode.handles > 0 || named.contains(at);
        let held = self.inodes.iter().enumerate().filter(held);
        held.map(|(_, inode)| inode.current.len() as u64).sum()
    }

    /// A handle to a file.
    fn handle(&mut self, disk: &SimDisk, inode: usize) -> Arc<dyn File> {
        self.inodes[inode].handles += 1;
        Arc::new(SimFile { disk: disk.clone(), inode })
    }

    fn alive(&self) -> io::Result<()> {
        if self.crashed { Err(io::Error::other("crashed")) } else { Ok(()) }
    }

    /// Counts a change. The one on which the counter runs out fails and crashes the disk.
    fn change(&mut self) -> io::Result<()> {
        self.alive()?;
        match &mut self.changes_left {
            Some(0) => self.crashed = true,
            Some(left) => *left -= 1,
            None => {}
        }
        self.alive()
    }

    fn change_names(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.unsynced_names.push(change);
    }

    fn inode(&self, name: &str) -> io::Result<usize> {
        self.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

fn spend(left: &mut Option<u64>, what: &'static str) -> io::Result<()> {
    match left {
        Some(0) => Err(io::Error::other(what)),
        Some(left) => {
            *left -= 1;
            Ok(())
        }
        None => Ok(()),
    }
}

impl Disk for SimDisk {
    fn lock(&self) -> io::Result<Option<Lock>> {
        let mut state = self.state();
        state.alive()?;
        if std::mem::replace(&mut state.locked, true) {
            return Ok(None);
        }
        Ok(Some(Box::new(SimLock(self.clone()))))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let state = self.state();
        state.alive()?;
        Ok(state.names.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let mut state = self.state();
        state.alive()?;
        let inode = state.inode(name)?;
        Ok(state.handle(self, inode))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let mut state = self.state();
        state.change()?;
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = state.inodes.len();
        state.inodes.push(Inode::default());
        state.change_names(NameChange::Create(name.to_owned(), inode));
        Ok(state.handle(self, inode))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        state.change()?;
        state.inode(from)?;
        state.change_names(NameChange::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.change()?;
        state.inode(name)?;
        state.change_names(NameChange::Remove(name.to_owned()));
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.state();
        state.change()?;
        state.synced_names = state.names.clone();
        state.unsynced_names.clear();
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let state = self.state();
        Ok(state.space_bytes.map_or(u64::MAX, |space| space.saturating_sub(state.used_bytes())))
    }

    fn random(&self) -> u64 {
        self.state().id
    }
}

struct SimLock(SimDisk);

impl Drop for SimLock {
    fn drop(&mut self) {
        self.0.state().locked = false;
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    inode: usize,
}

impl Drop for SimFile {
    fn drop(&mut self) {
        self.disk.state().inodes[self.inode].handles -= 1;
    }
}

impl File for SimFile {
    fn length(&self) -> io::Result<u64> {
        let state = self.disk.state();
        state.alive()?;
        Ok(state.inodes[self.inode].current.len() as u64)
    }

    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.alive()?;
        spend(&mut state.reads_left, "read failed on demand")?;
        let (from, to) = (offset, offset + out.len() as u64);
        let hit = |(inode, bad): &(usize, Range<u64>)| {
            *inode == self.inode && bad.start < to && from < bad.end
        };
        if state.unreadable.iter().any(hit) {
            return Err(io::Error::other("a sector can't be read"));
        }
        let bytes = state.inodes[self.inode].current.get(offset as usize..);
        let Some(bytes) = bytes.and_then(|bytes| bytes.get(..out.len())) else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        if state.changes_left == Some(0) && !state.crashed {
            // The write in whose middle the power goes: it may have reached the disk in part.
            state.inodes[self.inode].write(bytes, offset as usize);
        }
        state.change()?;
        spend(&mut state.writes_left, "write failed on demand")?;
        let grown = (offset + bytes.len() as u64)
            .saturating_sub(state.inodes[self.inode].current.len() as u64);
        if state.space_bytes.is_some_and(|space| state.used_bytes() + grown > space) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if let Some(written) = state.torn_write_bytes.take() {
            let inode = &mut state.inodes[self.inode];
            inode.write(&bytes[..written.min(bytes.len())], offset as usize);
            inode.settle();
            state.crashed = true;
            return state.alive();
        }
        if let Some(written) = state.short_write_bytes.take() {
            let written = &bytes[..written.min(bytes.len())];
            state.inodes[self.inode].write(written, offset as usize);
            return Err(io::ErrorKind::WriteZero.into());
        }
        let (inode, to) = (self.inode, offset + bytes.len() as u64);
        state.unreadable.retain(|(i, bad)| *i != inode || bad.start < offset || to < bad.end);
        state.inodes[self.inode].write(bytes, offset as usize);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        state.change()?;
        spend(&mut state.syncs_left, "sync failed on demand")?;
        let inode = &mut state.inodes[self.inode];
        for (offset, bytes) in std::mem::take(&mut inode.unsynced) {
            put(&mut inode.synced, &bytes, offset);
        }
        state.syncs += 1;
        Ok(())
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDisk").finish_non_exhaustive()
    }
}
