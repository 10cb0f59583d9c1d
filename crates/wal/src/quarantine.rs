//! The streams that are not to be used: their records were lost to damage. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::shared::Op;
use crate::view::View;
use crate::{Error, StreamId};

/// Who is quarantined, and why.
#[derive(Debug, Default)]
pub(crate) struct Quarantine {
    streams: BTreeMap<StreamId, Arc<str>>,
    /// Why streams that the log does not know can't be told from lost ones, if so.
    unknown: Option<Arc<str>>,
}

impl Quarantine {
    pub(crate) fn new(streams: BTreeMap<StreamId, String>, unknown: Option<String>) -> Self {
        let streams = streams.into_iter().map(|(stream, why)| (stream, Arc::from(why)));
        Self { streams: streams.collect(), unknown: unknown.map(Arc::from) }
    }

    /// Sets a stream aside. The first reason stands.
    pub(crate) fn add(&mut self, stream: StreamId, why: &str) {
        self.streams.entry(stream).or_insert_with(|| {
            tracing::error!(%stream, why, "a stream of the log is quarantined");
            Arc::from(why)
        });
    }

    /// The stream is forgotten. True if it must be known from now on, as empty, or it would
    /// count as lost again.
    pub(crate) fn lift(&mut self, stream: StreamId) -> bool {
        self.streams.remove(&stream);
        self.unknown.is_some()
    }

    /// The stream's owner takes it as it is.
    pub(crate) fn release(&mut self, stream: StreamId) {
        self.streams.remove(&stream);
    }

    pub(crate) fn list(&self) -> Vec<(StreamId, String)> {
        self.streams.iter().map(|(stream, why)| (*stream, why.to_string())).collect()
    }

    pub(crate) fn has(&self, stream: StreamId) -> bool {
        self.streams.contains_key(&stream)
    }

    pub(crate) fn ids(&self) -> BTreeSet<StreamId> {
        self.streams.keys().copied().collect()
    }

    /// Refuses every change of a quarantined stream but that it is forgotten.
    pub(crate) fn admit(&self, op: &Op, known: &BTreeMap<StreamId, View>) -> Result<(), Error> {
        let stream = match op {
            Op::Append { stream, .. }
            | Op::Mark { stream, .. }
            | Op::Truncate { stream, .. }
            | Op::Purge { stream, .. } => *stream,
            Op::Forget { .. } => return Ok(()),
        };
        self.check(stream, known)
    }

    /// Refuses a quarantined stream.
    pub(crate) fn check(
        &self,
        stream: StreamId,
        known: &BTreeMap<StreamId, View>,
    ) -> Result<(), Error> {
        let unknown = self.unknown.as_ref().filter(|_| !known.contains_key(&stream));
        match self.streams.get(&stream).or(unknown) {
            Some(why) => Err(Error::Quarantined { stream, why: why.clone() }),
            None => Ok(()),
        }
    }
}
