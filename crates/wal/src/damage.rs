//! What is said of bytes that can't be read.

use crate::StreamId;

/// A stretch of a segment whose bytes had been synced and are not what was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Damage {
    /// The segment's file name.
    pub file: String,
    /// Where the stretch begins, bytes.
    pub offset: u64,
    /// How long it is, bytes; 0 if only the records say that something is missing here.
    pub bytes: u64,
    /// What is wrong.
    pub reason: &'static str,
    /// The streams that lost something by it, ascending. None: it is known that everything that
    /// stood there is elsewhere, or was needed no more.
    pub streams: Vec<StreamId>,
    /// Streams that the log knows nothing of any more may have been lost, too.
    pub unknown: bool,
}

impl Damage {
    /// Why a stream is quarantined, in words.
    pub(crate) fn why(&self) -> String {
        format!("{} at offset {}: {}", self.file, self.offset, self.reason)
    }
}

/// What [`crate::Wal::open`] does about damage that costs a stream records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDamage {
    /// It refuses to open and changes nothing.
    #[default]
    Refuse,
    /// It opens, with those streams quarantined: their calls answer [`crate::Error::Quarantined`]
    /// until they are forgotten. All others go on.
    Quarantine,
}

pub(crate) const UNREADABLE: &str = "a record that had been synced fails its checksum";
pub(crate) const HEAD: &str = "a batch's head or table fails its checksum";
pub(crate) const GAP: &str = "a batch that had been synced can't be read";
pub(crate) const HEADER: &str = "the segment's header fails its checksum";
pub(crate) const BEGINNING: &str = "the segment's head is damaged";
pub(crate) const MISSING: &str = "the segment is missing";
pub(crate) const OLDER_MISSING: &str = "an older segment is gone";
pub(crate) const FOREIGN: &str = "the segment belongs to another log";
pub(crate) const DISAGREES: &str = "the checkpoint disagrees with the segments before it";
pub(crate) const SKIPPED: &str = "records before this batch are missing";
pub(crate) const BEFORE: &str = "it had lost records before this segment began";
