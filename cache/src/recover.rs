//! Opening a cache directory: whose it is, and what the journal brings back.
//!
//! The journal is read twice. First for what its end says about its beginning: which cuts became batches and which of them
//! the network has, and up to where each data file is durable. Then everything is applied in order, by the same code as
//! when it happened.
//!
//! - A freeze counts if its cut became a batch that was not taken apart again; else what it took is still pending.
//! - After a reboot of the machine a write whose bytes are not in the journal counts only up to the mark of its data file, and
//!   no later bytes of the same content count either, nor does the file grow: it ends up as long as it was at an earlier
//!   moment (or shorter, if it was cut short later), every byte is one that was written there and not zeros that nobody
//!   wrote; bytes of lost writes may be among them where they overwrote others. What a batch took counts: it is in sealed
//!   files.
//! - What a batch took and no sealed file has is held in a data file: see [`crate::content::clones`].
//! - Of a data file that programs may have changed by themselves everything counts: see [`crate::passthrough`].
//! - Clean bytes are dropped, they can be had again; but for data files that a row of the index speaks of, see `warm`.

use crate::content::Digest;
use crate::content::map::{Backing, Fill, MAX_MEMORY};
use crate::cut::batch::Batch;
use crate::cut::queue::Queued;
use crate::cut::seal::draw;
use crate::data::DataId;
use crate::failure::Failures;
use crate::journal::{self, Journal, Recovered};
use crate::record::{self, Mutation, Write};
use crate::shared::{Pipeline, State};
use crate::store::{Found, Store};
use crate::tree::{Tree, WarmFile};
use crate::warm::Row;
use crate::{Error, Name, Root};
use bytes::Bytes;
use rangemap::{RangeMap, RangeSet};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;
use strewn_engine::bucket::BucketSettings;
use strewn_engine::ids::{BucketId, InodeId, MountId};

/// Whose directory it is.
///
/// ```text
/// version = 1 (1) | postcard of Identity
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) bucket: BucketId,
    pub(crate) root: InodeId,
    mount: MountId,
}

const IDENTITY_VERSION: u8 = 1;

impl Identity {
    /// Reads the stored form.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let Some((&IDENTITY_VERSION, body)) = bytes.split_first() else {
            return Err(foreign("the cache directory was made by another version"));
        };
        postcard::from_bytes(body).map_err(|_| foreign("the cache directory is damaged"))
    }
}

fn foreign(what: &str) -> Error {
    Error::Disk(Arc::new(std::io::Error::new(std::io::ErrorKind::InvalidData, what)))
}

/// Checks whose directory it is, or makes it this mount's. Blocks.
pub(crate) fn identify(store: &Store, settings: &BucketSettings, root: &Root) -> Result<MountId, Error> {
    let Some(bytes) = store.identity()? else {
        let identity = Identity { bucket: settings.bucket, root: root.inode, mount: MountId::from_bytes(draw()?) };
        let bytes = postcard::to_extend(&identity, vec![IDENTITY_VERSION]).expect("plain structs encode");
        store.put_identity(&bytes)?;
        return Ok(identity.mount);
    };
    let identity = Identity::parse(&bytes)?;
    if identity.bucket != settings.bucket || identity.root != root.inode {
        return Err(foreign("the cache directory belongs to another bucket or directory"));
    }
    Ok(identity.mount)
}

/// Rebuilds the state from the journal and removes files that nothing refers to. Gives what is to be journaled before anything
/// else, as the record at `next`. Blocks.
pub(crate) fn recover(
    store: &Store,
    found: Found,
    recovered: &Recovered,
    root: &Root,
    mount: MountId,
    rows: HashMap<InodeId, Row>,
    next: u64,
) -> Result<(State, Vec<Mutation>), Error> {
    let replay = replay(store, recovered, root.inode, mount)?;
    let (mut state, marks) = replay.finish(next)?;
    clean_up(store, &found, &mut state, rows);
    Ok((state, marks))
}

/// What the journal says is pending.
pub(crate) struct Survey {
    /// Files with content or attributes that no batch has.
    pub(crate) files: u64,
    /// Changes that no batch has.
    pub(crate) operations: u64,
    /// Bytes of content that no batch has.
    pub(crate) bytes: u64,
    /// Cuts whose batches wait for the network.
    pub(crate) queued: Vec<u64>,
    /// Data files that hold bytes which are nowhere else.
    pub(crate) needed: Vec<Needed>,
}

/// Bytes that only a data file has.
pub(crate) struct Needed {
    pub(crate) file: DataId,
    pub(crate) ranges: RangeSet<u64>,
}

/// Reads the journal as an opening would, and changes nothing. Blocks.
pub(crate) fn survey(store: &Store, recovered: &Recovered, identity: &Identity) -> Result<Survey, Error> {
    let mut replay = replay(store, recovered, identity.root, identity.mount)?;
    // Nothing is recorded.
    replay.close_files(0)?;
    let mut needed = Vec::new();
    for (inode, node) in replay.tree.nodes() {
        let Some(content) = node.content.as_deref() else { continue };
        let mut ranges = dirty_data(&content.dirty);
        let pieces = replay.contents.get(&inode).map_or(&[][..], |pieces| &pieces.pieces);
        newest_pieces(pieces, &ranges.clone()).into_iter().for_each(|(range, _)| ranges.remove(range));
        if !ranges.is_empty() {
            needed.push(Needed { file: DataId { inode, generation: content.generation }, ranges });
        }
    }
    Ok(Survey {
        files: replay.tree.changed_inodes.len() as u64,
        operations: replay.tree.pending_operations() as u64,
        bytes: replay.tree.dirty_bytes,
        queued: replay.queued,
        needed,
    })
}

/// Applies all records.
fn replay<'a>(store: &'a Store, recovered: &Recovered, root: InodeId, mount: MountId) -> Result<Replay<'a>, Error> {
    let outlook = Outlook::read(recovered)?;
    let mut replay = Replay::new(store, Tree::new(root), Pipeline::new(mount), outlook);
    for record in recovered.records() {
        let record = record?;
        let position = Position { sequence: record.sequence.0, rebooted: record.rebooted };
        replay.record(decode(&record.payload)?, position)?;
    }
    Ok(replay)
}

fn decode(payload: &[u8]) -> Result<Vec<Mutation>, Error> {
    record::decode(payload).map_err(|error| Error::Corrupt(error.to_string()))
}

/// Where a record stands.
#[derive(Clone, Copy)]
struct Position {
    sequence: u64,
    /// It was written in another boot of the machine.
    rebooted: bool,
}

/// What the end of the journal says about its beginning.
#[derive(Default)]
struct Outlook {
    /// Cuts that became batches and were not taken apart again.
    batches: BTreeSet<u64>,
    committed: u64,
    /// Where each freeze stands.
    freezes: BTreeMap<u64, u64>,
    /// Where the last freeze stands whose cut became a batch: what was written before is in sealed files or on the network.
    sealed: u64,
    /// Up to where data files are durable.
    synced: HashMap<(InodeId, u64), u64>,
    /// Data files that programs may have changed by themselves, and made durable: all that is in them counts.
    exposed: HashSet<(InodeId, u64)>,
}

impl Outlook {
    fn read(recovered: &Recovered) -> Result<Self, Error> {
        let mut outlook = Self::default();
        for record in recovered.records() {
            let record = record?;
            for mutation in decode(&record.payload)? {
                outlook.note(&mutation, record.sequence.0);
            }
        }
        let batches = outlook.freezes.iter().filter(|(cut, _)| outlook.batches.contains(cut));
        outlook.sealed = batches.map(|(_, position)| *position).max().unwrap_or(0);
        Ok(outlook)
    }

    fn note(&mut self, mutation: &Mutation, position: u64) {
        match mutation {
            Mutation::Freeze { cut } => drop(self.freezes.insert(*cut, position)),
            Mutation::Cut { cut, .. } => {
                self.batches.insert(*cut);
            }
            Mutation::Committed { cut } => self.committed = self.committed.max(*cut),
            Mutation::Uncut { from, .. } => {
                self.batches.split_off(from);
            }
            Mutation::Pipeline { committed, .. } => self.committed = self.committed.max(*committed),
            Mutation::Synced { inode, generation, position } => {
                let mark = self.synced.entry((*inode, *generation)).or_default();
                *mark = (*mark).max(*position);
            }
            Mutation::Exposed { inode, generation, exposed: true } => {
                self.exposed.insert((*inode, *generation));
            }
            Mutation::Exposed { inode, generation, exposed: false } => {
                self.exposed.remove(&(*inode, *generation));
            }
            _ => {}
        }
    }
}

/// Bytes of one content as the records brought them, in order.
#[derive(Default)]
struct Pieces {
    /// Offset, length, and the bytes if the record had them.
    pieces: Vec<(u64, u64, Option<Bytes>)>,
    /// A write was lost: nothing after it counts.
    lost: bool,
}

struct Replay<'a> {
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

    fn finish(mut self, next: u64) -> Result<(State, Vec<Mutation>), Error> {
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

/// Removes files that nothing refers to. Clean data files that a row speaks of stay.
fn clean_up(store: &Store, found: &Found, state: &mut State, mut rows: HashMap<InodeId, Row>) {
    for file in &found.data {
        let DataId { inode, generation } = file.id;
        let row = rows.remove(&inode).filter(|row| row.generation == generation);
        let content = state.tree.node_mut(inode).and_then(|node| node.content.as_deref_mut());
        let used =
            content.filter(|content| content.generation == generation && matches!(content.backing, Backing::File));
        match (used, row) {
            // A row about a file that the journal knows better should not be there; it goes before the file is written.
            (Some(content), Some(row)) => content.kept = Some(row.content),
            (Some(_), None) => {}
            (None, Some(row)) if row.ranges.last().is_some_and(|last| last.end <= file.length) => {
                if !row.synced {
                    store.doubt_data(inode, generation);
                }
                state.tree.put_warm(inode, WarmFile { row, kept: true });
            }
            (None, _) => store.remove_data(inode, generation),
        }
    }
    state.tree.attach_all_warm();
    let segments: HashSet<_> =
        state.pipeline.queued.iter().flat_map(|queued| &queued.segments).map(|segment| segment.id).collect();
    found.segments.iter().filter(|id| !segments.contains(id)).for_each(|id| store.remove_segment(*id));
    let cuts: HashSet<u64> = state.pipeline.queued.iter().map(|queued| queued.cut).collect();
    found.cuts.iter().filter(|cut| !cuts.contains(cut)).for_each(|cut| store.remove_cut(*cut));
}

/// Opens the journal and replays it. Blocks.
pub(crate) fn open(
    store: &Store,
    found: Found,
    disk: Arc<dyn crate::disk::Disk>,
    boot: journal::BootId,
    root: &Root,
    mount: MountId,
    rows: HashMap<InodeId, Row>,
) -> Result<(Journal, State, bool), Error> {
    let (journal, recovered) = Journal::open(disk, journal::Settings::new(boot))?;
    let next = journal.last().0 + 1;
    let (mut state, marks) = recover(store, found, &recovered, root, mount, rows, next)?;
    if !marks.is_empty() {
        state.append(&journal, &marks)?;
    }
    Ok((journal, state, recovered.rebooted))
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
