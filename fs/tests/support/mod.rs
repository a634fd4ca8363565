//! A volume over a cache over a bucket in memory, and its crashes.
#![allow(dead_code)] // each test target uses its part

use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use strewn_cache::disk::MemoryDisk;
use strewn_cache::journal::BootId;
use strewn_cache::{Cache, Options, Root};
use strewn_engine::bucket::memory::MemoryBucket;
use strewn_engine::bucket::{BucketSettings, Cipher, Kind, Timestamp};
use strewn_engine::content::window::content_hash;
use strewn_engine::ids::{BucketId, InodeId};
use strewn_engine::keys::InodeKeys;
use strewn_engine::record::{Attributes, Record};
use strewn_engine::secret::Key;
use strewn_fs::Volume;
use strewn_fs::clock::ManualClock;
use strewn_fs::volume::Caller;

pub(crate) const ROOT_INODE: InodeId = InodeId::from_bytes([7; 16]);
pub(crate) const ROOT: Caller = Caller { uid: 0, gid: 0, umask: 0, process: 0 };
pub(crate) const USER: Caller = Caller { uid: 1000, gid: 1000, umask: 0, process: 0 };

/// The second the test clock starts at.
pub(crate) const START: i64 = 1_700_000_000;

pub(crate) struct Fixture {
    pub(crate) bucket: MemoryBucket,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) volume: Arc<Volume>,
    disk: MemoryDisk,
    options: Options,
}

/// A bucket with an empty root directory of mode 755 that belongs to root.
pub(crate) fn bucket() -> MemoryBucket {
    let root = Attributes {
        kind: Kind::Directory,
        mode: 0o755,
        uid: 0,
        gid: 0,
        size: 0,
        atime: Timestamp::default(),
        mtime: Timestamp::default(),
        ctime: Timestamp::default(),
        btime: Timestamp::default(),
        rdev: 0,
        target: Bytes::new(),
        xattrs: Arc::default(),
    };
    let record =
        Record { attributes: root, content: content_hash(&[]), entries_as_of: Timestamp::default(), allocated: None };
    let sealed = InodeKeys::new(&root_key()).seal_record(ROOT_INODE, Kind::Directory, 1, &record);
    let settings = BucketSettings {
        bucket: BucketId::from_bytes([1; 16]),
        root: ROOT_INODE,
        segment_size: 1 << 20,
        cipher: Cipher::Aes256Gcm,
        epoch: 1,
    };
    MemoryBucket::new(settings, sealed)
}

pub(crate) fn root_key() -> Key {
    Key::from_bytes([9; 32])
}

/// Settings whose limits are small enough to be met.
pub(crate) fn options() -> Options {
    Options {
        budget: 256 << 20,
        dirty_limit: 128 << 20,
        cut_idle: Duration::from_millis(20),
        cut_bytes: 1 << 20,
        cut_age: Duration::from_millis(200),
        deadline: Duration::from_secs(20),
        ..Options::default()
    }
}

/// Opens the cache on a disk, in the one boot of its machine.
pub(crate) async fn open(
    disk: &MemoryDisk,
    bucket: &MemoryBucket,
    options: &Options,
    clock: &Arc<ManualClock>,
) -> Arc<Volume> {
    let root = Root { inode: ROOT_INODE, key: root_key() };
    let (disk, bucket) = (Arc::new(disk.clone()), Arc::new(bucket.clone()));
    let cache = Cache::open_on(disk, BootId([1; 16]), bucket, root, options.clone()).await.unwrap();
    Arc::new(Volume::with_clock(cache, clock.clone()))
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        Self::with_options(options()).await
    }

    pub(crate) async fn with_options(options: Options) -> Self {
        let (bucket, clock) = (bucket(), Arc::new(ManualClock::new(START)));
        let disk = MemoryDisk::new();
        let volume = open(&disk, &bucket, &options, &clock).await;
        Self { bucket, clock, volume, disk, options }
    }

    /// Opens anew what a process killed at this moment leaves behind.
    pub(crate) async fn crash(&mut self) {
        // The dead send nothing any more.
        self.bucket.set_unreachable(true);
        let left = self.disk.kill();
        self.volume.cache().close().await.unwrap();
        self.bucket.set_unreachable(false);
        self.start(left).await;
    }

    /// The same bucket through an empty cache, after everything has gone up.
    pub(crate) async fn drain_and_start_afresh(&mut self) {
        self.volume.cache().drain(|_| {}).await.unwrap();
        self.volume.cache().close().await.unwrap();
        self.start(MemoryDisk::new()).await;
    }

    pub(crate) fn tick(&self) {
        self.clock.advance(1_000_000);
    }

    async fn start(&mut self, disk: MemoryDisk) {
        self.disk = disk;
        self.volume = open(&self.disk, &self.bucket, &self.options, &self.clock).await;
    }
}
