//! The pending state as a list of mutations, and back: what a snapshot of the journal holds.

use super::{Misfit, Node, Tree};
use crate::content::map::{Backing, Fill};
use crate::record::{Adopt, Mutation, NodeState};
use bytes::Bytes;
use std::collections::HashSet;
use strewn_engine::ids::InodeId;

impl Tree {
    /// Everything the network does not have, parents first, with the nodes it refers to. From here on the journal knows these
    /// nodes and no others. `created` are the inodes that batches on their way create.
    pub(crate) fn pending_state(&mut self, created: &HashSet<InodeId>) -> Vec<Mutation> {
        let mut wanted = HashSet::from([self.root]);
        let mut names = Vec::new();
        for (inode, node) in self.nodes.iter() {
            let exposed = node.content.as_deref().is_some_and(|content| content.exposed);
            if (node.is_local() || exposed) && !node.orphan {
                wanted.insert(*inode);
            }
            let Some(entries) = node.directory.as_deref() else { continue };
            for (name, slot) in entries.slots().filter(|(_, slot)| slot.is_local()) {
                let child = slot.child.map(|(child, _)| child);
                wanted.insert(*inode);
                wanted.extend(child);
                let base = slot.base().map(|(base, order)| (order, base));
                names.push((*inode, name.clone(), child, base, slot.cut()));
            }
        }
        let mut ordered = Vec::with_capacity(wanted.len());
        let mut seen = HashSet::new();
        for inode in wanted {
            self.parents_first(inode, &mut seen, &mut ordered);
        }
        // Old changes first, as they were: the order decides what goes into a cut together.
        let age = |inode: &InodeId| self.nodes.get(inode).and_then(|node| node.dirty);
        let (directories, mut files): (Vec<InodeId>, Vec<InodeId>) =
            ordered.into_iter().partition(|inode| self.nodes.get(inode).is_some_and(Node::is_directory));
        files.sort_by_key(age);
        for node in self.nodes.values_mut() {
            node.journaled = false;
        }
        let mut mutations = Vec::with_capacity(directories.len() + files.len() + names.len());
        mutations.extend(self.parked.iter().map(|(inode, name)| Mutation::Park { inode: *inode, name: name.clone() }));
        for inode in directories.into_iter().chain(files) {
            let Some(adopt) = self.adopt_of(inode) else { continue };
            if let Some(node) = self.nodes.get_mut(&inode) {
                node.journaled = true;
                let state = state_of(adopt, node, created.contains(&inode));
                let counted = state.adopt.counted();
                let base = node.base.clone().map(|attributes| Mutation::Base { inode, attributes });
                mutations.push(Mutation::Node(Box::new(state)));
                mutations.extend(counted.into_iter().chain(base));
                mutations.extend(self.all_held(inode));
                mutations.extend(self.exposure(inode));
            }
        }
        mutations.extend(self.removed.mutations());
        names.sort_by_key(|(_, _, _, base, _)| base.map_or(0, |(order, _)| order));
        mutations.extend(names.into_iter().map(|(directory, name, child, base, cut)| Mutation::Name {
            directory,
            name,
            child,
            base: base.map(|(_, base)| base),
            cut,
        }));
        mutations.extend(self.conflicts.iter().map(|conflict| Mutation::Conflict(Box::new(conflict.clone()))));
        mutations
    }

    fn parents_first(&self, inode: InodeId, seen: &mut HashSet<InodeId>, ordered: &mut Vec<InodeId>) {
        let mut chain = Vec::new();
        let mut next = Some(inode);
        while let Some(inode) = next.take()
            && self.nodes.contains_key(&inode)
            && seen.insert(inode)
        {
            chain.push(inode);
            next = self.name_of(inode).map(|(parent, _)| parent);
        }
        ordered.extend(chain.into_iter().rev());
    }

    /// Takes back a node of a snapshot. Its bytes are the caller's to put into place.
    pub(crate) fn restore_node(&mut self, state: &NodeState) -> Result<(), Misfit> {
        let inode = state.adopt.inode;
        self.adopt(&state.adopt)?;
        let node = self.nodes.get_mut(&inode).ok_or(Misfit("a node of the snapshot"))?;
        (node.cut, node.put) = (state.cut, state.cut);
        // Its name, if it has one that is known, follows.
        node.elsewhere = node.is_directory() && state.adopt.version > 0 && state.adopt.name.is_none();
        if let Some(directory) = node.directory.as_deref_mut() {
            directory.complete = state.complete;
        }
        let mut bytes = 0;
        if let Some(content) = node.content.as_deref_mut() {
            content.generation = state.generation;
            content.inlined = state.inlined;
            content.local = state.local;
            if state.local {
                content.tags = Some(Default::default());
            }
            for (start, end, hole) in state.ranges.iter().filter(|(start, end, _)| start < end) {
                let fill = if *hole { Fill::Hole } else { Fill::Data };
                content.dirty.insert(*start..*end, fill);
                if !hole {
                    content.present.insert(*start..*end);
                }
            }
            bytes = content.dirty_bytes();
        }
        if state.dirty && !node.orphan {
            self.dirty_bytes += bytes;
            self.mark_dirty(inode);
        }
        if state.cut != 0 {
            self.in_cut(state.cut).inodes.push(inode);
        }
        Ok(())
    }

    /// Takes back a name of a snapshot.
    pub(crate) fn restore_name(
        &mut self,
        directory: InodeId,
        name: &crate::Name,
        child: Option<InodeId>,
        base: Option<Option<InodeId>>,
        cut: u64,
    ) -> Result<(), Misfit> {
        let child = match child {
            Some(inode) => Some((inode, self.nodes.get(&inode).ok_or(Misfit("a name of the snapshot"))?.kind())),
            None => None,
        };
        self.set_slot(directory, name, child)?;
        self.entries_mut(directory)?.set_cut(name, cut);
        if let Some(base) = base {
            self.set_base(directory, name, base);
            self.note_change();
            for inode in [Some(directory), base, child.map(|(inode, _)| inode)].into_iter().flatten() {
                if let Some(node) = self.nodes.get_mut(&inode) {
                    node.renamed = true;
                }
            }
        }
        if let Some((inode, _)) = child {
            self.attach(directory, name, inode);
        }
        if cut != 0 {
            self.in_cut(cut).names.push((directory, name.clone()));
        }
        Ok(())
    }
}

fn state_of(adopt: Adopt, node: &Node, created: bool) -> NodeState {
    let mut state = NodeState {
        adopt,
        dirty: node.dirty.is_some(),
        cut: node.cut,
        // A listing that is complete because it was loaded is loaded again; one that was made here has nothing to load.
        complete: node.directory.as_ref().is_some_and(|names| names.complete) && (node.version == 0 || created),
        local: false,
        inlined: None,
        generation: 0,
        ranges: Vec::new(),
        bytes: Vec::new(),
    };
    let Some(content) = node.content.as_deref() else { return state };
    (state.local, state.inlined, state.generation) = (content.local, content.inlined, content.generation);
    // Nothing is frozen when a snapshot is taken.
    state.ranges = content.dirty.iter().map(|(range, fill)| (range.start, range.end, *fill == Fill::Hole)).collect();
    if let Backing::Memory(bytes) = &content.backing {
        let data = state.ranges.iter().filter(|(_, _, hole)| !hole);
        let piece = |(start, end, _): &(u64, u64, bool)| {
            let part = bytes.get(*start as usize..*end as usize)?;
            Some((*start, Bytes::copy_from_slice(part)))
        };
        state.bytes = data.filter_map(piece).collect();
    }
    state
}
