//! One storage node in one directory.
//!
//! ```text
//! DIR/format   "strewn storage node 1\n", the node's id, the name of its store: who may use this directory
//! DIR/lock     held while a process uses it
//! DIR/ledger   see `ledger`
//! DIR/pieces   see `store`
//! ```

use crate::faults::Faults;
use crate::ledger::{self, Ledger, LedgerError};
use crate::service::{Connection, ServeError};
use crate::store::{self, Bytes, Store, StoreError, StoreOptions, sync_directory};
use crate::verify::Verifier;
use ed25519_dalek::SigningKey;
use parking_lot::Mutex;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;
use strewn_engine::bucket::Timestamp;
use strewn_engine::ids::{NodeId, PieceId, SatelliteId, Serial};
use strewn_engine::order::{Order, OrderLimit, Signed};
use strewn_wire::satellite::CheckIn;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, watch};

/// Transfers of a node that run at a time; more are refused as busy.
pub const MAX_TRANSFERS: u32 = 128;
/// Expired pieces removed in one round.
const EXPIRED: u32 = 1_024;
/// Logs compacted in one round.
const COMPACTIONS: u64 = 4;
const FORMAT: &str = "strewn storage node 1";

/// Says what time it is.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// How a node is set up.
#[derive(Clone)]
pub struct NodeOptions {
    /// Bytes it offers.
    pub capacity: u64,
    /// The satellites whose limits it honours.
    pub satellites: Vec<SatelliteId>,
    /// Its clock.
    pub clock: Clock,
    /// Disk space kept free and size of logs; the capacity counts, not the one in here.
    pub store: StoreOptions,
}

impl NodeOptions {
    /// With the system's clock.
    pub fn new(capacity: u64, satellites: Vec<SatelliteId>) -> Self {
        Self { capacity, satellites, clock: Arc::new(system_time), store: StoreOptions::new(capacity) }
    }
}

fn system_time() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp { seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX), nanos: since.subsec_nanos() }
}

/// Why a node cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The disk failed.
    #[error("data directory {0}: {1}")]
    Io(PathBuf, #[source] io::Error),
    /// Another process uses the directory.
    #[error("data directory {0} is used by another process")]
    Locked(PathBuf),
    /// The directory belongs to something else, or to another version.
    #[error("data directory {0} holds {1}, not {FORMAT:?} of this node")]
    Format(PathBuf, String),
    /// The pieces.
    #[error(transparent)]
    Store(#[from] store::OpenError),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] ledger::OpenError),
}

/// How a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeStatus {
    /// Who it is.
    pub node: NodeId,
    /// Bytes it offers.
    pub capacity: u64,
    /// Bytes it could still take.
    pub free: u64,
    /// Pieces it holds.
    pub pieces: u64,
    /// What they take.
    pub bytes: Bytes,
    /// Transfers that run.
    pub transfers: u32,
    /// Limits it remembers.
    pub limits: usize,
    /// Piece logs that cannot be read.
    pub damaged_logs: u64,
    /// Why it writes no more, if so.
    pub failed: Option<String>,
    /// Faults that are switched on.
    pub faults: Vec<String>,
}

/// What a round of housekeeping did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Housekeeping {
    /// Pieces whose time was over.
    pub expired: u64,
    /// Bytes of logs that are gone, of which live pieces were copied elsewhere.
    pub removed: u64,
}

/// Why housekeeping could not go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HousekeepingError {
    /// The pieces.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// A storage node. Clones are the same node.
#[derive(Clone)]
pub struct Node(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    id: NodeId,
    pub(crate) key: SigningKey,
    capacity: u64,
    clock: Clock,
    pub(crate) store: Arc<Store>,
    pub(crate) ledger: Ledger,
    pub(crate) verifier: Verifier,
    pub(crate) faults: Faults,
    pub(crate) transfers: Semaphore,
    pub(crate) closing: watch::Sender<bool>,
    /// Released by closing, or with the node and its last job.
    lock: Mutex<Option<Arc<File>>>,
}

impl Node {
    /// Opens the node of this identity in `directory`, which is made if it does not exist. Blocking.
    pub fn open(directory: &Path, key: SigningKey, options: NodeOptions) -> Result<Self, OpenError> {
        let io = |error| OpenError::Io(directory.to_owned(), error);
        let id = NodeId::from_bytes(key.verifying_key().to_bytes());
        make_private(directory).map_err(io)?;
        let lock = Arc::new(lock(directory)?);
        let name = identify(directory, id)?;
        let now = (options.clock)().seconds;
        let ledger = Ledger::open(&directory.join("ledger"), now, Some(lock.clone()))?;
        let store_options = StoreOptions { capacity: options.capacity, ..options.store };
        let store = Store::open(&directory.join("pieces"), &name, store_options, Some(lock.clone()))?;
        let (closing, _) = watch::channel(false);
        Ok(Self(Arc::new(Inner {
            id,
            key,
            capacity: options.capacity,
            clock: options.clock,
            store: Arc::new(store),
            ledger,
            verifier: Verifier::new(id, &options.satellites),
            faults: Faults::default(),
            transfers: Semaphore::new(MAX_TRANSFERS as usize),
            closing,
            lock: Mutex::new(Some(lock)),
        })))
    }

    /// Serves a stream until the other side ends it. Any number of streams may be served at a time.
    pub async fn serve_stream(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send) -> Result<(), ServeError> {
        Connection::new(&self.0, stream).serve().await
    }

    /// Who it is.
    pub fn id(&self) -> NodeId {
        self.0.id
    }

    /// Bytes it offers.
    pub fn capacity(&self) -> u64 {
        self.0.capacity
    }

    /// Bytes it could still take.
    pub fn free(&self) -> u64 {
        if self.0.faults.is_full() { 0 } else { self.0.store.free() }
    }

    /// What it tells its satellite.
    pub fn check_in(&self, addresses: Vec<String>, ticket: Option<String>) -> CheckIn {
        CheckIn {
            version: strewn_wire::satellite::VERSION,
            addresses,
            capacity: self.capacity(),
            free: self.free(),
            time: self.0.now().seconds,
            ticket,
            software: env!("CARGO_PKG_VERSION").into(),
        }
    }

    /// Faults, to be switched.
    pub fn faults(&self) -> &Faults {
        &self.0.faults
    }

    /// How it is.
    pub fn status(&self) -> NodeStatus {
        let node = &self.0;
        NodeStatus {
            node: node.id,
            capacity: node.capacity,
            free: self.free(),
            pieces: node.store.pieces(),
            bytes: node.store.bytes(),
            transfers: MAX_TRANSFERS.saturating_sub(node.transfers.available_permits() as u32),
            limits: node.ledger.limits(),
            damaged_logs: node.store.damaged_logs(),
            failed: node.store.failed().map(str::to_owned),
            faults: node.faults.list(),
        }
    }

    /// Up to `count` limits of a satellite that have expired, each with its highest order, that the satellite has not
    /// accepted yet.
    pub fn orders_to_settle(&self, satellite: SatelliteId, count: usize) -> Vec<(Signed<OrderLimit>, Signed<Order>)> {
        self.0.ledger.orders_to_settle(satellite, self.0.now().seconds, count)
    }

    /// Notes that the satellite has accepted the orders of these limits.
    pub async fn settled(&self, serials: Vec<Serial>) -> Result<(), LedgerError> {
        self.0.ledger.settled(serials).await
    }

    /// A round of housekeeping: removes expired pieces, compacts logs, tidies and syncs the ledger. To be called every
    /// minute or so.
    pub async fn run_once(&self) -> Result<Housekeeping, HousekeepingError> {
        let node = &self.0;
        let (mut done, now) = (Housekeeping::default(), node.now().seconds);
        node.ledger.tidy(now).await?;
        let store = node.store.clone();
        let expired = crate::disk::run(move || store.expired(now, EXPIRED)).await.map_err(StoreError::from)??;
        for piece in expired {
            done.expired += u64::from(node.store.delete(piece).await?);
        }
        for _ in 0..COMPACTIONS {
            let Some(compacted) = node.store.compact().await? else { break };
            done.removed += compacted.removed;
        }
        Ok(done)
    }

    /// Flips a bit in every share on disk; returns the number of pieces. For tests.
    pub async fn damage_all(&self) -> Result<u64, StoreError> {
        let store = self.0.store.clone();
        crate::disk::run(move || store.damage_all()).await?
    }

    /// Ends all streams, waits for what is being written, and releases the directory. Serves nothing any more.
    pub async fn close(&self) -> Result<(), LedgerError> {
        let node = &self.0;
        let Some(lock) = node.lock.lock().take() else { return Ok(()) };
        node.closing.send_replace(true);
        // Nobody closes the semaphore.
        let _permits = node.transfers.acquire_many(MAX_TRANSFERS).await;
        node.store.close().await;
        let result = node.ledger.close(node.now().seconds).await;
        // Clones and handles of the lock live on, the lock does not.
        if let Err(error) = rustix::fs::flock(&lock, rustix::fs::FlockOperation::Unlock) {
            tracing::warn!(%error, "the data directory stays locked until the node is gone");
        }
        result
    }
}

impl Inner {
    pub(crate) fn now(&self) -> Timestamp {
        (self.clock)()
    }

    /// Deletes a piece; that there is none is no error.
    pub(crate) async fn delete(&self, piece: PieceId) -> Result<(), StoreError> {
        // What a put has spent is safe as long as its piece exists; see the ledger.
        self.ledger.sync().await.map_err(|error| StoreError::Failed(error.to_string()))?;
        self.store.delete(piece).await.map(drop)
    }
}

/// Deletes all pieces of a node that is not running. What was paid and spent stays known.
pub fn wipe(directory: &Path) -> Result<(), OpenError> {
    let _lock = lock(directory)?;
    match std::fs::remove_dir_all(directory.join("pieces")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(OpenError::Io(directory.to_owned(), error)),
        _ => Ok(()),
    }
}

fn make_private(directory: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

fn lock(directory: &Path) -> Result<File, OpenError> {
    let io = |error| OpenError::Io(directory.to_owned(), error);
    let path = directory.join("lock");
    let file = File::options().create(true).truncate(false).write(true).open(path).map_err(io)?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::Locked(directory.to_owned())),
        Err(error) => Err(io(error.into())),
    }
}

/// Checks that the directory is this node's, or makes it so; returns the name of its store.
fn identify(directory: &Path, node: NodeId) -> Result<[u8; 16], OpenError> {
    let io = |error| OpenError::Io(directory.to_owned(), error);
    let path = directory.join("format");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut name = [0; 16];
            getrandom::fill(&mut name).map_err(|error| io(io::Error::other(error)))?;
            let text = format!("{FORMAT}\n{node}\n{}\n", Serial::from_bytes(name));
            write_durably(directory, &path, &text).map_err(io)?;
            return Ok(name);
        }
        Err(error) => return Err(io(error)),
    };
    let mut lines = text.lines();
    let format = lines.next().unwrap_or_default();
    let is_ours = format == FORMAT && lines.next() == Some(&node.to_string());
    let name = lines.next().and_then(|name| name.parse::<Serial>().ok());
    match name {
        Some(name) if is_ours => Ok(*name.as_bytes()),
        _ => Err(OpenError::Format(directory.to_owned(), text.lines().take(2).collect::<Vec<_>>().join(", "))),
    }
}

fn write_durably(directory: &Path, path: &Path, text: &str) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    sync_directory(directory)
}
