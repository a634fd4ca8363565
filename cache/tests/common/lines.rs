//! A bucket whose lines to one mount can be cut, or go silent.

use async_trait::async_trait;
use bytes::Bytes;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use strewn_engine::bucket::lease::{HeldLease, LeaseReply, LeaseRequest};
use strewn_engine::bucket::memory::MemoryBucket;
use strewn_engine::bucket::*;
use strewn_engine::ids::{InodeId, RunId, SegmentId};
use tokio::sync::{Notify, watch};

/// A bucket as one mount reaches it.
pub struct Lines {
    bucket: MemoryBucket,
    off: AtomicBool,
    silent: AtomicBool,
    /// What others change is not told.
    deaf: watch::Sender<bool>,
    /// What to answer to so many commits.
    refuse: Mutex<Option<(u64, Error)>>,
    /// Commits that were sent.
    commits: watch::Sender<u64>,
    /// Wakes those that wait for an answer when the lines are cut.
    cut: Notify,
    /// Answers about single names.
    pub names: Gate,
    /// Pages of directories.
    pub pages: Gate,
    /// Questions how far the feed is, before it is followed: for changes beyond the newest.
    pub beginnings: Gate,
}

/// Questions or answers on their way, which can be held up.
pub struct Gate {
    /// How many may pass; `None`: all.
    may_pass: watch::Sender<Option<u64>>,
    /// How many came here while it was shut.
    came: watch::Sender<u64>,
}

impl Gate {
    fn open() -> Self {
        Self { may_pass: watch::channel(None).0, came: watch::channel(0).0 }
    }

    /// Holds them up from now on, or lets all of them through.
    pub fn shut(&self, shut: bool) {
        self.came.send_replace(0);
        self.may_pass.send_replace(shut.then_some(0));
    }

    /// Lets the oldest of them through, so many in all.
    pub fn let_pass(&self, count: u64) {
        self.may_pass.send_replace(Some(count));
    }

    /// Waits until so many came.
    pub async fn came(&self, count: u64) {
        self.came.subscribe().wait_for(|came| *came >= count).await.expect("lines");
    }

    async fn pass(&self) {
        let mut may_pass = self.may_pass.subscribe();
        if may_pass.borrow().is_none() {
            return;
        }
        let mut number = 0;
        self.came.send_modify(|came| {
            *came += 1;
            number = *came;
        });
        may_pass.wait_for(|may| may.is_none_or(|may| number <= may)).await.expect("lines");
    }
}

impl Lines {
    pub fn new(bucket: MemoryBucket) -> Self {
        let (off, silent, refuse, cut) = Default::default();
        let (deaf, commits) = (watch::channel(false).0, watch::channel(0).0);
        let (names, pages, beginnings) = (Gate::open(), Gate::open(), Gate::open());
        Self { bucket, off, silent, deaf, refuse, commits, cut, names, pages, beginnings }
    }

    pub fn cut_off(&self, off: bool) {
        self.off.store(off, Ordering::SeqCst);
        self.cut.notify_waiters();
    }

    /// No answer comes to what is asked from now on, until the lines are cut.
    pub fn silence(&self, silent: bool) {
        self.silent.store(silent, Ordering::SeqCst);
    }

    /// The change feed tells nothing any more, or goes on.
    pub fn deafen(&self, deaf: bool) {
        self.deaf.send_replace(deaf);
    }

    /// The next commits get this answer.
    pub fn refuse_commits(&self, count: u64, error: Error) {
        *self.refuse.lock().unwrap() = Some((count, error));
    }

    /// Waits until so many commits were sent.
    pub async fn sent(&self, commits: u64) {
        self.commits.subscribe().wait_for(|sent| *sent >= commits).await.expect("lines");
    }

    /// How many commits were sent.
    pub fn commits(&self) -> u64 {
        *self.commits.borrow()
    }

    async fn pass<T>(&self, answer: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let away = || Error::Unreachable("the lines are cut".into());
        let cut = self.cut.notified();
        if self.off.load(Ordering::SeqCst) {
            return Err(away());
        }
        if self.silent.load(Ordering::SeqCst) {
            cut.await;
            return Err(away());
        }
        tokio::select! {
            answer = answer => answer,
            () = cut => Err(away()),
        }
    }
}

#[async_trait]
impl BucketService for Lines {
    fn settings(&self) -> &BucketSettings {
        self.bucket.settings()
    }

    async fn entry(&self, parent: InodeId, name: &EncryptedName) -> Result<Option<(Entry, Inode)>, Error> {
        let found = self.pass(self.bucket.entry(parent, name)).await;
        self.names.pass().await;
        found
    }

    async fn entries(&self, directory: InodeId, after: Option<&EncryptedName>, limit: u32) -> Result<EntryPage, Error> {
        let found = self.pass(self.bucket.entries(directory, after, limit)).await;
        self.pages.pass().await;
        found
    }

    async fn inode(&self, inode: InodeId) -> Result<Inode, Error> {
        self.pass(self.bucket.inode(inode)).await
    }

    async fn extents(&self, inode: InodeId, offset: u64, length: u64) -> Result<Extents, Error> {
        self.pass(self.bucket.extents(inode, offset, length)).await
    }

    async fn run_blocks(&self, inode: InodeId, run: RunId, first: u64, count: u64) -> Result<Bytes, Error> {
        self.pass(self.bucket.run_blocks(inode, run, first, count)).await
    }

    async fn put_segment(&self, segment: SegmentId, source: Arc<dyn SegmentSource>) -> Result<(), Error> {
        self.pass(self.bucket.put_segment(segment, source)).await
    }

    async fn commit(&self, commit: &Commit, lease: Option<HeldLease>) -> Result<CommitReply, Error> {
        self.commits.send_modify(|sent| *sent += 1);
        let refused = {
            let mut refuse = self.refuse.lock().unwrap();
            let answer = refuse.as_mut().filter(|(count, _)| *count > 0);
            answer.map(|(count, error)| {
                *count -= 1;
                error.clone()
            })
        };
        match refused {
            Some(error) => Err(error),
            None => self.pass(self.bucket.commit(commit, lease)).await,
        }
    }

    async fn lease(&self, request: &LeaseRequest) -> Result<LeaseReply, Error> {
        self.pass(self.bucket.lease(request)).await
    }

    async fn recalled(&self, lease: HeldLease, wait: Duration) -> Result<bool, Error> {
        self.pass(self.bucket.recalled(lease, wait)).await
    }

    async fn changes(&self, after: u64, wait: Duration) -> Result<Changes, Error> {
        if after == u64::MAX {
            self.beginnings.pass().await;
        }
        let told = async {
            loop {
                let mut deaf = self.deaf.subscribe();
                let open = deaf.wait_for(|deaf| !deaf).await.map(drop);
                open.map_err(|_| Error::Unreachable("the lines are gone".into()))?;
                let changes = self.bucket.changes(after, wait).await?;
                if !*deaf.borrow() {
                    return Ok(changes);
                }
            }
        };
        self.pass(told).await
    }

    async fn usage(&self) -> Result<Usage, Error> {
        self.pass(self.bucket.usage()).await
    }

    async fn run_segments(&self, inode: InodeId, run: RunId) -> Result<Vec<SegmentState>, Error> {
        self.pass(self.bucket.run_segments(inode, run)).await
    }
}
