//! Groups to send, and the streams of their snapshots taken apart.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use stemedb_engine::{Error, Group, Incoming, Outgoing, Range, Store, Terms};
use stemedb_machine::shard::suite::Run;
use stemedb_machine::shard::suite::random::Draw;

use crate::common::{Counted, group};

pub(crate) const SUM_BYTES: usize = 32;
pub(crate) const HEAD_BYTES: usize = 22;

/// A group with a megabyte or so in it.
pub(crate) fn sender(dir: &Path, seed: u64) -> Run<Counted> {
    fill(group(dir, 1), seed)
}

pub(crate) fn fill(group: Group, seed: u64) -> Run<Counted> {
    let mut run = Run::new(Counted::over(group));
    let mut draw = Draw(seed);
    for n in 0..40u8 {
        run.command(&draw.command());
        if n.is_multiple_of(4) {
            run.put(&[b'l', n], &noise(n));
        }
    }
    run
}

/// What does not compress, so that files have about the length of their rows.
pub(crate) fn noise(seed: u8) -> Vec<u8> {
    let mut noise = Vec::with_capacity(100_000);
    let mut block = [seed; 32];
    while noise.len() < 100_000 {
        block = Sha256::digest(block).into();
        noise.extend(block);
    }
    noise
}

pub(crate) fn terms() -> Terms {
    Terms { file_bytes: 200_000, ..Terms::default() }
}

pub(crate) fn freeze(group: &Group, id: u128) -> Outgoing {
    Outgoing::begin(group, id, terms()).unwrap()
}

/// All pieces from a file on, as they leave.
pub(crate) fn pieces(outgoing: &Outgoing, generation: u32, from: u32) -> Vec<Bytes> {
    let (gives, given) = mpsc::channel();
    let sink = Box::new(move |piece| {
        let _ = gives.send(piece);
        ControlFlow::Continue(())
    });
    outgoing.send(generation, from, sink).unwrap();
    given.iter().collect::<Result<_, Error>>().unwrap()
}

/// The files of a stream, each with its head and its checksum.
pub(crate) fn files(pieces: &[Bytes]) -> Vec<Vec<u8>> {
    let mut stream = &pieces.concat()[..];
    let mut files = Vec::new();
    while !stream.is_empty() {
        let length = u64::from_le_bytes(stream[14..22].try_into().unwrap()) as usize;
        let (file, behind) = stream.split_at(HEAD_BYTES + length + SUM_BYTES);
        files.push(file.to_vec());
        stream = behind;
    }
    files
}

/// Takes files in until one is refused.
pub(crate) fn take(incoming: &mut Incoming, files: &[Vec<u8>]) -> Result<(), Error> {
    files.iter().try_for_each(|file| incoming.take(file))
}

pub(crate) fn install(group: &Group, files: &[Vec<u8>]) -> Result<Group, Error> {
    let mut incoming = Incoming::begin(group, 1)?;
    take(&mut incoming, files)?;
    incoming.install()
}

/// Files of a group for another, and the generation that comes next there.
pub(crate) fn files_for(from: &Group, generation: u32) -> Vec<Vec<u8>> {
    files(&pieces(&freeze(from, 1), generation, 0))
}

pub(crate) fn is_refused<T>(result: &Result<T, Error>) -> bool {
    matches!(result, Err(Error::Transfer { .. }))
}

/// Everything under `staging`, by name.
pub(crate) fn staged(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.join("staging")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found
}

/// How many rows the store holds for a generation of group 1, whichever is the living one.
pub(crate) fn rows_of_generation(store: &Arc<dyn Store>, generation: u8) -> usize {
    let start = [0, 0, 0, 1, 0, 0, 0, generation];
    let end = [0, 0, 0, 1, 0, 0, 0, generation + 1];
    let mut rows = 0;
    let range = Range::between(&start, &end);
    store
        .scan(&range, false, &mut |_, _| {
            rows += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
    rows
}

pub(crate) fn scope(group: u32, generation: u32) -> Vec<u8> {
    [group.to_be_bytes(), generation.to_be_bytes()].concat()
}
