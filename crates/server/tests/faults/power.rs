//! What a power cut leaves, made from the state before and the diary.
//!
//! The rules, which are at least as bad as a journaling file system's:
//!
//! - Bytes and lengths that a successful `fsync` or `fdatasync` of the file covered are there.
//! - Of each later write: all of it, nothing, its front, any of its 512-byte sectors, or only the
//!   length it gave the file, with zeros. Some files lose everything that was not synced, some
//!   keep all of it.
//! - Names made, moved and taken away before a successful `fsync` of their folder are as they were
//!   then. A sync of the file does not keep its name.
//! - Later changes of names: in some cuts all up to some moment and none after it (a journal), in
//!   the others any of them (what POSIX allows). A move is whole or did not happen, and a sync of the
//!   folder it went to keeps it.
//!
//! - A folder whose own name is not there takes all that is in it along.
//!
//! What is not modelled: synced bytes that rot.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use super::diary::{Diary, Note};

const SECTOR_BYTES: usize = 512;

/// Returns a number below its argument, which is not 0.
pub type Chance<'a> = &'a mut dyn FnMut(u64) -> u64;

/// The folders of a process, whole and in memory.
#[derive(Clone, Debug, Default)]
pub struct Image {
    files: Vec<Vec<u8>>,
    names: BTreeMap<PathBuf, Place>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Folder,
    File(usize),
}

/// What a power cut took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cut {
    /// Writes and lengths that nothing had synced.
    pub unsynced_writes: u64,
    /// Of them, those that are not there as they were made.
    pub lost_writes: u64,
    /// Changes of names that nothing had synced.
    pub unsynced_names: u64,
    /// Of them, those that did not take place.
    pub lost_names: u64,
}

impl Image {
    /// The folders as they are.
    pub fn read(roots: &[PathBuf]) -> Self {
        let mut image = Self::default();
        for root in roots {
            image.read_folder(root);
        }
        image
    }

    fn read_folder(&mut self, folder: &Path) {
        self.names.insert(folder.to_path_buf(), Place::Folder);
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                self.read_folder(&entry.path());
            } else {
                let bytes = fs::read(entry.path()).unwrap();
                self.names.insert(entry.path(), Place::File(self.files.len()));
                self.files.push(bytes);
            }
        }
    }

    /// Makes the folders be as the image says, and nothing else in them.
    pub fn write(&self, roots: &[PathBuf]) {
        for root in roots {
            fs::remove_dir_all(root).unwrap();
            fs::create_dir(root).unwrap();
        }
        for (path, place) in self.whole(roots) {
            match place {
                Place::Folder if roots.contains(path) => {}
                Place::Folder => fs::create_dir(path).unwrap(),
                Place::File(number) => fs::write(path, &self.files[*number]).unwrap(),
            }
        }
    }

    /// Names whose folders are all there, up to a root: the others nobody can find.
    fn whole(&self, roots: &[PathBuf]) -> Vec<(&PathBuf, &Place)> {
        let mut folders: BTreeSet<&Path> = BTreeSet::new();
        let mut whole = Vec::new();
        // In order, so that a folder comes before what is in it.
        for (path, place) in &self.names {
            let there =
                roots.contains(path) || path.parent().is_some_and(|up| folders.contains(up));
            if there {
                whole.push((path, place));
                if *place == Place::Folder {
                    folders.insert(path);
                }
            }
        }
        whole
    }

    /// How the folders differ: the paths that are not in both with the same bytes.
    pub fn differs(&self, other: &Self) -> Vec<PathBuf> {
        let bytes = |image: &Self, path: &Path| match image.names.get(path) {
            Some(Place::File(number)) => Some(image.files[*number].clone()),
            Some(Place::Folder) => Some(b"a folder".to_vec()),
            None => None,
        };
        let all = self.names.keys().chain(other.names.keys());
        let mut differ: Vec<PathBuf> =
            all.filter(|path| bytes(self, path) != bytes(other, path)).cloned().collect();
        differ.dedup();
        differ
    }

    /// All bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.len() as u64).sum()
    }

    /// What is there when everything in the diary took place.
    pub fn after_all(&self, diary: &Diary) -> Self {
        let story = Story::of(self, diary);
        let mut image = self.clone();
        image.files.resize(story.files, Vec::new());
        for (_, step) in &story.steps {
            image.take_step(step, diary);
        }
        image
    }

    /// What a power cut leaves at the end of the diary.
    pub fn after_cut(&self, diary: &Diary, chance: Chance<'_>) -> (Self, Cut) {
        let story = Story::of(self, diary);
        let mut image = self.clone();
        image.files.resize(story.files, Vec::new());
        let moods: Vec<u64> = (0..story.files).map(|_| chance(4)).collect();
        let journal = (chance(2) == 0).then(|| {
            let open = diary.notes.len() - story.last_sync;
            story.last_sync + chance(open as u64 + 1) as usize
        });
        let mut cut = Cut::default();
        for (at, step) in &story.steps {
            if story.is_safe(*at, step) {
                image.take_step(step, diary);
            } else if let Some(file) = step.file() {
                cut.unsynced_writes += 1;
                let kept = image.take_part(step, diary, moods[file], chance);
                cut.lost_writes += u64::from(!kept);
            } else {
                cut.unsynced_names += 1;
                let kept = journal.map_or_else(|| chance(2) == 0, |end| *at < end);
                if kept {
                    image.take_step(step, diary);
                }
                cut.lost_names += u64::from(!kept);
            }
        }
        (image, cut)
    }

    fn take_step(&mut self, step: &Step, diary: &Diary) {
        match step {
            Step::Write { file, offset, bytes } => {
                put(&mut self.files[*file], diary.bytes(bytes), *offset);
            }
            Step::Length { file, length } => self.files[*file].resize(*length, 0),
            Step::Grow { file, least } => {
                let length = self.files[*file].len().max(*least);
                self.files[*file].resize(length, 0);
            }
            Step::Add { path, place } => {
                self.names.insert(path.clone(), *place);
            }
            Step::Move { from, to, place } => {
                self.names.remove(from);
                self.names.insert(to.clone(), *place);
            }
            Step::Remove { path } => {
                let empty = !self.names.keys().any(|name| name.parent() == Some(path));
                if empty {
                    self.names.remove(path);
                }
            }
        }
    }

    /// Takes a change of bytes in full, in part or not at all. Returns whether in full.
    fn take_part(&mut self, step: &Step, diary: &Diary, mood: u64, chance: Chance<'_>) -> bool {
        let way = match mood {
            0 => 0,
            1 => 1,
            _ => chance(5),
        };
        let Step::Write { file, offset, bytes } = step else {
            if way % 2 == 1 {
                self.take_step(step, diary);
            }
            return way % 2 == 1;
        };
        let (file, write) = (&mut self.files[*file], diary.bytes(bytes));
        match way {
            0 => {}
            1 => put(file, write, *offset),
            2 => put(file, &write[..chance(write.len() as u64 + 1) as usize], *offset),
            3 => put_some_sectors(file, write, *offset, chance),
            _ => {
                let length = file.len().max(offset + write.len());
                file.resize(length, 0);
            }
        }
        way == 1
    }
}

fn put(into: &mut Vec<u8>, bytes: &[u8], offset: usize) {
    let end = offset + bytes.len();
    if into.len() < end {
        into.resize(end, 0);
    }
    into[offset..end].copy_from_slice(bytes);
}

fn put_some_sectors(into: &mut Vec<u8>, bytes: &[u8], offset: usize, chance: Chance<'_>) {
    let mut at = 0;
    while at < bytes.len() {
        let end = (at + SECTOR_BYTES - (offset + at) % SECTOR_BYTES).min(bytes.len());
        if chance(2) == 0 {
            put(into, &bytes[at..end], offset + at);
        }
        at = end;
    }
}

/// One change, of a file known by its number.
enum Step {
    Write { file: usize, offset: usize, bytes: std::ops::Range<usize> },
    Length { file: usize, length: usize },
    Grow { file: usize, least: usize },
    Add { path: PathBuf, place: Place },
    Move { from: PathBuf, to: PathBuf, place: Place },
    Remove { path: PathBuf },
}

impl Step {
    fn file(&self) -> Option<usize> {
        match self {
            Step::Write { file, .. } | Step::Length { file, .. } | Step::Grow { file, .. } => {
                Some(*file)
            }
            _ => None,
        }
    }
}

/// The diary with its inodes and paths resolved, and what of it is safe.
struct Story {
    /// Each with its place in the diary.
    steps: Vec<(usize, Step)>,
    files: usize,
    /// For each file, how many notes are covered by its syncs.
    synced_files: HashMap<usize, usize>,
    synced_folders: HashMap<PathBuf, usize>,
    /// How many notes the last sync of anything covers: a journal keeps names up to there.
    last_sync: usize,
}

/// What the process sees: everything it did.
struct Seen {
    names: BTreeMap<PathBuf, Place>,
    files: HashMap<u64, usize>,
    folders: HashMap<u64, PathBuf>,
}

impl Story {
    fn of(before: &Image, diary: &Diary) -> Self {
        let mut seen =
            Seen { names: before.names.clone(), files: HashMap::new(), folders: HashMap::new() };
        let mut story = Self {
            steps: Vec::new(),
            files: before.files.len(),
            synced_files: HashMap::new(),
            synced_folders: HashMap::new(),
            last_sync: 0,
        };
        for (at, note) in diary.notes.iter().enumerate() {
            if let Some(step) = story.tell(&mut seen, note) {
                story.steps.push((at, step));
            }
        }
        story
    }

    fn tell(&mut self, seen: &mut Seen, note: &Note) -> Option<Step> {
        match note {
            Note::Write { inode, offset, bytes } => {
                let file = *seen.files.get(inode).expect("a file that was opened");
                Some(Step::Write { file, offset: *offset as usize, bytes: bytes.clone() })
            }
            Note::Length { inode, length } => {
                Some(Step::Length { file: *seen.files.get(inode)?, length: *length as usize })
            }
            Note::Grow { inode, least } => {
                Some(Step::Grow { file: *seen.files.get(inode)?, least: *least as usize })
            }
            Note::Create { inode, path } => {
                let place = Place::File(self.files);
                seen.files.insert(*inode, self.files);
                seen.folders.remove(inode);
                self.files += 1;
                Some(seen.add(path, place))
            }
            Note::Folder { inode, path } => {
                seen.folders.insert(*inode, path.clone());
                Some(seen.add(path, Place::Folder))
            }
            Note::Rename { from, to } => {
                let place = seen.names.remove(from)?;
                seen.names.insert(to.clone(), place);
                Some(Step::Move { from: from.clone(), to: to.clone(), place })
            }
            Note::Remove { path } => {
                seen.names.remove(path)?;
                Some(Step::Remove { path: path.clone() })
            }
            Note::Link { from, to } => {
                let place = *seen.names.get(from)?;
                Some(seen.add(to, place))
            }
            Note::Open { inode, path } => {
                seen.open(*inode, path);
                None
            }
            Note::Sync { inode, covers } => {
                self.last_sync = self.last_sync.max(*covers);
                if let Some(folder) = seen.folders.get(inode) {
                    raise(self.synced_folders.entry(folder.clone()).or_default(), *covers);
                } else if let Some(file) = seen.files.get(inode) {
                    raise(self.synced_files.entry(*file).or_default(), *covers);
                }
                None
            }
            Note::Unseen { what } => panic!("the diary can't follow: {what}"),
        }
    }

    fn is_safe(&self, at: usize, step: &Step) -> bool {
        let named = |path: &Path| {
            let folder = path.parent().unwrap_or(path);
            at < self.synced_folders.get(folder).copied().unwrap_or(0)
        };
        match step {
            Step::Write { file, .. } | Step::Length { file, .. } | Step::Grow { file, .. } => {
                at < self.synced_files.get(file).copied().unwrap_or(0)
            }
            Step::Add { path, .. } | Step::Remove { path } => named(path),
            Step::Move { to, .. } => named(to),
        }
    }
}

fn raise(value: &mut usize, to: usize) {
    *value = (*value).max(to);
}

impl Seen {
    fn add(&mut self, path: &Path, place: Place) -> Step {
        self.names.insert(path.to_path_buf(), place);
        Step::Add { path: path.to_path_buf(), place }
    }

    fn open(&mut self, inode: u64, path: &Path) {
        match self.names.get(path) {
            Some(Place::File(number)) => {
                self.files.insert(inode, *number);
                self.folders.remove(&inode);
            }
            Some(Place::Folder) => {
                self.folders.insert(inode, path.to_path_buf());
            }
            // A folder above the roots, or one that somebody else made.
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::super::Faults;
    use super::*;

    /// Runs shell commands in a watched folder: what was there before, and what they did.
    fn watched(folder: &Path, commands: &str) -> (Image, Diary, Vec<PathBuf>) {
        let (data, aside) = (folder.join("data"), folder.join("aside"));
        let _ = fs::create_dir(&data);
        let _ = fs::create_dir(&aside);
        let faults = Faults::new(&[&data], &aside);
        let before = Image::read(faults.roots());
        let mut shell = Command::new("sh");
        shell.args(["-ec", commands]).current_dir(&faults.roots()[0]);
        faults.put_on(&mut shell);
        assert!(shell.status().unwrap().success());
        (before, faults.diary(), faults.roots().to_vec())
    }

    fn text(image: &Image, path: &Path) -> Option<String> {
        match image.names.get(path)? {
            Place::Folder => Some("a folder".to_owned()),
            Place::File(number) => Some(String::from_utf8_lossy(&image.files[*number]).into()),
        }
    }

    /// A chance that says the same every time, as far as it may.
    fn always(answer: u64) -> impl FnMut(u64) -> u64 {
        move |bound| answer.min(bound - 1)
    }

    #[test]
    fn the_diary_brings_back_what_was_done() {
        let folder = tempfile::tempdir().unwrap();
        let commands = "echo one > a; echo two >> a; mkdir d; mv a d/b; echo three > c; ln c e; \
                        rm c; truncate -s 2 e; echo gone > f; rm f; mkdir g; rmdir g";
        let (before, diary, roots) = watched(folder.path(), commands);
        let told = before.after_all(&diary);
        assert_eq!(told.differs(&Image::read(&roots)), Vec::<PathBuf>::new());
        assert_eq!(text(&told, &roots[0].join("d/b")).as_deref(), Some("one\ntwo\n"));
        assert_eq!(text(&told, &roots[0].join("e")).as_deref(), Some("th"));
        assert_eq!(told.names.len(), 4, "{:?}", told.names);
    }

    #[test]
    fn what_was_synced_survives_every_cut_and_nothing_else_survives_the_worst() {
        let folder = tempfile::tempdir().unwrap();
        let commands = "echo safe > a; sync -d a; echo not safe >> a; sync -d .; \
                        echo nameless > b; sync b; mkdir d; mkdir d/e; echo deep > d/e/f; \
                        sync d/e; echo last > c";
        let (before, diary, roots) = watched(folder.path(), commands);
        // `sync -d .` keeps the name of a; b has its bytes but no name; c has neither. What is in
        // d may be there and not to be found.
        let (left, cut) = before.after_cut(&diary, &mut always(0));
        let name = |name: &str| text(&left, &roots[0].join(name));
        assert_eq!(name("a").as_deref(), Some("safe\n"));
        assert_eq!(name("c"), None);
        assert!(cut.lost_writes >= 2, "{cut:?}");
        for seed in 0..200u64 {
            let mut state = seed;
            let mut chance = |bound: u64| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 33) % bound
            };
            let (left, _) = before.after_cut(&diary, &mut chance);
            let a = text(&left, &roots[0].join("a")).expect("its name was synced");
            assert!(a.starts_with("safe\n"), "{a:?}");
            let b = text(&left, &roots[0].join("b"));
            assert!(b.is_none_or(|b| b == "nameless\n"), "synced bytes are whole or nameless");
            left.write(&roots);
        }
    }
}
