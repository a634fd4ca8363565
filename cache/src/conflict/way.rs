//! What is on its way when the network refuses a batch: names and inodes, as the cuts have them and as the network has them.

use crate::Error;
use crate::Name;
use crate::content::fetch::Keep;
use crate::content::map::{Fill, Part};
use crate::cut::batch::Batch;
use crate::load::{Gone, PARALLEL_NAMES};
use crate::record::Adopt;
use crate::shared::{Shared, State};
use futures::stream::{self, TryStreamExt};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;
use strewn_engine::bucket::{self, Inode, Kind, Operation, PutInode, RangeChange, Sealed};
use strewn_engine::content::window;
use strewn_engine::ids::InodeId;
use strewn_engine::keys::{DirectoryKeys, InodeKeys};
use strewn_engine::record::Record;
use strewn_engine::secret::Key;

/// A name on its way, and the network's meaning of it.
#[derive(Debug)]
pub(super) struct NameFound {
    pub(super) expected: Option<InodeId>,
    pub(super) found: Option<Adopt>,
}

/// An inode on its way, and the network's row of it.
#[derive(Debug, Default)]
pub(super) struct InodeFound {
    /// Row version that the oldest cut expects.
    pub(super) expected: u64,
    /// What it was before the oldest cut, as far as it is known.
    pub(super) base: Option<Record>,
    /// The same, as its batch has it, if it is not here any more.
    sealed_base: Option<(Kind, Sealed)>,
    /// Records that cuts put: one of these on the network is ours.
    ours: Vec<Sealed>,
    /// Ranges that cuts changed.
    pub(super) ranges: Vec<(Range<u64>, Fill)>,
    /// Sizes that batches gave it, each with the number of ranges before: they cut off what was beyond without saying so.
    sizes: Vec<(usize, u64)>,
    /// Its content was changed here.
    pub(super) changed: bool,
    /// How often, when it was looked at.
    pub(super) changes: Option<u32>,
    pub(super) row: Option<Inode>,
    /// What the row says, opened.
    pub(super) theirs: Option<Record>,
    /// No cut puts it: only whether it exists matters.
    pub(super) probe: bool,
}

impl InodeFound {
    fn note_put(&mut self, put: &PutInode) {
        self.ours.push(put.record.clone());
        self.changed |= !put.ranges.is_empty() || !put.tags.is_empty();
        self.sizes.push((self.ranges.len(), put.size));
        self.ranges.extend(put.ranges.iter().flat_map(fills));
    }

    /// Opens the base that its batch has.
    fn open_base(&mut self, inode: InodeId, key: &Key) {
        if let Some((kind, base)) = self.sealed_base.take() {
            self.base = InodeKeys::new(key).open_sealed_record(inode, kind, self.expected, &base).ok();
        }
    }

    /// Adds what batches cut off of what the network has.
    pub(super) fn add_cut_off(&mut self) {
        let Some(row) = self.row.as_ref().filter(|_| !self.has_foreign_content()) else { return };
        let mut before = row.size;
        let mut cut_off = Vec::new();
        for (at, size) in self.sizes.drain(..) {
            if size < before {
                cut_off.push((at, size..before));
            }
            before = size;
        }
        for (at, range) in cut_off.into_iter().rev() {
            self.ranges.insert(at, (range, Fill::Hole));
        }
    }

    /// Somebody else put the inode.
    pub(super) fn is_foreign(&self) -> bool {
        !self.probe
            && self.row.as_ref().is_some_and(|row| row.version != self.expected && !self.ours.contains(&row.record))
    }

    /// Somebody else changed its content, as far as is known.
    pub(super) fn has_foreign_content(&self) -> bool {
        let content = |record: &Record| (record.content, record.attributes.size);
        let before = self.base.as_ref().map(content);
        self.is_foreign() && (before.is_none() || before != self.theirs.as_ref().map(content))
    }
}

impl OnTheWay {
    fn note_batch(&mut self, state: &State, batch: &Batch) {
        self.first = self.first.min(batch.cut);
        self.number = self.number.min(batch.commit.number - 1);
        let parked = state.tree.parked.values().map(|name| (state.tree.root, name.clone()));
        let plain: BTreeSet<(InodeId, Name)> = state.tree.names_in_cut(batch.cut).cloned().chain(parked).collect();
        let mut sealed = BTreeMap::new();
        for (directory, name) in plain {
            let Some(key) = state.tree.node(directory).map(|node| node.key.clone()) else { continue };
            sealed.insert((directory, DirectoryKeys::new(&key).encrypt_name(directory, &name)), name);
        }
        let bases: HashMap<InodeId, &Sealed> = batch.bases.iter().map(|(inode, base)| (*inode, base)).collect();
        for operation in &batch.commit.operations {
            match operation {
                Operation::SetEntry(set) => {
                    let Some(name) = sealed.get(&(set.parent, set.name.clone())) else { continue };
                    let known = NameFound { expected: set.expected, found: None };
                    self.names.entry((set.parent, name.clone())).or_insert(known);
                }
                Operation::PutInode(put) => {
                    let sealed = bases.get(&put.inode).map(|base| (put.kind, (*base).clone()));
                    let fresh = InodeFound { expected: put.expected_version, ..InodeFound::default() };
                    let found = self.inodes.entry(put.inode).or_insert(InodeFound { sealed_base: sealed, ..fresh });
                    if let Some(node) = state.tree.node(put.inode) {
                        found.open_base(put.inode, &node.key);
                    }
                    found.note_put(put);
                }
                Operation::CheckGone(_) => {}
            }
        }
    }

    /// Notes what cuts took of which no batch was made, and what else is concerned.
    fn note_taken(&mut self, state: &State) {
        let taken = state.pipeline.drafts.iter().map(|(cut, _)| cut).chain(&state.pipeline.frozen);
        for cut in taken {
            self.first = self.first.min(cut.cut);
            for name in &cut.names {
                let known = NameFound { expected: name.expected, found: None };
                self.names.entry((name.directory, name.name.clone())).or_insert(known);
            }
            for inode in &cut.inodes {
                let known = state.pipeline.digests.get(&inode.inode);
                let base = || inode.base_record(*known.unwrap_or(&inode.digest));
                let fresh = || InodeFound { expected: inode.expected_version, base: base(), ..InodeFound::default() };
                let found = self.inodes.entry(inode.inode).or_insert_with(fresh);
                found.changed |= !inode.ranges.is_empty();
                found.ranges.extend(inode.ranges.iter().cloned());
            }
        }
        for (inode, found) in &mut self.inodes {
            // What no cut has taken goes as well if the content is somebody else's.
            let content = state.tree.node(*inode).and_then(|node| node.content.as_deref());
            found.changed |= content.is_some_and(|content| !content.dirty.is_empty());
            found.changes = changes_of(state, *inode);
        }
        self.add_moves(state);
        self.add_removals(state);
        // Directories that only names changed in, and what only got another name, may be gone.
        let named = self.names.keys().filter_map(|(directory, name)| state.tree.child_of(*directory, name));
        let concerned: Vec<InodeId> = self.names.keys().map(|(directory, _)| *directory).chain(named).collect();
        for inode in concerned {
            let expected = state.tree.node(inode).map_or(0, |node| node.version);
            let probe = InodeFound { expected, probe: true, ..InodeFound::default() };
            self.inodes.entry(inode).or_insert(probe);
        }
    }

    /// True if somebody else removed a file whose content was not changed here, and is not here as a whole: it cannot come
    /// back, whatever else changed here.
    pub(super) fn is_lost(&self, state: &State, inode: InodeId) -> bool {
        let removed = self.inodes.get(&inode).is_some_and(|found| found.row.is_none() && found.ranges.is_empty());
        let Some(node) = state.tree.node(inode).filter(|node| removed && node.version > 0) else { return false };
        let Some(content) = node.content.as_deref() else { return false };
        let is_here = |part: &Part| matches!(part, Part::Present(_) | Part::Hole(_));
        content.dirty.is_empty() && !content.parts(0..node.attributes.size).iter().all(is_here)
    }
}

/// Everything on its way.
#[derive(Debug, Default)]
pub(super) struct OnTheWay {
    pub(super) first: u64,
    pub(super) number: u64,
    pub(super) names: BTreeMap<(InodeId, Name), NameFound>,
    pub(super) inodes: BTreeMap<InodeId, InodeFound>,
}

/// How often the content of a file was changed here.
pub(super) fn changes_of(state: &State, inode: InodeId) -> Option<u32> {
    Some(state.tree.node(inode)?.content.as_deref()?.changes)
}

impl Shared {
    /// Collects what all cuts on their way changed.
    pub(super) async fn on_the_way(self: &Arc<Self>) -> Result<OnTheWay, Error> {
        let number = self.state.lock().pipeline.number;
        let mut way = OnTheWay { first: u64::MAX, number, ..OnTheWay::default() };
        let mut noted = 0;
        loop {
            let next = {
                let state = self.state.lock();
                let next = state.pipeline.queued.iter().map(|queued| queued.cut).find(|cut| *cut > noted);
                let Some(next) = next else {
                    way.note_taken(&state);
                    return Ok(way);
                };
                next
            };
            // None leaves the queue meanwhile, but more may come.
            let batch = self.whole_batch(next).await?;
            way.note_batch(&self.state.lock(), &batch);
            noted = next;
        }
    }

    /// Brings data of batches here that was evicted: it can still be read from the sealed files.
    pub(super) async fn bring_here(self: &Arc<Self>, way: &OnTheWay) -> Result<(), Error> {
        for (inode, found) in &way.inodes {
            for (range, fill) in &found.ranges {
                let size = self.state.lock().tree.node(*inode).map_or(0, |node| node.attributes.size);
                let range = range.start..range.end.min(size);
                if *fill == Fill::Data && !range.is_empty() {
                    self.bring_range_here(*inode, range).await?;
                }
            }
        }
        Ok(())
    }

    async fn bring_range_here(self: &Arc<Self>, inode: InodeId, range: Range<u64>) -> Result<(), Error> {
        match self.prefetch(inode, range.clone(), Keep::Always).await {
            Err(Error::Network(bucket::Error::NotFound(_)) | Error::Stale) => {}
            other => return other,
        }
        // Somebody removed or replaced the file: what cuts took of it is still in sealed files.
        let Some(key) = self.state.lock().tree.node(inode).map(|node| node.key.clone()) else { return Ok(()) };
        for number in window::covering(range.clone()) {
            self.load_window(inode, &key, number, Gone::IsEmpty).await?;
        }
        self.prefetch(inode, range, Keep::Always).await
    }

    /// Asks for everything, some of it side by side: there may be tens of thousands of names.
    pub(super) async fn ask_all(&self, way: &mut OnTheWay) -> Result<(), Error> {
        let names = stream::iter(way.names.iter_mut().map(Ok));
        names.try_for_each_concurrent(PARALLEL_NAMES, |(name, found)| self.ask_name(name, found)).await?;
        // What was removed here is known by the names that it has there.
        let there = way.names.values().filter_map(|found| found.found.as_ref());
        let keys: HashMap<InodeId, Key> = there.map(|row| (row.inode, Key::from(&row.key))).collect();
        let inodes = stream::iter(way.inodes.iter_mut().map(Ok));
        let ask = inodes
            .try_for_each_concurrent(PARALLEL_NAMES, |(inode, found)| self.ask_inode(*inode, keys.get(inode), found));
        ask.await?;
        // Somebody may have removed it in between, or what it was in: then it has no name there either.
        let OnTheWay { names, inodes, .. } = way;
        let is_gone = |inode: &InodeId| inodes.get(inode).is_some_and(|found| found.row.is_none());
        for ((directory, _), name) in names {
            name.found.take_if(|row| is_gone(directory) || is_gone(&row.inode));
        }
        Ok(())
    }

    async fn ask_name(&self, (directory, name): &(InodeId, Name), found: &mut NameFound) -> Result<(), Error> {
        let Some(key) = self.state.lock().tree.node(*directory).map(|node| node.key.clone()) else { return Ok(()) };
        let keys = DirectoryKeys::new(&key);
        let encrypted = keys.encrypt_name(*directory, name);
        found.found = match self.ask(self.bucket.entry(*directory, &encrypted)).await? {
            Some((entry, row)) => Some(self.open_row(&keys, &entry, &row)?),
            None => None,
        };
        Ok(())
    }

    async fn ask_inode(&self, inode: InodeId, key: Option<&Key>, found: &mut InodeFound) -> Result<(), Error> {
        found.row = match self.ask(self.bucket.inode(inode)).await {
            Ok(row) => Some(row),
            Err(bucket::Error::NotFound(_)) => None,
            Err(error) => return Err(error.into()),
        };
        let known = self.state.lock().tree.node(inode).map(|node| node.key.clone());
        let key = known.or_else(|| key.cloned());
        key.iter().for_each(|key| found.open_base(inode, key));
        found.theirs = match (&found.row, key) {
            (Some(row), Some(key)) if !found.probe => Some(InodeKeys::new(&key).open_record(row)?),
            _ => None,
        };
        Ok(())
    }
}

/// What a range change did to the bytes of a file.
fn fills(change: &RangeChange) -> Vec<(Range<u64>, Fill)> {
    let end = change.offset + change.length;
    let mut fills = vec![(change.offset..end, Fill::Hole)];
    fills.extend(change.extents.iter().map(|extent| (extent.offset..extent.end(), Fill::Data)));
    fills
}
