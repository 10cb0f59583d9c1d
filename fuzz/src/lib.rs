//! What bytes from outside may do: be refused, or be read. Nothing else.
//!
//! One function for each place where bytes that we can't vouch for are taken apart. It panics if one
//! of its properties does not hold; a fuzzer (`scripts/fuzz`) looks for input that makes it. What
//! a fuzzer kept, and every input that ever found a bug, stands in `corpus/` and is replayed on
//! stable by an ordinary test: every property is held against every input on every run of the tests.
//!
//! | target | what it holds |
//! |---|---|
//! | `record_decode` | the log's records, tables and frames: read or refused |
//! | `segment_open` | a segment of the log: scanned, whatever it holds |
//! | `row_names` | names of the store's rows: read back part by part, sorted as their parts are |
//! | `table_blocks` | what stands in the store's table files, its checksums left aside: read or refused |
//! | `shard_command`, `meta_command` | entries of the log: what reads back is the same once written |
//!
//! The room needs no RocksDB, which a fuzzer's build would compile once more, with a sanitizer: row
//! names and the reader of table files are taken from the engine as files. It is for developers: nothing depends on it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

mod commands;
mod names;

#[path = "../../crates/engine/src/rows.rs"]
#[allow(dead_code, unreachable_pub, reason = "the engine's file, as it is; not all of it is asked")]
mod rows;

#[path = "../../crates/engine/src/sst/mod.rs"]
#[allow(dead_code, unreachable_pub, unused_imports, reason = "the engine's, as above")]
mod sst;

pub use commands::{meta_command, shard_command};
pub use names::row_names;

/// The log's records: see the module.
pub fn record_decode(input: &[u8]) {
    stemedb_wal::fuzzing::record_decode(input);
}

/// A segment of the log: see the module. Once as it is, and once with the checksums put right that a
/// fuzzer would never guess.
pub fn segment_open(input: &[u8]) {
    stemedb_wal::fuzzing::segment_open(input);
    stemedb_wal::fuzzing::segment_open(&stemedb_wal::fuzzing::with_checksums(input.to_vec()));
}

/// What stands in a table file: see the module.
pub fn table_blocks(input: &[u8]) {
    sst::take_apart(input);
}

/// What is done with one input. It must not panic.
pub type Target = fn(&[u8]);

/// Every target by its name.
pub const TARGETS: [(&str, Target); 6] = [
    ("record_decode", record_decode),
    ("segment_open", segment_open),
    ("row_names", row_names),
    ("table_blocks", table_blocks),
    ("shard_command", shard_command),
    ("meta_command", meta_command),
];

/// Where a target's inputs stand.
pub fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target)
}

/// Gives a target every input of its corpus; says how many there were.
pub fn replay(target: &str, run: Target) -> io::Result<usize> {
    let mut inputs = 0;
    for entry in fs::read_dir(corpus(target))? {
        run(&fs::read(entry?.path())?);
        inputs += 1;
    }
    Ok(inputs)
}
