//! Why two nodes don't talk, and how one tells the other.

use stemedb_types::{ClusterId, DecodeError, Decoder, Encoder, NodeId};

use crate::handshake::PROTOCOL_VERSION;

/// Tag of a refusal among the frames of a handshake.
pub(crate) const REFUSED: u8 = 5;
/// Longest free text of a refusal, in bytes, so that it fits a frame of the handshake.
const TEXT_BYTES_MAX: usize = 512;

/// Why two nodes don't talk. Both sides report the same value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// They speak different versions of the protocol.
    #[error("the dialling node speaks peer protocol {dialler}, the other one {listener}")]
    Version {
        /// The dialler's.
        dialler: u8,
        /// The listener's.
        listener: u8,
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
    out.u8(PROTOCOL_VERSION);
    match mismatch {
        Mismatch::Version { dialler, listener } => {
            out.u8(1);
            out.u8(*dialler);
            out.u8(*listener);
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
    }
    out.into_vec()
}

/// Reads a refusal behind its tag.
pub(crate) fn read_refusal(mut from: Decoder<'_>) -> Result<Mismatch, DecodeError> {
    // A later version may refuse for reasons of its own; the first ones stay as they are.
    from.u8()?;
    Ok(match from.u8()? {
        1 => Mismatch::Version { dialler: from.u8()?, listener: from.u8()? },
        2 => Mismatch::Secret,
        3 => Mismatch::Cluster {
            dialler: ClusterId(from.u128()?),
            listener: ClusterId(from.u128()?),
        },
        4 => Mismatch::Node { wanted: NodeId(from.u64()?), found: NodeId(from.u64()?) },
        5 => Mismatch::SelfDial,
        6 => Mismatch::Malformed(from.text("a refusal")?.to_owned()),
        7 => Mismatch::Timeout,
        code => Mismatch::Malformed(format!("refused for reason {code}, unknown to this build")),
    })
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
            Mismatch::Version { dialler: 2, listener: 1 },
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
    fn a_text_is_cut_between_characters() {
        assert_eq!(cut("aü", 2), "a");
        assert_eq!(cut("aü", 3), "aü");
    }
}
