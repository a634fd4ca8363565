//! What comes back: files that were removed here while somebody else changed them, and the directories that they are in.

use super::way::{InodeFound, NameFound, OnTheWay};
use crate::Name;
use crate::record::{Adopt, Mutation, Rebase};
use crate::shared::State;
use crate::tree::LastSeen;
use std::collections::{BTreeMap, BTreeSet};
use strewn_engine::bucket::Inode;
use strewn_engine::ids::InodeId;

/// Inodes whose removal here gives way.
#[derive(Debug, Default)]
pub(super) struct Returning(BTreeSet<InodeId>);

impl Returning {
    pub(super) fn contains(&self, inode: InodeId) -> bool {
        self.0.contains(&inode)
    }
}

impl OnTheWay {
    /// Adds names that no cut has taken of files that cuts put and that are to go: what these make of a file is not what goes any
    /// more.
    pub(super) fn add_removals(&mut self, state: &State) {
        for (directory, name) in state.tree.changed_names.values() {
            let slot = state.tree.node(*directory).and_then(|node| node.directory.as_deref()?.slot(name));
            let expected = slot.and_then(|slot| slot.base()?.0);
            if expected.is_some_and(|file| self.inodes.contains_key(&file) && state.tree.last_seen(file).is_some()) {
                let place = (*directory, name.clone());
                self.names.entry(place).or_insert(NameFound { expected, found: None });
            }
        }
    }

    /// Which removals give way.
    pub(super) fn returning(&self, state: &State) -> Returning {
        let lost = self.lost_names(state);
        let is_last = |row: &Adopt| lost.get(&row.inode).is_some_and(|names| *names >= row.links);
        let files = self.removed(state).filter(|(_, row)| is_last(row) && self.is_changed_elsewhere(state, row));
        let (mut returning, mut needed) = (BTreeSet::new(), BTreeSet::new());
        for ((directory, _), row) in files {
            returning.insert(row.inode);
            needed.insert(*directory);
        }
        // A directory that was removed here as well, and the one that it was in.
        loop {
            let missing = self.removed(state).filter(|(_, row)| needed.contains(&row.inode));
            let above: Vec<_> =
                missing.filter(|(_, row)| returning.insert(row.inode)).map(|(place, _)| place.0).collect();
            if above.is_empty() {
                return Returning(returning);
            }
            needed.extend(above);
        }
    }

    /// What removed files are on the network, if that is no reason to keep them: so they are to be when they go.
    pub(super) fn last_seen(&self, state: &State) -> Vec<Mutation> {
        let files = self.removed(state).filter(|(_, row)| state.tree.last_seen(row.inode).is_some());
        let same = files.filter(|(_, row)| !self.is_changed_elsewhere(state, row));
        same.map(|(_, row)| LastSeen::of_row(row).mutation(row.inode)).collect()
    }

    /// Names on the way that still mean on the network what they do not mean here any more.
    fn removed(&self, state: &State) -> impl Iterator<Item = (&(InodeId, Name), &Adopt)> {
        let rows = self.names.iter().filter_map(|(place, found)| {
            let row = found.found.as_ref().filter(|row| found.expected == Some(row.inode))?;
            Some((place, row))
        });
        rows.filter(|((directory, name), row)| state.tree.child_of(*directory, name) != Some(row.inode))
    }

    /// True if an inode is not on the network, or a file that was written here goes from there with names that it lost here.
    pub(super) fn is_gone(&self, inode: InodeId, found: &InodeFound, lost: &BTreeMap<InodeId, u32>) -> bool {
        let goes = |row: &Inode| lost.get(&inode).is_some_and(|names| *names >= row.nlink);
        let written = found.changed && !found.has_foreign_content();
        found.row.as_ref().is_none_or(|row| written && goes(row))
    }

    /// A name that a file was known to have on the network.
    pub(super) fn name_before(&self, file: InodeId) -> Option<&Name> {
        self.names.iter().find(|(_, found)| found.expected == Some(file)).map(|((_, name), _)| name)
    }

    /// How many of the names that they have on the network files lose.
    pub(super) fn lost_names(&self, state: &State) -> BTreeMap<InodeId, u32> {
        let mut lost = BTreeMap::new();
        self.removed(state).for_each(|(_, row)| *lost.entry(row.inode).or_default() += 1);
        lost
    }

    /// True if somebody else gave a file other bytes than it had when its name went here.
    fn is_changed_elsewhere(&self, state: &State, row: &Adopt) -> bool {
        let Some(seen) = state.tree.last_seen(row.inode) else { return false };
        match self.inodes.get(&row.inode).filter(|found| !found.probe) {
            Some(found) => found.has_foreign_content(),
            None => seen.version != row.version && !seen.has_content_of(row),
        }
    }
}

/// What brings back a file under a name that it lost here, but for the name. If it is open here, what was written to it since is
/// no part of it.
pub(super) fn bring_back(state: &State, row: &Adopt) -> Vec<Mutation> {
    let (version, content) = (row.version, row.content);
    let rebase = Rebase { inode: row.inode, version, content, foreign: Some(row.attributes.size) };
    let open = state.tree.node(row.inode).map(|_| Mutation::Rebase(rebase));
    open.into_iter().chain(row.before_entry()).collect()
}
