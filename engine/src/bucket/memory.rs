//! A bucket in memory: the honest twin of a network, for tests and for running without one.
//!
//! It keeps plain maps under one lock, answers exactly as a satellite does (both apply the same [`plan`]), stores segments
//! as they come, and loses everything when dropped. Faults can be ordered: unreachable, failing calls, lost replies.
//!
//! Its clock stands still until [`MemoryBucket::advance`] moves it: a call of [`changes`](BucketService::changes) with a
//! `wait` above zero ends with the next commit, one of [`recalled`](BucketService::recalled) with the next recall, both
//! with [`MemoryBucket::wake`], or when their future is dropped. Segments nothing refers to go with
//! [`MemoryBucket::collect_unreferenced`].

mod state;

use super::lease::Leases;
use super::plan::{InodeRow, RunRow};
use super::*;
use crate::content::run;
use parking_lot::{Mutex, MutexGuard};
use state::{State, StoredSegment};
use std::collections::BTreeMap;
use std::task::Poll;

/// Changes the feed reaches back.
pub const FEED_KEPT: usize = 4_096;

/// Most changes in one answer.
pub const FEED_PAGE: usize = 256;

/// A bucket in memory. Clones share it.
#[derive(Clone)]
pub struct MemoryBucket {
    settings: Arc<BucketSettings>,
    state: Arc<Mutex<State>>,
}

/// How often each method was called, including calls that were made to fail.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs)] // one per method
pub struct Calls {
    pub entry: u64,
    pub entries: u64,
    pub inode: u64,
    pub extents: u64,
    pub run_blocks: u64,
    pub put_segment: u64,
    pub commit: u64,
    pub changes: u64,
    pub usage: u64,
    pub run_segments: u64,
    pub lease: u64,
    pub recalled: u64,
}

/// Everything in a bucket, in order, for comparing two of them. The feed and mount streams are not part of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Newest sequence number.
    pub sequence: u64,
    /// Bytes of all extents.
    pub bytes: u64,
    /// All names.
    pub entries: Vec<Entry>,
    /// All inodes.
    pub inodes: Vec<InodeRow>,
    /// All extents of all files.
    pub extents: Vec<(InodeId, Extent)>,
    /// All window tags.
    pub tags: Vec<(InodeId, u64, WindowTag)>,
    /// All runs.
    pub runs: Vec<(RunId, RunRow)>,
    /// All stored segments with their length and the number of run parts in them.
    pub segments: Vec<(SegmentId, u64, u64)>,
}

impl MemoryBucket {
    /// An empty bucket whose root directory has this sealed record, at version 1.
    pub fn new(settings: BucketSettings, root_record: Sealed) -> Self {
        let root = Inode {
            inode: settings.root,
            kind: Kind::Directory,
            version: 1,
            nlink: 2,
            size: 0,
            record: root_record,
            changed: Timestamp::default(),
            entries_changed: Timestamp::default(),
        };
        let state = State::new(InodeRow { inode: root, children: 0 });
        Self { settings: Arc::new(settings), state: Arc::new(Mutex::new(state)) }
    }

    /// A bucket of its own that holds the same, without ordered faults: what a network would be from this moment on.
    pub fn fork(&self) -> Self {
        Self { settings: self.settings.clone(), state: Arc::new(Mutex::new(self.state.lock().fork())) }
    }

    /// While set, every call fails with [`Error::Unreachable`]; waiting ones too.
    pub fn set_unreachable(&self, unreachable: bool) {
        let mut state = self.state.lock();
        state.unreachable = unreachable;
        state.wake();
    }

    /// Makes the next `calls` calls fail with `error`, without doing anything; those about leases are not counted.
    pub fn fail_next(&self, calls: u64, error: Error) {
        self.state.lock().failing = Some((calls, error));
    }

    /// Lets the next `calls` calls of `commit` and `put_segment` do their work but lose the answer: the caller gets
    /// [`Error::Unreachable`].
    pub fn lose_replies(&self, calls: u64) {
        self.state.lock().lost_replies = calls;
    }

    /// Most bytes of files, holes not counted, that the bucket takes.
    pub fn set_quota(&self, quota: Option<u64>) {
        self.state.lock().quota = quota;
    }

    /// Calls so far.
    pub fn calls(&self) -> Calls {
        self.state.lock().calls
    }

    /// Ends all waiting for changes.
    pub fn wake(&self) {
        let mut state = self.state.lock();
        state.interrupted += 1;
        state.wake();
    }

    /// What its clock shows.
    pub fn elapsed(&self) -> Duration {
        self.state.lock().elapsed
    }

    /// Moves its clock on, by which leases run out.
    pub fn advance(&self, time: Duration) {
        let mut state = self.state.lock();
        state.elapsed += time;
        state.wake();
    }

    /// Makes it know of leases what a satellite knows after a restart.
    pub fn restart(&self) {
        let mut state = self.state.lock();
        state.leases = Leases::restore(state.elapsed, state.saved_leases.clone());
        state.wake();
    }

    /// Drops stored segments that nothing refers to; returns how many.
    pub fn collect_unreferenced(&self) -> usize {
        let mut state = self.state.lock();
        let before = state.segments.len();
        state.segments.retain(|_, segment| segment.references > 0);
        before - state.segments.len()
    }

    /// Shows every stored byte string: names, sealed keys and records, tags, inline runs, segments.
    pub fn visit_bytes(&self, mut visit: impl FnMut(&[u8])) {
        let state = self.state.lock();
        for entry in state.entries.values().flat_map(BTreeMap::values) {
            visit(entry.name.as_bytes());
            visit(&entry.key.bytes);
        }
        for stored in state.inodes.values() {
            visit(&stored.row.inode.record.bytes);
            stored.extents.values().for_each(|extent| visit(&extent.run_key.bytes));
            stored.tags.values().for_each(|tag| visit(&tag.0));
        }
        for run in state.runs.values() {
            if let RunPlace::Inline(bytes) = &run.place {
                visit(bytes);
            }
        }
        state.segments.values().for_each(|segment| visit(&segment.bytes));
    }

    /// Everything stored, in order.
    pub fn snapshot(&self) -> Snapshot {
        self.state.lock().snapshot()
    }

    /// Counts the call and applies ordered faults.
    fn begin(&self, count: impl FnOnce(&mut Calls) -> &mut u64) -> Result<MutexGuard<'_, State>, Error> {
        let mut state = self.state.lock();
        *count(&mut state.calls) += 1;
        state.fault()?;
        Ok(state)
    }
}

#[async_trait::async_trait]
impl BucketService for MemoryBucket {
    fn settings(&self) -> &BucketSettings {
        &self.settings
    }

    async fn entry(&self, parent: InodeId, name: &EncryptedName) -> Result<Option<(Entry, Inode)>, Error> {
        let state = self.begin(|calls| &mut calls.entry)?;
        Ok(state.named(parent, name).map(|entry| state.with_child(entry)))
    }

    async fn entries(&self, directory: InodeId, after: Option<&EncryptedName>, limit: u32) -> Result<EntryPage, Error> {
        let state = self.begin(|calls| &mut calls.entries)?;
        if !(1..=MAX_PAGE).contains(&limit) {
            return Err(Error::Invalid(format!("page of {limit} entries")));
        }
        if state.stored(directory)?.row.inode.kind != Kind::Directory {
            return Err(Error::NotFound(format!("directory {directory:?}")));
        }
        let mut page = EntryPage { entries: Vec::new(), more: false, sequence: state.sequence };
        let mut bytes = 0;
        for entry in state.names(directory, after) {
            if page.entries.len() == limit as usize || bytes >= MAX_PAGE_BYTES {
                page.more = true;
                break;
            }
            let (entry, child) = state.with_child(entry);
            bytes += child.record.bytes.len();
            page.entries.push((entry, child));
        }
        Ok(page)
    }

    async fn inode(&self, inode: InodeId) -> Result<Inode, Error> {
        let state = self.begin(|calls| &mut calls.inode)?;
        Ok(state.stored(inode)?.row.inode.clone())
    }

    async fn extents(&self, inode: InodeId, offset: u64, length: u64) -> Result<Extents, Error> {
        let state = self.begin(|calls| &mut calls.extents)?;
        let stored = state.stored(inode)?;
        Ok(Extents {
            version: stored.row.inode.version,
            extents: stored.between(offset, offset.saturating_add(length)),
            tags: stored.tags.iter().map(|(window, tag)| (*window, *tag)).collect(),
        })
    }

    async fn run_blocks(&self, inode: InodeId, run: RunId, first: u64, count: u64) -> Result<Bytes, Error> {
        let state = self.begin(|calls| &mut calls.run_blocks)?;
        let stored = state.run_of(inode, run)?;
        let blocks = run::blocks(stored.length);
        let end = first.checked_add(count).filter(|&end| count >= 1 && end <= blocks);
        let end = end.ok_or_else(|| Error::Invalid(format!("{count} blocks from {first} of {blocks}")))?;
        let bytes = match &stored.place {
            RunPlace::Inline(bytes) => bytes.clone(),
            RunPlace::Segment { segment, offset, length } => {
                let segment = state.segments.get(segment).expect("a referenced segment is kept");
                segment.bytes.slice(*offset as usize..(offset + length) as usize)
            }
        };
        let part = run::ciphertext_range(stored.length, first..end);
        Ok(bytes.slice(part.start as usize..part.end as usize))
    }

    async fn put_segment(&self, segment: SegmentId, source: Arc<dyn SegmentSource>) -> Result<(), Error> {
        drop(self.begin(|calls| &mut calls.put_segment)?);
        let length = source.len();
        if !(1..=self.settings.segment_size).contains(&length) {
            return Err(Error::Invalid(format!("segment of {length} bytes")));
        }
        let mut bytes = vec![0; length as usize];
        source.read_at(0, &mut bytes).map_err(|error| Error::Internal(format!("segment source: {error}")))?;
        let mut state = self.state.lock();
        state.segments.entry(segment).or_insert(StoredSegment { bytes: bytes.into(), references: 0 });
        state.reply(())
    }

    async fn commit(&self, commit: &Commit, lease: Option<HeldLease>) -> Result<CommitReply, Error> {
        let mut state = self.begin(|calls| &mut calls.commit)?;
        let reply = state.commit(commit, lease)?;
        state.reply(reply)
    }

    async fn lease(&self, request: &LeaseRequest) -> Result<LeaseReply, Error> {
        let mut state = self.state.lock();
        state.calls.lease += 1;
        if state.unreachable {
            return Err(unreachable());
        }
        state.lease(request)
    }

    async fn recalled(&self, lease: HeldLease, wait: Duration) -> Result<bool, Error> {
        let interrupted = {
            let mut state = self.state.lock();
            state.calls.recalled += 1;
            state.interrupted
        };
        std::future::poll_fn(|context| {
            let mut state = self.state.lock();
            if state.unreachable {
                return Poll::Ready(Err(unreachable()));
            }
            let must_ask = state.leases.must_ask(state.elapsed, lease.mount, lease.epoch);
            if must_ask || wait.is_zero() || state.interrupted != interrupted {
                return Poll::Ready(Ok(must_ask));
            }
            state.wait(context);
            Poll::Pending
        })
        .await
    }

    async fn changes(&self, after: u64, wait: Duration) -> Result<Changes, Error> {
        let interrupted = self.begin(|calls| &mut calls.changes)?.interrupted;
        std::future::poll_fn(|context| {
            let mut state = self.state.lock();
            if state.unreachable {
                return Poll::Ready(Err(unreachable()));
            }
            if wait.is_zero() || state.sequence != after || state.interrupted != interrupted {
                return Poll::Ready(Ok(state.changes(after, self.settings.epoch)));
            }
            state.wait(context);
            Poll::Pending
        })
        .await
    }

    async fn usage(&self) -> Result<Usage, Error> {
        let state = self.begin(|calls| &mut calls.usage)?;
        let available = state.quota.map_or(AVAILABLE, |quota| quota.saturating_sub(state.bytes));
        Ok(Usage { bytes: state.bytes, inodes: state.inodes.len() as u64, quota: state.quota, available })
    }

    async fn run_segments(&self, inode: InodeId, run: RunId) -> Result<Vec<SegmentState>, Error> {
        let state = self.begin(|calls| &mut calls.run_segments)?;
        Ok(match state.run_of(inode, run)?.place {
            RunPlace::Inline(_) => Vec::new(),
            // A segment is kept as it came: one piece, which is enough.
            RunPlace::Segment { segment, .. } => vec![SegmentState { segment, pieces: 1, required: 1 }],
        })
    }
}

/// What an in-memory bucket without a quota claims to have room for.
const AVAILABLE: u64 = 1 << 40;

fn unreachable() -> Error {
    Error::Unreachable("the in-memory bucket was told to be".to_owned())
}

#[cfg(test)]
mod tests;
