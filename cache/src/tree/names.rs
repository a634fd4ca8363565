//! Names and what they name, for the index and back.

use super::{Directory, Tree};
use crate::Name;
use crate::warm::EntryRow;
use strewn_engine::ids::InodeId;

/// Rows about entries of one directory.
pub(crate) struct EntryRows {
    /// Cookie, name and row.
    pub(crate) rows: Vec<(u64, Name, EntryRow)>,
    /// Where to go on; `None` if these were the last.
    pub(crate) next: Option<u64>,
    /// The network has no other names there, but for what the journal knows.
    pub(crate) complete: bool,
}

impl Tree {
    /// What a changed name names here and will name on the network.
    pub(crate) fn ends_of(&self, directory: InodeId, name: &Name) -> impl Iterator<Item = InodeId> + use<> {
        let slot = self.node(directory).and_then(|node| node.directory.as_deref()?.slot(name));
        let child = slot.and_then(|slot| slot.child).map(|(inode, _)| inode);
        let base = slot.and_then(|slot| slot.base()).and_then(|(base, _)| base);
        child.into_iter().chain(base)
    }

    /// All directories in memory.
    pub(crate) fn directories(&self) -> Vec<InodeId> {
        self.nodes.iter().filter(|(_, node)| node.directory.is_some()).map(|(inode, _)| *inode).collect()
    }

    /// What the network has in a directory, as far as it is known, after a cookie; at most `most` rows.
    pub(crate) fn entry_rows(&self, directory: InodeId, after: u64, most: usize) -> EntryRows {
        let mut page = EntryRows { rows: Vec::new(), next: None, complete: false };
        let Some(node) = self.nodes.get(&directory).filter(|node| node.version != 0) else { return page };
        let Some(entries) = node.directory.as_deref() else { return page };
        page.complete = entries.complete;
        let mut names = entries.after(after);
        for (cookie, name, (child, kind)) in names.by_ref().take(most) {
            page.next = Some(cookie);
            if entries.slot(name).is_some_and(super::Slot::is_local) {
                continue;
            }
            // What is changed here, the journal knows.
            let node = self.nodes.get(&child).filter(|node| !node.is_local() && node.version != 0);
            let node = node.map(|node| crate::record::Adopt { name: None, ..node.adopt(child) });
            page.rows.push((cookie, name.clone(), EntryRow { child, kind, node }));
        }
        if names.next().is_none() {
            page.next = None;
        }
        page
    }

    /// Takes back what a name names. What the journal knows wins. True if the name names that, and it is in memory.
    pub(crate) fn restore_entry(&mut self, directory: InodeId, name: &Name, row: &EntryRow) -> bool {
        let named = Some((row.child, row.kind));
        let Some(entries) = self.nodes.get(&directory).and_then(|node| node.directory.as_deref()) else { return false };
        let parked = directory == self.root && self.parked.get(&row.child) == Some(name);
        if parked || self.nodes.get(&row.child).is_some_and(|node| node.kind() != row.kind) {
            return false;
        }
        match entries.slot(name) {
            Some(slot) if slot.child != named => return false,
            Some(_) => {}
            None => {
                if let Some(adopt) = &row.node {
                    self.insert_node(adopt, u64::MAX);
                }
                self.attach(directory, name, row.child);
                // It was there a moment ago.
                let _ = self.set_slot(directory, name, named);
            }
        }
        self.nodes.contains_key(&row.child)
    }

    /// Notes that all names of a directory were taken back.
    pub(crate) fn restore_listing(&mut self, directory: InodeId) {
        if let Ok(Directory { complete, .. }) = self.entries_mut(directory) {
            *complete = true;
        }
    }
}
