//! What of files was cloned: see [`crate::content::clones`].

use super::Tree;
use crate::content::clones::{Held, Origin};
use crate::content::map::Content;
use crate::record::{HeldBytes, Mutation, Write};
use rangemap::RangeSet;
use std::collections::HashSet;
use std::ops::Range;
use strewn_engine::ids::InodeId;

impl Tree {
    /// Notes which runs have bytes that were just written.
    pub(crate) fn note_origins(&mut self, inode: InodeId, origins: &[(Range<u64>, Origin)]) {
        if let Some(content) = self.content_mut(inode) {
            content.cloned(origins);
        }
    }

    /// What is held for a cut: to be journaled with its batch.
    pub(crate) fn held_for(&self, inode: InodeId, cut: u64) -> Option<Mutation> {
        let content = self.node(inode)?.content.as_deref()?;
        let held = content.held().iter().find(|held| held.cut == cut)?;
        Some(held_bytes(inode, content, held))
    }

    /// All that is held of a file.
    pub(super) fn all_held(&self, inode: InodeId) -> Vec<Mutation> {
        let content = self.node(inode).and_then(|node| node.content.as_deref());
        let all = |content: &Content| content.held().iter().map(|held| held_bytes(inode, content, held)).collect();
        content.map_or_else(Vec::new, all)
    }

    /// Replay: takes back what is held.
    pub(super) fn restore_held(&mut self, held: &HeldBytes) {
        let Some(content) = self.content_mut(held.inode).filter(|content| content.generation == held.generation) else {
            return;
        };
        let ranges = held.ranges.iter().filter(|(start, end)| start < end).map(|(start, end)| *start..*end).collect();
        content.hold(Held { cut: held.cut, ranges });
    }

    /// After replay: what is held for cuts that the network does not have is to be written again, where nothing newer is: the data
    /// file may have got newer bytes that are in no record. Nothing is held any more.
    pub(crate) fn take_held(&mut self, queued: &[u64]) -> Vec<Write> {
        let mut writes = Vec::new();
        let holds = |content: &Content| !content.held().is_empty();
        let holding = self.nodes().filter(|(_, node)| node.content.as_deref().is_some_and(holds));
        for inode in holding.map(|(inode, _)| inode).collect::<Vec<_>>() {
            let Some(node) = self.nodes.get_mut(&inode) else { continue };
            let size = node.attributes.size;
            let Some(content) = node.content.as_deref_mut() else { continue };
            let held = content.held().iter().filter(|held| queued.contains(&held.cut));
            let mut ranges: RangeSet<u64> = held.flat_map(|held| held.ranges.iter().cloned()).collect();
            content.dirty.iter().for_each(|(range, _)| ranges.remove(range.clone()));
            ranges.remove(size..u64::MAX);
            content.forget_clones();
            writes.extend(ranges.into_iter().map(|range| node.rewritten(inode, range, None)));
        }
        writes
    }

    /// The network has a cut: the bytes held for it can be had again.
    pub(super) fn release_held(&mut self, cut: u64) {
        let inodes = self.in_cuts.get(&cut).map_or_else(Vec::new, |in_cut| in_cut.inodes.clone());
        for inode in inodes {
            if let Some(content) = self.content_mut(inode) {
                content.clones_committed(cut);
            }
        }
    }

    /// Cuts are taken apart: what they took of these is dirty again, and whatever is dirty is sealed like other bytes.
    pub(super) fn forget_clones<'a>(&mut self, taken: impl Iterator<Item = &'a InodeId>) {
        let inodes: HashSet<InodeId> = taken.copied().chain(self.changed_inodes.values().copied()).collect();
        for inode in inodes {
            if let Some(content) = self.content_mut(inode) {
                content.forget_clones();
            }
        }
    }

    fn content_mut(&mut self, inode: InodeId) -> Option<&mut Content> {
        self.nodes.get_mut(&inode)?.content.as_deref_mut()
    }
}

fn held_bytes(inode: InodeId, content: &Content, held: &Held) -> Mutation {
    let ranges = held.ranges.iter().map(|range| (range.start, range.end)).collect();
    Mutation::Held(Box::new(HeldBytes { inode, cut: held.cut, generation: content.generation, ranges }))
}
