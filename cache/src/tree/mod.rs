//! The tree a mount knows: nodes, names, and what of them waits for the network. No I/O, no clock.
//!
//! Everything that changes it goes through [`apply`](Tree::apply), whether it just happened or is read back from the journal,
//! and through the rows the loader brings. What waits for the network is kept in two lists in the order of becoming different:
//! changed names (each with what the network will have there once the queued cuts are applied) and changed inodes. A name
//! that comes back to what it was leaves its list, so what was made and removed between two cuts leaves no trace.
//!
//! Rows of the network may be older than what it has just acknowledged. So a name or inode that a cut set counts as local
//! until the cut is committed *and* every load that began before is over (`settling`).

mod apply;
mod clones;
mod conflicts;
mod directory;
mod evict;
mod exposed;
mod insert;
mod names;
mod news;
mod node;
mod nodes;
mod places;
mod removed;
mod small;
mod snapshot;
mod transaction;
mod warm;

pub(crate) use apply::{Misfit, SetTimes};
pub(crate) use conflicts::{Conflict, since_1970};
pub(crate) use directory::{Directory, Slot};
pub(crate) use insert::{Before, Listing, Loaded, Taken};
pub(crate) use news::{AllMissed, Missed};
pub(crate) use node::Node;
pub(crate) use removed::LastSeen;
pub(crate) use transaction::attribute_change;
pub use transaction::{DirectoryEntry, Missing, Stop, Transaction};
pub(crate) use warm::{Warm, WarmFile};

use crate::Name;
use crate::content::Digest;
use crate::content::map::{Backing, Fill};
use crate::content::saved;
use crate::cut::batch::{Base, Renewed};
use crate::record::Mutation;
use conflicts::Conflicts;
use evict::Uses;
use news::News;
use nodes::Nodes;
use removed::Removed;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::num::NonZeroU64;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;
use strewn_engine::ids::InodeId;

/// The tree.
#[derive(Debug)]
pub(crate) struct Tree {
    /// The root directory.
    pub(crate) root: InodeId,
    nodes: Nodes,
    /// Changed names in the order of becoming different.
    pub(crate) changed_names: BTreeMap<u64, (InodeId, Name)>,
    /// Changed inodes in the order of becoming different.
    pub(crate) changed_inodes: BTreeMap<u64, InodeId>,
    next_order: u64,
    /// Dirty bytes of data that no cut took.
    pub(crate) dirty_bytes: u64,
    /// Bytes of small files in memory.
    pub(crate) memory_bytes: u64,
    /// Bytes in memory that were overwritten before cuts had sealed them.
    pub(crate) saved: saved::Total,
    /// Files with a data file, by use.
    files: Uses,
    /// Files with bytes in memory, by use.
    small_files: Uses,
    /// When the oldest change that no cut took was made.
    pub(crate) oldest: Option<Instant>,
    /// When the newest change was made.
    pub(crate) newest: Option<Instant>,
    /// Data files that nothing refers to any more: (inode, generation).
    pub(crate) abandoned: Vec<(InodeId, u64)>,
    /// Data files of files that are not in memory, and what the index is to know.
    pub(crate) warm: Warm,
    /// What each cut set, until it has settled.
    in_cuts: BTreeMap<u64, InCut>,
    /// Committed cuts that wait for older loads: (first ticket that began after, cut).
    settling: VecDeque<(u64, u64)>,
    loads: BTreeSet<u64>,
    news: News,
    next_ticket: u64,
    /// Newest committed cut.
    pub(crate) committed: u64,
    /// Names known of all directories in memory.
    names: usize,
    removed: Removed,
    conflicts: Conflicts,
    /// Open files without a name that the network keeps under a name of the root.
    pub(crate) parked: HashMap<InodeId, Name>,
    /// What is pinned is not known, so nothing without a name is dropped.
    pub(crate) replaying: bool,
}

/// Names and inodes a cut set.
#[derive(Debug, Default)]
pub(crate) struct InCut {
    pub(crate) names: Vec<(InodeId, Name)>,
    pub(crate) inodes: Vec<InodeId>,
    /// Files that lost names to it, or before.
    pub(crate) removed: Vec<InodeId>,
}

impl Tree {
    /// A tree that knows nothing but the id of its root.
    pub(crate) fn new(root: InodeId) -> Self {
        Self {
            root,
            nodes: Nodes::new(),
            changed_names: BTreeMap::new(),
            changed_inodes: BTreeMap::new(),
            next_order: 1,
            dirty_bytes: 0,
            memory_bytes: 0,
            saved: saved::Total::default(),
            files: Uses::default(),
            small_files: Uses::default(),
            oldest: None,
            newest: None,
            abandoned: Vec::new(),
            warm: Warm::default(),
            in_cuts: BTreeMap::new(),
            settling: VecDeque::new(),
            loads: BTreeSet::new(),
            news: News::default(),
            next_ticket: 1,
            committed: 0,
            names: 0,
            removed: Removed::default(),
            conflicts: Conflicts::default(),
            parked: HashMap::new(),
            replaying: false,
        }
    }

    /// A node, if it is known.
    pub(crate) fn node(&self, inode: InodeId) -> Option<&Node> {
        self.nodes.get(&inode)
    }

    /// A node, to change what needs no bookkeeping here.
    pub(crate) fn node_mut(&mut self, inode: InodeId) -> Option<&mut Node> {
        self.nodes.get_mut(&inode)
    }

    /// All nodes.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = (InodeId, &Node)> {
        self.nodes.iter().map(|(inode, node)| (*inode, node))
    }

    /// Number of known nodes.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// What a name of a directory names here.
    pub(crate) fn child_of(&self, directory: InodeId, name: &Name) -> Option<InodeId> {
        let slot = self.nodes.get(&directory)?.directory.as_deref()?.slot(name)?;
        slot.child.map(|(child, _)| child)
    }

    /// The names that an inode has here.
    pub(crate) fn names_of(&self, inode: InodeId) -> impl Iterator<Item = &(InodeId, Name)> {
        let known = self.nodes.get(&inode).into_iter().flat_map(|node| node.names.iter());
        known.filter(move |(directory, name)| self.child_of(*directory, name) == Some(inode))
    }

    /// A name that an inode has here.
    pub(crate) fn name_of(&self, inode: InodeId) -> Option<(InodeId, Name)> {
        self.names_of(inode).next().cloned()
    }

    /// Names as `stat` shows them: see [`Transaction::nlink`].
    pub(crate) fn nlink(&self, inode: InodeId) -> Option<u32> {
        let node = self.nodes.get(&inode)?;
        Some(match node.is_directory() {
            false => node.links,
            true if node.names.is_empty() && inode != self.root && !node.elsewhere => 0,
            true => node.subdirectories().saturating_add(2),
        })
    }

    /// Changes that wait for a cut.
    pub(crate) fn pending_operations(&self) -> usize {
        self.changed_names.len() + self.changed_inodes.len()
    }

    fn draw_order(&mut self) -> u64 {
        self.next_order += 1;
        self.next_order
    }

    /// Notes that something is to go to the network.
    fn note_change(&mut self) {
        let now = Instant::now();
        self.oldest.get_or_insert(now);
        self.newest = Some(now);
    }

    /// Marks an inode as to be put.
    pub(crate) fn mark_dirty(&mut self, inode: InodeId) {
        let Some(node) = self.nodes.get(&inode) else { return };
        if node.dirty.is_none() {
            let order = self.draw_order();
            self.changed_inodes.insert(order, inode);
            if let Some(node) = self.nodes.get_mut(&inode) {
                node.dirty = NonZeroU64::new(order);
            }
        }
        self.note_change();
    }

    /// Takes an inode off the list of those to be put.
    pub(crate) fn mark_clean(&mut self, inode: InodeId) {
        let Some(node) = self.nodes.get_mut(&inode) else { return };
        node.base = None;
        if let Some(order) = node.dirty.take() {
            self.changed_inodes.remove(&order.get());
        }
    }

    /// Notes what a name's value is once the queued cuts are applied, so that the name is on the list if it differs.
    pub(crate) fn set_base(&mut self, directory: InodeId, name: &Name, base: Option<InodeId>) {
        let order = self.next_order + 1;
        let Some(entries) = self.nodes.get_mut(&directory).and_then(|node| node.directory.as_deref_mut()) else {
            return;
        };
        let Some(slot) = entries.slot_mut(name) else { return };
        let differs = slot.child.map(|(child, _)| child) != base;
        match (slot.base(), differs) {
            (Some((_, old)), true) => slot.set_base(Some((base, old))),
            (Some((_, old)), false) => {
                slot.set_base(None);
                entries.changed -= 1;
                self.changed_names.remove(&old);
            }
            (None, true) => {
                slot.set_base(Some((base, order)));
                entries.changed += 1;
                self.next_order = order;
                self.changed_names.insert(order, (directory, name.clone()));
            }
            (None, false) => {}
        }
    }

    /// Puts bytes into a small file's memory.
    pub(crate) fn write_memory(&mut self, inode: InodeId, offset: u64, data: &[u8]) {
        let Some(content) = self.nodes.get_mut(&inode).and_then(|node| node.content.as_deref_mut()) else { return };
        let Backing::Memory(bytes) = &mut content.backing else { return };
        let bytes = Arc::make_mut(bytes);
        let (start, end) = (offset as usize, offset as usize + data.len());
        let before = bytes.len();
        if before < end {
            bytes.resize(end, 0);
        }
        bytes[start..end].copy_from_slice(data);
        self.memory_bytes += (bytes.len() - before) as u64;
        self.note_content(inode);
    }

    /// Notes that the bytes of a small file are in a data file from here on, if they are still these.
    pub(crate) fn spilled(&mut self, inode: InodeId, generation: u64, bytes: &Arc<Vec<u8>>) -> bool {
        let Some(content) = self.nodes.get_mut(&inode).and_then(|node| node.content.as_deref_mut()) else {
            return false;
        };
        let Backing::Memory(now) = &content.backing else { return false };
        if !Arc::ptr_eq(now, bytes) {
            return false;
        }
        self.memory_bytes -= now.len() as u64;
        (content.backing, content.generation, content.kept) = (Backing::File, generation, None);
        self.warm.note_filled(inode);
        self.note_content(inode);
        true
    }

    /// Notes that a cut's data of a file is in sealed files.
    pub(crate) fn note_sealed(&mut self, inode: InodeId, cut: u64) {
        if let Some(content) = self.nodes.get_mut(&inode).and_then(|node| node.content.as_deref_mut()) {
            for frozen in content.frozen.iter_mut().filter(|frozen| frozen.cut == cut) {
                if let Some(unsealed) = frozen.unsealed.take() {
                    unsealed.saved.clear();
                }
            }
        }
    }

    /// Takes in what a batch makes of a file's extents.
    pub(crate) fn take_batch(&mut self, cut: u64, renewed: &Renewed) {
        self.removed.renew(renewed.inode, renewed.digest.hash);
        if let Some(node) = self.nodes.get_mut(&renewed.inode) {
            node.digest = renewed.digest;
            if let Some(content) = node.content.as_deref_mut() {
                content.take_batch(cut, renewed);
            }
        }
    }

    /// After a replayed freeze: the file's extents are those of a queued batch, to be loaded when they are needed.
    pub(crate) fn forget_batch(&mut self, inode: InodeId) {
        let Some(content) = self.nodes.get_mut(&inode).and_then(|node| node.content.as_deref_mut()) else { return };
        if content.frozen.is_empty() {
            return;
        }
        content.frozen.clear();
        content.windows.clear();
        (content.tags, content.inlined, content.local) = (None, None, false);
        content.batches = content.batches.wrapping_add(1);
    }

    /// After a replayed batch: the content hashes it gave.
    pub(crate) fn set_hashes(&mut self, hashes: &[(InodeId, [u8; 32])]) {
        for (inode, hash) in hashes {
            self.removed.renew(*inode, *hash);
            if let Some(node) = self.nodes.get_mut(inode) {
                node.digest = Digest::uncounted(*hash);
            }
        }
    }

    /// Notes how many bytes are not in holes, if the content is the one with this hash.
    pub(crate) fn set_allocated(&mut self, inode: InodeId, content: [u8; 32], allocated: u64) {
        if let Some(node) = self.nodes.get_mut(&inode).filter(|node| node.digest.hash == content) {
            node.digest.allocated = Some(allocated);
        }
    }

    /// Takes in loaded windows of a file.
    pub(crate) fn take_windows(&mut self, inode: InodeId, base: Base) {
        let Some(node) = self.nodes.get_mut(&inode) else { return };
        let Some(content) = node.content.as_deref_mut() else { return };
        content.take_windows(base);
        if node.digest.allocated.is_none() {
            node.digest.allocated = content.count();
        }
    }

    /// True of the name of an open file that has no other.
    pub(crate) fn is_parked_as(&self, directory: InodeId, name: &Name) -> bool {
        directory == self.root && self.parked.values().any(|parked| parked == name)
    }

    /// What gives up the names of parked files that are not open any more: to be journaled and applied.
    pub(crate) fn unpark(&self) -> Vec<Mutation> {
        let closed = self.parked.iter().filter(|(inode, _)| self.nodes.get(inode).is_none_or(|node| node.pins == 0));
        let give_up = |(inode, name): (&InodeId, &Name)| Mutation::RebaseEntry {
            directory: self.root,
            name: name.clone(),
            base: Some(*inode),
        };
        closed.map(give_up).collect()
    }

    /// After replay: nothing is pinned, so what has no name goes.
    pub(crate) fn drop_orphans(&mut self) {
        let orphans: Vec<InodeId> =
            self.nodes.iter().filter(|(_, node)| node.orphan).map(|(inode, _)| *inode).collect();
        for inode in orphans {
            self.drop_if_gone(inode);
        }
    }

    /// Begins a load: rows it brings may be as old as now.
    pub(crate) fn begin_load(&mut self) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.loads.insert(ticket);
        ticket
    }

    /// Ends a load.
    pub(crate) fn end_load(&mut self, ticket: u64) {
        self.loads.remove(&ticket);
        self.settle();
    }

    /// Notes that the network has a cut (and all before).
    pub(crate) fn note_committed(&mut self, cut: u64) {
        self.committed = self.committed.max(cut);
        self.release_held(cut);
        self.forget_removed(cut);
        self.settling.push_back((self.next_ticket, cut));
        self.settle();
    }

    fn settle(&mut self) {
        let oldest_load = self.loads.first().copied().unwrap_or(u64::MAX);
        self.settle_news(oldest_load);
        while let Some((ticket, cut)) = self.settling.front().copied()
            && ticket <= oldest_load
        {
            self.settling.pop_front();
            self.settle_cut(cut);
        }
    }

    fn settle_cut(&mut self, cut: u64) {
        let Some(in_cut) = self.in_cuts.remove(&cut) else { return };
        for (directory, name) in in_cut.names {
            let entries = self.nodes.get_mut(&directory).and_then(|node| node.directory.as_deref_mut());
            let Some(entries) = entries else { continue };
            let Some(slot) = entries.slot(&name).filter(|slot| slot.cut() == cut) else { continue };
            let is_nothing = slot.child.is_none() && slot.base().is_none() && entries.complete;
            entries.set_cut(&name, 0);
            if is_nothing {
                entries.forget(&name);
                self.names -= 1;
            }
            self.drop_if_gone(directory);
        }
        for inode in in_cut.inodes {
            if let Some(node) = self.nodes.get_mut(&inode)
                && node.cut == cut
            {
                (node.cut, node.put) = (0, 0);
                self.drop_if_gone(inode);
            }
        }
    }

    /// What cuts that have not settled set.
    pub(crate) fn in_cut(&mut self, cut: u64) -> &mut InCut {
        self.in_cuts.entry(cut).or_default()
    }

    /// Names that a cut set, as long as it has not settled.
    pub(crate) fn names_in_cut(&self, cut: u64) -> impl Iterator<Item = &(InodeId, Name)> {
        self.in_cuts.get(&cut).into_iter().flat_map(|in_cut| &in_cut.names)
    }

    /// Names that name something and whose meaning the network may not know yet; some come twice.
    pub(crate) fn pending_names(&self) -> impl Iterator<Item = &(InodeId, Name)> {
        let taken = self.in_cuts.values().flat_map(|in_cut| &in_cut.names);
        self.changed_names.values().chain(taken).filter(|(directory, name)| self.is_pending(*directory, name))
    }

    /// True if a name names something and the network may not know that yet.
    pub(crate) fn is_pending(&self, directory: InodeId, name: &Name) -> bool {
        let directory = self.nodes.get(&directory).and_then(|node| node.directory.as_deref());
        let slot = directory.and_then(|directory| directory.slot(name));
        slot.is_some_and(|slot| slot.child.is_some() && slot.is_local())
    }

    /// Takes the cuts from `first` on apart: what they changed of inodes is pending again. Names follow with their bases.
    pub(crate) fn uncut(&mut self, first: u64, inodes: impl Iterator<Item = (InodeId, Vec<(Range<u64>, Fill)>)>) {
        let cuts = self.in_cuts.split_off(&first);
        self.forget_clones(cuts.values().flat_map(|cut| &cut.inodes));
        for (directory, name) in cuts.values().flat_map(|cut| &cut.names) {
            let entries = self.nodes.get_mut(directory).and_then(|node| node.directory.as_deref_mut());
            entries.into_iter().for_each(|entries| entries.set_cut(name, 0));
        }
        for inode in cuts.values().flat_map(|cut| &cut.inodes) {
            if let Some(node) = self.nodes.get_mut(inode) {
                (node.cut, node.put, node.renamed) = (0, 0, true);
            }
        }
        for (inode, ranges) in inodes {
            self.unfreeze(inode, first, ranges);
        }
    }

    fn unfreeze(&mut self, inode: InodeId, first: u64, ranges: Vec<(Range<u64>, Fill)>) {
        let Some(node) = self.nodes.get_mut(&inode) else { return };
        let (counted, size) = (!node.orphan, node.attributes.size);
        if let Some(content) = node.content.as_deref_mut() {
            let before = content.dirty_bytes();
            content.frozen.retain(|frozen| frozen.cut < first);
            content.thaw(ranges, size);
            let after = content.dirty_bytes();
            if counted {
                self.dirty_bytes = self.dirty_bytes + after - before;
            }
        }
        if counted {
            self.mark_dirty(inode);
        }
    }
}
