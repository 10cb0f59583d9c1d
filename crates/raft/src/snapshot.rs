//! What a snapshot is here: nothing, until it is sent.
//!
//! The store itself is the snapshot: everything up to its durable applied mark
//! is on disk already. So "building" one is reading that mark, which lets
//! openraft purge the log up to it, and costs no copy. Only when a follower
//! needs one are the rows read, in one frozen view, and streamed.
//!
//! The peer plane carries bytes and cuts them where it likes (a chunk of rows is often longer than its
//! frames), so a chunk travels with its length in front, and is put together again at the end.
//!
//! What is sent may be newer than what was announced; the stream carries its
//! own applied mark, and the receiver goes by that.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use openraft::RaftSnapshotBuilder;
use stemedb_engine::{Group as EngineGroup, Import};

use crate::codec::decode_applied;
use crate::types::{Config, Snapshot, SnapshotMeta};

/// A snapshot on its way.
pub(crate) enum SnapshotData {
    /// The rows of this node's store.
    Here(EngineGroup),
    /// Rows from a peer, staged beside the living ones.
    Received(Box<Import>),
}

/// The snapshot that stands: the store up to its durable mark; `None` before the first flush.
pub(crate) fn current(store: &EngineGroup) -> io::Result<Option<Snapshot>> {
    let Some(mark) = store.durable_applied()? else { return Ok(None) };
    let meta = meta_of(&mark)?;
    Ok(Some(Snapshot { meta, snapshot: SnapshotData::Here(store.clone()) }))
}

/// What an applied mark says, as openraft asks it.
pub(crate) fn meta_of(mark: &[u8]) -> io::Result<SnapshotMeta> {
    let (last_log_id, last_membership) =
        decode_applied(mark).map_err(|cause| io::Error::new(io::ErrorKind::InvalidData, cause))?;
    Ok(SnapshotMeta { last_log_id, last_membership })
}

/// No chunk is longer: it holds about 256 KiB of rows, and one more row.
const CHUNK_BYTES_MAX: usize = 64 << 20;
/// A length, little-endian, in front of each chunk.
const LENGTH_BYTES: usize = 4;

/// A chunk as it travels.
pub(crate) fn framed(chunk: &Bytes) -> Bytes {
    let mut out = BytesMut::with_capacity(LENGTH_BYTES + chunk.len());
    out.put_u32_le(chunk.len() as u32);
    out.put_slice(chunk);
    out.freeze()
}

/// Puts chunks together from pieces that were cut anywhere.
#[derive(Default)]
pub(crate) struct Chunks {
    left: BytesMut,
}

impl Chunks {
    /// Takes the next piece; the chunks that are whole now come from [`Chunks::next`].
    pub(crate) fn take(&mut self, piece: &[u8]) {
        self.left.extend_from_slice(piece);
    }

    /// The next whole chunk, if there is one; an error if what comes can't be one.
    pub(crate) fn next(&mut self) -> Result<Option<Bytes>, String> {
        let Some(length) = self.left.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let length = u32::from_le_bytes(*length) as usize;
        if length > CHUNK_BYTES_MAX {
            return Err(format!("a chunk of {length} bytes is too long"));
        }
        if self.left.len() < LENGTH_BYTES + length {
            return Ok(None);
        }
        self.left.advance(LENGTH_BYTES);
        Ok(Some(self.left.split_to(length).freeze()))
    }

    /// Whether nothing of another chunk is left over.
    pub(crate) fn is_even(&self) -> bool {
        self.left.is_empty()
    }
}

/// Announces a snapshot.
pub(crate) struct Builder {
    store: EngineGroup,
    flush: bool,
}

impl Builder {
    /// Of what is durable already.
    pub(crate) fn of_durable(store: EngineGroup) -> Self {
        Self { store, flush: false }
    }

    /// Of everything applied: makes it durable first.
    pub(crate) fn of_applied(store: EngineGroup) -> Self {
        Self { store, flush: true }
    }
}

impl RaftSnapshotBuilder<Config> for Builder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        if self.flush {
            let store = self.store.store().clone();
            tokio::task::spawn_blocking(move || store.flush())
                .await
                .map_err(io::Error::other)??;
        }
        match current(&self.store)? {
            Some(snapshot) => Ok(snapshot),
            // Nothing was ever applied: the empty store is its own snapshot.
            None => Ok(Snapshot {
                meta: SnapshotMeta::default(),
                snapshot: SnapshotData::Here(self.store.clone()),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn chunks_come_whole_wherever_they_were_cut(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 0..8),
            cut in 1..20usize,
        ) {
            let sent: Vec<u8> =
                chunks.iter().flat_map(|chunk| framed(&Bytes::from(chunk.clone()))).collect();
            let mut together = Chunks::default();
            let mut come = Vec::new();
            for piece in sent.chunks(cut) {
                together.take(piece);
                while let Some(chunk) = together.next().expect("a chunk") {
                    come.push(chunk.to_vec());
                }
            }
            prop_assert_eq!(come, chunks);
            prop_assert!(together.is_even());
        }
    }

    #[test]
    fn a_length_that_can_not_be_is_refused_and_a_cut_end_is_noticed() {
        let mut together = Chunks::default();
        together.take(&[255; 8]);
        assert!(together.next().is_err());
        let mut together = Chunks::default();
        together.take(&framed(&Bytes::from_static(b"chunk"))[..7]);
        assert_eq!(together.next(), Ok(None));
        assert!(!together.is_even());
    }
}
