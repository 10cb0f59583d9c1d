//! A segmented, checksummed, group-committed log of records in numbered streams.
//!
//! # What it is for
//!
//! One log serves many streams (the Raft groups of a node, say; the log itself knows nothing of
//! them), so that all of them share one `fdatasync`. A stream is a contiguous run of entries,
//! numbered by its owner, cut at the end by [`Wal::truncate_from`] and at the front by
//! [`Wal::purge_to`], and a few small *marks*, of which only the newest value counts.
//!
//! Every change is visible to readers when its call returns and durable when its completion is
//! called. Completions come strictly in the order of the calls, over all streams, each after
//! the sync of everything before it. After a crash the log holds a prefix of the changes that
//! were made, and at least those that were completed. Only an append of several entries is not
//! one change but as many; the others are whole or not there.
//!
//! # The rooms
//!
//! `view` is a stream as its callers see it, `shared` the queue, `writer` what turns it into
//! synced bytes (one thread at a time, which is its own as a rule), [`Driver`] how an owner does
//! without that thread, `gate` where callers sleep who block, `linger` whether the writer waits
//! for them, `supply` the helper that prepares segments. The bytes are in `record`, `batch`,
//! `segment` and `v1`, and what they add up to is in `ledger` and `places`. `recover` is the way
//! back from disk: `reading` takes the segments, `scan` finds
//! the batches in them, `rebuild` folds them into a ledger and says what is missing. `quarantine`
//! knows who may not be used, `care` looks after an open log and [`check`] after a closed one.
//! Most of these are pure. [`disk`] is the seam to the file system.
//!
//! # The format, version 2
//!
//! The directory holds `lock`, `identity`, segments named by their number in 16 hex digits
//! (`0000000000000001.wal`, …), and spares (`….spare`) whose content means nothing. Numbers rise
//! by one and the lowest go first, so a gap is damage; `….aside` is no part of the log. Words are
//! little-endian, varints LEB128, checksums CRC-32 (IEEE).
//!
//! ```text
//! identity  "StemeWID" · version u32 · log id u64 · checksum u32
//! segment   header · batch · batch · … · terminator · (anything)
//!   header    "StemeWAL" · version u32 · zero u64 · log id u64 · segment u64
//!             · previous end u64 · checksum u32
//!   batch     head · record · record · … · table · tail
//!     head      b7 57 a2 6e · records' bytes u32 · table's bytes u32 · records u32 · synced u64
//!               · checksum of the records' checksums u32 · table's checksum* u32 · checksum* u32
//!     record    checksum* u32 · body bytes u32 · body
//!     table     flags u8 · (floor varint) · streams varint · (stream varint · number varint) …
//!               · (kind u8 · place among the streams varint · bytes of the record varint) …
//!     tail      b7 7a 11 6e · as the head
//!   terminator 28 zero bytes where the next batch will be
//! body      kind u8 · stream varint · …
//!   1 entry       index varint · payload
//!   2 mark        tag u8 · value
//!   3 truncate    from varint
//!   4 purge       to varint · note
//!   5 forget
//!   6 moved       index varint · payload
//!   9 checkpoint  (in place of the stream: how many states follow) · flags u8 · floor varint
//!  10 state       flags u8 · number varint
//!                 · 0 or (1 · to varint · note length varint · note) · first varint
//!                 · count varint · marks varint · (tag u8 · length varint · value) …
//! ```
//!
//! A checksum with a star also covers, in front of the bytes, the log's id, the segment's number
//! and the offset in the segment, eight bytes each: bytes are a record only where they were
//! written and while the file is that segment, so what a recycled file still holds is nothing.
//!
//! A batch is what one sync made durable. Its `synced` is an offset of the segment up to which
//! everything, and all of every earlier segment, had been synced before it was written; so a
//! whole head proves what stands before it, and only what nothing proves may be cut
//! when it is damaged. The terminator shows that a segment ends where it was meant to.
//!
//! The first batch of a segment is a checkpoint, a state for each stream, synced with the header
//! before any record follows. It is why marks, notes, truncations and purges outlive the
//! segments they were written in: a segment is pinned by live entries only. An entry that pins
//! an old segment too long is written again as *moved*, which changes where it is and nothing
//! else.
//!
//! The records of a stream are numbered, all but the moved ones, in a row that goes on above the
//! *floor* when the stream's number is used anew. A table says the number of the first record of
//! each stream in the batch; a state that of the next one; and a table with flag 1, a roll call,
//! has the floor and names all streams, those without a record in the batch too. So behind a
//! stretch that can't be read it shows which streams lost records in it, and a record that can't
//! be read is known for whose it was by its table. Flag 2 (1 of a checkpoint) says that there may
//! have been streams that are not named; flag 1 of a state, that the stream has lost records.
//!
//! Version 1 had neither tables nor tails (`v1`), nor numbers, and kinds 7 and 8 for checkpoint
//! and state. It is read, and not written on: the log goes on in a new segment.
//!
//! A log that is closed ends with a batch of no records, to prove the last one. Behind a crash
//! the last batch has no proof: if it is damaged later, it is taken for torn.
//!
//! # Damage
//!
//! What can't be read of that which had been synced is located ([`Damage`]: file, offset, length)
//! and attributed: by its batch's table, or by the numbers behind it. A stream that lost nothing
//! that still counts has lost nothing: a purged entry, a mark that the next checkpoint repeats, a
//! head or a table whose records are all there. The others are quarantined, if [`Options`] let
//! the log open at all, and every other stream has each of its synced records. They stay what
//! they are known to have been until they are forgotten: their entries are never written again,
//! and where a record can't show a second time that something was lost, the checkpoint of a new
//! segment says so before anything else is written. A segment that only they need is renamed to
//! `….aside` when it would keep the log from getting smaller. [`check`] is for a closed log.
//!
//! Nobody is quarantined by a power cut: what may be missing after one is the last batch, and
//! nothing proves that it had been synced.
//!
//! # Left out
//!
//! A last batch whose damage comes later than its sync is taken for torn if the log was not
//! closed and nothing was written behind it. Damage that hides a whole batch behind the last roll
//! call (a sixteenth of a segment at most) quarantines every stream without a record since, and
//! those that the log knows nothing of. Segments are read whole into memory, one at a time, at
//! opening and by [`Wal::scrub`]. There is no
//! compression and no encryption. A record that does not fit an empty segment makes a longer
//! one, and is bounded only by [`PAYLOAD_BYTES_MAX`]. Disk use is within twice the live bytes
//! plus three segments as long as a checkpoint is small against a segment (one more while the
//! helper is behind, for which no move waits), but it shrinks only while somebody writes, and what
//! a sudden purge leaves scattered is gathered at 1 MiB a sync. Segments set aside come on top: no
//! more than there were when their streams were quarantined.
//! On a file system that never writes in place (btrfs, say) a full disk can fail the write into
//! a segment that is there, which ends the log.

mod batch;
mod care;
pub mod check;
mod codec;
mod damage;
pub mod disk;
mod driver;
mod error;
#[doc(hidden)]
pub mod fuzzing;
mod gate;
mod ledger;
mod linger;
mod options;
mod places;
#[doc(hidden)]
pub mod planted;
mod quarantine;
mod read;
mod reading;
mod rebuild;
mod record;
mod recover;
mod scan;
mod segment;
mod shared;
mod supply;
mod v1;
mod view;
mod wal;
mod writer;

pub use damage::{Damage, OnDamage};
pub use driver::Driver;
pub use error::{Error, OpenError};
pub use options::{NOTE_BYTES_MAX, Options, PAYLOAD_BYTES_MAX};
pub use recover::{Recovery, Torn};
pub use view::Bounds;
pub use wal::{Completion, Stats, StreamId, Wal};
