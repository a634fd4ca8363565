//! Requests to a satellite: kept streams, one request at a time on each, and one policy for retries.
//!
//! A request that may safely be repeated (all but making and removing buckets) is: after a lost stream at once and then with growing pauses,
//! until [`RETRY_FOR`] is over. The others go over a stream of their own, so that a kept stream that died unnoticed
//! never leaves it open whether they were carried out.

use crate::transport::{BoxStream, Host, PeerAddress, Protocol, TransportError};
use backon::{BackoffBuilder, ExponentialBuilder};
use bytes::Bytes;
use parking_lot::Mutex;
use std::time::Duration;
use strewn_engine::bucket::Error;
use strewn_engine::ids::SatelliteId;
use strewn_wire::frame::{self, FrameError};
use strewn_wire::satellite::{Hello, MAX_COMMIT_FRAME, MAX_REPLY, MAX_REQUEST, Reply, Request, VERSION};
use tokio::io::AsyncWriteExt;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};

/// Requests under way at once; more wait.
const MAX_REQUESTS: usize = 128;
/// Streams kept for the next request.
const MAX_IDLE: usize = 32;
/// A single try, without the time a long poll asks for.
const ATTEMPT: Duration = Duration::from_secs(20);
/// All tries together; the last one may be cut short.
const RETRY_FOR: Duration = Duration::from_secs(25);
/// Pause before the second retry (the first follows at once), doubled up to [`MAX_PAUSE`], with jitter.
const MIN_PAUSE: Duration = Duration::from_millis(20);
/// Longest pause between tries.
const MAX_PAUSE: Duration = Duration::from_secs(2);

/// One API key's connection to its satellite.
pub(super) struct SatelliteClient {
    host: Host,
    address: PeerAddress,
    api_key: Bytes,
    idle: Mutex<Vec<BoxStream>>,
    slots: Semaphore,
}

/// Why one try failed.
enum Failure {
    /// Before the request was sent.
    Connect(TransportError),
    /// Afterwards: it may or may not have been carried out.
    Lost(FrameError),
    /// The peer breaks the protocol.
    Protocol(String),
    /// No answer in time.
    Silent,
}

impl SatelliteClient {
    /// Connects when first asked something.
    pub(super) fn new(host: Host, address: PeerAddress, api_key: Bytes) -> Self {
        Self { host, address, api_key, idle: Mutex::new(Vec::new()), slots: Semaphore::new(MAX_REQUESTS) }
    }

    /// The satellite's identity, as its address names it.
    pub(super) fn id(&self) -> Result<SatelliteId, Error> {
        let key = crate::identity::public_key(&self.address.peer);
        key.map(SatelliteId::from_bytes).ok_or_else(|| Error::Invalid("the satellite's peer id is not ed25519".into()))
    }

    /// Asks something that may safely be asked twice.
    pub(super) async fn ask(&self, request: &Request) -> Result<Reply, Error> {
        let message = encode(request)?;
        let attempt = ATTEMPT + long_poll(request);
        let deadline = Instant::now() + RETRY_FOR + long_poll(request);
        let _slot = self.slots.acquire().await.expect("never closed");
        let mut pauses = pauses();
        let mut kept = self.idle.lock().pop();
        loop {
            let was_kept = kept.is_some();
            let tried = timeout_at(deadline, self.attempt(kept.take(), &message, attempt)).await;
            let failure = match tried.unwrap_or(Err(Failure::Silent)) {
                Ok(reply) => return accepted(reply),
                Err(failure) => failure,
            };
            tracing::debug!(reason = %failure.reason(), "satellite request failed");
            if was_kept {
                continue; // it had died while it was idle; the others probably too, so the next one is fresh
            }
            match pauses.next() {
                Some(pause) if failure.may_pass() && Instant::now() + pause < deadline => {
                    tokio::time::sleep(pause).await;
                }
                _ => return Err(failure.into()),
            }
        }
    }

    /// Asks something that must not be asked twice. After [`Error::Unreachable`] it may or may not have been done.
    pub(super) async fn ask_once(&self, request: &Request) -> Result<Reply, Error> {
        let message = encode(request)?;
        let _slot = self.slots.acquire().await.expect("never closed");
        let deadline = Instant::now() + RETRY_FOR;
        let mut pauses = pauses();
        loop {
            match self.attempt(None, &message, ATTEMPT).await {
                Ok(reply) => return accepted(reply),
                Err(failure @ Failure::Connect(_)) if failure.may_pass() => match pauses.next() {
                    Some(pause) if Instant::now() + pause < deadline => tokio::time::sleep(pause).await,
                    _ => return Err(failure.into()),
                },
                Err(failure) => return Err(failure.into()),
            }
        }
    }

    async fn attempt(&self, kept: Option<BoxStream>, message: &[u8], limit: Duration) -> Result<Reply, Failure> {
        let exchange = async {
            let mut stream = match kept {
                Some(stream) => stream,
                None => self.open().await?,
            };
            let lost = |error: std::io::Error| Failure::Lost(error.into());
            stream.write_all(message).await.map_err(lost)?;
            stream.flush().await.map_err(lost)?;
            let reply = match frame::read(&mut stream, MAX_REPLY).await {
                Ok(Some(reply)) => reply,
                Ok(None) => return Err(Failure::Lost(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into())),
                Err(FrameError::Io(error)) => return Err(lost(error)),
                Err(error) => return Err(Failure::Protocol(error.to_string())),
            };
            let mut idle = self.idle.lock();
            if idle.len() < MAX_IDLE {
                idle.push(stream);
            }
            Ok(reply)
        };
        timeout(limit, exchange).await.unwrap_or(Err(Failure::Silent))
    }

    /// A stream that has said who asks. The satellite answers that only if it refuses, in place of the first reply.
    async fn open(&self) -> Result<BoxStream, Failure> {
        let mut stream = self.host.open(&self.address, Protocol::Uplink).await.map_err(Failure::Connect)?;
        let hello = Hello { version: VERSION, api_key: self.api_key.clone() };
        frame::write(&mut stream, &hello, MAX_REQUEST).await.map_err(Failure::Lost)?;
        Ok(stream)
    }
}

impl Failure {
    fn may_pass(&self) -> bool {
        !matches!(
            self,
            Self::Protocol(_) | Self::Connect(TransportError::BadAddress(_) | TransportError::Unsupported(_))
        )
    }

    fn reason(&self) -> String {
        match self {
            Self::Connect(error) => error.to_string(),
            Self::Lost(error) => format!("connection lost: {error}"),
            Self::Protocol(error) => error.clone(),
            Self::Silent => "no answer in time".into(),
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let reason = format!("satellite: {}", failure.reason());
        if failure.may_pass() { Self::Unreachable(reason) } else { Self::Invalid(reason) }
    }
}

fn accepted(reply: Reply) -> Result<Reply, Error> {
    match reply {
        Reply::Failed(error) => Err(error),
        reply => Ok(reply),
    }
}

fn encode(request: &Request) -> Result<Vec<u8>, Error> {
    let limit = if matches!(request, Request::Commit { .. }) { MAX_COMMIT_FRAME } else { MAX_REQUEST };
    let mut message = Vec::new();
    frame::append(&mut message, request, limit).map_err(|error| Error::Invalid(error.to_string()))?;
    Ok(message)
}

fn long_poll(request: &Request) -> Duration {
    match request {
        Request::Changes { wait, .. } => *wait,
        _ => Duration::ZERO,
    }
}

fn pauses() -> impl Iterator<Item = Duration> {
    let growing = ExponentialBuilder::default()
        .with_min_delay(MIN_PAUSE)
        .with_max_delay(MAX_PAUSE)
        .with_jitter()
        .without_max_times();
    growing.build()
}
