//! What nodes tell of themselves by gossip, and what becomes of it here.
//!
//! The committed state says where a member is, in which zone and with what weight, and only that
//! counts: gossip suggests. What it adds is what nobody commits (the version of a member's
//! software), and an earlier word of an address: a member whose host has another address since it
//! registered is heard there at once, and is registered there only once a quorum has said so.

use std::net::{IpAddr, SocketAddr};

use stemedb_machine::meta::{MetaState, Node, NodeAddresses};
use stemedb_membership::{Member, Profile};
use stemedb_rpc::VERSIONS;
use stemedb_types::NodeId;

use crate::core::Core;

/// The version of this software.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What a node with these settings tells.
pub(crate) fn own_profile(zone: &str, weight: u8, addresses: &NodeAddresses) -> Profile {
    Profile {
        zone: zone.to_owned(),
        weight,
        version: VERSION.to_owned(),
        protocol_min: u16::from(VERSIONS.oldest),
        protocol_max: u16::from(VERSIONS.newest),
        http_port: port_of(&addresses.http),
        gateway_port: port_of(&addresses.gateway),
    }
}

/// The port of `host:port`; 0 where there is none.
fn port_of(address: &str) -> u16 {
    address.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(0)
}

impl Core {
    /// What gossip has heard of a node that does not seem to be down.
    fn heard_of(&self, node: NodeId) -> Option<(Member, Profile)> {
        let members = self.gossip.as_ref()?.members().borrow().clone();
        let member = members.get(node).filter(|member| member.is_active())?;
        Some((*member, members.profile(node)?.clone()))
    }

    /// The version of a node's software, if it was heard; of one that is down, the last.
    pub(crate) fn version_of(&self, node: NodeId) -> Option<String> {
        if node == self.node {
            return Some(VERSION.to_owned());
        }
        let members = self.gossip.as_ref()?.members().borrow().clone();
        members.profile(node).map(|profile| profile.version.clone())
    }

    /// A node's own HTTP address: as registered, or where the node has moved since.
    pub(crate) fn http_address(&self, node: NodeId) -> Option<String> {
        let state = self.meta.load();
        let registered = &state.nodes.get(&node)?.addresses;
        let moved = self.heard_of(node).and_then(|(member, profile)| {
            moved_to(registered, member.gossip.ip(), profile.http_port)
        });
        Some(moved.unwrap_or_else(|| registered.http.clone())).filter(|at| !at.is_empty())
    }

    /// Notes where a member tells something else than is registered of it: it has not come so far
    /// yet, or can't.
    pub(crate) fn compare_profiles(&self, state: &MetaState) {
        for node in state.nodes.values() {
            let Some((_, told)) = self.heard_of(node.id) else { continue };
            if !agrees(node, &told) {
                tracing::debug!(node = %node.id, ?told, registered = ?node, "told otherwise");
            }
        }
    }
}

/// Whether a node tells what is registered of it.
fn agrees(registered: &Node, told: &Profile) -> bool {
    let NodeAddresses { http, gateway, .. } = &registered.addresses;
    registered.zone == told.zone
        && registered.weight == told.weight
        && port_of(http) == told.http_port
        && port_of(gateway) == told.gateway_port
}

/// Where the HTTP API is of a node that is heard on `host`, if that is another than is registered.
/// Names are left alone: they lead to the new address by themselves. And so is a node whose API was
/// registered on another address than its gossip: nobody can tell whether both have moved.
fn moved_to(registered: &NodeAddresses, host: IpAddr, http_port: u16) -> Option<String> {
    let ip = |address: &str| address.parse::<SocketAddr>().ok().map(|address| address.ip());
    let (http, gossip) = (ip(&registered.http)?, ip(&registered.gossip)?);
    let moved = http == gossip && gossip != host && http_port != 0;
    moved.then(|| SocketAddr::new(host, http_port).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use stemedb_types::ReplicaId;

    fn addresses(http: &str, gossip: &str) -> NodeAddresses {
        let (http, gossip) = (http.to_owned(), gossip.to_owned());
        NodeAddresses { http, gossip, gateway: "h:18181".to_owned(), grpc: String::new() }
    }

    #[test]
    fn a_node_is_sent_to_where_it_is_heard_only_if_all_of_it_stood_on_one_address() {
        let table = [
            ("10.0.0.1:18180", "10.0.0.1:18183", "10.0.0.9", 18180, Some("10.0.0.9:18180")),
            ("10.0.0.1:18180", "10.0.0.1:18183", "fd00::9", 7, Some("[fd00::9]:7")),
            ("[fd00::1]:18180", "[fd00::1]:18183", "fd00::9", 7, Some("[fd00::9]:7")),
            // It has not moved.
            ("10.0.0.1:18180", "10.0.0.1:18183", "10.0.0.1", 18180, None),
            // It told no port.
            ("10.0.0.1:18180", "10.0.0.1:18183", "10.0.0.9", 0, None),
            // A name.
            ("n1.stemedb:18180", "n1.stemedb:18183", "10.0.0.9", 18180, None),
            // Clients reach it on another network than peers.
            ("192.0.2.1:18180", "10.0.0.1:18183", "10.0.0.9", 18180, None),
            ("", "", "10.0.0.9", 18180, None),
        ];
        for (http, gossip, heard, port, wanted) in table {
            let moved = moved_to(&addresses(http, gossip), heard.parse().unwrap(), port);
            assert_eq!(moved.as_deref(), wanted, "{http} {gossip} {heard} {port}");
        }
    }

    #[test]
    fn a_profile_is_made_of_settings_and_agrees_with_their_registration_alone() {
        let addresses = addresses("[::1]:18180", "[::1]:18183");
        let told = own_profile("a", 3, &addresses);
        assert_eq!((told.http_port, told.gateway_port), (18180, 18181));
        assert_eq!((told.protocol_min, told.protocol_max), (1, 1));
        assert_eq!(port_of(""), 0);
        assert_eq!(port_of("name-http"), 0);

        let registered = Node {
            id: NodeId(1),
            name: "n1".to_owned(),
            zone: "a".to_owned(),
            addresses,
            meta_replica: ReplicaId(1),
            weight: 3,
            draining_since_ms: None,
        };
        assert!(agrees(&registered, &told));
        let others = [
            Profile { zone: "b".to_owned(), ..told.clone() },
            Profile { weight: 4, ..told.clone() },
            Profile { http_port: 1, ..told.clone() },
            Profile { gateway_port: 1, ..told },
        ];
        for other in others {
            assert!(!agrees(&registered, &other), "{other:?}");
        }
    }
}
