//! What a group's leader says of its group to whoever shows it to people: members, size, what it does
//! next, and how far behind each member is.
//!
//! The meta leader asks only for [`LED`](crate::wire::LED), twice a second: that costs nothing. This
//! is asked when a person looks, for the size of a shard is read from the store's indexes.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::future::join_all;
use stemedb_machine::meta::MetaState;
use stemedb_placement::Step;
use stemedb_raft::{Group, Leadership};
use stemedb_types::{DecodeError, Decoder, Encoder, NodeId, ReplicaId, ShardId};
use tokio::time::Instant;

use crate::core::Core;
use crate::moving::step_of;
use crate::operator::MoveStep;
use crate::rebalance::ASK_TIMEOUT;
use crate::wire::{Led, MEASURE, decode_led, encode_led};

const VERSION: u8 = 1;

/// A group as its leader sees it, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Measured {
    pub(crate) led: Led,
    /// About how much of it is on the leader's disk.
    pub(crate) bytes: u64,
    /// `None`: it is as the layout says.
    pub(crate) step: Option<MoveStep>,
    /// By member that the leader has heard of.
    pub(crate) lags: BTreeMap<ReplicaId, Lag>,
}

/// What a member lacks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lag {
    /// Entries of the log; `None`: it has not said.
    pub(crate) entries: Option<u64>,
    /// Bytes of a snapshot that were sent; `None`: none is on its way.
    pub(crate) sent_bytes: Option<u64>,
}

/// What is known of the shards, by shard: who leads it, and what that one says.
pub(crate) type Known = BTreeMap<ShardId, (NodeId, Measured)>;

pub(crate) fn encode_measured(measured: &[Measured]) -> Bytes {
    let mut out = Encoder::new();
    out.u8(VERSION);
    let led: Vec<Led> = measured.iter().map(|one| one.led.clone()).collect();
    out.bytes(&encode_led(&led));
    for Measured { bytes, step, lags, .. } in measured {
        out.varint(*bytes);
        let number = |step| MoveStep::ALL.iter().position(|one| *one == step).unwrap_or_default();
        out.option(*step, |out, step| out.u8(number(step) as u8));
        out.varint(lags.len() as u64);
        for (replica, lag) in lags {
            out.varint(replica.0);
            out.option(lag.entries, Encoder::varint);
            out.option(lag.sent_bytes, Encoder::varint);
        }
    }
    out.finish()
}

pub(crate) fn decode_measured(input: &[u8]) -> Result<Vec<Measured>, DecodeError> {
    let mut from = Decoder::new(input);
    from.version("measured groups", VERSION)?;
    let mut measured = Vec::new();
    for led in decode_led(from.bytes()?)? {
        let bytes = from.varint()?;
        let step = from.option(|from| {
            let got = from.u8()?;
            let step = MoveStep::ALL.get(usize::from(got)).copied();
            step.ok_or(DecodeError::Value { what: "a step", got: got.into() })
        })?;
        let mut lags = BTreeMap::new();
        for _ in 0..from.length(3)? {
            let replica = ReplicaId(from.varint()?);
            let entries = from.option(Decoder::varint)?;
            lags.insert(replica, Lag { entries, sent_bytes: from.option(Decoder::varint)? });
        }
        measured.push(Measured { led, bytes, step, lags });
    }
    from.finish()?;
    Ok(measured)
}

impl Core {
    /// Answers [`MEASURE`]: the groups led here.
    pub(crate) async fn measure(&self) -> Vec<Measured> {
        let leads = |group: &Group| *group.leadership().borrow() == Leadership::Here;
        let groups: Vec<Group> = self.groups.all().into_iter().filter(leads).collect();
        let state = self.meta.load_full();
        let measuring =
            move || groups.iter().map(|group| measured(group, &state)).collect::<Vec<Measured>>();
        // The store may have to read an index from the disk.
        tokio::task::spawn_blocking(measuring).await.unwrap_or_default()
    }

    /// Asks every member that answers how the shards are that it leads.
    pub(crate) async fn measure_all(&self, state: &MetaState) -> Known {
        let deadline = Instant::now() + ASK_TIMEOUT;
        let members = state.nodes.keys().copied().filter(|node| self.is_up(*node));
        let asked = members.map(|node| async move {
            if node == self.node {
                return (node, self.measure().await);
            }
            let answer = self.ask(node, MEASURE, Bytes::new(), deadline).await;
            let answer = answer.ok().and_then(|answer| decode_measured(&answer).ok());
            (node, answer.unwrap_or_default())
        });
        let mut known = Known::new();
        for (node, measured) in join_all(asked).await {
            for measured in measured {
                let Some(shard) = measured.led.group.shard() else { continue };
                known.insert(shard, (node, measured));
            }
        }
        known
    }
}

fn measured(group: &Group, state: &MetaState) -> Measured {
    let members = group.members();
    let entries = group.entries_behind();
    let lag = |id: &ReplicaId| {
        let (entries, sent_bytes) = (entries.get(id).copied(), group.snapshot_bytes_sent(*id));
        (*id, Lag { entries, sent_bytes })
    };
    let lags = members.holders.keys().filter(|id| **id != group.replica()).map(lag).collect();
    let step = step_of(group, &state.layout).map(|step| match step {
        Step::Learn(_) => MoveStep::Adding,
        Step::Await(_) => MoveStep::CatchingUp,
        Step::HandOver(_) => MoveStep::HandingOver,
        Step::Vote(_) => MoveStep::Voting,
        Step::Drop(_) => MoveStep::Dropping,
    });
    let led = Led {
        group: group.id(),
        holders: members.holders,
        voters: members.voters,
        settled: members.settled,
    };
    Measured { led, bytes: group.applied().store().approximate_bytes(), step, lags }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stemedb_types::GroupId;

    #[test]
    fn what_a_leader_says_reads_back_and_no_cut_of_it_does() {
        let led = |group| Led {
            group: GroupId(group),
            holders: [(ReplicaId(3), NodeId(1)), (ReplicaId(300), NodeId(2))].into(),
            voters: [ReplicaId(3)].into(),
            settled: true,
        };
        let behind = Lag { entries: Some(9000), sent_bytes: Some(1 << 40) };
        let measured = vec![
            Measured { led: led(1), bytes: 0, step: None, lags: BTreeMap::new() },
            Measured {
                led: led(2),
                bytes: 1 << 33,
                step: Some(MoveStep::Dropping),
                lags: [(ReplicaId(300), behind), (ReplicaId(7), Lag::default())].into(),
            },
        ];
        let bytes = encode_measured(&measured);
        assert_eq!(decode_measured(&bytes), Ok(measured));
        for cut in 0..bytes.len() {
            assert!(decode_measured(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }
}
