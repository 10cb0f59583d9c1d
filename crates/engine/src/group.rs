//! One group's part of the store: its generation and its applied mark.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use stemedb_types::GroupId;

use crate::rows::{Range, Scope, generation_row};
use crate::store::{Rows, Store};
use crate::{Error, Row};

/// One group's rows, of its living generation. Cheap to clone; clones made before a snapshot
/// was installed go on reading the old generation and must be replaced.
#[derive(Clone)]
pub struct Group {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) scope: Scope,
}

/// The rows of one run of entries of one group.
#[derive(Debug)]
pub struct Batch {
    pub(crate) scope: Scope,
    pub(crate) rows: Rows,
}

impl Group {
    /// Opens a group's part, empty if it was never written.
    pub fn open(store: Arc<dyn Store>, group: GroupId) -> Result<Self, Error> {
        let generation = match store.get(&generation_row(group))? {
            None => 0,
            Some(bytes) => decode_generation(&bytes)?,
        };
        let opened = Self { store, scope: Scope { group, generation } };
        opened.sweep(opened.next_generation())?;
        Ok(opened)
    }

    /// Drops what a snapshot that was never finished left in a generation.
    pub(crate) fn sweep(&self, scope: Scope) -> Result<(), Error> {
        let mut found = false;
        self.scan(&scope.all(), false, &mut |_, _| {
            found = true;
            ControlFlow::Break(())
        })?;
        if !found {
            return Ok(());
        }
        let mut rows = Rows::new();
        rows.delete_range(scope.all());
        self.store.write(rows)
    }

    /// Which group this is.
    pub fn id(&self) -> GroupId {
        self.scope.group
    }

    /// Begins a batch.
    pub fn batch(&self) -> Batch {
        Batch { scope: self.scope, rows: Rows::new() }
    }

    /// Writes a batch and the mark that says how far it goes, together. Visible at once, durable
    /// with the next flush. On an error nothing of it is written.
    pub fn commit(&self, mut batch: Batch, applied: Vec<u8>) -> Result<(), Error> {
        debug_assert_eq!(batch.scope, self.scope, "a batch goes to the group it was begun for");
        batch.rows.put(self.scope.applied(), applied);
        self.store.write(batch.rows)
    }

    /// The mark of the newest batch.
    pub fn applied(&self) -> Result<Option<Bytes>, Error> {
        self.store.get(&self.scope.applied())
    }

    /// The mark of the newest batch that a crash can't take back.
    pub fn durable_applied(&self) -> Result<Option<Bytes>, Error> {
        self.store.durable(&self.scope.applied())
    }

    /// The store behind the group.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    pub(crate) fn get(&self, row: &Row) -> Result<Option<Bytes>, Error> {
        self.store.get(row)
    }

    pub(crate) fn scan(
        &self,
        range: &Range,
        reverse: bool,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        self.store.scan(range, reverse, visit)
    }

    /// The same group, one generation on: where a snapshot is staged.
    pub(crate) fn next_generation(&self) -> Scope {
        Scope { generation: self.scope.generation.wrapping_add(1), ..self.scope }
    }

    /// Makes a staged generation the living one and drops the old one's rows, in one batch.
    pub(crate) fn flip(&self, to: Scope) -> Result<Group, Error> {
        let mut rows = Rows::new();
        rows.put(generation_row(to.group), to.generation.to_be_bytes().to_vec());
        rows.delete_range(self.scope.all());
        self.store.write(rows)?;
        self.store.flush()?;
        Ok(Group { store: self.store.clone(), scope: to })
    }
}

fn decode_generation(bytes: &[u8]) -> Result<u32, Error> {
    let bytes = bytes.try_into().map_err(|_| Error::Corrupt {
        what: "a generation pointer",
        cause: format!("{} bytes long, not 4", bytes.len()),
    })?;
    Ok(u32::from_be_bytes(bytes))
}
