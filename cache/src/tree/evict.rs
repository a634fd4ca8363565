//! Forgetting what the network knows as well: clean, unpinned nodes and clean content go when memory or disk are short,
//! oldest use first.
//!
//! Nodes, files with a data file and small files in memory each stand in a list by use. Eviction looks at the oldest; what
//! is still needed is put in front again, so that the work depends on what goes and on what is busy, and never on how much
//! is known. A list may name what has no such content any more: it is passed over.
//!
//! A forgotten node leaves its name, kind and cookie in its directory, so that listings go on where they were.
//!
//! What somebody outside (the kernel) refers to cannot be forgotten. When its turn comes it is *unused*: whoever refers to it
//! is asked to let go of its names.

use super::directory::NAME_BYTES;
use super::{Slot, Tree};
use crate::Unused;
use crate::content::map::Backing;
use lru::LruCache;
use strewn_engine::ids::InodeId;

/// Memory of a node, about: its own, and what those who refer to it keep.
pub(crate) const NODE_BYTES: u64 = 1_200;
/// One part in so many of the memory is for nodes, however much of it names take.
const FOR_NODES: u64 = 4;
/// Most names that somebody outside is asked to let go of at a time.
const MOST_UNUSED: usize = 1_024;
/// Most nodes or files looked at with the lock held.
const MOST_LOOKED: usize = 4_096;

/// Inodes by use.
#[derive(Debug)]
pub(crate) struct Uses(LruCache<InodeId, ()>);

impl Default for Uses {
    fn default() -> Self {
        Self(LruCache::unbounded())
    }
}

impl Uses {
    fn note(&mut self, inode: InodeId) {
        self.0.put(inode, ());
    }

    fn forget(&mut self, inode: InodeId) {
        self.0.pop(&inode);
    }

    fn take_oldest(&mut self) -> Option<InodeId> {
        self.0.pop_lru().map(|(inode, ())| inode)
    }
}

impl Tree {
    /// Marks use, for eviction.
    pub(crate) fn touch(&mut self, inode: InodeId) {
        self.nodes.touch(&inode);
        self.note_content(inode);
    }

    /// Files a content under where its bytes are, as just used.
    pub(crate) fn note_content(&mut self, inode: InodeId) {
        match self.nodes.get(&inode).and_then(|node| node.content.as_deref()).map(|content| &content.backing) {
            Some(Backing::File) => self.files.note(inode),
            Some(Backing::Memory(bytes)) if !bytes.is_empty() => self.small_files.note(inode),
            _ => {}
        }
    }

    /// A node is gone.
    pub(super) fn forget_uses(&mut self, inode: InodeId) {
        self.files.forget(inode);
        self.small_files.forget(inode);
    }

    /// For how many nodes there is room in `most` bytes beside the names that are known.
    pub(crate) fn node_room(&self, most: u64) -> usize {
        let names = (self.names as u64).saturating_mul(NAME_BYTES);
        let room = most.saturating_sub(names).max(most / FOR_NODES) / NODE_BYTES;
        usize::try_from(room).unwrap_or(usize::MAX)
    }

    /// Goes through the nodes that were not used for longest, as many as there are too many for `most` bytes: idle ones are
    /// forgotten. Of the others, which count as used again, the names of those that only somebody outside refers to go into
    /// `unused`, if they may. True if there may be more to forget.
    pub(crate) fn forget_some(&mut self, most: u64, mut unused: Option<&mut Vec<Unused>>) -> bool {
        let mut forgot = false;
        let excess = self.len().saturating_sub(self.node_room(most));
        for _ in 0..excess.min(MOST_LOOKED) {
            let Some(inode) = self.nodes.oldest() else { return false };
            if self.is_idle(inode) {
                self.retire(inode);
                self.drop_node(inode);
                forgot = true;
                continue;
            }
            self.nodes.touch(&inode);
            if let Some(unused) = unused.as_deref_mut().filter(|unused| unused.len() < MOST_UNUSED) {
                unused.extend(self.unused_names(inode));
            }
        }
        forgot
    }

    /// The names of what is kept only because somebody outside refers to it. Never a directory: who is in one would find it
    /// removed.
    fn unused_names(&self, inode: InodeId) -> impl Iterator<Item = Unused> {
        let node = self.node(inode).filter(|node| node.pins > 0 && !node.is_directory() && !node.is_local());
        let names = node.into_iter().flat_map(|node| node.names.iter());
        names.take(MOST_UNUSED).map(move |(directory, name)| Unused {
            inode,
            directory: *directory,
            name: name.clone(),
        })
    }

    /// Forgets clean small files in memory until no more than `most` bytes are left, oldest use first.
    pub(crate) fn forget_small_files(&mut self, most: u64) {
        for _ in 0..self.small_files.0.len().min(MOST_LOOKED) {
            if self.memory_bytes <= most {
                return;
            }
            let Some(inode) = self.small_files.take_oldest() else { return };
            if self.is_forgettable(inode) {
                self.leave_small(inode);
                self.forget_content(inode);
            } else {
                self.note_content(inode);
            }
        }
    }

    /// Forgets clean content in data files, first of files that are not in memory, then by oldest use, until they are
    /// `excess` bytes by the measure of `bytes`, of an inode and a generation.
    pub(crate) fn forget_files(&mut self, excess: u64, bytes: impl Fn(InodeId, u64) -> u64) {
        let mut freed = self.forget_warm(excess, &bytes);
        for _ in 0..self.files.0.len().min(MOST_LOOKED) {
            if freed >= excess {
                return;
            }
            let Some(inode) = self.files.take_oldest() else { return };
            let generation = self.nodes.get(&inode).and_then(|node| Some(node.content.as_deref()?.generation));
            match generation.filter(|_| self.is_forgettable(inode)) {
                Some(generation) => {
                    freed += bytes(inode, generation);
                    self.forget_content(inode);
                }
                None => self.note_content(inode),
            }
        }
    }

    /// True if the bytes of a content may go.
    fn is_forgettable(&self, inode: InodeId) -> bool {
        let Some(node) = self.nodes.get(&inode).filter(|node| !node.orphan) else { return false };
        node.content.as_deref().is_some_and(|content| content.is_evictable() && !content.is_guarded() && !content.local)
    }

    /// Drops the bytes of a clean content, not what is known of its extents.
    pub(super) fn forget_content(&mut self, inode: InodeId) {
        let Some(content) = self.nodes.get_mut(&inode).and_then(|node| node.content.as_deref_mut()) else { return };
        content.present.clear();
        content.recalled = false;
        (content.written, content.synced, content.kept) = (0, 0, None);
        match std::mem::replace(&mut content.backing, Backing::nothing()) {
            Backing::Memory(bytes) => self.memory_bytes -= bytes.len() as u64,
            Backing::File => {
                self.abandoned.push((inode, content.generation));
            }
        }
    }

    /// Clean state is no longer trusted: listings are loaded anew, and clean leaves are forgotten.
    pub(crate) fn doubt_all(&mut self) {
        let known: Vec<InodeId> = self.nodes.keys().copied().collect();
        let idle: Vec<InodeId> = known.into_iter().filter(|inode| self.is_idle(*inode)).collect();
        for inode in idle {
            self.retire(inode);
            self.drop_node(inode);
        }
        for node in self.nodes.values_mut().filter(|node| node.version != 0) {
            if let Some(directory) = node.directory.as_deref_mut() {
                directory.complete = false;
            }
        }
    }

    /// True if nothing here needs the node.
    fn is_idle(&mut self, inode: InodeId) -> bool {
        let Some(node) = self.node(inode) else { return false };
        inode != self.root
            && node.pins == 0
            && !node.is_local()
            && node.content.as_ref().is_none_or(|content| content.is_evictable() && !content.is_guarded())
            && self.is_leaf(inode)
    }

    /// True if no node in memory is below this one, and no name in it differs from the network.
    fn is_leaf(&mut self, inode: InodeId) -> bool {
        let Some(entries) = self.node(inode).and_then(|node| node.directory.as_deref()) else { return true };
        let is_needed =
            |slot: &Slot| slot.is_local() || slot.child.is_some_and(|(child, _)| self.nodes.contains_key(&child));
        // Most often it is the one that it was the last time, which saves going through all names.
        let Some(needed) = entries.find_slot(is_needed) else { return true };
        if let Ok(entries) = self.entries_mut(inode) {
            entries.found(needed);
        }
        false
    }
}
