//! The maps of a bucket in memory, and what a commit does to them.

use super::{Calls, FEED_KEPT, FEED_PAGE, Snapshot, unreachable};
use crate::bucket::lease::{HeldLease, LeaseReply, LeaseRequest, Leases, Saved};
use crate::bucket::plan::{self, InodeRow, Outcome, Plan, Rows, RunChange, RunRow, Turn};
use crate::bucket::*;
use crate::ids::{CommitId, InodeId, MountId, RunId, SegmentId};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::convert::Infallible;
use std::ops::Bound;
use std::task::{Context, Waker};
use std::time::Duration;

pub(super) struct State {
    pub(super) root: InodeId,
    pub(super) inodes: HashMap<InodeId, Stored>,
    /// Entries by directory.
    pub(super) entries: HashMap<InodeId, BTreeMap<EncryptedName, Entry>>,
    /// Names of every inode.
    pub(super) names: HashMap<InodeId, BTreeSet<(InodeId, EncryptedName)>>,
    pub(super) runs: HashMap<RunId, StoredRun>,
    pub(super) segments: HashMap<SegmentId, StoredSegment>,
    pub(super) streams: HashMap<MountId, Stream>,
    pub(super) feed: VecDeque<Change>,
    pub(super) sequence: u64,
    pub(super) bytes: u64,
    pub(super) quota: Option<u64>,
    pub(super) leases: Leases,
    /// What a satellite would have written of them.
    pub(super) saved_leases: Saved,
    /// What its clock shows.
    pub(super) elapsed: Duration,
    pub(super) waiting: Vec<Waker>,
    pub(super) interrupted: u64,
    pub(super) calls: Calls,
    pub(super) unreachable: bool,
    pub(super) failing: Option<(u64, Error)>,
    pub(super) lost_replies: u64,
}

/// An inode with its content.
#[derive(Clone)]
pub(super) struct Stored {
    pub(super) row: InodeRow,
    pub(super) extents: BTreeMap<u64, Extent>,
    pub(super) tags: BTreeMap<u64, WindowTag>,
}

#[derive(Clone)]
pub(super) struct StoredRun {
    pub(super) length: u64,
    pub(super) place: RunPlace,
    pub(super) references: u64,
}

#[derive(Clone)]
pub(super) struct StoredSegment {
    pub(super) bytes: Bytes,
    pub(super) references: u64,
}

/// A mount's stream: the last applied number and the newest results.
#[derive(Default, Clone)]
pub(super) struct Stream {
    pub(super) last: u64,
    pub(super) results: VecDeque<(CommitId, [u8; 32], CommitReply)>,
}

impl Stored {
    fn new(row: InodeRow) -> Self {
        Self { row, extents: BTreeMap::new(), tags: BTreeMap::new() }
    }

    pub(super) fn between(&self, from: u64, to: u64) -> Vec<Extent> {
        let reaches_in = self.extents.range(..from).next_back().filter(|(_, extent)| extent.end() > from);
        let within = if from < to { Some(self.extents.range(from..to)) } else { None };
        let reaches_in = reaches_in.filter(|_| from < to);
        reaches_in.into_iter().chain(within.into_iter().flatten()).map(|(_, extent)| extent.clone()).collect()
    }
}

impl State {
    pub(super) fn new(root: InodeRow) -> Self {
        let id = root.inode.inode;
        Self { inodes: HashMap::from([(id, Stored::new(root))]), ..Self::empty(id) }
    }

    /// The same rows, with nobody waiting and nothing failing.
    pub(super) fn fork(&self) -> Self {
        Self {
            inodes: self.inodes.clone(),
            entries: self.entries.clone(),
            names: self.names.clone(),
            runs: self.runs.clone(),
            segments: self.segments.clone(),
            streams: self.streams.clone(),
            feed: self.feed.clone(),
            sequence: self.sequence,
            bytes: self.bytes,
            quota: self.quota,
            leases: self.leases.clone(),
            saved_leases: self.saved_leases.clone(),
            elapsed: self.elapsed,
            ..Self::empty(self.root)
        }
    }

    fn empty(root: InodeId) -> Self {
        Self {
            root,
            inodes: HashMap::new(),
            entries: HashMap::new(),
            names: HashMap::new(),
            runs: HashMap::new(),
            segments: HashMap::new(),
            streams: HashMap::new(),
            feed: VecDeque::new(),
            sequence: 0,
            bytes: 0,
            quota: None,
            leases: Leases::default(),
            saved_leases: Saved::default(),
            elapsed: Duration::ZERO,
            waiting: Vec::new(),
            interrupted: 0,
            calls: Calls::default(),
            unreachable: false,
            failing: None,
            lost_replies: 0,
        }
    }

    pub(super) fn fault(&mut self) -> Result<(), Error> {
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

    pub(super) fn reply<T>(&mut self, reply: T) -> Result<T, Error> {
        if self.lost_replies == 0 {
            return Ok(reply);
        }
        self.lost_replies -= 1;
        Err(unreachable())
    }

    pub(super) fn wake(&mut self) {
        self.waiting.drain(..).for_each(Waker::wake);
    }

    /// Has whoever polls in this context woken by [`wake`](Self::wake).
    pub(super) fn wait(&mut self, context: &Context<'_>) {
        if !self.waiting.iter().any(|waker| waker.will_wake(context.waker())) {
            self.waiting.push(context.waker().clone());
        }
    }

    pub(super) fn lease(&mut self, request: &LeaseRequest) -> Result<LeaseReply, Error> {
        let recalls = self.leases.recalls();
        let reply = self.leases.request(self.elapsed, request, self.sequence);
        if self.leases.recalls() != recalls {
            self.wake();
        }
        if let Some(change) = self.leases.unsaved().filter(|_| reply.is_ok()) {
            self.saved_leases = self.leases.saved();
            self.leases.note_saved(change);
        }
        reply
    }

    /// A run that an inode refers to.
    pub(super) fn run_of(&self, inode: InodeId, run: RunId) -> Result<&StoredRun, Error> {
        let refers = self.stored(inode)?.extents.values().any(|extent| extent.run == run);
        let found = self.runs.get(&run).filter(|_| refers);
        found.ok_or_else(|| Error::NotFound(format!("run {run:?} of {inode:?}")))
    }

    pub(super) fn stored(&self, inode: InodeId) -> Result<&Stored, Error> {
        self.inodes.get(&inode).ok_or_else(|| Error::NotFound(format!("inode {inode:?}")))
    }

    pub(super) fn named(&self, parent: InodeId, name: &EncryptedName) -> Option<&Entry> {
        self.entries.get(&parent)?.get(name)
    }

    pub(super) fn names(&self, directory: InodeId, after: Option<&EncryptedName>) -> impl Iterator<Item = &Entry> {
        // Entries are kept per directory, so that an empty range needs no smallest name.
        let from = after.map_or(Bound::Unbounded, |name| Bound::Excluded(name.clone()));
        let names = self.entries.get(&directory);
        names.into_iter().flat_map(move |names| names.range((from.clone(), Bound::Unbounded))).map(|(_, entry)| entry)
    }

    pub(super) fn with_child(&self, entry: &Entry) -> (Entry, Inode) {
        let child = self.inodes.get(&entry.child).expect("every entry names an inode");
        (entry.clone(), child.row.inode.clone())
    }

    pub(super) fn commit(&mut self, commit: &Commit, lease: Option<HeldLease>) -> Result<CommitReply, Error> {
        plan::check_shape(commit)?;
        let digest = plan::digest(commit);
        let stream = self.streams.get(&commit.mount);
        let known = stream.and_then(|stream| stream.results.iter().find(|result| result.0 == commit.id));
        let known = known.map(|(_, digest, reply)| (*digest, reply.clone()));
        if let Turn::Replay(reply) = plan::turn(stream.map_or(0, |stream| stream.last), commit, &digest, known)? {
            return Ok(reply);
        }
        let (mount, epoch) = (lease.map_or(commit.mount, |lease| lease.mount), lease.map(|lease| lease.epoch));
        if let Err(lapse) = self.leases.check_commit(self.elapsed, mount, epoch, commit) {
            self.wake();
            return Ok(CommitReply::Lapsed(lapse));
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

    pub(super) fn changes(&self, after: u64, epoch: u64) -> Changes {
        let oldest = self.sequence - self.feed.len() as u64;
        if after > self.sequence || after < oldest {
            return Changes { epoch, changes: Vec::new(), sequence: self.sequence, gap: true };
        }
        let changes: Vec<Change> = self.feed.iter().skip((after - oldest) as usize).take(FEED_PAGE).cloned().collect();
        let sequence = changes.last().map_or(after, |change| change.sequence);
        Changes { epoch, changes, sequence, gap: false }
    }

    pub(super) fn snapshot(&self) -> Snapshot {
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
