//! What is known of changes elsewhere: which rows are too old to be taken in, and which are to be asked for again.
//!
//! A load may bring rows from before a change that the feed has told of already. So every name and inode that news were
//! about is noted with the load that may begin next: rows of older loads are not taken in. Rows about what is changed here
//! are not taken in either, as local changes win; if they differ they are *missed*, and loaded again once the local change
//! is on the network or gone.

use super::{Slot, Tree};
use crate::Name;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use strewn_engine::bucket::Kind;
use strewn_engine::ids::InodeId;

/// What is known of changes elsewhere.
#[derive(Debug, Default)]
pub(crate) struct News {
    /// Names that news were about: loads with a smaller ticket bring older rows.
    names: HashMap<(InodeId, Name), u64>,
    /// The same for inodes.
    inodes: HashMap<InodeId, u64>,
    /// Loads with a smaller ticket may bring rows from before the feed was followed, of anything.
    unheard: u64,
    missed_names: BTreeSet<(InodeId, Name)>,
    missed_inodes: BTreeSet<InodeId>,
    missed_listings: BTreeSet<InodeId>,
    /// Names of directories that are known to be elsewhere now: what they name is not known.
    left: BTreeSet<(InodeId, Name)>,
    /// Names whose rows wait for something that is changed here.
    held_off: BTreeMap<(InodeId, Name), HeldOff>,
}

/// A row that has to wait.
#[derive(Debug)]
struct HeldOff {
    /// The directory that it names on the network.
    child: Option<InodeId>,
    waits: Waits,
}

/// What a row waits for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Waits {
    /// This directory is no longer moved here.
    ForMoveOf(InodeId),
    /// The network has the cuts of this file.
    ForCutOf(InodeId),
}

/// What is to be loaded again.
#[derive(Debug, Default)]
pub(crate) struct Missed {
    pub(crate) names: Vec<(InodeId, Vec<Name>)>,
    pub(crate) inodes: Vec<InodeId>,
    pub(crate) listings: Vec<InodeId>,
}

/// All that was missed, as an orderly close keeps it.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AllMissed {
    names: Vec<(InodeId, Name)>,
    inodes: Vec<InodeId>,
    listings: Vec<InodeId>,
}

impl AllMissed {
    /// How much it is.
    pub(crate) fn len(&self) -> usize {
        self.names.len() + self.inodes.len() + self.listings.len()
    }
}

impl Tree {
    /// Notes that a name changed elsewhere.
    pub(crate) fn note_name_news(&mut self, directory: InodeId, name: Name) {
        self.news.names.insert((directory, name), self.next_ticket);
    }

    /// Notes that an inode changed elsewhere.
    pub(crate) fn note_inode_news(&mut self, inode: InodeId) {
        self.news.inodes.insert(inode, self.next_ticket);
    }

    /// True if a load began before the latest news about a name.
    pub(crate) fn is_old_name(&self, ticket: u64, directory: InodeId, name: &Name) -> bool {
        let noted = || self.news.names.get(&(directory, name.clone()));
        ticket < self.news.unheard || (!self.news.names.is_empty() && noted().is_some_and(|noted| ticket < *noted))
    }

    /// True if a load began before the latest news about an inode.
    pub(crate) fn is_old_inode(&self, ticket: u64, inode: InodeId) -> bool {
        ticket < self.news.unheard || self.news.inodes.get(&inode).is_some_and(|noted| ticket < *noted)
    }

    /// True if a listing that began so early may lack a name.
    pub(crate) fn is_old_listing(&self, ticket: u64, directory: InodeId) -> bool {
        let mut noted = self.news.names.iter();
        ticket < self.news.unheard || noted.any(|((changed, _), noted)| *changed == directory && ticket < *noted)
    }

    /// Forgets news that no load under way is older than.
    pub(super) fn settle_news(&mut self, oldest_load: u64) {
        self.news.names.retain(|_, noted| oldest_load < *noted);
        self.news.inodes.retain(|_, noted| oldest_load < *noted);
    }

    /// Notes a name whose row was not taken in.
    pub(crate) fn miss_name(&mut self, directory: InodeId, name: Name) {
        self.news.missed_names.insert((directory, name));
    }

    /// True if others changed a name that was changed here as well.
    pub(super) fn is_missed(&self, directory: InodeId, name: &Name) -> bool {
        !self.news.missed_names.is_empty() && self.news.missed_names.contains(&(directory, name.clone()))
    }

    /// A directory has left a name, as its row under another one shows: what the name names now is to be asked.
    pub(super) fn leave_name(&mut self, directory: InodeId, name: Name) {
        // It was there a moment ago.
        let _ = self.set_slot(directory, &name, None);
        self.news.left.insert((directory, name.clone()));
        self.miss_name(directory, name);
    }

    /// What a name names is known again.
    pub(super) fn know_name(&mut self, directory: InodeId, name: &Name) {
        if !self.news.left.is_empty() {
            self.news.left.remove(&(directory, name.clone()));
        }
    }

    /// True of a name that a directory has left, as long as it was not asked what it names now.
    pub(super) fn is_left(&self, directory: InodeId, name: &Name) -> bool {
        !self.news.left.is_empty() && self.news.left.contains(&(directory, name.clone()))
    }

    /// Notes an inode whose row was not taken in.
    pub(crate) fn miss_inode(&mut self, inode: InodeId) {
        self.news.missed_inodes.insert(inode);
    }

    /// True if a row has to wait until what was moved here is on the network, or back: it names a directory that was moved
    /// here, or one that something was moved into that it would be in, or takes the name of such a directory.
    pub(super) fn is_held_off(
        &mut self,
        directory: InodeId,
        name: &Name,
        before: Option<InodeId>,
        after: Option<(InodeId, Kind)>,
    ) -> bool {
        let child = after.filter(|(_, kind)| *kind == Kind::Directory).map(|(child, _)| child);
        let place = (directory, name.clone());
        self.news.held_off.remove(&place);
        let moved = child.and_then(|child| self.moved_here(&place, child)).map(Waits::ForMoveOf);
        let waits = moved.or_else(|| {
            let takes_its_name = |held: &&HeldOff| before.is_some() && held.child == before;
            self.news.held_off.values().find(takes_its_name).map(|held| held.waits)
        });
        let Some(waits) = waits else { return false };
        self.hold_off(directory, name, child, waits);
        true
    }

    /// Lets the row of a name wait; `child` is the directory that it names, if it names one.
    pub(super) fn hold_off(&mut self, directory: InodeId, name: &Name, child: Option<InodeId>, waits: Waits) {
        self.news.held_off.insert((directory, name.clone()), HeldOff { child, waits });
        if self.entries_mut(directory).is_ok_and(|entries| entries.slot(name).is_none()) {
            // It was there a moment ago.
            let _ = self.set_slot(directory, name, None);
        }
    }

    /// What was moved here, if a directory cannot have a place because of that.
    fn moved_here(&self, place: &(InodeId, Name), child: InodeId) -> Option<InodeId> {
        let is_here = self.nodes.get(&child).is_some_and(|node| node.names.contains(place.0, &place.1));
        if !is_here && self.is_moved(child) {
            return Some(child);
        }
        let (mut at, mut moved, mut passed) = (place.0, None, BTreeSet::new());
        while at != child {
            if moved.is_none() && self.is_moved(at) {
                moved = Some(at);
            }
            if !passed.insert(at) {
                return None;
            }
            at = self.nodes.get(&at)?.names.first()?.0;
        }
        moved.or_else(|| self.is_moved(child).then_some(child))
    }

    /// True of a directory whose place here is not known to be on the network.
    pub(crate) fn is_moved(&self, inode: InodeId) -> bool {
        let Some(node) = self.nodes.get(&inode) else { return false };
        let slot = |directory, name| self.nodes.get(directory)?.directory.as_deref()?.slot(name);
        let is_here = |slot: &Slot| slot.is_local() && slot.child.is_some_and(|(child, _)| child == inode);
        node.names.iter().any(|(directory, name)| slot(directory, name).is_some_and(is_here))
    }

    /// True if a row does not have to wait any more.
    fn waits_no_more(&self, held: &HeldOff) -> bool {
        match held.waits {
            Waits::ForMoveOf(directory) => !self.is_moved(directory),
            Waits::ForCutOf(inode) => self.nodes.get(&inode).is_none_or(|node| node.cut == 0),
        }
    }

    /// Names of an inode that are not changed here may have changed on the network.
    pub(crate) fn doubt_names(&mut self, inode: InodeId) {
        let Some(node) = self.nodes.get(&inode).filter(|node| !node.is_directory()) else { return };
        self.news.missed_names.extend(node.names.iter().cloned());
    }

    /// Everything known may have changed, and so may what is being loaded: it is to be loaded again.
    pub(crate) fn miss_everything(&mut self) {
        self.news.unheard = self.next_ticket;
        let mut names = Vec::new();
        for (inode, node) in self.nodes.iter() {
            if node.version == 0 {
                continue;
            }
            self.news.missed_inodes.insert(*inode);
            let Some(entries) = node.directory.as_deref() else { continue };
            match entries.complete {
                true => drop(self.news.missed_listings.insert(*inode)),
                false => names.extend(entries.slots().map(|(name, _)| (*inode, name.clone()))),
            }
        }
        self.news.missed_names.extend(names);
    }

    /// Notes that a directory has to be listed again.
    pub(crate) fn miss_listing(&mut self, directory: InodeId) {
        self.news.missed_listings.insert(directory);
    }

    /// Takes out what was missed and can be taken in now. What is forgotten needs no loading.
    pub(crate) fn take_missed(&mut self) -> Missed {
        let listings = std::mem::take(&mut self.news.missed_listings);
        let listings = listings.into_iter().filter(|directory| self.nodes.contains_key(directory)).collect();
        self.news.left.retain(|(directory, _)| self.nodes.contains_key(directory));
        let mut missed = std::mem::take(&mut self.news.missed_names);
        let held_off = std::mem::take(&mut self.news.held_off);
        for (place, held) in held_off {
            match self.waits_no_more(&held) {
                true => drop(missed.insert(place)),
                false => drop(self.news.held_off.insert(place, held)),
            }
        }
        let mut names: Vec<(InodeId, Vec<Name>)> = Vec::new();
        for (directory, name) in missed {
            let slot = self.nodes.get(&directory).and_then(|node| node.directory.as_deref()?.slot(&name));
            match slot {
                None => {}
                Some(slot) if slot.is_local() => drop(self.news.missed_names.insert((directory, name))),
                Some(_) => match names.last_mut() {
                    Some((last, names)) if *last == directory => names.push(name),
                    _ => names.push((directory, vec![name])),
                },
            }
        }
        self.refresh_renamed();
        let missed = std::mem::take(&mut self.news.missed_inodes);
        let mut inodes = Vec::new();
        for inode in missed {
            match self.nodes.get(&inode) {
                None => {}
                Some(node) if node.is_local() => drop(self.news.missed_inodes.insert(inode)),
                Some(_) => inodes.push(inode),
            }
        }
        Missed { names, inodes, listings }
    }

    /// Names that came back to what they were leave their inodes marked as renamed: takes that back from what was missed.
    fn refresh_renamed(&mut self) {
        let marked = |inode: &InodeId| self.nodes.get(inode).is_some_and(|node| node.renamed && !node.is_put());
        if !self.news.missed_inodes.iter().any(marked) {
            return;
        }
        let mut renamed = BTreeSet::new();
        for (directory, name) in self.changed_names.values() {
            renamed.insert(*directory);
            renamed.extend(self.ends_of(*directory, name));
        }
        let restored: Vec<InodeId> =
            self.news.missed_inodes.iter().copied().filter(marked).filter(|inode| !renamed.contains(inode)).collect();
        for inode in restored {
            if let Some(node) = self.nodes.get_mut(&inode) {
                node.renamed = false;
            }
        }
    }

    /// All that was missed, whether it can be taken in now or not.
    pub(crate) fn missed(&self) -> AllMissed {
        let News { missed_names, missed_inodes, missed_listings, held_off, .. } = &self.news;
        AllMissed {
            names: missed_names.iter().chain(held_off.keys()).cloned().collect(),
            inodes: missed_inodes.iter().copied().collect(),
            listings: missed_listings.iter().copied().collect(),
        }
    }

    /// Notes again what was missed by the mount before this one.
    pub(crate) fn miss_again(&mut self, missed: AllMissed) {
        self.news.missed_names.extend(missed.names);
        self.news.missed_inodes.extend(missed.inodes);
        self.news.missed_listings.extend(missed.listings);
    }

    /// Puts back what [`take_missed`](Self::take_missed) took out and nobody loaded.
    pub(crate) fn put_back(&mut self, Missed { names, inodes, listings }: Missed) {
        let names = names.into_iter().flat_map(|(at, names)| names.into_iter().map(move |name| (at, name))).collect();
        self.miss_again(AllMissed { names, inodes, listings });
    }

    /// True if something was missed that can be taken in now.
    pub(crate) fn has_missed(&self) -> bool {
        let is_clean =
            |inode: &InodeId| self.nodes.get(inode).is_none_or(|node| !node.is_put() && node.cut == 0 && !node.orphan);
        let slot = |directory, name| self.nodes.get(directory).and_then(|node| node.directory.as_deref()?.slot(name));
        !self.news.missed_listings.is_empty()
            || self.news.held_off.values().any(|held| self.waits_no_more(held))
            || self.news.missed_inodes.iter().any(is_clean)
            || self.news.missed_names.iter().any(|(at, name)| slot(at, name).is_none_or(|slot| !slot.is_local()))
    }
}
