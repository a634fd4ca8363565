//! Reading blocks: drives the engine's download machine over the network.
//!
//! One task per request to a node proves each share as it comes. What is in memory is the machine's window and the
//! answer itself; rebuilding lost shares runs on the blocking pool.

use super::Shared;
use super::locate::{Found, Locator, SegmentReader, Source};
use super::piece::{self, GetRequest, PieceError, SentShare, ShareSink};
use super::streams::NodeStream;
use bytes::Bytes;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use strewn_engine::bucket::Error;
use strewn_engine::erasure::{DecodeError, Decoder, StripeGroup};
use strewn_engine::ids::{InodeId, RunId, SegmentId};
use strewn_engine::piece::{BadShare, PieceShape, ProvenShare, verify};
use strewn_engine::segment::Geometry;
use strewn_engine::transfer::download::{Action, Download, Failure, GetId, Outcome, Settings};
use strewn_wire::node::NodeError;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Events from the tasks of a download that may wait for its driver.
const EVENT_QUEUE: usize = 64;
/// How long a cancelled request may take to run out, so that its stream can be kept.
const DRAIN_GRACE: Duration = Duration::from_secs(1);
/// When the machine waits for nothing in particular it is asked again after this.
const LONG: Duration = Duration::from_secs(10);
/// Most bytes that all downloads of a process hold, answers not counted.
const DOWNLOAD_MEMORY: u64 = 96 << 20;
/// Unit in which memory is accounted, in bytes.
const MEMORY_UNIT: u64 = 64 << 10;
/// Most streams that the downloads of a process are to use at once: each is a file descriptor. A download that begins takes
/// as many as it needs, and one in [`SPARE_STREAMS`] more for slow nodes; it waits for none later.
const DOWNLOAD_STREAMS: u32 = 112;
/// See [`DOWNLOAD_STREAMS`].
const SPARE_STREAMS: u32 = 4;
/// How often a read is tried, the last times with fresh locations and limits.
const TRIES: u32 = 2;

/// See [`BucketService::run_blocks`](strewn_engine::bucket::BucketService::run_blocks).
pub(super) async fn run_blocks(
    locator: &Locator,
    inode: InodeId,
    run: RunId,
    first: u64,
    count: u64,
) -> Result<Bytes, Error> {
    let mut tries = 1;
    loop {
        let location = locator.run(inode, run).await?;
        let read = match location.find(first, count)? {
            Found::Inline(bytes) => return Ok(bytes),
            Found::Stretches(stretches) => read_stretches(locator, inode, run, stretches).await,
        };
        match read {
            Err(error) if tries < TRIES && locator.forget(run, &location).await => {
                tracing::debug!(%error, "read failed: asking where the run is now");
                tries += 1;
            }
            read => return read,
        }
    }
}

async fn read_stretches(
    locator: &Locator,
    inode: InodeId,
    run: RunId,
    stretches: Vec<(SegmentId, Range<u64>)>,
) -> Result<Bytes, Error> {
    let mut parts = Vec::with_capacity(stretches.len());
    for (segment, range) in stretches {
        let reader = locator.reader(inode, run, segment).await?;
        if range.end > reader.geometry.length() {
            return Err(Error::Invalid("the satellite's place of a run lies beyond its segment".into()));
        }
        let settings = Settings::default();
        let _streams = locator.shared.downloads.streams(&reader.geometry).await;
        let _memory = locator.shared.downloads.memory(&reader.geometry, &settings, &range).await;
        parts.push(Driver::new(&locator.shared, reader, range).run(settings).await?);
    }
    match <[Bytes; 1]>::try_from(parts) {
        Ok([part]) => Ok(part),
        Err(parts) => Ok(parts.concat().into()),
    }
}

/// Bounds what all downloads of a process hold in memory, and their streams.
pub(super) struct DownloadSlots {
    memory: Semaphore,
    streams: Semaphore,
}

impl DownloadSlots {
    pub(super) fn new() -> Self {
        let units = (DOWNLOAD_MEMORY / MEMORY_UNIT) as usize;
        Self { memory: Semaphore::new(units), streams: Semaphore::new(DOWNLOAD_STREAMS as usize) }
    }

    /// Room for the shares of a window of the range: at worst all k of each stripe, though only some are wanted.
    async fn memory(&self, geometry: &Geometry, settings: &Settings, range: &Range<u64>) -> SemaphorePermit<'_> {
        let stripe = u64::from(geometry.share_length(0)) * u64::from(geometry.required());
        let wanted = geometry.stripes_of(range.clone()).len() as u64 * stripe;
        let units = wanted.min(settings.window.max(stripe)).clamp(MEMORY_UNIT, DOWNLOAD_MEMORY) / MEMORY_UNIT;
        self.memory.acquire_many(units as u32).await.expect("never closed")
    }

    async fn streams(&self, geometry: &Geometry) -> SemaphorePermit<'_> {
        let required = u32::from(geometry.required());
        let streams = (required + required.div_ceil(SPARE_STREAMS)).min(DOWNLOAD_STREAMS);
        self.streams.acquire_many(streams).await.expect("never closed")
    }
}

/// What the tasks of a download tell its driver.
enum Event {
    Share(GetId, Result<ProvenShare, BadShare>),
    Ended(GetId, Result<(), PieceError>),
}

struct Driver {
    shared: Arc<Shared>,
    reader: Arc<SegmentReader>,
    /// Positions in the reader's sources by piece number.
    pieces: HashMap<u16, usize>,
    range: Range<u64>,
    started: Instant,
    events: (mpsc::Sender<Event>, mpsc::Receiver<Event>),
    gets: HashMap<GetId, (u16, CancellationToken)>,
    /// Sources that could not be reached, broke off or refused for now.
    lost: u32,
    all: CancellationToken,
    _end: DropGuard,
}

impl Driver {
    fn new(shared: &Arc<Shared>, reader: Arc<SegmentReader>, range: Range<u64>) -> Self {
        let all = CancellationToken::new();
        let numbered = reader.sources.iter().enumerate().rev();
        Self {
            shared: shared.clone(),
            pieces: numbered.map(|(position, source)| (source.limit.number, position)).collect(),
            reader,
            range,
            started: Instant::now(),
            events: mpsc::channel(EVENT_QUEUE),
            gets: HashMap::new(),
            lost: 0,
            _end: all.clone().drop_guard(),
            all,
        }
    }

    async fn run(mut self, settings: Settings) -> Result<Bytes, Error> {
        let geometry = self.reader.geometry;
        let sources = self.reader.sources.iter().map(|source| (source.limit.number, source.root));
        let latencies = self.shared.latencies.lock().clone();
        let range = self.range.clone();
        let mut machine = Download::new(geometry, range, sources, settings, latencies, self.now());
        let mut answer = Answer::new(geometry, self.range.clone());
        loop {
            while let Some(group) = machine.take(self.now()) {
                answer.add(group).await?;
            }
            while let Some(action) = machine.poll() {
                match action {
                    Action::Get { get, piece, shares } => self.get(get, piece, shares),
                    Action::Cancel(get) => {
                        if let Some((_, cancel)) = self.gets.remove(&get) {
                            cancel.cancel();
                        }
                    }
                    Action::Blame { piece, share } => self.blame(piece, share),
                    Action::Done(Outcome::Finished) => {
                        *self.shared.latencies.lock() = machine.latencies().clone();
                        return Ok(answer.finish());
                    }
                    Action::Done(Outcome::Failed { reachable, needed }) => return Err(self.failed(reachable, needed)),
                }
            }
            let wake = self.started + machine.wake_at().unwrap_or(self.now() + LONG);
            tokio::select! {
                event = self.events.1.recv() => {
                    let event = event.expect("the driver holds a sender itself");
                    self.note(&mut machine, event);
                    while let Ok(event) = self.events.1.try_recv() {
                        self.note(&mut machine, event);
                    }
                }
                () = sleep_until(wake) => machine.handle_tick(self.now()),
            }
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn note(&mut self, machine: &mut Download, event: Event) {
        let now = self.now();
        match event {
            Event::Share(get, share) => machine.handle_share(now, get, share),
            Event::Ended(get, Ok(())) => {
                self.gets.remove(&get);
                machine.handle_ended(now, get);
            }
            Event::Ended(get, Err(error)) => {
                let piece = self.gets.remove(&get).map(|(piece, _)| piece);
                machine.handle_failed(now, get, self.judge(piece, &error));
            }
        }
    }

    fn judge(&mut self, piece: Option<u16>, error: &PieceError) -> Failure {
        if let Some(source) = piece.and_then(|piece| self.source(piece)) {
            let (node, number) = (source.limit.node.node, source.limit.number);
            tracing::info!(%node, number, %error, "piece not read");
        }
        match error {
            PieceError::Refused(NodeError::NotFound | NodeError::Damaged) | PieceError::Protocol(_) => Failure::Absent,
            PieceError::Refused(NodeError::Limit(_) | NodeError::Unpaid { .. }) => {
                self.reader.refuse();
                self.lost += 1;
                Failure::Absent
            }
            PieceError::Refused(_) | PieceError::Lost(_) | PieceError::Cancelled => {
                self.lost += 1;
                Failure::Lost
            }
        }
    }

    fn source(&self, piece: u16) -> Option<&Source> {
        self.reader.sources.get(*self.pieces.get(&piece)?)
    }

    fn blame(&self, piece: u16, share: u32) {
        if let Some(source) = self.source(piece) {
            let node = source.limit.node.node;
            tracing::warn!(%node, piece, share, "node sent a share that does not belong to its piece");
        }
    }

    fn failed(&self, reachable: u16, needed: u16) -> Error {
        let reason = format!("{reachable} of {needed} needed pieces");
        if self.lost > 0 { Error::Unreachable(reason) } else { Error::Unavailable(reason) }
    }

    fn get(&mut self, get: GetId, piece: u16, shares: Range<u32>) {
        let Some(&position) = self.pieces.get(&piece) else { return };
        let cancel = self.all.child_token();
        self.gets.insert(get, (piece, cancel.clone()));
        let task = GetTask {
            shared: self.shared.clone(),
            reader: self.reader.clone(),
            position,
            get,
            shares,
            events: self.events.0.clone(),
            answered: AtomicBool::new(false),
        };
        tokio::spawn(task.run(cancel));
    }
}

/// One request to one node.
struct GetTask {
    shared: Arc<Shared>,
    reader: Arc<SegmentReader>,
    position: usize,
    get: GetId,
    shares: Range<u32>,
    events: mpsc::Sender<Event>,
    /// A share has come.
    answered: AtomicBool,
}

impl GetTask {
    async fn run(self, cancel: CancellationToken) {
        let patience = async {
            cancel.cancelled().await;
            sleep(DRAIN_GRACE).await;
        };
        let result = tokio::select! {
            result = self.fetch() => {
                self.observe(!matches!(result, Err(PieceError::Lost(_))));
                result
            }
            () = patience => {
                // One that has sent something is only slow.
                self.observe(self.answered.load(Ordering::Relaxed));
                Err(PieceError::Cancelled)
            }
        };
        // The download may have ended meanwhile.
        let _ = self.events.send(Event::Ended(self.get, result)).await;
    }

    fn observe(&self, answered: bool) {
        if let Some(source) = self.reader.sources.get(self.position) {
            self.shared.observer.node(source.limit.node.node, answered);
        }
    }

    async fn fetch(&self) -> Result<(), PieceError> {
        let source = self.reader.sources.get(self.position).ok_or(PieceError::Cancelled)?;
        let nodes = &self.shared.nodes;
        let unreachable = |error| {
            self.reader.miss();
            PieceError::Lost(std::io::Error::other(error))
        };
        let mut stream = nodes.take(&source.limit.node).await.map_err(unreachable)?;
        let mut result = self.request(source, &mut stream).await;
        if stream.kept && matches!(result, Err(PieceError::Lost(_))) {
            stream = nodes.fresh(&source.limit.node).await.map_err(unreachable)?;
            result = self.request(source, &mut stream).await;
        }
        if matches!(result, Ok(()) | Err(PieceError::Refused(_))) {
            nodes.keep(stream);
        }
        result
    }

    async fn request(&self, source: &Source, stream: &mut NodeStream) -> Result<(), PieceError> {
        let shape = self.reader.geometry.piece();
        let length = self.shares.clone().map(|share| u64::from(shape.share_length(share))).sum();
        let spent = || PieceError::Refused(NodeError::Unpaid { spent: source.spent(), paid: source.spent() });
        let request = GetRequest {
            limit: source.limit.limit.clone(),
            order: self.reader.pay(source, length).ok_or_else(spent)?,
            first: self.shares.start,
            count: self.shares.len() as u32,
            piece_length: shape.length(),
        };
        piece::get(stream, &request, &mut Prover { task: self, source, shape }).await
    }
}

/// Proves the shares of a request as they come.
struct Prover<'a> {
    task: &'a GetTask,
    source: &'a Source,
    shape: PieceShape,
}

impl ShareSink for Prover<'_> {
    async fn arrived(&mut self, share: SentShare) -> Result<(), PieceError> {
        self.task.answered.store(true, Ordering::Relaxed);
        let proven = verify(&self.source.root, self.shape, share.number, share.bytes, &share.proof);
        // When the download has ended the rest is only read so that the stream can be kept.
        let _ = self.task.events.send(Event::Share(self.task.get, proven)).await;
        Ok(())
    }
}

/// The bytes so far.
struct Answer {
    geometry: Geometry,
    range: Range<u64>,
    decoder: Decoder,
    /// The answer if it is part of a single share.
    slice: Option<Bytes>,
    bytes: Vec<u8>,
}

impl Answer {
    fn new(geometry: Geometry, range: Range<u64>) -> Self {
        Self { geometry, range, decoder: Decoder::new(geometry), slice: None, bytes: Vec::new() }
    }

    async fn add(&mut self, group: StripeGroup) -> Result<(), Error> {
        self.slice = self.slice_of(&group);
        if self.slice.is_some() {
            return Ok(());
        }
        if self.bytes.is_empty() {
            self.bytes.reserve_exact((self.range.end - self.range.start) as usize);
        }
        let is_rebuilt = group.shares.iter().any(|(piece, _)| *piece >= self.geometry.required());
        let bad = |error: DecodeError| Error::Unavailable(error.to_string());
        if !is_rebuilt {
            return self.decoder.read(&group, self.range.clone(), &mut self.bytes).map_err(bad);
        }
        let mut decoder = std::mem::replace(&mut self.decoder, Decoder::new(self.geometry));
        let mut bytes = std::mem::take(&mut self.bytes);
        let range = self.range.clone();
        let rebuild = move || {
            let result = decoder.read(&group, range, &mut bytes);
            (decoder, bytes, result)
        };
        let done = tokio::task::spawn_blocking(rebuild).await;
        let (decoder, bytes, result) = done.map_err(|error| Error::Internal(error.to_string()))?;
        (self.decoder, self.bytes) = (decoder, bytes);
        result.map_err(bad)
    }

    /// A small read is part of one share: no need to copy it.
    fn slice_of(&self, group: &StripeGroup) -> Option<Bytes> {
        let mut parts = self.geometry.parts(self.range.clone());
        let (part, None) = (parts.next()?, parts.next()) else { return None };
        let (_, shares) = group.shares.iter().find(|(piece, _)| *piece == part.piece)?;
        let share = shares.get(part.stripe.checked_sub(group.stripes.start)? as usize)?;
        Some(share.slice(part.bytes.start as usize..part.bytes.end as usize))
    }

    fn finish(self) -> Bytes {
        self.slice.unwrap_or_else(|| self.bytes.into())
    }
}
