//! Every input that a fuzzer kept, on stable, in every run of the tests.
#![allow(missing_docs, reason = "a test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;

use bytes::Bytes;
use stemedb_fuzz::{TARGETS, corpus, replay};
use stemedb_machine::meta::{Founding, MetaCommand, MetaRecord};
use stemedb_machine::shard::suite::random::Draw;
use stemedb_machine::shard::{Answer, Command};
use stemedb_types::{ClusterId, Encoder, ReplicaId, Revision};
use stemedb_wal::disk::Disk;
use stemedb_wal::disk::sim::SimDisk;
use stemedb_wal::{Completion, Error, Options, StreamId, Wal};

/// Set it to a folder, and the generator writes a few inputs to begin with there, by target.
const GENERATE: &str = "STEMEDB_GENERATE_SEEDS";

#[test]
fn no_input_that_was_ever_kept_breaks_its_target() {
    for (target, run) in TARGETS {
        let inputs = replay(target, run).unwrap();
        println!("{target}: {inputs} inputs");
        assert!(inputs >= 3, "{target} has {inputs} inputs");
        let bytes: u64 = fs::read_dir(corpus(target))
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .sum();
        assert!(
            bytes < 512 << 10,
            "{target}: {bytes} bytes; a corpus is minimized before it lands"
        );
    }
}

#[test]
fn every_corpus_has_a_target() {
    let named = |name: &str| TARGETS.iter().any(|(target, _)| *target == name);
    for entry in fs::read_dir(corpus("")).unwrap() {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        assert!(named(&name), "{name}");
    }
}

#[test]
fn the_corpus_of_commands_holds_commands() {
    let inputs = fs::read_dir(corpus("shard_command")).unwrap();
    let read = inputs.filter_map(|entry| {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        Command::decode(&Bytes::from(bytes)).ok()
    });
    let (named, unnamed): (Vec<_>, Vec<_>) = read.partition(|command| command.once.is_some());
    assert!(named.len() >= 4 && unnamed.len() >= 5, "{}, {}", named.len(), unnamed.len());
}

fn seed(dir: &Path, target: &str, number: usize, bytes: &[u8]) {
    let dir = dir.join(target);
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join(format!("seed-{number:02}")), bytes).unwrap();
}

#[test]
fn generate() {
    let Some(dir) = std::env::var_os(GENERATE).map(PathBuf::from) else { return };
    let mut draw = Draw(7);
    for number in 0..12 {
        seed(&dir, "shard_command", number, &draw.command().encode());
        let mut out = Encoder::new();
        draw.read().encode(&mut out);
        seed(&dir, "shard_command", 20 + number, out.as_slice());
    }
    let mut named = (0..).map(|_| draw.command()).filter(|command| command.once.is_some());
    for number in 40..46 {
        let command = named.next().unwrap();
        seed(&dir, "shard_command", number, &command.encode());
        // And what it is answered the second time.
        let mut out = Encoder::new();
        Answer::Replayed(Box::new(Answer::Deleted { revision: Revision(number as u64) }))
            .encode(&mut out);
        seed(&dir, "shard_command", 10 + number, out.as_slice());
    }
    for number in 0..12 {
        let bytes: Vec<u8> = (0..40).map(|_| draw.below(4) as u8).collect();
        seed(&dir, "row_names", number, &bytes);
    }
    let founding = Founding { cluster: ClusterId(9), replication_factor: 3, at_ms: 5 };
    let records = [MetaRecord::Founding(founding), MetaRecord::NextReplica(ReplicaId(4))];
    for (number, record) in records.iter().enumerate() {
        let mut out = Encoder::new();
        record.encode(&mut out);
        seed(&dir, "meta_command", number, out.as_slice());
    }
    let (name, at_ms) = ("alpha".parse().unwrap(), 7);
    seed(&dir, "meta_command", 9, &MetaCommand::EnsureProject { name, at_ms }.encode());
    for (number, segment) in segments().iter().enumerate() {
        seed(&dir, "segment_open", number, segment);
        seed(&dir, "record_decode", number, segment.get(56..300).unwrap());
    }
}

/// The segments of a small log in which everything happened once.
fn segments() -> Vec<Vec<u8>> {
    let disk = SimDisk::new(1);
    let options = Options { segment_bytes: 4096, spare_segments: 0, ..Options::default() };
    let (wal, _) = Wal::open_on(Arc::new(disk.clone()), options).unwrap();
    let (a, b) = (StreamId(1), StreamId(300));
    for n in 0..12 {
        let payload = Bytes::from(vec![n as u8; 40 * n as usize]);
        synced(|done| wal.append(a, n + 1, vec![payload.clone(), payload], done));
        synced(|done| wal.truncate_from(a, n + 2, done));
        synced(|done| wal.mark(b, 2, Bytes::from(n.to_be_bytes().to_vec()), Some(done)));
        if n % 4 == 3 {
            synced(|done| wal.purge_to(a, n - 1, Bytes::from_static(b"note"), Some(done)));
            synced(|done| wal.forget(b, done));
        }
    }
    wal.close().unwrap();
    let names = disk.list().unwrap().into_iter().filter(|name| name.ends_with(".wal"));
    names.map(|name| disk.bytes(&name).unwrap()).collect()
}

fn synced(call: impl FnOnce(Completion) -> Result<(), Error>) {
    let (send, receive) = channel();
    call(Box::new(move |result| drop(send.send(result)))).unwrap();
    receive.recv().unwrap().unwrap();
}
