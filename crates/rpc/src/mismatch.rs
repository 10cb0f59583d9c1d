//! Why two nodes don't talk, and how one tells the other.

use stemedb_types::{ClusterId, DecodeError, Decoder, Encoder, NodeId};

use crate::handshake::VERSIONS;

/// Tag of a refusal among the frames of a handshake.
pub(crate) const REFUSED: u8 = 5;
/// Longest free text of a refusal, in bytes, so that it fits a frame of the handshake.
const TEXT_BYTES_MAX: usize = 512;

/// Versions of the peer protocol, from the oldest to the newest that a node speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// The first.
    pub oldest: u8,
    /// The last.
    pub newest: u8,
}

impl Versions {
    pub(crate) fn only(version: u8) -> Self {
        Self { oldest: version, newest: version }
    }

    /// The newest that both speak.
    pub(crate) fn newest_common(self, other: Self) -> Option<u8> {
        let newest = self.newest.min(other.newest);
        (newest >= self.oldest.max(other.oldest)).then_some(newest)
    }
}

impl std::fmt::Display for Versions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { oldest, newest } = self;
        if oldest == newest { write!(f, "{newest}") } else { write!(f, "{oldest} to {newest}") }
    }
}

/// Why two nodes don't talk. Both sides report the same value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// They speak no version of the protocol in common.
    #[error("the dialling node speaks peer protocol {dialler}, the other one {listener}")]
    Version {
        /// The dialler's.
        dialler: Versions,
        /// The listener's.
        listener: Versions,
    },
    /// No cluster secret in common.
    #[error("the cluster secret is another one")]
    Secret,
    /// Both belong to a cluster, and not to the same one.
    #[error("the dialling node belongs to cluster {dialler}, the other one to {listener}")]
    Cluster {
        /// The dialler's.
        dialler: ClusterId,
        /// The listener's.
        listener: ClusterId,
    },
    /// Another node has that address now.
    #[error("node {wanted} was dialled and node {found} answered")]
    Node {
        /// Whom the dialler meant.
        wanted: NodeId,
        /// Who listens there.
        found: NodeId,
    },
    /// A node dialled its own address, or another one goes by its id.
    #[error("the node at that address has this node's own id")]
    SelfDial,
    /// Another process goes by that node's id, in a newer life: one is a copy of the other.
    #[error("a newer life of node {node}, {newer}, is there: this is another process under its id")]
    Duplicate {
        /// Whose.
        node: NodeId,
        /// The newer life's incarnation.
        newer: u64,
    },
    /// Not the next step of this handshake.
    #[error("the handshake is malformed: {0}")]
    Malformed(String),
    /// The next step did not come in time.
    #[error("the handshake took too long")]
    Timeout,
}

impl Mismatch {
    /// A word for the label of a metric.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Mismatch::Version { .. } => "version",
            Mismatch::Secret => "secret",
            Mismatch::Cluster { .. } => "cluster",
            Mismatch::Node { .. } => "node",
            Mismatch::SelfDial => "self",
            Mismatch::Duplicate { .. } => "duplicate",
            Mismatch::Malformed(_) => "malformed",
            Mismatch::Timeout => "timeout",
        }
    }
}

impl From<DecodeError> for Mismatch {
    fn from(error: DecodeError) -> Self {
        Mismatch::Malformed(error.to_string())
    }
}

/// A refusal as the head of a frame.
pub(crate) fn refusal(mismatch: &Mismatch) -> Vec<u8> {
    let mut out = Encoder::new();
    out.u8(REFUSED);
    out.u8(VERSIONS.newest);
    match mismatch {
        Mismatch::Version { dialler, listener } => {
            out.u8(1);
            for side in [dialler, listener] {
                out.u8(side.newest);
                out.u8(side.oldest);
            }
        }
        Mismatch::Secret => out.u8(2),
        Mismatch::Cluster { dialler, listener } => {
            out.u8(3);
            out.u128(dialler.0);
            out.u128(listener.0);
        }
        Mismatch::Node { wanted, found } => {
            out.u8(4);
            out.u64(wanted.0);
            out.u64(found.0);
        }
        Mismatch::SelfDial => out.u8(5),
        Mismatch::Malformed(text) => {
            out.u8(6);
            out.text(cut(text, TEXT_BYTES_MAX));
        }
        Mismatch::Timeout => out.u8(7),
        Mismatch::Duplicate { node, newer } => {
            out.u8(8);
            out.u64(node.0);
            out.u64(*newer);
        }
    }
    out.into_vec()
}

/// Reads a refusal behind its tag.
pub(crate) fn read_refusal(mut from: Decoder<'_>) -> Result<Mismatch, DecodeError> {
    // A later version may refuse for reasons of its own; the first ones stay as they are.
    from.u8()?;
    Ok(match from.u8()? {
        1 => Mismatch::Version { dialler: versions(&mut from)?, listener: versions(&mut from)? },
        2 => Mismatch::Secret,
        3 => Mismatch::Cluster {
            dialler: ClusterId(from.u128()?),
            listener: ClusterId(from.u128()?),
        },
        4 => Mismatch::Node { wanted: NodeId(from.u64()?), found: NodeId(from.u64()?) },
        5 => Mismatch::SelfDial,
        6 => Mismatch::Malformed(from.text("a refusal")?.to_owned()),
        7 => Mismatch::Timeout,
        8 => Mismatch::Duplicate { node: NodeId(from.u64()?), newer: from.u64()? },
        code => Mismatch::Malformed(format!("refused for reason {code}, unknown to this build")),
    })
}

fn versions(from: &mut Decoder<'_>) -> Result<Versions, DecodeError> {
    Ok(Versions { newest: from.u8()?, oldest: from.u8()? })
}

/// The longest prefix of `text` of at most `bytes_max` bytes that ends between characters.
pub(crate) fn cut(text: &str, bytes_max: usize) -> &str {
    text.get(..text.floor_char_boundary(bytes_max)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_side_reads_the_reason_that_was_given() {
        let reasons = [
            Mismatch::Version {
                dialler: Versions { oldest: 2, newest: 3 },
                listener: Versions::only(1),
            },
            Mismatch::Duplicate { node: NodeId(5), newer: 7 },
            Mismatch::Secret,
            Mismatch::Cluster { dialler: ClusterId(1), listener: ClusterId(2) },
            Mismatch::Node { wanted: NodeId(3), found: NodeId(4) },
            Mismatch::SelfDial,
            Mismatch::Malformed("step 3 came for step 1".to_owned()),
            Mismatch::Timeout,
        ];
        for reason in reasons {
            let head = refusal(&reason);
            assert_eq!(head.first(), Some(&REFUSED));
            assert_eq!(read_refusal(Decoder::new(&head[1..])), Ok(reason));
        }
    }

    #[test]
    fn the_newest_version_that_both_speak_is_taken() {
        let table = [
            ((1, 1), (1, 1), Some(1)),
            ((1, 3), (2, 5), Some(3)),
            ((2, 5), (1, 3), Some(3)),
            ((1, 9), (4, 4), Some(4)),
            ((1, 1), (2, 3), None),
            ((4, 6), (1, 3), None),
            // Junk: the oldest above the newest.
            ((3, 1), (1, 3), None),
        ];
        for ((oldest, newest), (other_oldest, other_newest), common) in table {
            let (one, other) = (
                Versions { oldest, newest },
                Versions { oldest: other_oldest, newest: other_newest },
            );
            assert_eq!(one.newest_common(other), common, "{one} and {other}");
        }
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(cut("aü", 2), "a");
        assert_eq!(cut("aü", 3), "aü");
    }
}
