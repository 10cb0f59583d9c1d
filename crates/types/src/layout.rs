//! The layout: which nodes hold which shard, numbered by its epoch.
//!
//! A layout is a value. The meta group commits one after another, each with
//! an epoch one higher; two nodes that act on the same epoch act on the same
//! bytes ([`Layout::encode`] is canonical, [`Layout::fingerprint`] hashes it).

use sha2::{Digest, Sha256};

use crate::codec::{DecodeError, Decoder, Encoder};
use crate::{GroupId, NodeId, ReplicaId, ShardId};

/// One copy of one group on one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Replica {
    /// The node that holds it.
    pub node: NodeId,
    /// What the group calls it.
    pub id: ReplicaId,
}

/// Where one shard lives. The first replica is the preferred leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardLayout {
    /// Voters, the preferred leader first; nodes are distinct.
    pub replicas: Vec<Replica>,
}

impl ShardLayout {
    /// The replica this node holds, if it holds one.
    pub fn on(&self, node: NodeId) -> Option<Replica> {
        self.replicas.iter().copied().find(|r| r.node == node)
    }
}

/// Where everything lives, at one epoch. The empty layout (epoch 0) is "no cluster yet".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// Grows by one with every committed change.
    pub epoch: u64,
    /// Indexed by shard number; the length is fixed when the cluster is founded.
    pub shards: Vec<ShardLayout>,
    /// Replicas of the meta group, one on every node.
    pub meta: Vec<Replica>,
}

/// First byte of the encoding.
const LAYOUT_VERSION: u8 = 1;

impl Layout {
    /// The replicas of a group, or `None` if no such shard exists.
    pub fn replicas(&self, group: GroupId) -> Option<&[Replica]> {
        match group.shard() {
            None if group == GroupId::META => Some(&self.meta),
            None => None,
            Some(ShardId(number)) => {
                self.shards.get(usize::from(number)).map(|s| s.replicas.as_slice())
            }
        }
    }

    /// Every group of this layout, the meta group first.
    pub fn groups(&self) -> impl Iterator<Item = GroupId> + '_ {
        let shards = (0..self.shards.len()).map(|n| GroupId(n as u32 + 1));
        std::iter::once(GroupId::META).chain(shards)
    }

    /// The canonical bytes: the same on every node at one epoch.
    pub fn encode(&self, out: &mut Encoder) {
        out.u8(LAYOUT_VERSION);
        out.varint(self.epoch);
        encode_replicas(out, &self.meta);
        out.varint(self.shards.len() as u64);
        for shard in &self.shards {
            encode_replicas(out, &shard.replicas);
        }
    }

    /// Reads what [`Layout::encode`] wrote.
    pub fn decode(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        from.version("layout", LAYOUT_VERSION)?;
        let epoch = from.varint()?;
        let meta = decode_replicas(from)?;
        let count = from.length(1)?;
        let mut shards = Vec::with_capacity(count);
        for _ in 0..count {
            shards.push(ShardLayout { replicas: decode_replicas(from)? });
        }
        Ok(Layout { epoch, shards, meta })
    }

    /// SHA-256 over the canonical bytes: what nodes compare to know that they agree.
    pub fn fingerprint(&self) -> [u8; 32] {
        let mut out = Encoder::new();
        self.encode(&mut out);
        Sha256::digest(out.as_slice()).into()
    }
}

fn encode_replicas(out: &mut Encoder, replicas: &[Replica]) {
    out.varint(replicas.len() as u64);
    for replica in replicas {
        out.u64(replica.node.0);
        out.varint(replica.id.0);
    }
}

fn decode_replicas(from: &mut Decoder<'_>) -> Result<Vec<Replica>, DecodeError> {
    let count = from.length(9)?;
    let mut replicas = Vec::with_capacity(count);
    for _ in 0..count {
        replicas.push(Replica { node: NodeId(from.u64()?), id: ReplicaId(from.varint()?) });
    }
    Ok(replicas)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_reads_back_and_every_cut_of_it_is_refused() {
        let replica = |node, id| Replica { node: NodeId(node), id: ReplicaId(id) };
        let layout = Layout {
            epoch: 7,
            shards: vec![
                ShardLayout { replicas: vec![replica(1, 4), replica(2, 5)] },
                ShardLayout { replicas: vec![replica(2, 6)] },
            ],
            meta: vec![replica(1, 1), replica(2, 2)],
        };
        let mut out = Encoder::new();
        layout.encode(&mut out);
        let bytes = out.as_slice();
        assert_eq!(Layout::decode(&mut Decoder::new(bytes)), Ok(layout));
        for cut in 0..bytes.len() {
            assert!(Layout::decode(&mut Decoder::new(&bytes[..cut])).is_err(), "cut at {cut}");
        }
    }
}
