//! The journal read back into a tree.
//!
//! It is read twice. First for what its end says about its beginning: which cuts became batches and which of them the network
//! has, and up to where each data file is durable. Then everything is applied in order, by the same code as when it happened.

use super::outlook::{Outlook, decode};
use super::{Needed, Survey};
use crate::content::Digest;
use crate::content::map::{Backing, Fill, MAX_MEMORY};
use crate::cut::batch::Batch;
use crate::cut::queue::Queued;
use crate::data::DataId;
use crate::failure::Failures;
use crate::journal::Recovered;
use crate::record::{self, Mutation, Write};
use crate::shared::{Pipeline, State};
use crate::store::Store;
use crate::tree::Tree;
use crate::{Error, Name};
use bytes::Bytes;
use rangemap::{RangeMap, RangeSet};
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;
use strewn_engine::ids::{InodeId, MountId};

/// Applies all records.
pub(super) fn replay<'a>(
    store: &'a Store,
    recovered: &Recovered,
    root: InodeId,
    mount: MountId,
) -> Result<Replay<'a>, Error> {
    let outlook = Outlook::read(recovered)?;
    let mut replay = Replay::new(store, Tree::new(root), Pipeline::new(mount), outlook);
    for record in recovered.records() {
        let record = record?;
        let position = Position { sequence: record.sequence.0, rebooted: record.rebooted };
        replay.record(decode(&record.payload)?, position)?;
    }
    Ok(replay)
}

/// Where a record stands.
#[derive(Clone, Copy)]
struct Position {
    sequence: u64,
    /// It was written in another boot of the machine.
    rebooted: bool,
}

/// Bytes of one content as the records brought them, in order.
#[derive(Default)]
struct Pieces {
    /// Offset, length, and the bytes if the record had them.
    pieces: Vec<(u64, u64, Option<Bytes>)>,
    /// A write was lost: nothing after it counts.
    lost: bool,
}

/// A journal being read back.
pub(super) struct Replay<'a> {
    store: &'a Store,
    tree: Tree,
    pipeline: Pipeline,
    outlook: Outlook,
    contents: HashMap<InodeId, Pieces>,
    queued: Vec<u64>,
    /// Data files that are needed no more though records say that bytes are in them.
    marks: Vec<Mutation>,
    /// The last freeze does not count.
    passed_over: bool,
    /// Names of the root that open files would have got by freezes that do not count.
    not_parked: HashSet<Name>,
}

impl<'a> Replay<'a> {
    /// What is pending. Nothing is recorded.
    pub(super) fn survey(mut self) -> Result<Survey, Error> {
        self.close_files(0)?;
        let mut needed = Vec::new();
        for (inode, node) in self.tree.nodes() {
            let Some(content) = node.content.as_deref() else { continue };
            let mut ranges = dirty_data(&content.dirty);
            let pieces = self.contents.get(&inode).map_or(&[][..], |pieces| &pieces.pieces);
            newest_pieces(pieces, &ranges.clone()).into_iter().for_each(|(range, _)| ranges.remove(range));
            if !ranges.is_empty() {
                needed.push(Needed { file: DataId { inode, generation: content.generation }, ranges });
            }
        }
        Ok(Survey {
            files: self.tree.changed_inodes.len() as u64,
            operations: self.tree.pending_operations() as u64,
            bytes: self.tree.dirty_bytes,
            queued: self.queued,
            needed,
        })
    }

    fn new(store: &'a Store, mut tree: Tree, pipeline: Pipeline, outlook: Outlook) -> Self {
        tree.replaying = true;
        let (contents, queued, marks, passed_over, not_parked) = Default::default();
        Self { store, tree, pipeline, outlook, contents, queued, marks, passed_over, not_parked }
    }

    fn record(&mut self, mutations: Vec<Mutation>, position: Position) -> Result<(), Error> {
        let mut kept = Vec::with_capacity(mutations.len());
        if mutations.iter().any(|mutation| matches!(mutation, Mutation::Uncut { .. })) {
            // What follows says how each name on its way is on the network.
            self.not_parked.clear();
        }
        for mutation in mutations {
            match mutation {
                // It goes with the freeze before it.
                Mutation::Park { name, .. } if self.passed_over => drop(self.not_parked.insert(name)),
                Mutation::RebaseEntry { directory, name, .. }
                    if directory == self.tree.root && self.not_parked.remove(&name) => {}
                Mutation::Write(write) => kept.push(Mutation::Write(self.write(write, position))),
                Mutation::Resize { inode, size, anew } => kept.extend(self.resize(inode, size, anew)),
                Mutation::Adopt(adopt) => {
                    if self.tree.was_dropped(adopt.inode) {
                        self.contents.remove(&adopt.inode);
                    }
                    kept.push(Mutation::Adopt(adopt));
                }
                Mutation::Freeze { cut } => self.freeze(cut),
                Mutation::Committed { cut } => {
                    self.pipeline.committed = cut;
                    self.queued.retain(|queued| *queued > cut);
                    self.tree.note_committed(cut);
                    if self.queued.is_empty() {
                        // From here on rows of the network may say otherwise.
                        self.pipeline.digests.clear();
                    }
                }
                Mutation::Stream { mount, number } => (self.pipeline.mount, self.pipeline.number) = (mount, number),
                Mutation::Uncut { from, number } => {
                    self.pipeline.number = number;
                    // Those of a snapshot; the freezes of others were passed over.
                    self.queued.retain(|queued| *queued < from);
                    self.tree.uncut(from, std::iter::empty());
                    self.pipeline.digests.clear();
                }
                Mutation::Cut { cut, number, hashes } if self.outlook.batches.contains(&cut) => {
                    self.pipeline.number = number;
                    self.tree.set_hashes(&hashes);
                    let uncounted = |(inode, hash)| (inode, Digest::uncounted(hash));
                    self.pipeline.digests.extend(hashes.into_iter().map(uncounted));
                }
                Mutation::Counted { inode, content, allocated } => {
                    if let Some(digest) = self.pipeline.digests.get_mut(&inode).filter(|known| known.hash == content) {
                        digest.allocated = Some(allocated);
                    }
                    kept.push(mutation);
                }
                Mutation::Cut { .. } => {}
                Mutation::Node(state) => {
                    self.contents.insert(state.adopt.inode, restored(&state));
                    self.tree.restore_node(&state)?;
                }
                Mutation::Name { directory, name, child, base, cut } => {
                    self.tree.restore_name(directory, &name, child, base, cut)?;
                }
                Mutation::Pipeline { next_cut, committed, queued, mount, number } => {
                    (self.pipeline.next_cut, self.pipeline.committed) = (next_cut, committed);
                    (self.pipeline.mount, self.pipeline.number) = (mount, number);
                    self.queued = queued;
                    self.tree.committed = committed;
                }
                other => kept.push(other),
            }
        }
        Ok(self.tree.apply_record(&kept, &[], position.sequence)?)
    }

    /// A write as far as it can be believed: mode and times always, bytes if they are here.
    fn write(&mut self, mut write: Write, position: Position) -> Write {
        let pieces = self.contents.entry(write.inode).or_default();
        let mark = self.outlook.synced.get(&(write.inode, write.generation)).copied().unwrap_or(0);
        let durable = mark.max(self.outlook.sealed);
        let exposed = self.outlook.exposed.contains(&(write.inode, write.generation));
        let trusted = write.data.is_some() || !position.rebooted || position.sequence <= durable || exposed;
        pieces.lost |= !trusted;
        if pieces.lost {
            let content = self.tree.node(write.inode).and_then(|node| node.content.as_deref());
            let generation = content.map_or(0, |content| content.generation);
            return Write { generation, offset: 0, length: 0, data: Some(Bytes::new()), ..write };
        }
        pieces.pieces.push((write.offset, write.length, write.data.clone()));
        // The mark of what is in the data file alone must not be taken from a record that has its bytes.
        write.data = write.data.map(|_| Bytes::new());
        write
    }

    /// A new size. Where a write was lost the file must not grow: the hole would read as zeros that nobody wrote.
    fn resize(&mut self, inode: InodeId, size: u64, anew: bool) -> Option<Mutation> {
        if anew {
            self.contents.remove(&inode);
        }
        let lost = self.contents.get(&inode).is_some_and(|pieces| pieces.lost);
        let here = self.tree.node(inode).map_or(0, |node| node.attributes.size);
        (!lost || size < here).then_some(Mutation::Resize { inode, size, anew })
    }

    fn freeze(&mut self, cut: u64) {
        self.pipeline.next_cut = self.pipeline.next_cut.max(cut + 1);
        self.passed_over = !self.outlook.batches.contains(&cut);
        if self.passed_over {
            return;
        }
        let Some(frozen) = self.tree.freeze(cut) else { return };
        for inode in &frozen.inodes {
            self.tree.forget_batch(inode.inode);
        }
        self.queued.push(cut);
    }

    /// Nothing is open any more. `next` is the position of the next record.
    fn close_files(&mut self, next: u64) -> Result<(), Error> {
        self.tree.replaying = false;
        self.tree.drop_orphans();
        self.reclaim_held(next)?;
        self.reclaim_exposed(next)?;
        let closed = self.tree.unpark();
        Ok(self.tree.apply_record(&closed, &[], 0)?)
    }

    /// What is held for a batch that the network does not have is dirty again. That has to be journaled: what comes after it
    /// builds on it.
    fn reclaim_held(&mut self, next: u64) -> Result<(), Error> {
        let mut again = Vec::new();
        for write in self.tree.take_held(&self.queued) {
            let Write { inode, generation, offset, length, .. } = write;
            self.contents.entry(inode).or_default().pieces.push((offset, length, None));
            again.push(Mutation::Write(write));
            // It was made durable before it was said to be held.
            again.push(Mutation::Synced { inode, generation, position: next });
        }
        self.tree.apply_record(&again, &[], next)?;
        self.marks.extend(again);
        Ok(())
    }

    /// What programs may have changed by themselves is dirty, all of it, and so long as the data file is: whatever is in there
    /// may have been made durable past us. Small writes to it are in no record.
    fn reclaim_exposed(&mut self, next: u64) -> Result<(), Error> {
        let mut again = Vec::new();
        for (inode, generation) in self.tree.exposed() {
            let length = match self.store.data_length(inode, generation) {
                Ok(length) => length,
                Err(error) => {
                    tracing::warn!("a file that programs may have changed by themselves cannot be looked at: {error}");
                    continue;
                }
            };
            let Some(attributes) = self.tree.node(inode).map(|node| node.attributes.clone()) else { continue };
            let size = attributes.size.min(length);
            if size < attributes.size {
                again.push(Mutation::Resize { inode, size, anew: false });
            }
            self.contents.insert(inode, Pieces { pieces: vec![(0, size, None)], lost: false });
            again.extend(self.tree.node(inode).map(|node| Mutation::Write(node.rewritten(inode, 0..size, None))));
            again.push(Mutation::Synced { inode, generation, position: next });
        }
        self.tree.apply_record(&again, &[], next)?;
        self.marks.extend(again);
        Ok(())
    }

    pub(super) fn finish(mut self, next: u64) -> Result<(State, Vec<Mutation>), Error> {
        self.close_files(next)?;
        let mut unsynced = HashSet::new();
        for (inode, pieces) in std::mem::take(&mut self.contents) {
            if self.settle(inode, pieces)? {
                unsynced.insert(inode);
            }
        }
        for cut in std::mem::take(&mut self.queued) {
            let batch = Batch::read(self.store, cut)?;
            self.pipeline.ages.push_back((cut, Instant::now()));
            self.pipeline.enqueue(Queued::of(&batch));
        }
        let (tree, pipeline) = (self.tree, self.pipeline);
        let (failures, unsynced_since) = (Failures::default(), Instant::now());
        let state = State { tree, pipeline, unsynced, unsynced_since, failures, buffer: Vec::new() };
        Ok((state, self.marks))
    }

    /// Puts the bytes of a content into place: into memory if all of them are in the journal and the file is small, else into
    /// its data file. True if that file has to be synced: it may hold bytes of a write that a killed process could not
    /// record any more, and whoever has read them and then syncs must find them again.
    fn settle(&mut self, inode: InodeId, pieces: Pieces) -> Result<bool, Error> {
        let Some(node) = self.tree.node_mut(inode) else { return Ok(false) };
        let size = node.attributes.size;
        let Some(content) = node.content.as_deref_mut() else { return Ok(false) };
        let dirty = dirty_data(&content.dirty);
        content.present = dirty.clone();
        let newest = newest_pieces(&pieces.pieces, &dirty);
        let covered: u64 = newest.iter().map(|(range, _)| range.end - range.start).sum();
        let wanted: u64 = dirty.iter().map(|range| range.end - range.start).sum();
        let (generation, position) = (content.generation, content.written);
        let behind = content.written > content.synced;
        if covered == wanted && behind {
            // All that was in the data file is overwritten or cut off: no later power cut may take that for a lost write.
            content.synced = position;
            self.marks.push(Mutation::Synced { inode, generation, position });
        }
        if size <= MAX_MEMORY && covered == wanted {
            let length = dirty.last().map_or(0, |range| range.end as usize);
            let mut memory = vec![0; length];
            for (range, bytes) in &newest {
                memory[range.start as usize..range.end as usize].copy_from_slice(bytes);
            }
            content.backing = Backing::Memory(Arc::new(memory));
            self.tree.memory_bytes += length as u64;
            self.tree.note_content(inode);
            return Ok(false);
        }
        content.backing = Backing::File;
        if covered == wanted {
            // The journal has all of it: whatever is in an old file is not needed.
            content.generation = self.store.fresh_data(inode)?;
        }
        let generation = content.generation;
        for (range, bytes) in &newest {
            self.store.write_data(inode, generation, range.start, bytes)?;
        }
        self.tree.note_content(inode);
        Ok(covered < wanted)
    }
}

/// Changed ranges that are no holes.
fn dirty_data(dirty: &RangeMap<u64, Fill>) -> RangeSet<u64> {
    dirty.iter().filter(|(_, fill)| **fill == Fill::Data).map(|(range, _)| range.clone()).collect()
}

fn restored(state: &record::NodeState) -> Pieces {
    let pieces = state.bytes.iter().map(|(offset, bytes)| (*offset, bytes.len() as u64, Some(bytes.clone())));
    Pieces { pieces: pieces.collect(), lost: false }
}

/// For every dirty byte that the journal holds, the newest record's: what a later record left to the data file is not among
/// them.
fn newest_pieces(pieces: &[(u64, u64, Option<Bytes>)], dirty: &RangeSet<u64>) -> Vec<(Range<u64>, Bytes)> {
    let mut open = dirty.clone();
    let mut newest = Vec::new();
    for (offset, length, bytes) in pieces.iter().rev().filter(|(_, length, _)| *length > 0) {
        let range = *offset..offset + length;
        let parts: Vec<Range<u64>> =
            open.overlapping(&range).map(|part| part.start.max(range.start)..part.end.min(range.end)).collect();
        if let Some(bytes) = bytes {
            for part in parts.into_iter().filter(|part| !part.is_empty()) {
                let slice = (part.start - offset) as usize..(part.end - offset) as usize;
                newest.push((part, bytes.slice(slice)));
            }
        }
        open.remove(range);
    }
    newest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_bytes_win_and_the_data_file_keeps_its_own() {
        let dirty: RangeSet<u64> = [0..10, 20..30].into_iter().collect();
        let pieces = [
            (0, 10, Some(Bytes::from_static(b"aaaaaaaaaa"))),
            (4, 2, None),
            (8, 14, Some(Bytes::from_static(b"bbbbbbbbbbbbbb"))),
        ];
        let mut newest = newest_pieces(&pieces, &dirty);
        newest.sort_by_key(|(range, _)| range.start);
        let text: Vec<_> = newest.iter().map(|(range, bytes)| (range.clone(), bytes.as_ref())).collect();
        assert_eq!(text, [(0..4, &b"aaaa"[..]), (6..8, b"aa"), (8..10, b"bb"), (20..22, b"bb")]);
    }
}
