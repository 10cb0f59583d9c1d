//! Directories of nodes, and how to hurt them.

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Buckets of project `demo`, the cluster's first, one in each of the four shards, by shard.
pub(crate) fn one_bucket_a_shard() -> Vec<String> {
    let shard = |name: &str| {
        let mut hash = Sha256::new();
        hash.update(1u64.to_be_bytes());
        hash.update(name.as_bytes());
        let hash: [u8; 32] = hash.finalize().into();
        u64::from_be_bytes(hash[..8].try_into().unwrap()) % 4
    };
    let named = |wanted: u64| {
        let mut names = (0..64).map(|number| format!("b{number}"));
        names.find(|name| shard(name) == wanted).expect("64 names hit four shards")
    };
    (0..4).map(named).collect()
}

/// A value that no compression shortens, so that it can be found again on disk.
pub(crate) fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let mut count = 0u64;
    while out.len() < bytes {
        let block = [seed.to_be_bytes(), count.to_be_bytes()].concat();
        out.extend_from_slice(&Sha256::digest(block));
        count += 1;
    }
    out.truncate(bytes);
    out
}

pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

pub(crate) fn put_back(saved: &Path, dir: &Path) {
    fs::remove_dir_all(dir).unwrap();
    copy(saved, dir);
}

/// The files below a directory whose names end so, in order.
pub(crate) fn files(dir: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if path.to_string_lossy().ends_with(ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Flips one bit in the middle of where `bytes` stand; the file's name, and the place.
pub(crate) fn flip(dir: &Path, ending: &str, bytes: &[u8]) -> (String, u64) {
    for path in files(dir, ending) {
        let content = fs::read(&path).unwrap();
        // Its beginning: what a block or a page cuts in two is found all the same.
        let marker = &bytes[..32];
        let Some(at) = content.windows(32).position(|window| window == marker) else { continue };
        use std::os::unix::fs::FileExt;
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.write_all_at(&[content[at + 16] ^ 1], at as u64 + 16).unwrap();
        return (path.file_name().unwrap().to_string_lossy().into_owned(), at as u64 + 16);
    }
    panic!("no file {ending} below {} holds it", dir.display());
}

/// Every file of a tree with a hash of its content: equal if nothing was changed.
pub(crate) fn fingerprint(dir: &Path) -> Vec<(PathBuf, String)> {
    let hash = |path: PathBuf| {
        let digest = hex::encode(Sha256::digest(fs::read(&path).unwrap()));
        (path, digest)
    };
    files(dir, "").into_iter().map(hash).collect()
}
