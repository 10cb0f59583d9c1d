//! Ids: small copies of numbers that must not be mistaken for one another.

use std::fmt;
use std::str::FromStr;

use crate::names::NameError;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl From<$inner> for $name {
            fn from(value: $inner) -> Self {
                Self(value)
            }
        }
    };
}

macro_rules! decimal_display {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

macro_rules! hex_display {
    ($name:ident, $inner:ty, $digits:literal) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!("{:0", $digits, "x}"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            /// Takes exactly the lowercase hex digits that `Display` writes.
            fn from_str(text: &str) -> Result<Self, NameError> {
                let lower_hex = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
                if text.len() != $digits || !lower_hex {
                    return Err(NameError::Id { digits: $digits });
                }
                <$inner>::from_str_radix(text, 16)
                    .map(Self)
                    .map_err(|_| NameError::Id { digits: $digits })
            }
        }
    };
}

id!(
    /// A node: random, made on its first boot, stored on both volumes, never typed by a person.
    /// Shown as 16 hex digits.
    NodeId,
    u64
);
hex_display!(NodeId, u64, 16);

id!(
    /// A cluster: random, made once by the node that founds it. Shown as 32 hex digits.
    ClusterId,
    u128
);
hex_display!(ClusterId, u128, 32);

id!(
    /// What a Raft group knows its members by (decision 9a): given out by the meta group for each
    /// placement of a shard on a node, never used twice. Zero is "no replica".
    ReplicaId,
    u64
);
decimal_display!(ReplicaId);

id!(
    /// A Raft group on the wire and in the log: 0 is the meta group, `shard + 1` is a shard.
    GroupId,
    u32
);
decimal_display!(GroupId);

impl GroupId {
    /// The group that holds layout, node registry, projects and keys.
    pub const META: GroupId = GroupId(0);

    /// The shard this group serves; `None` for the meta group.
    pub fn shard(self) -> Option<ShardId> {
        let number = self.0.checked_sub(1)?;
        u16::try_from(number).ok().map(ShardId)
    }
}

id!(
    /// A shard, counted from zero.
    ShardId,
    u16
);
decimal_display!(ShardId);

impl ShardId {
    /// The Raft group that serves this shard.
    pub fn group(self) -> GroupId {
        GroupId(u32::from(self.0) + 1)
    }
}

id!(
    /// A project inside the cluster: given out by the meta group, never used twice, so that a
    /// project deleted and made again shares nothing with the old one.
    ProjectId,
    u64
);
decimal_display!(ProjectId);

id!(
    /// Grows by one with every write applied in a bucket, and by nothing else. The first write of
    /// a bucket is revision 1; 0 is "before any write".
    Revision,
    u64
);
decimal_display!(Revision);

impl Revision {
    /// The revision after this one.
    pub fn next(self) -> Revision {
        Revision(self.0.saturating_add(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_and_its_group_name_each_other() {
        assert_eq!(ShardId(0).group(), GroupId(1));
        assert_eq!(GroupId(1).shard(), Some(ShardId(0)));
        assert_eq!(GroupId::META.shard(), None);
    }

    #[test]
    fn hex_ids_read_back_only_what_they_print() {
        let id = NodeId(0xab);
        assert_eq!(id.to_string(), "00000000000000ab");
        assert_eq!("00000000000000ab".parse(), Ok(id));
        for bad in ["", "ab", "00000000000000AB", "+0000000000000ab", "00000000000000abc"] {
            assert_eq!(bad.parse::<NodeId>(), Err(NameError::Id { digits: 16 }), "{bad}");
        }
    }
}
