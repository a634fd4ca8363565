//! A mount's line to the bucket: it can be cut, and changes of others pass only when they are let through.

use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use strewn_engine::bucket::lease::{HeldLease, LeaseReply, LeaseRequest};
use strewn_engine::bucket::memory::MemoryBucket;
use strewn_engine::bucket::{
    BucketService, BucketSettings, Changes, Commit, CommitReply, EncryptedName, Entry, EntryPage, Error, Extents,
    Inode, Operation, SegmentSource, SegmentState, Usage,
};
use strewn_engine::ids::{InodeId, RunId, SegmentId};
use tokio::sync::watch;

/// A line to a bucket. Clones are the same line.
#[derive(Clone)]
pub(crate) struct Link {
    bucket: MemoryBucket,
    state: Arc<watch::Sender<State>>,
}

#[derive(Debug, Clone, Copy)]
struct State {
    away: bool,
    /// The feed brings changes up to this sequence number.
    open_to: u64,
}

impl Link {
    pub(crate) fn new(bucket: &MemoryBucket) -> Self {
        let state = State { away: false, open_to: 0 };
        Self { bucket: bucket.clone(), state: Arc::new(watch::channel(state).0) }
    }

    /// Cuts the line, or mends it.
    pub(crate) fn set_away(&self, away: bool) {
        self.state.send_modify(|state| state.away = away);
    }

    pub(crate) fn is_away(&self) -> bool {
        self.state.borrow().away
    }

    /// Lets the feed bring changes up to this sequence number.
    pub(crate) fn let_through(&self, sequence: u64) {
        self.state.send_modify(|state| state.open_to = state.open_to.max(sequence));
    }

    fn line(&self) -> Result<&MemoryBucket, Error> {
        match self.is_away() {
            false => Ok(&self.bucket),
            true => Err(Error::Unreachable(String::from("the line is cut"))),
        }
    }
}

#[async_trait::async_trait]
impl BucketService for Link {
    fn settings(&self) -> &BucketSettings {
        self.bucket.settings()
    }

    async fn entry(&self, parent: InodeId, name: &EncryptedName) -> Result<Option<(Entry, Inode)>, Error> {
        self.line()?.entry(parent, name).await
    }

    async fn entries(&self, directory: InodeId, after: Option<&EncryptedName>, limit: u32) -> Result<EntryPage, Error> {
        self.line()?.entries(directory, after, limit).await
    }

    async fn inode(&self, inode: InodeId) -> Result<Inode, Error> {
        self.line()?.inode(inode).await
    }

    async fn extents(&self, inode: InodeId, offset: u64, length: u64) -> Result<Extents, Error> {
        self.line()?.extents(inode, offset, length).await
    }

    async fn run_blocks(&self, inode: InodeId, run: RunId, first: u64, count: u64) -> Result<Bytes, Error> {
        self.line()?.run_blocks(inode, run, first, count).await
    }

    async fn run_segments(&self, inode: InodeId, run: RunId) -> Result<Vec<SegmentState>, Error> {
        self.line()?.run_segments(inode, run).await
    }

    async fn put_segment(&self, segment: SegmentId, source: Arc<dyn SegmentSource>) -> Result<(), Error> {
        self.line()?.put_segment(segment, source).await
    }

    async fn commit(&self, commit: &Commit, lease: Option<HeldLease>) -> Result<CommitReply, Error> {
        let reply = self.line()?.commit(commit, lease).await;
        if std::env::var_os("STREWN_TRACE").is_some() {
            eprintln!("    {reply:?}");
            commit.operations.iter().for_each(|operation| eprintln!("        {}", short(operation)));
        }
        reply
    }

    async fn lease(&self, request: &LeaseRequest) -> Result<LeaseReply, Error> {
        self.line()?.lease(request).await
    }

    async fn recalled(&self, lease: HeldLease, wait: Duration) -> Result<bool, Error> {
        self.line()?.recalled(lease, wait).await
    }

    async fn changes(&self, after: u64, wait: Duration) -> Result<Changes, Error> {
        let mut state = self.state.subscribe();
        // Whether something is let through in time or not: the page tells.
        drop(tokio::time::timeout(wait, state.wait_for(|state| state.away || state.open_to > after)).await);
        let open_to = self.state.borrow().open_to.max(after);
        let mut changes = self.line()?.changes(after, Duration::ZERO).await?;
        changes.changes.retain(|change| change.sequence <= open_to);
        changes.sequence = changes.sequence.min(open_to);
        Ok(changes)
    }

    async fn usage(&self) -> Result<Usage, Error> {
        self.line()?.usage().await
    }
}

fn short(operation: &Operation) -> String {
    match operation {
        Operation::SetEntry(set) => {
            let target = set.target.as_ref().map(|target| target.child);
            format!("in {} {:?} -> {target:?}", set.parent, set.expected)
        }
        Operation::PutInode(put) => {
            let (from, to, size, ranges) = (put.expected_version, put.version, put.size, put.ranges.len());
            format!("put {} {from} to {to} {:?} of {size}, {ranges} ranges", put.inode, put.kind)
        }
        Operation::CheckGone(check) => format!("if {} goes it is {}", check.inode, check.version),
    }
}
