//! Directories that were moved here and cannot be where they were moved to: others moved them elsewhere meanwhile, or moved
//! what they would be in into them. A directory has one place, so the move here is given up. What was done inside is done
//! inside of it wherever it is.

use super::way::{NameFound, OnTheWay};
use crate::Name;
use crate::shared::State;
use std::collections::{BTreeMap, BTreeSet};
use strewn_engine::bucket::{Kind, Operation, Refusal};
use strewn_engine::ids::InodeId;

/// Directories whose move here is given up.
#[derive(Debug, Default)]
pub(super) struct GivenUp(BTreeSet<InodeId>);

impl GivenUp {
    pub(super) fn contains(&self, inode: InodeId) -> bool {
        self.0.contains(&inode)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = InodeId> {
        self.0.iter().copied()
    }
}

impl OnTheWay {
    /// Adds names of directories that no cut has taken: whether a move on its way can stay may hang on them.
    pub(super) fn add_moves(&mut self, state: &State) {
        for (directory, name) in state.tree.changed_names.values() {
            let Some(slot) = state.tree.node(*directory).and_then(|node| node.directory.as_deref()?.slot(name)) else {
                continue;
            };
            let Some((expected, _)) = slot.base() else { continue };
            let is_directory = |inode: InodeId| state.tree.node(inode).is_some_and(|node| node.is_directory());
            if expected.is_some_and(is_directory) || slot.child.is_some_and(|(_, kind)| kind == Kind::Directory) {
                let place = (*directory, name.clone());
                self.names.entry(place).or_insert(NameFound { expected, found: None });
            }
        }
    }

    /// Which moves are given up. `in_circle`: the network says that this directory would be in itself where it was moved to.
    pub(super) fn given_up(&self, state: &State, in_circle: Option<(InodeId, InodeId, Name)>) -> GivenUp {
        let there: BTreeMap<InodeId, &(InodeId, Name)> =
            self.names.iter().filter_map(|(place, found)| Some((found.found.as_ref()?.inode, place))).collect();
        let mut given_up = BTreeSet::new();
        for (place, found) in &self.names {
            let Some(local) = state.tree.child_of(place.0, &place.1) else { continue };
            let found = found.found.as_ref().map(|adopt| adopt.inode);
            let is_directory = state.tree.node(local).is_some_and(|node| node.is_directory());
            let exists = self.inodes.get(&local).is_some_and(|found| found.row.is_some());
            if !is_directory || !exists || found == Some(local) {
                continue;
            }
            let circular = in_circle
                .as_ref()
                .is_some_and(|(circular, directory, name)| (*circular, *directory, name) == (local, place.0, &place.1));
            // Where the network has it now is a place that it is to leave; else somebody moved it.
            let leaves = |place: &&(InodeId, Name)| state.tree.child_of(place.0, &place.1) != Some(local);
            if circular || !there.get(&local).is_some_and(leaves) {
                given_up.insert(local);
            }
        }
        GivenUp(given_up)
    }
}

/// The directory that would be in itself, and the name that it was to get: what the network names where it refuses a circle.
pub(super) fn in_circle(state: &State, refused: &Operation, reason: &Refusal) -> Option<(InodeId, InodeId, Name)> {
    let (Operation::SetEntry(set), Refusal::Cycle) = (refused, reason) else { return None };
    let child = set.target.as_ref()?.child;
    // If it was moved on since, its newest place is to be tried first.
    let (directory, name) = state.tree.name_of(child)?;
    let key = state.tree.node(directory)?.key.clone();
    let encrypted = strewn_engine::keys::DirectoryKeys::new(&key).encrypt_name(directory, &name);
    (directory == set.parent && encrypted == set.name).then_some((child, directory, name))
}
