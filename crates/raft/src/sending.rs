//! A snapshot to a follower: offered, sent, resumed.
//!
//! The follower is asked first: it may have it all, or some files of it from
//! before the connection broke. The view that the files are made from stays
//! for a while after a break, so that what the follower has is of the same snapshot. All groups of
//! a node share one rate and [`SENDING_MAX`] turns; who has none waits, and keeps the log meanwhile.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use openraft::errors::{NetworkError, RPCError};
use openraft::raft::SnapshotResponse;
use stemedb_engine::{Error as StoreError, Group as EngineGroup, Outgoing, Sink, Terms, Throttle};
use stemedb_rpc::Lane;
use stemedb_types::ReplicaId;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use crate::codec::{
    Offer, OfferAnswer, decode_offer_answer, decode_snapshot_response, encode_offer,
    encode_snapshot_header,
};
use crate::group::GroupOptions;
use crate::inbound::kinds;
use crate::network::{Link, RpcResult, failed};
use crate::runtime::{blocking, is_hosted};
use crate::snapshot::meta_of;
use crate::types::{Config, LogId, SnapshotMeta, Vote};

/// Snapshots that a node sends at once.
const SENDING_MAX: usize = 2;
/// Pieces of a snapshot read ahead of the network.
const PIECES_AHEAD: usize = 4;
/// The same on a host, where a snapshot is read whole before it is sent: those are small.
const PIECES_HELD: usize = 1 << 14;
/// How long a view is kept while nobody asks for it.
const VIEW_KEPT: Duration = Duration::from_secs(60);
/// How long a follower has to say what it wants: it may be installing the very snapshot.
const OFFER_TIMEOUT: Duration = Duration::from_secs(30);

/// What all groups of a node share.
#[derive(Clone)]
pub(crate) struct Transfers {
    throttle: Arc<Throttle>,
    turns: Arc<Semaphore>,
}

impl Default for Transfers {
    fn default() -> Self {
        Self { throttle: Arc::default(), turns: Arc::new(Semaphore::new(SENDING_MAX)) }
    }
}

/// How a group sends snapshots.
#[derive(Clone)]
pub(crate) struct Sending {
    views: Arc<Views>,
    transfers: Transfers,
    terms: Terms,
}

impl Sending {
    pub(crate) fn new(views: Arc<Views>, transfers: Transfers, options: &GroupOptions) -> Self {
        let terms = Terms {
            file_bytes: options.snapshot_file_bytes,
            bytes_per_second: options.snapshot_bytes_per_second,
            throttle: transfers.throttle.clone(),
            kept: VIEW_KEPT,
        };
        Self { views, transfers, terms }
    }
}

/// Where a log was purged up to.
type Purged = Box<dyn Fn() -> Option<u64> + Send + Sync>;
/// Whether a follower only listens: it is on its way in.
type Learns = Box<dyn Fn(ReplicaId) -> bool + Send + Sync>;

/// The views that a group sends from, one for each follower that is being sent a snapshot or was
/// until its connection broke.
#[derive(Default)]
pub(crate) struct Views {
    purged: Option<Purged>,
    open: Mutex<BTreeMap<ReplicaId, Arc<Outgoing>>>,
    /// Followers that a snapshot is meant for just now, with or without a view.
    under_way: AtomicUsize,
    /// Told once the group runs.
    learns: OnceLock<Learns>,
    /// Bytes sent of the streams that run.
    sent: Mutex<BTreeMap<ReplicaId, Arc<AtomicU64>>>,
}

impl Views {
    pub(crate) fn new(purged: Purged) -> Self {
        Self { purged: Some(purged), ..Self::default() }
    }

    /// Says how learners are told from voters.
    pub(crate) fn tell_learners(&self, learns: Learns) {
        // Said once, by whoever opened the group.
        let _ = self.learns.set(learns);
    }

    fn is_learner(&self, follower: ReplicaId) -> bool {
        self.learns.get().is_some_and(|learns| learns(follower))
    }

    /// Bytes of the stream to a follower that were sent so far, if one runs.
    pub(crate) fn sent_bytes(&self, follower: ReplicaId) -> Option<u64> {
        let sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        sent.get(&follower).map(|bytes| bytes.load(Ordering::Relaxed))
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<ReplicaId, Arc<Outgoing>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a follower will need the log behind a snapshot that it does not have yet.
    pub(crate) fn any(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) > 0
            || self.open().values().any(|view| view.is_kept())
    }

    /// The oldest view that a follower could go on from: behind it, the log must still be there.
    pub(crate) fn oldest_kept(&self) -> Option<SnapshotMeta> {
        let purged = self.purged.as_ref().and_then(|purged| purged());
        let open = self.open();
        let kept = open.values().filter(|view| view.is_kept());
        let metas = kept.filter_map(|view| meta_of(view.applied()).ok());
        metas
            .filter(|meta| meta.last_log_id.as_ref().map(LogId::index) >= purged)
            .min_by_key(|meta| meta.last_log_id)
    }

    /// The view kept for a follower, if it is not older than what was announced.
    fn kept(&self, follower: ReplicaId, announced: Option<LogId>) -> Option<Arc<Outgoing>> {
        let view = self.open().get(&follower).filter(|view| view.is_kept()).cloned()?;
        (meta_of(view.applied()).ok()?.last_log_id >= announced).then_some(view)
    }

    /// Ends all views and waits until they hold on to nothing.
    pub(crate) async fn close(&self) {
        let views = std::mem::take(&mut *self.open());
        let closing = blocking(move || {
            views.values().for_each(|view| view.close());
        });
        let _ = closing.await;
    }
}

/// Counts a snapshot for as long as it is meant for a follower.
struct UnderWay(Arc<Views>);

impl UnderWay {
    fn begin(views: &Arc<Views>) -> Self {
        views.under_way.fetch_add(1, Ordering::Relaxed);
        Self(views.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Shows the bytes of a stream for as long as it runs.
struct Shown<'v> {
    views: &'v Views,
    to: ReplicaId,
}

impl<'v> Shown<'v> {
    fn begin(views: &'v Views, to: ReplicaId, bytes: Arc<AtomicU64>) -> Self {
        views.sent.lock().unwrap_or_else(PoisonError::into_inner).insert(to, bytes);
        Self { views, to }
    }
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        self.views.sent.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.to);
    }
}

fn network(cause: impl std::error::Error + 'static) -> RPCError<Config> {
    RPCError::Network(NetworkError::new(&cause))
}

fn lost<E: std::error::Error + 'static>(cause: E) -> RPCError<Config> {
    network(cause)
}

impl Link {
    /// Sends a snapshot that ends where `announced` says or behind it, and returns what the
    /// follower says once it has installed it.
    pub(crate) async fn send_snapshot(
        &self,
        vote: Vote,
        store: EngineGroup,
        announced: Option<LogId>,
    ) -> RpcResult<SnapshotResponse<Config>> {
        let sending = &self.network.sending;
        let _under_way = UnderWay::begin(&sending.views);
        let turn = sending.transfers.turns.acquire().await.map_err(lost)?;
        let view = match sending.views.kept(self.target, announced) {
            Some(view) => view,
            None => self.freeze(store).await?,
        };
        let sent = self.send_view(vote, &view).await;
        drop(turn);
        match &sent {
            // It has it, or follows another leader: the view is of no more use.
            Ok(_) => {
                let done = sending.views.open().remove(&self.target);
                end(done).await;
            }
            Err(error) => {
                let (group, to) = (self.network.group, self.node);
                tracing::warn!(%group, %to, %error, "a snapshot was not taken; its view is kept for a while");
            }
        }
        sent
    }

    /// Begins a view of the store as it stands now.
    async fn freeze(&self, store: EngineGroup) -> RpcResult<Arc<Outgoing>> {
        let sending = &self.network.sending;
        let (id, terms) = (self.network.plane.draw(), sending.terms.clone());
        let begun = blocking(move || Outgoing::begin(&store, id, terms)).await;
        let view = Arc::new(begun.map_err(lost)?.map_err(lost)?);
        let before = sending.views.open().insert(self.target, view.clone());
        end(before).await;
        Ok(view)
    }

    async fn send_view(
        &self,
        vote: Vote,
        view: &Arc<Outgoing>,
    ) -> RpcResult<SnapshotResponse<Config>> {
        let (generation, have) = match self.offer(vote, view).await? {
            OfferAnswer::Send { generation, have } => (generation, have),
            OfferAnswer::Needless(vote) => return Ok(SnapshotResponse::new(vote)),
        };
        let (group, to) = (self.network.group, self.node);
        tracing::info!(%group, %to, from_file = have, "sending a snapshot");
        let begun = Instant::now();
        let (pieces, stream) = mpsc::channel(if is_hosted() { PIECES_HELD } else { PIECES_AHEAD });
        let bytes = Arc::new(AtomicU64::new(0));
        let views = &self.network.sending.views;
        let _shown = Shown::begin(views, self.target, bytes.clone());
        let moves = views.is_learner(self.target);
        let (held, over) = sync_channel::<Infallible>(1);
        view.send(generation, have, into(pieces, bytes.clone(), moves, held)).map_err(lost)?;
        if is_hosted() {
            // Nothing happens beside the one thread: the sink lets go of this when it has it all.
            let _ = over.recv();
        }
        let header = self.envelope(kinds::SNAPSHOT, encode_snapshot_header(&vote, view.id()));
        let stream = ReceiverStream::new(stream).boxed();
        let answer = self.network.plane.send_snapshot(self.node, header, stream).await;
        let (bytes, ms) = (bytes.load(Ordering::Relaxed), begun.elapsed().as_millis());
        tracing::info!(%group, %to, bytes, ms, taken = answer.is_ok(), "a snapshot's stream ended");
        decode_snapshot_response(&answer.map_err(failed)?).map_err(lost)
    }

    /// Asks the follower what it wants of a view.
    async fn offer(&self, vote: Vote, view: &Outgoing) -> RpcResult<OfferAnswer> {
        let last = meta_of(view.applied()).map_err(lost)?.last_log_id;
        let payload = encode_offer(&Offer { vote, id: view.id(), last });
        let deadline = Instant::now() + OFFER_TIMEOUT;
        let envelope = self.envelope(kinds::OFFER, payload);
        let answer = self.network.plane.request(self.node, Lane::Normal, envelope, deadline).await;
        decode_offer_answer(&answer.map_err(failed)?).map_err(lost)
    }
}

/// Ends a view that is of no more use, and waits until it holds on to nothing.
async fn end(view: Option<Arc<Outgoing>>) {
    if let Some(view) = view {
        let _ = blocking(move || view.close()).await;
    }
}

/// What a sink holds, let go of in this order: the stream has ended before anybody hears that it is
/// over, or on a host its end would come whenever the thread gets there.
struct Hand {
    pieces: mpsc::Sender<io::Result<Bytes>>,
    bytes: Arc<AtomicU64>,
    /// It is for a replica on its way in.
    moves: bool,
    _held: SyncSender<Infallible>,
}

impl Hand {
    fn take(&self, piece: Result<Bytes, StoreError>) -> ControlFlow<()> {
        let length = piece.as_ref().map_or(0, Bytes::len) as u64;
        if self.pieces.blocking_send(piece.map_err(io::Error::other)).is_err() {
            return ControlFlow::Break(());
        }
        self.bytes.fetch_add(length, Ordering::Relaxed);
        metrics::counter!("stemedb_snapshot_sent_bytes_total").increment(length);
        if self.moves {
            metrics::counter!("stemedb_rebalance_bytes_total").increment(length);
        }
        ControlFlow::Continue(())
    }
}

/// Hands pieces on to the network, and counts them.
fn into(
    pieces: mpsc::Sender<io::Result<Bytes>>,
    bytes: Arc<AtomicU64>,
    moves: bool,
    held: SyncSender<Infallible>,
) -> Sink {
    let hand = Hand { pieces, bytes, moves, _held: held };
    Box::new(move |piece| hand.take(piece))
}
