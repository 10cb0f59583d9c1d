//! What `proto/peer.proto` compiles to, and the codec that guards it.
//!
//! The generated decoder would turn every two bytes `12 00` of a hostile
//! frame into a 32-byte `Bytes`: seventeen mebibytes become a quarter of a
//! gibibyte before anybody has proven who they are. [`FrameDecoder`] reads
//! the same wire format with three bounds more: the first frames of a stream
//! are the handshake's and small, a head is bounded by itself, and a frame
//! never has more payloads than its head has bytes to describe them with. Payloads stay slices of the
//! received buffer.

use bytes::{Buf, Bytes};
use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all)]
mod generated {
    tonic::include_proto!("stemedb.peer.v1");
}

pub(crate) use generated::Frame;
pub(crate) use generated::peer_client::PeerClient;
pub(crate) use generated::peer_server::{Peer, PeerServer};

/// Frames each way that belong to the handshake.
const HANDSHAKE_FRAMES: u8 = 2;
/// Longest frame of the handshake, in bytes.
const HANDSHAKE_FRAME_BYTES_MAX: usize = 4 * 1024;
/// What the outgoing buffer starts with; it grows to the frame that goes into it.
const BUFFER_BYTES: usize = 16 * 1024;
/// Longest head of any frame, in bytes: the frames of this build stay under half of it.
const HEAD_BYTES_MAX: usize = 1024 * 1024;
/// Encoded frames stop being gathered into one HTTP/2 write beyond this.
const GATHER_BYTES: usize = 64 * 1024;

/// The codec that the generated client and server name.
#[derive(Debug, Default)]
pub(crate) struct FrameCodec;

impl Codec for FrameCodec {
    type Encode = Frame;
    type Decode = Frame;
    type Encoder = FrameEncoder;
    type Decoder = FrameDecoder;

    fn encoder(&mut self) -> FrameEncoder {
        FrameEncoder
    }

    fn decoder(&mut self) -> FrameDecoder {
        FrameDecoder { frames: 0 }
    }
}

/// Writes a frame as prost does, after making room for it in one step.
#[derive(Debug)]
pub(crate) struct FrameEncoder;

impl Encoder for FrameEncoder {
    type Item = Frame;
    type Error = Status;

    fn encode(&mut self, frame: Frame, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.reserve(frame.encoded_len());
        frame.encode(out).map_err(|e| Status::internal(e.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER_BYTES, GATHER_BYTES)
    }
}

/// Reads a frame within the bounds of the module's story.
#[derive(Debug)]
pub(crate) struct FrameDecoder {
    frames: u8,
}

impl Decoder for FrameDecoder {
    type Item = Frame;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Frame>, Status> {
        let handshake = self.frames < HANDSHAKE_FRAMES;
        if handshake && from.remaining() > HANDSHAKE_FRAME_BYTES_MAX {
            return Err(Status::resource_exhausted(
                "a frame this long before the handshake is over",
            ));
        }
        self.frames = self.frames.saturating_add(1);
        read_frame(from).map(Some)
    }
}

/// Reads one frame to the end of `from`. Unknown fields are skipped, as protobuf asks.
fn read_frame(from: &mut impl Buf) -> Result<Frame, Status> {
    let mut frame = Frame::default();
    while from.has_remaining() {
        let (tag, wire_type) = decode_key(from).map_err(malformed)?;
        match (tag, wire_type) {
            (1, WireType::LengthDelimited) => frame.head = read_bytes(from, HEAD_BYTES_MAX)?,
            (2, WireType::LengthDelimited) if frame.payload.len() < frame.head.len() => {
                frame.payload.push(read_bytes(from, usize::MAX)?);
            }
            (2, WireType::LengthDelimited) => {
                return Err(Status::invalid_argument("a frame has payloads without a head"));
            }
            _ => skip_field(wire_type, tag, from, DecodeContext::default()).map_err(malformed)?,
        }
    }
    Ok(frame)
}

fn read_bytes(from: &mut impl Buf, bytes_max: usize) -> Result<Bytes, Status> {
    let length = decode_varint(from).map_err(malformed)?;
    match usize::try_from(length) {
        Ok(length) if length <= from.remaining().min(bytes_max) => Ok(from.copy_to_bytes(length)),
        _ => Err(Status::invalid_argument("a field runs past its bound")),
    }
}

fn malformed(error: prost::DecodeError) -> Status {
    Status::invalid_argument(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(head: &[u8], payload: &[&[u8]]) -> Frame {
        let payload = payload.iter().map(|p| Bytes::copy_from_slice(p)).collect();
        Frame { head: Bytes::copy_from_slice(head), payload }
    }

    #[test]
    fn payloads_are_slices_of_the_received_buffer() {
        let mut received = Bytes::from(frame(b"head", &[b"one", b"two"]).encode_to_vec());
        let whole = received.as_ptr_range();
        let read = read_frame(&mut received).unwrap();
        assert_eq!(read, frame(b"head", &[b"one", b"two"]));
        assert!(read.payload.iter().all(|p| whole.contains(&p.as_ptr())));
    }

    #[test]
    fn a_field_of_a_later_version_is_skipped() {
        let mut bytes = frame(b"head", &[b"one"]).encode_to_vec();
        prost::encoding::uint64::encode(9, &7, &mut bytes);
        assert_eq!(read_frame(&mut Bytes::from(bytes)).unwrap(), frame(b"head", &[b"one"]));
    }

    #[test]
    fn more_payloads_than_the_head_can_describe_are_refused() {
        let mut bytes = Bytes::from(frame(b"ab", &[b"", b"", b""]).encode_to_vec());
        assert!(read_frame(&mut bytes).is_err());
    }

    #[test]
    fn a_head_beyond_its_bound_is_refused() {
        let long = vec![0; HEAD_BYTES_MAX + 1];
        assert!(read_frame(&mut Bytes::from(frame(&long, &[]).encode_to_vec())).is_err());
    }

    proptest! {
        #[test]
        fn what_is_written_is_what_is_read(
            head in proptest::collection::vec(any::<u8>(), 8..64),
            payload in proptest::collection::vec(any::<Vec<u8>>(), 0..8),
        ) {
            let payload = payload.into_iter().map(Bytes::from).collect();
            let frame = Frame { head: head.into(), payload };
            let read = read_frame(&mut Bytes::from(frame.encode_to_vec()));
            prop_assert_eq!(read.unwrap(), frame);
        }

        #[test]
        fn junk_never_panics(junk in any::<Vec<u8>>()) {
            let _ = read_frame(&mut Bytes::from(junk));
        }
    }
}
