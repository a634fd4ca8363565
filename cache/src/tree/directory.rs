//! The names of one directory: what they name here, and what differs from the network.

use crate::Name;
use std::collections::BTreeMap;
use strewn_engine::bucket::Kind;
use strewn_engine::ids::InodeId;

/// One name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slot {
    /// What it names, with all local changes.
    pub(crate) child: Option<(InodeId, Kind)>,
    /// Place in listings; 0 while it names nothing.
    pub(crate) cookie: u64,
    /// What it names once the queued cuts are applied, and the order of becoming different; `None` if no different.
    pub(crate) base: Option<(Option<InodeId>, u64)>,
    /// The newest cut that sets it and that the network may not show yet; 0 for none.
    pub(crate) cut: u64,
}

impl Slot {
    /// True if a row of the network's says nothing about this name.
    pub(crate) fn is_local(&self) -> bool {
        self.base.is_some() || self.cut != 0
    }
}

/// The names of a directory.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    /// All that is known, names that name nothing included.
    slots: BTreeMap<Name, Slot>,
    /// Names that name something, by cookie.
    order: BTreeMap<u64, Name>,
    last_cookie: u64,
    /// A name that is not in `slots` certainly names nothing.
    pub(crate) complete: bool,
    /// Names asked for one by one since nothing was complete.
    pub(crate) misses: u32,
    /// Slots with a `base`.
    pub(crate) changed: usize,
}

impl Directory {
    /// An empty directory that exists only here: all its names are known.
    pub(crate) fn new_local() -> Self {
        Self { complete: true, ..Self::default() }
    }

    /// The slot of a name, if anything is known of it.
    pub(crate) fn slot(&self, name: &Name) -> Option<&Slot> {
        self.slots.get(name)
    }

    /// The slot of a name, to change all but `child`.
    pub(crate) fn slot_mut(&mut self, name: &Name) -> Option<&mut Slot> {
        self.slots.get_mut(name)
    }

    /// What a name names; `None` if that is not known.
    pub(crate) fn get(&self, name: &Name) -> Option<Option<(InodeId, Kind)>> {
        match self.slots.get(name) {
            Some(slot) => Some(slot.child),
            None => self.complete.then_some(None),
        }
    }

    /// Lets a name name something else; gives its slot.
    pub(crate) fn set(&mut self, name: &Name, child: Option<(InodeId, Kind)>) -> &mut Slot {
        let slot =
            self.slots.entry(name.clone()).or_insert_with(|| Slot { child: None, cookie: 0, base: None, cut: 0 });
        match (slot.child.is_some(), child.is_some()) {
            (false, true) => {
                self.last_cookie += 1;
                slot.cookie = self.last_cookie;
                self.order.insert(slot.cookie, name.clone());
            }
            (true, false) => {
                self.order.remove(&slot.cookie);
                slot.cookie = 0;
            }
            _ => {}
        }
        slot.child = child;
        slot
    }

    /// Forgets a name that the network knows as well as we do.
    pub(crate) fn forget(&mut self, name: &Name) {
        if let Some(slot) = self.slots.remove(name)
            && slot.cookie != 0
        {
            self.order.remove(&slot.cookie);
        }
    }

    /// Names that name something.
    pub(crate) fn live(&self) -> usize {
        self.order.len()
    }

    /// All slots, in the order of names.
    pub(crate) fn slots(&self) -> impl Iterator<Item = (&Name, &Slot)> {
        self.slots.iter()
    }

    /// Names that name something, after a cookie, in the order of arrival.
    pub(crate) fn after(&self, cookie: u64) -> impl Iterator<Item = (u64, &Name, (InodeId, Kind))> {
        let from = cookie.saturating_add(1);
        self.order.range(from..).filter_map(|(cookie, name)| {
            let child = self.slots.get(name)?.child?;
            Some((*cookie, name, child))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text.as_bytes()).expect("valid")
    }

    fn inode(n: u8) -> Option<(InodeId, Kind)> {
        Some((InodeId::from_bytes([n; 16]), Kind::File))
    }

    #[test]
    fn cookies_come_in_order_of_arrival_and_never_again() {
        let mut directory = Directory { complete: true, ..Directory::default() };
        directory.set(&name("b"), inode(1));
        directory.set(&name("a"), inode(2));
        directory.set(&name("b"), None);
        directory.set(&name("b"), inode(3));
        directory.set(&name("a"), inode(4));
        let seen: Vec<_> = directory.after(0).map(|(cookie, name, child)| (cookie, name.clone(), child)).collect();
        assert_eq!(seen, [(2, name("a"), inode(4).unwrap()), (3, name("b"), inode(3).unwrap())]);
        assert_eq!(directory.after(2).count(), 1);
        assert_eq!(directory.live(), 2);
    }

    #[test]
    fn only_a_complete_directory_knows_what_is_not_there() {
        let mut directory = Directory::default();
        assert_eq!(directory.get(&name("a")), None);
        directory.set(&name("a"), None);
        assert_eq!(directory.get(&name("a")), Some(None));
        directory.complete = true;
        assert_eq!(directory.get(&name("z")), Some(None));
    }
}
