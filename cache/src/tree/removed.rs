//! Files that lost a name here, until the network has heard of it: if it is the last one there, the removal takes away what was
//! known here, and nothing that somebody else made of the file meanwhile. The nodes themselves may be gone from memory.

use super::{Node, Tree};
use crate::record::{Adopt, Mutation};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use strewn_engine::ids::InodeId;

/// A row of the network as it was known when a name of it went, once the queued cuts are applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LastSeen {
    pub(crate) version: u64,
    /// Bytes.
    pub(crate) size: u64,
    /// Hash over its window tags.
    pub(crate) content: [u8; 32],
}

impl LastSeen {
    fn of(node: &Node) -> Self {
        let attributes = node.base.as_deref().unwrap_or(&node.attributes);
        Self { version: node.version, size: attributes.size, content: node.digest.hash }
    }

    /// True if a row of the network has the bytes that it had.
    pub(crate) fn has_content_of(&self, row: &Adopt) -> bool {
        (self.size, self.content) == (row.attributes.size, row.content)
    }

    pub(crate) fn of_row(row: &Adopt) -> Self {
        Self { version: row.version, size: row.attributes.size, content: row.content }
    }

    /// What the journal is to know, if no cut has taken the name.
    pub(crate) fn mutation(self, inode: InodeId) -> Mutation {
        Mutation::LastSeen { inode, seen: self, cut: 0 }
    }
}

/// The files, each with the newest cut that took a name of it; 0 for none.
#[derive(Debug, Default)]
pub(super) struct Removed(HashMap<InodeId, (LastSeen, u64)>);

impl Removed {
    pub(super) fn add(&mut self, inode: InodeId, seen: LastSeen, cut: u64) {
        self.0.insert(inode, (seen, cut));
    }

    pub(super) fn forget(&mut self, inode: InodeId) {
        self.0.remove(&inode);
    }

    /// No cut took the name yet, because the network has or had one for who has it open here.
    pub(super) fn untake(&mut self, inode: InodeId) {
        if let Some((_, newest)) = self.0.get_mut(&inode) {
            *newest = 0;
        }
    }

    /// A batch says what the content is that a cut took before.
    pub(super) fn renew(&mut self, inode: InodeId, content: [u8; 32]) {
        if let Some((seen, _)) = self.0.get_mut(&inode) {
            seen.content = content;
        }
    }

    /// For a snapshot, in the order of their ids.
    pub(super) fn mutations(&self) -> Vec<Mutation> {
        let mut all: Vec<_> = self.0.iter().map(|(inode, (seen, cut))| (*inode, *seen, *cut)).collect();
        all.sort_unstable_by_key(|(inode, ..)| *inode);
        all.into_iter().map(|(inode, seen, cut)| Mutation::LastSeen { inode, seen, cut }).collect()
    }
}

impl Tree {
    /// What was known of a file when it last lost a name, if the network is still to hear of that.
    pub(crate) fn last_seen(&self, inode: InodeId) -> Option<LastSeen> {
        self.removed.0.get(&inode).map(|(seen, _)| *seen)
    }

    /// Notes that a file loses a name, which may be its last one: others may have taken the rest. It is as it was before.
    pub(super) fn note_lost_name(&mut self, inode: InodeId) {
        let Some(node) = self.node(inode).filter(|node| node.version > 0) else { return };
        let seen = LastSeen::of(node);
        self.removed.add(inode, seen, 0);
    }

    /// Notes that a cut takes a name of a file.
    pub(crate) fn note_name_taken(&mut self, inode: InodeId, cut: u64) {
        if let Some((_, newest)) = self.removed.0.get_mut(&inode) {
            *newest = cut;
            self.in_cut(cut).removed.push(inode);
        }
    }

    /// Takes back what the journal knows.
    pub(super) fn restore_removed(&mut self, inode: InodeId, seen: LastSeen, cut: u64) {
        self.removed.add(inode, seen, cut);
        if cut != 0 {
            self.in_cut(cut).removed.push(inode);
        }
    }

    /// The network has a cut: what it removed is of no interest any more, unless it has a name there for who has it open here.
    pub(super) fn forget_removed(&mut self, cut: u64) {
        let Some(in_cut) = self.in_cuts.get_mut(&cut) else { return };
        for inode in std::mem::take(&mut in_cut.removed) {
            let newest = self.removed.0.get(&inode).is_some_and(|(_, newest)| *newest == cut);
            match newest && self.parked.contains_key(&inode) {
                true => self.removed.untake(inode),
                false if newest => self.removed.forget(inode),
                false => {}
            }
        }
        if self.changed_names.is_empty() && self.parked.is_empty() && self.in_cuts.keys().all(|taken| *taken <= cut) {
            // Of what is left others have taken the names.
            self.removed = Removed::default();
        }
    }
}
