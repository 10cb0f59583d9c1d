//! What a replica found damaged on its own disk.
//!
//! openraft passes a storage error on as text, and stops the group. But a group whose
//! bytes fail their checksum is one thing (it is set aside, the node lives on), and a disk that
//! refuses to write is another (the node ends). So the log store and the applier look at each
//! error on its way out, and the first that says "damaged" is kept here.
//!
//! [`Standing`] is the other half: what a replica's own marks say its log must hold. A log that
//! ends before them lost what had been synced, and what this replica promised with it.

use std::fmt::Display;
use std::io;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use stemedb_engine::{Error as StoreError, Group as EngineGroup};
use stemedb_machine::Error as MachineError;
use stemedb_types::{DecodeError, ReplicaId};
use stemedb_wal::{Error as LogError, StreamId, Wal};

use crate::Error;
use crate::codec::{
    decode_applied, decode_generation, decode_log_id, encode_generation, encode_log_id,
};
use crate::log_store::{MARK_COMMITTED, MARK_GENERATION};

/// Where the damaged bytes stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// In the node's log.
    Log,
    /// In the node's store.
    Store,
}

/// Damaged bytes of one replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Where.
    pub part: Part,
    /// What was read, and what is wrong with it.
    pub cause: String,
}

/// The first damage that a replica met. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Damages(Arc<OnceLock<Damage>>);

impl Damages {
    pub(crate) fn first(&self) -> Option<Damage> {
        self.0.get().cloned()
    }

    /// Keeps an error if it says that bytes are damaged.
    pub(crate) fn note(&self, error: &io::Error) {
        if let Some(damage) = in_io(error) {
            let _ = self.0.set(damage);
        }
    }

    /// What has failed, as a group's error: the damage behind it, if there is one.
    pub(crate) fn or_stopped(&self, cause: &dyn Display) -> Error {
        match self.first() {
            Some(damage) => Error::Damaged(damage),
            None => Error::Stopped(cause.to_string()),
        }
    }

    /// [`Damages::note`], then [`Damages::or_stopped`].
    pub(crate) fn told(&self, error: &io::Error) -> Error {
        self.note(error);
        self.or_stopped(error)
    }
}

fn in_io(error: &io::Error) -> Option<Damage> {
    let inner = error.get_ref()?;
    if let Some(error) = inner.downcast_ref::<LogError>() {
        return in_log(error);
    }
    if let Some(error) = inner.downcast_ref::<StoreError>() {
        return in_store(error);
    }
    match inner.downcast_ref::<MachineError>() {
        Some(MachineError::Damaged(cause)) => {
            Some(Damage { part: Part::Store, cause: cause.clone() })
        }
        _ => None,
    }
}

fn in_log(error: &LogError) -> Option<Damage> {
    match error {
        LogError::Damaged { .. } | LogError::Quarantined { .. } => {
            Some(Damage { part: Part::Log, cause: error.to_string() })
        }
        _ => None,
    }
}

fn in_store(error: &StoreError) -> Option<Damage> {
    match error {
        StoreError::Corrupt { .. } => Some(Damage { part: Part::Store, cause: error.to_string() }),
        _ => None,
    }
}

/// An error of opening or reading the store, as a group's error.
pub(crate) fn refused(error: &StoreError) -> Error {
    match in_store(error) {
        Some(damage) => Error::Damaged(damage),
        None => Error::Stopped(error.to_string()),
    }
}

/// Where a replica's log ends, and what its own durable marks say of it. Indexes of entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// The last entry of the log, or the last one purged from it.
    end: Option<u64>,
    /// The stream's committed mark.
    committed: Option<u64>,
    /// The store's durable applied mark.
    applied: Option<u64>,
    /// The store's rows came from a peer, and the log is not known to be purged behind them.
    replaced: bool,
}

impl Standing {
    /// What the marks of this replica say.
    fn read(store: &EngineGroup, replica: ReplicaId, wal: &Wal) -> Result<Self, Error> {
        let stream = StreamId(replica.0);
        if wal.is_quarantined(stream) {
            let known = wal.quarantined().into_iter().find(|(other, _)| *other == stream);
            let unknown = || "the log lost records, and can't tell whose".to_owned();
            let cause = known.map_or_else(unknown, |(_, cause)| cause);
            return Err(Error::Damaged(Damage { part: Part::Log, cause }));
        }
        let unread = |cause: DecodeError| Error::Stopped(cause.to_string());
        let bounds = wal.bounds(stream);
        let committed = wal.mark_value(stream, MARK_COMMITTED);
        let committed = committed.map(|mark| decode_log_id(&mark).map_err(unread)).transpose()?;
        let seen = wal.mark_value(stream, MARK_GENERATION);
        let seen = seen.map(|mark| decode_generation(&mark).map_err(unread)).transpose()?;
        let applied = store.durable_applied().map_err(|error| refused(&error))?;
        Ok(Self {
            end: bounds.last.max(bounds.purged.map(|(index, _)| index)),
            committed: committed.map(|id| id.index()),
            applied: applied
                .map(|mark| applied_entry(&mark))
                .transpose()?
                .flatten()
                .map(|(index, _)| index),
            replaced: seen.unwrap_or(0) != store.generation(),
        })
    }

    /// What is missing from the log, if its marks show that something is.
    ///
    /// A snapshot makes the store's mark run ahead of the log until the log is purged behind it;
    /// a crash between the two is no damage. An entry may also be applied a moment before its own
    /// sync, because a majority of others had synced it: a crash there, within one sync and
    /// behind a whole flush, looks like damage and is taken for it. It can never hit a majority
    /// of a group, for then nobody would have called the entry committed.
    fn lacks(&self) -> Option<String> {
        let beyond = |mark: Option<u64>| mark.filter(|mark| self.end.is_none_or(|end| *mark > end));
        let ends = self.end.map_or("is empty".to_owned(), |end| format!("ends at entry {end}"));
        if let Some(committed) = beyond(self.committed) {
            return Some(format!("the log {ends}, and entry {committed} had been committed"));
        }
        match beyond(self.applied) {
            Some(applied) if !self.replaced => {
                Some(format!("the log {ends}, and the store holds entry {applied}"))
            }
            _ => None,
        }
    }
}

/// Fails with [`Error::Damaged`] if a replica's own marks show that its log lost synced entries.
pub(crate) fn check_standing(
    store: &EngineGroup,
    replica: ReplicaId,
    wal: &Wal,
) -> Result<(), Error> {
    match Standing::read(store, replica, wal)?.lacks() {
        Some(cause) => Err(Error::Damaged(Damage { part: Part::Log, cause })),
        None => Ok(()),
    }
}

/// Notes which rows the log goes with from now on: once openraft has started, and so has purged
/// the log behind a snapshot that the last life installed and no more. Before that the mark would
/// make a log that is whole look like one that lost its end.
pub(crate) fn note_generation(
    store: &EngineGroup,
    replica: ReplicaId,
    wal: &Wal,
) -> Result<(), Error> {
    let (stream, mark) = (StreamId(replica.0), encode_generation(store.generation()));
    if wal.mark_value(stream, MARK_GENERATION).as_ref() == Some(&mark) {
        return Ok(());
    }
    match wal.mark(stream, MARK_GENERATION, mark, None) {
        // Lost, it is written at the next start; until then a replica errs on the safe side.
        Ok(()) | Err(LogError::Busy | LogError::Full) => Ok(()),
        // The log can't tell whether it ever had this stream, and lost it.
        Err(LogError::Quarantined { why, .. }) => {
            Err(Error::Damaged(Damage { part: Part::Log, cause: why.to_string() }))
        }
        Err(error) => Err(Error::Stopped(error.to_string())),
    }
}

/// The entry that an applied mark names, `None` before the first: its index, and the note that a
/// log purged up to it must carry.
pub fn applied_entry(mark: &[u8]) -> Result<Option<(u64, Bytes)>, Error> {
    let (last, _) = decode_applied(mark).map_err(|cause| {
        let cause = format!("an applied mark does not read: {cause}");
        Error::Damaged(Damage { part: Part::Store, cause })
    })?;
    Ok(last.map(|id| (id.index(), encode_log_id(&id))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_errors_that_say_damaged_are_kept_and_the_first_of_them_stays() {
        let damages = Damages::default();
        damages.note(&io::Error::other("no"));
        damages.note(&io::Error::other(LogError::Full));
        damages.note(&io::Error::other(MachineError::View("busy".to_owned())));
        damages.note(&io::Error::from(StoreError::Io { verb: "read", cause: "EIO".to_owned() }));
        assert_eq!(damages.first(), None);
        let corrupt = StoreError::Corrupt { what: "a row", cause: "checksum".to_owned() };
        damages.note(&io::Error::from(corrupt));
        damages.note(&io::Error::other(LogError::Damaged { file: "1.wal".to_owned(), offset: 7 }));
        let cause = "read a row from the store: checksum".to_owned();
        assert_eq!(damages.first(), Some(Damage { part: Part::Store, cause }));
    }

    #[test]
    fn a_log_that_ends_before_a_mark_of_its_own_replica_lacks_what_lies_between() {
        let standing = |end, committed, applied, replaced| {
            Standing { end, committed, applied, replaced }.lacks()
        };
        let fine = [
            (None, None, None, false),
            (Some(9), Some(9), Some(9), false),
            (Some(9), Some(3), Some(2), false),
            // A snapshot was installed, and the log is not purged behind it yet.
            (Some(9), Some(9), Some(40), true),
            (None, None, Some(40), true),
        ];
        for (end, committed, applied, replaced) in fine {
            assert_eq!(standing(end, committed, applied, replaced), None, "{end:?} {committed:?}");
        }
        let lacking = [
            (
                (Some(9), Some(10), None, false),
                "the log ends at entry 9, and entry 10 had been committed",
            ),
            (
                (Some(9), Some(10), None, true),
                "the log ends at entry 9, and entry 10 had been committed",
            ),
            ((None, Some(1), None, false), "the log is empty, and entry 1 had been committed"),
            (
                (Some(9), Some(9), Some(10), false),
                "the log ends at entry 9, and the store holds entry 10",
            ),
            ((None, None, Some(0), false), "the log is empty, and the store holds entry 0"),
        ];
        for ((end, committed, applied, replaced), why) in lacking {
            let said = standing(end, committed, applied, replaced);
            assert_eq!(said.as_deref(), Some(why));
        }
    }
}
