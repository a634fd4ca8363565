//! Which of the pending changes go into the next cut, where they are more than a batch holds: after a crash between cuts, or a
//! conflict, which makes names pending in any order.
//!
//! Changes of one inode never come apart (a move is two names). A directory that the network does not have goes with the first of
//! its names, and one that is removed goes after all of its names. Else older changes go first.

use super::limits::Weight;
use crate::tree::Tree;
use std::collections::{HashMap, HashSet};
use strewn_engine::ids::InodeId;

struct Choice<'t> {
    tree: &'t Tree,
    /// Changed names by what they name here or on the network.
    names_of: HashMap<InodeId, Vec<u64>>,
    /// How many changed names of a directory are not chosen.
    left_in: HashMap<InodeId, usize>,
    orders: HashSet<u64>,
    inodes: HashSet<InodeId>,
    weight: Weight,
}

impl Tree {
    /// The changes that go into the next cut: orders of names, and inodes, each in the order of becoming different.
    pub(super) fn choose(&self) -> (Vec<u64>, Vec<InodeId>) {
        if self.weight().fits() {
            return (self.changed_names.keys().copied().collect(), self.changed_inodes.values().copied().collect());
        }
        let mut choice = Choice::new(self);
        choice.take_names(false);
        if choice.orders.is_empty() {
            // A directory waits for a name in it that waits for the directory.
            choice.take_names(true);
        }
        if choice.orders.is_empty() {
            choice.take_inodes();
        }
        choice.sorted()
    }
}

impl<'t> Choice<'t> {
    fn new(tree: &'t Tree) -> Self {
        let (mut names_of, mut left_in) = (HashMap::<InodeId, Vec<u64>>::new(), HashMap::new());
        for (order, (directory, name)) in &tree.changed_names {
            *left_in.entry(*directory).or_default() += 1;
            for inode in tree.ends_of(*directory, name) {
                names_of.entry(inode).or_default().push(*order);
            }
        }
        Self { tree, names_of, left_in, orders: HashSet::new(), inodes: HashSet::new(), weight: Weight::default() }
    }

    /// Takes names, with all that belongs to them, until it is enough. If `all`, removals of directories too that names are still
    /// to go from.
    fn take_names(&mut self, all: bool) {
        let tree = self.tree;
        for (order, (directory, name)) in &tree.changed_names {
            if self.weight.is_enough() {
                return;
            }
            let is_emptied = |inode: InodeId| {
                let goes = tree.node(inode).is_some_and(|node| node.is_directory() && node.names.is_empty());
                goes && self.left_in.get(&inode).is_some_and(|left| *left > 0)
            };
            if all || !tree.ends_of(*directory, name).any(is_emptied) {
                self.take_with_inodes(*order);
            }
        }
    }

    /// Takes a name, and the inodes that it names here and on the network with all their names.
    fn take_with_inodes(&mut self, order: u64) {
        let mut queue = Vec::new();
        self.take_name(order, &mut queue);
        while let Some(inode) = queue.pop() {
            if self.tree.node(inode).is_some_and(|node| node.dirty.is_some()) {
                if !self.inodes.insert(inode) {
                    continue;
                }
                self.tree.add_weight(&mut self.weight, inode);
            }
            for order in self.names_of.remove(&inode).into_iter().flatten() {
                self.take_name(order, &mut queue);
            }
        }
    }

    fn take_name(&mut self, order: u64, queue: &mut Vec<InodeId>) {
        let Some((directory, name)) = self.tree.changed_names.get(&order) else { return };
        if self.orders.insert(order) {
            self.weight.add_name();
            self.left_in.entry(*directory).and_modify(|left| *left -= 1);
        }
        queue.extend(self.tree.ends_of(*directory, name));
        if self.tree.node(*directory).is_some_and(|node| node.version == 0) {
            queue.push(*directory);
        }
    }

    /// Takes inodes of which no name changed.
    fn take_inodes(&mut self) {
        for inode in self.tree.changed_inodes.values() {
            if self.weight.is_enough() {
                return;
            }
            self.inodes.insert(*inode);
            self.tree.add_weight(&mut self.weight, *inode);
        }
    }

    fn sorted(self) -> (Vec<u64>, Vec<InodeId>) {
        let mut orders: Vec<u64> = self.orders.into_iter().collect();
        orders.sort_unstable();
        let mut inodes: Vec<InodeId> = self.inodes.into_iter().collect();
        inodes.sort_unstable_by_key(|inode| self.tree.node(*inode).and_then(|node| node.dirty));
        (orders, inodes)
    }
}
