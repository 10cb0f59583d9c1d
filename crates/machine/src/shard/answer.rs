//! What a write gives back, and its bytes between peers.

use stemedb_types::{DecodeError, Decoder, Encoder, Revision};

/// What became of a write. All but the failed ones took a revision or needed none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The key has the value.
    Put {
        /// The write's revision: the key's new ETag.
        revision: Revision,
        /// The key was not there before.
        created: bool,
    },
    /// The key is gone.
    Deleted {
        /// The write's revision.
        revision: Revision,
    },
    /// There was no such key to delete; nothing changed.
    NotFound {
        /// The bucket's newest revision.
        revision: Revision,
    },
    /// The condition did not hold; nothing changed.
    PreconditionFailed {
        /// The bucket's newest revision.
        revision: Revision,
        /// The key's revision now; `None` if it is not there.
        current: Option<Revision>,
    },
    /// The statements stand.
    Asserted {
        /// The write's revision, or the bucket's newest if all were known.
        revision: Revision,
        /// One for each statement, in the order of the call.
        items: Vec<AssertStatus>,
    },
    /// The key lives until its new time.
    Touched {
        /// The touch's revision.
        revision: Revision,
        /// The key's ETag, which a touch leaves as it is.
        current: Revision,
    },
    /// The bucket's floor is at least where the command could move it.
    Compacted {
        /// The bucket's newest revision.
        revision: Revision,
        /// Its floor now. Below the one asked for: ask again.
        floor: Revision,
    },
    /// What a write of this name was answered before; nothing changed. Never inside another.
    Replayed(Box<Answer>),
    /// A write of this name was something else; nothing changed.
    Mismatch {
        /// The revision its answer was about.
        revision: Revision,
    },
}

/// What became of one statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AssertStatus {
    /// This agent had not made it before.
    Created,
    /// This agent had: nothing changed.
    Known,
}

const REPLAYED: u8 = 8;

impl Answer {
    /// The revision the answer is about.
    pub fn revision(&self) -> Revision {
        match self {
            Answer::Put { revision, .. }
            | Answer::Deleted { revision }
            | Answer::NotFound { revision }
            | Answer::PreconditionFailed { revision, .. }
            | Answer::Asserted { revision, .. }
            | Answer::Touched { revision, .. }
            | Answer::Compacted { revision, .. }
            | Answer::Mismatch { revision } => *revision,
            Answer::Replayed(answer) => answer.revision(),
        }
    }

    /// Writes the bytes that [`Answer::decode`] reads.
    pub fn encode(&self, out: &mut Encoder) {
        match self {
            Answer::Put { revision, created } => {
                out.u8(1);
                out.varint(revision.0);
                out.bool(*created);
            }
            Answer::Deleted { revision } => {
                out.u8(2);
                out.varint(revision.0);
            }
            Answer::NotFound { revision } => {
                out.u8(3);
                out.varint(revision.0);
            }
            Answer::PreconditionFailed { revision, current } => {
                out.u8(4);
                out.varint(revision.0);
                out.option(*current, |out, current| out.varint(current.0));
            }
            Answer::Asserted { revision, items } => {
                out.u8(5);
                out.varint(revision.0);
                out.varint(items.len() as u64);
                for item in items {
                    out.bool(*item == AssertStatus::Created);
                }
            }
            Answer::Touched { revision, current } => {
                out.u8(6);
                out.varint(revision.0);
                out.varint(current.0);
            }
            Answer::Compacted { revision, floor } => {
                out.u8(7);
                out.varint(revision.0);
                out.varint(floor.0);
            }
            Answer::Replayed(answer) => {
                out.u8(REPLAYED);
                answer.encode(out);
            }
            Answer::Mismatch { revision } => {
                out.u8(9);
                out.varint(revision.0);
            }
        }
    }

    /// Reads what [`Answer::encode`] wrote.
    pub fn decode(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        match from.u8()? {
            REPLAYED => {
                let tag = from.u8()?;
                Self::decode_behind(tag, from).map(|answer| Answer::Replayed(Box::new(answer)))
            }
            tag => Self::decode_behind(tag, from),
        }
    }

    /// Reads an answer that is no replay of another.
    fn decode_behind(tag: u8, from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let refused = DecodeError::Value { what: "an answer", got: tag.into() };
        if !(1..=9).contains(&tag) || tag == REPLAYED {
            return Err(refused);
        }
        let revision = Revision(from.varint()?);
        Ok(match tag {
            1 => Answer::Put { revision, created: from.bool()? },
            2 => Answer::Deleted { revision },
            3 => Answer::NotFound { revision },
            4 => {
                let current = from.option(|from| from.varint().map(Revision))?;
                Answer::PreconditionFailed { revision, current }
            }
            5 => {
                let count = from.length(1)?;
                let status = |created| {
                    if created { AssertStatus::Created } else { AssertStatus::Known }
                };
                let items = (0..count).map(|_| from.bool().map(status));
                Answer::Asserted { revision, items: items.collect::<Result<_, _>>()? }
            }
            6 => Answer::Touched { revision, current: Revision(from.varint()?) },
            7 => Answer::Compacted { revision, floor: Revision(from.varint()?) },
            9 => Answer::Mismatch { revision },
            _ => return Err(refused),
        })
    }
}
