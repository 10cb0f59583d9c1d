//! A process whose disk can be told to fail, and whose power can be cut.
//!
//! `faults.c` is compiled by the test that needs it, with the system's C compiler, into the
//! target's own temporary folder, and preloaded into the process under test ([`Faults::put_on`]).
//! From then on every change below its folders stands in a diary, and every switch of [`Switch`]
//! can be set while it runs. What a power cut would have left is made from the diary by `power`.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

pub mod diary;
pub mod power;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCE: &str = include_str!("faults.c");
const CONTROL_WORDS: u64 = 8;

/// What can be switched, in the order of `struct control`. Counters let so many calls pass and
/// fail every one after; -1 in a counter means never.
#[derive(Clone, Copy, Debug)]
pub enum Switch {
    /// Syncs fail with EIO.
    FailSyncAfter = 0,
    /// Writes fail with EIO.
    FailWriteAfter = 1,
    /// Reads fail with EIO.
    FailReadAfter = 2,
    /// 1: whatever would grow or make a file fails with ENOSPC.
    WriteEnospc = 3,
    /// So many writes take only half of their bytes.
    ShortWrite = 4,
    /// Each sync takes so many ms longer.
    SlowMs = 5,
    /// 1: a sync says that it is done, and nothing is kept.
    LieSync = 6,
}

/// The faults of one process: its folders, its diary, its switches.
pub struct Faults {
    library: PathBuf,
    roots: Vec<PathBuf>,
    diary: PathBuf,
    control: File,
    control_path: PathBuf,
    /// Faults strike only paths that contain this; empty: all.
    path: String,
}

impl Faults {
    /// Faults for a process that keeps its data below `roots` (absolute, and there already); diary
    /// and switches are kept in `aside`, which must be outside of them.
    pub fn new(roots: &[&Path], aside: &Path) -> Self {
        let control_path = aside.join("control");
        let control = File::options()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .open(&control_path)
            .unwrap();
        control.set_len(CONTROL_WORDS * 8).unwrap();
        let faults = Self {
            library: library(),
            roots: roots.iter().map(|root| root.canonicalize().unwrap()).collect(),
            diary: aside.join("diary"),
            control,
            control_path,
            path: String::new(),
        };
        for switch in [Switch::FailSyncAfter, Switch::FailWriteAfter, Switch::FailReadAfter] {
            faults.set(switch, -1);
        }
        faults
    }

    /// Lets faults strike only paths that contain `part` (of processes started from now on).
    pub fn strike_only(&mut self, part: &str) {
        part.clone_into(&mut self.path);
    }

    /// Sets a switch, at once, in running processes too.
    pub fn set(&self, switch: Switch, value: i64) {
        self.control.write_all_at(&value.to_le_bytes(), switch as u64 * 8).unwrap();
    }

    /// How many syncs the process has asked for, of paths that faults strike.
    pub fn syncs(&self) -> i64 {
        let mut word = [0; 8];
        self.control.read_exact_at(&mut word, (CONTROL_WORDS - 1) * 8).unwrap();
        i64::from_le_bytes(word)
    }

    /// Begins the diary anew and puts the library on a process that is yet to be started.
    pub fn put_on(&self, command: &mut Command) {
        let _ = fs::remove_file(&self.diary);
        let roots: Vec<&str> = self.roots.iter().map(|root| root.to_str().unwrap()).collect();
        command
            .env("LD_PRELOAD", &self.library)
            .env("FAULTS_ROOTS", roots.join(":"))
            .env("FAULTS_CONTROL", &self.control_path)
            .env("FAULTS_DIARY", &self.diary)
            .env("FAULTS_PATH", &self.path);
    }

    /// What the process, dead by now, did to its folders.
    pub fn diary(&self) -> diary::Diary {
        diary::Diary::parse(fs::read(&self.diary).expect("the process wrote a diary"))
    }

    /// The folders that are watched.
    pub fn roots(&self) -> &[PathBuf] {
        &self.roots
    }
}

/// The compiled library; made once for each version of its source.
fn library() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let version = SOURCE.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let library = folder.join(format!("faults-{version:016x}.so"));
    if library.exists() {
        return library;
    }
    fs::create_dir_all(folder).unwrap();
    let source = folder.join(format!("faults-{version:016x}-{}.c", std::process::id()));
    let made = source.with_extension("so");
    fs::write(&source, SOURCE).unwrap();
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let done = Command::new(compiler)
        .args(["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"])
        .args([&made, &source])
        .args(["-ldl", "-lpthread"])
        .status();
    assert!(done.expect("a C compiler").success(), "faults.c does not compile");
    // Several tests may be at it at once: each makes its own, and the last name stays.
    fs::rename(&made, &library).unwrap();
    let _ = fs::remove_file(source);
    library
}
