//! A bucket in memory: the honest twin of a network, for tests and for running without one.
//!
//! It keeps plain maps under one lock, answers exactly as a satellite does (both apply the same [`plan`]), stores segments
//! as they come, and loses everything when dropped. Faults can be ordered: unreachable, failing calls, lost replies.
//!
//! It has no clock: a call of [`changes`](BucketService::changes) with a `wait` above zero ends with the next commit, with
//! [`MemoryBucket::wake`], or when its future is dropped. Segments nothing refers to go with
//! [`MemoryBucket::collect_unreferenced`].

use super::plan::{self, InodeRow, Outcome, Plan, Rows, RunChange, RunRow, Turn};
use super::*;
use crate::content::{BLOCK, BLOCK_PLAIN};
use crate::ids::{CommitId, MountId};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::convert::Infallible;
use std::ops::Bound;
use std::task::{Poll, Waker};

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
}

/// Everything in a bucket, in order, for comparing two of them. The feed and mount streams are not part of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Newest sequence number.
    pub sequence: u64,
    /// Logical bytes of all files.
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

    /// While set, every call fails with [`Error::Unreachable`]; waiting ones too.
    pub fn set_unreachable(&self, unreachable: bool) {
        let mut state = self.state.lock();
        state.unreachable = unreachable;
        state.wake();
    }

    /// Makes the next `calls` calls fail with `error`, without doing anything.
    pub fn fail_next(&self, calls: u64, error: Error) {
        self.state.lock().failing = Some((calls, error));
    }

    /// Lets the next `calls` calls of `commit` and `put_segment` do their work but lose the answer: the caller gets
    /// [`Error::Unreachable`].
    pub fn lose_replies(&self, calls: u64) {
        self.state.lock().lost_replies = calls;
    }

    /// Most logical bytes the bucket takes.
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
    fn begin(&self, count: impl FnOnce(&mut Calls) -> &mut u64) -> Result<parking_lot::MutexGuard<'_, State>, Error> {
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
        let refers = state.stored(inode)?.extents.values().any(|extent| extent.run == run);
        let stored = state.runs.get(&run).filter(|_| refers);
        let stored = stored.ok_or_else(|| Error::NotFound(format!("run {run:?} of {inode:?}")))?;
        let blocks = stored.length.div_ceil(BLOCK_PLAIN);
        let end = first.checked_add(count).filter(|&end| count >= 1 && end <= blocks);
        let end = end.ok_or_else(|| Error::Invalid(format!("{count} blocks from {first} of {blocks}")))?;
        let bytes = match &stored.place {
            RunPlace::Inline(bytes) => bytes.clone(),
            RunPlace::Segment { segment, offset, length } => {
                let segment = state.segments.get(segment).expect("a referenced segment is kept");
                segment.bytes.slice(*offset as usize..(offset + length) as usize)
            }
        };
        let to = (end * BLOCK).min(bytes.len() as u64);
        Ok(bytes.slice((first * BLOCK) as usize..to as usize))
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

    async fn commit(&self, commit: &Commit) -> Result<CommitReply, Error> {
        let mut state = self.begin(|calls| &mut calls.commit)?;
        let reply = state.commit(commit)?;
        state.reply(reply)
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
            if !state.waiting.iter().any(|waker| waker.will_wake(context.waker())) {
                state.waiting.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await
    }

    async fn usage(&self) -> Result<Usage, Error> {
        let state = self.begin(|calls| &mut calls.usage)?;
        let available = state.quota.map_or(AVAILABLE, |quota| quota.saturating_sub(state.bytes));
        Ok(Usage { bytes: state.bytes, inodes: state.inodes.len() as u64, quota: state.quota, available })
    }
}

/// What an in-memory bucket without a quota claims to have room for.
const AVAILABLE: u64 = 1 << 40;

struct State {
    root: InodeId,
    inodes: HashMap<InodeId, Stored>,
    /// Entries by directory.
    entries: HashMap<InodeId, BTreeMap<EncryptedName, Entry>>,
    /// Names of every inode.
    names: HashMap<InodeId, BTreeSet<(InodeId, EncryptedName)>>,
    runs: HashMap<RunId, StoredRun>,
    segments: HashMap<SegmentId, StoredSegment>,
    streams: HashMap<MountId, Stream>,
    feed: VecDeque<Change>,
    sequence: u64,
    bytes: u64,
    quota: Option<u64>,
    waiting: Vec<Waker>,
    interrupted: u64,
    calls: Calls,
    unreachable: bool,
    failing: Option<(u64, Error)>,
    lost_replies: u64,
}

/// An inode with its content.
struct Stored {
    row: InodeRow,
    extents: BTreeMap<u64, Extent>,
    tags: BTreeMap<u64, WindowTag>,
}

struct StoredRun {
    length: u64,
    place: RunPlace,
    references: u64,
}

struct StoredSegment {
    bytes: Bytes,
    references: u64,
}

/// A mount's stream: the last applied number and the newest results.
#[derive(Default)]
struct Stream {
    last: u64,
    results: VecDeque<(CommitId, [u8; 32], CommitReply)>,
}

impl Stored {
    fn new(row: InodeRow) -> Self {
        Self { row, extents: BTreeMap::new(), tags: BTreeMap::new() }
    }

    fn between(&self, from: u64, to: u64) -> Vec<Extent> {
        let reaches_in = self.extents.range(..from).next_back().filter(|(_, extent)| extent.end() > from);
        let within = if from < to { Some(self.extents.range(from..to)) } else { None };
        let reaches_in = reaches_in.filter(|_| from < to);
        reaches_in.into_iter().chain(within.into_iter().flatten()).map(|(_, extent)| extent.clone()).collect()
    }
}

impl State {
    fn new(root: InodeRow) -> Self {
        let id = root.inode.inode;
        Self {
            root: id,
            inodes: HashMap::from([(id, Stored::new(root))]),
            entries: HashMap::new(),
            names: HashMap::new(),
            runs: HashMap::new(),
            segments: HashMap::new(),
            streams: HashMap::new(),
            feed: VecDeque::new(),
            sequence: 0,
            bytes: 0,
            quota: None,
            waiting: Vec::new(),
            interrupted: 0,
            calls: Calls::default(),
            unreachable: false,
            failing: None,
            lost_replies: 0,
        }
    }

    fn fault(&mut self) -> Result<(), Error> {
        if let Some((calls, error)) = &mut self.failing {
            let error = error.clone();
            *calls = calls.saturating_sub(1);
            if *calls == 0 {
                self.failing = None;
            }
            return Err(error);
        }
        if self.unreachable { Err(unreachable()) } else { Ok(()) }
    }

    fn reply<T>(&mut self, reply: T) -> Result<T, Error> {
        if self.lost_replies == 0 {
            return Ok(reply);
        }
        self.lost_replies -= 1;
        Err(unreachable())
    }

    fn wake(&mut self) {
        self.waiting.drain(..).for_each(Waker::wake);
    }

    fn stored(&self, inode: InodeId) -> Result<&Stored, Error> {
        self.inodes.get(&inode).ok_or_else(|| Error::NotFound(format!("inode {inode:?}")))
    }

    fn named(&self, parent: InodeId, name: &EncryptedName) -> Option<&Entry> {
        self.entries.get(&parent)?.get(name)
    }

    fn names(&self, directory: InodeId, after: Option<&EncryptedName>) -> impl Iterator<Item = &Entry> {
        // Entries are kept per directory, so that an empty range needs no smallest name.
        let from = after.map_or(Bound::Unbounded, |name| Bound::Excluded(name.clone()));
        let names = self.entries.get(&directory);
        names.into_iter().flat_map(move |names| names.range((from.clone(), Bound::Unbounded))).map(|(_, entry)| entry)
    }

    fn with_child(&self, entry: &Entry) -> (Entry, Inode) {
        let child = self.inodes.get(&entry.child).expect("every entry names an inode");
        (entry.clone(), child.row.inode.clone())
    }

    fn commit(&mut self, commit: &Commit) -> Result<CommitReply, Error> {
        plan::check_shape(commit)?;
        let digest = plan::digest(commit);
        let stream = self.streams.get(&commit.mount);
        let known = stream.and_then(|stream| stream.results.iter().find(|result| result.0 == commit.id));
        let known = known.map(|(_, digest, reply)| (*digest, reply.clone()));
        if let Turn::Replay(reply) = plan::turn(stream.map_or(0, |stream| stream.last), commit, &digest, known)? {
            return Ok(reply);
        }
        let Ok(outcome) = plan::plan(self, commit);
        let reply = match outcome {
            Outcome::Refuse { operation, reason } => CommitReply::Refused { operation, reason },
            Outcome::Apply(plan) => {
                let bytes = self.bytes.saturating_add_signed(plan.bytes);
                if plan.bytes > 0 && self.quota.is_some_and(|quota| bytes > quota) {
                    return Err(Error::Quota(format!("{bytes} bytes")));
                }
                self.apply(commit.mount, plan);
                CommitReply::Applied { sequence: self.sequence }
            }
        };
        let stream = self.streams.entry(commit.mount).or_default();
        stream.last += u64::from(matches!(reply, CommitReply::Applied { .. }));
        stream.results.push_back((commit.id, digest, reply.clone()));
        if stream.results.len() as u64 > plan::RESULTS_KEPT {
            stream.results.pop_front();
        }
        Ok(reply)
    }

    fn apply(&mut self, mount: MountId, plan: Plan) {
        for (parent, name, entry) in plan.entries {
            self.set_entry(parent, name, entry);
        }
        for (inode, row) in plan.inodes {
            match row {
                None => drop(self.inodes.remove(&inode)),
                Some(row) => match self.inodes.get_mut(&inode) {
                    Some(stored) => stored.row = row,
                    None => drop(self.inodes.insert(inode, Stored::new(row))),
                },
            }
        }
        for change in plan.extents {
            let Some(stored) = self.inodes.get_mut(&change.inode) else { continue };
            change.removed.iter().for_each(|offset| drop(stored.extents.remove(offset)));
            stored.extents.extend(change.inserted.into_iter().map(|(extent, _)| (extent.offset, extent)));
        }
        for (inode, window, tag) in plan.tags {
            let Some(stored) = self.inodes.get_mut(&inode) else { continue };
            match tag {
                Some(tag) => stored.tags.insert(window, tag),
                None => stored.tags.remove(&window),
            };
        }
        for (id, change) in plan.runs {
            match change {
                RunChange::New { length, place, references } => {
                    self.runs.insert(id, StoredRun { length, place, references });
                }
                RunChange::References(references) => {
                    if let Some(run) = self.runs.get_mut(&id) {
                        run.references = references;
                    }
                }
                RunChange::Removed => drop(self.runs.remove(&id)),
            }
        }
        for (id, change) in plan.segments {
            if let Some(segment) = self.segments.get_mut(&id) {
                segment.references = segment.references.saturating_add_signed(change);
            }
        }
        self.bytes = self.bytes.saturating_add_signed(plan.bytes);
        self.sequence += 1;
        let (entries, inodes) = (plan.changed_entries, plan.changed_inodes);
        self.feed.push_back(Change { sequence: self.sequence, mount, entries, inodes });
        if self.feed.len() > FEED_KEPT {
            self.feed.pop_front();
        }
        self.wake();
    }

    fn set_entry(&mut self, parent: InodeId, name: EncryptedName, entry: Option<Entry>) {
        let child = entry.as_ref().map(|entry| entry.child);
        let names = self.entries.entry(parent).or_default();
        let old = match entry {
            Some(entry) => names.insert(name.clone(), entry),
            None => names.remove(&name),
        };
        if names.is_empty() {
            self.entries.remove(&parent);
        }
        if let Some(child) = child {
            self.names.entry(child).or_default().insert((parent, name.clone()));
        }
        if let Some(old) = old.filter(|old| Some(old.child) != child)
            && let Some(names) = self.names.get_mut(&old.child)
        {
            names.remove(&(parent, name));
            if names.is_empty() {
                self.names.remove(&old.child);
            }
        }
    }

    fn changes(&self, after: u64, epoch: u64) -> Changes {
        let oldest = self.sequence - self.feed.len() as u64;
        if after > self.sequence || after < oldest {
            return Changes { epoch, changes: Vec::new(), sequence: self.sequence, gap: true };
        }
        let changes: Vec<Change> = self.feed.iter().skip((after - oldest) as usize).take(FEED_PAGE).cloned().collect();
        let sequence = changes.last().map_or(after, |change| change.sequence);
        Changes { epoch, changes, sequence, gap: false }
    }

    fn snapshot(&self) -> Snapshot {
        let mut inodes: Vec<(&InodeId, &Stored)> = self.inodes.iter().collect();
        inodes.sort_unstable_by_key(|(id, _)| **id);
        let extents = |(id, stored): &(&InodeId, &Stored)| {
            let id = **id;
            stored.extents.values().map(move |extent| (id, extent.clone())).collect::<Vec<_>>()
        };
        let tags = |(id, stored): &(&InodeId, &Stored)| {
            let id = **id;
            stored.tags.iter().map(move |(window, tag)| (id, *window, *tag)).collect::<Vec<_>>()
        };
        let mut runs: Vec<_> = self.runs.iter().map(|(id, run)| (*id, run.row())).collect();
        runs.sort_unstable_by_key(|(id, _)| *id);
        let length = |segment: &StoredSegment| segment.bytes.len() as u64;
        let mut segments: Vec<_> = self.segments.iter().map(|(id, s)| (*id, length(s), s.references)).collect();
        segments.sort_unstable();
        let mut entries: Vec<Entry> = self.entries.values().flat_map(BTreeMap::values).cloned().collect();
        entries.sort_unstable_by(|a, b| (a.parent, &a.name).cmp(&(b.parent, &b.name)));
        Snapshot {
            sequence: self.sequence,
            bytes: self.bytes,
            entries,
            extents: inodes.iter().flat_map(extents).collect(),
            tags: inodes.iter().flat_map(tags).collect(),
            inodes: inodes.into_iter().map(|(_, stored)| stored.row.clone()).collect(),
            runs,
            segments,
        }
    }
}

impl StoredRun {
    fn row(&self) -> RunRow {
        let segments = match &self.place {
            RunPlace::Inline(_) => Vec::new(),
            RunPlace::Segment { segment, .. } => vec![*segment],
        };
        RunRow { length: self.length, references: self.references, segments }
    }
}

impl Rows for State {
    type Error = Infallible;

    fn root(&self) -> InodeId {
        self.root
    }

    fn entry(&mut self, parent: InodeId, name: &EncryptedName) -> Result<Option<Entry>, Infallible> {
        Ok(self.named(parent, name).cloned())
    }

    fn inode(&mut self, inode: InodeId) -> Result<Option<InodeRow>, Infallible> {
        Ok(self.inodes.get(&inode).map(|stored| stored.row.clone()))
    }

    fn parent(&mut self, directory: InodeId) -> Result<Option<InodeId>, Infallible> {
        Ok(self.names.get(&directory).and_then(|names| names.first()).map(|(parent, _)| *parent))
    }

    fn extents(&mut self, inode: InodeId, from: u64, to: u64) -> Result<Vec<Extent>, Infallible> {
        Ok(self.inodes.get(&inode).map_or_else(Vec::new, |stored| stored.between(from, to)))
    }

    fn inline_extents(&mut self, inode: InodeId) -> Result<Vec<Extent>, Infallible> {
        let is_inline =
            |extent: &&Extent| self.runs.get(&extent.run).is_some_and(|run| matches!(run.place, RunPlace::Inline(_)));
        let stored = self.inodes.get(&inode);
        Ok(stored.map_or_else(Vec::new, |stored| stored.extents.values().filter(is_inline).cloned().collect()))
    }

    fn windows(&mut self, inode: InodeId) -> Result<u64, Infallible> {
        Ok(self.inodes.get(&inode).map_or(0, |stored| stored.tags.len() as u64))
    }

    fn run(&mut self, run: RunId) -> Result<Option<RunRow>, Infallible> {
        Ok(self.runs.get(&run).map(StoredRun::row))
    }

    fn segment(&mut self, segment: SegmentId) -> Result<Option<u64>, Infallible> {
        Ok(self.segments.get(&segment).map(|segment| segment.bytes.len() as u64))
    }
}

fn unreachable() -> Error {
    Error::Unreachable("the in-memory bucket was told to be".to_owned())
}

#[cfg(test)]
mod tests;
