//! The network of a simulated machine: a bucket in memory that shows every state it ever had, and reads like nobody's cache.

use crate::common::Picture;
use crate::model::comparable;
use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use strewn_cache::{Name, Root};
use strewn_engine::bucket::lease::{HeldLease, LeaseReply, LeaseRequest};
use strewn_engine::bucket::memory::MemoryBucket;
use strewn_engine::bucket::*;
use strewn_engine::content::{WINDOW, run, window};
use strewn_engine::ids::{InodeId, RunId, SegmentId};
use strewn_engine::keys::{DirectoryKeys, InodeKeys};
use strewn_engine::secret::Key;

/// A bucket that keeps what it was after every commit.
pub struct Network {
    pub bucket: MemoryBucket,
    away: AtomicBool,
    lost_replies: AtomicU64,
    /// What it was after each commit that changed it.
    pub commits: Mutex<Vec<MemoryBucket>>,
    /// Shown every commit before its reply is on its way.
    on_commit: Box<dyn Fn() + Send + Sync>,
}

impl Network {
    pub fn new(bucket: MemoryBucket, on_commit: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        let (away, lost_replies, commits) = Default::default();
        Arc::new(Self { bucket, away, lost_replies, commits, on_commit: Box::new(on_commit) })
    }

    pub fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
        self.bucket.set_unreachable(away);
    }

    pub fn is_away(&self) -> bool {
        self.away.load(Ordering::SeqCst)
    }

    /// The next replies to commits get lost.
    pub fn lose_replies(&self, count: u64) {
        self.lost_replies.store(count, Ordering::SeqCst);
    }
}

#[async_trait]
impl BucketService for Network {
    fn settings(&self) -> &BucketSettings {
        self.bucket.settings()
    }

    async fn entry(&self, parent: InodeId, name: &EncryptedName) -> Result<Option<(Entry, Inode)>, Error> {
        self.bucket.entry(parent, name).await
    }

    async fn entries(&self, directory: InodeId, after: Option<&EncryptedName>, limit: u32) -> Result<EntryPage, Error> {
        self.bucket.entries(directory, after, limit).await
    }

    async fn inode(&self, inode: InodeId) -> Result<Inode, Error> {
        self.bucket.inode(inode).await
    }

    async fn extents(&self, inode: InodeId, offset: u64, length: u64) -> Result<Extents, Error> {
        self.bucket.extents(inode, offset, length).await
    }

    async fn run_blocks(&self, inode: InodeId, run: RunId, first: u64, count: u64) -> Result<Bytes, Error> {
        self.bucket.run_blocks(inode, run, first, count).await
    }

    async fn put_segment(&self, segment: SegmentId, source: Arc<dyn SegmentSource>) -> Result<(), Error> {
        self.bucket.put_segment(segment, source).await
    }

    async fn commit(&self, commit: &Commit, lease: Option<HeldLease>) -> Result<CommitReply, Error> {
        let reply = self.bucket.commit(commit, lease).await?;
        self.commits.lock().push(self.bucket.fork());
        (self.on_commit)();
        let lost = self.lost_replies.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if lost.is_ok() { Err(Error::Unreachable("the reply was lost".into())) } else { Ok(reply) }
    }

    async fn lease(&self, request: &LeaseRequest) -> Result<LeaseReply, Error> {
        self.bucket.lease(request).await
    }

    async fn recalled(&self, lease: HeldLease, wait: Duration) -> Result<bool, Error> {
        self.bucket.recalled(lease, wait).await
    }

    async fn changes(&self, after: u64, wait: Duration) -> Result<Changes, Error> {
        self.bucket.changes(after, wait).await
    }

    async fn usage(&self) -> Result<Usage, Error> {
        self.bucket.usage().await
    }

    async fn run_segments(&self, inode: InodeId, run: RunId) -> Result<Vec<SegmentState>, Error> {
        self.bucket.run_segments(inode, run).await
    }
}

/// How names begin under which the network keeps files that are open without a name.
const PARKED: &str = "/.strewn-unlinked-";

/// Everything in a bucket, read with nothing but its root key: no code of the cache takes part.
pub fn read(bucket: &MemoryBucket, root: &Root) -> Picture {
    read_tree(bucket, root).now_or_never().expect("a bucket in memory answers at once")
}

async fn read_tree(bucket: &MemoryBucket, root: &Root) -> Picture {
    let mut picture = Picture::new();
    let mut open = vec![(String::new(), root.inode, root.key.clone())];
    while let Some((path, directory, key)) = open.pop() {
        let keys = DirectoryKeys::new(&key);
        let page = bucket.entries(directory, None, MAX_PAGE).await.expect("a page");
        assert!(!page.more, "simulated directories fit a page");
        for (entry, row) in page.entries {
            let name: Name = keys.decrypt_name(directory, &entry.name).expect("a name");
            let path = format!("{path}/{name}");
            if path.starts_with(PARKED) {
                continue;
            }
            let child = keys.open_child(&entry).expect("a child key");
            let record = InodeKeys::new(&child).open_record(&row).expect("a record");
            let bytes = if row.kind == Kind::File { content(bucket, &row, &child).await } else { Vec::new() };
            if row.kind == Kind::Directory {
                open.push((path.clone(), row.inode, child));
            }
            picture.insert(path, (record.effective(&row), row.nlink, row.inode, bytes));
        }
    }
    comparable(picture)
}

/// The bytes of a file.
async fn content(bucket: &MemoryBucket, row: &Inode, key: &Key) -> Vec<u8> {
    let keys = InodeKeys::new(key);
    let mut bytes = vec![0; row.size as usize];
    assert!(row.size <= WINDOW, "simulated files fit a window");
    let found = bucket.extents(row.inode, 0, WINDOW).await.expect("extents");
    assert_eq!(found.version, row.version);
    let record = keys.open_record(row).expect("a record");
    keys.check_windows(row.inode, &record, window::range(0), &found).expect("the extents that the record seals");
    for extent in found.extents {
        let run_key = keys.open_run_key(&extent).expect("a run key");
        let cipher = run::RunCipher::new(extent.cipher, &run_key, extent.run_length);
        let blocks = run::blocks(extent.run_length);
        let sealed = bucket.run_blocks(row.inode, extent.run, 0, blocks).await.expect("blocks");
        let mut plain = Vec::with_capacity(extent.run_length as usize);
        for block in 0..blocks {
            let range = run::ciphertext_range(extent.run_length, block..block + 1);
            let mut bytes = sealed[range.start as usize..range.end as usize].to_vec();
            plain.extend_from_slice(cipher.open_block(block, &mut bytes).expect("a block"));
        }
        let (from, length) = (extent.run_offset as usize, extent.length as usize);
        bytes[extent.offset as usize..][..length].copy_from_slice(&plain[from..from + length]);
    }
    bytes
}
