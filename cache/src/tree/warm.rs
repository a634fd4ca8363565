//! Clean data files: which the index is to know of, and those whose files are not in memory.
//!
//! A file that leaves memory leaves its data file behind as **warm**: it comes back with the file, if the content is still the
//! same. What speaks for it is the content hash in the file's record, see [`crate::warm`].

use super::Tree;
use crate::content::map::{Backing, Content, Fill};
use crate::warm::{Row, SmallRow};
use lru::LruCache;
use std::collections::HashMap;
use strewn_engine::ids::InodeId;

/// Warm data files, and what the index has to be told.
#[derive(Debug)]
pub(crate) struct Warm {
    /// Oldest use first.
    files: LruCache<InodeId, WarmFile>,
    /// Files whose row in the index is missing or says too little, and the round of housekeeping they were last written in.
    unkept: HashMap<InodeId, u64>,
    /// Counts rounds of housekeeping.
    round: u64,
    /// Bytes of small files that left memory, on their way into the index.
    pub(crate) left: Vec<(InodeId, SmallRow)>,
}

/// The data file of a file that is not in memory.
#[derive(Debug, Clone)]
pub(crate) struct WarmFile {
    pub(crate) row: Row,
    /// The index may have a row about it.
    pub(crate) kept: bool,
}

impl Default for Warm {
    fn default() -> Self {
        Self { files: LruCache::unbounded(), unkept: HashMap::new(), round: 0, left: Vec::new() }
    }
}

impl Warm {
    /// The inodes of warm files.
    pub(crate) fn inodes(&self) -> impl Iterator<Item = InodeId> {
        self.files.iter().map(|(inode, _)| *inode)
    }

    /// Notes that bytes came in: the row says too little.
    pub(crate) fn note_filled(&mut self, inode: InodeId) {
        let round = self.round;
        self.unkept.entry(inode).or_insert(round);
    }

    /// Notes that bytes were written: the file is not worth a row for some time.
    pub(crate) fn note_written(&mut self, inode: InodeId) {
        self.unkept.insert(inode, self.round);
    }

    /// Begins a round. Gives the files that need a row and were not written for `quiet` rounds, at most `most`.
    pub(crate) fn next_round(&mut self, quiet: u64, most: usize) -> Vec<InodeId> {
        self.round += 1;
        let due = self.unkept.iter().filter(|(_, since)| self.round - **since > quiet);
        due.take(most).map(|(inode, _)| *inode).collect()
    }
}

impl Tree {
    /// Takes in a data file that nothing in memory refers to.
    pub(crate) fn put_warm(&mut self, inode: InodeId, file: WarmFile) {
        if let Some(old) = self.warm.files.put(inode, file) {
            self.abandoned.push((inode, old.row.generation));
        }
    }

    /// Gives a file its warm data file back, if that holds the same content; else the data file goes.
    pub(crate) fn attach_warm(&mut self, inode: InodeId) {
        let Some(node) = self.nodes.get_mut(&inode) else { return };
        let Some(WarmFile { row, kept }) = self.warm.files.pop(&inode) else { return };
        let (hash, size) = (node.digest.hash, node.attributes.size);
        let content = node.content.as_deref_mut().filter(|content| is_vacant(content) && hash == row.content);
        let Some(content) = content else {
            self.abandoned.push((inode, row.generation));
            return;
        };
        if matches!(content.backing, Backing::File) {
            self.abandoned.push((inode, content.generation));
        }
        (content.generation, content.backing, content.present) = (row.generation, Backing::File, row.ranges);
        content.present.remove(size..u64::MAX);
        content.kept = kept.then_some(hash);
        self.note_content(inode);
    }

    /// After recovery: gives the files in memory theirs.
    pub(crate) fn attach_all_warm(&mut self) {
        let known: Vec<InodeId> = self.warm.inodes().filter(|inode| self.nodes.contains_key(inode)).collect();
        known.into_iter().for_each(|inode| self.attach_warm(inode));
    }

    /// Before a node leaves memory: its data file stays, if it can.
    pub(super) fn retire(&mut self, inode: InodeId) {
        self.leave_small(inode);
        let Some(row) = self.row(inode) else { return };
        let Some(content) = self.nodes.get_mut(&inode).and_then(|node| node.content.as_deref_mut()) else { return };
        let kept = content.kept.take().is_some();
        content.backing = Backing::nothing();
        content.present.clear();
        if !kept {
            self.warm.note_filled(inode);
        }
        self.put_warm(inode, WarmFile { row, kept });
    }

    /// What is to be said about a file's data file; `None` unless it is clean, and nobody is changing bytes of it.
    pub(crate) fn row(&self, inode: InodeId) -> Option<Row> {
        let Some(node) = self.nodes.get(&inode) else {
            return self.warm.files.peek(&inode).map(|file| file.row.clone());
        };
        if node.orphan {
            return None;
        }
        let content = node.content.as_deref().filter(|content| is_clean_file(content))?;
        // Whoever changes bytes holds the guard from before the first byte until the change is known here.
        let _alone = content.guard.as_ref().map(|guard| guard.try_lock()).transpose().ok()?;
        let mut ranges = content.present.clone();
        ranges.remove(node.attributes.size..u64::MAX);
        let row = Row {
            generation: content.generation,
            content: node.digest.hash,
            size: node.attributes.size,
            synced: false,
            ranges,
        };
        (!row.ranges.is_empty()).then_some(row)
    }

    /// The files about which something can be said.
    pub(crate) fn clean_files(&self) -> Vec<InodeId> {
        let in_memory = self.nodes.iter().filter(|(_, node)| node.content.as_deref().is_some_and(is_clean_file));
        in_memory.map(|(inode, _)| *inode).chain(self.warm.inodes()).collect()
    }

    /// Notes that the index was given the row.
    pub(crate) fn note_kept(&mut self, inode: InodeId, row: &Row) {
        self.warm.unkept.remove(&inode);
        if let Some(file) = self.warm.files.peek_mut(&inode) {
            file.kept = true;
        } else if let Some(content) = self.nodes.get_mut(&inode).and_then(|node| node.content.as_deref_mut()) {
            content.kept = Some(row.content);
        }
    }

    /// Notes that the index has no row about the inode.
    pub(crate) fn note_disowned(&mut self, inode: InodeId) {
        if let Some(content) = self.nodes.get_mut(&inode).and_then(|node| node.content.as_deref_mut()) {
            content.kept = None;
        }
        self.warm.note_written(inode);
    }

    /// Gives up a data file that a row speaks of; what is written from here on goes into another. False if there is something in it
    /// that the network does not have.
    pub(crate) fn give_up_file(&mut self, inode: InodeId) -> bool {
        let content = self.nodes.get(&inode).and_then(|node| node.content.as_deref());
        let Some(content) = content.filter(|content| content.kept.is_some()) else { return true };
        let frozen = content.frozen.iter().flat_map(|frozen| frozen.ranges.iter());
        let mut local = content.dirty.iter().chain(frozen.map(|(range, fill)| (range, fill)));
        if !content.held().is_empty() || local.any(|(_, fill)| *fill == Fill::Data) {
            return false;
        }
        self.forget_content(inode);
        true
    }

    /// Nothing can be said about a file now: later, if it still has a data file.
    pub(crate) fn put_off(&mut self, inode: InodeId) {
        let content = self.nodes.get(&inode).and_then(|node| node.content.as_deref());
        match content.is_some_and(|content| matches!(content.backing, Backing::File)) {
            true => self.warm.note_written(inode),
            false => {
                self.warm.unkept.remove(&inode);
            }
        }
    }

    /// The generation of the data file that a row about the inode would be about.
    pub(crate) fn kept_generation(&self, inode: InodeId) -> Option<u64> {
        let content = self.nodes.get(&inode).and_then(|node| node.content.as_deref());
        let here = content.filter(|content| content.kept.is_some()).map(|content| content.generation);
        here.or_else(|| self.warm.files.peek(&inode).filter(|file| file.kept).map(|file| file.row.generation))
    }

    /// Forgets warm files, oldest use first, until they are `excess` bytes by the measure of `bytes`. Gives how many.
    pub(super) fn forget_warm(&mut self, excess: u64, bytes: impl Fn(InodeId, u64) -> u64) -> u64 {
        let mut freed = 0;
        while freed < excess
            && let Some((inode, file)) = self.warm.files.pop_lru()
        {
            freed += bytes(inode, file.row.generation);
            self.warm.unkept.remove(&inode);
            self.abandoned.push((inode, file.row.generation));
        }
        freed
    }
}

/// True if nothing of the content is here and nothing of it was changed here.
fn is_vacant(content: &Content) -> bool {
    let no_bytes = match &content.backing {
        Backing::Memory(bytes) => bytes.is_empty(),
        Backing::File => content.present.is_empty(),
    };
    no_bytes && content.dirty.is_empty() && content.frozen.is_empty() && !content.local
}

/// True if the data file holds nothing but bytes of the network's content.
fn is_clean_file(content: &Content) -> bool {
    let unchanged = content.dirty.is_empty() && content.frozen.is_empty() && !content.exposed;
    matches!(content.backing, Backing::File) && unchanged && !content.local
}
