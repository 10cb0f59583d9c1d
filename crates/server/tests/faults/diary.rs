//! The diary that `faults.c` writes, read.
//!
//! ```text
//! note = "SDEM" | kind u32 | a u64 | b u64 | c u64 | bytes of one u32 | bytes of two u32 | one | two
//! ```
//!
//! All little-endian. The process may have been killed in the middle of a note: a last one that is
//! cut short is left out, for what it tells of was not synced.

use std::ops::Range;
use std::path::{Path, PathBuf};

const MAGIC: u32 = 0x4d45_4453;
const HEAD_BYTES: usize = 40;

/// One thing that a process did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// Bytes were written into a file.
    Write { inode: u64, offset: u64, bytes: Range<usize> },
    /// A file got this length.
    Length { inode: u64, length: u64 },
    /// A file got at least this length.
    Grow { inode: u64, least: u64 },
    /// A file was made, empty.
    Create { inode: u64, path: PathBuf },
    /// A folder was made.
    Folder { inode: u64, path: PathBuf },
    /// A name was moved, perhaps over another.
    Rename { from: PathBuf, to: PathBuf },
    /// A name was taken away.
    Remove { path: PathBuf },
    /// A file got one name more.
    Link { from: PathBuf, to: PathBuf },
    /// A file's bytes, or a folder's names, are safe: all that the first `covers` notes tell of.
    Sync { inode: u64, covers: usize },
    /// A file or folder that was there already was opened.
    Open { inode: u64, path: PathBuf },
    /// Something was done that the diary can't follow.
    Unseen { what: String },
}

/// All that a process did, in order.
#[derive(Debug, Default)]
pub struct Diary {
    /// The notes.
    pub notes: Vec<Note>,
    text: Vec<u8>,
}

impl Diary {
    /// Reads a diary.
    pub fn parse(text: Vec<u8>) -> Self {
        let mut notes = Vec::new();
        let mut begins = Vec::new();
        let mut at = 0;
        while let Some((mut note, end)) = parse_note(&text, at) {
            if let Note::Sync { covers, .. } = &mut note {
                // Bytes of the diary, as it was when the sync began.
                *covers = begins.partition_point(|begin: &usize| *begin < *covers);
            }
            notes.push(note);
            begins.push(at);
            at = end;
        }
        assert!(text.len() - at < 8 << 20, "the diary can't be read from byte {at} on");
        Self { notes, text }
    }

    /// The bytes of a [`Note::Write`].
    pub fn bytes(&self, range: &Range<usize>) -> &[u8] {
        &self.text[range.clone()]
    }

    /// What the library could not follow.
    pub fn unseen(&self) -> Vec<&str> {
        let unseen = self.notes.iter().filter_map(|note| match note {
            Note::Unseen { what } => Some(what.as_str()),
            _ => None,
        });
        unseen.collect()
    }
}

fn word(text: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(text[at..at + 8].try_into().unwrap())
}

fn half(text: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(text[at..at + 4].try_into().unwrap())
}

/// The note at `at` and where the next one begins; `None` at the end, or in a note cut short.
fn parse_note(text: &[u8], at: usize) -> Option<(Note, usize)> {
    let head = text.get(at..at + HEAD_BYTES)?;
    assert_eq!(half(head, 0), MAGIC, "the diary is not in order at byte {at}");
    let (inode, b) = (word(head, 8), word(head, 16));
    let one = at + HEAD_BYTES..at + HEAD_BYTES + half(head, 32) as usize;
    let two = one.end..one.end + half(head, 36) as usize;
    let path = |range: &Range<usize>| {
        Some(Path::new(std::str::from_utf8(text.get(range.clone())?).unwrap()).to_path_buf())
    };
    text.get(one.start..two.end)?;
    let note = match half(head, 4) {
        1 => Note::Write { inode, offset: b, bytes: one },
        2 => Note::Length { inode, length: b },
        3 => Note::Grow { inode, least: b },
        4 => Note::Create { inode, path: path(&one)? },
        5 => Note::Folder { inode, path: path(&one)? },
        6 => Note::Rename { from: path(&one)?, to: path(&two)? },
        7 => Note::Remove { path: path(&one)? },
        8 => Note::Link { from: path(&one)?, to: path(&two)? },
        9 => Note::Sync { inode, covers: b as usize },
        10 => Note::Open { inode, path: path(&one)? },
        11 => Note::Unseen { what: path(&one)?.display().to_string() },
        other => panic!("a note of unknown kind {other}"),
    };
    Some((note, two.end))
}
