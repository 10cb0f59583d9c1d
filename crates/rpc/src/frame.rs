//! Messages into frames, and frames into messages; pure.
//!
//! The head of a frame is one tag byte and then the headers of its messages,
//! back to back; the payloads stand beside it in the same order, one for each
//! header that has one. A request costs about ten bytes of head. Nothing is
//! copied but the head: payloads go in and come out as `Bytes`.
//!
//! A frame that is not exactly right is refused whole, and the stream with it:
//! between two ends that have met there is no harmless damage.

use bytes::Bytes;
use stemedb_types::{DecodeError, Decoder, Encoder, GroupId, ReplicaId};

use crate::limits::REFUSAL_TEXT_BYTES_MAX;
use crate::message::{Envelope, Lane, Refusal};
use crate::mismatch::cut;
use crate::wire::Frame;

/// Head tags; 1 to 5 belong to the handshake.
const MESSAGES: u8 = 16;
const CHUNK: u8 = 17;
const END: u8 = 18;

/// Header tags inside a frame of messages.
const REQUEST_NORMAL: u8 = 1;
const REQUEST_URGENT: u8 = 2;
const ANSWER_OK: u8 = 3;
const ANSWER_REFUSED: u8 = 4;
const ANSWER_DROPPED: u8 = 5;

/// What a header costs beside its payload, about; keeps a frame of empty payloads bounded.
pub(crate) const HEADER_BYTES: usize = 32;

/// What a handler made of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It answered.
    Ok(Bytes),
    /// It said no.
    Refused(Refusal),
    /// It let go of the reply.
    Dropped,
}

impl Answer {
    /// Bytes it holds while it waits to be sent.
    pub(crate) fn bytes(&self) -> usize {
        HEADER_BYTES
            + match self {
                Answer::Ok(payload) => payload.len(),
                Answer::Refused(refusal) => refusal.text.len(),
                Answer::Dropped => 0,
            }
    }
}

/// One message of a frame. Ids are given by the asking side and unique in its stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// A question.
    Request {
        /// Names the answer.
        id: u64,
        /// Where the answer waits.
        lane: Lane,
        /// What is asked.
        envelope: Envelope,
    },
    /// What came of one.
    Answer {
        /// The question's id.
        id: u64,
        /// What came of it.
        answer: Answer,
    },
}

/// A frame behind the handshake.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// Requests one way, answers the other.
    Messages(Vec<Message>),
    /// A piece of a snapshot.
    Chunk(Bytes),
    /// The end of a snapshot.
    End {
        /// Sum of the chunks' lengths.
        total_bytes: u64,
    },
}

/// Gathers messages into one frame.
pub(crate) struct FrameBuilder {
    head: Encoder,
    payload: Vec<Bytes>,
}

impl FrameBuilder {
    /// An empty frame of messages.
    pub(crate) fn new() -> Self {
        let mut head = Encoder::with_capacity(64);
        head.u8(MESSAGES);
        Self { head, payload: Vec::new() }
    }

    /// Adds a question.
    pub(crate) fn request(&mut self, id: u64, lane: Lane, envelope: Envelope) {
        self.head.u8(match lane {
            Lane::Normal => REQUEST_NORMAL,
            Lane::Urgent => REQUEST_URGENT,
        });
        self.head.varint(id);
        self.head.varint(u64::from(envelope.group.0));
        self.head.varint(envelope.from.0);
        self.head.varint(envelope.to.0);
        self.head.u8(envelope.kind);
        self.payload.push(envelope.payload);
    }

    /// Adds what came of one.
    pub(crate) fn answer(&mut self, id: u64, answer: Answer) {
        match answer {
            Answer::Ok(payload) => {
                self.head.u8(ANSWER_OK);
                self.head.varint(id);
                self.payload.push(payload);
            }
            Answer::Refused(refusal) => {
                self.head.u8(ANSWER_REFUSED);
                self.head.varint(id);
                self.head.u8(refusal.code);
                self.head.text(cut(&refusal.text, REFUSAL_TEXT_BYTES_MAX));
            }
            Answer::Dropped => {
                self.head.u8(ANSWER_DROPPED);
                self.head.varint(id);
            }
        }
    }

    /// The frame.
    pub(crate) fn finish(self) -> Frame {
        Frame { head: self.head.finish(), payload: self.payload }
    }
}

/// A frame with one piece of a snapshot.
pub(crate) fn chunk(bytes: Bytes) -> Frame {
    Frame { head: Bytes::from_static(&[CHUNK]), payload: vec![bytes] }
}

/// The frame behind the last piece.
pub(crate) fn end(total_bytes: u64) -> Frame {
    let mut head = Encoder::new();
    head.u8(END);
    head.varint(total_bytes);
    Frame { head: head.finish(), payload: Vec::new() }
}

/// Takes a frame apart, or refuses all of it.
pub(crate) fn read(frame: Frame) -> Result<Content, DecodeError> {
    let mut head = Decoder::new(&frame.head);
    let mut payload = frame.payload.into_iter();
    let content = match head.u8()? {
        MESSAGES => Content::Messages(read_messages(&mut head, &mut payload)?),
        CHUNK => Content::Chunk(take(&mut payload)?),
        END => Content::End { total_bytes: head.varint()? },
        got => return Err(DecodeError::Value { what: "the tag of a frame", got: u64::from(got) }),
    };
    head.finish()?;
    match payload.len() {
        0 => Ok(content),
        left => Err(DecodeError::Value { what: "the number of payloads left", got: left as u64 }),
    }
}

type Payloads = std::vec::IntoIter<Bytes>;

fn take(payload: &mut Payloads) -> Result<Bytes, DecodeError> {
    payload.next().ok_or(DecodeError::Short { missing_bytes: 1 })
}

fn read_messages(
    head: &mut Decoder<'_>,
    payload: &mut Payloads,
) -> Result<Vec<Message>, DecodeError> {
    let mut messages = Vec::with_capacity(payload.len());
    while !head.left().is_empty() {
        messages.push(read_message(head, payload)?);
    }
    Ok(messages)
}

fn read_message(head: &mut Decoder<'_>, payload: &mut Payloads) -> Result<Message, DecodeError> {
    let tag = head.u8()?;
    let id = head.varint()?;
    let answer = match tag {
        REQUEST_NORMAL => return read_request(id, Lane::Normal, head, payload),
        REQUEST_URGENT => return read_request(id, Lane::Urgent, head, payload),
        ANSWER_OK => Answer::Ok(take(payload)?),
        ANSWER_REFUSED => {
            Answer::Refused(Refusal { code: head.u8()?, text: head.text("a refusal")?.to_owned() })
        }
        ANSWER_DROPPED => Answer::Dropped,
        got => {
            return Err(DecodeError::Value { what: "the tag of a message", got: u64::from(got) });
        }
    };
    Ok(Message::Answer { id, answer })
}

fn read_request(
    id: u64,
    lane: Lane,
    head: &mut Decoder<'_>,
    payload: &mut Payloads,
) -> Result<Message, DecodeError> {
    let group = head.varint()?;
    let group =
        u32::try_from(group).map_err(|_| DecodeError::Value { what: "a group", got: group })?;
    let envelope = Envelope {
        group: GroupId(group),
        from: ReplicaId(head.varint()?),
        to: ReplicaId(head.varint()?),
        kind: head.u8()?,
        payload: take(payload)?,
    };
    Ok(Message::Request { id, lane, envelope })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_message() -> impl Strategy<Value = Message> {
        let bytes = || any::<Vec<u8>>().prop_map(Bytes::from);
        let address = (any::<u32>(), any::<u64>(), any::<u64>(), any::<u8>(), bytes());
        let envelope = address.prop_map(|(group, from, to, kind, payload)| Envelope {
            group: GroupId(group),
            from: ReplicaId(from),
            to: ReplicaId(to),
            kind,
            payload,
        });
        let lane = prop_oneof![Just(Lane::Urgent), Just(Lane::Normal)];
        let answer = prop_oneof![
            bytes().prop_map(Answer::Ok),
            (any::<u8>(), ".{0,40}")
                .prop_map(|(code, text)| Answer::Refused(Refusal::new(code, text))),
            Just(Answer::Dropped),
        ];
        prop_oneof![
            (any::<u64>(), lane, envelope).prop_map(|(id, lane, envelope)| Message::Request {
                id,
                lane,
                envelope
            }),
            (any::<u64>(), answer).prop_map(|(id, answer)| Message::Answer { id, answer }),
        ]
    }

    fn build(messages: &[Message]) -> Frame {
        let mut frame = FrameBuilder::new();
        for message in messages.iter().cloned() {
            match message {
                Message::Request { id, lane, envelope } => frame.request(id, lane, envelope),
                Message::Answer { id, answer } => frame.answer(id, answer),
            }
        }
        frame.finish()
    }

    #[test]
    fn the_end_of_a_snapshot_reads_back() {
        assert_eq!(read(end(300)), Ok(Content::End { total_bytes: 300 }));
        let piece = Bytes::from_static(b"piece");
        assert_eq!(read(chunk(piece.clone())), Ok(Content::Chunk(piece)));
    }

    #[test]
    fn a_long_refusal_is_cut_and_still_reads() {
        let text = "ü".repeat(REFUSAL_TEXT_BYTES_MAX);
        let long = Message::Answer { id: 1, answer: Answer::Refused(Refusal::new(2, &text)) };
        let half = text[..REFUSAL_TEXT_BYTES_MAX].to_owned();
        let short = Message::Answer { id: 1, answer: Answer::Refused(Refusal::new(2, half)) };
        assert_eq!(read(build(&[long])), Ok(Content::Messages(vec![short])));
    }

    #[test]
    fn a_payload_too_few_or_too_many_is_refused() {
        let answer = Answer::Ok(Bytes::from_static(b"yes"));
        let whole = build(&[Message::Answer { id: 1, answer }]);
        let few = Frame { payload: vec![], ..whole.clone() };
        let many =
            Frame { payload: [whole.payload.clone(), whole.payload.clone()].concat(), ..whole };
        assert!(read(few).is_err());
        assert!(read(many).is_err());
    }

    proptest! {
        #[test]
        fn what_is_written_is_what_is_read(
            messages in proptest::collection::vec(any_message(), 0..20),
        ) {
            prop_assert_eq!(read(build(&messages)), Ok(Content::Messages(messages)));
        }

        #[test]
        fn a_cut_head_never_reads_as_the_whole(
            messages in proptest::collection::vec(any_message(), 1..5), cut in any::<usize>(),
        ) {
            let mut frame = build(&messages);
            frame.head.truncate(cut % frame.head.len());
            prop_assert_ne!(read(frame), Ok(Content::Messages(messages)));
        }

        #[test]
        fn junk_never_panics(
            tag in 14u8..20, junk in any::<Vec<u8>>(), payload in any::<Vec<Vec<u8>>>(),
        ) {
            let head = [vec![tag], junk].concat().into();
            let _ = read(Frame { head, payload: payload.into_iter().map(Bytes::from).collect() });
        }
    }
}
