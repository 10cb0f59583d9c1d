//! A store's directory as a crash right now would leave it, for tests that go back there.
//!
//! RocksDB writes no log of its own here: what a crash leaves is what was flushed. Tables never
//! change once written, so a copy links them; what lists them is short and copied. RocksDB may be at
//! work beside: only a copy during which the lists stayed the same is one moment of it.
//!
//! Left out: what a disk may do to bytes that RocksDB itself had not synced yet. It lists a table
//! only once it is synced, and `benches`' crash library tries whole processes.

use std::fs;
use std::io;
use std::path::Path;

/// Copies the store in `store`, which may be open, to `to`, which must not be there yet. On an error
/// `to` may be there in part.
pub fn crash_copy(store: &Path, to: &Path) -> io::Result<()> {
    let (from, rocks) = (store.join("rocks"), to.join("rocks"));
    fs::create_dir_all(&rocks)?;
    fs::copy(store.join("FORMAT"), to.join("FORMAT"))?;
    loop {
        link_tables(&from, &rocks)?;
        let before = lists(&from)?;
        link_tables(&from, &rocks)?;
        if lists(&from)? == before {
            return before.iter().try_for_each(|(name, bytes)| fs::write(rocks.join(name), bytes));
        }
    }
}

fn link_tables(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let name = entry?.file_name();
        if name.to_string_lossy().ends_with(".sst") {
            // Deleted meanwhile, or linked before: both are fine.
            let _ = fs::hard_link(from.join(&name), to.join(&name));
        }
    }
    Ok(())
}

/// What says which tables count.
fn lists(from: &Path) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut lists = Vec::new();
    for entry in fs::read_dir(from)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let counts = ["MANIFEST", "CURRENT", "IDENTITY", "OPTIONS"];
        if counts.iter().any(|begin| name.starts_with(begin))
            && let Ok(bytes) = fs::read(from.join(&name))
        {
            lists.push((name, bytes));
        }
    }
    lists.sort();
    Ok(lists)
}
