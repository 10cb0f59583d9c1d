//! A group's rows as files for another node: sent, resumed, checked, installed.
//!
//! ```text
//!  sender                                        receiver
//!  begin: a frozen view, an id
//!                        id ──────────►  Incoming of that id, or a new one
//!                           ◄──────────  its generation, and how many files it has
//!  make file n, send it    ──────────►   write, sync, check, count; and so on to the last
//!                                        take all files in ─► flip ─► sweep the old rows
//! ```
//!
//! A row's name begins with group and generation, and only the receiver knows
//! under which generation it files the rows. So it says so first, and the
//! sender makes the files under that: they are taken in as they came, and no row is written
//! again at the receiver. The cost is that a file serves one receiver only.
//!
//! **The sender** ([`Outgoing`]) is a thread that holds one iterator, opened when the snapshot
//! begins: everything is read from it, however long it takes and however often the
//! connection breaks. It makes one file of about 32 MiB of rows at a time, in memory, sends it and lets go of
//! it, and remembers with which row each file began, so that it can go on from any of them.
//! It runs at low priority, rests as long as it works and sends no faster than
//! a rate that all snapshots of the node share. Once nobody has asked for a while it ends. While it lives,
//! RocksDB keeps the files and memtables that its iterator reads: that is what resuming costs.
//!
//! **The receiver** ([`Incoming`]) counts a file once it is whole, matches its SHA-256, is synced
//! and holds nothing but rows of the right range, each above the one before. What it counts it never
//! asks for again. A broken connection loses the file under way. A restart of the process
//! loses all of them: the folder is emptied at start, so that nothing a crash leaves stays.
//!
//! **Installing** is three steps, and a crash between any two shows the old rows or the new,
//! whole: all files are taken in at once, under a generation nobody reads; one
//! row names that generation as the living one, and is flushed; the old rows go when
//! their last reader has. Rows of a generation that never came to live go when the
//! group is opened.

mod dump;
mod format;
mod incoming;
mod outgoing;
mod throttle;

pub use dump::export;
pub use format::ROWS_BYTES_MAX as SNAPSHOT_FILE_BYTES_MAX;
pub use incoming::Incoming;
pub use outgoing::{Outgoing, Sink, Terms};
pub use throttle::Throttle;

use std::ops::ControlFlow;

use crate::{Error, Group};

/// Names one view of one sender: drawn by chance, so that no two are alike.
pub type SnapshotId = u128;

fn refuse(cause: impl ToString) -> Error {
    Error::Transfer { cause: cause.to_string() }
}

/// Takes the rows of one group in for another, of the same name or not, in the same process.
/// Blocks.
pub fn copy(from: &Group, to: &Group, id: SnapshotId) -> Result<Incoming, Error> {
    let mut incoming = Incoming::begin(to, id)?;
    let outgoing = Outgoing::begin(from, id, Terms::default())?;
    let (pieces, sent) = std::sync::mpsc::sync_channel(1);
    let sink: Sink = Box::new(move |piece| match pieces.send(piece) {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    });
    outgoing.send_as(incoming.scope(), 0, sink)?;
    for piece in sent {
        incoming.take(&piece?)?;
    }
    Ok(incoming)
}
