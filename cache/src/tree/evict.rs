//! Forgetting what the network knows as well: clean, unpinned nodes go when memory is short, oldest use first.
//!
//! A forgotten node leaves its name, kind and cookie in its directory, so that listings go on where they were.

use super::Tree;
use crate::content::map::Backing;
use strewn_engine::ids::InodeId;

/// Memory of a node with its name, about.
pub(crate) const NODE_BYTES: u64 = 700;

impl Tree {
    /// Forgets up to a quarter of the nodes when there are more than `most` bytes allow. Returns how many went.
    pub(crate) fn forget_some(&mut self, most: u64) -> usize {
        if (self.len() as u64).saturating_mul(NODE_BYTES) <= most {
            return 0;
        }
        let mut idle: Vec<(u64, InodeId)> = self
            .nodes
            .iter()
            .filter(|(inode, _)| self.is_idle(**inode))
            .map(|(inode, node)| (node.used, *inode))
            .collect();
        let count = (self.len() / 4).min(idle.len());
        if count == 0 {
            return 0;
        }
        idle.select_nth_unstable(count - 1);
        for (_, inode) in &idle[..count] {
            self.retire(*inode);
            self.drop_node(*inode);
        }
        count
    }

    /// Bytes of content in data files, those of files that are not in memory included.
    pub(crate) fn present_bytes(&self) -> u64 {
        let contents = self.nodes.values().filter_map(|node| node.content.as_deref());
        let on_disk = contents.filter(|content| matches!(content.backing, Backing::File));
        let in_memory: u64 =
            on_disk.flat_map(|content| content.present.iter()).map(|range| range.end - range.start).sum();
        in_memory + self.warm.bytes()
    }

    /// Forgets clean small files in memory until no more than `most` bytes are left, oldest use first.
    pub(crate) fn forget_small_files(&mut self, most: u64) {
        for inode in self.idle_contents(|backing| matches!(backing, Backing::Memory(bytes) if !bytes.is_empty())) {
            if self.memory_bytes <= most {
                return;
            }
            self.leave_small(inode);
            self.forget_content(inode);
        }
    }

    /// Forgets clean content in data files, at least `excess` bytes if there are as many: first of files that are not in
    /// memory, then by oldest use.
    pub(crate) fn forget_files(&mut self, excess: u64) {
        let mut freed = self.forget_warm(excess);
        for inode in self.idle_contents(|backing| matches!(backing, Backing::File)) {
            if freed >= excess {
                return;
            }
            freed += self.forget_content(inode);
        }
    }

    fn idle_contents(&self, wanted: impl Fn(&Backing) -> bool) -> Vec<InodeId> {
        let mut idle: Vec<(u64, InodeId)> = self
            .nodes
            .iter()
            .filter(|(_, node)| !node.orphan)
            .filter_map(|(inode, node)| {
                let content = node.content.as_deref()?;
                (wanted(&content.backing) && content.is_evictable() && !content.local).then_some((node.used, *inode))
            })
            .collect();
        idle.sort_unstable();
        idle.into_iter().map(|(_, inode)| inode).collect()
    }

    /// Drops the bytes of a clean content, not what is known of its extents. Gives how many there were.
    pub(super) fn forget_content(&mut self, inode: InodeId) -> u64 {
        let Some(content) = self.nodes.get_mut(&inode).and_then(|node| node.content.as_deref_mut()) else { return 0 };
        let bytes = content.present.iter().map(|range| range.end - range.start).sum();
        content.present.clear();
        content.recalled = false;
        (content.written, content.synced, content.kept) = (0, 0, None);
        match std::mem::replace(&mut content.backing, Backing::Memory(Default::default())) {
            Backing::Memory(bytes) => self.memory_bytes -= bytes.len() as u64,
            Backing::File => {
                self.abandoned.push((inode, content.generation));
            }
        }
        bytes
    }

    /// Clean state is no longer trusted: listings are loaded anew, and clean leaves are forgotten.
    pub(crate) fn doubt_all(&mut self) {
        let idle: Vec<InodeId> = self.nodes.keys().copied().filter(|inode| self.is_idle(*inode)).collect();
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
    fn is_idle(&self, inode: InodeId) -> bool {
        let Some(node) = self.node(inode) else { return false };
        inode != self.root
            && node.pins == 0
            && !node.is_local()
            && node.content.as_ref().is_none_or(|content| content.is_evictable() && !content.is_guarded())
            && self.is_leaf(inode)
    }
}
