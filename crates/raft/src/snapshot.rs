//! What a snapshot is here: nothing, until it is sent.
//!
//! The store itself is the snapshot: everything up to its durable applied mark
//! is on disk already. So "building" one is reading that mark, which lets
//! openraft purge the log up to it, and costs no copy. Only when a follower
//! needs one are the rows read, from one frozen view, and sent as files ([`crate::sending`],
//! [`crate::taking`]).
//!
//! What is sent may be newer than what was announced, never older: openraft
//! takes the follower to have what was announced. So while a view is kept for a follower whose
//! connection broke, no more than that view is announced to anybody who is to be sent one.

use std::io;

use openraft::RaftSnapshotBuilder;
use stemedb_engine::{Group as EngineGroup, Incoming};
use stemedb_wal::planted::{self, Bug};

use crate::codec::decode_applied;
use crate::damage::Damages;
use crate::runtime::blocking;
use crate::types::{Config, Snapshot, SnapshotMeta};

/// A snapshot on its way.
pub(crate) enum SnapshotData {
    /// The rows of this node's store.
    Here(EngineGroup),
    /// Files from a peer, staged beside the living rows.
    Received(Box<Incoming>),
}

/// The snapshot that stands: the store up to its durable mark; `None` before the first flush.
pub(crate) fn current(store: &EngineGroup) -> io::Result<Option<Snapshot>> {
    let mark = if planted::has(Bug::PurgeAboveFlushed) {
        store.applied()?
    } else {
        store.durable_applied()?
    };
    let Some(mark) = mark else { return Ok(None) };
    let meta = meta_of(&mark)?;
    Ok(Some(Snapshot { meta, snapshot: SnapshotData::Here(store.clone()) }))
}

/// What an applied mark says, as openraft asks it.
pub(crate) fn meta_of(mark: &[u8]) -> io::Result<SnapshotMeta> {
    let (last_log_id, last_membership) =
        decode_applied(mark).map_err(|cause| io::Error::new(io::ErrorKind::InvalidData, cause))?;
    Ok(SnapshotMeta { last_log_id, last_membership })
}

/// Announces a snapshot.
pub(crate) struct Builder {
    store: EngineGroup,
    damages: Damages,
    flush: bool,
}

impl Builder {
    /// Of what is durable already.
    pub(crate) fn of_durable(store: EngineGroup, damages: Damages) -> Self {
        Self { store, damages, flush: false }
    }

    /// Of everything applied: makes it durable first.
    pub(crate) fn of_applied(store: EngineGroup, damages: Damages) -> Self {
        Self { store, damages, flush: true }
    }
}

impl RaftSnapshotBuilder<Config> for Builder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        if self.flush {
            let store = self.store.store().clone();
            blocking(move || store.flush()).await??;
        }
        match current(&self.store).inspect_err(|error| self.damages.note(error))? {
            Some(snapshot) => Ok(snapshot),
            // Nothing was ever applied: the empty store is its own snapshot.
            None => Ok(Snapshot {
                meta: SnapshotMeta::default(),
                snapshot: SnapshotData::Here(self.store.clone()),
            }),
        }
    }
}
