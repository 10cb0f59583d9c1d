//! What stands inside the envelope.
//!
//! ```text
//! version (1) | kind (1) | body
//!   swim    a packet of foca's: header, then a big-endian count and that many members, then
//!           items of news, each behind a big-endian length
//!   knock   identity of the asker
//!   answer  identity of the one asked, then maybe the newest life it knows of the asker
//!   foreign cluster of the one asked, which the asker is no member of
//! ```
//!
//! Why knocking exists: foca hands an announce only to the identity it is addressed to, and our
//! identities are node ids, which nobody knows who only has a host name. So a node first asks an
//! address "who are you", and announces itself to the identity in the answer. The answer also
//! tells the asker of its own ghost: a node that lost its saved incarnation and whose clock went
//! back learns the number it has to beat, instead of climbing to it one refusal at a time.
//!
//! One version covers all three kinds, and a packet of a newer one is refused whole: gossip is
//! repeated anyway, so a mixed cluster must speak the older version until all can speak the newer.

use bytes::{Buf, BufMut};
use foca::{Header, Incarnation, Member, Message, State};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use stemedb_types::{ClusterId, DecodeError, Decoder, Encoder, NodeId};

use crate::identity::Identity;
use crate::seal::SEAL_BYTES;

/// The largest UDP payload we send or take: below every Ethernet path's MTU.
pub(crate) const DATAGRAM_BYTES_MAX: usize = 1400;

/// What is left of it for foca.
pub(crate) const SWIM_BYTES_MAX: usize = DATAGRAM_BYTES_MAX - SEAL_BYTES - FRAME_BYTES;

const FRAME_BYTES: usize = 2;
const VERSION: u8 = 1;
const SWIM: u8 = 1;
const KNOCK: u8 = 2;
const ANSWER: u8 = 3;
const FOREIGN: u8 = 4;

/// An identity on the wire is never shorter: node, incarnation, no cluster, IPv4, two ports.
const MEMBER_BYTES_MIN: usize = 8 + 1 + 1 + 5 + 1 + 1 + 1 + 1;

/// One opened packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame<'a> {
    /// foca's own bytes, not looked into yet.
    Swim(&'a [u8]),
    /// "Who are you?"
    Knock { from: Identity },
    /// "This is me, and this is the newest life of yours that I know."
    Answer { from: Identity, known: Option<Identity> },
    /// "You belong to another cluster than this one."
    Foreign { cluster: ClusterId },
}

impl<'a> Frame<'a> {
    /// The frame's bytes, to be sealed.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::with_capacity(128);
        out.u8(VERSION);
        match self {
            Frame::Swim(packet) => {
                out.u8(SWIM);
                out.raw(packet);
            }
            Frame::Knock { from } => {
                out.u8(KNOCK);
                put_identity(&mut out, from);
            }
            Frame::Answer { from, known } => {
                out.u8(ANSWER);
                put_identity(&mut out, from);
                out.option(known.as_ref(), put_identity);
            }
            Frame::Foreign { cluster } => {
                out.u8(FOREIGN);
                out.u128(cluster.0);
            }
        }
        out.into_vec()
    }

    /// Takes an opened packet apart.
    pub(crate) fn decode(plain: &'a [u8]) -> Result<Self, DecodeError> {
        let mut from = Decoder::new(plain);
        from.version("a gossip packet", VERSION)?;
        let frame = match from.u8()? {
            SWIM => return Ok(Frame::Swim(from.left())),
            KNOCK => Frame::Knock { from: take_identity(&mut from)? },
            ANSWER => Frame::Answer {
                from: take_identity(&mut from)?,
                known: from.option(take_identity)?,
            },
            FOREIGN => Frame::Foreign { cluster: ClusterId(from.u128()?) },
            got => return Err(value("a gossip packet's kind", got)),
        };
        from.finish()?;
        Ok(frame)
    }
}

/// A packet of foca's, read before foca reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub header: Header<Identity>,
    /// Empty in a message that carries none.
    pub members: Vec<Member<Identity>>,
    /// The items of news as they came, lengths included; empty in a message that carries none.
    pub news: Vec<u8>,
}

impl Packet {
    /// Reads all of it; what stands behind the end, or where no item of news is whole, is refused.
    /// What an item says is not looked at.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut from = Decoder::new(bytes);
        let header = take_header(&mut from)?;
        let mut members = Vec::new();
        if carries_members(&header.message) && !from.left().is_empty() {
            let count = usize::from(take_count(&mut from)?);
            let left_bytes = from.left().len();
            if count > left_bytes / MEMBER_BYTES_MIN {
                return Err(DecodeError::Length { length: count as u64, left_bytes });
            }
            members.reserve(count);
            for _ in 0..count {
                members.push(take_member(&mut from)?);
            }
        }
        let mut news = Vec::new();
        if carries_news(&header.message) {
            news.extend_from_slice(from.left());
            skip_items(&mut from)?;
        }
        from.finish()?;
        Ok(Self { header, members, news })
    }

    /// The bytes foca would have sent.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::with_capacity(SWIM_BYTES_MAX);
        put_header(&mut out, &self.header);
        // Nothing may be left out but the end: news without members stands behind a count of 0.
        let is_bare = self.members.is_empty() && self.news.is_empty();
        if carries_members(&self.header.message) && !is_bare {
            let count = u16::try_from(self.members.len()).unwrap_or(u16::MAX);
            out.raw(&count.to_be_bytes());
            self.members.iter().take(usize::from(count)).for_each(|m| put_member(&mut out, m));
        }
        if carries_news(&self.header.message) {
            out.raw(&self.news);
        }
        out.into_vec()
    }
}

/// Whether foca puts a count and members behind a message's header.
fn carries_members(message: &Message<Identity>) -> bool {
    !matches!(message, Message::Announce | Message::TurnUndead | Message::Broadcast)
}

/// Whether foca puts custom broadcasts, which are our news, at a message's end.
fn carries_news(message: &Message<Identity>) -> bool {
    !matches!(message, Message::Announce | Message::TurnUndead)
}

/// foca counts in the network's byte order.
fn take_count(from: &mut Decoder<'_>) -> Result<u16, DecodeError> {
    Ok(u16::from_be_bytes([from.u8()?, from.u8()?]))
}

/// Moves past whole items of news, up to the end.
fn skip_items(from: &mut Decoder<'_>) -> Result<(), DecodeError> {
    while !from.left().is_empty() {
        let length = take_count(from)?;
        if length == 0 {
            return Err(value("the length of an item of news", 0));
        }
        from.raw(usize::from(length))?;
    }
    Ok(())
}

/// How foca's headers and members become bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Codec;

/// Why the codec gave up. Nothing was written or taken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CodecError {
    /// The packet is full: foca stops adding members there.
    #[error("{missing_bytes} bytes do not fit into the packet")]
    Full { missing_bytes: usize },
    /// Junk, or a packet of another format.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

impl foca::Codec<Identity> for Codec {
    type Error = CodecError;

    fn encode_header(
        &mut self,
        header: &Header<Identity>,
        buf: impl BufMut,
    ) -> Result<(), CodecError> {
        let mut out = Encoder::with_capacity(128);
        put_header(&mut out, header);
        write(out, buf)
    }

    fn decode_header(&mut self, buf: impl Buf) -> Result<Header<Identity>, CodecError> {
        read(buf, take_header)
    }

    fn encode_member(
        &mut self,
        member: &Member<Identity>,
        buf: impl BufMut,
    ) -> Result<(), CodecError> {
        let mut out = Encoder::with_capacity(64);
        put_member(&mut out, member);
        write(out, buf)
    }

    fn decode_member(&mut self, buf: impl Buf) -> Result<Member<Identity>, CodecError> {
        read(buf, take_member)
    }
}

/// All of `out` or nothing: foca relies on a refused member leaving no bytes behind.
fn write(out: Encoder, mut buf: impl BufMut) -> Result<(), CodecError> {
    let bytes = out.as_slice();
    let missing_bytes = bytes.len().saturating_sub(buf.remaining_mut());
    if missing_bytes > 0 {
        return Err(CodecError::Full { missing_bytes });
    }
    buf.put_slice(bytes);
    Ok(())
}

/// Reads one item off the front and moves past exactly its bytes (foca's buffers are contiguous).
fn read<T>(
    mut buf: impl Buf,
    take: impl FnOnce(&mut Decoder<'_>) -> Result<T, DecodeError>,
) -> Result<T, CodecError> {
    let chunk = buf.chunk();
    let mut from = Decoder::new(chunk);
    let item = take(&mut from)?;
    let taken_bytes = chunk.len() - from.left().len();
    buf.advance(taken_bytes);
    Ok(item)
}

fn put_header(out: &mut Encoder, header: &Header<Identity>) {
    put_identity(out, &header.src);
    out.varint(u64::from(header.src_incarnation));
    put_identity(out, &header.dst);
    let (tag, other, probe) = match &header.message {
        Message::Ping(probe) => (1, None, Some(probe)),
        Message::Ack(probe) => (2, None, Some(probe)),
        Message::PingReq { target, probe_number } => (3, Some(target), Some(probe_number)),
        Message::IndirectPing { origin, probe_number } => (4, Some(origin), Some(probe_number)),
        Message::IndirectAck { target, probe_number } => (5, Some(target), Some(probe_number)),
        Message::ForwardedAck { origin, probe_number } => (6, Some(origin), Some(probe_number)),
        Message::Announce => (7, None, None),
        Message::Feed => (8, None, None),
        Message::Gossip => (9, None, None),
        Message::Broadcast => (10, None, None),
        Message::TurnUndead => (11, None, None),
    };
    out.u8(tag);
    if let Some(other) = other {
        put_identity(out, other);
    }
    if let Some(&probe) = probe {
        out.u8(probe);
    }
}

fn take_header(from: &mut Decoder<'_>) -> Result<Header<Identity>, DecodeError> {
    let src = take_identity(from)?;
    let src_incarnation = take_u16(from, "a member's incarnation")?;
    let dst = take_identity(from)?;
    let message = match from.u8()? {
        1 => Message::Ping(from.u8()?),
        2 => Message::Ack(from.u8()?),
        3 => Message::PingReq { target: take_identity(from)?, probe_number: from.u8()? },
        4 => Message::IndirectPing { origin: take_identity(from)?, probe_number: from.u8()? },
        5 => Message::IndirectAck { target: take_identity(from)?, probe_number: from.u8()? },
        6 => Message::ForwardedAck { origin: take_identity(from)?, probe_number: from.u8()? },
        7 => Message::Announce,
        8 => Message::Feed,
        9 => Message::Gossip,
        10 => Message::Broadcast,
        11 => Message::TurnUndead,
        got => return Err(value("a gossip message", got)),
    };
    Ok(Header { src, src_incarnation, dst, message })
}

fn put_member(out: &mut Encoder, member: &Member<Identity>) {
    put_identity(out, member.id());
    out.varint(u64::from(member.incarnation()));
    out.u8(match member.state() {
        State::Alive => 1,
        State::Suspect => 2,
        State::Down => 3,
    });
}

fn take_member(from: &mut Decoder<'_>) -> Result<Member<Identity>, DecodeError> {
    let id = take_identity(from)?;
    let incarnation: Incarnation = take_u16(from, "a member's incarnation")?;
    let state = match from.u8()? {
        1 => State::Alive,
        2 => State::Suspect,
        3 => State::Down,
        got => return Err(value("a member's state", got)),
    };
    Ok(Member::new(id, incarnation, state))
}

fn put_identity(out: &mut Encoder, id: &Identity) {
    out.u64(id.node.0);
    out.varint(id.incarnation);
    out.option(id.cluster, |out, cluster| out.u128(cluster.0));
    match id.gossip.ip() {
        IpAddr::V4(ip) => {
            out.u8(4);
            out.raw(&ip.octets());
        }
        IpAddr::V6(ip) => {
            out.u8(6);
            out.u128(ip.to_bits());
        }
    }
    out.varint(u64::from(id.gossip.port()));
    out.varint(u64::from(id.grpc_port));
}

/// Refuses an address nothing can be sent to: the unspecified one would come back to ourselves.
fn take_identity(from: &mut Decoder<'_>) -> Result<Identity, DecodeError> {
    let node = NodeId(from.u64()?);
    let incarnation = from.varint()?;
    let cluster = from.option(Decoder::u128)?.map(ClusterId);
    let ip = match from.u8()? {
        4 => IpAddr::V4(Ipv4Addr::from_bits(from.u32()?.swap_bytes())),
        6 => IpAddr::V6(Ipv6Addr::from_bits(from.u128()?)),
        got => return Err(value("an address family", got)),
    };
    let gossip = SocketAddr::new(ip, take_u16(from, "a gossip port")?);
    let grpc_port = take_u16(from, "a gRPC port")?;
    if gossip.port() == 0 || ip.is_unspecified() {
        return Err(value("a gossip address", 0));
    }
    Ok(Identity { node, incarnation, cluster, gossip, grpc_port })
}

/// A varint that must be a `u16`.
pub(crate) fn take_u16(from: &mut Decoder<'_>, what: &'static str) -> Result<u16, DecodeError> {
    let got = from.varint()?;
    u16::try_from(got).map_err(|_| DecodeError::Value { what, got })
}

fn value(what: &'static str, got: u8) -> DecodeError {
    DecodeError::Value { what, got: u64::from(got) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use foca::Codec as _;
    use proptest::prelude::*;

    prop_compose! {
        fn an_identity()(
            node in any::<u64>(), incarnation in any::<u64>(), cluster in any::<Option<u128>>(),
            ip in any::<IpAddr>(), port in 1..=u16::MAX, grpc_port in any::<u16>(),
        ) -> Identity {
            let ip = if ip.is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { ip };
            let gossip = SocketAddr::new(ip, port);
            Identity {
                node: NodeId(node), incarnation, cluster: cluster.map(ClusterId), gossip, grpc_port,
            }
        }
    }

    fn a_message() -> impl Strategy<Value = Message<Identity>> {
        (0..11, an_identity(), any::<u8>()).prop_map(|(pick, id, probe_number)| match pick {
            0 => Message::Ping(probe_number),
            1 => Message::Ack(probe_number),
            2 => Message::PingReq { target: id, probe_number },
            3 => Message::IndirectPing { origin: id, probe_number },
            4 => Message::IndirectAck { target: id, probe_number },
            5 => Message::ForwardedAck { origin: id, probe_number },
            6 => Message::Announce,
            7 => Message::Feed,
            8 => Message::Gossip,
            9 => Message::Broadcast,
            _ => Message::TurnUndead,
        })
    }

    prop_compose! {
        fn a_member()(
            id in an_identity(), incarnation in any::<u16>(),
            state in prop::sample::select(vec![State::Alive, State::Suspect, State::Down]),
        ) -> Member<Identity> {
            Member::new(id, incarnation, state)
        }
    }

    prop_compose! {
        fn a_packet()(
            src in an_identity(), src_incarnation in any::<u16>(), dst in an_identity(),
            message in a_message(), members in prop::collection::vec(a_member(), 0..12),
            items in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..4),
        ) -> Packet {
            let members = if carries_members(&message) { members } else { Vec::new() };
            let items = if carries_news(&message) { items } else { Vec::new() };
            let news = items.iter().flat_map(|item| an_item(item)).collect();
            Packet { header: Header { src, src_incarnation, dst, message }, members, news }
        }
    }

    /// As foca writes one.
    fn an_item(item: &[u8]) -> Vec<u8> {
        let length = u16::try_from(item.len()).unwrap();
        [&length.to_be_bytes()[..], item].concat()
    }

    proptest! {
        #[test]
        fn a_packet_reads_back_whole_through_our_reader_and_through_focas(packet in a_packet()) {
            let bytes = packet.encode();
            prop_assert_eq!(Packet::decode(&bytes), Ok(packet.clone()));

            let mut buf = bytes.as_slice();
            let is_bare = packet.members.is_empty() && packet.news.is_empty();
            let counted = carries_members(&packet.header.message) && !is_bare;
            prop_assert_eq!(Codec.decode_header(&mut buf), Ok(packet.header));
            if counted {
                prop_assert_eq!(usize::from(buf.get_u16()), packet.members.len());
            }
            for member in packet.members {
                prop_assert_eq!(Codec.decode_member(&mut buf), Ok(member));
            }
            prop_assert_eq!(buf, packet.news);
        }

        #[test]
        fn news_that_is_cut_inside_an_item_or_holds_an_empty_one_is_refused(
            packet in a_packet(), item in prop::collection::vec(any::<u8>(), 1..300),
            cut in any::<prop::sample::Index>(),
        ) {
            prop_assume!(carries_news(&packet.header.message));
            let item = an_item(&item);
            let cut = &item[..1 + cut.index(item.len() - 1)];
            for tail in [cut, &[0, 0][..]] {
                let news = [packet.news.as_slice(), tail].concat();
                let packet = Packet { news, ..packet.clone() };
                prop_assert!(Packet::decode(&packet.encode()).is_err(), "{:?}", tail);
            }
        }

        #[test]
        fn a_packet_cut_anywhere_is_refused_or_is_another_whole_packet(
            packet in a_packet(), cut in any::<prop::sample::Index>(),
        ) {
            let bytes = packet.encode();
            let cut = &bytes[..cut.index(bytes.len())];
            prop_assert_ne!(Packet::decode(cut), Ok(packet));
        }

        #[test]
        fn frames_read_back(from in an_identity(), known in prop::option::of(an_identity())) {
            let foreign = Frame::Foreign { cluster: ClusterId(from.node.0.into()) };
            let answer = Frame::Answer { from, known };
            for frame in [Frame::Swim(b"bytes"), Frame::Knock { from }, answer, foreign] {
                let bytes = frame.encode();
                prop_assert_eq!(Frame::decode(&bytes), Ok(frame));
            }
        }

        #[test]
        fn junk_is_refused_without_a_panic(junk in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Frame::decode(&junk);
            let _ = Packet::decode(&junk);
            let _ = Codec.decode_header(junk.as_slice());
            let _ = Codec.decode_member(junk.as_slice());
        }

        #[test]
        fn a_member_that_does_not_fit_leaves_no_byte_behind(member in a_member(), room in 0..18usize) {
            let mut out = Vec::new();
            let full = Codec.encode_member(&member, (&mut out).limit(room));
            prop_assert!(matches!(full, Err(CodecError::Full { .. })), "{full:?}");
            prop_assert!(out.is_empty());
        }
    }

    #[test]
    fn the_bytes_of_version_1_stay_what_they_are() {
        let from = Identity {
            node: NodeId(0x0102),
            incarnation: 300,
            cluster: None,
            gossip: SocketAddr::from(([10, 0, 0, 1], 18183)),
            grpc_port: 18182,
        };
        let known = Identity {
            cluster: Some(ClusterId(1)),
            gossip: SocketAddr::from((Ipv6Addr::LOCALHOST, 1)),
            ..from
        };
        let wanted = [
            vec![1, 3],
            vec![2, 1, 0, 0, 0, 0, 0, 0, 0xac, 2, 0, 4, 10, 0, 0, 1, 0x87, 0x8e, 1, 0x86, 0x8e, 1],
            vec![1, 2, 1, 0, 0, 0, 0, 0, 0, 0xac, 2],
            vec![1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            vec![6, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x86, 0x8e, 1],
        ];
        assert_eq!(Frame::Answer { from, known: Some(known) }.encode(), wanted.concat());

        // As foca writes it: a count where members may stand, none before a mere broadcast.
        let wanted_id = wanted[1].as_slice();
        let news = an_item(&[0xaa, 0xbb]);
        let table = [
            (Message::Broadcast, vec![10, 0, 2, 0xaa, 0xbb]),
            (Message::Gossip, vec![9, 0, 0, 0, 2, 0xaa, 0xbb]),
        ];
        for (message, wanted_rest) in table {
            let header = Header { src: from, src_incarnation: 7, dst: from, message };
            let packet = Packet { header, members: Vec::new(), news: news.clone() };
            let wanted = [wanted_id, &[7][..], wanted_id, wanted_rest.as_slice()].concat();
            assert_eq!(packet.encode(), wanted);
            assert_eq!(Packet::decode(&wanted), Ok(packet));
        }
    }

    #[test]
    fn bytes_behind_a_message_that_carries_nothing_are_refused() {
        let gossip = SocketAddr::from(([10, 0, 0, 1], 18183));
        let id =
            Identity { node: NodeId(1), incarnation: 1, cluster: None, gossip, grpc_port: 18182 };
        for message in [Message::Announce, Message::TurnUndead] {
            let header = Header { src: id, src_incarnation: 0, dst: id, message };
            let packet = Packet { header, members: Vec::new(), news: Vec::new() };
            let bytes = packet.encode();
            assert_eq!(Packet::decode(&bytes), Ok(packet));
            let longer = [bytes, vec![0, 0]].concat();
            assert_eq!(Packet::decode(&longer), Err(DecodeError::Trailing { left_bytes: 2 }));
        }
    }

    #[test]
    fn a_newer_version_an_unknown_kind_and_an_address_of_nobody_are_refused() {
        let newer = DecodeError::Version { what: "a gossip packet", got: 2, known: 1 };
        assert_eq!(Frame::decode(&[2, SWIM]), Err(newer));
        assert_eq!(Frame::decode(&[1, 9]), Err(value("a gossip packet's kind", 9)));
        let nobody = Identity {
            node: NodeId(1),
            incarnation: 1,
            cluster: None,
            gossip: SocketAddr::from(([0, 0, 0, 0], 5)),
            grpc_port: 5,
        };
        let bytes = Frame::Knock { from: nobody }.encode();
        assert_eq!(Frame::decode(&bytes), Err(value("a gossip address", 0)));
    }
}
