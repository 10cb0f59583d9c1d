//! Short words for the transcripts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use bytes::Bytes;
use stemedb_wal::disk::sim::SimDisk;
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
    use stemedb_wal::disk::Disk;
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
