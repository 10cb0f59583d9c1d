//! A file's blocks, one after another.

use std::borrow::Cow;
use std::fs::File;
use std::num::NonZeroU64;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;

use super::block::{self, IndexEntry, IndexShape, user_key};
use super::format::{FOOTER_BYTES, Footer, Handle, TRAILER_BYTES, decompress, take_handle};
use super::format::{take_varint, u32_at};
use crate::rows::Range;

/// Read at once, ahead of the block that is asked for.
const WINDOW_BYTES: u64 = 256 << 10;
/// The kernel drops and reads whole pages.
const PAGE_BYTES: u64 = 4096;

/// What a walk came upon.
pub(crate) enum Found<'b> {
    /// A block of rows that is as it was written.
    Rows(Rows<'b>),
    /// Any other block that is as it was written, of so many bytes.
    Meta(u64),
    /// Bytes that are not as they were written.
    Damaged(Damaged),
}

/// Takes an entry's name, kind and value; says whether the walk goes on.
pub(crate) type VisitEntry<'v> = &'v mut dyn FnMut(&[u8], u8, &[u8]) -> ControlFlow<()>;

/// A block of rows.
pub(crate) struct Rows<'b> {
    /// Where it stands in the file.
    pub(crate) offset: u64,
    /// What it takes on disk.
    pub(crate) bytes: u64,
    contents: &'b [u8],
    compression: u8,
}

/// Bytes that are not as they were written, or can't be read.
#[derive(Debug)]
pub(crate) struct Damaged {
    /// Where in the file; `None` if it is the file as a whole.
    pub(crate) offset: Option<u64>,
    /// Which rows may have stood there: above the first, up to and with the second. `None`: any
    /// of the file's.
    pub(crate) rows: Option<(Vec<u8>, Vec<u8>)>,
    /// What is wrong.
    pub(crate) cause: String,
}

impl Rows<'_> {
    /// Visits (name, kind, value) of every entry, what was deleted or overwritten included; `kind`
    /// is RocksDB's: 0 for a deletion, 1 for a value.
    pub(crate) fn each(&self, visit: VisitEntry<'_>) -> Result<(), String> {
        let contents = decompress(self.contents, self.compression)?;
        let mut fault = None;
        block::entries(&contents, &mut |key, value| match user_key(key) {
            Ok(user) => visit(user, key[user.len()], value),
            Err(cause) => {
                fault = Some(cause);
                ControlFlow::Break(())
            }
        })?;
        fault.map_or(Ok(()), Err)
    }
}

/// Visits every block of a table file, or all that may hold rows of the ranges `within`: the blocks about
/// the file first, then the rows. Breaks off when `visit` does. Damage is handed to `visit`, and the
/// walk goes on where it can.
pub(crate) fn walk(
    file: &File,
    within: Option<&[Range]>,
    visit: &mut dyn FnMut(Found<'_>) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let mut reader = Reader { file, window_start: 0, window: Vec::new() };
    let table = match Table::open(&mut reader, visit) {
        Ok(Opened::Table(table)) => table,
        Ok(Opened::BrokenOff) => return ControlFlow::Break(()),
        Err(damaged) => return visit(Found::Damaged(damaged)),
    };
    let mut above: &[u8] = &[];
    for IndexEntry { upto, block } in &table.index {
        let holds_any_of = |range: &Range| *upto >= range.start && above < range.end.as_slice();
        if within.is_none_or(|ranges| ranges.iter().any(holds_any_of)) {
            let read = reader.block(&table.footer, *block);
            let found = match read {
                Ok((contents, compression)) => Found::Rows(Rows {
                    offset: block.offset,
                    bytes: block.bytes + TRAILER_BYTES as u64,
                    contents,
                    compression,
                }),
                Err(cause) => Found::Damaged(Damaged {
                    offset: Some(block.offset),
                    rows: Some((above.to_vec(), upto.clone())),
                    cause: format!("a block of rows, {} bytes: {cause}", block.bytes),
                }),
            };
            visit(found)?;
        }
        above = upto;
    }
    ControlFlow::Continue(())
}

/// A file whose own description was read and checked.
struct Table {
    footer: Footer,
    index: Vec<IndexEntry>,
}

enum Opened {
    Table(Table),
    BrokenOff,
}

impl Table {
    /// Reads footer, metaindex, properties, index, and checks what else the metaindex names.
    fn open(
        reader: &mut Reader<'_>,
        visit: &mut dyn FnMut(Found<'_>) -> ControlFlow<()>,
    ) -> Result<Opened, Damaged> {
        let footer = reader.footer().map_err(|cause| whole(None, cause))?;
        let mut named = Vec::new();
        let mut shape = IndexShape::default();
        let mut index = footer.index;
        let metaindex = reader.meta(&footer, "the metaindex", footer.metaindex)?;
        in_meta(
            footer.metaindex,
            block::entries(&metaindex, &mut |name, handle| {
                named.push((name.to_vec(), handle.to_vec()));
                ControlFlow::Continue(())
            }),
        )?;
        for (name, handle) in &named {
            let handle = take_handle(&mut handle.as_slice())
                .map_err(|cause| whole(Some(footer.metaindex.offset), cause))?;
            match name.as_slice() {
                b"rocksdb.index" => index = Some(handle),
                b"rocksdb.properties" => {
                    let properties = reader.meta(&footer, "the properties", handle)?;
                    shape = in_meta(handle, index_shape(&properties))?;
                }
                other => {
                    let what = format!("the block {}", String::from_utf8_lossy(other));
                    reader.meta(&footer, &what, handle)?;
                }
            }
            if visit(Found::Meta(handle.bytes + TRAILER_BYTES as u64)).is_break() {
                return Ok(Opened::BrokenOff);
            }
        }
        let handle = index.ok_or_else(|| whole(None, "it names no index".to_owned()))?;
        let contents = reader.meta(&footer, "the index", handle)?;
        let index = in_meta(handle, block::index(&contents, shape))?;
        Ok(Opened::Table(Table { footer, index }))
    }
}

fn whole(offset: Option<u64>, cause: String) -> Damaged {
    Damaged { offset, rows: None, cause }
}

fn in_meta<T>(handle: Handle, parsed: Result<T, String>) -> Result<T, Damaged> {
    parsed.map_err(|cause| whole(Some(handle.offset), cause))
}

/// How the index is written, as the properties say.
fn index_shape(properties: &[u8]) -> Result<IndexShape, String> {
    let mut shape = IndexShape::default();
    let mut kind = 0;
    block::entries(properties, &mut |name, value| {
        let yes = || take_varint(&mut &*value).is_ok_and(|number| number != 0);
        match name {
            b"rocksdb.index.key.is.user.key" => shape.user_keys = yes(),
            b"rocksdb.index.value.is.delta.encoded" => shape.deltas = yes(),
            b"rocksdb.block.based.table.index.type" => kind = u32_at(value, 0),
            _ => {}
        }
        ControlFlow::Continue(())
    })?;
    if kind != 0 {
        return Err(format!("an index of kind {kind}, which this build does not write"));
    }
    Ok(shape)
}

/// Reads a file through a window, from the disk and not from the kernel's memory of it.
struct Reader<'f> {
    file: &'f File,
    window_start: u64,
    window: Vec<u8>,
}

impl Reader<'_> {
    fn footer(&mut self) -> Result<Footer, String> {
        let bytes = self.file.metadata().map_err(|cause| cause.to_string())?.len();
        let offset = bytes
            .checked_sub(FOOTER_BYTES as u64)
            .ok_or_else(|| format!("it is {bytes} bytes long, too short for a table file"))?;
        let footer = self.read(offset, FOOTER_BYTES as u64)?;
        let footer = footer.first_chunk().ok_or("it ends in its footer")?;
        Footer::read(footer, offset)
    }

    /// A block about the file, checked and open.
    fn meta(&mut self, footer: &Footer, what: &str, at: Handle) -> Result<Vec<u8>, Damaged> {
        let opened = self
            .block(footer, at)
            .and_then(|(contents, compression)| decompress(contents, compression))
            .map(Cow::into_owned);
        opened.map_err(|cause| whole(Some(at.offset), format!("{what}: {cause}")))
    }

    /// A block's contents, checked, and how they are compressed.
    fn block(&mut self, footer: &Footer, at: Handle) -> Result<(&[u8], u8), String> {
        let bytes =
            at.bytes.checked_add(TRAILER_BYTES as u64).ok_or("a block beyond every file")?;
        footer.check(at.offset, self.read(at.offset, bytes)?)
    }

    fn read(&mut self, offset: u64, bytes: u64) -> Result<&[u8], String> {
        let end = offset.checked_add(bytes).ok_or("a block beyond every file")?;
        if offset < self.window_start || end > self.window_start + self.window.len() as u64 {
            self.fill(offset, end)?;
        }
        let from = usize::try_from(offset - self.window_start).unwrap_or(usize::MAX);
        let upto = usize::try_from(end - self.window_start).unwrap_or(usize::MAX);
        self.window.get(from..upto).ok_or_else(|| "it ends behind the file".to_owned())
    }

    fn fill(&mut self, offset: u64, end: u64) -> Result<(), String> {
        let start = offset / PAGE_BYTES * PAGE_BYTES;
        let far = end.max(start.saturating_add(WINDOW_BYTES));
        // A sector that can't be read may lie in what nobody asked for: then only what was.
        self.fetch(start, far).or_else(|_| self.fetch(offset, end))
    }

    /// Replaces the window by what stands in the file from `start` to `end`, or to its end.
    fn fetch(&mut self, start: u64, end: u64) -> Result<(), String> {
        /// No block and no window comes near: an end that damage has made up must not take memory.
        const FETCH_BYTES_MAX: u64 = 1 << 30;
        let failed = |cause: std::io::Error| format!("the disk does not read it: {cause}");
        self.window.clear();
        self.window_start = start;
        let file_bytes = self.file.metadata().map_err(failed)?.len();
        let bytes = end.min(file_bytes).saturating_sub(start).min(FETCH_BYTES_MAX);
        let Some(span) = NonZeroU64::new(bytes) else { return Ok(()) };
        // Clean pages go, and the next read asks the disk. Where the kernel won't, it is read all the same.
        let _ = rustix::fs::fadvise(self.file, start, Some(span), rustix::fs::Advice::DontNeed);
        self.window.resize(usize::try_from(bytes).unwrap_or(0), 0);
        let read = self.file.read_exact_at(&mut self.window, start);
        read.map_err(|cause| {
            self.window.clear();
            failed(cause)
        })
    }
}
