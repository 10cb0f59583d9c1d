//! News: profiles on their way, and what is known of everyone's.
//!
//! foca passes an item on for as long as it is news to those who hear it, each of them a bounded
//! number of times, and then it is gone: who joins later never hears it. So a node announces
//! itself again and again, each time as news (see `agent`), and here is decided what is news: of
//! two items about one node the one of its later life wins, and in one life the one with the
//! greater number.
//!
//! ```text
//! version (1) | node (8) | incarnation | number | its cluster, if it has one | profile
//! ```
//!
//! What this node tells of itself only it can say: news of our own id from outside, of another
//! life or of a double, is nothing. Nor is news from another cluster, which a blank node may bring
//! that has met both. An item in a later format is not passed on, and counted; the items beside it
//! are taken.
//!
//! foca owns its handler and never gives it back, so the board is shared between it and the agent.
//! Both live in one task: nobody ever waits for the lock.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use stemedb_types::{ClusterId, DecodeError, Decoder, Encoder, NodeId};

use crate::identity::{Identity, is_foreign};
use crate::profile::Profile;

/// No item is longer, whatever a node tells: five or more fit into a packet.
pub(crate) const NEWS_BYTES_MAX: usize = 256;

/// How many nodes the board holds: several times the largest cluster we size for. News of a further
/// one is not taken until others were forgotten.
const NODES_MAX: usize = 1024;

const VERSION: u8 = 1;

/// One announcement of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct News {
    pub node: NodeId,
    /// In which of its lives.
    pub incarnation: u64,
    /// Grows with every announcement of a life.
    pub number: u64,
    /// The cluster it belonged to.
    pub cluster: Option<ClusterId>,
    pub profile: Arc<Profile>,
}

/// Which of a node's announcements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Stamp {
    node: NodeId,
    incarnation: u64,
    number: u64,
}

impl foca::Invalidates for Stamp {
    fn invalidates(&self, other: &Self) -> bool {
        self.node == other.node && self >= other
    }
}

impl News {
    fn stamp(&self) -> Stamp {
        Stamp { node: self.node, incarnation: self.incarnation, number: self.number }
    }

    /// The item's bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::with_capacity(NEWS_BYTES_MAX);
        out.u8(VERSION);
        out.u64(self.node.0);
        out.varint(self.incarnation);
        out.varint(self.number);
        out.option(self.cluster, |out, cluster| out.u128(cluster.0));
        self.profile.encode(&mut out);
        out.into_vec()
    }

    /// Takes an item apart; `Version` if it is of a later format.
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut from = Decoder::new(bytes);
        from.version("news of a node", VERSION)?;
        let news = Self {
            node: NodeId(from.u64()?),
            incarnation: from.varint()?,
            number: from.varint()?,
            cluster: from.option(Decoder::u128)?.map(ClusterId),
            profile: Arc::new(Profile::decode(&mut from)?),
        };
        from.finish()?;
        Ok(news)
    }
}

/// The newest announcement of each node, as far as they were heard. Clones show the same board.
#[derive(Clone)]
pub(crate) struct Board(Arc<Mutex<Known>>);

struct Known {
    own: NodeId,
    /// Ours.
    cluster: Option<ClusterId>,
    newest: BTreeMap<NodeId, News>,
    /// Nodes on the board that foca did not know at the last sweep.
    strangers: BTreeSet<NodeId>,
    /// Items in a later format since they were last asked for.
    unread: u64,
}

impl Board {
    /// An empty one, of a node that is `own`.
    pub(crate) fn new(own: &Identity) -> Self {
        Self(Arc::new(Mutex::new(Known {
            own: own.node,
            cluster: own.cluster,
            newest: BTreeMap::new(),
            strangers: BTreeSet::new(),
            unread: 0,
        })))
    }

    /// What each node has told of itself.
    pub(crate) fn profiles(&self) -> BTreeMap<NodeId, Arc<Profile>> {
        let known = self.known();
        known.newest.iter().map(|(node, news)| (*node, news.profile.clone())).collect()
    }

    /// We belong to `cluster` now: what was heard of others is forgotten.
    pub(crate) fn enter(&self, cluster: Option<ClusterId>) {
        let mut known = self.known();
        known.cluster = cluster;
        known.newest.retain(|_, news| !is_foreign(news.cluster, cluster));
    }

    /// Forgets nodes that are not among `members`, nor were at the sweep before: news may come a
    /// moment before foca hears of its node.
    pub(crate) fn sweep(&self, members: &BTreeSet<NodeId>) {
        let mut known = self.known();
        let (own, before) = (known.own, std::mem::take(&mut known.strangers));
        let is_stranger = |node: &NodeId| *node != own && !members.contains(node);
        known.newest.retain(|node, _| !(is_stranger(node) && before.contains(node)));
        let strangers = known.newest.keys().filter(|node| is_stranger(node)).copied().collect();
        known.strangers = strangers;
    }

    /// How many items in a later format came since the last call.
    pub(crate) fn take_unread(&self) -> u64 {
        std::mem::take(&mut self.known().unread)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl foca::BroadcastHandler<Identity> for Board {
    type Key = Stamp;
    type Error = DecodeError;

    fn receive_item(
        &mut self,
        bytes: &[u8],
        sender: Option<&Identity>,
    ) -> Result<Option<Stamp>, DecodeError> {
        self.known().take(bytes, sender.is_some())
    }
}

impl Known {
    /// Keeps an item if it is news, and says then which.
    fn take(&mut self, bytes: &[u8], from_outside: bool) -> Result<Option<Stamp>, DecodeError> {
        let news = match News::decode(bytes) {
            Ok(news) => news,
            // An error would make foca drop the items behind this one.
            Err(DecodeError::Version { .. }) => {
                self.unread += 1;
                return Ok(None);
            }
            Err(junk) => return Err(junk),
        };
        let not_ours = news.node == self.own || is_foreign(news.cluster, self.cluster);
        if from_outside && not_ours {
            return Ok(None);
        }
        let (stamp, full) = (news.stamp(), self.newest.len() >= NODES_MAX);
        match self.newest.entry(news.node) {
            Entry::Occupied(known) if known.get().stamp() >= stamp => return Ok(None),
            Entry::Occupied(mut known) => {
                // The same words stay the same in memory: pictures are compared after each packet.
                let before = known.get().profile.clone();
                let profile = if before == news.profile { before } else { news.profile.clone() };
                known.insert(News { profile, ..news });
            }
            Entry::Vacant(_) if full && from_outside => return Ok(None),
            Entry::Vacant(free) => {
                free.insert(news);
            }
        }
        Ok(Some(stamp))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use foca::{BroadcastHandler as _, Invalidates as _};
    use std::net::SocketAddr;

    const A: Option<ClusterId> = Some(ClusterId(0xa));
    const B: Option<ClusterId> = Some(ClusterId(0xb));

    fn peer() -> Identity {
        let gossip = SocketAddr::from(([127, 0, 0, 1], 2));
        Identity { node: NodeId(2), incarnation: 1, cluster: A, gossip, grpc_port: 1 }
    }

    /// The board of node 1, which belongs to A.
    fn board() -> Board {
        Board::new(&Identity { node: NodeId(1), ..peer() })
    }

    fn news(node: u64, incarnation: u64, number: u64, zone: &str) -> News {
        let profile = Arc::new(Profile { zone: zone.to_owned(), ..Profile::default() });
        News { node: NodeId(node), incarnation, number, cluster: A, profile }
    }

    fn hears(board: &mut Board, news: &News) -> bool {
        board.receive_item(&news.encode(), Some(&peer())).unwrap().is_some()
    }

    fn tells(board: &mut Board, news: &News) -> bool {
        board.receive_item(&news.encode(), None).unwrap().is_some()
    }

    fn zone(board: &Board, node: u64) -> Option<String> {
        board.profiles().get(&NodeId(node)).map(|profile| profile.zone.clone())
    }

    #[test]
    fn the_bytes_of_version_1_stay_what_they_are_and_no_part_of_them_is_news() {
        let profile = Profile {
            zone: "eu-1".to_owned(),
            weight: 3,
            version: "0.1.0".to_owned(),
            protocol_min: 1,
            protocol_max: 2,
            http_port: 18180,
            gateway_port: 18181,
        };
        let news = News {
            node: NodeId(0x0102),
            incarnation: 300,
            number: 2,
            cluster: Some(ClusterId(1)),
            profile: Arc::new(profile),
        };
        let wanted = [
            vec![1, 2, 1, 0, 0, 0, 0, 0, 0, 0xac, 2, 2],
            vec![1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            vec![4, b'e', b'u', b'-', b'1', 3, 5, b'0', b'.', b'1', b'.', b'0'],
            vec![1, 2, 0x84, 0x8e, 1, 0x85, 0x8e, 1],
        ];
        let bytes = wanted.concat();
        assert_eq!(news.encode(), bytes);
        assert_eq!(News::decode(&bytes), Ok(news));
        for cut in 0..bytes.len() {
            assert!(News::decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        let longer = [bytes, vec![0]].concat();
        assert_eq!(News::decode(&longer), Err(DecodeError::Trailing { left_bytes: 1 }));
    }

    #[test]
    fn the_longest_item_stays_within_its_bound() {
        let text = "x".repeat(crate::PROFILE_TEXT_BYTES_MAX);
        let profile = Profile {
            zone: text.clone(),
            weight: u8::MAX,
            version: text,
            protocol_min: u16::MAX,
            protocol_max: u16::MAX,
            http_port: u16::MAX,
            gateway_port: u16::MAX,
        };
        let news = News {
            node: NodeId(u64::MAX),
            incarnation: u64::MAX,
            number: u64::MAX,
            cluster: Some(ClusterId(u128::MAX)),
            profile: Arc::new(profile),
        };
        let bytes = news.encode().len();
        assert!(bytes <= NEWS_BYTES_MAX, "{bytes} bytes");
    }

    #[test]
    fn what_is_newer_is_news_and_what_is_known_or_older_is_none() {
        let mut board = board();
        let table = [
            // life, number, zone, is news, shown then
            (5, 3, "a", true, "a"),
            (5, 3, "a", false, "a"),
            (5, 2, "old", false, "a"),
            (5, 4, "a", true, "a"),
            (6, 1, "b", true, "b"),
            (5, 9, "late", false, "b"),
        ];
        for (incarnation, number, told, is_news, shown) in table {
            let heard = hears(&mut board, &news(2, incarnation, number, told));
            assert_eq!(heard, is_news, "{incarnation} {number}");
            assert_eq!(zone(&board, 2).as_deref(), Some(shown));
        }
    }

    #[test]
    fn an_announcement_takes_the_place_of_older_ones_of_the_same_node_only() {
        let stamp = |node, incarnation, number| news(node, incarnation, number, "").stamp();
        let table = [
            (stamp(2, 1, 2), true),
            (stamp(2, 2, 1), true),
            (stamp(2, 1, 1), true),
            (stamp(2, 1, 0), false),
            (stamp(3, 9, 9), false),
        ];
        for (newer, wanted) in table {
            assert_eq!(newer.invalidates(&stamp(2, 1, 1)), wanted, "{newer:?}");
        }
    }

    #[test]
    fn the_same_words_told_again_stay_the_same_in_memory() {
        let mut board = board();
        assert!(hears(&mut board, &news(2, 1, 1, "a")));
        let before = board.profiles();
        assert!(hears(&mut board, &news(2, 1, 2, "a")));
        assert!(Arc::ptr_eq(&before[&NodeId(2)], &board.profiles()[&NodeId(2)]));
    }

    #[test]
    fn nobody_else_says_what_we_are() {
        let mut board = board();
        assert!(!hears(&mut board, &news(1, 9, 9, "another's")));
        assert_eq!(zone(&board, 1), None);
        assert!(tells(&mut board, &news(1, 5, 1, "ours")));
        assert!(!hears(&mut board, &news(1, 9, 9, "another's")));
        assert!(!tells(&mut board, &news(1, 5, 1, "ours")), "as before is no news");
        assert_eq!(zone(&board, 1).as_deref(), Some("ours"));
    }

    #[test]
    fn another_cluster_s_news_is_none_and_a_node_that_enters_one_forgets_what_it_heard_of_others() {
        let of = |node, cluster| News { cluster, ..news(node, 1, 1, "z") };
        let mut ours = board();
        assert!(!hears(&mut ours, &of(3, B)));
        assert!(hears(&mut ours, &of(3, None)), "a blank node is foreign to nobody");

        let mut blank = Board::new(&Identity { node: NodeId(1), cluster: None, ..peer() });
        for (node, cluster) in [(2, A), (3, B), (4, None)] {
            assert!(hears(&mut blank, &of(node, cluster)));
        }
        blank.enter(A);
        let left: Vec<_> = blank.profiles().into_keys().collect();
        assert_eq!(left, [NodeId(2), NodeId(4)]);
        assert!(!hears(&mut blank, &of(3, B)));
    }

    #[test]
    fn a_later_format_is_counted_and_passed_over_and_junk_is_an_error() {
        let mut board = board();
        let mut later = news(2, 1, 1, "a").encode();
        later[0] = VERSION + 1;
        assert_eq!(board.receive_item(&later, Some(&peer())), Ok(None));
        assert_eq!((board.take_unread(), board.take_unread()), (1, 0));
        assert!(board.receive_item(b"\x01junk", Some(&peer())).is_err());
        assert!(board.receive_item(b"", Some(&peer())).is_err());
        assert!(board.profiles().is_empty());
    }

    #[test]
    fn a_full_board_takes_nobody_new_until_strangers_are_swept_twice() {
        let mut board = board();
        let last = NODES_MAX as u64 + 1;
        for node in 2..=last {
            assert!(hears(&mut board, &news(node, 1, 1, "z")));
        }
        assert!(!hears(&mut board, &news(last + 1, 1, 1, "z")));
        assert!(hears(&mut board, &news(last, 1, 2, "z")), "who is there is heard");
        assert!(tells(&mut board, &news(1, 1, 1, "ours")), "and so are we");

        let members = BTreeSet::from([NodeId(2), NodeId(3)]);
        board.sweep(&members);
        assert_eq!(board.profiles().len(), NODES_MAX + 1, "they may be known in a moment");
        board.sweep(&members);
        let left: Vec<_> = board.profiles().into_keys().collect();
        assert_eq!(left, [NodeId(1), NodeId(2), NodeId(3)]);
        assert!(hears(&mut board, &news(last + 1, 1, 1, "z")));
    }
}
