//! The satellite as a service: plain requests in, plain replies out.
//!
//! Every request is judged by its API key at the moment it is answered: genuine, not revoked, within its time; and by the
//! rights in the transaction that reads or changes. Nothing is answered before it is durable.

mod leases;
mod nodes;
mod operator;
mod session;
mod transfers;
mod tree;

pub use nodes::MAX_SETTLE;
pub use operator::{BucketStatus, NodeStatus, Status};
pub use session::Session;

use crate::clock::Clock;
use crate::identity::Identity;
use crate::metabase::database::Database;
use crate::metabase::{Error, access, leases as lease_rows, nodes as node_rows};
use crate::registry::Registry;
use crate::settings::Settings;
use ed25519_dalek::SigningKey;
use parking_lot::{Mutex, RwLock};
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use strewn_engine::bucket::{self, CommitReply};
use strewn_engine::grant::{Permissions, Tail};
use strewn_engine::ids::{ApiKeyId, BucketId, NodeId, SatelliteId};
use strewn_wire::satellite::{Reply, Request};
use tokio::sync::watch;

/// Longest waiting for something to happen; who wants longer asks again.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// Dials a node to see whether it is where it says.
#[async_trait::async_trait]
pub trait Dialer: Send + Sync + 'static {
    /// Connects to the multiaddress and checks that the peer there has the node's id. The error is for people.
    async fn dial(&self, node: NodeId, address: &str) -> Result<(), String>;
}

/// A satellite. Clones share it; the metabase is closed with the last one.
#[derive(Clone)]
pub struct Satellite {
    inner: Arc<Inner>,
}

struct Inner {
    identity: Identity,
    settings: Settings,
    clock: Arc<dyn Clock>,
    dialer: Arc<dyn Dialer>,
    database: Database,
    registry: Registry,
    /// When it was opened, seconds since 1970.
    started: i64,
    keys: RwLock<HashSet<ApiKeyId>>,
    revoked: RwLock<HashSet<Tail>>,
    leases: leases::Keeper,
    /// Newest sequence number of buckets that somebody waits for.
    feeds: Mutex<HashMap<BucketId, watch::Sender<u64>>>,
}

impl Satellite {
    /// Opens the satellite that keeps its metabase in `directory`; a new one if there is none. Blocks while it reads.
    pub fn open(
        directory: &Path,
        identity: SigningKey,
        settings: Settings,
        clock: Arc<dyn Clock>,
        dialer: Arc<dyn Dialer>,
    ) -> Result<Self, Error> {
        let identity = Identity::new(identity);
        let (database, (nodes, keys, revoked, saved)) =
            Database::open(directory, identity.id().as_bytes(), |connection| {
                let (keys, revoked) = (access::keys(connection)?, access::revocations(connection)?);
                Ok((node_rows::all(connection)?, keys, revoked, lease_rows::all(connection)?))
            })?;
        let (started, elapsed) = (clock.now().seconds, clock.elapsed());
        let inner = Inner {
            identity,
            settings,
            clock,
            dialer,
            database,
            registry: Registry::new(nodes),
            started,
            keys: RwLock::new(keys.into_iter().collect()),
            revoked: RwLock::new(revoked.into_iter().collect()),
            leases: leases::Keeper::new(elapsed, saved),
            feeds: Mutex::new(HashMap::new()),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The satellite's public key.
    pub fn id(&self) -> SatelliteId {
        self.inner.identity.id()
    }

    /// Its settings.
    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// Answers an uplink.
    pub async fn handle(&self, session: &Session, request: Request) -> Reply {
        match self.answer(session, request).await {
            Ok(reply) => reply,
            Err(error) => Reply::Failed(error.into()),
        }
    }

    async fn answer(&self, session: &Session, request: Request) -> Result<Reply, Error> {
        let caller = self.authorize(session)?;
        match request {
            Request::CreateBucket(new) => self.create_bucket(caller, new).await,
            Request::OpenBucket { name } => self.open_bucket(caller, name).await,
            Request::ListBuckets => self.list_buckets(caller).await,
            Request::RemoveBucket { bucket, force } => self.remove_bucket(caller, bucket, force).await,
            Request::Entry { bucket, parent, name } => self.entry(caller, bucket, parent, name).await,
            Request::Entries { bucket, directory, after, limit } => {
                self.entries(caller, bucket, directory, after, limit).await
            }
            Request::Inode { bucket, inode } => self.inode(caller, bucket, inode).await,
            Request::Extents { bucket, inode, offset, length } => {
                self.extents(caller, bucket, inode, offset..offset.saturating_add(length)).await
            }
            Request::LocateRun { bucket, inode, run, first, count } => {
                self.locate_run(caller, bucket, (inode, run), first, count).await
            }
            Request::BeginDownload { bucket, inode, run, segment, uplink } => {
                self.begin_download(caller, bucket, (inode, run), segment, uplink).await
            }
            Request::BeginSegment { bucket, segment, length, uplink } => {
                self.begin_segment(caller, bucket, segment, length, uplink).await
            }
            Request::ReplacePieces { bucket, segment, failed, uplink } => {
                self.replace_pieces(caller, bucket, segment, failed, uplink).await
            }
            Request::FinishSegment { bucket, segment, pieces } => {
                self.finish_segment(caller, bucket, segment, pieces).await
            }
            Request::Commit { bucket, commit } => match self.commit(caller, bucket, commit, None).await? {
                CommitReply::Lapsed(lapse) => Err(leases::unavailable(lapse)),
                reply => Ok(Reply::Commit(reply)),
            },
            Request::CommitUnder { bucket, lease, commit } => {
                Ok(Reply::Commit(self.commit(caller, bucket, commit, lease).await?))
            }
            Request::Lease { bucket, lease } => self.lease(caller, bucket, lease).await,
            Request::Recalled { bucket, lease, wait } => self.recalled(caller, bucket, lease, wait).await,
            Request::Changes { bucket, after, wait } => self.changes(session, bucket, after, wait).await,
            Request::Usage { bucket } => self.usage(caller, bucket).await,
            Request::Revoke { api_key } => self.revoke(caller, &api_key).await,
        }
    }

    #[cfg(test)]
    pub(crate) async fn read_for_test<T: Send + 'static>(
        &self,
        read: impl FnOnce(&rusqlite::Connection) -> Result<T, Error> + Send + 'static,
    ) -> T {
        self.inner.database.read(read).await.expect("the test's database reads")
    }

    /// Puts a finished segment in place without any node.
    #[cfg(test)]
    pub(crate) async fn store_segment_for_test(
        &self,
        bucket: BucketId,
        segment: strewn_engine::ids::SegmentId,
        api_key: ApiKeyId,
        length: u64,
    ) {
        use crate::metabase::{buckets, segments};
        let redundancy = self.inner.settings.redundancy;
        let new = segments::Segment { api_key, length, redundancy, finished: false, pending: Default::default() };
        let write = move |connection: &rusqlite::Connection| {
            let number = buckets::by_id(connection, bucket)?.number;
            segments::begin(connection, number, segment, &new, 0)?;
            segments::finish(connection, number, segment, &[], 0)
        };
        self.inner.database.write(write).await.expect("the test's database writes");
    }

    /// Seconds since 1970.
    fn seconds(&self) -> i64 {
        self.inner.clock.now().seconds
    }

    /// Nodes seen since then are online. A satellite that has just started has heard nobody yet and knows only what was
    /// saved, so until everybody has had time to check in that counts for as long as it may be old.
    fn online_since(&self) -> i64 {
        let window = i64::try_from(self.inner.settings.online.as_secs()).unwrap_or(i64::MAX);
        let now = self.seconds();
        let has_just_started = now < self.inner.started.saturating_add(window);
        let age = if has_just_started { nodes::SAVE_EVERY } else { 0 };
        now.saturating_sub(window).saturating_sub(age)
    }
}

/// Who asks, as judged when the request came.
#[derive(Clone)]
struct Caller {
    api_key: ApiKeyId,
    /// Of the key and those it was derived from, oldest first.
    tails: Arc<[Tail]>,
    permissions: Permissions,
}

/// A request that breaks the protocol.
fn invalid(what: impl Into<String>) -> Error {
    bucket::Error::Invalid(what.into()).into()
}
