//! The uplink: the side of the network that holds keys. It asks a satellite, moves segments to and from storage nodes,
//! and gives the layers above one [`BucketService`](strewn_engine::bucket::BucketService) per bucket.
//!
//! An [`Uplink`] has a libp2p identity of its own, fresh in every process, so that nodes cannot recognise it. It connects
//! when it is first asked something.

mod bucket;
mod download;
mod health;
mod locate;
mod piece;
mod place;
mod satellite;
mod streams;
mod upload;

pub use bucket::NetworkBucket;
pub use health::Health;
pub use place::{InvalidPlace, MAX_PLACE, Place};

use crate::identity::Identity;
use crate::transport::{ChannelDialer, Host, HostOptions, PeerAddress, Pieces, TransportError};
use bytes::Bytes;
use download::DownloadSlots;
use health::Observer;
use parking_lot::Mutex;
use satellite::SatelliteClient;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use streams::NodeStreams;
use strewn_engine::bucket::{Cipher, Error, Kind, Timestamp};
use strewn_engine::content::window::content_hash;
use strewn_engine::grant::{AccessGrant, ApiKey, OpenedKey, Start};
use strewn_engine::ids::{BucketId, InodeId, SatelliteId};
use strewn_engine::keys::{Derivation, InodeKeys, RootSecret, WrongPassphrase};
use strewn_engine::record::{Attributes, Record};
use strewn_engine::redundancy::Redundancy;
use strewn_engine::secret::Key;
use strewn_engine::segment::MAX_SEGMENT;
use strewn_engine::transfer::download::Latencies;
use strewn_wire::satellite::{BucketInfo, CreateBucket, Reply, Request};
use upload::UploadSlots;
use zeroize::Zeroizing;

/// Most connections of an uplink: a node takes one at a time per transfer.
const MAX_CONNECTIONS: u32 = 512;

/// Why an account operation failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UplinkError {
    /// The satellite did not answer, or refused.
    #[error(transparent)]
    Bucket(#[from] Error),
    /// No key of the grant opens the bucket.
    #[error(transparent)]
    WrongPassphrase(#[from] WrongPassphrase),
    /// The grant holds no root secret, so it cannot make buckets.
    #[error("this access grant cannot make buckets: it holds no passphrase")]
    NoRootSecret,
    /// The grant's satellite address is not usable, or the transport cannot be set up.
    #[error(transparent)]
    Transport(#[from] TransportError),
}

/// How a bucket is made.
#[derive(Debug, Clone)]
pub struct NewBucket {
    /// Largest segment in bytes, 64 KiB..=64 MiB.
    pub segment_size: u64,
    /// Cipher of its runs.
    pub cipher: Cipher,
    /// Redundancy; `None`: the satellite's default.
    pub redundancy: Option<Redundancy>,
    /// Permission bits of the root directory.
    pub mode: u32,
    /// Owner of the root directory.
    pub uid: u32,
    /// Group of the root directory.
    pub gid: u32,
}

impl Default for NewBucket {
    fn default() -> Self {
        let cipher = Cipher::Aes256Gcm;
        Self { segment_size: MAX_SEGMENT, cipher, redundancy: None, mode: 0o755, uid: 0, gid: 0 }
    }
}

/// A bucket that was opened with a grant.
#[derive(Clone)]
pub struct OpenBucket {
    /// The bucket over the network.
    pub service: Arc<NetworkBucket>,
    /// What its satellite says of it.
    pub info: BucketInfo,
    /// Where the grant lets one start, best first; never empty.
    pub starts: Vec<Start>,
}

/// A connection to a network under one access grant. Clones share it.
#[derive(Clone)]
pub struct Uplink {
    grant: Arc<AccessGrant>,
    shared: Arc<Shared>,
    host: Host,
}

/// What the buckets of an uplink have in common.
struct Shared {
    satellite: SatelliteClient,
    satellite_id: SatelliteId,
    nodes: Arc<NodeStreams>,
    observer: Arc<Observer>,
    uploads: UploadSlots,
    downloads: DownloadSlots,
    /// How fast nodes answered lately.
    latencies: Mutex<Latencies>,
}

impl Uplink {
    /// Sets up the endpoint under a fresh identity. Nothing is asked yet.
    pub async fn connect(grant: &AccessGrant) -> Result<Self, UplinkError> {
        let address = PeerAddress::parse(&grant.satellite)?;
        let identity = Identity::fresh();
        let options = HostOptions { max_connections: MAX_CONNECTIONS, ..HostOptions::default() };
        let (host, _) = Host::start(&identity, options).await?;
        let observer = Arc::new(Observer::new());
        let api_key = grant.api_key.serialize().into();
        let satellite = SatelliteClient::new(host.clone(), address, api_key, observer.clone());
        let pieces = Pieces::new(ChannelDialer::new(&identity)?, host.clone());
        let shared = Shared {
            satellite_id: satellite.id()?,
            satellite,
            nodes: Arc::new(NodeStreams::new(Arc::new(pieces))),
            observer,
            uploads: UploadSlots::new(),
            downloads: DownloadSlots::new(),
            latencies: Mutex::default(),
        };
        Ok(Self { grant: Arc::new(grant.clone()), shared: Arc::new(shared), host })
    }

    /// Whether satellite and nodes answered lately. Asks nobody.
    pub fn health(&self) -> Health {
        self.shared.observer.health()
    }

    /// Closes all connections. Transfers under way fail with [`Error::Unreachable`].
    pub async fn shutdown(&self) {
        self.host.shutdown().await;
    }

    /// Makes a bucket whose root directory this grant opens, and opens it.
    pub async fn create_bucket(&self, name: &str, options: &NewBucket) -> Result<OpenBucket, UplinkError> {
        let mut secrets = self.grant.keys.iter().filter_map(|key| match key {
            OpenedKey::Root { secret, derivation } => Some((secret, derivation)),
            OpenedKey::Subtree { .. } => None,
        });
        let (secret, derivation) = secrets.next().ok_or(UplinkError::NoRootSecret)?;
        let request = Request::CreateBucket(new_bucket(name, options, secret, derivation));
        match self.shared.satellite.ask_once(&request).await? {
            Reply::Bucket(info) => self.opened(info),
            _ => Err(unexpected().into()),
        }
    }

    /// Opens a bucket. [`UplinkError::WrongPassphrase`] if no key of the grant fits it.
    pub async fn bucket(&self, name: &str) -> Result<OpenBucket, UplinkError> {
        match self.shared.satellite.ask(&Request::OpenBucket { name: name.to_owned() }).await? {
            Reply::Bucket(info) if info.name == name => self.opened(info),
            _ => Err(unexpected().into()),
        }
    }

    /// Opens a bucket from what the satellite said of it earlier, without asking it.
    pub fn reopen(&self, place: &Place) -> Result<OpenBucket, UplinkError> {
        self.opened(place.info.clone())
    }

    /// The buckets the grant may see.
    pub async fn buckets(&self) -> Result<Vec<BucketInfo>, UplinkError> {
        match self.shared.satellite.ask(&Request::ListBuckets).await? {
            Reply::Buckets(buckets) => Ok(buckets),
            _ => Err(unexpected().into()),
        }
    }

    /// Removes a bucket; one that is not empty only with `force`.
    pub async fn remove_bucket(&self, bucket: BucketId, force: bool) -> Result<(), UplinkError> {
        self.done(self.shared.satellite.ask_once(&Request::RemoveBucket { bucket, force }).await?)
    }

    /// Revokes an API key that was derived from this grant's, or that one itself, with all derived from it.
    pub async fn revoke(&self, api_key: &ApiKey) -> Result<(), UplinkError> {
        let api_key = Bytes::from(api_key.serialize());
        self.done(self.shared.satellite.ask(&Request::Revoke { api_key }).await?)
    }

    fn done(&self, reply: Reply) -> Result<(), UplinkError> {
        match reply {
            Reply::Done => Ok(()),
            _ => Err(unexpected().into()),
        }
    }

    fn opened(&self, info: BucketInfo) -> Result<OpenBucket, UplinkError> {
        let settings = info.settings.clone();
        let starts = self.grant.starts(settings.bucket, settings.root, &info.root_key)?;
        let service = Arc::new(NetworkBucket::new(self.shared.clone(), settings));
        Ok(OpenBucket { service, info, starts })
    }
}

/// Draws the ids and keys of a bucket and seals its root directory.
fn new_bucket(name: &str, options: &NewBucket, secret: &RootSecret, derivation: &Derivation) -> CreateBucket {
    let bucket = BucketId::from_bytes(random());
    let root = InodeId::from_bytes(random());
    let key = Key::from_bytes(*Zeroizing::new(random()));
    let now = now();
    let attributes = Attributes {
        kind: Kind::Directory,
        mode: options.mode,
        uid: options.uid,
        gid: options.gid,
        size: 0,
        atime: now,
        mtime: now,
        ctime: now,
        btime: now,
        rdev: 0,
        target: Bytes::new(),
        xattrs: Arc::default(),
    };
    let record =
        Record { attributes, content: content_hash(&[]), entries_as_of: Timestamp::default(), allocated: None };
    CreateBucket {
        name: name.to_owned(),
        bucket,
        root,
        root_key: secret.bucket_key(bucket).seal_root(bucket, root, &key),
        derivation: derivation.encode().into(),
        record: InodeKeys::new(&key).seal_record(root, Kind::Directory, 1, &record),
        segment_size: options.segment_size,
        cipher: options.cipher,
        redundancy: options.redundancy,
    }
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system has randomness once it has booted");
    bytes
}

pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp { seconds: since.as_secs() as i64, nanos: since.subsec_nanos() }
}

/// A reply to another question: the satellite breaks the protocol.
fn unexpected() -> Error {
    Error::Invalid("the satellite's answer fits no question".into())
}
