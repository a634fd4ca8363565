//! Requests to a satellite: kept streams, one request at a time on each, and one policy for retries.
//!
//! A request that may safely be repeated (all but making and removing buckets) is: after a lost stream at once and then with
//! growing pauses, until [`Patience::all`] is over; a long poll only at once, because who polls comes again and wants to
//! know that the satellite is away. The others go over a stream of their own, so that a kept stream that died unnoticed
//! never leaves it open whether they were carried out.

use super::health::Observer;
use crate::transport::{BoxStream, Host, PeerAddress, Protocol, TransportError};
use backon::{BackoffBuilder, ExponentialBuilder};
use bytes::Bytes;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use strewn_engine::bucket::Error;
use strewn_engine::ids::SatelliteId;
use strewn_wire::frame::{self, FrameError};
use strewn_wire::satellite::{Hello, MAX_REPLY, MAX_REQUEST, Reply, Request, VERSION};
use tokio::io::AsyncWriteExt;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};

/// Requests under way at once; more wait.
const MAX_REQUESTS: usize = 128;
/// Streams kept for the next request.
const MAX_IDLE: usize = 32;
/// Pause before the second retry (the first follows at once), doubled up to [`MAX_PAUSE`], with jitter.
const MIN_PAUSE: Duration = Duration::from_millis(20);
/// Longest pause between tries.
const MAX_PAUSE: Duration = Duration::from_secs(2);

/// A connection slower than this many bytes per second is taken for dead: long messages get time in proportion.
const MIN_RATE: u64 = 64 * 1024;

/// How long requests may take, without the time a long poll asks for and that a long message takes.
#[derive(Debug, Clone, Copy)]
struct Patience {
    /// A single try.
    attempt: Duration,
    /// All tries together; the last one may be cut short.
    all: Duration,
}

impl Patience {
    const DEFAULT: Self = Self { attempt: Duration::from_secs(10), all: Duration::from_secs(25) };
}

/// One API key's connection to its satellite.
pub(super) struct SatelliteClient {
    host: Host,
    address: PeerAddress,
    api_key: Bytes,
    idle: Mutex<Vec<BoxStream>>,
    slots: Semaphore,
    patience: Patience,
    observer: Arc<Observer>,
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
    pub(super) fn new(host: Host, address: PeerAddress, api_key: Bytes, observer: Arc<Observer>) -> Self {
        let (idle, slots) = (Mutex::new(Vec::new()), Semaphore::new(MAX_REQUESTS));
        Self { host, address, api_key, idle, slots, patience: Patience::DEFAULT, observer }
    }

    /// The satellite's identity, as its address names it.
    pub(super) fn id(&self) -> Result<SatelliteId, Error> {
        let key = crate::identity::public_key(&self.address.peer);
        key.map(SatelliteId::from_bytes).ok_or_else(|| Error::Invalid("the satellite's peer id is not ed25519".into()))
    }

    /// Asks something that may safely be asked twice.
    pub(super) async fn ask(&self, request: &Request) -> Result<Reply, Error> {
        let message = encode(request)?;
        let wait = request.wait();
        let polls = wait.is_some();
        let more = wait.unwrap_or_default() + sending(&message);
        let attempt = self.patience.attempt + more;
        let deadline = Instant::now() + self.patience.all + more;
        let _slot = self.slots.acquire().await.expect("never closed");
        let mut pauses = pauses();
        let mut kept = self.idle.lock().pop();
        loop {
            let was_kept = kept.is_some();
            let tried = timeout_at(deadline, self.attempt(kept.take(), &message, attempt)).await;
            let failure = match tried.unwrap_or(Err(Failure::Silent)) {
                Ok(reply) => return self.accepted(reply),
                Err(failure) => failure,
            };
            tracing::debug!(reason = %failure.reason(), "satellite request failed");
            if matches!(failure, Failure::Silent) {
                // Kept streams go over the same connection, which may be dead without having said so.
                self.idle.lock().clear();
            }
            if was_kept {
                continue; // it had died while it was idle; the others probably too, so the next one is fresh
            }
            match pauses.next() {
                Some(pause) if failure.may_pass() && !polls && Instant::now() + pause < deadline => {
                    tokio::time::sleep(pause).await;
                }
                _ => return Err(self.failed(failure)),
            }
        }
    }

    /// Asks something that must not be asked twice. After [`Error::Unreachable`] it may or may not have been done.
    pub(super) async fn ask_once(&self, request: &Request) -> Result<Reply, Error> {
        let message = encode(request)?;
        let _slot = self.slots.acquire().await.expect("never closed");
        let more = sending(&message);
        let deadline = Instant::now() + self.patience.all + more;
        let mut pauses = pauses();
        loop {
            match self.attempt(None, &message, self.patience.attempt + more).await {
                Ok(reply) => return self.accepted(reply),
                Err(failure @ Failure::Connect(_)) if failure.may_pass() => match pauses.next() {
                    Some(pause) if Instant::now() + pause < deadline => tokio::time::sleep(pause).await,
                    _ => return Err(self.failed(failure)),
                },
                Err(failure) => return Err(self.failed(failure)),
            }
        }
    }

    fn accepted(&self, reply: Reply) -> Result<Reply, Error> {
        self.observer.satellite(true);
        match reply {
            Reply::Failed(error) => Err(error),
            reply => Ok(reply),
        }
    }

    fn failed(&self, failure: Failure) -> Error {
        self.observer.satellite(false);
        failure.into()
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

fn encode(request: &Request) -> Result<Vec<u8>, Error> {
    let mut message = Vec::new();
    frame::append(&mut message, request, request.max_frame()).map_err(|error| Error::Invalid(error.to_string()))?;
    Ok(message)
}

fn sending(message: &[u8]) -> Duration {
    Duration::from_secs(message.len() as u64 / MIN_RATE)
}

fn pauses() -> impl Iterator<Item = Duration> {
    let growing = ExponentialBuilder::default()
        .with_min_delay(MIN_PAUSE)
        .with_max_delay(MAX_PAUSE)
        .with_jitter()
        .without_max_times();
    growing.build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;
    use crate::transport::HostOptions;
    use strewn_engine::bucket::Changes;
    use strewn_engine::ids::BucketId;
    use tokio::sync::{Notify, mpsc};

    /// What a scripted satellite does with a request.
    enum Act {
        Answer(Reply),
        /// Breaks off without an answer.
        Break,
        /// Answers, then breaks off.
        Last(Reply),
        AnswerAfter(Arc<Notify>, Reply),
    }

    /// A satellite that acts by a script, and tells what it was asked.
    async fn satellite(
        act: impl Fn(usize, &Request) -> Act + Send + Sync + 'static,
    ) -> (Host, SatelliteClient, mpsc::Receiver<Request>) {
        let listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
        let options = HostOptions { listen, accept: vec![Protocol::Uplink], ..HostOptions::default() };
        let (host, mut incoming) = Host::start(&Identity::fresh(), options).await.unwrap();
        let (asked, questions) = mpsc::channel(1000);
        let (act, count) = (Arc::new(act), Arc::new(std::sync::atomic::AtomicUsize::new(0)));
        tokio::spawn(async move {
            while let Some(mut inbound) = incoming.recv().await {
                let (asked, act, count) = (asked.clone(), act.clone(), count.clone());
                tokio::spawn(async move {
                    let hello: Hello = frame::read(&mut inbound.stream, MAX_REQUEST).await.unwrap().unwrap();
                    assert_eq!(hello.api_key, "key");
                    while let Ok(Some(request)) = frame::read(&mut inbound.stream, MAX_REQUEST).await {
                        let number = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        let (reply, last) = match act(number, &request) {
                            Act::Answer(reply) => (reply, false),
                            Act::Last(reply) => (reply, true),
                            Act::Break => {
                                asked.send(request).await.unwrap();
                                return;
                            }
                            Act::AnswerAfter(notify, reply) => {
                                notify.notified().await;
                                (reply, false)
                            }
                        };
                        asked.send(request).await.unwrap();
                        frame::write(&mut inbound.stream, &reply, MAX_REPLY).await.unwrap();
                        inbound.stream.flush().await.unwrap();
                        if last {
                            return;
                        }
                    }
                });
            }
        });
        let address = PeerAddress { peer: host.peer_id(), addresses: host.addresses() };
        let (uplink, _) = Host::start(&Identity::fresh(), HostOptions::default()).await.unwrap();
        (host, SatelliteClient::new(uplink, address, Bytes::from_static(b"key"), Arc::new(Observer::new())), questions)
    }

    fn remove() -> Request {
        Request::RemoveBucket { bucket: BucketId::from_bytes([1; 16]), force: false }
    }

    fn asked(mut questions: mpsc::Receiver<Request>) -> usize {
        std::iter::from_fn(|| questions.try_recv().ok()).count()
    }

    #[tokio::test]
    async fn a_dead_kept_stream_and_lost_answers_are_survived() {
        let script = |number, _: &Request| match number {
            0 => Act::Last(Reply::Done),
            1 | 2 => Act::Break,
            _ => Act::Answer(Reply::Done),
        };
        let (_host, client, questions) = satellite(script).await;
        client.ask(&Request::ListBuckets).await.unwrap();
        client.ask(&Request::ListBuckets).await.unwrap();
        assert_eq!(asked(questions), 4);
    }

    #[tokio::test]
    async fn what_must_not_be_repeated_is_not() {
        let (_host, client, questions) = satellite(|_, _| Act::Break).await;
        assert!(matches!(client.ask_once(&remove()).await, Err(Error::Unreachable(_))));
        assert_eq!(asked(questions), 1);
    }

    #[tokio::test]
    async fn refusals_are_errors_and_not_repeated() {
        let (_host, client, questions) =
            satellite(|_, _| Act::Answer(Reply::Failed(Error::Forbidden("no".into())))).await;
        assert_eq!(client.ask(&Request::ListBuckets).await.unwrap_err(), Error::Forbidden("no".into()));
        assert_eq!(asked(questions), 1);
    }

    #[tokio::test]
    async fn a_satellite_that_is_away_is_unreachable_in_bounded_time() {
        let (host, mut client, _questions) = satellite(|_, _| Act::Answer(Reply::Done)).await;
        host.shutdown().await;
        client.patience = Patience { attempt: Duration::from_millis(200), all: Duration::from_millis(400) };
        let began = Instant::now();
        assert!(matches!(client.ask(&Request::ListBuckets).await, Err(Error::Unreachable(_))));
        assert!(matches!(client.ask_once(&remove()).await, Err(Error::Unreachable(_))));
        assert!(began.elapsed() < Duration::from_secs(10));
    }

    #[tokio::test]
    async fn a_long_poll_blocks_nobody() {
        let go = Arc::new(Notify::new());
        let waiting = go.clone();
        let nothing = Changes { epoch: 0, changes: Vec::new(), sequence: 0, gap: false };
        let script = move |_, request: &Request| match request {
            Request::Changes { .. } => Act::AnswerAfter(waiting.clone(), Reply::Changes(nothing.clone())),
            _ => Act::Answer(Reply::Done),
        };
        let (_host, client, _questions) = satellite(script).await;
        let wait = Duration::from_secs(60);
        let poll = Request::Changes { bucket: BucketId::from_bytes([1; 16]), after: 0, wait };
        let others = async {
            for _ in 0..10 {
                client.ask(&Request::ListBuckets).await.unwrap();
            }
            go.notify_one();
        };
        let (polled, ()) = tokio::join!(client.ask(&poll), others);
        assert!(matches!(polled, Ok(Reply::Changes(_))));
    }
}
