//! Clocks of processes that can be put off.
//!
//! `clock.c` is compiled with the system's C compiler when it is needed and preloaded into a node, which
//! shares a small file with the driver. There stands how far its clock is off, and the node puts down which
//! time it was given last: so that it lives in another time is not believed but seen
//! ([`Clocks::is_off_by`]). HTTP's `Date` would not do: hyper keeps the newest it has ever said, so a
//! clock that is put back does not show there.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};

const SOURCE: &str = include_str!("clock.c");
/// Words of `struct shared`.
const OFF: u64 = 0;
const LOOKS: u64 = 1;
const GIVEN: u64 = 2;
const WORDS: u64 = 3;
/// The time a node was given may be so much older than ours when we compare.
const APART_SECONDS_MAX: u64 = 1;

/// The clocks of all nodes.
pub(crate) struct Clocks {
    dir: PathBuf,
    library: PathBuf,
}

impl Clocks {
    /// Compiles the library; it and the clocks' files lie in `dir`.
    ///
    /// # Errors
    /// There is no C compiler.
    pub(crate) fn new(dir: &Path) -> Result<Self> {
        let dir = dir.canonicalize()?;
        let (source, library) = (dir.join("clock.c"), dir.join("clock.so"));
        std::fs::write(&source, SOURCE)?;
        let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
        let mut command = Command::new(&compiler);
        command.args(["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"]);
        command.args([&library, &source]).arg("-lpthread").stdin(Stdio::null());
        let output = command.output().with_context(|| format!("run {}", compiler.display()))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "clock.c does not compile: {said}");
        Ok(Clocks { dir, library })
    }

    /// The clock of a node that is about to start is right; what its process needs to have it moved.
    ///
    /// # Errors
    /// The file can't be made.
    pub(crate) fn wind(&self, node: usize) -> Result<[(String, String); 2]> {
        let path = self.path(node);
        // Another file: the process before may not have ended yet.
        let fresh = path.with_extension("new");
        File::create(&fresh)?.set_len(WORDS * 8)?;
        std::fs::rename(&fresh, &path)?;
        let setting = |name: &str, path: &Path| (name.to_owned(), path.display().to_string());
        Ok([setting("LD_PRELOAD", &self.library), setting("BENCHES_CLOCK", &path)])
    }

    /// Puts the clock of a node off by so many seconds, at once.
    ///
    /// # Errors
    /// The file can't be written.
    pub(crate) fn set(&self, node: usize, seconds: i64) -> Result<()> {
        let file = File::options().write(true).open(self.path(node))?;
        Ok(file.write_all_at(&seconds.to_le_bytes(), OFF * 8)?)
    }

    /// How often a node has looked at its clock.
    ///
    /// # Errors
    /// The file can't be read.
    pub(crate) fn looks(&self, node: usize) -> Result<i64> {
        self.word(node, LOOKS)
    }

    /// Whether the time that a node was given last is off by so many seconds.
    ///
    /// # Errors
    /// The file can't be read.
    pub(crate) fn is_off_by(&self, node: usize, seconds: i64) -> Result<bool> {
        let given = self.word(node, GIVEN)?;
        let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())?;
        Ok((given - now).abs_diff(seconds) <= APART_SECONDS_MAX)
    }

    fn word(&self, node: usize, word: u64) -> Result<i64> {
        let mut bytes = [0; 8];
        File::open(self.path(node))?.read_exact_at(&mut bytes, word * 8)?;
        Ok(i64::from_le_bytes(bytes))
    }

    fn path(&self, node: usize) -> PathBuf {
        self.dir.join(format!("clock-{node}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_process_lives_in_the_time_it_is_shown_and_that_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let clocks = Clocks::new(dir.path()).unwrap();
        let settings = clocks.wind(7).unwrap();
        // The program looks once.
        let date = || -> i64 {
            let mut command = Command::new("date");
            command.arg("+%s").envs(settings.clone());
            let said = String::from_utf8(command.output().unwrap().stdout).unwrap();
            said.trim().parse().unwrap()
        };
        let right = date();
        assert!(clocks.is_off_by(7, 0).unwrap() && !clocks.is_off_by(7, 3_600).unwrap());
        for seconds in [3_600, -3_600, 0] {
            let looks = clocks.looks(7).unwrap();
            clocks.set(7, seconds).unwrap();
            assert!((date() - right).abs_diff(seconds) < 60);
            assert!(clocks.is_off_by(7, seconds).unwrap());
            assert!(!clocks.is_off_by(7, seconds + 60).unwrap());
            assert!(clocks.looks(7).unwrap() > looks);
        }
    }
}
