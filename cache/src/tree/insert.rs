//! What the loader brings in: rows of the network, opened. Local changes always win over them.

use super::{Node, Tree};
use crate::Name;
use crate::content::map::{Backing, Content};
use crate::record::Adopt;
use std::collections::BTreeSet;
use strewn_engine::ids::InodeId;

/// A row of a directory, opened.
#[derive(Debug, Clone)]
pub(crate) struct Loaded {
    /// The name.
    pub(crate) name: Name,
    /// What it names on the network.
    pub(crate) child: Option<Adopt>,
}

impl Tree {
    /// Takes in the root's row.
    pub(crate) fn insert_root(&mut self, adopt: &Adopt) {
        self.insert_node(adopt);
    }

    /// Takes in what a name names on the network. True if something known changed by it.
    pub(crate) fn insert_entry(&mut self, directory: InodeId, loaded: &Loaded) -> bool {
        let parked = loaded.child.as_ref().and_then(|adopt| self.parked.get(&adopt.inode));
        if directory == self.root && parked == Some(&loaded.name) {
            return false;
        }
        let Some(entries) = self.nodes.get(&directory).and_then(|node| node.directory.as_deref()) else { return false };
        let known = entries.slot(&loaded.name).cloned();
        if known.as_ref().is_some_and(super::Slot::is_local) {
            return false;
        }
        let before = known.as_ref().and_then(|slot| slot.child);
        let after = loaded.child.as_ref().map(|adopt| (adopt.inode, adopt.attributes.kind));
        if after.is_none()
            && let Some((inode, _)) = before
            && self.has_changes(inode)
        {
            // Removed elsewhere while it is changed here: it comes back.
            self.set_base(directory, &loaded.name, None);
            self.note_change();
            return false;
        }
        let mut changed = known.is_some() && before != after;
        if let Some((gone, _)) = before.filter(|_| before != after) {
            self.detach(directory, &loaded.name, gone);
        }
        if let Some(adopt) = &loaded.child {
            changed |= self.insert_node(adopt);
            self.attach(directory, &loaded.name, adopt.inode);
        }
        if let Ok(entries) = self.entries_mut(directory) {
            entries.set(&loaded.name, after);
        }
        changed
    }

    /// Ends a listing: what it did not show is not there. True if something known vanished by it.
    pub(crate) fn finish_listing(&mut self, directory: InodeId, seen: &BTreeSet<Name>) -> bool {
        let Some(entries) = self.nodes.get(&directory).and_then(|node| node.directory.as_deref()) else { return false };
        let vanished =
            |name: &Name, slot: &super::Slot| !slot.is_local() && slot.child.is_some() && !seen.contains(name);
        let gone: Vec<Name> =
            entries.slots().filter(|(name, slot)| vanished(name, slot)).map(|(name, _)| name.clone()).collect();
        for name in &gone {
            self.insert_entry(directory, &Loaded { name: name.clone(), child: None });
        }
        if let Ok(entries) = self.entries_mut(directory) {
            entries.complete = true;
        }
        !gone.is_empty()
    }

    /// Takes in an inode's row. True if a known node changed by it.
    pub(crate) fn insert_node(&mut self, adopt: &Adopt) -> bool {
        let Some(node) = self.nodes.get_mut(&adopt.inode) else {
            let node = Node { names: Vec::new(), ..Node::known(adopt) };
            self.nodes.insert(adopt.inode, node);
            self.attach_warm(adopt.inode);
            self.touch(adopt.inode);
            return false;
        };
        let newer = adopt.version > node.version || adopt.links != node.links;
        if node.is_local() || !newer {
            return false;
        }
        let other_content = adopt.content != node.digest.hash;
        node.attributes = adopt.attributes.clone();
        (node.links, node.version, node.digest) = (adopt.links, adopt.version, adopt.digest());
        node.journaled = false;
        if other_content {
            self.renew_content(adopt.inode);
        }
        true
    }

    /// Forgets a clean file's content: the network has another one.
    pub(crate) fn renew_content(&mut self, inode: InodeId) {
        let Some(content) = self.nodes.get_mut(&inode).and_then(|node| node.content.as_deref_mut()) else { return };
        let fresh = Content { batches: content.batches + 1, guard: content.guard.clone(), ..Content::new_remote() };
        let old = std::mem::replace(content, fresh);
        match &old.backing {
            Backing::Memory(bytes) => self.memory_bytes -= bytes.len() as u64,
            Backing::File => self.abandoned.push((inode, old.generation)),
        }
    }

    pub(super) fn attach(&mut self, directory: InodeId, name: &Name, inode: InodeId) {
        let Some(node) = self.nodes.get_mut(&inode) else { return };
        if node.is_directory() {
            node.names.clear();
        }
        if !node.names.iter().any(|(parent, known)| *parent == directory && known == name) {
            node.names.push((directory, name.clone()));
        }
    }

    /// A name went on the network: the node goes too, unless something here still needs it.
    fn detach(&mut self, directory: InodeId, name: &Name, inode: InodeId) {
        let Some(node) = self.nodes.get_mut(&inode) else { return };
        node.names.retain(|(parent, known)| *parent != directory || known != name);
        if !node.is_directory() && !node.is_local() {
            node.links = node.links.saturating_sub(1);
            // Still open here: it goes on without a name, as if it had been removed here.
            node.orphan = node.links == 0 && node.pins > 0;
        }
        if node.names.is_empty() && node.pins == 0 {
            self.drop_clean(inode);
        }
    }

    /// Drops a clean node with everything below it, as far as nothing here needs it.
    fn drop_clean(&mut self, inode: InodeId) {
        let Some(node) = self.nodes.get(&inode) else { return };
        let below: Vec<(InodeId, Name)> = match node.directory.as_deref() {
            Some(entries) => entries.slots().filter_map(|(name, slot)| Some((slot.child?.0, name.clone()))).collect(),
            None => Vec::new(),
        };
        for (child, name) in below {
            self.detach(inode, &name, child);
        }
        if self.nodes.get(&inode).is_some_and(|node| !node.is_local()) {
            self.drop_node(inode);
        }
    }

    /// True if something in a node, or below it, waits for the network.
    fn has_changes(&self, inode: InodeId) -> bool {
        let Some(node) = self.nodes.get(&inode) else { return false };
        let below = node.directory.as_deref().into_iter().flat_map(|entries| entries.slots());
        node.dirty.is_some()
            || node.cut != 0
            || below
                .into_iter()
                .any(|(_, slot)| slot.is_local() || slot.child.is_some_and(|(child, _)| self.has_changes(child)))
    }

    /// True if no node in memory is below this one, and no name in it differs from the network.
    pub(super) fn is_leaf(&self, inode: InodeId) -> bool {
        let Some(entries) = self.node(inode).and_then(|node| node.directory.as_deref()) else { return true };
        entries
            .slots()
            .all(|(_, slot)| !slot.is_local() && slot.child.is_none_or(|(child, _)| !self.nodes.contains_key(&child)))
    }
}
