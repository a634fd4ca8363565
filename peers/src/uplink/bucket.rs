//! A bucket over the network.

use super::{Shared, download, locate::Locator, unexpected, upload};
use async_trait::async_trait;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use strewn_engine::bucket::lease::{HeldLease, LeaseReply, LeaseRequest};
use strewn_engine::bucket::{
    BucketService, BucketSettings, Changes, Commit, CommitReply, EncryptedName, Entry, EntryPage, Error, Extents,
    Inode, SegmentSource, SegmentState, Usage,
};
use strewn_engine::ids::{InodeId, RunId, SegmentId};
use strewn_wire::satellite::{Reply, Request};

/// [`BucketService`] over a satellite and its storage nodes.
pub struct NetworkBucket {
    shared: Arc<Shared>,
    settings: BucketSettings,
    locator: Locator,
}

impl NetworkBucket {
    pub(super) fn new(shared: Arc<Shared>, settings: BucketSettings) -> Self {
        Self { locator: Locator::new(shared.clone(), settings.bucket), shared, settings }
    }

    async fn ask(&self, request: Request) -> Result<Reply, Error> {
        self.shared.satellite.ask(&request).await
    }
}

/// Unwraps the one reply that fits a request.
macro_rules! expect {
    ($reply:expr, $variant:ident) => {
        match $reply {
            Reply::$variant(value) => Ok(value),
            _ => Err(unexpected()),
        }
    };
}

#[async_trait]
impl BucketService for NetworkBucket {
    fn settings(&self) -> &BucketSettings {
        &self.settings
    }

    async fn entry(&self, parent: InodeId, name: &EncryptedName) -> Result<Option<(Entry, Inode)>, Error> {
        let request = Request::Entry { bucket: self.settings.bucket, parent, name: name.clone() };
        expect!(self.ask(request).await?, Entry)
    }

    async fn entries(&self, directory: InodeId, after: Option<&EncryptedName>, limit: u32) -> Result<EntryPage, Error> {
        let request = Request::Entries { bucket: self.settings.bucket, directory, after: after.cloned(), limit };
        expect!(self.ask(request).await?, Entries)
    }

    async fn inode(&self, inode: InodeId) -> Result<Inode, Error> {
        expect!(self.ask(Request::Inode { bucket: self.settings.bucket, inode }).await?, Inode)
    }

    async fn extents(&self, inode: InodeId, offset: u64, length: u64) -> Result<Extents, Error> {
        let request = Request::Extents { bucket: self.settings.bucket, inode, offset, length };
        expect!(self.ask(request).await?, Extents)
    }

    async fn run_blocks(&self, inode: InodeId, run: RunId, first: u64, count: u64) -> Result<Bytes, Error> {
        download::run_blocks(&self.locator, inode, run, first, count).await
    }

    async fn put_segment(&self, segment: SegmentId, source: Arc<dyn SegmentSource>) -> Result<(), Error> {
        upload::put_segment(&self.shared, self.settings.bucket, segment, source).await
    }

    async fn commit(&self, commit: &Commit, lease: Option<HeldLease>) -> Result<CommitReply, Error> {
        let request = Request::CommitUnder { bucket: self.settings.bucket, lease, commit: commit.clone() };
        expect!(self.ask(request).await?, Commit)
    }

    async fn lease(&self, request: &LeaseRequest) -> Result<LeaseReply, Error> {
        expect!(self.ask(Request::Lease { bucket: self.settings.bucket, lease: request.clone() }).await?, Lease)
    }

    async fn recalled(&self, lease: HeldLease, wait: Duration) -> Result<bool, Error> {
        expect!(self.ask(Request::Recalled { bucket: self.settings.bucket, lease, wait }).await?, Recalled)
    }

    async fn changes(&self, after: u64, wait: Duration) -> Result<Changes, Error> {
        expect!(self.ask(Request::Changes { bucket: self.settings.bucket, after, wait }).await?, Changes)
    }

    async fn usage(&self) -> Result<Usage, Error> {
        expect!(self.ask(Request::Usage { bucket: self.settings.bucket }).await?, Usage)
    }

    async fn run_segments(&self, inode: InodeId, run: RunId) -> Result<Vec<SegmentState>, Error> {
        self.locator.segments(inode, run).await
    }
}
