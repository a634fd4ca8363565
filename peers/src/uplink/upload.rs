//! Storing a segment: drives the engine's upload machine over the network.
//!
//! One task per piece sends what the driver hands it and hashes it on the way; encoding runs on the blocking pool. What is
//! in memory is what the machine holds (see there) and at most one window's part per piece, and uploads wait for each other
//! so that all together stay below [`UPLOAD_MEMORY`].

use super::health::Observer;
use super::piece::{self, PieceError, PieceSource};
use super::streams::{NodeStream, NodeStreams};
use super::{Shared, random, unexpected};
use bytes::Bytes;
use ed25519_dalek::{SigningKey, VerifyingKey};
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use strewn_engine::bucket::{Error, SegmentSource};
use strewn_engine::erasure::{Encoder, PieceWindow};
use strewn_engine::ids::{BucketId, SegmentId};
use strewn_engine::order::{Receipt, Signed};
use strewn_engine::piece::{Root, RootBuilder};
use strewn_engine::segment::{Geometry, WINDOW};
use strewn_engine::transfer::upload::{Action, NodeRef, Outcome, PutId, Settings, Stored, Upload};
use strewn_wire::satellite::{self, PieceLimit, Reply, Request, StoredPiece};
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Most bytes of encoded windows in memory over all uploads of a process.
const UPLOAD_MEMORY: u64 = 64 << 20;
/// Most segments uploaded at once.
const MAX_UPLOADS: usize = 8;
/// Unit in which memory is accounted, in bytes.
const MEMORY_UNIT: u64 = 64 << 10;
/// Windows of a segment in memory beside those the machine holds: one that is being encoded and one that is being sent.
const WINDOWS_BESIDE: u64 = 2;
/// Events from the tasks of an upload that may wait for its driver.
const EVENT_QUEUE: usize = 256;
/// How long a cancelled put may take to leave its stream usable before the stream is dropped.
const END_GRACE: Duration = Duration::from_secs(3);

/// Bounds what all uploads of a process hold in memory.
pub(super) struct UploadSlots {
    uploads: Semaphore,
    memory: Semaphore,
}

impl UploadSlots {
    pub(super) fn new() -> Self {
        Self { uploads: Semaphore::new(MAX_UPLOADS), memory: Semaphore::new((UPLOAD_MEMORY / MEMORY_UNIT) as usize) }
    }

    async fn memory(&self, geometry: &Geometry, settings: &Settings) -> SemaphorePermit<'_> {
        let windows = (settings.held_windows as u64 + WINDOWS_BESIDE).min(geometry.windows().into());
        let window = WINDOW.min(geometry.length()) * u64::from(geometry.total()) / u64::from(geometry.required());
        let units = (windows * window).clamp(MEMORY_UNIT, UPLOAD_MEMORY) / MEMORY_UNIT;
        self.memory.acquire_many(units as u32).await.expect("never closed")
    }
}

/// See [`BucketService::put_segment`](strewn_engine::bucket::BucketService::put_segment).
pub(super) async fn put_segment(
    shared: &Arc<Shared>,
    bucket: BucketId,
    segment: SegmentId,
    source: Arc<dyn SegmentSource>,
) -> Result<(), Error> {
    let _slot = shared.uploads.uploads.acquire().await.expect("never closed");
    let length = source.len();
    let key = SigningKey::from_bytes(&random());
    let uplink = key.verifying_key().to_bytes();
    let begun = match shared.satellite.ask(&Request::BeginSegment { bucket, segment, length, uplink }).await? {
        Reply::Upload(begun) if begun.finished => return Ok(()),
        Reply::Upload(begun) if begun.satellite == shared.satellite_id => begun,
        _ => return Err(unexpected()),
    };
    let geometry = Geometry::new(begun.redundancy, length).map_err(|error| Error::Invalid(error.to_string()))?;
    let settings = Settings::default();
    let _memory = shared.uploads.memory(&geometry, &settings).await;
    let driver = Driver::new(shared, bucket, segment, key, geometry, source);
    let pieces = driver.run(begun, settings).await?;
    match shared.satellite.ask(&Request::FinishSegment { bucket, segment, pieces }).await? {
        Reply::Done => Ok(()),
        _ => Err(unexpected()),
    }
}

/// What the tasks of an upload tell its driver.
enum Event {
    Progress(PutId),
    Sent(PutId),
    Stored(PutId, Signed<Receipt>, Root),
    Failed(PutId, PieceError),
    Encoded(Encoder, u32, io::Result<PieceWindow>),
    Replacements(Result<Vec<PieceLimit>, Error>),
}

struct Driver {
    shared: Arc<Shared>,
    bucket: BucketId,
    segment: SegmentId,
    key: SigningKey,
    geometry: Geometry,
    source: Arc<dyn SegmentSource>,
    started: Instant,
    events: (mpsc::Sender<Event>, mpsc::Receiver<Event>),
    /// Limits by [`NodeRef`].
    limits: Vec<PieceLimit>,
    puts: HashMap<PutId, RunningPut>,
    receipts: HashMap<PutId, StoredPiece>,
    /// At rest between two encodings.
    encoder: Option<Encoder>,
    held: HashMap<u32, PieceWindow>,
    /// Released windows whose buffers the next encoding may use again.
    released: Vec<PieceWindow>,
    /// Ends all tasks when the driver goes.
    all: CancellationToken,
    _end: DropGuard,
}

/// The driver's end of a put.
struct RunningPut {
    number: u16,
    node: NodeRef,
    /// One window at a time: the machine waits until it is sent.
    windows: mpsc::Sender<Bytes>,
    cancel: CancellationToken,
}

impl Driver {
    fn new(
        shared: &Arc<Shared>,
        bucket: BucketId,
        segment: SegmentId,
        key: SigningKey,
        geometry: Geometry,
        source: Arc<dyn SegmentSource>,
    ) -> Self {
        let all = CancellationToken::new();
        Self {
            shared: shared.clone(),
            bucket,
            segment,
            key,
            geometry,
            source,
            started: Instant::now(),
            events: mpsc::channel(EVENT_QUEUE),
            limits: Vec::new(),
            puts: HashMap::new(),
            receipts: HashMap::new(),
            encoder: Some(Encoder::new(geometry)),
            held: HashMap::new(),
            released: Vec::new(),
            _end: all.clone().drop_guard(),
            all,
        }
    }

    async fn run(mut self, begun: satellite::Upload, settings: Settings) -> Result<Vec<StoredPiece>, Error> {
        let pieces = self.register(begun.pieces);
        let mut machine = Upload::new(begun.redundancy, self.geometry.windows(), pieces, settings, self.now());
        loop {
            while let Some(action) = machine.poll() {
                match action {
                    Action::Done(Outcome::Stored { pieces, complete }) => {
                        tracing::debug!(segment = %self.segment, pieces = pieces.len(), complete, "segment stored");
                        return Ok(self.stored(pieces));
                    }
                    Action::Done(Outcome::Failed { stored, needed }) => {
                        return Err(Error::TooFewNodes { found: stored.into(), needed: needed.into() });
                    }
                    action => self.obey(action),
                }
            }
            let wake = self.started + machine.wake_at().unwrap_or_default();
            tokio::select! {
                event = self.events.1.recv() => {
                    let event = event.expect("the driver holds a sender itself");
                    self.note(&mut machine, event)?;
                    while let Ok(event) = self.events.1.try_recv() {
                        self.note(&mut machine, event)?;
                    }
                }
                () = sleep_until(wake) => machine.handle_tick(self.now()),
            }
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Remembers limits; gives the machine's names for them.
    fn register(&mut self, pieces: Vec<PieceLimit>) -> Vec<(u16, NodeRef)> {
        self.shared.observer.learn(pieces.iter().map(|piece| piece.node.node));
        let room = u32::MAX as usize - self.limits.len();
        let first = self.limits.len() as u32;
        let named =
            (first..).zip(pieces.iter().take(room)).map(|(node, piece)| (piece.number, NodeRef(node))).collect();
        self.limits.extend(pieces);
        named
    }

    fn obey(&mut self, action: Action) {
        match action {
            Action::Start { put, number, node } => self.start(put, number, node),
            Action::Encode(window) => self.encode(window),
            Action::Send { put, window } => {
                let Some(put) = self.puts.get(&put) else { return };
                let Some(bytes) = self.held.get(&window).and_then(|held| held.piece(put.number)) else { return };
                // The machine sends the next window only after this one, so there is room unless the task has ended.
                let _ = put.windows.try_send(bytes.clone());
            }
            Action::Release(window) => self.released.extend(self.held.remove(&window)),
            Action::Cancel(put) => {
                if let Some(put) = self.puts.remove(&put) {
                    put.cancel.cancel();
                }
            }
            Action::Replace(failed) => self.replace(failed),
            Action::Done(_) => unreachable!("handled by run"),
        }
    }

    fn note(&mut self, machine: &mut Upload, event: Event) -> Result<(), Error> {
        let now = self.now();
        match event {
            Event::Progress(put) => machine.handle_progress(now, put),
            Event::Sent(put) => machine.handle_sent(now, put),
            Event::Stored(put, receipt, root) => match self.accept(put, receipt, root) {
                Ok(()) => machine.handle_stored(now, put),
                Err(reason) => {
                    self.blame(put, reason);
                    machine.handle_failed(now, put);
                }
            },
            Event::Failed(put, error) => {
                if !matches!(error, PieceError::Cancelled) {
                    self.blame(put, &error.to_string());
                }
                self.puts.remove(&put);
                machine.handle_failed(now, put);
            }
            Event::Encoded(encoder, window, encoded) => {
                self.encoder = Some(encoder);
                let encoded = encoded.map_err(|error| Error::Internal(format!("sealed segment: {error}")))?;
                self.held.insert(window, encoded);
                machine.handle_encoded(now, window);
            }
            Event::Replacements(Ok(pieces)) => {
                let pieces = self.register(pieces);
                machine.handle_replacements(now, pieces);
            }
            Event::Replacements(Err(error)) => {
                tracing::info!(segment = %self.segment, %error, "no other nodes for lost pieces");
                machine.handle_replacements(now, []);
            }
        }
        Ok(())
    }

    fn start(&mut self, put: PutId, number: u16, node: NodeRef) {
        let Some(limit) = self.limits.get(node.0 as usize).cloned() else { return };
        let (windows, queue) = mpsc::channel(1);
        let cancel = self.all.child_token();
        self.puts.insert(put, RunningPut { number, node, windows, cancel: cancel.clone() });
        let feed = Feed {
            put,
            left: self.geometry.windows(),
            sending: false,
            windows: queue,
            events: self.events.0.clone(),
            cancel: cancel.clone(),
            hash: RootBuilder::new(),
        };
        let task = PutTask {
            nodes: self.shared.nodes.clone(),
            observer: self.shared.observer.clone(),
            limit,
            key: self.key.clone(),
            length: self.geometry.piece_length(),
            feed,
        };
        tokio::spawn(task.run(cancel));
    }

    fn encode(&mut self, window: u32) {
        let mut encoder = self.encoder.take().unwrap_or_else(|| Encoder::new(self.geometry));
        let released = std::mem::take(&mut self.released);
        let (source, events) = (self.source.clone(), self.events.0.clone());
        tokio::task::spawn_blocking(move || {
            released.into_iter().for_each(|window| encoder.recycle(window));
            let encoded = encoder.encode(window, |offset, buffer| source.read_at(offset, buffer));
            // The upload may have ended meanwhile.
            let _ = events.blocking_send(Event::Encoded(encoder, window, encoded));
        });
    }

    fn replace(&self, failed: Vec<u16>) {
        let (shared, events) = (self.shared.clone(), self.events.0.clone());
        let (bucket, segment, uplink) = (self.bucket, self.segment, self.key.verifying_key().to_bytes());
        let all = self.all.clone();
        tokio::spawn(all.run_until_cancelled_owned(async move {
            let request = Request::ReplacePieces { bucket, segment, failed, uplink };
            let replacements = match shared.satellite.ask(&request).await {
                Ok(Reply::Upload(upload)) => Ok(upload.pieces),
                Ok(_) => Err(unexpected()),
                Err(error) => Err(error),
            };
            let _ = events.send(Event::Replacements(replacements)).await;
        }));
    }

    /// Checks a receipt: the node's own, for this limit, with the root that was sent.
    fn accept(&mut self, put: PutId, receipt: Signed<Receipt>, root: Root) -> Result<(), &'static str> {
        let running = self.puts.get(&put).ok_or("a receipt after the end")?;
        let limit = self.limits.get(running.node.0 as usize).ok_or("a receipt from nowhere")?;
        let key = VerifyingKey::from_bytes(limit.node.node.as_bytes()).map_err(|_| "a node id that is no key")?;
        let found = receipt.verify(&key).map_err(|_| "a receipt that the node did not sign")?;
        if found.limit != limit.limit.hash() || found.length != self.geometry.piece_length() || found.root != root {
            return Err("a receipt for something else");
        }
        let stored = StoredPiece { number: running.number, limit: limit.limit.clone(), root, receipt };
        self.puts.remove(&put);
        self.receipts.insert(put, stored);
        Ok(())
    }

    fn blame(&mut self, put: PutId, reason: &str) {
        let limit = self.puts.remove(&put).and_then(|put| self.limits.get(put.node.0 as usize));
        if let Some(limit) = limit {
            let (node, number) = (limit.node.node, limit.number);
            tracing::info!(segment = %self.segment, %node, number, reason, "piece not stored");
        }
    }

    fn stored(mut self, pieces: Vec<Stored>) -> Vec<StoredPiece> {
        pieces.iter().filter_map(|piece| self.receipts.remove(&piece.put)).collect()
    }
}

/// One attempt to store one piece.
struct PutTask {
    nodes: Arc<NodeStreams>,
    observer: Arc<Observer>,
    limit: PieceLimit,
    key: SigningKey,
    length: u64,
    feed: Feed,
}

impl PutTask {
    async fn run(mut self, cancel: CancellationToken) {
        let (put, events) = (self.feed.put, self.feed.events.clone());
        let patience = async {
            cancel.cancelled().await;
            sleep(END_GRACE).await;
        };
        let result = tokio::select! {
            result = self.put(&cancel) => result,
            () = patience => {
                self.observer.node(self.limit.node.node, false);
                Err(PieceError::Cancelled)
            }
        };
        let event = match result {
            Ok((receipt, root)) => Event::Stored(put, receipt, root),
            Err(error) => Event::Failed(put, error),
        };
        // The upload may have ended meanwhile.
        let _ = events.send(event).await;
    }

    async fn put(&mut self, cancel: &CancellationToken) -> Result<(Signed<Receipt>, Root), PieceError> {
        let opened = cancel.run_until_cancelled(self.nodes.take(&self.limit.node)).await;
        let opened = opened.ok_or(PieceError::Cancelled)?;
        let node = self.limit.node.node;
        let mut stream: NodeStream = opened.map_err(|error| {
            self.observer.node(node, false);
            PieceError::Lost(io::Error::other(error))
        })?;
        let limit = &self.limit.limit;
        let result = piece::put(&mut stream, limit, &self.key, self.length, &mut self.feed).await;
        self.observer.node(node, !matches!(result, Err(PieceError::Lost(_))));
        if matches!(result, Ok(_) | Err(PieceError::Cancelled)) {
            self.nodes.keep(stream);
        }
        let receipt = result?;
        let tree = std::mem::take(&mut self.feed.hash).finish();
        let root = tree.map_err(|error| PieceError::Protocol(error.to_string()))?.root();
        Ok((receipt, root))
    }
}

/// A piece's windows as they come from the driver, hashed as they go.
struct Feed {
    put: PutId,
    /// Windows still to come.
    left: u32,
    sending: bool,
    windows: mpsc::Receiver<Bytes>,
    events: mpsc::Sender<Event>,
    cancel: CancellationToken,
    hash: RootBuilder,
}

impl PieceSource for Feed {
    async fn next(&mut self) -> Result<Option<Bytes>, PieceError> {
        if std::mem::take(&mut self.sending) {
            self.events.send(Event::Sent(self.put)).await.map_err(|_| PieceError::Cancelled)?;
        }
        if self.left == 0 {
            return Ok(None);
        }
        let window = self.cancel.run_until_cancelled(self.windows.recv()).await.flatten();
        let window = window.ok_or(PieceError::Cancelled)?;
        self.hash.update(&window);
        self.left -= 1;
        self.sending = true;
        Ok(Some(window))
    }

    fn sent(&mut self) {
        // Only a sign of life: when the driver is behind with these, it has seen others.
        let _ = self.events.try_send(Event::Progress(self.put));
    }
}
