//! What the loader brings in: rows of the network, opened. Local changes always win over them.

use super::news::Waits;
use super::{Node, Tree};
use crate::Name;
use crate::content::map::{Backing, Content};
use crate::record::{Adopt, Mutation};
use std::collections::HashSet;
use strewn_engine::ids::InodeId;

/// A row of a directory, opened.
#[derive(Debug, Clone)]
pub(crate) struct Loaded {
    /// The name.
    pub(crate) name: Name,
    /// What it names on the network.
    pub(crate) child: Option<Adopt>,
    /// What became of what it named here before.
    pub(crate) before: Before,
}

/// What became of what a name named before.
#[derive(Debug, Clone)]
pub(crate) enum Before {
    /// Nobody asked.
    Unknown,
    /// It is not on the network any more.
    Gone,
    /// It is still there, under another name, with this row.
    Elsewhere(Box<Adopt>),
}

/// What became of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It says nothing new, or what is changed here wins.
    Nothing,
    /// Something known changed by it.
    Changed,
    /// News say that it is too old.
    Old,
    /// It takes the name from something that is needed here: what became of that has to be asked first.
    Ask,
    /// It takes the name from something that is changed here, which has to be kept beside it.
    Clash,
}

/// What a listing under way has shown of the names that were known when it began. Of a directory that was never listed that
/// is next to nothing, however many names it has.
#[derive(Debug)]
pub(crate) struct Listing {
    /// The newest cookie at its begin.
    last: u64,
    /// Cookies of names that it has shown, up to `last`.
    seen: HashSet<u64>,
}

impl Listing {
    /// Begins one.
    pub(crate) fn begin(node: &Node) -> Self {
        Self { last: node.directory.as_deref().map_or(0, super::Directory::last_cookie), seen: HashSet::new() }
    }

    /// Notes what it showed, before that is taken in.
    pub(crate) fn saw(&mut self, tree: &Tree, directory: InodeId, shown: &[Loaded]) {
        let Some(entries) = tree.node(directory).and_then(|node| node.directory.as_deref()) else { return };
        let cookies = shown.iter().filter_map(|loaded| entries.cookie(&loaded.name));
        self.seen.extend(cookies.filter(|cookie| *cookie <= self.last));
    }
}

impl Tree {
    /// Takes in the root's row.
    pub(crate) fn insert_root(&mut self, adopt: &Adopt) {
        self.insert_node(adopt, u64::MAX);
    }

    /// Takes in what a name names on the network, as a load that began with `ticket` brought it. If that is not in memory, it
    /// comes there only if this is `roomy`: else it is as if it were forgotten at once.
    pub(crate) fn insert_entry(&mut self, directory: InodeId, loaded: &Loaded, ticket: u64, roomy: bool) -> Taken {
        let parked = loaded.child.as_ref().and_then(|adopt| self.parked.get(&adopt.inode));
        if directory == self.root && parked == Some(&loaded.name) {
            return Taken::Nothing;
        }
        let after = loaded.child.as_ref().map(|adopt| (adopt.inode, adopt.attributes.kind));
        let old_child = after.is_some_and(|(inode, _)| self.is_old_inode(ticket, inode));
        if old_child || self.is_old_name(ticket, directory, &loaded.name) {
            return Taken::Old;
        }
        let Some(entries) = self.nodes.get(&directory).and_then(|node| node.directory.as_deref()) else {
            return Taken::Nothing;
        };
        let known = entries.slot(&loaded.name).cloned();
        self.know_name(directory, &loaded.name);
        if let Some(slot) = known.as_ref().filter(|slot| slot.is_local()) {
            let (here, there) = (slot.child.map(|(child, _)| child), after.map(|(child, _)| child));
            if here != there {
                self.miss_name(directory, loaded.name.clone());
            } else if slot.cut() == 0 {
                // Somebody else did the same.
                self.set_base(directory, &loaded.name, there);
            }
            return Taken::Nothing;
        }
        let before = known.as_ref().and_then(|slot| slot.child).filter(|before| Some(*before) != after);
        if self.is_held_off(directory, &loaded.name, before.map(|(inode, _)| inode), after) {
            return Taken::Nothing;
        }
        match (before, &loaded.before) {
            (Some((inode, _)), Before::Unknown) if self.is_needed(inode) => return Taken::Ask,
            (Some((inode, _)), Before::Gone) if self.would_strand(directory, inode, loaded) => return Taken::Clash,
            (Some((inode, _)), Before::Elsewhere(adopt)) if !self.has_other_name(directory, inode, &loaded.name) => {
                if self.nodes.get(&inode).is_some_and(|node| node.cut != 0) {
                    // Perhaps names that went with the cut: how many are left is known when the network has it.
                    self.hold_off(directory, &loaded.name, None, Waits::ForCutOf(inode));
                    return Taken::Nothing;
                }
                if self.is_last(adopt) {
                    return Taken::Clash;
                }
            }
            _ => {}
        }
        let mut changed = known.is_some() && known.and_then(|slot| slot.child) != after;
        if let Some(adopt) = loaded.child.as_ref().filter(|adopt| roomy || self.nodes.contains_key(&adopt.inode)) {
            changed |= self.insert_node(adopt, ticket);
            self.attach(directory, &loaded.name, adopt.inode);
        }
        // It was there a moment ago.
        let _ = self.set_slot(directory, &loaded.name, after);
        if let Some((gone, _)) = before {
            self.detach(directory, &loaded.name, gone, matches!(loaded.before, Before::Elsewhere(_)));
        }
        if let Before::Elsewhere(adopt) = &loaded.before
            && self.nodes.contains_key(&adopt.inode)
        {
            // With the number of names that are left.
            self.insert_node(adopt, ticket);
        }
        if changed { Taken::Changed } else { Taken::Nothing }
    }

    /// True if what a name named before is changed here and would be left without a name that is known.
    fn would_strand(&self, directory: InodeId, inode: InodeId, loaded: &Loaded) -> bool {
        self.has_changes(inode) && !self.has_other_name(directory, inode, &loaded.name)
    }

    /// True if another name is known of what a name names.
    fn has_other_name(&self, directory: InodeId, inode: InodeId, name: &Name) -> bool {
        self.names_of(inode).any(|(at, known)| *at != directory || known != name)
    }

    /// True if all names were removed here that an inode has on the network.
    fn is_last(&self, adopt: &Adopt) -> bool {
        let Some(node) = self.nodes.get(&adopt.inode).filter(|node| node.renamed) else { return false };
        let names = if node.is_directory() { 1 } else { adopt.links };
        names.saturating_add_signed(self.changed_links(adopt.inode)) == 0
    }

    /// What a name names here, if taking the name away needs to know whether that was only moved.
    pub(crate) fn needed_behind(&self, directory: InodeId, name: &Name) -> Option<InodeId> {
        let slot = self.nodes.get(&directory)?.directory.as_deref()?.slot(name)?;
        let (inode, _) = slot.child.filter(|_| !slot.is_local())?;
        self.is_needed(inode).then_some(inode)
    }

    /// True if a node must not go with its name: it is in use, changed here, or has more names.
    fn is_needed(&self, inode: InodeId) -> bool {
        let has_more = |node: &Node| !node.is_directory() && (node.links > 1 || node.names.len() > 1);
        self.nodes.get(&inode).is_some_and(has_more) || self.is_in_use(inode)
    }

    /// True if a node, or one below it, is changed here or referred to.
    fn is_in_use(&self, inode: InodeId) -> bool {
        self.any_below(inode, |node| node.pins > 0 || node.is_local())
    }

    /// True if this holds of a node or one below it, or a name in one of them differs from the network.
    fn any_below(&self, inode: InodeId, holds: impl Fn(&Node) -> bool) -> bool {
        let (mut open, mut seen) = (vec![inode], HashSet::new());
        while let Some(inode) = open.pop() {
            let Some(node) = self.nodes.get(&inode) else { continue };
            if holds(node) {
                return true;
            }
            let Some(entries) = node.directory.as_deref().filter(|_| seen.insert(inode)) else { continue };
            for (name, slot) in entries.slots() {
                if slot.is_local() {
                    return true;
                }
                // A directory that others moved is named twice until all of that was heard, even by what it is in.
                open.extend(slot.child.map(|(child, _)| child).filter(|child| self.is_place(inode, name, *child)));
            }
        }
        false
    }

    /// True unless something else is known to be the place of a directory.
    fn is_place(&self, directory: InodeId, name: &Name, child: InodeId) -> bool {
        self.nodes.get(&child).is_some_and(|node| !node.is_directory() || node.names.contains(directory, name))
    }

    /// Ends a listing that began with `ticket`: what it did not show is not there. Names that have to be asked for one by one,
    /// because something behind them is needed here; `None` if the listing is too old to be believed.
    pub(crate) fn finish_listing(&mut self, directory: InodeId, listing: &Listing, ticket: u64) -> Option<Vec<Name>> {
        if self.is_old_listing(ticket, directory) {
            return None;
        }
        let entries = self.nodes.get(&directory).and_then(|node| node.directory.as_deref())?;
        let known = entries.after(0).take_while(|(cookie, ..)| *cookie <= listing.last);
        let vanished = known.filter(|(cookie, ..)| !listing.seen.contains(cookie)).map(|(_, name, _)| name);
        let is_clean = |name: &&Name| entries.slot(name).is_some_and(|slot| !slot.is_local());
        let gone: Vec<Name> = vanished.filter(is_clean).cloned().collect();
        let (needed, gone): (Vec<Name>, Vec<Name>) =
            gone.into_iter().partition(|name| self.needed_behind(directory, name).is_some());
        for name in gone {
            self.insert_entry(directory, &Loaded { name, child: None, before: Before::Unknown }, ticket, true);
        }
        if let Ok(entries) = self.entries_mut(directory) {
            entries.complete = true;
        }
        Some(needed)
    }

    /// Takes in an inode's row, as a load that began with `ticket` brought it. True if a known node changed by it.
    pub(crate) fn insert_node(&mut self, adopt: &Adopt, ticket: u64) -> bool {
        if self.is_old_inode(ticket, adopt.inode) {
            return false;
        }
        let links = self.links_here(adopt.inode, adopt.links);
        let Some(node) = self.nodes.get_mut(&adopt.inode) else {
            self.nodes.insert(adopt.inode, Node::known(adopt));
            self.recount_known(adopt.inode);
            self.attach_warm(adopt.inode);
            self.touch(adopt.inode);
            return false;
        };
        // What only names changed of here: a directory's count is for when they are on the network.
        let counts = node.cut == 0 && !(node.renamed && node.is_directory());
        let links = if counts { links } else { node.links };
        let other_links = links != node.links;
        // Names that change in a directory change its times, but no version.
        let later = node.is_directory() && adopt.attributes.mtime > node.attributes.mtime;
        let newer = adopt.version > node.version || (adopt.version == node.version && (other_links || later));
        if !newer {
            return false;
        }
        if node.is_put() || node.orphan {
            if node.is_put() && !node.orphan && !node.is_directory() && other_links {
                (node.links, node.journaled) = (links, false);
            }
            self.miss_inode(adopt.inode);
            return other_links;
        }
        let other_content = adopt.content != node.digest.hash;
        node.attributes = adopt.attributes.clone();
        (node.links, node.version, node.digest) = (links, adopt.version, adopt.digest());
        node.journaled = false;
        if node.is_local() {
            self.miss_inode(adopt.inode);
        }
        if other_content {
            self.renew_content(adopt.inode);
        }
        true
    }

    /// Something that was forgotten is known again: names of it that went here meanwhile are still counted by the network.
    fn recount_known(&mut self, inode: InodeId) {
        let is_linked = |node: &&Node| !node.is_directory() && node.links > 1;
        let Some(links) = self.nodes.get(&inode).filter(is_linked).map(|node| node.links) else { return };
        let pending = self.changed_links(inode);
        // Whether a cut took one of them is not known any more: it is asked again once the network has that.
        let cut = self.in_cuts.keys().next_back().copied();
        if let Some(node) = self.nodes.get_mut(&inode) {
            (node.links, node.renamed) = (links.saturating_add_signed(pending), pending != 0);
            node.cut = cut.unwrap_or(0);
        }
        if let Some(cut) = cut {
            self.in_cut(cut).inodes.push(inode);
            self.miss_inode(inode);
        }
    }

    /// How many names a file has here if the network has so many. What is shown has one, until it was heard what became of that.
    /// Of directories these are subdirectories, as the network has them.
    fn links_here(&self, inode: InodeId, links: u32) -> u32 {
        if self.nodes.get(&inode).is_some_and(Node::is_directory) {
            return links;
        }
        match links.saturating_add_signed(self.pending_links(inode)) {
            0 => u32::from(self.name_of(inode).is_some()),
            links => links,
        }
    }

    /// How many names a file has that is changed here, if the network has it like this.
    pub(crate) fn counted_links(&self, adopt: &Adopt) -> Option<Mutation> {
        let inode = adopt.inode;
        self.nodes.get(&inode).filter(|node| node.is_local() && !node.is_directory())?;
        Some(Mutation::Links { inode, links: self.links_here(inode, adopt.links) })
    }

    /// How many more names a file has here than on the network.
    fn pending_links(&self, inode: InodeId) -> i32 {
        let renamed = self.nodes.get(&inode).is_some_and(|node| node.renamed && !node.is_directory());
        if renamed { self.changed_links(inode) } else { 0 }
    }

    pub(super) fn changed_links(&self, inode: InodeId) -> i32 {
        let names = self.changed_names.values().filter_map(|(directory, name)| {
            let slot = self.nodes.get(directory)?.directory.as_deref()?.slot(name)?;
            Some((slot.child, slot.base()?.0))
        });
        let mut pending = 0;
        for (child, base) in names {
            pending += i32::from(child.is_some_and(|(child, _)| child == inode)) - i32::from(base == Some(inode));
        }
        pending
    }

    /// How many names files have that cuts were taken apart for, where that is not what they count: `rows` has the network's
    /// numbers.
    pub(crate) fn recount_links(&self, rows: impl Iterator<Item = (InodeId, u32)>) -> Vec<Mutation> {
        let recounted = rows.filter_map(|(inode, links)| {
            let links = self.links_here(inode, links);
            let node = self.nodes.get(&inode).filter(|node| !node.is_directory() && node.links != links);
            node.map(|_| Mutation::Links { inode, links })
        });
        recounted.collect()
    }

    /// Forgets a clean file's content: the network has another one.
    pub(crate) fn renew_content(&mut self, inode: InodeId) {
        let Some(content) = self.nodes.get_mut(&inode).and_then(|node| node.content.as_deref_mut()) else { return };
        let fresh =
            Content { batches: content.batches.wrapping_add(1), guard: content.guard.clone(), ..Content::new_remote() };
        let old = std::mem::replace(content, fresh);
        match &old.backing {
            Backing::Memory(bytes) => self.memory_bytes -= bytes.len() as u64,
            Backing::File => self.abandoned.push((inode, old.generation)),
        }
    }

    /// Notes a name of an inode. A directory has one place: it leaves the one that it had before.
    pub(super) fn attach(&mut self, directory: InodeId, name: &Name, inode: InodeId) {
        if let Some(place) = self.place(directory, name, inode) {
            self.leave(inode, place);
        }
    }

    /// Notes a name of an inode; gives the place that a directory had before, where its name still is.
    pub(super) fn place(&mut self, directory: InodeId, name: &Name, inode: InodeId) -> Option<(InodeId, Name)> {
        let node = self.nodes.get_mut(&inode)?;
        if node.is_directory() {
            node.elsewhere = false;
            return node.names.replace(directory, name);
        }
        node.names.add(directory, name);
        None
    }

    /// A directory is somewhere else now: if the network's name of it is still here, it goes.
    pub(super) fn leave(&mut self, inode: InodeId, (directory, name): (InodeId, Name)) {
        let slot = self.nodes.get(&directory).and_then(|node| node.directory.as_deref()?.slot(&name));
        let is_left = |slot: &super::Slot| !slot.is_local() && slot.child.is_some_and(|(child, _)| child == inode);
        if slot.is_some_and(is_left) {
            self.leave_name(directory, name);
        }
    }

    /// A name went on the network: the node goes too, unless something here still needs it or it is `elsewhere`.
    fn detach(&mut self, directory: InodeId, name: &Name, inode: InodeId, elsewhere: bool) {
        let Some(node) = self.nodes.get_mut(&inode) else { return };
        let was_here = node.names.remove(directory, name);
        let was_elsewhere = node.is_directory() && !was_here;
        node.elsewhere |= elsewhere && node.is_directory() && node.names.is_empty();
        if node.is_local() {
            // How many names are left is asked when it is not changed here any more.
            self.miss_inode(inode);
            return;
        }
        if !node.is_directory() && !elsewhere {
            node.journaled = false;
            node.links = node.links.saturating_sub(1).max(u32::try_from(node.names.len()).unwrap_or(u32::MAX));
            // Still open here: it goes on without a name, as if it had been removed here.
            node.orphan = node.links == 0 && node.pins > 0;
        }
        if node.names.is_empty() && !was_elsewhere && !self.is_in_use(inode) {
            self.conflicts.forget(inode);
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
            self.detach(inode, &name, child, false);
        }
        if self.nodes.get(&inode).is_some_and(|node| !node.is_local()) {
            self.drop_node(inode);
        }
    }

    /// True if something in a node, or below it, waits for the network.
    pub(crate) fn has_changes(&self, inode: InodeId) -> bool {
        self.any_below(inode, |node| node.dirty.is_some() || node.cut != 0)
    }
}
