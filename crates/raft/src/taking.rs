//! A snapshot from the leader: taken in beside what goes on.
//!
//! A replica takes in one at a time. Its files are written and checked on a
//! thread of its own, at low priority; what came whole stays for a while when the connection
//! breaks, so that the next stream goes on from there. A newer offer ends the stream
//! of an older one: whoever leads now knows better, and a broken connection
//! may be noticed here much later than there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use openraft::rt::WatchReceiver;
use stemedb_engine::{Error as StoreError, Incoming};
use stemedb_rpc::{Envelope, Refusal, SnapshotChunks};
use tokio::sync::{Mutex, Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::codec::{Offer, OfferAnswer, decode_snapshot_header, encode_snapshot_response};
use crate::group::Group;
use crate::inbound::{broken, full, stopped};
use crate::runtime::{blocking, is_hosted, spawn};
use crate::snapshot::{SnapshotData, meta_of};
use crate::space::Level;
use crate::types::{LogId, Snapshot, Vote};

/// Pieces that wait for the disk.
const PIECES_QUEUED_MAX: usize = 4;
/// How long files stay while nobody sends more of them.
const STAGED_KEPT: Duration = Duration::from_secs(120);
/// The longest that the thread rests behind each MiB it has synced, and each it has checked: no more than
/// 8 s for a GiB.
const REST_MAX: Duration = Duration::from_millis(4);
/// How much nicer than others the thread is.
const NICENESS: i32 = 10;

/// The snapshot that a replica is taking in.
pub(crate) struct Staged {
    /// Locked while a stream fills it, and while it is installed.
    slot: Mutex<Option<Incoming>>,
    /// How many offers came: one more ends the stream that is under way.
    offers: watch::Sender<u64>,
    /// Held by the thread that writes.
    writing: Arc<Semaphore>,
    closed: AtomicBool,
}

impl Default for Staged {
    fn default() -> Self {
        Self {
            slot: Mutex::new(None),
            offers: watch::Sender::new(0),
            writing: Arc::new(Semaphore::new(1)),
            closed: AtomicBool::new(false),
        }
    }
}

impl Staged {
    /// Gives up what is staged, and waits until nothing of it holds on to the store.
    pub(crate) async fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.offers.send_modify(|count| *count += 1);
        drop(self.slot.lock().await.take());
        let _ = self.writing.acquire().await;
    }

    /// Gives up what is staged if no offer comes for a while.
    fn expire(self: &Arc<Self>) {
        let (staged, seen) = (Arc::downgrade(self), *self.offers.borrow());
        spawn(async move {
            tokio::time::sleep(STAGED_KEPT).await;
            let Some(staged) = staged.upgrade() else { return };
            let mut slot = staged.slot.lock().await;
            if *staged.offers.borrow() == seen
                && let Some(incoming) = slot.take()
            {
                tracing::info!(
                    files = incoming.have(),
                    "half a snapshot is given up: no more came"
                );
                let _ = blocking(move || drop(incoming)).await;
            }
        });
    }
}

impl Group {
    /// Says what this replica wants of a snapshot, and makes ready for it.
    pub(crate) async fn take_offer(&self, offer: Offer) -> Result<OfferAnswer, Refusal> {
        // It would fill the reserve; once there is room it is offered again.
        if self.space.level() != Level::Open {
            return Err(full());
        }
        let staged = &self.staged;
        let own_vote = self.vote();
        if own_vote > offer.vote {
            return Ok(OfferAnswer::Needless(own_vote));
        }
        staged.offers.send_modify(|count| *count += 1);
        let mut slot = staged.slot.lock().await;
        if staged.closed.load(Ordering::Acquire) {
            return Err(stopped("the replica stops"));
        }
        if self.has_applied(offer.last) {
            return Ok(OfferAnswer::Needless(self.vote()));
        }
        let incoming = match slot.take().filter(|incoming| incoming.id() == offer.id) {
            Some(incoming) => incoming,
            None => {
                let (store, id) = (self.applied.store(), offer.id);
                let begun = blocking(move || Incoming::begin(&store, id)).await;
                begun.map_err(stopped)?.map_err(stopped)?
            }
        };
        let answer = OfferAnswer::Send { generation: incoming.generation(), have: incoming.have() };
        *slot = Some(incoming);
        staged.expire();
        Ok(answer)
    }

    /// Takes a snapshot that was offered: stages its files as they come, then installs them.
    pub(crate) async fn take_snapshot(
        &self,
        header: Envelope,
        chunks: SnapshotChunks,
    ) -> Result<Bytes, Refusal> {
        let (vote, id) = decode_snapshot_header(&header.payload).map_err(broken)?;
        // From here on: an offer that comes while we wait for the slot ends this one as well.
        let offers = self.staged.offers.subscribe();
        let mut slot = self.staged.slot.lock().await;
        let incoming = match slot.take() {
            Some(incoming) if incoming.id() == id => incoming,
            other => {
                *slot = other;
                return Err(broken("a snapshot that was not offered"));
            }
        };
        let group = self.id();
        tracing::info!(%group, from_file = incoming.have(), "taking in a snapshot");
        let begun = Instant::now();
        let room = self.space.watch();
        let (incoming, taken) = self.staged.fill(incoming, chunks, offers, room).await?;
        let (files, bytes, ms) = (incoming.have(), incoming.bytes(), begun.elapsed().as_millis());
        if let Err(cause) = taken {
            tracing::warn!(%group, files, bytes, ms, %cause, "a snapshot broke off");
            // A whole one with something behind it is not what it says it is.
            if !incoming.is_whole() {
                *slot = Some(incoming);
                self.staged.expire();
            }
            return Err(broken(cause));
        }
        tracing::info!(%group, files, bytes, ms, "a snapshot is here; installing it");
        // The slot stays locked: an offer of the same meanwhile is answered when it is installed.
        self.install(vote, incoming).await
    }

    async fn install(&self, vote: Vote, incoming: Incoming) -> Result<Bytes, Refusal> {
        let mark = incoming.applied().ok_or_else(|| broken("the snapshot has no applied mark"))?;
        let meta = meta_of(&mark).map_err(broken)?;
        // openraft would end the replica over it.
        if meta
            .last_log_id
            .is_some_and(|last| last.committed_leader_id().term > vote.leader_id.term)
        {
            return Err(broken("the snapshot ends in a term that its leader does not know"));
        }
        let last = meta.last_log_id;
        let snapshot = Snapshot { meta, snapshot: SnapshotData::Received(Box::new(incoming)) };
        let answer = self.raft.install_full_snapshot(vote, snapshot).await.map_err(stopped)?;
        self.has_synced(last).await?;
        Ok(encode_snapshot_response(&answer))
    }

    /// Waits until the own disk holds everything up to `last`. openraft installs nothing and says yes
    /// at once where the log has it all, synced or not; the leader would count on what a power cut
    /// can still take, and never send it again.
    async fn has_synced(&self, last: Option<LogId>) -> Result<(), Refusal> {
        let Some(last) = last else { return Ok(()) };
        let reached = self.closing.unless(self.synced.reach(last.index())).await;
        reached.flatten().map_err(stopped)
    }

    fn vote(&self) -> Vote {
        let metrics = self.raft.metrics();
        metrics.borrow_watched().vote
    }

    /// Nothing is applied before it is synced here, so this says that as well.
    fn has_applied(&self, last: Option<LogId>) -> bool {
        let metrics = self.raft.metrics();
        metrics.borrow_watched().last_applied >= last
    }
}

/// How a stream went.
type Taken = Result<(), String>;

impl Staged {
    /// Feeds a stream to whoever writes it, until it ends, breaks, another is offered, or
    /// it would take the disks' reserve: that is for what keeps the node going.
    async fn fill(
        &self,
        incoming: Incoming,
        mut chunks: SnapshotChunks,
        mut offers: watch::Receiver<u64>,
        mut room: watch::Receiver<Level>,
    ) -> Result<(Incoming, Taken), Refusal> {
        let mut scribe = self.scribe(incoming).await?;
        let fed = loop {
            let piece = tokio::select! {
                biased;
                _ = offers.changed() => break Err("another one is offered".to_owned()),
                _ = room.wait_for(|level| *level != Level::Open) => {
                    break Err("this node's disks are full".to_owned());
                }
                piece = chunks.next() => piece,
            };
            match piece {
                None => break Ok(()),
                Some(Err(cause)) => break Err(cause.to_string()),
                // Refused: it says why when it ends.
                Some(Ok(piece)) => {
                    if !scribe.takes(piece).await {
                        break Ok(());
                    }
                }
            }
        };
        let (incoming, written) = scribe.end().await?;
        let taken = match written {
            Err(cause) => Err(cause.to_string()),
            // However the connection ended: nothing is missing.
            Ok(()) if incoming.is_whole() => Ok(()),
            Ok(()) => fed.and(Err("the stream ended early".to_owned())),
        };
        Ok((incoming, taken))
    }

    /// Starts the thread that writes and checks; on a host, there is none.
    async fn scribe(&self, mut incoming: Incoming) -> Result<Scribe, Refusal> {
        if is_hosted() {
            return Ok(Scribe::Here { incoming: Box::new(incoming), written: Ok(()) });
        }
        let writing = self.writing.clone().acquire_owned().await.map_err(stopped)?;
        let (pieces, mut taken) = mpsc::channel(PIECES_QUEUED_MAX);
        let (tell, done) = oneshot::channel();
        let thread = std::thread::Builder::new().name("snapshot-in".to_owned());
        let started = thread.spawn(move || {
            let _ = rustix::process::setpriority_process(None, NICENESS);
            incoming.rest_between(REST_MAX);
            let written = take_all(&mut incoming, &mut taken);
            incoming.break_off();
            drop(taken);
            let _ = tell.send((incoming, written));
            drop(writing);
        });
        started.map_err(stopped)?;
        Ok(Scribe::There { pieces, done })
    }
}

/// Who writes and checks what comes.
enum Scribe {
    /// A thread.
    There {
        pieces: mpsc::Sender<Bytes>,
        done: oneshot::Receiver<(Incoming, Result<(), StoreError>)>,
    },
    /// Whoever receives it.
    Here { incoming: Box<Incoming>, written: Result<(), StoreError> },
}

impl Scribe {
    /// Hands a piece over; whether more is wanted.
    async fn takes(&mut self, piece: Bytes) -> bool {
        match self {
            Scribe::There { pieces, .. } => pieces.send(piece).await.is_ok(),
            Scribe::Here { incoming, written } => {
                *written = incoming.take(&piece);
                written.is_ok()
            }
        }
    }

    /// Returns what was written once it is, and whether all that came could be.
    async fn end(self) -> Result<(Incoming, Result<(), StoreError>), Refusal> {
        match self {
            Scribe::There { pieces, done } => {
                drop(pieces);
                done.await.map_err(stopped)
            }
            Scribe::Here { mut incoming, written } => {
                incoming.break_off();
                Ok((*incoming, written))
            }
        }
    }
}

fn take_all(incoming: &mut Incoming, pieces: &mut mpsc::Receiver<Bytes>) -> Result<(), StoreError> {
    while let Some(piece) = pieces.blocking_recv() {
        metrics::counter!("stemedb_snapshot_received_bytes_total").increment(piece.len() as u64);
        incoming.take(&piece)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use stemedb_engine::{Budget, Group as EngineGroup, RocksStore};
    use stemedb_types::GroupId;

    #[tokio::test]
    async fn a_stream_breaks_off_once_it_would_fill_the_reserve() {
        let dir = tempfile::tempdir().unwrap();
        let store = RocksStore::open(dir.path(), Budget::default()).unwrap();
        let group = EngineGroup::open(Arc::new(store), GroupId(1)).unwrap();
        let (staged, space) = (Staged::default(), crate::Space::default());
        let incoming = Incoming::begin(&group, 1).unwrap();
        let silent = SnapshotChunks::from_stream(futures_util::stream::pending());
        let filling = staged.fill(incoming, silent, staged.offers.subscribe(), space.watch());
        tokio::pin!(filling);
        let early = tokio::time::timeout(Duration::from_millis(100), &mut filling).await;
        assert!(early.is_err(), "there is room");
        space.set(Level::Full);
        let ended = tokio::time::timeout(Duration::from_secs(10), filling).await;
        let (_, taken) = ended.expect("it hears of it").expect("it was taken");
        assert_eq!(taken, Err("this node's disks are full".to_owned()));
    }
}
