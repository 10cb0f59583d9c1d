//! What may be asked to change, and its bytes in the log.

use bytes::Bytes;
use stemedb_claims::{AgentId, StatementId};
use stemedb_types::limits::ITEMS_MAX;
use stemedb_types::{BucketName, DecodeError, Decoder, Encoder, Key, ProjectId, Revision};

use super::once::{Fingerprint, IdempotencyKey, Once};

/// A write to one bucket, as it stands in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Whose bucket.
    pub project: ProjectId,
    /// Which one; made by its first write.
    pub bucket: BucketName,
    /// The leader's clock when it proposed this, in ms since 1970.
    pub at_ms: u64,
    /// What to do.
    pub write: Write,
    /// Its name, if it is to be done once however often it comes.
    pub once: Option<Once>,
}

/// What to do to a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Give a key a value.
    Put {
        /// Which key.
        key: Key,
        /// Its new value.
        value: Bytes,
        /// Only if this holds.
        condition: Condition,
        /// When the key goes by itself, in ms since 1970: the asker's wish on the leader's clock.
        /// `None`: never, whatever held before.
        expires_at_ms: Option<u64>,
    },
    /// Take a key away.
    Delete {
        /// Which key.
        key: Key,
        /// Only if this holds.
        condition: Condition,
    },
    /// Make statements: one revision for all that are new to their agents.
    Assert {
        /// At most [`ITEMS_MAX`].
        items: Vec<AssertItem>,
    },
    /// Move the time at which a key goes by itself, whether it had one or not.
    Touch {
        /// Which key.
        key: Key,
        /// Its new time, in ms since 1970.
        expires_at_ms: u64,
    },
    /// Take a key away because its time has come. The leader proposes this; a put or a touch that
    /// came in between has a lease of its own, and then nothing happens.
    Expire {
        /// Which key.
        key: Key,
        /// The lease that ran out.
        lease: Revision,
    },
    /// Let go of history at and below a revision. Takes no revision itself.
    Compact {
        /// The floor that is wanted; one command moves it by at most
        /// [`COMPACT_REVISIONS_MAX`](super::COMPACT_REVISIONS_MAX).
        to: Revision,
    },
    /// Go on behind a revision, with all before it compacted: the bucket's newest revisions were lost
    /// with the disks of a majority, and none of them may be given out again. Takes no revision itself,
    /// makes no bucket, and never goes back.
    Jump {
        /// The bucket's revision from now on.
        to: Revision,
    },
    /// Have every bucket that is made from now on begin behind a revision: one of its name may have
    /// been there, and been lost as above. Of the whole shard, whatever bucket the command names;
    /// takes no revision, and never goes back.
    Base {
        /// The revision.
        to: Revision,
    },
}

/// One statement by one agent. The fields were read out of the statement before the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssertItem {
    /// The statement's id.
    pub id: StatementId,
    /// The statement's subject.
    pub subject: String,
    /// The statement's predicate.
    pub predicate: String,
    /// Who makes it.
    pub agent: AgentId,
    /// Its canonical JSON.
    pub statement: Bytes,
}

/// When a put or delete may go on, seen from the key's newest version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// Whatever is there.
    #[default]
    Always,
    /// The key is there (`If-Match: *`).
    Exists,
    /// The key is not there (`If-None-Match: *`).
    Absent,
    /// The key is there at one of these revisions (`If-Match: "7", "9"`).
    RevisionIn(Vec<Revision>),
    /// The key is not there, or at none of these revisions (`If-None-Match: "7"`).
    RevisionNotIn(Vec<Revision>),
}

impl Condition {
    /// Whether a key whose newest version is at `current` (`None`: not there) may be written.
    pub fn holds(&self, current: Option<Revision>) -> bool {
        match self {
            Condition::Always => true,
            Condition::Exists => current.is_some(),
            Condition::Absent => current.is_none(),
            Condition::RevisionIn(wanted) => current.is_some_and(|c| wanted.contains(&c)),
            Condition::RevisionNotIn(unwanted) => !current.is_some_and(|c| unwanted.contains(&c)),
        }
    }

    fn encode(&self, out: &mut Encoder) {
        let list = |out: &mut Encoder, tag, revisions: &[Revision]| {
            out.u8(tag);
            out.varint(revisions.len() as u64);
            for revision in revisions {
                out.varint(revision.0);
            }
        };
        match self {
            Condition::Always => out.u8(0),
            Condition::Exists => out.u8(1),
            Condition::Absent => out.u8(2),
            Condition::RevisionIn(revisions) => list(out, 3, revisions),
            Condition::RevisionNotIn(revisions) => list(out, 4, revisions),
        }
    }

    fn decode(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let list = |from: &mut Decoder<'_>| {
            let count = from.length(1)?;
            (0..count).map(|_| from.varint().map(Revision)).collect::<Result<Vec<_>, _>>()
        };
        Ok(match from.u8()? {
            0 => Condition::Always,
            1 => Condition::Exists,
            2 => Condition::Absent,
            3 => Condition::RevisionIn(list(from)?),
            4 => Condition::RevisionNotIn(list(from)?),
            got => return Err(DecodeError::Value { what: "a condition", got: got.into() }),
        })
    }
}

/// A command without a name is the bytes it always was.
const COMMAND_UNNAMED: u8 = 1;
/// With a name and what it stands for, between stamp and write.
const COMMAND_NAMED: u8 = 2;

const TAG_PUT: u8 = 1;
const TAG_DELETE: u8 = 2;
const TAG_ASSERT: u8 = 3;
// A put with an expiry has a tag of its own: one without is the bytes it always was.
const TAG_PUT_EXPIRING: u8 = 4;
const TAG_TOUCH: u8 = 5;
const TAG_EXPIRE: u8 = 6;
const TAG_COMPACT: u8 = 7;
const TAG_JUMP: u8 = 32;
const TAG_BASE: u8 = 33;

impl Command {
    /// The bytes of the log entry.
    pub fn encode(&self) -> Bytes {
        let value_bytes = match &self.write {
            Write::Put { key, value, .. } => key.as_bytes().len() + value.len(),
            Write::Delete { key, .. } | Write::Touch { key, .. } | Write::Expire { key, .. } => {
                key.as_bytes().len()
            }
            Write::Compact { .. } | Write::Jump { .. } | Write::Base { .. } => 0,
            Write::Assert { items } => items.iter().map(|i| i.statement.len() + 256).sum(),
        };
        let mut out = Encoder::with_capacity(value_bytes + 128);
        out.u8(if self.once.is_some() { COMMAND_NAMED } else { COMMAND_UNNAMED });
        out.varint(self.project.0);
        out.text(self.bucket.as_str());
        out.varint(self.at_ms);
        if let Some(once) = &self.once {
            once.encode(&mut out);
        }
        self.write.encode(&mut out);
        out.finish()
    }

    /// Reads what [`Command::encode`] wrote; values and statements share `input`'s memory.
    pub fn decode(input: &Bytes) -> Result<Self, DecodeError> {
        let mut from = Decoder::new(input);
        let version = from.version("command", COMMAND_NAMED)?;
        let project = ProjectId(from.varint()?);
        let bucket = decode_bucket(&mut from)?;
        let at_ms = from.varint()?;
        let once = match version {
            COMMAND_NAMED => Some(Once::decode(&mut from, input)?),
            _ => None,
        };
        let write = Write::decode(&mut from, input)?;
        from.finish()?;
        Ok(Self { project, bucket, at_ms, write, once })
    }
}

impl Once {
    /// Writes the bytes that [`Once::decode`] reads.
    pub fn encode(&self, out: &mut Encoder) {
        out.bytes(self.key.as_bytes());
        out.raw(&self.fingerprint.0);
    }

    /// Reads a write's name out of `from`, which reads `input`: the result shares its memory.
    pub fn decode(from: &mut Decoder<'_>, input: &Bytes) -> Result<Self, DecodeError> {
        let key = input.slice_ref(from.bytes()?);
        let refused = DecodeError::Value { what: "an idempotency key", got: key.len() as u64 };
        let key = IdempotencyKey::new(key).ok_or(refused)?;
        Ok(Self { key, fingerprint: Fingerprint::decode(from)? })
    }
}

impl Fingerprint {
    /// Reads its 32 bytes.
    pub fn decode(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(from.raw(32)?);
        Ok(Self(fingerprint))
    }
}

impl Write {
    /// Writes the bytes that [`Write::decode`] reads.
    pub fn encode(&self, out: &mut Encoder) {
        match self {
            Write::Put { key, value, condition, expires_at_ms } => {
                out.u8(if expires_at_ms.is_some() { TAG_PUT_EXPIRING } else { TAG_PUT });
                out.bytes(key.as_bytes());
                out.bytes(value);
                condition.encode(out);
                if let Some(at_ms) = expires_at_ms {
                    out.varint(*at_ms);
                }
            }
            Write::Touch { key, expires_at_ms } => {
                out.u8(TAG_TOUCH);
                out.bytes(key.as_bytes());
                out.varint(*expires_at_ms);
            }
            Write::Expire { key, lease } => {
                out.u8(TAG_EXPIRE);
                out.bytes(key.as_bytes());
                out.varint(lease.0);
            }
            Write::Compact { to } => {
                out.u8(TAG_COMPACT);
                out.varint(to.0);
            }
            Write::Jump { to } => {
                out.u8(TAG_JUMP);
                out.varint(to.0);
            }
            Write::Base { to } => {
                out.u8(TAG_BASE);
                out.varint(to.0);
            }
            Write::Delete { key, condition } => {
                out.u8(TAG_DELETE);
                out.bytes(key.as_bytes());
                condition.encode(out);
            }
            Write::Assert { items } => {
                out.u8(TAG_ASSERT);
                out.varint(items.len() as u64);
                for item in items {
                    item.encode(out);
                }
            }
        }
    }

    /// Reads a write out of `from`, which reads `input`: the result shares its memory.
    pub fn decode(from: &mut Decoder<'_>, input: &Bytes) -> Result<Self, DecodeError> {
        Ok(match from.u8()? {
            tag @ (TAG_PUT | TAG_PUT_EXPIRING) => Write::Put {
                key: decode_key(from, input)?,
                value: input.slice_ref(from.bytes()?),
                condition: Condition::decode(from)?,
                expires_at_ms: match tag {
                    TAG_PUT => None,
                    _ => Some(from.varint()?),
                },
            },
            TAG_TOUCH => {
                Write::Touch { key: decode_key(from, input)?, expires_at_ms: from.varint()? }
            }
            TAG_EXPIRE => {
                Write::Expire { key: decode_key(from, input)?, lease: Revision(from.varint()?) }
            }
            TAG_COMPACT => Write::Compact { to: Revision(from.varint()?) },
            TAG_JUMP => Write::Jump { to: Revision(from.varint()?) },
            TAG_BASE => Write::Base { to: Revision(from.varint()?) },
            TAG_DELETE => {
                Write::Delete { key: decode_key(from, input)?, condition: Condition::decode(from)? }
            }
            TAG_ASSERT => {
                let count = from.length(32)?;
                if count > ITEMS_MAX {
                    return Err(DecodeError::Value { what: "a count of items", got: count as u64 });
                }
                let items = (0..count).map(|_| AssertItem::decode(from, input));
                Write::Assert { items: items.collect::<Result<_, _>>()? }
            }
            got => return Err(DecodeError::Value { what: "a write", got: got.into() }),
        })
    }
}

impl AssertItem {
    fn encode(&self, out: &mut Encoder) {
        out.raw(&self.id.0);
        out.text(&self.subject);
        out.text(&self.predicate);
        out.text(&self.agent.to_string());
        out.bytes(&self.statement);
    }

    fn decode(from: &mut Decoder<'_>, input: &Bytes) -> Result<Self, DecodeError> {
        Ok(Self {
            id: decode_id(from)?,
            subject: from.text("a subject")?.to_owned(),
            predicate: from.text("a predicate")?.to_owned(),
            agent: decode_agent(from)?,
            statement: input.slice_ref(from.bytes()?),
        })
    }
}

pub(super) fn decode_bucket(from: &mut Decoder<'_>) -> Result<BucketName, DecodeError> {
    let refused = DecodeError::Value { what: "a bucket name", got: 0 };
    from.text("a bucket name")?.parse().map_err(|_| refused)
}

pub(super) fn decode_key(from: &mut Decoder<'_>, input: &Bytes) -> Result<Key, DecodeError> {
    let bytes = input.slice_ref(from.bytes()?);
    let got = bytes.len() as u64;
    Key::new(bytes).map_err(|_| DecodeError::Value { what: "a key's length", got })
}

pub(super) fn decode_id(from: &mut Decoder<'_>) -> Result<StatementId, DecodeError> {
    let mut id = [0; 32];
    id.copy_from_slice(from.raw(32)?);
    Ok(StatementId(id))
}

pub(super) fn decode_agent(from: &mut Decoder<'_>) -> Result<AgentId, DecodeError> {
    let refused = DecodeError::Value { what: "an agent", got: 0 };
    from.text("an agent")?.parse().map_err(|_| refused)
}
