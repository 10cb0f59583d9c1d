//! Short words for the transcripts.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use bytes::Bytes;
use stemedb_wal::disk::sim::SimDisk;
use stemedb_wal::disk::{Disk, File, Lock};
use stemedb_wal::{Completion, Error, OnDamage, OpenError, Options, Recovery, StreamId, Wal};

pub(crate) const A: StreamId = StreamId(1);
pub(crate) const B: StreamId = StreamId(2);

/// Small segments, no helper thread, nothing cached once it is durable.
pub(crate) fn small() -> Options {
    Options {
        segment_bytes: 4096,
        tail_cache_bytes: 0,
        queue_bytes_max: 1 << 20,
        spare_segments: 0,
        ..Options::default()
    }
}

pub(crate) fn open(disk: &SimDisk) -> Wal {
    try_open(disk).unwrap().0
}

pub(crate) fn try_open(disk: &SimDisk) -> Result<(Wal, Recovery), OpenError> {
    Wal::open_on(Arc::new(disk.clone()), small())
}

/// Opens the log whatever is damaged.
pub(crate) fn quarantining(disk: &SimDisk) -> Result<(Wal, Recovery), OpenError> {
    let options = Options { on_damage: OnDamage::Quarantine, ..small() };
    Wal::open_on(Arc::new(disk.clone()), options)
}

/// A completion, and where its result can be waited for.
pub(crate) fn done() -> (Completion, Receiver<Result<(), Error>>) {
    let (send, receive) = channel();
    (Box::new(move |result| drop(send.send(result))), receive)
}

/// Makes a call with a completion and waits for it.
pub(crate) fn synced(call: impl FnOnce(Completion) -> Result<(), Error>) -> Result<(), Error> {
    let (completion, result) = done();
    call(completion)?;
    result.recv().expect("a completion is called")
}

pub(crate) fn payloads(texts: &[&str]) -> Vec<Bytes> {
    texts.iter().map(|text| Bytes::copy_from_slice(text.as_bytes())).collect()
}

pub(crate) fn append(wal: &Wal, stream: StreamId, first: u64, texts: &[&str]) {
    synced(|done| wal.append(stream, first, payloads(texts), done)).unwrap();
}

pub(crate) fn truncate(wal: &Wal, stream: StreamId, index: u64) {
    synced(|done| wal.truncate_from(stream, index, done)).unwrap();
}

pub(crate) fn purge(wal: &Wal, stream: StreamId, index: u64, note: &'static str) {
    let note = Bytes::from_static(note.as_bytes());
    synced(|done| wal.purge_to(stream, index, note, Some(done))).unwrap();
}

/// All live entries of a stream, as text.
pub(crate) fn texts(wal: &Wal, stream: StreamId) -> Vec<String> {
    let bounds = wal.bounds(stream);
    let (Some(first), Some(last)) = (bounds.first, bounds.last) else { return Vec::new() };
    let entries = wal.entries(stream, first..last + 1, usize::MAX).unwrap();
    entries.iter().map(|entry| String::from_utf8(entry.to_vec()).unwrap()).collect()
}

/// The segments' file names, oldest first.
pub(crate) fn segments(disk: &SimDisk) -> Vec<String> {
    let names = disk.copy().list().unwrap();
    names.into_iter().filter(|name| name.ends_with(".wal")).collect()
}

/// All files and their bytes.
pub(crate) fn image(disk: &SimDisk) -> BTreeMap<String, Vec<u8>> {
    use stemedb_wal::disk::Disk;
    let names = disk.copy().list().unwrap();
    names.into_iter().map(|name| (name.clone(), disk.bytes(&name).unwrap())).collect()
}

/// The seeds of a test that tries many: `STEMEDB_SEED` names a single one, to replay it.
pub(crate) fn seeds(count: u64) -> std::ops::Range<u64> {
    let asked = std::env::var("STEMEDB_SEED").ok().and_then(|seed| seed.parse::<u64>().ok());
    match asked {
        Some(seed) => seed..seed + 1,
        None => 1..count + 1,
    }
}

/// A small generator with a seed: the chance behind crashes.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// Told of each call ("read", "write", "sync", "create", "rename", "remove") and the name the file had
/// when it was opened, before the disk is; it may wait, panic, or fail the call.
pub(crate) type Hook = Arc<dyn Fn(&str, &str) -> io::Result<()> + Send + Sync>;

/// A disk with a hook.
pub(crate) struct Hooked {
    pub(crate) disk: SimDisk,
    pub(crate) hook: Hook,
}

struct HookedFile {
    file: Arc<dyn File>,
    name: String,
    hook: Hook,
}

impl Hooked {
    pub(crate) fn on(
        disk: &SimDisk,
        hook: impl Fn(&str, &str) -> io::Result<()> + Send + Sync + 'static,
    ) -> Arc<dyn Disk> {
        Arc::new(Self { disk: disk.clone(), hook: Arc::new(hook) })
    }

    fn wrap(&self, file: io::Result<Arc<dyn File>>, name: &str) -> io::Result<Arc<dyn File>> {
        let (name, hook) = (name.to_owned(), self.hook.clone());
        Ok(Arc::new(HookedFile { file: file?, name, hook }))
    }
}

impl std::fmt::Debug for Hooked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hooked").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for HookedFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HookedFile").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Disk for Hooked {
    fn lock(&self) -> io::Result<Option<Lock>> {
        self.disk.lock()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.wrap(self.disk.open(name), name)
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        (self.hook)("create", name)?;
        self.wrap(self.disk.create(name), name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        (self.hook)("rename", from)?;
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        (self.hook)("remove", name)?;
        self.disk.remove(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.disk.sync_dir()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.disk.free_bytes()
    }

    fn random(&self) -> u64 {
        self.disk.random()
    }
}

impl File for HookedFile {
    fn length(&self) -> io::Result<u64> {
        self.file.length()
    }

    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        (self.hook)("read", &self.name)?;
        self.file.read_at(out, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        (self.hook)("write", &self.name)?;
        self.file.write_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        (self.hook)("sync", &self.name)?;
        self.file.sync_data()
    }
}
