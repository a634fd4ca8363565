//! What happens when the network refuses a batch because another writer won: nothing is dropped.
//!
//! The network is asked how the names and inodes on their way are now. Then, in one step, all cuts are taken apart and what
//! they changed is pending again, on that ground:
//! - a name that means what it meant, or already means what it is to mean, is no conflict;
//! - a name that somebody else changed keeps their meaning, and what it means here becomes `name (conflict HOST TIME)`; a
//!   removal here gives way;
//! - of an inode that somebody else changed, attributes from here win; if content changed here too, the file keeps their
//!   content, and ours becomes a copy beside it;
//! - an inode that somebody else removed while it was changed here comes back.
//!
//! No cut is taken meanwhile; writers go on. After a crash in between the batch is refused again and all begins anew: what is
//! made before that one record (`copies`, `keep`) leaves no trace by itself.

mod copies;
mod keep;

use crate::content::Digest;
use crate::content::map::Fill;
use crate::content::read::Keep;
use crate::cut::batch::Queued;
use crate::cut::seal::draw;
use crate::record::{Adopt, Mutation, Rebase};
use crate::shared::{Shared, State};
use crate::tree::Tree;
use crate::{Error, Invalidation, Name};
use copies::Copies;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};
use strewn_engine::bucket::{self, Inode, Kind, Operation, RangeChange, Refusal, Sealed};
use strewn_engine::ids::{InodeId, MountId};
use strewn_engine::keys::{DirectoryKeys, InodeKeys};

/// Bytes copied at a time into a conflict copy.
const COPY_STEP: u64 = 1 << 20;

/// A name on its way, and the network's meaning of it.
#[derive(Debug)]
struct NameFound {
    expected: Option<InodeId>,
    found: Option<Adopt>,
}

/// An inode on its way, and the network's row of it.
#[derive(Debug, Default)]
struct InodeFound {
    /// Row version that the oldest cut expects.
    expected: u64,
    /// Records that cuts put: one of these on the network is ours.
    ours: Vec<Sealed>,
    /// Ranges that cuts changed.
    ranges: Vec<(Range<u64>, Fill)>,
    row: Option<Inode>,
    /// No cut puts it: only whether it exists matters.
    probe: bool,
}

impl InodeFound {
    /// Somebody else put the inode.
    fn is_foreign(&self) -> bool {
        !self.probe
            && self.row.as_ref().is_some_and(|row| row.version != self.expected && !self.ours.contains(&row.record))
    }
}

/// Everything on its way.
#[derive(Debug, Default)]
struct OnTheWay {
    first: u64,
    number: u64,
    names: BTreeMap<(InodeId, Name), NameFound>,
    inodes: BTreeMap<InodeId, InodeFound>,
}

impl Shared {
    /// Deals with a refusal.
    pub(crate) async fn resolve(self: &Arc<Self>, queued: &Arc<Queued>, reason: &Refusal) -> Result<(), Error> {
        tracing::warn!("batch {} lost against another writer: {reason}", queued.commit.number);
        self.take_apart(None, matches!(reason, Refusal::NotEmpty)).await
    }

    /// Deals with a stream that is out of step: the batches go into a new one.
    pub(crate) async fn restart_stream(self: &Arc<Self>) -> Result<(), Error> {
        self.take_apart(Some(MountId::from_bytes(draw()?)), false).await
    }

    async fn take_apart(self: &Arc<Self>, stream: Option<MountId>, yield_directories: bool) -> Result<(), Error> {
        self.state.lock().pipeline.resolving = true;
        let result = self.try_take_apart(stream, yield_directories).await;
        self.state.lock().pipeline.resolving = false;
        self.bump();
        result
    }

    async fn try_take_apart(self: &Arc<Self>, stream: Option<MountId>, yield_directories: bool) -> Result<(), Error> {
        let mut way = self.on_the_way();
        self.bring_here(&way).await?;
        self.ask_all(&mut way).await?;
        let mut copies = Copies::new(self);
        for (inode, found) in way.inodes.iter().filter(|(_, found)| found.is_foreign() && !found.ranges.is_empty()) {
            copies.copy(*inode, found).await?;
        }
        let _alone = self.gate.write().await;
        self.sync_way(&way).await?;
        let mut state = self.state.lock();
        self.log_way(&mut state, &way)?;
        let result = self.put_on_ground(&mut state, way, &copies, stream, yield_directories);
        drop(state);
        result
    }

    /// Collects what all cuts on their way changed.
    fn on_the_way(&self) -> OnTheWay {
        let state = self.state.lock();
        let pipeline = &state.pipeline;
        let mut way = OnTheWay { first: u64::MAX, number: pipeline.number, ..OnTheWay::default() };
        for queued in &pipeline.queued {
            way.first = way.first.min(queued.cut);
            way.number = way.number.min(queued.commit.number - 1);
            note_batch(&mut way, &state, queued);
        }
        let taken = pipeline.drafts.iter().map(|(cut, _)| cut).chain(&pipeline.frozen);
        for cut in taken {
            way.first = way.first.min(cut.cut);
            for name in &cut.names {
                let known = NameFound { expected: name.expected, found: None };
                way.names.entry((name.directory, name.name.clone())).or_insert(known);
            }
            for inode in &cut.inodes {
                let fresh = InodeFound { expected: inode.expected_version, ..InodeFound::default() };
                let found = way.inodes.entry(inode.inode).or_insert(fresh);
                found.ranges.extend(inode.ranges.iter().cloned());
            }
        }
        // Directories that only names changed in may be gone.
        let directories: Vec<InodeId> = way.names.keys().map(|(directory, _)| *directory).collect();
        for directory in directories {
            let expected = state.tree.node(directory).map_or(0, |node| node.version);
            let probe = InodeFound { expected, probe: true, ..InodeFound::default() };
            way.inodes.entry(directory).or_insert(probe);
        }
        way
    }

    /// Brings data of batches here that was evicted: it can still be read from the sealed files.
    async fn bring_here(self: &Arc<Self>, way: &OnTheWay) -> Result<(), Error> {
        for (inode, found) in &way.inodes {
            for (range, fill) in &found.ranges {
                let size = self.state.lock().tree.node(*inode).map_or(0, |node| node.attributes.size);
                let range = range.start..range.end.min(size);
                if *fill == Fill::Data && !range.is_empty() {
                    self.prefetch(*inode, range, Keep::Always).await?;
                }
            }
        }
        Ok(())
    }

    async fn ask_all(&self, way: &mut OnTheWay) -> Result<(), Error> {
        for ((directory, name), found) in &mut way.names {
            let Some(key) = self.state.lock().tree.node(*directory).map(|node| node.key.clone()) else { continue };
            let keys = DirectoryKeys::new(&key);
            let encrypted = keys.encrypt_name(*directory, name);
            found.found = match self.ask(self.bucket.entry(*directory, &encrypted)).await? {
                Some((entry, row)) => Some(self.open_row(&keys, &entry, &row)?),
                None => None,
            };
        }
        for (inode, found) in &mut way.inodes {
            found.row = match self.ask(self.bucket.inode(*inode)).await {
                Ok(row) => Some(row),
                Err(bucket::Error::NotFound(_)) => None,
                Err(error) => return Err(error.into()),
            };
        }
        Ok(())
    }

    /// Takes all cuts apart, in one record.
    fn put_on_ground(
        &self,
        state: &mut State,
        way: OnTheWay,
        copies: &Copies<'_>,
        stream: Option<MountId>,
        yield_directories: bool,
    ) -> Result<(), Error> {
        let number = if stream.is_some() { 0 } else { way.number };
        let mount = stream.unwrap_or(state.pipeline.mount);
        let mut record = vec![Mutation::Uncut { from: way.first, number }, Mutation::Stream { mount, number }];
        let (mut told, mut taken) = (Vec::new(), BTreeSet::new());
        copies.name(state, &mut taken, &mut record, &mut told);
        for (inode, found) in &way.inodes {
            rebase(state, *inode, found, &way.names, &mut record)?;
        }
        for ((directory, name), found) in &way.names {
            self.settle_name(state, (*directory, name), found, yield_directories, &mut taken, &mut record, &mut told);
        }
        let record = state.tree.with_adoptions(record);
        let position = state.append(&self.journal, &record)?;
        state.pipeline.epoch += 1;
        state.pipeline.taken_apart = true;
        (state.pipeline.mount, state.pipeline.number) = (mount, number);
        let gone = state.pipeline.dequeue_all();
        let segments: Vec<_> = gone.iter().flat_map(|queued| queued.segments.clone()).collect();
        let drafts = state.pipeline.drafts.drain(..).flat_map(|(_, sealed)| sealed.segments).collect::<Vec<_>>();
        self.outgoing.forget(segments.iter().chain(&drafts).map(|segment| segment.id));
        state.pipeline.done.extend(gone.iter().map(|queued| (queued.cut, Vec::new())));
        state.pipeline.done.push_back((way.first, segments.into_iter().chain(drafts).collect()));
        state.pipeline.frozen.clear();
        state.pipeline.ages.clear();
        state.pipeline.digests.clear();
        state.pipeline.recent.clear();
        state.tree.uncut(way.first, way.inodes.iter().map(|(inode, found)| (*inode, found.ranges.clone())));
        state.tree.apply_record(&record, &[], position)?;
        told.into_iter().for_each(|invalidation| self.invalidate(invalidation));
        Ok(())
    }

    /// What becomes of one name: mutations for the record, and news for followers.
    #[allow(clippy::too_many_arguments)] // one name and what it is settled by
    fn settle_name(
        &self,
        state: &State,
        (directory, name): (InodeId, &Name),
        found: &NameFound,
        yield_directories: bool,
        taken: &mut BTreeSet<(InodeId, Name)>,
        record: &mut Vec<Mutation>,
        told: &mut Vec<Invalidation>,
    ) {
        let slot = state.tree.node(directory).and_then(|node| node.directory.as_deref()?.slot(name));
        let Some(local) = slot.map(|slot| slot.child.map(|(child, _)| child)) else { return };
        let theirs = found.found.as_ref().map(|adopt| adopt.inode);
        record.push(Mutation::RebaseEntry { directory, name: name.clone(), base: theirs });
        let kind = found.found.as_ref().map(|adopt| adopt.attributes.kind);
        let yields = yield_directories && local.is_none() && kind == Some(Kind::Directory);
        let agreed = theirs == found.expected || theirs == local || theirs.is_none();
        if agreed && !yields {
            return;
        }
        // Their name stays; ours goes beside it. Directories of the same name are both kept as well.
        if let Some(adopt) = &found.found {
            let mut adopt = adopt.clone();
            if adopt.attributes.kind != Kind::Directory {
                // The entry below counts its name.
                adopt.links = adopt.links.saturating_sub(1);
            }
            let counted = adopt.counted();
            record.push(Mutation::Adopt(Box::new(adopt)));
            record.extend(counted);
        }
        record.push(Mutation::Entry { directory, name: name.clone(), previous: local, child: theirs });
        if let Some(local) = local {
            let conflict = self.conflict_name(&state.tree, directory, name, taken);
            self.counters.conflicts.fetch_add(1, Ordering::Relaxed);
            told.push(Invalidation::Entry(directory, conflict.clone()));
            record.push(Mutation::Entry { directory, name: conflict, previous: None, child: Some(local) });
        }
        told.push(Invalidation::Entry(directory, name.clone()));
    }

    /// `name (conflict HOST TIME)`, cut so that it is a valid name that is not `taken`, which it is then.
    fn conflict_name(
        &self,
        tree: &Tree,
        directory: InodeId,
        name: &Name,
        taken: &mut BTreeSet<(InodeId, Name)>,
    ) -> Name {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let host: String = self.options.host.chars().filter(|c| c.is_ascii_graphic() && *c != '/').take(40).collect();
        let slot = |name: &Name| tree.node(directory).and_then(|node| node.directory.as_deref()?.slot(name));
        let mut number = 0;
        loop {
            let suffix = match number {
                0 => format!(" (conflict {host} {seconds})"),
                _ => format!(" (conflict {host} {seconds}-{number})"),
            };
            let keep = name.as_bytes().len().min(Name::MAX - suffix.len());
            let bytes = [&name.as_bytes()[..keep], suffix.as_bytes()].concat();
            let candidate = Name::new(&bytes).expect("a valid name and printable characters within the limit");
            if slot(&candidate).is_none() && taken.insert((directory, candidate.clone())) {
                return candidate;
            }
            number += 1;
        }
    }
}

/// What becomes of one inode.
fn rebase(
    state: &State,
    inode: InodeId,
    found: &InodeFound,
    names: &BTreeMap<(InodeId, Name), NameFound>,
    record: &mut Vec<Mutation>,
) -> Result<(), Error> {
    let Some(node) = state.tree.node(inode) else { return Ok(()) };
    let Some(row) = &found.row else {
        let digest = Digest::empty();
        record.push(Mutation::Rebase(Rebase { inode, version: 0, content: digest.hash, foreign: None }));
        record.extend(Mutation::counted(inode, digest));
        if found.expected > 0 {
            // Removed by somebody else while it was changed here: it comes back under the names known here.
            let lost = node.names.iter().filter(|place| !names.contains_key(place));
            record.extend(lost.map(|(directory, name)| Mutation::RebaseEntry {
                directory: *directory,
                name: name.clone(),
                base: None,
            }));
        }
        return Ok(());
    };
    if found.probe {
        return Ok(());
    }
    let theirs = InodeKeys::new(&node.key).open_record(row)?;
    let foreign = (found.is_foreign() && node.content.is_some()).then_some(row.size);
    let digest = Digest { hash: theirs.content, allocated: theirs.allocated };
    record.push(Mutation::Rebase(Rebase { inode, version: row.version, content: digest.hash, foreign }));
    record.extend(Mutation::counted(inode, digest));
    Ok(())
}

fn note_batch(way: &mut OnTheWay, state: &State, queued: &Queued) {
    let plain: BTreeSet<(InodeId, Name)> = state.tree.names_in_cut(queued.cut).cloned().collect();
    let mut sealed = BTreeMap::new();
    for (directory, name) in plain {
        let Some(key) = state.tree.node(directory).map(|node| node.key.clone()) else { continue };
        sealed.insert((directory, DirectoryKeys::new(&key).encrypt_name(directory, &name)), name);
    }
    for operation in &queued.commit.operations {
        match operation {
            Operation::SetEntry(set) => {
                let Some(name) = sealed.get(&(set.parent, set.name.clone())) else { continue };
                let known = NameFound { expected: set.expected, found: None };
                way.names.entry((set.parent, name.clone())).or_insert(known);
            }
            Operation::PutInode(put) => {
                let fresh = InodeFound { expected: put.expected_version, ..InodeFound::default() };
                let found = way.inodes.entry(put.inode).or_insert(fresh);
                found.ours.push(put.record.clone());
                found.ranges.extend(put.ranges.iter().flat_map(fills));
            }
        }
    }
}

/// What a range change did to the bytes of a file.
fn fills(change: &RangeChange) -> Vec<(Range<u64>, Fill)> {
    let end = change.offset + change.length;
    let mut fills = vec![(change.offset..end, Fill::Hole)];
    fills.extend(change.extents.iter().map(|extent| (extent.offset..extent.end(), Fill::Data)));
    fills
}
