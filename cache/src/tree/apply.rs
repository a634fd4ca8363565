//! What a journal record does to the tree: the same code for what just happened and for replay.

use super::{Node, Tree};
use crate::Name;
use crate::content::Digest;
use crate::content::map::{Backing, Fill};
use crate::record::{Adopt, Mutation, Rebase, Times, Write};
use strewn_engine::bucket::Kind;
use strewn_engine::ids::InodeId;
use strewn_engine::record::Attributes;
use strewn_engine::secret::Key;

/// A record does not fit the tree: the journal is damaged, or was written by something else.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the journal does not fit together: {0}")]
pub(crate) struct Misfit(pub(crate) &'static str);

/// Inodes that a record touched and that may have to go.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    touched: Vec<InodeId>,
    /// Names that are again what they were on the network.
    returned: Vec<(InodeId, Name)>,
    /// Directories that got a place, and the one that they had before.
    moved: Vec<(InodeId, (InodeId, Name))>,
}

impl Tree {
    /// Applies a whole record's mutations of nodes, names and content, and what a transaction pinned and unpinned.
    ///
    /// Bytes of writes are not moved here, and mutations about cuts are the caller's.
    pub(crate) fn apply_record(
        &mut self,
        mutations: &[Mutation],
        pins: &[(InodeId, i64)],
        position: u64,
    ) -> Result<(), Misfit> {
        let mut applied = Applied::default();
        for mutation in mutations {
            self.apply(mutation, position, &mut applied)?;
        }
        for (inode, place) in applied.moved {
            self.leave(inode, place);
        }
        for (inode, change) in pins {
            if let Some(node) = self.nodes.get_mut(inode) {
                node.pins = node.pins.saturating_add_signed(*change);
                applied.touched.push(*inode);
            }
        }
        for inode in applied.touched {
            self.settle_names(inode);
        }
        for (directory, name) in applied.returned {
            self.settle_returned(directory, &name);
        }
        Ok(())
    }

    /// After a record: a name that is again what it was is no change any more. But if others changed it meanwhile, and what it names
    /// has lost its place on the network here, both is for the network to settle at once.
    fn settle_returned(&mut self, directory: InodeId, name: &Name) {
        let child = self.child_of(directory, name);
        if self.is_missed(directory, name) && child.is_some_and(|child| self.changed_links(child) < 0) {
            return;
        }
        let slot = self.nodes.get(&directory).and_then(|node| node.directory.as_deref()?.slot(name));
        if let Some((base, _)) = slot.and_then(super::Slot::base) {
            self.set_base(directory, name, base);
            self.settle_times(directory);
        }
    }

    /// After a record: where no name differs from the network any more, none carries the directory's new times there, so
    /// its own record has to.
    fn settle_times(&mut self, directory: InodeId) {
        let unchanged = |node: &Node| node.directory.as_deref().is_some_and(|names| names.changed == 0);
        if self.is_counted(directory) && self.node(directory).is_some_and(unchanged) {
            self.mark_dirty(directory);
        }
    }

    fn apply(&mut self, mutation: &Mutation, position: u64, applied: &mut Applied) -> Result<(), Misfit> {
        if let Some(node) = mutation.changes().and_then(|inode| self.nodes.get_mut(&inode)) {
            node.keep_base();
        }
        match mutation {
            Mutation::Adopt(adopt) => self.adopt(adopt),
            Mutation::Create { inode, key, attributes } => {
                self.nodes.insert(*inode, Node::created(Key::from(key), (**attributes).clone()));
                applied.touched.push(*inode);
                Ok(())
            }
            Mutation::Attributes { inode, soft, attributes } => {
                let node = self.nodes.get_mut(inode).ok_or(UNKNOWN)?;
                let kept =
                    Attributes { kind: node.attributes.kind, size: node.attributes.size, ..(**attributes).clone() };
                node.attributes = kept;
                self.changed(*inode, *soft);
                Ok(())
            }
            Mutation::Times { inode, soft, times } => {
                self.nodes.get_mut(inode).ok_or(UNKNOWN)?.attributes.set_times(times);
                self.changed(*inode, *soft);
                Ok(())
            }
            Mutation::Entry { directory, name, previous, child } => {
                self.apply_entry(*directory, name, *previous, *child, applied)
            }
            Mutation::Resize { inode, size, anew } => self.apply_resize(*inode, *size, *anew),
            Mutation::Punch { inode, offset, length } => self.apply_punch(*inode, *offset, *length),
            Mutation::Write(write) => self.apply_write(write, position),
            Mutation::Synced { inode, generation, position } => {
                // The inode may be gone by now: the sync ran without the lock.
                if let Some(content) = self.nodes.get_mut(inode).and_then(|node| node.content.as_deref_mut())
                    && content.generation == *generation
                {
                    content.synced = content.synced.max(*position);
                }
                Ok(())
            }
            Mutation::Rebase(rebase) => {
                self.rebase(rebase);
                Ok(())
            }
            Mutation::RebaseEntry { directory, name, base } => {
                self.rebase_entry(*directory, name, *base);
                Ok(())
            }
            Mutation::Park { inode, name } => {
                self.parked.insert(*inode, name.clone());
                Ok(())
            }
            Mutation::Links { inode, links } => {
                self.set_links(*inode, *links);
                Ok(())
            }
            Mutation::Counted { inode, content, allocated } => {
                self.set_allocated(*inode, *content, *allocated);
                Ok(())
            }
            Mutation::Elsewhere { inode } => {
                self.note_elsewhere(*inode);
                Ok(())
            }
            Mutation::LastSeen { inode, seen, cut } => {
                self.restore_removed(*inode, *seen, *cut);
                Ok(())
            }
            Mutation::Conflict(conflict) => {
                self.conflicts.add((**conflict).clone());
                Ok(())
            }
            Mutation::Held(held) => {
                self.restore_held(held);
                Ok(())
            }
            Mutation::Exposed { inode, generation, exposed } => {
                self.set_exposed(*inode, *generation, *exposed);
                Ok(())
            }
            Mutation::Base { inode, attributes } => {
                if let Some(node) = self.nodes.get_mut(inode).filter(|node| node.dirty.is_some()) {
                    node.base = Some(attributes.clone());
                }
                Ok(())
            }
            Mutation::Freeze { .. }
            | Mutation::Cut { .. }
            | Mutation::Committed { .. }
            | Mutation::Uncut { .. }
            | Mutation::Stream { .. }
            | Mutation::Node(_)
            | Mutation::Name { .. }
            | Mutation::Pipeline { .. } => Ok(()),
        }
    }

    pub(super) fn adopt(&mut self, adopt: &Adopt) -> Result<(), Misfit> {
        if self.was_dropped(adopt.inode) {
            self.drop_node(adopt.inode);
        }
        if let Some(node) = self.nodes.get_mut(&adopt.inode) {
            node.journaled = true;
            if !node.is_put() {
                let other_content = node.digest.hash != adopt.content;
                node.attributes = adopt.attributes.clone();
                (node.links, node.version, node.digest) = (adopt.links, adopt.version, adopt.digest());
                // As for a node that was not known, so that replay does what was done.
                node.orphan = node.is_nameless();
                if other_content {
                    self.renew_content(adopt.inode);
                }
            } else if !node.is_directory() {
                node.links = adopt.links;
            }
        } else {
            let mut node = Node::known(adopt);
            node.journaled = true;
            self.nodes.insert(adopt.inode, node);
        }
        let Some((parent, name)) = &adopt.name else { return Ok(()) };
        let entries = self.nodes.get(parent).and_then(|node| node.directory.as_deref()).ok_or(UNKNOWN)?;
        let slot = entries.slot(name);
        if slot.is_none_or(|slot| !slot.is_local()) {
            let before = slot.and_then(|slot| slot.child).filter(|(before, _)| *before != adopt.inode);
            self.set_slot(*parent, name, Some((adopt.inode, adopt.attributes.kind)))?;
            self.displace(*parent, name, before);
        }
        if self.child_of(*parent, name) == Some(adopt.inode) {
            self.attach(*parent, name, adopt.inode);
        }
        Ok(())
    }

    /// True if a replayed record adopts what had lost its last name before: it was dropped when that happened, and has come
    /// back from the network since.
    pub(crate) fn was_dropped(&self, inode: InodeId) -> bool {
        self.replaying && self.nodes.get(&inode).is_some_and(|node| node.orphan && !node.has_removals())
    }

    /// Marks an inode as to be put if it has a name and the change is more than a soft one.
    fn changed(&mut self, inode: InodeId, soft: bool) {
        if !soft && self.is_counted(inode) {
            self.mark_dirty(inode);
        }
    }

    /// True if the network is to have the inode: what it holds counts as pending.
    fn is_counted(&self, inode: InodeId) -> bool {
        self.nodes.get(&inode).is_some_and(|node| !node.orphan)
    }

    /// After a record: an inode without a name is none of the network's concern, one that got a name is.
    pub(super) fn settle_names(&mut self, inode: InodeId) {
        let named = self.nlink(inode).is_some_and(|nlink| nlink > 0);
        let Some(node) = self.nodes.get_mut(&inode) else { return };
        let was_orphan = std::mem::replace(&mut node.orphan, !named);
        match (was_orphan, named) {
            (false, false) => {
                self.mark_clean(inode);
                self.dirty_bytes -= self.dirty_bytes_of(inode);
            }
            (true, true) => {
                self.dirty_bytes += self.dirty_bytes_of(inode);
                self.mark_dirty(inode);
            }
            _ => {}
        }
        self.drop_if_gone(inode);
    }

    /// How many names are known of a file, if that is more than it counts: rows of the network may have counted fewer.
    pub(super) fn uncounted_links(&self, inode: InodeId) -> Option<u32> {
        let node = self.nodes.get(&inode).filter(|node| !node.is_directory())?;
        let counts = |known: usize| u32::try_from(known).unwrap_or(u32::MAX);
        // Looked at one by one only if there are more: a file may have thousands.
        let more = counts(node.names.len()) > node.links;
        more.then(|| counts(self.names_of(inode).count())).filter(|known| *known > node.links)
    }

    fn set_links(&mut self, inode: InodeId, links: u32) {
        let Some(node) = self.nodes.get_mut(&inode).filter(|node| !node.is_directory()) else { return };
        node.links = links;
        node.renamed &= links > 0;
        self.settle_names(inode);
    }

    /// A directory that lost its name here is somewhere else on the network.
    pub(super) fn note_elsewhere(&mut self, inode: InodeId) {
        if let Some(node) = self.nodes.get_mut(&inode).filter(|node| node.is_directory()) {
            node.elsewhere = node.names.is_empty();
        }
    }

    fn apply_entry(
        &mut self,
        directory: InodeId,
        name: &Name,
        previous: Option<InodeId>,
        child: Option<InodeId>,
        applied: &mut Applied,
    ) -> Result<(), Misfit> {
        let kind_of = |inode: InodeId| self.nodes.get(&inode).map(|node| (inode, node.kind())).ok_or(UNKNOWN);
        let before = previous.map(kind_of).transpose()?;
        let after = child.map(kind_of).transpose()?;
        let known = self.entries_mut(directory)?.slot(name).map(|slot| slot.child);
        if known.is_none() {
            // Replay: the journal says what was here.
            self.set_slot(directory, name, before)?;
        }
        if let Some((inode, Kind::Directory)) = before.filter(|before| known != Some(Some(*before))) {
            // Others had moved it there, which is in no record.
            self.attach(directory, name, inode);
        }
        self.displace(directory, name, known.flatten().filter(|known| Some(*known) != before));
        let slot = self.set_slot(directory, name, after)?;
        let differed = slot.base().is_some();
        let base = slot.base().map_or(previous, |(base, _)| base);
        match differed && base == child {
            true => applied.returned.push((directory, name.clone())),
            false => self.set_base(directory, name, base),
        }
        self.note_change();
        if let Some((inode, kind)) = before {
            self.lose_name(directory, name, inode, kind);
            applied.touched.push(inode);
        }
        if let Some((inode, kind)) = after {
            let before = self.gain_name(directory, name, inode, kind);
            applied.moved.extend(before.map(|place| (inode, place)));
            applied.touched.push(inode);
        }
        Ok(())
    }

    /// Replay: others had taken a name from what it names here, which is in no record.
    fn displace(&mut self, directory: InodeId, name: &Name, from: Option<(InodeId, Kind)>) {
        let Some((inode, _)) = from else { return };
        let Some(node) = self.nodes.get_mut(&inode) else { return };
        node.names.remove(directory, name);
        node.elsewhere |= node.is_directory() && node.names.is_empty();
    }

    fn lose_name(&mut self, directory: InodeId, name: &Name, inode: InodeId, kind: Kind) {
        if kind == Kind::Directory
            && let Some(parent) = self.nodes.get_mut(&directory)
        {
            parent.links = parent.links.saturating_sub(1);
            parent.renamed = true;
        }
        self.conflicts.forget(inode);
        let Some(node) = self.nodes.get_mut(&inode) else { return };
        node.names.remove(directory, name);
        (node.renamed, node.elsewhere) = (true, false);
        if kind != Kind::Directory {
            node.links = node.links.saturating_sub(1);
            self.note_lost_name(inode);
        }
    }

    /// Gives the place that a directory had before.
    fn gain_name(&mut self, directory: InodeId, name: &Name, inode: InodeId, kind: Kind) -> Option<(InodeId, Name)> {
        if kind == Kind::Directory
            && let Some(parent) = self.nodes.get_mut(&directory)
        {
            parent.links = parent.links.saturating_add(1);
            parent.renamed = true;
        }
        let before = self.place(directory, name, inode);
        let node = self.nodes.get_mut(&inode)?;
        (node.renamed, node.elsewhere) = (true, false);
        if kind != Kind::Directory {
            node.links = node.links.saturating_add(1);
            self.removed.forget(inode);
        }
        before
    }

    fn dirty_bytes_of(&self, inode: InodeId) -> u64 {
        let content = self.nodes.get(&inode).and_then(|node| node.content.as_deref());
        content.map_or(0, |content| content.dirty_bytes())
    }

    fn apply_resize(&mut self, inode: InodeId, size: u64, anew: bool) -> Result<(), Misfit> {
        let counted = self.is_counted(inode);
        let node = self.nodes.get_mut(&inode).ok_or(UNKNOWN)?;
        let old = std::mem::replace(&mut node.attributes.size, size);
        let content = node.content.as_deref_mut().ok_or(NO_FILE)?;
        content.changes = content.changes.wrapping_add(1);
        let dirty_before = content.dirty_bytes();
        if size < old {
            content.cleared(size..old);
        }
        let mut freed = 0;
        if let Backing::Memory(bytes) = &mut content.backing
            && bytes.len() as u64 > size
        {
            freed = bytes.len() as u64 - size;
            std::sync::Arc::make_mut(bytes).truncate(size as usize);
        }
        let dropped = dirty_before - content.dirty_bytes();
        if anew {
            if matches!(content.backing, Backing::File) {
                self.abandoned.push((inode, content.generation));
                content.backing = Backing::nothing();
            }
            content.present.clear();
            (content.generation, content.written, content.synced, content.kept) = (0, 0, 0, None);
        }
        self.memory_bytes -= freed;
        if counted {
            self.dirty_bytes -= dropped;
            self.mark_dirty(inode);
        }
        Ok(())
    }

    fn apply_punch(&mut self, inode: InodeId, offset: u64, length: u64) -> Result<(), Misfit> {
        let counted = self.is_counted(inode);
        let node = self.nodes.get_mut(&inode).ok_or(UNKNOWN)?;
        let content = node.content.as_deref_mut().ok_or(NO_FILE)?;
        let range = offset..offset.saturating_add(length).min(node.attributes.size);
        if range.is_empty() {
            return Ok(());
        }
        content.changes = content.changes.wrapping_add(1);
        let dropped = content.dirty_within(&range);
        content.cleared(range);
        if counted {
            self.dirty_bytes -= dropped;
            self.mark_dirty(inode);
        }
        Ok(())
    }

    fn apply_write(&mut self, write: &Write, position: u64) -> Result<(), Misfit> {
        let counted = self.is_counted(write.inode);
        let node = self.nodes.get_mut(&write.inode).ok_or(UNKNOWN)?;
        node.attributes.mode = write.mode;
        node.attributes.set_times(&write.times);
        let end = write.offset.checked_add(write.length).ok_or(Misfit("a write beyond the largest offset"))?;
        node.attributes.size = node.attributes.size.max(end);
        let content = node.content.as_deref_mut().ok_or(NO_FILE)?;
        content.changes = content.changes.wrapping_add(1);
        content.generation = write.generation;
        let range = write.offset..end;
        let fresh = write.length - content.dirty_within(&range);
        content.wrote(range);
        if write.data.is_none() {
            content.written = position;
        }
        if counted {
            self.dirty_bytes += fresh;
            self.mark_dirty(write.inode);
        }
        Ok(())
    }

    fn rebase(&mut self, rebase: &Rebase) {
        let counted = self.is_counted(rebase.inode);
        let Some(node) = self.nodes.get_mut(&rebase.inode) else { return };
        if rebase.version == 0 {
            let newest = rebase.foreign.map_or(0, |version| version.saturating_add(COMES_BACK));
            node.floor = node.floor.max(newest);
        }
        (node.version, node.digest) = (rebase.version, Digest::uncounted(rebase.content));
        // If it is known it follows.
        node.base = None;
        if let Some(content) = node.content.as_deref_mut() {
            content.forget_extents(rebase.version == 0);
            content.forget_clones();
            if rebase.version == 0 {
                // The network has nothing of it any more: all that is here is to go there.
                let before = content.dirty_bytes();
                content.dirty = content.present.iter().map(|range| (range.clone(), Fill::Data)).collect();
                let after = content.dirty_bytes();
                self.dirty_bytes = if counted { self.dirty_bytes + after - before } else { self.dirty_bytes };
            }
            if let Some(size) = rebase.foreign.filter(|_| rebase.version > 0) {
                node.attributes.size = size;
                let dropped = content.dirty_bytes();
                content.dirty.clear();
                self.dirty_bytes -= if counted { dropped } else { 0 };
                self.renew_content(rebase.inode);
            }
        }
        if counted {
            self.mark_dirty(rebase.inode);
        }
    }

    fn rebase_entry(&mut self, directory: InodeId, name: &Name, base: Option<InodeId>) {
        if directory == self.root {
            for (inode, _) in self.parked.extract_if(|_, parked| parked == name) {
                self.removed.untake(inode);
            }
        }
        let Ok(entries) = self.entries_mut(directory) else { return };
        if entries.slot(name).is_none() && self.set_slot(directory, name, None).is_err() {
            return;
        }
        self.set_base(directory, name, base);
    }

    /// Drops a node that has no name, is not pinned, and has nothing left to tell the network: a removed directory stays until
    /// the removals in it are there, so that a refusal finds them.
    pub(crate) fn drop_if_gone(&mut self, inode: InodeId) {
        let Some(node) = self.nodes.get(&inode) else { return };
        if self.nlink(inode) == Some(0) && node.pins == 0 && !node.has_removals() && !self.replaying {
            self.drop_node(inode);
        }
    }

    /// Takes a node out of memory.
    pub(super) fn drop_node(&mut self, inode: InodeId) {
        self.mark_clean(inode);
        let counted = self.is_counted(inode);
        let Some(node) = self.nodes.remove(&inode) else { return };
        self.forget_uses(inode);
        self.names -= node.directory.as_deref().map_or(0, super::Directory::known);
        let Some(content) = node.content else { return };
        if counted {
            self.dirty_bytes -= content.dirty_bytes();
        }
        match &content.backing {
            Backing::Memory(bytes) => self.memory_bytes -= bytes.len() as u64,
            Backing::File => self.abandoned.push((inode, content.generation)),
        }
    }

    /// Lets a name name something else; gives its slot.
    pub(crate) fn set_slot(
        &mut self,
        directory: InodeId,
        name: &Name,
        child: Option<(InodeId, Kind)>,
    ) -> Result<&mut super::Slot, Misfit> {
        self.know_name(directory, name);
        let entries = self.nodes.get_mut(&directory).and_then(|node| node.directory.as_deref_mut());
        let entries = entries.ok_or(NO_DIRECTORY)?;
        let known = entries.known();
        entries.set(name, child);
        self.names += entries.known() - known;
        entries.slot_mut(name).ok_or(NO_DIRECTORY)
    }

    /// The names of a directory, to change what is said of it, or of names that are known.
    pub(crate) fn entries_mut(&mut self, directory: InodeId) -> Result<&mut super::Directory, Misfit> {
        self.nodes.get_mut(&directory).and_then(|node| node.directory.as_deref_mut()).ok_or(NO_DIRECTORY)
    }
}

/// What comes back after somebody removed it is put in a version so far ahead of the newest that was seen here: newer than any
/// that others may have seen since.
const COMES_BACK: u64 = 1 << 20;

const UNKNOWN: Misfit = Misfit("unknown inode");
const NO_DIRECTORY: Misfit = Misfit("no such directory");
const NO_FILE: Misfit = Misfit("content of what is no file");

/// Sets the three times a change may set.
pub(crate) trait SetTimes {
    /// Sets them.
    fn set_times(&mut self, times: &Times);
    /// What they are.
    fn times(&self) -> Times;
}

impl SetTimes for Attributes {
    fn set_times(&mut self, times: &Times) {
        (self.atime, self.mtime, self.ctime) = (times.atime, times.mtime, times.ctime);
    }

    fn times(&self) -> Times {
        Times { atime: self.atime, mtime: self.mtime, ctime: self.ctime }
    }
}
