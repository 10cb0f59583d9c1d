//! What happens to one key: put, delete, touch, expire.
//!
//! Each looks at the key's newest version and adds one behind it. A key's
//! time to go is part of its version, and of an index by time that is moved
//! along with it. Time itself never passes here: a key whose time has come is
//! there, for every read and condition, until an expire that names its lease is
//! applied (decision 5).

use bytes::Bytes;
use stemedb_types::{Key, Revision};

use super::answer::Answer;
use super::apply::{log, touched, unchanged};
use super::change::{Change, TouchKind};
use super::command::{Command, Condition, Write};
use super::view::{BucketState, Expiry, Head, View};
use crate::{Error, Outcome};

type Applied = Result<Outcome<Change, Answer>, Error>;

/// Applies a write of one key. Any other write changes nothing and is answered as such.
pub(super) fn apply(view: &impl View, bucket: &BucketState, command: &Command) -> Applied {
    let revision = bucket.revision.next();
    match &command.write {
        Write::Put { key, value, condition, expires_at_ms } => {
            let entry = Entry { command, bucket, revision, key };
            entry.put(view, value, condition, *expires_at_ms)
        }
        Write::Delete { key, condition } => {
            Entry { command, bucket, revision, key }.delete(view, condition)
        }
        Write::Touch { key, expires_at_ms } => {
            Entry { command, bucket, revision, key }.touch(view, *expires_at_ms)
        }
        Write::Expire { key, lease } => {
            Entry { command, bucket, revision, key }.expire(view, *lease)
        }
        _ => unchanged(Answer::NotFound { revision: bucket.revision }),
    }
}

/// A write of one key, and where it is applied.
struct Entry<'c> {
    command: &'c Command,
    bucket: &'c BucketState,
    /// What it takes, if it changes something.
    revision: Revision,
    key: &'c Key,
}

impl Entry<'_> {
    /// The key's newest version, if the key is there.
    fn present(&self, view: &impl View) -> Result<Option<Head>, Error> {
        Ok(view.head(self.bucket.number, self.key)?.filter(|head| !head.deleted))
    }

    /// The revision by which a version is known, for conditions and answers.
    fn shown(&self, current: Option<Head>) -> Option<Revision> {
        current.map(|head| self.bucket.shown(head).mod_revision)
    }

    fn put(
        &self,
        view: &impl View,
        value: &Bytes,
        condition: &Condition,
        expires_at_ms: Option<u64>,
    ) -> Applied {
        let current = self.present(view)?;
        if !condition.holds(self.shown(current)) {
            return self.refused(current);
        }
        let head = Head {
            create_revision: current.map_or(self.revision, |head| head.create_revision),
            mod_revision: self.revision,
            version: current.map_or(1, |head| head.version + 1),
            deleted: false,
            expiry: self.leased(expires_at_ms),
        };
        let changes = self.changes(current, head, value.clone(), TouchKind::Put);
        let answer = Answer::Put { revision: self.revision, created: current.is_none() };
        Ok(Outcome { changes, answer })
    }

    fn delete(&self, view: &impl View, condition: &Condition) -> Applied {
        let current = self.present(view)?;
        if !condition.holds(self.shown(current)) {
            return self.refused(current);
        }
        match current {
            Some(current) => Ok(self.gone(current, TouchKind::Delete)),
            None => unchanged(Answer::NotFound { revision: self.bucket.revision }),
        }
    }

    fn touch(&self, view: &impl View, expires_at_ms: u64) -> Applied {
        let current = view.current(self.bucket.number, self.key)?;
        let Some(current) = current.filter(|version| !version.head.deleted) else {
            return unchanged(Answer::NotFound { revision: self.bucket.revision });
        };
        let head = Head { expiry: self.leased(Some(expires_at_ms)), ..current.head };
        let changes = self.changes(Some(current.head), head, current.value, TouchKind::Touch);
        let current = self.bucket.shown(head).mod_revision;
        let answer = Answer::Touched { revision: self.revision, current };
        Ok(Outcome { changes, answer })
    }

    fn expire(&self, view: &impl View, lease: Revision) -> Applied {
        match self.present(view)? {
            None => unchanged(Answer::NotFound { revision: self.bucket.revision }),
            Some(current) if current.expiry.is_some_and(|expiry| expiry.lease == lease) => {
                Ok(self.gone(current, TouchKind::Expire))
            }
            Some(current) => self.refused(Some(current)),
        }
    }

    fn refused(&self, current: Option<Head>) -> Applied {
        let (revision, current) = (self.bucket.revision, self.shown(current));
        unchanged(Answer::PreconditionFailed { revision, current })
    }

    fn leased(&self, expires_at_ms: Option<u64>) -> Option<Expiry> {
        expires_at_ms.map(|at_ms| Expiry { at_ms, lease: self.revision })
    }

    fn gone(&self, current: Head, kind: TouchKind) -> Outcome<Change, Answer> {
        let head = Head { mod_revision: self.revision, deleted: true, expiry: None, ..current };
        let changes = self.changes(Some(current), head, Bytes::new(), kind);
        Outcome { changes, answer: Answer::Deleted { revision: self.revision } }
    }

    /// The new version, its line in the thin log, and the index by time moved along.
    fn changes(
        &self,
        before: Option<Head>,
        head: Head,
        value: Bytes,
        kind: TouchKind,
    ) -> Vec<Change> {
        let (bucket, key) = (self.bucket.number, self.key);
        let mut changes = vec![
            Change::Version { bucket, key: key.clone(), head, value },
            log(bucket, self.revision, vec![touched(kind, key.as_bytes())]),
        ];
        let was = before.and_then(|head| head.expiry);
        if was.is_some() || head.expiry.is_some() {
            changes.push(Change::Expiry {
                project: self.command.project,
                name: self.command.bucket.clone(),
                bucket,
                key: key.clone(),
                was,
                now: head.expiry,
            });
        }
        changes
    }
}
