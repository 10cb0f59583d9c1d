//! Who a member is, in the eyes of SWIM.
//!
//! The address that must be unique is the *node id*, not the socket: a pod that returns under
//! another IP is the same member with a newer incarnation, and its old address is forgotten the
//! moment the new one is heard of. Everything else here may change, and each change takes a
//! higher incarnation; of two identities with one node id the higher incarnation wins.
//!
//! `renew` answers `None` on purpose. foca would otherwise renew by itself whenever it is told
//! that it is down, at the speed of the network, and two living nodes with one id would declare
//! each other down in a tight loop. The agent renews instead, and sets the pace.

use std::net::SocketAddr;

use stemedb_types::{ClusterId, NodeId};

/// One life of one node. Copied into every packet (about 40 bytes).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Identity {
    /// The stable id.
    pub node: NodeId,
    /// Which life: grows with every restart, renewal and change, never goes back.
    pub incarnation: u64,
    /// The cluster the node belongs to; `None` while it is blank.
    pub cluster: Option<ClusterId>,
    /// Where it hears gossip.
    pub gossip: SocketAddr,
    /// Its peer plane, on the same host.
    pub grpc_port: u16,
}

impl Identity {
    /// The same node in a life above its own and above `floor`. `None` when the numbers are used
    /// up, which takes a forged incarnation.
    pub(crate) fn renewed(&self, floor: u64) -> Option<Self> {
        let incarnation = self.incarnation.max(floor).checked_add(1)?;
        Some(Self { incarnation, ..*self })
    }

    /// Both belong to a cluster, and not to the same one. A blank node is foreign to nobody.
    pub(crate) fn is_foreign_to(&self, cluster: Option<ClusterId>) -> bool {
        is_foreign(self.cluster, cluster)
    }

    /// Another living process under our id: same node, other socket, and not one of our own
    /// earlier lives.
    pub(crate) fn is_double_of(&self, own: &Identity) -> bool {
        self.node == own.node && self.gossip != own.gossip && self.incarnation >= own.incarnation
    }
}

impl foca::Identity for Identity {
    type Addr = NodeId;

    fn renew(&self) -> Option<Self> {
        None
    }

    fn addr(&self) -> NodeId {
        self.node
    }

    /// Total and antisymmetric, so that every member keeps the same one: first the incarnation,
    /// then (two doubles that chose the same number) cluster, address and port.
    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        let rank = |id: &Self| (id.incarnation, id.cluster, id.gossip, id.grpc_port);
        rank(self) > rank(adversary)
    }
}

/// Both are clusters, and not the same one.
pub(crate) fn is_foreign(one: Option<ClusterId>, other: Option<ClusterId>) -> bool {
    matches!((one, other), (Some(one), Some(other)) if one != other)
}

/// The incarnation a node starts with: above every one it ever saved, and above its own ghost
/// even where nothing was saved, as long as the clock did not go back.
///
/// `saved` is the last value the incarnation watch showed, `now_ms` the Unix time in milliseconds.
pub fn first_incarnation(saved: Option<u64>, now_ms: u64) -> u64 {
    saved.map_or(now_ms, |saved| saved.saturating_add(1).max(now_ms))
}

#[cfg(test)]
mod tests {
    use super::*;
    use foca::Identity as _;

    fn id(incarnation: u64, port: u16) -> Identity {
        let gossip = SocketAddr::from(([127, 0, 0, 1], port));
        Identity { node: NodeId(7), incarnation, cluster: None, gossip, grpc_port: 1 }
    }

    #[test]
    fn exactly_one_of_two_identities_wins_and_the_newer_life_first() {
        for (winner, loser) in [(id(2, 1), id(1, 9)), (id(2, 9), id(2, 1))] {
            assert!(winner.win_addr_conflict(&loser));
            assert!(!loser.win_addr_conflict(&winner));
            assert!(!winner.win_addr_conflict(&winner));
        }
    }

    #[test]
    fn a_renewed_identity_rises_above_the_floor_and_stops_at_the_last_number() {
        assert_eq!(id(5, 1).renewed(0), Some(id(6, 1)));
        assert_eq!(id(5, 1).renewed(100), Some(id(101, 1)));
        assert_eq!(id(5, 1).renewed(u64::MAX), None);
    }

    #[test]
    fn only_two_named_clusters_are_foreign_to_each_other() {
        let of = |cluster| Identity { cluster, ..id(1, 1) };
        let (a, b) = (Some(ClusterId(1)), Some(ClusterId(2)));
        let table = [(a, b, true), (a, a, false), (a, None, false), (None, b, false)];
        for (theirs, ours, foreign) in table {
            assert_eq!(of(theirs).is_foreign_to(ours), foreign, "{theirs:?} {ours:?}");
        }
    }

    #[test]
    fn an_earlier_life_at_another_address_is_no_double() {
        assert!(!id(4, 2).is_double_of(&id(5, 1)));
        assert!(id(5, 2).is_double_of(&id(5, 1)));
        assert!(!id(6, 1).is_double_of(&id(5, 1)));
    }

    #[test]
    fn a_start_beats_the_saved_number_and_the_clock() {
        assert_eq!(first_incarnation(None, 1000), 1000);
        assert_eq!(first_incarnation(Some(10), 1000), 1000);
        assert_eq!(first_incarnation(Some(5000), 1000), 5001);
    }
}
