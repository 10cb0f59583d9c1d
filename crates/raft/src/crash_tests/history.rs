//! What the log went through: the states that a crash may leave.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::types::LogId;

/// An entry as the log holds it. No command: a blank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Logged {
    pub(super) term: u64,
    pub(super) command: Option<Bytes>,
}

/// The stream of one group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stream {
    /// Term and whether it was won: what openraft keeps of a vote.
    pub(super) vote: Option<(u64, bool)>,
    pub(super) committed: Option<LogId>,
    pub(super) purged: Option<LogId>,
    /// Index of the first entry; means nothing without one.
    pub(super) first: u64,
    pub(super) entries: VecDeque<Logged>,
}

impl Stream {
    /// The index behind the last entry, or behind the last purged one.
    pub(super) fn end(&self) -> u64 {
        match self.entries.len() as u64 {
            0 => self.purged.map_or(0, |id| id.index() + 1),
            count => self.first + count,
        }
    }

    pub(super) fn append(&mut self, entry: Logged) {
        if self.entries.is_empty() {
            self.first = self.end();
        }
        self.entries.push_back(entry);
    }

    pub(super) fn truncate_from(&mut self, index: u64) {
        let keep = index.saturating_sub(self.first) as usize;
        self.entries.truncate(keep);
        self.tidy();
    }

    pub(super) fn purge(&mut self, upto: LogId) {
        if self.purged.is_some_and(|purged| upto.index() <= purged.index()) {
            return;
        }
        while !self.entries.is_empty() && self.first <= upto.index() {
            self.entries.pop_front();
            self.first += 1;
        }
        self.purged = Some(upto);
        self.tidy();
    }

    fn tidy(&mut self) {
        if self.entries.is_empty() {
            self.first = 0;
        }
    }
}

/// Every state of every group since the log was opened, numbered through by the changes.
pub(super) struct History {
    /// For each group its states, each with the number of the change that made it.
    groups: Vec<Vec<(u64, Stream)>>,
    changes: u64,
}

impl History {
    pub(super) fn new(groups: Vec<Stream>) -> Self {
        Self { groups: groups.into_iter().map(|stream| vec![(0, stream)]).collect(), changes: 0 }
    }

    /// A group's newest state.
    pub(super) fn now(&self, group: usize) -> &Stream {
        &self.groups[group].last().unwrap().1
    }

    /// Notes a change that is being made. Returns its number.
    pub(super) fn change(&mut self, group: usize, change: impl FnOnce(&mut Stream)) -> u64 {
        let mut stream = self.now(group).clone();
        change(&mut stream);
        self.changes += 1;
        self.groups[group].push((self.changes, stream));
        self.changes
    }

    /// Whether all groups were like this at one moment, and that is not before `acknowledged`.
    pub(super) fn had(&self, found: &[Stream], acknowledged: u64) -> bool {
        (acknowledged..=self.changes).any(|moment| {
            found.iter().zip(&self.groups).all(|(found, states)| {
                let newest = states.iter().rev().find(|(change, _)| *change <= moment);
                newest.is_some_and(|(_, stream)| stream == found)
            })
        })
    }

    /// What differs, for a failed check: each group beside its last acknowledged and newest state.
    pub(super) fn describe(&self, found: &[Stream], acknowledged: u64) -> String {
        let brief = |stream: &Stream| {
            let purged = stream.purged.map(|id| id.index());
            let committed = stream.committed.map(|id| id.index());
            format!(
                "vote {:?} committed {committed:?} purged {purged:?} entries {}..{}",
                stream.vote,
                stream.first,
                stream.end(),
            )
        };
        let mut text = String::new();
        for (group, stream) in found.iter().enumerate() {
            let states = &self.groups[group];
            let safe = states.iter().rev().find(|(change, _)| *change <= acknowledged);
            let safe = safe.map(|(_, stream)| brief(stream)).unwrap_or_default();
            let now = brief(self.now(group));
            text +=
                &format!("\n  group {group}: found {}; safe {safe}; newest {now}", brief(stream));
        }
        text
    }
}
